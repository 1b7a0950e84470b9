use std::io::{Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Sender, channel};

use super::*;

/// A relay with our ends of both its sockets.
struct Rig {
    front_end: UnixStream,
    backend: UnixStream,
    relay: Relay,
}

impl Rig {
    fn new(filter: impl Filter + 'static) -> Self {
        let (front_end, relayed) = UnixStream::pair().unwrap();
        let (backend, served) = UnixStream::pair().unwrap();
        for socket in [&front_end, &backend] {
            socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        }
        Self { front_end, backend, relay: Relay::start(relayed, served, filter, &Sandbox::none()).unwrap() }
    }
}

fn exactly(mut socket: &UnixStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    socket.read_exact(&mut bytes).unwrap();
    bytes
}

fn at_end(mut socket: &UnixStream) -> bool {
    socket.read(&mut [0; 64]).unwrap() == 0
}

fn send(socket: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = control_space();
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    let sent = rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, bytes.len());
}

/// Receives at most `len` bytes and the descriptors with them.
fn receive(socket: &UnixStream, len: usize) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = vec![0; len];
    let mut space = control_space();
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let received = rustix::net::recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    bytes.truncate(received.bytes);
    (bytes, fds)
}

/// Tells what it saw and passes it on.
struct Watch(Sender<(Side, u32, usize, usize)>);

impl Filter for Watch {
    fn on_request(&mut self, message: Message) -> Vec<Step> {
        let seen = (Side::FrontEnd, message.request(), message.body().len(), message.fds.len());
        self.0.send(seen).unwrap();
        NoFilter.on_request(message)
    }

    fn on_reply(&mut self, message: Message) -> Vec<Step> {
        self.0.send((Side::Backend, message.request(), message.body().len(), message.fds.len())).unwrap();
        NoFilter.on_reply(message)
    }
}

/// Does one thing to each reply.
struct Tamper<F>(F);

impl<F: FnMut(Message) -> Vec<Step> + Send> Filter for Tamper<F> {
    fn on_reply(&mut self, message: Message) -> Vec<Step> {
        (self.0)(message)
    }
}

#[test]
fn messages_pass_whole_however_they_are_cut() {
    let (tell, seen) = channel();
    let rig = Rig::new(Watch(tell));
    let (first, second) = (Message::new(1, 1, &[]), Message::new(7, 9, &[5; 300]));
    // Two at once, then one byte by byte.
    let mut both = first.bytes.clone();
    both.extend_from_slice(&second.bytes);
    (&rig.front_end).write_all(&both).unwrap();
    for byte in &second.bytes {
        (&rig.front_end).write_all(&[*byte]).unwrap();
    }
    assert_eq!(exactly(&rig.backend, both.len()), both);
    assert_eq!(exactly(&rig.backend, second.bytes.len()), second.bytes);
    (&rig.backend).write_all(&second.bytes).unwrap();
    assert_eq!(exactly(&rig.front_end, second.bytes.len()), second.bytes);
    let seen: Vec<_> = seen.iter().take(4).collect();
    let whole = (Side::FrontEnd, 7, 300, 0);
    assert_eq!(seen, [(Side::FrontEnd, 1, 0, 0), whole, whole, (Side::Backend, 7, 300, 0)]);
}

#[test]
fn descriptors_stay_with_their_message() {
    let (tell, seen) = channel();
    let rig = Rig::new(Watch(tell));
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let (bare, laden) = (Message::new(1, 1, &[]), Message::new(5, 1, &[0; 8]));
    send(&rig.front_end, &bare.bytes, &[]);
    send(&rig.front_end, &laden.bytes, &[theirs.as_fd(), theirs.as_fd()]);
    send(&rig.front_end, &bare.bytes, &[]);
    assert_eq!(receive(&rig.backend, 12).1.len(), 0);
    let (bytes, fds) = receive(&rig.backend, laden.bytes.len());
    assert_eq!((bytes, fds.len()), (laden.bytes.clone(), 2));
    assert_eq!(receive(&rig.backend, 12).1.len(), 0);
    drop(theirs);
    let mut received = UnixStream::from(fds.into_iter().next().unwrap());
    received.write_all(b"!").unwrap();
    ours.read_exact(&mut [0]).unwrap();
    // The copies are closed again: this one was the last.
    drop(received);
    assert!(at_end(&ours));
    assert_eq!(seen.iter().take(3).map(|seen| seen.3).collect::<Vec<_>>(), [0, 2, 0]);
}

#[test]
fn what_cannot_be_framed_passes_as_it_comes() {
    let (tell, seen) = channel();
    let rig = Rig::new(Watch(tell));
    let mut huge = Message::new(1, 1, &[]).bytes;
    huge.splice(8..12, u32::MAX.to_ne_bytes());
    huge.resize(20_000, 3);
    let writer = rig.front_end.try_clone().unwrap();
    let sent = huge.clone();
    let writing = std::thread::spawn(move || (&writer).write_all(&sent).unwrap());
    assert_eq!(exactly(&rig.backend, huge.len()), huge);
    writing.join().unwrap();
    assert!(seen.try_recv().is_err());
}

#[test]
fn either_end_closes_both() {
    for side in [Side::FrontEnd, Side::Backend] {
        let Rig { front_end, backend, relay } = Rig::new(NoFilter);
        let (leaving, staying) = if side == Side::FrontEnd { (front_end, backend) } else { (backend, front_end) };
        let last = Message::new(2, 1, &[1; 4]).bytes;
        (&leaving).write_all(&last).unwrap();
        drop(leaving);
        assert_eq!(exactly(&staying, last.len()), last, "what was sent before arrives");
        assert!(at_end(&staying));
        relay.join().unwrap();
    }
}

#[test]
fn a_reply_can_be_dribbled_changed_swallowed_or_cut() {
    let reply = Message::new(1, 5, &[8; 8]).bytes;
    let rig = Rig::new(Tamper(|message: Message| {
        let bytes = message.bytes.chunks(3).map(|part| Message { bytes: part.to_vec(), fds: Vec::new() });
        bytes.flat_map(|part| [Step::Send(Side::FrontEnd, part), Step::Wait(Duration::from_millis(1))]).collect()
    }));
    (&rig.backend).write_all(&reply).unwrap();
    assert_eq!(exactly(&rig.front_end, reply.len()), reply);

    let rig = Rig::new(Tamper(|mut message: Message| {
        message.bytes.splice(8..12, 4096u32.to_ne_bytes());
        vec![Step::Send(Side::FrontEnd, message)]
    }));
    (&rig.backend).write_all(&reply).unwrap();
    assert_eq!(exactly(&rig.front_end, reply.len())[8..12], 4096u32.to_ne_bytes());

    let mut swallowed = false;
    let rig = Rig::new(Tamper(move |message: Message| {
        let keep = std::mem::replace(&mut swallowed, true);
        if keep { NoFilter.on_reply(message) } else { Vec::new() }
    }));
    (&rig.backend).write_all(&Message::new(9, 5, &[]).bytes).unwrap();
    (&rig.backend).write_all(&reply).unwrap();
    assert_eq!(exactly(&rig.front_end, reply.len()), reply);

    let rig = Rig::new(Tamper(|message: Message| {
        let half = Message { bytes: message.bytes[..10].to_vec(), fds: Vec::new() };
        vec![Step::Send(Side::FrontEnd, half), Step::Close]
    }));
    (&rig.backend).write_all(&reply).unwrap();
    assert_eq!(exactly(&rig.front_end, 10), reply[..10]);
    assert!(at_end(&rig.front_end) && at_end(&rig.backend));
    rig.relay.join().unwrap();
}

/// A filter that waits for ever does not outlive the connection.
#[test]
fn silence_ends_when_a_side_leaves() {
    let Rig { front_end, backend, relay } =
        Rig::new(Tamper(|_: Message| vec![Step::Wait(Duration::from_secs(3600)), Step::Close]));
    (&backend).write_all(&Message::new(1, 5, &[]).bytes).unwrap();
    drop(front_end);
    relay.join().unwrap();
    assert!(at_end(&backend));
}

/// A side that does not read holds up the relay, which notices all the same that the other side leaves.
#[test]
fn a_side_that_does_not_read_does_not_hold_the_relay_for_ever() {
    let Rig { front_end, backend, relay } = Rig::new(NoFilter);
    let message = Message::new(1, 1, &[0; 4000]).bytes;
    front_end.set_nonblocking(true).unwrap();
    // Until no socket on the way takes any more.
    let mut refused = 0;
    while refused < 100 {
        if rustix::io::write(&front_end, &message).is_ok() {
            refused = 0;
        } else {
            refused += 1;
            std::thread::yield_now();
        }
    }
    drop(front_end);
    relay.join().unwrap();
    drop(backend);
}

#[test]
fn urgent_data_ends_a_session_and_is_no_busy_loop() {
    let rig = Rig::new(NoFilter);
    if rustix::net::send(&rig.front_end, &[1], SendFlags::OOB | SendFlags::NOSIGNAL).is_err() {
        // Kernels before 5.15, or built without it.
        return;
    }
    assert!(at_end(&rig.backend));
    rig.relay.join().unwrap();
}
