//! The vhost-user channel against scripted backends: an honest one, and every way of not being honest that a socket
//! allows. Each misbehaviour must give its typed error before the deadline, keep giving it, and leave no descriptor.

#![cfg(feature = "std")]
#![allow(clippy::cast_possible_truncation)]

mod arbitrary;
mod descriptors;
mod honest;
mod liveness;
mod peer;
mod replies;
