//! Many things at once, and controls.

use super::Class::Protocol;
use super::Verdict::{Accepted, Broken, Dropped, NoEffect};
use super::{Attack, Axes, PACKED, SPLIT, Surface, Timing, used};

pub(super) const ROWS: [Attack; 4] = [
    Attack {
        class: Protocol,
        expected: &[Dropped],
        layouts: &[SPLIT, PACKED],
        axes: Axes::PLAIN,
        what: "every received frame gives the same reason for a line in the log",
        naive: "writes a line for each, and fills the disk",
        check: "C31",
        reference: "Linux net_err_ratelimited",
        ..used("A122", "log.flood")
    },
    Attack {
        surface: Surface::Memory,
        class: Protocol,
        timing: Timing::Racing,
        expected: &[NoEffect, Dropped, Broken, Accepted],
        racing: true,
        layouts: &[SPLIT, PACKED],
        axes: Axes::PLAIN,
        what: "five to eight kinds of nonsense at once",
        naive: "stops at an assertion",
        check: "C31",
        reference: "rcore virtio-drivers: assert_eq in its queue; BUG_ON in Linux virtio_ring",
        ..used("A123", "panic.hunt")
    },
    Attack {
        surface: Surface::Memory,
        class: Protocol,
        timing: Timing::Racing,
        expected: &[NoEffect, Dropped, Broken, Accepted],
        racing: true,
        layouts: &[SPLIT, PACKED],
        axes: Axes::PLAIN,
        what: "two to four other attacks at once, each in some of the bursts",
        naive: "has two weaknesses that are harmless by themselves",
        check: "all",
        reference: "single strikes miss what needs two",
        ..used("A124", "timing.combo")
    },
    Attack {
        class: Protocol,
        expected: &[NoEffect],
        layouts: &[SPLIT, PACKED],
        axes: Axes::PLAIN,
        what: "nothing that is not lawful: completions in the opposite order, bursts kept back, kicks wanted and not wanted",
        naive: "trips over a device that is honest",
        check: "none: a control for false alarms",
        reference: "Linux 2021: a check was reverted because honest devices tripped it",
        ..used("A125", "honest.edge")
    },
];
