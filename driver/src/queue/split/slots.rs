//! Bursts of single slots on a split ring.

use ironring_common::index::{DescId, GuestAddr, QueueSize, SplitIndex};
use ironring_common::shm::view::Ours;
use ironring_common::shm::words::Words;

use super::claims::claims;
use super::{SplitRing, write_avail, write_descriptor};
use crate::mapper::Direction;
use crate::mapper::slots::FixedSlots;
use crate::queue::DriverRing;
use crate::queue::ledger::{Ended, Ledger, Lent, Unshown};
use crate::queue::slots::{BURST, Done, Filler, SharedSlots, SlotRing, Taken};
use crate::queue::violation::Violation;

impl<W: Words> SlotRing for SplitRing<W, ()> {
    fn bind_slots(&mut self, slots: &FixedSlots, direction: Direction) {
        let Self { ledger, desc: table, .. } = self;
        ledger.bind(|id| {
            let desc = slots.descriptor(id, direction);
            write_descriptor(table, id, desc);
            desc
        });
    }

    #[inline(always)]
    fn post_slots(
        &mut self,
        direction: Direction,
        most: usize,
        lens: impl IntoIterator<Item = u32>,
        filler: impl Filler,
    ) -> usize {
        let (size, place, mut at) = (self.size, self.next_avail.0, self.next_avail);
        let (table, avail, shadow) = (self.desc.view(), self.avail.view(), &mut self.avail_shadow);
        let write = |Lent { head, desc, changed }| {
            if changed {
                write_descriptor(&table, head, desc);
            }
        };
        let show = |heads: &[DescId]| at = write_avail_run(&avail, shadow, (size, at), heads);
        let posted = self.ledger.lend_singles(most, place, (direction, lens), (write, show), filler);
        self.next_avail = at;
        usize::from(posted)
    }

    #[inline(always)]
    fn post_slot(&mut self, len: u32) -> Option<GuestAddr> {
        let Lent { head, desc, changed } = self.ledger.lend_one(self.next_avail.0, len)?;
        if changed {
            write_descriptor(&self.desc, head, desc);
        }
        self.show_one(head);
        Some(desc.addr.into())
    }

    #[inline(always)]
    fn take_slots(&mut self, most: usize, each: impl FnMut(Done)) -> Taken {
        if self.in_order { self.take_burst::<true>(most, each) } else { self.take_burst::<false>(most, each) }
    }

    #[cold]
    fn broken_by(&self) -> Violation {
        self.ledger.broken_by(&self.latch, self.queue)
    }

    #[inline(always)]
    fn exchange_slots(&mut self, most: usize, each: impl FnMut(Done)) -> Taken {
        if self.in_order { self.exchange_burst::<true>(most, each) } else { self.exchange_burst::<false>(most, each) }
    }

    #[inline(always)]
    fn exchange_slot(&mut self, mut each: impl FnMut(Done)) -> Taken {
        match self.look_for(1) {
            None => return Taken { count: 0, broken: true },
            Some(0) => return Taken::default(),
            Some(_) => {}
        }
        if self.ledger.in_batch() == 0 {
            let taken = self.exchange_one(&mut each);
            if taken.count > 0 || taken.broken {
                return taken;
            }
        }
        self.exchange_of_batch(each)
    }

    #[inline(always)]
    fn has_more(&mut self) -> bool {
        self.latch.is_healthy() && self.seen_used != self.next_used
    }
}

impl<W: Words> SharedSlots for SplitRing<W, ()> {
    #[inline]
    fn ledger(&self) -> &Ledger<()> {
        &self.ledger
    }

    #[inline]
    fn ledger_mut(&mut self) -> &mut Ledger<()> {
        &mut self.ledger
    }
}

impl<W: Words> SplitRing<W, ()> {
    /// [`SlotRing::take_slots`], for rings in order or for the others.
    #[inline(always)]
    fn take_burst<const IN_ORDER: bool>(&mut self, most: usize, mut each: impl FnMut(Done)) -> Taken {
        let Some(there) = self.look_for(most) else { return Taken { count: 0, broken: true } };
        let mut taken = 0usize;
        while taken < there {
            let left = there.wrapping_sub(taken);
            let Taken { count: now, broken } = if IN_ORDER && self.ledger.in_batch() > 0 {
                let slot = u32::from(self.size.slot(self.next_used));
                let ended = self.ledger.redeem_batch(left, slot, &mut each);
                self.end(ended)
            } else {
                let unshown = self.unshown();
                let (limit, claims) = (self.seen_used.since(self.next_used), claims(&self.used, self.next_used));
                let ended = if IN_ORDER {
                    self.ledger.redeem_oldest((left, limit), unshown, &claims, &mut each)
                } else {
                    self.ledger.redeem_singles(left, unshown, &claims, &mut each)
                };
                self.end_elements(ended)
            };
            taken = taken.wrapping_add(now);
            // Without a step there would be no end; there is one, for no more is there than is held.
            if broken || (now == 0 && self.ledger.in_batch() == 0) {
                return Taken { count: taken, broken };
            }
        }
        Taken { count: taken, broken: false }
    }

    /// [`SlotRing::exchange_slots`], for rings in order or for the others.
    #[inline(always)]
    fn exchange_burst<const IN_ORDER: bool>(&mut self, most: usize, mut each: impl FnMut(Done)) -> Taken {
        let Some(there) = self.look_for(most) else { return Taken { count: 0, broken: true } };
        let mut taken = 0usize;
        while taken < there {
            let left = there.wrapping_sub(taken);
            let (size, places) = (self.size, (self.published.0, self.next_avail.0));
            let (left, in_batch) = (left.min(BURST), IN_ORDER && self.ledger.in_batch() > 0);
            let ended = if !in_batch {
                let (limit, claims) = (self.seen_used.since(self.next_used), claims(&self.used, self.next_used));
                let (avail, shadow, mut at) = (self.avail.view(), &mut self.avail_shadow, self.next_avail);
                let again = |run: &[DescId]| at = write_avail_run(&avail, shadow, (size, at), run);
                let ended = if IN_ORDER {
                    self.ledger.exchange_oldest((left, limit), places, &claims, &mut each, again)
                } else {
                    self.ledger.exchange_singles(left, places, &claims, &mut each, again)
                };
                self.next_avail = at;
                ended
            } else {
                let mut heads = [DescId::FIRST; BURST];
                let mut next_head = heads.iter_mut();
                let again = |done: Done| {
                    if let Some(to) = next_head.next() {
                        *to = done.head;
                    }
                    each(done);
                };
                let slot = u32::from(size.slot(self.next_used));
                let ended = self.ledger.exchange_batch(left, places.1, slot, again);
                self.show(&heads, ended.taken);
                ended
            };
            let Taken { count: now, broken } = if in_batch { self.end(ended) } else { self.end_elements(ended) };
            taken = taken.wrapping_add(now);
            // Without a step there would be no end; there is one, for no more is there than is held.
            if broken || (now == 0 && self.ledger.in_batch() == 0) {
                return Taken { count: taken, broken };
            }
        }
        Taken { count: taken, broken: false }
    }

    /// [`SlotRing::exchange_slot`], of one that is there, or the first of a batch that is opened then.
    #[inline(always)]
    fn exchange_one(&mut self, each: &mut impl FnMut(Done)) -> Taken {
        let (places, slot) = ((self.published.0, self.next_avail.0), u32::from(self.size.slot(self.next_used)));
        let claim = (self.used.element(self.next_used), slot);
        let mut head = DescId::FIRST;
        let each = |done: Done| {
            head = done.head;
            each(done);
        };
        let ended = if self.in_order {
            let limit = self.seen_used.since(self.next_used);
            self.ledger.exchange_oldest_one(limit, places, claim, each)
        } else {
            self.ledger.exchange_one(places, claim, each)
        };
        if ended.taken > 0 {
            self.show_one(head);
        }
        self.end_elements(ended)
    }

    /// [`SlotRing::exchange_slot`], of the next one of a batch.
    #[cold]
    fn exchange_of_batch(&mut self, mut each: impl FnMut(Done)) -> Taken {
        let (mut head, slot) = (DescId::FIRST, u32::from(self.size.slot(self.next_used)));
        let ended = self.ledger.exchange_batch(1, self.next_avail.0, slot, |done| {
            head = done.head;
            each(done);
        });
        if ended.taken > 0 {
            self.show_one(head);
        }
        self.end(ended)
    }

    /// Puts a head into the next slot of the available ring.
    #[inline(always)]
    fn show_one(&mut self, head: DescId) {
        write_avail(&self.avail, &mut self.avail_shadow, usize::from(self.size.slot(self.next_avail)), head);
        self.next_avail = self.next_avail.advance(1);
    }

    /// Puts the first `count` heads into the next slots of the available ring.
    #[inline(always)]
    fn show(&mut self, heads: &[DescId; BURST], count: u16) {
        let (avail, shadow) = (self.avail.view(), &mut self.avail_shadow);
        let heads = heads.get(..usize::from(count)).unwrap_or_default();
        self.next_avail = write_avail_run(&avail, shadow, (self.size, self.next_avail), heads);
    }

    /// Chains that were added and not published.
    #[inline(always)]
    fn unshown(&self) -> Unshown {
        Unshown { from: self.published.0, count: self.next_avail.since(self.published) }
    }

    /// How many completions there are, at most `most`; nothing if the device is broken. Loads the device's index only if those
    /// seen before are fewer.
    #[inline]
    fn look_for(&mut self, most: usize) -> Option<usize> {
        if self.latch.check().is_err() {
            return None;
        }
        let most = u16::try_from(most).unwrap_or(u16::MAX);
        let seen = self.seen_used.since(self.next_used);
        if seen >= most {
            return Some(most.into());
        }
        // From what was seen on: an index that goes back is as unlawful as one that goes too far.
        let more = self.used.completions(self.seen_used, self.held().wrapping_sub(seen));
        let more = match more {
            Ok(more) => more,
            Err(fault) => {
                self.ledger.keep_fault(fault);
                self.ledger.latch_fault(&self.latch, self.queue);
                return None;
            }
        };
        // The elements come one after the other, and their lines are the device's.
        self.used.prefetch(self.seen_used, more.min(BURST_ELEMENTS));
        self.seen_used = self.seen_used.advance(more);
        Some(seen.wrapping_add(more).min(most).into())
    }

    /// Books what became of a burst with an element for each chain.
    #[inline(always)]
    fn end_elements(&mut self, ended: Ended) -> Taken {
        // The last one that was loaded may have ended the burst.
        let last = ended.faulty || ended.opened;
        let of_many = ended.opened && self.ledger.in_batch() > 1;
        let counters = &mut self.counters;
        counters.used_entries =
            counters.used_entries.wrapping_add(u64::from(ended.taken)).wrapping_add(u64::from(last));
        counters.in_order_batches = counters.in_order_batches.wrapping_add(u64::from(of_many));
        self.end(ended)
    }

    /// Books what became of loans.
    #[inline(always)]
    fn end(&mut self, ended: Ended) -> Taken {
        let Ended { taken, idle_claims, faulty, .. } = ended;
        self.next_used = self.next_used.advance(taken);
        self.counters.idle_claims = self.counters.idle_claims.wrapping_add(u64::from(idle_claims));
        if faulty {
            self.ledger.latch_fault(&self.latch, self.queue);
        }
        Taken { count: usize::from(taken), broken: faulty }
    }
}

/// Puts heads into the slots of the available ring from `at` on, unless they hold them already: which they do where completions
/// come in the order of the frames. Where it goes on.
#[inline(always)]
fn write_avail_run<W: Words>(
    avail: &Ours<W>,
    shadow: &mut [u16],
    (size, at): (QueueSize, SplitIndex),
    heads: &[DescId],
) -> SplitIndex {
    let (mut at, mut heads) = (at, heads);
    while !heads.is_empty() {
        let slot = usize::from(size.slot(at));
        let there = shadow.get(slot..).unwrap_or_default();
        let now;
        (now, heads) = heads.split_at_checked(there.len()).unwrap_or((heads, &[]));
        // All of them, because that takes less time than to look where the first one is that differs.
        let differ = now.iter().zip(there).fold(0, |differ, (head, there)| differ | (head.get() ^ there));
        if differ != 0 {
            now.iter().zip(slot..).for_each(|(head, slot)| write_avail(avail, shadow, slot, *head));
        }
        at = at.advance(u16::try_from(now.len()).unwrap_or(0));
        // A slot of the ring has a place in its shadow; without one this would have no end.
        assert!(!now.is_empty(), "the shadow has a place for each slot");
    }
    at
}

/// So many elements are asked for ahead.
const BURST_ELEMENTS: u16 = 64;
