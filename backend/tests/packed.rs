//! Sessions with packed rings, under `vhost::vhost_user::Frontend` and a driver written by hand.

#![allow(clippy::cast_possible_truncation, reason = "sizes of this test's own memory")]

mod support;

use std::time::{Duration, Instant};

use ironring_backend::config::Settings;
use ironring_common::features::Feature;
use ironring_common::index::{PackedPosition, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::Mapping;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::HDR_BYTES;
use ironring_common::spec::packed::{DESC_F_WRITE, SlotRest, avail_flags, is_used};
use support::{FEATURES, FrontEnd, GUEST_BASE, MEMORY_BYTES, OneSession, RX, TX};
use vhost::VhostBackend;

/// A driver of two packed rings in the front-end's memory.
struct Driver {
    memory: Area,
    size: QueueSize,
    next: [PackedPosition; 2],
    sent: u8,
}

impl Driver {
    fn new(front_end: &FrontEnd, size: u16) -> Self {
        let memory = Mapping::of(&front_end.guest.memfd).unwrap().area(0, MEMORY_BYTES).unwrap();
        let size = QueueSize::packed(size).unwrap();
        Self { memory, size, next: [PackedPosition::START; 2], sent: 0 }
    }

    /// Where a slot of a ring lies; as `FrontEnd::place` says.
    fn slot(ring: usize, at: PackedPosition) -> usize {
        0x4000 * ring + 16 * usize::from(at.slot())
    }

    /// Makes a buffer available and kicks; where it is to be used.
    fn add(&mut self, front_end: &FrontEnd, ring: usize, buffer: usize, len: u32) -> PackedPosition {
        let at = self.next[ring];
        let flags = avail_flags(at.wrap()) | if ring == RX { DESC_F_WRITE } else { 0 };
        let slot = Self::slot(ring, at);
        self.memory.store_u64(slot, GUEST_BASE + buffer as u64);
        self.memory.store_u64_release(slot + 8, SlotRest { len, id: at.slot(), flags }.to_word());
        self.next[ring] = at.advance(1, self.size);
        front_end.guest.bells[ring].kick.write(1).unwrap();
        at
    }

    /// Waits until a slot is used.
    fn used(&self, ring: usize, at: PackedPosition) -> SlotRest {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let rest = SlotRest::from_word(self.memory.load_u64_acquire(Self::slot(ring, at) + 8));
            if is_used(rest.flags, at.wrap()) {
                assert_eq!(rest.id, at.slot(), "the id that was given");
                return rest;
            }
            assert!(Instant::now() < deadline, "ring {ring} does not use {at:?}");
            std::thread::yield_now();
        }
    }

    fn echo(&mut self, front_end: &FrontEnd, bytes: usize) {
        self.sent = self.sent.wrapping_add(1);
        let frame: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8 ^ self.sent).collect();
        self.memory.zero(SENT, HDR_BYTES);
        self.memory.copy_in(SENT + HDR_BYTES, &frame);
        let receive = self.add(front_end, RX, RECEIVED, 2048);
        let transmit = self.add(front_end, TX, SENT, u32::try_from(HDR_BYTES + bytes).unwrap());
        assert_eq!(self.used(TX, transmit).len, 0);
        assert_eq!(self.used(RX, receive).len as usize, HDR_BYTES + bytes);
        let mut back = vec![0; bytes];
        self.memory.copy_out(RECEIVED + HDR_BYTES, &mut back);
        assert!(back == frame, "the frame of {bytes} bytes came back changed");
    }
}

/// Everything but the rings, with the packed layout.
fn negotiate(front_end: &mut FrontEnd) {
    front_end.walk(3);
    front_end.vhost.set_features(FEATURES | Feature::RingPacked.mask()).unwrap();
    front_end.share(GUEST_BASE, MEMORY_BYTES as u64).unwrap();
}

fn start(front_end: &mut FrontEnd, ring: usize, size: u16, base: u16) -> vhost::Result<()> {
    front_end.vhost.set_vring_num(ring, size)?;
    front_end.vhost.set_vring_base(ring, base)?;
    front_end.vhost.set_vring_addr(ring, &front_end.place(ring))?;
    front_end.kick_off(ring)
}

#[test]
fn rings_are_stopped_and_go_on_where_they_were() {
    for size in [16, 7, 1] {
        let (mut front_end, session) = OneSession::start(Settings::default());
        negotiate(&mut front_end);
        let mut driver = Driver::new(&front_end, size);
        for _ in 0..4 {
            for ring in [RX, TX] {
                start(&mut front_end, ring, size, driver.next[ring].to_bits()).unwrap();
            }
            for bytes in [14, 60, 1514, 100, 200, 300] {
                driver.echo(&front_end, bytes);
            }
            for ring in [RX, TX] {
                let base = front_end.vhost.get_vring_base(ring).unwrap();
                assert_eq!(
                    base & 0xffff,
                    u32::from(driver.next[ring].to_bits()),
                    "drained: available and used are one"
                );
            }
        }
        drop(front_end);
        let report = session.end().unwrap();
        assert_eq!(report.stats.port.taken_frames, 24);
    }
}

/// The session ends with a sentence; the daemon serves the next one.
fn refused(size: u16, base: u16) -> String {
    let (mut front_end, session) = OneSession::start(Settings::default());
    negotiate(&mut front_end);
    drop(start(&mut front_end, TX, size, base));
    session.end().expect_err("such a ring cannot be").to_string()
}

#[test]
fn sizes_and_places_that_no_packed_ring_has_are_refused_with_the_numbers() {
    for (size, base, expected) in [
        (0, 0x8000, "ring 1: a size of 0 is no number between 1 and 1024"),
        (1025, 0x8000, "ring 1: a size of 1025 is no number between 1 and 1024"),
        (32769, 0x8000, "ring 1: a size of 32769 is no number between 1 and 1024"),
        (7, 7, "a packed ring of 7 slots cannot go on at 0x7"),
        (16, 0x8010, "a packed ring of 16 slots cannot go on at 0x8010"),
    ] {
        let said = refused(size, base);
        assert!(said.contains(expected), "{said}");
    }
}

const RECEIVED: usize = 0x10000;
const SENT: usize = 0x20000;
