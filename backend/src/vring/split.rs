//! The split virtqueue (virtio 1.3, section 2.7), device side.
//!
//! A burst: [`poll`](SplitVring::poll) loads the available index once; [`next_chain`](SplitVring::next_chain) takes
//! chains until that index is reached; [`complete`](SplitVring::complete) writes a used element for each;
//! [`publish`](SplitVring::publish) stores the used index once. Indices, flags and the latch are private; see the parent
//! module for what holds when the driver lies.

use ironring_common::error::Misuse;
use ironring_common::index::{DescId, QueueSize, SplitIndex};
use ironring_common::shm::view::{Ours, Theirs};
use ironring_common::shm::words::Words;
use ironring_common::spec::split::{
    AVAIL_ALIGN, DESC_ALIGN, USED_ALIGN, USED_ELEM_BYTES, USED_F_NO_NOTIFY, USED_FLAGS, USED_IDX, USED_RING, UsedElem,
    avail_bytes, desc_bytes, used_bytes,
};
use ironring_common::sync::fence_handshake;

use super::RingFault;
use super::chain::Chain;
use super::hook::Hook;
use crate::boundary::{self, BadLink};

/// One split virtqueue. See the [module documentation](self).
#[derive(Debug)]
pub struct SplitVring<W: Words> {
    queue: usize,
    size: QueueSize,
    desc: Theirs<W>,
    avail: Theirs<W>,
    used: Ours<W>,
    elements: ElementStores,
    /// The next available entry to take.
    next_avail: u16,
    /// The available index as it was last seen and found right.
    seen_avail: u16,
    /// The next used element to write.
    next_used: u16,
    /// The used index as it was last published.
    published: u16,
    /// What `used.flags` says, once we have said something.
    kicks: Option<Kicks>,
    fault: Option<RingFault>,
    /// Heads completed in this burst, for a hook only.
    heads: Vec<DescId>,
}

impl<W: Words> SplitVring<W> {
    /// A ring of `size` descriptors that goes on at index `base` in both directions. Nothing is loaded or stored yet.
    ///
    /// `queue` is the number of the queue in the device, for faults and hooks.
    ///
    /// # Errors
    /// [`Misuse::AreaTooSmall`] or [`Misuse::Misaligned`] by the rules of section 2.7: the table is aligned to 16, the
    /// available ring to 2, the used ring to 4 bytes.
    pub fn new(queue: usize, size: QueueSize, desc: W, avail: W, used: W, base: u16) -> Result<Self, Misuse> {
        check_areas(size, &desc, &avail, &used)?;
        let elements = ElementStores::of(&used);
        Ok(Self {
            queue,
            size,
            desc: Theirs::new(desc),
            avail: Theirs::new(avail),
            used: Ours::new(used),
            elements,
            next_avail: base,
            seen_avail: base,
            next_used: base,
            published: base,
            kicks: None,
            fault: None,
            heads: Vec::with_capacity(usize::from(size.get())),
        })
    }

    /// Moves the ring to new views of its three areas, after a change of the memory table. Indices stay.
    ///
    /// # Errors
    /// As [`new`](Self::new); the ring is unchanged then.
    pub fn relocate(&mut self, desc: W, avail: W, used: W) -> Result<(), Misuse> {
        check_areas(self.size, &desc, &avail, &used)?;
        self.elements = ElementStores::of(&used);
        self.desc = Theirs::new(desc);
        self.avail = Theirs::new(avail);
        self.used = Ours::new(used);
        self.kicks = None;
        Ok(())
    }

    /// Looks how many chains the driver has made available that are not taken: one Acquire load of `avail.idx`, which
    /// then serves the whole burst. Also begins a burst.
    ///
    /// # Errors
    /// [`RingFault::AvailIndexJump`], latched; or the fault that is latched already.
    #[inline]
    pub fn poll(&mut self) -> Result<u16, RingFault> {
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

    /// Chains that the last [`poll`](Self::poll) saw and that are not taken yet.
    #[inline]
    #[must_use]
    pub const fn available(&self) -> u16 {
        self.seen_avail.wrapping_sub(self.next_avail)
    }

    /// Takes the next chain and walks it into `out`: each descriptor loaded once, at most as many as the queue has.
    /// `false` if there is none.
    ///
    /// # Errors
    /// [`RingFault`], latched; the chain stays on the ring then.
    #[inline]
    pub fn next_chain(&mut self, out: &mut Chain) -> Result<bool, RingFault> {
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

    /// Puts the chain that was taken last back on the ring, uncompleted: it cannot be served now. The next
    /// [`next_chain`](Self::next_chain) walks it anew.
    #[inline]
    pub fn undo(&mut self) {
        self.undo_last(1);
    }

    /// As [`undo`](Self::undo), for the last `chains` that were taken.
    #[inline]
    pub fn undo_last(&mut self, chains: u16) {
        let taken = self.next_avail.wrapping_sub(self.next_used);
        debug_assert!(chains <= taken, "there are so many chains that were taken and not completed");
        self.next_avail = self.next_avail.wrapping_sub(chains.min(taken));
        if self.fault.is_some() {
            self.seen_avail = self.next_avail;
        }
    }

    /// Writes the used element of a chain that was taken: `written` bytes went into its device-writable part. The driver
    /// sees it after the next [`publish`](Self::publish).
    #[inline]
    pub fn complete<H: Hook>(&mut self, hook: &mut H, head: DescId, written: u32) {
        debug_assert_ne!(self.next_avail, self.next_used, "there is a chain that was taken and not completed");
        let elem = hook.used_elem(self.queue, UsedElem { id: u32::from(head.get()), len: written });
        let slot = usize::from(self.size.slot(SplitIndex(self.next_used)));
        // A slot is below 32768, so the offset is far from overflow.
        let at = USED_RING.wrapping_add(USED_ELEM_BYTES.wrapping_mul(slot));
        match self.elements {
            ElementStores::One => self.used.store_u64(at, elem.to_word()),
            ElementStores::Two => {
                self.used.store_u32(at, elem.id);
                self.used.store_u32(at.wrapping_add(4), elem.len);
            }
        }
        self.next_used = self.next_used.wrapping_add(1);
        if H::ACTIVE && self.heads.len() < self.heads.capacity() {
            self.heads.push(head);
        }
    }

    /// Publishes all completions since the last time by one store of `used.idx`; `false` if there are none.
    ///
    /// The Release store pairs with the driver's Acquire load: it orders the used elements, and the bytes written into
    /// the buffers, before the index.
    #[inline]
    pub fn publish<H: Hook>(&mut self, hook: &mut H) -> bool {
        if self.published == self.next_used {
            return false;
        }
        self.published = self.next_used;
        self.used.publish_u16(USED_IDX, hook.used_idx(self.queue, self.next_used));
        true
    }

    /// Whether the driver is to be called after a publish.
    ///
    /// With `VIRTIO_F_EVENT_IDX` (not served yet) this is where the index before the burst is compared with
    /// `used_event`.
    #[inline]
    #[must_use]
    pub fn should_call(&self) -> bool {
        // Orders our store of used.idx before our load of avail.flags. Its partner is the driver's fence between its
        // store of avail.flags and its last look at used.idx: one of the two sees the other's store.
        fence_handshake();
        boundary::wants_call(&self.avail)
    }

    /// Asks the driver to kick. The caller must [`poll`](Self::poll) once more before it sleeps.
    pub fn arm_kick(&mut self) {
        if self.kicks != Some(Kicks::Armed) {
            self.used.store_u16(USED_FLAGS, 0);
            self.kicks = Some(Kicks::Armed);
        }
        // Orders our store of used.flags before our next load of avail.idx. Its partner is the driver's fence between
        // its store of avail.idx and its load of used.flags: one of the two sees the other's store.
        fence_handshake();
    }

    /// Tells the driver that kicks are not needed. A hint; late kicks do no harm.
    #[inline]
    pub fn suppress_kicks(&mut self) {
        if self.kicks != Some(Kicks::Suppressed) {
            self.used.store_u16(USED_FLAGS, USED_F_NO_NOTIFY);
            self.kicks = Some(Kicks::Suppressed);
        }
    }

    /// Whether the last thing that the driver was told is that kicks are not needed.
    #[inline]
    #[must_use]
    pub fn kicks_are_suppressed(&self) -> bool {
        self.kicks == Some(Kicks::Suppressed)
    }

    /// Ends the ring: nothing more is taken. Returns the index to go on from, that is, the first chain not completed.
    pub fn stop(&mut self) -> u16 {
        debug_assert_eq!(self.next_avail, self.next_used, "everything that was taken is completed");
        self.seen_avail = self.next_used;
        self.next_avail = self.next_used;
        self.next_used
    }

    /// Latches `fault` unless one is latched, and returns the one that is. Chains that were seen are forgotten.
    #[cold]
    pub fn fail(&mut self, fault: RingFault) -> RingFault {
        self.seen_avail = self.next_avail;
        *self.fault.get_or_insert(fault)
    }

    /// The fault that is latched.
    #[inline]
    #[must_use]
    pub const fn fault(&self) -> Option<RingFault> {
        self.fault
    }

    /// Number of the queue in the device.
    #[inline]
    #[must_use]
    pub const fn queue(&self) -> usize {
        self.queue
    }

    /// Descriptors of the ring.
    #[inline]
    #[must_use]
    pub const fn size(&self) -> QueueSize {
        self.size
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
    fn walk(&self, out: &mut Chain) -> Result<(), RingFault> {
        let (queue, size) = (self.queue, self.size);
        let slot = size.slot(SplitIndex(self.next_avail));
        let head = boundary::avail_head(&self.avail, slot, size).map_err(|refused| RingFault::HeadOutOfRange {
            queue,
            slot,
            observed: refused.observed,
            bound: size.get(),
        })?;
        out.start(head);
        let mut id = head;
        for _ in 0..size.get() {
            let link = boundary::descriptor(&self.desc, id, size).map_err(|bad| self.bad_link(head, id, bad))?;
            if !out.push(link.segment, link.writable) {
                return Err(RingFault::ReadableAfterWritable { queue, head: head.get(), at: id.get() });
            }
            match link.next {
                None => return Ok(()),
                Some(next) => id = next,
            }
        }
        Err(RingFault::ChainTooLong { queue, head: head.get(), bound: size.get() })
    }

    #[cold]
    fn bad_link(&self, head: DescId, at: DescId, bad: BadLink) -> RingFault {
        let (queue, head, at, bound) = (self.queue, head.get(), at.get(), self.size.get());
        match bad {
            BadLink::Indirect => RingFault::IndirectNotNegotiated { queue, head, at },
            BadLink::Next(observed) => RingFault::NextOutOfRange { queue, head, at, observed, bound },
        }
    }
}

/// Whether we last asked the driver for kicks or told it to save them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kicks {
    Armed,
    Suppressed,
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

fn check_area<W: Words>(area: &W, need: usize, align: usize) -> Result<(), Misuse> {
    if area.len() < need {
        return Err(Misuse::AreaTooSmall { have: area.len(), need });
    }
    if !area.is_aligned(0, align) {
        return Err(Misuse::Misaligned { need: align });
    }
    Ok(())
}
