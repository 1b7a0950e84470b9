//! What can be done with the memory itself by whoever was given its descriptors, and with addresses that were said.
//!
//! None of it goes through the mapping of the honest session: the files are truncated, punched, sealed, read and written as
//! files.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, SealFlags};

use super::loot;
use super::rng::Rng;
use super::tally::{Row, Strikes};
use crate::session::relay::Message;

/// The attacks of a plan on the memory.
#[derive(Debug)]
pub(super) struct Burglar {
    rows: Vec<(Act, Row)>,
    seed: u64,
    /// Told when the session is over.
    over: Arc<AtomicBool>,
}

/// What is done to the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// A96: their length is changed.
    Truncate,
    /// A97: pages are taken out, all the time.
    Punch,
    /// A97b: seals are added.
    Seal,
    /// A95: they are written all over once the driver has left for another device.
    Haunt,
    /// A99: they are read for secrets, all the time.
    Read,
    /// A100: addresses that are said, and all words of the memory, are compared with those of the driver's process.
    Pointers,
}

impl Burglar {
    /// `None` if the plan has none of them.
    pub(super) fn new(seed: u64, strikes: &Strikes) -> Option<Self> {
        let acts = [
            ("A95", Act::Haunt),
            ("A96", Act::Truncate),
            ("A97", Act::Punch),
            ("A97b", Act::Seal),
            ("A99", Act::Read),
            ("A100", Act::Pointers),
        ];
        let rows: Vec<_> = acts.into_iter().filter_map(|(id, act)| Some((act, strikes.row(id)?))).collect();
        (!rows.is_empty()).then(|| Self { rows, seed, over: Arc::default() })
    }

    /// Strikes if the message brings memory, or says where something is.
    pub(super) fn request(&mut self, message: &Message) {
        for (act, row) in self.rows.iter().filter(|(_, row)| row.is_armed()) {
            match (act, message.request()) {
                (Act::Pointers, SET_VRING_ADDR | SET_LOG_BASE) => row.count(loot::addresses(message.body())),
                (_, SET_MEM_TABLE) => {
                    if *act == Act::Pointers {
                        row.count(loot::addresses(message.body()));
                    }
                    let files = message.fds.iter().filter_map(|fd| fd.try_clone().ok()).collect();
                    self.strike(*act, row, files);
                }
                _ => {}
            }
        }
    }

    fn strike(&self, act: Act, row: &Row, files: Vec<OwnedFd>) {
        match act {
            Act::Truncate => row.count(files.iter().map(truncate).sum()),
            Act::Seal => row.count(files.iter().map(seal).sum()),
            Act::Punch | Act::Haunt | Act::Read | Act::Pointers => {
                let worker = Worker { act, row: row.clone(), files, over: Arc::clone(&self.over) };
                let mut rng = Rng::fork(self.seed, "memory");
                let thread = std::thread::Builder::new().name("hostile-memory".to_owned());
                if let Err(error) = thread.spawn(move || worker.work(&mut rng)) {
                    tracing::error!("cannot start a thread for the memory: {error}; its attack does not strike");
                }
            }
        }
    }
}

impl Drop for Burglar {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
    }
}

/// A thread with the files. It ends when its attack is disarmed, when the session is over (or, for a ghost, some time after
/// that), and holds nothing that anybody waits for.
struct Worker {
    act: Act,
    row: Row,
    files: Vec<OwnedFd>,
    over: Arc<AtomicBool>,
}

impl Worker {
    fn work(&self, rng: &mut Rng) {
        let born = Instant::now();
        while self.row.is_armed() && born.elapsed() < LIFE {
            let over = self.over.load(Ordering::Acquire);
            match self.act {
                Act::Haunt if over => self.row.count(self.files.iter().map(|file| haunt(file, rng)).sum()),
                Act::Haunt => std::thread::park_timeout(NAP),
                _ if over => return,
                Act::Punch => {
                    self.row.count(self.files.iter().map(|file| punch(file, rng)).sum());
                    std::thread::park_timeout(NAP);
                }
                _ => {
                    let look = if self.act == Act::Pointers {
                        loot::addresses
                    } else {
                        |bytes: &[u8]| u64::from(loot::look_at(bytes))
                    };
                    self.row.count(self.files.iter().map(|file| read(file, look)).sum());
                    std::thread::park_timeout(NAP.saturating_mul(20));
                }
            }
        }
    }
}

/// Tries to make the file longer, shorter, and empty. How often.
fn truncate(file: &OwnedFd) -> u64 {
    let len = length(file);
    for other in [len.saturating_mul(2), len.wrapping_div(2), 0] {
        // Whether that was possible shows in the driver.
        let _ = rustix::fs::ftruncate(file, other);
    }
    3
}

/// Tries to forbid the driver to map or to write. How often.
fn seal(file: &OwnedFd) -> u64 {
    for seals in [SealFlags::FUTURE_WRITE, SealFlags::WRITE, SealFlags::SEAL] {
        let _ = rustix::fs::fcntl_add_seals(file, seals);
    }
    3
}

/// Takes a page out: it reads as zeros from then on.
fn punch(file: &OwnedFd, rng: &mut Rng) -> u64 {
    let page = rng.below(length(file).wrapping_div(PAGE)).wrapping_mul(PAGE);
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    u64::from(rustix::fs::fallocate(file, flags, page, PAGE).is_ok())
}

/// Writes noise somewhere.
fn haunt(file: &OwnedFd, rng: &mut Rng) -> u64 {
    let at = rng.below(length(file).wrapping_div(8)).wrapping_mul(8);
    u64::from(rustix::io::pwrite(file, &rng.next_u64().to_le_bytes(), at).is_ok())
}

/// Reads all of it, and looks at it.
fn read(file: &OwnedFd, look: fn(&[u8]) -> u64) -> u64 {
    let mut bytes = vec![0; usize::try_from(length(file).min(MOST_READ)).unwrap_or(0)];
    let Ok(count) = rustix::io::pread(file, &mut bytes, 0) else { return 0 };
    look(bytes.get(..count).unwrap_or_default());
    1
}

fn length(file: &OwnedFd) -> u64 {
    rustix::fs::fstat(file).ok().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or(0)
}

/// Requests of vhost-user.
const SET_MEM_TABLE: u32 = 5;
const SET_LOG_BASE: u32 = 6;
const SET_VRING_ADDR: u32 = 9;
/// What is punched at a time.
const PAGE: u64 = 4096;
/// What is read of a file at most.
const MOST_READ: u64 = 64 << 20;
/// How long a thread does this at most.
const LIFE: Duration = Duration::from_secs(10);
/// Between two strikes that would leave nothing to anybody else.
const NAP: Duration = Duration::from_millis(1);
