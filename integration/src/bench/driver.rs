//! Our driver's half of a measurement: the hidden subcommand `bench-driver`, in a process and on a CPU of its own.
//!
//! It does the same work for as long as its standard input is open, and tells many times a second on stdout how many frames
//! there were. When the input ends it takes back what is out, and tells for the last time. Nothing on the way of a frame
//! allocates or calls the system; the clock is read once in [`CLOCK_EVERY`] rounds, unless turns are recorded.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ironring_driver::net::VirtioNet;
use ironring_driver::transport::{Deadlines, VhostUser};
use rustix::process::{Pid, Signal};

use super::board::{Beside, Board};
use super::ends::list;
use super::nic::{Failure, Nic, Whole, options};
use super::pairs::{self, Share};
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
    /// CPUs to stay on, one for each thread
    #[arg(long, value_delimiter = ',', required = true)]
    cpu: Vec<usize>,
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
    #[arg(long)]
    threads: u16,
    /// Record what turns with frames take, where it receives
    #[arg(long)]
    record_core_cycles: bool,
}

impl DriverArgs {
    /// The arguments on a command line.
    pub(super) fn of(
        work: &Work,
        (ring, record): (Trust, bool),
        cpus: &[usize],
        socket: &std::path::Path,
    ) -> Vec<std::ffi::OsString> {
        let Work {
            layout, dir, size, ring_size, burst, in_order, api, hugepages, queues, idle_queues, threads, ..
        } = *work;
        let pairs = [
            ("--parent", std::process::id().to_string()),
            ("--cpu", list(cpus)),
            ("--layout", config::name(layout).to_owned()),
            ("--dir", value_name(&dir)),
            ("--api", value_name(&api)),
            ("--ring", value_name(&ring)),
            ("--size", size.to_string()),
            ("--ring-size", ring_size.to_string()),
            ("--burst", burst.to_string()),
            ("--queues", queues.to_string()),
            ("--idle-queues", idle_queues.to_string()),
            ("--threads", threads.to_string()),
        ];
        let mut words: Vec<std::ffi::OsString> = vec!["bench-driver".into(), "--socket".into(), socket.into()];
        words.extend(pairs.into_iter().flat_map(|(name, value)| [name.into(), value.into()]));
        words.extend(in_order.then(|| "--in-order".into()));
        words.extend(hugepages.then(|| "--hugepages".into()));
        words.extend(record.then(|| "--record-core-cycles".into()));
        words
    }

    fn work(&self) -> Work {
        let Self { dir, size, ring_size, burst, in_order, api, hugepages, queues, idle_queues, threads, .. } = *self;
        Work {
            layout: self.layout.into(),
            dir,
            size,
            ring_size,
            burst,
            in_order,
            api,
            // It takes them in whichever order they come.
            completions: Completions::InOrder,
            hugepages,
            queues,
            idle_queues,
            threads,
            share_cpus: self.cpu.len() < usize::from(threads),
        }
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
    match machine::stay_on(&args.cpu[..1]).map_err(Into::into).and_then(|()| run(args, &stop)) {
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
        Trust::Hardened if args.work().pairs() > 1 => run_spread(args, stop),
        Trust::Hardened => run_with::<VirtioNet>(args, stop),
        Trust::Trusting => run_with::<TrustingNet>(args, stop),
    }
}

fn run_with<N: Whole>(args: &DriverArgs, stop: &AtomicBool) -> Result<(), Failure> {
    let work = args.work();
    let nic = N::bring_up(&args.socket, &work)?;
    let board = Board::new(1);
    // So that whoever measures knows that frames go from now on.
    board.tell(false, Beside::default());
    let mut bench = Bench::new(nic, work, stop, (&board, 0));
    bench.turns = (args.record_core_cycles && work.dir == Direction::Rx).then_some(Duration::ZERO);
    bench.work()?;
    board.tell(true, bench.beside());
    bench.nic.close();
    Ok(())
}

/// Several queue pairs, and a thread for each share of them. The first is this one.
fn run_spread(args: &DriverArgs, stop: &AtomicBool) -> Result<(), Failure> {
    let work = args.work();
    let mut net = VirtioNet::bring_up(VhostUser::connect(&args.socket, Deadlines::default())?, options(&work))?;
    let board = &Board::new(work.threads.into());
    board.tell(false, Beside::default());
    let mut shares = pairs::spread(&mut net, &work).into_iter().enumerate();
    let first = shares.next();
    std::thread::scope(|scope| {
        let run = move |(at, share): (usize, Share<'_>)| {
            let cpu = args.cpu[at % args.cpu.len()];
            // One that ends was told to, cannot go on, or panicked: the others are not to wait for it.
            let _stops_others = StopsOthers(stop);
            let worked = machine::stay_on(&[cpu]).map_err(Failure::from);
            let worked = worked.and_then(|()| Bench::new(share, work, stop, (board, at)).work());
            worked.map_err(|error| error.to_string())
        };
        let others: Vec<_> = shares.map(|share| scope.spawn(move || run(share))).collect();
        let own = first.map_or(Ok(()), run);
        let ends = others.into_iter().map(|other| other.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())));
        ends.fold(own, Result::and)
    })?;
    board.tell(true, Beside::default());
    // What a peer of others answers to the last requests is none of the result.
    let _ = net.close();
    Ok(())
}

/// Stops all threads when it goes out of scope.
struct StopsOthers<'a>(&'a AtomicBool);

impl Drop for StopsOthers<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The work of a thread.
struct Bench<'a, N: Nic> {
    nic: N,
    work: Work,
    source: Source,
    batch: N::Frames,
    stop: &'a AtomicBool,
    board: &'a Board,
    /// The number of the thread. The first one tells.
    thread: usize,
    next_word: Duration,
    rounds: u32,
    /// Rounds between looks at the clock.
    look_every: u32,
    frames: u64,
    /// What was read of received frames, so that it is read.
    sum: u64,
    times: Option<Times>,
    /// What turns with frames took, if that is recorded.
    turns: Option<Duration>,
}

impl<'a, N: Nic> Bench<'a, N> {
    fn new(nic: N, work: Work, stop: &'a AtomicBool, (board, thread): (&'a Board, usize)) -> Self {
        Self {
            batch: nic.room(&work),
            nic,
            work,
            source: Source::new(work.size),
            stop,
            board,
            thread,
            next_word: TELL_EVERY,
            rounds: 0,
            look_every: if work.threads > 1 { CLOCK_EVERY_OF_MANY } else { CLOCK_EVERY },
            frames: 0,
            sum: 0,
            times: (work.dir == Direction::Latency).then(Times::new),
            turns: None,
        }
    }

    fn work(&mut self) -> Result<(), Failure> {
        match self.work.dir {
            Direction::Tx if self.work.api == Api::InPlace => self.send_in_place()?,
            Direction::Loop if self.work.api == Api::Lease => self.forward(N::forward)?,
            Direction::Loop if self.work.api == Api::Hairpin => self.forward(N::hairpin)?,
            Direction::Tx => self.send()?,
            Direction::Rx if self.turns.is_some() => self.record()?,
            Direction::Rx if self.work.api == Api::Lease => {
                while self.goes_on() {
                    self.lease()?;
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
        self.note();
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

    /// A burst in that stays where it lies.
    #[inline]
    fn lease(&mut self) -> Result<usize, Failure> {
        let count = self.nic.lease(self.work.burst.into())?;
        self.frames += count as u64;
        Ok(count)
    }

    /// Receives, and records what the turns in which frames came took, as testpmd does; with a slower clock, which is read once in such
    /// a turn's time, and once in one that finds nothing.
    fn record(&mut self) -> Result<(), Failure> {
        while self.goes_on() {
            let began = Instant::now();
            let count = if self.work.api == Api::Lease { self.lease()? } else { self.receive()? };
            if let (Some(turns), 1..) = (&mut self.turns, count) {
                *turns += began.elapsed();
            }
        }
        Ok(())
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
        if self.rounds.is_multiple_of(self.look_every) {
            self.look_at_the_clock();
        }
        !self.stop.load(Ordering::Relaxed)
    }

    #[cold]
    fn look_at_the_clock(&mut self) {
        self.note();
        let now = self.board.elapsed();
        if self.thread == 0 && now >= self.next_word {
            // Not one for each that was missed, after a stop.
            self.next_word = now + TELL_EVERY;
            self.board.tell(false, self.beside());
        }
    }

    /// Notes how many frames there were.
    fn note(&mut self) {
        if self.work.dir == Direction::Tx {
            self.frames = self.nic.completed();
        }
        std::hint::black_box(self.sum);
        self.board.note(self.thread, self.frames);
    }

    fn beside(&self) -> Beside {
        Beside { percentiles: self.times.as_ref().map(Times::percentiles), turns: self.turns }
    }
}

/// Rounds between looks at the clock.
const CLOCK_EVERY: u32 = 4096;
/// The same where others ask how far a thread is.
const CLOCK_EVERY_OF_MANY: u32 = 64;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Without it the second one waits for ever.
    #[test]
    fn a_thread_that_panics_stops_the_others() {
        let stop = &AtomicBool::new(false);
        let panicked = std::thread::scope(|scope| {
            let one = scope.spawn(move || {
                let _stops_others = StopsOthers(stop);
                std::panic::resume_unwind(Box::new("a bug"));
            });
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
            });
            one.join().is_err()
        });
        assert!(panicked && stop.load(Ordering::Relaxed));
    }
}
