#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The guest's side of the clone contract, with the real agent on this host: a cgroup v2 of its own,
and for what concerns the whole machine namespaces of its own.

    freeze.py ENVD STASIS_INIT [test names...]

Needs root and cgroup v2; skipped (77) without.
"""
import base64
import datetime
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.dont_write_bytecode = True
import protocol  # noqa: E402
from protocol import alive, content, save, wait  # noqa: E402

TOKEN = "old-token"


def cgroup2():
    """Where the unified hierarchy is mounted here; None: nowhere."""
    for line in open("/proc/self/mountinfo"):
        before, after = line.split(" - ")
        if after.split()[0] == "cgroup2" and os.access(before.split()[4], os.W_OK):
            return before.split()[4]
    return None


class Agent(protocol.Agent):
    """Listens in the network namespace of the tests, if they are in one."""

    def __init__(self, cgroup, *args, **popen):
        self.cgroup = cgroup
        super().__init__("--cgroup", cgroup, *args, **popen)

    def stop(self):
        rc = super().stop()
        save(self.cgroup + "/cgroup.kill", "1")  # daemons that left the agent's sight
        wait(lambda: "populated 0" in content(self.cgroup + "/cgroup.events"), "the cgroup is empty")
        for top, dirs, _ in os.walk(self.cgroup, topdown=False):
            for d in dirs:
                os.rmdir(os.path.join(top, d))
        os.rmdir(self.cgroup)
        return rc

    def idle(self):
        wait(lambda: self.threads() == 2, "no request is left")

    def frozen(self):
        return "frozen 1\n" in content(self.cgroup + "/cgroup.events")

    def freeze(self):
        return self.json("POST", "/freeze", "{}")

    def thaw(self):
        return self.json("POST", "/thaw")

    def init(self, **message):
        return self.json("POST", "/init", json.dumps(message))

    def resume(self, token=TOKEN, at=None, **more):
        at = at or datetime.datetime.now(datetime.timezone.utc)
        message = {"resumed": True, "timestamp": at.isoformat().replace("+00:00", "Z"), "accessToken": token,
                   "entropy": base64.b64encode(os.urandom(64)).decode(), "clockPpm": 0}
        message.update(more)
        return self.init(**{k: v for k, v in message.items() if v is not None})


class Case(unittest.TestCase):
    args = ()

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="envd-freeze-")
        os.chmod(self.dir, 0o777)
        self.addCleanup(shutil.rmtree, self.dir)
        self.a = Agent(os.path.join(cgroup2(), os.path.basename(self.dir)), *self.args)
        self.addCleanup(self.stop)

    def stop(self):
        assert self.a.stop() == 0

    def path(self, name):
        return os.path.join(self.dir, name)

    def counter(self, name="count", **kw):
        """A process that counts in a file as fast as it can; returns its stream."""
        save(self.path(name), b"\0" * 8)
        s = self.a.start(sys.executable, "-c", COUNT, self.path(name), user="root", **kw)
        s.begin()
        wait(lambda: self.count(name) > 0, "it counts")
        return s

    def count(self, name="count"):
        return int.from_bytes(content(self.path(name), "rb"), "little")

    def goes_on(self, name="count"):
        now = self.count(name)
        wait(lambda: self.count(name) > now, "it counts on")

    def stands(self, name="count"):
        """By scheduling: its CPU time does not grow while another process of equal rank works."""
        now = self.count(name)
        subprocess.run([sys.executable, "-c", "for i in range(3000000): pass"], check=True)
        return self.count(name) == now


# Its memory is the file, so that each step is seen without a system call.
COUNT = """
import mmap, sys
f = open(sys.argv[1], "r+b")
m = memoryview(mmap.mmap(f.fileno(), 8)).cast("Q")
while True:
    m[0] += 1
"""


class Freeze(Case):
    def test_stands_still_and_goes_on(self):
        self.counter()
        self.assertEqual(self.a.freeze(), (204, None))
        self.assertTrue(self.a.frozen())
        self.assertTrue(self.stands())
        self.assertEqual(self.a.freeze(), (204, None))
        self.assertTrue(self.stands())
        self.assertEqual(self.a.thaw(), (204, None))
        self.goes_on()
        self.assertEqual(self.a.thaw(), (204, None))
        self.goes_on()

    def test_nothing_to_freeze(self):
        self.assertEqual(self.a.freeze()[0], 204)
        self.assertTrue(self.a.frozen())
        self.assertEqual(self.a.thaw()[0], 204)
        self.assertFalse(self.a.frozen())

    def test_needs_the_token(self):
        self.assertEqual(self.a.init(accessToken=TOKEN)[0], 204)
        self.assertEqual(self.a.freeze()[0], 401)
        self.assertFalse(self.a.frozen())
        self.a.token = TOKEN
        self.assertEqual(self.a.freeze()[0], 204)
        self.a.token = None
        self.assertEqual(self.a.thaw()[0], 401)
        self.assertTrue(self.a.frozen())
        self.assertEqual(self.a.resume("new")[0], 401)
        self.assertTrue(self.a.frozen())
        self.a.token = TOKEN
        self.assertEqual(self.a.thaw()[0], 204)

    def test_daemons_and_cgroups_of_users_too(self):
        sub = os.path.join(self.a.cgroup, "mine")
        s = self.a.sh(f"mkdir {sub}; echo $$ >{sub}/cgroup.procs; "
                      f"setsid {sys.executable} -c '{COUNT}' {self.path('count')} </dev/null >/dev/null 2>&1 &",
                      user="root")
        save(self.path("count"), b"\0" * 8)
        s.begin()
        s.finish()
        self.goes_on()
        self.assertEqual(self.a.freeze()[0], 204)
        self.assertTrue(self.stands())
        self.assertEqual(self.a.thaw()[0], 204)
        self.goes_on()

    def test_kill_reaches_the_frozen(self):
        s = self.counter()
        pid = self.a.rpc("process.Process/List", {})[1]["processes"][0]["pid"]
        self.assertEqual(self.a.freeze()[0], 204)
        self.assertEqual(self.a.rpc("process.Process/SendSignal",
                                    {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"}), (200, {}))
        s.finish()
        self.assertEqual(s.end["status"], "signal: killed")
        self.assertTrue(self.a.frozen())
        self.assertEqual(self.a.thaw()[0], 204)

    def test_start_waits_for_the_thaw(self):
        self.assertEqual(self.a.freeze()[0], 204)
        done = self.path("done")
        result = []

        def start():
            s = self.a.sh(f"echo x >{done}", user="root")
            s.begin()
            s.finish()
            result.append(s.end)
        self.a.idle()
        t = threading.Thread(target=start)
        t.start()
        wait(lambda: self.a.threads() > 2, "the request is there")
        # A second freeze finds it waiting and is not held up by it; nor is anything else.
        self.assertEqual(self.a.freeze()[0], 204)
        self.assertEqual(self.a.rpc("process.Process/List", {}), (200, {"processes": []}))
        self.assertFalse(os.path.exists(done))
        self.assertEqual(self.a.thaw()[0], 204)
        t.join()
        self.assertEqual(result[0]["exitCode"], 0)
        self.assertTrue(os.path.exists(done))

    def test_start_whose_client_left_at_the_gate_starts_nothing(self):
        self.assertEqual(self.a.freeze()[0], 204)
        self.a.idle()
        done = self.path("done")
        body = json.dumps({"process": {"cmd": "/bin/sh", "args": ["-c", f"echo x >{done}"]}}).encode()
        c = socket.create_connection(("127.0.0.1", self.a.port))
        c.sendall(b"POST /process.Process/Start HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+json\r\n"
                  b"Authorization: Basic cm9vdDo=\r\nContent-Length: %d\r\n\r\n" % (len(body) + 5) +
                  b"\0" + len(body).to_bytes(4, "big") + body)
        wait(lambda: self.a.threads() > 2, "the request is there")
        # As a resume ends it: with a reset.
        c.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        c.close()
        self.assertEqual(self.a.thaw()[0], 204)
        self.a.idle()
        self.assertFalse(os.path.exists(done))

    def test_many_starts_and_freezes_at_once(self):
        stop = threading.Event()
        failures = []

        def starts():
            while not stop.is_set():
                try:
                    s = self.a.sh("echo hi")
                    s.begin()
                    s.finish()
                    assert s.out["stdout"] == b"hi\n", s.out
                except BaseException as e:
                    failures.append(repr(e))
                    return
        threads = [threading.Thread(target=starts) for _ in range(4)]
        for t in threads:
            t.start()
        try:
            for _ in range(40):
                self.assertEqual(self.a.freeze()[0], 204)
                self.assertTrue(self.a.frozen())
                self.assertEqual(self.a.thaw()[0], 204)
        finally:
            self.a.thaw()
            stop.set()
            for t in threads:
                t.join()
        self.assertEqual(failures, [])

    def test_agent_that_died_leaves_them_frozen(self):
        self.counter()
        self.assertEqual(self.a.freeze()[0], 204)
        self.a.p.kill()
        self.a.p.wait()
        self.a.p.stderr.close()
        self.a.__init__(self.a.cgroup)
        self.assertTrue(self.stands())
        self.assertEqual(self.a.thaw()[0], 204)
        self.goes_on()

    def test_streams_go_on(self):
        s = self.a.start("cat", stdin=True)
        pid = s.begin()
        for word in (b"one", b"two"):
            self.assertEqual(self.a.freeze()[0], 204)
            send = {"process": {"pid": pid}, "input": {"stdin": base64.b64encode(word).decode()}}
            self.assertEqual(self.a.rpc("process.Process/SendInput", send)[0], 200)
            self.assertEqual(self.a.thaw()[0], 204)
            s.until("stdout", word)
        s.close()


class NoCgroup(unittest.TestCase):
    def test_says_so(self):
        a = protocol.Agent()
        try:
            status, e = a.json("POST", "/freeze", "{}")
            self.assertEqual(status, 503)
            self.assertIn("cgroup", e["message"])
            self.assertEqual(a.json("POST", "/thaw")[0], 204)
            s = a.start("true")
            s.begin()
            s.finish()
        finally:
            a.stop()


class Resume(Case):
    def setUp(self):
        super().setUp()
        self.a.init(accessToken=TOKEN)
        self.a.token = TOKEN

    def test_thaws_with_everything_new(self):
        self.counter()
        self.assertEqual(self.a.freeze()[0], 204)
        self.assertEqual(self.a.resume("new", envVars={"LATE": "yes"}), (204, None))
        self.goes_on()
        self.assertEqual(self.a.json("GET", "/envs")[0], 401)
        # The host whose answer was lost asks again, with what it knows.
        self.assertEqual(self.a.resume("new"), (204, None))
        self.a.token = "new"
        self.assertEqual(self.a.json("GET", "/envs")[1]["LATE"], "yes")

    def test_harmless_when_nothing_is_frozen(self):
        self.counter()
        self.assertEqual(self.a.resume(), (204, None))
        self.goes_on()

    def test_whatever_is_wrong_nothing_is_thawed(self):
        self.counter()
        self.assertEqual(self.a.freeze()[0], 204)
        for wrong in ({"timestamp": None}, {"entropy": None}, {"entropy": ""}, {"clockPpm": 100001}, {"clockPpm": "1"},
                      {"entropy": base64.b64encode(bytes(31)).decode()}, {"timestamp": "today"}, {"hostname": "-"},
                      {"resumed": 1}, {"envVars": {"A": 1}}):
            status, e = self.a.resume(**wrong)
            self.assertEqual((status, e["code"]), (400, 400), wrong)
        self.a.token = "wrong"
        self.assertEqual(self.a.resume("wrong")[0], 401)
        self.a.token = TOKEN
        # An /init that is none of a resume's changes settings only.
        self.assertEqual(self.a.init(accessToken=TOKEN, envVars={"A": "b"})[0], 204)
        self.assertTrue(self.a.frozen())
        self.assertTrue(self.stands())
        self.assertEqual(self.a.resume()[0], 204)
        self.goes_on()


if __name__ == "__main__":
    protocol.ENVD, protocol.INIT = (os.path.abspath(p) for p in sys.argv[1:3])
    if os.geteuid() != 0 or not cgroup2():
        print("needs root and a writable cgroup v2")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2, warnings="ignore")
