//! The pair: the driver here, the backend in a process of its own, frames going round between them.
//!
//! A frame goes driver, transmit ring, backend, loopback, receive ring, driver, and is then compared byte by byte with
//! what was sent. Honest backends must return every frame, equal and in order. Hostile ones may do what they like: the run
//! says what the driver made of it, and whether that was declared.
//!
//! With `--tap` the driver's end is a TAP interface of this host instead, and the backend's end may be any port: live
//! traffic, of which nothing is compared.
//!
//! - [`PairOptions`]: what to run; [`PairArgs`]: the same as a command line;
//! - `frames`: what is sent; `traffic`: the loop; `tap`: the loop on an interface; `peer`: the process of the backend;
//! - [`PairReport`]: what came of it.

mod args;
mod frames;
mod peer;
mod report;
mod tap;
mod traffic;

use std::process::ExitCode;
use std::time::Duration;

use ironring_backend::port::tap::{Tap, TapError};
use ironring_common::error::OsError;
use ironring_common::features::Feature;
use ironring_driver::net::{NetError, NetOptions, VirtioNet};
use ironring_driver::transport::{Deadlines, TransportError, VhostUser};

pub use args::{Layout, Mode, PairArgs, PairOptions, Source, Switch, WaitMode};
pub use peer::{BackendArgs, backend_main};
pub use report::{Compared, Counters, PairReport, Rss};
pub use tap::{TapCounts, TapDrops};

use crate::capture::{Capture, CaptureError, CaptureWriter};
use crate::machine::{self, Pinned};
use crate::output::{self, Exit, Failure};
use frames::Frames;
use peer::{Peer, PeerError};
use tap::{Bridge, Ending};
use traffic::{Outcome, SPIN, Traffic};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The capture in or out.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The backend's process.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The device could not be brought up.
    #[error("{source}{said}")]
    BringUp {
        /// Why.
        source: NetError,
        /// The last words of the backend, if there were any.
        said: String,
        /// Whether the backend could not begin: something that it needs is missing.
        missing: bool,
    },
    /// The driver's end of the wire.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A verdict on nothing.
    #[error(
        "--tap does not go with a hostile --mode: a verdict needs frames that are compared; leave --mode out, rules that are broken are reported all the same"
    )]
    HostileTap,
    /// The operating system refused.
    #[error(transparent)]
    Os(#[from] OsError),
    /// Something was asked for that is not in force.
    #[error(
        "`{option}` needs {feature}, which was not negotiated: this driver or the backend does not offer it; leave it out"
    )]
    NotNegotiated {
        /// As it was asked for.
        option: &'static str,
        /// What is missing.
        feature: &'static str,
    },
}

impl PairError {
    /// The error as the tool reports it.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        let exit = match self {
            Self::Capture(_) | Self::HostileTap | Self::Tap(TapError::Name { .. }) => Exit::Usage,
            Self::Peer(_) | Self::Tap(_) | Self::Os(_) | Self::BringUp { missing: true, .. } => Exit::Unable,
            Self::BringUp { source: NetError::Transport(TransportError::Connect { .. }), .. } => Exit::Unable,
            Self::BringUp { source: NetError::Os(_), .. } => Exit::Unable,
            Self::BringUp { source: NetError::Misuse(_) | NetError::FrameMax { .. }, .. } => Exit::Usage,
            Self::BringUp { .. } | Self::NotNegotiated { .. } => Exit::Broke,
        };
        Failure { sentence: self.to_string(), exit }
    }
}

/// The `pair` subcommand.
#[must_use]
pub fn main(args: &PairArgs, log: Option<&str>, json: bool) -> ExitCode {
    let bar = output::progress("pair");
    let result = args.to_options(log).and_then(|options| run(&options, |done, of| bar.frames(done, of)));
    bar.finish();
    match result {
        Ok(report) => {
            if let Some(error) = &report.error {
                output::note(&format!("ironring: {error}"));
            }
            if json {
                output::print_json(&report);
            } else {
                output::print_text(&report.to_text());
            }
            report.exit().into()
        }
        Err(error) => output::fail_with(json, &error.to_failure()),
    }
}

/// Runs a pair. `progress` is told now and then: frames back, of.
///
/// # Errors
/// [`PairError`] if no traffic could be run. What happens in the traffic is no error but part of the report; so is what a
/// backend that was asked to be hostile does before.
pub fn run(options: &PairOptions, progress: impl FnMut(u64, u64)) -> Result<PairReport, PairError> {
    let mut out = match (&options.out, &options.source) {
        (Some(path), Source::Capture { path: input, .. }) => Some(CaptureWriter::check(path, input)?),
        _ => None,
    };
    let ending = options.source.is_tap().then(Ending::at_signals).transpose()?;
    let mut frames = Frames::of(&options.source, options.seed);
    let cpus = (options.wait == WaitMode::Poll).then(machine::two_cpus).flatten();
    let (mut peer, channel) = connect(options, cpus.map(|(_, backend)| backend))?;
    let pinned = cpus.and_then(|(driver, _)| Pinned::to(driver));
    let brought_up =
        channel.map_err(NetError::from).and_then(|channel| VirtioNet::bring_up(channel, net_options(options, &frames)));
    let mut net = match brought_up {
        Ok(net) => net,
        Err(error) if options.mode.is_hostile() => {
            let mut report = PairReport::refused(options, &error);
            if let Some(peer) = &mut peer {
                report.struck(peer.strikes());
            }
            return Ok(report);
        }
        Err(source) => {
            let said = peer.as_mut().map(Peer::last_words).unwrap_or_default();
            let missing = peer.as_mut().is_some_and(Peer::could_not_begin);
            return Err(PairError::BringUp { source, said, missing });
        }
    };
    options.check_negotiated(net.negotiated())?;
    tracing::info!(features = ?net.negotiated(), "the device is up");
    if let (Some(out), Source::Capture { capture, .. }) = (&mut out, &options.source) {
        out.begin(capture)?;
    }
    let rss = Rss {
        driver: machine::rss_bytes(None),
        backend: peer.as_ref().and_then(|p| machine::rss_bytes(Some(p.pid()))),
    };
    let (traffic, tap) = if let (Source::Tap { name, limit }, Some(ending)) = (&options.source, &ending) {
        let tap = Tap::open(name, net.config().and_then(|config| config.mtu))?;
        let (traffic, counts) = Bridge::new(tap, name, options.wait, *limit, ending).run(&mut net);
        (traffic, Some(counts))
    } else {
        (Traffic::new(&mut frames, options, out.as_mut()).run(&mut net, progress), None)
    };
    drop(pinned);
    let mut report = PairReport::of(options, &mut net, &traffic, rss);
    report.tap = tap;
    end(net, &traffic, peer.as_mut(), &mut report);
    if let Some(mut out) = out {
        out.finish()?;
    }
    Ok(report)
}

/// Starts a backend and connects to it, or connects to the one that runs.
fn connect(
    options: &PairOptions,
    cpu: Option<usize>,
) -> Result<(Option<Peer>, Result<VhostUser, TransportError>), PairError> {
    // An attack on the channel is over when the deadline is.
    let deadlines = if options.mode.is_hostile() { HOSTILE } else { HONEST };
    if let Some(path) = &options.socket {
        return Ok((None, VhostUser::connect(path, deadlines)));
    }
    let (peer, stream) = Peer::start(options, cpu)?;
    Ok((Some(peer), VhostUser::from_stream(stream, deadlines)))
}

/// Ends the epoch, and the backend with it; takes what there is to be learned at the end into the report.
fn end(net: VirtioNet, traffic: &Outcome, peer: Option<&mut Peer>, report: &mut PairReport) {
    if report.error.is_none() && !report.hostile() && traffic.stopped.is_none() {
        if let Err(error) = net.close() {
            report.error = Some(format!("after the last frame: {error}"));
        }
    } else {
        drop(net);
    }
    if let Some(peer) = peer {
        peer.wait(LEAVE);
        report.struck(peer.strikes());
        if report.error.is_some() && !report.hostile() {
            let said = peer.last_words();
            report.error = report.error.take().map(|error| error + &said);
        }
    }
}

fn net_options(pair: &PairOptions, frames: &Frames) -> NetOptions {
    let options = NetOptions::default();
    let longest = u32::try_from(frames.longest()).unwrap_or(u32::MAX);
    let wants = |feature| pair.wanted.iter().any(|(_, wanted)| *wanted == feature);
    NetOptions {
        layout: pair.layout.into(),
        queue_size: pair.queue_size,
        indirect: wants(Feature::IndirectDesc),
        event_idx: wants(Feature::EventIdx),
        in_order: wants(Feature::InOrder),
        frame_max: options.frame_max.max(longest),
        spin: if pair.wait == WaitMode::Adaptive { SPIN } else { Duration::ZERO },
        ..options
    }
}

impl Source {
    /// Whether frames come from an interface of this host.
    #[must_use]
    pub const fn is_tap(&self) -> bool {
        matches!(self, Self::Tap { .. })
    }

    /// The frames of a capture.
    #[must_use]
    pub fn embedded(capture: Capture) -> Self {
        Self::Capture { path: std::path::PathBuf::new(), capture }
    }
}

/// The longest frame that the driver's queues can be made for.
const FRAME_MAX: usize = 65523;
/// A backend that was started a moment ago may need a while on a busy machine.
const HONEST: Deadlines = Deadlines { connect: Duration::from_secs(5), request: Duration::from_secs(5) };
const HOSTILE: Deadlines = Deadlines { connect: Duration::from_secs(1), request: Duration::from_secs(2) };
/// How long a backend that was left may take to end by itself. One that is killed cannot tell what it did.
const LEAVE: Duration = Duration::from_secs(5);
