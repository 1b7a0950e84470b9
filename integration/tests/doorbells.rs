//! A backend that plays with the eventfds that both sides hold (attacks A105 and A106).
//!
//! The kick's flags and counter are the device's as much as ours: it clears `O_NONBLOCK` and drives the counter to its end,
//! and a write would block for ever. The call likewise: a plain read of a counter that was drained between the look and
//! the read would block. A relay between the driver and an honest backend keeps the driver's eventfds and gives the
//! backend others, so that nobody drains them.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use std::time::{Duration, Instant};

use ironring_backend::config::Settings;
use ironring_backend::session::relay::{Filter, Message, Side, Step, relay};
use ironring_backend::session::{StopToken, serve_connection};
use ironring_backend::worker::WaitPolicy;
use ironring_driver::net::{NetOptions, RxBatch, VirtioNet};
use ironring_driver::queue::RingLayout;
use ironring_driver::queue::violation::ViolationKind;
use ironring_driver::transport::{Deadlines, VhostUser};
use rustix::event::EventfdFlags;
use rustix::fs::OFlags;

const DEADLINES: Deadlines = Deadlines { connect: Duration::from_secs(60), request: Duration::from_secs(60) };
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;

/// Takes the driver's eventfds of one kind, and gives the backend its own.
struct Thief {
    request: u32,
    taken: Sender<OwnedFd>,
}

impl Filter for Thief {
    fn on_request(&mut self, mut message: Message) -> Vec<Step> {
        if message.request() == self.request {
            let own = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
            for fd in &mut message.fds {
                self.taken.send(std::mem::replace(fd, own.try_clone().unwrap())).unwrap();
            }
        }
        vec![Step::Send(Side::Backend, message)]
    }
}

/// A device whose doorbells of one kind are stolen: receive queue first.
fn robbed(request: u32, options: NetOptions) -> (VirtioNet, Receiver<OwnedFd>) {
    let (front, relayed) = UnixStream::pair().unwrap();
    let (onward, back) = UnixStream::pair().unwrap();
    let settings = Settings { wait: WaitPolicy::Interrupt, ..Settings::default() };
    std::thread::spawn(move || serve_connection(back, &settings, &StopToken::new().unwrap()));
    let (taken, stolen) = channel();
    std::thread::spawn(move || relay(&relayed, &onward, &mut Thief { request, taken }));
    (VirtioNet::bring_up(VhostUser::from_stream(front, DEADLINES).unwrap(), options).unwrap(), stolen)
}

fn options() -> impl Iterator<Item = NetOptions> {
    [RingLayout::Split, RingLayout::Packed]
        .into_iter()
        .flat_map(|layout| [false, true].map(|event_idx| NetOptions { layout, event_idx, ..NetOptions::default() }))
}

#[test]
fn a_kick_that_the_device_blocks_breaks_it_and_holds_nobody_up() {
    for options in options() {
        let (mut net, stolen) = robbed(SET_VRING_KICK, options);
        let (_rx, tx) = (stolen.recv().unwrap(), stolen.recv().unwrap());
        rustix::fs::fcntl_setfl(&tx, OFlags::empty()).unwrap();
        rustix::io::write(&tx, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        // Whether the backend wants a kick is a matter of when it fell asleep; the watchdog's kick comes in any case.
        let frame = vec![0; 60];
        let deadline = Instant::now() + Duration::from_secs(60);
        while net.violation().is_none() {
            assert!(Instant::now() < deadline, "{options:?}");
            let _ = net.tx().tx_burst(&[&frame]);
            let _ = net.wait(Duration::from_millis(30));
        }
        let violation = net.violation().unwrap();
        assert_eq!(violation.kind, ViolationKind::KickBlocked, "{violation}");
        assert_eq!(net.tx().reclaim(), Err(violation), "it is latched for both queues");
        assert_eq!(net.rx().rx_burst(&mut RxBatch::new(1, 60)), Err(violation));
    }
}

/// The device clears `O_NONBLOCK` of the calls, drains and fills them without end, and the driver sleeps all the same.
#[test]
fn calls_that_the_device_plays_with_block_nobody() {
    for options in options() {
        let (mut net, stolen) = robbed(SET_VRING_CALL, options);
        let calls = [stolen.recv().unwrap(), stolen.recv().unwrap()];
        let stop = Arc::new(AtomicBool::new(false));
        let racer = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut counter = [0; 8];
                while !stop.load(Ordering::Relaxed) {
                    for call in &calls {
                        rustix::fs::fcntl_setfl(call, OFlags::NONBLOCK).unwrap();
                        let _ = rustix::io::write(call, &1u64.to_ne_bytes());
                        let _ = rustix::io::read(call, &mut counter);
                        rustix::fs::fcntl_setfl(call, OFlags::empty()).unwrap();
                    }
                }
            }
        });
        let frames = vec![vec![7; 60]; 8];
        let mut batch = RxBatch::new(8, 1514);
        let mut back = 0;
        let deadline = Instant::now() + Duration::from_secs(60);
        for _ in 0..50 {
            assert_eq!(net.tx().tx_burst(&frames).unwrap(), 8);
            while back < 8 {
                assert!(Instant::now() < deadline, "{options:?}");
                net.wait(Duration::from_millis(100)).unwrap();
                back += net.rx().rx_burst(&mut batch).unwrap();
            }
            back -= 8;
        }
        stop.store(true, Ordering::Relaxed);
        racer.join().unwrap();
        assert_eq!(net.violation(), None, "it is the device's own signals that it spoils");
    }
}
