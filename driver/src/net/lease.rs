//! Received frames that are lent where they lie.

use core::sync::atomic::{AtomicBool, Ordering};

use ironring_common::shm::area::Area;
use ironring_common::shm::view::{Ours, Theirs};
use ironring_common::spec::net::HDR_BYTES;

use super::TxError;
use super::tx::write_frame;
use crate::boundary;

/// A received frame in the slot where the device put it: for forwarding, which then takes one copy instead of two.
///
/// **Its bytes are the device's for as long as it is lent.** The device may rewrite them at any moment, and two looks at the
/// same byte may see two values. The length was checked and stands; so does what the net header was found not to ask
/// for. Nothing else is promised: whoever decides by bytes of the frame has to copy them out first and decide by the
/// copy. [`RxQueue::rx_burst`](super::RxQueue::rx_burst) has no such trap.
#[derive(Clone, Copy, Debug)]
pub struct LeasedFrame<'a> {
    slots: &'a LentSlots,
    at: usize,
    len: usize,
}

/// The slots of a receive queue, and whether bytes of the frames that were lent last were looked at or asked for: then those of the next
/// ones most likely are too, and their lines can be on the way before. Whoever looks at none does without those lines.
#[derive(Debug)]
pub(super) struct LentSlots {
    words: Theirs<Area>,
    looked_at: AtomicBool,
}

impl LentSlots {
    pub(super) const fn new(words: Theirs<Area>) -> Self {
        Self { words, looked_at: AtomicBool::new(false) }
    }

    #[inline(always)]
    pub(super) const fn words(&self) -> &Theirs<Area> {
        &self.words
    }

    /// Frames of a burst are lent now: whether they are looked at is not known yet. To be called when this burst has called
    /// [`ask`](Self::ask) for the last time, for that goes by the burst before.
    #[inline(always)]
    pub(super) fn begin(&self) {
        self.looked_at.store(false, Ordering::Relaxed);
    }

    /// Asks for the line of a header before it is looked at, and of the frame's first bytes if frames of the last burst were looked at.
    #[inline(always)]
    pub(super) fn ask(&self) -> impl Fn(usize) {
        let frames_too = self.looked_at.load(Ordering::Relaxed);
        move |at| {
            self.words.prefetch(at);
            if frames_too {
                self.words.prefetch(at.wrapping_add(HDR_BYTES));
            }
        }
    }

    #[inline(always)]
    fn look(&self) -> &Theirs<Area> {
        self.looked_at.store(true, Ordering::Relaxed);
        &self.words
    }
}

impl<'a> LeasedFrame<'a> {
    pub(super) const fn new(slots: &'a LentSlots, at: usize, len: usize) -> Self {
        Self { slots, at, len }
    }

    /// Bytes of the frame, without a net header.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Asks for the line of the frame's first bytes, which the device has just written: some frames before they are copied.
    #[inline(always)]
    pub fn prefetch(&self) {
        self.slots.look().prefetch(self.at);
    }

    /// Copies bytes of the frame from its byte `at` on to private memory, as many as there are and fit. How many.
    pub fn copy_out(&self, at: usize, to: &mut [u8]) -> usize {
        let count = self.len.saturating_sub(at).min(to.len());
        if let Some(to) = to.get_mut(..count).filter(|to| !to.is_empty()) {
            boundary::copy_completed(self.slots.look(), self.at.saturating_add(at), to);
        }
        count
    }

    /// Writes bytes of the frame by `out`, the same slots: to send it from where it lies.
    #[inline]
    pub(super) fn write(&self, out: &Ours<Area>, at: usize, bytes: &[u8]) -> Result<(), TxError> {
        write_frame(out, (self.at, self.len), at, bytes)
    }

    /// Copies the whole frame into a transmit slot. It was asked for before.
    #[inline(always)]
    pub(super) fn copy_to(&self, words: &Ours<Area>, at: usize) {
        boundary::copy_over(self.slots.words(), self.at, words, at, self.len);
    }
}
