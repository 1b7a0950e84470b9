//! The program: arguments, log, ports, signals, socket, sandbox, sessions, exit status.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use ironring_common::error::OsError;
use landlock::RulesetStatus;

use crate::config::{self, Invocation, Mode, Settings, Transport};
use crate::log;
use crate::port::PortError;
use crate::sandbox::{Refusal, Role, Sandbox, SandboxError};
use crate::session::listen::{Endpoint, ListenError};
use crate::session::{Ports, ServeError, StopToken};
use crate::signals::{self, SignalCatch};

/// Runs the daemon with these arguments, the program's name first, until it is told to end.
///
/// Exit status: 0 ended as told, 1 failed, 2 the arguments are wrong, 3 it could not begin.
#[must_use]
pub fn main_with(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match config::parse(args) {
        Ok(Invocation::PrintCapabilities) => print_capabilities(),
        Ok(Invocation::Serve { transport, settings, mode, confinement, log }) => {
            log::init(log);
            match run(&transport, *settings, &mode, confinement) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    let status = error.status();
                    // Signals are caught by now: a log that nobody reads must not keep the process from ending.
                    signals::say(move || tracing::error!("{error}"));
                    ExitCode::from(status)
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
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl DaemonError {
    const fn status(&self) -> u8 {
        match self {
            Self::Listen(_) | Self::Port(_) | Self::Sandbox(_) | Self::Os(_) => STATUS_COULD_NOT_RUN,
            Self::Serve(_) => STATUS_FAILED,
        }
    }
}

fn run(
    transport: &Transport,
    mut settings: Settings,
    mode: &Mode,
    confinement: Option<Refusal>,
) -> Result<(), DaemonError> {
    let stop = StopToken::new()?;
    // Before the socket: a front-end that finds it there is served.
    let ports = Ports::open(&settings)?;
    // Also before the socket: whoever sees it there may send the signal.
    let signals = SignalCatch::new()?;
    let endpoint = match transport {
        Transport::Path(path) => Endpoint::bind(path, settings.access)?,
        Transport::Connect(path) => Endpoint::Calling(path.clone()),
        Transport::Activated => Endpoint::activated()?,
        Transport::Fd(fd) => Endpoint::inherit(*fd)?,
    };
    // No thread but this one runs yet.
    let mut landlock = RulesetStatus::NotEnforced;
    if let Some(refusal) = confinement {
        settings.sandbox = Sandbox::new(refusal)?;
        let directory = endpoint.socket_file().upgrade().map(|file| file.directory());
        landlock = settings.sandbox.enclose(directory.as_deref())?;
    }
    // From here on a signal ends it, also if the log does not take a line.
    let _signals = signals.watch(stop.clone(), endpoint.socket_file(), settings.sandbox.clone())?;
    settings.sandbox.enter(if matches!(endpoint, Endpoint::Calling(_)) { Role::Caller } else { Role::Main })?;
    match (confinement, landlock) {
        (None, _) => tracing::warn!("no sandbox: a peer that finds a bug can do what the user of this process can"),
        (_, RulesetStatus::NotEnforced) => {
            tracing::warn!("in a sandbox without Landlock, which this kernel lacks: files of this user can be removed");
        }
        (_, landlock) => tracing::info!(?landlock, "in a sandbox"),
    }
    tracing::info!(mac = %settings.mac, "ready");
    mode.serve(&endpoint, ports, &settings, &stop)?;
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
