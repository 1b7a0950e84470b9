//! The attacks: what each one changes, what it does to a driver that trusts, and what a driver that does not must answer.
//!
//! Ids are those of the project's attack list, A01 to A125 with variants; entries that are not run stand in [`ABSENT`],
//! each with its reason. Rows are in the order of their numbers, in a file for each part of the device that they strike.

mod absent;
mod channel;
mod combined;
mod completions;
mod control;
#[cfg(test)]
mod coverage;
mod descriptors;
mod memory;
mod net;
mod packed;

use std::sync::LazyLock;

use serde::Serialize;

pub use self::absent::{ABSENT, Absent, find_absent};

use self::Class::{MemorySafety, Protocol};
use self::Verdict::{Broken, NoEffect};

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
    /// In which configurations it is run.
    pub axes: Axes,
    /// What is changed.
    pub what: &'static str,
    /// What a driver does that trusts its device.
    pub naive: &'static str,
    /// What a driver that trusts nothing may answer: one verdict, except for attacks whose outcome hangs on what comes first.
    pub expected: &'static [Verdict],
    /// The defences it probes, by their numbers in THREAT_MODEL.md: C01 and so on.
    pub check: &'static str,
    /// Where such a thing was found before.
    pub reference: &'static str,
    /// Whether it strikes from a thread of its own while the driver works.
    pub racing: bool,
}

/// The features of a ring that make a difference to an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Axes {
    /// `VIRTIO_F_INDIRECT_DESC`, and chains that go by tables.
    pub indirect: Axis,
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_idx: Axis,
    /// `VIRTIO_F_IN_ORDER`.
    pub in_order: Axis,
}

/// With which values of a feature an attack is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Axis {
    /// Only without it: it makes no difference, or there is nothing to strike with it.
    Off,
    /// Only with it.
    On,
    /// With and without it.
    Both,
}

impl Axes {
    const PLAIN: Self = Self { indirect: Axis::Off, event_idx: Axis::Off, in_order: Axis::Off };
    const INDIRECT: Self = Self { indirect: Axis::Both, ..Self::PLAIN };
    const ONLY_INDIRECT: Self = Self { indirect: Axis::On, ..Self::PLAIN };
    const IN_ORDER: Self = Self { in_order: Axis::Both, ..Self::PLAIN };
    const ONLY_IN_ORDER: Self = Self { in_order: Axis::On, ..Self::PLAIN };
    const EVENT_IDX: Self = Self { event_idx: Axis::Both, ..Self::PLAIN };
    const ONLY_EVENT_IDX: Self = Self { event_idx: Axis::On, ..Self::PLAIN };
}

impl Axis {
    /// The values.
    #[must_use]
    pub const fn values(self) -> &'static [bool] {
        match self {
            Self::Off => &[false],
            Self::On => &[true],
            Self::Both => &[false, true],
        }
    }
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
    /// The net header before a received frame.
    Header,
    /// The bytes of buffers.
    Buffer,
    /// All of the shared memory, through a mapping of it.
    Memory,
    /// The files that the shared memory is, and what was said about where they are.
    File,
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
            Self::Header => "header",
            Self::Buffer => "buffer",
            Self::Memory => "memory",
            Self::File => "file",
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
pub static CATALOGUE: LazyLock<Vec<Attack>> = LazyLock::new(|| {
    let surfaces: [&[Attack]; 8] = [
        &descriptors::ROWS,
        &completions::ROWS,
        &packed::ROWS,
        &net::ROWS,
        &control::ROWS,
        &memory::ROWS,
        &channel::ROWS,
        &combined::ROWS,
    ];
    surfaces.concat()
});

/// A row about the descriptor table.
const fn descriptor(id: &'static str, name: &'static str) -> Attack {
    Attack {
        id,
        name,
        surface: Surface::Descriptor,
        class: MemorySafety,
        layouts: &[SPLIT],
        timing: Timing::Complete,
        axes: Axes::INDIRECT,
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
    Attack { surface: Surface::Used, expected: &[Broken], axes: Axes::IN_ORDER, ..descriptor(id, name) }
}

/// A row about net headers and frames.
const fn header(id: &'static str, name: &'static str) -> Attack {
    Attack {
        surface: Surface::Header,
        layouts: &[SPLIT, PACKED],
        axes: Axes::PLAIN,
        expected: &[Verdict::Dropped],
        ..descriptor(id, name)
    }
}

/// A row about notifications.
const fn notify(id: &'static str, name: &'static str) -> Attack {
    Attack { surface: Surface::Notify, layouts: &[SPLIT, PACKED], axes: Axes::EVENT_IDX, ..descriptor(id, name) }
}

/// A row about the vhost-user session.
const fn channel(id: &'static str, name: &'static str) -> Attack {
    Attack {
        surface: Surface::Channel,
        class: Protocol,
        layouts: &[SPLIT, PACKED],
        timing: Timing::Channel,
        axes: Axes::PLAIN,
        ..descriptor(id, name)
    }
}

/// The layouts, as rows name them.
pub(super) const SPLIT: &str = "split";
pub(super) const PACKED: &str = "packed";

/// The attack with this id or name, in any case.
#[must_use]
pub fn find(id_or_name: &str) -> Option<&'static Attack> {
    let wanted = id_or_name.trim();
    CATALOGUE.iter().find(|attack| attack.id.eq_ignore_ascii_case(wanted) || attack.name.eq_ignore_ascii_case(wanted))
}

/// Ids or names that `given` may have meant, best first, at most three. Never empty.
#[must_use]
pub fn near_matches(given: &str) -> Vec<&'static str> {
    nearest(given, CATALOGUE.iter().flat_map(|attack| [attack.id, attack.name]))
}

/// Those of `names` that are most like what was given, best first, at most three.
#[must_use]
pub fn nearest<'n>(given: &str, names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
    let given = given.trim().trim_matches('*').to_ascii_lowercase();
    let mut names: Vec<_> = names.into_iter().map(|name| (strangeness(&given, name), name)).collect();
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
    use super::Verdict::{Accepted, Dropped, Refused, TimedOut};
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

    /// Every number of the list is either run or said not to be, and none is both.
    #[test]
    fn no_number_is_left_out() {
        let run = CATALOGUE.iter().map(|attack| attack.id);
        let ids: Vec<_> = run.chain(ABSENT.iter().map(|absent| absent.id)).collect();
        for wanted in 1..=125 {
            assert!(ids.iter().any(|id| number(id).0 == wanted), "A{wanted}");
        }
        let unique: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len());
        assert!(ABSENT.windows(2).all(|pair| number(pair[0].id) < number(pair[1].id)));
        assert_eq!(find_absent("A84").map(|absent| absent.joins_with), Some(None));
    }

    #[test]
    fn rows_are_complete() {
        for attack in CATALOGUE.iter() {
            let Attack { id, name, what, naive, check, reference, layouts, .. } = attack;
            assert!([*what, *naive, *check, *reference].iter().all(|text| !text.is_empty()), "{id}");
            assert!(id.starts_with('A') && name.contains('.') && !layouts.is_empty(), "{id}");
            assert!(!what.ends_with('.') && !naive.ends_with('.'), "{id}: half sentences, put together by the report");
        }
    }

    #[test]
    fn only_attacks_that_race_declare_a_set_of_verdicts() {
        for attack in CATALOGUE.iter() {
            // A40 and A51 leave the two sides looking at different places.
            let open = attack.racing || ["A40", "A51"].contains(&attack.id);
            assert!(attack.expected.len() == 1 || (open && !attack.expected.is_empty()), "{}", attack.id);
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
        for id in ["A09", "A48", "A49", "A53", "A56", "A56b", "A56c", "A57", "A57b", "A58", "A59", "A60", "A106"] {
            assert_eq!(expected(id), [NoEffect], "{id}");
        }
        for id in ["A44", "A45", "A50", "A52", "A52b", "A54", "A105"] {
            assert_eq!(expected(id), [Broken], "{id}");
        }
        assert_eq!((expected("A46"), expected("A47")), (&[Accepted][..], &[Accepted][..]));
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
        for attack in CATALOGUE.iter() {
            let json = serde_json::to_value(attack).unwrap();
            assert_eq!(json["class"], attack.class.name());
            assert_eq!(json["surface"], attack.surface.name());
            assert_eq!(json["expected"][0], attack.expected[0].name());
        }
    }
}
