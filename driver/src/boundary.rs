//! The driver's trust boundary: the only file that loads memory which the device can write.
//!
//! The complete list of what is loaded, each word once per decision:
//!
//! - `used.idx`, by an Acquire load, checked against the window of what was published and is not back;
//! - a used element, by one 64-bit load, its id redeemed by the ledger at full width, its length checked against what
//!   was posted writable;
//! - a slot of a packed ring at the private position, its second word by one 64-bit Acquire load, and only if something is
//!   out: flags, id and length of one moment; the id redeemed by the ledger, the length checked as above;
//! - `used.flags`, `avail_event`, or the device's event area, by one load: hints about kicks;
//! - of the header in a completed device-writable buffer of the network device the two bytes that may ask for something, each by one
//!   load; of one that goes back to the device where it lies, whether it is the usual header, and if not, a private copy;
//! - the bytes of such a buffer, as many as the checked length says, by one copy to private memory, or of a frame that is
//!   forwarded, by one copy into a transmit slot.
//!
//! Never a descriptor, an entry of the available ring, an indirect table, the address in a slot, a buffer that the device
//! only reads, or a word that this side alone writes. A test double counts the loads and fails on any other.

use ironring_common::claim::Alleged;
use ironring_common::index::{PackedPosition, QueueSize, SplitIndex, need_event, need_event_packed};
#[cfg(feature = "std")]
use ironring_common::shm::lane::Items;
use ironring_common::shm::lane::Lane;
#[cfg(feature = "std")]
use ironring_common::shm::view::TheirsLane;
use ironring_common::shm::view::{Both, BothLane, Theirs};
use ironring_common::shm::words::Words;
#[cfg(feature = "std")]
use ironring_common::shm::{
    area::{Area, Bytes},
    view::Ours,
};
#[cfg(feature = "std")]
use ironring_common::spec::net;
use ironring_common::spec::packed::{self, Event, SlotRest};
use ironring_common::spec::split::{self, UsedElem};

use crate::queue::violation::{Fault, ViolationKind};

/// A completion as the device claims it: id and length, from one load.
pub(crate) type Claim = (Alleged<u32>, Alleged<u32>);

/// The used ring of one split virtqueue, as this side reads it.
#[derive(Debug)]
pub(crate) struct UsedRing<W> {
    words: Theirs<W>,
    size: QueueSize,
}

impl<W: Words> UsedRing<W> {
    pub(crate) const fn new(words: Theirs<W>, size: QueueSize) -> Self {
        Self { words, size }
    }

    /// How many completions there are after `last`: the device's index, which may be ahead by the `held` chains at most.
    #[inline]
    pub(crate) fn completions(&self, last: SplitIndex, held: u16) -> Result<u16, Fault> {
        // Acquire: pairs with the device's Release store of used.idx, and orders the loads of the elements after it.
        let index = self.words.load_index_alleged(split::USED_IDX);
        index.check_window(last.0, held).map_err(|refused| Fault {
            kind: ViolationKind::UsedIndexJump,
            slot: u32::from(self.size.slot(last)),
            observed: u64::from(refused.observed),
            expected: u64::from(last.advance(held).0),
        })
    }

    /// The used element of one completion: id and length, from one load.
    #[inline]
    pub(crate) fn element(&self, index: SplitIndex) -> Claim {
        let slot = usize::from(self.size.slot(index));
        let at = slot.wrapping_mul(split::USED_ELEM_BYTES).wrapping_add(split::USED_RING);
        claim(self.words.load_u64_alleged(at))
    }

    /// Whether the device asks to be kicked.
    #[inline]
    pub(crate) fn kick_wanted(&self) -> bool {
        let flags = self.words.load_u16_alleged(split::USED_FLAGS);
        let flags = flags.check_advisory("a wrong flag costs a kick too many, or a delay that polling bounds");
        flags & split::USED_F_NO_NOTIFY == 0
    }
}

/// What bursts need.
#[cfg(feature = "std")]
impl<W: Words> UsedRing<W> {
    /// Descriptors of the queue.
    #[inline]
    pub(crate) const fn size(&self) -> QueueSize {
        self.size
    }

    /// The elements, for a burst.
    #[inline]
    pub(crate) fn elements(&self) -> UsedElements<impl Lane + Copy + '_> {
        let lane = self.words.lane::<1>(split::USED_RING, split::USED_ELEM_BYTES, usize::from(self.size.get()));
        UsedElements { lane, size: self.size }
    }

    /// Asks for the lines of the `count` elements from `index` on, as far as they lie before the end of the ring. No access.
    #[inline]
    pub(crate) fn prefetch(&self, index: SplitIndex, count: u16) {
        let first = usize::from(self.size.slot(index)).wrapping_mul(split::USED_ELEM_BYTES);
        let bytes = usize::from(count).wrapping_mul(split::USED_ELEM_BYTES);
        for at in (first..first.saturating_add(bytes)).step_by(64) {
            self.words.prefetch(at.wrapping_add(split::USED_RING));
        }
    }
}

/// The used elements, for a burst.
#[cfg(feature = "std")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct UsedElements<L> {
    lane: TheirsLane<L>,
    size: QueueSize,
}

#[cfg(feature = "std")]
impl<L: Lane> UsedElements<L> {
    /// Each of these items with an element, from the one of `index` on: at most to where the ring ends.
    #[inline(always)]
    pub(crate) fn along<I: Items>(self, index: SplitIndex, items: I) -> impl Iterator<Item = (I::Item, Claim)> {
        let elements = self.lane.along(usize::from(self.size.slot(index)), items);
        elements.map(|(item, elem)| (item, claim(elem.load_word_alleged::<0>())))
    }

    /// The used element of one completion: id and length, from one load.
    #[inline(always)]
    pub(crate) fn element(&self, index: SplitIndex) -> Claim {
        claim(self.lane.load_word_alleged::<0>(usize::from(self.size.slot(index))))
    }
}

/// What a used element says.
#[inline(always)]
fn claim(elem: Alleged<u64>) -> Claim {
    elem.map(UsedElem::from_word).map(|elem| (elem.id, elem.len)).split()
}

impl<W: Words> UsedRing<W> {
    /// With event indices: whether the device asks to be kicked for what was published from `old` to `new`.
    #[inline]
    pub(crate) fn kick_wanted_at(&self, new: SplitIndex, old: SplitIndex) -> bool {
        let event = self.words.load_u16_alleged(split::avail_event_at(self.size));
        let event = event.check_advisory("a wrong event costs a kick too many, or a delay that a watchdog bounds");
        need_event(event, new, old)
    }
}

/// The slot of a packed ring at `at`, if the device has used it in the round of that position: the id and the length, which
/// come from the same load as the flags.
#[inline]
pub(crate) fn used_slot<W: Words>(ring: &Both<W>, at: PackedPosition) -> Option<Claim> {
    let slots = usize::from(at.slot()).saturating_add(1);
    used_slot_of(&ring.lane::<1>(packed::SLOT_REST, packed::SLOT_BYTES, slots), at)
}

/// As [`used_slot`], of the second words of all slots, for a burst.
#[inline(always)]
pub(crate) fn used_slot_of<L: Lane>(rests: &BothLane<L>, at: PackedPosition) -> Option<Claim> {
    // Acquire: pairs with the device's Release store of this word, and orders the loads of the buffer after it.
    used_rest(rests.load_flags_alleged::<0>(usize::from(at.slot())), at.wrap())
}

/// As [`used_slot_of`], of one slot after the other from number `slot` on in a round of that `wrap` counter, with an item each, until one
/// is not used.
#[cfg(feature = "std")]
#[inline(always)]
pub(crate) fn used_slots_along<L: Lane, I: Items>(
    rests: BothLane<L>,
    (slot, wrap): (u16, bool),
    items: I,
) -> impl Iterator<Item = (I::Item, Claim)> {
    // Acquire: as there.
    rests
        .along(slot.into(), items)
        .map_while(move |(item, slot)| Some((item, used_rest(slot.load_flags_alleged::<0>(), wrap)?)))
}

/// The id and the length of a slot, if its second word says that it is used.
#[inline(always)]
fn used_rest(rest: Alleged<u64>, wrap: bool) -> Option<Claim> {
    let rest = rest.map(SlotRest::from_word);
    let used = rest.map(|rest| packed::is_used(rest.flags, wrap));
    let why = "a false mark is a completion, which the ledger judges; without a mark nothing happens";
    used.check_advisory(why).then(|| rest.map(|rest| (u32::from(rest.id), rest.len)).split())
}

/// What the device says in its event area.
#[derive(Debug)]
pub(crate) struct DeviceEvent<W> {
    words: Theirs<W>,
}

impl<W: Words> DeviceEvent<W> {
    pub(crate) const fn new(words: Theirs<W>) -> Self {
        Self { words }
    }

    /// Whether the device asks to be kicked for the `steps` slots that were published up to `new`. A wish that makes no sense
    /// counts as one for every kick.
    #[inline]
    pub(crate) fn kick_wanted(&self, new: PackedPosition, steps: u16, size: QueueSize, event_idx: bool) -> bool {
        let event = self.words.load_u32_alleged(0).map(Event::from_word);
        let event = event.check_advisory("a wrong event costs a kick too many, or a delay that a watchdog bounds");
        match event.flags & packed::EVENT_F_MASK {
            packed::EVENT_F_DISABLE => false,
            packed::EVENT_F_DESC if event_idx => need_event_packed(event.off_wrap, new, steps, size),
            _ => true,
        }
    }
}

/// Copies `to.len()` bytes of a completed device-writable buffer to private memory. The caller has checked the length
/// against what was posted; the position comes from its private record.
#[inline]
pub(crate) fn copy_completed<W: Words>(area: &Theirs<W>, at: usize, to: &mut [u8]) {
    area.copy_out_alleged(at, to);
}

/// Loads flags and segmentation type of the net header that begins at `at` of a completed device-writable buffer, a byte each,
/// once. The caller has checked that there is a header.
#[cfg(feature = "std")]
#[inline(always)]
pub(crate) fn header_wishes<W: Words>(area: &Theirs<W>, at: usize) -> (u8, u8) {
    let why = "a frame whose header asks for something is dropped, and nothing else of a header is used";
    let byte = |word: usize| area.load_u8_alleged(at.wrapping_add(word)).check_advisory(why);
    (byte(net::HDR_FLAGS), byte(net::HDR_GSO_TYPE))
}

/// Whether the header at `at` of a completed device-writable buffer is just this one. The caller has checked that there is a header.
#[cfg(feature = "std")]
#[inline(always)]
pub(crate) fn has_header(area: &Theirs<Bytes<'_>>, at: usize, header: &[u8; net::HDR_BYTES]) -> bool {
    let why = "a frame with this header goes back to the device, which may say there what it likes";
    area.holds_alleged(at, header).check_advisory(why)
}

/// Copies `len` bytes of a completed device-writable buffer into memory that the device reads: what a lease forwards. They are
/// looked at by nobody here.
#[cfg(feature = "std")]
#[inline(always)]
pub(crate) fn copy_over(area: &Theirs<Area>, at: usize, to: &Ours<Area>, to_at: usize, len: usize) {
    area.copy_over_alleged(at, to, to_at, len);
}
