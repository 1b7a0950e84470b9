//! Slots that are to be written, kept back until the burst is published.
//!
//! The lines of the slots are the device's when a burst begins: it has just written them. What is stored there waits for them,
//! and all that is stored behind waits too. So bursts ask for the lines, copy their frames, and write the slots at the end.

use alloc::vec::Vec;

use ironring_common::apart;
use ironring_common::index::{DescId, PackedPosition, QueueSize};
use ironring_common::shm::view::Both;
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{self, SlotRest};
use ironring_common::spec::split::Descriptor;

/// The slots of a burst that are not written yet, in their order. They follow one another in the ring. What goes there is in the
/// records of their descriptors, which stay as they are until then: a descriptor that is lent is not lent again, and the device cannot
/// give back what it was not shown.
#[derive(Debug)]
pub(super) struct Staged {
    heads: Vec<DescId>,
    count: usize,
    /// Where the first of them goes.
    start: PackedPosition,
}

/// Where slots of a burst go.
#[cfg(feature = "std")]
pub(super) struct Room<'a>(core::slice::IterMut<'a, DescId>);

#[cfg(feature = "std")]
impl Room<'_> {
    /// A chain of one slot.
    #[inline(always)]
    pub(super) fn push(&mut self, head: DescId) {
        if let Some(to) = self.0.next() {
            *to = head;
        }
    }

    /// Chains of one slot each.
    #[inline(always)]
    pub(super) fn extend(&mut self, heads: &[DescId]) {
        let room = core::mem::take(&mut self.0).into_slice();
        assert!(heads.len() <= room.len(), "a ring has no more chains than slots");
        let (now, later) = room.split_at_mut(heads.len());
        now.copy_from_slice(heads);
        self.0 = later.iter_mut();
    }
}

impl Staged {
    pub(super) fn new(size: QueueSize) -> Self {
        let heads = apart::filled(DescId::FIRST, usize::from(size.get()));
        Self { heads, count: 0, start: PackedPosition::START }
    }

    /// The next chains go to `at` and what follows.
    #[cfg(feature = "std")]
    #[inline(always)]
    pub(super) const fn goes_on(&mut self, at: PackedPosition) {
        if self.count == 0 {
            self.start = at;
        }
    }

    /// Room for chains of one slot each, of which there are never more than the ring has. They count after
    /// [`end`](Self::end).
    #[cfg(feature = "std")]
    #[inline(always)]
    pub(super) fn room(&mut self) -> Room<'_> {
        Room(self.heads.get_mut(self.count..).unwrap_or_default().iter_mut())
    }

    /// So many chains were put into the room.
    #[cfg(feature = "std")]
    #[inline(always)]
    pub(super) fn end(&mut self, count: u16) {
        self.count = self.count.wrapping_add(usize::from(count)).min(self.heads.len());
    }

    /// Writes all of them but the second word of the `first` slot that the device was not shown, if that is among them: it
    /// shows the burst, and comes last.
    #[inline(always)]
    pub(super) fn write<W: Words>(
        &mut self,
        ring: &Both<W>,
        size: QueueSize,
        first: &mut Option<(usize, u64)>,
        desc_of: impl Fn(DescId) -> Descriptor,
    ) {
        let words = |head: DescId| {
            let desc = desc_of(head);
            debug_assert_eq!(desc.next, head.get(), "a chain by itself has its own number");
            let rest = SlotRest { len: desc.len, id: desc.next, flags: desc.flags };
            (desc.addr, rest.to_word())
        };
        let slots = ring.lane::<2>(0, packed::SLOT_BYTES, usize::from(size.get()));
        let mut staged = self.heads.get(..self.count).unwrap_or_default();
        let mut at = self.start;
        if first.is_none()
            && let Some((head, others)) = staged.split_first()
        {
            let (number, (addr, rest)) = (usize::from(at.slot()), words(*head));
            slots.store_u64::<ADDR>(number, addr);
            let offset = number.wrapping_mul(packed::SLOT_BYTES).wrapping_add(packed::SLOT_REST);
            *first = Some((offset, rest | marks(at)));
            at = at.advance(1, size);
            staged = others;
        }
        while !staged.is_empty() {
            // To the end of the ring, and then from its start, in its next round.
            let (number, marks) = (usize::from(at.slot()), marks(at));
            let room = size.get().wrapping_sub(at.slot());
            let now;
            (now, staged) = staged.split_at_checked(usize::from(room)).unwrap_or((staged, &[]));
            for (head, slot) in slots.along(number, now) {
                let (addr, rest) = words(*head);
                slot.store_u64::<ADDR>(addr);
                slot.store_u64::<REST>(rest | marks);
            }
            at = at.advance(room, size);
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
        to.push(apart::lines(&*self.heads));
    }
}

/// The marks of an available slot of that round, in the second word.
#[inline(always)]
const fn marks(at: PackedPosition) -> u64 {
    SlotRest { len: 0, id: 0, flags: packed::avail_flags(at.wrap()) }.to_word()
}

/// The word of a slot that has the address.
const ADDR: usize = 0;
/// The word that has all else.
const REST: usize = 1;
