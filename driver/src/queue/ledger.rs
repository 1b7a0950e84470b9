//! The private book of what is lent to the device.
//!
//! One record per descriptor, allocated in one place, used by every ring layout. It holds what Linux calls `desc_extra`
//! and `desc_state`: the descriptor as it was written, whose it is, and, at the head of a chain that is out, the token. Its
//! `State` decides what a completion may name, but where all chains are single descriptors: there its seat in the row does (`seats`).
//! Free descriptors wait in a row of their own (`fifo`).
//!
//! The ledger decides whether a completion is lawful: the id at its full width, in range, the head of a chain that is
//! out, taken once; the length at most what the chain lends writable. With `VIRTIO_F_IN_ORDER` it also keeps the order in
//! which chains went out, and one completion may stand for all chains up to the one that it names.

use alloc::vec::Vec;

use ironring_common::apart;
use ironring_common::claim::Alleged;
use ironring_common::index::{DescId, QueueSize};
use ironring_common::spec::split::{DESC_F_WRITE, Descriptor};

use super::violation::{Fault, ViolationKind};
use crate::boundary::Claim;

#[cfg(feature = "std")]
mod alone;
#[cfg(feature = "std")]
mod claims;
mod fifo;
#[cfg(feature = "std")]
mod oldest;
#[cfg(feature = "std")]
mod seats;
#[cfg(feature = "std")]
mod shared;
#[cfg(feature = "std")]
mod single;

use fifo::Fifo;

#[cfg(feature = "std")]
pub(crate) use claims::Claims;
#[cfg(feature = "std")]
pub(crate) use single::{Ended, Lent};

/// What is known of one descriptor. At most 64 bytes for any token of a pointer's size (a test).
#[derive(Clone, Debug)]
pub(crate) struct Record<T> {
    /// `Some` at the head of a chain that is lent to the device, or where seats tell at each.
    token: Option<T>,
    /// The descriptor as it stands in the table, or in a packed ring as it will stand in its slot. Kept after release: it says what
    /// the table holds without a load.
    desc: Descriptor,
    /// At a head: bytes that the chain lends writable.
    writable: u32,
    /// At a head: descriptors in the chain.
    count: u16,
    /// In a chain: the descriptor before it, by which an unfinished chain is undone; a head comes after itself.
    before: u16,
    /// At a head: the number of the chain among those that were posted, modulo 2^16. Nothing where seats tell.
    place: u16,
    /// Where in the row of descriptors it has its seat, as long as that tells whose it is.
    #[cfg(feature = "std")]
    seat: u16,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody's.
    Free,
    /// Part of a chain that is being built or is out, but not its head.
    Member,
    /// Head of a chain that is out.
    Head,
    /// As `Head`, of a chain of one descriptor; where seats tell, of each.
    Single,
}

/// What tells whether a descriptor is out.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Its record.
    ByRecord,
    /// Where it sits in the row, so that records say of all that they are out ([`seats`]). Only where each chain is one descriptor, and
    /// no other ledger has any of them.
    BySeat,
}

/// The records of one queue and its free descriptors (first in, first out, so that ids repeat in the same order).
#[derive(Debug)]
pub(crate) struct Ledger<T> {
    records: Vec<Record<T>>,
    size: QueueSize,
    /// Those that are free; where seats tell, before them those that are out.
    free: Fifo,
    /// Chains that are out.
    outstanding: u16,
    /// Descriptors that another ledger has: those of a pair of queues that share their slots.
    away: u16,
    /// With `VIRTIO_F_IN_ORDER`: the heads that are out, oldest first. Empty where seats tell.
    order: Option<Fifo>,
    #[cfg(feature = "std")]
    told: Told,
    /// Where seats tell: the number of the chain that is posted next.
    #[cfg(feature = "std")]
    next: u16,
    /// What is left of a completion that stands for many.
    batch: Batch,
    /// So many of the descriptors that are lent next have had their buffers asked for: a hint.
    #[cfg(feature = "std")]
    asked: usize,
    /// What ended a burst of single descriptors early.
    #[cfg(feature = "std")]
    fault: Option<Fault>,
}

/// Chains that one completion has named and that were not handed out yet.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    /// How many.
    left: u16,
    /// What the device says it wrote into the last one.
    written: u32,
    /// As [`Redeemed::idle_claim`], of the last one.
    idle_claim: bool,
}

/// What a chain lends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Loan {
    /// Descriptors in the chain.
    pub(crate) count: u16,
    /// Bytes that the device may write.
    pub(crate) writable: u32,
    /// The number of the chain among those that were posted, modulo 2^16.
    pub(crate) place: u16,
}

/// What the device has not been shown yet: `count` chains from number `from` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unshown {
    pub(crate) from: u16,
    pub(crate) count: u16,
}

impl Unshown {
    /// Whether this chain was added and not published: the device was never shown it.
    #[inline(always)]
    const fn has(self, place: u16) -> bool {
        place.wrapping_sub(self.from) < self.count
    }
}

/// A completion that the ledger found lawful.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Redeemed<T> {
    pub(crate) head: DescId,
    pub(crate) token: T,
    pub(crate) count: u16,
    /// Bytes written, at most what was lent.
    pub(crate) written: u32,
    /// The device claimed to have written to a chain that lends nothing writable. No effect, but counted.
    pub(crate) idle_claim: bool,
}

impl<T> Ledger<T> {
    /// The records of an empty queue. `in_order` if its device uses chains in the order in which they went out.
    pub(crate) fn new(size: QueueSize, in_order: bool) -> Self {
        let mut records = apart::list(usize::from(size.get()));
        records.extend((0..size.get()).map(|id| Record {
            token: None,
            desc: Descriptor::default(),
            writable: 0,
            count: 0,
            before: id,
            place: 0,
            #[cfg(feature = "std")]
            seat: 0,
            state: State::Free,
        }));
        Self {
            records,
            size,
            free: Fifo::full(size),
            outstanding: 0,
            away: 0,
            order: in_order.then(|| Fifo::new(size)),
            #[cfg(feature = "std")]
            told: Told::ByRecord,
            #[cfg(feature = "std")]
            next: 0,
            batch: Batch::default(),
            #[cfg(feature = "std")]
            asked: 0,
            #[cfg(feature = "std")]
            fault: None,
        }
    }

    #[inline]
    pub(crate) const fn size(&self) -> QueueSize {
        self.size
    }

    #[inline]
    pub(crate) fn free(&self) -> u16 {
        // Never more than there are descriptors.
        u16::try_from(self.free.len()).unwrap_or(u16::MAX)
    }

    /// Descriptors that are not away.
    #[inline]
    pub(crate) const fn here(&self) -> u16 {
        self.size.get().wrapping_sub(self.away)
    }

    #[inline]
    pub(crate) const fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// The descriptor that `reserve` would give next.
    #[inline]
    pub(crate) fn next_free(&self) -> Option<DescId> {
        self.free.front()
    }

    /// Takes a free descriptor for a chain in which it comes after `before`; a head comes after itself.
    #[inline]
    pub(crate) fn reserve(&mut self, before: DescId) -> Option<DescId> {
        #[cfg(feature = "std")]
        self.tell_by_records();
        let id = self.free.pop_front()?;
        let record = self.records.get_mut(id.index())?;
        record.state = State::Member;
        record.before = before.get();
        Some(id)
    }

    /// Frees a descriptor: it is the last one to be taken again.
    #[inline]
    pub(crate) fn release(&mut self, id: DescId) {
        if let Some(record) = self.records.get_mut(id.index()) {
            assert!(record.state == State::Member, "a descriptor is released once");
            record.state = State::Free;
        }
        self.free.push_back(id);
    }

    /// Gives back the descriptor that was reserved last, the way it came: it is the first one to be taken again.
    pub(crate) fn unreserve(&mut self, id: DescId) {
        if let Some(record) = self.records.get_mut(id.index()) {
            assert!(record.state == State::Member, "only a reserved descriptor can be given back");
            record.state = State::Free;
        }
        self.free.push_front(id);
    }

    /// The descriptor before a reserved one in its chain.
    pub(crate) fn before(&self, id: DescId) -> DescId {
        self.records.get(id.index()).and_then(|record| DescId::below(record.before, self.size)).unwrap_or(id)
    }

    /// The descriptor as it was written last: what unmapping and unwinding go by.
    #[inline]
    pub(crate) fn desc(&self, id: DescId) -> Descriptor {
        self.records.get(id.index()).map_or(Descriptor::default(), |record| record.desc)
    }

    /// As [`desc`](Self::desc), for many.
    #[inline(always)]
    pub(crate) fn descs(&self) -> impl Fn(DescId) -> Descriptor + '_ {
        // So that where they lie is looked up once.
        let records = &*self.records;
        move |id| records.get(id.index()).map_or(Descriptor::default(), |record| record.desc)
    }

    /// Books a descriptor; `false` if the table holds exactly this already.
    #[inline]
    pub(crate) fn book(&mut self, id: DescId, desc: Descriptor) -> bool {
        match self.records.get_mut(id.index()) {
            Some(record) if record.desc != desc => {
                record.desc = desc;
                true
            }
            _ => false,
        }
    }

    /// Books a descriptor that is a chain by itself with its own number, where others have that of the next one: what a slot of a packed
    /// ring says is then all in one place.
    #[inline]
    pub(crate) fn number(&mut self, id: DescId) {
        if let Some(record) = self.records.get_mut(id.index()) {
            record.desc.next = id.get();
        }
    }

    /// The chain from `head` is out.
    #[inline]
    pub(crate) fn lend(&mut self, head: DescId, token: T, loan: Loan) {
        #[cfg(feature = "std")]
        debug_assert!(self.told == Told::ByRecord, "as whoever reserved it saw to");
        if let Some(record) = self.records.get_mut(head.index()) {
            record.token = Some(token);
            record.count = loan.count;
            record.writable = loan.writable;
            record.place = loan.place;
            record.state = if loan.count == 1 { State::Single } else { State::Head };
        }
        if let Some(order) = &mut self.order {
            // Never more than there are descriptors, which is what it was made for.
            order.push_back(head);
        }
        self.outstanding = self.outstanding.wrapping_add(1);
    }

    /// Decides a completion and, if it is lawful, ends the loan. The descriptors stay reserved until released.
    #[inline]
    pub(crate) fn redeem(
        &mut self,
        id: Alleged<u32>,
        len: Alleged<u32>,
        slot: u32,
        unshown: Unshown,
    ) -> Result<Redeemed<T>, Fault> {
        #[cfg(feature = "std")]
        self.tell_by_records();
        let found = Self::find(&mut self.records, self.size, id, unshown);
        match found.and_then(|(head, record)| Ok((head, Self::length(record.writable, len)?))) {
            Ok((head, (written, idle_claim))) => self.end(head, written, idle_claim, slot),
            Err(kind) => Err(self.fault(kind, (id, len), slot)),
        }
    }

    /// Decides a completion of a device that works in order: it stands for every chain from the oldest that is out up to
    /// the one that it names, at most `limit`. Returns how many; [`next_in_batch`](Self::next_in_batch) ends their loans.
    #[inline]
    pub(crate) fn open_batch(
        &mut self,
        id: Alleged<u32>,
        len: Alleged<u32>,
        slot: u32,
        unshown: Unshown,
        limit: u16,
    ) -> Result<u16, Fault> {
        let decided = self.up_to(id, unshown).and_then(|(head, chains)| {
            let writable = self.records.get(head.index()).map_or(0, |record| record.writable);
            Ok((chains, Self::length(writable, len)?))
        });
        let (chains, (written, idle_claim)) = decided.map_err(|kind| self.fault(kind, (id, len), slot))?;
        if chains > limit {
            let (observed, expected) = (chains.into(), limit.into());
            return Err(Fault { kind: ViolationKind::BatchOverrun, slot, observed, expected });
        }
        self.batch = Batch { left: chains, written, idle_claim };
        Ok(chains)
    }

    /// With in-order use: the head that a completion names, if it is out and was shown, and how many chains there are from the oldest that
    /// is out up to that one.
    #[inline]
    fn up_to(&mut self, id: Alleged<u32>, unshown: Unshown) -> Result<(DescId, u16), ViolationKind> {
        #[cfg(feature = "std")]
        if self.told == Told::BySeat {
            return self.up_to_seated(id, unshown.count);
        }
        let oldest = self.order.as_ref().and_then(Fifo::front);
        let oldest = oldest.and_then(|head| self.records.get(head.index())).map_or(0, |record| record.place);
        let (head, record) = Self::find(&mut self.records, self.size, id, unshown)?;
        // Numbers of chains that are out follow one another, so this is exact; the named one counts.
        Ok((head, record.place.wrapping_sub(oldest).wrapping_add(1)))
    }

    /// Chains of an opened batch that were not handed out.
    #[inline]
    pub(crate) const fn in_batch(&self) -> u16 {
        self.batch.left
    }

    /// Ends the loan of the oldest chain of an opened batch. A device that leaves chains out says by that that it has used
    /// them completely (virtio 1.3, 2.7.9 and 2.8.9), so they count as written in full.
    #[inline]
    pub(crate) fn next_in_batch(&mut self, slot: u32) -> Result<Redeemed<T>, Fault> {
        #[cfg(feature = "std")]
        self.tell_by_records();
        let nothing = Fault { kind: ViolationKind::IdNotOutstanding, slot, observed: 0, expected: 0 };
        let head = self.order.as_ref().and_then(Fifo::front).ok_or(nothing)?;
        self.batch.left = self.batch.left.wrapping_sub(1);
        if self.batch.left == 0 {
            return self.end(head, self.batch.written, self.batch.idle_claim, slot);
        }
        let writable = self.records.get(head.index()).map_or(0, |record| record.writable);
        self.end(head, writable, false, slot)
    }

    /// The head that a completion names and its record, if it is out and was shown. What is wrong is one word here, and
    /// [`fault`](Self::fault) has the numbers: they would cost every completion.
    #[inline(always)]
    fn find(
        records: &mut [Record<T>],
        queue: QueueSize,
        id: Alleged<u32>,
        unshown: Unshown,
    ) -> Result<(DescId, &mut Record<T>), ViolationKind> {
        let (head, record) = Self::named(records, queue, id)?;
        match record.state {
            State::Free => Err(ViolationKind::IdNotOutstanding),
            State::Member => Err(ViolationKind::IdNotHead),
            State::Head | State::Single if unshown.has(record.place) => Err(ViolationKind::IdNotOutstanding),
            State::Head | State::Single => Ok((head, record)),
        }
    }

    /// The descriptor that a completion names, at full width, and its record.
    #[inline(always)]
    fn named(
        records: &mut [Record<T>],
        queue: QueueSize,
        id: Alleged<u32>,
    ) -> Result<(DescId, &mut Record<T>), ViolationKind> {
        let head = id.check_with(|id| DescId::at_full_width(id, queue)).map_err(|_| ViolationKind::IdOutOfRange)?;
        let record = records.get_mut(head.index()).ok_or(ViolationKind::IdOutOfRange)?;
        Ok((head, record))
    }

    /// The length that a completion of a chain claims, if it was lent so much `writable`; and whether nothing was lent and all
    /// the same something claimed.
    #[inline(always)]
    fn length(writable: u32, len: Alleged<u32>) -> Result<(u32, bool), ViolationKind> {
        match len.check_at_most(writable) {
            Ok(written) => Ok((written, false)),
            // The claim is counted and never used.
            Err(_) if writable == 0 => Ok((0, true)),
            Err(_) => Err(ViolationKind::LengthOverPosted),
        }
    }

    /// What was wrong with a completion, in numbers.
    #[cold]
    fn fault(&self, kind: ViolationKind, (id, len): Claim, slot: u32) -> Fault {
        let why = "it was refused: the number is for whoever reads of it";
        let head = id.check_with(|id| DescId::at_full_width(id, self.size)).ok();
        let posted = head.and_then(|head| self.records.get(head.index())).map_or(0, |record| record.writable);
        let (id, len) = (id.check_advisory(why), len.check_advisory(why));
        let (observed, expected) = match kind {
            ViolationKind::IdOutOfRange => (id, u32::from(self.size.get()).wrapping_sub(1)),
            ViolationKind::LengthOverPosted => (len, posted),
            _ => (id, 0),
        };
        Fault { kind, slot, observed: observed.into(), expected: expected.into() }
    }

    /// Ends a loan.
    #[inline]
    fn end(&mut self, head: DescId, written: u32, idle_claim: bool, slot: u32) -> Result<Redeemed<T>, Fault> {
        let not_out =
            Fault { kind: ViolationKind::IdNotOutstanding, slot, observed: u64::from(head.get()), expected: 0 };
        let record = self.records.get_mut(head.index()).ok_or(not_out)?;
        let token = record.token.take().ok_or(not_out)?;
        record.state = State::Member;
        let count = record.count;
        if let Some(order) = &mut self.order {
            order.pop_front();
        }
        self.outstanding = self.outstanding.wrapping_sub(1);
        Ok(Redeemed { head, token, count, written, idle_claim })
    }

    /// Every head that is out, with its descriptor count: for quarantine and teardown.
    pub(crate) fn lent(&self) -> impl Iterator<Item = (DescId, &T, u16)> + '_ {
        self.records.iter().enumerate().filter_map(move |(index, record)| {
            let id = DescId::below(u16::try_from(index).ok()?, self.size)?;
            let token = record.token.as_ref()?;
            #[cfg(feature = "std")]
            if self.told == Told::BySeat && !self.sits_out(record) {
                return None;
            }
            Some((id, token, record.count))
        })
    }

    /// Whether every descriptor that is not away is free or part of a chain that is out, each once. Walks everything: for
    /// audits and tests.
    pub(crate) fn is_conserved(&self) -> bool {
        let mut seen = alloc::vec![false; self.records.len()];
        let mut mark = |id: u16| match seen.get_mut(usize::from(id)) {
            Some(flag) if !*flag => {
                *flag = true;
                true
            }
            _ => false,
        };
        if !self.free.iter().all(|id| mark(id.get())) {
            return false;
        }
        let mut chains = 0u16;
        for (head, _, count) in self.lent() {
            chains = chains.wrapping_add(1);
            let mut id = head.get();
            for _ in 0..count {
                if !mark(id) {
                    return false;
                }
                id = self.records.get(usize::from(id)).map_or(0, |record| record.desc.next);
            }
        }
        let in_order = self.order.as_ref().is_none_or(|order| order.len() == usize::from(self.outstanding));
        #[cfg(feature = "std")]
        let in_order = if self.told == Told::BySeat { self.sit_well() } else { in_order };
        let here = seen.iter().filter(|flag| **flag).count();
        chains == self.outstanding && in_order && here == usize::from(self.here())
    }

    /// Where it lies, for the test of the layout.
    #[cfg(test)]
    pub(crate) fn lines(&self, to: &mut Vec<core::ops::Range<usize>>) {
        to.push(apart::lines(&*self.records));
        self.free.lines(to);
        self.order.iter().for_each(|order| order.lines(to));
    }
}

/// Whether a booked descriptor is device-writable.
#[inline]
pub(crate) const fn is_writable(desc: Descriptor) -> bool {
    desc.flags & DESC_F_WRITE != 0
}

#[cfg(test)]
mod tests;
