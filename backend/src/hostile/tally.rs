//! How often attacks really struck: a driver that survives an attack which never happened has proven nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::Plan;
use super::catalogue::Attack;

/// The strikes of a [`Plan`], counted, and the switch that arms them. Clones are the same counters.
#[derive(Clone, Debug)]
pub struct Strikes(Arc<Tally>);

#[derive(Debug)]
struct Tally {
    armed: AtomicBool,
    /// The only row that is armed, or [`ALL`].
    only: AtomicUsize,
    rows: Vec<Counters>,
}

#[derive(Debug)]
struct Counters {
    attack: &'static Attack,
    strikes: AtomicU64,
    passed_over: AtomicU64,
}

impl Strikes {
    pub(super) fn of(plan: &Plan) -> Self {
        let row =
            |attack: &&'static Attack| Counters { attack, strikes: AtomicU64::new(0), passed_over: AtomicU64::new(0) };
        let only = AtomicUsize::new(ALL);
        Self(Arc::new(Tally { armed: AtomicBool::new(true), only, rows: plan.attacks().iter().map(row).collect() }))
    }

    /// Strikes of all attacks so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.rows.iter().map(|row| row.strikes.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }

    /// Strikes of one attack so far, by its id; 0 if it is not in the plan.
    #[must_use]
    pub fn count_of(&self, id: &str) -> u64 {
        self.row(id).map_or(0, |row| row.counters().map_or(0, |counters| counters.strikes.load(Ordering::Relaxed)))
    }

    /// Bursts in which an attack was due and found nothing to strike: its ring has no chain of the kind that it needs.
    #[must_use]
    pub fn passed_over(&self) -> u64 {
        self.0.rows.iter().map(|row| row.passed_over.load(Ordering::Relaxed)).fold(0, u64::wrapping_add)
    }

    /// Whether the attacks strike.
    #[inline]
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.0.armed.load(Ordering::Relaxed)
    }

    /// Lets one attack of the plan strike, and none of the others; nothing if it is not in the plan.
    pub fn arm_only(&self, id: &str) {
        let at = self.0.rows.iter().position(|row| row.attack.id == id);
        self.0.only.store(at.unwrap_or(NONE), Ordering::Relaxed);
        self.0.armed.store(true, Ordering::Relaxed);
    }

    /// Lets the attacks strike, as at the beginning.
    pub fn arm(&self) {
        self.0.only.store(ALL, Ordering::Relaxed);
        self.0.armed.store(true, Ordering::Relaxed);
    }

    /// Ends all strikes. What was struck is undone when the backend looks at the ring next.
    pub fn disarm(&self) {
        self.0.armed.store(false, Ordering::Relaxed);
    }

    pub(super) fn row(&self, id: &str) -> Option<Row> {
        let at = self.0.rows.iter().position(|row| row.attack.id == id)?;
        let attack = self.0.rows.get(at)?.attack;
        Some(Row { strikes: self.clone(), at, attack })
    }
}

/// Every row, or none of them.
const ALL: usize = usize::MAX;
const NONE: usize = ALL.wrapping_sub(1);

/// Strikes of all plans in this process so far: for a program that serves one plan and tells what it did.
#[must_use]
pub fn strikes_of_this_process() -> u64 {
    IN_THIS_PROCESS.load(Ordering::Relaxed)
}

static IN_THIS_PROCESS: AtomicU64 = AtomicU64::new(0);

/// The counters of one attack.
#[derive(Clone, Debug)]
pub(super) struct Row {
    strikes: Strikes,
    at: usize,
    attack: &'static Attack,
}

impl Row {
    pub(super) const fn attack(&self) -> &'static Attack {
        self.attack
    }

    pub(super) fn is_armed(&self) -> bool {
        let only = self.strikes.0.only.load(Ordering::Relaxed);
        self.strikes.is_armed() && (only == ALL || only == self.at)
    }

    pub(super) fn count(&self, strikes: u64) {
        if strikes > 0
            && let Some(counters) = self.counters()
        {
            counters.strikes.fetch_add(strikes, Ordering::Relaxed);
            IN_THIS_PROCESS.fetch_add(strikes, Ordering::Relaxed);
        }
    }

    pub(super) fn pass_over(&self) {
        if let Some(counters) = self.counters() {
            counters.passed_over.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counters(&self) -> Option<&Counters> {
        self.strikes.0.rows.get(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_can_be_armed() {
        let strikes = Strikes::of(&Plan::parse("A01,A02", 1).unwrap());
        let armed = |strikes: &Strikes| ["A01", "A02"].map(|id| strikes.row(id).unwrap().is_armed());
        assert_eq!(armed(&strikes), [true, true]);
        strikes.arm_only("A02");
        assert_eq!(armed(&strikes), [false, true]);
        strikes.disarm();
        assert_eq!(armed(&strikes), [false, false]);
        strikes.arm();
        assert_eq!(armed(&strikes), [true, true]);
        strikes.arm_only("A99");
        assert_eq!(armed(&strikes), [false, false]);
    }

    #[test]
    fn what_is_counted_is_counted_for_the_process_too() {
        let before = strikes_of_this_process();
        let strikes = Strikes::of(&Plan::parse("A01", 1).unwrap());
        strikes.row("A01").unwrap().count(3);
        assert_eq!(strikes.count(), 3);
        // Other tests of this process strike too.
        assert!(strikes_of_this_process() >= before + 3);
    }
}
