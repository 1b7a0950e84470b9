//! What a measurement comes to.

use serde::Serialize;

use super::cores::CoreUse;
use super::sums::{Ratio, Spread};
use super::testpmd::Path22;
use super::work::{Trust, Work};

/// One result.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    /// Millions of frames a second at the receiver; round trips with `loop` and `latency`.
    pub mpps: Spread,
    /// Of the median.
    pub ns_per_packet: f64,
    /// Round trips in nanoseconds, where our driver makes them: 50 %, 99 %, 99.9 %; medians of the samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentiles_ns: Option<[u64; 3]>,
    /// The other pairing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vs: Option<Versus>,
    /// The first pairing against itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise_floor: Option<Ratio>,
    /// How near the CPUs were to each other, and which rounds were left out for that.
    pub cpus: Nearness,
    /// Of what two CPUs can stream with as many lines of cache as a frame and its header take.
    pub limit_share: Ratio,
    /// What the cores of testpmd did, if that was recorded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dpdk_cores: Vec<CoreUse>,
    /// What the core of our driver did, where it received from a core of testpmd's that was recorded.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub driver_cores: Vec<CoreUse>,
    /// Every sample that counts, in the order of the rounds.
    pub samples: Vec<Samples>,
    /// What was measured.
    pub config: Config,
    /// Why the numbers may say less than they seem to.
    pub warnings: Vec<String>,
    /// What was not measured, and why.
    pub skipped: Vec<String>,
}

/// How near to each other the two CPUs were.
#[derive(Clone, Debug, Serialize)]
pub struct Nearness {
    /// What a word took back and forth, in nanoseconds: the middle of each round that counts.
    pub ping_pong_ns: Spread,
    /// Rounds that do not count: the CPUs were further apart in them, or were moved, or were nearer in too few rounds.
    pub left_out: usize,
    /// What a word took in those.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apart_ns: Option<Spread>,
    /// The ratio in those, where there is a comparison.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apart_ratio: Option<Ratio>,
}

/// The samples of one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Samples {
    /// A pairing, the first one `again`, or what the machine can stream, `limit`.
    pub name: String,
    /// Millions a second, one number a round.
    pub mpps: Vec<f64>,
}

/// A comparison.
#[derive(Clone, Debug, Serialize)]
pub struct Versus {
    /// The pairing.
    pub name: &'static str,
    /// Its rates.
    pub mpps: Spread,
    /// How many times as fast the first pairing is.
    pub ratio: Ratio,
    /// The path of DPDK's virtio-user, if that is the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dpdk_path: Option<Path22>,
}

/// What was measured, and how.
#[derive(Clone, Debug, Serialize)]
pub struct Config {
    /// The first pairing.
    pub pairing: &'static str,
    /// The work.
    #[serde(flatten)]
    pub work: Work,
    /// The rings of our driver in the first pairing.
    pub ring: Trust,
    /// The path of DPDK's virtio-user, if that is the driver of the first pairing, or else of the other.
    pub dpdk_path: Option<Path22>,
    /// What testpmd does with the frames of a loop, or with those that it receives, if it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dpdk_forward: Option<Forward>,
    /// Seconds of each sample.
    pub seconds: u64,
    /// Samples of each pairing.
    pub samples: u32,
}

/// What testpmd does with frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forward {
    /// Passes them on without a look.
    Io,
    /// Swaps the addresses of each.
    Macswap,
    /// Of frames that come one way: looks at the headers of each, as a receiver does, and frees it. By itself testpmd frees what it
    /// receives unseen.
    Icmpecho,
}

impl Forward {
    /// As testpmd calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Io => "io",
            Self::Macswap => "macswap",
            Self::Icmpecho => "icmpecho",
        }
    }
}

impl BenchReport {
    /// A sentence if the first pairing against itself says that this machine is too noisy for the other ratios.
    pub(super) fn noise(noise_floor: Option<&Ratio>) -> Option<String> {
        let noise = noise_floor?;
        let (width, off) = (noise.width(), (noise.median - 1.0).abs());
        (width > NOISE || off > NOISE).then(|| {
            format!(
                "too noisy: the same thing measured twice differs by {:.0} %, and the interval of that is {:.0} % wide; \
                 stop what else runs here, or take more --samples",
                100.0 * off,
                100.0 * width
            )
        })
    }
}

/// By so much two measurements of the same thing may differ.
const NOISE: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_said() {
        let said = |median, ci95| BenchReport::noise(Some(&Ratio { median, ci95 }));
        assert!(said(1.0, [0.97, 1.03]).is_none() && BenchReport::noise(None).is_none());
        assert!(said(1.0, [0.9, 1.05]).unwrap().contains("15 % wide"));
        assert!(
            said(1.12, [1.1, 1.13]).unwrap().starts_with("too noisy: the same thing measured twice differs by 12 %")
        );
    }
}
