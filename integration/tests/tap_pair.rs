//! A pair between two TAP interfaces in two network namespaces: live traffic, and nothing left behind.
//!
//! Needs root, /dev/net/tun and the programs of `PROGRAMS`; where they are missing the test says so and passes, unless
//! the environment has `CI=true`. The namespaces have no names: each lives as long as the process that holds it.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use support::{children, ends, handle, until};

/// A network namespace of its own, held by a process that ends when its input does.
struct Namespace {
    holder: Child,
    input: Option<ChildStdin>,
    /// What the system calls it.
    identity: String,
}

impl Namespace {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut holder = command.spawn().unwrap();
        let mut input = holder.stdin.take().unwrap();
        // What comes back was said from inside.
        writeln!(input, "inside").unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "inside\n", "no namespace was made");
        let identity = namespace_of(&holder.id().to_string()).unwrap();
        Self { holder, input: Some(input), identity }
    }

    /// A program to be run inside, as the process that is started.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id())).arg(program);
        command
    }

    fn run(&self, line: &str) -> Output {
        let mut words = line.split(' ');
        self.command(words.next().unwrap()).args(words).output().unwrap()
    }

    fn has_interface(&self, name: &str) -> bool {
        self.run(&format!("ip link show {name}")).status.success()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.holder.wait();
    }
}

/// A pair that does not outlive the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn live_traffic_goes_between_two_interfaces_until_a_signal() {
    if let Err(why) = possible() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "this test cannot run here: {why}");
        writeln!(std::io::stderr(), "SKIP: a pair between two TAP interfaces: {why}").unwrap();
        return;
    }
    for (wait, signal) in [("interrupt", Signal::TERM), ("adaptive", Signal::INT)] {
        between_two_interfaces(wait, signal);
    }
}

fn between_two_interfaces(wait: &str, signal: Signal) {
    let (near, far) = (Namespace::new(), Namespace::new());
    assert!(near.identity != far.identity && namespace_of("self").unwrap() != near.identity);
    let mut command = near.command(env!("CARGO_BIN_EXE_ironring"));
    command.args(["pair", "--tap", "A", "--port", "tap:B", "--wait", wait, "--json"]).stdin(Stdio::null());
    // A group of its own, to which the signal goes as from Ctrl-C in a terminal.
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut running = Running(command.spawn().unwrap());
    let pair = &mut running.0;
    until(LIMIT, || (near.has_interface("A") && near.has_interface("B")).then_some(()));
    let backend = handle(until(LIMIT, || children(pair.id()).first().copied()));

    // An end that is attached stays attached when its interface moves.
    works(&near.run(&format!("ip link set B netns {}", far.holder.id())));
    works(&near.run("ip addr add 10.9.0.1/24 dev A"));
    works(&near.run("ip link set A up"));
    works(&far.run("ip addr add 10.9.0.2/24 dev B"));
    works(&far.run("ip link set B up"));
    let ping = works(&near.run("ping -q -c 20 -i 0.01 -W 5 10.9.0.2"));
    assert!(ping.contains(" 20 received"), "{ping}");

    let process = handle(pair.id());
    rustix::process::kill_process_group(Pid::from_child(pair), signal).unwrap();
    let (stdout, stderr) = ended(pair, &process);
    assert_eq!(pair.wait().unwrap().code(), Some(0), "{stderr}");
    let json: serde_json::Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
    let count = |pointer: &str| json.pointer(pointer).unwrap().as_u64().unwrap();
    let (sent, received) = (count("/frames_sent"), count("/frames_received"));
    assert!(sent > 20 && received > 20, "{json}");
    assert_eq!((json["state"].as_str(), json["wait"].as_str()), (Some("ok"), Some(wait)), "{json}");
    assert!(json["frames_verified"].is_null() && json["violations"].as_object().unwrap().is_empty(), "{json}");
    assert_eq!(json["tap"]["name"], "A");
    let drops = |reasons: &[&str]| reasons.iter().map(|reason| count(&format!("/tap/drops/{reason}"))).sum::<u64>();
    assert_eq!(count("/tap/frames_in"), sent + drops(&["unfit", "too_long", "unsent"]), "{json}");
    assert_eq!(received, count("/tap/frames_out") + drops(&["no_room", "refused"]), "{json}");
    let used = count("/counters/used_entries");
    assert!(used > received && used <= sent + received, "{json}");

    assert!(ends(&backend, Duration::ZERO), "the backend outlived the pair");
    assert!(!near.has_interface("A"));
    until(LIMIT, || (!far.has_interface("B")).then_some(()));
    let names = [near.identity.clone(), far.identity.clone()];
    drop((near, far));
    assert!(processes().iter().all(|pid| namespace_of(pid).is_none_or(|name| !names.contains(&name))));
}

/// What a process said, after its end.
fn ended(child: &mut Child, process: &OwnedFd) -> (String, String) {
    let (mut stdout, mut stderr) = (String::new(), String::new());
    assert!(ends(process, LIMIT), "the pair did not end within {LIMIT:?} of the signal");
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (stdout, stderr)
}

fn works(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// Whether this machine lets us, or what is missing.
fn possible() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("it needs root".into());
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        return Err("/dev/net/tun is missing".into());
    }
    for (program, option) in PROGRAMS {
        let found = Command::new(program).arg(option).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if found.is_err() {
            return Err(format!("the program {program} is missing"));
        }
    }
    let made = Command::new("unshare").args(["--net", "true"]).output().unwrap();
    if made.status.success() { Ok(()) } else { Err("no network namespace may be made".into()) }
}

fn processes() -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.parse::<u32>().is_ok())
        .collect()
}

/// The network namespace of a process, by the name that the system has for it.
fn namespace_of(pid: &str) -> Option<String> {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()?.into_os_string().into_string().ok()
}

const PROGRAMS: [(&str, &str); 4] = [("unshare", "-V"), ("nsenter", "-V"), ("ip", "-V"), ("ping", "-V")];
const LIMIT: Duration = Duration::from_secs(60);
