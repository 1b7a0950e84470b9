//! Several queue pairs of our driver, which take their turns.

use std::path::Path;

use ironring_driver::net::{QueuePair, RxBatch, VirtioNet};

use super::nic::{Failure, Nic, options};
use super::source::HEADERS;
use super::work::Work;
use ironring_driver::transport::{Deadlines, VhostUser};

/// A driver of whose queue pairs the first `busy` carry frames, a burst each in turn. The others are there.
pub(super) struct ManyPairs {
    net: VirtioNet,
    busy: usize,
    /// The pair whose turn it is.
    at: usize,
    /// Frames that each of them has had taken.
    completed: Box<[u64]>,
    total: u64,
}

impl ManyPairs {
    /// The pair whose turn it is, and its number. The next one has the next.
    #[inline]
    fn turn(&mut self) -> Option<(usize, &mut QueuePair)> {
        let at = self.at;
        self.at = if at + 1 < self.busy { at + 1 } else { 0 };
        self.net.pairs_mut().get_mut(at).map(|pair| (at, pair))
    }
}

impl Nic for ManyPairs {
    type Frames = RxBatch;

    fn bring_up(socket: &Path, work: &Work) -> Result<Self, Failure> {
        let net = VirtioNet::bring_up(VhostUser::connect(socket, Deadlines::default())?, options(work))?;
        let busy = usize::from(work.queues);
        Ok(Self { net, busy, at: 0, completed: vec![0; busy].into_boxed_slice(), total: 0 })
    }

    fn room(&self, work: &Work) -> RxBatch {
        RxBatch::new(usize::from(work.burst), work.frame_max())
    }

    #[inline]
    fn send(&mut self, frames: &[&[u8]]) -> Result<usize, Failure> {
        let Some((at, pair)) = self.turn() else { return Ok(0) };
        let sent = pair.tx().tx_burst(frames)?;
        let now = pair.tx().stats().completed;
        self.total += now - std::mem::replace(&mut self.completed[at], now);
        Ok(sent)
    }

    fn send_on(&mut self, _frames: &RxBatch, _skip: usize) -> Result<usize, Failure> {
        Err("several queue pairs are measured one way".into())
    }

    #[inline]
    fn send_in_place(&mut self, count: usize, len: usize) -> Result<usize, Failure> {
        let Some((_, pair)) = self.turn() else { return Ok(0) };
        Ok(pair.tx().tx_burst_in_place(count, len, |frame| {
            // It has 60 bytes at least.
            let _ = frame.write(0, &HEADERS);
        })?)
    }

    fn reclaim(&mut self) -> Result<(), Failure> {
        for (pair, before) in self.net.pairs_mut().iter_mut().zip(&mut self.completed) {
            pair.tx().reclaim()?;
            let now = pair.tx().stats().completed;
            self.total += now - std::mem::replace(before, now);
        }
        Ok(())
    }

    #[inline]
    fn completed(&mut self) -> u64 {
        self.total
    }

    fn outstanding(&mut self) -> u16 {
        let out = self.net.pairs_mut().iter_mut().map(|pair| pair.tx().outstanding());
        out.fold(0, u16::saturating_add)
    }

    #[inline]
    fn receive(&mut self, to: &mut RxBatch) -> Result<usize, Failure> {
        let Some((_, pair)) = self.turn() else { return Ok(0) };
        Ok(pair.rx().rx_burst(to)?)
    }

    #[inline]
    fn frames(of: &RxBatch) -> impl ExactSizeIterator<Item = &[u8]> {
        of.frames()
    }

    fn forward(&mut self, _most: usize) -> Result<usize, Failure> {
        Err("several queue pairs are measured one way".into())
    }

    fn hairpin(&mut self, _most: usize) -> Result<usize, Failure> {
        Err("several queue pairs are measured one way".into())
    }

    fn lease(&mut self, _most: usize) -> Result<usize, Failure> {
        Err("frames of several queue pairs are copied out".into())
    }

    fn close(self) {
        // What a peer of others answers to the last requests is none of the result.
        let _ = self.net.close();
    }
}
