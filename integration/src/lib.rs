//! The tool `ironring` and what the tests of the whole are made of.
//!
//! - [`cli`]: the command line; [`demo`]: the main job; [`pair`]: driver and backend in two processes; [`mod@bench`]: how fast they are; [`attacks`]: the
//!   catalogue; [`config`]: configurations of rings; [`capture`]: traffic from and to files; [`output`]: everything that is printed;
//! - [`audit`] runs the catalogue, [`heart`] runs one attack against the hardened and the trusting ring in one process,
//!   [`trusting`] is the ring that falls for everything, [`double`] are doubles of shared memory.

pub mod attacks;
pub mod audit;
pub mod bench;
pub mod capture;
pub mod cli;
pub mod config;
mod console;
pub mod demo;
pub mod double;
pub mod heart;
mod hugepages;
mod machine;
pub mod mirror;
pub mod output;
pub mod pair;
pub mod trusting;
mod verdict;
