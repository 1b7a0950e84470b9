//! The model half of a cell: private memory watched byte by byte.

use std::time::Duration;

use ironring_backend::hostile::{Attack, Plan, Surface, Verdict};

use super::cell::CellResult;
use crate::heart::{self, RingKind};

/// The attack on the hardened ring: nothing may be found. What the ring did, if the model has a place for the attack.
pub(super) fn hardened(
    attack: &str,
    seed: u64,
    result: &mut CellResult,
) -> Result<Option<Verdict>, Box<dyn std::error::Error>> {
    let plan = Plan::parse(attack, seed)?;
    if plan.attacks().iter().any(|attack| no_place(attack).is_some()) {
        return Ok(None);
    }
    let outcome = heart::run(&plan, RingKind::Hardened, LIMIT)?;
    result.strikes += outcome.strikes;
    result.findings.extend(outcome.findings.iter().map(|finding| format!("model, seed {seed}: {finding}")));
    if outcome.strikes == 0 {
        result.findings.push(format!("model, seed {seed}: the attack never struck"));
    }
    Ok(Some(match (outcome.violation, outcome.dropped) {
        (Some(_), _) => Verdict::Broken,
        (None, 0) => Verdict::NoEffect,
        (None, _) => Verdict::Dropped,
    }))
}

/// The attack on the trusting ring: what is found is what bit.
pub(super) fn trusting(attack: &str, seed: u64, result: &mut CellResult) -> Result<(), Box<dyn std::error::Error>> {
    let plan = Plan::parse(attack, seed)?;
    if let Some(reason) = plan.attacks().iter().find_map(no_place) {
        result.not_applicable.push(reason.into());
        return Ok(());
    }
    let outcome = heart::run(&plan, RingKind::Trusting, LIMIT)?;
    result.strikes += outcome.strikes;
    result.findings.extend(outcome.findings.iter().map(|finding| format!("seed {seed}: {finding}")));
    Ok(())
}

/// Why the model, which is rings and buffers, has no place for an attack.
fn no_place(attack: &&Attack) -> Option<&'static str> {
    match attack.surface {
        Surface::Channel => Some("the trusting ring stands alone: it has no vhost-user channel"),
        Surface::Notify => Some("the trusting ring is polled: it waits for no call"),
        _ => None,
    }
}

/// Racing attacks run at most this long.
const LIMIT: Duration = Duration::from_millis(400);
