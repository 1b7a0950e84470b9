//! Attacks on the eventfds that both sides hold.
//!
//! The flags of an eventfd belong to the open file description, which the driver and its device share; and so does the
//! counter. Whoever holds one can make the other side's reads and writes block. The honest ring is given eventfds of its
//! own instead, so that nobody drains the stolen ones: it is deaf, or calls nobody, from then on.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::EventfdFlags;
use rustix::fs::OFlags;

use super::tally::{Row, Strikes};
use crate::session::relay::Message;

/// The attacks of a plan on doorbells.
#[derive(Debug)]
pub(super) struct Thief {
    kicks: Option<Row>,
    calls: Vec<Player>,
}

impl Thief {
    /// `None` if the plan has none of them.
    pub(super) fn new(strikes: &Strikes) -> Option<Self> {
        let games = [("A102", Game::Spurious), ("A103", Game::Storm), ("A106", Game::Block)];
        let player = |(id, game)| Some(Player::new(strikes.row(id)?, game));
        let (kicks, calls) = (strikes.row("A105"), games.into_iter().filter_map(player).collect::<Vec<_>>());
        (kicks.is_some() || !calls.is_empty()).then_some(Self { kicks, calls })
    }

    /// Strikes if the message brings doorbells.
    pub(super) fn request(&mut self, message: &mut Message) {
        match (message.request(), &mut self.kicks) {
            (SET_VRING_KICK, Some(row)) if row.is_armed() => {
                row.count(steal(message).iter().filter(|kick| block_writes(kick)).count() as u64);
            }
            (SET_VRING_CALL, _) => {
                // Calls go on, the honest ring rings them too; but for reads that shall block nobody may ring them.
                let blocks = self.calls.iter().find(|player| player.game == Game::Block && player.row.is_armed());
                if let Some(player) = blocks {
                    steal(message).into_iter().for_each(|call| player.play_with(call));
                    return;
                }
                for player in &self.calls {
                    message.fds.iter().filter_map(|fd| fd.try_clone().ok()).for_each(|call| player.play_with(call));
                }
            }
            _ => {}
        }
    }
}

/// The doorbells of a message; others take their place.
fn steal(message: &mut Message) -> Vec<OwnedFd> {
    let other = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok();
    message.fds.iter_mut().filter_map(|fd| Some(std::mem::replace(fd, other()?))).collect()
}

/// A105: the next write blocks.
fn block_writes(kick: &OwnedFd) -> bool {
    rustix::io::write(kick, &(u64::MAX - 1).to_ne_bytes()).is_ok()
        && rustix::fs::fcntl_setfl(kick, OFlags::empty()).is_ok()
}

/// What is done with calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Game {
    /// A102: they ring now and then, whatever has happened.
    Spurious,
    /// A103: they ring all the time.
    Storm,
    /// A106: they ring, are taken back, and let reads block. The device has others, so that it never rings these.
    Block,
}

/// A thread that plays with calls.
#[derive(Debug)]
struct Player {
    game: Game,
    row: Row,
    calls: Arc<Mutex<Vec<OwnedFd>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Player {
    fn new(row: Row, game: Game) -> Self {
        let (calls, stop) = (Arc::<Mutex<Vec<OwnedFd>>>::default(), Arc::<AtomicBool>::default());
        let (theirs, end) = (Arc::clone(&calls), Arc::clone(&stop));
        let (mine, told) = (row.clone(), game);
        let play = move || {
            while !end.load(Ordering::Relaxed) {
                let calls = theirs.lock().unwrap_or_else(PoisonError::into_inner);
                if !row.is_armed() || calls.is_empty() {
                    drop(calls);
                    std::thread::park_timeout(NAP);
                    continue;
                }
                row.count(calls.iter().filter(|call| game.play(call)).count() as u64);
                drop(calls);
                match game {
                    Game::Spurious => std::thread::park_timeout(NAP),
                    // What it has left the calls in stands for a while.
                    Game::Block => std::thread::park_timeout(BLOCK),
                    Game::Storm => std::thread::yield_now(),
                }
            }
        };
        let thread = std::thread::Builder::new().name("hostile-calls".to_owned()).spawn(play);
        if let Err(error) = &thread {
            tracing::error!("cannot start the thread that plays with calls: {error}; its attack does not strike");
        }
        Self { game: told, row: mine, calls, stop, thread: thread.ok() }
    }

    fn play_with(&self, call: OwnedFd) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has nothing to say; if it panicked, the panic was printed where it happened.
            let _ = thread.join();
        }
    }
}

impl Game {
    /// Whether anything was done.
    fn play(self, call: &OwnedFd) -> bool {
        match self {
            Self::Spurious | Self::Storm => rustix::io::write(call, &1u64.to_ne_bytes()).is_ok(),
            Self::Block => play_once(call),
        }
    }
}

/// Rings, takes the ring back without waiting, and leaves the call such that a read of nothing blocks.
fn play_once(call: &OwnedFd) -> bool {
    let mut counter = [0; 8];
    let struck = rustix::fs::fcntl_setfl(call, OFlags::NONBLOCK).is_ok();
    // Either may find the counter as it does not want it; the next round comes.
    let _ = rustix::io::write(call, &1u64.to_ne_bytes());
    let _ = rustix::io::read(call, &mut counter);
    struck && rustix::fs::fcntl_setfl(call, OFlags::empty()).is_ok()
}

/// Requests of vhost-user.
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
/// How long calls are left such that a read of nothing blocks.
const BLOCK: Duration = Duration::from_secs(1);
/// The thread's sleep when there is nothing to play with.
const NAP: Duration = Duration::from_millis(1);
