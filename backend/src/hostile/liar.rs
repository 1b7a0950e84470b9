//! Lies of the device about itself, and about what it was asked: replies of the vhost-user session, changed on their way.
//!
//! The session behind the relay stays honest. What the front-end then asks of it because it believed a lie (features that
//! it does not have) is taken back before it sees it, so that the only thing that goes wrong is the lie.

use super::Plan;
use super::loot;
use super::rng::Rng;
use super::tally::{Row, Strikes};
use crate::session::relay::{Message, Side, Step};

/// The lies of a plan.
#[derive(Debug)]
pub(super) struct Liar {
    lies: Vec<Lie>,
    /// Features and protocol features as they are.
    honest: [Option<u64>; 2],
}

/// One attack.
#[derive(Debug)]
struct Lie {
    row: Row,
    rng: Rng,
    manner: Manner,
    /// How many replies that it could change pass before.
    after: u64,
    seen: u64,
}

/// What becomes of a reply; `None` leaves it alone.
type Change = fn(Message, &mut Rng) -> Changed;

/// The messages that come in the place of a reply, the first of them with what is left of it.
type Changed = Vec<Message>;

/// Which replies, and what becomes of them.
#[derive(Clone, Copy)]
struct Manner {
    /// Replies to this request; 0 for any.
    code: u32,
    when: When,
    change: Change,
}

impl std::fmt::Debug for Manner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manner").field("code", &self.code).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Each time.
    Always,
    /// Once, at a reply that the seed chooses.
    Once,
    /// Each time but the first.
    Later,
}

impl Liar {
    /// `None` if the plan has no such attack.
    pub(super) fn new(plan: &Plan, strikes: &Strikes) -> Option<Self> {
        let lie = |(id, manner): (&'static str, Manner)| {
            let row = strikes.row(id)?;
            let mut rng = Rng::fork(plan.seed(), id);
            let most = if manner.code == 0 { MOST_REPLIES } else { 1 };
            let after = if manner.when == When::Once { rng.below(most) } else { 0 };
            Some(Lie { row, rng, manner, after, seen: 0 })
        };
        let lies: Vec<_> = manners().into_iter().filter_map(lie).collect();
        (!lies.is_empty()).then_some(Self { lies, honest: [None; 2] })
    }

    /// Takes back what the front-end asks for because of a lie.
    pub(super) fn request(&self, message: &mut Message) {
        let (honest, known) = match message.request() {
            SET_FEATURES => (self.honest[0], KNOWN_FEATURES),
            SET_PROTOCOL_FEATURES => (self.honest[1], KNOWN_PROTOCOL_FEATURES),
            _ => (None, 0),
        };
        if let (Some(honest), Some(asked)) = (honest, u64_of(message)) {
            if asked & !(honest | known) != 0 {
                loot::believed();
            }
            change_u64(message, |asked| asked & honest);
        }
    }

    /// What comes to the front-end.
    pub(super) fn reply(&mut self, message: Message) -> Vec<Step> {
        match message.request() {
            GET_FEATURES => self.honest[0] = u64_of(&message),
            GET_PROTOCOL_FEATURES => self.honest[1] = u64_of(&message),
            _ => {}
        }
        let mut messages = vec![message];
        for lie in self.lies.iter_mut().filter(|lie| lie.row.is_armed()) {
            messages = messages.into_iter().flat_map(|message| lie.tell(message)).collect();
        }
        messages.into_iter().map(|message| Step::Send(Side::FrontEnd, message)).collect()
    }
}

impl Lie {
    fn tell(&mut self, message: Message) -> Vec<Message> {
        let Manner { code, when, change } = self.manner;
        if code != 0 && message.request() != code {
            return vec![message];
        }
        let seen = self.seen;
        self.seen = seen.saturating_add(1);
        let now = match when {
            When::Always => true,
            When::Once => seen == self.after,
            When::Later => seen > 0,
        };
        if !now {
            return vec![message];
        }
        let before = message.bytes.clone();
        let changed = change(message, &mut self.rng);
        // A lie that says what is true is none.
        let told = !matches!(changed.as_slice(), [only] if only.bytes == before && only.fds.is_empty());
        self.row.count(u64::from(told));
        changed
    }
}

/// The attacks, by their ids.
fn manners() -> Vec<(&'static str, Manner)> {
    use When::{Always, Later, Once};
    let manner = |id, code, when, change: Change| (id, Manner { code, when, change });
    vec![
        manner("A79", GET_FEATURES, Always, |m, _| on_u64(m, |bits| bits | UNKNOWN_FEATURES)),
        manner("A80", GET_FEATURES, Always, |m, rng| {
            let missing = rng.pick(&[VERSION_1, PROTOCOL_FEATURES]).unwrap_or(VERSION_1);
            on_u64(m, |bits| bits & !missing)
        }),
        manner("A81", GET_FEATURES, Always, |m, _| on_u64(m, |bits| (bits | MQ | RSS | HOST_TSO4) & !(CTRL_VQ | CSUM))),
        // Without acknowledgements a driver that wants to know asks for the features again.
        manner("A82", GET_PROTOCOL_FEATURES, Always, |m, _| on_u64(m, |bits| bits & !REPLY_ACK)),
        manner("A82", GET_FEATURES, Later, |m, rng| {
            let flip = 1u64.wrapping_shl(u32::try_from(rng.between(36, 60)).unwrap_or(40));
            on_u64(m, |bits| bits ^ flip)
        }),
        manner("A83", SET_FEATURES, Always, |m, rng| on_u64(m, |_| rng.between(1, 255))),
        manner("A85", GET_FEATURES, Always, |m, _| on_u64(m, |bits| bits | MQ | CTRL_VQ)),
        manner("A85", GET_CONFIG, Always, |m, rng| {
            let pairs = rng.pick(&[0u16, 0x8001, u16::MAX]).unwrap_or(0);
            on_body(m, CONFIG_PAIRS, &pairs.to_le_bytes())
        }),
        manner("A86", GET_FEATURES, Always, |m, _| on_u64(m, |bits| bits | MTU)),
        manner("A86", GET_CONFIG, Always, |m, rng| {
            let mtu = rng.pick(&[0u16, 67, 9000, 65522, u16::MAX]).unwrap_or(0);
            on_body(m, CONFIG_MTU, &mtu.to_le_bytes())
        }),
        manner("A87", GET_FEATURES, Always, |m, _| on_u64(m, |bits| bits | MAC)),
        manner("A87", GET_CONFIG, Always, |m, rng| {
            let mac = rng.pick(&[[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]]).unwrap_or_default();
            on_body(m, CONFIG_MAC, &mac)
        }),
        manner("A89", GET_FEATURES, Always, |m, _| on_u64(m, |bits| bits | MAC)),
        manner("A89", GET_CONFIG, Later, |m, rng| {
            let [a, b, ..] = rng.next_u64().to_le_bytes();
            on_body(m, CONFIG_MAC, &[2, a, b, 1, 2, 3])
        }),
        manner("A91", GET_CONFIG, Always, |m, rng| {
            let (at, word) = rng.pick(&[(0, 4u32), (0, u32::MAX), (4, 0), (4, 256), (4, 11)]).unwrap_or((4, 0));
            on_body(m, at, &word.to_ne_bytes())
        }),
        manner("A94", GET_VRING_BASE, Always, |_, _| Vec::new()),
        manner("A108", 0, Once, |m, rng| {
            let reply = m.flags();
            let flags = [reply & !REPLY, reply & !3 | 2, reply | 0x100, reply | 1 << 31];
            match rng.below(3) {
                0 => on_header(m, 0, rng.pick(&[0, 3, 99, u32::MAX]).unwrap_or(99)),
                _ => on_header(m, 4, rng.pick(&flags).unwrap_or(0)),
            }
        }),
        manner("A109", 0, Once, |m, rng| {
            let size = m.size();
            let wrong = [0, size.wrapping_sub(1), size.saturating_add(1), size.saturating_add(12), 1 << 20, u32::MAX];
            on_header(m, 8, rng.pick(&wrong).unwrap_or(0))
        }),
        manner("A111", 0, Once, |m, rng| {
            let again = Message { bytes: m.bytes.clone(), fds: Vec::new() };
            let other = Message::new(GET_FEATURES, REPLY | 1, &u64::MAX.to_ne_bytes());
            if rng.below(2) == 0 { vec![m, again] } else { vec![m, other] }
        }),
        // In one piece: a front-end that looks behind each reply sees it before it asks for more.
        manner("A111b", SET_VRING_ENABLE, Always, |mut m, _| {
            m.bytes.extend_from_within(..);
            vec![m]
        }),
        manner("A112", 0, Once, |m, rng| {
            let count = rng.pick(&[1, 8, 253]).unwrap_or(1);
            let eventfd = || rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).ok();
            vec![Message { fds: (0..count).filter_map(|_| eventfd()).collect(), ..m }]
        }),
        manner("A113", SET_MEM_TABLE, Always, |m, rng| on_u64(m, |_| rng.between(1, u64::MAX))),
        manner("A114", GET_PROTOCOL_FEATURES, Always, |m, _| on_u64(m, |_| u64::MAX)),
        manner("A116", GET_VRING_BASE, Always, |m, rng| {
            let far = u32::try_from(rng.between(0x2000, 0x6000)).unwrap_or(0x2000);
            let base =
                m.body().get(4..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_ne_bytes(*word));
            on_body(m, 4, &(base ^ far).to_ne_bytes())
        }),
        manner("A120", GET_FEATURES, Always, |m, _| on_u64(m, |bits| (bits | MAC) & !(INDIRECT | EVENT_IDX))),
        manner("A120", GET_CONFIG, Always, |m, rng| {
            let [a, b, ..] = rng.next_u64().to_le_bytes();
            on_body(m, CONFIG_MAC, &[2, a, b, 4, 5, 6])
        }),
    ]
}

fn u64_of(message: &Message) -> Option<u64> {
    message.body().first_chunk().map(|word| u64::from_ne_bytes(*word))
}

/// Changes a body of one number.
fn change_u64(message: &mut Message, change: impl FnOnce(u64) -> u64) {
    if let Some(word) = message.bytes.get_mut(HEADER_BYTES..).and_then(|body| body.first_chunk_mut()) {
        *word = change(u64::from_ne_bytes(*word)).to_ne_bytes();
    }
}

fn on_u64(mut message: Message, change: impl FnOnce(u64) -> u64) -> Changed {
    change_u64(&mut message, change);
    vec![message]
}

/// Overwrites bytes of the body.
fn on_body(mut message: Message, at: usize, bytes: &[u8]) -> Changed {
    let body = message.bytes.get_mut(HEADER_BYTES..).unwrap_or_default();
    for (byte, with) in body.iter_mut().skip(at).zip(bytes) {
        *byte = *with;
    }
    vec![message]
}

/// Overwrites a word of the header.
fn on_header(mut message: Message, at: usize, word: u32) -> Changed {
    for (byte, with) in message.bytes.iter_mut().skip(at).zip(word.to_ne_bytes()) {
        *byte = with;
    }
    vec![message]
}

/// Requests of vhost-user.
const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_MEM_TABLE: u32 = 5;
const GET_VRING_BASE: u32 = 11;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;
const SET_VRING_ENABLE: u32 = 18;
const GET_CONFIG: u32 = 24;
/// In the flags of a message: it is a reply.
const REPLY: u32 = 4;
/// Bytes before the body.
const HEADER_BYTES: usize = 12;
/// A set-up has more replies than these, so every choice of a seed strikes.
const MOST_REPLIES: u64 = 5;
/// Where fields of the configuration lie in a reply to GET_CONFIG, behind the window.
const CONFIG_MAC: usize = 12;
const CONFIG_PAIRS: usize = 20;
const CONFIG_MTU: usize = 22;
/// Protocol feature: requests are acknowledged.
const REPLY_ACK: u64 = 1 << 3;
/// Features by their bits.
const CSUM: u64 = 1;
const MTU: u64 = 1 << 3;
const MAC: u64 = 1 << 5;
const HOST_TSO4: u64 = 1 << 11;
const CTRL_VQ: u64 = 1 << 17;
const MQ: u64 = 1 << 22;
const INDIRECT: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;
const RSS: u64 = 1 << 60;
/// What a front-end may know and ask for by itself if it is offered: MTU and MAC, and what a network driver may have.
const KNOWN_FEATURES: u64 = MTU | MAC;
/// REPLY_ACK, MQ, CONFIG.
const KNOWN_PROTOCOL_FEATURES: u64 = REPLY_ACK | 1 | 1 << 9;
/// Bits that nothing defines, or that nobody here knows.
const UNKNOWN_FEATURES: u64 = 0x07ff_ffc0_0000_0000 | 0x0000_0000_8180_0000;
