//! The packed virtqueue, driver side (virtio 1.3, section 2.8).
//!
//! Driver and device write the same slots, so nothing in them can be this side's memory: positions, wrap counters and what
//! each chain has are private. A slot is looked at only where the next completion is due and only while something is out;
//! what it says is an id, which the ledger redeems, and a length. How far the position then moves is in the private record
//! of that chain.
//!
//! A burst becomes visible all at once. Its slots are written as chains are added, or at its end where they come in bursts,
//! except for the flags of the very first one: a device goes from slot to slot and cannot get past that. One Release store of
//! them publishes the burst.

use alloc::sync::Arc;

use ironring_common::error::Misuse;
use ironring_common::index::{DescId, PackedPosition, QueueSize};
use ironring_common::shm::view::{Both, Ours, Theirs};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{self, Event, SlotRest};
use ironring_common::spec::split::Descriptor;
use ironring_common::sync::fence_handshake;

use super::chain::{self, Built};
use super::indirect::{IndirectTables, is_indirect};
use super::ledger::{Ledger, Loan, Redeemed, Unshown};
use staged::Staged;

use super::ring::{AddError, Completion, DriverRing, RingCounters, RingLayout, RingOptions, StopWindow};
use super::split::fits;
use super::violation::{Fault, Latch, Violation};
use crate::boundary::{self, DeviceEvent};
use crate::mapper::Mapper;

/// The three areas of a packed virtqueue in shared memory.
#[derive(Clone, Debug)]
pub struct PackedAreas<W> {
    /// The slots: 16 bytes a descriptor, aligned to 16.
    pub ring: W,
    /// Where the driver says when it wants to be called, aligned to 4.
    pub driver_event: W,
    /// Where the device says when it wants to be kicked, aligned to 4.
    pub device_event: W,
}

/// A packed virtqueue. `T` is the caller's token, given back when the device is done with the buffers.
///
/// See the [module of queues](super) for what holds under a lying device.
#[derive(Debug)]
pub struct PackedRing<W, T> {
    queue: u16,
    size: QueueSize,
    ring: Both<W>,
    driver_event: Ours<W>,
    device_event: DeviceEvent<W>,
    tables: Option<IndirectTables<W>>,
    ledger: Ledger<T>,
    /// Where the next chain goes.
    next_avail: PackedPosition,
    /// The first slot of the burst that is not published: where it is, and what goes there.
    first: Option<(usize, u64)>,
    /// Slots of that burst that are not written yet.
    staged: Staged,
    /// Slots of that burst.
    unpublished: u16,
    /// Where the slots end that the device was shown.
    shown: PackedPosition,
    /// Slots published since the device was last asked whether it wants a kick; more than a round counts as a round when it is asked.
    unasked: u16,
    /// The slot of the next completion.
    next_used: PackedPosition,
    /// Whether that slot was seen to be used, and what it says.
    seen: Option<Seen>,
    /// Whether the last completion that a burst took back stood for many: so the next one most likely does.
    #[cfg(feature = "std")]
    batches: bool,
    /// How many completions the last burst took that was no single one: so many are expected of the next one.
    #[cfg(feature = "std")]
    usual: u16,
    /// Slots that were published and are not back.
    held_slots: u16,
    /// Chains that were posted, modulo 2^16.
    posted: u16,
    /// Chains that were published, modulo 2^16.
    published: u16,
    event_idx: bool,
    in_order: bool,
    counters: RingCounters,
    latch: Arc<Latch>,
}

/// A completion that was loaded and not taken.
type Seen = (ironring_common::claim::Alleged<u32>, ironring_common::claim::Alleged<u32>);

impl<W: Words, T> PackedRing<W, T> {
    /// Makes an empty ring over fresh areas and zeroes the slots and what is ours.
    ///
    /// # Errors
    /// [`Misuse`] if an area is too small or misaligned. Nothing was allocated or written then.
    pub fn new(queue: u16, size: QueueSize, areas: PackedAreas<W>, latch: Arc<Latch>) -> Result<Self, Misuse> {
        Self::with_options(queue, size, areas, latch, RingOptions::default())
    }

    /// As [`new`](Self::new), with what was negotiated beyond it.
    ///
    /// # Errors
    /// [`Misuse`].
    pub fn with_options(
        queue: u16,
        size: QueueSize,
        areas: PackedAreas<W>,
        latch: Arc<Latch>,
        options: RingOptions<W>,
    ) -> Result<Self, Misuse> {
        fits(&areas.ring, packed::ring_bytes(size), 0, packed::RING_ALIGN.min(8))?;
        fits(&areas.driver_event, packed::EVENT_BYTES, 0, packed::EVENT_ALIGN)?;
        fits(&areas.device_event, packed::EVENT_BYTES, 0, packed::EVENT_ALIGN)?;
        let RingOptions { event_idx, in_order, tables } = options;
        let tables = tables.map(|tables| IndirectTables::new(tables, size, RingLayout::Packed)).transpose()?;
        let ring = Both::new(areas.ring);
        let driver_event = Ours::new(areas.driver_event);
        ring.zero(0, packed::ring_bytes(size));
        driver_event.zero(0, packed::EVENT_BYTES);
        Ok(Self {
            queue,
            size,
            ring,
            driver_event,
            device_event: DeviceEvent::new(Theirs::new(areas.device_event)),
            tables,
            ledger: Ledger::new(size, in_order),
            next_avail: PackedPosition::START,
            first: None,
            staged: Staged::new(size),
            shown: PackedPosition::START,
            unpublished: 0,
            unasked: 0,
            next_used: PackedPosition::START,
            seen: None,
            #[cfg(feature = "std")]
            usual: 0,
            #[cfg(feature = "std")]
            batches: false,
            held_slots: 0,
            posted: 0,
            published: 0,
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

    /// Writes the slots of a chain that is booked, from its private records. Each slot carries the chain's id, though only
    /// the last one's counts (2.8.6). The flags of the first slot are stored last, or kept back if the chain begins a burst.
    #[inline]
    fn write_slots(&mut self, head: DescId, count: u16) {
        let start = self.next_avail;
        let mut at = start;
        let mut id = head;
        let mut held = None;
        for _ in 0..count {
            let desc = self.ledger.desc(id);
            let (offset, word) = self.store_addr(at, head, desc);
            if at == start {
                held = Some((offset, word));
            } else {
                self.ring.store_u64(offset, word);
            }
            at = at.advance(1, self.size);
            let Some(next) = DescId::below(desc.next, self.size) else { break };
            id = next;
        }
        if let Some(rest) = held {
            self.store_rest(rest);
        }
        self.next_avail = at;
        self.unpublished = self.unpublished.wrapping_add(count);
    }

    /// Writes the first word of a slot. Where the second goes, and what.
    #[inline(always)]
    fn store_addr(&self, at: PackedPosition, head: DescId, desc: Descriptor) -> (usize, u64) {
        let offset = usize::from(at.slot()).wrapping_mul(packed::SLOT_BYTES);
        self.ring.store_u64(offset.wrapping_add(packed::SLOT_ADDR), desc.addr);
        (offset.wrapping_add(packed::SLOT_REST), rest(desc, head, at.wrap()).to_word())
    }

    /// Writes the second word of the first slot of a chain, or keeps it back if it begins a burst.
    #[inline(always)]
    fn store_rest(&mut self, (offset, word): (usize, u64)) {
        if self.first.is_none() {
            self.first = Some((offset, word));
        } else {
            self.ring.store_u64(offset, word);
        }
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

    /// Ends the loan that the slot at `next_used` is about.
    #[inline]
    fn redeem(&mut self, slot: u32) -> Result<Redeemed<T>, Fault> {
        if self.ledger.in_batch() > 0 {
            return self.ledger.next_in_batch(slot);
        }
        let Some((id, len)) = self.seen.take() else {
            return Err(Fault {
                kind: super::violation::ViolationKind::IdNotOutstanding,
                slot,
                observed: 0,
                expected: 0,
            });
        };
        self.counters.used_entries = self.counters.used_entries.wrapping_add(1);
        let unshown = Unshown { from: self.published, count: self.posted.wrapping_sub(self.published) };
        if !self.in_order {
            return self.ledger.redeem(id, len, slot, unshown);
        }
        // Any number of chains that are out: which is what a chain that was shown can be away from the oldest.
        let chains = self.ledger.open_batch(id, len, slot, unshown, self.held())?;
        let batches = &mut self.counters.in_order_batches;
        *batches = batches.wrapping_add(u64::from(chains > 1));
        self.ledger.next_in_batch(slot)
    }

    fn say(&self, event: Event) {
        self.driver_event.store_u32(0, event.to_word());
    }

    /// Writes the slots that bursts kept back.
    #[inline]
    fn write_staged(&mut self) {
        if !self.staged.is_empty() {
            let Self { staged, ring, size, first, ledger, .. } = self;
            staged.write(ring, *size, first, ledger.descs());
        }
    }

    #[cold]
    fn broken(&self, fault: Fault) -> Violation {
        self.latch.trip(fault.in_queue(self.queue))
    }

    /// Where it lies, for the test of the layout.
    #[cfg(test)]
    pub(crate) fn lines(&self, to: &mut alloc::vec::Vec<core::ops::Range<usize>>) {
        self.staged.lines(to);
        self.ledger.lines(to);
        self.tables.iter().for_each(|tables| tables.lines(to));
    }
}

impl<W: Words, T> DriverRing<T> for PackedRing<W, T> {
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
        let Self { ledger, tables, .. } = self;
        // Nothing is written before the chain is whole: slots of one that was taken back would look available to a device
        // that comes along behind a shorter one.
        let built = match tables {
            Some(tables) if tables.take(total) => tables.build(ledger, mapper, readable, writable, |_, _, _| {})?,
            _ => chain::build(ledger, mapper, readable, writable, |_, _, _| {})?,
        };
        let Built { head, count, writable } = built;
        if count == 1 {
            self.ledger.number(head);
        }
        self.ledger.lend(head, token, Loan { count, writable, place: self.posted });
        self.posted = self.posted.wrapping_add(1);
        self.write_staged();
        self.write_slots(head, count);
        Ok(head)
    }

    #[inline]
    fn publish(&mut self) -> bool {
        if !self.latch.is_healthy() {
            return false;
        }
        self.write_staged();
        let Some((offset, word)) = self.first.take() else { return false };
        // Release: orders the other slots of the burst, the tables and the buffers before these flags; pairs with the
        // device's Acquire load of them, which comes before it looks at any slot behind.
        self.ring.publish_u64(offset, word);
        let slots = core::mem::take(&mut self.unpublished);
        self.published = self.posted;
        self.shown = self.next_avail;
        self.held_slots = self.held_slots.wrapping_add(slots);
        self.unasked = self.unasked.saturating_add(slots);
        true
    }

    #[inline]
    fn should_kick(&mut self) -> bool {
        if !self.latch.is_healthy() {
            return false;
        }
        let steps = core::mem::take(&mut self.unasked).min(self.size.get());
        // Orders our store of the flags before our load of the device's event area; its partner is the device's fence between
        // its store of that and its last look at the slot. Without both, each side may miss the other's word.
        fence_handshake();
        debug_assert_eq!(self.unpublished, 0, "the question is about what was published");
        self.device_event.kick_wanted(self.shown, steps, self.size, self.event_idx)
    }

    #[inline]
    fn take<M: Mapper>(&mut self, mapper: &mut M) -> Result<Option<Completion<T>>, Violation> {
        if !self.has_completions()? {
            return Ok(None);
        }
        let slot = u32::from(self.next_used.slot());
        let redeemed = self.redeem(slot).map_err(|fault| self.broken(fault))?;
        self.next_used = self.next_used.advance(redeemed.count, self.size);
        self.held_slots = self.held_slots.wrapping_sub(redeemed.count);
        self.counters.idle_claims = self.counters.idle_claims.wrapping_add(u64::from(redeemed.idle_claim));
        self.detach(mapper, redeemed.head, redeemed.count, redeemed.written);
        Ok(Some(Completion { token: redeemed.token, head: redeemed.head, written: redeemed.written }))
    }

    #[inline]
    fn has_completions(&mut self) -> Result<bool, Violation> {
        self.latch.check()?;
        if self.ledger.in_batch() > 0 || self.seen.is_some() {
            return Ok(true);
        }
        // With nothing out there is no slot that the device may have used, whatever stands there.
        if self.held_slots > 0 {
            self.seen = boundary::used_slot(&self.ring, self.next_used);
        }
        Ok(self.seen.is_some())
    }

    fn arm_calls(&mut self) {
        if !self.latch.is_healthy() {
            return;
        }
        self.say(if self.event_idx {
            Event { off_wrap: self.next_used.to_bits(), flags: packed::EVENT_F_DESC }
        } else {
            Event { off_wrap: 0, flags: packed::EVENT_F_ENABLE }
        });
        // Orders our store of the event area before our next load of a slot; its partner is the device's fence between its
        // store of a used slot and its load of the event area.
        fence_handshake();
    }

    fn suppress_calls(&mut self) {
        if self.latch.is_healthy() {
            self.say(Event { off_wrap: 0, flags: packed::EVENT_F_DISABLE });
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
        self.ledger.outstanding().wrapping_sub(self.posted.wrapping_sub(self.published))
    }

    fn size(&self) -> QueueSize {
        self.size
    }

    fn start_base(&self) -> u32 {
        let at = u32::from(self.next_used.to_bits());
        at | (at << 16)
    }

    fn stop_window(&self) -> StopWindow {
        StopWindow::Packed { next_used: self.next_used, held: self.held_slots, size: self.size }
    }

    fn counters(&self) -> RingCounters {
        let indirect_tables = self.tables.as_ref().map_or(0, IndirectTables::sent);
        RingCounters { indirect_tables, ..self.counters }
    }

    fn is_conserved(&self) -> bool {
        let slots = self.held_slots.wrapping_add(self.unpublished);
        self.ledger.is_conserved() && slots == self.ledger.here().wrapping_sub(self.ledger.free())
    }
}

/// The second word of a slot of a chain. The link of the private record is none of the ring's: slots follow one another. That of a chain
/// by itself is its own number, for bursts.
#[inline]
fn rest(desc: Descriptor, id: DescId, wrap: bool) -> SlotRest {
    SlotRest { len: desc.len, id: id.get(), flags: desc.flags | packed::avail_flags(wrap) }
}

#[cfg(feature = "std")]
mod claims;
#[cfg(feature = "std")]
mod slots;
mod staged;
