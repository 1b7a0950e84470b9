//! Stores into indirect tables, which the driver owns.

use ironring_common::index::GuestAddr;
use ironring_common::shm::area::Area;
use ironring_common::spec::split::{DESC_BYTES, DESC_F_NEXT, DESC_F_WRITE};

use super::{Scene, Strike};
use crate::hostile::words::{Fields, Word};
use crate::vring::hook::{Moment, RingMemory};

/// A09 and A57b: an entry of the table of a completed chain changes: its address becomes that of a buffer in flight, its
/// length grows, or its direction and link flip. The table is put right when it is posted again.
#[derive(Default)]
pub(super) struct Rewrite;

impl Strike for Rewrite {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        if moment != Moment::Complete || !scene.due {
            return 0;
        }
        let mut struck = 0u64;
        for head in ring.heads {
            let Some((addr, entries)) = scene.book.chain(*head).and_then(|chain| chain.table) else { continue };
            let Some(table) = ring.memory.area(addr, usize::from(entries).wrapping_mul(DESC_BYTES)) else { continue };
            let entry = u16::try_from(scene.rng.below(u64::from(entries))).unwrap_or(0);
            struck = struck.wrapping_add(u64::from(rewrite(scene, ring, (addr, &table), entry)));
        }
        struck
    }
}

fn rewrite(scene: &mut Scene<'_>, ring: &RingMemory<'_>, table: (GuestAddr, &Area), entry: u16) -> bool {
    let packed = scene.book.is_packed();
    let rest = |change: fn(Fields) -> Fields| move |word| change(Fields::from_word(word, packed)).to_word(packed);
    match scene.rng.below(3) {
        0 => {
            let other = scene.book.in_flight(ring.heads).map(|(_, chain)| chain.buffer.0);
            scene.book.strike_table(table, entry, Word::Address, |addr| other.map_or(addr | 1, |other| other.0))
        }
        1 => {
            let grow = rest(|desc| Fields { len: desc.len.saturating_mul(2).saturating_add(4096), ..desc });
            scene.book.strike_table(table, entry, Word::Rest, grow)
        }
        _ => {
            let flip = rest(|desc| Fields { flags: desc.flags ^ (DESC_F_WRITE | DESC_F_NEXT), ..desc });
            scene.book.strike_table(table, entry, Word::Rest, flip)
        }
    }
}
