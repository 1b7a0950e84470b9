//! The daemon as a process, and what it says.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::FrontEnd;

/// A daemon with a socket of its own.
pub(crate) struct Daemon {
    pub(crate) child: Child,
    lines: Receiver<String>,
    pub(crate) socket: PathBuf,
}

impl Daemon {
    /// One that ends if it makes a system call that it should have no need of.
    pub(crate) fn start(dir: &Path, port: &str) -> Self {
        let socket = dir.join("socket");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ironring-backend"));
        command.arg("--socket-path").arg(&socket).args(["--port", port, "--sandbox-kill"]);
        Self::run(&mut command, socket)
    }

    /// One whose descriptors and mappings can be counted: in a sandbox, that takes root.
    pub(crate) fn start_open(dir: &Path, port: &str) -> Self {
        let socket = dir.join("socket");
        let sandbox = if rustix::process::geteuid().is_root() { "--sandbox-kill" } else { "--no-sandbox" };
        let mut command = Command::new(env!("CARGO_BIN_EXE_ironring-backend"));
        command.env(ONE_ARENA.0, ONE_ARENA.1).arg("--socket-path").arg(&socket).args(["--port", port, sandbox]);
        Self::run(&mut command, socket)
    }

    pub(crate) fn run(command: &mut Command, socket: PathBuf) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
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
    pub(crate) fn says(&self, what: &str) -> String {
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

    /// A line that it has said and that nobody has read yet.
    pub(crate) fn said(&self) -> Option<String> {
        self.lines.try_recv().ok()
    }

    pub(crate) fn connect(&self) -> FrontEnd {
        FrontEnd::new(UnixStream::connect(&self.socket).unwrap())
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Its exit status, when it has ended by itself.
    pub(crate) fn ends(&mut self) -> Option<i32> {
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

/// Whether a test that needs root and TAP interfaces can do its work.
pub(crate) fn has_taps() -> bool {
    if rustix::process::geteuid().is_root() && Path::new("/dev/net/tun").exists() {
        return true;
    }
    assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "this test needs root and /dev/net/tun");
    // To the test's own output.
    std::io::stderr().write_all(b"skipped: network namespaces and a TAP take root and /dev/net/tun\n").unwrap();
    false
}

/// Has the C library allocate from one heap, instead of making another whenever two threads meet at one: then mappings
/// can be counted.
pub(crate) const ONE_ARENA: (&str, &str) = ("MALLOC_ARENA_MAX", "1");

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
