//! The heart of the project (see `ironring_integration::heart`): under the same attack with the same seed, the trusting
//! ring is bitten and the hardened ring is not.

use std::time::Duration;

use ironring_backend::hostile::{Attack, CATALOGUE, Class, Plan, Surface, Verdict};
use ironring_integration::heart::{Outcome, RingKind, run};

/// Only races are run this long.
const LIMIT: Duration = Duration::from_millis(500);
const SEEDS: std::ops::RangeInclusive<u64> = 1..=3;

/// The attacks that have a place in the model.
fn attacks() -> impl Iterator<Item = &'static Attack> {
    CATALOGUE.iter().filter(|attack| !matches!(attack.surface, Surface::Channel | Surface::Notify))
}

fn outcome(attack: &Attack, seed: u64, kind: RingKind) -> Outcome {
    run(&Plan::parse(attack.id, seed).unwrap(), kind, LIMIT).unwrap()
}

#[test]
fn the_hardened_ring_is_not_harmed_by_any_attack_with_any_seed() {
    for attack in attacks() {
        let mut strikes = 0;
        for seed in SEEDS {
            let outcome = outcome(attack, seed, RingKind::Hardened);
            assert_eq!(outcome.findings, [], "{} seed {seed}", attack.id);
            strikes += outcome.strikes;
            // What each queue said must be what is declared: the ring may not be saved by the other one.
            let may_break = attack.expected.contains(&Verdict::Broken);
            let must_break = attack.expected == [Verdict::Broken];
            assert_eq!(outcome.queues.len(), 2);
            for queue in outcome.queues.iter().filter(|queue| queue.strikes > 0 || queue.violation.is_some()) {
                let broken = queue.violation.is_some();
                assert!(if broken { may_break } else { !must_break }, "{} seed {seed}: {queue:?}", attack.id);
            }
        }
        assert!(strikes > 0, "{} never struck", attack.id);
    }
}

#[test]
fn every_attack_on_memory_or_secrets_bites_the_trusting_ring() {
    for attack in attacks().filter(|attack| matches!(attack.class, Class::MemorySafety | Class::Disclosure)) {
        let bitten = SEEDS.into_iter().any(|seed| !outcome(attack, seed, RingKind::Trusting).findings.is_empty());
        assert!(bitten, "{} is a dud", attack.id);
    }
}

/// Without an attack, neither ring shows anything: the watchers do not cry wolf.
#[test]
fn honest_traffic_trips_nothing() {
    for kind in [RingKind::Hardened, RingKind::Trusting] {
        let outcome = run(&Plan::honest(), kind, LIMIT).unwrap();
        assert_eq!((outcome.findings.len(), outcome.violation, outcome.strikes), (0, None, 0), "{kind:?}: {outcome:?}");
        assert!(outcome.completed > 1000, "{outcome:?}");
    }
}
