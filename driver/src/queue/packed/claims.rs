//! The completions of a packed ring: used slots, from the next one on.

use ironring_common::index::{PackedPosition, QueueSize};
use ironring_common::shm::lane::{Items, Lane};
use ironring_common::shm::view::{Both, BothLane};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed;

use crate::boundary::{self, Claim};
use crate::queue::ledger::Claims;

/// The used slots from `at` on, of which the `first` was looked at before: at most `held` of them, and to the end of the round.
#[inline(always)]
pub(super) fn claims<W: Words>(
    ring: &Both<W>,
    size: QueueSize,
    (at, held): (PackedPosition, u16),
    first: Claim,
) -> impl Claims + Copy + '_ {
    let rests = ring.lane::<1>(packed::SLOT_REST, packed::SLOT_BYTES, usize::from(size.get()));
    UsedSlots { rests, size, at, count: held.min(size.get().wrapping_sub(at.slot())), first }
}

#[derive(Clone, Copy)]
struct UsedSlots<L> {
    rests: BothLane<L>,
    size: QueueSize,
    at: PackedPosition,
    count: u16,
    first: Claim,
}

impl<L: Lane + Copy> UsedSlots<L> {
    #[inline(always)]
    fn place(&self, skip: u16) -> (u16, bool) {
        (self.at.slot().wrapping_add(skip), self.at.wrap())
    }
}

impl<L: Lane + Copy> Claims for UsedSlots<L> {
    #[inline(always)]
    fn left(&self, skip: u16) -> usize {
        self.count.saturating_sub(skip).into()
    }

    #[inline(always)]
    fn slot(&self, skip: u16) -> u32 {
        self.place(skip).0.into()
    }

    #[inline(always)]
    fn one(&self, skip: u16) -> Option<Claim> {
        if skip == 0 {
            return Some(self.first);
        }
        if self.left(skip) == 0 {
            return None;
        }
        boundary::used_slot_of(&self.rests, self.at.in_its_round(self.place(skip).0, self.size))
    }

    #[inline(always)]
    fn along<I: Items>(&self, skip: u16, items: I) -> impl Iterator<Item = (I::Item, Claim)> {
        boundary::used_slots_along(self.rests, self.place(skip), items)
    }
}
