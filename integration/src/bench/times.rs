//! How long round trips took.

use std::time::Duration;

/// How long round trips took, in bins of 10 nanoseconds up to 100 microseconds.
pub(super) struct Times {
    bins: Box<[u32]>,
    beyond: Vec<u64>,
}

impl Times {
    pub(super) fn new() -> Self {
        Self { bins: vec![0; 10_000].into_boxed_slice(), beyond: Vec::with_capacity(1 << 16) }
    }

    #[inline]
    pub(super) fn note(&mut self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match usize::try_from(nanos / 10).ok().and_then(|bin| self.bins.get_mut(bin)) {
            Some(bin) => *bin += 1,
            None if self.beyond.len() < self.beyond.capacity() => self.beyond.push(nanos),
            None => {}
        }
    }

    pub(super) fn percentiles(&self) -> [u64; 3] {
        let inside: u64 = self.bins.iter().map(|bin| u64::from(*bin)).sum();
        let all = inside + self.beyond.len() as u64;
        let mut beyond = self.beyond.clone();
        beyond.sort_unstable();
        [500, 990, 999].map(|share| {
            let rank = all * share / 1000;
            let mut below = 0;
            for (bin, count) in (0u64..).zip(&self.bins) {
                below += u64::from(*count);
                if below > rank {
                    return bin * 10;
                }
            }
            let at = usize::try_from(rank.saturating_sub(inside)).unwrap_or(0);
            beyond.get(at).or(beyond.last()).copied().unwrap_or(0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_read_off_the_bins() {
        let mut times = Times::new();
        for nanos in 0..1000u64 {
            times.note(Duration::from_nanos(nanos * 10));
        }
        assert_eq!(times.percentiles(), [5_000, 9_900, 9_990]);
        times.note(Duration::from_millis(3));
        assert_eq!(times.percentiles()[0], 5_000);
        let mut slow = Times::new();
        slow.note(Duration::from_millis(2));
        assert_eq!(slow.percentiles(), [2_000_000; 3]);
    }
}
