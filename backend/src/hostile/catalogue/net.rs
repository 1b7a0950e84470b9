//! Lies in net headers, and what is done to frames.

use super::Class::{Liveness, MemorySafety, Protocol};
use super::Verdict::{Accepted, Dropped, NoEffect};
use super::{Attack, SPLIT, Surface, Timing, header};

pub(super) const ROWS: [Attack; 18] = [
    Attack {
        class: MemorySafety,
        expected: &[NoEffect],
        what: "a frame is made of no buffers",
        naive: "counts down from zero, and takes every buffer of the ring for a part of this frame",
        check: "C21",
        reference: "Linux virtio_net, receive_mergeable",
        ..header("A61", "net.mrg.zero")
    },
    Attack {
        class: MemorySafety,
        expected: &[NoEffect],
        what: "a frame is made of more buffers than come",
        naive: "waits for the others, or takes frames of others for them",
        check: "C21",
        reference: "Linux virtio_net, receive_mergeable",
        ..header("A62", "net.mrg.too_many")
    },
    Attack {
        class: MemorySafety,
        expected: &[NoEffect],
        what: "a frame is made of so many buffers that no frame can be as long",
        naive: "takes them all, or writes past the list of its fragments",
        check: "C21",
        reference: "Linux skb_shinfo, 17 fragments",
        ..header("A63", "net.mrg.huge")
    },
    Attack {
        class: MemorySafety,
        expected: &[NoEffect],
        what: "a frame is made of two buffers though merging was not negotiated",
        naive: "looks at a field that means nothing",
        check: "C21",
        reference: "virtio 1.3, 5.1.6.4",
        ..header("A64", "net.mrg.unnegotiated")
    },
    Attack {
        class: Protocol,
        expected: &[NoEffect],
        timing: Timing::Racing,
        racing: true,
        what: "the number of buffers changes while the driver reads it",
        naive: "reads it once to check it and once to use it",
        check: "C12",
        reference: "Linux virtio_net reads it again for its log line",
        ..header("A66", "net.mrg.refetch")
    },
    Attack {
        class: Protocol,
        expected: &[NoEffect, Dropped],
        timing: Timing::Racing,
        racing: true,
        what: "the fields about segmentation change while the driver reads them",
        naive: "checks one value and uses the other",
        check: "C12",
        reference: "double fetch, as XSA-155",
        ..header("A67", "net.hdr.toctou")
    },
    Attack {
        class: MemorySafety,
        what: "a kind of segmentation that does not exist or was not negotiated",
        naive: "hands it on",
        check: "C20",
        reference: "CVE-2026-98954",
        ..header("A68", "net.hdr.gso_type")
    },
    Attack {
        class: MemorySafety,
        what: "segments of no bytes, of one, or of more than there are",
        naive: "divides by zero, or makes 65535 segments of one frame",
        check: "C20",
        reference: "Linux virtio_net_hdr_to_skb",
        ..header("A69", "net.hdr.gso_size")
    },
    Attack {
        class: MemorySafety,
        what: "a checksum is to be written beyond the frame",
        naive: "writes it there",
        check: "C20",
        reference: "CVE-2024-11614",
        ..header("A70", "net.hdr.csum_oob")
    },
    Attack {
        class: Protocol,
        what: "flags that were not negotiated, that contradict each other, or that do not exist",
        naive: "finishes a checksum that nobody has asked for",
        check: "C20",
        reference: "virtio 1.3, 5.1.6.4.1",
        ..header("A71", "net.hdr.csum_flags")
    },
    Attack {
        class: Protocol,
        expected: &[Accepted],
        what: "a checksum that nobody has looked at is said to be right",
        naive: "lets a corrupt packet through",
        check: "none: it is the device's word",
        reference: "virtio 1.3, 5.1.6.4.1",
        ..header("A71b", "net.hdr.data_valid_lie")
    },
    Attack {
        class: MemorySafety,
        expected: &[NoEffect],
        what: "headers of one byte, or of more bytes than the frame has",
        naive: "copies so many bytes as the header",
        check: "C20",
        reference: "virtio 1.3, 5.1.6.4.1: must not be relied on",
        ..header("A71c", "net.hdr.hdr_len_lie")
    },
    Attack {
        class: MemorySafety,
        what: "TCP is to be segmented in a frame that has none",
        naive: "looks for the header of TCP beyond the frame",
        check: "C20",
        reference: "CVE-2026-98954",
        ..header("A71d", "net.hdr.gso_mismatch")
    },
    Attack {
        class: Protocol,
        expected: &[Accepted],
        timing: Timing::Idle,
        surface: Surface::Buffer,
        what: "a frame changes once more when the device looks at its ring again",
        naive: "shows its caller one frame and then another",
        check: "C13",
        reference: "zero-copy receive paths",
        ..header("A72a", "net.rx.payload_mutate")
    },
    Attack {
        class: Protocol,
        expected: &[NoEffect],
        surface: Surface::Buffer,
        timing: Timing::Complete,
        what: "a frame that was sent is overwritten in its slot",
        naive: "sends it again from there, or reads its own header back",
        check: "C13",
        reference: "virtio 1.3, 2.7.5.1.2: a device must not write to a readable buffer",
        ..header("A72c", "net.tx.mutate_slot")
    },
    Attack {
        class: Protocol,
        expected: &[NoEffect],
        surface: Surface::Buffer,
        timing: Timing::Complete,
        what: "the bytes behind a frame that is sent are read",
        naive: "leaves there what was in the memory before",
        check: "C14,C15",
        reference: "XSA-403; CVE-2022-33740, CVE-2022-33741",
        ..header("A72d", "net.tx.read_slack")
    },
    Attack {
        class: Protocol,
        expected: &[NoEffect],
        surface: Surface::Buffer,
        timing: Timing::Complete,
        what: "frames are read again after they were completed",
        naive: "has reused the memory for something else by then",
        check: "C15",
        reference: "XSA-403",
        ..header("A72e", "net.tx.read_after_complete")
    },
    Attack {
        class: Liveness,
        surface: Surface::Used,
        layouts: &[SPLIT],
        timing: Timing::PostUse,
        expected: &[NoEffect],
        what: "frames that were sent are never completed",
        naive: "waits for ever, or takes more and more memory",
        check: "C10",
        reference: "Linux virtio_net stops its queue",
        ..header("A72f", "net.tx.hoard")
    },
];
