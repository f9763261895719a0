#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The host's client against agents of before, which live on in snapshots: what they answered was
recorded (tests/fixtures/<commit>/agent.json), byte by byte.

    older.py CLIENT_CALL FIXTURES [test names...]
"""
import json
import os
import socket
import subprocess
import sys
import threading
import unittest

CLIENT = FIXTURES = None


class Recorded:
    """Gives each request the answer that was recorded for it, and notes what was asked."""

    def __init__(self, commit):
        with open(os.path.join(FIXTURES, commit, "agent.json")) as f:
            self.answers = json.load(f)
        self.asked = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                c, _ = self.listener.accept()
            except OSError:
                return
            with c:
                self.answer(c)

    def answer(self, c):
        data = b""
        while b"\r\n\r\n" not in data:
            piece = c.recv(65536)
            if not piece:
                return
            data += piece
        head, body = data.split(b"\r\n\r\n", 1)
        lines = head.decode().split("\r\n")
        length = next((int(v) for k, v in (h.split(": ", 1) for h in lines[1:]) if k.lower() == "content-length"), 0)
        while len(body) < length:
            body += c.recv(65536)
        method, path, _ = lines[0].split()
        self.asked.append((f"{method} {path.split('?')[0]}", body))
        c.sendall(self.answers[self.asked[-1][0]].encode("latin-1"))

    def call(self, what, new="-"):
        r = subprocess.run([CLIENT, self.url, "old-token", what, new], capture_output=True, text=True, timeout=60)
        return r.returncode, r.stdout


class Before(unittest.TestCase):
    """Of 24c09c7: revision 1."""

    def setUp(self):
        self.a = Recorded("24c09c7")

    def tearDown(self):
        self.a.listener.close()

    def test_what_it_is(self):
        self.assertEqual(self.a.call("version"), (0, "unknown-1\n"))

    def test_resume_thaw_and_programs(self):
        self.assertEqual(self.a.call("resume", "new"), (0, ""))
        name, body = self.a.asked[-1]
        self.assertEqual((name, json.loads(body)["accessToken"]), ("POST /init", "new"))
        self.assertTrue(json.loads(body)["resumed"])
        self.assertEqual(self.a.call("thaw"), (0, ""))
        self.assertEqual(self.a.call("run"), (0, "1: out\n2: err\nexit status 3\n"))

    def test_what_it_does_not_have(self):
        for what, path in (("replace", "/upgrade"), ("oom", "/oom")):
            self.assertEqual(self.a.call(what), (1, f"not_found: POST {path}: status 404: no such call: POST {path}\n"))
        code, text = self.a.call("freeze")
        self.assertEqual((code, text), (1, "unavailable: POST /freeze: status 503: the agent has no cgroup v2 of its "
                                           "own for the processes: they cannot be frozen\n"))


if __name__ == "__main__":
    CLIENT, FIXTURES = (os.path.abspath(p) for p in sys.argv[1:3])
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
