//! What an audit says: as JSON, and as a table that is read at a glance.

use std::fmt::Write as _;

use ironring_backend::hostile::{Attack, Class};
use serde::Serialize;

use super::cell::CellResult;
use super::{AuditArgs, RingUnderTest};

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
    pub(super) fn add(&mut self, attack: &Attack, ring: RingUnderTest, args: &AuditArgs, result: CellResult) {
        self.cells += 1;
        let config = "split".to_owned();
        for reason in unique(result.not_applicable.clone()) {
            self.not_applicable.push(NotApplicable { cell: format!("{}/{config}/{ring:?}", attack.id), reason });
        }
        let expected: Vec<String> = attack.expected.iter().map(|verdict| verdict.name().to_owned()).collect();
        let verdicts = unique(result.verdicts.clone());
        let (verdict, held) = match ring {
            RingUnderTest::Hardened => {
                let held = result.findings.is_empty() && verdicts.iter().all(|verdict| expected.contains(verdict));
                if held {
                    self.contained += 1;
                } else {
                    self.escaped += 1;
                }
                let shown = if verdicts.is_empty() { expected.join("/") } else { verdicts.join("/") };
                (if held || !result.findings.is_empty() { shown } else { verdicts.join("/") }, held)
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
        let _ = args;
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

    /// The table: one line an attack, both rings side by side.
    #[must_use]
    pub fn to_text(&self, seeds: u64) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "{:<6} {:<24} {:<14} {:<22} trusting ring", "id", "attack", "class", "ironring");
        for row in self.rows.iter().filter(|row| row.ring == RingUnderTest::Hardened) {
            let trusting = self.rows.iter().find(|other| other.attack == row.attack && other.ring != row.ring);
            self.line(&mut text, row, Some(row), trusting);
        }
        let lonely = |row: &&Row| !self.rows.iter().any(|o| o.attack == row.attack && o.ring != row.ring);
        for row in self.rows.iter().filter(|row| row.ring == RingUnderTest::Trusting).filter(lonely) {
            self.line(&mut text, row, None, Some(row));
        }
        let hardened = self.contained + self.escaped;
        let _ = writeln!(text);
        if hardened > 0 {
            let _ = writeln!(text, "contained {} of {hardened}, escaped {}", self.contained, self.escaped);
        }
        if self.cells > hardened {
            let duds = if self.duds.is_empty() { "none".to_owned() } else { self.duds.join(", ") };
            let _ = writeln!(text, "bit the trusting ring: {} of {}; duds: {duds}", self.bites_trusting, self.attacks);
        }
        for skipped in &self.not_applicable {
            let _ = writeln!(text, "not applicable: {}: {}", skipped.cell, skipped.reason);
        }
        let verdict = if self.passed() { "PASS" } else { "FAIL" };
        let _ = writeln!(text, "{verdict}: {} cells, {seeds} seeds each, in {:.1} s", self.cells, self.seconds);
        text
    }

    #[expect(clippy::unused_self, reason = "reads as part of the table")]
    fn line(&self, text: &mut String, row: &Row, hardened: Option<&Row>, trusting: Option<&Row>) {
        let ours = hardened.map_or("-", |row| row.verdict.as_str());
        let mark = if row.held { ' ' } else { '!' };
        let theirs = trusting.map_or("-".to_owned(), |row| match row.oracle.first() {
            Some(first) => format!("{}: {}", row.verdict, shorten(first)),
            None => row.verdict.clone(),
        });
        let _ = writeln!(text, "{:<6}{mark}{:<24} {:<14} {:<22} {theirs}", row.attack, row.name, row.class, ours);
        if let Some(row) = hardened.filter(|row| !row.held) {
            for finding in &row.oracle {
                let _ = writeln!(text, "       expected {}; {finding}", row.expected.join("/"));
            }
        }
    }
}

/// The words of a finding, without the seed and cut to a line.
fn shorten(finding: &str) -> String {
    let words = finding.split_once(": ").map_or(finding, |(_, words)| words);
    words.chars().take(56).collect()
}

fn unique(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list.dedup();
    list
}
