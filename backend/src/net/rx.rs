//! To the guest: frames of the port go into chains.

use ironring_common::apart;
use ironring_common::index::QueueSize;
use ironring_common::shm::area::Bytes;
use ironring_common::shm::table::{HotRegion, RegionTable};
use ironring_common::shm::view::Ours;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::{HDR_BYTES, Header};

use super::tx::outside;
use super::{BURST, Expected, FEW, MAX_FRAME, each_ahead, fit_and_ask};
use crate::boundary;
use crate::port::Port;
use crate::stats::{DropReason, Tally};
use crate::vring::DeviceRing;
use crate::vring::chain::{Chain, ChainRef, Segment, Single};
use crate::vring::hook::Hook;

/// What a burst did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// Chains completed.
    pub chains: u16,
    /// Frames delivered or dropped.
    pub frames: u16,
    /// Whether it ended because the guest had no buffer, or too few, for the next frame.
    pub full: bool,
}

/// Scratch for frames that take more than one chain (`VIRTIO_NET_F_MRG_RXBUF`, 5.1.6.4): what the chains hold, one
/// after the other.
#[derive(Debug)]
pub struct Merge {
    segments: Vec<Segment>,
    /// What each chain is given back by, and its writable bytes.
    chains: Vec<(ChainRef, u64)>,
    room: u64,
}

/// Why a frame was not delivered.
enum Stop {
    /// It never will be: the buffers that the driver made available are too small.
    Drop,
    /// Not before the driver makes more available.
    Wait,
    /// A buffer leads nowhere; the ring is latched.
    Fault,
}

/// Serves at most [`BURST`] frames that the port has, from the chains that the last poll saw. It ends early when there
/// are no more frames or chains, or at a fault, which is then latched in the ring; the frame stays in the port.
///
/// Without `merge`, a frame that does not fit into the next chain is dropped, and the chain stays on the ring for a frame
/// that fits. With it, a frame goes over as many chains as it takes. How many are [`Expected`] decides how they go; the port says whether
/// there are more.
#[inline]
pub fn burst<R: DeviceRing, P: Port, H: Hook>(
    vring: &mut R,
    scratch: (&mut Chain, Option<&mut Merge>),
    memory: &mut HotRegion<'_>,
    port: &mut P,
    hook: &mut H,
    tally: &mut Tally,
    expected: Expected,
) -> Delivered {
    let (chain, mut merge) = scratch;
    let mut done = Delivered::default();
    if expected == Expected::One && deliver_alone(vring, memory, port, hook, tally) {
        done = Delivered { chains: 1, frames: 1, full: false };
        if port.rx_peek().is_none() {
            return done;
        }
    }
    let few = expected != Expected::Many;
    if few {
        let most = FEW.saturating_sub(done.frames);
        done.add(deliver_singles::<_, _, _, { FEW as usize }>(most, vring, memory, port, hook, tally));
    }
    if !few || done.frames == FEW {
        let most = BURST.saturating_sub(done.frames);
        done.add(deliver_singles::<_, _, _, { BURST as usize }>(most, vring, memory, port, hook, tally));
    }
    // What a packed ring does not say without another look at it is left to the next turn.
    while done.frames < BURST && !done.full && vring.fault().is_none() {
        let Some(frame) = port.rx_peek() else { break };
        match vring.next_chain(chain) {
            Ok(true) => {}
            Ok(false) => {
                done.full = true;
                break;
            }
            Err(_) => break,
        }
        match deliver(vring, (&mut *chain, merge.as_deref_mut()), memory.table(), frame, hook) {
            Ok(chains) => {
                tally.frame(frame.len());
                done.chains = done.chains.wrapping_add(chains);
            }
            Err(Stop::Drop) => tally.drop_packet(DropReason::RxSmallBuffer),
            Err(Stop::Wait) => {
                done.full = true;
                break;
            }
            Err(Stop::Fault) => break,
        }
        done.frames = done.frames.wrapping_add(1);
        port.rx_consume();
    }
    done
}

impl Delivered {
    #[inline(always)]
    const fn add(&mut self, more: Self) {
        self.chains = self.chains.wrapping_add(more.chains);
        self.frames = self.frames.wrapping_add(more.frames);
        self.full |= more.full;
    }
}

/// The frames that fit into a buffer each, at most `most`, until one does not, or what comes next is no single buffer. With
/// `ROOM` for so many.
#[inline]
fn deliver_singles<R: DeviceRing, P: Port, H: Hook, const ROOM: usize>(
    most: u16,
    vring: &mut R,
    memory: &mut HotRegion<'_>,
    port: &mut P,
    hook: &mut H,
    tally: &mut Tally,
) -> Delivered {
    let mut singles = [Single::default(); ROOM];
    // A buffer with room for the longest frame has room for each, by the port's word. One that has less is for the walk.
    let longest = HDR_BYTES.saturating_add(port.rx_longest());
    let fit = fit_and_ask(|room| room >= longest, ask);
    let frames = port.rx_frames(usize::from(most));
    let room = singles.get_mut(..frames.len()).unwrap_or_default();
    let asked = room.len();
    let taken = vring.next_singles::<true>(memory, room, fit);
    let ended = usize::from(taken) < asked;
    let singles = singles.get_mut(..usize::from(taken)).unwrap_or_default();
    let (mut done, mut sum) = (0usize, 0usize);
    // Nothing else is stored meanwhile: what a processor has stored waits in a row, in which the lines that the driver has
    // looked at last take long. Where frames stand close together there, many of their lines are on the way at a time.
    each_ahead(
        singles,
        frames,
        |single| ask(single.buffer),
        |single, frame| {
            if !write_frame(single.get().buffer, frame) {
                return false;
            }
            // At most the bytes of the buffer.
            let written = u32::try_from(HDR_BYTES.wrapping_add(frame.len()) & 0xffff_ffff).unwrap_or(0);
            single.set(Single { written, ..single.get() });
            sum = sum.wrapping_add(frame.len());
            done = done.wrapping_add(1);
            true
        },
    );
    port.rx_consume_burst(done, sum);
    hook.order(singles.get_mut(..done).unwrap_or_default());
    let (finished, back) = singles.split_at_checked(done).unwrap_or((singles, &[]));
    vring.end_singles::<H, true>(hook, finished, back);
    // No more than a burst.
    let done = u16::try_from(done).unwrap_or(taken);
    tally.all_frames(done, sum);
    Delivered { chains: done, frames: done, full: ended && vring.available() == 0 }
}

/// The next frame, if it goes into the next chain and that is of one buffer: whether that was so. If not, nothing was done.
#[inline(always)]
fn deliver_alone<R: DeviceRing, P: Port, H: Hook>(
    vring: &mut R,
    memory: &mut HotRegion<'_>,
    port: &mut P,
    hook: &mut H,
    tally: &mut Tally,
) -> bool {
    let Some(frame) = port.rx_peek() else { return false };
    let (bytes, need) = (frame.len(), HDR_BYTES.saturating_add(frame.len()));
    let Some(single) = vring.next_single::<true>(memory, |buffer| buffer.len() >= need) else { return false };
    // Both lines at a time: the store of the frame waits until the header was compared.
    ask(single.buffer);
    let wrote = write_frame(single.buffer, frame);
    debug_assert!(wrote, "the room was compared");
    // At most the bytes of the buffer.
    let written = u32::try_from(need & 0xffff_ffff).unwrap_or(0);
    vring.end_single::<H, true>(hook, Single { written, ..single });
    port.rx_consume();
    tally.frame(bytes);
    true
}

/// Asks for the lines of a header and of its frame's first bytes, which are on their way while others are written. That of the
/// header is most often only looked at.
#[inline(always)]
fn ask(buffer: Bytes<'_>) {
    buffer.prefetch(0, false);
    buffer.prefetch(HDR_BYTES, true);
}

/// Writes header and frame into a buffer if it has room for both; whether it has. A header that stands there already is left alone,
/// so that its line need not travel: with buffers that are used again it is the one of the frame before.
#[inline(always)]
#[must_use = "what was not written is not to be given to the driver"]
fn write_frame(bytes: Bytes<'_>, frame: &[u8]) -> bool {
    let Some((header, body)) = bytes.split_at_checked(HDR_BYTES) else { return false };
    if body.len() < frame.len() {
        return false;
    }
    if !boundary::has_header(header, &HEADER) {
        Ours::new(header).copy_in(0, &HEADER);
    }
    Ours::new(body).copy_in(0, frame);
    true
}

/// Puts a frame into the chain that was taken, and into further ones if it has to be. How many were completed; if none
/// were, all are back on the ring.
#[inline]
fn deliver<R: DeviceRing, H: Hook>(
    vring: &mut R,
    scratch: (&mut Chain, Option<&mut Merge>),
    memory: &RegionTable,
    frame: &[u8],
    hook: &mut H,
) -> Result<u16, Stop> {
    let (chain, merge) = scratch;
    let need = HDR_BYTES.saturating_add(frame.len());
    let written = u32::try_from(need).unwrap_or(u32::MAX);
    if u64::from(written) <= chain.writable_len() {
        if let Err(segment) = scatter(chain.writable(), memory, frame) {
            outside(vring, chain, segment);
            return Err(Stop::Fault);
        }
        vring.complete(hook, chain.head(), written);
        return Ok(1);
    }
    match merge {
        Some(merge) => merge.deliver(vring, chain, memory, frame, hook),
        None => {
            vring.undo();
            Err(Stop::Drop)
        }
    }
}

impl Merge {
    /// Scratch for a ring of `size` descriptors.
    #[must_use]
    pub fn with_capacity(size: QueueSize) -> Self {
        let size = usize::from(size.get());
        Self { segments: apart::list(size), chains: apart::list(size), room: 0 }
    }

    /// Where its lists lie, for the test of the layout.
    #[cfg(test)]
    pub(crate) fn lines(&self, size: QueueSize, to: &mut Vec<std::ops::Range<usize>>) {
        let segments = (apart::lines(&*self.segments).start, size_of::<Segment>());
        let chains = (apart::lines(&*self.chains).start, size_of::<(ChainRef, u64)>());
        to.extend([segments, chains].map(|(start, bytes)| start..start + bytes * usize::from(size.get())));
    }

    /// As [`deliver`], for a frame that the first chain has no room for.
    #[cold]
    fn deliver<R: DeviceRing, H: Hook>(
        &mut self,
        vring: &mut R,
        chain: &mut Chain,
        memory: &RegionTable,
        frame: &[u8],
        hook: &mut H,
    ) -> Result<u16, Stop> {
        let need = u64::try_from(HDR_BYTES.saturating_add(frame.len())).unwrap_or(u64::MAX);
        self.start(chain);
        while self.room < need {
            if self.chains.len() >= MERGE_CHAINS {
                vring.undo_last(self.count());
                return Err(Stop::Drop);
            }
            match vring.next_chain(chain) {
                Ok(true) => self.add(chain),
                Ok(false) => {
                    // A ring that is full of chains will not get fuller.
                    let full = vring.is_full();
                    vring.undo_last(self.count());
                    return Err(if full { Stop::Drop } else { Stop::Wait });
                }
                Err(_) => {
                    vring.undo_last(self.count());
                    return Err(Stop::Fault);
                }
            }
        }
        let header = Header { num_buffers: self.count(), ..Header::PLAIN_RX }.to_bytes();
        if let Err(segment) = scatter_over(&self.segments, memory, [&header, frame]) {
            let more = self.count().saturating_sub(1);
            vring.undo_last(more);
            outside(vring, chain, segment);
            return Err(Stop::Fault);
        }
        let mut left = need;
        for (head, room) in &self.chains {
            // Every chain but the last is filled (5.1.6.4.1).
            let written = left.min(*room);
            left = left.saturating_sub(written);
            vring.complete(hook, *head, u32::try_from(written).unwrap_or(u32::MAX));
        }
        Ok(self.count())
    }

    fn start(&mut self, chain: &Chain) {
        self.segments.clear();
        self.chains.clear();
        self.room = 0;
        self.add(chain);
    }

    fn add(&mut self, chain: &Chain) {
        self.segments.extend_from_slice(chain.writable());
        self.chains.push((chain.head(), chain.writable_len()));
        self.room = self.room.saturating_add(chain.writable_len());
    }

    /// Chains that were taken; at most [`MERGE_CHAINS`].
    fn count(&self) -> u16 {
        u16::try_from(self.chains.len()).unwrap_or(u16::MAX)
    }
}

/// Writes header and frame over the segments, which have room for both; the segment that leads nowhere, if there is one.
#[inline]
fn scatter(segments: &[Segment], memory: &RegionTable, frame: &[u8]) -> Result<(), Segment> {
    if let Some(first) = segments.first()
        && usize::try_from(first.len).is_ok_and(|room| room >= HDR_BYTES.saturating_add(frame.len()))
    {
        let wrote = write_frame(memory.bytes(first.addr, first.len).ok_or(*first)?, frame);
        debug_assert!(wrote, "the room was compared");
        return Ok(());
    }
    scatter_over(segments, memory, [&HEADER, frame])
}

fn scatter_over(segments: &[Segment], memory: &RegionTable, parts: [&[u8]; 2]) -> Result<(), Segment> {
    let mut parts = parts;
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
/// Chains that one frame may take: as many as the longest needs in buffers of 512 bytes. With a bound, a driver whose chains
/// hold nothing keeps the worker from nobody for long.
const MERGE_CHAINS: usize = (HDR_BYTES + MAX_FRAME).div_ceil(512);
