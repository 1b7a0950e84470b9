//! Stores into buffers and into everything.
//!
//! A driver that shares all of its memory instead of bouncing its buffers has them recycled while these go on: what is
//! stepped on then is not the driver's any more. Against a whole guest they tell something about it only if it bounces.

use ironring_common::index::DescId;
use ironring_common::shm::area::Area;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::{ETH_HEADER_BYTES, HDR_BYTES};

use super::{Aim, Books, Scene, Strike, Turns};
use crate::hostile::rng::Rng;
use crate::vring::hook::{Moment, RingMemory};

/// A41: frames keep changing after they were completed, until the device sees new buffers of the ring.
///
/// Only bytes behind the net header and the Ethernet header change ([`UNTOUCHED`]), so that
/// nothing that a driver checks at the ring or in the headers changes: what is left is whether it reads the rest once.
#[derive(Default)]
pub(super) struct Premature {
    frames: Vec<Changing>,
    /// The device may be writing fresh frames that came without a look.
    paused: bool,
    turns: Turns,
}

/// Bytes of a frame that flip.
struct Changing {
    bytes: Area,
    honest: [u8; CHANGING],
    bogus: [u8; CHANGING],
    len: usize,
}

impl Strike for Premature {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        self.paused = scene.book.walking;
        match moment {
            // From here on the device may write fresh frames.
            Moment::Post | Moment::Complete => self.frames.clear(),
            Moment::PostUse if scene.due => {
                self.frames = changing(ring, scene);
                self.frames.iter().for_each(|frame| frame.store(&frame.bogus));
                return u64::from(!self.frames.is_empty());
            }
            _ => {}
        }
        0
    }

    fn race(&mut self, _books: &mut Books, _aim: Aim, _rng: &mut Rng) -> u64 {
        let ends_honest = self.turns.next_is_rare();
        for frame in self.frames.iter().filter(|_| !self.paused) {
            frame.store(&frame.honest);
            frame.store(&frame.bogus);
            if ends_honest {
                frame.store(&frame.honest);
            }
        }
        0
    }

    fn rest(&mut self) {
        self.frames.clear();
    }
}

impl Changing {
    fn store(&self, bytes: &[u8; CHANGING]) {
        self.bytes.copy_in(0, bytes.get(..self.len).unwrap_or_default());
    }
}

/// The frames of a burst that are long enough.
fn changing(ring: &RingMemory<'_>, scene: &Scene<'_>) -> Vec<Changing> {
    let frame_of = |(head, written): (DescId, u32)| {
        let (addr, room) = scene.book.chain(head).filter(|chain| chain.writable_len > 0)?.buffer;
        let end = usize::try_from(written.min(room)).ok()?;
        let len = end.checked_sub(UNTOUCHED).filter(|len| *len > 0)?.min(CHANGING);
        let bytes = ring.memory.area(addr.checked_add(UNTOUCHED as u64)?, len)?;
        let mut honest = [0; CHANGING];
        bytes.copy_out(0, honest.get_mut(..len)?);
        Some(Changing { bytes, honest, bogus: honest.map(|byte| !byte), len })
    };
    let written = scene.book.burst.iter().map(|elem| elem.len);
    ring.heads.iter().copied().zip(written).filter_map(frame_of).collect()
}

/// A72a: frames of a burst change once more when the device looks at the ring again, after the driver may have taken them.
#[derive(Default)]
pub(super) struct AfterDelivery {
    frames: Vec<Changing>,
}

impl Strike for AfterDelivery {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        match moment {
            Moment::PostUse if scene.due => self.frames = changing(ring, scene),
            Moment::Look => {
                self.frames.iter().for_each(|frame| frame.store(&frame.bogus));
                return u64::from(self.frames.drain(..).count() > 0);
            }
            _ => {}
        }
        0
    }

    fn rest(&mut self) {
        self.frames.clear();
    }
}

/// A101: random words over all of the shared memory.
///
/// The stores are copies of 8 bytes, not words: they land on words of every size.
#[derive(Default)]
pub(super) struct ScribbleAll {
    regions: Vec<Area>,
}

impl Strike for ScribbleAll {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, _scene: &mut Scene<'_>) -> u64 {
        if matches!(moment, Moment::Start | Moment::Post) {
            let area = |(start, len)| ring.memory.area(start, usize::try_from(len).ok()?);
            self.regions = ring.memory.ranges().filter_map(area).collect();
        }
        0
    }

    fn race(&mut self, _books: &mut Books, _aim: Aim, rng: &mut Rng) -> u64 {
        let all: u64 = self.regions.iter().map(words_in).fold(0, u64::wrapping_add);
        for _ in 0..SCRIBBLES {
            let mut word = rng.below(all);
            for region in &self.regions {
                match word.checked_sub(words_in(region)) {
                    Some(later) => word = later,
                    None => {
                        scribble(region, word, rng);
                        break;
                    }
                }
            }
        }
        u64::from(all > 0).wrapping_mul(SCRIBBLES)
    }
}

fn words_in(region: &Area) -> u64 {
    u64::try_from(region.len()).unwrap_or(0).wrapping_shr(3)
}

/// Writes a random word, or one that looks like an index or a small number: most checks are about those.
fn scribble(region: &Area, word: u64, rng: &mut Rng) {
    let noise = rng.next_u64();
    let value = if noise & 1 == 0 { rng.next_u64() } else { noise.wrapping_shr(1) & 0x00ff_00ff_00ff_00ff };
    if let Ok(at) = usize::try_from(word.wrapping_shl(3)) {
        region.copy_in(at, &value.to_le_bytes());
    }
}

/// Bytes at the front of a receive buffer that A41 leaves alone: net header and Ethernet header.
pub const UNTOUCHED: usize = HDR_BYTES.wrapping_add(ETH_HEADER_BYTES);
/// Bytes behind these that A41 flips, at most.
pub const CHANGING: usize = 64;
/// Words of a racing run.
const SCRIBBLES: u64 = 64;
