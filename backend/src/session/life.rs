//! What is said about the life of sessions: that one has begun, what it has heard last, and how it ended.
//!
//! Sessions are numbered from 1, and there is one at a time. So whatever stands in the log between the beginning and the
//! end of a session belongs to it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use vhost::vhost_user::message::FrontendReq;

use super::mistakes::Noted;
use super::stop::lock;
use super::{Report, SessionError, StopToken};

/// The sessions so far, and the one that is served.
#[derive(Debug, Default)]
pub(super) struct Life {
    count: Mutex<Count>,
    heard: LastRequest,
    noted: Noted,
}

#[derive(Debug, Default)]
struct Count {
    sessions: u64,
    /// The number of the session that is served, and since when it is.
    served: Option<(u64, Instant)>,
}

impl Life {
    /// A session begins: its number.
    pub(super) fn begin(&self) -> u64 {
        let mut count = lock(&self.count);
        let session = count.sessions.saturating_add(1);
        *count = Count { sessions: session, served: Some((session, Instant::now())) };
        drop(count);
        tracing::info!(session, "a front-end is connected");
        session
    }

    /// The last request of whichever session is served.
    pub(super) const fn heard(&self) -> &LastRequest {
        &self.heard
    }

    /// What its front-end does that is certain to be refused.
    pub(super) const fn noted(&self) -> &Noted {
        &self.noted
    }

    /// Writes to the log how a session ended. Without a number, it ended before it began.
    pub(super) fn conclude(&self, ended: Result<Report, SessionError>, stop: &StopToken) -> Result<(), SessionError> {
        let (session, since) = lock(&self.count).served.take().unzip();
        let seconds = since.map(|since| (since.elapsed().as_secs_f64() * 1000.0).round() / 1000.0);
        match ended {
            Ok(report) => {
                let figures = serde_json::to_string(&report.stats).unwrap_or_default();
                // The figures last: whoever reads the text finds them from the first brace to the end of the line.
                tracing::info!(session, seconds, reason = "left", %figures, "the session has ended");
                Ok(())
            }
            // Cut by us: how far the front-end was does not matter.
            Err(SessionError::Protocol(_)) if stop.is_stopped() => {
                tracing::info!(session, seconds, reason = "stopped", "the session was cut");
                Ok(())
            }
            Err(error) => {
                tracing::warn!(session, seconds, reason = error.reason(), "the session was ended: {error}");
                Err(error)
            }
        }
    }
}

/// The code of the last request that a session has received. Clones are of the same session.
#[derive(Clone, Debug, Default)]
pub(super) struct LastRequest(Arc<AtomicU32>);

impl LastRequest {
    /// A new session has received nothing yet.
    pub(super) fn forget(&self) {
        self.note(0);
    }

    /// A request was received.
    pub(super) fn note(&self, code: u32) {
        self.0.store(code, Ordering::Relaxed);
    }

    /// Its name in the specification, or its number if it has none; `None` before the first.
    pub(super) fn name(&self) -> Option<String> {
        match self.0.load(Ordering::Relaxed) {
            0 => None,
            code => Some(FrontendReq::try_from(code).map_or_else(|()| code.to_string(), |known| format!("{known:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_names_of_the_specification() {
        let heard = LastRequest::default();
        assert_eq!(heard.name(), None);
        for (code, name) in [(1, "GET_FEATURES"), (5, "SET_MEM_TABLE"), (18, "SET_VRING_ENABLE"), (4711, "4711")] {
            heard.note(code);
            assert_eq!(heard.clone().name().as_deref(), Some(name));
        }
        heard.forget();
        assert_eq!(heard.name(), None);
    }
}
