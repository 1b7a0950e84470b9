//! The split virtqueue (section 2.7): descriptor table, available ring, used ring.
//!
//! The driver writes the first two and the device writes the last. All fields are little-endian.

use crate::index::QueueSize;

/// Bytes of a descriptor: `addr: le64, len: le32, flags: le16, next: le16` (2.7.5).
pub const DESC_BYTES: usize = 16;
/// Alignment of the descriptor table in bytes (2.7).
pub const DESC_ALIGN: usize = 16;
/// Alignment of the available ring in bytes.
pub const AVAIL_ALIGN: usize = 2;
/// Alignment of the used ring in bytes.
pub const USED_ALIGN: usize = 4;

/// The buffer goes on in the descriptor `next`.
pub const DESC_F_NEXT: u16 = 1;
/// The buffer is device-writable (otherwise device-readable).
pub const DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const DESC_F_INDIRECT: u16 = 4;

/// Offset of `flags` in the available ring (2.7.6).
pub const AVAIL_FLAGS: usize = 0;
/// Offset of `idx` in the available ring.
pub const AVAIL_IDX: usize = 2;
/// Offset of the first entry of the available ring.
pub const AVAIL_RING: usize = 4;
/// Bytes of an entry of the available ring.
pub const AVAIL_ENTRY_BYTES: usize = 2;
/// In `avail.flags`: the driver does not want to be interrupted.
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;

/// Offset of `flags` in the used ring (2.7.8).
pub const USED_FLAGS: usize = 0;
/// Offset of `idx` in the used ring.
pub const USED_IDX: usize = 2;
/// Offset of the first element of the used ring.
pub const USED_RING: usize = 4;
/// Bytes of a used element: `id: le32, len: le32`.
pub const USED_ELEM_BYTES: usize = 8;
/// In `used.flags`: the device does not want to be kicked.
pub const USED_F_NO_NOTIFY: u16 = 1;

/// Bytes of the descriptor table.
#[must_use]
pub const fn desc_bytes(size: QueueSize) -> usize {
    // At most 32768 * 16, far from overflow.
    DESC_BYTES.saturating_mul(size.get() as usize)
}

/// Bytes of the available ring, with `used_event` at its end.
#[must_use]
pub const fn avail_bytes(size: QueueSize) -> usize {
    AVAIL_ENTRY_BYTES.saturating_mul(size.get() as usize).saturating_add(AVAIL_RING).saturating_add(2)
}

/// Bytes of the used ring, with `avail_event` at its end.
#[must_use]
pub const fn used_bytes(size: QueueSize) -> usize {
    USED_ELEM_BYTES.saturating_mul(size.get() as usize).saturating_add(USED_RING).saturating_add(2)
}

/// Offset of `used_event` in the available ring: with `VIRTIO_F_EVENT_IDX`, the used index at which the driver wants to be
/// interrupted (2.7.10).
#[must_use]
pub const fn used_event_at(size: QueueSize) -> usize {
    AVAIL_ENTRY_BYTES.saturating_mul(size.get() as usize).saturating_add(AVAIL_RING)
}

/// Offset of `avail_event` in the used ring: with `VIRTIO_F_EVENT_IDX`, the available index at which the device wants to be
/// kicked (2.7.10).
#[must_use]
pub const fn avail_event_at(size: QueueSize) -> usize {
    USED_ELEM_BYTES.saturating_mul(size.get() as usize).saturating_add(USED_RING)
}

/// A descriptor as it stands in the table. In private memory the last three fields lie as those of a packed ring's slot do, which
/// are then one word to load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// Address of the buffer.
    pub addr: u64,
    /// Bytes of the buffer.
    pub len: u32,
    /// Index of the next descriptor, if `DESC_F_NEXT` is set.
    pub next: u16,
    /// `DESC_F_*`.
    pub flags: u16,
}

/// As [`SlotRest`](super::packed::SlotRest) has them in its word.
#[cfg(target_endian = "little")]
const _: () = assert!(
    core::mem::offset_of!(Descriptor, len) == 8
        && core::mem::offset_of!(Descriptor, next) == 12
        && core::mem::offset_of!(Descriptor, flags) == 14
);

impl Descriptor {
    /// The two 64-bit words of the descriptor: address; length, flags and next.
    #[inline]
    #[must_use]
    pub const fn to_words(self) -> [u64; 2] {
        [self.addr, (self.len as u64) | ((self.flags as u64) << 32) | ((self.next as u64) << 48)]
    }

    /// The descriptor of two 64-bit words.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each cast takes the field's own bits out of the word")]
    pub const fn from_words(words: [u64; 2]) -> Self {
        let [addr, rest] = words;
        Self { addr, len: rest as u32, flags: (rest >> 32) as u16, next: (rest >> 48) as u16 }
    }
}

/// A used element: which chain was used, and how many bytes the device says it wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsedElem {
    /// Index of the head descriptor of the chain. 32 bits wide on the wire.
    pub id: u32,
    /// Bytes written to the device-writable part.
    pub len: u32,
}

impl UsedElem {
    /// The element as one 64-bit word.
    #[inline]
    #[must_use]
    pub const fn to_word(self) -> u64 {
        (self.id as u64) | ((self.len as u64) << 32)
    }

    /// The element of one 64-bit word.
    #[inline]
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "each cast takes the field's own bits out of the word")]
    pub const fn from_word(word: u64) -> Self {
        Self { id: word as u32, len: (word >> 32) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::virtio_ring as kernel;

    #[test]
    fn layout_is_that_of_the_kernel_headers() {
        assert_eq!(DESC_BYTES, size_of::<kernel::vring_desc>());
        assert_eq!(USED_ELEM_BYTES, size_of::<kernel::vring_used_elem>());
        assert_eq!(u32::from(DESC_F_NEXT), kernel::VRING_DESC_F_NEXT);
        assert_eq!(u32::from(DESC_F_WRITE), kernel::VRING_DESC_F_WRITE);
        assert_eq!(u32::from(DESC_F_INDIRECT), kernel::VRING_DESC_F_INDIRECT);
        assert_eq!(u32::from(AVAIL_F_NO_INTERRUPT), kernel::VRING_AVAIL_F_NO_INTERRUPT);
        assert_eq!(u32::from(USED_F_NO_NOTIFY), kernel::VRING_USED_F_NO_NOTIFY);
        assert_eq!(DESC_ALIGN as u32, kernel::VRING_DESC_ALIGN_SIZE);
        assert_eq!(AVAIL_ALIGN as u32, kernel::VRING_AVAIL_ALIGN_SIZE);
        assert_eq!(USED_ALIGN as u32, kernel::VRING_USED_ALIGN_SIZE);
    }

    #[test]
    fn words_round_trip() {
        let desc = Descriptor { addr: 0x0123_4567_89ab_cdef, len: 0x1122_3344, flags: 0x5566, next: 0x7788 };
        assert_eq!(Descriptor::from_words(desc.to_words()), desc);
        assert_eq!(desc.to_words()[1].to_le_bytes(), [0x44, 0x33, 0x22, 0x11, 0x66, 0x55, 0x88, 0x77]);
        let elem = UsedElem { id: 0xdead_beef, len: 0x0bad_cafe };
        assert_eq!(UsedElem::from_word(elem.to_word()), elem);
    }

    #[test]
    fn sizes_for_the_largest_queue() {
        let size = QueueSize::split(32768).unwrap();
        assert_eq!((desc_bytes(size), avail_bytes(size), used_bytes(size)), (524_288, 65_542, 262_150));
    }
}
