//! Runs the tool and looks at what it leaves behind.

#![allow(dead_code, reason = "each test program uses a part")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// What a run of the tool said.
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the tool to its end.
pub(crate) fn ironring(arguments: &[&str]) -> Said {
    let Output { status, stdout, stderr } = tool(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Said { status: status.code().unwrap_or(-1), stdout: text(stdout), stderr: text(stderr) }
}

/// The tool, to be run.
pub(crate) fn tool(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ironring"));
    command.args(arguments).stdin(Stdio::null());
    command
}

impl Said {
    /// The one object on stdout.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }

    /// Checks status and one sentence on stderr; nothing may be on stdout.
    pub(crate) fn refused(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, status, "{}", self.stderr);
        assert_eq!(self.stdout, "");
        for part in parts {
            assert!(self.stderr.contains(part), "{part:?} is not in: {}", self.stderr);
        }
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }
}

/// Processes that descend from `parent`, by a look at /proc.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, but the last parenthesis ends it: state and parent follow.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A descriptor of a process, which becomes readable when it ends.
pub(crate) fn handle(pid: u32) -> std::os::fd::OwnedFd {
    rustix::process::pidfd_open(raw(pid), rustix::process::PidfdFlags::empty()).unwrap()
}

/// Waits until the process behind `handle` has ended.
pub(crate) fn ends(handle: &std::os::fd::OwnedFd, limit: Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let mut fds = [PollFd::new(handle, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&Timespec::try_from(limit).unwrap())).unwrap() > 0
}

/// Ends a process without a word.
pub(crate) fn kill(handle: &std::os::fd::OwnedFd) {
    rustix::process::pidfd_send_signal(handle, Signal::KILL).unwrap();
}

/// Asks `condition` again and again until it gives something.
pub(crate) fn until<T>(limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "nothing within {limit:?}");
        std::thread::yield_now();
    }
}

/// A capture of `count` frames of many sizes, as bytes of a file.
pub(crate) fn capture(count: u32) -> Vec<u8> {
    let mut bytes = header(0xa1b2_c3d4, 1);
    for number in 0..count {
        let len = 14 + number * 37 % 1505;
        packet(&mut bytes, number, len);
    }
    bytes
}

/// A pcap file header.
pub(crate) fn header(magic: u32, link: u32) -> Vec<u8> {
    let mut bytes = magic.to_le_bytes().to_vec();
    bytes.extend([2, 0, 4, 0]);
    bytes.extend([0, 0, 262_144, link].map(u32::to_le_bytes).as_flattened());
    bytes
}

/// Adds a frame of `len` bytes.
pub(crate) fn packet(bytes: &mut Vec<u8>, number: u32, len: u32) {
    bytes.extend([1_700_000_000 + number, number, len, len + number % 2].map(u32::to_le_bytes).as_flattened());
    bytes.extend((0..len).map(|at| ((at ^ number) % 251) as u8));
}

/// Writes `bytes` to a file in `dir`.
pub(crate) fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn raw(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}
