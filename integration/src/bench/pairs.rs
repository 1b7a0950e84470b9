//! Several queue pairs of our driver, which take their turns in one thread or are spread over several.

use ironring_common::apart;
use ironring_driver::net::{QueuePair, RxBatch, VirtioNet};

use super::nic::{Failure, Nic};
use super::source::HEADERS;
use super::work::Work;

/// The queue pairs of one thread that carry frames, a burst each in turn.
pub(super) struct Share<'a> {
    pairs: Vec<&'a mut QueuePair>,
    /// The pair whose turn it is.
    at: usize,
    /// Frames that each of them has had taken. Noted with each burst, so on lines of its own.
    completed: Vec<u64>,
    total: u64,
}

/// Spreads the busy pairs of a driver over its threads, as the backend does: pair i belongs to thread i modulo their number. The
/// others are there.
pub(super) fn spread<'a>(net: &'a mut VirtioNet, work: &Work) -> Vec<Share<'a>> {
    let threads = usize::from(work.threads.max(1));
    let mut shares: Vec<Vec<&mut QueuePair>> = (0..threads).map(|_| Vec::new()).collect();
    for (at, pair) in net.pairs_mut().iter_mut().take(work.queues.into()).enumerate() {
        shares[at % threads].push(pair);
    }
    shares.into_iter().map(Share::of).collect()
}

impl<'a> Share<'a> {
    fn of(pairs: Vec<&'a mut QueuePair>) -> Self {
        let completed = apart::filled(0, pairs.len());
        Self { pairs, at: 0, completed, total: 0 }
    }

    /// The pair whose turn it is, and its number. The next one has the next.
    #[inline]
    fn turn(&mut self) -> Option<(usize, &mut QueuePair)> {
        let at = self.at;
        self.at = if at + 1 < self.pairs.len() { at + 1 } else { 0 };
        self.pairs.get_mut(at).map(|pair| (at, &mut **pair))
    }
}

impl Nic for Share<'_> {
    type Frames = RxBatch;

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
        for (pair, before) in self.pairs.iter_mut().zip(&mut self.completed) {
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
        let out = self.pairs.iter_mut().map(|pair| pair.tx().outstanding());
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
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use ironring_backend::config::Settings;
    use ironring_backend::hostile::{self, Plan};
    use ironring_driver::net::NetOptions;
    use ironring_driver::queue::RingLayout;
    use ironring_driver::transport::{Deadlines, VhostUser};

    use super::super::table;
    use super::super::work::Direction;
    use super::*;

    #[test]
    fn busy_pairs_are_spread_over_the_threads_and_idle_ones_are_left() {
        let (front, back) = UnixStream::pair().unwrap();
        let settings = Settings { pairs: 6, ..Settings::default() };
        let _session = hostile::serve_in_thread_with(back, &Plan::honest(), settings).unwrap();
        let options = NetOptions { queue_pairs: 6, ..NetOptions::default() };
        let mut net =
            VirtioNet::bring_up(VhostUser::from_stream(front, Deadlines::default()).unwrap(), options).unwrap();
        let plain = table::work(RingLayout::Split, Direction::Tx);
        for (queues, threads, expected) in [(5, 3, vec![2, 2, 1]), (4, 4, vec![1; 4]), (6, 1, vec![6])] {
            let work = Work { queues, threads, ..plain };
            let shares = spread(&mut net, &work);
            assert_eq!(shares.iter().map(|share| share.pairs.len()).collect::<Vec<_>>(), expected);
        }
        // Each pair has its turn.
        let work = Work { queues: 5, threads: 2, ..plain };
        let mut share = spread(&mut net, &work).swap_remove(0);
        let turns: Vec<_> = (0..7).map(|_| share.turn().map(|(at, _)| at)).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2, 0].map(Some));
    }
}
