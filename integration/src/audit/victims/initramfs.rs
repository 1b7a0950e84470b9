//! A small initramfs for a guest: busybox, the modules of a virtio network card, and a first process that does as it is told
//! on its console.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The archive, in the format that kernels unpack (newc), uncompressed. `modules` is the `lib/modules/VERSION` of the kernel;
/// a module that is not there is taken to be built in.
pub(super) fn build(busybox: &Path, modules: &Path) -> io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    for dir in ["bin", "proc", "sys", "dev", "tmp", "modules"] {
        archive.add(dir, DIRECTORY, &[]);
    }
    archive.add("bin/busybox", PROGRAM, &std::fs::read(busybox)?);
    archive.add("init", PROGRAM, INIT.as_bytes());
    for (number, name) in MODULES.iter().enumerate() {
        if let Some(file) = find(modules, name)? {
            archive.add(&format!("modules/{number:02}-{name}.ko"), FILE, &unpacked(&file)?);
        }
    }
    archive.add("TRAILER!!!", 0, &[]);
    Ok(archive.bytes)
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let size = u32::try_from(data.len()).expect("a file below 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a short name");
        // Inode, mode, owner, group, links, time, size, four numbers of devices, size of the name, no checksum.
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The file of a module, compressed or not, anywhere below a directory.
fn find(dir: &Path, name: &str) -> io::Result<Option<PathBuf>> {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                dirs.push(entry.path());
            } else if entry.file_name().to_string_lossy().strip_prefix(name).is_some_and(|rest| rest.starts_with(".ko"))
            {
                return Ok(Some(entry.path()));
            }
        }
    }
    Ok(None)
}

fn unpacked(file: &Path) -> io::Result<Vec<u8>> {
    let tool = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return std::fs::read(file),
    };
    let output = Command::new(tool).arg("-dcq").arg(file).output()?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(io::Error::other(format!("{tool} cannot unpack a module")))
    }
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// In the order in which they need each other.
const MODULES: [&str; 8] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// The first process. It never touches the network by itself: the kernel answers pings.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
dmesg -n 6
say() { echo "guest: $*"; }
for pass in 1 2 3 4; do
    for module in /modules/*.ko; do insmod "$module" 2>/dev/null; done
done
card() {
    n=0
    while [ ! -e /sys/class/net/eth0 ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
    ifconfig lo 127.0.0.1 up
    ifconfig eth0 10.99.0.2 netmask 255.255.255.0 up
}
card
head -c 8388608 /dev/urandom >/tmp/canary
sum=$(sha256sum </tmp/canary)
say "up, Linux $(uname -r), features $(cat /sys/class/net/eth0/device/features)"
while read -r word number; do
    case $word in
        alive) say "alive $number" ;;
        check) if [ "$(sha256sum </tmp/canary)" = "$sum" ]; then say "whole $number"; else say "changed $number"; fi ;;
        rebind)
            driver=/sys/bus/virtio/drivers/virtio_net
            device=$(basename "$(ls -d $driver/virtio* | head -n 1)")
            echo "$device" >$driver/unbind
            echo "$device" >$driver/bind
            card
            say "rebound $number"
            ;;
    esac
done
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_what_the_format_says() {
        let mut archive = Archive::default();
        archive.add("ab", FILE, b"hello");
        assert_eq!(archive.bytes.len(), (110usize + 3).next_multiple_of(4) + 8);
        assert!(archive.bytes.starts_with(b"07070100000001000081A4"));
        assert_eq!(&archive.bytes[110..113], b"ab\0");
        assert_eq!(&archive.bytes[116..121], b"hello");
    }
}
