//! A wire from the guest to itself: each frame comes back, in order.
//!
//! Frames wait in a private ring of bytes, each in one piece. When it runs empty, which is the rule while the guest has
//! receive buffers posted, it starts over at its first byte, so that the same few lines of cache serve every burst.

use super::{Port, PortStats};
use crate::net::MAX_FRAME;

/// A bounded loop. When it is full, frames stay on the guest's transmit ring.
#[derive(Debug)]
pub struct Loopback {
    bytes: Box<[u8]>,
    /// The frames that wait.
    waiting: Waiting,
    /// Where the next frame goes.
    tail: usize,
    /// Bytes that are free there in one piece.
    room: usize,
    /// Bytes of the frame that a slot was handed out for and that was not taken; 0 if there is none.
    slot: usize,
    /// The longest frame that was taken since none waited: at least that of those that wait.
    longest: usize,
    stats: PortStats,
}

/// Where a frame lies.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    start: usize,
    len: usize,
}

/// Places of frames, oldest first, in a ring that does not grow: with the library's double-ended queue loops are at 0.95.
#[derive(Debug)]
struct Waiting {
    /// A power of two, so that places come from counters by a mask.
    places: Box<[Place]>,
    /// Free-running: frames that were taken.
    first: usize,
    /// Free-running: frames that were added.
    end: usize,
    /// At most so many.
    most: usize,
}

impl Waiting {
    fn new(most: usize) -> Self {
        Self { places: vec![Place::default(); most.next_power_of_two()].into_boxed_slice(), first: 0, end: 0, most }
    }

    #[inline(always)]
    const fn len(&self) -> usize {
        self.end.wrapping_sub(self.first)
    }

    #[inline(always)]
    const fn is_full(&self) -> bool {
        self.len() >= self.most
    }

    /// The oldest ones, at most `most`, as far as they lie in one piece: none only if there are none.
    #[inline(always)]
    fn run(&self, most: usize) -> &[Place] {
        let from = self.places.get(self.first & self.mask()..).unwrap_or_default();
        from.get(..most.min(self.len()).min(from.len())).unwrap_or_default()
    }

    /// Adds one to those that are not full.
    #[inline(always)]
    fn push(&mut self, place: Place) {
        let at = self.end & self.mask();
        if let Some(to) = self.places.get_mut(at) {
            *to = place;
            self.end = self.end.wrapping_add(1);
        }
    }

    /// Takes the first `count`. Those that come when there is none left begin at the first place again, so that bursts lie in one
    /// piece.
    #[inline(always)]
    fn pop(&mut self, count: usize) {
        self.first = self.first.wrapping_add(count.min(self.len()));
        if self.len() == 0 {
            (self.first, self.end) = (0, 0);
        }
    }

    #[inline(always)]
    const fn mask(&self) -> usize {
        self.places.len().wrapping_sub(1)
    }
}

impl Loopback {
    /// A loop for 1024 frames and a megabyte, whichever is full first.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(1024, 1 << 20)
    }

    /// A loop for `frames` frames and `bytes` bytes, whichever is full first; at least one frame of any size.
    #[must_use]
    pub fn with_capacity(frames: usize, bytes: usize) -> Self {
        let bytes = bytes.max(MAX_FRAME);
        Self {
            bytes: vec![0; bytes].into_boxed_slice(),
            waiting: Waiting::new(frames.max(1)),
            tail: 0,
            room: bytes,
            slot: 0,
            longest: 0,
            stats: PortStats::default(),
        }
    }

    /// Looks for `len` bytes in one piece before the oldest frame, if there are too few behind the newest. Whether there are.
    #[cold]
    fn start_over(&mut self, len: usize) -> bool {
        let head = self.waiting.run(1).first().map_or(0, |oldest| oldest.start);
        // Otherwise what is free is what lies between the two.
        let is_before = self.tail > head && len <= head;
        if is_before {
            (self.tail, self.room) = (0, head);
        }
        is_before
    }

    /// Whether `len` bytes are free in one piece, from the tail on.
    #[inline(always)]
    fn has_room(&mut self, len: usize) -> bool {
        !self.waiting.is_full() && (len <= self.room || self.start_over(len))
    }

    /// A frame of `len` bytes waits at the tail, where there is room for it. Where it begins.
    #[inline(always)]
    fn add(&mut self, len: usize) -> usize {
        let start = self.tail;
        self.waiting.push(Place { start, len });
        (self.tail, self.room) = (start.wrapping_add(len), self.room.wrapping_sub(len));
        self.longest = self.longest.max(len);
        self.stats.took(len);
        start
    }

    /// Frames were taken from it. A slot that was handed out before is forgotten.
    #[inline(always)]
    fn measure(&mut self) {
        self.slot = 0;
        let Some(oldest) = self.waiting.run(1).first() else {
            (self.tail, self.room, self.longest) = (0, self.bytes.len(), 0);
            return;
        };
        // The tail meets the head only when all is taken, because no frame is empty.
        let end = if self.tail > oldest.start { self.bytes.len() } else { oldest.start };
        self.room = end.saturating_sub(self.tail);
    }
}

/// `len` bytes from `start` on, which a frame has there.
#[inline(always)]
fn part_mut(bytes: &mut [u8], start: usize, len: usize) -> &mut [u8] {
    bytes.split_at_mut(start).1.split_at_mut(len).0
}

impl Default for Loopback {
    fn default() -> Self {
        Self::new()
    }
}

impl Port for Loopback {
    #[inline]
    fn tx_slot(&mut self, len: usize) -> Option<&mut [u8]> {
        self.slot = if self.has_room(len) { len } else { 0 };
        (self.slot > 0).then(|| part_mut(&mut self.bytes, self.tail, len))
    }

    #[inline]
    fn tx_commit(&mut self) {
        let len = std::mem::take(&mut self.slot);
        if len > 0 {
            self.add(len);
        }
    }

    #[inline(always)]
    fn tx_frame(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        if !self.has_room(len) {
            return false;
        }
        // What is known is noted before the frame is written: behind a copy the compiler loads all of it again.
        self.slot = 0;
        let start = self.add(len);
        fill(part_mut(&mut self.bytes, start, len));
        true
    }

    #[inline]
    fn rx_peek(&mut self) -> Option<&[u8]> {
        let Place { start, len } = *self.waiting.run(1).first()?;
        self.bytes.get(start..start.checked_add(len)?)
    }

    #[inline]
    fn rx_consume(&mut self) {
        if let Some(Place { len, .. }) = self.waiting.run(1).first().copied() {
            self.rx_consume_burst(1, len);
        }
    }

    #[inline]
    fn rx_frames(&mut self, most: usize) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        let bytes = &*self.bytes;
        self.waiting.run(most).iter().map(move |Place { start, len }| bytes.split_at(*start).1.split_at(*len).0)
    }

    #[inline]
    fn rx_longest(&mut self) -> usize {
        self.longest
    }

    #[inline]
    fn rx_consume_burst(&mut self, count: usize, bytes: usize) {
        self.waiting.pop(count);
        self.measure();
        self.stats.gave_all(count, bytes);
    }

    fn stats(&self) -> PortStats {
        self.stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// In one step or in two, and after a slot that is not committed, by turns of lengths.
    fn send(port: &mut Loopback, frame: &[u8]) -> bool {
        if frame.len().is_multiple_of(3) {
            return port.tx_frame(frame.len(), |slot| slot.copy_from_slice(frame));
        }
        if frame.len() % 3 == 1 {
            let _ = port.tx_slot(frame.len() * 2);
        }
        let Some(slot) = port.tx_slot(frame.len()) else { return false };
        slot.copy_from_slice(frame);
        port.tx_commit();
        true
    }

    #[test]
    fn a_full_loop_takes_nothing_and_loses_nothing() {
        let mut port = Loopback::with_capacity(4, 0);
        for n in 0..4u8 {
            assert!(send(&mut port, &[n; 60]));
        }
        assert!(!send(&mut port, &[9; 60]));
        for n in 0..4u8 {
            assert_eq!(port.rx_peek(), Some(&[n; 60][..]));
            port.rx_consume();
        }
        assert_eq!(port.rx_peek(), None);
        assert!(send(&mut port, &[7; MAX_FRAME]), "an empty loop takes a frame of any size");
    }

    #[test]
    fn a_slot_that_is_not_committed_is_forgotten() {
        let mut port = Loopback::new();
        port.tx_slot(100).unwrap().fill(1);
        assert!(send(&mut port, &[2; 60]));
        assert_eq!(port.rx_peek(), Some(&[2; 60][..]));
        port.rx_consume();
        port.tx_commit();
        assert_eq!(port.rx_peek(), None);
    }

    proptest! {
        /// Any order of sends, receives and bursts, against a queue of vectors.
        #[test]
        fn frames_come_back_in_order(steps in proptest::collection::vec((any::<bool>(), 14usize..9000), 1..400)) {
            let mut port = Loopback::with_capacity(16, 70_000);
            let mut oracle = std::collections::VecDeque::<Vec<u8>>::new();
            for (n, (out, len)) in steps.into_iter().enumerate() {
                if out {
                    let frame: Vec<u8> = (0..len).map(|at| (at * 31 + n) as u8).collect();
                    let free = 70_000 - oracle.iter().map(Vec::len).sum::<usize>();
                    let sent = send(&mut port, &frame);
                    prop_assert!(sent || oracle.len() == 16 || len + 27_000 > free, "room was left");
                    if sent { oracle.push_back(frame); }
                } else if len % 2 == 0 {
                    let longest = port.rx_longest();
                    let frames = port.rx_frames(8);
                    let count = frames.len();
                    // As many as lie in one piece.
                    prop_assert!(count <= oracle.len().min(8) && (count > 0 || oracle.is_empty()));
                    prop_assert!(oracle.iter().all(|frame| frame.len() <= longest));
                    prop_assert!(frames.eq(oracle.iter().take(count)));
                    let done = len % (count + 1);
                    let bytes = oracle.drain(..done).map(|frame| frame.len()).sum();
                    port.rx_consume_burst(done, bytes);
                } else {
                    prop_assert_eq!(port.rx_peek(), oracle.front().map(Vec::as_slice));
                    port.rx_consume();
                    oracle.pop_front();
                }
            }
            prop_assert!(oracle.len() <= 16);
            let waiting: usize = oracle.iter().map(Vec::len).sum();
            let stats = port.stats();
            prop_assert_eq!(stats.taken_bytes - stats.given_bytes, waiting as u64);
            prop_assert_eq!(stats.taken_frames - stats.given_frames, oracle.len() as u64);
        }
    }
}
