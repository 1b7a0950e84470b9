#!/usr/bin/env bash
# Makes a small initramfs for a guest: busybox, the modules of a virtio network card, and the `init` beside this script.
# usage: mkinitramfs.sh MODULES OUT      (MODULES: the lib/modules/VERSION of the guest's kernel)
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
modules=$1 out=$2
busybox=$(command -v busybox) || { echo "mkinitramfs: busybox is missing; install busybox-static" >&2; exit 3; }
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,proc,sys,dev,tmp,modules}
cp "$busybox" "$root/bin/busybox"
install -m 755 "$here/init" "$root/init"
number=10
for name in virtio virtio_ring virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci failover net_failover virtio_net; do
    file=$(find "$modules" -name "$name.ko*" | head -n 1)
    [ -n "$file" ] || continue # built in
    target=$root/modules/$number-$name.ko
    case $file in
        *.xz) xz -dc "$file" >"$target" ;;
        *.zst) zstd -qdc "$file" >"$target" ;;
        *) cp "$file" "$target" ;;
    esac
    number=$((number + 1))
done
(cd "$root" && find . -print0 | cpio --null --create --format=newc --quiet) | gzip -1 >"$out"
