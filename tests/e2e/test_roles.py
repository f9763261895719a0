# SPDX-License-Identifier: Apache-2.0
"""Host and control plane as two processes, on a server of their own: the control plane has no rights,
and either may be killed without anything being lost."""
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import threading
import unittest
import uuid

import lib


class Roles(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.w = lib.World("roles", two_roles=True)
        cls.w.build_image()
        cls.w.start()

    @classmethod
    def tearDownClass(cls):
        cls.w.close()

    def setUp(self):
        self.w.start()
        self.made = []

    def tearDown(self):
        self.w.start()
        for s in self.made:
            s.delete()

    def create(self, **body):
        s = self.w.create(**body)
        self.made.append(s)
        return s

    def events(self, sandbox):
        page = self.w.api("GET", f"/v1/events?sandbox={sandbox}&limit=100").json()
        return [(e["kind"], e["cause"]) for e in page["events"]]

    def test_the_control_plane_has_no_rights(self):
        for pid in (self.w.server.pid, *self.children(self.w.server.pid)):
            with open(f"/proc/{pid}/status") as f:
                status = dict(line.split(":\t", 1) for line in f.read().splitlines() if ":\t" in line)
            self.assertNotIn("0", status["Uid"].split())
            self.assertEqual(int(status["CapEff"], 16), 0)
        self.create().alive()
        self.assertEqual(self.opened(self.w.server.pid, self.w.data + "/"), [])
        self.assertEqual(self.opened(self.w.host.pid, self.w.control_data + "/"), [])
        self.assertTrue(any("control.db" in f for f in
                            self.opened(self.w.server.pid, self.w.control_data + "/")))
        self.assertEqual(sorted(n for n in os.listdir(self.w.data) if "control" in n), [])

    def children(self, pid):
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            direct = f.read().split()
        # nginx is a child of the thread that watches it.
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children") as f:
                direct += f.read().split()
        self.assertTrue(direct)
        return set(direct)

    def opened(self, pid, below):
        found = []
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
            except FileNotFoundError:
                pass
        return [f for f in found if f.startswith(below)]

    def test_what_happens_without_the_control_plane_is_told_once(self):
        s = self.create()
        with open(os.path.join(self.w.run, s.id, "state.json")) as f:
            state = json.load(f)
        before = self.events(s.id)
        self.w.kill_control()
        os.kill(state["vmm_pid"], signal.SIGKILL)
        lib.wait_until("the shim has ended", lambda: not os.path.exists(f"/proc/{state['pid']}"))
        self.w.start()
        lib.wait_until("noticed", lambda: s.get()["state"] == "stopped")
        self.assertEqual(s.get()["cause"], "vmm_crash")
        new = lib.wait_until("told", lambda: self.events(s.id)[len(before):])
        self.assertEqual(new, [("stopped", "vmm_crash")])
        self.w.kill_control()
        self.w.kill_host()
        self.w.start()
        self.assertEqual(self.events(s.id), before + new)

    def test_the_host_is_killed_and_comes_back(self):
        s = self.create()
        boot = s.sh("cat /proc/sys/kernel/random/boot_id")
        self.w.kill_host()
        self.assertEqual(s.get()["state"], "unreachable")
        self.assertEqual(self.w.api("POST", "/v1/sandboxes", {}).status, 503)
        self.assertEqual(self.w.api("GET", "/v1/events").status, 200)  # what is known is known
        self.w.start()
        self.assertEqual(s.get()["state"], "running")
        self.assertEqual(s.sh("cat /proc/sys/kernel/random/boot_id"), boot)
        self.assertEqual([k for k, _ in self.events(s.id)].count("stopped"), 0)

    def test_the_control_plane_starts_without_a_host(self):
        s = self.create()
        self.w.stop()
        self.w.start_control()
        self.assertEqual(s.get()["state"], "unreachable")
        self.w.start_host()
        lib.wait_until("running", lambda: s.get()["state"] == "running")
        s.alive()

    def contract(self, method, body):
        """A call of the host's own socket."""
        c = http.client.HTTPConnection("host")
        c.sock = socket.socket(socket.AF_UNIX)
        c.sock.connect(self.w.host_socket)
        with contextlib.closing(c):
            c.request("POST", "/stasis.host.v1.HostAgent/" + method, json.dumps(body),
                      {"Content-Type": "application/json"})
            return lib.Answer(c.getresponse())

    def drain(self, on):
        a = self.contract("Drain", {"operationId": str(uuid.uuid4()), "enabled": on})
        self.assertEqual((a.status, a.json()), (200, {}))

    def test_a_drained_host_takes_nothing_new(self):
        s = self.create()
        self.drain(True)
        self.addCleanup(self.drain, False)
        a = self.w.api("POST", "/v1/sandboxes", {})
        self.assertEqual((a.status, a.error()), (503, "unavailable"), a.body)
        s.alive()
        self.w.stop()
        self.w.start()
        self.assertTrue(self.contract("GetHost", {}).json()["host"]["draining"])
        self.assertEqual(self.w.api("POST", "/v1/sandboxes", {}).status, 503)
        self.drain(False)
        self.create().alive()

    def test_the_host_refuses_what_it_does_not_know(self):
        for method, body, says in (
                ("GetSandbox", {"sandboxId": "ibox", "colour": 1}, "unknown field 'colour'"),
                ("GetSandbox", {"sandboxId": "../../etc"}, "sandboxId"),
                ("CreateSandbox", {"sandboxId": "ibox"}, "operationId")):
            a = self.contract(method, body)
            self.assertEqual((a.status, a.json()["code"]), (400, "invalid_argument"))
            self.assertIn(says, a.json()["message"])
        a = self.contract("GetSandbox", {"sandboxId": "x" * (10 << 20)})
        self.assertEqual(a.json()["code"], "resource_exhausted")
        self.assertEqual(self.contract("GetSandbox", {"sandboxId": "inone"}).status, 404)

    def test_a_create_is_done_once_also_over_a_restart(self):
        box, op = "i" + uuid.uuid4().hex[:20], str(uuid.uuid4())
        ask = {"operationId": op, "sandboxId": box, "template": "base", "token": "t" * 43}
        first = self.contract("CreateSandbox", ask)
        self.assertEqual(first.status, 200, first.body)
        self.w.kill_host()
        self.w.start()
        again = self.contract("CreateSandbox", ask)
        self.assertEqual(again.status, 200, again.body)
        self.assertEqual(again.json()["sandbox"]["createdNs"], first.json()["sandbox"]["createdNs"])
        other = self.contract("CreateSandbox", dict(ask, sandboxId="i" + uuid.uuid4().hex[:20]))
        self.assertEqual(other.status, 409, other.body)
        self.assertEqual(self.contract("DestroySandbox", {
            "operationId": str(uuid.uuid4()), "sandboxId": box}).status, 200)
        gone = self.contract("CreateSandbox", ask)
        self.assertNotEqual(gone.json().get("sandbox", {}).get("state"), "running", gone.body)

    def test_a_damaged_host_database_is_named_and_nothing_is_touched(self):
        s = self.create()
        self.w.stop()
        path = os.path.join(self.w.data, "host.db")
        with open(path, "rb") as f:
            good = f.read()
        with open(path, "r+b") as f:
            f.write(b"\x5a" * 8192)
        with self.assertRaisesRegex(AssertionError, r"stasis: .*host\.db: .*(damaged|malformed|not a database)"):
            self.w.start_host()
        self.w.host = None
        with open(path, "r+b") as f:
            f.write(good[:8192])
        self.w.start()
        self.assertEqual(s.get()["state"], "running")
        s.alive()

    def test_random_kills_lose_nothing(self):
        seed = int(os.environ.get("STASIS_SEED", random.randrange(1 << 32)))
        rng = random.Random(seed)
        with self.subTest(seed=seed):
            for _ in range(4):
                self.one_round(rng)

    def one_round(self, rng):
        """Killed in the midst of a create: what was acknowledged runs; what was not runs and is listed,
        or is gone from both."""
        answer = []

        def ask():
            try:
                answer.append(self.w.api("POST", "/v1/sandboxes", {"timeout_sec": 600}))
            except OSError:
                pass  # the edge ended with its server

        t = threading.Thread(target=ask)
        t.start()
        t.join(rng.uniform(0, 0.6))
        rng.choice([self.w.kill_host, self.w.kill_control])()
        t.join()
        self.w.start()
        acknowledged = {a.json()["id"] for a in answer if a.status == 201}
        self.made += [lib.Sandbox(self.w, a.json()) for a in answer if a.status == 201]

        def settled():
            rows = {s["id"]: s["state"] for s in self.w.api("GET", "/v1/sandboxes").json()["sandboxes"]}
            return set(rows.values()) <= {"running"} and (set(rows),)
        (listed,) = lib.wait_until("no row is unfinished", settled, 60)
        self.assertLessEqual(acknowledged, listed)
        held = self.contract("ListSandboxes", {}).json().get("sandboxes", [])
        ended = ("SANDBOX_STATE_STOPPED", "SANDBOX_STATE_ERROR")
        self.assertEqual({s["id"] for s in held if s["state"] not in ended}, listed)
        for s in self.made:
            s.alive()


if __name__ == "__main__":
    unittest.main()
