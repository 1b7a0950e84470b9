//! Chains that are taken by the short way are those that the walk finds.

use ironring_common::index::{PackedPosition, QueueSize};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, SlotRest, avail_flags, ring_bytes};
use ironring_common::spec::split::{AVAIL_IDX, AVAIL_RING, Descriptor};
use proptest::prelude::*;

use super::chain::{Chain, ChainRef, Segment, Single};
use super::hook::NoHook;
use super::packed::PackedVring;
use super::split::SplitVring;
use super::test_guest::{Guest, START};
use super::{DeviceRing, RingFault};

const SIZE: u16 = 8;

/// A chain as it was taken.
type Found = (ChainRef, Vec<Segment>, Vec<Segment>);

fn of_single(single: &Single) -> Found {
    let list = |segment: Segment| if segment.len == 0 { Vec::new() } else { vec![segment] };
    (single.at(), list(single.readable()), list(single.writable()))
}

/// All chains by the walk, and the fault at the end.
fn walk(ring: &mut impl DeviceRing, chain: &mut Chain) -> (Vec<Found>, Option<RingFault>) {
    let mut found = Vec::new();
    loop {
        match ring.next_chain(chain) {
            Ok(true) => found.push(complete(ring, chain)),
            Ok(false) => return (found, None),
            Err(fault) => return (found, Some(fault)),
        }
    }
}

fn complete(ring: &mut impl DeviceRing, chain: &Chain) -> Found {
    ring.complete(&mut NoHook, chain.head(), 0);
    (chain.head(), chain.readable().to_vec(), chain.writable().to_vec())
}

/// All chains, by the short way where there is one: `most` at a time, of which the last `back` are put back and walked.
fn by_singles(
    ring: &mut impl DeviceRing,
    chain: &mut Chain,
    most: usize,
    back: u16,
) -> (Vec<Found>, Option<RingFault>) {
    let mut found = Vec::new();
    loop {
        let mut singles = [Single::default(); SIZE as usize];
        let taken = ring.next_singles(&mut singles[..most]);
        let (done, back) = singles[..usize::from(taken)].split_at(usize::from(taken - back.min(taken)));
        ring.end_singles(&mut NoHook, done, back);
        found.extend(done.iter().map(of_single));
        match ring.next_chain(chain) {
            Ok(true) => found.push(complete(ring, chain)),
            Ok(false) => return (found, None),
            Err(fault) => return (found, Some(fault)),
        }
    }
}

fn descriptors() -> impl Strategy<Value = Vec<Descriptor>> {
    let flags = prop_oneof![
        6 => Just(0),
        6 => Just(DESC_F_WRITE),
        2 => Just(DESC_F_NEXT),
        2 => Just(DESC_F_WRITE | DESC_F_NEXT),
        1 => Just(DESC_F_INDIRECT),
    ];
    let descriptor = (0u64..64, prop_oneof![1 => Just(0u32), 6 => 1u32..200], flags, 0..SIZE + 1);
    let descriptor =
        descriptor.prop_map(|(at, len, flags, next)| Descriptor { addr: START + 256 * at, len, flags, next });
    proptest::collection::vec(descriptor, usize::from(SIZE))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn split_singles_are_what_the_walk_finds(
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
            ring.poll().unwrap();
            (ring, Chain::with_capacity(size), guest)
        };
        let (mut one, mut chain, memory) = ring();
        let (mut other, mut other_chain, other_memory) = ring();
        prop_assert_eq!(by_singles(&mut other, &mut other_chain, most, back), walk(&mut one, &mut chain));
        prop_assert_eq!((one.publish(&mut NoHook), bytes(&memory)), (other.publish(&mut NoHook), bytes(&other_memory)));
    }

    #[test]
    fn packed_singles_are_what_the_walk_finds(
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
            (ring, Chain::with_capacity(size), guest)
        };
        let (mut one, mut chain, memory) = ring();
        let (mut other, mut other_chain, other_memory) = ring();
        prop_assert_eq!(by_singles(&mut other, &mut other_chain, most, back), walk(&mut one, &mut chain));
        prop_assert_eq!((one.publish(&mut NoHook), bytes(&memory)), (other.publish(&mut NoHook), bytes(&other_memory)));
    }
}

fn bytes(guest: &Guest) -> Vec<u8> {
    let mut bytes = vec![0; guest.memory.len()];
    guest.memory.copy_out(0, &mut bytes);
    bytes
}
