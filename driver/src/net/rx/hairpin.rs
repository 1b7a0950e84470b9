//! Received frames that go out again from where they lie: the receive queue's part.

use ironring_common::index::DescId;
use ironring_common::shm::area::Area;
use ironring_common::shm::view::{Ours, Theirs};
use ironring_common::spec::net::{self, Header};

use super::slots::{RxSlots, is_plain, note};
use super::{LeasedFrame, RxQueue};
use crate::boundary;
use crate::net::ahead;
use crate::net::hairpin::{HairpinFrame, Turn};
use crate::queue::DriverRing;
use crate::queue::any::AnyRing;
use crate::queue::slots::{BURST, SharedSlots, SlotRing, Taken};
use crate::queue::violation::Violation;

impl RxQueue {
    /// Takes up to `most` frames, a burst at most, and has `decide` look at them, or at as many as there is `room` for. The slots
    /// of those that it says yes to are given away, by `turn`; the others are posted again. Returns how many were taken. What goes
    /// out is written by `out`.
    #[inline]
    pub(in crate::net) fn turn_round(
        &mut self,
        (most, room): (usize, usize),
        out: &Ours<Area>,
        turn: &mut Turn,
        decide: impl FnMut(&mut HairpinFrame<'_>) -> bool,
    ) -> Result<usize, Violation> {
        // A receive queue posts all that it has, unless the caller's own code panicked between.
        if self.ring.free() > 0 {
            self.post();
        }
        let slots = &mut self.slots;
        let taken = match &mut self.ring {
            AnyRing::Split(ring) => slots.take_out(ring, most),
            AnyRing::Packed(ring) => slots.take_out(ring, most),
        };
        let count = self.sound(taken)?;
        if count == 0 {
            return Ok(0);
        }
        self.slots.decide(count, room, out, turn, decide);
        // So what is free is what has just come back, in that order, where records tell who is out.
        debug_assert!(self.ring.ledger().goes_by_records(), "its descriptors are shared");
        let given = turn.give_away(count, &mut self.ring);
        assert!(given == count && self.ring.free() == 0, "what came back is all that is free");
        let stay = turn.sort();
        if !stay.is_empty() {
            self.ring.take_in_last(stay);
            self.post();
        }
        Ok(count)
    }

    /// Posts slots that were given away before.
    #[inline]
    pub(in crate::net) fn take_in(&mut self, heads: &[DescId]) {
        self.ring.take_in_last(heads);
        self.post();
    }

    /// Posts what is free.
    #[inline]
    fn post(&mut self) {
        let slots = &self.slots;
        match &mut self.ring {
            AnyRing::Split(ring) => slots.fill(ring),
            AnyRing::Packed(ring) => slots.fill(ring),
        }
        self.show_enough();
    }

    /// Slots that are posted.
    #[inline]
    pub(in crate::net) fn posted(&self) -> u16 {
        self.ring.outstanding()
    }

    /// Gives away the slots that it has beyond `most`, before any is posted.
    pub(in crate::net) fn keep_first(&mut self, most: usize) -> Vec<DescId> {
        self.ring.keep_first(most)
    }

    /// Descriptors of the queue.
    pub(in crate::net) fn size(&self) -> u16 {
        self.ring.size().get()
    }

    /// Slots that it has, posted or not.
    pub(in crate::net) fn own(&self) -> Vec<DescId> {
        self.ring.own()
    }
}

impl RxSlots {
    /// Takes completed slots, `most` and a burst at most: they are free then.
    #[inline(always)]
    fn take_out<R: SlotRing>(&mut self, ring: &mut R, most: usize) -> Taken {
        let note = note(self.mapper, &mut self.filled, self.slots.ask());
        ring.take_slots(most.min(BURST), note)
    }

    /// Has `decide` look at the frames of the completed slots, `taken` of them, and notes in `turn` which go.
    #[inline]
    fn decide(
        &mut self,
        taken: usize,
        room: usize,
        out: &Ours<Area>,
        turn: &mut Turn,
        mut decide: impl FnMut(&mut HairpinFrame<'_>) -> bool,
    ) {
        let Self { slots, filled, stats, .. } = self;
        let (words, done, ask) = (slots.words(), &mut filled.0, slots.ask());
        let bytes_of = words.bytes();
        let (mut kept, mut sum) = (0usize, 0usize);
        let mut notes = turn.begin(room);
        slots.begin();
        for (filled, later) in ahead(done, taken) {
            ask(later.at());
            let (at, bytes) = (filled.at(), filled.bytes());
            if bytes < net::HDR_BYTES.wrapping_add(net::ETH_HEADER_BYTES) {
                stats.drop_short();
                notes.stays();
                continue;
            }
            if !boundary::has_header(&bytes_of, at, &HEADER) && !mend_header(words, at, out) {
                stats.drop_header();
                notes.stays();
                continue;
            }
            if notes.is_full() {
                notes.finds_no_room();
                continue;
            }
            let len = bytes.wrapping_sub(net::HDR_BYTES);
            (kept, sum) = (kept.wrapping_add(1), sum.wrapping_add(len));
            let leased = LeasedFrame::new(slots, at.wrapping_add(net::HDR_BYTES), len);
            if decide(&mut HairpinFrame::new(leased, out)) {
                notes.goes(bytes);
            } else {
                notes.stays();
            }
        }
        notes.end();
        let count = |count: usize| u64::try_from(count).unwrap_or(0);
        stats.used_entries = stats.used_entries.wrapping_add(count(taken));
        stats.frames = stats.frames.wrapping_add(count(kept));
        stats.bytes = stats.bytes.wrapping_add(count(sum));
    }
}

/// Replaces a header that is not the usual one by that of a frame to be sent, unless it asks for what was not negotiated; whether it
/// did. It is decided by a private copy.
#[cold]
fn mend_header(words: &Theirs<Area>, at: usize, out: &Ours<Area>) -> bool {
    let mut header = [0; net::HDR_BYTES];
    boundary::copy_completed(words, at, &mut header);
    let is_plain = is_plain(Header::from_bytes(header));
    if is_plain {
        out.zero(at, net::HDR_BYTES);
    }
    is_plain
}

/// What a device writes before a frame (5.1.6.3.1 and 5.1.6.4.1), and what is sent before it: see [`QueuePair::hairpin`].
///
/// [`QueuePair::hairpin`]: crate::net::QueuePair::hairpin
const HEADER: [u8; net::HDR_BYTES] = Header::PLAIN_RX.to_bytes();

#[cfg(test)]
mod tests {
    use ironring_common::shm::mapping::{Mapping, Memfd};
    use ironring_common::shm::words::Words;

    use super::*;

    /// 5.1.6.4.1: what says that a checksum holds, or how long headers are, asks for nothing.
    #[test]
    fn a_header_that_asks_for_something_is_refused_and_any_other_is_written_anew() {
        let area = Mapping::of(&Memfd::create("header", 128).unwrap()).unwrap().area(0, 128).unwrap();
        let (words, out) = (Theirs::new(area.clone()), Ours::new(area.clone()));
        for at in [0, 52] {
            for (flags, gso_type, goes) in [(2, 0, true), (0, 0, true), (1, 0, false), (0, 1, false), (3, 3, false)] {
                let said =
                    Header { flags, gso_type, hdr_len: 9, gso_size: 8, csum_start: 7, csum_offset: 6, num_buffers: 5 };
                area.copy_in(0, &[255; 128]);
                area.copy_in(at, &said.to_bytes());
                assert_eq!(mend_header(&words, at, &out), goes, "{said:?}");
                let mut expected = [255; 128];
                expected[at..at + net::HDR_BYTES].copy_from_slice(&if goes { [0; _] } else { said.to_bytes() });
                let mut found = [0; 128];
                area.copy_out(0, &mut found);
                assert_eq!(found, expected, "{said:?}");
            }
        }
    }
}
