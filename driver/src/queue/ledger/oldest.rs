//! With in-order use: it is known which loan ends next, so to name it is all that there is to check of an id, in one compare.
//!
//! As in [`single`](super::single), of which this is the other half: descriptors that are chains by themselves, and bursts.

use ironring_common::index::DescId;

use super::claims::Claims;
use super::fifo::Fifo;
use super::single::Ended;
use super::{Batch, Ledger, Record, State, Told, Unshown};
use crate::boundary::Claim;
use crate::queue::slots::Done;
use crate::queue::violation::{Fault, ViolationKind};

impl Ledger<()> {
    /// As [`redeem_singles`](Self::redeem_singles), with in-order use, as long as completions name just the chains that are out
    /// longest. What comes next is known then, so that to name it is all that there is to check of an id. `limit` of them have been
    /// shown, and no more are taken. A completion that names another one, or claims what is not lent, is decided as all others
    /// are, and if it is lawful, opened as a batch.
    #[inline(always)]
    pub(crate) fn redeem_oldest(
        &mut self,
        (most, limit): (usize, u16),
        unshown: Unshown,
        claims: &impl Claims,
        mut each: impl FnMut(Done),
    ) -> Ended {
        debug_assert!(self.order.is_some(), "as the ledger was made");
        if self.told == Told::BySeat {
            return self.redeem_oldest_seated((most, limit), unshown, claims, each);
        }
        let Self { records, free, order, .. } = self;
        let Some(order) = order else { return Ended::default() };
        let gone = |order: &mut Fifo, count: usize| {
            free.extend(order.front_run(count));
            order.pop_run(count);
        };
        let (ended, stopped) =
            oldest_in_turn((records, order), most.min(limit.into()), claims, (Record::end, gone), &mut each);
        self.outstanding = self.outstanding.wrapping_sub(ended.taken);
        match stopped {
            Some(stop) => self.other_than_oldest(ended, stop, unshown, limit),
            None => ended,
        }
    }

    /// As [`redeem_oldest`](Self::redeem_oldest), and lends each descriptor again at once, as
    /// [`exchange_singles`](Self::exchange_singles). `again` is told which, in runs.
    #[inline(always)]
    pub(crate) fn exchange_oldest(
        &mut self,
        (most, limit): (usize, u16),
        (shown, place): (u16, u16),
        claims: &impl Claims,
        mut each: impl FnMut(Done),
        mut again: impl FnMut(&[DescId]),
    ) -> Ended {
        debug_assert!(self.order.is_some(), "as the ledger was made");
        if self.told == Told::BySeat {
            return self.exchange_oldest_seated((most, limit), (shown, place), claims, each, again);
        }
        let Self { records, order, .. } = self;
        let Some(order) = order else { return Ended::default() };
        let mut place = place;
        let end = |record: &mut Record<()>| {
            record.expect_single();
            record.place = place;
            place = place.wrapping_add(1);
        };
        let gone = |order: &mut Fifo, count: usize| {
            again(order.front_run(count));
            order.rotate(count);
        };
        let (ended, stopped) = oldest_in_turn((records, order), most.min(limit.into()), claims, (end, gone), &mut each);
        match stopped {
            // What was posted again in this burst counts: the device was not shown it.
            Some(stop) => {
                let unshown = Unshown { from: shown, count: place.wrapping_sub(shown) };
                self.other_than_oldest(ended, stop, unshown, limit)
            }
            None => ended,
        }
    }

    /// With in-order use: a completion that does not just name the oldest chain, or claims what that does not lend. If it is
    /// lawful it stands for all chains from the oldest up to the one that it names, at most `limit` with those of the burst. They
    /// are lent still.
    #[cold]
    pub(super) fn other_than_oldest(
        &mut self,
        ended: Ended,
        ((id, len), slot): (Claim, u32),
        unshown: Unshown,
        limit: u16,
    ) -> Ended {
        match self.open_batch(id, len, slot, unshown, limit.saturating_sub(ended.taken)) {
            Ok(_) => Ended { opened: true, ..ended },
            Err(fault) => self.fail(ended, fault),
        }
    }

    /// A batch that was opened has no chain, which no device can bring about.
    #[cold]
    fn no_chain(&mut self, ended: Ended, slot: u32) -> Ended {
        self.fail(ended, Fault { kind: ViolationKind::IdNotOutstanding, slot, observed: 0, expected: 0 })
    }

    /// Ends the loans of the oldest chains of an opened batch, `most` at most, as
    /// [`next_in_batch`](Self::next_in_batch): all but the last one count as written in full.
    #[inline(always)]
    pub(crate) fn redeem_batch(&mut self, most: usize, slot: u32, mut each: impl FnMut(Done)) -> Ended {
        if self.told == Told::BySeat {
            return self.batch_seated::<false>(most, each);
        }
        let Self { records, free, order, batch, .. } = self;
        let records = &mut **records;
        let mut ended = Ended::default();
        let Some(order) = order else { return self.no_chain(ended, slot) };
        while usize::from(ended.taken) < most && batch.left > 0 {
            let left = most.saturating_sub(usize::from(ended.taken)).min(usize::from(batch.left));
            let run = order.front_run(left);
            assert!(!run.is_empty(), "chains of a batch are out");
            let Batch { left: mut out, written: in_last, idle_claim } = *batch;
            for head in run {
                let Some(record) = records.get_mut(head.index()) else { return self.no_chain(ended, slot) };
                record.end();
                out = out.wrapping_sub(1);
                let written = if out == 0 { in_last } else { record.writable };
                each(Done { head: *head, at: record.desc.addr.into(), written });
            }
            let count = run.len();
            ended.taken = ended.taken.wrapping_add(batch.left.wrapping_sub(out));
            ended.idle_claims = ended.idle_claims.wrapping_add(u16::from(idle_claim && out == 0));
            batch.left = out;
            free.extend(run);
            order.pop_run(count);
        }
        self.outstanding = self.outstanding.wrapping_sub(ended.taken);
        ended
    }

    /// As [`redeem_batch`](Self::redeem_batch), and lends each descriptor again, as
    /// [`exchange_singles`](Self::exchange_singles).
    #[inline(always)]
    pub(crate) fn exchange_batch(&mut self, most: usize, place: u16, slot: u32, mut each: impl FnMut(Done)) -> Ended {
        if self.told == Told::BySeat {
            let ended = self.batch_seated::<true>(most, each);
            self.next = place.wrapping_add(ended.taken);
            return ended;
        }
        let Self { records, order, batch, .. } = self;
        let records = &mut **records;
        let mut ended = Ended::default();
        let mut place = place;
        while usize::from(ended.taken) < most && batch.left > 0 {
            let Some(head) = order.as_mut().and_then(Fifo::pop_front) else { return self.no_chain(ended, slot) };
            let Some(record) = records.get_mut(head.index()) else { return self.no_chain(ended, slot) };
            record.expect_single();
            record.place = place;
            place = place.wrapping_add(1);
            batch.left = batch.left.wrapping_sub(1);
            let (written, idle_claim) = batch.of_next(record.writable);
            ended.count(idle_claim);
            let desc = record.desc;
            if let Some(order) = order {
                order.push_back(head);
            }
            each(Done { head, at: desc.addr.into(), written });
        }
        ended
    }
}

/// Ends, by `end`, the loans of the chains that are out longest, at most `most`, run by run, as [`named_in_order`] does; `gone` is told how
/// many of each run did, which are still the oldest. The completion that stopped it is told too, with its slot.
#[inline(always)]
fn oldest_in_turn(
    (records, order): (&mut [Record<()>], &mut Fifo),
    most: usize,
    claims: &impl Claims,
    (mut end, mut gone): (impl FnMut(&mut Record<()>), impl FnMut(&mut Fifo, usize)),
    mut each: impl FnMut(Done),
) -> (Ended, Option<(Claim, u32)>) {
    let (mut ended, mut stopped, mut goes_on) = (Ended::default(), None, true);
    while usize::from(ended.taken) < most && goes_on {
        let left = most.wrapping_sub(usize::from(ended.taken)).min(claims.left(ended.taken));
        let run = order.front_run(left);
        let count;
        (count, stopped) = named_in_order(records, run, (claims, ended.taken), &mut end, &mut each);
        goes_on = count > 0 && count == run.len();
        gone(order, count);
        // Never more than there are descriptors.
        ended.taken = ended.taken.wrapping_add(u16::try_from(count).unwrap_or(0));
    }
    (ended, stopped)
}

/// Ends, by `end`, the loans of the chains that are out longest, a run of them, as long as the claims behind the first `skip` name just
/// those, and tells `each`. How many, and the completion that stopped it because it says something else.
#[inline(always)]
pub(super) fn named_in_order(
    records: &mut [Record<()>],
    oldest: &[DescId],
    (claims, skip): (&impl Claims, u16),
    mut end: impl FnMut(&mut Record<()>),
    mut each: impl FnMut(Done),
) -> (usize, Option<(Claim, u32)>) {
    let mut count = 0usize;
    // The first one of a burst may have been looked at before, so there is no iterator of all.
    let Some((head, later)) = oldest.split_first() else { return (count, None) };
    let Some(claim) = claims.one(skip) else { return (count, None) };
    let (mut head, mut claim, mut later) = (head, claim, claims.along(skip.wrapping_add(1), later));
    while let Some(record) = records.get_mut(head.index()) {
        let Some(written) = of_oldest(*head, record.writable, claim) else {
            // Fewer than there are descriptors.
            let before = skip.wrapping_add(u16::try_from(count).unwrap_or(0));
            return (count, Some((claim, claims.slot(before))));
        };
        end(record);
        count = count.wrapping_add(1);
        each(Done { head: *head, at: record.desc.addr.into(), written });
        let Some(next) = later.next() else { break };
        (head, claim) = next;
    }
    (count, None)
}

/// What was written into the oldest chain that is out, `head`, which was lent `writable`: if that is what the completion is
/// about, and if it claims no more.
#[inline(always)]
pub(super) fn of_oldest(head: DescId, writable: u32, (id, len): Claim) -> Option<u32> {
    id.check_with(|id| (id == u32::from(head.get())).then_some(())).ok()?;
    len.check_at_most(writable).ok()
}

impl Record<()> {
    /// Whether the loan of a single descriptor is booked here.
    #[inline(always)]
    pub(super) fn is_single(&self) -> bool {
        self.state == State::Single
    }

    /// The loan of a single descriptor is booked here.
    #[inline(always)]
    pub(super) fn expect_single(&self) {
        assert!(self.is_single(), "single descriptors are lent here, in order");
    }

    /// The loan of a single descriptor ends.
    #[inline(always)]
    fn end(&mut self) {
        self.expect_single();
        self.token = None;
        self.state = State::Free;
    }
}

impl Batch {
    /// What the device says that it wrote into the chain that was taken last, which was lent so much `writable`; and whether
    /// it claims what was not lent.
    #[inline(always)]
    fn of_next(&self, writable: u32) -> (u32, bool) {
        if self.left == 0 { (self.written, self.idle_claim) } else { (writable, false) }
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use ironring_common::claim::Alleged;
    use ironring_common::index::QueueSize;
    use ironring_common::spec::split::Descriptor;

    use crate::mapper::Direction;

    const SHOWN: Unshown = Unshown { from: 0, count: 0 };

    fn claim(id: u16) -> Claim {
        (Alleged::new(id.into()), Alleged::new(0))
    }

    /// Which descriptors can be named now.
    fn named(ledger: &mut Ledger<()>, size: u16) -> Vec<u16> {
        let limit = ledger.outstanding();
        let found =
            (0..size).filter(|id| ledger.open_batch(claim(*id).0, claim(*id).1, 0, SHOWN, limit).is_ok()).collect();
        ledger.batch = Batch::default();
        found
    }

    /// However many are out, of rings of every small size, while numbers go round: those that are out can be named, and no others, though
    /// the records of those that came back in a batch were not looked at.
    #[test]
    fn what_came_back_in_a_batch_cannot_be_named() {
        for size in (1..=9u16).chain([QueueSize::MAX]) {
            let mut ledger = Ledger::<()>::new(QueueSize::packed(size).unwrap(), true);
            ledger.bind(|_| Descriptor::default());
            assert!(ledger.told == Told::BySeat && named(&mut ledger, size).is_empty());
            let (mut out, mut place, mut dice) = (Vec::new(), u16::MAX - 40, 1u32);
            for _ in 0..if size < 10 { 300 } else { 12 } {
                dice = dice.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                let most = usize::try_from(dice >> 16).unwrap() % (usize::from(size) + 1);
                let lens = core::iter::repeat_n(60, most);
                let fill = |head: DescId, _| out.push(head.get());
                let none = (|_| {}, |_: &[DescId]| {});
                place = place.wrapping_add(ledger.lend_singles(most, place, (Direction::ToDevice, lens), none, fill));
                let back = usize::try_from(dice >> 24).unwrap() % (out.len() + 1);
                if back > 0 {
                    let limit = ledger.outstanding();
                    let (id, len) = claim(out[back - 1]);
                    assert_eq!(ledger.open_batch(id, len, 0, SHOWN, limit).map(usize::from), Ok(back));
                    let mut heads = Vec::new();
                    let ended = ledger.redeem_batch(usize::MAX, 0, |done| heads.push(done.head.get()));
                    assert_eq!((usize::from(ended.taken), &heads), (back, &out.drain(..back).collect()));
                }
                let mut sorted = out.clone();
                sorted.sort_unstable();
                assert_eq!(named(&mut ledger, size), sorted, "of {size}, next is {place}");
                assert!(ledger.lent().map(|(head, ..)| head.get()).eq(sorted.iter().copied()) && ledger.is_conserved());
            }
        }
    }

    /// Because others have them in the meantime, for any number of loans.
    #[test]
    fn what_is_given_away_is_told_by_its_record() {
        let size = QueueSize::packed(4).unwrap();
        let mut ledger = Ledger::<()>::new(size, true);
        ledger.bind(|_| Descriptor::default());
        let lend = |ledger: &mut Ledger<()>, place, count| {
            let lens = core::iter::repeat_n(60, count);
            ledger.lend_singles(
                count,
                place,
                (Direction::ToDevice, lens),
                (|_| {}, |_: &[DescId]| {}),
                |_: DescId, _| {},
            )
        };
        let take = |ledger: &mut Ledger<()>, id| {
            let limit = ledger.outstanding();
            ledger.open_batch(claim(id).0, claim(id).1, 0, SHOWN, limit).unwrap();
            ledger.redeem_batch(64, 0, |_| {}).taken
        };
        assert_eq!((lend(&mut ledger, 0, 4), take(&mut ledger, 3)), (4, 4));
        let mut away = [DescId::FIRST; 2];
        assert_eq!(ledger.give_away(&mut away), 2);
        assert!(ledger.records.iter().all(|record| record.token.is_none() && record.state == State::Free));
        // A round of numbers later, when the numbers that they had are those of chains that are out.
        for place in 4..=u16::MAX {
            assert_eq!((lend(&mut ledger, place, 1), take(&mut ledger, if place % 2 == 0 { 2 } else { 3 })), (1, 1));
        }
        assert_eq!(lend(&mut ledger, 0, 2), 2);
        assert_eq!(named(&mut ledger, 4), [2, 3]);
    }
}
