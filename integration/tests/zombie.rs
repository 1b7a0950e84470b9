//! A backend that was left behind and goes on writing (attack A95): it keeps the memory and the eventfds of its epoch for
//! ever, scribbles over all of it, plays with the doorbells, and changes nothing for the device that was reset.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ironring_backend::config::Settings;
use ironring_backend::session::relay::{Filter, Message, Side, Step, relay};
use ironring_backend::session::{StopToken, serve_connection};
use ironring_driver::net::{NetOptions, RxBatch, VirtioNet};
use ironring_driver::queue::RingLayout;
use ironring_driver::transport::{Deadlines, TransportError, VhostUser};
use rustix::fs::OFlags;

const DEADLINES: Deadlines = Deadlines { connect: Duration::from_secs(60), request: Duration::from_secs(60) };
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;

/// What an epoch gave its backend.
#[derive(Debug, Default)]
struct Loot {
    memory: Vec<OwnedFd>,
    bells: Vec<OwnedFd>,
}

/// Keeps a copy of every descriptor that passes.
struct Keeper(Arc<Mutex<Loot>>);

impl Filter for Keeper {
    fn on_request(&mut self, message: Message) -> Vec<Step> {
        let mut loot = self.0.lock().unwrap();
        let copies = message.fds.iter().map(|fd| fd.try_clone().unwrap());
        match message.request() {
            SET_MEM_TABLE => loot.memory.extend(copies),
            SET_VRING_KICK | SET_VRING_CALL => loot.bells.extend(copies),
            _ => {}
        }
        drop(loot);
        vec![Step::Send(Side::Backend, message)]
    }
}

/// A connection to a backend that keeps what it is given.
fn connect(loot: &Arc<Mutex<Loot>>) -> Result<VhostUser, TransportError> {
    let (front, relayed) = UnixStream::pair().unwrap();
    let (onward, back) = UnixStream::pair().unwrap();
    std::thread::spawn(move || serve_connection(back, &Settings::default(), &StopToken::new().unwrap()));
    let mut keeper = Keeper(Arc::clone(loot));
    std::thread::spawn(move || relay(&relayed, &onward, &mut keeper));
    VhostUser::from_stream(front, DEADLINES)
}

/// Frames there and back, each compared.
fn echo(net: &mut VirtioNet, rounds: u64) {
    let mut batch = RxBatch::new(16, 1514);
    let deadline = Instant::now() + Duration::from_secs(60);
    for round in 0..rounds {
        let mark = u8::try_from(round % 256).unwrap();
        let frames: Vec<_> = (0..16u8).map(|n| vec![n ^ mark; 60 + usize::from(n) * 80]).collect();
        assert_eq!(net.tx().tx_burst(&frames).unwrap(), 16);
        let mut back: Vec<Vec<u8>> = Vec::new();
        while back.len() < frames.len() {
            assert!(Instant::now() < deadline, "round {round}");
            net.rx().rx_burst(&mut batch).unwrap();
            back.extend(batch.frames().map(<[u8]>::to_vec));
        }
        assert!(back == frames, "round {round}");
    }
    assert!(net.is_conserved() && net.violation().is_none());
}

#[test]
fn a_zombie_that_writes_all_it_was_given_changes_nothing() {
    for (layout, queue_size) in [(RingLayout::Split, 64), (RingLayout::Packed, 60)] {
        let options = NetOptions { layout, queue_size, indirect: true, event_idx: true, ..NetOptions::default() };
        let old = Arc::<Mutex<Loot>>::default();
        let mut net = VirtioNet::bring_up(connect(&old).unwrap(), options).unwrap();
        echo(&mut net, 20);
        let new = Arc::<Mutex<Loot>>::default();
        net.reset(|| connect(&new)).unwrap();
        let Loot { memory, bells } = std::mem::take(&mut *old.lock().unwrap());
        assert_eq!((memory.len(), bells.len()), (2, 4), "all of the old epoch is in the zombie's hands");
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let zombie = std::thread::spawn({
            let (stop, written) = (Arc::clone(&stop), Arc::clone(&written));
            move || {
                let mut junk = vec![0u8; 1 << 16];
                for turn in (0u8..=255).cycle() {
                    junk.fill(turn);
                    for fd in &memory {
                        let len = usize::try_from(rustix::fs::fstat(fd).unwrap().st_size).unwrap();
                        for at in (0..len).step_by(junk.len()) {
                            let part = junk.len().min(len - at);
                            rustix::io::pwrite(fd, &junk[..part], at as u64).unwrap();
                        }
                    }
                    for bell in &bells {
                        rustix::fs::fcntl_setfl(bell, OFlags::NONBLOCK).unwrap();
                        let _ = rustix::io::write(bell, &(u64::MAX - 1).to_ne_bytes());
                        rustix::fs::fcntl_setfl(bell, OFlags::empty()).unwrap();
                    }
                    written.fetch_add(1, Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
        });
        let before = written.load(Ordering::Relaxed);
        while written.load(Ordering::Relaxed) < before + 3 {
            echo(&mut net, 20);
        }
        assert_eq!(net.epoch(), 1);
        stop.store(true, Ordering::Relaxed);
        zombie.join().unwrap();
        net.close().unwrap();
    }
}
