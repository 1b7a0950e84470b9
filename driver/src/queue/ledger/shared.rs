//! Descriptors that two ledgers share: of each id, one has it, free or out, and for the other it is *away*.
//!
//! So the slots of a pair of queues that forwards without a copy go from one to the other: descriptor `i` of either queue is
//! bound to slot `i`, and whoever has the id has the slot. A descriptor that is away is not out, so a device that names it names
//! nothing that was lent.

use alloc::vec::Vec;

use ironring_common::index::DescId;

use super::{Ledger, State, Told};

impl<T> Ledger<T> {
    /// Whether records tell who is out: then what comes back is lent next in the order in which it came.
    pub(crate) fn goes_by_records(&self) -> bool {
        self.told == Told::ByRecord
    }

    /// From now on records say of chains that are back that they are, and the order row which are out.
    #[inline]
    pub(super) fn tell_by_records(&mut self) {
        if self.told == Told::BySeat {
            self.told = Told::ByRecord;
            self.leave_seats();
        }
    }

    #[cold]
    fn leave_seats(&mut self) {
        let Self { records, free, outstanding, order, next, .. } = self;
        for id in free.iter() {
            let Some(record) = records.get_mut(id.index()) else { continue };
            (record.token, record.state) = (None, State::Free);
        }
        // Oldest first. Those that changed seats get numbers of others that were shown too.
        for newer in (0..*outstanding).rev() {
            let out = newer.wrapping_add(1);
            let Some(head) = free.sitting(free.seat(out)) else { continue };
            let Some(record) = records.get_mut(head.index()) else { continue };
            record.place = next.wrapping_sub(out);
            if let Some(order) = order {
                order.push_back(head);
            }
        }
    }
}

impl Ledger<()> {
    /// Gives away the free descriptors that are free longest, as many as there are and `to` has room for. How many.
    #[inline]
    pub(crate) fn give_away(&mut self, to: &mut [DescId]) -> usize {
        self.tell_by_records();
        let given = self.free.drain(to);
        self.asked = 0;
        // Never more than there are descriptors.
        self.away = self.away.wrapping_add(u16::try_from(given).unwrap_or(0));
        given
    }

    /// Takes descriptors in that were away, each of them once: they are lent before all others that are free.
    #[inline]
    pub(crate) fn take_in_first(&mut self, heads: &[DescId]) {
        self.take_in(heads.len());
        self.free.put_first(heads);
        self.asked = 0;
    }

    /// As [`take_in_first`](Self::take_in_first), but they are lent after all others.
    #[inline]
    pub(crate) fn take_in_last(&mut self, heads: &[DescId]) {
        self.take_in(heads.len());
        self.free.extend(heads);
    }

    #[inline]
    fn take_in(&mut self, count: usize) {
        assert!(count <= usize::from(self.away), "only what is away comes in");
        self.away = self.away.wrapping_sub(u16::try_from(count).unwrap_or(0));
    }

    /// All descriptors that are not away, in their order. For a slow path.
    pub(crate) fn own(&self) -> Vec<DescId> {
        let mut own: Vec<_> = self.free.iter().chain(self.lent().map(|(head, ..)| head)).collect();
        own.sort_unstable_by_key(|id| id.get());
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironring_common::claim::Alleged;
    use ironring_common::index::QueueSize;
    use ironring_common::spec::split::Descriptor;

    use crate::mapper::Direction;
    use crate::queue::ledger::Unshown;
    use crate::queue::ledger::claims::Listed;
    use crate::queue::violation::ViolationKind;

    const ALL_SHOWN: Unshown = Unshown { from: 0, count: 0 };

    fn pair(size: QueueSize, in_order: bool) -> [Ledger<()>; 2] {
        let [mut one, mut other] = [(); 2].map(|()| Ledger::<()>::new(size, in_order));
        for ledger in [&mut one, &mut other] {
            ledger.bind(|_| Descriptor::default());
        }
        let mut all = [DescId::FIRST; 64];
        let count = usize::from(size.get());
        assert_eq!(other.give_away(&mut all[..count]), count);
        [one, other]
    }

    fn lend(ledger: &mut Ledger<()>, count: usize) -> Vec<u16> {
        let mut heads = Vec::new();
        let fill = |head: DescId, _| heads.push(head.get());
        ledger.lend_singles(count, 0, (Direction::ToDevice, core::iter::repeat(60)), (|_| {}, |_| {}), fill);
        heads
    }

    /// However they go to and fro, each descriptor is where it is once, and comes in the order that was asked for.
    #[test]
    fn a_descriptor_is_in_one_ledger_at_a_time() {
        let size = QueueSize::packed(7).unwrap();
        for in_order in [false, true] {
            let [mut one, mut other] = pair(size, in_order);
            let mut moved = [DescId::FIRST; 3];
            assert_eq!(one.give_away(&mut moved), 3);
            assert!(one.is_conserved() && !other.own().contains(&moved[0]));
            other.take_in_last(&moved[..2]);
            other.take_in_first(&moved[2..]);
            assert!(one.is_conserved() && other.is_conserved());
            assert_eq!(one.own().len() + other.own().len(), 7);
            assert_eq!(lend(&mut other, 9), [2, 0, 1], "first come those that were put first");
            assert_eq!(other.own().iter().map(|id| id.get()).collect::<Vec<_>>(), [0, 1, 2], "lent ones count");
            assert!(other.is_conserved());
            assert_eq!(lend(&mut one, 9), [3, 4, 5, 6]);
            assert_eq!((one.free(), one.outstanding(), other.outstanding()), (0, 4, 3));
        }
    }

    /// Whatever the device says: by id, in order, or as the last of a batch.
    #[test]
    fn a_descriptor_that_is_away_cannot_be_named() {
        let size = QueueSize::packed(4).unwrap();
        for in_order in [false, true] {
            let [mut one, _] = pair(size, in_order);
            let mut moved = [DescId::FIRST; 2];
            one.give_away(&mut moved);
            lend(&mut one, 2);
            for away in moved {
                let said = [(Alleged::new(u32::from(away.get())), Alleged::new(0))];
                let claims = Listed(&said);
                let mut each = |_| panic!("nothing is taken");
                let ended = if in_order {
                    one.redeem_oldest((4, 2), ALL_SHOWN, &claims, &mut each)
                } else {
                    one.redeem_singles(4, ALL_SHOWN, &claims, &mut each)
                };
                assert!(ended.faulty && ended.taken == 0);
                assert_eq!(one.fault.map(|fault| fault.kind), Some(ViolationKind::IdNotOutstanding));
            }
        }
    }

    #[test]
    #[should_panic(expected = "only what is away comes in")]
    fn no_more_comes_in_than_is_away() {
        let [mut one, _] = pair(QueueSize::packed(4).unwrap(), false);
        one.take_in_first(&[DescId::FIRST]);
    }
}
