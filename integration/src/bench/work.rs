//! What is measured: the work of one result.

use ironring_driver::queue::RingLayout;
use serde::Serialize;

use crate::config;

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

/// Whose driver or backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Maker {
    /// Ours.
    Ironring,
    /// DPDK's: virtio-user, or `net_vhost`.
    Dpdk,
}

/// How our driver is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Api {
    /// Frames are copied in from private memory, and copied out to it.
    Copy,
    /// Sent frames are written in place: their first 42 bytes, as testpmd's `txonly` does.
    InPlace,
    /// Received frames are forwarded from slot to slot, without a look at their bytes.
    Lease,
}

/// Two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pairing {
    /// A driver and a backend over vhost-user.
    Vhost(Maker, Maker),
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
    /// Bytes of each frame, without the net header and without a checksum.
    pub size: u16,
    /// Descriptors of each queue.
    pub ring_size: u16,
    /// Frames in a burst.
    pub burst: u16,
    /// `VIRTIO_F_IN_ORDER` on our side, where it is negotiated.
    pub in_order: bool,
    /// How our driver is used, where there is one.
    pub api: Api,
    /// Queue pairs that carry frames, in turn.
    pub queues: u16,
    /// Queue pairs that are there and carry nothing.
    pub idle_queues: u16,
}

fn layout_name<S: serde::Serializer>(layout: &RingLayout, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(config::name(*layout))
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
            Self::Memif => "memif",
        }
    }

    /// Whether a part of it is DPDK's.
    #[must_use]
    pub const fn needs_dpdk(self) -> bool {
        !matches!(self, Self::Vhost(Maker::Ironring, Maker::Ironring))
    }
}

impl std::str::FromStr for Pairing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let makers = [Maker::Ironring, Maker::Dpdk];
        let vhost = makers.into_iter().flat_map(|driver| makers.map(|backend| Self::Vhost(driver, backend)));
        let mut all = vhost.chain([Self::Memif]);
        let names = "ironring-ironring, ironring-dpdk, dpdk-ironring, dpdk-dpdk or memif";
        all.find(|pairing| pairing.name() == text).ok_or_else(|| format!("write {names}"))
    }
}

impl Work {
    /// Queue pairs in all.
    #[must_use]
    pub const fn pairs(&self) -> u16 {
        self.queues.saturating_add(self.idle_queues)
    }

    /// Frames that go round at a time, in a loop: half a ring at most, so that no end is ever full.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match self.dir {
            Direction::Latency => 1,
            _ => usize::from(self.ring_size / 2).min(4 * usize::from(self.burst)).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pairing_reads_as_it_is_written() {
        for name in ["ironring-ironring", "ironring-dpdk", "dpdk-ironring", "dpdk-dpdk", "memif"] {
            assert_eq!(name.parse::<Pairing>().map(Pairing::name), Ok(name));
        }
        assert!("dpdk".parse::<Pairing>().is_err());
        assert!(!Pairing::Vhost(Maker::Ironring, Maker::Ironring).needs_dpdk() && Pairing::Memif.needs_dpdk());
    }
}
