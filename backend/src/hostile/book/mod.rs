//! What an attacker on the device's side keeps in mind about one ring, of either layout.
//!
//! Which chains were posted and are not completed, and [which words](struck) of descriptors were struck. The places of a
//! ring are the descriptors of its table, or the slots of a packed ring; a chain is known by the place where it begins.

mod admit;
mod struck;

use ironring_common::index::{DescId, GuestAddr, PackedPosition, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::table::RegionTable;
use ironring_common::spec::split::{DESC_F_WRITE, UsedElem};

pub(super) use self::struck::Life;
use self::struck::{Struck, TableStrike};
use super::catalogue::{PACKED, SPLIT};
use super::words::{self, Fields};
use crate::vring::hook::{Parts, RingMemory};

/// One ring, as the attacker knows it.
#[derive(Debug)]
pub(super) struct Book {
    /// The number of its queue.
    pub(super) queue: usize,
    pub(super) size: QueueSize,
    /// The descriptors, or the slots.
    pub(super) table: Area,
    /// Where addresses lead.
    pub(super) memory: RegionTable,
    rest: Rest,
    places: Vec<Place>,
    /// Who has what chains are given back by: heads, or in a packed ring the ids that drivers choose.
    ids: Vec<Owner>,
    /// How many words are struck now.
    struck: usize,
    /// Words of indirect tables that are struck now.
    in_tables: Vec<TableStrike>,
    /// Chains noted so far.
    chains: u64,
    /// Bursts completed so far.
    pub(super) bursts: u64,
    /// What an honest device says of the chains of the burst at hand.
    pub(super) burst: Vec<UsedElem>,
    /// Whether to note what buffers hold when they are posted.
    pub(super) keeps_bytes: bool,
    /// Where the chain begins whose completion is being written.
    pub(super) completing: Option<DescId>,
    /// Whether the device may be walking chains of a packed ring. A driver may add slots meanwhile that the device walks
    /// without a look from here, so nothing may be struck that is not posted.
    pub(super) walking: bool,
}

/// What a ring has besides its descriptors, and up to where chains were noted.
#[derive(Debug)]
enum Rest {
    Split { avail: Area, cursor: u16 },
    Packed { cursor: PackedPosition },
}

/// A chain that the driver posted.
#[derive(Clone, Debug, Default)]
pub(super) struct Posted {
    /// Its places, the first one first. A chain in a table has one.
    pub(super) ids: Vec<DescId>,
    /// What it is given back by.
    pub(super) id: u16,
    /// The readable ones of its places, which come first.
    pub(super) readable: usize,
    /// Writable bytes in all.
    pub(super) writable_len: u64,
    /// The first writable buffer, or the first one at all if none is writable.
    pub(super) buffer: (GuestAddr, u32),
    /// The first readable buffer.
    pub(super) source: Option<(GuestAddr, u32)>,
    /// Its indirect table, and how many entries that has.
    pub(super) table: Option<(GuestAddr, u16)>,
    /// What its first writable buffer held, if that is noted.
    pub(super) before: Vec<u8>,
    /// When it was posted, counted in chains.
    age: u64,
}

/// Who may do what with a descriptor, as far as the device can see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Owner {
    /// It was never posted.
    #[default]
    Never,
    /// It is posted and not completed.
    Device,
    /// It was completed. The driver may be about to post it again.
    Driver,
}

#[derive(Clone, Debug, Default)]
struct Place {
    owner: Owner,
    /// If a posted chain begins here: that.
    chain: Option<Posted>,
    /// By the index of the word.
    struck: [Option<Struck>; 2],
}

impl Book {
    pub(super) fn new(ring: &RingMemory<'_>) -> Self {
        let (table, rest) = match ring.parts {
            Parts::Split { desc, avail, next_avail, .. } => {
                (desc, Rest::Split { avail: avail.clone(), cursor: next_avail })
            }
            Parts::Packed { ring, next_avail, .. } => (ring, Rest::Packed { cursor: next_avail }),
        };
        Self {
            queue: ring.queue,
            size: ring.size,
            table: table.clone(),
            memory: ring.memory.clone(),
            rest,
            places: vec![Place::default(); usize::from(ring.size.get())],
            ids: vec![Owner::default(); usize::from(ring.size.get())],
            struck: 0,
            in_tables: Vec::new(),
            chains: 0,
            bursts: 0,
            burst: Vec::new(),
            keeps_bytes: false,
            completing: None,
            walking: false,
        }
    }

    pub(super) const fn is_packed(&self) -> bool {
        matches!(self.rest, Rest::Packed { .. })
    }

    /// The layout, as catalogue rows name it.
    pub(super) const fn layout(&self) -> &'static str {
        if self.is_packed() { PACKED } else { SPLIT }
    }

    /// The slot of a packed ring behind the last chain that was noted.
    pub(super) const fn packed_cursor(&self) -> Option<PackedPosition> {
        match self.rest {
            Rest::Packed { cursor } => Some(cursor),
            Rest::Split { .. } => None,
        }
    }

    /// Notes that chains were completed and published.
    pub(super) fn release(&mut self, heads: &[DescId]) {
        for head in heads {
            let chain = self.places.get_mut(head.index()).and_then(|place| place.chain.take());
            for id in chain.iter().flat_map(|chain| &chain.ids) {
                if let Some(place) = self.places.get_mut(id.index()) {
                    place.owner = Owner::Driver;
                }
            }
            if let Some(owner) = chain.and_then(|chain| self.ids.get_mut(usize::from(chain.id))) {
                *owner = Owner::Driver;
            }
        }
        self.bursts = self.bursts.wrapping_add(1);
        self.burst.clear();
    }

    /// The chain that begins at a place, while it is posted.
    pub(super) fn chain(&self, head: DescId) -> Option<&Posted> {
        self.places.get(head.index())?.chain.as_ref()
    }

    /// The chain whose completion is being written.
    pub(super) fn completing(&self) -> Option<&Posted> {
        self.chain(self.completing?)
    }

    /// The chain that will stay in flight longest, not one of `burst`, and where it begins.
    pub(super) fn in_flight(&self, burst: &[DescId]) -> Option<(DescId, &Posted)> {
        self.every_id()
            .filter(|id| !burst.contains(id))
            .filter_map(|id| Some((id, self.chain(id)?)))
            .max_by_key(|(_, chain)| chain.age)
    }

    /// How many chains are posted and not completed.
    pub(super) fn posted(&self) -> usize {
        self.places.iter().filter(|place| place.chain.is_some()).count()
    }

    /// Every place of the ring.
    pub(super) fn every_id(&self) -> impl Iterator<Item = DescId> + use<> {
        let size = self.size;
        (0..size.get()).filter_map(move |id| DescId::below(id, size))
    }

    /// Whether the device has a place.
    pub(super) fn is_posted(&self, id: DescId) -> bool {
        self.places.get(id.index()).is_some_and(|place| place.owner == Owner::Device)
    }

    /// Whether a place was never posted.
    pub(super) fn is_untouched(&self, id: DescId) -> bool {
        self.places.get(id.index()).is_some_and(|place| place.owner == Owner::Never)
    }

    /// What no outstanding chain is given back by: descriptors or ids that were never posted, else those that were completed
    /// and that the driver has not made available again by now.
    pub(super) fn not_outstanding(&mut self) -> Vec<DescId> {
        let again = self.newer();
        let packed = self.is_packed();
        let owner = |id: DescId| {
            let place = self.places.get(id.index()).map_or(Owner::Never, |place| place.owner);
            if packed { self.ids.get(id.index()).copied().unwrap_or_default() } else { place }
        };
        let of = |wanted| -> Vec<_> {
            self.every_id().filter(|id| owner(*id) == wanted && !again.contains(&id.get())).collect()
        };
        let never = of(Owner::Never);
        if never.is_empty() { of(Owner::Driver) } else { never }
    }

    /// A place as it stands.
    pub(super) fn fields(&self, id: DescId) -> Fields {
        Fields::from_word(words::load(&self.table, id, words::Word::Rest), self.is_packed())
    }
}

impl Posted {
    /// Notes a place of the ring that holds a buffer.
    fn push_place(&mut self, id: DescId, addr: u64, fields: Fields) {
        self.ids.push(id);
        if fields.flags & DESC_F_WRITE == 0 {
            self.readable = self.ids.len();
        }
        self.push_buffer(addr, fields);
    }

    fn push_buffer(&mut self, addr: u64, fields: Fields) {
        let writable = fields.flags & DESC_F_WRITE != 0;
        let buffer = (GuestAddr(addr), fields.len);
        if (self.buffer == (GuestAddr(0), 0)) || (writable && self.writable_len == 0) {
            self.buffer = buffer;
        }
        if writable {
            self.writable_len = self.writable_len.saturating_add(u64::from(fields.len));
        } else if self.source.is_none() {
            self.source = Some(buffer);
        }
    }

    /// The last place.
    pub(super) fn tail(&self) -> Option<DescId> {
        self.ids.last().copied()
    }

    /// The first writable place, or else the head.
    pub(super) fn writable_or_head(&self) -> Option<DescId> {
        self.ids.get(self.readable).or_else(|| self.ids.first()).copied()
    }
}
