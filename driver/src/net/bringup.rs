//! The way from a connection to a live device, one step a state (virtio 1.3, 3.1.1).
//!
//! `Bringup` is consumed by each step, so that no step can be left out, repeated or reordered. A user never spells the
//! states: [`VirtioNet::bring_up`](super::VirtioNet::bring_up) is the whole chain. A step that fails drops everything that
//! the steps before it took.

use std::sync::Arc;

use ironring_common::doorbell::Supervisor;
use ironring_common::error::Incompatible;
use ironring_common::features::{Feature, Negotiated};
use ironring_common::index::QueueSize;
use ironring_common::shm::mapping::Area;
use ironring_common::spec::net;

use super::bells::Bells;
use super::life::Stopped;
use super::{FRAME_MAX, NetError, NetOptions, RX_QUEUE, RxQueue, TX_QUEUE, TxQueue, VirtioNet, supported};
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
        Ok(Self { channel, options, queue_size, state: Connected })
    }

    /// Agrees on features and takes one snapshot of the configuration.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn negotiate(mut self) -> Result<Bringup<Agreed>, NetError> {
        let negotiated = self.channel.negotiate(supported(&self.options))?;
        let config = self.channel.config(negotiated)?;
        let frame_max = match config.and_then(|config| config.mtu) {
            Some(mtu) => self.frames_of(mtu)?,
            None => self.options.frame_max,
        };
        Ok(self.with(Agreed { negotiated, config, frame_max }))
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
            pairs: 1,
            slot_bytes,
            layout: self.options.layout,
            table_entries: if indirect { TABLE_ENTRIES } else { 0 },
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
        let memory = |index| arena.queue(index).cloned().ok_or(NetError::FrameMax { frame_max: options.frame_max });
        let features = agreed.negotiated;
        let ring = |index, memory: &QueueMemory| make_ring(index, queue_size, memory, features, &latch);
        let (rx_memory, tx_memory) = (memory(RX_QUEUE)?, memory(TX_QUEUE)?);
        let (rx_at, tx_at) = (rx_memory.addresses, tx_memory.addresses);
        let (rx_ring, tx_ring) = (ring(RX_QUEUE, &rx_memory)?, ring(TX_QUEUE, &tx_memory)?);
        let supervisor = options.kicks.then(|| Supervisor::start(|| true)).transpose()?;
        let bells = || Bells::new(supervisor.as_ref(), &latch);
        let mut rx = RxQueue::new(rx_ring, rx_memory, bells()?);
        let tx = TxQueue::new(tx_ring, tx_memory, bells()?, agreed.frame_max);
        let rx_base = rx.start_base();
        // Before the ring starts: the device finds every slot at its first look, and needs no kick for them.
        rx.fill()?;
        channel.start_queue(RX_QUEUE, &rx_at, rx_base, rx.kick_fd(), rx.call_fd())?;
        channel.start_queue(TX_QUEUE, &tx_at, tx.start_base(), tx.kick_fd(), tx.call_fd())?;
        channel.enable_queue(RX_QUEUE, true)?;
        channel.enable_queue(TX_QUEUE, true)?;
        let Agreed { negotiated, config, .. } = agreed;
        let stopped = Stopped::default();
        Ok(VirtioNet { channel, negotiated, config, rx, tx, supervisor, stopped, arena, latch, options, epoch: 0 })
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

/// Descriptors of an indirect table: one for the header of a frame, one for its bytes.
const TABLE_ENTRIES: u16 = 2;

impl<S> Bringup<S> {
    fn with<N>(self, state: N) -> Bringup<N> {
        Bringup { channel: self.channel, options: self.options, queue_size: self.queue_size, state }
    }
}
