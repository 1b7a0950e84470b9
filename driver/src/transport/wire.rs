//! The messages as they travel: a header of three native-endian words, then a body without padding.
//!
//! The request codes and the bodies are those of `vhost::vhost_user::message`; only the header is ours, because theirs is
//! private.

use vhost::vhost_user::message::{FrontendReq, VhostUserHeaderFlag};

use super::error::ChannelViolation;

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 12;

/// One message to the backend.
pub(super) struct Message {
    pub(super) code: FrontendReq,
    bytes: Vec<u8>,
}

impl Message {
    /// A message whose body is `parts`, one behind the other.
    pub(super) fn new(code: FrontendReq, need_reply: bool, parts: &[&[u8]]) -> Self {
        let body = parts.concat();
        // No body here is longer than a memory table of eight regions.
        let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let ask = if need_reply { VhostUserHeaderFlag::NEED_REPLY.bits() } else { 0 };
        let header = [u32::from(code), VERSION | ask, size].map(u32::to_ne_bytes);
        Self { code, bytes: [header.as_flattened(), &body].concat() }
    }

    /// Header and body.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Checks the header of a reply to `sent` that is `expected` bytes long without the header.
///
/// NEED_REPLY is let pass: some backends send the flags of the request back, and in a reply the bit means nothing.
pub(super) fn check_reply(
    header: [u8; HEADER_BYTES],
    sent: FrontendReq,
    expected: usize,
) -> Result<(), ChannelViolation> {
    let [c0, c1, c2, c3, f0, f1, f2, f3, s0, s1, s2, s3] = header;
    let code = u32::from_ne_bytes([c0, c1, c2, c3]);
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let size = u32::from_ne_bytes([s0, s1, s2, s3]);
    let expected = u32::try_from(expected).unwrap_or(u32::MAX);
    if code != u32::from(sent) {
        return Err(ChannelViolation::WrongCode { sent, got: code });
    }
    let version = flags & VhostUserHeaderFlag::VERSION.bits();
    if version != VERSION {
        return Err(ChannelViolation::WrongVersion { sent, got: version });
    }
    if flags & VhostUserHeaderFlag::REPLY.bits() == 0 {
        return Err(ChannelViolation::NotAReply { sent, flags });
    }
    if flags & VhostUserHeaderFlag::RESERVED_BITS.bits() != 0 {
        return Err(ChannelViolation::ReservedFlags { sent, flags });
    }
    if size != expected {
        return Err(ChannelViolation::WrongSize { sent, expected, got: size });
    }
    Ok(())
}

/// The only version of the protocol.
const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use vhost::vhost_user::message::{VhostUserConfig, VhostUserMemoryRegion, VhostUserU64, VhostUserVringAddr};

    #[test]
    fn bodies_have_no_padding() {
        assert_eq!(size_of::<VhostUserU64>(), 8);
        assert_eq!(size_of::<VhostUserConfig>(), 12);
        assert_eq!(size_of::<VhostUserMemoryRegion>(), 32);
        assert_eq!(size_of::<VhostUserVringAddr>(), 40);
    }

    #[test]
    fn a_message_is_its_header_and_its_parts() {
        let message = Message::new(FrontendReq::SET_OWNER, true, &[&[1, 2], &[3]]);
        let header = [3u32, 1 | 8, 3].map(u32::to_ne_bytes);
        assert_eq!(message.as_bytes(), [header.as_flattened(), &[1, 2, 3]].concat());
    }

    /// Every value of the low flag bits, and one reserved bit: exactly version 1 with the reply bit is accepted.
    #[test]
    fn flags_are_checked_to_the_bit() {
        for flags in 0..32u32 {
            let header = [1, flags, 8].map(u32::to_ne_bytes);
            let header = header.as_flattened().try_into().unwrap();
            assert_eq!(check_reply(header, FrontendReq::GET_FEATURES, 8).is_ok(), flags & !8 == 5, "{flags:#x}");
        }
    }
}
