//! The driver's trust boundary: the only file that loads memory which the device can write.
//!
//! The complete list of what is loaded, each word once per decision:
//!
//! - `used.idx`, by an Acquire load, checked against the window of what was published and is not back;
//! - a used element, by one 64-bit load, its id redeemed by the ledger at full width, its length checked against what
//!   was posted writable;
//! - `used.flags`, a hint about kicks;
//! - the bytes of a completed device-writable buffer, as many as the checked length says, by one copy to private memory.
//!
//! Never a descriptor, an entry of the available ring, a buffer that the device only reads, or a word that this side
//! wrote. A test double counts the loads and fails on any other.

use ironring_common::claim::Alleged;
use ironring_common::index::{QueueSize, SplitIndex};
use ironring_common::shm::view::Theirs;
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{self, UsedElem};

use crate::queue::violation::{Fault, ViolationKind};

/// The used ring of one split virtqueue, as this side reads it.
#[derive(Debug)]
pub(crate) struct UsedRing<W> {
    words: Theirs<W>,
    size: QueueSize,
}

impl<W: Words> UsedRing<W> {
    pub(crate) const fn new(words: Theirs<W>, size: QueueSize) -> Self {
        Self { words, size }
    }

    /// How many completions there are after `last`: the device's index, which may be ahead by the `held` chains at most.
    #[inline]
    pub(crate) fn completions(&self, last: SplitIndex, held: u16) -> Result<u16, Fault> {
        // Acquire: pairs with the device's Release store of used.idx, and orders the loads of the elements after it.
        let index = self.words.load_index_alleged(split::USED_IDX);
        index.check_window(last.0, held).map_err(|refused| Fault {
            kind: ViolationKind::UsedIndexJump,
            slot: u32::from(self.size.slot(last)),
            observed: u64::from(refused.observed),
            expected: u64::from(last.advance(held).0),
        })
    }

    /// The used element of one completion: id and length, from one load.
    #[inline]
    pub(crate) fn element(&self, index: SplitIndex) -> (Alleged<u32>, Alleged<u32>) {
        let slot = usize::from(self.size.slot(index));
        let at = slot.wrapping_mul(split::USED_ELEM_BYTES).wrapping_add(split::USED_RING);
        let elem = self.words.load_u64_alleged(at).map(UsedElem::from_word);
        elem.map(|e| (e.id, e.len)).split()
    }

    /// Whether the device asks to be kicked.
    #[inline]
    pub(crate) fn kick_wanted(&self) -> bool {
        let flags = self.words.load_u16_alleged(split::USED_FLAGS);
        let flags = flags.check_advisory("a wrong flag costs a kick too many, or a delay that polling bounds");
        flags & split::USED_F_NO_NOTIFY == 0
    }
}

/// Copies `to.len()` bytes of a completed device-writable buffer to private memory. The caller has checked the length
/// against what was posted; the position comes from its private record.
#[inline]
pub(crate) fn copy_completed<W: Words>(area: &Theirs<W>, at: usize, to: &mut [u8]) {
    area.copy_out_alleged(at, to);
}
