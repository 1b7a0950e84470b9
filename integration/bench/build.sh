#!/usr/bin/env bash
# Builds the stepped pair, in the workspace where it is called. As `cargo build --release` does, but each crate in one piece: how
# the compiler cuts a crate in pieces depends on what else is built, and with that on what is inlined, up to 8 % of the
# instructions.
set -euo pipefail
pieces=()
for crate in common driver backend step; do
    pieces+=(--config "profile.release.package.ironring-$crate.codegen-units=1")
done
exec cargo build --release --quiet --locked -p ironring-step "${pieces[@]}"
