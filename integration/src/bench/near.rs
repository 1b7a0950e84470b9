//! How near to each other the two CPUs are, and which rounds count.
//!
//! The CPUs of a virtual machine are moved about on their host: now they are neighbours that share a cache, a few seconds later they
//! sit on different dies, and a word that goes back and forth takes six times as long. Then everything that is measured here takes
//! longer too, not all of it by as much, and a ratio of samples from two such times says nothing. So a word is sent back and forth
//! before and after each sample. A round is steady if it took about as long each time, and of the steady rounds those
//! count in which the CPUs were nearest. What the others came to is told beside it. On a machine whose CPUs stay where they are all
//! rounds count.

use std::time::Duration;

use super::limit;

/// What a word took back and forth during a round, in nanoseconds: at least, and at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Apart {
    least: f64,
    most: f64,
}

impl Default for Apart {
    fn default() -> Self {
        Self { least: f64::INFINITY, most: 0.0 }
    }
}

impl Apart {
    /// Sends a word now.
    pub(super) fn probe(&mut self, cpus: (usize, usize)) -> Result<(), String> {
        // The smaller of two: a probe may lose its CPU for a moment.
        let nanos = limit::ping_pong(cpus, PROBE)?.min(limit::ping_pong(cpus, PROBE)?);
        (self.least, self.most) = (self.least.min(nanos), self.most.max(nanos));
        Ok(())
    }

    /// At most.
    pub(super) const fn most(self) -> f64 {
        self.most
    }

    /// Whether both have taken about as long: their CPUs were in like places.
    fn is_like(self, other: Self) -> bool {
        self.most.max(other.most) <= self.least.min(other.least) * TOLERANCE
    }
}

/// Which rounds count: of those that are steady the nearest that are like each other, if they are at least [`ENOUGH`].
/// `None` if there are not so many of any place: nothing can be said then but with all of them.
pub(super) fn choose(rounds: &[Apart]) -> Option<Vec<bool>> {
    let mut steady: Vec<Apart> = rounds.iter().copied().filter(|round| round.is_like(*round)).collect();
    steady.sort_by(|one, other| one.most.total_cmp(&other.most));
    let alike = |to: Apart| rounds.iter().map(move |round| round.is_like(to)).collect::<Vec<_>>();
    steady.into_iter().map(alike).find(|alike| count(alike) >= ENOUGH)
}

/// How many of the rounds lie together, where most do.
pub(super) fn most_alike(rounds: &[Apart]) -> usize {
    rounds.iter().map(|to| rounds.iter().filter(|round| round.is_like(*to)).count()).max().unwrap_or(0)
}

fn count(chosen: &[bool]) -> usize {
    chosen.iter().filter(|chosen| **chosen).count()
}

/// Fewer rounds than this say nothing.
const ENOUGH: usize = 3;
/// Of like places: those that were seen are 80, 185, 250 and 490 ns apart.
const TOLERANCE: f64 = 1.6;
const PROBE: Duration = Duration::from_millis(4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine;

    fn rounds(nanos: &[(u16, u16)]) -> Vec<Apart> {
        nanos.iter().map(|(least, most)| Apart { least: (*least).into(), most: (*most).into() }).collect()
    }

    #[test]
    fn the_nearest_steady_rounds_count() {
        let near = [(80, 90), (80, 490), (85, 120), (480, 490), (90, 95), (481, 500), (470, 480)];
        assert_eq!(choose(&rounds(&near)).unwrap(), [true, false, true, false, true, false, false]);
        assert_eq!(most_alike(&rounds(&near)), 3);
        let far = [(80, 90), (80, 490), (480, 490), (470, 500), (470, 480), (475, 480)];
        assert_eq!(
            choose(&rounds(&far)).unwrap(),
            [false, false, true, true, true, true],
            "one near round is not enough"
        );
        assert_eq!(most_alike(&rounds(&far)), 4);
        assert_eq!(choose(&rounds(&[(80, 90), (80, 490), (80, 85)])), None);
        assert_eq!((choose(&[]), most_alike(&[])), (None, 0));
    }

    #[test]
    fn a_word_comes_back() {
        let mut apart = Apart::default();
        apart.probe(machine::two_cpus().unwrap_or((0, 0))).unwrap();
        assert!(apart.least > 0.0 && apart.most() >= apart.least);
    }
}
