//! A port for each connection.
//!
//! Whatever has to be opened is opened before there is any connection, by the daemon even before there is a socket: a file
//! that cannot be read ends it at once and not the first guest's session, and a daemon that serves opens nothing, so that
//! it can do without the right to. Each connection gets a port as fresh as the first; the TAP interface and the capture
//! that is written stay the same ones.

use std::sync::Arc;

use ironring_common::error::OsError;

use super::listen::copy_of;
use crate::config::{PortSpec, Settings};
use crate::port::PortError;
use crate::port::generate::Generate;
use crate::port::loopback::Loopback;
use crate::port::null::Null;
use crate::port::pcap::Pcap;
use crate::port::tap::{Link, Tap, TapError};
use crate::stats::Stats;
use crate::vring::hook::Hook;
use crate::worker::WorkerHandle;

/// Where the ports of connections come from.
#[derive(Debug)]
pub(crate) enum Ports {
    Loopback,
    Null,
    Generate { bytes: usize },
    Pcap(Pcap),
    Tap(Tap),
}

/// A port of any kind, until it goes to a worker that is made for its kind.
#[derive(Debug)]
pub(super) enum AnyPort {
    Loopback(Loopback),
    Null(Null),
    Generate(Generate),
    Pcap(Pcap),
    Tap(Tap),
}

impl Ports {
    /// Opens what the ports of all connections have in common.
    pub(crate) fn open(settings: &Settings) -> Result<Self, PortError> {
        Ok(match &settings.port {
            PortSpec::Loopback => Self::Loopback,
            PortSpec::Null => Self::Null,
            PortSpec::Generate { bytes } => {
                Generate::new(*bytes)?;
                Self::Generate { bytes: *bytes }
            }
            PortSpec::Pcap { input, output } => Self::Pcap(Pcap::open(input, output.as_deref())?),
            PortSpec::Tap { name } => Self::Tap(Tap::open(name, settings.mtu)?),
            PortSpec::TapFd { fd } => {
                let inherited = copy_of(*fd).map_err(|_| TapError::NoTapFd { fd: *fd })?;
                Self::Tap(Tap::adopt(inherited, *fd, settings.mtu)?)
            }
        })
    }

    /// The port of the next connection.
    pub(super) fn next(&self) -> Result<AnyPort, PortError> {
        Ok(match self {
            Self::Loopback => AnyPort::Loopback(Loopback::new()),
            Self::Null => AnyPort::Null(Null::new()),
            Self::Generate { bytes } => AnyPort::Generate(Generate::new(*bytes)?),
            Self::Pcap(port) => AnyPort::Pcap(port.again()?),
            Self::Tap(port) => {
                let mut port = port.again()?;
                let frames = port.drop_backlog();
                tracing::debug!(frames, "what the interface held for nobody is dropped");
                AnyPort::Tap(port)
            }
        })
    }
}

impl AnyPort {
    /// What tells whether frames can pass beyond the port; `None` if they always can.
    pub(super) fn link(&self) -> Option<Link> {
        match self {
            Self::Tap(port) => Some(port.link()),
            Self::Loopback(_) | Self::Null(_) | Self::Generate(_) | Self::Pcap(_) => None,
        }
    }

    /// Starts a worker on this port.
    pub(super) fn serve<H: Hook + Send + 'static>(
        self,
        settings: &Settings,
        hook: H,
        stats: Arc<Stats>,
    ) -> Result<WorkerHandle, OsError> {
        let (pairs, wait, sandbox) = (usize::from(settings.pairs), settings.wait, &settings.sandbox);
        match self {
            Self::Loopback(port) => WorkerHandle::spawn(pairs, port, hook, wait, stats, sandbox),
            Self::Null(port) => WorkerHandle::spawn(pairs, port, hook, wait, stats, sandbox),
            Self::Generate(port) => WorkerHandle::spawn(pairs, port, hook, wait, stats, sandbox),
            Self::Pcap(port) => WorkerHandle::spawn(pairs, port, hook, wait, stats, sandbox),
            Self::Tap(port) => WorkerHandle::spawn(pairs, port, hook, wait, stats, sandbox),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(port: PortSpec) -> Settings {
        Settings { port, ..Settings::default() }
    }

    #[test]
    fn a_port_that_cannot_be_opened_says_so_before_there_is_a_connection() {
        let error =
            Ports::open(&settings(PortSpec::Pcap { input: "/nonexistent/x".into(), output: None })).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x"), "{error}");
    }
}
