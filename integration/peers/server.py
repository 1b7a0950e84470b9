#!/usr/bin/env python3
"""What guests fetch from and upload to: /blob (20 MiB, the same every time), /blob/N (N MiB), /upload (answers with the SHA-256 of what it
was sent), /again (the content of a file, with which a test tells a guest to stop).

usage: server.py ADDRESS PORT AGAIN_FILE"""

import hashlib
import http.server
import sys

CHUNK = b"".join(hashlib.sha256(n.to_bytes(4, "big")).digest() for n in range(32768))
BLOB = CHUNK * 20


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/blob":
            self.answer(BLOB)
        elif self.path.startswith("/blob/") and self.path[6:].isdigit():
            self.answer(CHUNK * min(int(self.path[6:]), 1024))
        elif self.path == "/again":
            with open(sys.argv[3], "rb") as file:
                self.answer(file.read())
        else:
            self.send_error(404)

    def do_POST(self):
        left = int(self.headers["Content-Length"])
        digest = hashlib.sha256()
        while left > 0:
            part = self.rfile.read(min(left, 1 << 16))
            if not part:
                return
            digest.update(part)
            left -= len(part)
        self.answer(digest.hexdigest().encode())

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            pass  # A guest that was killed.

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler)
    print(hashlib.sha256(BLOB).hexdigest(), flush=True)
    server.serve_forever()
