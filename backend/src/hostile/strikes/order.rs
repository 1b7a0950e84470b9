//! Completions of the wrong chain at the right time, or of the right ones in another order.

use ironring_common::index::DescId;
use ironring_common::shm::area::Area;
use ironring_common::spec::packed::SlotRest;
use ironring_common::spec::split::UsedElem;

use super::{Scene, Strike};
use crate::hostile::words::{self, Word};
use crate::vring::hook::{Moment, Parts, RingMemory};

/// A28: a chain that the device has not looked at is completed in the place of one that it has served; that one follows
/// where the other was due. Every chain is completed once, as a driver counts.
#[derive(Default)]
pub(super) struct Replay {
    /// The chain that was completed too early, and the one that is owed in its place.
    owed: Option<(u32, u32)>,
}

impl Strike for Replay {
    fn used_elem(&mut self, elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
        if let Some((_, served)) = self.owed.take_if(|(early, _)| *early == elem.id) {
            return UsedElem { id: served, ..elem };
        }
        let heads = scene.book.completing.into_iter().collect::<Vec<_>>();
        let burst: Vec<_> = scene.book.burst.iter().map(|elem| elem.id).collect();
        let room = scene.book.completing().map_or(0, |chain| chain.writable_len);
        let other = scene.book.in_flight(&heads).filter(|(head, other)| {
            // Of the same kind, so that the length is lawful for both, and not about to be completed in this burst.
            !burst.contains(&u32::from(head.get()))
                && other.writable_len >= u64::from(elem.len)
                && other.writable_len == room
        });
        match other {
            Some((head, _)) if self.owed.is_none() && scene.due => {
                self.owed = Some((u32::from(head.get()), elem.id));
                UsedElem { id: u32::from(head.get()), ..elem }
            }
            _ => elem,
        }
    }

    fn has_debts(&self) -> bool {
        self.owed.is_some()
    }
}

/// A27c: the last chain of a burst stands in the place of the first two.
pub(super) struct LastTwice;

impl Strike for LastTwice {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        let ([_, .., last], Moment::Complete, true) = (scene.book.burst.as_slice(), moment, scene.due) else {
            return 0;
        };
        let Parts::Split { used, next_used, .. } = ring.parts else { return 0 };
        let first = next_used.wrapping_sub(u16::try_from(scene.book.burst.len()).unwrap_or(0));
        for at in [first, first.wrapping_add(1)] {
            words::store_used(used, at, ring.size, *last);
        }
        1
    }
}

/// A29: the elements of a burst stand in the opposite order. A52c: its first two slots are used by each other's chain, if
/// these are equally long.
#[derive(Default)]
pub(super) struct Swap {
    /// The second slot of a burst that is about to be published.
    second: Option<(Area, DescId)>,
}

impl Strike for Swap {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        if moment != Moment::Complete {
            return 0;
        }
        let (used, next_used) = match (ring.parts, ring.heads) {
            (Parts::Split { used, next_used, .. }, _) => (used, next_used),
            (Parts::Packed { ring: slots, .. }, [first, second, ..]) => {
                let slots_of = |head: &DescId| scene.book.chain(*head).map_or(0, |chain| chain.ids.len());
                self.second = (slots_of(first) == slots_of(second)).then(|| (slots.clone(), *second));
                return 0;
            }
            (Parts::Packed { .. }, _) => {
                self.second = None;
                return 0;
            }
        };
        if !scene.due || scene.book.burst.len() < 2 {
            return 0;
        }
        for (back, elem) in (1u16..).zip(&scene.book.burst) {
            words::store_used(used, next_used.wrapping_sub(back), ring.size, *elem);
        }
        1
    }

    /// The driver sees none of the burst before this slot.
    fn first_slot(&mut self, first: SlotRest, _scene: &mut Scene<'_>) -> SlotRest {
        let Some((slots, slot)) = self.second.take() else { return first };
        let second = words::slot(&slots, slot);
        let moved = SlotRest { id: first.id, len: first.len, ..second };
        if words::replace(&slots, slot, Word::Rest, second.to_word(), moved.to_word()) {
            SlotRest { id: second.id, len: second.len, ..first }
        } else {
            first
        }
    }
}

/// A30: a used id is outstanding, but in the other queue.
#[derive(Default)]
pub(super) struct CrossQueue {
    /// What the device has of a queue that receives.
    elsewhere: Vec<u16>,
}

impl Strike for CrossQueue {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        if ring.queue & 1 == 0 && matches!(moment, Moment::Look | Moment::Post) {
            self.elsewhere = scene.book.every_id().filter(|id| scene.book.is_posted(*id)).map(|id| id.get()).collect();
        }
        0
    }

    fn used_elem(&mut self, elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
        if scene.book.queue & 1 == 0 {
            return elem;
        }
        let free = scene.book.not_outstanding();
        let there: Vec<_> = free.into_iter().filter(|id| self.elsewhere.contains(&id.get())).collect();
        scene.rng.pick(&there).map_or(elem, |id| UsedElem { id: u32::from(id.get()), ..elem })
    }
}
