//! Calls that are not made.

use super::Strike;

/// A104: the driver is never called.
pub(super) struct Lost;

impl Strike for Lost {
    fn call(&mut self) -> bool {
        false
    }
}
