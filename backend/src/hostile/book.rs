//! What an attacker on the device's side keeps in mind about one ring.
//!
//! Which descriptors were posted and are not completed, and which words of the table were struck. A strike on the
//! driver's words must be taken back before the honest ring walks them, or the backend's own traffic would stop; and it
//! must not take back what the driver stored meanwhile. So each strike is an exchange of a word that still holds what was
//! seen, and so is each undo. That leaves one doubt: a driver may by itself store the very value that was struck. Three
//! things keep it away. An undo leaves the word alone if the other word of the descriptor has changed too. A strike that
//! borrows something from a chain in flight (its address, its head) is undone before that chain is completed, since the
//! driver cannot use it elsewhere before. And the other values are such that no driver stores them.

use ironring_common::index::{DescId, GuestAddr, QueueSize};
use ironring_common::shm::mapping::Area;
use ironring_common::spec::split::{DESC_F_NEXT, DESC_F_WRITE, Descriptor, UsedElem};

use super::words::{self, Word};
use crate::vring::hook::RingMemory;

/// One ring, as the attacker knows it.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) size: QueueSize,
    pub(super) desc: Area,
    pub(super) avail: Area,
    /// The available index up to which chains were noted.
    cursor: u16,
    ids: Vec<Entry>,
    /// How many words are struck now.
    struck: usize,
    /// Chains noted so far.
    chains: u64,
    /// Bursts completed so far.
    pub(super) bursts: u64,
    /// The honest used elements of the burst at hand.
    pub(super) burst: Vec<UsedElem>,
}

/// A chain that the driver posted.
#[derive(Clone, Debug, Default)]
pub(super) struct Posted {
    /// Its descriptors, the head first.
    pub(super) ids: Vec<DescId>,
    /// The readable ones of them, which come first.
    pub(super) readable: usize,
    /// Writable bytes in all.
    pub(super) writable_len: u64,
    /// The first writable buffer, or the first one at all if none is writable.
    pub(super) buffer: (GuestAddr, u32),
    /// When it was posted, counted in chains.
    age: u64,
}

/// Who may do what with a descriptor, as far as the device can see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Owner {
    /// It was never posted.
    #[default]
    Never,
    /// It is posted and not completed.
    Device,
    /// It was completed. The driver may be about to post it again.
    Driver,
}

#[derive(Clone, Debug, Default)]
struct Entry {
    owner: Owner,
    /// If it is the head of a posted chain: that.
    chain: Option<Posted>,
    /// By the index of the word.
    struck: [Option<Struck>; 2],
}

/// A word that was struck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Struck {
    honest: u64,
    bogus: u64,
    /// The other word of the descriptor, unless that is struck too.
    sibling: Option<u64>,
    /// Undone before this chain is completed.
    until: Option<DescId>,
}

impl Book {
    pub(super) fn new(ring: &RingMemory<'_>) -> Self {
        Self {
            size: ring.size,
            desc: ring.desc.clone(),
            avail: ring.avail.clone(),
            cursor: ring.next_avail,
            ids: vec![Entry::default(); usize::from(ring.size.get())],
            struck: 0,
            chains: 0,
            bursts: 0,
            burst: Vec::new(),
        }
    }

    /// Notes the chains that are new in the available ring. Undoes what was struck in them: they are the device's now,
    /// and about to be walked.
    pub(super) fn admit(&mut self, ring: &RingMemory<'_>) {
        self.desc = ring.desc.clone();
        self.avail = ring.avail.clone();
        let new = words::avail_idx(&self.avail).wrapping_sub(self.cursor);
        if new > self.size.get() {
            // The honest ring finds the same, and latches it.
            return;
        }
        for _ in 0..new {
            let head = words::avail_entry(&self.avail, self.cursor, self.size);
            self.cursor = self.cursor.wrapping_add(1);
            if let Some(head) = head {
                self.admit_chain(head);
            }
        }
    }

    fn admit_chain(&mut self, head: DescId) {
        let mut posted = Posted { age: self.chains, ..Posted::default() };
        self.chains = self.chains.wrapping_add(1);
        let mut id = head;
        for _ in 0..self.size.get() {
            self.undo(id);
            let desc = words::descriptor(&self.desc, id);
            posted.push(id, desc);
            if let Some(entry) = self.ids.get_mut(id.index()) {
                entry.owner = Owner::Device;
            }
            match DescId::below(desc.next, self.size) {
                Some(next) if desc.flags & DESC_F_NEXT != 0 => id = next,
                _ => break,
            }
        }
        if let Some(entry) = self.ids.get_mut(head.index()) {
            entry.chain = Some(posted);
        }
    }

    /// Notes that chains were completed and published.
    pub(super) fn release(&mut self, heads: &[DescId]) {
        for head in heads {
            let chain = self.ids.get_mut(head.index()).and_then(|entry| entry.chain.take());
            for id in chain.iter().flat_map(|chain| &chain.ids) {
                if let Some(entry) = self.ids.get_mut(id.index()) {
                    entry.owner = Owner::Driver;
                }
            }
        }
        self.bursts = self.bursts.wrapping_add(1);
        self.burst.clear();
    }

    /// The chain at a head, while it is posted.
    pub(super) fn chain(&self, head: DescId) -> Option<&Posted> {
        self.ids.get(head.index())?.chain.as_ref()
    }

    /// The head of the chain that will stay in flight longest, not one of `burst`.
    pub(super) fn in_flight(&self, burst: &[DescId]) -> Option<(DescId, &Posted)> {
        self.every_id()
            .filter(|id| !burst.contains(id))
            .filter_map(|id| Some((id, self.chain(id)?)))
            .max_by_key(|(_, chain)| chain.age)
    }

    /// Every descriptor of the table.
    pub(super) fn every_id(&self) -> impl Iterator<Item = DescId> + use<> {
        let size = self.size;
        (0..size.get()).filter_map(move |id| DescId::below(id, size))
    }

    /// Whether the device has a descriptor.
    pub(super) fn is_posted(&self, id: DescId) -> bool {
        self.owner(id) == Owner::Device
    }

    /// Descriptors that are not outstanding: those that were never posted, else those that were completed and that the
    /// driver has not made available again by now.
    pub(super) fn not_outstanding(&self) -> Vec<DescId> {
        let newer = words::avail_idx(&self.avail).wrapping_sub(self.cursor).min(self.size.get());
        let again: Vec<_> = (0..newer)
            .filter_map(|n| words::avail_entry(&self.avail, self.cursor.wrapping_add(n), self.size))
            .collect();
        let of = |owner| -> Vec<_> {
            self.every_id().filter(|id| self.owner(*id) == owner && !again.contains(id)).collect()
        };
        let never = of(Owner::Never);
        if never.is_empty() { of(Owner::Driver) } else { never }
    }

    /// Exchanges a word of a descriptor for what `change` makes of it. `false` if it is struck already, if there is
    /// nothing to change, or if the driver was quicker.
    ///
    /// With `until`, it is undone before the chain at that head is completed.
    pub(super) fn strike(
        &mut self,
        id: DescId,
        word: Word,
        until: Option<DescId>,
        change: impl FnOnce(u64) -> u64,
    ) -> bool {
        let Some(entry) = self.ids.get_mut(id.index()) else { return false };
        let honest = words::load(&self.desc, id, word);
        let sibling = words::load(&self.desc, id, word.other());
        let [address, rest] = &mut entry.struck;
        let (mine, others) = if word == Word::Address { (address, rest) } else { (rest, address) };
        let bogus = change(honest);
        let still = mine.is_some_and(|struck| struck.bogus == honest);
        if still || bogus == honest || !words::replace(&self.desc, id, word, honest, bogus) {
            return false;
        }
        self.struck = self.struck.wrapping_add(usize::from(mine.is_none()));
        let sibling = others.is_none().then_some(sibling);
        if let Some(others) = others {
            others.sibling = None;
        }
        *mine = Some(Struck { honest, bogus, sibling, until });
        true
    }

    /// Undoes what was struck in a descriptor.
    pub(super) fn undo(&mut self, id: DescId) {
        for word in Word::BOTH {
            let struck = self.ids.get_mut(id.index()).and_then(|entry| entry.struck.get_mut(word.index()));
            if let Some(Struck { honest, bogus, sibling, .. }) = struck.and_then(Option::take) {
                self.struck = self.struck.saturating_sub(1);
                if sibling.is_none_or(|sibling| words::load(&self.desc, id, word.other()) == sibling) {
                    // It fails if the driver stored the word meanwhile, and then there is nothing to undo.
                    let _ = words::replace(&self.desc, id, word, bogus, honest);
                }
            }
        }
    }

    /// Undoes what was struck in descriptors that the device has.
    pub(super) fn undo_posted(&mut self) {
        self.undo_where(|entry| entry.owner == Owner::Device);
    }

    /// Undoes everything.
    pub(super) fn undo_all(&mut self) {
        self.undo_where(|_| true);
    }

    /// Undoes what must not outlive the chains at `heads`.
    pub(super) fn undo_until(&mut self, heads: &[DescId]) {
        self.undo_where(|entry| {
            entry.struck.iter().flatten().any(|struck| struck.until.is_some_and(|head| heads.contains(&head)))
        });
    }

    fn undo_where(&mut self, which: impl Fn(&Entry) -> bool) {
        if self.struck == 0 {
            return;
        }
        for id in self.every_id() {
            if self.ids.get(id.index()).is_some_and(|entry| entry.struck != NONE_STRUCK && which(entry)) {
                self.undo(id);
            }
        }
    }

    fn owner(&self, id: DescId) -> Owner {
        self.ids.get(id.index()).map_or(Owner::Never, |entry| entry.owner)
    }
}

impl Posted {
    fn push(&mut self, id: DescId, desc: Descriptor) {
        let writable = desc.flags & DESC_F_WRITE != 0;
        if self.ids.is_empty() || (writable && self.writable_len == 0) {
            self.buffer = (GuestAddr(desc.addr), desc.len);
        }
        self.ids.push(id);
        if writable {
            self.writable_len = self.writable_len.saturating_add(u64::from(desc.len));
        } else {
            self.readable = self.ids.len();
        }
    }

    /// The last descriptor.
    pub(super) fn tail(&self) -> Option<DescId> {
        self.ids.last().copied()
    }

    /// The first writable descriptor, or else the head.
    pub(super) fn writable_or_head(&self) -> Option<DescId> {
        self.ids.get(self.readable).or_else(|| self.ids.first()).copied()
    }
}

const NONE_STRUCK: [Option<Struck>; 2] = [None; 2];
