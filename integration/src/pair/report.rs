//! What came of a pair: as JSON, and as a table that is read at a glance.

use std::collections::BTreeMap;

use ironring_backend::hostile::{Attack, Verdict};
use ironring_common::features::Feature;
use ironring_driver::net::{NetError, VirtioNet};
use ironring_driver::queue::violation::Violation;
use ironring_driver::transport::TransportError;
use serde::Serialize;

use super::tap::TapCounts;
use super::traffic::{Outcome, Seen, Stop};
use super::{Layout, PairOptions, WaitMode};
use crate::output::{Cell, Exit, Look, Table, grouped, paint};
use crate::verdict::{
    CRASHED, ESCAPED, NOT_APPLICABLE, WEDGED, is_harm, may_change_frames, may_raise, may_stop_the_device,
};

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
    /// What the comparison found; left out if nothing was compared.
    #[serde(flatten)]
    pub compared: Option<Compared>,
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
    /// From the first burst to the last verified frame, or to the end if nothing was compared.
    pub seconds: f64,
    /// Mean time of a round trip in nanoseconds, if one frame was on its way at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip_ns: Option<u64>,
    /// Resident memory, idle after start.
    pub rss_bytes: Rss,
    /// How often the backend struck, if it told.
    pub backend_strikes: Option<u64>,
    /// What went through the TAP interface, if the driver's end was on one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<TapCounts>,
    /// Why the run ended early, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What could not be put to the test, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<String>,
    #[serde(skip)]
    wanted: u64,
}

/// What became of frames that were compared with what was sent.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Compared {
    /// Frames that came back equal and in order.
    pub frames_verified: u64,
    /// Frames that came back and were none of those that were due.
    pub frames_altered: u64,
    /// Frames that did not come back though a later one did.
    pub frames_missing: u64,
    /// Million round trips a second.
    pub mfps: f64,
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
        (report.frames_sent, report.frames_received, report.frames_dropped) = (sent, received, dropped);
        report.seconds = outcome.took.as_secs_f64();
        if let Some(compared) = &mut report.compared {
            let mfps = if report.seconds > 0.0 { verified as f64 / report.seconds / 1e6 } else { 0.0 };
            let (frames_verified, frames_altered, frames_missing) = (verified, altered, missing);
            *compared = Compared { frames_verified, frames_altered, frames_missing, mfps };
        }
        report.rss_bytes = rss;
        if options.in_flight == 1 && verified > 0 && !options.source.is_tap() {
            report.round_trip_ns = u64::try_from(outcome.took.as_nanos() / u128::from(verified)).ok();
        }
        report.verdict = judge(options.mode.attacks(), &outcome.seen, outcome.stopped.as_ref());
        if let Some(stop) = &outcome.stopped {
            report.state = State::Broken;
            report.error = Some(stop.to_string());
        } else if !options.mode.is_hostile() && report.compared.is_some() && verified != options.frames {
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

    /// Takes the word of a backend that was started here on how often it struck. Without a strike nothing was put to the
    /// test, whatever came of it; harm is harm all the same.
    pub(super) fn struck(&mut self, strikes: Option<u64>) {
        self.backend_strikes = strikes;
        if !self.hostile() || strikes.is_some_and(|strikes| strikes > 0) || is_harm(self.verdict) {
            return;
        }
        let mode = &self.mode;
        let why = if strikes.is_some() {
            format!("{mode} found nothing to strike on these queues; choose another attack or more frames")
        } else {
            format!("the backend did not tell whether {mode} struck, so this run proves nothing; look at its log")
        };
        if strikes.is_some() && self.verdict == Verdict::Broken.name() {
            // The driver named a lie that nobody told.
            self.verdict = ESCAPED;
            return;
        }
        self.verdict = NOT_APPLICABLE;
        self.error = Some(self.error.take().map_or_else(|| why.clone(), |error| format!("{why}; {error}")));
        self.skipped.push(why);
    }

    /// Whether every declared verdict held.
    #[must_use]
    pub fn held(&self) -> bool {
        if self.hostile() {
            return self.expected.contains(&self.verdict);
        }
        let all = self.compared.is_none_or(|compared| compared.frames_verified == self.wanted);
        self.error.is_none() && self.state == State::Ok && all
    }

    /// Frames that came back equal and in order.
    #[must_use]
    pub fn verified(&self) -> u64 {
        self.compared.map_or(0, |compared| compared.frames_verified)
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
        let (back, dropped) = (grouped(self.frames_received), self.frames_dropped);
        if let Some(Compared { frames_verified, frames_altered, frames_missing, mfps }) = self.compared {
            line("back", format!("{back}, {} equal and in order", grouped(frames_verified)));
            if frames_altered + frames_missing + dropped > 0 {
                line("otherwise", format!("{frames_altered} changed, {frames_missing} missing, {dropped} dropped"));
            }
            line("time", format!("{:.3} s, {mfps:.2} million round trips a second", self.seconds));
            if let Some(ns) = self.round_trip_ns {
                line("round trip", format!("{:.2} us, one frame at a time", ns as f64 / 1e3));
            }
        } else {
            line("back", format!("{back}, not compared, and {dropped} dropped"));
            line("time", format!("{:.3} s", self.seconds));
        }
        if let Some(tap) = &self.tap {
            line("interface", tap.to_text());
        }
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
            (None, true) if self.compared.is_none() => "no rule was broken, and the pair ended as it was told".into(),
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
            compared: (!options.source.is_tap()).then(Compared::default),
            frames_dropped: 0,
            violations: BTreeMap::new(),
            state: State::Ok,
            verdict: Verdict::NoEffect.name(),
            expected,
            seconds: 0.0,
            round_trip_ns: None,
            rss_bytes: Rss::default(),
            backend_strikes: None,
            tap: None,
            error: None,
            skipped: Vec::new(),
            wanted: options.frames,
        }
    }

    /// Takes the counters of the queues and the rules that were broken.
    fn count(&mut self, net: &mut VirtioNet) {
        let (rx, tx) = (net.rx().stats(), net.tx().stats());
        let rings = [net.rx().ring_counters(), net.tx().ring_counters()];
        self.counters = Counters {
            kicks: rx.kicks + tx.kicks + rx.watchdog_kicks + tx.watchdog_kicks,
            kicks_suppressed: rx.kicks_suppressed + tx.kicks_suppressed,
            calls: rx.calls,
            indirect_tables: rings.iter().map(|ring| ring.indirect_tables).sum(),
            in_order_batches: rings.iter().map(|ring| ring.in_order_batches).sum(),
            used_entries: rings.iter().map(|ring| ring.used_entries).sum(),
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
        NetError::Misuse(_) | NetError::FrameMax { .. } | NetError::Os(_) => CRASHED,
    }
}

/// What the driver made of traffic under these attacks; none of them if the backend is honest.
fn judge(attacks: &[&Attack], seen: &Seen, stopped: Option<&Stop>) -> &'static str {
    // What came back before the end counts whatever the end is.
    if harmed(attacks, seen) {
        return ESCAPED;
    }
    match stopped {
        Some(Stop::Violation(violation) | Stop::Net(NetError::Violation(violation))) => broken(attacks, violation),
        Some(Stop::Net(error)) => verdict_of(error),
        // What the device did to what it reads itself may have ended it; the driver cannot help that.
        Some(Stop::Stalled { .. }) if attacks.iter().any(|attack| may_stop_the_device(attack)) => quiet(attacks, seen),
        Some(Stop::Stalled { .. }) => WEDGED,
        Some(Stop::Differs { .. }) => ESCAPED,
        Some(Stop::Capture(_) | Stop::TapGone { .. }) => CRASHED,
        None => quiet(attacks, seen),
    }
}

/// Whether frames came back as no attack of these makes them.
fn harmed(attacks: &[&Attack], seen: &Seen) -> bool {
    let Seen { altered, missing, dropped, .. } = *seen;
    let changed = altered > 0 && !attacks.iter().any(|attack| may_change_frames(attack));
    let lost = missing > altered + dropped && !attacks.iter().any(|attack| may_stop_the_device(attack));
    changed || lost
}

/// A violation is an answer to an attack that breaks that rule.
fn broken(attacks: &[&Attack], violation: &Violation) -> &'static str {
    let asked_for = attacks.iter().any(|attack| may_raise(attack).contains(&violation.kind));
    if attacks.is_empty() || asked_for { Verdict::Broken.name() } else { ESCAPED }
}

/// The verdict on traffic that nothing speaks against.
fn quiet(attacks: &[&Attack], seen: &Seen) -> &'static str {
    let only_accepted = !attacks.is_empty() && attacks.iter().all(|attack| attack.expected == [Verdict::Accepted]);
    if seen.altered > 0 || only_accepted {
        // Whether payload bytes changed before they were copied or after it is luck, and the same to the driver.
        Verdict::Accepted.name()
    } else if seen.dropped > 0 {
        Verdict::Dropped.name()
    } else {
        Verdict::NoEffect.name()
    }
}

#[cfg(test)]
mod tests {
    use ironring_backend::hostile::find;
    use ironring_driver::queue::violation::ViolationKind;

    use super::*;
    use crate::pair::{Mode, Source};

    fn verdict(id: &str, seen: Seen, stopped: Option<&Stop>) -> &'static str {
        judge(&[find(id).unwrap()], &seen, stopped)
    }

    fn violation(kind: ViolationKind) -> Stop {
        Stop::Violation(Violation { queue: 0, kind, slot: 0, observed: 1, expected: 0 })
    }

    #[test]
    fn changed_frames_are_lawful_only_where_the_attack_changes_bytes() {
        let changed = Seen { altered: 5, missing: 5, ..Seen::default() };
        for (id, expected) in [("A41", "accepted"), ("A101", "accepted"), ("A39", ESCAPED), ("A01", ESCAPED)] {
            assert_eq!(verdict(id, changed, None), expected, "{id}");
        }
        let stop = violation(ViolationKind::IdOutOfRange);
        assert_eq!(verdict("A23", changed, Some(&stop)), ESCAPED, "a violation does not make up for it");
        assert_eq!(verdict("A41", Seen::default(), None), "accepted");
    }

    #[test]
    fn frames_that_nobody_dropped_may_not_be_missing() {
        let seen = Seen { missing: 3, dropped: 2, ..Seen::default() };
        for (id, expected) in [("A35", ESCAPED), ("A101", "dropped")] {
            assert_eq!(verdict(id, seen, None), expected, "{id}");
        }
        assert_eq!(verdict("A35", Seen { missing: 2, dropped: 2, ..Seen::default() }, None), "dropped");
    }

    #[test]
    fn a_violation_has_to_be_of_the_rule_that_was_broken() {
        let seen = Seen::default();
        for kind in ViolationKind::ALL {
            let expected = if kind == ViolationKind::LengthOverPosted { "broken" } else { ESCAPED };
            assert_eq!(verdict("A31", seen, Some(&violation(kind))), expected, "{kind:?}");
        }
        assert_eq!(judge(&[], &seen, Some(&violation(ViolationKind::IdNotHead))), "broken", "of an honest backend");
    }

    #[test]
    fn only_a_device_that_scribbles_over_itself_may_stand_still() {
        let stop = Stop::Stalled { sent: 9, received: 2 };
        for (id, expected) in [("A01", WEDGED), ("A41", WEDGED), ("A101", "no-effect")] {
            assert_eq!(verdict(id, Seen::default(), Some(&stop)), expected, "{id}");
        }
    }

    /// A report of `mode` with this verdict, after the backend's word.
    fn after(mode: &str, verdict: &'static str, strikes: Option<u64>) -> PairReport {
        let mut options = PairOptions::new(Source::Generated { size: 64 }, 10);
        options.mode = mode.parse::<Mode>().unwrap();
        let mut report = PairReport::empty(&options);
        report.verdict = verdict;
        report.compared = Some(Compared { frames_verified: 10, ..Compared::default() });
        report.struck(strikes);
        report
    }

    #[test]
    fn a_verdict_without_a_strike_proves_nothing() {
        for (verdict, strikes, exit) in [
            ("no-effect", Some(1), Exit::Held),
            ("no-effect", Some(0), Exit::Unable),
            ("no-effect", None, Exit::Unable),
            ("escaped", Some(0), Exit::Broke),
            ("wedged", None, Exit::Broke),
            ("broken", Some(0), Exit::Broke),
            ("broken", None, Exit::Unable),
        ] {
            let report = after("hostile:A01", verdict, strikes);
            assert_eq!(report.exit(), exit, "{verdict} {strikes:?}");
            assert_eq!(report.skipped.len(), usize::from(exit == Exit::Unable), "{verdict} {strikes:?}");
        }
        assert_eq!(after("honest", "no-effect", None).exit(), Exit::Held);
    }
}
