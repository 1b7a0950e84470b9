//! What a virtio driver and its device must agree on when neither trusts the other.
//!
//! Facts of the specification ([`spec`]), which features both sides may use ([`features`]), index arithmetic
//! ([`index`]), the type of a number that the peer merely says ([`claim`]), and shared memory that another process may
//! rewrite at any instant ([`shm`]), and how far apart queues lie ([`apart`]). There is no policy here and no I/O except for
//! mapping memory and ringing a doorbell: what to do about a lying peer is decided by the driver and by the backend, each in
//! its own `boundary`.
//!
//! Without the feature `std` the crate is `no_std` + `alloc`: [`shm::words::Words`] is then the seam where a kernel
//! plugs in its own memory.

#![cfg_attr(not(feature = "std"), no_std)]
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

pub mod apart;
pub mod claim;
#[cfg(feature = "std")]
pub mod doorbell;
pub mod error;
pub mod features;
pub mod index;
pub mod shm;
pub mod spec;
pub mod sync;
