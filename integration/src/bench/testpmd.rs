//! DPDK's ends, which are testpmd at its prompt: virtio-user, `net_vhost`, `net_memif`.
//!
//! Rates are testpmd's own, of the interval between two questions by its own clock.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ironring_driver::queue::RingLayout;
use rustix::process::Pid;
use serde::Serialize;

use super::cores::{CYCLES, Tally};
use super::result::Forward;
use super::work::{Completions, Direction, Size, Work};
use crate::console::Console;

/// Which device of testpmd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Device {
    /// `net_virtio_user`, by one of its paths.
    VirtioUser(Path22),
    /// `net_vhost`.
    Vhost,
    /// `net_memif`, the end that listens.
    MemifServer,
    /// `net_memif`, the end that connects.
    MemifClient,
}

/// Which of the paths of virtio-user in DPDK 22.11, by the features that it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Path22 {
    /// `mrg_rxbuf=1,in_order=0`.
    Mergeable,
    /// `mrg_rxbuf=0,in_order=1`.
    InOrder,
    /// `mrg_rxbuf=0,vectorized=1`, and `in_order=1` with a packed ring: AVX-512 where there is any.
    Vectorized,
}

impl Path22 {
    /// Those worth trying for some work.
    pub(super) const fn of(work: &Work) -> &'static [Self] {
        // The others take buffers back in the order in which they lent them, whatever the ring says.
        if matches!(work.completions, Completions::Shuffled) {
            return &[Self::Mergeable];
        }
        // A vector path takes nothing from a ring with fewer frames than eight.
        let vectors = work.burst >= 8 && !matches!(work.dir, Direction::Latency);
        match (work.layout, vectors) {
            (RingLayout::Split, true) => &[Self::Mergeable, Self::InOrder, Self::Vectorized],
            (RingLayout::Split, false) => &[Self::Mergeable, Self::InOrder],
            (RingLayout::Packed, true) => &[Self::Vectorized, Self::InOrder],
            (RingLayout::Packed, false) => &[Self::InOrder],
        }
    }

    /// As the command line says it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Mergeable => "mergeable",
            Self::InOrder => "in-order",
            Self::Vectorized => "vectorized",
        }
    }

    const fn features(self, layout: RingLayout) -> &'static str {
        match (layout, self) {
            (RingLayout::Split, Self::Mergeable) => "packed_vq=0,in_order=0,mrg_rxbuf=1",
            (RingLayout::Split, Self::InOrder) => "packed_vq=0,in_order=1,mrg_rxbuf=0",
            (RingLayout::Split, Self::Vectorized) => "packed_vq=0,in_order=0,mrg_rxbuf=0,vectorized=1",
            (RingLayout::Packed, Self::Mergeable) => "packed_vq=1,in_order=0,mrg_rxbuf=1",
            (RingLayout::Packed, Self::InOrder) => "packed_vq=1,in_order=1,mrg_rxbuf=0",
            (RingLayout::Packed, Self::Vectorized) => "packed_vq=1,in_order=1,mrg_rxbuf=0,vectorized=1",
        }
    }
}

/// testpmd. It does not outlive this.
#[derive(Debug)]
pub(super) struct Testpmd {
    child: Child,
    input: Option<ChildStdin>,
    console: Arc<Console>,
    reader: Option<JoinHandle<()>>,
    /// Whether it records what its core does.
    cycles: bool,
}

impl Device {
    fn vdev(self, work: &Work, socket: &Path) -> String {
        let socket = socket.display();
        let size = work.ring_size;
        match self {
            Self::VirtioUser(path) => {
                let features = path.features(work.layout);
                format!("net_virtio_user0,path={socket},mac=02:00:00:00:00:01,queues=1,queue_size={size},{features}")
            }
            Self::Vhost => format!("net_vhost0,iface={socket},queues=1,client=0"),
            Self::MemifServer | Self::MemifClient => {
                let role = if self == Self::MemifServer { "server" } else { "client" };
                let log2 = u32::from(size).ilog2();
                let room = work.size.longest().max(2048).next_power_of_two();
                format!("net_memif0,role={role},socket={socket},socket-abstract=no,rsize={log2},bsize={room}")
            }
        }
    }

    /// Whether it listens.
    const fn listens(self) -> bool {
        matches!(self, Self::Vhost | Self::MemifServer)
    }

    /// What it does with frames.
    const fn forward(self, dir: Direction, forward: Forward) -> &'static str {
        match (dir, self.listens()) {
            // The listening end is where frames go to with `tx`, and come from with `rx`.
            (Direction::Tx, true) | (Direction::Rx, false) if matches!(forward, Forward::Icmpecho) => forward.name(),
            (Direction::Tx, true) | (Direction::Rx, false) => "rxonly",
            (Direction::Tx, false) | (Direction::Rx, true) => "txonly",
            (Direction::Loop | Direction::Latency, _) => forward.name(),
        }
    }
}

impl Testpmd {
    /// Starts testpmd and its traffic; one that listens does so then.
    pub(super) fn start(
        device: Device,
        work: &Work,
        (forward, cycles): (Forward, bool),
        cpu: usize,
        socket: &Path,
    ) -> Result<Self, String> {
        let forward = device.forward(work.dir, forward);
        let size = work.size.longest();
        let rings = work.ring_size.to_string();
        // testpmd has no bursts longer than 512, and the frame of one is in flight with a latency.
        let burst = if work.dir == Direction::Latency { 1 } else { work.burst };
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd", "--in-memory", "--single-file-segments", "--no-pci", "--no-telemetry"]);
        command.args(["-m", "128", "--lcores", &format!("0@{cpu},1@{cpu}"), "--main-lcore", "0"]);
        command.args(["--force-max-simd-bitwidth=512", "--vdev", &device.vdev(work, socket), "--", "-i"]);
        command.args(["--nb-cores=1", "--rxq=1", "--txq=1", "--rxd", &rings, "--txd", &rings]);
        command.args(["--mbcache=512", "--tx-offloads=0", "--no-flush-rx"]);
        if size > ETHERNET_MAX {
            // With its checksum, and behind a headroom of 128 bytes.
            command.arg(format!("--max-pkt-len={}", size.saturating_add(4)));
            command.arg(format!("--mbuf-size={}", size.saturating_add(256).next_multiple_of(1024)));
            command.arg("--total-num-mbufs=4096");
        } else {
            command.arg("--total-num-mbufs=16384");
        }
        command.args([&format!("--burst={burst}"), "--disable-link-check", "--port-topology=loop"]);
        command.arg(format!("--forward-mode={forward}"));
        if cycles {
            command.arg("--record-core-cycles");
        }
        if forward == "txonly" {
            command.arg(format!("--txpkts={size}"));
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.map_err(|error| format!("testpmd does not start ({error}); install dpdk"))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let console = Arc::<Console>::default();
        let theirs = Arc::clone(&console);
        let reader = output.map(|output| std::thread::spawn(move || theirs.read(output)));
        let mut testpmd = Self { child, input, console, reader, cycles };
        testpmd.wait_for_start(device.listens().then_some(socket))?;
        testpmd.say("start");
        Ok(testpmd)
    }

    fn wait_for_start(&mut self, socket: Option<&Path>) -> Result<(), String> {
        let up = self.console.wait("Done", 0, START).is_some() && socket.is_none_or(Path::exists);
        let why = || format!("testpmd does not come up; its last words: {}", self.console.tail());
        if up { Ok(()) } else { Err(why()) }
    }

    /// Sends the first frames of a loop, and starts the traffic: with a mix, those of each size together.
    pub(super) fn send_first(&mut self, work: &Work) {
        self.say("stop");
        let frames = work.in_flight();
        match work.size {
            Size::Bytes(bytes) => {
                let burst = if work.dir == Direction::Latency { 1 } else { usize::from(work.burst) };
                self.say(&format!("set txpkts {bytes}"));
                self.say(&format!("start tx_first {}", frames.div_ceil(burst)));
            }
            Size::Imix => {
                let turns = work.size.turns();
                let mut sizes = turns.clone();
                sizes.sort_unstable();
                sizes.dedup();
                for size in sizes {
                    let of_a_round = turns.iter().filter(|bytes| **bytes == size).count();
                    self.say(&format!("set burst {of_a_round}"));
                    self.say(&format!("set txpkts {size}"));
                    self.say(&format!("start tx_first {}", (frames / turns.len()).max(1)));
                    self.say("stop");
                }
                self.say(&format!("set burst {}", work.burst));
                self.say("start");
            }
        }
    }

    /// Frames received so far, and when that was.
    pub(super) fn frames(&mut self) -> Result<(u64, Instant), String> {
        let line = self.ask("RX-packets:")?;
        let now = Instant::now();
        let count = line.split_whitespace().nth(1).and_then(|count| count.parse().ok());
        count.map(|count| (count, now)).ok_or_else(|| format!("testpmd said {line:?}"))
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// What its core has done so far, if that is recorded. It says so for an end that frames have come by or gone.
    pub(super) fn tally(&mut self) -> Option<Tally> {
        if !self.cycles {
            return None;
        }
        let mark = self.console.count();
        self.say("show fwd stats all");
        self.console.wait(CYCLES, mark, PATIENCE)?;
        Tally::of(Instant::now(), &self.console.since(mark))
    }

    /// Frames received and sent, after the end of its traffic.
    pub(super) fn finish(&mut self) -> Result<[u64; 2], String> {
        let mark = self.console.count();
        self.say("stop");
        // Its end says how many frames there were since the last start, by the same names; a mix is started several times.
        let _ended = self.console.wait("Done.", mark, PATIENCE);
        let mut totals = [0; 2];
        for (total, name) in totals.iter_mut().zip(["RX-packets:", "TX-packets:"]) {
            let line = self.ask(name)?;
            *total = line.split_whitespace().nth(1).and_then(|count| count.parse().ok()).unwrap_or(0);
        }
        Ok(totals)
    }

    fn ask(&mut self, name: &str) -> Result<String, String> {
        let mark = self.console.count();
        self.say("show port stats 0");
        let silent = || format!("testpmd does not answer; its last words: {}", self.console.tail());
        self.console.wait(name, mark, PATIENCE).ok_or_else(silent)
    }

    fn say(&mut self, line: &str) {
        if let Some(input) = &mut self.input {
            // One that has ended is noticed where it is asked for something.
            let _ = writeln!(input, "{line}").and_then(|()| input.flush());
        }
    }
}

impl Drop for Testpmd {
    fn drop(&mut self) {
        self.say("quit");
        let deadline = Instant::now() + LEAVE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// The longest frame without a checksum that is none too long for Ethernet, with a VLAN tag.
const ETHERNET_MAX: u16 = 1518;
/// How long it may take to come up.
const START: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(5);
const LEAVE: Duration = Duration::from_secs(2);
