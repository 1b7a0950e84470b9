//! What an honest backend sees and says.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use ironring_common::error::Incompatible;
use ironring_common::features::{Feature, Supported};
use ironring_common::index::{GuestAddr, SplitIndex};
use ironring_driver::queue::StopWindow;
use ironring_driver::transport::{
    ChannelMisuse, ChannelViolation, Deadlines, NetConfig, Region, RingAddresses, TransportError, USER_BASE, VhostUser,
};
use rustix::event::EventfdFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use vhost::vhost_user::message::FrontendReq::{self, *};

use super::peer::*;

fn codes(requests: &[Request]) -> Vec<FrontendReq> {
    requests.iter().map(|request| FrontendReq::try_from(request.code).unwrap()).collect()
}

const QUEUE: [FrontendReq; 5] = [SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ADDR, SET_VRING_CALL, SET_VRING_KICK];

#[test]
fn a_session_with_acknowledgements() {
    let (mut driver, peer) = pair(Device::default(), LONG, Peer::serve);
    let config = session(&mut driver).unwrap();
    assert_eq!(config, Some(NetConfig { mac: Some(MAC), link_up: true, max_pairs: None, mtu: Some(1500) }));
    drop(driver);
    let requests = peer.join().unwrap();
    let mut expected = vec![SET_OWNER, GET_FEATURES, GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, SET_FEATURES];
    expected.extend([GET_CONFIG, SET_MEM_TABLE]);
    for _ in 0..2 {
        expected.extend(QUEUE);
        expected.push(SET_VRING_ENABLE);
    }
    expected.extend([GET_VRING_BASE; 2]);
    assert_eq!(codes(&requests), expected);
    assert_eq!(requests[3].body, 0x209u64.to_ne_bytes(), "MQ, REPLY_ACK and CONFIG, and nothing else that was offered");
    let bits = Feature::ProtocolFeatures.mask() | supported().bits();
    assert_eq!(requests[4].body, bits.to_ne_bytes());
    for request in &requests {
        let get = [GET_FEATURES, GET_PROTOCOL_FEATURES, GET_CONFIG, GET_VRING_BASE].map(u32::from);
        let early = [SET_OWNER, SET_PROTOCOL_FEATURES].map(u32::from);
        let asks = !get.contains(&request.code) && !early.contains(&request.code);
        assert_eq!(request.flags, if asks { 9 } else { 1 }, "request {}", request.code);
    }
}

#[test]
fn memory_and_rings_are_described_without_pointers() {
    let (mut driver, peer) = pair(Device::default(), LONG, Peer::serve);
    driver.negotiate(supported()).unwrap();
    let memory = rustix::fs::memfd_create("transport", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let kick = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let call = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    driver.set_memory(&[Region { start: GuestAddr(0x10_0000), len: 0x20_0000, fd: memory.as_fd() }]).unwrap();
    driver.start_queue(1, &RING, 0x8000_8000, kick.as_fd(), call.as_fd()).unwrap();
    rustix::io::write(&kick, &7u64.to_ne_bytes()).unwrap();
    rustix::io::write(&call, &9u64.to_ne_bytes()).unwrap();
    drop(driver);
    let requests = peer.join().unwrap();
    let [table, num, base, addr, call_message, kick_message] = &requests[5..] else { panic!("{}", requests.len()) };

    let words = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let pairs = |pair: [u32; 2]| pair.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    assert_eq!(table.body, [pairs([1, 0]), words(&[0x10_0000, 0x20_0000, USER_BASE + 0x10_0000, 0])].concat());
    assert_eq!(inode(&table.fds[0]), inode(&memory));
    assert_eq!(num.body, pairs([1, 256]));
    assert_eq!(base.body, pairs([1, 0x8000_8000]), "the base of a packed ring has 32 bits");
    let ring = [RING.desc, RING.used, RING.avail].map(|at| at.0 + USER_BASE);
    assert_eq!(addr.body, [pairs([1, 0]), words(&ring), words(&[0])].concat());
    assert_eq!((call_message.body.clone(), call_message.fds.len()), (words(&[1]), 1));
    assert_eq!((kick_message.body.clone(), kick_message.fds.len()), (words(&[1]), 1));
    for (received, rung) in [(kick_message, 7u64), (call_message, 9)] {
        let mut count = [0; 8];
        rustix::io::read(&received.fds[0], &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), rung, "kick and call are what was sent as kick and call");
    }
}

#[test]
fn without_acknowledgements_a_second_look_at_the_features_orders_things() {
    let (mut driver, peer) = pair(Device::without_acks(), LONG, Peer::serve);
    session(&mut driver).unwrap();
    drop(driver);
    let requests = peer.join().unwrap();
    let codes = codes(&requests);
    let at = codes.iter().position(|code| *code == SET_MEM_TABLE).unwrap();
    assert_eq!(codes[at + 1], GET_FEATURES);
    assert_eq!(codes.iter().filter(|code| **code == GET_FEATURES).count(), 6, "first, memory, two queues twice");
    assert!(requests.iter().all(|request| request.flags == 1), "nobody asks for an acknowledgement");
}

#[test]
fn configuration_is_only_read_where_it_is_served_and_agreed() {
    let (mut driver, peer) = pair(Device { protocol: REPLY_ACK, ..Device::default() }, LONG, Peer::serve);
    assert_eq!(session(&mut driver).unwrap(), None);
    drop(driver);
    assert!(!codes(&peer.join().unwrap()).contains(&GET_CONFIG));

    // Fields whose feature is not in force are not looked at, whatever they hold.
    let wild = Device { config: [0xff; 12], ..Device::default() };
    let (mut driver, _peer) = pair(wild, LONG, Peer::serve);
    let negotiated = driver.negotiate(Supported::none()).unwrap();
    let nothing = NetConfig { mac: None, link_up: true, max_pairs: None, mtu: None };
    assert_eq!(driver.config(negotiated).unwrap(), Some(nothing));
}

#[test]
fn an_offer_that_will_not_do_is_incompatible() {
    for feature in [Feature::Version1, Feature::ProtocolFeatures] {
        let device = Device { features: !feature.mask(), ..Device::default() };
        let (mut driver, _peer) = pair(device, LONG, Peer::serve);
        let error = driver.negotiate(supported()).unwrap_err();
        assert!(
            matches!(error, TransportError::Incompatible(Incompatible::MissingFeature(f)) if f == feature),
            "{error}"
        );
    }
}

#[test]
fn misuse_sends_nothing_and_ends_nothing() {
    let (mut driver, peer) = pair(Device::default(), LONG, Peer::serve);
    let memory = rustix::fs::memfd_create("transport", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let region = |start, len| Region { start: GuestAddr(start), len, fd: memory.as_fd() };
    let misuse = |outcome: Result<(), TransportError>| match outcome {
        Err(TransportError::Misuse(misuse)) => misuse,
        other => panic!("{other:?}"),
    };
    assert_eq!(misuse(driver.set_memory(&[region(0, 1)])), ChannelMisuse::NotNegotiated);
    assert_eq!(misuse(driver.enable_queue(0, true)), ChannelMisuse::NotNegotiated);
    driver.negotiate(supported()).unwrap();
    assert_eq!(misuse(driver.negotiate(supported()).map(drop)), ChannelMisuse::AlreadyNegotiated);
    assert_eq!(misuse(driver.set_memory(&[])), ChannelMisuse::RegionCount { count: 0 });
    let nine: Vec<_> = (0..9).map(|i| region(i * 4096, 4096)).collect();
    assert_eq!(misuse(driver.set_memory(&nine)), ChannelMisuse::RegionCount { count: 9 });
    for bad in [
        vec![region(0, 0)],
        vec![region(4096, 4096), region(0, 4096)],
        vec![region(0, 4097), region(4096, 4096)],
        vec![region(u64::MAX - 1, 4096)],
        vec![region(u64::MAX - USER_BASE, 4096)],
    ] {
        assert!(matches!(misuse(driver.set_memory(&bad)), ChannelMisuse::Region { .. }));
    }
    let high = RingAddresses { used: GuestAddr(u64::MAX), ..RING };
    let fd = memory.as_fd();
    assert_eq!(misuse(driver.start_queue(256, &RING, 0, fd, fd)), ChannelMisuse::QueueIndex { index: 256 });
    assert_eq!(
        misuse(driver.start_queue(0, &high, 0, fd, fd)),
        ChannelMisuse::RingAddress { addr: GuestAddr(u64::MAX) }
    );
    driver.set_memory(&nine[..8]).unwrap();
    drop(driver);
    let requests = peer.join().unwrap();
    assert_eq!(requests.len(), 6, "the five of the negotiation and one memory table");
    assert_eq!(requests[5].fds.len(), 8);
}

/// Every position that the device can have reached is taken, across the wrap, and every other one is refused.
#[test]
fn the_stop_position_is_checked_against_the_drivers_own() {
    let published = 3u16;
    let window = StopWindow::Split { published: SplitIndex(published), held: 5 };
    for base in [0xfffd, 0xfffe, 0xffff, 0, 2, 3, 4, 0x8000] {
        // The upper half carries what some backends leave there.
        let device = Device { base: 0xabcd_0000 | u32::from(base), ..Device::default() };
        let (mut driver, _peer) = pair(device, LONG, Peer::serve);
        driver.negotiate(supported()).unwrap();
        let outcome = driver.stop_queue(0, window);
        if base >= 0xfffe || base <= published {
            assert_eq!(outcome.unwrap(), base);
        } else {
            let expected = ChannelViolation::BaseMismatch { queue: 0, got: base, window };
            assert!(matches!(outcome, Err(TransportError::Misbehaved(got)) if got == expected), "{outcome:?}");
        }
    }
}

/// A folder of this test's own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ironring-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn connecting_waits_for_a_backend_that_starts_later() {
    let folder = Folder::new("late");
    let path = folder.0.join("socket");
    let at = path.clone();
    let (tell, told) = std::sync::mpsc::channel();
    let backend = std::thread::spawn(move || {
        // Not before the first attempt can have failed; if it has not, the test proves less and still passes.
        let _: Result<(), _> = told.recv_timeout(SHORT);
        let (stream, _) = UnixListener::bind(at).unwrap().accept().unwrap();
        Peer { stream, device: Device::default() }.serve().len()
    });
    let mut driver = VhostUser::connect(&path, Deadlines { connect: LONG, request: LONG }).unwrap();
    session(&mut driver).unwrap();
    drop((driver, tell));
    assert_eq!(backend.join().unwrap(), 21);
}

#[test]
fn connecting_ends_at_its_deadline() {
    let folder = Folder::new("absent");
    let deadlines = Deadlines { connect: SHORT, request: SHORT };
    let path = folder.0.join("socket");
    let error = in_time(|| VhostUser::connect(&path, deadlines)).unwrap_err();
    assert_eq!(error.class(), "connect", "{error}");

    // A listener that never accepts: its backlog takes two connections, then no more.
    let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    rustix::net::listen(&listener, 1).unwrap();
    let connect = || in_time(|| VhostUser::connect(&path, deadlines));
    let _waiting = [connect().unwrap(), connect().unwrap()];
    let error = connect().unwrap_err();
    let busy = |source: &std::io::Error| source.kind() == std::io::ErrorKind::WouldBlock;
    assert!(matches!(&error, TransportError::Connect { source, .. } if busy(source)), "{error}");

    let too_long = PathBuf::from("/").join("x".repeat(200));
    assert_eq!(VhostUser::connect(&too_long, deadlines).unwrap_err().class(), "connect");
}

#[test]
fn deadlines_of_any_length_are_accepted() {
    for deadline in [Duration::MAX, Duration::ZERO] {
        let (mut driver, _peer) = pair(Device::default(), deadline, Peer::serve);
        let outcome = session(&mut driver);
        assert_eq!(outcome.is_ok(), !deadline.is_zero(), "{outcome:?}");
    }
}
