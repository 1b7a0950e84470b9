//! Each thread's limits, tried from within.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::mpsc::channel;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType};
use rustix::process::PidfdFlags;
use rustix::thread::CapabilitySet;

use super::*;

/// Runs `work` in a thread with the filter of this role.
fn within<T: Send>(role: Role, work: impl FnOnce() -> T + Send) -> T {
    let sandbox = Sandbox::new(Refusal::Fail).unwrap();
    let thread = || {
        sandbox.enter(role).unwrap();
        work()
    };
    std::thread::scope(|scope| scope.spawn(thread).join().unwrap())
}

fn errno(error: &std::io::Error) -> Option<Errno> {
    Errno::from_io_error(error)
}

/// What the kernel would do about a call, by the filter of a role: allow it or not. Only what seccompiler makes of rules
/// is understood: loads of words, comparisons, jumps, masks and returns.
fn allows(sandbox: &Sandbox, role: Role, call: i64, arguments: [u64; 6]) -> bool {
    let program = &sandbox.0.as_ref().unwrap().programs[role.index()];
    let number = u32::try_from(call).unwrap();
    // `struct seccomp_data`: number, architecture, instruction pointer, arguments.
    let mut data = vec![number, AUDIT_ARCH, 0, 0];
    data.extend(arguments.iter().flat_map(|argument| [*argument as u32, (*argument >> 32) as u32]));
    let (mut accumulator, mut at) = (0u32, 0usize);
    loop {
        let step = &program[at];
        at += 1;
        let jump = |holds: bool| usize::from(if holds { step.jt } else { step.jf });
        match step.code {
            0x20 => accumulator = data[step.k as usize / 4],
            0x54 => accumulator &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(accumulator == step.k),
            0x25 => at += jump(accumulator > step.k),
            0x35 => at += jump(accumulator >= step.k),
            0x06 => return step.k == 0x7fff_0000,
            code => panic!("instruction {code:#x}"),
        }
    }
}

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;

#[test]
fn arguments_are_looked_at() {
    let sandbox = Sandbox::new(Refusal::Fail).unwrap();
    let with = |at: usize, value: i64| {
        let mut arguments = [0; 6];
        arguments[at] = value.cast_unsigned();
        arguments
    };
    let unix_stream = [1, 1, 0, 0, 0, 0];
    let connect = |bytes| [3, 0, bytes, 0, 0, 0];
    let (starters, makers) = ([Role::Main, Role::Caller, Role::Session, Role::Signals], [Role::Main, Role::Caller]);
    // The call, its arguments, and who may make it so.
    let cases: &[(i64, [u64; 6], &[Role])] = &[
        (libc::SYS_mmap, with(2, 3), &Role::ALL),
        (libc::SYS_mmap, with(2, 4), &[]),
        (libc::SYS_mmap, with(2, 7), &[]),
        (libc::SYS_mprotect, with(2, 1), &Role::ALL),
        (libc::SYS_mprotect, with(2, 5), &[]),
        (libc::SYS_pkey_mprotect, with(2, 1), &[]),
        (libc::SYS_clone, with(0, 0x3d_0f00), &starters),
        (libc::SYS_clone, with(0, 0x4111), &[]),
        (libc::SYS_clone3, [0; 6], &[]),
        (libc::SYS_fcntl, with(1, libc::F_GETFD.into()), &Role::ALL),
        (libc::SYS_fcntl, with(1, libc::F_SETFL.into()), &[]),
        (libc::SYS_fcntl, with(1, libc::F_SETOWN.into()), &[]),
        (libc::SYS_fcntl, with(1, libc::F_DUPFD_CLOEXEC.into()), &[Role::Main, Role::Caller, Role::Session]),
        (libc::SYS_ioctl, with(1, 0x8913), &[Role::Main, Role::Caller, Role::Session]),
        (libc::SYS_ioctl, with(1, 0x8914), &[]),
        (libc::SYS_ioctl, with(1, 0x4004_54ca), &[]),
        (libc::SYS_prctl, with(0, libc::PR_SET_NAME.into()), &Role::ALL),
        (libc::SYS_prctl, with(0, libc::PR_SET_NO_NEW_PRIVS.into()), &starters),
        (libc::SYS_prctl, with(0, libc::PR_SET_DUMPABLE.into()), &[]),
        (libc::SYS_seccomp, [1, 0, 0, 0, 0, 0], &starters),
        (libc::SYS_seccomp, [1, 8, 0, 0, 0, 0], &[]),
        (libc::SYS_rt_sigaction, with(0, libc::SIGBUS.into()), &Role::ALL),
        (libc::SYS_rt_sigaction, with(0, libc::SIGTERM.into()), &[]),
        (libc::SYS_socket, unix_stream, &makers),
        (libc::SYS_socket, [2, 1, 0, 0, 0, 0], &[]),
        (libc::SYS_bind, connect(2), &makers),
        (libc::SYS_bind, connect(8), &[]),
        (libc::SYS_connect, connect(8), &makers),
        (libc::SYS_connect, connect(110), &[Role::Caller]),
        (libc::SYS_unlinkat, [0; 6], &[Role::Main, Role::Caller, Role::Signals]),
        (libc::SYS_accept4, [0; 6], &[Role::Main, Role::Caller, Role::Session]),
        (libc::SYS_recvmsg, [0; 6], &[Role::Main, Role::Caller, Role::Session, Role::Relay]),
    ];
    for (call, arguments, allowed) in cases {
        for role in Role::ALL {
            let found = allows(&sandbox, role, *call, *arguments);
            assert_eq!(found, allowed.contains(&role), "{role:?}: call {call} with {arguments:x?}");
        }
    }
}

/// Calls that nobody needs, with whatever arguments: among them those that there is no safe way to try, such as ptrace.
#[test]
fn what_reaches_out_of_the_process_is_on_no_list() {
    let sandbox = Sandbox::new(Refusal::Fail).unwrap();
    let calls = [
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_open_by_handle_at,
        libc::SYS_memfd_create,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_kill,
        libc::SYS_tgkill,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_socketpair,
        libc::SYS_sendto,
        libc::SYS_sendmmsg,
        libc::SYS_setsockopt,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_kexec_load,
        libc::SYS_setuid,
        libc::SYS_setresuid,
        libc::SYS_capset,
        libc::SYS_renameat2,
        libc::SYS_linkat,
        libc::SYS_symlinkat,
        libc::SYS_mkdirat,
        libc::SYS_fchmodat,
        libc::SYS_fchownat,
        libc::SYS_truncate,
        libc::SYS_ftruncate,
        libc::SYS_prlimit64,
        libc::SYS_personality,
        libc::SYS_shmat,
        libc::SYS_splice,
        libc::SYS_copy_file_range,
        libc::SYS_sendfile,
        libc::SYS_dup3,
    ];
    for role in Role::ALL {
        for call in calls {
            for arguments in [[0; 6], [1; 6], [u64::MAX; 6], [3, 0, 2, 0, 0, 0], [3, 0, 8, 0, 0, 0]] {
                assert!(!allows(&sandbox, role, call, arguments), "{role:?}: call {call} with {arguments:x?}");
            }
        }
    }
}

/// Where refused calls end the process, what the C library does without fails still, in threads of every role.
#[test]
fn what_the_c_library_does_without_fails_in_either_way() {
    let sandbox = Sandbox::new(Refusal::End).unwrap();
    for role in Role::ALL {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                sandbox.enter(role).unwrap();
                errno(&File::open("/dev/null").map(drop).unwrap_err())
            });
            assert_eq!(thread.join().unwrap(), Some(Errno::NOSYS), "{role:?}");
        });
    }
}

#[test]
fn no_thread_opens_a_file_or_runs_a_program() {
    for role in Role::ALL {
        within(role, || {
            let opened = File::open("/dev/null").map(drop).unwrap_err();
            assert_eq!(errno(&opened), Some(Errno::NOSYS), "{role:?}: open");
            // Were it allowed, the test would become a program that fails.
            let run = Command::new("/bin/false").exec();
            assert_eq!(errno(&run), Some(Errno::NOSYS), "{role:?}: execve");
            let started = Command::new("/bin/false").spawn().map(drop).unwrap_err();
            assert_eq!(errno(&started), Some(Errno::NOSYS), "{role:?}: a process");
            let other = rustix::process::Pid::from_raw(1).unwrap();
            assert_eq!(rustix::process::test_kill_process(other), Err(Errno::NOSYS), "{role:?}: kill");
            assert_eq!(rustix::process::pidfd_open(other, PidfdFlags::empty()).err(), Some(Errno::NOSYS));
            assert_eq!(rustix::fs::memfd_create("x", MemfdFlags::empty()).err(), Some(Errno::NOSYS));
            assert_eq!(rustix::fs::chmod("/dev/null", 0o777.into()), Err(Errno::NOSYS));
        });
    }
}

#[test]
fn sockets_are_made_by_the_main_thread_only_and_are_no_way_to_a_network() {
    for role in Role::ALL {
        within(role, || {
            for family in [AddressFamily::INET, AddressFamily::INET6, AddressFamily::NETLINK, AddressFamily::PACKET] {
                for kind in [SocketType::STREAM, SocketType::DGRAM, SocketType::RAW] {
                    let refused = rustix::net::socket(family, kind, None).err();
                    assert_eq!(refused, Some(Errno::NOSYS), "{role:?}: {family:?} {kind:?}");
                }
            }
            let unix = |kind| rustix::net::socket(AddressFamily::UNIX, kind, None).err();
            let makes = matches!(role, Role::Main | Role::Caller);
            assert_eq!(unix(SocketType::STREAM), (!makes).then_some(Errno::NOSYS), "{role:?}");
            assert_eq!(unix(SocketType::DGRAM), Some(Errno::NOSYS), "{role:?}");
        });
    }
}

#[test]
fn threads_are_started_where_sessions_begin_and_end_only() {
    for role in Role::ALL {
        let started = within(role, || std::thread::Builder::new().spawn(|| ()).map(std::thread::JoinHandle::join));
        let starts = matches!(role, Role::Main | Role::Caller | Role::Session | Role::Signals);
        assert_eq!(started.is_ok(), starts, "{role:?}");
    }
}

/// What a thread has cannot be had back by one that it starts.
#[test]
fn a_started_thread_can_do_no_more_than_the_one_that_started_it() {
    let sandbox = Sandbox::new(Refusal::Fail).unwrap();
    let again = sandbox.clone();
    within(Role::Session, move || {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                again.enter(Role::Main).unwrap();
                rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).err()
            });
            assert_eq!(thread.join().unwrap(), Some(Errno::NOSYS));
        });
    });
}

/// Capabilities, files and new privileges: of this thread only, so that other tests keep theirs. Whether it can be dumped
/// is a matter of the process and is put back.
#[test]
fn an_enclosed_thread_has_no_privileges_and_no_files_but_to_remove_its_socket() {
    let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&ours, &others] {
        File::create(dir.path().join("socket")).unwrap();
    }
    let sandbox = Sandbox::new(Refusal::Fail).unwrap();
    let dumpable = rustix::process::dumpable_behavior().unwrap();
    let shrinks = rustix::thread::capabilities(None).unwrap().effective.contains(CapabilitySet::SETPCAP);
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sandbox.enclose(Some(ours.path())).unwrap();
            assert_eq!(rustix::process::dumpable_behavior(), Ok(DumpableBehavior::NotDumpable));
            rustix::process::set_dumpable_behavior(dumpable).unwrap();
            let capabilities = rustix::thread::capabilities(None).unwrap();
            tell.send(capabilities.effective | capabilities.permitted | capabilities.inheritable).unwrap();
            assert!(rustix::thread::no_new_privs().unwrap());
            for capability in CapabilitySet::all().iter() {
                if shrinks {
                    let bounded = rustix::thread::capability_is_in_bounding_set(capability);
                    assert!(matches!(bounded, Ok(false) | Err(Errno::INVAL)), "{capability:?}: {bounded:?}");
                }
            }
            if landlock_is_there() {
                let denied = |result: std::io::Result<()>| errno(&result.unwrap_err());
                assert_eq!(denied(File::open("/etc/hostname").map(drop)), Some(Errno::ACCESS));
                assert_eq!(denied(File::create(ours.path().join("new")).map(drop)), Some(Errno::ACCESS));
                assert_eq!(denied(std::fs::remove_file(others.path().join("socket"))), Some(Errno::ACCESS));
                let tcp = std::net::TcpListener::bind("127.0.0.1:0").map(drop);
                assert_eq!(denied(tcp), Some(Errno::ACCESS));
            }
            std::fs::remove_file(ours.path().join("socket")).unwrap();
        });
    });
    assert!(told.recv().unwrap().is_empty());
    // This thread was not enclosed.
    File::create(ours.path().join("new")).unwrap().write_all(b"x").unwrap();
}

/// Asked for in a way that takes nothing away.
fn landlock_is_there() -> bool {
    let strict = landlock::CompatLevel::HardRequirement;
    use landlock::Compatible;
    Ruleset::default().set_compatibility(strict).handle_access(AccessFs::from_all(ABI::V1)).is_ok()
}
