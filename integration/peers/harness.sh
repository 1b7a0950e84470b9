# What the scripts of this directory share: what is missing, waiting with a limit, and leaving nothing behind. Sourced.
# shellcheck shell=bash

# Ends with status 3: this machine lacks something.
missing() {
    echo "$(basename "$(dirname "$0")"): $* is missing" >&2
    exit 3
}

need_tools() { # COMMAND:PACKAGE...
    local tool
    for tool in "$@"; do
        command -v "${tool%%:*}" >/dev/null || missing "${tool%%:*} (package ${tool##*:})"
    done
    [ -e /dev/net/tun ] || missing "/dev/net/tun"
}

# What `unshare` is called with, so that a user who is not root may make namespaces where the system allows it.
user_map=()
[ "$(id -u)" = 0 ] || user_map=(--map-root-user)

# A directory and a list of processes that end with the script.
begin() {
    work=$(mktemp -d)
    pids=()
    trap end EXIT
}
end() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}

# Ends with status 1 and the last lines of every log.
die() {
    local log
    echo "FAILED: $*" >&2
    for log in "$work"/*.log; do
        echo "--- ${log##*/}" >&2
        tail -n 25 "$log" | tr -d '\r' >&2
    done
    exit 1
}

# Waits until a command succeeds. There is no event for "a line was written"; each try is cheap.
wait_for() { # SECONDS, WHAT, COMMAND...
    local until=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" 2>/dev/null; do
        [ "$SECONDS" -lt "$until" ] || die "$what: nothing within the time"
        sleep 0.1
    done
}
has_ended() { ! kill -0 "$1" 2>/dev/null; }
