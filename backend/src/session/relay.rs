//! A relay between a front-end and the session that serves it: bytes and descriptors, both ways, message by message.
//!
//! # Theory of operation
//!
//! The framework wants to accept its connection itself and frames all its replies itself. Where either will not do (the
//! socket is connected already, or the replies are to be tampered with) a relay stands in between. It reads one message
//! at a time (a header of 12 bytes, then as many bytes as the header says, and never one byte more, so that descriptors
//! stay with their message), hands it to a [`Filter`], and does what that says. [`NoFilter`] says: pass it on.
//!
//! Neither side is trusted. A message that is larger than any of vhost-user cannot be held, so from its header on, that
//! direction is passed on as it comes, unframed and unfiltered; the receiver refuses it anyway. Nothing is held beyond
//! one message for each direction, a side that does not read holds up the other and nobody else, and when either side
//! closes, both are closed.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ironring_common::error::OsError;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::sandbox::{Role, Sandbox};

/// What stands between the two sides. The default passes everything on.
pub trait Filter: Send {
    /// What to do about a message of the front-end.
    fn on_request(&mut self, message: Message) -> Vec<Step> {
        vec![Step::Send(Side::Backend, message)]
    }

    /// What to do about a message of the backend.
    fn on_reply(&mut self, message: Message) -> Vec<Step> {
        vec![Step::Send(Side::FrontEnd, message)]
    }
}

/// Passes everything on.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFilter;

impl Filter for NoFilter {}

/// One thing that a relay does, in the order of the list.
#[derive(Debug)]
pub enum Step {
    /// Sends bytes and descriptors, the descriptors with the first byte. They need be no whole message.
    Send(Side, Message),
    /// Does nothing for so long, unless a side closes.
    Wait(Duration),
    /// Closes both sides.
    Close,
}

/// The two ends of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The front-end.
    FrontEnd,
    /// The session that serves it.
    Backend,
}

/// Bytes with the descriptors that came with them: one message, header and body, unless a [`Filter`] made it otherwise.
#[derive(Debug, Default)]
pub struct Message {
    /// The bytes, from the header on.
    pub bytes: Vec<u8>,
    /// The descriptors.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// A message of a request code, flags and a body.
    #[must_use]
    pub fn new(request: u32, flags: u32, body: &[u8]) -> Self {
        let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER_BYTES.saturating_add(body.len()));
        for word in [request, flags, size] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(body);
        Self { bytes, fds: Vec::new() }
    }

    /// The request code, or 0 if there is no whole header.
    #[must_use]
    pub fn request(&self) -> u32 {
        self.word(0)
    }

    /// The flags: version, reply, need-reply.
    #[must_use]
    pub fn flags(&self) -> u32 {
        self.word(4)
    }

    /// The size of the body as the header has it.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.word(8)
    }

    /// The bytes after the header.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    fn word(&self, at: usize) -> u32 {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |word| u32::from_ne_bytes(*word))
    }
}

/// A relay at work, in a thread of its own.
#[derive(Debug)]
pub struct Relay(JoinHandle<Result<(), OsError>>);

impl Relay {
    /// Starts to relay between two connected sockets, until either side closes.
    ///
    /// # Errors
    /// [`OsError`] if there is no thread to be had.
    pub fn start<F: Filter + 'static>(
        front_end: UnixStream,
        backend: UnixStream,
        mut filter: F,
        sandbox: &Sandbox,
    ) -> Result<Self, OsError> {
        let sandbox = sandbox.clone();
        std::thread::Builder::new()
            .name("relay".to_owned())
            .spawn(move || match sandbox.enter(Role::Relay) {
                Ok(()) => relay(&front_end, &backend, &mut filter),
                Err(error) => Err(OsError::new("enter the sandbox", std::io::Error::other(error.to_string()))),
            })
            .map(Self)
            .map_err(|e| OsError::new("start a relay thread", e))
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// [`OsError`] if the system ended it, not one of the sides.
    pub fn join(self) -> Result<(), OsError> {
        // A filter that panicked said so where it happened; both sockets are closed.
        self.0.join().unwrap_or(Ok(()))
    }
}

/// Relays on this thread until either side closes; then both are closed.
///
/// # Errors
/// [`OsError`] if the system ended it, not one of the sides.
pub fn relay(front_end: &UnixStream, backend: &UnixStream, filter: &mut impl Filter) -> Result<(), OsError> {
    let mut ends = Ends { front_end: Inbox::new(front_end), backend: Inbox::new(backend) };
    let ended = ends.run(filter);
    for socket in [front_end, backend] {
        // A copy of the socket may be open elsewhere; the other side is to see the end all the same.
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
    match ended {
        Ok(()) | Err(End::Closed) => Ok(()),
        Err(End::Os(error)) => Err(error),
    }
}

/// Why a relay ends.
enum End {
    Closed,
    Os(OsError),
}

struct Ends<'a> {
    front_end: Inbox<'a>,
    backend: Inbox<'a>,
}

impl Ends<'_> {
    fn run(&mut self, filter: &mut impl Filter) -> Result<(), End> {
        loop {
            let [front_end, backend] = self.poll(PollFlags::IN, PollFlags::IN, None)?;
            // The backend first: what it has sent is delivered even if the front-end has closed its sending half.
            if !backend.is_empty()
                && let Some(arrival) = self.backend.receive()?
            {
                let steps = match arrival {
                    Arrival::Framed(message) => filter.on_reply(message),
                    Arrival::Unframed(message) => vec![Step::Send(Side::FrontEnd, message)],
                };
                self.perform(steps)?;
            }
            if !front_end.is_empty()
                && let Some(arrival) = self.front_end.receive()?
            {
                let steps = match arrival {
                    Arrival::Framed(message) => filter.on_request(message),
                    Arrival::Unframed(message) => vec![Step::Send(Side::Backend, message)],
                };
                self.perform(steps)?;
            }
        }
    }

    fn perform(&self, steps: Vec<Step>) -> Result<(), End> {
        for step in steps {
            match step {
                Step::Send(side, message) => self.send(side, &message)?,
                Step::Wait(time) => self.wait(time)?,
                Step::Close => return Err(End::Closed),
            }
        }
        Ok(())
    }

    fn send(&self, side: Side, message: &Message) -> Result<(), End> {
        let (to, wanted) = match side {
            Side::FrontEnd => (self.front_end.socket, (PollFlags::OUT, PollFlags::empty())),
            Side::Backend => (self.backend.socket, (PollFlags::empty(), PollFlags::OUT)),
        };
        let fds: Vec<_> = message.fds.iter().map(AsFd::as_fd).collect();
        let mut space = control_space();
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(End::Os(OsError::new("attach that many descriptors to a message", Errno::INVAL)));
        }
        let mut rest = message.bytes.as_slice();
        while !rest.is_empty() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::sendmsg(to, &[IoSlice::new(rest)], &mut control, flags) {
                Ok(sent) => {
                    rest = rest.get(sent..).unwrap_or_default();
                    // The descriptors have gone with the first part.
                    control.clear();
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let (front_end, backend) = wanted;
                    let ready = self.poll(front_end, backend, None)?;
                    if !ready.iter().any(|flags| flags.contains(PollFlags::OUT)) {
                        return Err(End::Closed);
                    }
                }
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(End::Closed),
                Err(e) => return Err(End::Os(OsError::new("send a message on", e))),
            }
        }
        Ok(())
    }

    /// Waits, and notices only that a side has closed.
    fn wait(&self, time: Duration) -> Result<(), End> {
        let started = Instant::now();
        while let Some(left) = time.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
            let ready = self.poll(PollFlags::empty(), PollFlags::empty(), Some(left))?;
            if ready.iter().any(|flags| !flags.is_empty()) {
                return Err(End::Closed);
            }
        }
        Ok(())
    }

    /// What has happened on the front-end's and the backend's socket; a hang-up is always told.
    fn poll(&self, front_end: PollFlags, backend: PollFlags, timeout: Option<Duration>) -> Result<[PollFlags; 2], End> {
        let timeout = timeout.and_then(|left| Timespec::try_from(left).ok());
        // Urgent data, which no side has a use for, is readable to `poll` and not to a read: the two would spin.
        let (front_end, backend) = (front_end | PollFlags::PRI, backend | PollFlags::PRI);
        let mut fds = [PollFd::new(self.front_end.socket, front_end), PollFd::new(self.backend.socket, backend)];
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) if fds.iter().any(|fd| fd.revents().contains(PollFlags::PRI)) => Err(End::Closed),
            Ok(_) => Ok(fds.map(|fd| fd.revents())),
            Err(Errno::INTR) => Ok([PollFlags::empty(); 2]),
            Err(e) => Err(End::Os(OsError::new("poll the sockets of a relay", e))),
        }
    }
}

/// One direction: the message that is arriving.
struct Inbox<'a> {
    socket: &'a UnixStream,
    partial: Message,
    framed: bool,
}

/// What has arrived.
enum Arrival {
    Framed(Message),
    Unframed(Message),
}

impl<'a> Inbox<'a> {
    fn new(socket: &'a UnixStream) -> Self {
        Self { socket, partial: Message::default(), framed: true }
    }

    /// Takes what is there; a message if that completes one. Never waits.
    fn receive(&mut self) -> Result<Option<Arrival>, End> {
        let mut chunk = [0; CHUNK_BYTES];
        let missing = self.missing().min(CHUNK_BYTES);
        let buffer = chunk.get_mut(..missing).unwrap_or_default();
        let mut space = control_space();
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(self.socket, &mut [IoSliceMut::new(buffer)], &mut control, flags);
        let received = match received {
            Ok(received) if received.flags.contains(ReturnFlags::CTRUNC) => {
                return Err(End::Os(OsError::new("take over the descriptors of a message", Errno::MFILE)));
            }
            Ok(received) if received.bytes == 0 => return Err(End::Closed),
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(Errno::CONNRESET) => return Err(End::Closed),
            Err(e) => return Err(End::Os(OsError::new("receive a message", e))),
        };
        self.partial.bytes.extend_from_slice(chunk.get(..received.bytes).unwrap_or_default());
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.partial.fds.extend(fds);
            }
        }
        // Descriptors may come with every byte; no message of vhost-user has use for more than go into one `sendmsg`.
        if self.partial.fds.len() > SCM_MAX_FD {
            return Err(End::Closed);
        }
        Ok(self.complete())
    }

    /// Bytes that are still to come before the next decision. At least 1.
    fn missing(&self) -> usize {
        let have = self.partial.bytes.len();
        if !self.framed {
            CHUNK_BYTES
        } else if have < HEADER_BYTES {
            HEADER_BYTES.saturating_sub(have)
        } else {
            self.whole().saturating_sub(have).max(1)
        }
    }

    /// Bytes of the message whose header is there.
    fn whole(&self) -> usize {
        usize::try_from(self.partial.size()).unwrap_or(usize::MAX).saturating_add(HEADER_BYTES)
    }

    fn complete(&mut self) -> Option<Arrival> {
        let have = self.partial.bytes.len();
        if self.framed {
            if have < HEADER_BYTES {
                return None;
            }
            if self.whole() > HEADER_BYTES.saturating_add(MAX_BODY_BYTES) {
                self.framed = false;
            } else if have < self.whole() {
                return None;
            } else {
                return Some(Arrival::Framed(std::mem::take(&mut self.partial)));
            }
        }
        Some(Arrival::Unframed(std::mem::take(&mut self.partial)))
    }
}

/// Room for as many descriptors as one message of any kind can carry.
fn control_space() -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SCM_MAX_FD))]
}

/// Bytes of the header: request, flags, size of the body.
const HEADER_BYTES: usize = 12;
/// Bytes of the largest body of vhost-user.
const MAX_BODY_BYTES: usize = 4096;
/// Bytes read at a time.
const CHUNK_BYTES: usize = 4096;
/// The kernel's bound on the descriptors of one message.
const SCM_MAX_FD: usize = 253;

#[cfg(test)]
mod tests;
