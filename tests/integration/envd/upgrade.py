#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The agent is replaced by another program while processes run (POST /upgrade), on this host.

    upgrade.py ENVD STASIS_INIT ENVD_OLDER ENVD_NEWER [test names...]

Needs root; skipped (77) without.
"""
import base64
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

sys.dont_write_bytecode = True
import protocol  # noqa: E402
from protocol import alive, content, wait  # noqa: E402

OLDER = NEWER = None


def version_of(program):
    """As the agent tells it: the build is that of the file."""
    notes = subprocess.run(["readelf", "-n", program], capture_output=True, text=True, check=True).stdout
    return re.search(r"Build ID: ([0-9a-f]{16})", notes).group(1)


class Agent(protocol.Agent):
    """Its log is read all the time: the pipe must not fill."""

    def __init__(self, program=None, **kw):
        protocol.ENVD = program or OLDER
        super().__init__(**kw)
        self.log = []
        self.reader = threading.Thread(target=self.read_log, daemon=True)
        self.reader.start()

    def read_log(self):
        for line in self.p.stderr:
            self.log.append(line.decode())

    def stop(self):
        self.p.terminate()
        rc = self.p.wait(20)
        self.reader.join(20)
        self.p.stderr.close()
        return rc

    def identity(self):
        """Waits, as the host does, while it is being replaced."""
        for _ in range(4000):
            try:
                status, headers, _ = self.call("GET", "/health")
            except (ConnectionError, http.client.HTTPException):
                continue
            if status == 204:
                return headers["X-Stasis-Agent"]
            assert status == 503, status
            time.sleep(0.002)
        raise AssertionError("no answer but 503")

    def upgrade(self, program, data=None, sha=None, query=""):
        data = content(program, "rb") if data is None else data
        sha = sha or hashlib.sha256(data).hexdigest()
        return self.json("POST", f"/upgrade?sha256={sha}{query}", data)

    def pids(self):
        return sorted(p["pid"] for p in self.rpc("process.Process/List", {})[1]["processes"])

    def connect(self, pid):
        s = self.stream("process.Process/Connect", {"process": {"pid": pid}})
        assert s.status == 200, s.status
        assert s.begin() == pid
        return s


class Upgrade(unittest.TestCase):
    def setUp(self):
        self.a = Agent()

    def tearDown(self):
        self.assertEqual(self.a.stop(), 0)

    def send(self, pid, data, kind="stdin"):
        return self.a.rpc("process.Process/SendInput",
                          {"process": {"pid": pid}, "input": {kind: base64.b64encode(data).decode()}})

    def replaced(self, program, was):
        # On a machine that is overloaded clients may not have had their output in time: then the
        # old one goes on, and is asked again.
        for _ in range(10):
            self.assertEqual(self.a.upgrade(program), (202, None))
            now = self.a.identity()
            if now != was:
                return now
        raise AssertionError(f"it is not replaced: {self.a.log[-3:]}")

    def test_tells_who_it_is(self):
        for program, product in ((OLDER, "0.0.9"), (NEWER, "9999.0.0")):
            a = Agent(program)
            try:
                self.assertRegex(a.identity(), rf"^{product}-\d+\+{version_of(program)} can=replace$")
                for method, path, body in (("POST", "/init", "{}"), ("POST", "/freeze", "{}"), ("POST", "/thaw", "{}")):
                    self.assertIn(product, a.call(method, path, body)[1]["X-Stasis-Agent"])
            finally:
                a.stop()

    def test_output_goes_on_without_a_gap(self):
        """A program writes numbers as fast as it can, through five replacements: what was read before
        and what is read after are all of them."""
        s = self.a.sh("trap stop=1 TERM; i=0; while [ -z $stop ]; do echo $i; i=$((i+1)); "
                      "((i % 500)) || sleep 0.01; done; exit 5")
        pid = s.begin()
        pid_of_agent = self.a.p.pid
        got = bytearray()
        was = self.a.identity()
        for program in (NEWER, OLDER, NEWER, OLDER, NEWER):
            while b"\n" not in s.out["stdout"]:
                self.assertEqual(s.take(), "data")
            reader = threading.Thread(target=s.finish)
            reader.start()
            was = self.replaced(program, was)
            reader.join(30)
            # The stream ends with a reason, not in the middle of a message.
            self.assertEqual(s.ended["error"]["code"], "unavailable")
            self.assertIsNone(s.end)
            got += s.out["stdout"]
            s = self.a.connect(pid)
        self.a.rpc("process.Process/SendSignal", {"process": {"pid": pid}, "signal": 15})
        s.finish()
        got += s.out["stdout"]
        self.assertEqual(s.end["exitCode"], 5)
        self.assertEqual(bytes(got), b"".join(b"%d\n" % i for i in range(got.count(b"\n"))))
        self.assertEqual(self.a.p.pid, pid_of_agent)

    def test_many_processes_and_their_ends(self):
        """100 programs with input: pids, tags and list stay; each hears and answers; ends are told."""
        streams = [self.a.sh(f"read x; echo $x-{i}; exit {i}", stdin=True, tag=f"t{i}") for i in range(100)]
        pids = [s.begin() for s in streams]
        before = self.a.rpc("process.Process/List", {})[1]
        readers = [threading.Thread(target=s.finish) for s in streams]
        for t in readers:
            t.start()
        self.replaced(NEWER, self.a.identity())
        for t in readers:
            t.join(30)
        self.assertEqual(self.a.rpc("process.Process/List", {})[1], before)
        self.assertEqual(self.a.pids(), sorted(pids))
        for i, pid in enumerate(pids):
            s = self.a.connect(pid)
            self.assertEqual(self.send(pid, b"hello\n"), (200, {}))
            s.finish()
            self.assertEqual((bytes(s.out["stdout"]), s.end["exitCode"]), (b"hello-%d\n" % i, i))
        self.assertEqual(self.a.pids(), [])
        wait(lambda: not any(alive(p) for p in pids), "all have ended")

    def test_terminal_is_kept(self):
        s = self.a.start("/bin/bash", "--norc", "-i", pty={"size": {"cols": 91, "rows": 17}},
                         envs={"PS1": "ready> ", "TERM": "dumb"})
        pid = s.begin()
        s.until("pty", b"ready> ")
        t = threading.Thread(target=s.finish)
        t.start()
        self.replaced(NEWER, self.a.identity())
        t.join(30)
        s = self.a.connect(pid)
        self.send(pid, b"stty size\n", "pty")
        s.until("pty", b"17 91\r\n")
        self.assertEqual(self.a.rpc("process.Process/Update",
                                    {"process": {"pid": pid}, "pty": {"size": {"cols": 120, "rows": 40}}}), (200, {}))
        self.send(pid, b"stty size; exit 7\n", "pty")
        s.until("pty", b"40 120\r\n")
        s.finish()
        self.assertEqual(s.end["exitCode"], 7)

    def test_settings_token_and_limits_are_kept(self):
        self.assertEqual(self.a.json("POST", "/init", json.dumps(
            {"accessToken": "second", "envVars": {"KEPT": "yes"}, "defaultUser": "nobody",
             "defaultWorkdir": "/tmp"}))[0], 204)
        self.a.token = "second"
        s = self.a.sh("ulimit -n")
        s.begin()
        s.finish()
        limit = bytes(s.out["stdout"])
        for program in (NEWER, OLDER):
            self.replaced(program, self.a.identity())
        s = self.a.sh("echo $KEPT $(id -un) $PWD; ulimit -n")
        s.begin()
        s.finish()
        self.assertEqual(bytes(s.out["stdout"]), b"yes nobody /tmp\n" + limit)
        self.a.token = "by-hand"
        self.assertEqual(self.a.json("GET", "/envs")[0], 401)
        self.a.token = "second"

    def test_time_out_signal_and_late_end(self):
        deadline = self.a.sh("sleep 1000", timeout_ms=4000)
        killed = self.a.sh("sleep 1000")
        ended = self.a.sh("exit 9")
        pids = [s.begin() for s in (deadline, killed, ended)]
        ended.finish()
        readers = [threading.Thread(target=s.finish) for s in (deadline, killed)]
        for t in readers:
            t.start()
        self.replaced(NEWER, self.a.identity())
        for t in readers:
            t.join(30)
        # Who comes late still learns how it ended.
        s = self.a.connect(pids[2])
        s.finish()
        self.assertEqual(s.end["exitCode"], 9)
        s = self.a.connect(pids[1])
        self.assertEqual(self.a.rpc("process.Process/SendSignal", {"process": {"pid": pids[1]}, "signal": 9})[0], 200)
        s.finish()
        self.assertEqual(s.end["status"], "signal: killed")
        s = self.a.connect(pids[0])
        s.finish()
        self.assertEqual(s.end["status"], "signal: killed")

    def test_without_a_client_it_goes_on(self):
        """A program that nobody reads is not kept waiting for ever."""
        s = self.a.sh("dd if=/dev/zero bs=64k count=64 2>/dev/null; exec sleep 1000")
        pid = s.begin()
        s.close()
        self.replaced(NEWER, self.a.identity())
        wait(lambda: content(f"/proc/{pid}/cmdline", "rb").startswith(b"sleep"), "it has written all", 30)
        self.a.rpc("process.Process/SendSignal", {"process": {"pid": pid}, "signal": 9})

    def test_what_is_no_agent_is_refused(self):
        """Damaged, cut, foreign, or a program that does not understand: the old one goes on, and so
        does what runs."""
        s = self.a.sh("read x; echo $x", stdin=True)
        pid = s.begin()
        whole = content(NEWER, "rb")
        was = self.a.identity()
        good = hashlib.sha256(whole).hexdigest()
        arm = bytearray(whole)
        arm[18:20] = b"\xb7\x00"  # e_machine
        for what, data, sha, status in (
                ("another byte", whole[:-1] + bytes([whole[-1] ^ 1]), good, 400), ("cut", whole[:-1], good, 400),
                ("empty", b"", good, 400), ("no sum", whole, "0", 400), ("upper case", whole, good.upper(), 400),
                ("other machine", bytes(arm), None, 400), ("script", b"#!/bin/sh\nexit 0\n", None, 400),
                ("half a program", whole[:len(whole) // 2], None, 409), ("another program", content("/bin/false", "rb"),
                                                                        None, 409)):
            got, answer = self.a.upgrade(NEWER, data, sha)
            self.assertIn(got, (status, 400, 409), what)
            self.assertIn("message", answer, what)
            self.assertEqual(self.a.identity(), was, what)
        for query in ("/upgrade", "/upgrade?sha256="):
            self.assertEqual(self.a.json("POST", query, whole)[0], 400)
        self.a.token = "wrong"
        self.assertEqual(self.a.upgrade(NEWER)[0], 401)
        self.a.token = "by-hand"
        self.assertEqual(self.a.upgrade(NEWER, bytes(17 << 20))[0], 413)
        self.send(pid, b"still here\n")
        s.finish()  # the same stream as before
        self.assertEqual((bytes(s.out["stdout"]), s.end["exitCode"]), (b"still here\n", 0))

    def test_signal_of_anybody_does_nothing(self):
        was = self.a.identity()
        for _ in range(5):
            os.kill(self.a.p.pid, signal.SIGUSR1)
        self.assertEqual(self.a.identity(), was)

    def test_failure_before_the_exec(self):
        """All was stopped already: it goes on with the same processes."""
        a = Agent(env={**os.environ, "STASIS_FAULT": "agent.before_exec:fail@1"})
        try:
            s = a.sh("read x; echo $x; read y; echo $y", stdin=True)
            pid = s.begin()
            t = threading.Thread(target=s.finish)
            t.start()
            was = a.identity()
            self.assertEqual(a.upgrade(NEWER), (202, None))
            self.assertEqual(a.identity(), was)
            t.join(30)
            s = a.connect(pid)
            a.rpc("process.Process/SendInput", {"process": {"pid": pid},
                                                "input": {"stdin": base64.b64encode(b"one\n").decode()}})
            s.until("stdout", b"one\n")
            t = threading.Thread(target=s.finish)
            t.start()
            self.assertEqual(a.upgrade(NEWER), (202, None))  # and the next time it works
            self.assertNotEqual(a.identity(), was)
            t.join(30)
            s = a.connect(pid)
            a.rpc("process.Process/SendInput", {"process": {"pid": pid},
                                                "input": {"stdin": base64.b64encode(b"two\n").decode()}})
            s.finish()
            self.assertEqual(bytes(s.out["stdout"]), b"two\n")
        finally:
            a.stop()

    def test_blocked_input_and_slow_reader(self):
        """Input that nobody takes, and a client that does not read, do not hold it up."""
        s = self.a.sh("echo up; sleep 1000", stdin=True)
        pid = s.begin()
        s.until("stdout", b"up\n")
        answers = []
        t = threading.Thread(target=lambda: answers.append(self.send(pid, bytes(1 << 20))))
        t.start()
        wait(lambda: self.a.threads() > 3, "it is being written")
        reader = threading.Thread(target=s.finish)
        reader.start()
        self.replaced(NEWER, self.a.identity())
        t.join(30)
        reader.join(30)
        self.assertEqual(answers[0][1]["code"], "unavailable")
        # One that does not read at all is in the way of what it was sent: the agent stays as it is.
        slow = socket.create_connection(("127.0.0.1", self.a.port))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        message = json.dumps({"process": {"cmd": "cat", "args": ["/dev/zero"]}}).encode()
        body = b"\0" + len(message).to_bytes(4, "big") + message
        slow.sendall(b"POST /process.Process/Start HTTP/1.1\r\nHost: x\r\nX-Access-Token: by-hand\r\n"
                     b"Content-Type: application/connect+json\r\nConnect-Protocol-Version: 1\r\n"
                     b"Content-Length: %d\r\n\r\n" % len(body) + body)
        wait(lambda: len(self.a.pids()) == 2, "it runs")
        was = self.a.identity()
        self.assertEqual(self.a.upgrade(OLDER), (202, None))
        self.assertEqual(self.a.identity(), was)
        slow.close()
        self.replaced(OLDER, was)
        for p in self.a.pids():
            self.a.rpc("process.Process/SendSignal", {"process": {"pid": p}, "signal": 9})

    def test_descriptors_do_not_grow(self):
        was = self.a.identity()
        self.replaced(NEWER, was)
        s = self.a.sh("sleep 1000", tag="x")
        pid = s.begin()
        s.close()
        counts = []
        for program in (OLDER, NEWER) * 4:
            was = self.replaced(program, self.a.identity())
            counts.append(self.a.descriptors())
        self.assertLessEqual(max(counts) - min(counts), 3, counts)
        self.a.rpc("process.Process/SendSignal", {"process": {"pid": pid}, "signal": 9})


if __name__ == "__main__":
    protocol.ENVD, protocol.INIT, OLDER, NEWER = (os.path.abspath(p) for p in sys.argv[1:5])
    if os.geteuid() != 0:
        print("needs root")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *sys.argv[5:]], verbosity=2)
