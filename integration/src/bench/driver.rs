//! Our driver's half of a measurement: the hidden subcommand `bench-driver`, in a process and on a CPU of its own.
//!
//! It does the same work for as long as its standard input is open, and tells twice a second on stdout how many frames
//! there were. When the input ends it takes back what is out, and tells for the last time. Nothing on the way of a frame
//! allocates or calls the system; the clock is read once in [`CLOCK_EVERY`] rounds.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ironring_driver::net::{NetOptions, RxBatch, RxQueue, TxError, VirtioNet};
use ironring_driver::queue::violation::Violation;
use ironring_driver::transport::{Deadlines, VhostUser};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::work::{Api, Direction, Work};
use crate::pair::Layout;
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
    size: u16,
    #[arg(long)]
    ring_size: u16,
    #[arg(long)]
    burst: u16,
    /// Negotiate VIRTIO_F_IN_ORDER
    #[arg(long)]
    in_order: bool,
    #[arg(long, value_enum)]
    api: Api,
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
    pub(super) fn of(work: &Work, cpu: usize, socket: &std::path::Path) -> Vec<std::ffi::OsString> {
        let Work { layout, dir, size, ring_size, burst, in_order, api, queues, idle_queues } = *work;
        let pairs = [
            ("--parent", std::process::id().to_string()),
            ("--cpu", cpu.to_string()),
            ("--layout", config::name(layout).to_owned()),
            ("--dir", value_name(&dir)),
            ("--api", value_name(&api)),
            ("--size", size.to_string()),
            ("--ring-size", ring_size.to_string()),
            ("--burst", burst.to_string()),
            ("--queues", queues.to_string()),
            ("--idle-queues", idle_queues.to_string()),
        ];
        let mut words: Vec<std::ffi::OsString> = vec!["bench-driver".into(), "--socket".into(), socket.into()];
        words.extend(pairs.into_iter().flat_map(|(name, value)| [name.into(), value.into()]));
        words.extend(in_order.then(|| "--in-order".into()));
        words
    }

    fn work(&self) -> Work {
        let Self { layout, dir, size, ring_size, burst, in_order, api, queues, idle_queues, .. } = *self;
        Work { layout: layout.into(), dir, size, ring_size, burst, in_order, api, queues, idle_queues }
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

type Failure = Box<dyn std::error::Error>;

fn run(args: &DriverArgs, stop: &AtomicBool) -> Result<(), Failure> {
    let work = args.work();
    let Work { layout, ring_size, in_order, .. } = work;
    // The backend polls, so it is not asked whether it wants to be kicked.
    let queue_pairs = work.pairs();
    let options =
        NetOptions { layout, queue_size: ring_size, in_order, queue_pairs, kicks: false, ..NetOptions::default() };
    let mut net = VirtioNet::bring_up(VhostUser::connect(&args.socket, Deadlines::default())?, options)?;
    let mut bench = Bench::new(&net_frame_max(&mut net), work, stop);
    bench.work(&mut net)?;
    bench.tell(true);
    // What a peer of others answers to the last requests is none of the result.
    let _ = net.close();
    Ok(())
}

fn net_frame_max(net: &mut VirtioNet) -> u32 {
    net.tx().frame_max()
}

/// The work.
struct Bench<'a> {
    work: Work,
    source: Source,
    batch: RxBatch,
    stop: &'a AtomicBool,
    began: Instant,
    next_word: Duration,
    rounds: u32,
    frames: u64,
    /// What was read of received frames, so that it is read.
    sum: u64,
    times: Option<Times>,
}

impl<'a> Bench<'a> {
    fn new(frame_max: &u32, work: Work, stop: &'a AtomicBool) -> Self {
        Self {
            work,
            source: Source::new(usize::from(work.size)),
            batch: RxBatch::new(usize::from(work.burst), *frame_max),
            stop,
            began: Instant::now(),
            next_word: TELL_EVERY,
            rounds: 0,
            frames: 0,
            sum: 0,
            times: (work.dir == Direction::Latency).then(Times::new),
        }
    }

    fn work(&mut self, net: &mut VirtioNet) -> Result<(), Failure> {
        match self.work.dir {
            Direction::Tx if self.work.api == Api::InPlace => self.send_in_place(net)?,
            Direction::Loop if self.work.api == Api::Lease => self.forward(net)?,
            Direction::Tx if self.work.queues > 1 => self.send_by_all(net)?,
            Direction::Tx => self.send(net)?,
            Direction::Rx if self.work.queues > 1 => self.receive_from_all(net)?,
            Direction::Rx => {
                while self.goes_on() {
                    self.receive(net)?;
                }
            }
            Direction::Loop => self.go_round(net)?,
            Direction::Latency => self.ping(net)?,
        }
        Ok(())
    }

    /// Frames out, as fast as they are taken.
    fn send(&mut self, net: &mut VirtioNet) -> Result<(), TxError> {
        let tx = net.tx();
        let burst = usize::from(self.work.burst);
        while self.goes_on() {
            let sent = tx.tx_burst(self.source.burst(burst).as_slice())?;
            self.source.advance(sent);
            self.frames = tx.stats().completed;
        }
        self.end_sending(net)
    }

    /// As [`send`](Self::send), a burst by each queue in turn.
    fn send_by_all(&mut self, net: &mut VirtioNet) -> Result<(), TxError> {
        let (burst, queues) = (usize::from(self.work.burst), usize::from(self.work.queues));
        let mut completed = vec![0u64; queues];
        while self.goes_on() {
            for (pair, before) in net.pairs_mut().iter_mut().zip(&mut completed) {
                let sent = pair.tx().tx_burst(self.source.burst(burst).as_slice())?;
                self.source.advance(sent);
                let now = pair.tx().stats().completed;
                self.frames += now - std::mem::replace(before, now);
            }
        }
        let deadline = Instant::now() + LEAVE;
        for (pair, before) in net.pairs_mut().iter_mut().zip(&completed) {
            while pair.tx().outstanding() > 0 && Instant::now() < deadline {
                pair.tx().reclaim()?;
            }
            self.frames += pair.tx().stats().completed - before;
        }
        Ok(())
    }

    /// A burst from each queue in turn, every header read.
    fn receive_from_all(&mut self, net: &mut VirtioNet) -> Result<(), Violation> {
        let queues = usize::from(self.work.queues);
        while self.goes_on() {
            for pair in net.pairs_mut().iter_mut().take(queues) {
                self.take_burst(pair.rx())?;
            }
        }
        Ok(())
    }

    /// As [`send`](Self::send), each frame written where it goes: as many bytes as testpmd's `txonly` writes.
    fn send_in_place(&mut self, net: &mut VirtioNet) -> Result<(), TxError> {
        let (burst, size) = (usize::from(self.work.burst), usize::from(self.work.size));
        while self.goes_on() {
            let tx = net.tx();
            tx.tx_burst_in_place(burst, size, |frame| {
                // It has 60 bytes at least.
                let _ = frame.write(0, &HEADERS);
            })?;
            self.frames = tx.stats().completed;
        }
        self.end_sending(net)
    }

    /// Takes back what is out.
    fn end_sending(&mut self, net: &mut VirtioNet) -> Result<(), TxError> {
        let tx = net.tx();
        let deadline = Instant::now() + LEAVE;
        while tx.outstanding() > 0 && Instant::now() < deadline {
            tx.reclaim()?;
        }
        self.frames = tx.stats().completed;
        Ok(())
    }

    /// A burst in, every header read.
    fn receive(&mut self, net: &mut VirtioNet) -> Result<usize, Violation> {
        self.take_burst(net.rx())
    }

    fn take_burst(&mut self, rx: &mut RxQueue) -> Result<usize, Violation> {
        let count = rx.rx_burst(&mut self.batch)?;
        for frame in self.batch.frames() {
            let head = frame.first_chunk().copied().map_or(0, u64::from_le_bytes);
            self.sum = self.sum.wrapping_add(head);
        }
        self.frames += count as u64;
        Ok(count)
    }

    /// The first frames of a loop.
    fn set_out(&mut self, net: &mut VirtioNet) -> Result<(), TxError> {
        let mut left = self.work.in_flight();
        while left > 0 {
            let sent = net.tx().tx_burst(self.source.burst(left.min(usize::from(self.work.burst))).as_slice())?;
            self.source.advance(sent);
            left -= sent;
        }
        Ok(())
    }

    /// What comes back is forwarded where it lies.
    fn forward(&mut self, net: &mut VirtioNet) -> Result<(), TxError> {
        self.set_out(net)?;
        let most = usize::from(self.work.burst);
        while self.goes_on() {
            let (rx, tx) = net.queues();
            let mut sent = Ok(0);
            let count = rx.rx_lease(most, |frames| {
                // There is room for all that go round.
                sent = tx.forward_burst(frames);
            })?;
            sent?;
            self.frames += count as u64;
        }
        Ok(())
    }

    /// What comes back goes out again.
    fn go_round(&mut self, net: &mut VirtioNet) -> Result<(), TxError> {
        self.set_out(net)?;
        while self.goes_on() {
            if self.receive(net)? == 0 {
                continue;
            }
            let mut frames: [&[u8]; BURST_MAX] = [&[]; BURST_MAX];
            let mut count = 0;
            for (to, frame) in frames.iter_mut().zip(self.batch.frames()) {
                *to = frame;
                count += 1;
            }
            let mut rest = &frames[..count];
            while !rest.is_empty() {
                let sent = net.tx().tx_burst(rest)?;
                rest = &rest[sent..];
            }
        }
        Ok(())
    }

    /// One frame at a time.
    fn ping(&mut self, net: &mut VirtioNet) -> Result<(), TxError> {
        while self.goes_on() {
            let sent = Instant::now();
            net.tx().tx_burst(self.source.burst(1).as_slice())?;
            self.source.advance(1);
            let deadline = sent + LEAVE;
            while self.receive(net)? == 0 {
                if self.rounds.is_multiple_of(1024) && Instant::now() > deadline {
                    return Ok(());
                }
                self.rounds = self.rounds.wrapping_add(1);
            }
            if let Some(times) = &mut self.times {
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
        if self.began.elapsed() >= self.next_word {
            self.next_word += TELL_EVERY;
            self.tell(false);
        }
    }

    fn tell(&self, ended: bool) {
        let micros = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        std::hint::black_box(self.sum);
        let percentiles = self.times.as_ref().map(Times::percentiles);
        let line = serde_json::to_string(&Told { micros, frames: self.frames, ended, percentiles });
        // Whoever does not listen any more does not want it.
        let _ = writeln!(std::io::stdout().lock(), "{}", line.unwrap_or_default());
    }
}

/// Frames to be sent, one after the other through more memory than a private cache has.
pub(super) struct Source {
    bytes: Box<[u8]>,
    size: usize,
    stride: usize,
    at: usize,
}

impl Source {
    pub(super) fn new(size: usize) -> Self {
        let stride = size.next_multiple_of(64);
        let mut bytes = vec![0; ROTATION_BYTES.next_multiple_of(stride)].into_boxed_slice();
        for frame in bytes.chunks_exact_mut(stride) {
            for (byte, value) in frame.iter_mut().zip((0..=u8::MAX).cycle()) {
                *byte = value;
            }
            if let Some((header, _)) = frame.split_first_chunk_mut() {
                *header = HEADER;
            }
        }
        Self { bytes, size, stride, at: 0 }
    }

    /// The next `count` frames.
    #[inline]
    pub(super) fn burst(&self, count: usize) -> Burst<'_> {
        let mut frames: [&[u8]; BURST_MAX] = [&[]; BURST_MAX];
        let mut at = self.at;
        for frame in frames.iter_mut().take(count) {
            *frame = &self.bytes[at..at + self.size];
            at = self.after(at);
        }
        Burst { frames, count: count.min(BURST_MAX) }
    }

    #[inline]
    const fn after(&self, at: usize) -> usize {
        let next = at + self.stride;
        if next < self.bytes.len() { next } else { 0 }
    }

    #[inline]
    pub(super) fn advance(&mut self, count: usize) {
        for _ in 0..count {
            self.at = self.after(self.at);
        }
    }
}

/// Some frames.
pub(super) struct Burst<'a> {
    frames: [&'a [u8]; BURST_MAX],
    count: usize,
}

impl<'a> Burst<'a> {
    #[inline]
    pub(super) fn as_slice(&self) -> &[&'a [u8]] {
        &self.frames[..self.count]
    }
}

/// How long round trips took, in bins of 10 nanoseconds up to 100 microseconds.
struct Times {
    bins: Box<[u32]>,
    beyond: Vec<u64>,
}

impl Times {
    fn new() -> Self {
        Self { bins: vec![0; 10_000].into_boxed_slice(), beyond: Vec::with_capacity(1 << 16) }
    }

    #[inline]
    fn note(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match usize::try_from(nanos / 10).ok().and_then(|bin| self.bins.get_mut(bin)) {
            Some(bin) => *bin += 1,
            None if self.beyond.len() < self.beyond.capacity() => self.beyond.push(nanos),
            None => {}
        }
    }

    fn percentiles(&self) -> [u64; 3] {
        let inside: u64 = self.bins.iter().map(|bin| u64::from(*bin)).sum();
        let all = inside + self.beyond.len() as u64;
        let mut beyond = self.beyond.clone();
        beyond.sort_unstable();
        [500, 990, 999].map(|share| {
            let rank = all * share / 1000;
            let mut below = 0;
            for (bin, count) in (0u64..).zip(&self.bins) {
                below += u64::from(*count);
                if below > rank {
                    return bin * 10;
                }
            }
            let at = usize::try_from(rank.saturating_sub(inside)).unwrap_or(0);
            beyond.get(at).or(beyond.last()).copied().unwrap_or(0)
        })
    }
}

/// Rounds between looks at the clock.
const CLOCK_EVERY: u32 = 4096;
/// Between words.
const TELL_EVERY: Duration = Duration::from_millis(250);
/// How long frames may be out at the end.
const LEAVE: Duration = Duration::from_secs(1);
/// The largest burst.
pub(super) const BURST_MAX: usize = 64;
/// Over how many bytes the frames rotate: twice the private cache of common servers.
const ROTATION_BYTES: usize = 2 << 20;
/// What testpmd's `txonly` writes of each frame: the headers of Ethernet, IP and UDP.
const HEADERS: [u8; 42] = {
    let mut headers = [0; 42];
    let mut at = 0;
    while at < HEADER.len() {
        headers[at] = HEADER[at];
        at += 1;
    }
    headers
};
const HEADER: [u8; 14] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_rotate_through_all_of_their_memory() {
        let mut source = Source::new(65);
        let frames = source.bytes.len() / 128;
        assert!(frames * 128 >= ROTATION_BYTES);
        for _ in 0..frames {
            let burst = source.burst(3);
            assert!(burst.as_slice().iter().all(|frame| frame.len() == 65 && frame[..14] == HEADER));
            source.advance(1);
        }
        assert_eq!(source.at, 0);
    }

    #[test]
    fn percentiles_are_read_off_the_bins() {
        let mut times = Times::new();
        for nanos in 0..1000u64 {
            times.note(Duration::from_nanos(nanos * 10));
        }
        assert_eq!(times.percentiles(), [5_000, 9_900, 9_990]);
        times.note(Duration::from_millis(3));
        assert_eq!(times.percentiles()[0], 5_000);
        let mut slow = Times::new();
        slow.note(Duration::from_millis(2));
        assert_eq!(slow.percentiles(), [2_000_000; 3]);
    }
}
