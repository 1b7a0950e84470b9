//! The main job, without any arguments: does it work, and does it hold?
//!
//! For every ring layout: an honest backend in a process of its own, the driver here, a capture of real traffic sent
//! round and round, every frame compared. Then a short audit: every attack of the catalogue against the hardened driver
//! and against a ring that trusts. At the end a table, and one word.

use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;

use crate::audit::{self, AuditArgs, AuditReport};
use crate::capture::Capture;
use crate::output::{self, Cell, Exit, Failure, Look, Table, grouped, paint};
use crate::pair::{self, Layout, PairOptions, PairReport, Source};

/// All that the main job found.
#[derive(Debug, Serialize)]
struct DemoReport {
    /// The whole held.
    passed: bool,
    /// One pair a layout.
    pairs: Vec<PairReport>,
    audit: AuditReport,
    seconds: f64,
}

/// Runs the main job and prints what came of it.
#[must_use]
pub fn main(log: Option<&str>, json: bool) -> ExitCode {
    if !json {
        output::print_text(WHAT);
    }
    match run(log) {
        Ok(report) => {
            if json {
                output::print_json(&report);
            } else {
                output::print_text(&report.to_text());
            }
            Exit::of(report.passed).into()
        }
        Err(failure) => output::fail_with(json, &failure),
    }
}

fn run(log: Option<&str>) -> Result<DemoReport, Failure> {
    let started = Instant::now();
    let capture = Capture::parse(CAPTURE.to_vec(), usize::from(u16::MAX))
        .map_err(|why| Failure::broke(format!("the bundled capture is damaged: {why}; build this program again")))?;
    let layouts = [Layout::Split, Layout::Packed].into_iter();
    let pairs: Vec<_> =
        layouts.map(|layout| round_and_round(layout, capture.clone(), log)).collect::<Result<_, _>>()?;
    let audit = short_audit()?;
    let passed = pairs.iter().all(PairReport::held) && audit.passed();
    Ok(DemoReport { passed, pairs, audit, seconds: started.elapsed().as_secs_f64() })
}

/// The capture through rings of a layout, over and over.
fn round_and_round(layout: Layout, capture: Capture, log: Option<&str>) -> Result<PairReport, Failure> {
    let frames = PASSES.saturating_mul(u64::try_from(capture.len()).unwrap_or(u64::MAX));
    let mut options = PairOptions::new(Source::embedded(capture), frames);
    options.log = log.map(ToOwned::to_owned);
    options.layout = layout;
    let bar = output::progress(layout.name());
    pair::run(&options, |done, of| bar.frames(done, of)).map_err(|error| error.to_failure())
}

/// Every attack once, against both rings.
fn short_audit() -> Result<AuditReport, Failure> {
    let bar = output::progress("audit");
    audit::run(&AuditArgs::default(), |done, of, what| bar.update(done, of, what)).map_err(|error| error.to_failure())
}

impl DemoReport {
    fn to_text(&self) -> String {
        let mut text = format!("\n{}", self.pairs_table());
        text += &format!("\n{}", self.audit.table());
        let (word, look) = if self.passed { ("PASS", Look::Good) } else { ("FAIL", Look::Bad) };
        let hardened = self.audit.contained + self.audit.escaped;
        text += &format!(
            "\n{}  {} of {} frames equal, {} of {hardened} cells contained, {} of {} attacks bit the ring that trusts, {:.0} s\n",
            paint(word, look),
            grouped(self.pairs.iter().map(PairReport::verified).sum()),
            grouped(self.pairs.iter().map(|pair| pair.frames_sent).sum()),
            self.audit.contained,
            self.audit.bites_trusting,
            self.audit.attacks,
            self.seconds,
        );
        text
    }

    fn pairs_table(&self) -> String {
        let mut table = Table::new(&["ring", "frames sent", "back and equal", "M/s", "result"]);
        for pair in &self.pairs {
            let result = match (&pair.error, pair.held()) {
                (Some(error), _) => Cell::new(error.clone()).look(Look::Bad),
                (None, true) => Cell::new("every frame equal").look(Look::Good),
                (None, false) => Cell::new(pair.verdict).look(Look::Bad),
            };
            table.row(vec![
                Cell::new(pair.layout.name()),
                Cell::number(grouped(pair.frames_sent)),
                Cell::number(grouped(pair.verified())),
                Cell::number(format!("{:.1}", pair.compared.map_or(0.0, |compared| compared.mfps))),
                result,
            ]);
        }
        table.render()
    }
}

const WHAT: &str = "ironring: a virtio-net driver that does not trust its device, against a backend that keeps the rules and one that does not";
/// Real traffic: ARP, ICMP, DNS, HTTP, IPv6, VLAN; see `data/README.md`.
const CAPTURE: &[u8] = include_bytes!("../data/real-traffic.pcap");
/// How often the capture goes round.
const PASSES: u64 = 500;
