//! The packed virtqueue (virtio 1.3, section 2.8), device side.
//!
//! Driver and device write the same slots. Positions and wrap counters are private, and so is how many slots each chain that
//! was taken has; a slot is loaded where the next chain begins, and behind that as far as the chain goes, at most to where
//! the slots that are in use begin. A burst of used slots becomes visible all at once: all are stored as chains are
//! completed but the first one, whose flags publish the burst.

use ironring_common::apart;
use ironring_common::error::Misuse;
use ironring_common::index::{DescId, PackedPosition, QueueSize};
use ironring_common::shm::area::Bytes;
use ironring_common::shm::table::{HotRegion, RegionTable};
use ironring_common::shm::view::{Both, Ours, Theirs};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{
    DESC_F_WRITE, EVENT_ALIGN, EVENT_BYTES, EVENT_F_DESC, EVENT_F_DISABLE, EVENT_F_ENABLE, Event, RING_ALIGN,
    SLOT_BYTES, SLOT_REST, SlotRest, is_used, ring_bytes, used_flags,
};
use ironring_common::sync::fence_handshake;

use super::chain::{Chain, ChainRef, Single};
use super::hook::Hook;
use super::position;
use super::row::Row;
use super::split::check_area;
use super::table::{Owner, TableReader};
use super::{DeviceRing, RingFault, VringOptions};
use crate::boundary;

mod singles;

/// One packed virtqueue. See the [module documentation](self).
#[derive(Debug)]
pub struct PackedVring<W: Words> {
    queue: usize,
    size: QueueSize,
    ring: Both<W>,
    driver_event: Theirs<W>,
    device_event: Ours<W>,
    tables: Option<TableReader>,
    event_idx: bool,
    in_order: bool,
    only_sends: bool,
    /// The slot of the next chain to take.
    next_avail: PackedPosition,
    /// What that slot says, if it was found to be available.
    seen: Option<SlotRest>,
    /// How many chains the last burst took, if it wrote a slot for each: so many are expected of the next one. Apart from the words
    /// of 16 bits, which are loaded in pairs: such a load waits for a store of one of them.
    usual: u32,
    /// Chains that were taken and not completed, oldest first.
    taken: Row<Taken>,
    /// The slot of the next completion.
    next_used: PackedPosition,
    /// The first used slot of the burst that is not published: where it is, and what goes there.
    first: Option<(usize, u64)>,
    /// Slots used since the last publish.
    unpublished: u16,
    /// Where the slots end that were published.
    shown: PackedPosition,
    /// Slots published since the driver was last asked whether it wants a call; when it is asked, more than a round counts as a
    /// round. Not before: the size lies beside words of 16 bits that a publish stores, may be loaded together with one, and then
    /// waits for all that was stored before, the slots among them.
    unasked: u16,
    /// Used slots written since the last publish.
    entries: u16,
    /// With `VIRTIO_F_IN_ORDER`: completions that become one used slot, which is not written yet.
    batch: Option<Batch>,
    /// What our event area says, once we have said something.
    said: Option<Event>,
    /// With a hook: the slots with which the chains began that were completed since the last poll.
    heads: Vec<DescId>,
    fault: Option<RingFault>,
}

/// A chain that was taken.
#[derive(Clone, Copy, Debug)]
struct Taken {
    slots: u16,
    /// What its first slot said: it is available still if the chain is put back.
    first: SlotRest,
}

/// A used slot that stands for all completions from the one at `first` on: it names the last one.
#[derive(Clone, Copy, Debug)]
struct Batch {
    first: PackedPosition,
    last: u16,
}

impl<W: Words> PackedVring<W> {
    /// A ring of `size` slots that goes on at `base` in both directions: a slot in 15 bits, and the wrap counter in bit 15.
    /// Nothing is loaded or stored yet.
    ///
    /// `queue` is the number of the queue in the device, for faults and hooks.
    ///
    /// # Errors
    /// [`Misuse::AreaTooSmall`] or [`Misuse::Misaligned`] by the rules of section 2.8: the ring is aligned to 16, the event
    /// areas to 4 bytes. [`Misuse::PackedBase`] for a base that the ring does not have.
    pub fn new(
        queue: usize,
        size: QueueSize,
        ring: W,
        driver_event: W,
        device_event: W,
        base: u16,
    ) -> Result<Self, Misuse> {
        check_areas(size, &ring, &driver_event, &device_event)?;
        let at = PackedPosition::from_bits(base, size).ok_or(Misuse::PackedBase { base, size: size.get() })?;
        Ok(Self {
            queue,
            size,
            ring: Both::new(ring),
            driver_event: Theirs::new(driver_event),
            device_event: Ours::new(device_event),
            tables: None,
            event_idx: false,
            in_order: false,
            only_sends: false,
            next_avail: at,
            seen: None,
            usual: 0,
            taken: Row::new(usize::from(size.get())),
            next_used: at,
            first: None,
            unpublished: 0,
            shown: at,
            unasked: 0,
            entries: 0,
            batch: None,
            said: None,
            heads: apart::list(usize::from(size.get())),
            fault: None,
        })
    }

    /// The same ring with what was negotiated beyond it.
    #[must_use]
    pub fn with_options(self, options: VringOptions) -> Self {
        let VringOptions { indirect, event_idx, in_order, only_sends } = options;
        let tables = indirect.map(|memory| TableReader::new(memory, self.size.get()));
        Self { tables, event_idx, in_order, only_sends, ..self }
    }

    /// Moves the ring to new views of its three areas, after a change of the memory table. Positions stay.
    ///
    /// # Errors
    /// As [`new`](Self::new); the ring is unchanged then.
    pub fn relocate(&mut self, ring: W, driver_event: W, device_event: W, memory: &RegionTable) -> Result<(), Misuse> {
        check_areas(self.size, &ring, &driver_event, &device_event)?;
        self.ring = Both::new(ring);
        self.driver_event = Theirs::new(driver_event);
        self.device_event = Ours::new(device_event);
        self.said = None;
        self.seen = None;
        if let Some(tables) = &mut self.tables {
            tables.set_memory(memory.clone());
        }
        Ok(())
    }

    /// Compares where the ring was started with what stands in it; to be called once, before anything else. A front-end that
    /// could not ask the last backend starts the next one at an old position. If chains take a `single` slot each, as far as
    /// the features tell, and the slots say where the ring is, it goes on there, and that is returned. If they tell nothing, but the one at the position has been used in that very round, so
    /// that nothing would ever be found there, that is a fault.
    ///
    /// # Errors
    /// [`RingFault::StaleBase`], latched.
    pub fn settle(&mut self, single: bool) -> Result<Option<PackedPosition>, RingFault> {
        let base = self.next_avail;
        let mut at = PackedPosition::START;
        let mut flags = Vec::with_capacity(usize::from(self.size.get()));
        let slots = boundary::slots(&self.ring, self.size);
        for _ in 0..self.size.get() {
            flags.push(boundary::slot_flags(&slots, at));
            at = at.advance(1, self.size);
        }
        // The last slot of a chain that was used looks as if it were available behind that chain.
        match position::of_flags(&flags, self.size).filter(|_| single) {
            Some(found) if found != base => {
                self.next_avail = found;
                self.next_used = found;
                self.shown = found;
                Ok(Some(found))
            }
            Some(_) => Ok(None),
            None => match flags.get(usize::from(base.slot())) {
                Some(flags) if is_used(*flags, base.wrap()) => {
                    Err(self.fail(RingFault::StaleBase { queue: self.queue, slot: base.slot() }))
                }
                _ => Ok(None),
            },
        }
    }

    /// The slot of the next chain to take.
    #[inline]
    #[must_use]
    pub const fn next_avail(&self) -> PackedPosition {
        self.next_avail
    }

    /// The slot of the next completion.
    #[inline]
    #[must_use]
    pub const fn next_used(&self) -> PackedPosition {
        self.next_used
    }

    /// The slots with which the chains began that were completed since the last poll, if a hook is active.
    #[inline]
    #[must_use]
    pub fn heads(&self) -> &[DescId] {
        &self.heads
    }

    /// Looks whether there is a chain at the next slot, with one load.
    #[inline]
    fn look(&mut self) -> Result<u16, RingFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        // With all slots in use there is none that the driver could have made available.
        if self.seen.is_none() && self.in_use() < self.size.get() {
            self.seen = boundary::slot_available(&boundary::slots(&self.ring, self.size), self.next_avail);
        }
        Ok(self.available())
    }

    /// Slots of the chains that were taken and not completed.
    #[inline]
    fn in_use(&self) -> u16 {
        self.next_avail.since(self.next_used, self.size)
    }

    /// Follows the chain that begins with the slot `first`, which was found available.
    #[inline]
    fn walk(&mut self, first: SlotRest, out: &mut Chain) -> Result<u16, RingFault> {
        let queue = self.queue;
        let head = self.next_avail.slot();
        let room = self.size.get().saturating_sub(self.in_use());
        out.start();
        let slots = boundary::slots(&self.ring, self.size);
        let mut at = self.next_avail;
        let mut slot = boundary::first_slot(&slots, at, first);
        for taken in 1..=room {
            if slot.indirect {
                let refused = RingFault::IndirectNotNegotiated { queue, head, at: at.slot() };
                let tables = self.tables.as_mut().ok_or(refused)?;
                if slot.more || taken > 1 {
                    return Err(RingFault::IndirectWithNext { queue, head });
                }
                let owner = Owner { queue, head, room: self.size.get() };
                tables.walk_packed(owner, slot.segment, self.only_sends, out)?;
                out.finish(slot.id, taken);
                return Ok(taken);
            }
            if !out.push(slot.segment, slot.writable) {
                return Err(RingFault::ReadableAfterWritable { queue, head, at: at.slot() });
            }
            if !slot.more {
                // Each slot of a chain may have an id; the last one's is the chain's (2.8.6).
                out.finish(slot.id, taken);
                return Ok(taken);
            }
            at = at.advance(1, self.size);
            if taken < room {
                slot = boundary::later_slot(&slots, at);
            }
        }
        Err(RingFault::ChainTooLong { queue, head, bound: room })
    }

    /// Writes the used slot at `at`, or keeps it back if it begins a burst.
    #[inline(always)]
    fn write_slot<H: Hook>(&mut self, hook: &mut H, at: PackedPosition, id: u16, written: u32) {
        let word = hook.used_slot(self.queue, at.slot(), used_rest(at, id, written)).to_word();
        // A slot is below 32768, so the offset is far from overflow.
        let offset = usize::from(at.slot()).wrapping_mul(SLOT_BYTES).wrapping_add(SLOT_REST);
        if self.first.is_none() {
            self.first = Some((offset, word));
        } else {
            self.ring.store_u64(offset, word);
        }
        self.entries = self.entries.wrapping_add(1);
    }

    /// Writes the used slot of a batch. It stands where the batch begins and names its last chain (2.8.9).
    #[inline(always)]
    fn write_batch<H: Hook>(&mut self, hook: &mut H) {
        if let Some(Batch { first, last }) = self.batch.take() {
            self.write_slot(hook, first, last, 0);
        }
    }

    /// Writes the used slot of the oldest chain that was taken, or makes it part of a batch.
    #[inline(always)]
    fn give_back<H: Hook>(&mut self, hook: &mut H, chain: ChainRef, written: u32) {
        if self.in_order && !chain.writable && !H::ACTIVE {
            // Nothing can have been written, so nothing is lost when the slot of the last one stands for all. A hook is told
            // one slot for each.
            let first = self.batch.map_or(self.next_used, |batch| batch.first);
            self.batch = Some(Batch { first, last: chain.id });
        } else {
            self.write_batch(hook);
            self.write_slot(hook, self.next_used, chain.id, written);
        }
        if H::ACTIVE
            && self.heads.len() < self.heads.capacity()
            && let Some(head) = DescId::below(self.next_used.slot(), self.size)
        {
            self.heads.push(head);
        }
        self.next_used = self.next_used.advance(chain.slots, self.size);
        self.unpublished = self.unpublished.wrapping_add(chain.slots);
    }

    /// Says in our event area when the driver is to kick.
    #[inline]
    fn say(&mut self, event: Event) {
        if self.said != Some(event) {
            self.said = Some(event);
            self.device_event.store_u32(0, event.to_word());
        }
    }

    /// Where its private memory lies, for the test of the layout.
    #[cfg(test)]
    pub(crate) fn lines(&self, to: &mut Vec<std::ops::Range<usize>>) {
        let heads = apart::lines(&*self.heads).start;
        to.extend([heads..heads + size_of::<DescId>() * usize::from(self.size.get()), self.taken.lines()]);
        self.tables.iter().for_each(|tables| tables.lines(to));
    }
}

impl<W: Words> DeviceRing for PackedVring<W> {
    /// One Acquire load of the slot where the next chain begins.
    #[inline]
    fn poll(&mut self) -> Result<u16, RingFault> {
        self.heads.clear();
        self.look()
    }

    #[inline]
    fn available(&self) -> u16 {
        u16::from(self.seen.is_some())
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.in_use() >= self.size.get()
    }

    #[inline]
    fn next_chain(&mut self, out: &mut Chain) -> Result<bool, RingFault> {
        if self.look()? == 0 {
            return Ok(false);
        }
        let Some(first) = self.seen.take() else { return Ok(false) };
        match self.walk(first, out) {
            Ok(slots) => {
                self.next_avail = self.next_avail.advance(slots, self.size);
                self.taken.push_back(Taken { slots, first });
                Ok(true)
            }
            Err(fault) => Err(self.fail(fault)),
        }
    }

    #[inline(always)]
    fn next_singles<'m, const FILLS: bool>(
        &mut self,
        memory: &mut HotRegion<'m>,
        out: &mut [Single<'m>],
        fit: impl FnMut(Bytes<'m>) -> bool,
    ) -> u16 {
        self.take_singles::<FILLS>(memory, out, fit)
    }

    #[inline(always)]
    fn end_singles<H: Hook, const FILLS: bool>(&mut self, hook: &mut H, done: &[Single<'_>], back: &[Single<'_>]) {
        self.give_singles::<H, FILLS>(hook, done, back);
    }

    #[inline(always)]
    fn next_single<'m, const FILLS: bool>(
        &mut self,
        memory: &mut HotRegion<'m>,
        fit: impl FnOnce(Bytes<'m>) -> bool,
    ) -> Option<Single<'m>> {
        self.take_single::<FILLS>(memory, fit)
    }

    #[inline(always)]
    fn end_single<H: Hook, const FILLS: bool>(&mut self, hook: &mut H, done: Single<'_>) {
        self.give_back(hook, done.at::<FILLS>(), done.length::<FILLS>());
    }

    #[inline]
    fn undo_last(&mut self, chains: u16) {
        debug_assert!(usize::from(chains) <= self.taken.len(), "there are so many chains that were taken");
        for _ in 0..chains {
            let Some(Taken { first, .. }) = self.taken.pop_back() else { break };
            self.seen = self.fault.is_none().then_some(first);
        }
        let in_use = self.taken.iter().fold(0u16, |sum, taken| sum.wrapping_add(taken.slots));
        self.next_avail = self.next_used.advance(in_use, self.size);
    }

    #[inline(always)]
    fn complete<H: Hook>(&mut self, hook: &mut H, chain: ChainRef, written: u32) {
        let oldest = self.taken.pop_front();
        debug_assert_eq!(oldest.map(|taken| taken.slots), Some(chain.slots), "chains are completed as they were taken");
        self.give_back(hook, chain, written);
    }

    /// One store of the flags of the first used slot. The Release store pairs with the driver's Acquire load: it orders the
    /// other used slots, and the bytes written into the buffers, before them.
    #[inline]
    fn publish<H: Hook>(&mut self, hook: &mut H) -> u16 {
        self.write_batch(hook);
        let Some((offset, word)) = self.first.take() else { return 0 };
        self.ring.publish_u64(offset, hook.first_slot(self.queue, SlotRest::from_word(word)).to_word());
        self.shown = self.next_used;
        let slots = std::mem::take(&mut self.unpublished);
        self.unasked = self.unasked.saturating_add(slots);
        std::mem::take(&mut self.entries)
    }

    #[inline]
    fn should_call(&mut self) -> bool {
        let steps = std::mem::take(&mut self.unasked).min(self.size.get());
        // Orders our store of used slots before our load of the driver's event area. Its partner is the driver's fence
        // between its store of that area and its last look at the slots: one of the two sees the other's store.
        fence_handshake();
        boundary::wants_call_packed(&self.driver_event, self.shown, steps, self.size, self.event_idx)
    }

    fn arm_kick(&mut self) {
        // The event is where the driver goes on. Where that is, is not known while slots are at hand that were found available and left
        // there for want of more: then any is one.
        self.say(if self.event_idx && self.seen.is_none() {
            Event { off_wrap: self.next_avail.to_bits(), flags: EVENT_F_DESC }
        } else {
            Event { off_wrap: 0, flags: EVENT_F_ENABLE }
        });
        // Orders our store of the event area before our next load of a slot. Its partner is the driver's fence between its
        // store of the slots and its load of that area: one of the two sees the other's store.
        fence_handshake();
    }

    #[inline]
    fn suppress_kicks(&mut self) {
        self.say(Event { off_wrap: 0, flags: EVENT_F_DISABLE });
    }

    #[inline]
    fn kicks_are_suppressed(&self) -> bool {
        self.said.is_some_and(|event| event.flags == EVENT_F_DISABLE)
    }

    fn stop(&mut self) -> u16 {
        debug_assert!(self.taken.is_empty(), "everything that was taken is completed");
        self.seen = None;
        self.next_avail = self.next_used;
        self.next_used.to_bits()
    }

    #[cold]
    fn fail(&mut self, fault: RingFault) -> RingFault {
        self.seen = None;
        *self.fault.get_or_insert(fault)
    }

    #[inline]
    fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    #[inline]
    fn queue(&self) -> usize {
        self.queue
    }

    #[inline]
    fn size(&self) -> QueueSize {
        self.size
    }
}

/// The second word of a used slot.
#[inline(always)]
fn used_rest(at: PackedPosition, id: u16, written: u32) -> SlotRest {
    let write = if written > 0 { DESC_F_WRITE } else { 0 };
    SlotRest { len: written, id, flags: used_flags(at.wrap()) | write }
}

fn check_areas<W: Words>(size: QueueSize, ring: &W, driver_event: &W, device_event: &W) -> Result<(), Misuse> {
    check_area(ring, ring_bytes(size), RING_ALIGN)?;
    check_area(driver_event, EVENT_BYTES, EVENT_ALIGN)?;
    check_area(device_event, EVENT_BYTES, EVENT_ALIGN)
}
