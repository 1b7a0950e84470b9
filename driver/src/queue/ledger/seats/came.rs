//! Who came in a burst, of those that are out longest.

/// Which of the [`SEATS`](Self::SEATS) that are out longest came: a bit for each, the oldest in the lowest.
#[derive(Clone, Copy, Default)]
pub(super) struct Came(u64);

impl Came {
    /// So many of them can be noted.
    const SEATS: u16 = 64;
    /// The oldest one.
    pub(super) const FIRST: Self = Self(1);

    /// Whether the one came that this many are older than.
    #[inline(always)]
    pub(super) const fn has(self, older: u16) -> bool {
        older < Self::SEATS && self.0 >> older & 1 != 0
    }

    /// Notes that it came; `false` if there is no bit for it.
    #[inline(always)]
    pub(super) const fn note(&mut self, older: u16) -> bool {
        let near = older < Self::SEATS;
        if near {
            self.0 |= 1 << older;
        }
        near
    }

    #[inline(always)]
    pub(super) const fn count(self) -> u16 {
        let [low, high, ..] = self.0.count_ones().to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    /// Who did not come and has one of the oldest seats, as many as came, each with one that came and has none: once these changed seats,
    /// those who came have the oldest.
    #[inline(always)]
    pub(super) fn strays(self) -> impl Iterator<Item = (u16, u16)> {
        let these = u64::MAX.checked_shr(64u32.wrapping_sub(self.0.count_ones())).unwrap_or(0);
        ones(!self.0 & these).zip(ones(self.0 & !these))
    }
}

/// Where bits are set, from the lowest.
#[inline(always)]
fn ones(mut bits: u64) -> impl Iterator<Item = u16> {
    core::iter::from_fn(move || {
        let bit = (bits != 0).then(|| bits.trailing_zeros().to_le_bytes());
        bits &= bits.wrapping_sub(1);
        bit.map(|[low, high, ..]| u16::from_le_bytes([low, high]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All patterns of 16 bits, at both ends: in the end those who came have the oldest seats, and who changed did so once.
    #[test]
    fn who_came_takes_the_oldest_seats() {
        for (bits, up) in (0..=u64::from(u16::MAX)).flat_map(|bits| [(bits, 0u32), (bits, 8), (bits, 48)]) {
            let mut came = Came::default();
            for bit in (0..64u16).filter(|bit| bits << up >> bit & 1 != 0) {
                assert!(!came.has(bit) && came.note(bit) && came.has(bit));
            }
            let count = came.count();
            let mut seats: Vec<bool> = (0..64).map(|bit| came.has(bit)).collect();
            for (early, late) in came.strays() {
                assert!(early < late && !seats[usize::from(early)] && seats[usize::from(late)]);
                seats.swap(early.into(), late.into());
            }
            assert!(seats.iter().enumerate().all(|(seat, came)| *came == (seat < count.into())), "{bits:b} {up}");
        }
        let mut all = Came(u64::MAX);
        assert_eq!((all.count(), all.strays().count()), (64, 0));
        // Who is further away is not noted.
        assert!([64, 65, u16::MAX].into_iter().all(|older| !all.has(older) && !all.note(older)) && all.count() == 64);
    }
}
