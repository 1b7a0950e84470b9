//! The loop: bursts out, bursts back, every frame compared.
//!
//! Nothing on the way of a packet allocates, locks or calls the system. The clock is read when nothing moved, and once
//! in [`CLOCK_EVERY`] bursts to show progress. Whether the backend is still there is asked when nothing has moved for a
//! while.

use std::time::{Duration, Instant};

use ironring_driver::net::{NetError, RxBatch, TxError, VirtioNet};
use ironring_driver::queue::violation::Violation;

use super::args::WINDOW;
use super::frames::{Cursor, Frames};
use super::{PairOptions, Source, WaitMode};
use crate::capture::{Capture, CaptureError, CaptureWriter};

/// The loop and what it keeps.
pub(super) struct Traffic<'a> {
    frames: &'a mut Frames,
    total: u64,
    hostile: bool,
    wait: WaitMode,
    /// Frames in flight at most.
    window: u64,
    out: Option<Sink<'a>>,
    /// The next frame to be sent.
    send: Cursor,
    /// The next frame that must come back.
    next: Cursor,
    seen: Seen,
    idle: Option<Idle>,
}

/// What came back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    pub(super) sent: u64,
    pub(super) received: u64,
    /// Equal and in order.
    pub(super) verified: u64,
    /// Not equal to any frame that was due.
    pub(super) altered: u64,
    /// Passed over: a later frame came instead.
    pub(super) missing: u64,
    /// Dropped by the driver, by its own count.
    pub(super) dropped: u64,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) seen: Seen,
    /// From the first burst to the last frame.
    pub(super) took: Duration,
    /// Why it ended early, if it did.
    pub(super) stopped: Option<Stop>,
}

/// Why the loop ended before its time.
#[derive(Debug, thiserror::Error)]
pub(super) enum Stop {
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error(transparent)]
    Net(NetError),
    #[error(
        "no frame moved for {STALL:?}: {sent} frames were sent and {received} came back; look at the backend's log, or run it with --log debug"
    )]
    Stalled { sent: u64, received: u64 },
    #[error(
        "frame {number} came back changed or out of order ({bytes} bytes); this backend, or its port, does not return what it is sent"
    )]
    Differs { number: u64, bytes: usize },
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(
        "the TAP interface {name} was deleted while frames went through it; make it again, and start the pair anew"
    )]
    TapGone { name: String },
}

/// Where frames that came back are written.
struct Sink<'a> {
    writer: &'a mut CaptureWriter,
    like: &'a Capture,
}

/// A time in which nothing moved.
#[derive(Clone, Copy, Debug)]
struct Idle {
    since: Instant,
    next_check: Instant,
    spins: u32,
}

impl<'a> Traffic<'a> {
    pub(super) fn new(frames: &'a mut Frames, options: &'a PairOptions, out: Option<&'a mut CaptureWriter>) -> Self {
        let out = match (out, &options.source) {
            (Some(writer), Source::Capture { capture, .. }) => Some(Sink { writer, like: capture }),
            _ => None,
        };
        Self {
            frames,
            total: options.frames,
            hostile: options.mode.is_hostile(),
            wait: options.wait,
            window: options.in_flight,
            out,
            send: Cursor::default(),
            next: Cursor::default(),
            seen: Seen::default(),
            idle: None,
        }
    }

    /// Runs until every frame is back, or it cannot go on.
    pub(super) fn run(mut self, net: &mut VirtioNet, mut progress: impl FnMut(u64, u64)) -> Outcome {
        let mut batch = RxBatch::new(BURST, net.tx().frame_max());
        let started = Instant::now();
        let mut stopped = None;
        let mut bursts = 0u32;
        while !self.is_done() {
            match self.round(net, &mut batch) {
                Ok(true) => self.idle = None,
                Ok(false) => stopped = self.rest(net).err(),
                Err(stop) => stopped = Some(stop),
            }
            if stopped.is_some() {
                break;
            }
            bursts = bursts.wrapping_add(1);
            if bursts.is_multiple_of(CLOCK_EVERY) {
                progress(self.seen.verified, self.total);
                stopped = self.endless(started).err();
            }
        }
        let ended = Instant::now();
        // The time until it stood still does not count as work.
        let took = self.idle.map_or(ended, |idle| idle.since).saturating_duration_since(started);
        if stopped.is_none() {
            stopped = settle(net).err();
        }
        self.seen.dropped = dropped(net);
        progress(self.seen.verified, self.total);
        Outcome { seen: self.seen, took, stopped }
    }

    fn is_done(&self) -> bool {
        self.seen.sent == self.total && self.in_flight() == 0
    }

    /// Frames that may still come back.
    #[inline]
    fn in_flight(&self) -> u64 {
        let Seen { sent, verified, altered, dropped, .. } = self.seen;
        sent.saturating_sub(verified + altered + dropped)
    }

    /// One burst each way; `true` if anything moved.
    #[inline]
    fn round(&mut self, net: &mut VirtioNet, batch: &mut RxBatch) -> Result<bool, Stop> {
        let (rx, tx) = net.queues();
        let received = rx.rx_burst(batch);
        // What came before a violation is in the batch, and is as good as any.
        let came = self.compare(batch)?;
        received?;
        let want = (self.total - self.seen.sent).min(self.window).min(BURST as u64);
        if want == 0 || self.window.saturating_sub(self.in_flight()) < want {
            return Ok(came);
        }
        let want = usize::try_from(want).unwrap_or(BURST);
        self.frames.number(self.send, want);
        let mut burst: [&[u8]; BURST] = [&[]; BURST];
        let mut cursor = self.send;
        for frame in &mut burst[..want] {
            *frame = self.frames.frame(cursor);
            cursor = self.frames.after(cursor);
        }
        let sent = tx.tx_burst(&burst[..want]).map_err(Stop::from)?;
        self.send = if sent == want { cursor } else { self.frames.at(self.send.number + sent as u64) };
        self.seen.sent = self.send.number;
        Ok(came || sent > 0)
    }

    /// Compares what came back with what is due; `true` if anything came.
    #[inline]
    fn compare(&mut self, batch: &RxBatch) -> Result<bool, Stop> {
        self.seen.received += batch.len() as u64;
        for frame in batch.frames() {
            if frame != self.frames.frame(self.next) || self.next.number >= self.seen.sent {
                self.resynchronise(frame)?;
                continue;
            }
            self.keep(frame)?;
            self.seen.verified += 1;
            self.next = self.frames.after(self.next);
        }
        Ok(!batch.is_empty())
    }

    /// A frame that is not the one that is due: the end of the run, unless frames may be lost on the way.
    #[cold]
    fn resynchronise(&mut self, frame: &[u8]) -> Result<(), Stop> {
        if !self.hostile {
            return Err(Stop::Differs { number: self.next.number, bytes: frame.len() });
        }
        let Some(found) = self.frames.find(frame, self.next, self.seen.sent) else {
            self.seen.altered += 1;
            return Ok(());
        };
        self.seen.missing += found.number - self.next.number;
        self.next = found;
        self.keep(frame)?;
        self.seen.verified += 1;
        self.next = self.frames.after(found);
        Ok(())
    }

    #[inline]
    fn keep(&mut self, frame: &[u8]) -> Result<(), Stop> {
        if let Some(Sink { writer, like }) = &mut self.out {
            writer.write(like, self.next.index(), frame)?;
        }
        Ok(())
    }

    /// Nothing moved: looks whether there is still something to wait for, and waits.
    #[cold]
    fn rest(&mut self, net: &mut VirtioNet) -> Result<(), Stop> {
        let Some(idle) = &mut self.idle else {
            let now = Instant::now();
            self.idle = Some(Idle { since: now, next_check: now + CHECK, spins: 0 });
            return Ok(());
        };
        idle.spins = idle.spins.wrapping_add(1);
        if self.wait == WaitMode::Poll && !idle.spins.is_multiple_of(SPINS) {
            std::hint::spin_loop();
            return Ok(());
        }
        let now = Instant::now();
        let since = now.duration_since(idle.since);
        if now >= idle.next_check {
            idle.next_check = now + CHECK;
            net.check().map_err(Stop::Net)?;
        }
        if since >= STALL {
            return Err(Stop::Stalled { sent: self.seen.sent, received: self.seen.received });
        }
        // A frame that the driver dropped does not come back, and is not waited for.
        self.seen.dropped = dropped(net);
        match self.wait {
            WaitMode::Poll => Ok(()),
            WaitMode::Adaptive | WaitMode::Interrupt => net.wait(CHECK).map(|_| ()).map_err(Stop::Net),
        }
    }

    /// A hostile backend may invent frames for ever.
    #[cold]
    fn endless(&self, started: Instant) -> Result<(), Stop> {
        let Seen { sent, received, verified, altered, .. } = self.seen;
        if altered > self.total.max(WINDOW) && altered > verified && started.elapsed() > STALL {
            return Err(Stop::Stalled { sent, received });
        }
        Ok(())
    }
}

impl From<TxError> for Stop {
    fn from(error: TxError) -> Self {
        match error {
            TxError::Violation(violation) => Self::Violation(violation),
            // The queue was made for the longest frame of the pool, and captures with shorter ones are refused.
            TxError::FrameLength { index, len, .. } => Self::Differs { number: index as u64, bytes: len },
        }
    }
}

/// Waits for the completion of the last frames sent, which may be behind their return.
pub(super) fn settle(net: &mut VirtioNet) -> Result<(), Stop> {
    let deadline = Instant::now() + STALL;
    while net.tx().outstanding() > 0 && Instant::now() < deadline {
        net.tx().reclaim()?;
        // The other side may be waiting for this CPU.
        std::thread::yield_now();
    }
    Ok(())
}

/// Frames that the driver dropped, by its own count.
pub(super) fn dropped(net: &mut VirtioNet) -> u64 {
    let stats = net.rx().stats();
    stats.dropped_short.wrapping_add(stats.dropped_header)
}

/// Frames a burst.
pub(super) const BURST: usize = 32;
/// Bursts between two looks at the clock while frames move.
const CLOCK_EVERY: u32 = 4096;
/// Idle rounds between two looks at the clock when polling.
const SPINS: u32 = 64;
/// How long an adaptive side polls before it sleeps.
pub(super) const SPIN: Duration = Duration::from_micros(50);
/// How often a side that sees nothing move asks whether the other one is still there.
pub(super) const CHECK: Duration = Duration::from_millis(100);
/// How long nothing may move, on a busy machine.
const STALL: Duration = Duration::from_secs(5);
