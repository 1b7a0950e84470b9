//! A poll-mode virtio-net driver that never trusts its device.
//!
//! The way of a packet, which is also the way to read this crate:
//!
//! - [`net`]: [`net::VirtioNet`] with its [`net::RxQueue`] and [`net::TxQueue`]: bursts of frames;
//! - [`queue`]: the ring. It takes scatter-gather lists of buffers and a token and gives tokens back. Everything it needs
//!   to know again it keeps in a private [`queue::ledger`]; what it writes to shared memory it never reads back;
//! - [`mapper`]: how a buffer becomes an address that the device understands, and what must be undone afterwards;
//! - `boundary`: the only file that loads memory which the device can write;
//! - [`arena`]: the shared memory, split by who writes it, in sealed memfds;
//! - [`transport`]: the vhost-user front-end, with a deadline on every request.
//!
//! Without the feature `std` the crate is the ring core: `queue`, `mapper` and `boundary`, `no_std` + `alloc`.

#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_code)]
#![deny(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects
)]
#![cfg_attr(
    test,
    allow(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

extern crate alloc;

#[cfg(feature = "std")]
pub mod arena;
mod boundary;
pub mod mapper;
#[cfg(feature = "std")]
pub mod net;
pub mod queue;
#[cfg(feature = "std")]
pub mod transport;
