//! The words that an attacker on the device's side looks at and steps on.
//!
//! All loads of the hostile mode are here. What comes out may be any bits: it picks targets, and every number is brought
//! into range before it is used.

use ironring_common::index::{DescId, QueueSize, SplitIndex};
use ironring_common::shm::area::Area;
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::SlotRest;
use ironring_common::spec::split::{
    AVAIL_ENTRY_BYTES, AVAIL_IDX, AVAIL_RING, DESC_BYTES, Descriptor, USED_ELEM_BYTES, USED_RING, UsedElem,
};

/// One of the two words of a descriptor, or of a slot.
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

/// A word of the descriptor table, or of the slots.
pub(super) fn load(desc: &Area, id: DescId, word: Word) -> u64 {
    desc.load_u64(word.at(id))
}

/// Exchanges a word of the descriptor table, or of the slots, if it holds `from`.
pub(super) fn replace(desc: &Area, id: DescId, word: Word, from: u64, to: u64) -> bool {
    desc.bytes().replace_u64(word.at(id), from, to)
}

/// What both layouts have in the second word of a descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) len: u32,
    pub(super) flags: u16,
    /// The next descriptor; in a packed ring, the id.
    pub(super) link: u16,
}

impl Fields {
    pub(super) fn from_word(word: u64, packed: bool) -> Self {
        if packed {
            let SlotRest { len, id, flags } = SlotRest::from_word(word);
            Self { len, flags, link: id }
        } else {
            let Descriptor { len, flags, next, .. } = Descriptor::from_words([0, word]);
            Self { len, flags, link: next }
        }
    }

    pub(super) fn to_word(self, packed: bool) -> u64 {
        let Self { len, flags, link } = self;
        if packed {
            SlotRest { len, id: link, flags }.to_word()
        } else {
            let [_, rest] = Descriptor { addr: 0, len, flags, next: link }.to_words();
            rest
        }
    }
}

/// The second word of a slot. Acquire, so that the rest of the chain is seen behind it.
pub(super) fn slot(ring: &Area, id: DescId) -> SlotRest {
    SlotRest::from_word(ring.load_u64_acquire(Word::Rest.at(id)))
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
