//! Where the addresses of descriptors and rings lead: a private, flat table of regions.
//!
//! The table is built once per memory change from regions that were checked; a look-up is one compare when the address
//! lies in the region of the last hit, else a short linear search. Nothing but [`Bytes`] and [`Area`]s comes out.

use core::ptr::NonNull;
use std::any::Any;
use std::cell::Cell;
use std::sync::Arc;

use super::area::{Area, Bytes};
use super::mapping::Mapping;
use crate::index::GuestAddr;

/// Why a set of regions was refused.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// A region has no bytes or runs past the end of the address space.
    #[error("memory region at {start} of {len} bytes is empty or wraps around the address space")]
    BadRange {
        /// First address.
        start: GuestAddr,
        /// Bytes.
        len: u64,
    },
    /// Two regions overlap.
    #[error("memory regions at {first} and {second} overlap")]
    Overlap {
        /// First address of the lower one.
        first: GuestAddr,
        /// First address of the higher one.
        second: GuestAddr,
    },
    /// A region is larger than the file that backs it: touching its end would kill the process.
    #[error(
        "memory region at {start} needs {need} bytes of its file, which has {have}; the peer shared less than it says: make the file as large as the guest's memory"
    )]
    FileTooSmall {
        /// First address.
        start: GuestAddr,
        /// Bytes needed: offset plus length.
        need: u64,
        /// Bytes that the file has.
        have: u64,
    },
    /// A region is backed by no file, so it cannot be shared memory.
    #[error("memory region at {start} has no file; share memory through a file descriptor")]
    NoFile {
        /// First address.
        start: GuestAddr,
    },
    /// The size of a region's file cannot be had.
    #[error("cannot stat the file of the memory region at {start}: {source}")]
    Stat {
        /// First address.
        start: GuestAddr,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// The file could be shrunk under us.
    #[error(
        "memory region at {start} can be truncated by the peer at any time, which would kill this process; share a memfd that takes F_SEAL_SHRINK (QEMU: memory-backend-memfd with share=on and not seal=off), or accept the risk with --allow-unsealed-memory (SealPolicy::Tolerate), as memory-backend-file and cloud-hypervisor need it"
    )]
    NotSealed {
        /// First address.
        start: GuestAddr,
    },
}

#[derive(Clone, Debug)]
struct Region {
    start: u64,
    len: u64,
    host: NonNull<u8>,
    /// Keeps [host, host + len) mapped.
    keep: Arc<dyn Any + Send + Sync>,
}

/// The regions, in the order of their addresses, without overlap. See the [module documentation](self).
#[derive(Clone, Debug)]
pub struct RegionTable {
    regions: Vec<Region>,
    /// Index of the region of the last hit. A hint only: every use of it is checked.
    last: Cell<usize>,
}

// SAFETY: the pointers are to mappings kept alive by `keep` and used only to make `Bytes` and `Area`s, which may race by
// design. The `Cell` makes the table not `Sync`, which is right: one worker owns one table.
unsafe impl Send for RegionTable {}

impl RegionTable {
    /// A table of our own mappings, each at an address.
    ///
    /// # Errors
    /// [`TableError::BadRange`] or [`TableError::Overlap`].
    pub fn of_mappings(mappings: impl IntoIterator<Item = (GuestAddr, Arc<Mapping>)>) -> Result<Self, TableError> {
        let mut regions = Vec::new();
        for (start, mapping) in mappings {
            let len = mapping.len();
            let Ok(whole) = mapping.area(0, len) else {
                return Err(TableError::BadRange { start, len: 0 });
            };
            let host = whole.start_ptr();
            regions.push(Region { start: start.0, len: u64::try_from(len).unwrap_or(u64::MAX), host, keep: mapping });
        }
        Self::build(regions)
    }

    /// A table of raw regions.
    ///
    /// # Safety
    /// Each [host, host + len) is mapped readable and writable for as long as its `keep` lives, is no Rust allocation,
    /// and is accessed only through [`Bytes`] or by other processes.
    #[cfg(feature = "guest-memory")]
    pub(super) unsafe fn of_raw(
        raw: impl IntoIterator<Item = (GuestAddr, NonNull<u8>, u64, Arc<dyn Any + Send + Sync>)>,
    ) -> Result<Self, TableError> {
        Self::build(
            raw.into_iter().map(|(start, host, len, keep)| Region { start: start.0, len, host, keep }).collect(),
        )
    }

    /// Sorts and checks.
    fn build(mut regions: Vec<Region>) -> Result<Self, TableError> {
        regions.sort_by_key(|region| region.start);
        for region in &regions {
            if region.len == 0 || region.start.checked_add(region.len).is_none() || usize::try_from(region.len).is_err()
            {
                return Err(TableError::BadRange { start: GuestAddr(region.start), len: region.len });
            }
        }
        for pair in regions.windows(2) {
            if let [low, high] = pair
                && low.start.saturating_add(low.len) > high.start
            {
                return Err(TableError::Overlap { first: GuestAddr(low.start), second: GuestAddr(high.start) });
            }
        }
        Ok(Self { regions, last: Cell::new(0) })
    }

    /// Number of regions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// Whether there are no regions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Each region's first address and length in bytes, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = (GuestAddr, u64)> + '_ {
        self.regions.iter().map(|region| (GuestAddr(region.start), region.len))
    }

    /// The `len` bytes at `addr`, or `None` unless all of them lie in one region. `addr` and `len` may be anything.
    #[inline]
    #[must_use]
    pub fn bytes(&self, addr: GuestAddr, len: u32) -> Option<Bytes<'_>> {
        let (region, offset) = self.find(addr, u64::from(len))?;
        let len = usize::try_from(len).ok()?;
        // SAFETY: `find` checked that [offset, offset + len) lies inside the region, which `keep` holds mapped for at
        // least as long as `self` is borrowed.
        Some(unsafe { Bytes::from_raw(region.host.add(offset).as_ptr(), len) })
    }

    /// As [`bytes`](Self::bytes), but keeping the memory alive by itself: for rings, once per start.
    #[must_use]
    pub fn area(&self, addr: GuestAddr, len: usize) -> Option<Area> {
        let (region, offset) = self.find(addr, u64::try_from(len).ok()?)?;
        // SAFETY: as in `bytes`; the clone of `keep` holds the region mapped for the life of the area.
        Some(unsafe { Area::from_raw(region.host.add(offset), len, region.keep.clone()) })
    }

    /// For a burst whose addresses most often lead to the region of this number, as [`HotRegion::number`] told after the last
    /// one. A hint: any number will do, also one that a table of before had.
    #[inline]
    #[must_use]
    pub fn hot(&self, number: usize) -> HotRegion<'_> {
        let none = HotRegion { table: self, number, start: 0, len: 0, host: NonNull::dangling() };
        self.regions.get(number).or(self.regions.first()).map_or(none, |region| HotRegion {
            table: self,
            number,
            start: region.start,
            len: region.len,
            host: region.host,
        })
    }

    /// The region that holds [addr, addr + len) and the offset in it.
    #[inline]
    fn find(&self, addr: GuestAddr, len: u64) -> Option<(&Region, usize)> {
        if let Some(region) = self.regions.get(self.last.get())
            && let Some(offset) = region.offset_of(addr, len)
        {
            return Some((region, offset));
        }
        self.find_slow(addr, len)
    }

    /// Bytes of another region, and that region.
    #[cold]
    fn bytes_elsewhere(&self, addr: GuestAddr, len: u32) -> Option<(Bytes<'_>, HotRegion<'_>)> {
        let bytes = self.bytes(addr, len)?;
        Some((bytes, self.hot(self.last.get())))
    }

    #[cold]
    fn find_slow(&self, addr: GuestAddr, len: u64) -> Option<(&Region, usize)> {
        let (index, region, offset) = self
            .regions
            .iter()
            .enumerate()
            .find_map(|(index, region)| Some((index, region, region.offset_of(addr, len)?)))?;
        self.last.set(index);
        Some((region, offset))
    }
}

impl Region {
    #[inline]
    fn offset_of(&self, addr: GuestAddr, len: u64) -> Option<usize> {
        offset_in(self.start, self.len, addr, len)
    }
}

/// Where `len` bytes from `addr` on lie in a region of `size` bytes from `start` on, if all of them do; nothing here can wrap.
#[inline(always)]
fn offset_in(start: u64, size: u64, addr: GuestAddr, len: u64) -> Option<usize> {
    let offset = addr.0.checked_sub(start)?;
    let room = size.checked_sub(offset)?;
    if len > room {
        return None;
    }
    usize::try_from(offset).ok()
}

/// A table, and the region where most addresses lead as a value that copies freely: for a loop that keeps it in registers.
#[derive(Clone, Copy, Debug)]
pub struct HotRegion<'a> {
    table: &'a RegionTable,
    number: usize,
    start: u64,
    len: u64,
    host: NonNull<u8>,
}

impl<'a> HotRegion<'a> {
    /// The table.
    #[inline]
    #[must_use]
    pub const fn table(&self) -> &'a RegionTable {
        self.table
    }

    /// By what the next burst begins with the region.
    #[inline]
    #[must_use]
    pub const fn number(&self) -> usize {
        self.number
    }

    /// As [`RegionTable::bytes`], and goes on with the region where they lie; but an empty table has no bytes at address 0.
    #[inline(always)]
    #[must_use]
    pub fn bytes(&mut self, addr: GuestAddr, len: u32) -> Option<Bytes<'a>> {
        let Some(offset) = offset_in(self.start, self.len, addr, u64::from(len)) else {
            let (bytes, region) = self.table.bytes_elsewhere(addr, len)?;
            *self = region;
            return Some(bytes);
        };
        let len = usize::try_from(len).ok()?;
        // SAFETY: [offset, offset + len) lies inside the region, which the table holds mapped for at least as long as it is
        // borrowed. Of a table without regions it is empty, and so are these bytes.
        Some(unsafe { Bytes::from_raw(self.host.add(offset).as_ptr(), len) })
    }
}

#[cfg(test)]
mod tests {
    use super::super::mapping::Memfd;
    use super::super::words::Words;
    use super::*;
    use proptest::prelude::*;

    fn table(ranges: &[(u64, usize)]) -> Result<RegionTable, TableError> {
        RegionTable::of_mappings(
            ranges
                .iter()
                .map(|(start, len)| (GuestAddr(*start), Mapping::of(&Memfd::create("t", *len).unwrap()).unwrap())),
        )
    }

    #[test]
    fn overlapping_and_wrapping_regions_are_refused() {
        assert!(matches!(table(&[(0x2000, 4096), (0x1001, 4096)]), Err(TableError::Overlap { .. })));
        assert!(matches!(table(&[(u64::MAX - 4094, 4096)]), Err(TableError::BadRange { .. })));
        assert!(table(&[(0x2000, 4096), (0x1000, 4096)]).is_ok());
    }

    #[test]
    fn adjoining_regions_do_not_merge() {
        let table = table(&[(0x1000, 4096), (0x2000, 4096)]).unwrap();
        assert!(table.bytes(GuestAddr(0x1ff8), 8).is_some());
        assert!(table.bytes(GuestAddr(0x1ff8), 9).is_none());
        assert_eq!(table.bytes(GuestAddr(0x2000), 0).map(|b| b.len()), Some(0));
    }

    #[test]
    fn stores_land_where_the_address_says() {
        let table = table(&[(0x1000, 4096), (0x9000, 8192)]).unwrap();
        let area = table.area(GuestAddr(0x9000), 8192).unwrap();
        table.bytes(GuestAddr(0xa008), 8).unwrap().store_u64(0, 7);
        assert_eq!(area.load_u64(0x1008), 7);
    }

    proptest! {
        /// Any address and length, against arithmetic that cannot overflow.
        #[test]
        fn translation_agrees_with_a_wide_oracle(
            addr in prop_oneof![0u64..0x20000, any::<u64>(), (u64::MAX - 64)..=u64::MAX],
            len in prop_oneof![0u32..20000, any::<u32>()],
        ) {
            let ranges = [(0x1000u64, 4096usize), (0x2000, 8192), (0x8000, 4096), (u64::MAX - 8191, 4096)];
            let table = table(&ranges).unwrap();
            let expected = ranges.iter().any(|(start, size)| {
                u128::from(addr) >= u128::from(*start)
                    && u128::from(addr) + u128::from(len) <= u128::from(*start) + *size as u128
            });
            prop_assert_eq!(table.hot(0).bytes(GuestAddr(addr), len).is_some(), expected);
            prop_assert_eq!(table.bytes(GuestAddr(addr), len).is_some(), expected);
            prop_assert_eq!(table.hot(table.last.get()).bytes(GuestAddr(addr), len).is_some(), expected);
            prop_assert_eq!(table.area(GuestAddr(addr), len as usize).is_some(), expected);
        }

        /// A burst may lead from region to region.
        #[test]
        fn a_hot_region_finds_what_the_table_finds(
            number in prop_oneof![0usize..4, Just(usize::MAX)],
            addrs in proptest::collection::vec(prop_oneof![0u64..0x5000, any::<u64>()], 1..40),
        ) {
            let table = table(&[(0x1000u64, 4096usize), (0x2000, 8192)]).unwrap();
            let mut hot = table.hot(number);
            for addr in addrs.into_iter().map(GuestAddr) {
                let start = |bytes: Option<Bytes<'_>>| bytes.map(|bytes| bytes.start_ptr());
                for len in [1, 76] {
                    prop_assert_eq!(start(hot.bytes(addr, len)), start(table.bytes(addr, len)), "{:?} {}", addr, len);
                }
                if table.bytes(addr, 76).is_some() {
                    // The next burst finds it with one compare.
                    let next = table.hot(hot.number());
                    prop_assert!(offset_in(next.start, next.len, addr, 76).is_some());
                }
            }
        }
    }
}
