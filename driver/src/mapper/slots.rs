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

/// How many bytes of its slot a descriptor covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotLen(pub u32);

/// A length that no slot has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes do not fit into a slot of {slot}; send smaller frames or make the slots larger")]
pub struct SlotTooSmall {
    /// Bytes asked for.
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
    type Buffer = SlotLen;
    type Error = SlotTooSmall;

    #[inline]
    fn map(&mut self, id: DescId, buffer: &SlotLen, _direction: Direction) -> Result<Mapped, SlotTooSmall> {
        if buffer.0 > self.len {
            return Err(SlotTooSmall { len: buffer.0, slot: self.len });
        }
        let offset = u64::from(id.get()).wrapping_mul(u64::from(self.stride));
        Ok(Mapped { addr: GuestAddr(self.base.0.wrapping_add(offset)), len: buffer.0 })
    }

    #[inline]
    fn unmap(&mut self, _record: MapRecord, _written: u32) -> Result<(), SlotTooSmall> {
        Ok(())
    }
}
