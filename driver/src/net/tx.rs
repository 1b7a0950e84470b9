//! The transmit queue.
//!
//! Frames are written into slots that this side never reads back, so a frame that the caller builds in place is as safe as
//! one that is copied in. The net header in front of every slot is zero from the day the arena was made: without
//! offloads it never changes, and is not written again, but in slots that the receive queue has too (`hairpin.rs`).

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

#[cfg(test)]
use ironring_common::apart;
use ironring_common::doorbell::Doorbell;
use ironring_common::shm::area::Area;
use ironring_common::shm::view::Ours;
use ironring_common::spec::net;

use super::bells::{Bells, Kick, Kicked};
use super::lease::LeasedFrame;
use super::wait::Patience;
use super::{AHEAD, NetError, RxBatch};
use crate::arena::QueueMemory;
use crate::queue::any::AnyRing;
use crate::queue::violation::Violation;
use crate::queue::{DriverRing, RingCounters, StopWindow};
use slots::{Put, TxSlots};

mod hairpin;
mod slots;

/// Sends frames.
#[derive(Debug)]
#[repr(align(128))]
pub struct TxQueue {
    ring: AnyRing<Area, ()>,
    slots: TxSlots,
    kick: Kick,
    call: Doorbell,
    frame_max: u32,
}

/// What a transmit queue has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxStats {
    /// Frames given to the device.
    pub frames: u64,
    /// Bytes of those frames, without headers.
    pub bytes: u64,
    /// Frames that the device has used.
    pub completed: u64,
    /// Frames that were out when the queue was reset.
    pub lost: u64,
    /// Frames that found no free slot.
    pub full: u64,
    /// Kicks sent.
    pub kicks: u64,
    /// Kicks that the device did not want, or that are turned off.
    pub kicks_suppressed: u64,
    /// Kicks that the device did not want and got all the same, because nothing came back for a while.
    pub watchdog_kicks: u64,
    /// Completions that claimed to have written to a frame that is only read. Ignored.
    pub idle_claims: u64,
}

/// Why frames were not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxError {
    /// A frame that no Ethernet has, or longer than the slots.
    #[error("frame {index} has {len} bytes; this queue sends frames of 14 to {max} bytes")]
    FrameLength {
        /// Position of the frame in the burst.
        index: usize,
        /// Its bytes.
        len: usize,
        /// The longest possible.
        max: u32,
    },
    /// The device is broken.
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// A free transmit slot to be filled in place. [`send`](Self::send) gives it to the device; a slot that is dropped stays
/// free, and the device is not shown it.
#[derive(Debug)]
pub struct TxSlot<'a> {
    queue: &'a mut TxQueue,
    at: usize,
    len: usize,
}

/// The frame of a slot that was lent, to be written in place. What is not written is what an earlier frame left there; in a hairpin
/// pair that may be one that was received.
#[derive(Debug)]
pub struct TxFrame<'a> {
    words: &'a Ours<Area>,
    at: usize,
    len: usize,
}

impl TxFrame<'_> {
    /// Writes bytes of the frame, beginning at its byte `at`.
    ///
    /// # Errors
    /// As [`TxSlot::write`].
    #[inline]
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), TxError> {
        write_frame(self.words, (self.at, self.len), at, bytes)
    }

    /// Bytes of the frame.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl TxSlot<'_> {
    /// Writes bytes of the frame, beginning at its byte `at`. All bytes of the frame go out, written or not: what is not
    /// written is what an earlier frame left there, in a hairpin pair also one that was received.
    ///
    /// # Errors
    /// [`TxError::FrameLength`] if they do not fit into the frame. Nothing is written then.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), TxError> {
        write_frame(&self.queue.slots.words, (self.at, self.len), at, bytes)
    }

    /// Gives the frame to the device, with the next [`TxQueue::publish`].
    ///
    /// # Errors
    /// The [`Violation`], new or latched.
    pub fn send(self) -> Result<(), Violation> {
        let Self { queue, at, len } = self;
        queue.ring.check()?;
        let (slots, lens, mut put) = (&mut queue.slots, core::iter::once(len), Written { at });
        let sent = match &mut queue.ring {
            AnyRing::Split(ring) => slots.send(ring, lens, &mut put)?,
            AnyRing::Packed(ring) => slots.send(ring, lens, &mut put)?,
        };
        // Nothing else could take the slot: this value borrows the queue.
        assert!(sent == 1, "a slot is free until it is sent");
        Ok(())
    }
}

impl TxQueue {
    pub(super) fn new(mut ring: AnyRing<Area, ()>, memory: QueueMemory, bells: Bells, frame_max: u32) -> Self {
        let Bells { kick, call } = bells;
        ring.suppress_calls();
        let slots = TxSlots::new(memory);
        slots.bind(&mut ring);
        Self { ring, slots, kick, call, frame_max }
    }

    /// Goes on with an empty ring and other doorbells. What was counted stays, and what was out counts as lost.
    pub(super) fn renew(&mut self, mut ring: AnyRing<Area, ()>, bells: Bells) {
        ring.suppress_calls();
        let Self { slots, ring: old, .. } = self;
        slots.bind(&mut ring);
        ring.keep(old);
        slots.stats.lost = slots.stats.lost.wrapping_add(u64::from(old.outstanding()));
        slots.idle_claims = slots.idle_claims.wrapping_add(old.counters().idle_claims);
        let Bells { kick, call } = bells;
        (self.ring, self.kick, self.call) = (ring, kick, call);
    }

    /// Copies frames into free slots and shows them to the device. Returns how many were sent: the first ones. Slots that
    /// the device is done with are reclaimed first if they are needed.
    ///
    /// # Errors
    /// [`TxError::FrameLength`] before anything is sent, or the [`Violation`], new or latched.
    pub fn tx_burst<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result<usize, TxError> {
        self.ring.check()?;
        self.burst(frames.iter().map(|frame| frame.as_ref().len()), CopyIn(frames))
    }

    /// As [`tx_burst`](Self::tx_burst), for what was received: the frames of `batch` but for the first `skip`, which went out
    /// before.
    ///
    /// # Errors
    /// As [`tx_burst`](Self::tx_burst); the position of a frame counts from `skip`.
    pub fn tx_batch(&mut self, batch: &RxBatch, skip: usize) -> Result<usize, TxError> {
        self.ring.check()?;
        let lens = batch.lens().get(skip..).unwrap_or_default();
        self.burst(lens.iter().copied(), CopyOn { batch, skip })
    }

    /// As [`tx_burst`](Self::tx_burst), for `count` frames of `len` bytes each that `fill` writes in place, one after the
    /// other: without a copy, and as safe as with one, for nothing is read back.
    ///
    /// # Errors
    /// As [`tx_burst`](Self::tx_burst).
    pub fn tx_burst_in_place(
        &mut self,
        count: usize,
        len: usize,
        fill: impl FnMut(&mut TxFrame<'_>),
    ) -> Result<usize, TxError> {
        self.ring.check()?;
        self.burst(core::iter::repeat_n(len, count), InPlace { fill, len })
    }

    /// As [`tx_burst`](Self::tx_burst), for frames that a receive queue has lent: one copy from its slots to those of this
    /// queue. See [`LeasedFrame`] for what that costs in safety.
    ///
    /// # Errors
    /// As [`tx_burst`](Self::tx_burst).
    pub fn forward_burst(&mut self, frames: &[LeasedFrame<'_>]) -> Result<usize, TxError> {
        self.ring.check()?;
        let (first, later) = frames.split_at_checked(AHEAD).unwrap_or((frames, &[]));
        first.iter().for_each(LeasedFrame::prefetch);
        self.burst(frames.iter().map(LeasedFrame::len), CopyOver { frames, later })
    }

    /// Sends frames of these lengths, each written by `put`.
    #[inline(always)]
    fn burst(
        &mut self,
        lens: impl ExactSizeIterator<Item = usize> + Clone,
        mut put: impl Put,
    ) -> Result<usize, TxError> {
        let (count, longest) = (lens.len(), self.longest());
        // All of them, because that takes less time than to ask after each whether to go on.
        if !lens.clone().fold(true, |all, len| all & is_frame(len, longest)) {
            return self.refuse(lens);
        }
        if usize::from(self.ring.free()) < count {
            self.reclaim()?;
        }
        let slots = &mut self.slots;
        let (sent, shown) = match &mut self.ring {
            AnyRing::Split(ring) => (slots.send(ring, lens, &mut put)?, ring.publish()),
            AnyRing::Packed(ring) => (slots.send(ring, lens, &mut put)?, ring.publish()),
        };
        // As `publish` does it, on a ring whose layout is known.
        if shown {
            self.notify();
        } else {
            // There was nothing to show, or the latch has been tripped.
            self.ring.check()?;
        }
        self.slots.count_full(count.wrapping_sub(sent));
        Ok(sent)
    }

    /// A free slot for a frame of `len` bytes, to be filled in place; `None` if all are out.
    ///
    /// # Errors
    /// [`TxError`].
    pub fn slot(&mut self, len: usize) -> Result<Option<TxSlot<'_>>, TxError> {
        self.ring.check()?;
        if !is_frame(len, self.longest()) {
            return self.refuse([len]);
        }
        if self.ring.free() == 0 {
            self.reclaim()?;
        }
        let Some(head) = self.ring.next_head() else {
            self.slots.count_full(1);
            return Ok(None);
        };
        let at = self.slots.frame_at(head);
        Ok(Some(TxSlot { queue: self, at, len }))
    }

    /// Shows the device every slot that was sent, and kicks it if it asks for that.
    ///
    /// # Errors
    /// The latched [`Violation`].
    pub fn publish(&mut self) -> Result<(), Violation> {
        self.ring.check()?;
        if self.ring.publish() {
            self.notify();
        }
        Ok(())
    }

    /// Takes back the slots that the device is done with. Returns how many.
    ///
    /// # Errors
    /// The [`Violation`], new or latched. What was taken before it is counted.
    pub fn reclaim(&mut self) -> Result<usize, Violation> {
        // With nothing out the ring is not asked, and a latched violation is to be said all the same.
        self.ring.check()?;
        let slots = &mut self.slots;
        match &mut self.ring {
            AnyRing::Split(ring) => slots.reclaim(ring),
            AnyRing::Packed(ring) => slots.reclaim(ring),
        }
    }

    /// Waits until the device is done with a frame, or `timeout` passes; whether there is one to
    /// [`reclaim`](Self::reclaim). What holds for [`RxQueue::wait`](super::RxQueue::wait) holds here.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, NetError> {
        let mut patience = Patience::new(timeout);
        while !self.sleep(&mut patience)? {
            if patience.is_over() {
                return Ok(false);
            }
            self.nudge()?;
        }
        Ok(true)
    }

    fn sleep(&mut self, patience: &mut Patience) -> Result<bool, NetError> {
        self.ring.check()?;
        self.ring.arm_calls();
        if !self.ring.has_completions()? {
            self.call.wait(patience.turn()).map_err(NetError::Os)?;
            self.call.drain().map_err(NetError::Os)?;
        }
        self.ring.suppress_calls();
        Ok(self.ring.has_completions()?)
    }

    /// Kicks the device, whether it wants that or not, if it was shown frames since its last kick.
    pub(super) fn nudge(&mut self) -> Result<(), Violation> {
        self.ring.check()?;
        if self.kick.nudge() == Kicked::Yes {
            self.slots.stats.watchdog_kicks = self.slots.stats.watchdog_kicks.wrapping_add(1);
        }
        self.ring.check()
    }

    /// Kicks the device, whether it wants that or not.
    pub(super) fn kick_anyway(&mut self) -> Result<(), Violation> {
        self.kick.insist();
        self.nudge()
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> TxStats {
        let idle_claims = self.slots.idle_claims.wrapping_add(self.ring.counters().idle_claims);
        TxStats { idle_claims, ..self.slots.stats }
    }

    /// What the ring counted.
    #[must_use]
    pub fn ring_counters(&self) -> RingCounters {
        self.ring.counters()
    }

    /// Frames that are out: sent and not reclaimed.
    #[must_use]
    pub fn outstanding(&self) -> u16 {
        self.ring.outstanding()
    }

    /// The longest frame, in bytes.
    #[must_use]
    pub const fn frame_max(&self) -> u32 {
        self.frame_max
    }

    pub(super) fn kick_fd(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }

    pub(super) fn call_fd(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    pub(super) fn start_base(&self) -> u32 {
        self.ring.start_base()
    }

    pub(super) fn stop_window(&self) -> StopWindow {
        self.ring.stop_window()
    }

    pub(super) fn is_conserved(&self) -> bool {
        self.ring.is_conserved()
    }

    #[inline]
    fn longest(&self) -> usize {
        usize::try_from(self.frame_max).unwrap_or(usize::MAX)
    }

    /// The error for the first length that no frame has.
    #[cold]
    fn refuse<T>(&self, lens: impl IntoIterator<Item = usize>) -> Result<T, TxError> {
        let found = lens.into_iter().enumerate().find(|(_, len)| !is_frame(*len, self.longest()));
        let (index, len) = found.unwrap_or_default();
        Err(TxError::FrameLength { index, len, max: self.frame_max })
    }

    #[inline]
    fn notify(&mut self) {
        let Self { ring, slots, kick, .. } = self;
        match kick.notify(|| ring.should_kick()) {
            Kicked::Yes => slots.stats.kicks = slots.stats.kicks.wrapping_add(1),
            Kicked::Suppressed => slots.stats.kicks_suppressed = slots.stats.kicks_suppressed.wrapping_add(1),
            Kicked::Pending => {}
        }
    }

    /// Where it lies, for the test of the layout.
    #[cfg(test)]
    pub(super) fn lines(&self, to: &mut Vec<core::ops::Range<usize>>) {
        to.push(apart::lines(self));
        self.ring.lines(to);
    }
}

/// Copies frames of the caller's.
struct CopyIn<'a, F>(&'a [F]);

impl<F: AsRef<[u8]>> Put for CopyIn<'_, F> {
    #[inline(always)]
    fn put(&mut self, frame: usize, words: &Ours<Area>, at: usize) {
        if let Some(frame) = self.0.get(frame) {
            words.copy_in(at, frame.as_ref());
        }
    }
}

/// Copies frames that were received, but for the first `skip`.
struct CopyOn<'a> {
    batch: &'a RxBatch,
    skip: usize,
}

impl Put for CopyOn<'_> {
    #[inline(always)]
    fn put(&mut self, frame: usize, words: &Ours<Area>, at: usize) {
        words.copy_in(at, self.batch.frame(self.skip.wrapping_add(frame)));
    }
}

/// Has the caller write frames of `len` bytes.
struct InPlace<F> {
    fill: F,
    len: usize,
}

impl<F: FnMut(&mut TxFrame<'_>)> Put for InPlace<F> {
    #[inline(always)]
    fn put(&mut self, _: usize, words: &Ours<Area>, at: usize) {
        (self.fill)(&mut TxFrame { words, at, len: self.len });
    }
}

/// Leaves a frame as it is, which the caller wrote before where it goes.
struct Written {
    at: usize,
}

impl Put for Written {
    #[inline(always)]
    fn put(&mut self, _: usize, _: &Ours<Area>, at: usize) {
        assert!(at == self.at, "a free slot is posted as itself");
    }
}

/// Copies frames that a receive queue has lent, and asks for those that come some frames later.
struct CopyOver<'a, 'q> {
    frames: &'a [LeasedFrame<'q>],
    later: &'a [LeasedFrame<'q>],
}

impl Put for CopyOver<'_, '_> {
    #[inline(always)]
    fn put(&mut self, frame: usize, words: &Ours<Area>, at: usize) {
        if let Some(later) = self.later.get(frame) {
            later.prefetch();
        }
        if let Some(frame) = self.frames.get(frame) {
            frame.copy_to(words, at);
        }
    }
}

/// Whether frames have such a length.
#[inline]
const fn is_frame(len: usize, longest: usize) -> bool {
    // One compare: what is too short wraps round to what is too long.
    len.wrapping_sub(net::ETH_HEADER_BYTES) <= longest.wrapping_sub(net::ETH_HEADER_BYTES)
}

/// Writes bytes of a frame of `len` bytes that begins at `start`.
#[inline]
pub(super) fn write_frame(
    words: &Ours<Area>,
    (start, len): (usize, usize),
    at: usize,
    bytes: &[u8],
) -> Result<(), TxError> {
    let end = at.saturating_add(bytes.len());
    if end > len {
        let max = u32::try_from(len).unwrap_or(u32::MAX);
        return Err(TxError::FrameLength { index: 0, len: end, max });
    }
    words.copy_in(start.saturating_add(at), bytes);
    Ok(())
}
