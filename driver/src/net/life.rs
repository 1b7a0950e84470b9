//! The life of one queue of a live device: stop, start, reset. The other queue goes on.
//!
//! A queue that is *stopped* keeps everything: what is out stays out, what the device has used can still be taken, frames
//! that are sent meanwhile wait in the ring. *Starting* it goes on where the device says that it stopped, which has to be
//! between what it gave back and what it was shown.
//!
//! A *reset* takes everything back by the private records, and begins anew: an empty ring, new doorbells, position 0. The
//! memory stays the one that the device maps, so a device that has acknowledged the stop may go on writing. It gains
//! nothing by that. Ring words are claims like any others, and with nothing posted none is looked at; receive slots are
//! copied out by lengths that were checked; what this side writes is never read. Only a whole [reset](VirtioNet::reset)
//! takes the memory away from it.
//!
//! vhost-user has no message for a reset of one queue (virtio 1.3, 2.6.1): GET_VRING_BASE stops a ring, and a ring that is
//! described anew and kicked starts.

use ironring_common::index::QueueSize;

use super::bells::Bells;
use super::bringup::make_ring;
use super::{NetError, RX_QUEUE, TX_QUEUE, VirtioNet};
use crate::arena::QueueMemory;
use crate::queue::RingLayout;
use crate::queue::violation::Violation;
use crate::transport::RingAddresses;

/// One of the two queues of a pair (5.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueRole {
    /// The one that frames come by.
    Receive,
    /// The one that frames leave by.
    Transmit,
}

impl QueueRole {
    pub(super) const fn index(self) -> u16 {
        match self {
            Self::Receive => RX_QUEUE,
            Self::Transmit => TX_QUEUE,
        }
    }
}

/// Where the queues were stopped, if they are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stopped {
    receive: Option<u16>,
    transmit: Option<u16>,
}

impl Stopped {
    pub(super) const fn is_stopped(&self, role: QueueRole) -> bool {
        match role {
            QueueRole::Receive => self.receive.is_some(),
            QueueRole::Transmit => self.transmit.is_some(),
        }
    }

    const fn of(&mut self, role: QueueRole) -> &mut Option<u16> {
        match role {
            QueueRole::Receive => &mut self.receive,
            QueueRole::Transmit => &mut self.transmit,
        }
    }
}

impl VirtioNet {
    /// Stops a queue: the device finishes what it has taken and takes nothing more. Bursts go on as before: frames that came
    /// can be received, and frames to be sent wait in the ring. A queue that is stopped stays so.
    ///
    /// # Errors
    /// [`NetError::Violation`], or [`NetError::Transport`] if the device does not answer in time, or says that it stopped
    /// where it cannot have.
    pub fn stop_queue(&mut self, role: QueueRole) -> Result<(), NetError> {
        self.latch.check()?;
        if !self.stopped.is_stopped(role) {
            let window = match role {
                QueueRole::Receive => self.rx.stop_window(),
                QueueRole::Transmit => self.tx.stop_window(),
            };
            let base = self.channel.stop_queue(role.index(), window).map_err(|error| self.blame(error))?;
            *self.stopped.of(role) = Some(base);
        }
        Ok(())
    }

    /// Starts a queue that was stopped, where it stopped. A queue that runs stays so.
    ///
    /// # Errors
    /// As [`stop_queue`](Self::stop_queue). The queue is stopped still then.
    pub fn start_queue(&mut self, role: QueueRole) -> Result<(), NetError> {
        self.latch.check()?;
        let Some(base) = *self.stopped.of(role) else { return Ok(()) };
        // What was used and what was taken are the same place once a device has stopped.
        let base = match self.options.layout {
            RingLayout::Split => u32::from(base),
            RingLayout::Packed => u32::from(base) | (u32::from(base) << 16),
        };
        self.describe(role, base)
    }

    /// Resets a queue, running or not, and starts it. Received frames that were not taken and frames that were sent and not
    /// [reclaimed](super::TxQueue::reclaim) are given up; the latter are counted as
    /// [lost](super::TxStats::lost), though the device may have sent them. Everything that was out is free or posted again
    /// afterwards.
    ///
    /// # Errors
    /// As [`stop_queue`](Self::stop_queue), or [`NetError::Os`] if there are no descriptors for the doorbells. Until
    /// another attempt succeeds the queue is stopped then.
    pub fn reset_queue(&mut self, role: QueueRole) -> Result<(), NetError> {
        self.stop_queue(role)?;
        let memory = self.arena.queue(role.index()).cloned();
        let memory = memory.ok_or(NetError::FrameMax { frame_max: self.options.frame_max })?;
        // The ring zeroes what it writes; these are the words that the device writes.
        memory.areas.scrub();
        let ring = make_ring(role.index(), self.queue_size(&memory)?, &memory, self.negotiated, &self.latch)?;
        let bells = Bells::new(self.supervisor.as_ref(), &self.latch)?;
        let base = match role {
            QueueRole::Receive => {
                self.rx.renew(ring, bells);
                self.rx.start_base()
            }
            QueueRole::Transmit => {
                self.tx.renew(ring, bells);
                self.tx.start_base()
            }
        };
        // From here on the place where the old ring stopped means nothing; a start that fails is tried with the new one.
        *self.stopped.of(role) = Some(low_half(base));
        if role == QueueRole::Receive {
            self.rx.fill()?;
        }
        self.describe(role, base)
    }

    /// Whether a queue is stopped.
    #[must_use]
    pub const fn is_stopped(&self, role: QueueRole) -> bool {
        self.stopped.is_stopped(role)
    }

    /// Describes a ring to the device, lets it begin at `base`, and kicks it: something may be there already.
    fn describe(&mut self, role: QueueRole, base: u32) -> Result<(), NetError> {
        let at: RingAddresses = match self.arena.queue(role.index()) {
            Some(memory) => memory.addresses,
            None => return Err(NetError::FrameMax { frame_max: self.options.frame_max }),
        };
        let (kick, call) = match role {
            QueueRole::Receive => (self.rx.kick_fd(), self.rx.call_fd()),
            QueueRole::Transmit => (self.tx.kick_fd(), self.tx.call_fd()),
        };
        let started = self.channel.start_queue(role.index(), &at, base, kick, call);
        started.map_err(|error| self.blame(error))?;
        self.channel.enable_queue(role.index(), true).map_err(|error| self.blame(error))?;
        *self.stopped.of(role) = None;
        let kicked: Result<(), Violation> = match role {
            QueueRole::Receive => self.rx.kick_anyway(),
            QueueRole::Transmit => self.tx.kick_anyway(),
        };
        Ok(kicked?)
    }

    fn queue_size(&self, memory: &QueueMemory) -> Result<QueueSize, NetError> {
        let size = memory.addresses.size;
        Ok(match self.options.layout {
            RingLayout::Split => QueueSize::split(size)?,
            RingLayout::Packed => QueueSize::packed(size)?,
        })
    }
}

/// The available position of a base.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is asked for")]
const fn low_half(base: u32) -> u16 {
    base as u16
}
