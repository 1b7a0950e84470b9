//! The completions of a split ring: used elements, from the next one on.

use ironring_common::index::{QueueSize, SplitIndex};
use ironring_common::shm::lane::{Items, Lane};
use ironring_common::shm::words::Words;

use crate::boundary::{Claim, UsedElements, UsedRing};
use crate::queue::ledger::Claims;

/// The used elements from `at` on. The caller knows by the index how many there are.
#[inline(always)]
pub(super) fn claims<W: Words>(used: &UsedRing<W>, at: SplitIndex) -> impl Claims + Copy + '_ {
    Elements { elements: used.elements(), size: used.size(), at }
}

#[derive(Clone, Copy)]
struct Elements<L> {
    elements: UsedElements<L>,
    size: QueueSize,
    at: SplitIndex,
}

impl<L: Lane + Copy> Claims for Elements<L> {
    #[inline(always)]
    fn left(&self, skip: u16) -> usize {
        self.size.get().wrapping_sub(self.size.slot(self.at.advance(skip))).into()
    }

    #[inline(always)]
    fn slot(&self, skip: u16) -> u32 {
        self.size.slot(self.at.advance(skip)).into()
    }

    #[inline(always)]
    fn one(&self, skip: u16) -> Option<Claim> {
        Some(self.elements.element(self.at.advance(skip)))
    }

    #[inline(always)]
    fn along<I: Items>(&self, skip: u16, items: I) -> impl Iterator<Item = (I::Item, Claim)> {
        self.elements.along(self.at.advance(skip), items)
    }
}
