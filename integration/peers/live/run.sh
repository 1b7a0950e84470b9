#!/usr/bin/env bash
# Live traffic through the rings: the driver on a TAP interface in one network namespace, the daemon on a TAP interface in
# another, and between them nothing but shared memory. Beside it, for comparison, a plain veth pair. Then the same with
# both ends in `ironring pair`.
#
# usage: run.sh DAEMON DRIVER TOOL      (DRIVER: the example `tap` of ironring-driver; TOOL: ironring)
#
# Exit status: 0 held, 1 did not, 3 this machine lacks something (a line says what).
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=../harness.sh
source "$here/../harness.sh"
daemon=$(readlink -f "$1")
driver=$(readlink -f "$2")
tool=$(readlink -f "$3")
seconds=${SECONDS_PER_RUN:-4}

if [ -z "${IRONRING_NAMESPACE:-}" ]; then
    need_tools iperf3:iperf3 curl:curl python3:python3 ip:iproute2 ping:iputils-ping unshare:util-linux
    unshare "${user_map[@]}" --net --mount true 2>/dev/null || missing "the right to make a network namespace"
    export IRONRING_NAMESPACE=1
    # /run is this script's own, so that `ip netns` keeps its names there; all of it ends with the script.
    exec unshare "${user_map[@]}" --net --mount --propagation private \
        sh -c 'mount -t tmpfs none /run && mkdir /run/netns && exec "$@"' sh "$0" "$daemon" "$driver" "$tool"
fi
begin

# ---- Two hosts: "far" is where this script runs, "near" is a namespace beside it. -----------------------------------

ip link set lo up
ip netns add near
near() { ip netns exec near "$@"; }
near ip link set lo up
ip link add veth-far type veth peer name veth-near netns near
ip addr add 10.97.0.2/24 dev veth-far && ip link set veth-far up
near ip addr add 10.97.0.1/24 dev veth-near && near ip link set veth-near up

ip tuntap add dev tap-far mode tap vnet_hdr
ip addr add 10.98.0.2/24 dev tap-far && ip link set tap-far up
near ip tuntap add dev tap-near mode tap vnet_hdr
near ip addr add 10.98.0.1/24 dev tap-near && near ip link set tap-near up

"$daemon" --socket-path "$work/socket" --port tap:tap-far --mtu 1500 --sandbox-kill >"$work/daemon.log" 2>&1 &
daemon_pid=$!
pids+=("$daemon_pid")
wait_for 10 "the daemon's socket" test -S "$work/socket"
ip netns exec near "$driver" "$work/socket" tap-near >"$work/driver.log" 2>&1 &
driver_pid=$!
pids+=("$driver_pid")
wait_for 10 "the driver" near ping -c 1 -W 1 10.98.0.2 >/dev/null

echo >"$work/again"
serve() { # ADDRESS
    python3 "$here/../server.py" "$1" 8099 "$work/again" >>"$work/server.log" 2>&1 &
    pids+=($!)
    wait_for 10 "the server at $1" near curl -sf -o /dev/null "http://$1:8099/again"
}
iperf3 -s >"$work/iperf.log" 2>&1 &
pids+=($!)
serve 10.98.0.2

# ---- Traffic --------------------------------------------------------------------------------------------------------

sum() { sha256sum | cut -c 1-64; }
ping_and_fetch() { # ADDRESS
    local expected took
    near ping -q -c 200 -i 0.002 "$1" >"$work/ping.log" || die "ping"
    grep -q ' 0% packet loss' "$work/ping.log" || die "pings were lost"
    echo "    ping 200 of 200, $(sed -n 's|^rtt min/avg/max/mdev = \([^ ]*\) ms.*|min/avg/max/mdev \1 ms|p' "$work/ping.log")"
    expected=$(curl -sf "http://$1:8099/blob/50" | sum)
    took=$( { near curl -sf -w '%{stderr}%{speed_download}' "http://$1:8099/blob/50" | sum >"$work/sum"; } 2>&1)
    [ "$(cat "$work/sum")" = "$expected" ] || die "50 MiB arrived changed"
    echo "    50 MiB over HTTP with the right SHA-256, $(awk -v b="$took" 'BEGIN { printf "%.0f MB/s", b / 1e6 }')"
}
ping_and_fetch 10.98.0.2

ticks() { awk '{ sub(/^.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
measure() { # name, address, options...
    local name=$1 address=$2 before_driver before_daemon
    shift 2
    before_driver=$(ticks "$driver_pid") before_daemon=$(ticks "$daemon_pid")
    near iperf3 -c "$address" -t "$seconds" -J "$@" >"$work/iperf.json" || die "iperf3 $name"
    python3 - "$work/iperf.json" "$name" "$seconds" \
        $(($(ticks "$driver_pid") - before_driver)) $(($(ticks "$daemon_pid") - before_daemon)) "$(getconf CLK_TCK)" <<'PYTHON'
import json, sys
path, name, seconds, driver, daemon, hertz = sys.argv[1:]
end = json.load(open(path))["end"]
gbit = end["sum_received"]["bits_per_second"] / 1e9
cpu = lambda ticks: f"{100 * int(ticks) / int(hertz) / float(seconds):.0f} %"
share = f", CPU driver {cpu(driver)}, daemon {cpu(daemon)}" if name.startswith("rings") else ""
print(f"    iperf3 {name}: {gbit:.2f} Gb/s, {end['sum_sent'].get('retransmits', 0)} retransmits{share}")
PYTHON
}
measure "rings, driver to daemon" 10.98.0.2
measure "rings, daemon to driver" 10.98.0.2 -R
measure "veth" 10.97.0.2
measure "veth, other way" 10.97.0.2 -R

kill -0 "$driver_pid" || die "the driver has ended"
kill "$driver_pid"
wait_for 10 "the end of the session" grep -q 'the session has ended' "$work/daemon.log"
kill -TERM "$daemon_pid"
wait "$daemon_pid" || die "the daemon ended with status $?"

# ---- Both ends in one program, which makes the interfaces; the backend's moves to the other host while it is in use. ---

ip netns exec near "$tool" pair --tap pair-near --port tap:pair-far --json >"$work/pair.json" 2>"$work/pair.log" &
pair_pid=$!
pids+=("$pair_pid")
wait_for 10 "the pair" near ip link show pair-near >/dev/null
near ip link set pair-far netns $$
ip addr add 10.96.0.2/24 dev pair-far && ip link set pair-far up
near ip addr add 10.96.0.1/24 dev pair-near
echo "    ironring pair:"
serve 10.96.0.2
ping_and_fetch 10.96.0.2
kill -TERM "$pair_pid"
wait "$pair_pid" || die "the pair ended with status $?: $(cat "$work/pair.json")"
python3 - "$work/pair.json" <<'PYTHON' || die "the pair's account: $(cat "$work/pair.json")"
import json, sys
said = json.load(open(sys.argv[1]))
tap, drops = said["tap"], said["tap"]["drops"]
sent, received = said["frames_sent"], said["frames_received"]
assert said["state"] == "ok" and not said["violations"] and "frames_verified" not in said
assert tap["frames_in"] == sent + drops["unfit"] + drops["too_long"] + drops["unsent"]
assert received == tap["frames_out"] + drops["no_room"] + drops["refused"]
assert received > 50 * 2**20 / 1514
print(f"    the pair's account: {sent} frames out, {received} back, {tap['lost']} lost, state {said['state']}")
PYTHON
echo "live: traffic between two namespaces went through the rings"
