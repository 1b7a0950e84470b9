//! What came of a pair: as JSON, and as a table that is read at a glance.

use std::collections::BTreeMap;

use ironring_backend::hostile::{Surface, Verdict};
use ironring_common::features::Feature;
use ironring_driver::net::{NetError, VirtioNet};
use ironring_driver::transport::TransportError;
use serde::Serialize;

use super::traffic::{Outcome, Seen, Stop};
use super::{Layout, PairOptions, WaitMode};
use crate::output::{Cell, Exit, Look, Table, grouped, paint};

/// The result of a pair.
#[derive(Clone, Debug, Serialize)]
pub struct PairReport {
    /// Ring layout.
    pub layout: Layout,
    /// How both sides waited.
    pub wait: WaitMode,
    /// `honest` or `hostile:ID[,ID...]`.
    pub mode: String,
    /// What was sent, for people.
    pub source: String,
    /// Features in force, as the specification spells them.
    pub negotiated: Vec<&'static str>,
    /// What the queues counted.
    pub counters: Counters,
    /// Frames that the driver sent.
    pub frames_sent: u64,
    /// Frames that the driver received.
    pub frames_received: u64,
    /// Frames that came back equal and in order.
    pub frames_verified: u64,
    /// Frames that came back and were none of those that were due.
    pub frames_altered: u64,
    /// Frames that did not come back though a later one did.
    pub frames_missing: u64,
    /// Frames that the driver dropped because they broke a rule.
    pub frames_dropped: u64,
    /// Rules that the device broke, and how often.
    pub violations: BTreeMap<&'static str, u64>,
    /// `ok`, or `broken` if the run could not go on.
    pub state: State,
    /// What the driver made of it.
    pub verdict: &'static str,
    /// What was declared.
    pub expected: Vec<&'static str>,
    /// From the first burst to the last verified frame.
    pub seconds: f64,
    /// Million round trips a second.
    pub mfps: f64,
    /// Resident memory, idle after start.
    pub rss_bytes: Rss,
    /// How often the backend struck, if it told.
    pub backend_strikes: Option<u64>,
    /// Why the run ended early, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip)]
    wanted: u64,
}

/// What the queues counted.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counters {
    /// Indirect tables sent.
    pub indirect_tables: u64,
    /// Kicks sent.
    pub kicks: u64,
    /// Kicks that the device did not want.
    pub kicks_suppressed: u64,
    /// Calls found when the driver waited.
    pub calls: u64,
    /// Batches of completions in order.
    pub in_order_batches: u64,
    /// Used elements of both queues.
    pub used_entries: u64,
}

/// Resident bytes of both processes. The memory that they share counts in both.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Rss {
    /// The driver's.
    pub driver: Option<u64>,
    /// The backend's, if this program started it.
    pub backend: Option<u64>,
}

/// Whether the device is still in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is.
    Ok,
    /// It is not: it broke a rule, left, or stood still.
    Broken,
}

impl PairReport {
    /// The report of traffic.
    pub(super) fn of(options: &PairOptions, net: &mut VirtioNet, outcome: &Outcome, rss: Rss) -> Self {
        let mut report = Self::empty(options);
        report.negotiated = net.negotiated().iter().map(Feature::name).collect();
        report.count(net);
        let Seen { sent, received, verified, altered, missing, dropped } = outcome.seen;
        (report.frames_sent, report.frames_received, report.frames_verified) = (sent, received, verified);
        (report.frames_altered, report.frames_missing, report.frames_dropped) = (altered, missing, dropped);
        report.seconds = outcome.took.as_secs_f64();
        report.mfps = if report.seconds > 0.0 { verified as f64 / report.seconds / 1e6 } else { 0.0 };
        report.rss_bytes = rss;
        report.verdict = report.judge(options, outcome);
        if let Some(stop) = &outcome.stopped {
            report.state = State::Broken;
            report.error = Some(stop.to_string());
        } else if !options.mode.is_hostile() && verified != options.frames {
            let lost = options.frames - verified;
            report.error = Some(format!("{lost} of {} frames did not come back; look at `violations`", options.frames));
        }
        report
    }

    /// The report of a hostile backend with which no device came up.
    pub(super) fn refused(options: &PairOptions, error: &NetError) -> Self {
        let mut report = Self::empty(options);
        report.state = State::Broken;
        report.verdict = verdict_of(error);
        report.error = Some(error.to_string());
        if let NetError::Transport(error) = error {
            report.violations.insert(error.class(), 1);
        }
        report
    }

    /// Takes the word of the backend on how often it struck.
    pub(super) fn struck(&mut self, strikes: Option<u64>) {
        self.backend_strikes = strikes;
        if self.hostile() && strikes == Some(0) && self.error.is_none() {
            let mode = &self.mode;
            self.verdict = NOT_APPLICABLE;
            self.error =
                Some(format!("{mode} found nothing to strike on these queues; choose another attack or more frames"));
        }
    }

    /// Whether every declared verdict held.
    #[must_use]
    pub fn held(&self) -> bool {
        if self.hostile() {
            return self.expected.contains(&self.verdict);
        }
        self.error.is_none() && self.state == State::Ok && self.frames_verified == self.wanted
    }

    /// What is to be said of it as an exit status.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if self.verdict == NOT_APPLICABLE { Exit::Unable } else { Exit::of(self.held()) }
    }

    pub(super) fn hostile(&self) -> bool {
        self.mode != "honest"
    }

    /// The report for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut table = Table::new(&["pair", ""]);
        let mut line = |name: &str, value: String| table.row(vec![Cell::new(name), Cell::new(value)]);
        line("ring", format!("{}, {} both sides", self.layout.name(), self.wait.name()));
        line("backend", self.mode.clone());
        line("sent", format!("{} frames, {}", grouped(self.frames_sent), self.source));
        line(
            "back",
            format!("{}, {} equal and in order", grouped(self.frames_received), grouped(self.frames_verified)),
        );
        if self.frames_altered + self.frames_missing + self.frames_dropped > 0 {
            let Self { frames_altered, frames_missing, frames_dropped, .. } = self;
            line("otherwise", format!("{frames_altered} changed, {frames_missing} missing, {frames_dropped} dropped"));
        }
        line("time", format!("{:.3} s, {:.2} million round trips a second", self.seconds, self.mfps));
        let Counters { kicks, kicks_suppressed, calls, used_entries, .. } = self.counters;
        line("signals", format!("{kicks} kicks, {kicks_suppressed} not wanted, {calls} calls, {used_entries} used"));
        line("memory", self.memory());
        line("features", self.negotiated.join(" "));
        for (class, count) in &self.violations {
            line("violation", format!("{class}: {count}"));
        }
        if self.hostile() {
            let strikes = self.backend_strikes.map(|strikes| format!(", {strikes} strikes")).unwrap_or_default();
            line("verdict", format!("{}, declared {}{strikes}", self.verdict, self.expected.join(" or ")));
        }
        let mut text = table.render();
        let (word, look) = match self.exit() {
            Exit::Held => ("PASS", Look::Good),
            Exit::Unable => ("SKIP", Look::Dim),
            Exit::Broke | Exit::Usage => ("FAIL", Look::Bad),
        };
        let why = match (&self.error, self.held()) {
            (Some(error), _) => error.clone(),
            (None, true) if self.hostile() => "the attack is contained".into(),
            (None, true) => "every frame came back as it was sent".into(),
            (None, false) => format!("the verdict {} was not declared", self.verdict),
        };
        text += &format!("{}  {why}\n", paint(word, look));
        text
    }

    fn empty(options: &PairOptions) -> Self {
        let mut expected: Vec<&'static str> =
            options.mode.attacks().iter().flat_map(|attack| attack.expected).map(|verdict| verdict.name()).collect();
        if expected.is_empty() {
            expected.push(Verdict::NoEffect.name());
        }
        expected.sort_unstable();
        expected.dedup();
        Self {
            layout: options.layout,
            wait: options.wait,
            mode: options.mode.to_string(),
            source: options.source.describe(),
            negotiated: Vec::new(),
            counters: Counters::default(),
            frames_sent: 0,
            frames_received: 0,
            frames_verified: 0,
            frames_altered: 0,
            frames_missing: 0,
            frames_dropped: 0,
            violations: BTreeMap::new(),
            state: State::Ok,
            verdict: Verdict::NoEffect.name(),
            expected,
            seconds: 0.0,
            mfps: 0.0,
            rss_bytes: Rss::default(),
            backend_strikes: None,
            error: None,
            wanted: options.frames,
        }
    }

    /// What the driver made of the traffic.
    fn judge(&self, options: &PairOptions, outcome: &Outcome) -> &'static str {
        match &outcome.stopped {
            Some(Stop::Violation(_)) => return Verdict::Broken.name(),
            Some(Stop::Net(error)) => return verdict_of(error),
            Some(Stop::Stalled { .. }) => return "wedged",
            Some(Stop::Differs { .. }) => return "escaped",
            Some(Stop::Capture(_)) => return "crashed",
            None => {}
        }
        let attacks = options.mode.attacks();
        let accepted = attacks.iter().any(|attack| attack.expected.contains(&Verdict::Accepted));
        // The bytes of a frame are the device's until they are copied out: that it changes them is lawful.
        let lawful = accepted || attacks.iter().any(|a| matches!(a.surface, Surface::Buffer | Surface::Memory));
        let Seen { altered, missing, dropped, .. } = outcome.seen;
        if altered > 0 && accepted {
            Verdict::Accepted.name()
        } else if (altered > 0 && !lawful) || missing > altered + dropped {
            "escaped"
        } else if dropped > 0 {
            Verdict::Dropped.name()
        } else {
            Verdict::NoEffect.name()
        }
    }

    /// Takes the counters of the queues and the rules that were broken.
    fn count(&mut self, net: &mut VirtioNet) {
        let (rx, tx) = (net.rx().stats(), net.tx().stats());
        self.counters = Counters {
            kicks: rx.kicks + tx.kicks,
            kicks_suppressed: rx.kicks_suppressed + tx.kicks_suppressed,
            calls: rx.calls,
            used_entries: rx.used_entries + tx.completed,
            ..Counters::default()
        };
        let ring = net.violation().map(|violation| (violation.kind.class(), 1));
        let packets = [
            ("short-frame", rx.dropped_short),
            ("net-header", rx.dropped_header),
            ("written-on-transmit", tx.idle_claims),
        ];
        self.violations.extend(ring.into_iter().chain(packets).filter(|(_, count)| *count > 0));
    }

    fn memory(&self) -> String {
        let mib = |bytes: Option<u64>| {
            bytes.map_or_else(|| "unknown".to_owned(), |bytes| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)))
        };
        format!("driver {}, backend {} resident, idle", mib(self.rss_bytes.driver), mib(self.rss_bytes.backend))
    }
}

/// The verdict for a device that did not come up, or was lost.
fn verdict_of(error: &NetError) -> &'static str {
    match error {
        NetError::Violation(_) => Verdict::Broken.name(),
        NetError::Transport(TransportError::TimedOut { .. }) => Verdict::TimedOut.name(),
        NetError::Transport(_) | NetError::Incompatible(_) => Verdict::Refused.name(),
        NetError::Misuse(_) | NetError::FrameMax { .. } | NetError::Os(_) => "crashed",
    }
}

/// There was nothing to strike.
const NOT_APPLICABLE: &str = "not-applicable";
