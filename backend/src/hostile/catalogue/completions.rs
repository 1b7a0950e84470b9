//! Lies about completions in the used ring.

use super::Class::Disclosure;
use super::Verdict::{Accepted, Broken, Dropped, NoEffect};
use super::{Attack, Axes, PACKED, SPLIT, Surface, Timing, used};

pub(super) const ROWS: [Attack; 11] = [
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
        axes: Axes::PLAIN,
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
        layouts: &[SPLIT, PACKED],
        ..used("A41", "split.used.premature")
    },
];
