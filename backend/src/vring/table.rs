//! Indirect tables (virtio 1.3, 2.7.5.3 and 2.8.7): copied once, then walked in private memory.

use ironring_common::apart;
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
    bytes: Vec<u8>,
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
        Self { memory, bytes: apart::filled(0, bytes) }
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
    /// (2.8.8), and not even that one if the driver `only_sends`.
    #[inline]
    pub(super) fn walk_packed(
        &mut self,
        owner: Owner,
        table: Segment,
        only_sends: bool,
        out: &mut Chain,
    ) -> Result<(), RingFault> {
        let ignored = if only_sends { DESC_F_WRITE } else { 0 };
        for (at, words) in (0u16..).zip(self.copy(owner, table)?) {
            let [addr, rest] = to_words(words);
            let SlotRest { len, flags, .. } = SlotRest::from_word(rest);
            push(owner, at, Descriptor { addr, len, flags: flags & !ignored, next: 0 }, out)?;
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

    /// Where its copy of a table lies, for the test of the layout.
    #[cfg(test)]
    pub(super) fn lines(&self, to: &mut Vec<std::ops::Range<usize>>) {
        to.push(apart::lines(&*self.bytes));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vring::test_guest::{Guest, addr};

    const OWNER: Owner = Owner { queue: 1, head: 9, room: 8 };

    /// Walks a packed table of segments with these flags, of 1, 2, 3 ... bytes.
    fn walk(flags: &[u16], only_sends: bool) -> Result<(Vec<u32>, Vec<u32>), RingFault> {
        let mut guest = Guest::new(1 << 16);
        let at = guest.alloc(DESC_BYTES * flags.len(), 16, 0);
        for (n, flags) in flags.iter().enumerate() {
            let mut desc = [0; DESC_BYTES];
            desc[..8].copy_from_slice(&addr(0).to_le_bytes());
            desc[8..12].copy_from_slice(&(n as u32 + 1).to_le_bytes());
            desc[14..].copy_from_slice(&flags.to_le_bytes());
            guest.write(at + DESC_BYTES * n, &desc);
        }
        let size = ironring_common::index::QueueSize::packed(8).unwrap();
        let mut chain = Chain::with_capacity(size);
        chain.start();
        let table = Segment { addr: addr(at).into(), len: (DESC_BYTES * flags.len()) as u32 };
        TableReader::new(guest.table(), 8).walk_packed(OWNER, table, only_sends, &mut chain)?;
        let lens = |segments: &[Segment]| segments.iter().map(|segment| segment.len).collect();
        Ok((lens(chain.readable()), lens(chain.writable())))
    }

    const W: u16 = DESC_F_WRITE;

    /// As DPDK 22.11 writes them: WRITE on the header, and on the segment whose number is that of the slot.
    #[test]
    fn packed_tables_of_a_driver_that_only_sends_are_readable_throughout() {
        for flags in [&[W, 0][..], &[W, W], &[W, 0, W], &[W, DESC_F_NEXT, W, 0]] {
            let all = (1..=flags.len() as u32).collect();
            assert_eq!(walk(flags, true), Ok((all, vec![])), "{flags:?}");
        }
        assert_eq!(walk(&[W, DESC_F_INDIRECT], true), Err(RingFault::IndirectNested { queue: 1, head: 9 }));
    }

    #[test]
    fn packed_tables_on_other_rings_keep_to_the_order() {
        assert_eq!(walk(&[0, 0, W, W], false), Ok((vec![1, 2], vec![3, 4])));
        assert_eq!(walk(&[W, 0], false), Err(RingFault::ReadableAfterWritable { queue: 1, head: 9, at: 1 }));
    }
}
