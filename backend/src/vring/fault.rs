//! How a driver can break the rules of a ring.

use ironring_common::index::GuestAddr;

/// How the driver broke the rules of a ring. Latched until the ring is stopped.
///
/// `queue` is the number of the queue in the device, `slot` the slot of the available ring, `head` the first descriptor of
/// the chain; in a packed ring both are the slot in which a chain begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingFault {
    /// The available index went back, or further ahead than there are descriptors (virtio 1.3, 2.7.13.3).
    #[error(
        "queue {queue}: the driver moved avail.idx from {last} to {observed}, but at most {bound} chains can be added"
    )]
    AvailIndexJump {
        /// The queue.
        queue: usize,
        /// The index as it was last seen.
        last: u16,
        /// The index now.
        observed: u16,
        /// How far it may be ahead of `last`.
        bound: u16,
    },
    /// An entry of the available ring is no descriptor (2.7.6).
    #[error("queue {queue}: available slot {slot} names descriptor {observed} of a table of {bound}")]
    HeadOutOfRange {
        /// The queue.
        queue: usize,
        /// The slot.
        slot: u16,
        /// The entry.
        observed: u16,
        /// Descriptors in the table.
        bound: u16,
    },
    /// A descriptor goes on in one that does not exist (2.7.5).
    #[error("queue {queue}: descriptor {at} of the chain at {head} goes on in {observed}, in a table of {bound}")]
    NextOutOfRange {
        /// The queue.
        queue: usize,
        /// First descriptor of the chain.
        head: u16,
        /// The descriptor with the bad `next`.
        at: u16,
        /// Its `next`.
        observed: u16,
        /// Descriptors in the table.
        bound: u16,
    },
    /// A chain has more descriptors than the table: it loops (2.7.5.3.1 forbids chains longer than the queue size).
    #[error("queue {queue}: the chain at {head} does not end after {bound} descriptors; it loops")]
    ChainTooLong {
        /// The queue.
        queue: usize,
        /// First descriptor of the chain.
        head: u16,
        /// Descriptors in the table.
        bound: u16,
    },
    /// A descriptor points to a table although INDIRECT_DESC was not negotiated (2.7.5.3.1).
    #[error("queue {queue}: descriptor {at} of the chain at {head} is indirect, which was not negotiated")]
    IndirectNotNegotiated {
        /// The queue.
        queue: usize,
        /// First descriptor of the chain.
        head: u16,
        /// The indirect descriptor.
        at: u16,
    },
    /// A descriptor of a table points to a table (2.7.5.3.1).
    #[error("queue {queue}: the table of the chain at {head} has an indirect descriptor itself, which is not allowed")]
    IndirectNested {
        /// The queue.
        queue: usize,
        /// First descriptor of the chain.
        head: u16,
    },
    /// A descriptor points to a table and goes on in another descriptor (2.7.5.3.1).
    #[error("queue {queue}: a descriptor of the chain at {head} is indirect and goes on, which is not allowed")]
    IndirectWithNext {
        /// The queue.
        queue: usize,
        /// First descriptor of the chain.
        head: u16,
    },
    /// A table is empty, has a part of a descriptor, or more descriptors than the queue (2.7.5.3.1).
    #[error(
        "queue {queue}: the table of the chain at {head} has {len} bytes, which is no table of 1 to {bound} descriptors"
    )]
    IndirectLength {
        /// The queue.
        queue: usize,
        /// First descriptor of the chain.
        head: u16,
        /// Bytes of the table.
        len: u32,
        /// Descriptors that it may have.
        bound: u16,
    },
    /// A packed ring was started at a slot that has been used in that very round: the base is not where the driver is.
    #[error(
        "queue {queue}: it was started at slot {slot}, which has been used already; the front-end restored no position, so restart the guest's driver"
    )]
    StaleBase {
        /// The queue.
        queue: usize,
        /// The slot.
        slot: u16,
    },
    /// A device-readable descriptor follows a device-writable one (2.7.4.2).
    #[error("queue {queue}: descriptor {at} of the chain at {head} is readable and follows a writable one")]
    ReadableAfterWritable {
        /// The queue.
        queue: usize,
        /// First descriptor of the chain.
        head: u16,
        /// The readable descriptor.
        at: u16,
    },
    /// A buffer does not lie in one region of the shared memory.
    #[error("queue {queue}: the chain at {head} has a buffer of {len} bytes at {addr}, outside of the shared memory")]
    AddressOutside {
        /// The queue.
        queue: usize,
        /// First descriptor of the chain.
        head: u16,
        /// Address of the buffer.
        addr: GuestAddr,
        /// Bytes of the buffer.
        len: u32,
    },
    /// A new memory table leaves the ring itself outside of the shared memory.
    #[error("queue {queue}: its {area} at {addr} is not in the new memory table")]
    RingOutside {
        /// The queue.
        queue: usize,
        /// Which part of the ring.
        area: &'static str,
        /// Its address.
        addr: GuestAddr,
    },
}

impl RingFault {
    /// Every class, in the order of [`class_index`](Self::class_index).
    pub const CLASSES: [&'static str; 12] = [
        "avail-index-jump",
        "head-out-of-range",
        "next-out-of-range",
        "chain-too-long",
        "indirect-not-negotiated",
        "readable-after-writable",
        "address-outside",
        "ring-outside",
        "indirect-nested",
        "indirect-with-next",
        "indirect-length",
        "stale-base",
    ];

    /// The class as a number below `CLASSES.len()`.
    #[must_use]
    pub const fn class_index(&self) -> usize {
        match self {
            Self::AvailIndexJump { .. } => 0,
            Self::HeadOutOfRange { .. } => 1,
            Self::NextOutOfRange { .. } => 2,
            Self::ChainTooLong { .. } => 3,
            Self::IndirectNotNegotiated { .. } => 4,
            Self::ReadableAfterWritable { .. } => 5,
            Self::AddressOutside { .. } => 6,
            Self::RingOutside { .. } => 7,
            Self::IndirectNested { .. } => 8,
            Self::IndirectWithNext { .. } => 9,
            Self::IndirectLength { .. } => 10,
            Self::StaleBase { .. } => 11,
        }
    }

    /// The name under which faults of this kind are counted.
    #[must_use]
    pub fn class(&self) -> &'static str {
        Self::CLASSES.get(self.class_index()).copied().unwrap_or("unknown")
    }
}
