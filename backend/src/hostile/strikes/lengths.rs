//! Lies about how much the device has written.

use ironring_common::spec::net::{ETH_HEADER_BYTES, HDR_BYTES};
use ironring_common::spec::split::UsedElem;

use super::Scene;

/// A31: more than was posted writable.
pub(super) fn over(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let posted = posted(scene);
    let over = scene.rng.pick(&[posted.saturating_add(1), posted.saturating_add(1 << 16), u64::from(u32::MAX)]);
    match u32::try_from(over.unwrap_or(u64::MAX)) {
        Ok(len) if posted > 0 => UsedElem { len, ..elem },
        _ => elem,
    }
}

/// A32: more than was posted, within what an allocator rounds it up to.
pub(super) fn slack(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let posted = posted(scene);
    let more = scene.rng.between(1, 16);
    if posted == 0 { elem } else { with(elem, posted.saturating_add(more)) }
}

/// A33: as if the readable bytes of the chain had been writable too. Other chains are no occasion for it.
pub(super) fn sum(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let source = scene.book.completing().and_then(|chain| chain.source).map_or(0, |(_, len)| u64::from(len));
    let posted = posted(scene);
    let more = scene.rng.between(1, source.max(1));
    if posted == 0 || source == 0 { elem } else { with(elem, posted.saturating_add(more)) }
}

/// A34: something was written where nothing is writable.
pub(super) fn of_readable(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let len = scene.rng.pick(&[1, 64, 2048, u64::from(u32::MAX)]).unwrap_or(1);
    if posted(scene) == 0 { with(elem, len) } else { elem }
}

/// A35: nothing was written.
pub(super) fn zero(elem: UsedElem, _scene: &mut Scene<'_>) -> UsedElem {
    UsedElem { len: 0, ..elem }
}

/// A36: less than a net header, or less than an Ethernet header after it.
pub(super) fn short_header(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let net = HDR_BYTES as u64;
    let low = scene.rng.between(1, net.saturating_sub(1));
    let high = scene.rng.between(net, HEADERS.saturating_sub(1));
    let short = u32::try_from(scene.rng.pick(&[low, high]).unwrap_or(low)).unwrap_or(1);
    if elem.len > short { UsedElem { len: short, ..elem } } else { elem }
}

/// A37: more than was written, within what was posted.
pub(super) fn over_claim(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let (written, posted) = (u64::from(elem.len), posted(scene));
    if written < posted { with(elem, scene.rng.between(written.saturating_add(1), posted)) } else { elem }
}

/// A38: less than was written, and still enough for headers.
pub(super) fn under_claim(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let written = u64::from(elem.len);
    if written > HEADERS { with(elem, scene.rng.between(HEADERS, written.saturating_sub(1))) } else { elem }
}

/// Bytes of the chain that the device may write.
fn posted(scene: &Scene<'_>) -> u64 {
    scene.book.completing().map_or(0, |chain| chain.writable_len)
}

fn with(elem: UsedElem, len: u64) -> UsedElem {
    u32::try_from(len).map_or(elem, |len| UsedElem { len, ..elem })
}

/// Bytes of a net header with an Ethernet header.
const HEADERS: u64 = HDR_BYTES.wrapping_add(ETH_HEADER_BYTES) as u64;
