//! The trusting split ring.

use ironring_common::index::{DescId, GuestAddr, QueueSize};
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{self, DESC_F_NEXT, DESC_F_WRITE, Descriptor, UsedElem};
use ironring_driver::mapper::{Direction, MapRecord, Mapper};
use ironring_driver::queue::split::SplitAreas;

/// The moment at which a trusting driver does harm: to itself, on the device's word.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Bite {
    /// It would index outside of an array.
    #[error("{doing}, it went to entry {index} of {entries}")]
    OutOfRange {
        /// What it was doing.
        doing: &'static str,
        /// The index.
        index: u64,
        /// Entries of the array.
        entries: u64,
    },
    /// It unmapped what was never mapped, or freed a mapping twice. What should have been unmapped leaks.
    #[error("it unmapped address {addr:#x}, which was not mapped")]
    BadUnmap {
        /// The address that it took from the table.
        addr: u64,
    },
    /// It followed shared links round and round.
    #[error("it walked {steps} descriptors of one chain and would go on for ever")]
    EndlessWalk {
        /// Steps after which the watcher stopped it.
        steps: u32,
    },
    /// It completed a request that nobody made: the cookie is null or stale.
    #[error("it completed request {id}, which nobody made")]
    NoSuchRequest {
        /// The id.
        id: u32,
    },
    /// It gave out a descriptor that is still in flight.
    #[error("it gave out descriptor {id}, which is still in flight")]
    Aliased {
        /// The descriptor.
        id: u16,
    },
    /// It showed the device available entries that it never filled.
    #[error("it published available index {index} where its requests amount to {expected}")]
    GarbagePublished {
        /// The index that it published.
        index: u16,
        /// The index that the requests amount to.
        expected: u16,
    },
}

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
    /// The watcher's own book of what is in flight. The ring does not look at it.
    in_flight: Vec<bool>,
}

impl<W: Words> TrustingRing<W> {
    /// An empty ring over zeroed areas; links the free list through the shared table.
    pub fn new(size: QueueSize, areas: SplitAreas<W>) -> Self {
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
        if total > usize::from(self.free) {
            return Ok(false);
        }
        let head = self.free_head;
        let mut id = head;
        let mut last = head;
        let buffers = readable
            .iter()
            .map(|buffer| (buffer, Direction::ToDevice))
            .chain(writable.iter().map(|buffer| (buffer, Direction::FromDevice)));
        for (done, (buffer, direction)) in buffers.enumerate() {
            self.in_range("taking a free descriptor", id)?;
            if self.in_flight[usize::from(id)] {
                return Err(Bite::Aliased { id });
            }
            let desc_id = self.desc_id(id)?;
            let Ok(mapped) = mapper.map(desc_id, buffer, direction) else {
                self.unwind(mapper, head, done)?;
                return Ok(false);
            };
            // The next free descriptor is read from the table that the device can write.
            let next = self.load_desc(id).next;
            let write = if direction == Direction::FromDevice { DESC_F_WRITE } else { 0 };
            let flags = write | DESC_F_NEXT;
            self.store_desc(id, Descriptor { addr: mapped.addr.0, len: mapped.len, flags, next });
            self.in_flight[usize::from(id)] = true;
            last = id;
            id = next;
        }
        // The last one's flags are read, changed and written back.
        let tail = self.load_desc(last);
        self.store_desc(last, Descriptor { flags: tail.flags & !DESC_F_NEXT, ..tail });
        self.free_head = id;
        self.free -= u16::try_from(total).unwrap_or(0);
        self.data[usize::from(head)] = Some(token);
        let slot = usize::from(self.added.wrapping_add(self.pending) & (self.size.get() - 1));
        self.areas.avail.store_u16(split::AVAIL_RING + 2 * slot, head);
        self.pending += 1;
        Ok(true)
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
        if self.areas.used.load_u16_acquire(split::USED_IDX) == self.last_used {
            return Ok(None);
        }
        let at = split::USED_RING + 8 * usize::from(self.last_used & (self.size.get() - 1));
        let id = UsedElem::from_word(self.areas.used.load_u64(at)).id;
        self.in_range("finding a request", id)?;
        let Some(token) = self.data[id as usize].take() else {
            return Err(Bite::NoSuchRequest { id });
        };
        // A second load of the same word: what was looked up is not what is freed if the device is quick.
        let UsedElem { id, len } = UsedElem::from_word(self.areas.used.load_u64(at));
        self.in_range("freeing a chain", id)?;
        self.last_used = self.last_used.wrapping_add(1);
        self.detach(mapper, u16::try_from(id).unwrap_or(u16::MAX), len)?;
        Ok(Some((token, len)))
    }

    /// Where the device was told to find the first writable buffer of the chain that completes next, by the table.
    pub fn peek_writable(&self) -> Option<GuestAddr> {
        if self.areas.used.load_u16_acquire(split::USED_IDX) == self.last_used {
            return None;
        }
        let at = split::USED_RING + 8 * usize::from(self.last_used & (self.size.get() - 1));
        let id = u16::try_from(UsedElem::from_word(self.areas.used.load_u64(at)).id).ok()?;
        (id < self.size.get())
            .then(|| self.load_desc(id))
            .filter(|d| d.flags & DESC_F_WRITE != 0)
            .map(|d| d.addr.into())
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
    fn detach<M: Mapper>(&mut self, mapper: &mut M, head: u16, written: u32) -> Result<(), Bite> {
        let mut id = head;
        let mut left = written;
        let mut steps = 0u32;
        loop {
            self.in_range("walking a chain", id)?;
            let desc = self.load_desc(id);
            self.unmap(mapper, id, desc, &mut left)?;
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

    fn unmap<M: Mapper>(&self, mapper: &mut M, id: u16, desc: Descriptor, left: &mut u32) -> Result<(), Bite> {
        let writable = desc.flags & DESC_F_WRITE != 0;
        let direction = if writable { Direction::FromDevice } else { Direction::ToDevice };
        // Like the kernel's, the unmap of a bounce buffer copies the whole mapping back, as long as the table says.
        let written = if writable { desc.len } else { 0 };
        *left = left.saturating_sub(written);
        let record = MapRecord { id: self.desc_id(id)?, addr: desc.addr.into(), len: desc.len, direction };
        mapper.unmap(record, written).map_err(|_| Bite::BadUnmap { addr: desc.addr })
    }

    /// A mapping failed after `done` buffers: unmaps them by the table.
    fn unwind<M: Mapper>(&mut self, mapper: &mut M, head: u16, done: usize) -> Result<(), Bite> {
        let mut id = head;
        for _ in 0..done {
            self.in_range("unwinding a chain", id)?;
            let desc = self.load_desc(id);
            let direction = if desc.flags & DESC_F_WRITE != 0 { Direction::FromDevice } else { Direction::ToDevice };
            let record = MapRecord { id: self.desc_id(id)?, addr: desc.addr.into(), len: desc.len, direction };
            let written = if direction == Direction::FromDevice { desc.len } else { 0 };
            mapper.unmap(record, written).map_err(|_| Bite::BadUnmap { addr: desc.addr })?;
            self.in_flight[usize::from(id)] = false;
            id = desc.next;
        }
        Ok(())
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

    fn in_range(&self, doing: &'static str, index: impl Into<u64>) -> Result<(), Bite> {
        let (index, entries) = (index.into(), u64::from(self.size.get()));
        if index < entries { Ok(()) } else { Err(Bite::OutOfRange { doing, index, entries }) }
    }

    fn desc_id(&self, id: u16) -> Result<DescId, Bite> {
        let range = Bite::OutOfRange { doing: "mapping", index: u64::from(id), entries: u64::from(self.size.get()) };
        DescId::below(id, self.size).ok_or(range)
    }
}
