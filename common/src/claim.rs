//! A number that the peer says, and nothing more.
//!
//! Every word that is loaded from memory which the peer can write is an [`Alleged`]. Holding one tells you that the bytes were loaded
//! exactly once and will not change under you; it tells you nothing about their value. The value comes out only through
//! a `check_*` method, which takes the bound from the caller's private state and hands back either a number inside the
//! bound or the number that was observed, for the error message; `check_advisory` takes the reason why any value will do.

/// A value as the peer alleges it. See the [module documentation](self).
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use = "an alleged value means nothing until it is checked"]
pub struct Alleged<T>(T);

impl<T> core::fmt::Debug for Alleged<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // The value is the peer's; it is shown by the error of the check that refused it, not by accident.
        f.write_str("Alleged(..)")
    }
}

/// What a failed check saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused<T> {
    /// The value that the peer wrote.
    pub observed: T,
}

impl<T: Copy> Alleged<T> {
    /// Wraps a value that came from the peer. Only loads of shared memory and of a peer's message make one.
    #[inline]
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// Splits or reinterprets the claim without believing it, for example a 64-bit used element into id and length.
    #[inline]
    pub fn map<U: Copy>(self, split: impl FnOnce(T) -> U) -> Alleged<U> {
        Alleged(split(self.0))
    }

    /// Opens the claim with a test of the caller's. `accept` returns the checked value or `None`.
    ///
    /// # Errors
    /// [`Refused`] with the observed value when `accept` returns `None`.
    #[inline]
    pub fn check_with<U>(self, accept: impl FnOnce(T) -> Option<U>) -> Result<U, Refused<T>> {
        accept(self.0).ok_or(Refused { observed: self.0 })
    }

    /// Opens the claim as a mere hint: any value at all is acceptable to the caller, because no memory access, loop
    /// bound or state depends on it. `why` is the argument; it costs nothing and makes the reader write it down.
    #[inline]
    pub fn check_advisory(self, why: &'static str) -> T {
        debug_assert!(!why.is_empty());
        self.0
    }
}

impl<A: Copy, B: Copy> Alleged<(A, B)> {
    /// Two claims that were loaded by one access.
    #[inline]
    pub fn split(self) -> (Alleged<A>, Alleged<B>) {
        (Alleged(self.0.0), Alleged(self.0.1))
    }
}

impl Alleged<u16> {
    /// Opens a free-running ring index: accepts it if it lies at most `outstanding` steps ahead of `last`, modulo 2^16,
    /// and returns the number of steps.
    ///
    /// # Errors
    /// [`Refused`] if the index is further ahead, which includes every step backwards.
    #[inline]
    pub fn check_window(self, last: u16, outstanding: u16) -> Result<u16, Refused<u16>> {
        self.check_with(|index| {
            let delta = index.wrapping_sub(last);
            (delta <= outstanding).then_some(delta)
        })
    }
}

impl Alleged<u32> {
    /// Opens a number at its full width if it is below `limit`.
    ///
    /// # Errors
    /// [`Refused`] if it is `limit` or more.
    #[inline]
    pub fn check_below(self, limit: u32) -> Result<u32, Refused<u32>> {
        self.check_with(|value| (value < limit).then_some(value))
    }

    /// Opens a length if it is at most `limit`.
    ///
    /// # Errors
    /// [`Refused`] if it is more than `limit`.
    #[inline]
    pub fn check_at_most(self, limit: u32) -> Result<u32, Refused<u32>> {
        self.check_with(|value| (value <= limit).then_some(value))
    }
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;

    use super::*;

    /// The used window, for every pair of indices at a sample of outstanding counts. The full 2^32 sweep runs in
    /// `ci.sh exhaustive`; this is the sample that every test run makes.
    #[test]
    fn window_accepts_exactly_the_outstanding_steps() {
        for outstanding in [0u16, 1, 2, 255, 256, 32767, 32768, 65535] {
            for last in (0..=u16::MAX).step_by(251) {
                for step in [0u32, 1, 2, 255, 256, 257, 32767, 32768, 32769, 65534, 65535] {
                    let index = last.wrapping_add(step as u16);
                    let got = Alleged::new(index).check_window(last, outstanding);
                    if step <= u32::from(outstanding) {
                        assert_eq!(got, Ok(step as u16));
                    } else {
                        assert_eq!(got, Err(Refused { observed: index }));
                    }
                }
            }
        }
    }

    #[test]
    #[ignore = "2^32 pairs; run by `ci.sh exhaustive`"]
    fn window_exhaustive() {
        for outstanding in [0u16, 1, 256, 32768] {
            for last in 0..=u16::MAX {
                for index in 0..=u16::MAX {
                    let naive =
                        (0..=u32::from(outstanding)).contains(&((u32::from(index) + 65536 - u32::from(last)) % 65536));
                    // Unknown to the compiler, which would otherwise prove the loop away instead of running it.
                    let ours = black_box(Alleged::new(index)).check_window(black_box(last), black_box(outstanding));
                    assert_eq!(ours.is_ok(), naive);
                }
            }
        }
    }

    #[test]
    fn bounds_are_checked_at_full_width() {
        assert_eq!(Alleged::new(0x1_0001u32).check_below(256), Err(Refused { observed: 0x1_0001 }));
        assert_eq!(Alleged::new(255u32).check_below(256), Ok(255));
        assert_eq!(Alleged::new(2048u32).check_at_most(2048), Ok(2048));
        assert_eq!(Alleged::new(2049u32).check_at_most(2048), Err(Refused { observed: 2049 }));
    }

    #[test]
    fn debug_does_not_print_peer_bytes() {
        assert_eq!(format!("{:?}", Alleged::new(0xdead_beefu32)), "Alleged(..)");
    }
}
