//! Both layouts under one script: honest devices of either kind, one that works out of order, one that lies.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use ironring_common::index::{DescId, GuestAddr, PackedPosition, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{self, Event, SlotRest};
use ironring_common::spec::split::{self, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, UsedElem};
use proptest::prelude::*;

use super::any::AnyRing;
use super::packed::{PackedAreas, PackedRing};
use super::split::{SplitAreas, SplitRing};
use super::violation::{Latch, ViolationKind};
use super::*;
use crate::mapper::identity::ArenaBuffer;
use crate::mapper::{Direction, MapRecord, Mapped, Mapper};

const TABLES_BASE: GuestAddr = GuestAddr(0x7000_0000);
const ENTRIES: u16 = 4;

/// What a bench has.
#[derive(Clone, Copy, Debug)]
struct Shape {
    layout: RingLayout,
    size: u16,
    indirect: bool,
    event_idx: bool,
    in_order: bool,
}

const SHAPE: Shape = Shape { layout: RingLayout::Split, size: 8, indirect: false, event_idx: false, in_order: false };

/// A ring and its device, over two mappings of the same memory.
struct Bench {
    ring: AnyRing<Area, u64>,
    mapper: Strict,
    device: Device,
    next_token: u64,
}

/// Takes back what it gave out, once, to the letter, and nothing else.
#[derive(Debug, Default)]
struct Strict(Vec<MapRecord>);

impl Mapper for Strict {
    type Buffer = ArenaBuffer;
    type Error = ();

    fn map(&mut self, id: DescId, buffer: &ArenaBuffer, direction: Direction) -> Result<Mapped, ()> {
        let (addr, len) = (GuestAddr(buffer.offset), buffer.len);
        self.0.push(MapRecord { id, addr, len, direction });
        Ok(Mapped { addr, len })
    }

    fn unmap(&mut self, record: MapRecord, written: u32) -> Result<(), ()> {
        let at = self.0.iter().position(|mapped| *mapped == record).ok_or(())?;
        self.0.swap_remove(at);
        let writable = if record.direction == Direction::FromDevice { record.len } else { 0 };
        if written <= writable { Ok(()) } else { Err(()) }
    }
}

/// A chain as the device read it.
#[derive(Clone, Debug)]
struct Chain {
    id: u16,
    slots: u16,
    buffers: Vec<Descriptor>,
}

impl Chain {
    fn writable(&self) -> u32 {
        self.buffers.iter().filter(|desc| desc.flags & DESC_F_WRITE != 0).map(|desc| desc.len).sum()
    }
}

/// A device that trusts its driver, which is fine in a test.
struct Device {
    layout: RingLayout,
    size: QueueSize,
    a: Area,
    b: Area,
    c: Area,
    tables: Area,
    avail: u16,
    used: u16,
    at: PackedPosition,
    used_at: PackedPosition,
}

impl Bench {
    fn new(shape: Shape) -> Self {
        let size = QueueSize::packed(shape.size).unwrap();
        let lens = match shape.layout {
            RingLayout::Split => [split::desc_bytes(size), split::avail_bytes(size), split::used_bytes(size)],
            RingLayout::Packed => [packed::ring_bytes(size), 4, 4],
        };
        let tables_bytes = usize::from(shape.size) * usize::from(ENTRIES) * 16;
        let b_at = lens[0].next_multiple_of(64);
        let c_at = (b_at + lens[1]).next_multiple_of(64) + if shape.layout == RingLayout::Split { 60 } else { 0 };
        let tables_at = (c_at + lens[2]).next_multiple_of(64);
        let memfd = Memfd::create("bench", tables_at + tables_bytes).unwrap();
        let cut = || {
            let map = Mapping::of(&memfd).unwrap();
            let at = [0, b_at, c_at];
            let [a, b, c] = [0, 1, 2].map(|part| map.area(at[part], lens[part]).unwrap());
            (a, b, c, map.area(tables_at, tables_bytes).unwrap())
        };
        let (a, b, c, words) = cut();
        let tables = Tables { words, base: TABLES_BASE, entries: ENTRIES };
        let options = RingOptions {
            event_idx: shape.event_idx,
            in_order: shape.in_order,
            tables: shape.indirect.then_some(tables),
        };
        let latch = Arc::clone(&Latch::new());
        let ring = match shape.layout {
            RingLayout::Split => {
                let areas = SplitAreas { desc: a, avail: b, used: c };
                AnyRing::Split(SplitRing::with_options(1, size, areas, latch, options).unwrap())
            }
            RingLayout::Packed => {
                let areas = PackedAreas { ring: a, driver_event: b, device_event: c };
                AnyRing::Packed(PackedRing::with_options(1, size, areas, latch, options).unwrap())
            }
        };
        let (a, b, c, tables) = cut();
        let start = PackedPosition::START;
        let layout = shape.layout;
        let device = Device { layout, size, a, b, c, tables, avail: 0, used: 0, at: start, used_at: start };
        Self { ring, mapper: Strict::default(), device, next_token: 0 }
    }

    /// Adds a chain of so many buffers; `None` if there is no room.
    fn add(&mut self, readable: usize, writable: usize) -> Option<u64> {
        let token = self.next_token;
        let buffer = |n: usize| ArenaBuffer { offset: 64 * n as u64, len: 10 + n as u32 };
        let read: Vec<_> = (0..readable).map(buffer).collect();
        let write: Vec<_> = (0..writable).map(buffer).collect();
        match self.ring.add(&mut self.mapper, &read, &write, token) {
            Ok(_) => {
                self.next_token += 1;
                Some(token)
            }
            Err(AddError::Full { .. }) => None,
            Err(error) => panic!("{error:?}"),
        }
    }

    fn take(&mut self) -> Result<Option<(u64, u32)>, ViolationKind> {
        let taken = self.ring.take(&mut self.mapper).map_err(|violation| violation.kind)?;
        assert!(self.ring.is_conserved(), "after a completion");
        Ok(taken.map(|done| (done.token, done.written)))
    }
}

impl Device {
    fn slot(&self, at: PackedPosition) -> (u64, SlotRest) {
        let offset = usize::from(at.slot()) * 16;
        (self.a.load_u64(offset), SlotRest::from_word(self.a.load_u64_acquire(offset + 8)))
    }

    /// The next chain that is available.
    fn next(&mut self) -> Option<Chain> {
        match self.layout {
            RingLayout::Split => self.next_split(),
            RingLayout::Packed => self.next_packed(),
        }
    }

    fn next_split(&mut self) -> Option<Chain> {
        if self.b.load_u16_acquire(split::AVAIL_IDX) == self.avail {
            return None;
        }
        let size = self.size.get();
        let head = self.b.load_u16(split::AVAIL_RING + 2 * usize::from(self.avail % size));
        self.avail = self.avail.wrapping_add(1);
        let load =
            |area: &Area, id: usize| Descriptor::from_words([area.load_u64(16 * id), area.load_u64(16 * id + 8)]);
        let first = load(&self.a, head.into());
        let mut chain = Chain { id: head, slots: 1, buffers: vec![first] };
        if first.flags & DESC_F_INDIRECT != 0 {
            assert_eq!(first.flags, DESC_F_INDIRECT, "never with NEXT");
            let base = usize::try_from(first.addr - TABLES_BASE.0).unwrap() / 16;
            chain.buffers = (0..first.len as usize / 16).map(|entry| load(&self.tables, base + entry)).collect();
            for (n, entry) in chain.buffers.iter().enumerate() {
                let last = n + 1 == chain.buffers.len();
                assert_eq!(entry.flags & DESC_F_NEXT != 0, !last);
                assert!(last || usize::from(entry.next) == n + 1);
            }
            return Some(chain);
        }
        while chain.buffers.last().unwrap().flags & DESC_F_NEXT != 0 {
            chain.buffers.push(load(&self.a, chain.buffers.last().unwrap().next.into()));
            chain.slots += 1;
        }
        Some(chain)
    }

    fn next_packed(&mut self) -> Option<Chain> {
        let (_, first) = self.slot(self.at);
        if !packed::is_avail(first.flags, self.at.wrap()) {
            return None;
        }
        let mut chain = Chain { id: 0, slots: 0, buffers: Vec::new() };
        loop {
            let (addr, rest) = self.slot(self.at);
            assert!(packed::is_avail(rest.flags, self.at.wrap()), "every slot of a chain is available");
            self.at = self.at.advance(1, self.size);
            chain.slots += 1;
            chain.id = rest.id;
            if rest.flags & DESC_F_INDIRECT != 0 {
                assert_eq!(rest.flags & DESC_F_NEXT, 0);
                let base = usize::try_from(addr - TABLES_BASE.0).unwrap();
                for entry in 0..rest.len as usize / 16 {
                    let at = base + 16 * entry;
                    let SlotRest { len, id, flags } = SlotRest::from_word(self.tables.load_u64(at + 8));
                    assert_eq!((id, flags & !DESC_F_WRITE), (0, 0), "reserved in a table");
                    chain.buffers.push(Descriptor { addr: self.tables.load_u64(at), len, flags, next: 0 });
                }
                return Some(chain);
            }
            chain.buffers.push(Descriptor { addr, len: rest.len, flags: rest.flags & DESC_F_WRITE, next: 0 });
            if rest.flags & DESC_F_NEXT == 0 {
                return Some(chain);
            }
        }
    }

    /// Completes chains by one entry, which names the last of them.
    fn complete(&mut self, chains: &[Chain], len: u32) {
        let last = chains.last().unwrap();
        match self.layout {
            RingLayout::Split => {
                self.put_used(last.id.into(), len);
                self.used = self.used.wrapping_add(chains.len() as u16 - 1);
                self.c.store_u16_release(split::USED_IDX, self.used);
            }
            RingLayout::Packed => {
                self.put_slot(self.used_at, last.id, len);
                for chain in chains {
                    self.used_at = self.used_at.advance(chain.slots, self.size);
                }
            }
        }
    }

    fn put_used(&mut self, id: u32, len: u32) {
        let at = split::USED_RING + 8 * usize::from(self.used % self.size.get());
        self.c.store_u64(at, UsedElem { id, len }.to_word());
        self.used = self.used.wrapping_add(1);
    }

    fn put_slot(&self, at: PackedPosition, id: u16, len: u32) {
        let rest = SlotRest { len, id, flags: packed::used_flags(at.wrap()) };
        self.a.store_u64_release(usize::from(at.slot()) * 16 + 8, rest.to_word());
    }

    /// One lie at the place of the next completion.
    fn lie(&mut self, id: u16, len: u32) {
        match self.layout {
            RingLayout::Split => {
                self.put_used(id.into(), len);
                self.c.store_u16_release(split::USED_IDX, self.used);
            }
            RingLayout::Packed => self.put_slot(self.used_at, id, len),
        }
    }
}

fn shapes() -> impl Iterator<Item = Shape> {
    let layouts = [(RingLayout::Split, 8), (RingLayout::Packed, 8), (RingLayout::Packed, 5), (RingLayout::Packed, 1)];
    layouts.into_iter().flat_map(|(layout, size)| {
        (0..8).map(move |bits| Shape {
            layout,
            size,
            indirect: bits & 1 != 0,
            event_idx: bits & 2 != 0,
            in_order: bits & 4 != 0,
        })
    })
}

/// Chains of every length, up to one that fills the ring, round after round.
#[test]
fn every_chain_length_goes_round_in_every_configuration() {
    for shape in shapes() {
        let mut bench = Bench::new(shape);
        for round in 0..200u32 {
            let buffers = round as usize % usize::from(shape.size) + 1;
            let readable = round as usize / 3 % (buffers + 1);
            let token = bench.add(readable, buffers - readable).unwrap();
            assert!(bench.device.next().is_none(), "{shape:?}: not before it is published");
            assert!(bench.ring.publish());
            let chain = bench.device.next().unwrap();
            assert_eq!(chain.buffers.len(), buffers, "{shape:?}");
            let by_table = shape.indirect && (2..=usize::from(ENTRIES)).contains(&buffers);
            assert_eq!(usize::from(chain.slots), if by_table { 1 } else { buffers });
            let written = chain.writable().min(round);
            assert_eq!(bench.take(), Ok(None));
            bench.device.complete(&[chain], written);
            assert_eq!(bench.take(), Ok(Some((token, written))), "{shape:?}");
            assert_eq!(bench.take(), Ok(None));
            assert_eq!(bench.ring.free(), shape.size);
        }
        assert_eq!(bench.ring.counters().used_entries, 200);
        assert_eq!(bench.ring.counters().indirect_tables > 0, shape.indirect && shape.size > 1);
    }
}

#[test]
fn tables_are_scrubbed_when_their_chain_is_back() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        let mut bench = Bench::new(Shape { layout, indirect: true, ..SHAPE });
        bench.add(1, 2).unwrap();
        bench.ring.publish();
        let chain = bench.device.next().unwrap();
        let words = |bench: &Bench| (0..6).map(|n| bench.device.tables.load_u64(8 * n)).collect::<Vec<_>>();
        assert!(words(&bench).iter().any(|word| *word != 0));
        bench.device.complete(&[chain], 0);
        bench.take().unwrap();
        assert_eq!(words(&bench), [0; 6]);
    }
}

/// A device that rewrites a table, and the length in the ring, changes nothing of what is unmapped.
#[test]
fn a_rewritten_table_has_no_effect() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        let mut bench = Bench::new(Shape { layout, indirect: true, ..SHAPE });
        let token = bench.add(1, 2).unwrap();
        bench.ring.publish();
        let chain = bench.device.next().unwrap();
        for at in (0..bench.device.tables.len()).step_by(8) {
            bench.device.tables.store_u64(at, u64::MAX);
        }
        if layout == RingLayout::Split {
            bench.device.a.store_u64(8, u64::MAX);
        }
        bench.device.complete(&[chain], 21);
        assert_eq!(bench.take(), Ok(Some((token, 21))));
        assert_eq!(bench.mapper.0, [], "all of it, as it was mapped");
        assert_eq!(bench.ring.free(), 8);
    }
}

#[test]
fn a_batch_is_handed_out_in_order_and_in_full() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        for chains in 1..=4usize {
            let mut bench = Bench::new(Shape { layout, in_order: true, ..SHAPE });
            for _ in 0..50 {
                let tokens: Vec<_> = (0..chains).map(|_| bench.add(1, 1).unwrap()).collect();
                bench.ring.publish();
                let read: Vec<_> = std::iter::from_fn(|| bench.device.next()).collect();
                assert_eq!(read.len(), chains);
                bench.device.complete(&read, 3);
                for (n, token) in tokens.iter().enumerate() {
                    let written = if n + 1 == chains { 3 } else { 10 };
                    assert_eq!(bench.take(), Ok(Some((*token, written))));
                }
                assert_eq!(bench.take(), Ok(None));
            }
            let counters = bench.ring.counters();
            assert_eq!(counters.used_entries, 50);
            assert_eq!(counters.in_order_batches, if chains > 1 { 50 } else { 0 });
        }
    }
}

#[test]
fn a_batch_beyond_what_the_index_says_breaks_the_device() {
    let mut bench = Bench::new(Shape { in_order: true, ..SHAPE });
    for _ in 0..3 {
        bench.add(1, 0).unwrap();
    }
    bench.ring.publish();
    // Index 1, and an element that stands for three.
    bench.device.lie(2, 0);
    assert_eq!(bench.take(), Err(ViolationKind::BatchOverrun));
}

/// The lies about a completion, in every configuration: each is named.
#[test]
fn lies_are_named_in_every_configuration() {
    for shape in shapes().filter(|shape| shape.size == 8 || shape.size == 5) {
        let cases = [
            (shape.size, 0, ViolationKind::IdOutOfRange),
            (u16::MAX, 0, ViolationKind::IdOutOfRange),
            (0, 11, ViolationKind::LengthOverPosted),
            (4, 0, ViolationKind::IdNotOutstanding),
        ];
        for (id, len, kind) in cases {
            let mut bench = Bench::new(shape);
            bench.add(0, 1).unwrap();
            bench.ring.publish();
            bench.device.lie(id, len);
            assert_eq!(bench.take(), Err(kind), "{shape:?} {id} {len}");
            assert_eq!(bench.take(), Err(kind), "it is latched");
            assert_eq!(bench.ring.has_completions().map_err(|violation| violation.kind), Err(kind));
        }
    }
}

#[test]
fn a_completion_is_lawful_once_and_only_when_published() {
    for shape in shapes().filter(|shape| shape.size == 8 || shape.size == 5) {
        let mut bench = Bench::new(shape);
        bench.add(0, 1).unwrap();
        bench.ring.publish();
        let unpublished = bench.add(0, 1).unwrap();
        bench.device.lie(1, 0);
        assert_eq!(bench.take(), Err(ViolationKind::IdNotOutstanding), "{shape:?}: chain {unpublished} was not shown");
        let mut bench = Bench::new(shape);
        bench.add(0, 1).unwrap();
        bench.add(0, 1).unwrap();
        bench.ring.publish();
        let first = bench.device.next().unwrap();
        bench.device.complete(std::slice::from_ref(&first), 1);
        assert_eq!(bench.take(), Ok(Some((0, 1))));
        bench.device.complete(&[first], 1);
        assert_eq!(bench.take(), Err(ViolationKind::IdNotOutstanding), "{shape:?}");
    }
}

/// Marks on slots that were never lent are not even looked at; nor is a mark of the wrong round.
#[test]
fn packed_marks_where_nothing_is_out_have_no_effect() {
    let mut bench = Bench::new(Shape { layout: RingLayout::Packed, ..SHAPE });
    let mut at = PackedPosition::START;
    for _ in 0..8 {
        bench.device.put_slot(at, 0, 0);
        at = at.advance(1, bench.device.size);
    }
    assert_eq!(bench.take(), Ok(None));
    let token = bench.add(1, 0).unwrap();
    bench.ring.publish();
    let wrong_round = PackedPosition::from_bits(0, bench.device.size).unwrap();
    bench.device.put_slot(wrong_round, 0, 0);
    assert_eq!(bench.take(), Ok(None));
    bench.device.put_slot(PackedPosition::START, 0, 0);
    assert_eq!(bench.take(), Ok(Some((token, 0))));
    assert_eq!(bench.take(), Ok(None), "the next slots are marked too, but nothing is out");
}

/// Slots of a chain that could not be mapped whole are not in the ring behind a shorter one.
#[test]
fn a_chain_that_was_taken_back_leaves_nothing_in_a_packed_ring() {
    let mut bench = Bench::new(Shape { layout: RingLayout::Packed, ..SHAPE });
    let fits = ArenaBuffer { offset: 0, len: u32::MAX };
    let error = bench.ring.add(&mut bench.mapper, &[], &[fits, fits, fits], 7).unwrap_err();
    assert!(matches!(error, AddError::Impossible { .. }), "{error:?}");
    assert_eq!(bench.mapper.0, [], "everything was unmapped");
    bench.add(1, 0).unwrap();
    bench.ring.publish();
    assert_eq!(bench.device.next().unwrap().buffers.len(), 1);
    assert!(bench.device.next().is_none());
}

/// Every word of the device's about kicks, sensible or not: the answer is as the specification has it, or a kick.
#[test]
fn words_about_kicks_are_hints() {
    for event_idx in [false, true] {
        for flags in 0..=4u16 {
            for off_wrap in [0u16, 7, 8, 0x7fff, 0x8000, 0x8001, 0x8007, 0x8008, 0xffff] {
                let mut bench = Bench::new(Shape { layout: RingLayout::Packed, event_idx, ..SHAPE });
                bench.device.c.store_u32(0, Event { off_wrap, flags }.to_word());
                bench.add(1, 0).unwrap();
                bench.ring.publish();
                let expected = match flags {
                    1 => false,
                    2 if event_idx => off_wrap == 0x8000 || off_wrap & 0x7fff >= 8,
                    _ => true,
                };
                assert_eq!(bench.ring.should_kick(), expected, "{event_idx} {flags} {off_wrap:#x}");
            }
        }
    }
    for event in [0u16, 1, 7, 0xffff] {
        let mut bench = Bench::new(Shape { event_idx: true, ..SHAPE });
        bench.device.c.store_u16(split::avail_event_at(bench.device.size), event);
        // Flags have no meaning with event indices.
        bench.device.c.store_u16(split::USED_FLAGS, split::USED_F_NO_NOTIFY);
        bench.add(1, 0).unwrap();
        bench.ring.publish();
        assert_eq!(bench.ring.should_kick(), event == 0, "{event}");
        assert!(!bench.ring.should_kick(), "nothing was published since");
    }
}

/// What was published in several bursts counts until the question was asked.
#[test]
fn a_kick_is_about_everything_since_the_last_question() {
    for layout in [RingLayout::Split, RingLayout::Packed] {
        let mut bench = Bench::new(Shape { layout, event_idx: true, ..SHAPE });
        if layout == RingLayout::Packed {
            bench.device.c.store_u32(0, Event { off_wrap: 0x8000, flags: packed::EVENT_F_DESC }.to_word());
        }
        for _ in 0..3 {
            bench.add(1, 0).unwrap();
            bench.ring.publish();
        }
        assert!(bench.ring.should_kick(), "{layout:?}: slot 0 was published, two bursts ago");
    }
}

#[test]
fn calls_are_asked_for_at_the_next_completion() {
    let split_event = |bench: &Bench| bench.device.b.load_u16(split::used_event_at(bench.device.size));
    let mut bench = Bench::new(Shape { event_idx: true, ..SHAPE });
    bench.ring.arm_calls();
    assert_eq!(split_event(&bench), 0);
    bench.ring.suppress_calls();
    assert_eq!(split_event(&bench), 0xffff);
    let packed_event = |bench: &Bench| Event::from_word(bench.device.b.load_u32(0));
    let mut bench = Bench::new(Shape { layout: RingLayout::Packed, event_idx: true, ..SHAPE });
    bench.ring.arm_calls();
    assert_eq!(packed_event(&bench), Event { off_wrap: 0x8000, flags: packed::EVENT_F_DESC });
    bench.ring.suppress_calls();
    assert_eq!(packed_event(&bench).flags, packed::EVENT_F_DISABLE);
    let mut bench = Bench::new(Shape { layout: RingLayout::Packed, ..SHAPE });
    bench.ring.arm_calls();
    assert_eq!(packed_event(&bench).flags, packed::EVENT_F_ENABLE);
}

/// A step of a script.
#[derive(Clone, Copy, Debug)]
enum Step {
    Add {
        readable: usize,
        writable: usize,
    },
    Publish,
    /// The device reads what there is.
    Read,
    /// It completes so many chains, the `pick`-th of those that it holds first if it may choose.
    Complete {
        pick: usize,
        count: usize,
    },
    Take,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4usize, 0..4usize).prop_filter("not empty", |(r, w)| r + w > 0)
            .prop_map(|(readable, writable)| Step::Add { readable, writable }),
        3 => Just(Step::Publish),
        3 => Just(Step::Read),
        3 => (0..8usize, 1..4usize).prop_map(|(pick, count)| Step::Complete { pick, count }),
        4 => Just(Step::Take),
    ]
}

/// Runs a script and returns what came back, in order, as (token, written). Everything else is asserted on the way.
fn run(shape: Shape, script: &[Step]) -> Vec<(u64, u32)> {
    let mut bench = Bench::new(shape);
    let mut trace = Vec::new();
    let mut held: VecDeque<(u64, Chain)> = VecDeque::new();
    let mut posted: VecDeque<(u64, usize)> = VecDeque::new();
    // What each token may come back with.
    let mut due: HashMap<u64, u32> = HashMap::new();
    for step in script {
        match *step {
            Step::Add { readable, writable } => {
                // The trace must not depend on room: two of the longest chains fit into each of the rings.
                if bench.ring.outstanding() < 2
                    && let Some(token) = bench.add(readable, writable)
                {
                    posted.push_back((token, readable + writable));
                }
            }
            Step::Publish => {
                bench.ring.publish();
                bench.ring.should_kick();
            }
            Step::Read => {
                while let Some(chain) = bench.device.next() {
                    let (token, buffers) = posted.pop_front().expect("only what was posted");
                    assert_eq!(chain.buffers.len(), buffers);
                    held.push_back((token, chain));
                }
            }
            Step::Complete { pick, count } if !held.is_empty() => {
                let (first, count) = if shape.in_order { (0, count.min(held.len())) } else { (pick % held.len(), 1) };
                let chains: Vec<_> = (0..count).filter_map(|_| held.remove(first)).collect();
                for (token, chain) in &chains {
                    due.insert(*token, chain.writable());
                }
                let last = chains.last().unwrap();
                let written = last.1.writable() / 2;
                due.insert(last.0, written);
                let chains: Vec<_> = chains.into_iter().map(|(_, chain)| chain).collect();
                bench.device.complete(&chains, written);
            }
            Step::Complete { .. } => {}
            Step::Take => {
                if let Some((token, written)) = bench.take().unwrap() {
                    assert_eq!(due.remove(&token), Some(written), "once, and with what was written");
                    trace.push((token, written));
                }
            }
        }
        assert!(bench.ring.is_conserved(), "{shape:?} after {step:?}");
    }
    trace
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// Arbitrary chains, completions out of order or in batches: every configuration conserves its descriptors, gives each
    /// token back once with what was written, and both layouts give the same trace.
    #[test]
    fn layouts_agree_on_every_script(script in proptest::collection::vec(step(), 1..200)) {
        for bits in 0..8 {
            let shape =
                Shape { indirect: bits & 1 != 0, event_idx: bits & 2 != 0, in_order: bits & 4 != 0, size: 16, ..SHAPE };
            let split = run(shape, &script);
            for size in [16, 13] {
                let packed = run(Shape { layout: RingLayout::Packed, size, ..shape }, &script);
                prop_assert_eq!(&split, &packed, "{:?} {}", shape, size);
            }
        }
    }
}
