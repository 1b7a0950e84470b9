//! The adversary at the ring: a hook that strikes as its plan says.
//!
//! Everything that the strikes know stands behind one lock, taken for each call of the hook. Attacks that race have a
//! thread: it takes the lock for a few dozen stores at a time, and stands back whenever the worker wants it, so that the
//! two never step on each other's bookkeeping, while the driver's memory is stepped on at almost full speed.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ironring_common::index::DescId;
use ironring_common::spec::packed::SlotRest;
use ironring_common::spec::split::UsedElem;

use super::Plan;
use super::book::Book;
use super::rng::Rng;
use super::strikes::{self, Aim, Books, Scene, Strike};
use super::tally::{Row, Strikes};
use crate::vring::hook::{Hook, Moment, RingMemory};

/// The attacks of a [`Plan`] at the seam of the data plane. Dropping it ends its thread.
#[derive(Debug)]
pub struct Engine {
    shared: Arc<Shared>,
    strikes: Strikes,
    /// Whether there are attacks that race.
    racing: bool,
    racer: Option<JoinHandle<()>>,
}

impl Engine {
    /// The adversary that a plan describes, armed. Attacks on the channel are not its business.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self::with_strikes(plan, Strikes::of(plan))
    }

    /// As [`new`](Self::new), counting in `strikes`, which is of the same plan.
    pub(super) fn with_strikes(plan: &Plan, strikes: Strikes) -> Self {
        let slots = plan.attacks().iter().filter_map(|attack| Slot::new(attack.id, plan, &strikes)).collect();
        let state = Mutex::new(State { books: Books::new(), slots });
        let shared = Arc::new(Shared {
            state,
            strikes: strikes.clone(),
            wanted: AtomicUsize::new(0),
            races: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let racing = plan.attacks().iter().any(|attack| attack.racing);
        let racer = racing.then(|| start_racer(&shared)).flatten();
        Self { shared, strikes, racing, racer }
    }

    /// Counts the strikes, and arms or disarms them.
    #[must_use]
    pub fn strikes(&self) -> Strikes {
        self.strikes.clone()
    }

    /// How often there was a turn of attacks that race while there was something to race for.
    #[must_use]
    pub fn races(&self) -> u64 {
        self.shared.races.load(Ordering::Relaxed)
    }

    /// Ends the thread, so that attacks race in the turns that they are given only.
    pub(super) fn stop_racer(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(racer) = self.racer.take() {
            racer.thread().unpark();
            // It has nothing to say; if it panicked, the panic was printed where it happened.
            let _ = racer.join();
        }
    }

    /// For whoever wants to give turns to the attacks that race; `None` if there are none.
    #[must_use]
    pub fn turns(&self) -> Option<RaceTurns> {
        self.racing.then(|| RaceTurns(Arc::clone(&self.shared)))
    }
}

/// Gives turns to attacks that race, beside those that their thread takes.
///
/// A race needs the thread to run between two loads of a driver, which it hardly ever does if both share a processor. A
/// driver that gives it a turn between any two loads meets every race at once, on any machine.
#[derive(Clone, Debug)]
pub struct RaceTurns(Arc<Shared>);

impl RaceTurns {
    /// A turn, by the calling thread.
    pub fn take(&self) {
        let armed = self.0.strikes.is_armed();
        if self.0.enter().race(armed) {
            self.0.races.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Hook for Engine {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>) {
        let armed = self.strikes.is_armed();
        self.shared.enter().at(moment, ring, armed);
    }

    fn used_elem(&mut self, queue: usize, elem: UsedElem) -> UsedElem {
        let armed = self.strikes.is_armed();
        self.shared.enter().used_elem(queue, elem, armed)
    }

    fn used_slot(&mut self, queue: usize, slot: u16, rest: SlotRest) -> SlotRest {
        let armed = self.strikes.is_armed();
        self.shared.enter().used_slot(queue, slot, rest, armed)
    }

    fn first_slot(&mut self, queue: usize, rest: SlotRest) -> SlotRest {
        let armed = self.strikes.is_armed();
        self.shared.enter().first_slot(queue, rest, armed)
    }

    fn used_idx(&mut self, queue: usize, idx: u16) -> u16 {
        let armed = self.strikes.is_armed();
        self.shared.enter().used_idx(queue, idx, armed)
    }

    fn call(&mut self, queue: usize) -> bool {
        !self.strikes.is_armed() || self.shared.enter().call(queue)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop_racer();
        tracing::info!(strikes = self.strikes.count(), "the adversary has left");
    }
}

/// What the worker and the racing thread share.
struct Shared {
    state: Mutex<State>,
    strikes: Strikes,
    /// How many others want the lock: the racing thread stands back.
    wanted: AtomicUsize,
    /// Turns of attacks that race which had something to race for.
    races: AtomicU64,
    stop: AtomicBool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The state holds words of the peer.
        f.debug_struct("Shared").field("strikes", &self.strikes).finish_non_exhaustive()
    }
}

impl Shared {
    /// The state, for the worker: before the racing thread.
    fn enter(&self) -> MutexGuard<'_, State> {
        self.wanted.fetch_add(1, Ordering::Relaxed);
        let state = self.lock();
        self.wanted.fetch_sub(1, Ordering::Relaxed);
        state
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the racing thread does until it is told to stop.
    fn race(&self) {
        let mut rounds = 0u32;
        while !self.stop.load(Ordering::Relaxed) {
            rounds = rounds.wrapping_add(1);
            if self.wanted.load(Ordering::Relaxed) > 0 || rounds & YIELD_MASK == 0 {
                std::thread::yield_now();
            } else if self.lock().race(self.strikes.is_armed()) {
                self.races.fetch_add(1, Ordering::Relaxed);
            } else {
                std::thread::park_timeout(NAP);
            }
        }
    }
}

fn start_racer(shared: &Arc<Shared>) -> Option<JoinHandle<()>> {
    let theirs = Arc::clone(shared);
    let started = std::thread::Builder::new().name("hostile-racer".to_owned()).spawn(move || theirs.race());
    if let Err(error) = &started {
        tracing::error!("cannot start the racing thread: {error}; attacks that race do not strike");
    }
    started.ok()
}

/// The rings and the strikes.
struct State {
    books: Books,
    slots: Vec<Slot>,
}

/// One attack of the plan.
struct Slot {
    row: Row,
    aim: Aim,
    /// The first burst of a ring that is struck, and every how many from there on.
    first: u64,
    every: u64,
    rng: Rng,
    strike: Box<dyn Strike>,
    /// Whether this burst was struck.
    struck: bool,
}

impl State {
    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, armed: bool) {
        let Self { books, slots } = self;
        if moment == Moment::Start {
            books.remove(&ring.queue);
        }
        let book = books.entry(ring.queue).or_insert_with(|| Book::new(ring));
        book.keeps_bytes = slots.iter().any(|slot| slot.strike.wants_bytes());
        book.walking = book.is_packed() && matches!(moment, Moment::Look | Moment::Post | Moment::Complete);
        match moment {
            Moment::Look => {
                book.undo_posted();
                book.undo_races();
            }
            Moment::Post => {
                book.undo_posted();
                book.admit(ring);
            }
            Moment::Complete => book.undo_until(ring.heads),
            Moment::Start | Moment::PostUse | Moment::Idle | Moment::Stop => {}
        }
        for slot in slots.iter_mut() {
            if !slot.strikes_at(ring.queue, book) {
                continue;
            }
            slot.at(moment, ring, book, armed);
        }
        if !armed {
            book.undo_all();
        }
        match moment {
            Moment::PostUse => book.release(ring.heads),
            Moment::Stop => {
                book.undo_all();
                books.remove(&ring.queue);
            }
            _ => {}
        }
    }

    fn used_elem(&mut self, queue: usize, elem: UsedElem, armed: bool) -> UsedElem {
        let Some(book) = self.books.get_mut(&queue) else { return elem };
        let head = u16::try_from(elem.id).ok().and_then(|head| DescId::below(head, book.size));
        self.completion(queue, head, elem, armed)
    }

    /// A used slot is an element with flags.
    fn used_slot(&mut self, queue: usize, slot: u16, rest: SlotRest, armed: bool) -> SlotRest {
        let Some(book) = self.books.get_mut(&queue) else { return rest };
        let head = DescId::below(slot, book.size);
        head.into_iter().for_each(|head| book.catch_up(head));
        let UsedElem { id, len } =
            self.completion(queue, head, UsedElem { id: u32::from(rest.id), len: rest.len }, armed);
        let rest = SlotRest { id: u16::try_from(id).unwrap_or(u16::MAX), len, ..rest };
        self.change(queue, armed, rest, |slot, rest, book| slot.used_flags(rest, book))
    }

    fn first_slot(&mut self, queue: usize, rest: SlotRest, armed: bool) -> SlotRest {
        self.change(queue, armed, rest, |slot, rest, book| slot.first_slot(rest, book))
    }

    /// The completion of the chain that begins at `head`: what is written instead of the honest one.
    fn completion(&mut self, queue: usize, head: Option<DescId>, honest: UsedElem, armed: bool) -> UsedElem {
        let Self { books, slots } = self;
        let Some(book) = books.get_mut(&queue) else { return honest };
        book.burst.push(honest);
        book.completing = head;
        let mut elem = honest;
        for slot in slots.iter_mut() {
            if !slot.strikes_at(queue, book) {
                continue;
            }
            elem = slot.used_elem(elem, book, armed);
        }
        elem
    }

    fn change(
        &mut self,
        queue: usize,
        armed: bool,
        rest: SlotRest,
        mut change: impl FnMut(&mut Slot, SlotRest, &mut Book) -> SlotRest,
    ) -> SlotRest {
        let Self { books, slots } = self;
        let Some(book) = books.get_mut(&queue).filter(|_| armed) else { return rest };
        let mut rest = rest;
        for slot in slots.iter_mut() {
            if !slot.strikes_at(queue, book) {
                continue;
            }
            if slot.row.is_armed() && slot.is_due(book) {
                rest = change(slot, rest, book);
            }
        }
        rest
    }

    fn used_idx(&mut self, queue: usize, idx: u16, armed: bool) -> u16 {
        let Self { books, slots } = self;
        let Some(book) = books.get_mut(&queue) else { return idx };
        let mut idx = idx;
        for slot in slots.iter_mut() {
            if !slot.strikes_at(queue, book) {
                continue;
            }
            idx = slot.used_idx(idx, book, armed);
        }
        idx
    }

    fn call(&mut self, queue: usize) -> bool {
        let mut call = true;
        for slot in self.slots.iter_mut().filter(|slot| slot.row.is_armed() && slot.aim.hits(queue)) {
            if !slot.strike.call() {
                slot.row.count(1);
                call = false;
            }
        }
        call
    }

    /// A short run of all attacks that race; whether there are any to go on with.
    fn race(&mut self, armed: bool) -> bool {
        let Self { books, slots } = self;
        if !armed {
            slots.iter_mut().for_each(|slot| slot.strike.rest());
            books.values_mut().for_each(Book::undo_all);
            return false;
        }
        let mut live = false;
        for slot in slots {
            let begun = |(queue, book): (&usize, &Book)| slot.strikes_at(*queue, book) && book.bursts >= slot.first;
            if slot.row.attack().racing && slot.row.is_armed() && books.iter().any(begun) {
                live = true;
                slot.row.count(slot.strike.race(books, slot.aim, &mut slot.rng));
            }
        }
        live
    }
}

impl Slot {
    fn new(id: &str, plan: &Plan, strikes: &Strikes) -> Option<Self> {
        let row = strikes.row(id)?;
        let mut rng = Rng::fork(plan.seed(), id);
        let (strike, aim) = strikes::of(row.attack(), &mut rng)?;
        let aim = plan.queue().map_or(aim, Aim::Queue);
        let (first, every) = if strike.is_early() { (0, 1) } else { (rng.between(2, 10), rng.between(1, 3)) };
        Some(Self { row, aim, first, every, rng, strike, struck: false })
    }

    /// Whether it aims at a queue, and the ring has what it strikes.
    fn strikes_at(&self, queue: usize, book: &Book) -> bool {
        self.aim.hits(queue) && self.row.attack().layouts.contains(&book.layout())
    }

    fn at(&mut self, moment: Moment, ring: &RingMemory<'_>, book: &mut Book, armed: bool) {
        let armed = armed && self.row.is_armed();
        let due = armed && self.is_due(book);
        if !armed || moment == Moment::Stop {
            self.strike.rest();
        }
        let struck = self.strike.at(moment, ring, &mut Scene { book, rng: &mut self.rng, due });
        self.count(struck);
        if moment == Moment::PostUse {
            if due && !self.struck && !self.row.attack().racing {
                self.row.pass_over();
            }
            self.struck = false;
        }
    }

    fn used_elem(&mut self, honest: UsedElem, book: &mut Book, armed: bool) -> UsedElem {
        if book.burst.len() == 1 {
            self.strike.burst_begins();
        }
        let due = armed && self.row.is_armed() && !self.struck && self.is_due(book);
        if !(due || self.strike.has_debts()) {
            return honest;
        }
        let elem = self.strike.used_elem(honest, &mut Scene { book, rng: &mut self.rng, due });
        self.count(u64::from(elem != honest));
        elem
    }

    fn used_idx(&mut self, honest: u16, book: &mut Book, armed: bool) -> u16 {
        let (due, armed) = (self.is_due(book), armed && self.row.is_armed());
        if !armed || !(due || self.strike.has_debts()) {
            return honest;
        }
        let idx = self.strike.used_idx(honest, &mut Scene { book, rng: &mut self.rng, due });
        self.count(u64::from(idx != honest));
        idx
    }

    fn used_flags(&mut self, rest: SlotRest, book: &mut Book) -> SlotRest {
        if self.struck {
            return rest;
        }
        let flags = self.strike.used_flags(rest.flags, &mut Scene { book, rng: &mut self.rng, due: true });
        self.count(u64::from(flags != rest.flags));
        SlotRest { flags, ..rest }
    }

    fn first_slot(&mut self, rest: SlotRest, book: &mut Book) -> SlotRest {
        let first = self.strike.first_slot(rest, &mut Scene { book, rng: &mut self.rng, due: true });
        self.count(u64::from(first != rest));
        first
    }

    const fn is_due(&self, book: &Book) -> bool {
        match book.bursts.checked_sub(self.first) {
            Some(since) => matches!(since.checked_rem(self.every), Some(0)),
            None => false,
        }
    }

    fn count(&mut self, strikes: u64) {
        self.struck |= strikes > 0;
        self.row.count(strikes);
    }
}

/// The racing thread yields once in so many runs, so that it leaves something of a small machine to the others.
const YIELD_MASK: u32 = 63;
/// How long it sleeps when there is nothing to race for.
const NAP: Duration = Duration::from_millis(1);
