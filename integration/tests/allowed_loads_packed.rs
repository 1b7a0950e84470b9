//! The set of allowed loads of the packed ring, and of indirect tables in both layouts (threat model K2 and K3).
//!
//! As `allowed_loads`, for the layout in which both sides write the same slots: the hardened ring may load the second word
//! of the slot where a completion is due, once, and only while something is out; and the device's event area when it has
//! published. Never an address, never another slot, never its own event area, never a table.

#![expect(clippy::cast_possible_truncation, reason = "lengths and numbers of a test are small")]

use ironring_common::index::{DescId, GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{self, SlotRest};
use ironring_common::spec::split::{self, UsedElem};
use ironring_driver::mapper::identity::{ArenaBuffer, Identity};
use ironring_driver::queue::packed::{PackedAreas, PackedRing};
use ironring_driver::queue::split::{SplitAreas, SplitRing};
use ironring_driver::queue::violation::{Latch, ViolationKind};
use ironring_driver::queue::{DriverRing, RingOptions, Tables};
use ironring_integration::double::counting::{Counting, Load, LoadLog};

const SIZE: u16 = 5;

struct Bench {
    log: LoadLog,
    ring: PackedRing<Counting<Area>, u64>,
    device: Area,
}

fn tables(map: &std::sync::Arc<Mapping>, log: &LoadLog) -> Tables<Counting<Area>> {
    let words = Counting::new(map.area(32 * 1024, 8 * 4 * 16).unwrap(), "tables", log);
    Tables { words, base: GuestAddr(0x9000_0000), entries: 4 }
}

impl Bench {
    fn new(indirect: bool, event_idx: bool, in_order: bool) -> Self {
        let size = QueueSize::packed(SIZE).unwrap();
        let map = Mapping::of(&Memfd::create("loads", 64 * 1024).unwrap()).unwrap();
        let log = LoadLog::new();
        let part = |at, len, name| Counting::new(map.area(at, len).unwrap(), name, &log);
        let areas = PackedAreas {
            ring: part(0, packed::ring_bytes(size), "ring"),
            driver_event: part(4096, 4, "driver event"),
            device_event: part(8192, 4, "device event"),
        };
        let options = RingOptions { event_idx, in_order, tables: indirect.then(|| tables(&map, &log)) };
        let ring = PackedRing::with_options(0, size, areas, Latch::new(), options).unwrap();
        Self { log, ring, device: map.area(0, packed::ring_bytes(size)).unwrap() }
    }

    fn add(&mut self, buffers: usize, token: u64) -> DescId {
        let chain = vec![ArenaBuffer { offset: 0, len: 100 }; buffers];
        self.ring.add(&mut Identity::new(), &chain[..1], &chain[1..], token).unwrap()
    }

    fn complete(&self, slot: u16, wrap: bool, id: u16, len: u32) {
        let rest = SlotRest { len, id, flags: packed::used_flags(wrap) };
        self.device.store_u64_release(usize::from(slot) * 16 + 8, rest.to_word());
    }
}

fn slot(slot: u16) -> Load {
    Load { area: "ring", at: usize::from(slot) * 16 + 8, bytes: 8 }
}

const EVENT: Load = Load { area: "device event", at: 0, bytes: 4 };

fn take(ring: &mut PackedRing<Counting<Area>, u64>, mapper: &mut Identity) -> Option<u64> {
    ring.take(mapper).unwrap().map(|done| done.token)
}

#[test]
fn each_completion_costs_one_load_and_nothing_out_costs_none() {
    for bits in 0..8u8 {
        let (indirect, event_idx, in_order) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
        let mut bench = Bench::new(indirect, event_idx, in_order);
        let mut mapper = Identity::new();
        let chain = [ArenaBuffer { offset: 0, len: 100 }; 3];
        let (mut at, mut wrap) = (0u16, true);
        for round in 0..40u64 {
            let buffers = (round % 3) as usize + 1;
            let head = bench.ring.add(&mut mapper, &chain[..1], &chain[1..buffers], round).unwrap();
            bench.ring.publish();
            bench.ring.arm_calls();
            bench.ring.suppress_calls();
            assert_eq!(bench.log.take(), [], "posting and asking for calls");
            bench.ring.should_kick();
            assert_eq!(bench.log.take(), [EVENT]);
            assert_eq!(take(&mut bench.ring, &mut mapper), None);
            assert_eq!(bench.log.take(), [slot(at)], "one look at the slot that is due");
            bench.complete(at, wrap, head.get(), 0);
            assert_eq!(take(&mut bench.ring, &mut mapper), Some(round));
            assert_eq!(bench.log.take(), [slot(at)]);
            assert_eq!(take(&mut bench.ring, &mut mapper), None);
            assert_eq!(bench.log.take(), [], "nothing is out");
            let slots = if indirect && buffers > 1 { 1 } else { buffers as u16 };
            (at, wrap) = if at + slots >= SIZE { (at + slots - SIZE, !wrap) } else { (at + slots, wrap) };
        }
    }
}

#[test]
fn a_batch_costs_one_load_however_long_it_is() {
    let mut bench = Bench::new(false, false, true);
    let heads: Vec<_> = (0..4).map(|token| bench.add(1, token)).collect();
    bench.ring.publish();
    bench.complete(0, true, heads[3].get(), 0);
    let mut mapper = Identity::new();
    for token in 0..4 {
        assert_eq!(take(&mut bench.ring, &mut mapper), Some(token));
    }
    assert_eq!(bench.log.take(), [slot(0)]);
}

#[test]
fn a_lie_costs_one_load_and_after_the_latch_there_are_none() {
    let lies = [
        (SIZE, 0, ViolationKind::IdOutOfRange),
        (u16::MAX, 0, ViolationKind::IdOutOfRange),
        (1, 0, ViolationKind::IdNotHead),
        (4, 0, ViolationKind::IdNotOutstanding),
        (0, 101, ViolationKind::LengthOverPosted),
    ];
    for (id, len, kind) in lies {
        let mut bench = Bench::new(false, true, false);
        bench.add(2, 7);
        bench.ring.publish();
        bench.complete(0, true, id, len);
        let mut mapper = Identity::new();
        assert_eq!(bench.ring.take(&mut mapper).unwrap_err().kind, kind);
        assert_eq!(bench.log.take(), [slot(0)], "{kind:?}");
        for _ in 0..3 {
            bench.ring.take(&mut mapper).unwrap_err();
            bench.ring.has_completions().unwrap_err();
            bench.ring.add(&mut mapper, &[ArenaBuffer { offset: 0, len: 1 }], &[], 8).unwrap_err();
            assert!(!bench.ring.publish() && !bench.ring.should_kick());
            bench.ring.arm_calls();
        }
        assert_eq!(bench.log.take(), [], "after the latch nothing is loaded");
    }
}

/// A split ring with tables and event indices: the used index, the element, `avail_event`, and no table.
#[test]
fn a_split_ring_loads_no_table() {
    let size = QueueSize::split(8).unwrap();
    let map = Mapping::of(&Memfd::create("loads", 64 * 1024).unwrap()).unwrap();
    let log = LoadLog::new();
    let part = |at, len, name| Counting::new(map.area(at, len).unwrap(), name, &log);
    let used = map.area(8192 + 60, split::used_bytes(size)).unwrap();
    let areas = SplitAreas {
        desc: part(0, split::desc_bytes(size), "desc"),
        avail: part(4096, split::avail_bytes(size), "avail"),
        used: Counting::new(used.clone(), "used", &log),
    };
    let options = RingOptions { event_idx: true, in_order: false, tables: Some(tables(&map, &log)) };
    let mut ring = SplitRing::with_options(0, size, areas, Latch::new(), options).unwrap();
    let mut mapper = Identity::new();
    let buffer = ArenaBuffer { offset: 0, len: 100 };
    for round in 0..20u16 {
        let head = ring.add(&mut mapper, &[buffer], &[buffer, buffer], 1u64).unwrap();
        ring.publish();
        ring.arm_calls();
        assert_eq!(log.take(), []);
        ring.should_kick();
        assert_eq!(log.take(), [Load { area: "used", at: split::avail_event_at(size), bytes: 2 }]);
        let at = split::USED_RING + 8 * usize::from(round % 8);
        used.store_u64(at, UsedElem { id: head.get().into(), len: 150 }.to_word());
        used.store_u16_release(split::USED_IDX, round + 1);
        assert_eq!(ring.take(&mut mapper).unwrap().unwrap().written, 150);
        let expected = [(split::USED_IDX, 2), (at, 8)].map(|(at, bytes)| Load { area: "used", at, bytes });
        assert_eq!(log.take(), expected);
    }
    assert_eq!(ring.counters().indirect_tables, 20);
}
