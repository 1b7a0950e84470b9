//! The ring: buffers and a token go in, the token and a length come out.
//!
//! # Contract under a lying device
//!
//! Whatever the device writes, whenever it writes it:
//!
//! - a token that comes out of `take` was put in by `add`, once, and has not come out since `reset`;
//! - the length that comes with it is at most the number of bytes that were posted writable, and 0 if none were;
//! - addresses, lengths and directions that the mapper is told to undo are those that it handed out;
//! - each call does work bounded by the queue size and loads only what the crate's `boundary` lists;
//! - the first violation is returned as a [`violation::Violation`], latched for the whole device, and from then on every
//!   call returns that same violation without looking at shared memory.
//!
//! The price: a device that breaks the rules once loses the queue. Buffers that it held are quarantined until the arena
//! is gone, because the device may go on writing them.
//!
//! # Layouts
//!
//! [`split`] and [`packed`] are twins: the same [`DriverRing`], the same [`ledger`], the same building and undoing of chains
//! and of indirect tables, and the same order of things inside.

pub mod any;
mod chain;
mod indirect;
pub mod ledger;
pub mod packed;
mod ring;
#[cfg(feature = "std")]
pub mod slots;
pub mod split;
pub mod violation;

pub use ring::{AddError, Completion, DriverRing, RingCounters, RingLayout, RingOptions, StopWindow, Tables};

#[cfg(all(test, feature = "std"))]
mod tests;
