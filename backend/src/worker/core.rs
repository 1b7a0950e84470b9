//! A worker without its thread: rings, memory and ports, driven by hand.
//!
//! [`WorkerCore::step`] makes one pass over all rings and never waits. The thread of the parent module calls it in a
//! loop; tests and in-process harnesses call it themselves.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

#[cfg(test)]
use ironring_common::apart;
use ironring_common::apart::Apart;
use ironring_common::doorbell::Doorbell;
use ironring_common::features::Negotiated;
use ironring_common::shm::table::RegionTable;

use super::command::{ControlError, RingSetup, Signals};
use super::layout::{Layout, check_overlap};
use super::ring::{Ring, Shared};
use crate::port::{Port, PortStats};
use crate::stats::Stats;
use crate::vring::RingFault;
use crate::vring::hook::{Hook, Moment};

/// The data plane of some queue pairs, with one port for all of them or one for each. See the
/// [module documentation](self).
///
/// Ring 2i receives for the guest, ring 2i + 1 transmits. Of a port that all pairs share, each takes frames that come; if
/// their order is to be kept ([`Port::IN_ORDER`]), only the first that is enabled.
#[derive(Debug)]
pub struct WorkerCore<P, H> {
    rings: Vec<Ring>,
    memory: Option<RegionTable>,
    /// The features in force, once they are.
    features: Option<Negotiated>,
    ports: Vec<Apart<P>>,
    hook: H,
    stats: Arc<Stats>,
    /// Whether the last pass found nothing to do.
    idle: bool,
    /// Looks since each pair had something to do, as far as they count.
    rest: Vec<u8>,
    /// Passes, free-running.
    pass: u8,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "a pass that did nothing may be a reason to wait"]
pub struct Progress {
    /// Chains completed and frames dropped.
    pub served: u32,
}

/// What a turn of the rings did.
#[derive(Clone, Copy, Debug, Default)]
struct Swept {
    /// Chains completed and frames dropped.
    served: u32,
    /// Whether pairs were not looked at.
    left_out: bool,
}

impl Progress {
    /// Whether there was nothing to do.
    #[inline]
    #[must_use]
    pub const fn is_idle(self) -> bool {
        self.served == 0
    }
}

impl<P: Port, H: Hook> WorkerCore<P, H> {
    /// A data plane of `pairs` queue pairs, stopped and disabled, without memory.
    #[must_use]
    pub fn new(pairs: usize, port: P, hook: H, stats: Arc<Stats>) -> Self {
        Self::with_ports(pairs, [port], hook, stats)
    }

    /// As [`new`](Self::new), with one port for all pairs or one for each.
    #[must_use]
    pub fn with_ports(pairs: usize, ports: impl IntoIterator<Item = P>, hook: H, stats: Arc<Stats>) -> Self {
        let rings = pairs.saturating_mul(2);
        let rings = (0..rings).map(|ring| Ring::new(ring, stats.number(ring))).collect();
        let ports: Vec<_> = ports.into_iter().map(Apart).collect();
        assert!(ports.len() == 1 || ports.len() == pairs, "there is one port, or one for each pair");
        Self { rings, memory: None, features: None, ports, hook, stats, idle: false, rest: vec![0; pairs], pass: 0 }
    }

    /// Starts a ring.
    ///
    /// # Errors
    /// [`ControlError`]: the ring runs already, has a size that its layout cannot have, does not lie in one region of memory for each of its
    /// parts, or overlaps itself or another ring of this worker.
    pub fn start(&mut self, ring: usize, setup: RingSetup) -> Result<(), ControlError> {
        let layout = Layout::of(ring, &setup, self.features)?;
        if self.ring(ring)?.is_running() {
            return Err(ControlError::AlreadyRunning { ring });
        }
        let others = self.rings.iter().enumerate();
        check_overlap(ring, &layout, others.filter_map(|(other, running)| Some((other, running.layout()?))))?;
        let memory = self.memory.as_ref().ok_or(ControlError::NoMemory { ring })?;
        let rings = self.rings.len();
        let started = self.rings.get_mut(ring).ok_or(ControlError::NoSuchRing { ring, rings })?;
        started.start(setup, layout, memory, self.features)?;
        started.moment(Moment::Start, &mut self.hook, memory);
        started.show(&self.stats);
        self.idle = false;
        if let Some(rest) = self.rest.get_mut(ring / 2) {
            *rest = 0;
        }
        Ok(())
    }

    /// Stops a ring and returns the position to go on from: everything before it is used and published.
    ///
    /// # Errors
    /// [`ControlError::NoSuchRing`], [`ControlError::NotRunning`].
    pub fn stop(&mut self, ring: usize) -> Result<u16, ControlError> {
        let base = self.end(ring)?;
        self.show();
        Ok(base)
    }

    /// As [`stop`](Self::stop), without a word in the statistics about the state.
    fn end(&mut self, ring: usize) -> Result<u16, ControlError> {
        self.ring(ring)?;
        if let (Some(stopped), Some(memory)) = (self.rings.get(ring), &self.memory) {
            stopped.moment(Moment::Stop, &mut self.hook, memory);
        }
        self.ports.iter_mut().for_each(|Apart(port)| port.flush());
        self.stats.store_port(&seen(&self.ports));
        let rings = self.rings.len();
        self.rings.get_mut(ring).ok_or(ControlError::NoSuchRing { ring, rings })?.stop(&mut self.hook)
    }

    /// Stops all rings that run. The statistics go on to show the states that they had, which tell why frames did or
    /// did not flow before this end.
    pub fn stop_all(&mut self) {
        for ring in 0..self.rings.len() {
            // Rings that do not run say so; there is nothing to do for them.
            let _ = self.end(ring);
        }
    }

    /// Enables or disables a ring. Disabled, a transmit ring discards what it carries, and a receive ring is given
    /// nothing.
    ///
    /// # Errors
    /// [`ControlError::NoSuchRing`].
    pub fn set_enabled(&mut self, ring: usize, enabled: bool) -> Result<(), ControlError> {
        self.ring(ring)?.set_enabled(enabled);
        self.show();
        Ok(())
    }

    /// Sets where the driver of a ring is called, or that it is not.
    ///
    /// # Errors
    /// [`ControlError::NoSuchRing`].
    pub fn set_call(&mut self, ring: usize, call: Option<Arc<Doorbell>>) -> Result<(), ControlError> {
        self.ring(ring)?.set_call(call);
        Ok(())
    }

    /// Sets where a fault of a ring is signalled, or that it is not.
    ///
    /// # Errors
    /// [`ControlError::NoSuchRing`].
    pub fn set_err(&mut self, ring: usize, err: Option<Arc<Doorbell>>) -> Result<(), ControlError> {
        self.ring(ring)?.set_err(err);
        Ok(())
    }

    /// Makes signals again that somebody took from the driver of a ring.
    pub(super) fn signal(&mut self, ring: usize, signals: Signals) -> Result<(), ControlError> {
        self.ring(ring)?.signal(signals);
        Ok(())
    }

    /// Exchanges the kick of a running ring.
    ///
    /// # Errors
    /// [`ControlError::NoSuchRing`], [`ControlError::NotRunning`].
    pub fn set_kick(&mut self, ring: usize, kick: Option<Doorbell>) -> Result<(), ControlError> {
        self.ring(ring)?.set_kick(kick)
    }

    /// Takes note of the features in force. Rings that are started from now on have them.
    pub const fn set_features(&mut self, features: Negotiated) {
        self.features = Some(features);
    }

    /// Exchanges the memory table. Running rings move to it; one that does not lie in it has a fault from now on.
    pub fn set_memory(&mut self, memory: RegionTable) {
        for ring in &mut self.rings {
            ring.relocate(&memory);
        }
        self.memory = Some(memory);
        self.show();
    }

    /// One pass: each ring has its turn. Never waits.
    ///
    /// While some pairs have work, those that have had none for a while are looked at in one pass of a few only: a look
    /// takes as long as a frame. A pass in which the others have none either looks at all of them.
    #[inline]
    pub fn step(&mut self) -> Progress {
        self.step_unless(|| false)
    }

    /// As [`step`](Self::step), but left as soon as `called_away` says so, with what was begun shown and no use of a port from there on:
    /// a driver may have held this thread up at its call for so long that the session was given up, and the port is another's.
    /// Counts as progress then.
    ///
    /// A function by itself, so that what is counted as the work of a pass has one name (`bench-check`).
    #[inline(never)]
    pub(super) fn step_unless(&mut self, called_away: impl Fn() -> bool) -> Progress {
        if self.memory.is_none() {
            return Progress::default();
        }
        self.pass = self.pass.wrapping_add(1);
        // A hook is told of every look.
        let mut all = H::ACTIVE || self.idle || self.pass.is_multiple_of(LOOK_EACH);
        let served = loop {
            let Swept { served, left_out } = self.sweep(all, &called_away);
            if called_away() {
                // What was taken is flushed after the next pass that finds nothing.
                self.idle = false;
                return Progress { served: served.max(1) };
            }
            if served > 0 || !left_out {
                break served;
            }
            all = true;
        };
        if served > 0 {
            self.idle = false;
            self.stats.store_port(&seen(&self.ports));
        } else if !self.idle {
            self.idle = true;
            self.ports.iter_mut().for_each(|Apart(port)| port.flush());
            self.stats.store_port(&seen(&self.ports));
        }
        Progress { served }
    }

    /// A turn for each ring, transmit before receive, of `all` pairs or of those that do not rest. What a transmit ring is done with is
    /// shown behind that: a frame that goes back at once need not wait for the line where that is written.
    #[inline(always)]
    fn sweep(&mut self, all: bool, called_away: &impl Fn() -> bool) -> Swept {
        let mut swept = Swept::default();
        let Self { rings, memory: Some(memory), ports, hook, stats, rest, .. } = self else { return swept };
        let last = ports.len().saturating_sub(1);
        let mut gives = true;
        for ((at, pair), rest) in rings.chunks_exact_mut(2).enumerate().zip(rest) {
            let ([receive, transmit], Some(Apart(port))) = (pair, ports.get_mut(at.min(last))) else { continue };
            if called_away() {
                break;
            }
            if all || *rest < RESTS {
                let mut shared = Shared { memory, port, gives, hook, stats };
                let mut sent = transmit.serve_tx(&mut shared);
                let mut now = 0u32;
                if H::ACTIVE {
                    // A hook is told of one burst after the other.
                    now = transmit.end_tx(sent.take(), &mut shared);
                }
                if !called_away() {
                    now = now.saturating_add(receive.serve_rx(&mut shared));
                }
                now = now.saturating_add(transmit.end_tx(sent, &mut shared));
                *rest = if now > 0 { 0 } else { rest.saturating_add(1) };
                swept.served = swept.served.saturating_add(now);
            } else {
                swept.left_out = true;
            }
            gives &= !(P::IN_ORDER && receive.takes_frames());
        }
        swept
    }

    /// Asks the drivers of all rings to kick. Another [`step`](Self::step) must come before any sleep.
    pub fn arm_kicks(&mut self) {
        self.rings.iter_mut().for_each(Ring::arm_kick);
    }

    /// Tells the drivers of all rings that kicks are not needed.
    pub fn suppress_kicks(&mut self) {
        self.rings.iter_mut().for_each(Ring::suppress_kicks);
    }

    /// Takes a kick from the doorbell of a ring. `false` if that is dead.
    pub(super) fn take_kick(&mut self, ring: usize) -> bool {
        let stats = Arc::clone(&self.stats);
        self.rings.get_mut(ring).is_none_or(|ring| ring.take_kick(&stats))
    }

    /// The kick of a ring.
    pub(super) fn kick(&self, ring: usize) -> Option<BorrowedFd<'_>> {
        self.rings.get(ring)?.kick()
    }

    /// Whether a ring runs.
    pub(super) fn any_running(&self) -> bool {
        self.rings.iter().any(Ring::is_running)
    }

    /// Whether a running ring cannot be kicked.
    pub(super) fn any_kickless(&self) -> bool {
        self.rings.iter().any(Ring::is_kickless)
    }

    /// The fault of a ring, from when it is found until the ring is stopped.
    #[must_use]
    pub fn fault(&self, ring: usize) -> Option<RingFault> {
        self.rings.get(ring)?.fault()
    }

    /// The ports: one, or one for each pair.
    pub fn ports(&self) -> impl Iterator<Item = &P> {
        self.ports.iter().map(|Apart(port)| port)
    }

    /// The ports, for a harness that puts frames into them.
    pub fn ports_mut(&mut self) -> impl Iterator<Item = &mut P> {
        self.ports.iter_mut().map(|Apart(port)| port)
    }

    /// The hook, for a harness that asks what it did.
    pub const fn hook_mut(&mut self) -> &mut H {
        &mut self.hook
    }

    /// The counters.
    #[must_use]
    pub const fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Shows counters and states of all rings as they are now.
    fn show(&self) {
        self.rings.iter().for_each(|ring| ring.show(&self.stats));
    }

    /// Where what each ring writes lies: itself, its lists, its counters, and the port of its pair if it has one.
    #[cfg(test)]
    pub(super) fn lines(&self) -> Vec<Vec<std::ops::Range<usize>>> {
        let one = |(at, ring): (usize, &Ring)| {
            let mut lines = Vec::new();
            ring.lines(&mut lines);
            lines.extend(self.stats.queue(at).map(apart::lines));
            lines
        };
        self.rings.iter().enumerate().map(one).collect()
    }

    fn ring(&mut self, ring: usize) -> Result<&mut Ring, ControlError> {
        let rings = self.rings.len();
        self.rings.get_mut(ring).ok_or(ControlError::NoSuchRing { ring, rings })
    }
}

/// What the ports of a worker have seen together.
#[inline]
fn seen<P: Port>(ports: &[Apart<P>]) -> PortStats {
    let mut all = PortStats::default();
    ports.iter().for_each(|Apart(port)| all.add(&port.stats()));
    all
}

/// Looks in a row that find nothing, after which a pair rests.
const RESTS: u8 = 64;
/// Passes of which one looks at pairs that rest too.
const LOOK_EACH: u8 = 8;
