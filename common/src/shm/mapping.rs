//! Memory shared with a peer: sealed memfds and mappings between guard pages.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

use super::copy;
use super::lane::{Lane, Mapped};
use super::words::Words;
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

/// A part of shared memory that keeps its mapping alive. Cheap to use, not meant to be made per packet.
#[derive(Clone)]
pub struct Area {
    start: NonNull<u8>,
    len: usize,
    keep: Arc<dyn Any + Send + Sync>,
}

// SAFETY: as for `Mapping`: an area grants racy-by-design access only, and keeps the mapping alive wherever it goes.
unsafe impl Send for Area {}
// SAFETY: as for Send.
unsafe impl Sync for Area {}

impl Area {
    /// An area of raw memory.
    ///
    /// # Safety
    /// Unless `len` is 0, [start, start + len) is mapped readable and writable for as long as `keep` lives, was made by mmap (it is no Rust
    /// allocation), and is accessed only through `Bytes` or by other processes.
    pub(super) unsafe fn from_raw(start: NonNull<u8>, len: usize, keep: Arc<dyn Any + Send + Sync>) -> Self {
        Self { start, len, keep }
    }

    /// A part of this area.
    ///
    /// # Errors
    /// [`Misuse::AreaTooSmall`] if `offset + len` lies beyond the area.
    pub fn part(&self, offset: usize, len: usize) -> Result<Self, Misuse> {
        let end = offset.checked_add(len).ok_or(Misuse::AreaTooSmall { have: self.len, need: usize::MAX })?;
        if end > self.len {
            return Err(Misuse::AreaTooSmall { have: self.len, need: end });
        }
        // SAFETY: offset <= self.len, inside the same mapping.
        let start = unsafe { self.start.add(offset) };
        // SAFETY: a part of an area has the area's properties.
        Ok(unsafe { Self::from_raw(start, len, self.keep.clone()) })
    }

    /// The bytes, borrowed.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> Bytes<'_> {
        Bytes { start: self.start.as_ptr(), len: self.len, _life: core::marker::PhantomData }
    }

    /// The first byte. For the region table of this folder.
    pub(super) const fn start_ptr(&self) -> NonNull<u8> {
        self.start
    }
}

impl core::fmt::Debug for Area {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Neither address nor contents: the one is private, the other the peer's.
        write!(f, "Area({} bytes)", self.len)
    }
}

/// Borrowed shared bytes: what the data path uses for one buffer.
#[derive(Clone, Copy)]
pub struct Bytes<'a> {
    /// Null if there are none and there never were any, so that a list of such is zeroes, which are written many at a time.
    start: *mut u8,
    len: usize,
    _life: core::marker::PhantomData<&'a ()>,
}

impl Default for Bytes<'_> {
    /// None at all.
    #[inline]
    fn default() -> Self {
        Self { start: core::ptr::null_mut(), len: 0, _life: core::marker::PhantomData }
    }
}

impl core::fmt::Debug for Bytes<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Bytes({} bytes)", self.len)
    }
}

impl<'a> Bytes<'a> {
    /// Borrowed raw memory.
    ///
    /// # Safety
    /// [start, start + len) is mapped readable and writable for the lifetime `'a`, is no Rust allocation, and is
    /// accessed only through `Bytes` or by other processes.
    #[inline]
    pub(super) const unsafe fn from_raw(start: *mut u8, len: usize) -> Self {
        Self { start, len, _life: core::marker::PhantomData }
    }

    /// The first byte. For the tests of the region table.
    #[cfg(test)]
    pub(super) const fn start_ptr(&self) -> *mut u8 {
        self.start
    }

    /// Replaces a 16-bit word that the other side stores too, if it still holds `from`. Whether it did. Relaxed.
    ///
    /// No ring needs this: each of its words has one writer. It is for a test adversary, who stores into the other
    /// side's words and has to take that back without losing what the other side stored meanwhile.
    #[must_use = "a word that has changed is not replaced"]
    pub fn replace_u16(&self, at: usize, from: u16, to: u16) -> bool {
        // SAFETY: `word` gives an aligned pointer to 2 bytes inside the area; atomics may race.
        let word = unsafe { AtomicU16::from_ptr(self.word(at)) };
        word.compare_exchange(from.to_le(), to.to_le(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// As [`replace_u16`](Self::replace_u16), for a 64-bit word.
    #[must_use = "a word that has changed is not replaced"]
    pub fn replace_u64(&self, at: usize, from: u64, to: u64) -> bool {
        // SAFETY: `word` gives an aligned pointer to 8 bytes inside the area; atomics may race.
        let word = unsafe { AtomicU64::from_ptr(self.word(at)) };
        word.compare_exchange(from.to_le(), to.to_le(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Copies `len` bytes of another area, `from`, to this one. A byte may change while it is copied, on both sides.
    #[inline(always)]
    #[track_caller]
    pub fn copy_from(&self, at: usize, from: Bytes<'_>, from_at: usize, len: usize) {
        let (to, from) = (self.at(at, len), from.at(from_at, len));
        assert!(to.addr().abs_diff(from.addr()) >= len, "the two areas overlap");
        // SAFETY: both have `len` bytes inside their mappings, accessed by atomics and assembler only, and do not overlap.
        unsafe { copy::copy_over(to, from, len) };
    }

    /// The first `at` bytes and those behind them; `None` if there are fewer.
    #[inline(always)]
    #[must_use]
    pub fn split_at_checked(self, at: usize) -> Option<(Self, Self)> {
        let behind = self.len.checked_sub(at)?;
        let middle = self.start.wrapping_add(at);
        // SAFETY: parts of the bytes have their properties: at + behind is their length.
        unsafe { Some((Self::from_raw(self.start, at), Self::from_raw(middle, behind))) }
    }

    /// The `len` bytes from `at` on, asserted to be inside.
    #[inline(always)]
    #[track_caller]
    pub(super) fn part(&self, at: usize, len: usize) -> Self {
        // SAFETY: a part of the bytes has their properties.
        unsafe { Self::from_raw(self.at(at, len), len) }
    }

    /// Whether these 12 bytes lie at `at`, each of them loaded once.
    #[inline(always)]
    pub(super) fn holds(&self, at: usize, bytes: &[u8; 12]) -> bool {
        // SAFETY: `at` gives a pointer to 12 bytes inside the mapping, which are accessed by atomics and assembler only.
        let (first, last) = unsafe { copy::load12(self.at(at, bytes.len())) };
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        // What differs, in one test.
        let (differs, last) =
            (first ^ u64::from_ne_bytes([a, b, c, d, e, f, g, h]), last ^ u32::from_ne_bytes([i, j, k, l]));
        differs | u64::from(last) == 0
    }

    /// As [`Words::lane`]: the life is that of the bytes, not of this value.
    #[inline]
    #[track_caller]
    fn mapped_lane<const WORDS: usize>(&self, at: usize, stride: usize, len: usize) -> Mapped<'a, WORDS> {
        let room = self.len.saturating_sub(at);
        let need = len.saturating_sub(1).checked_mul(stride).and_then(|last| last.checked_add(const { 8 * WORDS }));
        let inside = len == 0 || need.is_some_and(|need| need <= room);
        assert!(inside, "a lane outside of a shared area");
        let first = self.start.wrapping_add(at);
        assert!(first.cast::<u64>().is_aligned() && stride.is_multiple_of(8), "misaligned words in a shared area");
        // SAFETY: all words lie inside the area, which stays mapped for 'a, is valid for reads and writes, and is accessed by
        // atomics and assembler only (1); the first one is aligned and so are the others (2). With no word there is nothing
        // to hold.
        unsafe { Mapped::new(first, stride, len) }
    }

    /// A pointer to `size` bytes at offset `at`, asserted to be inside.
    #[inline]
    #[track_caller]
    fn at(&self, at: usize, size: usize) -> *mut u8 {
        // Written so that nothing can wrap. Offsets are our own, so a failure is a bug of ours and asserts.
        assert!(size <= self.len && at <= self.len.wrapping_sub(size), "offset outside of a shared area");
        self.start.wrapping_add(at)
    }

    /// As `at`, for an aligned word.
    #[inline]
    #[track_caller]
    fn word<T>(&self, at: usize) -> *mut T {
        let ptr = self.at(at, size_of::<T>()).cast::<T>();
        assert!(ptr.is_aligned(), "misaligned word in a shared area");
        ptr
    }
}

impl Words for Bytes<'_> {
    #[inline]
    fn view(&self) -> impl Words + Copy + '_ {
        *self
    }
    #[inline]
    fn lane<const WORDS: usize>(&self, at: usize, stride: usize, len: usize) -> impl Lane + Copy + '_ {
        self.mapped_lane::<WORDS>(at, stride, len)
    }
    #[inline]
    fn len(&self) -> usize {
        self.len
    }
    #[inline]
    fn is_aligned(&self, at: usize, bytes: usize) -> bool {
        self.start.wrapping_add(at).addr().checked_rem(bytes) == Some(0)
    }
    #[inline]
    fn load_u8(&self, at: usize) -> u8 {
        // SAFETY: `word` gives a pointer to a byte inside the area; atomics may race.
        unsafe { AtomicU8::from_ptr(self.word(at)) }.load(Ordering::Relaxed)
    }
    #[inline]
    fn load_u16(&self, at: usize) -> u16 {
        // SAFETY: `word` gives an aligned pointer to 2 bytes inside the area; atomics may race.
        u16::from_le(unsafe { AtomicU16::from_ptr(self.word(at)) }.load(Ordering::Relaxed))
    }
    #[inline]
    fn load_u16_acquire(&self, at: usize) -> u16 {
        // SAFETY: as `load_u16`.
        u16::from_le(unsafe { AtomicU16::from_ptr(self.word(at)) }.load(Ordering::Acquire))
    }
    #[inline]
    fn load_u32(&self, at: usize) -> u32 {
        // SAFETY: `word` gives an aligned pointer to 4 bytes inside the area; atomics may race.
        u32::from_le(unsafe { AtomicU32::from_ptr(self.word(at)) }.load(Ordering::Relaxed))
    }
    #[inline]
    fn load_u64(&self, at: usize) -> u64 {
        // SAFETY: `word` gives an aligned pointer to 8 bytes inside the area; atomics may race.
        u64::from_le(unsafe { AtomicU64::from_ptr(self.word(at)) }.load(Ordering::Relaxed))
    }
    #[inline]
    fn load_u64_acquire(&self, at: usize) -> u64 {
        // SAFETY: as `load_u64`.
        u64::from_le(unsafe { AtomicU64::from_ptr(self.word(at)) }.load(Ordering::Acquire))
    }
    #[inline]
    fn store_u16(&self, at: usize, value: u16) {
        // SAFETY: as `load_u16`.
        unsafe { AtomicU16::from_ptr(self.word(at)) }.store(value.to_le(), Ordering::Relaxed);
    }
    #[inline]
    fn store_u16_release(&self, at: usize, value: u16) {
        // SAFETY: as `load_u16`.
        unsafe { AtomicU16::from_ptr(self.word(at)) }.store(value.to_le(), Ordering::Release);
    }
    #[inline]
    fn store_u32(&self, at: usize, value: u32) {
        // SAFETY: as `load_u32`.
        unsafe { AtomicU32::from_ptr(self.word(at)) }.store(value.to_le(), Ordering::Relaxed);
    }
    #[inline]
    fn store_u64(&self, at: usize, value: u64) {
        // SAFETY: as `load_u64`.
        unsafe { AtomicU64::from_ptr(self.word(at)) }.store(value.to_le(), Ordering::Relaxed);
    }
    #[inline]
    fn store_u64_release(&self, at: usize, value: u64) {
        // SAFETY: as `load_u64`.
        unsafe { AtomicU64::from_ptr(self.word(at)) }.store(value.to_le(), Ordering::Release);
    }
    #[inline]
    fn copy_in(&self, at: usize, from: &[u8]) {
        let to = self.at(at, from.len());
        // SAFETY: `to` has from.len() bytes inside the mapping; `from` is private memory and cannot overlap a mapping.
        unsafe { copy::copy_in(to, from.as_ptr(), from.len()) };
    }
    #[inline]
    fn copy_out(&self, at: usize, to: &mut [u8]) {
        let from = self.at(at, to.len());
        // SAFETY: `from` has to.len() bytes inside the mapping; `to` is private memory and cannot overlap a mapping.
        unsafe { copy::copy_out(to.as_mut_ptr(), from, to.len()) };
    }
    #[inline]
    fn zero(&self, at: usize, len: usize) {
        let to = self.at(at, len);
        // SAFETY: `to` has `len` bytes inside the mapping.
        unsafe { copy::zero(to, len) };
    }
    #[inline]
    fn prefetch(&self, at: usize, write: bool) {
        copy::prefetch(self.start.wrapping_add(at), write);
    }
}

impl Words for Area {
    #[inline]
    fn view(&self) -> impl Words + Copy + '_ {
        self.bytes()
    }
    #[inline]
    fn lane<const WORDS: usize>(&self, at: usize, stride: usize, len: usize) -> impl Lane + Copy + '_ {
        self.bytes().mapped_lane::<WORDS>(at, stride, len)
    }
    #[inline]
    fn len(&self) -> usize {
        self.len
    }
    #[inline]
    fn is_aligned(&self, at: usize, bytes: usize) -> bool {
        self.bytes().is_aligned(at, bytes)
    }
    #[inline]
    fn load_u8(&self, at: usize) -> u8 {
        self.bytes().load_u8(at)
    }
    #[inline]
    fn load_u16(&self, at: usize) -> u16 {
        self.bytes().load_u16(at)
    }
    #[inline]
    fn load_u16_acquire(&self, at: usize) -> u16 {
        self.bytes().load_u16_acquire(at)
    }
    #[inline]
    fn load_u32(&self, at: usize) -> u32 {
        self.bytes().load_u32(at)
    }
    #[inline]
    fn load_u64(&self, at: usize) -> u64 {
        self.bytes().load_u64(at)
    }
    #[inline]
    fn load_u64_acquire(&self, at: usize) -> u64 {
        self.bytes().load_u64_acquire(at)
    }
    #[inline]
    fn store_u16(&self, at: usize, value: u16) {
        self.bytes().store_u16(at, value);
    }
    #[inline]
    fn store_u16_release(&self, at: usize, value: u16) {
        self.bytes().store_u16_release(at, value);
    }
    #[inline]
    fn store_u32(&self, at: usize, value: u32) {
        self.bytes().store_u32(at, value);
    }
    #[inline]
    fn store_u64(&self, at: usize, value: u64) {
        self.bytes().store_u64(at, value);
    }
    #[inline]
    fn store_u64_release(&self, at: usize, value: u64) {
        self.bytes().store_u64_release(at, value);
    }
    #[inline]
    fn copy_in(&self, at: usize, from: &[u8]) {
        self.bytes().copy_in(at, from);
    }
    #[inline]
    fn copy_out(&self, at: usize, to: &mut [u8]) {
        self.bytes().copy_out(at, to);
    }
    #[inline]
    fn zero(&self, at: usize, len: usize) {
        self.bytes().zero(at, len);
    }
    #[inline]
    fn prefetch(&self, at: usize, write: bool) {
        self.bytes().prefetch(at, write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(len: usize) -> Area {
        let memfd = Memfd::create("test", len).unwrap();
        Mapping::of(&memfd).unwrap().area(0, len).unwrap()
    }

    fn asserts(act: impl FnOnce()) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_err()
    }

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
    fn bytes_go_from_one_mapping_to_another() {
        let (one, two) = (area(4096), area(4096));
        for len in [0, 7, 8, 15, 16, 17, 31, 32, 33, 60, 63, 64, 65, 76, 127, 128, 129, 200, 1500] {
            let bytes: Vec<u8> = (0..len).map(|n| (n * 7 + len) as u8).collect();
            one.copy_in(100, &bytes);
            two.zero(0, 4096);
            two.bytes().copy_from(33, one.bytes(), 100, len);
            let mut all = vec![0; 4096];
            two.copy_out(0, &mut all);
            assert_eq!(all[33..33 + len], bytes);
            assert!(all[..33].iter().chain(&all[33 + len..]).all(|byte| *byte == 0));
        }
        assert!(asserts(|| two.bytes().copy_from(0, one.bytes(), 4000, 97)));
        assert!(asserts(|| two.bytes().copy_from(4000, one.bytes(), 0, 97)));
        assert!(asserts(|| one.bytes().copy_from(0, one.bytes(), 50, 51)), "overlap");
    }

    #[test]
    fn areas_end_where_they_say() {
        let whole = area(4096);
        assert_eq!(whole.part(4000, 97).unwrap_err(), Misuse::AreaTooSmall { have: 4096, need: 4097 });
        assert_eq!(whole.part(usize::MAX, 2).unwrap_err(), Misuse::AreaTooSmall { have: 4096, need: usize::MAX });
        let part = whole.part(64, 32).unwrap();
        part.store_u32(28, 7);
        assert_eq!(whole.load_u32(92), 7);
        assert!(asserts(|| _ = part.load_u32(29)));
        assert!(asserts(|| _ = part.load_u32(32)));
        assert!(asserts(|| part.copy_out(usize::MAX, &mut [0; 4])));
        assert!(asserts(|| _ = part.load_u64(4)), "misaligned");
    }

    #[test]
    fn bytes_are_cut_where_it_is_said() {
        let area = area(4096);
        let all = area.bytes();
        for at in [0usize, 1, 12, 4095, 4096] {
            let (first, behind) = all.split_at_checked(at).unwrap();
            assert_eq!((first.len(), behind.len()), (at, 4096 - at));
            assert_eq!(all.part(at, 4096 - at).len(), behind.len());
            if at < 4096 {
                area.zero(at, 1);
                behind.copy_in(0, &[7]);
                assert_eq!((area.load_u8(at), all.part(at, 1).load_u8(0)), (7, 7));
            }
        }
        assert!(all.split_at_checked(4097).is_none() && all.split_at_checked(usize::MAX).is_none());
        assert!(Bytes::default().split_at_checked(1).is_none());
        assert!(
            Bytes::default().split_at_checked(0).is_some_and(|(first, behind)| first.is_empty() && behind.is_empty())
        );
        assert!(asserts(|| _ = all.part(4000, 97)));
        assert!(asserts(|| _ = all.part(usize::MAX, 2)));
    }

    #[test]
    fn a_word_is_replaced_only_while_it_holds_what_was_said() {
        let area = area(4096);
        area.store_u64(8, 7);
        assert!(!area.bytes().replace_u64(8, 6, 9));
        assert!(area.bytes().replace_u64(8, 7, 9));
        assert!(area.bytes().replace_u16(8, 9, 0x1234));
        assert!(!area.bytes().replace_u16(8, 9, 0));
        assert_eq!(area.load_u64(8), 0x1234);
        assert!(asserts(|| _ = area.bytes().replace_u64(4, 0, 1)), "misaligned");
        assert!(asserts(|| _ = area.bytes().replace_u16(4096, 0, 1)));
    }

    #[test]
    fn alignment_is_that_of_the_address() {
        let odd = area(4096).part(60, 64).unwrap();
        assert!(!odd.is_aligned(0, 8));
        assert!(odd.is_aligned(4, 8));
        assert!(odd.is_aligned(2, 2));
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
