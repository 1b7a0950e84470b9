//! The command line.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::LevelFilter;

use crate::attacks::{self, AttacksCommand};
use crate::audit::{self, AuditArgs, CellArgs, GuestsArgs, MirrorArgs, ScanArgs};
use crate::bench::{self, BenchArgs, DriverArgs};
use crate::pair::{self, BackendArgs, PairArgs};
use crate::{demo, output};

/// A hardened virtio-net driver and the adversary that tests it. Without a command: an honest pair on real traffic over
/// every ring layout, then a short audit.
///
/// Exit status: 0 everything held, 1 something did not, 2 the arguments cannot be used, 3 something is missing here.
#[derive(Debug, Parser)]
#[command(name = "ironring", version, max_term_width = 100)]
struct Cli {
    /// Print one JSON object on stdout
    #[arg(long, global = true)]
    json: bool,
    /// Log to stderr: error, warn, info, debug or trace; the backend of a pair too
    #[arg(long, global = true, value_name = "LEVEL", value_parser = level)]
    log: Option<LevelFilter>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Send frames round: driver, backend in a process of its own, driver; compare every one, or with --tap carry
    /// live traffic
    Pair(Box<PairArgs>),
    /// List the attacks, or show one
    Attacks {
        #[command(subcommand)]
        command: Option<AttacksCommand>,
    },
    /// Attack the hardened and the trusting ring
    Audit(AuditArgs),
    /// Measure how fast driver and backend are, and compare them with DPDK's
    Bench(BenchArgs),
    /// The driver of a benchmark
    #[command(hide = true)]
    BenchDriver(DriverArgs),
    /// The backend of a pair
    #[command(hide = true)]
    Backend(BackendArgs),
    /// The backend of an audit
    #[command(hide = true)]
    Mirror(MirrorArgs),
    /// Guests of an audit
    #[command(hide = true)]
    Guests(GuestsArgs),
    /// One cell of an audit
    #[command(hide = true)]
    Cell(CellArgs),
    /// A look at the shared memory of a cell
    #[command(hide = true)]
    Scan(ScanArgs),
}

/// The whole program.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse(&error, &arguments),
    };
    // The daemon has a log of its own.
    if let (Some(level), false) = (cli.log, matches!(cli.command, Some(Command::Backend(_)))) {
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(std::io::stderr)
            .with_ansi(false)
            .with_target(false)
            .init();
    }
    let log = cli.log.map(|level| level.to_string());
    let json = cli.json;
    match cli.command {
        None => demo::main(log.as_deref(), json),
        Some(Command::Pair(args)) => pair::main(&args, log.as_deref(), json),
        Some(Command::Attacks { command }) => attacks::main(command.as_ref(), json),
        Some(Command::Audit(args)) => audit::main(&args, json),
        Some(Command::Bench(args)) => bench::main(&args, json),
        Some(Command::BenchDriver(args)) => bench::driver_main(&args),
        Some(Command::Backend(args)) => pair::backend_main(args),
        Some(Command::Mirror(args)) => audit::mirror_main(&args),
        Some(Command::Guests(args)) => audit::guests_main(&args),
        Some(Command::Cell(args)) => audit::cell_main(&args),
        Some(Command::Scan(args)) => audit::scan_main(args),
    }
}

/// Help and version go to stdout. A usage error goes to stderr, and to stdout as an object if that was asked for.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() && arguments.iter().any(|argument| argument == "--json") {
        let text = error.to_string();
        let first = text.split("\n\n").next().unwrap_or_default();
        let sentence = first.strip_prefix("error: ").unwrap_or(first).trim().replace('\n', " ");
        output::print_json(&serde_json::json!({ "error": sentence }));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn level(text: &str) -> Result<LevelFilter, String> {
    text.parse().map_err(|_| "it is none of error, warn, info, debug, trace".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_daemons_arguments_are_passed_on_as_they_are() {
        let cli = Cli::try_parse_from(["ironring", "backend", "--parent", "1", "--", "--fd", "0", "--log", "info"]);
        assert!(matches!(cli.unwrap(), Cli { command: Some(Command::Backend(_)), log: None, .. }));
    }
}
