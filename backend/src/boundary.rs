//! Where this crate loads what a driver can write, and nowhere else.
//!
//! Each function makes one atomic load per word, checks it against the caller's private bounds, and lets a checked value
//! out. The bytes of packets come out by `copy_out`, into private memory, where they stand still; what is in them is
//! for `net` to judge.

use ironring_common::claim::Refused;
use ironring_common::index::{DescId, GuestAddr, QueueSize};
use ironring_common::shm::mapping::Bytes;
use ironring_common::shm::view::Theirs;
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{
    AVAIL_ENTRY_BYTES, AVAIL_F_NO_INTERRUPT, AVAIL_FLAGS, AVAIL_IDX, AVAIL_RING, DESC_BYTES, DESC_F_INDIRECT,
    DESC_F_NEXT, DESC_F_WRITE, Descriptor,
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
}

/// Why a descriptor was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadLink {
    /// It points to a table, which was not negotiated.
    Indirect,
    /// It goes on in this descriptor, which does not exist.
    Next(u16),
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

/// Loads a descriptor, each of its two words once.
#[inline]
pub(crate) fn descriptor<W: Words>(table: &Theirs<W>, id: DescId, size: QueueSize) -> Result<Link, BadLink> {
    let at = DESC_BYTES.wrapping_mul(id.index());
    let addr = table.load_u64_alleged(at).check_advisory("the region table checks every address when it is used");
    let rest = table.load_u64_alleged(at.wrapping_add(8));
    rest.map(|rest| Descriptor::from_words([addr, rest]))
        .check_with(|desc| {
            let next = if desc.flags & DESC_F_NEXT == 0 { None } else { Some(DescId::below(desc.next, size)?) };
            let segment = Segment { addr: GuestAddr(desc.addr), len: desc.len };
            let link = Link { segment, writable: desc.flags & DESC_F_WRITE != 0, next };
            (desc.flags & DESC_F_INDIRECT == 0).then_some(link)
        })
        .map_err(
            |Refused { observed }| {
                if observed.flags & DESC_F_INDIRECT == 0 { BadLink::Next(observed.next) } else { BadLink::Indirect }
            },
        )
}

/// Loads `avail.flags`: whether the driver wants to be called.
#[inline]
pub(crate) fn wants_call<W: Words>(avail: &Theirs<W>) -> bool {
    let why = "a wrong flag costs the driver a call too many or too few and nothing else";
    avail.load_u16_alleged(AVAIL_FLAGS).check_advisory(why) & AVAIL_F_NO_INTERRUPT == 0
}

/// Copies the bytes from `at` on of a driver's buffer to private memory. The caller has checked that they are there.
#[inline]
pub(crate) fn copy_out(from: Bytes<'_>, at: usize, to: &mut [u8]) {
    Theirs::new(from).copy_out_alleged(at, to);
}
