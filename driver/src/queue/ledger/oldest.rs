//! With in-order use: it is known which loan ends next, so to name it is all that there is to check of an id, in one compare.
//!
//! As in [`single`](super::single), of which this is the other half: descriptors that are chains by themselves, and bursts.

use ironring_common::index::DescId;

use super::claims::Claims;
use super::fifo::Fifo;
use super::single::Ended;
use super::{Batch, Ledger, Record, State, Unshown};
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
        let Self { records, free, order, .. } = self;
        debug_assert!(order.is_some(), "as the ledger was made");
        let Some(order) = order else { return Ended::default() };
        let end = |record: &mut Record<()>| {
            record.token = None;
            record.state = State::Free;
        };
        let gone = |order: &mut Fifo, count: usize| {
            free.extend(order.front_run(count));
            order.pop_run(count);
        };
        let (ended, stopped) = oldest_in_turn((records, order), most.min(limit.into()), claims, (end, gone), &mut each);
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
        let Self { records, order, .. } = self;
        debug_assert!(order.is_some(), "as the ledger was made");
        let Some(order) = order else { return Ended::default() };
        let mut place = place;
        let end = |record: &mut Record<()>| {
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
                assert!(record.count == 1 && record.state == State::Head, "single descriptors are lent here, in order");
                record.token = None;
                record.state = State::Free;
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
        let Self { records, order, batch, .. } = self;
        let records = &mut **records;
        let mut ended = Ended::default();
        let mut place = place;
        while usize::from(ended.taken) < most && batch.left > 0 {
            let Some(head) = order.as_mut().and_then(Fifo::pop_front) else { return self.no_chain(ended, slot) };
            let Some(record) = records.get_mut(head.index()) else { return self.no_chain(ended, slot) };
            assert!(record.count == 1 && record.state == State::Head, "single descriptors are lent here, in order");
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
fn named_in_order(
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
        assert!(record.count == 1 && record.state == State::Head, "single descriptors are lent here, in order");
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

impl Batch {
    /// What the device says that it wrote into the chain that was taken last, which was lent so much `writable`; and whether
    /// it claims what was not lent.
    #[inline(always)]
    fn of_next(&self, writable: u32) -> (u32, bool) {
        if self.left == 0 { (self.written, self.idle_claim) } else { (writable, false) }
    }
}
