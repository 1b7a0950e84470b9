//! What a device can do wrong, and the latch that remembers the first time.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A rule that the device broke. One number per class, so that logs and counters stay comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ViolationKind {
    /// `used.idx` moved further than there are buffers outstanding, or backwards (virtio 1.3, 2.7.8).
    UsedIndexJump = 1,
    /// A used id that is no descriptor of this queue.
    IdOutOfRange = 2,
    /// A used id whose descriptor is not lent to the device: never posted, not published, or completed already.
    IdNotOutstanding = 3,
    /// A used id in the middle of a chain.
    IdNotHead = 4,
    /// A used length beyond what was posted writable (2.7.8.2).
    LengthOverPosted = 5,
    /// The backend broke the rules of the vhost-user channel.
    Channel = 6,
    /// The device was given up: a reset closed its channel, and no new device came up.
    Abandoned = 7,
    /// The device made a kick block, by the flags and the counter of the eventfd that both hold.
    KickBlocked = 8,
    /// With `VIRTIO_F_IN_ORDER`, a used element that stands for more chains than the used index moved (2.7.9).
    BatchOverrun = 9,
}

impl ViolationKind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [Self; 9] = [
        Self::UsedIndexJump,
        Self::IdOutOfRange,
        Self::IdNotOutstanding,
        Self::IdNotHead,
        Self::LengthOverPosted,
        Self::Channel,
        Self::Abandoned,
        Self::KickBlocked,
        Self::BatchOverrun,
    ];

    /// A short stable name for counters and reports.
    #[must_use]
    pub const fn class(self) -> &'static str {
        match self {
            Self::UsedIndexJump => "used-index-jump",
            Self::IdOutOfRange => "id-out-of-range",
            Self::IdNotOutstanding => "id-not-outstanding",
            Self::IdNotHead => "id-not-head",
            Self::LengthOverPosted => "length-over-posted",
            Self::Channel => "channel",
            Self::Abandoned => "abandoned",
            Self::KickBlocked => "kick-blocked",
            Self::BatchOverrun => "batch-overrun",
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

/// Why the device is unusable until it is reset: it broke a rule of a ring or of the channel, or was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The virtqueue; [`NO_QUEUE`](Self::NO_QUEUE) if it is about the device as a whole.
    pub queue: u16,
    /// Which rule.
    pub kind: ViolationKind,
    /// The slot of the used ring, or of a packed one, at which it was seen.
    pub slot: u32,
    /// What the device wrote.
    pub observed: u64,
    /// The bound that it broke: the last lawful index, the last descriptor, the bytes posted.
    pub expected: u64,
}

impl Violation {
    /// In place of a queue: the violation is none of a ring.
    pub const NO_QUEUE: u16 = u16::MAX;

    /// A violation of the device as a whole.
    #[cfg(feature = "std")]
    pub(crate) const fn of_device(kind: ViolationKind) -> Self {
        Self { queue: Self::NO_QUEUE, kind, slot: 0, observed: 0, expected: 0 }
    }
}

impl core::error::Error for Violation {}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue, kind, slot, observed, expected } = *self;
        let class = kind.class();
        match kind {
            ViolationKind::Channel => {
                f.write_str("the device broke the rules of the vhost-user channel; reset the device or replace it")
            }
            ViolationKind::KickBlocked => f.write_str(
                "the device made a kick block by playing with its eventfd; reset the device, replace it, or do without kicks",
            ),
            ViolationKind::Abandoned => f.write_str("the device was given up by a reset that failed; reset it again"),
            ViolationKind::IdNotOutstanding | ViolationKind::IdNotHead => write!(
                f,
                "the device broke the rules of queue {queue}: {class} at slot {slot}, it gave back {observed:#x}; reset the device or replace it"
            ),
            _ => write!(
                f,
                "the device broke the rules of queue {queue}: {class} at slot {slot}, it wrote {observed:#x} where at most {expected:#x} was lawful; reset the device or replace it"
            ),
        }
    }
}

/// The first violation of a device, shared by all its queues. Once set it never changes.
///
/// All queues look at it with each burst, so it lies apart from whatever else is written.
#[derive(Debug, Default)]
#[repr(align(128))]
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
    fn every_kind_says_what_to_do() {
        for kind in ViolationKind::ALL {
            let text = alloc::string::ToString::to_string(&Violation { kind, ..FIRST });
            assert!(text.contains("reset"), "{text}");
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
