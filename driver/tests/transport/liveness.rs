//! Backends that are slow, silent, gone, or will not stop talking.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use ironring_driver::transport::{Deadlines, TransportError, VhostUser};
use rustix::net::SendFlags;

use super::peer::*;

#[test]
fn one_byte_at_a_time_for_ever() {
    for bytes in [vec![0; 64], message(1, 5, &[0; 8])] {
        let (mut driver, peer) = pair(Device::default(), SHORT, move |peer| {
            peer.receive().unwrap();
            peer.receive().unwrap();
            // A header takes twice the deadline; whoever starts a new one at each byte waits for ever.
            let begin = Instant::now();
            for byte in bytes.iter().cycle() {
                if peer.stream.write_all(&[*byte]).is_err() || begin.elapsed() > LONG {
                    break;
                }
                std::thread::park_timeout(SHORT / 5);
            }
        });
        let error = in_time(|| driver.negotiate(supported())).unwrap_err();
        // On a busy machine the driver may wake so late that a whole header is there.
        assert!(["timed-out", "reply-code", "reply-surplus", "unsolicited"].contains(&error.class()), "{error}");
        peer.join().unwrap();
    }
}

#[test]
fn bytes_before_any_request() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut driver = VhostUser::from_stream(ours, Deadlines { connect: LONG, request: LONG }).unwrap();
    driver.check_alive().unwrap();
    theirs.write_all(&message(1, 5, &[0; 8])).unwrap();
    let error = driver.negotiate(supported()).unwrap_err();
    assert_eq!(error.class(), "unsolicited", "{error}");
    assert_eq!(driver.check_alive().unwrap_err().class(), "unsolicited");
}

/// A second copy of a reply that comes late lies in wait for the next request of the same code; it is found first.
#[test]
fn bytes_between_two_requests() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (go, wait) = std::sync::mpsc::channel();
    let (done, sent) = std::sync::mpsc::channel();
    let mut driver = VhostUser::from_stream(ours, Deadlines { connect: LONG, request: LONG }).unwrap();
    let mut peer = Peer { stream: theirs, device: Device::default() };
    let backend = std::thread::spawn(move || {
        peer.serve_with(&mut |peer, number, answer| {
            peer.send(&answer);
            if number == 2 {
                wait.recv().unwrap();
                peer.send(&answer);
                done.send(()).unwrap();
            }
            true
        });
    });
    driver.negotiate(supported()).unwrap();
    go.send(()).unwrap();
    sent.recv().unwrap();
    assert_eq!(driver.enable_queue(0, true).unwrap_err().class(), "unsolicited");
    backend.join().unwrap();
}

#[test]
fn urgent_data_is_no_busy_loop() {
    let (mut driver, peer) = pair(Device::default(), LONG, |peer| {
        peer.receive().unwrap();
        peer.receive().unwrap();
        let urgent = rustix::net::send(&peer.stream, &[1], SendFlags::OOB | SendFlags::NOSIGNAL);
        peer.outlast();
        urgent.is_ok()
    });
    let outcome = driver.negotiate(supported());
    drop(driver);
    // Kernels before 5.15, or built without it, have no urgent data on Unix sockets; then the peer was merely silent.
    let class = if peer.join().unwrap() { "urgent-data" } else { "timed-out" };
    assert_eq!(outcome.unwrap_err().class(), class);
}

/// A backend that pours: what is not asked for stays in the socket, and the socket's buffer is where it ends.
#[test]
fn a_flood_before_any_request_is_not_read() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut driver = VhostUser::from_stream(ours, Deadlines { connect: LONG, request: LONG }).unwrap();
    theirs.set_nonblocking(true).unwrap();
    while theirs.write(&[0x55; 4096]).is_ok() {}
    assert_eq!(driver.negotiate(supported()).unwrap_err().class(), "unsolicited");
    assert!(theirs.write(&[0]).is_err(), "nothing was taken, and the connection is closed");
}

#[test]
fn a_flood_behind_a_reply_is_not_read() {
    const ENDLESS: usize = 1 << 26;
    let (mut driver, peer) = pair(Device::default(), LONG, |peer| {
        rustix::net::sockopt::set_socket_send_buffer_size(&peer.stream, 1 << 16).unwrap();
        peer.receive().unwrap();
        peer.receive().unwrap();
        let mut flood = message(1, 5, &[0xff; 8]);
        flood.resize(4096, 0x55);
        let mut written = 0;
        while written < ENDLESS {
            match peer.stream.write(&flood) {
                Ok(n) => written += n,
                Err(_) => break,
            }
        }
        written
    });
    assert_eq!(driver.negotiate(supported()).unwrap_err().class(), "reply-surplus");
    assert!(peer.join().unwrap() < ENDLESS / 16, "the driver drains a flood");
}

/// A backend that never reads: our requests fill the socket, and the deadline holds for sending too.
#[test]
fn a_backend_that_never_reads() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut stuffing = ours.try_clone().unwrap();
    stuffing.set_nonblocking(true).unwrap();
    while stuffing.write(&[0; 4096]).is_ok() {}
    while stuffing.write(&[0; 1]).is_ok() {}
    let mut driver = VhostUser::from_stream(ours, Deadlines { connect: SHORT, request: SHORT }).unwrap();
    let error = in_time(|| driver.negotiate(supported())).unwrap_err();
    assert!(matches!(error, TransportError::TimedOut { after, .. } if after == SHORT), "{error}");
    assert!(error.to_string().contains("SET_OWNER"), "it is the sending that took too long: {error}");
    drop(theirs);
}

#[test]
fn closing_at_every_step() {
    for (device, replies) in [(Device::default(), REPLIES), (Device::without_acks(), REPLIES_WITHOUT_ACKS)] {
        for at in 0..replies {
            // Before the reply, in the middle of it, and right behind it.
            for keep in [0, 9, 15, usize::MAX] {
                let (mut driver, peer) = pair(device.clone(), LONG, move |peer| {
                    peer.serve_with(&mut |peer, number, answer| {
                        let part = if number == at { &answer[..keep.min(answer.len())] } else { &answer };
                        peer.send(part);
                        number != at
                    });
                    // Closes the socket, as the thread of a backend that ends would.
                    peer.stream.shutdown(std::net::Shutdown::Both).unwrap();
                });
                let error = session_that_ends(&mut driver);
                assert_eq!(error.class(), "disconnected", "at reply {at}: {error}");
                assert_eq!(driver.check_alive().unwrap_err().class(), "disconnected");
                peer.join().unwrap();
            }
        }
    }
}

#[test]
fn closing_before_and_between_requests() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    let mut driver = VhostUser::from_stream(ours, Deadlines { connect: LONG, request: LONG }).unwrap();
    assert_eq!(driver.negotiate(supported()).unwrap_err().class(), "disconnected");

    // With our request still unread, the close is a reset.
    for requests in 1..20 {
        let (mut driver, peer) = pair(Device::default(), LONG, move |peer| {
            for _ in 0..requests {
                let request = peer.receive().unwrap();
                if let Some(answer) = peer.device.answer(&request) {
                    peer.send(&answer);
                }
            }
            peer.stream = UnixStream::pair().unwrap().0;
        });
        assert_eq!(session(&mut driver).unwrap_err().class(), "disconnected");
        peer.join().unwrap();
    }
}

#[test]
fn an_end_closes_the_connection_for_the_backend_too() {
    let (mut driver, peer) = pair(Device::default(), SHORT, Peer::outlast);
    assert_eq!(driver.negotiate(supported()).unwrap_err().class(), "timed-out");
    // The driver is still there; the backend has seen the end of the stream all the same.
    peer.join().unwrap();
    assert_eq!(driver.check_alive().unwrap_err().class(), "timed-out");
}
