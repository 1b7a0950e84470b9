//! Chains that are taken by the short way are those that the walk finds.

use ironring_common::index::{PackedPosition, QueueSize};
use ironring_common::shm::area::Bytes;
use ironring_common::shm::table::RegionTable;
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, SlotRest, avail_flags, ring_bytes};
use ironring_common::spec::split::{AVAIL_IDX, AVAIL_RING, Descriptor};
use proptest::prelude::*;

use super::chain::{Chain, ChainRef, Single};
use super::hook::NoHook;
use super::packed::PackedVring;
use super::split::SplitVring;
use super::test_guest::{Guest, START};
use super::{DeviceRing, RingFault, VringOptions};

const SIZE: u16 = 8;

/// A chain as it was taken: of each buffer where it lies, if anywhere, and its bytes.
type Found = (ChainRef, Vec<(Option<u8>, u32)>);

/// Where the buffers begin, in blocks of 256 bytes that each say which one it is.
const BLOCKS: usize = 32 * 1024;

fn memory(guest: &Guest) -> RegionTable {
    for block in 0..=u8::MAX >> 2 {
        guest.write(BLOCKS + 256 * usize::from(block), &[block; 256]);
    }
    guest.table()
}

fn place(buffer: Bytes<'_>) -> u8 {
    let mut first = [0];
    buffer.copy_out(0, &mut first);
    first[0]
}

/// How much the device writes of so many bytes: something.
const fn written(writable: u64) -> u32 {
    (writable as u32).div_ceil(2)
}

/// All chains by the walk, and the fault at the end.
fn walk(ring: &mut impl DeviceRing, memory: &RegionTable, chain: &mut Chain) -> (Vec<Found>, Option<RingFault>) {
    let mut found = Vec::new();
    loop {
        match ring.next_chain(chain) {
            Ok(true) => found.push(complete(ring, memory, chain)),
            Ok(false) => return (found, None),
            Err(fault) => return (found, Some(fault)),
        }
    }
}

fn complete(ring: &mut impl DeviceRing, memory: &RegionTable, chain: &Chain) -> Found {
    ring.complete(&mut NoHook, chain.head(), written(chain.writable_len()));
    let both = chain.readable().iter().chain(chain.writable());
    let buffers = both.map(|segment| (memory.bytes(segment.addr, segment.len).map(place), segment.len)).collect();
    (chain.head(), buffers)
}

/// All chains, by the short way where there is one: `most` at a time, of which the last `back` are put back and walked.
fn by_singles<const FILLS: bool>(
    ring: &mut impl DeviceRing,
    memory: &RegionTable,
    chain: &mut Chain,
    most: usize,
    back: u16,
) -> (Vec<Found>, Option<RingFault>) {
    let mut found = Vec::new();
    // Not content with some of them, which the walk takes.
    let fit = |buffer: Bytes<'_>| !buffer.len().is_multiple_of(8);
    loop {
        let mut singles = [Single::default(); SIZE as usize];
        let taken = ring.next_singles::<FILLS>(&mut memory.hot(0), &mut singles[..most], fit);
        for single in singles.iter_mut().filter(|_| FILLS) {
            single.written = written(single.buffer.len() as u64);
        }
        let (done, back) = singles[..usize::from(taken)].split_at(usize::from(taken - back.min(taken)));
        ring.end_singles::<_, FILLS>(&mut NoHook, done, back);
        found.extend(done.iter().map(|single| {
            let buffer = single.buffer;
            (single.at::<FILLS>(), vec![(Some(place(buffer)), u32::try_from(buffer.len()).unwrap())])
        }));
        match ring.next_chain(chain) {
            Ok(true) => found.push(complete(ring, memory, chain)),
            Ok(false) => return (found, None),
            Err(fault) => {
                assert_eq!(
                    ring.next_singles::<FILLS>(&mut memory.hot(0), &mut singles[..most], fit),
                    0,
                    "it is latched"
                );
                return (found, Some(fault));
            }
        }
    }
}

/// All chains, one by one by the shortest way where there is one, of which each `nth` is put back and walked.
fn one_by_one<const FILLS: bool>(
    ring: &mut impl DeviceRing,
    memory: &RegionTable,
    chain: &mut Chain,
    nth: usize,
) -> (Vec<Found>, Option<RingFault>) {
    let mut found = Vec::new();
    loop {
        // A fault is for the walk.
        let there = ring.poll().unwrap_or(0);
        let single = ring.next_single::<FILLS>(&mut memory.hot(0), |buffer| !buffer.len().is_multiple_of(8));
        assert!(there > 0 || single.is_none(), "what the last look saw");
        match single {
            Some(single) if found.len() % nth == nth - 1 => {
                ring.end_singles::<_, FILLS>(&mut NoHook, &[], &[single]);
            }
            Some(single) => {
                let buffer = single.buffer;
                let single = Single { written: written(buffer.len() as u64), ..single };
                ring.end_single::<_, FILLS>(&mut NoHook, single);
                found.push((single.at::<FILLS>(), vec![(Some(place(buffer)), u32::try_from(buffer.len()).unwrap())]));
                continue;
            }
            None => {}
        }
        match ring.next_chain(chain) {
            Ok(true) => found.push(complete(ring, memory, chain)),
            Ok(false) => return (found, None),
            Err(fault) => {
                assert!(ring.next_single::<FILLS>(&mut memory.hot(0), |_| true).is_none(), "it is latched");
                return (found, Some(fault));
            }
        }
    }
}

/// Of three rings alike, the chains that are found either way and what is written.
fn assert_alike<R: DeviceRing>(ring: impl Fn() -> (R, Chain, RegionTable, Guest), fills: bool, most: usize, back: u16) {
    let (mut one, mut chain, table, guest) = ring();
    let walked = walk(&mut one, &table, &mut chain);
    let (mut other, mut chain, table, other_guest) = ring();
    let singled = match fills {
        true => by_singles::<true>(&mut other, &table, &mut chain, most, back),
        false => by_singles::<false>(&mut other, &table, &mut chain, most, back),
    };
    assert_eq!(singled, walked);
    let (mut third, mut chain, table, third_guest) = ring();
    let singly = match fills {
        true => one_by_one::<true>(&mut third, &table, &mut chain, most + 1),
        false => one_by_one::<false>(&mut third, &table, &mut chain, most + 1),
    };
    assert_eq!(singly, walked);
    let published = (one.publish(&mut NoHook), bytes(&guest));
    assert_eq!((other.publish(&mut NoHook), bytes(&other_guest)), published);
    assert_eq!((third.publish(&mut NoHook), bytes(&third_guest)), published);
}

fn descriptors() -> impl Strategy<Value = Vec<Descriptor>> {
    let flags = prop_oneof![
        6 => Just(0),
        6 => Just(DESC_F_WRITE),
        2 => Just(DESC_F_NEXT),
        2 => Just(DESC_F_WRITE | DESC_F_NEXT),
        1 => Just(DESC_F_INDIRECT),
    ];
    let descriptor =
        (prop_oneof![12 => 0u64..64, 1 => Just(200)], prop_oneof![1 => Just(0u32), 6 => 1u32..200], flags, 0..SIZE + 1);
    let descriptor = descriptor.prop_map(|(at, len, flags, next)| Descriptor {
        addr: START + BLOCKS as u64 + 256 * at,
        len,
        flags,
        next,
    });
    proptest::collection::vec(descriptor, usize::from(SIZE))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn split_singles_are_what_the_walk_finds(
        (fills, in_order) in any::<(bool, bool)>(),
        table in descriptors(),
        heads in proptest::collection::vec(prop_oneof![12 => 0..SIZE, 1 => Just(SIZE)], 0..=usize::from(SIZE)),
        most in 1usize..=8,
        back in 0u16..9,
    ) {
        let size = QueueSize::split(SIZE).unwrap();
        let ring = || {
            let mut guest = Guest::new(64 * 1024);
            let driver = guest.ring(SIZE, true);
            for (id, desc) in (0u16..).zip(&table) {
                driver.write_desc(id, *desc);
            }
            for (slot, head) in heads.iter().enumerate() {
                driver.avail.store_u16(AVAIL_RING + 2 * slot, *head);
            }
            driver.avail.store_u16_release(AVAIL_IDX, u16::try_from(heads.len()).unwrap());
            let [desc, avail, used] = [&driver.desc, &driver.avail, &driver.used].map(Clone::clone);
            let mut ring = SplitVring::new(0, size, desc, avail, used, 0).unwrap();
            ring = ring.with_options(VringOptions { in_order, ..VringOptions::default() });
            ring.poll().unwrap();
            (ring, Chain::with_capacity(size), memory(&guest), guest)
        };
        assert_alike(ring, fills, most, back);
    }

    #[test]
    fn packed_singles_are_what_the_walk_finds(
        (fills, in_order) in any::<(bool, bool)>(),
        table in descriptors(),
        count in 0u16..=SIZE,
        base in 0u16..SIZE,
        most in 1usize..=8,
        back in 0u16..9,
    ) {
        let size = QueueSize::packed(SIZE).unwrap();
        let start = PackedPosition::from_bits(base | 0x8000, size).unwrap();
        let ring = || {
            let mut guest = Guest::new(64 * 1024);
            let at = [guest.alloc(ring_bytes(size), 64, 0), guest.alloc(4, 64, 0), guest.alloc(4, 64, 0)];
            let slots = guest.memory.part(at[0], ring_bytes(size)).unwrap();
            for (n, desc) in (0u16..).zip(&table).take(usize::from(count)) {
                let place = start.advance(n, size);
                let flags = desc.flags | avail_flags(place.wrap());
                slots.store_u64(16 * usize::from(place.slot()), desc.addr);
                let rest = SlotRest { len: desc.len, id: desc.next, flags };
                slots.store_u64(16 * usize::from(place.slot()) + 8, rest.to_word());
            }
            let part = |at: usize, len: usize| guest.memory.part(at, len).unwrap();
            let (ours, theirs) = (part(at[1], 4), part(at[2], 4));
            let ring = PackedVring::new(0, size, slots, ours, theirs, start.to_bits()).unwrap();
            let ring = ring.with_options(VringOptions { in_order, ..VringOptions::default() });
            (ring, Chain::with_capacity(size), memory(&guest), guest)
        };
        assert_alike(ring, fills, most, back);
    }
}

fn bytes(guest: &Guest) -> Vec<u8> {
    let mut bytes = vec![0; guest.memory.len()];
    guest.memory.copy_out(0, &mut bytes);
    bytes
}
