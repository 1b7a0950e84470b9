//! The requests of a vhost-user front-end for a network device.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ironring_common::claim::Alleged;
use ironring_common::features::{self, Feature, Negotiated, Offered, Supported};
use ironring_common::index::GuestAddr;
use ironring_common::spec::net;
use vhost::vhost_user::message::{
    FrontendReq, VhostUserConfig, VhostUserConfigFlags, VhostUserMemory, VhostUserMemoryRegion,
    VhostUserProtocolFeatures, VhostUserVringAddr, VhostUserVringState,
};
use vm_memory::ByteValued;

use super::channel::Channel;
use super::error::{ChannelViolation, TransportError};
use super::wire::Header;

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Until a socket that is not there yet is given up.
    pub connect: Duration,
    /// For each request, from its first byte to the last byte of its reply.
    pub request: Duration,
}

impl Default for Deadlines {
    /// One second each.
    fn default() -> Self {
        Self { connect: Duration::from_secs(1), request: Duration::from_secs(1) }
    }
}

/// Memory to be shared.
#[derive(Clone, Copy, Debug)]
pub struct Region<'a> {
    /// The address that the device knows it by.
    pub start: GuestAddr,
    /// Bytes, from the beginning of the file.
    pub len: u64,
    /// The sealed memfd.
    pub fd: BorrowedFd<'a>,
}

/// Where a ring lies, as the device knows it.
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

/// What the device says of itself, from one read, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Its MAC address, if `VIRTIO_NET_F_MAC` is in force: unicast and not zero.
    pub mac: Option<[u8; 6]>,
    /// Its MTU in bytes, if `VIRTIO_NET_F_MTU` is in force: at least 68.
    pub mtu: Option<u16>,
    /// Whether the link is up; up if `VIRTIO_NET_F_STATUS` is not in force.
    pub link_up: bool,
}

/// The front-end's end of a vhost-user connection.
#[derive(Debug)]
pub struct VhostUser {
    channel: Channel,
    /// The offer as first read; later answers must repeat it.
    offered: u64,
    protocol: VhostUserProtocolFeatures,
}

impl VhostUser {
    /// Connects to a backend that listens at `path`. A socket that is not there yet, or refuses, is tried again until the
    /// deadline, so that backend and driver may be started in any order.
    ///
    /// # Errors
    /// [`TransportError::Connect`] when the deadline has passed.
    pub fn connect(path: &Path, deadlines: Deadlines) -> Result<Self, TransportError> {
        let started = Instant::now();
        loop {
            let source = match UnixStream::connect(path) {
                Ok(stream) => return Self::from_stream(stream, deadlines),
                Err(source) => source,
            };
            let later = matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused);
            if !later || started.elapsed() >= deadlines.connect {
                let path = path.display().to_string();
                return Err(TransportError::Connect { path, after: deadlines.connect, source: Arc::new(source) });
            }
            // There is no event for a socket that appears; a short timed wait bounds the delay.
            std::thread::park_timeout(RETRY);
        }
    }

    /// Takes a connected socket.
    ///
    /// # Errors
    /// [`TransportError::Os`].
    pub fn from_stream(stream: UnixStream, deadlines: Deadlines) -> Result<Self, TransportError> {
        let channel = Channel::new(stream, deadlines.request)?;
        Ok(Self { channel, offered: 0, protocol: VhostUserProtocolFeatures::empty() })
    }

    /// Claims the device and agrees on features: the offer is read once, masked by what is supported, and acknowledged.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn negotiate(&mut self, supported: Supported) -> Result<Negotiated, TransportError> {
        self.set(FrontendReq::SET_OWNER, &[], &[])?;
        self.offered = self.get_u64(FrontendReq::GET_FEATURES)?;
        let supported = supported.require(Feature::ProtocolFeatures);
        let negotiated = features::negotiate(Offered(self.offered), supported)?;
        let protocol = VhostUserProtocolFeatures::from_bits_truncate(self.get_u64(FrontendReq::GET_PROTOCOL_FEATURES)?);
        let protocol = protocol & OUR_PROTOCOL;
        self.set(FrontendReq::SET_PROTOCOL_FEATURES, &protocol.bits().to_ne_bytes(), &[])?;
        self.protocol = protocol;
        self.set(FrontendReq::SET_FEATURES, &negotiated.bits().to_ne_bytes(), &[])?;
        Ok(negotiated)
    }

    /// One snapshot of the configuration space, checked; `None` if the backend has none to show.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn config(&mut self, negotiated: Negotiated) -> Result<Option<NetConfig>, TransportError> {
        if !self.protocol.contains(VhostUserProtocolFeatures::CONFIG) {
            return Ok(None);
        }
        let ask = VhostUserConfig::new(0, CONFIG_BYTES, VhostUserConfigFlags::empty());
        let mut body = ask.as_slice().to_vec();
        body.resize(body.len().saturating_add(net::CONFIG_BYTES), 0);
        let mut reply = vec![0; body.len()];
        let header = Header::request(FrontendReq::GET_CONFIG as u32, body.len(), false);
        self.channel.exchange(header, &body, &[], &mut reply)?;
        let (head, bytes) = reply.split_at_checked(size_of::<VhostUserConfig>()).unwrap_or_default();
        let mut answer = VhostUserConfig::default();
        answer.as_mut_slice().copy_from_slice(head);
        let (offset, size) = (answer.offset, answer.size);
        if offset != 0 || size != CONFIG_BYTES {
            return Err(self.channel.violated(ChannelViolation::ConfigRange { offset, size }));
        }
        parse_config(bytes, negotiated).map(Some).map_err(|violation| self.channel.violated(violation))
    }

    /// Shares memory: all of it, in ascending order of its addresses.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn set_memory(&mut self, regions: &[Region<'_>]) -> Result<(), TransportError> {
        if regions.is_empty() || regions.len() > REGIONS_MAX {
            return Err(TransportError::Misuse { what: "this number of regions", todo: "share 1 to 8 regions" });
        }
        let count = u32::try_from(regions.len()).unwrap_or(0);
        let mut body = VhostUserMemory::new(count).as_slice().to_vec();
        for region in regions {
            let user = user_addr(region.start);
            let entry = VhostUserMemoryRegion::new(region.start.0, region.len, user, 0);
            body.extend_from_slice(entry.as_slice());
        }
        let fds: Vec<_> = regions.iter().map(|region| region.fd).collect();
        self.set(FrontendReq::SET_MEM_TABLE, &body, &fds)?;
        self.sync()
    }

    /// Describes a ring and starts it: the kick goes last, because it is what starts a ring. `base` is the index to begin
    /// at, 32 bits wide as packed rings need it.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn start_queue(
        &mut self,
        index: u16,
        ring: &RingAddresses,
        base: u32,
        kick: BorrowedFd<'_>,
        call: BorrowedFd<'_>,
    ) -> Result<(), TransportError> {
        let queue = u32::from(index);
        let state = |num| VhostUserVringState::new(queue, num);
        self.set(FrontendReq::SET_VRING_NUM, state(u32::from(ring.size)).as_slice(), &[])?;
        self.set(FrontendReq::SET_VRING_BASE, state(base).as_slice(), &[])?;
        let addr = VhostUserVringAddr {
            index: queue,
            flags: 0,
            descriptor: user_addr(ring.desc),
            used: user_addr(ring.used),
            available: user_addr(ring.avail),
            log: 0,
        };
        self.set(FrontendReq::SET_VRING_ADDR, addr.as_slice(), &[])?;
        self.set(FrontendReq::SET_VRING_CALL, &u64::from(index).to_ne_bytes(), &[call])?;
        self.set(FrontendReq::SET_VRING_KICK, &u64::from(index).to_ne_bytes(), &[kick])?;
        self.sync()
    }

    /// Enables or disables a ring.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn enable_queue(&mut self, index: u16, enable: bool) -> Result<(), TransportError> {
        let state = VhostUserVringState::new(u32::from(index), u32::from(enable));
        self.set(FrontendReq::SET_VRING_ENABLE, state.as_slice(), &[])?;
        self.sync()
    }

    /// Stops a ring. The device says at which index it stopped: between `published - outstanding` and `published`, the
    /// private indices; it must not be anywhere else. Only the low 16 bits count, as backends return no more.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn stop_queue(&mut self, index: u16, published: u16, outstanding: u16) -> Result<u16, TransportError> {
        let ask = VhostUserVringState::new(u32::from(index), 0);
        let mut reply = [0; size_of::<VhostUserVringState>()];
        let header = Header::request(FrontendReq::GET_VRING_BASE as u32, ask.as_slice().len(), false);
        self.channel.exchange(header, ask.as_slice(), &[], &mut reply)?;
        let mut answer = VhostUserVringState::default();
        answer.as_mut_slice().copy_from_slice(&reply);
        let (queue, base) = (answer.index, answer.num);
        let lies = ChannelViolation::BaseMismatch { queue: index, observed: base, expected: published };
        let low = u16::try_from(base & 0xffff).unwrap_or(0);
        let steps = Alleged::new(low).check_window(published.wrapping_sub(outstanding), outstanding);
        if queue != u32::from(index) || steps.is_err() {
            return Err(self.channel.violated(lies));
        }
        Ok(low)
    }

    /// Whether the backend is there and silent.
    ///
    /// # Errors
    /// [`TransportError`] if it hung up or sent what nobody asked for.
    pub fn check_alive(&mut self) -> Result<(), TransportError> {
        self.channel.check_idle()
    }

    /// A request without an answer of its own; acknowledged if the backend can.
    fn set(&mut self, request: FrontendReq, body: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), TransportError> {
        let acknowledged = self.protocol.contains(VhostUserProtocolFeatures::REPLY_ACK);
        let request = request as u32;
        let header = Header::request(request, body.len(), acknowledged);
        if !acknowledged {
            return self.channel.exchange(header, body, fds, &mut []);
        }
        let mut reply = [0; 8];
        self.channel.exchange(header, body, fds, &mut reply)?;
        match u64::from_ne_bytes(reply) {
            0 => Ok(()),
            status => Err(self.channel.violated(ChannelViolation::Refused { request, status })),
        }
    }

    fn get_u64(&mut self, request: FrontendReq) -> Result<u64, TransportError> {
        let mut reply = [0; 8];
        let header = Header::request(request as u32, 0, false);
        self.channel.exchange(header, &[], &[], &mut reply)?;
        Ok(u64::from_ne_bytes(reply))
    }

    /// Without acknowledgements, a round trip tells that everything before it was handled; its answer must repeat the
    /// first one, because the offer is frozen.
    fn sync(&mut self) -> Result<(), TransportError> {
        if self.protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            return Ok(());
        }
        let second = self.get_u64(FrontendReq::GET_FEATURES)?;
        if second != self.offered {
            let changed = ChannelViolation::FeaturesChanged { first: self.offered, second };
            return Err(self.channel.violated(changed));
        }
        Ok(())
    }
}

/// Checks the bytes of the configuration space. They are a private copy by now.
fn parse_config(bytes: &[u8], negotiated: Negotiated) -> Result<NetConfig, ChannelViolation> {
    let word = |at: usize| {
        let bytes = bytes.get(at..at.saturating_add(2)).and_then(|two| two.try_into().ok()).unwrap_or_default();
        u16::from_le_bytes(bytes)
    };
    let mac = if negotiated.has(Feature::Mac) {
        let mac: [u8; 6] = bytes
            .get(net::CONFIG_MAC..net::CONFIG_STATUS)
            .and_then(|six| six.try_into().ok())
            .ok_or(ChannelViolation::ConfigMac)?;
        let group = mac.first().is_some_and(|first| first & 1 == 1);
        if group || mac == [0; 6] {
            return Err(ChannelViolation::ConfigMac);
        }
        Some(mac)
    } else {
        None
    };
    let mtu = negotiated.has(Feature::Mtu).then(|| word(net::CONFIG_MTU));
    if let Some(mtu) = mtu.filter(|mtu| *mtu < net::MTU_MIN) {
        return Err(ChannelViolation::ConfigMtu { mtu });
    }
    let link_up = !negotiated.has(Feature::Status) || word(net::CONFIG_STATUS) & net::STATUS_LINK_UP != 0;
    Ok(NetConfig { mac, mtu, link_up })
}

/// What the backend is told as our "user address": not an address of ours, only different from the guest address, so that
/// a backend that mixes the two up is found out.
const fn user_addr(addr: GuestAddr) -> u64 {
    addr.0.wrapping_add(USER_BASE)
}

const USER_BASE: u64 = 1 << 44;
const REGIONS_MAX: usize = 8;
const RETRY: Duration = Duration::from_millis(5);
const CONFIG_BYTES: u32 = net::CONFIG_BYTES as u32;
/// The protocol features that this side speaks. Never BACKEND_REQ: nothing may reach us uninvited.
const OUR_PROTOCOL: VhostUserProtocolFeatures = VhostUserProtocolFeatures::REPLY_ACK
    .union(VhostUserProtocolFeatures::MQ)
    .union(VhostUserProtocolFeatures::CONFIG);
