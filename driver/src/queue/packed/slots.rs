//! Bursts of single slots on a packed ring.

use ironring_common::index::{DescId, GuestAddr, PackedPosition};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed;
use ironring_common::spec::split::Descriptor;

use super::PackedRing;
use super::claims::claims;
use crate::boundary::{self, Claim};
use crate::mapper::Direction;
use crate::mapper::slots::FixedSlots;
use crate::queue::ledger::{Ended, Ledger, Lent, Unshown};
use crate::queue::slots::{Done, Filler, SharedSlots, SlotRing, Taken};
use crate::queue::violation::Violation;

impl<W: Words> SlotRing for PackedRing<W, ()> {
    fn bind_slots(&mut self, slots: &FixedSlots, direction: Direction) {
        // The slots of the ring are told with each post: no descriptor has one for itself. Numbered as [`Ledger::number`] does it.
        self.ledger.bind(|id| Descriptor { next: id.get(), ..slots.descriptor(id, direction) });
    }

    #[inline(always)]
    fn post_slots(
        &mut self,
        direction: Direction,
        most: usize,
        lens: impl IntoIterator<Item = u32>,
        filler: impl Filler,
    ) -> usize {
        self.staged.goes_on(self.next_avail);
        // For less than a line it takes it from a device that looks at the next slot all the time, and takes it back.
        let likely = u16::try_from(most).unwrap_or(u16::MAX).min(self.ledger.free());
        if likely >= SLOTS_A_LINE {
            self.ask_for(self.next_avail, likely);
        }
        let (place, mut room) = (self.posted, self.staged.room());
        let show = |run: &[DescId]| room.extend(run);
        let posted = self.ledger.lend_singles(most, place, (direction, lens), (|_| {}, show), filler);
        self.staged.end(posted);
        self.end_posts(posted);
        usize::from(posted)
    }

    #[inline(always)]
    fn post_slot(&mut self, len: u32) -> Option<GuestAddr> {
        let Lent { head, desc, .. } = self.ledger.lend_one(self.posted, len)?;
        self.write_staged();
        let rest = self.store_addr(self.next_avail, head, desc);
        self.store_rest(rest);
        self.end_posts(1);
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
        if self.latch.check().is_err() {
            return Taken { count: 0, broken: true };
        }
        if self.ledger.in_batch() == 0 {
            let Some(claim) = self.first_claim() else { return Taken::default() };
            let taken = self.exchange_one(claim, &mut each);
            if taken.count > 0 || taken.broken {
                return taken;
            }
        }
        self.exchange_of_batch(each)
    }

    #[inline(always)]
    fn has_more(&mut self) -> bool {
        if !self.latch.is_healthy() {
            return false;
        }
        // Amid a batch the next slot is one that the device passed over.
        if self.ledger.in_batch() > 0 {
            return true;
        }
        self.seen = self.first_claim();
        self.seen.is_some()
    }
}

impl<W: Words> SharedSlots for PackedRing<W, ()> {
    #[inline]
    fn ledger(&self) -> &Ledger<()> {
        &self.ledger
    }

    #[inline]
    fn ledger_mut(&mut self) -> &mut Ledger<()> {
        &mut self.ledger
    }
}

impl<W: Words> PackedRing<W, ()> {
    /// [`SlotRing::take_slots`], for rings in order or for the others.
    #[inline(always)]
    fn take_burst<const IN_ORDER: bool>(&mut self, most: usize, mut each: impl FnMut(Done)) -> Taken {
        if self.latch.check().is_err() {
            return Taken { count: 0, broken: true };
        }
        let mut taken = 0usize;
        while taken < most {
            let (left, round) = (most.wrapping_sub(taken), self.round());
            let (ended, single) = if IN_ORDER && self.ledger.in_batch() > 0 {
                (self.ledger.redeem_batch(left, u32::from(self.next_used.slot()), &mut each), false)
            } else {
                let Some(first) = self.first_claim() else { break };
                if IN_ORDER && self.batches {
                    if !self.open_or_break(first) {
                        return Taken { count: taken, broken: true };
                    }
                    continue;
                }
                let unshown = self.unshown();
                let claims = claims(&self.ring, self.size, (self.next_used, self.held_slots), first);
                let ended = if IN_ORDER {
                    self.ledger.redeem_oldest((left, self.held_slots), unshown, &claims, &mut each)
                } else {
                    self.ledger.redeem_singles(left, unshown, &claims, &mut each)
                };
                (ended, true)
            };
            let Taken { count: now, broken } = if single {
                self.batches = ended.opened && self.ledger.in_batch() > 1;
                self.end_slots(ended)
            } else {
                self.end(ended)
            };
            taken = taken.wrapping_add(now);
            if broken {
                return Taken { count: taken, broken };
            }
            if single && !ended.opened && now < round {
                break;
            }
        }
        Taken { count: taken, broken: false }
    }

    /// [`SlotRing::exchange_slots`], for rings in order or for the others.
    #[inline(always)]
    fn exchange_burst<const IN_ORDER: bool>(&mut self, most: usize, mut each: impl FnMut(Done)) -> Taken {
        if self.latch.check().is_err() {
            return Taken { count: 0, broken: true };
        }
        let mut taken = 0usize;
        while taken < most {
            let (left, round) = (most.wrapping_sub(taken), self.round());
            // Before anything is made ready: a queue that is polled has nothing most of the time.
            let in_batch = IN_ORDER && self.ledger.in_batch() > 0;
            let first = if in_batch { None } else { self.first_claim() };
            if first.is_none() && !in_batch {
                break;
            }
            if taken == 0 && !in_batch {
                self.ask_for_usual(left);
            }
            self.staged.goes_on(self.next_avail);
            let mut room = self.staged.room();
            let places = (self.published, self.posted);
            let (ended, single) = if let Some(first) = first {
                let claims = claims(&self.ring, self.size, (self.next_used, self.held_slots), first);
                let ended = if IN_ORDER {
                    let limits = (left, self.held_slots);
                    self.ledger.exchange_oldest(limits, places, &claims, &mut each, |run| room.extend(run))
                } else {
                    self.ledger.exchange_singles(left, places, &claims, &mut each, |run| room.extend(run))
                };
                (ended, true)
            } else {
                let slot = u32::from(self.next_used.slot());
                let again = |done: Done| {
                    room.push(done.head);
                    each(done);
                };
                (self.ledger.exchange_batch(left, self.posted, slot, again), false)
            };
            self.staged.end(ended.taken);
            self.end_posts(ended.taken);
            let Taken { count: now, broken } = if single { self.end_slots(ended) } else { self.end(ended) };
            taken = taken.wrapping_add(now);
            if now > 0 {
                self.usual = u16::try_from(taken).unwrap_or(u16::MAX);
            }
            if broken {
                return Taken { count: taken, broken };
            }
            if single && !ended.opened && now < round {
                break;
            }
        }
        Taken { count: taken, broken: false }
    }

    /// [`SlotRing::exchange_slot`], of one that is there, or the first of a batch that is opened then.
    #[inline(always)]
    fn exchange_one(&mut self, claim: Claim, each: &mut impl FnMut(Done)) -> Taken {
        let (places, claim) = ((self.published, self.posted), (claim, u32::from(self.next_used.slot())));
        let mut head = DescId::FIRST;
        let each = |done: Done| {
            head = done.head;
            each(done);
        };
        let ended = if self.in_order {
            self.ledger.exchange_oldest_one(self.held_slots, places, claim, each)
        } else {
            self.ledger.exchange_one(places, claim, each)
        };
        if ended.taken > 0 {
            self.stage_one(head);
        }
        self.end_slots(ended)
    }

    /// [`SlotRing::exchange_slot`], of the next one of a batch.
    #[cold]
    fn exchange_of_batch(&mut self, mut each: impl FnMut(Done)) -> Taken {
        let (mut head, slot) = (DescId::FIRST, u32::from(self.next_used.slot()));
        let ended = self.ledger.exchange_batch(1, self.posted, slot, |done| {
            head = done.head;
            each(done);
        });
        if ended.taken > 0 {
            self.stage_one(head);
        }
        self.end(ended)
    }

    /// Posts a slot that was taken, which is written with the next publish.
    #[inline(always)]
    fn stage_one(&mut self, head: DescId) {
        self.staged.goes_on(self.next_avail);
        self.staged.room().push(head);
        self.staged.end(1);
        self.end_posts(1);
    }

    /// Takes it that a completion stands for many, as the last one did. Whether it is lawful; if not, the device is broken.
    #[inline(always)]
    fn open_or_break(&mut self, (id, len): Claim) -> bool {
        let (slot, unshown) = (u32::from(self.next_used.slot()), self.unshown());
        self.counters.used_entries = self.counters.used_entries.wrapping_add(1);
        match self.ledger.open_batch(id, len, slot, unshown, self.held_slots) {
            Ok(chains) => {
                self.batches = chains > 1;
                self.counters.in_order_batches = self.counters.in_order_batches.wrapping_add(u64::from(self.batches));
                true
            }
            Err(fault) => {
                self.ledger.keep_fault(fault);
                self.ledger.latch_fault(&self.latch, self.queue);
                false
            }
        }
    }

    /// What the next slot says, if it was used: as it was seen, or looked at now. With nothing out there is none that the device
    /// may have used, whatever stands there.
    #[inline(always)]
    fn first_claim(&mut self) -> Option<Claim> {
        if let Some(seen) = self.seen.take() {
            return Some(seen);
        }
        if self.held_slots == 0 {
            return None;
        }
        boundary::used_slot(&self.ring, self.next_used)
    }

    /// Asks for the lines of as many slots as are usual, at most `most`, to read them and then to write them again.
    #[inline(always)]
    fn ask_for_usual(&self, most: usize) {
        let usual = usize::from(self.usual).min(most);
        if usual >= usize::from(SLOTS_A_LINE) {
            self.ask_for(self.next_used, u16::try_from(usual).unwrap_or(0));
        }
    }

    /// Chains that were added and not published.
    #[inline(always)]
    fn unshown(&self) -> Unshown {
        Unshown { from: self.published, count: self.posted.wrapping_sub(self.published) }
    }

    /// Slots to the end of the round in which the next completion is.
    #[inline(always)]
    fn round(&self) -> usize {
        usize::from(self.size.get().wrapping_sub(self.next_used.slot()))
    }

    /// Books what was posted.
    #[inline(always)]
    fn end_posts(&mut self, posted: u16) {
        self.next_avail = self.next_avail.advance(posted, self.size);
        self.posted = self.posted.wrapping_add(posted);
        self.unpublished = self.unpublished.wrapping_add(posted);
    }

    /// Asks for the lines of `count` slots from `at` on, which will be written.
    #[inline(always)]
    fn ask_for(&self, at: PackedPosition, count: u16) {
        let (ring, size) = (self.ring.view(), usize::from(self.size.get()));
        let within = at.slot() % SLOTS_A_LINE;
        let mut slot = usize::from(at.slot().wrapping_sub(within));
        // Rings of other sizes end within a line, and the next one begins sooner.
        let more = u16::from(!size.is_multiple_of(usize::from(SLOTS_A_LINE)));
        for _ in 0..within.wrapping_add(count).div_ceil(SLOTS_A_LINE).wrapping_add(more) {
            ring.prefetch(slot.wrapping_mul(packed::SLOT_BYTES));
            slot = slot.wrapping_add(SLOTS_A_LINE.into());
            if slot >= size {
                slot = 0;
            }
        }
    }

    /// Books what became of a burst with a slot for each chain.
    #[inline(always)]
    fn end_slots(&mut self, ended: Ended) -> Taken {
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
        self.next_used = self.next_used.advance(taken, self.size);
        self.held_slots = self.held_slots.wrapping_sub(taken);
        self.counters.idle_claims = self.counters.idle_claims.wrapping_add(u64::from(idle_claims));
        if faulty {
            self.ledger.latch_fault(&self.latch, self.queue);
        }
        Taken { count: usize::from(taken), broken: faulty }
    }
}

/// Rings begin on a line of 64 bytes in the arena; elsewhere it is asked for another line, and nothing else happens.
const SLOTS_A_LINE: u16 = 4;
