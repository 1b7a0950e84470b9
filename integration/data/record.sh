#!/usr/bin/env bash
# Records real traffic between two network namespaces into real-traffic.pcap.
#
# Needs root and the Debian packages iproute2 ethtool nftables tcpdump iputils-ping curl python3. Everything it makes has
# this process's number in its name and is removed on exit. No packet leaves the two namespaces.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here/real-traffic.pcap}

[ "$(id -u)" = 0 ] || { echo "record.sh: needs root, to make network namespaces" >&2; exit 3; }
missing=()
for need in ip:iproute2 ethtool:ethtool nft:nftables tcpdump:tcpdump ping:iputils-ping curl:curl python3:python3; do
    command -v "${need%%:*}" >/dev/null || missing+=("${need##*:}")
done
[ ${#missing[@]} = 0 ] || { echo "record.sh: install ${missing[*]} first" >&2; exit 3; }

a=ironring-a-$$ b=ironring-b-$$ work=$(mktemp -d) pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    ip netns del "$a" 2>/dev/null || true
    ip netns del "$b" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
# Not for the background: there, the process to stop has to be the command itself.
in_a() { ip netns exec "$a" "$@"; }
# Waits until a command succeeds, at most five seconds.
until_ok() {
    for _ in $(seq 100); do "$@" >/dev/null 2>&1 && return 0; sleep 0.05; done
    echo "record.sh: gave up on: $*" >&2
    return 1
}

ip netns add "$a"
ip netns add "$b"
ip link add va netns "$a" type veth peer name vb netns "$b"
for side in "$a va 1" "$b vb 2"; do
    read -r ns dev host <<<"$side"
    # Frames as they are on a wire: no segmentation, no merging, real checksums, tags in the frame.
    for off in tso gso gro tx rx txvlan rxvlan; do
        ip netns exec "$ns" ethtool -K "$dev" "$off" off >/dev/null 2>&1 || true
    done
    ip netns exec "$ns" ip addr add "10.77.0.$host/24" dev "$dev"
    ip netns exec "$ns" ip addr add "fd77::$host/64" dev "$dev" nodad
    ip netns exec "$ns" ip link set lo up
    ip netns exec "$ns" ip link set "$dev" mtu 1500 up
done

ip netns exec "$a" tcpdump -i va -s 65535 -U -w "$work/raw.pcap" 2>"$work/tcpdump.log" &
pids+=($!)
until_ok grep -q 'listening on' "$work/tcpdump.log"

echo "ARP and ICMP"
in_a ping -c 3 -i 0.05 -W 2 10.77.0.2 >/dev/null
in_a ping -c 2 -i 0.05 -W 2 -s 0 10.77.0.2 >/dev/null
in_a ping -c 2 -i 0.05 -W 2 -s 1472 -M do 10.77.0.2 >/dev/null

echo "IPv6 neighbour discovery and ICMPv6"
in_a ping -6 -c 2 -i 0.05 -W 2 fd77::2 >/dev/null
in_a ping -6 -c 1 -W 2 -s 1452 fd77::2 >/dev/null

echo "UDP in the form of DNS"
ip netns exec "$b" python3 "$here/traffic.py" dns-server 10.77.0.2 >"$work/dns.log" 2>&1 &
pids+=($!)
until_ok grep -q ready "$work/dns.log"
in_a python3 "$here/traffic.py" dns-client 10.77.0.2

echo "TCP: an HTTP transfer, with one segment lost on the way"
head -c 260000 /dev/urandom >"$work/file.bin"
ip netns exec "$b" python3 -m http.server --bind 10.77.0.2 --directory "$work" 8077 >"$work/http.log" 2>&1 &
pids+=($!)
until_ok in_a curl -s -o /dev/null http://10.77.0.2:8077/file.bin -r 0-0
# The kernel here has no netem: the 40th large segment towards the client is dropped, once, by a rule that counts.
in_a nft -f - <<RULES
table inet loss {
    chain input {
        type filter hook input priority 0;
        tcp sport 8077 ip length > 1400 numgen inc mod 120 == 40 counter drop
    }
}
RULES
in_a curl -s --max-time 20 -o "$work/got.bin" http://10.77.0.2:8077/file.bin
cmp "$work/file.bin" "$work/got.bin"
in_a curl -s --max-time 20 -X POST --data-binary "@$here/traffic.py" -o /dev/null http://10.77.0.2:8077/ || true

echo "VLAN tags and sizes from 60 to 1518 bytes"
in_a python3 "$here/traffic.py" raw va

until_ok test -s "$work/raw.pcap"
sleep 0.3 # tcpdump reads what the kernel has buffered; it has no event for "all is written"
kill -TERM "${pids[0]}"
wait "${pids[0]}" 2>/dev/null || true
cp "$work/raw.pcap" "$out"
python3 "$here/check.py" "$out"
