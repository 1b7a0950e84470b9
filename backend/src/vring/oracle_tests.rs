//! The split walk against rust-vmm's `virtio-queue`, over the same bytes.
//!
//! Where this ring finds a chain lawful, the other one must find the same segments. Where it refuses one, these are the
//! disagreements, each on purpose:
//!
//! | fault here | `virtio-queue` | why we refuse |
//! |---|---|---|
//! | `head-out-of-range` | an empty chain, which its caller completes | an id that does not exist says that the driver is not what it seems |
//! | `next-out-of-range` | the chain ends there | a packet cut short is none that the driver sent |
//! | `chain-too-long` | the chain ends after as many descriptors as the queue has | a loop is no chain |
//! | `readable-after-writable` | passes it on | 2.7.4.2 forbids it, and readers and writers disagree about such a chain |
//! | `indirect-not-negotiated` | follows the table all the same | the feature decides |
//! | `indirect-with-next`, `-nested`, `-length` | ends the chain, or reads what is there | 2.7.5.3.1 forbids them |
//! | `address-outside` (of a table) | the chain ends there | as above |
//!
//! Segments of no bytes are left out here and passed on there.

use ironring_common::index::GuestAddr;
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{AVAIL_IDX, AVAIL_RING, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor};
use proptest::prelude::*;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::chain::{Chain, Segment};
use super::split::SplitVring;
use super::test_guest::{Guest, START, addr};
use super::{DeviceRing, VringOptions};

const MEMORY: usize = 64 * 1024;
const SIZE: u16 = 8;
/// Entries of the one table that chains may point to.
const ENTRIES: u16 = 6;

/// One descriptor of the script.
fn descriptor(limit: u16) -> impl Strategy<Value = Descriptor> {
    let flags = prop_oneof![
        3 => Just(0),
        4 => Just(DESC_F_NEXT),
        2 => Just(DESC_F_WRITE),
        3 => Just(DESC_F_WRITE | DESC_F_NEXT),
        2 => Just(DESC_F_INDIRECT),
        1 => Just(DESC_F_INDIRECT | DESC_F_NEXT),
    ];
    (0u64..64, 0u32..200, flags, 0..limit + 1).prop_map(|(at, len, flags, next)| {
        let addr = START + 32 * 1024 + 256 * at;
        Descriptor { addr, len, flags, next }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn a_lawful_chain_is_the_same_for_rust_vmm(
        table in proptest::collection::vec(descriptor(SIZE), usize::from(SIZE)),
        entries in proptest::collection::vec(descriptor(ENTRIES), usize::from(ENTRIES)),
        count in 0u32..=u32::from(ENTRIES) + 1,
        heads in proptest::collection::vec(0..SIZE + 1, 1..=usize::from(SIZE)),
        indirect in any::<bool>(),
    ) {
        let mut guest = Guest::new(MEMORY);
        let ring = guest.ring(SIZE, true);
        let table_at = guest.alloc(16 * usize::from(ENTRIES), 64, 0);
        for (id, desc) in (0u16..).zip(&table) {
            let mut desc = *desc;
            if desc.flags & DESC_F_INDIRECT != 0 {
                (desc.addr, desc.len) = (addr(table_at), 16 * count);
            }
            ring.write_desc(id, desc);
        }
        for (n, entry) in entries.iter().enumerate() {
            let [first, second] = entry.to_words();
            guest.memory.store_u64(table_at + 16 * n, first);
            guest.memory.store_u64(table_at + 16 * n + 8, second);
        }
        for (slot, head) in heads.iter().enumerate() {
            ring.avail.store_u16(AVAIL_RING + 2 * slot, *head);
        }
        ring.avail.store_u16_release(AVAIL_IDX, u16::try_from(heads.len()).unwrap());

        // The same bytes for the other one.
        let theirs = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(START), MEMORY)]).unwrap();
        theirs.write_slice(&guest.read(0, MEMORY), GuestAddress(START)).unwrap();
        let mut queue = Queue::new(SIZE).unwrap();
        let [desc, avail, used] = ring.at.map(|at| GuestAddress(addr(at)));
        queue.set_size(SIZE);
        queue.try_set_desc_table_address(desc).unwrap();
        queue.try_set_avail_ring_address(avail).unwrap();
        queue.try_set_used_ring_address(used).unwrap();
        queue.set_ready(true);
        let mut chains = queue.iter(&theirs).unwrap();

        let (desc, avail, used) = (ring.desc.clone(), ring.avail.clone(), ring.used.clone());
        let options = VringOptions { indirect: indirect.then(|| guest.table()), ..VringOptions::default() };
        let mut vring = SplitVring::new(0, ring.size, desc, avail, used, 0).unwrap().with_options(options);
        let mut chain = Chain::with_capacity(ring.size);
        prop_assert_eq!(vring.poll().unwrap(), u16::try_from(heads.len()).unwrap());
        for head in &heads {
            let other = chains.next().expect("as many chains as there are entries");
            prop_assert_eq!(other.head_index(), *head);
            let other: Vec<_> = other
                .filter(|desc| desc.len() > 0)
                .map(|desc| (GuestAddr(desc.addr().0), desc.len(), desc.is_write_only()))
                .collect();
            match vring.next_chain(&mut chain) {
                Ok(taken) => {
                    prop_assert!(taken);
                    let with = |segments: &[Segment], writable| {
                        segments.iter().map(|s| (s.addr, s.len, writable)).collect::<Vec<_>>()
                    };
                    let ours = [with(chain.readable(), false), with(chain.writable(), true)].concat();
                    prop_assert_eq!(ours, other);
                }
                Err(fault) => {
                    let known = [
                        "head-out-of-range",
                        "next-out-of-range",
                        "chain-too-long",
                        "readable-after-writable",
                        "indirect-not-negotiated",
                        "indirect-with-next",
                        "indirect-nested",
                        "indirect-length",
                    ];
                    prop_assert!(known.contains(&fault.class()), "{}", fault);
                    // The latch: this ring takes nothing more.
                    return Ok(());
                }
            }
        }
    }
}
