//! Which system calls each thread makes, and with which arguments where these matter.
//!
//! The lists are nested: a thread that starts another one has to be able to do what that one does, because filters only
//! ever get stricter. What is needed by every thread comes first: memory, locks, the log, the thread's own beginning and
//! end. No memory can become executable, and no process can be made, only threads.

use std::collections::BTreeMap;
use std::ffi::c_long;

use libc::{
    AF_UNIX, CLONE_THREAD, F_ADD_SEALS, F_DUPFD_CLOEXEC, F_GET_SEALS, F_GETFD, PR_SET_NAME, PR_SET_NO_NEW_PRIVS,
    PROT_EXEC, SECCOMP_SET_MODE_FILTER, SIGBUS, SIGSEGV, SOCK_STREAM, SOL_SOCKET,
};
use seccompiler::{SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule};

use super::{Role, SandboxError};

/// As seccompiler has them: for each call, the argument lists with which it may be made; none for any.
pub(super) type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// One call, and what its arguments must be like: all of these, or nothing in particular.
struct Call(c_long, &'static [Argument]);

/// What one argument must be like.
enum Argument {
    /// Argument `.0` is `.1`.
    Is(u8, u32),
    /// Of argument `.0`, the bits `.1` are `.2`.
    Bits(u8, u32, u32),
}

use Argument::{Bits, Is};

/// The rules for a thread.
pub(super) fn of(role: Role) -> Result<Rules, SandboxError> {
    let lists: &[&[Call]] = match role {
        Role::Figures => &[EVERY],
        Role::DataPlane => &[EVERY, DATA_PLANE, older::WAITS],
        Role::Relay => &[EVERY, RELAY, older::WAITS],
        Role::Session => &[EVERY, DATA_PLANE, RELAY, older::WAITS, START, SESSION],
        Role::Signals => &[EVERY, START, SIGNALS, older::REMOVALS],
        Role::Main => {
            &[EVERY, DATA_PLANE, RELAY, older::WAITS, START, SESSION, SIGNALS, older::REMOVALS, HANDOFF, OWN_NAMES]
        }
        Role::Caller => {
            &[EVERY, DATA_PLANE, RELAY, older::WAITS, START, SESSION, SIGNALS, older::REMOVALS, HANDOFF, ANY_NAME]
        }
    };
    rules(lists.iter().copied().flatten())
}

/// What the C library tries and does without.
pub(super) fn dispensable() -> Result<Rules, SandboxError> {
    rules(DISPENSABLE.iter().chain(older::DISPENSABLE))
}

fn rules<'a>(calls: impl IntoIterator<Item = &'a Call>) -> Result<Rules, SandboxError> {
    let refused = |e: seccompiler::BackendError| SandboxError::Seccomp { why: e.to_string() };
    let mut rules = Rules::new();
    for Call(number, arguments) in calls {
        let conditions: Result<Vec<_>, _> = arguments.iter().map(Argument::condition).collect();
        let conditions = conditions.map_err(refused)?;
        // A call that is on two lists may be made in either way; no rule at all stands for any.
        let known = rules.contains_key(number);
        let allowed = rules.entry(*number).or_default();
        if conditions.is_empty() {
            allowed.clear();
        } else if !known || !allowed.is_empty() {
            allowed.push(SeccompRule::new(conditions).map_err(refused)?);
        }
    }
    Ok(rules)
}

impl Argument {
    fn condition(&self) -> Result<SeccompCondition, seccompiler::BackendError> {
        let (at, operator, value) = match *self {
            Is(at, value) => (at, SeccompCmpOp::Eq, value),
            Bits(at, mask, value) => (at, SeccompCmpOp::MaskedEq(mask.into()), value),
        };
        SeccompCondition::new(at, SeccompCmpArgLen::Dword, operator, value.into())
    }
}

/// What every thread does.
const EVERY: &[Call] = &[
    // Memory, none of it executable.
    Call(libc::SYS_brk, &[]),
    Call(libc::SYS_mmap, &[Bits(2, number(PROT_EXEC), 0)]),
    Call(libc::SYS_mprotect, &[Bits(2, number(PROT_EXEC), 0)]),
    Call(libc::SYS_mremap, &[]),
    Call(libc::SYS_munmap, &[]),
    Call(libc::SYS_madvise, &[]),
    // Locks and channels.
    Call(libc::SYS_futex, &[]),
    Call(libc::SYS_sched_yield, &[]),
    // The log, the counters; eventfds, which wake other threads.
    Call(libc::SYS_write, &[]),
    Call(libc::SYS_close, &[]),
    // A build with assertions looks whether what it closes is open.
    Call(libc::SYS_fcntl, &[Is(1, number(F_GETFD))]),
    // Where the clock is not in user memory.
    Call(libc::SYS_clock_gettime, &[]),
    // Keys of hash tables.
    Call(libc::SYS_getrandom, &[]),
    // A thread's beginning and end.
    Call(libc::SYS_set_robust_list, &[]),
    Call(libc::SYS_rseq, &[]),
    Call(libc::SYS_sched_getaffinity, &[]),
    Call(libc::SYS_prctl, &[Is(0, number(PR_SET_NAME))]),
    Call(libc::SYS_gettid, &[]),
    Call(libc::SYS_rt_sigprocmask, &[]),
    Call(libc::SYS_rt_sigreturn, &[]),
    // The standard library's handler of faults gives them back to the kernel, which ends the process; else the fault
    // would come again for ever.
    Call(libc::SYS_rt_sigaction, &[Is(0, number(SIGSEGV))]),
    Call(libc::SYS_rt_sigaction, &[Is(0, number(SIGBUS))]),
    Call(libc::SYS_restart_syscall, &[]),
    Call(libc::SYS_sigaltstack, &[]),
    Call(libc::SYS_exit, &[]),
    Call(libc::SYS_exit_group, &[]),
];

/// What it takes to serve rings and a port that is open.
const DATA_PLANE: &[Call] = &[
    Call(libc::SYS_read, &[]),
    // Kicks, without waiting.
    Call(libc::SYS_preadv2, &[]),
    Call(libc::SYS_ppoll, &[]),
    Call(libc::SYS_epoll_pwait, &[]),
    Call(libc::SYS_epoll_ctl, &[]),
];

/// What it takes to pass messages on.
const RELAY: &[Call] = &[
    Call(libc::SYS_recvmsg, &[]),
    Call(libc::SYS_sendmsg, &[]),
    Call(libc::SYS_ppoll, &[]),
    Call(libc::SYS_shutdown, &[]),
];

/// What it takes to start a thread and to give it its filter.
const START: &[Call] = &[
    Call(libc::SYS_clone, &[Bits(0, number(CLONE_THREAD), number(CLONE_THREAD))]),
    Call(libc::SYS_prctl, &[Is(0, number(PR_SET_NO_NEW_PRIVS))]),
    Call(libc::SYS_seccomp, &[Is(0, SECCOMP_SET_MODE_FILTER), Is(1, 0)]),
];

/// What it takes to serve a front-end's requests.
const SESSION: &[Call] = &[
    Call(libc::SYS_accept4, &[]),
    // What a front-end sends as a channel of the backend's is looked at.
    Call(libc::SYS_getsockopt, &[Is(1, number(SOL_SOCKET))]),
    // Whether an interface is up.
    Call(libc::SYS_ioctl, &[Is(1, SIOCGIFFLAGS)]),
    Call(libc::SYS_fcntl, &[Is(1, number(F_DUPFD_CLOEXEC))]),
    Call(libc::SYS_fcntl, &[Is(1, number(F_GET_SEALS))]),
    Call(libc::SYS_fcntl, &[Is(1, number(F_ADD_SEALS))]),
    Call(libc::SYS_fstat, &[]),
    Call(libc::SYS_fstatfs, &[]),
    Call(libc::SYS_statx, &[]),
    Call(libc::SYS_eventfd2, &[]),
    Call(libc::SYS_epoll_create1, &[]),
];

/// What it takes to end the daemon.
const SIGNALS: &[Call] = &[
    // Ends connections and the wait for the next one.
    Call(libc::SYS_shutdown, &[]),
    Call(libc::SYS_ppoll, &[]),
    Call(libc::SYS_read, &[]),
    Call(libc::SYS_statx, &[]),
    Call(libc::SYS_unlinkat, &[]),
];

/// What it takes to hand a connection to a session. The sockets are of the Unix family and have names that the kernel
/// chooses: see `session/listen.rs`.
const HANDOFF: &[Call] = &[
    Call(libc::SYS_socket, &[Is(0, number(AF_UNIX)), Bits(1, SOCKET_TYPES, number(SOCK_STREAM))]),
    Call(libc::SYS_bind, &[Is(2, NO_NAME_BYTES)]),
    Call(libc::SYS_listen, &[]),
    Call(libc::SYS_getsockname, &[]),
];

/// Connections to names that the kernel chose. What the name is cannot be seen here, but how long it is: that leaves
/// paths of at most 6 bytes.
const OWN_NAMES: &[Call] = &[Call(libc::SYS_connect, &[Is(2, CHOSEN_NAME_BYTES)])];

/// Connections to any path, of whoever calls a front-end.
const ANY_NAME: &[Call] = &[Call(libc::SYS_connect, &[])];

/// What the C library tries and does without.
const DISPENSABLE: &[Call] = &[
    // Starts threads in a way that a filter cannot tell from starting a process; `clone` comes after it.
    Call(libc::SYS_clone3, &[]),
    // To count CPUs in /sys, where many threads allocate; `sched_getaffinity` comes after it.
    Call(libc::SYS_openat, &[]),
    // For names in the backtrace of a panic, if RUST_BACKTRACE asks for one.
    Call(libc::SYS_getcwd, &[]),
    Call(libc::SYS_readlinkat, &[]),
];

/// The older forms of calls above, which libraries make on processors that have them.
#[cfg(target_arch = "x86_64")]
mod older {
    use super::Call;

    pub(super) const WAITS: &[Call] = &[Call(libc::SYS_poll, &[]), Call(libc::SYS_epoll_wait, &[])];
    pub(super) const REMOVALS: &[Call] = &[Call(libc::SYS_unlink, &[])];
    pub(super) const DISPENSABLE: &[Call] = &[Call(libc::SYS_readlink, &[])];
}

#[cfg(not(target_arch = "x86_64"))]
mod older {
    use super::Call;

    pub(super) const WAITS: &[Call] = &[];
    pub(super) const REMOVALS: &[Call] = &[];
    pub(super) const DISPENSABLE: &[Call] = &[];
}

/// What a call fails with that is on no list.
pub(super) const ENOSYS: u32 = number(libc::ENOSYS);
/// `SIOCGIFFLAGS` of `linux/sockios.h`, which is the same on all processors.
const SIOCGIFFLAGS: u32 = 0x8913;
/// Bytes of an address that is a family and no name.
const NO_NAME_BYTES: u32 = 2;
/// Bytes of an address with a name that the kernel chose: a zero byte and five digits.
const CHOSEN_NAME_BYTES: u32 = 8;
/// The bits of a socket's type that are no flags.
const SOCKET_TYPES: u32 = 0xf;

/// The bits of a constant of the C library.
const fn number(constant: i32) -> u32 {
    constant.cast_unsigned()
}
