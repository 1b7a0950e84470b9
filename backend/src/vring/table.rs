//! Indirect tables (virtio 1.3, 2.7.5.3 and 2.8.7): copied once, then walked in private memory.

use ironring_common::shm::table::RegionTable;
use ironring_common::spec::packed::SlotRest;
use ironring_common::spec::split::{DESC_BYTES, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor};

use super::RingFault;
use super::chain::{Chain, Segment};
use crate::boundary;

/// Where tables are looked up and copied to.
#[derive(Debug)]
pub(super) struct TableReader {
    memory: RegionTable,
    bytes: Box<[u8]>,
}

/// Whose table it is, for faults.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) queue: usize,
    pub(super) head: u16,
    /// Descriptors that the table may have: as many as the chain may still get.
    pub(super) room: u16,
}

impl TableReader {
    /// A reader for tables of up to `entries` descriptors.
    pub(super) fn new(memory: RegionTable, entries: u16) -> Self {
        let bytes = usize::from(entries).saturating_mul(DESC_BYTES);
        Self { memory, bytes: vec![0; bytes].into_boxed_slice() }
    }

    pub(super) fn set_memory(&mut self, memory: RegionTable) {
        self.memory = memory;
    }

    /// Adds the segments of a split table, which follow their links, to a chain.
    #[inline]
    pub(super) fn walk_split(&mut self, owner: Owner, table: Segment, out: &mut Chain) -> Result<(), RingFault> {
        let Owner { queue, head, .. } = owner;
        let entries = self.copy(owner, table)?;
        let bound = u16::try_from(entries.len()).unwrap_or(u16::MAX);
        let mut at = 0u16;
        for _ in 0..bound {
            let Some(desc) = entries.get(usize::from(at)).map(|words| Descriptor::from_words(to_words(words))) else {
                return Err(RingFault::NextOutOfRange { queue, head, at, observed: at, bound });
            };
            push(owner, at, desc, out)?;
            if desc.flags & DESC_F_NEXT == 0 {
                return Ok(());
            }
            if desc.next >= bound {
                return Err(RingFault::NextOutOfRange { queue, head, at, observed: desc.next, bound });
            }
            at = desc.next;
        }
        Err(RingFault::ChainTooLong { queue, head, bound })
    }

    /// Adds the segments of a packed table, which follow one another, to a chain. Of the flags WRITE alone has a meaning
    /// (2.8.8).
    #[inline]
    pub(super) fn walk_packed(&mut self, owner: Owner, table: Segment, out: &mut Chain) -> Result<(), RingFault> {
        for (at, words) in (0u16..).zip(self.copy(owner, table)?) {
            let [addr, rest] = to_words(words);
            let SlotRest { len, flags, .. } = SlotRest::from_word(rest);
            push(owner, at, Descriptor { addr, len, flags, next: 0 }, out)?;
        }
        Ok(())
    }

    /// The table in private memory, where it stands still.
    #[inline]
    fn copy(&mut self, owner: Owner, table: Segment) -> Result<&[[u8; DESC_BYTES]], RingFault> {
        let Owner { queue, head, room } = owner;
        let Segment { addr, len } = table;
        let bytes = usize::try_from(len).unwrap_or(usize::MAX);
        let (whole, most) = (bytes.is_multiple_of(DESC_BYTES), usize::from(room).saturating_mul(DESC_BYTES));
        let to = self.bytes.get_mut(..bytes).filter(|_| whole && bytes > 0 && bytes <= most);
        let to = to.ok_or(RingFault::IndirectLength { queue, head, len, bound: room })?;
        let from = self.memory.bytes(addr, len).ok_or(RingFault::AddressOutside { queue, head, addr, len })?;
        boundary::copy_out(from, 0, to);
        Ok(to.as_chunks().0)
    }
}

#[inline]
fn push(owner: Owner, at: u16, desc: Descriptor, out: &mut Chain) -> Result<(), RingFault> {
    let Owner { queue, head, .. } = owner;
    if desc.flags & DESC_F_INDIRECT != 0 {
        return Err(RingFault::IndirectNested { queue, head });
    }
    if !out.push(Segment { addr: desc.addr.into(), len: desc.len }, desc.flags & DESC_F_WRITE != 0) {
        return Err(RingFault::ReadableAfterWritable { queue, head, at });
    }
    Ok(())
}

/// The two little-endian words of a descriptor.
#[inline]
fn to_words(bytes: &[u8; DESC_BYTES]) -> [u64; 2] {
    let (words, _) = bytes.as_chunks::<8>();
    match words {
        [addr, rest] => [u64::from_le_bytes(*addr), u64::from_le_bytes(*rest)],
        _ => [0; 2],
    }
}
