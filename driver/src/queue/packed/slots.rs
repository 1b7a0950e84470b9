//! Bursts of single slots on a packed ring.

use ironring_common::index::DescId;
use ironring_common::shm::words::Words;
use ironring_common::spec::packed;
use ironring_common::spec::split::{DESC_F_WRITE, Descriptor};

use super::{PackedRing, rest};
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
            let offset = usize::from(at.slot()).wrapping_mul(packed::SLOT_BYTES);
            self.ring.store_u64(offset.wrapping_add(packed::SLOT_ADDR), desc.addr);
            let (offset, word) = (offset.wrapping_add(packed::SLOT_REST), rest(desc, head, at.wrap()).to_word());
            // The flags that show the burst to the device come last, by `publish`.
            if self.first.is_none() {
                self.first = Some((offset, word));
            } else {
                self.ring.store_u64(offset, word);
            }
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
        if let Err(violation) = self.latch.check() {
            return (0, Err(violation));
        }
        let unshown = Unshown { from: self.published, count: self.posted.wrapping_sub(self.published) };
        let (mut taken, mut idle_claims) = (0usize, 0u64);
        let mut end = Ok(());
        for to in done {
            match self.next_slot(unshown) {
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
}

impl<W: Words> PackedRing<W, ()> {
    /// Ends the loan that the slot at `next_used` is about, if the device has used it, or the next one of a batch.
    #[inline]
    fn next_slot(&mut self, unshown: Unshown) -> Result<Option<(Done, bool)>, Fault> {
        let slot = u32::from(self.next_used.slot());
        if self.ledger.in_batch() == 0 {
            // With nothing out there is no slot that the device may have used, whatever stands there.
            if self.seen.is_none() && self.held_slots > 0 {
                self.seen = boundary::used_slot(&self.ring, self.next_used);
            }
            let Some((id, len)) = self.seen.take() else { return Ok(None) };
            self.counters.used_entries = self.counters.used_entries.wrapping_add(1);
            if !self.in_order {
                return self.ledger.redeem_single(id, len, slot, unshown).map(Some);
            }
            // Any number of chains that are out: which is what a chain that was shown can be away from the oldest.
            let chains = self.ledger.open_batch(id, len, slot, unshown, self.held())?;
            let batches = &mut self.counters.in_order_batches;
            *batches = batches.wrapping_add(u64::from(chains > 1));
        }
        self.ledger.next_single_in_batch(slot).map(Some)
    }
}
