#!/usr/bin/env bash
# Records real traffic between two network namespaces on a veth pair: record.sh [OUT.pcap]
#
# Needs root. Everything it makes carries the number of this process in its name, or lies in a temporary folder, and is
# removed on exit. No packet leaves the two namespaces, and every command has a time limit. The old capture is replaced
# only by one that check.py accepts.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-$here/real-traffic.pcap}

missing=()
for need in ip:iproute2 ethtool:ethtool nft:nftables tcpdump:tcpdump ping:iputils-ping curl:curl python3:python3; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "record.sh: Debian packages are missing, install them first: ${missing[*]}" >&2
    exit 3
fi
if [ "$EUID" -ne 0 ]; then
    echo "record.sh: run it as root, since it makes network namespaces" >&2
    exit 3
fi

a=ironring-a-$$ b=ironring-b-$$ work=$(mktemp -d)
cleanup() {
    # Whatever runs in the two namespaces was started here. Their devices go with them.
    for signal in TERM KILL; do
        for ns in "$a" "$b"; do
            for pid in $(ip netns pids "$ns" 2>/dev/null); do kill -"$signal" "$pid" 2>/dev/null || true; done
        done
        sleep 0.1
    done
    ip netns del "$a" 2>/dev/null || true
    ip netns del "$b" 2>/dev/null || true
    rm -rf "$work" "$out.$$"
}
trap cleanup EXIT
trap 'exit 130' INT

fail() { echo "record.sh: $*" >&2; exit 1; }
in_a() { timeout -k 1 20 ip netns exec "$a" "$@"; }
in_b() { timeout -k 1 20 ip netns exec "$b" "$@"; }
# Starts a command in a namespace that runs until the script ends: start NAMESPACE LOG COMMAND...
start() { timeout -k 1 120 ip netns exec "$1" "${@:3}" >"$work/$2" 2>&1 & }
# Waits until a command succeeds, at most ten seconds.
until_ok() {
    for _ in {1..200}; do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.05
    done
    fail "gave up waiting for: $*"
}
# Each side has its link-local address, and no address is still being checked for duplicates.
addresses_are_ready() {
    local text
    text=$(in_a ip -6 addr show dev va && in_b ip -6 addr show dev vb)
    [ "$(grep -c 'scope link' <<<"$text")" = 2 ] && [[ $text != *tentative* ]]
}
get() {
    in_a curl -q -sS --fail --noproxy '*' --max-time 15 -o "$work/got.bin" "$1"
    cmp "$work/www/file.bin" "$work/got.bin"
}

ip netns add "$a"
ip netns add "$b"
ip link add va netns "$a" type veth peer name vb netns "$b"
setup() {
    local ns=$1 dev=$2 host=$3
    # Frames as they are on a wire: no segmentation, no merging, real checksums, tags inside of the frame.
    ip netns exec "$ns" ethtool -K "$dev" tso off gso off gro off tx off rx off txvlan off rxvlan off >/dev/null
    ip netns exec "$ns" ethtool -k "$dev" >"$work/offloads"
    if grep -E '^(tcp-seg.*|generic-.*|[rt]x-checksumming|[rt]x-vlan-offload): on' "$work/offloads" >&2; then
        fail "these offloads of $dev cannot be switched off"
    fi
    ip netns exec "$ns" ip addr add "10.77.0.$host/24" dev "$dev"
    ip netns exec "$ns" ip addr add "fd77::$host/64" dev "$dev" nodad
    ip netns exec "$ns" ip link set lo up
    ip netns exec "$ns" ip link set "$dev" mtu 1500 up
}
setup "$a" va 1
setup "$b" vb 2

start "$a" tcpdump.log tcpdump -i va -s 65535 -B 32768 --immediate-mode -U -w "$work/raw.pcap"
until_ok grep -q 'listening on' "$work/tcpdump.log"

echo "ARP and ICMP"
for size in 0 56 512 1472; do in_a ping -q -c 3 -i 0.05 -w 5 -M 'do' -s "$size" 10.77.0.2 >/dev/null; done

echo "IPv6 neighbour discovery and ICMPv6"
until_ok addresses_are_ready
for size in 56 1452; do in_a ping -q -6 -c 3 -i 0.05 -w 5 -s "$size" fd77::2 >/dev/null; done

echo "UDP in the form of DNS"
start "$b" dns.log python3 "$here/traffic.py" dns-server 10.77.0.2
until_ok grep -q ready "$work/dns.log"
in_a python3 "$here/traffic.py" dns-client 10.77.0.2

echo "TCP: HTTP over IPv6, then over IPv4 with one segment lost"
mkdir "$work/www"
head -c 290000 /dev/urandom >"$work/www/file.bin"
start "$b" http.log python3 -u -m http.server --bind :: --directory "$work/www" 8077
until_ok grep -q Serving "$work/http.log"
get 'http://[fd77::2]:8077/file.bin'
# Drops one full segment between the device, where it is recorded, and the receiver. The counter never comes round.
in_a nft -f - <<'RULES'
table ip loss {
    chain input {
        type filter hook input priority 0;
        tcp sport 8077 ip length 1500 numgen inc mod 1000000 == 40 counter drop
    }
}
RULES
get http://10.77.0.2:8077/file.bin
in_a nft list table ip loss >"$work/loss"
grep -q 'packets 1 ' "$work/loss" || fail "no segment was dropped"

echo "VLAN tags, and sizes from 60 to 1518 bytes"
in_a python3 "$here/traffic.py" raw va
# The last frame that is sent says that all before it are in the file.
until_ok grep -q 'end of the recording' "$work/raw.pcap"
for pid in $(ip netns pids "$a"); do kill -TERM "$pid" 2>/dev/null || true; done
until_ok grep -q 'dropped by kernel' "$work/tcpdump.log"
grep -q '^0 packets dropped by kernel' "$work/tcpdump.log" || fail "tcpdump was too slow, run it again"

python3 "$here/check.py" "$work/raw.pcap"
cp "$work/raw.pcap" "$out.$$"
chmod 644 "$out.$$"
mv "$out.$$" "$out"
