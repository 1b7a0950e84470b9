//! Striking words that the driver owns, and taking that back.
//!
//! A strike must be undone before the honest ring walks the word, or the backend's own traffic would stop; and it must not
//! take back what the driver stored meanwhile. So each strike is an exchange of a word that still holds what was seen, and
//! so is each undo. That leaves one doubt: a driver may by itself store the very value that was struck. Three things keep
//! it away. An undo leaves the word alone if the other word of the descriptor has changed too. A strike that borrows
//! something from a chain in flight (its address, its head) is undone before that chain is completed, since the driver
//! cannot use it elsewhere before. And the other values are such that no driver stores them.

use ironring_common::index::{DescId, GuestAddr};
use ironring_common::shm::area::Area;
use ironring_common::shm::words::Words;
use ironring_common::spec::split::DESC_BYTES;

use super::{Book, Owner, Place};
use crate::hostile::words::{self, Word};

/// A word that was struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Struck {
    honest: u64,
    bogus: u64,
    /// The other word of the descriptor, unless that is struck too.
    sibling: Option<u64>,
    life: Life,
}

/// When a strike is undone, if not when the device is given the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::hostile) enum Life {
    /// Only then.
    Posted,
    /// Before this chain is completed.
    Until(DescId),
    /// When the device looks at the ring. Of racing attacks, whose values no driver stores.
    Look,
}

/// A word of an indirect table that was struck.
#[derive(Debug)]
pub(super) struct TableStrike {
    /// Where the driver says the table is.
    addr: GuestAddr,
    table: Area,
    at: usize,
    honest: u64,
    bogus: u64,
}

impl TableStrike {
    fn undo(self) {
        // It fails if the driver stored the word meanwhile.
        let _ = self.table.bytes().replace_u64(self.at, self.bogus, self.honest);
    }
}

impl Book {
    /// Exchanges a word of a descriptor for what `change` makes of it. `false` if it is struck already, if there is
    /// nothing to change, or if the driver was quicker.
    pub(in crate::hostile) fn strike(
        &mut self,
        id: DescId,
        word: Word,
        life: Life,
        change: impl FnOnce(u64) -> u64,
    ) -> bool {
        let Some(place) = self.places.get_mut(id.index()) else { return false };
        let honest = words::load(&self.table, id, word);
        let sibling = words::load(&self.table, id, word.other());
        let [address, rest] = &mut place.struck;
        let (mine, others) = if word == Word::Address { (address, rest) } else { (rest, address) };
        let bogus = change(honest);
        let still = mine.is_some_and(|struck| struck.bogus == honest);
        if still || bogus == honest || !words::replace(&self.table, id, word, honest, bogus) {
            return false;
        }
        self.struck = self.struck.wrapping_add(usize::from(mine.is_none()));
        let sibling = (others.is_none() && life != Life::Look).then_some(sibling);
        if let Some(others) = others {
            others.sibling = None;
        }
        *mine = Some(Struck { honest, bogus, sibling, life });
        true
    }

    /// Exchanges a word of an entry of the indirect table at `addr`. It is undone when the table is posted again.
    pub(in crate::hostile) fn strike_table(
        &mut self,
        (addr, table): (GuestAddr, &Area),
        entry: u16,
        word: Word,
        change: impl FnOnce(u64) -> u64,
    ) -> bool {
        let at = usize::from(entry).wrapping_mul(DESC_BYTES).wrapping_add(word.index().wrapping_mul(8));
        let honest = table.load_u64(at);
        let bogus = change(honest);
        if bogus == honest || !table.bytes().replace_u64(at, honest, bogus) {
            return false;
        }
        self.in_tables.push(TableStrike { addr, table: table.clone(), at, honest, bogus });
        true
    }

    /// Undoes what was struck in a descriptor.
    pub(in crate::hostile) fn undo(&mut self, id: DescId) {
        for word in Word::BOTH {
            let struck = self.places.get_mut(id.index()).and_then(|place| place.struck.get_mut(word.index()));
            if let Some(Struck { honest, bogus, sibling, .. }) = struck.and_then(Option::take) {
                self.struck = self.struck.saturating_sub(1);
                if sibling.is_none_or(|sibling| words::load(&self.table, id, word.other()) == sibling) {
                    // It fails if the driver stored the word meanwhile, and then there is nothing to undo.
                    let _ = words::replace(&self.table, id, word, bogus, honest);
                }
            }
        }
    }

    /// Undoes what was struck in the table at an address: the device is about to walk it.
    pub(super) fn undo_table(&mut self, addr: GuestAddr) {
        for strike in self.in_tables.extract_if(.., |strike| strike.addr == addr) {
            strike.undo();
        }
    }

    /// Undoes what was struck in descriptors that the device has.
    pub(in crate::hostile) fn undo_posted(&mut self) {
        self.undo_where(|place| place.owner == Owner::Device);
    }

    /// Undoes what racing attacks struck.
    pub(in crate::hostile) fn undo_races(&mut self) {
        self.undo_where(|place| place.struck.iter().flatten().any(|struck| struck.life == Life::Look));
    }

    /// Undoes everything.
    pub(in crate::hostile) fn undo_all(&mut self) {
        self.undo_where(|_| true);
        self.in_tables.drain(..).for_each(TableStrike::undo);
    }

    /// Undoes what must not outlive the chains at `heads`.
    pub(in crate::hostile) fn undo_until(&mut self, heads: &[DescId]) {
        let ends = |struck: &Struck| matches!(struck.life, Life::Until(head) if heads.contains(&head));
        self.undo_where(|place| place.struck.iter().flatten().any(ends));
    }

    fn undo_where(&mut self, which: impl Fn(&Place) -> bool) {
        if self.struck == 0 {
            return;
        }
        for id in self.every_id() {
            if self.places.get(id.index()).is_some_and(|place| place.struck != NONE_STRUCK && which(place)) {
                self.undo(id);
            }
        }
    }
}

pub(super) const NONE_STRUCK: [Option<Struck>; 2] = [None; 2];
