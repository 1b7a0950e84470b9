use super::DeviceRing;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU32, Ordering};

use ironring_common::error::Misuse;
use ironring_common::index::{DescId, GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{
    AVAIL_IDX, AVAIL_RING, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, USED_FLAGS, USED_IDX, UsedElem,
};
use proptest::prelude::*;

use super::RingFault;
use super::chain::{Chain, Segment};
use super::hook::{Hook, NoHook};
use super::split::SplitVring;
use super::test_guest::{Guest, GuestRing, addr};

fn vring(ring: &GuestRing, base: u16) -> (SplitVring<Area>, Chain) {
    let (desc, avail, used) = (ring.desc.clone(), ring.avail.clone(), ring.used.clone());
    (SplitVring::new(3, ring.size, desc, avail, used, base).unwrap(), Chain::with_capacity(ring.size))
}

/// Takes every chain, completes it with its writable length, and publishes.
fn serve(vring: &mut SplitVring<Area>, chain: &mut Chain) -> Result<usize, RingFault> {
    vring.poll()?;
    let mut taken = 0;
    while vring.next_chain(chain)? {
        vring.complete(&mut NoHook, chain.head(), chain.writable_len() as u32);
        taken += 1;
    }
    vring.publish(&mut NoHook);
    Ok(taken)
}

#[test]
fn chains_of_all_shapes_are_taken_and_used_past_the_wrap_of_the_index() {
    for (elements_on_8, base) in [(true, 0), (false, 0xfff0), (true, 0x7ffe)] {
        let mut guest = Guest::new(1 << 20);
        let mut ring = guest.ring(16, elements_on_8);
        ring.set_base(base);
        let (mut vring, mut chain) = vring(&ring, base);
        for n in 0..100_000usize {
            let readable: Vec<_> = (0..n % 4).map(|k| (64 * k, 1 + n % 50)).collect();
            let writable: Vec<_> = (0..n % 3).map(|k| (4096 + 64 * k, 2 + n % 60)).collect();
            if readable.len() + writable.len() == 0 {
                continue;
            }
            let head = ring.add(&readable, &writable).unwrap();
            assert_eq!(vring.poll(), Ok(0), "not published yet");
            ring.publish();
            assert_eq!(vring.poll(), Ok(1));
            assert_eq!(vring.next_chain(&mut chain), Ok(true));
            assert_eq!(chain.head().id, head);
            let expect = |buffers: &[(usize, usize)]| -> Vec<Segment> {
                buffers.iter().map(|(at, len)| Segment { addr: GuestAddr(addr(*at)), len: *len as u32 }).collect()
            };
            assert_eq!(chain.readable(), expect(&readable));
            assert_eq!(chain.writable(), expect(&writable));
            assert_eq!(chain.readable_len(), readable.iter().map(|b| b.1 as u64).sum::<u64>());
            vring.complete(&mut NoHook, chain.head(), chain.writable_len() as u32);
            assert_eq!(ring.take(), None, "not published yet");
            assert_eq!(vring.publish(&mut NoHook), 1);
            assert_eq!(vring.publish(&mut NoHook), 0, "there is nothing new");
            assert_eq!(ring.take(), Some(UsedElem { id: head.into(), len: chain.writable_len() as u32 }));
        }
        assert_eq!(vring.next_chain(&mut chain), Ok(false));
        assert_eq!(vring.stop(), ring.avail_idx);
    }
}

#[test]
fn a_full_ring_is_taken_in_one_burst_and_put_back_chains_come_again() {
    let mut guest = Guest::new(1 << 20);
    let mut ring = guest.ring(256, true);
    let (mut vring, mut chain) = vring(&ring, 0);
    for round in 0..1000 {
        for n in 0..256 {
            assert!(ring.add(&[(n, 1)], &[]).is_some());
        }
        ring.publish();
        assert_eq!(vring.poll(), Ok(256), "round {round}");
        for _ in 0..256 {
            assert_eq!(vring.next_chain(&mut chain), Ok(true));
            let head = chain.head();
            vring.undo();
            assert_eq!(vring.next_chain(&mut chain), Ok(true));
            assert_eq!(chain.head(), head);
            vring.complete(&mut NoHook, head, 0);
        }
        assert_eq!(vring.next_chain(&mut chain), Ok(false));
        vring.publish(&mut NoHook);
        for _ in 0..256 {
            ring.take().unwrap();
        }
    }
    assert_eq!(vring.stop(), (256_000u32 % 65536) as u16);
}

/// Each kind of fault, by a driver that does one thing wrong after an honest start.
#[test]
fn each_broken_rule_is_a_fault_of_its_own_and_latches() {
    type Break = fn(&mut GuestRing);
    const BUFFER: Descriptor = Descriptor { addr: 0x4000_0000, len: 64, flags: 0, next: 0 };
    let cases: [(&str, Break, RingFault); 12] = [
        (
            "one chain too many",
            |ring| ring.avail_idx = ring.avail_idx.wrapping_add(9),
            RingFault::AvailIndexJump { queue: 3, last: 2, observed: 11, bound: 8 },
        ),
        (
            "one step back",
            |ring| ring.avail_idx = ring.avail_idx.wrapping_sub(1),
            RingFault::AvailIndexJump { queue: 3, last: 2, observed: 1, bound: 8 },
        ),
        (
            "half of the index space ahead",
            |ring| ring.avail_idx = ring.avail_idx.wrapping_add(0x8000),
            RingFault::AvailIndexJump { queue: 3, last: 2, observed: 0x8002, bound: 8 },
        ),
        (
            "head one past the table",
            |ring| ring.offer(8),
            RingFault::HeadOutOfRange { queue: 3, slot: 2, observed: 8, bound: 8 },
        ),
        (
            "head at the far end",
            |ring| ring.offer(0xffff),
            RingFault::HeadOutOfRange { queue: 3, slot: 2, observed: 0xffff, bound: 8 },
        ),
        (
            "next one past the table",
            |ring| {
                ring.write_desc(5, Descriptor { flags: DESC_F_NEXT, next: 8, ..BUFFER });
                ring.offer(5);
            },
            RingFault::NextOutOfRange { queue: 3, head: 5, at: 5, observed: 8, bound: 8 },
        ),
        (
            "a descriptor that goes on in itself",
            |ring| {
                ring.write_desc(5, Descriptor { flags: DESC_F_NEXT, next: 5, ..BUFFER });
                ring.offer(5);
            },
            RingFault::ChainTooLong { queue: 3, head: 5, bound: 8 },
        ),
        (
            "a loop of empty descriptors",
            |ring| {
                ring.write_desc(5, Descriptor { flags: DESC_F_NEXT, next: 6, len: 0, ..BUFFER });
                ring.write_desc(6, Descriptor { flags: DESC_F_NEXT, next: 5, len: 0, ..BUFFER });
                ring.offer(5);
            },
            RingFault::ChainTooLong { queue: 3, head: 5, bound: 8 },
        ),
        (
            "a loop through the whole table",
            |ring| {
                for id in 0..8 {
                    ring.write_desc(id, Descriptor { flags: DESC_F_NEXT, next: (id + 1) % 8, ..BUFFER });
                }
                ring.offer(0);
            },
            RingFault::ChainTooLong { queue: 3, head: 0, bound: 8 },
        ),
        (
            "an indirect table",
            |ring| {
                ring.write_desc(4, Descriptor { flags: DESC_F_NEXT, next: 5, ..BUFFER });
                ring.write_desc(5, Descriptor { flags: DESC_F_INDIRECT, ..BUFFER });
                ring.offer(4);
            },
            RingFault::IndirectNotNegotiated { queue: 3, head: 4, at: 5 },
        ),
        (
            "an indirect table that goes on nowhere",
            |ring| {
                ring.write_desc(4, Descriptor { flags: DESC_F_INDIRECT | DESC_F_NEXT, next: 99, ..BUFFER });
                ring.offer(4);
            },
            RingFault::IndirectNotNegotiated { queue: 3, head: 4, at: 4 },
        ),
        (
            "readable after writable",
            |ring| {
                ring.write_desc(4, Descriptor { flags: DESC_F_WRITE | DESC_F_NEXT, next: 5, ..BUFFER });
                ring.write_desc(5, BUFFER);
                ring.offer(4);
            },
            RingFault::ReadableAfterWritable { queue: 3, head: 4, at: 5 },
        ),
    ];
    for (what, break_rule, expected) in cases {
        let mut guest = Guest::new(1 << 20);
        let mut ring = guest.ring(8, true);
        let (mut vring, mut chain) = vring(&ring, 0);
        for _ in 0..2 {
            ring.add(&[(0, 8)], &[]);
        }
        ring.publish();
        assert_eq!(serve(&mut vring, &mut chain), Ok(2), "{what}");
        break_rule(&mut ring);
        ring.publish();
        let fault = serve(&mut vring, &mut chain).unwrap_err();
        assert_eq!(fault, expected, "{what}");
        assert_eq!(vring.fault(), Some(fault), "{what}");
        // An honest ring again: the latch holds, and what was done before stays done.
        ring.avail_idx = 3;
        ring.publish();
        assert_eq!(vring.poll(), Err(fault), "{what}");
        assert_eq!(vring.next_chain(&mut chain), Err(fault), "{what}");
        assert_eq!(vring.stop(), 2, "{what}");
        assert_eq!(ring.device_idx(), 2, "{what}");
    }
}

#[test]
fn every_class_has_its_own_name_and_place() {
    let queue = 0;
    let faults = [
        RingFault::AvailIndexJump { queue, last: 0, observed: 0, bound: 0 },
        RingFault::HeadOutOfRange { queue, slot: 0, observed: 0, bound: 0 },
        RingFault::NextOutOfRange { queue, head: 0, at: 0, observed: 0, bound: 0 },
        RingFault::ChainTooLong { queue, head: 0, bound: 0 },
        RingFault::IndirectNotNegotiated { queue, head: 0, at: 0 },
        RingFault::ReadableAfterWritable { queue, head: 0, at: 0 },
        RingFault::AddressOutside { queue, head: 0, addr: GuestAddr(0), len: 0 },
        RingFault::RingOutside { queue, area: "used ring", addr: GuestAddr(0) },
        RingFault::IndirectNested { queue, head: 0 },
        RingFault::IndirectWithNext { queue, head: 0 },
        RingFault::IndirectLength { queue, head: 0, len: 0, bound: 0 },
        RingFault::StaleBase { queue, slot: 0 },
    ];
    let classes: std::collections::BTreeSet<_> = faults.iter().map(RingFault::class).collect();
    assert_eq!(classes, RingFault::CLASSES.into_iter().collect());
    assert!(faults.iter().enumerate().all(|(at, fault)| fault.class_index() == at));
}

#[test]
fn chains_taken_before_a_fault_are_still_completed() {
    let mut guest = Guest::new(1 << 20);
    let mut ring = guest.ring(8, false);
    let (mut vring, mut chain) = vring(&ring, 0);
    let head = ring.add(&[], &[(0, 100)]).unwrap();
    ring.offer(0x1000);
    ring.publish();
    assert_eq!(vring.poll(), Ok(2));
    assert_eq!(vring.next_chain(&mut chain), Ok(true));
    let good = chain.head();
    let fault = vring.next_chain(&mut chain).unwrap_err();
    assert_eq!(fault.class(), "head-out-of-range");
    vring.complete(&mut NoHook, good, 100);
    vring.publish(&mut NoHook);
    assert_eq!(ring.take(), Some(UsedElem { id: head.into(), len: 100 }));
    assert_eq!(vring.stop(), 1);
}

#[test]
fn a_chain_put_back_at_a_fault_is_not_taken_again() {
    let mut guest = Guest::new(1 << 20);
    let mut ring = guest.ring(8, true);
    let (mut vring, mut chain) = vring(&ring, 0);
    ring.add(&[(0, 8)], &[]);
    ring.publish();
    vring.poll().unwrap();
    vring.next_chain(&mut chain).unwrap();
    let fault = vring.fail(RingFault::ChainTooLong { queue: 3, head: 0, bound: 8 });
    vring.undo();
    assert_eq!(vring.available(), 0);
    assert_eq!(vring.next_chain(&mut chain), Err(fault));
    assert_eq!(vring.stop(), 0);
}

#[test]
fn empty_segments_move_nothing_and_are_left_out() {
    let mut guest = Guest::new(1 << 20);
    let mut ring = guest.ring(8, true);
    let (mut vring, mut chain) = vring(&ring, 0);
    ring.add(&[(0, 0), (64, 10), (0, 0)], &[(0, 0), (128, 20)]).unwrap();
    ring.publish();
    vring.poll().unwrap();
    assert_eq!(vring.next_chain(&mut chain), Ok(true));
    assert_eq!((chain.readable().len(), chain.readable_len()), (1, 10));
    assert_eq!((chain.writable().len(), chain.writable_len()), (1, 20));
}

#[test]
fn the_longest_lawful_chain_uses_the_whole_table() {
    let mut guest = Guest::new(1 << 20);
    let mut ring = guest.ring(256, true);
    let (mut vring, mut chain) = vring(&ring, 0);
    let buffers: Vec<_> = (0..256).map(|n| (n, 1)).collect();
    ring.add(&buffers[..100], &buffers[100..]).unwrap();
    ring.publish();
    vring.poll().unwrap();
    assert_eq!(vring.next_chain(&mut chain), Ok(true));
    assert_eq!((chain.readable().len(), chain.writable().len()), (100, 156));
}

#[test]
fn areas_that_cannot_hold_a_ring_are_refused() {
    let mut guest = Guest::new(1 << 20);
    let ring = guest.ring(8, true);
    let new = |desc: &Area, avail: &Area, used: &Area| {
        SplitVring::new(0, ring.size, desc.clone(), avail.clone(), used.clone(), 0).map(drop).unwrap_err()
    };
    let shorter = |area: &Area| area.part(0, area.len() - 1).unwrap();
    let (desc, avail, used) = (&ring.desc, &ring.avail, &ring.used);
    assert_eq!(new(&shorter(desc), avail, used), Misuse::AreaTooSmall { have: 127, need: 128 });
    assert_eq!(new(desc, &shorter(avail), used), Misuse::AreaTooSmall { have: 21, need: 22 });
    assert_eq!(new(desc, avail, &shorter(used)), Misuse::AreaTooSmall { have: 69, need: 70 });
    let skewed = |skew: usize| guest.memory.part(8192 + skew, 4096).unwrap();
    assert_eq!(new(&skewed(8), avail, used), Misuse::Misaligned { need: 16 });
    assert_eq!(new(desc, &skewed(1), used), Misuse::Misaligned { need: 2 });
    assert_eq!(new(desc, avail, &skewed(2)), Misuse::Misaligned { need: 4 });
}

#[test]
fn flags_ask_for_calls_and_kicks() {
    let mut guest = Guest::new(1 << 20);
    let ring = guest.ring(8, true);
    let (mut vring, _) = vring(&ring, 0);
    assert!(vring.should_call());
    ring.set_no_interrupt(true);
    assert!(!vring.should_call());
    ring.set_no_interrupt(false);
    assert!(vring.should_call());
    for _ in 0..2 {
        vring.suppress_kicks();
        vring.suppress_kicks();
        assert_eq!(ring.used.load_u16(USED_FLAGS), 1);
        vring.arm_kick();
        vring.arm_kick();
        assert_eq!(ring.used.load_u16(USED_FLAGS), 0);
    }
}

/// The handshake of kicks, at the instant where it matters: the device asks for a kick and looks, while the driver adds a
/// chain and looks. At least one of the two sees the other, or both would wait for ever.
#[test]
fn asking_for_a_kick_and_adding_a_chain_never_miss_each_other() {
    const ROUNDS: u32 = 30_000;
    let mut guest = Guest::new(1 << 20);
    let mut ring = guest.ring(8, true);
    let (mut vring, mut chain) = vring(&ring, 0);
    let (device_at, driver_at) = (AtomicU32::new(0), AtomicU32::new(0));
    let meet = |mine: &AtomicU32, theirs: &AtomicU32, round: u32| {
        mine.store(round, Ordering::SeqCst);
        let mut spins = 0u32;
        while theirs.load(Ordering::SeqCst) < round {
            spins += 1;
            // With fewer cores than threads the other one has to be let in.
            if spins.is_multiple_of(4096) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
    };
    let (seen, kicked) = std::thread::scope(|scope| {
        let device = scope.spawn(|| {
            let mut seen = Vec::new();
            for round in 1..=ROUNDS {
                vring.suppress_kicks();
                meet(&device_at, &driver_at, 2 * round - 1);
                vring.arm_kick();
                seen.push(vring.poll().unwrap() > 0);
                meet(&device_at, &driver_at, 2 * round);
                vring.poll().unwrap();
                assert!(vring.next_chain(&mut chain).unwrap());
                vring.complete(&mut NoHook, chain.head(), 0);
                vring.publish(&mut NoHook);
            }
            seen
        });
        let mut kicked = Vec::new();
        for round in 1..=ROUNDS {
            ring.add(&[(0, 8)], &[]).unwrap();
            meet(&driver_at, &device_at, 2 * round - 1);
            ring.publish();
            kicked.push(ring.wants_kick());
            meet(&driver_at, &device_at, 2 * round);
            while ring.take().is_none() {
                std::hint::spin_loop();
            }
        }
        (device.join().unwrap(), kicked)
    });
    assert!(seen.iter().zip(&kicked).all(|(seen, kicked)| *seen || *kicked));
}

/// Memory that remembers how it was used.
struct Counting<'a> {
    area: &'a Area,
    log: &'a RefCell<Vec<Access>>,
    part: char,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Load(char, usize, usize),
    Acquire(char, usize),
    Store(char, usize, usize),
    Release(char, usize),
}

impl Counting<'_> {
    fn note(&self, access: impl FnOnce(char) -> Access) {
        self.log.borrow_mut().push(access(self.part));
    }
}

impl Words for Counting<'_> {
    fn len(&self) -> usize {
        self.area.len()
    }
    fn is_aligned(&self, at: usize, bytes: usize) -> bool {
        self.area.is_aligned(at, bytes)
    }
    fn load_u16(&self, at: usize) -> u16 {
        self.note(|part| Access::Load(part, at, 2));
        self.area.load_u16(at)
    }
    fn load_u16_acquire(&self, at: usize) -> u16 {
        self.note(|part| Access::Acquire(part, at));
        self.area.load_u16_acquire(at)
    }
    fn load_u32(&self, at: usize) -> u32 {
        self.note(|part| Access::Load(part, at, 4));
        self.area.load_u32(at)
    }
    fn load_u64(&self, at: usize) -> u64 {
        self.note(|part| Access::Load(part, at, 8));
        self.area.load_u64(at)
    }
    fn load_u64_acquire(&self, at: usize) -> u64 {
        self.note(|part| Access::Acquire(part, at));
        self.area.load_u64_acquire(at)
    }
    fn store_u16(&self, at: usize, value: u16) {
        self.note(|part| Access::Store(part, at, 2));
        self.area.store_u16(at, value);
    }
    fn store_u16_release(&self, at: usize, value: u16) {
        self.note(|part| Access::Release(part, at));
        self.area.store_u16_release(at, value);
    }
    fn store_u32(&self, at: usize, value: u32) {
        self.note(|part| Access::Store(part, at, 4));
        self.area.store_u32(at, value);
    }
    fn store_u64(&self, at: usize, value: u64) {
        self.note(|part| Access::Store(part, at, 8));
        self.area.store_u64(at, value);
    }
    fn store_u64_release(&self, at: usize, value: u64) {
        self.note(|part| Access::Release(part, at));
        self.area.store_u64_release(at, value);
    }
    fn copy_in(&self, _at: usize, _from: &[u8]) {
        panic!("a ring has words only");
    }
    fn copy_out(&self, _at: usize, _to: &mut [u8]) {
        panic!("a ring has words only");
    }
    fn zero(&self, _at: usize, _len: usize) {
        panic!("a ring has words only");
    }
}

/// The accesses of a burst are these and no others: nothing is loaded twice, nothing of ours is loaded.
#[test]
fn a_burst_loads_each_word_once_and_publishes_once() {
    for elements_on_8 in [true, false] {
        let mut guest = Guest::new(1 << 20);
        let mut ring = guest.ring(8, elements_on_8);
        let log = RefCell::new(Vec::new());
        let view = |area, part| Counting { area, log: &log, part };
        let (desc, avail, used) = (ring.desc.clone(), ring.avail.clone(), ring.used.clone());
        let mut vring =
            SplitVring::new(0, ring.size, view(&desc, 'd'), view(&avail, 'a'), view(&used, 'u'), 0).unwrap();
        let mut chain = Chain::with_capacity(ring.size);
        assert_eq!(log.borrow().len(), 0, "making a ring touches nothing");
        ring.add(&[(0, 8)], &[(8, 8)]);
        ring.add(&[(0, 8)], &[]);
        ring.publish();
        vring.poll().unwrap();
        while vring.next_chain(&mut chain).unwrap() {
            vring.complete(&mut NoHook, chain.head(), 0);
        }
        vring.publish(&mut NoHook);
        let _ = vring.should_call();
        let element = |at| match elements_on_8 {
            true => vec![Access::Store('u', at, 8)],
            false => vec![Access::Store('u', at, 4), Access::Store('u', at + 4, 4)],
        };
        let mut expected = vec![Access::Acquire('a', AVAIL_IDX), Access::Load('a', AVAIL_RING, 2)];
        expected.extend([0, 8, 16, 24].map(|at| Access::Load('d', at, 8)));
        expected.extend(element(4));
        expected.push(Access::Load('a', AVAIL_RING + 2, 2));
        expected.extend([32, 40].map(|at| Access::Load('d', at, 8)));
        expected.extend(element(12));
        expected.extend([Access::Release('u', USED_IDX), Access::Load('a', 0, 2)]);
        assert_eq!(*log.borrow(), expected);
    }
}

/// What a hook changes goes to the wire and nowhere else.
#[test]
fn lies_of_a_hook_do_not_enter_the_private_state() {
    #[derive(Default)]
    struct Liar {
        seen: Vec<DescId>,
    }
    impl Hook for Liar {
        fn used_elem(&mut self, queue: usize, elem: UsedElem) -> UsedElem {
            assert_eq!(queue, 3);
            self.seen.push(DescId::below(elem.id as u16, QueueSize::split(8).unwrap()).unwrap());
            UsedElem { id: elem.id + 0x1_0000, len: u32::MAX }
        }
        fn used_idx(&mut self, _queue: usize, idx: u16) -> u16 {
            idx.wrapping_add(1000)
        }
    }
    let mut guest = Guest::new(1 << 20);
    let mut ring = guest.ring(8, true);
    let (mut vring, mut chain) = vring(&ring, 0);
    let mut liar = Liar::default();
    for _ in 0..2 {
        ring.add(&[(0, 8)], &[]);
    }
    ring.publish();
    vring.poll().unwrap();
    while vring.next_chain(&mut chain).unwrap() {
        vring.complete(&mut liar, chain.head(), 0);
    }
    assert_eq!(vring.heads(), liar.seen);
    vring.publish(&mut liar);
    assert_eq!(ring.device_idx(), 1002);
    assert_eq!((ring.used.load_u32(4), ring.used.load_u32(8)), (0x1_0000, u32::MAX));
    assert_eq!((vring.next_used(), vring.next_avail()), (2, 2));
    ring.add(&[(0, 8)], &[]);
    ring.publish();
    assert_eq!(vring.poll(), Ok(1));
    assert_eq!(vring.heads(), [], "a new burst");
    vring.next_chain(&mut chain).unwrap();
    vring.complete(&mut NoHook, chain.head(), 0);
    vring.publish(&mut NoHook);
    assert_eq!(ring.device_idx(), 3, "the next honest store is right again");
}

proptest! {
    /// A table and an available ring of arbitrary bytes, rewritten between any two steps: no panic, bounded work, and
    /// either lawful chains or one typed fault that stays.
    #[test]
    fn arbitrary_bytes_end_in_lawful_chains_or_one_fault(
        shift in 0u32..7,
        base in any::<u16>(),
        seed in proptest::collection::vec(any::<u8>(), 1..1200),
        tame in any::<bool>(),
        steps in proptest::collection::vec((0u16..300, any::<u16>(), any::<u8>()), 1..60),
    ) {
        let size = 1u16 << shift;
        let mut guest = Guest::new(1 << 16);
        let mut ring = guest.ring(size, true);
        ring.set_base(base);
        let fill = |area: &Area, salt: usize| {
            let bytes: Vec<u8> = (0..area.len()).map(|at| seed[(at + salt) % seed.len()]).collect();
            area.copy_in(0, &bytes);
        };
        let (mut vring, mut chain) = vring(&ring, base);
        let mut latched = None;
        for (ahead, noise, salt) in steps {
            fill(&ring.desc, usize::from(salt));
            fill(&ring.avail, usize::from(salt) * 3);
            if tame {
                // Ids that are often in range, so that walks go deep.
                for id in 0..size {
                    let at = 16 * usize::from(id) + 14;
                    ring.desc.store_u16(at, ring.desc.load_u16(at) % (size + 1));
                    let at = 16 * usize::from(id) + 12;
                    ring.desc.store_u16(at, ring.desc.load_u16(at) & 3);
                    let at = AVAIL_RING + 2 * usize::from(id);
                    ring.avail.store_u16(at, ring.avail.load_u16(at) % size);
                }
            }
            let idx = vring.next_avail().wrapping_add(if tame { ahead % (size + 1) } else { noise });
            ring.avail.store_u16_release(AVAIL_IDX, idx);
            let mut taken = 0u32;
            let outcome = vring.poll().and_then(|count| {
                assert!(count <= size);
                while vring.next_chain(&mut chain)? {
                    taken += 1;
                    assert!(taken <= u32::from(size), "one burst takes at most one ring full");
                    assert!(chain.readable().len() + chain.writable().len() <= usize::from(size));
                    assert!(chain.head().id < size);
                    vring.complete(&mut NoHook, chain.head(), 0);
                }
                Ok(())
            });
            vring.publish(&mut NoHook);
            prop_assert_eq!(vring.next_avail(), vring.next_used());
            match (latched, outcome) {
                (Some(before), after) => prop_assert_eq!(Err(before), after),
                (None, Err(fault)) => latched = Some(fault),
                (None, Ok(())) => {}
            }
            prop_assert_eq!(vring.fault(), latched);
        }
        ring.used_idx = base;
        prop_assert_eq!(ring.device_idx(), if vring.next_used() == base { base } else { vring.next_used() });
    }
}
