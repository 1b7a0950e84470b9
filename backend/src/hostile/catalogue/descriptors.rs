//! Stores into the descriptor table, indirect tables and the available ring, which the driver owns.

use super::Class::Protocol;
use super::{Attack, Axes, PACKED, SPLIT, Surface, Timing, descriptor};

pub(super) const ROWS: [Attack; 20] = [
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
        axes: Axes::PLAIN,
        ..descriptor("A08b", "split.desc.flag_next_clear")
    },
    Attack {
        what: "entries of the indirect table of a completed chain change: an address becomes that of a buffer in flight, a length grows, a direction flips",
        naive: "unmaps by the table, which it believes to be read-only for the device",
        check: "C03",
        reference: "Linux virtio_ring after 5.14 still unmaps indirect descriptors by the shared table; 'Do not read from descriptor ring' argues that it is mapped to the device only",
        axes: Axes::ONLY_INDIRECT,
        ..descriptor("A09", "split.indirect.rewrite")
    },
    Attack {
        what: "the direction of a completed buffer is flipped, and bytes are written into a buffer that the device may only read",
        naive: "takes the direction from the table: device bytes are copied back over data that was to be sent",
        check: "C01,C32",
        reference: "Linux 'Do not read from descriptor ring' (2021)",
        ..descriptor("A10", "split.desc.flag_write_flip")
    },
    Attack {
        axes: Axes::PLAIN,
        what: "a completed chain that was posted without a table says that it has one",
        naive: "frees or unmaps what the address points to as if it were its table, or stops at an assertion",
        check: "C01",
        reference: "Linux virtio_ring before 5.14: BUG_ON in detach_buf_split",
        ..descriptor("A11", "split.desc.flag_indirect_set")
    },
    Attack {
        timing: Timing::Racing,
        what: "addresses, lengths and directions of descriptors that are not in flight change all the time, so also while an add fails half-way",
        naive: "unwinds a failed add by what stands in the table, and unmaps addresses of the device's choice",
        check: "C34",
        reference: "Linux 'Do not read from descriptor ring' (2021), patch 4",
        racing: true,
        layouts: &[SPLIT, PACKED],
        ..descriptor("A12", "split.desc.unwind_race")
    },
    Attack {
        class: Protocol,
        timing: Timing::Idle,
        axes: Axes::PLAIN,
        layouts: &[SPLIT, PACKED],
        what: "while the device has nothing to do, all descriptors change, in flight or not, and are put right at its next look",
        naive: "goes by what stands there at that moment when it frees, unmaps or posts",
        check: "C01,C32",
        reference: "virtio 1.3, 2.7.5: a device must not write to the descriptor table",
        ..descriptor("A12b", "split.desc.while_idle")
    },
    Attack {
        class: Protocol,
        timing: Timing::Setup,
        axes: Axes::PLAIN,
        layouts: &[SPLIT, PACKED],
        what: "when a ring starts, all descriptors change, and are put right at the first look of the device",
        naive: "builds its free list, or its first chains, on what it finds in the table",
        check: "C01,C02",
        reference: "drivers that link their free descriptors in the shared table when they make it",
        ..descriptor("A12c", "split.desc.at_start")
    },
    Attack {
        class: Protocol,
        timing: Timing::Racing,
        axes: Axes::PLAIN,
        racing: true,
        what: "flags of descriptors that the driver is about to post change all the time",
        naive: "reads its own flags back to change one of them, and keeps what the device has put there",
        check: "C01",
        reference: "virtio-driver, the crate of libblkio, clears NEXT in shared memory",
        ..descriptor("A13", "split.desc.rmw_race")
    },
    Attack {
        what: "the address of a completed buffer becomes that of the rings themselves",
        naive: "frees its own rings by the address that it finds",
        check: "C01",
        reference: "MigTD pull requests 989 and 996",
        ..descriptor("A14", "split.desc.free_ring_pointer")
    },
    Attack {
        surface: Surface::Available,
        class: Protocol,
        timing: Timing::PostUse,
        what: "avail.idx is overwritten after a burst and put right before the device looks at it",
        naive: "increments the shared word in place, and publishes entries that it never filled",
        check: "C02",
        reference: "drivers with avail->idx++ on shared memory, for example of small kernels",
        axes: Axes::PLAIN,
        ..descriptor("A15", "split.avail.idx")
    },
    Attack {
        class: Protocol,
        surface: Surface::Available,
        timing: Timing::PostUse,
        axes: Axes::PLAIN,
        what: "entries of the available ring that were taken name descriptors that do not exist",
        naive: "goes on from what it reads there",
        check: "C02",
        reference: "virtio 1.3, 2.7.6: the driver alone writes the available ring",
        ..descriptor("A16", "split.avail.ring")
    },
    Attack {
        class: Protocol,
        surface: Surface::Available,
        timing: Timing::PostUse,
        axes: Axes::EVENT_IDX,
        what: "the driver's flags and used_event hold anything",
        naive: "believes that it has asked for calls when it has not, and sleeps",
        check: "C02,C24",
        reference: "virtio 1.3, 2.7.7 and 2.7.10",
        ..descriptor("A17", "split.avail.used_event")
    },
];
