//! Numbers that must not be mixed up: queue sizes, free-running ring indices, descriptor ids, addresses.

use crate::error::Misuse;

/// Number of descriptors of a virtqueue: 1 to 32768, and for the split layout a power of two (virtio 1.3, 2.7 and 2.8).
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

    /// Checks a size for a packed ring.
    ///
    /// # Errors
    /// [`Misuse::PackedSize`] if it is 0 or above 32768.
    pub const fn packed(size: u16) -> Result<Self, Misuse> {
        if size != 0 && size <= Self::MAX { Ok(Self(size)) } else { Err(Misuse::PackedSize { size }) }
    }

    /// Whether a split ring may have this size.
    #[inline]
    #[must_use]
    pub const fn is_split(self) -> bool {
        self.0.is_power_of_two()
    }

    /// The size in descriptors.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The slot of a free-running index of a split ring: the index modulo the size.
    #[inline]
    #[must_use]
    pub const fn slot(self, index: SplitIndex) -> u16 {
        debug_assert!(self.is_split(), "a split ring checks its size when it is made");
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

/// A place in a packed ring: the slot and the wrap counter, which flips each time the slots have been gone round (2.8.1).
///
/// Both sides keep theirs in private memory, and nothing in shared memory is ever taken for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PackedPosition {
    slot: u16,
    wrap: bool,
}

impl PackedPosition {
    /// Where every packed ring begins: slot 0, wrap counter 1 (2.8.1).
    pub const START: Self = Self { slot: 0, wrap: true };

    /// The position of 15 bits of slot and the wrap counter in bit 15, as vhost-user and event areas have it (2.8.14);
    /// `None` if the ring has no such slot.
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u16, size: QueueSize) -> Option<Self> {
        let slot = bits & !WRAP_BIT;
        if slot < size.0 { Some(Self { slot, wrap: bits & WRAP_BIT != 0 }) } else { None }
    }

    /// The slot in 15 bits and the wrap counter in bit 15.
    #[inline]
    #[must_use]
    pub const fn to_bits(self) -> u16 {
        if self.wrap { self.slot | WRAP_BIT } else { self.slot }
    }

    /// The slot: below the queue size.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> u16 {
        self.slot
    }

    /// The wrap counter.
    #[inline]
    #[must_use]
    pub const fn wrap(self) -> bool {
        self.wrap
    }

    /// Another slot in the same round.
    #[inline]
    #[must_use]
    pub const fn in_its_round(self, slot: u16, size: QueueSize) -> Self {
        debug_assert!(slot < size.0, "the ring has the slot");
        Self { slot, wrap: self.wrap }
    }

    /// The position `slots` further on, at most one round.
    #[inline]
    #[must_use]
    pub const fn advance(self, slots: u16, size: QueueSize) -> Self {
        debug_assert!(slots <= size.0, "a position moves by a chain, and no chain is longer than the ring");
        // Both are at most 32768, so the sum fits into 16 bits but for 65536, which `slot < size` excludes.
        let sum = self.slot.wrapping_add(slots);
        if sum >= size.0 {
            Self { slot: sum.wrapping_sub(size.0), wrap: !self.wrap }
        } else {
            Self { slot: sum, wrap: self.wrap }
        }
    }

    /// Slots from `earlier` to `self`, modulo two rounds: after two rounds a position comes back.
    #[inline]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "two positions are less than two rounds apart, at most 65535 slots"
    )]
    pub const fn since(self, earlier: Self, size: QueueSize) -> u16 {
        let rounds = (size.0 as u32).wrapping_mul(2);
        let (to, from) = (self.linear(size), earlier.linear(size));
        let apart = if to >= from { to.wrapping_sub(from) } else { to.wrapping_add(rounds).wrapping_sub(from) };
        apart as u16
    }

    /// The place in a round of two: wrap counter 1 first.
    const fn linear(self, size: QueueSize) -> u32 {
        if self.wrap { self.slot as u32 } else { (self.slot as u32).wrapping_add(size.0 as u32) }
    }
}

const WRAP_BIT: u16 = 1 << 15;

/// Index of a descriptor in its table; always below the queue size, because only private state makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DescId(u16);

impl DescId {
    /// The first descriptor, which every queue has.
    pub const FIRST: Self = Self(0);

    /// An id below `size`, or `None`.
    #[inline]
    #[must_use]
    pub const fn below(id: u16, size: QueueSize) -> Option<Self> {
        if id < size.0 { Some(Self(id)) } else { None }
    }

    /// As [`below`](Self::below), of the 32 bits that a used element has for an id.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "what is below the size of a queue fits into 16 bits")]
    pub const fn at_full_width(id: u32, size: QueueSize) -> Option<Self> {
        if id < size.0 as u32 { Some(Self(id as u16)) } else { None }
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

/// As [`need_event`] for a packed ring (2.8.14): whether a peer that asked to be told about the position `event` is to be
/// told, when `steps` slots up to `new` were published. An event that is no position of the ring is a broken wish, and is
/// told about everything: that costs notifications and stalls nobody.
#[inline]
#[must_use]
pub const fn need_event_packed(event: u16, new: PackedPosition, steps: u16, size: QueueSize) -> bool {
    match PackedPosition::from_bits(event, size) {
        // How far back the event lies: 1 is the slot that was published last.
        Some(event) => {
            let back = new.since(event, size);
            back != 0 && back <= steps
        }
        None => true,
    }
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

    /// Ids of 32 bits, at every edge of the sizes and of 16 bits.
    #[test]
    fn ids_are_in_range_at_full_width() {
        for size in [1u16, 2, 77, 256, 32767, 32768] {
            let queue = QueueSize::packed(size).unwrap();
            for high in [0u32, 1 << 15, 1 << 16, 1 << 24, 1 << 31, u32::MAX << 16] {
                for low in [0, 1, u32::from(size) - 1, size.into(), u32::from(size) + 1, 0x7fff, 0xffff] {
                    let id = high | low;
                    let expected = if id < u32::from(size) { Some(id) } else { None };
                    assert_eq!(DescId::at_full_width(id, queue).map(|id| id.get().into()), expected, "{size} {id:#x}");
                }
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
    fn packed_sizes_are_all_up_to_32768() {
        for size in 0..=u16::MAX {
            assert_eq!(QueueSize::packed(size).is_ok(), (1..=32768).contains(&size), "{size}");
        }
    }

    /// Against counting one slot after the other, for every size, start and number of steps.
    #[test]
    fn packed_positions_go_round_for_all_small_sizes() {
        for size in (1..=64).map(|size| QueueSize::packed(size).unwrap()) {
            let mut slow = Vec::new();
            let (mut slot, mut wrap) = (0u16, true);
            for _ in 0..4 * size.get() {
                slow.push(PackedPosition { slot, wrap });
                slot += 1;
                if slot == size.get() {
                    (slot, wrap) = (0, !wrap);
                }
            }
            for start in 0..2 * size.get() {
                let from = slow[usize::from(start)];
                assert_eq!(PackedPosition::from_bits(from.to_bits(), size), Some(from));
                for steps in 0..=size.get() {
                    let to = slow[usize::from(start + steps)];
                    assert_eq!(from.advance(steps, size), to, "{size:?} {from:?} {steps}");
                    assert_eq!(to.since(from, size), steps);
                    assert_eq!(from.since(to, size), if steps == 0 { 0 } else { 2 * size.get() - steps });
                }
            }
        }
    }

    /// Every event word of the ring, every burst: told exactly if the event lies among the slots that were published.
    #[test]
    fn packed_events_are_told_when_their_slot_is_published_for_all_small_sizes() {
        for size in (1..=64).map(|size| QueueSize::packed(size).unwrap()) {
            let mut old = PackedPosition::START;
            for _ in 0..2 * size.get() {
                let mut told = std::collections::HashSet::new();
                for steps in 0..=size.get() {
                    let new = old.advance(steps, size);
                    let mut event = PackedPosition::START;
                    for _ in 0..2 * size.get() {
                        let bits = event.to_bits();
                        assert_eq!(need_event_packed(bits, new, steps, size), told.contains(&bits), "{size:?} {old:?}");
                        event = event.advance(1, size);
                    }
                    told.insert(new.to_bits());
                }
                old = old.advance(1, size);
            }
            for broken in [size.get(), 0x7fff].into_iter().filter(|bits| bits & 0x7fff >= size.get()) {
                assert!(need_event_packed(broken, PackedPosition::START, 1, size));
                assert!(need_event_packed(broken | 0x8000, PackedPosition::START, 1, size));
            }
        }
    }

    #[test]
    fn packed_positions_of_the_largest_ring_do_not_overflow() {
        let size = QueueSize::packed(32768).unwrap();
        let last = PackedPosition { slot: 32767, wrap: false };
        assert_eq!(last.advance(1, size), PackedPosition::START);
        assert_eq!(last.advance(32768, size), PackedPosition { slot: 32767, wrap: true });
        assert_eq!(last.since(PackedPosition::START, size), 65535);
        assert_eq!(PackedPosition::START.since(last, size), 1);
    }

    #[test]
    fn addresses_do_not_wrap() {
        assert_eq!(GuestAddr(u64::MAX).checked_add(1), None);
        assert_eq!(GuestAddr(1).checked_add(2), Some(GuestAddr(3)));
    }
}
