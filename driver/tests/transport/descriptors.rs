//! Descriptors where none belong. They must be refused, not be kept, and not even be able to block whoever closes them.
//!
//! Every test attaches write ends of a pipe of its own: when its read end reports a hang-up, nobody has one any more, in
//! whatever table or socket it was. That holds however many tests run beside it.

use std::io::pipe;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ironring_driver::transport::{Deadlines, VhostUser};

use super::peer::*;

/// How a reply is cut up: descriptors ride on the first byte of the part behind the cut.
#[derive(Clone, Copy, Debug)]
enum Where {
    FirstByte,
    MidHeader,
    Body,
    /// On a byte behind the complete reply.
    Behind,
}

#[test]
fn attached_to_any_part_of_any_reply() {
    for count in [1, 33, 253] {
        for place in [Where::FirstByte, Where::MidHeader, Where::Body, Where::Behind] {
            for at in [0, 1, 2, 3, 4, REPLIES - 1] {
                let (reader, writer) = pipe().unwrap();
                let (mut driver, peer) = pair(Device::default(), LONG, move |peer| {
                    peer.serve_with(&mut |peer, number, mut answer| {
                        if number != at {
                            peer.send(&answer);
                            return true;
                        }
                        let cut = match place {
                            Where::FirstByte => 0,
                            Where::MidHeader => 5,
                            Where::Body => 14,
                            Where::Behind => {
                                answer.push(0);
                                answer.len() - 1
                            }
                        };
                        peer.send(&answer[..cut]);
                        let fds: Vec<BorrowedFd<'_>> = vec![writer.as_fd(); count];
                        peer.send_with(&answer[cut..], &fds);
                        true
                    });
                });
                let error = session_that_ends(&mut driver);
                let class = error.class();
                assert_eq!(class, "reply-descriptors", "{count} at reply {at}, {place:?}: {error}");
                peer.join().unwrap();
                assert!(all_closed(&reader), "{count} descriptors at reply {at}, {place:?}");
                assert_eq!(driver.check_alive().unwrap_err().class(), class);
            }
        }
    }
}

#[test]
fn attached_to_bytes_that_nobody_asked_for() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (reader, writer) = pipe().unwrap();
    let mut driver = VhostUser::from_stream(ours, Deadlines { connect: LONG, request: LONG }).unwrap();
    let mut peer = Peer { stream: theirs, device: Device::default() };
    peer.send_with(&[0], &[writer.as_fd()]);
    drop(writer);
    assert_eq!(driver.check_alive().unwrap_err().class(), "reply-descriptors");
    assert!(all_closed(&reader));
}

#[test]
fn left_in_the_socket_of_a_driver_that_ends() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (reader, writer) = pipe().unwrap();
    let driver = VhostUser::from_stream(ours, Deadlines { connect: LONG, request: LONG }).unwrap();
    let mut peer = Peer { stream: theirs, device: Device::default() };
    peer.send(&[0; 100]);
    peer.send_with(&[0], &[writer.as_fd(); 100]);
    drop((writer, driver));
    assert!(all_closed(&reader));
}

/// A TCP connection whose last close waits for data that nobody will read, for [`LINGER`].
fn lingering() -> (TcpStream, TcpStream) {
    use std::io::Write;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (far, _) = listener.accept().unwrap();
    near.set_nonblocking(true).unwrap();
    while near.write(&[0; 1 << 16]).is_ok() {}
    near.set_nonblocking(false).unwrap();
    rustix::net::sockopt::set_socket_linger(&near, Some(LINGER)).unwrap();
    (near, far)
}

const LINGER: Duration = Duration::from_secs(60);

/// The peer gives away its last reference to a socket that lingers. Whoever drops it is held for a minute: neither the
/// request, nor the end of the connection, nor a driver that is dropped may be that one.
#[test]
fn whose_close_blocks() {
    // Attached to the reply, there before the request, or there when the driver ends.
    for (request, requests_first) in [(true, 2), (true, 0), (false, 0)] {
        let (near, far) = lingering();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut driver = VhostUser::from_stream(ours, Deadlines { connect: LONG, request: LONG }).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let backend = std::thread::spawn(move || {
            let mut peer = Peer { stream: theirs, device: Device::default() };
            for _ in 0..requests_first {
                peer.receive().unwrap();
            }
            // The one in the socket is the last reference, all but surely before the driver has woken up.
            peer.send_with(&message(1, 5, &[0; 8]), &[near.as_fd()]);
            drop(near);
            tell.send(()).unwrap();
            peer.outlast();
        });
        if requests_first == 0 {
            told.recv().unwrap();
        }
        let begin = Instant::now();
        if request {
            assert_eq!(driver.negotiate(supported()).unwrap_err().class(), "reply-descriptors");
        }
        drop(driver);
        assert!(begin.elapsed() < LINGER / 4, "held for {:?} by a peer's descriptor", begin.elapsed());
        // Resets the connection, so that the thread that closes it is free again.
        drop(far);
        backend.join().unwrap();
    }
}
