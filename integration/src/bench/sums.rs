//! What samples say: medians, and how sure a ratio is.

use serde::Serialize;

/// Several samples of one thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the samples lie below.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

/// A ratio of paired samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Ratio {
    /// The median of the ratios of each pair.
    pub median: f64,
    /// Where the median of other samples would lie 95 times of 100: by resampling the pairs.
    pub ci95: [f64; 2],
}

impl Spread {
    /// Of samples; all zero if there are none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Self {
        let sorted = sorted(samples);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else { return Self::default() };
        Self { median: median_of(&sorted), min: *min, max: *max }
    }

    /// Whether the largest is less than twice the smallest.
    pub(super) fn is_narrow(&self) -> bool {
        self.max < 2.0 * self.min
    }
}

impl Ratio {
    /// Of samples that were taken in pairs: one ratio each. Resampled with numbers that are always the same, so that the
    /// same samples give the same interval.
    #[must_use]
    pub fn of(ratios: &[f64]) -> Self {
        if ratios.is_empty() {
            return Self::default();
        }
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut medians: Vec<f64> = Vec::with_capacity(RESAMPLES);
        let mut drawn = Vec::with_capacity(ratios.len());
        for _ in 0..RESAMPLES {
            drawn.clear();
            for _ in 0..ratios.len() {
                // xorshift64*.
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                let number = state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
                let at = usize::try_from(number).unwrap_or(0) % ratios.len();
                drawn.push(ratios[at]);
            }
            medians.push(median_of(&sorted(&drawn)));
        }
        let medians = sorted(&medians);
        let at = |share: usize| medians[(medians.len() - 1) * share / 1000];
        Self { median: median_of(&sorted(ratios)), ci95: [at(25), at(975)] }
    }

    /// From the lower to the upper end of the interval, as a share of the median.
    #[must_use]
    pub fn width(&self) -> f64 {
        (self.ci95[1] - self.ci95[0]) / self.median.max(f64::MIN_POSITIVE)
    }
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

fn median_of(sorted: &[f64]) -> f64 {
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[half],
        _ => f64::midpoint(sorted[half - 1], sorted[half]),
    }
}

const RESAMPLES: usize = 4_000;

#[expect(clippy::cast_precision_loss, reason = "counts of a measurement are far below 2^52")]
pub(super) fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let Spread { median, min, max } = Spread::of(&[5.0, 1.0, 3.0]);
        assert!((median, min, max) == (3.0, 1.0, 5.0));
        assert!(Spread::of(&[4.0, 1.0]).median == 2.5);
        assert!(Spread::of(&[]) == Spread::default());
    }

    #[test]
    fn an_interval_holds_the_median_and_no_more_than_the_samples() {
        let ratios = [1.9, 2.0, 2.1, 2.05, 1.95, 2.02, 1.98, 2.01, 1.99, 2.0];
        let ratio = Ratio::of(&ratios);
        let [low, high] = ratio.ci95;
        assert!(1.9 <= low && low <= ratio.median && ratio.median <= high && high <= 2.1, "{ratio:?}");
        assert!(ratio == Ratio::of(&ratios), "it is the same each time");
        assert!(ratio.width() < 0.06 && Ratio::of(&[1.0, 3.0, 1.0, 3.0]).width() > 0.5);
        assert!(Ratio::of(&[]) == Ratio::default());
    }
}
