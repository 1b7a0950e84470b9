//! Words of 64 bits at equal distances: the elements of a ring, checked once for all of them.
//!
//! A ring's element is one word, or one of the words, of a slot, and a burst touches many. That all of them lie inside the
//! area and on their own boundaries is a question about the ring, so it is asked once; what is left for each access is
//! whether the ring has such an element.

#[cfg(feature = "std")]
use core::{
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use super::words::Words;

/// The words number 0 to `len` - 1 of a lane. A number beyond is a bug of the caller, and implementations assert against it; a
/// value that a peer can choose may never be used as one.
pub trait Lane {
    /// How many words there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Loads a word, Relaxed.
    fn load_u64(&self, number: usize) -> u64;
    /// Loads a word, Acquire.
    fn load_u64_acquire(&self, number: usize) -> u64;
    /// Stores a word, Relaxed.
    fn store_u64(&self, number: usize, value: u64);
}

/// A lane of any area: each access is one of the area.
pub(super) struct OfWords<'a, W> {
    words: &'a W,
    at: usize,
    stride: usize,
    len: usize,
}

// Derived, they would ask for areas that copy.
impl<W> Clone for OfWords<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<W> Copy for OfWords<'_, W> {}

impl<'a, W: Words> OfWords<'a, W> {
    pub(super) fn new(words: &'a W, at: usize, stride: usize, len: usize) -> Self {
        Self { words, at, stride, len }
    }

    fn offset(&self, number: usize) -> usize {
        assert!(number < self.len, "a word that the lane does not have");
        self.at.wrapping_add(self.stride.wrapping_mul(number))
    }
}

impl<W: Words> Lane for OfWords<'_, W> {
    fn len(&self) -> usize {
        self.len
    }
    fn load_u64(&self, number: usize) -> u64 {
        self.words.load_u64(self.offset(number))
    }
    fn load_u64_acquire(&self, number: usize) -> u64 {
        self.words.load_u64_acquire(self.offset(number))
    }
    fn store_u64(&self, number: usize, value: u64) {
        self.words.store_u64(self.offset(number), value);
    }
}

/// A lane of mapped memory.
#[cfg(feature = "std")]
#[derive(Clone, Copy)]
pub(super) struct Mapped<'a> {
    first: NonNull<u8>,
    stride: usize,
    len: usize,
    _life: PhantomData<&'a ()>,
}

#[cfg(feature = "std")]
impl Mapped<'_> {
    /// The lane of `len` words that lie `stride` bytes apart, the first one at `first`.
    ///
    /// # Safety
    /// 1. Each of these words is valid for reads and writes for the life of the lane, by whoever may race, and through atomics
    ///    only.
    /// 2. `first` is aligned to 8 bytes, and `stride` is a multiple of 8.
    pub(super) const unsafe fn new(first: NonNull<u8>, stride: usize, len: usize) -> Self {
        Self { first, stride, len, _life: PhantomData }
    }

    #[inline(always)]
    #[track_caller]
    fn word(&self, number: usize) -> &AtomicU64 {
        assert!(number < self.len, "a word that the lane does not have");
        let word = self.first.as_ptr().wrapping_add(self.stride.wrapping_mul(number)).cast::<u64>();
        // SAFETY: number < len, so the word is one of those that are valid for atomics (1) and it is aligned (2).
        unsafe { AtomicU64::from_ptr(word) }
    }
}

#[cfg(feature = "std")]
impl Lane for Mapped<'_> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }
    #[inline(always)]
    fn load_u64(&self, number: usize) -> u64 {
        u64::from_le(self.word(number).load(Ordering::Relaxed))
    }
    #[inline(always)]
    fn load_u64_acquire(&self, number: usize) -> u64 {
        u64::from_le(self.word(number).load(Ordering::Acquire))
    }
    #[inline(always)]
    fn store_u64(&self, number: usize, value: u64) {
        self.word(number).store(value.to_le(), Ordering::Relaxed);
    }
}

#[cfg(all(test, feature = "std"))]
mod tests {
    use super::super::mapping::{Mapping, Memfd};
    use super::*;

    fn asserts(act: impl FnOnce()) -> bool {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_err()
    }

    /// Of the mapping and of any words, the same.
    #[test]
    fn a_lane_is_the_words_that_lie_there() {
        let memfd = Memfd::create("lane", 4096).unwrap();
        let area = Mapping::of(&memfd).unwrap().area(64, 128).unwrap();
        let mapped = area.lane(8, 16, 7);
        let plain = OfWords::new(&area, 8, 16, 7);
        assert_eq!((mapped.len(), plain.len()), (7, 7));
        for number in 0..7usize {
            mapped.store_u64(number, number as u64 + 100);
            assert_eq!(area.load_u64(8 + 16 * number), number as u64 + 100);
            assert_eq!(
                (plain.load_u64(number), plain.load_u64_acquire(number)),
                (number as u64 + 100, number as u64 + 100)
            );
            plain.store_u64(number, 7);
            assert_eq!((mapped.load_u64(number), mapped.load_u64_acquire(number)), (7, 7));
        }
        assert!(asserts(|| _ = mapped.load_u64(7)));
        assert!(asserts(|| plain.store_u64(7, 0)));
        assert!(asserts(|| mapped.store_u64(usize::MAX, 0)));
    }

    #[test]
    fn a_lane_that_leaves_its_area_is_none() {
        let memfd = Memfd::create("lane", 4096).unwrap();
        let area = Mapping::of(&memfd).unwrap().area(0, 128).unwrap();
        assert_eq!(area.lane(0, 16, 8).len(), 8);
        assert_eq!(area.lane(120, 16, 1).len(), 1);
        assert_eq!(area.lane(0, 16, 0).len(), 0);
        assert!(asserts(|| _ = area.lane(16, 16, 8).len()));
        assert!(asserts(|| _ = area.lane(4, 16, 2).len()), "misaligned");
        assert!(asserts(|| _ = area.lane(0, 12, 2).len()), "misaligned");
        assert!(asserts(|| _ = area.lane(0, 16, usize::MAX).len()));
        assert!(asserts(|| _ = area.lane(usize::MAX - 7, 8, 1).len()));
    }
}
