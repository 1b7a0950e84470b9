//! Front-ends that come and go with traffic under way: what their sessions take, they give back.
//!
//! Each front-end has a guest in a thread of its own, which keeps both rings full to its last moment and beyond. The
//! front-end goes when some frames have passed each way, in one of several manners.

#![allow(clippy::cast_possible_truncation, reason = "sizes of this test's own memory")]

mod support;

use std::io::Write;
use std::net::Shutdown;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Instant;

use support::FrontEnd;
use support::daemon::{Daemon, LIMIT, ONE_ARENA, has_taps};

/// What a daemon has: descriptors, threads, mappings of guest memory, and mappings of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    guests: usize,
    mappings: usize,
}

impl Held {
    fn by(daemon: &Daemon) -> Self {
        let at = |what| format!("/proc/{}/{what}", daemon.child.id());
        let entries = |what| std::fs::read_dir(at(what)).unwrap().count();
        let maps = std::fs::read_to_string(at("maps")).unwrap();
        Self {
            descriptors: entries("fd"),
            threads: entries("task"),
            guests: maps.matches("memfd:guest").count(),
            mappings: maps.lines().count(),
        }
    }

    /// The same but for what the allocator keeps for later.
    fn is_as(self, other: Self) -> bool {
        Self { mappings: 0, ..self } == Self { mappings: 0, ..other }
    }
}

/// `cycles` front-ends, one after another, whose guests send `frame`.
fn come_and_go(daemon: &Daemon, cycles: usize, frame: &[u8]) {
    daemon.says("ready");
    let before = Held::by(daemon);
    assert_eq!(before.guests, 0);
    // The most mappings that there were between two front-ends, early and late; the first ones warm up.
    let (mut early, mut late) = (0, 0);
    for cycle in 0..cycles {
        one_front_end(daemon, cycle, frame, before);
        let deadline = Instant::now() + LIMIT;
        // The log is no witness: what front-ends can cause is written at a limited rate.
        let after = loop {
            let after = Held::by(daemon);
            if after.is_as(before) {
                break after;
            }
            assert!(Instant::now() < deadline, "cycle {cycle}: {after:?} where there was {before:?}");
            std::thread::yield_now();
        };
        let most = if cycle < cycles / 2 { &mut early } else { &mut late };
        if cycle >= cycles / 10 {
            *most = after.mappings.max(*most);
        }
    }
    // A leak of one mapping a session would add one a cycle, a hundred by the end.
    assert!(late <= early + STACKS, "{late} mappings where there were {early}, and {} at first", before.mappings);
}

/// Comes, has frames carried both ways, and goes in the middle of that.
fn one_front_end(daemon: &Daemon, cycle: usize, frame: &[u8], before: Held) {
    let mut front_end = daemon.connect();
    front_end.bring_up();
    let FrontEnd { vhost, mut socket, mut guest } = front_end;
    guest.write_frame(frame);
    let (used, gone) = ([const { AtomicU32::new(0) }; 2], AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let deadline = Instant::now() + LIMIT;
            while !gone.load(Ordering::Relaxed) && Instant::now() < deadline {
                for (count, more) in used.iter().zip(guest.stream(frame.len())) {
                    count.fetch_add(more, Ordering::Relaxed);
                }
                std::thread::yield_now();
            }
        });
        let wanted = [1, 3, 20, 100, 500][cycle % 5];
        let deadline = Instant::now() + LIMIT;
        while used.iter().any(|count| count.load(Ordering::Relaxed) < wanted) {
            assert!(Instant::now() < deadline, "cycle {cycle}: {used:?} of {wanted} frames");
            std::thread::yield_now();
        }
        let held = Held::by(daemon);
        assert!(held.guests > 0 && held.threads > before.threads, "cycle {cycle}: a session takes something: {held:?}");
        match cycle % 4 {
            // Ends as a process does that is killed.
            0 => socket.shutdown(Shutdown::Both).unwrap(),
            // Goes in the middle of a message.
            1 => socket.write_all(&[1, 0, 0]).unwrap(),
            // Goes without waiting for the answer.
            2 => socket.write_all(&[1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]).unwrap(),
            _ => {}
        }
        drop((vhost, socket));
        gone.store(true, Ordering::Relaxed);
    });
}

/// The frames go round.
#[test]
fn two_hundred_front_ends_under_load_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    come_and_go(&Daemon::start_open(dir.path(), "loopback"), 200, &[0x5a; 1000]);
}

/// Frames for the guest come as fast as it takes them, whatever it sends.
#[test]
fn two_hundred_front_ends_under_a_flood_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    come_and_go(&Daemon::start_open(dir.path(), "generate:1000"), 200, &[0x5a; 60]);
}

/// The guest asks for the host's address, and the host answers, as fast as both can.
#[test]
fn two_hundred_front_ends_on_a_tap_leave_nothing_behind() {
    if !has_taps() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let script = "set -e; ip tuntap add dev tap0 mode tap vnet_hdr; ip addr add 10.77.0.1/24 dev tap0; \
                  ip link set tap0 up; exec \"$0\" --port tap:tap0 --sandbox-kill --socket-path \"$1\"";
    let mut command = Command::new("unshare");
    command
        .env(ONE_ARENA.0, ONE_ARENA.1)
        .args(["--net", "sh", "-c", script, env!("CARGO_BIN_EXE_ironring-backend")])
        .arg(&socket);
    come_and_go(&Daemon::run(&mut command, socket), 200, &WHO_HAS);
}

/// Mappings of the stacks of a session's threads, two each. The C library keeps stacks for the next threads, and makes
/// another one for a thread that starts before the last one's stack is free.
const STACKS: usize = 10;
/// ARP: who has 10.77.0.1? Tell 10.77.0.2, which is 02:00:00:00:00:02.
const WHO_HAS: [u8; 42] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2, 8, 6, // to everybody
    0, 1, 8, 0, 6, 4, 0, 1, // Ethernet, IPv4, a request
    2, 0, 0, 0, 0, 2, 10, 77, 0, 2, // from
    0, 0, 0, 0, 0, 0, 10, 77, 0, 1, // for
];
