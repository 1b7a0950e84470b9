//! The requests of a vhost-user front-end, in the order in which a device is set up and stopped.
//!
//! What a message means is checked here, once, against private state: the features are read once and frozen, the
//! configuration is one snapshot checked field by field, and where the device says that it stopped must be a place that
//! it can have reached.
//!
//! Of the protocol features three are taken if they are offered. With REPLY_ACK every request that changes something is
//! acknowledged, and anything but 0 ends the connection. Without it nothing tells us that the memory table or a ring has
//! been taken in; messages are handled in order, so an answer to a GET_FEATURES sent behind them says that they have been
//! handled, and it must equal the first answer. CONFIG lets us read the configuration. MQ is taken because backends with
//! more than one pair of queues insist on it. Everything else is masked, the backend's own requests (BACKEND_REQ) among
//! it: there is no second channel on which the backend could ask us for anything.

use core::time::Duration;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use ironring_common::claim::Alleged;
use ironring_common::features::{self, Feature, Negotiated, Offered, Supported};
use ironring_common::index::GuestAddr;
use ironring_common::spec::net;
use vhost::vhost_user::message::{
    FrontendReq, VhostUserConfig, VhostUserConfigFlags, VhostUserMemory, VhostUserMemoryRegion,
    VhostUserProtocolFeatures, VhostUserVringAddr, VhostUserVringAddrFlags, VhostUserVringState,
};
use vm_memory::ByteValued;

use super::channel::Channel;
use super::error::{ChannelMisuse, ChannelViolation, TransportError};
use super::socket::MAX_FDS;
use super::wire::Message;
use crate::queue::StopWindow;

/// How long the backend may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// To be there and accept the connection.
    pub connect: Duration,
    /// For one request, from its first byte to the last byte of its answer. More than an hour counts as one hour.
    pub request: Duration,
}

/// A connection to a vhost-user backend. See the [module documentation](super).
///
/// Every method blocks until the deadline of its requests at most. After any error but a
/// [`Misuse`](TransportError::Misuse) or an [`Incompatible`](TransportError::Incompatible) the connection is closed and
/// every method returns the same error.
#[derive(Debug)]
pub struct VhostUser {
    channel: Channel,
    agreed: Option<Agreed>,
}

/// A piece of memory that the backend may map.
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    /// The address of its first byte as descriptors will name it.
    pub start: GuestAddr,
    /// Its length in bytes; it begins at offset 0 of its file.
    pub len: u64,
    /// The sealed memfd.
    pub fd: BorrowedFd<'a>,
}

/// Where a ring lies, by the addresses of the memory table, and how many descriptors it has. For a packed ring `avail`
/// is the driver's and `used` the device's event area (virtio 1.3, 2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// Descriptors of the ring.
    pub size: u16,
    /// The descriptor table.
    pub desc: GuestAddr,
    /// The available ring.
    pub avail: GuestAddr,
    /// The used ring.
    pub used: GuestAddr,
}

/// The configuration of the network device (virtio 1.3, 5.1.4), read once and checked. A field is `None` if its feature
/// is not in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// The MAC address; neither a group address nor all zero.
    pub mac: Option<[u8; 6]>,
    /// The MTU in bytes, 68 to 65521.
    pub mtu: Option<u16>,
    /// Queue pairs that the device has, 1 to 32768.
    pub max_pairs: Option<u16>,
    /// Whether the link was up; a device without `VIRTIO_NET_F_STATUS` counts as up.
    pub link_up: bool,
}

/// What was agreed at the start and never changes.
#[derive(Clone, Copy, Debug)]
struct Agreed {
    offered: u64,
    reply_ack: bool,
    config: bool,
    mq: bool,
}

impl Default for Deadlines {
    /// One second each.
    fn default() -> Self {
        Self { connect: Duration::from_secs(1), request: Duration::from_secs(1) }
    }
}

impl VhostUser {
    /// Connects to the backend that listens at `path`. While nobody listens there, or the listener is busy, it tries
    /// again every few milliseconds until the deadline, so that driver and backend can be started in any order.
    ///
    /// # Errors
    /// [`TransportError::Connect`].
    pub fn connect(path: &Path, deadlines: Deadlines) -> Result<Self, TransportError> {
        let channel = Channel::connect(path, deadlines.connect, deadlines.request)?;
        Ok(Self { channel, agreed: None })
    }

    /// Takes over a connected stream, which becomes non-blocking. Nobody else may read from it.
    ///
    /// # Errors
    /// [`TransportError::Os`] if the stream cannot be made non-blocking.
    pub fn from_stream(stream: UnixStream, deadlines: Deadlines) -> Result<Self, TransportError> {
        Ok(Self { channel: Channel::adopt(stream, deadlines.request)?, agreed: None })
    }

    /// Takes the device and agrees on features. `VHOST_USER_F_PROTOCOL_FEATURES` is added, and required: without it
    /// there is no way to enable a queue, to read the configuration, or to have anything acknowledged.
    ///
    /// # Errors
    /// [`TransportError::Incompatible`] if the offer will not do; otherwise see [`VhostUser`].
    pub fn negotiate(&mut self, supported: Supported) -> Result<Negotiated, TransportError> {
        if self.agreed.is_some() {
            return Err(ChannelMisuse::AlreadyNegotiated.into());
        }
        self.channel.send(&Message::new(FrontendReq::SET_OWNER, false, &[]), &[])?;
        let offered = self.ask_u64(FrontendReq::GET_FEATURES)?.check_advisory("an offer is only ever masked");
        let negotiated = features::negotiate(Offered(offered), supported.require(Feature::ProtocolFeatures))?;

        let protocol = self.ask_u64(FrontendReq::GET_PROTOCOL_FEATURES)?.check_advisory("an offer is only ever masked");
        let taken = VhostUserProtocolFeatures::from_bits_truncate(protocol) & WANTED;
        // Whether this one is acknowledged already differs between backends, so it is not asked for.
        let body = taken.bits().to_ne_bytes();
        self.channel.send(&Message::new(FrontendReq::SET_PROTOCOL_FEATURES, false, &[&body]), &[])?;
        let agreed = Agreed {
            offered,
            reply_ack: taken.contains(VhostUserProtocolFeatures::REPLY_ACK),
            config: taken.contains(VhostUserProtocolFeatures::CONFIG),
            mq: taken.contains(VhostUserProtocolFeatures::MQ),
        };
        self.set(agreed, FrontendReq::SET_FEATURES, &[&negotiated.bits().to_ne_bytes()], &[])?;
        self.agreed = Some(agreed);
        Ok(negotiated)
    }

    /// How many queues the backend says that it has, or queue pairs: backends differ. `None` if it cannot be asked, and has
    /// one pair then. A number to compare with, and nothing else.
    ///
    /// # Errors
    /// See [`VhostUser`].
    pub fn queue_count(&mut self) -> Result<Option<u64>, TransportError> {
        if !self.agreed()?.mq {
            return Ok(None);
        }
        let told = self.ask_u64(FrontendReq::GET_QUEUE_NUM)?;
        Ok(Some(told.check_advisory("it is only compared with how many are wanted")))
    }

    /// One snapshot of the configuration, checked; `None` if the backend does not serve it.
    ///
    /// # Errors
    /// See [`VhostUser`].
    pub fn config(&mut self, negotiated: Negotiated) -> Result<Option<NetConfig>, TransportError> {
        if !self.agreed()?.config {
            return Ok(None);
        }
        let window = VhostUserConfig::new(0, CONFIG_BYTES, VhostUserConfigFlags::empty());
        let space = [0; net::CONFIG_BYTES];
        let message = Message::new(FrontendReq::GET_CONFIG, false, &[window.as_slice(), &space]);
        let mut reply = [0; CONFIG_REPLY_BYTES];
        self.channel.call(&message, &[], &mut reply)?;
        check_config(reply, negotiated).map(Some).map_err(|violation| self.channel.poison(violation))
    }

    /// Gives the backend the memory: 1 to 8 regions in ascending order that do not overlap. The "user addresses" of the
    /// message are synthetic too, [`USER_BASE`] above the others; no pointer of this process leaves it.
    ///
    /// # Errors
    /// [`TransportError::Misuse`] for a table that breaks these rules; otherwise see [`VhostUser`].
    pub fn set_memory(&mut self, regions: &[Region<'_>]) -> Result<(), TransportError> {
        let agreed = self.agreed()?;
        let count = u32::try_from(regions.len()).ok().filter(|_| (1..=MAX_FDS).contains(&regions.len()));
        let count = count.ok_or(ChannelMisuse::RegionCount { count: regions.len() })?;
        let mut table = Vec::new();
        let mut end = GuestAddr(0);
        for region in regions {
            let wrong = ChannelMisuse::Region { start: region.start, len: region.len };
            let user_addr = region.start.0.checked_add(USER_BASE).ok_or(wrong)?;
            if region.start < end || region.len == 0 || user_addr.checked_add(region.len).is_none() {
                return Err(wrong.into());
            }
            end = region.start.checked_add(region.len).ok_or(wrong)?;
            table.push(VhostUserMemoryRegion {
                guest_phys_addr: region.start.0,
                memory_size: region.len,
                user_addr,
                mmap_offset: 0,
            });
        }
        let head = VhostUserMemory::new(count);
        let mut parts = vec![head.as_slice()];
        parts.extend(table.iter().map(ByteValued::as_slice));
        let fds: Vec<_> = regions.iter().map(|region| region.fd).collect();
        self.set(agreed, FrontendReq::SET_MEM_TABLE, &parts, &fds)?;
        self.settle(agreed)
    }

    /// Describes a ring and starts it, still disabled. `base` is the index of the first buffer: 0 for a new ring, and
    /// for a packed one both positions with their wrap counters, 32 bits wide.
    ///
    /// # Errors
    /// [`TransportError::Misuse`] for a queue above 255 or an address that cannot be put on the wire; otherwise see
    /// [`VhostUser`].
    pub fn start_queue(
        &mut self,
        index: u16,
        ring: &RingAddresses,
        base: u32,
        kick: BorrowedFd<'_>,
        call: BorrowedFd<'_>,
    ) -> Result<(), TransportError> {
        let agreed = self.agreed()?;
        // The doorbell messages have eight bits for the index; the next one would say "no descriptor attached".
        let doorbell = u8::try_from(index).map_err(|_| ChannelMisuse::QueueIndex { index })?;
        let doorbell = u64::from(doorbell).to_ne_bytes();
        let queue = u32::from(index);
        let state = |num| VhostUserVringState::new(queue, num);
        let none = VhostUserVringAddrFlags::empty();
        let [desc, used, avail] = [user_addr(ring.desc)?, user_addr(ring.used)?, user_addr(ring.avail)?];
        let addresses = VhostUserVringAddr::new(queue, none, desc, used, avail, 0);
        self.set(agreed, FrontendReq::SET_VRING_NUM, &[state(u32::from(ring.size)).as_slice()], &[])?;
        self.set(agreed, FrontendReq::SET_VRING_BASE, &[state(base).as_slice()], &[])?;
        self.set(agreed, FrontendReq::SET_VRING_ADDR, &[addresses.as_slice()], &[])?;
        self.set(agreed, FrontendReq::SET_VRING_CALL, &[&doorbell], &[call])?;
        // The kick starts the ring, so everything else is said before.
        self.set(agreed, FrontendReq::SET_VRING_KICK, &[&doorbell], &[kick])?;
        self.settle(agreed)
    }

    /// Lets the device process a queue, or forbids it.
    ///
    /// # Errors
    /// See [`VhostUser`].
    pub fn enable_queue(&mut self, index: u16, enabled: bool) -> Result<(), TransportError> {
        let agreed = self.agreed()?;
        let body = VhostUserVringState::new(u32::from(index), u32::from(enabled));
        self.set(agreed, FrontendReq::SET_VRING_ENABLE, &[body.as_slice()], &[])?;
        self.settle(agreed)
    }

    /// Stops a queue and returns the position of the first buffer that the device has not taken, as 16 bits: an index, or a
    /// slot and its wrap counter. It must lie in `window`, which the ring knows. The backend's word is only compared; the
    /// driver's own position is the one to go on from. Of the 32 bits of the answer the lower half counts: backends differ
    /// in the upper one.
    ///
    /// # Errors
    /// [`ChannelViolation::BaseMismatch`] if the device cannot have stopped there; otherwise see [`VhostUser`].
    pub fn stop_queue(&mut self, index: u16, window: StopWindow) -> Result<u16, TransportError> {
        self.agreed()?;
        let body = VhostUserVringState::new(u32::from(index), 0);
        let message = Message::new(FrontendReq::GET_VRING_BASE, false, &[body.as_slice()]);
        let mut reply = [0; 8];
        self.channel.call(&message, &[], &mut reply)?;
        let (queue, base) = vring_state(reply).split();
        queue.check_with(|queue| (queue == u32::from(index)).then_some(())).map_err(|refused| {
            self.channel.poison(ChannelViolation::WrongQueue { sent: index, got: refused.observed })
        })?;
        base.map(low_half).check_with(|base| window.accepts(base).then_some(base)).map_err(|refused| {
            let got = refused.observed;
            self.channel.poison(ChannelViolation::BaseMismatch { queue: index, got, window })
        })
    }

    /// Whether the backend is still there and has sent nothing that nobody asked for. A look at the socket, no request.
    ///
    /// # Errors
    /// [`TransportError::Disconnected`], a [`ChannelViolation`], or the error that ended the connection earlier.
    pub fn check_alive(&mut self) -> Result<(), TransportError> {
        self.channel.check_quiet()
    }

    /// Closes the connection. Every later request is a [`ChannelMisuse::HungUp`].
    pub fn hang_up(&mut self) {
        self.channel.hang_up();
    }

    /// Sends a request that changes something, and has it acknowledged where that is possible.
    fn set(
        &mut self,
        agreed: Agreed,
        code: FrontendReq,
        body: &[&[u8]],
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), TransportError> {
        let message = Message::new(code, agreed.reply_ack, body);
        if !agreed.reply_ack {
            return self.channel.send(&message, fds);
        }
        let mut reply = [0; 8];
        self.channel.call(&message, fds, &mut reply)?;
        Alleged::new(u64::from_ne_bytes(reply))
            .check_with(|status| (status == 0).then_some(()))
            .map_err(|refused| self.channel.poison(ChannelViolation::Refused { sent: code, status: refused.observed }))
    }

    /// Without acknowledgements: asks for the features again, whose answer comes behind everything sent before.
    fn settle(&mut self, agreed: Agreed) -> Result<(), TransportError> {
        if agreed.reply_ack {
            return Ok(());
        }
        let first = agreed.offered;
        self.ask_u64(FrontendReq::GET_FEATURES)?
            .check_with(|now| (now == first).then_some(()))
            .map_err(|refused| self.channel.poison(ChannelViolation::FeaturesChanged { first, now: refused.observed }))
    }

    fn ask_u64(&mut self, code: FrontendReq) -> Result<Alleged<u64>, TransportError> {
        let mut reply = [0; 8];
        self.channel.call(&Message::new(code, false, &[]), &[], &mut reply)?;
        Ok(Alleged::new(u64::from_ne_bytes(reply)))
    }

    fn agreed(&self) -> Result<Agreed, TransportError> {
        self.agreed.ok_or(ChannelMisuse::NotNegotiated.into())
    }
}

/// Ring addresses are said as "user addresses" of the memory table.
fn user_addr(addr: GuestAddr) -> Result<u64, ChannelMisuse> {
    addr.0.checked_add(USER_BASE).ok_or(ChannelMisuse::RingAddress { addr })
}

/// The reply to GET_CONFIG, field by field, each only if its feature is in force.
fn check_config(reply: [u8; CONFIG_REPLY_BYTES], negotiated: Negotiated) -> Result<NetConfig, ChannelViolation> {
    // The flags of the window mean nothing in a reply and are skipped.
    let [o0, o1, o2, o3, s0, s1, s2, s3, _, _, _, _, mac @ .., st0, st1, mp0, mp1, mt0, mt1] = reply;
    let (offset, size) = (u32::from_ne_bytes([o0, o1, o2, o3]), u32::from_ne_bytes([s0, s1, s2, s3]));
    if (offset, size) != (0, CONFIG_BYTES) {
        return Err(ChannelViolation::WrongConfig { offset, size });
    }
    let status = Alleged::new(u16::from_le_bytes([st0, st1]));
    let max_pairs = Alleged::new(u16::from_le_bytes([mp0, mp1]));
    let mtu = Alleged::new(u16::from_le_bytes([mt0, mt1]));
    let status = status.check_advisory("only one bit is looked at, and no memory access depends on it");
    Ok(NetConfig {
        mac: in_force(negotiated, Feature::Mac, || check_mac(Alleged::new(mac)))?,
        mtu: in_force(negotiated, Feature::Mtu, || check_range(mtu, "mtu", net::MTU_MIN, MTU_MAX))?,
        max_pairs: in_force(negotiated, Feature::Mq, || check_range(max_pairs, "max_virtqueue_pairs", 1, PAIRS_MAX))?,
        link_up: !negotiated.has(Feature::Status) || status & net::STATUS_LINK_UP != 0,
    })
}

/// The field of a feature, if the feature is in force.
fn in_force<T>(
    negotiated: Negotiated,
    feature: Feature,
    check: impl FnOnce() -> Result<T, ChannelViolation>,
) -> Result<Option<T>, ChannelViolation> {
    if negotiated.has(feature) { check().map(Some) } else { Ok(None) }
}

fn check_mac(mac: Alleged<[u8; 6]>) -> Result<[u8; 6], ChannelViolation> {
    let lawful = |mac: [u8; 6]| {
        let [first, ..] = mac;
        (first & GROUP == 0 && mac != [0; 6]).then_some(mac)
    };
    mac.check_with(lawful).map_err(|refused| {
        let [a, b, c, d, e, f] = refused.observed;
        let value = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        ChannelViolation::ConfigOutOfRange { field: "mac", value }
    })
}

fn check_range(claim: Alleged<u16>, field: &'static str, min: u16, max: u16) -> Result<u16, ChannelViolation> {
    claim
        .check_with(|value| (min..=max).contains(&value).then_some(value))
        .map_err(|refused| ChannelViolation::ConfigOutOfRange { field, value: u64::from(refused.observed) })
}

/// The queue and the number of a vring state.
fn vring_state(reply: [u8; 8]) -> Alleged<(u32, u32)> {
    let [a, b, c, d, e, f, g, h] = reply;
    Alleged::new((u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])))
}

/// The low 16 bits of a ring base; backends differ in what they leave in the upper ones.
fn low_half(base: u32) -> u16 {
    let [a, b, ..] = base.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// How far the synthetic "user addresses" of the memory table lie above the addresses in descriptors. They differ so
/// that a backend that mixes the two up fails at once.
pub const USER_BASE: u64 = 1 << 44;

/// The protocol features that this front-end has a use for.
const WANTED: VhostUserProtocolFeatures =
    VhostUserProtocolFeatures::REPLY_ACK.union(VhostUserProtocolFeatures::MQ).union(VhostUserProtocolFeatures::CONFIG);
/// Bytes of the configuration space that are read, as the window says them.
const CONFIG_BYTES: u32 = 12;
const _: () = assert!(CONFIG_BYTES as usize == net::CONFIG_BYTES);
/// Bytes of the reply to GET_CONFIG: the window, then the bytes.
const CONFIG_REPLY_BYTES: usize = size_of::<VhostUserConfig>() + net::CONFIG_BYTES;
/// Queue pairs that a device may have at most (virtio 1.3, 5.1.4.1).
const PAIRS_MAX: u16 = 0x8000;
/// The largest MTU whose frames, 14 bytes longer, still have a 16-bit length.
const MTU_MAX: u16 = u16::MAX - 14;
/// In the first byte of a MAC address: a group, not a device.
const GROUP: u8 = 1;
