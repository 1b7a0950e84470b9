//! One slot for each descriptor, for ever.
//!
//! Descriptor `i` always points to slot `i`. A receive descriptor is then written once in its life, a transmit descriptor
//! changes in its length only, and there is nothing to look up, allocate or free. Slots are spaced so that equal offsets
//! in neighbouring slots do not fall into the same cache sets.

use ironring_common::index::{DescId, GuestAddr};

use super::{Direction, MapRecord, Mapped, Mapper};

/// The slots of one network queue.
#[derive(Clone, Copy, Debug)]
pub struct FixedSlots {
    base: GuestAddr,
    stride: u32,
    len: u32,
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
    /// Slots of `len` bytes, `stride` bytes apart, the first one at `base`.
    #[must_use]
    pub const fn new(base: GuestAddr, stride: u32, len: u32) -> Self {
        Self { base, stride, len }
    }

    /// Offset of a descriptor's slot from the first one, in bytes.
    #[inline]
    #[must_use]
    pub fn offset(&self, id: DescId) -> usize {
        // 32768 slots of less than 64 KiB: far from overflow.
        id.index().wrapping_mul(self.stride as usize)
    }

    /// Where the device finds a descriptor's slot.
    #[inline]
    #[must_use]
    pub fn addr(&self, id: DescId) -> GuestAddr {
        // 32768 slots of less than 64 KiB: far from overflow.
        GuestAddr(self.base.0.wrapping_add(u64::from(id.get()).wrapping_mul(u64::from(self.stride))))
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
        // 32768 slots of less than 64 KiB: far from overflow.
        let slot = u64::from(id.get()).wrapping_mul(u64::from(self.stride));
        let offset = slot.wrapping_add(u64::from(buffer.offset));
        Ok(Mapped { addr: GuestAddr(self.base.0.wrapping_add(offset)), len: buffer.len })
    }

    #[inline]
    fn unmap(&mut self, _record: MapRecord, _written: u32) -> Result<(), SlotTooSmall> {
        Ok(())
    }
}
