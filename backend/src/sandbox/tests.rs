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

#[test]
fn no_thread_opens_a_file_or_runs_or_traces_a_program() {
    for role in Role::ALL {
        within(role, || {
            let opened = File::open("/dev/null").map(drop).unwrap_err();
            assert_eq!(errno(&opened), Some(Errno::NOSYS), "{role:?}: open");
            // Were it allowed, the test would become a program that fails.
            let run = Command::new("/bin/false").exec();
            assert_eq!(errno(&run), Some(Errno::NOSYS), "{role:?}: execve");
            let started = Command::new("/bin/false").spawn().map(drop).unwrap_err();
            assert_eq!(errno(&started), Some(Errno::NOSYS), "{role:?}: a process");
            // Nobody has this number, which is another error where it is allowed.
            let nobody = nix::unistd::Pid::from_raw(i32::MAX);
            assert_eq!(nix::sys::ptrace::attach(nobody), Err(nix::Error::ENOSYS), "{role:?}: ptrace");
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
            assert_eq!(unix(SocketType::STREAM), (role != Role::Main).then_some(Errno::NOSYS), "{role:?}");
            assert_eq!(unix(SocketType::DGRAM), Some(Errno::NOSYS), "{role:?}");
        });
    }
}

#[test]
fn threads_are_started_where_sessions_begin_and_end_only() {
    for role in Role::ALL {
        let started = within(role, || std::thread::Builder::new().spawn(|| ()).map(std::thread::JoinHandle::join));
        let starts = matches!(role, Role::Main | Role::Session | Role::Signals);
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

/// Capabilities, files and new privileges: of this thread only, so that other tests keep theirs.
#[test]
fn an_enclosed_thread_has_no_privileges_and_no_files_but_to_remove_its_socket() {
    let (ours, others) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for dir in [&ours, &others] {
        File::create(dir.path().join("socket")).unwrap();
    }
    let sandbox = Sandbox::new(Refusal::Fail).unwrap();
    let (tell, told) = channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sandbox.enclose(Some(ours.path())).unwrap();
            let capabilities = rustix::thread::capabilities(None).unwrap();
            tell.send(capabilities.effective | capabilities.permitted | capabilities.inheritable).unwrap();
            assert!(rustix::thread::no_new_privs().unwrap());
            for capability in rustix::thread::CapabilitySet::all().iter() {
                // True to begin with for who may not shrink that set.
                if rustix::process::geteuid().is_root() {
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
