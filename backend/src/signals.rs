//! SIGTERM and SIGINT: the first one ends the daemon in order, and what comes after it ends the process.
//!
//! A session ends in order as long as its thread gets to run. A thread can be held in the kernel, though, where nothing
//! reaches it: by a capture on a file system that does not answer, or by a descriptor of the front-end's on one. So
//! after a second signal, or [`GRACE`] after the first one, the process ends as it stands.

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use ironring_common::error::OsError;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::session::StopToken;
use crate::session::listen::SocketFile;

/// Watches for signals until it is dropped.
#[derive(Debug)]
pub(crate) struct SignalWatch {
    shared: Arc<Shared>,
    /// The other end of what the watching thread reads from.
    wake: UnixStream,
}

#[derive(Debug, Default)]
struct Shared {
    /// The daemon has ended in order; the process may go on.
    over: AtomicBool,
    socket: OnceLock<Weak<SocketFile>>,
}

impl SignalWatch {
    /// Lets signals stop `stop`.
    pub(crate) fn start(stop: StopToken) -> Result<Self, OsError> {
        let failed = |e| OsError::new("watch for signals", e);
        let (reader, wake) = UnixStream::pair().map_err(failed)?;
        for signal in [SIGTERM, SIGINT] {
            let writer = wake.try_clone().map_err(failed)?;
            signal_hook::low_level::pipe::register(signal, writer).map_err(failed)?;
        }
        let shared = Arc::<Shared>::default();
        let watch = {
            let shared = Arc::clone(&shared);
            move || shared.watch(reader, &stop)
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(watch).map_err(failed)?;
        Ok(Self { shared, wake })
    }

    /// The file that is to be removed when the process has to end as it stands.
    pub(crate) fn remove_at_the_end(&self, socket: Weak<SocketFile>) {
        // There is one endpoint for each daemon.
        let _ = self.shared.socket.set(socket);
    }
}

impl Drop for SignalWatch {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Ends the watching thread, which may wait for a signal that does not come.
        let _ = self.wake.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn watch(&self, mut signals: UnixStream, stop: &StopToken) {
        // One byte stands for each signal; the end of the stream, for the end of the daemon.
        let mut next = || signals.read(&mut [0]);
        while next().is_err_and(|e| e.kind() == ErrorKind::Interrupted) {}
        if self.over.load(Ordering::SeqCst) {
            return;
        }
        tracing::info!("told to end by a signal; a second one ends the process as it stands");
        stop.stop();
        let why = match self.second(&mut signals) {
            Ok(_) => "a second signal came".to_owned(),
            Err(_) => format!("{} s after the signal it has not ended in order", GRACE.as_secs()),
        };
        if !self.over.load(Ordering::SeqCst) {
            self.end(why);
        }
    }

    /// Waits for a second byte or the end of the stream, at most [`GRACE`].
    fn second(&self, signals: &mut UnixStream) -> std::io::Result<usize> {
        signals.set_read_timeout(Some(GRACE))?;
        loop {
            match signals.read(&mut [0]) {
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Ends the process as it stands.
    fn end(&self, why: String) {
        if let Some(socket) = self.socket.get().and_then(Weak::upgrade) {
            socket.remove();
        }
        // In a thread of its own: what holds up the session may be the log itself, a pipe that nobody reads.
        let (saying, said) = channel::<()>();
        let say = move || {
            let _saying = saying;
            tracing::error!("{why}; the process ends as it stands, look for a file or device that does not answer");
        };
        let _ = std::thread::Builder::new().name("last-words".to_owned()).spawn(say);
        let _ = said.recv_timeout(LAST_WORDS);
        std::process::exit(STATUS);
    }
}

/// How long an orderly end may take.
const GRACE: Duration = Duration::from_secs(5);
/// How long the last line of the log may take.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The exit status of a daemon that failed.
const STATUS: i32 = 1;
