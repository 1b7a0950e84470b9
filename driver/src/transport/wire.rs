//! The framing of vhost-user messages. The bodies are those of the `vhost` crate.

use super::error::ChannelViolation;

/// Bytes of a header: request, flags, size of the body, each 32 bits in the machine's order.
pub(super) const HEADER_BYTES: usize = 12;

const VERSION: u32 = 1;
const REPLY: u32 = 1 << 2;
const NEED_REPLY: u32 = 1 << 3;

/// A message header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) request: u32,
    flags: u32,
    size: u32,
}

impl Header {
    /// The header of a request with a body of `size` bytes.
    pub(super) fn request(request: u32, size: usize, need_reply: bool) -> Self {
        let flags = if need_reply { VERSION | NEED_REPLY } else { VERSION };
        Self { request, flags, size: u32::try_from(size).unwrap_or(u32::MAX) }
    }

    pub(super) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let [a0, a1, a2, a3] = self.request.to_ne_bytes();
        let [b0, b1, b2, b3] = self.flags.to_ne_bytes();
        let [c0, c1, c2, c3] = self.size.to_ne_bytes();
        [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3]
    }

    pub(super) fn from_bytes(bytes: [u8; HEADER_BYTES]) -> Self {
        let [a0, a1, a2, a3, b0, b1, b2, b3, c0, c1, c2, c3] = bytes;
        Self {
            request: u32::from_ne_bytes([a0, a1, a2, a3]),
            flags: u32::from_ne_bytes([b0, b1, b2, b3]),
            size: u32::from_ne_bytes([c0, c1, c2, c3]),
        }
    }

    /// Whether this is the header of a reply to `request` with exactly `size` bytes. Nothing is allocated by its word.
    pub(super) fn check_reply(self, request: u32, size: usize) -> Result<(), ChannelViolation> {
        if self.request != request {
            return Err(ChannelViolation::WrongCode { sent: request, got: self.request });
        }
        if self.flags != VERSION | REPLY {
            return Err(ChannelViolation::WrongFlags { flags: self.flags });
        }
        let expected = u32::try_from(size).unwrap_or(u32::MAX);
        if self.size != expected {
            return Err(ChannelViolation::WrongSize { expected, got: self.size });
        }
        Ok(())
    }
}
