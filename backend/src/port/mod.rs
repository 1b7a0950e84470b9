//! Where frames go when they leave the guest, and where they come from.
//!
//! A port deals in whole Ethernet frames in private memory; it never sees the ring, the network header, or an address of
//! the guest. The worker copies each frame straight from shared memory into the slot that the port gives, and straight
//! from the port's frame into shared memory: one copy each way. Workers are generic over the port, so that no call in
//! the burst is an indirect one.

pub mod generate;
pub mod loopback;
pub mod null;
pub mod pcap;
pub mod tap;
mod tap_sys;

use std::os::fd::BorrowedFd;

/// One end of the wire. See the [module documentation](self).
///
/// A port takes every frame of [`MIN_FRAME`](crate::net::MIN_FRAME) to [`MAX_FRAME`](crate::net::MAX_FRAME) bytes, as
/// soon as it has room: a frame that it could never take would stay on the ring for ever.
pub trait Port: Send {
    /// Whether frames for the guest are to keep their order, so that all of them go to one receive queue: the first that
    /// takes frames.
    const IN_ORDER: bool = false;

    /// Room for a frame of exactly `len` bytes that leaves the guest, to be filled and then committed. `None` if there
    /// is none now: the frame stays on the ring. A slot that is not committed is forgotten at the next call.
    fn tx_slot(&mut self, len: usize) -> Option<&mut [u8]>;

    /// Takes the frame in the slot of the last [`tx_slot`](Self::tx_slot).
    fn tx_commit(&mut self);

    /// Takes the frames of a burst, of which is known before that each is one.
    #[inline(always)]
    fn tx_burst(&mut self) -> impl TxBurst
    where
        Self: Sized,
    {
        OneByOne(self)
    }

    /// The next frame for the guest, if there is one. It stays until it is consumed.
    fn rx_peek(&mut self) -> Option<&[u8]>;

    /// The frame of the last [`rx_peek`](Self::rx_peek) is done with.
    fn rx_consume(&mut self);

    /// The next frames for the guest, oldest first, at most `most`, as far as they are there in private memory already: none
    /// only if there are none. They stay until they are consumed.
    #[inline]
    fn rx_frames(&mut self, most: usize) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        self.rx_peek().filter(|_| most > 0).into_iter()
    }

    /// Bytes that none of the frames of the next [`rx_frames`](Self::rx_frames) has more of. A buffer with less room is looked at frame
    /// by frame. Where a frame is longer all the same, the burst ends before it.
    #[inline]
    fn rx_longest(&mut self) -> usize {
        self.rx_peek().map_or(0, <[u8]>::len)
    }

    /// The first `count` frames of the last [`rx_frames`](Self::rx_frames), which have so many `bytes` in all, are done with.
    #[inline]
    fn rx_consume_burst(&mut self, count: usize, bytes: usize) {
        let _ = bytes;
        if count > 0 {
            self.rx_consume();
        }
    }

    /// Hands over what was taken and held back to make system calls rarer. Called when a worker runs out of work and
    /// when its rings stop, never per frame.
    fn flush(&mut self) {}

    /// A descriptor that becomes readable when [`rx_peek`](Self::rx_peek) may have a frame again after it had none.
    /// `None` if frames arise from other calls of the port only. It is watched edge-triggered: `rx_peek` returns `None`
    /// only after a read that found nothing.
    fn readable_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// The port's counters.
    fn stats(&self) -> PortStats;
}

/// A burst of frames that leave the guest. What a port keeps of them it may keep here until the [`end`](Self::end), where the copies of
/// the frames in between do not force it into memory; without an end they may be lost.
pub trait TxBurst {
    /// Takes a frame of `len` bytes, all of which `fill` writes; whether there was room. After one for which there was none the burst may
    /// take no others.
    fn frame(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool;

    /// There are no more: `frames` were taken, of so many `bytes` in all.
    fn end(self, frames: usize, bytes: usize);
}

/// Slot by slot.
struct OneByOne<'a, P>(&'a mut P);

impl<P: Port> TxBurst for OneByOne<'_, P> {
    #[inline(always)]
    fn frame(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        let Some(slot) = self.0.tx_slot(len) else { return false };
        fill(slot);
        self.0.tx_commit();
        true
    }

    #[inline(always)]
    fn end(self, _: usize, _: usize) {}
}

/// What a port has seen. Bytes are those of frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PortStats {
    /// Frames taken from the guest.
    pub taken_frames: u64,
    /// Bytes of these.
    pub taken_bytes: u64,
    /// Frames given to the guest.
    pub given_frames: u64,
    /// Bytes of these.
    pub given_bytes: u64,
    /// Frames taken that could not be passed on.
    pub lost: u64,
    /// Sum over a sample of the bytes taken, for ports that check them.
    pub checksum: u64,
}

impl PortStats {
    /// Adds what another port has seen.
    pub(crate) const fn add(&mut self, other: &Self) {
        self.taken_frames = self.taken_frames.wrapping_add(other.taken_frames);
        self.taken_bytes = self.taken_bytes.wrapping_add(other.taken_bytes);
        self.given_frames = self.given_frames.wrapping_add(other.given_frames);
        self.given_bytes = self.given_bytes.wrapping_add(other.given_bytes);
        self.lost = self.lost.wrapping_add(other.lost);
        self.checksum = self.checksum.wrapping_add(other.checksum);
    }

    #[inline]
    pub(crate) fn took(&mut self, bytes: usize) {
        self.took_all(1, bytes);
    }

    #[inline]
    pub(crate) fn took_all(&mut self, frames: usize, bytes: usize) {
        self.taken_frames = self.taken_frames.wrapping_add(u64::try_from(frames).unwrap_or(u64::MAX));
        self.taken_bytes = self.taken_bytes.wrapping_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    #[inline]
    pub(crate) fn gave(&mut self, bytes: usize) {
        self.gave_all(1, bytes);
    }

    #[inline]
    pub(crate) fn gave_all(&mut self, frames: usize, bytes: usize) {
        self.given_frames = self.given_frames.wrapping_add(u64::try_from(frames).unwrap_or(u64::MAX));
        self.given_bytes = self.given_bytes.wrapping_add(u64::try_from(bytes).unwrap_or(u64::MAX));
    }
}

/// Why a port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// More threads than queue pairs, or none.
    #[error(
        "{threads} threads cannot serve {pairs} queue pairs: a thread serves one pair or more; pick 1 to {pairs}, or raise --queues"
    )]
    Threads {
        /// Data-plane threads that were asked for.
        threads: u16,
        /// Queue pairs.
        pairs: u16,
    },
    /// A port that only one thread can serve.
    #[error(
        "a {port} port is one end of one wire and is served by one thread, not by {threads}; leave out --threads, or use a loopback, null or generate port"
    )]
    OneThread {
        /// The kind of port.
        port: &'static str,
        /// Data-plane threads that were asked for.
        threads: u16,
    },
    /// A generated frame of this size cannot be.
    #[error("frames of {bytes} bytes cannot be generated; pick {min} to {max}")]
    FrameSize {
        /// What was asked for.
        bytes: usize,
        /// The smallest size.
        min: usize,
        /// The largest size.
        max: usize,
    },
    /// There is no such TAP interface for us.
    #[error(transparent)]
    Tap(#[from] tap::TapError),
    /// A file cannot be opened, read or made.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// A file is no classic pcap capture of Ethernet frames.
    #[error("{path} cannot be used as a capture: {why}")]
    Capture {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// The operating system refused.
    #[error(transparent)]
    Os(#[from] ironring_common::error::OsError),
}
