//! The region table of memory that `vm-memory` mapped for a vhost-user backend.

use core::ptr::NonNull;
use std::any::Any;
use std::fs::File;
use std::sync::Arc;

use rustix::fs::SealFlags;
use rustix::io::Errno;
use vm_memory::bitmap::Bitmap;
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use super::table::{RegionTable, TableError};
use crate::index::GuestAddr;

/// What to do about memory that its owner could truncate while we use it, which would kill this process by SIGBUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealPolicy {
    /// Refuse memory without F_SEAL_SHRINK, where the seal is added if the file still takes one, and huge pages of
    /// hugetlbfs, which no seal keeps in place.
    Require,
    /// Take it, as files and hugetlbfs memory of VMMs need: the peer can then kill this process.
    Tolerate,
}

/// Why the memory of a guest was refused.
#[derive(Debug, thiserror::Error)]
pub enum GuestMemoryError {
    /// The regions, or the files behind them.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The memory is of hugetlbfs, where a touch of a page that is not there kills the process if the pool is empty.
    #[error(
        "memory region at {start} is of hugetlbfs, whose pages are taken from a pool at first touch and can be punched out later, and if the pool is empty then, this process is killed; share an ordinary memfd (memory-backend-memfd without hugetlb=on), or accept the risk with --allow-unsealed-memory (SealPolicy::Tolerate)"
    )]
    HugePages {
        /// First address.
        start: GuestAddr,
    },
}

impl RegionTable {
    /// Flattens guest memory into a table, before anything touches it: each region must fit into its file as the file
    /// is now, and, by the policy, must not be able to lose pages later.
    ///
    /// # Errors
    /// [`GuestMemoryError`], by region.
    pub fn of_guest_memory<B>(memory: &Arc<GuestMemoryMmap<B>>, seals: SealPolicy) -> Result<Self, GuestMemoryError>
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
        Ok(unsafe { Self::of_raw(raw) }?)
    }
}

/// Whether the file behind a region is long enough, and stays so.
fn check_file<R: GuestMemoryRegion>(region: &R, start: GuestAddr, seals: SealPolicy) -> Result<(), GuestMemoryError> {
    let Some(backing) = region.file_offset() else {
        return Err(TableError::NoFile { start }.into());
    };
    let need = backing.start().checked_add(region.len()).ok_or(TableError::BadRange { start, len: region.len() })?;
    if seals == SealPolicy::Require {
        check_seals(backing.file(), start)?;
    }
    // After the seal: what the file has now, it keeps.
    let stat = rustix::fs::fstat(backing.file()).map_err(|e| TableError::Stat { start, source: e.into() })?;
    let have = u64::try_from(stat.st_size).unwrap_or(0);
    if need > have { Err(TableError::FileTooSmall { start, need, have }.into()) } else { Ok(()) }
}

/// Whether a file keeps its pages. With an ordinary memfd a hole that is punched reads as zeros, so the seal suffices. A
/// hugetlb memfd takes the seal too, but the mapping reserves no pages (`MAP_NORESERVE`): the first touch, and each first
/// touch after a hole was punched, takes one from a pool that may be empty, and that is a SIGBUS.
fn check_seals(file: &File, start: GuestAddr) -> Result<(), GuestMemoryError> {
    // First of all, because the kernel answers this by itself and only for memfds. What the peer sent may be of a file
    // system that is its own process (FUSE), and any question that goes there may never be answered.
    rustix::fs::fcntl_get_seals(file).map_err(|_: Errno| TableError::NotSealed { start })?;
    let of = rustix::fs::fstatfs(file).map_err(|e| TableError::Stat { start, source: e.into() })?;
    if of.f_type == HUGETLBFS_MAGIC {
        return Err(GuestMemoryError::HugePages { start });
    }
    // Adding the seal ourselves closes the gap between this look and the first touch; it fails on memfds whose seals are
    // final, so the answer is what the file says afterwards.
    let _ = rustix::fs::fcntl_add_seals(file, SealFlags::SHRINK);
    let sealed = rustix::fs::fcntl_get_seals(file).is_ok_and(|s| s.contains(SealFlags::SHRINK));
    if sealed { Ok(()) } else { Err(TableError::NotSealed { start }.into()) }
}

/// What the kernel calls hugetlbfs (`linux/magic.h`).
const HUGETLBFS_MAGIC: rustix::fs::FsWord = 0x9584_58f6;

#[cfg(test)]
mod tests {
    use super::super::words::Words;
    use super::*;
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
            let small = matches!(error, GuestMemoryError::Table(TableError::FileTooSmall { have: 8192, .. }));
            assert!(small, "{error}");
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
            Err(GuestMemoryError::Table(TableError::NotSealed { .. }))
        ));
        assert!(RegionTable::of_guest_memory(&unsealable, SealPolicy::Tolerate).is_ok());
    }

    /// The seal is asked for first: a file that takes none may be one whose size is never told.
    #[test]
    fn what_is_no_memfd_is_not_asked_for_its_size() {
        let file = File::options().read(true).write(true).create_new(true).open(temporary()).unwrap();
        std::fs::remove_file(temporary()).unwrap();
        file.set_len(8192).unwrap();
        let too_small = memory(file, 4096, 8192);
        let error = RegionTable::of_guest_memory(&too_small, SealPolicy::Require).unwrap_err();
        assert!(matches!(error, GuestMemoryError::Table(TableError::NotSealed { .. })), "{error}");
    }

    fn temporary() -> std::path::PathBuf {
        std::env::temp_dir().join(format!("ironring-guest-{}", std::process::id()))
    }
}
