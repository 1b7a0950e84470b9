//! Private buffers behind a pool in shared memory, as a confidential guest's swiotlb.
//!
//! `map` finds enough neighbouring blocks, notes for each block which private bytes it stands for, and copies in what the
//! device may read; everything else in the blocks is zeroed, so that nothing of an earlier owner is lent. `unmap` copies
//! back what the device wrote, at most as much as was posted, and frees the blocks.
//!
//! Like the kernel's, this pool finds the private bytes by the address, length and direction that it is told. It cannot
//! know better, and it need not: the ring tells it what stands in the private ledger. On the same pool, a ring that takes
//! these numbers from the shared table copies device bytes wherever the device wants, inside the caller's private memory
//! (the pool's own indices are checked, so that the damage can be watched without undefined behaviour).

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;

use ironring_common::index::{DescId, GuestAddr};
use ironring_common::shm::view::{Ours, Theirs};
use ironring_common::shm::words::Words;

use super::{Direction, MapRecord, Mapped, Mapper};
use crate::boundary;

/// A buffer in private memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivateBuffer {
    /// Offset of its first byte in the private memory.
    pub offset: usize,
    /// Bytes.
    pub len: u32,
}

/// Why a buffer cannot be bounced or taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BounceError {
    /// No run of free blocks is long enough.
    #[error("the bounce pool is exhausted: {need} neighbouring blocks are needed, {free} are free in all")]
    Exhausted {
        /// Blocks needed.
        need: usize,
        /// Blocks free, neighbouring or not.
        free: usize,
    },
    /// The buffer has no bytes or does not lie in private memory.
    #[error("a buffer of {len} bytes at {offset} is empty or lies outside of private memory")]
    OutsidePrivate {
        /// Offset of the buffer.
        offset: usize,
        /// Bytes of the buffer.
        len: u32,
    },
    /// The address is not that of a block in use.
    #[error("address {addr} is not mapped in the bounce pool")]
    NotMapped {
        /// The address.
        addr: GuestAddr,
    },
}

/// The pool and the private memory that it stands for.
#[derive(Debug)]
pub struct Bounce<W> {
    /// The pool, for copying in and zeroing.
    fill: Ours<W>,
    /// The pool, for copying back what the device wrote.
    drain: Theirs<W>,
    base: GuestAddr,
    /// For each block, the private offset that it stands for, while it is in use.
    blocks: Box<[Option<usize>]>,
    free: usize,
    /// Where the search for free blocks starts: the one after the last run handed out.
    hint: usize,
    private: Vec<u8>,
}

/// Bytes of a block.
pub const BLOCK_BYTES: usize = 256;

impl<W: Words + Clone> Bounce<W> {
    /// A pool in `area`, which the device knows as `base`, for buffers in `private`. Bytes of `area` beyond the last
    /// whole block are not used.
    pub fn new(area: W, base: GuestAddr, private: Vec<u8>) -> Self {
        let count = area.len().checked_div(BLOCK_BYTES).unwrap_or(0);
        Self {
            fill: Ours::new(area.clone()),
            drain: Theirs::new(area),
            base,
            blocks: alloc::vec![None; count].into_boxed_slice(),
            free: count,
            hint: 0,
            private,
        }
    }
}

impl<W: Words> Bounce<W> {
    /// The private memory.
    #[must_use]
    pub fn private(&self) -> &[u8] {
        &self.private
    }

    /// The private memory, for filling buffers before they are posted.
    pub fn private_mut(&mut self) -> &mut [u8] {
        &mut self.private
    }

    /// Where the device finds the pool.
    #[must_use]
    pub const fn base(&self) -> GuestAddr {
        self.base
    }

    /// Blocks that are free.
    #[must_use]
    pub fn free_blocks(&self) -> usize {
        self.free
    }

    /// Blocks in all.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// A run of `need` free blocks, searched from the hint around the pool once.
    fn find_run(&self, need: usize) -> Option<Range<usize>> {
        let total = self.blocks.len();
        let mut run = 0usize;
        // Twice around at most: a run may begin before the hint.
        for step in 0..total.wrapping_mul(2) {
            let index = self.hint.wrapping_add(step).checked_rem(total)?;
            if index == 0 {
                run = 0;
            }
            run = if matches!(self.blocks.get(index), Some(None)) { run.wrapping_add(1) } else { 0 };
            if run == need {
                let end = index.wrapping_add(1);
                return Some(end.wrapping_sub(need)..end);
            }
        }
        None
    }

    /// The blocks that [addr, addr + len) covers, if addr is the start of a block. May run past the end of the pool.
    fn run_at(&self, addr: GuestAddr, len: u32) -> Option<Range<usize>> {
        let offset = usize::try_from(addr.0.checked_sub(self.base.0)?).ok()?;
        if offset.checked_rem(BLOCK_BYTES)? != 0 {
            return None;
        }
        let first = offset.checked_div(BLOCK_BYTES)?;
        Some(first..first.checked_add(blocks_for(len))?)
    }
}

impl<W: Words> Mapper for Bounce<W> {
    type Buffer = PrivateBuffer;
    type Error = BounceError;

    fn map(&mut self, _id: DescId, buffer: &PrivateBuffer, direction: Direction) -> Result<Mapped, BounceError> {
        let PrivateBuffer { offset, len } = *buffer;
        let outside = BounceError::OutsidePrivate { offset, len };
        let bytes = usize::try_from(len).map_err(|_| outside)?;
        let end = offset.checked_add(bytes).ok_or(outside)?;
        let source = self.private.get(offset..end).filter(|source| !source.is_empty()).ok_or(outside)?;
        let need = blocks_for(len);
        let run = self.find_run(need).ok_or(BounceError::Exhausted { need, free: self.free })?;
        let start = run.start.wrapping_mul(BLOCK_BYTES);
        let room = need.wrapping_mul(BLOCK_BYTES);
        // The last thing that can fail: from here on the blocks are taken.
        let addr = self.base.checked_add(u64::try_from(start).unwrap_or(u64::MAX)).ok_or(outside)?;
        let keep = if direction == Direction::ToDevice {
            self.fill.copy_in(start, source);
            bytes
        } else {
            0
        };
        self.fill.zero(start.wrapping_add(keep), room.wrapping_sub(keep));
        self.hint = run.end.checked_rem(self.blocks.len()).unwrap_or(0);
        self.free = self.free.wrapping_sub(need);
        for (step, block) in self.blocks.get_mut(run).into_iter().flatten().enumerate() {
            *block = Some(offset.wrapping_add(step.wrapping_mul(BLOCK_BYTES)));
        }
        Ok(Mapped { addr, len })
    }

    fn unmap(&mut self, record: MapRecord, written: u32) -> Result<(), BounceError> {
        let not_mapped = BounceError::NotMapped { addr: record.addr };
        let run = self.run_at(record.addr, record.len).ok_or(not_mapped)?;
        let private = self.blocks.get(run.start).copied().flatten().ok_or(not_mapped)?;
        if record.direction == Direction::FromDevice {
            let bytes = usize::try_from(written.min(record.len)).unwrap_or(0);
            let end = private.saturating_add(bytes);
            let outside = BounceError::OutsidePrivate { offset: private, len: record.len };
            let target = self.private.get_mut(private..end).ok_or(outside)?;
            let start = run.start.wrapping_mul(BLOCK_BYTES);
            if start.saturating_add(bytes) > self.drain.len() {
                return Err(outside);
            }
            boundary::copy_completed(&self.drain, start, target);
        }
        let end = run.end.min(self.blocks.len());
        for block in self.blocks.get_mut(run.start..end).into_iter().flatten() {
            self.free = self.free.wrapping_add(usize::from(block.take().is_some()));
        }
        Ok(())
    }
}

/// Blocks that `len` bytes need.
fn blocks_for(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX).div_ceil(BLOCK_BYTES)
}
