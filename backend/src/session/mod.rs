//! The control plane: one front-end after another, each with a session of its own.
//!
//! # Theory of operation
//!
//! `vhost-user-backend` speaks the protocol: it reads messages, checks their form, maps memory. It gets a ring type of our
//! own (`vring`) and no worker threads, so that it never touches a ring or a doorbell. What it is told about rings,
//! memory and features goes to the data plane, the [`worker`](crate::worker)s of the session, and each call returns when
//! they have acknowledged: a reply to the front-end means what it says.
//!
//! The framework's daemon object can serve one connection in its life. So each connection gets a new one, with a new
//! device, ports and workers; the listening socket stays. When the front-end leaves, crashes or breaks a rule, everything
//! of its session is torn down (workers first: they hold the memory) before the next one is served. Further front-ends wait
//! in the backlog meanwhile. What one of them does wrong ends its own session and nothing else.
//!
//! A front-end may stay silent for as long as it likes: the session waits in a thread of its own, holds no lock that
//! anybody else wants, and is cut by the [`StopToken`].
//!
//! [`Conduct`] is the seam for whoever wants to stand in the way of the honest session: at the rings by a
//! [`Hook`], on the socket by a [`Filter`].

mod adapter;
mod caller;
mod control;
mod device;
mod figures;
mod life;
pub mod listen;
mod mistakes;
mod ports;
pub mod relay;
mod stop;
mod vring;

use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ironring_common::error::{Incompatible, OsError};
use ironring_common::features::Negotiated;
use ironring_common::shm::guest::GuestMemoryError;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use vhost::vhost_user::Error as VhostError;
use vhost_user_backend::{Error as DaemonError, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

pub use self::control::RingError;
pub use self::mistakes::Mistake;
pub(crate) use self::ports::{Ports, check_threads};
pub use self::stop::StopToken;

use self::adapter::Adapter;
use self::device::Device;
use self::figures::Figures;
use self::life::Life;
use self::listen::{Endpoint, handoff};
use self::mistakes::Watch;
use self::ports::AnyPort;
use self::relay::{Filter, NoFilter, Relay};
use self::stop::Breaker;
use crate::config::Settings;
use crate::port::PortError;
use crate::sandbox::{Role, SandboxError};
use crate::stats::{DeviceStats, Snapshot};
use crate::vring::hook::{Hook, NoHook};
use crate::worker::{ControlError, Workers};

/// How a session conducts itself. One value serves all connections.
pub trait Conduct {
    /// What stands at the rings.
    type Hook: Hook + Send + 'static;
    /// What stands on the socket.
    type Filter: Filter + 'static;

    /// The hook for one worker of one connection.
    fn hook(&self) -> Self::Hook;

    /// The filter for one connection; `None` if messages need not pass through one.
    fn filter(&self) -> Option<Self::Filter>;
}

/// Nothing stands anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Honest;

impl Conduct for Honest {
    type Hook = NoHook;
    type Filter = NoFilter;

    fn hook(&self) -> NoHook {
        NoHook
    }

    fn filter(&self) -> Option<NoFilter> {
        None
    }
}

/// What one connection came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// The features that were in force at the end.
    pub negotiated: Option<Negotiated>,
    /// The counters at the end.
    pub stats: Snapshot,
}

/// Why a session ended before its front-end left.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The front-end's features cannot be served.
    #[error(transparent)]
    Features(#[from] Incompatible),
    /// The front-end's memory cannot be used.
    #[error(transparent)]
    Memory(#[from] GuestMemoryError),
    /// The memory comes in too many pieces.
    #[error("the front-end shares {regions} memory regions, at most {max} are served; merge them")]
    TooManyRegions {
        /// What was shared.
        regions: usize,
        /// What is served.
        max: usize,
    },
    /// The memory is larger than any guest's.
    #[error("the front-end shares {bytes} bytes of memory, at most {max} are served; share only what rings need")]
    TooMuchMemory {
        /// What was shared.
        bytes: u64,
        /// What is served.
        max: u64,
    },
    /// The front-end's wish for a ring is refused.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The worker refused.
    #[error(transparent)]
    Worker(#[from] ControlError),
    /// The front-end is set up for something else.
    #[error(transparent)]
    Mistake(#[from] Mistake),
    /// The front-end broke the rules of the protocol.
    #[error("the front-end broke the vhost-user protocol: {0}")]
    Protocol(String),
    /// A bug of ours or of the framework's.
    #[error("the session panicked; this is a bug, please report it")]
    Panicked,
    /// The port of this connection cannot be opened.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A thread of the session cannot enter the sandbox.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// The operating system refused.
    #[error(transparent)]
    Os(#[from] OsError),
}

impl SessionError {
    /// The reason in a word, for logs.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Features(_) => "features",
            Self::Memory(_) | Self::TooManyRegions { .. } | Self::TooMuchMemory { .. } => "memory",
            Self::Ring(_) => "ring",
            Self::Worker(_) => "worker",
            Self::Mistake(mistake) => mistake.reason(),
            Self::Protocol(_) => "protocol",
            Self::Panicked => "panic",
            Self::Port(_) => "port",
            Self::Sandbox(_) => "sandbox",
            Self::Os(_) => "system",
        }
    }
}

/// Why serving ended before anybody asked for it.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port cannot be opened.
    #[error(transparent)]
    Port(#[from] PortError),
    /// The operating system refused.
    #[error(transparent)]
    Os(#[from] OsError),
    /// The one session that was to be served failed.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Serves the front-ends that connect to `listener`, one after another, until `stop` is stopped or, with
/// [`Settings::once`], the first of them has left. How many were served.
///
/// # Errors
/// [`ServeError`] if this side cannot go on; with [`Settings::once`] also if the session failed.
pub fn serve(listener: UnixListener, settings: &Settings, stop: &StopToken) -> Result<u64, ServeError> {
    serve_endpoint(&listener.into(), settings, &Honest, stop)
}

/// Serves the front-end at the other end of `stream` until it leaves or `stop` is stopped.
///
/// # Errors
/// [`SessionError`].
pub fn serve_connection(stream: UnixStream, settings: &Settings, stop: &StopToken) -> Result<Report, SessionError> {
    let ports = Ports::open(settings)?.next()?;
    let opening = Opening { settings, conduct: &Honest, stop, accepted: AtomicBool::new(true), life: Life::default() };
    opening.over_relay(|| Ok(stream), NoFilter, ports)
}

/// As [`serve`], from any endpoint and with any conduct. A connected endpoint is served once.
///
/// # Errors
/// As [`serve`].
pub fn serve_endpoint<C: Conduct>(
    endpoint: &Endpoint,
    settings: &Settings,
    conduct: &C,
    stop: &StopToken,
) -> Result<u64, ServeError> {
    serve_ports(endpoint, Ports::open(settings)?, settings, conduct, stop)
}

/// As [`serve_endpoint`], with ports that were opened before there was an endpoint.
pub(crate) fn serve_ports<C: Conduct>(
    endpoint: &Endpoint,
    ports: Ports,
    settings: &Settings,
    conduct: &C,
    stop: &StopToken,
) -> Result<u64, ServeError> {
    let opening = Opening { settings, conduct, stop, accepted: AtomicBool::new(false), life: Life::default() };
    let listener = match endpoint {
        Endpoint::Listening(listening) => &listening.listener,
        Endpoint::Connected(stream) => {
            let stream = stream.try_clone().map_err(|e| OsError::new("copy a socket", e))?;
            let filter = conduct.filter();
            let ended = contained(|| match filter {
                Some(filter) => opening.over_relay(|| Ok(stream), filter, ports.next()?),
                None => opening.over_relay(|| Ok(stream), NoFilter, ports.next()?),
            });
            return Ok(opening.life.conclude(ended, stop).map(|()| 1)?);
        }
        Endpoint::Calling(path) => return caller::serve(path, &opening, ports),
    };
    let mut served = 0u64;
    while await_front_end(listener, stop)? {
        let ended = contained(|| opening.accept(listener, ports.next()));
        let ended = match ended {
            // The front-end waits still. Shortages pass, and so does what it may have done itself.
            Err(SessionError::Os(error)) if !opening.has_accepted() && passes(&error) => {
                tracing::warn!("no front-end can be served now: {error}; trying again every {} ms", PAUSE.as_millis());
                pause(stop, PAUSE)?;
                continue;
            }
            // What cannot be accepted cannot be got rid of either.
            Err(SessionError::Os(error)) if !opening.has_accepted() => return Err(error.into()),
            ended => opening.life.conclude(ended, stop),
        };
        served = served.saturating_add(1);
        if settings.once {
            return Ok(ended.map(|()| served)?);
        }
    }
    Ok(served)
}

/// What it takes to open a session.
struct Opening<'a, C> {
    settings: &'a Settings,
    conduct: &'a C,
    stop: &'a StopToken,
    /// Whether the front-end was taken out of the queue of the listener. One that was not is found there again.
    accepted: AtomicBool,
    /// What is said about the sessions.
    life: Life,
}

impl<C: Conduct> Opening<'_, C> {
    /// Whether the front-end was taken out of the queue. It was if this is asked after its session.
    fn has_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Serves the front-end that waits at `listener`.
    fn accept(&self, listener: &UnixListener, ports: Result<Vec<AnyPort>, PortError>) -> Result<Report, SessionError> {
        self.accepted.store(false, Ordering::Relaxed);
        let taken = &self.accepted;
        let accept = || {
            let accepted = listener.accept().map_err(|e| OsError::new("accept a front-end", e))?;
            taken.store(true, Ordering::Relaxed);
            Ok::<_, OsError>(accepted)
        };
        let ports = match ports {
            Ok(ports) => ports,
            Err(error) => {
                // Turned away: else it would be found waiting again and again.
                drop(accept()?);
                return Err(error.into());
            }
        };
        let connect = || Ok(accept()?.0);
        match self.conduct.filter() {
            Some(filter) => self.over_relay(connect, filter, ports),
            None => self.over_relay(connect, NoFilter, ports),
        }
    }

    /// Serves the front-end that `connect` gives, through a relay. It is asked for last: everything else that can be
    /// short is had by then.
    ///
    /// The session has a thread of its own, which can do less than this one.
    fn over_relay<F: Filter + 'static>(
        &self,
        connect: impl FnOnce() -> Result<UnixStream, OsError> + Send,
        filter: F,
        ports: Vec<AnyPort>,
    ) -> Result<Report, SessionError> {
        let (listener, ours) = handoff()?;
        let sandbox = &self.settings.sandbox;
        let (settings, stop, life) = (self.settings, self.stop, &self.life);
        let workers = ports.into_iter().map(|port| (port, self.conduct.hook())).collect();
        let session = Session { settings, stop, life, listener, workers };
        std::thread::scope(|scope| {
            let serve = || {
                sandbox.enter(Role::Session)?;
                let watch = Watch::new(settings, life.noted());
                let adapter = Adapter::behind(filter, watch, life.heard());
                session.serve(|| Relay::start(connect()?, ours, adapter, sandbox))
            };
            let thread = std::thread::Builder::new().name("session".to_owned()).spawn_scoped(scope, serve);
            let thread = thread.map_err(|e| OsError::new("start a session thread", e))?;
            // A panic said where it happened.
            thread.join().unwrap_or(Err(SessionError::Panicked))
        })
    }
}

/// Everything of a session but the front-end.
struct Session<'a, H> {
    settings: &'a Settings,
    stop: &'a StopToken,
    life: &'a Life,
    listener: UnixListener,
    /// What each worker has.
    workers: Vec<(AnyPort, H)>,
}

impl<H: Hook + Send + 'static> Session<'_, H> {
    /// Serves what comes through a relay, whose other end waits at the listener, from the first message to the end.
    fn serve(self, relay: impl FnOnce() -> Result<Relay, OsError>) -> Result<Report, SessionError> {
        let Self { settings, stop, life, listener, workers } = self;
        let stats = DeviceStats::new(workers.len(), settings.pairs.into());
        let link = workers.first().and_then(|(port, _)| port.link());
        let workers = workers.into_iter().zip(stats.workers());
        let workers = workers.map(|((port, hook), stats)| port.serve(settings, hook, Arc::clone(stats)));
        let workers = Workers::new(workers.collect::<Result<_, _>>()?, settings.pairs.into());
        let workers = WorkersGuard(workers);
        let breaker = Arc::new(Breaker::default());
        let device = Arc::new(Device::new(settings, workers.0.clone(), Arc::clone(&breaker), link));
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let mut daemon =
            vring::with_device(&device, || VhostUserDaemon::new("vhost-user".to_owned(), Arc::clone(&device), memory))
                .map_err(set_up)?;
        daemon.start(&mut listener.into()).map_err(set_up)?;
        let relay = relay()?;
        breaker.connect(daemon.shutdown_handle());
        stop.watch(&breaker);
        let figures = Figures::start(settings, life.begin(), life.heard(), &stats);
        let ended = daemon.wait();
        let negotiated = device.negotiated();
        // The workers before the mappings, and both before the next front-end.
        let stopped = workers.0.shutdown();
        drop(daemon);
        // The session's end of the socket is closed, so the relay ends.
        let relayed = relay.join();
        // The last figures, now that nothing is counted any more.
        drop(figures);
        device.take_error().map_or_else(|| mistakes::explain(ended, life.noted(), life.heard()), Err)?;
        stopped?;
        relayed?;
        Ok(Report { negotiated, stats: stats.snapshot() })
    }
}

/// Ends the workers whatever happens to the session.
struct WorkersGuard(Workers);

impl Drop for WorkersGuard {
    fn drop(&mut self) {
        // A second time this does nothing; the first time it was reported.
        let _ = self.0.shutdown();
    }
}

/// Runs a session; a panic in it ends it, and nothing else.
fn contained(session: impl FnOnce() -> Result<Report, SessionError>) -> Result<Report, SessionError> {
    // What the session shared with the rest is a socket, a stop token and the list of ports, all whole at any moment.
    catch_unwind(AssertUnwindSafe(session)).unwrap_or(Err(SessionError::Panicked))
}

/// Waits until a front-end has connected; `false` if `stop` came first.
fn await_front_end(listener: &UnixListener, stop: &StopToken) -> Result<bool, OsError> {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN), PollFd::new(listener, PollFlags::IN)];
        match rustix::event::poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            Err(e) => return Err(OsError::new("wait for a front-end", e)),
            Ok(_) => {}
        }
        let [stopped, connected] = fds.map(|fd| !fd.revents().is_empty());
        if stopped || connected {
            return Ok(!stopped);
        }
    }
}

/// Whether what stood in the way of a front-end may be gone in a moment: a shortage of descriptors, memory, threads or watches of
/// `epoll`, a connection that was given up before it was accepted, or that somebody else took up.
fn passes(error: &OsError) -> bool {
    let shortages = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS, Errno::AGAIN, Errno::NOSPC];
    let given_up = [Errno::CONNABORTED, Errno::CONNREFUSED];
    Errno::from_io_error(&error.source).is_some_and(|errno| shortages.contains(&errno) || given_up.contains(&errno))
}

/// Waits for so long, or for `stop`.
fn pause(stop: &StopToken, time: Duration) -> Result<(), OsError> {
    let timeout = Timespec::try_from(time).ok();
    match rustix::event::poll(&mut [PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)], timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(OsError::new("wait for a front-end", e)),
    }
}

/// The framework could not begin.
fn set_up(error: DaemonError) -> SessionError {
    match error {
        DaemonError::StartDaemon(source) => OsError::new("start the session thread", source).into(),
        DaemonError::CreateBackendListener(VhostError::SocketError(source)) => {
            OsError::new("accept a front-end", source).into()
        }
        other => OsError::new("set up a session", std::io::Error::other(other.to_string())).into(),
    }
}

/// How long to wait for a shortage to pass.
const PAUSE: Duration = Duration::from_millis(100);
