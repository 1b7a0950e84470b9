//! Several things at once: nonsense of every kind, and what an honest device may do though it seldom does.

use ironring_common::shm::area::Area;
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::SlotRest;
use ironring_common::spec::split::{USED_F_NO_NOTIFY, USED_FLAGS, USED_IDX, UsedElem};

use super::{Aim, Books, Scene, Strike};
use crate::hostile::catalogue::{Attack, PACKED, SPLIT};
use crate::hostile::rng::Rng;
use crate::vring::hook::{Moment, Parts, RingMemory};

/// A123 and A124: other attacks together, each with the aim that it has by itself.
pub(super) struct Combo(Vec<(Box<dyn Strike>, Aim, &'static str)>);

impl Combo {
    /// So many of the attacks for each layout.
    pub(super) fn of(attacks: &[&'static Attack], count: u64, rng: &mut Rng) -> Self {
        let mut parts = Vec::new();
        for layout in [SPLIT, PACKED] {
            let fitting: Vec<_> = attacks.iter().copied().filter(|attack| attack.layouts.contains(&layout)).collect();
            let picked = (0..count).filter_map(|_| {
                let attack = rng.pick(&fitting)?;
                let (strike, aim) = super::of(attack, rng)?;
                Some((strike, aim, layout))
            });
            parts.extend(picked);
        }
        Self(parts)
    }

    /// The strikes that aim at a queue, on rings that have what they strike.
    fn hitting(&mut self, queue: usize, layout: &'static str) -> impl Iterator<Item = &mut Box<dyn Strike>> {
        let hits = move |aim: &Aim, its: &'static str| aim.hits(queue) && its == layout;
        self.0.iter_mut().filter(move |(_, aim, its)| hits(aim, its)).map(|(strike, ..)| strike)
    }
}

impl Strike for Combo {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        let (book, rng, due) = (&mut *scene.book, &mut *scene.rng, scene.due);
        let layout = book.layout();
        let mut struck = 0u64;
        for strike in self.hitting(ring.queue, layout) {
            // Not all of them in each burst.
            let due = due && rng.below(3) > 0;
            struck = struck.saturating_add(strike.at(moment, ring, &mut Scene { book, rng, due }));
        }
        struck
    }

    fn wants_bytes(&self) -> bool {
        self.0.iter().any(|(strike, ..)| strike.wants_bytes())
    }

    fn burst_begins(&mut self) {
        self.0.iter_mut().for_each(|(strike, ..)| strike.burst_begins());
    }

    fn used_elem(&mut self, elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
        let (queue, layout) = (scene.book.queue, scene.book.layout());
        self.hitting(queue, layout).fold(elem, |elem, strike| strike.used_elem(elem, scene))
    }

    fn used_flags(&mut self, flags: u16, scene: &mut Scene<'_>) -> u16 {
        let (queue, layout) = (scene.book.queue, scene.book.layout());
        self.hitting(queue, layout).fold(flags, |flags, strike| strike.used_flags(flags, scene))
    }

    fn first_slot(&mut self, rest: SlotRest, scene: &mut Scene<'_>) -> SlotRest {
        let (queue, layout) = (scene.book.queue, scene.book.layout());
        self.hitting(queue, layout).fold(rest, |rest, strike| strike.first_slot(rest, scene))
    }

    fn used_idx(&mut self, idx: u16, scene: &mut Scene<'_>) -> u16 {
        let (queue, layout) = (scene.book.queue, scene.book.layout());
        self.hitting(queue, layout).fold(idx, |idx, strike| strike.used_idx(idx, scene))
    }

    fn has_debts(&self) -> bool {
        self.0.iter().any(|(strike, ..)| strike.has_debts())
    }

    fn call(&mut self) -> bool {
        self.0.iter_mut().all(|(strike, ..)| strike.call())
    }

    fn race(&mut self, books: &mut Books, _aim: Aim, rng: &mut Rng) -> u64 {
        self.0.iter_mut().map(|(strike, aim, ..)| strike.race(books, *aim, rng)).fold(0, u64::saturating_add)
    }

    fn rest(&mut self) {
        self.0.iter_mut().for_each(|(strike, ..)| strike.rest());
    }
}

/// A125: an honest device of rare habits. It completes the chains of a burst in another order, keeps a burst to itself until
/// the next one, changes its mind about kicks, and calls when nothing has happened. In a packed ring there is nothing to hold
/// back.
#[derive(Default)]
pub(super) struct HonestEdge {
    swap: super::order::Swap,
    /// The used index that is kept back.
    held: Option<u16>,
    used: Option<Area>,
}

impl Strike for HonestEdge {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        let Parts::Split { used, next_used, .. } = ring.parts else { return self.swap.at(moment, ring, scene) };
        match moment {
            Moment::Complete if scene.due && self.held.is_none() => {
                return self.swap.at(moment, ring, scene);
            }
            Moment::PostUse => {
                let no_kicks = scene.rng.below(2) == 0;
                used.store_u16(USED_FLAGS, if no_kicks { USED_F_NO_NOTIFY } else { 0 });
                self.used = Some(used.clone());
                self.held = self.held.map(|_| next_used);
            }
            // What was kept is shown at last.
            Moment::Look | Moment::Idle | Moment::Stop => self.rest(),
            _ => {}
        }
        0
    }

    fn first_slot(&mut self, first: SlotRest, scene: &mut Scene<'_>) -> SlotRest {
        self.swap.first_slot(first, scene)
    }

    fn used_idx(&mut self, idx: u16, scene: &mut Scene<'_>) -> u16 {
        let burst = u16::try_from(scene.book.burst.len()).unwrap_or(0);
        if scene.rng.below(4) > 0 {
            return idx;
        }
        self.held = Some(idx);
        idx.wrapping_sub(burst)
    }

    fn rest(&mut self) {
        let held = self.held.take();
        if let Some(used) = self.used.take() {
            used.store_u16(USED_FLAGS, 0);
            held.into_iter().for_each(|idx| used.store_u16_release(USED_IDX, idx));
        }
    }
}
