//! A queue pair: what one thread sends and receives by.
//!
//! The pairs of a device have nothing in common that is written while frames flow: each has its own rings, slots, doorbells,
//! private records and counters, none of which shares two lines of cache with those of another queue. What they share is
//! looked at only: the mapping, and the latch, until it trips.

use std::time::{Duration, Instant};

use ironring_common::doorbell::Doorbell;

use super::hairpin::Shares;
use super::life::Stopped;
use super::wait::Patience;
use super::{NetError, QueueRole, RxQueue, TxQueue};
use crate::queue::violation::Violation;

/// A receive and a transmit queue (virtio 1.3, 5.1.2), for one thread at a time.
#[derive(Debug)]
pub struct QueuePair {
    pub(super) rx: RxQueue,
    pub(super) tx: TxQueue,
    pub(super) stopped: Stopped,
    index: u16,
    spin: Duration,
    /// Of a pair that shares its slots.
    pub(super) shares: Option<Shares>,
}

impl QueuePair {
    pub(super) fn new(index: u16, rx: RxQueue, tx: TxQueue, spin: Duration) -> Self {
        Self { rx, tx, stopped: Stopped::default(), index, spin, shares: None }
    }

    /// Which pair of the device it is, from 0.
    #[must_use]
    pub const fn index(&self) -> u16 {
        self.index
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

    /// As [`VirtioNet::wait`](super::VirtioNet::wait), for this pair alone.
    ///
    /// # Errors
    /// [`NetError::Violation`], new or latched, or [`NetError::Os`].
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, NetError> {
        let spin = self.spin;
        wait(std::slice::from_mut(self), spin, timeout)
    }

    /// Kicks both queues, whether the device wants that or not, if it was shown something since its last kick. For whoever
    /// sleeps on [`RxQueue::call_fd`] by other means than [`wait`](Self::wait): to be called when such a sleep ended by its
    /// limit.
    ///
    /// # Errors
    /// The latched [`Violation`].
    pub fn nudge(&mut self) -> Result<(), Violation> {
        self.settle()?;
        self.rx.nudge()?;
        self.tx.nudge()
    }

    /// Whether a queue is stopped.
    #[must_use]
    pub const fn is_stopped(&self, role: QueueRole) -> bool {
        self.stopped.is_stopped(role)
    }

    /// Whether every descriptor of both queues is free or lent, exactly once. Walks everything: for audits.
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        self.rx.is_conserved() && self.tx.is_conserved() && self.are_slots_shared_out()
    }

    /// Takes back frames until the device has none, or `deadline` has passed. A queue that is stopped is not waited for.
    pub(super) fn drain(&mut self, deadline: Option<Instant>) -> Result<(), Violation> {
        let waits = !self.is_stopped(QueueRole::Transmit);
        while waits && self.tx.outstanding() > 0 && deadline.is_some_and(|deadline| Instant::now() < deadline) {
            if self.tx.reclaim()? == 0 {
                std::thread::yield_now();
            }
        }
        Ok(())
    }
}

/// The pairs of a device: one at least.
#[derive(Debug)]
pub(super) struct Pairs(Box<[QueuePair]>);

impl Pairs {
    pub(super) fn new(pairs: Vec<QueuePair>) -> Self {
        assert!(!pairs.is_empty(), "a device has a queue pair");
        Self(pairs.into_boxed_slice())
    }

    #[inline]
    pub(super) fn first_mut(&mut self) -> &mut QueuePair {
        let [first, ..] = &mut *self.0 else { unreachable!("a device has a queue pair") };
        first
    }

    pub(super) const fn all(&self) -> &[QueuePair] {
        &self.0
    }

    #[inline]
    pub(super) const fn all_mut(&mut self) -> &mut [QueuePair] {
        &mut self.0
    }
}

/// Waits until any of the pairs has something to receive, or `timeout` passes; whether one has.
pub(super) fn wait(pairs: &mut [QueuePair], spin: Duration, timeout: Duration) -> Result<bool, NetError> {
    let mut patience = Patience::new(timeout);
    let spun = Instant::now().checked_add(spin.min(timeout));
    while spun.is_some_and(|spun| Instant::now() < spun) {
        if any(pairs, RxQueue::poll)? {
            return Ok(true);
        }
        core::hint::spin_loop();
    }
    while !sleep(pairs, &mut patience)? {
        if patience.is_over() {
            return Ok(false);
        }
        pairs.iter_mut().try_for_each(QueuePair::nudge)?;
    }
    Ok(true)
}

/// Sleeps until the device calls for one of the pairs, or for one turn of `patience`; whether there is something to take.
fn sleep(pairs: &mut [QueuePair], patience: &mut Patience) -> Result<bool, NetError> {
    pairs.iter_mut().try_for_each(QueuePair::settle)?;
    let found = any(pairs, RxQueue::arm)?;
    if !found {
        Doorbell::wait_any(pairs.iter().map(|pair| pair.rx.call()), patience.turn()).map_err(NetError::Os)?;
    }
    pairs.iter_mut().try_for_each(|pair| pair.rx.disarm())?;
    Ok(found || any(pairs, RxQueue::poll)?)
}

/// Whether any receive queue says so; all of them are asked.
fn any(
    pairs: &mut [QueuePair],
    mut ask: impl FnMut(&mut RxQueue) -> Result<bool, Violation>,
) -> Result<bool, Violation> {
    pairs.iter_mut().try_fold(false, |found, pair| Ok(ask(&mut pair.rx)? || found))
}
