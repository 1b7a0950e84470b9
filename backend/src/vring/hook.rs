//! The one seam of the data plane where a hostile mode plugs in.
//!
//! The honest backend runs with [`NoHook`]: every method is empty, [`Hook::ACTIVE`] is false, and nothing of this is
//! left after monomorphisation. A hook is called at named moments of a ring's life and, where completions are written,
//! for each used element, each published index and each call. What a hook changes on the wire changes nothing in the
//! private state of the ring: the next honest store is right again.

use ironring_common::index::{DescId, PackedPosition, QueueSize};
use ironring_common::shm::area::Area;
use ironring_common::shm::table::RegionTable;
use ironring_common::spec::packed::SlotRest;
use ironring_common::spec::split::UsedElem;

use super::chain::Single;

/// When a hook is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Moment {
    /// The ring was started; nothing was taken yet.
    Start,
    /// The ring is about to be looked at: `avail.idx` was not loaded in this pass.
    Look,
    /// Chains that are new since the last look were seen; none of them was taken yet.
    Post,
    /// The used elements of a burst were written; their index is not published yet.
    Complete,
    /// The index of a burst was published; the driver was not called yet.
    PostUse,
    /// A pass found nothing to do on this ring.
    Idle,
    /// The ring is about to stop; everything that was taken is completed and published.
    Stop,
}

/// What someone on the device's side of a ring holds: the mapping, and the addresses of the ring.
#[derive(Clone, Copy, Debug)]
pub struct RingMemory<'a> {
    /// Number of the queue in the device: 2i receives for the guest, 2i + 1 transmits.
    pub queue: usize,
    /// Descriptors of the ring, or slots.
    pub size: QueueSize,
    /// Where it is, and how far it has got.
    pub parts: Parts<'a>,
    /// Where the addresses of descriptors lead.
    pub memory: &'a RegionTable,
    /// The chains completed since the last look at the ring, in the order of their completions: their head descriptors, or
    /// in a packed ring the slots with which they began. At [`Moment::Complete`] and [`Moment::PostUse`] that is the burst.
    pub heads: &'a [DescId],
}

/// The parts of a ring, and its private positions.
#[derive(Clone, Copy, Debug)]
pub enum Parts<'a> {
    /// Section 2.7.
    Split {
        /// The descriptor table.
        desc: &'a Area,
        /// The available ring.
        avail: &'a Area,
        /// The used ring.
        used: &'a Area,
        /// The free-running index of the next available entry to take.
        next_avail: u16,
        /// The free-running index of the next used element to write; the last of `heads` stands before it.
        next_used: u16,
    },
    /// Section 2.8.
    Packed {
        /// The slots.
        ring: &'a Area,
        /// The driver's event area.
        driver_event: &'a Area,
        /// Our event area.
        device_event: &'a Area,
        /// The slot of the next chain to take.
        next_avail: PackedPosition,
        /// The slot of the next completion.
        next_used: PackedPosition,
    },
}

/// What a hostile mode implements. Every default is honest.
///
/// `queue` is the number of the queue in the device, as in [`RingMemory::queue`].
pub trait Hook {
    /// Whether the ring keeps the heads of a burst for this hook and looks at rings that it has no work for.
    const ACTIVE: bool = true;

    /// Called at each [`Moment`], from the thread that serves the ring.
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>) {
        let _ = (moment, ring);
    }

    /// A burst of chains of one descriptor that are about to be completed, for another order of their completions: one in which they were not
    /// made available, as a device without `VIRTIO_F_IN_ORDER` may. Told without [`ACTIVE`](Self::ACTIVE) too.
    #[inline(always)]
    fn order(&mut self, done: &mut [Single<'_>]) {
        let _ = done;
    }

    /// The used element to write instead of the honest `elem`.
    #[inline]
    fn used_elem(&mut self, queue: usize, elem: UsedElem) -> UsedElem {
        let _ = queue;
        elem
    }

    /// The second word of the used slot at `slot` of a packed ring to write instead of the honest `rest`. Told as chains are
    /// completed.
    #[inline]
    fn used_slot(&mut self, queue: usize, slot: u16, rest: SlotRest) -> SlotRest {
        let _ = (queue, slot);
        rest
    }

    /// The second word of the first used slot of a burst, whose flags publish all of it, to write instead of `rest`. Told
    /// after [`Moment::Complete`].
    #[inline]
    fn first_slot(&mut self, queue: usize, rest: SlotRest) -> SlotRest {
        let _ = queue;
        rest
    }

    /// The used index to publish instead of the honest `idx`.
    #[inline]
    fn used_idx(&mut self, queue: usize, idx: u16) -> u16 {
        let _ = queue;
        idx
    }

    /// Whether a call that is due is really made.
    #[inline]
    fn call(&mut self, queue: usize) -> bool {
        let _ = queue;
        true
    }
}

/// The honest backend: no hook at all.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHook;

impl Hook for NoHook {
    const ACTIVE: bool = false;

    #[inline]
    fn at(&mut self, _moment: Moment, _ring: &RingMemory<'_>) {}
}
