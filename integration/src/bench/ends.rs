//! Our own two ends: each in a process and on a CPU of its own, telling how many frames there were.

use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde::Deserialize;

use super::board::Told;
use super::cores::Tally;
use super::driver::DriverArgs;
use super::work::{Completions, Direction, Trust, Work};
use crate::console::Console;
use crate::machine;

/// Frames until some moment of the end's own clock.
#[derive(Clone, Copy, Debug)]
struct Reading {
    frames: u64,
    micros: u64,
    /// What turns with frames took, if that is recorded.
    turns: Option<Duration>,
}

/// One of our processes. It does not outlive this.
#[derive(Debug)]
pub(super) struct End {
    child: Child,
    input: Option<ChildStdin>,
    console: Arc<Console>,
    reader: Option<JoinHandle<()>>,
    what: What,
    /// When its clock began.
    began: Option<Instant>,
}

/// Whose words they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Driver,
    /// The backend, and which of the port's counts is that of the direction.
    Backend(Direction),
}

/// As the daemon writes its counters.
#[derive(Deserialize)]
struct Figures {
    micros: u64,
    ended: bool,
    port: Port,
}

#[derive(Deserialize)]
struct Port {
    taken_frames: u64,
    given_frames: u64,
}

impl End {
    /// Our backend, listening at `socket`.
    pub(super) fn backend(work: &Work, cpus: &[usize], socket: &Path) -> Result<Self, String> {
        let port = match work.dir {
            Direction::Tx => "null".to_owned(),
            Direction::Rx => format!("generate:{}", work.size),
            Direction::Loop | Direction::Latency => "loopback".to_owned(),
        };
        let mut command = this_program()?;
        command.args(["backend", "--parent", &std::process::id().to_string(), "--cpu", &list(cpus)]);
        if work.completions == Completions::Shuffled {
            command.args(["--shuffle", "1", "--", "--without", "in-order"]);
        } else {
            command.arg("--");
        }
        command.arg("--socket-path").arg(socket).args(["--once", "--port", &port, "--wait", "poll"]);
        // DPDK's memory is huge pages, which take no seal.
        command.args(["--queue-size", &work.ring_size.to_string(), "--allow-unsealed-memory"]);
        command.args(["--queues", &work.pairs().to_string(), "--threads", &work.threads.to_string()]);
        command.args(["--stats", "0.05", "--stats-format", "json", "--log", "error"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        let mut end = Self::of(child.map_err(cannot_start)?, What::Backend(work.dir));
        let stderr = end.child.stderr.take();
        end.listen(stderr);
        end.wait_for(socket)?;
        Ok(end)
    }

    /// Our driver, connected to `socket`: its rings, and whether it records what its turns take.
    pub(super) fn driver(work: &Work, how: (Trust, bool), cpus: &[usize], socket: &Path) -> Result<Self, String> {
        let mut command = this_program()?;
        command.args(DriverArgs::of(work, how, cpus, socket));
        // What it complains of is told with its last words.
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn();
        let mut end = Self::of(child.map_err(cannot_start)?, What::Driver);
        end.input = end.child.stdin.take();
        let stdout = end.child.stdout.take();
        end.listen(stdout);
        end.wait_until_up()?;
        Ok(end)
    }

    fn of(child: Child, what: What) -> Self {
        Self { child, input: None, console: Arc::default(), reader: None, what, began: None }
    }

    fn listen(&mut self, from: Option<impl std::io::Read + Send + 'static>) {
        let console = Arc::clone(&self.console);
        self.reader = from.map(|from| std::thread::spawn(move || console.read(from)));
    }

    /// Waits until there is a socket.
    fn wait_for(&mut self, socket: &Path) -> Result<(), String> {
        let deadline = Instant::now() + START;
        while !socket.exists() {
            if Instant::now() > deadline || !matches!(self.child.try_wait(), Ok(None)) {
                return Err(format!("the backend does not listen; its last words: {}", self.console.tail()));
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Waits for the first word, which it says when it has what it needs. Beside a busy core of DPDK's, which serves its
    /// channel on the same CPU, that takes most of a second.
    fn wait_until_up(&self) -> Result<(), String> {
        let up = self.console.wait("{", 0, BRING_UP).is_some();
        let why = || format!("the {} does not come up; its last words: {}", self.name(), self.console.tail());
        if up { Ok(()) } else { Err(why()) }
    }

    /// How many frames there were so far, and when that was. Waits for the next word.
    pub(super) fn frames(&mut self) -> Result<(u64, Instant), String> {
        let (Reading { frames, .. }, at) = self.next_at()?;
        Ok((frames, at))
    }

    /// What its core has done so far, by the clock of the `other` end, if that is recorded.
    pub(super) fn tally(&mut self, other: &Tally) -> Option<Tally> {
        let (Reading { frames, turns, .. }, at) = self.next_at().ok()?;
        Some(Tally::of_ours(at, turns?, frames, other))
    }

    /// What it tells next, and when it was so.
    fn next_at(&mut self) -> Result<(Reading, Instant), String> {
        let began = match self.began {
            Some(began) => began,
            None => self.find_began()?,
        };
        let reading = self.next()?;
        Ok((reading, began + Duration::from_micros(reading.micros)))
    }

    /// When its clock began. Words come late now and then, never early: the one that came soonest tells.
    fn find_began(&mut self) -> Result<Instant, String> {
        for _ in 0..3 {
            let Reading { micros, .. } = self.next()?;
            let began = Instant::now().checked_sub(Duration::from_micros(micros));
            self.began = self.began.into_iter().chain(began).min();
        }
        self.began.ok_or_else(|| "a clock that began before this machine did".to_owned())
    }

    /// Gives each data thread of a backend a CPU, once the driver is up.
    pub(super) fn spread(&self, cpus: &[usize]) -> Result<(), String> {
        machine::spread_threads(self.pid(), "data-plane", cpus)
            .map_err(|error| format!("cannot give each data thread of the backend a CPU: {error}"))
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What it tells next.
    fn next(&mut self) -> Result<Reading, String> {
        let mark = self.console.count();
        let line = self.console.wait("{", mark, START);
        let reading = line.and_then(|line| self.read(&line)).filter(|(_, ended)| !ended);
        let silent =
            || format!("the {} of the measurement tells nothing; its last words: {}", self.name(), self.console.tail());
        reading.map(|(reading, _)| reading).ok_or_else(silent)
    }

    /// Has it stop, and returns how many frames there were in all; with the percentiles of a driver that has them.
    pub(super) fn finish(&mut self) -> Result<(u64, Option<[u64; 3]>), String> {
        drop(self.input.take());
        let deadline = Instant::now() + LEAVE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(2));
        }
        self.end();
        let last = self.console.find(0, |line| self.read(line).is_some_and(|(_, ended)| ended));
        let line = last.ok_or_else(|| {
            format!("the {} did not end in order; its last words: {}", self.name(), self.console.tail())
        })?;
        let (reading, _) = self.read(&line).ok_or("a word that cannot be read")?;
        let percentiles = serde_json::from_str::<Told>(&line).ok().and_then(|told| told.percentiles);
        Ok((reading.frames, percentiles))
    }

    fn read(&self, line: &str) -> Option<(Reading, bool)> {
        match self.what {
            What::Driver => {
                let Told { micros, frames, ended, turns_micros, .. } = serde_json::from_str(line).ok()?;
                Some((Reading { frames, micros, turns: turns_micros.map(Duration::from_micros) }, ended))
            }
            What::Backend(dir) => {
                let Figures { micros, ended, port } = serde_json::from_str(line).ok()?;
                let frames = if dir == Direction::Rx { port.given_frames } else { port.taken_frames };
                Some((Reading { frames, micros, turns: None }, ended))
            }
        }
    }

    const fn name(&self) -> &'static str {
        match self.what {
            What::Driver => "driver",
            What::Backend(_) => "backend",
        }
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.end();
    }
}

/// Numbers as the command line has them.
pub(super) fn list(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

fn this_program() -> Result<Command, String> {
    std::env::current_exe().map(Command::new).map_err(cannot_start)
}

fn cannot_start(error: std::io::Error) -> String {
    format!("cannot start a process of our own: {error}; check the limit of processes")
}

/// How long it may take to be connected.
const BRING_UP: Duration = Duration::from_secs(20);
/// How long it may take to be there, or to say the next word.
const START: Duration = Duration::from_secs(5);
/// How long it may take to end.
const LEAVE: Duration = Duration::from_secs(3);
