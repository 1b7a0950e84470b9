//! How near to each other the two CPUs are, and which rounds count.
//!
//! The CPUs of a virtual machine are moved about on their host: now they are neighbours that share a cache, a few seconds later they
//! sit on different dies, and a word that goes back and forth takes six times as long. Then everything that is measured here takes
//! longer too, not all of it by as much, and a ratio of samples from two such times says nothing. So a word is sent back and forth
//! before and after each sample, and a round counts if its CPUs were near all the time: within [`TOLERANCE`] of the nearest
//! that they ever were. What is left out is told. On a machine whose CPUs stay where they are nothing is.

use std::time::{Duration, Instant};

use super::limit;

/// The nearest that the CPUs have been so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nearest {
    nanos: f64,
}

impl Default for Nearest {
    fn default() -> Self {
        Self { nanos: f64::INFINITY }
    }
}

impl Nearest {
    /// What a word takes back and forth now, in nanoseconds.
    pub(super) fn probe(&mut self, cpus: (usize, usize)) -> Result<f64, String> {
        // The smaller of two: a probe may lose its CPU for a moment.
        let nanos = limit::ping_pong(cpus, PROBE)?.min(limit::ping_pong(cpus, PROBE)?);
        self.nanos = self.nanos.min(nanos);
        Ok(nanos)
    }

    /// Waits a little for the CPUs to be near, which busy ones come to be sooner than idle ones. Returns what a word takes.
    pub(super) fn settle(&mut self, cpus: (usize, usize)) -> Result<f64, String> {
        let began = Instant::now();
        loop {
            let nanos = self.probe(cpus)?;
            if self.is_near(nanos) || began.elapsed() > SETTLE {
                return Ok(nanos);
            }
        }
    }

    /// Whether CPUs between which a word takes so long are near.
    pub(super) fn is_near(self, nanos: f64) -> bool {
        nanos <= self.nanos * TOLERANCE
    }

    /// Of rounds in which a word took so long at most, those that count: whose CPUs were near, if there are at least
    /// [`ENOUGH`] of these, and all otherwise.
    pub(super) fn choose(self, farthest: &[f64]) -> Vec<bool> {
        let near: Vec<bool> = farthest.iter().map(|nanos| self.is_near(*nanos)).collect();
        if near.iter().filter(|near| **near).count() >= ENOUGH { near } else { vec![true; farthest.len()] }
    }
}

/// Fewer rounds than this say nothing.
const ENOUGH: usize = 3;
/// Of the same place: the four places that were seen are 80, 185, 250 and 490 ns apart.
const TOLERANCE: f64 = 1.6;
const PROBE: Duration = Duration::from_millis(4);
/// CPUs that are apart for longer are left to be so.
const SETTLE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine;

    #[test]
    fn rounds_count_while_the_cpus_are_near() {
        let nearest = Nearest { nanos: 80.0 };
        assert_eq!(nearest.choose(&[81.0, 490.0, 120.0, 185.0, 90.0]), [true, false, true, false, true]);
        assert_eq!(nearest.choose(&[490.0, 81.0, 82.0]), [true; 3], "two are not enough");
        assert!(nearest.choose(&[]).is_empty());
    }

    #[test]
    fn the_nearest_is_remembered() {
        let cpus = machine::two_cpus().unwrap_or((0, 0));
        let mut nearest = Nearest::default();
        let nanos = nearest.settle(cpus).unwrap();
        assert!(nanos > 0.0 && nearest.nanos <= nanos && nearest.is_near(nearest.nanos));
    }
}
