//! The trusting packed ring.
//!
//! An honest device overwrites slots with its own length, id and flags: one for each chain, not always one of that chain.
//! So even a trusting driver keeps those private for slots whose flags say used, and saves what stands in a slot that it
//! posts again while the chain is still out. Everything else it reads back when the chain completes: the address of every
//! buffer, the length and the flags of those that were not overwritten, and with `NEXT` how many slots the chain has, and
//! so where the next completion is to be found.

use std::collections::VecDeque;

use ironring_common::index::{DescId, GuestAddr, PackedPosition, QueueSize};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{
    self, DESC_F_AVAIL, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_USED, DESC_F_WRITE, EVENT_F_DESC, EVENT_F_DISABLE, Event,
    SLOT_ADDR, SLOT_BYTES, SLOT_REST, SlotRest,
};
use ironring_driver::mapper::Mapper;
use ironring_driver::queue::packed::PackedAreas;

use super::tables::{Layout, TableSet};
use super::{Bite, Entry, Options, desc_id, directed, in_range, write_flag};

/// A packed virtqueue that reads back what it wrote.
#[derive(Debug)]
pub struct TrustingPackedRing<W> {
    size: QueueSize,
    areas: PackedAreas<W>,
    event_idx: bool,
    in_order: bool,
    next_avail: PackedPosition,
    last_used: PackedPosition,
    /// Slots that it thinks are free.
    free: u16,
    /// Ids to give out: those that completed, as the device said them.
    free_ids: Vec<u16>,
    /// The cookie of each id, as `desc_state[].data`.
    data: Vec<Option<u64>>,
    /// Where the chain of each id was posted.
    chains: Vec<Vec<Piece>>,
    /// The piece of a chain in flight whose words still stand in a slot.
    tenants: Vec<Option<Tenant>>,
    /// Slots that the device has not been shown, oldest first, with the wrap counter and the flags as stored.
    pending: Vec<(u16, bool, u16)>,
    /// Slots shown since the last question whether to kick.
    pub(super) since_kick: u16,
    tables: TableSet<W>,
    /// With completions in order: ids that are out, oldest first.
    order: VecDeque<u16>,
    /// Writable bytes of each id.
    posted: Vec<u32>,
    /// The used slot whose id was not met yet among the oldest ids.
    batch: Option<Used>,
    /// The watcher's own book of what is in flight. The ring does not look at it.
    in_flight: Vec<bool>,
}

/// What the device said in a used slot.
#[derive(Clone, Copy, Debug)]
struct Used {
    id: u16,
    len: u32,
}

/// A buffer of a chain that is out.
#[derive(Clone, Copy, Debug)]
struct Piece {
    slot: u16,
    /// The wrap counter with which it was posted.
    wrap: bool,
    /// As posted, or as saved. The ring looks only at the part that it cannot read back.
    entry: Entry,
    /// Another chain was posted in the slot, and nothing is left there to read.
    saved: bool,
}

/// Which piece of which chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tenant {
    id: u16,
    piece: usize,
}

impl<W: Words> TrustingPackedRing<W> {
    /// An empty ring over zeroed areas.
    pub fn new(size: QueueSize, areas: PackedAreas<W>, options: Options<W>) -> Self {
        let entries = usize::from(size.get());
        areas.driver_event.store_u32(0, Event::default().to_word());
        Self {
            size,
            areas,
            event_idx: options.event_idx,
            in_order: options.in_order,
            next_avail: PackedPosition::START,
            last_used: PackedPosition::START,
            free: size.get(),
            free_ids: (0..size.get()).rev().collect(),
            data: vec![None; entries],
            chains: vec![Vec::new(); entries],
            tenants: vec![None; entries],
            pending: Vec::new(),
            since_kick: 0,
            tables: TableSet::new(options.tables, Layout::Packed, size),
            order: VecDeque::new(),
            posted: vec![0; entries],
            batch: None,
            in_flight: vec![false; entries],
        }
    }

    /// Posts a chain.
    ///
    /// # Errors
    /// `Ok(false)` if the queue or the mapper is full, [`Bite`] if the device made it stumble.
    pub fn add<M: Mapper>(
        &mut self,
        mapper: &mut M,
        readable: &[M::Buffer],
        writable: &[M::Buffer],
        token: u64,
    ) -> Result<bool, Bite> {
        let total = readable.len() + writable.len();
        let indirect = self.tables.takes(total);
        let slots = u16::try_from(if indirect { 1 } else { total }).unwrap_or(u16::MAX);
        if slots == 0 || slots > self.free {
            return Ok(false);
        }
        let Some(id) = self.free_ids.pop() else { return Ok(false) };
        // The list is private, but what stands in it was the device's word.
        in_range("taking a free id", id, self.size.get())?;
        if std::mem::replace(&mut self.in_flight[usize::from(id)], true) {
            return Err(Bite::Aliased { id });
        }
        let bytes = if indirect {
            self.add_table(mapper, id, readable, writable)?
        } else {
            self.add_chain(mapper, id, readable, writable)?
        };
        let Some(bytes) = bytes else {
            self.in_flight[usize::from(id)] = false;
            self.free_ids.push(id);
            return Ok(false);
        };
        self.show_later(id);
        self.next_avail = self.next_avail.advance(slots, self.size);
        self.free -= slots;
        self.data[usize::from(id)] = Some(token);
        self.posted[usize::from(id)] = bytes;
        if self.in_order {
            self.order.push_back(id);
        }
        Ok(true)
    }

    /// Posts each buffer in a slot of its own. Returns the writable bytes, `None` if the mapper is full.
    fn add_chain<M: Mapper>(
        &mut self,
        mapper: &mut M,
        id: u16,
        readable: &[M::Buffer],
        writable: &[M::Buffer],
    ) -> Result<Option<u32>, Bite> {
        let desc_id = desc_id(id, self.size)?;
        let mut at = self.next_avail;
        let mut bytes = 0u32;
        for (buffer, direction) in directed(readable, writable) {
            let Ok(mapped) = mapper.map(desc_id, buffer, direction) else {
                self.unwind(mapper, id)?;
                return Ok(None);
            };
            let flags = write_flag(direction) | DESC_F_NEXT;
            self.put(id, at, Entry { addr: mapped.addr.0, len: mapped.len, flags });
            bytes = bytes.saturating_add(if flags & DESC_F_WRITE == 0 { 0 } else { mapped.len });
            at = at.advance(1, self.size);
        }
        // The last one's flags are read, changed and written back.
        if let Some(tail) = self.chains[usize::from(id)].last_mut() {
            tail.entry.flags &= !DESC_F_NEXT;
            let slot = tail.slot;
            let rest = self.load_rest(slot);
            self.store_rest(slot, SlotRest { flags: rest.flags & !DESC_F_NEXT, ..rest });
        }
        Ok(Some(bytes))
    }

    /// Posts the buffers in a table, and one slot for it. Returns the writable bytes, `None` if the mapper is full.
    fn add_table<M: Mapper>(
        &mut self,
        mapper: &mut M,
        id: u16,
        readable: &[M::Buffer],
        writable: &[M::Buffer],
    ) -> Result<Option<u32>, Bite> {
        let desc_id = desc_id(id, self.size)?;
        let table = self.tables.fill(mapper, desc_id, directed(readable, writable))?;
        Ok(table.map(|table| {
            self.put(id, self.next_avail, Entry { addr: table.addr, len: table.len, flags: DESC_F_INDIRECT });
            table.writable
        }))
    }

    /// Stores a buffer in a slot, not yet available: the flags are those of the round before.
    fn put(&mut self, id: u16, at: PackedPosition, entry: Entry) {
        let slot = at.slot();
        if let Some(Tenant { id, piece }) = self.tenants[usize::from(slot)] {
            // Out of order: the slot is free and the chain that was posted there is still out.
            let entry = self.read(self.chains[usize::from(id)][piece]);
            let saved = &mut self.chains[usize::from(id)][piece];
            *saved = Piece { entry, saved: true, ..*saved };
        }
        let chain = &mut self.chains[usize::from(id)];
        self.tenants[usize::from(slot)] = Some(Tenant { id, piece: chain.len() });
        chain.push(Piece { slot, wrap: at.wrap(), entry, saved: false });
        self.areas.ring.store_u64(usize::from(slot) * SLOT_BYTES + SLOT_ADDR, entry.addr);
        let flags = entry.flags | packed::used_flags(!at.wrap());
        self.store_rest(slot, SlotRest { len: entry.len, id, flags });
    }

    /// Notes the slots of a chain for [`publish`](Self::publish).
    fn show_later(&mut self, id: u16) {
        for Piece { slot, wrap, entry, .. } in &self.chains[usize::from(id)] {
            self.pending.push((*slot, *wrap, entry.flags | packed::used_flags(!wrap)));
        }
    }

    /// Shows the device what was added, the first slot last, by changing the flags in the ring.
    ///
    /// # Errors
    /// [`Bite::GarbageFlags`] if they were not what this side had left there.
    pub fn publish(&mut self) -> Result<(), Bite> {
        for (slot, wrap, expected) in std::mem::take(&mut self.pending).into_iter().rev() {
            let rest = self.load_rest(slot);
            let flags = rest.flags & !(DESC_F_AVAIL | DESC_F_USED) | packed::avail_flags(wrap);
            self.store_rest(slot, SlotRest { flags, ..rest });
            self.since_kick = self.since_kick.saturating_add(1);
            if rest.flags != expected {
                return Err(Bite::GarbageFlags { slot, flags: rest.flags, expected });
            }
        }
        Ok(())
    }

    /// Whether the device wants to be kicked for what was published since the last question.
    ///
    /// # Errors
    /// [`Bite::Underflow`] if the device's event is not in the ring. Linux subtracts modulo 2^16 and loses a kick.
    pub fn should_kick(&mut self) -> Result<bool, Bite> {
        let slots = std::mem::take(&mut self.since_kick);
        let Event { off_wrap, flags } = Event::from_word(self.areas.device_event.load_u32(0));
        if slots == 0 || !self.event_idx || flags != EVENT_F_DESC {
            return Ok(slots != 0 && flags != EVENT_F_DISABLE);
        }
        let (off, wrap) = (off_wrap & !(1 << 15), off_wrap >> 15 != 0);
        // How far back the event lies: to the end of the ring first, if it was in the round before.
        let back = if wrap == self.next_avail.wrap() {
            self.next_avail.slot().wrapping_sub(off)
        } else {
            let doing = "counting the slots from the device's event to the end of the ring";
            let underflow = Bite::Underflow { doing, minuend: self.size.get(), subtrahend: off };
            self.size.get().checked_sub(off).ok_or(underflow)?.wrapping_add(self.next_avail.slot())
        };
        Ok(back != 0 && back <= slots)
    }

    /// Takes a completion: the cookie, and the length as the device says it.
    ///
    /// # Errors
    /// [`Bite`].
    pub fn take<M: Mapper>(&mut self, mapper: &mut M) -> Result<Option<(u64, u32)>, Bite> {
        if self.in_order {
            return self.take_in_order(mapper);
        }
        let Some(Used { id, len }) = self.load_used() else { return Ok(None) };
        let slot = self.last_used.slot();
        in_range("finding a request", id, self.size.get())?;
        let token = self.data[usize::from(id)].take().ok_or(Bite::NoSuchRequest { id: id.into() })?;
        self.detach(mapper, id)?;
        // The id is loaded again: what was looked up is not what is freed if the device is quick.
        self.free_ids.push(self.load_rest(slot).id);
        Ok(Some((token, len)))
    }

    /// Completes the oldest request, and the next, until the one that the used slot names. Those before it count as
    /// full; an id that is not out completes all of them.
    fn take_in_order<M: Mapper>(&mut self, mapper: &mut M) -> Result<Option<(u64, u32)>, Bite> {
        // What is left of a batch is not compared with what stands in the ring.
        let Some(batch) = self.batch.or_else(|| self.load_used()) else { return Ok(None) };
        let nobody = Bite::NoSuchRequest { id: batch.id.into() };
        let id = self.order.pop_front().ok_or(nobody.clone())?;
        let is_last = batch.id == id;
        self.batch = (!is_last).then_some(batch);
        let len = if is_last { batch.len } else { self.posted[usize::from(id)] };
        let token = self.data[usize::from(id)].take().ok_or(nobody)?;
        self.detach(mapper, id)?;
        self.free_ids.push(id);
        Ok(Some((token, len)))
    }

    /// Where the device was told to find the first writable buffer of the chain that completes next, by the ring.
    pub fn peek_writable(&self) -> Option<GuestAddr> {
        let used = self.batch.or_else(|| self.load_used())?;
        let id = if self.in_order { *self.order.front()? } else { used.id };
        let desc_id = DescId::below(id, self.size)?;
        if self.tables.is_out(desc_id) {
            return self.tables.first_writable(desc_id);
        }
        self.chains[usize::from(id)].iter().find_map(|piece| self.read(*piece).writable())
    }

    /// Free slots, as the ring counts them.
    pub const fn free(&self) -> u16 {
        self.free
    }

    /// Requests that it thinks are out.
    pub fn outstanding(&self) -> usize {
        self.data.iter().flatten().count()
    }

    /// Walks the chain of an id by the shared flags, unmaps by what stands in the slots, and goes on past them.
    fn detach<M: Mapper>(&mut self, mapper: &mut M, id: u16) -> Result<(), Bite> {
        let desc_id = desc_id(id, self.size)?;
        let chain = self.evict(id);
        let mut slots = 0u16;
        let mut slot = self.last_used.slot();
        loop {
            let piece = chain.get(usize::from(slots)).copied();
            // Where the flags say that the chain goes on, it goes on.
            let next = if slot + 1 == self.size.get() { 0 } else { slot + 1 };
            slot = piece.map_or(next, |piece| piece.slot);
            let entry = piece.map_or_else(|| self.load_entry(slot), |piece| self.read(piece));
            slots += 1;
            if slots > self.size.get() {
                return Err(Bite::EndlessWalk { steps: u32::from(slots) });
            }
            if entry.flags & DESC_F_INDIRECT != 0 {
                self.tables.detach(mapper, desc_id, entry.len)?;
            } else {
                entry.unmap(mapper, desc_id)?;
            }
            if entry.flags & DESC_F_NEXT == 0 {
                break;
            }
        }
        let posted = self.size.get() - self.free;
        if slots > posted {
            return Err(Bite::Overtook { slots, posted });
        }
        self.free += slots;
        self.last_used = self.last_used.advance(slots, self.size);
        Ok(())
    }

    /// A mapping failed: unmaps what was posted for the id by what stands in the ring.
    fn unwind<M: Mapper>(&mut self, mapper: &mut M, id: u16) -> Result<(), Bite> {
        let desc_id = desc_id(id, self.size)?;
        self.evict(id).into_iter().try_for_each(|piece| self.read(piece).unmap(mapper, desc_id))
    }

    /// Takes the chain of an id out of the books.
    fn evict(&mut self, id: u16) -> Vec<Piece> {
        self.in_flight[usize::from(id)] = false;
        let chain = std::mem::take(&mut self.chains[usize::from(id)]);
        for Piece { slot, .. } in &chain {
            self.tenants[usize::from(*slot)].take_if(|tenant| tenant.id == id);
        }
        chain
    }

    /// A piece, as far as it still stands in the ring from there.
    fn read(&self, piece: Piece) -> Entry {
        if piece.saved {
            return piece.entry;
        }
        let Entry { addr, len, flags } = self.load_entry(piece.slot);
        // A completion, of this chain or of another one, has left nothing but the address.
        if packed::is_used(flags, piece.wrap) { Entry { addr, ..piece.entry } } else { Entry { addr, len, flags } }
    }

    /// What the device says at the driver's position: flags, id and length by a load each.
    fn load_used(&self) -> Option<Used> {
        let slot = self.last_used.slot();
        let flags = SlotRest::from_word(self.areas.ring.load_u64_acquire(rest_at(slot))).flags;
        packed::is_used(flags, self.last_used.wrap())
            .then(|| Used { id: self.load_rest(slot).id, len: self.load_rest(slot).len })
    }

    fn load_entry(&self, slot: u16) -> Entry {
        let addr = self.areas.ring.load_u64(usize::from(slot) * SLOT_BYTES + SLOT_ADDR);
        let SlotRest { len, flags, .. } = self.load_rest(slot);
        Entry { addr, len, flags }
    }

    fn load_rest(&self, slot: u16) -> SlotRest {
        SlotRest::from_word(self.areas.ring.load_u64(rest_at(slot)))
    }

    fn store_rest(&self, slot: u16, rest: SlotRest) {
        self.areas.ring.store_u64_release(rest_at(slot), rest.to_word());
    }
}

/// Where the second word of a slot lies in the ring.
fn rest_at(slot: u16) -> usize {
    usize::from(slot) * SLOT_BYTES + SLOT_REST
}
