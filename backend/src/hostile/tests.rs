//! Each attack, seen from the driver's side of a ring: it strikes where it should, and nothing else.
//!
//! The driver here is the strictest one for an adversary that has to undo its strikes: it writes every descriptor once and
//! never again, and only offers the same heads anew. Whatever is not undone in time, the device of the bench walks into.

use std::time::{Duration, Instant};

use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::table::RegionTable;
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{
    AVAIL_IDX, AVAIL_RING, DESC_F_NEXT, DESC_F_WRITE, Descriptor, USED_IDX, USED_RING, UsedElem, avail_bytes,
    desc_bytes, used_bytes,
};

use super::*;
use crate::vring::DeviceRing;
use crate::vring::chain::Chain;
use crate::vring::hook::{Hook, Moment, Parts, RingMemory};
use crate::vring::split::SplitVring;

mod channel;
mod end_to_end;
mod packed;
mod racing;
mod striking;

/// Descriptors of the ring.
const SIZE: u16 = 32;
/// Chains of the driver: descriptors that the device reads, then those that it writes.
const SHAPES: [(u16, u16); 8] = [(1, 1), (0, 2), (1, 0), (0, 1), (2, 1), (0, 1), (3, 0), (1, 2)];
/// Bytes of every buffer.
const BUFFER: u32 = 256;
/// Where the shared memory begins for the device.
const START: u64 = 0x7000_0000;
/// What the device writes.
const PATTERN: u8 = 0x5a;
/// No test waits longer for a thread.
const PATIENCE: Duration = Duration::from_secs(120);

/// One ring, both of its sides, and an adversary at the device's.
struct Bench {
    engine: Engine,
    queue: usize,
    memory: RegionTable,
    whole: Area,
    desc: Area,
    avail: Area,
    used: Area,
    vring: SplitVring<Area>,
    chain: Chain,
    /// Chains completed in a burst.
    burst: usize,
    /// The table as the driver wrote it.
    table: Vec<Descriptor>,
    avail_idx: u16,
    /// Heads in the order in which the device has to complete them.
    posted: std::collections::VecDeque<u16>,
    /// Elements as an honest device writes them, since the beginning.
    honest: Vec<UsedElem>,
    /// Whether the device found the ring to be as the driver meant it.
    sound: bool,
}

impl Bench {
    fn new(plan: &Plan) -> Self {
        Self::on_queue(0, &plan.clone().aimed_at(0))
    }

    fn on_queue(queue: usize, plan: &Plan) -> Self {
        let size = QueueSize::split(SIZE).unwrap();
        let map = Mapping::of(&Memfd::create("bench", 1 << 16).unwrap()).unwrap();
        let area = |at, len| map.area(at, len).unwrap();
        let (desc, avail) = (area(0, desc_bytes(size)), area(0x1000, avail_bytes(size)));
        let used = area(0x2004, used_bytes(size));
        let memory = RegionTable::of_mappings([(GuestAddr(START), map.clone())]).unwrap();
        let vring = SplitVring::new(queue, size, desc.clone(), avail.clone(), used.clone(), 0).unwrap();
        let whole = area(0, map.len());
        let table = vec![Descriptor::default(); usize::from(SIZE)];
        let mut bench = Self {
            engine: Engine::new(plan),
            queue,
            memory,
            whole,
            desc,
            avail,
            used,
            vring,
            chain: Chain::with_capacity(size),
            burst: 3,
            table,
            avail_idx: 0,
            posted: std::collections::VecDeque::new(),
            honest: Vec::new(),
            sound: true,
        };
        bench.tell(Moment::Start);
        bench.lay_out();
        bench
    }

    /// Writes the chains, with descriptors of neighbours, and posts them all.
    fn lay_out(&mut self) {
        let mut id = 0;
        for (readable, writable) in SHAPES {
            let head = id;
            for n in 0..readable + writable {
                let last = n + 1 == readable + writable;
                let flags = if last { 0 } else { DESC_F_NEXT } | if n < readable { 0 } else { DESC_F_WRITE };
                let addr = START + 0x4000 + u64::from(id) * u64::from(BUFFER);
                let next = if last { 0 } else { id + 1 };
                self.store(id, Descriptor { addr, len: BUFFER, flags, next });
                id += 1;
            }
            self.offer(head);
        }
        self.publish();
    }

    fn store(&mut self, id: u16, desc: Descriptor) {
        let [addr, rest] = desc.to_words();
        self.desc.store_u64(16 * usize::from(id), addr);
        self.desc.store_u64(16 * usize::from(id) + 8, rest);
        self.table[usize::from(id)] = desc;
    }

    fn offer(&mut self, head: u16) {
        self.avail.store_u16(AVAIL_RING + 2 * usize::from(self.avail_idx % SIZE), head);
        self.avail_idx = self.avail_idx.wrapping_add(1);
        self.posted.push_back(head);
    }

    fn publish(&self) {
        self.avail.store_u16_release(AVAIL_IDX, self.avail_idx);
    }

    /// A pass of the device: at most a burst of chains. Returns the heads, which the driver has not posted again.
    fn serve(&mut self) -> Vec<u16> {
        self.tell(Moment::Look);
        let Ok(waiting) = self.vring.poll() else {
            self.sound = false;
            return Vec::new();
        };
        self.tell(if waiting > 0 { Moment::Post } else { Moment::Idle });
        let mut heads = Vec::new();
        while heads.len() < self.burst && self.vring.next_chain(&mut self.chain) == Ok(true) {
            let expected = self.posted.pop_front().unwrap();
            self.compare(expected);
            for segment in self.chain.writable() {
                if let Some(bytes) = self.memory.bytes(segment.addr, segment.len) {
                    bytes.copy_in(0, &vec![PATTERN; bytes.len()]);
                }
            }
            let written = u32::try_from(self.chain.writable_len()).unwrap();
            self.honest.push(UsedElem { id: u32::from(expected), len: written });
            self.vring.complete(&mut self.engine, self.chain.head(), written);
            heads.push(expected);
        }
        self.sound &= self.vring.fault().is_none();
        if !heads.is_empty() {
            self.tell(Moment::Complete);
            self.vring.publish(&mut self.engine);
            self.tell(Moment::PostUse);
        }
        heads
    }

    /// A pass of the device, after which the driver posts again what came back.
    fn round(&mut self) {
        let heads = self.serve();
        self.repost(&heads);
    }

    fn repost(&mut self, heads: &[u16]) {
        for head in heads {
            self.offer(*head);
        }
        self.publish();
    }

    /// Whether the device sees the chain that the driver meant.
    fn compare(&mut self, head: u16) {
        let mut id = usize::from(head);
        let segments = self.chain.readable().iter().chain(self.chain.writable());
        let mut same = self.chain.head().id == head;
        for segment in segments {
            let desc = self.table[id];
            same &= segment.addr.0 == desc.addr && segment.len == desc.len;
            id = usize::from(desc.next);
        }
        self.sound &= same;
    }

    /// Rounds until the attack strikes; the last pass's heads are with the driver. Returns them.
    fn until_struck(&mut self) -> Vec<u16> {
        for _ in 0..100 {
            let heads = self.serve();
            if self.engine.strikes().count() > 0 {
                return heads;
            }
            self.repost(&heads);
        }
        panic!("it never struck; passed over {} times", self.engine.strikes().passed_over());
    }

    /// The table as it stands.
    fn now(&self) -> Vec<Descriptor> {
        (0..usize::from(SIZE)).map(|id| self.desc_at(id)).collect()
    }

    fn desc_at(&self, id: usize) -> Descriptor {
        Descriptor::from_words([self.desc.load_u64(16 * id), self.desc.load_u64(16 * id + 8)])
    }

    /// Descriptors that differ from what the driver wrote.
    fn struck(&self) -> Vec<(u16, Descriptor, Descriptor)> {
        let pairs = self.table.iter().copied().zip(self.now()).enumerate();
        pairs.filter(|(_, (was, is))| was != is).map(|(id, (was, is))| (id as u16, was, is)).collect()
    }

    /// The used element of a completion, counted from the beginning.
    fn element(&self, nth: usize) -> UsedElem {
        UsedElem::from_word(self.used.load_u64(USED_RING + 8 * (nth % usize::from(SIZE))))
    }

    /// The completions of the last burst of `count`, as they stand, each with the honest one.
    fn last_burst(&self, count: usize) -> Vec<(UsedElem, UsedElem)> {
        let from = self.honest.len() - count;
        (from..self.honest.len()).map(|nth| (self.element(nth), self.honest[nth])).collect()
    }

    fn used_idx(&self) -> u16 {
        self.used.load_u16(USED_IDX)
    }

    fn honest_idx(&self) -> u16 {
        self.honest.len() as u16
    }

    fn tell(&mut self, moment: Moment) {
        let ring = RingMemory {
            queue: self.queue,
            size: QueueSize::split(SIZE).unwrap(),
            parts: Parts::Split {
                desc: &self.desc,
                avail: &self.avail,
                used: &self.used,
                next_avail: self.vring.next_avail(),
                next_used: self.vring.next_used(),
            },
            memory: &self.memory,
            heads: self.vring.heads(),
        };
        self.engine.at(moment, &ring);
    }
}

/// Looks again until something is so.
fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is_so() {
        assert!(started.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::yield_now();
    }
}

#[test]
fn plans_are_lists_of_ids_and_names() {
    let plan = Plan::parse("hostile:a08B, split.used.toctou,A08b", 7).unwrap();
    let ids: Vec<_> = plan.attacks().iter().map(|attack| attack.id).collect();
    assert_eq!((ids, plan.seed()), (vec!["A08b", "A39"], 7));
    assert_eq!(Plan::parse("A01", 1).unwrap().attacks().len(), 1);
    assert_eq!(Plan::parse("hostile:", 1), Err(PlanError::Empty));
    assert_eq!(Plan::parse("", 1), Err(PlanError::Empty));
    let error = Plan::parse("A01,A400", 1).unwrap_err();
    assert!(matches!(&error, PlanError::Unknown { given, .. } if given == "A400"));
    assert!(error.to_string().contains("did you mean A"), "{error}");
}

#[test]
fn every_attack_is_either_at_the_ring_or_at_the_socket() {
    for attack in CATALOGUE.iter() {
        let at_ring = strikes::of(attack, &mut Rng::new(1)).is_some();
        // Doorbells come over the socket too.
        let over_socket = matches!(attack.surface, Surface::Channel | Surface::File)
            || ["A102", "A103", "A105", "A106"].contains(&attack.id);
        assert_eq!(at_ring, !over_socket, "{}", attack.id);
    }
}
