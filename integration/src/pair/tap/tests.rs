//! The bridge between a port that is no interface and an honest backend in this process.

use std::collections::VecDeque;
use std::io::PipeWriter;
use std::os::fd::BorrowedFd;
use std::thread::JoinHandle;

use ironring_backend::config::Settings;
use ironring_backend::session::{Report, SessionError, StopToken, serve_connection};
use ironring_driver::net::NetOptions;
use ironring_driver::transport::{Deadlines, VhostUser};

use super::*;

/// A port that gives `out`, keeps what it is given, and ends the run when it has `due` frames.
struct Wire<'a> {
    out: VecDeque<Vec<u8>>,
    back: Vec<Vec<u8>>,
    due: usize,
    slot: Vec<u8>,
    /// How often it was asked for a frame.
    looks: u32,
    fd: BorrowedFd<'a>,
    ending: &'a Ending,
    stats: PortStats,
}

impl Port for Wire<'_> {
    fn tx_slot(&mut self, len: usize) -> Option<&mut [u8]> {
        self.slot = vec![0; len];
        (len != NO_ROOM).then_some(&mut self.slot)
    }

    fn tx_commit(&mut self) {
        self.stats.taken_frames += 1;
        self.back.push(std::mem::take(&mut self.slot));
        if self.back.len() == self.due {
            self.ending.came.store(true, Ordering::SeqCst);
        }
    }

    fn rx_peek(&mut self) -> Option<&[u8]> {
        self.looks += 1;
        self.out.front().map(Vec::as_slice)
    }

    fn rx_consume(&mut self) {
        self.stats.given_frames += u64::from(self.out.pop_front().is_some());
    }

    fn readable_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd)
    }

    fn stats(&self) -> PortStats {
        self.stats
    }
}

type Session = JoinHandle<Result<Report, SessionError>>;

/// A device with queues of 4 on a loopback, and what ends it.
fn device() -> (VirtioNet, Session, StopToken) {
    let (front, back) = UnixStream::pair().unwrap();
    let stop = StopToken::new().unwrap();
    let session = std::thread::spawn({
        let stop = stop.clone();
        move || serve_connection(back, &Settings::default(), &stop)
    });
    let channel = VhostUser::from_stream(front, Deadlines::default()).unwrap();
    let options = NetOptions { queue_size: 4, ..NetOptions::default() };
    (VirtioNet::bring_up(channel, options).unwrap(), session, stop)
}

fn ending() -> (Ending, UnixStream) {
    let (wake, rung) = UnixStream::pair().unwrap();
    (Ending { came: Arc::default(), wake }, rung)
}

/// Runs a bridge over these frames; the port ends it after `due` came back.
fn run(
    net: &mut VirtioNet,
    wait: WaitMode,
    limit: Duration,
    frames: &[Vec<u8>],
    due: usize,
    fd: BorrowedFd<'_>,
) -> (Outcome, TapCounts, Vec<Vec<u8>>, u32) {
    let (ending, _rung) = ending();
    let (out, stats) = (frames.iter().cloned().collect(), PortStats::default());
    let wire = Wire { out, back: Vec::new(), due, slot: Vec::new(), looks: 0, fd, ending: &ending, stats };
    let mut bridge = Bridge::new(wire, "wire", wait, Some(limit), &ending);
    let (outcome, counts) = bridge.run(net);
    (outcome, counts, bridge.port.back, bridge.port.looks)
}

fn pipe() -> (std::io::PipeReader, PipeWriter) {
    std::io::pipe().unwrap()
}

#[test]
fn every_frame_goes_through_in_order_or_is_counted() {
    let (quiet, _writer) = pipe();
    let len = |number: usize| match number % 10 {
        3 => 3000,
        7 => NO_ROOM,
        _ => 60 + number,
    };
    let frames: Vec<Vec<u8>> = (0..200u8).map(|number| vec![number; len(number.into())]).collect();
    let through: Vec<_> = frames.iter().filter(|frame| ![3000, NO_ROOM].contains(&frame.len())).cloned().collect();
    for wait in [WaitMode::Poll, WaitMode::Adaptive, WaitMode::Interrupt] {
        let (mut net, session, _) = device();
        let (outcome, counts, back, _) = run(&mut net, wait, LONG, &frames, through.len(), quiet.as_fd());
        assert!(outcome.stopped.is_none(), "{outcome:?}");
        assert!(back == through, "{wait:?}: {} of {} came back", back.len(), through.len());
        let drops = TapDrops { too_long: 20, no_room: 20, ..TapDrops::default() };
        assert_eq!((counts.frames_in, counts.frames_out, counts.lost, counts.drops), (200, 160, 40, drops));
        assert_eq!((outcome.seen.sent, outcome.seen.received), (180, 180));
        assert!(net.tx().stats().full > 0, "bursts of {BURST} do not fit into a queue of 4");
        net.close().unwrap();
        session.join().unwrap().unwrap();
    }
}

#[test]
fn nothing_to_do_is_done_asleep() {
    let (quiet, _writer) = pipe();
    for (wait, most) in [(WaitMode::Interrupt, 100), (WaitMode::Adaptive, 20_000)] {
        let (mut net, session, _) = device();
        let (outcome, _, _, looks) = run(&mut net, wait, 3 * CHECK, &[], 1, quiet.as_fd());
        assert!(outcome.stopped.is_none() && outcome.took >= 3 * CHECK, "{outcome:?}");
        assert!(looks < most, "{wait:?} looked {looks} times");
        drop(net);
        session.join().unwrap().unwrap();
    }
}

#[test]
fn what_is_not_sent_when_the_backend_leaves_is_counted() {
    let (quiet, _writer) = pipe();
    let (mut net, session, stop) = device();
    stop.stop();
    let _ = session.join().unwrap();
    let frames = vec![vec![1; 60]; 9];
    let (outcome, counts, ..) = run(&mut net, WaitMode::Interrupt, LONG, &frames, 9, quiet.as_fd());
    assert!(matches!(outcome.stopped, Some(Stop::Net(NetError::Transport(_)))), "{outcome:?}");
    assert_eq!((outcome.seen.sent, counts.frames_in, counts.lost, counts.drops.unsent), (4, 5, 1, 1));
}

/// A pipe that nobody reads from is in error as an interface is that was deleted.
#[test]
fn an_interface_that_is_gone_ends_the_run() {
    for wait in [WaitMode::Poll, WaitMode::Adaptive, WaitMode::Interrupt] {
        let (reader, gone) = pipe();
        drop(reader);
        let (mut net, session, _) = device();
        let (outcome, ..) = run(&mut net, wait, LONG, &[], 1, gone.as_fd());
        let stop = outcome.stopped.unwrap();
        assert!(stop.to_string().contains("wire was deleted"), "{stop}");
        drop(net);
        session.join().unwrap().unwrap();
    }
}

/// Bytes of frames that the wire has no room for.
const NO_ROOM: usize = 1000;
/// Much longer than any of this takes.
const LONG: Duration = Duration::from_secs(60);
