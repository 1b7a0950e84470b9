//! Bursts of single slots on a split ring.

use ironring_common::index::DescId;
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{DESC_F_WRITE, Descriptor};

use super::{SplitRing, write_descriptor};
use crate::mapper::Direction;
use crate::mapper::slots::FixedSlots;
use crate::queue::DriverRing;
use crate::queue::ledger::{Lent, Unshown};
use crate::queue::slots::{Done, SlotRing, Taken};
use crate::queue::violation::{Fault, Violation};

impl<W: Words> SlotRing for SplitRing<W, ()> {
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
        for (to, len) in heads.iter_mut().zip(lens) {
            let describe = |id| Descriptor { addr: slots.addr(id).0, len, flags, next: 0 };
            let Some(Lent { head, desc, changed }) = self.ledger.lend_single((), self.next_avail.0, describe) else {
                break;
            };
            if changed {
                write_descriptor(&self.desc, head, desc);
            }
            self.write_avail(head);
            *to = head;
            posted = posted.wrapping_add(1);
        }
        posted
    }

    #[inline]
    fn take_slots(&mut self, done: &mut [Done]) -> Taken {
        let unshown = Unshown { from: self.published.0, count: self.next_avail.since(self.published) };
        self.each_slot(done, |ring| ring.next_slot(unshown))
    }

    #[inline]
    fn exchange_slots(&mut self, done: &mut [Done]) -> Taken {
        self.each_slot(done, Self::exchange_slot)
    }
}

impl<W: Words> SplitRing<W, ()> {
    /// Takes completions by `take`, as many as there are places for.
    #[inline(always)]
    fn each_slot(
        &mut self,
        done: &mut [Done],
        mut take: impl FnMut(&mut Self) -> Result<(Done, bool), Fault>,
    ) -> Taken {
        let there = match self.look_for(done.len()) {
            Ok(there) => there,
            Err(violation) => return (0, Err(violation)),
        };
        let (mut taken, mut idle_claims) = (0usize, 0u64);
        let mut end = Ok(());
        for to in done.iter_mut().take(usize::from(there)) {
            match take(self) {
                Ok((slot, idle_claim)) => {
                    *to = slot;
                    idle_claims = idle_claims.wrapping_add(u64::from(idle_claim));
                }
                Err(fault) => {
                    end = Err(self.broken(fault));
                    break;
                }
            }
            self.next_used = self.next_used.advance(1);
            taken = taken.wrapping_add(1);
        }
        self.counters.idle_claims = self.counters.idle_claims.wrapping_add(idle_claims);
        (taken, end)
    }

    /// As [`next_slot`](Self::next_slot), and posts the slot again.
    #[inline(always)]
    fn exchange_slot(&mut self) -> Result<(Done, bool), Fault> {
        let slot = u32::from(self.size.slot(self.next_used));
        let place = self.next_avail.0;
        // What was posted again in this burst counts: the device was not shown it.
        let unshown = Unshown { from: self.published.0, count: self.next_avail.since(self.published) };
        let (done, _, idle_claim) = if self.in_order {
            self.open_batch(slot, unshown)?;
            self.ledger.exchange_next_in_batch(slot, place)?
        } else {
            let (id, len) = self.used.element(self.next_used);
            self.counters.used_entries = self.counters.used_entries.wrapping_add(1);
            self.ledger.exchange_single(id, len, slot, unshown, place)?
        };
        self.write_avail(done.head);
        Ok((done, idle_claim))
    }

    /// Loads the next used element if none is left of the one before: it may stand for many, but for no more than the index
    /// says.
    #[inline(always)]
    fn open_batch(&mut self, slot: u32, unshown: Unshown) -> Result<(), Fault> {
        if self.ledger.in_batch() == 0 {
            let (id, len) = self.used.element(self.next_used);
            self.counters.used_entries = self.counters.used_entries.wrapping_add(1);
            let limit = self.seen_used.since(self.next_used);
            let chains = self.ledger.open_batch(id, len, slot, unshown, limit)?;
            let batches = &mut self.counters.in_order_batches;
            *batches = batches.wrapping_add(u64::from(chains > 1));
        }
        Ok(())
    }

    /// How many completions there are, at most `most`. Loads the device's index only if those seen before are fewer.
    #[inline]
    fn look_for(&mut self, most: usize) -> Result<u16, Violation> {
        self.latch.check()?;
        let most = u16::try_from(most).unwrap_or(u16::MAX);
        let seen = self.seen_used.since(self.next_used);
        if seen >= most {
            return Ok(most);
        }
        // From what was seen on: an index that goes back is as unlawful as one that goes too far.
        let more = self.used.completions(self.seen_used, self.held().wrapping_sub(seen));
        let more = more.map_err(|fault| self.broken(fault))?;
        self.seen_used = self.seen_used.advance(more);
        Ok(seen.wrapping_add(more).min(most))
    }

    /// Ends the loan that the next used element is about, or the next one of a batch.
    #[inline(always)]
    fn next_slot(&mut self, unshown: Unshown) -> Result<(Done, bool), Fault> {
        let slot = u32::from(self.size.slot(self.next_used));
        if self.in_order {
            self.open_batch(slot, unshown)?;
            return self.ledger.next_single_in_batch(slot);
        }
        let (id, len) = self.used.element(self.next_used);
        self.counters.used_entries = self.counters.used_entries.wrapping_add(1);
        self.ledger.redeem_single(id, len, slot, unshown)
    }
}
