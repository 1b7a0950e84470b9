//! The driver's rings, with a device that answers every load as the input says.

use std::cell::RefCell;
use std::rc::Rc;

use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::words::Words;
use ironring_driver::mapper::identity::{ArenaBuffer, Identity};
use ironring_driver::queue::any::AnyRing;
use ironring_driver::queue::packed::{PackedAreas, PackedRing};
use ironring_driver::queue::split::{SplitAreas, SplitRing};
use ironring_driver::queue::violation::{Latch, Violation};
use ironring_driver::queue::{AddError, DriverRing, RingOptions, Tables};

/// The rest of the input.
#[derive(Clone, Debug)]
struct Stream(Rc<RefCell<(Vec<u8>, usize)>>);

impl Stream {
    fn new(input: &[u8]) -> Self {
        Self(Rc::new(RefCell::new((input.to_vec(), 0))))
    }

    fn byte(&self) -> Option<u8> {
        let mut stream = self.0.borrow_mut();
        let byte = stream.0.get(stream.1).copied();
        stream.1 += 1;
        byte
    }

    /// An answer; zeros at the end of the input.
    fn answer(&self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |word, at| word | u64::from(self.byte().unwrap_or(0)) << (8 * at))
    }
}

/// An area whose loads are answered by the stream. Stores go nowhere.
#[derive(Clone, Debug)]
struct Answers {
    stream: Stream,
    len: usize,
}

impl Words for Answers {
    fn len(&self) -> usize {
        self.len
    }
    fn is_aligned(&self, at: usize, bytes: usize) -> bool {
        at.is_multiple_of(bytes) || bytes == 8 && at % 8 == 4
    }
    fn load_u16(&self, at: usize) -> u16 {
        assert!(at + 2 <= self.len);
        u16::try_from(self.stream.answer(2)).expect("two bytes")
    }
    fn load_u16_acquire(&self, at: usize) -> u16 {
        self.load_u16(at)
    }
    fn load_u32(&self, at: usize) -> u32 {
        assert!(at + 4 <= self.len);
        u32::try_from(self.stream.answer(4)).expect("four bytes")
    }
    fn load_u64(&self, at: usize) -> u64 {
        assert!(at + 8 <= self.len);
        self.stream.answer(8)
    }
    fn load_u64_acquire(&self, at: usize) -> u64 {
        self.load_u64(at)
    }
    fn store_u16(&self, at: usize, _value: u16) {
        assert!(at + 2 <= self.len);
    }
    fn store_u16_release(&self, at: usize, value: u16) {
        self.store_u16(at, value);
    }
    fn store_u32(&self, at: usize, _value: u32) {
        assert!(at + 4 <= self.len);
    }
    fn store_u64(&self, at: usize, _value: u64) {
        assert!(at + 8 <= self.len);
    }
    fn store_u64_release(&self, at: usize, value: u64) {
        self.store_u64(at, value);
    }
    fn copy_in(&self, at: usize, from: &[u8]) {
        assert!(at + from.len() <= self.len);
    }
    fn copy_out(&self, at: usize, to: &mut [u8]) {
        assert!(at + to.len() <= self.len);
        to.iter_mut().for_each(|byte| *byte = self.stream.byte().unwrap_or(0));
    }
    fn zero(&self, at: usize, len: usize) {
        assert!(at + len <= self.len);
    }
}

/// The driver's split ring.
pub fn driver_split(input: &[u8]) {
    run(input, false);
}

/// The driver's packed ring.
pub fn driver_packed(input: &[u8]) {
    run(input, true);
}

fn run(input: &[u8], packed: bool) {
    let stream = Stream::new(input);
    let Some(bits) = stream.byte() else { return };
    let area = || Answers { stream: stream.clone(), len: 4096 };
    let tables = (bits & 1 != 0).then(|| Tables { words: area(), base: GuestAddr(0x9000), entries: 3 });
    let options = RingOptions { event_idx: bits & 2 != 0, in_order: bits & 4 != 0, tables };
    let latch = Latch::new();
    let mut ring: AnyRing<Answers, u32> = if packed {
        let size = QueueSize::packed(if bits & 8 == 0 { 8 } else { 7 }).expect("a size");
        let areas = PackedAreas { ring: area(), driver_event: area(), device_event: area() };
        AnyRing::Packed(PackedRing::with_options(0, size, areas, latch, options).expect("a ring"))
    } else {
        let areas = SplitAreas { desc: area(), avail: area(), used: area() };
        let size = QueueSize::split(8).expect("a size");
        AnyRing::Split(SplitRing::with_options(0, size, areas, latch, options).expect("a ring"))
    };
    Script { stream, mapper: Identity::new(), out: Vec::new(), next: 0, latched: None }.play(&mut ring);
}

/// The calls, and what is known of the chains that are out.
struct Script {
    stream: Stream,
    mapper: Identity,
    /// Tokens that are out, with what each may be written.
    out: Vec<(u32, u32)>,
    next: u32,
    latched: Option<Violation>,
}

impl Script {
    fn play(&mut self, ring: &mut AnyRing<Answers, u32>) {
        for _ in 0..CALLS {
            let Some(call) = self.stream.byte() else { break };
            let told = match call % 8 {
                0..=2 => self.add(ring, call),
                3 => {
                    ring.publish();
                    let _ = ring.should_kick();
                    Ok(())
                }
                4 | 5 => self.take(ring),
                6 => ring.has_completions().map(drop),
                _ => {
                    ring.arm_calls();
                    ring.suppress_calls();
                    Ok(())
                }
            };
            self.judge(told, ring);
            assert!(ring.is_conserved(), "every descriptor is free or lent");
            assert_eq!(usize::from(ring.outstanding()), self.out.len(), "what is out is what was not taken");
        }
    }

    fn add(&mut self, ring: &mut AnyRing<Answers, u32>, call: u8) -> Result<(), Violation> {
        let buffer = |at: u64| ArenaBuffer { offset: 0x100 * at, len: 64 };
        let readable: Vec<_> = (0..u64::from(call >> 3 & 3)).map(buffer).collect();
        let writable: Vec<_> = (0..u64::from(call >> 5 & 3)).map(buffer).collect();
        match ring.add(&mut self.mapper, &readable, &writable, self.next) {
            Ok(_) => {
                self.out.push((self.next, 64 * u32::try_from(writable.len()).expect("a few")));
                self.next += 1;
                Ok(())
            }
            Err(AddError::Violation(violation)) => Err(violation),
            Err(_) => Ok(()),
        }
    }

    fn take(&mut self, ring: &mut AnyRing<Answers, u32>) -> Result<(), Violation> {
        if let Some(done) = ring.take(&mut self.mapper)? {
            let at = self.out.iter().position(|(token, _)| *token == done.token).expect("a token that is out");
            let (_, room) = self.out.swap_remove(at);
            assert!(done.written <= room, "no more than was lent");
        }
        Ok(())
    }

    /// The first violation stands.
    fn judge(&mut self, told: Result<(), Violation>, ring: &AnyRing<Answers, u32>) {
        match (told, self.latched) {
            (Err(violation), None) => self.latched = Some(violation),
            (Err(violation), Some(latched)) => assert_eq!(violation, latched),
            (Ok(()), _) => {}
        }
        assert_eq!(ring.check().err(), self.latched, "a violation is latched");
    }
}

/// Calls of a script at most.
const CALLS: usize = 96;
