//! Lies in the net header before a received frame.
//!
//! They come between the frame and its completion, so that the driver never sees the honest one. The next frame in the
//! buffer has a header of its own.

use ironring_common::shm::area::Area;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::{HDR_BYTES, HDR_F_DATA_VALID, HDR_F_NEEDS_CSUM, HDR_LEN, Header};

use super::{Aim, Books, Scene, Strike, Turns};
use crate::hostile::rng::Rng;
use crate::vring::hook::{Moment, RingMemory};

/// Another header for a frame of so many bytes.
type Lie = fn(Header, u16, &mut Rng) -> Header;

/// Changes one header in each burst that is due.
struct OnHeader(Lie);

pub(super) fn on_header(lie: Lie) -> Box<dyn Strike> {
    Box::new(OnHeader(lie))
}

impl Strike for OnHeader {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        if moment != Moment::Complete || !scene.due {
            return 0;
        }
        let Some((bytes, len)) = some_header(ring, scene) else { return 0 };
        let honest = load(&bytes);
        let lie = (self.0)(honest, len, scene.rng);
        store(&bytes, lie);
        u64::from(lie != honest)
    }
}

/// A61: made of no buffer.
pub(super) fn of_no_buffer(header: Header, _len: u16, _rng: &mut Rng) -> Header {
    Header { num_buffers: 0, ..header }
}

/// A62: made of more buffers than come.
pub(super) fn of_too_many(header: Header, _len: u16, rng: &mut Rng) -> Header {
    let few = u16::try_from(rng.between(2, 17)).unwrap_or(2);
    Header { num_buffers: rng.pick(&[few, 256, u16::MAX]).unwrap_or(few), ..header }
}

/// A63: made of so many buffers that they are more than any frame can be.
pub(super) fn huge(header: Header, _len: u16, rng: &mut Rng) -> Header {
    Header { num_buffers: u16::try_from(rng.between(33, 255)).unwrap_or(33), ..header }
}

/// A64: made of two buffers, which nobody negotiated.
pub(super) fn of_two(header: Header, _len: u16, _rng: &mut Rng) -> Header {
    Header { num_buffers: 2, ..header }
}

/// A68: a kind of segmentation that does not exist or was not negotiated.
pub(super) fn gso_type(header: Header, len: u16, rng: &mut Rng) -> Header {
    let kind = rng.pick(&[1, 2, 3, 4, 5, 0x20, 0x40, 0x60, 0x80, 0x81, 0xff]).unwrap_or(1);
    Header { gso_type: kind, gso_size: len, hdr_len: 54, ..header }
}

/// A69: a segment of no bytes, of one, or of more than there are.
pub(super) fn gso_size(header: Header, len: u16, rng: &mut Rng) -> Header {
    let size = rng.pick(&[0, 1, len.saturating_add(1), u16::MAX]).unwrap_or(0);
    Header {
        gso_type: 1,
        gso_size: size,
        hdr_len: 54,
        flags: HDR_F_NEEDS_CSUM,
        csum_start: 34,
        csum_offset: 16,
        ..header
    }
}

/// A70: a checksum to be written beyond the frame, also after the sum of its place has wrapped.
pub(super) fn csum_oob(header: Header, len: u16, rng: &mut Rng) -> Header {
    let place = rng.pick(&[(len, 0), (len.saturating_sub(1), 0), (u16::MAX, 2), (34, u16::MAX), (len, 16)]);
    let (csum_start, csum_offset) = place.unwrap_or((len, 0));
    Header { flags: HDR_F_NEEDS_CSUM, csum_start, csum_offset, ..header }
}

/// A71: flags that were not negotiated, that contradict each other, or that do not exist.
pub(super) fn csum_flags(header: Header, _len: u16, rng: &mut Rng) -> Header {
    let both = HDR_F_NEEDS_CSUM | HDR_F_DATA_VALID;
    let flags = rng.pick(&[HDR_F_NEEDS_CSUM, both, HDR_F_NEEDS_CSUM | 4, 0xff]).unwrap_or(both);
    Header { flags, csum_start: 14, csum_offset: 6, ..header }
}

/// A71b: a checksum that nobody has looked at is said to be right.
pub(super) fn data_valid(header: Header, _len: u16, _rng: &mut Rng) -> Header {
    Header { flags: HDR_F_DATA_VALID, ..header }
}

/// A71c: headers of no bytes, or of more than the frame has.
pub(super) fn hdr_len(header: Header, len: u16, rng: &mut Rng) -> Header {
    Header { hdr_len: rng.pick(&[1, len.saturating_add(1), u16::MAX]).unwrap_or(u16::MAX), ..header }
}

/// A71d: TCP to be segmented in what is no TCP.
pub(super) fn gso_mismatch(header: Header, _len: u16, rng: &mut Rng) -> Header {
    let gso_type = rng.pick(&[1, 4]).unwrap_or(1);
    Header { gso_type, gso_size: 536, hdr_len: 54, ..header }
}

/// A66 and A67: the header of a completed frame changes while the driver reads it, back and forth.
pub(super) struct Toctou {
    lie: Lie,
    frame: Option<(Area, Header, Header)>,
    /// The device may be writing fresh frames that came without a look.
    paused: bool,
    turns: Turns,
}

impl Toctou {
    pub(super) const fn new(lie: Lie) -> Self {
        Self { lie, frame: None, paused: false, turns: Turns(0) }
    }
}

impl Strike for Toctou {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        self.paused = scene.book.walking;
        match moment {
            Moment::Post | Moment::Complete => self.frame = None,
            Moment::PostUse if scene.due => {
                self.frame = some_header(ring, scene).map(|(bytes, len)| {
                    let honest = load(&bytes);
                    let lie = (self.lie)(honest, len, scene.rng);
                    (bytes, honest, lie)
                });
                return u64::from(self.frame.is_some());
            }
            _ => {}
        }
        0
    }

    fn race(&mut self, _books: &mut Books, _aim: Aim, _rng: &mut Rng) -> u64 {
        if let Some((bytes, honest, lie)) = self.frame.as_ref().filter(|_| !self.paused) {
            for _ in 0..FLIPS {
                store(bytes, *honest);
                store(bytes, *lie);
            }
            if self.turns.next_is_rare() {
                store(bytes, *honest);
            }
        }
        0
    }

    fn rest(&mut self) {
        self.frame = None;
    }
}

/// The header of one frame of the burst, and the length of the frame behind it.
fn some_header(ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> Option<(Area, u16)> {
    let frames: Vec<_> = ring
        .heads
        .iter()
        .zip(&scene.book.burst)
        .filter(|(_, elem)| elem.len > HDR_LEN)
        .filter_map(|(head, elem)| {
            Some((scene.book.chain(*head).filter(|chain| chain.writable_len > 0)?.buffer.0, elem.len))
        })
        .collect();
    let (addr, len) = scene.rng.pick(&frames)?;
    let frame = u16::try_from(len.saturating_sub(HDR_LEN)).unwrap_or(u16::MAX);
    Some((ring.memory.area(addr, HDR_BYTES)?, frame))
}

fn load(bytes: &Area) -> Header {
    let mut header = [0; HDR_BYTES];
    bytes.copy_out(0, &mut header);
    Header::from_bytes(header)
}

fn store(bytes: &Area, header: Header) {
    bytes.copy_in(0, &header.to_bytes());
}

/// Flips in a racing run.
const FLIPS: u32 = 16;
