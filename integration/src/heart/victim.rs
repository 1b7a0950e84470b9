//! The rings behind one face, so that one script drives all of them.

use std::sync::Arc;

use ironring_backend::hostile::RaceTurns;
use ironring_common::error::Misuse;
use ironring_common::index::{DescId, GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::words::Words;
use ironring_driver::mapper::bounce::{BLOCK_BYTES, Bounce, BounceError, PrivateBuffer};
use ironring_driver::mapper::{Direction, MapRecord, Mapped, Mapper};
use ironring_driver::queue::any::AnyRing;
use ironring_driver::queue::packed::{PackedAreas, PackedRing};
use ironring_driver::queue::split::{SplitAreas, SplitRing};
use ironring_driver::queue::violation::{Latch, Violation};
use ironring_driver::queue::{AddError, DriverRing, RingLayout, RingOptions, Tables};

use super::layout::Shared;
use super::raced::Raced;
use crate::config::RingConfig;
use crate::trusting::{self, Bite, TrustingPackedRing, TrustingRing};

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
pub(super) struct Victim {
    ring: Ring,
    pool: Pool,
    unwound: u64,
}

#[derive(Debug)]
enum Ring {
    Hardened(Box<AnyRing<Raced, u64>>),
    TrustingSplit(Box<TrustingRing<Raced>>),
    TrustingPacked(Box<TrustingPackedRing<Raced>>, bool),
}

impl Victim {
    pub(super) fn new(
        kind: RingKind,
        queue: u16,
        size: QueueSize,
        config: RingConfig,
        shared: &Shared,
        private: Vec<u8>,
        turns: Option<RaceTurns>,
    ) -> Result<Self, Misuse> {
        let RingConfig { layout, indirect, event_idx, in_order } = config;
        let raced = |area: &Area| Raced::new(area.clone(), turns.clone());
        let parts = || shared.ring.each_ref().map(raced);
        let split = || {
            let [desc, avail, used] = parts();
            SplitAreas { desc, avail, used }
        };
        let packed = || {
            let [ring, driver_event, device_event] = parts();
            PackedAreas { ring, driver_event, device_event }
        };
        let ring = match kind {
            RingKind::Hardened => {
                let entries = Shared::TABLE_ENTRIES;
                let tables =
                    indirect.then(|| Tables { words: raced(&shared.tables), base: shared.tables_base, entries });
                let options = RingOptions { event_idx, in_order, tables };
                let latch = Arc::clone(&Latch::new());
                let mut ring = match layout {
                    RingLayout::Split => AnyRing::Split(SplitRing::with_options(queue, size, split(), latch, options)?),
                    RingLayout::Packed => {
                        AnyRing::Packed(PackedRing::with_options(queue, size, packed(), latch, options)?)
                    }
                };
                ring.suppress_calls();
                Ring::Hardened(Box::new(ring))
            }
            RingKind::Trusting => {
                let tables =
                    indirect.then(|| trusting::Tables { area: raced(&shared.tables), base: shared.tables_base });
                let options = trusting::Options { tables, in_order, event_idx };
                match layout {
                    RingLayout::Split => Ring::TrustingSplit(Box::new(TrustingRing::new(size, split(), options))),
                    RingLayout::Packed => {
                        let ring = TrustingPackedRing::new(size, packed(), options);
                        Ring::TrustingPacked(Box::new(ring), event_idx)
                    }
                }
            }
        };
        let inner = Bounce::new(shared.pool.clone(), shared.pool_base, private);
        let pool = Pool { inner, blocks: shared.pool.clone(), scrubs: kind == RingKind::Hardened };
        Ok(Self { ring, pool, unwound: 0 })
    }

    /// Private memory and pool.
    pub(super) const fn mapper(&mut self) -> &mut Bounce<Area> {
        &mut self.pool.inner
    }

    /// Posts a chain; `false` if there is no room.
    pub(super) fn add(&mut self, read: &[PrivateBuffer], write: &[PrivateBuffer], token: u64) -> Result<bool, End> {
        let pool = &mut self.pool;
        match &mut self.ring {
            Ring::Hardened(ring) => match ring.add(pool, read, write, token) {
                Ok(_) => Ok(true),
                Err(AddError::Violation(violation)) => Err(End::Violation(violation)),
                Err(error) => {
                    self.unwound += u64::from(matches!(error, AddError::Map { index: 1.., .. }));
                    Ok(false)
                }
            },
            Ring::TrustingSplit(ring) => ring.add(pool, read, write, token).map_err(End::Bite),
            Ring::TrustingPacked(ring, _) => ring.add(pool, read, write, token).map_err(End::Bite),
        }
    }

    /// Chains that the hardened ring took back half-way.
    pub(super) const fn unwound(&self) -> u64 {
        self.unwound
    }

    pub(super) fn publish(&mut self) -> Result<(), End> {
        match &mut self.ring {
            Ring::Hardened(ring) => {
                if ring.publish() {
                    // Whoever kicks asks first. The device of the model needs none.
                    let _ = ring.should_kick();
                }
                Ok(())
            }
            Ring::TrustingSplit(ring) => ring.publish().map_err(End::Bite),
            Ring::TrustingPacked(ring, event_idx) => {
                ring.publish().map_err(End::Bite)?;
                if *event_idx {
                    ring.should_kick().map_err(End::Bite)?;
                }
                Ok(())
            }
        }
    }

    /// The token and the length of the next completion.
    pub(super) fn take(&mut self) -> Result<Option<(u64, u32)>, End> {
        let pool = &mut self.pool;
        match &mut self.ring {
            Ring::Hardened(ring) => match ring.take(pool) {
                Ok(done) => Ok(done.map(|done| (done.token, done.written))),
                Err(violation) => Err(End::Violation(violation)),
            },
            Ring::TrustingSplit(ring) => ring.take(pool).map_err(End::Bite),
            Ring::TrustingPacked(ring, _) => ring.take(pool).map_err(End::Bite),
        }
    }

    /// Where a reader that looks at shared memory in place would look next. The hardened ring has no such thing.
    pub(super) fn peek_writable(&self) -> Option<GuestAddr> {
        match &self.ring {
            Ring::Hardened(_) => None,
            Ring::TrustingSplit(ring) => ring.peek_writable(),
            Ring::TrustingPacked(ring, _) => ring.peek_writable(),
        }
    }

    /// Whether every descriptor is accounted for, as far as the ring can tell.
    pub(super) fn is_conserved(&self, size: u16) -> bool {
        match &self.ring {
            Ring::Hardened(ring) => ring.is_conserved(),
            Ring::TrustingSplit(ring) => ring.outstanding() > 0 || ring.free() == size,
            Ring::TrustingPacked(ring, _) => ring.outstanding() > 0 || ring.free() == size,
        }
    }
}

/// The bounce pool of a ring. That of a ring that trusts does not scrub blocks which the device is to write: they hold what
/// was there before, as those of Linux did before CVE-2022-0854.
#[derive(Debug)]
struct Pool {
    inner: Bounce<Area>,
    blocks: Area,
    scrubs: bool,
}

impl Mapper for Pool {
    type Buffer = PrivateBuffer;
    type Error = BounceError;

    fn map(&mut self, id: DescId, buffer: &PrivateBuffer, direction: Direction) -> Result<Mapped, BounceError> {
        if self.scrubs || direction == Direction::ToDevice {
            return self.inner.map(id, buffer, direction);
        }
        let mut before = vec![0; self.blocks.len()];
        self.blocks.copy_out(0, &mut before);
        let mapped = self.inner.map(id, buffer, direction)?;
        let first = usize::try_from(mapped.addr.0.wrapping_sub(self.inner.base().0)).unwrap_or(0);
        let bytes = usize::try_from(mapped.len).unwrap_or(0).next_multiple_of(BLOCK_BYTES);
        self.blocks.copy_in(first, &before[first..first + bytes]);
        Ok(mapped)
    }

    fn unmap(&mut self, record: MapRecord, written: u32) -> Result<(), BounceError> {
        self.inner.unmap(record, written)
    }
}
