//! One descriptor chain, copied out of the table.
//!
//! A [`Chain`] is scratch: allocated once per ring, as long as the longest lawful chain, and filled anew by each walk.
//! What it holds stands still; the table may change as it likes.

use ironring_common::apart;
use ironring_common::index::{GuestAddr, QueueSize};
use ironring_common::shm::area::Bytes;

/// One buffer of a chain. Whether `addr` leads anywhere is for the region table to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Address of the first byte.
    pub addr: GuestAddr,
    /// Bytes.
    pub len: u32,
}

/// By what a chain is given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainRef {
    /// The head descriptor; in a packed ring, the buffer id, which is the driver's to choose.
    pub id: u16,
    /// Slots of the ring that it takes; descriptors in a split one.
    pub slots: u16,
    /// Whether the device may write anything of it.
    pub writable: bool,
}

/// A chain of one descriptor, whose buffer was found in the shared memory. Which way it goes is known where it was taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Single<'m> {
    /// Its buffer.
    pub buffer: Bytes<'m>,
    /// As [`ChainRef::id`].
    pub id: u16,
    /// Bytes that were written into it: for whoever fills it to say, and otherwise not looked at.
    pub written: u32,
}

impl Single<'_> {
    /// By what it is given back, if it is one that the device fills or one that it empties.
    #[inline]
    #[must_use]
    pub const fn at<const FILLS: bool>(&self) -> ChainRef {
        ChainRef { id: self.id, slots: 1, writable: FILLS }
    }

    /// Bytes that were written into it, if it is one that the device fills.
    #[inline]
    #[must_use]
    pub const fn length<const FILLS: bool>(&self) -> u32 {
        if FILLS { self.written } else { 0 }
    }
}

/// A chain: its head, the device-readable segments, then the device-writable ones.
#[derive(Debug)]
pub struct Chain {
    at: ChainRef,
    segments: Vec<Segment>,
    readable: usize,
    total: usize,
    readable_len: u64,
    writable_len: u64,
}

impl Chain {
    /// Scratch for the chains of a ring of `size` descriptors.
    #[must_use]
    pub fn with_capacity(size: QueueSize) -> Self {
        Self {
            at: ChainRef::default(),
            segments: apart::filled(Segment::default(), usize::from(size.get())),
            readable: 0,
            total: 0,
            readable_len: 0,
            writable_len: 0,
        }
    }

    /// By what the chain is given back.
    #[inline]
    #[must_use]
    pub const fn head(&self) -> ChainRef {
        self.at
    }

    /// The segments that the device may read, in order. Segments of no bytes are left out.
    #[inline]
    #[must_use]
    pub fn readable(&self) -> &[Segment] {
        self.segments.get(..self.readable).unwrap_or_default()
    }

    /// The segments that the device may write, in order. Segments of no bytes are left out.
    #[inline]
    #[must_use]
    pub fn writable(&self) -> &[Segment] {
        self.segments.get(self.readable..self.total).unwrap_or_default()
    }

    /// Bytes that the device may read.
    #[inline]
    #[must_use]
    pub const fn readable_len(&self) -> u64 {
        self.readable_len
    }

    /// Bytes that the device may write.
    #[inline]
    #[must_use]
    pub const fn writable_len(&self) -> u64 {
        self.writable_len
    }

    /// Forgets the last chain.
    #[inline]
    pub(super) fn start(&mut self) {
        self.at = ChainRef::default();
        self.readable = 0;
        self.total = 0;
        self.readable_len = 0;
        self.writable_len = 0;
    }

    /// The walk is over: what the chain is given back by.
    #[inline]
    pub(super) fn finish(&mut self, id: u16, slots: u16) {
        self.at = ChainRef { id, slots, writable: self.writable_len > 0 };
    }

    /// Adds a segment. `false` if it is readable and follows a writable one.
    ///
    /// A segment of no bytes moves nothing, so it is ignored rather than refused: it is counted by the bound of the walk
    /// and its address is never looked at.
    #[inline]
    pub(super) fn push(&mut self, segment: Segment, writable: bool) -> bool {
        if !writable && self.writable_len > 0 {
            return false;
        }
        if segment.len == 0 {
            return true;
        }
        // The walk is bounded by the capacity, so there is always room; a chain cut short would be a bug of ours.
        debug_assert!(self.total < self.segments.len());
        if let Some(slot) = self.segments.get_mut(self.total) {
            *slot = segment;
            self.total = self.total.wrapping_add(1);
            // At most 32768 segments of less than 2^32 bytes: far from overflow.
            let len = u64::from(segment.len);
            if writable {
                self.writable_len = self.writable_len.wrapping_add(len);
            } else {
                self.readable = self.total;
                self.readable_len = self.readable_len.wrapping_add(len);
            }
        }
        true
    }

    /// Where its list lies, for the test of the layout.
    #[cfg(test)]
    pub(crate) fn lines(&self, to: &mut Vec<std::ops::Range<usize>>) {
        to.push(apart::lines(&*self.segments));
    }
}
