//! A packed queue of single slots that believes what the device leaves in them.
//!
//! A used slot has the id and the length and nothing else of the chain, so where the buffer of an id lies stands in a private
//! table, as in every driver; the id indexes it as it comes.

use ironring_common::index::{DescId, PackedPosition, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::lane::{Element, Lane};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{
    DESC_F_WRITE, EVENT_F_DISABLE, Event, SLOT_BYTES, SLOT_REST, SlotRest, avail_flags, is_used,
};
use ironring_driver::mapper::slots::FixedSlots;
use ironring_driver::queue::packed::PackedAreas;

use super::{AHEAD, FreeIds};

#[derive(Debug)]
pub(super) struct PackedQueue {
    size: QueueSize,
    ring: Area,
    base: u64,
    /// Where the slot of each id lies.
    places: Box<[usize]>,
    slot_bytes: u32,
    free: FreeIds,
    next_avail: PackedPosition,
    next_used: PackedPosition,
    /// Slots that were posted and are not back.
    held: u16,
    /// Slots that are not written yet: number, address, the rest.
    staged: Vec<(usize, u64, u64)>,
    /// The id of the next completion in order.
    oldest: u16,
    in_order: bool,
}

impl PackedQueue {
    /// An empty queue over zeroed areas.
    pub(super) fn new(size: QueueSize, areas: PackedAreas<Area>, slots: FixedSlots, in_order: bool) -> Self {
        let PackedAreas { ring, driver_event, .. } = areas;
        driver_event.store_u32(0, Event { off_wrap: 0, flags: EVENT_F_DISABLE }.to_word());
        let ids = || (0..size.get()).filter_map(|id| DescId::below(id, size));
        Self {
            size,
            ring,
            base: slots.addr(DescId::FIRST).0 - slots.offset(DescId::FIRST) as u64,
            places: ids().map(|id| slots.offset(id)).collect(),
            slot_bytes: slots.len(),
            free: FreeIds::full(size),
            next_avail: PackedPosition::START,
            next_used: PackedPosition::START,
            held: 0,
            staged: Vec::with_capacity(usize::from(size.get())),
            oldest: 0,
            in_order,
        }
    }

    /// Posts every slot for the device to write, each of `bytes`, and shows them.
    pub(super) fn post_all(&mut self, bytes: u32) {
        self.post(DESC_F_WRITE, std::iter::repeat_n(bytes, usize::from(self.size.get())), |_| {}, |_| {});
        self.publish();
    }

    /// Posts a slot with these `flags` for each of `lens`, of so many bytes, until none is free; tells `each` where it lies, and
    /// `soon` some slots before. How many.
    #[inline(always)]
    pub(super) fn post(
        &mut self,
        flags: u16,
        lens: impl Iterator<Item = u32>,
        mut soon: impl FnMut(usize),
        mut each: impl FnMut(usize),
    ) -> usize {
        let ring = self.ring.view();
        let (size, mut at, mut posted) = (self.size, self.next_avail, 0usize);
        // The lines of slots, in the order in which they are written.
        let (first, count) = (usize::from(at.slot()), lens.size_hint().0.min(self.free.len()));
        for slot in (first..first + count).filter(|slot| *slot == first || slot.is_multiple_of(4)) {
            ring.prefetch(slot % usize::from(size.get()) * SLOT_BYTES, true);
        }
        let place_of = |id: u16| self.places[usize::from(id)];
        self.free.not_asked().for_each(|id| soon(place_of(id)));
        for len in lens {
            if let Some(later) = self.free.later(AHEAD) {
                soon(place_of(later));
            }
            let Some(id) = self.free.pop() else { break };
            let place = place_of(id);
            stage(&mut self.staged, at, self.base, (id, place), len, flags);
            at = at.advance(1, size);
            posted += 1;
            each(place);
        }
        self.next_avail = at;
        self.free.end_asking();
        posted
    }

    /// Writes what was posted and shows it to the device: the flags of the first slot come last.
    #[inline(always)]
    pub(super) fn publish(&mut self) {
        let Some((first, others)) = self.staged.split_first() else { return };
        let slots = self.ring.lane::<2>(0, SLOT_BYTES, usize::from(self.size.get()));
        slots.store_u64::<0>(first.0, first.1);
        // One after the other, to the end of the ring and then from its start.
        let (behind, from_start) = others.split_at(others.len().min(usize::from(self.size.get()) - first.0 - 1));
        for (at, run) in [(first.0 + 1, behind), (0, from_start)] {
            for ((_, addr, rest), slot) in slots.along(at, run) {
                slot.store_u64::<0>(*addr);
                slot.store_u64::<1>(*rest);
            }
        }
        // Release: orders the other slots and the buffers before these flags.
        self.ring.store_u64_release(first.0 * SLOT_BYTES + SLOT_REST, first.2);
        self.held += u16::try_from(self.staged.len()).unwrap_or(0);
        self.staged.clear();
    }

    /// Frees what the device says it is done with. How many.
    #[inline(always)]
    pub(super) fn reclaim(&mut self) -> usize {
        let rests = self.ring.lane::<1>(SLOT_REST, SLOT_BYTES, usize::from(self.size.get()));
        let (size, mut at, mut done) = (self.size, self.next_used, 0u16);
        while done < self.held {
            // Acquire: orders the loads of buffers after it.
            let SlotRest { id, flags, .. } = SlotRest::from_word(rests.load_u64_acquire::<0>(usize::from(at.slot())));
            if !is_used(flags, at.wrap()) {
                break;
            }
            let chains = if self.in_order {
                // It names the last one of those that are done.
                let chains = (id.wrapping_sub(self.oldest) & (size.get() - 1)) + 1;
                for _ in 0..chains {
                    self.free.push(self.oldest);
                    self.oldest = (self.oldest + 1) & (size.get() - 1);
                }
                chains
            } else {
                self.free.push(id);
                1
            };
            at = at.advance(chains, size);
            done = done.wrapping_add(chains);
        }
        self.next_used = at;
        self.held = self.held.wrapping_sub(done);
        usize::from(done)
    }

    /// Takes completed slots, at most `most`, tells `each` where and how long each is, and posts it again as it was. Each has a
    /// slot of its own, also in order, for it has a length of its own.
    #[inline(always)]
    pub(super) fn exchange(&mut self, most: usize, mut each: impl FnMut(usize, u32)) -> usize {
        let ring = self.ring.view();
        let rests = self.ring.lane::<1>(SLOT_REST, SLOT_BYTES, usize::from(self.size.get()));
        let (size, mut at, mut to, mut done) = (self.size, self.next_used, self.next_avail, 0u16);
        while usize::from(done) < most && done < self.held {
            let SlotRest { id, flags, len } = SlotRest::from_word(rests.load_u64_acquire::<0>(usize::from(at.slot())));
            if !is_used(flags, at.wrap()) {
                break;
            }
            let place = self.places[usize::from(id)];
            if to.slot().is_multiple_of(4) {
                ring.prefetch(usize::from(to.slot()) * SLOT_BYTES, true);
            }
            stage(&mut self.staged, to, self.base, (id, place), self.slot_bytes, DESC_F_WRITE);
            each(place, len);
            (at, to) = (at.advance(1, size), to.advance(1, size));
            done += 1;
        }
        (self.next_used, self.next_avail) = (at, to);
        self.held -= done;
        usize::from(done)
    }

    pub(super) const fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) const fn outstanding(&self) -> u16 {
        self.held
    }
}

/// Keeps a slot to be written.
#[inline(always)]
fn stage(
    staged: &mut Vec<(usize, u64, u64)>,
    at: PackedPosition,
    base: u64,
    (id, place): (u16, usize),
    len: u32,
    flags: u16,
) {
    let number = usize::from(at.slot());
    if staged.len() < staged.capacity() {
        let rest = SlotRest { len, id, flags: flags | avail_flags(at.wrap()) };
        staged.push((number, base.wrapping_add(place as u64), rest.to_word()));
    }
}
