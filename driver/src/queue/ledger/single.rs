//! Loans of one descriptor, which is never lent in another way: what the fast paths make.
//!
//! Where records tell, the same decisions as for chains, in one look at the record. They come in bursts, so ids are taken
//! from their rows and put there in runs, and what is the same for all loans of a burst is done once. What comes back is decided here
//! where records tell; with in-order use in [`oldest`](super::oldest), and where seats tell in [`seats`](super::seats).

use ironring_common::index::{DescId, QueueSize};
use ironring_common::spec::split::Descriptor;

use super::claims::Claims;
use super::{Ledger, Record, State, Told, Unshown, is_writable};
use crate::boundary::Claim;
use crate::mapper::Direction;
use crate::queue::slots::{Done, Filler};
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

/// A completion that may end a loan.
pub(super) struct Lawful<'r> {
    pub(super) head: DescId,
    pub(super) record: &'r mut Record<()>,
    pub(super) written: u32,
    pub(super) idle_claim: bool,
}

impl Ledger<()> {
    /// Books what each descriptor says for ever but for its length: what `describe` gives for it. None is out.
    pub(crate) fn bind(&mut self, describe: impl Fn(DescId) -> Descriptor) {
        assert!(self.outstanding == 0, "descriptors are bound before any is lent");
        self.give_seats();
        for id in self.free.iter() {
            let Some(record) = self.records.get_mut(id.index()) else { continue };
            record.desc = describe(id);
            record.count = 1;
            record.writable = if is_writable(record.desc) { record.desc.len } else { 0 };
        }
    }

    /// Lends free descriptors that were bound, each a chain by itself, of so many `bytes` each; as many as there are, `most` at
    /// most. `write` writes each of them where it changed, `filler` its buffer, and `show` their ids, in runs. They are the chains
    /// from number `place` on.
    #[inline(always)]
    pub(crate) fn lend_singles<F: Filler>(
        &mut self,
        most: usize,
        place: u16,
        (direction, bytes): (Direction, impl IntoIterator<Item = u32>),
        (mut write, show): (impl FnMut(Lent), impl FnMut(&[DescId])),
        mut filler: F,
    ) -> u16 {
        let records = &mut *self.records;
        let (mut bytes, mut filled, mut asked) = (bytes.into_iter(), 0usize, self.asked);
        while filled < most {
            let left = most.wrapping_sub(filled);
            let span = self.free.run_behind(filled, left.saturating_add(F::AHEAD));
            let run = span.get(..left.min(span.len())).unwrap_or_default();
            for head in span.iter().take(F::AHEAD).skip(asked) {
                let Some(record) = records.get(head.index()) else { break };
                filler.soon(record.desc.addr.into());
            }
            let mut later = span.get(F::AHEAD..).unwrap_or_default().iter();
            let mut count = 0usize;
            for (head, bytes) in run.iter().zip(&mut bytes) {
                if F::AHEAD > 0
                    && let Some(next) = later.next()
                    && let Some(record) = records.get(next.index())
                {
                    filler.soon(record.desc.addr.into());
                }
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
                let desc = record.desc;
                write(Lent { head: *head, desc, changed });
                filler.fill(*head, desc.addr.into());
                count = count.wrapping_add(1);
            }
            filled = filled.wrapping_add(count);
            asked = span.len().wrapping_sub(count).min(F::AHEAD);
            if count == 0 {
                break;
            }
        }
        self.asked = asked;
        // Not before: whoever fills them, or says how long they are, may panic, and then none of them is out.
        self.book_lent(filled, place, show)
    }

    /// The first `count` of the free descriptors, which were filled, are out.
    #[inline(always)]
    fn book_lent(&mut self, count: usize, first: u16, mut show: impl FnMut(&[DescId])) -> u16 {
        let Self { records, free, order, told, next, outstanding, .. } = self;
        let records = &mut **records;
        let mut lent = 0u16;
        while usize::from(lent) < count {
            let run = free.front_run(count.wrapping_sub(lent.into()));
            if *told == Told::ByRecord {
                let mut place = first.wrapping_add(lent);
                for head in run {
                    let Some(record) = records.get_mut(head.index()) else { break };
                    record.token = Some(());
                    record.place = place;
                    record.state = State::Single;
                    place = place.wrapping_add(1);
                }
                if let Some(order) = order {
                    order.extend(run);
                }
            }
            show(run);
            // Never more than there are descriptors.
            let now = u16::try_from(run.len()).unwrap_or(0);
            assert!(now > 0, "what was filled is free");
            free.pop_run(now.into());
            lent = lent.wrapping_add(now);
            *outstanding = outstanding.wrapping_add(now);
            *next = first.wrapping_add(lent);
        }
        lent
    }

    /// Decides a completion: that it names a chain that is out and was shown, at full width, and claims no more bytes than were lent.
    /// Without `HIDDEN` all were shown. What else than one descriptor is booked there is nothing that was lent, or if it is a chain of
    /// many, a bug of ours.
    #[inline(always)]
    pub(super) fn decide<const HIDDEN: bool>(
        records: &mut [Record<()>],
        queue: QueueSize,
        (id, len): Claim,
        unshown: Unshown,
    ) -> Result<Lawful<'_>, ViolationKind> {
        let (head, record) = Self::named(records, queue, id)?;
        if !record.is_single() {
            return Err(record.not_out());
        }
        if HIDDEN && unshown.has(record.place) {
            return Err(ViolationKind::IdNotOutstanding);
        }
        let (written, idle_claim) = Self::length(record.writable, len)?;
        Ok(Lawful { head, record, written, idle_claim })
    }

    /// Decides completions of such loans, and ends those that are lawful: their descriptors are free again. At most `most`, and up to
    /// the first that is not lawful.
    #[inline(always)]
    pub(crate) fn redeem_singles(
        &mut self,
        most: usize,
        unshown: Unshown,
        claims: &impl Claims,
        each: impl FnMut(Done),
    ) -> Ended {
        debug_assert!(self.order.is_none(), "in order the oldest are expected");
        if self.told == Told::BySeat {
            self.redeem_seated(most, unshown, claims, each)
        } else if unshown.count > 0 {
            self.redeem_recorded::<true>(most, unshown, claims, each)
        } else {
            self.redeem_recorded::<false>(most, unshown, claims, each)
        }
    }

    /// As [`redeem_singles`](Self::redeem_singles), where records tell. Without `HIDDEN` all were shown.
    #[inline(always)]
    fn redeem_recorded<const HIDDEN: bool>(
        &mut self,
        most: usize,
        unshown: Unshown,
        claims: &impl Claims,
        mut each: impl FnMut(Done),
    ) -> Ended {
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
                let decided = Self::decide::<HIDDEN>(records, size, claim, unshown);
                let Lawful { head, record, written, idle_claim } = match decided {
                    Ok(lawful) => lawful,
                    Err(kind) => {
                        stopped = Some((kind, claim, claims.slot(ended.taken)));
                        break;
                    }
                };
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
    /// those that were posted. What the device was not shown begins with number `shown`. At most to where the ring ends. `again` is told
    /// which, in runs: in the order in which they are lent, which need not be that in which they came.
    #[inline(always)]
    pub(crate) fn exchange_singles(
        &mut self,
        most: usize,
        places: (u16, u16),
        claims: &impl Claims,
        each: impl FnMut(Done),
        again: impl FnMut(&[DescId]),
    ) -> Ended {
        debug_assert!(self.order.is_none(), "in order the oldest are expected");
        if self.told == Told::BySeat {
            self.exchange_seated(most, places, claims, each, again)
        } else {
            self.exchange_recorded(most, places, claims, each, again)
        }
    }

    /// As [`exchange_singles`](Self::exchange_singles), where records tell.
    fn exchange_recorded(
        &mut self,
        most: usize,
        (shown, place): (u16, u16),
        claims: &impl Claims,
        mut each: impl FnMut(Done),
        mut again: impl FnMut(&[DescId]),
    ) -> Ended {
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
            let Lawful { head, record, written, idle_claim } = match Self::decide::<true>(records, size, claim, unshown)
            {
                Ok(lawful) => lawful,
                Err(kind) => {
                    stopped = Some((kind, claim, claims.slot(ended.taken)));
                    break;
                }
            };
            record.place = place;
            let desc = record.desc;
            place = place.wrapping_add(1);
            ended.count(idle_claim);
            each(Done { head, at: desc.addr.into(), written });
            again(core::slice::from_ref(&head));
            let Some(next) = later.next() else { break };
            claim = next.1;
        }
        self.stopped(ended, stopped)
    }
}

impl Record<()> {
    /// Why it is no loan of a single descriptor.
    #[cold]
    fn not_out(&self) -> ViolationKind {
        assert!(self.state != State::Head, "only single descriptors are lent here");
        if self.state == State::Member { ViolationKind::IdNotHead } else { ViolationKind::IdNotOutstanding }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use ironring_common::claim::Alleged;
    use ironring_common::index::{GuestAddr, QueueSize};

    use crate::queue::ledger::claims::Listed;
    use crate::queue::slots::Ahead;

    /// In bursts of every length, and whatever is free.
    #[test]
    fn slots_are_asked_for_before_their_turn() {
        for burst in 1..=8usize {
            let mut ledger = Ledger::<()>::new(QueueSize::split(8).unwrap(), false);
            ledger.bind(|id| Descriptor { addr: u64::from(id.get()), ..Descriptor::default() });
            let (mut asked, mut turn, mut out) = ([false; 8], 0u64, 0u16);
            for place in 0..50u16 {
                let events = core::cell::RefCell::new(Vec::new());
                let soon = |at: GuestAddr| events.borrow_mut().push((false, at.0));
                let fill = |_, at: GuestAddr| events.borrow_mut().push((true, at.0));
                let lens = core::iter::repeat_n(60, burst);
                let (to, none) = ((Direction::ToDevice, lens), (|_| {}, |_: &[DescId]| {}));
                let end = turn + u64::from(ledger.free());
                out += ledger.lend_singles(burst, place, to, none, Ahead::<3, _, _> { soon, fill });
                for (filled, at) in events.into_inner() {
                    let before = &mut asked[usize::try_from(at).unwrap()];
                    assert_eq!(*before, filled, "{burst}: asked for once, and then filled");
                    *before = !filled;
                    if filled {
                        assert_eq!(at, turn % 8, "{burst}: in turn");
                        // Those behind it that are free and lie in one piece with it.
                        let mut later = (turn + 1..end.min(turn + 4)).filter(|later| later / 8 == turn / 8);
                        assert!(later.all(|later| asked[usize::try_from(later % 8).unwrap()]), "{burst}: {turn}");
                        turn += 1;
                    }
                }
                // All but one come back.
                let back = usize::from(out.saturating_sub(1));
                let first = u16::try_from((turn + 8 - u64::from(out)) % 8).unwrap();
                let claim = |n: u16| (Alleged::new(u32::from((first + n) % 8)), Alleged::new(0));
                let claims: Vec<Claim> = (0..out).map(claim).take(back).collect();
                let unshown = Unshown { from: 0, count: 0 };
                out -= ledger.redeem_singles(back, unshown, &Listed(&claims), |_| {}).taken;
            }
            assert!(ledger.is_conserved());
        }
    }

    /// Wherever in the row of those that are free it is.
    #[test]
    fn a_filler_that_panics_leaves_all_free() {
        for (in_order, before, good) in [false, true]
            .into_iter()
            .flat_map(|order| (0..4usize).flat_map(move |before| (0..4usize).map(move |good| (order, before, good))))
        {
            let mut ledger = Ledger::<()>::new(QueueSize::split(4).unwrap(), in_order);
            ledger.bind(|_| Descriptor::default());
            let to = || (Direction::ToDevice, core::iter::repeat_n(60, 4));
            let none = || (|_| {}, |_: &[DescId]| {});
            let heads: Vec<Claim> = (0..4).map(|id| (Alleged::new(id), Alleged::new(0))).take(before).collect();
            assert_eq!(usize::from(ledger.lend_singles(before, 0, to(), none(), |_: DescId, _| {})), before);
            let unshown = Unshown { from: 0, count: 0 };
            let back = if in_order {
                ledger.redeem_oldest((4, 4), unshown, &Listed(&heads), |_| {})
            } else {
                ledger.redeem_singles(4, unshown, &Listed(&heads), |_| {})
            };
            assert_eq!(usize::from(back.taken), before);
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let mut left = good;
                let fill = |_: DescId, _| {
                    assert!(left > 0, "on purpose");
                    left -= 1;
                };
                ledger.lend_singles(4, 9, to(), (|_| {}, |_: &[DescId]| panic!("nothing is shown")), fill)
            }));
            assert!(caught.is_err());
            assert_eq!((ledger.free(), ledger.outstanding(), ledger.lent().count()), (4, 0, 0), "{before} {good}");
            assert!(ledger.is_conserved());
            assert_eq!(ledger.lend_singles(4, 9, to(), none(), |_: DescId, _| {}), 4);
            assert!(ledger.is_conserved());
        }
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
