//! One run: honest traffic, the attack, honest traffic again, and what the watchers saw.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ironring_backend::hostile::{Engine, Plan, RaceTurns, Rng, Strikes};
use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::{Mapping, Memfd};
use ironring_common::shm::table::RegionTable;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::Header;
use ironring_driver::mapper::bounce::PrivateBuffer;
use ironring_driver::net::is_plain;
use ironring_driver::queue::violation::Violation;

use super::device::{Device, PATTERN};
use super::layout::Offsets;
use super::memory::{self, BUFFER_MAX, Finding, Slots};
use super::victim::{End, RingKind, Victim};
use crate::config::RingConfig;
use crate::trusting;
use crate::verdict::may_stop_the_device;

/// What became of one run.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How often the attack struck. A run without a strike proves nothing.
    pub strikes: u64,
    /// What watchers saw. On the hardened ring: nothing.
    pub findings: Vec<Finding>,
    /// What the hardened ring latched first.
    pub violation: Option<Violation>,
    /// Completions that the reader dropped because they were too short for a header.
    pub dropped: u64,
    /// Requests that came back.
    pub completed: u64,
    /// Chains that the hardened ring took back because a buffer behind the first could not be mapped.
    pub unwound: u64,
    /// What each queue did: a ring that falls for nothing on one queue has proven nothing about the other.
    pub queues: Vec<QueueOutcome>,
}

/// What one queue of a run did.
#[derive(Clone, Debug, Default)]
pub struct QueueOutcome {
    /// How often it was struck.
    pub strikes: u64,
    /// What the hardened ring latched.
    pub violation: Option<Violation>,
    /// Completions that the reader dropped because they were too short for a header.
    pub dropped: u64,
}

/// Runs an attack against a ring of a configuration on queue 0 and on queue 1 of the model, and merges what was seen.
///
/// # Errors
/// If the model itself cannot be set up.
pub fn run(
    plan: &Plan,
    kind: RingKind,
    config: RingConfig,
    limit: Duration,
) -> Result<Outcome, Box<dyn std::error::Error>> {
    let mut merged = Outcome::default();
    for queue in [0u16, 1] {
        let aimed = plan.clone().aimed_at(usize::from(queue));
        let outcome = Model::new(&aimed, kind, config, queue)?.run(limit);
        merged.strikes += outcome.strikes;
        merged.findings.extend(outcome.findings);
        merged.violation = merged.violation.or(outcome.violation);
        merged.dropped += outcome.dropped;
        merged.completed += outcome.completed;
        merged.unwound += outcome.unwound;
        let Outcome { strikes, violation, dropped, .. } = outcome;
        merged.queues.push(QueueOutcome { strikes, violation, dropped });
    }
    Ok(merged)
}

/// A chain that is out.
#[derive(Debug)]
struct Request {
    readable: Vec<PrivateBuffer>,
    writable: Vec<PrivateBuffer>,
}

struct Model {
    kind: RingKind,
    /// Whether the attack may leave the device itself unable to serve.
    stops: bool,
    /// Gives the attack its turns, if it races.
    turns: Option<RaceTurns>,
    /// Whether to go on until the time is up: a race against the trusting ring is won sooner or later.
    patient: bool,
    victim: Victim,
    device: Device,
    engine: Engine,
    strikes: Strikes,
    pool: Area,
    slots: Slots,
    /// What private memory must be.
    twin: Vec<u8>,
    out: HashMap<u64, Request>,
    next_token: u64,
    outcome: Outcome,
}

impl Model {
    fn new(plan: &Plan, kind: RingKind, config: RingConfig, queue: u16) -> Result<Self, Box<dyn std::error::Error>> {
        let size = QueueSize::split(RING)?;
        let offsets = Offsets::of(config.layout, size, POOL_BLOCKS);
        let memfd = Memfd::create("ironring-model", offsets.len())?;
        let base = base_of(plan.seed());
        // The driver's mapping and the device's are two, as between processes.
        let (ours, theirs) = (Mapping::of(&memfd)?, Mapping::of(&memfd)?);
        let (shared, device_shared) = (offsets.cut(&ours, base)?, offsets.cut(&theirs, base)?);
        let table = RegionTable::of_mappings([(base, theirs)])?;
        let engine = Engine::new(plan);
        let strikes = engine.strikes();
        let turns = engine.turns();
        Ok(Self {
            kind,
            stops: plan.attacks().iter().any(|attack| may_stop_the_device(attack)),
            patient: kind == RingKind::Trusting && turns.is_some(),
            victim: Victim::new(kind, queue, size, config, &shared, memory::fresh(), turns.clone())?,
            device: Device::new(usize::from(queue), size, config, &device_shared, table, 3)?,
            engine,
            turns,
            strikes,
            pool: shared.pool,
            slots: Slots::new(),
            twin: memory::fresh(),
            out: HashMap::new(),
            next_token: 1,
            outcome: Outcome::default(),
        })
    }

    fn run(mut self, limit: Duration) -> Outcome {
        self.device.start(&mut self.engine);
        // A driver may look before it has posted anything.
        if self.take_all().is_err() {
            self.outcome.strikes = self.strikes.count();
            return self.outcome;
        }
        let clock = Clock::start();
        for round in 0..ROUNDS {
            let strikes = self.strikes.count();
            let enough = round >= ROUNDS_MIN && strikes >= STRIKES_ENOUGH && !self.patient;
            let raced = self.turns.is_none() || self.engine.races() >= RACES_IDLE;
            let pointless = round >= ROUNDS_IDLE && strikes == 0 && raced;
            if enough || pointless || clock.is_over(limit) || self.round(round).is_err() {
                break;
            }
        }
        self.strikes.disarm();
        if self.outcome.violation.is_none() && self.outcome.findings.is_empty() && !self.stops {
            self.drain();
        }
        self.device.stop(&mut self.engine);
        self.last_look();
        self.outcome.strikes = self.strikes.count();
        self.outcome.unwound = self.victim.unwound();
        self.outcome
    }

    /// Posts what fits, lets the device serve a burst, takes what came back. Now and then nothing is posted for a while,
    /// until everything is back.
    fn round(&mut self, round: u32) -> Result<(), Stop> {
        if !(2..6).contains(&(round % 16)) {
            self.post()?;
        }
        self.serve()?;
        self.take_all()
    }

    fn post(&mut self) -> Result<(), Stop> {
        while self.out.len() < IN_FLIGHT {
            let (reads, writes) = SHAPES[usize::try_from(self.next_token).unwrap_or(0) % SHAPES.len()];
            if self.slots.available() < reads + writes {
                break;
            }
            let len = 40 + u32::try_from(self.next_token * 37 % u64::from(BUFFER_MAX - 40)).unwrap_or(0);
            let mut cut = |count: usize| (0..count).filter_map(|_| self.slots.take(len)).collect::<Vec<_>>();
            let request = Request { readable: cut(reads), writable: cut(writes) };
            self.fill(&request);
            let token = self.next_token;
            let added = self.victim.add(&request.readable, &request.writable, token);
            if !added.map_err(|end| self.ended(end))? {
                // The trusting ring bounces a chain that it takes back as if it had been served: its own buffers change.
                let own = if self.kind == RingKind::Trusting { &request.writable[..] } else { &[] };
                self.check_private(own)?;
                self.take_back(request);
                break;
            }
            self.out.insert(token, request);
            self.next_token += 1;
        }
        self.victim.publish().map_err(|end| self.ended(end))?;
        self.check_private(&[])
    }

    /// Writes the contents of a new request into private memory and its twin.
    fn fill(&mut self, request: &Request) {
        let token = self.next_token;
        for bytes in [self.victim.mapper().private_mut(), &mut self.twin[..]] {
            for buffer in &request.readable {
                memory::fill_readable(&mut bytes[memory::range(*buffer)], token);
            }
            for buffer in &request.writable {
                memory::fill_writable(&mut bytes[memory::range(*buffer)]);
            }
        }
    }

    fn serve(&mut self) -> Result<(), Stop> {
        match self.device.step(&mut self.engine) {
            Ok(_) => Ok(()),
            // A device that scribbles over what it reads has itself to blame; otherwise the driver posted garbage.
            Err(_) if self.stops => Err(Stop),
            Err(fault) => Err(self.found(Finding::GarbagePosted { fault: fault.to_string() })),
        }
    }

    fn take_all(&mut self) -> Result<(), Stop> {
        for _ in 0..=RING {
            self.lose_the_cpu();
            let in_place = self.read_in_place();
            let Some((token, written)) = self.victim.take().map_err(|end| self.ended(end))? else {
                return Ok(());
            };
            in_place.map_or(Ok(()), |finding| Err(self.found(finding)))?;
            let Some(request) = self.out.remove(&token) else {
                return Err(self.found(Finding::WrongToken { token }));
            };
            self.check_private(&self.delivered(&request, written))?;
            self.read(&request, written)?;
            self.outcome.completed += 1;
            self.take_back(request);
        }
        // More completions than the ring has entries: a driver that believes the index would go on for ever.
        Err(self.found(Finding::Stumbled { how: "it took more completions than there are descriptors".into() }))
    }

    /// Where the device's bytes may have gone to. The ring that trusts unmaps all of a buffer, whatever the device has written.
    fn delivered(&self, request: &Request, written: u32) -> Vec<PrivateBuffer> {
        let mut left = if self.kind == RingKind::Trusting { u32::MAX } else { written };
        let mut part = |buffer: &PrivateBuffer| {
            let len = buffer.len.min(left);
            left -= len;
            PrivateBuffer { len, ..*buffer }
        };
        request.writable.iter().map(&mut part).collect()
    }

    /// What a reader that parses in shared memory does: check a length, load it again, use it.
    fn read_in_place(&self) -> Option<Finding> {
        let addr = self.victim.peek_writable()?;
        let fits = |len: u16| u32::from(len) <= BUFFER_MAX;
        for _ in 0..READS {
            if !fits(self.device.inner_length(addr)?) {
                // A reader would drop the frame here; the next one comes.
                self.lose_the_cpu();
                continue;
            }
            // The other work that a reader does between the check and the use, in which it may lose the CPU.
            let mut used = self.device.inner_length(addr)?;
            for read in 1..READS {
                if read % READS_AT_ONCE == 0 {
                    self.lose_the_cpu();
                }
                used = used.max(self.device.inner_length(addr)?);
            }
            let what = "a length in a frame changed between check and use";
            return (!fits(used)).then_some(Finding::Disclosed { what });
        }
        None
    }

    /// Where a driver may lose the CPU: an attack that races has a turn, and its thread more of them.
    fn lose_the_cpu(&self) {
        if let Some(turns) = &self.turns {
            turns.take();
            std::thread::yield_now();
        }
    }

    /// The network layer above the ring. The hardened one drops what cannot hold headers; the trusting one subtracts.
    fn read(&mut self, request: &Request, written: u32) -> Result<(), Stop> {
        let Some(first) = request.writable.first().copied() else { return Ok(()) };
        let posted: u32 = request.writable.iter().map(|buffer| buffer.len).sum();
        match self.kind {
            RingKind::Hardened => {
                if written > posted {
                    return Err(
                        self.found(Finding::Disclosed { what: "a length beyond the posted bytes came through" })
                    );
                }
                if written < HEADERS {
                    self.outcome.dropped += 1;
                    return Ok(());
                }
                let read = usize::try_from(written.min(first.len)).unwrap_or(0);
                let bytes = &self.victim.mapper().private()[first.offset..first.offset + read];
                let tail = &bytes[bytes.len().saturating_sub(16)..];
                if memory::is_secret(&bytes[..bytes.len().min(16)])
                    || memory::is_secret(tail)
                    || memory::is_of_another(tail)
                {
                    return Err(self.found(Finding::Disclosed { what: "bytes of an earlier owner were delivered" }));
                }
                let header = bytes.first_chunk().map(|header| Header::from_bytes(*header));
                self.outcome.dropped += u64::from(!header.is_some_and(is_plain));
            }
            RingKind::Trusting => {
                // Headers first, whatever the length says.
                let bytes = &self.victim.mapper().private()[memory::range(first)];
                if written < HEADERS && (memory::is_secret(&bytes[..16]) || bytes[0] == PATTERN) {
                    let what = "it parsed a header that was not written";
                    return Err(self.found(Finding::Disclosed { what }));
                }
                if memory::is_of_another(&bytes[..16]) {
                    let what = "what another request had left in the pool was delivered";
                    return Err(self.found(Finding::Disclosed { what }));
                }
                if written.wrapping_sub(12) > posted {
                    return Err(self.found(Finding::Disclosed { what: "the payload length ran past the buffer" }));
                }
                if written > posted {
                    return Err(self.found(Finding::Disclosed { what: "the reader reads past what was posted" }));
                }
                let read = usize::try_from(written.min(first.len)).unwrap_or(0);
                let tail = &bytes[read.saturating_sub(16)..read];
                if memory::is_secret(tail) || memory::is_of_another(tail) {
                    return Err(self.found(Finding::Disclosed { what: "bytes of an earlier owner were delivered" }));
                }
                let received = trusting::net::receive(&bytes[..read], usize::try_from(written).unwrap_or(0));
                received.map_err(|bite| self.ended(End::Bite(bite)))?;
            }
        }
        Ok(())
    }

    /// Compares all of private memory with its twin; only `allowed` may differ, and then the twin follows.
    fn check_private(&mut self, allowed: &[PrivateBuffer]) -> Result<(), Stop> {
        let now = self.victim.mapper().private();
        if let Some(offset) = memory::first_change(now, &self.twin, allowed) {
            return Err(self.found(Finding::CanaryOverwritten { offset }));
        }
        for buffer in allowed {
            let range = memory::range(*buffer);
            let now = self.victim.mapper().private();
            self.twin[range.clone()].copy_from_slice(&now[range]);
        }
        Ok(())
    }

    /// Honest traffic until everything is back.
    fn drain(&mut self) {
        for _ in 0..DRAIN_ROUNDS {
            if self.out.is_empty() {
                return;
            }
            if self.serve().is_err() || self.take_all().is_err() {
                return;
            }
        }
        let requests = self.out.len();
        self.outcome.findings.push(Finding::Lost { requests });
    }

    /// After the end: nothing mapped that is not out, nothing private in shared memory.
    fn last_look(&mut self) {
        if self.outcome.violation.is_none() && self.out.is_empty() {
            let blocks = self.victim.mapper().blocks() - self.victim.mapper().free_blocks();
            if blocks > 0 {
                self.outcome.findings.push(Finding::Leaked { blocks });
            }
        }
        if !self.victim.is_conserved(RING) {
            self.outcome.findings.push(Finding::Stumbled { how: "descriptors are not all free or lent".into() });
        }
        let mut shared = vec![0; self.pool.len()];
        self.pool.copy_out(0, &mut shared);
        if memory::shows_private(&shared) {
            self.outcome.findings.push(Finding::SecretShared);
        }
    }

    fn take_back(&mut self, request: Request) {
        for buffer in request.readable.into_iter().chain(request.writable) {
            self.slots.give_back(buffer);
        }
    }

    fn found(&mut self, finding: Finding) -> Stop {
        self.outcome.findings.push(finding);
        Stop
    }

    fn ended(&mut self, end: End) -> Stop {
        match end {
            End::Violation(violation) => self.outcome.violation = Some(violation),
            End::Bite(bite) => self.outcome.findings.push(Finding::Stumbled { how: bite.to_string() }),
        }
        Stop
    }
}

/// Where the device finds the memory of the model: pages somewhere between 4 GiB and 64 TiB, other ones for each seed.
fn base_of(seed: u64) -> GuestAddr {
    let page = Rng::fork(seed, "base").between(1 << 20, 1 << 34);
    GuestAddr(page << 12)
}

/// The time of a run: what this thread has had of a CPU, so that a busy machine does not cut a run short, but at most
/// [`STRETCH`] times as much by the clock on the wall.
struct Clock {
    began: Instant,
    had: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { began: Instant::now(), had: Self::had() }
    }

    fn is_over(&self, limit: Duration) -> bool {
        Self::had().saturating_sub(self.had) > limit || self.began.elapsed() > limit * STRETCH
    }

    fn had() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(time).unwrap_or_default()
    }
}

/// The run is over; the outcome says why.
#[derive(Debug)]
struct Stop;

/// Descriptors of the model's ring.
const RING: u16 = 32;
/// Chains that are out at a time.
const IN_FLIGHT: usize = 9;
/// Blocks of the pool: fewer than the chains want, so that mapping fails half-way (a test).
const POOL_BLOCKS: usize = 24;
/// Net header and Ethernet header.
const HEADERS: u32 = 26;
/// How much longer than its limit a run takes on a busy machine, at most. With six programs to a CPU three times was too near:
/// a race had some nine bursts, and was not won.
const STRETCH: u32 = 6;
/// Rounds of a run at most, and at least.
const ROUNDS: u32 = 200_000;
const ROUNDS_MIN: u32 = 200;
/// Rounds after which an attack that has not struck has nothing to strike on this queue.
const ROUNDS_IDLE: u32 = 2_000;
/// Turns that a racing attack has had by then.
const RACES_IDLE: u64 = 1_000;
/// Strikes after which a run that nothing came of ends.
const STRIKES_ENOUGH: u64 = 400;
const DRAIN_ROUNDS: u32 = 200;
/// Loads between check and use of a reader that parses in place.
const READS: usize = 48;
const READS_AT_ONCE: usize = 16;
/// Readable and writable buffers of chains, in turn.
const SHAPES: [(usize, usize); 8] = [(0, 1), (1, 0), (1, 1), (0, 2), (2, 1), (0, 1), (3, 0), (1, 2)];
