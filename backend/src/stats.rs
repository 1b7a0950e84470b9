//! Counters of the data plane, shared with the control plane.
//!
//! One worker writes, anyone reads: relaxed atomics, no lock. What is counted for every frame is added up in a private
//! [`Tally`] and stored once per burst; what is rare (drops, faults, kicks) is counted where it happens. A reader may see
//! counters of one burst apart by that burst, never a torn one. Counters of different queues lie on different lines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::port::PortStats;
use crate::vring::RingFault;

/// Why a packet was dropped. Each reason is a packet fault: it concerns one packet, and the ring goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// From the guest: no room for a network header and an Ethernet header.
    TxShort,
    /// From the guest: longer than any frame.
    TxLong,
    /// From the guest: the header asks for an offload that was not negotiated.
    TxOffload,
    /// From the guest: the ring is disabled, so what it carries is discarded.
    TxDisabled,
    /// To the guest: the chain at hand has less room than the frame needs.
    RxSmallBuffer,
}

impl DropReason {
    /// Every reason, in the order of the counters.
    pub const ALL: [Self; 5] = [Self::TxShort, Self::TxLong, Self::TxOffload, Self::TxDisabled, Self::RxSmallBuffer];

    /// The name under which it is counted.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TxShort => "tx-short",
            Self::TxLong => "tx-long",
            Self::TxOffload => "tx-offload",
            Self::TxDisabled => "tx-disabled",
            Self::RxSmallBuffer => "rx-small-buffer",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::TxShort => 0,
            Self::TxLong => 1,
            Self::TxOffload => 2,
            Self::TxDisabled => 3,
            Self::RxSmallBuffer => 4,
        }
    }
}

/// The counters of one worker: its queues and its port.
#[derive(Debug)]
pub struct Stats {
    first_queue: usize,
    /// From a queue to the same one of the next pair.
    stride: usize,
    queues: Box<[QueueStats]>,
    port: PortCounters,
}

impl Stats {
    /// Counters for `queues` queues, of which the first is number `first_queue` of the device.
    #[must_use]
    pub fn new(first_queue: usize, queues: usize) -> Self {
        Self::numbered(first_queue, 2, queues)
    }

    /// Counters for one of `workers` workers over which a device's `pairs` queue pairs are spread in turn: worker i has the
    /// pairs i, i + `workers`, and so on.
    #[must_use]
    pub fn of_worker(worker: usize, workers: usize, pairs: usize) -> Self {
        let own = pairs.saturating_sub(worker).div_ceil(workers.max(1));
        Self::numbered(worker.saturating_mul(2), workers.saturating_mul(2), own.saturating_mul(2))
    }

    fn numbered(first_queue: usize, stride: usize, queues: usize) -> Self {
        Self {
            first_queue,
            stride,
            queues: (0..queues).map(|_| QueueStats::default()).collect(),
            port: PortCounters::default(),
        }
    }

    /// Number in the device of a ring of the worker.
    #[must_use]
    pub const fn number(&self, ring: usize) -> usize {
        let pair = (ring / 2).saturating_mul(self.stride);
        self.first_queue.saturating_add(pair).saturating_add(ring % 2)
    }

    /// Queue pairs of the worker.
    #[must_use]
    pub const fn pairs(&self) -> usize {
        self.queues.len() / 2
    }

    /// The counters of a ring of the worker, counted from 0.
    #[must_use]
    pub fn queue(&self, ring: usize) -> Option<&QueueStats> {
        self.queues.get(ring)
    }

    /// All counters as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            queues: self.queues.iter().enumerate().map(|(ring, stats)| stats.snapshot(self.number(ring))).collect(),
            port: self.port.snapshot(),
        }
    }

    pub(crate) fn store_port(&self, stats: &PortStats) {
        self.port.store(stats);
    }
}

/// The counters of all workers of a device.
#[derive(Clone, Debug)]
pub struct DeviceStats(Arc<[Arc<Stats>]>);

impl DeviceStats {
    /// Counters of `workers` workers over which `pairs` queue pairs are spread; see [`Stats::of_worker`].
    #[must_use]
    pub fn new(workers: usize, pairs: usize) -> Self {
        Self((0..workers).map(|worker| Arc::new(Stats::of_worker(worker, workers, pairs))).collect())
    }

    /// The counters of each worker.
    pub fn workers(&self) -> impl Iterator<Item = &Arc<Stats>> {
        self.0.iter()
    }

    /// All counters as they are now, the queues in the order of their numbers, and the ports of all workers together.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut whole = Snapshot { queues: Vec::new(), port: PortStats::default() };
        for Snapshot { queues, port } in self.0.iter().map(|stats| stats.snapshot()) {
            whole.queues.extend(queues);
            whole.port.add(&port);
        }
        whole.queues.sort_by_key(|queue| queue.queue);
        whole
    }
}

/// The counters of one queue.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct QueueStats {
    frames: AtomicU64,
    bytes: AtomicU64,
    used_entries: AtomicU64,
    calls: AtomicU64,
    calls_suppressed: AtomicU64,
    kicks_received: AtomicU64,
    kicks_suppressed: AtomicU64,
    full: AtomicU64,
    /// A [`QueueState`] by its [`code`](QueueState::code).
    state: AtomicU8,
    drops: [AtomicU64; DropReason::ALL.len()],
    faults: [AtomicU64; RingFault::CLASSES.len()],
}

impl QueueStats {
    /// Stores what a worker has added up; once per burst.
    pub(crate) fn store(&self, tally: &Tally) {
        self.frames.store(tally.frames, Ordering::Relaxed);
        self.bytes.store(tally.bytes, Ordering::Relaxed);
        self.used_entries.store(tally.used_entries, Ordering::Relaxed);
        self.calls.store(tally.calls, Ordering::Relaxed);
        self.calls_suppressed.store(tally.calls_suppressed, Ordering::Relaxed);
        self.kicks_suppressed.store(tally.kicks_suppressed, Ordering::Relaxed);
        self.full.store(tally.full, Ordering::Relaxed);
        for (shared, count) in self.drops.iter().zip(tally.drops) {
            shared.store(count, Ordering::Relaxed);
        }
    }

    /// Counts a kick that was taken from the doorbell.
    pub(crate) fn count_kick(&self) {
        self.kicks_received.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a fault and returns how many of its class there were, with this one.
    pub(crate) fn count_fault(&self, fault: &RingFault) -> u64 {
        self.faults.get(fault.class_index()).map_or(0, |count| count.fetch_add(1, Ordering::Relaxed).saturating_add(1))
    }

    /// Takes note of what the queue does from now on.
    pub(crate) fn set_state(&self, state: QueueState) {
        self.state.store(state.code(), Ordering::Relaxed);
    }

    fn snapshot(&self, queue: usize) -> QueueSnapshot {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        QueueSnapshot {
            queue,
            state: QueueState::from_code(self.state.load(Ordering::Relaxed)),
            frames: load(&self.frames),
            bytes: load(&self.bytes),
            used_entries: load(&self.used_entries),
            kicks_received: load(&self.kicks_received),
            kicks_suppressed: load(&self.kicks_suppressed),
            calls: load(&self.calls),
            calls_suppressed: load(&self.calls_suppressed),
            full: load(&self.full),
            drops: DropReason::ALL.iter().map(|reason| reason.name()).zip(self.drops.iter().map(load)).collect(),
            faults: RingFault::CLASSES.into_iter().zip(self.faults.iter().map(load)).collect(),
        }
    }
}

/// What a worker adds up privately for one queue since the queue was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames that were passed on.
    pub frames: u64,
    /// Their bytes, without network headers.
    pub bytes: u64,
    /// Used elements, or slots, that were written, for dropped packets too; with in-order use one may stand for many chains.
    pub used_entries: u64,
    /// Calls made.
    pub calls: u64,
    /// How often the driver was asked, after up to eight bursts, and wanted no call, or had given no eventfd for it.
    pub calls_suppressed: u64,
    /// Looks that found new chains which the driver had been asked not to kick for.
    pub kicks_suppressed: u64,
    /// Bursts that ended because the other side had no room.
    pub full: u64,
    drops: [u64; DropReason::ALL.len()],
}

impl Tally {
    /// Counts a frame of `bytes` bytes that was passed on.
    #[inline]
    pub(crate) fn frame(&mut self, bytes: usize) {
        self.frames = self.frames.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Counts `frames` frames of `bytes` bytes together.
    #[inline]
    pub(crate) fn all_frames(&mut self, frames: u16, bytes: usize) {
        self.frames = self.frames.wrapping_add(u64::from(frames));
        self.bytes = self.bytes.wrapping_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    /// Counts a packet that was dropped.
    #[cold]
    pub(crate) fn drop_packet(&mut self, reason: DropReason) {
        if let Some(count) = self.drops.get_mut(reason.index()) {
            *count = count.wrapping_add(1);
        }
    }

    /// How many packets were dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.get(reason.index()).copied().unwrap_or(0)
    }
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct PortCounters {
    taken_frames: AtomicU64,
    taken_bytes: AtomicU64,
    given_frames: AtomicU64,
    given_bytes: AtomicU64,
    lost: AtomicU64,
    checksum: AtomicU64,
}

impl PortCounters {
    fn store(&self, stats: &PortStats) {
        self.taken_frames.store(stats.taken_frames, Ordering::Relaxed);
        self.taken_bytes.store(stats.taken_bytes, Ordering::Relaxed);
        self.given_frames.store(stats.given_frames, Ordering::Relaxed);
        self.given_bytes.store(stats.given_bytes, Ordering::Relaxed);
        self.lost.store(stats.lost, Ordering::Relaxed);
        self.checksum.store(stats.checksum, Ordering::Relaxed);
    }

    fn snapshot(&self) -> PortStats {
        PortStats {
            taken_frames: self.taken_frames.load(Ordering::Relaxed),
            taken_bytes: self.taken_bytes.load(Ordering::Relaxed),
            given_frames: self.given_frames.load(Ordering::Relaxed),
            given_bytes: self.given_bytes.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            checksum: self.checksum.load(Ordering::Relaxed),
        }
    }
}

/// All counters of a worker at one time.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Snapshot {
    /// One entry per queue.
    pub queues: Vec<QueueSnapshot>,
    /// The port.
    pub port: PortStats,
}

/// The counters of one queue at one time.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct QueueSnapshot {
    /// Number of the queue in the device.
    pub queue: usize,
    /// What the queue does, as `state`, and, if it is broken, the class of its fault as `fault`.
    #[serde(flatten)]
    pub state: QueueState,
    /// Frames that were passed on.
    pub frames: u64,
    /// Their bytes, without network headers.
    pub bytes: u64,
    /// Used elements, or slots, that were written, for dropped packets too; with in-order use one may stand for many chains.
    pub used_entries: u64,
    /// Kicks that were taken from the doorbell; a kick may stand for several.
    pub kicks_received: u64,
    /// Looks at the ring that found new chains, all of them added while the driver was asked not to kick: each saved it
    /// one kick or more. A receive ring is looked at when there is a frame for the guest.
    pub kicks_suppressed: u64,
    /// Calls made.
    pub calls: u64,
    /// How often the driver was asked, after up to eight bursts, and wanted no call, or had given no eventfd for it.
    pub calls_suppressed: u64,
    /// How often the other side had no room. Transmit queue: the port took no more and frames stayed on the ring; receive
    /// queue: the port had a frame and the guest had too few buffers for it. Counted when it begins, and again only after
    /// progress, however often the worker looks meanwhile.
    pub full: u64,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Ring faults, by class.
    pub faults: BTreeMap<&'static str, u64>,
}

/// What a queue does, and so why it does not run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum QueueState {
    /// The front-end has not described or not started it, or has stopped it.
    #[default]
    Stopped,
    /// It runs, but the front-end lets no frames pass.
    Disabled,
    /// It runs.
    Running,
    /// It is latched by a fault until it is stopped.
    Broken {
        /// The class of the fault.
        fault: &'static str,
    },
}

impl QueueState {
    /// Its name, without the fault.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Disabled => "disabled",
            Self::Running => "running",
            Self::Broken { .. } => "broken",
        }
    }

    /// As a number: the place of the class is added to that of a broken queue.
    fn code(self) -> u8 {
        match self {
            Self::Stopped => 0,
            Self::Disabled => 1,
            Self::Running => 2,
            Self::Broken { fault } => {
                let class = RingFault::CLASSES.iter().position(|class| *class == fault);
                class.and_then(|class| u8::try_from(class).ok()).map_or(u8::MAX, |class| BROKEN.saturating_add(class))
            }
        }
    }

    fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Stopped,
            1 => Self::Disabled,
            2 => Self::Running,
            class => {
                let class = usize::from(class.saturating_sub(BROKEN));
                Self::Broken { fault: RingFault::CLASSES.get(class).copied().unwrap_or("unknown") }
            }
        }
    }
}

/// The code of the first class of a broken queue.
const BROKEN: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let broken = RingFault::CLASSES.map(|fault| QueueState::Broken { fault });
        let stats = Stats::new(0, 1);
        for state in [QueueState::Stopped, QueueState::Disabled, QueueState::Running].into_iter().chain(broken) {
            stats.queue(0).unwrap().set_state(state);
            assert_eq!(stats.snapshot().queues[0].state, state);
        }
        let json = serde_json::to_value(stats.snapshot()).unwrap();
        assert_eq!(json["queues"][0]["state"], "broken");
        assert_eq!(json["queues"][0]["fault"], "stale-base");
        stats.queue(0).unwrap().set_state(QueueState::Disabled);
        let json = serde_json::to_value(stats.snapshot()).unwrap();
        assert_eq!((&json["queues"][0]["state"], json["queues"][0].get("fault")), (&"disabled".into(), None));
    }

    #[test]
    fn the_pairs_of_a_device_are_each_counted_by_one_worker() {
        for (workers, pairs) in [(1, 1), (1, 64), (2, 2), (2, 3), (3, 8), (64, 64)] {
            let stats = DeviceStats::new(workers, pairs);
            for (worker, of) in stats.workers().enumerate() {
                for ring in 0..2 * of.pairs() {
                    assert_eq!(of.number(ring) / 2 % workers, worker);
                    let bytes = of.number(ring);
                    let mut tally = Tally::default();
                    tally.frame(bytes);
                    of.queue(ring).unwrap().store(&tally);
                }
            }
            let rows: Vec<_> = stats.snapshot().queues.iter().map(|queue| (queue.queue, queue.bytes)).collect();
            assert_eq!(rows, (0..2 * pairs).map(|queue| (queue, queue as u64)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn ports_of_several_workers_are_one_port_in_the_figures() {
        let stats = DeviceStats::new(2, 2);
        for of in stats.workers() {
            of.store_port(&PortStats {
                taken_frames: 3,
                taken_bytes: 180,
                given_frames: 1,
                given_bytes: 60,
                lost: 2,
                checksum: 7,
            });
        }
        let sum =
            PortStats { taken_frames: 6, taken_bytes: 360, given_frames: 2, given_bytes: 120, lost: 4, checksum: 14 };
        assert_eq!(stats.snapshot().port, sum);
    }

    #[test]
    fn every_reason_has_a_counter_and_a_name_of_its_own() {
        let mut tally = Tally::default();
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), at);
            for _ in 0..=at {
                tally.drop_packet(reason);
            }
        }
        let stats = Stats::new(2, 1);
        stats.queue(0).unwrap().store(&tally);
        let snapshot = stats.snapshot();
        let [queue] = &snapshot.queues[..] else { panic!("one queue") };
        assert_eq!(queue.queue, 2);
        assert_eq!(queue.drops.len(), DropReason::ALL.len());
        for (at, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(queue.drops[reason.name()], at as u64 + 1);
        }
    }

    #[test]
    fn faults_are_counted_by_class() {
        let stats = Stats::new(0, 2);
        let fault = RingFault::ChainTooLong { queue: 1, head: 0, bound: 8 };
        assert_eq!(stats.queue(1).unwrap().count_fault(&fault), 1);
        assert_eq!(stats.queue(1).unwrap().count_fault(&fault), 2);
        let json = serde_json::to_value(stats.snapshot()).unwrap();
        assert_eq!(json["queues"][1]["faults"]["chain-too-long"], 2);
        assert_eq!(json["queues"][0]["faults"]["chain-too-long"], 0);
    }
}
