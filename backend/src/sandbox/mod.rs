//! What the daemon gives up before it serves anybody.
//!
//! # Theory of operation
//!
//! A front-end and its guest may send and write what they like. Should they ever find a way to make this process do what
//! they want, there is to be little that it can do. So everything that needs rights is done first: files and interfaces
//! are opened, the socket is made. Then, in this order and for good:
//!
//! 1. The process cannot be traced or dumped by others of its user, and `exec` gives no privileges
//!    (`PR_SET_DUMPABLE`, `PR_SET_NO_NEW_PRIVS`).
//! 2. All capabilities are dropped, from every set that a thread may change.
//! 3. Landlock, where the kernel has it: no file can be opened, made or run, and none removed but in and below the
//!    directory of the socket; no TCP port can be bound or connected to, no abstract socket and no process outside can be
//!    reached.
//! 4. A seccomp filter for each thread (`calls.rs` has the lists). No thread can open a file, run a program, make a socket
//!    of the network, or trace; only the thread that awaits connections can make a Unix socket, and only one that calls
//!    its front-end can connect that to a path.
//!
//! Threads share memory. What has taken over one of them may in time make another one work for it, so what holds for
//! certain is what holds for all threads; that each can do less is one more obstacle.
//!
//! What is not on a thread's list does not exist for it: it fails with `ENOSYS`, as on a kernel that is older than the
//! call. So a C library that is newer than this list falls back to older calls instead of failing. [`Refusal::End`] ends
//! the process instead, but for the few calls that the C library is known to try and to do without: what made the call is
//! then most likely no code of ours.
//!
//! A thread gets the filter of the thread that starts it and adds its own, which is stricter. Nothing takes a filter
//! away. A library that is used within another program does none of this: [`Sandbox::none`] is the default.

mod calls;
mod privileges;

use std::path::Path;
use std::sync::Arc;

use ironring_common::error::OsError;
use landlock::{
    ABI, Access, AccessFs, AccessNet, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError,
    RulesetStatus, Scope,
};
use rustix::process::DumpableBehavior;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Filters for the threads of a process, or none. Clones are the same sandbox.
#[derive(Clone, Debug, Default)]
pub struct Sandbox(Option<Arc<Filters>>);

/// What a thread does, and with that what it may ask the kernel for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Awaits front-ends, and starts their sessions.
    Main,
    /// Calls a front-end at a path, and starts its sessions.
    Caller,
    /// Ends the daemon.
    Signals,
    /// Takes the requests of one front-end, and starts the threads below.
    Session,
    /// Passes messages on.
    Relay,
    /// Serves rings, and moves frames between them and the port.
    DataPlane,
    /// Writes the counters now and then.
    Figures,
}

/// What becomes of a system call that a thread has no use for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Refusal {
    /// It fails with `ENOSYS`.
    #[default]
    Fail,
    /// It ends the process, by SIGSYS.
    End,
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// seccomp filters are made for a processor.
    #[error("there is no sandbox for {arch}; add --no-sandbox if you can do without")]
    Architecture {
        /// This processor.
        arch: &'static str,
    },
    /// The kernel takes no filter.
    #[error("the kernel takes no seccomp filter: {why}; add --no-sandbox if you can do without")]
    Seccomp {
        /// Its word.
        why: String,
    },
    /// The directory of the socket cannot be looked at.
    #[error("the directory of the socket cannot be opened: {why}; choose another --socket-path, or add --no-sandbox")]
    Directory {
        /// The system's word.
        why: String,
    },
    /// The kernel has Landlock, and does not do as it is told.
    #[error("Landlock fails: {0}; add --no-sandbox if you can do without")]
    Landlock(#[from] RulesetError),
    /// The operating system refused.
    #[error("{0}; add --no-sandbox if you can do without a sandbox")]
    Os(#[from] OsError),
}

#[derive(Debug)]
struct Filters {
    /// By role, in the order of [`Role::ALL`].
    programs: [BpfProgram; Role::ALL.len()],
    /// Fails what the C library does without, whatever becomes of other calls.
    dispensable: BpfProgram,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 7] =
        [Self::Main, Self::Caller, Self::Signals, Self::Session, Self::Relay, Self::DataPlane, Self::Figures];

    const fn index(self) -> usize {
        match self {
            Self::Main => 0,
            Self::Caller => 1,
            Self::Signals => 2,
            Self::Session => 3,
            Self::Relay => 4,
            Self::DataPlane => 5,
            Self::Figures => 6,
        }
    }
}

impl Sandbox {
    /// No sandbox: threads keep what they have.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// A sandbox that nobody is in yet.
    ///
    /// # Errors
    /// [`SandboxError::Architecture`].
    pub fn new(refusal: Refusal) -> Result<Self, SandboxError> {
        let mut programs = [const { BpfProgram::new() }; Role::ALL.len()];
        for (program, role) in programs.iter_mut().zip(Role::ALL) {
            let mut rules = calls::of(role)?;
            // Of two filters the stricter one counts: here they pass, so that the other one, which every thread has too,
            // fails them.
            if refusal == Refusal::End {
                rules.extend(calls::dispensable()?);
            }
            *program = compile(rules, refusal.action(), SeccompAction::Allow)?;
        }
        let dispensable = compile(calls::dispensable()?, SeccompAction::Allow, SeccompAction::Errno(calls::ENOSYS))?;
        Ok(Self(Some(Arc::new(Filters { programs, dispensable }))))
    }

    /// Takes from this thread, and from all that it starts from now on, everything but the system calls, which
    /// [`enter`](Self::enter) takes. Of files, those in and below `directory` may still be removed. How much of Landlock this
    /// kernel has.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub fn enclose(&self, directory: Option<&Path>) -> Result<RulesetStatus, SandboxError> {
        if self.0.is_none() {
            return Ok(RulesetStatus::NotEnforced);
        }
        // While it can be opened: there may be no right to that without capabilities.
        let directory =
            directory.map(PathFd::new).transpose().map_err(|e| SandboxError::Directory { why: e.to_string() })?;
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|e| OsError::new("make the process undumpable", e))?;
        rustix::thread::set_no_new_privs(true).map_err(|e| OsError::new("give up new privileges", e))?;
        privileges::drop_all()?;
        restrict_files(directory)
    }

    /// Leaves this thread, and those that it starts from now on, the system calls that its role needs.
    ///
    /// # Errors
    /// [`SandboxError::Seccomp`].
    pub fn enter(&self, role: Role) -> Result<(), SandboxError> {
        let Some(filters) = &self.0 else { return Ok(()) };
        // First, because a role may have no use for applying filters.
        apply(&filters.dispensable)?;
        filters.programs.get(role.index()).map_or(Ok(()), apply)
    }
}

impl Refusal {
    const fn action(self) -> SeccompAction {
        match self {
            Self::Fail => SeccompAction::Errno(calls::ENOSYS),
            Self::End => SeccompAction::KillProcess,
        }
    }
}

fn compile(rules: calls::Rules, otherwise: SeccompAction, matched: SeccompAction) -> Result<BpfProgram, SandboxError> {
    let arch = std::env::consts::ARCH;
    let unsupported = |_| SandboxError::Architecture { arch };
    let filter = SeccompFilter::new(rules, otherwise, matched, arch.try_into().map_err(unsupported)?);
    filter.and_then(BpfProgram::try_from).map_err(|e| SandboxError::Seccomp { why: e.to_string() })
}

fn apply(program: &BpfProgram) -> Result<(), SandboxError> {
    seccompiler::apply_filter(program).map_err(|e| SandboxError::Seccomp { why: e.to_string() })
}

/// Landlock, as far as this kernel has it.
fn restrict_files(directory: Option<PathFd>) -> Result<RulesetStatus, SandboxError> {
    let mut ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::from_all(LANDLOCK))?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?;
    if let Some(directory) = directory {
        ruleset = ruleset.add_rule(PathBeneath::new(directory, AccessFs::RemoveFile))?;
    }
    Ok(ruleset.restrict_self()?.ruleset)
}

/// What is asked for: as much as was tried. A kernel that has less gives what it has.
const LANDLOCK: ABI = ABI::V7;

#[cfg(test)]
mod tests;
