//! What the completions of a burst say, as a ring hands them to its ledger.
//!
//! A burst goes along the ring, so the places are asked for once for many of them, and each word is loaded when it is its turn, once.

use ironring_common::shm::lane::Items;

use crate::boundary::Claim;

/// Completions, one after the other from the next one on. `skip` is how many of them come before.
pub(crate) trait Claims {
    /// How many places there are to the end of the ring, and no more than chains are out there: what comes behind that is for another look,
    /// or lies at the start.
    fn left(&self, skip: u16) -> usize;

    /// The slot where it stands.
    fn slot(&self, skip: u16) -> u32;

    /// What the next one says, if the device has got there.
    fn one(&self, skip: u16) -> Option<Claim>;

    /// Each of these items with a completion, as far as the device has got. No more of them than are [`left`](Self::left).
    fn along<I: Items>(&self, skip: u16, items: I) -> impl Iterator<Item = (I::Item, Claim)>;
}

/// Claims in a list, from slot 7 on, for tests.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(crate) struct Listed<'a>(pub(crate) &'a [Claim]);

#[cfg(test)]
impl Claims for Listed<'_> {
    fn left(&self, skip: u16) -> usize {
        self.0.len().saturating_sub(skip.into())
    }

    fn slot(&self, skip: u16) -> u32 {
        7 + u32::from(skip)
    }

    fn one(&self, skip: u16) -> Option<Claim> {
        self.0.get(usize::from(skip)).copied()
    }

    fn along<I: Items>(&self, skip: u16, items: I) -> impl Iterator<Item = (I::Item, Claim)> {
        items.items().zip(self.0.iter().copied().skip(skip.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ironring_common::claim::Alleged;
    use ironring_common::index::{DescId, QueueSize};
    use ironring_common::spec::split::{DESC_F_WRITE, Descriptor};

    use crate::mapper::Direction;
    use crate::queue::ledger::{Ended, Ledger, Unshown};
    use crate::queue::violation::ViolationKind;

    const SHOWN: Unshown = Unshown { from: 0, count: 0 };

    fn claim(id: u16, len: u32) -> Claim {
        (Alleged::new(id.into()), Alleged::new(len))
    }

    /// A ledger of eight, of which six are out that begin at the fifth place of its rows, so that the first run of them has four.
    fn six_out(in_order: bool) -> (Ledger<()>, Vec<u16>) {
        let mut ledger = Ledger::<()>::new(QueueSize::split(8).unwrap(), in_order);
        ledger.bind(|_| Descriptor { flags: DESC_F_WRITE, len: 64, ..Descriptor::default() });
        let mut lent = Vec::new();
        let mut lend = |ledger: &mut Ledger<()>, count: usize| {
            let lens = core::iter::repeat_n(64, count);
            let place = u16::try_from(lent.len()).unwrap();
            let fill = |head: DescId, _| lent.push(head.get());
            ledger.lend_singles(count, place, (Direction::FromDevice, lens), (|_| {}, |_| {}), fill);
        };
        lend(&mut ledger, 4);
        let first: Vec<_> = (0..4).map(|id| claim(id, 1)).collect();
        assert_eq!(take(&mut ledger, in_order, &first).0.taken, 4);
        lend(&mut ledger, 6);
        (ledger, lent.split_off(4))
    }

    fn take(ledger: &mut Ledger<()>, in_order: bool, claims: &[Claim]) -> (Ended, Vec<DescId>) {
        let (claims, mut taken) = (Listed(claims), Vec::new());
        let each = |done: crate::queue::slots::Done| taken.push(done.head);
        let ended = if in_order {
            ledger.redeem_oldest((64, 6), SHOWN, &claims, each)
        } else {
            ledger.redeem_singles(64, SHOWN, &claims, each)
        };
        (ended, taken)
    }

    fn exchange(ledger: &mut Ledger<()>, in_order: bool, claims: &[Claim]) -> (Ended, Vec<DescId>) {
        let (claims, mut taken) = (Listed(claims), Vec::new());
        let each = |done: crate::queue::slots::Done| taken.push(done.head);
        let places = (10, 10);
        let ended = if in_order {
            ledger.exchange_oldest((64, 6), places, &claims, each, |_| {})
        } else {
            ledger.exchange_singles(64, places, &claims, each, |_| {})
        };
        (ended, taken)
    }

    /// Wherever in the burst it is: what comes before counts, and the fault says where it stood.
    #[test]
    fn a_burst_ends_at_the_first_claim_that_is_unlawful() {
        for (in_order, bad) in [false, true].into_iter().flat_map(|order| [(order, (99, 9)), (order, (0, 65))]) {
            for (at, again) in (0..6usize).flat_map(|at| [(at, false), (at, true)]) {
                let (mut ledger, lent) = six_out(in_order);
                let mut claims: Vec<_> = lent.iter().map(|id| claim(*id, 60)).collect();
                // A length of more than was lent, for the right one.
                let (id, len) = if bad.0 == 0 { (lent[at], bad.1) } else { bad };
                claims[at] = claim(id, len);
                let act = if again { exchange } else { take };
                let (ended, taken) = act(&mut ledger, in_order, &claims);
                assert!(taken.iter().map(|id| id.get()).eq(lent[..at].iter().copied()), "{in_order} {at}");
                assert!(ended.faulty && !ended.opened && usize::from(ended.taken) == at);
                let kind = if bad.0 == 0 { ViolationKind::LengthOverPosted } else { ViolationKind::IdOutOfRange };
                let fault = ledger.fault.unwrap();
                assert_eq!((fault.kind, fault.slot), (kind, 7 + at as u32), "{in_order} {again}");
                assert!(ledger.is_conserved());
            }
        }
    }

    /// And no completion is taken twice, nor one that is not there.
    #[test]
    fn a_burst_takes_what_is_there() {
        for in_order in [false, true] {
            for (count, again) in (0..=6usize).flat_map(|count| [(count, false), (count, true)]) {
                let (mut ledger, lent) = six_out(in_order);
                let claims: Vec<_> = lent.iter().map(|id| claim(*id, 60)).collect();
                let act = if again { exchange } else { take };
                let (ended, taken) = act(&mut ledger, in_order, &claims[..count]);
                assert!(taken.iter().map(|id| id.get()).eq(lent[..count].iter().copied()), "{in_order} {count}");
                assert_eq!((usize::from(ended.taken), ended.faulty, ended.opened), (count, false, false));
                assert_eq!(usize::from(ledger.outstanding()), if again { 6 } else { 6 - count });
                assert!(ledger.is_conserved());
            }
        }
    }
}
