//! Bursts of slots do what single steps of the general ring do: the same script on both, with the same device, which lies
//! now and then.

use std::sync::Arc;

use ironring_common::index::{DescId, GuestAddr, PackedPosition, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{self, SlotRest};
use ironring_common::spec::split::{self, UsedElem};
use proptest::prelude::*;

use super::{BURST, Done, SharedSlots, SlotRing, Taken};
use crate::mapper::Direction;
use crate::mapper::slots::{FixedSlots, SlotPart};
use crate::queue::any::AnyRing;
use crate::queue::ledger::Ledger;
use crate::queue::packed::{PackedAreas, PackedRing};
use crate::queue::split::{SplitAreas, SplitRing};
use crate::queue::violation::{Latch, Violation, ViolationKind};
use crate::queue::{DriverRing, RingLayout, RingOptions};

mod exchange;

/// Descriptors at most.
const SIZE: u16 = 8;
/// Rings of every layout, the packed ones also with lines that are not full at the end of a round.
const RINGS: [(RingLayout, u16); 5] = [
    (RingLayout::Split, SIZE),
    (RingLayout::Packed, SIZE),
    (RingLayout::Packed, 7),
    (RingLayout::Packed, 5),
    (RingLayout::Packed, 3),
];
const MEMORY: usize = 4096;
const SLOTS: FixedSlots = FixedSlots::new(GuestAddr(0x1_0000), 2176, 2048);

/// A ring and its memory.
struct Side {
    ring: AnyRing<Area, ()>,
    memory: Area,
}

/// What is done to both.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many at once, or `alone`, one by one.
    Post {
        count: usize,
        len: u32,
        alone: bool,
    },
    Publish,
    /// The device gives back the `nth` of those that are out.
    Complete {
        nth: usize,
        len: u32,
    },
    /// It says something else.
    Lie {
        id: u32,
        len: u32,
    },
    /// It moves its index without an element.
    Jump {
        by: u16,
    },
    /// The first `alone` of them one by one, where they are exchanged.
    Take {
        most: usize,
        alone: usize,
    },
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..=9, 14u32..=2048, any::<bool>()).prop_map(|(count, len, alone)| Step::Post { count, len, alone }),
        3 => Just(Step::Publish),
        8 => (0usize..9, 0u32..=2048).prop_map(|(nth, len)| Step::Complete { nth, len }),
        4 => (1usize..=9, 0usize..4).prop_map(|(most, alone)| Step::Take { most, alone }),
        1 => (0u32..20, 0u32..5000).prop_map(|(id, len)| Step::Lie { id, len }),
        1 => (1u16..=u16::MAX).prop_map(|by| Step::Jump { by }),
    ]
}

impl Side {
    fn new((layout, size): (RingLayout, u16), in_order: bool, direction: Direction) -> Self {
        let size = QueueSize::packed(size).unwrap();
        let memfd = Memfd::create("slots", MEMORY).unwrap();
        let memory = Mapping::of(&memfd).unwrap().area(0, MEMORY).unwrap();
        let part = |at: usize, len: usize| memory.part(at, len).unwrap();
        let options = RingOptions { in_order, ..RingOptions::default() };
        let latch = Arc::clone(&Latch::new());
        let ring = match layout {
            RingLayout::Split => {
                let avail = part(512, split::avail_bytes(size));
                let areas = SplitAreas {
                    desc: part(0, split::desc_bytes(size)),
                    avail,
                    used: part(USED, split::used_bytes(size)),
                };
                AnyRing::Split(SplitRing::with_options(0, size, areas, latch, options).unwrap())
            }
            RingLayout::Packed => {
                let ring = part(0, packed::ring_bytes(size));
                let areas = PackedAreas { ring, driver_event: part(512, 4), device_event: part(576, 4) };
                AnyRing::Packed(PackedRing::with_options(0, size, areas, latch, options).unwrap())
            }
        };
        let mut ring = ring;
        ring.bind_slots(&SLOTS, direction);
        Self { ring, memory }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; MEMORY];
        self.memory.copy_out(0, &mut bytes);
        bytes
    }

    fn ledger(&mut self) -> &mut Ledger<()> {
        self.ring.ledger_mut()
    }

    /// By the general ring, these ones: bursts may lend in another order than those came back that are free.
    fn post_these(&mut self, direction: Direction, heads: &[DescId], len: u32) {
        self.ledger().line_up(heads);
        assert_eq!(self.post_singly(direction, heads.len(), len), heads);
    }

    /// By the general ring.
    fn post_singly(&mut self, direction: Direction, count: usize, len: u32) -> Vec<DescId> {
        let part = [SlotPart::first(len)];
        let (read, write) = if direction == Direction::ToDevice { (&part[..], &[][..]) } else { (&[][..], &part[..]) };
        let mut slots = SLOTS;
        (0..count).map_while(|_| self.ring.add(&mut slots, read, write, ()).ok()).collect()
    }

    fn post_burst(&mut self, direction: Direction, count: usize, len: u32) -> Vec<DescId> {
        let mut heads = Vec::new();
        let lens = std::iter::repeat_n(len, count);
        let posted = match &mut self.ring {
            AnyRing::Split(ring) => ring.post_slots(direction, count, lens, |head, at| heads.push((head, at))),
            AnyRing::Packed(ring) => ring.post_slots(direction, count, lens, |head, at| heads.push((head, at))),
        };
        assert!(heads.iter().all(|(head, at)| *at == SLOTS.addr(*head)));
        let heads: Vec<_> = heads.into_iter().map(|(head, _)| head).collect();
        assert_eq!(posted, heads.len());
        heads
    }

    /// As bursts do it, or one by one where they come `alone`.
    fn post(&mut self, direction: Direction, (count, len): (usize, u32), alone: bool) -> Vec<DescId> {
        if !alone {
            return self.post_burst(direction, count, len);
        }
        let one = |side: &mut Self| {
            let (next, held) = (side.ring.next_head(), side.ring.held());
            let at = match &mut side.ring {
                AnyRing::Split(ring) => ring.post_slot(len),
                AnyRing::Packed(ring) => ring.post_slot(len),
            };
            assert_eq!((at, side.ring.held()), (next.map(|head| SLOTS.addr(head)), held), "the next one that is free");
            next
        };
        (0..count).map_while(|_| one(self)).collect()
    }

    fn has_more(&mut self) -> bool {
        match &mut self.ring {
            AnyRing::Split(ring) => ring.has_more(),
            AnyRing::Packed(ring) => ring.has_more(),
        }
    }

    /// Up to `most`: the first `alone` one by one, each with a look whether there are more, and the others in a burst.
    fn exchange(&mut self, most: usize, alone: usize) -> (Vec<Done>, bool) {
        let mut done = Vec::new();
        for _ in 0..alone.min(most) {
            let before = done.len();
            let Taken { count, broken } = match &mut self.ring {
                AnyRing::Split(ring) => ring.exchange_slot(|slot| done.push(slot)),
                AnyRing::Packed(ring) => ring.exchange_slot(|slot| done.push(slot)),
            };
            assert_eq!(before + count, done.len());
            if broken || count == 0 || done.len() == most {
                return (done, broken);
            }
            let (more, packed) = (self.has_more(), matches!(self.ring, AnyRing::Packed(_)));
            // A packed ring looks. A split one knows what its last look said, and a burst looks again.
            if more || packed {
                assert_eq!(self.ring.has_completions(), Ok(more));
            }
        }
        let (before, most) = (done.len(), most - done.len());
        let Taken { count, broken } = match &mut self.ring {
            AnyRing::Split(ring) => ring.exchange_slots(most, |slot| done.push(slot)),
            AnyRing::Packed(ring) => ring.exchange_slots(most, |slot| done.push(slot)),
        };
        assert_eq!(before + count, done.len());
        (done, broken)
    }

    fn take_singly(&mut self, most: usize) -> (Vec<Done>, Option<Violation>) {
        let mut slots = SLOTS;
        let mut taken = Vec::new();
        for _ in 0..most {
            match self.ring.take(&mut slots) {
                Ok(Some(done)) => {
                    taken.push(Done { head: done.head, at: SLOTS.addr(done.head), written: done.written });
                }
                Ok(None) => break,
                Err(violation) => return (taken, Some(violation)),
            }
        }
        (taken, None)
    }

    fn take_burst(&mut self, most: usize) -> (Vec<Done>, Option<Violation>) {
        let mut done = Vec::new();
        let Taken { count, broken } = match &mut self.ring {
            AnyRing::Split(ring) => ring.take_slots(most, |slot| done.push(slot)),
            AnyRing::Packed(ring) => ring.take_slots(most, |slot| done.push(slot)),
        };
        let end = if broken { Err(self.ring.broken_by()) } else { Ok(()) };
        assert_eq!((count, broken), (done.len(), self.ring.check().is_err()));
        (done, end.err())
    }
}

/// The device: where it goes on, and what it holds.
struct Device {
    layout: RingLayout,
    size: QueueSize,
    in_order: bool,
    used: u16,
    at: PackedPosition,
    held: Vec<DescId>,
    /// What the driver has posted and not published, and the slots where it begins.
    unshown: Vec<DescId>,
    unshown_at: PackedPosition,
    /// It has written a slot that was posted and not published. A burst writes it after that, single steps have written it
    /// before, so the two rings see different devices from then on.
    intruded: bool,
}

impl Device {
    fn new((layout, size): (RingLayout, u16), in_order: bool) -> Self {
        let size = QueueSize::packed(size).unwrap();
        let start = PackedPosition::START;
        let (held, unshown) = (Vec::new(), Vec::new());
        Self { layout, size, in_order, used: 0, at: start, held, unshown, unshown_at: start, intruded: false }
    }

    fn is_shown(&mut self) {
        self.unshown_at = self.unshown_at.advance(self.unshown.len() as u16, self.size);
        self.held.append(&mut self.unshown);
    }

    fn complete(&mut self, sides: [&Side; 2], nth: usize, len: u32) {
        if nth >= self.held.len().min(self.size.get().into()) {
            return;
        }
        let id = self.held[nth];
        if self.in_order {
            // All up to this one.
            self.held.drain(..=nth);
            self.say(sides, id.get().into(), len, nth as u16 + 1);
        } else {
            self.held.remove(nth);
            self.say(sides, id.get().into(), len, 1);
        }
    }

    fn say(&mut self, sides: [&Side; 2], id: u32, len: u32, slots: u16) {
        let size = self.size.get();
        let ahead = (self.at.slot() + size - self.unshown_at.slot()) % size;
        self.intruded |= self.layout == RingLayout::Packed && usize::from(ahead) < self.unshown.len();
        let at = USED + split::USED_RING + 8 * usize::from(self.used % size);
        self.used = self.used.wrapping_add(slots);
        for Side { memory, .. } in sides {
            match self.layout {
                RingLayout::Split => {
                    memory.store_u64(at, UsedElem { id, len }.to_word());
                    memory.store_u16_release(USED + split::USED_IDX, self.used);
                }
                RingLayout::Packed => {
                    let rest = SlotRest { len, id: id as u16, flags: packed::used_flags(self.at.wrap()) };
                    memory.store_u64_release(16 * usize::from(self.at.slot()) + 8, rest.to_word());
                }
            }
        }
        self.at = self.at.advance(slots, self.size);
    }

    fn jump(&mut self, sides: [&Side; 2], by: u16) {
        if self.layout == RingLayout::Split {
            self.used = self.used.wrapping_add(by);
            sides.iter().for_each(|side| side.memory.store_u16_release(USED + split::USED_IDX, self.used));
        }
    }
}

/// The used ring: its elements are on 8 bytes.
const USED: usize = 1020;

fn run(ring: (RingLayout, u16), in_order: bool, direction: Direction, script: &[Step]) {
    let side = || Side::new(ring, in_order, direction);
    let (mut one, mut many) = (side(), side());
    let mut device = Device::new(ring, in_order);
    for step in script {
        match *step {
            Step::Post { count, len, alone } => {
                let heads = many.post(direction, (count, len), alone);
                assert_eq!(heads.len(), count.min(heads.len() + usize::from(many.ring.free())), "all that are free");
                if in_order {
                    assert_eq!(one.post_singly(direction, heads.len(), len), heads, "as they came back");
                } else {
                    one.post_these(direction, &heads, len);
                }
                device.unshown.extend(heads);
            }
            Step::Publish => {
                assert_eq!(one.ring.publish(), many.ring.publish());
                device.is_shown();
            }
            Step::Complete { nth, len } => device.complete([&one, &many], nth, len),
            Step::Lie { id, len } => device.say([&one, &many], id, len, 1),
            Step::Jump { by } => device.jump([&one, &many], by),
            Step::Take { most, .. } => {
                let (singly, fault) = one.take_singly(most);
                let (burst, burst_fault) = many.take_burst(most);
                if is_about_the_index(fault) {
                    return;
                }
                if let Some(fault) = fault {
                    // The burst looks at the index before it takes what it has seen: it may take less before a fault.
                    let found = burst_fault.expect("it breaks the device");
                    assert!(singly.starts_with(&burst), "{fault:?} {found:?}");
                    assert!(found == fault || found.kind == ViolationKind::UsedIndexJump, "{fault:?} {found:?}");
                    assert!(many.ring.check().is_err());
                    return;
                }
                assert_eq!((burst, burst_fault), (singly, None));
            }
        }
        if device.intruded {
            return each_by_itself(&mut one, &mut many);
        }
        // What was posted in bursts may be written as late as it is published.
        if matches!(step, Step::Publish) {
            assert_eq!(one.bytes(), many.bytes());
        }
        assert!(one.ring.is_conserved() && many.ring.is_conserved(), "{step:?}");
        let counts = |side: &Side| (side.ring.counters(), side.ring.free(), side.ring.held(), side.ring.stop_window());
        assert_eq!(counts(&one), counts(&many), "{step:?}");
    }
}

proptest! {
    #[test]
    fn bursts_do_what_single_steps_do(script in proptest::collection::vec(steps(), 1..120)) {
        for ring in RINGS {
            for in_order in [false, true] {
                for direction in [Direction::ToDevice, Direction::FromDevice] {
                    run(ring, in_order, direction, &script);
                }
            }
        }
    }
}

/// By whatever way a slot was posted the last time: the device is told the one that it is.
#[test]
fn slots_that_were_posted_one_by_one_are_posted_in_bursts_afterwards() {
    for ring in RINGS {
        let (mut side, mut device) = (Side::new(ring, false, Direction::ToDevice), Device::new(ring, false));
        for round in 0..40 {
            let heads = match round % 3 {
                0 => side.post_singly(Direction::ToDevice, 1, 100 + round),
                1 => side.post_burst(Direction::ToDevice, 2, 200 + round),
                _ => {
                    [side.post_singly(Direction::ToDevice, 1, 60), side.post_burst(Direction::ToDevice, 1, 61)].concat()
                }
            };
            assert!(!heads.is_empty());
            let at = device.unshown_at;
            side.ring.publish();
            device.unshown.extend(&heads);
            device.is_shown();
            for (n, head) in heads.iter().enumerate().filter(|_| ring.0 == RingLayout::Packed) {
                let slot = at.advance(n as u16, device.size).slot();
                let rest = SlotRest::from_word(side.memory.load_u64(16 * usize::from(slot) + 8));
                assert_eq!(rest.id, head.get(), "{ring:?} {round}");
            }
            while !device.held.is_empty() {
                device.complete([&side, &side], 0, 0);
            }
            let taken = side.take_burst(9);
            assert_eq!(taken.0.iter().map(|done| done.head).collect::<Vec<_>>(), heads);
            assert!(taken.1.is_none() && side.ring.is_conserved());
        }
    }
}

/// A device goes from slot to slot, so the first one has to be the last that becomes available.
#[test]
fn the_first_slot_of_a_packed_burst_is_shown_last_however_the_others_were_posted() {
    let ways: [&[(usize, bool)]; 4] = [
        &[(1, true), (2, false)],
        &[(2, false), (1, true)],
        &[(1, true), (1, true), (1, true)],
        &[(2, false), (2, true)],
    ];
    for way in ways {
        let mut side = Side::new((RingLayout::Packed, SIZE), false, Direction::ToDevice);
        let posted = way.iter().map(|(count, alone)| side.post(Direction::ToDevice, (*count, 60), *alone).len());
        let posted: usize = posted.sum();
        let available = |side: &Side| {
            let rests = (0..usize::from(SIZE)).map(|slot| SlotRest::from_word(side.memory.load_u64(16 * slot + 8)));
            rests.map(|rest| packed::is_avail(rest.flags, true)).collect::<Vec<_>>()
        };
        assert!(!available(&side)[0], "{way:?}");
        // What comes one by one is written as it comes, and with it what was kept back before.
        let written = if way.last().is_some_and(|(_, alone)| *alone) { posted } else { 1 };
        assert!((1..usize::from(SIZE)).all(|slot| available(&side)[slot] == (slot < written)), "{way:?}");
        assert!(side.ring.publish());
        assert!((0..usize::from(SIZE)).all(|slot| available(&side)[slot] == (slot < posted)), "{way:?}");
    }
}

/// Two rings that have seen different devices: each publishes and takes what there is, and keeps its books.
fn each_by_itself(one: &mut Side, many: &mut Side) {
    one.ring.publish();
    many.ring.publish();
    for _ in 0..SIZE {
        let _ = one.take_singly(1);
        let _ = many.take_burst(SIZE.into());
        assert!(one.ring.is_conserved() && many.ring.is_conserved());
    }
}

/// Whether it depends on when the index was loaded: a batch may be beyond what an earlier look at the index said, and within
/// what the burst sees, which looks again before it begins.
fn is_about_the_index(fault: Option<Violation>) -> bool {
    fault.is_some_and(|fault| fault.kind == ViolationKind::BatchOverrun)
}

/// An index that goes back between two looks is unlawful, also while completions that were seen are left.
#[test]
fn an_index_that_goes_back_breaks_the_device() {
    let mut side = Side::new((RingLayout::Split, SIZE), false, Direction::FromDevice);
    assert_eq!(side.post_burst(Direction::FromDevice, 8, 100).len(), 8);
    side.ring.publish();
    for id in 0..4u32 {
        side.memory.store_u64(USED + split::USED_RING + 8 * id as usize, UsedElem { id, len: 50 }.to_word());
    }
    side.memory.store_u16_release(USED + split::USED_IDX, 4);
    let (taken, fault) = side.take_burst(2);
    assert_eq!((taken.len(), fault), (2, None));
    side.memory.store_u16_release(USED + split::USED_IDX, 3);
    let (_, fault) = side.take_burst(BURST.min(8));
    assert_eq!(fault.map(|fault| fault.kind), Some(ViolationKind::UsedIndexJump));
}
