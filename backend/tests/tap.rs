//! The daemon on a TAP interface, in a network namespace of its own.
//!
//! Needs root and /dev/net/tun; without them the tests say so and pass, unless the environment has `CI=true`.

#![allow(clippy::cast_possible_truncation, reason = "sizes of this test's own memory")]

mod support;

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use support::daemon::{Daemon, has_taps};
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;

/// A daemon on `tap0`, which has an address, in a namespace that ends with it; `None` where that cannot be.
fn on_a_tap(dir: &Path) -> Option<Daemon> {
    if !has_taps() {
        return None;
    }
    let socket = dir.join("socket");
    let mut command = Command::new("unshare");
    command.args(["--net", env!("CARGO_BIN_EXE_ironring-backend"), "--port", "tap:tap0", "--sandbox-kill"]);
    let daemon = Daemon::run(command.arg("--socket-path").arg(&socket), socket);
    daemon.says("ready");
    inside(&daemon, "ip addr add 10.9.9.1/24 dev tap0");
    Some(daemon)
}

/// Runs a command in the daemon's namespace.
fn inside(daemon: &Daemon, line: &str) {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", daemon.child.id())).args(line.split(' '));
    assert!(command.status().unwrap().success(), "{line}");
}

/// A socket whose datagrams to `10.9.9.255` go out by `tap0`.
fn host_socket(daemon: &Daemon) -> UdpSocket {
    let namespace = std::fs::File::open(format!("/proc/{}/ns/net", daemon.child.id())).unwrap();
    // A socket stays in the namespace where it was made; the thread that went there ends.
    let make = move || {
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network)).unwrap();
        UdpSocket::bind("10.9.9.1:0").unwrap()
    };
    let socket = std::thread::spawn(make).join().unwrap();
    socket.set_broadcast(true).unwrap();
    socket
}

fn holds(frame: &[u8], words: &[u8]) -> bool {
    frame.windows(words.len()).any(|window| window == words)
}

/// What was sent to one guest is not for the next one.
#[test]
fn what_the_interface_holds_when_a_front_end_leaves_reaches_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = on_a_tap(dir.path()) else { return };
    let host = host_socket(&daemon);
    for words in ["for the first", "for the second", "for the third"] {
        let mut front_end = daemon.connect();
        front_end.bring_up();
        host.send_to(words.as_bytes(), "10.9.9.255:9").unwrap();
        loop {
            let frame = front_end.guest.receive();
            assert!(!holds(&frame, b"for nobody"), "a frame that was sent before this front-end came");
            if holds(&frame, words.as_bytes()) {
                break;
            }
        }
        drop(front_end);
        daemon.says("the session has ended");
        for _ in 0..100 {
            host.send_to(b"for nobody", "10.9.9.255:9").unwrap();
        }
    }
}

/// Nothing that is open when the daemon serves can send to a network, but the interface itself.
#[test]
fn no_socket_of_a_network_stays_open() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = on_a_tap(dir.path()) else { return };
    for table in ["tcp", "udp", "raw", "tcp6", "udp6", "raw6", "packet", "netlink", "icmp"] {
        let sockets = std::fs::read_to_string(format!("/proc/{}/net/{table}", daemon.child.id())).unwrap();
        // The first line has the names of the columns. The kernel's own ends of netlink are of process 0.
        let open =
            sockets.lines().skip(1).filter(|line| table != "netlink" || line.split_whitespace().nth(2) != Some("0"));
        assert_eq!(open.collect::<Vec<_>>(), <[&str; 0]>::default(), "{table}");
    }
    let fds = std::fs::read_dir(format!("/proc/{}/fd", daemon.child.id())).unwrap();
    let open: Vec<_> = fds.map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap()).collect();
    assert!(open.iter().any(|target| target == Path::new("/dev/net/tun")), "{open:?}");
}

#[test]
fn the_link_is_up_while_the_interface_is() {
    let dir = tempfile::tempdir().unwrap();
    let Some(daemon) = on_a_tap(dir.path()) else { return };
    let mut front_end = daemon.connect();
    front_end.bring_up();
    let mut status = || {
        let (_, bytes) = front_end.vhost.get_config(6, 2, VhostUserConfigFlags::empty(), &[0; 2]).unwrap();
        u16::from_le_bytes(bytes.try_into().unwrap())
    };
    for (state, expected) in [("down", 0), ("up", 1), ("down", 0)] {
        inside(&daemon, &format!("ip link set tap0 {state}"));
        assert_eq!(status(), expected, "{state}");
    }
    // One that is gone is down, and the session goes on.
    inside(&daemon, "ip link delete tap0");
    assert_eq!(status(), 0);
}
