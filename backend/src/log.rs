//! The log: lines on stderr, and not more of them than somebody can read.
//!
//! Much of what is logged is the peer's doing, and a peer can connect, break a rule and leave as fast as it likes. So
//! lines are paid for from a bucket of tokens that fills slowly. Lines that are not paid for are dropped and counted, and
//! the next line that is written says how many. The statistics of sessions that end are paid for from the same bucket.

use std::io::Write;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::config::{LogFormat, LogOptions};

/// Sends the log of this process to stderr. If it has a log already, that one stays.
pub(crate) fn init(options: LogOptions) {
    let limited = STDERR.get_or_init(|| Limited::new(options.format));
    let subscriber = subscriber(options, || ToStderr(limited));
    // Fails if the process has a log already.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// Writes something that a peer can cause to stderr, unless there is too much of that.
pub(crate) fn write_limited(text: &str) {
    let limited = STDERR.get_or_init(|| Limited::new(LogFormat::Text));
    // Whoever closed stderr does not want to read it.
    let _ = limited.pass(text.as_bytes(), &mut std::io::stderr().lock(), Instant::now());
}

/// Writes events as the options say.
fn subscriber<W>(options: LogOptions, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder =
        tracing_subscriber::fmt().with_max_level(options.level).with_writer(writer).with_ansi(false).with_target(false);
    match options.format {
        LogFormat::Text => Box::new(builder.finish()),
        LogFormat::Json => Box::new(builder.json().finish()),
    }
}

/// The bucket for what this process writes to stderr.
static STDERR: OnceLock<Limited> = OnceLock::new();

/// Stderr behind the bucket, for one line.
struct ToStderr(&'static Limited);

impl Write for ToStderr {
    /// One line; the subscriber writes each with one call.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.pass(line, &mut std::io::stderr().lock(), Instant::now())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A bucket of tokens, and how to say that it was empty.
#[derive(Debug)]
struct Limited {
    bucket: Mutex<Bucket>,
    format: LogFormat,
}

impl Limited {
    fn new(format: LogFormat) -> Self {
        Self { bucket: Mutex::new(Bucket::new(Instant::now())), format }
    }

    /// Writes a line to `out` if it is paid for, and before it how many were not.
    fn pass(&self, line: &[u8], out: &mut impl Write, now: Instant) -> std::io::Result<()> {
        let verdict = self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(now);
        let Some(dropped) = verdict else { return Ok(()) };
        if dropped > 0 {
            writeln!(out, "{}", self.notice(dropped))?;
        }
        out.write_all(line)
    }

    /// That lines were dropped, as a line of the log.
    fn notice(&self, dropped: u64) -> String {
        match self.format {
            LogFormat::Text => format!("({dropped} lines were dropped here)"),
            LogFormat::Json => {
                let mut timestamp = String::new();
                // Into a string: nothing to fail.
                let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
                let fields = serde_json::json!({ "message": "log lines were dropped", "count": dropped });
                serde_json::json!({ "timestamp": timestamp, "level": "WARN", "fields": fields }).to_string()
            }
        }
    }
}

/// Tokens for lines.
#[derive(Debug)]
struct Bucket {
    tokens: u32,
    /// Up to when tokens were counted in.
    filled: Instant,
    /// Lines dropped since the last one that was written.
    dropped: u64,
}

impl Bucket {
    const fn new(now: Instant) -> Self {
        Self { tokens: BURST, filled: now, dropped: 0 }
    }

    /// Pays for a line: the number of lines dropped before it, or `None` if it is to be dropped too.
    fn take(&mut self, now: Instant) -> Option<u64> {
        self.fill(now);
        match self.tokens.checked_sub(1) {
            Some(left) => {
                self.tokens = left;
                Some(std::mem::take(&mut self.dropped))
            }
            None => {
                self.dropped = self.dropped.saturating_add(1);
                None
            }
        }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).as_millis();
        let due = elapsed.checked_div(INTERVAL.as_millis()).and_then(|due| u32::try_from(due).ok()).unwrap_or(u32::MAX);
        if due >= BURST.saturating_sub(self.tokens) {
            self.tokens = BURST;
            self.filled = now;
        } else {
            self.tokens = self.tokens.saturating_add(due);
            // What is left of the last interval counts for the next token.
            self.filled = self.filled.checked_add(INTERVAL.saturating_mul(due)).unwrap_or(now);
        }
    }
}

/// So many lines may come at once.
const BURST: u32 = 64;
/// One more line after so long.
const INTERVAL: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tracing::level_filters::LevelFilter;

    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        let passed = (0..1000).filter(|_| bucket.take(start).is_some()).count();
        assert_eq!(passed, 64);
        assert_eq!(bucket.take(start + INTERVAL), Some(936));
        assert_eq!(bucket.take(start + INTERVAL), None);
        assert_eq!(bucket.take(start + INTERVAL * 3), Some(1));
        assert_eq!(bucket.take(start + INTERVAL * 3), Some(0));
        assert_eq!(bucket.take(start + INTERVAL * 3), None);
        let later = start + INTERVAL * 1000;
        assert_eq!((0..1000).filter(|_| bucket.take(later).is_some()).count(), 64);
    }

    /// A place for lines that a test can read.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn objects(text: &[u8]) -> Vec<serde_json::Value> {
        let lines = std::str::from_utf8(text).unwrap().lines();
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
    }

    #[test]
    fn a_log_as_json_has_an_object_a_line_whatever_stands_in_it() {
        let sink = Sink::default();
        let options = LogOptions { level: LevelFilter::DEBUG, format: LogFormat::Json };
        let writer = sink.clone();
        tracing::subscriber::with_default(subscriber(options, move || writer.clone()), || {
            tracing::info!(session = 1, "a front-end is connected");
            tracing::debug!(reason = "left", figures = r#"{"queues":[]}"#, "lines\nand \"quotes\"");
            tracing::trace!("too much");
        });
        let objects = objects(&sink.0.lock().unwrap());
        let [connected, quoted] = &objects[..] else { panic!("{objects:?}") };
        assert_eq!((&connected["level"], &connected["fields"]["session"]), (&"INFO".into(), &1.into()));
        assert_eq!(connected["fields"]["message"], "a front-end is connected");
        assert_eq!(quoted["fields"]["message"], "lines\nand \"quotes\"");
        assert_eq!(quoted["fields"]["figures"], r#"{"queues":[]}"#);
    }

    #[test]
    fn what_was_dropped_is_told_in_the_form_of_the_log() {
        for format in [LogFormat::Json, LogFormat::Text] {
            let limited = Limited::new(format);
            let start = Instant::now();
            let mut out = Vec::new();
            for _ in 0..100 {
                limited.pass(b"{}\n", &mut out, start).unwrap();
            }
            limited.pass(b"{\"last\":1}\n", &mut out, start + INTERVAL).unwrap();
            if format == LogFormat::Text {
                assert!(out.ends_with(b"(36 lines were dropped here)\n{\"last\":1}\n"));
                continue;
            }
            let objects = objects(&out);
            assert_eq!(objects.len(), 66);
            let [notice, last] = &objects[64..] else { panic!("64 lines at once, and two") };
            assert_eq!((&notice["fields"]["count"], &notice["level"]), (&36.into(), &"WARN".into()));
            assert_eq!(notice["fields"]["message"], "log lines were dropped");
            assert!(notice["timestamp"].as_str().unwrap().ends_with('Z'));
            assert_eq!(last["last"], 1);
        }
    }

    #[test]
    fn steady_drops_of_time_add_up() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        while bucket.take(start).is_some() {}
        let step = INTERVAL / 4;
        let passed = (1..=40u32).filter(|tick| bucket.take(start + step * *tick).is_some()).count();
        assert_eq!(passed, 10);
    }
}
