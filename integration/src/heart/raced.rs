//! Words between whose loads the attacks that race have their turns.

use ironring_backend::hostile::RaceTurns;
use ironring_common::shm::area::Area;
use ironring_common::shm::words::Words;

/// An area of the driver. Before each load there is a turn of the attacks that race, if there are any: what a driver loads
/// twice changes in between on a machine of one processor too. Their thread has its own turns besides.
#[derive(Clone, Debug)]
pub(super) struct Raced {
    area: Area,
    turns: Option<RaceTurns>,
}

impl Raced {
    pub(super) const fn new(area: Area, turns: Option<RaceTurns>) -> Self {
        Self { area, turns }
    }

    fn race(&self) {
        if let Some(turns) = &self.turns {
            turns.take();
        }
    }
}

impl Words for Raced {
    fn len(&self) -> usize {
        self.area.len()
    }
    fn is_aligned(&self, at: usize, bytes: usize) -> bool {
        self.area.is_aligned(at, bytes)
    }
    fn load_u16(&self, at: usize) -> u16 {
        self.race();
        self.area.load_u16(at)
    }
    fn load_u16_acquire(&self, at: usize) -> u16 {
        self.race();
        self.area.load_u16_acquire(at)
    }
    fn load_u32(&self, at: usize) -> u32 {
        self.race();
        self.area.load_u32(at)
    }
    fn load_u64(&self, at: usize) -> u64 {
        self.race();
        self.area.load_u64(at)
    }
    fn load_u64_acquire(&self, at: usize) -> u64 {
        self.race();
        self.area.load_u64_acquire(at)
    }
    fn store_u16(&self, at: usize, value: u16) {
        self.area.store_u16(at, value);
    }
    fn store_u16_release(&self, at: usize, value: u16) {
        self.area.store_u16_release(at, value);
    }
    fn store_u32(&self, at: usize, value: u32) {
        self.area.store_u32(at, value);
    }
    fn store_u64(&self, at: usize, value: u64) {
        self.area.store_u64(at, value);
    }
    fn store_u64_release(&self, at: usize, value: u64) {
        self.area.store_u64_release(at, value);
    }
    fn copy_in(&self, at: usize, from: &[u8]) {
        self.area.copy_in(at, from);
    }
    fn copy_out(&self, at: usize, to: &mut [u8]) {
        self.race();
        self.area.copy_out(at, to);
    }
    fn zero(&self, at: usize, len: usize) {
        self.area.zero(at, len);
    }
}
