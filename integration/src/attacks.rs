//! The `attacks` subcommand: the catalogue, the rows of the mirror, and one entry of them.

use std::process::ExitCode;

use ironring_backend::hostile::{self, ABSENT, Absent, Attack, CATALOGUE};
use serde::Serialize;

use crate::audit::near_matches;
use crate::config;
use crate::mirror::{self, ROWS, Row};
use crate::output::{self, Cell, Exit, Failure, Look, Table};

/// What to do with the catalogue.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum AttacksCommand {
    /// Show everything that is known of one attack
    Show {
        /// Its id or name, for example A01 or split.desc.addr
        #[arg(value_name = "ID|NAME")]
        attack: String,
    },
}

/// The whole catalogue.
#[derive(Serialize)]
struct Listing {
    attacks: &'static [Attack],
    /// Entries that are not run.
    absent: &'static [Absent],
    /// What a driver does to the backend.
    mirror: Vec<Mirrored>,
}

/// A row of the mirror.
#[derive(Serialize)]
struct Mirrored {
    id: &'static str,
    name: &'static str,
    what: &'static str,
    layouts: Vec<&'static str>,
    expected: &'static [&'static str],
    racing: bool,
}

impl From<&'static Row> for Mirrored {
    fn from(row: &'static Row) -> Self {
        let Row { id, name, what, expected, racing, .. } = *row;
        Self { id, name, what, layouts: row.layouts.iter().copied().map(config::name).collect(), expected, racing }
    }
}

/// The `attacks` subcommand.
#[must_use]
pub fn main(command: Option<&AttacksCommand>, json: bool) -> ExitCode {
    match command {
        None => list(json),
        Some(AttacksCommand::Show { attack }) => match hostile::find(attack) {
            Some(found) => show(found, json),
            None => match (hostile::find_absent(attack), mirror::find(attack)) {
                (Some(absent), _) => show_absent(absent, json),
                (None, Some(row)) => show_mirrored(&row.into(), json),
                (None, None) => output::fail_with(json, &unknown(attack)),
            },
        },
    }
}

fn list(json: bool) -> ExitCode {
    if json {
        let mirror = ROWS.iter().map(Mirrored::from).collect();
        output::print_json(&Listing { attacks: &CATALOGUE, absent: &ABSENT, mirror });
        return Exit::Held.into();
    }
    let mut table = Table::new(&["id", "name", "class", "timing", "expected"]);
    for attack in CATALOGUE.iter() {
        table.row(vec![
            Cell::new(attack.id).look(Look::Bold),
            Cell::new(attack.name),
            Cell::new(attack.class.name()),
            Cell::new(word(&attack.timing)),
            Cell::new(expected(attack)),
        ]);
    }
    let mut rest = Table::new(&["id", "name", "why it is not run"]);
    for absent in &ABSENT {
        rest.row(vec![
            Cell::new(absent.id).look(Look::Bold),
            Cell::new(absent.name),
            Cell::new(absent.reason).look(Look::Dim),
        ]);
    }
    let mut mirror = Table::new(&["id", "name", "what a driver does to the backend"]);
    for row in &ROWS {
        mirror.row(vec![Cell::new(row.id).look(Look::Bold), Cell::new(row.name), Cell::new(row.what).look(Look::Dim)]);
    }
    let (count, others, mirrored) = (CATALOGUE.len(), ABSENT.len(), ROWS.len());
    let (text, rest, mirror) = (table.render(), rest.render(), mirror.render());
    output::print_text(&format!(
        "{text}\n{rest}\n{mirror}{count} attacks, {others} that are not run, and {mirrored} at the backend; \
         `ironring attacks show ID` says what one does\n"
    ));
    Exit::Held.into()
}

fn show(attack: &Attack, json: bool) -> ExitCode {
    if json {
        output::print_json(attack);
        return Exit::Held.into();
    }
    let mut table = Table::new(&[attack.id, attack.name]);
    let racing = if attack.racing { "yes, from a thread of its own" } else { "no" };
    for (name, value) in [
        ("surface", attack.surface.name().to_owned()),
        ("class", attack.class.name().to_owned()),
        ("layouts", attack.layouts.join(", ")),
        ("timing", word(&attack.timing)),
        ("racing", racing.to_owned()),
        ("what it does", attack.what.to_owned()),
        ("a trusting driver", attack.naive.to_owned()),
        ("expected here", expected(attack)),
        ("defences", attack.check.to_owned()),
        ("seen before", attack.reference.to_owned()),
    ] {
        table.row(vec![Cell::new(name), Cell::new(value)]);
    }
    output::print_text(&table.render());
    Exit::Held.into()
}

fn show_absent(absent: &Absent, json: bool) -> ExitCode {
    if json {
        output::print_json(absent);
        return Exit::Held.into();
    }
    let mut table = Table::new(&[absent.id, absent.name]);
    table.row(vec![Cell::new("not run"), Cell::new(absent.reason)]);
    table.row(vec![Cell::new("joins with"), Cell::new(absent.joins_with.unwrap_or("-"))]);
    output::print_text(&table.render());
    Exit::Held.into()
}

fn show_mirrored(row: &Mirrored, json: bool) -> ExitCode {
    if json {
        output::print_json(row);
        return Exit::Held.into();
    }
    let mut table = Table::new(&[row.id, row.name]);
    for (name, value) in [
        ("layouts", row.layouts.join(", ")),
        ("racing", (if row.racing { "yes, while the backend reads" } else { "no" }).to_owned()),
        ("what a driver does", row.what.to_owned()),
        ("expected of the backend", row.expected.join(" or ")),
    ] {
        table.row(vec![Cell::new(name), Cell::new(value)]);
    }
    output::print_text(&table.render());
    Exit::Held.into()
}

fn unknown(attack: &str) -> Failure {
    let near = near_matches(attack).join(", ");
    let hint = if near.is_empty() { String::new() } else { format!("did you mean {near}? ") };
    Failure::usage(format!("there is no attack `{attack}`; {hint}`ironring attacks` lists them all"))
}

fn expected(attack: &Attack) -> String {
    attack.expected.iter().map(|verdict| verdict.name()).collect::<Vec<_>>().join(" or ")
}

/// A plain variant as JSON spells it.
fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(ToOwned::to_owned)).unwrap_or_default()
}
