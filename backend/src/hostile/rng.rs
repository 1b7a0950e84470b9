//! Numbers that follow from a seed, and from nothing else.

/// SplitMix64: small, fast, and the same on every machine. It picks slots and values; nothing secret depends on it.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A sequence of its own for `label`, so that what one attack draws does not shift what another one draws.
    #[must_use]
    pub fn fork(seed: u64, label: &str) -> Self {
        let mut mixed = Self(seed);
        for byte in label.bytes() {
            mixed.0 = mixed.next_u64() ^ u64::from(byte);
        }
        mixed
    }

    /// The next 64 bits.
    pub const fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    pub const fn below(&mut self, limit: u64) -> u64 {
        // A limit of 0 has no remainder. The bias of a remainder is of no interest here.
        match self.next_u64().checked_rem(limit) {
            Some(rest) => rest,
            None => 0,
        }
    }

    /// A number from `low` to `high`, both included; `low` if they are the wrong way round.
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        low.wrapping_add(self.below(high.saturating_sub(low).saturating_add(1)))
    }

    /// One of a few.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(u64::try_from(from.len()).unwrap_or(u64::MAX));
        from.get(usize::try_from(at).unwrap_or(0)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published test vector of SplitMix64 for seed 1234567.
    #[test]
    fn the_sequence_is_that_of_the_reference() {
        let mut rng = Rng::new(1_234_567);
        let got: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        assert_eq!(got, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn bounds_hold() {
        let mut rng = Rng::new(1);
        for limit in 1..100 {
            assert!(rng.below(limit) < limit);
            assert!((3..=3 + limit).contains(&rng.between(3, 3 + limit)));
        }
        assert_eq!(rng.below(0), 0);
        assert_eq!(rng.pick::<u8>(&[]), None);
        assert_eq!(rng.pick(&[7]), Some(7));
    }

    #[test]
    fn forks_differ_by_seed_and_by_label() {
        let first = |seed, label| Rng::fork(seed, label).next_u64();
        assert_eq!(first(1, "A01"), first(1, "A01"));
        assert_ne!(first(1, "A01"), first(2, "A01"));
        assert_ne!(first(1, "A01"), first(1, "A02"));
    }
}
