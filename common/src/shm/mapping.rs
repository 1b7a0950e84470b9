//! Memory shared with a peer: sealed memfds and mappings between guard pages.

use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use super::area::Area;
use crate::error::{Misuse, OsError};

/// A memfd that can neither shrink nor grow and whose seals are final: the peer cannot pull the memory from under us.
#[derive(Debug)]
pub struct Memfd {
    fd: OwnedFd,
    len: usize,
    /// Bytes of its pages.
    page: usize,
}

/// What pages a memfd is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// Those of the system.
    #[default]
    Normal,
    /// Of 2 MiB, which have to be reserved (`vm.nr_hugepages`). A peer that holds the memfd can punch holes into it, and a hole
    /// that is touched when no page is left is a signal: for peers that are not expected to do that.
    Huge,
}

impl Memfd {
    /// Makes a memfd of `len` bytes, rounded up to whole pages, and seals it with SHRINK, GROW and SEAL.
    ///
    /// `name` shows up in `/proc`, nowhere else.
    ///
    /// # Errors
    /// [`OsError`] if the system has no memory, descriptors or seals for us.
    pub fn create(name: &str, len: usize) -> Result<Self, OsError> {
        Self::of_pages(name, len, Pages::Normal)
    }

    /// As [`create`](Self::create), of such pages, and rounded up to whole ones.
    ///
    /// # Errors
    /// As [`create`](Self::create). That there are too few huge pages is found when it is mapped.
    pub fn of_pages(name: &str, len: usize, pages: Pages) -> Result<Self, OsError> {
        let (page, kind) = match pages {
            Pages::Normal => (rustix::param::page_size(), MemfdFlags::empty()),
            Pages::Huge => (HUGE_BYTES, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB),
        };
        let len = len.max(1).checked_next_multiple_of(page).ok_or_else(|| too_large("size a memfd"))?;
        let size = u64::try_from(len).map_err(|_| too_large("size a memfd"))?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | kind;
        // NOEXEC_SEAL needs Linux 6.3; older kernels refuse the flag, and do without.
        let fd = rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|_| rustix::fs::memfd_create(name, flags))
            .map_err(|e| OsError::new("create a memfd", e))?;
        rustix::fs::ftruncate(&fd, size).map_err(|e| OsError::new("size a memfd", e))?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(|e| OsError::new("seal a memfd", e))?;
        Ok(Self { fd, len, page })
    }

    /// Bytes in the memfd.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes; it always has.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl AsFd for Memfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Bytes of a huge page.
const HUGE_BYTES: usize = 2 << 20;
const MAP_HUGE: &str = "map a memfd of huge pages (reserve more of 2 MiB: sysctl vm.nr_hugepages)";

fn too_large(what: &'static str) -> OsError {
    OsError::new(what, std::io::Error::from(std::io::ErrorKind::InvalidInput))
}

/// A shared mapping of a file, with an inaccessible page before and after it. Unmapped on drop.
#[derive(Debug)]
pub struct Mapping {
    /// Start of the reservation, guard page included.
    reserved: NonNull<u8>,
    reserved_len: usize,
    /// Start of the accessible bytes.
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a `Mapping` owns its address range until drop. All access to the bytes goes through `Bytes`, whose operations
// are atomic or assembler and may race, so sharing or moving the owner between threads adds nothing that was not allowed.
unsafe impl Send for Mapping {}
// SAFETY: as for Send; `&Mapping` gives out nothing but `Bytes`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps a whole memfd, readable and writable.
    ///
    /// # Errors
    /// [`OsError`] if the address space or the memory is not to be had.
    pub fn of(memfd: &Memfd) -> Result<Arc<Self>, OsError> {
        let guard = rustix::param::page_size();
        // Huge pages begin at multiples of their size, so there may be more before and behind.
        let reserved_len = memfd
            .page
            .checked_mul(2)
            .and_then(|guards| guards.checked_add(memfd.len))
            .ok_or_else(|| too_large("map shared memory"))?;
        // SAFETY: a fresh anonymous reservation at an address of the kernel's choice disturbs no other mapping.
        let reserved = unsafe {
            rustix::mm::mmap_anonymous(core::ptr::null_mut(), reserved_len, ProtFlags::empty(), MapFlags::PRIVATE)
        }
        .map_err(|e| OsError::new("reserve address space", e))?;
        let reserved_ptr = NonNull::new(reserved.cast::<u8>()).ok_or_else(|| too_large("reserve address space"))?;
        // From here on, dropping `mapping` gives the reservation back, whatever happens next.
        let base_ptr = reserved_ptr.as_ptr().wrapping_add(guard);
        // At most a page less a guard: the reservation goes on for a guard at least behind the accessible bytes.
        let base_ptr = base_ptr.wrapping_add(base_ptr.align_offset(memfd.page));
        let base = NonNull::new(base_ptr).ok_or_else(|| too_large("reserve address space"))?;
        let mapping = Self { reserved: reserved_ptr, reserved_len, base, len: memfd.len };
        // SAFETY: [base, base + len) lies inside the reservation made above, which nobody else knows, so MAP_FIXED
        // replaces only our own inaccessible pages.
        unsafe {
            rustix::mm::mmap(
                base_ptr.cast(),
                memfd.len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::FIXED,
                memfd.as_fd(),
                0,
            )
        }
        .map_err(|e| OsError::new(if memfd.page == HUGE_BYTES { MAP_HUGE } else { "map a memfd" }, e))?;
        Ok(Arc::new(mapping))
    }

    /// Bytes that are accessible.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is accessible.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A part of the mapping that keeps it alive.
    ///
    /// # Errors
    /// [`Misuse::AreaTooSmall`] if `offset + len` lies beyond the mapping.
    pub fn area(self: &Arc<Self>, offset: usize, len: usize) -> Result<Area, Misuse> {
        let end = offset.checked_add(len).ok_or(Misuse::AreaTooSmall { have: self.len, need: usize::MAX })?;
        if end > self.len {
            return Err(Misuse::AreaTooSmall { have: self.len, need: end });
        }
        // SAFETY: offset <= len of the mapping, so the pointer stays inside it or one past its end.
        let start = unsafe { self.base.add(offset) };
        // SAFETY: [start, start + len) lies inside the mapping (checked above), which `Arc<Self>` keeps mapped.
        Ok(unsafe { Area::from_raw(start, len, self.clone()) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was reserved by `of` and belongs to this value alone; every `Area` holds an `Arc` of it, so
        // no access is possible any more. An error would mean that the range was not ours; there is nothing to undo.
        let _ = unsafe { rustix::mm::munmap(self.reserved.as_ptr().cast(), self.reserved_len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::words::Words;

    #[test]
    fn a_peer_cannot_resize_or_reseal_the_memory() {
        let memfd = Memfd::create("test", 5000).unwrap();
        assert_eq!(memfd.len(), 8192);
        // The peer's own descriptor of the same memory, opened anew.
        let peer = std::fs::File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memfd.fd)))
            .unwrap();
        for len in [0, 4096, 8191, 8193, 1 << 20] {
            assert_eq!(peer.set_len(len).unwrap_err().kind(), std::io::ErrorKind::PermissionDenied);
        }
        assert!(rustix::fs::fcntl_add_seals(&peer, SealFlags::FUTURE_WRITE).is_err());
    }

    /// Where huge pages are reserved: a machine that has none says so in a sentence, and cannot show more.
    #[test]
    fn huge_pages_are_sealed_aligned_and_guarded() {
        let memfd = match Memfd::of_pages("test", 5000, Pages::Huge) {
            Ok(memfd) => memfd,
            Err(error) => return assert!(error.to_string().starts_with("cannot create a memfd"), "{error}"),
        };
        assert_eq!(memfd.len(), HUGE_BYTES);
        let seals = rustix::fs::fcntl_get_seals(&memfd.fd).unwrap();
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL), "{seals:?}");
        let mapping = match Mapping::of(&memfd) {
            Ok(mapping) => mapping,
            Err(error) => return assert!(error.to_string().contains("sysctl vm.nr_hugepages"), "{error}"),
        };
        let guard = rustix::param::page_size();
        let before = mapping.base.as_ptr().addr() - mapping.reserved.as_ptr().addr();
        assert!(mapping.base.as_ptr().addr().is_multiple_of(HUGE_BYTES) && before >= guard);
        assert!(mapping.reserved_len >= before + mapping.len + guard);
        let area = mapping.area(HUGE_BYTES - 8, 8).unwrap();
        area.store_u64(0, 7);
        assert_eq!(area.load_u64(0), 7);
    }

    #[test]
    fn two_mappings_of_one_memfd_see_each_other() {
        let memfd = Memfd::create("test", 4096).unwrap();
        let one = Mapping::of(&memfd).unwrap().area(0, 4096).unwrap();
        let two = Mapping::of(&memfd).unwrap().area(0, 4096).unwrap();
        one.store_u64(8, 0x0102_0304_0506_0708);
        one.store_u16_release(2, 0xbeef);
        assert_eq!(two.load_u64(8), 0x0102_0304_0506_0708);
        assert_eq!(two.load_u16_acquire(2), 0xbeef);
        let mut bytes = [0; 8];
        two.copy_out(8, &mut bytes);
        assert_eq!(bytes, [8, 7, 6, 5, 4, 3, 2, 1]);
        two.zero(8, 4);
        assert_eq!(one.load_u32(8), 0);
        assert_eq!(one.load_u32(12), 0x0102_0304);
    }

    #[test]
    fn an_area_outlives_its_mapping_handle() {
        let memfd = Memfd::create("test", 4096).unwrap();
        let mapping = Mapping::of(&memfd).unwrap();
        let part = mapping.area(0, 16).unwrap();
        drop(mapping);
        drop(memfd);
        part.store_u16(0, 1);
        assert_eq!(part.load_u16(0), 1);
    }
}
