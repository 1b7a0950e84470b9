//! Bursts of chains of one descriptor on a split ring, which need no walk.

use ironring_common::index::SplitIndex;
use ironring_common::shm::area::Bytes;
use ironring_common::shm::table::HotRegion;
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{USED_ELEM_BYTES, USED_IDX, USED_RING, UsedElem};

use super::{Batch, ElementStores, SplitVring};
use crate::boundary;
use crate::vring::DeviceRing;
use crate::vring::chain::{Segment, Single};
use crate::vring::hook::Hook;

impl<W: Words> SplitVring<W> {
    /// [`next_singles`](crate::vring::DeviceRing::next_singles).
    #[inline(always)]
    pub(super) fn take_singles<'m, const FILLS: bool>(
        &mut self,
        memory: &mut HotRegion<'m>,
        out: &mut [Single<'m>],
        mut fit: impl FnMut(Bytes<'m>) -> bool,
    ) -> u16 {
        let (size, mut at) = (self.size, self.next_avail);
        let (avail, table) = (self.avail.view(), boundary::table(&self.desc, size));
        let most = out.len().min(usize::from(self.available()));
        for to in out.get_mut(..most).unwrap_or_default() {
            let Ok(head) = boundary::avail_head(&avail, size.slot(SplitIndex(at)), size) else { break };
            let Some(Segment { addr, len }) = boundary::single_descriptor::<FILLS, _>(&table, head) else { break };
            let Some(buffer) = memory.bytes(addr, len).filter(|buffer| fit(*buffer)) else { break };
            (to.buffer, to.id) = (buffer, head.get());
            at = at.wrapping_add(1);
        }
        let taken = at.wrapping_sub(self.next_avail);
        self.next_avail = at;
        self.prefetch_elements(taken);
        taken
    }

    /// [`next_single`](crate::vring::DeviceRing::next_single).
    #[inline(always)]
    pub(super) fn take_single<'m, const FILLS: bool>(
        &mut self,
        memory: &mut HotRegion<'m>,
        fit: impl FnOnce(Bytes<'m>) -> bool,
    ) -> Option<Single<'m>> {
        if self.available() == 0 {
            return None;
        }
        let size = self.size;
        let head = boundary::avail_head(&self.avail, size.slot(SplitIndex(self.next_avail)), size).ok()?;
        let Segment { addr, len } = boundary::single_descriptor::<FILLS, _>(&boundary::table(&self.desc, size), head)?;
        let buffer = memory.bytes(addr, len).filter(|buffer| fit(*buffer))?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Some(Single { buffer, id: head.get(), written: 0 })
    }

    /// [`end_singles`](crate::vring::DeviceRing::end_singles).
    #[inline(always)]
    pub(super) fn give_singles<H: Hook, const FILLS: bool>(
        &mut self,
        hook: &mut H,
        done: &[Single<'_>],
        back: &[Single<'_>],
    ) {
        if H::ACTIVE || self.elements == ElementStores::Two {
            for single in done {
                self.complete(hook, single.at::<FILLS>(), single.length::<FILLS>());
            }
        } else if self.in_order && !FILLS {
            self.end_in_order(done);
        } else if !done.is_empty() {
            self.write_batch(hook);
            self.write_singles::<FILLS>(done);
        }
        if !back.is_empty() {
            self.undo_last(u16::try_from(back.len()).unwrap_or(u16::MAX));
        }
    }

    /// Asks for the lines of the next `count` used elements, and of their index: the driver has looked at them. Not for a few: a
    /// driver that waits for one looks at the index all the time, and would take its line back.
    #[inline(always)]
    fn prefetch_elements(&self, count: u16) {
        if count < FEW_ELEMENTS {
            return;
        }
        let used = self.used.view();
        let first = usize::from(self.size.slot(SplitIndex(self.next_used))).wrapping_mul(USED_ELEM_BYTES);
        let bytes = usize::from(count).wrapping_mul(USED_ELEM_BYTES);
        used.prefetch(USED_IDX);
        for at in (first..first.saturating_add(bytes)).step_by(64) {
            used.prefetch(at.wrapping_add(USED_RING));
        }
    }

    /// Writes the used elements of chains of one descriptor.
    #[inline(always)]
    fn write_singles<const FILLS: bool>(&mut self, done: &[Single<'_>]) {
        let (size, mut at) = (self.size, self.next_used);
        let elements = self.used.lane::<1>(USED_RING, USED_ELEM_BYTES, usize::from(size.get()));
        for single in done {
            let elem = UsedElem { id: u32::from(single.id), len: single.length::<FILLS>() };
            elements.store_u64::<0>(usize::from(size.slot(SplitIndex(at))), elem.to_word());
            at = at.wrapping_add(1);
        }
        self.entries = self.entries.wrapping_add(at.wrapping_sub(self.next_used));
        self.next_used = at;
    }

    /// Keeps back one used element for all of these chains, which the device has emptied.
    #[inline(always)]
    fn end_in_order(&mut self, done: &[Single<'_>]) {
        let Some(Single { id, .. }) = done.last() else { return };
        let first = self.batch.map_or(self.next_used, |batch| batch.first);
        self.batch = Some(Batch { first, last: *id });
        // No more than a burst.
        self.next_used = self.next_used.wrapping_add(u16::try_from(done.len()).unwrap_or(u16::MAX));
    }
}

/// Fewer elements than that are written without their lines being asked for before.
const FEW_ELEMENTS: u16 = 4;
