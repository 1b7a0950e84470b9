//! A vhost-user net backend in memory-safe Rust, for drivers that it does not trust.
//!
//! The backend is the device of a virtio-net driver: of a Linux guest under QEMU or cloud-hypervisor, of DPDK's
//! virtio-user, or of a userspace driver without a VMM. The driver, and the front-end that speaks for it, may write any
//! byte of the memory that they share at any instant, send any message, and go at any time. What they can break is their
//! own session.
//!
//! # The path of a frame
//!
//! A frame that the guest sends walks this way; what it receives walks it backwards.
//!
//! 1. [`boundary`]: the only place where words that the driver can write are loaded, each once, into claims that have to
//!    be checked.
//! 2. [`vring`]: rings of either layout from the device's side. They find out which chains the driver added, load each
//!    descriptor once, check it, and later write what was used, publish it and decide about a call.
//! 3. [`net`]: the frame in the chain. It looks up the buffers in the table of shared memory, checks the header, and
//!    copies the frame, once, into a slot of the port.
//! 4. [`port`]: the other end of the wire: a TAP interface, loopback, null, generator, capture.
//!
//! [`worker`] is the thread that walks it, in bursts, for all rings of a session, and waits when there is nothing to do;
//! [`stats`] counts.
//!
//! Before any of this a front-end has to connect: [`session`] is the control plane, which learns from it where memory,
//! rings and doorbells are, and which starts and stops rings in the worker. [`config`] is the command line. What the program gives up before it serves
//! anybody is in [`sandbox`].
//!
//! # Use
//!
//! The program `ironring-backend` is [`main_with`]. Within another program, [`session::serve`] serves a listening socket
//! and [`session::serve_connection`] one connection:
//!
//! ```
//! use std::os::unix::net::UnixStream;
//!
//! use ironring_backend::config::Settings;
//! use ironring_backend::session::{StopToken, serve_connection};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (front_end, ours) = UnixStream::pair()?;
//! let stop = StopToken::new()?;
//! let backend = std::thread::spawn(move || serve_connection(ours, &Settings::default(), &stop));
//! // A front-end that leaves at once has sent nothing.
//! drop(front_end);
//! let report = backend.join().expect("it does not panic")?;
//! assert_eq!(report.stats.port.taken_frames, 0);
//! # Ok(())
//! # }
//! ```

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

pub mod boundary;
pub mod config;
mod daemon;
#[cfg(feature = "hostile")]
pub mod hostile;
mod log;
pub mod net;
pub mod port;
pub mod sandbox;
pub mod session;
mod signals;
pub mod stats;
pub mod vring;
pub mod worker;

pub use self::daemon::main_with;
