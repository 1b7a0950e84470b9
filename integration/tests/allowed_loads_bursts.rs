//! The set of allowed loads of bursts of single slots (threat model K2 and K3).
//!
//! As `allowed_loads` and `allowed_loads_packed`, for the fast paths of the network queues: of a split ring the index, if more is asked for
//! than was seen, and each used element that is taken, once; of a packed ring the second word of each slot that is taken, once, and of the
//! one behind them, if it may be used. Wherever in the ring a burst begins and ends, in order or not, and up to the word that lies.

#![expect(clippy::cast_possible_truncation, reason = "numbers of a test are small")]

use ironring_common::index::{DescId, GuestAddr, PackedPosition, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{self, SlotRest};
use ironring_common::spec::split::{self, UsedElem};
use ironring_driver::mapper::Direction;
use ironring_driver::mapper::slots::FixedSlots;
use ironring_driver::queue::packed::{PackedAreas, PackedRing};
use ironring_driver::queue::slots::{Done, SlotRing};
use ironring_driver::queue::split::{SplitAreas, SplitRing};
use ironring_driver::queue::violation::Latch;
use ironring_driver::queue::{DriverRing, RingOptions};
use ironring_integration::double::counting::{Counting, Load, LoadLog};

const SLOTS: FixedSlots = FixedSlots::new(GuestAddr(0x1_0000), 2176, 2048);

/// The device's side of a ring, and what a burst may load there.
trait Device {
    /// Says that a slot was filled.
    fn complete(&mut self, id: u32, len: u32);

    /// The loads of a look whether there are more, with so many slots `held`.
    fn looked(&mut self, held: usize) -> Vec<Load>;

    /// The loads of a burst that asked for `most` completions, got `taken` and found `lies` behind them, with so many slots `held`
    /// before.
    fn allowed(&mut self, most: usize, taken: usize, lies: usize, held: usize) -> Vec<Load>;
}

struct Split {
    size: u16,
    used: Area,
    /// Completions so far, those that a burst has taken, and those that the driver has seen.
    done: u16,
    taken: u16,
    seen: u16,
}

impl Device for Split {
    fn complete(&mut self, id: u32, len: u32) {
        let at = split::USED_RING + 8 * usize::from(self.done % self.size);
        self.used.store_u64(at, UsedElem { id, len }.to_word());
        self.done = self.done.wrapping_add(1);
        self.used.store_u16_release(split::USED_IDX, self.done);
    }

    fn allowed(&mut self, most: usize, taken: usize, lies: usize, _: usize) -> Vec<Load> {
        let mut loads = Vec::new();
        if usize::from(self.seen.wrapping_sub(self.taken)) < most {
            self.seen = self.done;
            loads.push(Load { area: "ring", at: split::USED_IDX, bytes: 2 });
        }
        let places = (0..taken + lies).map(|n| usize::from(self.taken.wrapping_add(n as u16) % self.size));
        loads.extend(places.map(|place| Load { area: "ring", at: split::USED_RING + 8 * place, bytes: 8 }));
        self.taken = self.taken.wrapping_add(taken as u16);
        loads
    }

    fn looked(&mut self, _: usize) -> Vec<Load> {
        Vec::new()
    }
}

struct Packed {
    size: QueueSize,
    ring: Area,
    done: PackedPosition,
    taken: PackedPosition,
}

impl Device for Packed {
    fn complete(&mut self, id: u32, len: u32) {
        let rest = SlotRest { len, id: id as u16, flags: packed::used_flags(self.done.wrap()) };
        self.ring.store_u64_release(16 * usize::from(self.done.slot()) + 8, rest.to_word());
        self.done = self.done.advance(1, self.size);
    }

    fn allowed(&mut self, most: usize, taken: usize, lies: usize, held: usize) -> Vec<Load> {
        // Behind what was taken there is one that is not used, if anything is out there at all.
        let behind = usize::from(lies == 0 && taken < most && taken < held);
        let place = |n: usize| usize::from(self.taken.advance(n as u16, self.size).slot());
        let slots = (0..taken + lies + behind).map(place);
        let loads = slots.map(|slot| Load { area: "ring", at: 16 * slot + 8, bytes: 8 }).collect();
        self.taken = self.taken.advance(taken as u16, self.size);
        loads
    }

    fn looked(&mut self, held: usize) -> Vec<Load> {
        let at = 16 * usize::from(self.taken.slot()) + 8;
        if held > 0 { vec![Load { area: "ring", at, bytes: 8 }] } else { Vec::new() }
    }
}

fn split_ring(size: u16, in_order: bool) -> (LoadLog, SplitRing<Counting<Area>, ()>, Split) {
    let size = QueueSize::split(size).unwrap();
    let map = Mapping::of(&Memfd::create("loads", 64 * 1024).unwrap()).unwrap();
    let used = map.area(8192 + 60, split::used_bytes(size)).unwrap();
    let log = LoadLog::new();
    let areas = SplitAreas {
        desc: Counting::new(map.area(0, split::desc_bytes(size)).unwrap(), "desc", &log),
        avail: Counting::new(map.area(4096, split::avail_bytes(size)).unwrap(), "avail", &log),
        used: Counting::new(used.clone(), "ring", &log),
    };
    let options = RingOptions { in_order, ..RingOptions::default() };
    let ring = SplitRing::with_options(0, size, areas, Latch::new(), options).unwrap();
    (log, ring, Split { size: size.get(), used, done: 0, taken: 0, seen: 0 })
}

fn packed_ring(size: u16, in_order: bool) -> (LoadLog, PackedRing<Counting<Area>, ()>, Packed) {
    let size = QueueSize::packed(size).unwrap();
    let map = Mapping::of(&Memfd::create("loads", 64 * 1024).unwrap()).unwrap();
    let ring = map.area(0, packed::ring_bytes(size)).unwrap();
    let log = LoadLog::new();
    let areas = PackedAreas {
        ring: Counting::new(ring.clone(), "ring", &log),
        driver_event: Counting::new(map.area(4096, 4).unwrap(), "driver event", &log),
        device_event: Counting::new(map.area(8192, 4).unwrap(), "device event", &log),
    };
    let options = RingOptions { in_order, ..RingOptions::default() };
    let hardened = PackedRing::with_options(0, size, areas, Latch::new(), options).unwrap();
    (log, hardened, Packed { size, ring, done: PackedPosition::START, taken: PackedPosition::START })
}

/// One by one, and after each it is asked whether there are more, as the receive queue does it.
fn play_alone<R: DriverRing<()> + SlotRing>(
    (log, ring, device): (&LoadLog, &mut R, &mut impl Device),
    size: usize,
    lie: (u32, u32),
) {
    ring.bind_slots(&SLOTS, Direction::FromDevice);
    let mut out: std::collections::VecDeque<DescId> = std::collections::VecDeque::new();
    while let Some(head) = ring.next_head() {
        assert_eq!(ring.post_slot(2048), Some(SLOTS.addr(head)));
        out.push_back(head);
    }
    assert_eq!((out.len(), ring.post_slot(2048)), (size, None));
    for step in 0..60usize {
        ring.publish();
        let there = (step * 5) % (size + 1);
        let (is_lie, there) = (step == 59, if step == 59 { there.min(size - 1) } else { there });
        out.iter().take(there).for_each(|head| device.complete(head.get().into(), 60));
        if is_lie {
            device.complete(lie.0, lie.1);
        }
        assert_eq!(log.take(), [], "posting and publishing load nothing");
        // What a look whether there are more has loaded, the next exchange does not load again.
        let mut looked = Vec::new();
        for left in (0..=there).rev() {
            let mut done = None;
            let taken = ring.exchange_slot(|slot| done = Some(slot.head));
            assert_eq!((taken.count, taken.broken), (left.min(1), left == 0 && is_lie), "{size} {step}");
            let held = size - (there - left);
            let mut allowed = device.allowed(1, taken.count, usize::from(taken.broken), held);
            allowed.retain(|load| !looked.contains(load));
            assert_eq!(log.take(), allowed, "{size} {step} {left}");
            if left > 0 {
                assert_eq!(done, out.pop_front());
                out.extend(done);
                let more = left > 1 || is_lie;
                assert_eq!(ring.has_more(), more);
                let loads = device.looked(held - 1);
                assert_eq!(log.take(), loads, "{size} {step} {left}");
                looked = if more { loads } else { Vec::new() };
            }
        }
    }
    assert!(ring.exchange_slot(|_| {}).broken && !ring.has_more());
    assert_eq!(log.take(), [], "after the latch there are no loads");
}

/// Bursts of every size over some rounds of the ring, at the end a lie, and behind that nothing more.
fn play<R: DriverRing<()> + SlotRing>(
    (log, ring, device): (&LoadLog, &mut R, &mut impl Device),
    (size, again): (usize, bool),
    lie: (u32, u32),
) {
    ring.bind_slots(&SLOTS, Direction::FromDevice);
    let mut out: std::collections::VecDeque<DescId> = std::collections::VecDeque::new();
    for step in 0..60usize {
        let free = usize::from(ring.free());
        ring.post_slots(Direction::FromDevice, free, std::iter::repeat_n(2048, free), |head, _| out.push_back(head));
        ring.publish();
        let held = out.len();
        let (count, most) = ((step * 5) % (size + 1), (step * 7) % (size + 2) + 1);
        let is_lie = step == 59;
        let there = if is_lie { count.min(size - 1) } else { count };
        out.iter().take(there).for_each(|head| device.complete(head.get().into(), 60));
        if is_lie {
            device.complete(lie.0, lie.1);
        }
        assert_eq!(log.take(), [], "posting and publishing load nothing");
        // All of it, by bursts of `most`.
        let mut left = there;
        loop {
            let mut done = Vec::new();
            let most = if is_lie { size } else { most };
            let each = |slot: Done| done.push(slot.head);
            let taken = if again { ring.exchange_slots(most, each) } else { ring.take_slots(most, each) };
            assert_eq!((taken.count, taken.broken), (left.min(most), is_lie), "{size} {step}");
            assert!(done.iter().eq(out.iter().take(taken.count)));
            out.drain(..taken.count);
            let before = held - (there - left);
            left -= taken.count;
            assert_eq!(log.take(), device.allowed(most, taken.count, usize::from(is_lie), before), "{size} {step}");
            if again {
                out.extend(done);
            }
            if left == 0 {
                break;
            }
        }
    }
    assert!(ring.take_slots(size, |_| {}).broken && ring.exchange_slots(size, |_| {}).broken);
    assert_eq!(log.take(), [], "after the latch there are no loads");
}

#[test]
fn a_burst_of_a_split_ring_loads_the_index_and_what_it_takes() {
    for (in_order, again) in [(false, false), (false, true), (true, false), (true, true)] {
        for (size, lie) in [(8, (99, 0)), (1, (99, 0)), (16, (3, 2049))] {
            let (log, mut ring, mut device) = split_ring(size, in_order);
            play((&log, &mut ring, &mut device), (size.into(), again), lie);
        }
    }
}

#[test]
fn a_burst_of_a_packed_ring_loads_each_slot_that_it_takes_and_one_more_at_most() {
    for (in_order, again) in [(false, false), (false, true), (true, false), (true, true)] {
        for (size, lie) in [(8, (99, 0)), (7, (99, 0)), (5, (4, 2049)), (3, (99, 0)), (1, (99, 0))] {
            let (log, mut ring, mut device) = packed_ring(size, in_order);
            play((&log, &mut ring, &mut device), (size.into(), again), lie);
        }
    }
}

#[test]
fn a_slot_by_itself_is_loaded_once_whether_more_are_asked_for_or_not() {
    for in_order in [false, true] {
        for (size, lie) in [(8, (99, 0)), (1, (99, 0)), (16, (3, 2049))] {
            let (log, mut ring, mut device) = split_ring(size, in_order);
            play_alone((&log, &mut ring, &mut device), size.into(), lie);
        }
        for (size, lie) in [(8, (99, 0)), (7, (99, 0)), (5, (4, 2049)), (3, (99, 0)), (1, (99, 0))] {
            let (log, mut ring, mut device) = packed_ring(size, in_order);
            play_alone((&log, &mut ring, &mut device), size.into(), lie);
        }
    }
}
