//! Indirect tables that are read back.
//!
//! One table for each descriptor, in an area that the device can write: whoever maps the memory of a vhost-user front-end
//! maps all of it for writing.

use ironring_common::index::{DescId, GuestAddr, QueueSize};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::SlotRest;
use ironring_common::spec::split::{DESC_BYTES, DESC_F_NEXT, Descriptor};
use ironring_driver::mapper::{Direction, Mapper};

use super::{Bite, Entry, in_range, write_flag};

/// The memory of the tables of one ring, divided evenly among its descriptors.
#[derive(Debug)]
pub struct Tables<W> {
    /// The area.
    pub area: W,
    /// Where the device finds it.
    pub base: GuestAddr,
}

/// How the second word of an entry is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Length, flags, next; `next` is the entry after it.
    Split,
    /// Length, id, flags; entries follow each other (2.8.8).
    Packed,
}

/// The tables of one ring.
#[derive(Debug)]
pub(super) struct TableSet<W> {
    tables: Option<Tables<W>>,
    layout: Layout,
    /// Entries for which a table has room.
    room: usize,
    /// Entries of the table of each descriptor while it is out, 0 if it has none: as much as was allocated.
    entries: Vec<u16>,
}

/// A table that was filled in: the buffer of its descriptor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filled {
    pub(super) addr: u64,
    pub(super) len: u32,
    /// Bytes of its buffers that the device writes.
    pub(super) writable: u32,
}

impl<W: Words> TableSet<W> {
    pub(super) fn new(tables: Option<Tables<W>>, layout: Layout, size: QueueSize) -> Self {
        let entries = usize::from(size.get());
        let room = tables.as_ref().map_or(0, |tables| tables.area.len() / DESC_BYTES / entries);
        Self { tables, layout, room, entries: vec![0; entries] }
    }

    /// Whether a chain goes through a table: it saves descriptors, and there is room.
    pub(super) fn takes(&self, buffers: usize) -> bool {
        buffers >= 2 && buffers <= self.room
    }

    /// Whether the descriptor was posted with a table.
    pub(super) fn is_out(&self, id: DescId) -> bool {
        self.entries[id.index()] != 0
    }

    /// Maps the buffers into the table of a descriptor. `None` if one could not be mapped and all were taken back.
    pub(super) fn fill<'a, M: Mapper>(
        &mut self,
        mapper: &mut M,
        id: DescId,
        buffers: impl ExactSizeIterator<Item = (&'a M::Buffer, Direction)>,
    ) -> Result<Option<Filled>, Bite>
    where
        M::Buffer: 'a,
    {
        let Some(base) = self.tables.as_ref().map(|tables| tables.base.0) else { return Ok(None) };
        let total = buffers.len();
        let mut writable = 0u32;
        for (at, (buffer, direction)) in buffers.enumerate() {
            let Ok(mapped) = mapper.map(id, buffer, direction) else {
                // Unwound by what stands in the table.
                for done in 0..at {
                    self.load(id, done).unmap(mapper, id)?;
                }
                return Ok(None);
            };
            writable = writable.saturating_add(if direction == Direction::FromDevice { mapped.len } else { 0 });
            let more = if self.layout == Layout::Split && at + 1 < total { DESC_F_NEXT } else { 0 };
            self.store(id, at, Entry { addr: mapped.addr.0, len: mapped.len, flags: write_flag(direction) | more });
        }
        self.entries[id.index()] = u16::try_from(total).unwrap_or(u16::MAX);
        let len = u32::try_from(total * DESC_BYTES).unwrap_or(u32::MAX);
        Ok(Some(Filled { addr: base + self.offset(id, 0) as u64, len, writable }))
    }

    /// Unmaps the buffers of a table by its shared entries: as many as `len`, the shared length of its descriptor, says.
    pub(super) fn detach<M: Mapper>(&mut self, mapper: &mut M, id: DescId, len: u32) -> Result<(), Bite> {
        let allocated = u64::from(std::mem::take(&mut self.entries[id.index()]));
        for at in 0..len as usize / DESC_BYTES {
            in_range("walking an indirect table", at as u64, allocated)?;
            self.load(id, at).unmap(mapper, id)?;
        }
        Ok(())
    }

    /// Where the table of a descriptor says that the device writes first.
    pub(super) fn first_writable(&self, id: DescId) -> Option<GuestAddr> {
        (0..usize::from(self.entries[id.index()])).find_map(|at| self.load(id, at).writable())
    }

    fn load(&self, id: DescId, at: usize) -> Entry {
        let Some(tables) = &self.tables else { return Entry::default() };
        let offset = self.offset(id, at);
        let [addr, rest] = [tables.area.load_u64(offset), tables.area.load_u64(offset + 8)];
        match self.layout {
            Layout::Split => {
                let Descriptor { len, flags, .. } = Descriptor::from_words([addr, rest]);
                Entry { addr, len, flags }
            }
            Layout::Packed => {
                let SlotRest { len, flags, .. } = SlotRest::from_word(rest);
                Entry { addr, len, flags }
            }
        }
    }

    fn store(&self, id: DescId, at: usize, entry: Entry) {
        let Some(tables) = &self.tables else { return };
        let Entry { addr, len, flags } = entry;
        let rest = match self.layout {
            Layout::Split => {
                let next = if flags & DESC_F_NEXT == 0 { 0 } else { u16::try_from(at + 1).unwrap_or(0) };
                Descriptor { addr, len, flags, next }.to_words()[1]
            }
            Layout::Packed => SlotRest { len, id: 0, flags }.to_word(),
        };
        let offset = self.offset(id, at);
        tables.area.store_u64(offset, addr);
        tables.area.store_u64(offset + 8, rest);
    }

    /// Where an entry lies in the area.
    fn offset(&self, id: DescId, at: usize) -> usize {
        (id.index() * self.room + at) * DESC_BYTES
    }
}
