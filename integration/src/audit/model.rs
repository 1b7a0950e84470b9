//! The model half of a cell: private memory watched byte by byte.

use std::time::Duration;

use ironring_backend::hostile::{Plan, Surface};

use super::cell::CellResult;
use crate::heart::{self, RingKind};

/// The attack on the hardened ring: nothing may be found.
pub(super) fn hardened(attack: &str, seed: u64, result: &mut CellResult) -> Result<(), Box<dyn std::error::Error>> {
    let Some(plan) = ring_plan(attack, seed)? else { return Ok(()) };
    let outcome = heart::run(&plan, RingKind::Hardened, LIMIT)?;
    result.strikes += outcome.strikes;
    result.findings.extend(outcome.findings.iter().map(|finding| format!("model, seed {seed}: {finding:?}")));
    if outcome.strikes == 0 {
        result.findings.push(format!("model, seed {seed}: the attack never struck"));
    }
    Ok(())
}

/// The attack on the trusting ring: what is found is what bit.
pub(super) fn trusting(attack: &str, seed: u64, result: &mut CellResult) -> Result<(), Box<dyn std::error::Error>> {
    let Some(plan) = ring_plan(attack, seed)? else {
        result.not_applicable.push("the trusting ring has no channel of its own".into());
        return Ok(());
    };
    let outcome = heart::run(&plan, RingKind::Trusting, LIMIT)?;
    result.strikes += outcome.strikes;
    result.findings.extend(outcome.findings.iter().map(|finding| format!("seed {seed}: {finding:?}")));
    Ok(())
}

/// The plan, or `None` for an attack that the model has no place for.
fn ring_plan(attack: &str, seed: u64) -> Result<Option<Plan>, Box<dyn std::error::Error>> {
    let plan = Plan::parse(attack, seed)?;
    let in_model = plan.attacks().iter().all(|attack| !matches!(attack.surface, Surface::Channel | Surface::Notify));
    Ok(in_model.then_some(plan))
}

/// Racing attacks run at most this long.
const LIMIT: Duration = Duration::from_millis(400);
