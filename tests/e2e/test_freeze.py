# SPDX-License-Identifier: Apache-2.0
"""The guest's side of the clone contract, in a real guest: freeze, thaw and resume of its agent. The
edge does not let these calls through: they are made as the host makes them, to the slot's address."""
import datetime
import http.client
import ipaddress
import json
import os
import socket
import subprocess
import unittest

import lib

# Notes again and again what it sees of the world.
WATCH = r"""
import os, time
f = open("/tmp/w/log", "ab", buffering=0)
while True:
    f.write(b"%.6f %s %s\n" % (time.time(), os.uname().nodename.encode(), os.getrandom(16).hex().encode()))
    time.sleep(0.01)
"""

# What adjtimex says: tick and frequency.
RATE = r"""
import ctypes, struct
t = ctypes.create_string_buffer(208)
ctypes.CDLL(None).adjtimex(t)
print(struct.unpack_from("q", t, 88)[0], struct.unpack_from("q", t, 16)[0])
"""

# Sends one byte and then waits for more of its client; notes how that ended.
SERVE = r"""
import socket
s = socket.create_server(("0.0.0.0", 8093))
local = socket.create_server(("127.0.0.1", 8094))
a = socket.create_connection(("127.0.0.1", 8094))
b, _ = local.accept()
open("/tmp/w/listening", "w").close()
c, _ = s.accept()
c.recv(4096)
c.sendall(b"x")
try:
    end = repr(c.recv(4096))
except OSError as e:
    end = type(e).__name__
a.sendall(b"loopback")
end += " " + b.recv(100).decode()
with open("/tmp/w/tmp", "w") as f:
    f.write(end)
__import__("os").rename("/tmp/w/tmp", "/tmp/w/ended")
"""


class Freeze(unittest.TestCase):
    def setUp(self):
        self.s = lib.world().create(metadata={"name": "freeze"})
        self.addCleanup(self.s.delete)
        self.s.sh("mkdir /tmp/w; chmod 777 /tmp/w", user="root")
        self.address = self.find()
        for name, text in (("watch", WATCH), ("serve", SERVE)):
            self.put(f"/tmp/{name}.py", text)

    def call(self, method, path, body=None, address=None, limit=60):
        c = http.client.HTTPConnection(address or self.address, 49983, timeout=limit)
        try:
            c.request(method, path, body, {"X-Access-Token": self.s.token, "Content-Type": "application/json"})
            return lib.Answer(c.getresponse())
        finally:
            c.close()

    def find(self):
        """The slot's address: where the sandbox's token is accepted."""
        slots = ipaddress.ip_network(self.s.world.slots)
        out = subprocess.run(["ip", "-j", "-4", "addr"], check=True, capture_output=True).stdout
        for link in json.loads(out):
            for i in link["addr_info"]:
                address = ipaddress.ip_address(i["local"])
                try:
                    if address in slots and self.call("GET", "/envs", address=str(address + 1),
                                                      limit=3).status == 200:
                        return str(address + 1)
                except OSError:
                    pass  # a warm slot, without a guest
        raise AssertionError("no slot has the sandbox")

    def put(self, path, text):
        self.s.sh(f"cat >{path} <<'END'\n{text}END", user="root")

    def file(self, path):
        """Read by the agent itself, which is never frozen; None: absent."""
        a = self.call("GET", f"/files?path={path}&username=root")
        return a.body.decode() if a.status == 200 else None

    def post(self, path, body=None):
        a = self.call("POST", path, json.dumps(body or {}))
        if a.status != 204:
            raise AssertionError(f"{path}: {a.status} {a.body[:300]!r}")

    def resume(self, **more):
        self.post("/init", {
            "resumed": True, "accessToken": self.s.token, "clockPpm": 0,
            "timestamp": datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z"),
            "entropy": lib.b64(os.urandom(64)), **more})

    def background(self, name):
        self.s.sh(f"setsid python3 /tmp/{name}.py </dev/null >/tmp/{name}.log 2>&1 &", user="root")

    def test_the_edge_lets_none_of_it_through(self):
        for path in ("/freeze", "/thaw", "/init"):
            self.assertEqual(self.s.edge("POST", path, body="{}").status, 404)

    def watch(self):
        self.background("watch")
        lib.wait_until("it runs", self.lines)

    def lines(self):
        return (self.file("/tmp/w/log") or "").splitlines()

    def test_stands_still_until_the_thaw(self):
        self.watch()
        self.post("/freeze")
        seen = self.lines()
        self.post("/freeze")
        self.assertEqual(self.call("GET", "/health").status, 204)
        self.assertEqual(self.lines(), seen)
        self.post("/thaw")
        lib.wait_until("it goes on", lambda: len(self.lines()) > len(seen))
        self.s.alive()

    def test_resumed_with_time_randomness_and_name_of_its_own(self):
        self.watch()
        self.s.sh("mkdir -p /etc/stasis/resume.d", user="root")
        self.put("/etc/stasis/resume.d/10-note", "#!/bin/sh\n{ hostname; cat /proc/self/cgroup /sys/fs/cgroup/user/"
                 "cgroup.events; } >/tmp/hook\n")
        self.put("/etc/stasis/resume.d/20-bad", "#!/bin/sh\nexit 3\n")
        self.s.sh("chmod +x /etc/stasis/resume.d/*", user="root")
        self.post("/freeze")
        before = self.lines()
        start = datetime.datetime(2031, 5, 6, 7, 8, 9, 500000, datetime.timezone.utc)
        self.resume(hostname="copy-1", timestamp="2031-05-06T07:08:09.5Z")
        lib.wait_until("it goes on", lambda: len(self.lines()) > len(before) + 3)
        # What it saw from then on was the new time and the new name. One look may have been under way.
        for line in self.lines()[len(before) + 1:]:
            wall, name, _ = line.split()
            late = float(wall) - start.timestamp()
            self.assertTrue(0 <= late < 60, line)
            self.assertEqual(name, "copy-1")
        self.assertNotIn("copy-1", "".join(before))
        hook = self.file("/tmp/hook").splitlines()
        self.assertEqual(hook[0], "copy-1")
        self.assertIn("0::/stasis-hooks", hook)
        self.assertIn("frozen 1", hook)  # users' processes, while it ran
        self.s.alive()

    def test_the_clocks_rate_follows_the_host(self):
        self.put("/tmp/rate.py", RATE)
        for ppm, want in ((10000, "9901 -64887"), (-50000, "10526 2069557"), (0, "10000 0")):
            self.resume(clockPpm=ppm)
            self.assertEqual(self.s.sh("python3 /tmp/rate.py").strip(), want)
        a = self.call("POST", "/init", json.dumps({"clockPpm": -100000}))
        self.assertEqual(a.status, 400, a.body)
        self.assertEqual(self.s.sh("python3 /tmp/rate.py").strip(), "10000 0")

    def test_connections_of_before_are_ended(self):
        self.background("serve")
        lib.wait_until("it listens", lambda: self.file("/tmp/w/listening") is not None, lib.BOOT_LIMIT)
        c = socket.create_connection((self.address, 8093), timeout=60)
        self.addCleanup(c.close)
        c.sendall(b"hello")
        self.assertEqual(c.recv(1), b"x")
        self.post("/freeze")
        self.resume()
        # Both sides know; a connection inside the guest is unharmed.
        ended = lib.wait_until("the server has noticed", lambda: self.file("/tmp/w/ended"))
        self.assertEqual(ended, "ConnectionAbortedError loopback")
        self.assertRaises(ConnectionResetError, c.recv, 1)
        self.s.alive()
