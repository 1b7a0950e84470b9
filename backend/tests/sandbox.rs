//! The program in its sandbox: each thread at its work, and what the kernel says about each.
//!
//! What a thread cannot do is tried from within, by the unit tests of `backend/src/sandbox`. Here every kind of work is
//! done by a daemon that ends at the first system call that is not on its thread's list.

#![allow(clippy::cast_possible_truncation, reason = "sizes of this test's own memory")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use ironring_common::spec::net::HDR_BYTES;
use rustix::fs::MemfdFlags;
use rustix::process::{Signal, kill_process};
use support::daemon::{Daemon, has_taps};
use support::{GUEST_BASE, MEMORY_BYTES, PROTOCOL, RX, TX};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};

/// What the kernel says of each thread, by the thread's name.
fn threads(daemon: &Daemon) -> BTreeMap<String, BTreeMap<String, String>> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.child.id())).unwrap();
    let read = |task: &Path, what| std::fs::read_to_string(task.join(what)).unwrap();
    tasks
        .map(|task| {
            let task = task.unwrap().path();
            let status = read(&task, "status");
            let lines = status.lines().filter_map(|line| line.split_once(':'));
            let fields = lines.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
            (read(&task, "comm").trim().to_owned(), fields)
        })
        .collect()
}

/// The filters of this test: a container has one.
fn own_filters() -> u32 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
    count.map_or(0, |count| count.trim().parse().unwrap())
}

#[test]
fn every_thread_has_a_filter_and_no_privileges() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironring-backend"));
    command.arg("--socket-path").arg(&socket).args(["--port", "loopback", "--sandbox-kill", "--stats", "1"]);
    let daemon = Daemon::run(&mut command, socket);
    daemon.says("in a sandbox");
    daemon.says("ready");
    let mut front_end = daemon.connect();
    front_end.bring_up();
    front_end.echo();
    // By then the thread that writes it runs.
    daemon.says("\"seconds\":1");
    let threads = threads(&daemon);
    let names: BTreeSet<_> = threads.keys().map(String::as_str).collect();
    let expected = ["ironring-backen", "signals", "session", "vhost-user", "data-plane", "relay", "figures"];
    assert_eq!(names, expected.into());
    for (name, status) in &threads {
        assert_eq!(status["NoNewPrivs"], "1", "{name}");
        assert_eq!(status["Seccomp"], "2", "{name}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&status[set], 16), Ok(0), "{name}: {set}");
        }
    }
    // Two for each step from the main thread, over those that this test may have itself.
    let filters = |name| threads[name]["Seccomp_filters"].parse::<u32>().unwrap() - own_filters();
    assert_eq!(filters("ironring-backen"), 2);
    assert_eq!(filters("vhost-user"), 4);
    for leaf in ["data-plane", "relay", "figures"] {
        assert_eq!(filters(leaf), 6, "{leaf}");
    }
    // The files of a process that cannot be dumped are root's.
    assert_eq!(std::fs::metadata(format!("/proc/{}/fd", daemon.child.id())).unwrap().uid(), 0);
}

#[test]
fn without_a_sandbox_the_log_says_what_that_means() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironring-backend"));
    command.arg("--socket-path").arg(&socket).args(["--port", "loopback", "--no-sandbox"]);
    let daemon = Daemon::run(&mut command, socket);
    let said = daemon.says("WARN");
    assert!(said.contains("a peer that finds a bug can do what the user of this process can"), "{said}");
    daemon.says("ready");
    for (name, status) in threads(&daemon) {
        assert_eq!(status["Seccomp_filters"], own_filters().to_string(), "{name}");
    }
}

/// What the front-end may take back although the daemon uses it is the operator's risk. It ends the process, also where
/// the standard library's handler of faults meets the sandbox.
#[test]
fn memory_that_goes_away_ends_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironring-backend"));
    command.arg("--socket-path").arg(&socket).args(["--port", "loopback", "--allow-unsealed-memory"]);
    let mut daemon = Daemon::run(&mut command, socket);
    daemon.says("ready");
    let mut front_end = daemon.connect();
    let shrinking = File::from(rustix::fs::memfd_create("shrinking", MemfdFlags::CLOEXEC).unwrap());
    shrinking.set_len(MEMORY_BYTES as u64).unwrap();
    front_end.negotiate();
    let region = front_end.region(MEMORY_BYTES as u64);
    let region = VhostUserMemoryRegionInfo { mmap_handle: shrinking.as_raw_fd(), ..region };
    front_end.vhost.set_mem_table(&[region]).unwrap();
    front_end.describe(TX, 0).unwrap();
    front_end.kick_off(TX).unwrap();
    shrinking.set_len(0).unwrap();
    front_end.guest.bells[TX].kick.write(1).unwrap();
    assert_eq!(daemon.ends(), None, "ended by a signal");
    let status = daemon.child.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::BUS.as_raw()));
}

/// QEMU sends a socket for requests of the backend's, which the framework looks at.
#[test]
fn a_channel_for_requests_of_the_backend_is_taken_in_the_sandbox() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "loopback");
    daemon.says("ready");
    let mut front_end = daemon.connect();
    front_end.vhost.set_owner().unwrap();
    front_end.vhost.get_features().unwrap();
    let offered = front_end.vhost.get_protocol_features().unwrap();
    assert!(offered.contains(PROTOCOL | VhostUserProtocolFeatures::BACKEND_REQ));
    front_end.vhost.set_protocol_features(PROTOCOL | VhostUserProtocolFeatures::BACKEND_REQ).unwrap();
    front_end.vhost.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    front_end.vhost.set_backend_request_fd(&theirs).unwrap();
    // It goes on.
    front_end.vhost.get_queue_num().unwrap();
}

/// Serves three front-ends, to each of which the port gives a frame for each that it takes, or none; then ends in order.
fn work(mut daemon: Daemon, gives: bool) {
    daemon.says("ready");
    for _ in 0..3 {
        let mut front_end = daemon.connect();
        front_end.bring_up();
        for _ in 0..FRAMES {
            if gives {
                front_end.guest.add(RX, GUEST_BASE + 0x10000, 2048);
            }
            front_end.guest.add(TX, GUEST_BASE + 0x20000, HDR_BYTES as u32 + FRAME_BYTES);
            front_end.guest.used(TX);
            if gives {
                front_end.guest.used(RX);
            }
        }
        drop(front_end);
        daemon.says("the session has ended");
    }
    kill_process(daemon.pid(), Signal::TERM).unwrap();
    assert_eq!(daemon.ends(), Some(0));
    assert!(!daemon.socket.exists());
}

#[test]
fn every_port_works_in_the_sandbox() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::write(&input, EMPTY_CAPTURE).unwrap();
    let pcap = format!("pcap:{}:{}", input.display(), output.display());
    for (port, gives) in [("loopback", true), ("generate:1000", true), ("null", false), (&pcap, false)] {
        work(Daemon::start(dir.path(), port), gives);
    }
    // A record is a header of 16 bytes and a frame.
    let record = 16 + FRAME_BYTES as usize;
    assert_eq!(std::fs::read(&output).unwrap().len(), EMPTY_CAPTURE.len() + 3 * FRAMES * record);
}

/// Each of several threads of the data plane has the filter of one, and works with it.
#[test]
fn several_threads_work_in_the_sandbox() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironring-backend"));
    command.arg("--socket-path").arg(&socket).args(["--port", "loopback", "--sandbox-kill"]);
    let mut daemon = Daemon::run(command.args(["--queues", "5", "--threads", "3"]), socket);
    daemon.says("ready");
    let mut front_end = daemon.connect();
    front_end.bring_up();
    let tasks =
        std::fs::read_dir(format!("/proc/{}/task", daemon.child.id())).unwrap().map(|task| task.unwrap().path());
    let data_plane = tasks.filter(|task| std::fs::read_to_string(task.join("comm")).unwrap().trim() == "data-plane");
    let filters: Vec<u32> = data_plane
        .map(|task| {
            let status = std::fs::read_to_string(task.join("status")).unwrap();
            let count = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:")).unwrap();
            count.trim().parse().unwrap()
        })
        .collect();
    assert_eq!(filters.len(), 3);
    assert!(filters.iter().all(|count| *count > own_filters() && *count == filters[0]), "{filters:?}");
    front_end.guest.add(RX, GUEST_BASE + 0x10000, 2048);
    front_end.guest.add(TX, GUEST_BASE + 0x20000, HDR_BYTES as u32 + FRAME_BYTES);
    front_end.guest.used(TX);
    front_end.guest.used(RX);
    drop(front_end);
    daemon.says("the session has ended");
    kill_process(daemon.pid(), Signal::TERM).unwrap();
    assert_eq!(daemon.ends(), Some(0));
}

/// In a network namespace of its own, which takes root.
#[test]
fn a_tap_works_in_the_sandbox() {
    if !has_taps() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut command = Command::new("unshare");
    command.args(["--net", env!("CARGO_BIN_EXE_ironring-backend"), "--port", "tap:tap0", "--mtu", "1400"]);
    command.arg("--sandbox-kill").arg("--socket-path").arg(&socket);
    work(Daemon::run(&mut command, socket), false);
}

/// Frames of each front-end: several rings full.
const FRAMES: usize = 100;
const FRAME_BYTES: u32 = 1000;
/// A capture without frames: its header only.
const EMPTY_CAPTURE: [u8; 24] =
    [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
