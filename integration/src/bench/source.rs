//! Frames to be sent, one after the other through more memory than a private cache has.

use super::work::Size;

/// The frames. They rotate, each beginning on a line of cache, in whole rounds of their sizes. Their memory is there until the
/// process ends.
pub(super) struct Source {
    /// One after the other, and behind the last one the first ones again, so that each burst lies in one piece.
    frames: Box<[&'static [u8]]>,
    /// Those of a rotation.
    count: usize,
    next: usize,
}

impl Source {
    pub(super) fn new(size: Size) -> Self {
        let turns = size.turns();
        let round: usize = turns.iter().map(|bytes| stride(*bytes)).sum();
        let rounds = ROTATION_BYTES.div_ceil(round);
        let bytes = Box::leak(vec![0; round * rounds + LINE].into_boxed_slice());
        let start = bytes.as_ptr().align_offset(LINE);
        let mut rest = &mut bytes[start..];
        let mut frames = Vec::new();
        for size in std::iter::repeat_n(&turns, rounds).flatten() {
            let (frame, behind) = std::mem::take(&mut rest).split_at_mut(stride(*size));
            for (byte, value) in frame.iter_mut().zip((0..=u8::MAX).cycle()) {
                *byte = value;
            }
            if let Some((header, _)) = frame.split_first_chunk_mut() {
                *header = HEADER;
            }
            frames.push(&frame[..*size]);
            rest = behind;
        }
        let count = frames.len();
        for again in 0..BURST_MAX {
            frames.push(frames[again % count]);
        }
        Self { frames: frames.into_boxed_slice(), count, next: 0 }
    }

    /// The next `count` frames, [`BURST_MAX`] at most.
    #[inline]
    pub(super) fn burst(&self, count: usize) -> &[&'static [u8]] {
        &self.frames[self.next..self.next + count]
    }

    #[inline]
    pub(super) const fn advance(&mut self, count: usize) {
        self.next += count;
        while self.next >= self.count {
            self.next -= self.count;
        }
    }
}

const fn stride(bytes: usize) -> usize {
    bytes.next_multiple_of(LINE)
}

/// Bytes of a line of cache.
const LINE: usize = 64;

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
        for size in [Size::Bytes(65), Size::Bytes(9000), Size::Bytes(65_523), Size::Imix] {
            let mut source = Source::new(size);
            let first = source.burst(1)[0].as_ptr();
            let turns = size.turns();
            let total: usize = source.frames[..source.count].iter().map(|frame| stride(frame.len())).sum();
            assert!(total >= ROTATION_BYTES && source.count.is_multiple_of(turns.len()));
            for frame in 0..source.count {
                for (ahead, bytes) in source.burst(BURST_MAX).iter().enumerate() {
                    assert_eq!((bytes.len(), &bytes[..14]), (turns[(frame + ahead) % turns.len()], &HEADER[..]));
                    assert!(bytes.as_ptr().addr().is_multiple_of(LINE));
                }
                source.advance(1);
            }
            assert_eq!(source.burst(1)[0].as_ptr(), first);
        }
    }
}
