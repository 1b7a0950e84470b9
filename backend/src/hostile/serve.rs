//! A hostile backend as a whole: the honest session with an adversary at its rings and on its socket.

use std::os::unix::net::UnixStream;
use std::thread::JoinHandle;

use ironring_common::error::OsError;

use super::channel::Saboteur;
use super::{Engine, Plan, Strikes};
use crate::config::Settings;
use crate::session::listen::Endpoint;
use crate::session::{Conduct, ServeError, StopToken, serve_endpoint};

/// The conduct of sessions under a [`Plan`]. All of them count in the same [`Strikes`].
#[derive(Clone, Debug)]
pub struct Adversary {
    plan: Plan,
    strikes: Strikes,
}

impl Adversary {
    /// Armed.
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        Self { plan: plan.clone(), strikes: Strikes::of(plan) }
    }

    /// Counts the strikes, and arms or disarms them.
    #[must_use]
    pub fn strikes(&self) -> Strikes {
        self.strikes.clone()
    }
}

impl Conduct for Adversary {
    type Hook = Engine;
    type Filter = Saboteur;

    fn hook(&self) -> Engine {
        Engine::with_strikes(&self.plan, self.strikes())
    }

    fn filter(&self) -> Option<Saboteur> {
        Saboteur::new(&self.plan, &self.strikes)
    }
}

/// A session in a thread of this process. Dropping it ends it.
#[derive(Debug)]
pub struct HostileSession {
    strikes: Strikes,
    stop: StopToken,
    thread: Option<JoinHandle<Result<u64, ServeError>>>,
}

/// Serves the front-end at the other end of `stream` under `plan`, in a thread, with the default settings: a loop that
/// sends every frame back.
///
/// # Errors
/// [`OsError`] if there is no thread or descriptor to be had.
pub fn serve_in_thread(stream: UnixStream, plan: &Plan) -> Result<HostileSession, OsError> {
    serve_in_thread_with(stream, plan, Settings::default())
}

/// As [`serve_in_thread`], with other settings.
///
/// # Errors
/// [`OsError`] if there is no thread or descriptor to be had.
pub fn serve_in_thread_with(stream: UnixStream, plan: &Plan, settings: Settings) -> Result<HostileSession, OsError> {
    let adversary = Adversary::new(plan);
    let (strikes, stop) = (adversary.strikes(), StopToken::new()?);
    let theirs = stop.clone();
    let serve = move || serve_endpoint(&Endpoint::Connected(stream), &settings, &adversary, &theirs);
    let thread = std::thread::Builder::new()
        .name("hostile".to_owned())
        .spawn(serve)
        .map_err(|e| OsError::new("start a session thread", e))?;
    Ok(HostileSession { strikes, stop, thread: Some(thread) })
}

impl HostileSession {
    /// Counts the strikes, and arms or disarms them.
    #[must_use]
    pub fn strikes(&self) -> Strikes {
        self.strikes.clone()
    }

    /// Ends the session and waits for its thread. How it ended is in the log.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for HostileSession {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            // The session has written to the log what went wrong, if anything did.
            let _ = thread.join();
        }
    }
}
