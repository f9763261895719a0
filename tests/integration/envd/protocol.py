#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The real agent on this host, through every call of its protocol.

    protocol.py ENVD STASIS_INIT [test names...]

Needs root (it becomes other users); skipped (77) without.
"""
import base64
import glob
import http.client
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import unittest
import urllib.parse

ENVD = INIT = None
MIB = 1 << 20
USER = "nobody"


def content(path, mode="r"):
    with open(path, mode) as f:
        return f.read()


def save(path, data=""):
    with open(path, "wb" if isinstance(data, bytes) else "w") as f:
        f.write(data)


class Agent:
    """One running envd; closed, as it starts, with token None."""

    def __init__(self, *args, prefix=(), token="by-hand", **popen):
        self.p = subprocess.Popen([*prefix, ENVD, "--port", "0", "--host", "127.0.0.1", "--no-clock", "--no-cgroup",
                                   *args],
                                  stderr=subprocess.PIPE, **popen)
        line = ""
        while "listening" not in line:
            line = self.p.stderr.readline().decode()
            if not line:
                raise AssertionError(f"envd ended with {self.p.wait()}")
        self.port = int(re.search(r"port=(\d+)", line).group(1))
        self.token = None
        if token:
            assert self.json("POST", "/init", json.dumps({"accessToken": token}))[0] == 204
            self.token = token

    def stop(self):
        self.p.terminate()
        rc = self.p.wait(20)
        self.p.stderr.close()
        return rc

    def status(self, field):
        return int(re.search(rf"^{field}:\s+(\d+)", content(f"/proc/{self.p.pid}/status"), re.M).group(1))

    def threads(self):
        return len(os.listdir(f"/proc/{self.p.pid}/task"))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.p.pid}/fd"))

    def headers(self, extra=None):
        h = {"X-Access-Token": self.token} if self.token else {}
        h.update(extra or {})
        return h

    def call(self, method, path, body=None, headers=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            c.request(method, path, body, self.headers(headers), encode_chunked=hasattr(body, "__next__"))
            r = c.getresponse()
            return r.status, r.headers, r.read()
        finally:
            c.close()

    def json(self, method, path, body=None, headers=None):
        status, _, data = self.call(method, path, body, headers)
        return status, json.loads(data) if data else None

    def rpc(self, method, message, user=None):
        h = {"Content-Type": "application/json", "Connect-Protocol-Version": "1"}
        if user:
            h["Authorization"] = "Basic " + base64.b64encode(f"{user}:".encode()).decode()
        return self.json("POST", "/" + method, json.dumps(message), h)

    def stream(self, method, message, **kw):
        return Stream(self, method, message, **kw)

    def start(self, cmd, *args, stdin=False, **kw):
        fields = {k: kw.pop(k) for k in ("tag", "pty", "endOnExit") if k in kw}
        process = {"cmd": cmd, "args": list(args)}
        process.update({k: kw.pop(k) for k in ("envs", "cwd") if k in kw})
        message = {"process": process, "stdin": stdin, **fields}
        return self.stream("process.Process/Start", message, **kw)

    def sh(self, script, **kw):
        return self.start("/bin/bash", "-c", script, **kw)


class Stream:
    """A server stream: envelopes one by one."""

    def __init__(self, agent, method, message, timeout_ms=None, keepalive=None, user=None, headers=None):
        data = json.dumps(message).encode()
        h = {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}
        if timeout_ms is not None:
            h["Connect-Timeout-Ms"] = str(timeout_ms)
        if keepalive is not None:
            h["Keepalive-Ping-Interval"] = str(keepalive)
        if user:
            h["Authorization"] = "Basic " + base64.b64encode(f"{user}:".encode()).decode()
        h.update(headers or {})
        self.c = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=60)
        self.c.request("POST", "/" + method, struct.pack(">BI", 0, len(data)) + data, agent.headers(h))
        self.r = self.c.getresponse()
        self.status = self.r.status
        self.ended = None  # the payload of the end-of-stream envelope
        self.out = {"stdout": bytearray(), "stderr": bytearray(), "pty": bytearray()}
        self.end = None

    def read(self, n):
        data = b""
        while len(data) < n:
            piece = self.r.read(n - len(data))
            if not piece:
                raise EOFError("the stream was cut")
            data += piece
        return data

    def next(self):
        flags, n = struct.unpack(">BI", self.read(5))
        m = json.loads(self.read(n))
        if flags == 2:
            self.ended = m
            rest = self.r.read()
            assert rest == b"", rest
            self.c.close()
            return None
        assert flags == 0, flags
        return m["event"]

    def begin(self):
        return self.next()["start"]["pid"]

    def take(self):
        """One event into out and end; its name."""
        e = self.next()
        if e is None:
            return None
        (kind, value), = e.items()
        if kind == "data":
            (name, text), = value.items()
            self.out[name] += base64.b64decode(text)
        elif kind == "end":
            assert self.end is None
            self.end = value
        return kind

    def until(self, name, text):
        while text not in self.out[name]:
            assert self.take() is not None, f"ended before {text!r}: {self.out}"

    def finish(self):
        """Reads all; the kinds of events in their order."""
        kinds = []
        while True:
            k = self.take()
            if k is None:
                return kinds
            kinds.append(k)

    def close(self):
        self.r.close()
        self.c.close()


def wait(condition, what, seconds=10):
    """For states that no event tells of."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.005)


def alive(pid):
    try:
        return content(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.a = Agent()
        cls.dir = tempfile.mkdtemp(prefix="envd-test-")
        os.chmod(cls.dir, 0o777)

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)
        assert cls.a.stop() == 0

    def path(self, *names):
        return os.path.join(self.dir, *names)


class Processes(Case):
    def test_start_data_end_in_order(self):
        s = self.a.sh("echo out; echo err >&2; exit 3")
        self.assertEqual(s.status, 200)
        self.assertEqual(s.r.headers["Content-Type"], "application/connect+json")
        self.assertGreater(s.begin(), 0)
        kinds = s.finish()
        self.assertEqual(kinds[-1], "end")
        self.assertEqual(set(kinds[:-1]), {"data"})
        self.assertEqual(s.out["stdout"], b"out\n")
        self.assertEqual(s.out["stderr"], b"err\n")
        self.assertEqual(s.end, {"exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3"})
        self.assertEqual(s.ended, {})

    def test_success_has_no_error(self):
        s = self.a.start("true")
        s.begin()
        s.finish()
        self.assertEqual(s.end, {"exitCode": 0, "exited": True, "status": "exit status 0"})

    def test_binary_output(self):
        blob = random.Random(1).randbytes(300000)
        save(self.path("blob"), blob)
        s = self.a.start("cat", self.path("blob"))
        s.begin()
        s.finish()
        self.assertEqual(s.out["stdout"], blob)

    def test_output_comes_while_it_runs(self):
        s = self.a.sh("echo one; read x; echo two", stdin=True)
        pid = s.begin()
        s.until("stdout", b"one\n")
        self.send(pid, b"\n")
        s.until("stdout", b"two\n")
        s.finish()

    def send(self, pid, data, kind="stdin"):
        return self.a.rpc("process.Process/SendInput",
                          {"process": {"pid": pid}, "input": {kind: base64.b64encode(data).decode()}})

    def test_stdin_and_its_end(self):
        s = self.a.start("cat", stdin=True, tag="cat-1")
        pid = s.begin()
        self.assertEqual(self.send(pid, b"hello "), (200, {}))
        self.assertEqual(self.send(pid, b"\x00\xff"), (200, {}))
        status, e = self.send(pid, b"x", "pty")
        self.assertEqual((status, e["code"]), (500, "internal"))
        self.assertEqual(self.a.rpc("process.Process/CloseStdin", {"process": {"tag": "cat-1"}}), (200, {}))
        s.finish()
        self.assertEqual(s.out["stdout"], b"hello \x00\xff")
        self.assertEqual(self.send(pid, b"late")[1]["code"], "not_found")

    def test_closing_stdin_twice(self):
        s = self.a.start("sleep", "100", stdin=True)
        pid = s.begin()
        for _ in range(2):
            self.assertEqual(self.a.rpc("process.Process/CloseStdin", {"process": {"pid": pid}}), (200, {}))
        status, e = self.send(pid, b"x")
        self.assertEqual((status, e["code"]), (500, "internal"))
        self.a.rpc("process.Process/SendSignal", {"process": {"pid": pid}, "signal": 9})
        s.finish()

    def test_stdin_absent_is_open_and_false_is_empty(self):
        s = self.a.stream("process.Process/Start", {"process": {"cmd": "cat"}})
        pid = s.begin()
        self.assertEqual(self.send(pid, b"open")[0], 200)
        self.a.rpc("process.Process/CloseStdin", {"process": {"pid": pid}})
        s.finish()
        self.assertEqual(s.out["stdout"], b"open")
        s = self.a.start("cat", stdin=False)
        s.begin()
        s.finish()
        self.assertEqual(s.end["exitCode"], 0)

    def test_bad_input(self):
        s = self.a.start("cat", stdin=True)
        pid = s.begin()
        for message, code in (({"input": {}}, "unimplemented"), ({}, "unimplemented"),
                              ({"input": {"stdin": "***"}}, "invalid_argument")):
            status, e = self.a.rpc("process.Process/SendInput", {"process": {"pid": pid}, **message})
            self.assertEqual(e["code"], code)
        self.assertEqual(self.a.rpc("process.Process/SendInput", {})[1]["code"], "invalid_argument")
        self.a.rpc("process.Process/SendSignal", {"process": {"pid": pid}, "signal": 9})
        s.finish()

    def test_terminal(self):
        s = self.a.start("/bin/bash", "--norc", "-i", pty={"size": {"cols": 91, "rows": 17}},
                         envs={"PS1": "ready> ", "TERM": "dumb"})
        pid = s.begin()
        s.until("pty", b"ready> ")
        self.assertEqual(self.send(pid, b"stty size; tty\n", "pty"), (200, {}))
        s.until("pty", b"17 91\r\n/dev/pts/")
        self.assertEqual(self.a.rpc("process.Process/Update",
                                    {"process": {"pid": pid}, "pty": {"size": {"cols": 120, "rows": 40}}}), (200, {}))
        self.send(pid, b"stty size\n", "pty")
        s.until("pty", b"40 120\r\n")
        status, e = self.send(pid, b"x")
        self.assertEqual((status, e["code"]), (500, "internal"))
        status, e = self.a.rpc("process.Process/CloseStdin", {"process": {"pid": pid}})
        self.assertEqual((status, e["code"]), (500, "unknown"))
        self.assertIn("Ctrl-D", e["message"])
        self.send(pid, b"sh -c 'echo u\"\"p; exec sleep 100'\n", "pty")
        s.until("pty", b"up\r\n")
        s.out["pty"] = b""
        self.send(pid, b"\x03", "pty")  # Ctrl-C reaches the foreground job
        s.until("pty", b"ready> ")
        self.send(pid, b"exit 5\n", "pty")
        s.finish()
        self.assertEqual(s.end["exitCode"], 5)

    def test_resize_needs_a_terminal(self):
        s = self.a.start("sleep", "100")
        pid = s.begin()
        status, e = self.a.rpc("process.Process/Update",
                               {"process": {"pid": pid}, "pty": {"size": {"cols": 1, "rows": 1}}})
        self.assertEqual((status, e["code"]), (500, "internal"))
        self.a.rpc("process.Process/SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})
        s.finish()

    def test_signals(self):
        for name, text in (("SIGNAL_SIGKILL", "signal: killed"), ("SIGNAL_SIGTERM", "signal: terminated"),
                           (9, "signal: killed"), (15, "signal: terminated")):
            s = self.a.start("sleep", "100")
            pid = s.begin()
            self.assertEqual(self.a.rpc("process.Process/SendSignal", {"process": {"pid": pid}, "signal": name}),
                             (200, {}))
            s.finish()
            self.assertEqual(s.end, {"exitCode": -1, "exited": False, "status": text, "error": text})
            self.assertEqual(s.ended, {})
            status, e = self.a.rpc("process.Process/SendSignal", {"process": {"pid": pid}, "signal": name})
            self.assertEqual((status, e["code"]), (404, "not_found"))
        status, e = self.a.rpc("process.Process/SendSignal", {"process": {"pid": 1}, "signal": "SIGNAL_UNSPECIFIED"})
        self.assertEqual((status, e["code"]), (501, "unimplemented"))
        status, e = self.a.rpc("process.Process/SendSignal", {"process": {"pid": 1}, "signal": 9})
        self.assertEqual((status, e["code"]), (404, "not_found"))

    def test_time_out_kills(self):
        before = time.monotonic()
        s = self.a.sh("sleep 100 & echo $!; wait", timeout_ms=400)
        pid = s.begin()
        kinds = s.finish()
        self.assertNotIn("end", kinds)
        self.assertEqual(s.ended["error"]["code"], "deadline_exceeded")
        self.assertLess(time.monotonic() - before, 10)
        self.assertFalse(alive(pid))
        # Killed with its group; that it has gone is not part of the answer.
        wait(lambda: not alive(int(s.out["stdout"])), "the child is gone")
        late = self.a.stream("process.Process/Connect", {"process": {"pid": pid}})
        late.begin()
        late.finish()
        self.assertEqual(late.end["status"], "signal: killed")

    def test_time_out_holds_without_the_client(self):
        s = self.a.start("sleep", "100", timeout_ms=500)
        pid = s.begin()
        s.close()
        wait(lambda: not alive(pid), "the process is killed")

    def test_background_child_holds_the_end(self):
        fifo = self.path("fifo")
        os.mkfifo(fifo)
        s = self.a.sh(f"(cat {fifo}; echo late) & echo early")
        pid = s.begin()
        s.until("stdout", b"early\n")
        wait(lambda: not alive(pid), "the shell ends")
        with open(fifo, "w") as f:
            f.write("through ")
        kinds = s.finish()
        self.assertEqual(kinds[-1], "end")
        self.assertEqual(s.out["stdout"], b"early\nthrough late\n")
        self.assertEqual(s.end["exitCode"], 0)

    def test_kill_does_not_wait_for_who_holds_the_pipe(self):
        s = self.a.sh("setsid sleep 20 & echo $!; exec sleep 100")
        pid = s.begin()
        s.until("stdout", b"\n")
        before = time.monotonic()
        self.a.rpc("process.Process/SendSignal", {"process": {"pid": pid}, "signal": "SIGNAL_SIGKILL"})
        s.finish()
        self.assertLess(time.monotonic() - before, 10)
        self.assertEqual(s.end["status"], "signal: killed")
        os.kill(int(s.out["stdout"]), signal.SIGKILL)

    def ends_with_its_leader(self, script, **kw):
        """The finished stream of one that leaves a child behind, and the child, which has its number
        in the file "child". The limit is for a machine that is busy; the old rule waits 100 s."""
        child = self.path("child")
        before = time.monotonic()
        s = self.a.sh(script.replace("LEFT", f"echo $! >{child}"), endOnExit=True, **kw)
        s.begin()
        s.finish()
        self.assertLess(time.monotonic() - before, 30, script)
        pid = int(content(child))
        self.addCleanup(lambda: alive(pid) and os.kill(pid, signal.SIGKILL))
        self.assertTrue(alive(pid), script)
        return s, pid

    def test_end_on_exit(self):
        for script in ("sleep 100 & LEFT; echo up; echo err >&2; exit 3",
                       "sleep 100 >/dev/null & LEFT; echo up; echo err >&2; exit 3",
                       "sleep 100 2>/dev/null & LEFT; echo up; echo err >&2; exit 3",
                       "nohup sleep 100 & LEFT; disown; echo up; echo err >&2; exit 3",
                       "setsid sleep 100 & LEFT; echo up; echo err >&2; exit 3",
                       "yes >&2 & LEFT; echo up; exit 3",
                       "(while sleep 0.05; do echo; done) >&2 & LEFT; echo up; exit 3"):
            s, _ = self.ends_with_its_leader(script)
            self.assertEqual(s.out["stdout"], b"up\n", script)
            self.assertEqual(s.end, {"exitCode": 3, "exited": True, "status": "exit status 3",
                                     "error": "exit status 3", "outputOpen": True})
            self.assertEqual(s.ended, {})

    def test_end_on_exit_without_children_is_as_ever(self):
        s = self.a.sh("echo out; exit 3", endOnExit=True)
        s.begin()
        s.finish()
        self.assertEqual(s.out["stdout"], b"out\n")
        self.assertEqual(s.end, {"exitCode": 3, "exited": True, "status": "exit status 3", "error": "exit status 3"})

    def test_end_on_exit_loses_nothing(self):
        """What was written before the exit comes, however late it is taken."""
        s = self.a.sh("sleep 100 & echo $!; head -c 10000000 /dev/zero; echo last >&2", endOnExit=True)
        s.begin()
        time.sleep(3)
        s.finish()
        out = bytes(s.out["stdout"])
        self.assertEqual(len(out[out.index(b"\n") + 1:]), 10000000)
        self.assertEqual(s.out["stderr"], b"last\n")
        os.kill(int(out.split(b"\n")[0]), signal.SIGKILL)

    def test_what_is_left_behind_can_write_on(self):
        fifo, done = self.path("left-fifo"), self.path("left-done")
        os.mkfifo(fifo)
        s, _ = self.ends_with_its_leader(f"(cat {fifo}; echo late; touch {done}) & LEFT; echo up")
        self.assertEqual(s.out["stdout"], b"up\n")
        with open(fifo, "w") as f:
            f.write("x" * 200000)
        wait(lambda: os.path.exists(done), "the child writes 200,000 bytes and goes on")

    def test_end_on_exit_of_a_terminal(self):
        s = self.a.start("/bin/bash", "--norc", "-i", pty={"size": {"cols": 80, "rows": 24}}, endOnExit=True,
                         envs={"PS1": "ready> ", "TERM": "dumb"})
        pid = s.begin()
        s.until("pty", b"ready> ")
        self.send(pid, b"(trap '' HUP; exec sleep 100) & echo pid=$!.; exit 5\n", "pty")
        s.finish()
        self.assertEqual(s.end["exitCode"], 5)
        self.assertTrue(s.end["outputOpen"])
        child = int(re.search(rb"pid=(\d+)", s.out["pty"]).group(1))
        self.assertTrue(alive(child))
        os.kill(child, signal.SIGKILL)

    def test_time_out_kills_the_group_and_says_so(self):
        for extra in ({}, {"endOnExit": True}):
            for limit in (1000, 10000, 60000):  # a busy machine may not come to the output
                ready = self.path("apart")
                s = self.a.sh(f"rm -f {ready}; setsid sh -c '>{ready}; exec sleep 100' & a=$!; sleep 100 & b=$!; "
                              f"until [ -e {ready} ]; do sleep 0.05; done; echo $a $b; sleep 100",
                              timeout_ms=limit, **extra)
                s.begin()
                s.finish()
                if s.out["stdout"]:
                    break
            self.assertEqual(s.ended["error"]["code"], "deadline_exceeded")
            self.assertIn("was killed", s.ended["error"]["message"])
            apart, member = map(int, s.out["stdout"].split())
            wait(lambda: not alive(member), "its group is gone")
            self.assertTrue(alive(apart))  # a session of its own
            os.kill(apart, signal.SIGKILL)

    def test_time_out_beside_output_that_never_pauses(self):
        for extra in ({}, {"endOnExit": True}):
            s = self.a.sh("yes & exec yes", timeout_ms=500, **extra)
            s.begin()
            s.finish()
            self.assertEqual(s.ended["error"]["code"], "deadline_exceeded")

    def test_time_out_of_a_stream_whose_process_has_ended(self):
        """It was not killed, and neither is who holds its output: nothing says so."""
        for limit in (500, 10000, 60000):  # a busy machine may not come to the exit
            s = self.a.sh("sleep 100 & echo $!; exit 4", timeout_ms=limit)
            s.begin()
            s.finish()
            if "was killed" not in s.ended["error"]["message"]:
                break
        self.assertEqual(s.ended["error"]["code"], "deadline_exceeded")
        self.assertNotIn("killed", s.ended["error"]["message"])
        self.assertIn("exit status 4", s.ended["error"]["message"])
        child = int(s.out["stdout"])
        self.assertTrue(alive(child))
        os.kill(child, signal.SIGKILL)

    def test_a_kill_after_the_leaders_end_reaches_somebody_or_says_so(self):
        s = self.a.sh("sleep 100 & echo $!; exit 4")
        pid = s.begin()
        s.until("stdout", b"\n")
        wait(lambda: not alive(pid) and not os.path.exists(f"/proc/{pid}"), "the shell ends")
        status, e = self.a.rpc("process.Process/SendSignal", {"process": {"pid": pid}, "signal": 9})
        child = int(s.out["stdout"])
        if status == 200:
            wait(lambda: not alive(child), "the child is killed")
        else:  # a kernel before 6.9 has no call for it
            self.assertEqual((status, e["code"]), (404, "not_found"))
            os.kill(child, signal.SIGKILL)
        s.finish()
        self.assertEqual(s.end["exitCode"], 4)

    def test_survives_its_client(self):
        s = self.a.sh("echo first; read x; echo second; read x; exit 9", stdin=True, tag="survivor")
        pid = s.begin()
        s.until("stdout", b"first\n")
        threads = self.a.threads()
        s.close()
        wait(lambda: self.a.threads() < threads, "the connection's thread ends")
        self.assertTrue(alive(pid))
        one = self.a.stream("process.Process/Connect", {"process": {"tag": "survivor"}})
        two = self.a.stream("process.Process/Connect", {"process": {"pid": pid}})
        self.assertEqual(one.begin(), pid)
        self.assertEqual(two.begin(), pid)
        self.send(pid, b"\n")
        one.until("stdout", b"second\n")
        two.until("stdout", b"second\n")
        self.assertEqual(one.out["stdout"], b"second\n")  # no replay
        status, r = self.a.rpc("process.Process/List", {})
        found = [p for p in r["processes"] if p["pid"] == pid]
        self.assertEqual(found[0]["tag"], "survivor")
        self.assertEqual(found[0]["config"]["cmd"], "/bin/bash")
        self.send(pid, b"\n")
        for s in (one, two):
            s.finish()
            self.assertEqual(s.end["exitCode"], 9)
        late = self.a.stream("process.Process/Connect", {"process": {"tag": "survivor"}})
        self.assertEqual(late.begin(), pid)
        self.assertEqual(late.finish(), ["end"])
        self.assertEqual(late.end["exitCode"], 9)
        status, r = self.a.rpc("process.Process/List", {})
        self.assertNotIn(pid, [p["pid"] for p in r["processes"]])

    def test_connect_time_out_ends_only_the_stream(self):
        s = self.a.start("sleep", "100")
        pid = s.begin()
        c = self.a.stream("process.Process/Connect", {"process": {"pid": pid}}, timeout_ms=200)
        c.begin()
        self.assertEqual(c.finish(), [])
        self.assertEqual(c.ended["error"]["code"], "deadline_exceeded")
        self.assertTrue(alive(pid))
        self.a.rpc("process.Process/SendSignal", {"process": {"pid": pid}, "signal": 9})
        s.finish()

    def test_keepalive(self):
        s = self.a.start("sleep", "2.5", keepalive=1)
        s.begin()
        self.assertEqual(s.finish(), ["keepalive", "keepalive", "end"])

    def test_slow_subscriber_holds_the_process(self):
        total = 64 * MIB
        s = self.a.sh(f"head -c {total} /dev/zero; echo -n x >&2", stdin=False)
        pid = s.begin()

        def written():
            for child in content(f"/proc/{pid}/task/{pid}/children").split():
                return int(re.search(r"^wchar: (\d+)", content(f"/proc/{child}/io"), re.M).group(1))
            return None
        last = [-1]

        def stalled():
            now, before = written(), last[0]
            last[0] = now
            time.sleep(0.2)
            return now is not None and now == before
        wait(stalled, "the writer stalls")
        self.assertLess(last[0], 16 * MIB)
        self.assertLess(self.a.status("VmRSS"), 8 * 1024)
        s.finish()
        self.assertEqual(len(s.out["stdout"]), total)
        self.assertEqual(s.end["exitCode"], 0)

    def test_credentials_and_environment(self):
        import pwd
        u = pwd.getpwnam(USER)
        s = self.a.sh("id -u; id -g; id -G; echo $HOME,$USER,$LOGNAME,$A,$E2B_SANDBOX,$LANG; "
                      "env | grep -cvE '^(LC_|LANGUAGE)'", user=USER, cwd="/", envs={"A": "b c", "LANG": "x"})
        s.begin()
        s.finish()
        lines = s.out["stdout"].decode().split("\n")
        self.assertEqual(lines[0], str(u.pw_uid))
        self.assertEqual(lines[1], str(u.pw_gid))
        self.assertEqual(lines[2].split(), [str(g) for g in os.getgrouplist(USER, u.pw_gid)])
        self.assertEqual(lines[3], f"{u.pw_dir},{USER},{USER},b c,true,x")
        self.assertEqual(int(lines[4]), 7 + 3)  # and bash's PWD, SHLVL, _

    def test_child_starts_clean(self):
        s = self.a.start("/bin/sh", "-c", "grep -E '^Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd; cat "
                         "/proc/self/oom_score_adj; ulimit -n; ps -o pid= -o sid= -p $$")
        pid = s.begin()
        s.finish()
        out = s.out["stdout"].decode().split("\n")
        # 32 and 33 are the C library's own: glibc's posix_spawn, which make uses, leaves them ignored.
        masks = [int(line.split()[1], 16) & ~(3 << 31) for line in out[:2]]
        self.assertEqual(masks, [0, 0])
        self.assertEqual(out[2:6], ["0", "1", "2", "3"])  # 3 is ls's own
        self.assertEqual(out[6], "100")
        self.assertEqual(int(out[7]), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self.assertEqual(out[8].split(), [str(pid)] * 2)

    def test_working_directory(self):
        for cwd, want in ((self.dir, self.dir), ("", os.path.expanduser("~root")), ("~", os.path.expanduser("~root"))):
            s = self.a.start("pwd", cwd=cwd, user="root")
            s.begin()
            s.finish()
            self.assertEqual(s.out["stdout"].decode().strip(), want)

    def stream_error(self, code, **kw):
        s = self.a.start(kw.pop("cmd", "true"), **kw)
        self.assertEqual(s.status, 200)
        self.assertIsNone(s.next())
        self.assertEqual(s.ended["error"]["code"], code)
        return s.ended["error"]["message"]

    def test_missing_programs_differ_from_those_that_cannot_run(self):
        def reason(cmd):
            s = self.a.start(cmd)
            self.assertIsNone(s.next())
            self.assertEqual(s.ended["error"]["code"], "invalid_argument")
            return s.ended["error"].get("reason")

        plain = self.path("plain")
        with open(plain, "w") as f:
            f.write("not a program")
        self.assertEqual(reason("no-such"), "no_program")
        self.assertEqual(reason("/no/such"), "no_program")
        self.assertEqual(reason(plain + "/below"), "no_program")
        self.assertEqual(reason(plain), "cannot_run")
        self.assertEqual(reason(self.dir), "cannot_run")
        os.chmod(plain, 0o755)
        self.assertEqual(reason(plain), "cannot_run")  # neither a binary nor a script
        self.assertIsNone(reason(""))

    def test_what_cannot_start(self):
        self.assertIn("/no/such", self.stream_error("invalid_argument", cwd="/no/such"))
        self.assertIn("no-such", self.stream_error("invalid_argument", cmd="no-such"))
        self.assertIn("/no/such", self.stream_error("invalid_argument", cmd="/no/such"))
        self.stream_error("invalid_argument", cmd="/etc/passwd")
        self.stream_error("invalid_argument", cmd="")
        self.stream_error("invalid_argument", cwd="~other/x")
        self.stream_error("invalid_argument", envs={"a=b": "c"})
        s = self.a.stream("process.Process/Start", {"process": {}})
        self.assertIsNone(s.next())
        self.assertEqual(s.ended["error"]["code"], "invalid_argument")
        for which in ({"pid": 999999}, {"tag": "nobody"}):
            s = self.a.stream("process.Process/Connect", {"process": which})
            self.assertIsNone(s.next())
            self.assertEqual(s.ended["error"]["code"], "not_found")

    def test_ports(self):
        with socket.socket() as near, socket.socket() as far, socket.socket(socket.AF_INET6) as six:
            for s, address in ((near, "127.0.0.1"), (far, "0.0.0.0"), (six, "::1")):
                s.bind((address, 0))
                s.listen()
            for s, found in ((near, (True, False)), (far, (False, True)), (six, (True, False))):
                port = s.getsockname()[1]
                self.assertEqual(self.a.json("GET", f"/ports/{port}"),
                                 (200, {"loopback": found[0], "outside": found[1]}))
        for bad in ("x", "70000", "-1"):
            self.assertEqual(self.a.json("GET", f"/ports/{bad}")[0], 400)
        self.assertEqual(self.a.call("GET", "/ports/80", headers={"X-Access-Token": "no"})[0], 401)

    def test_unknown_user(self):
        s = self.a.start("true", user="no-such-user")
        self.assertEqual(s.status, 401)
        self.assertEqual(json.loads(s.r.read())["code"], "unauthenticated")
        s.close()
        status, e = self.a.rpc("process.Process/List", {}, user="no-such-user")
        self.assertEqual((status, e["code"]), (401, "unauthenticated"))

    def test_unimplemented_calls(self):
        for m in ("process.Process/StreamInput", "filesystem.Filesystem/WatchDir"):
            s = self.a.stream(m, {})
            self.assertEqual(s.status, 200)
            self.assertIsNone(s.next())
            self.assertEqual(s.ended["error"]["code"], "unimplemented")
        status, e = self.a.rpc("filesystem.Filesystem/CreateWatcher", {"path": "/"})
        self.assertEqual((status, e["code"]), (501, "unimplemented"))

    def test_wrong_codecs_and_broken_envelopes(self):
        for path, kind in (("process.Process/List", "application/proto"), ("process.Process/Start", "application/json"),
                           ("process.Process/Start", "application/connect+proto")):
            self.assertEqual(self.a.call("POST", "/" + path, b"{}", {"Content-Type": kind})[0], 415)
        good = struct.pack(">BI", 0, 2) + b"{}"
        for body in (b"", b"\0\0\0", struct.pack(">BI", 0, 9) + b"{}", struct.pack(">BI", 1, 2) + b"{}",
                     struct.pack(">BI", 2, 2) + b"{}", good + good, struct.pack(">BI", 0, 1) + b"[",
                     struct.pack(">BI", 0, 2) + b"[]", struct.pack(">BI", 0, 4000) + b"[" * 4000):
            status, _, data = self.a.call("POST", "/process.Process/Start", body,
                                          {"Content-Type": "application/connect+json"})
            self.assertEqual(status, 200)
            self.assertEqual(data[0], 2)
            self.assertEqual(json.loads(data[5:])["error"]["code"], "invalid_argument")
        for body in ("[", "[]", "1", '{"a":1', '{"a":"\\u0000"}', "[" * 100000):
            status, e = self.a.json("POST", "/process.Process/List", body, {"Content-Type": "application/json"})
            self.assertEqual((status, e["code"]), (400, "invalid_argument"))


class Files(Case):
    def url(self, path=None, **q):
        if path is not None:
            q["path"] = path
        return "/files?" + urllib.parse.urlencode(q)

    def put(self, path, data, **q):
        return self.a.json("POST", self.url(path, **q), data, {"Content-Type": "application/octet-stream"})

    def test_octets_round_trip(self):
        for name, data in (("a.txt", b"hello"), ("b", bytes(range(256)) * 1000), ("e.json", b""), ("ü ñ", b"x")):
            p = self.path("new", "dir", name)
            status, r = self.put(p, data)
            self.assertEqual((status, r), (200, [{"path": p, "name": name, "type": "file"}]))
            self.assertEqual(content(p, "rb"), data)
            status, h, got = self.a.call("GET", self.url(p), headers={"Accept-Encoding": "gzip, deflate"})
            self.assertEqual((status, got), (200, data))
            self.assertEqual(h["Content-Length"], str(len(data)))
            self.assertIsNone(h["Content-Encoding"])
            self.assertTrue(h["Content-Disposition"].startswith("inline; filename"))
        self.assertEqual(self.a.call("GET", self.url(self.path("new", "dir", "a.txt")))[1]["Content-Type"],
                         "text/plain; charset=utf-8")

    def test_overwriting_truncates(self):
        p = self.path("over")
        self.put(p, b"a long first text")
        self.put(p, b"short")
        self.assertEqual(content(p), "short")

    def test_owner_and_parents(self):
        import pwd
        u = pwd.getpwnam(USER)
        self.assertEqual(self.put(self.path("own", "er", "f"), b"x", username=USER)[0], 200)
        for p, mode in ((self.path("own"), 0o755), (self.path("own", "er"), 0o755), (self.path("own", "er", "f"), 0o644)):
            st = os.stat(p)
            self.assertEqual((st.st_uid, st.st_gid, st.st_mode & 0o7777), (u.pw_uid, u.pw_gid, mode))
        status, e = self.put(self.path("x"), b"", username="no-such-user")
        self.assertEqual((status, e["code"]), (401, 401))

    def test_relative_to_home(self):
        home = self.path("home")
        os.makedirs(home)
        # A name below the home of root, given three ways; looked at only.
        for path in ("no/such/file", "~/no/such/file", "./no//such/../such/file"):
            status, e = self.a.json("GET", self.url(path, username="root"))
            self.assertEqual(status, 404)
            self.assertIn(os.path.expanduser("~root/no/such/file"), e["message"])

    def test_errors(self):
        os.makedirs(self.path("d"), exist_ok=True)
        os.mkfifo(self.path("pipe"))
        for path, want in (("/no/such", 404), (self.path("d"), 400), (self.path("pipe"), 400), ("/dev/zero", 400),
                           ("/etc/passwd/x", 404), ("~other/x", 400), ("a" * 5000, 400), ("/" + "b" * 300, 400)):
            status, e = self.a.json("GET", self.url(path))
            self.assertEqual((status, e["code"]), (want, want), path[:40])
        for path, want in ((self.path("d"), 400), (self.path("pipe"), 400), ("/etc/passwd/x", 400), ("", 400)):
            status, e = self.put(path, b"x")
            self.assertEqual((status, e["code"]), (want, want), path)
        self.assertEqual(self.a.call("GET", "/files?path=/etc/pass%00wd")[0], 400)
        status, e = self.a.json("POST", "/files", b"x", {"Content-Type": "application/octet-stream"})
        self.assertEqual(status, 400)
        status, e = self.a.json("POST", self.url(self.path("z")), b"x", {"Content-Type": "text/plain"})
        self.assertEqual(status, 400)
        status, e = self.a.json("POST", self.url(self.path("z")), b"x", {
            "Content-Type": "application/octet-stream", "Content-Encoding": "gzip"})
        self.assertEqual(status, 400)
        self.assertIn("gzip", e["message"])
        self.assertFalse(os.path.exists(self.path("z")))

    def test_links_are_followed(self):
        save(self.path("target"), "old")
        os.symlink("target", self.path("link"))
        self.assertEqual(self.put(self.path("link"), b"new")[0], 200)
        self.assertEqual(content(self.path("target")), "new")
        self.assertTrue(os.path.islink(self.path("link")))

    def test_pseudo_files(self):
        status, h, data = self.a.call("GET", self.url("/proc/self/status"))
        self.assertEqual(status, 200)
        self.assertIn(b"Name:\tMHD", data.replace(b"envd", b"MHD"))
        self.assertEqual(h["Transfer-Encoding"], "chunked")
        status, h, data = self.a.call("GET", self.url("/proc/kallsyms"))
        self.assertEqual(len(data.splitlines()), len(content("/proc/kallsyms").splitlines()))

    def test_files_that_give_less_than_their_size(self):
        # 4096 by stat, a line by read. The connection stays open, so that only a right length ends it.
        for p in ("/sys/kernel/mm/transparent_hugepage/enabled", "/sys/class/net/lo/mtu", "/sys/class/net/lo/address"):
            status, h, data = self.a.call("GET", self.url(p))
            self.assertEqual((status, data), (200, content(p, "rb")))
            self.assertIsNone(h["Content-Length"])
        for p in glob.glob("/sys/class/net/lo/*") + glob.glob("/sys/kernel/mm/*/*") + ["/proc/sys/vm/swappiness"]:
            if os.path.isfile(p) and os.access(p, os.R_OK):
                status, h, data = self.a.call("GET", self.url(p))
                self.assertIn(status, (200, 400, 500), p)  # some cannot be read as they are

    def test_a_file_that_changes_while_it_is_sent(self):
        p, threads = self.path("changing"), self.a.threads()
        for change, want in ((lambda: os.truncate(p, 50 * MIB), None), (lambda: os.truncate(p, 200 * MIB), 100 * MIB),
                             (lambda: os.truncate(p, 0), None)):
            save(p, b"")
            os.truncate(p, 100 * MIB)
            c = http.client.HTTPConnection("127.0.0.1", self.a.port, timeout=60)
            c.request("GET", self.url(p), headers=self.a.headers())
            r = c.getresponse()
            self.assertEqual(int(r.headers["Content-Length"]), 100 * MIB)
            got = len(r.read(MIB))
            change()
            try:
                while piece := r.read(MIB):
                    got += len(piece)
                    self.assertLessEqual(got, 100 * MIB)
            except http.client.IncompleteRead as e:
                got += len(e.partial)
            c.close()
            if want:
                self.assertEqual(got, want)
            else:
                self.assertLess(got, 100 * MIB)
        wait(lambda: self.a.threads() <= threads, "nobody is at it any more")

    def boundary_parts(self, boundary, parts):
        out = b""
        for name, filename, data in parts:
            out += f"--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"".encode()
            if filename is not None:
                out += f"; filename=\"{filename}\"".encode()
            out += b"\r\nContent-Type: application/octet-stream\r\n\r\n" + data + b"\r\n"
        return out + f"--{boundary}--\r\n".encode()

    def multipart(self, parts, boundary="----formdata-undici-0123456789", quoted=False, piece=None, **q):
        body = self.boundary_parts(boundary, parts)
        if piece:
            whole = body
            body = (whole[i:i + piece] for i in range(0, len(whole), piece))
        b = f'"{boundary}"' if quoted else boundary
        return self.a.json("POST", self.url(**q), body, {"Content-Type": f"multipart/form-data; boundary={b}",
                                                         **({"Transfer-Encoding": "chunked"} if piece else {})})

    def test_multipart(self):
        rng = random.Random(2)
        for boundary, quoted in (("x", False), ("----formdata-undici-0123456789", False), ("a b'()+_,-./:=?", True)):
            nasty = f"\r\n--{boundary[:-1]}\r\n--\r\n-".encode() if len(boundary) > 1 else b"\r\n--\r\n-"
            a, b = rng.randbytes(100000) + nasty, nasty + rng.randbytes(1000)
            for piece in (None, 1000, 7919):
                pa, pb = self.path("m", "a"), self.path("m", "sub", "b")
                status, r = self.multipart([("file", pa, a), ("other", "ignored", b"x"), ("file", pb, b)],
                                           boundary, quoted, piece)
                self.assertEqual(status, 200, r)
                self.assertEqual([x["path"] for x in r], [pa, pb])
                self.assertEqual(content(pa, "rb"), a)
                self.assertEqual(content(pb, "rb"), b)
                shutil.rmtree(self.path("m"))

    def test_multipart_path_of_the_query(self):
        p = self.path("q")
        status, r = self.multipart([("file", "ignored/name", b"data")], path=p)
        self.assertEqual((status, r[0]["path"]), (200, p))
        self.assertEqual(content(p), "data")
        self.assertEqual(self.multipart([("file", "a", b"1"), ("file", "b", b"2")], path=p)[0], 400)
        self.assertEqual(self.multipart([("file", p, b"1"), ("file", p, b"2")])[0], 400)
        self.assertEqual(self.multipart([("file", None, b"1")])[0], 400)
        self.assertEqual(self.multipart([("file", "", b"1")])[0], 400)
        self.assertEqual(self.multipart([])[:1], (200,))

    def test_multipart_cut_short(self):
        p = self.path("cut")
        body = self.boundary_parts("b", [("file", p, b"x" * 100000)])[:-20]
        status, e = self.a.json("POST", "/files", body, {"Content-Type": "multipart/form-data; boundary=b"})
        self.assertEqual(status, 400)
        self.assertFalse(os.path.exists(p))

    def begin_upload(self, path, data, length=1000000, chunked=False):
        """A connection with an upload that has not ended; the agent has read data."""
        c = socket.create_connection(("127.0.0.1", self.a.port))
        self.addCleanup(c.close)
        how = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {length}"
        body = f"{len(data):x}\r\n".encode() + data + b"\r\n" if chunked else data
        c.sendall(f"POST {self.url(path)} HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
                  f"X-Access-Token: {self.a.token}\r\n{how}\r\n\r\n".encode() + body)
        wait(lambda: self.open_size(path) >= len(data), "the upload is under way")
        return c

    def open_size(self, path):
        """Bytes in the file under way beside path, which has no name."""
        folder = f"/proc/{self.a.p.pid}/fd"
        for fd in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{fd}").startswith(os.path.dirname(path) + "/#"):
                    return os.stat(f"{folder}/{fd}").st_size
            except FileNotFoundError:
                pass
        return -1

    def test_aborted_upload_leaves_what_was_there(self):
        new, old = self.path("aborted", "new"), self.path("aborted", "old")
        os.mkdir(self.path("aborted"))
        save(old, "old")
        for path in (new, old):
            for chunked in (False, True):
                c = self.begin_upload(path, b"x" * 100000, chunked=chunked)
                self.assertEqual(content(old), "old")
                c.close()
                wait(lambda: self.open_size(path) < 0, "the upload is given up")
                self.assertEqual(os.listdir(self.path("aborted")), ["old"])
                self.assertEqual(content(old), "old")

    def test_a_killed_agent_leaves_what_was_there(self):
        old, other = self.path("killed", "old"), Agent()
        os.mkdir(self.path("killed"))
        save(old, "old")
        self.a, mine = other, self.a
        try:
            self.begin_upload(old, b"x" * 100000)
        finally:
            self.a = mine
            other.p.kill()
            other.stop()
        self.assertEqual(os.listdir(self.path("killed")), ["old"])
        self.assertEqual(content(old), "old")

    def test_overwriting_keeps_what_the_file_was(self):
        p, target, link = (self.path("kept", name) for name in ("f", "target", "link"))
        os.mkdir(self.path("kept"))
        for path in (p, target):
            save(path, "old")
            os.chmod(path, 0o640)
            os.chown(path, 1234, 4321)
            os.setxattr(path, "user.mark", b"here")
        os.symlink("target", link)
        for path, real in ((p, p), (link, target)):
            self.assertEqual(self.put(path, b"new", username=USER)[0], 200)
            st = os.stat(real)
            self.assertEqual((st.st_mode & 0o7777, st.st_uid, st.st_gid), (0o640, 1234, 4321))
            self.assertEqual(os.getxattr(real, "user.mark"), b"here")
            self.assertEqual(content(real), "new")
        self.assertTrue(os.path.islink(link))
        os.unlink(target)
        self.assertEqual(self.put(link, b"made", username=USER)[0], 200)
        self.assertEqual(content(target), "made")

    def test_other_names_of_a_file_keep_the_old_content(self):
        a, b = self.path("hard"), self.path("other")
        save(a, "old")
        os.link(a, b)
        self.assertEqual(self.put(a, b"new")[0], 200)
        self.assertEqual((content(a), content(b)), ("new", "old"))

    def test_a_running_program_is_replaced(self):
        p = self.path("program")
        shutil.copy("/bin/sleep", p)
        running = subprocess.Popen([p, "100"])
        try:
            status, r = self.put(p, b"#!/bin/sh\necho new\n")
            self.assertEqual(status, 200, r)
            self.assertIsNone(running.poll())
            self.assertEqual(subprocess.check_output([p]), b"new\n")
        finally:
            running.kill()
            running.wait()

    def test_a_mount_point_is_written_in_place(self):
        p, real = self.path("bound"), self.path("bound.real")
        save(p)
        save(real, "a longer old text")
        subprocess.run(["mount", "--bind", real, p], check=True)
        try:
            self.assertEqual(self.put(p, b"new")[0], 200)
        finally:
            subprocess.run(["umount", p], check=True)
        self.assertEqual((content(p), content(real)), ("", "new"))

    def test_files_of_the_kernel_can_be_written(self):
        p = f"/proc/{os.getpid()}/oom_score_adj"
        was = content(p)
        self.assertEqual(self.put(p, b"321\n")[0], 200)
        self.assertEqual(content(p), "321\n")
        save(p, was)

    def test_a_form_is_taken_whole_or_not_at_all(self):
        old, folder = self.path("form", "old"), self.path("form", "d")
        os.makedirs(folder)
        save(old, "old")
        status, e = self.multipart([("file", old, b"new"), ("file", self.path("form", "made"), b"1"),
                                    ("file", folder, b"x")])
        self.assertEqual(status, 400, e)
        self.assertEqual(content(old), "old")
        self.assertEqual(sorted(os.listdir(self.path("form"))), ["d", "old"])
        names = [self.path("form", "many", str(i)) for i in range(200)]
        before = self.a.descriptors()
        status, r = self.multipart([("file", name, name.encode()) for name in names])
        self.assertEqual((status, [x["path"] for x in r]), (200, names))
        self.assertEqual(len(os.listdir(self.path("form", "many"))), 200)
        for name in names:
            self.assertEqual(content(name), name)
        wait(lambda: self.a.descriptors() <= before, "its descriptors are closed")

    def test_full_disk(self):
        mnt = self.path("small")
        os.mkdir(mnt)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mnt], check=True)
        try:
            old = os.path.join(mnt, "old")
            save(old, "old")
            for p in (os.path.join(mnt, "new"), old):
                status, e = self.put(p, b"x" * (4 * MIB))
                self.assertEqual((status, e["code"]), (507, 507))
            self.assertFalse(os.path.exists(os.path.join(mnt, "new")))
            self.assertEqual(content(old), "old")
            self.assertEqual(os.listdir(mnt), ["old"])
            status, e = self.multipart([("file", os.path.join(mnt, "new"), b"x" * (4 * MIB))])
            self.assertEqual(status, 507)
            self.assertFalse(os.path.exists(os.path.join(mnt, "new")))
            self.assertEqual(self.put(os.path.join(mnt, "fits"), b"x")[0], 200)
        finally:
            subprocess.run(["umount", mnt], check=True)

    def test_100_mb_both_ways_in_little_memory(self):
        p, piece, n = self.path("big"), random.Random(3).randbytes(MIB), 100
        status, r = self.a.json("POST", self.url(p), (piece for _ in range(n)), {
            "Content-Type": "application/octet-stream", "Transfer-Encoding": "chunked"})
        self.assertEqual(status, 200)
        self.assertEqual(os.path.getsize(p), n * MIB)
        body = self.boundary_parts("b", [("file", p, b"@")]).split(b"@")
        status, r = self.a.json("POST", "/files", iter([body[0], *[piece] * n, body[1]]), {
            "Content-Type": "multipart/form-data; boundary=b", "Transfer-Encoding": "chunked"})
        self.assertEqual(status, 200)
        c = http.client.HTTPConnection("127.0.0.1", self.a.port, timeout=60)
        c.request("GET", self.url(p), headers=self.a.headers())
        r = c.getresponse()
        for _ in range(n):
            self.assertEqual(r.read(MIB), piece)
        self.assertEqual(r.read(), b"")
        c.close()
        self.assertLess(self.a.status("VmHWM"), 8 * 1024)
        os.unlink(p)


class Archives(Case):
    """/files/tar against Python's reader and writer of archives."""

    def url(self, path, **q):
        return "/files/tar?" + urllib.parse.urlencode({"path": path, **q})

    def get(self, path, **q):
        status, h, data = self.a.call("GET", self.url(path, **q))
        self.assertEqual((status, h["Content-Type"]), (200, "application/x-tar"), data)
        return tarfile.open(fileobj=io.BytesIO(data))

    def post(self, path, data, **q):
        return self.a.json("POST", self.url(path, **q), data, {"Content-Type": "application/x-tar"})

    def archive(self, *members, format=tarfile.PAX_FORMAT):
        """Of (name, content) or (name, type, link)."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=format) as t:
            for name, *what in members:
                info = tarfile.TarInfo(name)
                info.mode, info.uid, info.gid, info.mtime = 0o640, 1234, 5678, 12.25
                if len(what) == 1:
                    info.size = len(what[0])
                    t.addfile(info, io.BytesIO(what[0]))
                else:
                    info.type, info.linkname = what
                    t.addfile(info)
        return out.getvalue()

    def test_out(self):
        d = self.path("out")
        os.makedirs(f"{d}/deep/{'n' * 200}")
        save(f"{d}/f", b"one")
        os.utime(f"{d}/f", ns=(0, 1234567890123456789))
        os.link(f"{d}/f", f"{d}/same")
        os.symlink("f", f"{d}/link")
        os.mkfifo(f"{d}/pipe")
        save(f"{d}/deep/{'n' * 200}/big", bytes(range(256)) * 1000)
        t = self.get(d, archive="1")
        self.assertEqual(t.getnames()[0], "out")
        by_name = {m.name: m for m in t}
        self.assertNotIn("out/pipe", by_name)
        self.assertIn("a pipe\nout/pipe", t.pax_headers.values())
        self.assertEqual(by_name["out/link"].linkname, "f")
        self.assertEqual({by_name["out/f"].islnk(), by_name["out/same"].islnk()}, {True, False})
        self.assertEqual(t.extractfile(f"out/deep/{'n' * 200}/big").read(), bytes(range(256)) * 1000)
        first = next(m for m in t if m.name in ("out/f", "out/same"))
        self.assertEqual(first.pax_headers["mtime"], "1234567890.123456789")
        self.assertEqual(self.get(d + "/link").getmembers()[0].type, tarfile.SYMTYPE)
        self.assertEqual(self.get(d + "/link", follow="1").getmembers()[0].type, tarfile.REGTYPE)
        self.assertEqual(self.a.call("GET", self.url(d + "/none"))[0], 404)
        self.assertEqual(self.a.call("GET", self.url(d + "/pipe"))[0], 400)

    def test_holes(self):
        p = self.path("holes")
        with open(p, "wb") as f:
            f.truncate(100 * MIB)
            f.seek(50 * MIB)
            f.write(b"x")
        status, _, data = self.a.call("GET", self.url(p))
        self.assertLess(len(data), MIB)
        t = tarfile.open(fileobj=io.BytesIO(data))
        self.assertEqual(t.getmembers()[0].size, 100 * MIB)
        self.assertEqual(t.extractfile("holes").read(), content(p, "rb"))
        status, r = self.post(self.path("again"), data, rename="1")
        self.assertEqual((status, r["files"]), (200, 1), r)
        self.assertLess(os.stat(self.path("again")).st_blocks, 2048)
        self.assertEqual(content(self.path("again"), "rb"), content(p, "rb"))

    def test_in(self):
        import pwd
        u, d = pwd.getpwnam(USER), self.path("in")
        long = "n" * 150
        for format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT):
            data = self.archive(("t/f", b"one"), ("t/" + long if format != tarfile.USTAR_FORMAT else "t/n", b"two"),
                                ("t/l", tarfile.SYMTYPE, "f"), ("t/h", tarfile.LNKTYPE, "t/f"),
                                ("t/fifo", tarfile.FIFOTYPE, ""), format=format)
            status, r = self.post(d, data, username=USER)
            self.assertEqual((status, r), (200, {"path": d, "files": 3, "bytes": 6, "skipped": ["t/fifo"]}))
            self.assertEqual((content(d + "/t/h"), os.readlink(d + "/t/l")), ("one", "f"))
            self.assertTrue(os.path.samefile(d + "/t/h", d + "/t/f"))
            for path in (d, d + "/t", d + "/t/f", d + "/t/l"):
                self.assertEqual(os.lstat(path).st_uid, u.pw_uid)
            self.assertEqual(os.stat(d + "/t/f").st_mode & 0o7777, 0o640)
            status, r = self.post(d, data, archive="1")
            st = os.stat(d + "/t/f")
            self.assertEqual((st.st_uid, st.st_gid), (1234, 5678))
            shutil.rmtree(d)

    def test_names_of_the_destination(self):
        d = self.path("names")
        os.makedirs(d + "/dir")
        one = self.archive(("x", b"one"))
        for path, rename, want in (("new", "1", "new"), ("dir", "1", "dir/x"), ("made/", "1", "made/x"),
                                   ("made2", "", "made2/x"), ("a/b/c", "1", "a/b/c")):
            status, r = self.post(f"{d}/{path}", one, rename=rename)
            self.assertEqual(status, 200, r)
            self.assertEqual(content(f"{d}/{want}"), "one")
        status, e = self.post(d + "/new", one)
        self.assertEqual(status, 409)
        status, e = self.post(d + "/y", self.archive(("x", b"1"), ("z", b"2")), rename="1")
        self.assertEqual(status, 400)
        self.assertFalse(os.path.exists(d + "/z"))
        self.assertEqual(self.post(d + "/nothing", b""), (200, {"path": d + "/nothing", "files": 0, "bytes": 0,
                                                                "skipped": []}))
        self.assertFalse(os.path.exists(d + "/nothing"))
        os.symlink("target", d + "/link")
        self.assertEqual(self.post(d + "/link", one, rename="1")[0], 200)
        self.assertEqual(content(d + "/target"), "one")
        self.assertEqual(self.post("~other/x", one)[0], 400)

    def test_what_fails_leaves_what_was_there(self):
        d = self.path("fails")
        os.makedirs(d + "/t")
        save(d + "/t/b", "old")
        data = self.archive(("t/a", b"a" * 1000), ("t/b", b"b" * 5000), ("t/c", b"c"))
        status, e = self.post(d, data[:6000])
        self.assertEqual(status, 400)
        self.assertIn("ends early", e["message"])
        self.assertIn("1 files before it", e["message"])
        self.assertEqual((sorted(os.listdir(d + "/t")), content(d + "/t/b")), (["a", "b"], "old"))
        for bad in ("../x", "/etc/x", "t/../../x"):
            status, e = self.post(d, self.archive((bad, b"bad")))
            self.assertEqual((status, "bad path" in e["message"]), (400, True))
        self.assertEqual(self.post(d, b"no archive at all" * 100)[0], 400)
        status, e = self.post(d, self.archive(("l", tarfile.SYMTYPE, "/etc"), ("l/x", b"bad")))
        self.assertEqual(status, 409, e)
        self.assertFalse(os.path.exists("/etc/x"))

    def test_100_mb_in_little_memory(self):
        p = self.path("big")
        with open(p, "wb") as f:
            for _ in range(100):
                f.write(random.randbytes(MIB))
        with open(p, "rb") as f:
            want = f.read()
        status, _, data = self.a.call("GET", self.url(p))
        del want
        self.assertEqual(self.post(self.path("copy"), (data[i:i + MIB] for i in range(0, len(data), MIB)),
                                   rename="1")[0], 200)
        self.assertEqual(subprocess.call(["cmp", p, self.path("copy")]), 0)
        self.assertLess(self.a.status("VmHWM"), 8 * 1024)


class Filesystem(Case):
    def fs(self, method, **message):
        user = message.pop("user", None)
        return self.a.rpc("filesystem.Filesystem/" + method, message, user)

    def entry(self, path):
        status, r = self.fs("Stat", path=path)
        self.assertEqual(status, 200, r)
        return r["entry"]

    def refused(self, code, http, method, **message):
        status, e = self.fs(method, **message)
        self.assertEqual((status, e["code"]), (http, code), e)

    def test_stat(self):
        p = self.path("f")
        save(p, "12345")
        os.chmod(p, 0o640)
        os.utime(p, ns=(0, 1234567890123456789))
        e = self.entry(p)
        self.assertEqual(e, {"name": "f", "type": "FILE_TYPE_FILE", "path": p, "size": 5, "mode": 0o640,
                             "permissions": "-rw-r-----", "owner": "root", "group": "root",
                             "modifiedTime": "2009-02-13T23:31:30.123456789Z"})
        os.chown(p, 54321, 54322)
        e = self.entry(p)
        self.assertEqual((e["owner"], e["group"]), ("54321", "54322"))
        e = self.entry("/tmp")
        self.assertEqual((e["type"], e["permissions"]), ("FILE_TYPE_DIRECTORY", "dtrwxrwxrwx"))
        self.assertEqual(self.entry("/dev/null")["type"], "FILE_TYPE_UNSPECIFIED")
        self.assertEqual(self.entry("/")["name"], "/")
        self.refused("not_found", 404, "Stat", path="/no/such")

    def test_times_no_clock_has(self):
        """A time that is no RFC 3339 breaks a typed client for the whole directory."""
        d = tempfile.mkdtemp(dir="/dev/shm")  # which keeps any time
        try:
            for when, year in ((67768036191676900, "9999-12-31"), (2**63 - 1, "9999-12-31"), (-2**63, "0001-01-01"),
                               (-62135596801, "0001-01-01"), (-1, "1969-12-31"), (253402300800, "9999-12-31")):
                p = os.path.join(d, "x")
                save(p, "")
                subprocess.run(["touch", "-d", f"@{when}", p], check=True)
                self.assertEqual(os.stat(p).st_mtime_ns // 10**9, when)
                listed = self.fs("ListDir", path=d)[1]["entries"]
                for e in [self.entry(p), *listed]:
                    self.assertRegex(e["modifiedTime"], "^" + year + r"T\d\d:\d\d:\d\d\.\d{9}Z$")
        finally:
            shutil.rmtree(d)

    def test_stat_of_links(self):
        os.makedirs(self.path("real"))
        os.symlink("real", self.path("good"))
        os.symlink("nowhere", self.path("bad"))
        e = self.entry(self.path("good"))
        self.assertEqual((e["type"], e["permissions"], e["symlinkTarget"], e["mode"]),
                         ("FILE_TYPE_DIRECTORY", "Lrwxrwxrwx", os.path.realpath(self.path("real")), 0o755))
        e = self.entry(self.path("bad"))
        self.assertEqual((e["type"], e["mode"], e["symlinkTarget"]),
                         ("FILE_TYPE_UNSPECIFIED", 0, self.path("bad")))

    def test_list_dir(self):
        root = self.path("tree")
        for p in ("b/inner/deep", "a", "c"):
            os.makedirs(os.path.join(root, p))
        for p in ("b/x", "b/inner/y", "z", "A"):
            save(os.path.join(root, p))
        os.symlink("b", os.path.join(root, "link"))
        save(os.path.join(root.encode(), b"raw\xff"))

        def names(**kw):
            status, r = self.fs("ListDir", **kw)
            self.assertEqual(status, 200, r)
            return [e["path"][len(kw["path"]) + 1:] for e in r["entries"]]
        flat = ["A", "a", "b", "c", "link", "raw\ufffd", "z"]
        for depth in ({}, {"depth": 0}, {"depth": 1}, {"depth": "1"}):
            self.assertEqual(names(path=root, **depth), flat)
        self.assertEqual(names(path=root, depth=2), ["A", "a", "b", "b/inner", "b/x", "c", "link", "raw\ufffd", "z"])
        self.assertEqual(names(path=root, depth=99),
                         ["A", "a", "b", "b/inner", "b/inner/deep", "b/inner/y", "b/x", "c", "link", "raw\ufffd", "z"])
        self.assertEqual(names(path=os.path.join(root, "link")), ["inner", "x"])
        self.assertEqual(names(path=os.path.join(root, "a")), [])
        os.symlink("loop", os.path.join(root, "loop"))
        self.refused("failed_precondition", 400, "ListDir", path=os.path.join(root, "loop"))
        self.refused("invalid_argument", 400, "ListDir", path=os.path.join(root, "z"))
        self.refused("not_found", 404, "ListDir", path=os.path.join(root, "none"))
        self.refused("invalid_argument", 400, "ListDir", path=root, depth=-1)

    def test_make_dir(self):
        import pwd
        p = self.path("made", "by", "us")
        status, r = self.fs("MakeDir", path=p, user=USER)
        self.assertEqual((status, r["entry"]["type"]), (200, "FILE_TYPE_DIRECTORY"))
        st = os.stat(self.path("made"))
        self.assertEqual((st.st_uid, st.st_mode & 0o7777), (pwd.getpwnam(USER).pw_uid, 0o755))
        self.refused("already_exists", 409, "MakeDir", path=p)
        save(self.path("file"))
        self.refused("invalid_argument", 400, "MakeDir", path=self.path("file"))
        self.refused("invalid_argument", 400, "MakeDir", path=self.path("file", "below"))

    def test_move(self):
        save(self.path("from"), "1")
        save(self.path("onto"), "2")
        status, r = self.fs("Move", source=self.path("from"), destination=self.path("deep", "er", "to"))
        self.assertEqual((status, r["entry"]["name"]), (200, "to"))
        self.fs("Move", source=self.path("deep", "er", "to"), destination=self.path("onto"))
        self.assertEqual(content(self.path("onto")), "1")
        self.refused("not_found", 404, "Move", source=self.path("from"), destination=self.path("x"))
        os.makedirs(self.path("dir"))
        status, e = self.fs("Move", source=self.path("dir"), destination=self.path("dir", "itself"))
        self.assertEqual(status, 400)

    def test_remove(self):
        os.makedirs(self.path("gone", "a", "b"))
        outside = self.path("outside")
        save(outside)
        os.symlink(outside, self.path("gone", "link"))
        for _ in range(2):
            self.assertEqual(self.fs("Remove", path=self.path("gone")), (200, {}))
        self.assertFalse(os.path.exists(self.path("gone")))
        self.assertTrue(os.path.exists(outside))
        self.assertEqual(self.fs("Remove", path=outside + "/below"), (200, {}))
        self.refused("invalid_argument", 400, "Remove", path="/../")

    def deep(self, name, levels):
        """A tree whose end no path can name."""
        os.mkdir(self.path(name))
        at = os.open(self.path(name), os.O_RDONLY)
        for _ in range(levels):
            os.mkdir("d", dir_fd=at)
            below = os.open("d", os.O_RDONLY, dir_fd=at)
            os.close(at)
            at = below
        os.close(at)
        return self.path(name)

    def test_deep_trees(self):
        root = self.deep("deep", 3000)
        self.assertEqual(len(self.fs("ListDir", path=root, depth=100)[1]["entries"]), 100)
        self.refused("resource_exhausted", 429, "ListDir", path=root, depth=3000)
        self.assertEqual(self.fs("Remove", path=root), (200, {}))
        self.assertFalse(os.path.exists(root))
        self.assertIsNone(self.a.p.poll())


class Settings(unittest.TestCase):
    """/init and what it rules; an agent of its own for each test."""

    def setUp(self):
        self.a = Agent(token=None)

    def tearDown(self):
        self.assertEqual(self.a.stop(), 0)

    def opened(self):
        self.assertEqual(self.init(accessToken="open"), 204)
        self.a.token = "open"

    def init(self, token=None, **body):
        status, h, data = self.a.call("POST", "/init", json.dumps(body), {"X-Access-Token": token} if token else {})
        self.assertTrue(h["X-Envd-Version"])
        if status == 204:
            self.assertRegex(h["Server-Timing"], r"^init;dur=\d+\.\d{3}$")
        return status

    def test_health_is_open(self):
        self.assertEqual(self.init(accessToken="t"), 204)
        status, h, data = self.a.call("GET", "/health")
        self.assertEqual((status, data), (204, b""))

    def test_without_a_token_it_is_closed(self):
        for method, path in (*self.calls, ("POST", "/freeze"), ("POST", "/thaw"), ("GET", "/nothing"),
                             ("POST", "/nothing"), ("OPTIONS", "/files")):
            for h in ({}, {"X-Access-Token": ""}, {"X-Access-Token": "guess"}):
                self.assertEqual(self.a.call(method, path, b"{}" if method == "POST" else None, h)[0], 401, path)
        self.assertEqual(self.init(envVars={"A": "1"}), 401)  # only to set one
        self.assertEqual(self.a.call("GET", "/health")[0], 204)
        self.opened()
        self.assertEqual(self.a.json("GET", "/envs"), (200, {"E2B_SANDBOX": "true"}))
        self.a.token = None
        self.assertEqual(self.init(accessToken="mine"), 401)  # and only once

    def test_each_start_is_another_instance(self):
        seen = set()
        for _ in range(2):
            a = Agent(token=None)
            seen |= {a.call("GET", "/health")[1]["X-Envd-Instance"] for _ in range(2)}
            seen.add(a.call("POST", "/init", '{"accessToken": "t"}')[1]["X-Envd-Instance"])
            seen.add(a.call("POST", "/freeze", "{}")[1]["X-Envd-Instance"])
            self.assertEqual(a.stop(), 0)
        self.assertEqual([len(i) for i in seen], [16, 16])

    calls = [("GET", "/envs"), ("GET", "/metrics"), ("GET", "/files?path=/etc/passwd"), ("POST", "/files?path=/x"),
             ("POST", "/process.Process/List"), ("POST", "/process.Process/Start"),
             ("POST", "/filesystem.Filesystem/Stat")]

    def test_token_rules(self):
        self.assertEqual(self.init(accessToken="first"), 204)
        for token in (None, "", "firs", "first2", "other"):
            for method, path in self.calls:
                h = {} if token is None else {"X-Access-Token": token}
                status, e = self.a.json(method, path, b"{}" if method == "POST" else None, h)
                self.assertEqual(status, 401, path)
                self.assertEqual(e["code"], "unauthenticated" if "Process" in path or "Filesystem" in path else 401)
        # Another token needs the current one; the same again is a repeated call.
        self.assertEqual(self.init(accessToken="second"), 401)
        self.assertEqual(self.init("wrong", accessToken="second"), 401)
        self.assertEqual(self.init(envVars={"A": "1"}), 401)
        self.assertEqual(self.init(accessToken="first"), 204)
        self.assertEqual(self.init("first", accessToken="second"), 204)
        self.assertEqual(self.init("first", accessToken="second"), 204)  # its answer was lost
        self.assertEqual(self.init("first", accessToken="third"), 401)
        self.a.token = "second"
        self.assertEqual(self.a.call("GET", "/envs")[0], 200)

    def test_environment_is_merged(self):
        self.opened()
        self.assertEqual(self.init(envVars={"A": "1", "B": "2"}), 204)
        self.assertEqual(self.init(envVars={"B": "3"}), 204)
        self.assertEqual(self.a.json("GET", "/envs")[1], {"A": "1", "B": "3", "E2B_SANDBOX": "true"})
        s = self.a.sh("echo $A$B$C", envs={"C": "4", "A": "9"})
        s.begin()
        s.finish()
        self.assertEqual(s.out["stdout"], b"934\n")

    def test_defaults(self):
        self.opened()
        self.assertEqual(self.init(defaultUser=USER, defaultWorkdir="/usr"), 204)
        s = self.a.sh("id -un; pwd")
        s.begin()
        s.finish()
        self.assertEqual(s.out["stdout"].decode(), f"{USER}\n/usr\n")

    def test_bad_bodies(self):
        for body in ("[]", "{", '{"accessToken": 5}', '{"timestamp": "soon"}', '{"hostname": "a b"}'):
            status, e = self.a.json("POST", "/init", body)
            self.assertEqual((status, e["code"]), (400, 400))
        self.opened()
        self.assertEqual(self.init(), 204)
        self.assertEqual(self.init(timestamp="2026-11-24T03:00:00.5Z", hyperloopIP="1.2.3.4", volumeMounts=[]), 204)

    def test_entropy_is_taken(self):
        self.opened()
        self.assertEqual(self.init(entropy=base64.b64encode(os.urandom(64)).decode()), 204)

    def test_metrics(self):
        self.opened()
        status, m = self.a.json("GET", "/metrics")
        self.assertEqual(status, 200)
        self.assertEqual(set(m), {"ts", "cpu_count", "cpu_used_pct", "mem_total", "mem_used", "mem_cache",
                                  "mem_total_mib", "mem_used_mib", "disk_used", "disk_total"})
        self.assertEqual(m["cpu_count"], os.cpu_count())
        self.assertTrue(0 < m["mem_used"] < m["mem_total"])
        self.assertTrue(0 < m["disk_used"] < m["disk_total"])
        self.assertTrue(0 <= m["cpu_used_pct"] <= 100)

    def test_unknown_calls(self):
        self.opened()
        for method, path, want in (("GET", "/nothing", 404), ("POST", "/", 404), ("DELETE", "/files", 404)):
            status, e = self.a.json(method, path)
            self.assertEqual((status, e["code"]), (want, want))
        self.a.token = None  # a browser asks first without it
        self.assertEqual(self.a.call("POST", "/nothing", b"x" * 2048)[0], 401)
        status, h, _ = self.a.call("OPTIONS", "/files", headers={
            "Origin": "http://x", "Access-Control-Request-Headers": "x-access-token"})
        self.assertEqual((status, h["Access-Control-Allow-Origin"], h["Access-Control-Allow-Headers"]),
                         (204, "*", "x-access-token"))

    def test_stop_ends_the_processes_and_their_streams(self):
        self.opened()
        s = self.a.start("sleep", "100")
        pid = s.begin()
        self.a.p.terminate()
        s.finish()
        self.assertEqual(s.end["status"], "signal: killed")
        self.assertEqual(self.a.p.wait(20), 0)
        self.assertFalse(alive(pid))


class Restart(unittest.TestCase):
    """What outlives the agent (--state), and whose /init it takes (--only-from)."""

    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="envd-state-")
        self.addCleanup(shutil.rmtree, self.dir)
        self.file = os.path.join(self.dir, "agent.json")

    def start(self, *args):
        a = Agent("--state", self.file, *args, token=None)
        self.addCleanup(a.stop)
        return a

    def kill(self, a):
        a.p.kill()
        a.p.wait(20)

    def init(self, a, **body):
        return a.json("POST", "/init", json.dumps(body))[0]

    def test_settings_outlive_it(self):
        a = self.start()
        self.assertEqual(self.init(a, accessToken="one", envVars={"A": "1"}, defaultUser=USER,
                                   defaultWorkdir="/usr", timestamp="2026-11-24T03:00:00Z"), 204)
        st = os.stat(self.file)
        self.assertEqual((st.st_mode & 0o7777, st.st_uid), (0o600, 0))
        self.kill(a)
        b = self.start()
        self.assertEqual(b.call("GET", "/envs")[0], 401)
        b.token = "one"
        self.assertEqual(b.json("GET", "/envs"), (200, {"A": "1", "E2B_SANDBOX": "true"}))
        s = b.sh("id -un; pwd")
        s.begin()
        s.finish()
        self.assertEqual(s.out["stdout"].decode(), f"{USER}\n/usr\n")
        b.token = None
        self.assertEqual(self.init(b, accessToken="mine"), 401)
        with open(self.file) as f:
            self.assertEqual(json.load(f)["lastInitNs"], 1795489200 * 10**9)

    def test_init_replaces_the_file_before_it_answers(self):
        a = self.start()
        for n in range(50):
            inode = os.stat(self.file).st_ino if n else 0
            a.token = f"t{n - 1}"
            self.assertEqual(self.init(a, accessToken=f"t{n}", envVars={"N": str(n)}), 204)
            self.assertNotEqual(os.stat(self.file).st_ino, inode)
            with open(self.file) as f:
                kept = json.load(f)
            self.assertEqual((kept["accessToken"], kept["envVars"]["N"]), (f"t{n}", str(n)))
        self.assertEqual(os.listdir(self.dir), ["agent.json"])

    def test_a_file_that_is_not_right_leaves_it_closed(self):
        a = self.start()
        self.assertEqual(self.init(a, accessToken="one"), 204)
        self.kill(a)
        good = content(self.file)
        wrong = ["", "{", "[]", "{}", '{"accessToken": ""}', '{"accessToken": 5}',
                 '{"accessToken": "one", "envVars": {"A": 1}}', good[:-1]]
        for text in wrong + [None, 0o644, 0o660, "link", "owner"]:
            shutil.rmtree(self.dir)
            os.mkdir(self.dir)
            save(self.file, text if text in wrong else good)
            os.chmod(self.file, text if isinstance(text, int) else 0o600)
            if text == "owner":
                os.chown(self.file, 65534, 65534)
            elif text == "link":
                os.rename(self.file, self.file + "2")
                os.symlink("agent.json2", self.file)
            elif text is None:
                os.unlink(self.file)
            b = self.start()
            b.token = "one"
            self.assertEqual(b.call("GET", "/envs")[0], 401, text)
            self.assertEqual(self.init(b, accessToken="two"), 204)
            b.token = "two"
            self.assertEqual(b.call("GET", "/envs")[0], 200)
            self.kill(b)

    def test_a_file_that_cannot_be_replaced_goes(self):
        a = self.start()
        self.assertEqual(self.init(a, accessToken="one"), 204)
        a.token = "one"
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=2", "none", self.dir], check=True)
        self.addCleanup(subprocess.run, ["umount", "-l", self.dir], check=True)
        save(self.file)
        self.assertEqual(self.init(a, accessToken="two"), 204)
        self.assertEqual(os.listdir(self.dir), [])

    def test_calls_of_the_host_come_from_the_host_alone(self):
        for only in ("127.0.0.2%lo", "127.0.0.1%nope0"):
            a = self.start("--only-from", only)
            for path, body in (("/init", {"accessToken": "mine"}), ("/freeze", {}), ("/thaw", {})):
                status, e = a.json("POST", path, json.dumps(body))
                self.assertEqual((status, e["code"]), (403, 403))
            self.assertFalse(os.path.exists(self.file))
        a = self.start("--only-from", "127.0.0.1%lo")
        self.assertEqual(self.init(a, accessToken="one"), 204)
        a.token = "one"
        self.assertEqual(a.call("GET", "/envs")[0], 200)
        for bad in ("127.0.0.1", "%lo", "1.2.3%lo", "127.0.0.1%", "127.0.0.1%" + 16 * "x"):
            self.assertEqual(subprocess.run([ENVD, "--only-from", bad], capture_output=True).returncode, 2)


class Program(unittest.TestCase):
    def test_size_and_idle_memory(self):
        with tempfile.TemporaryDirectory() as d:
            small = os.path.join(d, "envd")
            subprocess.run(["strip", "-o", small, ENVD], check=True)
            self.assertLess(os.path.getsize(small), 2 * MIB)
        a = Agent()
        try:
            self.assertLess(a.status("VmRSS"), 3 * 1024)
            for _ in range(50):
                s = a.sh("echo hello")
                s.begin()
                s.finish()
                a.rpc("filesystem.Filesystem/ListDir", {"path": "/usr/bin"})
            wait(lambda: a.threads() == 2, "connections and pumps end")
            self.assertLess(a.status("VmRSS"), 3 * 1024)
        finally:
            a.stop()

    def test_static(self):
        for p in (ENVD, INIT):
            out = subprocess.run(["readelf", "-ldW", p], check=True, capture_output=True, text=True).stdout
            self.assertNotIn("INTERP", out)
            self.assertNotIn("NEEDED", out)

    def test_ordinary_user(self):
        with tempfile.TemporaryDirectory() as d:
            os.chmod(d, 0o755)
            copy = shutil.copy(ENVD, d)
            global_envd = globals()["ENVD"]
            globals()["ENVD"] = copy
            try:
                a = Agent(user=USER, group="nogroup", extra_groups=[])
            finally:
                globals()["ENVD"] = global_envd
            try:
                s = a.start("id", "-un", cwd="/")
                s.begin()
                s.finish()
                self.assertEqual(s.out["stdout"].decode(), USER + "\n")
                s = a.start("id", cwd="/", user="root")
                self.assertIsNone(s.next())
                self.assertEqual(s.ended["error"]["code"], "permission_denied")
                self.assertIn("root", s.ended["error"]["message"])
            finally:
                a.stop()

    def test_bad_arguments(self):
        for args in (["--port", "x"], ["--port", "70000"], ["extra"], ["--nope"]):
            self.assertEqual(subprocess.run([ENVD, *args], capture_output=True).returncode, 2)
        r = subprocess.run([ENVD, "--port", "0", "--host", "nowhere"], capture_output=True, text=True)
        self.assertEqual(r.returncode, 1)
        self.assertIn("nowhere", r.stderr)
        self.assertEqual(subprocess.run([INIT], capture_output=True).returncode, 2)

    def test_many_at_once(self):
        a = Agent()
        wait(lambda: a.threads() == 2, "the first connection ends")
        before = a.descriptors()
        failures = []

        def worker(n):
            try:
                for i in range(20):
                    s = a.sh(f"echo {n}-{i}; cat >/dev/null; exit {i}")
                    s.begin()
                    s.finish()
                    assert s.out["stdout"].decode() == f"{n}-{i}\n" and s.end["exitCode"] == i
            except BaseException as e:
                failures.append(repr(e))
        try:
            threads = [threading.Thread(target=worker, args=(n,)) for n in range(8)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            self.assertEqual(failures, [])
            wait(lambda: a.threads() == 2, "all threads end")
            # Fewer: the first connection was counted, whose thread ends before its socket does.
            wait(lambda: a.descriptors() <= before, "all descriptors are closed")
        finally:
            a.stop()


if __name__ == "__main__":
    ENVD, INIT = (os.path.abspath(p) for p in sys.argv[1:3])
    if os.geteuid() != 0:
        print("needs root")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
