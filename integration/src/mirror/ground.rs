//! The memory of a hostile driver: rings of either layout in one piece, with buffers behind them, written without any care.

use std::os::fd::AsFd;
use std::sync::Arc;

use ironring_common::error::OsError;
use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{SlotRest, avail_flags};
use ironring_common::spec::split::{AVAIL_IDX, AVAIL_RING, Descriptor};
use ironring_driver::queue::RingLayout;
use ironring_driver::transport::{Region, RingAddresses};

/// The memory, and where what lies in it.
pub(super) struct Ground {
    memfd: Memfd,
    pub(super) whole: Area,
    pub(super) map: Arc<Mapping>,
    pub(super) layout: RingLayout,
}

/// A buffer as a driver names it: address, length, flags, and what it goes on in (split) or is given back by (packed).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    pub(super) addr: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
    pub(super) link: u16,
}

impl Ground {
    pub(super) fn new(layout: RingLayout) -> Result<Self, OsError> {
        let memfd = Memfd::create("ironring-mirror", BYTES)?;
        let map = Mapping::of(&memfd)?;
        let whole =
            map.area(0, BYTES).map_err(|misuse| OsError::new("lay out memory", std::io::Error::other(misuse)))?;
        Ok(Self { memfd, whole, map, layout })
    }

    pub(super) fn region(&self) -> Region<'_> {
        Region { start: GuestAddr(START), len: BYTES as u64, fd: self.memfd.as_fd() }
    }

    pub(super) fn addresses(size: u16) -> RingAddresses {
        let at = |offset: usize| GuestAddr(START + offset as u64);
        RingAddresses { size, desc: at(RING), avail: at(SECOND), used: at(THIRD) }
    }

    /// The three parts of the ring, as the device maps them.
    pub(super) fn parts(&self, lens: [usize; 3]) -> Option<[Area; 3]> {
        let [first, second, third] = [RING, SECOND, THIRD];
        let part = |at, len| self.map.area(at, len).ok();
        Some([part(first, lens[0])?, part(second, lens[1])?, part(third, lens[2])?])
    }

    /// Writes a descriptor of the table, or an entry of an indirect table at `table`.
    pub(super) fn descriptor(&self, at: usize, id: u16, Entry { addr, len, flags, link }: Entry) {
        let words = Descriptor { addr, len, flags, next: link }.to_words();
        let at = at + 16 * usize::from(id);
        self.whole.store_u64(at, words[0]);
        self.whole.store_u64(at + 8, words[1]);
    }

    /// Makes heads available in a split ring, in the order of the list.
    pub(super) fn offer(&self, heads: &[u16], idx: u16) {
        for (slot, head) in heads.iter().enumerate() {
            self.whole.store_u16(SECOND + AVAIL_RING + 2 * slot, *head);
        }
        self.whole.store_u16_release(SECOND + AVAIL_IDX, idx);
    }

    /// Makes a chain available in a packed ring, from slot 0 on; its first slot last.
    pub(super) fn offer_slots(&self, entries: &[Entry]) {
        for (slot, Entry { addr, len, flags, link }) in entries.iter().enumerate().rev() {
            let rest = SlotRest { len: *len, id: *link, flags: flags | avail_flags(true) };
            self.whole.store_u64(RING + 16 * slot, *addr);
            self.whole.store_u64_release(RING + 16 * slot + 8, rest.to_word());
        }
    }

    /// Entries of an indirect table, in the form of the layout.
    pub(super) fn table(&self, entries: &[Entry]) {
        for (n, entry) in (0..).zip(entries) {
            self.descriptor(TABLE, n, *entry);
        }
    }

    /// One chain of these entries, which link themselves, in the ring of the layout.
    pub(super) fn chain(&self, entries: &[Entry]) {
        match self.layout {
            RingLayout::Split => {
                (0..).zip(entries).for_each(|(id, entry)| self.descriptor(RING, id, *entry));
                self.offer(&[0], 1);
            }
            RingLayout::Packed => self.offer_slots(entries),
        }
    }

    pub(super) fn size(&self) -> Option<QueueSize> {
        match self.layout {
            RingLayout::Split => QueueSize::split(SIZE).ok(),
            RingLayout::Packed => QueueSize::packed(SIZE).ok(),
        }
    }
}

/// Where the device finds the memory.
pub(super) const START: u64 = 0x3_0000_0000;
pub(super) const BYTES: usize = 1 << 16;
/// Descriptors of a ring.
pub(super) const SIZE: u16 = 16;
/// Offsets: descriptors or slots; available ring or the driver's events; used ring or the device's events.
pub(super) const RING: usize = 0;
pub(super) const SECOND: usize = 0x1000;
pub(super) const THIRD: usize = 0x2000;
/// An indirect table, and buffers.
pub(super) const TABLE: usize = 0x3000;
pub(super) const BUFFERS: usize = 0x8000;

/// Where a byte of the memory is for the device.
pub(super) const fn addr(offset: usize) -> u64 {
    START + offset as u64
}
