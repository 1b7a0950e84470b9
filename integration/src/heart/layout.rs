//! Where things lie in the shared memory of the model.

use std::sync::Arc;

use ironring_common::error::Misuse;
use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::Mapping;
use ironring_common::spec::split::DESC_BYTES;
use ironring_common::spec::{packed, split};
use ironring_driver::mapper::bounce::BLOCK_BYTES;
use ironring_driver::queue::RingLayout;

/// The parts of the shared memory, by one of its mappings.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    /// Of either layout, in the order of vhost-user: descriptors or slots, available ring or driver's events, used ring or
    /// device's events.
    pub(super) ring: [Area; 3],
    pub(super) tables: Area,
    pub(super) tables_base: GuestAddr,
    pub(super) pool: Area,
    pub(super) pool_base: GuestAddr,
}

/// Offsets of the parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offsets {
    ring: [(usize, usize); 3],
    tables: (usize, usize),
    pool: (usize, usize),
}

impl Offsets {
    /// For rings of `size` descriptors, and a pool of `blocks`.
    pub(super) fn of(layout: RingLayout, size: QueueSize, blocks: usize) -> Self {
        let tables_len = usize::from(size.get()) * usize::from(Shared::TABLE_ENTRIES) * DESC_BYTES;
        let (ring, end) = match layout {
            RingLayout::Split => {
                let (desc, avail) = (split::desc_bytes(size), split::avail_bytes(size));
                let used_at = (desc + avail).next_multiple_of(64) + 60;
                let used = split::used_bytes(size);
                ([(0, desc), (desc, avail), (used_at, used)], used_at + used)
            }
            RingLayout::Packed => {
                let slots = packed::ring_bytes(size);
                let (ours, theirs) = (slots.next_multiple_of(64), slots.next_multiple_of(64) + 64);
                ([(0, slots), (ours, packed::EVENT_BYTES), (theirs, packed::EVENT_BYTES)], theirs + 64)
            }
        };
        let tables_at = end.next_multiple_of(64);
        let pool_at = (tables_at + tables_len).next_multiple_of(4096);
        Self { ring, tables: (tables_at, tables_len), pool: (pool_at, blocks * BLOCK_BYTES) }
    }

    /// Bytes in all.
    pub(super) const fn len(&self) -> usize {
        self.pool.0 + self.pool.1
    }

    /// The parts in a mapping, whose memory the device knows as `base`.
    pub(super) fn cut(&self, map: &Arc<Mapping>, base: GuestAddr) -> Result<Shared, Misuse> {
        let area = |(at, len): (usize, usize)| map.area(at, len);
        let [first, second, third] = self.ring;
        let addr = |at: usize| GuestAddr(base.0 + at as u64);
        Ok(Shared {
            ring: [area(first)?, area(second)?, area(third)?],
            tables: area(self.tables)?,
            tables_base: addr(self.tables.0),
            pool: area(self.pool)?,
            pool_base: addr(self.pool.0),
        })
    }
}

impl Shared {
    /// Descriptors of an indirect table.
    pub(super) const TABLE_ENTRIES: u16 = 4;
}
