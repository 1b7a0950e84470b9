//! The heart of the project, as a test that anyone can run: one attack, one seed, two rings.
//!
//! A model in one process: the backend's own device-side ring serves chains of private buffers that a driver-side ring
//! posts through a `Bounce` pool. The private memory is laid out with canaries around every buffer, and a second copy of
//! it says what every byte must be. The hostile engine plugs into the device side at the same seam as in the daemon.
//!
//! The same script with the same seed drives the hardened ring and the trusting one. On the trusting ring the attack must
//! bite: a canary overwritten, another buffer's bytes replaced, a secret read, a mapping leaked, an index out of range, a
//! walk without end. On the hardened ring none of that may happen; the attack has no effect, or is named and latched.

mod device;
mod layout;
mod memory;
mod raced;
mod run;
mod victim;

use ironring_backend::hostile::{Attack, Surface};

pub use memory::Finding;
pub use run::{Outcome, QueueOutcome, run};
pub use victim::RingKind;

/// Why the model, which is rings and buffers, has no place for an attack.
#[must_use]
pub fn no_place(attack: &Attack) -> Option<&'static str> {
    match attack.surface {
        Surface::File => Some("the trusting ring lives in one process: nobody was given its memory as a file"),
        Surface::Channel => Some("the trusting ring stands alone: it has no vhost-user channel"),
        Surface::Notify => Some("the trusting ring is polled: it waits for no call"),
        _ => match attack.id {
            "A30" => Some("the model has one ring at a time"),
            _ => None,
        },
    }
}
