//! The doorbells of one queue.
//!
//! The device holds both eventfds too. It can make a write to the kick block, so kicks are looked after by a
//! [`Supervisor`]; a device that has tried this is broken. Without kicks there is no supervisor, and no thread of its.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use ironring_common::doorbell::{Doorbell, GuardedBell, Rung, Supervisor};
use ironring_common::error::OsError;

use crate::queue::violation::{Latch, Violation, ViolationKind};

/// Both doorbells of a queue.
#[derive(Debug)]
pub(super) struct Bells {
    pub(super) kick: Kick,
    pub(super) call: Doorbell,
}

/// Where the device is kicked, if it is.
#[derive(Debug)]
pub(super) struct Kick {
    bell: Bell,
    latch: Arc<Latch>,
    /// Whether something was published since the device was kicked last.
    unkicked: bool,
}

#[derive(Debug)]
enum Bell {
    Guarded(GuardedBell),
    /// The device must have one, but it is never rung.
    Silent(Doorbell),
}

/// What became of the question whether to kick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kicked {
    Yes,
    /// The device did not want it, or kicks are turned off.
    Suppressed,
    /// It has a kick waiting that it did not take.
    Pending,
}

impl Bells {
    /// New doorbells; the kick is rung only if there is a supervisor for it.
    pub(super) fn new(supervisor: Option<&Supervisor>, latch: &Arc<Latch>) -> Result<Self, OsError> {
        let bell = Doorbell::new()?;
        let bell = match supervisor {
            Some(supervisor) => Bell::Guarded(supervisor.guard(bell)),
            None => Bell::Silent(bell),
        };
        Ok(Self { kick: Kick { bell, latch: Arc::clone(latch), unkicked: false }, call: Doorbell::new()? })
    }
}

impl Kick {
    /// Kicks for something that was published, if the device `wants` it.
    #[inline]
    pub(super) fn notify(&mut self, wants: impl FnOnce() -> bool) -> Kicked {
        match &self.bell {
            Bell::Guarded(bell) if wants() => {
                let rung = bell.ring();
                self.unkicked = false;
                self.judge(rung)
            }
            _ => {
                self.unkicked = true;
                Kicked::Suppressed
            }
        }
    }

    /// Kicks whether the device wants it or not, if it was shown something since the last kick.
    pub(super) fn nudge(&mut self) -> Kicked {
        match &self.bell {
            Bell::Guarded(bell) if std::mem::take(&mut self.unkicked) => {
                let rung = bell.ring();
                self.judge(rung)
            }
            _ => Kicked::Suppressed,
        }
    }

    /// The next [`nudge`](Self::nudge) kicks, if kicks are not turned off.
    pub(super) const fn insist(&mut self) {
        self.unkicked = true;
    }

    fn judge(&self, rung: Result<Rung, OsError>) -> Kicked {
        match rung {
            Ok(Rung::Yes) => Kicked::Yes,
            Ok(Rung::Stalled) => {
                self.latch.trip(Violation::of_device(ViolationKind::KickBlocked));
                Kicked::Pending
            }
            // An eventfd of our own making cannot fail otherwise.
            Ok(Rung::Saturated) | Err(_) => Kicked::Pending,
        }
    }
}

impl AsFd for Kick {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.bell {
            Bell::Guarded(bell) => bell.as_fd(),
            Bell::Silent(bell) => bell.as_fd(),
        }
    }
}
