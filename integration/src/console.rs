//! What a program of others says, in a process of its own, and how it is reached.

use std::io::{BufRead, BufReader};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The lines of the console, and whether there will be more.
#[derive(Debug, Default)]
pub(crate) struct Console {
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl Console {
    pub(crate) fn read(&self, output: impl std::io::Read) {
        let mut lines = BufReader::new(output);
        let mut line = Vec::new();
        while matches!(lines.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            self.lock().0.push(text);
            self.more.notify_all();
            line.clear();
        }
        self.lock().1 = true;
        self.more.notify_all();
    }

    /// Waits for a line from `mark` on that begins with `start`.
    pub(crate) fn wait(&self, start: &str, mark: usize, patience: Duration) -> Option<String> {
        let deadline = Instant::now() + patience;
        let mut lines = self.lock();
        loop {
            if let Some(line) = lines.0.iter().skip(mark).find(|line| line.starts_with(start)) {
                return Some(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.1 || left.is_zero() {
                return None;
            }
            lines = self.more.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(crate) fn find(&self, mark: usize, is: impl Fn(&str) -> bool) -> Option<String> {
        self.lock().0.iter().skip(mark).find(|line| is(line)).cloned()
    }

    /// The lines from `mark` on.
    pub(crate) fn since(&self, mark: usize) -> Vec<String> {
        self.lock().0.iter().skip(mark).cloned().collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().0.len()
    }

    pub(crate) fn tail(&self) -> String {
        self.lock().0.iter().rev().find(|line| !line.is_empty()).cloned().unwrap_or_else(|| "nothing".to_owned())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (Vec<String>, bool)> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection of the victim.
pub(crate) fn accept(listener: &UnixListener, patience: Duration) -> Result<UnixStream, Box<dyn std::error::Error>> {
    use rustix::event::{PollFd, PollFlags, Timespec};
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    if rustix::event::poll(&mut fds, Some(&Timespec::try_from(patience)?))? == 0 {
        return Err("it does not connect to the backend".into());
    }
    Ok(listener.accept()?.0)
}

/// A directory of our own.
pub(crate) fn tempdir() -> std::io::Result<PathBuf> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("ironring-{}-{number}", std::process::id()));
        match std::fs::create_dir(&dir) {
            // In a namespace of processes we have the same number as many others, one of which was killed here, or runs.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => return made.map(|()| dir),
        }
    }
}

/// A program by its name.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}
