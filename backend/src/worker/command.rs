//! What the control plane asks of a worker, and the handle it asks through.
//!
//! Each call puts a command into a channel, raises a flag that the worker looks at once per pass, rings the worker's
//! eventfd in case it sleeps, and waits for the acknowledgement: at most [`DEADLINE`], then the worker is reported as
//! stuck. One thing can hold up a worker from outside: the driver shares the call eventfds, so it can clear their
//! `O_NONBLOCK` and fill their counters at the very moment when the worker writes. The waiting side is the supervisor
//! for that: it drains them, and the write goes through. A driver that fills them again and again can outlast the
//! deadline, and ends its session by that; a reaper then goes on draining until the thread has ended, so that thread,
//! memory and descriptors are given back when the driver is gone. The flag stays raised, so a worker that comes back from such a
//! call leaves its pass, finds that it was given up, and ends. It does not use its port again, not even to flush it, which may
//! serve the next session by then.
//!
//! A worker that was merely slow loses a call to this. So once it has answered, it is asked to make the call again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ironring_common::doorbell::Doorbell;
use ironring_common::error::{Misuse, OsError};
use ironring_common::features::Negotiated;
use ironring_common::index::GuestAddr;
use ironring_common::shm::table::RegionTable;

/// How one ring is to be started.
#[derive(Debug)]
pub struct RingSetup {
    /// Descriptors of the ring.
    pub size: u16,
    /// Address of the descriptor table, in the memory table of the worker.
    pub desc: GuestAddr,
    /// Address of the available ring.
    pub avail: GuestAddr,
    /// Address of the used ring.
    pub used: GuestAddr,
    /// The position to go on from: an index of a split ring, a slot with its wrap counter of a packed one.
    pub base: u16,
    /// Where the driver kicks, an eventfd; without one a worker that waits looks every millisecond.
    pub kick: Option<Doorbell>,
}

/// Why a command was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The worker did not answer in time.
    #[error("the data-plane worker did not answer within {seconds} s; end the session")]
    WorkerStuck {
        /// How long was waited.
        seconds: u64,
    },
    /// The worker's thread is gone.
    #[error("the data-plane worker has ended; start a new session")]
    WorkerGone,
    /// There is no such ring.
    #[error("there is no ring {ring}, this worker has {rings}; raise --queues")]
    NoSuchRing {
        /// What was asked for.
        ring: usize,
        /// How many there are.
        rings: usize,
    },
    /// The ring runs already.
    #[error("ring {ring} runs already; stop it before it is started again")]
    AlreadyRunning {
        /// The ring.
        ring: usize,
    },
    /// The ring does not run.
    #[error("ring {ring} does not run, so it cannot be stopped or changed")]
    NotRunning {
        /// The ring.
        ring: usize,
    },
    /// There is no shared memory yet.
    #[error("ring {ring} cannot be started before there is a memory table; send SET_MEM_TABLE first")]
    NoMemory {
        /// The ring.
        ring: usize,
    },
    /// The size or the place of the ring cannot be served.
    #[error("ring {ring} cannot be started: {source}")]
    BadRing {
        /// The ring.
        ring: usize,
        /// What is wrong with it.
        source: Misuse,
    },
    /// A part of the ring lies outside of the shared memory, or across two regions.
    #[error(
        "the {area} of ring {ring}, {len} bytes at {addr}, does not lie in one shared memory region; fix the addresses"
    )]
    OutsideMemory {
        /// The ring.
        ring: usize,
        /// Which part.
        area: &'static str,
        /// Its address.
        addr: GuestAddr,
        /// Its bytes.
        len: usize,
    },
    /// Two parts of rings overlap.
    #[error("the {area} of ring {ring} overlaps the {other_area} of ring {other}; give each its own memory")]
    Overlap {
        /// The ring to be started.
        ring: usize,
        /// Which part of it.
        area: &'static str,
        /// The ring that it meets, perhaps itself.
        other: usize,
        /// Which part of that.
        other_area: &'static str,
    },
    /// The operating system refused.
    #[error(transparent)]
    Os(#[from] OsError),
}

impl ControlError {
    /// The same, with the rings numbered as `number` says.
    pub(super) fn renumbered(mut self, number: impl Fn(usize) -> usize) -> Self {
        match &mut self {
            Self::WorkerStuck { .. } | Self::WorkerGone | Self::Os(_) => {}
            Self::NoSuchRing { ring, .. }
            | Self::AlreadyRunning { ring }
            | Self::NotRunning { ring }
            | Self::NoMemory { ring }
            | Self::BadRing { ring, .. }
            | Self::OutsideMemory { ring, .. } => *ring = number(*ring),
            Self::Overlap { ring, other, .. } => (*ring, *other) = (number(*ring), number(*other)),
        }
        self
    }
}

/// The way to a worker. Every method waits for the worker's acknowledgement, at most [`DEADLINE`].
///
/// The worker ends when [`shutdown`](Self::shutdown) is called or the last handle is gone.
#[derive(Clone, Debug)]
pub struct WorkerHandle(Arc<Link>);

impl WorkerHandle {
    pub(super) fn new(sender: Sender<Envelope>, signal: Arc<Signal>, thread: Thread) -> Self {
        Self(Arc::new(Link::new(sender, signal, thread)))
    }

    /// Starts a ring; see [`WorkerCore::start`](super::WorkerCore::start).
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn start(&self, ring: usize, setup: RingSetup) -> Result<(), ControlError> {
        self.0.ask(Command::Start(ring, setup)).map(drop)
    }

    /// Stops a ring and returns the position to go on from; everything before it is used and published.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn stop(&self, ring: usize) -> Result<u16, ControlError> {
        self.0.ask(Command::Stop(ring))
    }

    /// Enables or disables a ring: disabled, a transmit ring discards and a receive ring is given nothing.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn set_enabled(&self, ring: usize, enabled: bool) -> Result<(), ControlError> {
        self.0.ask(Command::Enable(ring, enabled)).map(drop)
    }

    /// Exchanges the kick of a running ring.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn set_kick(&self, ring: usize, kick: Option<Doorbell>) -> Result<(), ControlError> {
        self.0.ask(Command::Kick(ring, kick)).map(drop)
    }

    /// Sets where the driver of a ring is called, or that it is not.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn set_call(&self, ring: usize, call: Option<Doorbell>) -> Result<(), ControlError> {
        let call = call.map(Arc::new);
        self.0.ask(Command::Call(ring, call.clone()))?;
        self.0.supervise(ring, |bells| bells.call = call);
        Ok(())
    }

    /// Sets where a fault of a ring is signalled, or that it is not.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn set_err(&self, ring: usize, err: Option<Doorbell>) -> Result<(), ControlError> {
        let err = err.map(Arc::new);
        self.0.ask(Command::Err(ring, err.clone()))?;
        self.0.supervise(ring, |bells| bells.err = err);
        Ok(())
    }

    /// Takes note of the features in force.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn set_features(&self, features: Negotiated) -> Result<(), ControlError> {
        self.0.ask(Command::Features(features)).map(drop)
    }

    /// Exchanges the memory table. Running rings move to it; one that does not lie in it has a fault from now on.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn set_memory(&self, memory: RegionTable) -> Result<(), ControlError> {
        self.0.ask(Command::Memory(memory)).map(drop)
    }

    /// Stops all rings, ends the worker and waits for its thread. A second time it does nothing.
    ///
    /// # Errors
    /// [`ControlError`].
    pub fn shutdown(&self) -> Result<(), ControlError> {
        self.0.shutdown()
    }

    /// The first half of [`shutdown`](Self::shutdown): tells the worker to end.
    pub(super) fn tell_to_end(&self) -> Option<Ending> {
        self.0.tell_to_end()
    }

    /// The second half: waits for it, as long as a command may take from when it was told.
    pub(super) fn await_end(&self, ending: Ending) -> Result<(), ControlError> {
        self.0.await_end(ending)
    }
}

/// A worker that was told to end.
#[derive(Debug)]
pub(super) struct Ending {
    thread: Thread,
    answer: Result<Pending, ControlError>,
}

/// A command that was sent, and when.
#[derive(Debug)]
struct Pending {
    answer: Receiver<Outcome>,
    sent: Instant,
}

/// The state behind all handles of one worker.
#[derive(Debug)]
pub(super) struct Link {
    sender: Sender<Envelope>,
    signal: Arc<Signal>,
    /// The doorbells that the worker may be writing to, by ring.
    bells: Arc<Mutex<Vec<Bells>>>,
    thread: Mutex<Option<Thread>>,
    /// Whether it did not answer in time once: it is not waited for as long again.
    stuck: AtomicBool,
    /// How long a command may take: [`DEADLINE`].
    pub(super) deadline: Duration,
}

/// A worker's thread, and a channel that is cut when the thread has dropped everything.
#[derive(Debug)]
pub(super) struct Thread {
    pub(super) handle: JoinHandle<()>,
    pub(super) ended: Receiver<()>,
}

/// The doorbells of one ring that the worker may be writing to.
#[derive(Debug, Default)]
pub(super) struct Bells {
    pub(super) call: Option<Arc<Doorbell>>,
    pub(super) err: Option<Arc<Doorbell>>,
    /// What was taken out of them, and is to be signalled again.
    taken: Signals,
}

/// Signals to the driver of one ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Signals {
    /// At its call eventfd.
    pub(super) call: bool,
    /// At its error eventfd.
    pub(super) err: bool,
}

impl Link {
    pub(super) fn new(sender: Sender<Envelope>, signal: Arc<Signal>, thread: Thread) -> Self {
        let (thread, stuck) = (Mutex::new(Some(thread)), AtomicBool::new(false));
        Self { sender, signal, bells: Arc::default(), thread, stuck, deadline: DEADLINE }
    }

    /// Sends a command and waits for its answer.
    pub(super) fn ask(&self, command: Command) -> Result<u16, ControlError> {
        let outcome = self.await_answer(self.order(command)?)?;
        self.signal_again();
        outcome
    }

    /// Sends a command.
    fn order(&self, command: Command) -> Result<Pending, ControlError> {
        let (reply, answer) = sync_channel(1);
        self.send(command, reply)?;
        Ok(Pending { answer, sent: Instant::now() })
    }

    /// Waits for the answer to a command, and helps the worker to it. A worker that was waited for in vain once has ended its session,
    /// which is not to wait as long for each of the commands that are left.
    fn await_answer(&self, Pending { answer, sent }: Pending) -> Result<Outcome, ControlError> {
        let most = if self.stuck.load(Ordering::Relaxed) { AFTER_STUCK } else { self.deadline };
        let (mut patience, mut late) = (PATIENCE.min(self.deadline).min(most), false);
        loop {
            match answer.recv_timeout(patience) {
                Ok(outcome) => return Ok(outcome),
                Err(RecvTimeoutError::Disconnected) => return Err(ControlError::WorkerGone),
                Err(RecvTimeoutError::Timeout) if late => {
                    self.stuck.store(true, Ordering::Relaxed);
                    return Err(STUCK);
                }
                Err(RecvTimeoutError::Timeout) => release(&self.bells),
            }
            // It is helped once more, and waited for, however late it is: time may have gone by for other workers.
            late = sent.elapsed() >= most;
            // A worker that hung at one call may hang at the next one too, and there are many in a burst.
            patience = RELEASE_EACH;
        }
    }

    /// Stops all rings, ends the worker and waits for its thread; see [`WorkerHandle::shutdown`].
    pub(super) fn shutdown(&self) -> Result<(), ControlError> {
        self.tell_to_end().map_or(Ok(()), |ending| self.await_end(ending))
    }

    /// Tells the worker to stop all rings and end, if it was not told before.
    fn tell_to_end(&self) -> Option<Ending> {
        let thread = lock(&self.thread).take()?;
        Some(Ending { thread, answer: self.order(Command::Shutdown) })
    }

    /// Waits for the thread of a worker that was told to end.
    fn await_end(&self, Ending { thread, answer }: Ending) -> Result<(), ControlError> {
        let answered = answer.and_then(|pending| self.await_answer(pending)?).map(drop);
        // The thread acknowledges, then drops its port and its memory, then its end of this channel.
        let stuck = match answered {
            Ok(()) => thread.ended.recv_timeout(self.deadline) == Err(RecvTimeoutError::Timeout),
            Err(ControlError::WorkerStuck { .. }) => true,
            Err(ControlError::WorkerGone) => return Err(ControlError::WorkerGone),
            Err(error) => {
                self.give_up(thread);
                return Err(error);
            }
        };
        if stuck {
            self.give_up(thread);
            return Err(STUCK);
        }
        thread.handle.join().map_err(|_| ControlError::WorkerGone)
    }

    /// Leaves a worker to a reaper. It is not to use its port any more.
    fn give_up(&self, thread: Thread) {
        self.signal.given_up.store(true, Ordering::Release);
        // So that it looks: it may have obeyed the last command before it could see this.
        let _ = self.signal.raise();
        reap(thread, Arc::clone(&self.bells));
    }

    fn send(&self, command: Command, reply: SyncSender<Outcome>) -> Result<(), ControlError> {
        self.sender.send(Envelope { command, reply }).map_err(|_| ControlError::WorkerGone)?;
        self.signal.raise()?;
        Ok(())
    }

    /// Has the signals that were taken made again. By the worker: a write by anybody else could be blocked as the
    /// worker's can, and nobody would drain for that one.
    fn signal_again(&self) {
        for (ring, bells) in lock(&self.bells).iter_mut().enumerate() {
            let taken = std::mem::take(&mut bells.taken);
            if taken != Signals::default() {
                // Nobody waits for this, and a worker that has ended signals nothing.
                let (reply, _) = sync_channel(1);
                let _ = self.send(Command::Signal(ring, taken), reply);
            }
        }
    }

    pub(super) fn supervise(&self, ring: usize, set: impl FnOnce(&mut Bells)) {
        let mut all = lock(&self.bells);
        // The worker has this ring: it acknowledged a command for it.
        if all.len() <= ring {
            all.resize_with(ring.saturating_add(1), Bells::default);
        }
        if let Some(bells) = all.get_mut(ring) {
            set(bells);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        // The worker may be gone already. One that is not ends in order, and flushes its port.
        let (reply, _) = sync_channel(1);
        let _ = self.send(Command::Shutdown, reply);
        if let Some(thread) = lock(&self.thread).take() {
            reap(thread, Arc::clone(&self.bells));
        }
    }
}

/// Drains the doorbells that the worker may be stuck at, so that its write goes through and signals anew.
fn release(bells: &Mutex<Vec<Bells>>) {
    let drain = |bell: &Option<Arc<Doorbell>>| {
        // One that cannot be read cannot be helped.
        bell.as_ref().is_some_and(|bell| bell.drain().unwrap_or(false) | bell.make_room().unwrap_or(false))
    };
    for Bells { call, err, taken } in lock(bells).iter_mut() {
        taken.call |= drain(call);
        taken.err |= drain(err);
    }
}

/// Drains for a worker that was told to end until its thread has ended, in a thread of its own.
fn reap(worker: Thread, bells: Arc<Mutex<Vec<Bells>>>) {
    let reap = move || {
        while worker.ended.recv_timeout(REAP_EACH) == Err(RecvTimeoutError::Timeout) {
            release(&bells);
        }
        // How it ended was reported, or nobody wanted to know.
        let _ = worker.handle.join();
    };
    if let Err(error) = std::thread::Builder::new().name("reaper".to_owned()).spawn(reap) {
        tracing::error!(
            "cannot start a thread that ends a data-plane worker: {error}; it may keep its memory for ever"
        );
    }
}

/// What the worker is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Start(usize, RingSetup),
    Stop(usize),
    Enable(usize, bool),
    Kick(usize, Option<Doorbell>),
    Call(usize, Option<Arc<Doorbell>>),
    Err(usize, Option<Arc<Doorbell>>),
    Signal(usize, Signals),
    Features(Negotiated),
    Memory(RegionTable),
    Shutdown,
}

/// What becomes of a command: an index for `Stop`, 0 for all others.
pub(super) type Outcome = Result<u16, ControlError>;

/// A command and where its answer goes.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) command: Command,
    pub(super) reply: SyncSender<Outcome>,
}

/// How a worker learns that there are commands: a flag that is cheap to look at, and an eventfd for when it sleeps.
///
/// The flag alone says that there are commands; the bell only ends a sleep, and whoever it woke drains it. A worker that
/// is awake may see the flag, carry out the command and lower the flag before the bell is rung; that bell then ends one
/// later sleep for nothing. No command is lost by a drain either: the flag is raised before the bell is rung, so whoever
/// drained the bell finds the flag, and the worker looks at the flag after each sleep.
///
/// The worker looks at the flag with each pass, so it lies apart from whatever else is written.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Signal {
    raised: AtomicBool,
    /// Whether nobody waits for the worker any more.
    given_up: AtomicBool,
    bell: Doorbell,
}

impl Signal {
    /// The flag first, the bell second: a worker that goes to sleep in between wakes up at once.
    fn raise(&self) -> Result<(), OsError> {
        self.raised.store(true, Ordering::Release);
        self.bell.ring().map(drop)
    }
}

/// The worker's end of the channel.
#[derive(Debug)]
pub(super) struct Mailbox {
    receiver: Receiver<Envelope>,
    signal: Arc<Signal>,
}

impl Mailbox {
    /// Both ends.
    pub(super) fn new() -> Result<(Sender<Envelope>, Arc<Signal>, Self), OsError> {
        let (sender, receiver) = channel();
        let signal = Arc::new(Signal {
            raised: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
            bell: Doorbell::new()?,
        });
        Ok((sender, Arc::clone(&signal), Self { receiver, signal }))
    }

    /// What wakes a sleeping worker.
    pub(super) fn bell(&self) -> &Doorbell {
        &self.signal.bell
    }

    /// Whether there may be commands.
    #[inline]
    pub(super) fn is_raised(&self) -> bool {
        self.signal.raised.load(Ordering::Relaxed)
    }

    /// Whether nobody waits for this worker any more, and its port may be another's.
    pub(super) fn is_given_up(&self) -> bool {
        self.signal.given_up.load(Ordering::Acquire)
    }

    /// Drains the bell after it ended a sleep, or it would end every other one too. The flag is to be looked at next.
    pub(super) fn answer(&self) {
        // Our own eventfd, which nobody else can make unreadable.
        let _ = self.signal.bell.drain();
    }

    /// Lowers the flag; to be called before the commands are taken.
    pub(super) fn lower(&self) {
        // The swap reads the last value stored, so it orders every command whose flag it lowers before our receive.
        self.signal.raised.swap(false, Ordering::AcqRel);
    }

    /// The next command.
    pub(super) fn take(&self) -> Option<Envelope> {
        self.receiver.try_recv().ok()
    }
}

/// A lock that a panicking thread held is as good as any: what it guards is set in one step.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long a command may take.
pub const DEADLINE: Duration = Duration::from_secs(5);
/// How long the worker is left alone before its doorbells are drained.
const PATIENCE: Duration = Duration::from_millis(200);
/// How often they are drained from then on.
const RELEASE_EACH: Duration = Duration::from_millis(1);
/// How long a worker is waited for that did not answer in time before.
const AFTER_STUCK: Duration = Duration::from_millis(100);
/// How often they are drained for a worker that nobody waits for.
const REAP_EACH: Duration = Duration::from_millis(10);
const STUCK: ControlError = ControlError::WorkerStuck { seconds: DEADLINE.as_secs() };
