//! The attacks: what each one changes, what it does to a driver that trusts, and what a driver that does not must answer.
//!
//! Ids are those of the project's attack list, which is longer; gaps in the numbers are attacks that are not built yet.
//! Rows are in the order of their numbers.

use serde::Serialize;

use self::Class::{Disclosure, Liveness, MemorySafety, Protocol};
use self::Verdict::{Accepted, Broken, Dropped, NoEffect, Refused, TimedOut};

/// One attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Attack {
    /// Its number, `A` and digits, perhaps a letter.
    pub id: &'static str,
    /// Its name: surface, part, what is done to it.
    pub name: &'static str,
    /// Where it strikes.
    pub surface: Surface,
    /// What a driver that falls for it loses.
    pub class: Class,
    /// Ring layouts that have this surface.
    pub layouts: &'static [&'static str],
    /// When it strikes.
    pub timing: Timing,
    /// What is changed.
    pub what: &'static str,
    /// What a driver does that trusts its device.
    pub naive: &'static str,
    /// What a driver that trusts nothing may answer: one verdict, except for attacks that race.
    pub expected: &'static [Verdict],
    /// The defences it probes: C01 write-only descriptors, C02 private indices and free list, C04 used window, C05 id
    /// range at full width, C06 outstanding head taken once, C07 one load per decision, C08 length within what was
    /// posted, C09 bounded work, C10 deadlines, C11 latch, C12 header copied out, C13 payload copied out, C20 header
    /// rules, C23 suppression is advisory, C26 strict framing, C29 epochs, C32 private direction, C34 private unwinding.
    pub check: &'static str,
    /// Where such a thing was found before.
    pub reference: &'static str,
    /// Whether it strikes from a thread of its own while the driver works.
    pub racing: bool,
}

/// Where an attack strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Surface {
    /// The descriptor table, which the driver owns.
    Descriptor,
    /// The available ring, which the driver owns.
    Available,
    /// The used ring, which the device owns: lies about completions.
    Used,
    /// The bytes of buffers.
    Buffer,
    /// All of the shared memory.
    Memory,
    /// Calls.
    Notify,
    /// The vhost-user socket.
    Channel,
}

impl Surface {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Descriptor => "descriptor",
            Self::Available => "available",
            Self::Used => "used",
            Self::Buffer => "buffer",
            Self::Memory => "memory",
            Self::Notify => "notify",
            Self::Channel => "channel",
        }
    }
}

/// What a driver that falls for an attack loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Its memory: it writes, frees or reuses what it must not.
    MemorySafety,
    /// Its secrets, or those of an earlier packet.
    Disclosure,
    /// Its progress.
    Liveness,
    /// Its idea of where the conversation is.
    Protocol,
    /// Its configuration.
    Control,
}

impl Class {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MemorySafety => "memory-safety",
            Self::Disclosure => "disclosure",
            Self::Liveness => "liveness",
            Self::Protocol => "protocol",
            Self::Control => "control",
        }
    }
}

/// When an attack strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Timing {
    /// Before the rings run.
    Setup,
    /// When chains were made available and not taken.
    Post,
    /// Between the used elements and their index.
    Complete,
    /// When the index is published.
    PostUse,
    /// When there is nothing to do.
    Idle,
    /// When rings stop.
    Teardown,
    /// All the time, from another thread.
    Racing,
    /// At a message of the vhost-user session.
    Channel,
}

/// How a driver came through an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing happened.
    NoEffect,
    /// A packet was dropped and counted.
    Dropped,
    /// The driver used a bound of its own.
    Clamped,
    /// The device was latched as broken, with a typed reason.
    Broken,
    /// A wait ended at its deadline.
    TimedOut,
    /// The device was refused.
    Refused,
    /// It cannot be told from honest behaviour, and is harmless by construction.
    Accepted,
}

impl Verdict {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoEffect => "no-effect",
            Self::Dropped => "dropped",
            Self::Clamped => "clamped",
            Self::Broken => "broken",
            Self::TimedOut => "timed-out",
            Self::Refused => "refused",
            Self::Accepted => "accepted",
        }
    }
}

/// Every attack that is built, in the order of the numbers.
pub const CATALOGUE: [Attack; 27] = [
    Attack {
        what: "the address of a completed buffer becomes that of another buffer that is in flight",
        naive: "unmaps by the address in the table: device bytes are copied over another private buffer, the right mapping leaks",
        check: "C01,C32",
        reference: "Linux 'Do not read from descriptor ring' (2021); 'swiotlb: Validate bounce size in the sync/unmap path' (2021)",
        ..descriptor("A01", "split.desc.addr")
    },
    Attack {
        what: "the length of a completed buffer grows, up to 4 GiB",
        naive: "copies or frees as many bytes as the table says, past the end of the private buffer",
        check: "C01",
        reference: "'swiotlb: Validate bounce size in the sync/unmap path' (2021); MigTD pull request 799",
        ..descriptor("A02", "split.desc.len_grow")
    },
    Attack {
        what: "the length of a completed buffer shrinks, down to 0",
        naive: "unmaps a part of the mapping: the rest leaks, and the packet is cut short",
        check: "C01",
        reference: "Linux 'Do not read from descriptor ring' (2021)",
        ..descriptor("A03", "split.desc.len_shrink")
    },
    Attack {
        what: "a completed chain goes on in a descriptor that does not exist",
        naive: "follows it: the head of the free list points outside the table, and the next buffer is written there",
        check: "C01,C02",
        reference: "DPDK virtqueue.h, vq_ring_free_chain",
        ..descriptor("A04", "split.desc.next_oob")
    },
    Attack {
        what: "a completed chain goes on in a chain that is in flight",
        naive: "frees descriptors that are in flight, gives them out again, and unmaps their buffers twice",
        check: "C01",
        reference: "Linux virtio_ring before 5.14, detach_buf_split",
        ..descriptor("A05", "split.desc.next_inflight")
    },
    Attack {
        what: "a completed chain goes round in a circle",
        naive: "walks it for ever",
        check: "C01,C09",
        reference: "Linux virtio_ring before 5.14, detach_buf_split",
        ..descriptor("A06", "split.desc.next_cycle")
    },
    Attack {
        what: "the last descriptor of a completed chain gets the flag NEXT, with its old next",
        naive: "frees one descriptor too many; Linux still reads this flag back when it detaches",
        check: "C01",
        reference: "Linux virtio_ring, detach_buf_split: desc[i].flags & VRING_DESC_F_NEXT",
        ..descriptor("A07", "split.desc.flag_next_set")
    },
    Attack {
        what: "every descriptor of the table gets the flag NEXT",
        naive: "walks the whole table, in flight or not, round and round",
        check: "C01",
        reference: "Linux virtio_ring, detach_buf_split",
        ..descriptor("A08", "split.desc.flag_next_all")
    },
    Attack {
        what: "the first descriptor of a completed chain of two or more loses the flag NEXT",
        naive: "frees one descriptor; the others leak until the ring is exhausted",
        check: "C01",
        reference: "Linux virtio_ring, detach_buf_split and BUG at teardown",
        ..descriptor("A08b", "split.desc.flag_next_clear")
    },
    Attack {
        what: "the direction of a completed buffer is flipped, and bytes are written into a buffer that the device may only read",
        naive: "takes the direction from the table: device bytes are copied back over data that was to be sent",
        check: "C01,C32",
        reference: "Linux 'Do not read from descriptor ring' (2021)",
        ..descriptor("A10", "split.desc.flag_write_flip")
    },
    Attack {
        timing: Timing::Racing,
        what: "addresses, lengths and directions of descriptors that are not in flight change all the time, so also while an add fails half-way",
        naive: "unwinds a failed add by what stands in the table, and unmaps addresses of the device's choice",
        check: "C34",
        reference: "Linux 'Do not read from descriptor ring' (2021), patch 4",
        racing: true,
        ..descriptor("A12", "split.desc.unwind_race")
    },
    Attack {
        surface: Surface::Available,
        class: Protocol,
        timing: Timing::PostUse,
        what: "avail.idx is overwritten after a burst and put right before the device looks at it",
        naive: "increments the shared word in place, and publishes entries that it never filled",
        check: "C02",
        reference: "drivers with avail->idx++ on shared memory, for example of small kernels",
        ..descriptor("A15", "split.avail.idx")
    },
    Attack {
        what: "used.idx jumps further than there are chains outstanding",
        naive: "takes up to 65535 stale used elements",
        check: "C04",
        reference: "Linux virtqueue_get_buf_ctx_split checks the id only",
        ..used("A18", "split.used.idx_jump")
    },
    Attack {
        what: "a used id is no descriptor of the queue",
        naive: "reads and writes outside of its arrays, and may call through what it finds there",
        check: "C05",
        reference: "Zephyr 113343, OSv 1450, RT-Thread 11327",
        ..used("A23", "split.used.id_oob")
    },
    Attack {
        what: "a used id is a valid one plus a multiple of 0x10000",
        naive: "cuts it to 16 bits and accepts it",
        check: "C05",
        reference: "DPDK, rcore and MigTD cast the id to 16 bits",
        ..used("A24", "split.used.id_trunc")
    },
    Attack {
        what: "a used id is that of a descriptor in the middle of the chain",
        naive: "frees a part of the chain",
        check: "C06",
        reference: "DPDK virtqueue.h, vq_ring_free_chain",
        ..used("A25", "split.used.id_midchain")
    },
    Attack {
        what: "a used id is that of a descriptor that is not outstanding",
        naive: "completes a request that nobody made: a null or stale cookie",
        check: "C06",
        reference: "Linux 'id %u is not a head!' (BAD_RING); drivers without that check",
        ..used("A26", "split.used.id_free")
    },
    Attack {
        what: "the same chain is completed twice in one batch",
        naive: "frees it twice, or delivers it twice",
        check: "C06",
        reference: "double free in drivers that do not clear their cookie",
        ..used("A27", "split.used.id_dup")
    },
    Attack {
        what: "a used length is more than was posted: by 1, by 65536, or 0xffffffff",
        naive: "reads or copies past the end of the buffer",
        check: "C08",
        reference: "Linux 939779f5152d, 'virtio_ring: validate used buffer length'",
        ..used("A31", "split.used.len_over")
    },
    Attack {
        class: Disclosure,
        expected: &[Dropped],
        what: "the used length of a received frame is 0",
        naive: "parses what an earlier frame left in the buffer",
        check: "C08,C12",
        reference: "CVE-2026-46123",
        ..used("A35", "split.used.len_zero")
    },
    Attack {
        expected: &[Dropped],
        what: "the used length of a received frame is less than the headers need",
        naive: "subtracts the header from the length, and copies nearly 4 GiB",
        check: "C20",
        reference: "RT-Thread virtio_net_rx",
        ..used("A36", "split.used.len_short_hdr")
    },
    Attack {
        timing: Timing::Racing,
        // It touches no payload: a frame that comes back changed is harm.
        expected: &[NoEffect, Dropped, Broken],
        what: "a used element flips between the honest one and a bogus one while the driver reads it",
        naive: "checks one value and uses the other",
        check: "C07",
        reference: "double fetch, as XSA-155",
        racing: true,
        ..used("A39", "split.used.toctou")
    },
    Attack {
        surface: Surface::Buffer,
        timing: Timing::Racing,
        expected: &[Accepted],
        what: "a frame keeps changing behind its net and Ethernet headers after it was completed",
        naive: "parses in place: what it checks is not what it uses",
        check: "C12,C13",
        reference: "double fetch, as XSA-155; zero-copy receive paths",
        racing: true,
        ..used("A41", "split.used.premature")
    },
    Attack {
        surface: Surface::Memory,
        timing: Timing::Racing,
        expected: &[NoEffect, Dropped, Broken, Accepted],
        what: "random words are written all over the shared memory, all the time",
        naive: "anything that can be stepped on is",
        check: "all",
        reference: "VIA (ACSAC 2021), which fuzzes drivers of protected virtual machines through their shared memory",
        racing: true,
        ..used("A101", "shm.scribble_all")
    },
    Attack {
        id: "A104",
        name: "notify.lost",
        surface: Surface::Notify,
        class: Liveness,
        layouts: &["split"],
        timing: Timing::PostUse,
        what: "the driver is never called",
        naive: "waits for ever for what is already there",
        expected: &[NoEffect],
        check: "C10,C23",
        reference: "Linux BAD_RING stalls; netfront and blkfront with a lost event",
        racing: false,
    },
    Attack {
        timing: Timing::Channel,
        expected: &[TimedOut],
        what: "a reply never comes, stops after a few bytes, or comes a byte every 10 ms",
        naive: "waits for ever in read",
        check: "C10,C26",
        reference: "vhost crate Frontend and Linux UML have no deadline",
        ..channel("A110", "vu.reply.partial")
    },
    Attack {
        timing: Timing::Channel,
        expected: &[Refused],
        what: "the connection closes at some step of the set-up",
        naive: "leaks what it had set up, or uses it",
        check: "C11,C29",
        reference: "vhost-user reconnect bugs in QEMU and DPDK",
        ..channel("A119", "vu.disconnect")
    },
];

/// A row about the descriptor table.
const fn descriptor(id: &'static str, name: &'static str) -> Attack {
    Attack {
        id,
        name,
        surface: Surface::Descriptor,
        class: MemorySafety,
        layouts: &["split"],
        timing: Timing::Complete,
        what: "",
        naive: "",
        expected: &[NoEffect],
        check: "",
        reference: "",
        racing: false,
    }
}

/// A row about completions.
const fn used(id: &'static str, name: &'static str) -> Attack {
    Attack { surface: Surface::Used, expected: &[Broken], ..descriptor(id, name) }
}

/// A row about the vhost-user session.
const fn channel(id: &'static str, name: &'static str) -> Attack {
    Attack { surface: Surface::Channel, class: Protocol, ..descriptor(id, name) }
}

/// The attack with this id or name, in any case.
#[must_use]
pub fn find(id_or_name: &str) -> Option<&'static Attack> {
    let wanted = id_or_name.trim();
    CATALOGUE.iter().find(|attack| attack.id.eq_ignore_ascii_case(wanted) || attack.name.eq_ignore_ascii_case(wanted))
}

/// Ids or names that `given` may have meant, best first, at most three. Never empty.
#[must_use]
pub fn near_matches(given: &str) -> Vec<&'static str> {
    let given = given.trim().trim_matches('*').to_ascii_lowercase();
    let mut names: Vec<_> = CATALOGUE
        .iter()
        .flat_map(|attack| [attack.id, attack.name])
        .map(|name| (strangeness(&given, name), name))
        .collect();
    names.sort_by_key(|(strangeness, _)| *strangeness);
    names.into_iter().take(3).map(|(_, name)| name).collect()
}

/// How unlike two names are: their edit distance, less for a name that begins with or contains what was given.
fn strangeness(given: &str, name: &str) -> usize {
    let name = name.to_ascii_lowercase();
    let distance = edit_distance(given, &name);
    if !given.is_empty() && name.starts_with(given) {
        distance.checked_div(4).unwrap_or(0)
    } else if given.len() > 2 && name.contains(given) {
        distance.checked_div(2).unwrap_or(0)
    } else {
        distance
    }
}

/// Characters to insert, delete or exchange to make one name the other.
fn edit_distance(one: &str, two: &str) -> usize {
    let mut row: Vec<usize> = (0..=two.len()).collect();
    for (done, from) in one.bytes().enumerate() {
        let mut left_above = done;
        let mut left = done.saturating_add(1);
        for (cell, to) in row.iter_mut().skip(1).zip(two.bytes()) {
            let exchanged = left_above.saturating_add(usize::from(from != to));
            left_above = *cell;
            left = exchanged.min(left.saturating_add(1)).min(left_above.saturating_add(1));
            *cell = left;
        }
        if let Some(first) = row.first_mut() {
            *first = done.saturating_add(1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(id: &str) -> (u32, String) {
        let digits: String = id.chars().skip(1).take_while(char::is_ascii_digit).collect();
        (digits.parse().unwrap(), id[1 + digits.len()..].to_owned())
    }

    #[test]
    fn ids_are_unique_and_in_order_and_names_are_unique() {
        for pair in CATALOGUE.windows(2) {
            assert!(number(pair[0].id) < number(pair[1].id), "{} {}", pair[0].id, pair[1].id);
        }
        let names: std::collections::BTreeSet<_> = CATALOGUE.iter().map(|attack| attack.name).collect();
        assert_eq!(names.len(), CATALOGUE.len());
    }

    #[test]
    fn rows_are_complete() {
        for attack in &CATALOGUE {
            let Attack { id, name, what, naive, check, reference, layouts, .. } = attack;
            assert!([*what, *naive, *check, *reference].iter().all(|text| !text.is_empty()), "{id}");
            assert!(id.starts_with('A') && name.contains('.') && !layouts.is_empty(), "{id}");
            assert!(!what.ends_with('.') && !naive.ends_with('.'), "{id}: half sentences, put together by the report");
        }
    }

    #[test]
    fn only_attacks_that_race_declare_a_set_of_verdicts() {
        for attack in &CATALOGUE {
            assert!(attack.expected.len() == 1 || (attack.racing && !attack.expected.is_empty()), "{}", attack.id);
            assert_eq!(attack.racing, attack.timing == Timing::Racing, "{}", attack.id);
            assert_eq!(attack.timing == Timing::Channel, attack.surface == Surface::Channel, "{}", attack.id);
            assert!(attack.expected.is_sorted(), "{}", attack.id);
        }
    }

    /// The answers that the driver of this project promises.
    #[test]
    fn expected_verdicts_are_those_of_the_contract() {
        let expected = |id: &str| find(id).unwrap().expected;
        for id in ["A01", "A02", "A03", "A04", "A05", "A06", "A07", "A08", "A08b", "A10", "A12", "A15", "A104"] {
            assert_eq!(expected(id), [NoEffect], "{id}");
        }
        for id in ["A18", "A23", "A24", "A25", "A26", "A27", "A31"] {
            assert_eq!(expected(id), [Broken], "{id}");
        }
        assert_eq!((expected("A35"), expected("A36")), (&[Dropped][..], &[Dropped][..]));
        assert_eq!(
            (expected("A41"), expected("A110"), expected("A119")),
            (&[Accepted][..], &[TimedOut][..], &[Refused][..])
        );
        assert_eq!(expected("A39"), [NoEffect, Dropped, Broken], "a used element holds no payload");
    }

    #[test]
    fn attacks_are_found_by_id_and_name_in_any_case() {
        assert_eq!(find("a08B").unwrap().id, "A08b");
        assert_eq!(find(" Split.Used.TOCTOU ").unwrap().id, "A39");
        assert_eq!(find("A9"), None);
        assert_eq!(find(""), None);
    }

    #[test]
    fn a_slip_of_the_pen_is_answered_with_what_was_meant() {
        assert_eq!(near_matches("split.used.tocto")[0], "split.used.toctou");
        assert_eq!(near_matches("split.usd.id_oob")[0], "split.used.id_oob");
        assert!(near_matches("A08c").contains(&"A08b"));
        assert!(near_matches("toctou").contains(&"split.used.toctou"));
        assert!(near_matches("*").len() == 3);
    }

    #[test]
    fn names_in_json_are_those_of_reports() {
        for attack in &CATALOGUE {
            let json = serde_json::to_value(attack).unwrap();
            assert_eq!(json["class"], attack.class.name());
            assert_eq!(json["surface"], attack.surface.name());
            assert_eq!(json["expected"][0], attack.expected[0].name());
        }
    }
}
