//! The ring against a small device written by hand, honest and otherwise.

use super::*;
use crate::mapper::bounce::{BLOCK_BYTES, Bounce, BounceError, PrivateBuffer};
use crate::mapper::identity::{ArenaBuffer, Identity};
use crate::mapper::iova::Iova;
use crate::mapper::{Direction, MapRecord};
use crate::queue::violation::ViolationKind;
use ironring_common::index::GuestAddr;
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::spec::split::UsedElem;
use ironring_common::spec::split::{DESC_F_NEXT, DESC_F_WRITE};
use proptest::prelude::*;

const POOL_BASE: GuestAddr = GuestAddr(0x5000_0000);

/// Both ends of one ring: the driver's areas and, over a second mapping, what the device sees.
struct Bench {
    ring: SplitRing<Area, u64>,
    latch: Arc<Latch>,
    device: Device,
    pool: Area,
}

/// The device: it trusts the driver, which is fine in a test.
struct Device {
    desc: Area,
    avail: Area,
    used: Area,
    pool: Area,
    size: u16,
    next: u16,
    used_idx: u16,
    /// Heads seen and not completed, for devices that complete out of order.
    pending: Vec<u16>,
}

impl Bench {
    fn new(size: u16, pool_bytes: usize) -> Self {
        let size = QueueSize::split(size).unwrap();
        let used_at = (split::desc_bytes(size) + split::avail_bytes(size)).next_multiple_of(64) + 60;
        let pool_at = (used_at + split::used_bytes(size)).next_multiple_of(4096);
        let memfd = Memfd::create("bench", pool_at + pool_bytes).unwrap();
        let cut = || {
            let map = Mapping::of(&memfd).unwrap();
            let areas = SplitAreas {
                desc: map.area(0, split::desc_bytes(size)).unwrap(),
                avail: map.area(split::desc_bytes(size), split::avail_bytes(size)).unwrap(),
                used: map.area(used_at, split::used_bytes(size)).unwrap(),
            };
            (areas, map.area(pool_at, pool_bytes).unwrap())
        };
        let latch = Latch::new();
        let (areas, pool) = cut();
        let ring = SplitRing::new(3, size, areas, Arc::clone(&latch)).unwrap();
        let (theirs, device_pool) = cut();
        let SplitAreas { desc, avail, used } = theirs;
        let device = Device {
            desc,
            avail,
            used,
            pool: device_pool,
            size: size.get(),
            next: 0,
            used_idx: 0,
            pending: Vec::new(),
        };
        Self { ring, latch, device, pool }
    }

    fn bounce(&self, private: usize) -> Bounce<Area> {
        Bounce::new(self.pool.clone(), POOL_BASE, (0..private).map(|n| n as u8).collect())
    }
}

impl Device {
    fn desc(&self, id: u16) -> Descriptor {
        let at = usize::from(id) * 16;
        Descriptor::from_words([self.desc.load_u64(at), self.desc.load_u64(at + 8)])
    }

    /// Heads that became available, oldest first.
    fn heads(&mut self) -> Vec<u16> {
        let idx = self.avail.load_u16_acquire(split::AVAIL_IDX);
        let mut heads = Vec::new();
        while self.next != idx {
            heads.push(self.avail.load_u16(split::AVAIL_RING + 2 * usize::from(self.next % self.size)));
            self.next = self.next.wrapping_add(1);
        }
        heads
    }

    fn chain(&self, head: u16) -> Vec<Descriptor> {
        let mut chain = vec![self.desc(head)];
        while chain.last().unwrap().flags & DESC_F_NEXT != 0 {
            chain.push(self.desc(chain.last().unwrap().next));
        }
        chain
    }

    fn put_used(&mut self, id: u32, len: u32) {
        let at = split::USED_RING + 8 * usize::from(self.used_idx % self.size);
        self.used.store_u64(at, UsedElem { id, len }.to_word());
        self.used_idx = self.used_idx.wrapping_add(1);
    }

    fn publish(&self) {
        self.used.store_u16_release(split::USED_IDX, self.used_idx);
    }

    fn complete(&mut self, id: u32, len: u32) {
        self.put_used(id, len);
        self.publish();
    }
}

fn arena(len: u32) -> ArenaBuffer {
    ArenaBuffer { offset: 4096, len }
}

fn kinds(size: u16, post: u16, lie: impl FnOnce(&mut Device)) -> (Violation, Bench) {
    let mut bench = Bench::new(size, 4096);
    let mut mapper = Identity::new();
    for token in 0..post {
        // Chains of two: a readable header and a writable part of 100 bytes.
        bench.ring.add(&mut mapper, &[arena(12)], &[arena(100)], u64::from(token)).unwrap();
    }
    bench.ring.publish();
    lie(&mut bench.device);
    let mut last = None;
    for _ in 0..=post {
        match bench.ring.take(&mut mapper) {
            Ok(Some(_)) => {}
            Ok(None) => break,
            Err(violation) => {
                last = Some(violation);
                break;
            }
        }
    }
    (last.expect("the lie is noticed"), bench)
}

#[test]
fn every_lie_is_named_with_its_numbers() {
    let (v, _) = kinds(8, 2, |d| d.used.store_u16_release(split::USED_IDX, 3));
    assert_eq!((v.queue, v.kind, v.slot, v.observed, v.expected), (3, ViolationKind::UsedIndexJump, 0, 3, 2));
    let (v, _) = kinds(8, 2, |d| d.used.store_u16_release(split::USED_IDX, u16::MAX));
    assert_eq!((v.kind, v.observed), (ViolationKind::UsedIndexJump, 0xffff));
    let (v, _) = kinds(8, 2, |d| d.complete(8, 0));
    assert_eq!((v.kind, v.observed, v.expected), (ViolationKind::IdOutOfRange, 8, 7));
    let (v, _) = kinds(8, 2, |d| d.complete(0x1_0000, 0));
    assert_eq!((v.kind, v.observed), (ViolationKind::IdOutOfRange, 0x1_0000));
    let (v, _) = kinds(8, 2, |d| d.complete(1, 0));
    assert_eq!((v.kind, v.observed), (ViolationKind::IdNotHead, 1));
    let (v, _) = kinds(8, 2, |d| d.complete(6, 0));
    assert_eq!((v.kind, v.observed), (ViolationKind::IdNotOutstanding, 6));
    let (v, _) = kinds(8, 2, |d| {
        d.put_used(2, 100);
        d.complete(2, 100);
    });
    assert_eq!((v.kind, v.slot, v.observed), (ViolationKind::IdNotOutstanding, 1, 2));
    let (v, _) = kinds(8, 2, |d| d.complete(0, 101));
    assert_eq!((v.kind, v.observed, v.expected), (ViolationKind::LengthOverPosted, 101, 100));
    let (v, _) = kinds(8, 2, |d| d.complete(0, u32::MAX));
    assert_eq!(v.kind, ViolationKind::LengthOverPosted);
}

#[test]
fn a_violation_is_latched_for_the_whole_device() {
    let (first, mut bench) = kinds(8, 2, |d| d.complete(8, 0));
    // Honest from now on: too late.
    bench.device.used.store_u64(split::USED_RING, UsedElem { id: 0, len: 0 }.to_word());
    let mut mapper = Identity::new();
    assert_eq!(bench.ring.take(&mut mapper), Err(first));
    assert_eq!(bench.ring.add(&mut mapper, &[arena(1)], &[], 9), Err(AddError::Violation(first)));
    assert_eq!(bench.ring.has_completions(), Err(first));
    assert_eq!(bench.latch.violation(), Some(first));
    // Nor is anything said to it any more.
    bench.ring.arm_calls();
    assert!(!bench.ring.publish() && !bench.ring.should_kick());
    // What the device holds stays with it: quarantined, counted, not lost.
    assert_eq!(bench.ring.lent().collect::<Vec<_>>(), [&0, &1]);
    assert!(bench.ring.is_conserved());
}

/// The device may see entries of the available ring before its index moves. It has no business with them.
#[test]
fn a_chain_is_not_completed_before_it_is_published() {
    let mut mapper = Identity::new();
    let mut bench = Bench::new(4, 4096);
    bench.ring.add(&mut mapper, &[arena(12)], &[], 5).unwrap();
    bench.device.complete(0, 0);
    let violation = bench.ring.take(&mut mapper).unwrap_err();
    assert_eq!((violation.kind, violation.expected), (ViolationKind::UsedIndexJump, 0));

    // With another one published the index is in order, and the id is not.
    let mut bench = Bench::new(4, 4096);
    bench.ring.add(&mut mapper, &[arena(12)], &[], 5).unwrap();
    bench.ring.publish();
    bench.ring.add(&mut mapper, &[arena(12)], &[], 6).unwrap();
    assert_eq!((bench.ring.outstanding(), bench.ring.held()), (2, 1));
    bench.device.complete(1, 0);
    assert_eq!(bench.ring.take(&mut mapper).unwrap_err().kind, ViolationKind::IdNotOutstanding);
    assert!(bench.ring.is_conserved());
}

#[test]
fn tokens_are_handed_through_whatever_they_are() {
    let mut mapper = Identity::new();
    let map = Mapping::of(&Memfd::create("t", 8192).unwrap()).unwrap();
    let part = |at, len| map.area(at, len).unwrap();
    let areas = SplitAreas { desc: part(0, 64), avail: part(64, 14), used: part(124, 38) };
    let used = areas.used.clone();
    let mut ring = SplitRing::new(0, QueueSize::split(4).unwrap(), areas, Latch::new()).unwrap();
    ring.add(&mut mapper, &[arena(12)], &[], String::from("a buffer that is owned")).unwrap();
    ring.publish();
    used.store_u64(split::USED_RING, UsedElem { id: 0, len: 0 }.to_word());
    used.store_u16_release(split::USED_IDX, 1);
    assert_eq!(ring.take(&mut mapper).unwrap().unwrap().token, "a buffer that is owned");
}

#[test]
fn a_length_on_a_readable_chain_has_no_effect() {
    let mut bench = Bench::new(4, 4096);
    let mut mapper = Identity::new();
    bench.ring.add(&mut mapper, &[arena(12)], &[], 5).unwrap();
    bench.ring.publish();
    bench.device.complete(0, 4000);
    let done = bench.ring.take(&mut mapper).unwrap().unwrap();
    assert_eq!((done.token, done.written, bench.ring.counters().idle_claims), (5, 0, 1));
}

#[test]
fn a_chain_may_fill_the_ring_and_no_more() {
    let mut bench = Bench::new(4, 4096);
    let mut mapper = Identity::new();
    let five = [arena(1); 5];
    assert_eq!(bench.ring.add(&mut mapper, &five, &[], 0), Err(AddError::Impossible { buffers: 5, size: 4 }));
    assert_eq!(bench.ring.add(&mut mapper, &[], &[], 0), Err(AddError::Impossible { buffers: 0, size: 4 }));
    let huge = [ArenaBuffer { offset: 0, len: u32::MAX }; 2];
    assert_eq!(bench.ring.add(&mut mapper, &[], &huge, 0), Err(AddError::Impossible { buffers: 2, size: 4 }));
    assert_eq!((mapper.live(), bench.ring.free()), (0, 4), "nothing stays mapped or reserved");
    bench.ring.add(&mut mapper, &five[..4], &[], 7).unwrap();
    assert_eq!(bench.ring.add(&mut mapper, &five[..1], &[], 0), Err(AddError::Full { need: 1, free: 0 }));
    bench.ring.publish();
    let heads = bench.device.heads();
    assert_eq!(bench.device.chain(heads[0]).len(), 4);
    bench.device.complete(u32::from(heads[0]), 0);
    assert_eq!(bench.ring.take(&mut mapper).unwrap().unwrap().token, 7);
    assert_eq!((mapper.live(), bench.ring.free()), (0, 4));
}

#[test]
fn the_kick_is_asked_for_by_the_device() {
    let mut bench = Bench::new(4, 4096);
    assert!(bench.ring.should_kick());
    bench.device.used.store_u16(split::USED_FLAGS, split::USED_F_NO_NOTIFY);
    assert!(!bench.ring.should_kick());
}

#[test]
fn areas_that_do_not_fit_are_refused() {
    let size = QueueSize::split(8).unwrap();
    let whole = Mapping::of(&Memfd::create("t", 8192).unwrap()).unwrap().area(0, 8192).unwrap();
    let areas = |desc: Area, avail: Area, used: Area| SplitAreas { desc, avail, used };
    let part = |at, len| whole.part(at, len).unwrap();
    let make = |areas| SplitRing::<Area, u64>::new(0, size, areas, Latch::new()).map(|_| ());
    assert_eq!(make(areas(part(0, 128), part(256, 22), part(316, 70))), Ok(()));
    let small = Misuse::AreaTooSmall { have: 127, need: 128 };
    assert_eq!(make(areas(part(0, 127), part(256, 22), part(316, 70))), Err(small));
    assert!(make(areas(part(0, 128), part(256, 21), part(316, 70))).is_err());
    assert!(make(areas(part(0, 128), part(256, 22), part(316, 69))).is_err());
    assert_eq!(make(areas(part(4, 128), part(256, 22), part(316, 70))), Err(Misuse::Misaligned { need: 8 }));
    assert_eq!(make(areas(part(0, 128), part(256, 22), part(320, 70))), Err(Misuse::Misaligned { need: 8 }));
}

/// The pool has room for `fit` more blocks; a chain that needs one block a buffer fails at position `fit`, whatever the
/// device writes into the table meanwhile.
#[test]
fn a_mapping_failure_at_any_position_unwinds_from_private_records() {
    for fit in 0..6usize {
        let mut bench = Bench::new(8, 6 * BLOCK_BYTES);
        let mut mapper = bench.bounce(8192);
        let buffer = |n: usize| PrivateBuffer { offset: n * 512, len: 200 };
        // Take all but `fit` blocks by an honest chain that is out.
        let taken: Vec<_> = (0..6 - fit).map(buffer).collect();
        if !taken.is_empty() {
            bench.ring.add(&mut mapper, &[], &taken, 1).unwrap();
            bench.ring.publish();
        }
        let chain: Vec<_> = (8..8 + fit + 1).map(buffer).collect();
        let (readable, writable) = chain.split_at(chain.len() / 2);
        let free = (bench.ring.free(), mapper.free_blocks());
        // A device that scribbles over the whole table before and, through the seam below, during the failing add.
        for at in (0..128).step_by(8) {
            bench.device.desc.store_u64(at, 0xffff_ffff_ffff_ffff);
        }
        let mut racing = Scribbling { inner: &mut mapper, table: bench.device.desc.clone() };
        let error = bench.ring.add(&mut racing, readable, writable, 2).unwrap_err();
        let expected = AddError::Map { index: fit, error: BounceError::Exhausted { need: 1, free: 0 } };
        assert_eq!(error, expected, "fit {fit}");
        assert_eq!((bench.ring.free(), mapper.free_blocks()), free, "everything came back");
        assert!(bench.ring.is_conserved());
        // The ring is usable: the part that fits goes out and comes back.
        if fit > 0 {
            bench.ring.add(&mut mapper, &chain[..fit], &[], 3).unwrap();
            bench.ring.publish();
            let heads = bench.device.heads();
            bench.device.complete(u32::from(*heads.last().unwrap()), 0);
            assert_eq!(bench.ring.take(&mut mapper).unwrap().unwrap().token, 3);
        }
        assert_eq!(mapper.free_blocks(), fit);
    }
}

/// A mapper under which the device rewrites the descriptor table at every step.
struct Scribbling<'a> {
    inner: &'a mut Bounce<Area>,
    table: Area,
}

impl Scribbling<'_> {
    fn scribble(&self) {
        for at in (0..self.table.len()).step_by(16) {
            self.table.store_u64(at, POOL_BASE.0);
            self.table.store_u64(at + 8, u64::MAX);
        }
    }
}

impl Mapper for Scribbling<'_> {
    type Buffer = PrivateBuffer;
    type Error = BounceError;
    fn map(
        &mut self,
        id: DescId,
        buffer: &PrivateBuffer,
        direction: Direction,
    ) -> Result<crate::mapper::Mapped, BounceError> {
        self.scribble();
        self.inner.map(id, buffer, direction)
    }
    fn unmap(&mut self, record: MapRecord, written: u32) -> Result<(), BounceError> {
        self.scribble();
        self.inner.unmap(record, written)
    }
}

#[test]
fn iova_hides_the_arena_and_refuses_what_is_outside() {
    let mut bench = Bench::new(4, 4096);
    let mut mapper = Iova::new(GuestAddr(0x7777_0000), 8192).unwrap();
    assert!(Iova::new(GuestAddr(u64::MAX), 2).is_none());
    bench.ring.add(&mut mapper, &[arena(64)], &[], 1).unwrap();
    bench.ring.publish();
    assert_eq!(bench.device.desc(0).addr, 0x7777_1000);
    let outside = ArenaBuffer { offset: 8000, len: 193 };
    assert!(matches!(bench.ring.add(&mut mapper, &[outside], &[], 2), Err(AddError::Map { index: 0, .. })));
    bench.device.complete(0, 0);
    bench.ring.take(&mut mapper).unwrap().unwrap();
    assert_eq!(mapper.live(), 0);
}

#[derive(Clone, Debug)]
struct Post {
    readable: Vec<u16>,
    writable: Vec<u16>,
    /// How much the device says it wrote, as a share of what was posted.
    share: u8,
}

fn posts() -> impl Strategy<Value = Vec<Post>> {
    let part = || proptest::collection::vec(1u16..700, 0..4);
    let post = (part(), part(), any::<u8>())
        .prop_filter("a chain has buffers", |(r, w, _)| !r.is_empty() || !w.is_empty())
        .prop_map(|(readable, writable, share)| Post { readable, writable, share });
    proptest::collection::vec(post, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Arbitrary chains over a bounce pool that is often exhausted, completed out of order: every token comes back once,
    /// the device reads exactly what was posted, and exactly the written bytes arrive where they belong.
    #[test]
    fn arbitrary_chains_come_back_whole(posts in posts(), order in any::<u64>()) {
        let mut bench = Bench::new(16, 24 * BLOCK_BYTES);
        let mut mapper = bench.bounce(16 * 1024);
        let mut cursor = 0usize;
        let mut out: Vec<(u64, Vec<PrivateBuffer>, Vec<PrivateBuffer>, Post)> = Vec::new();
        let mut shadow = mapper.private().to_vec();
        let mut seed = order;
        let mut queue: std::collections::VecDeque<_> = posts.into_iter().enumerate().collect();
        while !queue.is_empty() || !out.is_empty() {
            let mut stuck = true;
            if let Some((token, post)) = queue.front().cloned() {
                let mut cut = |lens: &[u16]| lens.iter().map(|len| {
                    let len = u32::from(*len);
                    if cursor + len as usize > 16 * 1024 { cursor = 0; }
                    let buffer = PrivateBuffer { offset: cursor, len };
                    cursor += len as usize;
                    buffer
                }).collect::<Vec<_>>();
                let (readable, writable) = (cut(&post.readable), cut(&post.writable));
                let overlaps = |a: &PrivateBuffer| out.iter().flat_map(|o| o.1.iter().chain(&o.2)).any(|b|
                    a.offset < b.offset + b.len as usize && b.offset < a.offset + a.len as usize);
                if !readable.iter().chain(&writable).any(overlaps) {
                    match bench.ring.add(&mut mapper, &readable, &writable, token as u64) {
                        Ok(_) => {
                            bench.ring.publish();
                            out.push((token as u64, readable, writable, post));
                            queue.pop_front();
                            stuck = false;
                        }
                        Err(AddError::Full { .. } | AddError::Map { error: BounceError::Exhausted { .. }, .. }) => {}
                        Err(error) => prop_assert!(false, "{error:?}"),
                    }
                }
            }
            if stuck && out.is_empty() {
                // Chains that can never fit in the pool.
                queue.pop_front();
                continue;
            }
            if stuck || seed & 1 == 0 {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let heads = bench.device.heads();
                bench.device.pending.extend(heads);
                let pick = (seed >> 33) as usize % bench.device.pending.len();
                let head = bench.device.pending.swap_remove(pick);
                let chain = bench.device.chain(head);
                // Fill every writable segment; read every readable one.
                let mut seen = Vec::new();
                for desc in &chain {
                    let at = (desc.addr - POOL_BASE.0) as usize;
                    let mut bytes = vec![0; desc.len as usize];
                    if desc.flags & DESC_F_WRITE != 0 {
                        bytes.fill(0xd0 | (pick as u8 & 15));
                        bench.device.pool.copy_in(at, &bytes);
                    } else {
                        bench.device.pool.copy_out(at, &mut bytes);
                        seen.push(bytes);
                    }
                }
                let posted: u32 = chain.iter().filter(|d| d.flags & DESC_F_WRITE != 0).map(|d| d.len).sum();
                let index = out.iter().position(|o| {
                    o.1.len() + o.2.len() == chain.len() && seen.iter().zip(&o.1).all(|(s, b)| s.as_slice() == &shadow[b.offset..b.offset + b.len as usize])
                        && o.2.iter().map(|b| b.len).sum::<u32>() == posted && o.1.len() == seen.len()
                        && o.1.iter().chain(&o.2).zip(&chain).all(|(b, d)| b.len == d.len)
                });
                prop_assert!(index.is_some(), "the device saw bytes that were not posted");
                let share = out[index.unwrap()].3.share;
                let written = (u64::from(posted) * u64::from(share) / 255) as u32;
                bench.device.complete(u32::from(head), written);
                let done = bench.ring.take(&mut mapper).unwrap().unwrap();
                prop_assert_eq!(done.written, written);
                let at = out.iter().position(|o| o.0 == done.token);
                prop_assert!(at.is_some(), "a token comes back once");
                let (_, _, writable, _) = out.swap_remove(at.unwrap());
                let mut left = written as usize;
                for buffer in writable {
                    let part = left.min(buffer.len as usize);
                    shadow[buffer.offset..buffer.offset + part].fill(0xd0 | (pick as u8 & 15));
                    left -= part;
                }
                prop_assert!(mapper.private() == &shadow[..], "bytes outside of the written part changed");
                prop_assert!(bench.ring.is_conserved());
            }
            seed = seed.rotate_left(1) ^ 0x9e37;
        }
        prop_assert_eq!(mapper.free_blocks(), mapper.blocks());
        prop_assert_eq!(bench.ring.free(), 16);
    }
}
