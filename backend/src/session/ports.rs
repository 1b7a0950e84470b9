//! A port for each connection.
//!
//! The first one is opened before there is any connection, by the daemon even before there is a socket, so that a file
//! that cannot be read ends it at once and not the first guest's session. Later connections get a port of their own, as
//! fresh as the first; only a TAP interface stays the same one.

use std::path::PathBuf;
use std::sync::Arc;

use ironring_common::error::OsError;

use super::listen::copy_of;
use crate::config::{PortSpec, Settings};
use crate::port::PortError;
use crate::port::generate::Generate;
use crate::port::loopback::Loopback;
use crate::port::null::Null;
use crate::port::pcap::{Pcap, Plan};
use crate::port::tap::{Tap, TapError};
use crate::stats::Stats;
use crate::vring::hook::Hook;
use crate::worker::WorkerHandle;

/// Where the ports of connections come from.
#[derive(Debug)]
pub(crate) struct Ports {
    settings: Settings,
    first: Option<AnyPort>,
    /// The TAP interface, held open so that it outlives connections.
    tap: Option<Tap>,
    /// Ports handed out.
    opened: u64,
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
    /// Opens the port of the first connection.
    pub(crate) fn open(settings: &Settings) -> Result<Self, PortError> {
        let first = AnyPort::open(settings, 1)?;
        let tap = if let AnyPort::Tap(tap) = &first { Some(tap.again()?) } else { None };
        Ok(Self { settings: settings.clone(), first: Some(first), tap, opened: 0 })
    }

    /// The port of the next connection.
    pub(super) fn next(&mut self) -> Result<AnyPort, PortError> {
        self.opened = self.opened.saturating_add(1);
        match (self.first.take(), &self.tap) {
            (Some(first), _) => Ok(first),
            (None, Some(tap)) => Ok(AnyPort::Tap(tap.again()?)),
            (None, None) => AnyPort::open(&self.settings, self.opened),
        }
    }
}

impl AnyPort {
    /// The port of connection `number`, counted from 1.
    fn open(settings: &Settings, number: u64) -> Result<Self, PortError> {
        Ok(match &settings.port {
            PortSpec::Tap { name } => Self::Tap(Tap::open(name, settings.mtu)?),
            PortSpec::TapFd { fd } => {
                let inherited = copy_of(*fd).map_err(|_| TapError::NoTapFd { fd: *fd })?;
                Self::Tap(Tap::adopt(inherited, *fd, settings.mtu)?)
            }
            PortSpec::Loopback => Self::Loopback(Loopback::new()),
            PortSpec::Null => Self::Null(Null::new()),
            PortSpec::Generate { bytes } => Self::Generate(Generate::new(*bytes)?),
            PortSpec::Pcap { input, output } => {
                let output = output.clone().map(|path| numbered(path, number));
                Self::Pcap(Pcap::open(input, output)?)
            }
        })
    }

    /// Starts a worker on this port.
    pub(super) fn serve<H: Hook + Send + 'static>(
        self,
        settings: &Settings,
        hook: H,
        stats: Arc<Stats>,
    ) -> Result<WorkerHandle, OsError> {
        let pairs = usize::from(settings.pairs);
        match self {
            Self::Loopback(port) => WorkerHandle::spawn(WORKER, pairs, port, hook, settings.wait, stats),
            Self::Null(port) => WorkerHandle::spawn(WORKER, pairs, port, hook, settings.wait, stats),
            Self::Generate(port) => WorkerHandle::spawn(WORKER, pairs, port, hook, settings.wait, stats),
            Self::Pcap(port) => WorkerHandle::spawn(WORKER, pairs, port, hook, settings.wait, stats),
            Self::Tap(port) => WorkerHandle::spawn(WORKER, pairs, port, hook, settings.wait, stats),
        }
    }
}

/// The capture of connection `number`: the path itself, then `path.2`, `path.3`, so that a front-end that comes back does
/// not erase what it sent before. Only the path itself was named by somebody, so only what is there is replaced.
fn numbered(path: PathBuf, number: u64) -> Plan {
    if number <= 1 {
        return Plan { path, replace: true };
    }
    let mut name = path.into_os_string();
    name.push(format!(".{number}"));
    Plan { path: name.into(), replace: false }
}

/// Name of the data-plane thread.
const WORKER: &str = "data-plane";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::Port;

    fn settings(port: PortSpec) -> Settings {
        Settings { port, ..Settings::default() }
    }

    #[test]
    fn a_later_connection_does_not_erase_an_earlier_capture() {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        // An empty capture: its header only.
        let header = [0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0];
        std::fs::write(&input, header).unwrap();
        let mut ports = Ports::open(&settings(PortSpec::Pcap { input, output: Some(output.clone()) })).unwrap();
        let made = || {
            let mut made: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            made.sort();
            made
        };
        // The second one connects and leaves.
        for sends in [true, false, true] {
            let AnyPort::Pcap(mut port) = ports.next().unwrap() else { panic!("another port") };
            if sends {
                port.tx_slot(60).unwrap();
                port.tx_commit();
            }
        }
        assert_eq!(made(), ["in", "out", "out.3"]);
        // The fourth one finds what somebody else put there, and leaves it alone.
        std::fs::write(dir.path().join("out.4"), "mine").unwrap();
        let error = ports.next().unwrap_err().to_string();
        assert!(error.contains("out.4") && error.contains("there already"), "{error}");
        drop(ports.next().unwrap());
        assert_eq!(std::fs::read(dir.path().join("out.4")).unwrap(), b"mine");
    }

    #[test]
    fn a_port_that_cannot_be_opened_says_so_before_there_is_a_connection() {
        let error =
            Ports::open(&settings(PortSpec::Pcap { input: "/nonexistent/x".into(), output: None })).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/x"), "{error}");
    }
}
