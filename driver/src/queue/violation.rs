//! What a device can do wrong, and the latch that remembers the first time.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A rule that the device broke. One number per class, so that logs and counters stay comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ViolationKind {
    /// `used.idx` moved further than there are buffers outstanding, or backwards (virtio 1.3, 2.7.8).
    UsedIndexJump = 1,
    /// A used id that is no descriptor of this queue.
    IdOutOfRange = 2,
    /// A used id whose descriptor is not lent to the device: never posted, or completed already.
    IdNotOutstanding = 3,
    /// A used id in the middle of a chain.
    IdNotHead = 4,
    /// A used length beyond what was posted writable (2.7.8.2).
    LengthOverPosted = 5,
}

impl ViolationKind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [Self; 5] =
        [Self::UsedIndexJump, Self::IdOutOfRange, Self::IdNotOutstanding, Self::IdNotHead, Self::LengthOverPosted];

    /// A short stable name for counters and reports.
    #[must_use]
    pub const fn class(self) -> &'static str {
        match self {
            Self::UsedIndexJump => "used-index-jump",
            Self::IdOutOfRange => "id-out-of-range",
            Self::IdNotOutstanding => "id-not-outstanding",
            Self::IdNotHead => "id-not-head",
            Self::LengthOverPosted => "length-over-posted",
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// A violation before it is known in which queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: ViolationKind,
    pub(crate) slot: u32,
    pub(crate) observed: u64,
    pub(crate) expected: u64,
}

impl Fault {
    pub(crate) const fn in_queue(self, queue: u16) -> Violation {
        Violation { queue, kind: self.kind, slot: self.slot, observed: self.observed, expected: self.expected }
    }
}

/// The device broke a rule of the ring. The device is unusable until it is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the device broke the rules of queue {queue}: {class} at slot {slot}, it wrote {observed:#x} where at most {expected:#x} was lawful; reset the device or replace it",
    class = .kind.class()
)]
pub struct Violation {
    /// The virtqueue.
    pub queue: u16,
    /// Which rule.
    pub kind: ViolationKind,
    /// The slot of the used ring at which it was seen.
    pub slot: u32,
    /// What the device wrote.
    pub observed: u64,
    /// The bound that it broke: the last lawful index, the queue size, the bytes posted.
    pub expected: u64,
}

/// The first violation of a device, shared by all its queues. Once set it never changes.
#[derive(Debug, Default)]
pub struct Latch {
    /// `HEALTHY`, `SETTING` or `BROKEN`.
    state: AtomicU8,
    kind: AtomicU8,
    queue: AtomicU16,
    slot: AtomicU32,
    observed: AtomicU64,
    expected: AtomicU64,
}

impl Latch {
    /// A latch that nothing has tripped.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Whether the device is still in use.
    #[inline]
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        // Relaxed: one word; a queue on another thread that sees it a moment later has lost nothing.
        self.state.load(Ordering::Relaxed) == HEALTHY
    }

    /// The violation, once it is latched.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        // Acquire: pairs with the Release store in `trip`, so that the fields are those of the first violation.
        if self.state.load(Ordering::Acquire) != BROKEN {
            return None;
        }
        let kind = ViolationKind::from_number(self.kind.load(Ordering::Relaxed))?;
        Some(Violation {
            queue: self.queue.load(Ordering::Relaxed),
            kind,
            slot: self.slot.load(Ordering::Relaxed),
            observed: self.observed.load(Ordering::Relaxed),
            expected: self.expected.load(Ordering::Relaxed),
        })
    }

    /// `Err` with the violation if there was one; in O(1) and without touching shared memory.
    ///
    /// # Errors
    /// The latched [`Violation`].
    #[inline]
    pub fn check(&self) -> Result<(), Violation> {
        if self.is_healthy() { Ok(()) } else { self.check_slow() }
    }

    #[cold]
    fn check_slow(&self) -> Result<(), Violation> {
        // Between SETTING and BROKEN another thread is storing the fields: healthy for this one call.
        self.violation().map_or(Ok(()), Err)
    }

    /// Latches a violation, unless there is one, and returns the one that stands.
    #[cold]
    pub fn trip(&self, violation: Violation) -> Violation {
        if self.state.compare_exchange(HEALTHY, SETTING, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.kind.store(violation.kind as u8, Ordering::Relaxed);
            self.queue.store(violation.queue, Ordering::Relaxed);
            self.slot.store(violation.slot, Ordering::Relaxed);
            self.observed.store(violation.observed, Ordering::Relaxed);
            self.expected.store(violation.expected, Ordering::Relaxed);
            // Release: pairs with the Acquire load in `violation`.
            self.state.store(BROKEN, Ordering::Release);
        }
        self.violation().unwrap_or(violation)
    }
}

const HEALTHY: u8 = 0;
const SETTING: u8 = 1;
const BROKEN: u8 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Violation =
        Violation { queue: 1, kind: ViolationKind::IdOutOfRange, slot: 7, observed: 0x1_0001, expected: 256 };

    #[test]
    fn only_the_first_violation_is_kept() {
        let latch = Latch::new();
        assert_eq!(latch.check(), Ok(()));
        assert_eq!(latch.trip(FIRST), FIRST);
        let second = Violation { kind: ViolationKind::IdNotHead, ..FIRST };
        assert_eq!(latch.trip(second), FIRST);
        assert_eq!(latch.check(), Err(FIRST));
    }

    #[test]
    fn the_sentence_has_the_numbers_and_says_what_to_do() {
        let text = alloc::string::ToString::to_string(&FIRST);
        for part in ["queue 1", "id-out-of-range", "slot 7", "0x10001", "0x100", "reset"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn numbers_and_kinds_agree() {
        for kind in ViolationKind::ALL {
            assert_eq!(ViolationKind::from_number(kind as u8), Some(kind));
        }
        assert_eq!(ViolationKind::from_number(0), None);
    }
}
