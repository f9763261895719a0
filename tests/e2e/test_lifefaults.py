# SPDX-License-Identifier: Apache-2.0
"""The life cycle cut at each of its fault points, by failure and by kill -9 of the server: a paused
sandbox stays paused, a running one runs on, both with all of their memory, and nothing is left over."""
import json
import os
import re
import shutil
import signal
import subprocess
import unittest

import lib
from test_generations import begin, change, compare


def tables():
    with open(os.path.join(lib.ROOT, "docs/fault-points.md")) as f:
        _, capture, resume = re.split(r"\nOf a (?:running|resume)", f.read())
    return [re.findall(r"^\| `([a-z]+\.[a-z_]+)`(.*)$", t, re.M) for t in (capture, resume)]


CAPTURE, RESUME = tables()


class LifeFaults(unittest.TestCase):
    """One sandbox goes through all of it."""

    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        if cls.w.server is None:
            cls.w.start()
        cls.w.clear()
        cls.s, cls.seed = None, 5000

    def setUp(self):
        """The sandbox of the test before, unless that one broke it."""
        if self.w.server is None:
            self.w.start()
        if type(self).s is None:
            type(self).s = self.w.create()
            type(self).m = begin(self.s)
        self.whole = False

    def tearDown(self):
        if not self.whole:
            if self.w.server is None:
                self.w.start()
            self.s.delete()
            type(self).s = None

    @classmethod
    def tearDownClass(cls):
        if cls.w.server is None:
            cls.w.start()
        if cls.s:
            cls.s.delete()

    def restart(self, fault=None):
        if self.w.server is not None:
            self.w.stop()
        self.w.start(fault=fault)

    def cut(self, point, action, call):
        """Does call() on a server that fails or dies at the point, and has a whole one afterwards."""
        self.restart(fault=f"{point}:{action}@1")
        if action == "fail":
            a = call()
            self.assertEqual(a.status, 500, a.body)
            self.assertIn(point, a.json()["error"]["message"])
            return
        try:
            a = call()
            self.assertIn(a.status, (500, 502, 503, 504), a.body)
        except OSError:
            pass
        self.w.reap()
        self.w.start()

    def change(self):
        type(self).seed += 1
        change(self.s, self.m, "zero" if self.seed % 2 else "seed", self.seed, 25)

    def state(self):
        return self.s.get()["state"]

    def becomes(self, state):
        """What the server before left is settled in the background."""
        lib.wait_until(state, lambda: self.state() == state)

    def goes_on(self):
        """All of memory is right after another generation; what was wrong before still is then."""
        if self.state() == "paused":
            self.s.resume()
        self.assertEqual(self.state(), "running")
        self.change()
        self.s.pause()
        self.s.resume()
        compare(self, self.s, self.m)
        self.whole = True

    def capture(self, point, action):
        kind = point.split(".")[0] if point.startswith(("snapshot.b", "snapshot.after_j", "fork.")) else "pause"
        if self.state() == "paused":
            self.s.resume()
        self.change()
        path = f"/v1/sandboxes/{self.s.id}/{kind}"
        body = {"count": 1} if kind == "fork" else {}
        if kind == "snapshot":
            path, body = "/v1/snapshots", {"sandbox_id": self.s.id, "name": "cut"}
        self.cut(point, action, lambda: self.w.api("POST", path, body))
        finished = (point, action) == ("pause.before_commit", "kill")
        self.becomes("paused" if finished else "running")
        self.assertEqual(self.w.api("GET", "/v1/snapshots").json()["snapshots"], [])
        self.assertNotIn("diff lost", self.w.log_tail(20000))
        self.goes_on()

    def resume(self, point, action):
        if self.state() == "running":
            self.change()
            self.s.pause()
        self.cut(point, action, lambda: self.w.api("POST", f"/v1/sandboxes/{self.s.id}/resume", {}))
        self.becomes("paused")
        self.goes_on()

    def test_two_at_once(self):
        """One wins, the other is told so."""
        import threading
        if self.state() == "paused":
            self.s.resume()
        for path in ("pause", "resume"):
            answers = []
            calls = [threading.Thread(target=lambda: answers.append(self.w.api(
                "POST", f"/v1/sandboxes/{self.s.id}/{path}", {}).status)) for _ in range(2)]
            for c in calls:
                c.start()
            for c in calls:
                c.join()
            self.assertEqual(sorted(answers), [200, 409])
        compare(self, self.s, self.m)
        self.whole = True

    def test_zz_a_lost_pager_ends_the_sandbox(self):
        if self.state() == "running":
            self.s.pause()
        others = self.w.processes()
        self.assertEqual(self.s.resume()["backend"], "uffd")
        pager, = [pid for pid, name in self.w.processes()
                  if name == "stasis-pager" and (pid, name) not in others]
        os.kill(pager, signal.SIGKILL)
        lib.wait_until("ended", lambda: self.state() == "stopped")
        self.assertEqual(self.s.get()["cause"], "pager_lost")

    def test_zy_the_host_is_rebooted(self):
        """Everything that lives in memory is gone, and the volume is not mounted."""
        w = self.w
        if self.state() == "running":
            self.change()
            self.s.pause()
        running = w.create()
        w.kill()
        for name in os.listdir(w.run):
            state = os.path.join(w.run, name, "state.json")
            if os.path.exists(state):
                with open(state) as f:
                    os.kill(json.load(f)["pid"], signal.SIGKILL)
        lib.wait_until("no shim", lambda: not w.leftovers_of("process"))
        subprocess.run(["umount", "-R", "-l", os.path.join(w.run, "netns")], check=True)
        shutil.rmtree(w.run)
        lib.wait_until("unmounted", lambda: subprocess.run(["umount", w.data], check=False).returncode == 0)
        w.start()
        lib.wait_until("stopped", lambda: running.get()["state"] == "stopped")
        self.assertIn(running.get()["cause"], ("host_lost", "shim_lost"))
        self.assertEqual(self.state(), "paused")
        self.goes_on()


def add(table, method):
    for point, rest in table:
        if "*played alone*" in rest:  # tests/unit/sandbox/test_silent.c
            continue
        for action in ("fail", "kill"):
            if action == "fail" and "`kill` only" in rest:
                continue

            def test(self, point=point, action=action):
                getattr(self, method)(point, action)
            setattr(LifeFaults, f"test_{method}_{point.replace('.', '_')}_{action}", test)


add(CAPTURE, "capture")
add(RESUME, "resume")
