//! Ending things from another thread: a whole daemon, or one connection.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ironring_common::doorbell::Doorbell;
use ironring_common::error::OsError;
use vhost_user_backend::ShutdownHandle;

/// Ends a [`serve`](super::serve) from any thread. Clones end the same one.
#[derive(Clone, Debug)]
pub struct StopToken(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stopped: AtomicBool,
    /// Readable for ever once it is stopped.
    bell: Doorbell,
    /// The connections that are to be cut with it.
    connections: Mutex<Vec<Weak<Breaker>>>,
}

impl StopToken {
    /// A token that nobody has used yet.
    ///
    /// # Errors
    /// [`OsError`] if there is no descriptor left.
    pub fn new() -> Result<Self, OsError> {
        let connections = Mutex::default();
        Ok(Self(Arc::new(Shared { stopped: AtomicBool::new(false), bell: Doorbell::new()?, connections })))
    }

    /// Ends what holds a clone of this token: no further connection is served, and one that is being served is cut.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        // Our own eventfd, with one unit in it: the write cannot fail.
        let _ = self.0.bell.ring();
        for connection in lock(&self.0.connections).iter().filter_map(Weak::upgrade) {
            connection.cut();
        }
    }

    /// Whether [`stop`](Self::stop) was called.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::SeqCst)
    }

    /// Cuts `connection` when the token is stopped, or now if it was.
    pub(super) fn watch(&self, connection: &Arc<Breaker>) {
        let mut connections = lock(&self.0.connections);
        connections.retain(|known| known.strong_count() > 0);
        connections.push(Arc::downgrade(connection));
        drop(connections);
        if self.is_stopped() {
            connection.cut();
        }
    }

    /// Readable once the token is stopped.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.bell.as_fd()
    }
}

/// Cuts one connection: the front-end finds its socket closed, and the request thread ends.
///
/// The framework hands out its handle only after the request thread runs, so a cut may come before it; then it is made
/// as soon as the handle is there.
#[derive(Default)]
pub(super) struct Breaker(Mutex<Line>);

#[derive(Default)]
enum Line {
    #[default]
    Unconnected,
    Connected(ShutdownHandle),
    Cut,
}

impl Breaker {
    /// Takes over the connection's handle.
    pub(super) fn connect(&self, handle: Option<ShutdownHandle>) {
        let Some(handle) = handle else { return };
        let mut line = lock(&self.0);
        match *line {
            Line::Cut => handle.shutdown(),
            _ => *line = Line::Connected(handle),
        }
    }

    /// Cuts the connection, now or as soon as there is one.
    pub(super) fn cut(&self) {
        if let Line::Connected(handle) = std::mem::replace(&mut *lock(&self.0), Line::Cut) {
            handle.shutdown();
        }
    }
}

impl std::fmt::Debug for Breaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Breaker(..)")
    }
}

/// What these locks guard is set in one step, so a thread that panicked left it whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
