//! DPDK's virtio-user under testpmd as a victim: its frames go round through the loop of a hostile backend.
//!
//! What is known of it comes from outside: whether its process lives, whether it answers at its prompt, whether its count of
//! received frames goes on, also after its port was started anew.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ironring_backend::config::Settings;
use ironring_backend::hostile::{self, HostileSession, Plan};
use ironring_common::shm::guest::SealPolicy;

use super::campaign::Campaign;
use super::{Encounter, Outcome};
use crate::console::{Console, accept, tempdir};
use crate::hugepages::HugePages;

type Failure = Box<dyn std::error::Error>;

/// Strikes with one attack after the other, starting anew where testpmd did not survive. `tell` is told each result.
pub(super) fn run(campaign: &Campaign, mut tell: impl FnMut(&str, Encounter)) -> Result<(), Failure> {
    let _pages = HugePages::reserve(PAGES)?;
    let dir = tempdir()?;
    let result = run_in(campaign, &dir, &mut tell);
    // Whatever happened, nothing stays behind.
    let _ = std::fs::remove_dir_all(&dir);
    result
}

fn run_in(campaign: &Campaign, dir: &Path, tell: &mut impl FnMut(&str, Encounter)) -> Result<(), Failure> {
    let mut driver: Option<Testpmd> = None;
    for attack in &campaign.attacks {
        let start = || Testpmd::start(campaign, dir);
        let is_fresh = driver.is_none();
        let mut up = driver.take().map_or_else(start, Ok)?;
        let (mut encounter, mut survived) = up.strike(attack);
        if encounter.outcome > Outcome::Named && !is_fresh {
            // An earlier attack may have left something behind: once more, on a driver that has seen no other.
            drop(up);
            up = start()?;
            (encounter, survived) = up.strike(attack);
        }
        tell(attack, encounter);
        driver = survived.then_some(up);
    }
    Ok(())
}

/// testpmd at its prompt. Dropping it ends it.
struct Testpmd {
    child: Child,
    input: Option<ChildStdin>,
    console: Arc<Console>,
    session: Option<HostileSession>,
}

impl Testpmd {
    fn start(campaign: &Campaign, dir: &Path) -> Result<Self, Failure> {
        let socket = dir.join("socket");
        // The socket of the one before.
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        let layout = if campaign.config == "packed" { "packed_vq=1," } else { "" };
        let device =
            format!("--vdev=net_virtio_user0,path={},queues=1,{layout}mrg_rxbuf=1,in_order=0", socket.display());
        let mut child = Command::new("stdbuf")
            .args(["-oL", "dpdk-testpmd", "--in-memory", "--single-file-segments", "--no-pci", "-m", "256"])
            .args(["--lcores", "0@1,1@1", &device, "--", "-i", "--forward-mode=io", "--port-topology=loop"])
            .args(["--no-flush-rx", "--total-num-mbufs=16384", "--disable-link-check"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("testpmd does not start ({error}); install dpdk"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take().ok_or("an output")?);
        let console = Arc::<Console>::default();
        let theirs = Arc::clone(&console);
        std::thread::spawn(move || theirs.read(output));
        let mut driver = Self { child, input, console, session: None };
        let stream = accept(&listener, START)?;
        let plan = Plan::parse(&campaign.attacks.join(","), campaign.seed)?;
        // Its memory is huge pages, which it could take away again.
        let settings = Settings { seals: SealPolicy::Tolerate, ..Settings::default() };
        let session = hostile::serve_in_thread_with(stream, &plan, settings)?;
        session.strikes().disarm();
        driver.session = Some(session);
        driver.say("start tx_first 4");
        if driver.goes_on(START) {
            Ok(driver)
        } else {
            Err(format!("testpmd does not forward frames; its last words: {}", driver.console.tail()).into())
        }
    }

    /// Strikes in traffic. What became of it, and whether it can be used for the next attack.
    fn strike(&mut self, attack: &str) -> (Encounter, bool) {
        let mut encounter = Encounter::default();
        let Some(strikes) = self.session.as_ref().map(HostileSession::strikes) else { return (encounter, false) };
        let before = strikes.count_of(attack);
        strikes.arm_only(attack);
        let began = Instant::now();
        while began.elapsed() < LIMIT && strikes.count_of(attack) - before < ENOUGH && self.status().is_none() {
            // Frames go round by themselves.
            std::thread::park_timeout(Duration::from_millis(10));
        }
        strikes.disarm();
        encounter.strikes = strikes.count_of(attack) - before;
        if encounter.strikes > 0 {
            encounter.outcome = Outcome::Unharmed;
        }
        let alive = self.received().is_some();
        if let Some(status) = self.status() {
            encounter.see(Outcome::Crashed, status);
            return (encounter, false);
        }
        if !alive {
            encounter.see(Outcome::Hung, "it does not answer at its prompt".to_owned());
            return (encounter, false);
        }
        if self.goes_on(PATIENCE) {
            return (encounter, true);
        }
        // The frames that went round may be lost, which is no fault of its own.
        self.say("stop");
        self.say("start tx_first 4");
        if self.goes_on(PATIENCE) {
            return (encounter, true);
        }
        for line in ["stop", "port stop 0", "port start 0", "start tx_first 4"] {
            self.say(line);
        }
        let again = self.goes_on(PATIENCE * 2);
        match self.status() {
            Some(status) => encounter.see(Outcome::Crashed, format!("when its port was started anew, {status}")),
            None if again => encounter.see(Outcome::Stuck, "no frames until its port was started anew".to_owned()),
            None => encounter.see(Outcome::Stuck, "no frames, also after its port was started anew".to_owned()),
        }
        (encounter, again)
    }

    fn say(&mut self, line: &str) {
        if let Some(input) = &mut self.input {
            // One that has ended is noticed where it is asked for something.
            let _ = writeln!(input, "{line}").and_then(|()| input.flush());
        }
    }

    /// Frames that it has received, if it says so in time.
    fn received(&mut self) -> Option<u64> {
        let mark = self.console.count();
        self.say("show port stats 0");
        let line = self.console.wait("RX-packets:", mark, PATIENCE * 2)?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// Whether it receives more and more.
    fn goes_on(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let Some(first) = self.received() else { return false };
        while Instant::now() < deadline {
            if self.received().is_none_or(|now| now > first) {
                return self.status().is_none();
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        false
    }

    /// How it has ended, if it has.
    fn status(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(match status.signal() {
            Some(signal) => format!("it was ended by signal {signal}"),
            None => format!("it ended with {status}; its last words: {}", self.console.tail()),
        })
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(session) = self.session.take() {
            session.end();
        }
    }
}

/// Huge pages of 2 MiB: its packet buffers.
const PAGES: u32 = 320;
/// How long it may take to start.
const START: Duration = Duration::from_secs(30);
/// How long an attack goes on.
const LIMIT: Duration = Duration::from_millis(500);
const ENOUGH: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(2);
