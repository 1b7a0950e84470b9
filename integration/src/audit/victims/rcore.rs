//! The network driver of the crate `virtio-drivers` (rcore), on vhost-user, in this process.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ironring_backend::hostile::{self, Plan, Strikes};
use ironring_common::features::{Feature, Supported};
use ironring_common::index::GuestAddr;
use ironring_driver::transport::{Deadlines, RingAddresses, VhostUser};
use rustix::event::EventfdFlags;
use virtio_drivers::device::net::{TxBuffer, VirtIONet};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{Error, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::hal_sys::{self, Platform};
use super::{Encounter, Outcome};
use crate::audit::flow::Flow;
use crate::config::RingConfig;
use crate::verdict::{may_change_frames, may_lose_frames};

type Net = VirtIONet<Platform, Vhost, QUEUE>;

/// Runs an attack with one seed. What is not told apart from here (a panic, a loop without end) ends the process.
pub(super) fn run(id: &str, config: RingConfig, seed: u64) -> Result<Encounter, Box<dyn std::error::Error>> {
    let plan = Plan::parse(id, seed)?;
    let (front, back) = UnixStream::pair()?;
    let session = hostile::serve_in_thread(back, &plan)?;
    let strikes = session.strikes();
    let mut net = Net::new(Vhost::new(front, config)?, BUFFER).map_err(|error| format!("no driver: {error}"))?;
    let mut flow = Flow::new(seed);
    let mut encounter = Encounter::default();
    if let Err(error) = under_attack(&mut net, &mut flow, &strikes) {
        encounter.see(Outcome::Named, format!("it said: {error}"));
    }
    strikes.disarm();
    let attack = plan.attacks().first().ok_or("no attack")?;
    if !may_change_frames(attack) && flow.counts.altered > 0 {
        let altered = flow.counts.altered;
        encounter.see(Outcome::Misled, format!("{altered} frames were handed out that are not what was sent"));
    }
    for finding in hal_sys::findings() {
        encounter.see(Outcome::Harmed, finding);
    }
    encounter.strikes = strikes.count();
    if encounter.strikes > 0 {
        encounter.outcome = encounter.outcome.max(Outcome::Unharmed);
    }
    if encounter.outcome == Outcome::Unharmed && !may_lose_frames(attack) && !goes_on(&mut net, &mut flow) {
        encounter.see(Outcome::Stuck, "no frames came back after the last strike".to_owned());
    }
    session.end();
    Ok(encounter)
}

/// A frame out, and what has come back, until the attack has struck often enough.
fn under_attack(net: &mut Net, flow: &mut Flow, strikes: &Strikes) -> Result<(), Error> {
    let started = Instant::now();
    while started.elapsed() < LIMIT && !(strikes.count() >= STRIKES_ENOUGH && flow.counts.received >= FRAMES_ENOUGH) {
        round(net, flow)?;
    }
    Ok(())
}

fn round(net: &mut Net, flow: &mut Flow) -> Result<(), Error> {
    let frame = flow.next_frame();
    net.send(TxBuffer::from(&frame))?;
    let patience = Instant::now();
    loop {
        match net.receive() {
            Ok(buffer) => {
                flow.take(std::iter::once(buffer.packet()));
                net.recycle_rx_buffer(buffer)?;
                return Ok(());
            }
            Err(Error::NotReady) if patience.elapsed() < FRAME_LIMIT => std::thread::yield_now(),
            // A frame may be lost; the next one tells.
            Err(Error::NotReady) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Whether frames come back that are sent after the last strike.
fn goes_on(net: &mut Net, flow: &mut Flow) -> bool {
    flow.mark();
    let started = Instant::now();
    while flow.beyond < FRAMES_AFTER && started.elapsed() < STALL {
        if round(net, flow).is_err() {
            return false;
        }
    }
    flow.beyond >= FRAMES_AFTER
}

/// A vhost-user session as the crate's transport. What it asks for and cannot be done ends the process, as it has no error
/// for that.
struct Vhost {
    channel: VhostUser,
    features: u64,
    space: [u8; 12],
    status: DeviceStatus,
    bells: Vec<(OwnedFd, OwnedFd)>,
}

impl Vhost {
    fn new(stream: UnixStream, config: RingConfig) -> Result<Self, Box<dyn std::error::Error>> {
        let mut channel = VhostUser::from_stream(stream, DEADLINES)?;
        let net = Supported::none().require(Feature::Version1).with(Feature::Mac).with(Feature::Status);
        let wanted = [(config.indirect, Feature::IndirectDesc), (config.event_idx, Feature::EventIdx)];
        let wanted = wanted.into_iter().filter(|(on, _)| *on).fold(net, |all, (_, feature)| all.with(feature));
        let negotiated = channel.negotiate(wanted)?;
        let mut space = [0; 12];
        if let Some(config) = channel.config(negotiated)? {
            space[..6].copy_from_slice(&config.mac.unwrap_or_default());
            space[6] = u8::from(config.link_up);
        }
        channel.set_memory(&[hal_sys::region()?])?;
        let bell = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bells = vec![(bell()?, bell()?), (bell()?, bell()?)];
        Ok(Self { channel, features: negotiated.bits(), space, status: DeviceStatus::empty(), bells })
    }
}

impl Transport for Vhost {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }

    fn read_device_features(&mut self) -> u64 {
        self.features
    }

    fn write_driver_features(&mut self, _driver_features: u64) {}

    fn max_queue_size(&mut self, _queue: u16) -> u32 {
        256
    }

    fn notify(&mut self, queue: u16) {
        if let Some((kick, _)) = self.bells.get(usize::from(queue)) {
            // A kick that does not get through is one that is pending.
            let _ = rustix::io::write(kick, &1u64.to_ne_bytes());
        }
    }

    fn get_status(&self) -> DeviceStatus {
        self.status
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.status = status;
    }

    fn set_guest_page_size(&mut self, _guest_page_size: u32) {}

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(&mut self, queue: u16, size: u32, desc: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        let size = u16::try_from(size).expect("a size of 16 bits");
        let ring = RingAddresses { size, desc: GuestAddr(desc), avail: GuestAddr(driver), used: GuestAddr(device) };
        let (kick, call) = &self.bells[usize::from(queue)];
        let started = self.channel.start_queue(queue, &ring, 0, kick.as_fd(), call.as_fd());
        started.and_then(|()| self.channel.enable_queue(queue, true)).expect("a queue that starts");
    }

    fn queue_unset(&mut self, _queue: u16) {}

    fn queue_used(&mut self, _queue: u16) -> bool {
        false
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }

    fn read_config_generation(&self) -> u32 {
        0
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> virtio_drivers::Result<T> {
        let bytes = self.space.get(offset..offset + size_of::<T>()).ok_or(Error::ConfigSpaceTooSmall)?;
        T::read_from_bytes(bytes).map_err(|_| Error::ConfigSpaceTooSmall)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _offset: usize,
        _value: T,
    ) -> virtio_drivers::Result<()> {
        Err(Error::Unsupported)
    }
}

/// Descriptors of a queue.
const QUEUE: usize = 16;
/// Bytes of a receive buffer.
const BUFFER: usize = 2048;
const DEADLINES: Deadlines = Deadlines { connect: Duration::from_secs(5), request: Duration::from_secs(5) };
/// How long an attack goes on.
const LIMIT: Duration = Duration::from_millis(300);
const STRIKES_ENOUGH: u64 = 100;
const FRAMES_ENOUGH: u64 = 500;
/// How long a frame is waited for.
const FRAME_LIMIT: Duration = Duration::from_millis(20);
/// Frames after the last strike, and how long they may take.
const FRAMES_AFTER: u64 = 64;
const STALL: Duration = Duration::from_secs(1);
