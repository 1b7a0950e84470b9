//! Bursts of single buffers, each in the slot of its descriptor, for ever: the fast paths of the network queues (feature `std`,
//! as these).
//!
//! What holds for [`add`](super::DriverRing::add) and [`take`](super::DriverRing::take) holds here, for the same ledger
//! decides; but nothing is mapped, since descriptor `i` always points to slot `i`, and what is the same for all buffers of
//! a burst is done once: the latch is looked at, the index loaded, the counters updated.

use alloc::vec::Vec;

use ironring_common::index::{DescId, GuestAddr};

use super::ledger::Ledger;
use super::violation::Violation;
use crate::mapper::Direction;
use crate::mapper::slots::FixedSlots;

/// A slot that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// The descriptor, and the slot: free again.
    pub head: DescId,
    /// Where the device finds the slot, by the private records.
    pub at: GuestAddr,
    /// Bytes that the device says it wrote, at most those that were posted.
    pub written: u32,
}

/// Fills slots as they are posted: a closure that is told which ones, or [`Ahead`] for whoever also wants to know which come
/// later.
pub trait Filler {
    /// How many slots before its turn a slot is told to [`soon`](Self::soon), if it is known by then: at the start of a burst, and where
    /// the row of the free ones begins anew, so many are told at once.
    const AHEAD: usize;

    /// The device finds a slot there that will be posted in a while, with these or with the next ones: its lines can be on the way.
    fn soon(&mut self, at: GuestAddr);

    /// This slot is posted when those of the call are filled, and the device finds it there. None of them is lent yet, so a panic here
    /// leaves them free.
    fn fill(&mut self, head: DescId, at: GuestAddr);
}

impl<F: FnMut(DescId, GuestAddr)> Filler for F {
    const AHEAD: usize = 0;

    #[inline(always)]
    fn soon(&mut self, _at: GuestAddr) {}

    #[inline(always)]
    fn fill(&mut self, head: DescId, at: GuestAddr) {
        self(head, at);
    }
}

/// Fills slots, and is told of each `AHEAD` slots before.
#[derive(Debug)]
pub struct Ahead<const AHEAD: usize, S, F> {
    /// As [`Filler::soon`].
    pub soon: S,
    /// As [`Filler::fill`].
    pub fill: F,
}

impl<const AHEAD: usize, S: FnMut(GuestAddr), F: FnMut(DescId, GuestAddr)> Filler for Ahead<AHEAD, S, F> {
    const AHEAD: usize = AHEAD;

    #[inline(always)]
    fn soon(&mut self, at: GuestAddr) {
        (self.soon)(at);
    }

    #[inline(always)]
    fn fill(&mut self, head: DescId, at: GuestAddr) {
        (self.fill)(head, at);
    }
}

/// What came back of a burst.
///
/// Not the violation itself: to hand it from function to function is to copy it whether there is one or not, and a load of what
/// was stored in other pieces waits for all stores before it, the slots of the last burst among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a broken device is to be given up"]
pub struct Taken {
    /// Slots.
    pub count: usize,
    /// Whether a violation ended it early: [`SlotRing::broken_by`] has it.
    pub broken: bool,
}

/// A ring whose chains are single slots. The chains of others must not be posted on it.
pub trait SlotRing {
    /// Binds each descriptor to its slot for ever, before anything is posted: address and direction are told once, and a post
    /// changes the length at most.
    fn bind_slots(&mut self, slots: &FixedSlots, direction: Direction);

    /// Posts a slot for each of `lens`, of so many bytes from its start, at most `most`, until none is free. `direction` is the
    /// one that they were bound with. `filler` is told which ones and where the device finds them; how many there are is
    /// returned. The caller has looked at the latch.
    fn post_slots(
        &mut self,
        direction: Direction,
        most: usize,
        lens: impl IntoIterator<Item = u32>,
        filler: impl Filler,
    ) -> usize;

    /// As [`post_slots`](Self::post_slots), of one slot of `len` bytes: where the device finds it, or nothing if none is free.
    fn post_slot(&mut self, len: u32) -> Option<GuestAddr>;

    /// Takes slots that came back, at most `most`, and tells `each` of them, which must not panic: a burst is booked as a whole. They are
    /// posted next in an order of the ring's own, unless the device works in order.
    fn take_slots(&mut self, most: usize, each: impl FnMut(Done)) -> Taken;

    /// What ended a burst early that was found [`broken`](Taken::broken): the violation that is latched, or if another queue is about to
    /// latch one, its own.
    fn broken_by(&self) -> Violation;

    /// As [`take_slots`](Self::take_slots), and posts each slot again as it was: what a receive queue does with the
    /// slots that it copies out of. The device may not touch them before the next publish, so until then the caller may copy out of them.
    fn exchange_slots(&mut self, most: usize, each: impl FnMut(Done)) -> Taken;

    /// As [`exchange_slots`](Self::exchange_slots), of one slot: with nothing made ready for more, and without a look whether there are.
    fn exchange_slot(&mut self, each: impl FnMut(Done)) -> Taken;

    /// Whether more came back than [`exchange_slot`](Self::exchange_slot) took: on a split ring as far as its last look at the index said, on a
    /// packed one by a look at the next slot.
    fn has_more(&mut self) -> bool;
}

/// A ring that shares its slots with another one, which has the descriptors that are away from this: what its ledger does. None of
/// it is up to a device.
pub(crate) trait SharedSlots {
    fn ledger(&self) -> &Ledger<()>;
    fn ledger_mut(&mut self) -> &mut Ledger<()>;

    /// Gives away the slots that are free longest, as many as there are and `to` has room for. How many.
    #[inline]
    fn give_away(&mut self, to: &mut [DescId]) -> usize {
        self.ledger_mut().give_away(to)
    }

    /// Takes in slots that were away, each of them once: they are posted before all others that are free.
    #[inline]
    fn take_in_first(&mut self, heads: &[DescId]) {
        self.ledger_mut().take_in_first(heads);
    }

    /// As [`take_in_first`](Self::take_in_first), but they are posted after all others.
    #[inline]
    fn take_in_last(&mut self, heads: &[DescId]) {
        self.ledger_mut().take_in_last(heads);
    }

    /// All slots that are not away, in the order of their descriptors. For a slow path.
    fn own(&self) -> Vec<DescId> {
        self.ledger().own()
    }
}

/// The most that the network queues take or post at a time.
pub(crate) const BURST: usize = 64;

#[cfg(test)]
mod tests;
