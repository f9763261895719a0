# SPDX-License-Identifier: Apache-2.0
"""Every fault point of docs/fault-points.md, failing and killing the server: after the next start
nothing is left of the operation."""
import os
import re
import signal
import subprocess
import unittest

import lib


# Only a boot comes to these; otherwise a create is a restore.
OF_A_BOOT = ("create.after_config", "create.after_start", "create.after_ready")


def points():
    """The first table; test_lifefaults.py has the others."""
    with open(os.path.join(lib.ROOT, "docs/fault-points.md")) as f:
        table = f.read().split("\nOf a running")[0]
    return re.findall(r"^\| `([a-z]+\.[a-z_]+)`", table, re.M)


class Faults(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        cls.w.clear()
        cls.w.stop()
        cls.clean = cls.w.leftovers()

    @classmethod
    def tearDownClass(cls):
        if cls.w.server:
            cls.w.stop()
        cls.w.start()
        s = cls.w.create()
        s.alive()
        s.delete()

    def nothing_is_left(self):
        rows = self.w.api("GET", "/v1/sandboxes").json()["sandboxes"]
        self.assertEqual(rows, [])
        self.w.stop()
        self.w.settle(self.clean)

    def create(self, point, action):
        self.w.start(fault=f"{point}:{action}")
        body = {"cold": True} if point in OF_A_BOOT else {}
        if action == "fail":
            a = self.w.api("POST", "/v1/sandboxes", body)
            self.assertEqual(a.status, 500, a.body)
            self.assertIn(point, a.json()["error"]["message"])
        else:
            with self.assertRaises((OSError, AssertionError)):
                a = self.w.api("POST", "/v1/sandboxes", body)
                # The edge outlives its server for a moment and says so.
                self.assertEqual(a.status, 200, a.body)
            self.w.reap()
            self.w.start()
        self.nothing_is_left()

    def destroy(self, point, action):
        self.w.start(fault=f"{point}:{action}@1")
        s = self.w.create()
        try:
            status = s.delete().status
        except OSError:
            status = None
        self.assertNotEqual(status, 204)
        if action == "fail":
            self.assertIn(s.delete().status, (204, 404))
        else:
            self.w.reap()
            self.w.start()
        lib.wait_until("destroyed", lambda: s.get()["state"] == "stopped")
        self.nothing_is_left()

    def slot(self, point, action):
        """Slots are made ahead by the server itself, as soon as it starts."""
        if action == "fail":
            self.w.start(fault=f"{point}:fail@1")
            lib.wait_until("made at the second try", lambda: self.w.api(
                "GET", "/v1/host").json()["slots_ready"] >= 2)
        else:
            with open(self.w.log, "ab") as log:
                server = self.w.popen(*self.w.serve_args(), stdout=subprocess.DEVNULL, stderr=log,
                                      env={"STASIS_FAULT": f"{point}:kill@1"})
                self.assertEqual(server.wait(60), -signal.SIGKILL)
            self.w.start()
        self.nothing_is_left()


def add(point, action):
    kind = point.split(".")[0]

    def test(self):
        getattr(self, kind)(point, action)
    setattr(Faults, f"test_{point.replace('.', '_')}_{action}", test)


for _point in points():
    for _action in ("fail", "kill"):
        add(_point, _action)
