//! An independent front-end (the one that cloud-hypervisor speaks), and a driver that is just good enough to be a guest.
//!
//! The driver trusts its device and stands here so that the backend is not tested with our own driver alone.

#![allow(dead_code, reason = "each test file uses its part")]

pub(crate) mod daemon;

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ironring_backend::config::Settings;
use ironring_backend::sandbox::{Refusal, Sandbox};
use ironring_backend::session::relay::Message;
use ironring_backend::session::{Report, ServeError, SessionError, StopToken, serve, serve_connection};
use ironring_common::features::Feature;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::words::Words;
use ironring_common::spec::net::HDR_BYTES;
use ironring_common::spec::split::{
    AVAIL_IDX, AVAIL_RING, DESC_BYTES, DESC_F_WRITE, Descriptor, USED_IDX, USED_RING, UsedElem,
};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

/// Where the guest's memory lies for descriptors.
pub(crate) const GUEST_BASE: u64 = 0x10_0000;
/// Where it lies for the front-end, which names rings by these addresses.
pub(crate) const USER_BASE: u64 = 0x7f00_0000_0000;
/// Bytes of the guest's memory.
pub(crate) const MEMORY_BYTES: usize = 1 << 20;
/// Descriptors of each ring.
pub(crate) const SIZE: u16 = 16;
/// The features that a driver takes.
pub(crate) const FEATURES: u64 = Feature::Version1.mask() | Feature::ProtocolFeatures.mask() | Feature::Mac.mask();
/// The receive ring.
pub(crate) const RX: usize = 0;
/// The transmit ring.
pub(crate) const TX: usize = 1;

/// A backend behind a listening socket, in a thread.
pub(crate) struct Backend {
    pub(crate) dir: tempfile::TempDir,
    stop: StopToken,
    thread: Option<JoinHandle<Result<u64, ServeError>>>,
}

impl Backend {
    pub(crate) fn start(settings: Settings) -> Self {
        let settings = confined(settings);
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("socket")).unwrap();
        let stop = StopToken::new().unwrap();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || serve(listener, &settings, &stop)
        });
        Self { dir, stop, thread: Some(thread) }
    }

    pub(crate) fn connect(&self) -> FrontEnd {
        FrontEnd::new(UnixStream::connect(self.dir.path().join("socket")).unwrap())
    }

    /// Ends it and tells how many connections were served.
    pub(crate) fn stop(mut self) -> u64 {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

/// A backend for one connection, in a thread.
pub(crate) struct OneSession(JoinHandle<Result<Report, SessionError>>);

impl OneSession {
    pub(crate) fn start(settings: Settings) -> (FrontEnd, Self) {
        let settings = confined(settings);
        let (ours, theirs) = UnixStream::pair().unwrap();
        let stop = StopToken::new().unwrap();
        (FrontEnd::new(ours), Self(std::thread::spawn(move || serve_connection(theirs, &settings, &stop))))
    }

    pub(crate) fn end(self) -> Result<Report, SessionError> {
        self.0.join().unwrap()
    }
}

/// A system call that the threads of a session should have no need of ends the test.
fn confined(settings: Settings) -> Settings {
    Settings { sandbox: Sandbox::new(Refusal::End).unwrap(), ..settings }
}

/// A front-end with its guest.
pub(crate) struct FrontEnd {
    pub(crate) vhost: Frontend,
    /// The same socket, for bytes that the crate would not send.
    pub(crate) socket: UnixStream,
    pub(crate) guest: Guest,
}

/// One step on the way to running rings.
pub(crate) type Step = fn(&mut FrontEnd) -> vhost::Result<()>;

impl FrontEnd {
    pub(crate) fn new(socket: UnixStream) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(TIMEOUT_MS.unsigned_abs().into()))).unwrap();
        let vhost = Frontend::from_stream(socket.try_clone().unwrap(), 2);
        Self { vhost, socket, guest: Guest::new() }
    }

    /// All steps, in an order that front-ends use.
    pub(crate) const STEPS: [Step; 9] = [
        |f| f.vhost.set_owner(),
        |f| f.vhost.get_features().map(drop),
        |f| {
            let wanted = f.vhost.get_protocol_features()?;
            f.vhost.set_protocol_features(wanted & PROTOCOL)?;
            f.vhost.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            Ok(())
        },
        |f| f.vhost.set_features(FEATURES),
        |f| f.share(GUEST_BASE, MEMORY_BYTES as u64),
        |f| f.describe(RX, 0),
        |f| f.describe(TX, 0),
        |f| f.kick_off(RX),
        |f| f.kick_off(TX),
    ];

    /// The first `steps` steps.
    pub(crate) fn walk(&mut self, steps: usize) {
        for (at, step) in Self::STEPS.into_iter().take(steps).enumerate() {
            step(self).unwrap_or_else(|e| panic!("step {at}: {e}"));
        }
    }

    /// All steps: both rings run and are enabled.
    pub(crate) fn bring_up(&mut self) {
        self.walk(Self::STEPS.len());
    }

    /// Everything but the rings.
    pub(crate) fn negotiate(&mut self) {
        self.walk(5);
    }

    pub(crate) fn region(&self, bytes: u64) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST_BASE,
            memory_size: bytes,
            userspace_addr: USER_BASE,
            mmap_offset: 0,
            mmap_handle: self.guest.memfd.as_fd().as_raw_fd(),
        }
    }

    pub(crate) fn share(&mut self, at: u64, bytes: u64) -> vhost::Result<()> {
        let region = VhostUserMemoryRegionInfo { guest_phys_addr: at, ..self.region(bytes) };
        self.vhost.set_mem_table(&[region]).map(drop)
    }

    pub(crate) fn place(&self, ring: usize) -> VringConfigData {
        let at = USER_BASE + Guest::ring(ring) as u64;
        VringConfigData {
            queue_max_size: SIZE,
            queue_size: SIZE,
            flags: 0,
            desc_table_addr: at,
            avail_ring_addr: at + AVAIL as u64,
            used_ring_addr: at + USED as u64,
            log_addr: None,
        }
    }

    pub(crate) fn describe(&mut self, ring: usize, base: u16) -> vhost::Result<()> {
        self.vhost.set_vring_num(ring, SIZE)?;
        self.vhost.set_vring_base(ring, base)?;
        self.vhost.set_vring_addr(ring, &self.place(ring))
    }

    pub(crate) fn kick_off(&mut self, ring: usize) -> vhost::Result<()> {
        let bells = &self.guest.bells[ring];
        self.vhost.set_vring_kick(ring, &bells.kick)?;
        self.vhost.set_vring_call(ring, &bells.call)?;
        self.vhost.set_vring_enable(ring, true)
    }

    /// Sends a message of which the crate knows nothing, with descriptors.
    pub(crate) fn send(&mut self, message: &Message, fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        let bytes = [IoSlice::new(&message.bytes)];
        assert_eq!(sendmsg(&self.socket, &bytes, &mut control, SendFlags::NOSIGNAL).unwrap(), message.bytes.len());
    }

    /// Frames of several sizes there and back.
    pub(crate) fn echo(&mut self) {
        for bytes in [14, 60, 1514] {
            self.guest.echo(bytes);
        }
    }
}

/// What the front-end can do.
pub(crate) const PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::MQ
    .union(VhostUserProtocolFeatures::CONFIG)
    .union(VhostUserProtocolFeatures::REPLY_ACK)
    .union(VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS);

/// A driver in memory of its own.
pub(crate) struct Guest {
    pub(crate) memfd: Memfd,
    memory: Arc<Mapping>,
    pub(crate) bells: [Bells; 2],
    /// Chains added and used elements seen, by ring.
    added: [u16; 2],
    seen: [u16; 2],
    sent: u8,
}

pub(crate) struct Bells {
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
    /// Waits for the call.
    epoll: Epoll,
}

impl Bells {
    fn new() -> Self {
        let (kick, call, epoll) = (EventFd::new(0).unwrap(), EventFd::new(0).unwrap(), Epoll::new().unwrap());
        epoll.ctl(ControlOperation::Add, call.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
        Self { kick, call, epoll }
    }

    fn wait_for_call(&self) {
        let ready = self.epoll.wait(TIMEOUT_MS, &mut [EpollEvent::default()]).unwrap();
        assert_ne!(ready, 0, "the driver is not called");
        self.call.read().unwrap();
    }
}

impl Guest {
    fn new() -> Self {
        let memfd = Memfd::create("guest", MEMORY_BYTES).unwrap();
        let memory = Mapping::of(&memfd).unwrap();
        Self { memfd, memory, bells: [Bells::new(), Bells::new()], added: [0; 2], seen: [0; 2], sent: 0 }
    }

    /// Where a ring lies.
    fn ring(ring: usize) -> usize {
        0x4000 * ring
    }

    /// Adds a chain of one buffer and kicks.
    pub(crate) fn add(&mut self, ring: usize, addr: u64, len: u32) {
        let slot = self.added[ring] % SIZE;
        let flags = if ring == RX { DESC_F_WRITE } else { 0 };
        let words = Descriptor { addr, len, flags, next: 0 }.to_words();
        let at = Self::ring(ring);
        let memory = self.memory.area(0, MEMORY_BYTES).unwrap();
        let desc = at + usize::from(slot) * DESC_BYTES;
        memory.store_u64(desc, words[0]);
        memory.store_u64(desc + 8, words[1]);
        memory.store_u16(at + AVAIL + AVAIL_RING + usize::from(slot) * 2, slot);
        self.added[ring] = self.added[ring].wrapping_add(1);
        memory.store_u16_release(at + AVAIL + AVAIL_IDX, self.added[ring]);
        self.bells[ring].kick.write(1).unwrap();
    }

    /// Waits for the next used element.
    pub(crate) fn used(&mut self, ring: usize) -> UsedElem {
        let memory = self.memory.area(0, MEMORY_BYTES).unwrap();
        let at = Self::ring(ring) + USED;
        while memory.load_u16_acquire(at + USED_IDX) == self.seen[ring] {
            self.bells[ring].wait_for_call();
        }
        let slot = usize::from(self.seen[ring] % SIZE);
        self.seen[ring] = self.seen[ring].wrapping_add(1);
        let element = at + USED_RING + slot * 8;
        UsedElem { id: memory.load_u32(element), len: memory.load_u32(element + 4) }
    }

    /// The next frame that the device gives.
    pub(crate) fn receive(&mut self) -> Vec<u8> {
        self.add(RX, GUEST_BASE + RX_BUFFER as u64, BUFFER_BYTES);
        let len = self.used(RX).len as usize;
        let mut frame = vec![0; len - HDR_BYTES];
        self.memory.area(0, MEMORY_BYTES).unwrap().copy_out(RX_BUFFER + HDR_BYTES, &mut frame);
        frame
    }

    /// One frame of `bytes` bytes from the transmit ring to the receive ring.
    pub(crate) fn echo(&mut self, bytes: usize) {
        self.sent = self.sent.wrapping_add(1);
        let memory = self.memory.area(0, MEMORY_BYTES).unwrap();
        let frame: Vec<u8> = (0..bytes).map(|at| (at as u8).wrapping_mul(7).wrapping_add(self.sent)).collect();
        self.write_frame(&frame);
        self.add(RX, GUEST_BASE + RX_BUFFER as u64, BUFFER_BYTES);
        self.add(TX, GUEST_BASE + TX_BUFFER as u64, (HDR_BYTES + bytes) as u32);
        self.used(TX);
        let len = self.used(RX).len as usize;
        assert_eq!(len, HDR_BYTES + bytes);
        let mut back = vec![0; bytes];
        memory.copy_out(RX_BUFFER + HDR_BYTES, &mut back);
        assert!(back == frame, "the frame of {bytes} bytes came back changed");
    }

    /// What is sent from now on by [`stream`](Self::stream).
    pub(crate) fn write_frame(&self, frame: &[u8]) {
        let memory = self.memory.area(0, MEMORY_BYTES).unwrap();
        memory.zero(TX_BUFFER, HDR_BYTES);
        memory.copy_in(TX_BUFFER + HDR_BYTES, frame);
    }

    /// One step of a driver that keeps both rings full, of frames of `bytes` bytes; how many chains of each were used.
    pub(crate) fn stream(&mut self, bytes: usize) -> [u32; 2] {
        let mut used = [0; 2];
        for (ring, addr, len) in [(RX, RX_BUFFER, BUFFER_BYTES), (TX, TX_BUFFER, (HDR_BYTES + bytes) as u32)] {
            while self.is_used(ring) {
                self.used(ring);
                used[ring] += 1;
            }
            while self.added[ring].wrapping_sub(self.seen[ring]) < SIZE {
                self.add(ring, GUEST_BASE + addr as u64, len);
            }
        }
        used
    }

    /// Whether there is a used element to be taken.
    fn is_used(&self, ring: usize) -> bool {
        let memory = self.memory.area(0, MEMORY_BYTES).unwrap();
        memory.load_u16_acquire(Self::ring(ring) + USED + USED_IDX) != self.seen[ring]
    }

    /// A driver that starts its rings anew.
    pub(crate) fn restart(&mut self) {
        let memory = self.memory.area(0, MEMORY_BYTES).unwrap();
        memory.zero(0, 0x8000);
        (self.added, self.seen) = ([0; 2], [0; 2]);
    }

    /// Chains added to a ring so far.
    pub(crate) fn added(&self, ring: usize) -> u16 {
        self.added[ring]
    }
}

const AVAIL: usize = 0x1000;
const USED: usize = 0x2000;
const RX_BUFFER: usize = 0x10000;
const TX_BUFFER: usize = 0x20000;
const BUFFER_BYTES: u32 = 2048;
/// How long anything may take.
const TIMEOUT_MS: i32 = 60_000;
