//! Where this crate loads what a driver can write, and nowhere else.
//!
//! The complete list of what is loaded, each word by one atomic load per decision:
//!
//! - `avail.idx`, by an Acquire load, checked against what there is room for;
//! - an entry of the available ring, checked at full width against the size of the queue;
//! - both words of a descriptor, or of a slot of a packed ring, the second one of the first slot by an Acquire load: flags and `next`
//!   are checked here, the address by the table of regions;
//! - `avail.flags`, `used_event`, or the driver's event area: hints about calls;
//! - `used.idx`, or the flags of all slots, once before the first chain of a ring that is started: where the last backend left it;
//! - of the header in a buffer that the driver sends the two bytes that may ask for something, and of one that is to be filled
//!   whether it has the usual header already;
//! - the bytes of a packet, and an indirect table, by one copy to private memory, where they stand still: what is in them is for `net`
//!   and for the walk to judge.

use ironring_common::claim::{Alleged, Refused};
use ironring_common::index::{DescId, GuestAddr, PackedPosition, QueueSize, SplitIndex, need_event, need_event_packed};
use ironring_common::shm::area::Bytes;
use ironring_common::shm::lane::{Element, Items, Lane};
use ironring_common::shm::view::{Both, BothElement, BothLane, Theirs, TheirsLane};
use ironring_common::shm::words::Words;
use ironring_common::spec::net;
use ironring_common::spec::packed::{self, Event, SLOT_BYTES, SlotRest};
use ironring_common::spec::split::{
    AVAIL_ENTRY_BYTES, AVAIL_F_NO_INTERRUPT, AVAIL_FLAGS, AVAIL_IDX, AVAIL_RING, DESC_BYTES, DESC_F_INDIRECT,
    DESC_F_NEXT, DESC_F_WRITE, Descriptor, USED_IDX, used_event_at,
};

use crate::vring::chain::Segment;

/// A descriptor whose words were loaded and whose flags and `next` are lawful. The segment's address is not looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// The buffer.
    pub(crate) segment: Segment,
    /// Whether the device may write it; otherwise it may read it.
    pub(crate) writable: bool,
    /// Where the chain goes on.
    pub(crate) next: Option<DescId>,
    /// Whether the segment is a table of descriptors.
    pub(crate) indirect: bool,
}

/// A slot of a packed ring, both words loaded. Its segment's address is not looked up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    /// The buffer, or a table of descriptors.
    pub(crate) segment: Segment,
    /// The buffer id; of a chain, the last slot's counts.
    pub(crate) id: u16,
    /// Whether the device may write it; otherwise it may read it.
    pub(crate) writable: bool,
    /// Whether the chain goes on in the next slot.
    pub(crate) more: bool,
    /// Whether the segment is a table of descriptors.
    pub(crate) indirect: bool,
}

/// Loads `avail.idx` and returns how many steps it is ahead of `last`, at most `room`.
///
/// The Acquire load pairs with the driver's Release store: it orders the entries and descriptors of the new chains,
/// and the bytes they carry, before our loads of them.
#[inline]
pub(crate) fn avail_steps<W: Words>(avail: &Theirs<W>, last: u16, room: u16) -> Result<u16, Refused<u16>> {
    avail.load_index_alleged(AVAIL_IDX).check_window(last, room)
}

/// Loads the entry in `slot` of the available ring: the head of a chain.
#[inline]
pub(crate) fn avail_head<W: Words>(avail: &Theirs<W>, slot: u16, size: QueueSize) -> Result<DescId, Refused<u16>> {
    // A slot is below 32768, so the offset is far from overflow.
    let at = AVAIL_RING.wrapping_add(AVAIL_ENTRY_BYTES.wrapping_mul(usize::from(slot)));
    avail.load_u16_alleged(at).check_with(|id| DescId::below(id, size))
}

/// The descriptor table of a split ring, as its words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table<L>(TheirsLane<L>);

/// The table of a ring of `size` descriptors.
#[inline(always)]
pub(crate) fn table<W: Words>(table: &Theirs<W>, size: QueueSize) -> Table<impl Lane + Copy + '_> {
    Table(table.lane::<2>(0, DESC_BYTES, usize::from(size.get())))
}

/// Loads a descriptor, each of its two words once. Refused if it goes on in one that does not exist.
#[inline(always)]
pub(crate) fn descriptor<L: Lane>(table: &Table<L>, id: DescId, size: QueueSize) -> Result<Link, Refused<u16>> {
    let why = "the region table checks every address when it is used";
    let addr = table.0.load_word_alleged::<ADDR>(id.index()).check_advisory(why);
    let rest = table.0.load_word_alleged::<REST>(id.index());
    rest.map(|rest| Descriptor::from_words([addr, rest]))
        .check_with(|desc| {
            let next = match desc.flags & (DESC_F_NEXT | DESC_F_INDIRECT) {
                DESC_F_NEXT => Some(DescId::below(desc.next, size)?),
                // A table that goes on is refused wherever it goes.
                flags => (flags & DESC_F_NEXT != 0).then_some(id),
            };
            let segment = Segment { addr: GuestAddr(desc.addr), len: desc.len };
            let (writable, indirect) = (desc.flags & DESC_F_WRITE != 0, desc.flags & DESC_F_INDIRECT != 0);
            Some(Link { segment, writable, next, indirect })
        })
        .map_err(|Refused { observed }| Refused { observed: observed.next })
}

/// As [`descriptor`], of one that is a chain by itself, no table, and for the device to fill if it `FILLS`, else to empty; `None`
/// of any other: the walk says what is wrong with it.
#[inline(always)]
pub(crate) fn single_descriptor<const FILLS: bool, L: Lane>(table: &Table<L>, id: DescId) -> Option<Segment> {
    let wanted = const { kind(FILLS) };
    let rest = table.0.load_word_alleged::<REST>(id.index());
    let rest = rest.map(|rest| Descriptor::from_words([0, rest]));
    let single = |desc: Descriptor| (desc.flags & ANY_KIND == wanted).then_some(desc);
    let Descriptor { len, .. } = rest.check_with(single).ok()?;
    let why = "the region table checks every address when it is used";
    let addr = table.0.load_word_alleged::<ADDR>(id.index()).check_advisory(why);
    Some(Segment { addr: GuestAddr(addr), len })
}

/// The slots of a packed ring, as their words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots<L>(BothLane<L>);

/// The slots of a ring of `size`.
#[inline(always)]
pub(crate) fn slots<W: Words>(ring: &Both<W>, size: QueueSize) -> Slots<impl Lane + Copy + '_> {
    Slots(ring.lane::<2>(0, SLOT_BYTES, usize::from(size.get())))
}

/// Loads the second word of a slot of a packed ring, if it says that the slot was made available in the round of `at`.
///
/// The Acquire load pairs with the driver's Release store of the flags that publish a burst: it orders all slots of the
/// burst, and the bytes that they carry, before our loads of them.
#[inline(always)]
pub(crate) fn slot_available<L: Lane>(slots: &Slots<L>, at: PackedPosition) -> Option<SlotRest> {
    let rest = slots.0.load_flags_alleged::<REST>(usize::from(at.slot())).map(SlotRest::from_word);
    rest.check_with(|rest| packed::is_avail(rest.flags, at.wrap()).then_some(rest)).ok()
}

/// Each of the items with a slot, from the one at `at` on: see [`Lane::along`].
#[inline(always)]
pub(crate) fn slots_along<L: Lane, I: Items>(
    slots: Slots<L>,
    at: PackedPosition,
    items: I,
) -> impl Iterator<Item = (I::Item, BothElement<L::Element>)> {
    slots.0.along(at.slot().into(), items)
}

/// The buffer of a slot whose second word was loaded before.
#[inline(always)]
pub(crate) fn segment<E: Element>(slot: &BothElement<E>, rest: SlotRest) -> Segment {
    located(slot.load_word_alleged::<ADDR>(), rest)
}

/// As [`segment`], of the slot at `at`.
#[inline(always)]
pub(crate) fn segment_at<L: Lane>(slots: &Slots<L>, at: PackedPosition, rest: SlotRest) -> Segment {
    located(slots.0.load_word_alleged::<ADDR>(usize::from(at.slot())), rest)
}

/// A buffer at the address that a slot says.
#[inline(always)]
fn located(addr: Alleged<u64>, rest: SlotRest) -> Segment {
    let addr = addr.check_advisory("the region table checks every address when it is used");
    Segment { addr: GuestAddr(addr), len: rest.len }
}

/// As [`slot_available`], of a slot that is a chain by itself, no table, and for the device to fill if it `FILLS`, else to empty: one
/// look at its flags. If it is another one, what it says if it is available all the same: the walk says what is wrong with it.
#[inline(always)]
pub(crate) fn single_slot<const FILLS: bool, E: Element>(
    slot: &BothElement<E>,
    wrap: bool,
) -> Result<SlotRest, Option<SlotRest>> {
    let rest = slot.load_flags_alleged::<REST>().map(SlotRest::from_word);
    let wanted = packed::avail_flags(wrap) | const { kind(FILLS) };
    rest.check_with(|rest| (rest.flags & (AVAIL_USED | ANY_KIND) == wanted).then_some(rest))
        .map_err(|Refused { observed }| Some(observed).filter(|rest| packed::is_avail(rest.flags, wrap)))
}

/// Whether what stands in an available slot is a chain by itself of that kind.
#[inline(always)]
pub(crate) const fn is_single<const FILLS: bool>(rest: SlotRest) -> bool {
    rest.flags & ANY_KIND == const { kind(FILLS) }
}

/// What these say of a chain by itself that the device fills, or empties.
pub(crate) const fn kind(fills: bool) -> u16 {
    if fills { DESC_F_WRITE } else { 0 }
}

/// The flags that tell what kind of chain a descriptor belongs to.
const ANY_KIND: u16 = DESC_F_NEXT | DESC_F_INDIRECT | DESC_F_WRITE;
/// The flags that tell whose a slot is.
const AVAIL_USED: u16 = packed::DESC_F_AVAIL | packed::DESC_F_USED;

/// The slot at `at`, whose second word was loaded when it was found available.
#[inline(always)]
pub(crate) fn first_slot<L: Lane>(slots: &Slots<L>, at: PackedPosition, rest: SlotRest) -> Slot {
    Slot {
        segment: segment_at(slots, at, rest),
        id: rest.id,
        writable: rest.flags & DESC_F_WRITE != 0,
        more: rest.flags & DESC_F_NEXT != 0,
        indirect: rest.flags & DESC_F_INDIRECT != 0,
    }
}

/// Loads a later slot of a chain, each of its two words once. The flags of the first one have made it available.
#[inline]
pub(crate) fn later_slot<L: Lane>(slots: &Slots<L>, at: PackedPosition) -> Slot {
    let rest = slots.0.load_word_alleged::<REST>(usize::from(at.slot())).map(SlotRest::from_word);
    let rest =
        rest.check_advisory("an id is echoed, a length is looked up with its address, and flags steer a bounded walk");
    first_slot(slots, at, rest)
}

/// The flags of a slot, wherever it stands: to find out where a ring is.
pub(crate) fn slot_flags<L: Lane>(slots: &Slots<L>, at: PackedPosition) -> u16 {
    let rest = slots.0.load_flags_alleged::<REST>(usize::from(at.slot())).map(SlotRest::from_word);
    rest.check_advisory("a driver that misleads us about where its ring is loses the ring and nothing else").flags
}

/// Loads the driver's event area: whether it wants to be called for the `steps` slots that were published up to `new`. A
/// wish that makes no sense counts as one for every call.
#[inline]
pub(crate) fn wants_call_packed<W: Words>(
    event: &Theirs<W>,
    new: PackedPosition,
    steps: u16,
    size: QueueSize,
    event_idx: bool,
) -> bool {
    let why = "a wrong event costs the driver a call too many or too few and nothing else";
    let event = event.load_u32_alleged(0).map(Event::from_word).check_advisory(why);
    match event.flags & packed::EVENT_F_MASK {
        packed::EVENT_F_DISABLE => false,
        packed::EVENT_F_DESC if event_idx => need_event_packed(event.off_wrap, new, steps, size),
        _ => true,
    }
}

/// Loads `used_event`: whether the driver wants to be called for what was published from `old` to `new`.
#[inline]
pub(crate) fn wants_call_at<W: Words>(avail: &Theirs<W>, size: QueueSize, new: u16, old: u16) -> bool {
    let why = "a wrong event costs the driver a call too many or too few and nothing else";
    let event = avail.load_u16_alleged(used_event_at(size)).check_advisory(why);
    need_event(event, SplitIndex(new), SplitIndex(old))
}

/// Loads `used.idx` as an earlier backend left it, before this one writes it for the first time. `None` if `avail.idx` is no
/// place that the driver can have reached from there.
pub(crate) fn used_index_left<W: Words>(used: &Theirs<W>, avail: &Theirs<W>, size: QueueSize) -> Option<u16> {
    let why = "any index is one to begin at; a wrong one is the driver's loss";
    let left = used.load_index_alleged(USED_IDX).check_advisory(why);
    avail_steps(avail, left, size.get()).ok().map(|_| left)
}

/// Loads `avail.flags`: whether the driver wants to be called.
#[inline]
pub(crate) fn wants_call<W: Words>(avail: &Theirs<W>) -> bool {
    let why = "a wrong flag costs the driver a call too many or too few and nothing else";
    avail.load_u16_alleged(AVAIL_FLAGS).check_advisory(why) & AVAIL_F_NO_INTERRUPT == 0
}

/// Loads flags and segmentation type of the net header at the start of a driver's buffer, a byte each, once. The caller has
/// checked that there is a header.
#[inline(always)]
pub(crate) fn header_wishes(from: Bytes<'_>) -> (u8, u8) {
    let from = Theirs::new(from);
    let why = "what a header asks for is refused or means nothing";
    let byte = |at| from.load_u8_alleged(at).check_advisory(why);
    (byte(net::HDR_FLAGS), byte(net::HDR_GSO_TYPE))
}

/// Whether a buffer that the caller is about to fill begins with this header already. The driver may say so and change it at once;
/// it then has the header that it wrote, and nothing else comes of it.
#[inline(always)]
pub(crate) fn has_header(buffer: Bytes<'_>, header: &[u8; net::HDR_BYTES]) -> bool {
    let why = "a header that stands is one that was written here or that the driver wants";
    Theirs::new(buffer).holds_alleged(0, header).check_advisory(why)
}

/// Copies the bytes from `at` on of a driver's buffer to private memory. The caller has checked that they are there.
#[inline]
pub(crate) fn copy_out(from: Bytes<'_>, at: usize, to: &mut [u8]) {
    Theirs::new(from).copy_out_alleged(at, to);
}

/// The word with the address, of a descriptor or of a slot.
const ADDR: usize = 0;
/// The word with all else.
const REST: usize = 1;
