//! What a ring layout is to its users: the same for split and packed.

use ironring_common::index::{DescId, GuestAddr, PackedPosition, QueueSize, SplitIndex};

use super::violation::Violation;
use crate::mapper::Mapper;

/// How a virtqueue lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RingLayout {
    /// Descriptor table, available ring and used ring (virtio 1.3, 2.7).
    #[default]
    Split,
    /// One ring that both sides write (2.8).
    Packed,
}

/// One virtqueue, driver side. `T` is the caller's token, given back when the device is done with the buffers.
///
/// See the [module of queues](super) for what holds under a lying device.
pub trait DriverRing<T> {
    /// Posts a chain: first the buffers that the device reads, then those that it writes. The device does not see it
    /// before [`publish`](Self::publish). Returns the head descriptor, which is also the chain's id.
    ///
    /// # Errors
    /// [`AddError`]. Whatever the error, nothing of the chain stays mapped or reserved.
    fn add<M: Mapper>(
        &mut self,
        mapper: &mut M,
        readable: &[M::Buffer],
        writable: &[M::Buffer],
        token: T,
    ) -> Result<DescId, AddError<M::Error>>;

    /// Shows the device every chain added since the last call; `false` if there was none, or the device is broken.
    fn publish(&mut self) -> bool;

    /// Whether the device asks to be kicked for what was published since the last time this was asked. A broken one is not
    /// asked.
    fn should_kick(&mut self) -> bool;

    /// Takes the next completion, if there is one, and unmaps its buffers by the private records.
    ///
    /// # Errors
    /// The [`Violation`], new or latched.
    fn take<M: Mapper>(&mut self, mapper: &mut M) -> Result<Option<Completion<T>>, Violation>;

    /// Whether there is something to take. Loads a word of the device's only when everything seen before was taken.
    ///
    /// # Errors
    /// The [`Violation`], new or latched.
    fn has_completions(&mut self) -> Result<bool, Violation>;

    /// Asks the device to call when it has used buffers. Look once more with [`take`](Self::take) before waiting.
    fn arm_calls(&mut self);

    /// Asks the device not to call. It may do so all the same.
    fn suppress_calls(&mut self);

    /// `Err` if the device is broken.
    ///
    /// # Errors
    /// The latched [`Violation`].
    fn check(&self) -> Result<(), Violation>;

    /// The head that the next chain will have, unless the queue is full.
    #[must_use]
    fn next_head(&self) -> Option<DescId>;

    /// Free descriptors; in a packed ring, as many as there are free slots, unless another ring has some of them.
    #[must_use]
    fn free(&self) -> u16;

    /// Chains that are out, published or not.
    #[must_use]
    fn outstanding(&self) -> u16;

    /// Chains that the device was shown and has not given back: how many completions can be lawful now.
    #[must_use]
    fn held(&self) -> u16;

    /// Descriptors of the queue.
    #[must_use]
    fn size(&self) -> QueueSize;

    /// Where a device that is started now is to begin, as vhost-user says it (SET_VRING_BASE): everything before it is used.
    /// In the packed layout 32 bits: the available position, and in the upper half the used one.
    #[must_use]
    fn start_base(&self) -> u32;

    /// Where a device that is stopped now can have got to.
    #[must_use]
    fn stop_window(&self) -> StopWindow;

    /// What was counted.
    #[must_use]
    fn counters(&self) -> RingCounters;

    /// Whether every descriptor that no other ring has is free or lent, exactly once. Walks everything: for audits.
    #[must_use]
    fn is_conserved(&self) -> bool;
}

/// Buffers that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion<T> {
    /// What `add` was given.
    pub token: T,
    /// The head descriptor that the chain had: below the queue size, free again.
    pub head: DescId,
    /// Bytes that the device says it wrote, at most the bytes posted writable.
    pub written: u32,
}

/// Why buffers were not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError<E> {
    /// There are not enough free descriptors now. Take completions and try again.
    #[error("the queue is full: {need} descriptors are needed and {free} are free; take completions first")]
    Full {
        /// Descriptors needed.
        need: usize,
        /// Descriptors free.
        free: u16,
    },
    /// The list is empty, longer than the queue, or its writable bytes do not fit into 32 bits.
    #[error("a chain of {buffers} buffers cannot be posted on a queue of {size}; post 1 to {size} buffers below 4 GiB")]
    Impossible {
        /// Buffers in the list.
        buffers: usize,
        /// Descriptors of the queue.
        size: u16,
    },
    /// The mapper could not map a buffer. Everything that was mapped for this chain has been unmapped.
    #[error("buffer {index} of the chain cannot be mapped: {error}; the chain was taken back whole")]
    Map {
        /// Position of the buffer in the chain.
        index: usize,
        /// The mapper's word.
        error: E,
    },
    /// The device is broken.
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// What a ring may use, as negotiated.
#[derive(Clone, Debug)]
pub struct RingOptions<W> {
    /// `VIRTIO_F_EVENT_IDX`: both sides say at which place they want to be notified.
    pub event_idx: bool,
    /// `VIRTIO_F_IN_ORDER`: the device uses chains in the order in which they were posted, and may name only the last of
    /// many.
    pub in_order: bool,
    /// `VIRTIO_F_INDIRECT_DESC`: chains that fit go by tables.
    pub tables: Option<Tables<W>>,
}

impl<W> Default for RingOptions<W> {
    fn default() -> Self {
        Self { event_idx: false, in_order: false, tables: None }
    }
}

/// Memory of this side's for indirect tables: one table for each descriptor of the queue, one after the other.
#[derive(Clone, Debug)]
pub struct Tables<W> {
    /// The tables, aligned to 16 bytes.
    pub words: W,
    /// Where the device finds the first one.
    pub base: GuestAddr,
    /// Descriptors of each table. Chains of more buffers go without.
    pub entries: u16,
}

/// What a ring counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounters {
    /// Chains that went by an indirect table.
    pub indirect_tables: u64,
    /// Completions that stood for more than one chain.
    pub in_order_batches: u64,
    /// Completions as the device wrote them: used elements, or used slots.
    pub used_entries: u64,
    /// Completions that claimed to have written to a chain that lends nothing writable. Ignored.
    pub idle_claims: u64,
}

/// Where a device can have stopped: between what it has given back and what it was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopWindow {
    /// `held` steps up to `published`.
    Split {
        /// What a device that served everything has reached.
        published: SplitIndex,
        /// Chains that it may have left.
        held: u16,
    },
    /// `held` slots from `next_used` on.
    Packed {
        /// The first slot that was not given back.
        next_used: PackedPosition,
        /// Slots that it may have left.
        held: u16,
        /// Slots of the ring.
        size: QueueSize,
    },
}

impl StopWindow {
    /// Whether a device that says it stopped at `base` (the lower half of the answer to GET_VRING_BASE) can be right.
    #[must_use]
    pub fn accepts(self, base: u16) -> bool {
        match self {
            // Counted from where a device that took nothing of what it holds would have stopped.
            Self::Split { published, held } => base.wrapping_sub(published.0.wrapping_sub(held)) <= held,
            Self::Packed { next_used, held, size } => {
                PackedPosition::from_bits(base, size).is_some_and(|at| at.since(next_used, size) <= held)
            }
        }
    }
}

impl core::fmt::Display for StopWindow {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Split { published, held } => {
                write!(f, "between {:#x} and {:#x}", published.0.wrapping_sub(*held), published.0)
            }
            Self::Packed { next_used, held, .. } => {
                write!(f, "at {:#x} or up to {held} slots behind", next_used.to_bits())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_device_stops_where_it_can_have_got_to() {
        let window = StopWindow::Split { published: SplitIndex(2), held: 4 };
        for (base, expected) in [(0xfffd, false), (0xfffe, true), (0, true), (2, true), (3, false), (0x8000, false)] {
            assert_eq!(window.accepts(base), expected, "{base:#x}");
        }
    }

    /// Every window and every answer of a small ring.
    #[test]
    fn a_packed_device_stops_where_it_can_have_got_to() {
        for size in (1..=9).map(|size| QueueSize::packed(size).unwrap()) {
            let mut next_used = PackedPosition::START;
            for _ in 0..2 * size.get() {
                for held in 0..=size.get() {
                    let lawful: Vec<_> = (0..=held).map(|step| next_used.advance(step, size).to_bits()).collect();
                    let window = StopWindow::Packed { next_used, held, size };
                    for bits in (0..=size.get()).flat_map(|slot| [slot, slot | 0x8000]) {
                        let expected = lawful.contains(&bits);
                        assert_eq!(window.accepts(bits), expected, "{size:?} {next_used:?} {held} {bits:#x}");
                    }
                }
                next_used = next_used.advance(1, size);
            }
        }
    }
}
