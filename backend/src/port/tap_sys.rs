//! The system calls of a TAP interface that no library has: a few ioctls, each with the type that the kernel expects.
//!
//! This file and the shared memory of `ironring-common` are the only places in shipped code that are unsafe. Numbers and layouts are
//! those of `linux/if_tun.h`, `linux/if.h` and `linux/sockios.h`.
#![allow(unsafe_code, reason = "ioctls take untyped pointers; each block says why the pointer is right")]

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl, opcode};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// What an interface is called: up to 15 bytes and a zero byte.
pub(super) const NAME_BYTES: usize = 16;

/// `struct ifreq` with its union as raw bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct InterfaceRequest {
    pub(super) name: [u8; NAME_BYTES],
    value: Value,
}

/// The union of `struct ifreq`: 24 bytes on 64-bit systems, of which flags take two and an MTU four.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug)]
struct Value([u8; 24]);

impl InterfaceRequest {
    pub(super) const fn named(name: [u8; NAME_BYTES]) -> Self {
        Self { name, value: Value([0; 24]) }
    }

    fn with_flags(mut self, flags: u16) -> Self {
        let [a, b] = flags.to_ne_bytes();
        let Value([first, second, ..]) = &mut self.value;
        (*first, *second) = (a, b);
        self
    }

    fn with_number(mut self, number: i32) -> Self {
        if let Some(bytes) = self.value.0.first_chunk_mut() {
            *bytes = number.to_ne_bytes();
        }
        self
    }

    fn flags(&self) -> u16 {
        let Value([a, b, ..]) = self.value;
        u16::from_ne_bytes([a, b])
    }

    fn number(&self) -> i32 {
        let Value([a, b, c, d, ..]) = self.value;
        i32::from_ne_bytes([a, b, c, d])
    }
}

/// A new handle for TAP interfaces, not blocking and closed by `exec`.
pub(super) fn open() -> Result<OwnedFd, Errno> {
    rustix::fs::open("/dev/net/tun", OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())
}

/// Makes the handle an end of the TAP interface `name`, with a virtio-net header before each frame. An interface that
/// does not exist is made, if that is allowed.
pub(super) fn attach(tap: impl AsFd, name: [u8; NAME_BYTES]) -> Result<InterfaceRequest, Errno> {
    let mut request = InterfaceRequest::named(name).with_flags(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, which `InterfaceRequest` is, for the time of the call.
    unsafe { ioctl(tap, Updater::<TUNSETIFF, _>::new(&mut request)) }?;
    Ok(request)
}

/// The interface that a handle is an end of, and whether a virtio-net header stands before its frames. `None` if the
/// handle is none of a TAP.
pub(super) fn identify(tap: impl AsFd) -> Result<Option<(InterfaceRequest, bool)>, Errno> {
    let mut request = InterfaceRequest::named([0; NAME_BYTES]);
    // SAFETY: TUNGETIFF writes a `struct ifreq`, which `InterfaceRequest` is, for the time of the call.
    unsafe { ioctl(tap, Updater::<TUNGETIFF, _>::new(&mut request)) }?;
    let flags = request.flags();
    Ok((flags & IFF_TAP != 0 && flags & IFF_NO_PI != 0).then_some((request, flags & IFF_VNET_HDR != 0)))
}

/// Sets how long the header before each frame is.
pub(super) fn set_header_bytes(tap: impl AsFd, bytes: i32) -> Result<(), Errno> {
    // SAFETY: TUNSETVNETHDRSZ reads an `int`.
    unsafe { ioctl(tap, Setter::<TUNSETVNETHDRSZ, i32>::new(bytes)) }
}

/// Sets what the kernel may leave to this side: no checksum to be finished, no frame to be cut.
pub(super) fn set_no_offloads(tap: impl AsFd) -> Result<(), Errno> {
    // SAFETY: TUNSETOFFLOAD takes a number and no pointer.
    unsafe { ioctl(tap, IntegerSetter::<TUNSETOFFLOAD>::new_usize(0)) }
}

/// The MTU of an interface.
pub(super) fn mtu(name: [u8; NAME_BYTES]) -> Result<i32, Errno> {
    let mut request = InterfaceRequest::named(name);
    // SAFETY: SIOCGIFMTU reads and writes a `struct ifreq`, which `InterfaceRequest` is, for the time of the call.
    unsafe { ioctl(control()?, Updater::<SIOCGIFMTU, _>::new(&mut request)) }?;
    Ok(request.number())
}

/// Sets the MTU of an interface.
pub(super) fn set_mtu(name: [u8; NAME_BYTES], mtu: i32) -> Result<(), Errno> {
    let mut request = InterfaceRequest::named(name).with_number(mtu);
    // SAFETY: SIOCSIFMTU reads a `struct ifreq`, which `InterfaceRequest` is, for the time of the call.
    unsafe { ioctl(control()?, Updater::<SIOCSIFMTU, _>::new(&mut request)) }
}

/// Whether there is an interface of this name, and whether it is up. `control` is any socket, for example of [`control`].
pub(super) fn is_up(control: impl AsFd, name: [u8; NAME_BYTES]) -> Result<Option<bool>, Errno> {
    let mut request = InterfaceRequest::named(name);
    // SAFETY: SIOCGIFFLAGS reads and writes a `struct ifreq`, which `InterfaceRequest` is, for the time of the call.
    match unsafe { ioctl(control, Updater::<SIOCGIFFLAGS, _>::new(&mut request)) } {
        Ok(()) => Ok(Some(request.flags() & IFF_UP != 0)),
        Err(Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Brings an interface up.
pub(super) fn bring_up(name: [u8; NAME_BYTES]) -> Result<(), Errno> {
    let control = control()?;
    let mut request = InterfaceRequest::named(name);
    // SAFETY: SIOCGIFFLAGS reads and writes a `struct ifreq`, which `InterfaceRequest` is, for the time of the call.
    unsafe { ioctl(&control, Updater::<SIOCGIFFLAGS, _>::new(&mut request)) }?;
    let mut request = InterfaceRequest::named(name).with_flags(request.flags() | IFF_UP);
    // SAFETY: SIOCSIFFLAGS reads a `struct ifreq`, which `InterfaceRequest` is, for the time of the call.
    unsafe { ioctl(&control, Updater::<SIOCSIFFLAGS, _>::new(&mut request)) }
}

/// Any socket will do for requests about interfaces. This one is of no network, and connected to nobody.
pub(super) fn control() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

const IFF_UP: u16 = 1;
const IFF_TAP: u16 = 2;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const TUNSETIFF: Opcode = opcode::write::<i32>(b'T', 202);
const TUNSETOFFLOAD: Opcode = opcode::write::<u32>(b'T', 208);
const TUNGETIFF: Opcode = opcode::read::<u32>(b'T', 210);
const TUNSETVNETHDRSZ: Opcode = opcode::write::<i32>(b'T', 216);
const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCGIFMTU: Opcode = 0x8921;
const SIOCSIFMTU: Opcode = 0x8922;
const _: () = assert!(size_of::<InterfaceRequest>() == 40);
