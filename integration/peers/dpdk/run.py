#!/usr/bin/env python3
"""DPDK's testpmd with our daemon and with our driver; every frame is checked.

usage: run.py DAEMON IRONRING RESET [ROW...]      (default: all; RESET: the example `reset` of ironring-driver)

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
BUSY_FRAMES = 50_000
EPOCHS = 20
EPOCH_FRAMES = 2_000
GENERATE_BYTES = 128
GENERATED = b"\xff" * 6
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
# How a daemon ends, and whether it is in the middle of traffic then.
RESTART_TURNS = [(signal.SIGKILL, False), (signal.SIGKILL, True), (signal.SIGTERM, False), (signal.SIGTERM, True),
                 (signal.SIGTERM, False)]
BUSY_ENDS = sum(busy for _, busy in RESTART_TURNS)
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
    """So many more huge pages for as long as we run: others may reserve and give back theirs meanwhile."""

    knob = pathlib.Path("/proc/sys/vm/nr_hugepages")

    def __init__(self, pages):
        self.pages = pages

    def add(self, pages):
        reserved = int(self.knob.read_text())
        self.knob.write_text(str(max(0, reserved + pages)))
        return int(self.knob.read_text()) - reserved

    def __enter__(self):
        try:
            self.added = self.add(self.pages)
        except OSError:
            missing("the right to reserve huge pages")
        if self.added < self.pages:
            self.add(-self.added)
            missing(f"memory for {self.pages} huge pages of 2 MiB")
        return self

    def __exit__(self, *_):
        self.add(-self.added)


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

    def __init__(self, work, vdevs, eal=(), app=(), cpu=1):
        vdevs = [vdevs] if isinstance(vdevs, str) else vdevs
        command = [
            # Its output is a file, and would come in blocks.
            "stdbuf", "-oL", "dpdk-testpmd", "--in-memory", "--single-file-segments", "--no-pci", "-m", "256",
            "--lcores", f"0@{cpu},1@{cpu}",
            *eal, *(f"--vdev={vdev}" for vdev in vdevs), "--", "-i", "--forward-mode=io",
            f"--port-topology={'loop' if len(vdevs) == 1 else 'paired'}", "--no-flush-rx",
            "--total-num-mbufs=16384", "--disable-link-check",
        ]
        super().__init__(work, "testpmd", command + list(app), stdin=subprocess.PIPE)
        self.said = 0

    def say(self, line):
        self.said = len(self.text())
        self.child.stdin.write(line.encode() + b"\n")
        self.child.stdin.flush()

    def begin(self, how="io retry"):
        wait_until("testpmd's prompt", lambda: "testpmd> " in self.text() or not self.lives())
        if not self.lives():
            raise Failed(f"testpmd ended with status {self.child.returncode}")
        if "Start ports failed" in self.text():
            raise Failed("testpmd could not start its port")
        # A frame that finds the ring full is tried again for a second, instead of being dropped.
        self.say(f"set fwd {how}")
        self.say("set burst tx delay 10 retry 100000")
        self.say("start")
        wait_until("testpmd to forward", lambda: "packet forwarding" in self.text()[self.said:])

    def counts(self, port=0):
        """Frames received and sent."""
        self.say(f"show port stats {port}")
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


def still(look):
    """Whether something stays as it is for a while."""
    before = look()
    time.sleep(0.3)
    return look() == before


def looped(sent, back):
    same("loopback", sent, back)
    return f"{len(back)} frames there and back, every byte the same"


def nothing(_, back):
    if back:
        raise Failed(f"{len(back)} frames came from nowhere")
    return f"{FRAMES} frames taken"


def generated(_, back):
    """As generate.rs says: a header, a number, a pattern."""
    pattern = bytes(at & 0xFF for at in range(GENERATE_BYTES))
    for number, frame in enumerate(back):
        if frame != GENERATED + b"\x02\0\0\0\0\x01\x88\xb5" + struct.pack(">Q", number) + pattern[22:]:
            raise Failed(f"frame {number} is not what was generated: {frame.hex()}")
    return f"{FRAMES} frames taken, {len(back)} generated, each with its number and bytes"


class Bench:
    def __init__(self, work, daemon, ironring, reset):
        self.work, self.daemon, self.ironring, self.reset = work, daemon, ironring, reset
        self.input, self.long_input, self.socket = work / "in.pcap", work / "long.pcap", work / "socket"
        write_capture(self.input, FRAMES)
        write_capture(self.long_input, RESTART_FRAMES, 128)

    def start_daemon(self, how, port, before=()):
        command = [*before, self.daemon, how, self.socket, "--port", port, "--allow-unsealed-memory", "--log", "debug",
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
        with self.start_daemon("--socket-path", f"pcap:{self.input}:{output}") as daemon:
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
            lost, again, frames = 0, 0, read_capture(self.long_input)
            for turn, (how, busy) in enumerate(RESTART_TURNS):
                output = self.work / f"out{turn}.pcap"
                received = testpmd.counts()[0] if turn else 0
                port = "generate:1000" if busy else f"pcap:{self.long_input}:{output}"
                with self.start_daemon("--connect", port) as daemon:
                    if turn == 0:
                        testpmd.begin()
                    if busy:
                        wait_until("traffic to end the daemon in", lambda: testpmd.counts()[0] > received + BUSY_FRAMES)
                        daemon.end(how)
                        continue
                    wait_until("every frame to go round", lambda: testpmd.counts()[0] >= received + RESTART_FRAMES)
                    check_features(daemon, row)
                    # What a daemon that is killed had not written yet is lost with it.
                    wait_until("the capture", lambda: still(lambda: output.stat().st_size))
                    daemon.end(how)
                # testpmd enables its receive queue milliseconds before its transmit queue; what it sends back in between
                # is discarded, as vhost-user has it, and counted. What the last daemon took when it ended comes again.
                early = tx_disabled(daemon)
                came = read_capture(output)
                back = [frame for frame in came if frame[:6] != GENERATED]
                gone = len(frames) - len(back)
                if not 0 <= gone <= min(early, RESTART_FRAMES / 2):
                    raise Failed(f"daemon {turn + 1}: {gone} of {len(frames)} frames did not come back, {early} were discarded")
                same(f"{row.name}, daemon {turn + 1}", frames[gone:], back)
                lost, again = lost + gone, again + len(came) - len(back)
            testpmd.quit()
        kills = sum(how == signal.SIGKILL for how, _ in RESTART_TURNS)
        print(f"    virtio-user, {row.name}: {len(RESTART_TURNS)} daemons, {kills} killed, {BUSY_ENDS} ended in full traffic; "
              f"{3 * RESTART_FRAMES} frames there and back, every byte the same; {lost} discarded before their queue was "
              f"enabled, {again} left over from a daemon that had ended")

    def port(self, port, check):
        """testpmd between a capture and the daemon."""
        output = self.work / "out.pcap"
        with self.start_daemon("--socket-path", port) as daemon:
            wait_until("the daemon's socket", self.socket.exists)
            vdevs = f"net_pcap0,rx_pcap={self.input},tx_pcap={output}", f"net_virtio_user0,path={self.socket},queues=1"
            with Testpmd(self.work, vdevs) as testpmd:
                testpmd.begin()
                wait_until("every frame to be sent", lambda: testpmd.counts(1)[1] >= FRAMES)
                if port != "null":
                    wait_until("every frame to be received", lambda: testpmd.counts(1)[0] >= FRAMES)
                testpmd.say("stop")
                testpmd.quit()
            wait_until("the end of the session", lambda: "the session has ended" in daemon.text())
            figures = account(daemon)["port"]
            daemon.end()
        sent = read_capture(self.input)
        want = len(sent), sum(map(len, sent))
        if (figures["taken_frames"], figures["taken_bytes"]) != want:
            raise Failed(f"the port took {figures}, and not {want}")
        print(f"    virtio-user, port {port}: {check(sent, read_capture(output))}")

    def tap(self):
        """ping to testpmd, which answers."""
        host = f"ironring-{os.urandom(4).hex()}"
        inside = ("ip", "netns", "exec", host)
        ip = lambda *words: subprocess.run(("ip", *words), check=True, timeout=WAIT)
        ip("netns", "add", host)
        try:
            ip("-n", host, "tuntap", "add", "dev", "tap0", "mode", "tap", "vnet_hdr")
            ip("-n", host, "addr", "add", "10.99.0.1/24", "dev", "tap0")
            ip("-n", host, "link", "set", "tap0", "up")
            with self.start_daemon("--socket-path", "tap:tap0", inside) as daemon:
                wait_until("the daemon's socket", self.socket.exists)
                with Testpmd(self.work, f"net_virtio_user0,path={self.socket},queues=1") as testpmd:
                    testpmd.begin("icmpecho")
                    for size in (56, 1472):
                        ping = subprocess.run((*inside, "ping", "-c", "200", "-i", "0.002", "-s", str(size), "10.99.0.2"),
                                              capture_output=True, text=True, timeout=WAIT)
                        if " 200 received" not in ping.stdout or "wrong data" in ping.stdout:
                            raise Failed(ping.stdout[-1000:] + ping.stderr)
                    testpmd.quit()
                daemon.end()
        finally:
            ip("netns", "del", host)
        print("    virtio-user, port tap: 400 pings of 56 and 1472 bytes, answered by testpmd with their contents")

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


    def resets(self):
        self.socket.unlink(missing_ok=True)
        with Testpmd(self.work, f"net_vhost0,iface={self.socket},queues=1") as testpmd:
            testpmd.begin()
            command = [self.reset, self.socket, str(EPOCHS), str(EPOCH_FRAMES)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT)
            if done.returncode != 0:
                raise Failed(done.stdout + done.stderr)
            testpmd.quit()
        print(f"    net_vhost, reset: {EPOCHS} epochs of {EPOCH_FRAMES} frames there and back, half of them left with frames "
              f"under way")


def rows(bench):
    for row in VIRTIO_USER:
        yield f"virtio-user, {row.name}", lambda row=row: bench.virtio_user(row)
    for port, check in (("loopback", looped), ("null", nothing), (f"generate:{GENERATE_BYTES}", generated)):
        yield f"virtio-user, port {port}", lambda port=port, check=check: bench.port(port, check)
    yield "virtio-user, port tap", bench.tap
    for row in RESTARTS:
        yield f"virtio-user, {row.name}", lambda row=row: bench.restarts(row)
    for layout, options in NET_VHOST:
        yield f"net_vhost, {layout}, {' '.join(options)}", lambda l=layout, o=options: bench.net_vhost(l, o)
    yield "net_vhost, reset", bench.resets


def main():
    daemon, ironring, reset, *wanted = sys.argv[1:]
    for tool, package in (("dpdk-testpmd", "dpdk-dev"), ("ip", "iproute2"), ("ping", "iputils-ping"), ("stdbuf", "coreutils")):
        if not shutil.which(tool):
            missing(f"{tool} (package {package})")
    # What is set up is taken down after a signal too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    wide = "avx512f" in pathlib.Path("/proc/cpuinfo").read_text()
    passed = failed = skipped = 0
    with HugePages(HUGE_PAGES), tempfile.TemporaryDirectory(prefix="ironring-dpdk-") as work:
        bench = Bench(pathlib.Path(work), os.path.abspath(daemon), os.path.abspath(ironring), os.path.abspath(reset))
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
