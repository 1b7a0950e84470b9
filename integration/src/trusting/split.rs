//! The trusting split ring.
//!
//! What it knows of a chain that comes back stands in shared memory: links, addresses, lengths, flags, and with indirect
//! tables also how many entries a table has. Private are the cookies, and for completions in order the posted lengths.

use std::collections::VecDeque;

use ironring_common::index::{DescId, GuestAddr, QueueSize};
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{
    self, DESC_BYTES, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, UsedElem,
};
use ironring_driver::mapper::Mapper;
use ironring_driver::queue::split::SplitAreas;

use super::tables::{Layout, TableSet};
use super::{Bite, Entry, Options, desc_id, directed, in_range, write_flag};

/// A split virtqueue that reads back what it wrote.
#[derive(Debug)]
pub struct TrustingRing<W> {
    size: QueueSize,
    areas: SplitAreas<W>,
    free_head: u16,
    free: u16,
    last_used: u16,
    added: u16,
    pending: u16,
    /// The cookie of each head, as `desc_state[].data`.
    data: Vec<Option<u64>>,
    tables: TableSet<W>,
    in_order: bool,
    /// With completions in order: heads that are out, oldest first.
    order: VecDeque<u16>,
    /// With completions in order: writable bytes of each head.
    posted: Vec<u32>,
    /// The used element whose id was not met yet among the oldest heads.
    batch: Option<UsedElem>,
    /// The watcher's own book of what is in flight. The ring does not look at it.
    in_flight: Vec<bool>,
}

impl<W: Words> TrustingRing<W> {
    /// An empty ring over zeroed areas; links the free list through the shared table.
    pub fn new(size: QueueSize, areas: SplitAreas<W>, options: Options<W>) -> Self {
        let entries = usize::from(size.get());
        let ring = Self {
            size,
            areas,
            free_head: 0,
            free: size.get(),
            last_used: 0,
            added: 0,
            pending: 0,
            data: vec![None; entries],
            tables: TableSet::new(options.tables, Layout::Split, size),
            in_order: options.in_order,
            order: VecDeque::new(),
            posted: vec![0; entries],
            batch: None,
            in_flight: vec![false; entries],
        };
        for id in 0..size.get() {
            ring.store_desc(id, Descriptor { next: id.wrapping_add(1), ..Descriptor::default() });
        }
        ring
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
        let taken = if indirect { 1 } else { total };
        if taken > usize::from(self.free) {
            return Ok(false);
        }
        let head = self.free_head;
        let bytes = if indirect {
            self.add_table(mapper, readable, writable)?
        } else {
            self.add_chain(mapper, readable, writable)?
        };
        let Some(bytes) = bytes else { return Ok(false) };
        self.free -= u16::try_from(taken).unwrap_or(0);
        self.data[usize::from(head)] = Some(token);
        self.posted[usize::from(head)] = bytes;
        if self.in_order {
            self.order.push_back(head);
        }
        let slot = usize::from(self.added.wrapping_add(self.pending) & (self.size.get() - 1));
        self.areas.avail.store_u16(split::AVAIL_RING + 2 * slot, head);
        self.pending += 1;
        Ok(true)
    }

    /// Posts each buffer in a descriptor of its own. Returns the writable bytes, `None` if the mapper is full.
    fn add_chain<M: Mapper>(
        &mut self,
        mapper: &mut M,
        readable: &[M::Buffer],
        writable: &[M::Buffer],
    ) -> Result<Option<u32>, Bite> {
        let head = self.free_head;
        let (mut id, mut last, mut bytes) = (head, head, 0u32);
        for (done, (buffer, direction)) in directed(readable, writable).enumerate() {
            let desc_id = self.claim(id)?;
            let Ok(mapped) = mapper.map(desc_id, buffer, direction) else {
                self.in_flight[usize::from(id)] = false;
                self.unwind(mapper, head, done)?;
                return Ok(None);
            };
            // The next free descriptor is read from the table that the device can write.
            let next = self.load_desc(id).next;
            let flags = write_flag(direction) | DESC_F_NEXT;
            self.store_desc(id, Descriptor { addr: mapped.addr.0, len: mapped.len, flags, next });
            bytes = bytes.saturating_add(if flags & DESC_F_WRITE == 0 { 0 } else { mapped.len });
            last = id;
            id = next;
        }
        // The last one's flags are read, changed and written back.
        let tail = self.load_desc(last);
        self.store_desc(last, Descriptor { flags: tail.flags & !DESC_F_NEXT, ..tail });
        self.free_head = id;
        Ok(Some(bytes))
    }

    /// Posts the buffers in a table, and one descriptor for it. Returns the writable bytes, `None` if the mapper is full.
    fn add_table<M: Mapper>(
        &mut self,
        mapper: &mut M,
        readable: &[M::Buffer],
        writable: &[M::Buffer],
    ) -> Result<Option<u32>, Bite> {
        let id = self.free_head;
        let desc_id = self.claim(id)?;
        let Some(table) = self.tables.fill(mapper, desc_id, directed(readable, writable))? else {
            self.in_flight[usize::from(id)] = false;
            return Ok(None);
        };
        let next = self.load_desc(id).next;
        self.store_desc(id, Descriptor { addr: table.addr, len: table.len, flags: DESC_F_INDIRECT, next });
        self.free_head = next;
        Ok(Some(table.writable))
    }

    /// Takes a descriptor that the shared list says is free.
    fn claim(&mut self, id: u16) -> Result<DescId, Bite> {
        in_range("taking a free descriptor", id, self.size.get())?;
        if std::mem::replace(&mut self.in_flight[usize::from(id)], true) {
            return Err(Bite::Aliased { id });
        }
        desc_id(id, self.size)
    }

    /// Shows the device what was added, by `avail->idx++` on the shared word.
    ///
    /// # Errors
    /// [`Bite::GarbagePublished`] if the word was not what this side had left there.
    pub fn publish(&mut self) -> Result<(), Bite> {
        for _ in 0..std::mem::take(&mut self.pending) {
            let index = self.areas.avail.load_u16(split::AVAIL_IDX).wrapping_add(1);
            self.areas.avail.store_u16_release(split::AVAIL_IDX, index);
            self.added = self.added.wrapping_add(1);
            if index != self.added {
                return Err(Bite::GarbagePublished { index, expected: self.added });
            }
        }
        Ok(())
    }

    /// Takes a completion: the cookie, and the length as the device says it.
    ///
    /// # Errors
    /// [`Bite`].
    pub fn take<M: Mapper>(&mut self, mapper: &mut M) -> Result<Option<(u64, u32)>, Bite> {
        if self.in_order {
            return self.take_in_order(mapper);
        }
        if !self.has_used() {
            return Ok(None);
        }
        let id = self.load_used().id;
        in_range("finding a request", id, self.size.get())?;
        let Some(token) = self.data[id as usize].take() else {
            return Err(Bite::NoSuchRequest { id });
        };
        // A second load of the same word: what was looked up is not what is freed if the device is quick.
        let UsedElem { id, len } = self.load_used();
        in_range("freeing a chain", id, self.size.get())?;
        self.last_used = self.last_used.wrapping_add(1);
        self.detach(mapper, u16::try_from(id).unwrap_or(u16::MAX))?;
        Ok(Some((token, len)))
    }

    /// Completes the oldest request, and the next, until the one that the used element names. Those before it count as
    /// full; an id that is not out completes all of them.
    fn take_in_order<M: Mapper>(&mut self, mapper: &mut M) -> Result<Option<(u64, u32)>, Bite> {
        let Some(batch) = self.batch() else { return Ok(None) };
        let nobody = Bite::NoSuchRequest { id: batch.id };
        let head = self.order.pop_front().ok_or(nobody.clone())?;
        let is_last = batch.id == u32::from(head);
        self.batch = (!is_last).then_some(batch);
        let len = if is_last { batch.len } else { self.posted[usize::from(head)] };
        let token = self.data[usize::from(head)].take().ok_or(nobody)?;
        self.last_used = self.last_used.wrapping_add(1);
        self.detach(mapper, head)?;
        Ok(Some((token, len)))
    }

    /// Where the device was told to find the first writable buffer of the chain that completes next, by the table.
    pub fn peek_writable(&self) -> Option<GuestAddr> {
        let batch = self.batch()?;
        let id = if self.in_order { *self.order.front()? } else { u16::try_from(batch.id).ok()? };
        let desc_id = DescId::below(id, self.size)?;
        if self.tables.is_out(desc_id) {
            return self.tables.first_writable(desc_id);
        }
        let Descriptor { addr, len, flags, .. } = self.load_desc(id);
        Entry { addr, len, flags }.writable()
    }

    /// Free descriptors, as the ring counts them.
    pub const fn free(&self) -> u16 {
        self.free
    }

    /// Requests that it thinks are out.
    pub fn outstanding(&self) -> usize {
        self.data.iter().flatten().count()
    }

    /// Walks the shared table from `head`, unmaps by what stands there, and links the chain into the free list.
    fn detach<M: Mapper>(&mut self, mapper: &mut M, head: u16) -> Result<(), Bite> {
        let mut id = head;
        let mut steps = 0u32;
        loop {
            in_range("walking a chain", id, self.size.get())?;
            let desc = self.load_desc(id);
            self.unmap(mapper, id, desc)?;
            self.in_flight[usize::from(id)] = false;
            self.free = self.free.saturating_add(1);
            steps += 1;
            if steps > u32::from(self.size.get()) {
                return Err(Bite::EndlessWalk { steps });
            }
            if desc.flags & DESC_F_NEXT == 0 {
                self.store_desc(id, Descriptor { next: self.free_head, ..desc });
                break;
            }
            id = desc.next;
        }
        self.free_head = head;
        if self.free > self.size.get() {
            return Err(Bite::OutOfRange {
                doing: "counting free descriptors",
                index: u64::from(self.free),
                entries: u64::from(self.size.get()),
            });
        }
        Ok(())
    }

    fn unmap<M: Mapper>(&mut self, mapper: &mut M, id: u16, desc: Descriptor) -> Result<(), Bite> {
        let Descriptor { addr, len, flags, .. } = desc;
        let desc_id = desc_id(id, self.size)?;
        if flags & DESC_F_INDIRECT != 0 {
            if len == 0 || !(len as usize).is_multiple_of(DESC_BYTES) {
                return Err(Bite::Asserted { what: "an indirect table has whole entries, and at least one" });
            }
            return self.tables.detach(mapper, desc_id, len);
        }
        if self.tables.is_out(desc_id) {
            return Err(Bite::Asserted { what: "the descriptor of an indirect table says so" });
        }
        Entry { addr, len, flags }.unmap(mapper, desc_id)
    }

    /// A mapping failed after `done` buffers: unmaps them by the table.
    fn unwind<M: Mapper>(&mut self, mapper: &mut M, head: u16, done: usize) -> Result<(), Bite> {
        let mut id = head;
        for _ in 0..done {
            in_range("unwinding a chain", id, self.size.get())?;
            let desc = self.load_desc(id);
            self.unmap(mapper, id, desc)?;
            self.in_flight[usize::from(id)] = false;
            id = desc.next;
        }
        Ok(())
    }

    fn has_used(&self) -> bool {
        self.areas.used.load_u16_acquire(split::USED_IDX) != self.last_used
    }

    /// The used element at the driver's position.
    fn load_used(&self) -> UsedElem {
        let at = split::USED_RING + split::USED_ELEM_BYTES * usize::from(self.last_used & (self.size.get() - 1));
        UsedElem::from_word(self.areas.used.load_u64(at))
    }

    /// The batch in order that is being completed, or the next.
    fn batch(&self) -> Option<UsedElem> {
        // What is left of a batch is not compared with the used index.
        self.batch.or_else(|| self.has_used().then(|| self.load_used()))
    }

    fn load_desc(&self, id: u16) -> Descriptor {
        let at = usize::from(id) * split::DESC_BYTES;
        Descriptor::from_words([self.areas.desc.load_u64(at), self.areas.desc.load_u64(at + 8)])
    }

    fn store_desc(&self, id: u16, desc: Descriptor) {
        let at = usize::from(id) * split::DESC_BYTES;
        let [addr, rest] = desc.to_words();
        self.areas.desc.store_u64(at, addr);
        self.areas.desc.store_u64(at + 8, rest);
    }
}
