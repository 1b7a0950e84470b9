//! One sample: two fresh processes, a warm-up, a window.

use std::path::Path;
use std::time::Duration;

use super::ends::End;
use super::result::Forward;
use super::testpmd::{Cycles, Device, Path22, Testpmd};
use super::work::{Direction, Maker, Pairing, Trust, Work};
use crate::console::tempdir;

/// What was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Frames a second at the receiver; round trips with a loop.
    pub(super) rate: f64,
    /// Of round trips, in nanoseconds, where our driver makes them.
    pub(super) percentiles: Option<[u64; 3]>,
    /// What a packet cost the core of testpmd, as driver and as backend, if that was recorded.
    pub(super) cycles: [Option<Cycles>; 2],
}

/// How samples are taken.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub(super) window: Duration,
    pub(super) path: Path22,
    pub(super) forward: Forward,
    /// Whether testpmd records what its cores do, which costs it a little.
    pub(super) cycles: bool,
}

/// A listening end or a connecting one.
enum Side {
    Ours(End),
    Theirs(Testpmd),
}

/// Takes one sample; `cpus` are those of driver and backend.
pub(super) fn take(pairing: Pairing, work: &Work, method: Method, cpus: (usize, usize)) -> Result<Sample, String> {
    let dir = tempdir().map_err(|error| format!("cannot make a directory for a socket: {error}"))?;
    let result = take_in(&dir.join("s"), pairing, work, method, cpus);
    let _ = std::fs::remove_dir_all(&dir);
    result
}

fn take_in(
    socket: &Path,
    pairing: Pairing,
    work: &Work,
    method: Method,
    cpus: (usize, usize),
) -> Result<Sample, String> {
    let ours = |work: &Work| End::backend(work, cpus.1, socket).map(Side::Ours);
    let theirs =
        |device, cpu| Testpmd::start(device, work, (method.forward, method.cycles), cpu, socket).map(Side::Theirs);
    let mut backend = match pairing {
        Pairing::Vhost(_, Maker::Ironring) | Pairing::Trusting(Maker::Ironring) => ours(work)?,
        Pairing::Vhost(_, Maker::Dpdk) | Pairing::Trusting(Maker::Dpdk) => theirs(Device::Vhost, cpus.1)?,
        Pairing::Memif => theirs(Device::MemifServer, cpus.1)?,
    };
    let mut driver = match pairing {
        Pairing::Vhost(Maker::Ironring, _) => End::driver(work, Trust::Hardened, cpus.0, socket).map(Side::Ours)?,
        Pairing::Trusting(_) => End::driver(work, Trust::Trusting, cpus.0, socket).map(Side::Ours)?,
        Pairing::Vhost(Maker::Dpdk, _) => theirs(Device::VirtioUser(method.path), cpus.0)?,
        Pairing::Memif => theirs(Device::MemifClient, cpus.0)?,
    };
    if let (Side::Theirs(testpmd), Direction::Loop | Direction::Latency) = (&mut driver, work.dir) {
        // The other end has to be ready for them.
        pass(WARM_UP);
        testpmd.send_first(work);
    }
    pass(WARM_UP);
    let receiver = if work.dir == Direction::Tx { &mut backend } else { &mut driver };
    let rate = match receiver {
        Side::Ours(end) => end.rate(method.window),
        Side::Theirs(testpmd) => testpmd.rate(method.window),
    }?;
    let driver = finish(driver, work.dir == Direction::Tx)?;
    let backend = finish(backend, work.dir == Direction::Rx)?;
    agree(work, driver.frames, backend.frames)?;
    Ok(Sample { rate, percentiles: driver.percentiles, cycles: [driver.cycles, backend.cycles] })
}

/// What an end said last.
struct Finished {
    /// Sent or received.
    frames: u64,
    percentiles: Option<[u64; 3]>,
    cycles: Option<Cycles>,
}

/// Ends one end.
fn finish(side: Side, sends: bool) -> Result<Finished, String> {
    match side {
        Side::Ours(mut end) => {
            let (frames, percentiles) = end.finish()?;
            Ok(Finished { frames, percentiles, cycles: None })
        }
        Side::Theirs(mut testpmd) => {
            let ([received, sent], cycles) = testpmd.finish()?;
            Ok(Finished { frames: if sends { sent } else { received }, percentiles: None, cycles })
        }
    }
}

/// Whether both ends counted the same, within what may have been on its way when they were asked.
fn agree(work: &Work, at_driver: u64, at_backend: u64) -> Result<(), String> {
    // What is in the ring, a burst that is being worked on at either end, and what testpmd keeps back to send.
    let slack = 2 * u64::from(work.ring_size) + 4 * u64::from(work.burst.max(64));
    if at_driver.abs_diff(at_backend) <= slack && at_driver > 0 {
        return Ok(());
    }
    Err(format!(
        "the driver counted {at_driver} frames and the backend {at_backend}: frames were lost, or counted twice"
    ))
}

/// Lets time pass in which others work.
#[expect(clippy::disallowed_methods, reason = "a measurement takes its time; there is no event that ends it")]
pub(super) fn pass(time: Duration) {
    std::thread::sleep(time);
}

/// Before the window.
const WARM_UP: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use super::super::work::{Api, Completions, Size};
    use super::*;
    use ironring_driver::queue::RingLayout;

    #[test]
    fn counts_agree_within_what_is_on_its_way() {
        let work = Work {
            layout: RingLayout::Split,
            dir: Direction::Tx,
            size: Size::Bytes(64),
            ring_size: 256,
            burst: 32,
            in_order: false,
            api: Api::Copy,
            completions: Completions::InOrder,
            hugepages: false,
            queues: 1,
            idle_queues: 0,
        };
        assert!(agree(&work, 1_000_000, 1_000_256).is_ok());
        assert!(agree(&work, 1_000_000, 1_002_000).is_err());
        assert!(agree(&work, 0, 0).is_err(), "nothing was measured");
    }
}
