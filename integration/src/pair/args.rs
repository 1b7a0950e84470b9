//! What a pair is to do, as a command line and as checked options.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ironring_backend::config::PortSpec;
use ironring_backend::hostile::{Attack, Plan};
use ironring_common::features::{Feature, Negotiated};
use ironring_driver::queue::RingLayout;
use serde::Serialize;

use super::{FRAME_MAX, PairError};
use crate::capture::Capture;
use crate::machine;

/// Arguments of `ironring pair`.
#[derive(Clone, Debug, clap::Args)]
pub struct PairArgs {
    /// Ring layout
    #[arg(long, value_enum, default_value = "split")]
    pub layout: Layout,
    /// Send the frames of this capture (classic pcap, Ethernet) instead of generated ones
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Write what came back as a capture, with the original timestamps
    #[arg(long, value_name = "FILE", requires = "pcap")]
    pub out: Option<PathBuf>,
    /// Round trips [default: once through the capture, or 1000000 generated frames]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub frames: Option<u64>,
    /// Put the driver's end on this TAP interface, made if it is missing: what the host sends there goes through the
    /// rings, what the rings give goes there. Nothing is compared, so the result has no `frames_verified`
    #[arg(long, value_name = "NAME", conflicts_with_all = ["pcap", "out", "frames", "size"])]
    pub tap: Option<String>,
    /// Where the backend has its end, as the daemon reads it: tap:NAME, tap:fd=N, loopback, null, generate:BYTES, pcap:IN or
    /// pcap:IN:OUT [default: loopback]
    #[arg(long, value_name = "PORT", requires = "tap", conflicts_with = "socket", value_parser = port)]
    pub port: Option<String>,
    /// End after this time; without it the pair ends at SIGINT or SIGTERM
    #[arg(long, value_name = "SECONDS", requires = "tap", value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: Option<u64>,
    /// Bytes of a generated frame, 60 to 1518
    #[arg(long, value_name = "BYTES", default_value = "64", conflicts_with = "pcap",
          value_parser = clap::value_parser!(u32).range(60..=1518))]
    pub size: u32,
    /// Descriptors of each queue: 1 to 32768, for the split layout a power of two
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub queue_size: u16,
    /// Frames on their way at most, 1 to 192; with 1 the result says how long a round trip takes
    #[arg(long, value_name = "N", default_value_t = WINDOW, conflicts_with = "tap",
          value_parser = clap::value_parser!(u64).range(1..=WINDOW))]
    pub in_flight: u64,
    /// Send every frame by an indirect table
    #[arg(long, value_enum, default_value = "off")]
    pub indirect: Switch,
    /// Notify by event indices
    #[arg(long, value_enum, default_value = "off")]
    pub event_idx: Switch,
    /// Let the device use buffers in order, in batches
    #[arg(long, value_enum, default_value = "off")]
    pub in_order: Switch,
    /// Let the device merge receive buffers
    #[arg(long, value_enum, default_value = "off")]
    pub mergeable: Switch,
    /// Use the backend that listens at PATH instead of starting one; without --tap its port must be a loopback
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// `honest` or `hostile:ID[,ID...]`; with --socket it only says what to expect. Not hostile with --tap: a verdict
    /// needs frames that are compared
    #[arg(long, default_value = "honest")]
    pub mode: Mode,
    /// Seed of generated frames and of the attack
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// How both sides wait for work [default: poll; adaptive with --tap, and where there is but one CPU]
    #[arg(long, value_enum)]
    pub wait: Option<WaitMode>,
}

/// What a pair is to do.
#[derive(Clone, Debug)]
pub struct PairOptions {
    /// Ring layout.
    pub layout: Layout,
    /// Descriptors of each queue.
    pub queue_size: u16,
    /// Frames on their way at most.
    pub in_flight: u64,
    /// What is sent.
    pub source: Source,
    /// Where what came back is written; for captures only.
    pub out: Option<PathBuf>,
    /// Round trips; none are counted on a TAP interface.
    pub frames: u64,
    /// Where a backend that is started has its end, as its command line says it.
    pub port: String,
    /// What has to be in force, with the option that asks for it.
    pub wanted: Vec<(&'static str, Feature)>,
    /// A backend that runs already.
    pub socket: Option<PathBuf>,
    /// What the backend is like.
    pub mode: Mode,
    /// Seed of generated frames and of the attack.
    pub seed: u64,
    /// How both sides wait.
    pub wait: WaitMode,
    /// Log level, for the backend too.
    pub log: Option<String>,
}

/// What is sent.
#[derive(Clone, Debug)]
pub enum Source {
    /// Generated frames of so many bytes.
    Generated {
        /// Bytes of each.
        size: usize,
    },
    /// The frames of a capture, over and over.
    Capture {
        /// Where it came from; empty if it is bundled.
        path: PathBuf,
        /// The frames.
        capture: Capture,
    },
    /// What a TAP interface gives, which also takes what comes back.
    Tap {
        /// The interface.
        name: String,
        /// How long; until a signal comes if there is none.
        limit: Option<Duration>,
    },
}

/// Ring layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Descriptor table, available ring, used ring.
    Split,
    /// One ring of slots.
    Packed,
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// Asked for.
    On,
    /// Not asked for.
    Off,
}

/// How a side waits for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum WaitMode {
    /// It looks again, without end.
    Poll,
    /// It looks for a moment, then it sleeps until it is notified.
    Adaptive,
    /// It sleeps until it is notified.
    Interrupt,
}

/// What the backend is like.
#[derive(Clone, Debug)]
pub enum Mode {
    /// It keeps the rules.
    Honest,
    /// It attacks.
    Hostile {
        /// The ids, as they were given.
        ids: String,
        /// The attacks.
        attacks: Vec<&'static Attack>,
    },
}

impl PairArgs {
    /// Reads what is named, and checks what can be checked before anything runs.
    ///
    /// # Errors
    /// [`PairError::Capture`], or [`PairError::HostileTap`].
    pub fn to_options(&self, log: Option<&str>) -> Result<PairOptions, PairError> {
        let source = match (&self.pcap, &self.tap) {
            (Some(path), _) => Source::Capture { path: path.clone(), capture: Capture::open(path, FRAME_MAX)? },
            (None, Some(_)) if self.mode.is_hostile() => return Err(PairError::HostileTap),
            (None, Some(name)) => Source::Tap { name: name.clone(), limit: self.seconds.map(Duration::from_secs) },
            (None, None) => Source::Generated { size: usize::try_from(self.size).unwrap_or(usize::MAX) },
        };
        let frames = self.frames.unwrap_or(match &source {
            Source::Capture { capture, .. } => u64::try_from(capture.len()).unwrap_or(u64::MAX),
            Source::Generated { .. } => GENERATED_DEFAULT,
            Source::Tap { .. } => 0,
        });
        let wait = self
            .wait
            .unwrap_or_else(|| if self.tap.is_some() { WaitMode::Adaptive } else { WaitMode::of_this_machine() });
        Ok(PairOptions {
            layout: self.layout,
            queue_size: self.queue_size,
            in_flight: self.in_flight,
            source,
            out: self.out.clone(),
            frames,
            port: self.port.clone().unwrap_or_else(|| LOOPBACK.to_owned()),
            wanted: self.wanted(),
            socket: self.socket.clone(),
            mode: self.mode.clone(),
            seed: self.seed,
            wait,
            log: log.map(ToOwned::to_owned),
        })
    }

    /// What has to be in force for what was asked for.
    fn wanted(&self) -> Vec<(&'static str, Feature)> {
        let asked = [
            (self.layout == Layout::Packed, "--layout packed", Feature::RingPacked),
            (self.indirect == Switch::On, "--indirect on", Feature::IndirectDesc),
            (self.event_idx == Switch::On, "--event-idx on", Feature::EventIdx),
            (self.in_order == Switch::On, "--in-order on", Feature::InOrder),
            (self.mergeable == Switch::On, "--mergeable on", Feature::MrgRxbuf),
        ];
        asked.into_iter().filter(|(on, ..)| *on).map(|(_, option, feature)| (option, feature)).collect()
    }
}

impl PairOptions {
    /// A split ring, polled if there is a CPU for each side, and an honest backend in a process of its own.
    #[must_use]
    pub fn new(source: Source, frames: u64) -> Self {
        Self {
            layout: Layout::Split,
            queue_size: 256,
            in_flight: WINDOW,
            source,
            out: None,
            frames,
            port: LOOPBACK.to_owned(),
            wanted: Vec::new(),
            socket: None,
            mode: Mode::Honest,
            seed: 1,
            wait: WaitMode::of_this_machine(),
            log: None,
        }
    }

    pub(super) fn check_negotiated(&self, negotiated: Negotiated) -> Result<(), PairError> {
        match self.wanted.iter().find(|(_, feature)| !negotiated.has(*feature)) {
            Some((option, feature)) => Err(PairError::NotNegotiated { option, feature: feature.name() }),
            None => Ok(()),
        }
    }
}

impl WaitMode {
    /// Polling needs a CPU for each side.
    #[must_use]
    pub fn of_this_machine() -> Self {
        if machine::two_cpus().is_some() { Self::Poll } else { Self::Adaptive }
    }

    /// As the command line spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Adaptive => "adaptive",
            Self::Interrupt => "interrupt",
        }
    }
}

impl Layout {
    /// As the command line spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Packed => "packed",
        }
    }
}

impl From<Layout> for RingLayout {
    fn from(layout: Layout) -> Self {
        match layout {
            Layout::Split => Self::Split,
            Layout::Packed => Self::Packed,
        }
    }
}

impl Mode {
    /// Whether it attacks.
    #[must_use]
    pub const fn is_hostile(&self) -> bool {
        matches!(self, Self::Hostile { .. })
    }

    /// The attacks; none if it is honest.
    #[must_use]
    pub fn attacks(&self) -> &[&'static Attack] {
        match self {
            Self::Honest => &[],
            Self::Hostile { attacks, .. } => attacks,
        }
    }
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "honest" {
            return Ok(Self::Honest);
        }
        let Some(ids) = text.strip_prefix("hostile:") else {
            return Err("it is neither `honest` nor `hostile:ID[,ID...]`; `ironring attacks` lists the ids".into());
        };
        let plan = Plan::parse(ids, 0).map_err(|error| error.to_string())?;
        Ok(Self::Hostile { ids: ids.to_owned(), attacks: plan.attacks().to_vec() })
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Honest => f.write_str("honest"),
            Self::Hostile { ids, .. } => write!(f, "hostile:{ids}"),
        }
    }
}

impl Source {
    /// What it is, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Generated { size } => format!("generated, {size} bytes each"),
            Self::Capture { path, capture } if path == Path::new("") => {
                format!("from the bundled capture of {} frames", capture.len())
            }
            Self::Capture { path, capture } => format!("from the {} frames of {}", capture.len(), path.display()),
            Self::Tap { name, .. } => format!("from the TAP interface {name}"),
        }
    }
}

/// A port as the daemon will read it.
fn port(text: &str) -> Result<String, String> {
    PortSpec::from_str(text).map(|_| text.to_owned())
}

/// Frames in flight at most: fewer than a ring has by default, so that both sides always find work.
pub(super) const WINDOW: u64 = 192;
const LOOPBACK: &str = "loopback";
const GENERATED_DEFAULT: u64 = 1_000_000;
