//! What is measured: the work of one result.

use ironring_backend::port::generate::IMIX;
use ironring_common::spec::net::HDR_BYTES;
use ironring_driver::queue::RingLayout;
use serde::Serialize;

use crate::{config, machine};

/// Which way frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From the driver to the backend.
    Tx,
    /// From the backend to the driver.
    Rx,
    /// Round: the backend returns each frame, the driver sends it again.
    Loop,
    /// Round, one frame at a time.
    Latency,
}

/// Bytes of the frames, without the net header and without a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Size {
    /// All the same.
    Bytes(u16),
    /// Simple IMIX: of twelve frames, seven of 64 bytes, four of 570 and one of 1518.
    #[serde(serialize_with = "imix_name")]
    Imix,
}

/// In which order the backend gives buffers back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Completions {
    /// As they were made available.
    InOrder,
    /// Shuffled within each burst, which only our backend does.
    Shuffled,
}

/// Whose driver or backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Maker {
    /// Ours.
    Ironring,
    /// DPDK's: virtio-user, or `net_vhost`.
    Dpdk,
}

/// The rings of our driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trust {
    /// Those of ironring.
    Hardened,
    /// Rings that believe what stands in shared memory, for comparison.
    Trusting,
}

/// How our driver is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Api {
    /// Frames are copied in from private memory, and copied out to it.
    Copy,
    /// Sent frames are written in place: their first 42 bytes, as testpmd's `txonly` does.
    InPlace,
    /// Received frames stay where they are, and only their net headers are read, as testpmd's `rxonly` does; or are forwarded
    /// from slot to slot, without a look at their bytes.
    Lease,
    /// Received frames go out again from where they lie, and only their net headers are read, as testpmd's `io` does it.
    Hairpin,
}

/// Two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// A driver and a backend over vhost-user.
    Vhost(Maker, Maker),
    /// Our driver with rings that trust their device, and a backend.
    Trusting(Maker),
    /// Two ends of DPDK's `net_memif`.
    Memif,
}

/// How much work it is. The same for both pairings that are compared.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Work {
    /// Split or packed.
    #[serde(serialize_with = "layout_name")]
    pub layout: RingLayout,
    /// Which way.
    pub dir: Direction,
    /// Bytes of the frames.
    pub size: Size,
    /// Descriptors of each queue.
    pub ring_size: u16,
    /// Frames in a burst.
    pub burst: u16,
    /// `VIRTIO_F_IN_ORDER` on our side, where it is negotiated.
    pub in_order: bool,
    /// How our driver is used, where there is one.
    pub api: Api,
    /// How our backend completes, where there is one.
    pub completions: Completions,
    /// Whether the memory of our driver is huge pages; that of DPDK's always is.
    pub hugepages: bool,
    /// Queue pairs that carry frames, in turn.
    pub queues: u16,
    /// Queue pairs that are there and carry nothing.
    pub idle_queues: u16,
    /// Threads of each side.
    pub threads: u16,
    /// Whether those of a side share a CPU.
    pub share_cpus: bool,
}

fn layout_name<S: serde::Serializer>(layout: &RingLayout, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(config::name(*layout))
}

fn imix_name<S: serde::Serializer>(to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str("imix")
}

impl Pairing {
    /// As reports and `--vs` say it: driver, backend.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vhost(Maker::Ironring, Maker::Ironring) => "ironring-ironring",
            Self::Vhost(Maker::Ironring, Maker::Dpdk) => "ironring-dpdk",
            Self::Vhost(Maker::Dpdk, Maker::Ironring) => "dpdk-ironring",
            Self::Vhost(Maker::Dpdk, Maker::Dpdk) => "dpdk-dpdk",
            Self::Trusting(Maker::Ironring) => "trusting",
            Self::Trusting(Maker::Dpdk) => "trusting-dpdk",
            Self::Memif => "memif",
        }
    }

    /// All there are.
    const ALL: [Self; 7] = [
        Self::Vhost(Maker::Ironring, Maker::Ironring),
        Self::Vhost(Maker::Ironring, Maker::Dpdk),
        Self::Vhost(Maker::Dpdk, Maker::Ironring),
        Self::Vhost(Maker::Dpdk, Maker::Dpdk),
        Self::Memif,
        Self::Trusting(Maker::Ironring),
        Self::Trusting(Maker::Dpdk),
    ];

    /// Who makes the driver, and who the backend.
    #[must_use]
    pub const fn makers(self) -> (Maker, Maker) {
        match self {
            Self::Vhost(driver, backend) => (driver, backend),
            Self::Trusting(backend) => (Maker::Ironring, backend),
            Self::Memif => (Maker::Dpdk, Maker::Dpdk),
        }
    }

    /// Whether a part of it is DPDK's.
    #[must_use]
    pub fn needs_dpdk(self) -> bool {
        self.makers() != (Maker::Ironring, Maker::Ironring)
    }

    /// Whether its driver is DPDK's virtio-user.
    #[must_use]
    pub const fn is_virtio_user(self) -> bool {
        matches!(self, Self::Vhost(Maker::Dpdk, _))
    }
}

impl std::str::FromStr for Pairing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|pairing| pairing.name() == text).ok_or_else(|| format!("write one of {names}"))
    }
}

impl Size {
    /// The frames of a round: their bytes, one after the other.
    #[must_use]
    pub fn turns(self) -> Vec<usize> {
        match self {
            Self::Bytes(bytes) => vec![usize::from(bytes)],
            Self::Imix => IMIX.to_vec(),
        }
    }

    /// The longest of them.
    #[must_use]
    pub fn longest(self) -> u16 {
        match self {
            Self::Bytes(bytes) => bytes,
            // The longest is 1518.
            Self::Imix => self.turns().into_iter().max().and_then(|bytes| u16::try_from(bytes).ok()).unwrap_or(0),
        }
    }

    /// Lines of cache that a frame and its header take if one lies behind the other, on average.
    #[must_use]
    pub fn lines(self) -> usize {
        let turns = self.turns();
        let lines: usize = turns.iter().map(|bytes| (bytes + HDR_BYTES).div_ceil(64)).sum();
        (lines + turns.len() / 2) / turns.len()
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => bytes.fmt(f),
            Self::Imix => f.write_str("imix"),
        }
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self::Imix);
        }
        let bytes = text.parse().ok().filter(|bytes| (SIZE_MIN..=SIZE_MAX).contains(bytes));
        bytes.map(Self::Bytes).ok_or_else(|| format!("write imix, or {SIZE_MIN} to {SIZE_MAX} bytes"))
    }
}

impl Work {
    /// Queue pairs in all.
    #[must_use]
    pub const fn pairs(&self) -> u16 {
        self.queues.saturating_add(self.idle_queues)
    }

    /// The CPUs of the driver and those of the backend, which begin with these.
    ///
    /// # Errors
    /// There are too few: a sentence.
    pub fn cpus(&self, first: (usize, usize)) -> Result<(Vec<usize>, Vec<usize>), String> {
        let threads = usize::from(self.threads);
        let there = machine::cpus().unwrap_or_default();
        let sides = machine::sides(first, &there, if self.share_cpus { 1 } else { threads });
        if sides.0.len() == threads || self.share_cpus {
            return Ok(sides);
        }
        let (need, have) = (2 * threads, there.len());
        Err(format!("{threads} threads a side take {need} CPUs, and this process may use {have}"))
    }

    /// Frames that go round at a time, in a loop: half a ring at most, so that no end is ever full.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match self.dir {
            Direction::Latency => 1,
            _ => usize::from(self.ring_size / 2).min(4 * usize::from(self.burst)).max(1),
        }
    }

    /// The longest frame that our driver makes room for: at least what it does by itself.
    #[must_use]
    pub fn frame_max(&self) -> u32 {
        u32::from(self.size.longest()).max(2036)
    }

    /// What a row of a report says.
    #[must_use]
    pub fn sentence(&self) -> String {
        let size = match self.size {
            Size::Bytes(bytes) => format!("{bytes} B"),
            Size::Imix => "IMIX".to_owned(),
        };
        let dir = match self.dir {
            Direction::Tx => "tx",
            Direction::Rx => "rx",
            Direction::Loop => "loop",
            Direction::Latency => "latency",
        };
        let api = match self.api {
            Api::Copy => "",
            Api::InPlace => ", in place",
            Api::Lease => ", leased",
            Api::Hairpin => ", hairpin",
        };
        let shuffled = if self.completions == Completions::Shuffled { ", shuffled" } else { "" };
        let threads = if self.threads > 1 { format!(", {} threads a side", self.threads) } else { String::new() };
        format!("{size} {} {dir}{api}{shuffled}{threads}", config::name(self.layout))
    }
}

/// The shortest frame that Ethernet has, without its checksum.
const SIZE_MIN: u16 = 60;
/// What a slot of 65535 bytes has room for, with the net header.
const SIZE_MAX: u16 = 65523;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pairing_reads_as_it_is_written() {
        for pairing in Pairing::ALL {
            assert_eq!(pairing.name().parse(), Ok(pairing));
        }
        assert!("dpdk".parse::<Pairing>().is_err());
        assert!(!Pairing::Vhost(Maker::Ironring, Maker::Ironring).needs_dpdk() && Pairing::Memif.needs_dpdk());
        assert!(Pairing::Trusting(Maker::Dpdk).needs_dpdk() && !Pairing::Trusting(Maker::Ironring).needs_dpdk());
    }

    #[test]
    fn sizes_are_bytes_or_a_mix() {
        assert_eq!("imix".parse(), Ok(Size::Imix));
        assert_eq!("9000".parse(), Ok(Size::Bytes(9000)));
        assert!(["59", "65524", "mix", ""].iter().all(|text| text.parse::<Size>().is_err()));
        assert_eq!((Size::Imix.longest(), Size::Imix.turns().len(), Size::Imix.lines()), (1518, 12, 7));
        assert_eq!((Size::Bytes(64).lines(), Size::Bytes(52).lines()), (2, 1));
        assert_eq!(Size::Imix.turns().iter().sum::<usize>(), 7 * 64 + 4 * 570 + 1518);
        let json = |size: Size| serde_json::to_string(&size).unwrap();
        assert_eq!((json(Size::Imix), json(Size::Bytes(64))), ("\"imix\"".to_owned(), "64".to_owned()));
    }
}
