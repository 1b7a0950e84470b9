//! A guest under QEMU as a victim: struck in traffic, and judged from outside.
//!
//! Its network card is a vhost-user card on a hostile backend in this process, whose port is a TAP interface in a network
//! namespace of our own. The host pings; the kernel of the guest answers. What is known of the guest comes from its console
//! (whether it answers there, what its kernel prints), from pings before and after, from a file in its memory, and from
//! whether a driver that is bound anew carries traffic again.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ironring_backend::config::{PortSpec, Settings};
use ironring_backend::hostile::{self, HostileSession, Plan, Timing};

use super::campaign::Campaign;
use super::{Encounter, Outcome, initramfs};
use crate::console::{Console, accept, tempdir, which};

type Failure = Box<dyn std::error::Error>;

/// Strikes with one attack after the other, booting anew where the guest did not survive. `tell` is told each result.
pub(super) fn run(campaign: &Campaign, mut tell: impl FnMut(&str, Encounter)) -> Result<(), Failure> {
    let dir = tempdir()?;
    let result = run_in(campaign, &dir, &mut tell);
    // Whatever happened, nothing stays behind.
    let _ = std::fs::remove_dir_all(&dir);
    result
}

fn run_in(campaign: &Campaign, dir: &Path, tell: &mut impl FnMut(&str, Encounter)) -> Result<(), Failure> {
    let (kernel, modules) = campaign.boot.as_ref().ok_or("a guest needs a kernel and its modules")?;
    let busybox = which("busybox").ok_or("busybox is missing; install busybox-static")?;
    let archive = initramfs::build(&busybox, modules)?;
    let initrd = dir.join("initramfs");
    std::fs::write(&initrd, archive)?;
    network()?;
    let mut guest: Option<Guest> = None;
    for attack in &campaign.attacks {
        let boot = || Guest::boot(campaign, dir, kernel, &initrd);
        let is_fresh = guest.is_none();
        let mut up = guest.take().map_or_else(boot, Ok)?;
        let (mut encounter, mut survived) = up.strike(attack);
        if encounter.outcome > Outcome::Named && !is_fresh {
            // An earlier attack may have left something behind: once more, on a guest that has seen no other.
            drop(up);
            up = boot()?;
            (encounter, survived) = up.strike(attack);
        }
        tell(attack, encounter);
        guest = survived.then_some(up);
    }
    Ok(())
}

/// A guest that runs. Dropping it ends it.
struct Guest {
    qemu: Child,
    input: Option<ChildStdin>,
    console: Arc<Console>,
    session: Option<HostileSession>,
    /// Numbers questions on the console.
    asked: u64,
}

impl Guest {
    fn boot(campaign: &Campaign, dir: &Path, kernel: &Path, initrd: &Path) -> Result<Self, Failure> {
        let socket = dir.join("socket");
        // The socket of the guest before.
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        let (card, words) = match campaign.config.as_str() {
            "packed" => (",packed=on", ""),
            "bounced" => (",disable-legacy=on,iommu_platform=on", "swiotlb=force"),
            _ => ("", ""),
        };
        let cmdline = format!("console=ttyS0 quiet panic=-1 oops=panic {words} {}", campaign.cmdline);
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-machine", "q35,accel=tcg", "-cpu", "max", "-m", "256", "-smp", "1"])
            .args(["-display", "none", "-nodefaults", "-no-reboot", "-serial", "stdio"])
            .args(["-object", "memory-backend-memfd,id=memory,size=256M,share=on", "-numa", "node,memdev=memory"])
            .args(["-chardev", &format!("socket,id=char,path={}", socket.display())])
            .args(["-netdev", "vhost-user,id=net,chardev=char"])
            .args(["-device", &format!("virtio-net-pci,netdev=net,vectors=0{card}")])
            .args(["-kernel", &kernel.display().to_string(), "-initrd", &initrd.display().to_string()])
            .args(["-append", &cmdline])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("qemu-system-x86_64 does not start ({error}); install qemu-system-x86"))?;
        let (input, output) = (qemu.stdin.take(), qemu.stdout.take().ok_or("a console")?);
        let console = Arc::<Console>::default();
        let theirs = Arc::clone(&console);
        std::thread::spawn(move || theirs.read(output));
        let mut guest = Self { qemu, input, console, session: None, asked: 0 };
        let plan = Plan::parse(&campaign.attacks.join(","), campaign.seed)?;
        let stream = accept(&listener, BOOT)?;
        let settings = Settings { port: PortSpec::Tap { name: TAP.to_owned() }, ..Settings::default() };
        let session = hostile::serve_in_thread_with(stream, &plan, settings)?;
        session.strikes().disarm();
        guest.session = Some(session);
        if guest.console.wait("guest: up", 0, BOOT).is_none() {
            return Err(format!("the guest does not come up; its console says: {}", guest.console.tail()).into());
        }
        if !answers(10) {
            return Err("the guest is up and does not answer pings".into());
        }
        Ok(guest)
    }

    /// Strikes in traffic. What became of the guest, and whether it can be used for the next attack.
    fn strike(&mut self, attack: &str) -> (Encounter, bool) {
        let mut encounter = Encounter::default();
        let Some(strikes) = self.session.as_ref().map(HostileSession::strikes) else { return (encounter, false) };
        let mark = self.console.count();
        let before = strikes.count_of(attack);
        strikes.arm_only(attack);
        let at_start = hostile::find(attack).is_some_and(|attack| attack.timing == Timing::Setup);
        if at_start {
            // Its rings begin anew. What comes of that is judged by what follows.
            self.ask("rebind", "rebound", ANSWER * 3);
        }
        flood();
        strikes.disarm();
        encounter.strikes = strikes.count_of(attack) - before;
        if encounter.strikes > 0 {
            encounter.outcome = Outcome::Unharmed;
        }
        if !self.ask("alive", "alive", ANSWER) {
            let ended = matches!(self.qemu.try_wait(), Ok(Some(_)));
            let panic = self.console.find(mark, |line| line.contains("Kernel panic"));
            let crashed = ended || panic.is_some();
            let outcome = if crashed { Outcome::Crashed } else { Outcome::Hung };
            self.note_lines(&mut encounter, mark);
            encounter.see(outcome, panic.unwrap_or_else(|| self.console.tail()));
            return (encounter, false);
        }
        self.note_lines(&mut encounter, mark);
        if !self.ask("check", "whole", ANSWER * 2) {
            let changed = self.console.find(mark, |line| line.starts_with("guest: changed"));
            let (outcome, what) = match changed {
                Some(_) => (Outcome::Harmed, "a file in the guest's memory changed"),
                None => (Outcome::Hung, "it answered once on its console and then no more"),
            };
            encounter.see(outcome, what.to_owned());
            return (encounter, false);
        }
        if answers(3) {
            let survives = encounter_survives(&encounter);
            return (encounter, survives);
        }
        if self.ask("rebind", "rebound", ANSWER * 3) && answers(5) {
            let how = "no traffic until its driver was bound anew".to_owned();
            let named = encounter.outcome == Outcome::Named;
            encounter.see(if named { Outcome::Named } else { Outcome::Stuck }, how);
            let survives = encounter_survives(&encounter);
            return (encounter, survives);
        }
        encounter.see(Outcome::Stuck, "no traffic, also after its driver was bound anew".to_owned());
        (encounter, false)
    }

    /// What the kernel of the guest has printed since `mark`.
    fn note_lines(&self, encounter: &mut Encounter, mark: usize) {
        for (words, outcome) in [(&HARM[..], Outcome::Harmed), (&NAMED[..], Outcome::Named)] {
            // A processor that is stuck is not harmed: that it hangs is seen otherwise.
            let is_one = |line: &str| words.iter().any(|word| line.contains(word)) && !line.contains("soft lockup");
            if let Some(line) = self.console.find(mark, is_one) {
                encounter.see(outcome, format!("its kernel said: {line}"));
            }
        }
    }

    /// Asks on the console; whether the answer came in time.
    fn ask(&mut self, question: &str, answer: &str, patience: Duration) -> bool {
        self.asked += 1;
        let number = self.asked;
        let mark = self.console.count();
        let Some(input) = &mut self.input else { return false };
        if writeln!(input, "{question} {number}").and_then(|()| input.flush()).is_err() {
            return false;
        }
        self.console.wait(&format!("guest: {answer} {number}"), mark, patience).is_some()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        if let Some(session) = self.session.take() {
            session.end();
        }
    }
}

/// A guest whose memory is in doubt is not used again.
fn encounter_survives(encounter: &Encounter) -> bool {
    encounter.outcome < Outcome::Hung
}

/// The interface of the backend, in the namespace that this process is alone in.
fn network() -> Result<(), Failure> {
    for line in [
        "link set lo up",
        &format!("tuntap add dev {TAP} mode tap vnet_hdr"),
        &format!("addr add 10.99.0.1/24 dev {TAP}"),
        &format!("link set {TAP} up"),
    ] {
        let status = Command::new("ip").args(line.split(' ')).stdout(Stdio::null()).status();
        let status = status.map_err(|error| format!("ip does not start ({error}); install iproute2"))?;
        if !status.success() {
            return Err(format!("ip {line}: {status}").into());
        }
    }
    Ok(())
}

/// Whether the guest answers, within so many seconds.
fn answers(seconds: u64) -> bool {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < deadline {
        // Four in five: one may be lost where the address has to be found out first.
        if received(&["-c", "5", "-i", "0.05", "-w", "1"]) >= 4 {
            return true;
        }
    }
    false
}

/// Traffic with several frames in flight, for a second or two.
fn flood() {
    received(&["-f", "-l", "24", "-c", "1500", "-s", "700", "-w", "2"]);
}

/// How many pings were answered.
fn received(options: &[&str]) -> u64 {
    let output = Command::new("ping").arg("-q").args(options).arg("10.99.0.2").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let count = text.split(", ").find_map(|part| part.strip_suffix(" received"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

const TAP: &str = "tap0";
/// How long a guest may take to come up, under an emulator on a busy machine.
const BOOT: Duration = Duration::from_secs(90);
/// How long a guest may take to answer on its console.
const ANSWER: Duration = Duration::from_secs(12);
/// Lines of a kernel that has come to harm.
const HARM: [&str; 7] = ["BUG", "Oops", "general protection", "Kernel panic", "KASAN", "WARNING:", "corrupt"];
/// Lines of a kernel that has seen through its device.
const NAMED: [&str; 7] =
    ["is not a head", "out of range", "bad gso", "bad csum", "bad mtu", "input error", "short packet"];
