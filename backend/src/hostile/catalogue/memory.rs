//! Stores into everything, and notifications.

use super::Class::Liveness;
use super::Verdict::{Accepted, Broken, Dropped, NoEffect};
use super::{Attack, Axes, PACKED, SPLIT, Surface, Timing, notify, used};

pub(super) const ROWS: [Attack; 4] = [
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
        what: "O_NONBLOCK is cleared on the call, which is filled and drained again between the driver's look and its read",
        naive: "blocks for ever in the read of a call that is gone",
        check: "C24",
        reference: "eventfd(2): file status flags belong to the open file description, which vhost-user passes on",
        racing: true,
        ..notify("A106", "notify.call_block")
    },
];
