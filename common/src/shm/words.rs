//! The seam between ring code and memory.

use super::lane::{Lane, OfWords};

/// One contiguous area of shared memory, addressed by byte offset.
///
/// Each method is exactly one access of exactly its size (copies excepted), never elided, never split. Offsets come from
/// the caller's private state. An offset that is out of range or not aligned to its word is a bug of the caller, and
/// implementations assert against it; no value that a peer can choose may ever be used as an offset.
///
/// Words are little-endian in memory; values are in the machine's order.
pub trait Words {
    /// The same words as a value that copies freely, for a loop that keeps it in registers: what such a loop stores might, as
    /// far as the compiler can tell, change where the area is.
    #[inline]
    fn view(&self) -> impl Words + Copy + '_
    where
        Self: Sized,
    {
        self
    }

    /// The `len` elements of so many `WORDS` of 64 bits each that lie `stride` bytes apart, the first one at `at`. All of them have to
    /// lie inside the area, on multiples of 8 bytes.
    #[inline]
    fn lane<const WORDS: usize>(&self, at: usize, stride: usize, len: usize) -> impl Lane + Copy + '_
    where
        Self: Sized,
    {
        OfWords::<_, WORDS>::new(self, at, stride, len)
    }

    /// Bytes in the area.
    fn len(&self) -> usize;
    /// Whether the area has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Whether words of `bytes` bytes (2, 4 or 8) can live at offset `at`: offsets are relative, addresses are not.
    fn is_aligned(&self, at: usize, bytes: usize) -> bool;

    /// Loads a byte, Relaxed.
    #[inline]
    fn load_u8(&self, at: usize) -> u8 {
        let mut byte = [0];
        self.copy_out(at, &mut byte);
        let [byte] = byte;
        byte
    }
    /// Loads a 16-bit word, Relaxed.
    fn load_u16(&self, at: usize) -> u16;
    /// Loads a 16-bit word, Acquire.
    fn load_u16_acquire(&self, at: usize) -> u16;
    /// Loads a 32-bit word, Relaxed.
    fn load_u32(&self, at: usize) -> u32;
    /// Loads a 64-bit word, Relaxed.
    fn load_u64(&self, at: usize) -> u64;
    /// Loads a 64-bit word, Acquire.
    fn load_u64_acquire(&self, at: usize) -> u64;
    /// Stores a 16-bit word, Relaxed.
    fn store_u16(&self, at: usize, value: u16);
    /// Stores a 16-bit word, Release.
    fn store_u16_release(&self, at: usize, value: u16);
    /// Stores a 32-bit word, Relaxed.
    fn store_u32(&self, at: usize, value: u32);
    /// Stores a 64-bit word, Relaxed.
    fn store_u64(&self, at: usize, value: u64);
    /// Stores a 64-bit word, Release.
    fn store_u64_release(&self, at: usize, value: u64);

    /// Copies private bytes into the area.
    fn copy_in(&self, at: usize, from: &[u8]);
    /// Copies bytes of the area to private memory.
    fn copy_out(&self, at: usize, to: &mut [u8]);
    /// Stores zeros.
    fn zero(&self, at: usize, len: usize);

    /// Asks the processor to fetch the line of a byte that will be loaded, or with `write` stored. No access: nothing
    /// depends on it, and an offset that is out of range does no harm.
    #[inline]
    fn prefetch(&self, at: usize, write: bool) {
        let _ = (at, write);
    }
}

impl<W: Words + ?Sized> Words for &W {
    #[inline]
    fn len(&self) -> usize {
        (**self).len()
    }
    #[inline]
    fn is_aligned(&self, at: usize, bytes: usize) -> bool {
        (**self).is_aligned(at, bytes)
    }
    #[inline]
    fn load_u8(&self, at: usize) -> u8 {
        (**self).load_u8(at)
    }
    #[inline]
    fn load_u16(&self, at: usize) -> u16 {
        (**self).load_u16(at)
    }
    #[inline]
    fn load_u16_acquire(&self, at: usize) -> u16 {
        (**self).load_u16_acquire(at)
    }
    #[inline]
    fn load_u32(&self, at: usize) -> u32 {
        (**self).load_u32(at)
    }
    #[inline]
    fn load_u64(&self, at: usize) -> u64 {
        (**self).load_u64(at)
    }
    #[inline]
    fn load_u64_acquire(&self, at: usize) -> u64 {
        (**self).load_u64_acquire(at)
    }
    #[inline]
    fn store_u16(&self, at: usize, value: u16) {
        (**self).store_u16(at, value);
    }
    #[inline]
    fn store_u16_release(&self, at: usize, value: u16) {
        (**self).store_u16_release(at, value);
    }
    #[inline]
    fn store_u32(&self, at: usize, value: u32) {
        (**self).store_u32(at, value);
    }
    #[inline]
    fn store_u64(&self, at: usize, value: u64) {
        (**self).store_u64(at, value);
    }
    #[inline]
    fn store_u64_release(&self, at: usize, value: u64) {
        (**self).store_u64_release(at, value);
    }
    #[inline]
    fn copy_in(&self, at: usize, from: &[u8]) {
        (**self).copy_in(at, from);
    }
    #[inline]
    fn copy_out(&self, at: usize, to: &mut [u8]) {
        (**self).copy_out(at, to);
    }
    #[inline]
    fn zero(&self, at: usize, len: usize) {
        (**self).zero(at, len);
    }
    #[inline]
    fn prefetch(&self, at: usize, write: bool) {
        (**self).prefetch(at, write);
    }
}
