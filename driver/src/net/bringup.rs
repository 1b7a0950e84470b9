//! The way from a connection to a live device, one step a state (virtio 1.3, 3.1.1).
//!
//! `Bringup` is consumed by each step, so that no step can be left out, repeated or reordered. A user never spells the
//! states: [`VirtioNet::bring_up`](super::VirtioNet::bring_up) is the whole chain. A step that fails drops everything that
//! the steps before it took.

use std::sync::Arc;
use std::time::Duration;

use ironring_common::doorbell::Supervisor;
use ironring_common::error::{Incompatible, Misuse};
use ironring_common::features::{Feature, Negotiated};
use ironring_common::index::QueueSize;
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::Pages;
use ironring_common::spec::net;

use super::bells::Bells;
use super::pair::{Pairs, QueuePair};
use super::{FRAME_MAX, NetError, NetOptions, QUEUE_PAIRS_MAX, QueueRole, RxQueue, TxQueue, VirtioNet, supported};
use crate::arena::{Arena, ArenaShape, QueueMemory, RingAreas};
use crate::queue::any::AnyRing;
use crate::queue::packed::PackedRing;
use crate::queue::split::SplitRing;
use crate::queue::violation::Latch;
use crate::queue::{RingLayout, RingOptions};
use crate::transport::{NetConfig, VhostUser};

/// A device on its way up, in state `S`.
#[derive(Debug)]
pub struct Bringup<S> {
    channel: VhostUser,
    options: NetOptions,
    queue_size: QueueSize,
    state: S,
}

/// Connected, nothing said yet.
#[derive(Debug)]
pub struct Connected;

/// Features agreed, configuration read.
#[derive(Debug)]
pub struct Agreed {
    negotiated: Negotiated,
    config: Option<NetConfig>,
    /// The longest frame: what was asked for, or less if the device's MTU is less.
    frame_max: u32,
}

/// The device has the memory.
#[derive(Debug)]
pub struct Shared {
    agreed: Agreed,
    arena: Arena,
}

impl Bringup<Connected> {
    /// Checks the options before anything is asked of the device.
    ///
    /// # Errors
    /// [`NetError::Misuse`] or [`NetError::FrameMax`].
    pub fn new(channel: VhostUser, options: NetOptions) -> Result<Self, NetError> {
        let queue_size = match options.layout {
            RingLayout::Split => QueueSize::split(options.queue_size)?,
            RingLayout::Packed => QueueSize::packed(options.queue_size)?,
        };
        if !(60..=FRAME_MAX).contains(&options.frame_max) {
            return Err(NetError::FrameMax { frame_max: options.frame_max });
        }
        let (pairs, most) = (options.queue_pairs, QUEUE_PAIRS_MAX);
        if !(1..=most).contains(&pairs) {
            return Err(Misuse::QueuePairs { pairs, most }.into());
        }
        if options.hairpin && options.indirect {
            return Err(Misuse::HairpinByTables.into());
        }
        if options.hairpin && options.queue_size < HAIRPIN_SIZE_MIN {
            return Err(Misuse::HairpinSize { size: options.queue_size, least: HAIRPIN_SIZE_MIN }.into());
        }
        Ok(Self { channel, options, queue_size, state: Connected })
    }

    /// Agrees on features and takes one snapshot of the configuration.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn negotiate(mut self) -> Result<Bringup<Agreed>, NetError> {
        let negotiated = self.channel.negotiate(supported(&self.options))?;
        let config = self.channel.config(negotiated)?;
        self.check_pairs(negotiated, config)?;
        let frame_max = match config.and_then(|config| config.mtu) {
            Some(mtu) => self.frames_of(mtu)?,
            None => self.options.frame_max,
        };
        Ok(self.with(Agreed { negotiated, config, frame_max }))
    }

    /// Whether the device has as many queue pairs as are asked for. Nothing is asked for the sake of one.
    ///
    /// The answer to GET_QUEUE_NUM is a number of pairs (DPDK) or of queues (rust-vmm); as pairs it is never too low. A
    /// configuration space knows better.
    fn check_pairs(&mut self, negotiated: Negotiated, config: Option<NetConfig>) -> Result<(), NetError> {
        let wanted = self.options.queue_pairs;
        if wanted == 1 {
            return Ok(());
        }
        // Without either feature there is one pair (5.1.2; vhost-user, "Multiple queue support").
        let told = if negotiated.has(Feature::Mq) { self.channel.queue_count()? } else { None };
        let told = told.map_or(1, |told| u16::try_from(told).unwrap_or(u16::MAX));
        let have = config.and_then(|config| config.max_pairs).map_or(told, |pairs| pairs.min(told));
        if have < wanted {
            return Err(Incompatible::QueuePairs { wanted, have }.into());
        }
        Ok(())
    }

    /// The longest frame with an MTU. Every receive buffer must hold one, and none longer may be sent (5.1.4.2).
    fn frames_of(&self, mtu: u16) -> Result<u32, Incompatible> {
        let frame_max = self.options.frame_max;
        let untagged = u32::from(mtu).saturating_add(net::ETH_HEADER_LEN);
        if untagged > frame_max {
            return Err(Incompatible::Mtu { mtu, need: untagged, frame_max });
        }
        // A VLAN tag is part of the header, as other drivers see it too.
        Ok(untagged.saturating_add(net::VLAN_TAG_LEN).min(frame_max))
    }
}

impl Bringup<Agreed> {
    /// Makes the memory and gives it to the device.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn share(mut self) -> Result<Bringup<Shared>, NetError> {
        let slot_bytes = self.state.frame_max.saturating_add(net::HDR_LEN);
        let indirect = self.state.negotiated.has(Feature::IndirectDesc);
        let arena = Arena::create(ArenaShape {
            queue_size: self.queue_size,
            pairs: self.options.queue_pairs,
            slot_bytes,
            layout: self.options.layout,
            table_entries: if indirect { TABLE_ENTRIES } else { 0 },
            pages: if self.options.huge_pages { Pages::Huge } else { Pages::Normal },
            shared_slots: self.options.hairpin,
        })?;
        self.channel.set_memory(&arena.regions())?;
        let Self { channel, options, queue_size, state } = self;
        Ok(Bringup { channel, options, queue_size, state: Shared { agreed: state, arena } })
    }
}

impl Bringup<Shared> {
    /// Builds the queues, posts every receive slot, and lets the device begin.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn start(self) -> Result<VirtioNet, NetError> {
        let Self { mut channel, options, queue_size, state: Shared { agreed, arena } } = self;
        let latch = Latch::new();
        let Agreed { negotiated, config, frame_max } = agreed;
        let supervisor = options.kicks.then(|| Supervisor::start(|| true)).transpose()?;
        let maker = Maker { arena: &arena, queue_size, negotiated, frame_max, latch: &latch, supervisor: &supervisor };
        let pairs = (0..options.queue_pairs).map(|pair| {
            let pair = maker.pair(pair, options.spin)?;
            Ok(if options.hairpin { pair.with_shared_slots() } else { pair })
        });
        let mut pairs = pairs.collect::<Result<Vec<_>, NetError>>()?;
        for (pair, of) in (0..).zip(&mut pairs) {
            let [rx, tx] = [QueueRole::Receive, QueueRole::Transmit].map(|role| role.index(pair));
            let (rx_base, tx_base) = (of.rx.start_base(), of.tx.start_base());
            // Before the ring starts: the device finds every slot at its first look, and needs no kick for them.
            of.rx.fill()?;
            channel.start_queue(rx, &maker.memory(rx)?.addresses, rx_base, of.rx.kick_fd(), of.rx.call_fd())?;
            channel.start_queue(tx, &maker.memory(tx)?.addresses, tx_base, of.tx.kick_fd(), of.tx.call_fd())?;
            channel.enable_queue(rx, true)?;
            channel.enable_queue(tx, true)?;
        }
        let pairs = Pairs::new(pairs);
        Ok(VirtioNet { channel, negotiated, config, pairs, supervisor, arena, latch, options, epoch: 0 })
    }
}

/// What queues are made of.
pub(super) struct Maker<'a> {
    pub(super) arena: &'a Arena,
    pub(super) queue_size: QueueSize,
    pub(super) negotiated: Negotiated,
    pub(super) frame_max: u32,
    pub(super) latch: &'a Arc<Latch>,
    pub(super) supervisor: &'a Option<Supervisor>,
}

impl Maker<'_> {
    /// A pair of empty queues.
    pub(super) fn pair(&self, pair: u16, spin: Duration) -> Result<QueuePair, NetError> {
        let [rx, tx] = [QueueRole::Receive, QueueRole::Transmit].map(|role| role.index(pair));
        let bells = || Bells::new(self.supervisor.as_ref(), self.latch);
        let ring = |index| make_ring(index, self.queue_size, self.memory(index)?, self.negotiated, self.latch);
        let rx = RxQueue::new(ring(rx)?, self.memory(rx)?.clone(), bells()?);
        let tx = TxQueue::new(ring(tx)?, self.memory(tx)?.clone(), bells()?, self.frame_max);
        Ok(QueuePair::new(pair, rx, tx, spin))
    }

    fn memory(&self, index: u16) -> Result<&QueueMemory, NetError> {
        self.arena.queue(index).ok_or(NetError::FrameMax { frame_max: self.frame_max })
    }
}

/// An empty ring of either layout.
pub(super) fn make_ring(
    index: u16,
    size: QueueSize,
    memory: &QueueMemory,
    features: Negotiated,
    latch: &Arc<Latch>,
) -> Result<AnyRing<Area, ()>, NetError> {
    let options = RingOptions {
        event_idx: features.has(Feature::EventIdx),
        in_order: features.has(Feature::InOrder),
        tables: memory.tables.clone(),
    };
    let latch = Arc::clone(latch);
    Ok(match memory.areas.clone() {
        RingAreas::Split(areas) => AnyRing::Split(SplitRing::with_options(index, size, areas, latch, options)?),
        RingAreas::Packed(areas) => AnyRing::Packed(PackedRing::with_options(index, size, areas, latch, options)?),
    })
}

/// So many slots can be shared out: some to send by, some to receive by, and one that is never sent from.
const HAIRPIN_SIZE_MIN: u16 = 8;

/// Descriptors of an indirect table: one for the header of a frame, one for its bytes.
const TABLE_ENTRIES: u16 = 2;

impl<S> Bringup<S> {
    fn with<N>(self, state: N) -> Bringup<N> {
        Bringup { channel: self.channel, options: self.options, queue_size: self.queue_size, state }
    }
}
