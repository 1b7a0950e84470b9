//! Attacks on a packed ring, seen from the driver's side: each strikes what it says, and leaves the device able to serve.
//!
//! The driver writes each slot when it posts a chain there and at no other time, and knows what it wrote: whatever of a
//! strike is not undone in time, the device walks into.

use std::collections::VecDeque;

use ironring_common::index::PackedPosition;
use ironring_common::spec::packed::{EVENT_BYTES, SlotRest, avail_flags, is_used, ring_bytes};
use ironring_common::spec::split::{DESC_BYTES, DESC_F_INDIRECT};

use super::*;
use crate::vring::VringOptions;
use crate::vring::any::AnyVring;
use crate::vring::chain::Segment;
use crate::vring::packed::PackedVring;

/// Slots of the ring: not a power of two.
const SLOTS: u16 = 21;
/// Chains that are out at most.
const OUT: usize = 4;
/// Where tables and buffers lie.
const TABLES: usize = 0x2000;
const BUFFERS: usize = 0x6000;

/// A chain that is out: what the device has to find.
#[derive(Clone, Debug)]
struct Out {
    id: u16,
    slots: u16,
    segments: Vec<(u64, bool)>,
}

struct Packed {
    engine: Engine,
    memory: RegionTable,
    areas: [Area; 3],
    whole: Area,
    vring: AnyVring<Area>,
    chain: Chain,
    tables: bool,
    next_avail: PackedPosition,
    next_used: PackedPosition,
    out: VecDeque<Out>,
    /// Chains that the device has completed and the driver has not taken, with what an honest device says.
    done: VecDeque<(Out, u32)>,
    posted: u16,
}

impl Packed {
    fn new(ids: &str, seed: u64, queue: usize, tables: bool) -> Self {
        let plan = Plan::parse(ids, seed).unwrap().aimed_at(queue);
        let size = QueueSize::packed(SLOTS).unwrap();
        let map = Mapping::of(&Memfd::create("packed-bench", 1 << 16).unwrap()).unwrap();
        let area = |at, len| map.area(at, len).unwrap();
        let areas = [area(0, ring_bytes(size)), area(0x1000, EVENT_BYTES), area(0x1040, EVENT_BYTES)];
        let memory = RegionTable::of_mappings([(GuestAddr(START), map.clone())]).unwrap();
        let [ring, driver, device] = areas.clone();
        let vring = PackedVring::new(queue, size, ring, driver, device, PackedPosition::START.to_bits()).unwrap();
        let options = VringOptions { indirect: tables.then(|| memory.clone()), ..VringOptions::default() };
        let mut bench = Self {
            engine: Engine::new(&plan),
            memory,
            areas,
            whole: area(0, map.len()),
            vring: AnyVring::Packed(vring.with_options(options)),
            chain: Chain::with_capacity(size),
            tables,
            next_avail: PackedPosition::START,
            next_used: PackedPosition::START,
            out: VecDeque::new(),
            done: VecDeque::new(),
            posted: 0,
        };
        bench.tell(Moment::Start);
        bench
    }

    fn size() -> QueueSize {
        QueueSize::packed(SLOTS).unwrap()
    }

    fn tell(&mut self, moment: Moment) {
        self.engine.at(moment, &self.vring.seen_by_hook(&self.areas, &self.memory));
    }

    fn slot(&self, at: PackedPosition) -> SlotRest {
        SlotRest::from_word(self.areas[0].load_u64_acquire(usize::from(at.slot()) * 16 + 8))
    }

    /// Posts chains until enough are out, the first slot of each last.
    fn post(&mut self) {
        while self.out.len() + self.done.len() < OUT {
            let (readable, writable) = SHAPES[usize::from(self.posted) % SHAPES.len()];
            let id = self.posted % SLOTS;
            let count = readable + writable;
            let buffer =
                |n: u16| START + (BUFFERS + 1024 * usize::from(self.posted % 16) + 256 * usize::from(n)) as u64;
            let segments: Vec<_> = (0..count).map(|n| (buffer(n), n >= readable)).collect();
            let slots = if self.tables && count > 1 { 1 } else { count };
            if self.tables && count > 1 {
                let table = TABLES + 64 * usize::from(id);
                for (n, (addr, write)) in segments.iter().enumerate() {
                    let flags = if *write { DESC_F_WRITE } else { 0 };
                    self.whole.store_u64(table + n * DESC_BYTES, *addr);
                    self.whole.store_u64(table + n * DESC_BYTES + 8, SlotRest { len: BUFFER, id: 0, flags }.to_word());
                }
                let len = u32::from(count) * 16;
                self.put(0, START + table as u64, SlotRest { len, id, flags: DESC_F_INDIRECT });
            } else {
                for (n, (addr, write)) in (0..count).zip(&segments).rev() {
                    let flags = if n + 1 == count { 0 } else { DESC_F_NEXT } | if *write { DESC_F_WRITE } else { 0 };
                    self.put(n, *addr, SlotRest { len: BUFFER, id, flags });
                }
            }
            self.next_avail = self.next_avail.advance(slots, Self::size());
            self.out.push_back(Out { id, slots, segments });
            self.posted += 1;
        }
    }

    /// Writes the slot `n` places behind the next one.
    fn put(&self, n: u16, addr: u64, rest: SlotRest) {
        let at = self.next_avail.advance(n, Self::size());
        let rest = SlotRest { flags: rest.flags | avail_flags(at.wrap()), ..rest };
        let offset = usize::from(at.slot()) * 16;
        self.areas[0].store_u64(offset, addr);
        self.areas[0].store_u64_release(offset + 8, rest.to_word());
    }

    /// A pass of the device: up to three chains, each compared with what was posted.
    fn serve(&mut self) {
        self.tell(Moment::Look);
        let new = self.vring.poll().unwrap();
        self.tell(if new > 0 { Moment::Post } else { Moment::Idle });
        let mut served = 0;
        while served < 3 && self.vring.next_chain(&mut self.chain).unwrap() {
            let out = self.out.pop_front().expect("a chain that was posted");
            let find = |segments: &[Segment], write| -> Vec<_> {
                segments.iter().map(|segment| (segment.addr.0, write, segment.len)).collect()
            };
            let mut found = find(self.chain.readable(), false);
            found.extend(find(self.chain.writable(), true));
            let expected: Vec<_> = out.segments.iter().map(|(addr, write)| (*addr, *write, BUFFER)).collect();
            assert_eq!((self.chain.head().id, found), (out.id, expected), "the device walks what was posted");
            let written = u32::try_from(self.chain.writable_len()).unwrap();
            self.vring.complete(&mut self.engine, self.chain.head(), written);
            self.done.push_back((out, written));
            served += 1;
        }
        if served > 0 {
            self.tell(Moment::Complete);
            self.vring.publish(&mut self.engine);
            self.tell(Moment::PostUse);
        } else if new > 0 {
            self.tell(Moment::Idle);
        }
    }

    /// What the device says of the next chain, if its slot says that it is used; and what an honest one says.
    fn take(&mut self) -> Option<(SlotRest, Out, u32)> {
        let said = self.slot(self.next_used);
        if self.done.is_empty() || !is_used(said.flags, self.next_used.wrap()) {
            return None;
        }
        let (out, written) = self.done.pop_front()?;
        self.next_used = self.next_used.advance(out.slots, Self::size());
        Some((said, out, written))
    }

    /// Rounds of honest use under attack; what was said that is not what an honest device says.
    fn lies(&mut self) -> Vec<(SlotRest, Out, u32)> {
        let mut lies = Vec::new();
        for _ in 0..200 {
            self.post();
            self.serve();
            while let Some((said, out, written)) = self.take() {
                let plain = said.flags & (DESC_F_NEXT | DESC_F_INDIRECT) == 0
                    && (said.flags & DESC_F_WRITE != 0) == (written > 0);
                if said.id != out.id || said.len != written || !plain {
                    lies.push((said, out, written));
                }
            }
        }
        lies
    }

    fn strikes(&self) -> u64 {
        self.engine.strikes().count()
    }
}

/// The ids of the attacks that strike packed rings at named moments and leave the device's own view alone.
fn steady() -> impl Iterator<Item = &'static Attack> {
    let packed = CATALOGUE.iter().filter(|attack| attack.layouts.contains(&"packed"));
    let at_ring = packed.filter(|attack| strikes::of(attack, &mut Rng::new(1)).is_some());
    // Frames have no headers here.
    let with_headers = |attack: &&Attack| attack.surface == Surface::Header && !attack.id.starts_with("A72");
    // Nor room behind what is written, which A54e would claim, nor a moment without work, for which A12b waits.
    let elsewhere = ["A12b", "A51", "A54e", "A101", "A104", "A123", "A124"];
    at_ring.filter(move |attack| !elsewhere.contains(&attack.id) && !with_headers(attack))
}

#[test]
fn every_attack_strikes_and_leaves_the_device_able_to_serve() {
    for attack in steady() {
        for (queue, tables) in [(0, false), (1, false), (0, true), (1, true)] {
            for seed in 1..4 {
                let mut bench = Packed::new(attack.id, seed, queue, tables);
                // The device compares every chain with what was posted.
                bench.lies();
                let needs_tables = attack.axes.indirect == Axis::On;
                let needs_chains = ["A53", "A56b"].contains(&attack.id);
                let struck = bench.strikes() > 0;
                let no_place = attack.racing || if tables { needs_chains } else { needs_tables };
                assert!(struck || no_place, "{} on queue {queue}, tables {tables}, seed {seed}", attack.id);
                bench.engine.strikes().disarm();
                // What was published before may be taken still.
                bench.serve();
                while bench.take().is_some() {}
                assert_eq!(bench.lies().len(), 0, "{}: an honest device again", attack.id);
            }
        }
    }
}

#[test]
fn completions_are_lied_about_as_the_row_says() {
    type Rule = fn(&SlotRest, &Out, u32) -> bool;
    let rules: [(&str, Rule); 8] = [
        ("A50", |said, _, _| said.id >= SLOTS),
        ("A52", |said, out, _| said.id < SLOTS && said.id != out.id),
        ("A54", |said, out, written| said.id == out.id && said.len > written),
        ("A54b", |said, out, _| said.id == out.id && said.len == 0),
        ("A54c", |said, out, written| said.id == out.id && (1..26).contains(&said.len) && written > 26),
        ("A52c", |said, out, _| said.id < SLOTS && said.id != out.id),
        ("A54f", |said, out, written| said.id == out.id && (26..written).contains(&said.len)),
        ("A56c", |said, out, written| said.id == out.id && said.len == written),
    ];
    for (id, rule) in rules {
        let mut count = 0;
        for seed in 1..6 {
            let lies = Packed::new(id, seed, 0, false).lies();
            count += lies.len();
            // Two chains of the same length may not come one after the other.
            assert!(!lies.is_empty() || id == "A52c", "{id} seed {seed}");
            for (said, out, written) in &lies {
                assert!(rule(said, out, *written), "{id} seed {seed}: {said:?} for {out:?}, {written}");
            }
        }
        assert!(count > 0, "{id}");
    }
}

/// A48 and A60: only slots that were never posted are marked, so that no completion is stepped on.
#[test]
fn marks_stand_only_where_nothing_was_posted() {
    let mut bench = Packed::new("A60", 1, 1, false);
    let mut at = PackedPosition::START;
    for _ in 0..SLOTS {
        assert!(is_used(bench.slot(at).flags, at.wrap()), "{at:?}");
        at = at.advance(1, Packed::size());
    }
    assert_eq!(bench.lies().len(), 0);
    let mut bench = Packed::new("A48", 1, 1, false);
    bench.post();
    bench.serve();
    let ahead = bench.next_avail;
    assert!(is_used(bench.slot(ahead).flags, ahead.wrap()), "the slot behind the last one");
    assert_eq!(bench.lies().len(), 0);
}

/// A49: what was published wrongly is put right at the next look, and nothing is lost.
#[test]
fn a_burst_with_the_wrong_flags_is_put_right() {
    let mut bench = Packed::new("A49", 2, 1, false);
    for _ in 0..100 {
        bench.post();
        bench.serve();
        let late =
            bench.done.front().is_some_and(|_| !is_used(bench.slot(bench.next_used).flags, bench.next_used.wrap()));
        if late {
            bench.tell(Moment::Look);
            assert!(bench.take().is_some(), "it is there after the next look");
            bench.tell(Moment::Idle);
        }
        while bench.take().is_some() {}
        assert!(bench.done.is_empty());
    }
    assert!(bench.strikes() > 0);
}

/// A09 and A57b: an entry is another one while the driver may look, and right again when its table is walked.
#[test]
fn entries_of_tables_change_after_completion_only() {
    let mut bench = Packed::new("A57b", 3, 1, true);
    let mut changed = 0;
    for _ in 0..100 {
        bench.post();
        bench.serve();
        while let Some((_, out, _)) = bench.take() {
            let table = TABLES + 64 * usize::from(out.id);
            let entries = (0..).zip(&out.segments).filter(|_| out.segments.len() > 1);
            changed += entries
                .filter(|(n, (addr, write))| {
                    let at = table + n * DESC_BYTES;
                    let rest = SlotRest::from_word(bench.whole.load_u64(at + 8));
                    let flags = if *write { DESC_F_WRITE } else { 0 };
                    bench.whole.load_u64(at) != *addr || rest.len != BUFFER || rest.flags != flags
                })
                .count();
        }
    }
    assert!(changed > 0);
}
