//! Rounds of samples: each pairing in turn, the first one twice, and what the machine can do beside them.

use std::collections::HashMap;
use std::time::Duration;

use super::args::Question;
use super::limit;
use super::result::{BenchReport, Config, DpdkCore, Forward, Samples, Versus};
use super::sample::{self, Method, Sample};
use super::sums::{Ratio, Spread};
use super::testpmd::{Cycles, Path22};
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
    paths: &mut Paths,
) -> Result<BenchReport, Failure> {
    let Question { first, vs, work, forward, cycles, .. } = *question;
    let cpus = two_cpus()?;
    let dpdk = question.pairings().any(Pairing::needs_dpdk);
    if dpdk {
        find_dpdk()?;
    }
    let pages = if dpdk { DPDK_PAGES } else { 0 } + if work.hugepages { pages_of(&work) } else { 0 };
    let _pages = (pages > 0).then(|| HugePages::reserve(pages)).transpose().map_err(Failure::unable)?;
    let progress = output::progress("bench");
    let window = Duration::from_secs(seconds);
    let first_path = paths.of(first, question, window, cpus)?;
    let vs_path = vs.map(|vs| paths.of(vs, question, window, cpus)).transpose()?.flatten();
    let method = |path: Option<Path22>| Method { window, path: path.unwrap_or(Path22::Vectorized), forward, cycles };
    let methods = (method(first_path), method(vs_path));
    let mut rounds = Rounds::default();
    for round in 0..samples {
        rounds.play(question, methods, turned(cpus, round), round)?;
        progress.frames(u64::from(round) + 1, u64::from(samples));
    }
    progress.finish();
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
    let mut report = rounds.report(config, vs);
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

/// The samples of all rounds.
#[derive(Default)]
struct Rounds {
    /// Two of each round if there is a comparison, one otherwise.
    first: Vec<Sample>,
    again: Vec<f64>,
    other: Vec<f64>,
    limit: Vec<f64>,
    /// What testpmd recorded: whose it was, and how much.
    cores: Vec<(&'static str, &'static str, Core)>,
}

/// What a core of testpmd's did in one sample.
#[derive(Clone, Copy)]
struct Core {
    cycles_per_packet: f64,
    busy: f64,
}

impl Rounds {
    fn play(
        &mut self,
        question: &Question,
        methods: (Method, Method),
        cpus: (usize, usize),
        round: u32,
    ) -> Result<(), Failure> {
        let Question { first, vs, work, .. } = question;
        let take = |pairing: &Pairing, method| sample::take(*pairing, work, method, cpus).map_err(Failure::broke);
        // Who begins changes, so that nobody has always the warmer machine.
        let vs_first = round % 2 == 1;
        if let (Some(vs), true) = (vs, vs_first) {
            self.add_other(*vs, take(vs, methods.1)?);
        }
        let sample = take(first, methods.0)?;
        self.add_cores(*first, &sample);
        self.first.push(sample);
        if vs.is_some() {
            self.again.push(take(first, methods.0)?.rate);
        }
        if let (Some(vs), false) = (vs, vs_first) {
            self.add_other(*vs, take(vs, methods.1)?);
        }
        self.limit.push(limit::best(cpus, work.size.lines(), LIMIT_WINDOW).map_err(Failure::unable)?);
        Ok(())
    }

    fn add_other(&mut self, pairing: Pairing, sample: Sample) {
        self.add_cores(pairing, &sample);
        self.other.push(sample.rate);
    }

    fn add_cores(&mut self, pairing: Pairing, sample: &Sample) {
        for (end, cycles) in ["driver", "backend"].into_iter().zip(sample.cycles) {
            if let Some(Cycles { per_packet, hz }) = cycles {
                let core = Core { cycles_per_packet: per_packet, busy: per_packet * sample.rate / hz };
                self.cores.push((pairing.name(), end, core));
            }
        }
    }

    /// Medians of what testpmd recorded.
    fn cores(&self) -> Vec<DpdkCore> {
        let mut ends: Vec<(&str, &str)> = self.cores.iter().map(|(pairing, end, _)| (*pairing, *end)).collect();
        ends.sort_unstable();
        ends.dedup();
        let of = |(pairing, end)| {
            let found = self.cores.iter().filter(move |core| (core.0, core.1) == (pairing, end));
            let median = |number: fn(&Core) -> f64| {
                Spread::of(&found.clone().map(|core| number(&core.2)).collect::<Vec<_>>()).median
            };
            DpdkCore {
                pairing,
                end,
                cycles_per_packet: median(|core| core.cycles_per_packet),
                busy: median(|core| core.busy),
            }
        };
        ends.into_iter().map(of).collect()
    }

    fn report(&self, config: Config, vs: Option<Pairing>) -> BenchReport {
        let rates: Vec<f64> = self.first.iter().map(|sample| sample.rate).collect();
        let quotients = |over: &[f64], under: &[f64]| -> Vec<f64> {
            over.iter().zip(under).map(|(over, under)| over / under.max(1.0)).collect()
        };
        // Both samples of a round are of the same thing: their middle is surer than either.
        let middle: Vec<f64> = if self.again.is_empty() {
            rates.clone()
        } else {
            rates.iter().zip(&self.again).map(|(one, two)| f64::midpoint(*one, *two)).collect()
        };
        let mpps = spread_of(&rates.iter().chain(&self.again).copied().collect::<Vec<_>>());
        let versus = vs.map(|pairing| Versus {
            name: pairing.name(),
            mpps: spread_of(&self.other),
            ratio: Ratio::of(&quotients(&middle, &self.other)),
            dpdk_path: None,
        });
        let percentiles: Vec<[u64; 3]> = self.first.iter().filter_map(|sample| sample.percentiles).collect();
        let named = [
            (config.pairing.to_owned(), &rates),
            ("again".to_owned(), &self.again),
            (vs.map_or_else(String::new, |vs| vs.name().to_owned()), &self.other),
            ("limit".to_owned(), &self.limit),
        ];
        let samples = named.into_iter().filter(|(_, rates)| !rates.is_empty());
        let noise_floor = (!self.again.is_empty()).then(|| Ratio::of(&quotients(&rates, &self.again)));
        BenchReport {
            mpps,
            ns_per_packet: 1e3 / mpps.median.max(f64::MIN_POSITIVE),
            percentiles_ns: medians(&percentiles),
            vs: versus,
            noise_floor,
            limit_share: Ratio::of(&quotients(&middle, &self.limit)),
            dpdk_cores: self.cores(),
            samples: samples.map(|(name, rates)| Samples { name, mpps: in_millions(rates) }).collect(),
            config,
            warnings: BenchReport::noise(noise_floor.as_ref()).into_iter().collect(),
            skipped: Vec::new(),
        }
    }
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

/// Which path of virtio-user is fastest at which work, as far as it was tried.
#[derive(Debug, Default)]
pub(super) struct Paths {
    known: HashMap<(Pairing, String, Forward), Path22>,
}

impl Paths {
    /// The fastest path for a pairing; `None` if there is no virtio-user in it.
    fn of(
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
        if let Some(path) = self.known.get(&key) {
            return Ok(Some(*path));
        }
        let mut best = (Path22::InOrder, 0.0);
        for path in possible {
            for round in 0..TRIALS {
                let method = Method { window, path: *path, forward, cycles: false };
                let sample = sample::take(pairing, &work, method, turned(cpus, round * 2)).map_err(Failure::broke)?;
                if sample.rate > best.1 {
                    best = (*path, sample.rate);
                }
            }
        }
        self.known.insert(key, best.0);
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

/// Huge pages of 2 MiB for two testpmd.
const DPDK_PAGES: u32 = 160;
/// Samples of each path of virtio-user before the fastest one is taken.
const TRIALS: u32 = 2;
const LIMIT_WINDOW: Duration = Duration::from_millis(200);
