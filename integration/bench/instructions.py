#!/usr/bin/env python3
"""Instructions a frame, by callgrind, of a pair that is stepped by hand: the driver's burst calls and the backend's passes.

usage: instructions.py PROGRAM --compare TABLE   counts, and fails where a frame costs more than the table says
       instructions.py PROGRAM --write TABLE     counts, and renews the table
"""
import json
import os
import re
import subprocess
import sys
import tempfile

LAYOUTS = ("split", "packed")
# What is counted: layout and direction, and options of `ironring-step`.
ROWS = [
    (f"{layout}-{dir}{name}", ["--layout", layout, "--dir", dir, *options])
    for layout in LAYOUTS
    for dir in ("tx", "rx", "loop")
    for name, options in {
        "tx": (
            ("", []),
            ("-in-order", ["--in-order"]),
            ("-event-idx", ["--event-idx"]),
            ("-indirect", ["--indirect"]),
            ("-in-place", ["--api", "in-place"]),
        ),
        "rx": (
            ("", []),
            ("-in-order", ["--in-order"]),
            ("-event-idx", ["--event-idx"]),
            ("-lease", ["--api", "lease"]),
        ),
        "loop": (
            ("", []),
            ("-lease", ["--api", "lease"]),
            ("-hairpin", ["--api", "hairpin"]),
            ("-in-order", ["--in-order"]),
            ("-in-order-lease", ["--in-order", "--api", "lease"]),
            ("-in-order-hairpin", ["--in-order", "--api", "hairpin"]),
            # Each frame is waited for until both sides sleep, so there are few.
            ("-alone", ["--in-flight", "1", "--rounds", "2"]),
            ("-in-order-alone", ["--in-order", "--in-flight", "1", "--rounds", "2"]),
        ),
    }[dir]
]
# Whose code a function is, by its name. What is inlined into it counts too.
SIDES = {
    "driver": r"ironring_step::drive_|ironring_driver::.*(net|queue)::|^<ironring_driver::(net|queue)::",
    "backend": r"ironring_backend::.*(worker::(core|ring)|vring|net|port)::",
}
# What both call: it counts for whoever calls it.
SHARED = r"ironring_common::(shm|index|claim|spec|sync)::|^(__)?mem(cpy|move|set|cmp)|^bcmp"
# Setting up.
APART = r"::new\b|::bring_up|::create|::drop|drop_in_place|::fmt|::wait$|::sleep$"
# What for: by the file that the instruction was written in, also where it was inlined.
STAGES = [
    ("copy", r"shm/copy\.rs"),
    ("ledger", r"driver/src/queue/ledger"),
    ("boundary", r"boundary\.rs|claim\.rs"),
    ("ring", r"queue/(split|packed|slots|ring|any|indirect)|vring/|common/src/(index|spec)"),
    ("translation", r"shm/(table|guest)\.rs"),
    ("frames", r"driver/src/net|backend/src/net|mapper/|step/src/main\.rs"),
    ("port", r"backend/src/port"),
    ("turn", r"backend/src/(worker|stats)"),
    ("memory", r"shm/(area|mapping|view|words|lane)\.rs"),
]
TOLERANCE = 0.05


def count(program, options):
    """Runs the pair under callgrind: {side: {stage: instructions a frame}}."""
    with tempfile.TemporaryDirectory() as scratch:
        out = os.path.join(scratch, "out")
        flags = ["--tool=callgrind", f"--callgrind-out-file={out}", "--compress-strings=no", "--compress-pos=no"]
        done = subprocess.run(["valgrind", *flags, program, *options], capture_output=True, text=True)
        if done.returncode != 0:
            said = [line for line in done.stderr.splitlines() if not line.startswith("==")]
            sys.exit(f"{' '.join(options)}: {' '.join(said) or done.stderr}")
        frames = int(done.stdout)
        with open(out) as text:
            selves, calls = parse(text)
    sums = {side: {} for side in SIDES}
    known = {}
    for function, files in selves.items():
        for side, share in shares(function, calls, known).items():
            for file, cost in files.items():
                stage = next((name for name, pattern in STAGES if re.search(pattern, file)), "core")
                sums[side][stage] = sums[side].get(stage, 0) + cost * share
    return {
        side: {stage: round(cost / frames, 1) for stage, cost in sorted(found.items(), key=lambda item: -item[1])}
        for side, found in sums.items()
    }


def parse(lines):
    """The file that callgrind wrote: {function: {source file: own cost}}, and {function: {caller: cost of its calls}}."""
    selves, calls = {}, {}
    function = file = own_file = called = None
    is_call = False
    for line in lines:
        if match := re.match(r"(fl|fi|fe|fn|cfn|cfi|cfl|calls|ob|cob)=(.*)", line):
            key, value = match[1], match[2]
            if key == "fl":
                own_file = file = value
            elif key in ("fi", "fe"):
                file = value
            elif key == "fn":
                function, file = value, own_file
            elif key == "cfn":
                called = value
            elif key == "calls":
                is_call = True
        elif match := re.match(r"\+?-?[\d*]+ (\d+)", line):
            cost = int(match[1])
            if is_call:
                callers = calls.setdefault(called, {})
                callers[function] = callers.get(function, 0) + cost
                is_call = False
            else:
                files = selves.setdefault(function, {})
                files[file] = files.get(file, 0) + cost
    return selves, calls


def shares(function, calls, known):
    """How much of a function's own cost counts for each side."""
    if function not in known:
        known[function] = {}
        side = next((side for side, pattern in SIDES.items() if re.search(pattern, function)), None)
        if side and not re.search(APART, function):
            known[function] = {side: 1.0}
        elif re.search(SHARED, function):
            callers = calls.get(function, {})
            total = sum(callers.values())
            found = {}
            for caller, cost in callers.items():
                for side, share in shares(caller, calls, known).items():
                    found[side] = found.get(side, 0) + share * cost / total
            known[function] = found
    return known[function]


def total(stages):
    return round(sum(stages.values()), 1)


def compare(totals, known):
    """Prints both. How many grew, or are new."""
    grown = 0
    print(f"{'work':24} {'side':8} {'known':>8} {'now':>8}")
    for name, sides in totals.items():
        for side, now in sides.items():
            before = known.get(name, {}).get(side)
            verdict = ""
            if before is None:
                verdict, grown = "is not in the table", grown + 1
            elif now > before * (1 + TOLERANCE):
                verdict, grown = f"grew by {100 * (now / before - 1):.1f} %", grown + 1
            print(f"{name:24} {side:8} {before if before is not None else '-':>8} {now:>8} {verdict}")
    return grown


def main():
    if len(sys.argv) != 4 or sys.argv[2] not in ("--compare", "--write"):
        sys.exit(__doc__)
    program, what, table = sys.argv[1:]
    stages = {name: count(program, options) for name, options in ROWS}
    totals = {name: {side: total(found) for side, found in sides.items()} for name, sides in stages.items()}
    if what == "--compare":
        with open(table) as text:
            sys.exit(1 if compare(totals, json.load(text)["totals"]) else 0)
    with open(table, "w") as text:
        json.dump({"totals": totals, "stages": stages}, text, indent=1)
        text.write("\n")


if __name__ == "__main__":
    main()
