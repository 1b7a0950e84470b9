//! The packed ring and indirect tables under drivers that lie, and the split walk against rust-vmm's.

use ironring_common::error::Misuse;
use ironring_common::index::{GuestAddr, PackedPosition, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::table::RegionTable;
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{
    DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, EVENT_F_DESC, EVENT_F_ENABLE, Event, SlotRest, avail_flags, is_used,
    ring_bytes, used_flags,
};
use proptest::prelude::*;

use super::chain::{Chain, Segment};
use super::hook::NoHook;
use super::packed::PackedVring;
use super::test_guest::{Guest, START, addr};
use super::{DeviceRing, RingFault, VringOptions};

/// A packed ring, as its driver has it.
struct Driver {
    ring: Area,
    driver_event: Area,
    device_event: Area,
    memory: RegionTable,
    /// For tables.
    spare: Area,
    spare_at: usize,
    size: QueueSize,
    at: PackedPosition,
}

impl Driver {
    fn new(size: u16) -> Self {
        let mut guest = Guest::new(1 << 20);
        let size = QueueSize::packed(size).unwrap();
        let ring = guest.alloc(ring_bytes(size), 4096, 0);
        let events = [guest.alloc(4, 64, 0), guest.alloc(4, 64, 0)];
        let spare_at = guest.alloc(4096, 64, 0);
        let part = |at, len| guest.memory.part(at, len).unwrap();
        Self {
            ring: part(ring, ring_bytes(size)),
            driver_event: part(events[0], 4),
            device_event: part(events[1], 4),
            memory: guest.table(),
            spare: part(spare_at, 4096),
            spare_at,
            size,
            at: PackedPosition::START,
        }
    }

    fn vring(&self, base: u16, options: VringOptions) -> (PackedVring<Area>, Chain) {
        let areas = [&self.ring, &self.driver_event, &self.device_event].map(Clone::clone);
        let [ring, driver_event, device_event] = areas;
        let vring = PackedVring::new(3, self.size, ring, driver_event, device_event, base).unwrap();
        (vring.with_options(options), Chain::with_capacity(self.size))
    }

    fn indirect(&self) -> VringOptions {
        VringOptions { indirect: Some(self.memory.clone()), ..VringOptions::default() }
    }

    fn write(&self, at: PackedPosition, addr: u64, rest: SlotRest) {
        let offset = usize::from(at.slot()) * 16;
        self.ring.store_u64(offset, addr);
        self.ring.store_u64_release(offset + 8, rest.to_word());
    }

    /// Makes a chain of slots available; `flags` go with those of the round.
    fn add(&mut self, slots: &[(u64, u32, u16)], id: u16) {
        let mut places = Vec::new();
        for (addr, len, flags) in slots {
            let rest = SlotRest { len: *len, id, flags: flags | avail_flags(self.at.wrap()) };
            places.push((self.at, *addr, rest));
            self.at = self.at.advance(1, self.size);
        }
        for (at, addr, rest) in places.into_iter().rev() {
            self.write(at, addr, rest);
        }
    }

    fn table(&self, entries: &[(u64, u32, u16)]) -> (u64, u32) {
        for (n, (addr, len, flags)) in entries.iter().enumerate() {
            self.spare.store_u64(16 * n, *addr);
            self.spare.store_u64(16 * n + 8, SlotRest { len: *len, id: 0, flags: *flags }.to_word());
        }
        (addr(self.spare_at), entries.len() as u32 * 16)
    }

    fn rest(&self, at: PackedPosition) -> SlotRest {
        SlotRest::from_word(self.ring.load_u64_acquire(usize::from(at.slot()) * 16 + 8))
    }
}

fn buffer(len: u32, flags: u16) -> (u64, u32, u16) {
    (START, len, flags)
}

/// Chains of every length up to the whole ring, over many rounds, completed and marked where the driver looks.
#[test]
fn chains_of_every_length_are_taken_and_used_in_rings_of_every_size() {
    for size in [1, 2, 3, 5, 7, 8, 1000] {
        let mut driver = Driver::new(size);
        let (mut vring, mut chain) = driver.vring(0x8000, VringOptions::default());
        let mut used_at = PackedPosition::START;
        for round in 0..300u16 {
            let slots = round % size.min(9) + 1;
            let chain_of: Vec<_> = (0..slots)
                .map(|n| buffer(u32::from(n) + 1, DESC_F_WRITE | if n + 1 < slots { DESC_F_NEXT } else { 0 }))
                .collect();
            assert_eq!(vring.poll(), Ok(0));
            driver.add(&chain_of, round);
            assert_eq!(vring.poll(), Ok(1));
            assert!(vring.next_chain(&mut chain).unwrap());
            assert_eq!((chain.head().id, chain.head().slots), (round, slots));
            assert_eq!(chain.writable().len(), usize::from(slots));
            // Put back and taken again: the same.
            vring.undo();
            assert_eq!(vring.available(), 1);
            assert!(vring.next_chain(&mut chain).unwrap());
            assert_eq!(vring.next_chain(&mut Chain::with_capacity(driver.size)), Ok(false));
            vring.complete(&mut NoHook, chain.head(), 7);
            assert!(!is_used(driver.rest(used_at).flags, used_at.wrap()), "not before it is published");
            assert_eq!(vring.publish(&mut NoHook), 1);
            let rest = driver.rest(used_at);
            assert_eq!((rest.id, rest.len, rest.flags), (round, 7, used_flags(used_at.wrap()) | DESC_F_WRITE));
            used_at = used_at.advance(slots, driver.size);
        }
        assert_eq!(vring.stop(), used_at.to_bits());
    }
}

#[test]
fn a_burst_becomes_visible_with_its_first_slot() {
    let mut driver = Driver::new(8);
    let (mut vring, mut chain) = driver.vring(0x8000, VringOptions::default());
    for id in 0..3 {
        driver.add(&[buffer(10, 0)], id);
    }
    while vring.next_chain(&mut chain).unwrap() {
        vring.complete(&mut NoHook, chain.head(), 0);
    }
    let used = |driver: &Driver| {
        let mut at = PackedPosition::START;
        [(); 3].map(|()| {
            let used = is_used(driver.rest(at).flags, at.wrap());
            at = at.advance(1, driver.size);
            used
        })
    };
    assert_eq!(used(&driver), [false, true, true], "a driver cannot get past the first");
    assert_eq!(vring.publish(&mut NoHook), 3);
    assert_eq!(used(&driver), [true; 3]);
}

#[test]
fn completions_in_order_become_one_slot() {
    let mut driver = Driver::new(8);
    let (mut vring, mut chain) = driver.vring(0x8000, VringOptions { in_order: true, ..VringOptions::default() });
    for id in 0..3 {
        driver.add(&[buffer(10, DESC_F_NEXT), buffer(10, 0)], id);
    }
    while vring.next_chain(&mut chain).unwrap() {
        vring.complete(&mut NoHook, chain.head(), 0);
    }
    assert_eq!(vring.publish(&mut NoHook), 1);
    let rest = driver.rest(PackedPosition::START);
    assert!(is_used(rest.flags, true));
    assert_eq!((rest.id, rest.len), (2, 0), "the last one's id");
    assert_eq!(vring.stop(), 0x8006, "the slots of all three are passed");
}

#[test]
fn each_broken_rule_is_a_fault_of_its_own_and_latches() {
    type Break = fn(&mut Driver);
    let (queue, head) = (3, 1);
    let cases: [(&str, bool, Break, RingFault); 10] = [
        (
            "a chain that goes round the ring",
            false,
            |driver| driver.add(&[buffer(1, DESC_F_NEXT); 8], 5),
            RingFault::ChainTooLong { queue, head, bound: 8 },
        ),
        (
            "readable after writable",
            false,
            |driver| driver.add(&[buffer(1, DESC_F_WRITE | DESC_F_NEXT), buffer(1, 0)], 5),
            RingFault::ReadableAfterWritable { queue, head, at: 2 },
        ),
        (
            "a table without the feature",
            false,
            |driver| driver.add(&[buffer(16, DESC_F_INDIRECT)], 5),
            RingFault::IndirectNotNegotiated { queue, head, at: 1 },
        ),
        (
            "a table that goes on",
            true,
            |driver| driver.add(&[buffer(16, DESC_F_INDIRECT | DESC_F_NEXT), buffer(1, 0)], 5),
            RingFault::IndirectWithNext { queue, head },
        ),
        (
            "a table after a direct descriptor",
            true,
            |driver| driver.add(&[buffer(1, DESC_F_NEXT), buffer(16, DESC_F_INDIRECT)], 5),
            RingFault::IndirectWithNext { queue, head },
        ),
        (
            "an empty table",
            true,
            |driver| driver.add(&[buffer(0, DESC_F_INDIRECT)], 5),
            RingFault::IndirectLength { queue, head, len: 0, bound: 8 },
        ),
        (
            "a table with a part of a descriptor",
            true,
            |driver| driver.add(&[buffer(24, DESC_F_INDIRECT)], 5),
            RingFault::IndirectLength { queue, head, len: 24, bound: 8 },
        ),
        (
            "a table longer than the queue",
            true,
            |driver| driver.add(&[buffer(16 * 9, DESC_F_INDIRECT)], 5),
            RingFault::IndirectLength { queue, head, len: 16 * 9, bound: 8 },
        ),
        (
            "a table nowhere",
            true,
            |driver| driver.add(&[(1, 16, DESC_F_INDIRECT)], 5),
            RingFault::AddressOutside { queue, head, addr: GuestAddr(1), len: 16 },
        ),
        (
            "a table in a table",
            true,
            |driver| {
                let (addr, len) = driver.table(&[buffer(1, 0), buffer(16, DESC_F_INDIRECT)]);
                driver.add(&[(addr, len, DESC_F_INDIRECT)], 5);
            },
            RingFault::IndirectNested { queue, head },
        ),
    ];
    for (what, indirect, break_rule, expected) in cases {
        let mut driver = Driver::new(8);
        let options = if indirect { driver.indirect() } else { VringOptions::default() };
        let (mut vring, mut chain) = driver.vring(0x8000, options);
        driver.add(&[buffer(1, 0)], 4);
        assert!(vring.next_chain(&mut chain).unwrap());
        vring.complete(&mut NoHook, chain.head(), 0);
        vring.publish(&mut NoHook);
        break_rule(&mut driver);
        assert_eq!(vring.next_chain(&mut chain), Err(expected), "{what}");
        assert_eq!((vring.fault(), vring.available()), (Some(expected), 0), "{what}");
        assert_eq!(vring.poll(), Err(expected), "{what}");
        assert_eq!(vring.stop(), 0x8001, "{what}: what was done before stays done");
    }
}

#[test]
fn a_table_is_walked_in_its_order() {
    let mut driver = Driver::new(4);
    let (mut vring, mut chain) = driver.vring(0x8000, driver.indirect());
    let (addr, len) = driver.table(&[buffer(1, 0), buffer(2, 0), buffer(3, DESC_F_WRITE), buffer(4, DESC_F_WRITE)]);
    driver.add(&[(addr, len, DESC_F_INDIRECT)], 9);
    assert!(vring.next_chain(&mut chain).unwrap());
    let lens = |segments: &[Segment]| segments.iter().map(|segment| segment.len).collect::<Vec<_>>();
    assert_eq!((lens(chain.readable()), lens(chain.writable())), (vec![1, 2], vec![3, 4]));
    assert_eq!((chain.head().id, chain.head().slots), (9, 1));
}

#[test]
fn a_base_that_the_ring_does_not_have_is_refused() {
    let driver = Driver::new(5);
    for (base, fits) in [(0, true), (4, true), (5, false), (0x8004, true), (0x8005, false), (0x7fff, false)] {
        let areas = [&driver.ring, &driver.driver_event, &driver.device_event].map(Clone::clone);
        let [a, b, c] = areas;
        let made = PackedVring::new(0, driver.size, a, b, c, base).map(drop);
        assert_eq!(made, if fits { Ok(()) } else { Err(Misuse::PackedBase { base, size: 5 }) });
    }
}

/// A front-end that lost the position: the slots tell it, or the ring is refused, or the front-end is right.
#[test]
fn a_lost_position_is_found_or_refused() {
    let mut driver = Driver::new(8);
    let (mut vring, mut chain) = driver.vring(0x8000, VringOptions::default());
    for id in 0..11 {
        driver.add(&[buffer(1, 0)], id);
        vring.next_chain(&mut chain).unwrap();
        vring.complete(&mut NoHook, chain.head(), 0);
        vring.publish(&mut NoHook);
    }
    driver.add(&[buffer(1, 0)], 99);
    let (mut lost, mut chain) = driver.vring(0x8000, VringOptions::default());
    assert_eq!(lost.settle(true), Ok(PackedPosition::from_bits(3, driver.size)));
    assert!(lost.next_chain(&mut chain).unwrap());
    assert_eq!(chain.head().id, 99);
    let (mut right, _) = driver.vring(3, VringOptions::default());
    assert_eq!(right.settle(true), Ok(None));
    // A mark that a chain of several slots left behind: nothing is concluded, but slot 0 was used in this round.
    let at = PackedPosition::from_bits(1, driver.size).unwrap();
    driver.write(at, 0, SlotRest { len: 0, id: 0, flags: avail_flags(at.wrap()) });
    let (mut stale, _) = driver.vring(0, VringOptions::default());
    assert_eq!(stale.settle(true), Err(RingFault::StaleBase { queue: 3, slot: 0 }));
    let (mut believed, _) = driver.vring(3, VringOptions::default());
    assert_eq!(believed.settle(true), Ok(None));
}

/// A chain of two was used, and its second slot still looks available: only where there are no such chains may that be taken
/// for the place of the ring.
#[test]
fn where_chains_may_have_several_slots_the_front_end_is_believed() {
    let mut driver = Driver::new(8);
    let (mut vring, mut chain) = driver.vring(0x8000, VringOptions::default());
    driver.add(&[buffer(1, DESC_F_NEXT), buffer(1, 0)], 0);
    vring.next_chain(&mut chain).unwrap();
    vring.complete(&mut NoHook, chain.head(), 0);
    vring.publish(&mut NoHook);
    let base = vring.stop();
    assert_eq!(base, 0x8002);
    let (mut next, mut chain) = driver.vring(base, VringOptions::default());
    assert_eq!(next.settle(false), Ok(None));
    assert_eq!(next.next_chain(&mut chain), Ok(false), "the slot that was left behind is no chain");
    let (mut stale, _) = driver.vring(0x8000, VringOptions::default());
    assert_eq!(stale.settle(false), Err(RingFault::StaleBase { queue: 3, slot: 0 }));
}

/// The driver goes on behind slots that were found available and left there for want of more, and nobody knows where that is.
#[test]
fn a_kick_is_asked_for_wherever_the_driver_goes_on() {
    let mut driver = Driver::new(8);
    let (mut vring, mut chain) = driver.vring(0x8000, VringOptions { event_idx: true, ..VringOptions::default() });
    let said = |driver: &Driver| Event::from_word(driver.device_event.load_u32(0));
    vring.arm_kick();
    assert_eq!(said(&driver), Event { off_wrap: 0x8000, flags: EVENT_F_DESC });
    driver.add(&[buffer(1, 0)], 0);
    driver.add(&[buffer(1, 0)], 1);
    for _ in 0..2 {
        assert_eq!(vring.next_chain(&mut chain), Ok(true));
    }
    vring.undo_last(2);
    vring.arm_kick();
    assert_eq!(said(&driver).flags, EVENT_F_ENABLE);
    for _ in 0..2 {
        assert_eq!(vring.next_chain(&mut chain), Ok(true));
        vring.complete(&mut NoHook, chain.head(), 0);
    }
    vring.publish(&mut NoHook);
    vring.arm_kick();
    assert_eq!(said(&driver), Event { off_wrap: 0x8002, flags: EVENT_F_DESC });
}

#[test]
fn words_about_calls_are_hints() {
    for event_idx in [false, true] {
        for flags in 0..4u16 {
            for off_wrap in [0x8000u16, 0x8001, 0, 8, 0xffff] {
                let mut driver = Driver::new(8);
                let (mut vring, mut chain) =
                    driver.vring(0x8000, VringOptions { event_idx, ..VringOptions::default() });
                driver.driver_event.store_u32(0, Event { off_wrap, flags }.to_word());
                driver.add(&[buffer(1, 0)], 0);
                vring.next_chain(&mut chain).unwrap();
                vring.complete(&mut NoHook, chain.head(), 0);
                vring.publish(&mut NoHook);
                let expected = match flags {
                    1 => false,
                    2 if event_idx => off_wrap == 0x8000 || off_wrap & 0x7fff >= 8,
                    _ => true,
                };
                assert_eq!(vring.should_call(), expected, "{event_idx} {flags} {off_wrap:#x}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever stands in the ring, in the tables and in the event areas: lawful chains in bounded number, or one fault.
    #[test]
    fn arbitrary_bytes_end_in_lawful_chains_or_one_fault(
        size in 1u16..20,
        base in any::<u16>(),
        seed in proptest::collection::vec(any::<u8>(), 64..600),
        tame in any::<bool>(),
        indirect in any::<bool>(),
        in_order in any::<bool>(),
    ) {
        let driver = Driver::new(size);
        let base = PackedPosition::from_bits((base % size) | (base & 0x8000), driver.size).unwrap();
        let options = VringOptions { indirect: indirect.then(|| driver.memory.clone()), event_idx: true, in_order, ..VringOptions::default() };
        let (mut vring, mut chain) = driver.vring(base.to_bits(), options);
        for turn in 0..6usize {
            let fill = |area: &Area, salt: usize| {
                let bytes: Vec<u8> = (0..area.len()).map(|at| seed[(at * 7 + salt) % seed.len()]).collect();
                area.copy_in(0, &bytes);
            };
            fill(&driver.ring, turn);
            fill(&driver.spare, turn + 5);
            fill(&driver.driver_event, turn);
            if tame {
                // Flags of the round, and addresses that lead somewhere, so that walks go deep.
                let mut at = vring.next_avail();
                for n in 0..size {
                    let flags = u16::from(seed[usize::from(n) % seed.len()]) & 7 | avail_flags(at.wrap());
                    let len = u32::from(seed[usize::from(n + 1) % seed.len()]) % 12 * 16;
                    driver.write(at, addr(driver.spare_at), SlotRest { len, id: n, flags });
                    at = at.advance(1, driver.size);
                }
            }
            let mut slots = 0u32;
            let fault = loop {
                match vring.next_chain(&mut chain) {
                    Ok(true) => {
                        slots += u32::from(chain.head().slots);
                        prop_assert!(slots <= u32::from(size), "one burst takes at most one ring full");
                        prop_assert!(chain.readable().len() + chain.writable().len() <= usize::from(size));
                    }
                    Ok(false) => break None,
                    Err(fault) => break Some(fault),
                }
            };
            // Put everything back: what was taken was not completed.
            while vring.next_avail() != vring.next_used() {
                vring.undo();
            }
            prop_assert_eq!(vring.fault(), fault);
            if fault.is_some() {
                prop_assert_eq!(vring.poll(), Err(fault.unwrap()));
                break;
            }
        }
        prop_assert_eq!(vring.stop(), base.to_bits());
    }
}

#[test]
fn areas_that_cannot_hold_a_ring_are_refused() {
    let size = QueueSize::packed(5).unwrap();
    let whole = Mapping::of(&Memfd::create("ring", 4096).unwrap()).unwrap();
    let area = |at, len| whole.area(at, len).unwrap();
    let make = |a, b, c| PackedVring::new(0, size, a, b, c, 0x8000).map(drop);
    assert_eq!(make(area(0, 80), area(128, 4), area(132, 4)), Ok(()));
    assert_eq!(make(area(0, 79), area(128, 4), area(132, 4)), Err(Misuse::AreaTooSmall { have: 79, need: 80 }));
    assert_eq!(make(area(8, 80), area(128, 4), area(132, 4)), Err(Misuse::Misaligned { need: 16 }));
    assert_eq!(make(area(0, 80), area(130, 4), area(136, 4)), Err(Misuse::Misaligned { need: 4 }));
    assert_eq!(make(area(0, 80), area(128, 4), area(132, 3)), Err(Misuse::AreaTooSmall { have: 3, need: 4 }));
}
