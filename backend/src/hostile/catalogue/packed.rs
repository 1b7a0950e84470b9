//! Completions in order, and the slots and event areas of the packed ring.

use super::Class::{Disclosure, Liveness, Protocol};
use super::Verdict::{Accepted, Broken, Dropped, NoEffect};
use super::{Attack, Axes, PACKED, SPLIT, Timing, descriptor, used};

pub(super) const ROWS: [Attack; 28] = [
    Attack {
        what: "with completions in order, a completion names the chain that the one before it had named",
        naive: "completes everything that is out, looking for it",
        check: "C33",
        reference: "Linux virtio_ring in-order support (2025), which looks for the id among all that is out",
        ..in_order("A44", "inorder.id_unexpected")
    },
    Attack {
        layouts: &[SPLIT],
        what: "the one completion of a batch names a chain that is out, but further away than the index counts",
        naive: "completes everything up to there, buffers among it that the device has not looked at",
        check: "C33",
        reference: "virtio 1.3, 2.7.9",
        ..in_order("A44b", "inorder.batch_ahead")
    },
    Attack {
        what: "with completions in order, a batch ends at an id that does not exist",
        naive: "completes everything that is out, with full lengths, or loops for ever",
        check: "C33,C09",
        reference: "DPDK virtio_rxtx.c, in-order cleanup: while (curr_id != id)",
        ..in_order("A45", "inorder.batch_bogus")
    },
    Attack {
        class: Protocol,
        expected: &[Accepted],
        what: "with completions in order, one completion stands for a burst of received frames, so that no lengths are said",
        naive: "reports the full length of buffers that were written in part",
        check: "C33,C14",
        reference: "virtio 1.3, 2.7.9: skipped buffers count as used in full",
        ..in_order("A46", "inorder.len_of_skipped")
    },
    Attack {
        class: Disclosure,
        expected: &[Accepted],
        what: "a buffer is used up in full and nothing was written into it; its slot says what the driver had written there itself",
        naive: "delivers what an earlier packet left in the buffer",
        check: "C13,C14",
        reference: "packed rings of all drivers: a used slot repeats what the driver wrote",
        ..slot("A47", "packed.flags_fake_used")
    },
    Attack {
        expected: &[NoEffect],
        timing: Timing::PostUse,
        what: "slots behind the last one that was posted say that they are used",
        naive: "goes on behind what it has posted, and completes requests that nobody made",
        check: "C22",
        reference: "virtio 1.3, 2.8.21.3: the walk of the example driver ends at a slot that is not used",
        ..slot("A48", "packed.flags_fake_ring")
    },
    Attack {
        class: Protocol,
        expected: &[NoEffect],
        what: "a burst is published with the flags of the other round, or with flags that are not equal, and put right later",
        naive: "looks at one of the two flags only, and takes what is not there yet",
        check: "C22",
        reference: "virtio 1.3, 2.8.1: both flags and the wrap counter make a slot used",
        ..slot("A49", "packed.flags_wrap_wrong")
    },
    Attack {
        what: "a used slot has an id that no chain of the queue can have",
        naive: "reads and writes outside of its arrays",
        check: "C05",
        reference: "rust-vmm virtio-driver 0.6.1 indexes by the id of a used slot",
        ..slot("A50", "packed.id_oob")
    },
    Attack {
        // What comes after it is a matter of where the two sides look from then on.
        expected: &[Dropped, Broken, Accepted],
        what: "a used slot has the id of another chain that is out and takes another number of slots",
        naive: "goes on by the flags in the ring, and looks for completions where there are none",
        check: "C22",
        reference: "virtio 1.3, 2.8.6: drivers have to remember how many slots an id stands for",
        axes: Axes::PLAIN,
        ..slot("A51", "packed.id_other_len")
    },
    Attack {
        what: "a used slot has the id of a chain that is not out",
        naive: "completes a request that nobody made",
        check: "C06",
        reference: "Linux 'id %u is not a head!' (BAD_RING); drivers without that check",
        ..slot("A52", "packed.id_free")
    },
    Attack {
        what: "two used slots of one burst have the same id",
        naive: "frees the chain twice, or delivers it twice",
        check: "C06",
        reference: "double free in drivers that do not clear their cookie",
        ..slot("A52b", "packed.id_dup")
    },
    Attack {
        class: Protocol,
        axes: Axes::PLAIN,
        expected: &[NoEffect],
        what: "the first two chains of a burst are completed in the opposite order, which is lawful",
        naive: "counts on an order that nobody negotiated",
        check: "none: a positive control for C06",
        reference: "virtio 1.3, 2.8.6: buffers may be used in any order",
        ..slot("A52c", "packed.id_swap")
    },
    Attack {
        class: Protocol,
        expected: &[NoEffect],
        what: "slots in the middle of a completed chain say that they are used, by other ids",
        naive: "walks the chain by its slots, and takes an id on the way for one to complete",
        check: "C22",
        reference: "alioth (2025) walks packed chains by the flags in the ring",
        axes: Axes::PLAIN,
        ..slot("A53", "packed.id_from_middle")
    },
    Attack {
        what: "the length in a used slot is more than was posted: by 1, by 65536, or 0xffffffff",
        naive: "reads or copies past the end of the buffer",
        check: "C08",
        reference: "Linux 939779f5152d, 'virtio_ring: validate used buffer length'",
        ..slot("A54", "packed.len_over")
    },
    Attack {
        class: Disclosure,
        expected: &[Dropped],
        what: "the length in the used slot of a received frame is 0",
        naive: "parses what an earlier frame left in the buffer",
        check: "C08,C12",
        reference: "CVE-2026-46123",
        ..slot("A54b", "packed.len_zero")
    },
    Attack {
        expected: &[Dropped],
        what: "the length in the used slot of a received frame is less than the headers need",
        naive: "subtracts the header from the length, and copies nearly 4 GiB",
        check: "C20",
        reference: "RT-Thread virtio_net_rx",
        ..slot("A54c", "packed.len_short_hdr")
    },
    Attack {
        class: Protocol,
        expected: &[NoEffect],
        what: "the completion of a frame that was sent has a length",
        naive: "believes that something was written",
        check: "C08: counted, and of no effect",
        reference: "vhost-vsock and rpmsg did this honestly",
        ..slot("A54d", "packed.len_tx")
    },
    Attack {
        class: Disclosure,
        expected: &[Accepted],
        what: "the length in a used slot is more than was written, within what was posted",
        naive: "delivers what earlier packets have left in the buffer",
        check: "C14",
        reference: "virtio 1.3, 2.8.11: a driver must not rely on what is behind the length",
        ..slot("A54e", "packed.len_overclaim")
    },
    Attack {
        class: Protocol,
        expected: &[Accepted],
        what: "the length in a used slot is less than was written",
        naive: "looks at bytes behind the length",
        check: "C13",
        reference: "virtio 1.3, 2.8.11",
        ..slot("A54f", "packed.len_underclaim")
    },
    Attack {
        timing: Timing::Racing,
        expected: &[NoEffect, Dropped, Broken],
        what: "a used slot flips between the honest one and a bogus one while the driver reads it",
        naive: "checks one value and uses the other",
        check: "C07",
        reference: "double fetch, as XSA-155",
        racing: true,
        ..slot("A55", "packed.torn")
    },
    Attack {
        what: "the address in a slot of a completed chain becomes that of a buffer in flight",
        naive: "unmaps by the address in the ring: device bytes are copied over another private buffer",
        check: "C01,C32",
        reference: "Linux 'Do not read from descriptor ring' (2021)",
        ..descriptor_slot("A56", "packed.desc.addr")
    },
    Attack {
        what: "length, direction or link of a slot behind the first one of a completed chain change",
        naive: "unmaps by what stands there: too much, in the wrong direction, or further slots",
        check: "C01,C32",
        reference: "Linux 'Do not read from descriptor ring' (2021)",
        axes: Axes::PLAIN,
        ..descriptor_slot("A56b", "packed.desc.rest")
    },
    Attack {
        class: Protocol,
        what: "a used slot has flags that mean something in an available slot only: NEXT, INDIRECT, or another direction",
        naive: "takes them for those that it wrote: goes on into further slots, or frees a table that never was",
        check: "C01,C22",
        reference: "virtio 1.3, 2.8.7 and 2.8.8: such flags are reserved in used slots",
        ..descriptor_slot("A56c", "packed.used.flags")
    },
    Attack {
        class: Protocol,
        what: "the length in the slot of an indirect chain, which a used slot overwrites, is that of a longer table",
        naive: "counts the entries of the table by it, and unmaps what is behind the table",
        check: "C03",
        reference: "Linux keeps the length in desc_extra for this reason",
        axes: Axes::ONLY_INDIRECT,
        ..descriptor_slot("A57", "packed.indirect_len")
    },
    Attack {
        what: "entries of the indirect table of a completed chain change: an address becomes that of a buffer in flight, a length grows, a direction flips",
        naive: "unmaps by the table, which it believes to be read-only for the device",
        check: "C03",
        reference: "Linux virtio_ring after 5.14 still unmaps indirect descriptors by the shared table",
        axes: Axes::ONLY_INDIRECT,
        ..descriptor_slot("A57b", "packed.indirect.rewrite")
    },
    Attack {
        class: Liveness,
        timing: Timing::PostUse,
        what: "the driver's event area holds something else after a burst",
        naive: "reads back when it wanted to be called, and is never called again",
        check: "C02",
        reference: "the event areas are ordinary shared memory",
        axes: Axes::EVENT_IDX,
        ..descriptor_slot("A58", "packed.driver_event_overwrite")
    },
    Attack {
        class: Liveness,
        timing: Timing::PostUse,
        expected: &[NoEffect],
        what: "the device's event area has flags that do not exist, slots beyond the ring, or the wrong round",
        naive: "never kicks again, or computes with a slot that is not there",
        check: "C23",
        reference: "Linux virtqueue_kick_prepare_packed: event_idx -= num, unchecked",
        axes: Axes::EVENT_IDX,
        ..slot("A59", "packed.device_event_bad")
    },
    Attack {
        timing: Timing::Setup,
        expected: &[NoEffect],
        what: "when the ring starts, slots that were never posted say that they are used",
        naive: "takes marks of an earlier life for completions",
        check: "C29,C22",
        reference: "queue resets over memory that both sides write",
        ..slot("A60", "packed.reset_stale")
    },
];

/// A row about completions in order, of both layouts.
const fn in_order(id: &'static str, name: &'static str) -> Attack {
    Attack { layouts: &[SPLIT, PACKED], axes: Axes::ONLY_IN_ORDER, ..used(id, name) }
}

/// A row about used slots.
const fn slot(id: &'static str, name: &'static str) -> Attack {
    Attack { layouts: &[PACKED], ..used(id, name) }
}

/// A row about what drivers write into slots and tables.
const fn descriptor_slot(id: &'static str, name: &'static str) -> Attack {
    Attack { layouts: &[PACKED], ..descriptor(id, name) }
}
