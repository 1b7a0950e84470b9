//! The ports of each connection.
//!
//! Whatever has to be opened is opened before there is any connection, by the daemon even before there is a socket: a file
//! that cannot be read ends it at once and not the first guest's session, and a daemon that serves opens nothing, so that
//! it can do without the right to. Each connection gets ports as fresh as the first, one for each data-plane thread; the TAP
//! interface and the capture that is written stay the same ones, and are served by one thread.

use std::sync::Arc;

use ironring_common::error::OsError;

use super::listen::copy_of;
use crate::config::{PortSpec, Settings};
use crate::port::PortError;
use crate::port::generate::{Generate, Mixed};
use crate::port::loopback::Loopback;
use crate::port::null::Null;
use crate::port::pcap::Pcap;
use crate::port::tap::{Link, Tap, TapError};
use crate::stats::Stats;
use crate::vring::hook::Hook;
use crate::worker::WorkerHandle;

/// Where the ports of connections come from.
#[derive(Debug)]
pub(crate) struct Ports {
    source: Source,
    threads: u16,
}

#[derive(Debug)]
enum Source {
    Loopback,
    Null,
    Generate { bytes: usize },
    GenerateImix,
    Pcap(Pcap),
    Tap(Tap),
}

/// The port of one worker, of any kind, until it goes to a worker that is made for its kind.
#[derive(Debug)]
pub(super) enum AnyPort {
    /// A loop for each of its queue pairs.
    Loopback,
    Null(Null),
    Generate(Generate),
    GenerateImix(Generate<Mixed>),
    Pcap(Pcap),
    Tap(Tap),
}

impl Ports {
    /// Opens what the ports of all connections have in common.
    pub(crate) fn open(settings: &Settings) -> Result<Self, PortError> {
        check_threads(settings)?;
        let source = match &settings.port {
            PortSpec::Loopback => Source::Loopback,
            PortSpec::Null => Source::Null,
            PortSpec::Generate { bytes } => {
                Generate::new(*bytes)?;
                Source::Generate { bytes: *bytes }
            }
            PortSpec::GenerateImix => Source::GenerateImix,
            PortSpec::Pcap { input, output } => Source::Pcap(Pcap::open(input, output.as_deref())?),
            PortSpec::Tap { name } => Source::Tap(Tap::open(name, settings.mtu)?),
            PortSpec::TapFd { fd } => {
                let inherited = copy_of(*fd).map_err(|_| TapError::NoTapFd { fd: *fd })?;
                Source::Tap(Tap::adopt(inherited, *fd, settings.mtu)?)
            }
        };
        Ok(Self { source, threads: settings.threads })
    }

    /// The ports of the next connection, one for each thread.
    pub(super) fn next(&self) -> Result<Vec<AnyPort>, PortError> {
        (0..self.threads).map(|_| self.source.next()).collect()
    }
}

/// Whether so many threads can serve so many queue pairs and such a port.
pub(crate) fn check_threads(settings: &Settings) -> Result<(), PortError> {
    let Settings { threads, pairs, ref port, .. } = *settings;
    if !(1..=pairs).contains(&threads) {
        return Err(PortError::Threads { threads, pairs });
    }
    let port = match port {
        PortSpec::Pcap { .. } => "pcap",
        PortSpec::Tap { .. } | PortSpec::TapFd { .. } => "tap",
        PortSpec::Loopback | PortSpec::Null | PortSpec::Generate { .. } | PortSpec::GenerateImix => return Ok(()),
    };
    if threads == 1 { Ok(()) } else { Err(PortError::OneThread { port, threads }) }
}

impl Source {
    fn next(&self) -> Result<AnyPort, PortError> {
        Ok(match self {
            Self::Loopback => AnyPort::Loopback,
            Self::Null => AnyPort::Null(Null::new()),
            Self::Generate { bytes } => AnyPort::Generate(Generate::new(*bytes)?),
            Self::GenerateImix => AnyPort::GenerateImix(Generate::imix()),
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
            Self::Loopback | Self::Null(_) | Self::Generate(_) | Self::GenerateImix(_) | Self::Pcap(_) => None,
        }
    }

    /// Starts a worker on this port.
    pub(super) fn serve<H: Hook + Send + 'static>(
        self,
        settings: &Settings,
        hook: H,
        stats: Arc<Stats>,
    ) -> Result<WorkerHandle, OsError> {
        let (wait, sandbox) = (settings.wait, &settings.sandbox);
        match self {
            Self::Loopback => {
                let loops = std::iter::repeat_with(Loopback::new).take(stats.pairs());
                WorkerHandle::spawn_with_ports(loops, hook, wait, stats, sandbox)
            }
            Self::Null(port) => WorkerHandle::spawn_with_ports([port], hook, wait, stats, sandbox),
            Self::Generate(port) => WorkerHandle::spawn_with_ports([port], hook, wait, stats, sandbox),
            Self::GenerateImix(port) => WorkerHandle::spawn_with_ports([port], hook, wait, stats, sandbox),
            Self::Pcap(port) => WorkerHandle::spawn_with_ports([port], hook, wait, stats, sandbox),
            Self::Tap(port) => WorkerHandle::spawn_with_ports([port], hook, wait, stats, sandbox),
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
