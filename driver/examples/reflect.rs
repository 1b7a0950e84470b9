//! A wall: each frame that comes goes back to who sent it, from where it lies, with its two addresses exchanged.
//!
//! ```text
//! cargo run --release -p ironring-driver --example reflect -- /tmp/vhost.sock
//! ```
//!
//! The twelve bytes of the addresses are copied out, looked at, and written back; no other byte of a frame is touched. Frames to a
//! group (the lowest bit of the first byte) are dropped, for an answer from a group's address is none.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use ironring_driver::net::{HairpinFrame, NetOptions, VirtioNet};
use ironring_driver::transport::{Deadlines, VhostUser};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [socket] = args.as_slice() else {
        return Err("usage: reflect SOCKET".into());
    };
    let channel = VhostUser::connect(Path::new(socket), Deadlines::default())?;
    let mut net = VirtioNet::bring_up(channel, NetOptions { hairpin: true, ..NetOptions::default() })?;
    let mut checked = Instant::now();
    loop {
        let pair = net.pair(0).ok_or("a device has a queue pair")?;
        if pair.hairpin(BURST, answer)? == 0 {
            pair.wait(CHECK)?;
        }
        // A backend that went away says so on the socket only.
        if checked.elapsed() > CHECK {
            net.check()?;
            checked = Instant::now();
        }
    }
}

/// Whether the frame goes back.
fn answer(frame: &mut HairpinFrame<'_>) -> bool {
    // Decided by a copy: the bytes of the frame are the device's.
    let mut addresses = [0; 12];
    frame.leased().copy_out(0, &mut addresses);
    let [to @ .., _, _, _, _, _, _] = addresses;
    addresses.rotate_left(6);
    to[0] & 1 == 0 && frame.write(0, &addresses).is_ok()
}

const BURST: usize = 32;
const CHECK: Duration = Duration::from_secs(1);
