//! Private memory for received frames.

use super::super::FRAME_MAX;

/// Private memory for a burst of received frames. Made once, used for every burst.
pub struct RxBatch {
    pub(super) bytes: Box<[u8]>,
    /// Bytes from one frame to the next.
    pub(super) slot: usize,
    /// The longest frame.
    pub(super) longest: usize,
    pub(super) lens: Box<[usize]>,
    /// Frames that are there.
    pub(super) count: usize,
}

impl RxBatch {
    /// Room for `frames` frames of up to `frame_max` bytes.
    #[must_use]
    pub fn new(frames: usize, frame_max: u32) -> Self {
        let longest = usize::try_from(frame_max.min(FRAME_MAX)).unwrap_or(usize::MAX);
        // Not a power of two apart, where equal offsets of all frames would compete for the same sets of the cache.
        let slot = longest.next_multiple_of(64).saturating_add(64);
        let bytes = vec![0; slot.saturating_mul(frames)].into_boxed_slice();
        Self { bytes, slot, longest, lens: vec![0; frames].into_boxed_slice(), count: 0 }
    }

    /// The frames of the last burst, in the order in which they came. Without net headers.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.count).map(|frame| self.frame(frame))
    }

    /// Frame number `frame` of them; nothing if there are not so many.
    #[inline]
    #[must_use]
    pub fn frame(&self, frame: usize) -> &[u8] {
        let len = self.lens().get(frame).copied().unwrap_or(0);
        let start = frame.wrapping_mul(self.slot);
        // The length was checked against the room when the frame was copied.
        self.bytes.get(start..start.wrapping_add(len)).unwrap_or_default()
    }

    /// Frames in the batch.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) const fn clear(&mut self) {
        self.count = 0;
    }

    pub(super) const fn capacity(&self) -> usize {
        self.lens.len()
    }

    pub(in crate::net) fn lens(&self) -> &[usize] {
        self.lens.get(..self.count).unwrap_or_default()
    }
}

impl core::fmt::Debug for RxBatch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Lengths only: the bytes are the peer's.
        f.debug_struct("RxBatch").field("lens", &self.lens()).field("capacity", &self.capacity()).finish()
    }
}
