//! How near to each other the two CPUs are, and which rounds count.
//!
//! The CPUs of a virtual machine are moved about on their host: now they are neighbours that share a cache, a few seconds later they
//! sit on different dies, and a word that goes back and forth takes six times as long. Then everything that is measured here takes
//! longer too, not all of it by as much, and a ratio of samples from two such times says nothing. So a word is sent back and forth
//! between the turns of a round. A round is steady if it took about as long most of the times, and of the steady rounds those
//! count in which the CPUs were nearest. What the others came to is told beside it. On a machine whose CPUs stay where they are all
//! rounds count.

use std::time::Duration;

use super::limit;
use super::sums::Spread;

/// What a word took back and forth during a round, in nanoseconds, each time.
#[derive(Clone, Debug, Default)]
pub(super) struct Apart {
    nanos: Vec<f64>,
}

impl Apart {
    /// Sends a word now.
    pub(super) fn probe(&mut self, cpus: (usize, usize)) -> Result<(), String> {
        self.nanos.push(limit::ping_pong(cpus, PROBE)?);
        Ok(())
    }

    /// What half of the words took less than.
    pub(super) fn middle(&self) -> f64 {
        Spread::of(&self.nanos).median
    }

    /// Whether most of the words took about as long.
    fn is_steady(&self) -> bool {
        let (middle, all) = (self.middle(), self.nanos.len());
        let like = self.nanos.iter().filter(|nanos| is_like(**nanos, middle)).count();
        all > 0 && like * 5 >= all * 4
    }

    /// Whether both were steady, and took about as long: their CPUs were in like places.
    fn is_like(&self, other: &Self) -> bool {
        self.is_steady() && other.is_steady() && is_like(self.middle(), other.middle())
    }
}

fn is_like(one: f64, other: f64) -> bool {
    one.max(other) <= one.min(other) * TOLERANCE
}

/// Which rounds count: of those that are steady the nearest that are like each other, if they are at least [`ENOUGH`].
/// `None` if there are not so many of any place: nothing can be said then but with all of them.
pub(super) fn choose(rounds: &[Apart]) -> Option<Vec<bool>> {
    let mut steady: Vec<&Apart> = rounds.iter().filter(|round| round.is_steady()).collect();
    steady.sort_by(|one, other| one.middle().total_cmp(&other.middle()));
    let alike = |to: &Apart| rounds.iter().map(|round| round.is_like(to)).collect::<Vec<_>>();
    steady.into_iter().map(alike).find(|alike| count(alike) >= ENOUGH as usize)
}

/// How many of the rounds are like the nearest one.
pub(super) fn nearest(rounds: &[Apart]) -> usize {
    let steady = rounds.iter().filter(|round| round.is_steady());
    let nearest = steady.min_by(|one, other| one.middle().total_cmp(&other.middle()));
    nearest.map_or(0, |to| rounds.iter().filter(|round| round.is_like(to)).count())
}

fn count(chosen: &[bool]) -> usize {
    chosen.iter().filter(|chosen| **chosen).count()
}

/// Fewer rounds than this say nothing.
pub(super) const ENOUGH: u32 = 3;
/// Of like places: those that were seen are 80, 185, 250 and 490 ns apart.
const TOLERANCE: f64 = 1.6;
const PROBE: Duration = Duration::from_millis(4);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine;

    fn rounds(nanos: &[&[u16]]) -> Vec<Apart> {
        nanos.iter().map(|nanos| Apart { nanos: nanos.iter().copied().map(f64::from).collect() }).collect()
    }

    #[test]
    fn the_nearest_steady_rounds_count() {
        let (near, far, mixed) = (&[80u16, 90, 85, 81, 490][..], &[480u16, 490, 485][..], &[80u16, 490, 80, 490][..]);
        let all = rounds(&[near, mixed, near, far, near, far, far]);
        assert_eq!(choose(&all).unwrap(), [true, false, true, false, true, false, false]);
        assert_eq!(nearest(&all), 3);
        let all = rounds(&[near, mixed, far, far, far, far]);
        assert_eq!(choose(&all).unwrap(), [false, false, true, true, true, true], "one near round is not enough");
        assert_eq!(nearest(&all), 1);
        assert_eq!(choose(&rounds(&[near, mixed, near, &[]])), None);
        assert_eq!((choose(&[]), nearest(&[])), (None, 0));
    }

    #[test]
    fn a_word_comes_back() {
        let mut apart = Apart::default();
        apart.probe(machine::two_cpus().unwrap_or((0, 0))).unwrap();
        assert!(apart.middle() > 0.0 && apart.is_steady() && apart.is_like(&apart));
    }
}
