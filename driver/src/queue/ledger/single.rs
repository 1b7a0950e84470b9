//! Loans of one descriptor, which is never lent in another way: what the fast paths make.
//!
//! The same records and the same decisions as for chains, in one look at the record.

use ironring_common::claim::Alleged;
use ironring_common::index::DescId;
use ironring_common::spec::split::{DESC_F_WRITE, Descriptor};

use super::order::Order;
use super::{Ledger, State, Unshown};
use crate::queue::slots::Done;
use crate::queue::violation::{Fault, ViolationKind};

/// A descriptor that was lent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lent {
    pub(crate) head: DescId,
    /// As it is to stand in shared memory.
    pub(crate) desc: Descriptor,
    /// Whether it differs from what was booked under its id before.
    pub(crate) changed: bool,
}

impl<T> Ledger<T> {
    /// Lends the next free descriptor, a chain by itself, with the buffer that `describe` gives for it.
    #[inline(always)]
    pub(crate) fn lend_single(
        &mut self,
        token: T,
        place: u16,
        describe: impl FnOnce(DescId) -> Descriptor,
    ) -> Option<Lent> {
        let head = self.next_free()?;
        let record = self.records.get_mut(head.index())?;
        let desc = describe(head);
        let changed = record.desc != desc;
        self.free_head = record.link;
        record.desc = desc;
        record.token = Some(token);
        record.count = 1;
        record.writable = if desc.flags & DESC_F_WRITE != 0 { desc.len } else { 0 };
        record.place = place;
        record.link = head.get();
        record.state = State::Head;
        if let Some(order) = &mut self.order {
            order.push_back(head);
        }
        self.free = self.free.wrapping_sub(1);
        self.outstanding = self.outstanding.wrapping_add(1);
        Some(Lent { head, desc, changed })
    }

    /// Decides a completion of such a loan and, if it is lawful, ends it: the descriptor is free again. Whether the device
    /// claimed to have written to what it may only read comes beside.
    #[inline(always)]
    pub(crate) fn redeem_single(
        &mut self,
        id: Alleged<u32>,
        len: Alleged<u32>,
        slot: u32,
        unshown: Unshown,
    ) -> Result<(Done, bool), Fault> {
        let (head, record) = Self::find(&mut self.records, self.size, id, slot, unshown)?;
        let (written, idle_claim) = Self::length(record.writable, len, slot)?;
        assert!(record.count == 1, "only single descriptors are lent here");
        record.token = None;
        record.state = State::Free;
        if let Some(order) = &mut self.order {
            order.pop_front();
        }
        self.outstanding = self.outstanding.wrapping_sub(1);
        self.append_free(head);
        Ok((Done { head, written }, idle_claim))
    }

    /// As [`redeem_single`](Self::redeem_single), and lends the same descriptor again at once, as number `place` of those
    /// that were posted. Also returns what stands under it.
    #[inline(always)]
    pub(crate) fn exchange_single(
        &mut self,
        id: Alleged<u32>,
        len: Alleged<u32>,
        slot: u32,
        unshown: Unshown,
        place: u16,
    ) -> Result<(Done, Descriptor, bool), Fault> {
        let (head, record) = Self::find(&mut self.records, self.size, id, slot, unshown)?;
        let (written, idle_claim) = Self::length(record.writable, len, slot)?;
        assert!(record.count == 1, "only single descriptors are lent here");
        record.place = place;
        Ok((Done { head, written }, record.desc, idle_claim))
    }

    /// As [`next_single_in_batch`](Self::next_single_in_batch), and lends the same descriptor again, as
    /// [`exchange_single`](Self::exchange_single).
    #[inline(always)]
    pub(crate) fn exchange_next_in_batch(&mut self, slot: u32, place: u16) -> Result<(Done, Descriptor, bool), Fault> {
        let nothing = Fault { kind: ViolationKind::IdNotOutstanding, slot, observed: 0, expected: 0 };
        let order = self.order.as_mut().ok_or(nothing)?;
        let head = order.pop_front().ok_or(nothing)?;
        order.push_back(head);
        let record = self.records.get_mut(head.index()).ok_or(nothing)?;
        assert!(record.count == 1 && record.state == State::Head, "single descriptors are lent here, in this order");
        record.place = place;
        self.batch.left = self.batch.left.wrapping_sub(1);
        let last = self.batch.left == 0;
        let (written, idle_claim) =
            if last { (self.batch.written, self.batch.idle_claim) } else { (record.writable, false) };
        Ok((Done { head, written }, record.desc, idle_claim))
    }

    /// Ends the loan of the oldest of an opened batch, as [`next_in_batch`](Self::next_in_batch): all but the last one count
    /// as written in full.
    #[inline(always)]
    pub(crate) fn next_single_in_batch(&mut self, slot: u32) -> Result<(Done, bool), Fault> {
        let nothing = Fault { kind: ViolationKind::IdNotOutstanding, slot, observed: 0, expected: 0 };
        let head = self.order.as_mut().and_then(Order::pop_front).ok_or(nothing)?;
        let record = self.records.get_mut(head.index()).ok_or(nothing)?;
        assert!(record.count == 1 && record.state == State::Head, "single descriptors are lent here, in this order");
        record.token = None;
        record.state = State::Free;
        self.outstanding = self.outstanding.wrapping_sub(1);
        self.batch.left = self.batch.left.wrapping_sub(1);
        let last = self.batch.left == 0;
        let (written, idle_claim) =
            if last { (self.batch.written, self.batch.idle_claim) } else { (record.writable, false) };
        self.append_free(head);
        Ok((Done { head, written }, idle_claim))
    }

    /// Puts a descriptor that is free again at the end of the free list.
    #[inline(always)]
    fn append_free(&mut self, id: DescId) {
        if self.free == 0 {
            self.free_head = id.get();
        } else if let Some(last) = self.records.get_mut(usize::from(self.free_tail)) {
            last.link = id.get();
        }
        self.free_tail = id.get();
        self.free = self.free.wrapping_add(1);
    }
}
