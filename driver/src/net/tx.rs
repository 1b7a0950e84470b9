//! The transmit queue.
//!
//! Frames are written into slots that this side never reads back, so a frame that the caller builds in place is as safe as
//! one that is copied in. The net header in front of every slot is zero from the day the arena was made: without
//! offloads it never changes, and is not written again.

use std::os::fd::{AsFd, BorrowedFd};

use ironring_common::doorbell::{Doorbell, Rung};
use ironring_common::index::{DescId, SplitIndex};
use ironring_common::shm::mapping::Area;
use ironring_common::shm::view::Ours;
use ironring_common::spec::net;

use super::Bells;
use crate::arena::QueueMemory;
use crate::mapper::slots::{FixedSlots, SlotLen};
use crate::queue::split::{AddError, SplitRing};
use crate::queue::violation::Violation;

/// Sends frames.
#[derive(Debug)]
pub struct TxQueue {
    ring: SplitRing<Area, ()>,
    slots: Ours<Area>,
    mapper: FixedSlots,
    kick: Doorbell,
    kicks: bool,
    /// Kept open for the device, which may call; nobody waits for it.
    call: Doorbell,
    frame_max: u32,
    stats: TxStats,
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
    /// Frames that found no free slot.
    pub full: u64,
    /// Kicks sent.
    pub kicks: u64,
    /// Kicks that the device did not want, or that are turned off.
    pub kicks_suppressed: u64,
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

impl TxSlot<'_> {
    /// Writes bytes of the frame, beginning at its byte `at`. All bytes of the frame go out, written or not: what is not
    /// written is what an earlier frame left there.
    ///
    /// # Errors
    /// [`TxError::FrameLength`] if they do not fit into the frame. Nothing is written then.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), TxError> {
        let end = at.saturating_add(bytes.len());
        if end > self.len {
            let max = u32::try_from(self.len).unwrap_or(u32::MAX);
            return Err(TxError::FrameLength { index: 0, len: end, max });
        }
        self.queue.slots.copy_in(self.at.saturating_add(at), bytes);
        Ok(())
    }

    /// Gives the frame to the device, with the next [`TxQueue::publish`].
    ///
    /// # Errors
    /// The [`Violation`], new or latched.
    pub fn send(self) -> Result<(), Violation> {
        let posted = self.queue.post(self.len)?;
        // Nothing else could take the slot: this value borrows the queue.
        assert!(posted == Some(self.at), "a free slot is posted as itself");
        Ok(())
    }
}

impl TxQueue {
    pub(super) fn new(ring: SplitRing<Area, ()>, memory: QueueMemory, bells: Bells, frame_max: u32) -> Self {
        let mut ring = ring;
        let Bells { kick, kicks, call } = bells;
        ring.suppress_calls();
        let slots = Ours::new(memory.slots);
        Self { ring, slots, mapper: memory.mapper, kick, kicks, call, frame_max, stats: TxStats::default() }
    }

    /// Copies frames into free slots and shows them to the device. Returns how many were sent: the first ones. Slots that
    /// the device is done with are reclaimed first if they are needed.
    ///
    /// # Errors
    /// [`TxError::FrameLength`] before anything is sent, or the [`Violation`], new or latched.
    pub fn tx_burst<F: AsRef<[u8]>>(&mut self, frames: &[F]) -> Result<usize, TxError> {
        self.ring.check()?;
        for (index, frame) in frames.iter().enumerate() {
            self.check_length(index, frame.as_ref().len())?;
        }
        if usize::from(self.ring.free()) < frames.len() {
            self.reclaim()?;
        }
        let mut sent = 0usize;
        for frame in frames {
            let frame = frame.as_ref();
            let Some(at) = self.post(frame.len())? else { break };
            self.slots.copy_in(at, frame);
            sent = sent.wrapping_add(1);
        }
        self.publish()?;
        let left = frames.len().wrapping_sub(sent);
        self.stats.full = self.stats.full.wrapping_add(u64::try_from(left).unwrap_or(0));
        Ok(sent)
    }

    /// A free slot for a frame of `len` bytes, to be filled in place; `None` if all are out.
    ///
    /// # Errors
    /// [`TxError`].
    pub fn slot(&mut self, len: usize) -> Result<Option<TxSlot<'_>>, TxError> {
        self.ring.check()?;
        self.check_length(0, len)?;
        if self.ring.free() == 0 {
            self.reclaim()?;
        }
        let Some(head) = self.ring.next_head() else {
            self.stats.full = self.stats.full.wrapping_add(1);
            return Ok(None);
        };
        let at = self.frame_at(head);
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
        let mut taken = 0usize;
        let mut end = Ok(());
        for _ in 0..self.ring.held() {
            match self.ring.take(&mut self.mapper) {
                Ok(Some(_)) => taken = taken.wrapping_add(1),
                Ok(None) => break,
                Err(violation) => {
                    end = Err(violation);
                    break;
                }
            }
        }
        self.stats.completed = self.stats.completed.wrapping_add(u64::try_from(taken).unwrap_or(0));
        end.map(|()| taken)
    }

    /// What was counted.
    #[must_use]
    pub fn stats(&self) -> TxStats {
        TxStats { idle_claims: self.ring.idle_claims(), ..self.stats }
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

    pub(super) fn held(&self) -> u16 {
        self.ring.held()
    }

    pub(super) fn kick_fd(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }

    pub(super) fn call_fd(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    pub(super) fn published(&self) -> SplitIndex {
        self.ring.published()
    }

    pub(super) fn is_conserved(&self) -> bool {
        self.ring.is_conserved()
    }

    #[inline]
    fn check_length(&self, index: usize, len: usize) -> Result<(), TxError> {
        let fits = u32::try_from(len).is_ok_and(|len| len <= self.frame_max);
        if len < net::ETH_HEADER_BYTES || !fits {
            return Err(TxError::FrameLength { index, len, max: self.frame_max });
        }
        Ok(())
    }

    /// Lends a slot for a frame of `len` bytes. Returns where the frame goes, or `None` if no slot is free.
    #[inline]
    fn post(&mut self, len: usize) -> Result<Option<usize>, Violation> {
        let total = u32::try_from(len).unwrap_or(u32::MAX).saturating_add(net::HDR_LEN);
        match self.ring.add(&mut self.mapper, &[SlotLen(total)], &[], ()) {
            Ok(head) => {
                self.stats.frames = self.stats.frames.wrapping_add(1);
                self.stats.bytes = self.stats.bytes.wrapping_add(u64::try_from(len).unwrap_or(0));
                Ok(Some(self.frame_at(head)))
            }
            Err(AddError::Violation(violation)) => Err(violation),
            Err(error) => {
                assert!(matches!(error, AddError::Full { .. }), "the length was checked");
                Ok(None)
            }
        }
    }

    /// Where the frame of a slot begins.
    #[inline]
    fn frame_at(&self, head: DescId) -> usize {
        self.mapper.offset(head).wrapping_add(net::HDR_BYTES)
    }

    #[inline]
    fn notify(&mut self) {
        if !self.kicks || !self.ring.should_kick() {
            self.stats.kicks_suppressed = self.stats.kicks_suppressed.wrapping_add(1);
        } else if matches!(self.kick.ring(), Ok(Rung::Yes)) {
            self.stats.kicks = self.stats.kicks.wrapping_add(1);
        }
    }
}
