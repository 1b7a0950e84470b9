//! Errors by blame, as far as both sides share them.
//!
//! Four families: the peer misbehaved (each side has its own list of violations), the peer is
//! [`Incompatible`], our caller made a [`Misuse`], or the operating system refused ([`OsError`]).

use crate::features::Feature;

/// The peer is honest as far as we can tell, but the two cannot work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// A feature that this side insists on is not offered.
    #[error("the peer does not offer {0}, which is required here; use a peer that has it or ask for less")]
    MissingFeature(Feature),
    /// The offer contradicts the specification: a feature without the one it depends on.
    #[error("the peer offers {feature} without {needs}, which the specification forbids; this peer cannot be used")]
    BrokenDependency {
        /// The feature that was offered.
        feature: Feature,
        /// The feature that it depends on.
        needs: Feature,
    },
    /// The peer acknowledged a feature that was never offered to it.
    #[error("the peer acknowledged feature bits {bits:#x} that were not offered; it breaks the negotiation rules")]
    NotOffered {
        /// The surplus bits.
        bits: u64,
    },
}

/// Our own caller asked for something that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misuse {
    /// A queue size that a split ring cannot have.
    #[error("queue size {size} is not a power of two between 1 and 32768; pick one, for example 256")]
    QueueSize {
        /// The size that was asked for.
        size: u16,
    },
    /// An area of shared memory is too small for what is to live there.
    #[error("an area of {have} bytes cannot hold {need} bytes; make the arena larger")]
    AreaTooSmall {
        /// Bytes that the area has.
        have: usize,
        /// Bytes that are needed.
        need: usize,
    },
    /// An area of shared memory is not aligned as its words need.
    #[error("an area that must be aligned to {need} bytes is not; place it differently")]
    Misaligned {
        /// The alignment in bytes.
        need: usize,
    },
}

/// The operating system refused.
#[cfg(feature = "std")]
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct OsError {
    /// What was being done, as the end of "cannot ...".
    pub what: &'static str,
    /// The system's word.
    #[source]
    pub source: std::io::Error,
}

#[cfg(feature = "std")]
impl OsError {
    /// An error of the last system call.
    pub fn new(what: &'static str, source: impl Into<std::io::Error>) -> Self {
        Self { what, source: source.into() }
    }
}
