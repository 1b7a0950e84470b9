//! The words that an attacker on the device's side looks at and steps on.
//!
//! All loads of the hostile mode are here. What comes out may be any bits: it picks targets, and every number is brought
//! into range before it is used.

use ironring_common::index::{DescId, QueueSize, SplitIndex};
use ironring_common::shm::mapping::Area;
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{
    AVAIL_ENTRY_BYTES, AVAIL_IDX, AVAIL_RING, DESC_BYTES, Descriptor, USED_ELEM_BYTES, USED_RING, UsedElem,
};

/// One of the two words of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// The address.
    Address,
    /// Length, flags and next.
    Rest,
}

impl Word {
    pub(super) const BOTH: [Self; 2] = [Self::Address, Self::Rest];

    pub(super) const fn index(self) -> usize {
        match self {
            Self::Address => 0,
            Self::Rest => 1,
        }
    }

    pub(super) const fn other(self) -> Self {
        match self {
            Self::Address => Self::Rest,
            Self::Rest => Self::Address,
        }
    }

    /// Where the word of a descriptor lies in its table.
    const fn at(self, id: DescId) -> usize {
        id.index().wrapping_mul(DESC_BYTES).wrapping_add(self.index().wrapping_mul(8))
    }
}

/// A word of the descriptor table.
pub(super) fn load(desc: &Area, id: DescId, word: Word) -> u64 {
    desc.load_u64(word.at(id))
}

/// Exchanges a word of the descriptor table if it holds `from`.
pub(super) fn replace(desc: &Area, id: DescId, word: Word, from: u64, to: u64) -> bool {
    desc.bytes().replace_u64(word.at(id), from, to)
}

/// A descriptor as it stands, in two loads.
pub(super) fn descriptor(desc: &Area, id: DescId) -> Descriptor {
    Descriptor::from_words(Word::BOTH.map(|word| load(desc, id, word)))
}

/// The available index. Acquire, so that the entries and descriptors behind it are seen.
pub(super) fn avail_idx(avail: &Area) -> u16 {
    avail.load_u16_acquire(AVAIL_IDX)
}

/// Exchanges the available index if it holds `from`.
pub(super) fn replace_avail_idx(avail: &Area, from: u16, to: u16) -> bool {
    avail.bytes().replace_u16(AVAIL_IDX, from, to)
}

/// The available entry of a free-running index, if it names a descriptor.
pub(super) fn avail_entry(avail: &Area, index: u16, size: QueueSize) -> Option<DescId> {
    let slot = usize::from(size.slot(SplitIndex(index)));
    DescId::below(avail.load_u16(AVAIL_RING.wrapping_add(slot.wrapping_mul(AVAIL_ENTRY_BYTES))), size)
}

/// Stores a used element at a free-running index, in stores of the size that the honest ring uses there.
pub(super) fn store_used(used: &Area, index: u16, size: QueueSize, elem: UsedElem) {
    let slot = usize::from(size.slot(SplitIndex(index)));
    let at = USED_RING.wrapping_add(slot.wrapping_mul(USED_ELEM_BYTES));
    if used.is_aligned(at, USED_ELEM_BYTES) {
        used.store_u64(at, elem.to_word());
    } else {
        used.store_u32(at, elem.id);
        used.store_u32(at.wrapping_add(4), elem.len);
    }
}
