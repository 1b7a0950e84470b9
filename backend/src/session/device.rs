//! The network device as the framework sees it: features, configuration space, memory, stops.

use std::sync::{Arc, Mutex};

use ironring_common::features::{Feature, Negotiated, Supported, accept};
use ironring_common::shm::guest::SealPolicy;
use ironring_common::shm::table::RegionTable;
use ironring_common::spec::net::{CONFIG_MAC, CONFIG_MAX_PAIRS, CONFIG_MTU, CONFIG_STATUS, STATUS_LINK_UP};
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost_user_backend::VhostUserBackend;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::epoll::EventSet;

use super::SessionError;
use super::control::{RingControl, WorkerRing};
use super::stop::{Breaker, lock};
use super::vring::Vring;
use crate::config::Settings;
use crate::port::tap::Link;
use crate::worker::Workers;

/// Guest memory as the framework keeps it. The unit bitmap: no page is ever marked dirty, and the log is not offered.
pub(super) type Memory = GuestMemoryAtomic<GuestMemoryMmap<()>>;

/// One device for one connection.
#[derive(Debug)]
pub(super) struct Device {
    workers: Workers,
    rings: Vec<WorkerRing>,
    max_queue_size: u16,
    offered: Supported,
    config: [u8; CONFIG_SPACE_BYTES],
    /// What the link status of the configuration is asked of; the link is up if there is nothing.
    link: Option<Link>,
    seals: SealPolicy,
    state: Mutex<State>,
    breaker: Arc<Breaker>,
}

#[derive(Debug, Default)]
struct State {
    negotiated: Option<Negotiated>,
    /// Why the session is over, if we ended it.
    error: Option<SessionError>,
    failed: bool,
}

impl Device {
    /// A device whose rings `workers` serve. `breaker` cuts its connection, `link` tells its link status.
    pub(super) fn new(settings: &Settings, workers: Workers, breaker: Arc<Breaker>, link: Option<Link>) -> Self {
        let queues = settings.queues();
        let rings = (0..queues).map(|ring| WorkerRing::new(workers.clone(), ring, settings.queue_size)).collect();
        Self {
            workers,
            rings,
            max_queue_size: settings.queue_size,
            offered: offered(settings),
            config: config_space(settings),
            link,
            seals: settings.seals,
            state: Mutex::default(),
            breaker,
        }
    }

    /// The ring with this index.
    pub(super) fn ring(&self, ring: usize) -> Option<&dyn RingControl> {
        self.rings.get(ring).map(|ring| ring as &dyn RingControl)
    }

    /// Ends the session. The first reason is the one that counts.
    pub(super) fn fail(&self, error: SessionError) {
        let mut state = lock(&self.state);
        if !state.failed {
            state.failed = true;
            state.error = Some(error);
        }
        drop(state);
        self.breaker.cut();
    }

    /// Whether the session was ended by [`fail`](Self::fail).
    pub(super) fn has_failed(&self) -> bool {
        lock(&self.state).failed
    }

    /// Why the session was ended, once.
    pub(super) fn take_error(&self) -> Option<SessionError> {
        lock(&self.state).error.take()
    }

    /// The features in force.
    pub(super) fn negotiated(&self) -> Option<Negotiated> {
        lock(&self.state).negotiated
    }

    /// Ends the session if `result` is an error, and says so to the framework.
    fn conclude<T>(&self, result: Result<T, SessionError>) -> std::io::Result<T> {
        result.map_err(|error| {
            self.fail(error);
            std::io::Error::other("refused by the device")
        })
    }

    /// The features that the driver took, once more against what was offered: the framework looks at surplus bits only.
    fn negotiate(&self, acknowledged: u64) -> Result<(), SessionError> {
        let negotiated = accept(self.offered, acknowledged)?;
        if self.negotiated() != Some(negotiated) {
            for ring in &self.rings {
                ring.set_features(negotiated)?;
            }
        }
        self.workers.set_features(negotiated)?;
        let features = negotiated.iter().map(Feature::name).collect::<Vec<_>>().join(" ");
        tracing::debug!(features, "features negotiated");
        lock(&self.state).negotiated = Some(negotiated);
        Ok(())
    }

    /// Checks new memory before anything touches it, and moves the workers to it.
    fn adopt(&self, memory: &Arc<GuestMemoryMmap<()>>) -> Result<(), SessionError> {
        let regions = memory.num_regions();
        if regions > MAX_REGIONS {
            return Err(SessionError::TooManyRegions { regions, max: MAX_REGIONS });
        }
        let bytes = memory.iter().fold(0u64, |sum, region| sum.saturating_add(region.len()));
        if bytes > MAX_MEMORY_BYTES {
            return Err(SessionError::TooMuchMemory { bytes, max: MAX_MEMORY_BYTES });
        }
        let table = RegionTable::of_guest_memory(memory, self.seals)?;
        self.workers.set_memory(&table)?;
        tracing::debug!(regions, bytes, "memory table");
        Ok(())
    }
}

impl VhostUserBackend for Device {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        self.rings.len()
    }

    fn max_queue_size(&self) -> usize {
        usize::from(self.max_queue_size)
    }

    fn features(&self) -> u64 {
        self.offered.bits()
    }

    fn acked_features(&self, features: u64) {
        // Messages that were there before the connection was cut are still carried out.
        if self.has_failed() {
            return;
        }
        // Nothing to say to the framework, which acknowledges whatever we do: the connection is cut before it can.
        let _ = self.conclude(self.negotiate(features));
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            // QEMU does not take ACCESS_PLATFORM from a backend that could not ask it for translations. This one never
            // asks: without an IOMMU of the guest, the addresses are the guest's physical ones.
            | VhostUserProtocolFeatures::BACKEND_REQ
    }

    // The data plane has it from the features.
    fn set_event_idx(&self, _enabled: bool) {}

    fn reset_device(&self) {
        if self.has_failed() {
            return;
        }
        // The first ring that does not answer in time is the last one that is asked.
        let reset = self.rings.iter().try_for_each(RingControl::reset);
        let _ = self.conclude(reset.map_err(Into::into));
        lock(&self.state).negotiated = None;
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut config = self.config;
        let up = self.link.as_ref().is_none_or(Link::is_up);
        put(&mut config, CONFIG_STATUS, &if up { STATUS_LINK_UP } else { 0 }.to_le_bytes());
        // Offset and size are the front-end's. What does not lie inside is answered by nothing, which tells it so.
        usize::try_from(offset)
            .ok()
            .zip(usize::try_from(size).ok())
            .and_then(|(start, len)| config.get(start..start.checked_add(len)?))
            .unwrap_or_default()
            .to_vec()
    }

    fn update_memory(&self, mem: Memory) -> std::io::Result<()> {
        self.conclude(self.adopt(&mem.memory().into_inner()))
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        // No worker of the framework at all.
        Vec::new()
    }

    fn stop_vring(&self, queue_index: u32) -> std::io::Result<()> {
        let ring = usize::try_from(queue_index).ok().and_then(|ring| self.ring(ring));
        let Some(ring) = ring else { return Err(std::io::ErrorKind::InvalidInput.into()) };
        self.conclude(ring.stop().map(drop).map_err(Into::into))
    }

    fn handle_event(&self, _: u16, _: EventSet, _: &[Vring], _: usize) -> std::io::Result<()> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// What is offered to the driver. Only VERSION_1 is insisted on: a front-end that serves the configuration space itself,
/// as QEMU does, acknowledges nothing else.
fn offered(settings: &Settings) -> Supported {
    let base = Supported::none()
        .require(Feature::Version1)
        .with(Feature::ProtocolFeatures)
        .with(Feature::Mac)
        .with(Feature::AccessPlatform)
        .with(Feature::Status);
    let base = if settings.mtu.is_some() { base.with(Feature::Mtu) } else { base };
    // Without the control queue that goes with it: over vhost-user that is the front-end's, which enables rings by messages.
    let base = if settings.pairs > 1 { base.with(Feature::Mq) } else { base };
    let left_out = |feature| settings.without.iter().any(|without| without.feature() == feature);
    RING_FEATURES.into_iter().filter(|feature| !left_out(*feature)).fold(base, Supported::with)
}

/// `struct virtio_net_config` (virtio 1.3, 5.1.4) without the link status, and zeros up to where the space ends.
fn config_space(settings: &Settings) -> [u8; CONFIG_SPACE_BYTES] {
    let mut space = [0; CONFIG_SPACE_BYTES];
    put(&mut space, CONFIG_MAC, &settings.mac.0);
    put(&mut space, CONFIG_MAX_PAIRS, &settings.pairs.to_le_bytes());
    put(&mut space, CONFIG_MTU, &settings.mtu.unwrap_or(0).to_le_bytes());
    space
}

fn put(space: &mut [u8; CONFIG_SPACE_BYTES], at: usize, field: &[u8]) {
    for (byte, value) in space.iter_mut().skip(at).zip(field) {
        *byte = *value;
    }
}

/// What rings can do beyond the split layout.
const RING_FEATURES: [Feature; 5] =
    [Feature::MrgRxbuf, Feature::IndirectDesc, Feature::EventIdx, Feature::RingPacked, Feature::InOrder];
/// Bytes of the configuration space: what vhost-user can carry at most.
const CONFIG_SPACE_BYTES: usize = 256;
/// So many regions as the framework tells front-ends in its answer to GET_MAX_MEM_SLOTS.
const MAX_REGIONS: usize = 509;
/// So many bytes of guest memory: far above any machine's, far below where sums of addresses wrap.
const MAX_MEMORY_BYTES: u64 = 1 << 44;
