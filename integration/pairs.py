#!/usr/bin/env python3
"""Pairs of processes in many configurations, each judged by what its JSON says.

    pairs.py grid IRONRING FRAMES     every ring: what was asked for is negotiated and used, every frame comes back equal
    pairs.py honest IRONRING FRAMES   devices that are honest and odd: nothing is tripped, and no frame is lost
"""

import itertools
import json
import subprocess
import sys


def pair(program, options):
    """What a pair says, and what speaks against it so far."""
    ran = subprocess.run([program, "--json", "pair", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = json.loads(ran.stdout)
    except ValueError:
        sys.exit(f"pair {' '.join(options)} said no JSON (status {ran.returncode}): {ran.stderr.strip()}")
    return said, [f"status {ran.returncode}: {said.get('error')}"] if ran.returncode else []


def grid(program, frames):
    features = [("indirect", "VIRTIO_F_INDIRECT_DESC"), ("event-idx", "VIRTIO_F_EVENT_IDX"), ("in-order", "VIRTIO_F_IN_ORDER")]
    print(f"{'wait':<10} {'layout':<7} {'indirect':>10} {'event_idx':>10} {'in_order':>10} {'kicks':>9} {'suppressed':>10} {'calls':>9}  result")
    for wait, layout, *on in itertools.product(["poll", "interrupt"], ["split", "packed"], *[[False, True]] * 3):
        asked = [option for (name, _), is_on in zip(features, on) for option in (f"--{name}", "on" if is_on else "off")]
        said, wrong = pair(program, ["--wait", wait, "--layout", layout, "--frames", str(frames), *asked])

        def check(holds, what):
            if not holds:
                wrong.append(what)

        check(said["state"] == "ok" and not said["violations"], f"{said['state']}, {said['violations']}")
        for field in ["frames_sent", "frames_received", "frames_verified"]:
            check(said[field] == frames, f"{said[field]} {field}")
        negotiated = set(said["negotiated"])
        check((said["layout"] == layout) and ("VIRTIO_F_RING_PACKED" in negotiated) == (layout == "packed"), "another layout")
        for (name, bit), is_on in zip(features, on):
            check((bit in negotiated) == is_on, f"{name} is {'not ' if is_on else ''}negotiated")
        count = said["counters"]
        indirect, event_idx, in_order = on
        # One a frame and direction; in order, one for each burst that was sent.
        batches = count["in_order_batches"]
        used = frames + (batches if in_order else frames)
        check(count["used_entries"] == used, f"{count['used_entries']} used entries instead of {used}")
        check(0 < batches < frames if in_order else batches == 0, f"{batches} batches")
        # Every frame that is sent goes in a table, and none else.
        check(count["indirect_tables"] == (frames if indirect else 0), f"{count['indirect_tables']} tables")
        if wait == "interrupt":
            check(count["kicks"] > 0 and count["calls"] > 0, "nobody was woken")
        row = ["on" if indirect else "-", "on" if event_idx else "-", "on" if in_order else "-", count["kicks"], count["kicks_suppressed"], count["calls"]]
        widths = [10, 10, 10, 9, 10, 9]
        print(f"{wait:<10} {layout:<7}", *(f"{value:>{width}}" for value, width in zip(row, widths)), " ", ", ".join(wrong) or "ok", flush=True)
        yield not wrong


def honest(program, frames):
    # Which frames come back as sent: all of them, or all but those about whose length the device is free to say less or more.
    odd = [
        ("A125", ["split", "packed"], True),
        ("A29", ["split"], True),
        ("A52c", ["packed"], True),
        ("A34", ["split"], True),
        ("A54d", ["packed"], True),
        ("A37", ["split"], False),
        ("A54e", ["packed"], False),
        ("A38", ["split"], False),
        ("A54f", ["packed"], False),
    ]
    print(f"{'device':<7} {'layout':<7} {'frames':>12} {'back':>12} {'equal':>12} {'odd times':>10}  result")
    total = 0
    for attack, layouts, equal in odd:
        for layout in layouts:
            said, wrong = pair(program, ["--layout", layout, "--mode", f"hostile:{attack}", "--frames", str(frames)])
            # Counted and without effect: a length on a buffer that is only read.
            tripped = {kind for kind in said["violations"] if not (attack in ("A34", "A54d") and kind == "written-on-transmit")}
            if said["state"] != "ok" or tripped:
                wrong.append(f"{said['state']}, {said['violations']}")
            strikes = said["backend_strikes"] or 0
            if strikes < frames // 1000:
                wrong.append(f"odd {strikes} times only")
            if said["frames_received"] != frames:
                wrong.append("frames are lost")
            if frames - said["frames_verified"] > (0 if equal else strikes):
                wrong.append("frames are changed")
            total += said["frames_received"]
            print(f"{attack:<7} {layout:<7} {frames:>12} {said['frames_received']:>12} {said['frames_verified']:>12} {strikes:>10} ", ", ".join(wrong) or "ok", flush=True)
            yield not wrong
    print(f"honest: {total} frames")


def main():
    what, program, frames = sys.argv[1:]
    held = list({"grid": grid, "honest": honest}[what](program, int(frames)))
    print(f"{what}: {sum(held)} of {len(held)} pairs held")
    sys.exit(0 if held and all(held) else 1)


main()
