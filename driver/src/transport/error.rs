//! What can go wrong between the two ends of a vhost-user socket, by blame.

use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;

use ironring_common::error::{Incompatible, OsError};
use ironring_common::index::GuestAddr;
use vhost::vhost_user::message::FrontendReq;

use crate::queue::StopWindow;

/// An error of the channel to the backend. `Clone`, because a poisoned channel returns its first error for ever.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// The backend broke the protocol, or refused what it must not refuse.
    #[error("the backend misbehaved: {0}; connect anew or replace the backend")]
    Misbehaved(#[from] ChannelViolation),
    /// A request was not sent, or not answered in full, before its deadline.
    #[error("the backend did not finish {during} within {after:?}; check that it runs, or allow more time")]
    TimedOut {
        /// What was waited for.
        during: Step,
        /// The time that was allowed.
        after: Duration,
    },
    /// The backend closed the connection.
    #[error("the backend hung up during {during}; see why it ended, then connect anew")]
    Disconnected {
        /// What was being done.
        during: Step,
    },
    /// Nobody accepted a connection in time.
    #[error("cannot connect to a backend at {path} within {after:?}: {source}; start it, or correct the path", path = path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// The time that was allowed.
        after: Duration,
        /// The system's answer to the last attempt.
        source: Arc<std::io::Error>,
    },
    /// Both sides are honest and do not fit together.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// Our own caller asked for something that cannot be. The connection is still good.
    #[error(transparent)]
    Misuse(#[from] ChannelMisuse),
    /// The operating system refused.
    #[error(transparent)]
    Os(Arc<OsError>),
}

impl TransportError {
    /// A short stable name for counters and reports.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Misbehaved(violation) => violation.class(),
            Self::TimedOut { .. } => "timed-out",
            Self::Disconnected { .. } => "disconnected",
            Self::Connect { .. } => "connect",
            Self::Incompatible(_) => "incompatible",
            Self::Misuse(_) => "misuse",
            Self::Os(_) => "os",
        }
    }
}

impl From<OsError> for TransportError {
    fn from(error: OsError) -> Self {
        Self::Os(Arc::new(error))
    }
}

/// What the channel was doing when something went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: no request was outstanding.
    Idle,
    /// A request or its answer.
    Request(FrontendReq),
}

impl core::fmt::Display for Step {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Idle => f.write_str("the time between two requests"),
            Self::Request(code) => write!(f, "{code:?}"),
        }
    }
}

/// A rule of the vhost-user protocol that the backend broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelViolation {
    /// The answer belongs to another request.
    #[error("it answered {sent:?} with request code {got}")]
    WrongCode {
        /// The request.
        sent: FrontendReq,
        /// The code in the reply.
        got: u32,
    },
    /// The protocol version of the reply is not 1.
    #[error("its answer to {sent:?} has protocol version {got} where 1 is the only one")]
    WrongVersion {
        /// The request.
        sent: FrontendReq,
        /// The version in the reply.
        got: u32,
    },
    /// The reply flag is missing.
    #[error("its answer to {sent:?} is not marked as a reply (flags {flags:#x})")]
    NotAReply {
        /// The request.
        sent: FrontendReq,
        /// The flags of the message.
        flags: u32,
    },
    /// Flag bits that no version of the protocol has.
    #[error("its answer to {sent:?} has reserved flag bits set (flags {flags:#x})")]
    ReservedFlags {
        /// The request.
        sent: FrontendReq,
        /// The flags of the message.
        flags: u32,
    },
    /// The size in the header of the reply is not the size of this answer.
    #[error("its answer to {sent:?} claims {got} bytes where {expected} belong")]
    WrongSize {
        /// The request.
        sent: FrontendReq,
        /// Bytes that the answer has.
        expected: u32,
        /// Bytes that the header claims.
        got: u32,
    },
    /// More bytes behind a complete reply.
    #[error("it sent more bytes behind its answer to {sent:?}")]
    SurplusBytes {
        /// The request.
        sent: FrontendReq,
    },
    /// Bytes while no request was outstanding.
    #[error("it sent bytes that nobody had asked for")]
    Unsolicited,
    /// Urgent (out-of-band) data, which ordinary reads skip and `poll` may report for ever.
    #[error("it sent urgent data during {during}, which the protocol does not have")]
    Urgent {
        /// What was being done.
        during: Step,
    },
    /// File descriptors; no reply that is asked for here carries any. They were left in the socket, never received, so
    /// their number is not known.
    #[error("it attached file descriptors during {during} where none belong")]
    Descriptors {
        /// What was being done.
        during: Step,
    },
    /// The request was acknowledged with an error.
    #[error("it refused {sent:?} with status {status:#x}")]
    Refused {
        /// The request.
        sent: FrontendReq,
        /// The nonzero status.
        status: u64,
    },
    /// The features are not those that were offered at first.
    #[error("it changed its features from {first:#x} to {now:#x}")]
    FeaturesChanged {
        /// The features of the first answer.
        first: u64,
        /// The features of this answer.
        now: u64,
    },
    /// The configuration that came back is another part than the one that was asked for.
    #[error("it answered with {size} bytes of configuration at offset {offset}, which is not what was asked for")]
    WrongConfig {
        /// Offset in the reply.
        offset: u32,
        /// Size in the reply, in bytes.
        size: u32,
    },
    /// A field of the configuration has a value that no device may have (virtio 1.3, 5.1.4).
    #[error("its configuration has {field} {value:#x}, which no device may have")]
    ConfigOutOfRange {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The answer to GET_VRING_BASE is about another queue.
    #[error("it answered for queue {got} where queue {sent} was asked for")]
    WrongQueue {
        /// The queue that was asked for.
        sent: u16,
        /// The queue in the reply.
        got: u32,
    },
    /// The device claims to have stopped at a position that it cannot have reached.
    #[error("it says that queue {queue} stopped at {got:#x}, but it can have stopped {window} only")]
    BaseMismatch {
        /// The queue.
        queue: u16,
        /// The low 16 bits of the position in the reply.
        got: u16,
        /// Where it can have stopped.
        window: StopWindow,
    },
}

impl ChannelViolation {
    /// A short stable name for counters and reports.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::WrongCode { .. } => "reply-code",
            Self::WrongVersion { .. } => "reply-version",
            Self::NotAReply { .. } => "reply-flag",
            Self::ReservedFlags { .. } => "reply-reserved-flags",
            Self::WrongSize { .. } => "reply-size",
            Self::SurplusBytes { .. } => "reply-surplus",
            Self::Unsolicited => "unsolicited",
            Self::Urgent { .. } => "urgent-data",
            Self::Descriptors { .. } => "reply-descriptors",
            Self::Refused { .. } => "refused",
            Self::FeaturesChanged { .. } => "features-changed",
            Self::WrongConfig { .. } => "config-window",
            Self::ConfigOutOfRange { .. } => "config-range",
            Self::WrongQueue { .. } => "vring-queue",
            Self::BaseMismatch { .. } => "vring-base",
        }
    }
}

/// Our own caller asked the channel for something that cannot be. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelMisuse {
    /// A request before the features were agreed.
    #[error("the features are not agreed yet; call negotiate first")]
    NotNegotiated,
    /// A second negotiation on one connection.
    #[error("the features are agreed already; open a new connection to agree anew")]
    AlreadyNegotiated,
    /// A request after the connection was given up by this side.
    #[error("this side has hung up; open a new connection")]
    HungUp,
    /// A memory table that one message cannot carry.
    #[error("{count} memory regions do not fit into one message; share between 1 and 8")]
    RegionCount {
        /// The regions that were given.
        count: usize,
    },
    /// A region that is empty, leaves the address space, or does not lie behind the region before it.
    #[error(
        "the memory region of {len} bytes at {start} is empty, too high, overlaps or is out of order; sort and separate them"
    )]
    Region {
        /// Where it starts.
        start: GuestAddr,
        /// Its length in bytes.
        len: u64,
    },
    /// A ring address that cannot be put on the wire.
    #[error("the ring address {addr} lies too high; use addresses below 2^63")]
    RingAddress {
        /// The address.
        addr: GuestAddr,
    },
    /// A queue that the doorbell messages have no number for.
    #[error("queue {index} cannot be named in a doorbell message; use queues 0 to 255")]
    QueueIndex {
        /// The queue.
        index: u16,
    },
}
