//! Guests are not cells: they boot once for many attacks. A campaign runs in a child, in a network namespace of its own, and
//! prints a line for each attack as it is done, so that an audit that is interrupted keeps what it has.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

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
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "split,packed,bounced")]
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
/// what could not be run is returned in sentences.
pub(in crate::audit) fn campaigns(
    target: Target,
    options: &GuestOptions,
    attacks: &[&'static Attack],
    seed: u64,
    mut tell: impl FnMut(VictimRow),
) -> Vec<String> {
    let name = target.name();
    let needs: &[(&str, &str)] = if target == Target::Dpdk { &DPDK_NEEDS } else { &QEMU_NEEDS };
    if let Some((program, package)) = needs.iter().find(|(program, _)| which(program).is_none()) {
        return vec![format!("{name}: {program} is missing; install {package}")];
    }
    let boot = options.kernel.clone().zip(options.modules.clone());
    if target == Target::Qemu && boot.is_none() {
        let what =
            "a kernel for guests: give --kernel and --modules, for example those that ./ci.sh guest-kernel downloads";
        return vec![format!("{name}: it needs {what}")];
    }
    let mut skipped = Vec::new();
    for config in options.cards.iter().filter(|config| target == Target::Qemu || *config != "bounced") {
        let layout = if config == "packed" { "packed" } else { "split" };
        let fitting: Vec<_> = attacks.iter().filter(|attack| fits(attack, layout)).map(|attack| attack.id).collect();
        if fitting.is_empty() {
            continue;
        }
        let campaign = Campaign {
            boot: boot.clone(),
            cmdline: options.cmdline.clone(),
            config: config.clone(),
            attacks: fitting.iter().map(|id| (*id).to_owned()).collect(),
            seed,
        };
        let told = in_child(target, &campaign, |Told { attack, encounter }| {
            tell(VictimRow { target, attack, config: config.clone(), encounter });
        });
        skipped.extend(told.err().map(|error| format!("{name}, {config}: {error}")));
    }
    skipped
}

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
/// nothing; and over the socket it is QEMU that is struck. A12 and A13 step on words while drivers fill them: one that fills
/// them in several stores leaves something that cannot be undone, and what stops then is the device.
fn fits(attack: &Attack, layout: &str) -> bool {
    let surfaces = [Surface::Descriptor, Surface::Available, Surface::Used, Surface::Header, Surface::Buffer];
    let calls = ["A102", "A103", "A104"].contains(&attack.id);
    attack.layouts.contains(&layout)
        && (surfaces.contains(&attack.surface) || calls)
        && attack.axes.in_order != Axis::On
        && !["A12", "A13", "A122", "A125"].contains(&attack.id)
}

/// Runs a campaign in a child; guests in a network namespace, and in one of processes, so that none outlives it.
fn in_child(target: Target, campaign: &Campaign, mut tell: impl FnMut(Told)) -> std::io::Result<()> {
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
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            if let Ok(told) = serde_json::from_str(&line?) {
                tell(told);
            }
        }
    }
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
