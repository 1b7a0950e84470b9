//! Bursts of chains of one slot on a packed ring, which need no walk.

use ironring_common::index::PackedPosition;
use ironring_common::shm::area::Bytes;
use ironring_common::shm::table::HotRegion;
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{SLOT_BYTES, SLOT_REST, SlotRest, used_flags};

use super::{Batch, PackedVring};
use crate::boundary;
use crate::vring::chain::{Segment, Single};
use crate::vring::hook::Hook;

impl<W: Words> PackedVring<W> {
    /// [`next_singles`](crate::vring::DeviceRing::next_singles).
    #[inline(always)]
    pub(super) fn take_singles<'m, const FILLS: bool>(
        &mut self,
        memory: &mut HotRegion<'m>,
        out: &mut [Single<'m>],
        mut fit: impl FnMut(Bytes<'m>) -> bool,
    ) -> u16 {
        if self.fault.is_some() {
            return 0;
        }
        if self.seen.is_some() {
            self.ask_for_slots(self.usual);
        }
        debug_assert!(self.taken.is_empty(), "chains are given back before single ones are taken");
        let (size, mut at, mut known) = (self.size, self.next_avail, self.seen.take());
        // Of what ends the burst: for the walk, which need not look again.
        let mut seen = None;
        let slots = boundary::slots(&self.ring, size);
        let mut taken = 0u16;
        let most = out.len().min(usize::from(size.get().saturating_sub(self.in_use())));
        let mut left = out.get_mut(..most).unwrap_or_default();
        while !left.is_empty() {
            // To the end of the ring, and then from its start, in its next round.
            let room = usize::from(size.get().wrapping_sub(at.slot())).min(left.len());
            let Some((now, later)) = left.split_at_mut_checked(room) else { break };
            let mut count = 0u16;
            for (to, slot) in boundary::slots_along(slots, at, now) {
                let found = match known.take() {
                    Some(first) if boundary::is_single::<FILLS>(first) => Ok(first),
                    Some(other) => Err(Some(other)),
                    None => boundary::single_slot::<FILLS, _>(&slot, at.wrap()),
                };
                let single = match found {
                    Ok(single) => single,
                    Err(other) => {
                        seen = other;
                        break;
                    }
                };
                let Segment { addr, len } = boundary::segment(&slot, single);
                let Some(buffer) = memory.bytes(addr, len).filter(|buffer| fit(*buffer)) else {
                    seen = Some(single);
                    break;
                };
                (to.buffer, to.id) = (buffer, single.id);
                count = count.wrapping_add(1);
            }
            (at, taken) = (at.advance(count, size), taken.wrapping_add(count));
            if usize::from(count) < room {
                break;
            }
            left = later;
        }
        self.seen = seen.or(known);
        self.next_avail = at;
        self.usual = taken.into();
        taken
    }

    /// [`next_single`](crate::vring::DeviceRing::next_single).
    #[inline(always)]
    pub(super) fn take_single<'m, const FILLS: bool>(
        &mut self,
        memory: &mut HotRegion<'m>,
        fit: impl FnOnce(Bytes<'m>) -> bool,
    ) -> Option<Single<'m>> {
        debug_assert!(self.taken.is_empty(), "chains are given back before single ones are taken");
        // A slot is looked at only while not all are in use, and forgotten at a fault.
        let first = self.seen.filter(|first| boundary::is_single::<FILLS>(*first))?;
        let Segment { addr, len } =
            boundary::segment_at(&boundary::slots(&self.ring, self.size), self.next_avail, first);
        let buffer = memory.bytes(addr, len).filter(|buffer| fit(*buffer))?;
        self.seen = None;
        self.next_avail = self.next_avail.advance(1, self.size);
        Some(Single { buffer, id: first.id, written: 0 })
    }

    /// [`end_singles`](crate::vring::DeviceRing::end_singles).
    #[inline(always)]
    pub(super) fn give_singles<H: Hook, const FILLS: bool>(
        &mut self,
        hook: &mut H,
        done: &[Single<'_>],
        back: &[Single<'_>],
    ) {
        if H::ACTIVE {
            for single in done {
                self.give_back(hook, single.at::<FILLS>(), single.length::<FILLS>());
            }
        } else if self.in_order && !FILLS {
            self.end_in_order(done);
        } else if !done.is_empty() {
            self.write_batch(hook);
            self.write_singles::<FILLS>(done);
        }
        if let Some(Single { buffer, id, .. }) = back.first() {
            // The position of the first one that was put back, and what its slot said: for the walk, which need not look again.
            self.next_avail = self.next_used;
            let len = u32::try_from(buffer.len()).unwrap_or(u32::MAX);
            let first = SlotRest { len, id: *id, flags: const { boundary::kind(FILLS) } };
            self.seen = self.fault.is_none().then_some(first);
        }
    }

    /// Asks for the lines of the next `count` slots, which are read and then written: once for both. Not for less than a line: a
    /// driver that waits for one slot looks at its line all the time, and would take it back.
    #[inline(always)]
    fn ask_for_slots(&self, count: u32) {
        if count < u32::from(SLOTS_A_LINE) {
            return;
        }
        let ring = self.ring.view();
        let mut at = self.next_avail;
        for _ in 0..count.div_ceil(SLOTS_A_LINE.into()) {
            ring.prefetch(usize::from(at.slot()).wrapping_mul(SLOT_BYTES));
            at = at.advance(SLOTS_A_LINE.min(self.size.get()), self.size);
        }
    }

    /// Writes the used slots of chains of one slot.
    #[inline(always)]
    fn write_singles<const FILLS: bool>(&mut self, done: &[Single<'_>]) {
        // Of one that was filled something was written: a header at least.
        let used_word = |single: &Single<'_>| {
            debug_assert!(!FILLS || single.written > 0, "there is a header");
            let flags = const { boundary::kind(FILLS) };
            SlotRest { len: single.length::<FILLS>(), id: single.id, flags }.to_word()
        };
        let (size, mut at, mut left) = (self.size, self.next_used, done);
        let marks = used_marks(at);
        let rests = self.ring.lane::<1>(SLOT_REST, SLOT_BYTES, usize::from(size.get()));
        if self.first.is_none()
            && let Some((first, others)) = left.split_first()
        {
            let offset = usize::from(at.slot()).wrapping_mul(SLOT_BYTES).wrapping_add(SLOT_REST);
            self.first = Some((offset, used_word(first) | marks));
            at = at.advance(1, size);
            left = others;
        }
        while !left.is_empty() {
            // To the end of the ring, and then from its start, in its next round.
            let room = size.get().wrapping_sub(at.slot());
            let now;
            (now, left) = left.split_at_checked(usize::from(room)).unwrap_or((left, &[]));
            let marks = used_marks(at);
            for (single, rest) in rests.along(at.slot().into(), now) {
                rest.store_u64::<0>(used_word(single) | marks);
            }
            at = at.advance(u16::try_from(now.len()).unwrap_or(room), size);
        }
        // At most a burst, of no more chains than there are slots.
        let count = u16::try_from(done.len()).unwrap_or(u16::MAX);
        self.entries = self.entries.wrapping_add(count);
        self.unpublished = self.unpublished.wrapping_add(count);
        self.next_used = at;
    }

    /// Keeps back one used slot for all of these chains, which the device has emptied.
    #[inline(always)]
    fn end_in_order(&mut self, done: &[Single<'_>]) {
        let Some(Single { id, .. }) = done.last() else { return };
        let first = self.batch.map_or(self.next_used, |batch| batch.first);
        self.batch = Some(Batch { first, last: *id });
        // The other lines are not written.
        self.usual = 0;
        // No more than a burst.
        let count = u16::try_from(done.len()).unwrap_or(u16::MAX);
        self.next_used = self.next_used.advance(count, self.size);
        self.unpublished = self.unpublished.wrapping_add(count);
    }
}

/// The marks of a used slot of that round, in the second word.
#[inline(always)]
const fn used_marks(at: PackedPosition) -> u64 {
    SlotRest { len: 0, id: 0, flags: used_flags(at.wrap()) }.to_word()
}

/// Of slots that begin on a line of 64 bytes.
const SLOTS_A_LINE: u16 = 4;
