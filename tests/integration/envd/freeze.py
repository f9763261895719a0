#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The guest's side of the clone contract, with the real agent on this host: in a cgroup v2 of its own,
and in namespaces of its own (network, mounts, host name), as a resume changes the whole machine.

    freeze.py ENVD STASIS_INIT CLIENT_CALL [test names...]

Needs root and cgroup v2; skipped (77) without.
"""
import base64
import ctypes
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
HERE, AWAY = "10.98.0.1", "10.98.0.2"  # ours, and one of a network namespace beside us
NEW_NET, NEW_NS, NEW_UTS = 0x40000000, 0x00020000, 0x04000000  # of clone(2)
libc = ctypes.CDLL(None, use_errno=True)
away_ns = None  # descriptor
CLIENT = None
HOOKS = "/etc/stasis/resume.d"


def check(rc):
    if rc:
        raise OSError(ctypes.get_errno(), "namespaces")


def connect_away(port):
    """From beside us: a socket belongs to the namespace that it was made in."""
    with open("/proc/thread-self/ns/net") as ours:
        check(libc.setns(away_ns.fileno(), NEW_NET))
        try:
            c = socket.socket()
        finally:
            check(libc.setns(ours.fileno(), NEW_NET))
    c.settimeout(60)
    c.connect((HERE, port))
    return c


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
        # Main thread and server; in a guest, who watches the kernel's log.
        self.own_threads = 3 if "--guest" in args else 2
        super().__init__("--cgroup", cgroup, *args, token=TOKEN, **popen)

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
        wait(lambda: self.threads() == self.own_threads, "no request is left")

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
        self.a.token = None
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


class Client(Case):
    """The host's side of it."""
    args = ("--guest",)

    def ask(self, what, token=TOKEN, new=TOKEN):
        r = subprocess.run([CLIENT, f"http://127.0.0.1:{self.a.port}", token, what, new], capture_output=True,
                           check=False)
        return r.stdout.decode()

    def test_freezes_thaws_and_resumes(self):
        self.a.init(accessToken=TOKEN)
        self.a.token = TOKEN
        self.counter()
        self.assertEqual(self.ask("freeze"), "")
        self.assertTrue(self.stands())
        self.assertEqual(self.ask("thaw"), "")
        self.goes_on()
        self.assertEqual(self.ask("freeze"), "")
        self.assertRegex(self.ask("resume", "wrong", "other"), "^unauthenticated: POST /init: .*current token")
        self.assertTrue(self.stands())
        self.assertEqual(self.ask("resume", new="new"), "")
        self.goes_on()
        self.assertEqual(socket.gethostname(), "copy-c")
        self.assertRegex(self.ask("freeze"), "^unauthenticated: POST /freeze: ")
        self.assertEqual(self.ask("resume", new="new"), "")  # the answer was lost


class Stuck(Case):
    """A process that cannot be frozen: it waits in the kernel for a file system that stands still."""

    def setUp(self):
        # Unmounted last: only when all of the agent's processes are gone does nobody use it any more.
        folder = tempfile.mkdtemp(prefix="envd-freeze-disk-")
        self.addCleanup(shutil.rmtree, folder)
        os.chmod(folder, 0o777)
        disk, self.mount = os.path.join(folder, "disk"), os.path.join(folder, "mount")
        with open(disk, "wb") as f:
            f.truncate(8 * protocol.MIB)
        os.mkdir(self.mount)
        subprocess.run(["mkfs.ext4", "-q", disk], check=True)
        subprocess.run(["mount", "-o", "loop", disk, self.mount], check=True)
        self.addCleanup(subprocess.run, ["umount", self.mount], check=True)
        self.held = False
        super().setUp()
        subprocess.run(["fsfreeze", "-f", self.mount], check=True)
        self.held = True
        s = self.a.sh(f"echo $$; echo x >{self.mount}/file", user="root")
        pid = s.begin()
        wait(lambda: content(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()[0] == "D", "it is stuck")
        self.stream = s
        self.counter()

    def let_go(self):
        if self.held:
            subprocess.run(["fsfreeze", "-u", self.mount], check=True)
        self.held = False

    def stop(self):
        self.let_go()
        super().stop()

    def test_time_is_bounded_and_nothing_stays_frozen(self):
        status, e = self.a.freeze()
        self.assertEqual(status, 504)
        self.assertIn("stand still", e["message"])
        self.goes_on()
        self.let_go()
        self.stream.finish()
        self.assertEqual(self.a.freeze()[0], 204)
        self.assertTrue(self.stands())
        self.assertEqual(self.a.thaw()[0], 204)

    def test_thaw_ends_a_freeze_under_way(self):
        answers = []
        t = threading.Thread(target=lambda: answers.append(self.a.freeze()))
        t.start()
        wait(lambda: content(self.a.cgroup + "/cgroup.freeze") == "1\n", "it freezes")
        # Another one waits for its turn; then it is the one under way.
        self.assertEqual(self.a.thaw()[0], 204)
        t.join()
        self.assertEqual(answers[0][0], 409)
        self.assertIn("thawed", answers[0][1]["message"])
        self.goes_on()


class NoCgroup(unittest.TestCase):
    def test_says_so(self):
        a = protocol.Agent()
        url = f"http://127.0.0.1:{a.port}"
        try:
            r = subprocess.run([CLIENT, url, a.token, "freeze", "-"], capture_output=True, check=False)
            self.assertRegex(r.stdout.decode(), "^unavailable: POST /freeze: .*cgroup")
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


class Machine(Case):
    """What --guest allows: connections, hooks, host name."""
    args = ("--guest", "--host", "0.0.0.0")

    def setUp(self):
        super().setUp()
        os.makedirs(HOOKS)
        self.addCleanup(shutil.rmtree, HOOKS)

    def hook(self, name, text, mode=0o755):
        save(os.path.join(HOOKS, name), "#!/bin/sh\n" + text)
        os.chmod(os.path.join(HOOKS, name), mode)

    def away(self, body=b"", path="/health", method="GET"):
        c = connect_away(self.a.port)
        self.addCleanup(c.close)
        c.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+json\r\n"
                  f"X-Access-Token: {TOKEN}\r\nAuthorization: Basic cm9vdDo=\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        return c

    def start_away(self, script):
        body = json.dumps({"process": {"cmd": "/bin/sh", "args": ["-c", script]}}).encode()
        return self.away(b"\0" + len(body).to_bytes(4, "big") + body, "/process.Process/Start", "POST")

    def test_connections_of_before_are_ended(self):
        kept = socket.create_connection(("127.0.0.1", self.a.port))
        self.addCleanup(kept.close)
        idle = self.away()
        self.assertTrue(idle.recv(4096).startswith(b"HTTP/1.1 204"))
        self.assertEqual(self.a.freeze()[0], 204)
        self.assertEqual(self.a.resume(None)[0], 204)
        self.assertRaises(ConnectionResetError, idle.recv, 1)
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertTrue(kept.recv(4096).startswith(b"HTTP/1.1 204"))
        kept.close()
        self.a.idle()  # nor does the agent hold on to them

    def test_of_ipv6_too(self):
        with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
            there = connect_away(server.getsockname()[1])
            here, _ = server.accept()
            with here, there:
                self.assertEqual(self.a.resume(None)[0], 204)
                self.assertRaises(ConnectionAbortedError, here.recv, 1)
                self.assertRaises(ConnectionResetError, there.recv, 1)

    def test_the_requests_own_connection_lives(self):
        message = {"resumed": True, "timestamp": "2026-11-25T00:00:00Z", "entropy": base64.b64encode(
            bytes(32)).decode()}
        c = self.away(json.dumps(message).encode(), "/init", "POST")
        self.assertTrue(c.recv(4096).startswith(b"HTTP/1.1 204"))
        c.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertTrue(c.recv(4096).startswith(b"HTTP/1.1 204"))

    def test_output_is_not_held_up_by_a_dead_client(self):
        done = self.path("done")
        c = self.start_away(f"head -c 50000000 /dev/zero; echo x >{done}")
        self.assertTrue(c.recv(100).startswith(b"HTTP/1.1 200"))
        # It never reads on, so the process stands with its pipe full.
        pid = self.a.rpc("process.Process/List", {})[1]["processes"][0]["pid"]
        wait(lambda: any("pipe_write" in content(f"/proc/{child}/wchan")
                         for child in content(f"/proc/{pid}/task/{pid}/children").split()), "the pipe is full")
        self.assertFalse(os.path.exists(done))
        self.assertEqual(self.a.freeze()[0], 204)
        self.assertEqual(self.a.resume(None)[0], 204)
        wait(lambda: os.path.exists(done), "it goes on")

    def test_start_that_waited_in_the_snapshot_starts_nothing(self):
        done = self.path("done")
        self.assertEqual(self.a.freeze()[0], 204)
        self.a.idle()
        self.start_away(f"echo x >{done}")
        wait(lambda: self.a.threads() > 2, "the request is there")
        self.assertEqual(self.a.resume(None)[0], 204)
        self.a.idle()
        self.assertFalse(os.path.exists(done))

    def test_hooks_run_in_order_before_anybody_else(self):
        self.counter()
        log = self.path("log")
        for name, text, mode in (
                ("20-second", f"echo second $LATE $USER >>{log}", 0o755),
                ("10-first", f"echo first $(hostname) $(tr '\\n' ' ' <{self.a.cgroup}/cgroup.events) >>{log}", 0o755),
                ("15-fails", f"echo fails >>{log}; exit 3", 0o755), ("30-is-none", f"echo none >>{log}", 0o644),
                (".40-hidden", f"echo hidden >>{log}", 0o755), ("50-old~", f"echo old >>{log}", 0o755)):
            self.hook(name, text + "\n", mode)
        os.mkdir(os.path.join(HOOKS, "60-directory"))
        self.assertEqual(self.a.freeze()[0], 204)
        self.assertEqual(self.a.resume(None, hostname="copy-7", envVars={"LATE": "yes"})[0], 204)
        self.assertEqual(content(log).splitlines(), ["first copy-7 populated 1 frozen 1", "fails", "second yes root"])
        self.assertIn("copy-7", content("/etc/hosts"))
        self.goes_on()

    def test_hook_without_end_is_ended(self):
        log = self.path("log")
        self.hook("10", f"sleep 1000 & echo $! >{log}; wait")
        self.hook("20", f"echo never >>{log}")
        self.counter()
        self.assertEqual(self.a.freeze()[0], 204)
        self.assertEqual(self.a.resume(None)[0], 204)
        self.goes_on()
        pid, = content(log).split()
        wait(lambda: not alive(int(pid)), "what it started is gone")


class Trim(Case):
    """A file system on a loop device, which may or may not be able to discard."""

    def setUp(self):
        self.mnt = tempfile.mkdtemp(prefix="envd-trim-")
        self.addCleanup(os.rmdir, self.mnt)
        self.disk = self.mnt + ".img"
        with open(self.disk, "wb") as f:
            f.truncate(512 << 20)
        self.addCleanup(os.unlink, self.disk)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-E", "lazy_itable_init=0,lazy_journal_init=0",
                        self.disk], check=True)
        subprocess.run(["mount", "-o", "loop", self.disk, self.mnt], check=True)
        self.addCleanup(subprocess.run, ["umount", self.mnt], check=True)
        self.args = ("--trim", self.mnt)
        super().setUp()

    def write(self, name, mib):
        with open(os.path.join(self.mnt, name), "wb") as f:
            f.write(os.urandom(1 << 20) * mib)
            f.flush()
            os.fsync(f.fileno())

    def freeze(self):
        """Milliseconds that it tells of."""
        status, headers, _ = self.a.call("POST", "/freeze", "{}")
        self.assertEqual(status, 204)
        self.assertEqual(self.a.thaw()[0], 204)
        whole, trim = re.fullmatch(r"freeze;dur=([0-9.]+), trim;dur=([0-9.]+)", headers["Server-Timing"]).groups()
        self.assertLessEqual(float(trim), float(whole))
        return float(trim)

    def test_asks_when_enough_was_freed_and_then_no_more(self):
        self.assertEqual(self.freeze(), 0)
        self.write("big", 100)
        self.assertEqual(self.freeze(), 0)  # all of it is in use
        os.unlink(os.path.join(self.mnt, "big"))
        self.assertGreater(self.freeze(), 0)
        wait(lambda: self.freeze() == 0, "all is given back")

    def test_what_comes_and_goes_between_two_looks_counts(self):
        self.write("short", 40)
        os.unlink(os.path.join(self.mnt, "short"))
        self.assertEqual(self.freeze(), 0)
        self.write("short", 40)
        os.unlink(os.path.join(self.mnt, "short"))
        self.assertGreater(self.freeze(), 0)


def namespaces():
    """Of this program and all that it starts. /etc can be written without harm."""
    global away_ns
    check(libc.unshare(NEW_NET))
    away_ns = open("/proc/thread-self/ns/net")
    check(libc.unshare(NEW_NET | NEW_NS | NEW_UTS))
    script = f"""set -e
        mount --make-rprivate /
        ip link set lo up
        ip link add here type veth peer name away netns /proc/self/fd/{away_ns.fileno()}
        ip addr add {HERE}/30 dev here
        ip link set here up
        nsenter --net=/proc/self/fd/{away_ns.fileno()} sh -c '
            ip addr add {AWAY}/30 dev away
            ip link set away up'
        mount -t tmpfs none /mnt
        mkdir /mnt/u /mnt/w
        mount -t overlay overlay -o lowerdir=/etc,upperdir=/mnt/u,workdir=/mnt/w /etc
        rm -rf /etc/stasis"""
    subprocess.run(["sh", "-c", script], check=True, pass_fds=[away_ns.fileno()])


if __name__ == "__main__":
    protocol.ENVD, protocol.INIT, CLIENT = (os.path.abspath(p) for p in sys.argv[1:4])
    if os.geteuid() != 0 or not cgroup2():
        print("needs root and a writable cgroup v2")
        sys.exit(77)
    namespaces()
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=2, warnings="ignore")
