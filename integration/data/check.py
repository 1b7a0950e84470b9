"""Says what is in a capture, and fails unless everything is there that the bundled one must have.

Reads classic pcap with nothing but the standard library.
"""

import struct
import sys
from collections import Counter


def frames(path):
    with open(path, "rb") as file:
        data = file.read()
    magic = data[:4]
    order = {b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">"}
    if magic not in order:
        sys.exit(f"{path}: not a classic pcap file")
    order = order[magic]
    _, _, _, _, snaplen, link = struct.unpack(order + "HHiIII", data[4:24])
    if link != 1:
        sys.exit(f"{path}: link type {link}, not Ethernet")
    if snaplen < 65535:
        sys.exit(f"{path}: snap length {snaplen}, frames may be cut")
    at = 24
    while at < len(data):
        _, _, kept, length = struct.unpack(order + "IIII", data[at : at + 16])
        if kept != length:
            sys.exit(f"{path}: a frame of {length} bytes is cut to {kept}")
        yield data[at + 16 : at + 16 + kept]
        at += 16 + kept


def kinds(frame, seen):
    """The kinds of one frame. `seen` remembers TCP segments, to find those that are sent again."""
    kind = struct.unpack("!H", frame[12:14])[0]
    if kind == 0x8100:
        yield "VLAN tag"
    elif kind == 0x0806:
        yield "ARP"
    elif kind == 0x0800:
        header = (frame[14] & 15) * 4
        total = struct.unpack("!H", frame[16:18])[0]
        protocol, rest = frame[23], frame[14 + header : 14 + total]
        if protocol == 1:
            yield "ICMP"
        elif protocol == 17 and 53 in struct.unpack("!HH", rest[:4]):
            yield "UDP, DNS"
        elif protocol == 6:
            yield "TCP"
            payload = rest[(rest[12] >> 4) * 4 :]
            segment = (frame[26:34], rest[:4], rest[4:8])
            if payload:
                if segment in seen:
                    yield "TCP retransmission"
                seen.add(segment)
                if payload.startswith((b"GET ", b"HTTP/1")):
                    yield "HTTP"
    elif kind == 0x86DD and frame[20] == 58:
        yield "IPv6 ND" if frame[54] in (133, 134, 135, 136) else "ICMPv6 echo"


NEEDED = ["ARP", "ICMP", "UDP, DNS", "TCP", "HTTP", "TCP retransmission", "IPv6 ND", "ICMPv6 echo", "VLAN tag"]


def main(path):
    counts, seen, sizes = Counter(), set(), []
    for frame in frames(path):
        sizes.append(len(frame))
        counts.update(kinds(frame, seen))
    for kind in NEEDED:
        print(f"{kind:<20} {counts[kind]:>6}")
    print(f"{'frames':<20} {len(sizes):>6}")
    print(f"{'bytes':<20} {sum(sizes):>6}")
    print(f"{'sizes':<20} {min(sizes):>6} to {max(sizes)}")
    absent = [kind for kind in NEEDED if not counts[kind]]
    if absent or 60 not in sizes or max(sizes) != 1518:
        sys.exit(f"{path}: missing: {absent or 'a frame of 60 or of 1518 bytes'}")


if __name__ == "__main__":
    main(sys.argv[1])
