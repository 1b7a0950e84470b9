//! A TAP interface of the host: what the guest sends arrives there, and what the host sends there goes to the guest.
//!
//! Offloads are off, explicitly: the kernel hands over finished frames of the interface's MTU, and the virtio-net header
//! before each, if the interface has one, is skipped on the way in and zero on the way out. Each frame is one system
//! call. What the host sent while nobody was served is dropped when the next connection begins: it was not meant for that
//! one. When the interface takes no more, the frame is kept and the guest's next ones stay on its ring; when it is down
//! or gone, the guest's frames are lost and counted, as on a cable that leads nowhere.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use ironring_common::error::OsError;
use ironring_common::spec::net::{GSO_NONE, HDR_BYTES, HDR_F_NEEDS_CSUM, Header};
use rustix::io::Errno;

use super::tap_sys::{self, NAME_BYTES};
use super::{Port, PortStats};
use crate::net::{MAX_FRAME, MIN_FRAME};

/// One end of a TAP interface.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    link: Link,
    /// Bytes of the virtio-net header before each frame: 12, or none.
    header: usize,
    /// The frame for the guest, after its header.
    incoming: Box<[u8]>,
    /// Its length with the header, if there is one.
    peeked: Option<usize>,
    /// The frame from the guest, after its header, which is zero and stays so.
    outgoing: Box<[u8]>,
    slot: Option<usize>,
    /// Bytes of a frame that was taken and that the interface had no room for.
    held_back: Option<usize>,
    stats: PortStats,
}

/// Tells whether an interface is up. It needs no rights, and no new descriptor to ask.
#[derive(Clone, Debug)]
pub struct Link {
    name: Name,
    /// A socket that sends nothing. Requests about interfaces go to any.
    control: Arc<OwnedFd>,
}

/// Why there is no TAP interface.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// No interface can have such a name.
    #[error("`{name}` cannot be the name of an interface; use 1 to 15 characters without `/`, `%` and blanks")]
    Name {
        /// What was asked for.
        name: String,
    },
    /// The kernel has no TAP interfaces.
    #[error("/dev/net/tun cannot be opened: {source}; load the module `tun`, or give the container that device")]
    NoTun {
        /// The system's word.
        source: std::io::Error,
    },
    /// The device that makes interfaces is not for us.
    #[error(
        "this user may not open /dev/net/tun: {source}; let it read and write that device, or pass an open interface as tap:fd=N"
    )]
    TunNotAllowed {
        /// The system's word.
        source: std::io::Error,
    },
    /// Not ours to use or to make.
    #[error(
        "the TAP interface {name} may not be used or made by this user; make it with `ip tuntap add dev {name} mode tap user USER`, or give this program CAP_NET_ADMIN"
    )]
    NotAllowed {
        /// The interface.
        name: String,
    },
    /// Somebody else uses it.
    #[error("the TAP interface {name} is in use by another process; end that one, or pick another interface")]
    Busy {
        /// The interface.
        name: String,
    },
    /// An interface of that name is something else.
    #[error(
        "the interface {name} is no TAP interface with one queue; pick another name, or make it anew with `ip tuntap`"
    )]
    NoTap {
        /// The interface.
        name: String,
    },
    /// A descriptor is no TAP interface.
    #[error(
        "descriptor {fd} is no TAP interface without packet information; pass one opened with IFF_TAP and IFF_NO_PI"
    )]
    NoTapFd {
        /// The descriptor.
        fd: i32,
    },
    /// The MTU cannot be set.
    #[error("the MTU of {name} is {have} and cannot be set to {want}: {source}; use `ip link set {name} mtu {want}`")]
    Mtu {
        /// The interface.
        name: String,
        /// What it is.
        have: i32,
        /// What was asked for.
        want: u16,
        /// The system's word.
        source: std::io::Error,
    },
    /// The operating system refused.
    #[error(transparent)]
    Os(#[from] OsError),
}

/// The name of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Name([u8; NAME_BYTES]);

impl Tap {
    /// The TAP interface `name`, which is made and brought up if it does not exist and that is allowed. With `mtu`, that
    /// is set on it.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn open(name: &str, mtu: Option<u16>) -> Result<Self, TapError> {
        let wanted = Name::parse(name)?;
        let link = Link::of(wanted)?;
        let existed = tap_sys::is_up(&link.control, wanted.0).map_err(|e| OsError::new("look for an interface", e))?;
        let fd = tap_sys::open().map_err(|error| match error {
            Errno::ACCESS | Errno::PERM => TapError::TunNotAllowed { source: error.into() },
            _ => TapError::NoTun { source: error.into() },
        })?;
        let attached = tap_sys::attach(&fd, wanted.0).map_err(|error| {
            let name = name.to_owned();
            match error {
                Errno::PERM => TapError::NotAllowed { name },
                Errno::BUSY => TapError::Busy { name },
                Errno::INVAL => TapError::NoTap { name },
                error => OsError::new("attach to a TAP interface", error).into(),
            }
        })?;
        let link = Link { name: Name(attached.name), ..link };
        let tap = Self::over(fd, link, HDR_BYTES, mtu)?;
        if existed.is_none() {
            tap_sys::bring_up(attached.name).map_err(|e| OsError::new("bring a new TAP interface up", e))?;
        } else if !tap.link.is_up() {
            tracing::warn!("the TAP interface {name} is down; `ip link set {name} up` lets frames pass");
        }
        Ok(tap)
    }

    /// A TAP interface that somebody else has opened; `number` is what it was called by.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn adopt(fd: OwnedFd, number: i32, mtu: Option<u16>) -> Result<Self, TapError> {
        let no_tap = TapError::NoTapFd { fd: number };
        let Ok(Some((interface, has_header))) = tap_sys::identify(&fd) else { return Err(no_tap) };
        rustix::io::ioctl_fionbio(&fd, true).map_err(|e| OsError::new("make a TAP interface non-blocking", e))?;
        Self::over(fd, Link::of(Name(interface.name))?, if has_header { HDR_BYTES } else { 0 }, mtu)
    }

    /// The same end once more, for the next connection. Two of them must not be used at a time.
    ///
    /// # Errors
    /// [`OsError`] if there is no descriptor left.
    pub fn again(&self) -> Result<Self, OsError> {
        let fd = self.fd.try_clone().map_err(|e| OsError::new("copy a descriptor", e))?;
        Ok(Self::with(fd, self.link.clone(), self.header))
    }

    /// Drops what the host has sent so far, and nothing that comes after the interface was seen empty: how many frames.
    pub fn drop_backlog(&mut self) -> usize {
        self.peeked = None;
        // As many as an interface can be told to hold.
        (0..BACKLOG_MAX).take_while(|_| rustix::io::read(&self.fd, &mut *self.incoming).is_ok()).count()
    }

    fn over(fd: OwnedFd, link: Link, header: usize, mtu: Option<u16>) -> Result<Self, TapError> {
        let name = link.name;
        if let Ok(bytes) = i32::try_from(header)
            && bytes > 0
        {
            tap_sys::set_header_bytes(&fd, bytes).map_err(|e| OsError::new("set the header of a TAP interface", e))?;
            tap_sys::set_no_offloads(&fd).map_err(|e| OsError::new("turn offloads of a TAP interface off", e))?;
        }
        if let Some(want) = mtu {
            let have = tap_sys::mtu(name.0).map_err(|e| OsError::new("read an interface's MTU", e))?;
            if have != i32::from(want) {
                tap_sys::set_mtu(name.0, want.into()).map_err(|e| TapError::Mtu {
                    name: name.text(),
                    have,
                    want,
                    source: e.into(),
                })?;
            }
        }
        Ok(Self::with(fd, link, header))
    }

    fn with(fd: OwnedFd, link: Link, header: usize) -> Self {
        let buffer = || vec![0; HDR_BYTES.saturating_add(MAX_FRAME)].into_boxed_slice();
        Self {
            fd,
            link,
            header,
            incoming: buffer(),
            peeked: None,
            outgoing: buffer(),
            slot: None,
            held_back: None,
            stats: PortStats::default(),
        }
    }

    /// What the interface is called.
    #[must_use]
    pub fn name(&self) -> String {
        self.link.name.text()
    }

    /// What tells whether the interface is up.
    #[must_use]
    pub fn link(&self) -> Link {
        self.link.clone()
    }

    /// Reads until there is a frame that a guest can be given, or nothing more.
    fn read(&mut self) -> Option<usize> {
        // The host's queue ends it: what is dropped here is what a misconfigured interface holds.
        loop {
            match rustix::io::read(&self.fd, &mut *self.incoming) {
                Ok(bytes) if self.is_plain(bytes) => return Some(bytes),
                Ok(_) => self.stats.lost = self.stats.lost.wrapping_add(1),
                Err(Errno::INTR) => {}
                // Nothing there, or the interface is gone.
                Err(_) => return None,
            }
        }
    }

    /// Whether what was read is a whole frame that needs no work.
    fn is_plain(&self, bytes: usize) -> bool {
        if bytes < self.header.saturating_add(MIN_FRAME) {
            return false;
        }
        self.header == 0
            || self.incoming.first_chunk().is_some_and(|header| {
                let header = Header::from_bytes(*header);
                header.gso_type == GSO_NONE && header.flags & HDR_F_NEEDS_CSUM == 0
            })
    }

    /// Writes the frame of `len` bytes that stands in `outgoing`.
    fn write(&mut self, len: usize) {
        let frame = self.outgoing.get(..self.header.saturating_add(len)).unwrap_or_default();
        match rustix::io::write(&self.fd, frame) {
            Ok(_) => self.held_back = None,
            Err(Errno::AGAIN | Errno::INTR) => self.held_back = Some(len),
            // Down (EIO), gone (EBADFD), or not to the kernel's liking.
            Err(_) => {
                self.held_back = None;
                self.stats.lost = self.stats.lost.wrapping_add(1);
            }
        }
    }
}

impl Link {
    fn of(name: Name) -> Result<Self, TapError> {
        let control = tap_sys::control().map_err(|e| OsError::new("make a socket to ask about interfaces", e))?;
        Ok(Self { name, control: Arc::new(control) })
    }

    /// Whether it is up now. One that is gone is not; one that cannot be asked about is taken to be.
    #[must_use]
    pub fn is_up(&self) -> bool {
        tap_sys::is_up(&self.control, self.name.0).map_or(true, |up| up == Some(true))
    }
}

impl Port for Tap {
    const IN_ORDER: bool = true;

    #[inline]
    fn tx_slot(&mut self, len: usize) -> Option<&mut [u8]> {
        self.slot = None;
        if let Some(held) = self.held_back {
            self.write(held);
            if self.held_back.is_some() {
                return None;
            }
        }
        self.slot = Some(len);
        self.outgoing.get_mut(self.header..self.header.checked_add(len)?)
    }

    #[inline]
    fn tx_commit(&mut self) {
        if let Some(len) = self.slot.take() {
            self.stats.took(len);
            self.write(len);
        }
    }

    #[inline]
    fn rx_peek(&mut self) -> Option<&[u8]> {
        if self.peeked.is_none() {
            self.peeked = self.read();
        }
        self.incoming.get(self.header..self.peeked?)
    }

    #[inline]
    fn rx_consume(&mut self) {
        if let Some(bytes) = self.peeked.take() {
            self.stats.gave(bytes.saturating_sub(self.header));
        }
    }

    fn flush(&mut self) {
        if let Some(held) = self.held_back {
            self.write(held);
        }
    }

    fn readable_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn stats(&self) -> PortStats {
        self.stats
    }
}

impl Name {
    fn parse(text: &str) -> Result<Self, TapError> {
        let wrong = || TapError::Name { name: text.to_owned() };
        let lawful = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'%' | b':');
        if text.is_empty() || matches!(text, "." | "..") || !text.bytes().all(lawful) {
            return Err(wrong());
        }
        let mut name = [0; NAME_BYTES];
        // One byte stays zero.
        let room = name.get_mut(..text.len()).filter(|_| text.len() < NAME_BYTES).ok_or_else(wrong)?;
        room.copy_from_slice(text.as_bytes());
        Ok(Self(name))
    }

    fn text(self) -> String {
        let bytes = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        String::from_utf8_lossy(bytes).into_owned()
    }
}

/// So many frames are dropped at once at most: the longest queue that makes sense for an interface.
const BACKLOG_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_the_kernel_sees_them() {
        for name in ["tap0", "vm-12_x.y", "fifteen-letters"] {
            assert_eq!(Name::parse(name).unwrap().text(), name);
        }
        for name in ["", "sixteen-letters!", "a b", "a/b", "tap%d", "..", "ä", "a:0"] {
            let error = Name::parse(name).unwrap_err().to_string();
            assert!(error.contains("1 to 15 characters"), "{error}");
        }
    }

    #[test]
    fn what_is_no_tap_is_not_adopted() {
        let (reader, _writer) = std::io::pipe().unwrap();
        let error = Tap::adopt(reader.into(), 7, None).unwrap_err();
        assert!(matches!(error, TapError::NoTapFd { fd: 7 }), "{error}");
    }
}
