//! From the guest: chains become frames of the port.

use ironring_common::shm::area::Bytes;
use ironring_common::shm::table::{HotRegion, RegionTable};
use ironring_common::shm::words::Words;
use ironring_common::spec::net::{GSO_NONE, HDR_BYTES, HDR_F_DATA_VALID, HDR_F_NEEDS_CSUM, Header};

use super::{BURST, Expected, FEW, MAX_FRAME, MIN_FRAME};
use crate::boundary;
use crate::port::{Port, TxBurst};
use crate::stats::{DropReason, Tally};
use crate::vring::chain::{Chain, Segment, Single};
use crate::vring::hook::Hook;
use crate::vring::{DeviceRing, RingFault};

/// Serves at most [`BURST`] chains that the last poll saw, and returns how many were completed. It ends early when there
/// are no more, when the port is full (the chain stays on the ring), or at a fault, which is then latched in the ring. How many
/// are [`Expected`] decides how they are taken; and where it is one, a packed ring is asked for no more: what comes behind it is for the
/// next turn.
#[inline]
pub fn burst<R: DeviceRing, P: Port, H: Hook>(
    vring: &mut R,
    chain: &mut Chain,
    memory: &mut HotRegion<'_>,
    port: &mut P,
    hook: &mut H,
    tally: &mut Tally,
    expected: Expected,
) -> u16 {
    let mut done = 0u16;
    if expected == Expected::One {
        match forward_alone(vring, memory, port, hook, tally) {
            Alone::Done if vring.available() == 0 => return 1,
            Alone::Done => done = 1,
            Alone::Full => return 0,
            Alone::No => {}
        }
    }
    let few = expected != Expected::Many;
    if few {
        let most = FEW.saturating_sub(done);
        let (now, more) = forward_singles::<_, _, _, { FEW as usize }>(most, vring, memory, port, hook, tally);
        done = done.wrapping_add(now);
        if !more {
            return done;
        }
    }
    if !few || done == FEW {
        let most = BURST.saturating_sub(done);
        let (now, more) = forward_singles::<_, _, _, { BURST as usize }>(most, vring, memory, port, hook, tally);
        done = done.wrapping_add(now);
        if !more {
            return done;
        }
    }
    while done < BURST {
        let Ok(true) = vring.next_chain(chain) else { break };
        match forward(chain, memory.table(), port) {
            Ok(bytes) => tally.frame(bytes),
            Err(Stop::Drop(reason)) => tally.drop_packet(reason),
            Err(Stop::Full) => {
                vring.undo();
                break;
            }
            Err(Stop::Outside(segment)) => {
                outside(vring, chain, segment);
                break;
            }
        }
        vring.complete(hook, chain.head(), 0);
        done = done.wrapping_add(1);
    }
    done
}

/// The chains of one buffer, at most `most`, until something else comes. How many were completed, and whether to go on. With
/// `ROOM` for so many.
#[inline]
fn forward_singles<R: DeviceRing, P: Port, H: Hook, const ROOM: usize>(
    most: u16,
    vring: &mut R,
    memory: &mut HotRegion<'_>,
    port: &mut P,
    hook: &mut H,
    tally: &mut Tally,
) -> (u16, bool) {
    let mut singles = [Single::default(); ROOM];
    // A buffer that is too short or too long for a frame is for the walk. The lines of the others are asked for as they are found, and are
    // on their way while the next ones are looked at.
    let fit = |buffer: Bytes<'_>| {
        let fits = frame_len(buffer.len()).is_ok();
        if fits {
            ask(buffer);
        }
        fits
    };
    let room = singles.get_mut(..usize::from(most)).unwrap_or_default();
    let asked = room.len();
    let taken = vring.next_singles::<false>(memory, room, fit);
    let ended = usize::from(taken) < asked;
    let singles = singles.get_mut(..usize::from(taken)).unwrap_or_default();
    let (mut frames, mut dropped, mut sum, mut full) = (0usize, 0usize, 0usize, false);
    let mut burst = port.tx_burst();
    for single in singles.iter() {
        match forward_single(single.buffer, &mut burst) {
            Ok(bytes) => {
                frames = frames.wrapping_add(1);
                sum = sum.wrapping_add(bytes);
            }
            Err(Refused::Drop(reason)) => {
                dropped = dropped.wrapping_add(1);
                tally.drop_packet(reason);
            }
            Err(Refused::Full) => {
                full = true;
                break;
            }
        }
    }
    burst.end(frames, sum);
    // No more than a burst.
    tally.all_frames(u16::try_from(frames).unwrap_or(taken), sum);
    let done = frames.wrapping_add(dropped);
    hook.order(singles.get_mut(..done).unwrap_or_default());
    let (finished, back) = singles.split_at_checked(done).unwrap_or((singles, &[]));
    vring.end_singles::<H, false>(hook, finished, back);
    // What a packed ring does not say without another look at it is left to the next turn.
    let more = !full && (!ended || vring.available() > 0);
    (u16::try_from(done).unwrap_or(taken), more)
}

/// What became of a chain that was expected to come alone.
enum Alone {
    /// It is completed.
    Done,
    /// The port is full; it is back on the ring.
    Full,
    /// It is for the other ways, and nothing was done.
    No,
}

/// Serves the next chain, if it is one of one buffer.
#[inline(always)]
fn forward_alone<R: DeviceRing, P: Port, H: Hook>(
    vring: &mut R,
    memory: &mut HotRegion<'_>,
    port: &mut P,
    hook: &mut H,
    tally: &mut Tally,
) -> Alone {
    let Some(single) = vring.next_single::<false>(memory, |buffer| frame_len(buffer.len()).is_ok()) else {
        return Alone::No;
    };
    ask(single.buffer);
    let mut burst = port.tx_burst();
    match forward_single(single.buffer, &mut burst) {
        Ok(bytes) => {
            burst.end(1, bytes);
            tally.frame(bytes);
        }
        Err(Refused::Drop(reason)) => {
            burst.end(0, 0);
            tally.drop_packet(reason);
        }
        Err(Refused::Full) => {
            burst.end(0, 0);
            vring.end_singles::<H, false>(hook, &[], &[single]);
            return Alone::Full;
        }
    }
    vring.end_single::<H, false>(hook, single);
    Alone::Done
}

/// Takes at most [`BURST`] chains of a disabled ring and drops what they carry: the vhost-user specification has packets
/// of a started but disabled transmit ring discarded.
pub fn discard<R: DeviceRing, H: Hook>(vring: &mut R, chain: &mut Chain, hook: &mut H, tally: &mut Tally) -> u16 {
    let mut done = 0u16;
    while done < BURST {
        let Ok(true) = vring.next_chain(chain) else { break };
        tally.drop_packet(DropReason::TxDisabled);
        vring.complete(hook, chain.head(), 0);
        done = done.wrapping_add(1);
    }
    done
}

/// Why a chain did not become a frame.
enum Stop {
    Drop(DropReason),
    Full,
    Outside(Segment),
}

/// As [`Stop`], of a chain whose buffer was found.
enum Refused {
    Drop(DropReason),
    Full,
}

impl From<Refused> for Stop {
    #[inline(always)]
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Drop(reason) => Self::Drop(reason),
            Refused::Full => Self::Full,
        }
    }
}

/// Copies the frame of a chain into the port and returns its bytes. Device-writable segments have no meaning here and
/// are not looked at.
#[inline]
fn forward<P: Port>(chain: &Chain, memory: &RegionTable, port: &mut P) -> Result<usize, Stop> {
    let len = frame_len(usize::try_from(chain.readable_len()).unwrap_or(usize::MAX))?;
    if let [only] = chain.readable() {
        let buffer = memory.bytes(only.addr, only.len).ok_or(Stop::Outside(*only))?;
        let mut burst = port.tx_burst();
        let bytes = forward_single(buffer, &mut burst)?;
        burst.end(1, bytes);
        return Ok(bytes);
    }
    let mut header = [0u8; HDR_BYTES];
    gather(chain.readable(), memory, 0, &mut header)?;
    check_header(header)?;
    let slot = port.tx_slot(len).ok_or(Stop::Full)?;
    gather(chain.readable(), memory, HDR_BYTES, slot)?;
    port.tx_commit();
    Ok(len)
}

/// As [`forward`], for header and frame in one buffer, which is of as many bytes as a frame can have.
#[inline(always)]
fn forward_single(buffer: Bytes<'_>, burst: &mut impl TxBurst) -> Result<usize, Refused> {
    let (header, frame) = buffer.split_at_checked(HDR_BYTES).ok_or(Refused::Drop(DropReason::TxShort))?;
    let (flags, gso_type) = boundary::header_wishes(header);
    check_wishes(flags, gso_type)?;
    let took = burst.frame(frame.len(), |slot| boundary::copy_out(frame, 0, slot));
    took.then_some(frame.len()).ok_or(Refused::Full)
}

/// Asks for the lines of a header and of its frame's first bytes. Longer ones come by themselves.
#[inline(always)]
fn ask(buffer: Bytes<'_>) {
    buffer.prefetch(0, false);
    buffer.prefetch(HDR_BYTES, false);
}

/// The length of the frame in a chain, or a buffer, of so many `bytes` to read.
#[inline]
fn frame_len(bytes: usize) -> Result<usize, Refused> {
    // One compare: what is too short wraps round to what is too long.
    let shortest = HDR_BYTES.saturating_add(MIN_FRAME);
    if bytes.wrapping_sub(shortest) <= MAX_FRAME.saturating_sub(MIN_FRAME) {
        return Ok(bytes.wrapping_sub(HDR_BYTES));
    }
    Err(Refused::Drop(if bytes < shortest { DropReason::TxShort } else { DropReason::TxLong }))
}

/// No offload was negotiated, so the header may not ask for one (5.1.6.2.1). Flags that this device does not know are
/// ignored, as 5.1.6.2.2 demands, and so are the fields that only an offload gives a meaning.
#[inline]
fn check_header(bytes: [u8; HDR_BYTES]) -> Result<(), Refused> {
    let Header { flags, gso_type, .. } = Header::from_bytes(bytes);
    check_wishes(flags, gso_type)
}

#[inline]
const fn check_wishes(flags: u8, gso_type: u8) -> Result<(), Refused> {
    if flags & (HDR_F_NEEDS_CSUM | HDR_F_DATA_VALID) != 0 || gso_type != GSO_NONE {
        return Err(Refused::Drop(DropReason::TxOffload));
    }
    Ok(())
}

/// Fills `to` with the bytes of the segments after the first `skip`. The caller has checked that there are enough.
fn gather(segments: &[Segment], memory: &RegionTable, skip: usize, to: &mut [u8]) -> Result<(), Stop> {
    let mut skip = skip;
    let mut to = to;
    for segment in segments {
        if to.is_empty() {
            break;
        }
        let bytes = memory.bytes(segment.addr, segment.len).ok_or(Stop::Outside(*segment))?;
        let have = bytes.len().saturating_sub(skip);
        if have == 0 {
            skip = skip.saturating_sub(bytes.len());
            continue;
        }
        let now_len = have.min(to.len());
        let Some((now, later)) = std::mem::take(&mut to).split_at_mut_checked(now_len) else { break };
        boundary::copy_out(bytes, skip, now);
        skip = 0;
        to = later;
    }
    debug_assert!(to.is_empty(), "the chain has fewer bytes than it was found to have");
    Ok(())
}

/// Puts the chain back and latches the ring.
#[cold]
pub(super) fn outside<R: DeviceRing>(vring: &mut R, chain: &Chain, segment: Segment) {
    vring.undo();
    let Segment { addr, len } = segment;
    vring.fail(RingFault::AddressOutside { queue: vring.queue(), head: chain.head().id, addr, len });
}
