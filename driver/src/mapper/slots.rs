//! One slot for each descriptor, for ever.
//!
//! Descriptor `i` always points to slot `i`. A receive descriptor is then written once in its life, a transmit descriptor
//! changes in its length only, and there is nothing to look up, allocate or free. Slots are spaced so that equal offsets
//! in neighbouring slots do not fall into the same cache sets.
//!
//! The slots of descriptors that follow one another are *scattered*. At a constant distance, the processor that reads them
//! guesses which one comes next and fetches its lines while the other side is writing them, which takes them away from it:
//! each line then travels twice. Where reader and writer keep close, scattering alone brought up to 1.8 times as many frames.

use ironring_common::index::{DescId, GuestAddr, QueueSize};
#[cfg(feature = "std")]
use ironring_common::spec::split::{DESC_F_WRITE, Descriptor};

use super::{Direction, MapRecord, Mapped, Mapper};

/// The slots of one network queue.
#[derive(Clone, Copy, Debug)]
pub struct FixedSlots {
    base: GuestAddr,
    stride: u32,
    len: u32,
    /// Of blocks of so many slots less one, a power of two, each is scattered in itself.
    block_mask: u16,
}

/// What of its slot a descriptor covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotPart {
    /// Where it begins, in bytes from the start of the slot.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

impl SlotPart {
    /// The first bytes of the slot.
    #[inline]
    #[must_use]
    pub const fn first(len: u32) -> Self {
        Self { offset: 0, len }
    }
}

/// A part that no slot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes do not fit into a slot of {slot}; send smaller frames or make the slots larger")]
pub struct SlotTooSmall {
    /// Bytes from the start of the slot to the end of the part.
    pub len: u32,
    /// Bytes of a slot.
    pub slot: u32,
}

impl FixedSlots {
    /// Slots of `len` bytes, `stride` bytes apart, the first one at `base`, in the order of their descriptors.
    #[must_use]
    pub const fn new(base: GuestAddr, stride: u32, len: u32) -> Self {
        Self { base, stride, len, block_mask: 0 }
    }

    /// The same slots scattered over the memory of all of them, for a queue of `size`: in blocks of as many as the largest
    /// power of two by which its size can be divided.
    #[must_use]
    pub const fn scattered(self, size: QueueSize) -> Self {
        // A size is 1 at least, so the power is one of 2^0 to 2^15.
        let block = 1u16.wrapping_shl(size.get().trailing_zeros());
        Self { block_mask: block.wrapping_sub(1), ..self }
    }

    /// Which of the slots in memory is the descriptor's: another one for each.
    #[inline(always)]
    fn place(&self, id: DescId) -> u32 {
        let (id, mask) = (u32::from(id.get()), u32::from(self.block_mask));
        // An odd factor and a shift to the right can both be undone in the bits of the mask, so no two ids meet.
        let mixed = id.wrapping_mul(SCATTER) & mask;
        (id & !mask) | (mixed ^ (mixed >> 3))
    }

    /// Offset of a descriptor's slot from the first one, in bytes.
    #[inline]
    #[must_use]
    pub fn offset(&self, id: DescId) -> usize {
        // 32768 slots, each at most 64 KiB and two lines from the next: far from overflow.
        (self.place(id) as usize).wrapping_mul(self.stride as usize)
    }

    /// Where the device finds a descriptor's slot.
    #[inline]
    #[must_use]
    pub fn addr(&self, id: DescId) -> GuestAddr {
        // 32768 slots, each at most 64 KiB and two lines from the next: far from overflow.
        GuestAddr(self.base.0.wrapping_add(u64::from(self.place(id)).wrapping_mul(u64::from(self.stride))))
    }

    /// Offset from the first slot of the one that [`addr`](Self::addr) gave this for, in bytes.
    #[inline(always)]
    #[must_use]
    pub fn offset_of(&self, addr: GuestAddr) -> usize {
        // What was handed out lies behind the base, by less than 2^32: see `offset`.
        usize::try_from(addr.0.wrapping_sub(self.base.0)).unwrap_or(usize::MAX)
    }

    /// What a descriptor says that stands for its whole slot.
    #[cfg(feature = "std")]
    pub(crate) fn descriptor(&self, id: DescId, direction: Direction) -> Descriptor {
        let flags = if direction == Direction::FromDevice { DESC_F_WRITE } else { 0 };
        Descriptor { addr: self.addr(id).0, len: self.len, flags, next: 0 }
    }

    /// Bytes of a slot.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether slots have no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Mapper for FixedSlots {
    type Buffer = SlotPart;
    type Error = SlotTooSmall;

    #[inline]
    fn map(&mut self, id: DescId, buffer: &SlotPart, _direction: Direction) -> Result<Mapped, SlotTooSmall> {
        let end = buffer.offset.saturating_add(buffer.len);
        if end > self.len {
            return Err(SlotTooSmall { len: end, slot: self.len });
        }
        // Slots and what lies in them: far from overflow.
        Ok(Mapped { addr: GuestAddr(self.addr(id).0.wrapping_add(u64::from(buffer.offset))), len: buffer.len })
    }

    #[inline]
    fn unmap(&mut self, _record: MapRecord, _written: u32) -> Result<(), SlotTooSmall> {
        Ok(())
    }
}

/// Odd, and far from the powers of two.
const SCATTER: u32 = 157;

#[cfg(test)]
mod tests {
    use super::*;

    /// Of every size.
    #[test]
    fn each_descriptor_has_a_slot_of_its_own() {
        for size in (1..=1024).chain([3000, 4096, 32768]) {
            let queue = QueueSize::packed(size).unwrap();
            let slots = FixedSlots::new(GuestAddr(0x1000), 64, 60).scattered(queue);
            let mut seen = vec![false; usize::from(size)];
            for id in (0..size).filter_map(|id| DescId::below(id, queue)) {
                let place = slots.offset(id) / 64;
                assert!(!std::mem::replace(&mut seen[place], true), "{size}: {place} twice");
                assert_eq!(slots.addr(id).0, 0x1000 + slots.offset(id) as u64);
            }
            assert!(seen.iter().all(|seen| *seen), "{size}");
        }
    }

    #[test]
    fn distances_from_slot_to_slot_are_many() {
        let queue = QueueSize::split(256).unwrap();
        let slots = FixedSlots::new(GuestAddr(0), 64, 60).scattered(queue);
        let at = |id| DescId::below(id, queue).map_or(0, |id| slots.offset(id));
        let distances: std::collections::BTreeSet<_> =
            (0..255).map(|id| at(id + 1).wrapping_sub(at(id)).cast_signed()).collect();
        assert!(distances.len() > 8, "{distances:?}");
        let repeated = (0..254).filter(|id| at(id + 1).wrapping_sub(at(*id)) == at(id + 2).wrapping_sub(at(id + 1)));
        assert!(repeated.count() < 64, "no distance holds for long");
    }
}
