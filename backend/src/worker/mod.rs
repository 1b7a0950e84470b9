//! The thread that serves rings.
//!
//! # Theory of operation
//!
//! A worker owns its queue pairs, its ports and its own copy of the memory table; nobody else touches them, so there is
//! no lock in its path. The pairs of a device may be spread over several workers ([`Workers`]). It makes pass after pass ([`WorkerCore::step`]). Between passes it looks at one flag: when it is
//! raised, commands of the control plane are taken from a channel, carried out and acknowledged. Between passes nothing
//! is half done either: every chain that was taken is completed and published. So a stop is exact.
//!
//! When a pass finds nothing to do, the [`WaitPolicy`] decides. To wait, the worker asks all drivers for kicks, makes one
//! more pass (a chain that was added before the driver could see the request is found by it), and only then sleeps in
//! epoll on kicks, commands and the port, with a watchdog of 100 ms.
//!
//! A driver can make its own rings useless and nothing else: a fault latches one ring, a dead kick is no longer watched,
//! a full call counter is not written to. The one place where a driver can hold up the thread is a call whose eventfd it
//! fills within the instant between our look and our write; whoever waits for an acknowledgement then drains it, and
//! has a call that was due made again ([`command`]).

pub mod command;
pub mod core;
mod group;
mod layout;
mod ring;
mod wait;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use ironring_common::error::OsError;

pub use self::command::{ControlError, RingSetup, WorkerHandle};
pub use self::core::{Progress, WorkerCore};
pub use self::group::Workers;
pub(crate) use self::ring::SHARE_MEMORY;
pub use self::wait::WaitPolicy;

use self::command::{Command, Mailbox, Outcome, Thread};
use self::wait::{KICKLESS, WATCHDOG, Waiter, Wake};
use crate::port::Port;
use crate::sandbox::{Role, Sandbox};
use crate::stats::Stats;
use crate::vring::hook::Hook;

impl WorkerHandle {
    /// Starts a thread for `pairs` queue pairs on one port, in `sandbox`.
    ///
    /// # Errors
    /// [`OsError`] if there is no thread or no descriptor to be had.
    pub fn spawn<P, H>(
        pairs: usize,
        port: P,
        hook: H,
        wait: WaitPolicy,
        stats: Arc<Stats>,
        sandbox: &Sandbox,
    ) -> Result<Self, OsError>
    where
        P: Port + 'static,
        H: Hook + Send + 'static,
    {
        Self::spawn_core(WorkerCore::new(pairs, port, hook, stats), wait, WATCHDOG, sandbox.clone())
    }

    /// As [`spawn`](Self::spawn), for as many queue pairs as `stats` counts, with one port for all of them or one for each.
    ///
    /// # Errors
    /// As there.
    pub fn spawn_with_ports<P, H>(
        ports: impl IntoIterator<Item = P>,
        hook: H,
        wait: WaitPolicy,
        stats: Arc<Stats>,
        sandbox: &Sandbox,
    ) -> Result<Self, OsError>
    where
        P: Port + 'static,
        H: Hook + Send + 'static,
    {
        Self::spawn_core(WorkerCore::with_ports(stats.pairs(), ports, hook, stats), wait, WATCHDOG, sandbox.clone())
    }

    /// Starts a thread for a data plane that sleeps at most `watchdog` at a time.
    fn spawn_core<P, H>(
        core: WorkerCore<P, H>,
        wait: WaitPolicy,
        watchdog: Duration,
        sandbox: Sandbox,
    ) -> Result<Self, OsError>
    where
        P: Port + 'static,
        H: Hook + Send + 'static,
    {
        let (sender, signal, mailbox) = Mailbox::new()?;
        let waiter = Waiter::new(mailbox.bell().as_fd(), core.ports().filter_map(Port::readable_fd))?;
        let worker = Worker { core, mailbox, waiter, wait, watchdog };
        let (running, ended) = channel();
        let handle = std::thread::Builder::new()
            .name("data-plane".to_owned())
            .spawn(move || {
                // Dropped after all that the worker owns.
                let _running = running;
                match sandbox.enter(Role::DataPlane) {
                    Ok(()) => worker.run(),
                    // Whoever gives it a command learns that it is gone.
                    Err(error) => tracing::error!("{error}"),
                }
            })
            .map_err(|e| OsError::new("start a worker thread", e))?;
        Ok(Self::new(sender, signal, Thread { handle, ended }))
    }
}

/// What the thread owns.
struct Worker<P, H> {
    core: WorkerCore<P, H>,
    mailbox: Mailbox,
    waiter: Waiter,
    wait: WaitPolicy,
    watchdog: Duration,
}

impl<P: Port, H: Hook> Worker<P, H> {
    fn run(mut self) {
        let mut idle_since = None;
        loop {
            if self.mailbox.is_raised() && self.obey() == Next::End {
                return;
            }
            if !self.step().is_idle() {
                idle_since = None;
            } else if self.may_sleep(&mut idle_since) {
                self.sleep();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    /// One pass, or as much of it as there was time for before the next command.
    #[inline]
    fn step(&mut self) -> Progress {
        let Self { core, mailbox, .. } = self;
        core.step_unless(|| mailbox.is_raised())
    }

    /// Whether the policy lets the worker sleep, given when it ran out of work.
    fn may_sleep(&self, idle_since: &mut Option<Instant>) -> bool {
        match self.wait {
            WaitPolicy::Interrupt => true,
            WaitPolicy::Poll => !self.core.any_running(),
            WaitPolicy::Adaptive { spin } => {
                idle_since.get_or_insert_with(Instant::now).elapsed() >= spin || !self.core.any_running()
            }
        }
    }

    /// Waits for a kick, a command or the port, unless there is work after all.
    fn sleep(&mut self) {
        self.core.arm_kicks();
        if self.step().is_idle() {
            let timeout = if self.core.any_kickless() { KICKLESS } else { self.watchdog };
            let Self { core, waiter, mailbox, .. } = self;
            let waited = waiter.wait(timeout, |wake| match wake {
                Wake::Command => mailbox.answer(),
                Wake::Port => {}
                Wake::Kick { ring, dead } => {
                    // The last kick of a doorbell that hung up counts.
                    if !core.take_kick(ring) || dead {
                        drop_kick(core, waiter, ring);
                    }
                }
            });
            if let Err(error) = waited {
                // Own descriptors only: a bug of ours, or the system is out of memory. Polling still works.
                tracing::error!("{error}; the worker polls from now on");
                self.wait = WaitPolicy::Poll;
            }
        }
        self.core.suppress_kicks();
    }

    /// Carries out all commands that wait.
    #[cold]
    fn obey(&mut self) -> Next {
        self.mailbox.lower();
        while let Some(envelope) = self.mailbox.take() {
            // Before each, as to make a signal again is a call as well, and may take as long.
            if self.mailbox.is_given_up() {
                return Next::End;
            }
            let end = matches!(envelope.command, Command::Shutdown);
            let outcome = self.carry_out(envelope.command);
            // Whoever asked may have given up.
            let _ = envelope.reply.send(outcome);
            if end {
                return Next::End;
            }
        }
        Next::GoOn
    }

    fn carry_out(&mut self, command: Command) -> Outcome {
        match command {
            Command::Start(ring, setup) => {
                self.core.start(ring, setup)?;
                self.watch_kick(ring);
            }
            Command::Stop(ring) => {
                self.forget_kick(ring);
                return self.core.stop(ring);
            }
            Command::Kick(ring, kick) => {
                self.forget_kick(ring);
                self.core.set_kick(ring, kick)?;
                self.watch_kick(ring);
            }
            Command::Enable(ring, enabled) => self.core.set_enabled(ring, enabled)?,
            Command::Call(ring, call) => self.core.set_call(ring, call)?,
            Command::Err(ring, err) => self.core.set_err(ring, err)?,
            Command::Signal(ring, signals) => self.core.signal(ring, signals)?,
            Command::Features(features) => self.core.set_features(features),
            Command::Memory(memory) => self.core.set_memory(memory),
            Command::Shutdown => self.core.stop_all(),
        }
        Ok(0)
    }

    fn watch_kick(&mut self, ring: usize) {
        if let Some(kick) = self.core.kick(ring)
            && let Err(error) = self.waiter.watch(ring, kick)
        {
            tracing::warn!(ring, "{error}: the kick of this ring is no eventfd; it is looked at every millisecond");
            drop_kick(&mut self.core, &self.waiter, ring);
        }
    }

    fn forget_kick(&self, ring: usize) {
        if let Some(kick) = self.core.kick(ring) {
            self.waiter.forget(kick);
        }
    }
}

/// Goes on without the kick of a ring.
fn drop_kick<P: Port, H: Hook>(core: &mut WorkerCore<P, H>, waiter: &Waiter, ring: usize) {
    if let Some(kick) = core.kick(ring) {
        waiter.forget(kick);
    }
    // A ring that does not run has no kick to drop.
    let _ = core.set_kick(ring, None);
}

/// Whether the worker goes on after its commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    GoOn,
    End,
}

#[cfg(test)]
mod tests;
