//! The backend's ring, stepped by hand on what a hostile driver has written.

use std::sync::atomic::{AtomicBool, Ordering};

use ironring_backend::hostile::Rng;
use ironring_backend::vring::any::AnyVring;
use ironring_backend::vring::chain::{Chain, Segment};
use ironring_backend::vring::hook::NoHook;
use ironring_backend::vring::packed::PackedVring;
use ironring_backend::vring::split::SplitVring;
use ironring_backend::vring::{DeviceRing, RingFault, VringOptions};
use ironring_common::index::{GuestAddr, PackedPosition};
use ironring_common::shm::area::Area;
use ironring_common::shm::table::RegionTable;
use ironring_common::shm::words::Words;
use ironring_common::spec::{packed, split};
use ironring_driver::queue::RingLayout;

use super::ground::{Ground, RING, SIZE, START};
use super::rows::Row;

/// The answer of the ring, and what must not be.
pub(super) fn play(
    row: &Row,
    layout: RingLayout,
    rng: &mut Rng,
) -> Result<(String, Vec<String>), Box<dyn std::error::Error>> {
    let ground = Ground::new(layout)?;
    (row.lay)(&ground);
    let mut device = Device::new(&ground, row.indirect)?;
    if !row.racing {
        return Ok(device.serve());
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                // Flags, links, lengths and addresses of the first descriptors, back and forth.
                let at = RING + 8 * usize::try_from(rng.below(8)).unwrap_or(0);
                let honest = ground.whole.load_u64(at);
                ground.whole.store_u64(at, honest ^ (rng.next_u64() & 0x0007_0007_0000_00ff));
                ground.whole.store_u64(at, honest);
            }
        });
        let answer = device.serve();
        stop.store(true, Ordering::Relaxed);
        Ok(answer)
    })
}

struct Device {
    vring: AnyVring<Area>,
    memory: RegionTable,
    chain: Chain,
}

impl Device {
    fn new(ground: &Ground, indirect: bool) -> Result<Self, Box<dyn std::error::Error>> {
        let size = ground.size().ok_or("a size")?;
        let memory = RegionTable::of_mappings([(GuestAddr(START), ground.map.clone())])?;
        let options = VringOptions { indirect: indirect.then(|| memory.clone()), ..VringOptions::default() };
        let vring = match ground.layout {
            RingLayout::Split => {
                let lens = [split::desc_bytes(size), split::avail_bytes(size), split::used_bytes(size)];
                let [desc, avail, used] = ground.parts(lens).ok_or("a ring")?;
                AnyVring::Split(SplitVring::new(1, size, desc, avail, used, 0)?.with_options(options))
            }
            RingLayout::Packed => {
                let lens = [packed::ring_bytes(size), packed::EVENT_BYTES, packed::EVENT_BYTES];
                let [slots, ours, theirs] = ground.parts(lens).ok_or("a ring")?;
                let start = PackedPosition::START.to_bits();
                AnyVring::Packed(PackedVring::new(1, size, slots, ours, theirs, start)?.with_options(options))
            }
        };
        Ok(Self { vring, memory, chain: Chain::with_capacity(size) })
    }

    /// Serves until there is nothing more, or a fault. A fault has to stand from then on.
    fn serve(&mut self) -> (String, Vec<String>) {
        let mut findings = Vec::new();
        let mut served = 0u32;
        let mut rounds = 0u32;
        let answer = loop {
            match self.step() {
                Ok(0) => break if served > 0 { "served" } else { "idle" },
                Ok(chains) => served += u32::from(chains),
                Err(fault) => {
                    let again = (self.step().err(), self.vring.poll().err());
                    if again != (Some(fault), Some(fault)) {
                        findings.push(format!("{fault}, and then it went on"));
                    }
                    break fault.class();
                }
            }
            rounds += 1;
            if rounds > 4 * u32::from(SIZE) {
                // A driver that goes on and on is lawful; one look must be bounded.
                break "served";
            }
        };
        (answer.to_owned(), findings)
    }

    /// One look: never more chains than the ring has descriptors.
    fn step(&mut self) -> Result<u16, RingFault> {
        let mut chains = 0;
        self.vring.poll()?;
        while chains < SIZE && self.vring.next_chain(&mut self.chain)? {
            self.touch()?;
            let written = u32::try_from(self.chain.writable_len()).unwrap_or(u32::MAX);
            self.vring.complete(&mut NoHook, self.chain.head(), written);
            chains += 1;
        }
        self.vring.publish(&mut NoHook);
        Ok(chains)
    }

    /// Reads and writes what the chain lends, as the network layer does: a buffer outside of the memory is the ring's fault.
    fn touch(&mut self) -> Result<(), RingFault> {
        let Self { vring, memory, chain } = self;
        let head = chain.head().id;
        let outside = |vring: &mut AnyVring<Area>, segment: &Segment| {
            let Segment { addr, len } = *segment;
            vring.fail(RingFault::AddressOutside { queue: 1, head, addr, len })
        };
        let mut bytes = [0; 256];
        for segment in chain.readable() {
            let shared = memory.bytes(segment.addr, segment.len).ok_or_else(|| outside(vring, segment))?;
            let len = shared.len().min(bytes.len());
            shared.copy_out(0, &mut bytes[..len]);
        }
        for segment in chain.writable() {
            let shared = memory.bytes(segment.addr, segment.len).ok_or_else(|| outside(vring, segment))?;
            let len = shared.len().min(bytes.len());
            shared.copy_in(0, &bytes[..len]);
        }
        Ok(())
    }
}
