# SPDX-License-Identifier: Apache-2.0
"""What must not be reached: a guest's agent without its token, guests' memory by other users of the
host, the server by trees that somebody else made."""
import ipaddress
import json
import os
import subprocess
import sys
import unittest

import lib

ID = "{\"process\": {\"cmd\": \"id\", \"args\": []}}"


def instance(s):
    a = s.edge("GET", "/health", token=False)
    return a.headers.get("X-Envd-Instance", "") if a.status == 204 else None


def restart_agent(s, command="sudo pkill -x envd"):
    """Ends the agent, from within, and waits for the one that stasis-init starts after it."""
    before = s.sh("pgrep -x envd").strip()
    s.world.api("POST", f"/v1/sandboxes/{s.id}/exec", {"cmd": command, "timeout_sec": 10})

    def another():
        a = s.world.api("POST", f"/v1/sandboxes/{s.id}/exec", {"cmd": "pgrep -x envd"})
        # 401: one that answers, and has lost its token.
        return a.status == 401 or a.status == 200 and a.json()["stdout"].strip() not in ("", before)
    lib.wait_until("another agent", another, 60)


class Agent(unittest.TestCase):
    """A guest's program ends the agent: no door opens."""

    def setUp(self):
        self.w = lib.world()
        self.s = self.w.create(env={"FROM_CREATE": "yes"})
        self.addCleanup(self.s.delete)

    def closed(self, s):
        """Without the token, or with a wrong one, nothing is told and nothing started."""
        for headers in ({}, {"X-Access-Token": ""}, {"X-Access-Token": "0" * 64}):
            for method, path in (("GET", "/envs"), ("GET", "/files?path=/etc/shadow&username=root"),
                                 ("POST", "/files?path=/tmp/x"), ("POST", "/process.Process/Start"),
                                 ("POST", "/process.Process/List"), ("POST", "/filesystem.Filesystem/Stat"),
                                 ("GET", "/metrics"), ("GET", "/nothing")):
                h = dict({"Authorization": "Basic cm9vdDo=", "Content-Type": "application/json"}, **headers)
                a = s.edge(method, path, token=False, headers=h, body=ID if method == "POST" else None)
                self.assertEqual(a.status, 401, (method, path, a.body))
                self.assertEqual(set(a.json()), {"sandboxId", "message", "code"})
        self.assertEqual(s.edge("GET", "/health", token=False).status, 204)
        self.assertEqual(s.edge("OPTIONS", "/files", token=False).status, 204)

    def works(self, s):
        self.assertEqual(s.edge("GET", "/envs").json()["FROM_CREATE"], "yes")
        self.assertEqual(s.sh("echo $FROM_CREATE; id -un"), "yes\nuser\n")
        done = self.w.cli("exec", s.id, "--", "hostname")
        self.assertEqual((done.code, done.text), (0, s.id + "\n"))

    def test_an_agent_that_was_restarted_is_not_open(self):
        self.closed(self.s)
        for command in ("sudo pkill -x envd", "sudo pkill -KILL -x envd"):
            restart_agent(self.s, command)
            self.closed(self.s)
            self.works(self.s)

    def test_a_program_of_the_guest_cannot_take_it_over(self):
        def post(path, address):
            return self.s.sh(f"curl -s -o /dev/null -w '%{{http_code}}' -X POST "
                             f"-H 'Content-Type: application/json' "
                             f"-d '{{\"accessToken\": \"mine\"}}' http://{address}:49983{path}")

        # Also at the moment when it is closed: the file that it starts from is gone.
        for prepare in (None, "sudo rm -f /run/stasis/agent.json; sudo pkill -KILL -x envd"):
            if prepare:
                self.w.api("POST", f"/v1/sandboxes/{self.s.id}/exec", {"cmd": "(sleep 1; " + "".join(
                    f"curl -s -o /dev/null --retry 20 --retry-connrefused --retry-delay 1 -X POST "
                    f"-d '{{\"accessToken\": \"mine\"}}' http://{address}:49983/init; "
                    for address in ("127.0.0.1", "169.254.0.21")) + ") </dev/null >/dev/null 2>&1 & " + prepare})
                lib.wait_until("the agent is greeted again", lambda: self.w.api(
                    "POST", f"/v1/sandboxes/{self.s.id}/exec", {"cmd": "true"}).status == 200, 60)
            for address in ("127.0.0.1", "169.254.0.21"):
                for path in ("/init", "/freeze", "/thaw"):
                    self.assertEqual(post(path, address), "403")
            self.closed(self.s)
            self.assertEqual(self.s.edge("GET", "/envs").status, 200)
            self.s.alive()

    def test_the_file_of_its_settings_is_for_root_alone(self):
        self.assertEqual(self.s.sh("stat -c '%a %u %g' /run/stasis/agent.json"), "600 0 0\n")
        self.assertNotEqual(self.s.run("cat /run/stasis/agent.json")["exit_code"], 0)
        kept = json.loads(self.s.sh("sudo cat /run/stasis/agent.json"))
        self.assertEqual((kept["accessToken"], kept["envVars"]["FROM_CREATE"]), (self.s.token, "yes"))

    def test_pause_and_resume_after_a_restart(self):
        restart_agent(self.s)
        self.s.pause()
        self.s.resume()
        self.closed(self.s)
        self.works(self.s)
        restart_agent(self.s)
        self.works(self.s)

    def test_pause_greets_an_agent_that_has_lost_its_settings(self):
        before = instance(self.s)
        self.w.api("POST", f"/v1/sandboxes/{self.s.id}/exec",
                   {"cmd": "sudo rm -f /run/stasis/agent.json; sudo pkill -KILL -x envd", "timeout_sec": 10})
        # An exec would greet it.
        lib.wait_until("another agent", lambda: instance(self.s) not in (None, before), 60)
        self.assertEqual(self.s.edge("GET", "/envs").status, 401)
        self.s.pause()
        self.s.resume()
        self.closed(self.s)
        self.assertEqual(self.s.edge("GET", "/envs").status, 200)
        self.s.alive()

    def test_children_have_tokens_of_their_own(self):
        child = self.s.fork(1)[0]
        self.addCleanup(child.delete)
        for s, other in ((child, self.s), (self.s, child)):
            restart_agent(s)
            self.closed(s)
            self.works(s)
            a = s.edge("GET", "/envs", token=False, headers={"X-Access-Token": other.token})
            self.assertEqual(a.status, 401)
            self.assertEqual(json.loads(s.sh("sudo cat /run/stasis/agent.json"))["accessToken"], s.token)

    def test_a_deep_tree_does_not_end_it(self):
        self.s.sh("python3 -c \"import os; os.chdir('/tmp')\nfor i in range(1900): os.mkdir('a'); os.chdir('a')\"")
        pid = self.s.sh("pgrep -x envd")
        a = self.s.edge("POST", "/filesystem.Filesystem/Remove", body={"path": "/tmp/a"})
        self.assertEqual((a.status, a.json()), (200, {}))
        self.assertEqual(self.s.sh("pgrep -x envd; ls -d /tmp/a 2>&1 || true"),
                         pid + "ls: cannot access '/tmp/a': No such file or directory\n")


MAKE_DEEP = """
import os, sys
os.chdir(sys.argv[1])
st = os.stat(".")
os.setgroups([]); os.setgid(st.st_gid); os.setuid(st.st_uid)
for i in range(int(sys.argv[2])):
    os.mkdir("d"); os.chdir("d")
"""


# Answers each question with an address, on port 53 of an address of this machine; has a port 80
# beside it. Runs as nobody, as resolvers do.
RESOLVER = r"""
import os, socket, sys, threading
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
u.bind((sys.argv[1], 53))
t = socket.create_server((sys.argv[1], 80))
os.setgid(65534); os.setuid(65534)
print("ready", flush=True)
while True:
    q, who = u.recvfrom(4096)
    end = 12
    while q[end]:
        end += q[end] + 1
    is_a = q[end + 1:end + 3] == b"\0\1"
    head = q[:2] + b"\x81\x80\0\1" + (b"\0\1" if is_a else b"\0\0") + b"\0\0\0\0"
    answer = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton("192.0.2.99") if is_a else b""
    u.sendto(head + q[12:end + 5] + answer, who)
"""


class Resolvers(unittest.TestCase):
    """A name server in a private network: that address, port 53, by those who have it."""
    address = "10.254.77.1"

    def setUp(self):
        self.w = lib.world()
        subprocess.run(["ip", "addr", "add", self.address + "/32", "dev", "lo"], check=True)
        self.addCleanup(subprocess.run, ["ip", "addr", "del", self.address + "/32", "dev", "lo"],
                        check=True)
        server = subprocess.Popen([sys.executable, "-c", RESOLVER, self.address],
                                  stdout=subprocess.PIPE)
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        self.assertEqual(server.stdout.readline(), b"ready\n")

    def reach(self, s, port):
        """What a guest's connection to the address ends with."""
        return s.run(f"timeout 20 bash -c 'echo >/dev/tcp/{self.address}/{port}'")

    def asks(self, s):
        self.assertEqual(s.sh("grep -v '^#' /etc/resolv.conf"), f"nameserver {self.address}\n")
        self.assertEqual(s.get()["dns"], [self.address])
        # No answer is kept: each time another name.
        name = f"n{os.urandom(4).hex()}.example"
        self.assertIn("192.0.2.99", s.sh(f"getent ahostsv4 {name}"))
        self.assertNotEqual(self.reach(s, 80)["exit_code"], 0)

    def test_private_resolver(self):
        own, other = self.w.create(dns=[self.address]), lib.shared()
        self.addCleanup(own.delete)
        self.asks(own)
        own.pause()
        own.resume()
        self.asks(own)
        # What a user wrote stays; the list is the child's all the same.
        mine = f"# mine\nnameserver {self.address}\n"
        own.sh("sudo tee /etc/resolv.conf", stdin=lib.b64(mine.encode()))
        child = own.fork(1)[0]
        self.addCleanup(child.delete)
        self.asks(child)
        self.assertEqual(child.sh("cat /etc/resolv.conf"), mine)
        # Another's guest has no way there.
        self.assertNotEqual(other.get()["dns"], [self.address])
        for port in (53, 80):
            self.assertIn("No route to host", self.reach(other, port)["stderr"])
        # A server that is started anew finds them.
        self.w.kill()
        self.w.start()
        self.asks(own)

    def test_what_is_no_resolver(self):
        for dns in (["127.0.0.53"], ["0.0.0.0"], ["224.0.0.1"], ["169.254.0.22"], ["2001:db8::53"],
                    ["10.0.0.1", "10.0.0.1"], [self.w.slots.split("/")[0]], ["1.2.3"], []):
            a = self.w.api("POST", "/v1/sandboxes", {"dns": dns})
            self.assertEqual((a.status, a.error()), (400, "invalid"), (dns, a.body))
            self.assertIn("dns: ", a.json()["error"]["message"])
        done = self.w.cli("create", "--dns", "10.0.0.1,localhost")
        self.assertIn("localhost", done.errors)


class Host(unittest.TestCase):
    def setUp(self):
        self.w = lib.world()

    def test_a_deep_tree_in_a_jail_does_not_end_the_server(self):
        s = self.w.create()
        snap = os.path.join(self.w.data, "sandboxes", s.id, "snap")
        subprocess.run([sys.executable, "-c", MAKE_DEEP, snap, "60000"], check=True)
        self.assertEqual(s.delete().status, 204)
        self.assertFalse(os.path.exists(os.path.join(self.w.data, "sandboxes", s.id, "snap")))
        self.assertIsNone(self.w.server.poll())
        if self.w.two:
            self.assertIsNone(self.w.host.poll())
        self.assertEqual(self.w.api("GET", "/v1/health").status, 200)

    # Runs as another user of the host, who knows all names. Says what he got hold of.
    NOBODY = """
import json, os, re, stat, sys
names = sys.stdin.read().split("\\0")
os.setgroups([]); os.setgid(65534); os.setuid(65534)
got = []
for name in names:
    try:
        mode = os.stat(name).st_mode
        if stat.S_ISDIR(mode):
            os.listdir(name)
        elif stat.S_ISREG(mode):
            os.close(os.open(name, os.O_RDONLY | os.O_NONBLOCK))
        else:
            continue
        got.append(name)
    except OSError:
        pass
seen = set()
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            seen.update(re.findall(r"(?<![a-z0-9])i[a-z0-9]{20}(?![a-z0-9])", f.read().decode("latin-1")))
    except OSError:
        pass
print(json.dumps([got, sorted(seen)]))
"""

    def nobody(self, names):
        out = subprocess.run([sys.executable, "-c", self.NOBODY], input="\0".join(names), text=True, check=True,
                             capture_output=True).stdout
        return json.loads(out)

    def names(self, *tops):
        """All files and directories below these that are not another mount."""
        found = []
        for top in tops:
            device = os.stat(top).st_dev
            for where, dirs, files in os.walk(top):
                dirs[:] = [d for d in dirs if os.lstat(os.path.join(where, d)).st_dev == device]
                found += [where] + [os.path.join(where, f) for f in files]
        return found

    def test_nobody_else_on_the_host_reads_anything(self):
        s = self.w.create()
        self.addCleanup(s.delete)
        paused = self.w.create()
        self.addCleanup(paused.delete)
        paused.pause()
        warm = self.w.create(template="base")
        self.addCleanup(warm.delete)
        tops = [self.w.data, self.w.run]
        names = self.names(*tops)
        # It is a test only where there is something to read.
        for part in ("/layers/", "/snapshots/", f"/sandboxes/{s.id}/base.hdr", "/host.db", "/runtime/",
                     "/programs/", "/templates/", f"{self.w.run}/{s.id}/spec.json"):
            self.assertTrue(any(part in n for n in names), part)
        got, ids = self.nobody(names)
        self.assertEqual(got, [])
        mine = {s.id, paused.id, warm.id}
        self.assertEqual(mine & set(ids), set())
        if self.w.two:
            # It is that user's own; of any other's it is nothing.
            return
        for top in tops:
            self.assertEqual(os.stat(top).st_mode & 0o7067, 0, top)
        s.alive()
        self.assertEqual(s.edge("GET", "/health", token=False).status, 204)

    # Runs as a user of the host who is not the edge's: which of these answer at the agent's port.
    KNOCK = """
import os, socket, sys
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
for address in sys.argv[2:]:
    try:
        with socket.socket() as s:
            s.settimeout(5)
            s.connect((address, 49983))
        print(address)
    except OSError:
        pass
"""

    def knock(self, uid, addresses):
        return subprocess.run([sys.executable, "-c", self.KNOCK, str(uid), *addresses], text=True, check=True,
                              capture_output=True).stdout.split()

    def test_guests_are_reached_through_the_edge_alone(self):
        s = self.w.create()
        self.addCleanup(s.delete)
        links = json.loads(subprocess.run(["ip", "-j", "-4", "addr"], capture_output=True, check=True).stdout)
        ours = ipaddress.ip_network(self.w.slots)
        slots = [str(ipaddress.ip_address(a["local"]) + 1) for link in links for a in link["addr_info"]
                 if ipaddress.ip_address(a["local"]) in ours]
        self.assertEqual(len(self.knock(0, slots)), len(self.w.api("GET", "/v1/sandboxes").json()["sandboxes"]))
        self.assertEqual(self.knock(1, slots), [])
        s.alive()
        self.assertEqual(s.edge("GET", "/health", token=False).status, 204)

    def test_directories_of_an_older_server_are_closed_at_the_start(self):
        s = self.w.create()
        self.addCleanup(s.delete)
        self.w.stop()
        opened = [self.w.data, self.w.run, os.path.join(self.w.run, s.id)]
        opened += [os.path.join(self.w.data, d) for d in ("layers", "snapshots", "sandboxes", f"sandboxes/{s.id}",
                                                          "templates", "kernels", "runtime",
                                                          "programs")]
        for d in opened:
            os.chmod(d, 0o711)
        self.w.start()
        self.assertEqual(self.nobody(self.names(self.w.data, self.w.run))[0], [])
        for d in opened:
            self.assertEqual(os.stat(d).st_mode & 0o7067, 0, d)
        s.alive()
