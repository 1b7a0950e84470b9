//! Stores into everything, and notifications.

use super::Class::{Disclosure, Liveness, Protocol};
use super::Verdict::{Accepted, Broken, Dropped, NoEffect};
use super::{Attack, Axes, PACKED, SPLIT, Surface, Timing, notify, used};

pub(super) const ROWS: [Attack; 11] = [
    Attack {
        surface: Surface::File,
        layouts: &[SPLIT, PACKED],
        axes: Axes::PLAIN,
        class: Liveness,
        timing: Timing::Setup,
        expected: &[NoEffect],
        what: "the memory is made shorter, empty, longer",
        naive: "dies of SIGBUS at its next access",
        check: "C16",
        reference: "cloud-hypervisor pull request 8841",
        ..used("A96", "shm.truncate")
    },
    Attack {
        surface: Surface::File,
        layouts: &[SPLIT, PACKED],
        axes: Axes::PLAIN,
        class: Protocol,
        timing: Timing::Racing,
        expected: &[NoEffect, Dropped, Broken, Accepted],
        racing: true,
        what: "pages of the memory are taken out, and read as zeros",
        naive: "finds its own words gone, as if the device had written zeros",
        check: "as A19 and A26",
        reference: "fallocate(2): allowed on sealed memory",
        ..used("A97", "shm.punch_hole")
    },
    Attack {
        surface: Surface::File,
        layouts: &[SPLIT, PACKED],
        axes: Axes::PLAIN,
        class: Liveness,
        timing: Timing::Setup,
        expected: &[NoEffect],
        what: "seals are added that forbid to map or to write",
        naive: "cannot map its own memory again",
        check: "C16",
        reference: "fcntl(2), F_SEAL_SEAL",
        ..used("A97b", "shm.add_seal")
    },
    Attack {
        surface: Surface::File,
        layouts: &[SPLIT, PACKED],
        axes: Axes::PLAIN,
        class: Disclosure,
        timing: Timing::Idle,
        expected: &[NoEffect],
        what: "all of the memory is read for secrets, all the time",
        naive: "shares more than rings and buffers",
        check: "C14,C15",
        reference: "cloud-hypervisor issues 7044 and 8392",
        ..used("A99", "shm.read_everything")
    },
    Attack {
        surface: Surface::File,
        layouts: &[SPLIT, PACKED],
        axes: Axes::PLAIN,
        class: Disclosure,
        timing: Timing::Setup,
        expected: &[NoEffect],
        what: "addresses in messages are compared with those of the driver's process",
        naive: "says where it is, for a later attack",
        check: "C28",
        reference: "cloud-hypervisor issue 7190; U-Boot writes its pointers into descriptors",
        ..used("A100", "shm.pointer_leak")
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
        layouts: &[SPLIT, PACKED],
        axes: Axes::PLAIN,
        ..used("A101", "shm.scribble_all")
    },
    Attack {
        class: Liveness,
        timing: Timing::Racing,
        racing: true,
        what: "calls come when there is nothing",
        naive: "believes that there is something, and takes it",
        check: "C24",
        reference: "virtio 1.3, 2.7.7.1",
        ..notify("A102", "notify.spurious")
    },
    Attack {
        class: Liveness,
        timing: Timing::Racing,
        racing: true,
        what: "calls come as fast as they can",
        naive: "does nothing but answer them",
        check: "C24",
        reference: "CVE-2021-28711, XSA-391",
        ..notify("A103", "notify.storm")
    },
    Attack {
        class: Liveness,
        timing: Timing::PostUse,
        what: "the driver is never called",
        naive: "waits for ever for what is already there",
        check: "C10,C23",
        reference: "Linux BAD_RING stalls; netfront and blkfront with a lost event",
        ..notify("A104", "notify.lost")
    },
    Attack {
        class: Liveness,
        timing: Timing::Setup,
        expected: &[Broken],
        what: "O_NONBLOCK is cleared on the kick, whose flags both sides share, and its counter is driven to the end",
        naive: "blocks for ever in the write of a kick",
        check: "C25",
        reference: "eventfd(2): file status flags belong to the open file description, which vhost-user passes on",
        ..notify("A105", "notify.kick_block")
    },
    Attack {
        class: Liveness,
        timing: Timing::Racing,
        what: "O_NONBLOCK is cleared on the call, which rings, is drained before the driver can read it, and then stays silent",
        naive: "blocks for ever in the read of a call that is gone",
        check: "C24",
        reference: "eventfd(2): file status flags belong to the open file description, which vhost-user passes on",
        racing: true,
        ..notify("A106", "notify.call_block")
    },
];
