//! Loans of one descriptor, which is never lent in another way: what the fast paths make.
//!
//! The same records and the same decisions as for chains, in one look at the record.

use ironring_common::claim::Alleged;
use ironring_common::index::DescId;
use ironring_common::spec::split::{DESC_F_WRITE, Descriptor};

use super::{Ledger, State, Unshown};
use crate::queue::slots::Done;
use crate::queue::violation::Fault;

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
    #[inline]
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
    #[inline]
    pub(crate) fn redeem_single(
        &mut self,
        id: Alleged<u32>,
        len: Alleged<u32>,
        slot: u32,
        unshown: Unshown,
    ) -> Result<(Done, bool), Fault> {
        let head = self.find(id, slot, unshown)?;
        let (written, idle_claim) = self.length(head, len, slot)?;
        self.end_single(head, slot)?;
        Ok((Done { head, written }, idle_claim))
    }

    /// Ends the loan of the oldest of an opened batch, as [`next_in_batch`](Self::next_in_batch).
    #[inline]
    pub(crate) fn next_single_in_batch(&mut self, slot: u32) -> Result<(Done, bool), Fault> {
        let redeemed = self.next_in_batch(slot)?;
        assert!(redeemed.count == 1, "only single descriptors are lent here");
        self.release(redeemed.head);
        Ok((Done { head: redeemed.head, written: redeemed.written }, redeemed.idle_claim))
    }

    /// Ends the loan of a descriptor and puts it at the end of the free list.
    #[inline]
    fn end_single(&mut self, head: DescId, slot: u32) -> Result<(), Fault> {
        let count = self.records.get(head.index()).map_or(0, |record| record.count);
        assert!(count == 1, "only single descriptors are lent here");
        self.end(head, 0, false, slot)?;
        self.release(head);
        Ok(())
    }
}
