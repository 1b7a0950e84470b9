//! One cell: an attack, a ring, a few seeds, in a child process of its own.
//!
//! The child is this program with the hidden subcommand `cell`; it prints one JSON object. A child that panics, dies by a
//! signal or does not end in time is a finding of the cell, not a failure of the tool.

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use ironring_backend::hostile::Verdict;
use serde::{Deserialize, Serialize};

use super::{RingUnderTest, live, model};

/// What to run.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) attack: String,
    pub(super) ring: RingUnderTest,
    pub(super) seed: u64,
    pub(super) seeds: u64,
}

/// What became of it: the verdict of the driver, and what watchers saw.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct CellResult {
    /// What the hardened driver did, one a seed. Empty for the trusting ring.
    pub(super) verdicts: Vec<String>,
    /// What watchers saw that must not be (hardened), or what bit (trusting).
    pub(super) findings: Vec<String>,
    /// How often the attack struck, in all runs.
    pub(super) strikes: u64,
    /// Parts of the cell that do not apply, with the reason.
    pub(super) not_applicable: Vec<String>,
}

/// Arguments of the hidden `cell` subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct CellArgs {
    /// Attack id
    #[arg(long)]
    pub attack: String,
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
            return Ok(CellResult::of_death("wedged", format!("the cell did not end within {deadline:?}")));
        }
        serde_json::from_str(&output).or_else(|_| {
            let last = errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no words").to_owned();
            Ok(CellResult::of_death("crashed", format!("{status}: {last}")))
        })
    }

    /// Runs the cell here.
    fn run(&self) -> Result<CellResult, Box<dyn std::error::Error>> {
        let mut result = CellResult::default();
        for seed in self.seed..self.seed.saturating_add(self.seeds) {
            match self.ring {
                RingUnderTest::Hardened => {
                    let in_model = model::hardened(&self.attack, seed, &mut result)?;
                    let live = live::hardened(&self.attack, seed, &mut result)?;
                    // The network driver's word counts; where it cannot meet the attack, the ring's own.
                    result.verdicts.extend(live.or(in_model.map(Verdict::name)).map(ToOwned::to_owned));
                }
                RingUnderTest::Trusting => {
                    model::trusting(&self.attack, seed, &mut result)?;
                }
            }
        }
        Ok(result)
    }
}

impl CellResult {
    fn of_death(verdict: &str, finding: String) -> Self {
        Self { verdicts: vec![verdict.to_owned()], findings: vec![finding], ..Self::default() }
    }
}

/// The hidden `cell` subcommand.
#[must_use]
pub fn cell_main(args: &CellArgs) -> ExitCode {
    // A cell ends with its parent, whatever happens to that.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let cell = Cell { attack: args.attack.clone(), ring: args.ring, seed: args.seed, seeds: args.seeds };
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
