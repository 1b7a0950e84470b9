//! The command line of `ironring bench`.

use std::path::PathBuf;

use super::result::Forward;
use super::testpmd::Path22;
use super::work::{Api, Completions, Direction, Maker, Pairing, Size, Trust, Work};
use crate::output::Failure;
use crate::pair::{Layout, Switch};

/// Arguments of `ironring bench`.
#[derive(Clone, Debug, clap::Args)]
pub struct BenchArgs {
    /// Ring layout
    #[arg(long, value_enum, default_value_t = Layout::Split)]
    layout: Layout,
    /// Which way frames go
    #[arg(long, value_enum, default_value_t = Direction::Tx)]
    dir: Direction,
    /// Bytes of each frame, 60 to 65523, or imix: of twelve, seven of 64, four of 570 and one of 1518
    #[arg(long, value_name = "BYTES|imix", default_value_t = Size::Bytes(64))]
    size: Size,
    /// Descriptors of each queue: a power of two
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(8..=4096))]
    ring_size: u16,
    /// Frames in a burst
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=64))]
    burst: u16,
    /// VIRTIO_F_IN_ORDER on our side [default: on with packed rings, as DPDK's fastest path has it]
    #[arg(long, value_enum, value_name = "ON|OFF")]
    in_order: Option<Switch>,
    /// In which order our backend gives buffers back
    #[arg(long, value_enum, default_value_t = Completions::InOrder)]
    completions: Completions,
    /// How our driver is used
    #[arg(long, value_enum, default_value_t = Api::Copy)]
    api: Api,
    /// The rings of our driver
    #[arg(long, value_enum, default_value_t = Trust::Hardened)]
    ring: Trust,
    /// Whose driver
    #[arg(long, value_enum, default_value_t = Maker::Ironring)]
    driver: Maker,
    /// Whose backend
    #[arg(long, value_enum, default_value_t = Maker::Ironring)]
    backend: Maker,
    /// Compare with another pairing, in turn: ironring-ironring, ironring-dpdk, dpdk-ironring, dpdk-dpdk, memif, trusting
    /// (our driver with rings that trust, on the same backend)
    #[arg(long, value_name = "DRIVER-BACKEND")]
    vs: Option<Pairing>,
    /// Path of DPDK's virtio-user [default: whichever is fastest]
    #[arg(long, value_enum)]
    dpdk_path: Option<Path22>,
    /// What testpmd does with the frames of a loop, or with those that it receives
    #[arg(long, value_enum, default_value_t = Forward::Io)]
    dpdk_forward: Forward,
    /// Have testpmd record what its cores do, which costs it a little: how busy they were, cycles a packet, and how often there was no
    /// room for what they had to send; and our driver, where it receives from one. Pairings run one after the other then, and take no
    /// turns
    #[arg(long)]
    pub(super) record_core_cycles: bool,
    /// Make the memory of our driver of huge pages, which are reserved for it (root)
    #[arg(long)]
    hugepages: bool,
    /// Queue pairs that carry frames, in turn: tx or rx by our own two ends
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    queues: u16,
    /// Queue pairs that are there and carry nothing
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=63))]
    idle_queues: u16,
    /// Threads of each side, a CPU for each: pair i belongs to thread i modulo N
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
    /// Have the threads of each side share its CPU: shows that they work, and not how fast
    #[arg(long)]
    share_cpus: bool,
    /// Seconds of each sample
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub(super) seconds: u64,
    /// Samples of each pairing [default: 10 with --vs, otherwise 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) samples: Option<u32>,
    /// Find what the machine can do at best, and nothing else
    #[arg(long, conflicts_with = "vs")]
    pub(super) limit: bool,
    /// Run all rows of the comparison, each in turn with its opponent, and say which reach their targets
    #[arg(long, conflicts_with_all = ["vs", "limit"])]
    pub(super) table: bool,
    /// Of the table, only the rows whose names match: `*` stands for any characters, a comma for "or"
    #[arg(long, value_name = "GLOB", default_value = "*", requires = "table")]
    pub(super) rows: String,
    /// Write a page with the result and its plots
    #[arg(long, value_name = "FILE.html")]
    pub(super) report: Option<PathBuf>,
}

/// What is measured against what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) first: Pairing,
    pub(super) vs: Option<Pairing>,
    pub(super) work: Work,
    /// The path of virtio-user; the fastest, if none is said.
    pub(super) path: Option<Path22>,
    pub(super) forward: Forward,
    /// Whether ends record what their cores do.
    pub(super) cycles: bool,
}

impl BenchArgs {
    /// What is asked for.
    ///
    /// # Errors
    /// A usage error.
    pub(super) fn question(&self) -> Result<Question, Failure> {
        let first = match (self.ring, self.driver) {
            (Trust::Hardened, driver) => Pairing::Vhost(driver, self.backend),
            (Trust::Trusting, Maker::Ironring) => Pairing::Trusting(self.backend),
            (Trust::Trusting, Maker::Dpdk) => {
                return Err(Failure::usage("DPDK's driver has no other rings; leave --ring out"));
            }
        };
        // The same backend as the first pairing has.
        let vs = self
            .vs
            .map(|vs| if vs == Pairing::Trusting(Maker::Ironring) { Pairing::Trusting(self.backend) } else { vs });
        let Self { dpdk_path: path, dpdk_forward: forward, record_core_cycles: cycles, .. } = *self;
        let question = Question { first, vs, work: self.work()?, path, forward, cycles };
        question.check().map_err(Failure::usage)?;
        Ok(question)
    }

    fn work(&self) -> Result<Work, Failure> {
        if !self.ring_size.is_power_of_two() {
            let size = self.ring_size;
            return Err(Failure::usage(format!("a ring of {size} is none that both sides have; take a power of two")));
        }
        let by_itself = self.layout == Layout::Packed && self.completions == Completions::InOrder;
        let in_order = self.in_order.map_or(by_itself, |switch| switch == Switch::On);
        let Self { dir, size, ring_size, burst, api, completions, hugepages, queues, idle_queues, .. } = *self;
        let (layout, threads, share_cpus) = (self.layout.into(), self.threads, self.share_cpus);
        Ok(Work {
            layout,
            dir,
            size,
            ring_size,
            burst,
            in_order,
            api,
            completions,
            hugepages,
            queues,
            idle_queues,
            threads,
            share_cpus,
        })
    }
}

impl Question {
    /// The pairings.
    pub(super) fn pairings(&self) -> impl Iterator<Item = Pairing> {
        [Some(self.first), self.vs].into_iter().flatten()
    }

    /// Whether that can be measured at all.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn check(&self) -> Result<(), String> {
        let Work { dir, size, api, completions, in_order, .. } = self.work;
        let possible = match api {
            Api::Copy => true,
            Api::InPlace => dir == Direction::Tx && size != Size::Imix,
            Api::Lease => match dir {
                Direction::Loop => true,
                Direction::Rx => self.pairings().all(|pairing| !matches!(pairing, Pairing::Trusting(_))),
                Direction::Tx | Direction::Latency => false,
            },
            Api::Hairpin => {
                dir == Direction::Loop && self.pairings().all(|pairing| !matches!(pairing, Pairing::Trusting(_)))
            }
        };
        if !possible || (api != Api::Copy && self.first.makers().0 != Maker::Ironring) {
            let sentence = "in-place is for our driver with --dir tx and frames of one size, lease for our driver with --dir loop, or rx with \
                 hardened rings, and hairpin for our driver with --dir loop and hardened rings";
            return Err(sentence.to_owned());
        }
        self.check_forward()?;
        self.check_pairs()?;
        if completions == Completions::Shuffled {
            if in_order {
                return Err("completions are either shuffled or in order; leave --in-order on out".to_owned());
            }
            if self.first.makers().1 != Maker::Ironring {
                return Err("only our backend shuffles completions; leave --backend dpdk out".to_owned());
            }
        }
        for pairing in self.pairings() {
            let sender = match dir {
                Direction::Tx => pairing.makers().0,
                Direction::Rx => pairing.makers().1,
                Direction::Loop | Direction::Latency => continue,
            };
            if size == Size::Imix && sender == Maker::Dpdk {
                let sentence =
                    "testpmd sends frames of one size; compare IMIX with --dir loop, where both ends pass it on";
                return Err(sentence.to_owned());
            }
        }
        Ok(())
    }

    /// What testpmd is to do with frames has to be something that it does here.
    fn check_forward(&self) -> Result<(), String> {
        let dpdk_receives = |pairing: Pairing| match self.work.dir {
            Direction::Tx => pairing.makers().1 == Maker::Dpdk,
            _ => pairing.makers().0 == Maker::Dpdk,
        };
        let sentence = match (self.forward, self.work.dir) {
            (Forward::Io, _) | (Forward::Macswap, Direction::Loop | Direction::Latency) => return Ok(()),
            (Forward::Icmpecho, Direction::Tx | Direction::Rx) if self.pairings().any(dpdk_receives) => return Ok(()),
            (Forward::Icmpecho, Direction::Tx | Direction::Rx) => {
                "icmpecho is for a testpmd that receives; compare with one, as by --vs dpdk-dpdk"
            }
            _ => "macswap is for --dir loop and latency, icmpecho for tx and rx; leave --dpdk-forward out",
        };
        Err(sentence.to_owned())
    }

    /// Several queue pairs are for our own two ends, one way.
    fn check_pairs(&self) -> Result<(), String> {
        let Work { dir, api, .. } = self.work;
        let ours = self.first == Pairing::Vhost(Maker::Ironring, Maker::Ironring) && self.vs.is_none();
        let one_way = matches!(dir, Direction::Tx | Direction::Rx) && api == Api::Copy;
        let Work { threads, queues, share_cpus, .. } = self.work;
        if threads > queues {
            return Err(format!(
                "{threads} threads a side have {queues} busy queue pairs between them; give each one, by --queues {threads}"
            ));
        }
        if share_cpus && threads == 1 {
            return Err("one thread a side has nobody to share its CPU with; leave --share-cpus out".to_owned());
        }
        match self.work.pairs() {
            1 => Ok(()),
            2..=64 if ours && one_way => Ok(()),
            2..=64 => {
                Err("several queue pairs are measured with --dir tx or rx, --api copy, and our own two ends with \
                           hardened rings; leave out --vs"
                    .to_owned())
            }
            more => Err(format!("{more} queue pairs are more than the 64 that a device has")),
        }
    }
}
