//! SIGTERM and SIGINT: the first one ends the daemon in order, and what comes after it ends the process.
//!
//! A session ends in order as long as its thread gets to run. A thread can be held in the kernel, though, where nothing
//! reaches it: by a capture on a file system that does not answer, or by a descriptor of the front-end's on one. So
//! after a second signal, or [`GRACE`] after the first one, the process ends as it stands.
//!
//! Signals are caught from [`SignalCatch::new`] on and wait in a pipe; the thread that acts on them is started later, so
//! that it can be started inside the sandbox.

use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ironring_common::error::OsError;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::sandbox::{Role, Sandbox, SandboxError};
use crate::session::StopToken;
use crate::session::listen::SocketFile;

/// Keeps signals for later.
#[derive(Debug)]
pub(crate) struct SignalCatch {
    reader: PipeReader,
    wake: PipeWriter,
}

/// Watches for signals until it is dropped.
#[derive(Debug)]
pub(crate) struct SignalWatch {
    shared: Arc<Shared>,
    /// The other end of what the watching thread reads from.
    wake: PipeWriter,
}

#[derive(Debug)]
struct Shared {
    /// The daemon has ended in order; the process may go on.
    over: AtomicBool,
    /// The file that is to be removed when the process has to end as it stands.
    socket: Weak<SocketFile>,
}

impl SignalCatch {
    /// Catches signals from now on.
    pub(crate) fn new() -> Result<Self, OsError> {
        let failed = |e| OsError::new("watch for signals", e);
        // Not a socket: a signal interrupts any thread, and all of them may write.
        let (reader, wake) = std::io::pipe().map_err(failed)?;
        for signal in [SIGTERM, SIGINT] {
            let writer = wake.try_clone().map_err(failed)?;
            signal_hook::low_level::pipe::register(signal, writer).map_err(failed)?;
        }
        Ok(Self { reader, wake })
    }

    /// Lets signals stop `stop`, those that came before too.
    pub(crate) fn watch(
        self,
        stop: StopToken,
        socket: Weak<SocketFile>,
        sandbox: Sandbox,
    ) -> Result<SignalWatch, SandboxError> {
        let shared = Arc::new(Shared { over: AtomicBool::new(false), socket });
        let (entering, entered) = channel();
        let watch = {
            let shared = Arc::clone(&shared);
            move || {
                let outcome = sandbox.enter(Role::Signals);
                let failed = outcome.is_err();
                // Whoever starts this waits for it.
                let _ = entering.send(outcome);
                if !failed {
                    shared.watch(self.reader, &stop);
                }
            }
        };
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(watch)
            .map_err(|e| OsError::new("watch for signals", e))?;
        // The thread cannot go without saying.
        entered.recv().unwrap_or(Ok(()))?;
        Ok(SignalWatch { shared, wake: self.wake })
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Ends the watching thread, which may wait for a signal that does not come.
        let _ = self.wake.write(&[0]);
    }
}

impl Shared {
    fn watch(&self, mut signals: PipeReader, stop: &StopToken) {
        // One byte stands for each signal, and one for the end of the daemon.
        let mut next = || signals.read(&mut [0]);
        while next().is_err_and(|e| e.kind() == ErrorKind::Interrupted) {}
        if self.over.load(Ordering::SeqCst) {
            return;
        }
        // First, because the process may be gone right after the stop.
        say(|| tracing::info!("told to end by a signal; a second one ends the process as it stands"));
        stop.stop();
        let why = if wait_for_a_byte(&signals) {
            "a second signal came".to_owned()
        } else {
            format!("{} s after the signal it has not ended in order", GRACE.as_secs())
        };
        if !self.over.load(Ordering::SeqCst) {
            self.end(why);
        }
    }

    /// Ends the process as it stands.
    fn end(&self, why: String) {
        if let Some(socket) = self.socket.upgrade() {
            // Whoever starts the daemon again finds it, and replaces it.
            let _ = socket.remove();
        }
        say(move || {
            tracing::error!("{why}; the process ends as it stands, look for a file or device that does not answer");
        });
        std::process::exit(STATUS);
    }
}

/// Waits until there is something to read, at most [`GRACE`].
fn wait_for_a_byte(pipe: &PipeReader) -> bool {
    let started = Instant::now();
    loop {
        let left = Timespec::try_from(GRACE.saturating_sub(started.elapsed())).ok();
        match rustix::event::poll(&mut [PollFd::new(pipe, PollFlags::IN)], left.as_ref()) {
            Err(Errno::INTR) => {}
            polled => return polled.is_ok_and(|ready| ready > 0),
        }
    }
}

/// Writes to the log, and waits for that only so long: what holds up the session may be the log itself, a pipe that
/// nobody reads.
pub(crate) fn say(line: impl FnOnce() + Send + 'static) {
    let (saying, said) = channel::<()>();
    let line = move || {
        let _saying = saying;
        line();
    };
    let _ = std::thread::Builder::new().name("last-words".to_owned()).spawn(line);
    let _ = said.recv_timeout(LAST_WORDS);
}

/// How long an orderly end may take.
const GRACE: Duration = Duration::from_secs(5);
/// How long a line of the log may take.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The exit status of a daemon that failed.
const STATUS: i32 = 1;
