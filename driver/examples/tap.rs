//! A network card for this host: a TAP interface whose frames go through the rings to a vhost-user backend and back.
//!
//! ```text
//! cargo run --release -p ironring-driver --example tap -- /tmp/vhost.sock tap1
//! ```
//!
//! Frames from the interface are written into transmit slots in place, frames from the rings are copied out and then
//! written to the interface. When nothing moves, one `poll` waits for both sides. The device does not call for slots that
//! it is done with, so while a frame waits for one, the wait is short and the interface, which stays readable, is left out.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use ironring_backend::port::Port;
use ironring_backend::port::tap::Tap;
use ironring_common::spec::net::ETH_HEADER_BYTES;
use ironring_driver::net::{NetOptions, RxBatch, VirtioNet};
use ironring_driver::transport::{Deadlines, VhostUser};
use rustix::event::{PollFd, PollFlags, Timespec};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket, interface] = args.as_slice() else {
        return Err("usage: tap SOCKET INTERFACE".into());
    };
    let channel = VhostUser::connect(Path::new(socket), Deadlines::default())?;
    let mut net = VirtioNet::bring_up(channel, NetOptions::default())?;
    let mut tap = Tap::open(interface, net.config().and_then(|config| config.mtu))?;
    let mut batch = RxBatch::new(BURST, net.tx().frame_max());
    let mut checked = Instant::now();
    loop {
        let (out, waits) = to_the_rings(&mut tap, &mut net)?;
        let back = to_the_interface(&mut net, &mut batch, &mut tap)?;
        if out + back == 0 {
            sleep(&mut tap, &mut net, waits)?;
        }
        // A backend that went away says so on the socket only.
        if checked.elapsed() > CHECK {
            net.check()?;
            checked = Instant::now();
        }
    }
}

/// Frames of the interface into transmit slots, in place, until one side has no more. How many, and whether one more
/// waits for a slot.
fn to_the_rings(tap: &mut Tap, net: &mut VirtioNet) -> Result<(usize, bool), Box<dyn Error>> {
    let (mut moved, mut waits) = (0, false);
    while moved < BURST {
        let Some(frame) = tap.rx_peek() else { break };
        let Some(mut slot) = net.tx().slot(frame.len())? else {
            waits = true;
            break;
        };
        slot.write(0, frame)?;
        slot.send()?;
        tap.rx_consume();
        moved += 1;
    }
    net.tx().publish()?;
    Ok((moved, waits))
}

/// Received frames to the interface. What it has no room for is dropped, as by any network card.
fn to_the_interface(net: &mut VirtioNet, batch: &mut RxBatch, tap: &mut Tap) -> Result<usize, Box<dyn Error>> {
    let count = net.rx().rx_burst(batch)?;
    for frame in batch.frames() {
        if let Some(slot) = tap.tx_slot(frame.len()) {
            slot.copy_from_slice(frame);
            tap.tx_commit();
        }
    }
    tap.flush();
    Ok(count)
}

/// Until either side has something, or for a moment if a frame waits for room on either.
fn sleep(tap: &mut Tap, net: &mut VirtioNet, waits: bool) -> Result<(), Box<dyn Error>> {
    if net.rx().arm()? {
        return Ok(());
    }
    // Without a slot even for the shortest frame, the interface has not taken the last one yet.
    let held_back = tap.tx_slot(ETH_HEADER_BYTES).is_none();
    let limit = if waits || held_back { RETRY } else { CHECK };
    let rx = net.rx();
    let interface = tap.readable_fd().filter(|_| !waits).unwrap_or_else(|| rx.call_fd());
    let mut fds = [rx.call_fd(), interface].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    if rustix::event::poll(&mut fds, Some(&Timespec::try_from(limit)?))? == 0 {
        net.nudge()?;
    }
    net.rx().disarm()?;
    Ok(())
}

const BURST: usize = 32;
const CHECK: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_millis(1);
