//! A sink that does the work of a receiver: every frame is copied out, and some are looked at.

use super::{Port, PortStats, TxBurst};
use crate::net::MAX_FRAME;

/// Takes every frame into private buffers that rotate through [`ROTATION_BYTES`], and sums up the bytes of every
/// [`SAMPLE`]th. Gives none.
#[derive(Debug)]
pub struct Null {
    bytes: Box<[u8]>,
    /// Where the next frame goes.
    at: usize,
    /// Bytes of the slot that was given.
    len: usize,
    until_sample: u32,
    stats: PortStats,
}

impl Null {
    /// A sink.
    #[must_use]
    pub fn new() -> Self {
        Self {
            // Room for the largest frame after the last place where one may start.
            bytes: vec![0; ROTATION_BYTES.saturating_add(MAX_FRAME)].into_boxed_slice(),
            at: 0,
            len: 0,
            until_sample: SAMPLE,
            stats: PortStats::default(),
        }
    }
}

/// Frames of a burst.
struct Taking<'a> {
    bytes: &'a mut [u8],
    at: usize,
    until_sample: u32,
    /// Where that goes when the burst ends.
    places: (&'a mut usize, &'a mut u32),
    stats: &'a mut PortStats,
}

impl Taking<'_> {
    /// Sums up a frame.
    #[cold]
    fn sample(&mut self, len: usize) {
        self.until_sample = SAMPLE;
        let sum = checksum(self.bytes.get(self.at..self.at.saturating_add(len)).unwrap_or_default());
        self.stats.checksum = self.stats.checksum.wrapping_add(sum);
    }

    /// A frame of `len` bytes was written.
    #[inline(always)]
    fn took(&mut self, len: usize) {
        // It is 1 at least before, and `at` and `len` lie inside the buffers: far from overflow.
        self.until_sample = self.until_sample.wrapping_sub(1);
        if self.until_sample == 0 {
            self.sample(len);
        }
        // The next line of cache; the rotation is longer than all frames of a burst.
        let next = self.at.wrapping_add(len).wrapping_add(LINE_MASK) & !LINE_MASK;
        self.at = if next < ROTATION_BYTES { next } else { 0 };
    }
}

impl TxBurst for Taking<'_> {
    #[inline(always)]
    fn frame(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let Some(slot) = self.bytes.get_mut(self.at..).and_then(|rest| rest.get_mut(..len)) else { return false };
        fill(slot);
        self.took(len);
        true
    }

    #[inline(always)]
    fn end(self, frames: usize, bytes: usize) {
        let (at, until_sample) = self.places;
        (*at, *until_sample) = (self.at, self.until_sample);
        self.stats.took_all(frames, bytes);
    }
}

impl Null {
    #[inline(always)]
    fn taking(&mut self) -> Taking<'_> {
        let Self { bytes, at, until_sample, stats, .. } = self;
        Taking { bytes, at: *at, until_sample: *until_sample, places: (at, until_sample), stats }
    }
}

impl Default for Null {
    fn default() -> Self {
        Self::new()
    }
}

impl Port for Null {
    #[inline]
    fn tx_slot(&mut self, len: usize) -> Option<&mut [u8]> {
        self.len = len;
        self.bytes.get_mut(self.at..)?.get_mut(..len)
    }

    #[inline]
    fn tx_commit(&mut self) {
        let len = self.len;
        let mut burst = self.taking();
        burst.took(len);
        burst.end(1, len);
    }

    #[inline(always)]
    fn tx_burst(&mut self) -> impl TxBurst {
        self.taking()
    }

    #[inline]
    fn rx_peek(&mut self) -> Option<&[u8]> {
        None
    }

    #[inline]
    fn rx_consume(&mut self) {}

    fn stats(&self) -> PortStats {
        self.stats
    }
}

/// The sum of the bytes as little-endian 64-bit words, the last one filled up with zeros.
fn checksum(frame: &[u8]) -> u64 {
    let (words, rest) = frame.as_chunks::<8>();
    let sum = words.iter().fold(0u64, |sum, word| sum.wrapping_add(u64::from_le_bytes(*word)));
    rest.iter().rev().fold(0u64, |word, byte| (word << 8) | u64::from(*byte)).wrapping_add(sum)
}

/// Over how many bytes the buffers rotate: more than the second-level cache of common server cores holds of one stream.
pub const ROTATION_BYTES: usize = 1 << 20;
/// One frame in so many is summed up.
pub const SAMPLE: u32 = 64;
const LINE_MASK: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_rotate_and_every_64th_is_summed() {
        let mut port = Null::new();
        let mut starts = std::collections::BTreeSet::new();
        let mut sums = 0u64;
        for n in 0..100_000u32 {
            let len = if n % 1000 == 0 { MAX_FRAME } else { 60 + (n % 1400) as usize };
            let mut look = |slot: &mut [u8]| {
                assert_eq!(slot.len(), len);
                slot.fill(n as u8);
                starts.insert(slot.as_ptr() as usize);
                if n % SAMPLE == SAMPLE - 1 {
                    let mut padded = slot.to_vec();
                    padded.resize(len.next_multiple_of(8), 0);
                    for word in padded.chunks(8) {
                        sums = sums.wrapping_add(u64::from_le_bytes(word.try_into().unwrap()));
                    }
                }
            };
            if n % 3 == 0 {
                look(port.tx_slot(len).unwrap());
                port.tx_commit();
            } else {
                let mut burst = port.tx_burst();
                assert!(burst.frame(len, look));
                burst.end(1, len);
            }
        }
        assert_eq!(port.stats().taken_frames, 100_000);
        assert_eq!(port.stats().checksum, sums);
        let span = starts.last().unwrap() - starts.first().unwrap();
        assert!(span > 512 << 10, "{span}");
        assert_eq!(port.rx_peek(), None);
    }
}
