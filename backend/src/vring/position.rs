//! Where a packed ring is, by what stands in it.
//!
//! A backend that starts on a ring is told its position by the front-end. A front-end that could not ask the last backend,
//! because that one died, does not know it: QEMU then says the position at which the last one was *started*. In a split ring
//! the used index in shared memory tells. In a packed one the slots do, if every chain takes one of them and the device
//! worked in order, as this one does: from the position on there come the slots that are available, and behind those the
//! slots that were used in the round before.
//!
//! Chains of several slots leave marks behind that look available, and so does a used slot that stands for many chains. So this is asked
//! only without in-order use, and where the features let a driver do without long chains: with indirect tables, and on receive
//! rings with mergeable buffers. A burst that is being written
//! has holes; then nothing is concluded, and the front-end is believed.

use ironring_common::index::{PackedPosition, QueueSize};
use ironring_common::spec::packed::{DESC_F_AVAIL, DESC_F_NEXT, DESC_F_USED, is_avail, is_used};

/// The one position that explains the flags of all slots, in their order; `None` if none does.
pub(super) fn of_flags(flags: &[u16], size: QueueSize) -> Option<PackedPosition> {
    // A position is where available slots or a round begin: at slot 0, or where slots change, of which there are two at most.
    let slots = flags.iter().zip(flags.iter().skip(1)).zip(1u16..);
    let changes = slots.filter(|((before, flags), _)| *before & BITS != *flags & BITS).map(|(_, slot)| slot);
    core::iter::once(0)
        .chain(changes.take(2))
        .flat_map(|slot| [slot, slot | 1 << 15])
        .filter_map(|bits| PackedPosition::from_bits(bits, size))
        .find(|at| explains(*at, flags, size))
}

/// Whether a ring at this position looks like that.
fn explains(position: PackedPosition, flags: &[u16], size: QueueSize) -> bool {
    let mut at = position;
    let mut used = false;
    for _ in 0..size.get() {
        let Some(flags) = flags.get(usize::from(at.slot())) else { return false };
        // Slots that were used in the round before this position's.
        let behind = is_used(*flags, !at.wrap());
        let ahead = is_avail(*flags, at.wrap()) && flags & DESC_F_NEXT == 0;
        used |= behind;
        if !behind && (!ahead || used) {
            return false;
        }
        at = at.advance(1, size);
    }
    true
}

const BITS: u16 = DESC_F_AVAIL | DESC_F_USED;

#[cfg(test)]
mod tests {
    use ironring_common::spec::packed::{avail_flags, used_flags};

    use super::*;

    /// A ring after `used` slots were used in order, with `avail` more that are available.
    fn ring(size: QueueSize, used: u16, avail: u16) -> (Vec<u16>, PackedPosition) {
        let mut flags = vec![0; usize::from(size.get())];
        let mut at = PackedPosition::START;
        for _ in 0..used {
            flags[usize::from(at.slot())] = used_flags(at.wrap());
            at = at.advance(1, size);
        }
        let position = at;
        for _ in 0..avail {
            flags[usize::from(at.slot())] = avail_flags(at.wrap());
            at = at.advance(1, size);
        }
        (flags, position)
    }

    /// Every state of every ring of up to 20 slots over three rounds.
    #[test]
    fn every_state_of_single_slots_tells_its_position() {
        for size in (1..=20).map(|size| QueueSize::packed(size).unwrap()) {
            for used in 0..3 * size.get() {
                for avail in 0..=size.get() {
                    let (flags, position) = ring(size, used, avail);
                    assert_eq!(of_flags(&flags, size), Some(position), "{size:?} {used} {avail} {flags:x?}");
                }
            }
        }
    }

    /// No ring has two explanations: otherwise a right base could be exchanged for a wrong one.
    #[test]
    fn no_picture_has_two_positions() {
        for size in (1..=5).map(|size| QueueSize::packed(size).unwrap()) {
            let states = [0, DESC_F_AVAIL, DESC_F_USED, BITS];
            for picture in 0..4usize.pow(size.get().into()) {
                let flags: Vec<_> = (0..size.get()).map(|slot| states[picture >> (2 * slot) & 3]).collect();
                let mut at = PackedPosition::START;
                let mut found = Vec::new();
                for _ in 0..2 * size.get() {
                    found.extend(explains(at, &flags, size).then_some(at));
                    at = at.advance(1, size);
                }
                assert!(found.len() <= 1, "{flags:x?} {found:?}");
                assert_eq!(of_flags(&flags, size), found.first().copied(), "{flags:x?}");
            }
        }
    }

    #[test]
    fn chains_of_several_slots_tell_nothing() {
        let size = QueueSize::packed(8).unwrap();
        let (mut flags, position) = ring(size, 3, 4);
        assert_eq!(of_flags(&flags, size), Some(position));
        flags[4] |= DESC_F_NEXT;
        assert_eq!(of_flags(&flags, size), None);
        let (mut flags, _) = ring(size, 5, 1);
        // The second slot of a chain that was used.
        flags[2] = avail_flags(true);
        assert_eq!(of_flags(&flags, size), None);
    }
}
