//! Lies in the used ring, which the device owns. The next honest store of a word ends them.

use ironring_common::index::DescId;
use ironring_common::index::QueueSize;
use ironring_common::shm::area::Area;
use ironring_common::spec::packed::SlotRest;
use ironring_common::spec::split::UsedElem;

use super::{Aim, Books, Scene, Strike, Turns, lengths};
use crate::hostile::rng::Rng;
use crate::hostile::words::{self, Word};
use crate::vring::hook::{Moment, Parts, RingMemory};

/// A lie about one completion; the honest element if it is no occasion for it.
type Lie = fn(UsedElem, &mut Scene<'_>) -> UsedElem;

/// Tells one lie in each burst that is due.
struct OnElem(Lie);

pub(super) fn on_elem(lie: Lie) -> Box<dyn Strike> {
    Box::new(OnElem(lie))
}

impl Strike for OnElem {
    fn used_elem(&mut self, elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
        (self.0)(elem, scene)
    }
}

/// A23: no descriptor of the queue, at any width.
pub(super) fn id_oob(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let size = u32::from(scene.book.size.get());
    let any = u32::try_from(scene.rng.between(u64::from(size), u64::from(u16::MAX))).unwrap_or(size);
    UsedElem { id: scene.rng.pick(&[size, any, u32::from(u16::MAX), u32::MAX]).unwrap_or(size), ..elem }
}

/// A24: right in its lower 16 bits.
pub(super) fn id_trunc(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let high = u32::try_from(scene.rng.between(1, u64::from(u16::MAX))).unwrap_or(1);
    UsedElem { id: elem.id | scene.rng.pick(&[1, 1 << 15, high]).unwrap_or(1).wrapping_shl(16), ..elem }
}

/// A25: in the middle of the chain. Chains of one descriptor have no middle.
pub(super) fn id_midchain(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let rest: Vec<_> =
        scene.book.completing().map(|chain| chain.ids.iter().skip(1).copied().collect()).unwrap_or_default();
    scene.rng.pick(&rest).map_or(elem, |id| UsedElem { id: u32::from(id.get()), ..elem })
}

/// A26: not outstanding. A ring with everything in flight has no such id.
pub(super) fn id_free(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let free = scene.book.not_outstanding();
    scene.rng.pick(&free).map_or(elem, |id| UsedElem { id: u32::from(id.get()), ..elem })
}

/// A27: the second element of a burst names the chain of the first again. A burst of one gets a second element.
#[derive(Default)]
pub(super) struct IdDup {
    /// How many elements stand behind those of the burst.
    surplus: u16,
}

impl Strike for IdDup {
    fn used_elem(&mut self, elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
        // The burst holds this element already.
        match scene.book.burst.as_slice() {
            [first, _, ..] => UsedElem { id: first.id, ..elem },
            _ => elem,
        }
    }

    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        // In a packed ring the slot behind the burst may be the driver's.
        if let ([only], Moment::Complete, true) = (scene.book.burst.as_slice(), moment, scene.due)
            && let Parts::Split { used, next_used, .. } = ring.parts
        {
            words::store_used(used, next_used, ring.size, *only);
            self.surplus = 1;
            return 1;
        }
        0
    }

    fn used_idx(&mut self, idx: u16, _scene: &mut Scene<'_>) -> u16 {
        idx.wrapping_add(std::mem::take(&mut self.surplus))
    }
}

/// A39 and A55: a completion of the burst flips, from before it is published until the next burst of its ring.
#[derive(Default)]
pub(super) struct Toctou {
    flipping: Option<Flipping>,
    turns: Turns,
}

struct Flipping {
    place: Place,
    honest: u64,
    bogus: u64,
    /// Whether it was counted.
    counted: bool,
}

/// Where the completion stands.
enum Place {
    /// An element, which the device alone writes: its free-running index.
    Element { used: Area, index: u16, size: QueueSize },
    /// A slot, which the driver writes when it posts another chain there.
    Slot { ring: Area, slot: DescId },
}

impl Strike for Toctou {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        if scene.due && moment == Self::begins(ring) {
            self.flipping = Flipping::begin(ring, scene);
        }
        0
    }

    fn burst_begins(&mut self) {
        self.rest();
    }

    fn race(&mut self, _books: &mut Books, _aim: Aim, _rng: &mut Rng) -> u64 {
        let Some(flipping) = &mut self.flipping else { return 0 };
        for _ in 0..FLIPS {
            if !(flipping.store(flipping.honest, flipping.bogus) && flipping.store(flipping.bogus, flipping.honest)) {
                self.flipping = None;
                return 0;
            }
        }
        if !self.turns.next_is_rare() {
            flipping.store(flipping.honest, flipping.bogus);
        }
        u64::from(!std::mem::replace(&mut flipping.counted, true))
    }

    fn rest(&mut self) {
        if let Some(flipping) = self.flipping.take() {
            flipping.store(flipping.bogus, flipping.honest);
        }
    }
}

impl Toctou {
    /// A used slot that is the first of its burst stands only when the burst is published.
    const fn begins(ring: &RingMemory<'_>) -> Moment {
        match ring.parts {
            Parts::Split { .. } => Moment::Complete,
            Parts::Packed { .. } => Moment::PostUse,
        }
    }
}

impl Flipping {
    fn begin(ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> Option<Self> {
        let count = u64::try_from(scene.book.burst.len()).unwrap_or(0);
        let nth = scene.rng.below(count);
        let at = usize::try_from(nth).ok()?;
        let elem = *scene.book.burst.get(at)?;
        scene.book.completing = ring.heads.get(at).copied();
        let lie = bogus(elem, scene);
        match ring.parts {
            Parts::Split { used, next_used, .. } => {
                let index = next_used.wrapping_sub(u16::try_from(count.saturating_sub(nth)).unwrap_or(0));
                let place = Place::Element { used: used.clone(), index, size: ring.size };
                Some(Self { place, honest: elem.to_word(), bogus: lie.to_word(), counted: false })
            }
            Parts::Packed { ring: slots, .. } => {
                let slot = *ring.heads.get(at)?;
                let rest = words::slot(slots, slot);
                let lie = SlotRest { id: u16::try_from(lie.id).unwrap_or(u16::MAX), len: lie.len, ..rest };
                let place = Place::Slot { ring: slots.clone(), slot };
                Some(Self { place, honest: rest.to_word(), bogus: lie.to_word(), counted: false })
            }
        }
    }

    /// Stores `to` where `from` stands. `false` if something else stands there by now: then the driver has it.
    fn store(&self, from: u64, to: u64) -> bool {
        match &self.place {
            Place::Element { used, index, size } => {
                words::store_used(used, *index, *size, UsedElem::from_word(to));
                true
            }
            // The word may hold either of the two.
            Place::Slot { ring, slot } => {
                words::replace(ring, *slot, Word::Rest, from, to) || words::load(ring, *slot, Word::Rest) == to
            }
        }
    }
}

/// What an element flips to: an id that does not exist, a length beyond the buffer, or one below its headers.
fn bogus(honest: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let lies: [Lie; 3] = [id_oob, lengths::over, lengths::short_header];
    let lie = scene.rng.pick(&lies).map_or(honest, |lie| lie(honest, scene));
    if lie == honest { id_oob(honest, scene) } else { lie }
}

/// Flips in a racing run.
const FLIPS: u32 = 32;
