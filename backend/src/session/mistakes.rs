//! What front-ends get wrong that the framework refuses in two words.
//!
//! Most of it is configuration: memory that is not shared, more queues than are served, queues larger than is allowed.
//! The framework answers with "invalid parameters" or "invalid message", hangs up, and says no more. So each request is
//! looked at on its way to it. One that is certain to be refused is noted, and passed on all the same: it is refused in
//! the framework's own way. When the session then ends for a breach of the protocol, the first note is the reason that
//! the operator is told.

use std::sync::{Arc, Mutex};

use ironring_common::features::Feature;
use vhost::vhost_user::Error as VhostError;
use vhost_user_backend::{Error as DaemonError, VhostUserHandlerError};
use vm_memory::mmap::MmapRegionError;

use super::control::size_kind;
use super::life::LastRequest;
use super::relay::Message;
use super::stop::lock;
use super::{RingError, SessionError, set_up};
use crate::config::Settings;
use crate::worker::SHARE_MEMORY;

/// A mistake of whoever configured the front-end.
#[derive(Debug, thiserror::Error)]
pub enum Mistake {
    /// A queue that is not served.
    #[error(
        "the front-end names queue {queue}, so it has {} queues or more, and {served} are served (--queues {}, which counts pairs of a receive and a transmit queue); set queues={1} at QEMU, which counts pairs too, or num_queues={served} at cloud-hypervisor, which counts single queues", .queue.saturating_add(1), .served / 2
    )]
    NoSuchQueue {
        /// The number of the queue, from 0.
        queue: u32,
        /// How many there are.
        served: u32,
    },
    /// Memory without descriptors.
    #[error(
        "the front-end shares {regions} memory regions and has sent {descriptors} file descriptors for them, so not all of it is shared memory; {SHARE_MEMORY}"
    )]
    NotShared {
        /// Regions.
        regions: u32,
        /// Descriptors that came with them.
        descriptors: usize,
    },
    /// Rings before memory.
    #[error("the front-end says where queue {queue} lies and has not shared any memory; {SHARE_MEMORY}")]
    NothingShared {
        /// The queue.
        queue: u32,
    },
    /// A ring outside of shared memory.
    #[error("a queue lies where the front-end has not shared any memory; {SHARE_MEMORY}")]
    RingNotShared,
    /// Memory that the system does not map.
    #[error(
        "the front-end's memory cannot be mapped: {why}; its descriptors have to be open for reading and writing (no readonly=on at QEMU) and its offsets multiples of the page size"
    )]
    NotMappable {
        /// The system's word.
        why: String,
    },
}

impl Mistake {
    /// The reason in a word, for logs.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::NoSuchQueue { .. } => "ring",
            Self::NotShared { .. } | Self::NothingShared { .. } | Self::RingNotShared | Self::NotMappable { .. } => {
                "memory"
            }
        }
    }
}

/// Looks at the requests of one session.
#[derive(Debug)]
pub(super) struct Watch {
    queues: u32,
    max_size: u16,
    /// Whether any memory was shared.
    shared: bool,
    /// Whether the packed layout was taken.
    packed: bool,
    noted: Noted,
}

/// What a watch has noted, for whoever ends the session. Clones are of the same session.
#[derive(Clone, Debug, Default)]
pub(super) struct Noted(Arc<Mutex<Option<SessionError>>>);

impl Noted {
    /// What was noted first, once.
    fn take(&self) -> Option<SessionError> {
        lock(&self.0).take()
    }
}

impl Watch {
    /// A watch over a new session, of which nothing is noted yet.
    pub(super) fn new(settings: &Settings, noted: &Noted) -> Self {
        noted.take();
        let queues = u32::try_from(settings.queues()).unwrap_or(u32::MAX);
        Self { queues, max_size: settings.queue_size, shared: false, packed: false, noted: noted.clone() }
    }

    /// Notes what is wrong with a request.
    pub(super) fn look(&mut self, request: &Message) {
        if let Some(mistake) = self.mistake(request) {
            lock(&self.noted.0).get_or_insert(mistake);
        }
    }

    fn mistake(&mut self, request: &Message) -> Option<SessionError> {
        let (first, second) = (word(request, 0)?, word(request, 4));
        let queue = match request.request() {
            SET_FEATURES => {
                let features = u64::from(first) | (u64::from(second.unwrap_or(0)) << 32);
                self.packed = features & Feature::RingPacked.mask() != 0;
                return None;
            }
            SET_MEM_TABLE => {
                self.shared = true;
                return check_descriptors(first, request.fds.len());
            }
            ADD_MEM_REG => {
                self.shared = true;
                return check_descriptors(1, request.fds.len());
            }
            SET_VRING_NUM | SET_VRING_ADDR | SET_VRING_BASE | GET_VRING_BASE | SET_VRING_ENABLE => first,
            // A number in the low byte, and a flag above it.
            SET_VRING_KICK | SET_VRING_CALL | SET_VRING_ERR => first & 0xff,
            _ => return None,
        };
        if queue >= self.queues {
            // A number that no device has comes from no configuration.
            let mistake = Mistake::NoSuchQueue { queue, served: self.queues };
            return (queue < MOST_QUEUES).then(|| mistake.into());
        }
        match (request.request(), second) {
            // Between these bounds the ring itself refuses what is no power of two.
            (SET_VRING_NUM, Some(size)) if size == 0 || size > self.max_size.into() => {
                let ring = usize::try_from(queue).unwrap_or(usize::MAX);
                Some(RingError::Size { ring, size, max: self.max_size, kind: size_kind(self.packed) }.into())
            }
            (SET_VRING_ADDR, _) if !self.shared => Some(Mistake::NothingShared { queue }.into()),
            _ => None,
        }
    }
}

/// A region has a descriptor each. More regions than a message can have are refused for that.
fn check_descriptors(regions: u32, descriptors: usize) -> Option<SessionError> {
    let wrong = regions == 0 || usize::try_from(regions) != Ok(descriptors);
    (wrong && regions <= MAX_REGIONS).then(|| Mistake::NotShared { regions, descriptors }.into())
}

/// A word of the body.
fn word(message: &Message, at: usize) -> Option<u32> {
    message.body().get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// How the framework's word on the end of a connection is to be taken. A front-end may leave at any time, also in the
/// middle of a message, when it is killed.
pub(super) fn explain(ended: Result<(), DaemonError>, noted: &Noted, heard: &LastRequest) -> Result<(), SessionError> {
    let error = match ended {
        Ok(()) | Err(DaemonError::HandleRequest(VhostError::Disconnected | VhostError::PartialMessage)) => {
            return Ok(());
        }
        Err(DaemonError::HandleRequest(error)) => error,
        Err(DaemonError::WaitDaemon(_)) => return Err(SessionError::Panicked),
        Err(error) => return Err(set_up(error)),
    };
    let named = || named(&error).map(SessionError::from);
    Err(noted.take().or_else(named).unwrap_or_else(|| {
        let last = heard.name().unwrap_or_else(|| "nothing".to_owned());
        SessionError::Protocol(format!("{error}; the last that was received is {last}"))
    }))
}

/// The mistake that the framework has a name for.
fn named(error: &VhostError) -> Option<Mistake> {
    let VhostError::ReqHandlerError(error) = error else { return None };
    let inner = error.get_ref()?;
    if let Some(VhostUserHandlerError::MissingMemoryMapping) = inner.downcast_ref() {
        return Some(Mistake::RingNotShared);
    }
    inner.downcast_ref::<MmapRegionError>().map(|why| Mistake::NotMappable { why: why.to_string() })
}

const SET_FEATURES: u32 = 2;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ERR: u32 = 14;
const SET_VRING_ENABLE: u32 = 18;
const ADD_MEM_REG: u32 = 37;
/// More queues than any device has.
const MOST_QUEUES: u32 = 1 << 16;
/// Regions of one SET_MEM_TABLE, at most.
const MAX_REGIONS: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        Watch::new(&Settings { queue_size: 256, ..Settings::default() }, &Noted::default())
    }

    fn request(code: u32, words: &[u32]) -> Message {
        let body: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        Message::new(code, 1, &body)
    }

    #[test]
    fn the_first_mistake_is_the_one_that_is_told() {
        let mut watch = watch();
        watch.look(&request(SET_VRING_BASE, &[1, 7]));
        assert!(watch.noted.take().is_none());
        watch.look(&request(SET_VRING_CALL, &[5, 0]));
        watch.look(&request(SET_VRING_NUM, &[0, 512]));
        let told = watch.noted.take().unwrap().to_string();
        assert!(told.contains("names queue 5, so it has 6 queues or more, and 2 are served (--queues 1,"), "{told}");
        assert!(watch.noted.take().is_none());
    }

    #[test]
    fn every_request_that_names_a_queue_is_looked_at() {
        for code in [SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_ENABLE] {
            let mut watch = watch();
            watch.shared = true;
            assert!(watch.mistake(&request(code, &[1, 1])).is_none());
            let mistake = watch.mistake(&request(code, &[2, 1]));
            assert!(matches!(mistake, Some(SessionError::Mistake(Mistake::NoSuchQueue { queue: 2, .. }))));
        }
        for code in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
            assert!(watch().mistake(&request(code, &[0x101, 0])).is_none(), "no descriptor for queue 1");
            assert!(watch().mistake(&request(code, &[0x102, 0])).is_some());
        }
    }

    #[test]
    fn words_that_are_not_there_are_nothing_to_look_at() {
        for code in 0..50 {
            assert!(watch().mistake(&Message::new(code, 1, &[])).is_none());
            assert!(watch().mistake(&Message::new(code, 1, &[0; 3])).is_none());
        }
        assert!(watch().mistake(&request(SET_VRING_NUM, &[1])).is_none());
    }
}
