//! Drivers of others under the same attacks. What is found is reported as it was found: a driver that hangs, dies or is
//! harmed is a finding, never a failure of the audit.

mod campaign;
mod dpdk;
mod guest;
mod hal_sys;
mod initramfs;
mod rcore;

pub(super) use campaign::{GuestOptions, campaigns};
pub use campaign::{GuestsArgs, guests_main};

use ironring_backend::hostile::{Attack, Axes, Axis, Surface};
use ironring_driver::queue::RingLayout;
use serde::{Deserialize, Serialize};

use crate::config::RingConfig;

/// Whose driver is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The driver of this project, and the ring that trusts its device.
    Ironring,
    /// The backend of this project, under a driver that is hostile.
    Backend,
    /// The crate virtio-drivers (rcore), in a process of its own.
    VirtioDrivers,
    /// A Linux guest under QEMU.
    Qemu,
    /// DPDK's virtio-user, under testpmd.
    Dpdk,
}

impl Target {
    /// Drivers of others.
    pub const ALL: [Self; 3] = [Self::VirtioDrivers, Self::Qemu, Self::Dpdk];

    /// As in reports and arguments.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ironring => "ironring",
            Self::Backend => "backend",
            Self::VirtioDrivers => "virtio-drivers",
            Self::Qemu => "linux",
            Self::Dpdk => "dpdk",
        }
    }

    /// As in arguments.
    #[must_use]
    pub const fn argument(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            other => other.name(),
        }
    }

    /// The configurations in which an attack is run against it; none if it does not have what is struck.
    pub(super) fn configs(self, attack: &Attack) -> Vec<RingConfig> {
        let Axes { in_order, .. } = attack.axes;
        let on_rings = !matches!(attack.surface, Surface::Channel | Surface::File);
        // Over the socket it is this project's front-end that it speaks through.
        let doorbells = ["A105", "A106"].contains(&attack.id);
        if self == Self::Ironring {
            let layouts = [RingLayout::Split, RingLayout::Packed];
            return layouts.into_iter().flat_map(|layout| RingConfig::of(attack, layout)).collect();
        }
        if !on_rings || doorbells || in_order == Axis::On {
            return Vec::new();
        }
        let of = RingConfig::of(attack, RingLayout::Split);
        of.into_iter().filter(|config| !config.in_order).collect()
    }
}

/// How a driver of others came through an attack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// There was nothing to strike.
    #[default]
    NotStruck,
    /// Nothing that a watcher could see.
    Unharmed,
    /// It returned an error: it has seen that something is wrong.
    Named,
    /// It handed out frames that nobody has sent.
    Misled,
    /// It goes on, but frames do not come back, also after the attack.
    Stuck,
    /// It did not come back to its caller.
    Hung,
    /// It ended its process.
    Crashed,
    /// Something happened to its memory.
    Harmed,
}

impl Outcome {
    /// As in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotStruck => "not-struck",
            Self::Unharmed => "unharmed",
            Self::Named => "named",
            Self::Misled => "misled",
            Self::Stuck => "stuck",
            Self::Hung => "hung",
            Self::Crashed => "crashed",
            Self::Harmed => "harmed",
        }
    }
}

/// What became of a driver in a cell: the worst of its seeds, with the evidence.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Encounter {
    /// The worst.
    pub outcome: Outcome,
    /// What was seen.
    pub evidence: Vec<String>,
    /// How often the attack struck.
    pub strikes: u64,
}

impl Encounter {
    /// Notes something that was seen.
    fn see(&mut self, outcome: Outcome, evidence: String) {
        if self.evidence.contains(&evidence) {
            return;
        }
        // The worst first.
        let at = if outcome > self.outcome { 0 } else { self.evidence.len() };
        self.outcome = self.outcome.max(outcome);
        self.evidence.insert(at, evidence);
    }

    fn join(&mut self, other: Self) {
        self.strikes += other.strikes;
        // The worst of them comes first.
        other.evidence.into_iter().for_each(|evidence| self.see(other.outcome, evidence));
        self.outcome = self.outcome.max(other.outcome);
    }
}

/// A cell of a driver of others.
#[derive(Clone, Debug, Serialize)]
pub struct VictimRow {
    /// Whose driver.
    pub target: Target,
    /// Id of the attack.
    pub attack: String,
    /// The ring's configuration.
    pub config: String,
    /// What became of it.
    #[serde(flatten)]
    pub encounter: Encounter,
}

/// Runs a cell here, in the child.
pub(super) fn run(
    target: Target,
    attack: &str,
    config: RingConfig,
    seeds: std::ops::Range<u64>,
) -> Result<Encounter, Box<dyn std::error::Error>> {
    let mut all = Encounter::default();
    for seed in seeds {
        all.join(match target {
            Target::Ironring | Target::Backend | Target::Qemu | Target::Dpdk => {
                return Err("such a driver has no cells of this kind".into());
            }
            Target::VirtioDrivers => rcore::run(attack, config, seed)?,
        });
    }
    Ok(all)
}

/// What is known of a child that said nothing.
pub(super) fn of_death(verdict: &str, how: String) -> Encounter {
    let outcome = if verdict == crate::verdict::WEDGED { Outcome::Hung } else { Outcome::Crashed };
    Encounter { outcome, evidence: vec![how], strikes: 0 }
}
