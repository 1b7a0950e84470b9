//! The vhost-user front-end: how a device that nobody trusts is set up, stopped and watched.
//!
//! One Unix socket, one outstanding request, one absolute deadline a request. [`VhostUser`] knows the requests and checks
//! what the answers mean; `channel` frames them, checks code, version, flags and size to the byte, and is poisoned by the
//! first thing that is wrong; `socket` moves the bytes, never past a deadline and never past what was asked for; `wire`
//! holds the numbers. After an error the connection is closed and every later call returns the same error at once: a
//! stream that was wrong once has no message boundaries any more, and the only way on is a new connection.
//!
//! Descriptors travel one way only, from us to the backend. What the backend attaches never enters this process: see
//! `socket`. What the backend is told is synthetic: addresses that mean nothing in this process, and sealed memory.

mod channel;
mod error;
mod socket;
mod vhost_user;
mod wire;

pub use error::{ChannelMisuse, ChannelViolation, Step, TransportError};
pub use vhost_user::{Deadlines, NetConfig, Region, RingAddresses, USER_BASE, VhostUser};
