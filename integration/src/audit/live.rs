//! The live half of a hardened cell: the network driver against a hostile backend, over vhost-user and sealed memory.
//!
//! The backend runs in a thread of this child, on its own mapping of the memory. Honest traffic first, the attack, then
//! the judgement from outside: were all frames equal and in order, did the driver name a violation, did it drop, did it
//! end in time. Afterwards the driver is reset to an honest backend and has to carry 1,000 frames.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ironring_backend::hostile::{self, Attack, Plan, Surface, Verdict};
use ironring_driver::net::{NetError, NetOptions, RxBatch, TxError, VirtioNet};
use ironring_driver::transport::{Deadlines, TransportError, VhostUser};

use super::cell::CellResult;

/// Runs one attack with one seed; anything that a watcher outside finds wrong is a finding. The verdict, if the network
/// driver can meet the attack at all.
pub(super) fn hardened(
    id: &str,
    seed: u64,
    result: &mut CellResult,
) -> Result<Option<&'static str>, Box<dyn std::error::Error>> {
    let plan = Plan::parse(id, seed)?;
    let Some(attack) = plan.attacks().first().copied() else { return Ok(None) };
    if let Some(reason) = not_live(attack) {
        result.not_applicable.push(reason.to_owned());
        return Ok(None);
    }
    let mut run = Live::new(attack, seed);
    let verdict = run.attack(&plan)?;
    result.strikes += run.strikes;
    if run.strikes == 0 {
        result.findings.push(format!("live, seed {seed}: the attack never struck"));
    }
    result.findings.extend(run.findings.into_iter().map(|finding| format!("live, seed {seed}: {finding}")));
    Ok(Some(verdict))
}

/// Why an attack has nothing to strike on the network queues.
fn not_live(attack: &Attack) -> Option<&'static str> {
    match attack.id {
        "A08b" => Some("the network queues post chains of one descriptor, so there is no NEXT to clear"),
        "A25" => Some("the network queues post chains of one descriptor, so there is no middle of one"),
        _ => None,
    }
}

struct Live<'a> {
    attack: &'a Attack,
    seed: u64,
    strikes: u64,
    findings: Vec<String>,
    /// Frames that came back changed or out of order.
    altered: u64,
    /// Frames that the driver dropped, by its own count.
    dropped: u64,
}

impl<'a> Live<'a> {
    const fn new(attack: &'a Attack, seed: u64) -> Self {
        Self { attack, seed, strikes: 0, findings: Vec::new(), altered: 0, dropped: 0 }
    }

    /// The whole run. Returns the verdict.
    fn attack(&mut self, plan: &Plan) -> Result<&'static str, Box<dyn std::error::Error>> {
        let (front, back) = UnixStream::pair()?;
        let session = hostile::serve_in_thread(back, plan)?;
        let strikes = session.strikes();
        let started = Instant::now();
        let brought_up = VhostUser::from_stream(front, DEADLINES)
            .map_err(NetError::from)
            .and_then(|channel| VirtioNet::bring_up(channel, self.options()));
        let verdict = match brought_up {
            Err(error) => self.refused(&error, started),
            Ok(mut net) => {
                let verdict = self.traffic(&mut net, || strikes.count());
                strikes.disarm();
                self.strikes = strikes.count();
                self.rebirth(&mut net)?;
                verdict
            }
        };
        self.strikes = strikes.count();
        session.end();
        Ok(verdict)
    }

    fn options(&self) -> NetOptions {
        // Notification attacks need a driver that sleeps.
        NetOptions { calls: self.attack.surface == Surface::Notify, ..NetOptions::default() }
    }

    /// The device never came up: the error says how, and it must have come in time.
    fn refused(&mut self, error: &NetError, started: Instant) -> &'static str {
        let took = started.elapsed();
        if took > DEADLINES.request * 20 {
            self.findings.push(format!("the error took {took:?}, far beyond the deadline"));
        }
        match error {
            NetError::Transport(TransportError::TimedOut { .. }) => Verdict::TimedOut.name(),
            NetError::Transport(_) | NetError::Incompatible(_) => Verdict::Refused.name(),
            other => {
                self.findings.push(format!("unexpected error: {other}"));
                "escaped"
            }
        }
    }

    /// Sends numbered frames and judges what comes back, until the attack has struck often enough.
    fn traffic(&mut self, net: &mut VirtioNet, strikes: impl Fn() -> u64) -> &'static str {
        let deadline = Instant::now() + TRAFFIC_LIMIT;
        let mut flow = Flow::new(self.seed);
        let mut batch = RxBatch::new(BURST, net.tx().frame_max());
        let mut moved = Instant::now();
        let verdict = loop {
            match flow.round(net, &mut batch) {
                Ok(true) => moved = Instant::now(),
                Ok(false) => {
                    if self.attack.surface == Surface::Notify {
                        let _ = net.rx().wait(Duration::from_millis(1));
                    }
                }
                Err(violation) => {
                    if net.violation() != Some(violation) {
                        self.findings.push("the violation is not the one that is latched".into());
                    }
                    break Verdict::Broken.name();
                }
            }
            let struck = strikes();
            let enough = struck >= STRIKES_ENOUGH && flow.received >= FRAMES_MIN;
            if enough || Instant::now() > deadline {
                break self.judge(net, &flow);
            }
            if moved.elapsed() > STALL && self.attack.surface == Surface::Memory {
                // The device scribbled over what it reads itself and serves no more. The driver has lost nothing else.
                break self.judge(net, &flow);
            }
            if moved.elapsed() > STALL {
                self.findings.push(format!("no frame moved for {STALL:?} after {} frames", flow.received));
                break "wedged";
            }
        };
        if !net.is_conserved() {
            self.findings.push("a descriptor is neither free nor lent".into());
        }
        verdict
    }

    /// The traffic went on to the end: what does it show?
    fn judge(&mut self, net: &mut VirtioNet, flow: &Flow) -> &'static str {
        let stats = net.rx().stats();
        self.dropped = stats.dropped_short + stats.dropped_header;
        self.altered = flow.altered;
        if self.altered > 0 {
            // Only an attack on the payload itself may change what a device is trusted with: its own frames.
            let payload = self.attack.expected.contains(&Verdict::Accepted) || self.attack.id == "A101";
            if !payload {
                self.findings.push(format!("{} frames came back changed or out of order", self.altered));
                return "escaped";
            }
            return Verdict::Accepted.name();
        }
        if self.attack.expected == [Verdict::Accepted] {
            // The attack struck after the frames were copied out: accepted, and without effect here.
            return Verdict::Accepted.name();
        }
        if self.dropped > 0 || flow.missing > 0 {
            if flow.missing > 0 && self.dropped == 0 {
                self.findings.push(format!("{} frames are missing and no drop was counted", flow.missing));
            }
            return Verdict::Dropped.name();
        }
        Verdict::NoEffect.name()
    }

    /// A new epoch with an honest backend carries honest traffic.
    fn rebirth(&mut self, net: &mut VirtioNet) -> Result<(), Box<dyn std::error::Error>> {
        let (front, back) = UnixStream::pair()?;
        let session = hostile::serve_in_thread(back, &Plan::honest())?;
        net.reset(|| VhostUser::from_stream(front, DEADLINES))?;
        let mut flow = Flow::new(self.seed);
        let mut batch = RxBatch::new(BURST, net.tx().frame_max());
        let deadline = Instant::now() + STALL * 5;
        while flow.received < REBIRTH_FRAMES && Instant::now() < deadline {
            if let Err(violation) = flow.round(net, &mut batch) {
                self.findings.push(format!("after the reset: {violation}"));
                break;
            }
        }
        if flow.received < REBIRTH_FRAMES || flow.altered > 0 || flow.missing > 0 {
            let Flow { received, altered, missing, .. } = flow;
            self.findings.push(format!("after the reset: {received} frames, {altered} changed, {missing} missing"));
        }
        session.end();
        Ok(())
    }
}

/// Numbered frames on their way out and back.
struct Flow {
    sent: u64,
    /// The number that the next frame back should have.
    next: u64,
    received: u64,
    missing: u64,
    altered: u64,
    salt: u64,
}

impl Flow {
    const fn new(salt: u64) -> Self {
        Self { sent: 0, next: 0, received: 0, missing: 0, altered: 0, salt }
    }

    /// One burst each way. `true` if anything moved.
    fn round(
        &mut self,
        net: &mut VirtioNet,
        batch: &mut RxBatch,
    ) -> Result<bool, ironring_driver::queue::violation::Violation> {
        let (rx, tx) = net.queues();
        let in_flight = self.sent.saturating_sub(self.next);
        let mut moved = false;
        if in_flight < WINDOW {
            let frames: Vec<_> = (0..8).map(|step| self.frame(self.sent + step)).collect();
            match tx.tx_burst(&frames) {
                Ok(count) => {
                    self.sent += count as u64;
                    moved |= count > 0;
                }
                Err(TxError::Violation(violation)) => return Err(violation),
                Err(TxError::FrameLength { .. }) => self.altered += 1,
            }
        }
        let result = rx.rx_burst(batch);
        moved |= !batch.is_empty();
        for frame in batch.frames() {
            self.check(frame);
        }
        result.map(|_| moved)
    }

    /// Compares a frame with what was sent under its number. Numbers go up; a gap is missing frames.
    fn check(&mut self, frame: &[u8]) {
        self.received += 1;
        let number = frame.get(14..22).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        match number {
            Some(number) if number >= self.next && number < self.sent && self.frame(number) == frame => {
                self.missing += number - self.next;
                self.next = number + 1;
            }
            _ => {
                self.altered += 1;
                self.next += 1;
            }
        }
    }

    /// Frame `number`: its bytes follow from the number.
    fn frame(&self, number: u64) -> Vec<u8> {
        let len = 60 + usize::try_from((number * 131 + self.salt) % 1400).unwrap_or(0);
        let mut frame = vec![0u8; len];
        for (at, byte) in frame.iter_mut().enumerate() {
            *byte = (number.wrapping_mul(31).wrapping_add(at as u64) & 0xff) as u8;
        }
        frame[14..22].copy_from_slice(&number.to_le_bytes());
        frame
    }
}

/// Control-plane deadlines of an audit.
const DEADLINES: Deadlines = Deadlines { connect: Duration::from_millis(50), request: Duration::from_millis(50) };
/// The longest that traffic goes on, and how long nothing may move.
const TRAFFIC_LIMIT: Duration = Duration::from_millis(400);
const STALL: Duration = Duration::from_secs(1);
/// Strikes and frames after which a run that nothing came of ends.
const STRIKES_ENOUGH: u64 = 200;
const FRAMES_MIN: u64 = 2_000;
/// Honest frames after a reset.
const REBIRTH_FRAMES: u64 = 1_000;
/// Frames in flight at most.
const WINDOW: u64 = 96;
const BURST: usize = 32;
