//! A ring that trusts its device, as rings were written before the descriptor table became write-only.
//!
//! It exists so that every attack can be seen to bite something: an attack that hurts nobody proves nothing about a
//! driver that survives it. Nothing shipped depends on it.
//!
//! Its weaknesses are real ones. The free list runs through the shared `next`, and buffers are unmapped by the shared
//! address, length and flags: Linux before 5.14. The used id is believed and loaded twice, the length is the device's
//! word, the available index is incremented in place: several drivers for small systems. All accesses are those of the
//! same shared-memory views as elsewhere, and its private memory is one checked array with canaries, so that a bite is
//! observed and nothing undefined happens.

pub mod split;

pub use split::{Bite, TrustingRing};
