//! Loans of one descriptor, which is never lent in another way: what the fast paths make.
//!
//! The same records and the same decisions as for chains, in one look at the record. They come in bursts, so ids are taken
//! from their rows and put there in runs, and what is the same for all loans of a burst is done once. With in-order use: in
//! [`oldest`](super::oldest).

use ironring_common::index::{DescId, GuestAddr};
use ironring_common::spec::split::Descriptor;

use super::claims::Claims;
use super::{Lawful, Ledger, State, Unshown, is_writable};
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
    pub(super) fn count(&mut self, idle_claim: bool) {
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

    /// Tells `each` where the free descriptors point that will be lent next, at most `most` of them.
    #[inline(always)]
    pub(crate) fn next_singles(&self, most: usize, mut each: impl FnMut(GuestAddr)) {
        for head in self.free.front_run(most) {
            let Some(record) = self.records.get(head.index()) else { break };
            each(record.desc.addr.into());
        }
    }

    /// Decides completions of such loans, and ends those that are lawful: their descriptors are free again. At most `most`, and up to
    /// the first that is not lawful.
    #[inline(always)]
    pub(crate) fn redeem_singles(
        &mut self,
        most: usize,
        unshown: Unshown,
        claims: &impl Claims,
        mut each: impl FnMut(Done),
    ) -> Ended {
        debug_assert!(self.order.is_none(), "in order the oldest are expected");
        let Self { records, size, free, .. } = self;
        let (records, size) = (&mut **records, *size);
        let (mut ended, mut stopped, mut goes_on) = (Ended::default(), None, true);
        while usize::from(ended.taken) < most && goes_on {
            let before = ended.taken;
            let run = free.back_run(most.wrapping_sub(usize::from(before)).min(claims.left(before)));
            let asked = run.len();
            let Some((to, later)) = run.split_first_mut() else { break };
            let Some(claim) = claims.one(before) else { break };
            let (mut to, mut claim, mut later) = (to, claim, claims.along(before.wrapping_add(1), later));
            let mut count = 0usize;
            loop {
                let Lawful { head, record, written, idle_claim } = match Self::decide(records, size, claim, unshown) {
                    Ok(lawful) => lawful,
                    Err(kind) => {
                        stopped = Some((kind, claim, claims.slot(ended.taken)));
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
                let Some(next) = later.next() else { break };
                (to, claim) = next;
            }
            // It borrows the places.
            drop(later);
            goes_on = count == asked;
            free.push_run(count);
        }
        self.outstanding = self.outstanding.wrapping_sub(ended.taken);
        self.stopped(ended, stopped)
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
    pub(super) fn unlawful(&mut self, ended: Ended, kind: ViolationKind, (claim, slot): (Claim, u32)) -> Ended {
        let fault = self.fault(kind, claim, slot);
        self.fail(ended, fault)
    }

    #[cold]
    pub(super) fn fail(&mut self, ended: Ended, fault: Fault) -> Ended {
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
    /// those that were posted. What the device was not shown begins with number `shown`. At most to where the ring ends.
    #[inline(always)]
    pub(crate) fn exchange_singles(
        &mut self,
        most: usize,
        (shown, place): (u16, u16),
        claims: &impl Claims,
        mut each: impl FnMut(Done),
    ) -> Ended {
        debug_assert!(self.order.is_none(), "in order the oldest are expected");
        let Self { records, size, .. } = self;
        let (records, size) = (&mut **records, *size);
        let mut ended = Ended::default();
        let most = most.min(claims.left(0));
        if most == 0 {
            return ended;
        }
        let Some(claim) = claims.one(0) else { return ended };
        // Numbers, because nothing goes with each of them: so many are asked for.
        let (mut claim, mut later) = (claim, claims.along(1, 1..most));
        let (mut place, mut stopped) = (place, None);
        loop {
            // What was posted again in this burst counts: the device was not shown it.
            let unshown = Unshown { from: shown, count: place.wrapping_sub(shown) };
            let Lawful { head, record, written, idle_claim } = match Self::decide(records, size, claim, unshown) {
                Ok(lawful) => lawful,
                Err(kind) => {
                    stopped = Some((kind, claim, claims.slot(ended.taken)));
                    break;
                }
            };
            assert!(record.count == 1, "only single descriptors are lent here");
            record.place = place;
            let desc = record.desc;
            place = place.wrapping_add(1);
            ended.count(idle_claim);
            each(Done { head, at: desc.addr.into(), written });
            let Some(next) = later.next() else { break };
            claim = next.1;
        }
        self.stopped(ended, stopped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironring_common::index::QueueSize;

    /// As many of the free ones as lie in one piece.
    #[test]
    fn the_next_ones_are_those_that_are_lent_next() {
        let mut ledger = Ledger::<()>::new(QueueSize::split(8).unwrap(), false);
        ledger.bind(|id| Descriptor { addr: 100 + u64::from(id.get()), ..Descriptor::default() });
        let next = |ledger: &Ledger<()>, most| {
            let mut found = Vec::new();
            ledger.next_singles(most, |at| found.push(at.0));
            found
        };
        assert_eq!(next(&ledger, 3), [100, 101, 102]);
        assert!(next(&ledger, 0).is_empty());
        let mut lent = Vec::new();
        let lens = core::iter::repeat_n(60, 6);
        ledger.lend_singles(6, 0, (Direction::ToDevice, lens), |one| lent.push(one.desc.addr), |_| {});
        assert_eq!((lent, next(&ledger, 9)), ((100..106).collect(), vec![106, 107]));
        let lens = core::iter::repeat_n(60, 2);
        ledger.lend_singles(2, 6, (Direction::ToDevice, lens), |_| {}, |_| {});
        assert!(next(&ledger, 9).is_empty());
    }

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
