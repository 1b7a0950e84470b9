//! Guests are not cells: they boot once for many attacks. A campaign runs in a child, in a network namespace of its own, and
//! prints a line for each attack as it is done, so that an audit that is interrupted keeps what it has.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use ironring_backend::hostile::{Attack, Axis, Surface};
use serde::{Deserialize, Serialize};

use super::guest::{Campaign, which};
use super::{Encounter, Target, VictimRow};

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
    /// Cards of the guests: split, packed, or bounced (split rings, with swiotlb=force), several with commas between
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "split,packed,bounced")]
    pub cards: Vec<String>,
}

/// Arguments of the hidden `guests` subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct GuestsArgs {
    /// Attack ids
    #[arg(long, value_delimiter = ',')]
    attacks: Vec<String>,
    /// The card
    #[arg(long)]
    config: String,
    #[arg(long)]
    kernel: PathBuf,
    #[arg(long)]
    modules: PathBuf,
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

/// Runs the campaigns of the cards that were asked for, one after the other. What each attack came to is told as it is known;
/// what could not be run is returned in sentences.
pub(in crate::audit) fn qemu(
    options: &GuestOptions,
    attacks: &[&'static Attack],
    seed: u64,
    mut tell: impl FnMut(VictimRow),
) -> Vec<String> {
    let (Some(kernel), Some(modules)) = (&options.kernel, &options.modules) else {
        let what =
            "a kernel for guests: give --kernel and --modules, for example those that ./ci.sh guest-kernel downloads";
        return vec![format!("linux: it needs {what}")];
    };
    for (program, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("busybox", "busybox-static"),
        ("ip", "iproute2"),
        ("ping", "iputils-ping"),
        ("unshare", "util-linux"),
    ] {
        if which(program).is_none() {
            return vec![format!("linux: {program} is missing; install {package}")];
        }
    }
    let mut skipped = Vec::new();
    for card in &options.cards {
        let layout = if card == "packed" { "packed" } else { "split" };
        let fitting: Vec<_> = attacks.iter().filter(|attack| fits(attack, layout)).map(|attack| attack.id).collect();
        if fitting.is_empty() {
            continue;
        }
        let arguments = Campaign {
            kernel: kernel.clone(),
            modules: modules.clone(),
            cmdline: options.cmdline.clone(),
            config: card.clone(),
            attacks: fitting.iter().map(|id| (*id).to_owned()).collect(),
            seed,
        };
        let told = in_namespace(&arguments, |Told { attack, encounter }| {
            tell(VictimRow { target: Target::Qemu, attack, config: card.clone(), encounter });
        });
        skipped.extend(told.err().map(|error| format!("linux, {card}: {error}")));
    }
    skipped
}

/// Whether an attack is one on the rings and frames of a guest. Its memory is all shared, so that one on all of it says
/// nothing; and over the socket it is QEMU that is struck.
fn fits(attack: &Attack, layout: &str) -> bool {
    let surfaces = [Surface::Descriptor, Surface::Available, Surface::Used, Surface::Header, Surface::Buffer];
    let calls = ["A102", "A103", "A104"].contains(&attack.id);
    attack.layouts.contains(&layout)
        && (surfaces.contains(&attack.surface) || calls)
        && attack.axes.in_order != Axis::On
        && !["A122", "A125"].contains(&attack.id)
}

fn in_namespace(campaign: &Campaign, mut tell: impl FnMut(Told)) -> std::io::Result<()> {
    let root = rustix::process::geteuid().is_root();
    let user: &[&str] = if root { &[] } else { &["--map-root-user"] };
    let mut child = Command::new("unshare")
        .args(user)
        .args(["--net", "--kill-child", "--fork", "--"])
        .arg(std::env::current_exe()?)
        .args(["guests", "--config", &campaign.config, "--seed", &campaign.seed.to_string()])
        .args(["--attacks", &campaign.attacks.join(","), "--cmdline", &campaign.cmdline])
        .arg("--kernel")
        .arg(&campaign.kernel)
        .arg("--modules")
        .arg(&campaign.modules)
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
    let GuestsArgs { attacks, config, kernel, modules, cmdline, seed } = args.clone();
    let campaign = Campaign { kernel, modules, cmdline, config, attacks, seed };
    let told = campaign.run(|attack, encounter| {
        let line = serde_json::to_string(&Told { attack: attack.to_owned(), encounter }).unwrap_or_default();
        // Nobody listens any more if the audit was ended.
        let _ = writeln!(std::io::stdout(), "{line}").and_then(|()| std::io::stdout().flush());
    });
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::output::fail(false, &error.to_string());
            ExitCode::from(3)
        }
    }
}
