//! The network device (section 5.1): the header before every frame, and the configuration space.

/// Bytes of `struct virtio_net_hdr` with `num_buffers`, as VERSION_1 has it whether or not buffers are merged (5.1.6).
pub const HDR_BYTES: usize = 12;
/// The same, as lengths on the wire are counted.
pub const HDR_LEN: u32 = 12;
const _: () = assert!(HDR_LEN as usize == HDR_BYTES);
/// Offset of the flags in the net header.
pub const HDR_FLAGS: usize = 0;
/// Offset of the segmentation type in the net header.
pub const HDR_GSO_TYPE: usize = 1;
/// Bytes of an Ethernet header: destination, source, type.
pub const ETH_HEADER_BYTES: usize = 14;
/// The same, as lengths on the wire are counted.
pub const ETH_HEADER_LEN: u32 = 14;
const _: () = assert!(ETH_HEADER_LEN as usize == ETH_HEADER_BYTES);
/// Bytes that a VLAN tag adds to an Ethernet header.
pub const VLAN_TAG_LEN: u32 = 4;

/// In `flags`: checksum from `csum_start`, put at `csum_start + csum_offset`.
pub const HDR_F_NEEDS_CSUM: u8 = 1;
/// In `flags`: the device says that checksums are valid.
pub const HDR_F_DATA_VALID: u8 = 2;
/// `gso_type`: an ordinary frame.
pub const GSO_NONE: u8 = 0;

/// Offset of the MAC address in the configuration space (5.1.4), 6 bytes.
pub const CONFIG_MAC: usize = 0;
/// Offset of the link status, le16, valid with `VIRTIO_NET_F_STATUS`.
pub const CONFIG_STATUS: usize = 6;
/// Offset of the number of queue pairs, le16, valid with `VIRTIO_NET_F_MQ`.
pub const CONFIG_MAX_PAIRS: usize = 8;
/// Offset of the MTU, le16, valid with `VIRTIO_NET_F_MTU`.
pub const CONFIG_MTU: usize = 10;
/// Bytes of the configuration space up to and with the MTU.
pub const CONFIG_BYTES: usize = 12;
/// In the link status: the link is up.
pub const STATUS_LINK_UP: u16 = 1;
/// The smallest MTU that a driver accepts (5.1.4.2: a device must not offer less).
pub const MTU_MIN: u16 = 68;

/// The header before every frame, decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// `HDR_F_*`.
    pub flags: u8,
    /// `GSO_*`.
    pub gso_type: u8,
    /// Bytes of the headers, for segmentation. A hint; nobody may rely on it.
    pub hdr_len: u16,
    /// Bytes of payload a segment.
    pub gso_size: u16,
    /// Where the checksum starts.
    pub csum_start: u16,
    /// Where, after `csum_start`, it is put.
    pub csum_offset: u16,
    /// Receive buffers that this frame spans.
    pub num_buffers: u16,
}

impl Header {
    /// The header of an ordinary received frame in one buffer.
    pub const PLAIN_RX: Self =
        Self { flags: 0, gso_type: GSO_NONE, hdr_len: 0, gso_size: 0, csum_start: 0, csum_offset: 0, num_buffers: 1 };

    /// The bytes on the wire.
    #[inline]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; HDR_BYTES] {
        let hl = self.hdr_len.to_le_bytes();
        let gs = self.gso_size.to_le_bytes();
        let cs = self.csum_start.to_le_bytes();
        let co = self.csum_offset.to_le_bytes();
        let nb = self.num_buffers.to_le_bytes();
        let [hl0, hl1] = hl;
        let [gs0, gs1] = gs;
        let [cs0, cs1] = cs;
        let [co0, co1] = co;
        let [nb0, nb1] = nb;
        [self.flags, self.gso_type, hl0, hl1, gs0, gs1, cs0, cs1, co0, co1, nb0, nb1]
    }

    /// The header of the bytes on the wire. Decoding believes nothing: whether the values make sense is for the reader.
    #[inline]
    #[must_use]
    pub const fn from_bytes(bytes: [u8; HDR_BYTES]) -> Self {
        let [flags, gso_type, hl0, hl1, gs0, gs1, cs0, cs1, co0, co1, nb0, nb1] = bytes;
        Self {
            flags,
            gso_type,
            hdr_len: u16::from_le_bytes([hl0, hl1]),
            gso_size: u16::from_le_bytes([gs0, gs1]),
            csum_start: u16::from_le_bytes([cs0, cs1]),
            csum_offset: u16::from_le_bytes([co0, co1]),
            num_buffers: u16::from_le_bytes([nb0, nb1]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use virtio_bindings::virtio_net as kernel;

    #[test]
    fn layout_is_that_of_the_kernel_headers() {
        assert_eq!(HDR_BYTES, size_of::<kernel::virtio_net_hdr_v1>());
        assert_eq!(HDR_FLAGS, std::mem::offset_of!(kernel::virtio_net_hdr_v1, flags));
        assert_eq!(HDR_GSO_TYPE, std::mem::offset_of!(kernel::virtio_net_hdr_v1, gso_type));
        assert_eq!(u32::from(HDR_F_NEEDS_CSUM), kernel::VIRTIO_NET_HDR_F_NEEDS_CSUM);
        assert_eq!(u32::from(HDR_F_DATA_VALID), kernel::VIRTIO_NET_HDR_F_DATA_VALID);
        assert_eq!(u32::from(GSO_NONE), kernel::VIRTIO_NET_HDR_GSO_NONE);
        assert_eq!(CONFIG_STATUS, core::mem::offset_of!(kernel::virtio_net_config, status));
        assert_eq!(CONFIG_MAX_PAIRS, core::mem::offset_of!(kernel::virtio_net_config, max_virtqueue_pairs));
        assert_eq!(CONFIG_MTU, core::mem::offset_of!(kernel::virtio_net_config, mtu));
        assert_eq!(u32::from(STATUS_LINK_UP), kernel::VIRTIO_NET_S_LINK_UP);
    }

    #[test]
    fn headers_round_trip() {
        let header = Header {
            flags: 1,
            gso_type: 2,
            hdr_len: 0x0304,
            gso_size: 0x0506,
            csum_start: 0x0708,
            csum_offset: 0x090a,
            num_buffers: 0x0b0c,
        };
        assert_eq!(header.to_bytes(), [1, 2, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11]);
        assert_eq!(Header::from_bytes(header.to_bytes()), header);
    }
}
