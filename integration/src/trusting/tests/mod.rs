//! The trusting rings against small devices written by hand: honest traffic passes, and each lie bites.

#![expect(clippy::cast_possible_truncation, reason = "offsets and numbers of a small model")]

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::words::Words;
use ironring_driver::mapper::bounce::{Bounce, PrivateBuffer};

use super::{Bite, Options, Tables, TrustingPackedRing, TrustingRing};

mod packed;
mod split;

const POOL_BASE: u64 = 0x5000_0000;
const TABLE_BASE: u64 = 0x7000_0000;
const POOL_BYTES: usize = 64 * 256;
/// Private buffers start at multiples of this.
const PRIVATE_BYTES: usize = 256;
/// Descriptors of every ring here. Not a power of two would do for the packed one.
const SIZE: u16 = 8;
/// Entries of each indirect table.
const TABLE_ENTRIES: usize = 4;
/// What the device writes if a chain has nothing to read.
const PLAIN: u8 = 0xa5;
/// What private memory holds before.
const SECRET: u8 = 0x5e;

/// A chain as the device found it.
#[derive(Clone, Debug)]
struct Chain {
    id: u16,
    /// Slots of the ring; 1 if the chain has a table.
    slots: u16,
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    addr: u64,
    len: u32,
    write: bool,
}

/// What the device sees besides the ring.
struct Memory {
    pool: Area,
    tables: Area,
}

impl Memory {
    /// Reads the readable bytes of a chain and writes all writable ones. Returns how many.
    fn serve(&self, chain: &Chain) -> u32 {
        let (mut fill, mut written) = (PLAIN, 0);
        for part in &chain.parts {
            let (at, len) = ((part.addr - POOL_BASE) as usize, part.len as usize);
            let mut bytes = vec![0; len];
            if part.write {
                self.pool.copy_in(at, &vec![fill; len]);
                written += part.len;
            } else {
                self.pool.copy_out(at, &mut bytes);
                fill = !bytes[0];
                assert!(bytes.iter().all(|byte| *byte == bytes[0]), "the readable bytes of one request are alike");
            }
        }
        written
    }
}

/// The device's side.
trait Device {
    /// Chains that became available, oldest first.
    fn look(&mut self) -> Vec<Chain>;
    /// One used entry for the last of these chains, which are skipped.
    fn complete(&mut self, chains: &[Chain], written: u32);
}

/// The face that both rings have.
trait Ring {
    fn add(&mut self, mapper: &mut Bounce<Area>, read: &[PrivateBuffer], write: &[PrivateBuffer], token: u64) -> bool;
    fn publish(&mut self);
    fn take(&mut self, mapper: &mut Bounce<Area>) -> Result<Option<(u64, u32)>, Bite>;
    fn peek_writable(&self) -> Option<GuestAddr>;
    fn outstanding(&self) -> usize;
    fn free(&self) -> u16;
}

macro_rules! is_ring {
    ($ring:ident) => {
        impl<W: Words> Ring for $ring<W> {
            fn add(
                &mut self,
                mapper: &mut Bounce<Area>,
                read: &[PrivateBuffer],
                write: &[PrivateBuffer],
                token: u64,
            ) -> bool {
                self.add(mapper, read, write, token).unwrap()
            }
            fn publish(&mut self) {
                self.publish().unwrap();
            }
            fn take(&mut self, mapper: &mut Bounce<Area>) -> Result<Option<(u64, u32)>, Bite> {
                self.take(mapper)
            }
            fn peek_writable(&self) -> Option<GuestAddr> {
                self.peek_writable()
            }
            fn outstanding(&self) -> usize {
                self.outstanding()
            }
            fn free(&self) -> u16 {
                self.free()
            }
        }
    };
}
is_ring!(TrustingRing);
is_ring!(TrustingPackedRing);

fn size() -> QueueSize {
    QueueSize::split(SIZE).unwrap()
}

fn memory(bytes: usize) -> Area {
    let memfd = Memfd::create("trusting", bytes).unwrap();
    Mapping::of(&memfd).unwrap().area(0, bytes).unwrap()
}

/// The pool, the tables and a mapper over them.
fn shared() -> (Memory, Bounce<Area>) {
    let memory = Memory { pool: memory(POOL_BYTES), tables: memory(usize::from(SIZE) * TABLE_ENTRIES * 16) };
    let mapper = Bounce::new(memory.pool.clone(), GuestAddr(POOL_BASE), vec![SECRET; 64 * PRIVATE_BYTES]);
    (memory, mapper)
}

fn options<W: Words>(tables: Option<W>, in_order: bool) -> Options<W> {
    let tables = tables.map(|area| Tables { area, base: GuestAddr(TABLE_BASE) });
    Options { tables, in_order, event_idx: true }
}

/// The private buffer of a number.
fn buffer(at: usize, len: u32) -> PrivateBuffer {
    PrivateBuffer { offset: at * PRIVATE_BYTES, len }
}

fn bytes<'a>(mapper: &'a Bounce<Area>, buffer: &PrivateBuffer) -> &'a [u8] {
    &mapper.private()[buffer.offset..buffer.offset + buffer.len as usize]
}

/// Rounds of honest traffic: chains of 1 to 4 buffers, completed in any order, or in order and in batches. Every byte that
/// comes back is looked at, and at the end everything is free.
fn carry(ring: &mut dyn Ring, device: &mut dyn Device, memory: &Memory, mapper: &mut Bounce<Area>, in_order: bool) {
    let mut dice = 0x2545_f491u32;
    let mut roll = |sides: usize| {
        dice = dice.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (dice >> 8) as usize % sides
    };
    let mut spare: Vec<usize> = (0..64).collect();
    let mut out: HashMap<u64, (Vec<PrivateBuffer>, Vec<PrivateBuffer>)> = HashMap::new();
    let mut seen: Vec<Chain> = Vec::new();
    let (mut next, mut done, mut expected) = (0u64, 0u64, 0u64);
    for round in 0..400 {
        while round < 390 && roll(4) != 0 {
            let total = 1 + roll(4);
            let mut buffers: Vec<_> = spare.drain(..total).map(|at| buffer(at, 1 + (at as u32 * 37) % 255)).collect();
            let write = buffers.split_off(roll(total + 1));
            for buffer in &buffers {
                mapper.private_mut()[buffer.offset..buffer.offset + buffer.len as usize].fill(next as u8);
            }
            if !ring.add(mapper, &buffers, &write, next) {
                spare.extend(buffers.iter().chain(&write).map(|buffer| buffer.offset / PRIVATE_BYTES));
                break;
            }
            out.insert(next, (buffers, write));
            next += 1;
        }
        ring.publish();
        seen.extend(device.look());
        let finish = if round >= 390 { seen.len() } else { roll(seen.len() + 1) };
        if in_order {
            let batch: Vec<_> = seen.drain(..finish).collect();
            if let Some(written) = batch.iter().fold(None, |_, chain| Some(memory.serve(chain))) {
                device.complete(&batch, written);
            }
        } else {
            for left in (seen.len() - finish..seen.len()).rev() {
                let chain = seen.swap_remove(roll(left + 1));
                let written = memory.serve(&chain);
                device.complete(&[chain], written);
            }
        }
        loop {
            let peeked = ring.peek_writable();
            let Some((token, written)) = ring.take(mapper).unwrap() else { break };
            let (read, write) = out.remove(&token).unwrap();
            assert!(!in_order || token == expected, "in order");
            assert_eq!(written, write.iter().map(|buffer| buffer.len).sum::<u32>());
            assert!(peeked.is_none_or(|addr| addr.0 >= POOL_BASE && addr.0 < TABLE_BASE));
            let fill = if read.is_empty() { PLAIN } else { !(token as u8) };
            assert!(write.iter().all(|buffer| bytes(mapper, buffer).iter().all(|byte| *byte == fill)), "{token}");
            assert!(read.iter().all(|buffer| bytes(mapper, buffer).iter().all(|byte| *byte == token as u8)));
            spare.extend(read.iter().chain(&write).map(|buffer| buffer.offset / PRIVATE_BYTES));
            expected = token + 1;
            done += 1;
        }
        assert_eq!(ring.outstanding(), out.len());
    }
    assert!(done > 20 * u64::from(SIZE), "{done} requests go round the ring many times");
    assert_eq!((done, ring.free(), mapper.free_blocks()), (next, SIZE, mapper.blocks()));
}

/// An area in which a device strikes just before a chosen load: what is stored stays stored.
#[derive(Clone)]
struct Quick {
    words: Area,
    strike: Rc<Cell<Option<Strike>>>,
}

/// Before the load number `after` (0 is the next) of the word at `at`, `value` is stored there.
#[derive(Clone, Copy)]
struct Strike {
    at: usize,
    after: usize,
    value: u64,
}

impl Quick {
    fn new(words: Area) -> Self {
        Self { words, strike: Rc::default() }
    }

    fn arm(&self, at: usize, after: usize, value: u64) {
        self.strike.set(Some(Strike { at, after, value }));
    }

    fn before_load(&self, at: usize) {
        let Some(strike) = self.strike.get().filter(|strike| strike.at == at) else { return };
        self.strike.set(strike.after.checked_sub(1).map(|after| Strike { after, ..strike }));
        if strike.after == 0 {
            self.words.store_u64(at, strike.value);
        }
    }
}

impl Words for Quick {
    fn len(&self) -> usize {
        self.words.len()
    }
    fn is_aligned(&self, at: usize, bytes: usize) -> bool {
        self.words.is_aligned(at, bytes)
    }
    fn load_u16(&self, at: usize) -> u16 {
        self.words.load_u16(at)
    }
    fn load_u16_acquire(&self, at: usize) -> u16 {
        self.words.load_u16_acquire(at)
    }
    fn load_u32(&self, at: usize) -> u32 {
        self.words.load_u32(at)
    }
    fn load_u64(&self, at: usize) -> u64 {
        self.before_load(at);
        self.words.load_u64(at)
    }
    fn load_u64_acquire(&self, at: usize) -> u64 {
        self.before_load(at);
        self.words.load_u64_acquire(at)
    }
    fn store_u16(&self, at: usize, value: u16) {
        self.words.store_u16(at, value);
    }
    fn store_u16_release(&self, at: usize, value: u16) {
        self.words.store_u16_release(at, value);
    }
    fn store_u32(&self, at: usize, value: u32) {
        self.words.store_u32(at, value);
    }
    fn store_u64(&self, at: usize, value: u64) {
        self.words.store_u64(at, value);
    }
    fn store_u64_release(&self, at: usize, value: u64) {
        self.words.store_u64_release(at, value);
    }
    fn copy_in(&self, at: usize, from: &[u8]) {
        self.words.copy_in(at, from);
    }
    fn copy_out(&self, at: usize, to: &mut [u8]) {
        self.words.copy_out(at, to);
    }
    fn zero(&self, at: usize, len: usize) {
        self.words.zero(at, len);
    }
}
