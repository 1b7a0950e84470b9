//! The model half of a cell: private memory watched byte by byte.

use std::time::{Duration, Instant};

use ironring_backend::hostile::{Attack, Class, Plan};

use super::cell::CellResult;
use super::judge;
use crate::config::RingConfig;
use crate::heart::{self, RingKind, no_place};

/// The attack on the hardened ring: nothing may be found. What each queue did that the attack struck, if the model has a
/// place for the attack.
pub(super) fn hardened(
    attack: &str,
    config: RingConfig,
    seed: u64,
    result: &mut CellResult,
) -> Result<Vec<&'static str>, Box<dyn std::error::Error>> {
    let plan = Plan::parse(attack, seed)?;
    let Some(attack) = plan.attacks().first().filter(|attack| no_place(attack).is_none()) else {
        return Ok(Vec::new());
    };
    let outcome = heart::run(&plan, RingKind::Hardened, config, LIMIT)?;
    let mut found = |finding: String| result.findings.push(format!("model, seed {seed}: {finding}"));
    outcome.findings.iter().for_each(|finding| found(finding.to_string()));
    if outcome.strikes == 0 {
        found("the attack never struck".to_owned());
    }
    let mut verdicts = Vec::new();
    for (number, queue) in outcome.queues.iter().enumerate() {
        if let Some(judgement) = judge::model(attack, queue) {
            judgement.findings.iter().for_each(|finding| found(format!("queue {number}: {finding}")));
            verdicts.push(judgement.verdict);
        }
    }
    result.strikes += outcome.strikes;
    Ok(verdicts)
}

/// The attack on the trusting ring: what is found is what bit.
pub(super) fn trusting(
    attack: &str,
    config: RingConfig,
    seed: u64,
    result: &mut CellResult,
) -> Result<(), Box<dyn std::error::Error>> {
    let plan = Plan::parse(attack, seed)?;
    if let Some(reason) = plan.attacks().iter().find_map(|attack| no_place(attack)) {
        result.not_applicable.push(reason.into());
        return Ok(());
    }
    let racing = plan.attacks().iter().any(|attack| attack.racing);
    // A race that was not won says nothing, nor does a strike that found the one harmless place: again, with other numbers.
    let has_to_bite = |attack: &&Attack| matches!(attack.class, Class::MemorySafety | Class::Disclosure);
    let attempts = match plan.attacks().iter().any(has_to_bite) {
        true if racing => RACES,
        true => ATTEMPTS,
        false => 1,
    };
    let limit = if racing { PATIENCE } else { LIMIT };
    let began = Instant::now();
    for attempt in (0..attempts).take_while(|attempt| *attempt == 0 || began.elapsed() < ALL_ATTEMPTS) {
        let seed = seed.wrapping_add(attempt << 32);
        let outcome = heart::run(&Plan::parse(attack, seed)?, RingKind::Trusting, config, limit)?;
        result.strikes += outcome.strikes;
        result.findings.extend(outcome.findings.iter().map(|finding| format!("seed {seed}: {finding}")));
        if !outcome.findings.is_empty() {
            break;
        }
    }
    Ok(())
}

/// A run takes at most this long.
const LIMIT: Duration = Duration::from_millis(400);
/// On the ring that trusts a race is won, later on a busy machine, and the run ends when it is.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// Runs with a seed, for an attack that has to bite.
const ATTEMPTS: u64 = 3;
/// The same for attacks that race: a device that scribbles over all of its memory (A101) stops itself in one run of six
/// before the driver has stumbled over anything.
const RACES: u64 = 16;
/// After this time no other attempt is begun, so that an attack that does not bite is named as such, and not as a cell that
/// does not end.
const ALL_ATTEMPTS: Duration = Duration::from_secs(10);
