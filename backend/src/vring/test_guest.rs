//! A tiny driver for the tests of this crate: it lays out rings in one memfd, and writes whatever it is told to.

use std::collections::VecDeque;
use std::sync::Arc;

use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::table::RegionTable;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::HDR_BYTES;
use ironring_common::spec::split::{
    AVAIL_FLAGS, AVAIL_IDX, AVAIL_RING, DESC_BYTES, DESC_F_NEXT, DESC_F_WRITE, Descriptor, USED_FLAGS, USED_IDX,
    USED_RING, UsedElem, avail_bytes, desc_bytes, used_bytes,
};
use ironring_common::sync::fence_handshake;

use crate::worker::RingSetup;

/// The address of the first byte of guest memory.
pub(crate) const START: u64 = 0x4000_0000;

/// Guest memory, given out from the bottom.
pub(crate) struct Guest {
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) memory: Area,
    next: usize,
}

impl Guest {
    pub(crate) fn new(bytes: usize) -> Self {
        let mapping = Mapping::of(&Memfd::create("guest", bytes).unwrap()).unwrap();
        let memory = mapping.area(0, mapping.len()).unwrap();
        Self { mapping, memory, next: 0 }
    }

    pub(crate) fn table(&self) -> RegionTable {
        self.table_at(START)
    }

    pub(crate) fn table_at(&self, start: u64) -> RegionTable {
        RegionTable::of_mappings([(GuestAddr(start), Arc::clone(&self.mapping))]).unwrap()
    }

    /// The offset of `bytes` fresh bytes, `skew` bytes past a multiple of `align`.
    pub(crate) fn alloc(&mut self, bytes: usize, align: usize, skew: usize) -> usize {
        let at = self.next.next_multiple_of(align) + skew;
        self.next = at + bytes;
        assert!(self.next <= self.memory.len(), "guest memory is too small for the test");
        at
    }

    /// A ring whose used elements lie on multiples of 8 bytes, or only of 4.
    pub(crate) fn ring(&mut self, size: u16, elements_on_8: bool) -> GuestRing {
        let size = QueueSize::split(size).unwrap();
        let desc = self.alloc(desc_bytes(size), 4096, 0);
        let avail = self.alloc(avail_bytes(size), 4096, 2);
        let used = self.alloc(used_bytes(size), 4096, if elements_on_8 { 4 } else { 8 });
        let part = |at, len| self.memory.part(at, len).unwrap();
        GuestRing {
            size,
            desc: part(desc, desc_bytes(size)),
            avail: part(avail, avail_bytes(size)),
            used: part(used, used_bytes(size)),
            at: [desc, avail, used],
            avail_idx: 0,
            used_idx: 0,
            free: (0..size.get()).collect(),
            chains: vec![Vec::new(); usize::from(size.get())],
        }
    }

    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        self.memory.copy_in(at, bytes);
    }

    pub(crate) fn read(&self, at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.copy_out(at, &mut bytes);
        bytes
    }
}

/// Where a byte of guest memory is for descriptors.
pub(crate) fn addr(at: usize) -> u64 {
    START + at as u64
}

/// A buffer of a chain: offset in guest memory, bytes.
pub(crate) type Buffer = (usize, usize);

/// A split ring, driver's side, without any check.
pub(crate) struct GuestRing {
    pub(crate) size: QueueSize,
    pub(crate) desc: Area,
    pub(crate) avail: Area,
    pub(crate) used: Area,
    pub(crate) at: [usize; 3],
    pub(crate) avail_idx: u16,
    pub(crate) used_idx: u16,
    free: VecDeque<u16>,
    /// Descriptors of the chain at each head.
    chains: Vec<Vec<u16>>,
}

impl GuestRing {
    pub(crate) fn setup(&self, base: u16) -> RingSetup {
        let [desc, avail, used] = self.at.map(|at| GuestAddr(addr(at)));
        RingSetup { size: self.size.get(), desc, avail, used, base, kick: None }
    }

    /// Goes on from an index, in both directions.
    pub(crate) fn set_base(&mut self, base: u16) {
        self.avail_idx = base;
        self.used_idx = base;
        self.avail.store_u16(AVAIL_IDX, base);
        self.used.store_u16(USED_IDX, base);
    }

    pub(crate) fn write_desc(&self, id: u16, desc: Descriptor) {
        let [addr, rest] = desc.to_words();
        self.desc.store_u64(DESC_BYTES * usize::from(id), addr);
        self.desc.store_u64(DESC_BYTES * usize::from(id) + 8, rest);
    }

    /// Writes an available entry; [`publish`](Self::publish) shows it to the device.
    pub(crate) fn offer(&mut self, head: u16) {
        let slot = usize::from(self.avail_idx & (self.size.get() - 1));
        self.avail.store_u16(AVAIL_RING + 2 * slot, head);
        self.avail_idx = self.avail_idx.wrapping_add(1);
    }

    pub(crate) fn publish(&self) {
        self.avail.store_u16_release(AVAIL_IDX, self.avail_idx);
    }

    /// Whether the device wants a kick, after a publish.
    pub(crate) fn wants_kick(&self) -> bool {
        fence_handshake();
        self.used.load_u16(USED_FLAGS) & 1 == 0
    }

    pub(crate) fn set_no_interrupt(&self, on: bool) {
        self.avail.store_u16(AVAIL_FLAGS, u16::from(on));
        fence_handshake();
    }

    pub(crate) fn free(&self) -> usize {
        self.free.len()
    }

    /// Makes a chain available; `None` if there are not enough descriptors.
    pub(crate) fn add(&mut self, readable: &[Buffer], writable: &[Buffer]) -> Option<u16> {
        let count = readable.len() + writable.len();
        if count > self.free.len() {
            return None;
        }
        let ids: Vec<u16> = self.free.drain(..count).collect();
        let buffers = readable.iter().map(|b| (b, 0)).chain(writable.iter().map(|b| (b, DESC_F_WRITE)));
        for (n, ((at, len), write)) in buffers.enumerate() {
            let next = ids.get(n + 1).copied();
            let flags = write | if next.is_some() { DESC_F_NEXT } else { 0 };
            let desc = Descriptor { addr: addr(*at), len: *len as u32, flags, next: next.unwrap_or(0xffff) };
            self.write_desc(ids[n], desc);
        }
        let head = ids[0];
        self.chains[usize::from(head)] = ids;
        self.offer(head);
        Some(head)
    }

    /// The used index as it stands.
    pub(crate) fn device_idx(&self) -> u16 {
        self.used.load_u16_acquire(USED_IDX)
    }

    /// The next used element; its descriptors are free again.
    pub(crate) fn take(&mut self) -> Option<UsedElem> {
        if self.device_idx() == self.used_idx {
            return None;
        }
        let slot = usize::from(self.used_idx & (self.size.get() - 1));
        let at = USED_RING + 8 * slot;
        let elem = UsedElem { id: self.used.load_u32(at), len: self.used.load_u32(at + 4) };
        self.used_idx = self.used_idx.wrapping_add(1);
        let ids = std::mem::take(&mut self.chains[elem.id as usize]);
        assert!(!ids.is_empty(), "the device used {} which was not available", elem.id);
        self.free.extend(ids);
        Some(elem)
    }
}

/// A packet as it stands in a transmit buffer: an empty header and the frame.
pub(crate) fn packet(frame: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; HDR_BYTES];
    packet.extend_from_slice(frame);
    packet
}

/// Frame `n`, of `len` bytes.
pub(crate) fn frame(n: u32, len: usize) -> Vec<u8> {
    (0..len as u32).map(|at| (at.wrapping_mul(7) ^ n.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect()
}
