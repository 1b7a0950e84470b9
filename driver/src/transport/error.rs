//! What can go wrong between the driver and its backend, by blame.

use std::sync::Arc;
use std::time::Duration;

use ironring_common::error::{Incompatible, OsError};

/// A rule of the vhost-user protocol that the backend broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelViolation {
    /// The reply is to another request.
    #[error("it answered request {sent} with code {got}")]
    WrongCode {
        /// What was asked.
        sent: u32,
        /// What came.
        got: u32,
    },
    /// The header's flags are not those of a reply of version 1.
    #[error("the flags of its reply are {flags:#x}, not those of a version 1 reply")]
    WrongFlags {
        /// The flags.
        flags: u32,
    },
    /// The body has another size than the request calls for.
    #[error("its reply has {got} bytes where {expected} are due")]
    WrongSize {
        /// Bytes due.
        expected: u32,
        /// Bytes announced.
        got: u32,
    },
    /// It sent something that nobody asked for.
    #[error("it sent bytes that nobody asked for")]
    Unsolicited,
    /// It sent descriptors. They were closed.
    #[error("it sent descriptors with a reply that has none")]
    Descriptors,
    /// It refused a request by a nonzero acknowledgement.
    #[error("it refused request {request} with status {status}")]
    Refused {
        /// What was asked.
        request: u32,
        /// What it said.
        status: u64,
    },
    /// It offers other features than a moment ago.
    #[error("it offered features {first:#x} first and {second:#x} later")]
    FeaturesChanged {
        /// The first offer.
        first: u64,
        /// The second.
        second: u64,
    },
    /// Its answer about the configuration space is about another part of it.
    #[error("it answered about bytes {offset}+{size} of the configuration space, which were not asked for")]
    ConfigRange {
        /// Offset in its answer.
        offset: u32,
        /// Size in its answer.
        size: u32,
    },
    /// Its MAC address is zero or a group address.
    #[error("its MAC address is zero or a group address")]
    ConfigMac,
    /// Its MTU is below 68.
    #[error("its MTU is {mtu}, below 68")]
    ConfigMtu {
        /// The MTU.
        mtu: u16,
    },
    /// It claims to have stopped at an index where it cannot be.
    #[error("it stopped queue {queue} at index {observed}, but at most {expected} was published")]
    BaseMismatch {
        /// The queue.
        queue: u16,
        /// What it said.
        observed: u32,
        /// The last index that was published.
        expected: u16,
    },
}

/// The channel failed. After a violation, a time-out or a disconnect it stays so.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// The backend broke a rule of the protocol.
    #[error("the backend broke the vhost-user protocol: {0}; do not use this backend, or reset with another")]
    Misbehaved(ChannelViolation),
    /// The backend did not answer in time.
    #[error("the backend did not finish request {request} within {after:?}; check that it runs, or allow more time")]
    TimedOut {
        /// The request.
        request: u32,
        /// The deadline.
        after: Duration,
    },
    /// The backend hung up.
    #[error("the backend hung up during request {request}; look at its log, then connect again")]
    Disconnected {
        /// The request, or 0 between requests.
        request: u32,
    },
    /// Nobody could be connected to in time.
    #[error("nothing answers at {path} within {after:?}: {source}; start the backend first")]
    Connect {
        /// The socket.
        path: String,
        /// The deadline.
        after: Duration,
        /// The system's word.
        source: Arc<std::io::Error>,
    },
    /// Both are honest but do not fit.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// The operating system refused.
    #[error(transparent)]
    Os(Arc<OsError>),
    /// Our caller asked for something the protocol has no room for.
    #[error("{what} cannot be sent to a backend; {todo}")]
    Misuse {
        /// What was asked for.
        what: &'static str,
        /// What to do about it.
        todo: &'static str,
    },
}

impl TransportError {
    /// A short stable name for counters and reports.
    #[must_use]
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Misbehaved(_) => "channel-misbehaved",
            Self::TimedOut { .. } => "channel-timed-out",
            Self::Disconnected { .. } => "channel-disconnected",
            Self::Connect { .. } => "channel-connect",
            Self::Incompatible(_) => "incompatible",
            Self::Os(_) => "os",
            Self::Misuse { .. } => "misuse",
        }
    }
}

impl From<OsError> for TransportError {
    fn from(error: OsError) -> Self {
        Self::Os(Arc::new(error))
    }
}
