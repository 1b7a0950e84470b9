//! Numbers that must not be mixed up: queue sizes, free-running ring indices, descriptor ids, addresses.

use crate::error::Misuse;

/// Number of descriptors of a split virtqueue: a power of two, 1 to 32768 (virtio 1.3, section 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueSize(u16);

impl QueueSize {
    /// The largest size that the specification allows.
    pub const MAX: u16 = 32768;

    /// Checks a size for a split ring.
    ///
    /// # Errors
    /// [`Misuse::QueueSize`] if it is 0, not a power of two, or above 32768.
    pub const fn split(size: u16) -> Result<Self, Misuse> {
        if size.is_power_of_two() && size <= Self::MAX { Ok(Self(size)) } else { Err(Misuse::QueueSize { size }) }
    }

    /// The size in descriptors.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The slot of a free-running index: the index modulo the size.
    #[inline]
    #[must_use]
    pub const fn slot(self, index: SplitIndex) -> u16 {
        // The size is at least 1 and a power of two, so the mask is the remainder.
        index.0 & self.0.wrapping_sub(1)
    }
}

/// A free-running 16-bit index of a split ring (`avail.idx`, `used.idx`); it wraps at 2^16, not at the queue size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitIndex(pub u16);

impl SplitIndex {
    /// The index `steps` further on.
    #[inline]
    #[must_use]
    pub const fn advance(self, steps: u16) -> Self {
        Self(self.0.wrapping_add(steps))
    }

    /// Steps from `earlier` to `self`, modulo 2^16.
    #[inline]
    #[must_use]
    pub const fn since(self, earlier: Self) -> u16 {
        self.0.wrapping_sub(earlier.0)
    }
}

/// Index of a descriptor in its table; always below the queue size, because only private state makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DescId(u16);

impl DescId {
    /// An id below `size`, or `None`.
    #[inline]
    #[must_use]
    pub const fn below(id: u16, size: QueueSize) -> Option<Self> {
        if id < size.0 { Some(Self(id)) } else { None }
    }

    /// The id as the ring writes it.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The id as an array index.
    #[inline]
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// An address as descriptors and ring addresses carry it: synthetic, meaningful only through a region table, never a
/// pointer of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestAddr(pub u64);

impl GuestAddr {
    /// The address `bytes` further on, or `None` past the end of the address space.
    #[inline]
    #[must_use]
    pub const fn checked_add(self, bytes: u64) -> Option<Self> {
        match self.0.checked_add(bytes) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }
}

impl From<u64> for GuestAddr {
    fn from(addr: u64) -> Self {
        Self(addr)
    }
}

impl core::fmt::Display for GuestAddr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Whether a peer that asked to be told about `event` is to be told, when the index goes from `old` to `new`.
///
/// Virtio 1.3, section 2.7.10, `vring_need_event`: true if `event` lies in the half-open interval `[old, new)`, modulo
/// 2^16. `event` is the peer's; a wrong one costs a notification too many or too few and nothing else.
#[inline]
#[must_use]
pub const fn need_event(event: u16, new: SplitIndex, old: SplitIndex) -> bool {
    new.0.wrapping_sub(event).wrapping_sub(1) < new.0.wrapping_sub(old.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_sizes_are_powers_of_two_up_to_32768() {
        for size in 0..=u16::MAX {
            assert_eq!(QueueSize::split(size).is_ok(), size != 0 && size <= 32768 && size.count_ones() == 1, "{size}");
        }
    }

    #[test]
    fn slots_follow_the_remainder_for_every_index() {
        for shift in 0..16 {
            let size = QueueSize::split(1 << shift).unwrap();
            for index in 0..=u16::MAX {
                assert_eq!(size.slot(SplitIndex(index)), index % size.get());
            }
        }
    }

    /// One argument drops out by translation: `need_event(e, n, o) == need_event(e - o, n - o, 0)`, so the check over
    /// all (event, new) at old = 0 plus translation samples covers all triples.
    #[test]
    fn need_event_is_the_wrapping_interval() {
        for new in (0..=u16::MAX).step_by(17) {
            for event in (0..=u16::MAX).step_by(31) {
                let expected = event < new;
                assert_eq!(need_event(event, SplitIndex(new), SplitIndex(0)), expected);
                for shift in [1u16, 255, 32768, 65535] {
                    let translated =
                        need_event(event.wrapping_add(shift), SplitIndex(new.wrapping_add(shift)), SplitIndex(shift));
                    assert_eq!(translated, expected);
                }
            }
        }
    }

    #[test]
    fn addresses_do_not_wrap() {
        assert_eq!(GuestAddr(u64::MAX).checked_add(1), None);
        assert_eq!(GuestAddr(1).checked_add(2), Some(GuestAddr(3)));
    }
}
