//! The same rings over vhost-user, and a neighbour who must not notice.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ironring_backend::hostile::{self, HostileSession, Plan};
use ironring_common::features::{Feature, Supported};
use ironring_driver::net::{NetOptions, RxBatch, VirtioNet};
use ironring_driver::queue::RingLayout;
use ironring_driver::transport::{Deadlines, VhostUser};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};

use super::ground::{Ground, SIZE};
use super::rows::Row;

type Failure = Box<dyn std::error::Error>;

/// An honest driver on a session of its own.
pub(super) struct Neighbour {
    net: VirtioNet,
    batch: RxBatch,
    sent: u64,
    _session: HostileSession,
}

impl Neighbour {
    pub(super) fn new() -> Result<Self, Failure> {
        let (front, back) = UnixStream::pair()?;
        let session = hostile::serve_in_thread(back, &Plan::honest())?;
        let net = VirtioNet::bring_up(VhostUser::from_stream(front, DEADLINES)?, NetOptions::default())?;
        Ok(Self { net, batch: RxBatch::new(32, 1514), sent: 0, _session: session })
    }

    /// Sends frames round; what is wrong if they do not come back.
    fn go_on(&mut self) -> Result<(), String> {
        let mut back = 0;
        let mut deadline = Instant::now() + PATIENCE;
        while back < FRAMES {
            let (rx, tx) = self.net.queues();
            let frames: Vec<Vec<u8>> =
                (0..8).map(|n| vec![u8::try_from((self.sent + n) % 251).unwrap_or(0); 80]).collect();
            self.sent += tx.tx_burst(&frames).map_err(|error| error.to_string())? as u64;
            tx.reclaim().map_err(|violation| violation.to_string())?;
            rx.rx_burst(&mut self.batch).map_err(|violation| violation.to_string())?;
            back += self.batch.len();
            if !self.batch.is_empty() {
                deadline = Instant::now() + PATIENCE;
            } else if Instant::now() >= deadline {
                return Err(format!("{back} of {FRAMES} frames came back, and for {PATIENCE:?} no other"));
            }
        }
        Ok(())
    }
}

/// Gives a session the ring, and looks at the neighbour. What must not be.
pub(super) fn play(row: &Row, layout: RingLayout, neighbour: &mut Neighbour) -> Result<Vec<String>, Failure> {
    let ground = Ground::new(layout)?;
    (row.lay)(&ground);
    let (front, back) = UnixStream::pair()?;
    let session = hostile::serve_in_thread(back, &Plan::honest())?;
    let struck = strike(&ground, row, front);
    let mut findings = Vec::new();
    if let Err(how) = neighbour.go_on() {
        findings.push(format!("an honest driver on another session stands still: {how}"));
    }
    if let Err(error) = struck {
        findings.push(format!("the ring could not be handed over: {error}"));
    }
    session.end();
    Ok(findings)
}

/// Sets up the transmit queue as it is, kicks, and waits for a call that may not come.
fn strike(ground: &Ground, row: &Row, stream: UnixStream) -> Result<(), Failure> {
    let mut channel = VhostUser::from_stream(stream, DEADLINES)?;
    let plain = Supported::none().require(Feature::Version1);
    let wanted = if row.indirect { plain.with(Feature::IndirectDesc) } else { plain };
    let wanted = if ground.layout == RingLayout::Packed { wanted.require(Feature::RingPacked) } else { wanted };
    channel.negotiate(wanted)?;
    channel.set_memory(&[ground.region()])?;
    let bell = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let (kick, call) = (bell()?, bell()?);
    channel.start_queue(1, &Ground::addresses(SIZE), start(ground.layout), kick.as_fd(), call.as_fd())?;
    channel.enable_queue(1, true)?;
    rustix::io::write(&kick, &1u64.to_ne_bytes())?;
    // The call says that it was served; a ring that is at fault makes none.
    let mut fds = [PollFd::new(&call, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&Timespec::try_from(SERVED)?))?;
    Ok(())
}

/// Where an empty ring begins, as vhost-user says it.
fn start(layout: RingLayout) -> u32 {
    match layout {
        RingLayout::Split => 0,
        // Both positions, each with its wrap counter.
        RingLayout::Packed => 0x8000_8000,
    }
}

const DEADLINES: Deadlines = Deadlines { connect: Duration::from_secs(5), request: Duration::from_secs(5) };
const PATIENCE: Duration = Duration::from_secs(3);
const SERVED: Duration = Duration::from_millis(30);
const FRAMES: usize = 500;
