//! Loans of one descriptor that come one by one: what [`single`](super::single) and [`oldest`](super::oldest) do in bursts, with nothing
//! made ready for more. The same decisions by the same functions.

use super::oldest::of_oldest;
use super::single::{Ended, Lawful, Lent};
use super::{Ledger, State, Told, Unshown, is_writable};
use crate::boundary::Claim;
use crate::queue::slots::Done;

impl Ledger<()> {
    /// As [`lend_singles`](Self::lend_singles), of one of so many `bytes`: the chain number `place`. Nothing if none is free.
    #[inline(always)]
    pub(crate) fn lend_one(&mut self, place: u16, bytes: u32) -> Option<Lent> {
        let head = self.free.front()?;
        let record = self.records.get_mut(head.index())?;
        debug_assert_eq!(record.count, 1, "as it was bound");
        let changed = record.desc.len != bytes;
        if changed {
            record.desc.len = bytes;
        }
        if is_writable(record.desc) {
            record.writable = bytes;
        }
        let desc = record.desc;
        if self.told == Told::ByRecord {
            record.token = Some(());
            record.place = place;
            record.state = State::Single;
            if let Some(order) = &mut self.order {
                order.push_back(head);
            }
        }
        self.next = place.wrapping_add(1);
        self.free.pop_run(1);
        self.asked = self.asked.saturating_sub(1);
        self.outstanding = self.outstanding.wrapping_add(1);
        Some(Lent { head, desc, changed })
    }

    /// As [`exchange_singles`](Self::exchange_singles), of the completion of `slot`, which was loaded.
    #[inline(always)]
    pub(crate) fn exchange_one(
        &mut self,
        (shown, place): (u16, u16),
        (claim, slot): (Claim, u32),
        each: impl FnOnce(Done),
    ) -> Ended {
        debug_assert!(self.order.is_none(), "in order the oldest are expected");
        if self.told == Told::BySeat {
            return self.exchange_seated_one((shown, place), (claim, slot), each);
        }
        let unshown = Unshown { from: shown, count: place.wrapping_sub(shown) };
        let Lawful { head, record, written, idle_claim } =
            match Self::decide::<true>(&mut self.records, self.size, claim, unshown) {
                Ok(lawful) => lawful,
                Err(kind) => return self.unlawful(Ended::default(), kind, (claim, slot)),
            };
        record.place = place;
        each(Done { head, at: record.desc.addr.into(), written });
        let mut ended = Ended::default();
        ended.count(idle_claim);
        ended
    }

    /// As [`exchange_oldest`](Self::exchange_oldest), of the completion of `slot`, which was loaded.
    #[inline(always)]
    pub(crate) fn exchange_oldest_one(
        &mut self,
        limit: u16,
        (shown, place): (u16, u16),
        (claim, slot): (Claim, u32),
        each: impl FnOnce(Done),
    ) -> Ended {
        debug_assert!(self.order.is_some(), "as the ledger was made");
        if self.told == Told::BySeat {
            return self.exchange_oldest_seated_one(limit, (shown, place), (claim, slot), each);
        }
        let Self { records, order, .. } = self;
        if let Some(order) = order
            && let Some(head) = order.front()
            && let Some(record) = records.get_mut(head.index())
        {
            record.expect_single();
            if let Some(written) = of_oldest(head, record.writable, claim) {
                record.place = place;
                order.rotate(1);
                each(Done { head, at: record.desc.addr.into(), written });
                return Ended { taken: 1, ..Ended::default() };
            }
        }
        let unshown = Unshown { from: shown, count: place.wrapping_sub(shown) };
        self.other_than_oldest(Ended::default(), (claim, slot), unshown, limit)
    }
}
