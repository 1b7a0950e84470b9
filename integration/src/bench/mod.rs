//! How fast driver and backend are, and how that compares with others.
//!
//! Each sample is two new processes, each on a CPU of its own: `driver` is our driver's half, `ends` starts it and
//! our backend, `testpmd` DPDK's ends, `sample` puts two together. Comparisons take their samples in turn, with a
//! second sample of the first pairing in each round, so that the noise floor is known: what the same thing measured
//! twice differs by. `sums` makes medians and intervals of them, `limit` finds what the machine can do at best. Instructions
//! are counted with a program by itself, in `integration/step`.

mod driver;
mod ends;
mod limit;
mod sample;
mod sums;
mod testpmd;
mod work;

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

pub use driver::{DriverArgs, driver_main};
pub use limit::Limits;
pub use sums::{Ratio, Spread};
pub use testpmd::Path22;
pub use work::{Api, Direction, Maker, Pairing, Work};

use crate::console::which;
use crate::hugepages::HugePages;
use crate::machine;
use crate::output::{self, Cell, Exit, Failure, Table};
use crate::pair::{Layout, Switch};
use sample::{Method, Sample};

/// Arguments of `ironring bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// Ring layout
    #[arg(long, value_enum, default_value_t = Layout::Split)]
    layout: Layout,
    /// Which way frames go
    #[arg(long, value_enum, default_value_t = Direction::Tx)]
    dir: Direction,
    /// Bytes of each frame
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = clap::value_parser!(u16).range(60..=1518))]
    size: u16,
    /// Descriptors of each queue: a power of two
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(8..=4096))]
    ring_size: u16,
    /// Frames in a burst
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=64))]
    burst: u16,
    /// VIRTIO_F_IN_ORDER on our side [default: on with packed rings, as DPDK's fastest path has it]
    #[arg(long, value_enum, value_name = "ON|OFF")]
    in_order: Option<Switch>,
    /// How our driver is used
    #[arg(long, value_enum, default_value_t = Api::Copy)]
    api: Api,
    /// Queue pairs that carry frames, in turn: tx or rx by our own two ends
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,
    /// Queue pairs that are there and carry nothing
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=63))]
    idle_queues: u16,
    /// Whose driver
    #[arg(long, value_enum, default_value_t = Maker::Ironring)]
    driver: Maker,
    /// Whose backend
    #[arg(long, value_enum, default_value_t = Maker::Ironring)]
    backend: Maker,
    /// Compare with another pairing, in turn: ironring-ironring, ironring-dpdk, dpdk-ironring, dpdk-dpdk, memif
    #[arg(long, value_name = "DRIVER-BACKEND")]
    vs: Option<Pairing>,
    /// Path of DPDK's virtio-user [default: whichever is fastest]
    #[arg(long, value_enum)]
    dpdk_path: Option<Path22>,
    /// Seconds of each sample
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Samples of each pairing [default: 10 with --vs, otherwise 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    samples: Option<u32>,
    /// Find what the machine can do at best, and nothing else
    #[arg(long, conflicts_with = "vs")]
    limit: bool,
}

/// One result.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Millions of frames a second at the receiver; round trips with `loop` and `latency`.
    pub mpps: Spread,
    /// Of the median.
    pub ns_per_packet: f64,
    /// Round trips in nanoseconds, where our driver makes them: 50 %, 99 %, 99.9 %; medians of the samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentiles_ns: Option<[u64; 3]>,
    /// The other pairing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vs: Option<Versus>,
    /// The first pairing against itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_floor: Option<Ratio>,
    /// Of what the machine can stream with as many lines of cache as a frame and its header take.
    pub limit_share: Ratio,
    /// What was measured.
    pub config: Config,
    /// What was not, and why.
    pub skipped: Vec<String>,
}

/// A comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Versus {
    /// The pairing.
    pub name: &'static str,
    /// Its rates.
    pub mpps: Spread,
    /// How many times as fast the first pairing is.
    pub ratio: Ratio,
}

/// What was measured, and how.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// The first pairing.
    pub pairing: &'static str,
    /// The work.
    #[serde(flatten)]
    pub work: Work,
    /// The path of DPDK's virtio-user, if there is one.
    pub dpdk_path: Option<Path22>,
    /// Seconds of each sample.
    pub seconds: u64,
    /// Samples of each pairing.
    pub samples: u32,
}

/// The `bench` subcommand.
#[must_use]
pub fn main(args: &BenchArgs, json: bool) -> ExitCode {
    let result = if args.limit { limits(json) } else { measure(args).map(|report| show(&report, json)) };
    match result {
        Ok(exit) => exit.into(),
        Err(failure) => output::fail_with(json, &failure),
    }
}

fn limits(json: bool) -> Result<Exit, Failure> {
    let limits = limit::all(two_cpus()?, Duration::from_secs(1)).map_err(Failure::unable)?;
    if json {
        output::print_json(&limits);
    } else {
        let [one, two, three] = limits.streaming;
        let text = format!(
            "streaming from one CPU to another, in bursts of 32, copied in and out:\n  1 line an item   {one:7.1} M/s\n  2 lines          {two:7.1} M/s\n  3 lines          {three:7.1} M/s\na word back and forth: {:.0} ns\n",
            limits.ping_pong_ns
        );
        output::print_text(&text);
    }
    Ok(Exit::Held)
}

fn measure(args: &BenchArgs) -> Result<BenchReport, Failure> {
    let work = args.work()?;
    let first = Pairing::Vhost(args.driver, args.backend);
    let cpus = two_cpus()?;
    let pairings: Vec<_> = [Some(first), args.vs].into_iter().flatten().collect();
    let dpdk = pairings.iter().any(|pairing| pairing.needs_dpdk());
    let _pages = if dpdk { Some(needs_of_dpdk()?) } else { None };
    let samples = args.samples.unwrap_or(if args.vs.is_some() { 10 } else { 3 });
    let progress = output::progress("bench");
    let window = Duration::from_secs(args.seconds);
    let path = match (args.dpdk_path, pairings.iter().find(|pairing| is_virtio_user(**pairing))) {
        (Some(path), _) => path,
        (None, Some(pairing)) => fastest_path(*pairing, &work, window, cpus)?,
        (None, None) => Path22::Vectorized,
    };
    let method = Method { window, path };
    let mut rounds = Rounds::default();
    for round in 0..samples {
        rounds.play(first, args.vs, &work, method, turned(cpus, round), round)?;
        progress.frames(u64::from(round) + 1, u64::from(samples));
    }
    progress.finish();
    let shown = dpdk.then_some(path).filter(|_| pairings.iter().any(|pairing| is_virtio_user(*pairing)));
    let pairing = first.name();
    let config = Config { pairing, work, dpdk_path: shown, seconds: args.seconds, samples };
    Ok(rounds.report(config, args.vs))
}

impl BenchArgs {
    fn work(&self) -> Result<Work, Failure> {
        if !self.ring_size.is_power_of_two() {
            let size = self.ring_size;
            return Err(Failure::usage(format!("a ring of {size} is none that both sides have; take a power of two")));
        }
        let in_order = self.in_order.map_or(self.layout == Layout::Packed, |switch| switch == Switch::On);
        let Self { dir, size, ring_size, burst, api, queues, idle_queues, .. } = *self;
        let possible = match api {
            Api::Copy => true,
            Api::InPlace => dir == Direction::Tx,
            Api::Lease => dir == Direction::Loop,
        };
        if !possible || (api != Api::Copy && self.driver != Maker::Ironring) {
            return Err(Failure::usage(
                "in-place is for our driver with --dir tx, lease for our driver with --dir loop".to_owned(),
            ));
        }
        let work = Work { layout: self.layout.into(), dir, size, ring_size, burst, in_order, api, queues, idle_queues };
        self.check_pairs(&work)?;
        Ok(work)
    }

    /// Several queue pairs are for our own two ends, one way.
    fn check_pairs(&self, work: &Work) -> Result<(), Failure> {
        let ours = self.driver == Maker::Ironring && self.backend == Maker::Ironring && self.vs.is_none();
        let one_way = matches!(work.dir, Direction::Tx | Direction::Rx) && work.api == Api::Copy;
        match work.pairs() {
            1 => Ok(()),
            2..=64 if ours && one_way => Ok(()),
            2..=64 => Err(Failure::usage("several queue pairs are measured with --dir tx or rx, --api copy, and our own two ends; leave out --vs".to_owned())),
            more => Err(Failure::usage(format!("{more} queue pairs are more than the 64 that a device has"))),
        }
    }
}

/// The samples of all rounds.
#[derive(Default)]
struct Rounds {
    /// Two of each round if there is a comparison, one otherwise.
    first: Vec<Sample>,
    again: Vec<f64>,
    other: Vec<f64>,
    limit: Vec<f64>,
}

impl Rounds {
    fn play(
        &mut self,
        first: Pairing,
        vs: Option<Pairing>,
        work: &Work,
        method: Method,
        cpus: (usize, usize),
        round: u32,
    ) -> Result<(), Failure> {
        let take = |pairing| sample::take(pairing, work, method, cpus).map_err(Failure::broke);
        // Who begins changes, so that nobody has always the warmer machine.
        let vs_first = round % 2 == 1;
        if let (Some(vs), true) = (vs, vs_first) {
            self.other.push(take(vs)?.rate);
        }
        self.first.push(take(first)?);
        if vs.is_some() {
            self.again.push(take(first)?.rate);
        }
        if let (Some(vs), false) = (vs, vs_first) {
            self.other.push(take(vs)?.rate);
        }
        let lines = (usize::from(work.size) + ironring_common::spec::net::HDR_BYTES).div_ceil(64);
        self.limit.push(limit::stream(cpus, lines, LIMIT_WINDOW).map_err(Failure::unable)?);
        Ok(())
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
        });
        let percentiles: Vec<[u64; 3]> = self.first.iter().filter_map(|sample| sample.percentiles).collect();
        BenchReport {
            mpps,
            ns_per_packet: 1e3 / mpps.median.max(f64::MIN_POSITIVE),
            percentiles_ns: medians(&percentiles),
            vs: versus,
            noise_floor: (!self.again.is_empty()).then(|| Ratio::of(&quotients(&rates, &self.again))),
            limit_share: Ratio::of(&quotients(&middle, &self.limit)),
            config,
            skipped: Vec::new(),
        }
    }
}

/// Frames a second in millions.
fn spread_of(rates: &[f64]) -> Spread {
    Spread::of(&rates.iter().map(|rate| rate / 1e6).collect::<Vec<_>>())
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

const fn is_virtio_user(pairing: Pairing) -> bool {
    matches!(pairing, Pairing::Vhost(Maker::Dpdk, _))
}

/// Driver and backend change places every other pair of rounds.
const fn turned(cpus: (usize, usize), round: u32) -> (usize, usize) {
    if round % 4 < 2 { cpus } else { (cpus.1, cpus.0) }
}

/// The path of virtio-user that is fastest at this work.
fn fastest_path(pairing: Pairing, work: &Work, window: Duration, cpus: (usize, usize)) -> Result<Path22, Failure> {
    let mut best = None;
    for path in Path22::of(work.layout) {
        // A vector path takes nothing from a ring with fewer frames than eight.
        if *path == Path22::Vectorized && (work.burst < 8 || work.dir == Direction::Latency) {
            continue;
        }
        let mut rate = 0.0f64;
        for round in 0..TRIALS {
            let sample = sample::take(pairing, work, Method { window, path: *path }, turned(cpus, round * 2));
            rate = rate.max(sample.map_err(Failure::broke)?.rate);
        }
        if best.is_none_or(|(_, fastest)| rate > fastest) {
            best = Some((*path, rate));
        }
    }
    Ok(best.map_or(Path22::InOrder, |(path, _)| path))
}

fn needs_of_dpdk() -> Result<HugePages, Failure> {
    for (program, package) in [("dpdk-testpmd", "dpdk"), ("stdbuf", "coreutils")] {
        if which(program).is_none() {
            let sentence = format!("{program} is not there: install the package {package}, or compare without DPDK");
            return Err(Failure::unable(sentence));
        }
    }
    HugePages::reserve(PAGES).map_err(Failure::unable)
}

fn two_cpus() -> Result<(usize, usize), Failure> {
    let sentence = "a benchmark needs two CPUs, one for each end; this process may use one only";
    machine::two_cpus().ok_or_else(|| Failure::unable(sentence))
}

fn show(report: &BenchReport, json: bool) -> Exit {
    if json {
        output::print_json(report);
        return Exit::Held;
    }
    let mut table = Table::new(&["pairing", "Mpps", "min", "max", "ns/packet"]);
    let mut row = |name: &str, mpps: &Spread| {
        let numbers = [mpps.median, mpps.min, mpps.max].map(|rate| Cell::number(format!("{rate:.2}")));
        let nanos = Cell::number(format!("{:.1}", 1e3 / mpps.median.max(f64::MIN_POSITIVE)));
        table.row(std::iter::once(Cell::new(name)).chain(numbers).chain([nanos]).collect());
    };
    row(report.config.pairing, &report.mpps);
    if let Some(vs) = &report.vs {
        row(vs.name, &vs.mpps);
    }
    let mut text = table.render();
    let between =
        |ratio: &Ratio| format!("{:.3} (95 % of the time {:.3} to {:.3})", ratio.median, ratio.ci95[0], ratio.ci95[1]);
    if let Some(vs) = &report.vs {
        text.push_str(&format!("ratio to {}: {}\n", vs.name, between(&vs.ratio)));
    }
    if let Some(noise) = &report.noise_floor {
        text.push_str(&format!("the same against itself: {}\n", between(noise)));
    }
    if let Some([half, slow, slowest]) = report.percentiles_ns {
        text.push_str(&format!("round trips: 50 % {half} ns, 99 % {slow} ns, 99.9 % {slowest} ns\n"));
    }
    text.push_str(&format!("share of what the machine can stream: {}\n", between(&report.limit_share)));
    output::print_text(&text);
    Exit::Held
}

/// Huge pages of 2 MiB for two testpmd.
const PAGES: u32 = 160;
/// Samples of each path of virtio-user before the fastest one is taken.
const TRIALS: u32 = 2;
const LIMIT_WINDOW: Duration = Duration::from_millis(200);
