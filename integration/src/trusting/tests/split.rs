//! The split ring.

use ironring_common::spec::split::{self, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, Descriptor, UsedElem};
use ironring_driver::queue::split::SplitAreas;

use super::*;

struct SplitDevice {
    desc: Area,
    avail: Area,
    used: Area,
    tables: Area,
    next: u16,
    used_idx: u16,
}

struct Bench {
    ring: TrustingRing<Quick>,
    device: SplitDevice,
    /// The areas as the ring loads them.
    quick: SplitAreas<Quick>,
    memory: Memory,
    mapper: Bounce<Area>,
}

impl Bench {
    fn new(indirect: bool, in_order: bool) -> Self {
        let (memory, mapper) = shared();
        let used = super::memory(4096).part(4, split::used_bytes(size())).unwrap();
        let (desc, avail) = (super::memory(split::desc_bytes(size())), super::memory(split::avail_bytes(size())));
        let device = SplitDevice { desc, avail, used, tables: memory.tables.clone(), next: 0, used_idx: 0 };
        let [desc, avail, used] = [&device.desc, &device.avail, &device.used].map(|area| Quick::new(area.clone()));
        let quick = SplitAreas { desc, avail, used };
        let tables = indirect.then(|| Quick::new(memory.tables.clone()));
        let ring = TrustingRing::new(size(), quick.clone(), options(tables, in_order));
        Self { ring, device, quick, memory, mapper }
    }

    /// Posts `count` requests of a readable and a writable buffer, and has the device look at them.
    fn post(&mut self, count: usize) -> Vec<Chain> {
        for token in 0..count {
            assert!(
                self.ring
                    .add(&mut self.mapper, &[buffer(2 * token, 100)], &[buffer(2 * token + 1, 200)], token as u64)
                    .unwrap()
            );
        }
        self.ring.publish().unwrap();
        self.device.look()
    }

    fn take(&mut self) -> Result<Option<(u64, u32)>, Bite> {
        self.ring.take(&mut self.mapper)
    }
}

impl SplitDevice {
    fn load(area: &Area, id: u16) -> Descriptor {
        let at = usize::from(id) * 16;
        Descriptor::from_words([area.load_u64(at), area.load_u64(at + 8)])
    }

    fn chain(&self, head: u16) -> Chain {
        let first = Self::load(&self.desc, head);
        let (area, mut desc) = if first.flags & DESC_F_INDIRECT == 0 {
            (self.desc.clone(), first)
        } else {
            let table = self.tables.part((first.addr - TABLE_BASE) as usize, first.len as usize).unwrap();
            let desc = Self::load(&table, 0);
            (table, desc)
        };
        let mut parts = Vec::new();
        loop {
            parts.push(Part { addr: desc.addr, len: desc.len, write: desc.flags & DESC_F_WRITE != 0 });
            if desc.flags & DESC_F_NEXT == 0 {
                return Chain { id: head, slots: 1, parts };
            }
            desc = Self::load(&area, desc.next);
        }
    }

    fn say(&mut self, id: u32, len: u32) {
        let at = split::USED_RING + 8 * usize::from(self.used_idx % SIZE);
        self.used.store_u64(at, UsedElem { id, len }.to_word());
        self.used_idx = self.used_idx.wrapping_add(1);
        self.used.store_u16_release(split::USED_IDX, self.used_idx);
    }
}

/// Changes a descriptor where it lies.
fn change(area: &Area, id: u16, change: impl FnOnce(&mut Descriptor)) {
    let mut desc = SplitDevice::load(area, id);
    change(&mut desc);
    let at = usize::from(id) * 16;
    area.store_u64(at, desc.to_words()[0]);
    area.store_u64(at + 8, desc.to_words()[1]);
}

impl Device for SplitDevice {
    fn look(&mut self) -> Vec<Chain> {
        let idx = self.avail.load_u16_acquire(split::AVAIL_IDX);
        let mut chains = Vec::new();
        while self.next != idx {
            let head = self.avail.load_u16(split::AVAIL_RING + 2 * usize::from(self.next % SIZE));
            chains.push(self.chain(head));
            self.next = self.next.wrapping_add(1);
        }
        chains
    }

    fn complete(&mut self, chains: &[Chain], written: u32) {
        let last = chains.last().unwrap();
        self.say(u32::from(last.id), written);
        // The ring is skipped by the size of the batch (2.7.9).
        self.used_idx = self.used_idx.wrapping_add(chains.len() as u16 - 1);
        self.used.store_u16_release(split::USED_IDX, self.used_idx);
    }
}

#[test]
fn honest_traffic_passes_with_and_without_tables_in_order_and_not() {
    for (indirect, in_order) in [(false, false), (true, false), (false, true), (true, true)] {
        let Bench { mut ring, mut device, memory, mut mapper, .. } = Bench::new(indirect, in_order);
        carry(&mut ring, &mut device, &memory, &mut mapper, in_order);
        assert_eq!(memory.tables.load_u64(0) != 0, indirect, "tables are used if there are any");
    }
}

/// The device changes what it must not, and completes an honest chain.
fn bite_of(indirect: bool, lie: impl FnOnce(&mut SplitDevice)) -> (Bite, Bench) {
    let mut bench = Bench::new(indirect, false);
    let chains = bench.post(2);
    lie(&mut bench.device);
    chains.iter().for_each(|chain| bench.device.complete(std::slice::from_ref(chain), 200));
    let bite = (0..2).find_map(|_| bench.take().err()).expect("a bite");
    (bite, bench)
}

#[test]
fn the_shared_table_steers_unmaps_and_the_free_list() {
    let unmapped = |addr| Bite::BadUnmap { addr };
    assert_eq!(bite_of(false, |d| change(&d.desc, 0, |desc| desc.addr += 1)).0, unmapped(POOL_BASE + 1));
    // The tail of the first chain goes on to the second one, which is then unmapped twice.
    assert!(matches!(
        bite_of(false, |d| change(&d.desc, 1, |desc| (desc.flags, desc.next) = (desc.flags | DESC_F_NEXT, 2))).0,
        Bite::BadUnmap { .. }
    ));
    let walk = Bite::OutOfRange { doing: "walking a chain", index: 9, entries: 8 };
    assert_eq!(bite_of(false, |d| change(&d.desc, 0, |desc| desc.next = 9)).0, walk);
    let mut bench = Bench::new(false, false);
    bench.post(1);
    change(&bench.device.desc, 2, |desc| desc.next = 1);
    assert_eq!(
        bench.ring.add(&mut bench.mapper, &[buffer(8, 1), buffer(9, 1)], &[], 7),
        Err(Bite::Aliased { id: 1 }),
        "the list of free descriptors leads to one that is out"
    );
}

#[test]
fn flags_that_say_next_everywhere_are_followed_for_ever() {
    let mut bench = Bench::new(false, false);
    let mut mapper = ironring_driver::mapper::identity::Identity::new();
    let arena = ironring_driver::mapper::identity::ArenaBuffer { offset: 0, len: 1 };
    bench.ring.add(&mut mapper, &[arena], &[], 0).unwrap();
    bench.ring.publish().unwrap();
    (0..SIZE).for_each(|id| {
        change(&bench.device.desc, id, |desc| (desc.flags, desc.next) = (DESC_F_NEXT, id ^ 1));
    });
    bench.device.say(0, 0);
    assert_eq!(bench.ring.take(&mut mapper), Err(Bite::EndlessWalk { steps: 9 }));
}

#[test]
fn the_used_ring_and_the_available_index_are_believed() {
    let range = Bite::OutOfRange { doing: "finding a request", index: 0x1_0000, entries: 8 };
    for (id, bite) in [(0x1_0000, range), (6, Bite::NoSuchRequest { id: 6 })] {
        let mut bench = Bench::new(false, false);
        bench.post(1);
        bench.device.say(id, 0);
        assert_eq!(bench.take(), Err(bite));
    }
    let mut bench = Bench::new(false, false);
    bench.device.avail.store_u16(split::AVAIL_IDX, 5);
    bench.ring.add(&mut bench.mapper, &[buffer(0, 1)], &[], 0).unwrap();
    assert_eq!(bench.ring.publish(), Err(Bite::GarbagePublished { index: 6, expected: 1 }));
}

#[test]
fn a_used_id_that_changes_between_two_loads_frees_another_chain() {
    let mut bench = Bench::new(false, false);
    let chains = bench.post(2);
    bench.device.complete(&chains[..1], 200);
    bench.quick.used.arm(split::USED_RING, 1, UsedElem { id: 2, len: 200 }.to_word());
    assert_eq!(bench.take(), Ok(Some((0, 200))), "the cookie of the first request");
    assert_eq!(bench.ring.outstanding(), 1);
    assert_eq!(bench.ring.add(&mut bench.mapper, &[buffer(8, 1)], &[], 7), Ok(true));
    bench.ring.publish().unwrap();
    let reused = bench.device.look();
    assert_eq!(reused[0].id, 2, "the descriptors of the second request are given out while it is in flight");
}

#[test]
fn the_shared_indirect_table_steers_unmaps() {
    let (bite, _) = bite_of(true, |d| change(&d.tables, 1, |entry| entry.addr = POOL_BASE + 0x3000));
    assert_eq!(bite, Bite::BadUnmap { addr: POOL_BASE + 0x3000 });
    // Redirected to the buffer of another request that is in flight, of the same length.
    let mut bench = Bench::new(true, false);
    let chains = bench.post(2);
    let victim = chains[1].parts[1].addr;
    bench.memory.pool.copy_in((victim - POOL_BASE) as usize, &[0xbd; 200]);
    change(&bench.device.tables, 1, |entry| entry.addr = victim);
    bench.device.complete(&chains[..1], 200);
    assert_eq!(bench.take(), Ok(Some((0, 200))));
    assert_eq!(bytes(&bench.mapper, &buffer(3, 200)), [0xbd; 200], "the buffer of the request that is still out");
    assert_eq!(bytes(&bench.mapper, &buffer(1, 200)), [SECRET; 200], "the buffer of the one that completed");
}

#[test]
fn flags_of_an_indirect_entry_turn_a_transmitted_buffer_into_a_received_one() {
    let mut bench = Bench::new(true, false);
    let chains = bench.post(1);
    change(&bench.device.tables, 0, |entry| entry.flags |= DESC_F_WRITE);
    bench.memory.pool.copy_in((chains[0].parts[0].addr - POOL_BASE) as usize, &[0xbd; 100]);
    bench.device.complete(&chains, 200);
    bench.take().unwrap();
    assert_eq!(bytes(&bench.mapper, &buffer(0, 100)), [0xbd; 100]);
}

#[test]
fn the_shared_length_of_a_table_says_how_many_entries_are_unmapped() {
    let over = Bite::OutOfRange { doing: "walking an indirect table", index: 2, entries: 2 };
    assert_eq!(bite_of(true, |d| change(&d.desc, 0, |desc| desc.len += 16)).0, over);
    assert_eq!(bite_of(true, |d| change(&d.desc, 0, |desc| desc.len = u32::MAX - 15)).0, over);
    for len in [0, 31] {
        let bite = bite_of(true, |d| change(&d.desc, 0, |desc| desc.len = len)).0;
        assert_eq!(bite, Bite::Asserted { what: "an indirect table has whole entries, and at least one" });
    }
    let mut bench = Bench::new(true, false);
    let chains = bench.post(1);
    change(&bench.device.desc, 0, |desc| desc.len = 16);
    bench.device.complete(&chains, 200);
    assert_eq!(bench.take(), Ok(Some((0, 200))));
    assert_eq!(bench.mapper.free_blocks(), bench.mapper.blocks() - 1, "a mapping leaks");
    assert_eq!(bytes(&bench.mapper, &buffer(1, 200)), [SECRET; 200], "nothing was copied back");
}

#[test]
fn the_shared_flag_says_what_is_a_table() {
    let flip = |indirect| bite_of(indirect, |d| change(&d.desc, 0, |desc| desc.flags ^= DESC_F_INDIRECT)).0;
    assert_eq!(flip(true), Bite::Asserted { what: "the descriptor of an indirect table says so" });
    // 100 bytes are no whole number of entries.
    assert_eq!(flip(false), Bite::Asserted { what: "an indirect table has whole entries, and at least one" });
    let none = bite_of(false, |d| {
        change(&d.desc, 0, |desc| (desc.flags, desc.len) = (desc.flags | DESC_F_INDIRECT, 16));
    });
    assert_eq!(none.0, Bite::OutOfRange { doing: "walking an indirect table", index: 0, entries: 0 });
}

#[test]
fn an_id_in_order_that_is_not_out_completes_everything_as_full() {
    for indirect in [false, true] {
        let mut bench = Bench::new(indirect, true);
        bench.post(3);
        bench.device.say(0x77, 1);
        for token in 0..3 {
            assert_eq!(bench.take(), Ok(Some((token, 200))), "full, and the device wrote nothing");
        }
        assert_eq!(bench.take(), Err(Bite::NoSuchRequest { id: 0x77 }));
    }
}

#[test]
fn a_pool_that_is_full_takes_a_chain_back_whole() {
    for indirect in [false, true] {
        let mut bench = Bench::new(indirect, false);
        let Bench { mapper, ring, .. } = &mut bench;
        let mut small = Bounce::new(memory(512), GuestAddr(POOL_BASE), mapper.private().to_vec());
        let buffers = [buffer(0, 9), buffer(1, 9), buffer(2, 9)];
        assert_eq!(ring.add(&mut small, &buffers, &[], 0), Ok(false));
        assert_eq!((small.free_blocks(), ring.free(), ring.outstanding()), (2, SIZE, 0));
        assert_eq!(ring.add(&mut small, &buffers[..2], &[], 0), Ok(true));
    }
}
