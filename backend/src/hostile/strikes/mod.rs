//! What each attack does, one small function or type each, in a file per surface.

mod available;
mod combo;
mod descriptor;
mod events;
mod header;
mod in_order;
mod index;
mod lengths;
mod notify;
mod order;
mod scribble;
mod slots;
mod tables;
mod transmit;
mod used;

use std::collections::BTreeMap;

use ironring_common::spec::packed::SlotRest;
use ironring_common::spec::split::UsedElem;

use super::book::Book;
use super::catalogue::{Attack, Axes, Axis, CATALOGUE, Surface};
use super::rng::Rng;
use crate::vring::hook::{Moment, RingMemory};

pub use self::scribble::{CHANGING, UNTOUCHED};

/// The rings that run, by the number of their queue.
pub(super) type Books = BTreeMap<usize, Book>;

/// What a strike is given.
pub(super) struct Scene<'a> {
    /// The ring at hand.
    pub(super) book: &'a mut Book,
    /// The numbers of this attack.
    pub(super) rng: &'a mut Rng,
    /// Whether this burst is to be struck. What has to be undone is undone either way.
    pub(super) due: bool,
}

/// An attack that strikes rings. Every default is honest.
pub(super) trait Strike: Send {
    /// Called at each moment of the rings that it aims at. Returns how often it struck.
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, scene: &mut Scene<'_>) -> u64 {
        let _ = (moment, ring, scene);
        0
    }

    /// Whether it has to strike from the first burst on, and each of them.
    fn is_early(&self) -> bool {
        false
    }

    /// Whether an earlier strike has to be gone on with, or paid back, in bursts that are not due too.
    fn has_debts(&self) -> bool {
        false
    }

    /// Whether it has to know what buffers held when they were posted.
    fn wants_bytes(&self) -> bool {
        false
    }

    /// A burst of a ring begins: its first used element is about to be written.
    fn burst_begins(&mut self) {}

    /// What to say of the completion at hand instead, in a burst that is due and was not struck yet. In a packed ring the
    /// lower half of the id counts.
    fn used_elem(&mut self, elem: UsedElem, scene: &mut Scene<'_>) -> UsedElem {
        let _ = scene;
        elem
    }

    /// The flags to write instead into the used slot at hand of a packed ring, in a burst that is due and was not struck yet.
    fn used_flags(&mut self, flags: u16, scene: &mut Scene<'_>) -> u16 {
        let _ = scene;
        flags
    }

    /// The first used slot of a packed ring to publish instead, at the end of a burst that is due.
    fn first_slot(&mut self, rest: SlotRest, scene: &mut Scene<'_>) -> SlotRest {
        let _ = scene;
        rest
    }

    /// The used index to publish instead, at the end of a burst that is due.
    fn used_idx(&mut self, idx: u16, scene: &mut Scene<'_>) -> u16 {
        let _ = scene;
        idx
    }

    /// Whether a call is made.
    fn call(&mut self) -> bool {
        true
    }

    /// A short run of stores, from the racing thread. Returns how often it struck.
    fn race(&mut self, books: &mut Books, aim: Aim, rng: &mut Rng) -> u64 {
        let _ = (books, aim, rng);
        0
    }

    /// The attack is disarmed, or its ring stops: ends what goes on in the background, and leaves the device's own words
    /// honest.
    fn rest(&mut self) {}
}

/// Which of two values stands while the racing thread is away. Were it always the same, a driver that shares a CPU with the
/// thread would never meet the other one.
#[derive(Clone, Copy, Debug, Default)]
struct Turns(u32);

impl Turns {
    /// Whether it is the turn of the rarer one: one time in three, which no count of rounds between two pauses divides.
    const fn next_is_rare(&mut self) -> bool {
        self.0 = self.0.wrapping_add(1);
        self.0.is_multiple_of(3)
    }
}

/// Which queues an attack strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// All of them.
    All,
    /// Those that receive: the even ones.
    Receive,
    /// Those that transmit: the odd ones.
    Transmit,
    /// Only this one.
    Queue(usize),
}

impl Aim {
    pub(super) const fn hits(self, queue: usize) -> bool {
        match self {
            Self::All => true,
            Self::Receive => queue & 1 == 0,
            Self::Transmit => queue & 1 == 1,
            Self::Queue(only) => only == queue,
        }
    }

    /// One direction or the other.
    fn either(rng: &mut Rng) -> Self {
        if rng.below(2) == 0 { Self::Receive } else { Self::Transmit }
    }
}

/// The strike of an attack and the queues that it makes sense on, or `None` for one that does not strike rings.
pub(super) fn of(attack: &Attack, rng: &mut Rng) -> Option<(Box<dyn Strike>, Aim)> {
    let either = Aim::either(rng);
    Some(match attack.id {
        "A01" => (descriptor::on_chain(descriptor::addr), either),
        "A02" => (descriptor::on_chain(descriptor::len_grow), either),
        "A03" => (descriptor::on_chain(descriptor::len_shrink), either),
        "A04" => (descriptor::on_chain(descriptor::next_oob), either),
        "A05" => (descriptor::on_chain(descriptor::next_inflight), either),
        "A06" => (descriptor::on_chain(descriptor::next_cycle), either),
        "A07" => (descriptor::on_chain(descriptor::flag_next_set), either),
        "A08" => (Box::<descriptor::FlagNextAll>::default(), either),
        "A08b" => (descriptor::on_chain(descriptor::flag_next_clear), either),
        "A09" | "A57b" => (Box::<tables::Rewrite>::default(), Aim::Transmit),
        // Only what the driver sends can be overwritten by a copy in the wrong direction.
        "A10" => (descriptor::on_chain(descriptor::flag_write_flip), Aim::Transmit),
        "A11" => (descriptor::on_chain(descriptor::flag_indirect_set), either),
        "A12" => (Box::<descriptor::UnwindRace>::default(), Aim::All),
        "A12b" => (Box::new(descriptor::AllAt(Moment::Idle)), Aim::All),
        "A12c" => (Box::new(descriptor::AllAt(Moment::Start)), Aim::All),
        "A13" => (Box::<descriptor::RmwRace>::default(), Aim::All),
        "A14" => (descriptor::on_chain(descriptor::ring_pointer), either),
        "A15" => (Box::<available::Idx>::default(), either),
        "A16" => (Box::<available::Ring>::default(), either),
        "A17" => (Box::new(events::Available), either),
        "A18" => (Box::new(index::Jump), either),
        "A19" => (Box::new(index::Back), either),
        "A20" => (Box::<index::Flap>::default(), either),
        "A21" => (Box::<index::Freeze>::default(), Aim::Receive),
        "A23" => (used::on_elem(used::id_oob), either),
        "A24" => (used::on_elem(used::id_trunc), either),
        "A25" => (used::on_elem(used::id_midchain), either),
        // A driver posts a receive buffer again before it takes the next completion, so the id would be outstanding.
        "A26" => (used::on_elem(used::id_free), Aim::Transmit),
        "A27" => (Box::<used::IdDup>::default(), Aim::Transmit),
        "A27b" => (Box::<used::IdDup>::default(), Aim::Receive),
        "A27c" => (Box::new(order::LastTwice), Aim::Receive),
        "A28" => (Box::<order::Replay>::default(), either),
        // Frames that are received in another order are another stream.
        "A29" | "A52c" => (Box::<order::Swap>::default(), Aim::Transmit),
        "A30" => (Box::<order::CrossQueue>::default(), Aim::All),
        // A length means something only where there are writable bytes.
        "A31" => (used::on_elem(lengths::over), Aim::Receive),
        "A32" => (used::on_elem(lengths::slack), Aim::Receive),
        "A33" => (used::on_elem(lengths::sum), either),
        "A34" | "A54d" => (used::on_elem(lengths::of_readable), Aim::Transmit),
        "A35" => (used::on_elem(lengths::zero), Aim::Receive),
        "A36" => (used::on_elem(lengths::short_header), Aim::Receive),
        "A37" | "A54e" => (used::on_elem(lengths::over_claim), Aim::Receive),
        "A38" | "A54f" => (used::on_elem(lengths::under_claim), Aim::Receive),
        "A39" => (Box::<used::Toctou>::default(), either),
        "A40" => (Box::new(index::Early), Aim::Transmit),
        "A41" => (Box::<scribble::Premature>::default(), Aim::Receive),
        "A42" => (Box::<events::UsedFlags>::default(), either),
        "A43" => (Box::<events::AvailEvent>::default(), either),
        "A44" => (used::on_elem(in_order::id_unexpected), Aim::Transmit),
        // A receive ring is full of buffers: its last one is out of reach of any index that a late driver may see.
        "A44b" => (used::on_elem(in_order::batch_ahead), Aim::Receive),
        "A45" => (used::on_elem(in_order::batch_bogus), either),
        "A46" => (Box::<in_order::LenOfSkipped>::default(), Aim::Receive),
        "A47" => (Box::<slots::FakeUsed>::default(), Aim::Receive),
        // A receive ring is full of buffers, and has nothing behind them.
        "A48" => (Box::new(slots::FakeAhead), Aim::Transmit),
        "A49" => (Box::<slots::WrapWrong>::default(), either),
        "A50" => (used::on_elem(used::id_oob), either),
        "A51" => (used::on_elem(slots::id_other_len), either),
        "A52" => (used::on_elem(used::id_free), Aim::Transmit),
        "A52b" => (Box::<used::IdDup>::default(), Aim::Transmit),
        "A53" => (descriptor::on_chain(slots::id_from_middle), either),
        "A54" => (used::on_elem(lengths::over), Aim::Receive),
        "A54b" => (used::on_elem(lengths::zero), Aim::Receive),
        "A54c" => (used::on_elem(lengths::short_header), Aim::Receive),
        "A55" => (Box::<used::Toctou>::default(), either),
        "A56" => (descriptor::on_chain(descriptor::addr), either),
        "A56b" => (descriptor::on_chain(slots::later_rest), either),
        "A56c" => (Box::new(slots::UsedFlags), either),
        "A57" => (used::on_elem(slots::indirect_len), Aim::Transmit),
        "A58" => (Box::<events::DriverEvent>::default(), either),
        "A59" => (Box::<events::DeviceEvent>::default(), either),
        "A60" => (Box::new(slots::FakeAtStart), Aim::All),
        "A61" => (header::on_header(header::of_no_buffer), Aim::Receive),
        "A62" => (header::on_header(header::of_too_many), Aim::Receive),
        "A63" => (header::on_header(header::huge), Aim::Receive),
        "A64" => (header::on_header(header::of_two), Aim::Receive),
        "A66" => (Box::new(header::Toctou::new(header::of_too_many)), Aim::Receive),
        "A67" => (Box::new(header::Toctou::new(header::gso_size)), Aim::Receive),
        "A68" => (header::on_header(header::gso_type), Aim::Receive),
        "A69" => (header::on_header(header::gso_size), Aim::Receive),
        "A70" => (header::on_header(header::csum_oob), Aim::Receive),
        "A71" => (header::on_header(header::csum_flags), Aim::Receive),
        "A71b" => (header::on_header(header::data_valid), Aim::Receive),
        "A71c" => (header::on_header(header::hdr_len), Aim::Receive),
        "A71d" => (header::on_header(header::gso_mismatch), Aim::Receive),
        "A72a" => (Box::<scribble::AfterDelivery>::default(), Aim::Receive),
        "A72c" => (Box::new(transmit::Mutate), Aim::Transmit),
        "A72d" => (Box::new(transmit::ReadSlack), Aim::Transmit),
        "A72e" => (Box::<transmit::ReadLate>::default(), Aim::Transmit),
        "A72f" => (Box::<index::Freeze>::default(), Aim::Transmit),
        "A101" => (Box::<scribble::ScribbleAll>::default(), Aim::All),
        "A104" => (Box::new(notify::Lost), Aim::All),
        "A122" => (used::on_elem(lengths::zero), Aim::Receive),
        "A123" => (Box::new(combo::Combo::of(&for_combinations(), rng.between(5, 8), rng)), Aim::All),
        "A124" => (Box::new(combo::Combo::of(&for_combinations(), rng.between(2, 4), rng)), Aim::All),
        "A125" => (Box::<combo::HonestEdge>::default(), Aim::Transmit),
        _ => return None,
    })
}

/// The attacks that are thrown together: those on rings, each by itself.
fn for_combinations() -> Vec<&'static Attack> {
    let rings = [Surface::Descriptor, Surface::Available, Surface::Used, Surface::Buffer];
    let by_itself = |attack: &Attack| {
        let Axes { indirect, event_idx, in_order } = attack.axes;
        let is_one = !["A122", "A123", "A124", "A125"].contains(&attack.id);
        is_one && ![indirect, event_idx, in_order].contains(&Axis::On)
    };
    CATALOGUE.iter().filter(|attack| rings.contains(&attack.surface) && by_itself(attack)).collect()
}
