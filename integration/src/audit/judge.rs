//! The judgements: from what watchers outside of the driver saw, to one verdict. Pure functions, so that tests can show
//! them a driver that fails.

use ironring_backend::hostile::{Attack, Surface, Verdict};
use ironring_driver::queue::violation::ViolationKind;

use super::flow::Counts;
use crate::heart::QueueOutcome;
use crate::verdict::{ESCAPED, WEDGED, may_change_frames, may_lose_frames, may_raise, may_stop_the_device};

/// A verdict, and what speaks against it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    pub(super) verdict: &'static str,
    /// What must not be. Any of them fails the cell.
    pub(super) findings: Vec<String>,
}

/// How the traffic of a live run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// The driver named a violation.
    Violation(ViolationKind),
    /// After the last strike frames came back, in the same epoch.
    GoesOn,
    /// After the last strike nothing moved any more.
    StandsStill,
    /// The device may have made itself unable to serve, so whether frames come back says nothing of the driver.
    NotAsked,
}

/// Judges traffic under an attack.
pub(super) fn live(attack: &Attack, counts: &Counts, ending: Ending) -> Judgement {
    // What came back before the end counts whatever the end is: a violation does not make up for a changed frame.
    let mut findings = harm(attack, counts);
    let harmed = !findings.is_empty();
    findings.extend(wrong_reason(attack, ending));
    let verdict = match ending {
        _ if harmed => ESCAPED,
        Ending::Violation(_) => Verdict::Broken.name(),
        Ending::StandsStill => {
            findings.push(format!("no frame came back after the last strike; {} had before", counts.received));
            WEDGED
        }
        Ending::NotAsked if !may_stop_the_device(attack) => {
            findings.push("nobody asked whether frames still come back".to_owned());
            WEDGED
        }
        Ending::GoesOn | Ending::NotAsked => quiet(attack, counts),
    };
    Judgement { verdict, findings }
}

/// Judges one queue of the model; nothing if the attack did not strike there.
pub(super) fn model(attack: &Attack, queue: &QueueOutcome) -> Option<Judgement> {
    let kind = queue.violation.map(|violation| violation.kind);
    let mut findings: Vec<_> =
        kind.and_then(|kind| wrong_reason(attack, Ending::Violation(kind))).into_iter().collect();
    if queue.strikes == 0 {
        let kind = kind?;
        findings.push(format!("a violation without a strike: {}", kind.class()));
    }
    let verdict = match (kind, queue.dropped) {
        (Some(_), _) => Verdict::Broken,
        // The bytes of a buffer are the device's own; that no private byte changes is watched by the model itself.
        (None, 0) if is_undetectable(attack) => Verdict::Accepted,
        (None, 0) => Verdict::NoEffect,
        (None, _) => Verdict::Dropped,
    };
    Some(Judgement { verdict: verdict.name(), findings })
}

/// What was wrong with the frames that came back.
fn harm(attack: &Attack, counts: &Counts) -> Vec<String> {
    let mut findings = Vec::new();
    let mut found = |count: u64, what: &str| {
        if count > 0 {
            findings.push(format!("{count} frames {what}"));
        }
    };
    found(counts.unstable, "changed after they were handed out");
    if !may_change_frames(attack) {
        found(counts.altered, "came back changed or out of order");
    }
    if attack.surface == Surface::Buffer {
        found(counts.alien, "are not what was sent with bytes of the payload flipped");
    }
    // A device that rewrites its own descriptors loses frames by itself.
    if !may_lose_frames(attack) {
        found(counts.missing.saturating_sub(counts.dropped), "are missing beyond the drops that were counted");
    }
    findings
}

/// A violation that the attack does not cause.
fn wrong_reason(attack: &Attack, ending: Ending) -> Option<String> {
    match ending {
        Ending::Violation(kind) if !may_raise(attack).contains(&kind) => {
            Some(format!("{} is no answer to {}", kind.class(), attack.id))
        }
        _ => None,
    }
}

/// Whether an attack that goes through is one that cannot be told from honest behaviour.
fn is_undetectable(attack: &Attack) -> bool {
    attack.expected.contains(&Verdict::Accepted) && !attack.expected.contains(&Verdict::NoEffect)
}

/// The verdict on a run that went on to its end without harm.
fn quiet(attack: &Attack, counts: &Counts) -> &'static str {
    if counts.altered > 0 || is_undetectable(attack) {
        // Such an attack cannot be told from honest behaviour, whether the bytes changed before or after the copy; what
        // could be wrong, a copy that changes or is of two frames, was looked for.
        Verdict::Accepted.name()
    } else if counts.dropped > 0 || counts.missing > 0 {
        Verdict::Dropped.name()
    } else {
        Verdict::NoEffect.name()
    }
}

#[cfg(test)]
mod tests {
    use ironring_backend::hostile::{CATALOGUE, find};
    use ironring_driver::queue::violation::Violation;

    use super::*;

    fn attack(id: &str) -> &'static Attack {
        find(id).unwrap()
    }

    /// Traffic in which nothing was wrong.
    fn clean() -> Counts {
        Counts { received: 5_000, ..Counts::default() }
    }

    fn verdict(id: &str, counts: &Counts, ending: Ending) -> (&'static str, usize) {
        let judgement = live(attack(id), counts, ending);
        (judgement.verdict, judgement.findings.len())
    }

    /// Whether the judgement lets a cell hold.
    fn holds(attack: &Attack, counts: &Counts, ending: Ending) -> bool {
        let Judgement { verdict, findings } = live(attack, counts, ending);
        findings.is_empty() && attack.expected.iter().any(|expected| expected.name() == verdict)
    }

    #[test]
    fn a_driver_that_does_as_declared_is_contained() {
        for (id, counts, ending, expected) in [
            ("A01", clean(), Ending::GoesOn, "no-effect"),
            ("A23", clean(), Ending::Violation(ViolationKind::IdOutOfRange), "broken"),
            ("A35", Counts { missing: 40, dropped: 41, ..clean() }, Ending::GoesOn, "dropped"),
            ("A41", Counts { altered: 9, ..clean() }, Ending::GoesOn, "accepted"),
            ("A41", clean(), Ending::GoesOn, "accepted"),
            ("A101", Counts { altered: 9, alien: 9, missing: 99, ..clean() }, Ending::NotAsked, "accepted"),
        ] {
            assert_eq!(verdict(id, &counts, ending), (expected, 0), "{id}");
            assert!(holds(attack(id), &counts, ending), "{id}");
        }
    }

    /// The driver whose queue stops for good after the first strike.
    #[test]
    fn a_driver_that_stands_still_is_never_contained() {
        for attack in CATALOGUE.iter().filter(|attack| !may_stop_the_device(attack)) {
            for counts in [clean(), Counts { dropped: 3, missing: 3, ..clean() }] {
                assert_eq!(live(attack, &counts, Ending::StandsStill).verdict, WEDGED, "{}", attack.id);
                assert!(!holds(attack, &counts, Ending::StandsStill), "{}", attack.id);
                assert!(!holds(attack, &counts, Ending::NotAsked), "{}", attack.id);
            }
        }
    }

    #[test]
    fn changed_frames_are_lawful_only_where_the_attack_changes_bytes() {
        let changed = Counts { altered: 1, ..clean() };
        for attack in CATALOGUE.iter() {
            let lawful = may_change_frames(attack) && attack.expected.contains(&Verdict::Accepted);
            assert_eq!(holds(attack, &changed, Ending::GoesOn), lawful, "{}", attack.id);
        }
    }

    #[test]
    fn a_violation_does_not_make_up_for_a_changed_frame() {
        let changed = Counts { altered: 1, ..clean() };
        for (id, kind) in [("A23", ViolationKind::IdOutOfRange), ("A39", ViolationKind::LengthOverPosted)] {
            assert_eq!(verdict(id, &changed, Ending::Violation(kind)), (ESCAPED, 1), "{id}");
        }
    }

    #[test]
    fn a_violation_of_another_rule_is_not_contained() {
        assert_eq!(verdict("A18", &clean(), Ending::Violation(ViolationKind::IdNotHead)), ("broken", 1));
        for attack in CATALOGUE.iter().filter(|attack| may_raise(attack).len() < ViolationKind::ALL.len()) {
            let wrong = ViolationKind::ALL.into_iter().find(|kind| !may_raise(attack).contains(kind)).unwrap();
            assert!(!holds(attack, &clean(), Ending::Violation(wrong)), "{}", attack.id);
        }
    }

    /// What a receive path would show that parses in shared memory, or copies after it has given the slot back.
    #[test]
    fn a_premature_completion_is_contained_only_by_a_private_copy_of_one_frame() {
        for counts in [Counts { unstable: 1, ..clean() }, Counts { altered: 1, alien: 1, ..clean() }] {
            assert_eq!(verdict("A41", &counts, Ending::GoesOn), (ESCAPED, 1));
        }
        assert_eq!(verdict("A101", &Counts { unstable: 1, ..clean() }, Ending::NotAsked), (ESCAPED, 1));
    }

    #[test]
    fn missing_frames_need_a_drop_that_was_counted() {
        assert_eq!(verdict("A35", &Counts { missing: 5, dropped: 4, ..clean() }, Ending::GoesOn), (ESCAPED, 1));
        assert_eq!(verdict("A01", &Counts { missing: 1, ..clean() }, Ending::GoesOn), (ESCAPED, 1));
    }

    fn queue(strikes: u64, kind: Option<ViolationKind>, dropped: u64) -> QueueOutcome {
        let violation = kind.map(|kind| Violation { queue: 0, kind, slot: 0, observed: 1, expected: 0 });
        QueueOutcome { strikes, violation, dropped }
    }

    #[test]
    fn a_queue_of_the_model_answers_for_itself() {
        let said = |id: &str, queue: &QueueOutcome| model(attack(id), queue).map(|j| (j.verdict, j.findings.len()));
        let out_of_range = Some(ViolationKind::IdOutOfRange);
        assert_eq!(said("A23", &queue(1, out_of_range, 0)), Some(("broken", 0)));
        assert_eq!(said("A23", &queue(1, None, 0)), Some(("no-effect", 0)), "which A23 does not declare");
        assert_eq!(said("A23", &queue(1, Some(ViolationKind::IdNotHead), 0)), Some(("broken", 1)));
        assert_eq!(said("A23", &queue(0, None, 0)), None);
        assert_eq!(said("A23", &queue(0, out_of_range, 0)), Some(("broken", 1)), "nobody lied");
        assert_eq!(said("A36", &queue(3, None, 3)), Some(("dropped", 0)));
        assert_eq!(said("A41", &queue(3, None, 0)), Some(("accepted", 0)));
    }
}
