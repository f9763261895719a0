#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The real agent among many connections: programs of the guest come from 127.0.0.1, the owner and the
host from 127.0.0.2.

    crowd.py ENVD STASIS_INIT [test names...]

Needs root; skipped (77) without.
"""
import http.client
import os
import resource
import socket
import sys
import time
import unittest

import protocol

OWNER, GUEST = "127.0.0.2", "127.0.0.1"
MIB = 1 << 20


class Agent(protocol.Agent):
    """Takes the host's calls from the owner's address alone."""

    def __init__(self):
        super().__init__("--only-from", OWNER + "%lo", token=None)
        assert self.call("POST", "/init", '{"accessToken": "secret"}')[0] == 204
        self.token = "secret"

    def call(self, method, path, body=None, headers=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60, source_address=(OWNER, 0))
        try:
            c.request(method, path, body, self.headers(headers))
            r = c.getresponse()
            return r.status, r.headers, r.read()
        finally:
            c.close()

    def dial(self, source, data=b""):
        """Data is sent as far as it is taken."""
        s = socket.create_connection(("127.0.0.1", self.port), timeout=60, source_address=(source, 0))
        try:
            s.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass
        return s


def status(s):
    """Of an answer that is there or comes; None where the connection ends without one."""
    try:
        head = s.recv(4096)
        return int(head.split(b" ")[1]) if head else None
    except ConnectionResetError:
        return None


class Crowd(unittest.TestCase):
    def setUp(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
        self.a = Agent()
        self.held = []
        self.addCleanup(lambda: self.assertEqual(self.a.stop(), 0))
        self.addCleanup(lambda: [s.close() for s in self.held])

    def works(self):
        """The owner's calls and the host's."""
        self.assertEqual(self.a.call("GET", "/envs")[0], 200)
        self.host_works()

    def host_works(self):
        # It has no cgroup to freeze, and says so.
        freeze = self.a.call("POST", "/freeze", "{}")
        self.assertEqual(freeze[0], 503, freeze)
        self.assertIn(b"cgroup", freeze[2])
        self.assertEqual(self.a.call("POST", "/oom", "{}")[0], 200)
        self.assertEqual(self.a.call("GET", "/health")[0], 204)

    def small(self, mib):
        self.assertLess(self.a.status("VmRSS") // 1024, mib)

    def test_silent_programs_of_the_guest(self):
        begun = (b"", b"GET /health HTT", b"POST /init HTTP/1.1\r\nHost: x\r\n", b"\r\n", b"X" * 3000)
        for i in range(1200):
            self.held.append(self.a.dial(GUEST, begun[i % len(begun)]))
        self.works()
        self.small(40)
        self.assertLess(self.a.threads(), 100)
        for s in self.held:
            s.close()
        end = time.monotonic() + 60
        got = None
        while got != 204:
            self.assertLess(time.monotonic(), end, "the guest's own places come back")
            with self.a.dial(GUEST, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as s:
                got = status(s)

    def test_bodies_without_the_token(self):
        """Refused before they are read, whatever is asked for, and the connection ends."""
        for path in ("/nothing", "/files?path=/tmp/x", "/process.Process/Start", "/filesystem.Filesystem/Stat",
                     "/files/tar?path=/tmp"):
            for source in (OWNER, GUEST):
                head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {MIB}\r\n\r\n".encode()
                some = [self.a.dial(source, head + b"x" * (MIB - 1)) for _ in range(60)]
                # Beyond the guest's places there is no answer, nor for who sends on for long.
                got = {status(s) for s in some}
                self.assertIn(401, got)
                self.assertTrue(got <= {401, None}, got)
                self.small(40)
                for s in some:
                    s.close()
        self.works()

    def test_bodies_of_the_hosts_calls_from_the_guest(self):
        for path in ("/init", "/freeze", "/upgrade?sha256=0", "/oom"):
            s = self.a.dial(GUEST, f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 60000\r\n\r\nx".encode())
            self.held.append(s)
            self.assertEqual(status(s), 403)

    def test_bodies_of_the_owner_have_a_bound(self):
        head = (f"POST /process.Process/Start HTTP/1.1\r\nHost: x\r\nX-Access-Token: secret\r\n"
                f"Content-Length: {9 * MIB}\r\n\r\n").encode()
        for _ in range(40):
            self.held.append(self.a.dial(OWNER, head + b"x" * (9 * MIB - 1)))
            self.held[-1].settimeout(0.05)
        self.works()
        self.small(64 * 2 + 40)  # a buffer that grows is twice as large for a moment
        refused = 0
        for s in self.held:
            try:
                refused += status(s) == 429
            except TimeoutError:
                pass
        self.assertGreaterEqual(refused, 30)

    def test_the_host_has_places_of_its_own(self):
        """Uploads may be as slow as what they are made of: they take what there is, but not the last."""
        head = (b"POST /files?path=/tmp/crowd.test HTTP/1.1\r\nHost: x\r\nX-Access-Token: secret\r\n"
                b"Content-Type: application/octet-stream\r\nContent-Length: 10\r\n\r\nx")
        self.addCleanup(lambda: os.path.exists("/tmp/crowd.test") and os.unlink("/tmp/crowd.test"))
        refused = 0
        for _ in range(380):
            s = self.a.dial(OWNER, head)
            self.held.append(s)
        end = time.monotonic() + 60
        # Some are refused, and none of them waits.
        while not refused and time.monotonic() < end:
            for s in self.held[-20:]:
                s.settimeout(0.05)
                try:
                    refused += status(s) == 429
                except TimeoutError:
                    pass
        self.assertTrue(refused)
        self.host_works()
        self.small(60)


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("skipped: needs root")
        sys.exit(77)
    protocol.ENVD, protocol.INIT = sys.argv[1:3]
    unittest.main(argv=[sys.argv[0], "-v", *sys.argv[3:]])
