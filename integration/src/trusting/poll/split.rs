//! A split queue of single slots whose memory is the shared table and the shared rings.

use ironring_common::index::{DescId, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::lane::Lane;
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{
    AVAIL_ENTRY_BYTES, AVAIL_F_NO_INTERRUPT, AVAIL_FLAGS, AVAIL_IDX, AVAIL_RING, DESC_BYTES, DESC_F_WRITE, Descriptor,
    USED_ELEM_BYTES, USED_IDX, USED_RING, UsedElem,
};
use ironring_driver::mapper::slots::FixedSlots;
use ironring_driver::queue::split::SplitAreas;

use super::{AHEAD, FreeIds};

#[derive(Debug)]
pub(super) struct SplitQueue {
    size: usize,
    areas: SplitAreas<Area>,
    /// The address of the first slot.
    base: u64,
    free: FreeIds,
    next_avail: u16,
    published: u16,
    next_used: u16,
    seen_used: u16,
    in_order: bool,
}

impl SplitQueue {
    /// An empty queue over zeroed areas: each descriptor says where its slot lies.
    pub(super) fn new(size: QueueSize, areas: SplitAreas<Area>, slots: FixedSlots, in_order: bool) -> Self {
        let base = slots.addr(DescId::FIRST).0 - slots.offset(DescId::FIRST) as u64;
        for id in (0..size.get()).filter_map(|id| DescId::below(id, size)) {
            areas.desc.store_u64(id.index() * DESC_BYTES, slots.addr(id).0);
        }
        areas.avail.store_u16(AVAIL_FLAGS, AVAIL_F_NO_INTERRUPT);
        let (size, free) = (usize::from(size.get()), FreeIds::full(size));
        Self { size, areas, base, free, next_avail: 0, published: 0, next_used: 0, seen_used: 0, in_order }
    }

    /// Posts every slot for the device to write, each of `bytes`, and shows them.
    pub(super) fn post_all(&mut self, bytes: u32) {
        self.post(DESC_F_WRITE, std::iter::repeat_n(bytes, self.size), |_| {}, |_| {});
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
        let descs = self.areas.desc.lane::<2>(0, DESC_BYTES, self.size);
        let avail = self.areas.avail.view();
        let (mask, mut at, base) = (self.size - 1, self.next_avail, self.base);
        let place = |id: u16| offset(descs.load_u64::<0>(usize::from(id)), base);
        self.free.not_asked().for_each(|id| soon(place(id)));
        for len in lens {
            if let Some(later) = self.free.later(AHEAD) {
                soon(place(later));
            }
            let Some(id) = self.free.pop() else { break };
            each(place(id));
            let id = usize::from(id);
            let [_, rest] = Descriptor { addr: 0, len, flags, next: 0 }.to_words();
            // What stands there is what was written there.
            if descs.load_u64::<1>(id) != rest {
                descs.store_u64::<1>(id, rest);
            }
            enter(&avail, usize::from(at) & mask, id);
            at = at.wrapping_add(1);
        }
        self.free.end_asking();
        let posted = at.wrapping_sub(self.next_avail);
        self.next_avail = at;
        usize::from(posted)
    }

    /// Shows the device what was posted.
    #[inline(always)]
    pub(super) fn publish(&mut self) {
        if self.published != self.next_avail {
            // Release: orders descriptors, entries and buffers before the index.
            self.areas.avail.store_u16_release(AVAIL_IDX, self.next_avail);
            self.published = self.next_avail;
        }
    }

    /// Frees what the device says it is done with. How many.
    #[inline(always)]
    pub(super) fn reclaim(&mut self) -> usize {
        let there = self.look(u16::MAX);
        let (mask, mut at) = (self.size - 1, self.next_used);
        let avail = self.areas.avail.view();
        let elements = self.areas.used.lane::<1>(USED_RING, USED_ELEM_BYTES, self.size);
        for _ in 0..there {
            let place = usize::from(at) & mask;
            // In order, the oldest entries are done, as many as the index says.
            let id = if self.in_order {
                avail.load_u16(AVAIL_RING + AVAIL_ENTRY_BYTES * place)
            } else {
                low(UsedElem::from_word(elements.load_u64::<0>(place)).id)
            };
            self.free.push(id);
            at = at.wrapping_add(1);
        }
        self.next_used = at;
        usize::from(there)
    }

    /// Takes completed slots, at most `most`, tells `each` where and how long each is, and posts it again as it was.
    #[inline(always)]
    pub(super) fn exchange(&mut self, most: usize, mut each: impl FnMut(usize, u32)) -> usize {
        let there = self.look(u16::try_from(most).unwrap_or(u16::MAX));
        let (mask, base, mut at, mut to) = (self.size - 1, self.base, self.next_used, self.next_avail);
        let avail = self.areas.avail.view();
        let addrs = self.areas.desc.lane::<1>(0, DESC_BYTES, self.size);
        let elements = self.areas.used.lane::<1>(USED_RING, USED_ELEM_BYTES, self.size);
        for _ in 0..there {
            let UsedElem { id, len } = UsedElem::from_word(elements.load_u64::<0>(usize::from(at) & mask));
            let id = id as usize;
            each(offset(addrs.load_u64::<0>(id), base), len);
            enter(&avail, usize::from(to) & mask, id);
            (at, to) = (at.wrapping_add(1), to.wrapping_add(1));
        }
        (self.next_used, self.next_avail) = (at, to);
        usize::from(there)
    }

    /// How many completions there are, at most `most`. Loads the index only if those seen before are fewer.
    #[inline(always)]
    fn look(&mut self, most: u16) -> u16 {
        let seen = self.seen_used.wrapping_sub(self.next_used);
        if seen >= most {
            return most;
        }
        let used = self.areas.used.view();
        // Acquire: orders the loads of the elements after it.
        let index = used.load_u16_acquire(USED_IDX);
        let more = index.wrapping_sub(self.seen_used);
        let first = USED_ELEM_BYTES * (usize::from(self.seen_used) & (self.size - 1));
        for at in (first..first + USED_ELEM_BYTES * usize::from(more.min(64))).step_by(64) {
            used.prefetch(at + USED_RING, false);
        }
        self.seen_used = index;
        seen.wrapping_add(more).min(most)
    }

    pub(super) const fn free(&self) -> usize {
        self.free.len()
    }

    pub(super) const fn outstanding(&self) -> u16 {
        self.published.wrapping_sub(self.next_used)
    }
}

/// Puts an id into a place of the available ring, unless it stands there.
#[inline(always)]
fn enter(avail: &impl Words, place: usize, id: usize) {
    let at = AVAIL_RING + AVAIL_ENTRY_BYTES * place;
    let id = u16::try_from(id).unwrap_or(u16::MAX);
    if avail.load_u16(at) != id {
        avail.store_u16(at, id);
    }
}

/// Where in the slots an address of theirs lies.
#[inline(always)]
fn offset(addr: u64, base: u64) -> usize {
    usize::try_from(addr.wrapping_sub(base)).unwrap_or(usize::MAX)
}

/// An id of 16 bits.
#[inline(always)]
fn low(id: u32) -> u16 {
    u16::try_from(id & 0xffff).unwrap_or(0)
}
