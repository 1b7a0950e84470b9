//! An endless source of frames, of one size or of a mix.

use super::null::Null;
use super::{Port, PortError, PortStats};
use crate::net::{MAX_FRAME, MIN_FRAME};

/// Gives frame after frame, as fast as the guest posts buffers; takes the guest's own frames as [`Null`] does.
///
/// Frame n: broadcast, from a locally administered address, of the EtherType for local experiments (IEEE 802 89-1);
/// then n as a big-endian 64-bit number; then a pattern. The frames are made in templates that rotate through
/// [`ROTATION_BYTES`], so that they do not all come from one hot line of cache.
#[derive(Debug)]
pub struct Generate<S = Fixed> {
    /// Templates one after the other, each beginning on a line of cache, as many as make whole rounds of the sizes.
    templates: Box<[u8]>,
    sizes: S,
    /// Where the next frame lies.
    next: Place,
    /// Where the next frame lies that has no number yet: some way ahead, so that a number is not copied out right after it
    /// was stored, which would wait for the store, and so that its line is there by then.
    unnumbered: Place,
    /// The number that it gets.
    number: u64,
    sink: Null,
    given: PortStats,
}

/// A template, and the place of its frame in the round of sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    at: usize,
    turn: usize,
}

/// How long frames are: a round of sizes, over and over again.
pub trait Sizes: Send {
    /// Sizes of a round.
    const TURNS: usize;
    /// Bytes of the longest of them.
    fn longest(&self) -> usize;
    /// Bytes of a frame of the round.
    fn bytes(&self, turn: usize) -> usize;
    /// Bytes from its template to the next one.
    fn stride(&self, turn: usize) -> usize;
}

/// All of the same size.
#[derive(Clone, Copy, Debug)]
pub struct Fixed {
    bytes: usize,
    stride: usize,
}

/// Those of [`IMIX`].
#[derive(Clone, Copy, Debug)]
pub struct Mixed;

impl Sizes for Fixed {
    const TURNS: usize = 1;

    #[inline(always)]
    fn longest(&self) -> usize {
        self.bytes
    }

    #[inline(always)]
    fn bytes(&self, _turn: usize) -> usize {
        self.bytes
    }

    #[inline(always)]
    fn stride(&self, _turn: usize) -> usize {
        self.stride
    }
}

impl Sizes for Mixed {
    const TURNS: usize = IMIX.len();

    #[inline(always)]
    fn longest(&self) -> usize {
        IMIX.into_iter().fold(0, usize::max)
    }

    #[inline(always)]
    fn bytes(&self, turn: usize) -> usize {
        IMIX.get(turn).copied().unwrap_or(MIN_BYTES)
    }

    #[inline(always)]
    fn stride(&self, turn: usize) -> usize {
        stride(self.bytes(turn))
    }
}

impl Generate {
    /// A source of frames of `bytes` bytes.
    ///
    /// # Errors
    /// [`PortError::FrameSize`] unless `bytes` lies between [`MIN_BYTES`] and [`MAX_FRAME`].
    pub fn new(bytes: usize) -> Result<Self, PortError> {
        if !(MIN_BYTES..=MAX_FRAME).contains(&bytes) {
            return Err(PortError::FrameSize { bytes, min: MIN_BYTES, max: MAX_FRAME });
        }
        Ok(Self::of(Fixed { bytes, stride: stride(bytes) }))
    }
}

impl Generate<Mixed> {
    /// A source of frames of the sizes of [`IMIX`].
    #[must_use]
    pub fn imix() -> Self {
        Self::of(Mixed)
    }
}

impl<S: Sizes> Generate<S> {
    fn of(sizes: S) -> Self {
        let strides = || (0..S::TURNS).map(|turn| sizes.stride(turn));
        let round = strides().fold(0usize, usize::saturating_add);
        let rounds = ROTATION_BYTES.div_ceil(round.max(1));
        let mut templates = vec![0; round.saturating_mul(rounds)].into_boxed_slice();
        let mut rest = &mut *templates;
        for stride in std::iter::repeat_n((), rounds).flat_map(|()| strides()) {
            let Some((template, behind)) = std::mem::take(&mut rest).split_at_mut_checked(stride) else { break };
            for (byte, value) in template.iter_mut().zip((0..=u8::MAX).cycle()) {
                *byte = value;
            }
            if let Some((header, _)) = template.split_first_chunk_mut() {
                *header = HEADER;
            }
            rest = behind;
        }
        let (sink, given) = (Null::new(), PortStats::default());
        let (next, unnumbered) = (Place::default(), Place::default());
        let mut source = Self { templates, sizes, next, unnumbered, number: 0, sink, given };
        source.number_frames(AHEAD.min(S::TURNS.saturating_mul(rounds)));
        source
    }

    /// Numbers the next `count` frames that have no number. Of each its number is stored, and nothing else: what is stored here
    /// waits behind the frames that have just gone to the guest.
    #[inline]
    fn number_frames(&mut self, count: usize) {
        let (mut number, mut place, end) = (self.number, self.unnumbered, self.templates.len());
        for _ in 0..count {
            let field = place.at.wrapping_add(MIN_FRAME)..place.at.wrapping_add(MIN_BYTES);
            if let Some(field) = self.templates.get_mut(field) {
                field.copy_from_slice(&number.to_be_bytes());
            }
            number = number.wrapping_add(1);
            place = place.after(&self.sizes, end);
        }
        (self.number, self.unnumbered) = (number, place);
    }
}

impl Place {
    /// The next one, of templates that `end` there.
    #[inline(always)]
    fn after<S: Sizes>(self, sizes: &S, end: usize) -> Self {
        // Inside the templates, which memory holds.
        let at = self.at.wrapping_add(sizes.stride(self.turn));
        if at >= end {
            return Self::default();
        }
        let turn = self.turn.wrapping_add(1);
        Self { at, turn: if turn < S::TURNS { turn } else { 0 } }
    }
}

impl<S: Sizes> Port for Generate<S> {
    #[inline]
    fn tx_slot(&mut self, len: usize) -> Option<&mut [u8]> {
        self.sink.tx_slot(len)
    }

    #[inline]
    fn tx_commit(&mut self) {
        self.sink.tx_commit();
    }

    #[inline]
    fn rx_peek(&mut self) -> Option<&[u8]> {
        let Place { at, turn } = self.next;
        self.templates.get(at..at.checked_add(self.sizes.bytes(turn))?)
    }

    #[inline]
    fn rx_consume(&mut self) {
        self.rx_consume_burst(1, self.sizes.bytes(self.next.turn));
    }

    #[inline]
    fn rx_frames(&mut self, most: usize) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        let (mut place, templates, sizes) = (self.next, &*self.templates, &self.sizes);
        (0..most).map(move |_| {
            let last = place.at.wrapping_add(sizes.bytes(place.turn));
            let frame = templates.get(place.at..last).unwrap_or_default();
            place = place.after(sizes, templates.len());
            frame
        })
    }

    #[inline]
    fn rx_longest(&mut self) -> usize {
        self.sizes.longest()
    }

    #[inline]
    fn rx_consume_burst(&mut self, count: usize, bytes: usize) {
        let (mut place, end) = (self.next, self.templates.len());
        for _ in 0..count {
            place = place.after(&self.sizes, end);
        }
        self.next = place;
        self.number_frames(count);
        self.given.gave_all(count, bytes);
    }

    fn stats(&self) -> PortStats {
        let taken = self.sink.stats();
        PortStats { given_frames: self.given.given_frames, given_bytes: self.given.given_bytes, ..taken }
    }
}

/// Bytes from one template to the next.
#[inline(always)]
const fn stride(bytes: usize) -> usize {
    bytes.next_multiple_of(64)
}

/// Simple IMIX, as frames without their checksum: of twelve, seven of 64 bytes, four of 570 and one of 1518, mixed.
pub const IMIX: [usize; 12] = [64, 570, 64, 64, 570, 64, 1518, 64, 570, 64, 570, 64];
/// The smallest frame: an Ethernet header and the number.
pub const MIN_BYTES: usize = MIN_FRAME + 8;
/// Over how many bytes the templates rotate.
pub const ROTATION_BYTES: usize = 1 << 20;
/// How many frames have their numbers before they are given.
const AHEAD: usize = 32;
const HEADER: [u8; MIN_FRAME] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_numbered_for_ever() {
        for bytes in [MIN_BYTES, 60, 64, 65, 1518, MAX_FRAME] {
            let mut port = Generate::new(bytes).unwrap();
            for n in 0..40_000u64 {
                let frame = port.rx_peek().unwrap();
                assert_eq!(frame.len(), bytes);
                assert_eq!(frame[..14], HEADER);
                assert_eq!(frame[14..22], n.to_be_bytes());
                assert!(frame[22..].iter().zip(22usize..).all(|(byte, at)| *byte == at as u8));
                port.rx_consume();
            }
            assert_eq!(port.stats().given_bytes, 40_000 * bytes as u64);
        }
    }

    #[test]
    fn a_mix_goes_round_and_is_numbered_like_the_rest() {
        let mut port = Generate::imix();
        for n in 0..40_000u64 {
            let frame = port.rx_peek().unwrap();
            assert_eq!(frame.len(), IMIX[n as usize % 12]);
            assert_eq!((&frame[..14], &frame[14..22]), (&HEADER[..], &n.to_be_bytes()[..]));
            port.rx_consume();
        }
        let count = |bytes| IMIX.iter().filter(|size| **size == bytes).count();
        assert_eq!((count(64), count(570), count(1518)), (7, 4, 1));
    }

    /// Of the first so many, and what comes then.
    #[test]
    fn bursts_are_what_single_frames_are() {
        fn compare<S: Sizes>(mut port: Generate<S>, mut oracle: Generate<S>) {
            for most in (0..=64usize).cycle().take(2_000) {
                let longest = port.rx_longest();
                let frames = port.rx_frames(most);
                assert_eq!(frames.len(), most);
                assert!(frames.clone().all(|frame| frame.len() <= longest));
                let done = most.div_ceil(2);
                let bytes = frames.clone().take(done).map(<[u8]>::len).sum();
                for frame in frames.take(done) {
                    assert_eq!(oracle.rx_peek(), Some(frame));
                    oracle.rx_consume();
                }
                port.rx_consume_burst(done, bytes);
                assert_eq!(port.stats(), oracle.stats());
            }
        }
        compare(Generate::new(64).unwrap(), Generate::new(64).unwrap());
        compare(Generate::imix(), Generate::imix());
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for bytes in [0, 21, MAX_FRAME + 1, usize::MAX] {
            assert!(Generate::new(bytes).unwrap_err().to_string().contains("pick 22 to 65535"));
        }
    }
}
