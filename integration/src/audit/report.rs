//! What an audit says: as JSON, and as a table that is read at a glance.

use ironring_backend::hostile::{Attack, Class};
use serde::Serialize;

use super::RingUnderTest;
use super::cell::CellResult;
use crate::output::{Cell, Look, Table, paint};

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
    /// How long it took.
    pub seconds: f64,
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
    /// What was seen: a verdict of the driver; `bitten` or `unharmed` for the trusting ring.
    pub verdict: String,
    /// What the watchers saw.
    pub oracle: Vec<String>,
    /// How often the attack struck.
    pub strikes: u64,
    /// Whether this is as declared.
    pub held: bool,
}

impl AuditReport {
    pub(super) const fn new(attacks: usize) -> Self {
        Self {
            attacks,
            cells: 0,
            contained: 0,
            escaped: 0,
            not_applicable: Vec::new(),
            bites_trusting: 0,
            duds: Vec::new(),
            rows: Vec::new(),
            seconds: 0.0,
        }
    }

    /// Whether every declared verdict held and no attack was a dud.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.escaped == 0 && self.duds.is_empty() && self.rows.iter().all(|row| row.held)
    }

    /// Adds the result of a cell.
    pub(super) fn add(&mut self, attack: &Attack, ring: RingUnderTest, result: CellResult) {
        self.cells += 1;
        let config = "split".to_owned();
        for reason in unique(result.not_applicable.clone()) {
            self.not_applicable.push(NotApplicable { cell: format!("{} {config} {}", attack.id, ring.name()), reason });
        }
        let expected: Vec<String> = attack.expected.iter().map(|verdict| verdict.name().to_owned()).collect();
        let verdicts = unique(result.verdicts.clone());
        let (verdict, held) = match ring {
            RingUnderTest::Hardened => {
                let held = result.findings.is_empty()
                    && !verdicts.is_empty()
                    && verdicts.iter().all(|verdict| expected.contains(verdict));
                if held {
                    self.contained += 1;
                } else {
                    self.escaped += 1;
                }
                (verdicts.join("/"), held)
            }
            RingUnderTest::Trusting => {
                let bitten = !result.findings.is_empty();
                let must_bite = matches!(attack.class, Class::MemorySafety | Class::Disclosure);
                self.bites_trusting += usize::from(bitten);
                if must_bite && !bitten {
                    self.duds.push(attack.id.to_owned());
                }
                let verdict = match (bitten, result.not_applicable.is_empty()) {
                    (true, _) => "bitten",
                    (false, true) => "unharmed",
                    (false, false) => "not-applicable",
                };
                (verdict.to_owned(), bitten || !must_bite)
            }
        };
        self.rows.push(Row {
            attack: attack.id.to_owned(),
            name: attack.name.to_owned(),
            class: attack.class.name().to_owned(),
            config,
            ring,
            expected: if ring == RingUnderTest::Hardened { expected } else { vec!["bitten".into()] },
            verdict,
            oracle: unique(result.findings),
            strikes: result.strikes,
            held,
        });
    }

    /// One line an attack, both rings side by side, and below it what did not hold.
    #[must_use]
    pub fn table(&self) -> String {
        let mut table = Table::new(&["attack", "", "class", "ironring", "a ring that trusts its device"]);
        for (hardened, trusting) in self.pairs() {
            let Some(row) = hardened.or(trusting) else { continue };
            table.row(vec![
                Cell::new(&row.attack).look(Look::Bold),
                Cell::new(&row.name),
                Cell::new(&row.class).look(Look::Dim),
                hardened.map_or_else(dash, |row| Cell::new(&row.verdict).look(good_if(row.held))),
                trusting.map_or_else(dash, trusting_cell),
            ]);
        }
        let mut text = table.render();
        for row in self.rows.iter().filter(|row| !row.held) {
            let ring = row.ring.name();
            let expected = row.expected.join(" or ");
            let seen = if row.oracle.is_empty() { String::new() } else { format!("; {}", row.oracle.join("; ")) };
            text += &format!("{} on the {ring} ring: expected {expected}, saw {}{seen}\n", row.attack, row.verdict);
        }
        text
    }

    /// The table, the parts that do not apply, and one word.
    #[must_use]
    pub fn to_text(&self, seeds: u64) -> String {
        let mut text = self.table();
        text.push('\n');
        for skipped in &self.not_applicable {
            text += &paint(&format!("not applicable  {}: {}", skipped.cell, skipped.reason), Look::Dim);
            text.push('\n');
        }
        let (word, look) = if self.passed() { ("PASS", Look::Good) } else { ("FAIL", Look::Bad) };
        let mut facts = Vec::new();
        let hardened = self.contained + self.escaped;
        if hardened > 0 {
            facts.push(format!("{} of {hardened} attacks contained", self.contained));
        }
        if self.cells > hardened {
            facts.push(format!("{} of {} bit the ring that trusts", self.bites_trusting, self.attacks));
        }
        if !self.duds.is_empty() {
            facts.push(format!("duds: {}", self.duds.join(", ")));
        }
        let seeds = if seeds == 1 { "1 seed".to_owned() } else { format!("{seeds} seeds each") };
        facts.push(format!("{} cells, {seeds}, {:.0} s", self.cells, self.seconds));
        text + &format!("{}  {}\n", paint(word, look), facts.join(", "))
    }

    /// The rows by attack: hardened and trusting, of which one may not have been run.
    fn pairs(&self) -> impl Iterator<Item = (Option<&Row>, Option<&Row>)> {
        let of = |attack: &str, ring| self.rows.iter().find(|row| row.attack == attack && row.ring == ring);
        let first = |at: usize, row: &Row| self.rows.iter().take(at).all(|earlier| earlier.attack != row.attack);
        let rows = self.rows.iter().enumerate().filter(move |(at, row)| first(*at, row));
        rows.map(move |(_, row)| (of(&row.attack, RingUnderTest::Hardened), of(&row.attack, RingUnderTest::Trusting)))
    }
}

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
