//! Lies on the vhost-user socket.

use super::Class::{Control, Liveness, MemorySafety};
use super::Verdict::{Accepted, NoEffect, Refused, TimedOut};
use super::{Attack, channel};

pub(super) const ROWS: [Attack; 11] = [
    Attack {
        expected: &[Refused],
        what: "a reply has another request code, version, or flags",
        naive: "takes it for the answer",
        check: "C26",
        reference: "vhost crate before its checks of replies",
        ..channel("A108", "vu.reply.wrong")
    },
    Attack {
        class: MemorySafety,
        expected: &[Refused],
        what: "a reply says another size than it has",
        naive: "reads past it, or waits for the rest",
        check: "C26",
        reference: "Linux UML vhost_user_get_config",
        ..channel("A109", "vu.reply.size")
    },
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
        what: "a reply comes twice, or one that nobody has asked for comes behind it",
        naive: "takes it for the answer to a later request",
        check: "C26",
        reference: "any channel that does not count",
        ..channel("A111", "vu.reply.unsolicited")
    },
    Attack {
        expected: &[Refused],
        what: "an acknowledgement comes twice, so that the second one stands there for the next request of the same kind",
        naive: "takes it for the answer to that request, and is one answer ahead from then on",
        check: "C26",
        reference: "any channel that does not count",
        ..channel("A111b", "vu.reply.stale")
    },
    Attack {
        class: Liveness,
        expected: &[Refused],
        what: "a reply brings descriptors, up to 253",
        naive: "keeps them until it has no more",
        check: "C26",
        reference: "unix(7), SCM_RIGHTS",
        ..channel("A112", "vu.reply.fds")
    },
    Attack {
        expected: &[Refused],
        what: "the memory table is refused",
        naive: "goes on without",
        check: "C26",
        reference: "vhost-user, REPLY_ACK",
        ..channel("A113", "vu.ack.nonzero")
    },
    Attack {
        class: Control,
        expected: &[NoEffect],
        what: "every protocol feature there is or will be is offered",
        naive: "takes what it cannot serve",
        check: "C27",
        reference: "vhost-user, protocol features",
        ..channel("A114", "vu.proto_features")
    },
    Attack {
        expected: &[Refused],
        what: "a queue stopped where it cannot have",
        naive: "goes on from there",
        check: "C26",
        reference: "vhost-user, GET_VRING_BASE",
        ..channel("A116", "vu.vring_base")
    },
    Attack {
        expected: &[Refused],
        what: "the connection closes at some step of the set-up",
        naive: "leaks what it had set up, or uses it",
        check: "C11,C29",
        reference: "vhost-user reconnect bugs in QEMU and DPDK",
        ..channel("A119", "vu.disconnect")
    },
    Attack {
        class: Control,
        expected: &[Accepted],
        what: "the device comes back as another one, with other features and another address",
        naive: "mixes what it knew with what it is told",
        check: "C17",
        reference: "vhost-user reconnect in QEMU",
        ..channel("A120", "vu.reconnect_swap")
    },
];
