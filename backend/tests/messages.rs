//! What the program says when it cannot serve, and the status that it ends with: what is wrong, with the numbers, and
//! what to change.

#![allow(clippy::cast_possible_truncation, reason = "sizes of this test's own memory")]

mod support;

use std::fs::Permissions;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Instant;

use ironring_backend::session::relay::Message;
use rustix::fs::MemfdFlags;
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use support::daemon::{Daemon, LIMIT, has_taps};
use support::{FrontEnd, GUEST_BASE, MEMORY_BYTES, RX, SIZE, TX, USER_BASE};
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};

/// Ended as told, failed, wrong arguments, could not begin.
const AS_TOLD: i32 = 0;
const FAILED: i32 = 1;
const USAGE: i32 = 2;
const COULD_NOT_BEGIN: i32 = 3;

/// The program in front of which words may stand that change what it may do.
fn program(prefix: &[&str], binary: &Path) -> Command {
    let mut words = prefix.iter().map(std::ffi::OsStr::new).chain([binary.as_os_str()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_ironring-backend"))
}

/// A directory that everybody may look into, and the program in it, so that any user can run it.
struct Public {
    dir: tempfile::TempDir,
    program: PathBuf,
}

impl Public {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        let program = dir.path().join("ironring-backend");
        std::fs::copy(binary(), &program).unwrap();
        Self { dir, program }
    }

    /// The program as a user who is nobody in particular: if need be, another than this test's.
    fn command(&self) -> Command {
        if is_root() { program(&NOBODY, &self.program) } else { program(&[], &self.program) }
    }
}

const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Ends by itself with `status`, after a line that contains all of `words`.
#[track_caller]
fn refuses(command: &mut Command, status: i32, words: &[&str]) {
    let Output { stderr, stdout, status: ended } = command.output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    let tells = |line: &str| words.iter().all(|word| line.contains(word));
    assert!(said.lines().any(tells), "{words:?}: {said}");
    assert_eq!(ended.code(), Some(status), "{said}");
    assert!(stdout.is_empty(), "nothing was asked for");
}

#[test]
fn a_socket_that_cannot_be_made_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let at = |path: &Path| {
        let mut command = program(&[], binary());
        command.args(["--port", "null", "--socket-path"]).arg(path);
        command
    };
    let socket = dir.path().join("socket");
    let daemon = Daemon::start(dir.path(), "null");
    daemon.says("ready");
    let busy = format!("another process listens at {}; stop it, or choose another --socket-path", socket.display());
    refuses(&mut at(&socket), COULD_NOT_BEGIN, &["ERROR", &busy]);
    // It was not disturbed.
    daemon.connect().bring_up();

    let file = dir.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    refuses(&mut at(&file), COULD_NOT_BEGIN, &["exists and is no socket; remove it, or choose"]);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");

    let missing = format!("there is no directory {}; make it", dir.path().join("no").display());
    refuses(&mut at(&dir.path().join("no/socket")), COULD_NOT_BEGIN, &[&missing]);

    let bytes = dir.path().as_os_str().len() + 1;
    for (length, fits) in [(107, true), (108, false), (300, false)] {
        let path = dir.path().join("x".repeat(length - bytes));
        if fits {
            let daemon = Daemon::run(&mut at(&path), path);
            daemon.says("ready");
            daemon.connect();
        } else {
            let words = [&format!("has {length} bytes and that of a socket has at most 107"), "choose a shorter"];
            refuses(&mut at(&path), COULD_NOT_BEGIN, &words);
        }
    }
}

/// What a daemon leaves behind that was killed.
#[test]
fn a_socket_that_nobody_listens_on_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    drop(UnixListener::bind(dir.path().join("socket")).unwrap());
    let mut daemon = Daemon::start(dir.path(), "loopback");
    daemon.says("ready");
    let mut front_end = daemon.connect();
    front_end.bring_up();
    front_end.echo();
    drop(front_end);
    kill_process(daemon.pid(), Signal::TERM).unwrap();
    assert_eq!(daemon.ends(), Some(AS_TOLD));
}

#[test]
fn a_user_who_may_not_make_the_socket_is_told_so() {
    let public = Public::new();
    let closed = public.dir.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, Permissions::from_mode(0o555)).unwrap();
    let at = |path: &Path| {
        let mut command = public.command();
        command.args(["--port", "null", "--socket-path"]).arg(path);
        command
    };
    let socket = closed.join("socket");
    let advice = format!("let it write to {}, or choose another --socket-path", closed.display());
    refuses(&mut at(&socket), COULD_NOT_BEGIN, &["this user may not make a socket at", &advice]);

    let open = public.dir.path().join("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
    let socket = open.join("socket");
    refuses(
        at(&socket).args(["--socket-owner", "0"]),
        COULD_NOT_BEGIN,
        &["cannot set mode, owner or group of", "only root may give a socket away"],
    );
    assert!(!socket.exists(), "nothing is left behind");
    refuses(at(&socket).args(["--socket-owner", "no such user"]), USAGE, &["knows no `no such user`; give the number"]);
}

/// In client mode a socket that may not be used is no reason to end: it may be made anew.
#[test]
fn a_front_end_that_may_not_be_called_is_told_from_one_that_is_not_there() {
    let public = Public::new();
    let socket = public.dir.path().join("vmm");
    let _listener = UnixListener::bind(&socket).unwrap();
    std::fs::set_permissions(&socket, Permissions::from_mode(0o000)).unwrap();
    let mut command = public.command();
    command.args(["--port", "null", "--connect"]).arg(&socket);
    let mut daemon = Daemon::run(&mut command, socket);
    let said = daemon.says("WARN");
    assert!(said.contains("this user may not connect to") && said.contains("let it write to that socket"), "{said}");
    kill_process(daemon.pid(), Signal::TERM).unwrap();
    assert_eq!(daemon.ends(), Some(AS_TOLD));
}

/// The program on a TAP in network and mount namespaces of its own, where `before` runs first. Any user may open
/// /dev/net/tun there, as on most systems.
fn on_tap(program: &Path, before: &str, name: &str) -> Command {
    let tun = "mount -t tmpfs none /dev/net; mknod -m 666 /dev/net/tun c 10 200";
    let script = format!(r#"set -e; {tun}; {before} "$0" --port "tap:$1" --socket-path "$2""#);
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c", &script]).arg(program);
    command.args([name, "/nonexistent/socket"]);
    command
}

#[test]
fn a_tap_that_cannot_be_had_says_why() {
    if !has_taps() {
        return;
    }
    let public = Public::new();
    let nobody = NOBODY.join(" ");
    let refuses = |before: &str, name: &str, words: &[&str]| {
        refuses(&mut on_tap(&public.program, before, name), COULD_NOT_BEGIN, words);
    };
    // Neither made nor used by somebody else.
    let words = ["the TAP interface tap7 may not be used or made by this user", "ip tuntap add dev tap7 mode tap user"];
    refuses(&nobody, "tap7", &words);
    refuses(&format!("ip tuntap add dev tap7 mode tap vnet_hdr user 1; {nobody}"), "tap7", &words);
    // The user who is named may: what is wrong then is the socket's path.
    let own = format!("ip tuntap add dev tap7 mode tap vnet_hdr user 65534; {nobody}");
    refuses(&own, "tap7", &["there is no directory /nonexistent"]);
    let words = ["this user may not open /dev/net/tun: Permission denied", "tap:fd=N"];
    refuses(&format!("chmod 600 /dev/net/tun; {nobody}"), "tap7", &words);
    refuses("rm /dev/net/tun;", "tap7", &["/dev/net/tun cannot be opened", "load the module `tun`"]);
    let words = ["is no TAP interface with one queue; pick another name"];
    refuses("", "lo", &words);
    refuses("ip link add veth7 type veth peer name veth8;", "veth7", &words);
    for name in ["sixteen-letters!", "a b", "tap%d"] {
        let words = [&*format!("`{name}` cannot be the name of an interface"), "use 1 to 15 characters"];
        refuses("", name, &words);
    }
}

#[test]
fn a_tap_that_is_in_use_says_so() {
    if !has_taps() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut command = Command::new("unshare");
    command.args(["--net"]).arg(binary()).args(["--port", "tap:tap7", "--socket-path"]).arg(&socket);
    let first = Daemon::run(&mut command, socket);
    first.says("ready");
    let mut second = Command::new("nsenter");
    second.arg(format!("--net=/proc/{}/ns/net", first.child.id())).arg(binary());
    second.args(["--port", "tap:tap7", "--socket-path", "/nonexistent/socket"]);
    let words = ["the TAP interface tap7 is in use by another process; end that one, or pick another interface"];
    refuses(&mut second, COULD_NOT_BEGIN, &words);
}

#[test]
fn arguments_that_cannot_be_are_refused_with_the_numbers() {
    let with = |option: &str, value: &str| {
        let mut command = program(&[], binary());
        command.args(["--socket-path", "/nonexistent/socket", "--port", "null", option, value]);
        command
    };
    for size in ["0", "200", "65536", "-1", "many"] {
        let words = [&*format!("'{size}'"), "--queue-size", "a power of two between 1 and 32768, for example 256"];
        refuses(&mut with(&format!("--queue-size={size}"), "--stats=1"), USAGE, &words);
    }
    for queues in ["0", "65", "many"] {
        let words = ["queues are pairs of a receive and a transmit queue; 1 to 64 are served", queues];
        refuses(&mut with("--queues", queues), USAGE, &words);
    }
    refuses(with("--queues", "2").args(["--threads", "3"]), USAGE, &["3 threads cannot serve 2 queue pairs", "1 to 2"]);
    refuses(&mut with("--threads", "0"), USAGE, &["0 threads cannot serve 1 queue pairs"]);
    for port in ["tap:none", "pcap:/nonexistent/x"] {
        let kind = port.split(':').next().unwrap();
        let mut command = program(&[], binary());
        command.args(["--socket-path", "/nonexistent/socket", "--port", port, "--queues", "4", "--threads", "2"]);
        refuses(&mut command, USAGE, &[&*format!("a {kind} port is one end of one wire"), "by one thread, not by 2"]);
    }
    refuses(&mut with("--mtu", "67"), USAGE, &["an MTU lies between 68 and 65517"]);
    let mut nowhere = program(&[], binary());
    refuses(nowhere.args(["--port", "null"]).env_remove("LISTEN_FDS"), USAGE, &["Give --socket-path PATH, --connect"]);
}

/// What the daemon says about a front-end that does `act` after `steps` steps, and that it then fails, as `--once` has it.
#[track_caller]
fn says_of(steps: usize, act: impl FnOnce(&mut FrontEnd), words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let mut command = program(&[], binary());
    command.args(["--port", "null", "--queue-size", "256", "--sandbox-kill", "--once", "--socket-path"]).arg(&socket);
    let mut daemon = Daemon::run(&mut command, socket);
    daemon.says("ready");
    let mut front_end = daemon.connect();
    front_end.walk(steps);
    act(&mut front_end);
    let said = daemon.says("WARN");
    for word in words {
        assert!(said.contains(word), "{word:?}: {said}");
    }
    let said = daemon.says("ERROR");
    assert!(said.contains(words[0]), "{said}");
    assert_eq!(daemon.ends(), Some(FAILED));
    drop(front_end);
}

/// With everything negotiated and no memory yet.
const NEGOTIATED: usize = 4;
const SHARE: &str = "memory-backend-memfd,id=mem,size=...,share=on -numa node,memdev=mem at QEMU, --memory shared=on";

/// SET_MEM_TABLE of one region with these descriptors.
fn table(f: &mut FrontEnd, regions: u32, fds: &[BorrowedFd<'_>]) {
    let region = [GUEST_BASE, MEMORY_BYTES as u64, USER_BASE, 0];
    let mut body: Vec<u8> = [regions, 0].into_iter().flat_map(u32::to_ne_bytes).collect();
    for _ in 0..regions {
        body.extend(region.into_iter().flat_map(u64::to_ne_bytes));
    }
    send(f, SET_MEM_TABLE, &body, fds);
}

fn send(f: &mut FrontEnd, request: u32, body: &[u8], fds: &[BorrowedFd<'_>]) {
    let message = Message::new(request, 1, body);
    if fds.is_empty() {
        f.socket.write_all(&message.bytes).unwrap();
    } else {
        f.send(&message, fds);
    }
}

/// The descriptor of the guest's memory once more.
fn copy(f: &FrontEnd) -> std::os::fd::OwnedFd {
    f.guest.memfd.as_fd().try_clone_to_owned().unwrap()
}

fn share(f: &mut FrontEnd, fd: BorrowedFd<'_>, bytes: u64, offset: u64) {
    let region = VhostUserMemoryRegionInfo { mmap_handle: fd.as_raw_fd(), mmap_offset: offset, ..f.region(bytes) };
    drop(f.vhost.set_mem_table(&[region]));
}

/// QEMU without a memory backend shares nothing, says so only without CONFIGURE_MEM_SLOTS, and goes on to the rings.
#[test]
fn memory_that_is_not_shared_is_told_with_what_to_change() {
    let addr: Vec<u8> = [1, USER_BASE, USER_BASE, USER_BASE, 0].into_iter().flat_map(u64::to_ne_bytes).collect();
    let words = ["says where queue 1 lies and has not shared any memory", SHARE, "reason=\"memory\""];
    says_of(NEGOTIATED, |f| send(f, SET_VRING_ADDR, &addr, &[]), &words);
    let words = ["shares 1 memory regions and has sent 0 file descriptors for them", SHARE];
    says_of(NEGOTIATED, |f| table(f, 1, &[]), &words);
    let words = ["shares 2 memory regions and has sent 1 file descriptors for them", SHARE];
    let one = |f: &mut FrontEnd| {
        let fd = copy(f);
        table(f, 2, &[fd.as_fd()]);
    };
    says_of(NEGOTIATED, one, &words);
    says_of(NEGOTIATED, |f| table(f, 0, &[]), &["shares 0 memory regions and has sent 0 file descriptors", SHARE]);
    let words = ["shares 1 memory regions and has sent 0 file descriptors", SHARE];
    says_of(NEGOTIATED, |f| send(f, ADD_MEM_REG, &[0; 40], &[]), &words);
    // Only a part of it is shared.
    let outside = |f: &mut FrontEnd| {
        let mut place = f.place(RX);
        place.used_ring_addr = USER_BASE + MEMORY_BYTES as u64;
        drop(f.vhost.set_vring_addr(RX, &place));
    };
    says_of(NEGOTIATED + 1, outside, &["a queue lies where the front-end has not shared any memory", SHARE]);
}

#[test]
fn memory_that_cannot_be_used_is_told_with_what_to_change() {
    let bytes = MEMORY_BYTES as u64;
    let file = tempfile::tempfile().unwrap();
    file.set_len(bytes).unwrap();
    let words =
        ["can be truncated by the peer at any time", "memory-backend-memfd with share=on", "--allow-unsealed-memory"];
    says_of(NEGOTIATED, |f| share(f, file.as_fd(), bytes, 0), &words);
    // As cloud-hypervisor makes it: without the right to seal it.
    let final_seals = rustix::fs::memfd_create("ch_ram", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&final_seals, bytes).unwrap();
    says_of(NEGOTIATED, |f| share(f, final_seals.as_fd(), bytes, 0), &words);

    let sealable = rustix::fs::memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&sealable, bytes).unwrap();
    let read_only = std::fs::File::open(format!("/proc/self/fd/{}", sealable.as_raw_fd())).unwrap();
    let words =
        ["the front-end's memory cannot be mapped: Permission denied", "open for reading and writing", "readonly"];
    says_of(NEGOTIATED, |f| share(f, read_only.as_fd(), bytes, 0), &words);
    let words = ["the front-end's memory cannot be mapped: Invalid argument", "multiples of the page size"];
    says_of(NEGOTIATED, |f| share(f, sealable.as_fd(), bytes - 4096, 512), &words);

    let (need, have) = (format!("needs {} bytes", 2 * bytes), format!("which has {bytes};"));
    let words = [&*need, &have, "make the file as large as the guest's memory"];
    says_of(NEGOTIATED, |f| share(f, sealable.as_fd(), 2 * bytes, 0), &words);
    says_of(NEGOTIATED, |f| share(f, sealable.as_fd(), bytes, bytes), &words);
}

/// QEMU's memory-backend-memfd with share=off: the file is passed, and the guest writes to pages of its own. All that is
/// seen of it are kicks.
#[test]
fn a_guest_that_kicks_and_adds_nothing_is_suspected_of_memory_that_is_not_shared() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), "null");
    daemon.says("ready");
    let mut front_end = daemon.connect();
    front_end.bring_up();
    let deadline = Instant::now() + LIMIT;
    let said = loop {
        assert!(Instant::now() < deadline, "it is not suspected of anything");
        front_end.guest.bells[TX].kick.write(1).unwrap();
        if let Some(line) = daemon.said().filter(|line| line.contains("WARN")) {
            break line;
        }
    };
    for word in ["queue=1", "and nothing was ever added to the ring", "its memory is not shared", SHARE] {
        assert!(said.contains(word), "{said}");
    }
    // It goes on, and says so once.
    front_end.guest.add(TX, GUEST_BASE + 0x20000, 100);
    front_end.guest.used(TX);
    for _ in 0..100 {
        front_end.guest.bells[TX].kick.write(1).unwrap();
    }
    drop(front_end);
    assert!(!daemon.says("").contains("nothing was ever added"));
}

#[test]
fn a_ring_of_a_wrong_size_is_told_with_the_sizes() {
    for size in [0, 200, 512, 32768] {
        let words =
            [&*format!("ring 1: a size of {size} is no power of two between 1 and 256"), "queue_size", "--queue-size"];
        says_of(NEGOTIATED, |f| drop(f.vhost.set_vring_num(TX, size)), &words);
    }
    // More than a ring of any kind can have.
    let body: Vec<u8> = [0u32, 65536 + 16].into_iter().flat_map(u32::to_ne_bytes).collect();
    says_of(NEGOTIATED, |f| send(f, SET_VRING_NUM, &body, &[]), &["ring 0: a size of 65552 is no power of two"]);
}

/// A front-end that counts pairs where queues are counted has twice as many as are served.
#[test]
fn queues_that_were_meant_as_pairs_are_told_apart() {
    let words = [
        "names queue 2, so it has 3 queues or more, and 2 are served (--queues 1, which counts pairs",
        "queues=1 at QEMU, which counts pairs too, or num_queues=2 at cloud-hypervisor, which counts single queues",
        "reason=\"ring\"",
    ];
    let state = |ring: u32, num: u32| [ring.to_ne_bytes(), num.to_ne_bytes()].concat();
    says_of(NEGOTIATED, |f| send(f, SET_VRING_NUM, &state(2, SIZE.into()), &[]), &words);
    says_of(NEGOTIATED, |f| send(f, SET_VRING_ENABLE, &state(2, 1), &[]), &words);
    says_of(NEGOTIATED, |f| send(f, GET_VRING_BASE, &state(2, 0), &[]), &words);
    let call = |f: &mut FrontEnd| {
        let fd = copy(f);
        send(f, SET_VRING_CALL, &2u64.to_ne_bytes(), &[fd.as_fd()]);
    };
    says_of(NEGOTIATED, call, &words);
    // Enabled before there are features, as QEMU does.
    let early = |f: &mut FrontEnd| {
        f.vhost.set_hdr_flags(VhostUserHeaderFlag::empty());
        send(f, SET_VRING_ENABLE, &state(2, 1), &[]);
        drop(f.vhost.set_features(support::FEATURES));
    };
    says_of(NEGOTIATED - 1, early, &words);
}

/// What nobody can have meant is named as what it is, with the last request.
#[test]
fn a_breach_of_the_protocol_names_the_request() {
    let words = ["broke the vhost-user protocol: invalid message; the last that was received is SET_FEATURES"];
    says_of(NEGOTIATED, |f| send(f, SET_FEATURES, &[0; 3], &[]), &words);
}

#[test]
fn capabilities_are_one_object_whatever_else_is_asked_for() {
    for others in [&[][..], &["--socket-path", "/nonexistent/socket"], &["--port", "nonsense", "--no-such-option"]] {
        for arguments in [[&["--print-capabilities"], others].concat(), [others, &["--print-capabilities"]].concat()] {
            let Output { status, stdout, stderr } = program(&[], binary()).args(arguments).output().unwrap();
            assert_eq!((status.code(), stderr.len()), (Some(AS_TOLD), 0));
            let printed: Value = serde_json::from_slice(&stdout).unwrap();
            assert_eq!(printed["type"], "net");
        }
    }
}

/// `docs/interop/vhost-user.json` of QEMU: `VhostUserBackend`.
#[test]
fn the_file_for_qemu_says_what_its_schema_asks_for() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/dist/50-ironring-net.json");
    let Value::Object(file) = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap() else {
        panic!("it is one object");
    };
    let is_text = |field: &str| file.get(field).and_then(Value::as_str).is_some_and(|text| !text.is_empty());
    assert!(is_text("description") && is_text("type") && is_text("binary"), "{file:?}");
    for (field, value) in &file {
        match field.as_str() {
            "description" | "type" => {}
            "binary" => assert!(Path::new(value.as_str().unwrap()).is_absolute()),
            "tags" => assert!(value.as_array().unwrap().iter().all(Value::is_string)),
            other => panic!("the schema knows no {other}"),
        }
    }
    let Output { stdout, .. } = program(&[], binary()).arg("--print-capabilities").output().unwrap();
    let printed: Value = serde_json::from_slice(&stdout).unwrap();
    assert_eq!(file["type"], printed["type"]);
}

const SET_FEATURES: u32 = 2;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ENABLE: u32 = 18;
const ADD_MEM_REG: u32 = 37;
