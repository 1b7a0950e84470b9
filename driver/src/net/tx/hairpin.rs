//! Received frames that go out again from where they lie: the transmit queue's part.

use ironring_common::index::DescId;
use ironring_common::shm::area::Area;
use ironring_common::shm::view::Ours;

use super::{TxQueue, TxSlots};
use crate::mapper::Direction;
use crate::net::hairpin::Turn;
use crate::queue::DriverRing;
use crate::queue::any::AnyRing;
use crate::queue::slots::{SharedSlots, SlotRing};
use crate::queue::violation::Violation;

impl TxQueue {
    /// Shows the device the frames of a turn in the slots where they lie, and counts those for which there was no room.
    #[inline]
    pub(in crate::net) fn send_turn(&mut self, turn: &Turn) -> Result<(), Violation> {
        let slots = &mut self.slots;
        slots.count_full(turn.full());
        match &mut self.ring {
            AnyRing::Split(ring) => slots.send_turn(ring, turn),
            AnyRing::Packed(ring) => slots.send_turn(ring, turn),
        }
        self.publish()
    }

    /// The slots, to write frames into.
    #[inline]
    pub(in crate::net) const fn words(&self) -> &Ours<Area> {
        &self.slots.words
    }

    /// Slots that are free.
    #[inline]
    pub(in crate::net) fn free(&self) -> u16 {
        self.ring.free()
    }

    /// Gives away free slots, as many as there are and `to` has room for. How many.
    #[inline]
    pub(in crate::net) fn give_away(&mut self, to: &mut [DescId]) -> usize {
        self.ring.give_away(to)
    }

    /// Has just these slots from now on, which a receive queue gave away.
    pub(in crate::net) fn share(&mut self, own: &[DescId]) {
        self.ring.keep_first(0);
        self.ring.take_in_last(own);
        self.slots.shared = true;
    }

    /// Slots that it has, free or out.
    pub(in crate::net) fn own(&self) -> Vec<DescId> {
        self.ring.own()
    }
}

impl TxSlots {
    #[inline(always)]
    fn send_turn<R: SlotRing + SharedSlots>(&mut self, ring: &mut R, turn: &Turn) {
        let (heads, lens) = turn.slots();
        ring.take_in_first(heads);
        let mut bytes = 0u64;
        let lens = lens.iter().map(|len| {
            bytes = bytes.wrapping_add(u64::from(*len));
            *len
        });
        let posted = ring.post_slots(Direction::ToDevice, heads.len(), lens, |_, _| {});
        assert!(posted == heads.len(), "slots that came in are free");
        self.count_sent(posted, bytes);
    }
}
