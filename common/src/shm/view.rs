//! Views that say whose words an area holds.
//!
//! The type decides what can be done: words of [`Ours`] are stored and never read back, words of [`Theirs`] are loaded
//! as claims and can be scrubbed. The slots of a packed ring are written by both sides: loads of [`Both`] are claims too,
//! even where this side was the last to write.

#[cfg(feature = "std")]
use super::area::{Area, Bytes};
use super::lane::{Element, Items, Lane};
use super::words::Words;
use crate::claim::Alleged;

/// An area that this side writes and never reads: there is no load method.
#[derive(Clone, Copy, Debug)]
pub struct Ours<W>(W);

impl<W: Words> Ours<W> {
    /// The same area as a value that copies freely, for a loop that keeps it in registers.
    #[inline]
    pub fn view(&self) -> Ours<impl Words + Copy + '_> {
        Ours(self.0.view())
    }

    /// The `len` elements of so many `WORDS` that lie `stride` bytes apart, the first one at `at`: see [`Words::lane`].
    #[inline]
    pub fn lane<const WORDS: usize>(&self, at: usize, stride: usize, len: usize) -> OursLane<impl Lane + Copy + '_> {
        OursLane(self.0.lane::<WORDS>(at, stride, len))
    }
    /// Takes an area for writing.
    #[inline]
    pub const fn new(words: W) -> Self {
        Self(words)
    }
    /// Bytes in the area.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether the area has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Whether words of `bytes` bytes can live at offset `at`.
    #[inline]
    pub fn is_aligned(&self, at: usize, bytes: usize) -> bool {
        self.0.is_aligned(at, bytes)
    }
    /// Stores a 16-bit word.
    #[inline]
    pub fn store_u16(&self, at: usize, value: u16) {
        self.0.store_u16(at, value);
    }
    /// Publishes a 16-bit index: Release, so that whoever loads it with Acquire sees everything stored before.
    #[inline]
    pub fn publish_u16(&self, at: usize, value: u16) {
        self.0.store_u16_release(at, value);
    }
    /// Stores a 32-bit word.
    #[inline]
    pub fn store_u32(&self, at: usize, value: u32) {
        self.0.store_u32(at, value);
    }
    /// Stores a 64-bit word.
    #[inline]
    pub fn store_u64(&self, at: usize, value: u64) {
        self.0.store_u64(at, value);
    }
    /// Copies private bytes in.
    #[inline]
    pub fn copy_in(&self, at: usize, from: &[u8]) {
        self.0.copy_in(at, from);
    }
    /// Asks for the line of a byte that will be stored. No access.
    #[inline]
    pub fn prefetch(&self, at: usize) {
        self.0.prefetch(at, true);
    }
    /// Stores zeros.
    #[inline]
    pub fn zero(&self, at: usize, len: usize) {
        self.0.zero(at, len);
    }
}

/// An area that the peer writes. Loads are claims; this side may scrub bytes that it is about to lend again.
///
/// The load methods are called from the two files named `boundary.rs` only.
#[derive(Clone, Copy, Debug)]
pub struct Theirs<W>(W);

impl<W: Words> Theirs<W> {
    /// The same area as a value that copies freely, for a loop that keeps it in registers.
    #[inline]
    pub fn view(&self) -> Theirs<impl Words + Copy + '_> {
        Theirs(self.0.view())
    }

    /// The `len` elements of so many `WORDS` that lie `stride` bytes apart, the first one at `at`: see [`Words::lane`].
    #[inline]
    pub fn lane<const WORDS: usize>(&self, at: usize, stride: usize, len: usize) -> TheirsLane<impl Lane + Copy + '_> {
        TheirsLane(self.0.lane::<WORDS>(at, stride, len))
    }
    /// Takes an area for reading.
    #[inline]
    pub const fn new(words: W) -> Self {
        Self(words)
    }
    /// Bytes in the area.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether the area has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Whether words of `bytes` bytes can live at offset `at`.
    #[inline]
    pub fn is_aligned(&self, at: usize, bytes: usize) -> bool {
        self.0.is_aligned(at, bytes)
    }
    /// Loads a byte once.
    #[inline]
    pub fn load_u8_alleged(&self, at: usize) -> Alleged<u8> {
        Alleged::new(self.0.load_u8(at))
    }
    /// Loads a 16-bit word once.
    #[inline]
    pub fn load_u16_alleged(&self, at: usize) -> Alleged<u16> {
        Alleged::new(self.0.load_u16(at))
    }
    /// Loads a 16-bit index once, Acquire: pairs with the peer's Release store of it.
    #[inline]
    pub fn load_index_alleged(&self, at: usize) -> Alleged<u16> {
        Alleged::new(self.0.load_u16_acquire(at))
    }
    /// Loads a 32-bit word once.
    #[inline]
    pub fn load_u32_alleged(&self, at: usize) -> Alleged<u32> {
        Alleged::new(self.0.load_u32(at))
    }
    /// Loads a 64-bit word once.
    #[inline]
    pub fn load_u64_alleged(&self, at: usize) -> Alleged<u64> {
        Alleged::new(self.0.load_u64(at))
    }
    /// Asks for the line of a byte that will be loaded. No access.
    #[inline]
    pub fn prefetch(&self, at: usize) {
        self.0.prefetch(at, false);
    }
    /// Copies bytes to private memory. What arrives there is the peer's data, and stands still from then on.
    #[inline]
    pub fn copy_out_alleged(&self, at: usize, to: &mut [u8]) {
        self.0.copy_out(at, to);
    }
    /// Stores zeros over what the peer wrote, before the bytes are lent again.
    #[inline]
    pub fn scrub(&self, at: usize, len: usize) {
        self.0.zero(at, len);
    }
}

#[cfg(feature = "std")]
impl Theirs<Area> {
    /// As [`view`](Self::view), to be [cut](Theirs::part).
    #[inline(always)]
    #[must_use]
    pub fn bytes(&self) -> Theirs<Bytes<'_>> {
        Theirs(self.0.bytes())
    }

    /// Copies bytes to an area of ours that the peer reads, from shared memory to shared memory. Nobody looks at them.
    #[inline]
    pub fn copy_over_alleged(&self, at: usize, to: &Ours<Area>, to_at: usize, len: usize) {
        to.0.bytes().copy_from(to_at, self.0.bytes(), at, len);
    }
}

#[cfg(feature = "std")]
impl Theirs<Bytes<'_>> {
    /// The `len` bytes from `at` on, asserted to be inside.
    #[inline(always)]
    #[must_use]
    #[track_caller]
    pub fn part(&self, at: usize, len: usize) -> Self {
        Self(self.0.part(at, len))
    }

    /// The first `at` bytes and those behind them; `None` if there are fewer.
    #[inline(always)]
    #[must_use]
    pub fn split_at_checked(self, at: usize) -> Option<(Self, Self)> {
        self.0.split_at_checked(at).map(|(first, behind)| (Self(first), Self(behind)))
    }

    /// Whether these 12 bytes, a net header, lie at `at`, each of them loaded once.
    #[inline(always)]
    pub fn holds_alleged(&self, at: usize, bytes: &[u8; 12]) -> Alleged<bool> {
        Alleged::new(self.0.holds(at, bytes))
    }
}

/// An area that both sides write: the slots of a packed ring (2.8.13).
///
/// Each slot is two 64-bit words. Nothing tells whether this side or the peer stored a word last, so every load is a
/// claim. The load methods are called from the two files named `boundary.rs` only.
#[derive(Clone, Copy, Debug)]
pub struct Both<W>(W);

impl<W: Words> Both<W> {
    /// The same area as a value that copies freely, for a loop that keeps it in registers.
    #[inline]
    pub fn view(&self) -> Both<impl Words + Copy + '_> {
        Both(self.0.view())
    }

    /// The `len` elements of so many `WORDS` that lie `stride` bytes apart, the first one at `at`: see [`Words::lane`].
    #[inline]
    pub fn lane<const WORDS: usize>(&self, at: usize, stride: usize, len: usize) -> BothLane<impl Lane + Copy + '_> {
        BothLane(self.0.lane::<WORDS>(at, stride, len))
    }
    /// Takes an area for reading and writing.
    #[inline]
    pub const fn new(words: W) -> Self {
        Self(words)
    }
    /// Bytes in the area.
    #[inline]
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether the area has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Whether words of `bytes` bytes can live at offset `at`.
    #[inline]
    pub fn is_aligned(&self, at: usize, bytes: usize) -> bool {
        self.0.is_aligned(at, bytes)
    }
    /// Stores a 64-bit word.
    #[inline]
    pub fn store_u64(&self, at: usize, value: u64) {
        self.0.store_u64(at, value);
    }
    /// Publishes the word of a slot that has its flags: Release, so that whoever loads it with Acquire sees everything
    /// stored before.
    #[inline]
    pub fn publish_u64(&self, at: usize, value: u64) {
        self.0.store_u64_release(at, value);
    }
    /// Stores zeros.
    #[inline]
    pub fn zero(&self, at: usize, len: usize) {
        self.0.zero(at, len);
    }
    /// Asks for the line of a byte that will be stored. No access.
    #[inline]
    pub fn prefetch(&self, at: usize) {
        self.0.prefetch(at, true);
    }
    /// Loads the word of a slot that has its flags once, Acquire: pairs with the peer's Release store of it.
    #[inline]
    pub fn load_flags_alleged(&self, at: usize) -> Alleged<u64> {
        Alleged::new(self.0.load_u64_acquire(at))
    }
    /// Loads a 64-bit word once.
    #[inline]
    pub fn load_u64_alleged(&self, at: usize) -> Alleged<u64> {
        Alleged::new(self.0.load_u64(at))
    }
}

/// Elements of [`Ours`] at equal distances.
#[derive(Clone, Copy, Debug)]
pub struct OursLane<L>(L);

impl<L: Lane> OursLane<L> {
    /// Stores a word.
    #[inline(always)]
    pub fn store_u64<const WORD: usize>(&self, number: usize, value: u64) {
        self.0.store_u64::<WORD>(number, value);
    }
}

/// Elements of [`Theirs`] at equal distances.
#[derive(Clone, Copy, Debug)]
pub struct TheirsLane<L>(L);

impl<L: Lane> TheirsLane<L> {
    /// Loads a word once.
    #[inline(always)]
    pub fn load_word_alleged<const WORD: usize>(&self, number: usize) -> Alleged<u64> {
        Alleged::new(self.0.load_u64::<WORD>(number))
    }
    /// Each of the items with an element, from number `first` on: see [`Lane::along`].
    #[inline(always)]
    pub fn along<I: Items>(self, first: usize, items: I) -> impl Iterator<Item = (I::Item, TheirsElement<L::Element>)> {
        self.0.along(first, items).map(|(item, element)| (item, TheirsElement(element)))
    }
}

/// An element of [`Theirs`].
#[derive(Clone, Copy, Debug)]
pub struct TheirsElement<E>(E);

impl<E: Element> TheirsElement<E> {
    /// Loads a word once.
    #[inline(always)]
    pub fn load_word_alleged<const WORD: usize>(&self) -> Alleged<u64> {
        Alleged::new(self.0.load_u64::<WORD>())
    }
}

/// Elements of [`Both`] at equal distances.
#[derive(Clone, Copy, Debug)]
pub struct BothLane<L>(L);

impl<L: Lane> BothLane<L> {
    /// Stores a word.
    #[inline(always)]
    pub fn store_u64<const WORD: usize>(&self, number: usize, value: u64) {
        self.0.store_u64::<WORD>(number, value);
    }
    /// Loads the word of a slot that has its flags once, Acquire: pairs with the peer's Release store of it.
    #[inline(always)]
    pub fn load_flags_alleged<const WORD: usize>(&self, number: usize) -> Alleged<u64> {
        Alleged::new(self.0.load_u64_acquire::<WORD>(number))
    }
    /// Loads a word once.
    #[inline(always)]
    pub fn load_word_alleged<const WORD: usize>(&self, number: usize) -> Alleged<u64> {
        Alleged::new(self.0.load_u64::<WORD>(number))
    }
    /// Each of the items with an element, from number `first` on: see [`Lane::along`].
    #[inline(always)]
    pub fn along<I: Items>(self, first: usize, items: I) -> impl Iterator<Item = (I::Item, BothElement<L::Element>)> {
        self.0.along(first, items).map(|(item, element)| (item, BothElement(element)))
    }
}

/// An element of [`Both`].
#[derive(Clone, Copy, Debug)]
pub struct BothElement<E>(E);

impl<E: Element> BothElement<E> {
    /// Stores a word.
    #[inline(always)]
    pub fn store_u64<const WORD: usize>(&self, value: u64) {
        self.0.store_u64::<WORD>(value);
    }
    /// Loads the word of a slot that has its flags once, Acquire: pairs with the peer's Release store of it.
    #[inline(always)]
    pub fn load_flags_alleged<const WORD: usize>(&self) -> Alleged<u64> {
        Alleged::new(self.0.load_u64_acquire::<WORD>())
    }
    /// Loads a word once.
    #[inline(always)]
    pub fn load_word_alleged<const WORD: usize>(&self) -> Alleged<u64> {
        Alleged::new(self.0.load_u64::<WORD>())
    }
}
