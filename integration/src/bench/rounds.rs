//! Rounds of samples: each pairing in turn, the first one twice, and what the machine can do beside them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::args::Question;
use super::cores::{CoreUse, Noted};
use super::limit;
use super::near::{self, Apart};
use super::result::{BenchReport, Config, Forward, Nearness, Samples, Versus};
use super::sample::{self, Method, Sample};
use super::sums::{Ratio, Spread};
use super::testpmd::Path22;
use super::work::{Api, Completions, Direction, Maker, Pairing, Trust, Work};
use crate::console::which;
use crate::hugepages::HugePages;
use crate::machine;
use crate::output::{self, Failure};

/// Measures one thing, against another one if there is one.
///
/// # Errors
/// What is missing here, or went wrong.
pub(super) fn measure(
    question: &Question,
    seconds: u64,
    samples: u32,
    known: &mut Known,
) -> Result<BenchReport, Failure> {
    let Question { first, vs, work, forward, cycles, .. } = *question;
    let cpus = two_cpus()?;
    work.cpus(cpus).map_err(Failure::unable)?;
    let dpdk = question.pairings().any(Pairing::needs_dpdk);
    if dpdk {
        find_dpdk()?;
    }
    let pages = if dpdk { DPDK_PAGES } else { 0 } + if work.hugepages { pages_of(&work) } else { 0 };
    let _pages = (pages > 0).then(|| HugePages::reserve(pages)).transpose().map_err(Failure::unable)?;
    let window = Duration::from_secs(seconds);
    let first_path = known.path(first, question, window, cpus)?;
    let vs_path = vs.map(|vs| known.path(vs, question, window, cpus)).transpose()?.flatten();
    let method = |path: Option<Path22>| Method { window, path: path.unwrap_or(Path22::Vectorized), forward, cycles };
    let methods = (method(first_path), method(vs_path));
    let rounds = play(question, methods, cpus, samples, known)?;
    let loops = matches!(work.dir, Direction::Loop | Direction::Latency);
    let config = Config {
        pairing: first.name(),
        work,
        ring: if matches!(first, Pairing::Trusting(_)) { Trust::Trusting } else { Trust::Hardened },
        dpdk_path: first_path.or(vs_path),
        dpdk_forward: (dpdk && (loops || forward != Forward::Io)).then_some(forward),
        seconds,
        samples,
    };
    let mut report = report(rounds, config, vs);
    if let Some(versus) = &mut report.vs {
        versus.dpdk_path = vs_path;
    }
    let in_order = vs.filter(|vs| work.completions == Completions::Shuffled && vs.makers().1 == Maker::Dpdk);
    report.skipped.extend(in_order.map(|vs| format!("{} completes in order: only our backend shuffles", vs.name())));
    for warning in &report.warnings {
        output::note(&format!("ironring: {warning}"));
    }
    Ok(report)
}

/// One sample of everything.
struct Round {
    first: Sample,
    /// The first pairing once more, and the other one, if there is a comparison.
    again: Option<f64>,
    other: Option<f64>,
    limit: f64,
    /// What cores recorded of themselves: whose they are, and how much.
    cores: Vec<Noted>,
    /// How far apart the CPUs were, before, between and after the samples.
    apart: Apart,
}

/// Plays rounds until enough of them count, or it has been tried for long enough.
fn play(
    question: &Question,
    methods: (Method, Method),
    cpus: (usize, usize),
    samples: u32,
    known: &Known,
) -> Result<Vec<Round>, Failure> {
    let progress = output::progress("bench");
    let mut rounds: Vec<Round> = Vec::new();
    // Where all rounds count anyhow, none has to be played again.
    let most = if samples < near::ENOUGH { samples } else { samples.saturating_mul(TRIES) };
    for number in 0..most {
        rounds.push(play_one(question, methods, turned(cpus, number), number, known)?);
        let near = near::nearest(&apart(&rounds)) as u64;
        progress.frames(near, samples.into());
        if near >= samples.into() {
            break;
        }
    }
    progress.finish();
    Ok(rounds)
}

fn play_one(
    question: &Question,
    methods: (Method, Method),
    cpus: (usize, usize),
    number: u32,
    known: &Known,
) -> Result<Round, Failure> {
    let Question { first, vs, work, .. } = question;
    let mut pairings = vec![(*first, methods.0)];
    if let Some(vs) = vs {
        pairings.extend([(*vs, methods.1), (*first, methods.0)]);
    }
    // Who begins changes, so that nobody has always the warmer machine.
    let turn = usize::try_from(number).unwrap_or(0) % pairings.len();
    pairings.rotate_left(turn);
    let mut apart = Apart::default();
    let between = || {
        known.goes_on()?;
        apart.probe(cpus)
    };
    let mut samples = sample::take(&pairings, work, cpus, between).map_err(|sentence| known.failure(sentence))?;
    samples.rotate_right(turn);
    let limit = limit::best(cpus, work.size.lines(), LIMIT_WINDOW).map_err(Failure::unable)?;
    let mut cores = Vec::new();
    for (pairing, sample) in [Some(*first), *vs].into_iter().flatten().zip(&samples) {
        let ends = ["driver", "backend"].into_iter().zip(sample.cores);
        cores.extend(ends.filter_map(|(end, work)| Some((pairing.name(), end, work?))));
    }
    let rate = |at: usize| samples.get(at).map(|sample| sample.rate);
    let (other, again) = (rate(1), rate(2));
    let first = samples.first().copied().ok_or_else(|| Failure::broke("no sample was taken".to_owned()))?;
    Ok(Round { first, again, other, limit, cores, apart })
}

impl Round {
    /// Both samples of a round are of the same thing: their middle is surer than either.
    fn middle(&self) -> f64 {
        self.again.map_or(self.first.rate, |again| f64::midpoint(self.first.rate, again))
    }

    /// How many times as fast as the other pairing.
    fn ratio(&self) -> Option<f64> {
        self.other.map(|other| self.middle() / other.max(1.0))
    }
}

/// What the rounds that count come to.
fn report(rounds: Vec<Round>, config: Config, vs: Option<Pairing>) -> BenchReport {
    let chosen = near::choose(&apart(&rounds));
    let settled = chosen.is_some();
    let (mut near, mut apart) = (Vec::new(), Vec::new());
    for (round, counts) in rounds.into_iter().zip(chosen.into_iter().flatten().chain(std::iter::repeat(true))) {
        if counts { near.push(round) } else { apart.push(round) }
    }
    let first: Vec<f64> = near.iter().map(|round| round.first.rate).collect();
    let again: Vec<f64> = near.iter().filter_map(|round| round.again).collect();
    let other: Vec<f64> = near.iter().filter_map(|round| round.other).collect();
    let limit: Vec<f64> = near.iter().map(|round| round.limit).collect();
    let mpps = spread_of(&first.iter().chain(&again).copied().collect::<Vec<_>>());
    let ratio = |rounds: &[Round]| Ratio::of(&rounds.iter().filter_map(Round::ratio).collect::<Vec<_>>());
    let farthest = |rounds: &[Round]| Spread::of(&rounds.iter().map(|round| round.apart.middle()).collect::<Vec<_>>());
    let versus = vs.map(|vs| Versus { name: vs.name(), mpps: spread_of(&other), ratio: ratio(&near), dpdk_path: None });
    let noise: Vec<f64> =
        near.iter().filter_map(|round| round.again.map(|again| round.first.rate / again.max(1.0))).collect();
    let noise_floor = (!noise.is_empty()).then(|| Ratio::of(&noise));
    let shares: Vec<f64> = near.iter().map(|round| round.middle() / round.limit.max(1.0)).collect();
    let cores: Vec<Noted> = near.iter().flat_map(|round| &round.cores).copied().collect();
    let percentiles: Vec<[u64; 3]> = near.iter().filter_map(|round| round.first.percentiles).collect();
    let cpus = Nearness {
        ping_pong_ns: farthest(&near),
        left_out: apart.len(),
        apart_ns: (!apart.is_empty()).then(|| farthest(&apart)),
        apart_ratio: vs.filter(|_| !apart.is_empty()).map(|_| ratio(&apart)),
    };
    let named = [
        (config.pairing.to_owned(), first),
        ("again".to_owned(), again),
        (vs.map_or_else(String::new, |vs| vs.name().to_owned()), other),
        ("limit".to_owned(), limit),
    ];
    let samples = named.into_iter().filter(|(_, rates)| !rates.is_empty());
    // With few samples of a machine that stays as it is that need not be said.
    let moved = (!settled && !farthest(&near).is_narrow()).then(|| {
        "the two CPUs were never in the same place for long, and all rounds count; pin the CPUs of this virtual machine".to_owned()
    });
    let shared = config.work.share_cpus.then(|| {
        "the threads of each side share a CPU: what they did together says nothing about how fast they are".to_owned()
    });
    BenchReport {
        mpps,
        ns_per_packet: 1e3 / mpps.median.max(f64::MIN_POSITIVE),
        percentiles_ns: medians(&percentiles),
        vs: versus,
        noise_floor,
        cpus,
        limit_share: Ratio::of(&shares),
        dpdk_cores: CoreUse::medians(&cores, false),
        driver_cores: CoreUse::medians(&cores, true),
        samples: samples.map(|(name, rates)| Samples { name, mpps: in_millions(&rates) }).collect(),
        config,
        warnings: BenchReport::noise(noise_floor.as_ref()).into_iter().chain(moved).chain(shared).collect(),
        skipped: Vec::new(),
    }
}

fn apart(rounds: &[Round]) -> Vec<Apart> {
    rounds.iter().map(|round| round.apart.clone()).collect()
}

fn in_millions(rates: &[f64]) -> Vec<f64> {
    rates.iter().map(|rate| rate / 1e6).collect()
}

fn spread_of(rates: &[f64]) -> Spread {
    Spread::of(&in_millions(rates))
}

fn medians(samples: &[[u64; 3]]) -> Option<[u64; 3]> {
    let mut medians = [0; 3];
    for (at, median) in medians.iter_mut().enumerate() {
        let mut column: Vec<u64> = samples.iter().map(|sample| sample[at]).collect();
        column.sort_unstable();
        *median = *column.get(column.len() / 2)?;
    }
    Some(medians)
}

/// Driver and backend change places every other pair of rounds.
const fn turned(cpus: (usize, usize), round: u32) -> (usize, usize) {
    if round % 4 < 2 { cpus } else { (cpus.1, cpus.0) }
}

/// What earlier measurements of this run have found out about this machine.
#[derive(Debug)]
pub(super) struct Known {
    /// Which path of virtio-user is fastest at which work, as far as it was tried.
    paths: HashMap<(Pairing, String, Forward), Path22>,
    /// Set when somebody wants it to end.
    interrupted: Arc<AtomicBool>,
}

impl Known {
    /// Nothing yet. From now on a signal ends a measurement in order, with nothing left behind.
    pub(super) fn new() -> Self {
        Self { paths: HashMap::new(), interrupted: machine::interruptions() }
    }

    /// Whether somebody wants it to end.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn goes_on(&self) -> Result<(), String> {
        if self.is_interrupted() { Err("interrupted".to_owned()) } else { Ok(()) }
    }

    /// Samples could not be taken, or somebody did not want them any more.
    fn failure(&self, sentence: String) -> Failure {
        if self.is_interrupted() { Failure::unable(sentence) } else { Failure::broke(sentence) }
    }

    /// The fastest path for a pairing; `None` if there is no virtio-user in it.
    fn path(
        &mut self,
        pairing: Pairing,
        question: &Question,
        window: Duration,
        cpus: (usize, usize),
    ) -> Result<Option<Path22>, Failure> {
        if !pairing.is_virtio_user() {
            return Ok(None);
        }
        let Question { work, forward, path, .. } = *question;
        // Only our backend shuffles.
        let shuffles = pairing.makers().1 == Maker::Ironring;
        let completions = if shuffles { work.completions } else { Completions::InOrder };
        let work = Work { completions, api: Api::Copy, ..work };
        let possible = Path22::of(&work);
        if let (Some(asked), _) | (None, [asked]) = (path.as_ref(), possible) {
            return Ok(Some(*asked));
        }
        let key = (pairing, format!("{work:?}"), forward);
        if let Some(path) = self.paths.get(&key) {
            return Ok(Some(*path));
        }
        let mut best = (Path22::InOrder, 0.0);
        let method = |path| Method { window: window / TRIALS, path, forward, cycles: false };
        let pairings: Vec<_> = possible.iter().map(|path| (pairing, method(*path))).collect();
        let samples = sample::take(&pairings, &work, cpus, || self.goes_on());
        let samples = samples.map_err(|sentence| self.failure(sentence))?;
        for (path, sample) in possible.iter().zip(samples) {
            if sample.rate > best.1 {
                best = (*path, sample.rate);
            }
        }
        self.paths.insert(key, best.0);
        Ok(Some(best.0))
    }
}

fn find_dpdk() -> Result<(), Failure> {
    for (program, package) in [("dpdk-testpmd", "dpdk"), ("stdbuf", "coreutils")] {
        if which(program).is_none() {
            let sentence = format!("{program} is not there: install the package {package}, or compare without DPDK");
            return Err(Failure::unable(sentence));
        }
    }
    Ok(())
}

/// Huge pages of the memory of our driver: slots and rings of both directions, and a page for each that is not full.
fn pages_of(work: &Work) -> u32 {
    let slots = 2 * u32::from(work.ring_size) * (work.frame_max() + 256);
    slots.div_ceil(2 << 20) + 4
}

/// Two CPUs, one for each end.
///
/// # Errors
/// There is one only.
pub(super) fn two_cpus() -> Result<(usize, usize), Failure> {
    let sentence = "a benchmark needs two CPUs, one for each end; this process may use one only";
    machine::two_cpus().ok_or_else(|| Failure::unable(sentence))
}

/// Huge pages of 2 MiB for six testpmd: three pairs that take turns.
const DPDK_PAGES: u32 = 480;
/// The part of a window in which the fastest path of virtio-user is found.
const TRIALS: u32 = 2;
/// Rounds for each sample that is asked for, at most.
const TRIES: u32 = 3;
const LIMIT_WINDOW: Duration = Duration::from_millis(200);
