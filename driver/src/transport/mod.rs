//! The channel to the backend: a vhost-user front-end that trusts nothing it reads.
//!
//! One request is outstanding at a time, each with an absolute deadline. A reply is accepted if its code, version, flags
//! and size are exactly those expected and it brings no descriptor; the first violation poisons the channel. What the
//! backend is told is synthetic: addresses that mean nothing in this process, and sealed memory.

mod channel;
mod error;
mod vhost_user;
mod wire;

pub use error::{ChannelViolation, TransportError};
pub use vhost_user::{Deadlines, NetConfig, Region, RingAddresses, VhostUser};
