//! What an audit says: as JSON, and as a table that is read at a glance.

use ironring_backend::hostile::{Absent, Attack, Class};
use serde::Serialize;

use super::cell::{CellResult, Death};
use super::html::Repeat;
use super::victims::{self, Outcome, VictimRow};
use super::{RingUnderTest, Target};
use crate::config::RingConfig;
use crate::heart::no_place;
use crate::mirror::MirrorRow;
use crate::output::{Cell, Exit, Look, Table, paint};
use crate::verdict::NOT_APPLICABLE;

/// The result of an audit. `contained` and `escaped` count hardened cells.
#[derive(Clone, Debug, Serialize)]
pub struct AuditReport {
    /// Attacks that were run.
    pub attacks: usize,
    /// Cells: attack and ring.
    pub cells: usize,
    /// Hardened cells in which every declared verdict held.
    pub contained: usize,
    /// Hardened cells in which something else happened.
    pub escaped: usize,
    /// Parts that do not apply, with the reason.
    pub not_applicable: Vec<NotApplicable>,
    /// Attacks that were seen to bite the trusting ring.
    pub bites_trusting: usize,
    /// Attacks on memory safety or confidentiality that bit nobody.
    pub duds: Vec<String>,
    /// One row a cell.
    pub rows: Vec<Row>,
    /// Drivers of others: one entry a cell.
    pub victims: Vec<VictimRow>,
    /// The backend under a driver that is hostile.
    pub mirror: Vec<MirrorRow>,
    /// How the backend ended, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror_death: Option<String>,
    /// How long it took.
    pub seconds: f64,
    /// Why the audit says nothing at all, if no cell of it applies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    /// How to see the same again.
    #[serde(skip)]
    pub(super) repeat: Repeat,
}

/// A part of the audit that cannot be run, and why.
#[derive(Clone, Debug, Serialize)]
pub struct NotApplicable {
    /// Which cell.
    pub cell: String,
    /// Why.
    pub reason: String,
}

/// One cell.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Id of the attack.
    pub attack: String,
    /// Its name.
    pub name: String,
    /// Its class.
    pub class: String,
    /// The ring's configuration.
    pub config: String,
    /// `hardened` or `trusting`.
    pub ring: RingUnderTest,
    /// The verdicts that are declared for it.
    pub expected: Vec<String>,
    /// What was seen: a verdict of the driver; `bitten`, `unharmed` or `not-applicable` for the trusting ring; `wedged` or
    /// `crashed` for a cell that did not end well.
    pub verdict: String,
    /// What the ring did in the model, for the hardened ring; `verdict` is then what the network driver did live, if it can
    /// meet the attack.
    pub model: Vec<String>,
    /// What the watchers saw, or how the cell ended if not well.
    pub oracle: Vec<String>,
    /// How often the attack struck.
    pub strikes: u64,
    /// Whether this is as declared.
    pub held: bool,
}

impl AuditReport {
    pub(super) fn new(attacks: usize) -> Self {
        Self {
            attacks,
            cells: 0,
            contained: 0,
            escaped: 0,
            not_applicable: Vec::new(),
            bites_trusting: 0,
            duds: Vec::new(),
            rows: Vec::new(),
            victims: Vec::new(),
            mirror: Vec::new(),
            mirror_death: None,
            seconds: 0.0,
            skipped: Vec::new(),
            repeat: Repeat::default(),
        }
    }

    /// Whether every declared verdict held and no attack was a dud.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.escaped == 0
            && self.duds.is_empty()
            && self.rows.iter().all(|row| row.held)
            && self.mirror.iter().all(|row| row.held)
            && self.mirror_death.is_none()
    }

    /// What is to be said of it as an exit status.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self.passed() {
            true if !self.skipped.is_empty() => Exit::Unable,
            passed => Exit::of(passed),
        }
    }

    /// After the last cell: an audit in which nothing could be put to the test has not passed.
    pub(super) fn finish(&mut self) {
        if !self.rows.is_empty() && self.victims.is_empty() && self.rows.iter().all(|row| row.verdict == NOT_APPLICABLE)
        {
            let reason = |part: &NotApplicable| format!("{}: {}", part.cell, part.reason);
            self.skipped = self.not_applicable.iter().map(reason).collect();
        }
    }

    /// Adds entries of the catalogue that are not run.
    pub(super) fn absent<'a>(&mut self, entries: impl Iterator<Item = &'a Absent>) {
        let cell = |absent: &Absent| format!("{} {}", absent.id, absent.name);
        self.not_applicable.extend(entries.map(|absent| NotApplicable {
            cell: cell(absent),
            reason: match absent.joins_with {
                Some(feature) => format!("{} (joins with {feature})", absent.reason),
                None => absent.reason.to_owned(),
            },
        }));
    }

    /// Adds the result of a cell.
    pub(super) fn add(&mut self, attack: &Attack, config: RingConfig, ring: RingUnderTest, result: CellResult) {
        self.cells += 1;
        let config = config.to_string();
        if ring.target() != Target::Ironring {
            self.victim(attack, config, ring.target(), result);
            return;
        }
        for reason in unique(result.not_applicable.clone()) {
            self.not_applicable.push(NotApplicable { cell: format!("{} {config} {}", attack.id, ring.name()), reason });
        }
        let Judged { expected, verdict, held } = match ring {
            RingUnderTest::Hardened => self.hardened(attack, &result),
            RingUnderTest::Trusting | RingUnderTest::VirtioDrivers => self.trusting(attack, &result),
        };
        let how = result.death.map(|death| death.how);
        self.rows.push(Row {
            attack: attack.id.to_owned(),
            name: attack.name.to_owned(),
            class: attack.class.name().to_owned(),
            config,
            ring,
            expected,
            verdict,
            model: unique(result.model),
            oracle: unique(result.findings.into_iter().chain(how).collect()),
            strikes: result.strikes,
            held,
        });
    }

    /// Whatever became of a driver of others is a finding.
    fn victim(&mut self, attack: &Attack, config: String, target: Target, result: CellResult) {
        let word = result.encounter.unwrap_or_default();
        let encounter = result.death.map_or(word, |death| victims::of_death(death.verdict, death.how));
        self.victims.push(VictimRow { target, attack: attack.id.to_owned(), config, encounter });
    }

    /// The driver has to answer as declared, live and in the model, and nothing may speak against it.
    fn hardened(&mut self, attack: &Attack, result: &CellResult) -> Judged {
        let expected: Vec<String> = attack.expected.iter().map(|verdict| verdict.name().to_owned()).collect();
        let declared = |verdict: &String| expected.contains(verdict);
        let seen = || result.live.iter().chain(&result.model);
        let held = result.death.is_none() && result.findings.is_empty() && seen().count() > 0 && seen().all(declared);
        let shown = match &result.death {
            Some(Death { verdict, .. }) => vec![(*verdict).to_owned()],
            // What was not declared first of all; else the network driver's word, or the ring's own where it has none.
            None if !seen().all(declared) => seen().filter(|verdict| !declared(verdict)).cloned().collect(),
            None if result.live.is_empty() => result.model.clone(),
            None => result.live.clone(),
        };
        *(if held { &mut self.contained } else { &mut self.escaped }) += 1;
        Judged { verdict: unique(shown).join("/"), expected, held }
    }

    /// The ring that trusts has to be bitten by what is to be taken seriously.
    fn trusting(&mut self, attack: &Attack, result: &CellResult) -> Judged {
        let expected = expected_of_trusting(attack);
        let verdict = match &result.death {
            Some(Death { verdict, .. }) => verdict,
            None if !result.findings.is_empty() => BITTEN,
            None if !result.not_applicable.is_empty() => NOT_APPLICABLE,
            None => UNHARMED,
        };
        let bitten = self.rows.iter().any(|row| row.attack == attack.id && row.verdict == BITTEN);
        self.bites_trusting += usize::from(verdict == BITTEN && !bitten);
        if expected == [BITTEN] && verdict == UNHARMED && !self.duds.iter().any(|dud| dud == attack.id) {
            self.duds.push(attack.id.to_owned());
        }
        let held = expected.contains(&verdict);
        Judged { expected: expected.iter().map(|word| (*word).to_owned()).collect(), verdict: verdict.to_owned(), held }
    }

    /// One line an attack and configuration, both rings side by side, and below it what did not hold.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new(&["attack", "", "ring", "ironring", "a ring that trusts its device"]);
        for (hardened, trusting) in self.pairs() {
            let Some(row) = hardened.or(trusting) else { continue };
            table.row(vec![
                Cell::new(&row.attack).look(Look::Bold),
                Cell::new(&row.name),
                Cell::new(&row.config).look(Look::Dim),
                hardened.map_or_else(dash, |row| Cell::new(&row.verdict).look(good_if(row.held))),
                trusting.map_or_else(dash, trusting_cell),
            ]);
        }
        let mut text = table.render();
        for row in self.rows.iter().filter(|row| !row.held) {
            let ring = row.ring.name();
            let expected = row.expected.join(" or ");
            let seen = if row.oracle.is_empty() { String::new() } else { format!("; {}", row.oracle.join("; ")) };
            let Row { attack, config, verdict, .. } = row;
            text += &format!("{attack} on the {ring} ring, {config}: expected {expected}, saw {verdict}{seen}\n");
        }
        text
    }

    /// One line a cell of a driver of others that was not unharmed, and how many were.
    fn victims_text(&self) -> String {
        if self.victims.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&["attack", "driver", "ring", "outcome", "what was seen"]);
        let noted = |row: &&VictimRow| row.encounter.outcome > Outcome::Unharmed;
        for row in self.victims.iter().filter(noted) {
            table.row(vec![
                Cell::new(&row.attack).look(Look::Bold),
                Cell::new(row.target.name()),
                Cell::new(&row.config).look(Look::Dim),
                Cell::new(row.encounter.outcome.name()),
                Cell::new(row.encounter.evidence.first().map_or("", String::as_str)).look(Look::Dim),
            ]);
        }
        let unharmed = self.victims.iter().filter(|row| row.encounter.outcome == Outcome::Unharmed).count();
        format!(
            "\n{}{unharmed} of {} cells of drivers of others went by unharmed\n",
            table.render(),
            self.victims.len()
        )
    }

    /// The table, the parts that do not apply, and one word.
    #[must_use]
    pub fn to_text(&self, seeds: u64) -> String {
        let mut text = if self.rows.is_empty() { String::new() } else { self.table() };
        text += &self.victims_text();
        text.push('\n');
        for skipped in &self.not_applicable {
            text += &paint(&format!("not applicable  {}: {}", skipped.cell, skipped.reason), Look::Dim);
            text.push('\n');
        }
        for row in self.mirror.iter().filter(|row| !row.held) {
            let MirrorRow { attack, config, expected, verdict, oracle, .. } = row;
            let (expected, seen) =
                (expected.join(" or "), verdict.iter().chain(oracle).cloned().collect::<Vec<_>>().join("; "));
            text += &format!("{attack} on the backend, {config}: expected {expected}, saw {seen}\n");
        }
        text.extend(self.mirror_death.iter().map(|death| format!("{death}\n")));
        for skipped in &self.skipped {
            text += &format!("skipped  {skipped}\n");
        }
        let (word, look) = match self.exit() {
            Exit::Held => ("PASS", Look::Good),
            Exit::Unable => ("SKIP", Look::Dim),
            Exit::Broke | Exit::Usage => ("FAIL", Look::Bad),
        };
        let mut facts = Vec::new();
        let hardened = self.contained + self.escaped;
        if hardened > 0 {
            facts.push(format!("{} of {hardened} cells contained", self.contained));
        }
        if self.cells > hardened {
            facts.push(format!("{} of {} bit the ring that trusts", self.bites_trusting, self.attacks));
        }
        if !self.duds.is_empty() {
            facts.push(format!("duds: {}", self.duds.join(", ")));
        }
        if !self.mirror.is_empty() {
            let held = self.mirror.iter().filter(|row| row.held).count();
            facts.push(format!("{held} of {} strikes at the backend contained", self.mirror.len()));
        }
        let seeds = if seeds == 1 { "1 seed".to_owned() } else { format!("{seeds} seeds each") };
        facts.push(format!("{} cells, {seeds}, {:.0} s", self.cells, self.seconds));
        text + &format!("{}  {}\n", paint(word, look), facts.join(", "))
    }

    /// The rows by attack and configuration: hardened and trusting, of which one may not have been run.
    fn pairs(&self) -> impl Iterator<Item = (Option<&Row>, Option<&Row>)> {
        let same = |one: &Row, two: &Row| one.attack == two.attack && one.config == two.config;
        let of = move |row: &Row, ring| self.rows.iter().find(|other| same(row, other) && other.ring == ring);
        let first = move |at: usize, row: &Row| self.rows.iter().take(at).all(|earlier| !same(earlier, row));
        let rows = self.rows.iter().enumerate().filter(move |(at, row)| first(*at, row));
        rows.map(move |(_, row)| (of(row, RingUnderTest::Hardened), of(row, RingUnderTest::Trusting)))
    }
}

/// What a cell comes to.
struct Judged {
    expected: Vec<String>,
    verdict: String,
    held: bool,
}

/// What an attack has to do to the ring that trusts. On memory safety and confidentiality it has to bite, or it proves
/// nothing; of the others, some are about what that ring does not have.
fn expected_of_trusting(attack: &Attack) -> &'static [&'static str] {
    if no_place(attack).is_some() {
        &[NOT_APPLICABLE]
    } else if matches!(attack.class, Class::MemorySafety | Class::Disclosure) {
        &[BITTEN]
    } else {
        &[BITTEN, UNHARMED]
    }
}

/// A watcher saw harm.
const BITTEN: &str = "bitten";
/// No watcher saw any.
const UNHARMED: &str = "unharmed";

/// What became of the ring that trusts, and how.
fn trusting_cell(row: &Row) -> Cell {
    let how = row.oracle.first().map(|first| first.split_once(": ").map_or(first.as_str(), |(_, words)| words));
    let text = how.map_or_else(|| row.verdict.clone(), |how| format!("{}: {how}", row.verdict));
    let look = match (row.held, how) {
        (true, Some(_)) => Look::Plain,
        (true, None) => Look::Dim,
        (false, _) => Look::Bad,
    };
    Cell::new(text).look(look)
}

fn dash() -> Cell {
    Cell::new("-").look(Look::Dim)
}

const fn good_if(held: bool) -> Look {
    if held { Look::Good } else { Look::Bad }
}

fn unique(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list.dedup();
    list
}

#[cfg(test)]
mod tests {
    use ironring_backend::hostile::{CATALOGUE, find};

    use super::*;
    use crate::verdict::{CRASHED, WEDGED};

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|word| (*word).to_owned()).collect()
    }

    /// A hardened cell with these verdicts.
    fn cell(live: &[&str], model: &[&str]) -> CellResult {
        CellResult { live: words(live), model: words(model), strikes: 9, ..CellResult::default() }
    }

    /// The only row of an audit with this cell, and whether the audit passed.
    fn judged(id: &str, ring: RingUnderTest, result: CellResult) -> (Row, AuditReport) {
        let mut report = AuditReport::new(1);
        report.add(find(id).unwrap(), RingConfig::default(), ring, result);
        (report.rows[0].clone(), report)
    }

    #[test]
    fn the_driver_and_the_model_both_have_to_do_as_declared() {
        for (live, model, verdict, held) in [
            (&["broken"][..], &["broken", "broken"][..], "broken", true),
            (&[], &["broken"], "broken", true),
            (&["broken"], &["broken", "no-effect"], "no-effect", false),
            (&["no-effect"], &["broken"], "no-effect", false),
            (&["wedged", "broken"], &["broken"], "wedged", false),
            (&[], &[], "", false),
        ] {
            let (row, report) = judged("A23", RingUnderTest::Hardened, cell(live, model));
            assert_eq!((row.verdict.as_str(), row.held), (verdict, held), "{live:?} {model:?}");
            assert_eq!((report.contained, report.escaped), (usize::from(held), usize::from(!held)));
            assert_eq!(report.passed(), held);
        }
    }

    #[test]
    fn a_finding_fails_a_hardened_cell_whatever_its_verdict() {
        let result = CellResult { findings: words(&["a byte changed"]), ..cell(&["broken"], &["broken"]) };
        assert!(!judged("A23", RingUnderTest::Hardened, result).0.held);
    }

    #[test]
    fn a_dead_cell_never_holds_and_bites_nobody() {
        for attack in CATALOGUE.iter() {
            for verdict in [WEDGED, CRASHED] {
                for ring in [RingUnderTest::Hardened, RingUnderTest::Trusting] {
                    let (row, report) = judged(attack.id, ring, CellResult::of_death(verdict, "signal 11".to_owned()));
                    assert_eq!((row.verdict.as_str(), row.held), (verdict, false), "{} {ring:?}", attack.id);
                    assert_eq!(row.oracle, ["signal 11"]);
                    assert_eq!((report.bites_trusting, report.passed()), (0, false));
                }
            }
        }
    }

    #[test]
    fn an_audit_in_which_nothing_applies_is_skipped() {
        let skip = || CellResult { not_applicable: words(&["it has no channel"]), ..CellResult::default() };
        let (_, mut report) = judged("A110", RingUnderTest::Trusting, skip());
        report.finish();
        assert_eq!(
            (report.exit(), report.skipped.as_slice()),
            (Exit::Unable, &words(&["A110 split trusting: it has no channel"])[..])
        );
        assert!(report.to_text(1).contains("SKIP"));
        report.add(find("A110").unwrap(), RingConfig::default(), RingUnderTest::Hardened, cell(&["timed-out"], &[]));
        report.skipped.clear();
        report.finish();
        assert_eq!(report.exit(), Exit::Held);
    }

    #[test]
    fn the_trusting_ring_is_judged_by_what_the_attack_is_for() {
        let bite = || CellResult { findings: words(&["seed 1: a byte changed"]), ..CellResult::default() };
        let skip = || CellResult { not_applicable: words(&["no such thing"]), ..CellResult::default() };
        for (id, result, verdict, held, expected) in [
            ("A01", bite(), "bitten", true, &["bitten"][..]),
            ("A01", CellResult::default(), "unharmed", false, &["bitten"]),
            ("A01", skip(), "not-applicable", false, &["bitten"]),
            ("A15", CellResult::default(), "unharmed", true, &["bitten", "unharmed"]),
            ("A104", skip(), "not-applicable", true, &["not-applicable"]),
            ("A110", skip(), "not-applicable", true, &["not-applicable"]),
            ("A119", bite(), "bitten", false, &["not-applicable"]),
        ] {
            let (row, report) = judged(id, RingUnderTest::Trusting, result);
            assert_eq!((row.verdict.as_str(), row.held), (verdict, held), "{id}");
            assert_eq!(row.expected, expected, "{id}");
            assert_eq!(report.duds.len(), usize::from(verdict == "unharmed" && !held));
        }
    }
}
