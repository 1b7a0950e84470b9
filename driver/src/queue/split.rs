//! The split virtqueue, driver side (virtio 1.3, section 2.7).
//!
//! The descriptor table and the available ring are [`Ours`]: their type has no load. What the driver needs to know again
//! (addresses, lengths, directions, links, which slot of the available ring holds which head) stands in the private
//! ledger and in a private shadow of the available ring. The shadow is also what makes hardening cheap: a word that
//! would be stored unchanged is not stored, so its cache line does not bounce.

use alloc::boxed::Box;
use alloc::sync::Arc;

use ironring_common::error::Misuse;
use ironring_common::index::{DescId, QueueSize, SplitIndex};
use ironring_common::shm::view::{Ours, Theirs};
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{self, DESC_F_NEXT, DESC_F_WRITE, Descriptor};
use ironring_common::sync::fence_handshake;

use super::ledger::{Ledger, Loan, Unshown, is_writable};
use super::violation::{Fault, Latch, Violation};
use crate::boundary::UsedRing;
use crate::mapper::{Direction, MapRecord, Mapper};

/// The three areas of a split virtqueue in shared memory.
#[derive(Clone, Debug)]
pub struct SplitAreas<W> {
    /// The descriptor table: 16 bytes a descriptor, aligned to 16.
    pub desc: W,
    /// The available ring, aligned to 2.
    pub avail: W,
    /// The used ring. Its elements, 4 bytes after its start, must be aligned to 8, so that each is one word: place the
    /// ring 4 bytes before a multiple of 8.
    pub used: W,
}

/// A split virtqueue. `T` is the caller's token, given back when the device is done with the buffers.
///
/// See the [module of queues](super) for what holds under a lying device.
#[derive(Debug)]
pub struct SplitRing<W, T> {
    queue: u16,
    size: QueueSize,
    desc: Ours<W>,
    avail: Ours<W>,
    used: UsedRing<W>,
    ledger: Ledger<T>,
    /// What each slot of the available ring holds.
    avail_shadow: Box<[u16]>,
    /// Where the next head goes.
    next_avail: SplitIndex,
    /// What the device has been told.
    published: SplitIndex,
    /// The next used element to take.
    next_used: SplitIndex,
    /// The device's index as last loaded and checked: `next_used <= seen_used <= published`.
    seen_used: SplitIndex,
    /// Completions of readable chains that claimed written bytes.
    idle_claims: u64,
    latch: Arc<Latch>,
}

/// Buffers that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion<T> {
    /// What `add` was given.
    pub token: T,
    /// The head descriptor that the chain had: below the queue size, free again.
    pub head: DescId,
    /// Bytes that the device says it wrote, at most the bytes posted writable.
    pub written: u32,
}

/// Why buffers were not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddError<E> {
    /// There are not enough free descriptors now. Take completions and try again.
    #[error("the queue is full: {need} descriptors are needed and {free} are free; take completions first")]
    Full {
        /// Descriptors needed.
        need: usize,
        /// Descriptors free.
        free: u16,
    },
    /// The list is empty, longer than the queue, or its writable bytes do not fit into 32 bits.
    #[error("a chain of {buffers} buffers cannot be posted on a queue of {size}; post 1 to {size} buffers below 4 GiB")]
    Impossible {
        /// Buffers in the list.
        buffers: usize,
        /// Descriptors of the queue.
        size: u16,
    },
    /// The mapper could not map a buffer. Everything that was mapped for this chain has been unmapped.
    #[error("buffer {index} of the chain cannot be mapped: {error}; the chain was taken back whole")]
    Map {
        /// Position of the buffer in the chain.
        index: usize,
        /// The mapper's word.
        error: E,
    },
    /// The device is broken.
    #[error(transparent)]
    Violation(#[from] Violation),
}

impl<W: Words, T> SplitRing<W, T> {
    /// Makes an empty ring over fresh areas and zeroes what is ours in them.
    ///
    /// # Errors
    /// [`Misuse`] if an area is too small or misaligned. Nothing was allocated or written then.
    pub fn new(queue: u16, size: QueueSize, areas: SplitAreas<W>, latch: Arc<Latch>) -> Result<Self, Misuse> {
        fits(&areas.desc, split::desc_bytes(size), 0, split::DESC_ALIGN.min(8))?;
        fits(&areas.avail, split::avail_bytes(size), 0, split::AVAIL_ALIGN)?;
        fits(&areas.used, split::used_bytes(size), split::USED_RING, split::USED_ELEM_BYTES)?;
        let desc = Ours::new(areas.desc);
        let avail = Ours::new(areas.avail);
        desc.zero(0, split::desc_bytes(size));
        avail.zero(0, split::avail_bytes(size));
        Ok(Self {
            queue,
            size,
            desc,
            avail,
            used: UsedRing::new(Theirs::new(areas.used), size),
            ledger: Ledger::new(size),
            avail_shadow: alloc::vec![0; usize::from(size.get())].into_boxed_slice(),
            next_avail: SplitIndex(0),
            published: SplitIndex(0),
            next_used: SplitIndex(0),
            seen_used: SplitIndex(0),
            idle_claims: 0,
            latch,
        })
    }

    /// Posts a chain: first the buffers that the device reads, then those that it writes. The device does not see it
    /// before [`publish`](Self::publish). Returns the head descriptor.
    ///
    /// # Errors
    /// [`AddError`]. Whatever the error, nothing of the chain stays mapped or reserved.
    #[inline]
    pub fn add<M: Mapper>(
        &mut self,
        mapper: &mut M,
        readable: &[M::Buffer],
        writable: &[M::Buffer],
        token: T,
    ) -> Result<DescId, AddError<M::Error>> {
        self.latch.check()?;
        let total = readable.len().wrapping_add(writable.len());
        if total == 0 || total > usize::from(self.size.get()) {
            return Err(AddError::Impossible { buffers: total, size: self.size.get() });
        }
        let full = AddError::Full { need: total, free: self.ledger.free() };
        if total > usize::from(self.ledger.free()) {
            return Err(full);
        }
        let Some(head) = self.ledger.next_free() else {
            return Err(full);
        };
        let buffers = readable
            .iter()
            .map(|buffer| (buffer, Direction::ToDevice))
            .chain(writable.iter().map(|buffer| (buffer, Direction::FromDevice)));
        let mut lent_writable = 0u32;
        let mut count = 0u16;
        let mut last = head;
        for (index, (buffer, direction)) in buffers.enumerate() {
            let Some(id) = self.ledger.reserve(last) else {
                self.unwind(mapper, last, count);
                return Err(full);
            };
            let mapped = match mapper.map(id, buffer, direction) {
                Ok(mapped) => mapped,
                Err(error) => {
                    self.ledger.unreserve(id);
                    self.unwind(mapper, last, count);
                    return Err(AddError::Map { index, error });
                }
            };
            let more = index.wrapping_add(1) < total;
            let next = if more { self.ledger.next_free().map_or(0, DescId::get) } else { 0 };
            let mut flags = if more { DESC_F_NEXT } else { 0 };
            let mut room = Some(lent_writable);
            if direction == Direction::FromDevice {
                flags |= DESC_F_WRITE;
                room = lent_writable.checked_add(mapped.len);
            }
            self.write_descriptor(id, Descriptor { addr: mapped.addr.0, len: mapped.len, flags, next });
            count = count.wrapping_add(1);
            last = id;
            match room {
                Some(sum) => lent_writable = sum,
                None => {
                    self.unwind(mapper, last, count);
                    return Err(AddError::Impossible { buffers: total, size: self.size.get() });
                }
            }
        }
        self.ledger.lend(head, token, Loan { count, writable: lent_writable, place: self.next_avail.0 });
        self.write_avail(head);
        Ok(head)
    }

    /// Shows the device every chain added since the last call; `false` if there was none, or the device is broken.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.published == self.next_avail || !self.latch.is_healthy() {
            return false;
        }
        // Release: orders the descriptors, the entries and the buffers before the index; pairs with the device's Acquire
        // load of avail.idx.
        self.avail.publish_u16(split::AVAIL_IDX, self.next_avail.0);
        self.published = self.next_avail;
        true
    }

    /// Whether the device asks to be kicked for what was published. A broken one is not asked.
    #[inline]
    pub fn should_kick(&self) -> bool {
        if !self.latch.is_healthy() {
            return false;
        }
        // Orders our store of avail.idx before our load of used.flags; its partner is the device's fence between its
        // store of used.flags and its last look at avail.idx. Without both, each side may miss the other's word.
        fence_handshake();
        self.used.kick_wanted()
    }

    /// Takes the next completion, if there is one, and unmaps its buffers by the private records.
    ///
    /// # Errors
    /// The [`Violation`], new or latched.
    #[inline]
    pub fn take<M: Mapper>(&mut self, mapper: &mut M) -> Result<Option<Completion<T>>, Violation> {
        if !self.has_completions()? {
            return Ok(None);
        }
        let (id, len) = self.used.element(self.next_used);
        let slot = u32::from(self.size.slot(self.next_used));
        let unshown = Unshown { from: self.published.0, count: self.next_avail.since(self.published) };
        let redeemed = self.ledger.redeem(id, len, slot, unshown).map_err(|fault| self.broken(fault))?;
        self.next_used = self.next_used.advance(1);
        self.idle_claims = self.idle_claims.wrapping_add(u64::from(redeemed.idle_claim));
        self.detach(mapper, redeemed.head, redeemed.count, redeemed.written);
        Ok(Some(Completion { token: redeemed.token, head: redeemed.head, written: redeemed.written }))
    }

    /// Whether there is something to take. Loads the device's index only when everything seen before was taken.
    ///
    /// # Errors
    /// The [`Violation`], new or latched.
    #[inline]
    pub fn has_completions(&mut self) -> Result<bool, Violation> {
        self.latch.check()?;
        if self.seen_used == self.next_used {
            let steps = self.used.completions(self.next_used, self.held());
            let steps = steps.map_err(|fault| self.broken(fault))?;
            self.seen_used = self.next_used.advance(steps);
        }
        Ok(self.seen_used != self.next_used)
    }

    /// Asks the device to call when it has used buffers. Look once more with [`take`](Self::take) before waiting.
    pub fn arm_calls(&mut self) {
        if !self.latch.is_healthy() {
            return;
        }
        self.avail.store_u16(split::AVAIL_FLAGS, 0);
        // Orders our store of avail.flags before our next load of used.idx; its partner is the device's fence between
        // its store of used.idx and its load of avail.flags.
        fence_handshake();
    }

    /// Asks the device not to call. It may do so all the same.
    pub fn suppress_calls(&mut self) {
        if !self.latch.is_healthy() {
            return;
        }
        self.avail.store_u16(split::AVAIL_FLAGS, split::AVAIL_F_NO_INTERRUPT);
    }

    /// `Err` if the device is broken.
    ///
    /// # Errors
    /// The latched [`Violation`].
    #[inline]
    pub fn check(&self) -> Result<(), Violation> {
        self.latch.check()
    }

    /// The head that the next chain will have, unless the queue is full.
    #[inline]
    #[must_use]
    pub fn next_head(&self) -> Option<DescId> {
        self.ledger.next_free()
    }

    /// Free descriptors.
    #[inline]
    #[must_use]
    pub fn free(&self) -> u16 {
        self.ledger.free()
    }

    /// Chains that are out, published or not.
    #[inline]
    #[must_use]
    pub fn outstanding(&self) -> u16 {
        self.ledger.outstanding()
    }

    /// Chains that the device was shown and has not given back: how many completions can be lawful now.
    #[inline]
    #[must_use]
    pub fn held(&self) -> u16 {
        self.published.since(self.next_used)
    }

    /// The index that a device which has served everything published would have reached.
    #[must_use]
    pub fn published(&self) -> SplitIndex {
        self.published
    }

    /// Descriptors of the queue.
    #[must_use]
    pub fn size(&self) -> QueueSize {
        self.size
    }

    /// How often the device claimed to have written to a chain that lends nothing writable.
    #[must_use]
    pub fn idle_claims(&self) -> u64 {
        self.idle_claims
    }

    /// Whether every descriptor is free or lent, exactly once. Walks everything: for audits.
    #[must_use]
    pub fn is_conserved(&self) -> bool {
        self.ledger.is_conserved()
    }

    /// The tokens of the chains that are out. A broken device may still write their buffers: they are quarantined until
    /// the arena is gone.
    pub fn lent(&self) -> impl Iterator<Item = &T> + '_ {
        self.ledger.lent().map(|(_, token, _)| token)
    }

    /// Writes a descriptor and its private record together: the only place that does either. Final flags are stored
    /// once; nothing is patched later.
    #[inline]
    fn write_descriptor(&mut self, id: DescId, desc: Descriptor) {
        if self.ledger.book(id, desc) {
            let at = id.index().wrapping_mul(split::DESC_BYTES);
            let [addr, rest] = desc.to_words();
            self.desc.store_u64(at, addr);
            self.desc.store_u64(at.wrapping_add(8), rest);
        }
    }

    /// Puts a head into the next slot of the available ring, unless the slot holds it already.
    #[inline]
    fn write_avail(&mut self, head: DescId) {
        let slot = usize::from(self.size.slot(self.next_avail));
        if let Some(shadow) = self.avail_shadow.get_mut(slot)
            && *shadow != head.get()
        {
            *shadow = head.get();
            let at = slot.wrapping_mul(split::AVAIL_ENTRY_BYTES).wrapping_add(split::AVAIL_RING);
            self.avail.store_u16(at, head.get());
        }
        self.next_avail = self.next_avail.advance(1);
    }

    /// Unmaps and frees the chain of `count` descriptors from `head`, by the private records alone. `written` bytes
    /// belong to its writable buffers, in their order.
    ///
    /// An indirect table will be detached here too: its private shadow walked, the table scrubbed, nothing loaded.
    #[inline]
    fn detach<M: Mapper>(&mut self, mapper: &mut M, head: DescId, count: u16, written: u32) {
        let mut left = written;
        let mut id = head;
        for _ in 0..count {
            let desc = self.ledger.desc(id);
            let part = if is_writable(desc) { left.min(desc.len) } else { 0 };
            left = left.wrapping_sub(part);
            unmap(mapper, id, desc, part);
            self.ledger.release(id);
            let Some(next) = DescId::below(desc.next, self.size) else { break };
            id = next;
        }
    }

    /// Undoes a chain that was not finished: its `count` descriptors up to `last`, last one first, by the private records
    /// alone: whatever the device wrote into the table meanwhile has no say.
    #[cold]
    fn unwind<M: Mapper>(&mut self, mapper: &mut M, last: DescId, count: u16) {
        let mut id = last;
        for _ in 0..count {
            let before = self.ledger.before(id);
            unmap(mapper, id, self.ledger.desc(id), 0);
            self.ledger.unreserve(id);
            id = before;
        }
    }

    #[cold]
    fn broken(&self, fault: Fault) -> Violation {
        self.latch.trip(fault.in_queue(self.queue))
    }
}

/// Tells the mapper to undo one descriptor as the private record has it.
#[inline]
fn unmap<M: Mapper>(mapper: &mut M, id: DescId, desc: Descriptor, written: u32) {
    let direction = if is_writable(desc) { Direction::FromDevice } else { Direction::ToDevice };
    let undone = mapper.unmap(MapRecord { id, addr: desc.addr.into(), len: desc.len, direction }, written);
    // The record is what the mapper itself handed out, so a refusal is a bug in it or here, never the peer's doing.
    assert!(undone.is_ok(), "the mapper refuses to undo its own mapping");
}

/// Whether an area holds `need` bytes with words of `align` bytes at offset `at`.
fn fits<W: Words>(area: &W, need: usize, at: usize, align: usize) -> Result<(), Misuse> {
    if area.len() < need {
        return Err(Misuse::AreaTooSmall { have: area.len(), need });
    }
    if !area.is_aligned(at, align) {
        return Err(Misuse::Misaligned { need: align });
    }
    Ok(())
}

#[cfg(all(test, feature = "std"))]
mod tests;
