//! A device that is reset over and over: frames through the rings of a backend that sends them back, then a new epoch on a
//! new connection, with new memory, new doorbells and new rings, and frames again.
//!
//! ```text
//! cargo run --release -p ironring-driver --example reset -- /tmp/vhost.sock 5 1000
//! ```
//!
//! In every other epoch the device is left with frames under way, which must not turn up in the next one.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ironring_driver::net::{NetOptions, RxBatch, VirtioNet};
use ironring_driver::transport::{Deadlines, TransportError, VhostUser};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, epochs, frames] = args.as_slice() else {
        return Err("usage: reset SOCKET EPOCHS FRAMES".into());
    };
    let socket = PathBuf::from(socket);
    let (epochs, frames): (u64, u64) = (epochs.parse()?, frames.parse()?);
    let mut net = VirtioNet::bring_up(connect(&socket)?, NetOptions::default())?;
    for epoch in 0..epochs {
        if epoch > 0 {
            if epoch % 2 == 1 {
                leave_frames_behind(&mut net)?;
            }
            net.reset(|| connect(&socket))?;
        }
        there_and_back(&mut net, epoch, frames)?;
    }
    net.close()?;
    Ok(())
}

fn connect(socket: &Path) -> Result<VhostUser, TransportError> {
    VhostUser::connect(socket, Deadlines::default())
}

/// Sends frames one by one and waits for each, which must come back as it is, and as the next.
fn there_and_back(net: &mut VirtioNet, epoch: u64, frames: u64) -> Result<(), Box<dyn Error>> {
    let mut batch = RxBatch::new(BURST, net.tx().frame_max());
    for number in 0..frames {
        let sent = frame(epoch, number);
        while net.tx().tx_burst(&[&sent])? == 0 {}
        let deadline = Instant::now() + PATIENCE;
        loop {
            net.rx().rx_burst(&mut batch)?;
            if let Some(back) = batch.frames().next() {
                if batch.len() != 1 || back != sent {
                    return Err(format!("epoch {epoch}: something else than frame {number} came back").into());
                }
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("epoch {epoch}: frame {number} did not come back within {PATIENCE:?}").into());
            }
            std::hint::spin_loop();
        }
    }
    Ok(())
}

/// Sends a burst that nobody waits for.
fn leave_frames_behind(net: &mut VirtioNet) -> Result<(), Box<dyn Error>> {
    let stale = frame(u64::MAX, 0);
    net.tx().tx_burst(&[stale.as_slice(); BURST])?;
    Ok(())
}

/// A frame with its numbers in it, of the EtherType for local experiments.
fn frame(epoch: u64, number: u64) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5];
    frame.extend(epoch.to_be_bytes());
    frame.extend(number.to_be_bytes());
    frame.resize(60 + usize::try_from(number % 1400).unwrap_or(0), 0x5a);
    frame
}

const BURST: usize = 32;
const PATIENCE: Duration = Duration::from_secs(2);
