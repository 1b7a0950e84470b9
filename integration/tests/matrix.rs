//! The test matrix of the Linux series "Do not read from descriptor ring", as a table: layout, mapper, indirect tables,
//! event indices, order; each row with one-way traffic like pktgen's and with requests and responses like netperf's.
//!
//! Both ends are the real ones: the driver's ring over a mapper, and the backend's ring behind a region table, in the same
//! shared memory through mappings of their own. Every byte is compared on both sides. What a row is about is asserted from
//! what was counted and from what stands in shared memory, so that no row passes by quietly using something else.

#![expect(clippy::cast_possible_truncation, reason = "lengths and numbers of a test are small")]

use std::sync::Arc;

use ironring_backend::vring::any::AnyVring;
use ironring_backend::vring::chain::{Chain, Segment};
use ironring_backend::vring::hook::NoHook;
use ironring_backend::vring::packed::PackedVring;
use ironring_backend::vring::split::SplitVring;
use ironring_backend::vring::{DeviceRing, VringOptions};
use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::table::RegionTable;
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{self, EVENT_F_DESC, Event};
use ironring_common::spec::split;
use ironring_driver::mapper::Mapper;
use ironring_driver::mapper::bounce::{Bounce, PrivateBuffer};
use ironring_driver::mapper::identity::{ArenaBuffer, Identity};
use ironring_driver::mapper::iova::Iova;
use ironring_driver::queue::any::AnyRing;
use ironring_driver::queue::packed::{PackedAreas, PackedRing};
use ironring_driver::queue::split::{SplitAreas, SplitRing};
use ironring_driver::queue::violation::Latch;
use ironring_driver::queue::{DriverRing, RingCounters, RingLayout, RingOptions, Tables};

#[derive(Clone, Copy, Debug)]
struct Row {
    layout: RingLayout,
    size: u16,
    indirect: bool,
    event_idx: bool,
    in_order: bool,
}

/// How buffers of a row become addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Offset,
    Synthetic,
    Bounced,
}

/// A mapper with the memory in which the caller's buffers lie, one slot each.
trait Buffers {
    type Map: Mapper<Error: std::fmt::Debug>;
    fn mapper(&mut self) -> &mut Self::Map;
    fn fill(&mut self, slot: usize, bytes: &[u8]) -> <Self::Map as Mapper>::Buffer;
    fn read(&self, slot: usize, len: usize) -> Vec<u8>;
    /// Nothing is left mapped.
    fn is_clear(&self) -> bool;
}

/// Buffers in the arena.
struct InArena<M> {
    mapper: M,
    pool: Area,
    pool_at: u64,
    live: fn(&M) -> usize,
}

impl<M: Mapper<Buffer = ArenaBuffer, Error: std::fmt::Debug>> Buffers for InArena<M> {
    type Map = M;
    fn mapper(&mut self) -> &mut M {
        &mut self.mapper
    }
    fn fill(&mut self, slot: usize, bytes: &[u8]) -> ArenaBuffer {
        self.pool.copy_in(slot * SLOT, bytes);
        ArenaBuffer { offset: self.pool_at + (slot * SLOT) as u64, len: bytes.len() as u32 }
    }
    fn read(&self, slot: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.pool.copy_out(slot * SLOT, &mut bytes);
        bytes
    }
    fn is_clear(&self) -> bool {
        (self.live)(&self.mapper) == 0
    }
}

impl Buffers for Bounce<Area> {
    type Map = Self;
    fn mapper(&mut self) -> &mut Self {
        self
    }
    fn fill(&mut self, slot: usize, bytes: &[u8]) -> PrivateBuffer {
        self.private_mut()[slot * SLOT..][..bytes.len()].copy_from_slice(bytes);
        PrivateBuffer { offset: slot * SLOT, len: bytes.len() as u32 }
    }
    fn read(&self, slot: usize, len: usize) -> Vec<u8> {
        self.private()[slot * SLOT..][..len].to_vec()
    }
    fn is_clear(&self) -> bool {
        self.free_blocks() == self.blocks()
    }
}

/// Where things lie in the arena.
struct Plan {
    parts: [(usize, usize); 3],
    tables: (usize, usize),
    pool: (usize, usize),
}

impl Plan {
    fn of(row: Row, size: QueueSize) -> Self {
        let (lens, skew) = match row.layout {
            RingLayout::Split => ([split::desc_bytes(size), split::avail_bytes(size), split::used_bytes(size)], 60),
            RingLayout::Packed => ([packed::ring_bytes(size), packed::EVENT_BYTES, packed::EVENT_BYTES], 0),
        };
        let mut next = 0usize;
        let mut take = |len: usize, align: usize, skew: usize| {
            let at = next.next_multiple_of(align) + skew;
            next = at + len;
            (at, len)
        };
        let parts = [take(lens[0], 64, 0), take(lens[1], 64, 0), take(lens[2], 64, skew)];
        let tables = take(usize::from(row.size) * usize::from(ENTRIES) * 16, 64, 0);
        let pool = take(SLOTS * SLOT, 4096, 0);
        Self { parts, tables, pool }
    }

    fn end(&self) -> usize {
        self.pool.0 + self.pool.1
    }
}

/// Both ends of one ring.
struct Pair<B> {
    ring: AnyRing<Area, u64>,
    buffers: B,
    device: AnyVring<Area>,
    chain: Chain,
    memory: RegionTable,
    /// The driver's word about when it wants to be called.
    asked: Area,
    row: Row,
    kicks: u64,
    calls: u64,
}

/// A row with a mapper, ready to run.
fn pair<B: Buffers>(row: Row, base: GuestAddr, make: impl FnOnce(Area, u64, u64) -> B) -> Pair<B> {
    let size = QueueSize::packed(row.size).unwrap();
    let plan = Plan::of(row, size);
    let memfd = Memfd::create("ironring-matrix", plan.end()).unwrap();
    let (ours, theirs) = (Mapping::of(&memfd).unwrap(), Mapping::of(&memfd).unwrap());
    let cut = |map: &Arc<Mapping>| plan.parts.map(|(at, len)| map.area(at, len).unwrap());
    let tables = Tables {
        words: ours.area(plan.tables.0, plan.tables.1).unwrap(),
        base: GuestAddr(base.0 + plan.tables.0 as u64),
        entries: ENTRIES,
    };
    let options =
        RingOptions { event_idx: row.event_idx, in_order: row.in_order, tables: row.indirect.then_some(tables) };
    let memory = RegionTable::of_mappings([(base, Arc::clone(&theirs))]).unwrap();
    let of_device = VringOptions {
        indirect: row.indirect.then(|| memory.clone()),
        event_idx: row.event_idx,
        in_order: row.in_order,
        only_sends: false,
    };
    let latch = Latch::new();
    let ([a, b, c], [x, y, z]) = (cut(&ours), cut(&theirs));
    let (ring, device) = match row.layout {
        RingLayout::Split => {
            let areas = SplitAreas { desc: a, avail: b, used: c };
            let device = SplitVring::new(0, size, x, y, z, 0).unwrap().with_options(of_device);
            (AnyRing::Split(SplitRing::with_options(0, size, areas, latch, options).unwrap()), AnyVring::Split(device))
        }
        RingLayout::Packed => {
            let areas = PackedAreas { ring: a, driver_event: b, device_event: c };
            let device = PackedVring::new(0, size, x, y, z, 0x8000).unwrap().with_options(of_device);
            (
                AnyRing::Packed(PackedRing::with_options(0, size, areas, latch, options).unwrap()),
                AnyVring::Packed(device),
            )
        }
    };
    let pool = ours.area(plan.pool.0, plan.pool.1).unwrap();
    let [_, asked, _] = cut(&ours);
    let buffers = make(pool, plan.pool.0 as u64, plan.end() as u64);
    let chain = Chain::with_capacity(size);
    Pair { ring, buffers, device, chain, memory, asked, row, kicks: 0, calls: 0 }
}

/// Bytes of a frame that follow from its number.
fn frame(number: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (number.wrapping_mul(0x9e37_79b9).wrapping_add(at * 131) >> 3) as u8).collect()
}

fn length(number: u64) -> usize {
    60 + (number * 37 % 900) as usize
}

impl<B: Buffers> Pair<B> {
    /// Shows the device what was added; whether it is kicked, which it is by its own wish.
    fn publish(&mut self) -> bool {
        self.ring.publish();
        let kicked = self.ring.should_kick();
        self.kicks += u64::from(kicked);
        kicked
    }

    /// The device shows what it completed, and calls if it is asked to.
    fn give_back(&mut self) -> bool {
        self.device.publish(&mut NoHook);
        let called = self.device.should_call();
        self.calls += u64::from(called);
        called
    }

    fn readable(&self) -> Vec<u8> {
        let copy = |segment: &Segment| {
            let shared = self.memory.bytes(segment.addr, segment.len).expect("inside");
            let mut bytes = vec![0; shared.len()];
            shared.copy_out(0, &mut bytes);
            bytes
        };
        self.chain.readable().iter().flat_map(copy).collect()
    }

    fn respond(&self, bytes: &[u8]) {
        let mut left = bytes;
        for segment in self.chain.writable() {
            let shared = self.memory.bytes(segment.addr, segment.len).expect("inside");
            let (now, later) = left.split_at(shared.len().min(left.len()));
            shared.copy_in(0, now);
            left = later;
        }
        assert!(left.is_empty());
    }

    /// A sleeper on each side: the device is kicked once for what it had not seen, the driver called once for a burst.
    fn one_way(&mut self) {
        for burst in 0..BURSTS {
            self.device.arm_kick();
            assert_eq!(self.device.poll(), Ok(0), "nothing is there before the device sleeps");
            let frames: Vec<_> = (0..BURST).map(|n| frame(burst * BURST + n, length(burst * BURST + n))).collect();
            for (slot, frame) in frames.iter().enumerate() {
                let (header, payload) = frame.split_at(12);
                let chain = [self.buffers.fill(2 * slot, header), self.buffers.fill(2 * slot + 1, payload)];
                self.ring.add(self.buffers.mapper(), &chain, &[], burst * BURST + slot as u64).unwrap();
            }
            self.ring.arm_calls();
            assert!(!self.ring.has_completions().unwrap());
            assert!(self.publish(), "{:?}: a device that sleeps is kicked", self.row);
            self.device.suppress_kicks();
            assert!(self.device.poll().unwrap() > 0);
            for frame in &frames {
                assert!(self.device.next_chain(&mut self.chain).unwrap());
                assert_eq!(&self.readable(), frame);
                self.device.complete(&mut NoHook, self.chain.head(), 0);
            }
            assert_eq!(self.device.next_chain(&mut self.chain), Ok(false));
            assert!(self.give_back(), "{:?}: a driver that sleeps is called", self.row);
            for n in 0..BURST {
                let done = self.ring.take(self.buffers.mapper()).unwrap().expect("all of the burst");
                assert_eq!((done.token, done.written), (burst * BURST + n, 0));
            }
            assert_eq!(self.ring.take(self.buffers.mapper()), Ok(None));
        }
        assert_eq!((self.kicks, self.calls), (BURSTS, BURSTS));
    }

    /// One request at a time, by sides that poll: nobody is notified.
    fn request_response(&mut self) {
        self.ring.suppress_calls();
        self.device.suppress_kicks();
        for number in 0..REQUESTS {
            let (request, len) = (frame(number, length(number)), length(number * 7));
            let response: Vec<u8> = request.iter().rev().copied().cycle().take(len).collect();
            let (header, payload) = request.split_at(12);
            let read = [self.buffers.fill(0, header), self.buffers.fill(1, payload)];
            let write = [self.buffers.fill(2, &[0xee; 100]), self.buffers.fill(3, &[0xee; 900])];
            self.ring.add(self.buffers.mapper(), &read, &write, number).unwrap();
            assert!(!self.publish(), "{:?}: a device that polls is not kicked", self.row);
            assert_eq!(self.device.poll(), Ok(1));
            assert!(self.device.next_chain(&mut self.chain).unwrap());
            assert_eq!(self.readable(), request);
            self.respond(&response);
            self.device.complete(&mut NoHook, self.chain.head(), len as u32);
            assert!(!self.give_back(), "{:?}: a driver that polls is not called", self.row);
            let done = self.ring.take(self.buffers.mapper()).unwrap().expect("the response");
            assert_eq!((done.token, done.written), (number, len as u32));
            let back: Vec<_> =
                [self.buffers.read(2, len.min(100)), self.buffers.read(3, len.saturating_sub(100))].concat();
            assert_eq!(back, response);
        }
    }

    /// What the row is about was used, and nothing else.
    fn judge(&self) {
        let Row { indirect, in_order, .. } = self.row;
        let RingCounters { indirect_tables, in_order_batches, used_entries, idle_claims } = self.ring.counters();
        let chains = BURSTS * BURST + REQUESTS;
        assert_eq!(indirect_tables, if indirect { chains } else { 0 }, "{:?}", self.row);
        assert_eq!(in_order_batches, if in_order { BURSTS } else { 0 }, "{:?}", self.row);
        assert_eq!(used_entries, if in_order { BURSTS + REQUESTS } else { chains }, "{:?}", self.row);
        assert_eq!(idle_claims, 0);
        assert!(self.ring.is_conserved() && self.ring.outstanding() == 0 && self.buffers.is_clear());
        assert_eq!(self.device.fault(), None);
    }

    /// The words by which the driver asks for calls, while it asks.
    fn check_words(&mut self) {
        self.ring.arm_calls();
        let size = QueueSize::packed(self.row.size).unwrap();
        let by_index = match self.row.layout {
            RingLayout::Split => self.asked.load_u16(split::used_event_at(size)) != 0,
            RingLayout::Packed => Event::from_word(self.asked.load_u32(0)).flags == EVENT_F_DESC,
        };
        assert_eq!(by_index, self.row.event_idx, "{:?}", self.row);
    }

    fn run(mut self) {
        self.one_way();
        self.request_response();
        self.judge();
        self.check_words();
    }
}

fn run(row: Row, kind: Kind) {
    match kind {
        Kind::Offset => pair(row, GuestAddr(0), |pool, pool_at, _| InArena {
            mapper: Identity::new(),
            pool,
            pool_at,
            live: Identity::live,
        })
        .run(),
        Kind::Synthetic => {
            // Another one in each run: nothing may depend on it.
            let mut random = [0; 8];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).unwrap();
            let base = GuestAddr(u64::from_ne_bytes(random) >> 16 & !0xfff | 1 << 47);
            pair(row, base, |pool, pool_at, len| {
                let mapper = Iova::new(base, len).unwrap();
                InArena { mapper, pool, pool_at, live: Iova::live }
            })
            .run();
        }
        Kind::Bounced => {
            let base = GuestAddr(0x4000_0000);
            let make = |pool, pool_at, _| Bounce::new(pool, GuestAddr(base.0 + pool_at), vec![0x55; SLOTS * SLOT]);
            pair(row, base, make).run();
        }
    }
}

#[test]
fn every_row_of_the_matrix_carries_every_byte_and_uses_what_it_says() {
    let mut rows = 0;
    for (layout, size) in [(RingLayout::Split, 64), (RingLayout::Packed, 64), (RingLayout::Packed, 77)] {
        for kind in [Kind::Offset, Kind::Synthetic, Kind::Bounced] {
            for bits in 0..8 {
                let row =
                    Row { layout, size, indirect: bits & 1 != 0, event_idx: bits & 2 != 0, in_order: bits & 4 != 0 };
                run(row, kind);
                rows += 1;
            }
        }
    }
    assert_eq!(rows, 72);
}

const ENTRIES: u16 = 4;
const SLOT: usize = 1024;
const SLOTS: usize = 64;
/// Frames of a one-way burst.
const BURST: u64 = 16;
const BURSTS: u64 = 60;
const REQUESTS: u64 = 500;
