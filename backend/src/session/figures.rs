//! The figures of a session, as `--stats` has them written: at an interval, and once more when the session ends.
//!
//! They are no log. A thread of their own writes them to stderr, in one piece, also when the log is silent. What comes
//! at the interval is as much as was asked for; the last piece of a session is the front-end's doing, which can come and
//! go as fast as it likes, so that one is paid for from the bucket of the log and may be missing in a flood.

mod table;

use std::io::Write;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::life::LastRequest;
use crate::config::{Settings, StatsFormat};
use crate::log;
use crate::sandbox::Role;
use crate::stats::{DeviceStats, Snapshot};

/// Writes the figures of one session until it is dropped. The last ones are written then.
#[derive(Debug, Default)]
pub(super) struct Figures {
    running: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Figures {
    /// Begins to write, if the settings ask for it. Without a thread to be had, the session goes on without.
    pub(super) fn start(settings: &Settings, session: u64, heard: &LastRequest, stats: &DeviceStats) -> Self {
        let Some(interval) = settings.stats else { return Self::default() };
        let now = Instant::now();
        let clerk = Clerk {
            format: settings.stats_format,
            session,
            heard: heard.clone(),
            stats: stats.clone(),
            started: now,
            last: (now, stats.snapshot()),
        };
        let (end, ended) = channel();
        let sandbox = settings.sandbox.clone();
        let work = move || match sandbox.enter(Role::Figures) {
            Ok(()) => clerk.work(interval, &ended),
            Err(error) => tracing::warn!("no figures of this session: {error}"),
        };
        match std::thread::Builder::new().name("figures".to_owned()).spawn(work) {
            Ok(thread) => Self { running: Some((end, thread)) },
            Err(error) => {
                tracing::warn!("no figures of this session: {error}");
                Self::default()
            }
        }
    }
}

impl Drop for Figures {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.running.take() {
            drop(end);
            // If it panicked, it said so.
            let _ = thread.join();
        }
    }
}

/// Who writes them.
struct Clerk {
    format: StatsFormat,
    session: u64,
    heard: LastRequest,
    stats: DeviceStats,
    started: Instant,
    /// The figures that were written last, and when.
    last: (Instant, Snapshot),
}

impl Clerk {
    fn work(mut self, interval: Duration, ended: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(interval) {
            // Whoever closed stderr does not want the numbers.
            let _ = std::io::stderr().lock().write_all(self.text(false).as_bytes());
        }
        log::write_limited(&self.text(true));
    }

    /// The figures as they are now, in lines.
    fn text(&mut self, ended: bool) -> String {
        let now = Instant::now();
        let counters = self.stats.snapshot();
        let (then, before) = std::mem::replace(&mut self.last, (now, counters.clone()));
        let age = now.saturating_duration_since(self.started);
        let record = Record {
            seconds: age.as_secs(),
            micros: u64::try_from(age.as_micros()).unwrap_or(u64::MAX),
            session: self.session,
            ended,
            last_message: self.heard.name(),
            counters,
        };
        match self.format {
            StatsFormat::Table => table::render(&record, &before, now.saturating_duration_since(then)),
            StatsFormat::Json => serde_json::to_string(&record).map_or_else(|_| String::new(), |line| line + "\n"),
        }
    }
}

/// The figures of one moment; as JSON a line of `--stats`.
#[derive(Debug, serde::Serialize)]
struct Record {
    /// Seconds since the front-end connected.
    seconds: u64,
    /// The same in microseconds.
    micros: u64,
    /// Number of the session.
    session: u64,
    /// Whether these are the last.
    ended: bool,
    /// The last request of the front-end.
    last_message: Option<String>,
    #[serde(flatten)]
    counters: Snapshot,
}
