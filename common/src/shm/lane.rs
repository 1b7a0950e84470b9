//! Words of 64 bits at equal distances: the elements of a ring, checked once for all of them.
//!
//! A ring's element is one word or some that follow one another, and a burst touches many. That all of them lie inside the
//! area and on their own boundaries is a question about the ring, so it is asked once; what is left is whether the ring has such an
//! element, of each access, or of a whole slice, or range of numbers, whose items go along the ring.

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
    /// One of them.
    type Element: Element;
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
    /// Each of the items with an element, from number `first` on, of which it is asked once whether the lane has so many.
    fn along<I: Items>(self, first: usize, items: I) -> impl Iterator<Item = (I::Item, Self::Element)>
    where
        Self: Sized;
}

/// An element of a lane, which has it.
pub trait Element {
    /// Loads a word, Relaxed.
    fn load_u64<const WORD: usize>(&self) -> u64;
    /// Loads a word, Acquire.
    fn load_u64_acquire<const WORD: usize>(&self) -> u64;
    /// Stores a word, Relaxed.
    fn store_u64<const WORD: usize>(&self, value: u64);
}

/// Slices, and ranges of numbers: what is known to have just so many items.
pub trait Items: sealed::Sealed {
    /// One of them.
    type Item;
    /// How many there are.
    fn count(&self) -> usize;
    /// As many.
    fn items(self) -> impl Iterator<Item = Self::Item>;
}

impl<'a, T> Items for &'a [T] {
    type Item = &'a T;
    #[inline(always)]
    fn count(&self) -> usize {
        self.len()
    }
    #[inline(always)]
    fn items(self) -> impl Iterator<Item = &'a T> {
        self.iter()
    }
}

impl<'a, T> Items for &'a mut [T] {
    type Item = &'a mut T;
    #[inline(always)]
    fn count(&self) -> usize {
        self.len()
    }
    #[inline(always)]
    fn items(self) -> impl Iterator<Item = &'a mut T> {
        self.iter_mut()
    }
}

impl Items for core::ops::Range<usize> {
    type Item = usize;
    #[inline(always)]
    fn count(&self) -> usize {
        self.len()
    }
    #[inline(always)]
    fn items(self) -> impl Iterator<Item = usize> {
        self
    }
}

/// Lanes go by the number of items that there are, so nobody else may say how many.
mod sealed {
    /// # Safety
    /// Of an [`Items`](super::Items) that has this, `items` gives as many as `count` says, and no more.
    pub unsafe trait Sealed {}
    // SAFETY: a slice has one length, and its iterators end there.
    unsafe impl<T> Sealed for &[T] {}
    // SAFETY: as above.
    unsafe impl<T> Sealed for &mut [T] {}
    // SAFETY: the numbers from its start to before its end, or none; its length says how many that are.
    unsafe impl Sealed for core::ops::Range<usize> {}
}

/// Asserts that there are `count` elements from number `first` on, of `len`.
#[inline(always)]
#[track_caller]
fn assert_run(first: usize, count: usize, len: usize) {
    assert!(len.checked_sub(first).is_some_and(|rest| count <= rest), "elements that the lane does not have");
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

/// An element of a lane of any area: the lane, and its number.
pub(super) struct OfLane<L>(L, usize);

impl<L: Lane> Element for OfLane<L> {
    fn load_u64<const WORD: usize>(&self) -> u64 {
        self.0.load_u64::<WORD>(self.1)
    }
    fn load_u64_acquire<const WORD: usize>(&self) -> u64 {
        self.0.load_u64_acquire::<WORD>(self.1)
    }
    fn store_u64<const WORD: usize>(&self, value: u64) {
        self.0.store_u64::<WORD>(self.1, value);
    }
}

impl<W: Words, const WORDS: usize> Lane for OfWords<'_, W, WORDS> {
    type Element = OfLane<Self>;
    fn along<I: Items>(self, first: usize, items: I) -> impl Iterator<Item = (I::Item, Self::Element)> {
        assert_run(first, items.count(), self.len);
        items.items().zip(first..).map(move |(item, number)| (item, OfLane(self, number)))
    }
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
    fn element(&self, number: usize) -> OfMapping<'_, WORDS> {
        assert!(number < self.len, "an element that the lane does not have");
        OfMapping { at: self.first.wrapping_add(self.stride.wrapping_mul(number)), _life: PhantomData }
    }
}

/// An element of a lane of mapped memory, which has it: made by the lane alone.
#[cfg(feature = "std")]
pub(super) struct OfMapping<'a, const WORDS: usize> {
    at: *mut u8,
    _life: PhantomData<&'a ()>,
}

#[cfg(feature = "std")]
impl<const WORDS: usize> OfMapping<'_, WORDS> {
    #[inline(always)]
    fn word<const WORD: usize>(&self) -> &AtomicU64 {
        const { assert!(WORD < WORDS, "a word that elements do not have") };
        let word = self.at.cast::<u64>().wrapping_add(WORD);
        // SAFETY: it is an element of a lane, whose number `element` or `along` has compared with how many there are, and
        // WORD < WORDS, so the word is one of those that are valid for atomics as long as the lane is (1 of `Mapped::new`), and it
        // is aligned (2).
        unsafe { AtomicU64::from_ptr(word) }
    }
}

#[cfg(feature = "std")]
impl<const WORDS: usize> Element for OfMapping<'_, WORDS> {
    #[inline(always)]
    fn load_u64<const WORD: usize>(&self) -> u64 {
        u64::from_le(self.word::<WORD>().load(Ordering::Relaxed))
    }
    #[inline(always)]
    fn load_u64_acquire<const WORD: usize>(&self) -> u64 {
        u64::from_le(self.word::<WORD>().load(Ordering::Acquire))
    }
    #[inline(always)]
    fn store_u64<const WORD: usize>(&self, value: u64) {
        self.word::<WORD>().store(value.to_le(), Ordering::Relaxed);
    }
}

#[cfg(feature = "std")]
impl<'a, const WORDS: usize> Lane for Mapped<'a, WORDS> {
    type Element = OfMapping<'a, WORDS>;
    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }
    #[inline(always)]
    fn load_u64<const WORD: usize>(&self, number: usize) -> u64 {
        self.element(number).load_u64::<WORD>()
    }
    #[inline(always)]
    fn load_u64_acquire<const WORD: usize>(&self, number: usize) -> u64 {
        self.element(number).load_u64_acquire::<WORD>()
    }
    #[inline(always)]
    fn store_u64<const WORD: usize>(&self, number: usize, value: u64) {
        self.element(number).store_u64::<WORD>(value);
    }
    #[inline(always)]
    fn along<I: Items>(self, first: usize, items: I) -> impl Iterator<Item = (I::Item, Self::Element)> {
        assert_run(first, items.count(), self.len);
        let Self { first: start, stride, .. } = self;
        let mut next = start.wrapping_add(stride.wrapping_mul(first));
        items.items().map(move |item| {
            let at = next;
            next = next.wrapping_add(stride);
            // One of as many as were asked for: there are no more items (`Sealed`).
            (item, OfMapping { at, _life: PhantomData })
        })
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

    /// As many as there are items, and never beyond the lane.
    #[test]
    fn items_go_along_a_lane() {
        let memfd = Memfd::create("lane", 4096).unwrap();
        let area = Mapping::of(&memfd).unwrap().area(64, 128).unwrap();
        let (mapped, plain) = (area.lane::<2>(16, 16, 7), OfWords::<_, 2>::new(&area, 16, 16, 7));
        for first in 0..=8usize {
            for count in 0..=8usize {
                let (items, mut loaded) = ((0..count as u64).collect::<Vec<_>>(), vec![[0; 2]; count]);
                if first + count > 7 {
                    assert!(asserts(|| drop(mapped.along(first, &*items))));
                    assert!(asserts(|| drop(plain.along(first, &*items))));
                    continue;
                }
                mapped.along(first, &*items).for_each(|(item, element)| element.store_u64::<0>(*item + 100));
                plain.along(first, &*items).for_each(|(item, element)| element.store_u64::<1>(*item + 200));
                for (item, number) in items.iter().zip(first..) {
                    let words = [mapped.load_u64::<0>(number), plain.load_u64::<1>(number)];
                    assert_eq!(words, [item + 100, item + 200], "{first} {count}");
                }
                let with_numbers = mapped.along(first, 3..count + 3).map(|(n, element)| (n, element.load_u64::<0>()));
                assert!(with_numbers.eq((3..count + 3).map(|n| (n, n as u64 + 97))));
                let with_numbers = plain.along(first, 3..count + 3).map(|(n, element)| (n, element.load_u64::<1>()));
                assert!(with_numbers.eq((3..count + 3).map(|n| (n, n as u64 + 197))));
                for (to, element) in mapped.along(first, &mut *loaded) {
                    *to = [element.load_u64::<0>(), element.load_u64_acquire::<1>()];
                }
                assert!(loaded.iter().zip(&items).all(|(words, item)| *words == [item + 100, item + 200]));
                for (to, element) in plain.along(first, &mut *loaded) {
                    *to = [element.load_u64_acquire::<0>() + 1, element.load_u64::<1>() + 1];
                }
                assert!(loaded.iter().zip(&items).all(|(words, item)| *words == [item + 101, item + 201]));
            }
        }
        assert!(asserts(|| drop(mapped.along(usize::MAX, &[0, 1][..]))));
        assert!(asserts(|| drop(mapped.along(6, 0..2))) && asserts(|| drop(plain.along(6, 0..2))));
        let (start, end) = (2usize, 1usize);
        assert_eq!(mapped.along(7, start..end).count(), 0);
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
