//! The set of allowed loads, as a tested property (threat model K2 and K3).
//!
//! The hardened ring works over areas that write down every load. Whatever it does, with chains of any shape, with mapping
//! failures, with lies and after the latch, it may load nothing but the used index, the used elements that it takes, and
//! the device's flags, each once per decision. The trusting ring, under the same script, shows that the double sees the
//! loads that the rule forbids.

use std::collections::HashSet;

use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{self, UsedElem};
use ironring_driver::mapper::bounce::{BLOCK_BYTES, Bounce, PrivateBuffer};
use ironring_driver::queue::DriverRing;
use ironring_driver::queue::split::{SplitAreas, SplitRing};
use ironring_driver::queue::violation::{Latch, ViolationKind};
use ironring_integration::double::counting::{Counting, Load, LoadLog};
use ironring_integration::trusting::{Options, TrustingRing};

const SIZE: u16 = 16;
const POOL: GuestAddr = GuestAddr(0x9000_0000);

/// Areas that count for the driver, and the same memory without counting for the device.
struct Bench {
    log: LoadLog,
    areas: SplitAreas<Counting<Area>>,
    device: SplitAreas<Area>,
    mapper: Bounce<Counting<Area>>,
    used: u16,
}

impl Bench {
    fn new() -> Self {
        let size = QueueSize::split(SIZE).unwrap();
        let map = Mapping::of(&Memfd::create("loads", 64 * 1024).unwrap()).unwrap();
        let part = |at, len| map.area(at, len).unwrap();
        let device = SplitAreas {
            desc: part(0, split::desc_bytes(size)),
            avail: part(4096, split::avail_bytes(size)),
            used: part(8192 + 60, split::used_bytes(size)),
        };
        let log = LoadLog::new();
        let areas = SplitAreas {
            desc: Counting::new(device.desc.clone(), "desc", &log),
            avail: Counting::new(device.avail.clone(), "avail", &log),
            used: Counting::new(device.used.clone(), "used", &log),
        };
        let pool = Counting::new(part(16384, 12 * BLOCK_BYTES), "pool", &log);
        let mapper = Bounce::new(pool, POOL, vec![0x33; 16 * 1024]);
        Self { log, areas, device, mapper, used: 0 }
    }

    fn complete(&mut self, id: u32, len: u32) {
        let at = split::USED_RING + 8 * usize::from(self.used % SIZE);
        self.device.used.store_u64(at, UsedElem { id, len }.to_word());
        self.used = self.used.wrapping_add(1);
        self.device.used.store_u16_release(split::USED_IDX, self.used);
    }
}

fn buffer(slot: usize, len: u32) -> PrivateBuffer {
    PrivateBuffer { offset: slot * 512, len }
}

fn element(index: u16) -> Load {
    Load { area: "used", at: split::USED_RING + 8 * usize::from(index % SIZE), bytes: 8 }
}

const USED_IDX: Load = Load { area: "used", at: split::USED_IDX, bytes: 2 };
const USED_FLAGS: Load = Load { area: "used", at: split::USED_FLAGS, bytes: 2 };

#[test]
fn posting_loads_nothing_even_when_mapping_fails() {
    let mut bench = Bench::new();
    let mut ring = SplitRing::new(0, QueueSize::split(SIZE).unwrap(), bench.areas.clone(), Latch::new()).unwrap();
    let chain: Vec<_> = (0..5).map(|slot| buffer(slot, 400)).collect();
    ring.add(&mut bench.mapper, &chain[..2], &chain[2..], 1u64).unwrap();
    // The pool has 12 blocks, 10 are taken: this one fails half way and is unwound.
    ring.add(&mut bench.mapper, &chain[..2], &chain[2..], 2u64).unwrap_err();
    ring.publish();
    ring.suppress_calls();
    assert_eq!(bench.log.take(), []);
    ring.should_kick();
    assert_eq!(bench.log.take(), [USED_FLAGS]);
}

#[test]
fn taking_loads_the_index_once_and_each_element_once() {
    let mut bench = Bench::new();
    let mut ring = SplitRing::new(0, QueueSize::split(SIZE).unwrap(), bench.areas.clone(), Latch::new()).unwrap();
    for round in 0..40u16 {
        let first = ring.add(&mut bench.mapper, &[buffer(0, 100)], &[buffer(1, 200), buffer(2, 50)], 1u64).unwrap();
        let second = ring.add(&mut bench.mapper, &[buffer(3, 80)], &[], 2u64).unwrap();
        ring.publish();
        bench.complete(u32::from(second.get()), 0);
        bench.complete(u32::from(first.get()), 230);
        assert_eq!(bench.log.take(), []);
        // One look at the index finds both; taking them loads one word each.
        assert_eq!(ring.take(&mut bench.mapper).unwrap().unwrap().token, 2);
        assert_eq!(bench.log.take(), [USED_IDX, element(2 * round)]);
        assert_eq!(ring.take(&mut bench.mapper).unwrap().unwrap().token, 1);
        let loads = bench.log.take();
        // The bytes that the device wrote are copied out: 200 of the first buffer, 30 of the second, nothing else.
        assert_eq!(loads[0], element(2 * round + 1));
        let copied: Vec<_> = loads[1..].iter().map(|load| (load.area, load.bytes)).collect();
        assert_eq!(copied, [("pool", 200), ("pool", 30)]);
        assert!(ring.take(&mut bench.mapper).unwrap().is_none());
        assert_eq!(bench.log.take(), [USED_IDX]);
    }
}

#[test]
fn a_lie_costs_at_most_two_loads_and_after_the_latch_there_are_none() {
    type Lie = fn(&mut Bench);
    let lies: [(ViolationKind, Lie, &[Load]); 4] = [
        (ViolationKind::UsedIndexJump, |b| b.device.used.store_u16(split::USED_IDX, 9), &[USED_IDX]),
        (ViolationKind::IdOutOfRange, |b| b.complete(0x1_0000, 0), &[USED_IDX, element(0)]),
        (ViolationKind::IdNotHead, |b| b.complete(1, 0), &[USED_IDX, element(0)]),
        (ViolationKind::LengthOverPosted, |b| b.complete(0, 101), &[USED_IDX, element(0)]),
    ];
    for (kind, lie, loads) in lies {
        let mut bench = Bench::new();
        let mut ring = SplitRing::new(0, QueueSize::split(SIZE).unwrap(), bench.areas.clone(), Latch::new()).unwrap();
        ring.add(&mut bench.mapper, &[buffer(0, 10)], &[buffer(1, 100)], 7u64).unwrap();
        ring.publish();
        lie(&mut bench);
        assert_eq!(ring.take(&mut bench.mapper).unwrap_err().kind, kind);
        assert_eq!(bench.log.take(), loads, "{kind:?}");
        for _ in 0..3 {
            ring.take(&mut bench.mapper).unwrap_err();
            ring.has_completions().unwrap_err();
            ring.add(&mut bench.mapper, &[buffer(2, 10)], &[], 8u64).unwrap_err();
            assert!(!ring.publish() && !ring.should_kick());
            ring.arm_calls();
        }
        assert_eq!(bench.log.take(), [], "after the latch nothing is loaded");
    }
}

/// The same double under the trusting ring: it sees the table and the available ring being read back.
#[test]
fn the_double_sees_forbidden_loads() {
    let mut bench = Bench::new();
    let mut ring = TrustingRing::new(QueueSize::split(SIZE).unwrap(), bench.areas.clone(), Options::default());
    assert!(ring.add(&mut bench.mapper, &[buffer(0, 10)], &[buffer(1, 100)], 7).unwrap());
    ring.publish().unwrap();
    bench.complete(0, 100);
    assert_eq!(ring.take(&mut bench.mapper).unwrap(), Some((7, 100)));
    let areas: HashSet<_> = bench.log.take().iter().map(|load| load.area).collect();
    assert!(areas.contains("desc") && areas.contains("avail"), "{areas:?}");
}
