//! The receive queue.
//!
//! Every slot is posted at all times, but while the transmit queue of a hairpin pair has it: it is posted again as its completion
//! is taken. The device is shown that only when the frame was copied out, or the lease of it has ended: an eighth of the ring at a
//! time, at most 32 slots, and all of them before this side sleeps. A frame is copied to private memory by one copy of exactly the bytes that were checked, and
//! only the copy is looked at: what the device does to the slot meanwhile or afterwards has no effect. Of its net header the two
//! bytes that may ask for something are loaded, once each, and nothing of it is kept.
//!
//! A frame that is too short or whose header says what was not negotiated is a fault of the packet: it is dropped and
//! counted, and traffic goes on.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ironring_common::doorbell::Doorbell;
use ironring_common::error::OsError;
use ironring_common::shm::area::Area;

use super::NetError;
use super::bells::{Bells, Kick, Kicked};
use super::lease::LeasedFrame;
use super::wait::Patience;
use crate::arena::QueueMemory;
use crate::mapper::Direction;
use crate::queue::any::AnyRing;
use crate::queue::slots::{BURST, Taken};
use crate::queue::violation::Violation;
use crate::queue::{DriverRing, RingCounters, StopWindow};
pub use batch::RxBatch;
#[cfg(test)]
use ironring_common::apart;
use slots::RxSlots;
pub use slots::is_plain;

mod batch;
mod hairpin;
mod slots;

/// Receives frames.
#[derive(Debug)]
#[repr(align(128))]
pub struct RxQueue {
    ring: AnyRing<Area, ()>,
    slots: RxSlots,
    kick: Kick,
    call: Doorbell,
    /// Slots that are posted again before the device is shown them.
    refill: u16,
}

/// What a receive queue has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxStats {
    /// Frames handed to the caller.
    pub frames: u64,
    /// Bytes of those frames, without headers.
    pub bytes: u64,
    /// Frames dropped because they were shorter than a net header and an Ethernet header.
    pub dropped_short: u64,
    /// Frames dropped because the batch was made for shorter ones.
    pub dropped_long: u64,
    /// Frames dropped because their net header used what was not negotiated.
    pub dropped_header: u64,
    /// Buffers that came back, those of dropped frames too.
    pub used_entries: u64,
    /// Kicks sent after posting buffers.
    pub kicks: u64,
    /// Kicks that the device did not want, or that are turned off.
    pub kicks_suppressed: u64,
    /// Kicks that the device did not want and got all the same, because nothing came for a while.
    pub watchdog_kicks: u64,
    /// Calls found pending when this side waited.
    pub calls: u64,
}

/// Out of line, so that no counter of what hardly ever happens takes a register of the loops.
impl RxStats {
    #[cold]
    #[inline(never)]
    const fn drop_short(&mut self) {
        self.dropped_short = self.dropped_short.wrapping_add(1);
    }

    #[cold]
    #[inline(never)]
    const fn drop_long(&mut self) {
        self.dropped_long = self.dropped_long.wrapping_add(1);
    }

    #[cold]
    #[inline(never)]
    const fn drop_header(&mut self) {
        self.dropped_header = self.dropped_header.wrapping_add(1);
    }
}

impl RxQueue {
    pub(super) fn new(mut ring: AnyRing<Area, ()>, memory: QueueMemory, bells: Bells) -> Self {
        ring.suppress_calls();
        let slots = RxSlots::new(memory);
        ring.bind_slots(&slots.mapper, Direction::FromDevice);
        // The device has most of them at any time, and small bursts do not touch the lines of the ring each time.
        let refill = (ring.size().get() / 8).clamp(1, REFILL_MAX);
        Self { ring, slots, kick: bells.kick, call: bells.call, refill }
    }

    /// Goes on with an empty ring and other doorbells. What was counted stays.
    pub(super) fn renew(&mut self, mut ring: AnyRing<Area, ()>, bells: Bells) {
        ring.suppress_calls();
        ring.bind_slots(&self.slots.mapper, Direction::FromDevice);
        ring.keep(&self.ring);
        let Bells { kick, call } = bells;
        (self.ring, self.kick, self.call) = (ring, kick, call);
    }

    /// Posts every free slot.
    pub(super) fn fill(&mut self) -> Result<(), Violation> {
        self.ring.check()?;
        let slots = &mut self.slots;
        match &mut self.ring {
            AnyRing::Split(ring) => slots.fill(ring),
            AnyRing::Packed(ring) => slots.fill(ring),
        }
        self.ring.publish();
        Ok(())
    }

    /// Takes up to a batch of frames, oldest first, and posts their slots again. Returns how many there are. Frames that
    /// are dropped count towards the batch, so the work of a call is bounded by its size.
    ///
    /// # Errors
    /// The [`Violation`], new or latched. Frames that were taken before it stand in the batch.
    pub fn rx_burst(&mut self, batch: &mut RxBatch) -> Result<usize, Violation> {
        batch.clear();
        let slots = &mut self.slots;
        let taken = match &mut self.ring {
            AnyRing::Split(ring) => slots.burst(ring, batch),
            AnyRing::Packed(ring) => slots.burst(ring, batch),
        };
        if self.sound(taken)? > 0 {
            self.show_enough();
        }
        Ok(batch.len())
    }

    /// Lends up to `most` frames, at most 64, to `with`, where they lie, and shows their slots to the device again only after it
    /// has returned. Returns how many there were. See [`LeasedFrame`] for what must not be done with them.
    ///
    /// # Errors
    /// As [`rx_burst`](Self::rx_burst). Frames that were taken before a violation are not lent.
    pub fn rx_lease(&mut self, most: usize, with: impl FnOnce(&[LeasedFrame<'_>])) -> Result<usize, Violation> {
        let slots = &mut self.slots;
        let taken = match &mut self.ring {
            AnyRing::Split(ring) => slots.take_to_lend(ring, most),
            AnyRing::Packed(ring) => slots.take_to_lend(ring, most),
        };
        let count = self.sound(taken)?;
        if count == 0 {
            return Ok(0);
        }
        // As much room as it takes: that is made anew for each burst.
        let count = if count <= BURST / 2 {
            self.slots.lease::<{ BURST / 2 }>(count, with)
        } else {
            self.slots.lease::<BURST>(count, with)
        };
        self.show_enough();
        Ok(count)
    }

    /// Waits until there is something to take, or `timeout` passes; whether there is. Sleeps at once: for polling before
    /// that, and for the transmit queue's sake, there is [`VirtioNet::wait`](super::VirtioNet::wait).
    ///
    /// A device that does not call, or that says that it needs no kick and waits for one, costs a bounded delay: now and
    /// then this side looks by itself and kicks all the same.
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

    /// Sleeps until the device calls, or for one turn of `patience`; whether there is something to take.
    pub(super) fn sleep(&mut self, patience: &mut Patience) -> Result<bool, NetError> {
        if self.arm()? {
            self.ring.suppress_calls();
            return Ok(true);
        }
        self.call.wait(patience.turn()).map_err(os)?;
        self.disarm()?;
        Ok(self.ring.has_completions()?)
    }

    /// Whether there is something to take.
    ///
    /// # Errors
    /// The [`Violation`], new or latched.
    pub fn poll(&mut self) -> Result<bool, Violation> {
        self.ring.has_completions()
    }

    /// Shows the device all slots that are posted, and kicks it, whether it wants that or not, if it was shown some since its last
    /// kick.
    pub(super) fn nudge(&mut self) -> Result<(), Violation> {
        self.ring.check()?;
        self.show();
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

    /// Asks the device to call, and looks once more: `true` if there is something to take already. Otherwise the caller
    /// may sleep until [`call_fd`](Self::call_fd) is readable, together with other descriptors, and then
    /// [`disarm`](Self::disarm). A device may fail to call, so the sleep needs a limit.
    ///
    /// # Errors
    /// The [`Violation`], new or latched.
    pub fn arm(&mut self) -> Result<bool, Violation> {
        self.ring.check()?;
        self.show();
        self.ring.arm_calls();
        self.ring.has_completions()
    }

    /// Takes the calls that came, and asks the device not to call while this side looks by itself.
    ///
    /// # Errors
    /// [`NetError::Os`].
    pub fn disarm(&mut self) -> Result<(), NetError> {
        self.ring.suppress_calls();
        self.take_call().map_err(os)
    }

    /// Readable when the device has called. The device holds it too and may do with it what it likes.
    #[must_use]
    pub fn call_fd(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    pub(super) const fn call(&self) -> &Doorbell {
        &self.call
    }

    fn take_call(&mut self) -> Result<(), OsError> {
        if self.call.drain()? {
            self.slots.stats.calls = self.slots.stats.calls.wrapping_add(1);
        }
        Ok(())
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> RxStats {
        self.slots.stats
    }

    /// What the ring counted.
    #[must_use]
    pub fn ring_counters(&self) -> RingCounters {
        self.ring.counters()
    }

    /// Slots that the device holds.
    #[must_use]
    pub fn held(&self) -> u16 {
        self.ring.held()
    }

    pub(super) fn kick_fd(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
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

    /// How many were taken, unless the device was found broken.
    #[inline(always)]
    fn sound(&self, Taken { count, broken }: Taken) -> Result<usize, Violation> {
        if broken { Err(self.ring.broken_by()) } else { Ok(count) }
    }

    /// Shows the device the slots that are posted, if they are enough to be worth it.
    #[inline]
    fn show_enough(&mut self) {
        if self.ring.outstanding().wrapping_sub(self.ring.held()) >= self.refill {
            self.show();
        }
    }

    /// Shows the device all slots that are posted, and kicks it if it asks for that.
    #[inline]
    fn show(&mut self) {
        if self.ring.publish() {
            self.notify();
        }
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
        self.slots.lines(to);
        self.ring.lines(to);
    }
}

/// As many as a burst has in most programs.
const REFILL_MAX: u16 = 32;

fn os(error: OsError) -> NetError {
    NetError::Os(error)
}
