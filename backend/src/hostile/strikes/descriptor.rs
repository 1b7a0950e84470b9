//! Stores into the descriptor table, which the driver owns.
//!
//! They come after the device is done with a chain and before the driver is told, so that a driver that reads the table
//! back when it detaches the chain reads what stands there now. The [book](crate::hostile::book) undoes them.

use ironring_common::index::{DescId, GuestAddr};
use ironring_common::shm::words::Words;
use ironring_common::spec::net::HDR_BYTES;
use ironring_common::spec::packed::{DESC_F_AVAIL, DESC_F_USED};
use ironring_common::spec::split::{DESC_F_INDIRECT, DESC_F_NEXT, DESC_F_WRITE};

use super::{Aim, Books, Scene, Strike};
use crate::hostile::book::{Book, Life, Posted};
use crate::hostile::rng::Rng;
use crate::hostile::words::{Fields, Word};
use crate::vring::hook::{Moment, RingMemory};

/// A strike at one completed chain. `false` if the chain has no place for it.
type Act = fn(&mut Scene<'_>, &RingMemory<'_>, DescId, &Posted) -> bool;

/// Strikes one chain of each burst that is due, the first of a random order that has a place for it.
struct OnChain(Act);

pub(super) fn on_chain(act: Act) -> Box<dyn Strike> {
    Box::new(OnChain(act))
}

impl Strike for OnChain {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        if moment != Moment::Complete || !scene.due {
            return 0;
        }
        let count = ring.heads.len();
        let first = usize::try_from(scene.rng.below(u64::try_from(count).unwrap_or(0))).unwrap_or(0);
        let struck = ring.heads.iter().cycle().skip(first).take(count).any(|head| {
            let chain = scene.book.chain(*head).cloned();
            chain.is_some_and(|chain| (self.0)(scene, ring, *head, &chain))
        });
        u64::from(struck)
    }
}

/// A01: the address becomes that of a buffer that is in flight; without one, an odd place in the shared memory.
pub(super) fn addr(scene: &mut Scene<'_>, ring: &RingMemory<'_>, _head: DescId, chain: &Posted) -> bool {
    let Some(target) = chain.writable_or_head() else { return false };
    let other = scene.book.in_flight(ring.heads).map(|(head, other)| (head, other.buffer.0));
    let (life, addr) = match other {
        Some((head, addr)) => (Life::Until(head), addr),
        None => (Life::Posted, odd_place(scene.rng, ring)),
    };
    scene.book.strike(target, Word::Address, life, |_| addr.0)
}

/// A02: the length grows.
pub(super) fn len_grow(scene: &mut Scene<'_>, _ring: &RingMemory<'_>, _head: DescId, chain: &Posted) -> bool {
    let Some(target) = chain.writable_or_head() else { return false };
    let more = u32::try_from(scene.rng.between(1, 4096)).unwrap_or(1);
    let how = scene.rng.below(3);
    change(scene.book, target, Life::Posted, |desc| match how {
        0 => Fields { len: desc.len.saturating_add(more), ..desc },
        1 => Fields { len: desc.len.saturating_mul(2).saturating_add(1), ..desc },
        _ => Fields { len: u32::MAX, ..desc },
    })
}

/// A03: the length shrinks, to less than a net header: a length that no driver stores by itself.
pub(super) fn len_shrink(scene: &mut Scene<'_>, _ring: &RingMemory<'_>, _head: DescId, chain: &Posted) -> bool {
    let Some(target) = chain.writable_or_head() else { return false };
    let shift = scene.rng.pick(&[4, 6, 31]).unwrap_or(31);
    let below = u32::try_from(HDR_BYTES).unwrap_or(0).saturating_sub(1);
    let shrink = |len: u32| len.checked_shr(shift).unwrap_or(0).min(below);
    change(scene.book, target, Life::Posted, |desc| Fields { len: shrink(desc.len), ..desc })
}

/// A04: the chain goes on beyond the table.
pub(super) fn next_oob(scene: &mut Scene<'_>, ring: &RingMemory<'_>, _head: DescId, chain: &Posted) -> bool {
    let Some(tail) = chain.tail() else { return false };
    let next = u16::try_from(scene.rng.between(u64::from(ring.size.get()), u64::from(u16::MAX))).unwrap_or(u16::MAX);
    link(scene.book, tail, next, Life::Posted)
}

/// A05: the chain goes on in one that is in flight.
pub(super) fn next_inflight(scene: &mut Scene<'_>, ring: &RingMemory<'_>, _head: DescId, chain: &Posted) -> bool {
    let (Some(tail), Some((other, _))) = (chain.tail(), scene.book.in_flight(ring.heads)) else { return false };
    link(scene.book, tail, other.get(), Life::Until(other))
}

/// A06: the chain goes on in its own head, or its last descriptor in itself.
pub(super) fn next_cycle(scene: &mut Scene<'_>, _ring: &RingMemory<'_>, head: DescId, chain: &Posted) -> bool {
    let Some(tail) = chain.tail() else { return false };
    let next = if scene.rng.below(2) == 0 { head } else { tail };
    link(scene.book, tail, next.get(), Life::Posted)
}

/// A07: the last descriptor has a next one, whichever its old `next` names.
pub(super) fn flag_next_set(scene: &mut Scene<'_>, _ring: &RingMemory<'_>, _head: DescId, chain: &Posted) -> bool {
    chain.tail().is_some_and(|tail| set_next_flag(scene.book, tail))
}

/// A08b: the first descriptor of several is the last.
pub(super) fn flag_next_clear(scene: &mut Scene<'_>, _ring: &RingMemory<'_>, head: DescId, chain: &Posted) -> bool {
    let clear = |desc: Fields| Fields { flags: desc.flags & !DESC_F_NEXT, ..desc };
    chain.ids.len() > 1 && change(scene.book, head, Life::Posted, clear)
}

/// A10: a buffer that was read becomes one that was written, and is written: behind the net header, which a driver may
/// keep for the next packet. Of a chain without such a buffer, the direction of the first one is flipped.
pub(super) fn flag_write_flip(scene: &mut Scene<'_>, ring: &RingMemory<'_>, head: DescId, chain: &Posted) -> bool {
    let flip = |desc: Fields| Fields { flags: desc.flags ^ DESC_F_WRITE, ..desc };
    if let Some((addr, len)) = chain.source
        && let Some(bytes) = ring.memory.bytes(addr, len)
    {
        let room = bytes.len().saturating_sub(HDR_BYTES);
        for (at, word) in (HDR_BYTES..).step_by(8).zip(0..room.checked_div(8).unwrap_or(0).min(NOISE_WORDS)) {
            bytes.copy_in(at, &(scene.rng.next_u64() ^ word as u64).to_le_bytes());
        }
    }
    change(scene.book, head, Life::Posted, flip)
}

/// A11: the first descriptor of a chain without a table says that it points to one.
pub(super) fn flag_indirect_set(scene: &mut Scene<'_>, _ring: &RingMemory<'_>, head: DescId, chain: &Posted) -> bool {
    let set = |desc: Fields| Fields { flags: desc.flags | DESC_F_INDIRECT, ..desc };
    chain.table.is_none() && change(scene.book, head, Life::Posted, set)
}

/// A14: the buffer is where the memory begins: the rings themselves.
pub(super) fn ring_pointer(scene: &mut Scene<'_>, ring: &RingMemory<'_>, _head: DescId, chain: &Posted) -> bool {
    let Some((target, (start, _))) = chain.writable_or_head().zip(ring.memory.ranges().next()) else { return false };
    // One byte on, where no driver has a buffer.
    scene.book.strike(target, Word::Address, Life::Posted, |_| start.0 | 1)
}

/// A08: every descriptor has a next one, those in flight too, for as long as the device does not walk them.
#[derive(Default)]
pub(super) struct FlagNextAll {
    passes: u16,
}

impl Strike for FlagNextAll {
    fn at(&mut self, moment: Moment, _ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        match moment {
            Moment::Complete if scene.due => self.passes = PASSES,
            Moment::Idle if self.passes > 0 => self.passes = self.passes.wrapping_sub(1),
            _ => return 0,
        }
        let struck = scene.book.every_id().filter(|id| set_next_flag(scene.book, *id)).count();
        u64::from(moment == Moment::Complete && struck > 0)
    }

    fn rest(&mut self) {
        self.passes = 0;
    }
}

/// A12: descriptors that the device does not have change all the time, those that the driver is just filling too. The
/// links between them stay as they are.
#[derive(Default)]
pub(super) struct UnwindRace {
    turn: u16,
}

impl Strike for UnwindRace {
    fn race(&mut self, books: &mut Books, aim: Aim, rng: &mut Rng) -> u64 {
        let mut struck = 0u64;
        for book in books.iter_mut().filter(|(queue, _)| aim.hits(**queue)).map(|(_, book)| book) {
            for _ in 0..RUN.min(book.size.get()) {
                let id = self.turn.checked_rem(book.size.get()).unwrap_or(0);
                self.turn = self.turn.wrapping_add(1);
                if let Some(id) = DescId::below(id, book.size)
                    && !(book.walking || book.is_posted(id))
                {
                    struck = struck.wrapping_add(u64::from(step_on(book, id, rng)));
                }
            }
        }
        struck
    }
}

/// A12b, A12c: all descriptors change, those in flight too, at a moment after which the device reads none of them before it
/// looks at the ring again.
pub(super) struct AllAt(pub(super) Moment);

impl Strike for AllAt {
    fn at(&mut self, moment: Moment, _ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        if moment != self.0 || !scene.due {
            return 0;
        }
        let mut struck = 0u64;
        for id in scene.book.every_id() {
            struck = struck.wrapping_add(u64::from(step_on(scene.book, id, scene.rng)));
        }
        struck
    }

    /// Such moments come before the first burst, and between two of them as often as not.
    fn is_early(&self) -> bool {
        true
    }
}

/// A13: the flags of descriptors that the device does not have change all the time, between a driver's store and its next
/// look at them.
#[derive(Default)]
pub(super) struct RmwRace {
    turn: u16,
}

impl Strike for RmwRace {
    fn race(&mut self, books: &mut Books, aim: Aim, rng: &mut Rng) -> u64 {
        let mut struck = 0u64;
        for book in books.iter_mut().filter(|(queue, _)| aim.hits(**queue)).map(|(_, book)| book) {
            for _ in 0..RUN.min(book.size.get()) {
                let id = self.turn.checked_rem(book.size.get()).unwrap_or(0);
                self.turn = self.turn.wrapping_add(1);
                let Some(id) = DescId::below(id, book.size).filter(|id| !(book.walking || book.is_posted(*id))) else {
                    continue;
                };
                // A length that no driver stores marks the strike.
                let noise = u16::try_from(rng.below(8)).unwrap_or(0);
                let flip = |desc: Fields| Fields { flags: desc.flags ^ noise, len: desc.len | 0x8000_0000, ..desc };
                struck = struck.wrapping_add(u64::from(change(book, id, Life::Look, flip)));
            }
        }
        struck
    }
}

/// Changes one of the words of a descriptor to what no driver stores there.
fn step_on(book: &mut Book, id: DescId, rng: &mut Rng) -> bool {
    let noise = rng.next_u64();
    if noise & 1 == 0 {
        // Between two places where a buffer may begin.
        return book.strike(id, Word::Address, Life::Look, |addr| addr.wrapping_add(noise & 0xff00) | 3);
    }
    if book.is_packed() && !is_available(book.fields(id).flags) {
        // Both sides write the word. If it may be a completion, what stands there is the device's word, which is another
        // attack.
        return false;
    }
    change(book, id, Life::Look, |desc| Fields {
        len: desc.len.wrapping_add(if noise & 2 == 0 { 0x0010_0001 } else { 0x8000_0000 }),
        flags: desc.flags ^ DESC_F_WRITE,
        ..desc
    })
}

/// Whether a slot says that it is available, in whichever round.
const fn is_available(flags: u16) -> bool {
    (flags & DESC_F_AVAIL == 0) != (flags & DESC_F_USED == 0)
}

/// Lets a descriptor go on in `next`.
fn link(book: &mut Book, id: DescId, next: u16, life: Life) -> bool {
    change(book, id, life, |desc| Fields { flags: desc.flags | DESC_F_NEXT, link: next, ..desc })
}

fn set_next_flag(book: &mut Book, id: DescId) -> bool {
    change(book, id, Life::Posted, |desc| Fields { flags: desc.flags | DESC_F_NEXT, ..desc })
}

/// Strikes the second word of a descriptor.
pub(super) fn change(book: &mut Book, id: DescId, life: Life, change: impl FnOnce(Fields) -> Fields) -> bool {
    let packed = book.is_packed();
    book.strike(id, Word::Rest, life, |rest| change(Fields::from_word(rest, packed)).to_word(packed))
}

/// An address in the shared memory at which no buffer begins.
fn odd_place(rng: &mut Rng, ring: &RingMemory<'_>) -> GuestAddr {
    let ranges: Vec<_> = ring.memory.ranges().collect();
    let (start, len) = rng.pick(&ranges).unwrap_or_default();
    GuestAddr(start.0.wrapping_add(rng.below(len)) | 1)
}

/// How many passes without work the table stays struck.
const PASSES: u16 = 64;
/// Descriptors that a racing run looks at, of each ring.
const RUN: u16 = 64;
/// Words of noise in a buffer.
const NOISE_WORDS: usize = 8;
