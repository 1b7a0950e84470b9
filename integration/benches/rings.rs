//! Micro-benchmarks of the ring operations: `cargo bench -p ironring-integration`, a part of them by name
//! (`cargo bench -p ironring-integration -- split/post_slots`), quickly with `-- --quick`.
//!
//! One thread has both ends of a ring of 256 in one shared memory and steps them in turn, bursts of 32. Only the named part
//! of a round is timed; reading the clock twice counts too, which is some 50 ns a burst. No line ever travels to another
//! processor, so these are costs of code and not rates: for rates there is `ironring bench`, for a machine that others use
//! too `ci.sh bench-check`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use ironring_backend::vring::DeviceRing;
use ironring_backend::vring::chain::{Chain, Single};
use ironring_backend::vring::hook::NoHook;
use ironring_backend::vring::packed::PackedVring;
use ironring_backend::vring::split::SplitVring;
use ironring_common::index::{DescId, GuestAddr, PackedPosition, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::table::RegionTable;
use ironring_common::shm::words::Words;
use ironring_common::spec::{packed, split};
use ironring_driver::mapper::Direction;
use ironring_driver::mapper::slots::{FixedSlots, SlotPart};
use ironring_driver::queue::DriverRing;
use ironring_driver::queue::packed::{PackedAreas, PackedRing};
use ironring_driver::queue::slots::{SlotRing, Taken};
use ironring_driver::queue::split::{SplitAreas, SplitRing};
use ironring_driver::queue::violation::Latch;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    rings(&mut criterion, "split", split_pair);
    rings(&mut criterion, "packed", packed_pair);
    copies(&mut criterion);
    criterion.final_summary();
}

/// Every operation of a layout, each on a pair of its own.
fn rings<R, D>(criterion: &mut Criterion, layout: &str, pair: impl Fn() -> Pair<R, D>)
where
    R: DriverRing<()> + SlotRing,
    D: DeviceRing,
{
    let mut group = criterion.benchmark_group(layout);
    group.throughput(Throughput::Elements(BURST as u64));
    let mut bench = |part: Part, round: fn(&mut Pair<R, D>, &mut Watch)| {
        group.bench_function(part.name(), |bencher| {
            let mut pair = pair();
            if part == Part::Exchange {
                pair.lend_all();
            } else {
                pair.driver.bind_slots(&pair.slots, Direction::ToDevice);
            }
            bencher.iter_custom(|rounds| {
                let mut watch = Watch { part, total: Duration::ZERO };
                (0..rounds).for_each(|_| round(&mut pair, &mut watch));
                watch.total
            });
        });
    };
    bench(Part::Add, Pair::chains);
    bench(Part::Walk, Pair::chains);
    bench(Part::Take, Pair::chains);
    bench(Part::Post, Pair::sent_slots);
    bench(Part::NextSingles, Pair::sent_slots);
    bench(Part::EndSingles, Pair::sent_slots);
    bench(Part::TakeSlots, Pair::sent_slots);
    bench(Part::Exchange, Pair::received_slots);
}

/// Copies of a burst of frames into shared memory and out of it, from slot to slot as the queues do it.
fn copies(criterion: &mut Criterion) {
    let memfd = Memfd::create("ironring-bench", usize::from(SIZE) * STRIDE).unwrap();
    let shared = Mapping::of(&memfd).unwrap().area(0, memfd.len()).unwrap();
    let size = QueueSize::split(SIZE).unwrap();
    let slots = slots(0, size);
    let places: Vec<_> = (0..SIZE).map(|id| slots.offset(DescId::below(id, size).unwrap())).collect();
    for bytes in [64, 512, 1518] {
        let mut private = vec![0u8; 2 << 20];
        let mut group = criterion.benchmark_group("copy");
        group.throughput(Throughput::Bytes((BURST * bytes) as u64));
        let mut next = places.chunks_exact(BURST).cycle();
        group.bench_function(format!("in/{bytes}"), |bencher| {
            bencher.iter(|| {
                for (at, frame) in next.next().unwrap_or_default().iter().zip(private.chunks_exact(bytes)) {
                    shared.copy_in(*at, black_box(frame));
                }
            });
        });
        group.bench_function(format!("out/{bytes}"), |bencher| {
            bencher.iter(|| {
                for (at, frame) in next.next().unwrap_or_default().iter().zip(private.chunks_exact_mut(bytes)) {
                    shared.copy_out(*at, frame);
                    black_box(frame);
                }
            });
        });
    }
}

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Adding chains of one buffer, and showing them: the way of any chain.
    Add,
    /// The backend's walk over such chains, completing them, and showing that.
    Walk,
    /// Taking them back.
    Take,
    /// Posting slots, and showing them: the way of the network queues.
    Post,
    /// The backend's look at chains of one descriptor.
    NextSingles,
    /// Completing those, and showing that.
    EndSingles,
    /// Taking slots back.
    TakeSlots,
    /// Taking slots and posting them again, as a receive queue does.
    Exchange,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Walk => "walk",
            Self::Take => "take",
            Self::Post => "post_slots",
            Self::NextSingles => "next_singles",
            Self::EndSingles => "end_singles",
            Self::TakeSlots => "take_slots",
            Self::Exchange => "exchange_slots",
        }
    }
}

/// Sums up the time that one part takes.
struct Watch {
    part: Part,
    total: Duration,
}

impl Watch {
    #[inline(always)]
    fn over<T>(&mut self, part: Part, work: impl FnOnce() -> T) -> T {
        if part != self.part {
            return work();
        }
        let begun = Instant::now();
        let result = work();
        self.total += begun.elapsed();
        result
    }
}

/// Both ends of one ring.
struct Pair<R, D> {
    driver: R,
    device: D,
    slots: FixedSlots,
    memory: RegionTable,
    chain: Chain,
}

impl<R: DriverRing<()> + SlotRing, D: DeviceRing> Pair<R, D> {
    /// A round by the general ways.
    fn chains(&mut self, watch: &mut Watch) {
        let Self { driver, device, slots, chain, .. } = self;
        watch.over(Part::Add, || {
            for _ in 0..BURST {
                driver.add(slots, &[SlotPart::first(BYTES)], &[], ()).unwrap();
            }
            assert!(driver.publish());
        });
        watch.over(Part::Walk, || {
            device.poll().unwrap();
            while device.next_chain(chain).unwrap() {
                device.complete(&mut NoHook, chain.head(), 0);
            }
            device.publish(&mut NoHook);
        });
        let mut taken = 0;
        watch.over(Part::Take, || {
            while driver.take(slots).unwrap().is_some() {
                taken += 1;
            }
        });
        assert_eq!(taken, BURST);
    }

    /// A round of slots that the device reads.
    fn sent_slots(&mut self, watch: &mut Watch) {
        let driver = &mut self.driver;
        watch.over(Part::Post, || {
            let lens = std::iter::repeat_n(BYTES, BURST);
            driver.post_slots(Direction::ToDevice, BURST, lens, |head, _| _ = black_box(head));
            assert!(driver.publish());
        });
        self.serve::<false>(watch, 0);
        let driver = &mut self.driver;
        let taken = watch.over(Part::TakeSlots, || driver.take_slots(BURST, |done| _ = black_box(done)));
        assert_eq!(taken, Taken { count: BURST, broken: false });
    }

    /// A round of slots that the device writes; all are lent.
    fn received_slots(&mut self, watch: &mut Watch) {
        self.serve::<true>(watch, BYTES);
        let driver = &mut self.driver;
        let taken = watch.over(Part::Exchange, || {
            let taken = driver.exchange_slots(BURST, |done| _ = black_box(done));
            driver.publish();
            taken
        });
        assert_eq!(taken, Taken { count: BURST, broken: false });
    }

    /// The device serves a burst.
    fn serve<const FILLS: bool>(&mut self, watch: &mut Watch, written: u32) {
        let Self { device, memory, .. } = self;
        let mut singles = [Single::default(); BURST];
        let taken = watch.over(Part::NextSingles, || {
            device.poll().unwrap();
            device.next_singles::<FILLS>(&mut memory.hot(0), &mut singles, |buffer| buffer.len() >= BYTES as usize)
        });
        singles.iter_mut().for_each(|single| single.written = written);
        assert_eq!(usize::from(taken), BURST);
        watch.over(Part::EndSingles, || {
            device.end_singles::<_, FILLS>(&mut NoHook, &singles, &[]);
            device.publish(&mut NoHook);
        });
    }

    fn lend_all(&mut self) {
        let whole = std::iter::repeat(self.slots.len());
        self.driver.bind_slots(&self.slots, Direction::FromDevice);
        self.driver.post_slots(Direction::FromDevice, usize::MAX, whole, |_, _| {});
        self.driver.publish();
    }
}

fn split_pair() -> Pair<SplitRing<Area, ()>, SplitVring<Area>> {
    let size = QueueSize::split(SIZE).unwrap();
    // The elements of the used ring on a line of their own, as in the arena.
    let parts = [(0, split::desc_bytes(size)), (4096, split::avail_bytes(size)), (8192 + 60, split::used_bytes(size))];
    let ([desc, avail, used], [theirs_desc, theirs_avail, theirs_used]) = areas(parts);
    Pair {
        driver: SplitRing::new(0, size, SplitAreas { desc, avail, used }, Latch::new()).unwrap(),
        device: SplitVring::new(0, size, theirs_desc, theirs_avail, theirs_used, 0).unwrap(),
        slots: slots(SLOTS_AT, size),
        memory: memory(),
        chain: Chain::with_capacity(size),
    }
}

fn packed_pair() -> Pair<PackedRing<Area, ()>, PackedVring<Area>> {
    let size = QueueSize::packed(SIZE).unwrap();
    let parts = [(0, packed::ring_bytes(size)), (8192, packed::EVENT_BYTES), (8256, packed::EVENT_BYTES)];
    let ([ring, driver_event, device_event], [theirs, theirs_first, theirs_second]) = areas(parts);
    let start = PackedPosition::START.to_bits();
    let areas = PackedAreas { ring, driver_event, device_event };
    Pair {
        driver: PackedRing::new(0, size, areas, Latch::new()).unwrap(),
        device: PackedVring::new(0, size, theirs, theirs_first, theirs_second, start).unwrap(),
        slots: slots(SLOTS_AT, size),
        memory: memory(),
        chain: Chain::with_capacity(size),
    }
}

/// The parts of a ring in one shared memory, mapped by each side.
fn areas(parts: [(usize, usize); 3]) -> ([Area; 3], [Area; 3]) {
    let memfd = Memfd::create("ironring-bench", RING_BYTES).unwrap();
    let cut = |map: Arc<Mapping>| parts.map(|(at, bytes)| map.area(at, bytes).unwrap());
    (cut(Mapping::of(&memfd).unwrap()), cut(Mapping::of(&memfd).unwrap()))
}

/// Where the slots lie. Nobody touches them here: the device looks up where they are.
fn memory() -> RegionTable {
    let memfd = Memfd::create("ironring-bench", STRIDE * usize::from(SIZE)).unwrap();
    RegionTable::of_mappings([(GuestAddr(SLOTS_AT), Mapping::of(&memfd).unwrap())]).unwrap()
}

/// Slots as those of the network queues.
fn slots(at: u64, size: QueueSize) -> FixedSlots {
    FixedSlots::new(GuestAddr(at), STRIDE_BYTES, 2048).scattered(size)
}

/// Descriptors of a ring.
const SIZE: u16 = 256;
/// Chains in a round.
const BURST: usize = 32;
/// Bytes of a buffer: a frame of 64 bytes with its header.
const BYTES: u32 = 76;
/// Bytes from a slot to the next in memory, as in the arena.
const STRIDE_BYTES: u32 = 2176;
/// The same.
const STRIDE: usize = STRIDE_BYTES as usize;
/// Room for a ring.
const RING_BYTES: usize = 16384;
/// Where slots would be.
const SLOTS_AT: u64 = 0x10_0000;
