//! Frames to be sent, one after the other through more memory than a private cache has.

use super::work::Size;

/// The frames. They rotate, each beginning on a line of cache, in whole rounds of their sizes.
pub(super) struct Source {
    bytes: Box<[u8]>,
    /// Bytes of the frames of a round.
    turns: Vec<usize>,
    next: Place,
}

/// Where a frame begins, and its place in the round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    at: usize,
    turn: usize,
}

impl Source {
    pub(super) fn new(size: Size) -> Self {
        let turns = size.turns();
        let round: usize = turns.iter().map(|bytes| stride(*bytes)).sum();
        let rounds = ROTATION_BYTES.div_ceil(round);
        let mut bytes = vec![0; round * rounds].into_boxed_slice();
        let mut rest = &mut *bytes;
        for size in std::iter::repeat_n(&turns, rounds).flatten() {
            let (frame, behind) = std::mem::take(&mut rest).split_at_mut(stride(*size));
            for (byte, value) in frame.iter_mut().zip((0..=u8::MAX).cycle()) {
                *byte = value;
            }
            if let Some((header, _)) = frame.split_first_chunk_mut() {
                *header = HEADER;
            }
            rest = behind;
        }
        Self { bytes, turns, next: Place::default() }
    }

    /// The next `count` frames.
    #[inline]
    pub(super) fn burst(&self, count: usize) -> Burst<'_> {
        let mut frames: [&[u8]; BURST_MAX] = [&[]; BURST_MAX];
        let count = count.min(BURST_MAX);
        if let [size] = *self.turns {
            let (stride, mut at) = (stride(size), self.next.at);
            for frame in frames.iter_mut().take(count) {
                *frame = &self.bytes[at..at + size];
                at += stride;
                at = if at < self.bytes.len() { at } else { 0 };
            }
        } else {
            let mut place = self.next;
            for frame in frames.iter_mut().take(count) {
                *frame = &self.bytes[place.at..place.at + self.turns[place.turn]];
                place = self.after(place);
            }
        }
        Burst { frames, count }
    }

    #[inline]
    fn after(&self, Place { at, turn }: Place) -> Place {
        let at = at + stride(self.turns[turn]);
        if at >= self.bytes.len() {
            return Place::default();
        }
        Place { at, turn: if turn + 1 < self.turns.len() { turn + 1 } else { 0 } }
    }

    #[inline]
    pub(super) fn advance(&mut self, count: usize) {
        for _ in 0..count {
            self.next = self.after(self.next);
        }
    }
}

/// Some frames.
pub(super) struct Burst<'a> {
    frames: [&'a [u8]; BURST_MAX],
    count: usize,
}

impl<'a> Burst<'a> {
    #[inline]
    pub(super) fn as_slice(&self) -> &[&'a [u8]] {
        &self.frames[..self.count]
    }
}

const fn stride(bytes: usize) -> usize {
    bytes.next_multiple_of(64)
}

/// The largest burst.
pub(super) const BURST_MAX: usize = 64;
/// Over how many bytes the frames rotate: twice the private cache of common servers.
const ROTATION_BYTES: usize = 2 << 20;
/// What testpmd's `txonly` writes of each frame: the headers of Ethernet, IP and UDP.
pub(super) const HEADERS: [u8; 42] = {
    let mut headers = [0; 42];
    let mut at = 0;
    while at < HEADER.len() {
        headers[at] = HEADER[at];
        at += 1;
    }
    headers
};
const HEADER: [u8; 14] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_rotate_through_all_of_their_memory() {
        for size in [Size::Bytes(65), Size::Bytes(9000), Size::Imix] {
            let mut source = Source::new(size);
            assert!(source.bytes.len() >= ROTATION_BYTES);
            let turns = size.turns();
            let rounds = source.bytes.len() / turns.iter().map(|bytes| stride(*bytes)).sum::<usize>();
            for frame in 0..rounds * turns.len() {
                let burst = source.burst(3);
                for (ahead, bytes) in burst.as_slice().iter().enumerate() {
                    assert_eq!((bytes.len(), &bytes[..14]), (turns[(frame + ahead) % turns.len()], &HEADER[..]));
                }
                source.advance(1);
            }
            assert_eq!(source.next, Place::default());
        }
    }
}
