//! What a measurement does with a driver: the same calls, whichever it is.

use std::path::Path;

use ironring_common::shm::mapping::Pages;
use ironring_driver::net::{NetOptions, RxBatch, VirtioNet};
use ironring_driver::transport::{Deadlines, VhostUser};

use super::source::HEADERS;
use super::work::{Api, Work};
use crate::trusting::poll::{Batch, Options, TrustingNet};

pub(super) type Failure = Box<dyn std::error::Error>;

/// A driver of ours, or what one of its threads has of it.
pub(super) trait Nic {
    /// Where received frames are copied to.
    type Frames;

    /// Room for a burst of received frames.
    fn room(&self, work: &Work) -> Self::Frames;
    /// Sends frames that are copied; how many.
    fn send(&mut self, frames: &[&[u8]]) -> Result<usize, Failure>;
    /// Sends frames that were received, but for the first `skip`; how many.
    fn send_on(&mut self, frames: &Self::Frames, skip: usize) -> Result<usize, Failure>;
    /// Sends `count` frames of `len` bytes, the headers of which are written where they go.
    fn send_in_place(&mut self, count: usize, len: usize) -> Result<usize, Failure>;
    /// Takes back what the device is done with.
    fn reclaim(&mut self) -> Result<(), Failure>;
    /// Frames that the device is done with.
    fn completed(&mut self) -> u64;
    /// Frames that are out.
    fn outstanding(&mut self) -> u16;
    /// Receives a burst, copied out; how many.
    fn receive(&mut self, to: &mut Self::Frames) -> Result<usize, Failure>;
    /// The frames of the last burst.
    fn frames(of: &Self::Frames) -> impl ExactSizeIterator<Item = &[u8]>;
    /// Forwards what has come, a burst at most, from slot to slot; how many.
    fn forward(&mut self, most: usize) -> Result<usize, Failure>;
    /// Sends what has come, a burst at most, from where it lies; how many.
    ///
    /// # Errors
    /// That this driver has no such thing.
    fn hairpin(&mut self, most: usize) -> Result<usize, Failure>;
    /// Receives a burst, `most` at most, that is looked at where it lies, headers only; how many.
    ///
    /// # Errors
    /// That this driver has no such thing.
    fn lease(&mut self, most: usize) -> Result<usize, Failure>;
}

/// A driver of ours that one thread has.
pub(super) trait Whole: Nic + Sized {
    /// Connects to the backend that listens at `socket`. The backend polls, so it is never asked whether it wants to be kicked.
    fn bring_up(socket: &Path, work: &Work) -> Result<Self, Failure>;
    /// Ends it.
    fn close(self);
}

/// What our driver is told.
pub(super) fn options(work: &Work) -> NetOptions {
    let Work { layout, ring_size, in_order, hugepages, .. } = *work;
    NetOptions {
        layout,
        queue_size: ring_size,
        in_order,
        hairpin: work.api == Api::Hairpin,
        frame_max: work.frame_max(),
        queue_pairs: work.pairs(),
        huge_pages: hugepages,
        kicks: false,
        ..NetOptions::default()
    }
}

impl Nic for VirtioNet {
    type Frames = RxBatch;

    fn room(&self, work: &Work) -> RxBatch {
        RxBatch::new(usize::from(work.burst), work.frame_max())
    }

    #[inline]
    fn send(&mut self, frames: &[&[u8]]) -> Result<usize, Failure> {
        Ok(self.tx().tx_burst(frames)?)
    }

    #[inline]
    fn send_on(&mut self, frames: &RxBatch, skip: usize) -> Result<usize, Failure> {
        Ok(self.tx().tx_batch(frames, skip)?)
    }

    #[inline]
    fn send_in_place(&mut self, count: usize, len: usize) -> Result<usize, Failure> {
        Ok(self.tx().tx_burst_in_place(count, len, |frame| {
            // It has 60 bytes at least.
            let _ = frame.write(0, &HEADERS);
        })?)
    }

    #[inline]
    fn reclaim(&mut self) -> Result<(), Failure> {
        self.tx().reclaim()?;
        Ok(())
    }

    #[inline]
    fn completed(&mut self) -> u64 {
        self.tx().stats().completed
    }

    fn outstanding(&mut self) -> u16 {
        self.tx().outstanding()
    }

    #[inline]
    fn receive(&mut self, to: &mut RxBatch) -> Result<usize, Failure> {
        Ok(self.rx().rx_burst(to)?)
    }

    #[inline]
    fn frames(of: &RxBatch) -> impl ExactSizeIterator<Item = &[u8]> {
        of.frames()
    }

    #[inline]
    fn forward(&mut self, most: usize) -> Result<usize, Failure> {
        let (rx, tx) = self.queues();
        let mut failed = None;
        let count = rx.rx_lease(most, |frames| {
            // There is room for all that go round. Only an error is kept: a result that is stored in pieces and moved as a whole waits
            // for all stores before it, the slots of the burst among them, which took a fifth of the time.
            failed = tx.forward_burst(frames).err();
        })?;
        failed.map_or(Ok(count), |failure| Err(failure.into()))
    }

    #[inline]
    fn hairpin(&mut self, most: usize) -> Result<usize, Failure> {
        let pair = self.pairs_mut().first_mut().ok_or("there is no pair")?;
        Ok(pair.hairpin(most, |_| true)?)
    }

    #[inline]
    fn lease(&mut self, most: usize) -> Result<usize, Failure> {
        // The net header of each is copied out and read.
        Ok(self.rx().rx_lease(most, |frames| _ = std::hint::black_box(frames.len()))?)
    }
}

impl Whole for VirtioNet {
    fn bring_up(socket: &Path, work: &Work) -> Result<Self, Failure> {
        Ok(Self::bring_up(VhostUser::connect(socket, Deadlines::default())?, options(work))?)
    }

    fn close(self) {
        // What a peer of others answers to the last requests is none of the result.
        let _ = self.close();
    }
}

impl Nic for TrustingNet {
    type Frames = Batch;

    fn room(&self, work: &Work) -> Batch {
        Batch::new(usize::from(work.burst), work.frame_max())
    }

    #[inline]
    fn send(&mut self, frames: &[&[u8]]) -> Result<usize, Failure> {
        Ok(self.tx_burst(frames))
    }

    #[inline]
    fn send_on(&mut self, frames: &Batch, skip: usize) -> Result<usize, Failure> {
        Ok(self.tx_batch(frames, skip))
    }

    #[inline]
    fn send_in_place(&mut self, count: usize, len: usize) -> Result<usize, Failure> {
        Ok(self.tx_burst_in_place(count, len, &HEADERS))
    }

    #[inline]
    fn reclaim(&mut self) -> Result<(), Failure> {
        self.reclaim();
        Ok(())
    }

    #[inline]
    fn completed(&mut self) -> u64 {
        Self::completed(self)
    }

    fn outstanding(&mut self) -> u16 {
        Self::outstanding(self)
    }

    #[inline]
    fn receive(&mut self, to: &mut Batch) -> Result<usize, Failure> {
        Ok(self.rx_burst(to))
    }

    #[inline]
    fn frames(of: &Batch) -> impl ExactSizeIterator<Item = &[u8]> {
        of.frames()
    }

    #[inline]
    fn forward(&mut self, most: usize) -> Result<usize, Failure> {
        Ok(self.forward_burst(most))
    }

    fn hairpin(&mut self, _most: usize) -> Result<usize, Failure> {
        Err("rings that trust copy what they forward".into())
    }

    fn lease(&mut self, _most: usize) -> Result<usize, Failure> {
        Err("rings that trust are compared where frames are copied out, or forwarded".into())
    }
}

impl Whole for TrustingNet {
    fn bring_up(socket: &Path, work: &Work) -> Result<Self, Failure> {
        let Work { layout, ring_size, in_order, hugepages, .. } = *work;
        let pages = if hugepages { Pages::Huge } else { Pages::Normal };
        let options = Options { layout, queue_size: ring_size, in_order, frame_max: work.frame_max(), pages };
        Self::bring_up(VhostUser::connect(socket, Deadlines::default())?, options)
    }

    fn close(self) {}
}
