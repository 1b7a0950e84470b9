//! Lies on the vhost-user socket.

use super::Verdict::{Refused, TimedOut};
use super::{Attack, channel};

pub(super) const ROWS: [Attack; 2] = [
    Attack {
        expected: &[TimedOut],
        what: "a reply never comes, stops after a few bytes, or comes a byte every 10 ms",
        naive: "waits for ever in read",
        check: "C10,C26",
        reference: "vhost crate Frontend and Linux UML have no deadline",
        ..channel("A110", "vu.reply.partial")
    },
    Attack {
        expected: &[Refused],
        what: "the connection closes at some step of the set-up",
        naive: "leaks what it had set up, or uses it",
        check: "C11,C29",
        reference: "vhost-user reconnect bugs in QEMU and DPDK",
        ..channel("A119", "vu.disconnect")
    },
];
