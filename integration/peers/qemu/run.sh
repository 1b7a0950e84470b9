#!/usr/bin/env bash
# Linux guests under QEMU on our daemon, in a network namespace that ends with this script.
#
# usage: run.sh DAEMON [SCENARIO...]      (default: all)
#
# Exit status: 0 held, 1 did not, 3 this machine lacks something (a line says what).
# KERNEL and MODULES name another guest kernel: a vmlinuz, and its lib/modules/VERSION.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=../harness.sh
source "$here/../harness.sh"
daemon=$(readlink -f "$1")
shift
scenarios=("$@")
[ $# -gt 0 ] || scenarios=(plain config killed swiotlb reboot daemon_killed qemu_listens packed packed_swiotlb packed_restarts)

if [ -z "${IRONRING_NAMESPACE:-}" ]; then
    need_tools qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio python3:python3 ip:iproute2 unshare:util-linux
    unshare "${user_map[@]}" --net true 2>/dev/null || missing "the right to make a network namespace"
    export IRONRING_NAMESPACE=1
    exec unshare "${user_map[@]}" --net "$0" "$daemon" "${scenarios[@]}"
fi
begin

# ---- The guest's kernel -------------------------------------------------------------------------------------------

find_kernel() {
    [ -z "${KERNEL:-}" ] || return 0
    local cache=${IRONRING_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/ironring}/guest
    if ! compgen -G "$cache/boot/vmlinuz-*" >/dev/null; then
        missing "a guest kernel: run ./ci.sh guest-kernel, or set KERNEL and MODULES"
    fi
    KERNEL=$(compgen -G "$cache/boot/vmlinuz-*" | tail -n 1)
    MODULES=$cache/lib/modules/${KERNEL##*/vmlinuz-}
}

# ---- One of everything --------------------------------------------------------------------------------------------

start_network() {
    ip link set lo up
    ip tuntap add dev tap0 mode tap vnet_hdr
    ip addr add 10.99.0.1/24 dev tap0
    ip link set tap0 up
    again go
    python3 "$here/../server.py" 10.99.0.1 8099 "$work/again" >"$work/server.log" 2>&1 &
    pids+=($!)
    wait_for 10 "the file server" grep -qE '^[0-9a-f]{64}$' "$work/server.log"
    sum=$(head -n 1 "$work/server.log")
}
again() { echo "$1" >"$work/again.new" && mv "$work/again.new" "$work/again"; }

start_daemon() { # options...
    # A system call that the sandbox does not foresee ends the daemon, and with it the run.
    "$daemon" --port tap:tap0 --sandbox-kill "$@" >>"$work/daemon.log" 2>&1 &
    daemon_pid=$!
    pids+=("$daemon_pid")
}

start_guest() { # name, steps, options of the chardev, options of the card, words for the kernel
    guest_log=$work/$1.log
    qemu-system-x86_64 -machine q35,accel=tcg -cpu max -m 256 -smp 1 -nographic -nodefaults -serial stdio \
        -monitor "unix:$work/monitor,server=on,wait=off" \
        -object memory-backend-memfd,id=memory,size=256M,share=on -numa node,memdev=memory \
        -chardev "socket,id=char,path=$work/socket$3" -netdev vhost-user,id=net,chardev=char \
        -device "virtio-net-pci,netdev=net,vectors=0$4" ${reboots:--no-reboot} \
        -kernel "$KERNEL" -initrd "$work/initramfs.gz" -append "console=ttyS0 quiet do=$2 $5" \
        </dev/null >"$guest_log" 2>&1 &
    guest_pid=$!
    pids+=("$guest_pid")
}

monitor() { # command
    python3 - "$work/monitor" "$1" <<'PYTHON' || die "QEMU's monitor does not take \"$1\""
import socket, sys
monitor = socket.socket(socket.AF_UNIX)
monitor.settimeout(30)
monitor.connect(sys.argv[1])
def prompt():
    said = b""
    while not said.endswith(b"(qemu) "):
        part = monitor.recv(4096)
        assert part, said
        said += part
prompt()
monitor.sendall(sys.argv[2].encode() + b"\n")
prompt()
PYTHON
}

end_of_guest() { # seconds
    wait_for "$1" "the end of the guest" has_ended "$guest_pid"
    wait "$guest_pid" || die "QEMU ended with status $?"
    grep -aq 'guest: done' "$guest_log" || die "the guest did not come to its end"
}
expect() { grep -aqE "guest: $1" "$guest_log" || die "${guest_log##*/}: no line like \"$1\""; }
said() { grep -aoE "guest: $1.*" "$guest_log" | tr -d '\r' | sed "s/^guest: /    ${guest_log##*/}: /;s/\.log:/:/"; }
daemon_lives() { has_ended "$daemon_pid" && die "the daemon has ended"; true; }
more_sessions() { [ "$(sessions)" -gt "$1" ]; }
sessions() { grep -c 'the session has ended' "$work/daemon.log" || true; }

# Frames in = frames out + drops, by the counters of the last session, and by those of the interface.
balance() {
    python3 - "$work/daemon.log" <<'PYTHON' || die "the counters of the session do not add up"
import json, sys
line = [l for l in open(sys.argv[1]) if "the session has ended" in l][-1]
stats = json.loads(line[line.index("{"):])
receive, transmit = stats["queues"]
port = stats["port"]
drops = {name: count for queue in stats["queues"] for name, count in queue["drops"].items() if count}
sent_drops = sum(n for name, n in transmit["drops"].items())
print(f"    frames from the guest {transmit['frames']} = taken by the interface {port['taken_frames'] - port['lost']} + lost {port['lost']}; "
      f"to the guest {port['given_frames']} = {receive['frames']} + dropped {sum(receive['drops'].values())}; drops {drops or 'none'}")
assert transmit["frames"] == port["taken_frames"]
assert port["given_frames"] == receive["frames"] + sum(receive["drops"].values())
assert not any(count for queue in stats["queues"] for count in queue["faults"].values())
PYTHON
}

# ---- Scenarios ----------------------------------------------------------------------------------------------------

check_traffic() {
    expect 'ping 20 packets transmitted, 20 packets received'
    expect "fetch $sum 20971520 bytes"
    expect 'upload equal'
    said first-ping
    said fetch | sed 's/[0-9a-f]\{64\} //'
    said upload
}
scenario_plain() {
    start_guest plain ping,fetch,upload,rebind,ping,fetch "" "" ""
    end_of_guest 180
    check_traffic
    expect 'rebound'
    [ "$(grep -ac "guest: fetch $sum" "$guest_log")" = 2 ] || die "no traffic after the driver was bound anew"
    wait_for 10 "the end of the session" more_sessions "$1"
    balance
}
# What QEMU's options and its monitor say about the card reaches the guest. The rings stop and start with the link.
scenario_config() {
    start_guest config carrier,ping "" ",mac=52:54:00:ca:fe:01,host_mtu=1400" ""
    wait_for 60 "the guest's link" grep -aq 'guest: carrier 1' "$guest_log"
    monitor "set_link net off"
    wait_for 30 "the link to go down" grep -aq 'guest: carrier 0' "$guest_log"
    monitor "set_link net on"
    end_of_guest 60
    expect 'features [01]* mtu 1400 mac 52:54:00:ca:fe:01'
    expect 'ping 20 packets transmitted, 20 packets received'
    echo "    address and MTU as QEMU was told; the link went down and up again, and with it traffic"
}
scenario_killed() {
    start_guest killed fetch,fetch,fetch,fetch,fetch,fetch "" "" ""
    local before
    to_guest() { awk '$1 == "tap0:" { print $10 }' /proc/self/net/dev; }
    before=$(to_guest)
    moved() { [ $(($(to_guest) - before)) -gt 3000000 ]; }
    wait_for 60 "traffic to kill the guest in" moved
    kill -9 "$guest_pid"
    wait "$guest_pid" 2>/dev/null || true
    wait_for 10 "the end of the session" more_sessions "$1"
    echo "    killed in the middle of a transfer; the daemon serves on"
}
scenario_swiotlb() {
    start_guest swiotlb ping,fetch,upload "" ",disable-legacy=on,iommu_platform=on" swiotlb=force
    end_of_guest 180
    check_traffic
    wait_for 10 "the end of the session" more_sessions "$1"
    balance
}
# The packed layout, with a driver that is bound anew. Bit 34 of the guest's features, counted from 0, says that it is packed.
is_packed() { expect 'features [01]{34}1[01]* '; }
scenario_packed() {
    start_guest packed ping,fetch,upload,rebind,ping,fetch "" ",packed=on" ""
    end_of_guest 180
    is_packed
    check_traffic
    expect 'rebound'
    [ "$(grep -ac "guest: fetch $sum" "$guest_log")" = 2 ] || die "no traffic after the driver was bound anew"
    wait_for 10 "the end of the session" more_sessions "$1"
    balance
}
scenario_packed_swiotlb() {
    start_guest packed_swiotlb ping,fetch,upload "" ",packed=on,disable-legacy=on,iommu_platform=on" swiotlb=force
    end_of_guest 180
    is_packed
    check_traffic
    wait_for 10 "the end of the session" more_sessions "$1"
    balance
}
# QEMU remembers no position of a packed ring when its backend is gone: the next one finds it in the slots.
scenario_packed_restarts() {
    again go
    start_guest packed_restarts persist ",reconnect=1" ",packed=on" ""
    wait_for 60 "traffic" grep -aq 'guest: alive 3' "$guest_log"
    for signal in TERM KILL KILL; do
        kill -"$signal" "$daemon_pid"
        wait "$daemon_pid" 2>/dev/null || true
        wait_for 30 "the guest to notice" waits
        start_daemon --socket-path "$work/socket"
        wait_for 60 "traffic on the new daemon after SIG$signal" resumed
    done
    again stop
    end_of_guest 60
    is_packed
    grep -q 'it goes on there' "$work/daemon.log" || die "no ring was found by its slots"
    echo "    packed rings went on after SIGTERM and twice after SIGKILL of the daemon, found by their slots"
}
waits() { [ "$(grep -aE 'guest: (alive|waiting)' "$guest_log" | tail -n 1 | grep -c waiting)" = 1 ]; }
# The guest starts its rings anew on the same connection.
scenario_reboot() {
    again reboot
    reboots=" " start_guest reboot persist "" "" ""
    booted_twice() { [ "$(grep -ac 'guest: up' "$guest_log")" -ge 2 ]; }
    wait_for 60 "the second boot" booted_twice
    again go
    wait_for 60 "traffic after the reboot" grep -aq 'guest: alive' "$guest_log"
    again stop
    end_of_guest 60
    echo "    rebooted on the same connection, and its traffic went on"
}
resumed() { [ "$(grep -aE 'guest: (alive|waiting)' "$guest_log" | tail -n 1 | grep -c alive)" = 1 ]; }
scenario_daemon_killed() {
    again go
    start_guest daemon_killed persist ",reconnect=1" "" ""
    wait_for 60 "traffic" grep -aq 'guest: alive 3' "$guest_log"
    kill -9 "$daemon_pid"
    wait "$daemon_pid" 2>/dev/null || true
    wait_for 30 "the guest to notice" grep -aq 'guest: waiting' "$guest_log"
    start_daemon --socket-path "$work/socket"
    wait_for 60 "traffic on the new daemon" resumed
    again stop
    end_of_guest 60
    echo "    daemon killed and started again under a running guest, whose traffic went on"
}

# QEMU is the server and the daemon calls; it is killed and started again too.
scenario_qemu_listens() {
    again go
    kill -TERM "$daemon_pid"
    wait_for 10 "the end of the daemon" has_ended "$daemon_pid"
    start_daemon --connect "$work/socket"
    start_guest qemu_listens persist ",server=on,wait=off" "" ""
    wait_for 60 "traffic" grep -aq 'guest: alive 3' "$guest_log"
    kill -9 "$daemon_pid"
    wait "$daemon_pid" 2>/dev/null || true
    wait_for 30 "the guest to notice" grep -aq 'guest: waiting' "$guest_log"
    start_daemon --connect "$work/socket"
    wait_for 60 "traffic on the new daemon" resumed
    again stop
    end_of_guest 60
    kill -TERM "$daemon_pid"
    wait_for 10 "the end of the daemon" has_ended "$daemon_pid"
    rm -f "$work/socket"
    start_daemon --socket-path "$work/socket"
    wait_for 10 "the daemon's socket" test -S "$work/socket"
    echo "    the daemon as client of QEMU, killed and started again, and traffic went on"
}

find_kernel
"$here/mkinitramfs.sh" "$MODULES" "$work/initramfs.gz"
start_network
start_daemon --socket-path "$work/socket"
wait_for 10 "the daemon's socket" test -S "$work/socket"
for scenario in "${scenarios[@]}"; do
    echo "qemu: $scenario"
    "scenario_$scenario" "$(sessions)"
    daemon_lives
done
kill -TERM "$daemon_pid"
wait_for 10 "the end of the daemon" has_ended "$daemon_pid"
[ ! -e "$work/socket" ] || die "the daemon left its socket"
echo "qemu: ${#scenarios[@]} scenarios held, $(qemu-system-x86_64 --version | head -n 1), Linux ${MODULES##*/}"
