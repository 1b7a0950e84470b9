//! How long a side that sleeps trusts that it will be called.
//!
//! The device decides whether it calls, and says whether it wants kicks. Whatever it says, a wait ends in time: a sleep is
//! cut into turns, first short and then longer, and after each one this side looks by itself and kicks all the same. So a
//! wrong word costs at most a turn.

use std::time::{Duration, Instant};

/// What is left of a wait.
#[derive(Debug)]
pub(super) struct Patience {
    deadline: Option<Instant>,
    turn: Duration,
}

impl Patience {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { deadline: Instant::now().checked_add(timeout), turn: FIRST_TURN }
    }

    /// How long to sleep now.
    pub(super) fn turn(&mut self) -> Duration {
        let turn = self.turn;
        self.turn = turn.saturating_mul(2).min(LONGEST_TURN);
        turn.min(self.left())
    }

    /// Whether the time is up.
    pub(super) fn is_over(&self) -> bool {
        self.left().is_zero()
    }

    fn left(&self) -> Duration {
        // A deadline beyond the clock is never reached.
        self.deadline.map_or(LONGEST_TURN, |deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

const FIRST_TURN: Duration = Duration::from_millis(10);
const LONGEST_TURN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_grow_and_end_with_the_wait() {
        let mut patience = Patience::new(Duration::from_secs(3600));
        let turns: Vec<_> = (0..6).map(|_| patience.turn().as_millis()).collect();
        assert_eq!(turns, [10, 20, 40, 80, 100, 100]);
        assert!(!patience.is_over());
        let mut over = Patience::new(Duration::ZERO);
        assert!(over.is_over());
        assert_eq!(over.turn(), Duration::ZERO);
    }
}
