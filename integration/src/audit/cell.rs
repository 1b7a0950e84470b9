//! One cell: an attack, a ring, a few seeds, in a child process of its own.
//!
//! The child is this program with the hidden subcommand `cell`; it prints one JSON object and ends with success. A child
//! that panics, dies by a signal, fails or does not end in time is a dead cell. That is no failure of the tool, and no
//! finding either: nothing is known of what the attack did, so a dead cell never holds, on either ring.

use std::io::Read;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Encounter, RingUnderTest, Target, live, model, victims};
use crate::config::RingConfig;
use crate::verdict::{CRASHED, WEDGED};

/// What to run.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) attack: String,
    pub(super) config: RingConfig,
    pub(super) ring: RingUnderTest,
    pub(super) seed: u64,
    pub(super) seeds: u64,
}

/// What became of it: the verdict of the driver, and what watchers saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct CellResult {
    /// What the network driver did against a hostile backend, one a seed. Empty for the trusting ring.
    pub(super) live: Vec<String>,
    /// What the hardened ring did in the model, one a seed and queue. Empty for the trusting ring.
    pub(super) model: Vec<String>,
    /// What watchers saw that must not be (hardened), or what bit (trusting).
    pub(super) findings: Vec<String>,
    /// How often the attack struck, in all runs.
    pub(super) strikes: u64,
    /// Parts of the cell that do not apply, with the reason.
    pub(super) not_applicable: Vec<String>,
    /// What became of a driver of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) encounter: Option<Encounter>,
    /// Why there is no word from the cell itself.
    #[serde(skip)]
    pub(super) death: Option<Death>,
}

/// The end of a child that did not end by itself, or not well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Death {
    /// `wedged` or `crashed`.
    pub(super) verdict: &'static str,
    /// What is known of it.
    pub(super) how: String,
}

/// Arguments of the hidden `cell` subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct CellArgs {
    /// Attack id
    #[arg(long)]
    pub attack: String,
    /// Configuration: the layout, and the features with `+` before each
    #[arg(long)]
    pub config: RingConfig,
    /// Ring
    #[arg(long, value_enum)]
    pub ring: RingUnderTest,
    /// First seed
    #[arg(long)]
    pub seed: u64,
    /// Number of seeds
    #[arg(long)]
    pub seeds: u64,
}

impl Cell {
    /// Runs the cell in a child and waits for it, at most `deadline`.
    pub(super) fn run_in_child(&self, deadline: Duration) -> std::io::Result<CellResult> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["cell", "--attack", &self.attack, "--ring", self.ring.name()])
            .args(["--config", &self.config.to_string()])
            .args(["--seed", &self.seed.to_string(), "--seeds", &self.seeds.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(std::io::Error::other("a child without pipes"));
        };
        // A descriptor of the process, not its number, which may belong to another by the time it is used.
        let pid = rustix::process::Pid::from_child(&child);
        let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let watchdog = Watchdog::start(process, deadline);
        let errors = std::thread::spawn(move || read_all(stderr));
        let output = read_all(stdout);
        let status = child.wait()?;
        let timed_out = watchdog.stop();
        let errors = errors.join().unwrap_or_default();
        if timed_out {
            return Ok(CellResult::of_death(WEDGED, format!("the cell did not end within {deadline:?}")));
        }
        Ok(CellResult::of_child(status, &output, &errors))
    }

    /// Runs the cell here.
    fn run(&self) -> Result<CellResult, Box<dyn std::error::Error>> {
        let mut result = CellResult::default();
        let target = self.ring.target();
        if target != Target::Ironring {
            let seeds = self.seed..self.seed.saturating_add(self.seeds);
            result.encounter = Some(victims::run(target, &self.attack, self.config, seeds)?);
            return Ok(result);
        }
        for seed in self.seed..self.seed.saturating_add(self.seeds) {
            match self.ring {
                RingUnderTest::Hardened => {
                    let in_model = model::hardened(&self.attack, self.config, seed, &mut result)?;
                    result.model.extend(in_model.into_iter().map(ToOwned::to_owned));
                    let live = live::hardened(&self.attack, self.config, seed, &mut result)?;
                    result.live.extend(live.map(ToOwned::to_owned));
                }
                RingUnderTest::VirtioDrivers => {}
                RingUnderTest::Trusting => {
                    model::trusting(&self.attack, self.config, seed, &mut result)?;
                }
            }
        }
        Ok(result)
    }
}

impl CellResult {
    /// The word of a child that has ended. It counts only together with success: a child that printed its result and then
    /// died, for example when it freed its memory, did not come through.
    fn of_child(status: ExitStatus, output: &str, errors: &str) -> Self {
        match serde_json::from_str(output) {
            Ok(result) if status.success() => result,
            _ => Self::of_death(CRASHED, format!("{status}: {}", last_words(errors))),
        }
    }

    pub(super) fn of_death(verdict: &'static str, how: String) -> Self {
        Self { death: Some(Death { verdict, how }), ..Self::default() }
    }
}

/// What a child said last: the place and the message of a panic, or the last line.
fn last_words(errors: &str) -> String {
    let mut lines = errors.lines();
    if let Some(panic) = lines.find(|line| line.contains("panicked at")) {
        let place = panic.split_once("panicked at ").map_or(panic, |(_, place)| place).trim_end_matches(':');
        // Of a path only what says which file of which crate.
        let place = place.rsplit_once("/registry/src/").map_or(place, |(_, place)| place);
        let place =
            place.split_once('/').filter(|(first, _)| first.contains("crates.io")).map_or(place, |(_, rest)| rest);
        return format!("it panicked: {} ({place})", lines.next().unwrap_or("no message"));
    }
    errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no words").to_owned()
}

/// The hidden `cell` subcommand.
#[must_use]
pub fn cell_main(args: &CellArgs) -> ExitCode {
    // A cell ends with its parent, whatever happens to that.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    super::log::count_lines();
    let CellArgs { attack, config, ring, seed, seeds } = args.clone();
    let cell = Cell { attack, config, ring, seed, seeds };
    match cell.run() {
        Ok(result) => {
            crate::output::print_json(&result);
            ExitCode::SUCCESS
        }
        Err(error) => {
            crate::output::fail(false, &error.to_string());
            ExitCode::from(3)
        }
    }
}

/// Kills a child that outlives its deadline.
struct Watchdog {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

impl Watchdog {
    fn start(process: std::os::fd::OwnedFd, deadline: Duration) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let expired = matches!(stopped.recv_timeout(deadline), Err(std::sync::mpsc::RecvTimeoutError::Timeout));
            if expired {
                let _ = rustix::process::pidfd_send_signal(process, rustix::process::Signal::KILL);
            }
            expired
        });
        Self { stop, thread }
    }

    /// Ends the watch; `true` if the child was killed.
    fn stop(self) -> bool {
        drop(self.stop);
        self.thread.join().unwrap_or(false)
    }
}

fn read_all(mut from: impl Read) -> String {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    const WORD: &str = r#"{"live":["no-effect"],"model":[],"findings":[],"strikes":7,"not_applicable":[]}"#;

    #[test]
    fn the_word_of_a_child_counts_only_with_success() {
        let result = CellResult::of_child(ExitStatus::from_raw(0), WORD, "");
        assert_eq!((result.strikes, result.death), (7, None));
        // Exit status 3, exit status 101, killed by SIGSEGV.
        for status in [3 << 8, 101 << 8, 11] {
            let result = CellResult::of_child(ExitStatus::from_raw(status), WORD, "one\nlast words\n\n");
            let death = result.death.unwrap();
            assert_eq!((death.verdict, result.strikes), (CRASHED, 0));
            assert!(death.how.contains("last words"), "{death:?}");
        }
    }

    #[test]
    fn success_without_a_word_is_no_success() {
        for output in ["", "{}", "panicked"] {
            let result = CellResult::of_child(ExitStatus::from_raw(0), output, "");
            assert!(result.death.is_some(), "{output}");
        }
    }
}
