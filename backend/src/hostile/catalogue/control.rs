//! Lies about the device itself: features, configuration, queues, and how it ends.

use super::Class::{Control, Liveness, MemorySafety};
use super::Verdict::{NoEffect, Refused, TimedOut};
use super::{Attack, Surface, Timing, channel};

pub(super) const ROWS: [Attack; 12] = [
    Attack {
        class: Control,
        expected: &[NoEffect],
        what: "features that nothing defines are offered",
        naive: "accepts all that is offered",
        check: "C17",
        reference: "virtio 1.3, 2.2.1",
        ..channel("A79", "feat.unknown_bits")
    },
    Attack {
        class: Control,
        expected: &[Refused],
        what: "VERSION_1 or the protocol features are not offered",
        naive: "goes on as a legacy driver",
        check: "C17",
        reference: "virtio 1.3, 6.1",
        ..channel("A80", "feat.missing_required")
    },
    Attack {
        class: Control,
        expected: &[NoEffect],
        what: "features are offered without those that they need",
        naive: "takes them",
        check: "C17",
        reference: "virtio 1.3, 5.1.3.1",
        ..channel("A81", "feat.deps_broken")
    },
    Attack {
        class: Control,
        expected: &[Refused],
        what: "features change from one answer to the next",
        naive: "goes by one of them and then by the other",
        check: "C17",
        reference: "vhost-user: GET_FEATURES may be asked again",
        ..channel("A82", "feat.flap")
    },
    Attack {
        class: Control,
        expected: &[Refused],
        what: "the features that were chosen are refused",
        naive: "goes on as if they were in force",
        check: "C17",
        reference: "virtio 1.3, 3.1.1, step 6",
        ..channel("A83", "feat.ack_refused")
    },
    Attack {
        class: Control,
        expected: &[NoEffect],
        what: "the number of queue pairs is 0 or more than there can be",
        naive: "makes that many queues",
        check: "C18,C19",
        reference: "virtio 1.3, 5.1.4.1",
        ..channel("A85", "queue.pairs_bad")
    },
    Attack {
        class: Control,
        expected: &[Refused],
        what: "the MTU is one that no device may have, or more than was made room for",
        naive: "sizes its buffers by it",
        check: "C18",
        reference: "Linux virtio_net reads it twice",
        ..channel("A86", "config.mtu_bad")
    },
    Attack {
        class: Control,
        expected: &[Refused],
        what: "the MAC address is a group, or all zero",
        naive: "takes it",
        check: "C18",
        reference: "virtio 1.3, 5.1.4",
        ..channel("A87", "config.mac_bad")
    },
    Attack {
        class: Control,
        expected: &[NoEffect],
        what: "the MAC address is another one each time that it is read",
        naive: "has half of one and half of another",
        check: "C18",
        reference: "virtio 1.3, 2.5.1",
        ..channel("A89", "config.torn")
    },
    Attack {
        class: MemorySafety,
        expected: &[Refused],
        what: "the configuration that comes back is another part than was asked for",
        naive: "takes it for the right one, or copies too much",
        check: "C26",
        reference: "Linux UML vhost_user_get_config",
        ..channel("A91", "config.size_lie")
    },
    Attack {
        class: Liveness,
        expected: &[TimedOut],
        what: "the question where a queue stopped is never answered",
        naive: "waits for ever",
        check: "C10",
        reference: "Linux vp_reset waits without a limit",
        ..channel("A94", "status.reset_never")
    },
    Attack {
        class: MemorySafety,
        expected: &[NoEffect],
        surface: Surface::File,
        timing: Timing::Teardown,
        what: "the memory of before a reset is written all over after it",
        naive: "has the same memory in use again",
        check: "C29",
        reference: "use after free by DMA, IOMMU documentation of Linux",
        ..channel("A95", "status.dma_after_reset")
    },
];
