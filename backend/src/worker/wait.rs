//! How a worker waits, and what it waits on.
//!
//! Everything but the command doorbell is watched edge-triggered. A driver chooses the kick descriptor: one that stays
//! readable for ever (a pipe at its end, a socket shut down) wakes the worker once and not again, and one that hung up is
//! no longer watched. An edge is lost only if nobody looks after it, and the worker looks at every ring and at the port
//! after each wake-up, until there is nothing left to do.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use epoll::{ControlOptions, Event, Events};
use ironring_common::error::OsError;

/// What a worker does when a pass found nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitPolicy {
    /// Looks again at once; kicks are suppressed for good. Waits only while no ring runs.
    Poll,
    /// Looks again for so long after the last work, then asks for kicks and waits.
    Adaptive {
        /// How long to look before waiting.
        spin: Duration,
    },
    /// Asks for kicks and waits at once.
    Interrupt,
}

/// Why a worker woke up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// The command doorbell was rung. It wakes until it is drained.
    Command,
    /// The port has something.
    Port,
    /// A ring was kicked.
    Kick {
        /// Number among the rings of the worker.
        ring: usize,
        /// Whether the descriptor hung up: there will be no more kicks.
        dead: bool,
    },
}

/// The set of descriptors that a worker waits on.
#[derive(Debug)]
pub(super) struct Waiter {
    epoll: Epoll,
}

impl Waiter {
    /// Watches the command doorbell and the ports.
    pub(super) fn new<'a>(
        commands: BorrowedFd<'_>,
        ports: impl Iterator<Item = BorrowedFd<'a>>,
    ) -> Result<Self, OsError> {
        let epoll = Epoll::new()?;
        epoll.add(commands, Events::EPOLLIN, TOKEN_COMMAND)?;
        for port in ports {
            epoll.add(port, Events::EPOLLIN | Events::EPOLLET, TOKEN_PORT)?;
        }
        Ok(Self { epoll })
    }

    /// Watches the kick of a ring. It fails for descriptors that cannot be waited on, as a plain file cannot.
    pub(super) fn watch(&self, ring: usize, kick: BorrowedFd<'_>) -> Result<(), OsError> {
        let token = u64::try_from(ring).unwrap_or(TOKEN_PORT);
        self.epoll.add(kick, Events::EPOLLIN | Events::EPOLLRDHUP | Events::EPOLLET, token)
    }

    /// No longer watches a kick. To be called before the descriptor is closed: the driver holds the same open file, so
    /// closing ours would not end its watch.
    pub(super) fn forget(&self, kick: BorrowedFd<'_>) {
        // It fails for a kick that could not be watched, which is what we want.
        let _ = self.epoll.remove(kick);
    }

    /// Waits for anything, at most `timeout`, and hands each reason to `wake`.
    pub(super) fn wait(&self, timeout: Duration, mut wake: impl FnMut(Wake)) -> Result<(), OsError> {
        let mut events = [Event::new(Events::empty(), TOKEN_PORT); 16];
        let count = self.epoll.wait(timeout, &mut events)?;
        for event in events.iter().take(count) {
            let Event { events, data } = *event;
            let hung_up = Events::EPOLLHUP | Events::EPOLLERR | Events::EPOLLRDHUP;
            let dead = Events::from_bits_truncate(events).intersects(hung_up);
            wake(match (data, usize::try_from(data)) {
                (TOKEN_COMMAND, _) => Wake::Command,
                (TOKEN_PORT, _) | (_, Err(_)) => Wake::Port,
                (_, Ok(ring)) => Wake::Kick { ring, dead },
            });
        }
        Ok(())
    }
}

/// An epoll descriptor that closes itself: the `epoll` crate gives it out as a bare number.
#[derive(Debug)]
struct Epoll(RawFd);

impl Epoll {
    fn new() -> Result<Self, OsError> {
        epoll::create(true).map(Self).map_err(|e| OsError::new("create an epoll set", e))
    }

    fn add(&self, fd: BorrowedFd<'_>, events: Events, token: u64) -> Result<(), OsError> {
        epoll::ctl(self.0, ControlOptions::EPOLL_CTL_ADD, fd.as_raw_fd(), Event::new(events, token))
            .map_err(|e| OsError::new("wait on a descriptor", e))
    }

    fn remove(&self, fd: BorrowedFd<'_>) -> Result<(), OsError> {
        epoll::ctl(self.0, ControlOptions::EPOLL_CTL_DEL, fd.as_raw_fd(), Event::new(Events::empty(), 0))
            .map_err(|e| OsError::new("stop waiting on a descriptor", e))
    }

    /// An interrupted wait is one without events.
    fn wait(&self, timeout: Duration, events: &mut [Event]) -> Result<usize, OsError> {
        // Never negative, which would be a wait without end.
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        match epoll::wait(self.0, millis, events) {
            Ok(count) => Ok(count),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Ok(0),
            Err(e) => Err(OsError::new("wait for events", e)),
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        // The number came from `epoll::create` and was given to nobody; there is no use for an error of close.
        let _ = epoll::close(self.0);
    }
}

/// The longest sleep: even if every signal were lost, the rings are looked at this often.
pub(super) const WATCHDOG: Duration = Duration::from_millis(100);
/// The longest sleep while a ring without a kick runs.
pub(super) const KICKLESS: Duration = Duration::from_millis(1);
const TOKEN_COMMAND: u64 = u64::MAX;
const TOKEN_PORT: u64 = u64::MAX - 1;
