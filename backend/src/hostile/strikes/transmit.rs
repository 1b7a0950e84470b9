//! What a device does with frames that it was given to read, beyond reading them once.

use ironring_common::index::GuestAddr;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::HDR_BYTES;

use super::{Scene, Strike};
use crate::hostile::loot;
use crate::vring::hook::{Moment, RingMemory};

/// A72c: the frame is overwritten in its slot, behind the net header, which a driver may keep for the next one.
pub(super) struct Mutate;

impl Strike for Mutate {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        if moment != Moment::Complete || !scene.due {
            return 0;
        }
        let sources = sources(ring, scene);
        let Some((addr, len)) = scene.rng.pick(&sources) else { return 0 };
        let Some(bytes) = ring.memory.bytes(addr, len) else { return 0 };
        let noise = scene.rng.next_u64().to_le_bytes();
        for at in (HDR_BYTES..bytes.len()).step_by(noise.len()) {
            let room = bytes.len().saturating_sub(at).min(noise.len());
            bytes.copy_in(at, noise.get(..room).unwrap_or_default());
        }
        u64::from(bytes.len() > HDR_BYTES)
    }
}

/// A72d: the bytes behind the frame are read, up to the end of a slot.
pub(super) struct ReadSlack;

impl Strike for ReadSlack {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        if moment != Moment::Complete || !scene.due {
            return 0;
        }
        let sources = sources(ring, scene);
        let behind = |(addr, len): (GuestAddr, u32)| read(ring, GuestAddr(addr.0.wrapping_add(u64::from(len))), SLACK);
        u64::from(sources.into_iter().filter(|source| behind(*source)).count() > 0)
    }
}

/// A72e: frames are read again after they were completed, when their slots may have other owners.
#[derive(Default)]
pub(super) struct ReadLate {
    completed: Vec<(GuestAddr, u32)>,
}

impl Strike for ReadLate {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        match moment {
            Moment::Complete if scene.due => self.completed = sources(ring, scene),
            Moment::Look | Moment::Idle => {
                let read = |(addr, len): (GuestAddr, u32)| read(ring, addr, len);
                return u64::from(self.completed.drain(..).filter(|source| read(*source)).count() > 0);
            }
            _ => {}
        }
        0
    }

    fn rest(&mut self) {
        self.completed.clear();
    }
}

/// The readable buffers of a burst that are longer than a net header.
fn sources(ring: &RingMemory<'_>, scene: &Scene<'_>) -> Vec<(GuestAddr, u32)> {
    let chains = ring.heads.iter().filter_map(|head| scene.book.chain(*head)?.source);
    chains.filter(|(_, len)| usize::try_from(*len).is_ok_and(|len| len > HDR_BYTES)).collect()
}

/// Reads, and keeps what looks like a secret. Whether there is such memory.
fn read(ring: &RingMemory<'_>, addr: GuestAddr, len: u32) -> bool {
    let Some(bytes) = ring.memory.bytes(addr, len) else { return false };
    let mut copy = vec![0; bytes.len()];
    bytes.copy_out(0, &mut copy);
    loot::look_at(&copy);
    true
}

/// Bytes behind a frame that are read.
const SLACK: u32 = 64;
