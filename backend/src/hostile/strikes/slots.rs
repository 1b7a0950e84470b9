//! Lies in the slots of a packed ring, which both sides write.

use ironring_common::index::{DescId, PackedPosition};
use ironring_common::shm::area::Area;
use ironring_common::shm::words::Words;
use ironring_common::spec::packed::{DESC_F_AVAIL, DESC_F_USED, SlotRest, is_avail, used_flags};
use ironring_common::spec::split::{DESC_BYTES, DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE, UsedElem};

use super::descriptor::change;
use super::{Scene, Strike};
use crate::hostile::book::{Book, Life, Posted};
use crate::hostile::words::{self, Fields, Word};
use crate::vring::hook::{Moment, Parts, RingMemory};

/// A47: a buffer is used up in full and nothing was written into it: the slot says what the driver itself had written there,
/// but for the two flags.
#[derive(Default)]
pub(super) struct FakeUsed {
    /// Since the last burst. A buffer that was written in full gets no other length, so nothing else tells.
    struck: u64,
}

impl Strike for FakeUsed {
    fn wants_bytes(&self) -> bool {
        true
    }

    fn at(&mut self, moment: Moment, _ring: &RingMemory<'_>, _scene: &mut Scene<'_>) -> u64 {
        if moment == Moment::PostUse { std::mem::take(&mut self.struck) } else { 0 }
    }

    fn used_elem(&mut self, elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
        let Some(chain) = scene.book.completing() else { return elem };
        let (addr, len) = chain.buffer;
        match (u32::try_from(chain.writable_len), scene.book.memory.bytes(addr, len)) {
            (Ok(posted @ 1..), Some(bytes)) => {
                // What the honest ring has written is taken out again.
                bytes.copy_in(0, &chain.before);
                self.struck = self.struck.wrapping_add(1);
                UsedElem { len: posted, ..elem }
            }
            _ => elem,
        }
    }
}

/// A51: the id of another chain that is out, which takes another number of slots. From here on driver and device look at
/// different places.
pub(super) fn id_other_len(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let Some(chain) = scene.book.completing() else { return elem };
    let slots = chain.ids.len();
    let others: Vec<_> =
        scene.book.every_id().filter_map(|id| scene.book.chain(id)).filter(|other| other.ids.len() != slots).collect();
    let ids: Vec<_> = others.into_iter().map(|other| other.id).collect();
    scene.rng.pick(&ids).map_or(elem, |id| UsedElem { id: u32::from(id), len: 0 })
}

/// A53: the slots in the middle of a completed chain say that they are used, by other ids.
pub(super) fn id_from_middle(scene: &mut Scene<'_>, _ring: &RingMemory<'_>, _head: DescId, chain: &Posted) -> bool {
    let noise = u16::try_from(scene.rng.below(u64::from(scene.book.size.get()))).unwrap_or(0);
    let mut struck = false;
    for slot in chain.ids.iter().skip(1) {
        struck |= change(scene.book, *slot, Life::Posted, |slot| {
            // Used in the round in which it was available: the used flag follows the other one.
            let used = if slot.flags & DESC_F_AVAIL == 0 { 0 } else { DESC_F_USED };
            Fields { link: noise, len: slot.len.saturating_add(1), flags: slot.flags & !DESC_F_USED | used }
        });
    }
    struck
}

/// A56b: length, direction and link of a slot behind the first one of a completed chain.
pub(super) fn later_rest(scene: &mut Scene<'_>, _ring: &RingMemory<'_>, _head: DescId, chain: &Posted) -> bool {
    let later = chain.ids.get(1..).unwrap_or_default();
    let Some(slot) = scene.rng.pick(later) else { return false };
    let how = scene.rng.below(3);
    change(scene.book, slot, Life::Posted, |slot| match how {
        0 => Fields { len: slot.len.saturating_mul(2).saturating_add(4096), ..slot },
        1 => Fields { flags: slot.flags ^ DESC_F_WRITE, ..slot },
        _ => Fields { flags: slot.flags ^ DESC_F_NEXT, ..slot },
    })
}

/// A56c: a used slot has flags that mean something in an available one only.
pub(super) struct UsedFlags;

impl Strike for UsedFlags {
    fn used_flags(&mut self, flags: u16, scene: &mut Scene<'_>) -> u16 {
        let noise = scene.rng.pick(&[DESC_F_NEXT, DESC_F_INDIRECT, DESC_F_WRITE, DESC_F_NEXT | DESC_F_INDIRECT]);
        flags ^ noise.unwrap_or(DESC_F_NEXT)
    }
}

/// A57: the length of the slot of an indirect table, which the device overwrites, is one of a table with many entries.
pub(super) fn indirect_len(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let Some(chain) = scene.book.completing() else { return elem };
    let Some((_, entries)) = chain.table.filter(|_| chain.writable_len == 0) else { return elem };
    let more = scene.rng.between(1, 4096).saturating_add(u64::from(entries));
    let bytes = more.saturating_mul(u64::try_from(DESC_BYTES).unwrap_or(16));
    UsedElem { len: u32::try_from(bytes).unwrap_or(u32::MAX), ..elem }
}

/// A48: slots behind the last one that was posted say that they are used.
///
/// Only those that were never posted, so only in the first round of a ring: any other may hold a completion that the driver
/// has not taken yet, and to step on these is a device's own loss.
pub(super) struct FakeAhead;

impl Strike for FakeAhead {
    fn is_early(&self) -> bool {
        true
    }

    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        match (ring.parts, scene.book.packed_cursor()) {
            (Parts::Packed { ring: slots, .. }, Some(start)) if moment == Moment::PostUse && scene.due => {
                mark(scene.book, slots, start, ring.size.get())
            }
            _ => 0,
        }
    }
}

/// A60: before the first chain is posted, every slot says that it is used.
pub(super) struct FakeAtStart;

impl Strike for FakeAtStart {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        match ring.parts {
            Parts::Packed { ring: slots, next_avail, .. } if moment == Moment::Start && scene.due => {
                mark(scene.book, slots, next_avail, ring.size.get())
            }
            _ => 0,
        }
    }

    fn is_early(&self) -> bool {
        true
    }
}

/// Marks the slots from `start` on that were never posted. Returns whether there was any, as a number.
fn mark(book: &Book, slots: &Area, start: PackedPosition, count: u16) -> u64 {
    let mut at = start;
    let mut any = false;
    for _ in 0..count {
        if let Some(slot) = DescId::below(at.slot(), book.size).filter(|slot| book.is_untouched(*slot)) {
            any |= fake(slots, slot, at);
        }
        at = at.advance(1, book.size);
    }
    u64::from(any)
}

/// Marks a slot used in the round of `at`, unless the driver has something there.
fn fake(ring: &Area, slot: DescId, at: PackedPosition) -> bool {
    let word = words::load(ring, slot, Word::Rest);
    let rest = SlotRest::from_word(word);
    if is_avail(rest.flags, at.wrap()) {
        return false;
    }
    let marked = SlotRest { flags: used_flags(at.wrap()), id: slot.get(), len: 64 };
    words::replace(ring, slot, Word::Rest, word, marked.to_word())
}

/// A49: a burst is published with flags that do not say used: those of the other round, or unequal ones. It is put right at
/// a later look.
#[derive(Default)]
pub(super) struct WrapWrong {
    wrong: Option<Wrong>,
    /// What was published instead of what.
    lie: Option<(SlotRest, SlotRest)>,
}

struct Wrong {
    ring: Area,
    slot: DescId,
    honest: u64,
    bogus: u64,
}

impl Strike for WrapWrong {
    fn first_slot(&mut self, rest: SlotRest, scene: &mut Scene<'_>) -> SlotRest {
        if self.wrong.is_some() {
            return rest;
        }
        let how = scene.rng.pick(&[DESC_F_AVAIL | DESC_F_USED, DESC_F_USED]).unwrap_or(DESC_F_USED);
        let bogus = SlotRest { flags: rest.flags ^ how, ..rest };
        self.lie = Some((rest, bogus));
        bogus
    }

    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, _scene: &mut Scene<'_>) -> u64 {
        match (moment, ring.parts) {
            (Moment::PostUse, Parts::Packed { ring: slots, .. }) => {
                if let (Some((honest, bogus)), Some(slot)) = (self.lie.take(), ring.heads.first()) {
                    let (honest, bogus) = (honest.to_word(), bogus.to_word());
                    self.wrong = Some(Wrong { ring: slots.clone(), slot: *slot, honest, bogus });
                }
            }
            (Moment::Look | Moment::Stop, _) => self.rest(),
            _ => {}
        }
        0
    }

    fn rest(&mut self) {
        if let Some(Wrong { ring, slot, honest, bogus }) = self.wrong.take() {
            let _ = words::replace(&ring, slot, Word::Rest, bogus, honest);
        }
    }
}
