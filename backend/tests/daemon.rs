//! The program as its user meets it: what it says, how it ends, what it leaves behind.

#![allow(clippy::cast_possible_truncation, reason = "sizes of this test's own memory")]

mod support;

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use support::FrontEnd;
use support::daemon::{Daemon, LIMIT};

#[test]
fn a_port_that_cannot_be_opened_is_found_before_the_daemon_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), "pcap:/nonexistent/in");
    let first = daemon.says("");
    assert!(first.contains("ERROR") && first.contains("/nonexistent/in"), "{first}");
    assert_eq!(daemon.ends(), Some(3));
    assert!(!daemon.socket.exists());
}

#[test]
fn a_capture_is_not_played_into_itself() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    std::fs::write(&input, EMPTY_CAPTURE).unwrap();
    let mut daemon = Daemon::start(dir.path(), &format!("pcap:{0}:{0}", input.display()));
    daemon.says("is the capture that is played");
    assert_eq!(daemon.ends(), Some(3));
    assert_eq!(std::fs::read(&input).unwrap(), EMPTY_CAPTURE);
}

/// One descriptor short at each step of a session's beginning: the daemon waits until there are more, and goes on.
#[test]
fn a_daemon_that_is_short_of_descriptors_waits_for_more() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start_open(dir.path(), "loopback");
    daemon.says("ready");
    let open = std::fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).unwrap().count() as u64;
    let plenty = prlimit(Some(daemon.pid()), Resource::Nofile, rustix::process::getrlimit(Resource::Nofile)).unwrap();
    let mut short = 0;
    for more in 0..5 {
        let limit = Rlimit { current: Some(open + more), ..plenty };
        prlimit(Some(daemon.pid()), Resource::Nofile, limit).unwrap();
        let waiting = daemon.connect();
        let said = loop {
            let line = daemon.says("");
            if line.contains("Too many open files") || line.contains("a front-end is connected") {
                break line;
            }
        };
        short += u32::from(said.contains("trying again"));
        prlimit(Some(daemon.pid()), Resource::Nofile, plenty).unwrap();
        drop(waiting);
        let mut front_end = daemon.connect();
        front_end.bring_up();
        front_end.echo();
        drop(front_end);
        daemon.says("\"taken_frames\":3");
    }
    assert!(short >= 3, "{short} times short of descriptors");
}

fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let bytes = rustix::pipe::fcntl_getpipe_size(&writer).unwrap();
    writer.write_all(&vec![b'.'; bytes]).unwrap();
    (reader, writer)
}

/// A daemon that is held up by its log, a pipe that is full and that nobody reads; as long as its reader is there.
fn held(dir: &Path) -> (Child, PathBuf, std::io::PipeReader) {
    let socket = dir.join("socket");
    let (reader, stderr) = full_pipe();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironring-backend"));
    command.arg("--socket-path").arg(&socket).args(["--port", "loopback", "--sandbox-kill"]);
    let child = command.stderr(stderr).spawn().unwrap();
    let deadline = Instant::now() + LIMIT;
    while !socket.exists() {
        assert!(Instant::now() < deadline, "no socket is made");
        std::thread::yield_now();
    }
    (child, socket, reader)
}

/// QEMU's chardev with server=on: the front-end listens, and may come back.
#[test]
fn a_daemon_calls_a_front_end_that_listens_again_and_again() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vmm");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironring-backend"));
    command.arg("--connect").arg(&socket).args(["--port", "loopback", "--sandbox-kill"]);
    let mut daemon = Daemon::run(&mut command, socket.clone());
    daemon.says("calling again until somebody does");
    for _ in 0..2 {
        // A VMM that is started anew makes its socket anew.
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        for _ in 0..2 {
            let mut front_end = FrontEnd::new(listener.accept().unwrap().0);
            front_end.bring_up();
            front_end.echo();
            drop(front_end);
            daemon.says("the session has ended");
        }
    }
    kill_process(daemon.pid(), Signal::TERM).unwrap();
    assert_eq!(daemon.ends(), Some(0));
    assert!(socket.exists(), "it is the VMM's");
}

/// As systemd starts it: the socket is descriptor 3, and two variables say so.
#[test]
fn a_socket_that_is_passed_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let script = r#"exec 3<&0; LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" --port loopback --sandbox-kill"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_ironring-backend")]);
    command.stdin(Stdio::from(std::os::fd::OwnedFd::from(listener)));
    let mut daemon = Daemon::run(&mut command, socket);
    daemon.says("ready");
    let mut front_end = daemon.connect();
    front_end.bring_up();
    front_end.echo();
    drop(front_end);
    kill_process(daemon.pid(), Signal::TERM).unwrap();
    assert_eq!(daemon.ends(), Some(0));
    assert!(daemon.socket.exists(), "it is systemd's");
    // A socket that was meant for another process is not taken.
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironring-backend"));
    command.args(["--port", "loopback"]).env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
    let mut daemon = Daemon::run(&mut command, dir.path().join("none"));
    daemon.says("no socket was passed");
    assert_eq!(daemon.ends(), Some(3));
}

#[test]
fn a_signal_ends_the_daemon_in_order() {
    for signal in [Signal::TERM, Signal::INT] {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = Daemon::start(dir.path(), "loopback");
        daemon.says("ready");
        let mut front_end = daemon.connect();
        front_end.bring_up();
        kill_process(daemon.pid(), signal).unwrap();
        daemon.says("told to end");
        assert_eq!(daemon.ends(), Some(0));
        assert!(!daemon.socket.exists());
    }
}

/// Signals are caught early, so nothing that comes later may wait for the log without end.
#[test]
fn a_daemon_that_cannot_begin_ends_also_if_nobody_reads_why() {
    let dir = tempfile::tempdir().unwrap();
    let (_reader, stderr) = full_pipe();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironring-backend"));
    command.arg("--socket-path").arg(dir.path().join("none/socket")).args(["--port", "loopback"]);
    let mut child = command.stderr(stderr).spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3));
}

#[test]
fn a_second_signal_ends_a_daemon_that_is_held_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, socket, _reader) = held(dir.path());
    // Two different ones: of one kind, only one waits to be delivered.
    for signal in [Signal::TERM, Signal::INT] {
        kill_process(Pid::from_child(&child), signal).unwrap();
    }
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(!socket.exists());
}

#[test]
fn a_daemon_that_is_held_up_ends_a_while_after_the_signal() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, socket, _reader) = held(dir.path());
    // Somebody else's socket at the same path is not the daemon's to remove.
    std::fs::remove_file(&socket).unwrap();
    let _others = UnixListener::bind(&socket).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(socket.exists());
}

/// A capture without frames: its header only.
const EMPTY_CAPTURE: [u8; 24] =
    [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
