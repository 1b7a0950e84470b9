//! A wire from the guest to itself: each frame comes back, in order.
//!
//! Frames wait in a private ring of bytes, each in one piece. When it runs empty, which is the rule while the guest has
//! receive buffers posted, it starts over at its first byte, so that the same few lines of cache serve every burst.

use super::{Port, PortStats, TxBurst};
use crate::net::MAX_FRAME;

/// A bounded loop. When it is full, frames stay on the guest's transmit ring.
#[derive(Debug)]
pub struct Loopback {
    bytes: Box<[u8]>,
    /// The frames that wait.
    waiting: Waiting,
    /// Where the next frame goes.
    tail: usize,
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

    /// The oldest ones, at most `most`, as far as they lie in one piece: none only if there are none.
    #[inline(always)]
    fn run(&self, most: usize) -> &[Place] {
        let from = self.places.get(self.first & self.mask()..).unwrap_or_default();
        from.get(..most.min(self.len()).min(from.len())).unwrap_or_default()
    }

    /// Where the oldest one begins.
    #[inline(always)]
    fn head(&self) -> Option<usize> {
        if self.len() == 0 {
            return None;
        }
        self.places.get(self.first & self.mask()).map(|oldest| oldest.start)
    }

    /// Places for more, in one piece and then in another, and the counter of those that were added.
    #[inline(always)]
    fn room(&mut self) -> (&mut [Place], &mut [Place], &mut usize) {
        if self.len() == 0 {
            // The next one is the first.
            return (self.places.split_at_mut(self.most).0, &mut [], &mut self.end);
        }
        let count = self.most.saturating_sub(self.len());
        let at = self.end & self.mask();
        let (from_start, here) = self.places.split_at_mut(at);
        let (now, later) = (count.min(here.len()), count.saturating_sub(here.len()));
        (here.split_at_mut(now).0, from_start.split_at_mut(later.min(at)).0, &mut self.end)
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
            slot: 0,
            longest: 0,
            stats: PortStats::default(),
        }
    }

    #[inline(always)]
    fn taking(&mut self) -> Taking<'_> {
        let Self { bytes, waiting, tail, longest, slot, stats } = self;
        // A slot that was handed out before is forgotten.
        *slot = 0;
        let head = waiting.head();
        let (before, free) = match head {
            // All of it, from the start.
            None => (&mut [][..], &mut bytes[..]),
            Some(head) => free_pieces(bytes, head, *tail),
        };
        let limit = tail.wrapping_add(free.len());
        let (places, more, end) = waiting.room();
        let noted = Noted { tail, longest, end };
        Taking { free, limit, before, places: places.iter_mut(), more, longest: *noted.longest, noted, stats }
    }

    /// Frames were taken from it.
    #[inline(always)]
    fn measure(&mut self) {
        // A slot that was handed out before is forgotten.
        self.slot = 0;
        if self.waiting.len() == 0 {
            (self.tail, self.longest) = (0, 0);
        }
    }
}

/// What is free where frames wait from `head` on: before them, if that is a piece by itself, and behind them, from `tail` on. The tail
/// meets the head only when there is no room, for no frame is empty.
fn free_pieces(bytes: &mut [u8], head: usize, tail: usize) -> (&mut [u8], &mut [u8]) {
    if tail <= head {
        return (&mut [], bytes.split_at_mut(head).0.split_at_mut(tail).1);
    }
    let (before, free) = bytes.split_at_mut(tail);
    (before.split_at_mut(head).0, free)
}

/// `len` bytes from `start` on, which a frame has there.
#[inline(always)]
fn part_mut(bytes: &mut [u8], start: usize, len: usize) -> &mut [u8] {
    bytes.split_at_mut(start).1.split_at_mut(len).0
}

/// Frames of a burst, which wait when it ends.
struct Taking<'a> {
    /// Bytes that are free in one piece, behind the newest frame.
    free: &'a mut [u8],
    /// Where they end.
    limit: usize,
    /// Bytes before the oldest one, if they are another piece.
    before: &'a mut [u8],
    /// Where the next ones are noted, in one piece, and then in another.
    places: std::slice::IterMut<'a, Place>,
    more: &'a mut [Place],
    longest: usize,
    /// Where that goes when the burst ends.
    noted: Noted<'a>,
    stats: &'a mut PortStats,
}

struct Noted<'a> {
    tail: &'a mut usize,
    longest: &'a mut usize,
    end: &'a mut usize,
}

impl<'a> Taking<'a> {
    /// Whether `len` bytes are free in one piece, which is then the first one.
    #[inline(always)]
    fn has_bytes(&mut self, len: usize) -> bool {
        len <= self.free.len() || self.start_over(len)
    }

    /// Goes on before the oldest frame, if there is room for `len` bytes; whether there is.
    #[cold]
    fn start_over(&mut self, len: usize) -> bool {
        let is_before = len <= self.before.len();
        if is_before {
            self.free = std::mem::take(&mut self.before);
            self.limit = self.free.len();
        }
        is_before
    }

    /// Goes on with the places of the other piece.
    #[cold]
    fn other_place(&mut self) -> Option<&'a mut Place> {
        self.places = std::mem::take(&mut self.more).iter_mut();
        self.places.next()
    }

    fn has_place(&self) -> bool {
        self.places.len() > 0 || !self.more.is_empty()
    }

    /// A frame of `len` bytes waits, if there is room for it. What is free behind the newest frame is given up for one that goes before
    /// the oldest, so it is asked before whether one more may wait.
    #[inline(always)]
    fn add(&mut self, len: usize) -> Option<&'a mut [u8]> {
        let place = match self.places.next() {
            Some(place) => place,
            None => self.other_place()?,
        };
        if !self.has_bytes(len) {
            self.close();
            return None;
        }
        *place = Place { start: self.start(), len };
        self.longest = self.longest.max(len);
        let slot;
        (slot, self.free) = std::mem::take(&mut self.free).split_at_mut(len);
        Some(slot)
    }

    /// Takes no more frames: a place was taken for one that does not wait.
    #[cold]
    fn close(&mut self) {
        (self.places, self.more) = ([].iter_mut(), &mut []);
    }

    /// Where the next frame begins.
    #[inline(always)]
    const fn start(&self) -> usize {
        self.limit.wrapping_sub(self.free.len())
    }
}

impl TxBurst for Taking<'_> {
    #[inline(always)]
    fn frame(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        // What is known is noted before the frame is written: behind a copy the compiler loads all of it again.
        let Some(slot) = self.add(len) else { return false };
        fill(slot);
        true
    }

    #[inline(always)]
    fn end(self, frames: usize, bytes: usize) {
        let tail = self.start();
        let Self { longest, noted, stats, .. } = self;
        (*noted.tail, *noted.longest) = (tail, longest);
        *noted.end = noted.end.wrapping_add(frames);
        stats.took_all(frames, bytes);
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
        let mut burst = self.taking();
        let has_room = burst.has_place() && burst.has_bytes(len);
        // It may go before the oldest frame, and nothing waits there yet.
        burst.end(0, 0);
        self.slot = if has_room { len } else { 0 };
        has_room.then(|| part_mut(&mut self.bytes, self.tail, len))
    }

    #[inline]
    fn tx_commit(&mut self) {
        let len = std::mem::take(&mut self.slot);
        if len > 0 {
            let mut burst = self.taking();
            // There was room.
            let took = usize::from(burst.add(len).is_some());
            burst.end(took, len);
        }
    }

    #[inline(always)]
    fn tx_burst(&mut self) -> impl TxBurst {
        self.taking()
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
            let mut burst = port.tx_burst();
            let took = burst.frame(frame.len(), |slot| slot.copy_from_slice(frame));
            burst.end(took.into(), if took { frame.len() } else { 0 });
            return took;
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

    /// In one burst, as many as there is room for. How many.
    fn send_burst(port: &mut Loopback, frames: &[Vec<u8>]) -> usize {
        let mut burst = port.tx_burst();
        let sent =
            frames.iter().take_while(|frame| burst.frame(frame.len(), |slot| slot.copy_from_slice(frame))).count();
        burst.end(sent, frames[..sent].iter().map(Vec::len).sum());
        sent
    }

    #[test]
    fn a_frame_that_may_not_wait_costs_no_room() {
        let mut port = Loopback::with_capacity(3, 70_000);
        assert_eq!(send_burst(&mut port, &[vec![1; 45_000], vec![2; 1000], vec![3; 1000]]), 3);
        port.rx_consume();
        assert_eq!(send_burst(&mut port, &[vec![4; 1000], vec![5; 30_000]]), 1);
        assert_eq!(port.tx_slot(30_000), None);
        port.rx_consume();
        port.rx_consume();
        assert_eq!(
            send_burst(&mut port, &[vec![6; 22_000], vec![7; 45_000]]),
            2,
            "behind the newest, before the oldest"
        );
        for (byte, len) in [(4, 1000), (6, 22_000), (7, 45_000)] {
            assert_eq!(port.rx_peek(), Some(&vec![byte; len][..]));
            port.rx_consume();
        }
        assert_eq!(port.rx_peek(), None);
    }

    proptest! {
        /// Any order of sends, by themselves and in bursts, of receives and of bursts of those, against a queue of vectors.
        #[test]
        fn frames_come_back_in_order(steps in proptest::collection::vec((any::<bool>(), 14usize..9000), 1..400)) {
            let mut port = Loopback::with_capacity(13, 70_000);
            let mut oracle = std::collections::VecDeque::<Vec<u8>>::new();
            for (n, (out, len)) in steps.into_iter().enumerate() {
                if out {
                    let frame = |k: usize| (0..len - k).map(|at| (at * 31 + n + k) as u8).collect::<Vec<u8>>();
                    let frames: Vec<_> = (0..n % 7).map(frame).collect();
                    let sent = match &frames[..] {
                        [only] => usize::from(send(&mut port, only)),
                        frames => send_burst(&mut port, frames),
                    };
                    let count = frames.len();
                    oracle.extend(frames.into_iter().take(sent));
                    let free = 70_000 - oracle.iter().map(Vec::len).sum::<usize>();
                    prop_assert!(sent == count || oracle.len() == 13 || len + 27_000 > free, "room was left");
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
            prop_assert!(oracle.len() <= 13);
            let waiting: usize = oracle.iter().map(Vec::len).sum();
            let stats = port.stats();
            prop_assert_eq!(stats.taken_bytes - stats.given_bytes, waiting as u64);
            prop_assert_eq!(stats.taken_frames - stats.given_frames, oracle.len() as u64);
        }
    }
}
