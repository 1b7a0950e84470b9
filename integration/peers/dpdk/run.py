#!/usr/bin/env python3
"""DPDK's testpmd with our daemon and with our driver; every frame is checked.

usage: run.py DAEMON IRONRING [ROW...]      (default: all)

On the daemon, testpmd drives net_virtio_user and sends back what it receives: the daemon plays a capture and writes what
came back, and the two must be the same. With the driver, testpmd serves net_vhost and `ironring pair` compares.

Exit status: 0 held, 1 did not, 3 this machine lacks something (a line says what).
"""

import collections
import json
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

FRAMES = 20_000
RESTART_FRAMES = 300_000
PAIR_FRAMES = 500_000
HUGE_PAGES = 320
WAIT = 20

Row = collections.namedtuple("Row", "name devargs features eal app", defaults=((), ()))
V1 = "VIRTIO_F_VERSION_1"
PACKED, IN_ORDER, MERGEABLE = "VIRTIO_F_RING_PACKED", "VIRTIO_F_IN_ORDER", "VIRTIO_NET_F_MRG_RXBUF"
WIDE = ("--force-max-simd-bitwidth=512",)
# 384 bytes of a frame in each, behind the headroom of 128.
SMALL = ("--mbuf-size=512", "--enable-scatter", f"--tx-offloads={1 << 15:#x}")  # RTE_ETH_TX_OFFLOAD_MULTI_SEGS
VIRTIO_USER = [
    Row("split, mergeable", "mrg_rxbuf=1,in_order=0", {MERGEABLE}, ()),
    Row("split", "mrg_rxbuf=0,in_order=0", set(), ()),
    Row("split, vectorised", "mrg_rxbuf=0,in_order=0,vectorized=1", set(), WIDE),
    Row("split, in order, mergeable", "mrg_rxbuf=1,in_order=1", {IN_ORDER, MERGEABLE}, ()),
    Row("split, in order", "mrg_rxbuf=0,in_order=1", {IN_ORDER}, ()),
    Row("packed, mergeable", "packed_vq=1,mrg_rxbuf=1,in_order=0", {PACKED, MERGEABLE}, ()),
    Row("packed", "packed_vq=1,mrg_rxbuf=0,in_order=0", {PACKED}, ()),
    Row("packed, in order, mergeable", "packed_vq=1,mrg_rxbuf=1,in_order=1", {PACKED, IN_ORDER, MERGEABLE}, ()),
    Row("packed, in order", "packed_vq=1,mrg_rxbuf=0,in_order=1", {PACKED, IN_ORDER}, ()),
    Row("packed, in order, vectorised", "packed_vq=1,mrg_rxbuf=0,in_order=1,vectorized=1", {PACKED, IN_ORDER}, WIDE),
    Row("packed, 1000 slots", "packed_vq=1,mrg_rxbuf=1,in_order=0,queue_size=1000", {PACKED, MERGEABLE}),
    # Frames that fill several buffers, and come back as tables of several descriptors.
    Row("split, small buffers", "mrg_rxbuf=1,in_order=0", {MERGEABLE}, (), SMALL),
    Row("split, in order, small buffers", "mrg_rxbuf=1,in_order=1", {IN_ORDER, MERGEABLE}, (), SMALL),
    Row("packed, small buffers", "packed_vq=1,mrg_rxbuf=1,in_order=0", {PACKED, MERGEABLE}, (), SMALL),
    Row("packed, in order, small buffers", "packed_vq=1,mrg_rxbuf=1,in_order=1", {PACKED, IN_ORDER, MERGEABLE}, (), SMALL),
]
RESTARTS = [
    Row("split server", "server=1,mrg_rxbuf=1,in_order=0", {MERGEABLE}, ()),
    Row("packed server", "server=1,packed_vq=1,mrg_rxbuf=1,in_order=0", {PACKED, MERGEABLE}, ()),
]
NET_VHOST = [(layout, options) for layout in ("split", "packed") for options in (
    (), ("--indirect", "on"), ("--event-idx", "on", "--wait", "interrupt"), ("--in-order", "on"),
    ("--indirect", "on", "--event-idx", "on", "--in-order", "on"),
)]


class Failed(Exception):
    """A row did not hold."""


def missing(what):
    print(f"dpdk: {what} is missing", file=sys.stderr)
    sys.exit(3)


def wait_until(what, check, seconds=WAIT):
    """Waits for something that nobody tells of."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            raise Failed(f"{what}: nothing within {seconds} s")
        time.sleep(0.05)


class HugePages:
    """So many huge pages for as long as we run."""

    def __init__(self, pages):
        self.knob = pathlib.Path("/proc/sys/vm/nr_hugepages")
        self.before = self.knob.read_text()
        self.pages = pages

    def __enter__(self):
        try:
            self.knob.write_text(str(max(self.pages, int(self.before))))
        except OSError:
            missing("the right to reserve huge pages")
        if int(self.knob.read_text()) < self.pages:
            self.knob.write_text(self.before)
            missing(f"memory for {self.pages} huge pages of 2 MiB")
        return self

    def __exit__(self, *_):
        self.knob.write_text(self.before)


class Process:
    """A program of ours, with its output in a file, that ends with the block it is made in."""

    def __init__(self, work, name, command, **options):
        self.name, self.log = name, work / f"{name}.log"
        self.out = self.log.open("wb")
        self.child = subprocess.Popen(command, stdout=self.out, stderr=subprocess.STDOUT, **options)

    def text(self):
        return self.log.read_text(errors="replace")

    def lives(self):
        return self.child.poll() is None

    def end(self, how=signal.SIGTERM):
        if self.lives():
            self.child.send_signal(how)
        return self.child.wait(WAIT)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self.lives():
            self.child.kill()
            self.child.wait()
        self.out.close()
        if kind is not None:
            tail = "\n".join(self.text().splitlines()[-25:])
            print(f"--- {self.name}\n{tail}", file=sys.stderr)


class Testpmd(Process):
    """testpmd at its prompt."""

    def __init__(self, work, vdev, eal=(), app=(), cpu=1):
        command = [
            # Its output is a file, and would come in blocks.
            "stdbuf", "-oL", "dpdk-testpmd", "--in-memory", "--single-file-segments", "--no-pci", "-m", "256",
            "--lcores", f"0@{cpu},1@{cpu}",
            *eal, f"--vdev={vdev}", "--", "-i", "--forward-mode=io", "--port-topology=loop", "--no-flush-rx",
            "--total-num-mbufs=16384", "--disable-link-check",
        ]
        super().__init__(work, "testpmd", command + list(app), stdin=subprocess.PIPE)
        self.said = 0

    def say(self, line):
        self.said = len(self.text())
        self.child.stdin.write(line.encode() + b"\n")
        self.child.stdin.flush()

    def begin(self):
        wait_until("testpmd's prompt", lambda: "testpmd> " in self.text() or not self.lives())
        if not self.lives():
            raise Failed(f"testpmd ended with status {self.child.returncode}")
        if "Start ports failed" in self.text():
            raise Failed("testpmd could not start its port")
        # A frame that finds the ring full is tried again for a second, instead of being dropped.
        self.say("set fwd io retry")
        self.say("set burst tx delay 10 retry 100000")
        self.say("start")
        wait_until("testpmd to forward", lambda: "io packet forwarding" in self.text()[self.said:])

    def counts(self):
        """Frames received and sent."""
        self.say("show port stats 0")
        block = lambda: re.search(r"RX-packets: (\d+).*?TX-packets: (\d+)", self.text()[self.said:], re.S)
        wait_until("testpmd's counters", lambda: block() or not self.lives(), 10)
        if not block():
            raise Failed("testpmd has ended")
        return tuple(int(count) for count in block().groups())

    def quit(self):
        self.say("quit")
        return self.child.wait(WAIT)


def write_capture(path, frames, longest=1514):
    """Frames of all lengths with contents of their own. The addresses are of this host only."""
    rng = random.Random(7)
    with path.open("wb") as out:
        out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for number in range(frames):
            size = rng.choice((60, 64, 100, longest)) if number % 2 else rng.randint(60, longest)
            frame = b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x88\xb5" + struct.pack("<I", number)
            frame += rng.randbytes(size - len(frame))
            out.write(struct.pack("<IIII", number, 0, size, size) + frame)


def read_capture(path):
    bytes_, at, frames = path.read_bytes(), 24, []
    while at + 16 <= len(bytes_):
        size = struct.unpack_from("<I", bytes_, at + 8)[0]
        frames.append(bytes_[at + 16:at + 16 + size])
        at += 16 + size
    return frames


def negotiated(daemon):
    lines = [line for line in daemon.text().splitlines() if "features negotiated" in line]
    return set(re.findall(r"V(?:IRTIO|HOST)_[A-Z0-9_]+", lines[-1])) if lines else set()


def check_features(daemon, row):
    got = negotiated(daemon)
    absent = row.features - got
    surplus = ({PACKED, IN_ORDER, MERGEABLE} - row.features) & got
    if absent or surplus:
        raise Failed(f"negotiated {sorted(got)}: {sorted(absent)} absent, {sorted(surplus)} not asked for")


def account(daemon):
    """The figures of the daemon's last session."""
    line = [line for line in daemon.text().splitlines() if "the session has ended" in line][-1]
    return json.loads(line[line.index("figures=") + len("figures="):])


def tx_disabled(daemon):
    """Frames that came on a queue which was not enabled yet, by the daemon's last word; a killed one has none."""
    counts = re.findall(r'"tx-disabled":(\d+)', daemon.text())
    return sum(map(int, counts[-2:]))


def same(name, sent, back):
    if sent != back:
        first = next((n for n, (a, b) in enumerate(zip(sent, back)) if a != b), min(len(sent), len(back)))
        raise Failed(f"{name}: {len(back)} of {len(sent)} frames came back, and frame {first} is the first that differs")


class Bench:
    def __init__(self, work, daemon, ironring):
        self.work, self.daemon, self.ironring = work, daemon, ironring
        self.input, self.long_input, self.socket = work / "in.pcap", work / "long.pcap", work / "socket"
        write_capture(self.input, FRAMES)
        write_capture(self.long_input, RESTART_FRAMES, 128)

    def start_daemon(self, how, source, output):
        port = f"pcap:{source}:{output}"
        command = [self.daemon, how, self.socket, "--port", port, "--allow-unsealed-memory", "--log", "debug",
                   "--sandbox-kill"]
        return Process(self.work, "daemon", command)

    def virtio_user_at(self, row):
        size = "" if "queue_size" in row.devargs else "queue_size=256,"
        return f"net_virtio_user0,path={self.socket},queues=1,{size}{row.devargs}"

    def all_back(self, testpmd, already=0):
        want = already + FRAMES
        wait_until("every frame to go round", lambda: min(testpmd.counts()) >= want)

    def virtio_user(self, row):
        output = self.work / "out.pcap"
        with self.start_daemon("--socket-path", self.input, output) as daemon:
            wait_until("the daemon's socket", self.socket.exists)
            with Testpmd(self.work, self.virtio_user_at(row), row.eal, row.app) as testpmd:
                testpmd.begin()
                self.all_back(testpmd)
                if testpmd.quit() != 0:
                    raise Failed("testpmd did not end in order")
            wait_until("the end of the session", lambda: "the session has ended" in daemon.text())
            check_features(daemon, row)
            if daemon.end() != 0 or "the ring is left alone" in daemon.text():
                raise Failed("the daemon found fault with testpmd")
            receive, transmit = account(daemon)["queues"]
            if row.app == SMALL and receive["used_entries"] < 2 * FRAMES:
                raise Failed(f"{FRAMES} frames went in {receive['used_entries']} buffers: none was spread over several")
        same(row.name, read_capture(self.input), read_capture(output))
        print(f"    virtio-user, {row.name}: {FRAMES} frames there and back, every byte the same")

    def restarts(self, row):
        self.socket.unlink(missing_ok=True)
        with Testpmd(self.work, self.virtio_user_at(row), row.eal) as testpmd:
            lost, frames = 0, read_capture(self.long_input)
            for turn, how in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGTERM)):
                output = self.work / f"out{turn}.pcap"
                before = testpmd.counts() if turn else (0, 0)
                with self.start_daemon("--connect", self.long_input, output) as daemon:
                    if turn == 0:
                        testpmd.begin()
                    wait_until("every frame to go round", lambda: testpmd.counts()[1] >= before[1] + RESTART_FRAMES)
                    check_features(daemon, row)
                    # What a daemon that is killed had not written yet is lost with it.
                    wait_until("the capture", lambda: how == signal.SIGTERM or len(read_capture(output)) == RESTART_FRAMES)
                    daemon.end(how)
                    back, early = read_capture(output), tx_disabled(daemon)
                # testpmd enables its receive queue milliseconds before its transmit queue; what it sends back in between
                # is discarded, as vhost-user has it, and counted.
                same(f"{row.name}, daemon {turn + 1}", frames[early:], back)
                if early > RESTART_FRAMES / 2:
                    raise Failed(f"daemon {turn + 1} discarded {early} frames of {RESTART_FRAMES}: too much to tell")
                lost += early
            testpmd.quit()
        print(f"    virtio-user, {row.name}: {3 * RESTART_FRAMES} frames through three daemons, one killed "
              f"and one stopped under it; {lost} discarded before their queue was enabled")

    def net_vhost(self, layout, options):
        self.socket.unlink(missing_ok=True)
        with Testpmd(self.work, f"net_vhost0,iface={self.socket},queues=1") as testpmd:
            testpmd.begin()
            # Twice: a driver that leaves makes room for the next one.
            for frames in (PAIR_FRAMES, PAIR_FRAMES // 10):
                wait = () if "--wait" in options else ("--wait", "poll")
                command = [self.ironring, "pair", "--socket", self.socket, "--layout", layout, "--frames", str(frames),
                           "--json", *wait, *options]
                done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT)
                try:
                    result = json.loads(done.stdout)
                except ValueError:
                    raise Failed(f"{done.stdout}{done.stderr}") from None
                if done.returncode != 0 or result.get("frames_verified") != frames:
                    raise Failed(json.dumps(result) + done.stderr)
                counters = result["counters"]
                if "--indirect" in options and counters["indirect_tables"] < frames:
                    raise Failed(f"frames went without tables: {counters}")
            testpmd.quit()
        said = " ".join(options) or "plain"
        print(f"    net_vhost, {layout}, {said}: {PAIR_FRAMES} frames there and back, every byte the same")


def rows(bench):
    for row in VIRTIO_USER:
        yield f"virtio-user, {row.name}", lambda row=row: bench.virtio_user(row)
    for row in RESTARTS:
        yield f"virtio-user, {row.name}", lambda row=row: bench.restarts(row)
    for layout, options in NET_VHOST:
        yield f"net_vhost, {layout}, {' '.join(options)}", lambda l=layout, o=options: bench.net_vhost(l, o)


def main():
    daemon, ironring, *wanted = sys.argv[1:]
    if not shutil.which("dpdk-testpmd"):
        missing("dpdk-testpmd (package dpdk)")
    wide = "avx512f" in pathlib.Path("/proc/cpuinfo").read_text()
    passed = failed = skipped = 0
    with HugePages(HUGE_PAGES), tempfile.TemporaryDirectory(prefix="ironring-dpdk-") as work:
        bench = Bench(pathlib.Path(work), os.path.abspath(daemon), os.path.abspath(ironring))
        for name, run in rows(bench):
            if wanted and not any(part in name for part in wanted):
                continue
            if "packed, in order, vectorised" in name and not wide:
                skipped += 1
                print(f"    {name}: SKIP, this CPU has no AVX-512, without which DPDK takes another path")
                continue
            try:
                run()
                passed += 1
            except (Failed, subprocess.TimeoutExpired, OSError) as error:
                failed += 1
                print(f"    FAILED: {name}: {error}")
    said = subprocess.run(["dpdk-testpmd", "-v", "--help"], capture_output=True, text=True)
    version = re.search(r"DPDK \d[\w.]*", said.stdout + said.stderr)
    version = version.group(0) if version else "an unknown version of DPDK"
    print(f"dpdk: {passed} held, {skipped} skipped, {failed} failed, {version}")
    sys.exit(1 if failed else 0)


main()
