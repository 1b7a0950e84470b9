//! The split virtqueue, driver side (virtio 1.3, section 2.7).
//!
//! The descriptor table and the available ring are [`Ours`]: their type has no load. What the driver needs to know again
//! (addresses, lengths, directions, links, which slot of the available ring holds which head) stands in the private
//! ledger and in a private shadow of the available ring. The shadow is also what makes hardening cheap: a word that
//! would be stored unchanged is not stored, so its cache line does not bounce.

use alloc::sync::Arc;
use alloc::vec::Vec;

use ironring_common::apart;
use ironring_common::error::Misuse;
use ironring_common::index::{DescId, QueueSize, SplitIndex};
use ironring_common::shm::view::{Ours, Theirs};
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{self, Descriptor};
use ironring_common::sync::fence_handshake;

use super::chain::{self, Built};
use super::indirect::{IndirectTables, is_indirect};
use super::ledger::{Ledger, Loan, Unshown};
use super::ring::{AddError, Completion, DriverRing, RingCounters, RingLayout, RingOptions, StopWindow};
use super::violation::{Fault, Latch, Violation};
use crate::boundary::UsedRing;
use crate::mapper::Mapper;

/// The three areas of a split virtqueue in shared memory.
#[derive(Clone, Debug)]
pub struct SplitAreas<W> {
    /// The descriptor table: 16 bytes a descriptor, aligned to 16.
    pub desc: W,
    /// The available ring, aligned to 2.
    pub avail: W,
    /// The used ring. Its elements, 4 bytes after its start, must be aligned to 8, so that each is one word: place the
    /// ring 4 bytes before a multiple of 8.
    pub used: W,
}

/// A split virtqueue. `T` is the caller's token, given back when the device is done with the buffers.
///
/// See the [module of queues](super) for what holds under a lying device.
#[derive(Debug)]
pub struct SplitRing<W, T> {
    queue: u16,
    size: QueueSize,
    desc: Ours<W>,
    avail: Ours<W>,
    used: UsedRing<W>,
    tables: Option<IndirectTables<W>>,
    ledger: Ledger<T>,
    /// What each slot of the available ring holds.
    avail_shadow: Vec<u16>,
    /// Where the next head goes.
    next_avail: SplitIndex,
    /// What the device has been told.
    published: SplitIndex,
    /// What it had been told when it was last asked whether it wants a kick.
    asked: SplitIndex,
    /// The next used element to take.
    next_used: SplitIndex,
    /// The device's index as last loaded and checked: `next_used <= seen_used <= published`.
    seen_used: SplitIndex,
    event_idx: bool,
    in_order: bool,
    counters: RingCounters,
    latch: Arc<Latch>,
}

impl<W: Words, T> SplitRing<W, T> {
    /// Makes an empty ring over fresh areas and zeroes what is ours in them.
    ///
    /// # Errors
    /// [`Misuse`] if an area is too small or misaligned. Nothing was allocated or written then.
    pub fn new(queue: u16, size: QueueSize, areas: SplitAreas<W>, latch: Arc<Latch>) -> Result<Self, Misuse> {
        Self::with_options(queue, size, areas, latch, RingOptions::default())
    }

    /// As [`new`](Self::new), with what was negotiated beyond it.
    ///
    /// # Errors
    /// [`Misuse`], also for a size that no split ring has.
    pub fn with_options(
        queue: u16,
        size: QueueSize,
        areas: SplitAreas<W>,
        latch: Arc<Latch>,
        options: RingOptions<W>,
    ) -> Result<Self, Misuse> {
        if !size.is_split() {
            return Err(Misuse::QueueSize { size: size.get() });
        }
        fits(&areas.desc, split::desc_bytes(size), 0, split::DESC_ALIGN.min(8))?;
        fits(&areas.avail, split::avail_bytes(size), 0, split::AVAIL_ALIGN)?;
        fits(&areas.used, split::used_bytes(size), split::USED_RING, split::USED_ELEM_BYTES)?;
        let RingOptions { event_idx, in_order, tables } = options;
        let tables = tables.map(|tables| IndirectTables::new(tables, size, RingLayout::Split)).transpose()?;
        let desc = Ours::new(areas.desc);
        let avail = Ours::new(areas.avail);
        desc.zero(0, split::desc_bytes(size));
        avail.zero(0, split::avail_bytes(size));
        Ok(Self {
            queue,
            size,
            desc,
            avail,
            used: UsedRing::new(Theirs::new(areas.used), size),
            tables,
            ledger: Ledger::new(size, in_order),
            avail_shadow: apart::filled(0, usize::from(size.get())),
            next_avail: SplitIndex(0),
            published: SplitIndex(0),
            asked: SplitIndex(0),
            next_used: SplitIndex(0),
            seen_used: SplitIndex(0),
            event_idx,
            in_order,
            counters: RingCounters::default(),
            latch,
        })
    }

    /// The tokens of the chains that are out. A broken device may still write their buffers: they are quarantined until
    /// the arena is gone.
    pub fn lent(&self) -> impl Iterator<Item = &T> + '_ {
        self.ledger.lent().map(|(_, token, _)| token)
    }

    /// Puts a head into the next slot of the available ring.
    #[inline]
    fn write_avail(&mut self, head: DescId) {
        write_avail(&self.avail, &mut self.avail_shadow, usize::from(self.size.slot(self.next_avail)), head);
        self.next_avail = self.next_avail.advance(1);
    }

    /// Unmaps and frees a chain, by the private records alone. `written` bytes belong to its writable buffers, in their
    /// order.
    #[inline]
    fn detach<M: Mapper>(&mut self, mapper: &mut M, head: DescId, count: u16, written: u32) {
        let desc = self.ledger.desc(head);
        match &mut self.tables {
            Some(tables) if is_indirect(desc) => {
                tables.detach(mapper, head, desc, written);
                self.ledger.release(head);
            }
            _ => chain::detach(&mut self.ledger, mapper, head, count, written),
        }
    }

    #[cold]
    fn broken(&self, fault: Fault) -> Violation {
        self.latch.trip(fault.in_queue(self.queue))
    }

    /// Where it lies, for the test of the layout.
    #[cfg(test)]
    pub(crate) fn lines(&self, to: &mut Vec<core::ops::Range<usize>>) {
        to.push(apart::lines(&*self.avail_shadow));
        self.ledger.lines(to);
        self.tables.iter().for_each(|tables| tables.lines(to));
    }
}

impl<W: Words, T> DriverRing<T> for SplitRing<W, T> {
    #[inline]
    fn add<M: Mapper>(
        &mut self,
        mapper: &mut M,
        readable: &[M::Buffer],
        writable: &[M::Buffer],
        token: T,
    ) -> Result<DescId, AddError<M::Error>> {
        self.latch.check()?;
        let total = readable.len().wrapping_add(writable.len());
        if total == 0 || total > usize::from(self.size.get()) {
            return Err(AddError::Impossible { buffers: total, size: self.size.get() });
        }
        let Self { desc, ledger, tables, .. } = self;
        let write = |id, booked, changed| {
            if changed {
                write_descriptor(desc, id, booked);
            }
        };
        let built = match tables {
            Some(tables) if tables.take(total) => tables.build(ledger, mapper, readable, writable, write)?,
            _ => chain::build(ledger, mapper, readable, writable, write)?,
        };
        let Built { head, count, writable } = built;
        self.ledger.lend(head, token, Loan { count, writable, place: self.next_avail.0 });
        self.write_avail(head);
        Ok(head)
    }

    #[inline]
    fn publish(&mut self) -> bool {
        if self.published == self.next_avail || !self.latch.is_healthy() {
            return false;
        }
        // Release: orders the descriptors, the tables, the entries and the buffers before the index; pairs with the device's
        // Acquire load of avail.idx.
        self.avail.publish_u16(split::AVAIL_IDX, self.next_avail.0);
        self.published = self.next_avail;
        true
    }

    #[inline]
    fn should_kick(&mut self) -> bool {
        if !self.latch.is_healthy() {
            return false;
        }
        let asked = core::mem::replace(&mut self.asked, self.published);
        // Orders our store of avail.idx before our load of used.flags or avail_event; its partner is the device's fence
        // between its store of that word and its last look at avail.idx. Without both, each side may miss the other's word.
        fence_handshake();
        if self.event_idx { self.used.kick_wanted_at(self.published, asked) } else { self.used.kick_wanted() }
    }

    #[inline]
    fn take<M: Mapper>(&mut self, mapper: &mut M) -> Result<Option<Completion<T>>, Violation> {
        if !self.has_completions()? {
            return Ok(None);
        }
        let slot = u32::from(self.size.slot(self.next_used));
        let redeemed = if self.ledger.in_batch() > 0 {
            self.ledger.next_in_batch(slot)
        } else {
            let (id, len) = self.used.element(self.next_used);
            self.counters.used_entries = self.counters.used_entries.wrapping_add(1);
            let unshown = Unshown { from: self.published.0, count: self.next_avail.since(self.published) };
            if self.in_order {
                // One element may stand for many, but for no more than the index says.
                let limit = self.seen_used.since(self.next_used);
                self.ledger.open_batch(id, len, slot, unshown, limit).and_then(|chains| {
                    let batches = &mut self.counters.in_order_batches;
                    *batches = batches.wrapping_add(u64::from(chains > 1));
                    self.ledger.next_in_batch(slot)
                })
            } else {
                self.ledger.redeem(id, len, slot, unshown)
            }
        };
        let redeemed = redeemed.map_err(|fault| self.broken(fault))?;
        self.next_used = self.next_used.advance(1);
        self.counters.idle_claims = self.counters.idle_claims.wrapping_add(u64::from(redeemed.idle_claim));
        self.detach(mapper, redeemed.head, redeemed.count, redeemed.written);
        Ok(Some(Completion { token: redeemed.token, head: redeemed.head, written: redeemed.written }))
    }

    #[inline]
    fn has_completions(&mut self) -> Result<bool, Violation> {
        self.latch.check()?;
        if self.seen_used == self.next_used {
            let steps = self.used.completions(self.next_used, self.held());
            let steps = steps.map_err(|fault| self.broken(fault))?;
            self.seen_used = self.next_used.advance(steps);
        }
        Ok(self.seen_used != self.next_used)
    }

    fn arm_calls(&mut self) {
        if !self.latch.is_healthy() {
            return;
        }
        if self.event_idx {
            self.avail.store_u16(split::used_event_at(self.size), self.next_used.0);
        } else {
            self.avail.store_u16(split::AVAIL_FLAGS, 0);
        }
        // Orders our store of avail.flags or used_event before our next load of used.idx; its partner is the device's fence
        // between its store of used.idx and its load of that word.
        fence_handshake();
    }

    fn suppress_calls(&mut self) {
        if !self.latch.is_healthy() {
            return;
        }
        if self.event_idx {
            // An index that lies behind: it is reached when the indices have gone round.
            self.avail.store_u16(split::used_event_at(self.size), self.next_used.0.wrapping_sub(1));
        } else {
            self.avail.store_u16(split::AVAIL_FLAGS, split::AVAIL_F_NO_INTERRUPT);
        }
    }

    #[inline]
    fn check(&self) -> Result<(), Violation> {
        self.latch.check()
    }

    #[inline]
    fn next_head(&self) -> Option<DescId> {
        self.ledger.next_free()
    }

    #[inline]
    fn free(&self) -> u16 {
        self.ledger.free()
    }

    #[inline]
    fn outstanding(&self) -> u16 {
        self.ledger.outstanding()
    }

    #[inline]
    fn held(&self) -> u16 {
        self.published.since(self.next_used)
    }

    fn size(&self) -> QueueSize {
        self.size
    }

    fn start_base(&self) -> u32 {
        self.next_used.0.into()
    }

    fn stop_window(&self) -> StopWindow {
        StopWindow::Split { published: self.published, held: self.held() }
    }

    fn counters(&self) -> RingCounters {
        let indirect_tables = self.tables.as_ref().map_or(0, IndirectTables::sent);
        RingCounters { indirect_tables, ..self.counters }
    }

    fn is_conserved(&self) -> bool {
        self.ledger.is_conserved()
    }
}

/// Writes a descriptor; its record was booked by whoever calls. Final flags are stored once; nothing is patched later.
#[inline]
fn write_descriptor<W: Words>(table: &Ours<W>, id: DescId, desc: Descriptor) {
    let at = id.index().wrapping_mul(split::DESC_BYTES);
    let [addr, rest] = desc.to_words();
    table.store_u64(at, addr);
    table.store_u64(at.wrapping_add(8), rest);
}

/// Puts a head into a slot of the available ring, unless the slot holds it already.
#[inline]
fn write_avail<W: Words>(avail: &Ours<W>, shadow: &mut [u16], slot: usize, head: DescId) {
    if let Some(shadow) = shadow.get_mut(slot)
        && *shadow != head.get()
    {
        *shadow = head.get();
        let at = slot.wrapping_mul(split::AVAIL_ENTRY_BYTES).wrapping_add(split::AVAIL_RING);
        avail.store_u16(at, head.get());
    }
}

/// Whether an area holds `need` bytes with words of `align` bytes at offset `at`.
pub(super) fn fits<W: Words>(area: &W, need: usize, at: usize, align: usize) -> Result<(), Misuse> {
    if area.len() < need {
        return Err(Misuse::AreaTooSmall { have: area.len(), need });
    }
    if !area.is_aligned(at, align) {
        return Err(Misuse::Misaligned { need: align });
    }
    Ok(())
}

#[cfg(feature = "std")]
mod claims;
#[cfg(feature = "std")]
mod slots;
#[cfg(all(test, feature = "std"))]
mod tests;
