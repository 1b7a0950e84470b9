//! Words of 64 bits at equal distances: the elements of a ring, checked once for all of them.
//!
//! A ring's element is one word or some that follow one another, and a burst touches many. That all of them lie inside the
//! area and on their own boundaries is a question about the ring, so it is asked once; what is left for each access is
//! whether the ring has such an element.

#[cfg(feature = "std")]
use core::{
    marker::PhantomData,
    sync::atomic::{AtomicU64, Ordering},
};

use super::words::Words;

/// The elements number 0 to `len` - 1 of a lane, each of some words. A number beyond is a bug of the caller, and implementations
/// assert against it; a value that a peer can choose may never be used as one. That an element has word number `WORD` is checked
/// when it is compiled.
pub trait Lane {
    /// How many elements there are.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Loads a word, Relaxed.
    fn load_u64<const WORD: usize>(&self, number: usize) -> u64;
    /// Loads a word, Acquire.
    fn load_u64_acquire<const WORD: usize>(&self, number: usize) -> u64;
    /// Stores a word, Relaxed.
    fn store_u64<const WORD: usize>(&self, number: usize, value: u64);
}

/// A lane of any area: each access is one of the area.
pub(super) struct OfWords<'a, W, const WORDS: usize> {
    words: &'a W,
    at: usize,
    stride: usize,
    len: usize,
}

// Derived, they would ask for areas that copy.
impl<W, const WORDS: usize> Clone for OfWords<'_, W, WORDS> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<W, const WORDS: usize> Copy for OfWords<'_, W, WORDS> {}

impl<'a, W: Words, const WORDS: usize> OfWords<'a, W, WORDS> {
    pub(super) fn new(words: &'a W, at: usize, stride: usize, len: usize) -> Self {
        Self { words, at, stride, len }
    }

    fn offset<const WORD: usize>(&self, number: usize) -> usize {
        const { assert!(WORD < WORDS, "a word that elements do not have") };
        assert!(number < self.len, "an element that the lane does not have");
        self.at.wrapping_add(self.stride.wrapping_mul(number)).wrapping_add(8usize.wrapping_mul(WORD))
    }
}

impl<W: Words, const WORDS: usize> Lane for OfWords<'_, W, WORDS> {
    fn len(&self) -> usize {
        self.len
    }
    fn load_u64<const WORD: usize>(&self, number: usize) -> u64 {
        self.words.load_u64(self.offset::<WORD>(number))
    }
    fn load_u64_acquire<const WORD: usize>(&self, number: usize) -> u64 {
        self.words.load_u64_acquire(self.offset::<WORD>(number))
    }
    fn store_u64<const WORD: usize>(&self, number: usize, value: u64) {
        self.words.store_u64(self.offset::<WORD>(number), value);
    }
}

/// A lane of mapped memory.
#[cfg(feature = "std")]
#[derive(Clone, Copy)]
pub(super) struct Mapped<'a, const WORDS: usize> {
    first: *mut u8,
    stride: usize,
    len: usize,
    _life: PhantomData<&'a ()>,
}

#[cfg(feature = "std")]
impl<const WORDS: usize> Mapped<'_, WORDS> {
    /// The lane of `len` elements that lie `stride` bytes apart, the first one at `first`.
    ///
    /// # Safety
    /// 1. Each of their words is valid for reads and writes for the life of the lane, by whoever may race, and through atomics
    ///    only.
    /// 2. `first` is aligned to 8 bytes, and `stride` is a multiple of 8.
    pub(super) const unsafe fn new(first: *mut u8, stride: usize, len: usize) -> Self {
        Self { first, stride, len, _life: PhantomData }
    }

    #[inline(always)]
    #[track_caller]
    fn word<const WORD: usize>(&self, number: usize) -> &AtomicU64 {
        const { assert!(WORD < WORDS, "a word that elements do not have") };
        assert!(number < self.len, "an element that the lane does not have");
        let element = self.first.wrapping_add(self.stride.wrapping_mul(number));
        let word = element.cast::<u64>().wrapping_add(WORD);
        // SAFETY: number < len and WORD < WORDS, so the word is one of those that are valid for atomics (1) and it is aligned (2).
        unsafe { AtomicU64::from_ptr(word) }
    }
}

#[cfg(feature = "std")]
impl<const WORDS: usize> Lane for Mapped<'_, WORDS> {
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }
    #[inline(always)]
    fn load_u64<const WORD: usize>(&self, number: usize) -> u64 {
        u64::from_le(self.word::<WORD>(number).load(Ordering::Relaxed))
    }
    #[inline(always)]
    fn load_u64_acquire<const WORD: usize>(&self, number: usize) -> u64 {
        u64::from_le(self.word::<WORD>(number).load(Ordering::Acquire))
    }
    #[inline(always)]
    fn store_u64<const WORD: usize>(&self, number: usize, value: u64) {
        self.word::<WORD>(number).store(value.to_le(), Ordering::Relaxed);
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
        let mapped = area.lane::<1>(8, 16, 7);
        let plain = OfWords::<_, 1>::new(&area, 8, 16, 7);
        assert_eq!((mapped.len(), plain.len()), (7, 7));
        for number in 0..7usize {
            mapped.store_u64::<0>(number, number as u64 + 100);
            assert_eq!(area.load_u64(8 + 16 * number), number as u64 + 100);
            assert_eq!(
                (plain.load_u64::<0>(number), plain.load_u64_acquire::<0>(number)),
                (number as u64 + 100, number as u64 + 100)
            );
            plain.store_u64::<0>(number, 7);
            assert_eq!((mapped.load_u64::<0>(number), mapped.load_u64_acquire::<0>(number)), (7, 7));
        }
        assert!(asserts(|| _ = mapped.load_u64::<0>(7)));
        assert!(asserts(|| plain.store_u64::<0>(7, 0)));
        assert!(asserts(|| mapped.store_u64::<0>(usize::MAX, 0)));
    }

    /// And neither word of one element is a word of another.
    #[test]
    fn elements_have_several_words() {
        let memfd = Memfd::create("lane", 4096).unwrap();
        let area = Mapping::of(&memfd).unwrap().area(64, 128).unwrap();
        let (mapped, plain) = (area.lane::<2>(16, 16, 7), OfWords::<_, 2>::new(&area, 16, 16, 7));
        for number in 0..7usize {
            mapped.store_u64::<0>(number, number as u64);
            plain.store_u64::<1>(number, number as u64 + 100);
        }
        for number in 0..7usize {
            assert_eq!(area.load_u64(16 + 16 * number), number as u64);
            assert_eq!(area.load_u64(24 + 16 * number), number as u64 + 100);
            assert_eq!(
                (plain.load_u64::<0>(number), mapped.load_u64_acquire::<1>(number)),
                (number as u64, number as u64 + 100)
            );
        }
        assert!(asserts(|| _ = mapped.load_u64::<1>(7)) && asserts(|| _ = plain.load_u64::<1>(7)));
    }

    #[test]
    fn a_lane_that_leaves_its_area_is_none() {
        let memfd = Memfd::create("lane", 4096).unwrap();
        let area = Mapping::of(&memfd).unwrap().area(0, 128).unwrap();
        assert_eq!(area.lane::<1>(0, 16, 8).len(), 8);
        assert_eq!(area.lane::<2>(0, 16, 8).len(), 8);
        assert_eq!(area.lane::<1>(120, 16, 1).len(), 1);
        assert_eq!(area.lane::<1>(0, 16, 0).len(), 0);
        assert!(asserts(|| _ = area.lane::<1>(16, 16, 8).len()));
        assert!(asserts(|| _ = area.lane::<2>(120, 16, 1).len()), "its second word is outside");
        assert!(asserts(|| _ = area.lane::<2>(8, 16, 8).len()), "the second word of the last is outside");
        assert!(asserts(|| _ = area.lane::<1>(4, 16, 2).len()), "misaligned");
        assert!(asserts(|| _ = area.lane::<1>(0, 12, 2).len()), "misaligned");
        assert!(asserts(|| _ = area.lane::<1>(0, 16, usize::MAX).len()));
        assert!(asserts(|| _ = area.lane::<1>(usize::MAX - 7, 8, 1).len()));
    }
}
