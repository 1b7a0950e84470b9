//! Samples: of each pairing two fresh processes and a warm-up; then all take turns.
//!
//! While one pairing works the others are stopped, each for a twentieth of the window, until each has had all of it. So whatever
//! happens to the machine happens to all of them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::cores::{CoreWork, Tally};
use super::ends::End;
use super::result::Forward;
use super::testpmd::{Device, Path22, Testpmd};
use super::work::{Direction, Maker, Pairing, Trust, Work};
use crate::console::tempdir;

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Frames a second at the receiver; round trips with a loop.
    pub(super) rate: f64,
    /// Of round trips, in nanoseconds, where our driver makes them.
    pub(super) percentiles: Option<[u64; 3]>,
    /// What the cores of driver and backend did, as far as that was recorded.
    pub(super) cores: [Option<CoreWork>; 2],
}

/// How samples are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub(super) window: Duration,
    pub(super) path: Path22,
    pub(super) forward: Forward,
    /// Whether testpmd, and our driver where it receives from it, record what their cores do, which costs a little. No turns are
    /// taken then.
    pub(super) cycles: bool,
}

/// A listening end or a connecting one.
enum Side {
    Ours(End),
    Theirs(Testpmd),
}

/// Takes a sample of each pairing, in turns; `cpus` are those of driver and backend. `between` runs before the first turn and
/// after each round of turns, while all are stopped.
pub(super) fn take(
    pairings: &[(Pairing, Method)],
    work: &Work,
    cpus: (usize, usize),
    mut between: impl FnMut() -> Result<(), String>,
) -> Result<Vec<Sample>, String> {
    if pairings.iter().any(|(_, method)| method.cycles) {
        return one_by_one(pairings, work, cpus, between);
    }
    let mut pairs = Vec::new();
    for (pairing, method) in pairings {
        pairs.push(Pair::start(*pairing, work, *method, cpus)?);
    }
    between()?;
    for _ in 0..TURNS {
        for (pair, (_, method)) in pairs.iter_mut().zip(pairings) {
            pair.go_on()?;
            pass(method.window / TURNS);
            pair.stop()?;
        }
        between()?;
    }
    pairs.into_iter().map(|pair| pair.finish(work)).collect()
}

/// As [`take`], without turns: to testpmd the time for which it is stopped is work of its core.
fn one_by_one(
    pairings: &[(Pairing, Method)],
    work: &Work,
    cpus: (usize, usize),
    mut between: impl FnMut() -> Result<(), String>,
) -> Result<Vec<Sample>, String> {
    let mut samples = Vec::new();
    for (pairing, method) in pairings {
        between()?;
        let mut pair = Pair::start(*pairing, work, *method, cpus)?;
        pair.go_on()?;
        let before = pair.tallies();
        pass(method.window);
        let after = pair.tallies();
        let cores = [0, 1].map(|end: usize| after[end]?.since(before[end]?));
        if pair.counts().zip(cores).any(|(counts, core)| counts && core.is_none()) {
            return Err(format!("{} does not say what its cores do", pairing.name()));
        }
        samples.push(Sample { cores, ..pair.finish(work)? });
        between()?;
    }
    Ok(samples)
}

/// A pairing that was started: both processes are stopped while it is not their turn.
struct Pair {
    driver: Side,
    backend: Side,
    dir: Direction,
    /// Frames at the receiver when the measurement began, and when that was.
    first: (u64, Instant),
    /// Since when it is stopped, and for how long it was altogether since the measurement began.
    stopped: Option<Instant>,
    idle: Duration,
    /// Where its socket is, removed at the end.
    _place: Place,
}

impl Pair {
    /// Starts both ends, lets them get warm, and stops them.
    fn start(pairing: Pairing, work: &Work, method: Method, cpus: (usize, usize)) -> Result<Self, String> {
        let place = Place(tempdir().map_err(|error| format!("cannot make a directory for a socket: {error}"))?);
        let socket = place.0.join("s");
        let (mut driver, mut backend) = start_ends(&socket, pairing, work, method, cpus)?;
        if let (Side::Theirs(testpmd), Direction::Loop | Direction::Latency) = (&mut driver, work.dir) {
            // The other end has to be ready for them.
            pass(WARM_UP);
            testpmd.send_first(work);
        }
        pass(WARM_UP);
        let receiver = if work.dir == Direction::Tx { &mut backend } else { &mut driver };
        let first = receiver.frames()?;
        let mut pair =
            Self { driver, backend, dir: work.dir, first, stopped: None, idle: Duration::ZERO, _place: place };
        pair.stop()?;
        Ok(pair)
    }

    fn stop(&mut self) -> Result<(), String> {
        self.signal(Signal::STOP)?;
        self.stopped = Some(Instant::now());
        Ok(())
    }

    fn go_on(&mut self) -> Result<(), String> {
        let Some(since) = self.stopped.take() else { return Ok(()) };
        self.idle += since.elapsed();
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), String> {
        [&self.driver, &self.backend].into_iter().try_for_each(|side| {
            kill_process(side.pid(), signal)
                .map_err(|error| format!("cannot stop a process of the measurement: {error}"))
        })
    }

    /// Whether driver and backend are ends that say what their cores do.
    fn counts(&self) -> impl Iterator<Item = bool> {
        [&self.driver, &self.backend].map(|side| matches!(side, Side::Theirs(_))).into_iter()
    }

    /// What the cores of driver and backend have done, as far as they record it.
    fn tallies(&mut self) -> [Option<Tally>; 2] {
        let backend = match &mut self.backend {
            Side::Ours(_) => None,
            Side::Theirs(testpmd) => testpmd.tally(),
        };
        let driver = match &mut self.driver {
            Side::Ours(end) if self.dir == Direction::Rx => backend.and_then(|backend| end.tally(&backend)),
            Side::Ours(_) => None,
            Side::Theirs(testpmd) => testpmd.tally(),
        };
        [driver, backend]
    }

    fn finish(mut self, work: &Work) -> Result<Sample, String> {
        self.go_on()?;
        let Self { mut driver, mut backend, dir, first, idle, .. } = self;
        let receiver = if dir == Direction::Tx { &mut backend } else { &mut driver };
        let last = receiver.frames()?;
        let busy = last.1.saturating_duration_since(first.1).saturating_sub(idle);
        let rate = per_second(last.0.saturating_sub(first.0), busy);
        let at_driver = finish(&mut driver, dir == Direction::Tx)?;
        // Our backend ends when it is left. A memif that is left forgets what it has seen.
        let _stays = matches!(backend, Side::Theirs(_)).then_some(driver);
        let at_backend = finish(&mut backend, dir == Direction::Rx)?;
        agree(work, at_driver.frames, at_backend.frames)?;
        Ok(Sample { rate, percentiles: at_driver.percentiles, cores: [None; 2] })
    }
}

/// A directory that is removed.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Side {
    fn pid(&self) -> Pid {
        match self {
            Self::Ours(end) => end.pid(),
            Self::Theirs(testpmd) => testpmd.pid(),
        }
    }

    /// Frames so far, and when that was.
    fn frames(&mut self) -> Result<(u64, Instant), String> {
        match self {
            Self::Ours(end) => end.frames(),
            Self::Theirs(testpmd) => testpmd.frames(),
        }
    }
}

/// Starts the listening end, then the one that connects.
fn start_ends(
    socket: &Path,
    pairing: Pairing,
    work: &Work,
    method: Method,
    cpus: (usize, usize),
) -> Result<(Side, Side), String> {
    let (drivers, backends) = work.cpus(cpus)?;
    let ours = |work: &Work| End::backend(work, &backends, socket).map(Side::Ours);
    let theirs =
        |device, cpu| Testpmd::start(device, work, (method.forward, method.cycles), cpu, socket).map(Side::Theirs);
    let backend = match pairing {
        Pairing::Vhost(_, Maker::Ironring) | Pairing::Trusting(Maker::Ironring) => ours(work)?,
        Pairing::Vhost(_, Maker::Dpdk) | Pairing::Trusting(Maker::Dpdk) => theirs(Device::Vhost, cpus.1)?,
        Pairing::Memif => theirs(Device::MemifServer, cpus.1)?,
    };
    // By the clock of the one that sends.
    let records = method.cycles && work.dir == Direction::Rx && matches!(backend, Side::Theirs(_));
    let our_driver = |ring| End::driver(work, (ring, records), &drivers, socket).map(Side::Ours);
    let driver = match pairing {
        Pairing::Vhost(Maker::Ironring, _) => our_driver(Trust::Hardened)?,
        Pairing::Trusting(_) => our_driver(Trust::Trusting)?,
        Pairing::Vhost(Maker::Dpdk, _) => theirs(Device::VirtioUser(method.path), cpus.0)?,
        Pairing::Memif => theirs(Device::MemifClient, cpus.0)?,
    };
    if let (Side::Ours(end), false) = (&backend, work.share_cpus || work.threads == 1) {
        end.spread(&backends)?;
    }
    Ok((driver, backend))
}

/// What an end said last.
struct Finished {
    /// Sent or received.
    frames: u64,
    percentiles: Option<[u64; 3]>,
}

/// Ends the traffic of one end.
fn finish(side: &mut Side, sends: bool) -> Result<Finished, String> {
    match side {
        Side::Ours(end) => {
            let (frames, percentiles) = end.finish()?;
            Ok(Finished { frames, percentiles })
        }
        Side::Theirs(testpmd) => {
            let [received, sent] = testpmd.finish()?;
            Ok(Finished { frames: if sends { sent } else { received }, percentiles: None })
        }
    }
}

/// Whether both ends counted the same, within what may have been on its way when they were asked.
fn agree(work: &Work, at_driver: u64, at_backend: u64) -> Result<(), String> {
    // What is in each ring, a burst that is being worked on at either end, and what testpmd keeps back to send.
    let pairs = u64::from(work.queues.max(1)) + u64::from(work.idle_queues);
    let slack = pairs * (2 * u64::from(work.ring_size) + 4 * u64::from(work.burst.max(64)));
    if at_driver.abs_diff(at_backend) <= slack && at_driver > 0 {
        return Ok(());
    }
    Err(format!(
        "the driver counted {at_driver} frames and the backend {at_backend}: frames were lost, or counted twice"
    ))
}

#[expect(clippy::cast_precision_loss, reason = "counts of a measurement are far below 2^52")]
fn per_second(frames: u64, time: Duration) -> f64 {
    frames as f64 / time.as_secs_f64().max(1e-6)
}

/// Lets time pass in which others work.
#[expect(clippy::disallowed_methods, reason = "a measurement takes its time; there is no event that ends it")]
fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// Into so many turns a window is cut.
const TURNS: u32 = 20;
/// Before the window.
const WARM_UP: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::super::table;
    use super::*;
    use ironring_driver::queue::RingLayout;

    #[test]
    fn counts_agree_within_what_is_on_its_way() {
        let work = table::work(RingLayout::Split, Direction::Tx);
        assert!(agree(&work, 1_000_000, 1_000_256).is_ok());
        assert!(agree(&work, 1_000_000, 1_002_000).is_err());
        assert!(agree(&Work { queues: 8, ..work }, 1_000_000, 1_002_048).is_ok());
        assert!(agree(&work, 0, 0).is_err(), "nothing was measured");
    }
}
