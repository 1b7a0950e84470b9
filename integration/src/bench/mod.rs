//! How fast driver and backend are, and how that compares with others.
//!
//! Each sample is two new processes, each on a CPU of its own: `driver` is our driver's half, `ends` starts it and
//! our backend, `testpmd` DPDK's ends, `sample` puts two together and has several pairs take turns. A comparison plays
//! `rounds` of such turns, with a second sample of the first pairing in each, so that the noise floor is known: what the same
//! thing measured twice differs by. `near` says which rounds count, `sums` makes medians and intervals of them, `limit` finds what
//! the machine can do at best. `table` asks all questions one after the other, `show` and `page` say what came out.

mod args;
mod board;
mod cores;
mod driver;
mod ends;
mod limit;
mod near;
mod nic;
mod page;
mod pairs;
mod plot;
mod result;
mod rounds;
mod sample;
mod show;
mod shuffle;
mod source;
mod sums;
mod table;
mod testpmd;
mod times;
mod work;

use std::process::ExitCode;
use std::time::Duration;

pub use args::BenchArgs;
pub use cores::CoreUse;
pub use driver::{DriverArgs, driver_main};
pub use limit::Limits;
pub use result::{BenchReport, Config, Forward, Samples, Versus};
pub(crate) use shuffle::main_with as serve_shuffled;
pub use sums::{Ratio, Spread};
pub use table::{Reaches, RowResult, TableReport};
pub use testpmd::Path22;
pub use work::{Api, Completions, Direction, Maker, Pairing, Size, Trust, Work};

use crate::output::{self, Exit, Failure};
use rounds::Known;

/// The `bench` subcommand.
#[must_use]
pub fn main(args: &BenchArgs, json: bool) -> ExitCode {
    match run(args, json) {
        Ok(exit) => exit.into(),
        Err(failure) => output::fail_with(json, &failure),
    }
}

fn run(args: &BenchArgs, json: bool) -> Result<Exit, Failure> {
    if args.limit {
        let limits = limit::all(rounds::two_cpus()?, Duration::from_secs(1)).map_err(Failure::unable)?;
        say(json, &limits, &limits.to_text());
        return Ok(Exit::Held);
    }
    if args.table {
        let report = table::run(args)?;
        write_page(args, || report.to_html())?;
        say(json, &report, &report.to_text());
        return Ok(report.exit());
    }
    let question = args.question()?;
    let samples = args.samples.unwrap_or(if question.vs.is_some() { 10 } else { 3 });
    let report = rounds::measure(&question, args.seconds, samples, &mut Known::new())?;
    write_page(args, || report.to_html())?;
    say(json, &report, &report.to_text());
    Ok(Exit::Held)
}

fn write_page(args: &BenchArgs, page: impl FnOnce() -> String) -> Result<(), Failure> {
    let Some(file) = &args.report else { return Ok(()) };
    std::fs::write(file, page()).map_err(|error| {
        Failure::unable(format!("cannot write the page {}: {error}; choose another place", file.display()))
    })
}

fn say<T: serde::Serialize>(json: bool, result: &T, text: &str) {
    if json { output::print_json(result) } else { output::print_text(text) }
}
