//! Slots that are to be written, kept back until the burst is published.
//!
//! The lines of the slots are the device's when a burst begins: it has just written them. What is stored there waits for them,
//! and all that is stored behind waits too. So bursts ask for the lines, copy their frames, and write the slots at the end.

use alloc::vec::Vec;

use ironring_common::apart;
use ironring_common::index::QueueSize;
#[cfg(feature = "std")]
use ironring_common::index::{DescId, PackedPosition};
use ironring_common::shm::view::Both;
use ironring_common::shm::words::Words;
use ironring_common::spec::packed;
#[cfg(feature = "std")]
use ironring_common::spec::split::Descriptor;

#[cfg(feature = "std")]
use super::rest;

/// The slots of a burst that are not written yet, in their order.
#[derive(Debug)]
pub(super) struct Staged {
    slots: Vec<Slot>,
    count: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    number: u16,
    addr: u64,
    rest: u64,
}

impl Staged {
    pub(super) fn new(size: QueueSize) -> Self {
        Self { slots: apart::filled(Slot::default(), usize::from(size.get())), count: 0 }
    }

    /// A chain of one slot. There are never more than the ring has.
    #[cfg(feature = "std")]
    #[inline(always)]
    pub(super) fn push(&mut self, at: PackedPosition, head: DescId, desc: Descriptor) {
        let slot = Slot { number: at.slot(), addr: desc.addr, rest: rest(desc, head, at.wrap()).to_word() };
        if let Some(to) = self.slots.get_mut(self.count) {
            *to = slot;
            self.count = self.count.wrapping_add(1);
        }
    }

    /// Writes all of them but the second word of the `first` slot that the device was not shown, if that is among them: it
    /// shows the burst, and comes last.
    #[inline(always)]
    pub(super) fn write<W: Words>(&mut self, ring: &Both<W>, size: QueueSize, first: &mut Option<(usize, u64)>) {
        let lane = |word| ring.lane(word, packed::SLOT_BYTES, usize::from(size.get()));
        let (addrs, rests) = (lane(packed::SLOT_ADDR), lane(packed::SLOT_REST));
        let staged = self.slots.get(..self.count).unwrap_or_default();
        let mut staged = staged.iter();
        if first.is_none()
            && let Some(Slot { number, addr, rest }) = staged.next()
        {
            addrs.store_u64(usize::from(*number), *addr);
            let offset = usize::from(*number).wrapping_mul(packed::SLOT_BYTES).wrapping_add(packed::SLOT_REST);
            *first = Some((offset, *rest));
        }
        for Slot { number, addr, rest } in staged {
            addrs.store_u64(usize::from(*number), *addr);
            rests.store_u64(usize::from(*number), *rest);
        }
        self.count = 0;
    }

    #[inline(always)]
    pub(super) const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Where it lies, for the test of the layout.
    #[cfg(test)]
    pub(super) fn lines(&self, to: &mut Vec<core::ops::Range<usize>>) {
        to.push(apart::lines(&*self.slots));
    }
}
