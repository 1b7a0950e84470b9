//! Loans of one descriptor, which is never lent in another way: what the fast paths make.
//!
//! The same records and the same decisions as for chains, in one look at the record; with in-order use, where it is known what comes
//! next, in one compare. They come in bursts, so ids are taken
//! from their rows and put there in runs, and what is the same for all loans of a burst is done once.

use ironring_common::index::DescId;
use ironring_common::spec::split::Descriptor;

use super::fifo::Fifo;
use super::{Batch, Lawful, Ledger, Record, State, Unshown, is_writable};
use crate::boundary::Claim;
use crate::mapper::Direction;
use crate::queue::slots::Done;
use crate::queue::violation::{Fault, Latch, Violation, ViolationKind};

/// A descriptor that was lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lent {
    pub(crate) head: DescId,
    /// As it is to stand in shared memory.
    pub(crate) desc: Descriptor,
    /// Whether its length differs from what was booked under its id before. All else is as it was bound.
    pub(crate) changed: bool,
}

/// What became of the loans of a burst.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    /// Loans that ended.
    pub(crate) taken: u16,
    /// Those of which the device claimed to have written to what it may only read.
    pub(crate) idle_claims: u16,
    /// Whether the last completion was opened as a batch: it stands for many, or for one and claims what is not lent.
    pub(crate) opened: bool,
    /// Whether a fault ended the burst early: [`Ledger::broken_by`] has it.
    pub(crate) faulty: bool,
}

impl Ended {
    #[inline(always)]
    fn count(&mut self, idle_claim: bool) {
        self.taken = self.taken.wrapping_add(1);
        self.idle_claims = self.idle_claims.wrapping_add(u16::from(idle_claim));
    }
}

impl Ledger<()> {
    /// Books what each descriptor says for ever but for its length: what `describe` gives for it. None is out.
    pub(crate) fn bind(&mut self, describe: impl Fn(DescId) -> Descriptor) {
        assert!(self.outstanding == 0, "descriptors are bound before any is lent");
        for id in self.free.iter() {
            let Some(record) = self.records.get_mut(id.index()) else { continue };
            record.desc = describe(id);
            record.count = 1;
            record.writable = if is_writable(record.desc) { record.desc.len } else { 0 };
        }
    }

    /// Lends free descriptors that were bound, each a chain by itself, of so many `bytes` each; as many as there are, `most` at
    /// most. `write` writes each of them, and `show` their ids, in runs. They are the chains from number `place` on.
    #[inline(always)]
    pub(crate) fn lend_singles(
        &mut self,
        most: usize,
        place: u16,
        (direction, bytes): (Direction, impl IntoIterator<Item = u32>),
        mut write: impl FnMut(Lent),
        mut show: impl FnMut(&[DescId]),
    ) -> u16 {
        let Self { records, free, order, .. } = self;
        let records = &mut **records;
        let mut bytes = bytes.into_iter();
        let mut place = place;
        let mut lent = 0usize;
        loop {
            let run = free.front_run(most.saturating_sub(lent));
            let first = place;
            for (head, bytes) in run.iter().zip(&mut bytes) {
                let Some(record) = records.get_mut(head.index()) else { break };
                debug_assert_eq!(is_writable(record.desc), direction == Direction::FromDevice, "as it was bound");
                debug_assert_eq!(record.count, 1, "as it was bound");
                let changed = record.desc.len != bytes;
                if changed {
                    record.desc.len = bytes;
                }
                if direction == Direction::FromDevice {
                    record.writable = bytes;
                }
                record.token = Some(());
                record.place = place;
                record.state = State::Head;
                place = place.wrapping_add(1);
                write(Lent { head: *head, desc: record.desc, changed });
            }
            let count = usize::from(place.wrapping_sub(first));
            let run = run.get(..count).unwrap_or_default();
            show(run);
            if let Some(order) = order {
                order.extend(run);
            }
            lent = lent.wrapping_add(count);
            free.pop_run(count);
            if count == 0 {
                break;
            }
        }
        // Never more than there are descriptors.
        let lent = u16::try_from(lent).unwrap_or(0);
        self.outstanding = self.outstanding.wrapping_add(lent);
        lent
    }

    /// Decides completions of such loans, as `next` tells them with the slot where each stands, and ends those that are
    /// lawful: their descriptors are free again. At most `most`, and up to the first that is not lawful.
    #[inline(always)]
    pub(crate) fn redeem_singles(
        &mut self,
        most: usize,
        unshown: Unshown,
        mut next: impl FnMut() -> Option<(u32, Claim)>,
        mut each: impl FnMut(Done),
    ) -> Ended {
        debug_assert!(self.order.is_none(), "in order the oldest are expected");
        let Self { records, size, free, .. } = self;
        let (records, size) = (&mut **records, *size);
        let (mut ended, mut stopped, mut goes_on) = (Ended::default(), None, true);
        while usize::from(ended.taken) < most && goes_on {
            let run = free.back_run(most.wrapping_sub(usize::from(ended.taken)));
            let mut count = 0usize;
            goes_on = !run.is_empty();
            for to in run {
                let Some((slot, claim)) = next() else {
                    goes_on = false;
                    break;
                };
                let Lawful { head, record, written, idle_claim } = match Self::decide(records, size, claim, unshown) {
                    Ok(lawful) => lawful,
                    Err(kind) => {
                        (stopped, goes_on) = (Some((kind, claim, slot)), false);
                        break;
                    }
                };
                assert!(record.count == 1, "only single descriptors are lent here");
                record.token = None;
                record.state = State::Free;
                *to = head;
                count = count.wrapping_add(1);
                ended.count(idle_claim);
                each(Done { head, at: record.desc.addr.into(), written });
            }
            free.push_run(count);
        }
        self.outstanding = self.outstanding.wrapping_sub(ended.taken);
        self.stopped(ended, stopped)
    }

    /// As [`redeem_singles`](Self::redeem_singles), with in-order use, as long as completions name just the chains that are out
    /// longest. What comes next is known then, so that to name it is all that there is to check of an id. `limit` of them have been
    /// shown, and no more are taken. A completion that names another one, or claims what is not lent, is decided as all others
    /// are, and if it is lawful, opened as a batch.
    #[inline(always)]
    pub(crate) fn redeem_oldest(
        &mut self,
        (most, limit): (usize, u16),
        unshown: Unshown,
        mut next: impl FnMut() -> Option<(u32, Claim)>,
        mut each: impl FnMut(Done),
    ) -> Ended {
        let Self { records, free, order, .. } = self;
        let records = &mut **records;
        let (mut ended, mut stopped, mut goes_on) = (Ended::default(), None, true);
        let most = most.min(limit.into());
        debug_assert!(order.is_some(), "as the ledger was made");
        let Some(order) = order else { return ended };
        while usize::from(ended.taken) < most && goes_on {
            let run = order.front_run(most.wrapping_sub(usize::from(ended.taken)));
            let end = |record: &mut Record<()>| {
                record.token = None;
                record.state = State::Free;
            };
            let count;
            (count, stopped) = named_in_order(records, run, &mut next, end, &mut each);
            goes_on = count > 0 && count == run.len();
            free.extend(run.get(..count).unwrap_or_default());
            order.pop_run(count);
            // Never more than there are descriptors.
            ended.taken = ended.taken.wrapping_add(u16::try_from(count).unwrap_or(0));
        }
        self.outstanding = self.outstanding.wrapping_sub(ended.taken);
        match stopped {
            Some(stop) => self.other_than_oldest(ended, stop, unshown, limit),
            None => ended,
        }
    }

    /// What ended a burst early, if that was a fault.
    #[inline(always)]
    fn stopped(&mut self, ended: Ended, stop: Option<(ViolationKind, Claim, u32)>) -> Ended {
        match stop {
            Some((kind, claim, slot)) => self.unlawful(ended, kind, (claim, slot)),
            None => ended,
        }
    }

    #[cold]
    fn unlawful(&mut self, ended: Ended, kind: ViolationKind, (claim, slot): (Claim, u32)) -> Ended {
        let fault = self.fault(kind, claim, slot);
        self.fail(ended, fault)
    }

    /// With in-order use: a completion that does not just name the oldest chain, or claims what that does not lend. If it is
    /// lawful it stands for all chains from the oldest up to the one that it names, at most `limit` with those of the burst. They
    /// are lent still.
    #[cold]
    fn other_than_oldest(
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

    #[cold]
    fn fail(&mut self, ended: Ended, fault: Fault) -> Ended {
        self.keep_fault(fault);
        Ended { faulty: true, ..ended }
    }

    /// Keeps what ended a burst early, for [`broken_by`](Self::broken_by), for ever: nothing is taken from a device that is broken.
    #[cold]
    pub(crate) const fn keep_fault(&mut self, fault: Fault) {
        self.fault = Some(fault);
    }

    /// Latches what ended a burst early.
    #[cold]
    pub(crate) fn latch_fault(&self, latch: &Latch, queue: u16) {
        if let Some(fault) = self.fault {
            latch.trip(fault.in_queue(queue));
        }
    }

    /// What ended a burst early: the violation that is latched, or if another queue is about to latch one, the fault of this.
    #[cold]
    pub(crate) fn broken_by(&self, latch: &Latch, queue: u16) -> Violation {
        let latched = latch.violation().or_else(|| self.fault.map(|fault| fault.in_queue(queue)));
        // Without a fault of its own a burst is broken by the one that is latched.
        latched.unwrap_or(Violation::of_device(ViolationKind::Abandoned))
    }

    /// As [`redeem_singles`](Self::redeem_singles), and lends each descriptor again at once, from the number `place` on of
    /// those that were posted. What the device was not shown begins with number `shown`.
    #[inline(always)]
    pub(crate) fn exchange_singles(
        &mut self,
        most: usize,
        (shown, place): (u16, u16),
        mut next: impl FnMut() -> Option<(u32, Claim)>,
        mut each: impl FnMut(Done),
    ) -> Ended {
        debug_assert!(self.order.is_none(), "in order the oldest are expected");
        let Self { records, size, .. } = self;
        let (records, size) = (&mut **records, *size);
        let mut ended = Ended::default();
        let (mut place, mut stopped) = (place, None);
        for _ in 0..most {
            let Some((slot, claim)) = next() else { break };
            // What was posted again in this burst counts: the device was not shown it.
            let unshown = Unshown { from: shown, count: place.wrapping_sub(shown) };
            let Lawful { head, record, written, idle_claim } = match Self::decide(records, size, claim, unshown) {
                Ok(lawful) => lawful,
                Err(kind) => {
                    stopped = Some((kind, claim, slot));
                    break;
                }
            };
            assert!(record.count == 1, "only single descriptors are lent here");
            record.place = place;
            let desc = record.desc;
            place = place.wrapping_add(1);
            ended.count(idle_claim);
            each(Done { head, at: desc.addr.into(), written });
        }
        self.stopped(ended, stopped)
    }

    /// As [`redeem_oldest`](Self::redeem_oldest), and lends each descriptor again at once, as
    /// [`exchange_singles`](Self::exchange_singles). `again` is told which, in runs.
    #[inline(always)]
    pub(crate) fn exchange_oldest(
        &mut self,
        (most, limit): (usize, u16),
        (shown, place): (u16, u16),
        mut next: impl FnMut() -> Option<(u32, Claim)>,
        mut each: impl FnMut(Done),
        mut again: impl FnMut(&[DescId]),
    ) -> Ended {
        let Self { records, order, .. } = self;
        let records = &mut **records;
        let (mut ended, mut place, mut stopped, mut goes_on) = (Ended::default(), place, None, true);
        let most = most.min(limit.into());
        debug_assert!(order.is_some(), "as the ledger was made");
        let Some(order) = order else { return ended };
        while usize::from(ended.taken) < most && goes_on {
            let run = order.front_run(most.wrapping_sub(usize::from(ended.taken)));
            let end = |record: &mut Record<()>| {
                record.place = place;
                place = place.wrapping_add(1);
            };
            let count;
            (count, stopped) = named_in_order(records, run, &mut next, end, &mut each);
            goes_on = count > 0 && count == run.len();
            again(run.get(..count).unwrap_or_default());
            order.rotate(count);
            // Never more than there are descriptors.
            ended.taken = ended.taken.wrapping_add(u16::try_from(count).unwrap_or(0));
        }
        match stopped {
            // What was posted again in this burst counts: the device was not shown it.
            Some(stop) => {
                let unshown = Unshown { from: shown, count: place.wrapping_sub(shown) };
                self.other_than_oldest(ended, stop, unshown, limit)
            }
            None => ended,
        }
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

/// Ends, by `end`, the loans of the chains that are out longest, a run of them, as long as `next` names just those, and tells `each`.
/// How many, and the completion that stopped it because it says something else.
#[inline(always)]
fn named_in_order(
    records: &mut [Record<()>],
    oldest: &[DescId],
    mut next: impl FnMut() -> Option<(u32, Claim)>,
    mut end: impl FnMut(&mut Record<()>),
    mut each: impl FnMut(Done),
) -> (usize, Option<(Claim, u32)>) {
    let mut count = 0usize;
    for head in oldest {
        let Some((slot, claim)) = next() else { break };
        let Some(record) = records.get_mut(head.index()) else { break };
        assert!(record.count == 1 && record.state == State::Head, "single descriptors are lent here, in order");
        let Some(written) = of_oldest(*head, record.writable, claim) else { return (count, Some((claim, slot))) };
        end(record);
        count = count.wrapping_add(1);
        each(Done { head: *head, at: record.desc.addr.into(), written });
    }
    (count, None)
}

/// What was written into the oldest chain that is out, `head`, which was lent `writable`: if that is what the completion is
/// about, and if it claims no more.
#[inline(always)]
fn of_oldest(head: DescId, writable: u32, (id, len): Claim) -> Option<u32> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use ironring_common::index::QueueSize;

    /// As when another queue has begun to latch one and has not ended.
    #[test]
    fn a_burst_is_broken_by_what_is_latched_or_else_by_its_own_fault() {
        let mut ledger = Ledger::<()>::new(QueueSize::split(4).unwrap(), false);
        let latch = Latch::new();
        let fault = Fault { kind: ViolationKind::IdOutOfRange, slot: 3, observed: 9, expected: 3 };
        assert!(ledger.fail(Ended::default(), fault).faulty);
        assert!(latch.is_healthy(), "it is not latched by that");
        assert_eq!(ledger.broken_by(&latch, 5), fault.in_queue(5));
        let first = Fault { slot: 7, ..fault }.in_queue(1);
        latch.trip(first);
        ledger.latch_fault(&latch, 5);
        assert_eq!((ledger.broken_by(&latch, 5), latch.violation()), (first, Some(first)));
    }
}
