//! Our driver's half of a measurement: the hidden subcommand `bench-driver`, in a process and on a CPU of its own.
//!
//! It does the same work for as long as its standard input is open, and tells many times a second on stdout how many frames
//! there were. When the input ends it takes back what is out, and tells for the last time. Nothing on the way of a frame
//! allocates or calls the system; the clock is read once in [`CLOCK_EVERY`] rounds.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ironring_driver::net::VirtioNet;
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::nic::{Failure, Nic};
use super::pairs::ManyPairs;
use super::source::Source;
use super::times::Times;
use super::work::{Api, Completions, Direction, Size, Trust, Work};
use crate::pair::Layout;
use crate::trusting::poll::TrustingNet;
use crate::{config, machine, output};

/// Arguments of the hidden subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct DriverArgs {
    /// Process that this one is not to outlive
    #[arg(long)]
    parent: i32,
    /// CPU to stay on
    #[arg(long)]
    cpu: usize,
    /// Where the backend listens
    #[arg(long)]
    socket: PathBuf,
    #[arg(long, value_enum)]
    layout: Layout,
    #[arg(long, value_enum)]
    dir: Direction,
    #[arg(long)]
    size: Size,
    #[arg(long)]
    ring_size: u16,
    #[arg(long)]
    burst: u16,
    /// Negotiate VIRTIO_F_IN_ORDER
    #[arg(long)]
    in_order: bool,
    #[arg(long, value_enum)]
    api: Api,
    #[arg(long, value_enum)]
    ring: Trust,
    /// Memory of huge pages
    #[arg(long)]
    hugepages: bool,
    #[arg(long)]
    queues: u16,
    #[arg(long)]
    idle_queues: u16,
}

/// What is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Told {
    /// Since the work began.
    pub(super) micros: u64,
    /// Frames: sent and taken back, received, or gone round.
    pub(super) frames: u64,
    /// Whether this is the last word.
    pub(super) ended: bool,
    /// Round trips in nanoseconds: the median, and what 1 % and 0.1 % were slower than.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) percentiles: Option<[u64; 3]>,
}

impl DriverArgs {
    /// The arguments on a command line.
    pub(super) fn of(work: &Work, ring: Trust, cpu: usize, socket: &std::path::Path) -> Vec<std::ffi::OsString> {
        let Work { layout, dir, size, ring_size, burst, in_order, api, completions: _, hugepages, queues, idle_queues } =
            *work;
        let pairs = [
            ("--parent", std::process::id().to_string()),
            ("--cpu", cpu.to_string()),
            ("--layout", config::name(layout).to_owned()),
            ("--dir", value_name(&dir)),
            ("--api", value_name(&api)),
            ("--ring", value_name(&ring)),
            ("--size", size.to_string()),
            ("--ring-size", ring_size.to_string()),
            ("--burst", burst.to_string()),
            ("--queues", queues.to_string()),
            ("--idle-queues", idle_queues.to_string()),
        ];
        let mut words: Vec<std::ffi::OsString> = vec!["bench-driver".into(), "--socket".into(), socket.into()];
        words.extend(pairs.into_iter().flat_map(|(name, value)| [name.into(), value.into()]));
        words.extend(in_order.then(|| "--in-order".into()));
        words.extend(hugepages.then(|| "--hugepages".into()));
        words
    }

    fn work(&self) -> Work {
        let Self { dir, size, ring_size, burst, in_order, api, hugepages, queues, idle_queues, .. } = *self;
        // It takes them in whichever order they come.
        let (layout, completions) = (self.layout.into(), Completions::InOrder);
        Work { layout, dir, size, ring_size, burst, in_order, api, completions, hugepages, queues, idle_queues }
    }
}

/// A value as the command line has it.
fn value_name<V: clap::ValueEnum>(value: &V) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// The hidden `bench-driver` subcommand.
#[must_use]
pub fn driver_main(args: &DriverArgs) -> ExitCode {
    let tied = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if tied.is_err() || rustix::process::getppid() != Pid::from_raw(args.parent) {
        output::note("this is the driver of a benchmark: start it by `ironring bench`");
        return ExitCode::from(2);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    // Before this thread goes to its CPU, so that the one that waits does not go there too.
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        stopped.store(true, Ordering::Relaxed);
    });
    match machine::stay_on(args.cpu).map_err(Into::into).and_then(|()| run(args, &stop)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("ironring: the driver of the benchmark: {error}"));
            ExitCode::from(1)
        }
    }
}

/// As [`driver_main`], on its CPU.
fn run(args: &DriverArgs, stop: &AtomicBool) -> Result<(), Failure> {
    match args.ring {
        Trust::Hardened if args.work().pairs() > 1 => run_with::<ManyPairs>(args, stop),
        Trust::Hardened => run_with::<VirtioNet>(args, stop),
        Trust::Trusting => run_with::<TrustingNet>(args, stop),
    }
}

fn run_with<N: Nic>(args: &DriverArgs, stop: &AtomicBool) -> Result<(), Failure> {
    let work = args.work();
    let nic = N::bring_up(&args.socket, &work)?;
    let mut bench = Bench::new(nic, work, stop);
    // So that whoever measures knows that frames go from now on.
    bench.tell(false);
    bench.work()?;
    bench.tell(true);
    bench.nic.close();
    Ok(())
}

/// The work.
struct Bench<'a, N: Nic> {
    nic: N,
    work: Work,
    source: Source,
    batch: N::Frames,
    stop: &'a AtomicBool,
    began: Instant,
    next_word: Duration,
    rounds: u32,
    frames: u64,
    /// What was read of received frames, so that it is read.
    sum: u64,
    times: Option<Times>,
}

impl<'a, N: Nic> Bench<'a, N> {
    fn new(nic: N, work: Work, stop: &'a AtomicBool) -> Self {
        Self {
            batch: nic.room(&work),
            nic,
            work,
            source: Source::new(work.size),
            stop,
            began: Instant::now(),
            next_word: TELL_EVERY,
            rounds: 0,
            frames: 0,
            sum: 0,
            times: (work.dir == Direction::Latency).then(Times::new),
        }
    }

    fn work(&mut self) -> Result<(), Failure> {
        match self.work.dir {
            Direction::Tx if self.work.api == Api::InPlace => self.send_in_place()?,
            Direction::Loop if self.work.api == Api::Lease => self.forward(N::forward)?,
            Direction::Loop if self.work.api == Api::Hairpin => self.forward(N::hairpin)?,
            Direction::Tx => self.send()?,
            Direction::Rx if self.work.api == Api::Lease => {
                let most = usize::from(self.work.burst);
                while self.goes_on() {
                    self.frames += self.nic.lease(most)? as u64;
                }
            }
            Direction::Rx => {
                while self.goes_on() {
                    self.receive()?;
                }
            }
            Direction::Loop => self.go_round()?,
            Direction::Latency => self.ping()?,
        }
        Ok(())
    }

    /// Frames out, as fast as they are taken.
    fn send(&mut self) -> Result<(), Failure> {
        let burst = usize::from(self.work.burst);
        while self.goes_on() {
            let sent = self.nic.send(self.source.burst(burst))?;
            self.source.advance(sent);
        }
        self.end_sending()
    }

    /// As [`send`](Self::send), each frame written where it goes: as many bytes as testpmd's `txonly` writes.
    fn send_in_place(&mut self) -> Result<(), Failure> {
        let (burst, size) = (usize::from(self.work.burst), usize::from(self.work.size.longest()));
        while self.goes_on() {
            self.nic.send_in_place(burst, size)?;
        }
        self.end_sending()
    }

    /// Takes back what is out.
    fn end_sending(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + LEAVE;
        while self.nic.outstanding() > 0 && Instant::now() < deadline {
            self.nic.reclaim()?;
        }
        Ok(())
    }

    /// A burst in, every header read.
    fn receive(&mut self) -> Result<usize, Failure> {
        let count = self.nic.receive(&mut self.batch)?;
        if count == 0 {
            // One look less at a line that the other side is about to write: receiving 1.02, one in flight as before.
            std::hint::spin_loop();
        }
        for frame in N::frames(&self.batch) {
            let head = frame.first_chunk().copied().map_or(0, u64::from_le_bytes);
            self.sum = self.sum.wrapping_add(head);
        }
        self.frames += count as u64;
        Ok(count)
    }

    /// The first frames of a loop.
    fn set_out(&mut self) -> Result<(), Failure> {
        let mut left = self.work.in_flight();
        while left > 0 {
            let sent = self.nic.send(self.source.burst(left.min(usize::from(self.work.burst))))?;
            self.source.advance(sent);
            left -= sent;
        }
        Ok(())
    }

    /// What comes back goes out again by `pass_on`, without being copied out.
    #[inline]
    fn forward(&mut self, pass_on: impl Fn(&mut N, usize) -> Result<usize, Failure>) -> Result<(), Failure> {
        self.set_out()?;
        let most = usize::from(self.work.burst);
        while self.goes_on() {
            self.frames += pass_on(&mut self.nic, most)? as u64;
        }
        Ok(())
    }

    /// What comes back goes out again.
    fn go_round(&mut self) -> Result<(), Failure> {
        self.set_out()?;
        while self.goes_on() {
            if self.receive()? > 0 {
                self.send_back()?;
            }
        }
        Ok(())
    }

    /// What was received goes out.
    #[inline]
    fn send_back(&mut self) -> Result<(), Failure> {
        let (count, mut sent) = (N::frames(&self.batch).len(), 0);
        while sent < count {
            sent += self.nic.send_on(&self.batch, sent)?;
        }
        Ok(())
    }

    /// One frame at a time: the one that came back goes out again, as testpmd sends what it has received. Not each is timed: to read
    /// the clock twice takes a tenth of what a frame does.
    fn ping(&mut self) -> Result<(), Failure> {
        let mut trips = 0u32;
        self.set_out()?;
        while self.receive()? == 0 {
            if !self.goes_on() {
                return Ok(());
            }
        }
        while self.goes_on() {
            trips = trips.wrapping_add(1);
            let sent = trips.is_multiple_of(TIME_EVERY).then(Instant::now);
            self.send_back()?;
            let (mut looks, mut since) = (0u32, None);
            while self.receive()? == 0 {
                looks = looks.wrapping_add(1);
                if looks.is_multiple_of(LOOKS) && since.get_or_insert_with(Instant::now).elapsed() > STOPPED {
                    return Ok(());
                }
            }
            if let (Some(times), Some(sent)) = (&mut self.times, sent) {
                times.note(sent.elapsed());
            }
        }
        Ok(())
    }

    /// Whether it is not over yet. Now and then it is time to tell.
    #[inline]
    fn goes_on(&mut self) -> bool {
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(CLOCK_EVERY) {
            self.look_at_the_clock();
        }
        !self.stop.load(Ordering::Relaxed)
    }

    #[cold]
    fn look_at_the_clock(&mut self) {
        let now = self.began.elapsed();
        if now >= self.next_word {
            // Not one for each that was missed, after a stop.
            self.next_word = now + TELL_EVERY;
            self.tell(false);
        }
    }

    fn tell(&mut self, ended: bool) {
        if self.work.dir == Direction::Tx {
            self.frames = self.nic.completed();
        }
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        std::hint::black_box(self.sum);
        let percentiles = self.times.as_ref().map(Times::percentiles);
        let line = serde_json::to_string(&Told { micros, frames: self.frames, ended, percentiles });
        // Whoever does not listen any more does not want it.
        let _ = writeln!(std::io::stdout().lock(), "{}", line.unwrap_or_default());
    }
}

/// Rounds between looks at the clock.
const CLOCK_EVERY: u32 = 4096;
/// Between words.
const TELL_EVERY: Duration = Duration::from_millis(50);
/// Of so many round trips one is timed.
const TIME_EVERY: u32 = 16;
/// Vain looks between looks at the clock.
const LOOKS: u32 = 1 << 20;
/// How long a frame may be out that goes round: others are measured in the meantime.
const STOPPED: Duration = Duration::from_secs(60);
/// How long frames may be out at the end.
const LEAVE: Duration = Duration::from_secs(1);
