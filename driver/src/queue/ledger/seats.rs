//! Loans of one descriptor: whether one is out is told by where it sits in the row.
//!
//! Who is taken from the front of the row of free descriptors keeps the seat. So the row has two parts: from `outstanding` seats before the
//! front on those that are out, oldest first, then those that are free. A device that uses buffers in the order in which they were
//! made available names the oldest each time: one compare decides, and nothing is stored, for in a row without an empty seat the oldest
//! sits just where what is free next has to sit. Once one in a burst names another, a word notes who came, a bit for each of the 64 that are
//! out longest, and at the end of the burst they get the oldest seats: of those who came, who sits further back changes with one that did
//! not. A device that is done with all of a burst in some order or other has nobody change. One that is further away than that, or comes
//! alone, changes seats with the oldest at once. Nobody's record says whether it is out, so with the first descriptor that is reserved for a
//! chain, or goes to another ledger, and with the first completion that is taken as one of a chain, records have to tell
//! (`Ledger::tell_by_records`), until descriptors are bound anew.
//!
//! Of those that are out, the device was shown all but the newest, and only those that it was shown change seats. With in-order use none
//! do: how many sit before the one that is named is the length of the batch.

use ironring_common::claim::Alleged;
use ironring_common::index::DescId;

use self::came::Came;
use super::claims::Claims;
use super::oldest::{named_in_order, of_oldest};
use super::single::Ended;
use super::{Batch, Ledger, Record, State, Told, Unshown};
use crate::boundary::Claim;
use crate::queue::slots::Done;
use crate::queue::violation::ViolationKind;

mod came;

/// A completion that may end a loan, and how many are out longer.
struct Found {
    done: Done,
    idle_claim: bool,
    older: u16,
}

impl<T> Ledger<T> {
    /// Whether a descriptor is out, where seats tell.
    #[inline(always)]
    pub(super) fn sits_out(&self, record: &Record<T>) -> bool {
        self.free.older(record.seat, self.outstanding, self.outstanding).is_some()
    }

    /// How many of those that are out the device was shown: all but the newest `hidden`.
    #[inline(always)]
    const fn shown(&self, hidden: u16) -> u16 {
        self.outstanding.saturating_sub(hidden)
    }

    /// With in-order use: the head that a completion names, if it is one of those that are out but for the newest `hidden`, and
    /// how many there are up to that one.
    #[inline]
    pub(super) fn up_to_seated(&mut self, id: Alleged<u32>, hidden: u16) -> Result<(DescId, u16), ViolationKind> {
        let shown = self.shown(hidden);
        let (head, record) = Self::named(&mut self.records, self.size, id)?;
        let older = self.free.older(record.seat, self.outstanding, shown).ok_or(ViolationKind::IdNotOutstanding)?;
        Ok((head, older.wrapping_add(1)))
    }

    /// Whether everyone sits in the row, out or free, and their records say where. For audits and tests.
    pub(super) fn sit_well(&self) -> bool {
        let sits = |seat| {
            let record = self.free.sitting(seat).and_then(|id| self.records.get(id.index()));
            record.is_some_and(|record| record.seat == seat)
        };
        let out = (1..=self.outstanding).map(|out| self.free.seat(out));
        let mut seats = out.chain((0..self.free()).map(|n| self.free.seat_ahead(n)));
        // No two of these seats are one, so those who sit there are different ones: all, if they are as many.
        let all = usize::from(self.outstanding).wrapping_add(self.free.len()) == self.records.len();
        all && seats.all(sits) && self.order.as_ref().is_none_or(|order| order.len() == 0)
    }
}

impl Ledger<()> {
    /// From now on seats tell, if all descriptors are here.
    pub(super) fn give_seats(&mut self) {
        let Self { records, free, told, .. } = self;
        if free.len() < records.len() {
            return;
        }
        *told = Told::BySeat;
        for (n, id) in free.iter().enumerate() {
            let Some(record) = records.get_mut(id.index()) else { continue };
            record.token = Some(());
            record.state = State::Single;
            // Fewer than there are descriptors.
            record.seat = free.seat_ahead(u16::try_from(n).unwrap_or(0));
        }
    }

    /// As [`redeem_singles`](Self::redeem_singles), where seats tell.
    #[inline(always)]
    pub(super) fn redeem_seated(
        &mut self,
        most: usize,
        unshown: Unshown,
        claims: &impl Claims,
        each: impl FnMut(Done),
    ) -> Ended {
        self.take_seated::<false>(most, unshown.count, claims, each, |_| {})
    }

    /// As [`exchange_singles`](Self::exchange_singles), where seats tell.
    #[inline(always)]
    pub(super) fn exchange_seated(
        &mut self,
        most: usize,
        (shown, place): (u16, u16),
        claims: &impl Claims,
        each: impl FnMut(Done),
        again: impl FnMut(&[DescId]),
    ) -> Ended {
        let ended = self.take_seated::<true>(most, place.wrapping_sub(shown), claims, each, again);
        self.next = place.wrapping_add(ended.taken);
        ended
    }

    /// As [`exchange_one`](Self::exchange_one), where seats tell.
    #[inline(always)]
    pub(super) fn exchange_seated_one(
        &mut self,
        (shown, place): (u16, u16),
        (claim, slot): (Claim, u32),
        each: impl FnOnce(Done),
    ) -> Ended {
        let can_be_named = self.shown(place.wrapping_sub(shown));
        if let Some(done) = self.if_oldest(claim, can_be_named) {
            return self.exchange_found(done, place, each);
        }
        match self.find_seated(claim, can_be_named, Came::default()) {
            Ok(Found { done, idle_claim, .. }) => {
                self.seat_first(done.head);
                let ended = self.exchange_found(done, place, each);
                Ended { idle_claims: idle_claim.into(), ..ended }
            }
            Err(kind) => self.unlawful(Ended::default(), kind, (claim, slot)),
        }
    }

    /// Lends the oldest one, which came back, as number `place`.
    #[inline(always)]
    fn exchange_found(&mut self, done: Done, place: u16, each: impl FnOnce(Done)) -> Ended {
        self.move_on::<true>(1);
        self.next = place.wrapping_add(1);
        each(done);
        Ended { taken: 1, ..Ended::default() }
    }

    /// What a completion says of the chain that is out longest, if it names that and claims what it may, and `shown` are not none.
    #[inline(always)]
    fn if_oldest(&self, claim: Claim, shown: u16) -> Option<Done> {
        if shown == 0 {
            return None;
        }
        let head = self.free.sitting(self.free.seat(self.outstanding))?;
        let record = self.records.get(head.index())?;
        let written = of_oldest(head, record.writable, claim)?;
        Some(Done { head, at: record.desc.addr.into(), written })
    }

    /// Ends loans, as long as completions name the oldest one; the rest of the burst is looked up. All but the newest `hidden` were shown.
    /// With `AGAIN` each is lent again.
    #[inline(always)]
    fn take_seated<const AGAIN: bool>(
        &mut self,
        most: usize,
        hidden: u16,
        claims: &impl Claims,
        mut each: impl FnMut(Done),
        mut again: impl FnMut(&[DescId]),
    ) -> Ended {
        let shown = self.shown(hidden);
        let (ended, other) = self.take_oldest::<AGAIN>((most, shown), claims, &mut each, &mut again);
        match other {
            Some(claim) => {
                let left = most.wrapping_sub(ended.taken.into()).min(claims.left(ended.taken));
                self.take_others::<AGAIN>(ended, (left, shown), (claims, claim), each, again)
            }
            None => ended,
        }
    }

    /// Ends loans of the oldest ones, at most `most`, as long as completions name just those, of which `shown` were shown: one fewer with
    /// each that is taken, for what is lent again is hidden, and the others are out no more. The completion that stopped it is told too.
    #[inline(always)]
    pub(super) fn take_oldest<const AGAIN: bool>(
        &mut self,
        (most, shown): (usize, u16),
        claims: &impl Claims,
        each: &mut impl FnMut(Done),
        again: &mut impl FnMut(&[DescId]),
    ) -> (Ended, Option<Claim>) {
        let mut ended = Ended::default();
        while usize::from(ended.taken) < most {
            let left = most.wrapping_sub(ended.taken.into()).min(claims.left(ended.taken));
            let run = self.free.taken(self.outstanding, left.min(shown.wrapping_sub(ended.taken).into()));
            let asked = run.len();
            if asked == 0 {
                // More completions than were shown: a ring does not ask for so many.
                break;
            }
            let (count, stop) = named_in_order(&mut self.records, run, (claims, ended.taken), |_| {}, &mut *each);
            if AGAIN {
                again(run.get(..count).unwrap_or_default());
            }
            self.move_on::<AGAIN>(count);
            // Fewer than there are descriptors.
            ended.taken = ended.taken.wrapping_add(u16::try_from(count).unwrap_or(0));
            if count < asked {
                return (ended, stop.map(|(claim, _)| claim));
            }
        }
        (ended, None)
    }

    /// As [`take_seated`](Self::take_seated), from a completion on that does not just name the oldest, for at most `most`. Who came is
    /// noted until the end, or until one comes that is too far away to be.
    fn take_others<const AGAIN: bool>(
        &mut self,
        mut ended: Ended,
        (most, mut shown): (usize, u16),
        (claims, first): (&impl Claims, Claim),
        mut each: impl FnMut(Done),
        mut again: impl FnMut(&[DescId]),
    ) -> Ended {
        shown = shown.wrapping_sub(ended.taken);
        // Numbers, because nothing goes with each of them: so many are asked for.
        let (mut claim, mut later) = (first, claims.along(ended.taken.wrapping_add(1), 1..most));
        let mut came = Came::default();
        let refused = loop {
            let Found { done, idle_claim, older } = match self.find_seated(claim, shown, came) {
                Ok(found) => found,
                Err(kind) => break Some(kind),
            };
            if !came.note(older) {
                // Of the older ones so many are gone, so it sits where it did and nearer by as many; from there it goes to the oldest seat.
                shown = shown.wrapping_sub(self.settle::<AGAIN>(came, &mut again));
                self.seat_first(done.head);
                came = Came::FIRST;
            }
            ended.count(idle_claim);
            each(done);
            let Some(next) = later.next() else { break None };
            claim = next.1;
        };
        self.settle::<AGAIN>(came, &mut again);
        match refused {
            Some(kind) => self.unlawful(ended, kind, (claim, claims.slot(ended.taken))),
            None => ended,
        }
    }

    /// Decides a completion: that it names one of the oldest `shown` that are out, and none that came, at full width, and claims no more
    /// bytes than were lent; whether it claims some where none were.
    #[inline(always)]
    fn find_seated(&mut self, (id, len): Claim, shown: u16, came: Came) -> Result<Found, ViolationKind> {
        let (head, record) = Self::named(&mut self.records, self.size, id)?;
        let older = self.free.older(record.seat, self.outstanding, shown).ok_or(ViolationKind::IdNotOutstanding)?;
        if came.has(older) {
            return Err(ViolationKind::IdNotOutstanding);
        }
        let (written, idle_claim) = Self::length(record.writable, len)?;
        Ok(Found { done: Done { head, at: record.desc.addr.into(), written }, idle_claim, older })
    }

    /// Those who came are free, or with `AGAIN` lent anew, and `again` is told: they take the oldest seats for that. How many.
    #[inline(always)]
    fn settle<const AGAIN: bool>(&mut self, came: Came, again: &mut impl FnMut(&[DescId])) -> u16 {
        let count = came.count();
        for (early, late) in came.strays() {
            self.change_seats(
                self.free.seat(self.outstanding.wrapping_sub(early)),
                self.free.seat(self.outstanding.wrapping_sub(late)),
            );
        }
        let mut left = count;
        while left > 0 {
            let run = self.free.taken(self.outstanding, left.into());
            let now = run.len();
            assert!(now > 0, "who came was out");
            if AGAIN {
                again(run);
            }
            self.move_on::<AGAIN>(now);
            // No more than are left.
            left = left.wrapping_sub(u16::try_from(now).unwrap_or(left));
        }
        count
    }

    /// One that is out changes seats with the oldest.
    #[inline(always)]
    fn seat_first(&mut self, head: DescId) {
        let Some(seat) = self.records.get(head.index()).map(|record| record.seat) else { return };
        self.change_seats(self.free.seat(self.outstanding), seat);
    }

    /// The oldest `count` that are out are free, or with `AGAIN` lent anew.
    #[inline(always)]
    pub(super) fn move_on<const AGAIN: bool>(&mut self, count: usize) {
        if !self.free.is_round(self.outstanding) || (AGAIN && self.free.len() > 0) {
            return self.move_each::<AGAIN>(count);
        }
        self.free.push_run(count);
        if AGAIN {
            self.free.pop_run(count);
        } else {
            // Never more than there are descriptors.
            self.outstanding = self.outstanding.wrapping_sub(u16::try_from(count).unwrap_or(0));
        }
    }

    /// As [`move_on`](Self::move_on), where there are empty seats, or free descriptors to be passed.
    #[inline(never)]
    fn move_each<const AGAIN: bool>(&mut self, count: usize) {
        for _ in 0..count {
            let (from, front, end) = (self.free.seat(self.outstanding), self.free.seat_ahead(0), self.free.end_seat());
            let Some(oldest) = self.free.sitting(from) else { return };
            if AGAIN {
                // Who is lent next changes.
                self.asked = 0;
                // The first one that is free goes to the end of the row, and leaves its seat.
                if self.free.len() > 0
                    && let Some(first) = self.free.sitting(front)
                {
                    self.seat(end, first);
                }
                self.seat(front, oldest);
                self.free.push_run(1);
                self.free.pop_run(1);
            } else {
                self.seat(end, oldest);
                self.free.push_run(1);
                self.outstanding = self.outstanding.wrapping_sub(1);
            }
        }
    }

    /// Puts a descriptor on a seat.
    #[inline(always)]
    fn seat(&mut self, seat: u16, id: DescId) {
        self.free.sit(seat, id);
        if let Some(record) = self.records.get_mut(id.index()) {
            record.seat = seat;
        }
    }

    /// Those who have these seats change them.
    #[inline(always)]
    fn change_seats(&mut self, one: u16, other: u16) {
        let (Some(first), Some(second)) = (self.free.sitting(one), self.free.sitting(other)) else { return };
        self.seat(one, second);
        self.seat(other, first);
    }
}

/// With in-order use.
impl Ledger<()> {
    /// As [`redeem_oldest`](Self::redeem_oldest), where seats tell.
    #[inline(always)]
    pub(super) fn redeem_oldest_seated(
        &mut self,
        (most, limit): (usize, u16),
        unshown: Unshown,
        claims: &impl Claims,
        mut each: impl FnMut(Done),
    ) -> Ended {
        let shown = self.shown(unshown.count);
        let most = most.min(limit.into());
        let (ended, other) = self.take_oldest::<false>((most, shown), claims, &mut each, &mut |_| {});
        match other {
            Some(claim) => self.other_than_oldest(ended, (claim, claims.slot(ended.taken)), unshown, limit),
            None => ended,
        }
    }

    /// As [`exchange_oldest`](Self::exchange_oldest), where seats tell.
    #[inline(always)]
    pub(super) fn exchange_oldest_seated(
        &mut self,
        (most, limit): (usize, u16),
        (shown, place): (u16, u16),
        claims: &impl Claims,
        mut each: impl FnMut(Done),
        mut again: impl FnMut(&[DescId]),
    ) -> Ended {
        let can_be_named = self.shown(place.wrapping_sub(shown));
        let most = most.min(limit.into());
        let (ended, other) = self.take_oldest::<true>((most, can_be_named), claims, &mut each, &mut again);
        self.next = place.wrapping_add(ended.taken);
        match other {
            Some(claim) => {
                // What was posted again in this burst counts: the device was not shown it.
                let unshown = Unshown { from: shown, count: self.next.wrapping_sub(shown) };
                self.other_than_oldest(ended, (claim, claims.slot(ended.taken)), unshown, limit)
            }
            None => ended,
        }
    }

    /// As [`exchange_oldest_one`](Self::exchange_oldest_one), where seats tell.
    #[inline(always)]
    pub(super) fn exchange_oldest_seated_one(
        &mut self,
        limit: u16,
        (shown, place): (u16, u16),
        (claim, slot): (Claim, u32),
        each: impl FnOnce(Done),
    ) -> Ended {
        let unshown = Unshown { from: shown, count: place.wrapping_sub(shown) };
        let can_be_named = self.shown(unshown.count);
        if let Some(done) = self.if_oldest(claim, can_be_named) {
            return self.exchange_found(done, place, each);
        }
        self.other_than_oldest(Ended::default(), (claim, slot), unshown, limit)
    }

    /// As [`redeem_batch`](Self::redeem_batch), or with `AGAIN` as [`exchange_batch`](Self::exchange_batch), where seats tell: of whom `each`
    /// wants to know nothing, nothing is looked at.
    #[inline(always)]
    pub(super) fn batch_seated<const AGAIN: bool>(&mut self, most: usize, mut each: impl FnMut(Done)) -> Ended {
        let mut ended = Ended::default();
        while usize::from(ended.taken) < most && self.batch.left > 0 {
            let left = most.wrapping_sub(ended.taken.into()).min(self.batch.left.into());
            let run = self.free.taken(self.outstanding, left);
            assert!(!run.is_empty(), "chains of a batch are out");
            let Batch { left: mut out, written: in_last, idle_claim } = self.batch;
            for head in run {
                out = out.wrapping_sub(1);
                let record = self.records.get(head.index());
                let (at, writable) = record.map_or((0, 0), |record| (record.desc.addr, record.writable));
                let written = if out == 0 { in_last } else { writable };
                each(Done { head: *head, at: at.into(), written });
            }
            let count = run.len();
            ended.taken = ended.taken.wrapping_add(self.batch.left.wrapping_sub(out));
            ended.idle_claims = ended.idle_claims.wrapping_add(u16::from(idle_claim && out == 0));
            self.batch.left = out;
            self.move_on::<AGAIN>(count);
        }
        ended
    }
}

#[cfg(test)]
mod tests;
