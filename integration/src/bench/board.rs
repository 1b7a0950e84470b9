//! How many frames the threads of a driver have had, and how that is told.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ironring_common::apart::Apart;
use serde::{Deserialize, Serialize};

/// What is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    /// Since the work began.
    pub(super) micros: u64,
    /// Frames: sent and taken back, received, or gone round.
    pub(super) frames: u64,
    /// Whether this is the last word.
    pub(super) ended: bool,
    /// Round trips in nanoseconds: the median, and what 1 % and 0.1 % were slower than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) percentiles: Option<[u64; 3]>,
    /// What turns with frames took, if that is recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) turns_micros: Option<u64>,
}

/// What is told beside the frames.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beside {
    pub(super) percentiles: Option<[u64; 3]>,
    /// What turns with frames took.
    pub(super) turns: Option<Duration>,
}

/// Where threads note how many frames there were, each on lines of its own, and who tells of them.
pub(super) struct Board {
    began: Instant,
    frames: Box<[Apart<AtomicU64>]>,
}

impl Board {
    /// For so many threads.
    pub(super) fn new(threads: usize) -> Self {
        Self { began: Instant::now(), frames: (0..threads).map(|_| Apart::default()).collect() }
    }

    /// Since the work began.
    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many frames a thread has had so far.
    pub(super) fn note(&self, thread: usize, frames: u64) {
        if let Some(Apart(place)) = self.frames.get(thread) {
            place.store(frames, Ordering::Relaxed);
        }
    }

    /// What all of them have had, on stdout.
    pub(super) fn tell(&self, ended: bool, Beside { percentiles, turns }: Beside) {
        let in_micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (micros, turns_micros) = (in_micros(self.elapsed()), turns.map(in_micros));
        let frames = self.frames.iter().map(|Apart(frames)| frames.load(Ordering::Relaxed)).sum();
        let line = serde_json::to_string(&Told { micros, frames, ended, percentiles, turns_micros });
        // Whoever does not listen any more does not want it.
        let _ = writeln!(std::io::stdout().lock(), "{}", line.unwrap_or_default());
    }
}
