# SPDX-License-Identifier: Apache-2.0
"""Snapshots, sandboxes made from them, forks, and the way back."""
import json
import unittest

import lib


class Snapshots(unittest.TestCase):
    """One source for all; children go at the end of each test."""

    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        cls.before = cls.w.leftovers()
        cls.s = cls.w.create(metadata={"test": "snapshots"})
        cls.s.sh("echo first > ~/state; echo first > /dev/shm/state; "
                 "setsid sleep 99999 >/dev/null 2>&1 </dev/null &")

    @classmethod
    def tearDownClass(cls):
        cls.s.delete()
        cls.w.settle(cls.before)

    def setUp(self):
        self.children = []

    def tearDown(self):
        for child in self.children:
            child.delete()
        for s in self.w.api("GET", "/v1/snapshots").json()["snapshots"]:
            self.assertEqual(self.w.api("DELETE", f"/v1/snapshots/{s['name']}").status, 204)

    def snapshot(self, name, **more):
        a = self.w.api("POST", "/v1/snapshots", {"sandbox_id": self.s.id, "name": name, **more})
        self.assertEqual(a.status, 201, a.body)
        return a.json()

    def spawn(self, name, **body):
        child = self.w.create(template=name, **body)
        self.children.append(child)
        return child

    def is_copy(self, child, state="first"):
        self.assertEqual(child.sh("cat ~/state /dev/shm/state").split(), [state, state])
        child.sh("pgrep -f 'sleep 9999[9]'")
        self.assertNotEqual(child.token, self.s.token)

    def test_spawn(self):
        row = self.snapshot("warm")
        self.assertEqual((row["kind"], row["sandbox_id"], row["parent"]),
                         ("snapshot", self.s.id, "base"))
        self.assertGreater(row["memory_bytes"], 0)
        self.s.alive()
        a, b = self.spawn("warm"), self.spawn("warm", vcpus=row["vcpus"],
                                              memory_mb=row["memory_mb"])
        for child in (a, b):
            self.is_copy(child)
            self.assertEqual(child.row["template"], "warm")
        self.assertNotEqual(a.token, b.token)
        a.sh("echo mine > ~/mine")
        self.assertEqual(b.run("test -e ~/mine")["exit_code"], 1)
        for body in ({"vcpus": row["vcpus"] + 1}, {"memory_mb": row["memory_mb"] * 2},
                     {"disk_mb": row["disk_mb"] - 1}, {"cold": True}):
            r = self.w.api("POST", "/v1/sandboxes", {"template": "warm", **body})
            self.assertEqual((r.status, r.error()), (400, "invalid"), r.body)
        # Its deletion disturbs nobody, also not one that is paused.
        self.assertEqual(self.w.api("POST", f"/v1/sandboxes/{b.id}/pause").status, 200)
        self.assertEqual(self.w.api("DELETE", "/v1/snapshots/warm").status, 204)
        self.assertEqual(self.w.api("GET", "/v1/snapshots/warm").status, 404)
        self.assertEqual(self.w.api("POST", "/v1/sandboxes", {"template": "warm"}).status, 404)
        r = self.w.api("POST", f"/v1/sandboxes/{b.id}/resume")
        self.assertEqual(r.status, 200, r.body)
        self.is_copy(a)
        self.is_copy(b)

    def test_names(self):
        one = self.snapshot("name")
        r = self.w.api("POST", "/v1/snapshots", {"sandbox_id": self.s.id, "name": "name"})
        self.assertEqual((r.status, r.error()), (409, "conflict"))
        two = self.snapshot("name", overwrite=True)
        self.assertNotEqual(one["snapshot_id"], two["snapshot_id"])
        for of_the_call in ("phases", "memory_written_bytes", "memory_kept_bytes"):
            del two[of_the_call]
        got = self.w.api("GET", "/v1/snapshots/name").json()
        for of_the_guest in ("agent_version", "agent_weaknesses"):
            del got[of_the_guest]
        self.assertEqual(got, two)
        names = {t["name"]: t["kind"] for t in
                 self.w.api("GET", "/v1/templates").json()["templates"]}
        self.assertEqual(names, {"base": "base", "name": "snapshot"})
        # They are there after a restart.
        self.w.kill()
        self.w.start()
        self.assertEqual(self.w.api("GET", "/v1/snapshots").json()["snapshots"], [two])

    def test_back_to_a_snapshot(self):
        self.snapshot("before")
        self.s.sh("echo second > ~/state; echo second > /dev/shm/state")
        r = self.w.api("POST", f"/v1/sandboxes/{self.s.id}/resume",
                       {"from": "before", "timeout_sec": 3600})
        self.assertEqual(r.status, 200, r.body)
        self.assertEqual(self.s.sh("cat ~/state /dev/shm/state").split(), ["first", "first"])
        child = self.spawn("before")
        r = self.w.api("POST", f"/v1/sandboxes/{child.id}/resume", {"from": "before"})
        self.assertEqual((r.status, r.error()), (400, "invalid"), r.body)
        self.is_copy(child)

    def fork(self, count, **body):
        r = self.w.api("POST", f"/v1/sandboxes/{self.s.id}/fork",
                       {"count": count, "timeout_sec": 3600, **body})
        self.assertEqual(r.status, 200, r.body)
        made = [lib.Sandbox(self.w, c) for c in r.json()["children"]]
        self.children += made
        self.assertEqual(len(made), count)
        return made

    def test_fork(self):
        made = self.fork(2, metadata={"of": "fork"}, env={"CHILD": "yes"})
        self.s.alive()
        for child in made:
            self.is_copy(child)
            self.assertEqual(child.row["metadata"], {"of": "fork"})
            self.assertEqual(child.sh("echo $CHILD"), "yes\n")
        self.assertEqual(len({c.token for c in made} | {self.s.token}), 3)
        self.assertNotEqual(*(c.sh("cat /proc/sys/kernel/random/uuid") for c in made))

    def test_fork_as_lines(self):
        r = self.w.api("POST", f"/v1/sandboxes/{self.s.id}/fork", {"count": 2},
                       headers={"Accept": "application/x-ndjson"})
        self.assertEqual((r.status, r.headers["Content-Type"]), (200, "application/x-ndjson"))
        made = [lib.Sandbox(self.w, json.loads(line)) for line in r.body.splitlines()]
        self.children += made
        self.assertEqual([c.row["state"] for c in made], ["running"] * 2)

    def test_fork_of_a_paused_one(self):
        path = f"/v1/sandboxes/{self.s.id}"
        self.assertEqual(self.w.api("POST", path + "/pause").status, 200)
        try:
            self.is_copy(self.fork(1)[0])
            self.snapshot("frozen")
            self.is_copy(self.spawn("frozen"))
            self.assertEqual(self.s.get()["state"], "paused")
        finally:
            r = self.w.api("POST", path + "/resume", {"timeout_sec": 3600})
        self.assertEqual(r.status, 200, r.body)
        self.s.alive()

    def test_command_line(self):
        cli = self.w.cli
        r = cli("snapshot", "create", "-v", self.s.id, "cli").ok()
        self.assertEqual(r.text, "cli\n")
        self.assertRegex(r.errors, r"(?m)^total +\d+\.\d\d m?s$")
        self.assertEqual(cli("snapshot", "create", self.s.id, "cli").code, 5)
        cli("snapshot", "create", self.s.id, "cli", "--overwrite").ok()
        self.assertRegex(cli("snapshot", "ls").ok().text, rf"(?m)^cli +{self.s.id} +base ")
        self.assertEqual(cli("snapshot", "get", "cli", "-o", "json").ok().json()["name"], "cli")
        self.assertRegex(cli("image", "ls").ok().text, r"(?m)^cli +snapshot +yes ")
        made = cli("create", "--template", "cli", "--timeout", "1h").ok().text.split()
        self.assertEqual(cli("create", "--template", "cli", "--vcpus", "9").code, 2)
        made += cli("fork", self.s.id, "-n", "2", "--metadata", "via=cli").ok().text.split()
        self.assertEqual(len(made), 3)
        self.assertEqual(sorted(cli("ls", "-q", "--metadata", "via=cli").text.split()),
                         sorted(made[1:]))
        cli("resume", self.s.id, "--from", "cli", "--timeout", "1h").ok()
        self.s.alive()
        cli("snapshot", "rm", "cli").ok()
        self.assertEqual(cli("snapshot", "rm", "cli").code, 4)
        for child in made:
            self.assertEqual(cli("exec", child, "--", "cat", "/dev/shm/state").ok().text, "first\n")
        cli("rm", *made).ok()


class Bench(unittest.TestCase):
    def test_one_round(self):
        w = lib.world()
        before = {s["id"] for s in w.api("GET", "/v1/sandboxes").json()["sandboxes"]}
        report = w.cli("bench", "-n", "1", "--children", "2", "-o", "json", limit=600).ok().json()
        self.assertEqual(report["machine"]["version"],
                         w.api("GET", "/v1/host").json()["version"])
        for figure in report["figures"]:
            self.assertEqual(len(figure["samples"]), 1)
        self.assertEqual(len(report["figures"]), 10)
        after = {s["id"] for s in w.api("GET", "/v1/sandboxes").json()["sandboxes"]}
        self.assertEqual(after, before)
        self.assertEqual(w.api("GET", "/v1/snapshots").json()["snapshots"], [])
