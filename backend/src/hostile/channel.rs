//! Lies at the vhost-user socket: a filter for the relay that stands between the front-end and the honest session.

use std::time::Duration;

use super::Plan;
use super::doorbells::Thief;
use super::liar::Liar;
use super::memory::Burglar;
use super::rng::Rng;
use super::tally::{Row, Strikes};
use crate::session::relay::{Filter, Message, Side, Step};

/// The attacks of a [`Plan`] that strike the session's messages.
#[derive(Debug)]
pub struct Saboteur {
    partial: Option<Partial>,
    disconnect: Option<Disconnect>,
    thief: Option<Thief>,
    burglar: Option<Burglar>,
    liar: Option<Liar>,
}

impl Saboteur {
    /// `None` if no attack of the plan is one on the channel, or on what comes over it.
    pub(super) fn new(plan: &Plan, strikes: &Strikes) -> Option<Self> {
        let partial = strikes.row("A110").map(|row| Partial::new(row, plan.seed()));
        let disconnect = strikes.row("A119").map(|row| Disconnect::new(row, plan.seed()));
        let thief = Thief::new(strikes);
        let (burglar, liar) = (Burglar::new(plan.seed(), strikes), Liar::new(plan, strikes));
        let on_replies = partial.is_some() || disconnect.is_some() || liar.is_some();
        let any = on_replies || thief.is_some() || burglar.is_some();
        any.then_some(Self { partial, disconnect, thief, burglar, liar })
    }
}

impl Filter for Saboteur {
    fn on_request(&mut self, message: Message) -> Vec<Step> {
        let mut message = message;
        if let Some(thief) = &mut self.thief {
            thief.request(&mut message);
        }
        if let Some(burglar) = &mut self.burglar {
            burglar.request(&message);
        }
        if let Some(liar) = &self.liar {
            liar.request(&mut message);
        }
        match &mut self.disconnect {
            Some(disconnect) => disconnect.request(message),
            None => vec![Step::Send(Side::Backend, message)],
        }
    }

    fn on_reply(&mut self, message: Message) -> Vec<Step> {
        if self.disconnect.as_ref().is_some_and(Disconnect::is_reply_withheld) {
            return vec![Step::Close];
        }
        match (&mut self.partial, &mut self.liar) {
            (Some(partial), _) => partial.reply(message),
            (None, Some(liar)) => liar.reply(message),
            (None, None) => vec![Step::Send(Side::FrontEnd, message)],
        }
    }
}

/// A110: one reply comes in part, or not at all, and none comes after it.
#[derive(Debug)]
struct Partial {
    row: Row,
    /// How many replies pass before.
    after: u64,
    manner: Manner,
    silent: bool,
}

/// What is left of the reply.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Nothing,
    /// So many bytes, or one less than there are.
    First(usize),
    /// All but the last byte, one after the other.
    Dribble,
}

impl Partial {
    fn new(row: Row, seed: u64) -> Self {
        let mut rng = Rng::fork(seed, "A110 channel");
        let first = usize::try_from(rng.between(1, 19)).unwrap_or(1);
        let manner = rng.pick(&[Manner::Nothing, Manner::First(first), Manner::Dribble]).unwrap_or(Manner::Nothing);
        Self { row, after: rng.below(MOST_REPLIES), manner, silent: false }
    }

    fn reply(&mut self, message: Message) -> Vec<Step> {
        if !self.row.is_armed() {
            return vec![Step::Send(Side::FrontEnd, message)];
        }
        if self.silent {
            return Vec::new();
        }
        if let Some(left) = self.after.checked_sub(1) {
            self.after = left;
            return vec![Step::Send(Side::FrontEnd, message)];
        }
        self.silent = true;
        self.row.count(1);
        self.manner.part_of(message)
    }
}

impl Manner {
    fn part_of(self, message: Message) -> Vec<Step> {
        let Message { mut bytes, fds } = message;
        // Never the whole message: the end of it is what the front-end waits for.
        bytes.pop();
        match self {
            Self::Nothing => Vec::new(),
            Self::First(count) => {
                bytes.truncate(count);
                vec![Step::Send(Side::FrontEnd, Message { bytes, fds })]
            }
            Self::Dribble => {
                let mut fds = fds;
                let byte = |byte| {
                    let message = Message { bytes: vec![byte], fds: std::mem::take(&mut fds) };
                    [Step::Send(Side::FrontEnd, message), Step::Wait(DRIBBLE)]
                };
                bytes.into_iter().flat_map(byte).collect()
            }
        }
    }
}

/// A119: the connection closes at a request: before the backend sees it, or where its reply would come.
#[derive(Debug)]
struct Disconnect {
    row: Row,
    /// How many requests pass before.
    after: u64,
    instead_of_reply: bool,
    /// The next thing that comes from the backend is withheld.
    withheld: bool,
}

impl Disconnect {
    fn new(row: Row, seed: u64) -> Self {
        let mut rng = Rng::fork(seed, "A119 channel");
        Self { row, after: rng.below(MOST_REQUESTS), instead_of_reply: rng.below(2) == 0, withheld: false }
    }

    fn request(&mut self, message: Message) -> Vec<Step> {
        if let Some(left) = self.after.checked_sub(1)
            && self.row.is_armed()
        {
            self.after = left;
        } else if self.row.is_armed() && !self.withheld {
            self.row.count(1);
            if !self.instead_of_reply {
                return vec![Step::Close];
            }
            self.withheld = true;
        }
        vec![Step::Send(Side::Backend, message)]
    }

    const fn is_reply_withheld(&self) -> bool {
        self.withheld
    }
}

/// A set-up has more replies and requests than these, so every choice of a seed strikes.
const MOST_REPLIES: u64 = 5;
const MOST_REQUESTS: u64 = 12;
/// The pause after each byte.
const DRIBBLE: Duration = Duration::from_millis(10);
