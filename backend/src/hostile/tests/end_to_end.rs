//! The adversary at its place in the worker: frames that the driver sends come back while it strikes.

use std::sync::Arc;

use ironring_common::spec::net::HDR_BYTES;

use super::*;
use crate::port::loopback::Loopback;
use crate::stats::Stats;
use crate::worker::{RingSetup, WorkerCore};

/// A driver of two queues that wrote its descriptors once: slot n belongs to descriptor n.
struct Machine {
    core: WorkerCore<Loopback, Engine>,
    whole: Area,
    /// By queue: next available index, next used index.
    avail: [u16; 2],
    used: [u16; 2],
}

const SLOT: usize = 2048;

impl Machine {
    fn new(engine: Engine) -> Self {
        let map = Mapping::of(&Memfd::create("machine", 1 << 20).unwrap()).unwrap();
        let whole = map.area(0, map.len()).unwrap();
        let mut core = WorkerCore::new(1, Loopback::new(), engine, Arc::new(Stats::new(0, 2)));
        core.set_memory(RegionTable::of_mappings([(GuestAddr(START), map)]).unwrap());
        let mut machine = Self { core, whole, avail: [0; 2], used: [0; 2] };
        for queue in 0..2 {
            for id in 0..usize::from(SIZE) {
                let (flags, addr) = (if queue == 0 { DESC_F_WRITE } else { 0 }, START + slot(queue, id) as u64);
                let len = if queue == 0 { SLOT } else { HDR_BYTES + frame(0).len() } as u32;
                let [addr, rest] = Descriptor { addr, len, flags, next: 0 }.to_words();
                machine.whole.store_u64(at(queue, 0) + 16 * id, addr);
                machine.whole.store_u64(at(queue, 0) + 16 * id + 8, rest);
            }
            let [desc, avail, used] = [0, 1, 2].map(|part| GuestAddr(START + at(queue, part) as u64));
            machine.core.start(queue, RingSetup { size: SIZE, desc, avail, used, base: 0, kick: None }).unwrap();
            machine.core.set_enabled(queue, true).unwrap();
        }
        (0..SIZE).for_each(|id| machine.offer(0, id));
        machine
    }

    fn offer(&mut self, queue: usize, id: u16) {
        let idx = &mut self.avail[queue];
        self.whole.store_u16(at(queue, 1) + AVAIL_RING + 2 * usize::from(*idx % SIZE), id);
        *idx = idx.wrapping_add(1);
        self.whole.store_u16_release(at(queue, 1) + AVAIL_IDX, *idx);
    }

    /// Where the element of a completion is, if there is one.
    fn take(&mut self, queue: usize) -> Option<UsedElem> {
        let idx = &mut self.used[queue];
        if self.whole.load_u16_acquire(at(queue, 2) + USED_IDX) == *idx {
            return None;
        }
        let elem = self.whole.load_u64(at(queue, 2) + USED_RING + 8 * usize::from(*idx % SIZE));
        *idx = idx.wrapping_add(1);
        Some(UsedElem::from_word(elem))
    }

    fn send(&mut self, id: u16, bytes: &[u8]) {
        self.whole.copy_in(slot(1, usize::from(id)) + HDR_BYTES, bytes);
        self.offer(1, id);
    }

    fn frame(&self, elem: UsedElem) -> Vec<u8> {
        let mut bytes = vec![0; elem.len as usize - HDR_BYTES];
        self.whole.copy_out(slot(0, elem.id as usize) + HDR_BYTES, &mut bytes);
        bytes
    }
}

/// The parts of a ring: descriptors, available ring, used ring.
fn at(queue: usize, part: usize) -> usize {
    0x4000 * queue + [0, 0x1000, 0x2004][part]
}

fn slot(queue: usize, id: usize) -> usize {
    0x10000 + (queue * usize::from(SIZE) + id) * SLOT
}

fn frame(n: u64) -> Vec<u8> {
    let mut frame = vec![n as u8; 100];
    frame[..8].copy_from_slice(&n.to_le_bytes());
    frame
}

/// Attacks that a driver which reads nothing back does not notice, at the transmit queue and at the receive queue.
#[test]
fn honest_traffic_goes_on_under_attacks_on_the_drivers_words() {
    for id in ["A01", "A02", "A03", "A04", "A05", "A06", "A07", "A08", "A10", "A12", "A15", "A104"] {
        for queue in 0..2 {
            let engine = Engine::new(&Plan::parse(id, 1).unwrap().aimed_at(queue));
            let strikes = engine.strikes();
            let mut machine = Machine::new(engine);
            let (mut sent, mut back) = (0u64, 0u64);
            // The transmit ring runs empty, so there is nothing in flight to lead a chain to.
            let no_place = id == "A05" && queue == 1;
            wait_for(&format!("strikes and frames of {id} on queue {queue}"), || {
                for _ in 0..4 {
                    machine.send((sent % u64::from(SIZE)) as u16, &frame(sent));
                    sent += 1;
                }
                while back < sent {
                    let _ = machine.core.step();
                    while machine.take(1).is_some() {}
                    while let Some(elem) = machine.take(0) {
                        assert_eq!(machine.frame(elem), frame(back), "{id} on queue {queue}");
                        machine.offer(0, elem.id as u16);
                        back += 1;
                    }
                    assert_eq!(machine.core.fault(queue), None, "{id} on queue {queue}: its own strike");
                }
                // Without a doorbell nobody is called, so a call that is not made cannot be told here.
                back > 400 && (strikes.count() > 50 || id == "A104" || (no_place && strikes.passed_over() > 50))
            });
        }
    }
}
