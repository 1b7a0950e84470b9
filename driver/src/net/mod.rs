//! The network device: bursts of Ethernet frames.
//!
//! [`VirtioNet`] owns a receive and a transmit queue over one arena and one connection to its device. The data path is
//! polled: [`RxQueue::rx_burst`] copies frames out, [`TxQueue::tx_burst`] copies frames in or lets the caller fill a slot
//! in place, [`TxQueue::reclaim`] takes transmit slots back. No call blocks, allocates or takes a lock.
//!
//! When the device breaks a rule, every call returns the same latched violation. [`VirtioNet::reset`] then starts a new
//! epoch on a new connection with new memory; nothing that the old device still does can reach it.

mod bringup;
mod error;
mod rx;
mod tx;

use std::sync::Arc;
use std::time::Duration;

use ironring_common::features::{Feature, Negotiated, Supported};

pub use bringup::Bringup;
pub use error::NetError;
pub use rx::{RxBatch, RxQueue, RxStats};
pub use tx::{TxError, TxQueue, TxSlot, TxStats};

use crate::arena::Arena;
use crate::queue::violation::{Latch, Violation};
use crate::transport::NetConfig;
use crate::transport::VhostUser;

/// What a network device is to be like.
#[derive(Clone, Copy, Debug)]
pub struct NetOptions {
    /// Descriptors of each queue: a power of two up to 32768.
    pub queue_size: u16,
    /// The longest frame, in bytes without checksum: at least 60.
    pub frame_max: u32,
    /// Whether this side sleeps until it is called, or polls and asks not to be called.
    pub calls: bool,
    /// The longest that stopping a queue in [`VirtioNet::close`] may take.
    pub drain: Duration,
}

impl Default for NetOptions {
    /// 256 descriptors, frames of up to 2036 bytes (a slot of 2048 with the header), polled.
    fn default() -> Self {
        Self { queue_size: 256, frame_max: 2036, calls: false, drain: Duration::from_secs(1) }
    }
}

/// A network device whose backend is not trusted.
#[derive(Debug)]
pub struct VirtioNet {
    channel: VhostUser,
    negotiated: Negotiated,
    config: Option<NetConfig>,
    rx: RxQueue,
    tx: TxQueue,
    arena: Arena,
    latch: Arc<Latch>,
    options: NetOptions,
    epoch: u64,
}

impl VirtioNet {
    /// Brings a device up over a fresh connection.
    ///
    /// # Errors
    /// [`NetError`]. Nothing stays behind: no memory, no descriptor.
    pub fn bring_up(channel: VhostUser, options: NetOptions) -> Result<Self, NetError> {
        Bringup::new(channel, options)?.negotiate()?.share()?.start()
    }

    /// Starts a new epoch on a new connection: new memory, new doorbells, new queues. The old ones are given up, whatever
    /// the old device still does with its copies.
    ///
    /// # Errors
    /// [`NetError`]; the device then stays as it was, broken or not.
    pub fn reset(&mut self, channel: VhostUser) -> Result<(), NetError> {
        let mut next = Self::bring_up(channel, self.options)?;
        next.epoch = self.epoch.wrapping_add(1);
        *self = next;
        Ok(())
    }

    /// Both queues.
    #[inline]
    pub fn queues(&mut self) -> (&mut RxQueue, &mut TxQueue) {
        (&mut self.rx, &mut self.tx)
    }

    /// The receive queue.
    #[inline]
    pub fn rx(&mut self) -> &mut RxQueue {
        &mut self.rx
    }

    /// The transmit queue.
    #[inline]
    pub fn tx(&mut self) -> &mut TxQueue {
        &mut self.tx
    }

    /// The features in force.
    #[must_use]
    pub const fn negotiated(&self) -> Negotiated {
        self.negotiated
    }

    /// What the device says of itself, read once at bring-up; `None` if it cannot be asked.
    #[must_use]
    pub const fn config(&self) -> Option<NetConfig> {
        self.config
    }

    /// How often the device has been reset.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The violation, if the device broke a rule.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.latch.violation()
    }

    /// Bytes of shared memory.
    #[must_use]
    pub fn shared_bytes(&self) -> usize {
        self.arena.shared_bytes()
    }

    /// Whether the backend is still there and the ring is not broken. Makes one system call: for a slow path.
    ///
    /// # Errors
    /// [`NetError::Violation`], or [`NetError::Transport`] if the backend hung up or sent what nobody asked for.
    pub fn check(&mut self) -> Result<(), NetError> {
        self.latch.check()?;
        self.channel.check_alive()?;
        Ok(())
    }

    /// Whether every descriptor of every queue is free or lent, exactly once. Walks everything: for audits.
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        self.rx.is_conserved() && self.tx.is_conserved()
    }

    /// Stops both queues in an orderly way and checks where the device says it stopped.
    ///
    /// # Errors
    /// [`NetError`] if the device does not stop in time or says something impossible. The memory is given up either way.
    pub fn close(mut self) -> Result<(), NetError> {
        for (index, published) in [(RX_QUEUE, self.rx.published()), (TX_QUEUE, self.tx.published())] {
            let outstanding = if index == RX_QUEUE { self.rx.outstanding() } else { self.tx.outstanding() };
            self.channel.stop_queue(index, published.0, outstanding)?;
        }
        Ok(())
    }
}

/// What this driver can do, and what it needs.
fn supported() -> Supported {
    Supported::none().require(Feature::Version1).with(Feature::Mac).with(Feature::Mtu).with(Feature::Status)
}

/// The first receive queue (5.1.2).
const RX_QUEUE: u16 = 0;
/// The first transmit queue.
const TX_QUEUE: u16 = 1;
