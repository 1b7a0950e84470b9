//! Messages over a socket, each exchange with an absolute deadline, poisoned by the first failure.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ironring_common::error::OsError;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use super::error::{ChannelViolation, TransportError};
use super::wire::{HEADER_BYTES, Header};

/// The socket and the first failure on it.
#[derive(Debug)]
pub(super) struct Channel {
    socket: UnixStream,
    deadline: Duration,
    poisoned: Option<TransportError>,
}

/// One exchange on its way: which request, and until when.
#[derive(Clone, Copy, Debug)]
struct Exchange {
    request: u32,
    until: Instant,
    after: Duration,
}

impl Channel {
    pub(super) fn new(socket: UnixStream, deadline: Duration) -> Result<Self, TransportError> {
        socket.set_nonblocking(true).map_err(|e| OsError::new("make a socket non-blocking", e))?;
        Ok(Self { socket, deadline, poisoned: None })
    }

    /// Sends a request and, if `reply` has bytes, waits for exactly that reply.
    pub(super) fn exchange(
        &mut self,
        header: Header,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
        reply: &mut [u8],
    ) -> Result<(), TransportError> {
        if let Some(error) = &self.poisoned {
            return Err(error.clone());
        }
        let now = Instant::now();
        let until = now.checked_add(self.deadline).unwrap_or(now);
        let exchange = Exchange { request: header.request, until, after: self.deadline };
        let result = self.run(exchange, header, body, fds, reply);
        if let Err(error) = &result {
            self.poisoned = Some(error.clone());
        }
        result
    }

    /// Whether the backend is there and silent, as it has to be between requests.
    pub(super) fn check_idle(&mut self) -> Result<(), TransportError> {
        if let Some(error) = &self.poisoned {
            return Err(error.clone());
        }
        let result = self.look(0);
        if let Err(error) = &result {
            self.poisoned = Some(error.clone());
        }
        result
    }

    /// Poisons the channel because of what a reply said.
    pub(super) fn violated(&mut self, violation: ChannelViolation) -> TransportError {
        let error = TransportError::Misbehaved(violation);
        self.poisoned.get_or_insert(error).clone()
    }

    fn run(
        &self,
        exchange: Exchange,
        header: Header,
        body: &[u8],
        fds: &[BorrowedFd<'_>],
        reply: &mut [u8],
    ) -> Result<(), TransportError> {
        // Strict lock-step: a reply that is there before its request could pass for the answer to it.
        self.look(exchange.request)?;
        let mut message = header.to_bytes().to_vec();
        message.extend_from_slice(body);
        self.send(exchange, &message, fds)?;
        if reply.is_empty() {
            return Ok(());
        }
        let mut head = [0; HEADER_BYTES];
        self.receive(exchange, &mut head)?;
        let got = Header::from_bytes(head);
        got.check_reply(header.request, reply.len()).map_err(TransportError::Misbehaved)?;
        self.receive(exchange, reply)
    }

    /// One look without waiting: bytes or a hang-up are wrong here.
    fn look(&self, request: u32) -> Result<(), TransportError> {
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
                Ok(0) => return Ok(()),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(e) => return Err(OsError::new("poll the backend's socket", e).into()),
            }
        }
        // A hang-up reads as zero bytes; anything else is a message that nobody asked for.
        let mut byte = [0; 1];
        match self.receive_some(&mut byte) {
            Ok(0) => Err(TransportError::Disconnected { request }),
            Ok(_) => Err(TransportError::Misbehaved(ChannelViolation::Unsolicited)),
            Err(Failure::Again) => Ok(()),
            Err(Failure::Gone) => Err(TransportError::Disconnected { request }),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    /// Sends all of `message`, the descriptors with its first byte.
    fn send(&self, exchange: Exchange, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
        let mut left = message;
        let mut fds = fds;
        while !left.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(TransportError::Misuse { what: "so many descriptors", todo: "share fewer regions" });
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            match rustix::net::sendmsg(&self.socket, &[IoSlice::new(left)], &mut control, flags) {
                Ok(sent) => {
                    left = left.get(sent..).unwrap_or_default();
                    fds = &[];
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(exchange, PollFlags::OUT)?,
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    return Err(TransportError::Disconnected { request: exchange.request });
                }
                Err(e) => return Err(OsError::new("send to the backend", e).into()),
            }
        }
        Ok(())
    }

    /// Receives exactly `into.len()` bytes.
    fn receive(&self, exchange: Exchange, into: &mut [u8]) -> Result<(), TransportError> {
        let mut have = 0usize;
        while have < into.len() {
            let Some(rest) = into.get_mut(have..) else { break };
            match self.receive_some(rest) {
                Ok(0) | Err(Failure::Gone) => {
                    return Err(TransportError::Disconnected { request: exchange.request });
                }
                Ok(more) => {
                    have = have.saturating_add(more);
                    // A backend that dribbles keeps the socket readable: the deadline holds here too.
                    exchange.check_time()?;
                }
                Err(Failure::Again) => self.wait(exchange, PollFlags::IN)?,
                Err(Failure::Other(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// One receive. Descriptors that come along are closed, and are a violation.
    fn receive_some(&self, into: &mut [u8]) -> Result<usize, Failure> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_SEEN))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = match rustix::net::recvmsg(&self.socket, &mut [IoSliceMut::new(into)], &mut control, flags) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Err(Failure::Again),
            Err(Errno::CONNRESET | Errno::PIPE) => return Err(Failure::Gone),
            Err(e) => return Err(Failure::Other(OsError::new("receive from the backend", e).into())),
        };
        let mut surplus = received.flags.contains(ReturnFlags::CTRUNC);
        for message in control.drain() {
            surplus = true;
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                // Each is owned, and closed as it is dropped.
                fds.for_each(drop);
            }
        }
        if surplus {
            return Err(Failure::Other(TransportError::Misbehaved(ChannelViolation::Descriptors)));
        }
        Ok(received.bytes)
    }

    /// Waits for the socket, until the deadline of the exchange.
    fn wait(&self, exchange: Exchange, events: PollFlags) -> Result<(), TransportError> {
        loop {
            let left = exchange.check_time()?;
            let timespec = Timespec::try_from(left).ok();
            let mut fds = [PollFd::new(&self.socket, events)];
            match rustix::event::poll(&mut fds, timespec.as_ref()) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(e) => return Err(OsError::new("poll the backend's socket", e).into()),
            }
        }
    }
}

impl Exchange {
    /// The time left, or the error.
    fn check_time(self) -> Result<Duration, TransportError> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(TransportError::TimedOut { request: self.request, after: self.after });
        }
        Ok(left)
    }
}

/// Why nothing was received.
enum Failure {
    /// Nothing is there yet.
    Again,
    /// The backend hung up.
    Gone,
    Other(TransportError),
}

/// Descriptors that a request carries at most.
const FDS_MAX: usize = 8;
/// Descriptors that are taken (and closed) from a message at most; the kernel closes what does not fit and says so.
const FDS_SEEN: usize = 253;
