//! One ring as a control plane drives it, whichever control plane that is.
//!
//! A front-end describes a ring in pieces, in an order of its own: size, addresses, index to start from, doorbells. The
//! pieces are collected here, in private; the ring starts in the worker when it has its kick, its size and its
//! addresses. The worker checks all of it against the memory table before it touches a byte.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard};

use ironring_common::doorbell::{Doorbell, DoorbellError};
use ironring_common::features::{Feature, Negotiated};
use ironring_common::index::{GuestAddr, QueueSize};

use super::stop::lock;
use crate::worker::{ControlError, RingSetup, Workers};

/// What a control plane may ask of a ring. Every call returns after the worker has acknowledged.
pub(super) trait RingControl {
    /// Sets the number of descriptors.
    fn set_size(&self, size: u16) -> Result<(), RingError>;
    /// Sets where the ring lies.
    fn set_addrs(&self, addrs: RingAddrs) -> Result<(), RingError>;
    /// Sets where to start: a free-running index, or a slot of a packed ring with the wrap counter in bit 15.
    fn set_base(&self, base: u16) -> Result<(), RingError>;
    /// Where to go on, as of the last stop or [`set_base`](Self::set_base).
    fn base(&self) -> u16;
    /// Starts the ring, now or as soon as it is described, or exchanges the kick of one that runs. `None`: the driver
    /// does not kick.
    fn start(&self, kick: Option<OwnedFd>) -> Result<(), RingError>;
    /// Sets where the driver is called. `None`: the driver looks by itself.
    fn set_call(&self, call: Option<OwnedFd>) -> Result<(), RingError>;
    /// Sets where a fault is signalled.
    fn set_err(&self, err: Option<OwnedFd>) -> Result<(), RingError>;
    /// Lets frames pass or not.
    fn set_enabled(&self, enabled: bool) -> Result<(), RingError>;
    /// Stops the ring, if it runs, after everything that was taken is completed; the index to go on from.
    fn stop(&self) -> Result<u16, RingError>;
    /// Stops and disables the ring and forgets its description.
    fn reset(&self) -> Result<(), RingError>;
    /// Makes way for other features than those the ring was started with.
    fn set_features(&self, features: Negotiated) -> Result<(), RingError>;
}

/// Where the three parts of a ring lie, as addresses of the memory table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RingAddrs {
    pub(super) desc: GuestAddr,
    pub(super) avail: GuestAddr,
    pub(super) used: GuestAddr,
}

/// Why a front-end's wish for a ring is refused.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The size is none that a ring of this layout can have here (virtio 1.3, 2.7 and 2.8).
    #[error(
        "ring {ring}: a size of {size} is no {kind} between 1 and {max}; pick one at the front-end (rx_queue_size and tx_queue_size at QEMU, queue_size at cloud-hypervisor), or raise --queue-size"
    )]
    Size {
        /// The ring.
        ring: usize,
        /// The size that was asked for.
        size: u32,
        /// The largest size that is served.
        max: u16,
        /// What it has to be.
        kind: &'static str,
    },
    /// The description of a running ring may not change; its doorbells may.
    #[error("ring {ring}: its {what} cannot change while it runs; send GET_VRING_BASE first")]
    Running {
        /// The ring.
        ring: usize,
        /// What was to change.
        what: &'static str,
    },
    /// What was sent as a kick, call or error eventfd is none.
    #[error("ring {ring}: the {what} eventfd cannot be used: {source}")]
    Doorbell {
        /// The ring.
        ring: usize,
        /// Which of the three.
        what: &'static str,
        /// Why.
        source: DoorbellError,
    },
    /// The worker refused.
    #[error(transparent)]
    Worker(#[from] ControlError),
}

/// What the size of a ring has to be.
pub(super) const fn size_kind(packed: bool) -> &'static str {
    if packed { "number" } else { "power of two" }
}

/// A ring of a device's [`Workers`].
#[derive(Debug)]
pub(super) struct WorkerRing {
    workers: Workers,
    ring: usize,
    max_size: u16,
    described: Mutex<Described>,
}

/// What is known of a ring.
#[derive(Debug, Default)]
struct Described {
    size: Option<u16>,
    addrs: Option<RingAddrs>,
    base: u16,
    /// Whether the packed layout was negotiated.
    packed: bool,
    /// The kick of a ring that is to start when the rest is known.
    waiting: Option<Option<Doorbell>>,
    running: bool,
    enabled: bool,
}

impl WorkerRing {
    /// The ring `ring` of the device, not described yet.
    pub(super) fn new(workers: Workers, ring: usize, max_size: u16) -> Self {
        Self { workers, ring, max_size, described: Mutex::default() }
    }

    fn described(&self) -> MutexGuard<'_, Described> {
        lock(&self.described)
    }

    /// Starts the ring if it is to start and everything is known.
    fn start_if_complete(&self, described: &mut Described) -> Result<(), RingError> {
        let (Some(size), Some(addrs)) = (described.size, described.addrs) else { return Ok(()) };
        let Some(kick) = described.waiting.take() else { return Ok(()) };
        let RingAddrs { desc, avail, used } = addrs;
        let (base, kicked) = (described.base, kick.is_some());
        self.workers.start(self.ring, RingSetup { size, desc, avail, used, base, kick })?;
        described.running = true;
        tracing::debug!(ring = self.ring, size, base, kicked, enabled = described.enabled, "ring started");
        Ok(())
    }

    /// A descriptor of the front-end as a doorbell, if it is one.
    fn doorbell(&self, what: &'static str, fd: Option<OwnedFd>) -> Result<Option<Doorbell>, RingError> {
        fd.map(Doorbell::from_peer).transpose().map_err(|source| RingError::Doorbell { ring: self.ring, what, source })
    }

    /// Makes way for a change. A ring that runs and is enabled stays as it is described. One that is disabled serves
    /// nobody: it is stopped, as if the front-end had said so, and runs again with its next kick. (When a guest reboots,
    /// cloud-hypervisor disables its rings and later describes them anew, in some versions without stopping them.)
    fn make_way(&self, described: &mut Described, what: &'static str, same: bool) -> Result<(), RingError> {
        match (described.running && !same, described.enabled) {
            (false, _) => Ok(()),
            (true, true) => Err(RingError::Running { ring: self.ring, what }),
            (true, false) => self.halt(described),
        }
    }

    fn halt(&self, described: &mut Described) -> Result<(), RingError> {
        described.base = self.workers.stop(self.ring)?;
        described.running = false;
        tracing::debug!(ring = self.ring, base = described.base, "ring stopped");
        Ok(())
    }
}

impl RingControl for WorkerRing {
    fn set_size(&self, size: u16) -> Result<(), RingError> {
        let mut described = self.described();
        let fits = if described.packed { QueueSize::packed(size) } else { QueueSize::split(size) };
        if fits.is_err() || size > self.max_size {
            let kind = size_kind(described.packed);
            return Err(RingError::Size { ring: self.ring, size: size.into(), max: self.max_size, kind });
        }
        let same = described.size == Some(size);
        self.make_way(&mut described, "size", same)?;
        described.size = Some(size);
        self.start_if_complete(&mut described)
    }

    fn set_addrs(&self, addrs: RingAddrs) -> Result<(), RingError> {
        let mut described = self.described();
        let same = described.addrs == Some(addrs);
        self.make_way(&mut described, "place", same)?;
        described.addrs = Some(addrs);
        self.start_if_complete(&mut described)
    }

    fn set_base(&self, base: u16) -> Result<(), RingError> {
        let mut described = self.described();
        self.make_way(&mut described, "base", false)?;
        described.base = base;
        Ok(())
    }

    fn base(&self) -> u16 {
        self.described().base
    }

    fn start(&self, kick: Option<OwnedFd>) -> Result<(), RingError> {
        let kick = self.doorbell("kick", kick)?;
        let mut described = self.described();
        if described.running {
            return Ok(self.workers.set_kick(self.ring, kick)?);
        }
        described.waiting = Some(kick);
        self.start_if_complete(&mut described)
    }

    fn set_call(&self, call: Option<OwnedFd>) -> Result<(), RingError> {
        Ok(self.workers.set_call(self.ring, self.doorbell("call", call)?)?)
    }

    fn set_err(&self, err: Option<OwnedFd>) -> Result<(), RingError> {
        Ok(self.workers.set_err(self.ring, self.doorbell("error", err)?)?)
    }

    fn set_enabled(&self, enabled: bool) -> Result<(), RingError> {
        let mut described = self.described();
        self.workers.set_enabled(self.ring, enabled)?;
        described.enabled = enabled;
        tracing::debug!(ring = self.ring, enabled, "ring enabled or disabled");
        Ok(())
    }

    fn set_features(&self, features: Negotiated) -> Result<(), RingError> {
        let mut described = self.described();
        self.make_way(&mut described, "features", false)?;
        described.packed = features.has(Feature::RingPacked);
        Ok(())
    }

    fn stop(&self) -> Result<u16, RingError> {
        let mut described = self.described();
        described.waiting = None;
        if described.running {
            self.halt(&mut described)?;
        }
        Ok(described.base)
    }

    fn reset(&self) -> Result<(), RingError> {
        self.stop()?;
        self.set_enabled(false)?;
        *self.described() = Described::default();
        Ok(())
    }
}
