//! The heart of the project (see `ironring_integration::heart`): under the same attack with the same seed, the trusting
//! ring is bitten and the hardened ring is not.

use std::time::Duration;

use ironring_backend::hostile::{Attack, CATALOGUE, Class, Plan, Verdict};
use ironring_driver::queue::RingLayout;
use ironring_integration::config::RingConfig;
use ironring_integration::heart::{Outcome, RingKind, no_place, run};

/// Only races are run this long, and on the ring that trusts until they are won.
const LIMIT: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(3);
/// A run without an attack ends by itself.
const NO_LIMIT: Duration = Duration::from_secs(60);
const SEEDS: std::ops::RangeInclusive<u64> = 1..=2;
/// The same for a device that scribbles over all of its memory (A101): it stops itself in one run of six before the driver
/// has stumbled over anything. Other races are won with any seed, since they have turns between the driver's loads.
const RACES: std::ops::RangeInclusive<u64> = 1..=16;

/// The attacks that have a place in the model.
fn attacks() -> impl Iterator<Item = &'static Attack> {
    CATALOGUE.iter().filter(|attack| no_place(attack).is_none())
}

/// What an attack has to be run with.
fn configs(attack: &Attack) -> impl Iterator<Item = RingConfig> {
    [RingLayout::Split, RingLayout::Packed].into_iter().flat_map(|layout| RingConfig::of(attack, layout))
}

fn outcome(attack: &Attack, config: RingConfig, seed: u64, kind: RingKind) -> Outcome {
    let limit = if kind == RingKind::Trusting { PATIENCE } else { LIMIT };
    run(&Plan::parse(attack.id, seed).unwrap(), kind, config, limit).unwrap()
}

#[test]
fn the_hardened_ring_is_not_harmed_by_any_attack_with_any_seed() {
    let mut harm: Vec<String> = Vec::new();
    for attack in attacks() {
        for config in configs(attack) {
            let at = format!("{} {config}", attack.id);
            let mut strikes = 0;
            for seed in SEEDS {
                let outcome = outcome(attack, config, seed, RingKind::Hardened);
                harm.extend(outcome.findings.iter().map(|finding| format!("{at} seed {seed}: {finding}")));
                strikes += outcome.strikes;
                // What each queue said must be what is declared: the ring may not be saved by the other one.
                let may_break = attack.expected.contains(&Verdict::Broken);
                let must_break = attack.expected == [Verdict::Broken];
                assert_eq!(outcome.queues.len(), 2);
                for queue in outcome.queues.iter().filter(|queue| queue.strikes > 0 || queue.violation.is_some()) {
                    let broken = queue.violation.is_some();
                    if !(if broken { may_break } else { !must_break }) {
                        harm.push(format!("{at} seed {seed}: {queue:?}"));
                    }
                }
            }
            if strikes == 0 {
                harm.push(format!("{at} never struck"));
            }
        }
    }
    assert_eq!(harm, [""; 0]);
}

#[test]
fn every_attack_on_memory_or_secrets_bites_the_trusting_ring() {
    let mut duds = Vec::new();
    for attack in attacks().filter(|attack| matches!(attack.class, Class::MemorySafety | Class::Disclosure)) {
        for config in configs(attack) {
            let bites = |seed| !outcome(attack, config, seed, RingKind::Trusting).findings.is_empty();
            let bitten = match (attack.racing, attack.id) {
                (true, "A101") => { RACES }.any(bites),
                (true, _) => { SEEDS }.all(bites),
                (false, _) => { SEEDS }.any(bites),
            };
            if !bitten {
                duds.push(format!("{} {config}", attack.id));
            }
        }
    }
    assert_eq!(duds, [""; 0]);
}

/// Without an attack, neither ring shows anything: the watchers do not cry wolf.
#[test]
fn honest_traffic_trips_nothing() {
    for bits in 0..16u8 {
        let on = |bit: u8| bits & (1 << bit) != 0;
        let layout = if on(0) { RingLayout::Packed } else { RingLayout::Split };
        let config = RingConfig { layout, indirect: on(1), event_idx: on(2), in_order: on(3) };
        for kind in [RingKind::Hardened, RingKind::Trusting] {
            let outcome = run(&Plan::honest(), kind, config, NO_LIMIT).unwrap();
            let seen = (outcome.findings.len(), outcome.violation, outcome.strikes);
            assert_eq!(seen, (0, None, 0), "{config} {kind:?}: {outcome:?}");
            assert!(outcome.completed > 500, "{config} {kind:?}: {outcome:?}");
            // Taking a chain back half-way is part of the traffic, or no attack could be there when it happens.
            assert_eq!(outcome.unwound > 0, kind == RingKind::Hardened, "{config} {kind:?}: {outcome:?}");
        }
    }
}
