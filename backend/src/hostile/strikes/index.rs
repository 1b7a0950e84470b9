//! Lies about how far the used ring has got.

use ironring_common::shm::area::Area;
use ironring_common::shm::words::Words;
use ironring_common::spec::split::USED_IDX;

use super::{Aim, Books, Scene, Strike, Turns};
use crate::hostile::rng::Rng;
use crate::vring::hook::{Moment, Parts, RingMemory};

/// A18: the index is further ahead than any driver's outstanding chains, and not so far that it seems to go back.
pub(super) struct Jump;

impl Strike for Jump {
    fn used_idx(&mut self, idx: u16, scene: &mut Scene<'_>) -> u16 {
        let size = u64::from(scene.book.size.get());
        let jump = scene.rng.between(size, u64::from(u16::MAX).saturating_sub(size).max(size));
        idx.wrapping_add(u16::try_from(jump).unwrap_or(1 << 15))
    }
}

/// A19: the index is behind the one that was published last.
pub(super) struct Back;

impl Strike for Back {
    fn used_idx(&mut self, idx: u16, scene: &mut Scene<'_>) -> u16 {
        let burst = u16::try_from(scene.book.burst.len()).unwrap_or(u16::MAX);
        let back = u16::try_from(scene.rng.between(1, u64::from(scene.book.size.get()))).unwrap_or(1);
        idx.wrapping_sub(burst).wrapping_sub(back)
    }
}

/// A40: the index counts an element that is not written yet; one from an earlier round stands there.
pub(super) struct Early;

impl Strike for Early {
    fn used_idx(&mut self, idx: u16, _scene: &mut Scene<'_>) -> u16 {
        idx.wrapping_add(1)
    }
}

/// A20: after a burst the index goes back and forth between the one before it and the one behind it.
#[derive(Default)]
pub(super) struct Flap {
    flapping: Option<(Area, u16, u16)>,
    counted: bool,
    turns: Turns,
}

impl Strike for Flap {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        if let (true, Moment::PostUse, Parts::Split { used, next_used, .. }) = (scene.due, moment, ring.parts) {
            let burst = u16::try_from(scene.book.burst.len()).unwrap_or(0);
            self.flapping = Some((used.clone(), next_used.wrapping_sub(burst), next_used));
            self.counted = false;
        }
        0
    }

    fn burst_begins(&mut self) {
        self.rest();
    }

    fn race(&mut self, _books: &mut Books, _aim: Aim, _rng: &mut Rng) -> u64 {
        let Some((used, before, behind)) = &self.flapping else { return 0 };
        for _ in 0..FLAPS {
            used.store_u16_release(USED_IDX, *before);
            used.store_u16_release(USED_IDX, *behind);
        }
        if self.turns.next_is_rare() {
            used.store_u16_release(USED_IDX, *before);
        }
        u64::from(!std::mem::replace(&mut self.counted, true))
    }

    fn rest(&mut self) {
        if let Some((used, _, behind)) = self.flapping.take() {
            used.store_u16_release(USED_IDX, behind);
        }
    }
}

/// A21 and A72f: the index stays where it was, while chains are served.
#[derive(Default)]
pub(super) struct Freeze {
    frozen: Option<u16>,
    /// Where the index is, and what it should be.
    honest: Option<(Area, u16)>,
}

impl Strike for Freeze {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, _scene: &mut Scene<'_>) -> u64 {
        if let (Moment::PostUse, Some(_), Parts::Split { used, next_used, .. }) = (moment, self.frozen, ring.parts) {
            self.honest = Some((used.clone(), next_used));
        }
        0
    }

    fn used_idx(&mut self, idx: u16, scene: &mut Scene<'_>) -> u16 {
        let burst = u16::try_from(scene.book.burst.len()).unwrap_or(0);
        *self.frozen.get_or_insert(idx.wrapping_sub(burst))
    }

    fn has_debts(&self) -> bool {
        // From some burst on, each of them.
        self.frozen.is_some()
    }

    fn rest(&mut self) {
        self.frozen = None;
        if let Some((used, honest)) = self.honest.take() {
            used.store_u16_release(USED_IDX, honest);
        }
    }
}

/// Rounds of a racing run.
const FLAPS: u32 = 32;
