//! The adversary: the same backend, made to lie.
//!
//! # Theory of operation
//!
//! A hostile backend is an honest one with somebody in its way. The data plane, the session and the port are those of
//! honest mode; what is not attacked stays honest, so that an attack tests one thing.
//!
//! - *At the ring* stands an [`Engine`], a [`Hook`](crate::vring::hook::Hook) of the worker. It holds what any device
//!   holds, the mapping and the addresses of the rings, and stores where it likes at named moments; or it changes used
//!   elements, the used index and calls on their way out. Attacks that race have a thread.
//! - *At the socket* stands a relay with a filter: the honest session speaks to the relay, the relay to the front-end,
//!   and replies are held back, cut or never come.
//!
//! A [`Plan`] says which attacks of the [`CATALOGUE`], and with which seed. The seed decides which queue is struck, when
//! it begins, how often, where, and with which values; the same seed strikes the same way. [`Strikes`] tells how often it
//! really did.
//!
//! A strike on words that the driver owns is undone before the backend's own next look at them. A driver that never reads
//! those words back does not see any of it, and its traffic goes on; that is what an audit measures.
//!
//! Nothing here depends on the driver under attack, and no honest code depends on anything here: it is built with the
//! feature `hostile` only.

mod book;
mod catalogue;
mod channel;
mod doorbells;
mod engine;
mod liar;
mod loot;
mod memory;
mod rng;
mod serve;
mod strikes;
mod tally;
mod words;

pub use self::catalogue::{
    ABSENT, Absent, Attack, Axes, Axis, CATALOGUE, Class, Surface, Timing, Verdict, find, find_absent, near_matches,
    nearest,
};
pub use self::channel::Saboteur;
pub use self::engine::{Engine, RaceTurns};
pub use self::loot::{CANARY, canaries_seen, lies_believed, pointers_seen};
pub use self::rng::Rng;
pub use self::serve::{Adversary, HostileSession, serve_in_thread, serve_in_thread_with};
pub use self::strikes::{CHANGING, UNTOUCHED};
pub use self::tally::{Strikes, strikes_of_this_process};

/// Which attacks, and the seed of everything that they choose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    attacks: Vec<&'static Attack>,
    seed: u64,
    queue: Option<usize>,
}

/// Why a list of attacks is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// There is no such attack.
    #[error("no attack is called `{given}`; did you mean {}?", near.join(" or "))]
    Unknown {
        /// What was asked for.
        given: String,
        /// What may have been meant, best first.
        near: Vec<&'static str>,
    },
    /// The attack is not run.
    #[error("{} ({}) is not run: {}", absent.id, absent.name, absent.reason)]
    Absent {
        /// The entry.
        absent: &'static Absent,
    },
    /// The list is empty.
    #[error("no attack is named; write hostile:ID[,ID...], for example hostile:A01,A39")]
    Empty,
}

impl Plan {
    /// No attack at all.
    #[must_use]
    pub const fn honest() -> Self {
        Self { attacks: Vec::new(), seed: 0, queue: None }
    }

    /// A plan of `hostile:ID[,ID...]`, where the prefix may be left out and an id may be a name. Case does not matter; an
    /// attack that is named twice strikes once.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn parse(list: &str, seed: u64) -> Result<Self, PlanError> {
        let list = list.trim();
        let list = list.strip_prefix("hostile").and_then(|rest| rest.strip_prefix(':')).unwrap_or(list);
        let mut plan = Self { seed, ..Self::honest() };
        for given in list.split(',').map(str::trim).filter(|given| !given.is_empty()) {
            let attack = find(given).ok_or_else(|| match find_absent(given) {
                Some(absent) => PlanError::Absent { absent },
                None => PlanError::Unknown { given: given.to_owned(), near: near_matches(given) },
            })?;
            if !plan.attacks.contains(&attack) {
                plan.attacks.push(attack);
            }
        }
        if plan.attacks.is_empty() { Err(PlanError::Empty) } else { Ok(plan) }
    }

    /// The same plan, striking this queue only, also with attacks that would choose another.
    #[must_use]
    pub fn aimed_at(self, queue: usize) -> Self {
        Self { queue: Some(queue), ..self }
    }

    /// The attacks, in the order in which they were named.
    #[must_use]
    pub fn attacks(&self) -> &[&'static Attack] {
        &self.attacks
    }

    /// The seed.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The queue that is struck, if it was fixed.
    #[must_use]
    pub const fn queue(&self) -> Option<usize> {
        self.queue
    }
}

#[cfg(test)]
mod tests;
