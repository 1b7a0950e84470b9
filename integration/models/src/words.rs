//! Shared memory of loom's atomics.
//!
//! Each shared word has one size everywhere, so a word is a cell of 64 bits under its offset. A load yields whatever the
//! memory model allows at that moment, not only what was stored last: that is what the models are about.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use ironring_common::shm::words::Words;
use loom::sync::atomic::{AtomicU64, Ordering};

use crate::Mutant;

/// One area, as one side sees it. Clones are the same memory.
pub struct Cells {
    cells: Arc<BTreeMap<usize, AtomicU64>>,
    len: usize,
    mutant: Mutant,
    /// With [`Mutant::SwappedStores`]: the first plain store of a burst, which comes after its Release store.
    delayed: RefCell<Option<(usize, u64)>>,
}

impl Cells {
    /// An area of `len` bytes with words at these offsets, all zero.
    pub fn new(len: usize, offsets: impl IntoIterator<Item = usize>, mutant: Mutant) -> Self {
        let cells = offsets.into_iter().map(|at| (at, AtomicU64::new(0))).collect();
        Self { cells: Arc::new(cells), len, mutant, delayed: RefCell::default() }
    }

    /// The other side's view.
    pub fn share(&self) -> Self {
        Self { cells: Arc::clone(&self.cells), len: self.len, mutant: self.mutant, delayed: RefCell::default() }
    }

    fn cell(&self, at: usize) -> &AtomicU64 {
        self.cells.get(&at).unwrap_or_else(|| panic!("no word at {at}"))
    }

    fn load(&self, at: usize) -> u64 {
        self.cell(at).load(Ordering::Relaxed)
    }

    fn acquire(&self, at: usize) -> u64 {
        let order = if self.mutant == Mutant::RelaxedLook { Ordering::Relaxed } else { Ordering::Acquire };
        self.cell(at).load(order)
    }

    fn store(&self, at: usize, value: u64) {
        if self.mutant == Mutant::SwappedStores {
            let mut delayed = self.delayed.borrow_mut();
            if delayed.is_none() {
                *delayed = Some((at, value));
                return;
            }
        }
        self.cell(at).store(value, Ordering::Relaxed);
    }

    fn release(&self, at: usize, value: u64) {
        let order = if self.mutant == Mutant::RelaxedPublish { Ordering::Relaxed } else { Ordering::Release };
        self.cell(at).store(value, order);
        if let Some((at, value)) = self.delayed.take() {
            self.cell(at).store(value, Ordering::Relaxed);
        }
    }
}

impl Words for Cells {
    fn len(&self) -> usize {
        self.len
    }
    fn is_aligned(&self, _at: usize, _bytes: usize) -> bool {
        true
    }
    fn load_u16(&self, at: usize) -> u16 {
        self.load(at) as u16
    }
    fn load_u16_acquire(&self, at: usize) -> u16 {
        self.acquire(at) as u16
    }
    fn load_u32(&self, at: usize) -> u32 {
        self.load(at) as u32
    }
    fn load_u64(&self, at: usize) -> u64 {
        self.load(at)
    }
    fn load_u64_acquire(&self, at: usize) -> u64 {
        self.acquire(at)
    }
    fn store_u16(&self, at: usize, value: u16) {
        self.store(at, value.into());
    }
    fn store_u16_release(&self, at: usize, value: u16) {
        self.release(at, value.into());
    }
    fn store_u32(&self, at: usize, value: u32) {
        self.store(at, value.into());
    }
    fn store_u64(&self, at: usize, value: u64) {
        self.store(at, value);
    }
    fn store_u64_release(&self, at: usize, value: u64) {
        self.release(at, value);
    }
    fn copy_in(&self, _at: usize, _from: &[u8]) {
        panic!("a ring has words only");
    }
    fn copy_out(&self, _at: usize, _to: &mut [u8]) {
        panic!("a ring has words only");
    }
    fn zero(&self, _at: usize, _len: usize) {
        // Cells are made zero.
    }
}
