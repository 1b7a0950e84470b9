//! What is sent: a pool of frames that goes round and round.
//!
//! A generated frame carries its number, so that no two frames in flight are equal. The number is written into the pool
//! before the frame is sent and stays there until the frame is long back: the pool is larger than what can be in flight,
//! and so is always what must come back.

use super::Source;

/// The pool.
pub(super) struct Frames {
    bytes: Box<[u8]>,
    places: Box<[Place]>,
    numbered: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    len: usize,
}

/// A position in the endless sequence of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Number of the frame, from 0.
    pub(super) number: u64,
    /// Its place in the pool.
    index: usize,
}

impl Frames {
    pub(super) fn of(source: &Source, seed: u64) -> Self {
        match source {
            Source::Generated { size } => Self::generated(*size, seed),
            Source::Capture { capture, .. } => Self::collect(capture.frames(), false),
            // The interface's own.
            Source::Tap { .. } => Self::collect(std::iter::empty(), false),
        }
    }

    /// Frames of any bytes; only the type says that they are local experiments (IEEE 802, 88B5), and a real switch or
    /// stack would leave them alone.
    fn generated(size: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let frames: Vec<Vec<u8>> = (0..POOL)
            .map(|_| {
                let mut frame: Vec<u8> = std::iter::repeat_with(|| random.next()).flatten().take(size).collect();
                frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
                frame
            })
            .collect();
        Self::collect(frames.iter().map(Vec::as_slice), true)
    }

    fn collect<'a>(frames: impl Iterator<Item = &'a [u8]>, numbered: bool) -> Self {
        let (mut bytes, mut places) = (Vec::new(), Vec::new());
        for frame in frames {
            places.push(Place { start: bytes.len(), len: frame.len() });
            bytes.extend_from_slice(frame);
            bytes.resize(bytes.len().next_multiple_of(64), 0);
        }
        Self { bytes: bytes.into_boxed_slice(), places: places.into_boxed_slice(), numbered }
    }

    pub(super) fn longest(&self) -> usize {
        self.places.iter().map(|place| place.len).max().unwrap_or(0)
    }

    /// Writes the numbers of the next `count` frames.
    #[inline]
    pub(super) fn number(&mut self, from: Cursor, count: usize) {
        if !self.numbered {
            return;
        }
        let mut cursor = from;
        for _ in 0..count {
            let start = self.places[cursor.index].start + NUMBER_AT;
            self.bytes[start..start + 8].copy_from_slice(&cursor.number.to_le_bytes());
            cursor = self.after(cursor);
        }
    }

    #[inline]
    pub(super) fn frame(&self, at: Cursor) -> &[u8] {
        let place = self.places[at.index];
        &self.bytes[place.start..place.start + place.len]
    }

    #[inline]
    pub(super) fn after(&self, cursor: Cursor) -> Cursor {
        let index = cursor.index + 1;
        Cursor { number: cursor.number + 1, index: if index == self.places.len() { 0 } else { index } }
    }

    /// The cursor of frame `number`.
    pub(super) fn at(&self, number: u64) -> Cursor {
        let places = u64::try_from(self.places.len()).unwrap_or(u64::MAX);
        Cursor { number, index: usize::try_from(number % places).unwrap_or(0) }
    }

    /// Which frame came back, if it is one of those from `next` on and before `sent`: the first that is equal.
    #[cold]
    pub(super) fn find(&self, frame: &[u8], next: Cursor, sent: u64) -> Option<Cursor> {
        // What is older than the pool was overwritten, and is not in flight any more.
        let oldest = next.number.max(sent.saturating_sub(POOL as u64));
        let mut cursor = self.at(oldest);
        while cursor.number < sent {
            if self.frame(cursor) == frame {
                return Some(cursor);
            }
            cursor = self.after(cursor);
        }
        None
    }
}

impl Cursor {
    /// The place in the pool, which for a capture is the number of the frame in it.
    pub(super) const fn index(self) -> usize {
        self.index
    }
}

/// A source of bytes that need not be good, only reproducible (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> [u8; 8] {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    }
}

/// Generated frames in the pool: many more than in flight, and with their lines more than a first-level cache holds.
const POOL: usize = 1024;
/// Where a generated frame carries its number: behind the Ethernet header.
const NUMBER_AT: usize = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_generated_frame_is_unlike_every_other_one_in_the_pool() {
        let mut frames = Frames::generated(60, 7);
        frames.number(Cursor::default(), POOL);
        let mut all: Vec<&[u8]> = (0..POOL as u64).map(|number| frames.frame(frames.at(number))).collect();
        assert!(all.iter().all(|frame| frame.len() == 60));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), POOL);
        assert!(Frames::generated(60, 7).bytes == Frames::generated(60, 7).bytes, "a seed is a seed");
        assert!(Frames::generated(60, 7).bytes != Frames::generated(60, 8).bytes);
    }

    #[test]
    fn a_cursor_goes_round() {
        let frames = Frames::collect([&[1u8; 60][..], &[2; 61], &[3; 62]].into_iter(), false);
        let mut cursor = Cursor::default();
        for number in 0..10u8 {
            assert_eq!(cursor, frames.at(number.into()));
            assert_eq!(frames.frame(cursor).len(), 60 + usize::from(number % 3));
            cursor = frames.after(cursor);
        }
        assert_eq!(frames.longest(), 62);
    }

    #[test]
    fn a_frame_is_found_among_those_in_flight_only() {
        let mut frames = Frames::generated(64, 1);
        frames.number(Cursor::default(), 200);
        let copy = |number| frames.frame(frames.at(number)).to_vec();
        let (next, sent) = (frames.at(10), 190);
        for (number, found) in [(9, false), (10, true), (100, true), (189, true), (190, false)] {
            assert_eq!(frames.find(&copy(number), next, sent).is_some(), found, "{number}");
        }
    }
}
