//! Capabilities: the pieces of root's power.

use ironring_common::error::OsError;
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};

/// Drops all capabilities of this thread, also those that it could get back by running a program.
pub(super) fn drop_all() -> Result<(), OsError> {
    let failed = |e| OsError::new("drop capabilities", e);
    for capability in CapabilitySet::all().iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Who may not shrink the bounding set has nothing to lose there; a capability may be newer than the kernel.
            Ok(()) | Err(Errno::PERM | Errno::INVAL) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    rustix::thread::clear_ambient_capability_set().map_err(failed)?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).map_err(failed)
}
