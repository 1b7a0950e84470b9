//! Memory that another process may rewrite at any instant.
//!
//! # Theory
//!
//! The peer holds the same memfd. It may store any byte at any time, punch holes, stop, or die; it cannot shrink a
//! memfd that was sealed before it got it. Two rules follow:
//!
//! 1. **Shared memory is never a Rust reference.** No `&[u8]`, no `&T`: the compiler may assume that what a reference
//!    points to stands still. Ring words go through atomic accesses of one fixed size each, bulk bytes through copies
//!    that are written in assembler, that is, outside the abstract machine ([`copy`](self) in this folder).
//! 2. **What was loaded is a claim.** The views of [`view`] say whose words they hold: [`view::Ours`] can be stored
//!    only, [`view::Theirs`] yields [`Alleged`](crate::claim::Alleged) values.
//!
//! Ring code is generic over [`words::Words`], so that the same code runs on mapped memory, on a double that counts
//! loads, and on one that answers each load as an adversary would.
//!
//! What is formal and what is practical: word accesses are Rust atomics on memory that lives in a mapping made here, so
//! races among threads of one process are defined as long as both use these views. Accesses of another process are
//! outside the language; volatile-like behaviour follows from the atomics not being elided or split. Bulk copies are
//! inline assembler, whose effect on shared memory is that of the instructions; there, each byte may be loaded more
//! than once within one copy, and only the private copy is ever looked at.
//!
//! This folder is the only place in the shipped crates with unsafe memory access.

#![allow(unsafe_code, reason = "the room where shared memory is touched; each block argues")]

#[cfg(feature = "std")]
pub mod area;
#[cfg(feature = "std")]
mod copy;
#[cfg(feature = "guest-memory")]
pub mod guest;
pub mod lane;
#[cfg(feature = "std")]
pub mod mapping;
#[cfg(feature = "std")]
pub mod table;
pub mod view;
pub mod words;
