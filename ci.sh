#!/usr/bin/env bash
# What a laptop and CI run, one script for both. `./ci.sh help` lists the subcommands.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")"

usage() {
    cat <<'TEXT'
usage: ./ci.sh SUBCOMMAND

  check       formatting, lints with and without features, documentation, the fences of `unsafe`, dependencies
  test        every test that needs no special machine
  exhaustive  the sweeps over whole value ranges that `test` only samples (minutes)
  mutants     takes each check out of the driver in turn; an attack has to get through then
  grid        pairs of processes over every ring: 16 combinations, polled and asleep, 2 000 000 frames each (`grid FRAMES`), with what
              was negotiated and counted held against what was asked for
  honest      devices that are honest and odd, 12 000 000 frames each (`honest FRAMES`): nothing may be tripped
  bench-check instructions a frame on both sides, by callgrind, against integration/bench/instructions.json; fails where one
              grew by more than 5 % (`bench-check --write` renews the table)
  bench-checks  what each check and each copy costs in instructions a frame, by builds without them (`bench-checks --write` renews
              integration/bench/checks.json and the tables of PERFORMANCE.md; `bench-checks NAME...` prints some)
  fuzz        the boundaries under libFuzzer, from the seeds in the tree (`fuzz SECONDS [TARGET...]`, 15 seconds each by itself)
  models      the rings under loom: interleavings and reorderings, with mutants that must be caught
  unsafe      where unsafe code, loads of a peer's memory and hostile code may stand; counts of unsafe blocks
  interop     with other people's software: DPDK's testpmd, Linux guests under QEMU, live traffic on TAP interfaces (`interop NAME` runs one)
  guest-kernel  downloads the kernel of the guests (Debian's for clouds), into ~/.cache/ironring
  deps        installs what CI needs: a linker, cargo-deny (apt-get, cargo install)
  help        this text

CI=true makes a missing tool a failure; elsewhere it is a line that starts with SKIP.
TEXT
}

# ---- Subcommands --------------------------------------------------------------------------------------------------

cmd_check() {
    step cargo fmt --all --check
    step cargo clippy --workspace --all-targets --locked -- -D warnings
    # The workspace build switches the feature `hostile` on, because integration asks for it. The daemon must build,
    # test and lint without, and the rings must not need an operating system.
    step cargo clippy -p ironring-backend --all-targets --locked -- -D warnings
    step cargo clippy -p ironring-common --no-default-features --locked -- -D warnings
    step cargo clippy -p ironring-driver --no-default-features --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" step cargo doc --workspace --no-deps --locked
    step cmd_unsafe
    check_dependencies
}

cmd_test() {
    step cargo test --workspace --locked
}

cmd_exhaustive() {
    local log
    log=$(mktemp)
    step cargo test --workspace --locked -- --ignored exhaustive 2>&1 | tee "$log"
    # A filter that matches nothing passes; that is no evidence.
    if ! grep -qE '^test result: ok\. [1-9]' "$log"; then
        fail "no exhaustive test ran"
    fi
    rm -f "$log"
}

# The rings' memory ordering, under loom: each model holds, and each of its mutants is caught.
cmd_models() {
    local target
    target=$(realpath -m "$(target_dir)/models")
    RUSTFLAGS="--cfg ironring_model" CARGO_TARGET_DIR=$target \
        step cargo test --release --locked --manifest-path integration/models/Cargo.toml -- --nocapture
}

# Each check of the driver is needed: a patch under integration/mutants takes one out, and one of the attacks that it names
# has to get through to a driver without it, or a test that it names has to fail (the audit's traffic uses no hairpin pair).
# Without arguments all of them; else those whose names begin with one.
cmd_mutants() {
    local scratch target patch name attacks json escaped missed=0 count=0
    scratch=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$scratch'" EXIT
    target=$(realpath -m "$(target_dir)/mutants")
    git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$scratch"
    build() { (cd "$scratch" && CARGO_TARGET_DIR=$target cargo build --quiet --locked -p ironring-integration) }
    tests() { (cd "$scratch" && CARGO_TARGET_DIR=$target cargo test --quiet --locked "$@" </dev/null) }
    # What gets through to the driver, of a list of attacks: their ids.
    escapes() {
        [ -n "$1" ] || return 0
        { "$target/debug/ironring" --json audit --ring hardened --seeds 2 --attack "$1" 2>/dev/null || true; } |
            python3 -c 'import json, sys
print(" ".join(sorted({row["attack"] for row in json.load(sys.stdin)["rows"] if not row["held"]})))'
    }
    # Which tests fail, of lines with the arguments of `cargo test`: their names. One that does not build says nothing.
    failing() {
        local line words
        while read -r line; do
            read -ra words <<<"$line"
            tests "${words[@]}" --no-run >/dev/null || continue
            tests "${words[@]}" >/dev/null 2>&1 || echo "${words[-1]}"
        done
    }
    build
    attacks=$(sed -n 's/^Missed by: //p' integration/mutants/*.patch | paste -sd,)
    escaped=$(escapes "$attacks")$(sed -n 's/^Missed by test: //p' integration/mutants/*.patch | failing)
    [ -z "$escaped" ] || fail "without any mutant, $escaped got through"
    printf '%-6s %-72s %s\n' check 'without it' 'gets through'
    for patch in integration/mutants/*.patch; do
        name=$(basename "$patch" .patch)
        if [ $# -gt 0 ] && ! printf '%s\n' "$@" | grep -qF "${name%%-*}"; then
            continue
        fi
        count=$((count + 1))
        git -C "$scratch" apply --whitespace=nowarn "$PWD/$patch" || fail "$patch does not apply: the code it changes has changed"
        if build; then
            escaped=$(escapes "$(sed -n 's/^Missed by: //p' "$patch")")$(sed -n 's/^Missed by test: //p' "$patch" | failing)
        else
            escaped= && echo "$patch does not build"
        fi
        git -C "$scratch" apply -R --whitespace=nowarn "$PWD/$patch"
        printf '%-6s %-72s %s\n' "${name%%-*}" "$(sed -n 's/^Removes: //p' "$patch")" "${escaped:-NOTHING}"
        [ -n "$escaped" ] || missed=$((missed + 1))
    done
    echo "mutants: $((count - missed)) of $count checks are needed"
    [ "$missed" -eq 0 ] || fail "$missed checks can be left out, and no attack gets through and no test fails"
}

# The seed's matrix between two processes: layout x indirect x event_idx x in_order, both ways of waiting.
cmd_grid() {
    step cargo build --release --quiet --locked -p ironring-integration
    integration/pairs.py grid "$(target_dir)/release/ironring" "${1:-2000000}"
}

# The negative control of the audit: what is odd and lawful is carried on with.
cmd_honest() {
    step cargo build --release --quiet --locked -p ironring-integration
    integration/pairs.py honest "$(target_dir)/release/ironring" "${1:-12000000}"
}

# Instructions a frame: the stepped pair under callgrind, which counts the same each time. Times prove nothing on a machine
# that others use too.
cmd_bench_check() {
    local table=integration/bench/instructions.json
    # A check that has changed makes a stale patch, which is to be known now.
    integration/bench/checks.py --apply || fail "renew these patches, or take them away"
    has_valgrind || return 0
    step integration/bench/build.sh
    if [ "${1:-}" = --write ]; then
        integration/bench/instructions.py "$(target_dir)/release/ironring-step" --write "$table"
        write_tables
    else
        integration/bench/instructions.py "$(target_dir)/release/ironring-step" --compare "$table" ||
            fail "frames cost more instructions than they did; make them cheaper, or renew the table and say why"
    fi
}

# What each check on the way of a frame costs, and what copying costs, in instructions a frame: the same pair with each patch
# that names a side in turn, in a scratch copy. Without names all of them.
cmd_bench_checks() {
    local here tree
    has_valgrind || return 0
    here=$(realpath -m "$(target_dir)/bench-checks")
    # Always the same place, so that what was built before is not built again.
    tree=$here/tree
    rm -rf "$tree"
    mkdir -p "$tree"
    git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$tree"
    CARGO_TARGET_DIR=$here/build integration/bench/checks.py "$tree" "$@"
    if [[ " $* " == *" --write "* ]]; then
        write_tables
    fi
}

# What is counted, in the page that people read.
write_tables() {
    integration/bench/tables.py integration/bench/instructions.json integration/bench/checks.json PERFORMANCE.md
}

has_valgrind() {
    if ! command -v valgrind >/dev/null; then
        in_ci && fail "valgrind is not there"
        echo "SKIP: instructions a frame, for want of valgrind"
        return 1
    fi
}

# The fuzz targets, each for so many seconds, on every CPU; what they find new goes into the seeds, at most so many of them.
cmd_fuzz() {
    local seconds=${1:-15} work target name bin executions
    [ $# -eq 0 ] || shift
    work=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$work'" EXIT
    target=$(realpath -m "$(target_dir)/fuzz")
    # Coverage as libFuzzer wants it, on a stable compiler.
    RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1" \
        step cargo build --release --locked --manifest-path integration/fuzz/Cargo.toml --target "$(rustc -vV | sed -n 's/^host: //p')" \
        --target-dir "$target"
    for bin in integration/fuzz/fuzz_targets/*.rs; do
        name=$(basename "$bin" .rs)
        if [ $# -gt 0 ] && ! printf '%s\n' "$@" | grep -qx "$name"; then
            continue
        fi
        mkdir -p "$work/$name" "$work/$name.small"
        [ ! -e "integration/fuzz/corpus/$name.hex" ] || integration/fuzz/corpus.py unpack "integration/fuzz/corpus/$name.hex" "$work/$name"
        bin=$target/$(rustc -vV | sed -n 's/^host: //p')/release/$name
        # An abort, a panic or a hang ends it with a status of its own, and leaves the input in the log.
        if ! (cd "$work" && "$bin" "$name" -max_total_time="$seconds" -max_len=400 -timeout=5 -print_final_stats=1 >"$name.log" 2>&1); then
            tail -n 40 "$work/$name.log" >&2
            fail "fuzzing $name found something"
        fi
        executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$name.log")
        (cd "$work" && "$bin" -merge=1 -max_len=400 "$name.small" "$name" >/dev/null 2>&1)
        integration/fuzz/corpus.py pack "$work/$name.small" "integration/fuzz/corpus/$name.hex"
        printf '%-18s %12s executions, %8s a second, %5s seeds\n' "$name" "$executions" \
            "$(sed -n 's/^stat::average_exec_per_sec: *//p' "$work/$name.log")" "$(wc -l <"integration/fuzz/corpus/$name.hex")"
    done
}

# Other people's drivers and backends. A function named `peer_NAME` wires one: it runs the peer against ours and returns
# 0 if everything held, 3 if the peer cannot run on this machine (after a line that says what is missing), anything else
# if it failed. In CI a peer that cannot run is a failure, because CI installs what it needs. `interop NAME` runs one.
cmd_interop() {
    if [ $# -gt 0 ]; then
        declare -F "peer_$1" >/dev/null || fail "no peer is called $1"
        "peer_$1"
        return
    fi
    local peers peer status passed=0 skipped=0 failed=0
    mapfile -t peers < <(compgen -A function peer_ || true)
    for peer in "${peers[@]#peer_}"; do
        echo "==> interop $peer"
        # A shell of its own, in which the first command that fails ends the peer.
        status=0
        ./ci.sh interop "$peer" || status=$?
        case $status in
            0) passed=$((passed + 1)) ;;
            3) skipped=$((skipped + 1)) && echo "SKIP: $peer cannot run here" ;;
            *) failed=$((failed + 1)) && echo "FAILED: $peer (status $status)" ;;
        esac
    done
    echo "interop: ${#peers[@]} peers wired"
    if [ "${#peers[@]}" -gt 0 ]; then
        echo "interop: $passed passed, $skipped skipped, $failed failed"
    fi
    if [ "$failed" -gt 0 ] || { in_ci && [ "$skipped" -gt 0 ]; }; then
        fail "not every peer passed"
    fi
}

# Linux guests under QEMU, with a TAP interface, on the daemon as users build it.
peer_qemu() {
    step cargo build --release --locked -p ironring-backend
    if [ -z "${KERNEL:-}" ] && in_ci; then
        cmd_guest_kernel
    fi
    integration/peers/qemu/run.sh "$(target_dir)/release/ironring-backend"
}

# DPDK's testpmd: its virtio-user on the daemon, its net_vhost under the driver.
peer_dpdk() {
    step cargo build --release --locked -p ironring-integration
    step cargo build --release --locked -p ironring-backend
    step cargo build --release --locked -p ironring-driver --example reset
    integration/peers/dpdk/run.py "$(target_dir)/release/ironring-backend" "$(target_dir)/release/ironring" \
        "$(target_dir)/release/examples/reset"
}

# The driver on a TAP interface in one network namespace, the daemon on one in another; then both in `ironring pair`. The
# tool comes first, so that the daemon that is left is the one without hostile mode.
peer_live() {
    local built
    built=$(target_dir)/release
    step cargo build --release --locked -p ironring-integration
    step cargo build --release --locked -p ironring-backend
    step cargo build --release --locked -p ironring-driver --example tap
    integration/peers/live/run.sh "$built/ironring-backend" "$built/examples/tap" "$built/ironring"
}

# Debian's kernel for clouds, unpacked and not installed.
cmd_guest_kernel() {
    local into=${IRONRING_CACHE:-${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/ironring}/guest package scratch
    if compgen -G "$into/boot/vmlinuz-*" >/dev/null; then
        echo "a guest kernel is there: $(compgen -G "$into/boot/vmlinuz-*" | tail -n 1)"
        return
    fi
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null \
        || fail "this needs Debian's tools; elsewhere set KERNEL to a vmlinuz and MODULES to its lib/modules/VERSION"
    apt-cache show linux-image-cloud-amd64 >/dev/null 2>&1 || as_root apt-get update
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || fail "apt knows no linux-image-cloud-amd64; apt-get update, or set KERNEL and MODULES"
    scratch=$(mktemp -d)
    (cd "$scratch" && apt-get download "$package")
    mkdir -p "$into"
    dpkg-deb -x "$scratch"/*.deb "$into"
    rm -rf "$scratch"
    echo "the guest kernel is $package"
}

cmd_deps() {
    local package missing=()
    for package in "${APT_PACKAGES[@]}"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        as_root apt-get update
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
    fi
    if ! has_cargo_deny; then
        step cargo install cargo-deny --locked --version "^$CARGO_DENY"
    fi
    for package in fmt clippy; do
        cargo "$package" --version >/dev/null || fail "cargo $package is missing: rustup component add rustfmt clippy"
    done
}

# The fences. Text is what is judged here, so that code for other targets and features is judged too; the compiler
# (`forbid(unsafe_code)`) and clippy (`undocumented_unsafe_blocks`) judge what they compile.
cmd_unsafe() {
    local findings
    code=$(rust_code --no-strings)
    shipped_code=$(rust_code --no-strings --no-tests)
    [ -n "$shipped_code" ] || fail "no Rust found: the fences have nothing to judge"
    findings=$(
        fence_unsafe_rooms
        fence_crate_roots
        fence_safety_comments
        fence_peer_loads
        fence_integration
        fence_hostile
    )
    count_unsafe
    if [ -n "$findings" ]; then
        printf '%s\n' "$findings"
        fail "$(wc -l <<<"$findings") places break a fence (CONTRIBUTING.md has the rules by these names)"
    fi
    echo "fences hold"
}

# ---- Fences: each prints its findings, one a line, as `rule: path:line:code` ----------------------------------------

# Unsafe code stands in its rooms only, and no lint level opens another.
fence_unsafe_rooms() {
    pick ':.*\bunsafe\b' <<<"$code" | drop "$ROOMS" | name unsafe-in-its-room
    pick ':.*\bunsafe_code\b' <<<"$code" | drop "$ROOMS" | drop '#!\[(forbid|deny)\(unsafe_code\)\]' | name unsafe-in-its-room
}

# Every crate root forbids unsafe code, except the library of a crate that has a room: there the workspace denies it.
fence_crate_roots() {
    local root crate
    rust_files | pick '^[^/]+/src/(lib|main|bin/[^/]+|bin/[^/]+/main)\.rs$' | while read -r root; do
        crate=${root%%/*}
        if [ "${root##*/}" = lib.rs ] && has_room "$crate"; then
            pick '^unsafe_code = "(deny|forbid)"' Cargo.toml | grep -q . || echo "Cargo.toml:1:unsafe_code is not denied"
            grep -A1 '^\[lints\]' "$crate/Cargo.toml" | grep -q '^workspace = true' \
                || echo "$crate/Cargo.toml:1:does not take the workspace's lints"
        else
            grep -qE "^$root:[0-9]+:#!\[forbid\(unsafe_code\)\]" <<<"$code" || echo "$root:1:no #![forbid(unsafe_code)]"
        fi
    done | name unsafe-in-its-room
}

# Each unsafe block and impl has an argument of its own, within eight lines before it.
fence_safety_comments() {
    pick ':.*\bunsafe *(\{|impl\b)' <<<"$code" | awk -F: '
        $1 != file { file = $1; seen = n = 0; while ((getline line < file) > 0) raw[++n] = line; close(file) }
        {
            argued = 0
            for (i = ($2 - 8 > seen ? $2 - 8 : seen + 1); i <= $2; i++) if (raw[i] ~ /\/\/ SAFETY:/) argued = 1
            if (!argued) print file ":" $2 ":" raw[$2]
            seen = $2
        }' | name safety-comment
}

# Memory that a peer writes is loaded in the two files named boundary.rs. Also exempt: the views themselves, the
# adversary, the integration crate (its trusting ring reads back on purpose), tests, examples. As a plain function `copy_out` is
# the backend boundary's own; as a method it is the one of `Words`.
fence_peer_loads() {
    local exempt='^(common/src/shm/|(driver|backend)/src/boundary\.rs:|backend/src/hostile[/.]|integration/|[^/]+/(tests|benches|examples)/)'
    local load='(load|holds)[a-z0-9_]*_alleged|copy_(out|over)_alleged|load_u(8|16|32|64)(_[a-z]+)?'
    pick ":.*(\b($load)|(\.|[A-Z][A-Za-z]*(<[^>]*>)?::)copy_out)\b" <<<"$shipped_code" | drop "$exempt" | name one-boundary
}

# No shipped crate depends on the ring that trusts its device.
fence_integration() {
    pick -n '^[^#]*\bironring-integration\b' {common,driver,backend}/Cargo.toml | name integration-is-a-leaf
    pick '^(common|driver|backend)/.*:.*\bironring_integration\b' <<<"$code" | name integration-is-a-leaf
}

# Honest code does not know the adversary. The root gates its module; only the program and its options may name it, and
# what they name outside a gate does not compile in the build without the feature, which `check` makes.
fence_hostile() {
    local text
    text=$(rust_code --no-tests)
    pick -i '^backend/src/.*:.*hostile' <<<"$text" \
        | drop '^backend/src/(hostile[/.]|main\.rs:|config\.rs:|lib\.rs:)' | name honest-knows-no-hostile
    pick -i '^backend/src/lib\.rs:.*hostile' <<<"$text" | awk -F: '
        { item = $0; sub(/^[^:]*:[0-9]+:/, "", item) }
        item ~ /^#\[cfg\(feature = "hostile"\)\]$/ { gate = $2; next }
        item ~ /^(pub |pub\(crate\) )?mod hostile;$/ && gate == $2 - 1 { next }
        { print }' | name honest-knows-no-hostile
    pick -nH '^ *default *=.*hostile' backend/Cargo.toml | name honest-knows-no-hostile
}

count_unsafe() {
    pick ':.*\bunsafe *\{' <<<"$code" | awk -F: '
        { here = gsub(/unsafe *\{/, ""); n[$1] += here; total += here }
        END { print "unsafe blocks: " total + 0; for (file in n) printf "%6d  %s\n", n[file], file | "LC_ALL=C sort -k2" }'
}

# grep -E and its inverse, for which finding nothing is no error; and the name of a rule before each line.
pick() { grep -E "$@" || [ $? = 1 ]; }
drop() { grep -vE "$@" || [ $? = 1 ]; }
name() { sed "s/^/$1: /"; }

has_room() {
    case $1 in
        common) true ;;
        backend) compgen -G 'backend/src/port/*_sys.rs' >/dev/null ;;
        integration) compgen -G 'integration/src/audit/victims/*_sys.rs' >/dev/null ;;
        *) false ;;
    esac
}

# ---- Rust as text -------------------------------------------------------------------------------------------------

rust_files() {
    find . -name '.?*' -prune -o -type d -name 'target*' -prune -o -type f -name '*.rs' -print | sed 's|^\./||' | LC_ALL=C sort
}

# Every line of Rust as `path:line:code`, comments blank. With --no-strings, so is what stands in strings; with
# --no-tests, items under `#[cfg(test)]` and the files that such a `mod` declares.
rust_code() {
    rust_files | LC_ALL=C awk -v options=" $* " "$RUST_CODE"
}

# The awk program behind it. `kept` has blanks for comments; `bare` also for strings, so that brackets can be counted;
# both keep the columns of the source.
# shellcheck disable=SC2016 # $0 is awk's
RUST_CODE='
function blank(n,    s) { s = ""; while (n-- > 0) s = s " "; return s }

# One line of source: moves the lexer (`mode`: code, block, string, raw) over it.
function lex(s,    i, c, n, k, rest, add) {
    kept = ""; bare = ""; n = length(s)
    for (i = 1; i <= n; i += add) {
        c = substr(s, i, 1); add = 1
        if (mode == "block") {
            if (substr(s, i, 2) == "/*") { depth++; add = 2 }
            else if (substr(s, i, 2) == "*/") { add = 2; if (--depth == 0) mode = "code" }
            kept = kept blank(add); bare = bare blank(add)
        } else if (mode == "string") {
            if (c == "\\") add = 2
            else if (c == "\"") { mode = "code"; kept = kept c; bare = bare c; continue }
            kept = kept substr(s, i, add); bare = bare blank(add)
        } else if (mode == "raw") {
            if (substr(s, i, length(closer)) == closer) { mode = "code"; add = length(closer) }
            kept = kept substr(s, i, add); bare = bare blank(add)
        } else if (substr(s, i, 2) == "//") {
            break
        } else if (substr(s, i, 2) == "/*") {
            mode = "block"; depth = 1; add = 2; kept = kept "  "; bare = bare "  "
        } else if (c == "\"") {
            mode = "string"; kept = kept c; bare = bare c
        } else if (c == "r" && match(rest = substr(s, i), /^r#*"/) && (i == 1 || substr(s, 1, i - 1) !~ /[A-Za-z0-9_]$/ || substr(s, 1, i - 1) ~ /(^|[^A-Za-z0-9_])[bc]$/)) {
            mode = "raw"; add = RLENGTH; closer = "\""
            for (k = 2; k < add; k++) closer = closer "#"
            kept = kept substr(s, i, add); bare = bare blank(add)
        } else if (c == "\047" && (k = char_literal(substr(s, i)))) {
            add = k; kept = kept substr(s, i, add); bare = bare blank(add)
        } else { kept = kept c; bare = bare c }
    }
}

# Length of the character literal at the start of s, or 0 for a lifetime.
function char_literal(s,    k) {
    if (substr(s, 2, 1) == "\\") { k = index(substr(s, 4), "\047"); return k ? k + 3 : 0 }
    if (substr(s, 3, 1) == "\047") return 3
    if (substr(s, 2, 1) >= "\200") for (k = 4; k <= 6; k++) if (substr(s, k, 1) == "\047") return k
    return 0
}

# Blanks items under #[cfg(test)] in kept, by the brackets in bare. An item ends with its braces, with a semicolon, or
# with the block around it.
function strip_tests(    i, c, n, out) {
    out = ""; n = length(kept)
    for (i = 1; i <= n; i++) {
        c = substr(bare, i, 1)
        if (state == "" && c == "#" && match(substr(bare, i), /^#\[cfg\((test\)|all\(test[ ,][^]]*)\]/)) {
            out = out blank(RLENGTH); i += RLENGTH - 1; state = "head"; nest = 0; head = ""
            continue
        }
        if (state == "") { out = out substr(kept, i, 1); continue }
        out = out " "
        head = head c
        if (c ~ /[[({]/) { nest++; if (c == "{" && nest == 1) state = "body" }
        else if (c ~ /[])}]/) { nest--; if (nest < 0 || (nest == 0 && state == "body")) state = "" }
        else if (c == ";" && nest == 0) {
            state = ""
            if (match(head, /mod +[A-Za-z0-9_]+;$/)) {
                sub(/^.*mod +/, "", head); sub(/;$/, "", head)
                test_files[child_dir(path) head ".rs"] = 1; test_dirs[child_dir(path) head "/"] = 1
            }
        }
    }
    if (state == "head") head = head " "
    kept = out
}

# Where the modules that a file declares live.
function child_dir(p,    base) {
    base = p; sub(/^.*\//, "", base)
    sub(/[^\/]*$/, "", p)
    if (base == "mod.rs" || base == "lib.rs" || base == "main.rs") return p
    sub(/\.rs$/, "", base)
    return p base "/"
}

function is_test_file(p,    d) {
    if (p in test_files) return 1
    for (d in test_dirs) if (index(p, d) == 1) return 1
    return 0
}

{
    path = $0; mode = "code"; state = ""; line = 0
    while ((getline source < path) > 0) {
        line++
        lex(source)
        if (index(options, " --no-strings ")) kept = bare
        if (index(options, " --no-tests ")) strip_tests()
        sub(/ +$/, "", kept)
        if (kept != "") { total++; file_of[total] = path; out_of[total] = path ":" line ":" kept }
    }
    close(path)
}
END { for (i = 1; i <= total; i++) if (!is_test_file(file_of[i])) print out_of[i] }
'

# ---- Help for the above -------------------------------------------------------------------------------------------

check_dependencies() {
    if has_cargo_deny; then
        step cargo deny --locked check -D warnings licenses bans sources
    elif in_ci; then
        fail "cargo-deny $CARGO_DENY is missing; ./ci.sh deps installs it"
    else
        echo "SKIP: dependencies and licences, for want of cargo-deny $CARGO_DENY (./ci.sh deps installs it)"
    fi
}

has_cargo_deny() {
    [[ "$(cargo deny --version 2>/dev/null)" == "cargo-deny $CARGO_DENY."* ]]
}

in_ci() {
    [ "${CI:-}" = true ]
}

target_dir() {
    echo "${CARGO_TARGET_DIR:-target}"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

step() {
    printf '==> %s\n' "$*"
    "$@"
}

fail() {
    printf 'ci.sh: %s\n' "$*" >&2
    exit 1
}

# A linker and the C library that Rust links with; cargo-deny compiles some C of its own.
APT_PACKAGES=(gcc libc6-dev)
# What `interop` runs against: DPDK, QEMU, and what its guests and their network are made of.
APT_PACKAGES+=(dpdk-dev qemu-system-x86 busybox-static cpio xz-utils python3 iproute2 util-linux iperf3 curl iputils-ping)
# What `bench-check` counts with.
APT_PACKAGES+=(valgrind)
# deny.toml is written for this version's keys.
CARGO_DENY=0.20
# Where unsafe code may stand.
ROOMS='^(common/src/shm/|backend/src/port/[^/:]*_sys\.rs:|integration/src/audit/victims/[^/:]*_sys\.rs:)'

subcommand=${1:-help}
case $subcommand in
    check | test | exhaustive | grid | honest | fuzz | mutants | models | unsafe | interop | deps) "cmd_$subcommand" "${@:2}" ;;
    guest-kernel) cmd_guest_kernel ;;
    bench-check) cmd_bench_check "${@:2}" ;;
    bench-checks) cmd_bench_checks "${@:2}" ;;
    help | -h | --help) usage ;;
    *) usage >&2 && exit 2 ;;
esac
