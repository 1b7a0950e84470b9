//! The driver's vhost-user channel, with a backend that answers each request with the next piece of the input.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ironring_common::features::{Feature, Supported};
use ironring_driver::transport::{Deadlines, VhostUser};

/// A negotiation, and what follows it, on whatever the backend says. Each piece of the input begins with its length; with the
/// last one the backend hangs up.
pub fn channel(input: &[u8]) {
    let Ok((front, back)) = UnixStream::pair() else { return };
    std::thread::scope(|scope| {
        scope.spawn(move || answer(back, input));
        drive(front);
    });
}

/// Answers requests until the input is used up, or the other side has hung up.
fn answer(mut stream: UnixStream, mut input: &[u8]) {
    let mut header = [0; 12];
    while let Some((len, rest)) = input.split_first() {
        let (piece, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        input = rest;
        if stream.read_exact(&mut header).is_err() {
            return;
        }
        let size = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let mut body = vec![0; usize::try_from(size).unwrap_or(0)];
        if stream.read_exact(&mut body).is_err() || stream.write_all(piece).is_err() {
            return;
        }
    }
}

fn drive(stream: UnixStream) {
    let deadlines = Deadlines { connect: Duration::from_millis(2), request: Duration::from_millis(2) };
    let Ok(mut channel) = VhostUser::from_stream(stream, deadlines) else { return };
    let supported =
        Supported::none().require(Feature::Version1).with(Feature::Mac).with(Feature::Mtu).with(Feature::Status);
    let Ok(negotiated) = channel.negotiate(supported) else { return };
    assert!(negotiated.has(Feature::Version1), "what is required is there");
    if let Ok(Some(config)) = channel.config(negotiated) {
        assert!(config.mtu.is_none_or(|mtu| mtu >= 68), "no MTU that no device may have");
        assert!(config.mac.is_none_or(|mac| mac[0] & 1 == 0 && mac != [0; 6]), "no address that no device may have");
    }
    // Whatever the answer, it comes in time and is one.
    let _ = channel.enable_queue(0, true);
    let _ = channel.check_alive();
}
