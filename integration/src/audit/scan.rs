//! A look at shared memory from outside: another process reads all that the device was given, and looks for what should
//! not be there.
//!
//! The driver under test cannot be asked what it shares. This process opens the sealed memory of the cell by its
//! descriptors, as the backend does, and compares what it reads with the mappings that the kernel lists: a word that is an
//! address of the driver's process, or the canary that lies behind every frame in private memory, has leaked. It depends
//! on nothing that the driver, or the adversary in the same process, says.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use ironring_backend::hostile::CANARY;
use serde::{Deserialize, Serialize};

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Files of shared memory.
    pub(super) files: u64,
    /// Bytes that were read.
    pub(super) bytes: u64,
    /// Canaries of private memory.
    pub(super) canaries: u64,
    /// Words that are addresses of the process.
    pub(super) pointers: u64,
}

/// Arguments of the hidden `scan` subcommand.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct ScanArgs {
    /// The process whose shared memory is looked at
    #[arg(long)]
    pub pid: u32,
}

/// Has another process look at the shared memory of this one.
pub(super) fn from_outside() -> std::io::Result<Seen> {
    let output = Command::new(std::env::current_exe()?)
        .args(["scan", "--pid", &std::process::id().to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let seen = output.status.success().then(|| serde_json::from_slice(&output.stdout).ok()).flatten();
    seen.ok_or_else(|| std::io::Error::other(format!("the process that looks ended with {}", output.status)))
}

/// The hidden `scan` subcommand.
#[must_use]
pub fn scan_main(args: ScanArgs) -> ExitCode {
    match scan(args.pid) {
        Ok(seen) => {
            crate::output::print_json(&seen);
            ExitCode::SUCCESS
        }
        Err(error) => {
            crate::output::fail(false, &format!("cannot look at process {}: {error}", args.pid));
            ExitCode::from(3)
        }
    }
}

/// Looks at every sealed memory that a process holds.
fn scan(pid: u32) -> std::io::Result<Seen> {
    let root = Path::new("/proc").join(pid.to_string());
    let mappings = mappings(&std::fs::read_to_string(root.join("maps"))?);
    let mut seen = Seen::default();
    let mut known = Vec::new();
    for entry in std::fs::read_dir(root.join("fd"))? {
        let path = entry?.path();
        // A descriptor may be closed while we walk.
        let Ok(target) = std::fs::read_link(&path) else { continue };
        if !target.to_string_lossy().starts_with("/memfd:") {
            continue;
        }
        let Ok(file) = File::open(&path) else { continue };
        // Both ends hold the same memory.
        let inode = std::os::unix::fs::MetadataExt::ino(&file.metadata()?);
        if !known.contains(&inode) {
            known.push(inode);
            look(&file, &mappings, &mut seen)?;
        }
    }
    Ok(seen)
}

fn look(file: &File, mappings: &[(u64, u64)], seen: &mut Seen) -> std::io::Result<()> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len().min(MOST)).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    seen.files += 1;
    seen.bytes += bytes.len() as u64;
    seen.canaries += canaries(&bytes);
    seen.pointers += pointers(&bytes, mappings);
    Ok(())
}

fn canaries(bytes: &[u8]) -> u64 {
    let [first, ..] = CANARY;
    let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == first);
    starts.filter(|(at, _)| bytes.get(*at..*at + CANARY.len()) == Some(&CANARY[..])).count() as u64
}

/// Aligned words that lie inside a mapping.
fn pointers(bytes: &[u8], mappings: &[(u64, u64)]) -> u64 {
    let (Some((lowest, _)), Some((_, highest))) = (mappings.first(), mappings.last()) else { return 0 };
    let words = bytes.chunks_exact(8).filter_map(|word| Some(u64::from_le_bytes(*word.first_chunk()?)));
    let near = words.filter(|word| (*lowest..*highest).contains(word));
    let inside = near.filter(|word| {
        let after = mappings.partition_point(|(start, _)| start <= word);
        after.checked_sub(1).and_then(|at| mappings.get(at)).is_some_and(|(_, end)| word < end)
    });
    inside.count() as u64
}

/// The ranges of `/proc/PID/maps`, in its order, which ascends.
fn mappings(maps: &str) -> Vec<(u64, u64)> {
    let range = |line: &str| {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    };
    maps.lines().filter_map(range).collect()
}

/// What is read of a file at most.
const MOST: u64 = 256 << 20;

#[cfg(test)]
mod tests {
    use ironring_common::shm::mapping::{Mapping, Memfd};
    use ironring_common::shm::words::Words;

    use super::*;

    /// Memory of this process with a canary and with an address is found by its descriptors alone.
    #[test]
    fn what_a_process_shares_is_found() {
        let memfd = Memfd::create("ironring-scan-test", 1 << 16).unwrap();
        let map = Mapping::of(&memfd).unwrap();
        let area = map.area(0, 1 << 16).unwrap();
        let before = scan(std::process::id()).unwrap();
        assert!(before.files > 0 && before.bytes >= 1 << 16);
        area.copy_in(4093, &CANARY);
        let boxed = Box::new(7u64);
        let address = std::ptr::from_ref(boxed.as_ref()).addr() as u64;
        area.copy_in(8192, &address.to_le_bytes());
        let after = scan(std::process::id()).unwrap();
        assert!(after.canaries > before.canaries && after.pointers > before.pointers, "{before:?} {after:?}");
    }

    #[test]
    fn words_count_only_inside_of_a_mapping() {
        let ranges = mappings("1000-2000 r--p 00000000 00:00 0\n5000-6000 rw-p 00000000 00:00 0 [heap]\n");
        assert_eq!(ranges, [(0x1000, 0x2000), (0x5000, 0x6000)]);
        let words = [0u64, 0xfff, 0x1000, 0x1fff, 0x2000, 0x3000, 0x5001, 0x6000];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(pointers(&bytes, &ranges), 3);
    }

    #[test]
    fn a_canary_is_found_at_any_place_and_only_whole() {
        let mut bytes = vec![CANARY[0]; 64];
        bytes[19..35].copy_from_slice(&CANARY);
        assert_eq!(canaries(&bytes), 1);
        assert_eq!(canaries(&bytes[..34]), 0);
    }
}
