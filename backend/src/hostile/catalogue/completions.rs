//! Lies about completions in the used ring.

use super::Class::{Disclosure, Liveness, Protocol};
use super::Verdict::{Accepted, Broken, Dropped, NoEffect};
use super::{Attack, Axes, PACKED, SPLIT, Surface, Timing, used};

pub(super) const ROWS: [Attack; 27] = [
    Attack {
        what: "used.idx jumps further than there are chains outstanding",
        naive: "takes up to 65535 stale used elements",
        check: "C04",
        reference: "Linux virtqueue_get_buf_ctx_split checks the id only",
        ..used("A18", "split.used.idx_jump")
    },
    Attack {
        what: "used.idx goes back behind the one that was published last",
        naive: "takes it for a jump forward by up to 65535 and replays stale used elements",
        check: "C04",
        reference: "Linux virtqueue_get_buf_ctx_split: the index is compared for inequality only",
        ..used("A19", "split.used.idx_back")
    },
    Attack {
        timing: Timing::Racing,
        axes: Axes::PLAIN,
        expected: &[NoEffect, Broken],
        racing: true,
        what: "used.idx goes back and forth between the honest one and the one before the burst",
        naive: "is told that there is work and finds none, or takes stale elements",
        check: "C04,C07",
        reference: "double fetch, as XSA-155",
        ..used("A20", "split.used.idx_flap")
    },
    Attack {
        class: Liveness,
        axes: Axes::PLAIN,
        expected: &[NoEffect],
        what: "used.idx stands still while chains are served",
        naive: "waits for ever",
        check: "C10",
        reference: "virtio 1.3 has no deadline for a device",
        ..used("A21", "split.used.idx_freeze")
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
        axes: Axes::PLAIN,
        what: "a receive buffer is completed twice in one batch: the second time it may be filled again and not shown yet",
        naive: "delivers it twice",
        check: "C06",
        reference: "double delivery in drivers that refill their ring while they empty it",
        ..used("A27b", "split.used.id_dup_rx")
    },
    Attack {
        axes: Axes::PLAIN,
        what: "of a burst of receive buffers the last one comes first, and at once again, while older ones are out",
        naive: "delivers it twice",
        check: "C06",
        reference: "the same, where whoever comes before its turn is kept in mind for the burst only",
        ..used("A27c", "split.used.id_dup_last")
    },
    Attack {
        class: Protocol,
        axes: Axes::PLAIN,
        expected: &[Accepted],
        what: "a chain that the device has not looked at is completed in the place of another one, which follows later",
        naive: "delivers a buffer that was never written",
        check: "C13,C14",
        reference: "ABA: a ring cannot tell; what counts is that no old bytes are delivered",
        ..used("A28", "split.used.id_replay")
    },
    Attack {
        class: Protocol,
        axes: Axes::PLAIN,
        expected: &[NoEffect],
        what: "the chains of a burst are completed in the opposite order, which is lawful",
        naive: "counts on an order that nobody negotiated",
        check: "none: a positive control for C06",
        reference: "virtio 1.3, 2.7.9",
        ..used("A29", "split.used.id_swap")
    },
    Attack {
        class: Protocol,
        axes: Axes::PLAIN,
        what: "a used id is outstanding in the other queue and not in this one",
        naive: "looks it up in a table that all queues share",
        check: "C06",
        reference: "Xen XSA-391: responses matched to requests of another ring",
        ..used("A30", "split.used.id_crossqueue")
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
        what: "a used length is a few bytes more than was posted, within what the buffer was rounded up to",
        naive: "checks it against the buffer's capacity, and delivers bytes that nobody has written",
        check: "C08",
        reference: "CVE-2026-46123",
        ..used("A32", "split.used.len_slack")
    },
    Attack {
        class: Disclosure,
        what: "a used length counts the readable bytes of the chain as written ones",
        naive: "compares it with the sum of all buffers, and delivers what it has not received",
        check: "C08",
        reference: "MigTD clamps to the sum of both directions",
        ..used("A33", "split.used.len_sum_wrap")
    },
    Attack {
        class: Protocol,
        expected: &[NoEffect],
        what: "the completion of a frame that was sent has a length",
        naive: "believes that something was written",
        check: "C08: counted, and of no effect",
        reference: "vhost-vsock and rpmsg did this honestly",
        ..used("A34", "split.used.len_tx")
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
        class: Disclosure,
        expected: &[Accepted],
        what: "a used length is more than was written, within what was posted",
        naive: "delivers what earlier packets have left in the buffer",
        check: "C14",
        reference: "virtio 1.3, 2.7.8.2: a driver must not rely on what is behind the length",
        ..used("A37", "split.used.len_overclaim")
    },
    Attack {
        class: Protocol,
        expected: &[Accepted],
        what: "a used length is less than was written",
        naive: "looks at bytes behind the length",
        check: "C13",
        reference: "virtio 1.3, 2.7.8.2",
        ..used("A38", "split.used.len_underclaim")
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
        axes: Axes::PLAIN,
        expected: &[NoEffect, Broken, Accepted],
        what: "used.idx counts one element more than was written; an old one stands there",
        naive: "takes an old element for a new one",
        check: "C05,C06",
        reference: "a store that is not ordered behind another, or a device that does it on purpose",
        ..used("A40", "split.used.early_idx")
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
    Attack {
        class: Liveness,
        timing: Timing::PostUse,
        axes: Axes::EVENT_IDX,
        expected: &[NoEffect],
        what: "the flags of the used ring hold anything, or say for ever that no kick is wanted",
        naive: "never kicks again, and waits",
        check: "C23",
        reference: "virtio 1.3, 2.7.10: advisory",
        ..used("A42", "split.used.flags_garbage")
    },
    Attack {
        class: Liveness,
        timing: Timing::PostUse,
        axes: Axes::ONLY_EVENT_IDX,
        expected: &[NoEffect],
        what: "avail_event is far ahead, far behind, or anything",
        naive: "compares without wrapping and never kicks again",
        check: "C23",
        reference: "rcore virtio-drivers, should_notify",
        ..used("A43", "split.used.avail_event")
    },
];
