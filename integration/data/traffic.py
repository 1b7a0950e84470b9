"""The parts of the recorded traffic that no ordinary tool sends. Used by record.sh inside of its namespaces."""

import socket
import struct
import sys

QUESTIONS = 32


def dns_name(name):
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def dns_server(address):
    """Answers each question with one address record, as a name server would."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    sock.settimeout(30)
    print("ready", flush=True)
    for _ in range(QUESTIONS):
        query, peer = sock.recvfrom(512)
        header = query[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0)
        answer = struct.pack("!HHHIH4s", 0xC00C, 1, 1, 60, 4, bytes([10, 77, 0, 2]))
        sock.sendto(header + query[12:] + answer, peer)


def dns_client(address):
    for number in range(QUESTIONS):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(5)
            header = struct.pack("!HHHHHH", 0x4000 + number, 0x0100, 1, 0, 0, 0)
            question = dns_name(f"host{number}.example.test") + struct.pack("!HH", 1, 1)
            sock.sendto(header + question, (address, 53))
            sock.recv(512)


def raw(device):
    """Frames straight onto the wire: tagged ones, and plain ones of many sizes, padded to the minimum of 60 bytes.

    Their type is 0x88b5, one for local experiments, and they go to an address that nobody has.
    """
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((device, 0))
    source = sock.getsockname()[4]
    target = bytes.fromhex("0277000000fe")
    fill = bytes(range(256)) * 6
    for vlan in (1, 100, 4094):
        for length in (60, 64, 65, 128, 577, 1024, 1514, 1518):
            head = target + source + struct.pack("!HHH", 0x8100, (3 << 13) | vlan, 0x88B5)
            sock.send(head + fill[: length - len(head)])
    plain = target + source + struct.pack("!H", 0x88B5)
    for length in [*range(60, 132), 255, 256, 257, 511, 512, 513, 1023, 1025, 1500, 1513, 1514]:
        sock.send(plain + fill[: length - len(plain)])
    sock.send((plain + b"end of the recording").ljust(60, b"\0"))


if __name__ == "__main__":
    act, argument = sys.argv[1:3]
    {"dns-server": dns_server, "dns-client": dns_client, "raw": raw}[act](argument)
