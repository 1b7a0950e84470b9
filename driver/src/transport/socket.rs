//! Bytes over a Unix socket, with a deadline, and without the other side's descriptors.
//!
//! Three things that a peer could do to a plain `recvmsg` loop decide the shape of this file:
//!
//! - It can stay silent, dribble, or never read. The socket is non-blocking, every wait is a `poll` that ends at an
//!   absolute [`Deadline`], and no read asks for more than what is missing of the message.
//! - It can attach descriptors to any byte. Receiving them costs table entries, and closing them may block: the last
//!   reference to a TCP socket with `SO_LINGER`, or a file of a FUSE server of the peer's, holds the closing thread for
//!   as long as the peer likes, past any deadline. So they are never received. Every read is preceded by a peek without
//!   a control buffer; the kernel then says `MSG_CTRUNC` and lends us, for the moment of the call, a second reference
//!   that cannot be the last. Bytes that a peek found bare are bare when they are read, as this is the only reader. A
//!   socket with something left in its queue is closed by a thread of its own ([`Socket::drop`]).
//! - It can send urgent data, which `poll` reports as readable and a read does not return, so that the two spin. `poll`
//!   tells it apart (`POLLPRI`). Worse, a peek passes it over and a read throws it away, with the descriptors that are
//!   attached to it. So it is read inline (`SO_OOBINLINE`), where a peek finds it as it finds all else.

use core::mem::MaybeUninit;
use core::time::Duration;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Instant;

use ironring_common::error::OsError;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    Shutdown, SocketAddrUnix, SocketFlags, SocketType,
};

/// A connected, non-blocking stream socket.
#[derive(Debug)]
pub(super) struct Socket {
    /// `None` only while it is being dropped.
    fd: Option<OwnedFd>,
}

/// A point in time, and how far away it was when it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    pub(super) after: Duration,
}

/// Why bytes did not move.
#[derive(Debug)]
pub(super) enum Fault {
    /// Descriptors are attached to the next bytes.
    Descriptors,
    /// There is urgent data.
    Urgent,
    /// The other end is closed.
    HungUp,
    /// The deadline has passed.
    TimedOut,
    /// A system call failed for a reason of its own.
    Os(OsError),
}

impl Deadline {
    /// A point `after` from now, an hour at most: a deadline that never comes is no deadline.
    pub(super) fn after(after: Duration) -> Self {
        let after = after.min(LONGEST);
        let now = Instant::now();
        Self { at: now.checked_add(after).unwrap_or(now), after }
    }

    /// The time left, or `None` if there is none.
    fn left(self) -> Option<Duration> {
        self.at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}

impl Socket {
    /// Takes over a connected stream.
    pub(super) fn adopt(stream: UnixStream) -> Result<Self, OsError> {
        stream.set_nonblocking(true).map_err(|e| OsError::new("make a socket non-blocking", e))?;
        // With credentials switched on, every message would look as if something had been attached to it.
        rustix::net::sockopt::set_socket_passcred(&stream, false)
            .map_err(|e| OsError::new("switch off credentials on a socket", e))?;
        rustix::net::sockopt::set_socket_oobinline(&stream, true)
            .map_err(|e| OsError::new("have a socket's urgent data in line", e))?;
        Ok(Self { fd: Some(stream.into()) })
    }

    /// Connects, and tries again while nobody listens there yet or the listener is busy.
    pub(super) fn connect(path: &Path, deadline: Deadline) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        // Non-blocking from the start: a plain connect waits for ever for a listener whose backlog is full.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::sockopt::set_socket_oobinline(&fd, true)?;
        let mut pause = FIRST_PAUSE;
        loop {
            let errno = match rustix::net::connect(&fd, &address) {
                Ok(()) => return Ok(Self { fd: Some(fd) }),
                Err(errno @ (Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN | Errno::INTR)) => errno,
                Err(errno) => return Err(errno.into()),
            };
            // There is no event for a socket that appears; a short timed wait bounds the delay.
            let left = deadline.left().ok_or(errno)?;
            thread::park_timeout(pause.min(left));
            pause = pause.saturating_mul(2).min(LAST_PAUSE);
        }
    }

    /// Sends everything; the descriptors travel with the first byte.
    pub(super) fn send_all(&self, bytes: &[u8], fds: &[BorrowedFd<'_>], deadline: Deadline) -> Result<(), Fault> {
        let fd = self.fd()?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Fault::Os(OsError::new("attach that many descriptors to a message", Errno::INVAL)));
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::sendmsg(fd, &[IoSlice::new(rest)], &mut control, flags) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    // The descriptors have gone with the first part.
                    control.clear();
                }
                Err(Errno::AGAIN | Errno::INTR) => self.wait(PollFlags::OUT, deadline)?,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Fault::HungUp),
                Err(e) => return Err(Fault::Os(OsError::new("send to the backend", e))),
            }
        }
        Ok(())
    }

    /// Fills the buffer and reads nothing beyond it.
    pub(super) fn receive_exact(&self, buffer: &mut [u8], deadline: Deadline) -> Result<(), Fault> {
        let mut rest = buffer;
        while !rest.is_empty() {
            // What is there is taken even if it is too little, or `poll` would call it readable again at once.
            let there = self.receive(rest, RecvFlags::PEEK)?;
            let bare = rest.get_mut(..there.unwrap_or(0)).unwrap_or_default();
            let taken = if bare.is_empty() { None } else { self.receive(bare, RecvFlags::empty())? };
            match taken {
                Some(taken) => rest = rest.get_mut(taken..).unwrap_or_default(),
                None => self.wait(PollFlags::IN, deadline)?,
            }
        }
        Ok(())
    }

    /// Whether there are bytes to read, now.
    pub(super) fn has_bytes(&self) -> Result<bool, Fault> {
        let ready = self.poll(PollFlags::IN, Duration::ZERO)?;
        if ready.is_empty() {
            return Ok(false);
        }
        Ok(self.receive(&mut [0], RecvFlags::PEEK)?.is_some())
    }

    /// One `recvmsg` that has no room for descriptors. `None` if there is nothing to read now.
    fn receive(&self, buffer: &mut [u8], flags: RecvFlags) -> Result<Option<usize>, Fault> {
        let mut none = RecvAncillaryBuffer::default();
        let flags = flags | RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        match rustix::net::recvmsg(self.fd()?, &mut [IoSliceMut::new(buffer)], &mut none, flags) {
            Ok(message) if message.flags.contains(ReturnFlags::CTRUNC) => Err(Fault::Descriptors),
            Ok(message) if message.bytes == 0 => Err(Fault::HungUp),
            Ok(message) => Ok(Some(message.bytes)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(Errno::CONNRESET) => Err(Fault::HungUp),
            Err(e) => Err(Fault::Os(OsError::new("receive from the backend", e))),
        }
    }

    /// Waits until one of `events`, a hang-up or an error, and no longer than the deadline.
    fn wait(&self, events: PollFlags, deadline: Deadline) -> Result<(), Fault> {
        loop {
            let left = deadline.left().ok_or(Fault::TimedOut)?;
            if !self.poll(events, left)?.is_empty() {
                return Ok(());
            }
        }
    }

    /// What `poll` says; nothing if it was interrupted.
    fn poll(&self, events: PollFlags, timeout: Duration) -> Result<PollFlags, Fault> {
        let fd = self.fd()?;
        let timeout = Timespec::try_from(timeout).map_err(|_| Fault::TimedOut)?;
        let mut fds = [PollFd::new(&fd, events | PollFlags::PRI)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(Fault::Os(OsError::new("poll the backend's socket", e))),
        }
        let [fd] = fds;
        if fd.revents().contains(PollFlags::PRI) { Err(Fault::Urgent) } else { Ok(fd.revents()) }
    }

    fn fd(&self) -> Result<BorrowedFd<'_>, Fault> {
        self.fd.as_ref().map(AsFd::as_fd).ok_or(Fault::HungUp)
    }
}

impl Drop for Socket {
    /// Closes the socket. If the peer left something in it, descriptors may be among that, and the last reference to
    /// them goes with the socket: a thread of its own closes it then. If there can be no thread, it is closed here.
    fn drop(&mut self) {
        if let Some(fd) = &self.fd {
            // From here on the peer cannot add anything.
            let _ = rustix::net::shutdown(fd, Shutdown::Both);
        }
        let unread = !matches!(self.has_bytes(), Ok(false) | Err(Fault::HungUp));
        let fd = self.fd.take();
        if unread {
            let _ = thread::Builder::new().name("ironring-close".into()).spawn(move || drop(fd));
        }
    }
}

/// Descriptors in one message: one for each memory region.
pub(super) const MAX_FDS: usize = 8;
/// The longest deadline.
const LONGEST: Duration = Duration::from_secs(3600);
/// Between the first two attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// Between later attempts.
const LAST_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    /// A peek finds it, so no read throws it away and closes what is attached to it.
    #[test]
    fn descriptors_of_urgent_data_are_not_received() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let socket = Socket::adopt(ours).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [theirs.as_fd()];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        let flags = SendFlags::OOB | SendFlags::NOSIGNAL;
        if rustix::net::sendmsg(&theirs, &[IoSlice::new(&[1])], &mut control, flags).is_err() {
            // Kernels before 5.15, or built without it.
            return;
        }
        let reply = rustix::net::send(&theirs, &[2; 8], SendFlags::NOSIGNAL).unwrap();
        let received = socket.receive_exact(&mut [0; 8], Deadline::after(Duration::from_secs(60)));
        assert!(reply == 8 && matches!(received, Err(Fault::Descriptors)), "{received:?}");
    }
}
