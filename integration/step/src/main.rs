//! A pair that is stepped by hand, for counting instructions.
//!
//! Driver and backend sleep whenever there is nothing to do, and each wakes the other one, so that only one of them runs
//! at a time, and each does the same work each time: a burst of 32 frames sent and taken back, a ring of 256 received, or frames that go
//! round, 128 of them or fewer.
//! Two processes that spin count something else each time. `ci.sh bench-check` and `ci.sh bench-checks` run this under
//! callgrind and read off what the burst calls of the driver (the `drive_*` functions), and the passes of the backend, took
//! a frame.
//!
//! A program by itself, because it has to be built again for each check that is taken out: it is made of the driver and of
//! the backend without its hostile mode, as they are shipped.

#![forbid(unsafe_code)]

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use ironring_backend::config::{PortSpec, Settings};
use ironring_backend::session::{StopToken, serve_connection};
use ironring_backend::worker::WaitPolicy;
use ironring_driver::net::{NetError, NetOptions, QueuePair, RxBatch, RxQueue, TxError, TxQueue, VirtioNet};
use ironring_driver::queue::RingLayout;
use ironring_driver::queue::violation::Violation;
use ironring_driver::transport::{Deadlines, VhostUser};

/// Steps a driver and a backend, and says on stdout how many frames there were.
#[derive(Clone, Copy, Debug, Parser)]
struct Args {
    #[arg(long, value_enum)]
    layout: Layout,
    #[arg(long, value_enum)]
    dir: Direction,
    /// How the driver is used
    #[arg(long, value_enum, default_value_t = Api::Copy)]
    api: Api,
    /// Negotiate VIRTIO_F_IN_ORDER
    #[arg(long)]
    in_order: bool,
    /// Negotiate VIRTIO_F_EVENT_IDX
    #[arg(long)]
    event_idx: bool,
    /// Send by indirect tables
    #[arg(long)]
    indirect: bool,
    /// Bytes of each frame
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(60..=1518))]
    size: u16,
    /// Frames that go round at a time, 32 in a burst
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=128))]
    in_flight: u16,
    /// Frames: so many rounds of 256
    #[arg(long, default_value_t = 100)]
    rounds: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Layout {
    Split,
    Packed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// From the driver to the backend.
    Tx,
    /// From the backend to the driver.
    Rx,
    /// Round.
    Loop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Api {
    /// Frames are copied in from private memory, and copied out to it.
    Copy,
    /// Of sent frames 42 bytes are written where they go, the headers of Ethernet, IP and UDP.
    InPlace,
    /// Received frames are lent where they lie, and their bytes not looked at; or copied from there to where they are sent.
    Lease,
    /// Received frames go out again from where they lie.
    Hairpin,
}

fn main() -> ExitCode {
    let done = run(Args::parse()).and_then(|frames| Ok(writeln!(std::io::stdout(), "{frames}")?));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "the stepped pair: {error}");
            ExitCode::from(1)
        }
    }
}

type Failure = Box<dyn std::error::Error>;

fn run(args: Args) -> Result<u64, Failure> {
    let Args { layout, dir, size, .. } = args;
    let port = match (dir, args.api) {
        (Direction::Tx, Api::Copy | Api::InPlace) => PortSpec::Null,
        (Direction::Rx, Api::Copy | Api::Lease) => PortSpec::Generate { bytes: usize::from(size) },
        (Direction::Loop, Api::Copy | Api::Lease | Api::Hairpin) => PortSpec::Loopback,
        _ => {
            return Err(
                "it counts tx, copied or in place, rx, copied or leased, and loops in all ways but in place".into()
            );
        }
    };
    let settings = Settings { port, wait: WaitPolicy::Interrupt, ..Settings::default() };
    let (front, back) = UnixStream::pair()?;
    let stop = StopToken::new()?;
    let backend = std::thread::spawn(move || serve_connection(back, &settings, &stop).map(|_| ()));
    let Args { in_order, event_idx, indirect, .. } = args;
    let options = NetOptions {
        layout: layout.of_ring(),
        queue_size: RING,
        in_order,
        event_idx,
        indirect,
        hairpin: args.api == Api::Hairpin,
        ..NetOptions::default()
    };
    let deadlines = Deadlines { connect: PATIENCE, request: PATIENCE };
    let mut net = VirtioNet::bring_up(VhostUser::from_stream(front, deadlines)?, options)?;
    let frames = match dir {
        Direction::Rx => receive(&mut net, args)?,
        Direction::Tx => send(&mut net, args)?,
        Direction::Loop => go_round(&mut net, args)?,
    };
    drop(net);
    backend.join().map_err(|_| "the backend panicked")??;
    Ok(frames)
}

impl Layout {
    const fn of_ring(self) -> RingLayout {
        match self {
            Self::Split => RingLayout::Split,
            Self::Packed => RingLayout::Packed,
        }
    }
}

/// A burst at a time.
fn send(net: &mut VirtioNet, args: Args) -> Result<u64, Failure> {
    let size = usize::from(args.size);
    let frame = vec![0xa5; size];
    let frames: [&[u8]; BURST] = std::array::from_fn(|_| frame.as_slice());
    let tx = net.tx();
    for _ in 0..u64::from(args.rounds) * u64::from(RING) / BURST as u64 {
        match args.api {
            Api::InPlace => drive_in_place(tx, size)?,
            _ => drive_copies(tx, &frames)?,
        };
        while tx.outstanding() > 0 {
            if !tx.wait(PATIENCE)? {
                return Err("nothing came back".into());
            }
            drive_reclaim(tx)?;
        }
    }
    Ok(tx.stats().completed)
}

/// A ring at a time.
fn receive(net: &mut VirtioNet, args: Args) -> Result<u64, Failure> {
    let rx = net.rx();
    let mut batch = RxBatch::new(usize::from(RING), 2036);
    let mut frames = 0;
    while frames < u64::from(args.rounds) * u64::from(RING) {
        if !rx.wait(PATIENCE)? {
            return Err("nothing came".into());
        }
        // The backend fills the ring meanwhile, and goes to sleep.
        pass();
        frames += match args.api {
            Api::Lease => drive_leases(rx)?,
            _ => drive_receive(rx, &mut batch)?,
        };
    }
    Ok(frames)
}

/// As many as are on their way at a time.
fn go_round(net: &mut VirtioNet, args: Args) -> Result<u64, Failure> {
    let frame = vec![0xa5; usize::from(args.size)];
    let pair = net.pairs_mut().first_mut().ok_or("there is no pair")?;
    let mut left = usize::from(args.in_flight);
    while left > 0 {
        let sent = pair.tx().tx_burst(&vec![&frame; left.min(BURST)])?;
        left -= sent;
        if sent == 0 && !pair.tx().wait(PATIENCE)? {
            return Err("nothing was taken".into());
        }
    }
    let mut batch = RxBatch::new(BURST, 2036);
    let mut frames = 0;
    while frames < u64::from(args.rounds) * u64::from(RING) {
        if !pair.wait(PATIENCE)? {
            return Err("nothing came back".into());
        }
        // The backend goes on until it has nothing to do.
        pass();
        frames += match args.api {
            Api::Hairpin => drive_hairpin(pair, args.in_flight)?,
            Api::Lease => drive_forward(pair, args.in_flight)?,
            _ => drive_loop(pair, &mut batch, args.in_flight)?,
        };
    }
    Ok(frames)
}

// What is counted for the driver: these functions, whatever is inlined into them.

#[inline(never)]
fn drive_copies(tx: &mut TxQueue, frames: &[&[u8]]) -> Result<usize, TxError> {
    tx.tx_burst(frames)
}

#[inline(never)]
fn drive_in_place(tx: &mut TxQueue, size: usize) -> Result<usize, TxError> {
    // A frame has 60 bytes at least.
    tx.tx_burst_in_place(BURST, size, |frame| _ = frame.write(0, &[0; 42]))
}

#[inline(never)]
fn drive_reclaim(tx: &mut TxQueue) -> Result<usize, Violation> {
    tx.reclaim()
}

#[inline(never)]
fn drive_receive(rx: &mut RxQueue, batch: &mut RxBatch) -> Result<u64, Violation> {
    rx.rx_burst(batch).map(|count| count as u64)
}

/// What is there, a ring at most.
#[inline(never)]
fn drive_leases(rx: &mut RxQueue) -> Result<u64, Violation> {
    let mut frames = 0;
    while frames < u64::from(RING) {
        let count = rx.rx_lease(LEASE, |frames| _ = std::hint::black_box(frames))?;
        if count == 0 {
            break;
        }
        frames += count as u64;
    }
    Ok(frames)
}

/// All that have come back.
#[inline(never)]
fn drive_hairpin(pair: &mut QueuePair, most: u16) -> Result<u64, NetError> {
    let mut frames = 0;
    while frames < u64::from(most) {
        let count = pair.hairpin(BURST, |_| true)?;
        if count == 0 {
            break;
        }
        frames += count as u64;
    }
    Ok(frames)
}

/// As [`drive_hairpin`], copied from slot to slot.
#[inline(never)]
fn drive_forward(pair: &mut QueuePair, most: u16) -> Result<u64, Failure> {
    let (rx, tx) = pair.queues();
    let mut frames = 0;
    while frames < u64::from(most) {
        let mut failed = None;
        // There is room for all that go round.
        let count = rx.rx_lease(BURST, |frames| failed = tx.forward_burst(frames).err())?;
        if let Some(failure) = failed {
            return Err(failure.into());
        }
        if count == 0 {
            break;
        }
        frames += count as u64;
    }
    Ok(frames)
}

/// As [`drive_hairpin`], copied out and in.
#[inline(never)]
fn drive_loop(pair: &mut QueuePair, batch: &mut RxBatch, most: u16) -> Result<u64, NetError> {
    let (rx, tx) = pair.queues();
    let mut frames = 0;
    while frames < u64::from(most) {
        let count = rx.rx_burst(batch)?;
        let mut sent = 0;
        while sent < count {
            // The frames were received, so they have lawful lengths.
            sent += tx.tx_batch(batch, sent).unwrap_or(count);
        }
        if count == 0 {
            break;
        }
        frames += count as u64;
    }
    Ok(frames)
}

/// Lets the backend work until there is nothing left to do.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing says that the backend sleeps, and counts are the same if it does not"
)]
fn pass() {
    std::thread::sleep(FILLING);
}

const RING: u16 = 256;
const BURST: usize = 32;
/// The most that is lent at a time.
const LEASE: usize = 64;
/// More than it takes to fill a ring, also under an emulator.
const FILLING: Duration = Duration::from_millis(10);
/// Far more than a step takes, also under an emulator.
const PATIENCE: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_moves_frames() {
        for (layout, dir, api) in [
            (Layout::Split, Direction::Tx, Api::Copy),
            (Layout::Packed, Direction::Tx, Api::InPlace),
            (Layout::Packed, Direction::Rx, Api::Copy),
            (Layout::Split, Direction::Rx, Api::Lease),
            (Layout::Split, Direction::Loop, Api::Copy),
            (Layout::Packed, Direction::Loop, Api::Hairpin),
            (Layout::Split, Direction::Loop, Api::Lease),
        ] {
            let (in_order, event_idx, indirect) = (true, api != Api::Copy, api == Api::InPlace);
            let args = Args { layout, dir, in_order, event_idx, indirect, api, size: 64, in_flight: 40, rounds: 2 };
            assert!(run(args).unwrap() >= 512);
        }
    }

    #[test]
    fn what_it_cannot_count_is_refused() {
        let (in_order, event_idx, indirect) = (false, false, false);
        for (dir, api) in [(Direction::Tx, Api::Lease), (Direction::Rx, Api::InPlace), (Direction::Loop, Api::InPlace)]
        {
            let layout = Layout::Split;
            assert!(
                run(Args { layout, dir, in_order, event_idx, indirect, api, size: 64, in_flight: 1, rounds: 1 })
                    .is_err()
            );
        }
    }
}
