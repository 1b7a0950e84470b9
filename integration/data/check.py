"""Says what is in a capture, and fails unless everything is there that the bundled one must have: check.py FILE

Reads classic pcap with nothing but the standard library, and needs no root.
"""

import ipaddress
import struct
import sys
from collections import Counter

FILE_MAX = 1 << 20
MAGICS = {b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">"}
# The addresses of the two namespaces, and what IPv6 needs besides: link-local, multicast, unspecified.
NETWORKS = [ipaddress.ip_network(text) for text in ("10.77.0.0/24", "fd77::/64", "fe80::/64", "ff02::/16", "::/128")]
NEEDED = [
    "ARP request",
    "ARP reply",
    "ICMP echo request",
    "ICMP echo reply",
    "ICMP echo, 1472 bytes",
    "DNS query",
    "DNS answer",
    "TCP",
    "TCP over IPv6",
    "TCP retransmission",
    "HTTP response",
    "IPv6 ND solicitation",
    "IPv6 ND advertisement",
    "ICMPv6 echo request",
    "ICMPv6 echo reply",
    "VLAN tag",
    "VLAN tag, 1518 bytes",
    "60 bytes",
]


class Bad(Exception):
    """The capture is not one to bundle."""


def frames(data):
    order = MAGICS.get(data[:4])
    if order is None:
        raise Bad("not a classic pcap file")
    snaplen, link = struct.unpack_from(order + "II", data, 16)
    if link != 1:
        raise Bad(f"link type {link}, not Ethernet")
    if snaplen < 65535:
        raise Bad(f"snap length {snaplen}, frames may be cut")
    at = 24
    while at < len(data):
        kept, length = struct.unpack_from(order + "II", data, at + 8)
        frame = data[at + 16 : at + 16 + kept]
        if kept != length or len(frame) != kept:
            raise Bad(f"a frame of {length} bytes is cut to {len(frame)}")
        if not 14 <= length <= 1518:
            raise Bad(f"a frame of {length} bytes")
        yield frame
        at += 16 + kept


def checksum(data):
    """The Internet checksum; 0 over data that contains its own, correct one."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total > 0xFFFF:
        total = (total >> 16) + (total & 0xFFFF)
    return total ^ 0xFFFF


def ip(packet):
    """Protocol, both addresses in one, and payload of an IP packet, or nothing if there is an extension header."""
    if packet[0] >> 4 == 4:
        header, total = (packet[0] & 15) * 4, struct.unpack_from("!H", packet, 2)[0]
        if checksum(packet[:header]):
            raise Bad("an IPv4 header with a wrong checksum")
        protocol, addresses, payload = packet[9], packet[12:20], packet[header:total]
    else:
        total = 40 + struct.unpack_from("!H", packet, 4)[0]
        protocol, addresses, payload = packet[6], packet[8:40], packet[40:total]
    half = len(addresses) // 2
    for address in map(ipaddress.ip_address, (addresses[:half], addresses[half:])):
        if not any(address in network for network in NETWORKS):
            raise Bad(f"the address {address} is not one of the namespaces")
    if protocol in (1, 6, 17, 58):
        pseudo = b"" if protocol == 1 else addresses + struct.pack("!II", len(payload), protocol)
        if checksum(pseudo + payload):
            raise Bad(f"a packet of IP protocol {protocol} with a wrong checksum")
    return protocol, addresses, payload


def kinds(frame, seen):
    """The kinds of one frame. `seen` remembers TCP segments, to find those that are sent again."""
    if len(frame) == 60:
        yield "60 bytes"
    ether_type = struct.unpack_from("!H", frame, 12)[0]
    if ether_type == 0x8100:
        yield "VLAN tag"
        if len(frame) == 1518:
            yield "VLAN tag, 1518 bytes"
    elif ether_type == 0x0806:
        yield {1: "ARP request", 2: "ARP reply"}.get(frame[21], "ARP, other")
    elif ether_type in (0x0800, 0x86DD):
        protocol, addresses, payload = ip(frame[14:])
        if protocol == 1:
            yield {8: "ICMP echo request", 0: "ICMP echo reply"}.get(payload[0], "ICMP, other")
            if payload[0] in (0, 8) and len(payload) == 8 + 1472:
                yield "ICMP echo, 1472 bytes"
        elif protocol == 6:
            yield "TCP"
            if ether_type == 0x86DD:
                yield "TCP over IPv6"
            data = payload[(payload[12] >> 4) * 4 :]
            segment = (addresses, payload[:4], payload[4:8])
            if data:
                if segment in seen:
                    yield "TCP retransmission"
                seen.add(segment)
                if data.startswith(b"HTTP/1"):
                    yield "HTTP response"
        elif protocol == 17:
            source, target = struct.unpack_from("!HH", payload)
            yield "DNS query" if target == 53 else "DNS answer" if source == 53 else "UDP, other"
        elif protocol == 58:
            names = {128: "ICMPv6 echo request", 129: "ICMPv6 echo reply"}
            names |= {133: "IPv6 router solicitation", 135: "IPv6 ND solicitation", 136: "IPv6 ND advertisement"}
            yield names.get(payload[0], "ICMPv6, other")
        else:
            yield "IPv6, other" if ether_type == 0x86DD else "IPv4, other"
    else:
        yield "other types"


def main(path):
    try:
        with open(path, "rb") as file:
            data = file.read(FILE_MAX + 1)
        if len(data) > FILE_MAX:
            raise Bad("more than 1 MiB")
        counts, seen, sizes = Counter(), set(), []
        for frame in frames(data):
            sizes.append(len(frame))
            counts.update(kinds(frame, seen))
    except OSError as error:
        sys.exit(f"check.py: {error}")
    except (struct.error, IndexError):
        sys.exit(f"{path}: it ends in the middle, or a packet in it does")
    except Bad as error:
        sys.exit(f"{path}: {error}")
    for kind in NEEDED + sorted(counts.keys() - set(NEEDED)):
        print(f"{kind:<25}{counts[kind]:>8}")
    print(f"{'frames':<25}{len(sizes):>8}")
    print(f"{'bytes of frames':<25}{sum(sizes):>8}")
    print(f"{'bytes of the file':<25}{len(data):>8}")
    print(f"{'shortest frame':<25}{min(sizes, default=0):>8}")
    print(f"{'longest frame':<25}{max(sizes, default=0):>8}")
    absent = [kind for kind in NEEDED if not counts[kind]]
    if absent:
        sys.exit(f"{path}: missing: {', '.join(absent)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: check.py FILE")
    main(sys.argv[1])
