//! The program as its user meets it: what it says, how it ends, what it leaves behind.

#![allow(clippy::cast_possible_truncation, reason = "sizes of this test's own memory")]

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use support::FrontEnd;

/// A daemon with a socket of its own.
struct Daemon {
    child: Child,
    lines: Receiver<String>,
    socket: PathBuf,
}

impl Daemon {
    fn start(dir: &Path, port: &str) -> Self {
        let socket = dir.join("socket");
        let mut child = Command::new(env!("CARGO_BIN_EXE_ironring-backend"))
            .arg("--socket-path")
            .arg(&socket)
            .args(["--port", port])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                let _ = sender.send(line.unwrap());
            }
        });
        Self { child, lines, socket }
    }

    /// The next line that contains `what`.
    fn says(&self, what: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut before = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("the daemon does not say {what:?} but {before:#?}"));
            if line.contains(what) {
                return line;
            }
            before.push(line);
        }
    }

    fn connect(&self) -> FrontEnd {
        FrontEnd::new(UnixStream::connect(&self.socket).unwrap())
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its exit status, when it has ended by itself.
    fn ends(&mut self) -> Option<i32> {
        let deadline = Instant::now() + LIMIT;
        // Stderr is closed when the process ends.
        while self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
        assert!(Instant::now() < deadline, "the daemon does not end");
        self.child.wait().unwrap().code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_port_that_cannot_be_opened_is_found_before_the_daemon_is_ready() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), "pcap:/nonexistent/in");
    let first = daemon.says("");
    assert!(first.contains("ERROR") && first.contains("/nonexistent/in"), "{first}");
    assert_eq!(daemon.ends(), Some(3));
    assert!(!daemon.socket.exists());
}

/// One descriptor short at each step of a session's beginning: the daemon waits until there are more, and goes on.
#[test]
fn a_daemon_that_is_short_of_descriptors_waits_for_more() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "loopback");
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

/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(30);
