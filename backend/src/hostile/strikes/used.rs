//! Lies in the used ring, which the device owns. The next honest store of a word ends them.

use ironring_common::index::DescId;
use ironring_common::index::QueueSize;
use ironring_common::shm::mapping::Area;
use ironring_common::spec::net::{ETH_HEADER_BYTES, HDR_BYTES};
use ironring_common::spec::split::UsedElem;

use super::{Aim, Books, Scene, Strike};
use crate::hostile::book::Posted;
use crate::hostile::rng::Rng;
use crate::hostile::words;
use crate::vring::hook::{Moment, RingMemory};

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

/// A18: the index is further ahead than any driver's outstanding chains, and not so far that it seems to go back.
pub(super) struct IdxJump;

impl Strike for IdxJump {
    fn used_idx(&mut self, idx: u16, scene: &mut Scene<'_>) -> u16 {
        let size = u64::from(scene.book.size.get());
        let jump = scene.rng.between(size, u64::from(u16::MAX).saturating_sub(size).max(size));
        idx.wrapping_add(u16::try_from(jump).unwrap_or(1 << 15))
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
        chain_of(elem, scene).map(|chain| chain.ids.iter().skip(1).copied().collect()).unwrap_or_default();
    scene.rng.pick(&rest).map_or(elem, |id| UsedElem { id: u32::from(id.get()), ..elem })
}

/// A26: not outstanding. A ring with everything in flight has no such id.
pub(super) fn id_free(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let free = scene.book.not_outstanding();
    scene.rng.pick(&free).map_or(elem, |id| UsedElem { id: u32::from(id.get()), ..elem })
}

/// A31: more than was posted writable.
pub(super) fn len_over(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let posted = chain_of(elem, scene).map_or(0, |chain| chain.writable_len);
    let over = scene.rng.pick(&[posted.saturating_add(1), posted.saturating_add(1 << 16), u64::from(u32::MAX)]);
    match u32::try_from(over.unwrap_or(u64::MAX)) {
        Ok(len) if posted > 0 => UsedElem { len, ..elem },
        _ => elem,
    }
}

/// A35: nothing was written.
pub(super) fn len_zero(elem: UsedElem, _scene: &mut Scene<'_>) -> UsedElem {
    UsedElem { len: 0, ..elem }
}

/// A36: less than a net header, or less than an Ethernet header after it.
pub(super) fn len_short_hdr(elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let (net, ethernet) = (HDR_BYTES as u64, HDR_BYTES.wrapping_add(ETH_HEADER_BYTES) as u64);
    let low = scene.rng.between(1, net.saturating_sub(1));
    let high = scene.rng.between(net, ethernet.saturating_sub(1));
    let short = u32::try_from(scene.rng.pick(&[low, high]).unwrap_or(low)).unwrap_or(1);
    if elem.len > short { UsedElem { len: short, ..elem } } else { elem }
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
        if let ([only], Moment::Complete, true) = (scene.book.burst.as_slice(), moment, scene.due) {
            words::store_used(ring.used, ring.next_used, ring.size, *only);
            self.surplus = 1;
            return 1;
        }
        0
    }

    fn used_idx(&mut self, idx: u16, _scene: &mut Scene<'_>) -> u16 {
        idx.wrapping_add(std::mem::take(&mut self.surplus))
    }
}

/// A39: an element of the burst flips, from before its index is published until the next burst of its ring.
#[derive(Default)]
pub(super) struct Toctou {
    flipping: Option<Flipping>,
}

struct Flipping {
    used: Area,
    /// The free-running index of the element.
    index: u16,
    size: QueueSize,
    honest: UsedElem,
    bogus: UsedElem,
    /// Whether it was counted.
    counted: bool,
}

impl Strike for Toctou {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        if moment == Moment::Complete && scene.due {
            let count = u64::try_from(scene.book.burst.len()).unwrap_or(0);
            let nth = scene.rng.below(count);
            let honest = usize::try_from(nth).ok().and_then(|nth| scene.book.burst.get(nth).copied());
            let back = u16::try_from(count.saturating_sub(nth)).unwrap_or(0);
            self.flipping = honest.map(|honest| Flipping {
                used: ring.used.clone(),
                index: ring.next_used.wrapping_sub(back),
                size: ring.size,
                honest,
                bogus: bogus(honest, scene),
                counted: false,
            });
        }
        0
    }

    fn burst_begins(&mut self) {
        self.rest();
    }

    fn race(&mut self, _books: &mut Books, _aim: Aim, _rng: &mut Rng) -> u64 {
        let Some(flipping) = &mut self.flipping else { return 0 };
        for _ in 0..FLIPS {
            flipping.store(flipping.bogus);
            flipping.store(flipping.honest);
        }
        // The bogus value stands while the thread is away, so that half of the time it is this one.
        flipping.store(flipping.bogus);
        u64::from(!std::mem::replace(&mut flipping.counted, true))
    }

    fn rest(&mut self) {
        if let Some(flipping) = self.flipping.take() {
            flipping.store(flipping.honest);
        }
    }
}

impl Flipping {
    fn store(&self, elem: UsedElem) {
        words::store_used(&self.used, self.index, self.size, elem);
    }
}

/// What an element flips to: an id that does not exist, a length beyond the buffer, or one below its headers.
fn bogus(honest: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
    let lies: [Lie; 3] = [id_oob, len_over, len_short_hdr];
    let lie = scene.rng.pick(&lies).map_or(honest, |lie| lie(honest, scene));
    if lie == honest { id_oob(honest, scene) } else { lie }
}

/// The chain that an honest element completes.
fn chain_of<'a>(elem: UsedElem, scene: &'a Scene<'_>) -> Option<&'a Posted> {
    let head = DescId::below(u16::try_from(elem.id).ok()?, scene.book.size)?;
    scene.book.chain(head)
}

/// Flips in a racing run.
const FLIPS: u32 = 32;
