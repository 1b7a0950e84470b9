//! The packed ring.

use ironring_common::index::{PackedPosition, need_event_packed};
use ironring_common::spec::packed::{
    self, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, EVENT_F_DESC, EVENT_F_DISABLE, Event, SlotRest,
};
use ironring_driver::mapper::identity::{ArenaBuffer, Identity};

use super::*;
use ironring_driver::queue::packed::PackedAreas;

struct PackedDevice {
    ring: Area,
    event: Area,
    tables: Area,
    next: PackedPosition,
    used: PackedPosition,
}

struct Bench {
    ring: TrustingPackedRing<Quick>,
    device: PackedDevice,
    /// The ring as the driver loads it.
    quick: Quick,
    memory: Memory,
    mapper: Bounce<Area>,
}

impl Bench {
    fn new(indirect: bool, in_order: bool) -> Self {
        let (memory, mapper) = shared();
        let [ring, event, driver_event] = [packed::ring_bytes(size()), 4, 4].map(super::memory);
        let quick = Quick::new(ring.clone());
        let [driver_event, device_event] = [driver_event, event.clone()].map(Quick::new);
        let areas = PackedAreas { ring: quick.clone(), driver_event, device_event };
        let tables = indirect.then(|| Quick::new(memory.tables.clone()));
        let (next, used) = (PackedPosition::START, PackedPosition::START);
        let device = PackedDevice { ring, event, tables: memory.tables.clone(), next, used };
        let ring = TrustingPackedRing::new(size(), areas, options(tables, in_order));
        Self { ring, device, quick, memory, mapper }
    }

    /// Posts `count` requests of a readable and a writable buffer, and has the device look at them.
    fn post(&mut self, count: usize) -> Vec<Chain> {
        for token in 0..count {
            assert!(self.add(token).unwrap());
        }
        self.ring.publish().unwrap();
        self.device.look()
    }

    fn add(&mut self, token: usize) -> Result<bool, Bite> {
        let (read, write) = (buffer(2 * token, 100), buffer(2 * token + 1, 200));
        self.ring.add(&mut self.mapper, &[read], &[write], token as u64)
    }

    fn take(&mut self) -> Result<Option<(u64, u32)>, Bite> {
        self.ring.take(&mut self.mapper)
    }
}

impl PackedDevice {
    fn rest(&self, slot: u16) -> SlotRest {
        SlotRest::from_word(self.ring.load_u64_acquire(usize::from(slot) * 16 + 8))
    }

    /// Puts a completion where the driver looks, and skips `slots`.
    fn say(&mut self, id: u16, len: u32, slots: u16) {
        let flags = packed::used_flags(self.used.wrap());
        change_rest(&self.ring, self.used.slot(), |rest| *rest = SlotRest { len, id, flags });
        self.used = self.used.advance(slots, size());
    }
}

impl Device for PackedDevice {
    fn look(&mut self) -> Vec<Chain> {
        let mut chains = Vec::new();
        while packed::is_avail(self.rest(self.next.slot()).flags, self.next.wrap()) {
            let mut chain = Chain { id: 0, slots: 0, parts: Vec::new() };
            loop {
                let rest = self.rest(self.next.slot());
                assert!(packed::is_avail(rest.flags, self.next.wrap()), "a chain is available whole");
                let addr = self.ring.load_u64(usize::from(self.next.slot()) * 16);
                let (table, from, entries) = if rest.flags & DESC_F_INDIRECT == 0 {
                    (&self.ring, usize::from(self.next.slot()) * 16, 1)
                } else {
                    (&self.tables, (addr - TABLE_BASE) as usize, rest.len as usize / 16)
                };
                chain.parts.extend((0..entries).map(|entry| {
                    let at = from + 16 * entry;
                    let SlotRest { len, flags, .. } = SlotRest::from_word(table.load_u64(at + 8));
                    Part { addr: table.load_u64(at), len, write: flags & DESC_F_WRITE != 0 }
                }));
                chain.id = rest.id;
                chain.slots += 1;
                self.next = self.next.advance(1, size());
                if rest.flags & DESC_F_NEXT == 0 {
                    break;
                }
            }
            chains.push(chain);
        }
        chains
    }

    fn complete(&mut self, chains: &[Chain], written: u32) {
        // The ring is skipped by the slots of the batch (2.8.7).
        let slots = chains.iter().map(|chain| chain.slots).sum();
        self.say(chains.last().unwrap().id, written, slots);
    }
}

/// Changes the second word of a slot, or of an entry of a table, where it lies.
fn change_rest(area: &Area, at: u16, change: impl FnOnce(&mut SlotRest)) {
    let offset = usize::from(at) * 16 + 8;
    let mut rest = SlotRest::from_word(area.load_u64(offset));
    change(&mut rest);
    area.store_u64_release(offset, rest.to_word());
}

#[test]
fn honest_traffic_passes_with_and_without_tables_in_order_and_not() {
    for (indirect, in_order) in [(false, false), (true, false), (false, true), (true, true)] {
        let Bench { mut ring, mut device, memory, mut mapper, .. } = Bench::new(indirect, in_order);
        carry(&mut ring, &mut device, &memory, &mut mapper, in_order);
        assert_eq!(memory.tables.load_u64(0) != 0, indirect, "tables are used if there are any");
    }
}

/// The device changes what it must not, and completes honest chains from the last to the first, or the other way round.
fn bite_of(indirect: bool, backwards: bool, lie: impl FnOnce(&PackedDevice)) -> Bite {
    let mut bench = Bench::new(indirect, false);
    let mut chains = bench.post(2);
    lie(&bench.device);
    if backwards {
        chains.reverse();
    }
    let mut step = |chain| {
        bench.device.complete(&[chain], 200);
        bench.take().err()
    };
    chains.into_iter().find_map(&mut step).expect("a bite")
}

#[test]
fn the_id_is_an_index_without_a_look_at_its_range() {
    let mut bench = Bench::new(false, false);
    bench.post(1);
    bench.device.say(8, 0, 2);
    assert_eq!(bench.take(), Err(Bite::OutOfRange { doing: "finding a request", index: 8, entries: 8 }));
}

#[test]
fn slots_that_were_never_posted_complete_requests_that_nobody_made() {
    let mut bench = Bench::new(false, false);
    assert!(bench.ring.add(&mut bench.mapper, &[buffer(0, 1)], &[], 0).unwrap());
    bench.ring.publish().unwrap();
    (0..SIZE).for_each(|slot| change_rest(&bench.device.ring, slot, |rest| rest.flags = packed::used_flags(true)));
    assert_eq!(bench.take(), Ok(Some((0, 1))), "the id and the length of the driver itself");
    assert_eq!(bench.take(), Err(Bite::NoSuchRequest { id: 0 }));
}

#[test]
fn the_shared_address_steers_unmaps() {
    for backwards in [false, true] {
        let bite = bite_of(false, backwards, |d| d.ring.store_u64(16, POOL_BASE + 1));
        assert_eq!(bite, Bite::BadUnmap { addr: POOL_BASE + 1 });
    }
    // Redirected to the buffer of another request that is in flight, of the same length.
    let mut bench = Bench::new(false, false);
    let chains = bench.post(2);
    let victim = chains[1].parts[1].addr;
    bench.memory.pool.copy_in((victim - POOL_BASE) as usize, &[0xbd; 200]);
    bench.device.ring.store_u64(16, victim);
    bench.device.complete(&chains[..1], 200);
    assert_eq!(bench.take(), Ok(Some((0, 200))));
    assert_eq!(bytes(&bench.mapper, &buffer(3, 200)), [0xbd; 200], "the buffer of the request that is still out");
    assert_eq!(bytes(&bench.mapper, &buffer(1, 200)), [SECRET; 200], "the buffer of the one that completed");
}

#[test]
fn shared_length_and_direction_steer_what_is_copied() {
    let mut bench = Bench::new(false, false);
    let chains = bench.post(1);
    change_rest(&bench.device.ring, 1, |rest| rest.len = 300);
    bench.memory.serve(&chains[0]);
    bench.device.complete(&chains, 200);
    assert_eq!(bench.take(), Ok(Some((0, 200))));
    let after = bytes(&bench.mapper, &PrivateBuffer { offset: PRIVATE_BYTES + 200, len: 100 });
    assert_eq!(after, [0; 100], "private bytes behind the buffer");
    // A chain of two readable buffers: the second one is turned round.
    let mut bench = Bench::new(false, false);
    assert!(bench.ring.add(&mut bench.mapper, &[buffer(0, 100), buffer(1, 100)], &[], 0).unwrap());
    bench.ring.publish().unwrap();
    let chains = bench.device.look();
    change_rest(&bench.device.ring, 1, |rest| rest.flags |= DESC_F_WRITE);
    bench.memory.pool.copy_in((chains[0].parts[1].addr - POOL_BASE) as usize, &[0xbd; 100]);
    bench.device.complete(&chains, 0);
    bench.take().unwrap();
    assert_eq!(bytes(&bench.mapper, &buffer(1, 100)), [0xbd; 100]);
}

#[test]
fn shared_flags_say_how_long_a_chain_is() {
    // Set on the tail of the first chain: the second one is unmapped with it while it is out, and never found.
    let mut bench = Bench::new(false, false);
    let chains = bench.post(2);
    change_rest(&bench.device.ring, 1, |rest| rest.flags |= DESC_F_NEXT);
    bench.device.complete(&chains[..1], 200);
    assert_eq!(bench.take(), Ok(Some((0, 200))));
    assert_eq!((bench.ring.outstanding(), bench.ring.free()), (1, SIZE));
    assert_eq!(bench.mapper.free_blocks(), bench.mapper.blocks(), "nothing is mapped, and the device has a buffer");
    bench.device.complete(&chains[1..], 200);
    assert_eq!(bench.take(), Ok(None));
    // Set where nothing follows: the position goes past what was posted, with a mapper that does not look.
    for (slots, bite) in [(2, Bite::Overtook { slots: 3, posted: 2 }), (SIZE, Bite::EndlessWalk { steps: 9 })] {
        let mut bench = Bench::new(false, false);
        let (mut mapper, arena) = (Identity::new(), ArenaBuffer { offset: 0, len: 1 });
        bench.ring.add(&mut mapper, &[arena, arena], &[], 0).unwrap();
        bench.ring.publish().unwrap();
        let id = bench.device.look()[0].id;
        (1..slots).for_each(|slot| change_rest(&bench.device.ring, slot, |rest| rest.flags |= DESC_F_NEXT));
        bench.device.say(id, 0, 2);
        assert_eq!(bench.ring.take(&mut mapper), Err(bite));
    }
    // Cleared in the middle of three: what follows leaks, and the next completion is not found.
    let mut bench = Bench::new(false, false);
    assert!(bench.ring.add(&mut bench.mapper, &[buffer(0, 9), buffer(1, 9), buffer(2, 9)], &[], 0).unwrap());
    assert!(bench.ring.add(&mut bench.mapper, &[buffer(3, 9)], &[], 1).unwrap());
    bench.ring.publish().unwrap();
    let chains = bench.device.look();
    change_rest(&bench.device.ring, 1, |rest| rest.flags &= !DESC_F_NEXT);
    chains.iter().for_each(|chain| bench.device.complete(std::slice::from_ref(chain), 0));
    assert_eq!(bench.take(), Ok(Some((0, 0))));
    assert_eq!(bench.take(), Ok(None), "it looks at slot 2, and the completion is in slot 3");
    assert_eq!((bench.ring.outstanding(), bench.mapper.blocks() - bench.mapper.free_blocks()), (1, 2));
}

#[test]
fn the_shared_indirect_table_steers_unmaps() {
    let bite = bite_of(true, false, |d| d.tables.store_u64(16, POOL_BASE + 1));
    assert_eq!(bite, Bite::BadUnmap { addr: POOL_BASE + 1 });
    let mut bench = Bench::new(true, false);
    let chains = bench.post(1);
    change_rest(&bench.device.tables, 0, |rest| rest.flags |= DESC_F_WRITE);
    bench.memory.pool.copy_in((chains[0].parts[0].addr - POOL_BASE) as usize, &[0xbd; 100]);
    bench.device.complete(&chains, 200);
    bench.take().unwrap();
    assert_eq!(bytes(&bench.mapper, &buffer(0, 100)), [0xbd; 100], "what was transmitted is overwritten");
}

#[test]
fn the_shared_length_of_a_table_says_how_many_entries_are_unmapped() {
    // Where the device has not overwritten it: the completions stand in the slots of the other chain.
    let grow = |d: &PackedDevice| change_rest(&d.ring, 1, |rest| rest.len += 16);
    assert_eq!(
        bite_of(true, true, grow),
        Bite::OutOfRange { doing: "walking an indirect table", index: 2, entries: 2 }
    );
    let direct = bite_of(false, false, |d| change_rest(&d.ring, 1, |rest| rest.flags |= DESC_F_INDIRECT));
    assert_eq!(direct, Bite::OutOfRange { doing: "walking an indirect table", index: 0, entries: 0 });
    let plain = bite_of(true, true, |d| change_rest(&d.ring, 1, |rest| rest.flags &= !DESC_F_INDIRECT));
    assert!(matches!(plain, Bite::BadUnmap { addr: TABLE_BASE.. }));
    // In order, a batch overwrites its first slot only.
    let mut bench = Bench::new(true, true);
    let chains = bench.post(2);
    change_rest(&bench.device.ring, 1, |rest| rest.len = 16);
    bench.device.complete(&chains, 200);
    assert_eq!((bench.take(), bench.take()), (Ok(Some((0, 200))), Ok(Some((1, 200)))));
    assert_eq!(bench.mapper.free_blocks(), bench.mapper.blocks() - 1, "a mapping leaks");
}

#[test]
fn an_id_that_changes_between_two_loads_is_given_out_while_it_is_in_flight() {
    let rest = |id| SlotRest { len: 200, id, flags: packed::used_flags(true) }.to_word();
    for (id, bite) in [
        (1, Bite::Aliased { id: 1 }),
        (0x4444, Bite::OutOfRange { doing: "taking a free id", index: 0x4444, entries: 8 }),
    ] {
        let mut bench = Bench::new(true, false);
        let chains = bench.post(2);
        bench.device.complete(&chains[..1], 200);
        // Loads of the slot: flags, id, length, the flags and the length of the descriptor that was there, the id again.
        bench.quick.arm(8, 4, rest(id));
        assert_eq!(bench.take(), Ok(Some((0, 200))));
        assert_eq!(bench.add(5), Err(bite));
    }
}

#[test]
fn a_length_that_changes_after_the_flags_is_handed_out() {
    let mut bench = Bench::new(false, false);
    let chains = bench.post(1);
    bench.device.complete(&chains, 200);
    bench.quick.arm(8, 2, SlotRest { len: u32::MAX, id: 0, flags: packed::used_flags(true) }.to_word());
    assert_eq!(bench.take(), Ok(Some((0, u32::MAX))));
}

#[test]
fn flags_are_changed_in_place_when_a_chain_is_shown() {
    let mut bench = Bench::new(false, false);
    assert!(bench.add(0).unwrap());
    change_rest(&bench.device.ring, 1, |rest| rest.flags |= DESC_F_NEXT);
    let bite = Bite::GarbageFlags { slot: 1, flags: DESC_F_WRITE | DESC_F_NEXT, expected: DESC_F_WRITE };
    assert_eq!(bench.ring.publish(), Err(bite));
}

#[test]
fn an_id_in_order_that_is_not_out_completes_everything_as_full() {
    for indirect in [false, true] {
        let mut bench = Bench::new(indirect, true);
        bench.post(3);
        bench.device.say(0x77, 1, 1);
        for token in 0..3 {
            assert_eq!(bench.take(), Ok(Some((token, 200))), "full, and the device wrote nothing");
        }
        assert_eq!(bench.take(), Err(Bite::NoSuchRequest { id: 0x77 }));
    }
}

#[test]
fn a_failed_mapping_is_unwound_by_what_stands_in_the_ring() {
    let buffers = [buffer(0, 9), buffer(1, 9), buffer(2, 9)];
    for indirect in [false, true] {
        let mut bench = Bench::new(indirect, false);
        let mut small = Bounce::new(memory(512), GuestAddr(POOL_BASE), vec![0; 4096]);
        assert_eq!(bench.ring.add(&mut small, &buffers, &[], 0), Ok(false));
        assert_eq!((small.free_blocks(), bench.ring.free(), bench.ring.outstanding()), (2, SIZE, 0));
        assert_eq!(bench.ring.add(&mut small, &buffers[..1], &[], 1), Ok(true));
        bench.ring.publish().unwrap();
        let chains = bench.device.look();
        assert_eq!((chains.len(), chains[0].slots), (1, 1), "nothing of the chain that failed is available");
    }
    let mut bench = Bench::new(false, false);
    let mut small = Bounce::new(memory(512), GuestAddr(POOL_BASE), vec![0; 4096]);
    bench.quick.arm(0, 0, 0xdead_0000);
    assert_eq!(bench.ring.add(&mut small, &buffers, &[], 0), Err(Bite::BadUnmap { addr: 0xdead_0000 }));
}

#[test]
fn kicks_are_those_that_the_device_asked_for_and_an_event_outside_of_the_ring_bites() {
    let event = |off_wrap, flags| Event { off_wrap, flags }.to_word();
    let mut bench = Bench::new(false, false);
    let mut at = PackedPosition::START;
    let mut kicks = 0;
    for round in 0..4 * SIZE {
        assert!(bench.ring.add(&mut bench.mapper, &[buffer(0, 1)], &[], 0).unwrap());
        bench.ring.publish().unwrap();
        at = at.advance(1, size());
        let position = PackedPosition::START.advance(round % SIZE, size());
        for wish in [position.to_bits(), position.advance(SIZE, size()).to_bits()] {
            bench.device.event.store_u32(0, event(wish, EVENT_F_DESC));
            bench.ring.since_kick = 1;
            let expected = need_event_packed(wish, at, 1, size());
            assert_eq!(bench.ring.should_kick(), Ok(expected), "{wish:#x} at {at:?}");
            kicks += u16::from(expected);
        }
        let chains = bench.device.look();
        bench.device.complete(&chains, 0);
        bench.take().unwrap();
    }
    assert_eq!(kicks, 4 * SIZE, "each slot is asked for once");
    assert_eq!(bench.ring.should_kick(), Ok(false), "nothing new");
    for (off, flags, result) in [
        (9, EVENT_F_DISABLE, Ok(false)),
        (9, packed::EVENT_F_ENABLE, Ok(true)),
        (9, EVENT_F_DESC, Err((SIZE, 9))),
        (0x7fff, EVENT_F_DESC, Err((SIZE, 0x7fff))),
    ] {
        bench.device.event.store_u32(0, event(off, flags));
        bench.ring.since_kick = 1;
        let doing = "counting the slots from the device's event to the end of the ring";
        let result = result.map_err(|(minuend, subtrahend)| Bite::Underflow { doing, minuend, subtrahend });
        assert_eq!(bench.ring.should_kick(), result);
    }
}
