//! The region table of memory that `vm-memory` mapped for a vhost-user backend.

use core::ptr::NonNull;
use std::any::Any;
use std::sync::Arc;

use rustix::fs::SealFlags;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::table::{RegionTable, TableError};
use crate::index::GuestAddr;

/// What to do about memory that its owner could truncate while we use it, which would kill this process by SIGBUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealPolicy {
    /// Refuse memory without F_SEAL_SHRINK; the seal is added if the file still takes one.
    Require,
    /// Take it, as files and hugetlbfs memory of VMMs need: the peer can then kill this process.
    Tolerate,
}

impl RegionTable {
    /// Flattens guest memory into a table, before anything touches it: each region must fit into its file as the file
    /// is now, and, by the policy, must not be able to shrink later.
    ///
    /// # Errors
    /// [`TableError`], by region.
    pub fn of_guest_memory<B>(memory: &Arc<GuestMemoryMmap<B>>, seals: SealPolicy) -> Result<Self, TableError>
    where
        B: Bitmap + Send + Sync + 'static,
    {
        let mut raw = Vec::new();
        for region in memory.iter() {
            let start = GuestAddr(region.start_addr().raw_value());
            check_file(region, start, seals)?;
            let host = NonNull::new(region.as_ptr()).ok_or(TableError::BadRange { start, len: region.len() })?;
            let keep: Arc<dyn Any + Send + Sync> = memory.clone();
            raw.push((start, host, region.len(), keep));
        }
        // SAFETY: vm-memory mapped [host, host + len) shared, readable and writable, and unmaps it when the
        // `GuestMemoryMmap` is dropped, which `keep` prevents. The memory came from mmap. This process accesses it
        // through `Bytes` only: the framework's own queue methods that touch memory are not called by our vring.
        unsafe { Self::of_raw(raw) }
    }
}

/// Whether the file behind a region is long enough, and stays so.
fn check_file<R: GuestMemoryRegion>(region: &R, start: GuestAddr, seals: SealPolicy) -> Result<(), TableError> {
    let Some(backing) = region.file_offset() else {
        return Err(TableError::NoFile { start });
    };
    let stat = rustix::fs::fstat(backing.file()).map_err(|e| TableError::Stat { start, source: e.into() })?;
    let have = u64::try_from(stat.st_size).unwrap_or(0);
    let need = backing.start().checked_add(region.len()).ok_or(TableError::BadRange { start, len: region.len() })?;
    if need > have {
        return Err(TableError::FileTooSmall { start, need, have });
    }
    if seals == SealPolicy::Require {
        // Adding the seal ourselves closes the gap between this look and the first touch; it fails on files that
        // cannot be sealed and on memfds whose seals are final, so the answer is what the file says afterwards.
        let _ = rustix::fs::fcntl_add_seals(backing.file(), SealFlags::SHRINK);
        let sealed = rustix::fs::fcntl_get_seals(backing.file()).is_ok_and(|s| s.contains(SealFlags::SHRINK));
        if !sealed {
            return Err(TableError::NotSealed { start });
        }
        // The file may have been cut between the first stat and the seal.
        let stat = rustix::fs::fstat(backing.file()).map_err(|e| TableError::Stat { start, source: e.into() })?;
        let have = u64::try_from(stat.st_size).unwrap_or(0);
        if need > have {
            return Err(TableError::FileTooSmall { start, need, have });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::words::Words;
    use super::*;
    use std::fs::File;
    use vm_memory::{FileOffset, GuestAddress};

    fn memfd(len: u64, seal: bool) -> File {
        let fd = rustix::fs::memfd_create("t", rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
        let file = File::from(fd);
        file.set_len(len).unwrap();
        if seal {
            rustix::fs::fcntl_add_seals(&file, SealFlags::SEAL).unwrap();
        }
        file
    }

    fn memory(file: File, offset: u64, len: usize) -> Arc<GuestMemoryMmap<()>> {
        let ranges = [(GuestAddress(0x1000), len, Some(FileOffset::new(file, offset)))];
        Arc::new(GuestMemoryMmap::from_ranges_with_files(ranges).unwrap())
    }

    #[test]
    fn a_region_larger_than_its_file_is_refused_before_first_touch() {
        for (offset, len) in [(0, 1 << 20), (4096, 8192)] {
            let memory = memory(memfd(8192, false), offset, len);
            let error = RegionTable::of_guest_memory(&memory, SealPolicy::Tolerate).unwrap_err();
            assert!(matches!(error, TableError::FileTooSmall { have: 8192, .. }), "{error}");
        }
    }

    #[test]
    fn memory_that_can_shrink_is_sealed_or_refused() {
        let file = memfd(8192, false);
        let peer = file.try_clone().unwrap();
        let table = RegionTable::of_guest_memory(&memory(file, 0, 8192), SealPolicy::Require).unwrap();
        assert!(peer.set_len(0).is_err(), "the seal is on");
        table.bytes(GuestAddr(0x1000), 8).unwrap().store_u64(0, 1);

        let unsealable = memory(memfd(8192, true), 0, 8192);
        assert!(matches!(
            RegionTable::of_guest_memory(&unsealable, SealPolicy::Require),
            Err(TableError::NotSealed { .. })
        ));
        assert!(RegionTable::of_guest_memory(&unsealable, SealPolicy::Tolerate).is_ok());
    }
}
