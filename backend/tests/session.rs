//! Sessions under an independent front-end: what it may do in any order, when it leaves, and what it may not do.

#![allow(clippy::cast_possible_truncation, reason = "sizes of this test's own memory")]

mod support;

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ironring_backend::config::{Mac, Settings};
use ironring_backend::session::relay::Message;
use ironring_backend::session::{RingError, SessionError, StopToken, serve_connection};
use ironring_backend::worker::{ControlError, WaitPolicy};
use ironring_common::error::Incompatible;
use ironring_common::features::Feature;
use ironring_common::shm::guest::{GuestMemoryError, SealPolicy};
use ironring_common::shm::mapping::Memfd;
use ironring_common::shm::table::TableError;
use rustix::fs::MemfdFlags;
use support::{Backend, FEATURES, FrontEnd, GUEST_BASE, MEMORY_BYTES, OneSession, PROTOCOL, RX, SIZE, TX, USER_BASE};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

fn settings() -> Settings {
    let mac: Mac = "52:54:00:12:34:56".parse().unwrap();
    Settings { mac, mtu: Some(1500), ..Settings::default() }
}

/// The error of a session that `act` misbehaves in, after the rings were brought up.
fn refused_when_running(act: impl FnOnce(&mut FrontEnd)) -> SessionError {
    let (mut front_end, session) = OneSession::start(settings());
    front_end.bring_up();
    front_end.echo();
    act(&mut front_end);
    session.end().expect_err("this is no way to treat a running ring")
}

/// The error of a session that `act` misbehaves in, after everything but the rings.
fn refused_at_set_up(settings: Settings, act: impl FnOnce(&mut FrontEnd)) -> SessionError {
    let (mut front_end, session) = OneSession::start(settings);
    front_end.walk(4);
    act(&mut front_end);
    session.end().expect_err("this cannot be served")
}

#[test]
fn what_is_offered_and_what_the_configuration_says() {
    let backend = Backend::start(settings());
    let mut front_end = backend.connect();
    let features = front_end.vhost.get_features().unwrap();
    let offered = [
        Feature::Version1,
        Feature::ProtocolFeatures,
        Feature::Mac,
        Feature::MrgRxbuf,
        Feature::AccessPlatform,
        Feature::Status,
        Feature::Mtu,
        Feature::IndirectDesc,
        Feature::EventIdx,
        Feature::RingPacked,
        Feature::InOrder,
    ];
    assert_eq!(features, offered.into_iter().map(Feature::mask).sum::<u64>());
    let protocol = front_end.vhost.get_protocol_features().unwrap();
    assert_eq!(protocol, PROTOCOL | VhostUserProtocolFeatures::BACKEND_REQ);
    front_end.walk(3);
    assert_eq!(front_end.vhost.get_queue_num().unwrap(), 2);
    let whole = [0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0, 1, 0, 0xdc, 5];
    let read = |vhost: &mut vhost::vhost_user::Frontend, offset: u32, size: u32| {
        let flags = VhostUserConfigFlags::empty();
        vhost.get_config(offset, size, flags, &vec![0; size as usize]).unwrap().1
    };
    assert_eq!(read(&mut front_end.vhost, 0, 12), whole);
    assert_eq!(read(&mut front_end.vhost, 0, 6), whole[..6]);
    assert_eq!(read(&mut front_end.vhost, 7, 3), whole[7..10]);
    assert_eq!(read(&mut front_end.vhost, 10, 60)[..2], whole[10..]);
    assert_eq!(read(&mut front_end.vhost, 12, 244), [0; 244]);
    // Beyond the end there is nothing: a reply of size 0. The crate's front-end would wait for the rest of it.
    for (offset, size) in [(0u32, 257u32), (250, 7)] {
        let mut body: Vec<u8> = [offset, size, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
        body.resize(12 + size as usize, 0);
        front_end.socket.write_all(&Message::new(GET_CONFIG, VERSION, &body).bytes).unwrap();
        let mut reply = [0; 24];
        front_end.socket.read_exact(&mut reply).unwrap();
        let words = reply.as_chunks().0.iter().map(|word| u32::from_ne_bytes(*word)).collect::<Vec<u32>>();
        assert_eq!((words[0], words[2], words[4]), (GET_CONFIG, 12, 0), "no bytes for {size} at {offset}");
    }
    assert_eq!(read(&mut front_end.vhost, 0, 12), whole, "and the session goes on");
    drop(front_end);
    assert_eq!(backend.stop(), 1);
}

#[test]
fn frames_pass_and_a_stopped_ring_goes_on_where_it_stopped() {
    let backend = Backend::start(settings());
    let mut front_end = backend.connect();
    front_end.bring_up();
    for _ in 0..10 {
        front_end.echo();
    }
    for _ in 0..3 {
        let bases = [TX, RX].map(|ring| front_end.vhost.get_vring_base(ring).unwrap());
        assert_eq!(bases, [TX, RX].map(|ring| u32::from(front_end.guest.added(ring))));
        for (ring, base) in [TX, RX].into_iter().zip(bases) {
            front_end.describe(ring, base as u16).unwrap();
            front_end.kick_off(ring).unwrap();
        }
        front_end.echo();
    }
}

/// A guest that reboots starts its rings from 0.
#[test]
fn rings_can_be_started_anew() {
    let backend = Backend::start(settings());
    let mut front_end = backend.connect();
    front_end.bring_up();
    front_end.echo();
    for ring in [RX, TX] {
        front_end.vhost.get_vring_base(ring).unwrap();
    }
    front_end.guest.restart();
    front_end.vhost.set_features(FEATURES).unwrap();
    front_end.share(GUEST_BASE, MEMORY_BYTES as u64).unwrap();
    for ring in [TX, RX] {
        front_end.describe(ring, 0).unwrap();
        front_end.kick_off(ring).unwrap();
    }
    front_end.echo();
}

#[test]
fn the_base_of_a_ring_that_never_ran_is_what_was_set() {
    let (mut front_end, session) = OneSession::start(settings());
    front_end.negotiate();
    assert_eq!(front_end.vhost.get_vring_base(RX).unwrap(), 0);
    front_end.describe(RX, 7).unwrap();
    assert_eq!(front_end.vhost.get_vring_base(RX).unwrap(), 7);
    drop(front_end);
    session.end().unwrap();
}

/// The order is the front-end's: here kick and call come before anything that describes the ring.
#[test]
fn a_ring_starts_when_it_is_described_whatever_comes_first() {
    let (mut front_end, session) = OneSession::start(settings());
    front_end.negotiate();
    for ring in [RX, TX] {
        front_end.kick_off(ring).unwrap();
        front_end.describe(ring, 0).unwrap();
    }
    front_end.echo();
    drop(front_end);
    let report = session.end().unwrap();
    assert_eq!(report.stats.port.taken_frames, 3);
    assert_eq!(report.negotiated.unwrap().bits(), FEATURES);
}

/// DPDK's driver polls: it sends no kick.
#[test]
fn a_driver_may_do_without_kicks() {
    let (mut front_end, session) = OneSession::start(settings());
    front_end.negotiate();
    for ring in [RX, TX] {
        front_end.describe(ring, 0).unwrap();
        front_end.vhost.set_vring_call(ring, &front_end.guest.bells[ring].call).unwrap();
        front_end.vhost.set_vring_enable(ring, true).unwrap();
        let no_descriptor = (ring as u64 | 0x100).to_ne_bytes();
        front_end.socket.write_all(&Message::new(SET_VRING_KICK, VERSION, &no_descriptor).bytes).unwrap();
    }
    front_end.echo();
    drop(front_end);
    session.end().unwrap();
}

#[test]
fn a_front_end_may_leave_after_any_step() {
    let backend = Backend::start(settings());
    for steps in 0..=FrontEnd::STEPS.len() {
        backend.connect().walk(steps);
        // And with a request whose answer it does not wait for.
        let mut front_end = backend.connect();
        front_end.walk(steps);
        front_end.socket.write_all(&Message::new(GET_FEATURES, VERSION, &[]).bytes).unwrap();
        drop(front_end);
        // And in the middle of a message.
        let mut front_end = backend.connect();
        front_end.walk(steps);
        front_end.socket.write_all(&[1, 0, 0]).unwrap();
    }
    let mut front_end = backend.connect();
    front_end.bring_up();
    front_end.echo();
    drop(front_end);
    assert_eq!(backend.stop(), 3 * (FrontEnd::STEPS.len() as u64 + 1) + 1);
}

#[test]
fn a_front_end_that_crashes_with_traffic_is_served_again() {
    let backend = Backend::start(settings());
    for _ in 0..5 {
        let mut front_end = backend.connect();
        front_end.bring_up();
        front_end.echo();
        // Chains that nobody waits for.
        for _ in 0..SIZE {
            front_end.guest.add(TX, GUEST_BASE + 0x20000, 60);
        }
    }
}

/// The next front-end waits in the backlog, and is served when the first one has left.
#[test]
fn front_ends_are_served_one_after_another() {
    let backend = Backend::start(settings());
    let mut first = backend.connect();
    first.bring_up();
    let mut second = backend.connect();
    let waiting = std::thread::spawn(move || {
        second.bring_up();
        second.echo();
    });
    first.echo();
    drop(first);
    waiting.join().unwrap();
}

#[test]
fn a_silent_front_end_does_not_hold_up_a_stop() {
    let (silent, ours) = UnixStream::pair().unwrap();
    let stop = StopToken::new().unwrap();
    let session = std::thread::spawn({
        let stop = stop.clone();
        move || serve_connection(ours, &settings(), &stop)
    });
    let mut front_end = FrontEnd::new(silent);
    front_end.bring_up();
    stop.stop();
    session.join().unwrap().unwrap();
    assert_eq!(front_end.socket.read(&mut [0]).unwrap(), 0, "it is told");
    // A stop that came first ends it too.
    let (_silent, ours) = UnixStream::pair().unwrap();
    serve_connection(ours, &settings(), &stop).unwrap();
}

#[test]
fn a_running_ring_stays_as_it_was_described() {
    let what = |error| match error {
        SessionError::Ring(RingError::Running { ring: RX, what }) => what,
        other => panic!("{other}"),
    };
    assert_eq!(what(refused_when_running(|f| drop(f.vhost.set_vring_num(RX, 8)))), "size");
    assert_eq!(what(refused_when_running(|f| drop(f.vhost.set_vring_base(RX, 3)))), "base");
    let elsewhere = |f: &FrontEnd| VringConfigData { desc_table_addr: USER_BASE + 0x8000, ..f.place(RX) };
    assert_eq!(what(refused_when_running(|f| drop(f.vhost.set_vring_addr(RX, &elsewhere(f))))), "place");
    let fewer = |f: &mut FrontEnd| drop(f.vhost.set_features(FEATURES & !Feature::Mac.mask()));
    assert_eq!(what(refused_when_running(fewer)), "features");
}

/// The messages of cloud-hypervisor in their order, as its `vu_common_ctrl.rs` sends them for a network card: set-up, a
/// pause, and a guest that reboots, where some versions disable the rings and do not stop them.
#[test]
fn cloud_hypervisor_is_served_through_pauses_and_reboots() {
    let (mut f, session) = OneSession::start(settings());
    f.vhost.set_owner().unwrap();
    let features = f.vhost.get_features().unwrap() & FEATURES;
    let protocol = f.vhost.get_protocol_features().unwrap() & PROTOCOL;
    f.vhost.set_protocol_features(protocol).unwrap();
    f.vhost.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    assert_eq!(f.vhost.get_queue_num().unwrap(), 2);
    let set_up = |f: &mut FrontEnd, features: u64| {
        f.vhost.set_features(features).unwrap();
        f.share(GUEST_BASE, MEMORY_BYTES as u64).unwrap();
        for ring in [RX, TX] {
            f.vhost.set_vring_num(ring, SIZE).unwrap();
        }
        for ring in [RX, TX] {
            f.vhost.set_vring_addr(ring, &f.place(ring)).unwrap();
            f.vhost.set_vring_base(ring, f.guest.added(ring)).unwrap();
            f.vhost.set_vring_call(ring, &f.guest.bells[ring].call).unwrap();
            f.vhost.set_vring_kick(ring, &f.guest.bells[ring].kick).unwrap();
        }
    };
    let enable = |f: &mut FrontEnd, on: bool| {
        for ring in [RX, TX] {
            f.vhost.set_vring_enable(ring, on).unwrap();
        }
    };
    set_up(&mut f, features);
    enable(&mut f, true);
    f.echo();
    enable(&mut f, false);
    enable(&mut f, true);
    f.echo();
    // The firmware, and then the next kernel, with fewer features and again with all.
    for features in [features & !Feature::Mac.mask(), features] {
        enable(&mut f, false);
        f.guest.restart();
        set_up(&mut f, features);
        enable(&mut f, true);
        f.echo();
    }
    drop(f);
    let report = session.end().unwrap();
    assert_eq!(report.stats.port.taken_frames, 12);
}

/// The doorbells are not part of what a ring is: a front-end may exchange them while it runs.
#[test]
fn a_running_ring_takes_a_new_kick() {
    let (mut front_end, session) = OneSession::start(Settings { wait: WaitPolicy::Interrupt, ..settings() });
    front_end.bring_up();
    front_end.echo();
    for ring in [RX, TX] {
        let kick = EventFd::new(0).unwrap();
        front_end.vhost.set_vring_kick(ring, &kick).unwrap();
        let old = std::mem::replace(&mut front_end.guest.bells[ring].kick, kick);
        old.write(1).unwrap();
        front_end.echo();
        // Whoever waits for kicks takes them.
        let started = Instant::now();
        while is_readable(&front_end.guest.bells[ring].kick) {
            assert!(started.elapsed() < Duration::from_secs(30), "nobody waits for the new kick of ring {ring}");
            std::thread::yield_now();
        }
        assert!(is_readable(&old), "the old kick of ring {ring} is nobody's");
    }
    // And back to none: the worker looks by itself.
    for ring in [RX, TX] {
        let no_descriptor = (ring as u64 | 0x100).to_ne_bytes();
        front_end.socket.write_all(&Message::new(SET_VRING_KICK, VERSION, &no_descriptor).bytes).unwrap();
    }
    front_end.echo();
    drop(front_end);
    session.end().unwrap();
}

fn is_readable(bell: &EventFd) -> bool {
    let epoll = Epoll::new().unwrap();
    epoll.ctl(ControlOperation::Add, bell.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
    epoll.wait(0, &mut [EpollEvent::default()]).unwrap() > 0
}

/// QEMU repeats itself when it turns the log of dirty pages on and off.
#[test]
fn saying_the_same_again_changes_nothing() {
    let (mut front_end, session) = OneSession::start(settings());
    front_end.bring_up();
    front_end.echo();
    front_end.vhost.set_vring_num(RX, SIZE).unwrap();
    front_end.vhost.set_vring_addr(RX, &front_end.place(RX)).unwrap();
    front_end.vhost.set_features(FEATURES).unwrap();
    front_end.vhost.set_vring_enable(RX, true).unwrap();
    front_end.echo();
    drop(front_end);
    session.end().unwrap();
}

#[test]
fn a_ring_that_cannot_be_served_ends_its_session() {
    let error = refused_at_set_up(settings(), |f| drop(f.vhost.set_vring_num(TX, 200)));
    assert!(matches!(error, SessionError::Ring(RingError::Size { ring: TX, size: 200, max: 1024, .. })), "{error}");
    let small = Settings { queue_size: 256, ..settings() };
    let error = refused_at_set_up(small, |f| drop(f.vhost.set_vring_num(TX, 512)));
    assert!(matches!(error, SessionError::Ring(RingError::Size { ring: TX, size: 512, max: 256, .. })), "{error}");
    // The last used elements lie beyond the memory.
    let error = refused_at_set_up(settings(), |f| {
        f.share(GUEST_BASE, MEMORY_BYTES as u64).unwrap();
        f.vhost.set_vring_num(RX, SIZE).unwrap();
        let end = USER_BASE + MEMORY_BYTES as u64;
        let place = VringConfigData { used_ring_addr: end - 64, ..f.place(RX) };
        f.vhost.set_vring_addr(RX, &place).unwrap();
        drop(f.kick_off(RX));
    });
    let outside = matches!(
        error,
        SessionError::Ring(RingError::Worker(ControlError::OutsideMemory { ring: RX, area: "used ring", .. }))
    );
    assert!(outside, "{error}");
}

#[test]
fn memory_is_checked_before_it_is_touched() {
    let error = refused_at_set_up(settings(), |f| drop(f.share(GUEST_BASE, 2 * MEMORY_BYTES as u64)));
    let have_need = match error {
        SessionError::Memory(GuestMemoryError::Table(TableError::FileTooSmall { have, need, .. })) => (have, need),
        other => panic!("{other}"),
    };
    assert_eq!(have_need, (MEMORY_BYTES as u64, 2 * MEMORY_BYTES as u64));

    // A memfd whose owner forbade all seals stays shrinkable.
    let shrinkable = rustix::fs::memfd_create("shrinkable", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&shrinkable, MEMORY_BYTES as u64).unwrap();
    let share = |f: &mut FrontEnd| {
        let region = VhostUserMemoryRegionInfo { mmap_handle: shrinkable.as_raw_fd(), ..f.region(MEMORY_BYTES as u64) };
        f.vhost.set_mem_table(&[region])
    };
    let error = refused_at_set_up(settings(), |f| drop(share(f)));
    let unsealed = matches!(error, SessionError::Memory(GuestMemoryError::Table(TableError::NotSealed { .. })));
    assert!(unsealed, "{error}");
    let (mut front_end, session) = OneSession::start(Settings { seals: SealPolicy::Tolerate, ..settings() });
    front_end.walk(4);
    share(&mut front_end).unwrap();
    drop(front_end);
    session.end().unwrap();
}

/// Huge pages take the seal, but a touch of one that is not there kills the process when the pool is empty, as it is on
/// most machines; so they are refused before anything is touched.
#[test]
fn huge_pages_are_refused_unless_the_risk_is_accepted() {
    const HUGE: u64 = 2 << 20;
    // Neither making nor sizing it takes a page out of the pool.
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let Ok(huge) = rustix::fs::memfd_create("huge", flags) else {
        writeln!(std::io::stderr(), "SKIP: this kernel has no hugetlb memfds of 2 MiB pages").unwrap();
        return;
    };
    rustix::fs::ftruncate(&huge, HUGE).unwrap();
    let share = |f: &mut FrontEnd| {
        let region = VhostUserMemoryRegionInfo { mmap_handle: huge.as_raw_fd(), ..f.region(HUGE) };
        f.vhost.set_mem_table(&[region])
    };
    let error = refused_at_set_up(settings(), |f| drop(share(f)));
    assert!(matches!(error, SessionError::Memory(GuestMemoryError::HugePages { .. })), "{error}");
    assert!(error.to_string().contains("--allow-unsealed-memory"), "{error}");
    let (mut front_end, session) = OneSession::start(Settings { seals: SealPolicy::Tolerate, ..settings() });
    front_end.walk(4);
    share(&mut front_end).unwrap();
    drop(front_end);
    session.end().unwrap();
}

#[test]
fn memory_comes_and_goes_under_running_rings() {
    let (mut front_end, session) = OneSession::start(settings());
    front_end.bring_up();
    front_end.echo();
    let more = Memfd::create("more", 4096).unwrap();
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: 0x100_0000,
        memory_size: 4096,
        userspace_addr: USER_BASE + 0x100_0000,
        mmap_offset: 0,
        mmap_handle: more.as_fd().as_raw_fd(),
    };
    front_end.vhost.add_mem_region(&region).unwrap();
    front_end.echo();
    // A transmit buffer in the new region: zeros, which is a header and a frame.
    front_end.guest.add(TX, 0x100_0000, 100);
    front_end.guest.add(RX, GUEST_BASE + 0x18000, 2048);
    assert_eq!(front_end.guest.used(TX).len, 0);
    assert_eq!(front_end.guest.used(RX).len, 100);
    front_end.vhost.remove_mem_region(&region).unwrap();
    front_end.echo();
    drop(front_end);
    let report = session.end().unwrap();
    assert_eq!(report.stats.port.taken_frames, 10);
}

#[test]
fn features_are_accepted_by_the_rules_only() {
    let (mut front_end, session) = OneSession::start(settings());
    front_end.walk(3);
    drop(front_end.vhost.set_features(FEATURES & !Feature::Version1.mask()));
    let error = session.end().unwrap_err();
    let missing = SessionError::Features(Incompatible::MissingFeature(Feature::Version1));
    assert_eq!(error.to_string(), missing.to_string());
    let (mut front_end, session) = OneSession::start(settings());
    front_end.walk(3);
    assert!(front_end.vhost.set_features(FEATURES | Feature::CtrlVq.mask()).is_err());
    assert!(matches!(session.end(), Err(SessionError::Protocol(_))));
}

/// A front-end may acknowledge protocol features that were not offered; the messages behind them end the session.
#[test]
fn messages_of_features_that_were_not_offered_end_the_session() {
    let all = VhostUserProtocolFeatures::all().bits();
    for (request, body) in [(GET_INFLIGHT_FD, 24), (SEND_RARP, 8), (SET_STATUS, 8), (NET_SET_MTU, 8), (IOTLB_MSG, 40)] {
        let (mut front_end, session) = OneSession::start(settings());
        front_end.walk(2);
        let send = |socket: &mut UnixStream, message: Message| socket.write_all(&message.bytes).unwrap();
        send(&mut front_end.socket, Message::new(SET_PROTOCOL_FEATURES, VERSION, &all.to_ne_bytes()));
        send(&mut front_end.socket, Message::new(request, VERSION, &vec![0; body]));
        let error = session.end().unwrap_err();
        assert!(matches!(error, SessionError::Protocol(_)), "{request}: {error}");
    }
}

#[test]
fn bytes_that_are_no_messages_end_the_session() {
    let mut oversized = Message::new(GET_FEATURES, VERSION, &[]).bytes;
    oversized.splice(8..12, u32::MAX.to_ne_bytes());
    let bad_version = Message::new(GET_FEATURES, 3, &[]).bytes;
    let a_reply = Message::new(GET_FEATURES, VERSION | 4, &[]).bytes;
    let unknown = Message::new(4711, VERSION, &[]).bytes;
    let wrong_body = Message::new(GET_FEATURES, VERSION, &[0; 5]).bytes;
    let ring_index = Message::new(SET_VRING_NUM, VERSION, &[0xff; 8]).bytes;
    for bytes in [oversized, bad_version, a_reply, unknown, wrong_body, ring_index] {
        let (mut front_end, session) = OneSession::start(settings());
        front_end.socket.write_all(&bytes).unwrap();
        let error = session.end().unwrap_err();
        assert!(matches!(error, SessionError::Protocol(_)), "{bytes:?}: {error}");
        assert_eq!(front_end.socket.read(&mut [0]).unwrap_or(0), 0, "the front-end is told");
    }
}

/// What the backend signals or waits on is what the front-end sent.
#[test]
fn a_kick_or_call_that_is_no_eventfd_ends_the_session() {
    let file = Memfd::create("no doorbell", 4096).unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let (socket, _other) = UnixStream::pair().unwrap();
    let zero = std::fs::File::open("/dev/zero").unwrap();
    for (fd, kind) in [
        (file.as_fd(), "RegularFile"),
        (pipe.as_fd(), "Fifo"),
        (socket.as_fd(), "Socket"),
        (zero.as_fd(), "CharacterDevice"),
    ] {
        for (request, what) in [(SET_VRING_KICK, "kick"), (SET_VRING_CALL, "call"), (SET_VRING_ERR, "error")] {
            let (mut front_end, session) = OneSession::start(settings());
            front_end.walk(6);
            front_end.send(&Message::new(request, VERSION, &1u64.to_ne_bytes()), &[fd]);
            let error = session.end().unwrap_err().to_string();
            assert!(error.contains(&format!("ring 1: the {what} eventfd")) && error.contains(kind), "{error}");
        }
    }
}

/// Every error above ends a session and not the backend.
#[test]
fn a_front_end_that_misbehaves_is_followed_by_one_that_does_not() {
    let backend = Backend::start(settings());
    let misdeeds: [fn(&mut FrontEnd); 5] = [
        |f| drop(f.vhost.set_vring_base(RX, 3)),
        |f| drop(f.vhost.set_vring_num(RX, 200)),
        |f| drop(f.share(GUEST_BASE, 2 * MEMORY_BYTES as u64)),
        |f| drop(f.vhost.set_features(0)),
        |f| f.socket.write_all(&[0xff; 64]).unwrap(),
    ];
    for misdeed in misdeeds {
        let mut front_end = backend.connect();
        front_end.bring_up();
        front_end.echo();
        misdeed(&mut front_end);
        assert_eq!(front_end.socket.read(&mut [0]).unwrap_or(0), 0, "it is hung up on");
        drop(front_end);
        let mut front_end = backend.connect();
        front_end.bring_up();
        front_end.echo();
    }
}

/// In the header: version 1.
const VERSION: u32 = 1;
const GET_FEATURES: u32 = 1;
const GET_CONFIG: u32 = 24;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SEND_RARP: u32 = 19;
const NET_SET_MTU: u32 = 20;
const IOTLB_MSG: u32 = 22;
const GET_INFLIGHT_FD: u32 = 31;
const SET_STATUS: u32 = 39;
