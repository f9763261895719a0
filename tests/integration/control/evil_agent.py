#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""evil_agent.py MODEL_SERVER: a played agent of one sandbox lies, is slow and talks without end.

The server lives, its threads and memory return to base, and commands in another sandbox go on. All
sandboxes of the model are at one address: the played agent knows the good one by its token.
"""
import http.client
import json
import os
import shutil
import socket
import struct
import sys
import threading
import time

import edge as edges

AGENT = 49983
TRAP = None


def envelope(message, flags=0):
    data = message if isinstance(message, bytes) else json.dumps(message).encode()
    return struct.pack(">BI", flags, len(data)) + data


START = envelope({"event": {"start": {"pid": 1}}})
END = envelope({"event": {"end": {"exitCode": 0, "exited": True, "status": "exit status 0"}}}) + envelope(b"{}", 2)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/connect+json\r\n"
OPEN = HEAD + b"Connection: close\r\n\r\n"


def chunk(data):
    return b"%x\r\n" % len(data) + data + b"\r\n"


def for_ever(first, piece, pause=0.0):
    """As long as somebody listens."""
    def play(conn):
        conn.sendall(first)
        while True:
            conn.sendall(piece)
            time.sleep(pause)
    return play


def once(data):
    return lambda conn: conn.sendall(data)


def hold(data):
    def play(conn):
        conn.sendall(data)
        conn.settimeout(60)
        while conn.recv(65536):
            pass
    return play


DEEP = b"[" * 200000
LISTS = b"[" + b"[]," * 5000000 + b"[]]"
EVIL = {
    "silence": hold(b""),
    "an end at once": once(b""),
    "garbage": once(os.urandom(5000)),
    "garbage without end": for_ever(b"", b"\xff\x00garbage\r\n" * 1000),
    "headers without end": for_ever(HEAD, b"X-More: " + b"x" * 1000 + b"\r\n"),
    "one header without end": for_ever(HEAD + b"X-More: ", b"x" * 65536),
    "slow headers": for_ever(HEAD, b"X-Slow: 1\r\n", 0.05),
    "answers of 100 without end": for_ever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "a redirect": lambda conn: conn.sendall(b"HTTP/1.1 302 Found\r\nLocation: http://%s/x\r\nContent-Length: 0\r\n\r\n" % TRAP),
    "a redirect with the same method": lambda conn: conn.sendall(
        b"HTTP/1.1 307 Moved\r\nLocation: http://%s/x\r\nContent-Length: 0\r\n\r\n" % TRAP),
    "less than announced": once(HEAD + b"Content-Length: 100000\r\n\r\n" + START),
    "more than announced": once(HEAD + b"Content-Length: 10\r\n\r\n" + START + END + b"x" * 100000),
    "a length of 2^63": hold(HEAD + b"Content-Length: 9223372036854775807\r\n\r\n" + START),
    "a length that is none": once(HEAD + b"Content-Length: -5\r\n\r\n" + START),
    "chunks that are none": once(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "a chunk of 2^60": hold(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1000000000000000\r\n" + START),
    "trailers without end": for_ever(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(START) + b"0\r\n",
                                     b"X-T: " + b"t" * 1000 + b"\r\n"),
    "a message of 4 GiB": for_ever(OPEN + START + struct.pack(">BI", 0, 2 ** 32 - 1), b"z" * 65536),
    "a message of 16 MiB": for_ever(OPEN + START + struct.pack(">BI", 0, 16 << 20), b"z" * 65536),
    "empty messages without end": for_ever(OPEN + START, envelope({"event": {"keepalive": {}}}) * 100),
    "a slow body": for_ever(OPEN + START, b"\0", 0.05),
    "output without end": for_ever(OPEN + START, envelope({"event": {"data": {"stdout": "eHh4" * 8000}}}) * 4),
    "deep JSON": once(OPEN + START + envelope(DEEP) + END),
    "deep JSON of objects": once(OPEN + START + envelope(b'{"event":' * 2000 + b"1" + b"}" * 2000) + END),
    "deep JSON just allowed by the parser": once(OPEN + START + envelope(b"[" * 2040 + b"]" * 2040) + END),
    "a deep refusal": once(b"HTTP/1.1 400 Bad\r\nContent-Length: 4000\r\n\r\n" + b"[" * 2000 + b"]" * 2000),
    "15 MiB of lists": once(OPEN + START + envelope(LISTS) + END),
    "a refusal of 15 MiB of lists": once(b"HTTP/1.1 500 Bad\r\nContent-Length: %d\r\n\r\n" % len(LISTS) + LISTS),
    "a refusal without end": for_ever(b"HTTP/1.1 500 Bad\r\n\r\n", b"[" * 65536),
    "other types": once(OPEN + envelope({"event": {"start": {"pid": "1"}}}) + envelope({"event": {"data": {"stdout": 5}}}) +
                        envelope({"event": {"end": []}}) + envelope({"event": 7}) + envelope(b"[]") + END),
    "no end": once(OPEN + START),
    "two answers": once((HEAD + b"Content-Length: %d\r\n\r\n" % len(START + END) + START + END) * 2),
    "HTTP/2": once(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100)),
}


class Played(threading.Thread):
    """The agents of all sandboxes, at the guests' one address."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server((edges.GUEST, AGENT), backlog=1000)
        self.good = None
        self.start()

    def run(self):
        while True:
            conn, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        with conn:
            try:
                f = conn.makefile("rb")
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = f.readline()
                    if not line:
                        return
                    head += line
                body = b""
                for line in head.lower().split(b"\r\n"):
                    if line.startswith(b"content-length:"):
                        body = f.read(int(line.split(b":")[1]))
                if self.good.encode() in head:
                    conn.sendall(OPEN + START + END)
                    return
                # Which part it plays is the command; it kills nothing.
                play = [p for name, p in EVIL.items() if f'"{name}"'.encode() in body]
                if play:
                    play[0](conn)
            except OSError:
                pass


def run(edge, box, cmd, seconds):
    c = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=60)
    c.request("POST", f"/v1/sandboxes/{box['id']}/exec", json.dumps({"cmd": cmd, "timeout_sec": seconds}),
              {"X-API-Key": edge.key})
    r = c.getresponse()
    body = r.read()
    c.close()
    return r.status, body


def status_of(pid, field):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) for line in f if line.startswith(field + ":"))


def evil_calls(edge, bad, names):
    """Three commands of each part, at once: {name: [(status, body)]} when they have ended."""
    answers = {name: [] for name in names}

    def ask(name):
        answers[name].append(run(edge, bad, name, 1))
    pool = [threading.Thread(target=ask, args=(name,)) for name in names for _ in range(3)]
    for t in pool:
        t.start()
    return pool, answers


def main():
    global TRAP
    if not (shutil.which("nginx") or os.access("/usr/sbin/nginx", os.X_OK)):
        print("skipped: nginx is not installed")
        return 77
    trap = socket.create_server((edges.GUEST, 0))
    TRAP = "{}:{}".format(*trap.getsockname()).encode()
    trap.setblocking(False)
    played = Played()
    edge = edges.Edge(sys.argv[1])
    try:
        bad, good = (edge.api("POST", "/v1/sandboxes", {}, 201) for _ in range(2))
        played.good = good["envd_token"]
        pid = edge.server.pid

        def goes_on():
            status, body = run(edge, good, "true", 60)
            assert status == 200 and json.loads(body)["exit_code"] == 0, (status, body)
        for _ in range(20):
            goes_on()
        threads, memory = status_of(pid, "Threads"), status_of(pid, "VmRSS")
        pool, answers = evil_calls(edge, bad, sys.argv[2:] or EVIL)
        n = 0
        while any(t.is_alive() for t in pool):
            goes_on()
            n += 1
        print(f"{n} commands in the other sandbox meanwhile, peak {status_of(pid, 'VmHWM') >> 10} MiB of "
              f"{memory >> 10}", flush=True)
        for name, got in answers.items():
            assert len(got) == 3, name
            for status, body in got:
                # Some are no lies, or lies that do not matter.
                assert status in (200, 400, 413, 500, 502, 504), (name, status, body[:300])
                assert len(body) < 40 << 20 and json.loads(body), name
        assert edge.server.poll() is None
        edges.wait_until("threads return to base", lambda: status_of(pid, "Threads") <= threads + 8, 60)
        edges.wait_until("memory returns to base", lambda: status_of(pid, "VmRSS") < memory + (64 << 10), 60)
        # Never much: the most is what commands wrote, of which 8 MiB are kept.
        assert status_of(pid, "VmHWM") < memory + (320 << 10), status_of(pid, "VmHWM")
        try:
            trap.accept()
            raise AssertionError("a redirect was followed")
        except BlockingIOError:
            pass
        edge.stop()
    finally:
        if edge.server:
            edge.server.kill()
            edge.server.wait()
        shutil.rmtree(edge.dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
