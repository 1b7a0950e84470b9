//! A double that writes down every load of shared memory.
//!
//! It wraps any [`Words`] and notes each load with its offset and size in a log that the test reads. This is how the
//! allowed-load set is a tested property: a ring over counting areas is put to work, and any load that the trust rule does
//! not list fails the test.

use std::cell::RefCell;
use std::rc::Rc;

use ironring_common::shm::words::Words;

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Load {
    /// Which area, by the name that the test gave it.
    pub area: &'static str,
    /// Offset in the area.
    pub at: usize,
    /// Bytes loaded.
    pub bytes: usize,
}

/// The loads of all areas that share it, in order.
#[derive(Clone, Debug, Default)]
pub struct LoadLog(Rc<RefCell<Vec<Load>>>);

impl LoadLog {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what was noted since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<Load> {
        std::mem::take(&mut self.0.borrow_mut())
    }

    fn note(&self, area: &'static str, at: usize, bytes: usize) {
        self.0.borrow_mut().push(Load { area, at, bytes });
    }
}

/// An area whose loads are noted. Stores are not.
#[derive(Clone, Debug)]
pub struct Counting<W> {
    words: W,
    area: &'static str,
    log: LoadLog,
}

impl<W: Words> Counting<W> {
    /// Wraps an area under a name.
    pub fn new(words: W, area: &'static str, log: &LoadLog) -> Self {
        Self { words, area, log: log.clone() }
    }
}

impl<W: Words> Words for Counting<W> {
    fn len(&self) -> usize {
        self.words.len()
    }
    fn is_aligned(&self, at: usize, bytes: usize) -> bool {
        self.words.is_aligned(at, bytes)
    }
    fn load_u16(&self, at: usize) -> u16 {
        self.log.note(self.area, at, 2);
        self.words.load_u16(at)
    }
    fn load_u16_acquire(&self, at: usize) -> u16 {
        self.log.note(self.area, at, 2);
        self.words.load_u16_acquire(at)
    }
    fn load_u32(&self, at: usize) -> u32 {
        self.log.note(self.area, at, 4);
        self.words.load_u32(at)
    }
    fn load_u64(&self, at: usize) -> u64 {
        self.log.note(self.area, at, 8);
        self.words.load_u64(at)
    }
    fn load_u64_acquire(&self, at: usize) -> u64 {
        self.log.note(self.area, at, 8);
        self.words.load_u64_acquire(at)
    }
    fn store_u16(&self, at: usize, value: u16) {
        self.words.store_u16(at, value);
    }
    fn store_u16_release(&self, at: usize, value: u16) {
        self.words.store_u16_release(at, value);
    }
    fn store_u32(&self, at: usize, value: u32) {
        self.words.store_u32(at, value);
    }
    fn store_u64(&self, at: usize, value: u64) {
        self.words.store_u64(at, value);
    }
    fn store_u64_release(&self, at: usize, value: u64) {
        self.words.store_u64_release(at, value);
    }
    fn copy_in(&self, at: usize, from: &[u8]) {
        self.words.copy_in(at, from);
    }
    fn copy_out(&self, at: usize, to: &mut [u8]) {
        self.log.note(self.area, at, to.len());
        self.words.copy_out(at, to);
    }
    fn zero(&self, at: usize, len: usize) {
        self.words.zero(at, len);
    }
}
