//! Everything that can go wrong with a network device, by blame.

use ironring_common::error::{Incompatible, Misuse, OsError};

use crate::arena::ArenaError;
use crate::queue::violation::Violation;
use crate::transport::TransportError;

/// An error of the network device.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The device broke a rule of the ring. Only a reset helps.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The channel to the backend failed: it misbehaved, timed out or hung up.
    #[error(transparent)]
    Transport(TransportError),
    /// Both sides are honest and do not fit together.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// Our caller asked for something that cannot be.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// A frame size that no queue can have.
    #[error("frames of up to {frame_max} bytes are not possible; choose between 60 and 65523")]
    FrameMax {
        /// What was asked for.
        frame_max: u32,
    },
    /// The operating system refused.
    #[error(transparent)]
    Os(#[from] OsError),
}

impl From<TransportError> for NetError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Incompatible(incompatible) => Self::Incompatible(incompatible),
            error => Self::Transport(error),
        }
    }
}

impl From<ArenaError> for NetError {
    fn from(error: ArenaError) -> Self {
        match error {
            ArenaError::Misuse(misuse) => Self::Misuse(misuse),
            ArenaError::Os(os) => Self::Os(os),
        }
    }
}
