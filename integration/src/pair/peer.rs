//! The backend in a process of its own, which is this program again.
//!
//! The socket has no name in any file system, and the parent is connected to it before the child runs, so that nobody
//! else comes first and nothing is left behind however the two end. The child gets the listening socket as its standard
//! input: no other child that is started meanwhile inherits it. It ends when the connection ends, and dies with its
//! parent; the parent kills and reaps it on every way out.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ironring_backend::hostile;
use ironring_common::index::QueueSize;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::{LEAVE, PairOptions};
use crate::{bench, machine, output};

/// The process of the backend. It does not outlive this.
#[derive(Debug)]
pub(super) struct Peer {
    child: Child,
    said: Option<Listener>,
}

/// Collects the last lines of a child, so that it never blocks on a full pipe, and shows them if that is wanted.
#[derive(Debug)]
struct Listener {
    lines: Arc<Mutex<VecDeque<String>>>,
    thread: Option<JoinHandle<()>>,
}

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// No socket.
    #[error("cannot make a socket for the backend: {0}; check the limit of open files")]
    Socket(#[source] std::io::Error),
    /// No process.
    #[error("cannot start the backend in a process of its own: {0}; check the limit of processes")]
    Spawn(#[source] std::io::Error),
}

/// Arguments of the hidden `backend` subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct BackendArgs {
    /// Process that this one is not to outlive
    #[arg(long)]
    parent: i32,
    /// CPUs to stay on
    #[arg(long, value_delimiter = ',')]
    cpu: Vec<usize>,
    /// Tell on stdout, at the end, how often the attacks struck
    #[arg(long)]
    tell_strikes: bool,
    /// Complete the buffers of each burst in an order that this number decides
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,
    /// Arguments of the daemon
    #[arg(last = true)]
    daemon: Vec<OsString>,
}

/// What a hostile backend says on stdout when it ends. The log would not do: what it shows is the user's choice.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Told {
    strikes: u64,
}

impl Peer {
    /// Starts a backend, and returns the connection to it.
    pub(super) fn start(options: &PairOptions, cpu: Option<usize>) -> Result<(Self, UnixStream), PeerError> {
        let (listener, stream) = connected_listener().map_err(PeerError::Socket)?;
        let mut command = Command::new(std::env::current_exe().map_err(PeerError::Spawn)?);
        command.arg("backend").args(["--parent", &std::process::id().to_string()]);
        if let Some(cpu) = cpu {
            command.args(["--cpu", &cpu.to_string()]);
        }
        let hostile = options.mode.is_hostile();
        if hostile {
            command.arg("--tell-strikes");
        }
        command.args(["--", "--fd", "0", "--once", "--port", &options.port, "--wait", options.wait.name()]);
        // The daemon's word is the largest size that it serves, of either layout: a power of two.
        let most = options.queue_size.checked_next_power_of_two().unwrap_or(QueueSize::MAX).max(QUEUES_AT_LEAST);
        command.args(["--queue-size", &most.to_string()]);
        command.args(["--mode", &options.mode.to_string(), "--seed", &options.seed.to_string()]);
        command.args(["--log", options.log.as_deref().unwrap_or("warn")]);
        // Ctrl-C in a terminal is for the parent, which then ends the session in order.
        let mut child = command
            .process_group(0)
            .stdin(OwnedFd::from(listener))
            .stdout(if hostile { Stdio::piped() } else { Stdio::null() })
            .stderr(Stdio::piped())
            .spawn()
            .map_err(PeerError::Spawn)?;
        let said = child.stderr.take().map(|stderr| Listener::start(stderr, options.log.is_some()));
        Ok((Self { child, said }, stream))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the end of the process, at most `limit`; then kills it.
    pub(super) fn wait(&mut self, limit: Duration) {
        if matches!(self.child.try_wait(), Ok(None)) && !ended_within(&self.child, limit) {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }

    /// Its last complaint, as the end of a sentence; empty if it had none. Ends the process.
    pub(super) fn last_words(&mut self) -> String {
        let complaint = self.lines().into_iter().rev().find_map(|line| complaint(&line).map(ToOwned::to_owned));
        complaint.map(|words| format!("; the backend said: {words}")).unwrap_or_default()
    }

    /// Whether it ended because something that it needs is missing: its port, most likely. Ends the process.
    pub(super) fn could_not_begin(&mut self) -> bool {
        self.wait(LAST_WORDS);
        matches!(self.child.try_wait(), Ok(Some(status)) if status.code() == Some(COULD_NOT_BEGIN))
    }

    /// How often its attacks struck, if it told: a backend that was killed tells nothing. Ends the process.
    pub(super) fn strikes(&mut self) -> Option<u64> {
        self.wait(LEAVE);
        let mut told = String::new();
        self.child.stdout.take()?.take(TOLD_MAX).read_to_string(&mut told).ok()?;
        serde_json::from_str(&told).ok().map(|Told { strikes }| strikes)
    }

    /// The last lines of its log, oldest first.
    fn lines(&mut self) -> Vec<String> {
        self.wait(LAST_WORDS);
        self.said.as_mut().map(Listener::lines).unwrap_or_default()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.wait(Duration::ZERO);
    }
}

impl Listener {
    fn start(stderr: ChildStderr, shown: bool) -> Self {
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let kept = Arc::clone(&lines);
        let thread = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok).filter(|line| !line.trim().is_empty()) {
                if shown {
                    output::note(&line);
                }
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                if kept.len() > LINES_KEPT {
                    kept.pop_front();
                }
            }
        });
        Self { lines, thread: Some(thread) }
    }

    /// The last lines. To be called after the end of the process, when its end of the pipe is closed.
    fn lines(&mut self) -> Vec<String> {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// The words of a line that tells of trouble: a warning, an error, or what did not come from the log at all.
fn complaint(line: &str) -> Option<&str> {
    let words = |level| line.split_once(level).map(|(_, words)| words.trim());
    let harmless = [" INFO ", " DEBUG ", " TRACE "].into_iter().any(|level| line.contains(level));
    words(" WARN ").or_else(|| words(" ERROR ")).or_else(|| (!harmless).then_some(line))
}

/// The hidden `backend` subcommand: the daemon, tied to its parent.
#[must_use]
pub fn backend_main(args: BackendArgs) -> ExitCode {
    let tied = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    // A parent that died before the line above sends no signal any more.
    if tied.is_err() || rustix::process::getppid() != Pid::from_raw(args.parent) {
        output::note("this is the backend of a pair: start it by `ironring pair`, or run `ironring-backend`");
        return ExitCode::from(2);
    }
    if !args.cpu.is_empty() {
        // Without its own CPUs it is slower, not wrong.
        let _ = machine::stay_on(&args.cpu);
    }
    let arguments = std::iter::once(OsString::from("ironring-backend")).chain(args.daemon);
    if let Some(seed) = args.shuffle {
        return bench::serve_shuffled(arguments, seed);
    }
    let status = ironring_backend::main_with(arguments);
    if args.tell_strikes {
        output::print_json(&Told { strikes: hostile::strikes_of_this_process() });
    }
    status
}

/// A listening socket that this process is connected to already.
fn connected_listener() -> std::io::Result<(UnixListener, UnixStream)> {
    let mut random = [0u8; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let name = format!("ironring-{:032x}", u128::from_ne_bytes(random));
    let address = SocketAddr::from_abstract_name(name)?;
    let listener = UnixListener::bind_addr(&address)?;
    let stream = UnixStream::connect_addr(&address)?;
    Ok((listener, stream))
}

fn ended_within(child: &Child, limit: Duration) -> bool {
    // A descriptor of the process becomes readable when it ends.
    let Ok(process) = rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty()) else { return false };
    let timeout = Timespec::try_from(limit).ok();
    let mut fds = [PollFd::new(&process, PollFlags::IN)];
    matches!(rustix::event::poll(&mut fds, timeout.as_ref()), Ok(ready) if ready > 0)
}

/// The daemon's exit status when it could not begin.
const COULD_NOT_BEGIN: i32 = 3;
/// What the daemon serves by default.
const QUEUES_AT_LEAST: u16 = 1024;
const LINES_KEPT: usize = 32;
/// More than a backend has to tell.
const TOLD_MAX: u64 = 4096;
/// How long a backend that failed may take to say why.
const LAST_WORDS: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_told_from_the_rest_of_the_log() {
        for (line, words) in [
            ("2026-01-01T00:00:00Z  INFO ready mac=02:00:00:00:00:01", None),
            ("2026-01-01T00:00:00Z  WARN the session was ended: bad", Some("the session was ended: bad")),
            ("2026-01-01T00:00:00Z ERROR cannot begin", Some("cannot begin")),
            ("thread 'main' panicked", Some("thread 'main' panicked")),
        ] {
            assert_eq!(complaint(line), words);
        }
    }

    #[test]
    fn the_parent_is_first_in_the_queue() {
        let (listener, mut stream) = connected_listener().unwrap();
        assert!(listener.local_addr().unwrap().as_pathname().is_none(), "the socket is no file");
        let (mut accepted, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"first").unwrap();
        let mut bytes = [0; 5];
        std::io::Read::read_exact(&mut accepted, &mut bytes).unwrap();
        assert_eq!(&bytes, b"first");
    }
}
