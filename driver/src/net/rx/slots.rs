//! The receive slots: what came back is noted, copied out or lent, and posted again.

use ironring_common::shm::area::Bytes;
use ironring_common::shm::view::Theirs;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::{self, Header};

use super::super::lease::{LeasedFrame, LentSlots};
use super::super::{AHEAD, Scratch, ahead};
use super::{RxBatch, RxStats};
use crate::arena::QueueMemory;
use crate::boundary;
use crate::mapper::Direction;
use crate::mapper::slots::FixedSlots;
use crate::queue::slots::{BURST, Done, SlotRing, Taken};
#[cfg(test)]
use ironring_common::apart;
use ironring_common::apart::Apart;

/// The receive slots, and what was counted.
#[derive(Debug)]
pub(super) struct RxSlots {
    pub(super) slots: LentSlots,
    pub(super) mapper: FixedSlots,
    /// Scratch of a burst.
    pub(super) filled: Scratch<Filled>,
    /// Whether frames come one by one: the last one did.
    pub(super) alone: bool,
    pub(super) stats: RxStats,
}

impl RxSlots {
    pub(super) fn new(memory: QueueMemory) -> Self {
        let QueueMemory { slots, mapper, .. } = memory;
        let (slots, filled) = (LentSlots::new(Theirs::new(slots)), Box::new(Apart([Filled::default(); _])));
        Self { slots, mapper, filled, alone: false, stats: RxStats::default() }
    }

    /// Posts every free slot.
    pub(super) fn fill<R: SlotRing>(&self, ring: &mut R) {
        let whole = core::iter::repeat(self.mapper.len());
        ring.post_slots(Direction::FromDevice, usize::MAX, whole, |_, _| {});
    }

    /// Takes up to a batch of frames and posts their slots again. The frames are copied out before the device is shown the
    /// slots.
    #[inline]
    pub(super) fn burst<R: SlotRing>(&mut self, ring: &mut R, batch: &mut RxBatch) -> Taken {
        let (mut all, mut left) = (Taken::default(), batch.capacity());
        if self.alone && left > 0 {
            all = self.take_alone(ring, batch);
            left = left.wrapping_sub(all.count);
            if all.count == 0 || left == 0 || !ring.has_more() {
                return all;
            }
        }
        while left > 0 && !all.broken {
            let most = left.min(BURST);
            let Taken { count, broken } = self.take(ring, most);
            self.copy_frames(count, batch);
            all = Taken { count: all.count.wrapping_add(count), broken };
            if count < most {
                break;
            }
            left = left.wrapping_sub(count);
        }
        if all.count > 0 {
            self.alone = all.count == 1;
        }
        all
    }

    /// Takes one frame, if one came, and posts its slot again: with nothing made ready for more, because for one frame that is most of
    /// the work, and one that comes alone is one that somebody waits for.
    #[inline(always)]
    fn take_alone<R: SlotRing>(&mut self, ring: &mut R, batch: &mut RxBatch) -> Taken {
        let Self { slots, mapper, stats, .. } = self;
        let words = slots.words().bytes();
        ring.exchange_slot(|done| {
            let at = mapper.offset_of(done.at);
            ask(&words, at);
            let filled = Filled::new(at, done.written);
            let RxBatch { bytes: room, longest, lens, count, .. } = batch;
            if let Some(len) = copy_frame(words, filled, *longest, (room, 0, lens.first_mut()), stats) {
                debug_assert_eq!(*count, 0, "it is the first of the batch");
                *count = 1;
                stats.frames = stats.frames.wrapping_add(1);
                stats.bytes = stats.bytes.wrapping_add(u64::try_from(len).unwrap_or(0));
            }
            stats.used_entries = stats.used_entries.wrapping_add(1);
        })
    }

    /// Takes completed slots, `most` and a burst at most, and posts them again. The lines of the first of them are asked for by `ask` as
    /// they are found, so that they are on their way while the others are looked at.
    #[inline(always)]
    fn take<R: SlotRing>(&mut self, ring: &mut R, most: usize) -> Taken {
        let words = self.slots.words();
        let note = note(self.mapper, &mut self.filled, |at| ask(words, at));
        ring.exchange_slots(most.min(BURST), note)
    }

    /// As [`take`](Self::take), for frames that are lent.
    #[inline(always)]
    pub(super) fn take_to_lend<R: SlotRing>(&mut self, ring: &mut R, most: usize) -> Taken {
        let note = note(self.mapper, &mut self.filled, self.slots.ask());
        ring.exchange_slots(most.min(BURST), note)
    }

    /// Lends the frames of the first `taken` of the completed slots that have one. How many. With `ROOM` for so many.
    #[inline]
    pub(super) fn lease<const ROOM: usize>(&mut self, taken: usize, with: impl FnOnce(&[LeasedFrame<'_>])) -> usize {
        let Self { slots, filled, stats, .. } = self;
        let (words, done, ask) = (slots.words(), &mut filled.0, slots.ask());
        slots.begin();
        let mut frames = [LeasedFrame::new(slots, 0, 0); ROOM];
        let mut next = frames.iter_mut();
        let mut count = 0usize;
        for (filled, later) in ahead(done, taken) {
            ask(later.at());
            let (at, bytes) = (filled.at(), filled.bytes());
            if bytes < net::HDR_BYTES.wrapping_add(net::ETH_HEADER_BYTES) {
                stats.drop_short();
                continue;
            }
            if !plain(words, at) {
                stats.drop_header();
                continue;
            }
            let len = bytes.wrapping_sub(net::HDR_BYTES);
            if let Some(to) = next.next() {
                *to = LeasedFrame::new(slots, at.wrapping_add(net::HDR_BYTES), len);
                count = count.wrapping_add(1);
                stats.bytes = stats.bytes.wrapping_add(u64::try_from(len).unwrap_or(0));
            }
        }
        stats.used_entries = stats.used_entries.wrapping_add(u64::try_from(taken).unwrap_or(0));
        stats.frames = stats.frames.wrapping_add(u64::try_from(count).unwrap_or(0));
        with(frames.get(..count).unwrap_or_default());
        count
    }

    /// Copies the frames of the first `taken` of the completed slots out, without their headers; not of those that have none that is
    /// lawful.
    #[inline]
    fn copy_frames(&mut self, taken: usize, batch: &mut RxBatch) {
        let Self { slots, filled, stats, .. } = self;
        let (words, done) = (slots.words().bytes(), &mut filled.0);
        let RxBatch { bytes: room, slot, longest, lens, count: before } = batch;
        let (slot, longest, mut sum, mut kept) = (*slot, *longest, 0usize, 0usize);
        let lens = lens.get_mut(*before..).unwrap_or_default();
        // Where the next frame goes.
        let mut start = before.wrapping_mul(slot);
        for (filled, later) in ahead(done, taken) {
            ask(&words, later.at());
            let to = (&mut **room, start, lens.get_mut(kept));
            let Some(len) = copy_frame(words, *filled, longest, to, stats) else { continue };
            kept = kept.wrapping_add(1);
            sum = sum.wrapping_add(len);
            start = start.wrapping_add(slot);
        }
        *before = before.wrapping_add(kept);
        let count = |count: usize| u64::try_from(count).unwrap_or(0);
        stats.used_entries = stats.used_entries.wrapping_add(count(taken));
        stats.frames = stats.frames.wrapping_add(count(kept));
        stats.bytes = stats.bytes.wrapping_add(count(sum));
    }

    /// Where it lies, for the test of the layout.
    #[cfg(test)]
    pub(super) fn lines(&self, to: &mut Vec<core::ops::Range<usize>>) {
        to.push(apart::lines(&*self.filled));
    }
}

/// Copies the frame of a completed slot to `start` in the room, without its header, if it is lawful and has no more bytes than the
/// `longest`: how many it has, which is also noted. Why it is none is counted.
#[inline(always)]
fn copy_frame(
    words: Theirs<Bytes<'_>>,
    filled: Filled,
    longest: usize,
    (room, start, to_len): (&mut [u8], usize, Option<&mut usize>),
    stats: &mut RxStats,
) -> Option<usize> {
    let bytes = filled.bytes();
    if bytes < net::HDR_BYTES.wrapping_add(net::ETH_HEADER_BYTES) {
        stats.drop_short();
        return None;
    }
    // It is at most what was posted, a slot; a batch for shorter frames drops what it has no room for.
    let len = bytes.wrapping_sub(net::HDR_BYTES);
    let room = room.get_mut(start..start.wrapping_add(len)).filter(|_| len <= longest);
    let (Some(to), Some(to_len)) = (room, to_len) else {
        stats.drop_long();
        return None;
    };
    let whole = words.part(filled.at(), bytes);
    let Some((_, frame)) = whole.split_at_checked(net::HDR_BYTES).filter(|(header, _)| plain(header, 0)) else {
        stats.drop_header();
        return None;
    };
    boundary::copy_completed(&frame, 0, to);
    *to_len = len;
    Some(len)
}

/// A slot that came back, where it lies and how many bytes the device wrote there: in one word, so that noting it is one store.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Filled(u64);

impl Filled {
    /// Slots begin below 2^32: there are at most 2^15, each at most 2^16 bytes and two lines from the next.
    #[inline(always)]
    const fn new(at: usize, bytes: u32) -> Self {
        Self((bytes as u64) << 32 | at as u64)
    }

    /// Where it lies.
    #[inline(always)]
    pub(super) const fn at(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    #[inline(always)]
    pub(super) const fn bytes(self) -> usize {
        (self.0 >> 32) as usize
    }
}

/// Notes the slots that come back, in their order, and has `ask` ask for the lines of the first ones.
#[inline(always)]
pub(super) fn note(mapper: FixedSlots, filled: &mut Scratch<Filled>, ask: impl Fn(usize)) -> impl FnMut(Done) {
    let (filled, mut next) = (&mut filled.0, 0usize);
    move |slot| {
        let at = mapper.offset_of(slot.at);
        if let Some(to) = filled.get_mut(next) {
            *to = Filled::new(at, slot.written);
        }
        if next < AHEAD {
            ask(at);
        }
        next = next.wrapping_add(1);
    }
}

/// Asks for the lines of the header and of the frame's first bytes; more of them come by themselves.
#[inline(always)]
fn ask<W: Words>(words: &Theirs<W>, at: usize) {
    words.prefetch(at);
    words.prefetch(at.wrapping_add(net::HDR_BYTES));
}

/// Whether the header at `at` uses nothing that was not negotiated. No offload is negotiated, so a checksum to be finished or a
/// segmented frame is not lawful (5.1.6.4.1); the other fields are then ignored.
#[inline(always)]
fn plain<W: Words>(words: &Theirs<W>, at: usize) -> bool {
    let (flags, gso_type) = boundary::header_wishes(words, at);
    is_plain(Header { flags, gso_type, ..Header::PLAIN_RX })
}

/// Whether a header uses nothing that was not negotiated: what a receive queue drops frames by.
#[inline]
#[must_use]
pub const fn is_plain(header: Header) -> bool {
    header.gso_type == net::GSO_NONE && header.flags & net::HDR_F_NEEDS_CSUM == 0
}
