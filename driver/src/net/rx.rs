//! The receive queue.
//!
//! Every slot is posted at all times, except between the moment its frame is copied out and the moment it is posted
//! again in the same call, or while the transmit queue of a hairpin pair has it. The device is shown slots that are posted again an eighth of the ring at a time, at most 32, and all of
//! them before this side sleeps. A frame is copied to private memory by one copy of exactly the bytes that were checked, and
//! only the copy is looked at: what the device does to the slot meanwhile or afterwards has no effect. Of its net header the two
//! bytes that may ask for something are loaded, once each, and nothing of it is kept.
//!
//! A frame that is too short or whose header says what was not negotiated is a fault of the packet: it is dropped and
//! counted, and traffic goes on.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use ironring_common::doorbell::Doorbell;
use ironring_common::error::OsError;
use ironring_common::shm::mapping::Area;
use ironring_common::shm::view::Theirs;
use ironring_common::shm::words::Words;
use ironring_common::spec::net::{self, Header};

use super::bells::{Bells, Kick, Kicked};
use super::lease::{LeasedFrame, LentSlots};
use super::wait::Patience;
use super::{AHEAD, FRAME_MAX, NetError, Scratch, ahead};
use crate::arena::QueueMemory;
use crate::boundary;
use crate::mapper::Direction;
use crate::mapper::slots::FixedSlots;
use crate::queue::any::AnyRing;
use crate::queue::slots::{BURST, Done, SlotRing, Taken};
use crate::queue::violation::Violation;
use crate::queue::{DriverRing, RingCounters, StopWindow};
#[cfg(test)]
use ironring_common::apart;
use ironring_common::apart::Apart;

mod hairpin;

/// Receives frames.
#[derive(Debug)]
#[repr(align(128))]
pub struct RxQueue {
    ring: AnyRing<Area, ()>,
    slots: RxSlots,
    kick: Kick,
    call: Doorbell,
    /// Slots that are posted again before the device is shown them.
    refill: u16,
}

/// The receive slots, and what was counted.
#[derive(Debug)]
struct RxSlots {
    slots: LentSlots,
    mapper: FixedSlots,
    /// Scratch of a burst.
    filled: Scratch<Filled>,
    stats: RxStats,
}

/// What a receive queue has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxStats {
    /// Frames handed to the caller.
    pub frames: u64,
    /// Bytes of those frames, without headers.
    pub bytes: u64,
    /// Frames dropped because they were shorter than a net header and an Ethernet header.
    pub dropped_short: u64,
    /// Frames dropped because the batch was made for shorter ones.
    pub dropped_long: u64,
    /// Frames dropped because their net header used what was not negotiated.
    pub dropped_header: u64,
    /// Used elements taken.
    pub used_entries: u64,
    /// Kicks sent after posting buffers.
    pub kicks: u64,
    /// Kicks that the device did not want, or that are turned off.
    pub kicks_suppressed: u64,
    /// Kicks that the device did not want and got all the same, because nothing came for a while.
    pub watchdog_kicks: u64,
    /// Calls found pending when this side waited.
    pub calls: u64,
}

/// Out of line, so that no counter of what hardly ever happens takes a register of the loops.
impl RxStats {
    #[cold]
    #[inline(never)]
    const fn drop_short(&mut self) {
        self.dropped_short = self.dropped_short.wrapping_add(1);
    }

    #[cold]
    #[inline(never)]
    const fn drop_long(&mut self) {
        self.dropped_long = self.dropped_long.wrapping_add(1);
    }

    #[cold]
    #[inline(never)]
    const fn drop_header(&mut self) {
        self.dropped_header = self.dropped_header.wrapping_add(1);
    }
}

/// Private memory for a burst of received frames. Made once, used for every burst.
pub struct RxBatch {
    bytes: Box<[u8]>,
    /// Bytes from one frame to the next.
    slot: usize,
    /// The longest frame.
    longest: usize,
    lens: Box<[usize]>,
    /// Frames that are there.
    count: usize,
}

impl RxBatch {
    /// Room for `frames` frames of up to `frame_max` bytes.
    #[must_use]
    pub fn new(frames: usize, frame_max: u32) -> Self {
        let longest = usize::try_from(frame_max.min(FRAME_MAX)).unwrap_or(usize::MAX);
        // Not a power of two apart, where equal offsets of all frames would compete for the same sets of the cache.
        let slot = longest.next_multiple_of(64).saturating_add(64);
        let bytes = vec![0; slot.saturating_mul(frames)].into_boxed_slice();
        Self { bytes, slot, longest, lens: vec![0; frames].into_boxed_slice(), count: 0 }
    }

    /// The frames of the last burst, in the order in which they came. Without net headers.
    pub fn frames(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        (0..self.count).map(|frame| self.frame(frame))
    }

    /// Frame number `frame` of them; nothing if there are not so many.
    #[inline]
    #[must_use]
    pub fn frame(&self, frame: usize) -> &[u8] {
        let len = self.lens().get(frame).copied().unwrap_or(0);
        let start = frame.wrapping_mul(self.slot);
        // The length was checked against the room when the frame was copied.
        self.bytes.get(start..start.wrapping_add(len)).unwrap_or_default()
    }

    /// Frames in the batch.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    const fn clear(&mut self) {
        self.count = 0;
    }

    const fn capacity(&self) -> usize {
        self.lens.len()
    }

    pub(super) fn lens(&self) -> &[usize] {
        self.lens.get(..self.count).unwrap_or_default()
    }
}

impl core::fmt::Debug for RxBatch {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // Lengths only: the bytes are the peer's.
        f.debug_struct("RxBatch").field("lens", &self.lens()).field("capacity", &self.capacity()).finish()
    }
}

impl RxQueue {
    pub(super) fn new(mut ring: AnyRing<Area, ()>, memory: QueueMemory, bells: Bells) -> Self {
        ring.suppress_calls();
        ring.bind_slots(&memory.mapper, Direction::FromDevice);
        let slots = RxSlots {
            slots: LentSlots::new(Theirs::new(memory.slots)),
            mapper: memory.mapper,
            filled: Box::new(Apart([Filled::default(); _])),
            stats: RxStats::default(),
        };
        // The device has most of them at any time, and small bursts do not touch the lines of the ring each time.
        let refill = (ring.size().get() / 8).clamp(1, REFILL_MAX);
        Self { ring, slots, kick: bells.kick, call: bells.call, refill }
    }

    /// Goes on with an empty ring and other doorbells. What was counted stays.
    pub(super) fn renew(&mut self, mut ring: AnyRing<Area, ()>, bells: Bells) {
        ring.suppress_calls();
        ring.bind_slots(&self.slots.mapper, Direction::FromDevice);
        ring.keep(&self.ring);
        let Bells { kick, call } = bells;
        (self.ring, self.kick, self.call) = (ring, kick, call);
    }

    /// Posts every free slot.
    pub(super) fn fill(&mut self) -> Result<(), Violation> {
        self.ring.check()?;
        let slots = &mut self.slots;
        match &mut self.ring {
            AnyRing::Split(ring) => slots.fill(ring),
            AnyRing::Packed(ring) => slots.fill(ring),
        }
        self.ring.publish();
        Ok(())
    }

    /// Takes up to a batch of frames, oldest first, and posts their slots again. Returns how many there are. Frames that
    /// are dropped count towards the batch, so the work of a call is bounded by its size.
    ///
    /// # Errors
    /// The [`Violation`], new or latched. Frames that were taken before it stand in the batch.
    pub fn rx_burst(&mut self, batch: &mut RxBatch) -> Result<usize, Violation> {
        batch.clear();
        let slots = &mut self.slots;
        let taken = match &mut self.ring {
            AnyRing::Split(ring) => slots.burst(ring, batch),
            AnyRing::Packed(ring) => slots.burst(ring, batch),
        };
        if self.sound(taken)? > 0 {
            self.show_enough();
        }
        Ok(batch.len())
    }

    /// Lends up to `most` frames, at most 64, to `with`, where they lie, and posts their slots again when it returns. Returns
    /// how many there were. See [`LeasedFrame`] for what must not be done with them.
    ///
    /// # Errors
    /// As [`rx_burst`](Self::rx_burst). Frames that were taken before a violation are not lent.
    pub fn rx_lease(&mut self, most: usize, with: impl FnOnce(&[LeasedFrame<'_>])) -> Result<usize, Violation> {
        let slots = &mut self.slots;
        let taken = match &mut self.ring {
            AnyRing::Split(ring) => slots.take_to_lend(ring, most),
            AnyRing::Packed(ring) => slots.take_to_lend(ring, most),
        };
        let count = self.sound(taken)?;
        if count == 0 {
            return Ok(0);
        }
        // As much room as it takes: that is made anew for each burst.
        let count = if count <= BURST / 2 {
            self.slots.lease::<{ BURST / 2 }>(count, with)
        } else {
            self.slots.lease::<BURST>(count, with)
        };
        self.show_enough();
        Ok(count)
    }

    /// Waits until there is something to take, or `timeout` passes; whether there is. Sleeps at once: for polling before
    /// that, and for the transmit queue's sake, there is [`VirtioNet::wait`](super::VirtioNet::wait).
    ///
    /// A device that does not call, or that says that it needs no kick and waits for one, costs a bounded delay: now and
    /// then this side looks by itself and kicks all the same.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn wait(&mut self, timeout: Duration) -> Result<bool, NetError> {
        let mut patience = Patience::new(timeout);
        while !self.sleep(&mut patience)? {
            if patience.is_over() {
                return Ok(false);
            }
            self.nudge()?;
        }
        Ok(true)
    }

    /// Sleeps until the device calls, or for one turn of `patience`; whether there is something to take.
    pub(super) fn sleep(&mut self, patience: &mut Patience) -> Result<bool, NetError> {
        if self.arm()? {
            self.ring.suppress_calls();
            return Ok(true);
        }
        self.call.wait(patience.turn()).map_err(os)?;
        self.disarm()?;
        Ok(self.ring.has_completions()?)
    }

    /// Whether there is something to take.
    ///
    /// # Errors
    /// The [`Violation`], new or latched.
    pub fn poll(&mut self) -> Result<bool, Violation> {
        self.ring.has_completions()
    }

    /// Shows the device all slots that are posted, and kicks it, whether it wants that or not, if it was shown some since its last
    /// kick.
    pub(super) fn nudge(&mut self) -> Result<(), Violation> {
        self.ring.check()?;
        self.show();
        if self.kick.nudge() == Kicked::Yes {
            self.slots.stats.watchdog_kicks = self.slots.stats.watchdog_kicks.wrapping_add(1);
        }
        self.ring.check()
    }

    /// Kicks the device, whether it wants that or not.
    pub(super) fn kick_anyway(&mut self) -> Result<(), Violation> {
        self.kick.insist();
        self.nudge()
    }

    /// Asks the device to call, and looks once more: `true` if there is something to take already. Otherwise the caller
    /// may sleep until [`call_fd`](Self::call_fd) is readable, together with other descriptors, and then
    /// [`disarm`](Self::disarm). A device may fail to call, so the sleep needs a limit.
    ///
    /// # Errors
    /// The [`Violation`], new or latched.
    pub fn arm(&mut self) -> Result<bool, Violation> {
        self.ring.check()?;
        self.show();
        self.ring.arm_calls();
        self.ring.has_completions()
    }

    /// Takes the calls that came, and asks the device not to call while this side looks by itself.
    ///
    /// # Errors
    /// [`NetError::Os`].
    pub fn disarm(&mut self) -> Result<(), NetError> {
        self.ring.suppress_calls();
        self.take_call().map_err(os)
    }

    /// Readable when the device has called. The device holds it too and may do with it what it likes.
    #[must_use]
    pub fn call_fd(&self) -> BorrowedFd<'_> {
        self.call.as_fd()
    }

    pub(super) const fn call(&self) -> &Doorbell {
        &self.call
    }

    fn take_call(&mut self) -> Result<(), OsError> {
        if self.call.drain()? {
            self.slots.stats.calls = self.slots.stats.calls.wrapping_add(1);
        }
        Ok(())
    }

    /// What was counted.
    #[must_use]
    pub const fn stats(&self) -> RxStats {
        self.slots.stats
    }

    /// What the ring counted.
    #[must_use]
    pub fn ring_counters(&self) -> RingCounters {
        self.ring.counters()
    }

    /// Slots that the device holds.
    #[must_use]
    pub fn held(&self) -> u16 {
        self.ring.held()
    }

    pub(super) fn kick_fd(&self) -> BorrowedFd<'_> {
        self.kick.as_fd()
    }

    pub(super) fn start_base(&self) -> u32 {
        self.ring.start_base()
    }

    pub(super) fn stop_window(&self) -> StopWindow {
        self.ring.stop_window()
    }

    pub(super) fn is_conserved(&self) -> bool {
        self.ring.is_conserved()
    }

    /// How many were taken, unless the device was found broken.
    #[inline(always)]
    fn sound(&self, Taken { count, broken }: Taken) -> Result<usize, Violation> {
        if broken { Err(self.ring.broken_by()) } else { Ok(count) }
    }

    /// Shows the device the slots that are posted, if they are enough to be worth it.
    #[inline]
    fn show_enough(&mut self) {
        if self.ring.outstanding().wrapping_sub(self.ring.held()) >= self.refill {
            self.show();
        }
    }

    /// Shows the device all slots that are posted, and kicks it if it asks for that.
    #[inline]
    fn show(&mut self) {
        if self.ring.publish() {
            self.notify();
        }
    }

    #[inline]
    fn notify(&mut self) {
        let Self { ring, slots, kick, .. } = self;
        match kick.notify(|| ring.should_kick()) {
            Kicked::Yes => slots.stats.kicks = slots.stats.kicks.wrapping_add(1),
            Kicked::Suppressed => slots.stats.kicks_suppressed = slots.stats.kicks_suppressed.wrapping_add(1),
            Kicked::Pending => {}
        }
    }

    /// Where it lies, for the test of the layout.
    #[cfg(test)]
    pub(super) fn lines(&self, to: &mut Vec<core::ops::Range<usize>>) {
        to.extend([apart::lines(self), apart::lines(&*self.slots.filled)]);
        self.ring.lines(to);
    }
}

impl RxSlots {
    /// Posts every free slot.
    fn fill<R: SlotRing>(&self, ring: &mut R) {
        let whole = core::iter::repeat(self.mapper.len());
        ring.post_slots(Direction::FromDevice, usize::MAX, whole, |_, _| {});
    }

    /// Takes up to a batch of frames and posts their slots again. The frames are copied out before the device is shown the
    /// slots.
    #[inline]
    fn burst<R: SlotRing>(&mut self, ring: &mut R, batch: &mut RxBatch) -> Taken {
        let (mut all, mut left) = (Taken::default(), batch.capacity());
        while left > 0 && !all.broken {
            let most = left.min(BURST);
            let Taken { count, broken } = self.take(ring, most);
            self.copy_frames(count, batch);
            all = Taken { count: all.count.wrapping_add(count), broken };
            if count < most {
                break;
            }
            left = left.wrapping_sub(count);
        }
        all
    }

    /// Takes completed slots, `most` and a burst at most, and posts them again. The lines of the first of them are asked for by `ask` as
    /// they are found, so that they are on their way while the others are looked at.
    #[inline(always)]
    fn take<R: SlotRing>(&mut self, ring: &mut R, most: usize) -> Taken {
        let words = self.slots.words();
        let note = note(self.mapper, &mut self.filled, |at| ask(words, at));
        ring.exchange_slots(most.min(BURST), note)
    }

    /// As [`take`](Self::take), for frames that are lent.
    #[inline(always)]
    fn take_to_lend<R: SlotRing>(&mut self, ring: &mut R, most: usize) -> Taken {
        let note = note(self.mapper, &mut self.filled, self.slots.ask());
        ring.exchange_slots(most.min(BURST), note)
    }

    /// Lends the frames of the first `taken` of the completed slots that have one. How many. With `ROOM` for so many.
    #[inline]
    fn lease<const ROOM: usize>(&mut self, taken: usize, with: impl FnOnce(&[LeasedFrame<'_>])) -> usize {
        let Self { slots, filled, stats, .. } = self;
        let (words, done, ask) = (slots.words(), &mut filled.0, slots.ask());
        slots.begin();
        let mut frames = [LeasedFrame::new(slots, 0, 0); ROOM];
        let mut next = frames.iter_mut();
        let mut count = 0usize;
        for (filled, later) in ahead(done, taken, 0) {
            ask(later.at());
            let (at, bytes) = (filled.at(), filled.bytes());
            if bytes < net::HDR_BYTES.wrapping_add(net::ETH_HEADER_BYTES) {
                stats.drop_short();
                continue;
            }
            if !plain(words, at) {
                stats.drop_header();
                continue;
            }
            let len = bytes.wrapping_sub(net::HDR_BYTES);
            if let Some(to) = next.next() {
                *to = LeasedFrame::new(slots, at.wrapping_add(net::HDR_BYTES), len);
                count = count.wrapping_add(1);
                stats.bytes = stats.bytes.wrapping_add(u64::try_from(len).unwrap_or(0));
            }
        }
        stats.used_entries = stats.used_entries.wrapping_add(u64::try_from(taken).unwrap_or(0));
        stats.frames = stats.frames.wrapping_add(u64::try_from(count).unwrap_or(0));
        with(frames.get(..count).unwrap_or_default());
        count
    }

    /// Copies the frames of the first `taken` of the completed slots out, without their headers; not of those that have none that is
    /// lawful.
    #[inline]
    fn copy_frames(&mut self, taken: usize, batch: &mut RxBatch) {
        let Self { slots, filled, stats, .. } = self;
        let (words, done) = (slots.words().bytes(), &mut filled.0);
        let RxBatch { bytes: room, slot, longest, lens, count: before } = batch;
        let (slot, longest, mut sum, mut kept) = (*slot, *longest, 0usize, 0usize);
        let lens = lens.get_mut(*before..).unwrap_or_default();
        // Where the next frame goes.
        let mut start = before.wrapping_mul(slot);
        for (filled, later) in ahead(done, taken, 0) {
            ask(&words, later.at());
            let bytes = filled.bytes();
            if bytes < net::HDR_BYTES.wrapping_add(net::ETH_HEADER_BYTES) {
                stats.drop_short();
                continue;
            }
            // It is at most what was posted, a slot; a batch for shorter frames drops what it has no room for.
            let len = bytes.wrapping_sub(net::HDR_BYTES);
            let room = room.get_mut(start..start.wrapping_add(len)).filter(|_| len <= longest);
            let (Some(to), Some(to_len)) = (room, lens.get_mut(kept)) else {
                stats.drop_long();
                continue;
            };
            let whole = words.part(filled.at(), bytes);
            let Some((_, frame)) = whole.split_at_checked(net::HDR_BYTES).filter(|(header, _)| plain(header, 0)) else {
                stats.drop_header();
                continue;
            };
            boundary::copy_completed(&frame, 0, to);
            *to_len = len;
            kept = kept.wrapping_add(1);
            sum = sum.wrapping_add(len);
            start = start.wrapping_add(slot);
        }
        *before = before.wrapping_add(kept);
        let count = |count: usize| u64::try_from(count).unwrap_or(0);
        stats.used_entries = stats.used_entries.wrapping_add(count(taken));
        stats.frames = stats.frames.wrapping_add(count(kept));
        stats.bytes = stats.bytes.wrapping_add(count(sum));
    }
}

/// A slot that came back, where it lies and how many bytes the device wrote there: in one word, so that noting it is one store.
#[derive(Clone, Copy, Debug, Default)]
struct Filled(u64);

impl Filled {
    /// Slots begin below 2^32: there are at most 2^15, of less than 2^16 bytes and a line.
    #[inline(always)]
    const fn new(at: usize, bytes: u32) -> Self {
        Self((bytes as u64) << 32 | at as u64)
    }

    /// Where it lies.
    #[inline(always)]
    const fn at(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    #[inline(always)]
    const fn bytes(self) -> usize {
        (self.0 >> 32) as usize
    }
}

/// Notes the slots that come back, in their order, and has `ask` ask for the lines of the first ones.
#[inline(always)]
fn note(mapper: FixedSlots, filled: &mut Scratch<Filled>, ask: impl Fn(usize)) -> impl FnMut(Done) {
    let (filled, mut next) = (&mut filled.0, 0usize);
    move |slot| {
        let at = mapper.offset_of(slot.at);
        if let Some(to) = filled.get_mut(next) {
            *to = Filled::new(at, slot.written);
        }
        if next < AHEAD {
            ask(at);
        }
        next = next.wrapping_add(1);
    }
}

/// Asks for the lines of the header and of the frame's first bytes; more of them come by themselves.
#[inline(always)]
fn ask<W: Words>(words: &Theirs<W>, at: usize) {
    words.prefetch(at);
    words.prefetch(at.wrapping_add(net::HDR_BYTES));
}

/// Whether the header at `at` uses nothing that was not negotiated. No offload is negotiated, so a checksum to be finished or a
/// segmented frame is not lawful (5.1.6.4.1); the other fields are then ignored.
#[inline(always)]
fn plain<W: Words>(words: &Theirs<W>, at: usize) -> bool {
    let (flags, gso_type) = boundary::header_wishes(words, at);
    is_plain(Header { flags, gso_type, ..Header::PLAIN_RX })
}

/// Whether a header uses nothing that was not negotiated: what a receive queue drops frames by.
#[inline]
#[must_use]
pub const fn is_plain(header: Header) -> bool {
    header.gso_type == net::GSO_NONE && header.flags & net::HDR_F_NEEDS_CSUM == 0
}

/// As many as a burst has in most programs.
const REFILL_MAX: u16 = 32;

fn os(error: OsError) -> NetError {
    NetError::Os(error)
}
