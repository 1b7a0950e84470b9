#!/usr/bin/env python3
"""What each check and each copy costs, in instructions a frame: the stepped pair is built again without it.

usage: checks.py TREE [NAME...]   counts with the patches of these names (all), in a copy of the workspace; prints
       checks.py TREE --write     counts all and the copies, and renews checks.json
       checks.py TREE --write NAME...   renews what it says of these; of all that can be taken out together, if one is `all`
       checks.py --apply          whether all patches apply to the workspace here

A patch under integration/bench/without, or under integration/mutants if it only removes, has `Side: driver`, `backend` or `both`:
whose instructions change; and in `Checks:` what is checked. `Rows: in-order` has it counted with VIRTIO_F_IN_ORDER.
"""
import json
import os
import pathlib
import subprocess
import sys

sys.dont_write_bytecode = True

import instructions  # noqa: E402 (no folder of byte code in the tree)

HERE = pathlib.Path(__file__).resolve().parent
TABLE = HERE / "checks.json"
ROWS = [(layout, dir) for layout in instructions.LAYOUTS for dir in ("tx", "rx")]
SIZES = (64, 512, 1518)


class Patch:
    def __init__(self, path):
        self.path = path
        self.name = path.stem
        head = path.read_text().split("\n--- ", 1)[0]
        self.says = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
        self.side = self.says.get("Side")
        self.in_order = self.says.get("Rows") == "in-order"

    def applies(self, tree):
        return not self.git(tree, "--check").returncode

    def git(self, tree, *how):
        # In a folder of a repository `git apply` leaves out what lies elsewhere and says nothing: it is not to find one.
        env = {**os.environ, "GIT_CEILING_DIRECTORIES": os.path.dirname(os.path.realpath(tree))}
        command = ["git", "-C", tree, "apply", "--whitespace=nowarn", *how, str(self.path)]
        return subprocess.run(command, env=env, capture_output=True, text=True)


def patches():
    both = sorted((HERE.parent / "mutants").glob("*.patch")) + sorted((HERE / "without").glob("*.patch"))
    return sorted((patch for patch in map(Patch, both) if patch.side), key=lambda patch: patch.name)


def stale(tree, found):
    """Names those that do not apply. How many there are."""
    bad = [patch for patch in found if not patch.applies(tree)]
    for patch in bad:
        print(f"{patch.path.relative_to(HERE.parent.parent)} does not apply: the check that it takes out has changed", file=sys.stderr)
    return len(bad)


def build(tree):
    """The program, or None and what the compiler said on stderr."""
    done = subprocess.run([str(HERE / "build.sh")], cwd=tree, capture_output=True, text=True)
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return None
    return os.path.join(os.environ["CARGO_TARGET_DIR"], "release", "ironring-step")


def count(program, in_order=False):
    """{row: {side: instructions a frame}}"""
    counted = {}
    for layout, dir in ROWS:
        options = ["--layout", layout, "--dir", dir, *(["--in-order"] if in_order else [])]
        sides = instructions.count(program, options)
        counted[f"{layout}-{dir}"] = {side: instructions.total(stages) for side, stages in sides.items()}
    return counted


def less(base, now):
    return {row: {side: round(base[row][side] - now[row][side], 1) for side in base[row]} for row in base}


def copies(program):
    """Instructions a frame with and without the driver's copy, and those of each copy alone."""
    found = []
    for layout in instructions.LAYOUTS:
        for size in SIZES:
            row = {"layout": layout, "size": size}
            for dir, other in (("tx", "in-place"), ("rx", "lease")):
                for api in ("copy", other):
                    options = ["--layout", layout, "--dir", dir, "--api", api, "--size", str(size)]
                    sides = instructions.count(program, options)
                    row[f"{dir}-{api}"] = {side: instructions.total(stages) for side, stages in sides.items()}
                    row[f"{dir}-{api}"]["copies"] = {side: stages.get("copy", 0) for side, stages in sides.items()}
            found.append(row)
    return found


def without(tree, patch, base):
    """What it costs, or None if it does not build."""
    patch.git(tree)
    try:
        program = build(tree)
        counted = program and count(program, patch.in_order)
    finally:
        patch.git(tree, "-R")
    if not counted:
        print(f"{patch.path.name} does not build", file=sys.stderr)
        return None
    costs = less(base, counted)
    for side in ("driver", "backend"):
        if patch.side in (side, "both"):
            cells = " ".join(f"{costs[row][side]:9.1f}" for row in costs)
            print(f"{patch.name:24} {side:8} {cells}", flush=True)
    says = {"name": patch.name, "check": patch.says["Check"], "checks": patch.says["Checks"], "side": patch.side}
    return {**says, "in_order": patch.in_order, "costs": costs}


def together(tree, found, base):
    """What all checks of a side cost that can be taken out together."""
    for patch in found:
        if patch.git(tree).returncode:
            print(f"{patch.path.name} does not apply after those before it", file=sys.stderr)
            return None
    program = build(tree)
    counted = program and less(base, count(program))
    for patch in reversed(found):
        patch.git(tree, "-R")
    return counted


def main():
    if sys.argv[1:] == ["--apply"]:
        sys.exit(1 if stale(str(HERE.parent.parent), patches()) else 0)
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    tree, names = sys.argv[1], [name for name in sys.argv[2:] if name != "--write"]
    write = "--write" in sys.argv
    found = [patch for patch in patches() if not names or any(patch.name.startswith(name) for name in names)]
    all_together = write and (not names or "all" in names)
    together_found = [patch for patch in patches() if all_together and not patch.in_order]
    if stale(tree, found + together_found) or not found + together_found:
        sys.exit("nothing was counted")
    program = build(tree)
    if not program:
        sys.exit("the workspace does not build")
    whole = json.loads(TABLE.read_text()) if names and TABLE.exists() else {"checks": [], "together": None}
    if write and not names:
        whole["copies"] = copies(program)
    bases = {in_order: count(program, in_order) for in_order in {False, *(patch.in_order for patch in found)}}
    whole["base"] = bases[False]
    print(f"{'without':24} {'side':8} {' '.join(f'{layout}-{dir}'.rjust(9) for layout, dir in ROWS)}", flush=True)
    failed = 0
    for patch in found:
        cost = without(tree, patch, bases[patch.in_order])
        failed += not cost
        kept = [check for check in whole["checks"] if check["name"] != patch.name]
        whole["checks"] = sorted(kept + [cost] * bool(cost), key=lambda check: check["name"])
        if write:
            # Now, so that a run which is interrupted leaves what it has.
            TABLE.write_text(json.dumps(whole, indent=1) + "\n")
    if failed:
        sys.exit(f"{failed} patches do not build")
    if all_together:
        whole["together"] = together(tree, together_found, bases[False])
        if not whole["together"]:
            sys.exit("all checks together cannot be taken out")
        TABLE.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
