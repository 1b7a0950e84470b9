//! Indirect tables (virtio 1.3, 2.7.5.3 and 2.8.7): a chain that takes one descriptor of the ring.
//!
//! Each descriptor of the queue has a table of its own in memory that only this side writes. What stands in a table is
//! booked in a private shadow. Unmapping walks the shadow, and the number of its entries comes from the private record of
//! the head: a device that rewrites the table, or the length in the ring, changes nothing here. A table is scrubbed when
//! its chain comes back, so that no address stays behind.

use alloc::vec::Vec;

use ironring_common::apart;
use ironring_common::error::Misuse;
use ironring_common::index::{DescId, GuestAddr, QueueSize};
use ironring_common::shm::view::Ours;
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{SLOT_REST, SlotRest};
use ironring_common::spec::split::{DESC_BYTES, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor};

use super::chain::{Built, buffers, unmap};
use super::ledger::Ledger;
use super::ring::{AddError, RingLayout, Tables};
use crate::mapper::{Direction, Mapper};

/// The tables of one queue.
#[derive(Debug)]
pub(crate) struct IndirectTables<W> {
    words: Ours<W>,
    base: GuestAddr,
    entries: u16,
    layout: RingLayout,
    /// What stands in each table.
    shadow: Vec<Descriptor>,
    sent: u64,
}

impl<W: Words> IndirectTables<W> {
    /// Takes the memory and zeroes it.
    ///
    /// # Errors
    /// [`Misuse`] if it is too small or misaligned.
    pub(crate) fn new(tables: Tables<W>, size: QueueSize, layout: RingLayout) -> Result<Self, Misuse> {
        let Tables { words, base, entries } = tables;
        let shadow = usize::from(size.get()).saturating_mul(usize::from(entries));
        let need = shadow.saturating_mul(DESC_BYTES);
        if words.len() < need {
            return Err(Misuse::AreaTooSmall { have: words.len(), need });
        }
        if !words.is_aligned(0, 8) || !base.0.is_multiple_of(16) {
            return Err(Misuse::Misaligned { need: 16 });
        }
        let words = Ours::new(words);
        words.zero(0, need);
        let shadow = apart::filled(Descriptor::default(), shadow);
        Ok(Self { words, base, entries, layout, shadow, sent: 0 })
    }

    /// Whether a chain of so many buffers goes by a table: one that is worth it and fits.
    #[inline]
    pub(crate) fn take(&self, buffers: usize) -> bool {
        buffers > 1 && buffers <= usize::from(self.entries)
    }

    /// Chains that went by a table.
    #[inline]
    pub(crate) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Builds a chain in the table of the next free descriptor, which is reserved and booked to point to it. `write` is told
    /// that descriptor, and whether it differs from what was booked before.
    ///
    /// # Errors
    /// [`AddError`]; then nothing of the chain stays mapped or reserved, and the table is empty.
    #[inline]
    pub(crate) fn build<M: Mapper, T>(
        &mut self,
        ledger: &mut Ledger<T>,
        mapper: &mut M,
        readable: &[M::Buffer],
        writable: &[M::Buffer],
        mut write: impl FnMut(DescId, Descriptor, bool),
    ) -> Result<Built, AddError<M::Error>> {
        let total = readable.len().wrapping_add(writable.len());
        let Some(head) = ledger.next_free() else {
            return Err(AddError::Full { need: 1, free: 0 });
        };
        let mut lent_writable = 0u32;
        for (index, (buffer, direction)) in buffers(readable, writable).enumerate() {
            let mapped = match mapper.map(head, buffer, direction) {
                Ok(mapped) => mapped,
                Err(error) => {
                    self.clear(mapper, head, index, 0);
                    return Err(AddError::Map { index, error });
                }
            };
            let is_last = index.wrapping_add(1) >= total;
            // Below `entries`, as the number of buffers is.
            let next = if is_last { 0 } else { u16::try_from(index).unwrap_or(u16::MAX).wrapping_add(1) };
            let mut flags = if is_last { 0 } else { DESC_F_NEXT };
            let mut room = Some(lent_writable);
            if direction == Direction::FromDevice {
                flags |= DESC_F_WRITE;
                room = lent_writable.checked_add(mapped.len);
            }
            self.write_entry(head, index, Descriptor { addr: mapped.addr.0, len: mapped.len, flags, next });
            match room {
                Some(sum) => lent_writable = sum,
                None => {
                    self.clear(mapper, head, index.wrapping_add(1), 0);
                    return Err(AddError::Impossible { buffers: total, size: ledger.size().get() });
                }
            }
        }
        // A head comes after itself; there is a free descriptor, as was just seen.
        if ledger.reserve(head).is_none() {
            self.clear(mapper, head, total, 0);
            return Err(AddError::Full { need: 1, free: 0 });
        }
        let at = u64::try_from(self.entry_at(head, 0)).unwrap_or(u64::MAX);
        let len = u32::try_from(total.wrapping_mul(DESC_BYTES)).unwrap_or(u32::MAX);
        let desc = Descriptor { addr: self.base.0.wrapping_add(at), len, flags: DESC_F_INDIRECT, next: 0 };
        let changed = ledger.book(head, desc);
        write(head, desc, changed);
        self.sent = self.sent.wrapping_add(1);
        Ok(Built { head, count: 1, writable: lent_writable })
    }

    /// Unmaps the chain in the table that `desc`, the private record of `head`, points to; scrubs the table.
    #[inline]
    pub(crate) fn detach<M: Mapper>(&mut self, mapper: &mut M, head: DescId, desc: Descriptor, written: u32) {
        let count = usize::try_from(desc.len).unwrap_or(0).checked_div(DESC_BYTES).unwrap_or(0);
        self.clear(mapper, head, count, written);
    }

    /// Unmaps the first `count` entries of a table by their shadow, and scrubs them.
    #[inline]
    fn clear<M: Mapper>(&mut self, mapper: &mut M, head: DescId, count: usize, written: u32) {
        let first = self.index(head, 0);
        let mut left = written;
        let table = self.shadow.get_mut(first..first.wrapping_add(count)).unwrap_or_default();
        for entry in table {
            unmap(mapper, head, core::mem::take(entry), &mut left);
        }
        self.words.zero(self.entry_at(head, 0), count.wrapping_mul(DESC_BYTES));
    }

    /// Writes an entry and its shadow together. In a packed table the order of the entries is their link (2.8.8).
    #[inline]
    fn write_entry(&mut self, head: DescId, index: usize, desc: Descriptor) {
        let at = self.entry_at(head, index);
        let slot = self.index(head, index);
        if let Some(entry) = self.shadow.get_mut(slot) {
            *entry = desc;
            let [addr, rest] = desc.to_words();
            let rest = match self.layout {
                RingLayout::Split => rest,
                RingLayout::Packed => SlotRest { len: desc.len, id: 0, flags: desc.flags & DESC_F_WRITE }.to_word(),
            };
            self.words.store_u64(at, addr);
            self.words.store_u64(at.wrapping_add(SLOT_REST), rest);
        }
    }

    #[inline]
    fn index(&self, head: DescId, entry: usize) -> usize {
        // At most 2^31 entries: far from overflow.
        head.index().wrapping_mul(usize::from(self.entries)).wrapping_add(entry)
    }

    /// Offset of an entry, in bytes.
    #[inline]
    fn entry_at(&self, head: DescId, entry: usize) -> usize {
        self.index(head, entry).wrapping_mul(DESC_BYTES)
    }

    /// Where it lies, for the test of the layout.
    #[cfg(test)]
    pub(crate) fn lines(&self, to: &mut Vec<core::ops::Range<usize>>) {
        to.push(apart::lines(&*self.shadow));
    }
}

/// Whether a booked descriptor points to a table.
#[inline]
pub(crate) const fn is_indirect(desc: Descriptor) -> bool {
    desc.flags & DESC_F_INDIRECT != 0
}
