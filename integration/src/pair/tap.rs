//! The driver's end on a TAP interface: frames of this host instead of a pool, and nothing is compared.
//!
//! What the host sends to the interface is written into transmit slots in place, what the rings give is copied out and
//! then written to the interface. A frame that finds no transmit slot waits in the interface, which backs up into the
//! host's queue; a received frame that the interface has no room for is dropped, as by any network card. Every frame is
//! accounted for: [`TapCounts`] says what became of those that did not go through.
//!
//! The loop ends in order at a signal, or when its time is over. When nothing moves it sleeps until the interface, the
//! device or a signal wakes it, or it looks again, as [`WaitMode`] says. The device does not call for transmit slots
//! that it is done with, so as long as a frame waits for one the sleep is short, and the interface, which stays
//! readable, is not looked at.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ironring_backend::port::{Port, PortStats};
use ironring_common::error::OsError;
use ironring_common::spec::net::ETH_HEADER_BYTES;
use ironring_driver::net::{NetError, RxBatch, TxQueue, VirtioNet};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use serde::Serialize;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use super::WaitMode;
use super::traffic::{BURST, CHECK, Outcome, SPIN, Seen, Stop, dropped, settle};
use crate::output::grouped;

/// What went through the interface: `frames_in` are the frames sent and three kinds of drops, the frames received are
/// `frames_out` and two.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TapCounts {
    /// The interface.
    pub name: String,
    /// Frames taken from it.
    pub frames_in: u64,
    /// Frames that it took.
    pub frames_out: u64,
    /// Sum of the drops.
    pub lost: u64,
    /// Why.
    pub drops: TapDrops,
}

/// Frames that were dropped at the interface, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TapDrops {
    /// From the interface: no whole frame, or one whose checksum or segments are left to be done.
    pub unfit: u64,
    /// From the interface: longer than a transmit slot, because its MTU is.
    pub too_long: u64,
    /// From the interface: taken and not sent when the run ended.
    pub unsent: u64,
    /// To the interface: it had no room.
    pub no_room: u64,
    /// To the interface: it did not take the frame, because it is down.
    pub refused: u64,
}

/// Tells when to end: at SIGINT or SIGTERM, of which a second one ends the process as it stands.
#[derive(Debug)]
pub(super) struct Ending {
    came: Arc<AtomicBool>,
    /// Readable once a signal came.
    wake: UnixStream,
}

/// Carries frames between a port of this host and the rings.
pub(super) struct Bridge<'a, P> {
    port: P,
    name: &'a str,
    wait: WaitMode,
    limit: Option<Duration>,
    ending: &'a Ending,
    /// A frame of the port was looked at and is not sent yet.
    peeked: bool,
    seen: Seen,
    drops: TapDrops,
}

impl Ending {
    /// Watches for signals from now on, to the end of the process.
    pub(super) fn at_signals() -> Result<Self, OsError> {
        let failed = |error| OsError::new("watch for signals", error);
        let came = Arc::<AtomicBool>::default();
        let (wake, rung) = UnixStream::pair().map_err(failed)?;
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset; who is woken finds it set.
            flag::register_conditional_shutdown(signal, AT_ONCE, Arc::clone(&came)).map_err(failed)?;
            flag::register(signal, Arc::clone(&came)).map_err(failed)?;
            low_level::pipe::register(signal, rung.try_clone().map_err(failed)?).map_err(failed)?;
        }
        Ok(Self { came, wake })
    }

    fn has_come(&self) -> bool {
        self.came.load(Ordering::SeqCst)
    }
}

impl<'a, P: Port> Bridge<'a, P> {
    pub(super) fn new(port: P, name: &'a str, wait: WaitMode, limit: Option<Duration>, ending: &'a Ending) -> Self {
        let (seen, drops) = (Seen::default(), TapDrops::default());
        Self { port, name, wait, limit, ending, peeked: false, seen, drops }
    }

    /// Carries frames until it is to end, or cannot go on.
    pub(super) fn run(&mut self, net: &mut VirtioNet) -> (Outcome, TapCounts) {
        let mut batch = RxBatch::new(BURST, net.tx().frame_max());
        let started = Instant::now();
        let stopped = self.carry(net, &mut batch, started).err();
        let took = started.elapsed();
        let stopped = stopped.or_else(|| settle(net).err());
        self.seen.dropped = dropped(net);
        let counts = self.counts();
        (Outcome { seen: self.seen, took, stopped }, counts)
    }

    fn carry(&mut self, net: &mut VirtioNet, batch: &mut RxBatch, started: Instant) -> Result<(), Stop> {
        let (mut checked, mut moved_at) = (started, started);
        while !self.ending.has_come() {
            let out = self.send(net)?;
            let back = self.receive(net, batch)?;
            // Next to the system calls of the interface the clock costs little.
            let now = Instant::now();
            let left = self.limit.map(|limit| limit.saturating_sub(now.duration_since(started)));
            if left == Some(Duration::ZERO) {
                break;
            }
            if now.duration_since(checked) >= CHECK {
                checked = now;
                // A backend that went away says so on the socket only.
                net.check().map_err(Stop::Net)?;
                self.check_port()?;
            }
            if out || back {
                moved_at = now;
            } else {
                self.rest(net, now.duration_since(moved_at), left)?;
            }
        }
        Ok(())
    }

    /// Frames of the port to the device; `true` if anything moved.
    fn send(&mut self, net: &mut VirtioNet) -> Result<bool, Stop> {
        let (lost, given) = (self.port.stats().lost, self.port.stats().given_frames);
        let posted = self.fill(net.tx());
        self.drops.unfit += self.port.stats().lost.wrapping_sub(lost);
        let posted = posted?;
        net.tx().publish()?;
        self.seen.sent += posted;
        Ok(self.port.stats().given_frames != given)
    }

    /// Frames of the port into transmit slots, in place, until one side has no more. Returns how many.
    fn fill(&mut self, tx: &mut TxQueue) -> Result<u64, Stop> {
        let longest = usize::try_from(tx.frame_max()).unwrap_or(usize::MAX);
        let mut posted = 0;
        for _ in 0..BURST {
            let Some(frame) = self.port.rx_peek() else { break };
            self.peeked = true;
            if frame.len() > longest {
                self.drops.too_long += 1;
            } else {
                let Some(mut slot) = tx.slot(frame.len())? else { break };
                slot.write(0, frame)?;
                slot.send()?;
                posted += 1;
            }
            self.port.rx_consume();
            self.peeked = false;
        }
        Ok(posted)
    }

    /// Received frames to the port; `true` if there were any.
    fn receive(&mut self, net: &mut VirtioNet, batch: &mut RxBatch) -> Result<bool, Stop> {
        let received = net.rx().rx_burst(batch);
        // What came before a violation is in the batch, and is as good as any.
        for frame in batch.frames() {
            if let Some(slot) = self.port.tx_slot(frame.len()) {
                slot.copy_from_slice(frame);
                self.port.tx_commit();
            } else {
                self.drops.no_room += 1;
            }
        }
        self.port.flush();
        self.seen.received += batch.len() as u64;
        received?;
        Ok(!batch.is_empty())
    }

    /// Nothing moved for `since`, and `left` is left: looks again or sleeps.
    fn rest(&mut self, net: &mut VirtioNet, since: Duration, left: Option<Duration>) -> Result<(), Stop> {
        if self.wait == WaitMode::Poll || (self.wait == WaitMode::Adaptive && since < SPIN) {
            std::hint::spin_loop();
            return Ok(());
        }
        if net.rx().arm()? {
            return Ok(());
        }
        let limit = if self.peeked || self.holds_back() { RETRY } else { CHECK };
        let limit = left.map_or(limit, |left| limit.min(left));
        let before = Instant::now();
        let slept = self.sleep(net, limit);
        net.rx().disarm().map_err(Stop::Net)?;
        if before.elapsed() >= limit {
            net.nudge()?;
        }
        slept
    }

    /// Until the port, the device or a signal has something.
    fn sleep(&self, net: &mut VirtioNet, limit: Duration) -> Result<(), Stop> {
        let rx = net.rx();
        let port = self.port.readable_fd().filter(|_| !self.peeked);
        let watched = [self.ending.wake.as_fd(), rx.call_fd(), port.unwrap_or_else(|| rx.call_fd())];
        poll(&mut watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)), limit)
    }

    /// An interface that was deleted gives no frames and takes none, and is in error for ever.
    fn check_port(&self) -> Result<(), Stop> {
        let Some(port) = self.port.readable_fd() else { return Ok(()) };
        let mut fds = [PollFd::from_borrowed_fd(port, PollFlags::empty())];
        poll(&mut fds, Duration::ZERO)?;
        let [port] = fds;
        if port.revents().contains(PollFlags::ERR) {
            return Err(Stop::TapGone { name: self.name.to_owned() });
        }
        Ok(())
    }

    /// Whether the port keeps a frame that the interface had no room for: there is no slot even for the shortest.
    fn holds_back(&mut self) -> bool {
        self.port.tx_slot(ETH_HEADER_BYTES).is_none()
    }

    /// The account at the end.
    fn counts(&mut self) -> TapCounts {
        self.port.flush();
        // The last frame may be taken and not written.
        let held = u64::from(self.holds_back());
        self.drops.no_room += held;
        let PortStats { given_frames, taken_frames, lost, .. } = self.port.stats();
        let taken = given_frames + u64::from(self.peeked);
        let TapDrops { unfit, too_long, no_room, .. } = self.drops;
        // Posted frames that were never shown to the device, and the one that was looked at.
        let unsent = taken.saturating_sub(too_long + self.seen.sent);
        let refused = lost.saturating_sub(unfit);
        self.drops = TapDrops { unsent, refused, ..self.drops };
        TapCounts {
            name: self.name.to_owned(),
            frames_in: taken + unfit,
            frames_out: taken_frames.saturating_sub(refused + held),
            lost: unfit + too_long + unsent + no_room + refused,
            drops: self.drops,
        }
    }
}

impl TapCounts {
    /// For people.
    pub(super) fn to_text(&self) -> String {
        let Self { name, frames_in, frames_out, lost, drops } = self;
        let mut text = format!("{name}, {} in, {} out, {lost} lost", grouped(*frames_in), grouped(*frames_out));
        let reasons = [
            (drops.unfit, "unfit"),
            (drops.too_long, "too long"),
            (drops.unsent, "unsent"),
            (drops.no_room, "without room"),
            (drops.refused, "refused"),
        ];
        for (count, reason) in reasons.into_iter().filter(|(count, _)| *count > 0) {
            text += &format!(", {count} {reason}");
        }
        text
    }
}

/// Waits for one of `fds`, at most `limit`.
fn poll(fds: &mut [PollFd<'_>], limit: Duration) -> Result<(), Stop> {
    match rustix::event::poll(fds, Timespec::try_from(limit).ok().as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(Stop::Net(NetError::Os(OsError::new("wait for frames", error)))),
    }
}

/// How long a sleep is while a frame waits for a slot or for room in the interface: nothing tells of either.
const RETRY: Duration = Duration::from_millis(1);
/// The exit status of a process that a second signal ends.
const AT_ONCE: i32 = 1;

#[cfg(test)]
mod tests;
