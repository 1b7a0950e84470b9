//! What front-ends do that the framework does not take.
//!
//! QEMU enables rings as soon as the backend has offered `VHOST_USER_F_PROTOCOL_FEATURES`, before it has acknowledged
//! anything by SET_FEATURES: the network card announces its queues when it is made, long before there is a driver. The
//! framework calls that a breach of the protocol and hangs up. The adapter keeps such requests, the last one for each
//! ring, and passes them on right behind the SET_FEATURES that makes them lawful.
//!
//! It is also where requests are looked at that the framework would refuse without saying why ([`mistakes`](super::mistakes)).
//!
//! It stands on the socket as a [`Filter`], behind the one that a [`Conduct`](super::Conduct) may have.

use std::collections::BTreeMap;

use super::life::LastRequest;
use super::mistakes::Watch;
use super::relay::{Filter, Message, Side, Step};

/// A filter with the adapter behind it.
#[derive(Debug)]
pub(super) struct Adapter<F> {
    filter: F,
    /// Whether the front-end has acknowledged features, `VHOST_USER_F_PROTOCOL_FEATURES` among them.
    acknowledged: bool,
    /// Rings to be enabled or disabled then: the index, and 1 or 0 as the front-end said it.
    early: BTreeMap<u32, u32>,
    /// What the front-end has sent last, for whoever wonders.
    heard: LastRequest,
    /// Looks at what is passed on.
    watch: Watch,
}

impl<F: Filter> Adapter<F> {
    /// An adapter for a new session, which tells `heard` and `watch` about each request.
    pub(super) fn behind(filter: F, watch: Watch, heard: &LastRequest) -> Self {
        heard.forget();
        Self { filter, acknowledged: false, early: BTreeMap::new(), heard: heard.clone(), watch }
    }

    /// What becomes of a request on its way to the session.
    fn adapt(&mut self, message: Message) -> Vec<Step> {
        match (message.request(), message.body()) {
            (SET_VRING_ENABLE, body) if !self.acknowledged => match ring_and_state(body) {
                Some((ring, state)) if ring < RINGS => {
                    self.early.insert(ring, state);
                    acknowledge(&message)
                }
                // For the session to refuse.
                _ => pass(message),
            },
            (SET_FEATURES, body) => {
                let features = body.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
                self.acknowledged = features & PROTOCOL_FEATURES != 0;
                let mut steps = pass(message);
                let early = std::mem::take(&mut self.early);
                // Without that feature every ring is enabled from the start.
                for (ring, state) in early.into_iter().filter(|_| self.acknowledged) {
                    let [ring, state] = [ring, state].map(u32::to_ne_bytes);
                    steps.extend(pass(Message::new(SET_VRING_ENABLE, VERSION, &[ring, state].concat())));
                }
                steps
            }
            (RESET_OWNER | RESET_DEVICE, _) => {
                self.acknowledged = false;
                pass(message)
            }
            _ => pass(message),
        }
    }
}

impl<F: Filter> Filter for Adapter<F> {
    fn on_request(&mut self, message: Message) -> Vec<Step> {
        self.heard.note(message.request());
        let mut steps = Vec::new();
        for step in self.filter.on_request(message) {
            match step {
                Step::Send(Side::Backend, message) => {
                    self.watch.look(&message);
                    steps.extend(self.adapt(message));
                }
                step => steps.push(step),
            }
        }
        steps
    }

    fn on_reply(&mut self, message: Message) -> Vec<Step> {
        self.filter.on_reply(message)
    }
}

fn pass(message: Message) -> Vec<Step> {
    vec![Step::Send(Side::Backend, message)]
}

/// The answer to a request that is kept, if the front-end wants one.
fn acknowledge(message: &Message) -> Vec<Step> {
    if message.flags() & NEED_REPLY == 0 {
        return Vec::new();
    }
    let reply = Message::new(message.request(), VERSION | REPLY, &0u64.to_ne_bytes());
    vec![Step::Send(Side::FrontEnd, reply)]
}

/// The body of SET_VRING_ENABLE.
fn ring_and_state(body: &[u8]) -> Option<(u32, u32)> {
    let (ring, state) = body.split_first_chunk()?;
    let state = state.first_chunk().filter(|_| body.len() == 8)?;
    Some((u32::from_ne_bytes(*ring), u32::from_ne_bytes(*state)))
}

const SET_FEATURES: u32 = 2;
const RESET_OWNER: u32 = 4;
const SET_VRING_ENABLE: u32 = 18;
const RESET_DEVICE: u32 = 34;
/// In the flags of a message: the protocol's version, "this is a reply", "I want a reply".
const VERSION: u32 = 1;
const REPLY: u32 = 4;
const NEED_REPLY: u32 = 8;
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// More rings than any device has; what is kept is bounded by it.
const RINGS: u32 = 1 << 16;

#[cfg(test)]
mod tests {
    use super::super::mistakes::Noted;
    use super::super::relay::NoFilter;
    use super::*;
    use crate::config::Settings;

    fn adapter() -> Adapter<NoFilter> {
        let watch = Watch::new(&Settings::default(), &Noted::default());
        Adapter::behind(NoFilter, watch, &LastRequest::default())
    }

    fn enable(ring: u32, state: u32, flags: u32) -> Message {
        Message::new(SET_VRING_ENABLE, VERSION | flags, &[ring.to_ne_bytes(), state.to_ne_bytes()].concat())
    }

    fn set_features(features: u64) -> Message {
        Message::new(SET_FEATURES, VERSION, &features.to_ne_bytes())
    }

    /// Side, request, flags and body of each step.
    fn sent(steps: Vec<Step>) -> Vec<(Side, u32, u32, Vec<u8>)> {
        let one = |step| match step {
            Step::Send(side, message) => (side, message.request(), message.flags(), message.body().to_vec()),
            other => panic!("{other:?}"),
        };
        steps.into_iter().map(one).collect()
    }

    #[test]
    fn rings_enabled_early_are_enabled_when_features_are_acknowledged() {
        let mut adapter = adapter();
        assert_eq!(sent(adapter.on_request(enable(0, 1, 0))), []);
        assert_eq!(sent(adapter.on_request(enable(1, 1, 0))), []);
        let reply = (Side::FrontEnd, SET_VRING_ENABLE, VERSION | REPLY, vec![0; 8]);
        assert_eq!(sent(adapter.on_request(enable(1, 0, NEED_REPLY))), [reply]);
        let features = 1 << 32 | PROTOCOL_FEATURES;
        let state = |ring: u32, state: u32| {
            let body = [ring.to_ne_bytes(), state.to_ne_bytes()].concat();
            (Side::Backend, SET_VRING_ENABLE, VERSION, body)
        };
        let whole = (Side::Backend, SET_FEATURES, VERSION, u64::to_ne_bytes(features).to_vec());
        assert_eq!(sent(adapter.on_request(set_features(features))), [whole.clone(), state(0, 1), state(1, 0)]);
        assert_eq!(sent(adapter.on_request(set_features(features))), [whole], "once");
        assert_eq!(sent(adapter.on_request(enable(1, 1, 0))), [state(1, 1)]);
        adapter.on_request(Message::new(RESET_OWNER, VERSION, &[]));
        assert_eq!(sent(adapter.on_request(enable(0, 1, 0))), []);
    }

    #[test]
    fn without_protocol_features_nothing_is_left_to_enable() {
        let mut adapter = adapter();
        adapter.on_request(enable(0, 0, 0));
        assert_eq!(sent(adapter.on_request(set_features(1 << 32))).len(), 1);
        assert_eq!(sent(adapter.on_request(set_features(PROTOCOL_FEATURES))).len(), 1);
    }

    #[test]
    fn what_is_malformed_is_for_the_session_to_refuse() {
        let mut adapter = adapter();
        for body in [&[][..], &[0; 7], &[0; 9], &[0xff; 8]] {
            let steps = sent(adapter.on_request(Message::new(SET_VRING_ENABLE, VERSION, body)));
            assert_eq!(steps, [(Side::Backend, SET_VRING_ENABLE, VERSION, body.to_vec())]);
        }
    }
}
