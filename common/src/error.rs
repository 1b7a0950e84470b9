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
    /// The device's MTU does not fit into this side's frames.
    #[error(
        "the device has an MTU of {mtu} bytes, whose frames have {need}; this side takes {frame_max}: raise that, or lower the MTU"
    )]
    Mtu {
        /// The device's MTU in bytes.
        mtu: u16,
        /// Bytes of the longest frame with that MTU.
        need: u32,
        /// Bytes of the longest frame here.
        frame_max: u32,
    },
    /// The device has fewer queue pairs than this side wants to use.
    #[error(
        "the device has {have} queue pairs and {wanted} are asked for; ask for fewer, or give the device more (--queues at ironring-backend)"
    )]
    QueuePairs {
        /// Queue pairs that were asked for.
        wanted: u16,
        /// Queue pairs that the device has.
        have: u16,
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
    /// A queue size that a packed ring cannot have.
    #[error("a packed ring has 1 to 32768 descriptors, not {size}; pick such a size, for example 256")]
    PackedSize {
        /// The size that was asked for.
        size: u16,
    },
    /// A place that a packed ring does not have.
    #[error(
        "a packed ring of {size} slots cannot go on at {base:#x}: bits 0 to 14 are a slot below {size}, bit 15 is the wrap counter"
    )]
    PackedBase {
        /// The place that was asked for.
        base: u16,
        /// Slots of the ring.
        size: u16,
    },
    /// So many queue pairs are not served.
    #[error("a device of {pairs} queue pairs is not possible; ask for 1 to {most}")]
    QueuePairs {
        /// Queue pairs that were asked for.
        pairs: u16,
        /// The most that are possible.
        most: u16,
    },
    /// There is no such queue pair.
    #[error("there is no queue pair {pair}: the device is used with {pairs}, counted from 0; set queue_pairs")]
    NoQueuePair {
        /// The pair that was asked for.
        pair: u16,
        /// How many there are.
        pairs: u16,
    },
    /// A queue pair that was not made for it was to send frames from where they were received.
    #[error(
        "this queue pair has slots of its own for each queue; set hairpin to send frames from where they were received"
    )]
    NoHairpin,
    /// Frames cannot be sent by indirect tables from where they were received.
    #[error("a hairpin queue pair sends header and frame as one buffer; turn indirect off, or hairpin")]
    HairpinByTables,
    /// A queue that is too small to be shared out between two.
    #[error(
        "a hairpin queue pair shares out the slots of one queue, and {size} are too few; set queue_size to {least} or more"
    )]
    HairpinSize {
        /// The size that was asked for.
        size: u16,
        /// The least that will do.
        least: u16,
    },
    /// An area of shared memory is too small for what is to live there.
    #[error("an area of {have} bytes cannot hold {need} bytes; make the arena larger")]
    AreaTooSmall {
        /// Bytes that the area has.
        have: usize,
        /// Bytes that are needed.
        need: usize,
    },
    /// Shared memory for such queues is not possible.
    #[error(
        "{pairs} queue pairs with slots of {slot_bytes} bytes are not possible; use slots of 1 to 65535 bytes, and at most 4 GiB a direction"
    )]
    ArenaShape {
        /// Queue pairs that were asked for.
        pairs: u16,
        /// Bytes of a slot.
        slot_bytes: u32,
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
