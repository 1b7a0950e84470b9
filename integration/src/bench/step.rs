//! A pair that is stepped by hand: the hidden subcommand `bench-step`, for counting instructions.
//!
//! Driver and backend sleep whenever there is nothing to do, and each wakes the other one, so that only one of them runs
//! at a time, and each does the same work each time: a burst of 32 frames sent and taken back, or a ring of 256 received.
//! Two processes that spin count something else each time. `ci.sh bench-check` runs this under callgrind and reads off
//! what the burst calls of the driver, and the passes of the backend, took a frame.

use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use ironring_backend::config::{PortSpec, Settings};
use ironring_backend::session::{StopToken, serve_connection};
use ironring_backend::worker::WaitPolicy;
use ironring_driver::net::{NetOptions, RxBatch, VirtioNet};
use ironring_driver::transport::{Deadlines, VhostUser};

use super::driver::Source;
use super::sample::pass;
use super::work::Direction;
use crate::output;
use crate::pair::Layout;

/// Arguments of the hidden subcommand.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct StepArgs {
    #[arg(long, value_enum)]
    layout: Layout,
    /// `tx` or `rx`
    #[arg(long, value_enum)]
    dir: Direction,
    /// Negotiate VIRTIO_F_IN_ORDER
    #[arg(long)]
    in_order: bool,
    /// Bytes of each frame
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(60..=1518))]
    size: u16,
    /// Frames: so many rounds of 256
    #[arg(long, default_value_t = 100)]
    rounds: u32,
}

/// The hidden `bench-step` subcommand. Says on stdout how many frames there were.
#[must_use]
pub fn step_main(args: StepArgs) -> ExitCode {
    match run(args) {
        Ok(frames) => {
            output::print_json(&serde_json::json!({ "frames": frames }));
            ExitCode::SUCCESS
        }
        Err(error) => {
            output::fail(false, &format!("the stepped pair: {error}"));
            ExitCode::from(1)
        }
    }
}

type Failure = Box<dyn std::error::Error>;

fn run(args: StepArgs) -> Result<u64, Failure> {
    let StepArgs { layout, dir, in_order, size, rounds } = args;
    let port = match dir {
        Direction::Tx => PortSpec::Null,
        Direction::Rx => PortSpec::Generate { bytes: usize::from(size) },
        Direction::Loop | Direction::Latency => return Err("it counts tx and rx".into()),
    };
    let settings = Settings { port, wait: WaitPolicy::Interrupt, ..Settings::default() };
    let (front, back) = UnixStream::pair()?;
    let stop = StopToken::new()?;
    let backend = std::thread::spawn(move || serve_connection(back, &settings, &stop).map(|_| ()));
    let options = NetOptions { layout: layout.into(), queue_size: RING, in_order, ..NetOptions::default() };
    let mut net = VirtioNet::bring_up(VhostUser::from_stream(front, Deadlines::default())?, options)?;
    let frames = match dir {
        Direction::Rx => receive(&mut net, rounds)?,
        _ => send(&mut net, usize::from(size), rounds)?,
    };
    drop(net);
    backend.join().map_err(|_| "the backend panicked")??;
    Ok(frames)
}

/// A burst at a time.
fn send(net: &mut VirtioNet, size: usize, rounds: u32) -> Result<u64, Failure> {
    let mut source = Source::new(size);
    let tx = net.tx();
    for _ in 0..u64::from(rounds) * u64::from(RING) / BURST as u64 {
        let sent = tx.tx_burst(source.burst(BURST).as_slice())?;
        source.advance(sent);
        while tx.outstanding() > 0 {
            if !tx.wait(PATIENCE)? {
                return Err("nothing came back".into());
            }
            tx.reclaim()?;
        }
    }
    Ok(tx.stats().completed)
}

/// A ring at a time.
fn receive(net: &mut VirtioNet, rounds: u32) -> Result<u64, Failure> {
    let rx = net.rx();
    let mut batch = RxBatch::new(usize::from(RING), 2036);
    let mut frames = 0;
    while frames < u64::from(rounds) * u64::from(RING) {
        if !rx.wait(PATIENCE)? {
            return Err("nothing came".into());
        }
        // The backend fills the ring meanwhile, and goes to sleep.
        pass(FILLING);
        frames += rx.rx_burst(&mut batch)? as u64;
    }
    Ok(frames)
}

const RING: u16 = 256;
const BURST: usize = 32;
/// More than it takes to fill a ring, also under an emulator.
const FILLING: Duration = Duration::from_millis(10);
/// Far more than a step takes, also under an emulator.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_moves_frames() {
        for (layout, dir) in [(Layout::Split, Direction::Tx), (Layout::Packed, Direction::Rx)] {
            let args = StepArgs { layout, dir, in_order: true, size: 64, rounds: 2 };
            assert!(run(args).unwrap() >= 512);
        }
    }
}
