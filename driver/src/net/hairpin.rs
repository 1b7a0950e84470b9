//! Frames that go out by the queue pair that they came by, from the slots where they lie.
//!
//! The two queues of a hairpin pair share their slots: descriptor `i` of either points to slot `i`, for ever, and one of the
//! two rings has the descriptor, so a slot is posted to be written or to be read, never both. A frame that is sent on takes its
//! slot with it, and slots that the device has sent come back to the receive queue when it runs short of them, by the calls of the
//! pair. Nothing is copied, and of a frame this side looks at what [`QueuePair::hairpin`] has it look at: by itself at the net header
//! alone.
//!
//! What is safe about it is what is safe about every ring here: ids, lengths, addresses come from private records. What a
//! device gains is that it may write to a frame until it has sent it, and it is the device that sends it.

use ironring_common::apart::Apart;
use ironring_common::error::Misuse;
use ironring_common::index::DescId;
use ironring_common::shm::area::Area;
use ironring_common::shm::view::Ours;

use super::{LeasedFrame, NetError, QueuePair, TxError};
use crate::queue::slots::{BURST, SharedSlots};
use crate::queue::violation::Violation;

/// A received frame that may go out again from where it lies.
///
/// **Its bytes are the device's** as those of a [`LeasedFrame`] are, and stay so until it is sent: whoever decides by them has to
/// copy them out first and decide by the copy. What is written to it is there unless the device writes there too.
#[derive(Debug)]
pub struct HairpinFrame<'a> {
    leased: LeasedFrame<'a>,
    out: &'a Ours<Area>,
}

impl<'a> HairpinFrame<'a> {
    #[inline(always)]
    pub(super) const fn new(leased: LeasedFrame<'a>, out: &'a Ours<Area>) -> Self {
        Self { leased, out }
    }

    /// Bytes of the frame, without a net header.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.leased.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.leased.is_empty()
    }

    /// The frame where it lies, to copy bytes of it out.
    #[must_use]
    pub const fn leased(&self) -> &LeasedFrame<'a> {
        &self.leased
    }

    /// Writes bytes of the frame, beginning at its byte `at`.
    ///
    /// # Errors
    /// [`TxError::FrameLength`] if they do not fit into the frame. Nothing is written then.
    pub fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), TxError> {
        self.leased.write(self.out, at, bytes)
    }
}

/// Of a pair whose queues share their slots.
#[derive(Debug)]
pub(super) struct Shares {
    /// Slots that the transmit queue keeps for frames that do not come by the receive queue.
    reserve: u16,
    /// With fewer slots posted the receive queue gets back what has been sent.
    low: u16,
    /// The receive queue never has fewer: without a slot to receive into, a device that holds frames back could neither send nor
    /// give any.
    floor: u16,
    /// Scratch of a burst.
    turn: Box<Apart<Turn>>,
}

/// What becomes of the slots that a receive queue took.
#[derive(Debug)]
pub(super) struct Turn {
    /// The slots, in the order in which they came; then those that go, and those that stay.
    heads: [DescId; BURST],
    /// Of each slot the bytes of header and frame if it goes, else 0.
    bytes: [u32; BURST],
    /// Slots that were looked at.
    seen: usize,
    /// Of these, those that go.
    count: usize,
    /// Those for which there was no room.
    full: usize,
    stay: [DescId; BURST],
}

impl Turn {
    const fn new() -> Self {
        let heads = [DescId::FIRST; BURST];
        Self { heads, bytes: [0; BURST], seen: 0, count: 0, full: 0, stay: heads }
    }

    /// Nothing was looked at yet, and at most `room` may go.
    #[inline(always)]
    pub(super) fn begin(&mut self, room: usize) -> Notes<'_> {
        let Self { bytes, seen, count, full, .. } = self;
        (*seen, *count, *full) = (0, 0, 0);
        Notes { bytes: bytes.iter_mut(), room, count: 0, full: 0, noted: (seen, count, full) }
    }

    /// Has `ring` give away the `count` slots that were looked at. How many it did.
    #[inline(always)]
    pub(super) fn give_away(&mut self, count: usize, ring: &mut impl SharedSlots) -> usize {
        ring.give_away(self.heads.get_mut(..count).unwrap_or_default())
    }

    /// Puts those that go in front, with their bytes. Those that stay.
    #[inline(always)]
    pub(super) fn sort(&mut self) -> &[DescId] {
        if self.count == self.seen {
            return &[];
        }
        let (mut go, mut stay) = (0usize, 0usize);
        for at in 0..self.seen.min(BURST) {
            let (Some(head), Some(bytes)) = (self.heads.get(at).copied(), self.bytes.get(at).copied()) else { break };
            if bytes == 0 {
                if let Some(to) = self.stay.get_mut(stay) {
                    *to = head;
                }
                stay = stay.wrapping_add(1);
            } else if let (Some(to), Some(to_bytes)) = (self.heads.get_mut(go), self.bytes.get_mut(go)) {
                // Never behind the one that was just looked at.
                (*to, *to_bytes) = (head, bytes);
                go = go.wrapping_add(1);
            }
        }
        self.stay.get(..stay).unwrap_or_default()
    }

    /// Slots for which there was no room.
    #[inline(always)]
    pub(super) const fn full(&self) -> usize {
        self.full
    }

    /// Those that go, and their bytes.
    #[inline(always)]
    pub(super) fn slots(&self) -> (&[DescId], &[u32]) {
        let Self { heads, bytes, count, .. } = self;
        (heads.get(..*count).unwrap_or_default(), bytes.get(..*count).unwrap_or_default())
    }
}

/// What is noted while slots are looked at, one after the other.
pub(super) struct Notes<'a> {
    bytes: core::slice::IterMut<'a, u32>,
    /// At most so many may go.
    room: usize,
    /// Those that go, and those for which there was no room: counted here, and noted at the end, because looking at a frame forces
    /// what is in memory to be loaded again.
    count: usize,
    full: usize,
    noted: (&'a mut usize, &'a mut usize, &'a mut usize),
}

impl Notes<'_> {
    #[inline(always)]
    pub(super) const fn is_full(&self) -> bool {
        self.count >= self.room
    }

    /// The next slot goes, with so many bytes.
    #[inline(always)]
    pub(super) fn goes(&mut self, bytes: usize) {
        // The bytes of a slot, which are fewer.
        self.note(u32::try_from(bytes & 0xffff_ffff).unwrap_or(0));
        self.count = self.count.wrapping_add(1);
    }

    /// The next slot stays.
    #[inline(always)]
    pub(super) fn stays(&mut self) {
        self.note(0);
    }

    /// As [`stays`](Self::stays), for want of room.
    #[cold]
    pub(super) fn finds_no_room(&mut self) {
        self.full = self.full.wrapping_add(1);
        self.note(0);
    }

    #[inline(always)]
    fn note(&mut self, bytes: u32) {
        if let Some(to) = self.bytes.next() {
            *to = bytes;
        }
    }

    /// There are no more.
    #[inline(always)]
    pub(super) fn end(self) {
        let (seen, count, full) = self.noted;
        (*seen, *count, *full) = (BURST.wrapping_sub(self.bytes.len()), self.count, self.full);
    }
}

impl QueuePair {
    /// Takes up to `most` received frames, at most 64, and sends those that `decide` says yes to from where they lie: without a
    /// copy. The others are dropped. Returns how many were taken.
    ///
    /// Frames that are too short, or whose header uses what was not negotiated, are dropped before, and counted as in
    /// [`RxStats`](super::RxStats). A frame holds its slot until the device has sent it, and a quarter of the slots to receive by
    /// stay with the receive queue: frames beyond that are dropped before they are decided on, and counted as
    /// [`full`](super::TxStats::full). Whoever does not want that asks for fewer frames while many are
    /// [`outstanding`](super::TxQueue::outstanding).
    ///
    /// A header that the device wrote as it must is sent as it is, with a `num_buffers` of 1, as DPDK's drivers do. That departs from
    /// virtio 1.3, 5.1.6.2.1, by which a driver has to set the field to zero; 5.1.6.2 says that it is unused on transmitted packets.
    /// To store it would take the line of each header from one side to the other twice. A header that says anything else is
    /// written anew, with zeroes.
    ///
    /// # Errors
    /// [`NetError::Misuse`] if the pair was not made for it ([`NetOptions::hairpin`](super::NetOptions::hairpin)), or
    /// [`NetError::Violation`], new or latched.
    #[inline]
    pub fn hairpin(
        &mut self,
        most: usize,
        decide: impl FnMut(&mut HairpinFrame<'_>) -> bool,
    ) -> Result<usize, NetError> {
        let Self { rx, tx, shares: Some(shares), .. } = self else { return Err(Misuse::NoHairpin.into()) };
        let Shares { low, floor, turn, .. } = shares;
        let (low, room, turn) = (*low, usize::from(rx.posted().saturating_sub(*floor)), &mut turn.0);
        let taken = rx.turn_round((most, room), tx.words(), turn, decide)?;
        if taken > 0 {
            tx.send_turn(turn)?;
        }
        if taken == 0 || rx.posted() < low {
            self.settle()?;
        }
        Ok(taken)
    }

    /// Gives the receive queue the slots that were sent from, but for the reserve.
    pub(super) fn settle(&mut self) -> Result<(), Violation> {
        let Self { rx, tx, shares: Some(Shares { reserve, turn, .. }), .. } = self else { return Ok(()) };
        if tx.outstanding() > 0 {
            tx.reclaim()?;
        }
        loop {
            let surplus = usize::from(tx.free().saturating_sub(*reserve)).min(BURST);
            let Some(heads) = turn.0.heads.get_mut(..surplus).filter(|heads| !heads.is_empty()) else { return Ok(()) };
            let given = tx.give_away(heads);
            rx.take_in(heads.get(..given).unwrap_or_default());
        }
    }

    /// The pair with all slots of the receive queue for both, before any is posted: a quarter to send by, the others to receive by.
    pub(super) fn with_shared_slots(mut self) -> Self {
        let all = self.rx.size();
        let (reserve, receive) = (all / 4, all.saturating_sub(all / 4));
        let given = self.rx.keep_first(receive.into());
        self.tx.share(&given);
        let (low, floor) = (receive.saturating_sub(receive / 4), receive / 4);
        self.shares = Some(Shares { reserve, low, floor, turn: Box::new(Apart(Turn::new())) });
        self
    }

    /// Whether of a pair that shares its slots one of the queues has each of them. For audits.
    pub(super) fn are_slots_shared_out(&self) -> bool {
        if self.shares.is_none() {
            return true;
        }
        let mut all: Vec<_> = self.rx.own().into_iter().chain(self.tx.own()).map(DescId::get).collect();
        all.sort_unstable();
        all.into_iter().eq(0..self.rx.size())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ironring_common::features::{Feature, Offered, Supported, negotiate};
    use ironring_common::index::QueueSize;
    use ironring_common::shm::mapping::Pages;
    use ironring_common::shm::words::Words;
    use ironring_common::spec::net::HDR_BYTES;

    use crate::arena::{Arena, ArenaShape};
    use crate::net::bringup::Maker;
    use crate::queue::RingLayout;
    use crate::queue::violation::Latch;

    const FRAME: [u8; 60] = [7; 60];

    /// Whatever the device wrote into the slots that they go by: 255 everywhere.
    #[test]
    fn frames_of_the_callers_own_have_headers_of_ours() {
        for layout in [RingLayout::Split, RingLayout::Packed] {
            let queue_size = QueueSize::split(16).unwrap();
            let (slot_bytes, pages, shared_slots) = (128, Pages::Normal, true);
            let shape = ArenaShape { queue_size, pairs: 1, slot_bytes, layout, table_entries: 0, pages, shared_slots };
            let arena = Arena::create(shape).unwrap();
            let negotiated = negotiate(Offered(u64::MAX), Supported::none().require(Feature::Version1)).unwrap();
            let (latch, supervisor) = (Latch::new(), None);
            let maker =
                Maker { arena: &arena, queue_size, negotiated, frame_max: 116, latch: &latch, supervisor: &supervisor };
            let mut pair = maker.pair(0, Duration::ZERO).unwrap().with_shared_slots();
            assert_eq!((pair.tx.own().len(), pair.rx.own().len()), (4, 12));
            let slots = &arena.queue(0).unwrap().slots;
            slots.copy_in(0, &vec![255; slots.len()]);
            assert_eq!(pair.tx().tx_burst(&[FRAME; 2]).unwrap(), 2);
            assert_eq!(pair.tx().tx_burst_in_place(1, 60, |frame| frame.write(0, &FRAME).unwrap()).unwrap(), 1);
            let mut slot = pair.tx().slot(60).unwrap().unwrap();
            slot.write(0, &FRAME).unwrap();
            slot.send().unwrap();
            assert_eq!(pair.tx().tx_burst(&[FRAME]).unwrap(), 0, "the others are the receive queue's");
            let mut bytes = vec![0; slots.len()];
            slots.copy_out(0, &mut bytes);
            let mut found = 0;
            for (at, frame) in bytes.windows(60).enumerate().filter(|(_, bytes)| **bytes == FRAME) {
                assert_eq!(bytes[at - HDR_BYTES..at], [0; HDR_BYTES], "{layout:?} {frame:?}");
                found += 1;
            }
            assert_eq!((found, pair.is_conserved()), (4, true));
        }
    }
}
