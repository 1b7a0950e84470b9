//! The command line, and what it comes to.

mod values;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Parser, ValueEnum};
use ironring_common::shm::guest::SealPolicy;
use ironring_common::spec::net::MTU_MIN;
use tracing::level_filters::LevelFilter;

pub use self::values::{LogFormat, LogOptions, Mac, PAIRS_MAX, PortSpec, RingFeature, StatsFormat};

use self::values::{parse_id, parse_interval, parse_pairs, parse_socket_mode};

use crate::net::MAX_FRAME;
use crate::sandbox::{Refusal, Sandbox};
use crate::session::listen::{Access, Endpoint};
use crate::session::{Honest, Ports, ServeError, StopToken, check_threads, serve_ports};
use crate::worker::WaitPolicy;

/// What every session is served with. The default is what the command line defaults to, with a loopback port.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The other end of the wire.
    pub port: PortSpec,
    /// Queue pairs, 1 to [`PAIRS_MAX`].
    pub pairs: u16,
    /// Threads of the data plane, over which the pairs are spread in turn: 1 to as many as there are pairs. Ports that are one
    /// end of one wire (TAP, pcap) take one.
    pub threads: u16,
    /// Largest size of a queue, a power of two.
    pub queue_size: u16,
    /// What is not offered though it could be.
    pub without: Vec<RingFeature>,
    /// The address that the device has.
    pub mac: Mac,
    /// The MTU that is offered, if one is.
    pub mtu: Option<u16>,
    /// What the data plane does when there is nothing to do.
    pub wait: WaitPolicy,
    /// Whether memory that its owner can truncate is served.
    pub seals: SealPolicy,
    /// How often the counters are written to stderr, if they are.
    pub stats: Option<Duration>,
    /// In which form.
    pub stats_format: StatsFormat,
    /// End when the first front-end has left.
    pub once: bool,
    /// Who may connect to the socket, if it is made.
    pub access: Access,
    /// What threads enter before they meet a peer. The program makes one; a library leaves threads what they have.
    pub sandbox: Sandbox,
}

impl Settings {
    /// Queues: a receive and a transmit queue for each pair.
    #[must_use]
    pub fn queues(&self) -> usize {
        usize::from(self.pairs).saturating_mul(2)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            port: PortSpec::Loopback,
            pairs: 1,
            threads: 1,
            queue_size: DEFAULT_QUEUE_SIZE,
            without: Vec::new(),
            mac: Mac::random(),
            mtu: None,
            wait: Wait::Adaptive.policy(),
            seals: SealPolicy::Require,
            stats: None,
            stats_format: StatsFormat::Json,
            once: false,
            access: Access::default(),
            sandbox: Sandbox::none(),
        }
    }
}

/// Where front-ends come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A socket at a path.
    Path(PathBuf),
    /// A descriptor that was inherited.
    Fd(i32),
    /// A socket at a path where the front-end listens.
    Connect(PathBuf),
    /// The socket that systemd passes.
    Activated,
}

/// How the backend behaves towards the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As the specification has it.
    Honest,
    /// With these attacks.
    #[cfg(feature = "hostile")]
    Hostile(crate::hostile::Plan),
}

impl Mode {
    /// Serves in this way, with ports that are open; see [`serve_endpoint`](crate::session::serve_endpoint).
    pub(crate) fn serve(
        &self,
        endpoint: &Endpoint,
        ports: Ports,
        settings: &Settings,
        stop: &StopToken,
    ) -> Result<u64, ServeError> {
        match self {
            Self::Honest => serve_ports(endpoint, ports, settings, &Honest, stop),
            #[cfg(feature = "hostile")]
            Self::Hostile(plan) => serve_ports(endpoint, ports, settings, &crate::hostile::Adversary::new(plan), stop),
        }
    }
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub enum Invocation {
    /// Print what this program can do, for those who manage backends.
    PrintCapabilities,
    /// Serve.
    Serve {
        /// From where.
        transport: Transport,
        /// With what.
        settings: Box<Settings>,
        /// In which way.
        mode: Mode,
        /// Whether in a sandbox, and what becomes of system calls that it refuses.
        confinement: Option<Refusal>,
        /// What is written to the log.
        log: LogOptions,
    },
}

/// Reads a command line, the program's name first.
///
/// # Errors
/// [`clap::Error`], which knows its message and its exit status; also for `--help` and `--version`.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation, clap::Error> {
    let args: Vec<_> = args.into_iter().collect();
    // By QEMU's conventions for backend programs, all other arguments are ignored then.
    if args.iter().skip(1).any(|arg| arg == "--print-capabilities") {
        return Ok(Invocation::PrintCapabilities);
    }
    Args::try_parse_from(args)?.invocation()
}

/// A vhost-user net backend: serves the virtio-net device of a VM or of a userspace driver.
#[derive(Debug, Parser)]
#[command(name = "ironring-backend", version, max_term_width = 100)]
#[command(group = ArgGroup::new("transport").args(["socket_path", "fd", "connect"]))]
struct Args {
    /// Listen at this path; front-ends are served one after another
    #[arg(long, value_name = "PATH")]
    socket_path: Option<PathBuf>,

    /// Call the front-end that listens at this path, again and again: QEMU's chardev with server=on
    #[arg(long, value_name = "PATH")]
    connect: Option<PathBuf>,

    /// Permissions of the socket, in octal, for example 660
    #[arg(long, value_name = "MODE", requires = "socket_path", value_parser = parse_socket_mode)]
    socket_mode: Option<u32>,

    /// Owner of the socket, by name or number
    #[arg(long, value_name = "USER", requires = "socket_path", value_parser = |text: &str| parse_id(text, "/etc/passwd"))]
    socket_owner: Option<u32>,

    /// Group of the socket, by name or number
    #[arg(long, value_name = "GROUP", requires = "socket_path", value_parser = |text: &str| parse_id(text, "/etc/group"))]
    socket_group: Option<u32>,

    /// Use this inherited Unix stream socket, which listens or is connected
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(0..))]
    fd: Option<i32>,

    /// Where frames go and come from: tap:NAME, tap:fd=N, loopback, null, generate:BYTES, generate:imix, pcap:IN[:OUT]
    ///
    /// To each front-end that connects, IN is played from its beginning. OUT, replaced if it is there, gets what all of
    /// them send.
    #[arg(long, value_name = "PORT")]
    port: PortSpec,

    /// Queue pairs, at most 64
    ///
    /// A port is shared by all pairs; of tap and pcap ports, whose frames keep their order, the first pair that is
    /// enabled receives. Loopback ports return a frame to the pair that it came from.
    #[arg(long, value_name = "PAIRS", default_value_t = 1, value_parser = parse_pairs)]
    queues: u16,

    /// Threads that serve the queue pairs, at most one for each
    ///
    /// Pair i belongs to thread i modulo N. Each thread has a port of its own, so tap and pcap ports take one thread.
    #[arg(long, value_name = "N", default_value_t = 1)]
    threads: u16,

    /// Largest size of a queue that a driver may choose, a power of two
    #[arg(long, value_name = "N", default_value_t = DEFAULT_QUEUE_SIZE, value_parser = parse_queue_size)]
    queue_size: u16,

    /// Do not offer these features of the rings
    #[arg(long, value_name = "FEATURE", value_enum, value_delimiter = ',')]
    without: Vec<RingFeature>,

    /// Address of the device; a random one if left out
    #[arg(long, value_name = "MAC")]
    mac: Option<Mac>,

    /// MTU that is offered to the driver; none if left out
    #[arg(long, value_name = "BYTES", value_parser = parse_mtu)]
    mtu: Option<u16>,

    /// honest, or hostile:ID[,ID...] in a build with the attacks
    #[arg(long, value_name = "MODE", default_value = "honest")]
    mode: String,

    /// Seed of what the attacks choose
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,

    /// What the data plane does when there is no work
    #[arg(long, value_enum, default_value_t = Wait::Adaptive)]
    wait: Wait,

    /// Serve memory that its owner can truncate, at the price that it can kill this process
    ///
    /// Needed for memory that is no sealed memfd, such as QEMU's memory-backend-file or hugetlbfs files. A
    /// memory-backend-memfd needs it only with seal=off or hugetlb=on.
    #[arg(long)]
    allow_unsealed_memory: bool,

    /// Keep the rights of the user who starts this, while peers are served
    ///
    /// Without the sandbox, a bug that a peer can use gives it all that this user can do: read and write files, run
    /// programs, use the network and capabilities, trace other processes. With it, no thread that serves a peer can open
    /// a file, make a socket, or run or trace anything.
    #[arg(long)]
    no_sandbox: bool,

    /// End the process at a system call that the sandbox refuses, instead of failing the call
    ///
    /// Only those still fail that the C library tries and does without: clone3, openat, getcwd, readlink and readlinkat.
    #[arg(long, conflicts_with = "no_sandbox")]
    sandbox_kill: bool,

    /// Write the counters to stderr at this interval and at the end of a session
    #[arg(long, value_name = "SECONDS", value_parser = parse_interval)]
    stats: Option<Duration>,

    /// Form of the counters
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = StatsFormat::Json)]
    stats_format: StatsFormat,

    /// What is written to stderr
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = Log::Info)]
    log: Log,

    /// Form of the log
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,

    /// End when the first front-end has left; the exit status then tells how its session ended
    #[arg(long)]
    once: bool,

    /// Print what this program can do as JSON, and exit; all other arguments are ignored
    #[arg(long)]
    print_capabilities: bool,
}

impl Args {
    fn invocation(self) -> Result<Invocation, clap::Error> {
        let mode = parse_mode(&self.mode, self.seed).map_err(|why| {
            let message = format!("invalid value '{}' for '--mode <MODE>': {why}\n", self.mode);
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, message)
        })?;
        let transport = match (self.socket_path, self.connect, self.fd) {
            (Some(path), ..) => Transport::Path(path),
            (None, Some(path), _) => Transport::Connect(path),
            (None, None, Some(fd)) => Transport::Fd(fd),
            (None, None, None) if std::env::var_os("LISTEN_FDS").is_some() => Transport::Activated,
            (None, None, None) => {
                let message = "where are front-ends to come from? Give --socket-path PATH, --connect PATH or --fd N\n";
                return Err(clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, message));
            }
        };
        let settings = Settings {
            port: self.port,
            pairs: self.queues,
            threads: self.threads,
            queue_size: self.queue_size,
            without: self.without,
            mac: self.mac.unwrap_or_else(Mac::random),
            mtu: self.mtu,
            wait: self.wait.policy(),
            seals: if self.allow_unsealed_memory { SealPolicy::Tolerate } else { SealPolicy::Require },
            stats: self.stats,
            stats_format: self.stats_format,
            once: self.once,
            access: Access { mode: self.socket_mode, owner: self.socket_owner, group: self.socket_group },
            sandbox: Sandbox::none(),
        };
        check_threads(&settings).map_err(|why| {
            let message = format!("invalid value '{}' for '--threads <N>': {why}\n", settings.threads);
            clap::Error::raw(clap::error::ErrorKind::ValueValidation, message)
        })?;
        let confinement = match (self.no_sandbox, self.sandbox_kill) {
            // An adversary is there to be let loose; it also starts threads of its own.
            _ if mode != Mode::Honest => None,
            (true, _) => None,
            (false, false) => Some(Refusal::Fail),
            (false, true) => Some(Refusal::End),
        };
        let log = LogOptions { level: self.log.filter(), format: self.log_format };
        Ok(Invocation::Serve { transport, settings: Box::new(settings), mode, confinement, log })
    }
}

/// What the data plane does when there is no work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// Look again at once: a whole CPU for the least delay
    Poll,
    /// Look for 50 microseconds, then sleep until kicked
    Adaptive,
    /// Sleep until kicked
    Interrupt,
}

impl Wait {
    const fn policy(self) -> WaitPolicy {
        match self {
            Self::Poll => WaitPolicy::Poll,
            Self::Adaptive => WaitPolicy::Adaptive { spin: SPIN },
            Self::Interrupt => WaitPolicy::Interrupt,
        }
    }
}

/// What is written to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Log {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Log {
    const fn filter(self) -> LevelFilter {
        match self {
            Self::Off => LevelFilter::OFF,
            Self::Error => LevelFilter::ERROR,
            Self::Warn => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        }
    }
}

fn parse_queue_size(text: &str) -> Result<u16, String> {
    let size = text.parse().ok().filter(|size: &u16| size.is_power_of_two());
    size.ok_or_else(|| "a queue size is a power of two between 1 and 32768, for example 256".to_owned())
}

fn parse_mtu(text: &str) -> Result<u16, String> {
    let mtu = text.parse().ok().filter(|mtu| (MTU_MIN..=MTU_MAX).contains(mtu));
    mtu.ok_or_else(|| format!("an MTU lies between {MTU_MIN} and {MTU_MAX}, for example 1500"))
}

fn parse_mode(text: &str, seed: u64) -> Result<Mode, String> {
    match text.split_once(':') {
        None if text == "honest" => Ok(Mode::Honest),
        Some(("hostile", attacks)) => parse_attacks(attacks, seed),
        _ => Err("modes are honest and hostile:ID[,ID...]".to_owned()),
    }
}

#[cfg(feature = "hostile")]
fn parse_attacks(attacks: &str, seed: u64) -> Result<Mode, String> {
    crate::hostile::Plan::parse(attacks, seed).map(Mode::Hostile).map_err(|error| error.to_string())
}

#[cfg(not(feature = "hostile"))]
fn parse_attacks(_attacks: &str, _seed: u64) -> Result<Mode, String> {
    Err("this daemon was built without the attacks; build it with `--features hostile`".to_owned())
}

/// QEMU's receive queues go up to this size, and so do its transmit queues for vhost-user.
const DEFAULT_QUEUE_SIZE: u16 = 1024;
/// How long an adaptive worker looks before it sleeps: about what a sleep and a wake-up cost.
const SPIN: Duration = Duration::from_micros(50);
/// The largest MTU whose frames fit: with an Ethernet header and a VLAN tag.
#[expect(clippy::cast_possible_truncation, reason = "65535 less 18, checked below")]
const MTU_MAX: u16 = (MAX_FRAME - 18) as u16;
const _: () = assert!(MTU_MAX as usize == MAX_FRAME - 18);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_as_documented() {
        assert_eq!("loopback".parse(), Ok(PortSpec::Loopback));
        assert_eq!("generate:1500".parse(), Ok(PortSpec::Generate { bytes: 1500 }));
        assert_eq!("generate:imix".parse(), Ok(PortSpec::GenerateImix));
        let pcap = |output: Option<&str>| PortSpec::Pcap { input: "a".into(), output: output.map(Into::into) };
        assert_eq!("pcap:a".parse(), Ok(pcap(None)));
        assert_eq!("pcap:a:b".parse(), Ok(pcap(Some("b"))));
        for bad in
            ["", "loop", "loopback:x", "generate", "generate:", "generate:x", "pcap", "pcap:", "pcap::b", "pcap:a:"]
        {
            assert!(bad.parse::<PortSpec>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_those_of_one_station() {
        let mac: Mac = "52:54:00:12:34:fF".parse().unwrap();
        assert_eq!(mac.to_string(), "52:54:00:12:34:ff");
        for bad in
            ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52:54:00:12:34:5g", "5:54:00:12:34:56", "01:00:5e:00:00:01"]
        {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
        assert!("00:00:00:00:00:00".parse::<Mac>().is_err());
        let random = Mac::random();
        assert_eq!(random.to_string().parse(), Ok(random));
    }
}
