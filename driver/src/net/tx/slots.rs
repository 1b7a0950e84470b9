//! The transmit slots: lent, filled, and taken back.

use ironring_common::index::DescId;
use ironring_common::shm::area::Area;
use ironring_common::shm::view::Ours;
use ironring_common::spec::net;

use super::super::AHEAD;
use super::TxStats;
use crate::arena::QueueMemory;
use crate::mapper::Direction;
use crate::mapper::slots::{FixedSlots, SlotPart};
use crate::queue::any::AnyRing;
use crate::queue::slots::{Ahead, BURST, SlotRing, Taken};
use crate::queue::violation::Violation;
use crate::queue::{AddError, DriverRing};

/// What writes the frames of a burst. No closure, because those cannot be told to be part of the loop that calls them.
pub(super) trait Put {
    /// Writes a frame, the one of this number among those of the call, where it goes.
    fn put(&mut self, frame: usize, words: &Ours<Area>, at: usize);
}

/// The transmit slots, and what was counted.
#[derive(Debug)]
pub(super) struct TxSlots {
    pub(super) words: Ours<Area>,
    mapper: FixedSlots,
    /// Whether each frame goes by an indirect table: its header and its bytes as two descriptors.
    indirect: bool,
    /// Whether the slots are those of the receive queue too, so that headers are what the device wrote there.
    pub(super) shared: bool,
    /// Counted by the rings of this queue that were reset.
    pub(super) idle_claims: u64,
    pub(super) stats: TxStats,
}

impl TxSlots {
    pub(super) fn new(memory: QueueMemory) -> Self {
        let QueueMemory { slots, mapper, tables, .. } = memory;
        let (words, indirect) = (Ours::new(slots), tables.is_some());
        Self { words, mapper, indirect, shared: false, idle_claims: 0, stats: TxStats::default() }
    }

    /// Tells an empty ring where the slots lie, unless frames go by tables.
    pub(super) fn bind(&self, ring: &mut AnyRing<Area, ()>) {
        if !self.indirect {
            ring.bind_slots(&self.mapper, Direction::ToDevice);
        }
    }

    /// Lends slots for frames of these lengths, which were checked, and has `put` write each of them where its frame goes.
    /// Returns how many: the first ones.
    #[inline(always)]
    pub(super) fn send<R: DriverRing<()> + SlotRing>(
        &mut self,
        ring: &mut R,
        lens: impl ExactSizeIterator<Item = usize>,
        put: &mut impl Put,
    ) -> Result<usize, Violation> {
        let mut lens = lens;
        if lens.len() == 1 && !self.indirect {
            return Ok(lens.next().map_or(0, |len| self.send_alone(ring, len, put)));
        }
        let mut sent = 0usize;
        while lens.len() > 0 {
            let most = lens.len().min(BURST);
            let now = if self.indirect {
                self.send_by_tables(ring, (sent, most), &mut lens, put)?
            } else {
                self.send_slots(ring, (sent, most), &mut lens, put)
            };
            sent = sent.wrapping_add(now);
            if now < most {
                break;
            }
        }
        Ok(sent)
    }

    /// As [`send`](Self::send), from frame number `first` on and at most a burst, each frame with its header in one buffer.
    #[inline(always)]
    fn send_slots<R: SlotRing>(
        &mut self,
        ring: &mut R,
        (first, most): (usize, usize),
        lens: &mut impl Iterator<Item = usize>,
        put: &mut impl Put,
    ) -> usize {
        let (words, mapper) = (self.words.view(), self.mapper);
        let mut bytes = 0usize;
        let lens = lens.map(|len| {
            bytes = bytes.wrapping_add(len);
            // Lengths were checked: none has more bytes than 32 bits say.
            debug_assert!(u32::try_from(len).is_ok(), "the length was checked");
            u32::try_from(len & 0xffff_ffff).unwrap_or(0).wrapping_add(net::HDR_LEN)
        });
        // Each frame is written as its slot is lent, while the lines of those that come later are on their way from the device, which was
        // the last to touch them. In one pass, because a processor waits for so many lines at a time, and between two passes for fewer.
        let (to, shared, mut frame) = (&self.words, self.shared, first);
        let fill = |_, at| {
            let at = mapper.offset_of(at);
            if shared {
                words.zero(at, net::HDR_BYTES);
            }
            put.put(frame, to, at.wrapping_add(net::HDR_BYTES));
            frame = frame.wrapping_add(1);
        };
        let soon = |at| words.prefetch(mapper.offset_of(at).wrapping_add(net::HDR_BYTES));
        let posted = ring.post_slots(Direction::ToDevice, most, lens, Ahead::<AHEAD, _, _> { soon, fill });
        self.stats.frames = self.stats.frames.wrapping_add(u64::try_from(posted).unwrap_or(0));
        self.stats.bytes = self.stats.bytes.wrapping_add(u64::try_from(bytes).unwrap_or(0));
        posted
    }

    /// As [`send`](Self::send), of one frame, with its header in one buffer and nothing made ready for more.
    #[inline(always)]
    fn send_alone<R: DriverRing<()> + SlotRing>(&mut self, ring: &mut R, len: usize, put: &mut impl Put) -> usize {
        // The length was checked.
        let bytes = u32::try_from(len & 0xffff_ffff).unwrap_or(0).wrapping_add(net::HDR_LEN);
        let Some(head) = ring.next_head() else { return 0 };
        let at = self.mapper.offset(head);
        if self.shared {
            self.words.zero(at, net::HDR_BYTES);
        }
        // Before it is lent, because it may panic.
        put.put(0, &self.words, at.wrapping_add(net::HDR_BYTES));
        let posted = ring.post_slot(bytes);
        debug_assert!(posted.is_some_and(|addr| self.mapper.offset_of(addr) == at), "a free slot is posted as itself");
        self.stats.frames = self.stats.frames.wrapping_add(1);
        self.stats.bytes = self.stats.bytes.wrapping_add(u64::try_from(len).unwrap_or(0));
        // The line of the frame that goes next is the device's, and on its way until then.
        if let Some(next) = ring.next_head() {
            self.words.prefetch(self.frame_at(next));
        }
        1
    }

    /// As [`send`](Self::send), from frame number `first` on and at most a burst, each frame by an indirect table of two.
    fn send_by_tables<R: DriverRing<()>>(
        &mut self,
        ring: &mut R,
        (first, most): (usize, usize),
        lens: &mut impl Iterator<Item = usize>,
        put: &mut impl Put,
    ) -> Result<usize, Violation> {
        let mut sent = 0usize;
        for len in lens.take(most) {
            let Some(head) = ring.next_head() else { break };
            put.put(first.wrapping_add(sent), &self.words, self.frame_at(head));
            let posted = self.post_table(ring, len)?;
            debug_assert_eq!(posted, Some(head), "a free slot is posted as itself");
            sent = sent.wrapping_add(1);
        }
        Ok(sent)
    }

    /// Takes back the slots that the device is done with. Returns how many.
    #[inline]
    pub(super) fn reclaim<R: DriverRing<()> + SlotRing>(&mut self, ring: &mut R) -> Result<usize, Violation> {
        if self.indirect {
            return self.reclaim_tables(ring);
        }
        let Taken { count, broken } = Self::reclaim_slots(ring);
        self.count_completed(count);
        if broken { Err(ring.broken_by()) } else { Ok(count) }
    }

    /// Each slot that comes back is where the next frame goes, and nothing else is to be known of it.
    #[inline]
    fn reclaim_slots<R: DriverRing<()> + SlotRing>(ring: &mut R) -> Taken {
        let most = usize::from(ring.held());
        ring.take_slots(most, |_| {})
    }

    fn reclaim_tables<R: DriverRing<()>>(&mut self, ring: &mut R) -> Result<usize, Violation> {
        let (mut taken, mut end) = (0usize, Ok(()));
        for _ in 0..ring.held() {
            match ring.take(&mut self.mapper) {
                Ok(Some(_)) => taken = taken.wrapping_add(1),
                Ok(None) => break,
                Err(violation) => {
                    end = Err(violation);
                    break;
                }
            }
        }
        self.count_completed(taken);
        end.map(|()| taken)
    }

    /// Frames of a turn, whose `bytes` are those of header and frame.
    #[inline]
    pub(super) fn count_sent(&mut self, frames: usize, bytes: u64) {
        let frames = u64::try_from(frames).unwrap_or(0);
        let headers = frames.wrapping_mul(u64::from(net::HDR_LEN));
        self.stats.frames = self.stats.frames.wrapping_add(frames);
        self.stats.bytes = self.stats.bytes.wrapping_add(bytes.wrapping_sub(headers));
    }

    #[inline]
    fn count_completed(&mut self, frames: usize) {
        self.stats.completed = self.stats.completed.wrapping_add(u64::try_from(frames).unwrap_or(0));
    }

    /// Lends a slot for a frame of `len` bytes by a table of two. Returns which, or `None` if no slot is free.
    #[inline]
    fn post_table<R: DriverRing<()>>(&mut self, ring: &mut R, len: usize) -> Result<Option<DescId>, Violation> {
        let frame = u32::try_from(len).unwrap_or(u32::MAX);
        let parts = [SlotPart::first(net::HDR_LEN), SlotPart { offset: net::HDR_LEN, len: frame }];
        match ring.add(&mut self.mapper, &parts, &[], ()) {
            Ok(head) => {
                if self.shared {
                    self.clear_header(head);
                }
                self.stats.frames = self.stats.frames.wrapping_add(1);
                self.stats.bytes = self.stats.bytes.wrapping_add(u64::from(frame));
                Ok(Some(head))
            }
            Err(AddError::Violation(violation)) => Err(violation),
            Err(error) => {
                assert!(matches!(error, AddError::Full { .. }), "the length was checked");
                Ok(None)
            }
        }
    }

    /// Writes the header of a slot where the device may have written another.
    #[cold]
    fn clear_header(&self, head: DescId) {
        self.words.zero(self.mapper.offset(head), net::HDR_BYTES);
    }

    /// Where the frame of a slot begins.
    #[inline]
    pub(super) fn frame_at(&self, head: DescId) -> usize {
        self.mapper.offset(head).wrapping_add(net::HDR_BYTES)
    }

    pub(super) fn count_full(&mut self, frames: usize) {
        self.stats.full = self.stats.full.wrapping_add(u64::try_from(frames).unwrap_or(0));
    }
}
