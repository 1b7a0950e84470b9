//! Where the parts of a ring lie, and that they lie there alone.

use ironring_common::features::{Feature, Negotiated};
use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::table::RegionTable;
use ironring_common::spec::packed::{EVENT_BYTES, ring_bytes};
use ironring_common::spec::split::{avail_bytes, desc_bytes, used_bytes};

use super::command::{ControlError, RingSetup};

/// Where a ring lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) size: QueueSize,
    pub(super) packed: bool,
    desc: GuestAddr,
    avail: GuestAddr,
    used: GuestAddr,
}

impl Layout {
    pub(super) fn of(ring: usize, setup: &RingSetup, features: Option<Negotiated>) -> Result<Self, ControlError> {
        let packed = features.is_some_and(|features| features.has(Feature::RingPacked));
        let size = if packed { QueueSize::packed(setup.size) } else { QueueSize::split(setup.size) };
        let size = size.map_err(|source| ControlError::BadRing { ring, source })?;
        Ok(Self { size, packed, desc: setup.desc, avail: setup.avail, used: setup.used })
    }

    /// The three parts with their lengths. vhost-user says them under the names of the split layout: those of a packed ring
    /// are the slots, the driver's event area, and the device's.
    pub(super) const fn parts(&self) -> [Part; 3] {
        let Self { size, desc, avail, used, .. } = *self;
        if self.packed {
            return [
                Part { name: "descriptor ring", addr: desc, len: ring_bytes(size) },
                Part { name: "driver event area", addr: avail, len: EVENT_BYTES },
                Part { name: "device event area", addr: used, len: EVENT_BYTES },
            ];
        }
        [
            Part { name: "descriptor table", addr: desc, len: desc_bytes(size) },
            Part { name: "available ring", addr: avail, len: avail_bytes(size) },
            Part { name: "used ring", addr: used, len: used_bytes(size) },
        ]
    }

    /// The parts in memory, or the first that does not lie in one region.
    pub(super) fn resolve(&self, memory: &RegionTable) -> Result<Areas, Part> {
        let [desc, avail, used] = self.parts();
        let find = |part: Part| memory.area(part.addr, part.len).ok_or(part);
        Ok(Areas([find(desc)?, find(avail)?, find(used)?]))
    }
}

/// Whether each part of a new ring has its memory for itself, among its own parts and those of `others`.
pub(super) fn check_overlap<'a>(
    ring: usize,
    layout: &Layout,
    others: impl Iterator<Item = (usize, &'a Layout)>,
) -> Result<(), ControlError> {
    let parts = layout.parts();
    let own = parts.iter().enumerate().map(|(at, part)| (at, ring, *part));
    // The other rings' parts come after all of ours, so that each pair is looked at once.
    let others = others.flat_map(|(other, layout)| layout.parts().map(|part| (parts.len(), other, part)));
    for (place, other, other_part) in own.chain(others) {
        if let Some(part) = parts.iter().take(place).find(|part| part.overlaps(&other_part)) {
            return Err(ControlError::Overlap { ring, area: part.name, other, other_area: other_part.name });
        }
    }
    Ok(())
}

/// One part of a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) name: &'static str,
    pub(super) addr: GuestAddr,
    len: usize,
}

impl Part {
    /// Whether two parts share a byte.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let end = |part: &Self| u128::from(part.addr.0).saturating_add(u128::try_from(part.len).unwrap_or(u128::MAX));
        u128::from(self.addr.0) < end(other) && u128::from(other.addr.0) < end(self)
    }

    pub(super) const fn outside(self, ring: usize) -> ControlError {
        ControlError::OutsideMemory { ring, area: self.name, addr: self.addr, len: self.len }
    }
}

/// The three parts of a ring as memory, in the order of [`Layout::parts`].
#[derive(Clone, Debug)]
pub(super) struct Areas(pub(super) [Area; 3]);
