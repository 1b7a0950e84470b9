//! A ring of either layout.
//!
//! A worker looks once a burst which one it is, and calls code that was made for that layout. For everything else the
//! enumeration is a ring itself.

use ironring_common::index::QueueSize;
use ironring_common::shm::area::{Area, Bytes};
use ironring_common::shm::table::{HotRegion, RegionTable};
use ironring_common::shm::words::Words;

use super::chain::{Chain, ChainRef, Single};
use super::hook::{Hook, Parts, RingMemory};
use super::packed::PackedVring;
use super::split::SplitVring;
use super::{DeviceRing, RingFault};

/// A virtqueue whose layout was negotiated.
#[derive(Debug)]
pub enum AnyVring<W: Words> {
    /// Section 2.7.
    Split(SplitVring<W>),
    /// Section 2.8.
    Packed(PackedVring<W>),
}

/// Calls a method of whichever ring it is.
macro_rules! on {
    ($any:expr, $ring:ident => $call:expr) => {
        match $any {
            AnyVring::Split($ring) => $call,
            AnyVring::Packed($ring) => $call,
        }
    };
}

impl AnyVring<Area> {
    /// The ring as a hook is shown it: `areas` are those that it was made of, in their order.
    #[must_use]
    pub fn seen_by_hook<'a>(&'a self, areas: &'a [Area; 3], memory: &'a RegionTable) -> RingMemory<'a> {
        let [first, second, third] = areas;
        let (queue, size) = (self.queue(), self.size());
        match self {
            Self::Split(ring) => {
                let (next_avail, next_used) = (ring.next_avail(), ring.next_used());
                let parts = Parts::Split { desc: first, avail: second, used: third, next_avail, next_used };
                RingMemory { queue, size, parts, memory, heads: ring.heads() }
            }
            Self::Packed(ring) => {
                let (next_avail, next_used) = (ring.next_avail(), ring.next_used());
                let parts =
                    Parts::Packed { ring: first, driver_event: second, device_event: third, next_avail, next_used };
                RingMemory { queue, size, parts, memory, heads: ring.heads() }
            }
        }
    }
}

impl<W: Words> DeviceRing for AnyVring<W> {
    #[inline]
    fn poll(&mut self) -> Result<u16, RingFault> {
        on!(self, ring => ring.poll())
    }
    #[inline]
    fn available(&self) -> u16 {
        on!(self, ring => ring.available())
    }
    fn is_full(&self) -> bool {
        on!(self, ring => ring.is_full())
    }
    fn next_chain(&mut self, out: &mut Chain) -> Result<bool, RingFault> {
        on!(self, ring => ring.next_chain(out))
    }
    fn next_singles<'m, const FILLS: bool>(
        &mut self,
        memory: &mut HotRegion<'m>,
        out: &mut [Single<'m>],
        fit: impl FnMut(Bytes<'m>) -> bool,
    ) -> u16 {
        on!(self, ring => ring.next_singles::<FILLS>(memory, out, fit))
    }
    fn end_singles<H: Hook, const FILLS: bool>(&mut self, hook: &mut H, done: &[Single<'_>], back: &[Single<'_>]) {
        on!(self, ring => ring.end_singles::<H, FILLS>(hook, done, back));
    }
    fn next_single<'m, const FILLS: bool>(
        &mut self,
        memory: &mut HotRegion<'m>,
        fit: impl FnOnce(Bytes<'m>) -> bool,
    ) -> Option<Single<'m>> {
        on!(self, ring => ring.next_single::<FILLS>(memory, fit))
    }
    fn end_single<H: Hook, const FILLS: bool>(&mut self, hook: &mut H, done: Single<'_>) {
        on!(self, ring => ring.end_single::<H, FILLS>(hook, done));
    }
    fn undo_last(&mut self, chains: u16) {
        on!(self, ring => ring.undo_last(chains));
    }
    fn complete<H: Hook>(&mut self, hook: &mut H, chain: ChainRef, written: u32) {
        on!(self, ring => ring.complete(hook, chain, written));
    }
    #[inline]
    fn publish<H: Hook>(&mut self, hook: &mut H) -> u16 {
        on!(self, ring => ring.publish(hook))
    }
    #[inline]
    fn should_call(&mut self) -> bool {
        on!(self, ring => ring.should_call())
    }
    fn arm_kick(&mut self) {
        on!(self, ring => ring.arm_kick());
    }
    fn suppress_kicks(&mut self) {
        on!(self, ring => ring.suppress_kicks());
    }
    #[inline]
    fn kicks_are_suppressed(&self) -> bool {
        on!(self, ring => ring.kicks_are_suppressed())
    }
    fn stop(&mut self) -> u16 {
        on!(self, ring => ring.stop())
    }
    fn fail(&mut self, fault: RingFault) -> RingFault {
        on!(self, ring => ring.fail(fault))
    }
    #[inline]
    fn fault(&self) -> Option<RingFault> {
        on!(self, ring => ring.fault())
    }
    fn queue(&self) -> usize {
        on!(self, ring => ring.queue())
    }
    fn size(&self) -> QueueSize {
        on!(self, ring => ring.size())
    }
}
