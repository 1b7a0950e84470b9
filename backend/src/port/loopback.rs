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
    /// Where the next frame goes if it fits there.
    tail: usize,
    slot: Option<Place>,
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

    /// Number `n` of those that wait.
    #[inline(always)]
    fn get(&self, n: usize) -> Option<Place> {
        if n >= self.len() {
            return None;
        }
        self.places.get(self.first.wrapping_add(n) & self.mask()).copied()
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

    #[inline(always)]
    fn pop(&mut self) -> Option<Place> {
        let oldest = self.get(0)?;
        self.first = self.first.wrapping_add(1);
        Some(oldest)
    }

    /// Takes the first `count`, all at once. How many bytes they have.
    #[inline(always)]
    fn pop_all(&mut self, count: usize) -> usize {
        let count = count.min(self.len());
        let bytes = (0..count).fold(0usize, |sum, n| sum.wrapping_add(self.get(n).unwrap_or_default().len));
        self.first = self.first.wrapping_add(count);
        bytes
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
        Self {
            bytes: vec![0; bytes.max(MAX_FRAME)].into_boxed_slice(),
            waiting: Waiting::new(frames.max(1)),
            tail: 0,
            slot: None,
            longest: 0,
            stats: PortStats::default(),
        }
    }

    /// Where `len` bytes in one piece are free.
    #[inline]
    fn place(&self, len: usize) -> Option<usize> {
        let Some(oldest) = self.waiting.get(0) else {
            return (len <= self.bytes.len()).then_some(0);
        };
        if self.waiting.is_full() {
            return None;
        }
        let head = oldest.start;
        if self.tail > head {
            // Free: [tail, end) and [0, head).
            if len <= self.bytes.len().saturating_sub(self.tail) {
                return Some(self.tail);
            }
            return (len <= head).then_some(0);
        }
        // Free: [tail, head). The tail meets the head only when all is taken, because no frame is empty.
        (len <= head.saturating_sub(self.tail)).then_some(self.tail)
    }
}

impl Default for Loopback {
    fn default() -> Self {
        Self::new()
    }
}

impl Port for Loopback {
    #[inline]
    fn tx_slot(&mut self, len: usize) -> Option<&mut [u8]> {
        self.slot = None;
        let start = self.place(len)?;
        self.slot = Some(Place { start, len });
        self.bytes.get_mut(start..start.checked_add(len)?)
    }

    #[inline]
    fn tx_commit(&mut self) {
        if let Some(place) = self.slot.take() {
            self.tail = place.start.saturating_add(place.len);
            self.longest = if self.waiting.len() == 0 { place.len } else { self.longest.max(place.len) };
            self.waiting.push(place);
            self.stats.took(place.len);
        }
    }

    #[inline]
    fn rx_peek(&mut self) -> Option<&[u8]> {
        let place = self.waiting.get(0)?;
        self.bytes.get(place.start..place.start.checked_add(place.len)?)
    }

    #[inline]
    fn rx_consume(&mut self) {
        if let Some(place) = self.waiting.pop() {
            self.stats.gave(place.len);
        }
    }

    #[inline]
    fn rx_frames(&mut self, most: usize) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        let count = most.min(self.waiting.len());
        (0..count).map(|n| {
            let Place { start, len } = self.waiting.get(n).unwrap_or_default();
            self.bytes.get(start..start.wrapping_add(len)).unwrap_or_default()
        })
    }

    #[inline]
    fn rx_longest(&mut self) -> usize {
        self.longest
    }

    #[inline]
    fn rx_consume_burst(&mut self, count: usize) {
        let bytes = self.waiting.pop_all(count);
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

    fn send(port: &mut Loopback, frame: &[u8]) -> bool {
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
                    prop_assert!(sent || oracle.len() == 16 || len + 9000 > free, "room was left");
                    if sent { oracle.push_back(frame); }
                } else if len % 2 == 0 {
                    let longest = port.rx_longest();
                    let frames = port.rx_frames(8);
                    let count = frames.len();
                    prop_assert_eq!(count, oracle.len().min(8));
                    prop_assert!(oracle.iter().all(|frame| frame.len() <= longest));
                    prop_assert!(frames.eq(oracle.iter().take(count)));
                    let done = len % (count + 1);
                    port.rx_consume_burst(done);
                    oracle.drain(..done);
                } else {
                    prop_assert_eq!(port.rx_peek(), oracle.front().map(Vec::as_slice));
                    port.rx_consume();
                    oracle.pop_front();
                }
            }
            prop_assert!(oracle.len() <= 16);
        }
    }
}
