//! A poll-mode network driver that trusts its device: what `ironring bench` compares the hardened one with.
//!
//! It does the same work in the same memory: the arena, the slots and their order, copies, bursts, prefetches and publishes are
//! those of [`ironring_driver::net`]. It has no ledger, no shadow of what it wrote, and no check: what stands in shared memory is
//! its memory. Ids and lengths of completions are believed, a split descriptor tells where its buffer lies and whether its words
//! have to change, and a completion in order takes back what the available ring names. A device that lies makes it copy from
//! or to the wrong place, or ends it with an assertion of the shared-memory views, which everything here goes through.
//!
//! `split` and `packed` have the same face.

use std::os::fd::AsFd;

use ironring_common::doorbell::Doorbell;
use ironring_common::features::{Feature, Supported};
use ironring_common::index::QueueSize;
use ironring_common::shm::area::Area;
use ironring_common::shm::mapping::Pages;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::{ETH_HEADER_BYTES, HDR_BYTES, HDR_LEN};
use ironring_driver::arena::{Arena, ArenaShape, QueueMemory, RingAreas};
use ironring_driver::queue::RingLayout;
use ironring_driver::transport::VhostUser;

use packed::PackedQueue;
use split::SplitQueue;

mod packed;
mod split;
#[cfg(test)]
mod tests;

/// What it is to be like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How the rings are laid out.
    pub layout: RingLayout,
    /// Descriptors of each queue, a power of two.
    pub queue_size: u16,
    /// Whether the device may use buffers in order, and in batches.
    pub in_order: bool,
    /// The longest frame, in bytes.
    pub frame_max: u32,
    /// The pages of shared memory.
    pub pages: Pages,
}

/// A network device whose backend is trusted.
#[derive(Debug)]
pub struct TrustingNet {
    rx: Receiver,
    tx: Sender,
    _channel: VhostUser,
    _arena: Arena,
    _bells: [Doorbell; 4],
}

#[derive(Debug)]
struct Receiver {
    queue: Queue,
    /// Scratch of a burst: where frames lie, and how many bytes.
    filled: Vec<(usize, usize)>,
    frames: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Sender {
    queue: Queue,
    frame_max: usize,
    completed: u64,
    frames: u64,
    bytes: u64,
}

/// A queue of either layout, and its slots.
#[derive(Debug)]
struct Queue {
    ring: Ring,
    slots: Area,
}

#[derive(Debug)]
enum Ring {
    Split(SplitQueue),
    Packed(PackedQueue),
}

/// Where received frames are copied to.
#[derive(Debug)]
pub struct Batch {
    bytes: Box<[u8]>,
    /// Bytes from one frame to the next.
    stride: usize,
    lens: Vec<usize>,
    most: usize,
}

impl Batch {
    /// Room for `frames` frames, a burst at most, of up to `frame_max` bytes.
    #[must_use]
    pub fn new(frames: usize, frame_max: u32) -> Self {
        let most = frames.min(BURST);
        let stride = (usize::try_from(frame_max).unwrap_or(0) + HDR_BYTES).next_multiple_of(64) + 64;
        Self { bytes: vec![0; stride * most].into_boxed_slice(), stride, lens: Vec::with_capacity(most), most }
    }

    /// The frames, without net headers.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.lens.len()).map(|frame| self.frame(frame))
    }

    #[inline]
    fn frame(&self, frame: usize) -> &[u8] {
        let start = frame * self.stride + HDR_BYTES;
        &self.bytes[start..start + self.lens[frame]]
    }
}

/// Calls the code that was made for the layout.
macro_rules! on {
    ($ring:expr, $queue:ident => $call:expr) => {
        match $ring {
            Ring::Split($queue) => $call,
            Ring::Packed($queue) => $call,
        }
    };
}

impl TrustingNet {
    /// Brings a device up over a fresh connection.
    ///
    /// # Errors
    /// Whatever the connection or the memory fails by.
    pub fn bring_up(mut channel: VhostUser, options: Options) -> Result<Self, Box<dyn std::error::Error>> {
        let Options { layout, queue_size, in_order, frame_max, pages } = options;
        let size = QueueSize::split(queue_size)?;
        let wanted = Supported::none().require(Feature::Version1).with(Feature::Mac);
        let wanted = if in_order { wanted.with(Feature::InOrder) } else { wanted };
        let wanted = if layout == RingLayout::Packed { wanted.require(Feature::RingPacked) } else { wanted };
        let in_order = channel.negotiate(wanted)?.has(Feature::InOrder);
        let slot_bytes = frame_max + HDR_LEN;
        let shape =
            ArenaShape { queue_size: size, pairs: 1, slot_bytes, layout, table_entries: 0, pages, shared_slots: false };
        let arena = Arena::create(shape)?;
        channel.set_memory(&arena.regions())?;
        let memory = |index| arena.queue(index).cloned().ok_or("the arena has two queues");
        let (rx_memory, tx_memory) = (memory(0)?, memory(1)?);
        let addresses = [rx_memory.addresses, tx_memory.addresses];
        let mut rx = Queue::new(rx_memory, size, in_order);
        let tx = Queue::new(tx_memory, size, in_order);
        on!(&mut rx.ring, ring => ring.post_all(slot_bytes));
        let bells = [Doorbell::new()?, Doorbell::new()?, Doorbell::new()?, Doorbell::new()?];
        for ((index, at), [kick, call]) in
            (0u16..).zip(&addresses).zip([[&bells[0], &bells[1]], [&bells[2], &bells[3]]])
        {
            channel.start_queue(index, at, rx.start_base(), kick.as_fd(), call.as_fd())?;
        }
        channel.enable_queue(0, true)?;
        channel.enable_queue(1, true)?;
        let frame_max = usize::try_from(frame_max)?;
        Ok(Self {
            rx: Receiver { queue: rx, filled: Vec::with_capacity(BURST), frames: 0, bytes: 0 },
            tx: Sender { queue: tx, frame_max, completed: 0, frames: 0, bytes: 0 },
            _channel: channel,
            _arena: arena,
            _bells: bells,
        })
    }

    /// Copies frames into free slots and shows them to the device. Returns how many were sent: the first ones.
    pub fn tx_burst(&mut self, frames: &[&[u8]]) -> usize {
        let mut next = frames.iter();
        self.tx.burst(frames.iter().map(|frame| frame.len()), |words, at| {
            if let Some(frame) = next.next() {
                words.copy_in(at, frame);
            }
        })
    }

    /// As [`tx_burst`](Self::tx_burst), for what was received, but for the first `skip` frames.
    pub fn tx_batch(&mut self, batch: &Batch, skip: usize) -> usize {
        let lens = &batch.lens[skip..];
        let mut next = skip;
        self.tx.burst(lens.iter().copied(), |words, at| {
            words.copy_in(at, batch.frame(next));
            next += 1;
        })
    }

    /// As [`tx_burst`](Self::tx_burst), for `count` frames of `len` bytes of which only `headers` are written.
    pub fn tx_burst_in_place(&mut self, count: usize, len: usize, headers: &[u8]) -> usize {
        self.tx.burst(std::iter::repeat_n(len, count), |words, at| words.copy_in(at, headers))
    }

    /// Takes back the slots that the device says it is done with.
    pub fn reclaim(&mut self) {
        self.tx.reclaim();
    }

    /// Frames that were taken back.
    #[must_use]
    pub const fn completed(&self) -> u64 {
        self.tx.completed
    }

    /// Frames that are out.
    #[must_use]
    pub const fn outstanding(&self) -> u16 {
        on!(&self.tx.queue.ring, ring => ring.outstanding())
    }

    /// Takes a burst of frames, copies them out, and posts their slots again. How many.
    pub fn rx_burst(&mut self, batch: &mut Batch) -> usize {
        batch.lens.clear();
        self.rx.exchange(batch.most);
        self.rx.copy_frames(batch);
        if !self.rx.filled.is_empty() {
            self.rx.publish();
        }
        batch.lens.len()
    }

    /// Takes up to `most` frames, a burst at most, copies each from its slot to a transmit slot, and posts its slot again.
    pub fn forward_burst(&mut self, most: usize) -> usize {
        let Self { rx, tx, .. } = self;
        rx.exchange(most.min(BURST));
        if rx.filled.is_empty() {
            return 0;
        }
        let from = rx.queue.slots.bytes();
        let mut next = rx.filled.iter();
        let sent = tx.burst(rx.filled.iter().map(|(_, bytes)| bytes.saturating_sub(HDR_BYTES)), |to, to_at| {
            if let Some((at, bytes)) = next.next() {
                to.bytes().copy_from(to_at, from, at + HDR_BYTES, bytes.saturating_sub(HDR_BYTES));
            }
        });
        rx.publish();
        sent
    }
}

impl Sender {
    #[inline(always)]
    fn burst(
        &mut self,
        lens: impl ExactSizeIterator<Item = usize> + Clone,
        mut put: impl FnMut(&Area, usize),
    ) -> usize {
        let count = lens.len();
        assert!(lens.clone().all(|len| len <= self.frame_max), "frames fit into the slots");
        if on!(&self.queue.ring, ring => ring.free()) < count {
            self.reclaim();
        }
        let Self { queue: Queue { ring, slots }, frames, bytes, .. } = self;
        let words = slots.view();
        let mut sum = 0;
        let lens = lens.take(BURST).map(|len| {
            sum += len;
            u32::try_from(len + HDR_BYTES).unwrap_or(0)
        });
        let soon = |at: usize| words.prefetch(at.wrapping_add(HDR_BYTES), true);
        let fill = |at: usize| put(slots, at.wrapping_add(HDR_BYTES));
        let posted = on!(ring, ring => ring.post(0, lens, soon, fill));
        *frames += posted as u64;
        *bytes += sum as u64;
        on!(ring, ring => ring.publish());
        posted
    }

    fn reclaim(&mut self) {
        self.completed += on!(&mut self.queue.ring, ring => ring.reclaim()) as u64;
    }
}

impl Receiver {
    /// Takes completed slots, posts them again without showing that, and asks for their lines.
    #[inline(always)]
    fn exchange(&mut self, most: usize) {
        let Self { queue: Queue { ring, slots }, filled, .. } = self;
        let words = slots.view();
        filled.clear();
        on!(ring, ring => ring.exchange(most, |at, len| {
            words.prefetch(at, false);
            words.prefetch(at.wrapping_add(64), false);
            if filled.len() < filled.capacity() {
                filled.push((at, len as usize));
            }
        }));
    }

    /// Copies what was taken. A frame that is too short is none; what the header says is not looked at.
    #[inline(always)]
    fn copy_frames(&mut self, batch: &mut Batch) {
        let Batch { bytes: room, stride, lens, .. } = batch;
        let words = self.queue.slots.view();
        let (mut room, mut sum) = (&mut **room, 0);
        for (at, bytes) in &self.filled {
            if *bytes < HDR_BYTES + ETH_HEADER_BYTES {
                continue;
            }
            words.copy_out(*at, &mut room[..*bytes]);
            lens.push(bytes - HDR_BYTES);
            sum += bytes - HDR_BYTES;
            room = std::mem::take(&mut room).get_mut(*stride..).unwrap_or_default();
        }
        self.frames += lens.len() as u64;
        self.bytes += sum as u64;
    }

    fn publish(&mut self) {
        on!(&mut self.queue.ring, ring => ring.publish());
    }
}

impl Queue {
    fn new(memory: QueueMemory, size: QueueSize, in_order: bool) -> Self {
        let QueueMemory { areas, slots, mapper, .. } = memory;
        let ring = match areas {
            RingAreas::Split(areas) => Ring::Split(SplitQueue::new(size, areas, mapper, in_order)),
            RingAreas::Packed(areas) => Ring::Packed(PackedQueue::new(size, areas, mapper, in_order)),
        };
        Self { ring, slots }
    }

    /// Where both sides begin, as the connection says it.
    const fn start_base(&self) -> u32 {
        match self.ring {
            Ring::Split(_) => 0,
            // Slot 0 with the wrap counter set, for both positions.
            Ring::Packed(_) => 0x8000_8000,
        }
    }
}

/// Ids in a row, oldest first.
#[derive(Debug)]
struct FreeIds {
    ids: Box<[u16]>,
    first: usize,
    end: usize,
    /// So many of the next ones have had the lines of their slots asked for.
    asked: usize,
}

impl FreeIds {
    fn full(size: QueueSize) -> Self {
        let ids: Box<[u16]> = (0..size.get()).collect();
        Self { first: 0, end: ids.len(), ids, asked: 0 }
    }

    #[inline(always)]
    const fn len(&self) -> usize {
        self.end.wrapping_sub(self.first)
    }

    /// The one that comes so many after the next one, if it is free already.
    #[inline(always)]
    fn later(&self, after: usize) -> Option<u16> {
        let there = after < self.len();
        there.then(|| self.ids.get(self.first.wrapping_add(after) & (self.ids.len() - 1)).copied()).flatten()
    }

    /// The next ones to be taken, [`AHEAD`] at most, that were not asked for.
    #[inline(always)]
    fn not_asked(&self) -> impl Iterator<Item = u16> {
        (self.asked..AHEAD).map_while(|after| self.later(after))
    }

    /// So many as are known ahead were asked for.
    #[inline(always)]
    fn end_asking(&mut self) {
        self.asked = self.len().min(AHEAD);
    }

    #[inline(always)]
    fn pop(&mut self) -> Option<u16> {
        let id = *self.ids.get(self.first & (self.ids.len() - 1))?;
        if self.first == self.end {
            return None;
        }
        self.first = self.first.wrapping_add(1);
        Some(id)
    }

    /// Whatever the device named, once more than there are or not.
    #[inline(always)]
    fn push(&mut self, id: u16) {
        let place = self.end & (self.ids.len() - 1);
        if let Some(to) = self.ids.get_mut(place) {
            *to = id;
            self.end = self.end.wrapping_add(1);
        }
    }
}

/// The most that is taken or posted at a time.
const BURST: usize = 64;
/// So many frames ahead lines are asked for.
const AHEAD: usize = 10;
