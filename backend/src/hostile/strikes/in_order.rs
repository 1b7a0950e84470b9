//! Lies of a device that has promised to use buffers in order (virtio 1.3, 2.7.9 and 2.8.9): one completion may stand for
//! all chains up to the one that it names.

use ironring_common::spec::packed::SlotRest;
use ironring_common::spec::split::UsedElem;

use super::{Scene, Strike};
use crate::hostile::words;
use crate::vring::hook::{Moment, Parts, RingMemory};

/// A44: the second completion of a burst names the chain of the first, which is neither the next one nor behind it. Any
/// other id of the queue may be out by the time that the driver looks, and then ends a lawful batch.
pub(super) fn id_unexpected(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    match scene.book.burst.as_slice() {
        [first, _, ..] => UsedElem { id: first.id, ..elem },
        _ => elem,
    }
}

/// A44b: a chain is named that is out, but further away than the index counts.
pub(super) fn batch_ahead(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    // Those of the burst are lawful ends of a batch; what is in flight longest is not.
    let waiting = scene.book.posted();
    if waiting > AHEAD.saturating_add(scene.book.burst.len())
        && let Some((head, chain)) = scene.book.in_flight(&[])
    {
        // A length that is lawful for it.
        let room = u32::try_from(chain.writable_len).unwrap_or(u32::MAX);
        return UsedElem { id: u32::from(head.get()), len: elem.len.min(room) };
    }
    elem
}

/// A45: no chain is ever given back by what is named, so a driver that completes chains until it meets that goes on to the
/// last of them.
pub(super) fn batch_bogus(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let size = u32::from(scene.book.size.get());
    UsedElem { id: scene.rng.pick(&[size, u32::from(u16::MAX)]).unwrap_or(size), ..elem }
}

/// A46: the first completion of a burst names the last chain of it, so that nothing is said of what was written to the
/// others.
#[derive(Default)]
pub(super) struct LenOfSkipped {
    /// What the first slot of the burst is to say.
    first: Option<UsedElem>,
}

impl Strike for LenOfSkipped {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        if moment != Moment::Complete || !scene.due {
            return 0;
        }
        let [_, .., last] = scene.book.burst.as_slice() else { return 0 };
        match ring.parts {
            Parts::Split { used, next_used, .. } => {
                let count = u16::try_from(scene.book.burst.len()).unwrap_or(0);
                words::store_used(used, next_used.wrapping_sub(count), ring.size, *last);
                1
            }
            Parts::Packed { .. } => {
                self.first = Some(*last);
                0
            }
        }
    }

    fn first_slot(&mut self, rest: SlotRest, _scene: &mut Scene<'_>) -> SlotRest {
        let Some(UsedElem { id, len }) = self.first.take() else { return rest };
        SlotRest { id: u16::try_from(id).unwrap_or(u16::MAX), len, ..rest }
    }

    fn rest(&mut self) {
        self.first = None;
    }
}

/// Chains that a device may complete in the burst at hand, at most: those of the model and of live traffic are fewer.
const AHEAD: usize = 4;
