//! The split virtqueue (virtio 1.3, section 2.7), device side.
//!
//! A burst: [`poll`](SplitVring::poll) loads the available index once; [`next_chain`](SplitVring::next_chain) takes
//! chains until that index is reached; [`complete`](SplitVring::complete) writes a used element for each;
//! [`publish`](SplitVring::publish) stores the used index once. Indices, flags and the latch are private; see the parent
//! module for what holds when the driver lies.

use ironring_common::apart;
use ironring_common::error::Misuse;
use ironring_common::index::{DescId, QueueSize, SplitIndex};
use ironring_common::shm::area::Bytes;
use ironring_common::shm::table::{HotRegion, RegionTable};
use ironring_common::shm::view::{Ours, Theirs};
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{
    AVAIL_ALIGN, DESC_ALIGN, USED_ALIGN, USED_ELEM_BYTES, USED_F_NO_NOTIFY, USED_FLAGS, USED_IDX, USED_RING, UsedElem,
    avail_bytes, avail_event_at, desc_bytes, used_bytes,
};
use ironring_common::sync::fence_handshake;

use super::chain::{Chain, ChainRef, Single};
use super::hook::Hook;
use super::table::{Owner, TableReader};
use super::{DeviceRing, RingFault, VringOptions};
use crate::boundary;

mod singles;

/// One split virtqueue. See the [module documentation](self).
#[derive(Debug)]
pub struct SplitVring<W: Words> {
    queue: usize,
    size: QueueSize,
    desc: Theirs<W>,
    avail: Theirs<W>,
    used: Ours<W>,
    elements: ElementStores,
    tables: Option<TableReader>,
    event_idx: bool,
    in_order: bool,
    /// The next available entry to take.
    next_avail: u16,
    /// The available index as it was last seen and found right.
    seen_avail: u16,
    /// The next used element to write.
    next_used: u16,
    /// The used index as it was last published.
    published: u16,
    /// The used index that was published when the driver was last asked whether it wants a call.
    asked: u16,
    /// Used elements since the last publish.
    entries: u16,
    /// With `VIRTIO_F_IN_ORDER`: completions that become one element, which is not written yet.
    batch: Option<Batch>,
    /// What `used.flags`, or `avail_event`, says, once we have said something.
    kicks: Option<Kicks>,
    fault: Option<RingFault>,
    /// Heads completed in this burst, for a hook only.
    heads: Vec<DescId>,
}

/// A used element that stands for all completions from `first` on: it names the last one.
#[derive(Clone, Copy, Debug)]
struct Batch {
    first: u16,
    last: u16,
}

impl<W: Words> SplitVring<W> {
    /// A ring of `size` descriptors that goes on at index `base` in both directions. Nothing is loaded or stored yet.
    ///
    /// `queue` is the number of the queue in the device, for faults and hooks.
    ///
    /// # Errors
    /// [`Misuse::AreaTooSmall`] or [`Misuse::Misaligned`] by the rules of section 2.7: the table is aligned to 16, the
    /// available ring to 2, the used ring to 4 bytes. [`Misuse::QueueSize`] for a size that no split ring has.
    pub fn new(queue: usize, size: QueueSize, desc: W, avail: W, used: W, base: u16) -> Result<Self, Misuse> {
        if !size.is_split() {
            return Err(Misuse::QueueSize { size: size.get() });
        }
        check_areas(size, &desc, &avail, &used)?;
        let elements = ElementStores::of(&used);
        Ok(Self {
            queue,
            size,
            desc: Theirs::new(desc),
            avail: Theirs::new(avail),
            used: Ours::new(used),
            elements,
            tables: None,
            event_idx: false,
            in_order: false,
            next_avail: base,
            seen_avail: base,
            next_used: base,
            published: base,
            asked: base,
            entries: 0,
            batch: None,
            kicks: None,
            fault: None,
            heads: apart::list(usize::from(size.get())),
        })
    }

    /// The same ring with what was negotiated beyond it.
    #[must_use]
    pub fn with_options(self, options: VringOptions) -> Self {
        let VringOptions { indirect, event_idx, in_order, .. } = options;
        let tables = indirect.map(|memory| TableReader::new(memory, self.size.get()));
        Self { tables, event_idx, in_order, ..self }
    }

    /// Compares where the ring was started with the used index in its memory, `used`; to be called once, before anything
    /// else. A front-end that could not ask the last backend starts the next one at an old index (DPDK's virtio-user at 0),
    /// but the used index is the one that the driver goes by. If they differ, and the available index is one that fits the
    /// used index, the ring goes on there, and that is returned: what the last backend took and did not give back is served
    /// again.
    pub fn settle(&mut self, used: W) -> Option<u16> {
        let left = boundary::used_index_left(&Theirs::new(used), &self.avail, self.size)?;
        if left == self.next_used {
            return None;
        }
        self.next_avail = left;
        self.seen_avail = left;
        self.next_used = left;
        self.published = left;
        self.asked = left;
        Some(left)
    }

    /// Moves the ring to new views of its three areas, after a change of the memory table. Indices stay.
    ///
    /// # Errors
    /// As [`new`](Self::new); the ring is unchanged then.
    pub fn relocate(&mut self, desc: W, avail: W, used: W, memory: &RegionTable) -> Result<(), Misuse> {
        check_areas(self.size, &desc, &avail, &used)?;
        self.elements = ElementStores::of(&used);
        self.desc = Theirs::new(desc);
        self.avail = Theirs::new(avail);
        self.used = Ours::new(used);
        self.kicks = None;
        if let Some(tables) = &mut self.tables {
            tables.set_memory(memory.clone());
        }
        Ok(())
    }

    /// The next available entry to take, as a free-running index.
    #[inline]
    #[must_use]
    pub const fn next_avail(&self) -> u16 {
        self.next_avail
    }

    /// The next used element to write, as a free-running index.
    #[inline]
    #[must_use]
    pub const fn next_used(&self) -> u16 {
        self.next_used
    }

    /// The heads completed since the last poll, if a hook is active.
    #[inline]
    #[must_use]
    pub fn heads(&self) -> &[DescId] {
        &self.heads
    }

    /// Loads the next head and follows its chain.
    #[inline]
    fn walk(&mut self, out: &mut Chain) -> Result<(), RingFault> {
        let (queue, size) = (self.queue, self.size);
        let slot = size.slot(SplitIndex(self.next_avail));
        let head = boundary::avail_head(&self.avail, slot, size).map_err(|refused| RingFault::HeadOutOfRange {
            queue,
            slot,
            observed: refused.observed,
            bound: size.get(),
        })?;
        out.start();
        let table = boundary::table(&self.desc, size);
        let mut id = head;
        for taken in 0..size.get() {
            let (head, at) = (head.get(), id.get());
            let link = boundary::descriptor(&table, id, size).map_err(|refused| RingFault::NextOutOfRange {
                queue,
                head,
                at,
                observed: refused.observed,
                bound: size.get(),
            })?;
            if link.indirect {
                let tables = self.tables.as_mut().ok_or(RingFault::IndirectNotNegotiated { queue, head, at })?;
                if link.next.is_some() {
                    return Err(RingFault::IndirectWithNext { queue, head });
                }
                // Direct descriptors may come before a table (2.7.5.3.2), and count.
                let owner = Owner { queue, head, room: size.get().saturating_sub(taken) };
                tables.walk_split(owner, link.segment, out)?;
                out.finish(head, taken.wrapping_add(1));
                return Ok(());
            }
            if !out.push(link.segment, link.writable) {
                return Err(RingFault::ReadableAfterWritable { queue, head, at });
            }
            match link.next {
                None => {
                    out.finish(head, taken.wrapping_add(1));
                    return Ok(());
                }
                Some(next) => id = next,
            }
        }
        Err(RingFault::ChainTooLong { queue, head: head.get(), bound: size.get() })
    }

    /// Writes a used element for the completion with index `at`.
    #[inline(always)]
    fn write_element<H: Hook>(&mut self, hook: &mut H, at: u16, elem: UsedElem) {
        let elem = hook.used_elem(self.queue, elem);
        let slot = usize::from(self.size.slot(SplitIndex(at)));
        // A slot is below 32768, so the offset is far from overflow.
        let at = USED_RING.wrapping_add(USED_ELEM_BYTES.wrapping_mul(slot));
        match self.elements {
            ElementStores::One => self.used.store_u64(at, elem.to_word()),
            ElementStores::Two => {
                self.used.store_u32(at, elem.id);
                self.used.store_u32(at.wrapping_add(4), elem.len);
            }
        }
        self.entries = self.entries.wrapping_add(1);
    }

    /// Writes the element of a batch. It stands where the batch begins, names its last chain, and the index skips the rest
    /// (2.7.9).
    #[inline(always)]
    fn write_batch<H: Hook>(&mut self, hook: &mut H) {
        if let Some(Batch { first, last }) = self.batch.take() {
            self.write_element(hook, first, UsedElem { id: u32::from(last), len: 0 });
        }
    }

    /// Says when the driver is to kick: with event indices at an index, otherwise always or never.
    #[inline]
    fn say(&mut self, kicks: Kicks, event: u16) {
        let kicks = if self.event_idx { Kicks { event, ..kicks } } else { kicks };
        if self.kicks == Some(kicks) {
            return;
        }
        self.kicks = Some(kicks);
        if self.event_idx {
            self.used.store_u16(avail_event_at(self.size), event);
        } else {
            self.used.store_u16(USED_FLAGS, if kicks.armed { 0 } else { USED_F_NO_NOTIFY });
        }
    }

    /// Where its private memory lies, for the test of the layout.
    #[cfg(test)]
    pub(crate) fn lines(&self, to: &mut Vec<std::ops::Range<usize>>) {
        let heads = apart::lines(&*self.heads).start;
        to.push(heads..heads + size_of::<DescId>() * usize::from(self.size.get()));
        self.tables.iter().for_each(|tables| tables.lines(to));
    }
}

impl<W: Words> DeviceRing for SplitVring<W> {
    /// One Acquire load of `avail.idx`, which then serves the whole burst.
    #[inline]
    fn poll(&mut self) -> Result<u16, RingFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.heads.clear();
        // The driver may add a chain for each descriptor that is not in use: everything between what we published and
        // what it made available is in use.
        let in_use = self.seen_avail.wrapping_sub(self.published);
        let room = self.size.get().saturating_sub(in_use);
        match boundary::avail_steps(&self.avail, self.seen_avail, room) {
            Ok(steps) => {
                self.seen_avail = self.seen_avail.wrapping_add(steps);
                Ok(self.available())
            }
            Err(refused) => Err(self.fail(RingFault::AvailIndexJump {
                queue: self.queue,
                last: self.seen_avail,
                observed: refused.observed,
                bound: room,
            })),
        }
    }

    #[inline]
    fn available(&self) -> u16 {
        self.seen_avail.wrapping_sub(self.next_avail)
    }

    #[inline]
    fn is_full(&self) -> bool {
        self.seen_avail.wrapping_sub(self.next_used) >= self.size.get()
    }

    #[inline]
    fn next_chain(&mut self, out: &mut Chain) -> Result<bool, RingFault> {
        if self.available() == 0 {
            return self.fault.map_or(Ok(false), Err);
        }
        match self.walk(out) {
            Ok(()) => {
                self.next_avail = self.next_avail.wrapping_add(1);
                Ok(true)
            }
            Err(fault) => Err(self.fail(fault)),
        }
    }

    #[inline(always)]
    fn next_singles<'m, const FILLS: bool>(
        &mut self,
        memory: &mut HotRegion<'m>,
        out: &mut [Single<'m>],
        fit: impl FnMut(Bytes<'m>) -> bool,
    ) -> u16 {
        self.take_singles::<FILLS>(memory, out, fit)
    }

    #[inline(always)]
    fn end_singles<H: Hook, const FILLS: bool>(&mut self, hook: &mut H, done: &[Single<'_>], back: &[Single<'_>]) {
        self.give_singles::<H, FILLS>(hook, done, back);
    }

    #[inline(always)]
    fn next_single<'m, const FILLS: bool>(
        &mut self,
        memory: &mut HotRegion<'m>,
        fit: impl FnOnce(Bytes<'m>) -> bool,
    ) -> Option<Single<'m>> {
        self.take_single::<FILLS>(memory, fit)
    }

    #[inline(always)]
    fn end_single<H: Hook, const FILLS: bool>(&mut self, hook: &mut H, done: Single<'_>) {
        self.complete(hook, done.at::<FILLS>(), done.length::<FILLS>());
    }

    #[inline]
    fn undo_last(&mut self, chains: u16) {
        let taken = self.next_avail.wrapping_sub(self.next_used);
        debug_assert!(chains <= taken, "there are so many chains that were taken and not completed");
        self.next_avail = self.next_avail.wrapping_sub(chains.min(taken));
        if self.fault.is_some() {
            self.seen_avail = self.next_avail;
        }
    }

    #[inline(always)]
    fn complete<H: Hook>(&mut self, hook: &mut H, chain: ChainRef, written: u32) {
        debug_assert_ne!(self.next_avail, self.next_used, "there is a chain that was taken and not completed");
        if self.in_order && !chain.writable && !H::ACTIVE {
            // Nothing can have been written, so nothing is lost when the element of the last one stands for all. A hook is
            // told one element for each.
            let first = self.batch.map_or(self.next_used, |batch| batch.first);
            self.batch = Some(Batch { first, last: chain.id });
        } else {
            self.write_batch(hook);
            self.write_element(hook, self.next_used, UsedElem { id: u32::from(chain.id), len: written });
        }
        self.next_used = self.next_used.wrapping_add(1);
        if H::ACTIVE
            && self.heads.len() < self.heads.capacity()
            && let Some(head) = DescId::below(chain.id, self.size)
        {
            self.heads.push(head);
        }
    }

    /// One store of `used.idx`. The Release store pairs with the driver's Acquire load: it orders the used elements, and the
    /// bytes written into the buffers, before the index.
    #[inline]
    fn publish<H: Hook>(&mut self, hook: &mut H) -> u16 {
        if self.published == self.next_used {
            return 0;
        }
        self.write_batch(hook);
        self.published = self.next_used;
        self.used.publish_u16(USED_IDX, hook.used_idx(self.queue, self.next_used));
        std::mem::take(&mut self.entries)
    }

    #[inline]
    fn should_call(&mut self) -> bool {
        let asked = std::mem::replace(&mut self.asked, self.published);
        // Orders our store of used.idx before our load of avail.flags or used_event. Its partner is the driver's fence
        // between its store of that word and its last look at used.idx: one of the two sees the other's store.
        fence_handshake();
        if self.event_idx {
            boundary::wants_call_at(&self.avail, self.size, self.published, asked)
        } else {
            boundary::wants_call(&self.avail)
        }
    }

    fn arm_kick(&mut self) {
        self.say(Kicks { armed: true, event: 0 }, self.seen_avail);
        // Orders our store of used.flags or avail_event before our next load of avail.idx. Its partner is the driver's fence
        // between its store of avail.idx and its load of that word: one of the two sees the other's store.
        fence_handshake();
    }

    #[inline]
    fn suppress_kicks(&mut self) {
        if !self.kicks_are_suppressed() {
            // An index that lies behind: it is reached when the indices have gone round.
            self.say(Kicks { armed: false, event: 0 }, self.seen_avail.wrapping_sub(1));
        }
    }

    #[inline]
    fn kicks_are_suppressed(&self) -> bool {
        self.kicks.is_some_and(|kicks| !kicks.armed)
    }

    fn stop(&mut self) -> u16 {
        debug_assert_eq!(self.next_avail, self.next_used, "everything that was taken is completed");
        self.seen_avail = self.next_used;
        self.next_avail = self.next_used;
        self.next_used
    }

    #[cold]
    fn fail(&mut self, fault: RingFault) -> RingFault {
        self.seen_avail = self.next_avail;
        *self.fault.get_or_insert(fault)
    }

    #[inline]
    fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    #[inline]
    fn queue(&self) -> usize {
        self.queue
    }

    #[inline]
    fn size(&self) -> QueueSize {
        self.size
    }
}

/// What we last told the driver about kicks: whether it is to, and with event indices at which index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kicks {
    armed: bool,
    event: u16,
}

/// How a used element is stored. The driver chooses where the used ring lies, and it must be aligned to 4 only; with the
/// elements on 8 bytes, one 64-bit store makes each of them. The choice is made once, so that each word keeps its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ElementStores {
    One,
    Two,
}

impl ElementStores {
    fn of<W: Words>(used: &W) -> Self {
        if used.is_aligned(USED_RING, 8) { Self::One } else { Self::Two }
    }
}

fn check_areas<W: Words>(size: QueueSize, desc: &W, avail: &W, used: &W) -> Result<(), Misuse> {
    check_area(desc, desc_bytes(size), DESC_ALIGN)?;
    check_area(avail, avail_bytes(size), AVAIL_ALIGN)?;
    check_area(used, used_bytes(size), USED_ALIGN)
}

pub(super) fn check_area<W: Words>(area: &W, need: usize, align: usize) -> Result<(), Misuse> {
    if area.len() < need {
        return Err(Misuse::AreaTooSmall { have: area.len(), need });
    }
    if !area.is_aligned(0, align) {
        return Err(Misuse::Misaligned { need: align });
    }
    Ok(())
}
