#!/usr/bin/env python3
"""Seed corpora as text, one input a line, in hexadecimal: small in the tree, and a difference can be read.

usage: corpus.py unpack FILE.hex DIR
       corpus.py pack DIR FILE.hex
"""

import hashlib
import pathlib
import sys


def unpack(text, directory):
    directory.mkdir(parents=True, exist_ok=True)
    for line in text.read_text().split():
        data = bytes.fromhex(line)
        (directory / hashlib.sha1(data).hexdigest()).write_bytes(data)


def pack(directory, text):
    inputs = {path.read_bytes() for path in directory.iterdir() if path.is_file()}
    ordered = sorted(filter(None, inputs), key=lambda data: (len(data), data))
    text.write_text("".join(f"{data.hex()}\n" for data in ordered))


if __name__ == "__main__":
    how, first, second = sys.argv[1], *map(pathlib.Path, sys.argv[2:4])
    {"unpack": unpack, "pack": pack}[how](first, second)
