#!/usr/bin/env python3
"""Writes the tables of PERFORMANCE.md that are made of counts: between `<!-- NAME -->` and `<!-- end -->`.

usage: tables.py INSTRUCTIONS.json CHECKS.json PERFORMANCE.md
"""
import json
import re
import sys

sys.dont_write_bytecode = True

from checks import patches  # noqa: E402 (no folder of byte code in the tree)

ROWS = ("split-tx", "split-rx", "packed-tx", "packed-rx")
STAGES = {
    "ring": "descriptors, rings, indices",
    "ledger": "private records",
    "boundary": "loads of the other side's words, claims",
    "translation": "addresses",
    "copy": "copies",
    "frames": "lengths, headers, slots",
    "memory": "bounds of shared memory",
    "port": "port",
    "turn": "turns of the worker, counters",
    "core": "Rust's own: iterators, options, integers",
}
# The header ends a line of its own, and the frame begins on the next one.
LINE = 64


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def number(value):
    # Less than half an instruction is what a call shares out over its frames.
    return f"{value:.1f}" if abs(value) < 10 else f"{value:.0f}"


def totals(instructions):
    rows = []
    for name, sides in instructions["totals"].items():
        rows.append([name.replace("-", " ", 1).replace("-", " "), number(sides["driver"]), number(sides["backend"])])
    return table(["work", "driver", "backend"], rows)


def stages(instructions):
    rows = []
    for stage, what in STAGES.items():
        cells = [instructions["stages"][row][side].get(stage, 0) for row in ROWS for side in ("driver", "backend")]
        if any(cells):
            rows.append([what, *map(number, cells)])
    head = [f"{row.replace('-', ' ')}, {side}" for row in ROWS for side in ("driver", "backend")]
    return table(["stage", *head], rows)


def checks(counted):
    rows = []
    for side in ("driver", "backend"):
        for check in counted["checks"]:
            if check["side"] in (side, "both"):
                cells = [number(check["costs"][row][side]) for row in ROWS]
                rows.append([check["check"], side, check["checks"] + (" (in-order use)" if check["in_order"] else ""), *cells])
        if counted["together"]:
            rows.append(["all", side, "all of these but that of in-order use, together", *(number(counted["together"][row][side]) for row in ROWS)])
        rows.append(["", side, "*a frame with all of them*", *(number(counted["base"][row][side]) for row in ROWS)])
    lines = table(["check", "side", "what is checked", *(row.replace("-", " ") for row in ROWS)], rows)
    counted_ones = {check["name"] for check in counted["checks"]}
    missing = [patch.name for patch in patches() if patch.name not in counted_ones]
    missing += [] if counted["together"] else ["all of them together"]
    return lines + (["", f"Not counted yet: {', '.join(missing)}."] if missing else [])


def copying(counted):
    rows = []
    for row in counted["copies"]:
        size = row["size"]
        lines = 1 + -(-size // LINE)
        sent, place = row["tx-copy"], row["tx-in-place"]
        got, lent = row["rx-copy"], row["rx-lease"]
        rows.append([
            row["layout"], size, lines,
            f"{number(sent['driver'] - place['driver'])} of {number(sent['driver'])}",
            number(sent["copies"]["backend"]),
            number(got["copies"]["backend"]),
            f"{number(got['driver'] - lent['driver'])} of {number(got['driver'])}",
        ])
    return table(["layout", "bytes", "lines", "driver, sending", "backend, taking", "backend, giving", "driver, receiving"], rows)


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    with open(sys.argv[1]) as text:
        instructions = json.load(text)
    with open(sys.argv[2]) as text:
        counted = json.load(text)
    made = {"totals": totals(instructions), "stages": stages(instructions), "checks": checks(counted), "copies": copying(counted)}
    with open(sys.argv[3]) as text:
        page = text.read()
    for name, lines in made.items():
        page, count = re.subn(rf"(<!-- {name} -->\n).*?(<!-- end -->)", lambda m: m[1] + "\n".join(lines) + "\n" + m[2], page, flags=re.S)
        if count != 1:
            sys.exit(f"{sys.argv[3]} has no place for the table of {name}")
    with open(sys.argv[3], "w") as text:
        text.write(page)


if __name__ == "__main__":
    main()
