//! Kick and call: eventfds that are shared with the peer.
//!
//! The peer holds the same open file description, so it can clear `O_NONBLOCK`, drain the counter or saturate it at any
//! time. Reads use `preadv2` with `RWF_NOWAIT`, which does not block whatever the flag says. Writes have no such form:
//! [`Doorbell::ring`] asks `poll` first, which narrows the window but cannot close it. A thread that must not be held up
//! has a [`Supervisor`], who ends a write that blocks.

mod supervisor;

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, FileType, StatxFlags};
use rustix::io::{Errno, ReadWriteFlags};

use crate::error::OsError;

pub use supervisor::{GuardedBell, Supervisor};

/// One eventfd, used as a doorbell.
#[derive(Debug)]
pub struct Doorbell {
    fd: OwnedFd,
}

/// What became of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// The peer will find it.
    Yes,
    /// The counter is full: the peer has a signal waiting already, or it saturated the counter to make us block.
    Saturated,
    /// The write blocked until it was helped, which only a peer that plays with the eventfd brings about.
    Stalled,
}

/// Why a descriptor is no doorbell.
#[derive(Debug, thiserror::Error)]
pub enum DoorbellError {
    /// The peer sent something else.
    #[error("the peer sent a descriptor of type {kind:?} as a kick or call; send an eventfd")]
    NotAnEventfd {
        /// What it is.
        kind: FileType,
    },
    /// The operating system refused.
    #[error(transparent)]
    Os(#[from] OsError),
}

impl Doorbell {
    /// A new doorbell, close-on-exec and non-blocking.
    ///
    /// # Errors
    /// [`OsError`] if there is no descriptor left.
    pub fn new() -> Result<Self, OsError> {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| OsError::new("create an eventfd", e))?;
        Ok(Self { fd })
    }

    /// A doorbell that the peer made. A file, a pipe, a socket or a device is refused: reads and writes of such could
    /// block or change something, and an endless supply of bytes would keep a waiter awake. What the kernel gives no
    /// file type is an anonymous inode; of those one that cannot be read is refused as well, most of all an epoll: to poll
    /// it is to poll what is in it, which may be of a file system that is a process of the peer's and never answers. Of
    /// what is left only an eventfd lets itself be rung.
    ///
    /// # Errors
    /// [`DoorbellError`].
    pub fn from_peer(fd: OwnedFd) -> Result<Self, DoorbellError> {
        // What the kernel knows by itself. A plain fstat asks a file system that is a process of the peer's (FUSE), which
        // may never answer.
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let stat = rustix::fs::statx(&fd, c"", flags, StatxFlags::TYPE)
            .map_err(|e| OsError::new("look at a peer's descriptor", e))?;
        // A read of nothing takes nothing. That there is nothing to read by is said before anything else.
        let readable = || rustix::io::preadv2(&fd, &mut [], u64::MAX, ReadWriteFlags::NOWAIT).is_ok();
        match FileType::from_raw_mode(stat.stx_mode.into()) {
            FileType::Unknown if readable() => Ok(Self { fd }),
            kind => Err(DoorbellError::NotAnEventfd { kind }),
        }
    }

    /// Signals the peer.
    ///
    /// # Errors
    /// [`OsError`] if the descriptor cannot be written at all.
    pub fn ring(&self) -> Result<Rung, OsError> {
        if !self.ready(PollFlags::OUT, Duration::ZERO)? {
            return Ok(Rung::Saturated);
        }
        self.write()
    }

    /// Whether a write would not get through now.
    fn is_full(&self) -> bool {
        !self.ready(PollFlags::OUT, Duration::ZERO).unwrap_or(true)
    }

    /// Makes room for a write of ours which the peer holds up by filling the counter. It may do so faster than a writer wakes up,
    /// so what is there is taken again and again: until there was room for a while, or nothing to take, and for a few milliseconds
    /// at most. Whether anything was taken. Never blocks.
    ///
    /// # Errors
    /// [`OsError`] if the descriptor cannot be read at all.
    pub fn make_room(&self) -> Result<bool, OsError> {
        let (mut any, mut calm) = (false, 0u32);
        for _ in 0..MOST_LOOKS {
            // What is no eventfd may be full for ever, and have nothing to take.
            if self.is_full() && self.drain()? {
                (any, calm) = (true, 0);
            } else {
                calm = calm.saturating_add(1);
            }
            if calm >= CALM_LOOKS {
                break;
            }
        }
        Ok(any)
    }

    /// Writes without a look first: it blocks if the peer wants that.
    fn write(&self) -> Result<Rung, OsError> {
        match rustix::io::write(&self.fd, &1u64.to_ne_bytes()) {
            Ok(_) => Ok(Rung::Yes),
            Err(Errno::AGAIN | Errno::INTR) => Ok(Rung::Saturated),
            Err(e) => Err(OsError::new("write to an eventfd", e)),
        }
    }

    /// Takes what was signalled; `true` if there was anything. Never blocks.
    ///
    /// # Errors
    /// [`OsError`] if the descriptor cannot be read at all.
    pub fn drain(&self) -> Result<bool, OsError> {
        let mut count = [0u8; 8];
        let mut buffers = [IoSliceMut::new(&mut count)];
        // The offset of all ones means "no position", as an eventfd has none.
        match rustix::io::preadv2(&self.fd, &mut buffers, u64::MAX, ReadWriteFlags::NOWAIT) {
            Ok(_) => Ok(true),
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(e) => Err(OsError::new("read from an eventfd", e)),
        }
    }

    /// Waits until there is something to drain, at most `timeout`; `true` if there is.
    ///
    /// # Errors
    /// [`OsError`] if the descriptor cannot be polled.
    pub fn wait(&self, timeout: Duration) -> Result<bool, OsError> {
        self.ready(PollFlags::IN, timeout)
    }

    /// Waits until there is something to drain from any of `bells`, at most `timeout`; `true` if there is.
    ///
    /// # Errors
    /// [`OsError`] if the descriptors cannot be polled.
    pub fn wait_any<'a>(bells: impl Iterator<Item = &'a Self>, timeout: Duration) -> Result<bool, OsError> {
        let mut fds: Vec<_> = bells.map(|bell| PollFd::new(&bell.fd, PollFlags::IN)).collect();
        poll(&mut fds, timeout)?;
        Ok(fds.iter().any(|fd| fd.revents().contains(PollFlags::IN)))
    }

    fn ready(&self, events: PollFlags, timeout: Duration) -> Result<bool, OsError> {
        let mut fds = [PollFd::new(&self.fd, events)];
        poll(&mut fds, timeout)?;
        // Only what was asked for: a counter that the peer drove to its very end reports an error instead of being writable,
        // and a write would block.
        Ok(fds.iter().all(|fd| fd.revents().contains(events)))
    }
}

/// Polls eventfds until something is to be said of one of them, at most `timeout`.
fn poll(fds: &mut [PollFd<'_>], timeout: Duration) -> Result<(), OsError> {
    let deadline = Instant::now().checked_add(timeout);
    loop {
        let left = deadline.map_or(timeout, |d| d.saturating_duration_since(Instant::now()));
        let timespec = Timespec::try_from(left).ok();
        match rustix::event::poll(fds, timespec.as_ref()) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(OsError::new("poll an eventfd", e)),
        }
    }
}

/// A counter that was not full so many times in a row is one that nobody fills.
const CALM_LOOKS: u32 = 64;
/// Looks at a counter that somebody fills again and again, each of one system call or two.
const MOST_LOOKS: u32 = 2_000;

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_drained_once() {
        let bell = Doorbell::new().unwrap();
        assert!(!bell.drain().unwrap());
        assert!(!bell.wait(Duration::ZERO).unwrap());
        assert_eq!(bell.ring().unwrap(), Rung::Yes);
        assert_eq!(bell.ring().unwrap(), Rung::Yes);
        assert!(bell.wait(Duration::from_secs(5)).unwrap());
        assert!(bell.drain().unwrap());
        assert!(!bell.drain().unwrap());
    }

    #[test]
    fn any_of_several_ends_a_wait() {
        let bells = [(); 3].map(|()| Doorbell::new().unwrap());
        assert!(!Doorbell::wait_any(bells.iter(), Duration::ZERO).unwrap());
        bells[2].ring().unwrap();
        assert!(Doorbell::wait_any(bells.iter(), Duration::from_secs(5)).unwrap());
        assert!(!Doorbell::wait_any(bells[..2].iter(), Duration::ZERO).unwrap());
    }

    /// The peer clears `O_NONBLOCK` and drains or saturates the counter: neither call blocks.
    #[test]
    fn a_peer_that_plays_with_the_flags_does_not_block_us() {
        let bell = Doorbell::new().unwrap();
        let peer = bell.as_fd().try_clone_to_owned().unwrap();
        rustix::fs::fcntl_setfl(&peer, rustix::fs::OFlags::empty()).unwrap();
        assert!(!bell.drain().unwrap(), "an empty counter would block a plain read");
        rustix::io::write(&peer, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        assert_eq!(bell.ring().unwrap(), Rung::Saturated, "a full counter would block a plain write");
    }

    #[test]
    fn a_doorbell_of_the_peer_is_an_eventfd() {
        let bell = Doorbell::new().unwrap();
        let theirs = Doorbell::from_peer(bell.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert_eq!(theirs.ring().unwrap(), Rung::Yes);
        assert!(bell.drain().unwrap());
        let (reader, _writer) = std::io::pipe().unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = crate::shm::mapping::Memfd::create("no doorbell", 4096).unwrap();
        let device = std::fs::File::open("/dev/zero").unwrap();
        let others: [(OwnedFd, _); 4] = [
            (reader.into(), FileType::Fifo),
            (socket.into(), FileType::Socket),
            (file.as_fd().try_clone_to_owned().unwrap(), FileType::RegularFile),
            (device.into(), FileType::CharacterDevice),
        ];
        let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
        let refused = Doorbell::from_peer(epoll);
        assert!(matches!(refused, Err(DoorbellError::NotAnEventfd { kind: FileType::Unknown })), "{refused:?}");
        for (fd, expected) in others {
            let refused = Doorbell::from_peer(fd);
            assert!(matches!(refused, Err(DoorbellError::NotAnEventfd { kind }) if kind == expected), "{refused:?}");
        }
    }
}
