//! To the guest: frames of the port go into chains.

use ironring_common::shm::table::RegionTable;
use ironring_common::shm::view::Ours;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::{HDR_BYTES, Header};

use super::BURST;
use super::tx::outside;
use crate::port::Port;
use crate::stats::{DropReason, Tally};
use crate::vring::chain::{Chain, Segment};
use crate::vring::hook::Hook;
use crate::vring::split::SplitVring;

/// What a burst did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Chains completed.
    pub chains: u16,
    /// Frames dropped because the chain at hand was too small.
    pub dropped: u16,
}

/// Serves at most [`BURST`] frames that the port has, from the chains that the last poll saw. It ends early when there
/// are no more frames or chains, or at a fault, which is then latched in the ring; the frame stays in the port.
///
/// A frame that does not fit into the next chain is dropped, and the chain stays on the ring for a frame that fits.
#[inline]
pub fn burst<W: Words, P: Port, H: Hook>(
    vring: &mut SplitVring<W>,
    chain: &mut Chain,
    memory: &RegionTable,
    port: &mut P,
    hook: &mut H,
    tally: &mut Tally,
) -> Delivered {
    let mut done = Delivered::default();
    while done.chains.wrapping_add(done.dropped) < BURST {
        let Some(frame) = port.rx_peek() else { break };
        let Ok(true) = vring.next_chain(chain) else { break };
        let need = HDR_BYTES.saturating_add(frame.len());
        match u32::try_from(need) {
            Ok(written) if u64::from(written) <= chain.writable_len() => {
                if let Err(segment) = scatter(chain.writable(), memory, frame) {
                    outside(vring, chain, segment);
                    break;
                }
                tally.frame(frame.len());
                vring.complete(hook, chain.head(), written);
                done.chains = done.chains.wrapping_add(1);
            }
            _ => {
                vring.undo();
                tally.drop_packet(DropReason::RxSmallBuffer);
                done.dropped = done.dropped.wrapping_add(1);
            }
        }
        port.rx_consume();
    }
    tally.used_entries = tally.used_entries.wrapping_add(u64::from(done.chains));
    done
}

/// Writes header and frame over the segments, which have room for both; the segment that leads nowhere, if there is one.
#[inline]
fn scatter(segments: &[Segment], memory: &RegionTable, frame: &[u8]) -> Result<(), Segment> {
    if let Some(first) = segments.first()
        && usize::try_from(first.len).is_ok_and(|room| room >= HDR_BYTES.saturating_add(frame.len()))
    {
        let bytes = Ours::new(memory.bytes(first.addr, first.len).ok_or(*first)?);
        bytes.copy_in(0, &HEADER);
        bytes.copy_in(HDR_BYTES, frame);
        return Ok(());
    }
    scatter_slow(segments, memory, frame)
}

fn scatter_slow(segments: &[Segment], memory: &RegionTable, frame: &[u8]) -> Result<(), Segment> {
    let mut parts = [&HEADER[..], frame];
    for segment in segments {
        let bytes = Ours::new(memory.bytes(segment.addr, segment.len).ok_or(*segment)?);
        let mut at = 0usize;
        for part in &mut parts {
            let room = bytes.len().saturating_sub(at);
            let (now, later) = part.split_at_checked(room).unwrap_or((part, &[]));
            bytes.copy_in(at, now);
            at = at.saturating_add(now.len());
            *part = later;
        }
        if parts.iter().all(|part| part.is_empty()) {
            break;
        }
    }
    debug_assert!(parts.iter().all(|part| part.is_empty()), "the chain has less room than it was found to have");
    Ok(())
}

/// The header before every frame: no offload, one buffer (5.1.6.3.1 and 5.1.6.4.1).
const HEADER: [u8; HDR_BYTES] = Header::PLAIN_RX.to_bytes();
