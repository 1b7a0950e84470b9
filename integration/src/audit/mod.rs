//! The audit: every attack of the catalogue against the hardened driver and the trusting ring, each cell in a child
//! process with a deadline, each with a declared verdict.
//!
//! A hardened cell runs twice: in the model of [`heart`](crate::heart), where private memory is watched byte by byte, and
//! live, where the network driver talks vhost-user to a backend that is hostile. Afterwards the driver is reset and has to
//! carry honest traffic again. A trusting cell runs the same attack with the same seed on the trusting ring: an attack on
//! memory safety or confidentiality that bites nobody there proves nothing, and fails the audit as a dud.

mod cell;
mod flow;
mod html;
mod judge;
mod live;
mod log;
mod model;
mod report;
mod scan;
mod victims;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ironring_backend::hostile::{ABSENT, Absent, Attack, CATALOGUE, find_absent, nearest};
use ironring_driver::queue::RingLayout;

pub use cell::{CellArgs, cell_main};
pub(crate) use html::escape;
pub use report::{AuditReport, NotApplicable, Row};
pub use scan::{ScanArgs, scan_main};
pub use victims::{Encounter, GuestsArgs, Outcome, Target, VictimRow, guests_main};

use crate::config::RingConfig;
use crate::mirror::{self, MirrorRow, ROWS, Row as MirrorEntry};
use crate::output::{Exit, Failure};
use cell::{Cell, CellResult};

/// Which rings are put to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum RingChoice {
    /// The driver's own ring.
    Hardened,
    /// The ring that reads back.
    Trusting,
    /// Both.
    Both,
}

/// Which layouts are put to the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LayoutChoice {
    /// Descriptor table, available ring, used ring.
    Split,
    /// One ring of slots.
    Packed,
    /// Both.
    Both,
}

/// With which values of a feature attacks are run that it makes a difference to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum FeatureChoice {
    /// With it.
    On,
    /// Without it.
    Off,
    /// Both, where it makes a difference.
    Both,
}

impl FeatureChoice {
    const fn takes(self, on: bool) -> bool {
        match self {
            Self::On => on,
            Self::Off => !on,
            Self::Both => true,
        }
    }
}

/// Arguments of `ironring audit`.
#[derive(Clone, Debug, clap::Args)]
pub struct AuditArgs {
    /// Attacks to run: ids or names, several with commas between; `*` matches anything
    #[arg(long, value_name = "GLOB", default_value = "*")]
    pub attack: String,
    /// Ring layout
    #[arg(long, value_enum, default_value = "both")]
    pub layout: LayoutChoice,
    /// Rings with indirect tables, or without
    #[arg(long, value_enum, default_value = "both")]
    pub indirect: FeatureChoice,
    /// Rings with event indices, or without
    #[arg(long, value_enum, default_value = "both")]
    pub event_idx: FeatureChoice,
    /// Rings whose device uses buffers in order, or any
    #[arg(long, value_enum, default_value = "both")]
    pub in_order: FeatureChoice,
    /// One configuration of each layout only
    #[arg(long)]
    pub short: bool,
    /// Whose drivers to attack: several with commas between
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ironring,backend")]
    pub target: Vec<Target>,
    /// Guests
    #[command(flatten)]
    pub guests: victims::GuestOptions,
    /// Which ring of ironring to attack
    #[arg(long, value_enum, default_value = "both")]
    pub ring: RingChoice,
    /// Seeds of each cell: each strikes at other times, slots and values
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub seeds: u64,
    /// Write the report as a page of HTML, too
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Cells that run at a time; as many as there are CPUs if this is not given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// First seed
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl Default for AuditArgs {
    /// The short audit of the main job: every attack, one configuration of each layout, one seed.
    fn default() -> Self {
        Self {
            attack: "*".into(),
            layout: LayoutChoice::Both,
            indirect: FeatureChoice::Both,
            event_idx: FeatureChoice::Both,
            in_order: FeatureChoice::Both,
            short: true,
            target: vec![Target::Ironring, Target::Backend],
            guests: victims::GuestOptions::default(),
            ring: RingChoice::Both,
            seeds: 1,
            report: None,
            jobs: None,
            seed: 1,
        }
    }
}

/// Why an audit did not run.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// No attack has such an id or name.
    #[error("no attack matches `{glob}`; did you mean {near}? `ironring attacks` lists them all")]
    NoMatch {
        /// What was asked for.
        glob: String,
        /// Something that exists.
        near: String,
    },
    /// The attack is known and cannot be run.
    #[error("{} ({}) is not run: {}", .0.id, .0.name, .0.reason)]
    Absent(&'static Absent),
    /// The attacks make no sense in the configurations that were asked for.
    #[error("none of the attacks strikes such a ring; leave out --layout, --indirect, --event-idx or --in-order")]
    NoConfig,
    /// A child could not be started.
    #[error("cannot start a cell in a child process: {0}; check the process limit")]
    Spawn(#[from] std::io::Error),
}

impl AuditError {
    /// The error as the tool reports it.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let exit = match self {
            Self::NoMatch { .. } | Self::NoConfig | Self::Absent(_) => Exit::Usage,
            Self::Spawn(_) => Exit::Unable,
        };
        Failure { sentence: self.to_string(), exit }
    }
}

/// Runs the cells that `args` selects. `progress` is told before each cell: done, of, what.
///
/// # Errors
/// [`AuditError`]; an attack that is not contained is no error but a row of the report.
pub fn run(args: &AuditArgs, mut progress: impl FnMut(usize, usize, &str)) -> Result<AuditReport, AuditError> {
    let attacks = select(&args.attack)?;
    let rings: &[RingUnderTest] = match args.ring {
        RingChoice::Hardened => &[RingUnderTest::Hardened],
        RingChoice::Trusting => &[RingUnderTest::Trusting],
        RingChoice::Both => &[RingUnderTest::Hardened, RingUnderTest::Trusting],
    };
    let own = args.target.contains(&Target::Ironring);
    let foreign = args.target.contains(&Target::VirtioDrivers).then_some(RingUnderTest::VirtioDrivers);
    let cells: Vec<_> = attacks
        .iter()
        .flat_map(|attack| configs(args, attack).into_iter().map(move |config| (*attack, config)))
        .flat_map(|(attack, config)| {
            let is_for = move |ring: &RingUnderTest| ring.target().configs(attack).contains(&config);
            let rings = rings.iter().copied().filter(move |_| own);
            rings.chain(foreign.filter(is_for)).map(move |ring| (attack, config, ring))
        })
        .collect();
    let afar: Vec<_> = [Target::Qemu, Target::Dpdk].into_iter().filter(|target| args.target.contains(target)).collect();
    let mirror = args.target.contains(&Target::Backend) && ROWS.iter().any(|row| is_mirror_row(&args.attack, row));
    if cells.is_empty() && afar.is_empty() && !mirror {
        return Err(AuditError::NoConfig);
    }
    let mut report = AuditReport::new(attacks.len());
    report.repeat = html::Repeat::of(args);
    let started = Instant::now();
    let cell = |at: usize| {
        let (attack, config, ring) = cells.get(at)?;
        let (attack, config, ring) = (attack.id.to_owned(), *config, *ring);
        Some(Cell { attack, config, ring, seed: args.seed, seeds: args.seeds })
    };
    let interrupted = crate::machine::interruptions();
    let done = in_children(cell, jobs(args), deadline(args.seeds), &interrupted, |done, at| {
        progress(done, cells.len(), cells.get(at).map_or("", |(attack, ..)| attack.name));
    })?;
    for (at, result) in done {
        if let Some((attack, config, ring)) = cells.get(at) {
            report.add(attack, *config, *ring, result);
        }
    }
    if mirror && !interrupted.load(Ordering::Relaxed) {
        progress(cells.len(), cells.len() + 1, "the backend");
        let told = mirror_in_child(args)?;
        report.mirror = told.0;
        report.mirror_death = told.1;
    }
    for target in afar.into_iter().filter(|_| !interrupted.load(Ordering::Relaxed)) {
        let mut done = 0;
        report.skipped.extend(victims::campaigns(target, &args.guests, &attacks, args.seed, &interrupted, |row| {
            done += 1;
            progress(done, done + 1, &format!("{} {} {}", target.name(), row.config, row.attack));
            report.victims.push(row);
        }));
    }
    if interrupted.load(Ordering::Relaxed) {
        report.skipped.push(format!("interrupted after {} of {} cells", report.cells, cells.len()));
    }
    report.absent(ABSENT.iter().filter(|absent| is_asked_for(&args.attack, absent)));
    report.seconds = started.elapsed().as_secs_f64();
    report.finish();
    Ok(report)
}

/// Whether a list of attacks means an entry that is not run.
fn is_asked_for(list: &str, absent: &Absent) -> bool {
    let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.into_iter().any(|part| glob_matches(part, absent.id) || glob_matches(part, absent.name))
}

/// Whether a list of attacks means a row of the mirror.
fn is_mirror_row(list: &str, row: &MirrorEntry) -> bool {
    let mut parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.any(|part| glob_matches(part, row.id) || glob_matches(part, row.name))
}

/// Arguments of the hidden `mirror` subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct MirrorArgs {
    #[arg(long)]
    attack: String,
    #[arg(long)]
    seed: u64,
    #[arg(long)]
    seeds: u64,
}

/// The rows of the mirror, played in a child, so that a backend that dies is a finding.
fn mirror_in_child(args: &AuditArgs) -> Result<(Vec<MirrorRow>, Option<String>), AuditError> {
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(["mirror", "--attack", &args.attack])
        .args(["--seed", &args.seed.to_string(), "--seeds", &args.seeds.to_string()])
        .stdin(std::process::Stdio::null())
        .output()?;
    match serde_json::from_slice(&output.stdout) {
        Ok(rows) if output.status.success() => Ok((rows, None)),
        _ => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let last = errors.lines().last().unwrap_or("no words");
            Ok((Vec::new(), Some(format!("the backend: {}: {last}", output.status))))
        }
    }
}

/// The hidden `mirror` subcommand.
#[must_use]
pub fn mirror_main(args: &MirrorArgs) -> ExitCode {
    // It ends with its parent, whatever happens to that.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    match mirror::run(|row| is_mirror_row(&args.attack, row), args.seed, args.seeds) {
        Ok(rows) => {
            crate::output::print_json(&rows);
            ExitCode::SUCCESS
        }
        Err(error) => {
            crate::output::fail(false, &error.to_string());
            ExitCode::from(3)
        }
    }
}

/// How many cells run at a time.
fn jobs(args: &AuditArgs) -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    args.jobs.map_or(cpus, usize::from).max(1)
}

/// Runs cells in children, several at a time, until `cell` has no more. Their results, in the order of the cells. `progress`
/// is told how many are done, and which one was the last to end. Once `interrupted`, no more are begun.
fn in_children(
    cell: impl Fn(usize) -> Option<Cell> + Sync,
    jobs: usize,
    deadline: Duration,
    interrupted: &AtomicBool,
    mut progress: impl FnMut(usize, usize),
) -> Result<Vec<(usize, CellResult)>, AuditError> {
    let next = AtomicUsize::new(0);
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            let (tell, next, cell) = (tell.clone(), &next, &cell);
            scope.spawn(move || {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(cell) = cell(at).filter(|_| !interrupted.load(Ordering::Relaxed)) else { return };
                    // Nobody listens any more once a cell could not be started.
                    if tell.send((at, cell.run_in_child(deadline))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        let mut results = Vec::new();
        for (at, result) in told {
            let result = result?;
            // A cell that the same signal has ended says nothing.
            if result.death.is_none() || !interrupted.load(Ordering::Relaxed) {
                results.push((at, result));
            }
            progress(results.len(), at);
        }
        results.sort_by_key(|(at, _)| *at);
        Ok(results)
    })
}

/// The `audit` subcommand: runs, prints, and turns the report into an exit status.
#[must_use]
pub fn main(args: &AuditArgs, json: bool) -> ExitCode {
    let bar = crate::output::progress("audit");
    let result = run(args, |done, of, what| bar.update(done, of, what));
    bar.finish();
    match result {
        Ok(report) => {
            if let Some(file) = &args.report
                && let Err(error) = std::fs::write(file, report.to_html())
            {
                let sentence = format!("cannot write the report to {}: {error}", file.display());
                return crate::output::fail_with(json, &Failure::unable(sentence));
            }
            if json {
                crate::output::print_json(&report);
            } else {
                crate::output::print_text(&report.to_text(args.seeds));
            }
            report.exit().into()
        }
        Err(error) => crate::output::fail_with(json, &error.to_failure()),
    }
}

/// Which ring a cell attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RingUnderTest {
    /// The driver's own ring.
    Hardened,
    /// The ring that reads back.
    Trusting,
    /// That of the crate virtio-drivers.
    VirtioDrivers,
}

impl RingUnderTest {
    /// As in reports and arguments.
    const fn name(self) -> &'static str {
        match self {
            Self::Hardened => "hardened",
            Self::Trusting => "trusting",
            Self::VirtioDrivers => "virtio-drivers",
        }
    }

    /// Whose driver it is.
    const fn target(self) -> Target {
        match self {
            Self::Hardened | Self::Trusting => Target::Ironring,
            Self::VirtioDrivers => Target::VirtioDrivers,
        }
    }
}

/// The configurations that were asked for and make a difference to an attack.
fn configs(args: &AuditArgs, attack: &Attack) -> Vec<RingConfig> {
    let layouts: &[RingLayout] = match args.layout {
        LayoutChoice::Split => &[RingLayout::Split],
        LayoutChoice::Packed => &[RingLayout::Packed],
        LayoutChoice::Both => &[RingLayout::Split, RingLayout::Packed],
    };
    let asked = |config: &RingConfig| {
        args.indirect.takes(config.indirect)
            && args.event_idx.takes(config.event_idx)
            && args.in_order.takes(config.in_order)
    };
    let most = if args.short { 1 } else { usize::MAX };
    let of = |layout: &RingLayout| RingConfig::of(attack, *layout).into_iter().filter(asked).take(most).collect();
    layouts.iter().flat_map(|layout| -> Vec<_> { of(layout) }).collect()
}

/// The attacks whose id or name matches a part of the list. Every part has to match: an attack that was asked for and not
/// run would pass for one that was contained.
fn select(list: &str) -> Result<Vec<&'static Attack>, AuditError> {
    let mut parts: Vec<&str> = list.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        parts.push(list);
    }
    let matches = |part: &str, attack: &Attack| glob_matches(part, attack.id) || glob_matches(part, attack.name);
    let in_mirror = |part: &str| ROWS.iter().any(|row| is_mirror_row(part, row));
    let known = |part: &str| CATALOGUE.iter().any(|attack| matches(part, attack)) || in_mirror(part);
    if let Some(part) = parts.iter().find(|part| !known(part)) {
        if let Some(absent) = find_absent(part) {
            return Err(AuditError::Absent(absent));
        }
        let near = near_matches(part).join(", ");
        return Err(AuditError::NoMatch { glob: (*part).to_owned(), near });
    }
    Ok(CATALOGUE.iter().filter(|attack| parts.iter().any(|part| matches(part, attack))).collect())
}

/// Ids and names, of attacks and of the mirror, that are most like what was given.
pub(crate) fn near_matches(given: &str) -> Vec<&'static str> {
    // Of names that are equally near, those of the mirror come first: there are fewer of them.
    let mirror = ROWS.iter().flat_map(|row| [row.id, row.name]);
    nearest(given, mirror.chain(CATALOGUE.iter().flat_map(|attack| [attack.id, attack.name])))
}

/// Whether `text` matches a pattern in which `*` stands for any run of characters. Case does not matter.
pub(crate) fn glob_matches(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.to_lowercase(), text.to_lowercase());
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

/// How long a cell of so many seeds may take before it counts as wedged.
fn deadline(seeds: u64) -> Duration {
    CELL_DEADLINE + SEED_DEADLINE.saturating_mul(u32::try_from(seeds).unwrap_or(u32::MAX))
}

/// How long a cell may take to start and to end.
const CELL_DEADLINE: Duration = Duration::from_secs(20);
/// How long each of its seeds may take: the longest take about two seconds on a machine that is not busy, and a race that the
/// ring that trusts does not lose takes all the time that the model gives it.
const SEED_DEADLINE: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_ids_and_names() {
        assert!(glob_matches("*", "A01"));
        assert!(glob_matches("a0*", "A08b"));
        assert!(glob_matches("split.used.*", "split.used.id_oob"));
        assert!(glob_matches("*len*", "split.used.len_zero"));
        assert!(!glob_matches("A01", "A010"));
        assert!(!glob_matches("*.len", "split.used.len_zero"));
    }

    #[test]
    fn every_part_of_a_list_has_to_match() {
        let ids = |list| select(list).map(|found| found.iter().map(|attack| attack.id).collect::<Vec<_>>());
        assert_eq!(ids("A03, a01 ,").unwrap(), ["A01", "A03"]);
        assert_eq!(ids("vu.*l*,A01").unwrap(), ["A01", "A108", "A109", "A110", "A111", "A111b", "A112"]);
        for (list, part) in [("A01,A999", "`A999`"), ("nothing.*,A01", "`nothing.*`"), (",", "`,`"), ("", "``")] {
            let error = ids(list).unwrap_err();
            assert_eq!(error.to_failure().exit, Exit::Usage);
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn more_seeds_may_take_longer() {
        assert_eq!(deadline(1), Duration::from_secs(50));
        assert_eq!(deadline(1024), Duration::from_secs(20 + 30 * 1024));
    }

    #[test]
    fn what_could_not_run_is_told_from_what_cannot_be_asked_for() {
        assert_eq!(AuditError::Spawn(std::io::Error::other("no more")).to_failure().exit, Exit::Unable);
        assert_eq!(AuditError::NoConfig.to_failure().exit, Exit::Usage);
    }

    #[test]
    fn an_unknown_attack_is_answered_with_a_near_one() {
        let error = select("A999").unwrap_err().to_string();
        assert!(error.contains("did you mean A"), "{error}");
        let error = select("B99").unwrap_err().to_string();
        assert!(error.contains("did you mean B"), "{error}");
    }
}
