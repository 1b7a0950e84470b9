//! A network layer that trusts the header before a frame, as drivers do that take what is there for what was negotiated.

use ironring_common::spec::net::{ETH_HEADER_BYTES, GSO_NONE, HDR_BYTES, HDR_F_NEEDS_CSUM, Header};

use super::{Bite, in_range};

/// Takes a frame of `written` bytes with its header, of which `bytes` lie in the first buffer.
///
/// # Errors
/// [`Bite`].
pub fn receive(bytes: &[u8], written: usize) -> Result<(), Bite> {
    let Some(header) = bytes.first_chunk::<HDR_BYTES>().map(|header| Header::from_bytes(*header)) else {
        return Ok(());
    };
    let frame = written.saturating_sub(HDR_BYTES);
    merge(header)?;
    in_range("copying the headers of a frame", header.hdr_len, frame as u64 + 1)?;
    if header.flags & HDR_F_NEEDS_CSUM != 0 {
        // Two bytes, at a place that it computes in 16 bits or more.
        let last = u64::from(header.csum_start) + u64::from(header.csum_offset) + 1;
        in_range("writing a checksum", last, frame as u64)?;
    }
    if header.gso_type != GSO_NONE {
        segment(header, frame, &bytes[HDR_BYTES..])?;
    }
    Ok(())
}

/// Collects the buffers that the frame is made of. The whole frame is here: what else is taken belongs to others.
fn merge(header: Header) -> Result<(), Bite> {
    // `while (--num_buffers)`
    let more = header.num_buffers.wrapping_sub(1);
    in_range("collecting the fragments of a frame", more, FRAGMENTS)?;
    if more > 0 {
        return Err(Bite::TookOthers { buffers: more });
    }
    Ok(())
}

/// Cuts the frame into segments.
fn segment(header: Header, frame: usize, bytes: &[u8]) -> Result<(), Bite> {
    if ![1, 3, 4, 5].contains(&(header.gso_type & 0x7f)) {
        return Err(Bite::Asserted { what: "the kind of segmentation is a known one" });
    }
    let Some(segments) = frame.checked_div(usize::from(header.gso_size)) else {
        return Err(Bite::Asserted { what: "no division is by zero" });
    };
    in_range("listing the segments of a frame", segments as u64, SEGMENTS)?;
    // The header of TCP stands where the one of IP says, which is believed to be there.
    let ip = bytes.get(ETH_HEADER_BYTES).copied().unwrap_or(0);
    let tcp = ETH_HEADER_BYTES + 4 * usize::from(ip & 0x0f) + TCP_BYTES;
    in_range("reading the header of TCP", tcp as u64, frame as u64)?;
    if ip >> 4 != 4 && ip >> 4 != 6 {
        return Err(Bite::Asserted { what: "a frame to be segmented is one of IP" });
    }
    Ok(())
}

/// Fragments that a frame may have.
const FRAGMENTS: u16 = 17;
/// Segments that its list has room for.
const SEGMENTS: u16 = 64;
/// Bytes of the header of TCP without options.
const TCP_BYTES: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn received(header: Header) -> Result<(), Bite> {
        let mut bytes = [0xd7; 200];
        bytes[..HDR_BYTES].copy_from_slice(&header.to_bytes());
        receive(&bytes, bytes.len())
    }

    #[test]
    fn a_plain_frame_is_taken() {
        assert_eq!(received(Header::PLAIN_RX), Ok(()));
    }

    #[test]
    fn every_lie_is_believed() {
        let plain = Header::PLAIN_RX;
        for header in [
            Header { num_buffers: 0, ..plain },
            Header { num_buffers: 2, ..plain },
            Header { hdr_len: 189, ..plain },
            Header { flags: 1, csum_start: 187, ..plain },
            Header { flags: 1, csum_start: 0xffff, csum_offset: 2, ..plain },
            Header { gso_type: 1, gso_size: 0, ..plain },
            Header { gso_type: 1, gso_size: 1, ..plain },
            Header { gso_type: 0x40, gso_size: 100, ..plain },
            Header { gso_type: 1, gso_size: 536, ..plain },
        ] {
            assert!(received(header).is_err(), "{header:?}");
        }
    }
}
