//! Noting the chains that a driver makes available.

use ironring_common::index::{DescId, GuestAddr, PackedPosition};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::is_avail;
use ironring_common::spec::split::{DESC_BYTES, DESC_F_INDIRECT, DESC_F_NEXT};

use super::{Book, Owner, Posted, Rest};
use crate::hostile::words::{self, Fields, Word};
use crate::vring::hook::{Parts, RingMemory};

impl Book {
    /// Notes the chains that are new in the ring. Undoes what was struck in them: they are the device's now, and about to be
    /// walked.
    pub(in crate::hostile) fn admit(&mut self, ring: &RingMemory<'_>) {
        self.memory = ring.memory.clone();
        match (&mut self.rest, ring.parts) {
            (Rest::Split { avail, .. }, Parts::Split { desc, avail: now, .. }) => {
                *avail = now.clone();
                self.table = desc.clone();
                self.admit_split();
            }
            (Rest::Packed { .. }, Parts::Packed { ring: slots, .. }) => {
                self.table = slots.clone();
                self.admit_packed();
            }
            // A ring does not change its layout while it runs.
            _ => {}
        }
    }

    /// The device has taken the chain at `head`: notes it, if it was added after the last look.
    pub(in crate::hostile) fn catch_up(&mut self, head: DescId) {
        if self.is_packed() && !self.is_posted(head) {
            self.admit_packed();
        }
    }

    fn admit_split(&mut self) {
        let Rest::Split { avail, cursor } = &mut self.rest else { return };
        let (avail, mut at) = (avail.clone(), *cursor);
        let new = words::avail_idx(&avail).wrapping_sub(at);
        if new > self.size.get() {
            // The honest ring finds the same, and latches it.
            return;
        }
        *cursor = at.wrapping_add(new);
        for _ in 0..new {
            let head = words::avail_entry(&avail, at, self.size);
            at = at.wrapping_add(1);
            if let Some(head) = head {
                let size = self.size;
                self.admit_chain(head, |_, fields| DescId::below(fields.link, size));
            }
        }
    }

    fn admit_packed(&mut self) {
        for _ in 0..self.size.get() {
            let Rest::Packed { cursor } = self.rest else { return };
            let Some(head) = DescId::below(cursor.slot(), self.size) else { return };
            // A slot that the device has was not given to it again.
            if self.is_posted(head) || !is_avail(words::slot(&self.table, head).flags, cursor.wrap()) {
                return;
            }
            let size = self.size;
            let slots = self.admit_chain(head, |id, _| {
                let next = id.get().wrapping_add(1);
                DescId::below(if next == size.get() { 0 } else { next }, size)
            });
            self.rest = Rest::Packed { cursor: cursor.advance(slots.max(1), self.size) };
        }
    }

    /// Notes the chain that begins at `head` and goes on at the `next` of each place. Returns how many places it takes.
    fn admit_chain(&mut self, head: DescId, next: impl Fn(DescId, Fields) -> Option<DescId>) -> u16 {
        let mut posted = Posted { age: self.chains, id: head.get(), ..Posted::default() };
        self.chains = self.chains.wrapping_add(1);
        let mut id = head;
        let mut taken = 0u16;
        while taken < self.size.get() {
            taken = taken.wrapping_add(1);
            self.undo(id);
            let addr = words::load(&self.table, id, Word::Address);
            let fields = self.fields(id);
            if let Some(place) = self.places.get_mut(id.index()) {
                place.owner = Owner::Device;
            }
            if self.is_packed() {
                // The last slot's id is the chain's (2.8.6).
                posted.id = fields.link;
            }
            if fields.flags & DESC_F_INDIRECT != 0 {
                posted.ids.push(id);
                self.admit_table(&mut posted, GuestAddr(addr), fields.len);
                break;
            }
            posted.push_place(id, addr, fields);
            match next(id, fields) {
                Some(next) if fields.flags & DESC_F_NEXT != 0 => id = next,
                _ => break,
            }
        }
        if self.keeps_bytes && posted.writable_len > 0 {
            let (addr, len) = posted.buffer;
            let bytes = self.memory.bytes(addr, len);
            posted.before = vec![0; bytes.as_ref().map_or(0, Words::len)];
            bytes.into_iter().for_each(|bytes| bytes.copy_out(0, &mut posted.before));
        }
        if let Some(owner) = self.ids.get_mut(usize::from(posted.id)) {
            *owner = Owner::Device;
        }
        if let Some(place) = self.places.get_mut(head.index()) {
            place.chain = Some(posted);
        }
        taken
    }

    /// Notes the buffers in an indirect table, in the order of its entries, which is that of drivers.
    fn admit_table(&mut self, posted: &mut Posted, addr: GuestAddr, len: u32) {
        self.undo_table(addr);
        let entries = usize::try_from(len).unwrap_or(0).checked_div(DESC_BYTES).unwrap_or(0);
        let entries = entries.min(usize::from(self.size.get()));
        let Some(table) = self.memory.area(addr, entries.wrapping_mul(DESC_BYTES)) else { return };
        for entry in 0..entries {
            let at = entry.wrapping_mul(DESC_BYTES);
            let [addr, rest] = [table.load_u64(at), table.load_u64(at.wrapping_add(8))];
            posted.push_buffer(addr, Fields::from_word(rest, self.is_packed()));
        }
        posted.table = u16::try_from(entries).ok().map(|entries| (addr, entries));
    }

    /// What the chains are given back by that were made available since the last look.
    pub(super) fn newer(&self) -> Vec<u16> {
        match &self.rest {
            Rest::Split { avail, cursor } => {
                let newer = words::avail_idx(avail).wrapping_sub(*cursor).min(self.size.get());
                let head = |n| words::avail_entry(avail, cursor.wrapping_add(n), self.size).map(DescId::get);
                (0..newer).filter_map(head).collect()
            }
            Rest::Packed { cursor } => self.newer_slots(*cursor),
        }
    }

    fn newer_slots(&self, cursor: PackedPosition) -> Vec<u16> {
        let mut at = cursor;
        let mut ids = Vec::new();
        for _ in 0..self.size.get() {
            let slot = DescId::below(at.slot(), self.size).filter(|slot| !self.is_posted(*slot));
            let Some(slot) = slot.map(|slot| words::slot(&self.table, slot)) else { break };
            if !is_avail(slot.flags, at.wrap()) {
                break;
            }
            ids.push(slot.id);
            at = at.advance(1, self.size);
        }
        ids
    }
}
