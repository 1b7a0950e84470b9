//! Guests are not cells: they boot once for many attacks. A campaign runs in a child, in a network namespace of its own, and
//! prints a line for each attack as it is done, so that an audit that is interrupted keeps what it has.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::ValueEnum;
use ironring_backend::hostile::{Attack, Axis, Surface};
use serde::{Deserialize, Serialize};

use super::{Encounter, Target, VictimRow, dpdk, guest};
use crate::console::which;

/// What a campaign is made of.
#[derive(Clone, Debug)]
pub(super) struct Campaign {
    /// The kernel of guests, and its modules.
    pub(super) boot: Option<(PathBuf, PathBuf)>,
    pub(super) cmdline: String,
    /// `split`, `packed` or `bounced`.
    pub(super) config: String,
    pub(super) attacks: Vec<String>,
    pub(super) seed: u64,
}

/// Which guests.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct GuestOptions {
    /// Kernel of the guests of --target qemu: a vmlinuz
    #[arg(long, value_name = "VMLINUZ")]
    pub kernel: Option<PathBuf>,
    /// Its modules: a lib/modules/VERSION
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// Words for its command line
    #[arg(long, value_name = "WORDS", default_value = "", allow_hyphen_values = true)]
    pub cmdline: String,
    /// Rings of guests and of testpmd: split, packed, or bounced (guests only: split rings with swiotlb=force), several with
    /// commas between
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "split,packed,bounced", value_parser = CARDS)]
    pub cards: Vec<String>,
}

/// Arguments of the hidden `guests` subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct GuestsArgs {
    /// Whose driver
    #[arg(long, value_enum)]
    target: Target,
    /// Attack ids
    #[arg(long, value_delimiter = ',')]
    attacks: Vec<String>,
    /// The card
    #[arg(long)]
    config: String,
    #[arg(long)]
    kernel: Option<PathBuf>,
    #[arg(long)]
    modules: Option<PathBuf>,
    #[arg(long, allow_hyphen_values = true)]
    cmdline: String,
    #[arg(long)]
    seed: u64,
}

/// A line of a campaign.
#[derive(Debug, Serialize, Deserialize)]
struct Told {
    attack: String,
    encounter: Encounter,
}

/// Runs the campaigns of the rings that were asked for, one after the other. What each attack came to is told as it is known;
/// what could not be run is returned in sentences. Once `interrupted`, the one that runs ends, and no other begins.
pub(in crate::audit) fn campaigns(
    target: Target,
    options: &GuestOptions,
    attacks: &[&'static Attack],
    seed: u64,
    interrupted: &AtomicBool,
    mut tell: impl FnMut(VictimRow),
) -> Vec<String> {
    let name = target.name();
    let needs: &[(&str, &str)] = if target == Target::Dpdk { &DPDK_NEEDS } else { &QEMU_NEEDS };
    if let Some((program, package)) = needs.iter().find(|(program, _)| which(program).is_none()) {
        return vec![format!("{name}: {program} is missing; install {package}")];
    }
    let boot = options.kernel.clone().zip(options.modules.clone());
    if target == Target::Qemu
        && let Err(why) = has_kernel(boot.as_ref())
    {
        return vec![format!("{name}: {why}; {KERNEL_WANTED}")];
    }
    let mut skipped = Vec::new();
    for config in &options.cards {
        if target == Target::Dpdk && config == "bounced" {
            // Unless it is there for the guests of the same audit.
            if options.cards.len() == 1 {
                skipped
                    .push(format!("{name}: only guests have a card that is bounced; add split or packed to --cards"));
            }
            continue;
        }
        let layout = if config == "packed" { "packed" } else { "split" };
        let fitting: Vec<_> = attacks.iter().filter(|attack| fits(attack, layout)).map(|attack| attack.id).collect();
        if fitting.is_empty() || interrupted.load(Ordering::Relaxed) {
            continue;
        }
        let campaign = Campaign {
            boot: boot.clone(),
            cmdline: options.cmdline.clone(),
            config: config.clone(),
            attacks: fitting.iter().map(|id| (*id).to_owned()).collect(),
            seed,
        };
        let told = in_child(target, &campaign, interrupted, |Told { attack, encounter }| {
            tell(VictimRow { target, attack, config: config.clone(), encounter });
        });
        skipped.extend(match told {
            // Its end has no other cause to be told.
            _ if interrupted.load(Ordering::Relaxed) => Some(format!("{name}, {config}: interrupted")),
            Err(error) => Some(format!("{name}, {config}: {error}")),
            Ok(()) => None,
        });
    }
    skipped
}

/// Whether there is something to boot.
fn has_kernel(boot: Option<&(PathBuf, PathBuf)>) -> Result<(), String> {
    let (kernel, modules) = boot.ok_or("it needs a kernel and its modules")?;
    if !kernel.is_file() {
        return Err(format!("there is no kernel at {}", kernel.display()));
    }
    if !modules.is_dir() {
        return Err(format!("there are no modules at {}", modules.display()));
    }
    Ok(())
}

/// How often somebody looks whether a campaign was interrupted.
const LOOK_EACH: Duration = Duration::from_millis(100);
/// What helps who has no kernel.
const KERNEL_WANTED: &str = "give --kernel and --modules, for example those of Debian's package linux-image-cloud-amd64, \
which ./ci.sh guest-kernel unpacks into ~/.cache/ironring/guest without installing it";
/// What may be in `--cards`.
const CARDS: [&str; 3] = ["split", "packed", "bounced"];

/// What a victim needs, and what brings it.
const QEMU_NEEDS: [(&str, &str); 5] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("unshare", "util-linux"),
];
const DPDK_NEEDS: [(&str, &str); 2] = [("dpdk-testpmd", "dpdk"), ("stdbuf", "coreutils")];

/// Whether an attack is one on the rings and frames of a guest. Its memory is all shared, so that one on all of it says
/// nothing; and over the socket it is QEMU that is struck. A12 to A13 step on words while drivers fill them: one that fills
/// them in several stores leaves something that cannot be undone, and what stops then is the device.
fn fits(attack: &Attack, layout: &str) -> bool {
    let surfaces = [Surface::Descriptor, Surface::Available, Surface::Used, Surface::Header, Surface::Buffer];
    let calls = ["A102", "A103", "A104"].contains(&attack.id);
    attack.layouts.contains(&layout)
        && (surfaces.contains(&attack.surface) || calls)
        && attack.axes.in_order != Axis::On
        && !["A12", "A12b", "A12c", "A13", "A122", "A125"].contains(&attack.id)
}

/// Runs a campaign in a child; guests in a network namespace, and in one of processes, so that none outlives it.
fn in_child(
    target: Target,
    campaign: &Campaign,
    interrupted: &AtomicBool,
    mut tell: impl FnMut(Told),
) -> std::io::Result<()> {
    let root = rustix::process::geteuid().is_root();
    let user: &[&str] = if root { &[] } else { &["--map-root-user"] };
    let mut boot: Vec<std::ffi::OsString> = Vec::new();
    let program = std::env::current_exe()?;
    let mut command = if target == Target::Qemu {
        let mut command = Command::new("unshare");
        command.args(user).args(["--net", "--pid", "--kill-child", "--fork", "--"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    let named = target.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    if let Some((kernel, modules)) = &campaign.boot {
        boot = vec!["--kernel".into(), kernel.into(), "--modules".into(), modules.into()];
    }
    let mut child = command
        .args(["guests", "--target", &named, "--config", &campaign.config, "--seed", &campaign.seed.to_string()])
        .args(["--attacks", &campaign.attacks.join(","), "--cmdline", &campaign.cmdline])
        .args(boot)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let errors = child.stderr.take().map(|stderr| std::thread::spawn(move || std::io::read_to_string(stderr)));
    // A descriptor of the process, not its number, which may belong to another by the time it is used.
    let pid = rustix::process::Pid::from_child(&child);
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                if interrupted.load(Ordering::Relaxed) {
                    let _ = rustix::process::pidfd_send_signal(&process, rustix::process::Signal::KILL);
                    return;
                }
                std::thread::park_timeout(LOOK_EACH);
            }
        });
        let mut lines = child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
        let told =
            lines.try_for_each(|line| line.map(|line| serde_json::from_str(&line).into_iter().for_each(&mut tell)));
        over.store(true, Ordering::Relaxed);
        watch.thread().unpark();
        told
    })?;
    let status = child.wait()?;
    let errors = errors.and_then(|thread| thread.join().ok()).and_then(Result::ok).unwrap_or_default();
    let last = errors.lines().last().unwrap_or("no words").to_owned();
    if status.success() { Ok(()) } else { Err(std::io::Error::other(last)) }
}

/// The hidden `guests` subcommand: one campaign, in the network namespace that it finds itself in.
#[must_use]
pub fn guests_main(args: &GuestsArgs) -> ExitCode {
    // It ends with its parent, whatever happens to that.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let GuestsArgs { target, attacks, config, kernel, modules, cmdline, seed } = args.clone();
    let campaign = Campaign { boot: kernel.zip(modules), cmdline, config, attacks, seed };
    let tell = |attack: &str, encounter: Encounter| {
        let line = serde_json::to_string(&Told { attack: attack.to_owned(), encounter }).unwrap_or_default();
        // Nobody listens any more if the audit was ended.
        let _ = writeln!(std::io::stdout(), "{line}").and_then(|()| std::io::stdout().flush());
    };
    let told = if target == Target::Dpdk { dpdk::run(&campaign, tell) } else { guest::run(&campaign, tell) };
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::output::fail(false, &error.to_string());
            ExitCode::from(3)
        }
    }
}
