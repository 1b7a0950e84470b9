//! Rings that trust their device, as rings were written before the descriptor table became write-only.
//!
//! They exist so that every attack can be seen to bite something: an attack that hurts nobody proves nothing about a
//! driver that survives it. Nothing shipped depends on them. [`split`] and [`packed`] have the same face. [`poll`] is for
//! measuring: a driver that trusts, as fast as the hardened one is made.
//!
//! Their weaknesses are real ones, or what a driver without private records is driven to:
//!
//! - the free list runs through the shared `next`, chains are walked by the shared `NEXT`, buffers are unmapped by the
//!   shared address, length and flags: Linux before 5.14 (split); list and walk also virtio-driver, the crate of libblkio
//!   (0.6.1);
//! - indirect tables are unmapped by their shared entries: Linux in both layouts for years after 5.14, because the
//!   tables were mapped for reading only. Shared memory of vhost-user knows no such thing. How many entries there are is
//!   read from the shared descriptor: Linux before 5.14 (split), with an assertion that stops the machine;
//! - a packed ring indexes by the device's id without a look at its range, whether it is in flight or not, and puts the
//!   device's id on its list of free ones: virtio-driver (0.6.1);
//! - flags are changed in place, in shared memory: virtio-driver (0.6.1), and hermit-os when it makes a packed chain
//!   available (2020); the available index likewise: several drivers for small systems;
//! - a packed chain is walked by the flags in the ring, without a bound: alioth, on the device's side (2025). A driver
//!   finds the device's words in its slots, so that this one keeps private what an honest device overwrites and reads the
//!   rest back;
//! - the id that ends a batch in order is looked for among all that is out, and unchecked: Linux as of the patches of
//!   2025. What comes before it counts as full;
//! - the length is the device's word, and words are loaded more than once: too many to name.
//!
//! All accesses are those of the same shared-memory views as elsewhere, and private memory is checked arrays, so that a
//! bite is observed and nothing undefined happens.

use ironring_common::index::{DescId, GuestAddr, QueueSize};
use ironring_common::spec::split::DESC_F_WRITE;
use ironring_driver::mapper::{Direction, MapRecord, Mapper};

pub mod net;
pub mod packed;
pub mod poll;
pub mod split;
mod tables;
#[cfg(test)]
mod tests;

pub use packed::TrustingPackedRing;
pub use split::TrustingRing;
pub use tables::Tables;

/// What a trusting ring negotiated. By default nothing.
#[derive(Debug)]
pub struct Options<W> {
    /// Where indirect tables go. A chain of two or more buffers that fits into one is posted through it.
    pub tables: Option<Tables<W>>,
    /// The device uses buffers in order, and one used entry may stand for a batch.
    pub in_order: bool,
    /// The device may ask to be told about one slot only. The split ring does not look.
    pub event_idx: bool,
}

impl<W> Default for Options<W> {
    fn default() -> Self {
        Self { tables: None, in_order: false, event_idx: false }
    }
}

/// The moment at which a trusting driver does harm: to itself, on the device's word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bite {
    /// It would index outside of an array.
    #[error("{doing}, it went to entry {index} of {entries}")]
    OutOfRange {
        /// What it was doing.
        doing: &'static str,
        /// The index.
        index: u64,
        /// Entries of the array.
        entries: u64,
    },
    /// It unmapped what was never mapped, or freed a mapping twice. What should have been unmapped leaks.
    #[error("it unmapped address {addr:#x}, which was not mapped")]
    BadUnmap {
        /// The address that it took from the table.
        addr: u64,
    },
    /// It followed shared links round and round.
    #[error("it walked {steps} descriptors of one chain and would go on for ever")]
    EndlessWalk {
        /// Steps after which the watcher stopped it.
        steps: u32,
    },
    /// It completed a request that nobody made: the cookie is null or stale.
    #[error("it completed request {id}, which nobody made")]
    NoSuchRequest {
        /// The id.
        id: u32,
    },
    /// It gave out a descriptor that is still in flight.
    #[error("it gave out descriptor {id}, which is still in flight")]
    Aliased {
        /// The descriptor.
        id: u16,
    },
    /// It showed the device available entries that it never filled.
    #[error("it published available index {index} where its requests amount to {expected}")]
    GarbagePublished {
        /// The index that it published.
        index: u16,
        /// The index that the requests amount to.
        expected: u16,
    },
    /// It showed the device a slot with other flags than those that it had stored there.
    #[error("it made slot {slot} available with flags {flags:#x} where it had stored {expected:#x}")]
    GarbageFlags {
        /// The slot.
        slot: u16,
        /// The flags that it published.
        flags: u16,
        /// The flags of what it posted.
        expected: u16,
    },
    /// It went past what it had posted: from then on it looks for completions where there are none.
    #[error("it took {slots} slots of a packed ring as used where {posted} are posted")]
    Overtook {
        /// Slots of the chain, as it counted them.
        slots: u16,
        /// Slots that were posted and not used.
        posted: u16,
    },
    /// It would subtract below zero: a panic, or a number near the largest.
    #[error("{doing}, it subtracted {subtrahend} from {minuend}")]
    Underflow {
        /// What it was doing.
        doing: &'static str,
        /// From what.
        minuend: u16,
        /// How much.
        subtrahend: u16,
    },
    /// It took buffers of other frames for parts of this one, or waits for parts that do not come.
    #[error("it took {buffers} more buffers for parts of a frame that was whole")]
    TookOthers {
        /// How many.
        buffers: u16,
    },
    /// An assertion of its own stopped the whole system.
    #[error("its assertion failed that {what}")]
    Asserted {
        /// What it took for granted.
        what: &'static str,
    },
}

/// Refuses an index outside of an array of `entries`, where a trusting driver would go ahead.
fn in_range(doing: &'static str, index: impl Into<u64>, entries: impl Into<u64>) -> Result<(), Bite> {
    let (index, entries) = (index.into(), entries.into());
    if index < entries { Ok(()) } else { Err(Bite::OutOfRange { doing, index, entries }) }
}

/// The id for the mapper.
fn desc_id(id: u16, size: QueueSize) -> Result<DescId, Bite> {
    let range = Bite::OutOfRange { doing: "mapping", index: u64::from(id), entries: u64::from(size.get()) };
    DescId::below(id, size).ok_or(range)
}

/// The buffers of a chain with their directions, in the order in which they are posted.
fn directed<'a, B>(readable: &'a [B], writable: &'a [B]) -> impl ExactSizeIterator<Item = (&'a B, Direction)> {
    let split = readable.len();
    (0..split + writable.len()).map(move |at| match at.checked_sub(split) {
        Some(at) => (&writable[at], Direction::FromDevice),
        None => (&readable[at], Direction::ToDevice),
    })
}

/// The flag of a direction.
fn write_flag(direction: Direction) -> u16 {
    if direction == Direction::FromDevice { DESC_F_WRITE } else { 0 }
}

/// A buffer as a descriptor says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    addr: u64,
    len: u32,
    flags: u16,
}

impl Entry {
    /// Unmaps what it says. Like the kernel's, the unmap of a bounce buffer copies the whole mapping back.
    fn unmap<M: Mapper>(self, mapper: &mut M, id: DescId) -> Result<(), Bite> {
        let writable = self.flags & DESC_F_WRITE != 0;
        let direction = if writable { Direction::FromDevice } else { Direction::ToDevice };
        let written = if writable { self.len } else { 0 };
        let record = MapRecord { id, addr: self.addr.into(), len: self.len, direction };
        mapper.unmap(record, written).map_err(|_| Bite::BadUnmap { addr: self.addr })
    }

    /// Its address, if the device writes there.
    fn writable(self) -> Option<GuestAddr> {
        (self.flags & DESC_F_WRITE != 0).then_some(self.addr.into())
    }
}
