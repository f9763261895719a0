# SPDX-License-Identifier: Apache-2.0
"""A real server on a temporary volume, with a free port and network range of its own, ended on
every exit. Tests share it, and one sandbox, where that is harmless."""
import atexit
import base64
import http.client
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("STASIS_BUILD", os.path.join(ROOT, "build"))
STASIS = os.path.join(BUILD, "stasis")
# Of a sandbox that has ended, for an hour: its console, and what Firecracker logged.
KEPT = {"console.log", "vmm.log"}
PROGRAMS = ("stasis-shim", "stasis-pager", "fcqemu", "qemu-system-x86_64", "firecracker")

# A guest under emulation, with another one beside it on two cores; more than the server's own limit
# (READY_MS), so that its error is what a test shows.
BOOT_LIMIT = 240


def wait_until(what, check, limit=30.0):
    """Asks check() until it gives something true, and returns that."""
    end = time.monotonic() + limit
    pause = 0.01
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"after {limit} s still not: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.25)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def free_range():
    """A /20 that no route of this machine touches; lanes that run beside each other look in halves
    of their own."""
    lane = int(os.environ.get("STASIS_LANE", "0")) % 2
    taken = []
    out = subprocess.run(["ip", "-j", "-4", "route", "show", "table", "all"], check=True,
                         capture_output=True).stdout
    for route in json.loads(out):
        if route["dst"] != "default":
            taken.append(ipaddress.ip_network(route["dst"], strict=False))
    for third in range(128 * lane, 128 * lane + 128, 16):
        net = ipaddress.ip_network(f"10.219.{third}.0/20")
        if not any(net.overlaps(t) for t in taken):
            return str(net)
    raise RuntimeError("no free network range")


class Cli:
    """What one run of the command line said."""

    def __init__(self, done):
        self.code = done.returncode
        self.out, self.err = done.stdout, done.stderr
        # The code of a program in which a sanitizer found something (tests/run sanitized).
        if str(self.code) == os.environ.get("SANITIZER_EXIT"):
            raise AssertionError(self.errors)

    @property
    def text(self):
        return self.out.decode()

    @property
    def errors(self):
        return self.err.decode(errors="replace")

    def json(self):
        return json.loads(self.out)

    def ok(self):
        if self.code != 0:
            raise AssertionError(f"exit code {self.code}: {self.errors}{self.text[-500:]}")
        return self


# The roles in one process, or in two (STASIS_ROLES=two): the control plane then runs as this user,
# with a data directory of its own.
TWO_ROLES = os.environ.get("STASIS_ROLES", "one") == "two"
CONTROL_USER, CONTROL_GROUP = "nobody", "nogroup"


class Outside:
    """A machine on the other side of this one, where a guest may go: a network namespace with a
    public address and a web server. "with Outside() as url": the address of a file with "outside"."""

    def __enter__(self):
        self.name = f"stasis-out-{os.getpid()}"
        self.dir = tempfile.mkdtemp(prefix="stasis-outside.")
        with open(os.path.join(self.dir, "file"), "w") as f:
            f.write("outside")
        inside = ["ip", "netns", "exec", self.name]
        self.server = None
        try:
            for cmd in (["ip", "netns", "add", self.name],
                        ["ip", "link", "add", "stasis-out", "type", "veth", "peer", "name", "eth0",
                         "netns", self.name],
                        ["ip", "addr", "add", "11.0.0.1/30", "dev", "stasis-out"],
                        ["ip", "link", "set", "stasis-out", "up"],
                        inside + ["ip", "addr", "add", "11.0.0.2/30", "dev", "eth0"],
                        inside + ["ip", "link", "set", "eth0", "up"]):
                subprocess.run(cmd, check=True)
            # A server that starts does that for the ways out that there are by then.
            with open("/proc/sys/net/ipv4/conf/stasis-out/forwarding", "w") as f:
                f.write("1")
            self.server = subprocess.Popen(
                inside + [sys.executable, "-m", "http.server", "-d", self.dir, "80"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_until("the web server outside", lambda: subprocess.run(
                inside + ["sh", "-c", "ss -Hltn sport = 80 | grep -q ."], check=False).returncode == 0)
        except BaseException:
            self.__exit__()
            raise
        return "http://11.0.0.2/file"

    def __exit__(self, *_):
        if self.server:
            self.server.kill()
            self.server.wait()
        subprocess.run(["ip", "link", "del", "stasis-out"], check=False)
        subprocess.run(["ip", "netns", "del", self.name], check=False)
        shutil.rmtree(self.dir)


class World:
    """Temporary directory, volume and server. With the roles in two processes "server" is the
    control plane and "host" the other one; start, stop and kill mean both."""

    def __init__(self, name="e2e", volume_size="8G", two_roles=None):
        self.two = TWO_ROLES if two_roles is None else two_roles
        self.dir = tempfile.mkdtemp(prefix=f"stasis-{name}.")
        os.chmod(self.dir, 0o711)  # the edge runs as another user
        self.data = os.path.join(self.dir, "data")
        self.run = os.path.join(self.dir, "run")
        self.log = os.path.join(self.dir, "server.log")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.slots = free_range()
        self.control_data = self.data + "-control" if self.two else self.data
        self.control_run = self.run + "-control" if self.two else self.run
        self.host_socket = os.path.join(self.run, "host.sock")
        if self.two:
            for folder in (self.control_data, self.control_run):
                os.mkdir(folder, 0o711)
                shutil.chown(folder, CONTROL_USER, CONTROL_GROUP)
        self.server = self.host = None
        self.agent = None  # the program that the server gives to guests with an older one
        self.volume = self.was_ready = False
        self.more_env = {}
        self.ids = set()
        atexit.register(self.close)
        self.cli("setup", "volume", "--size", volume_size, api=False, limit=120).ok()
        self.volume = True

    # --- programs

    def env(self, extra=None):
        env = {k: v for k, v in os.environ.items() if not k.startswith("STASIS_")}
        env.update(STASIS_DATA=self.data, STASIS_URL=self.url)
        if self.agent:
            env["STASIS_AGENT"] = self.agent
        if "STASIS_CACHE" in os.environ:
            env["STASIS_CACHE"] = os.environ["STASIS_CACHE"]
        env.update(self.more_env)
        env.update(extra or {})
        return env

    def cli(self, *args, stdin=b"", limit=120, env=None, api=True, cwd=None):
        if isinstance(stdin, str):
            stdin = stdin.encode()
        return Cli(subprocess.run([STASIS, *args], input=stdin, capture_output=True, timeout=limit,
                                  env=self.env(env), cwd=cwd or self.dir, check=False))

    def popen(self, *args, env=None, **kw):
        return subprocess.Popen([STASIS, *args], env=self.env(env), cwd=self.dir, **kw)

    def build_image(self):
        # Its progress goes to the terminal: without a cache this takes minutes.
        subprocess.run([STASIS, "image", "build", "base"], env=self.env(), check=True,
                       stdout=sys.stderr)

    # --- the server

    def host_args(self):
        return ["--data-dir", self.data, "--run-dir", self.run, "--slot-range", self.slots,
                "--warm-slots", "2", "--log-level", "debug"]

    def serve_args(self):
        """Of the process that owns the machine."""
        if self.two:
            return ["serve", "--role", "host", *self.host_args(), "--socket-group", CONTROL_GROUP]
        return ["serve", *self.host_args(), "--listen", f"127.0.0.1:{self.port}"]

    def launch(self, args, fault, limit, **kw):
        with open(self.log, "ab") as log:
            program = self.popen(*args, stdout=subprocess.PIPE, stderr=log,
                                 env={"STASIS_FAULT": fault} if fault else None, **kw)
        line = program.stdout.readline().decode()
        if not line.startswith("stasis: ready on "):
            program.wait(limit)
            program.stdout.close()
            with open(self.log, errors="replace") as log:
                tail = log.read()[-3000:]
            raise AssertionError(f"the server did not start: {line!r}\n{tail}")
        self.was_ready = True
        return program

    def start_host(self, fault=None, limit=60, extra=()):
        self.host = self.launch([*self.serve_args(), *extra], fault, limit)

    def start_control(self, fault=None, limit=60):
        self.server = self.launch(
            ["serve", "--role", "control", "--data-dir", self.control_data, "--run-dir",
             self.control_run, "--host-socket", self.host_socket, "--listen",
             f"127.0.0.1:{self.port}", "--log-level", "debug"],
            fault, limit, user=CONTROL_USER, group=CONTROL_GROUP, extra_groups=[])

    def start(self, fault=None, limit=60, extra=()):
        """extra: further flags, of the host where there are two."""
        if not self.two:
            self.server = self.launch([*self.serve_args(), *extra], fault, limit)
            return self
        # A step that fails is in the one or in the other.
        if self.host is None:
            self.start_host(fault, limit, extra)
        if self.server is None:
            self.start_control(fault, limit)
        return self

    def check_host(self):
        """/v1/host, which must be what STASIS_EXPECT_ISOLATION ("kvm") and STASIS_EXPECT_VMM
        ("fcqemu", "Firecracker") say: a server that quietly emulates fails the tests of KVM."""
        host = self.api("GET", "/v1/host").json()
        isolation = os.environ.get("STASIS_EXPECT_ISOLATION", host["isolation"])
        vmm = os.environ.get("STASIS_EXPECT_VMM", "")
        if host["isolation"] != isolation or not host["vmm"].startswith(vmm):
            raise AssertionError(f"expected {isolation} {vmm}, got {host['isolation']}, {host['vmm']}")
        return host

    def stop(self, limit=60):
        for name in ("server", "host"):
            program = getattr(self, name)
            if program is None:
                continue
            program.send_signal(signal.SIGTERM)
            code = program.wait(limit)
            program.stdout.close()
            setattr(self, name, None)
            if code != 0:
                raise AssertionError(f"the {name} ended with {code}")

    def kill(self):
        for program in (self.server, self.host):
            if program:
                program.kill()
        self.reap()

    def kill_host(self):
        self.host.kill()
        self.host.wait(60)
        self.host.stdout.close()
        self.host = None

    def kill_control(self):
        self.server.kill()
        self.server.wait(60)
        self.server.stdout.close()
        self.server = None

    def reap(self, limit=60):
        """Waits for a server that a fault point ends; with two roles, for either of them, and ends
        the other."""
        programs = [p for p in (self.server, self.host) if p]
        if len(programs) == 2:
            wait_until("one of the servers ends",
                       lambda: any(p.poll() is not None for p in programs), limit)
        for program in programs:
            if len(programs) == 2 and program.poll() is None:
                program.kill()
            program.wait(limit)
            program.stdout.close()
        self.server = self.host = None

    def key(self):
        with open(os.path.join(self.control_data, "admin.key")) as f:
            return f.read().strip()

    def log_tail(self, n=4000):
        with open(self.log, errors="replace") as f:
            return f.read()[-n:]

    def close(self):
        """The way out, whatever happened before: nothing stays."""
        atexit.unregister(self.close)
        before = [(sig, signal.signal(sig, signal.SIG_IGN))
                  for sig in (signal.SIGINT, signal.SIGTERM)]
        try:
            # A signal to the whole process group ended the servers too.
            for name in ("server", "host"):
                if getattr(self, name) and getattr(self, name).poll() is not None:
                    setattr(self, name, None)
            if self.volume and (self.server is None or self.two and self.host is None):
                self.start()
            for s in self.api("GET", "/v1/sandboxes?state=all&limit=100").json()["sandboxes"]:
                self.api("DELETE", f"/v1/sandboxes/{s['id']}")
            self.stop()
        except Exception as error:  # the rest must still be tried
            print(f"clean-up: {error}", file=sys.stderr)
            if self.server or self.host:
                self.kill()
        if self.volume:
            done = self.cli("setup", "remove", "--yes", "--run-dir", self.run, api=False)
            if done.code != 0:
                print(f"clean-up: {done.errors}", file=sys.stderr)
        shutil.rmtree(self.dir, ignore_errors=True)
        for sig, handler in before:
            signal.signal(sig, handler)

    # --- REST

    def api(self, method, path, body=None, key=None, headers=None, limit=BOOT_LIMIT):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=limit)
        try:
            h = {"X-API-Key": self.key() if key is None else key}
            if key == "":
                h = {}
            if isinstance(body, (dict, list)):
                body = json.dumps(body)
                h["Content-Type"] = "application/json"
            h.update(headers or {})
            c.request(method, path, body=body, headers=h)
            return Answer(c.getresponse())
        finally:
            c.close()

    def create(self, **body):
        body.setdefault("timeout_sec", 3600)
        a = self.api("POST", "/v1/sandboxes", body)
        if a.status != 201:
            raise AssertionError(f"create: {a.status} {a.body[:500]!r}")
        return Sandbox(self, a.json())

    def clear(self):
        """Removes the sandboxes of earlier tests, the shared one too: shared() makes another."""
        for s in self.api("GET", "/v1/sandboxes?limit=100").json()["sandboxes"]:
            self.api("DELETE", f"/v1/sandboxes/{s['id']}")

    # --- what must be the same before and after

    def leftovers(self):
        """Everything of ours on this machine that a sandbox could leave behind. What a running
        server keeps on purpose is not counted: its warm slots, and consoles and logs of ended
        sandboxes."""
        found = set()
        running = self.server is not None or self.host is not None
        for line in open("/proc/self/mountinfo"):
            where = line.split()[4]
            if self.dir in where and not (running and where.startswith(self.run + "/netns/")):
                found.add("mount " + where)
        found.update(f"process {pid} {name}" for pid, name in self.processes())
        for device in os.listdir("/sys/block"):
            try:
                with open(f"/sys/block/{device}/loop/backing_file") as f:
                    backing = f.read().strip()
            except OSError:
                continue
            if self.dir in backing:
                found.add(f"loop {device}")
        if not running:
            links = subprocess.run(["ip", "-j", "-4", "addr"], capture_output=True, check=True)
            found.update("link " + link["ifname"] for link in json.loads(links.stdout)
                         for i in link["addr_info"] if ipaddress.ip_address(i["local"]) in
                         ipaddress.ip_network(self.slots))
            rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, check=True)
            if self.slots.encode() in rules.stdout:
                found.add("nft table")
        for top, dirs, files in os.walk(os.path.join(self.data, "sandboxes")):
            found.update("file " + os.path.join(top, f) for f in files if f not in KEPT)
        for name in os.listdir(self.run) if os.path.exists(self.run) else []:
            if re.fullmatch("i[a-z0-9]{20}", name):
                found.add("run directory " + name)
        return found

    def leftovers_of(self, kind):
        return {x for x in self.leftovers() if x.startswith(kind + " ")}

    def processes(self):
        """Process ids and program names of our sandboxes."""
        device = os.stat(self.data).st_dev
        volume = f"{os.major(device)}:{os.minor(device)}"
        named = ((int(pid), self.process(pid, volume))
                 for pid in filter(str.isdigit, os.listdir("/proc")))
        return [(pid, name) for pid, name in named if name]

    def process(self, pid, volume):
        """The program's name, when it is one of a sandbox of ours: a disk of our volume is in its
        mount namespace, which is not our own."""
        try:
            exe = os.path.basename(os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)"))
            if exe.startswith("ld-linux"):  # what a jail starts with its own libraries
                with open(f"/proc/{pid}/comm") as f:
                    exe = f.read().strip()
            if exe not in PROGRAMS:
                return None
            with open(f"/proc/{pid}/cmdline") as f:
                if self.dir in f.read():
                    return exe
            if os.stat(f"/proc/{pid}/ns/mnt").st_ino == os.stat("/proc/self/ns/mnt").st_ino:
                return None
            with open(f"/proc/{pid}/mountinfo") as f:
                return exe if any(line.split()[2] == volume for line in f) else None
        except OSError:
            return None

    def settle(self, before, limit=30):
        """Waits until nothing is there that was not before."""
        try:
            wait_until("clean", lambda: not self.leftovers() - before, limit)
        except AssertionError:
            raise AssertionError("left behind: " +
                                 ", ".join(sorted(self.leftovers() - before))) from None


class Answer:
    def __init__(self, r):
        self.status, self.headers, self.body = r.status, r.headers, r.read()

    def json(self):
        return json.loads(self.body)

    def error(self):
        return self.json()["error"]["code"]


class Sandbox:
    def __init__(self, world, row):
        self.world, self.row = world, row
        self.id, self.token = row["id"], row["envd_token"]
        world.ids.add(self.id)

    def get(self):
        return self.world.api("GET", f"/v1/sandboxes/{self.id}").json()

    def run(self, cmd, **body):
        """A shell command by the buffered exec; its answer."""
        body["cmd"] = cmd
        a = self.world.api("POST", f"/v1/sandboxes/{self.id}/exec", body)
        if a.status != 200:
            raise AssertionError(f"exec {cmd!r}: {a.status} {a.body[:500]!r}")
        return a.json()

    def sh(self, cmd, **body):
        """The standard output of a command that must succeed."""
        r = self.run(cmd, **body)
        if r["exit_code"] != 0:
            raise AssertionError(f"{cmd!r}: {r}")
        return r["stdout"]

    def delete(self):
        return self.world.api("DELETE", f"/v1/sandboxes/{self.id}")

    def edge(self, method, path, port=49983, body=None, headers=None, token=True, limit=60):
        h = {"E2b-Sandbox-Id": self.id, "E2b-Sandbox-Port": str(port)}
        if token:
            h["X-Access-Token"] = self.token
        h.update(headers or {})
        return self.world.api(method, path, body, key="", headers=h, limit=limit)

    def pause(self):
        return self.ok(self.world.api("POST", f"/v1/sandboxes/{self.id}/pause", {}))

    def resume(self, **body):
        return self.ok(self.world.api("POST", f"/v1/sandboxes/{self.id}/resume", body))

    def fork(self, n, **body):
        """The children, all of which must come up."""
        body["count"] = n
        children = self.ok(self.world.api("POST", f"/v1/sandboxes/{self.id}/fork", body))
        return [Sandbox(self.world, c) for c in children["children"]]

    def snapshot(self, name, **body):
        body.update(sandbox_id=self.id, name=name)
        return self.ok(self.world.api("POST", "/v1/snapshots", body))

    @staticmethod
    def ok(answer):
        if answer.status not in (200, 201):
            raise AssertionError(f"{answer.status} {answer.body[:800]!r}")
        return answer.json()

    def alive(self):
        """The sandbox is unharmed."""
        assert self.sh("echo well") == "well\n"


def vmm_of(w, sandbox):
    """Process ids of the adapter and of QEMU; of Firecracker alone where that is the VMM."""
    with open(os.path.join(w.run, sandbox.id, "state.json")) as f:
        pids = [json.load(f)["vmm_pid"]]
    for thread in os.listdir(f"/proc/{pids[0]}/task"):
        with open(f"/proc/{pids[0]}/task/{thread}/children") as f:
            pids += map(int, f.read().split())
    return pids


# Uses up the memory of a guest. The kernel fills the pages in (MAP_POPULATE): a program that does it
# itself has its own code thrown out and read again, over and over, before it is killed.
EAT = ["python3", "-c", "import mmap\nprivate = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x8000\n"
       "all = [mmap.mmap(-1, 100 << 20, flags=private) for _ in range(20)]"]


def b64(data):
    return base64.b64encode(data).decode()


_world = None
_sandbox = None


def world():
    """The shared server."""
    global _world
    if _world is None:
        _world = World()
        _world.build_image()
        _world.start()
        _world.check_host()
    elif _world.server is None:
        _world.start()
    return _world


def shared():
    """The shared sandbox: whatever a test does to it must not disturb the next."""
    global _sandbox
    w = world()
    if _sandbox is None or w.api("GET", f"/v1/sandboxes/{_sandbox.id}").status != 200 or \
            _sandbox.get()["state"] != "running":
        _sandbox = w.create(metadata={"name": "shared"}, env={"FROM_CREATE": "yes"})
    return _sandbox


def close():
    if _world:
        _world.close()
