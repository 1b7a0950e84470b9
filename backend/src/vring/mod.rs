//! Virtqueues from the device's side, under a driver that may lie.
//!
//! # Contract
//!
//! The driver owns the descriptor table and the available ring, or writes the slots of a packed ring as we do, and may
//! rewrite any byte of them at any instant; it may also point the used ring at memory that it writes. What holds whatever it does:
//!
//! - Each word is loaded once per decision, by `boundary`, into a local; the decision and everything after it use the
//!   local. A chain that was put back, or was left by the short way of bursts, is walked anew: what is loaded of it then is
//!   new claims, checked as such. In a packed ring its first slot stands by what it said when it was found available.
//! - Our own words (used elements, used index, used flags) are stored and not loaded, but for one look before the first chain of
//!   a ring that is started: where the last backend left it (`settle`).
//! - The available index may be at most one queue size ahead of what was used, and never go back. A walk makes at most
//!   one step per descriptor of the queue, so a loop ends; so does one in a packed ring, which has at most the slots that
//!   are not in use already. An indirect table is copied once, bounded in the same way, and walked in the copy. No other
//!   address is followed here: segments are looked up in the region table when bytes are copied, those of single
//!   chains when they are taken.
//! - The first violation is a [`RingFault`]: numbered, with what was seen and what would have been right. It latches the
//!   ring. A latched ring takes nothing, completes what it had taken, and stays so until it is stopped and started
//!   again; the other rings of the device go on. Each fault is counted by its class in [`stats`](crate::stats), once.
//! - What is wrong with a *packet* (too short, too long, an offload that was not negotiated) is no ring fault: `net`
//!   drops it, counts it, completes its chain.
//!
//! # Layouts
//!
//! [`split`] and [`packed`] are twins behind [`DeviceRing`]; [`any`] is whichever it is. Chains are completed in the order in
//! which they were taken, always: a worker takes one and completes it, or puts the last ones back. So `VIRTIO_F_IN_ORDER`
//! costs nothing to offer.

pub mod any;
pub mod chain;
mod fault;
pub mod hook;
pub mod packed;
mod position;
mod row;
pub mod split;
mod table;
#[cfg(test)]
pub(crate) mod test_guest;

use ironring_common::index::QueueSize;
use ironring_common::shm::area::Bytes;
use ironring_common::shm::table::{HotRegion, RegionTable};

pub use self::fault::RingFault;

use self::chain::{Chain, ChainRef, Single};
use self::hook::Hook;

/// One virtqueue, device side.
///
/// A burst: [`poll`](Self::poll) looks for chains; [`next_chain`](Self::next_chain) takes them one by one;
/// [`complete`](Self::complete) gives each back; [`publish`](Self::publish) shows that to the driver.
pub trait DeviceRing {
    /// Looks how many chains the driver has made available that are not taken, as far as one load tells: in a packed ring
    /// that is one or none. Also begins a burst.
    ///
    /// # Errors
    /// [`RingFault`], latched, new or not.
    fn poll(&mut self) -> Result<u16, RingFault>;

    /// Chains that are known to be there and are not taken yet.
    #[must_use]
    fn available(&self) -> u16;

    /// Whether the driver has nothing left that it could make available, once the chains that are taken are put back.
    #[must_use]
    fn is_full(&self) -> bool;

    /// Takes the next chain and walks it into `out`: each word loaded once, at most as many descriptors as the queue has.
    /// `false` if there is none.
    ///
    /// # Errors
    /// [`RingFault`], latched; the chain stays on the ring then.
    fn next_chain(&mut self, out: &mut Chain) -> Result<bool, RingFault>;

    /// Takes the next chains, as many as `out` has places for, as long as each is what most drivers post: one descriptor, no
    /// table, for the device to fill if it `FILLS` and to empty if not, whose bytes all lie in `memory` and are as many as
    /// `fit` is content with, which are never none; it is asked once for each, as it is found, up to the one that it is not content
    /// with. How many were taken; the one after them, if there is one, is for [`next_chain`](Self::next_chain), and so is every
    /// fault. Whoever fills them says how far ([`Single::written`]). Before anything else they have to be given back by
    /// [`end_singles`](Self::end_singles).
    fn next_singles<'m, const FILLS: bool>(
        &mut self,
        memory: &mut HotRegion<'m>,
        out: &mut [Single<'m>],
        fit: impl FnMut(Bytes<'m>) -> bool,
    ) -> u16;

    /// Gives back what [`next_singles`](Self::next_singles) took, in its order: `done` are completed, as by
    /// [`complete`](Self::complete), and `back` are put back, as by [`undo_last`](Self::undo_last). Into what is filled something
    /// was written.
    fn end_singles<H: Hook, const FILLS: bool>(&mut self, hook: &mut H, done: &[Single<'_>], back: &[Single<'_>]);

    /// As [`next_singles`](Self::next_singles), of the one chain that comes next, if the last poll saw it: with less to set up.
    fn next_single<'m, const FILLS: bool>(
        &mut self,
        memory: &mut HotRegion<'m>,
        fit: impl FnOnce(Bytes<'m>) -> bool,
    ) -> Option<Single<'m>>;

    /// Completes what [`next_single`](Self::next_single) took. Put back it is by [`end_singles`](Self::end_singles).
    fn end_single<H: Hook, const FILLS: bool>(&mut self, hook: &mut H, done: Single<'_>);

    /// Puts the last `chains` that were taken back on the ring, uncompleted: they cannot be served now. The next
    /// [`next_chain`](Self::next_chain) walks them anew.
    fn undo_last(&mut self, chains: u16);

    /// Puts the chain that was taken last back on the ring.
    #[inline]
    fn undo(&mut self) {
        self.undo_last(1);
    }

    /// Gives back the oldest chain that was taken: `written` bytes went into its device-writable part. The driver sees it
    /// after the next [`publish`](Self::publish).
    fn complete<H: Hook>(&mut self, hook: &mut H, chain: ChainRef, written: u32);

    /// Shows the driver all completions since the last time. Returns how many entries they took, which are fewer than chains
    /// where one stands for many; 0 if there are none.
    fn publish<H: Hook>(&mut self, hook: &mut H) -> u16;

    /// Whether the driver is to be called for what was published since the last time this was asked.
    #[must_use]
    fn should_call(&mut self) -> bool;

    /// Asks the driver to kick. The caller must [`poll`](Self::poll) once more before it sleeps.
    fn arm_kick(&mut self);

    /// Tells the driver that kicks are not needed. A hint; late kicks do no harm.
    fn suppress_kicks(&mut self);

    /// Whether the last thing that the driver was told is that kicks are not needed.
    #[must_use]
    fn kicks_are_suppressed(&self) -> bool;

    /// Ends the ring: nothing more is taken. Returns the position to go on from, that is, the first chain not completed: an
    /// index, or a slot and the wrap counter in bit 15.
    fn stop(&mut self) -> u16;

    /// Latches `fault` unless one is latched, and returns the one that is. Chains that were seen are forgotten.
    fn fail(&mut self, fault: RingFault) -> RingFault;

    /// The fault that is latched.
    #[must_use]
    fn fault(&self) -> Option<RingFault>;

    /// Number of the queue in the device.
    #[must_use]
    fn queue(&self) -> usize;

    /// Descriptors of the ring.
    #[must_use]
    fn size(&self) -> QueueSize;
}

/// What a ring may use, as negotiated.
#[derive(Clone, Debug, Default)]
pub struct VringOptions {
    /// `VIRTIO_F_INDIRECT_DESC`, and where tables are looked up.
    pub indirect: Option<RegionTable>,
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_F_IN_ORDER`.
    pub in_order: bool,
    /// Whether the driver only ever sends on this ring, so that what a packed table calls writable is readable. DPDK's
    /// driver leaves that flag on some of the frame in the tables that it sends (it sets it on all descriptors of a table
    /// at the start, and takes it away from most).
    pub only_sends: bool,
}

#[cfg(test)]
mod oracle_tests;
#[cfg(test)]
mod packed_tests;
#[cfg(test)]
mod singles_tests;
#[cfg(test)]
mod tests;
