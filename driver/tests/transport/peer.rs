//! A scripted backend on the other end of a socket pair: honest, except for what a test makes of a reply.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, PipeReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ironring_common::features::{Feature, Supported};
use ironring_common::index::{GuestAddr, SplitIndex};
use ironring_driver::queue::StopWindow;
use ironring_driver::transport::{Deadlines, NetConfig, Region, RingAddresses, TransportError, VhostUser};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use vhost::vhost_user::message::FrontendReq;

/// A request as the backend received it.
pub(crate) struct Request {
    pub(crate) code: u32,
    pub(crate) flags: u32,
    pub(crate) body: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// An honest device.
#[derive(Clone)]
pub(crate) struct Device {
    pub(crate) features: u64,
    pub(crate) protocol: u64,
    pub(crate) config: [u8; 12],
    /// What GET_VRING_BASE says.
    pub(crate) base: u32,
    /// Whether the driver has taken REPLY_ACK.
    pub(crate) acks: bool,
}

/// The backend's end of the socket.
pub(crate) struct Peer {
    pub(crate) stream: UnixStream,
    pub(crate) device: Device,
}

impl Default for Device {
    fn default() -> Self {
        let mut config = [0; 12];
        config[..6].copy_from_slice(&MAC);
        config[6..8].copy_from_slice(&1u16.to_le_bytes());
        config[8..10].copy_from_slice(&1u16.to_le_bytes());
        config[10..].copy_from_slice(&1500u16.to_le_bytes());
        // Everything, so that all the masks are put to use.
        Self { features: u64::MAX, protocol: u64::MAX, config, base: u32::from(PUBLISHED), acks: false }
    }
}

impl Device {
    /// A device without REPLY_ACK.
    pub(crate) fn without_acks() -> Self {
        Self { protocol: !REPLY_ACK, ..Self::default() }
    }

    /// The bytes of the honest answer, if this request has one.
    pub(crate) fn answer(&mut self, request: &Request) -> Option<Vec<u8>> {
        let code = FrontendReq::try_from(request.code).unwrap();
        let body = match code {
            FrontendReq::GET_FEATURES => self.features.to_ne_bytes().to_vec(),
            FrontendReq::GET_PROTOCOL_FEATURES => self.protocol.to_ne_bytes().to_vec(),
            FrontendReq::GET_CONFIG => [&request.body[..12], &self.config].concat(),
            FrontendReq::GET_VRING_BASE => [&request.body[..4], &self.base.to_ne_bytes()].concat(),
            _ if self.acks && request.flags & NEED_REPLY != 0 => vec![0; 8],
            FrontendReq::SET_PROTOCOL_FEATURES => {
                let taken = u64::from_ne_bytes(request.body[..].try_into().unwrap());
                self.acks = taken & REPLY_ACK != 0;
                return None;
            }
            _ => return None,
        };
        Some(message(request.code, 5, &body))
    }
}

impl Peer {
    /// The next request; `None` once the driver has hung up.
    pub(crate) fn receive(&mut self) -> Option<Request> {
        let mut header = [0; 12];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(&mut header)];
        let got = rustix::net::recvmsg(&self.stream, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?.bytes;
        if got == 0 {
            return None;
        }
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        self.stream.read_exact(&mut header[got..]).ok()?;
        let words: Vec<_> = header.chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
        let mut body = vec![0; usize::try_from(words[2]).unwrap()];
        self.stream.read_exact(&mut body).ok()?;
        Some(Request { code: words[0], flags: words[1], body, fds })
    }

    /// Sends bytes; the driver may have gone.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// Sends bytes with descriptors on the first of them.
    pub(crate) fn send_with(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        rustix::net::sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    /// Answers every request honestly until the driver hangs up; returns the requests.
    pub(crate) fn serve(&mut self) -> Vec<Request> {
        self.serve_with(&mut |peer, _, answer| {
            peer.send(&answer);
            true
        })
    }

    /// Serves until the driver hangs up or `reply` returns `false`. `reply` gets every honest answer with the number
    /// of replies before it, and sends what it likes instead.
    pub(crate) fn serve_with(&mut self, reply: &mut dyn FnMut(&mut Self, usize, Vec<u8>) -> bool) -> Vec<Request> {
        let mut requests = Vec::new();
        let mut replies = 0;
        while let Some(request) = self.receive() {
            let answer = self.device.answer(&request);
            requests.push(request);
            if let Some(answer) = answer {
                if !reply(self, replies, answer) {
                    break;
                }
                replies += 1;
            }
        }
        requests
    }

    /// Reads and throws away until the driver hangs up.
    pub(crate) fn outlast(&mut self) {
        let mut sink = [0; 256];
        while matches!(self.stream.read(&mut sink), Ok(1..)) {}
    }
}

/// A driver, and a backend that runs `script` in a thread.
pub(crate) fn pair<T: Send + 'static>(
    device: Device,
    deadline: Duration,
    script: impl FnOnce(&mut Peer) -> T + Send + 'static,
) -> (VhostUser, JoinHandle<T>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let driver = VhostUser::from_stream(ours, Deadlines { connect: deadline, request: deadline }).unwrap();
    let mut peer = Peer { stream: theirs, device };
    (driver, std::thread::spawn(move || script(&mut peer)))
}

/// The whole life of a device; what the configuration said.
pub(crate) fn session(driver: &mut VhostUser) -> Result<Option<NetConfig>, TransportError> {
    let negotiated = driver.negotiate(supported())?;
    let config = driver.config(negotiated)?;
    let memory: Vec<_> = (0..2).map(|_| rustix::fs::memfd_create("transport", MemfdFlags::CLOEXEC).unwrap()).collect();
    let regions = [0u64, 1].map(|i| Region {
        start: GuestAddr(0x10_0000 * (i + 1)),
        len: 0x8_0000,
        fd: memory[usize::try_from(i).unwrap()].as_fd(),
    });
    driver.set_memory(&regions)?;
    let kick = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let call = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    for index in 0..2 {
        driver.start_queue(index, &RING, 0, kick.as_fd(), call.as_fd())?;
        driver.enable_queue(index, true)?;
    }
    for index in 0..2 {
        driver.stop_queue(index, WINDOW)?;
    }
    driver.check_alive()?;
    Ok(config)
}

/// A session that must not go well: its error, which shows after it if the last reply was still a good one.
pub(crate) fn session_that_ends(driver: &mut VhostUser) -> TransportError {
    if let Err(error) = session(driver) {
        return error;
    }
    let begin = Instant::now();
    loop {
        if let Err(error) = driver.check_alive() {
            return error;
        }
        assert!(begin.elapsed() < LONG, "nothing was wrong with this session");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Replies in a session with acknowledgements.
pub(crate) const REPLIES: usize = 19;
/// Replies in a session without.
pub(crate) const REPLIES_WITHOUT_ACKS: usize = 10;

pub(crate) fn supported() -> Supported {
    Supported::none().require(Feature::Version1).with(Feature::Mac).with(Feature::Mtu).with(Feature::Status)
}

/// A message of the given code, flags and body.
pub(crate) fn message(code: u32, flags: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap();
    let mut bytes: Vec<u8> = [code, flags, size].iter().flat_map(|word| word.to_ne_bytes()).collect();
    bytes.extend_from_slice(body);
    bytes
}

/// Runs `act` and fails if it takes much longer than deadlines of [`SHORT`] allow. The bound tells "waits for ever" from
/// "waits for its deadline" on a machine that is busy with other things.
pub(crate) fn in_time<T>(act: impl FnOnce() -> T) -> T {
    let begin = Instant::now();
    let outcome = act();
    let took = begin.elapsed();
    assert!(took < LONG, "took {took:?} with deadlines of {SHORT:?}");
    outcome
}

/// Waits until every write end of a pipe is closed, wherever it was.
pub(crate) fn all_closed(reader: &PipeReader) -> bool {
    let mut fds = [PollFd::new(reader, PollFlags::empty())];
    let timeout = Timespec { tv_sec: 60, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&timeout)).unwrap() == 1 && fds[0].revents().contains(PollFlags::HUP)
}

/// What an open file is, to compare descriptors.
pub(crate) fn inode(file: &OwnedFd) -> (u64, u64) {
    let stat = rustix::fs::fstat(File::from(file.try_clone().unwrap())).unwrap();
    (stat.st_dev, stat.st_ino)
}

/// The deadline of a request in tests that let it pass.
pub(crate) const SHORT: Duration = Duration::from_millis(50);
/// The deadline of a request in tests where something else ends it.
pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const RING: RingAddresses =
    RingAddresses { size: 256, desc: GuestAddr(0x10_0000), avail: GuestAddr(0x10_2000), used: GuestAddr(0x20_0000) };
pub(crate) const PUBLISHED: u16 = 5;
/// Where a device that has served all but the last nine can have stopped.
pub(crate) const WINDOW: StopWindow = StopWindow::Split { published: SplitIndex(PUBLISHED), held: 9 };
const NEED_REPLY: u32 = 8;
pub(crate) const REPLY_ACK: u64 = 8;
