//! The network device: bursts of Ethernet frames.
//!
//! [`VirtioNet`] owns queue pairs over one arena and one connection to its device: one, or with
//! [`NetOptions::queue_pairs`] several, each for a thread of its own ([`VirtioNet::pairs_mut`]). The data path is
//! polled: [`RxQueue::rx_burst`] copies frames out, [`TxQueue::tx_burst`] copies frames in, [`TxQueue::tx_burst_in_place`] and
//! [`TxQueue::slot`] let the caller write them where they go, [`TxQueue::reclaim`] takes transmit slots back. No call allocates or takes a lock, and none waits, unless the
//! device makes a kick block: then it is helped within some milliseconds, and the device is broken. [`NetOptions::kicks`]
//! turns kicks off.
//!
//! When the device breaks a rule, every call returns the same latched violation. [`VirtioNet::reset`] then starts a new
//! epoch on a new connection with new memory; nothing that the old device still does can reach it.

#[cfg(test)]
mod apart_tests;
mod bells;
mod bringup;
mod error;
mod hairpin;
mod lease;
mod life;
mod pair;
mod rx;
mod tx;
mod wait;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ironring_common::apart::Apart;
use ironring_common::doorbell::Supervisor;
use ironring_common::features::{Feature, Negotiated, Supported};

pub use bringup::Bringup;
pub use error::NetError;
pub use hairpin::HairpinFrame;
pub use lease::LeasedFrame;
pub use life::QueueRole;
pub use pair::QueuePair;
pub use rx::{RxBatch, RxQueue, RxStats, is_plain};
pub use tx::{TxError, TxFrame, TxQueue, TxSlot, TxStats};

use crate::arena::Arena;
use crate::queue::RingLayout;
use crate::queue::slots::BURST;
use crate::queue::violation::{Latch, Violation, ViolationKind};
use crate::transport::{NetConfig, TransportError, VhostUser};
use pair::Pairs;

/// What a network device is to be like.
#[derive(Clone, Copy, Debug)]
pub struct NetOptions {
    /// How the rings are laid out. A device that does not have the layout is refused.
    pub layout: RingLayout,
    /// Descriptors of each queue: up to 32768, and a power of two for split rings.
    pub queue_size: u16,
    /// Queue pairs: 1 to [`QUEUE_PAIRS_MAX`]. A device with fewer is refused.
    pub queue_pairs: u16,
    /// Whether frames are sent by indirect tables, header and frame as two descriptors, if the device takes them.
    pub indirect: bool,
    /// Whether both sides say at which index they want to be notified, if the device can.
    pub event_idx: bool,
    /// Whether the device may use buffers in order and in batches, if it can.
    pub in_order: bool,
    /// Whether the two queues of a pair share their slots, so that [`QueuePair::hairpin`] sends frames from where they were
    /// received. There are `queue_size` slots then, 8 at least, of which a quarter are kept to send other frames by. What was
    /// sent from where it lay comes back to the receive queue by [`QueuePair::hairpin`], [`QueuePair::wait`] and
    /// [`QueuePair::nudge`], or those of [`VirtioNet`]; the calls of its two queues leave the slots where they are. Not together with
    /// `indirect`.
    pub hairpin: bool,
    /// The longest frame, in bytes without checksum: at least 60.
    pub frame_max: u32,
    /// Whether shared memory is huge pages of 2 MiB, which have to be reserved (`vm.nr_hugepages`). A device that punches holes
    /// into the memfds can then kill this process by a signal when no page is left: see THREAT_MODEL.md.
    pub huge_pages: bool,
    /// How long [`VirtioNet::wait`] polls before it sleeps.
    pub spin: Duration,
    /// Whether the device is kicked when it asks for that. Without kicks it must poll; a backend that sleeps looks at its
    /// rings when its own timer says so.
    pub kicks: bool,
    /// The longest that [`VirtioNet::close`] waits for the device to take the frames that it was given.
    pub drain: Duration,
}

impl Default for NetOptions {
    /// One pair of split rings of 256 descriptors without further features, frames of up to 2036 bytes (a slot of 2048 with the header).
    fn default() -> Self {
        Self {
            layout: RingLayout::Split,
            queue_size: 256,
            queue_pairs: 1,
            indirect: false,
            event_idx: false,
            in_order: false,
            hairpin: false,
            frame_max: 2036,
            huge_pages: false,
            spin: Duration::ZERO,
            kicks: true,
            drain: Duration::from_secs(1),
        }
    }
}

/// A network device whose backend is not trusted.
#[derive(Debug)]
pub struct VirtioNet {
    channel: VhostUser,
    negotiated: Negotiated,
    config: Option<NetConfig>,
    pairs: Pairs,
    /// Looks after kicks, if there are any.
    supervisor: Option<Supervisor>,
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

    /// Starts a new epoch: closes the old connection, opens a new one by `connect`, and makes new memory, new doorbells and
    /// new queues. The old ones are given up, whatever the old device still does with its copies. The old connection ends
    /// first, because a backend may serve one at a time.
    ///
    /// # Errors
    /// [`NetError`]. The device stays given up then: every call returns a [`Violation`] until a reset succeeds.
    pub fn reset(&mut self, connect: impl FnOnce() -> Result<VhostUser, TransportError>) -> Result<(), NetError> {
        self.channel.hang_up();
        let next = connect().map_err(NetError::from).and_then(|channel| Self::bring_up(channel, self.options));
        let mut next = next.inspect_err(|_| {
            self.latch.trip(Violation::of_device(ViolationKind::Abandoned));
        })?;
        next.epoch = self.epoch.wrapping_add(1);
        *self = next;
        Ok(())
    }

    /// Both queues of the first pair.
    #[inline]
    pub fn queues(&mut self) -> (&mut RxQueue, &mut TxQueue) {
        self.pairs.first_mut().queues()
    }

    /// The receive queue of the first pair.
    #[inline]
    pub fn rx(&mut self) -> &mut RxQueue {
        self.pairs.first_mut().rx()
    }

    /// The transmit queue of the first pair.
    #[inline]
    pub fn tx(&mut self) -> &mut TxQueue {
        self.pairs.first_mut().tx()
    }

    /// A queue pair, from 0.
    #[inline]
    pub fn pair(&mut self, index: u16) -> Option<&mut QueuePair> {
        self.pairs_mut().get_mut(usize::from(index))
    }

    /// All queue pairs: as many as were asked for. They are independent, so each can go to a thread of its own:
    ///
    /// ```no_run
    /// # fn serve(_: &mut ironring_driver::net::QueuePair) {}
    /// # fn all(net: &mut ironring_driver::net::VirtioNet) {
    /// std::thread::scope(|scope| {
    ///     for pair in net.pairs_mut() {
    ///         scope.spawn(move || serve(pair));
    ///     }
    /// });
    /// # }
    /// ```
    #[inline]
    pub fn pairs_mut(&mut self) -> &mut [QueuePair] {
        self.pairs.all_mut()
    }

    /// The features in force.
    #[must_use]
    pub const fn negotiated(&self) -> Negotiated {
        self.negotiated
    }

    /// What the device says of itself, read once at bring-up, and the link as of the last
    /// [`link_up`](Self::link_up); `None` if it cannot be asked.
    #[must_use]
    pub const fn config(&self) -> Option<NetConfig> {
        self.config
    }

    /// Asks the device whether its link is up; `None` if it cannot be asked. One request: for a slow path, as it has to be
    /// repeated to see a change. Nothing else that the answer says is taken: an address or MTU stays what it was at
    /// bring-up.
    ///
    /// # Errors
    /// [`NetError::Violation`], or [`NetError::Transport`] if the backend does not answer in time or answers nonsense.
    pub fn link_up(&mut self) -> Result<Option<bool>, NetError> {
        self.latch.check()?;
        let answer = self.channel.config(self.negotiated).map_err(|error| self.blame(error))?;
        let (Some(config), Some(answer)) = (&mut self.config, answer) else { return Ok(None) };
        config.link_up = answer.link_up;
        Ok(Some(answer.link_up))
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

    /// Whether the backend is still there and no rule was broken. Makes one system call: for a slow path. A backend that
    /// sends what nobody asked for is found here, and is then latched as broken for the queues too.
    ///
    /// # Errors
    /// [`NetError::Violation`], or [`NetError::Transport`] if the backend hung up or sent what nobody asked for.
    pub fn check(&mut self) -> Result<(), NetError> {
        self.latch.check()?;
        self.channel.check_alive().map_err(|error| self.blame(error))
    }

    fn blame(&self, error: TransportError) -> NetError {
        blame(&self.latch, error)
    }

    /// Waits until there is something to receive on any pair, or `timeout` passes; whether there is. Polls for
    /// [`NetOptions::spin`], then sleeps until the device calls.
    ///
    /// Whatever the device says about notifications, a wait costs a bounded delay and never a stall: this side looks by
    /// itself now and then, and kicks the queues if the device has not been kicked since it was shown something.
    ///
    /// # Errors
    /// [`NetError::Violation`], new or latched, or [`NetError::Os`].
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, NetError> {
        pair::wait(self.pairs.all_mut(), self.options.spin, timeout)
    }

    /// Kicks all queues, whether the device wants that or not, if it was shown something since its last kick. For whoever
    /// sleeps on [`RxQueue::call_fd`] by other means than [`wait`](Self::wait): to be called when such a sleep ended by its
    /// limit.
    ///
    /// # Errors
    /// The latched [`Violation`].
    pub fn nudge(&mut self) -> Result<(), Violation> {
        self.pairs_mut().iter_mut().try_for_each(QueuePair::nudge)
    }

    /// Whether every descriptor of every queue is free or lent, exactly once. Walks everything: for audits.
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        self.pairs.all().iter().all(QueuePair::is_conserved)
    }

    /// Waits for the device to take what it was given, [`NetOptions::drain`] at most, stops all queues, and checks where
    /// the device says it stopped.
    ///
    /// # Errors
    /// [`NetError`] if the device does not stop in time or says something impossible. The memory is given up either way.
    pub fn close(mut self) -> Result<(), NetError> {
        self.check()?;
        let deadline = Instant::now().checked_add(self.options.drain);
        self.pairs_mut().iter_mut().try_for_each(|pair| pair.tx.publish())?;
        self.pairs_mut().iter_mut().try_for_each(|pair| pair.drain(deadline))?;
        for pair in 0..self.options.queue_pairs {
            self.stop_queue_of(pair, QueueRole::Receive)?;
            self.stop_queue_of(pair, QueueRole::Transmit)?;
        }
        Ok(())
    }
}

/// A backend that breaks the rules of the channel is broken for the queues too.
fn blame(latch: &Latch, error: TransportError) -> NetError {
    if let TransportError::Misbehaved(_) = error {
        latch.trip(Violation::of_device(ViolationKind::Channel));
    }
    error.into()
}

/// What this driver can do, and what it needs.
fn supported(options: &NetOptions) -> Supported {
    let net = Supported::none().require(Feature::Version1).with(Feature::Mac).with(Feature::Mtu).with(Feature::Status);
    let rings = [
        (options.queue_pairs > 1, Feature::Mq),
        (options.indirect, Feature::IndirectDesc),
        (options.event_idx, Feature::EventIdx),
        (options.in_order, Feature::InOrder),
    ];
    let wanted = rings.into_iter().filter(|(on, _)| *on).fold(net, |all, (_, feature)| all.with(feature));
    match options.layout {
        RingLayout::Split => wanted,
        RingLayout::Packed => wanted.require(Feature::RingPacked),
    }
}

/// So many frames ahead their lines are asked for: as many as a processor waits for at a time. Those of a whole burst would have it
/// wait before it has begun.
const AHEAD: usize = 10;

/// Scratch of a burst, with room behind it for [`ahead`].
type Scratch<T> = Box<Apart<[T; BURST + AHEAD]>>;

/// The first `count` items, each with the one that comes [`AHEAD`] after it, or as many as there are if those are fewer; where there is
/// none, with the last one.
#[inline(always)]
fn ahead<T: Copy>(items: &mut [T; BURST + AHEAD], count: usize) -> impl Iterator<Item = (&T, &T)> {
    if let Some(last) = items.get(count.wrapping_sub(1)).copied()
        && let Some(behind) = items.get_mut(count..count.saturating_add(AHEAD))
    {
        behind.fill(last);
    }
    let (now, later) = (items.get(..count).unwrap_or_default(), items.get(AHEAD.min(count)..).unwrap_or_default());
    now.iter().zip(later)
}

/// The most queue pairs that a device is used with.
pub const QUEUE_PAIRS_MAX: u16 = 64;
/// The longest frame that a queue can be made for: 65535 bytes of a slot less the header.
const FRAME_MAX: u32 = 65523;

#[cfg(test)]
mod tests {
    use super::*;

    /// Of bursts of every length.
    #[test]
    fn each_item_comes_with_the_one_that_is_due_ahead_of_it() {
        for count in 0..=BURST {
            // Those behind are of an earlier burst.
            let mut items = [usize::MAX; BURST + AHEAD];
            items.iter_mut().take(count).enumerate().for_each(|(at, item)| *item = at);
            let last = count.saturating_sub(1);
            let expected: Vec<_> = (0..count).map(|at| (at, last.min(at + AHEAD.min(count)))).collect();
            let found: Vec<_> = ahead(&mut items, count).map(|(now, later)| (*now, *later)).collect();
            assert_eq!(found, expected, "{count}");
        }
    }
}
