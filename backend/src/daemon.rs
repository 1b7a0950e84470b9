//! The program: arguments, log, signals, socket, sessions, exit status.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use ironring_common::error::OsError;

use crate::config::{self, Invocation, Mode, Settings, Transport};
use crate::log;
use crate::port::PortError;
use crate::session::listen::{Endpoint, ListenError};
use crate::session::{Ports, ServeError, StopToken};
use crate::signals::SignalWatch;

/// Runs the daemon with these arguments, the program's name first, until it is told to end.
///
/// Exit status: 0 ended as told, 1 failed, 2 the arguments are wrong, 3 it could not begin.
#[must_use]
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match config::parse(args) {
        Ok(Invocation::PrintCapabilities) => print_capabilities(),
        Ok(Invocation::Serve { transport, settings, mode, log }) => {
            log::init(log);
            match run(&transport, &settings, &mode) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    tracing::error!("{error}");
                    ExitCode::from(error.status())
                }
            }
        }
        Err(error) => {
            // To stdout what was asked for, to stderr what was wrong. If that is closed, the status says it all.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(STATUS_USAGE))
        }
    }
}

/// Why the daemon ended before it was told to.
#[derive(Debug, thiserror::Error)]
enum DaemonError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error(transparent)]
    Port(#[from] PortError),
    #[error(transparent)]
    Os(#[from] OsError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl DaemonError {
    const fn status(&self) -> u8 {
        match self {
            Self::Listen(_) | Self::Port(_) | Self::Os(_) => STATUS_COULD_NOT_RUN,
            Self::Serve(_) => STATUS_FAILED,
        }
    }
}

fn run(transport: &Transport, settings: &Settings, mode: &Mode) -> Result<(), DaemonError> {
    let stop = StopToken::new()?;
    // Before the socket: whoever sees it there may send the signal.
    let signals = SignalWatch::start(stop.clone())?;
    // Also before the socket: a front-end that finds it there is served.
    let ports = Ports::open(settings)?;
    let endpoint = match transport {
        Transport::Path(path) => Endpoint::bind(path, settings.access)?,
        Transport::Connect(path) => Endpoint::Calling(path.clone()),
        Transport::Activated => Endpoint::activated()?,
        Transport::Fd(fd) => Endpoint::inherit(*fd)?,
    };
    signals.remove_at_the_end(endpoint.socket_file());
    tracing::info!(mac = %settings.mac, "ready");
    mode.serve(&endpoint, ports, settings, &stop)?;
    Ok(())
}

/// What programs that manage backends ask for. The features that QEMU's schema knows are those of other device types.
fn print_capabilities() -> ExitCode {
    let capabilities = serde_json::json!({ "type": "net", "features": [] });
    match writeln!(std::io::stdout().lock(), "{capabilities}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(STATUS_FAILED),
    }
}

const STATUS_FAILED: u8 = 1;
const STATUS_USAGE: u8 = 2;
const STATUS_COULD_NOT_RUN: u8 = 3;
