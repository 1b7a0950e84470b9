//! The `attacks` subcommand: the catalogue, and one entry of it.

use std::process::ExitCode;

use ironring_backend::hostile::{self, ABSENT, Absent, Attack, CATALOGUE};
use serde::Serialize;

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
}

/// The `attacks` subcommand.
#[must_use]
pub fn main(command: Option<&AttacksCommand>, json: bool) -> ExitCode {
    match command {
        None => list(json),
        Some(AttacksCommand::Show { attack }) => match hostile::find(attack) {
            Some(found) => show(found, json),
            None => match hostile::find_absent(attack) {
                Some(absent) => show_absent(absent, json),
                None => output::fail_with(json, &unknown(attack)),
            },
        },
    }
}

fn list(json: bool) -> ExitCode {
    if json {
        output::print_json(&Listing { attacks: &CATALOGUE, absent: &ABSENT });
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
    let (count, others) = (CATALOGUE.len(), ABSENT.len());
    let (text, rest) = (table.render(), rest.render());
    output::print_text(&format!(
        "{text}\n{rest}{count} attacks and {others} that are not run; `ironring attacks show ID` says what one does\n"
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

fn unknown(attack: &str) -> Failure {
    let near = hostile::near_matches(attack).join(", ");
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
