#!/usr/bin/env python3
"""Instructions a frame, read off callgrind: of the driver's burst calls and of the backend's passes, by stage.

usage: instructions.py OUT FRAMES        prints stages as JSON
       instructions.py --compare TABLE   reads such objects, one a line, after a name; compares totals with the table
       instructions.py --table           writes the table instead
"""
import json
import re
import subprocess
import sys

# Whose code: the function that calls everything else.
SIDES = {"driver": ("TxQueue::tx_burst", "TxQueue::reclaim", "RxQueue::rx_burst"), "backend": ("WorkerCore",)}
# What for: by the file that the instruction was written in, also where it was inlined.
STAGES = [
    ("copy", r"shm/copy\.rs"),
    ("ledger", r"driver/src/queue/ledger"),
    ("boundary", r"boundary\.rs|claim\.rs"),
    ("ring", r"queue/(split|packed|slots|ring|any)|vring/|common/src/(index|spec)"),
    ("translation", r"shm/(table|guest)\.rs"),
    ("frames", r"driver/src/net|backend/src/net|mapper/"),
    ("port", r"backend/src/port"),
    ("turn", r"backend/src/(worker|stats)"),
    ("memory", r"shm/(mapping|view|words)\.rs"),
]
TOLERANCE = 0.05


def stages(path, frames):
    """Self cost of each line of the call trees below the burst calls, by side and stage."""
    text = subprocess.run(
        ["callgrind_annotate", "--threshold=100", "--show-percs=no", path], capture_output=True, text=True, check=True
    ).stdout
    sums = {side: {} for side in SIDES}
    for line in text.splitlines():
        match = re.match(r"^\s*([\d,]+)\s+(\S+?):(.*?)(?: \[.*\])?$", line)
        if not match:
            continue
        count, file, function = int(match[1].replace(",", "")), match[2], match[3]
        side = side_of(function)
        if side is None:
            continue
        stage = next((name for name, pattern in STAGES if re.search(pattern, file)), "core")
        sums[side][stage] = sums[side].get(stage, 0) + count
    return {
        side: {name: round(count / frames, 1) for name, count in sorted(found.items(), key=lambda item: -item[1])}
        for side, found in sums.items()
    }


def side_of(function):
    if "ironring_driver" in function and ("net::" in function or "queue::" in function):
        return "driver"
    if "ironring_backend" in function and re.search(r"worker::(core|ring)|vring::|net::|port::", function):
        return "backend" if "::new" not in function else None
    return None


def main():
    if sys.argv[1] == "--compare" or sys.argv[1] == "--table":
        rows = [line.split(" ", 1) for line in sys.stdin.read().splitlines() if line.strip()]
        rows = [(name, json.loads(found)) for name, found in rows]
        totals = {name: {side: round(sum(found[side].values()), 1) for side in found} for name, found in rows}
        if sys.argv[1] == "--table":
            print(json.dumps({"totals": totals, "stages": dict(rows)}, indent=1))
            return
        with open(sys.argv[2]) as table:
            known = json.load(table)["totals"]
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
        sys.exit(1 if grown else 0)
    print(json.dumps(stages(sys.argv[1], int(sys.argv[2]))))


main()
