//! Stores into the available ring, which the driver owns.

use ironring_common::index::SplitIndex;
use ironring_common::shm::area::Area;
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{AVAIL_ENTRY_BYTES, AVAIL_RING};

use super::{Scene, Strike};
use crate::hostile::words;
use crate::vring::hook::{Moment, Parts, RingMemory};

/// A15: `avail.idx` holds something else whenever the device does not look at it.
///
/// A driver that keeps its index in private memory overwrites the word at its next publish. One that increments the word
/// itself goes on from the bogus value. The bogus value is further ahead than a driver can ever be, so it is never
/// mistaken for an honest one.
#[derive(Default)]
pub(super) struct Idx {
    struck: Option<Struck>,
    /// For how many more passes the word is struck again.
    passes: u16,
}

struct Struck {
    queue: usize,
    honest: u16,
    bogus: u16,
}

impl Strike for Idx {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        match moment {
            Moment::Look | Moment::Stop => self.undo(ring),
            Moment::PostUse if scene.due => {
                self.passes = PASSES;
                return u64::from(self.strike(ring, scene));
            }
            // The driver has not published anything since, or the undo would have failed and ended it.
            Moment::Idle if self.passes > 0 => {
                self.passes = self.passes.wrapping_sub(1);
                self.strike(ring, scene);
            }
            _ => {}
        }
        0
    }

    fn rest(&mut self) {
        self.passes = 0;
    }
}

impl Idx {
    fn strike(&mut self, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> bool {
        if self.struck.is_some() {
            return false;
        }
        let Parts::Split { avail, .. } = ring.parts else { return false };
        let size = u64::from(ring.size.get());
        let honest = words::avail_idx(avail);
        // Ahead by more than a queue, behind by more than a queue.
        let jump = scene.rng.between(size.saturating_add(1), u64::from(u16::MAX).saturating_sub(size).max(size));
        let bogus = honest.wrapping_add(u16::try_from(jump).unwrap_or(1 << 15));
        let struck = words::replace_avail_idx(avail, honest, bogus);
        self.struck = struck.then_some(Struck { queue: ring.queue, honest, bogus });
        struck
    }

    fn undo(&mut self, ring: &RingMemory<'_>) {
        if let Parts::Split { avail, .. } = ring.parts
            && let Some(Struck { honest, bogus, .. }) = self.struck.take_if(|struck| struck.queue == ring.queue)
            && !words::replace_avail_idx(avail, bogus, honest)
        {
            // The driver has published: its word stands, and the strike is over.
            self.passes = 0;
        }
    }
}

/// A16: entries of the available ring that the device has taken name other descriptors, until it looks again.
#[derive(Default)]
pub(super) struct Ring {
    struck: Vec<(Area, usize, u16, u16)>,
}

impl Strike for Ring {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        let Parts::Split { avail, next_avail, .. } = ring.parts else { return 0 };
        if moment == Moment::Look || moment == Moment::Stop {
            self.rest();
        }
        if moment != Moment::PostUse || !scene.due {
            return 0;
        }
        for back in 1..=BEHIND.min(ring.size.get()) {
            let slot = usize::from(ring.size.slot(SplitIndex(next_avail.wrapping_sub(back))));
            let at = AVAIL_RING.wrapping_add(slot.wrapping_mul(AVAIL_ENTRY_BYTES));
            let honest = avail.load_u16(at);
            // No descriptor at all: no driver stores that.
            let bogus = honest | 0x8000;
            if bogus != honest && avail.bytes().replace_u16(at, honest, bogus) {
                self.struck.push((avail.clone(), at, honest, bogus));
            }
        }
        u64::from(!self.struck.is_empty())
    }

    fn rest(&mut self) {
        for (avail, at, honest, bogus) in self.struck.drain(..) {
            // It fails if the driver stored the entry meanwhile.
            let _ = avail.bytes().replace_u16(at, bogus, honest);
        }
    }
}

/// Entries that are struck at a time.
const BEHIND: u16 = 16;
/// How many passes without work the word stays struck.
const PASSES: u16 = 256;
