//! Bursts of single slots on a packed ring.

use ironring_common::index::{DescId, PackedPosition};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed;
use ironring_common::spec::split::{DESC_F_WRITE, Descriptor};

use super::{PackedRing, Seen, rest};
use crate::boundary;
use crate::mapper::Direction;
use crate::mapper::slots::FixedSlots;
use crate::queue::DriverRing;
use crate::queue::ledger::{Lent, Unshown};
use crate::queue::slots::{Done, SlotRing, Taken};
use crate::queue::violation::Fault;

impl<W: Words> SlotRing for PackedRing<W, ()> {
    #[inline]
    fn post_slots(
        &mut self,
        slots: &FixedSlots,
        direction: Direction,
        lens: impl Iterator<Item = u32>,
        heads: &mut [DescId],
    ) -> usize {
        let flags = if direction == Direction::FromDevice { DESC_F_WRITE } else { 0 };
        let mut posted = 0usize;
        let mut at = self.next_avail;
        let mut place = self.posted;
        for (to, len) in heads.iter_mut().zip(lens) {
            let describe = |id| Descriptor { addr: slots.addr(id).0, len, flags, next: 0 };
            let Some(Lent { head, desc, .. }) = self.ledger.lend_single((), place, describe) else { break };
            self.write_single(at, head, desc);
            at = at.advance(1, self.size);
            place = place.wrapping_add(1);
            *to = head;
            posted = posted.wrapping_add(1);
        }
        self.next_avail = at;
        self.posted = place;
        self.unpublished = self.unpublished.wrapping_add(u16::try_from(posted).unwrap_or(u16::MAX));
        posted
    }

    #[inline]
    fn take_slots(&mut self, done: &mut [Done]) -> Taken {
        let unshown = Unshown { from: self.published, count: self.posted.wrapping_sub(self.published) };
        self.each_slot(done, |ring| ring.next_slot(unshown))
    }

    #[inline]
    fn exchange_slots(&mut self, done: &mut [Done]) -> Taken {
        self.each_slot(done, Self::exchange_slot)
    }
}

impl<W: Words> PackedRing<W, ()> {
    /// Takes completions by `take`, as many as there are places for.
    #[inline(always)]
    fn each_slot(
        &mut self,
        done: &mut [Done],
        mut take: impl FnMut(&mut Self) -> Result<Option<(Done, bool)>, Fault>,
    ) -> Taken {
        if let Err(violation) = self.latch.check() {
            return (0, Err(violation));
        }
        let (mut taken, mut idle_claims) = (0usize, 0u64);
        let mut end = Ok(());
        for to in done {
            match take(self) {
                Ok(Some((slot, idle_claim))) => {
                    *to = slot;
                    idle_claims = idle_claims.wrapping_add(u64::from(idle_claim));
                }
                Ok(None) => break,
                Err(fault) => {
                    end = Err(self.broken(fault));
                    break;
                }
            }
            self.next_used = self.next_used.advance(1, self.size);
            self.held_slots = self.held_slots.wrapping_sub(1);
            taken = taken.wrapping_add(1);
        }
        self.counters.idle_claims = self.counters.idle_claims.wrapping_add(idle_claims);
        (taken, end)
    }

    /// As [`next_slot`](Self::next_slot), and posts the slot again.
    #[inline(always)]
    fn exchange_slot(&mut self) -> Result<Option<(Done, bool)>, Fault> {
        let slot = u32::from(self.next_used.slot());
        let place = self.posted;
        // What was posted again in this burst counts: the device was not shown it.
        let unshown = Unshown { from: self.published, count: place.wrapping_sub(self.published) };
        let exchanged = if self.in_order {
            if !self.open_batch(slot, unshown)? {
                return Ok(None);
            }
            self.ledger.exchange_next_in_batch(slot, place)?
        } else {
            let Some((id, len)) = self.look_at_slot() else { return Ok(None) };
            self.ledger.exchange_single(id, len, slot, unshown, place)?
        };
        let (done, desc, idle_claim) = exchanged;
        self.write_single(self.next_avail, done.head, desc);
        self.next_avail = self.next_avail.advance(1, self.size);
        self.posted = place.wrapping_add(1);
        self.unpublished = self.unpublished.wrapping_add(1);
        Ok(Some((done, idle_claim)))
    }

    /// Writes a chain of one slot. The flags that show the burst to the device come last, by `publish`.
    #[inline(always)]
    fn write_single(&mut self, at: PackedPosition, head: DescId, desc: Descriptor) {
        let offset = usize::from(at.slot()).wrapping_mul(packed::SLOT_BYTES);
        self.ring.store_u64(offset.wrapping_add(packed::SLOT_ADDR), desc.addr);
        let (offset, word) = (offset.wrapping_add(packed::SLOT_REST), rest(desc, head, at.wrap()).to_word());
        if self.first.is_none() {
            self.first = Some((offset, word));
        } else {
            self.ring.store_u64(offset, word);
        }
    }

    /// What the slot at `next_used` says, if the device has used it. With nothing out there is none that it may have used,
    /// whatever stands there.
    #[inline(always)]
    fn look_at_slot(&mut self) -> Option<Seen> {
        let seen = self.seen.take();
        let seen =
            seen.or_else(|| (self.held_slots > 0).then(|| boundary::used_slot(&self.ring, self.next_used)).flatten());
        self.counters.used_entries = self.counters.used_entries.wrapping_add(u64::from(seen.is_some()));
        seen
    }

    /// Looks at the next slot if nothing is left of the one before, which may stand for any number of chains that are out:
    /// as many as a chain that was shown can be away from the oldest. Whether there is something.
    #[inline(always)]
    fn open_batch(&mut self, slot: u32, unshown: Unshown) -> Result<bool, Fault> {
        if self.ledger.in_batch() == 0 {
            let Some((id, len)) = self.look_at_slot() else { return Ok(false) };
            let chains = self.ledger.open_batch(id, len, slot, unshown, self.held())?;
            let batches = &mut self.counters.in_order_batches;
            *batches = batches.wrapping_add(u64::from(chains > 1));
        }
        Ok(true)
    }

    /// Ends the loan that the slot at `next_used` is about, if the device has used it, or the next one of a batch.
    #[inline(always)]
    fn next_slot(&mut self, unshown: Unshown) -> Result<Option<(Done, bool)>, Fault> {
        let slot = u32::from(self.next_used.slot());
        if self.in_order {
            let there = self.open_batch(slot, unshown)?;
            return there.then(|| self.ledger.next_single_in_batch(slot)).transpose();
        }
        let Some((id, len)) = self.look_at_slot() else { return Ok(None) };
        self.ledger.redeem_single(id, len, slot, unshown).map(Some)
    }
}
