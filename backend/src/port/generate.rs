//! An endless source of frames of one size.

use super::null::Null;
use super::{Port, PortError, PortStats};
use crate::net::{MAX_FRAME, MIN_FRAME};

/// Gives frame after frame, as fast as the guest posts buffers; takes the guest's own frames as [`Null`] does.
///
/// Frame n: broadcast, from a locally administered address, of the EtherType for local experiments (IEEE 802 89-1);
/// then n as a big-endian 64-bit number; then a pattern. The frames are made in templates that rotate through
/// [`ROTATION_BYTES`], so that they do not all come from one hot line of cache.
#[derive(Debug)]
pub struct Generate {
    /// Templates one after the other, `stride` bytes apart.
    templates: Box<[u8]>,
    bytes: usize,
    stride: usize,
    /// Where the next frame lies.
    at: usize,
    /// Where the next frame lies that has no number yet: some way ahead, so that a number is not copied out right after it
    /// was stored, which would wait for the store, and so that its line is there by then.
    unnumbered: usize,
    /// The number that it gets.
    number: u64,
    sink: Null,
    given: PortStats,
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
        let stride = bytes.next_multiple_of(64);
        let count = ROTATION_BYTES.div_ceil(stride);
        let mut templates = vec![0; stride.saturating_mul(count)].into_boxed_slice();
        for template in templates.chunks_exact_mut(stride) {
            for (byte, value) in template.iter_mut().zip((0..=u8::MAX).cycle()) {
                *byte = value;
            }
            if let Some((header, _)) = template.split_first_chunk_mut() {
                *header = HEADER;
            }
        }
        let (sink, given) = (Null::new(), PortStats::default());
        let mut source = Self { templates, bytes, stride, at: 0, unnumbered: 0, number: 0, sink, given };
        for _ in 0..AHEAD.min(count) {
            source.write_number();
        }
        Ok(source)
    }

    /// Numbers the next frame that has no number.
    #[inline]
    fn write_number(&mut self) {
        let number = self.number.to_be_bytes();
        let field = self.templates.get_mut(self.unnumbered..).and_then(|frame| frame.get_mut(MIN_FRAME..MIN_BYTES));
        if let Some(field) = field {
            field.copy_from_slice(&number);
        }
        self.number = self.number.wrapping_add(1);
        self.unnumbered = self.after(self.unnumbered);
    }

    #[inline]
    fn after(&self, at: usize) -> usize {
        let next = at.saturating_add(self.stride);
        if next < self.templates.len() { next } else { 0 }
    }
}

impl Port for Generate {
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
        self.templates.get(self.at..self.at.checked_add(self.bytes)?)
    }

    #[inline]
    fn rx_ready(&mut self) -> usize {
        usize::MAX
    }

    #[inline]
    fn rx_consume(&mut self) {
        self.given.gave(self.bytes);
        self.at = self.after(self.at);
        self.write_number();
    }

    fn stats(&self) -> PortStats {
        let taken = self.sink.stats();
        PortStats { given_frames: self.given.given_frames, given_bytes: self.given.given_bytes, ..taken }
    }
}

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
    fn sizes_that_cannot_be_are_refused() {
        for bytes in [0, 21, MAX_FRAME + 1, usize::MAX] {
            assert!(Generate::new(bytes).unwrap_err().to_string().contains("pick 22 to 65535"));
        }
    }
}
