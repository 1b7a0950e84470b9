//! Somebody who comes to help when a write to a doorbell does not return.
//!
//! The peer shares the open file of an eventfd. It can clear `O_NONBLOCK` and drive the counter to its end, and then a
//! write blocks until somebody reads. No flag of a single write prevents that. So whoever must not be held up has a
//! [`Supervisor`]: before a write it notes that one is under way, and if the same write is still under way at two looks in
//! a row and the counter is full, the supervisor's thread drains it until the write has returned: many times in a row, as a peer
//! may fill it faster than the writer wakes up ([`Doorbell::make_room`]). Reads cannot block, whatever the flag says. A writer that is merely not given a CPU finds a counter with room.
//!
//! The price: two stores a write, a few looks a second while there are writes, and nothing while there are none: the thread
//! then sleeps without a limit, and the next write wakes it. A peer that plays this trick holds a thread up for two looks,
//! once: it is told, as [`Rung::Stalled`].

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Doorbell, Rung};
use crate::apart::APART_BYTES;
use crate::error::OsError;

/// A thread that looks after writes to doorbells. It ends with this.
#[derive(Debug)]
pub struct Supervisor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A doorbell whose writes are looked after.
#[derive(Debug)]
pub struct GuardedBell {
    watched: Arc<Watched>,
    shared: Arc<Shared>,
}

/// Apart from other memory, as all bells look at it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shared {
    /// `LOOKING`, `ASLEEP` or `ENDING`.
    state: AtomicU8,
    watched: Mutex<Vec<Arc<Watched>>>,
    /// Set once, before any bell is watched.
    thread: std::sync::OnceLock<std::thread::Thread>,
    /// Looks so far: for tests, which want to see that there are none.
    looks: AtomicU64,
}

/// Written with each ring, so each has its lines for itself.
#[derive(Debug)]
#[repr(align(128))]
struct Watched {
    bell: Doorbell,
    /// Odd while a write is under way.
    writes: AtomicU64,
    /// Whether the write that is under way had to be helped.
    helped: AtomicBool,
}

const _: () = assert!(align_of::<Watched>() == APART_BYTES && align_of::<Shared>() == APART_BYTES);

impl Supervisor {
    /// Starts the thread. `begin` runs on it first, for whoever confines threads; if it says `false`, the thread ends, and
    /// writes are not looked after.
    ///
    /// # Errors
    /// [`OsError`] if there is no thread to be had.
    pub fn start(begin: impl FnOnce() -> bool + Send + 'static) -> Result<Self, OsError> {
        let shared = Arc::new(Shared::default());
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("doorbells".to_owned())
            .spawn(move || {
                if begin() {
                    of_thread.look_after();
                }
            })
            .map_err(|e| OsError::new("start a thread that looks after doorbells", e))?;
        // Nobody else sets it.
        let _ = shared.thread.set(thread.thread().clone());
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Takes a doorbell into care.
    #[must_use]
    pub fn guard(&self, bell: Doorbell) -> GuardedBell {
        let watched = Arc::new(Watched { bell, writes: AtomicU64::new(0), helped: AtomicBool::new(false) });
        lock(&self.shared.watched).push(Arc::clone(&watched));
        GuardedBell { watched, shared: Arc::clone(&self.shared) }
    }

    /// How often the thread has looked.
    #[must_use]
    pub fn looks(&self) -> u64 {
        self.shared.looks.load(Ordering::Relaxed)
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.shared.state.store(ENDING, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the thread has been reported by itself.
            let _ = thread.join();
        }
    }
}

impl GuardedBell {
    /// Signals the peer, and returns in time whatever the peer does.
    ///
    /// # Errors
    /// [`OsError`] if the descriptor cannot be written at all.
    pub fn ring(&self) -> Result<Rung, OsError> {
        let Watched { bell, writes, helped } = &*self.watched;
        // SeqCst, as everything between this and the thread's look before it falls asleep: one of the two sees the other.
        writes.fetch_add(1, Ordering::SeqCst);
        self.shared.wake();
        let rung = bell.write();
        writes.fetch_add(1, Ordering::SeqCst);
        if helped.swap(false, Ordering::SeqCst) { Ok(Rung::Stalled) } else { rung }
    }

    /// The doorbell.
    #[must_use]
    pub fn bell(&self) -> &Doorbell {
        &self.watched.bell
    }
}

impl AsFd for GuardedBell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watched.bell.as_fd()
    }
}

impl Drop for GuardedBell {
    fn drop(&mut self) {
        lock(&self.shared.watched).retain(|watched| !Arc::ptr_eq(watched, &self.watched));
    }
}

impl Shared {
    /// Wakes the thread if it sleeps without a limit.
    #[inline]
    fn wake(&self) {
        if self.state.load(Ordering::SeqCst) == ASLEEP {
            self.wake_up();
        }
    }

    #[cold]
    fn wake_up(&self) {
        if self.state.compare_exchange(ASLEEP, LOOKING, Ordering::SeqCst, Ordering::SeqCst).is_ok()
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// What the thread does until the supervisor is gone.
    fn look_after(&self) {
        let mut seen = Vec::new();
        while self.state.load(Ordering::SeqCst) != ENDING {
            if self.look(&mut seen) {
                std::thread::park_timeout(LOOK_EACH);
                continue;
            }
            if self.state.compare_exchange(LOOKING, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_err() {
                continue;
            }
            // A write that began before it could see that we sleep is seen here.
            if self.look(&mut seen) {
                self.wake_up();
                continue;
            }
            while self.state.load(Ordering::SeqCst) == ASLEEP {
                std::thread::park();
            }
        }
    }

    /// Helps writes that were under way at the last look already; whether there was any write since then.
    fn look(&self, seen: &mut Vec<u64>) -> bool {
        self.looks.fetch_add(1, Ordering::Relaxed);
        // A copy: to help takes time, and whoever takes a bell into care or out of it is not to wait.
        let watched = lock(&self.watched).clone();
        seen.resize(watched.len(), 0);
        let mut busy = false;
        for (watched, seen) in watched.iter().zip(seen) {
            let now = watched.writes.load(Ordering::SeqCst);
            let under_way = now % 2 == 1;
            if under_way && now == *seen && watched.bell.is_full() {
                watched.helped.store(true, Ordering::SeqCst);
                // One that cannot be read cannot be helped, and could not be written either.
                let _ = watched.bell.make_room();
            }
            busy |= under_way || now != *seen;
            *seen = now;
        }
        busy
    }
}

/// A lock that a panicking thread held is as good as any: what it guards is set in one step.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const LOOKING: u8 = 0;
const ASLEEP: u8 = 1;
const ENDING: u8 = 2;
/// Between two looks while there are writes.
const LOOK_EACH: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Instant;

    use super::*;

    fn full_and_blocking(bell: &impl AsFd) {
        let peer = bell.as_fd().try_clone_to_owned().unwrap();
        rustix::fs::fcntl_setfl(&peer, rustix::fs::OFlags::empty()).unwrap();
        rustix::io::write(&peer, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    }

    #[test]
    fn a_write_that_blocks_is_helped_and_told() {
        let supervisor = Supervisor::start(|| true).unwrap();
        let bell = supervisor.guard(Doorbell::new().unwrap());
        assert_eq!(bell.ring().unwrap(), Rung::Yes);
        bell.bell().drain().unwrap();
        full_and_blocking(&bell);
        let (tell, told) = channel();
        std::thread::scope(|scope| {
            scope.spawn(|| tell.send(bell.ring().unwrap()).unwrap());
            let rung = told.recv_timeout(Duration::from_secs(20));
            // Free it in any case, so that a failure is a failure and no hang.
            bell.bell().drain().unwrap();
            assert_eq!(rung, Ok(Rung::Stalled));
        });
        assert_eq!(bell.ring().unwrap(), Rung::Yes, "it goes on");
    }

    /// A peer that fills the counter again and again, as fast as it can.
    #[test]
    fn a_peer_that_fills_it_without_end_holds_nobody_up() {
        let supervisor = Supervisor::start(|| true).unwrap();
        let bell = supervisor.guard(Doorbell::new().unwrap());
        let peer = bell.as_fd().try_clone_to_owned().unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // The peer's own writes must not block, so it clears the flag between two of them.
                while !stop.load(Ordering::Relaxed) {
                    rustix::fs::fcntl_setfl(&peer, rustix::fs::OFlags::NONBLOCK).unwrap();
                    let _ = rustix::io::write(&peer, &(u64::MAX - 1).to_ne_bytes());
                    rustix::fs::fcntl_setfl(&peer, rustix::fs::OFlags::empty()).unwrap();
                }
            });
            let started = Instant::now();
            let stalled = (0..20).filter(|_| bell.ring().unwrap() == Rung::Stalled).count();
            stop.store(true, Ordering::Relaxed);
            assert!(started.elapsed() < Duration::from_secs(60), "{stalled} of 20 writes were helped");
        });
    }

    /// A peer whose own writes never block, as it sets the flag again once ours is blocked, and which fills the counter in less time
    /// than a writer takes to wake up.
    #[test]
    fn a_peer_that_fills_it_faster_than_a_writer_wakes_up_holds_nobody_up() {
        // It is helped after two looks. Where the peer's threads get no time before that, they fill nothing, which shows nothing.
        let filled = (0..100).any(|_| fill_while_it_blocks() > 0);
        assert!(filled, "the peer was too late each time");
    }

    /// A write that blocks until it is helped, while two threads fill the counter. How often they did.
    fn fill_while_it_blocks() -> u64 {
        const PATIENCE: Duration = Duration::from_secs(20);
        let supervisor = Supervisor::start(|| true).unwrap();
        let bell = supervisor.guard(Doorbell::new().unwrap());
        let peer = bell.as_fd().try_clone_to_owned().unwrap();
        full_and_blocking(&bell);
        let (stop, filled) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (tell, told) = channel();
            let (bell, stop, peer, filled) = (&bell, &stop, &peer, &filled);
            let writer = scope.spawn(move || {
                tell.send(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
                let rung = bell.ring().unwrap();
                stop.store(true, Ordering::Relaxed);
                rung
            });
            let stat = std::path::Path::new("/proc").join(told.recv().unwrap()).join("stat");
            let started = Instant::now();
            // Under way, and asleep: in the write, for nothing else there sleeps.
            let blocked = || {
                let stat = std::fs::read_to_string(&stat).unwrap_or_default();
                bell.watched.writes.load(Ordering::SeqCst) % 2 == 1 && stat.contains(") S ")
            };
            while !blocked() && !stop.load(Ordering::Relaxed) && started.elapsed() < PATIENCE {}
            rustix::fs::fcntl_setfl(peer, rustix::fs::OFlags::NONBLOCK).unwrap();
            let fill = move || {
                let full = (u64::MAX - 1).to_ne_bytes();
                while !stop.load(Ordering::Relaxed) && started.elapsed() < PATIENCE {
                    let fills = (0..64).filter(|_| rustix::io::write(peer, &full).is_ok()).count();
                    filled.fetch_add(fills as u64, Ordering::Relaxed);
                }
            };
            let other = scope.spawn(fill);
            fill();
            other.join().unwrap();
            let in_time = stop.load(Ordering::Relaxed);
            // Free it in any case, so that a failure is a failure and no hang.
            bell.bell().drain().unwrap();
            assert_eq!((writer.join().unwrap(), in_time), (Rung::Stalled, true));
        });
        filled.into_inner()
    }

    #[test]
    fn nobody_looks_while_nobody_writes() {
        let supervisor = Supervisor::start(|| true).unwrap();
        let bell = supervisor.guard(Doorbell::new().unwrap());
        bell.ring().unwrap();
        let asleep = || supervisor.shared.state.load(Ordering::SeqCst) == ASLEEP;
        let deadline = Instant::now() + Duration::from_secs(20);
        while !asleep() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(asleep(), "it falls asleep after the last write");
        let looks = supervisor.looks();
        bell.ring().unwrap();
        while supervisor.looks() == looks && Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(supervisor.looks() > looks, "a write wakes it");
    }

    /// A writer that the system keeps waiting is not the peer's doing.
    #[test]
    fn a_write_that_is_only_slow_is_left_alone() {
        let shared = Shared::default();
        let watched = Arc::new(Watched {
            bell: Doorbell::new().unwrap(),
            writes: AtomicU64::new(1),
            helped: AtomicBool::new(false),
        });
        lock(&shared.watched).push(Arc::clone(&watched));
        watched.bell.write().unwrap();
        let mut seen = Vec::new();
        for _ in 0..5 {
            assert!(shared.look(&mut seen), "a write is under way");
        }
        assert!(!watched.helped.load(Ordering::SeqCst));
        assert!(watched.bell.drain().unwrap(), "the signal is still there");
    }

    #[test]
    fn it_ends_with_its_owner() {
        let supervisor = Supervisor::start(|| true).unwrap();
        let bell = supervisor.guard(Doorbell::new().unwrap());
        drop(supervisor);
        assert_eq!(bell.ring().unwrap(), Rung::Yes);
    }
}
