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

use ironring_common::error::Misuse;
use ironring_common::index::QueueSize;

use super::bells::Bells;
use super::bringup::make_ring;
use super::{NetError, QueuePair, VirtioNet, blame};
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
    /// Which virtqueue that is of a pair.
    pub(super) const fn index(self, pair: u16) -> u16 {
        let receive = pair.wrapping_mul(2);
        match self {
            Self::Receive => receive,
            Self::Transmit => receive.wrapping_add(1),
        }
    }
}

/// Where the queues of a pair were stopped, if they are.
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
    /// Stops a queue of the first pair: the device finishes what it has taken and takes nothing more. Bursts go on as before:
    /// frames that came can be received, and frames to be sent wait in the ring. A queue that is stopped stays so.
    ///
    /// # Errors
    /// [`NetError::Violation`], or [`NetError::Transport`] if the device does not answer in time, or says that it stopped
    /// where it cannot have.
    pub fn stop_queue(&mut self, role: QueueRole) -> Result<(), NetError> {
        self.stop_queue_of(0, role)
    }

    /// As [`stop_queue`](Self::stop_queue), of any pair.
    ///
    /// # Errors
    /// As there, or [`NetError::Misuse`] if there is no such pair.
    pub fn stop_queue_of(&mut self, pair: u16, role: QueueRole) -> Result<(), NetError> {
        self.latch.check()?;
        let of = self.pair_or_misuse(pair)?;
        if !of.stopped.is_stopped(role) {
            let window = match role {
                QueueRole::Receive => of.rx.stop_window(),
                QueueRole::Transmit => of.tx.stop_window(),
            };
            let base = self.channel.stop_queue(role.index(pair), window).map_err(|error| self.blame(error))?;
            *self.pair_or_misuse(pair)?.stopped.of(role) = Some(base);
        }
        Ok(())
    }

    /// Starts a queue of the first pair that was stopped, where it stopped. A queue that runs stays so.
    ///
    /// # Errors
    /// As [`stop_queue`](Self::stop_queue). The queue is stopped still then.
    pub fn start_queue(&mut self, role: QueueRole) -> Result<(), NetError> {
        self.start_queue_of(0, role)
    }

    /// As [`start_queue`](Self::start_queue), of any pair.
    ///
    /// # Errors
    /// As there, or [`NetError::Misuse`] if there is no such pair.
    pub fn start_queue_of(&mut self, pair: u16, role: QueueRole) -> Result<(), NetError> {
        self.latch.check()?;
        let Some(base) = *self.pair_or_misuse(pair)?.stopped.of(role) else { return Ok(()) };
        // What was used and what was taken are the same place once a device has stopped.
        let base = match self.options.layout {
            RingLayout::Split => u32::from(base),
            RingLayout::Packed => u32::from(base) | (u32::from(base) << 16),
        };
        self.describe(pair, role, base)
    }

    /// Resets a queue of the first pair, running or not, and starts it. Received frames that were not taken and frames that
    /// were sent and not [reclaimed](super::TxQueue::reclaim) are given up; the latter are counted as
    /// [lost](super::TxStats::lost), though the device may have sent them. Everything that was out is free or posted again
    /// afterwards.
    ///
    /// # Errors
    /// As [`stop_queue`](Self::stop_queue), or [`NetError::Os`] if there are no descriptors for the doorbells. Until
    /// another attempt succeeds the queue is stopped then.
    pub fn reset_queue(&mut self, role: QueueRole) -> Result<(), NetError> {
        self.reset_queue_of(0, role)
    }

    /// As [`reset_queue`](Self::reset_queue), of any pair.
    ///
    /// # Errors
    /// As there, or [`NetError::Misuse`] if there is no such pair.
    pub fn reset_queue_of(&mut self, pair: u16, role: QueueRole) -> Result<(), NetError> {
        self.stop_queue_of(pair, role)?;
        let index = role.index(pair);
        let memory = self.arena.queue(index).cloned();
        let memory = memory.ok_or(NetError::FrameMax { frame_max: self.options.frame_max })?;
        // Before the memory of the old ring is touched, which stays in place if there are no descriptors.
        let bells = Bells::new(self.supervisor.as_ref(), &self.latch)?;
        // The ring zeroes what it writes; these are the words that the device writes.
        memory.areas.scrub();
        let ring = make_ring(index, self.queue_size(&memory)?, &memory, self.negotiated, &self.latch)?;
        let of = self.pair_or_misuse(pair)?;
        let base = match role {
            QueueRole::Receive => {
                of.rx.renew(ring, bells);
                of.rx.start_base()
            }
            QueueRole::Transmit => {
                of.tx.renew(ring, bells);
                of.tx.start_base()
            }
        };
        // From here on the place where the old ring stopped means nothing; a start that fails is tried with the new one.
        *of.stopped.of(role) = Some(low_half(base));
        if role == QueueRole::Receive {
            of.rx.fill()?;
        }
        self.describe(pair, role, base)
    }

    /// Whether a queue of the first pair is stopped; of any other, [`QueuePair::is_stopped`] tells.
    #[must_use]
    pub fn is_stopped(&self, role: QueueRole) -> bool {
        self.pairs.all().first().is_some_and(|pair| pair.is_stopped(role))
    }

    /// Describes a ring to the device, lets it begin at `base`, and kicks it: something may be there already.
    fn describe(&mut self, pair: u16, role: QueueRole, base: u32) -> Result<(), NetError> {
        let Self { channel, pairs, arena, latch, .. } = self;
        let index = role.index(pair);
        let (Some(of), Some(memory)) = (pairs.all_mut().get_mut(usize::from(pair)), arena.queue(index)) else {
            return Err(no_such_pair(pair, self.options.queue_pairs));
        };
        let (kick, call) = match role {
            QueueRole::Receive => (of.rx.kick_fd(), of.rx.call_fd()),
            QueueRole::Transmit => (of.tx.kick_fd(), of.tx.call_fd()),
        };
        let at: RingAddresses = memory.addresses;
        let started = channel.start_queue(index, &at, base, kick, call);
        started.and_then(|()| channel.enable_queue(index, true)).map_err(|error| blame(latch, error))?;
        *of.stopped.of(role) = None;
        let kicked: Result<(), Violation> = match role {
            QueueRole::Receive => of.rx.kick_anyway(),
            QueueRole::Transmit => of.tx.kick_anyway(),
        };
        Ok(kicked?)
    }

    fn pair_or_misuse(&mut self, pair: u16) -> Result<&mut QueuePair, NetError> {
        let pairs = self.options.queue_pairs;
        self.pair(pair).ok_or(no_such_pair(pair, pairs))
    }

    fn queue_size(&self, memory: &QueueMemory) -> Result<QueueSize, NetError> {
        let size = memory.addresses.size;
        Ok(match self.options.layout {
            RingLayout::Split => QueueSize::split(size)?,
            RingLayout::Packed => QueueSize::packed(size)?,
        })
    }
}

fn no_such_pair(pair: u16, pairs: u16) -> NetError {
    Misuse::NoQueuePair { pair, pairs }.into()
}

/// The available position of a base.
#[expect(clippy::cast_possible_truncation, reason = "the lower half is what is asked for")]
const fn low_half(base: u32) -> u16 {
    base as u16
}
