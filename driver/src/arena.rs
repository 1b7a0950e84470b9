//! The shared memory of a device, split by who writes it.
//!
//! Two sealed memfds. *Ours* holds descriptor tables, available rings, indirect tables, the driver's event areas and transmit
//! slots: the device only reads them. *Theirs* holds used rings, packed rings, the device's event areas and receive slots:
//! the device writes them. Slots that the two queues of a pair share are *theirs*. Nothing private lives in either: no free list, no token, no pointer. The addresses that the
//! device knows are synthetic.
//!
//! Everything is made anew for every epoch: a device that was left behind keeps its mapping of the old memory and may
//! write it for ever, without effect.

use std::os::fd::AsFd;
use std::sync::Arc;

use ironring_common::apart::APART_BYTES;
use ironring_common::error::{Misuse, OsError};
use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd, Pages};
use ironring_common::shm::view::Ours;
use ironring_common::shm::words::Words;
use ironring_common::spec::{net, packed, split};

use crate::mapper::slots::FixedSlots;
use crate::queue::packed::PackedAreas;
use crate::queue::split::SplitAreas;
use crate::queue::{RingLayout, Tables};
use crate::transport::{Region as SharedRegion, RingAddresses};

/// What an arena has room for.
#[derive(Clone, Copy, Debug)]
pub struct ArenaShape {
    /// Descriptors of every queue, and so slots.
    pub queue_size: QueueSize,
    /// Queue pairs.
    pub pairs: u16,
    /// Bytes of a slot: net header and frame.
    pub slot_bytes: u32,
    /// The layout of every ring.
    pub layout: RingLayout,
    /// Descriptors of the indirect table that each descriptor of a transmit queue has; 0 for no tables.
    pub table_entries: u16,
    /// The pages that all of it is made of.
    pub pages: Pages,
    /// Whether the queues of a pair share their slots: those of the receive queue, which the device writes.
    pub shared_slots: bool,
}

/// The memory of one device, for one epoch.
#[derive(Debug)]
pub struct Arena {
    ours: Region,
    theirs: Region,
    queues: Vec<QueueMemory>,
}

/// One memfd, its mapping, and the address at which the device is told to find it.
#[derive(Debug)]
struct Region {
    memfd: Memfd,
    mapping: Arc<Mapping>,
    base: GuestAddr,
}

/// The memory of one virtqueue.
#[derive(Clone, Debug)]
pub struct QueueMemory {
    /// The ring, to be read and written here.
    pub areas: RingAreas,
    /// The ring, as the device is told.
    pub addresses: RingAddresses,
    /// The indirect tables, if the queue has any.
    pub tables: Option<Tables<Area>>,
    /// The slots, to be read or written here.
    pub slots: Area,
    /// The slots, as descriptors say them.
    pub mapper: FixedSlots,
}

/// The memory of a ring of either layout.
#[derive(Clone, Debug)]
pub enum RingAreas {
    /// Descriptor table, available ring, used ring.
    Split(SplitAreas<Area>),
    /// Slots and two event areas.
    Packed(PackedAreas<Area>),
}

impl RingAreas {
    /// Zeroes everything in them, for a ring that begins anew over memory which had another.
    pub(crate) fn scrub(&self) {
        let areas = match self {
            Self::Split(SplitAreas { desc, avail, used }) => [desc, avail, used],
            Self::Packed(PackedAreas { ring, driver_event, device_event }) => [ring, driver_event, device_event],
        };
        areas.into_iter().for_each(|area| Ours::new(area.clone()).zero(0, area.len()));
    }
}

/// Why there is no arena.
#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    /// The shape cannot be.
    #[error(transparent)]
    Misuse(#[from] Misuse),
    /// The system has no memory for it.
    #[error(transparent)]
    Os(#[from] OsError),
}

impl Arena {
    /// Makes fresh memory. All of it is zero.
    ///
    /// # Errors
    /// [`ArenaError`]. Nothing stays behind.
    pub fn create(shape: ArenaShape) -> Result<Self, ArenaError> {
        let ArenaShape { pairs, slot_bytes, .. } = shape;
        if shape.layout == RingLayout::Split && !shape.queue_size.is_split() {
            return Err(Misuse::QueueSize { size: shape.queue_size.get() }.into());
        }
        let impossible = Misuse::ArenaShape { pairs, slot_bytes };
        let queues = pairs.checked_mul(2).filter(|_| (1..=SLOT_BYTES_MAX).contains(&slot_bytes)).ok_or(impossible)?;
        let mut ours = Carver::default();
        let mut theirs = Carver::default();
        let mut plans: Vec<Plan> = Vec::with_capacity(queues.into());
        for queue in 0..queues {
            // The receive queue of the pair, if this is its transmit queue.
            let other = plans.last().filter(|_| shape.shared_slots && queue % 2 == 1).map(|plan| plan.slots);
            plans.push(plan_queue(shape, queue, other, &mut ours, &mut theirs));
        }
        let fits = |region: &Carver| u64::try_from(region.next).is_ok_and(|bytes| bytes <= REGION_BYTES_MAX);
        if !fits(&ours) || !fits(&theirs) {
            return Err(impossible.into());
        }
        let ours = Region::create("ironring-ours", ours.next, shape.pages, OURS_BASE)?;
        let theirs = Region::create("ironring-theirs", theirs.next, shape.pages, THEIRS_BASE)?;
        let queues = plans.iter().map(|plan| plan.carve(shape, &ours, &theirs)).collect::<Result<_, Misuse>>()?;
        Ok(Self { ours, theirs, queues })
    }

    /// The regions to share, in ascending order of their addresses.
    #[must_use]
    pub fn regions(&self) -> [SharedRegion<'_>; 2] {
        [self.ours.shared(), self.theirs.shared()]
    }

    /// The memory of a virtqueue: even ones receive, odd ones transmit (5.1.2).
    #[must_use]
    pub fn queue(&self, index: u16) -> Option<&QueueMemory> {
        self.queues.get(usize::from(index))
    }

    /// All bytes that the device can see.
    #[must_use]
    pub fn shared_bytes(&self) -> usize {
        self.ours.memfd.len().saturating_add(self.theirs.memfd.len())
    }
}

impl Region {
    fn create(name: &str, len: usize, pages: Pages, base: GuestAddr) -> Result<Self, OsError> {
        let memfd = Memfd::of_pages(name, len, pages)?;
        let mapping = Mapping::of(&memfd)?;
        Ok(Self { memfd, mapping, base })
    }

    fn shared(&self) -> SharedRegion<'_> {
        SharedRegion {
            start: self.base,
            len: u64::try_from(self.memfd.len()).unwrap_or(u64::MAX),
            fd: self.memfd.as_fd(),
        }
    }

    fn addr(&self, offset: usize) -> GuestAddr {
        GuestAddr(self.base.0.saturating_add(u64::try_from(offset).unwrap_or(u64::MAX)))
    }
}

/// Offsets of one queue's parts in the two regions.
#[derive(Debug)]
struct Plan {
    ring: RingPlan,
    tables: Option<usize>,
    slots: SlotsPlan,
    stride: u32,
}

/// Where slots begin, and in which region.
#[derive(Clone, Copy, Debug)]
struct SlotsPlan {
    at: usize,
    are_ours: bool,
}

#[derive(Debug)]
enum RingPlan {
    Split { desc: usize, avail: usize, used: usize },
    Packed { ring: usize, driver_event: usize, device_event: usize },
}

/// With slots of its own, unless it has those of an`other` queue.
fn plan_queue(shape: ArenaShape, queue: u16, other: Option<SlotsPlan>, ours: &mut Carver, theirs: &mut Carver) -> Plan {
    let size = shape.queue_size;
    let ring = match shape.layout {
        RingLayout::Split => RingPlan::Split {
            desc: ours.take(split::desc_bytes(size), 0),
            // Four bytes before other lines: index and flags in one, the entries or elements from the start of the next.
            // For the used ring this also puts every element on 8 bytes, so that it is one word.
            avail: ours.take(split::avail_bytes(size), APART_BYTES.saturating_sub(split::AVAIL_RING)),
            used: theirs.take(split::used_bytes(size), APART_BYTES.saturating_sub(split::USED_RING)),
        },
        RingLayout::Packed => RingPlan::Packed {
            ring: theirs.take(packed::ring_bytes(size), 0),
            driver_event: ours.take(packed::EVENT_BYTES, 0),
            device_event: theirs.take(packed::EVENT_BYTES, 0),
        },
    };
    let is_transmit = queue % 2 == 1;
    let tables = (is_transmit && shape.table_entries > 0).then(|| ours.take(table_bytes(shape), 0));
    let stride = stride_of(shape.slot_bytes);
    let slot_bytes = usize::from(size.get()).saturating_mul(usize::try_from(stride).unwrap_or(usize::MAX));
    let slots = other.unwrap_or_else(|| {
        let region = if is_transmit { ours } else { theirs };
        SlotsPlan { at: region.take(slot_bytes, SLOT_SKEW), are_ours: is_transmit }
    });
    Plan { ring, tables, slots, stride }
}

impl Plan {
    fn carve(&self, shape: ArenaShape, ours: &Region, theirs: &Region) -> Result<QueueMemory, Misuse> {
        let size = shape.queue_size;
        let slots_in = if self.slots.are_ours { ours } else { theirs };
        let slot_bytes = usize::from(size.get()).saturating_mul(usize::try_from(self.stride).unwrap_or(usize::MAX));
        let (areas, addresses) = self.ring.carve(size, ours, theirs)?;
        let tables = self.tables.map(|at| -> Result<_, Misuse> {
            let words = ours.mapping.area(at, table_bytes(shape))?;
            Ok(Tables { words, base: ours.addr(at), entries: shape.table_entries })
        });
        Ok(QueueMemory {
            areas,
            addresses,
            tables: tables.transpose()?,
            slots: slots_in.mapping.area(self.slots.at, slot_bytes)?,
            mapper: FixedSlots::new(slots_in.addr(self.slots.at), self.stride, shape.slot_bytes).scattered(size),
        })
    }
}

impl RingPlan {
    fn carve(&self, size: QueueSize, ours: &Region, theirs: &Region) -> Result<(RingAreas, RingAddresses), Misuse> {
        Ok(match *self {
            Self::Split { desc, avail, used } => {
                let areas = SplitAreas {
                    desc: ours.mapping.area(desc, split::desc_bytes(size))?,
                    avail: ours.mapping.area(avail, split::avail_bytes(size))?,
                    used: theirs.mapping.area(used, split::used_bytes(size))?,
                };
                let (desc, avail, used) = (ours.addr(desc), ours.addr(avail), theirs.addr(used));
                (RingAreas::Split(areas), RingAddresses { size: size.get(), desc, avail, used })
            }
            Self::Packed { ring, driver_event, device_event } => {
                let areas = PackedAreas {
                    ring: theirs.mapping.area(ring, packed::ring_bytes(size))?,
                    driver_event: ours.mapping.area(driver_event, packed::EVENT_BYTES)?,
                    device_event: theirs.mapping.area(device_event, packed::EVENT_BYTES)?,
                };
                let (desc, avail, used) = (theirs.addr(ring), ours.addr(driver_event), theirs.addr(device_event));
                (RingAreas::Packed(areas), RingAddresses { size: size.get(), desc, avail, used })
            }
        })
    }
}

/// Bytes of the tables of one queue.
fn table_bytes(shape: ArenaShape) -> usize {
    // At most 32768 tables of 65535 descriptors of 16 bytes: far from overflow.
    let tables = usize::from(shape.queue_size.get());
    tables.saturating_mul(usize::from(shape.table_entries)).saturating_mul(split::DESC_BYTES)
}

/// Cuts a region into parts that lie [apart](ironring_common::apart): each begins on lines of its own, plus an offset.
#[derive(Debug, Default)]
struct Carver {
    next: usize,
}

impl Carver {
    fn take(&mut self, len: usize, skew: usize) -> usize {
        let start = self.next.next_multiple_of(APART_BYTES).saturating_add(skew);
        self.next = start.saturating_add(len);
        start
    }
}

/// Lines come in pairs, as some processors fetch them; one pair is added so that slots are not a power of two apart, where equal
/// offsets of all slots would compete for the same sets of the cache.
fn stride_of(slot_bytes: u32) -> u32 {
    slot_bytes.next_multiple_of(128).saturating_add(128)
}

const LINE_BYTES: usize = 64;
/// Slots begin so far into a line that the frame behind the net header begins the next one. The header of most frames is that of
/// the frame before, so its line is written by nobody and stays in both caches; a short frame then moves one line, not two.
const SLOT_SKEW: usize = LINE_BYTES - net::HDR_BYTES;
/// Where the device finds what we write. Any two disjoint ranges would do; these are no addresses of this process.
const OURS_BASE: GuestAddr = GuestAddr(0x1_0000_0000);
/// Where the device finds what it writes.
const THEIRS_BASE: GuestAddr = GuestAddr(0x2_0000_0000);
/// So much that what we write ends before what it writes begins.
const REGION_BYTES_MAX: u64 = THEIRS_BASE.0 - OURS_BASE.0;
/// No frame is longer, and its stride cannot wrap.
const SLOT_BYTES_MAX: u32 = 65535;

#[cfg(test)]
mod tests {
    use super::*;
    use ironring_common::shm::words::Words;

    const SPLIT: ArenaShape = ArenaShape {
        queue_size: match QueueSize::split(256) {
            Ok(size) => size,
            Err(_) => unreachable!(),
        },
        pairs: 1,
        slot_bytes: 2048,
        layout: RingLayout::Split,
        table_entries: 2,
        pages: Pages::Normal,
        shared_slots: false,
    };

    fn arena(queue_size: u16, layout: RingLayout) -> Arena {
        let queue_size = QueueSize::packed(queue_size).unwrap();
        Arena::create(ArenaShape { queue_size, layout, ..SPLIT }).unwrap()
    }

    fn parts(memory: &QueueMemory) -> Vec<(GuestAddr, usize, bool)> {
        let a = memory.addresses;
        let mut parts = match &memory.areas {
            RingAreas::Split(s) => {
                vec![(a.desc, s.desc.len(), true), (a.avail, s.avail.len(), true), (a.used, s.used.len(), false)]
            }
            RingAreas::Packed(p) => vec![
                (a.desc, p.ring.len(), false),
                (a.avail, p.driver_event.len(), true),
                (a.used, p.device_event.len(), false),
            ],
        };
        parts.extend(memory.tables.as_ref().map(|tables| (tables.base, tables.words.len(), true)));
        parts
    }

    #[test]
    fn parts_do_not_overlap_and_lie_in_the_region_of_their_writer() {
        let split = [1, 2, 64, 256, 1024].map(|size| (size, RingLayout::Split));
        let packed = [1, 3, 64, 1000].map(|size| (size, RingLayout::Packed));
        for (size, layout) in split.into_iter().chain(packed) {
            let arena = arena(size, layout);
            let mut all = Vec::new();
            for queue in 0..2 {
                let memory = arena.queue(queue).unwrap();
                let mut parts = parts(memory);
                assert_eq!(memory.tables.is_some(), queue == 1, "only transmit queues have tables");
                parts.push((memory.slots_base(), memory.slots.len(), queue == 1));
                for (addr, len, ours) in parts {
                    assert_eq!(addr < THEIRS_BASE, ours, "{addr:?} {len}");
                    all.push((addr.0, len as u64));
                }
            }
            all.sort_unstable();
            for pair in all.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
            }
        }
    }

    /// And nothing else of them.
    #[test]
    fn queues_of_a_pair_can_share_their_slots() {
        for layout in [RingLayout::Split, RingLayout::Packed] {
            let queue_size = QueueSize::split(8).unwrap();
            let arena =
                Arena::create(ArenaShape { queue_size, layout, pairs: 2, shared_slots: true, ..SPLIT }).unwrap();
            let bases: Vec<_> = (0..4).map(|queue| arena.queue(queue).unwrap().slots_base()).collect();
            assert!(bases[0] == bases[1] && bases[2] == bases[3] && bases[0] < bases[2], "{bases:x?}");
            assert!(bases.iter().all(|base| *base > THEIRS_BASE), "the device writes them");
            let of = |queue| arena.queue(queue).unwrap().addresses;
            assert_ne!(of(0).desc, of(1).desc);
            arena.queue(0).unwrap().slots.store_u32(0, 7);
            assert_eq!(arena.queue(1).unwrap().slots.load_u32(0), 7);
        }
    }

    #[test]
    fn shapes_that_cannot_be_are_refused() {
        let make = |queue_size, pairs, slot_bytes| {
            let queue_size = QueueSize::split(queue_size).unwrap();
            Arena::create(ArenaShape { queue_size, pairs, slot_bytes, ..SPLIT }).map(|_| ())
        };
        make(2, 3, 65535).unwrap();
        for (queue_size, pairs, slot_bytes) in
            [(2, 1, 0), (2, 1, 65536), (2, 1, u32::MAX), (2, 40_000, 64), (32768, 3, 65535)]
        {
            let error = make(queue_size, pairs, slot_bytes).unwrap_err();
            assert!(matches!(error, ArenaError::Misuse(Misuse::ArenaShape { .. })), "{error}");
        }
    }

    #[test]
    fn a_split_ring_of_three_is_refused() {
        let queue_size = QueueSize::packed(3).unwrap();
        let error = Arena::create(ArenaShape { queue_size, ..SPLIT }).unwrap_err();
        assert!(matches!(error, ArenaError::Misuse(Misuse::QueueSize { size: 3 })), "{error}");
    }

    #[test]
    fn used_elements_and_slots_are_words() {
        let split = arena(256, RingLayout::Split);
        let RingAreas::Split(areas) = &split.queue(0).unwrap().areas else { panic!("it is split") };
        assert!(areas.used.is_aligned(split::USED_RING, 8) && areas.desc.is_aligned(0, 16));
        let packed = arena(3, RingLayout::Packed);
        let RingAreas::Packed(areas) = &packed.queue(1).unwrap().areas else { panic!("it is packed") };
        assert!(
            areas.ring.is_aligned(0, 16) && areas.driver_event.is_aligned(0, 4) && areas.device_event.is_aligned(0, 4)
        );
        assert!(packed.queue(1).unwrap().tables.as_ref().unwrap().words.is_aligned(0, 16));
    }

    /// And the header before it ends the line before, in the same pair.
    #[test]
    fn every_frame_begins_on_a_line() {
        for (layout, slot_bytes) in [(RingLayout::Split, 76), (RingLayout::Packed, 1526), (RingLayout::Split, 2048)] {
            let queue_size = QueueSize::split(64).unwrap();
            let arena = Arena::create(ArenaShape { queue_size, layout, slot_bytes, ..SPLIT }).unwrap();
            for queue in 0..2 {
                let memory = arena.queue(queue).unwrap();
                for id in (0..64).filter_map(|id| ironring_common::index::DescId::below(id, queue_size)) {
                    let header = memory.mapper.addr(id).0;
                    assert_eq!((header + net::HDR_BYTES as u64) % 128, 64, "{layout:?} {slot_bytes} {queue}");
                    let end = memory.mapper.offset(id) + slot_bytes as usize;
                    assert!(end <= memory.slots.len());
                }
            }
        }
    }

    #[test]
    fn every_epoch_has_memory_of_its_own() {
        let (old, new) = (arena(2, RingLayout::Split), arena(2, RingLayout::Split));
        old.queue(0).unwrap().slots.store_u32(0, 7);
        assert_eq!(new.queue(0).unwrap().slots.load_u32(0), 0);
    }

    impl QueueMemory {
        pub(crate) fn slots_base(&self) -> GuestAddr {
            use crate::mapper::{Direction, Mapper, slots::SlotPart};
            let first = ironring_common::index::DescId::below(0, QueueSize::split(1).unwrap()).unwrap();
            self.mapper.clone().map(first, &SlotPart::first(1), Direction::ToDevice).unwrap().addr
        }
    }
}
