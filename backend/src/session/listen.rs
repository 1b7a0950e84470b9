//! The socket that front-ends connect to: made at a path, or inherited from whoever started the daemon.

use std::fs::{Metadata, Permissions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use ironring_common::error::OsError;
use rustix::io::Errno;
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

/// Where front-ends come from.
#[derive(Debug)]
pub enum Endpoint {
    /// A socket that front-ends connect to, one after another.
    Listening(Listening),
    /// The one front-end that there is.
    Connected(UnixStream),
    /// A front-end listens there. It is called again whenever a session has ended, for ever.
    Calling(PathBuf),
}

/// Who may connect to a socket that is made. What is left out is as the system has it for a new file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Permissions, of which a front-end needs to write.
    pub mode: Option<u32>,
    /// Owner, by number.
    pub owner: Option<u32>,
    /// Group, by number.
    pub group: Option<u32>,
}

/// A listening socket, and its file if we made it. The file is removed on drop.
#[derive(Debug)]
pub struct Listening {
    pub(super) listener: UnixListener,
    file: Option<Arc<SocketFile>>,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process listens there.
    #[error("another process listens at {path}; stop it, or choose another --socket-path")]
    InUse {
        /// The path.
        path: PathBuf,
    },
    /// There is something that is no socket.
    #[error("{path} exists and is no socket; remove it, or choose another --socket-path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// The directory is missing.
    #[error("there is no directory {parent}; make it, or choose another --socket-path")]
    NoDirectory {
        /// The directory.
        parent: PathBuf,
    },
    /// The system does not let the socket be given away.
    #[error(
        "cannot set mode, owner or group of {path}: {source}; only root may give a socket away, and a group must be one's own"
    )]
    Access {
        /// The path.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// Nobody passed a socket.
    #[error(
        "no socket was passed to this process; give --socket-path, --connect or --fd, or start it by socket activation"
    )]
    NotActivated,
    /// More than one socket was passed.
    #[error("{count} sockets were passed to this process and one is served; put one ListenStream into the socket unit")]
    ManySockets {
        /// How many.
        count: u32,
    },
    /// Not ours to make.
    #[error("this user may not make a socket at {path}; let it write to {parent}, or choose another --socket-path")]
    NotAllowed {
        /// The path.
        path: PathBuf,
        /// The directory.
        parent: PathBuf,
    },
    /// No address can hold the path.
    #[error(
        "the path {path} has {bytes} bytes and that of a socket has at most {PATH_BYTES}; choose a shorter --socket-path"
    )]
    TooLong {
        /// The path.
        path: PathBuf,
        /// Its length.
        bytes: usize,
    },
    /// The system takes no socket there.
    #[error("cannot listen at {path}: {source}")]
    Bind {
        /// The path.
        path: PathBuf,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
    /// There is no such descriptor.
    #[error("there is no open descriptor {fd}; whoever starts the daemon has to leave it open across exec")]
    NotOpen {
        /// The number.
        fd: i32,
    },
    /// The descriptor is something else.
    #[error("descriptor {fd} is no Unix stream socket; pass one that listens or is connected")]
    NotAUnixStream {
        /// The number.
        fd: i32,
    },
    /// The descriptor cannot be taken over.
    #[error(
        "cannot take over descriptor {fd}: {source}; pass it as standard input and say --fd 0, or use --socket-path"
    )]
    Inherit {
        /// The number.
        fd: i32,
        /// The system's word.
        #[source]
        source: std::io::Error,
    },
}

impl Endpoint {
    /// Listens at a path. A socket that nobody listens on any more is replaced; anything else that is there stays.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bind(path: &Path, access: Access) -> Result<Self, ListenError> {
        clear_the_way(path)?;
        let failed = |source| refused(path, source);
        // Linux takes a path without the zero byte, but hardly any program can connect to that.
        if path.as_os_str().len() > PATH_BYTES {
            return Err(failed(Errno::NAMETOOLONG.into()));
        }
        let name = SocketAddrUnix::new(path).map_err(|e| failed(e.into()))?;
        let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| failed(e.into()))?;
        rustix::net::bind(&listener, &name).map_err(|e| match e {
            Errno::NOENT => ListenError::NoDirectory { parent: parent_of(path) },
            Errno::ADDRINUSE => ListenError::InUse { path: path.to_owned() },
            e => failed(e.into()),
        })?;
        // From here on the file is removed whatever fails.
        let made = std::fs::symlink_metadata(path).map_err(failed)?;
        let file = SocketFile { path: path.to_owned(), identity: identity(&made) };
        // Nobody can connect before it listens.
        access.set(path).map_err(|source| ListenError::Access { path: path.to_owned(), source })?;
        rustix::net::listen(&listener, BACKLOG).map_err(|e| failed(e.into()))?;
        Ok(Self::Listening(Listening { listener: listener.into(), file: Some(Arc::new(file)) }))
    }

    /// The socket that systemd passed (`sd_listen_fds`): one, as descriptor 3, meant for this process.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn activated() -> Result<Self, ListenError> {
        let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
        match (number("LISTEN_PID"), number("LISTEN_FDS")) {
            (Some(pid), Some(1)) if pid == std::process::id() => Self::inherit(FIRST_PASSED),
            (Some(pid), Some(count)) if pid == std::process::id() && count > 1 => {
                Err(ListenError::ManySockets { count })
            }
            _ => Err(ListenError::NotActivated),
        }
    }

    /// The file that goes with this endpoint, for whoever may have to remove it when the endpoint cannot be dropped.
    pub(crate) fn socket_file(&self) -> Weak<SocketFile> {
        match self {
            Self::Listening(Listening { file: Some(file), .. }) => Arc::downgrade(file),
            Self::Listening(_) | Self::Connected(_) | Self::Calling(_) => Weak::new(),
        }
    }

    /// Takes over a descriptor of this process by its number: a Unix stream socket that listens or is connected.
    ///
    /// The descriptor itself stays open; what is returned is a copy.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn inherit(fd: i32) -> Result<Self, ListenError> {
        let socket = copy_of(fd).map_err(|source| match Errno::from_io_error(&source) {
            Some(Errno::BADF) => ListenError::NotOpen { fd },
            _ => ListenError::Inherit { fd, source },
        })?;
        let is_unix_stream =
            socket_domain(&socket) == Ok(AddressFamily::UNIX) && socket_type(&socket) == Ok(SocketType::STREAM);
        match socket_acceptconn(&socket) {
            Ok(true) if is_unix_stream => Ok(UnixListener::from(socket).into()),
            // A socket that neither listens nor is connected has no peer to serve.
            Ok(false) if is_unix_stream && rustix::net::getpeername(&socket).is_ok() => {
                Ok(Self::Connected(socket.into()))
            }
            _ => Err(ListenError::NotAUnixStream { fd }),
        }
    }
}

impl Access {
    fn set(self, path: &Path) -> std::io::Result<()> {
        if self.owner.is_some() || self.group.is_some() {
            std::os::unix::fs::lchown(path, self.owner, self.group)?;
        }
        match self.mode {
            Some(mode) => std::fs::set_permissions(path, Permissions::from_mode(mode)),
            None => Ok(()),
        }
    }
}

impl From<UnixListener> for Endpoint {
    fn from(listener: UnixListener) -> Self {
        Self::Listening(Listening { listener, file: None })
    }
}

/// A listener with exactly one connection in its queue, and the other end of that.
///
/// The framework accepts by itself and takes no stream. So a stream that is there already is served through a connection
/// that we make to ourselves. An abstract name has no permissions: anybody could connect first. But a backlog of 0 holds
/// one connection, so if ours was taken up at once, it is the only one; else the name is given up for another.
pub(super) fn handoff() -> Result<(UnixListener, UnixStream), OsError> {
    let failed = |e: Errno| OsError::new("make a socket for the session", e);
    let new_socket = |flags| {
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)
            .map_err(failed)
    };
    for _ in 0..HANDOFF_TRIES {
        let listener = new_socket(SocketFlags::empty())?;
        // An unnamed address makes the kernel choose a free abstract name.
        rustix::net::bind(&listener, &SocketAddrUnix::new_unnamed()).map_err(failed)?;
        rustix::net::listen(&listener, 0).map_err(failed)?;
        let address = rustix::net::getsockname(&listener).map_err(failed)?;
        let ours = new_socket(SocketFlags::NONBLOCK)?;
        match rustix::net::connect(&ours, &address) {
            Ok(()) => return Ok((listener.into(), ours.into())),
            Err(Errno::AGAIN) => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Err(failed(Errno::CONNREFUSED))
}

/// Removes a socket that nobody listens on.
fn clear_the_way(path: &Path) -> Result<(), ListenError> {
    let failed = |source| refused(path, source);
    let there = match std::fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
    };
    if !there.file_type().is_socket() {
        return Err(ListenError::NotASocket { path: path.to_owned() });
    }
    // A datagram socket cannot connect to a stream socket, but the error tells whether there is one, and whoever
    // listens there is not disturbed by a connection that nobody meant.
    let probe = UnixDatagram::unbound().and_then(|probe| probe.connect(path));
    match probe {
        Err(e) if e.kind() == ErrorKind::ConnectionRefused => std::fs::remove_file(path).map_err(failed),
        Err(e) if Errno::from_io_error(&e) != Some(Errno::PROTOTYPE) => Err(failed(e)),
        _ => Err(ListenError::InUse { path: path.to_owned() }),
    }
}

/// A copy of a descriptor that is known by its number only, without unsafe code: the standard streams have owners, and
/// any other is had from the kernel as if it belonged to another process.
pub(super) fn copy_of(fd: i32) -> std::io::Result<OwnedFd> {
    match fd {
        0 => std::io::stdin().as_fd().try_clone_to_owned(),
        1 => std::io::stdout().as_fd().try_clone_to_owned(),
        2 => std::io::stderr().as_fd().try_clone_to_owned(),
        _ => {
            let this = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
            Ok(rustix::process::pidfd_getfd(this, fd, PidfdGetfdFlags::empty())?)
        }
    }
}

/// Why the system takes no socket at a path.
fn refused(path: &Path, source: std::io::Error) -> ListenError {
    let path = path.to_owned();
    match Errno::from_io_error(&source) {
        Some(Errno::ACCESS | Errno::PERM) => ListenError::NotAllowed { parent: parent_of(&path), path },
        Some(Errno::NAMETOOLONG) => ListenError::TooLong { bytes: path.as_os_str().len(), path },
        _ => ListenError::Bind { path, source },
    }
}

fn parent_of(path: &Path) -> PathBuf {
    let parent = path.parent().unwrap_or(path);
    if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() }
}

/// Device and inode.
fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// The file of our socket.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    /// The directory that it lies in.
    pub(crate) fn directory(&self) -> PathBuf {
        parent_of(&self.path)
    }

    /// Removes it, unless somebody has put another socket there meanwhile; that one stays.
    pub(crate) fn remove(&self) -> std::io::Result<()> {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|there| identity(&there) == self.identity);
        if ours { std::fs::remove_file(&self.path) } else { Ok(()) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            let path = self.path.display();
            tracing::warn!("{path} stays behind: {error}; this user must be able to write to its directory");
        }
    }
}

const HANDOFF_TRIES: u32 = 16;

/// Front-ends that may wait to be served.
const BACKLOG: i32 = 128;
/// Bytes of a path in `sockaddr_un`, which one zero byte ends.
const PATH_BYTES: usize = 107;
/// The first descriptor of those that systemd passes.
const FIRST_PASSED: i32 = 3;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    use super::*;

    fn sentence(path: &Path) -> String {
        Endpoint::bind(path, Access::default()).unwrap_err().to_string()
    }

    #[test]
    fn a_socket_has_its_mode_before_anybody_can_connect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        for mode in [0o600, 0o660, 0o777] {
            let endpoint = Endpoint::bind(&path, Access { mode: Some(mode), ..Access::default() }).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, mode);
            UnixStream::connect(&path).unwrap();
            drop(endpoint);
        }
        // One's own group may be set by anybody; somebody else's owner by root only, and then nothing is left behind.
        let group = Some(rustix::process::getegid().as_raw());
        drop(Endpoint::bind(&path, Access { group, ..Access::default() }).unwrap());
        if !rustix::process::geteuid().is_root() {
            let error = Endpoint::bind(&path, Access { owner: Some(0), ..Access::default() }).unwrap_err().to_string();
            assert!(error.contains("only root"), "{error}");
        }
        assert!(!path.exists());
    }

    #[test]
    fn the_socket_file_goes_with_the_endpoint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let endpoint = Endpoint::bind(&path, Access::default()).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(endpoint);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_another_put_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let endpoint = Endpoint::bind(&path, Access::default()).unwrap();
        std::fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(endpoint);
        assert!(path.exists());
        drop(other);
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not_disturbed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let _live = Endpoint::bind(&path, Access::default()).unwrap();
        assert!(sentence(&path).contains("another process listens at"));
        let Endpoint::Listening(live) = _live else { panic!("it listens") };
        live.listener.set_nonblocking(true).unwrap();
        assert_eq!(live.listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "nobody has connected");
    }

    #[test]
    fn what_is_no_place_for_a_socket_is_refused_with_a_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "mine").unwrap();
        assert!(sentence(&file).contains("exists and is no socket"));
        assert_eq!(std::fs::read(&file).unwrap(), b"mine");
        assert!(sentence(&dir.path().join("no/s")).contains("there is no directory"));
        assert!(sentence(&dir.path().join("x".repeat(200))).contains("at most 107"));
    }

    #[test]
    fn descriptors_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        assert!(matches!(Endpoint::inherit(listener.as_raw_fd()), Ok(Endpoint::Listening(_))));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let Ok(Endpoint::Connected(mut copy)) = Endpoint::inherit(theirs.as_raw_fd()) else { panic!("connected") };
        copy.write_all(b"x").unwrap();
        let mut byte = [0];
        (&ours).read_exact(&mut byte).unwrap();
        let file = tempfile::tempfile().unwrap();
        let error = Endpoint::inherit(file.as_raw_fd()).unwrap_err();
        assert!(error.to_string().contains("is no Unix stream socket"), "{error}");
        assert!(matches!(Endpoint::inherit(1_000_000), Err(ListenError::NotOpen { .. })));
        let (datagram, _other) = UnixDatagram::pair().unwrap();
        assert!(matches!(Endpoint::inherit(datagram.as_raw_fd()), Err(ListenError::NotAUnixStream { .. })));
    }

    #[test]
    fn a_handoff_is_a_connection_to_ourselves() {
        let (listener, mut ours) = handoff().unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        ours.write_all(b"only us").unwrap();
        let mut bytes = [0; 7];
        theirs.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"only us");
    }
}
