//! No two queues of a device share lines that either of them writes: in memory that the device sees, and in private memory.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ironring_common::apart::{self, APART_BYTES, share};
use ironring_common::doorbell::Supervisor;
use ironring_common::features::{Feature, Negotiated, Offered, Supported, negotiate};
use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::mapping::Pages;
use ironring_common::shm::words::Words;

use super::bringup::Maker;
use super::pair::QueuePair;
use crate::arena::{Arena, ArenaShape, QueueMemory, RingAreas};
use crate::queue::RingLayout;
use crate::queue::violation::Latch;

const PAIRS: u16 = 5;
const SIZES: [u16; 3] = [2, 64, 256];
const LAYOUTS: [RingLayout; 2] = [RingLayout::Split, RingLayout::Packed];

/// Every feature that gives a queue more memory.
fn negotiated() -> Negotiated {
    let wanted = Supported::none().require(Feature::Version1).with(Feature::IndirectDesc).with(Feature::InOrder);
    negotiate(Offered(u64::MAX), wanted).unwrap()
}

fn arena(layout: RingLayout, size: u16) -> (Arena, QueueSize) {
    let queue_size = QueueSize::split(size).unwrap();
    // Slots of no round size, so that what follows them is where it is for a reason.
    let shape = ArenaShape {
        queue_size,
        pairs: PAIRS,
        slot_bytes: 1527,
        layout,
        table_entries: 2,
        pages: Pages::Normal,
        shared_slots: false,
    };
    (Arena::create(shape).unwrap(), queue_size)
}

/// Panics if any two of the queues share lines.
fn assert_apart(queues: &[Vec<Range<usize>>], what: &str) {
    for (at, queue) in queues.iter().enumerate() {
        for (other_at, other) in queues.iter().enumerate().skip(at + 1) {
            for (one, two) in queue.iter().flat_map(|one| other.iter().map(move |two| (one, two))) {
                assert!(!share(one, two), "{what}: queues {at} and {other_at} share lines at {one:x?} and {two:x?}");
            }
        }
    }
}

/// The parts of a queue, as addresses of the device. Its slots are parts too.
fn shared_parts(memory: &QueueMemory) -> Vec<Range<usize>> {
    let at = memory.addresses;
    let lens = match &memory.areas {
        RingAreas::Split(areas) => [areas.desc.len(), areas.avail.len(), areas.used.len()],
        RingAreas::Packed(areas) => [areas.ring.len(), areas.driver_event.len(), areas.device_event.len()],
    };
    let of = |addr: GuestAddr, len: usize| {
        let start = usize::try_from(addr.0).unwrap();
        start..start + len
    };
    let mut parts: Vec<_> =
        [at.desc, at.avail, at.used].into_iter().zip(lens).map(|(addr, len)| of(addr, len)).collect();
    parts.extend(memory.tables.as_ref().map(|tables| of(tables.base, tables.words.len())));
    parts.push(of(memory.slots_base(), memory.slots.len()));
    parts
}

#[test]
fn no_two_queues_share_lines_of_shared_memory() {
    for (layout, size) in LAYOUTS.into_iter().flat_map(|layout| SIZES.map(|size| (layout, size))) {
        let (arena, _) = arena(layout, size);
        let queues: Vec<_> = (0..2 * PAIRS).map(|queue| shared_parts(arena.queue(queue).unwrap())).collect();
        assert_apart(&queues, &format!("{layout:?} of {size}"));
        // So do the parts of one queue, some of which have different writers.
        for parts in &queues {
            assert_apart(&parts.iter().map(|part| vec![part.clone()]).collect::<Vec<_>>(), "one queue");
        }
        // What is apart by the addresses of the device is apart in the mapping.
        let first = match &arena.queue(0).unwrap().areas {
            RingAreas::Split(areas) => &areas.desc,
            RingAreas::Packed(areas) => &areas.ring,
        };
        assert!(first.is_aligned(0, APART_BYTES));
    }
}

/// All private memory of a queue, of the queues themselves to lists and scratch.
fn private(pair: &QueuePair) -> [Vec<Range<usize>>; 2] {
    let mut lines = [Vec::new(), Vec::new()];
    pair.rx.lines(&mut lines[0]);
    pair.tx.lines(&mut lines[1]);
    lines
}

#[test]
fn no_two_queues_share_lines_of_private_memory() {
    for (layout, size) in LAYOUTS.into_iter().flat_map(|layout| SIZES.map(|size| (layout, size))) {
        let (arena, queue_size) = arena(layout, size);
        let (latch, supervisor) = (Latch::new(), Some(Supervisor::start(|| true).unwrap()));
        let (negotiated, frame_max) = (negotiated(), 1514);
        let maker = Maker { arena: &arena, queue_size, negotiated, frame_max, latch: &latch, supervisor: &supervisor };
        let pairs: Vec<_> = (0..PAIRS).map(|pair| maker.pair(pair, Duration::ZERO).unwrap()).collect();
        let mut queues: Vec<_> = pairs.iter().flat_map(private).collect();
        assert!(
            queues.chunks(2).all(|pair| matches!(pair, [rx, tx] if rx.len() >= 4 && tx.len() >= 3)),
            "the queue, its records and free descriptors, and the scratch of one that receives"
        );
        // What all of them look at is written by none.
        queues.push(vec![apart::lines(&*latch)]);
        assert_apart(&queues, &format!("{layout:?} of {size}"));
        assert_eq!(Arc::strong_count(&latch), 1 + 4 * usize::from(PAIRS), "a ring and a kick of each queue look at it");
    }
}
