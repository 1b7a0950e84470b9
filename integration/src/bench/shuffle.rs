//! A backend that completes out of order: within each burst, what is given back is shuffled.
//!
//! Everything else is the honest backend. The seam is [`Hook::order`], which costs nothing where nobody stands there.

use std::ffi::OsString;
use std::process::ExitCode;

use ironring_backend::config::{self, Invocation, Transport};
use ironring_backend::session::listen::Endpoint;
use ironring_backend::session::relay::NoFilter;
use ironring_backend::session::{Conduct, StopToken, serve_endpoint};
use ironring_backend::vring::chain::Single;
use ironring_backend::vring::hook::Hook;

use crate::output;

/// Shuffles, always in the same way for a seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shuffler {
    state: u64,
}

impl Shuffler {
    pub(crate) const fn new(seed: u64) -> Self {
        // It may not be 0.
        Self { state: seed ^ 0x9e37_79b9_7f4a_7c15 | 1 }
    }

    /// A number below `bound`.
    #[inline]
    fn below(&mut self, bound: usize) -> usize {
        // xorshift64*: the upper bits are the good ones.
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let number = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        usize::try_from((number * bound as u64) >> 32).unwrap_or(0)
    }

    /// Each order as likely as any other.
    #[inline]
    fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            let other = self.below(last + 1);
            list.swap(last, other);
        }
    }
}

impl Hook for Shuffler {
    const ACTIVE: bool = false;

    #[inline]
    fn order(&mut self, done: &mut [Single<'_>]) {
        self.shuffle(done);
    }
}

impl Conduct for Shuffler {
    type Hook = Self;
    type Filter = NoFilter;

    fn hook(&self) -> Self {
        *self
    }

    fn filter(&self) -> Option<NoFilter> {
        None
    }
}

/// Runs the daemon with these arguments, its name first, as a backend that shuffles, until its front-end leaves.
pub(crate) fn main_with(args: impl IntoIterator<Item = OsString>, seed: u64) -> ExitCode {
    match serve(args, seed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("ironring: the backend that shuffles: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn serve(args: impl IntoIterator<Item = OsString>, seed: u64) -> Result<(), Box<dyn std::error::Error>> {
    let Invocation::Serve { transport: Transport::Path(path), settings, .. } = config::parse(args)? else {
        return Err("it listens at a path".into());
    };
    let endpoint = Endpoint::bind(&path, settings.access)?;
    serve_endpoint(&endpoint, &settings, &Shuffler::new(seed), &StopToken::new()?)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::time::{Duration, Instant};

    use ironring_backend::config::{RingFeature, Settings};
    use ironring_driver::net::{NetOptions, RxBatch, VirtioNet};
    use ironring_driver::queue::RingLayout;
    use ironring_driver::transport::{Deadlines, VhostUser};

    use super::*;

    #[test]
    fn every_order_comes_and_nothing_is_lost() {
        let mut shuffler = Shuffler::new(7);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let mut list = [1, 2, 3, 4];
            shuffler.shuffle(&mut list);
            seen.insert(list);
            list.sort_unstable();
            assert_eq!(list, [1, 2, 3, 4]);
        }
        assert_eq!(seen.len(), 24);
        let first = |seed| {
            let mut list: Vec<u8> = (0..32).collect();
            Shuffler::new(seed).shuffle(&mut list);
            list
        };
        assert!(first(1) == first(1) && first(1) != first(2));
    }

    /// The driver takes them back in the order in which they come, and the frames come back in the order of the completions.
    #[test]
    fn the_driver_carries_all_frames_beside_it() {
        for layout in [RingLayout::Split, RingLayout::Packed] {
            let (front, back) = UnixStream::pair().unwrap();
            let stop = StopToken::new().unwrap();
            let backend = std::thread::spawn(move || {
                let settings = Settings { without: vec![RingFeature::InOrder], ..Settings::default() };
                serve_endpoint(&Endpoint::Connected(back), &settings, &Shuffler::new(3), &stop).is_ok()
            });
            let channel = VhostUser::from_stream(front, Deadlines::default()).unwrap();
            let options = NetOptions { layout, queue_size: 64, ..NetOptions::default() };
            let mut net = VirtioNet::bring_up(channel, options).unwrap();
            let mut batch = RxBatch::new(64, 2036);
            let (mut sent, mut back) = (0u64, Vec::new());
            let deadline = Instant::now() + Duration::from_secs(20);
            while back.len() < 3_000 && Instant::now() < deadline {
                if sent < 3_000 && sent - back.len() as u64 <= 32 {
                    let frames: Vec<[u8; 64]> = (sent..sent + 30)
                        .map(|number| {
                            let mut frame = [0; 64];
                            frame[14..22].copy_from_slice(&number.to_be_bytes());
                            frame
                        })
                        .collect();
                    sent += net.tx().tx_burst(&frames).unwrap() as u64;
                }
                net.rx().rx_burst(&mut batch).unwrap();
                back.extend(batch.frames().map(|frame| {
                    let mut number = [0; 8];
                    number.copy_from_slice(&frame[14..22]);
                    u64::from_be_bytes(number)
                }));
            }
            let in_turn: Vec<u64> = (0..3_000).collect();
            assert_ne!(back, in_turn, "{layout:?}: they were shuffled");
            back.sort_unstable();
            assert_eq!(back, in_turn, "{layout:?}");
            assert!(net.is_conserved() && net.violation().is_none());
            drop(net);
            assert!(backend.join().unwrap());
        }
    }
}
