//! Lock-step messages: one request, at most one reply, and an end at the first thing that is wrong.

use core::time::Duration;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use super::error::{ChannelMisuse, ChannelViolation, Step, TransportError};
use super::socket::{Deadline, Fault, Socket};
use super::wire::{self, HEADER_BYTES, Message};

/// A connection with one outstanding request at most.
#[derive(Debug)]
pub(super) struct Channel {
    state: State,
    patience: Duration,
}

/// A connection is either good or gone: the first error closes the socket and stays.
#[derive(Debug)]
enum State {
    Open(Socket),
    Poisoned(TransportError),
}

impl Channel {
    /// Connects within `connect`; every request may then take `patience`.
    pub(super) fn connect(path: &Path, connect: Duration, patience: Duration) -> Result<Self, TransportError> {
        let socket = Socket::connect(path, Deadline::after(connect)).map_err(|source| TransportError::Connect {
            path: path.into(),
            after: connect,
            source: Arc::new(source),
        })?;
        Ok(Self { state: State::Open(socket), patience })
    }

    /// Takes over a connected stream.
    pub(super) fn adopt(stream: UnixStream, patience: Duration) -> Result<Self, TransportError> {
        Ok(Self { state: State::Open(Socket::adopt(stream)?), patience })
    }

    /// Sends a request that has no reply.
    pub(super) fn send(&mut self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
        let deadline = Deadline::after(self.patience);
        self.guard(|socket| send(socket, message, fds, deadline))
    }

    /// Sends a request and fills `reply` with the body of its reply. One deadline covers both.
    pub(super) fn call(
        &mut self,
        message: &Message,
        fds: &[BorrowedFd<'_>],
        reply: &mut [u8],
    ) -> Result<(), TransportError> {
        let deadline = Deadline::after(self.patience);
        self.guard(|socket| {
            send(socket, message, fds, deadline)?;
            receive(socket, message, reply, deadline)
        })
    }

    /// Whether the other end is still there and quiet.
    pub(super) fn check_quiet(&mut self) -> Result<(), TransportError> {
        self.guard(|socket| quiet(socket, Step::Idle))
    }

    /// Ends the connection for a reason that shows only in what a reply means.
    pub(super) fn poison(&mut self, violation: ChannelViolation) -> TransportError {
        let error = TransportError::from(violation);
        self.end(error.clone());
        error
    }

    /// Ends the connection because nobody needs it any more.
    pub(super) fn hang_up(&mut self) {
        if let State::Open(_) = self.state {
            self.state = State::Poisoned(ChannelMisuse::HungUp.into());
        }
    }

    /// Runs one step; its failure ends the connection.
    fn guard(&mut self, step: impl FnOnce(&Socket) -> Result<(), TransportError>) -> Result<(), TransportError> {
        let outcome = match &self.state {
            State::Open(socket) => step(socket),
            State::Poisoned(first) => return Err(first.clone()),
        };
        if let Err(error) = &outcome {
            self.end(error.clone());
        }
        outcome
    }

    /// Closes the socket, so that the backend learns of it too, and remembers the first reason.
    fn end(&mut self, reason: TransportError) {
        if let State::Open(_) = self.state {
            tracing::warn!(class = reason.class(), "the vhost-user connection ends: {reason}");
            self.state = State::Poisoned(reason);
        }
    }
}

fn send(socket: &Socket, message: &Message, fds: &[BorrowedFd<'_>], deadline: Deadline) -> Result<(), TransportError> {
    let during = Step::Request(message.code);
    // A reply that lies here before its request would be taken for the answer to it.
    quiet(socket, during)?;
    socket.send_all(message.as_bytes(), fds, deadline).map_err(|fault| blame(fault, during, deadline.after))
}

fn receive(socket: &Socket, message: &Message, reply: &mut [u8], deadline: Deadline) -> Result<(), TransportError> {
    let during = Step::Request(message.code);
    let blame = |fault| blame(fault, during, deadline.after);
    let mut header = [0; HEADER_BYTES];
    socket.receive_exact(&mut header, deadline).map_err(blame)?;
    wire::check_reply(header, message.code, reply.len())?;
    socket.receive_exact(reply, deadline).map_err(blame)?;
    match socket.has_bytes() {
        // A hang-up behind a complete reply is found by the next request.
        Ok(false) | Err(Fault::HungUp) => Ok(()),
        Ok(true) => Err(ChannelViolation::SurplusBytes { sent: message.code }.into()),
        Err(fault) => Err(blame(fault)),
    }
}

/// That nothing waits to be read while no request is outstanding.
fn quiet(socket: &Socket, during: Step) -> Result<(), TransportError> {
    match socket.has_bytes() {
        Ok(false) => Ok(()),
        Ok(true) => Err(ChannelViolation::Unsolicited.into()),
        Err(fault) => Err(blame(fault, during, Duration::ZERO)),
    }
}

/// The error for a fault of the socket.
fn blame(fault: Fault, during: Step, after: Duration) -> TransportError {
    match fault {
        Fault::Descriptors => ChannelViolation::Descriptors { during }.into(),
        Fault::Urgent => ChannelViolation::Urgent { during }.into(),
        Fault::HungUp => TransportError::Disconnected { during },
        Fault::TimedOut => TransportError::TimedOut { during, after },
        Fault::Os(error) => error.into(),
    }
}
