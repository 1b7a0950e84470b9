//! How many lines the driver writes to its log in a cell. A device that may decide about that fills a disk.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};

static LINES: AtomicU64 = AtomicU64::new(0);

/// Counts the lines of this process from here on, of every level that a user may ask for, and keeps none of them.
pub(super) fn count_lines() {
    let log = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(|| Counter);
    // A process that has a log already keeps it, and counts nothing.
    let _ = log.with_ansi(false).try_init();
}

/// Lines so far.
pub(super) fn lines() -> u64 {
    LINES.load(Ordering::Relaxed)
}

/// What lines are written to.
struct Counter;

impl Write for Counter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES.fetch_add(1, Ordering::Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
