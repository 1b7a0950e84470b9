//! The live half of a hardened cell: the network driver against a hostile backend, over vhost-user and sealed memory.
//!
//! The backend runs in a thread of this child, on its own mapping of the memory. Honest traffic first, the attack, then
//! the judgement from outside: were all frames equal and in order, did the driver name a violation, did it drop, did it
//! end in time, did frames come back after the last strike. Afterwards the driver is reset to an honest backend and has to
//! carry 1,000 frames; where the hostile device never came up, a new one has to.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ironring_backend::config::Settings;
use ironring_backend::hostile::{self, Attack, HostileSession, Plan, Strikes, Surface, Timing, Verdict};
use ironring_backend::worker::WaitPolicy;
use ironring_driver::net::{NetError, NetOptions, QueueRole, RxBatch, VirtioNet};
use ironring_driver::queue::violation::Violation;
use ironring_driver::transport::{Deadlines, TransportError, VhostUser};

use super::cell::CellResult;
use super::flow::{BURST, Counts, Flow};
use super::judge::{self, Ending, Judgement};
use super::log;
use super::scan::{self, Seen};
use crate::config::RingConfig;
use crate::verdict::{ESCAPED, may_stop_the_device};

/// Runs one attack with one seed; anything that a watcher outside finds wrong is a finding. The verdict, if the network
/// driver can meet the attack at all.
pub(super) fn hardened(
    id: &str,
    config: RingConfig,
    seed: u64,
    result: &mut CellResult,
) -> Result<Option<&'static str>, Box<dyn std::error::Error>> {
    let plan = Plan::parse(id, seed)?;
    let Some(attack) = plan.attacks().first().copied() else { return Ok(None) };
    if let Some(reason) = not_live(attack) {
        result.not_applicable.push(reason.to_owned());
        return Ok(None);
    }
    let before = Census::take();
    let mut run = Live::new(attack, config, seed);
    let mut verdict = run.attack(&plan)?;
    // On a busy machine the short deadline may pass before it is the attack's turn. That says nothing about the driver.
    for attempt in 1..ATTEMPTS {
        if run.strikes > 0 || !may_time_out(attack) {
            break;
        }
        run = Live { stretch: 1 << attempt, ..Live::new(attack, config, seed) };
        verdict = run.attack(&plan)?;
    }
    if let Some(finding) = before.left_behind() {
        result.findings.push(format!("live, seed {seed}: {finding}"));
    }
    result.strikes += run.strikes;
    if run.strikes == 0 {
        result.findings.push(format!("live, seed {seed}: the attack never struck"));
    }
    result.findings.extend(run.findings.into_iter().map(|finding| format!("live, seed {seed}: {finding}")));
    Ok(Some(verdict))
}

/// What this process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Census {
    descriptors: usize,
    threads: usize,
    /// Mappings of shared memory.
    mappings: usize,
}

impl Census {
    fn take() -> Self {
        let entries = |dir: &str| std::fs::read_dir(dir).map_or(0, Iterator::count);
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let mappings = maps.lines().filter(|line| line.contains("/memfd:")).count();
        Self { descriptors: entries("/proc/self/fd"), threads: entries("/proc/self/task"), mappings }
    }

    /// What is held now and was not then, after all has had its time to end.
    fn left_behind(self) -> Option<String> {
        let deadline = Instant::now() + LEAVING;
        loop {
            let now = Self::take();
            let Self { descriptors, threads, mappings } = now;
            if descriptors <= self.descriptors && threads <= self.threads && mappings <= self.mappings {
                return None;
            }
            if Instant::now() > deadline {
                return Some(format!("left behind: {self:?} became {now:?}"));
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// Why an attack has nothing to strike on the network queues, which post chains of one descriptor.
fn not_live(attack: &Attack) -> Option<&'static str> {
    match attack.id {
        "A08b" => Some("the network queues post chains of one descriptor, so there is no NEXT to clear"),
        "A25" => Some("the network queues post chains of one descriptor, so there is no middle of one"),
        "A33" => Some("the network queues post chains of one direction, so there is no sum of both"),
        "A51" => Some("the network queues post chains of one slot, so none is longer than another"),
        "A53" | "A56b" => Some("the network queues post chains of one slot, so there is none behind the first"),
        _ => None,
    }
}

/// Whether the deadline is what ends the attack, so that it should be short.
fn may_time_out(attack: &Attack) -> bool {
    attack.expected.contains(&Verdict::TimedOut)
}

/// Whether both sides sleep when there is nothing to do, so that doorbells matter.
fn sleeps(attack: &Attack) -> bool {
    attack.surface == Surface::Notify || ["A17", "A42", "A43", "A125"].contains(&attack.id)
}

struct Live<'a> {
    attack: &'a Attack,
    config: RingConfig,
    seed: u64,
    strikes: u64,
    findings: Vec<String>,
    /// How many times as long the short deadlines are.
    stretch: u32,
}

impl<'a> Live<'a> {
    const fn new(attack: &'a Attack, config: RingConfig, seed: u64) -> Self {
        Self { attack, config, seed, strikes: 0, findings: Vec::new(), stretch: 1 }
    }

    /// The whole run. Returns the verdict.
    fn attack(&mut self, plan: &Plan) -> Result<&'static str, Box<dyn std::error::Error>> {
        let lines = log::lines();
        let before = self.first_device()?;
        let (front, back) = UnixStream::pair()?;
        let session = hostile::serve_in_thread_with(back, plan, self.settings())?;
        let strikes = session.strikes();
        let started = Instant::now();
        let connect = || VhostUser::from_stream(front, self.deadlines());
        let brought_up = match before {
            Some((mut net, honest)) => {
                let reset = net.reset(connect).map(|()| net);
                honest.end();
                reset
            }
            None => connect().map_err(NetError::from).and_then(|channel| VirtioNet::bring_up(channel, self.options())),
        };
        let (verdict, net) = match brought_up {
            Err(error) => (self.refused(&error, started), None),
            Ok(mut net) => (self.act(&mut net, &strikes), Some(net)),
        };
        let ghost = self.is_ghostly();
        if !ghost {
            strikes.disarm();
        }
        // Lines before the attack, of its set-up and its end, are few and the same for all.
        if log::lines().saturating_sub(lines) > LINES_MOST {
            self.findings.push(format!("{} lines in the log", log::lines().saturating_sub(lines)));
        }
        self.rebirth(net, ghost.then_some(&strikes))?;
        strikes.disarm();
        self.strikes = strikes.count();
        session.end();
        Ok(verdict)
    }

    /// For an attack that is about coming back: an honest device, which carried frames.
    fn first_device(&mut self) -> Result<Option<(VirtioNet, HostileSession)>, Box<dyn std::error::Error>> {
        if self.attack.id != "A120" {
            return Ok(None);
        }
        let (front, back) = UnixStream::pair()?;
        let session = hostile::serve_in_thread(back, &Plan::honest())?;
        let mut net = VirtioNet::bring_up(VhostUser::from_stream(front, HONEST_DEADLINES)?, self.options())?;
        self.honest_traffic(&mut net, None);
        Ok(Some((net, session)))
    }

    /// What an attack strikes at: traffic, or something that the driver asks after it.
    fn act(&mut self, net: &mut VirtioNet, strikes: &Strikes) -> &'static str {
        match self.attack.id {
            "A89" => {
                let before = net.config().map(|config| (config.mac, config.mtu, config.max_pairs));
                for _ in 0..LOOKS {
                    if let Err(error) = net.link_up() {
                        return self.refused(&error, Instant::now());
                    }
                }
                if net.config().map(|config| (config.mac, config.mtu, config.max_pairs)) != before {
                    self.findings.push("the configuration changed under the driver".into());
                }
                self.traffic(net, strikes)
            }
            "A94" | "A116" => {
                self.honest_traffic(net, None);
                let asked = Instant::now();
                match net.stop_queue(QueueRole::Receive) {
                    Ok(()) => Verdict::NoEffect.name(),
                    Err(error) => self.refused(&error, asked),
                }
            }
            _ => self.traffic(net, strikes),
        }
    }

    /// Whether it is what is left of a session that strikes, when the driver is gone.
    fn is_ghostly(&self) -> bool {
        self.attack.timing == Timing::Teardown
    }

    fn deadlines(&self) -> Deadlines {
        let short = SHORT_DEADLINE * self.stretch;
        if may_time_out(self.attack) { Deadlines { connect: short, request: short } } else { HONEST_DEADLINES }
    }

    fn options(&self) -> NetOptions {
        let RingConfig { layout, indirect, event_idx, in_order } = self.config;
        NetOptions { layout, indirect, event_idx, in_order, ..NetOptions::default() }
    }

    /// A device that sleeps has to be kicked, so that there are doorbells to attack.
    fn settings(&self) -> Settings {
        let wait = if sleeps(self.attack) { WaitPolicy::Interrupt } else { Settings::default().wait };
        Settings { wait, ..Settings::default() }
    }

    /// The device never came up: the error says how, and it must have come in time.
    fn refused(&mut self, error: &NetError, started: Instant) -> &'static str {
        let took = started.elapsed();
        if took > self.deadlines().request + ERROR_MOST {
            self.findings.push(format!("the error took {took:?}, far beyond the deadline"));
        }
        match error {
            NetError::Transport(TransportError::TimedOut { .. }) => Verdict::TimedOut.name(),
            NetError::Transport(_) | NetError::Incompatible(_) => Verdict::Refused.name(),
            other => {
                self.findings.push(format!("unexpected error: {other}"));
                ESCAPED
            }
        }
    }

    /// Sends numbered frames while the attack strikes and after it, and judges what comes back.
    fn traffic(&mut self, net: &mut VirtioNet, strikes: &Strikes) -> &'static str {
        let mut flow = Flow::new(self.seed);
        let mut batch = RxBatch::new(BURST, net.tx().frame_max());
        let ended = self.under_attack(net, &mut flow, &mut batch, strikes).and_then(|()| {
            if !self.is_ghostly() {
                strikes.disarm();
            }
            self.aftermath(net, &mut flow, &mut batch)
        });
        flow.look_again(batch.frames());
        let ending = ended.unwrap_or_else(|violation| {
            if net.violation() != Some(violation) {
                self.findings.push("the violation is not the one that is latched".into());
            }
            Ending::Violation(violation.kind)
        });
        if flow.longest_wait > WAIT_MOST {
            self.findings.push(format!("a wait of a millisecond took {:?}", flow.longest_wait));
        }
        if let Ending::Violation(_) = ending {
            self.stays_broken(net);
        }
        if hostile::lies_believed() > 0 {
            self.findings.push("the driver asked for a feature that the device has made up".into());
        }
        if hostile::pointers_seen() > 0 {
            self.findings
                .push("an address of the driver's process was said over the socket or written to shared memory".into());
        }
        if hostile::canaries_seen() > 0 {
            self.findings.push("private bytes were seen in shared memory".into());
        }
        self.look_from_outside();
        if !net.is_conserved() {
            self.findings.push("a descriptor is neither free nor lent".into());
        }
        let Judgement { verdict, findings } = judge::live(self.attack, &flow.counts, ending);
        self.findings.extend(findings);
        verdict
    }

    /// Another process looks at what the device was given, the way that the device could.
    fn look_from_outside(&mut self) {
        match scan::from_outside() {
            Ok(Seen { files: 0, .. }) => self.findings.push("no shared memory was seen from outside".into()),
            Ok(Seen { canaries: 0, pointers: 0, .. }) => {}
            Ok(Seen { canaries, pointers, .. }) => self.findings.push(format!(
                "seen from outside in shared memory: {canaries} canaries, {pointers} addresses of the driver"
            )),
            Err(error) => self.findings.push(format!("nobody could look from outside: {error}")),
        }
    }

    /// Once a violation is latched, nothing that the device says counts any more, and every call says so.
    fn stays_broken(&mut self, net: &mut VirtioNet) {
        let latched = net.violation();
        let says = [net.rx().poll().err(), net.tx().reclaim().err(), net.rx().arm().err()];
        if latched.is_none() || says.iter().any(|said| *said != latched) {
            self.findings.push("a call went through after the violation".into());
        }
    }

    /// Traffic until the attack has struck often enough, or the time is up.
    fn under_attack(
        &self,
        net: &mut VirtioNet,
        flow: &mut Flow,
        batch: &mut RxBatch,
        strikes: &Strikes,
    ) -> Result<(), Violation> {
        let started = Instant::now();
        let enough = |flow: &Flow| {
            let struck = strikes.count();
            let limit = if struck > 0 { TRAFFIC_LIMIT } else { FIRST_STRIKE_LIMIT };
            let later = self.is_ghostly() && flow.counts.received >= FRAMES_MIN;
            later || struck >= STRIKES_ENOUGH && flow.counts.received >= FRAMES_MIN || started.elapsed() > limit
        };
        while !enough(flow) {
            self.round(net, flow, batch)?;
        }
        Ok(())
    }

    /// Traffic after the last strike, in the same epoch. The device is honest again, so frames have to come back: a queue
    /// that has stopped for good looks like one that nothing has happened to, until it is asked for more. More frames than
    /// were in flight are asked for.
    fn aftermath(&self, net: &mut VirtioNet, flow: &mut Flow, batch: &mut RxBatch) -> Result<Ending, Violation> {
        if may_stop_the_device(self.attack) {
            return Ok(Ending::NotAsked);
        }
        flow.mark();
        let deadline = Instant::now() + STALL;
        while flow.beyond < AFTERMATH_FRAMES {
            if Instant::now() > deadline {
                return Ok(Ending::StandsStill);
            }
            self.round(net, flow, batch)?;
        }
        Ok(Ending::GoesOn)
    }

    /// A burst each way; a driver that sleeps when there is nothing sleeps.
    fn round(&self, net: &mut VirtioNet, flow: &mut Flow, batch: &mut RxBatch) -> Result<(), Violation> {
        if !flow.round(net, batch)? && sleeps(self.attack) {
            // That no call comes may be what this attack is about; the limit of a millisecond is the answer to it.
            let asked = Instant::now();
            let waited = net.wait(Duration::from_millis(1));
            flow.longest_wait = flow.longest_wait.max(asked.elapsed());
            if let Err(NetError::Violation(violation)) = waited {
                return Err(violation);
            }
        }
        Ok(())
    }

    /// An honest backend carries honest traffic: in a new epoch of the device, or, where the hostile one never came up,
    /// with a new device.
    fn rebirth(&mut self, net: Option<VirtioNet>, ghost: Option<&Strikes>) -> Result<(), Box<dyn std::error::Error>> {
        let (front, back) = UnixStream::pair()?;
        let session = hostile::serve_in_thread(back, &Plan::honest())?;
        match self.reborn(net, front) {
            Ok(mut net) => self.honest_traffic(&mut net, ghost),
            Err(error) => self.findings.push(format!("on an honest backend: {error}")),
        }
        session.end();
        Ok(())
    }

    /// The device on another connection.
    fn reborn(&self, net: Option<VirtioNet>, stream: UnixStream) -> Result<VirtioNet, NetError> {
        let connect = || VhostUser::from_stream(stream, HONEST_DEADLINES);
        let Some(mut net) = net else { return VirtioNet::bring_up(connect()?, self.options()) };
        net.reset(connect)?;
        Ok(net)
    }

    /// Every one of the frames has to come back as it was sent; with a ghost, until it has struck.
    fn honest_traffic(&mut self, net: &mut VirtioNet, ghost: Option<&Strikes>) {
        let mut flow = Flow::new(self.seed);
        let mut batch = RxBatch::new(BURST, net.tx().frame_max());
        let deadline = Instant::now() + STALL * 2;
        let haunted = || ghost.is_none_or(|strikes| strikes.count() > GHOSTLY_STRIKES);
        while !(flow.counts.received >= REBIRTH_FRAMES && haunted()) && Instant::now() < deadline {
            if let Err(violation) = flow.round(net, &mut batch) {
                self.findings.push(format!("on an honest backend: {violation}"));
                break;
            }
        }
        let Counts { received, altered, missing, .. } = flow.counts;
        if received < REBIRTH_FRAMES || altered > 0 || missing > 0 {
            self.findings
                .push(format!("on an honest backend: {received} frames, {altered} changed, {missing} missing"));
        }
    }
}

/// Control-plane deadlines under an attack that makes the driver wait.
const SHORT_DEADLINE: Duration = Duration::from_millis(50);
/// Those for a backend whose channel is honest, which may be kept waiting by a busy machine.
const HONEST_DEADLINES: Deadlines = Deadlines { connect: Duration::from_secs(5), request: Duration::from_secs(5) };
/// Runs of an attack that did not get to strike.
const ATTEMPTS: u32 = 4;
/// The longest that traffic goes on under attack.
const TRAFFIC_LIMIT: Duration = Duration::from_millis(400);
/// The longest that traffic goes on before the first strike.
const FIRST_STRIKE_LIMIT: Duration = Duration::from_secs(8);
/// How long the frames after the last strike may take, on a busy machine.
const STALL: Duration = Duration::from_secs(4);
/// Strikes and frames after which a run that nothing came of ends.
const STRIKES_ENOUGH: u64 = 200;
const FRAMES_MIN: u64 = 2_000;
/// Frames that are sent after the last strike and have to come back.
const AFTERMATH_FRAMES: u64 = 256;
/// Lines in the log that a run may cost, those of the hostile backend among them.
const LINES_MOST: u64 = 64;
/// The longest that a wait of a millisecond may take on a busy machine.
const WAIT_MOST: Duration = Duration::from_secs(4);
/// The longest that an error of the set-up may take beyond the deadline of a request, on a busy machine.
const ERROR_MOST: Duration = Duration::from_secs(4);
/// How long threads and descriptors may take to be gone.
const LEAVING: Duration = Duration::from_secs(8);
/// Questions about the link.
const LOOKS: u32 = 4;
/// Strikes after a reset.
const GHOSTLY_STRIKES: u64 = 1_000;
/// Honest frames after a reset.
const REBIRTH_FRAMES: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn attack() -> &'static Attack {
        hostile::find("A01").unwrap()
    }

    /// A device on an honest backend.
    fn up() -> (VirtioNet, hostile::HostileSession) {
        let (front, back) = UnixStream::pair().unwrap();
        let session = hostile::serve_in_thread(back, &Plan::honest()).unwrap();
        let channel = VhostUser::from_stream(front, HONEST_DEADLINES).unwrap();
        (VirtioNet::bring_up(channel, NetOptions::default()).unwrap(), session)
    }

    /// A device that is gone looks, from the ring, like a driver that does not look at its ring any more.
    #[test]
    fn frames_that_do_not_come_back_after_the_last_strike_are_a_driver_that_stands_still() {
        let (mut net, session) = up();
        let live = Live::new(attack(), RingConfig::default(), 1);
        let (mut flow, mut batch) = (Flow::new(1), RxBatch::new(BURST, net.tx().frame_max()));
        assert_eq!(live.aftermath(&mut net, &mut flow, &mut batch), Ok(Ending::GoesOn));
        session.end();
        let ending = live.aftermath(&mut net, &mut flow, &mut batch).unwrap();
        assert_eq!(ending, Ending::StandsStill);
        assert_eq!(judge::live(attack(), &flow.counts, ending).verdict, "wedged");
    }

    #[test]
    fn a_device_that_never_came_up_is_replaced_by_one_that_carries_frames() {
        let mut live = Live::new(attack(), RingConfig::default(), 1);
        live.rebirth(None, None).unwrap();
        assert_eq!(live.findings, [""; 0]);
    }
}
