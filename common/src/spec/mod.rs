//! Facts of the virtio specification, version 1.3: layouts, offsets, flags. No logic and no memory access.
//!
//! Section numbers in this project are those of virtio 1.3 (OASIS).

pub mod net;
pub mod packed;
pub mod split;
