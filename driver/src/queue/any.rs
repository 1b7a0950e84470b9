//! A ring of either layout.
//!
//! The fast paths of the network queues look once a burst which one it is, and call code that was made for that layout.
//! For everything else the enumeration is a ring itself.

use ironring_common::index::{DescId, QueueSize};
use ironring_common::shm::words::Words;

use super::packed::PackedRing;
use super::ring::{AddError, Completion, DriverRing, RingCounters, StopWindow};
use super::split::SplitRing;
use super::violation::Violation;
use crate::mapper::Mapper;
#[cfg(feature = "std")]
use crate::{
    mapper::{Direction, slots::FixedSlots},
    queue::{
        ledger::Ledger,
        slots::{SharedSlots, SlotRing},
    },
};

/// A virtqueue whose layout was chosen when the device was set up.
#[derive(Debug)]
pub enum AnyRing<W, T> {
    /// Section 2.7.
    Split(SplitRing<W, T>),
    /// Section 2.8.
    Packed(PackedRing<W, T>),
}

/// Calls a method of whichever ring it is.
macro_rules! on {
    ($any:expr, $ring:ident => $call:expr) => {
        match $any {
            AnyRing::Split($ring) => $call,
            AnyRing::Packed($ring) => $call,
        }
    };
}

#[cfg(feature = "std")]
impl<W: Words> AnyRing<W, ()> {
    /// As [`SlotRing::bind_slots`].
    pub fn bind_slots(&mut self, slots: &FixedSlots, direction: Direction) {
        on!(self, ring => ring.bind_slots(slots, direction));
    }

    /// As [`SlotRing::broken_by`].
    #[cold]
    pub fn broken_by(&self) -> Violation {
        on!(self, ring => ring.broken_by())
    }
}

#[cfg(feature = "std")]
impl<W: Words> AnyRing<W, ()> {
    /// Has only the first `most` descriptors from now on; none is lent. The others are given away.
    pub(crate) fn keep_first(&mut self, most: usize) -> alloc::vec::Vec<DescId> {
        let mut all = self.own();
        self.give_away(&mut all);
        let others = all.split_off(most.min(all.len()));
        self.take_in_last(&all);
        others
    }

    /// Has just those descriptors from now on that the `other` ring of the same size has; none is lent.
    pub(crate) fn keep(&mut self, other: &Self) {
        if other.ledger().here() == other.ledger().size().get() {
            return;
        }
        self.keep_first(0);
        self.take_in_last(&other.own());
    }
}

#[cfg(feature = "std")]
impl<W: Words> SharedSlots for AnyRing<W, ()> {
    #[inline]
    fn ledger(&self) -> &Ledger<()> {
        on!(self, ring => ring.ledger())
    }
    #[inline]
    fn ledger_mut(&mut self) -> &mut Ledger<()> {
        on!(self, ring => ring.ledger_mut())
    }
}

impl<W: Words, T> DriverRing<T> for AnyRing<W, T> {
    fn add<M: Mapper>(
        &mut self,
        mapper: &mut M,
        readable: &[M::Buffer],
        writable: &[M::Buffer],
        token: T,
    ) -> Result<DescId, AddError<M::Error>> {
        on!(self, ring => ring.add(mapper, readable, writable, token))
    }
    fn publish(&mut self) -> bool {
        on!(self, ring => ring.publish())
    }
    fn should_kick(&mut self) -> bool {
        on!(self, ring => ring.should_kick())
    }
    fn take<M: Mapper>(&mut self, mapper: &mut M) -> Result<Option<Completion<T>>, Violation> {
        on!(self, ring => ring.take(mapper))
    }
    fn has_completions(&mut self) -> Result<bool, Violation> {
        on!(self, ring => ring.has_completions())
    }
    fn arm_calls(&mut self) {
        on!(self, ring => ring.arm_calls());
    }
    fn suppress_calls(&mut self) {
        on!(self, ring => ring.suppress_calls());
    }
    fn check(&self) -> Result<(), Violation> {
        on!(self, ring => ring.check())
    }
    fn next_head(&self) -> Option<DescId> {
        on!(self, ring => ring.next_head())
    }
    fn free(&self) -> u16 {
        on!(self, ring => ring.free())
    }
    fn outstanding(&self) -> u16 {
        on!(self, ring => ring.outstanding())
    }
    fn held(&self) -> u16 {
        on!(self, ring => ring.held())
    }
    fn size(&self) -> QueueSize {
        on!(self, ring => ring.size())
    }
    fn start_base(&self) -> u32 {
        on!(self, ring => ring.start_base())
    }
    fn stop_window(&self) -> StopWindow {
        on!(self, ring => ring.stop_window())
    }
    fn counters(&self) -> RingCounters {
        on!(self, ring => ring.counters())
    }
    fn is_conserved(&self) -> bool {
        on!(self, ring => ring.is_conserved())
    }
}

#[cfg(test)]
impl<W: Words, T> AnyRing<W, T> {
    /// Where its private memory lies, for the test of the layout.
    pub(crate) fn lines(&self, to: &mut alloc::vec::Vec<core::ops::Range<usize>>) {
        on!(self, ring => ring.lines(to));
    }
}
