//! The two rings behind one face, so that one script drives both.

use std::sync::Arc;

use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::mapping::Area;
use ironring_driver::mapper::bounce::{Bounce, PrivateBuffer};
use ironring_driver::queue::split::{SplitAreas, SplitRing};
use ironring_driver::queue::violation::{Latch, Violation};
use ironring_driver::queue::{AddError, DriverRing};

use crate::trusting::{Bite, TrustingRing};

/// Which ring is under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RingKind {
    /// The driver's own.
    Hardened,
    /// The one that reads back.
    Trusting,
}

/// How a ring ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// The hardened ring named the lie and latched it.
    Violation(Violation),
    /// The trusting ring was bitten.
    Bite(Bite),
}

/// A ring over a bounce pool.
#[derive(Debug)]
pub(super) enum Victim {
    Hardened { ring: Box<SplitRing<Area, u64>>, mapper: Bounce<Area> },
    Trusting { ring: Box<TrustingRing<Area>>, mapper: Bounce<Area> },
}

impl Victim {
    pub(super) fn new(
        kind: RingKind,
        queue: u16,
        size: QueueSize,
        areas: SplitAreas<Area>,
        mapper: Bounce<Area>,
    ) -> Result<Self, ironring_common::error::Misuse> {
        Ok(match kind {
            RingKind::Hardened => {
                let mut ring = Box::new(SplitRing::new(queue, size, areas, Arc::clone(&Latch::new()))?);
                ring.suppress_calls();
                Self::Hardened { ring, mapper }
            }
            RingKind::Trusting => Self::Trusting { ring: Box::new(TrustingRing::new(size, areas)), mapper },
        })
    }

    pub(super) fn mapper(&mut self) -> &mut Bounce<Area> {
        match self {
            Self::Hardened { mapper, .. } | Self::Trusting { mapper, .. } => mapper,
        }
    }

    /// Posts a chain; `false` if there is no room.
    pub(super) fn add(&mut self, read: &[PrivateBuffer], write: &[PrivateBuffer], token: u64) -> Result<bool, End> {
        match self {
            Self::Hardened { ring, mapper } => match ring.add(mapper, read, write, token) {
                Ok(_) => Ok(true),
                Err(AddError::Violation(violation)) => Err(End::Violation(violation)),
                Err(_) => Ok(false),
            },
            Self::Trusting { ring, mapper } => ring.add(mapper, read, write, token).map_err(End::Bite),
        }
    }

    pub(super) fn publish(&mut self) -> Result<(), End> {
        match self {
            Self::Hardened { ring, .. } => {
                ring.publish();
                Ok(())
            }
            Self::Trusting { ring, .. } => ring.publish().map_err(End::Bite),
        }
    }

    /// The token and the length of the next completion.
    pub(super) fn take(&mut self) -> Result<Option<(u64, u32)>, End> {
        match self {
            Self::Hardened { ring, mapper } => match ring.take(mapper) {
                Ok(done) => Ok(done.map(|done| (done.token, done.written))),
                Err(violation) => Err(End::Violation(violation)),
            },
            Self::Trusting { ring, mapper } => ring.take(mapper).map_err(End::Bite),
        }
    }

    /// Where a reader that looks at shared memory in place would look next. The hardened ring has no such thing.
    pub(super) fn peek_writable(&self) -> Option<GuestAddr> {
        match self {
            Self::Hardened { .. } => None,
            Self::Trusting { ring, .. } => ring.peek_writable(),
        }
    }

    /// Whether every descriptor is accounted for, as far as the ring can tell.
    pub(super) fn is_conserved(&self, size: u16) -> bool {
        match self {
            Self::Hardened { ring, .. } => ring.is_conserved(),
            Self::Trusting { ring, .. } => ring.outstanding() > 0 || ring.free() == size,
        }
    }
}
