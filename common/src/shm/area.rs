//! Parts of mapped memory, and what is done to their bytes: words by atomics, runs by copies. Every access is checked against the part.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::any::Any;
use std::sync::Arc;

use super::copy;
use super::lane::{Lane, Mapped};
use super::words::Words;
use crate::error::Misuse;

/// A part of shared memory that keeps its mapping alive. Cheap to use, not meant to be made per packet.
#[derive(Clone)]
pub struct Area {
    start: NonNull<u8>,
    len: usize,
    keep: Arc<dyn Any + Send + Sync>,
}

// SAFETY: all access to the bytes goes through `Bytes`, whose operations are atomic or assembler and may race, and an area keeps its
// memory mapped wherever it goes: another thread can do nothing with it that this one could not.
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
    use crate::shm::mapping::{Mapping, Memfd};

    fn area(len: usize) -> Area {
        let memfd = Memfd::create("test", len).unwrap();
        Mapping::of(&memfd).unwrap().area(0, len).unwrap()
    }

    fn asserts(act: impl FnOnce()) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_err()
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
}
