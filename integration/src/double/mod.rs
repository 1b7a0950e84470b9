//! Doubles of shared memory.

pub mod counting;
