//! The packed virtqueue (section 2.8): one ring of descriptors that both sides write, and an event area of each side.
//!
//! A slot is two 64-bit words: the address, which only the driver writes, and length, buffer id and flags, which the side
//! that passes the slot on stores as one word. So there is no slot whose id belongs to other flags. All fields are
//! little-endian.

use crate::index::QueueSize;

/// Bytes of a slot: `addr: le64, len: le32, id: le16, flags: le16` (2.8.13).
pub const SLOT_BYTES: usize = 16;
/// Offset of the address in a slot.
pub const SLOT_ADDR: usize = 0;
/// Offset of length, id and flags in a slot.
pub const SLOT_REST: usize = 8;
/// Alignment of the ring in bytes (2.8.10.1).
pub const RING_ALIGN: usize = 16;

/// The chain goes on in the next slot.
pub const DESC_F_NEXT: u16 = 1;
/// The buffer is device-writable (otherwise device-readable). In a used slot: the device wrote to the buffer.
pub const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;
/// Made available in a round whose wrap counter is 1 (2.8.1).
pub const DESC_F_AVAIL: u16 = 1 << 7;
/// Used in a round whose wrap counter is 1.
pub const DESC_F_USED: u16 = 1 << 15;

/// Bytes of an event area: `off_wrap: le16, flags: le16` (2.8.14), stored and loaded as one word.
pub const EVENT_BYTES: usize = 4;
/// Alignment of an event area in bytes.
pub const EVENT_ALIGN: usize = 4;
/// The other side is to notify about everything.
pub const EVENT_F_ENABLE: u16 = 0;
/// The other side need not notify.
pub const EVENT_F_DISABLE: u16 = 1;
/// The other side is to notify about the slot in `off_wrap`; with `VIRTIO_F_EVENT_IDX` only.
pub const EVENT_F_DESC: u16 = 2;
/// The bits of `flags` that have a meaning; the others are reserved.
pub const EVENT_F_MASK: u16 = 3;

/// Bytes of the ring.
#[must_use]
pub const fn ring_bytes(size: QueueSize) -> usize {
    // At most 32768 * 16, far from overflow.
    SLOT_BYTES.saturating_mul(size.get() as usize)
}

/// The flags of a descriptor that is made available in a round with this wrap counter.
#[inline]
#[must_use]
pub const fn avail_flags(wrap: bool) -> u16 {
    if wrap { DESC_F_AVAIL } else { DESC_F_USED }
}

/// The flags of a descriptor that is used in a round with this wrap counter.
#[inline]
#[must_use]
pub const fn used_flags(wrap: bool) -> u16 {
    if wrap { DESC_F_AVAIL | DESC_F_USED } else { 0 }
}

/// Whether flags say that a slot was made available in a round with this wrap counter.
#[inline]
#[must_use]
pub const fn is_avail(flags: u16, wrap: bool) -> bool {
    flags & (DESC_F_AVAIL | DESC_F_USED) == avail_flags(wrap)
}

/// Whether flags say that a slot was used in a round with this wrap counter.
#[inline]
#[must_use]
pub const fn is_used(flags: u16, wrap: bool) -> bool {
    flags & (DESC_F_AVAIL | DESC_F_USED) == used_flags(wrap)
}

/// The second word of a slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotRest {
    /// Bytes of the buffer; in a used slot, bytes that the device says it wrote.
    pub len: u32,
    /// The buffer id, which is the driver's to choose; 16 bits on the wire.
    pub id: u16,
    /// `DESC_F_*`.
    pub flags: u16,
}

impl SlotRest {
    /// As one 64-bit word.
    #[inline]
    #[must_use]
    pub const fn to_word(self) -> u64 {
        (self.len as u64) | ((self.id as u64) << 32) | ((self.flags as u64) << 48)
    }

    /// Of one 64-bit word.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each cast takes the field's own bits out of the word")]
    pub const fn from_word(word: u64) -> Self {
        Self { len: word as u32, id: (word >> 32) as u16, flags: (word >> 48) as u16 }
    }
}

/// An event area: when one side wants to be notified by the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// A slot in 15 bits and the wrap counter in bit 15; with `EVENT_F_DESC` only.
    pub off_wrap: u16,
    /// `EVENT_F_*`.
    pub flags: u16,
}

impl Event {
    /// As one 32-bit word.
    #[inline]
    #[must_use]
    pub const fn to_word(self) -> u32 {
        (self.off_wrap as u32) | ((self.flags as u32) << 16)
    }

    /// Of one 32-bit word.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each cast takes the field's own bits out of the word")]
    pub const fn from_word(word: u32) -> Self {
        Self { off_wrap: word as u16, flags: (word >> 16) as u16 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::virtio_ring as kernel;

    #[test]
    fn layout_is_that_of_the_kernel_headers() {
        assert_eq!(SLOT_BYTES, size_of::<kernel::vring_packed_desc>());
        assert_eq!(EVENT_BYTES, size_of::<kernel::vring_packed_desc_event>());
        assert_eq!(SLOT_REST, std::mem::offset_of!(kernel::vring_packed_desc, len));
        assert_eq!(u32::from(DESC_F_AVAIL), 1 << kernel::VRING_PACKED_DESC_F_AVAIL);
        assert_eq!(u32::from(DESC_F_USED), 1 << kernel::VRING_PACKED_DESC_F_USED);
        assert_eq!(u32::from(EVENT_F_ENABLE), kernel::VRING_PACKED_EVENT_FLAG_ENABLE);
        assert_eq!(u32::from(EVENT_F_DISABLE), kernel::VRING_PACKED_EVENT_FLAG_DISABLE);
        assert_eq!(u32::from(EVENT_F_DESC), kernel::VRING_PACKED_EVENT_FLAG_DESC);
    }

    #[test]
    fn words_round_trip() {
        let rest = SlotRest { len: 0x1122_3344, id: 0x5566, flags: 0x7788 };
        assert_eq!(SlotRest::from_word(rest.to_word()), rest);
        assert_eq!(rest.to_word().to_le_bytes(), [0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x88, 0x77]);
        let event = Event { off_wrap: 0x8123, flags: 2 };
        assert_eq!(Event::from_word(event.to_word()), event);
        assert_eq!(event.to_word().to_le_bytes(), [0x23, 0x81, 2, 0]);
    }

    /// All four states of the two bits, in both rounds.
    #[test]
    fn a_slot_is_available_used_or_neither() {
        for flags in [0, DESC_F_AVAIL, DESC_F_USED, DESC_F_AVAIL | DESC_F_USED] {
            let says = |wrap| (is_avail(flags, wrap), is_used(flags, wrap));
            let expected = match flags {
                0 => [(false, false), (false, true)],
                DESC_F_AVAIL => [(true, false), (false, false)],
                DESC_F_USED => [(false, false), (true, false)],
                _ => [(false, true), (false, false)],
            };
            assert_eq!([says(true), says(false)], expected, "{flags:#x}");
        }
    }
}
