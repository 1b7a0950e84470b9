//! All rows of the comparison, one after the other: `ironring bench --table`.
//!
//! A row is some work, two pairings, and what the ratio is to reach. A row that cannot be measured does not keep the others from
//! it.

use ironring_driver::queue::RingLayout;
use serde::Serialize;

use super::args::{BenchArgs, Question};
use super::result::{BenchReport, Forward};
use super::rounds::{Known, measure};
use super::sums::Ratio;
use super::work::{Api, Completions, Direction, Maker, Pairing, Size, Work};
use crate::audit::glob_matches;
use crate::config;
use crate::output::{self, Cell, Exit, Failure, Look, Table};

/// One comparison.
#[derive(Clone, Debug)]
pub(super) struct Row {
    name: String,
    question: Question,
    target: f64,
    /// Whether it is about the share of what the machine can stream.
    of_limit: bool,
}

/// What all rows came to.
#[derive(Clone, Debug, Serialize)]
pub struct TableReport {
    /// Each row that was asked for.
    pub rows: Vec<RowResult>,
    /// Rows that could not be run here, and why.
    pub skipped: Vec<String>,
    /// Whether somebody ended it before all rows had their turn.
    pub interrupted: bool,
}

/// What a row came to.
#[derive(Clone, Debug, Serialize)]
pub struct RowResult {
    /// Its name.
    pub row: String,
    /// The work, for people.
    pub work: String,
    /// The first pairing.
    pub pairing: &'static str,
    /// What it is compared with.
    pub vs: &'static str,
    /// What the ratio is to reach.
    pub target: f64,
    /// How many times as fast; a share, where it is compared with the limit.
    pub ratio: Option<Ratio>,
    /// Whether it does.
    pub reaches: Reaches,
    /// The first pairing against itself.
    pub noise: Option<Ratio>,
    /// All of it.
    pub result: Option<BenchReport>,
    /// Why there is no result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Whether a ratio reaches its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reaches {
    /// Surely, or with a target of parity within 6 % and not below it.
    Yes,
    /// Surely not.
    No,
    /// The target lies in the interval.
    Unsure,
    /// It was not measured.
    Failed,
}

impl Reaches {
    fn of(ratio: Ratio, target: f64) -> Self {
        let [low, high] = ratio.ci95;
        // A target of exactly 1 says "not slower", which no interval around 1 can show but a narrow one.
        let parity = (target - 1.0).abs() < f64::EPSILON && ratio.width() <= PARITY_WIDTH && ratio.median >= target;
        if low >= target || parity {
            Self::Yes
        } else if high < target {
            Self::No
        } else {
            Self::Unsure
        }
    }

    /// As reports say it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unsure => "unsure",
            Self::Failed => "failed",
        }
    }

    /// The class of its colour in a page.
    pub(super) const fn kind(self) -> &'static str {
        match self {
            Self::Yes => "good",
            Self::No => "bad",
            Self::Unsure => "unsure",
            Self::Failed => "none",
        }
    }

    const fn look(self) -> Look {
        match self {
            Self::Yes => Look::Good,
            Self::No | Self::Failed => Look::Bad,
            Self::Unsure => Look::Plain,
        }
    }
}

/// Runs the rows whose names match the glob of the command line.
///
/// # Errors
/// A usage error if none does; that none of them can be run here.
pub(super) fn run(args: &BenchArgs) -> Result<TableReport, Failure> {
    let (glob, samples) = (&args.rows, args.samples.unwrap_or(SAMPLES));
    let rows: Vec<Row> =
        rows().into_iter().filter(|row| glob.split(',').any(|part| glob_matches(part, &row.name))).collect();
    if rows.is_empty() {
        let names: Vec<String> = self::rows().into_iter().map(|row| row.name).collect();
        return Err(Failure::usage(format!("no row matches `{glob}`; there are {}", names.join(", "))));
    }
    let (mut known, mut report) =
        (Known::new(), TableReport { rows: Vec::new(), skipped: Vec::new(), interrupted: false });
    let all = rows.len();
    for (at, row) in rows.into_iter().enumerate() {
        output::note(&format!("row {} of {all}: {}", at + 1, row.name));
        let question = Question { cycles: args.record_core_cycles, ..row.question };
        match measure(&question, args.seconds, samples, &mut known) {
            Err(_) if known.is_interrupted() => {
                report.interrupted = true;
                report.skipped.push(format!("interrupted after {at} of {all} rows"));
                break;
            }
            Err(failure) if failure.exit == Exit::Unable => {
                report.skipped.push(format!("{}: {}", row.name, failure.sentence));
            }
            result => {
                let row = row.came_to(result);
                // Whoever cannot wait for the table has this.
                let ratio =
                    row.ratio.map_or_else(String::new, |ratio| format!("{:.2}, {}, ", ratio.median, interval(ratio)));
                output::note(&format!("  {ratio}target {:.2}: {}", row.target, row.reaches.name()));
                report.rows.push(row);
            }
        }
    }
    match report.skipped.first() {
        Some(first) if report.rows.is_empty() => Err(Failure::unable(first.clone())),
        _ => Ok(report),
    }
}

impl Row {
    fn came_to(self, result: Result<BenchReport, Failure>) -> RowResult {
        let Self { name, question, target, of_limit } = self;
        let (result, error) = match result {
            Ok(report) => (Some(report), None),
            Err(failure) => {
                output::note(&format!("ironring: {name}: {}", failure.sentence));
                (None, Some(failure.sentence))
            }
        };
        let ratio = result
            .as_ref()
            .and_then(|report| if of_limit { Some(report.limit_share) } else { report.vs.as_ref().map(|vs| vs.ratio) });
        RowResult {
            row: name,
            work: question.work.sentence(),
            pairing: question.first.name(),
            vs: question.vs.map_or("the limit", Pairing::name),
            target,
            ratio,
            reaches: ratio.map_or(Reaches::Failed, |ratio| Reaches::of(ratio, target)),
            noise: result.as_ref().and_then(|report| report.noise_floor),
            result,
            error,
        }
    }
}

impl TableReport {
    /// Whether every row was measured, or it was interrupted. What was reached is told, and is no failure: a machine may be slow.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self.rows.iter().all(|row| row.error.is_none()) {
            true if self.interrupted => Exit::Unable,
            measured => Exit::of(measured),
        }
    }

    /// For people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut table = Table::new(&["row", "ours", "against", "target", "ratio", "95 %", "reaches", "noise"]);
        for row in &self.rows {
            let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            table.row(vec![
                Cell::new(row.row.as_str()),
                Cell::new(row.pairing),
                Cell::new(row.vs),
                Cell::number(format!("{:.2}", row.target)),
                Cell::number(or_none(row.ratio.map(|ratio| format!("{:.2}", ratio.median)))),
                Cell::number(or_none(row.ratio.map(interval))),
                Cell::new(row.reaches.name()).look(row.reaches.look()),
                Cell::number(or_none(row.noise.map(|noise| format!("{:.0} %", 100.0 * noise.width())))),
            ]);
        }
        let mut text = table.render();
        for skipped in &self.skipped {
            text.push_str(&format!("not run: {skipped}\n"));
        }
        text
    }
}

fn interval(ratio: Ratio) -> String {
    format!("{:.2} to {:.2}", ratio.ci95[0], ratio.ci95[1])
}

/// All rows.
fn rows() -> Vec<Row> {
    use Direction::{Latency, Loop, Rx, Tx};
    use Maker::{Dpdk, Ironring};
    let ours = Pairing::Vhost(Ironring, Ironring);
    let on_vhost = Pairing::Vhost(Ironring, Dpdk);
    let under_dpdk = Pairing::Vhost(Dpdk, Ironring);
    let dpdk = Pairing::Vhost(Dpdk, Dpdk);
    let mut rows = Vec::new();
    let mut row = |name: String, (first, vs): (Pairing, Option<Pairing>), work, forward, target: f64| {
        let question = Question { first, vs, work, path: None, forward, cycles: false };
        rows.push(Row { name, question, target, of_limit: vs.is_none() });
    };
    // With testpmd looking at what it gets, as we do.
    for layout in [RingLayout::Split, RingLayout::Packed] {
        let name = config::name(layout);
        let versus = (ours, Some(dpdk));
        row(format!("headers/{name}/rx"), versus, work(layout, Rx), Forward::Icmpecho, 2.0);
        let versus = (on_vhost, Some(dpdk));
        row(format!("driver/{name}/rx-headers"), versus, work(layout, Rx), Forward::Icmpecho, 1.0);
    }
    row("loop/packed/macswap".to_owned(), (ours, Some(dpdk)), work(RingLayout::Packed, Loop), Forward::Macswap, 1.3);
    let mut add = |name, first, vs, work, target| row(name, (first, vs), work, Forward::Io, target);
    for layout in [RingLayout::Split, RingLayout::Packed] {
        let is_split = layout == RingLayout::Split;
        let pick = |split, packed| if is_split { split } else { packed };
        let name = config::name(layout);
        let sized = |dir, bytes| Work { size: Size::Bytes(bytes), ..work(layout, dir) };
        for (dir, way) in [(Tx, "tx"), (Rx, "rx")] {
            let plain = work(layout, dir);
            add(format!("driver/{name}/{way}"), on_vhost, Some(dpdk), plain, 1.0);
            add(format!("backend/{name}/{way}"), under_dpdk, Some(dpdk), plain, 1.3);
            add(format!("both/{name}/{way}"), ours, Some(dpdk), plain, 2.0);
            let shuffled = Work { completions: Completions::Shuffled, in_order: false, ..plain };
            add(format!("shuffled/{name}/{way}"), ours, Some(dpdk), shuffled, 1.5);
            // As testpmd does it, which writes 42 bytes of what it sends and none of what it receives.
            let api = if dir == Tx { Api::InPlace } else { Api::Lease };
            add(format!("512/{name}/{way}"), ours, Some(dpdk), Work { api, ..sized(dir, 512) }, pick(1.3, 1.0));
            add(format!("512/{name}/{way}-copy"), ours, Some(dpdk), sized(dir, 512), pick(1.3, 1.0));
            if dir == Rx {
                add(format!("lease/{name}/rx"), ours, Some(dpdk), Work { api, ..plain }, 2.0);
                add(format!("driver/{name}/rx-lease"), on_vhost, Some(dpdk), Work { api, ..plain }, 1.0);
            }
        }
        let round = work(layout, Loop);
        add(format!("loop/{name}/copy"), ours, Some(dpdk), round, pick(2.0, 1.3));
        add(format!("loop/{name}/lease"), ours, Some(dpdk), Work { api: Api::Lease, ..round }, 2.0);
        let hairpin = Work { api: Api::Hairpin, ..round };
        add(format!("loop/{name}/hairpin"), ours, Some(dpdk), hairpin, 2.0);
        add(format!("imix/{name}/hairpin"), ours, Some(dpdk), Work { size: Size::Imix, ..hairpin }, 1.5);
        add(format!("memif/{name}/tx"), ours, Some(Pairing::Memif), work(layout, Tx), 1.5);
        add(format!("memif/{name}/loop"), ours, Some(Pairing::Memif), round, 1.5);
        add(format!("imix/{name}/loop"), ours, Some(dpdk), Work { size: Size::Imix, ..round }, 1.5);
        let in_place = Work { api: Api::InPlace, ..sized(Tx, 1518) };
        add(format!("1518/{name}/in-place"), ours, Some(dpdk), in_place, 1.3);
        add(format!("1518/{name}/copy"), ours, Some(dpdk), sized(Tx, 1518), pick(0.9, 0.75));
        add(format!("latency/{name}"), ours, Some(dpdk), work(layout, Latency), 1.0);
        for (dir, way) in [(Tx, "tx"), (Rx, "rx"), (Loop, "loop")] {
            let trusting = Some(Pairing::Trusting(Ironring));
            add(format!("trusting/{name}/{way}"), ours, trusting, work(layout, dir), 0.97);
        }
        add(format!("limit/{name}/tx"), ours, None, work(layout, Tx), 0.6);
    }
    rows
}

/// Frames of 64 bytes as the command line has them by itself.
pub(super) const fn work(layout: RingLayout, dir: Direction) -> Work {
    Work {
        layout,
        dir,
        size: Size::Bytes(64),
        ring_size: 256,
        burst: 32,
        in_order: matches!(layout, RingLayout::Packed),
        api: Api::Copy,
        completions: Completions::InOrder,
        hugepages: false,
        queues: 1,
        idle_queues: 0,
        threads: 1,
        share_cpus: false,
    }
}

/// Samples of each pairing of a row.
const SAMPLES: u32 = 10;
/// The interval of a ratio that is to be 1 may be so wide.
const PARITY_WIDTH: f64 = 0.06;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_can_be_asked_and_has_a_name_of_its_own() {
        let rows = rows();
        let names: std::collections::BTreeSet<&str> = rows.iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names.len(), rows.len());
        for row in &rows {
            assert_eq!(row.question.check(), Ok(()), "{}", row.name);
        }
        let matching = |glob| rows.iter().filter(|row| glob_matches(glob, &row.name)).count();
        assert_eq!((matching("trusting/*"), matching("*/split/tx"), matching("latency/*")), (6, 8, 2));
    }

    #[test]
    fn an_interval_is_above_below_or_around_its_target() {
        let reaches = |median, low, high, target| Reaches::of(Ratio { median, ci95: [low, high] }, target);
        assert_eq!(reaches(2.3, 2.1, 2.5, 2.0), Reaches::Yes);
        assert_eq!(reaches(2.1, 1.9, 2.3, 2.0), Reaches::Unsure);
        assert_eq!(reaches(1.8, 1.7, 1.9, 2.0), Reaches::No);
        assert_eq!(reaches(1.01, 0.99, 1.03, 1.0), Reaches::Yes, "parity within 6 %");
        assert_eq!(reaches(1.01, 0.95, 1.06, 1.0), Reaches::Unsure);
        assert_eq!(reaches(0.98, 0.96, 1.0, 0.97), Reaches::Unsure, "the lower end counts");
        assert_eq!(reaches(0.99, 0.975, 1.0, 0.97), Reaches::Yes);
    }

    #[test]
    fn a_row_that_failed_stands_in_the_table() {
        let row = rows().swap_remove(0);
        let report = TableReport {
            rows: vec![row.came_to(Err(Failure::broke("it did not <come> up")))],
            skipped: vec![],
            interrupted: false,
        };
        assert_eq!((report.exit(), report.rows[0].reaches), (Exit::Broke, Reaches::Failed));
        let page = report.to_html();
        assert!(page.contains("it did not &lt;come&gt; up") && page.ends_with("</html>\n"));
        assert!(report.to_text().contains("failed"));
    }
}
