//! What the fuzz targets do with their input. Each is a plain function of bytes that panics if a promise does not hold, so that
//! the same functions replay the seed corpora in ordinary tests.
//!
//! - `driver_split`, `driver_packed`: the input is a script of calls and the answer to every load of shared memory: the device
//!   may say anything at any load.
//! - `backend_split`, `backend_packed`, `backend_indirect`: the input is the memory of a driver, rings and all.
//! - `channel`: the input is what a backend sends on the vhost-user socket.

mod backend;
mod channel;
mod driver;

pub use backend::{backend_indirect, backend_packed, backend_split};
pub use channel::channel;
pub use driver::{driver_packed, driver_split};

/// What is done with an input.
pub type Target = fn(&[u8]);

/// Every target by its name.
pub const TARGETS: [(&str, Target); 6] = [
    ("driver_split", driver_split),
    ("driver_packed", driver_packed),
    ("backend_split", backend_split),
    ("backend_packed", backend_packed),
    ("backend_indirect", backend_indirect),
    ("channel", channel),
];
