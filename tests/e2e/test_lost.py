# SPDX-License-Identifier: Apache-2.0
"""host.db is lost, or is an older one, beside sandboxes and snapshots: nothing is touched, and it is
made anew from what is there."""
import glob
import os
import shutil
import tempfile
import unittest

import lib


class Lost(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        cls.before = cls.w.leftovers()

    def setUp(self):
        self.runs = self.w.create(on_timeout="pause", timeout_sec=3000)
        self.boot = self.runs.sh("cat /proc/sys/kernel/random/boot_id")
        self.paused = self.w.create()
        self.paused.sh("echo kept > ~/note")
        self.paused.snapshot("before-loss")
        self.paused.pause()

    def tearDown(self):
        if self.w.server is None:
            self.w.start()
        for s in (self.runs, self.paused):
            s.delete()
        self.w.api("DELETE", "/v1/snapshots/before-loss")
        self.w.settle(self.before)

    def files(self):
        return glob.glob(os.path.join(self.w.data, "host.db*"))

    def refused(self):
        with self.assertRaisesRegex(AssertionError, r"'stasis db rebuild host'.*--forget"):
            self.w.start()
        self.w.kill()

    def rebuild(self, *more):
        return self.w.cli("db", "rebuild", "host", "--run-dir", self.w.run, *more).ok().text

    def same(self):
        row = self.runs.get()
        self.assertEqual((row["state"], row["on_timeout"]), ("running", "pause"))
        self.assertEqual(self.runs.sh("cat /proc/sys/kernel/random/boot_id"), self.boot)
        self.assertEqual(self.paused.get()["state"], "paused")
        self.paused.resume()
        self.assertEqual(self.paused.sh("cat ~/note").strip(), "kept")
        child = self.w.create(template="before-loss")
        self.assertEqual(child.sh("cat ~/note").strip(), "kept")
        child.delete()

    def test_missing_or_older_it_is_refused_and_made_anew(self):
        self.w.cli("db", "backup", "host", os.path.join(self.w.run, "copy.db")).ok()
        self.w.stop()
        with tempfile.TemporaryDirectory(prefix="stasis-lost.") as kept:
            for f in self.files():
                shutil.move(f, kept)
            self.refused()
            self.w.cli("db", "restore", "host", os.path.join(self.w.run, "copy.db")).ok()
            self.refused()  # of before the server was stopped
            said = self.rebuild()
        os.remove(os.path.join(self.w.run, "copy.db"))
        self.assertIn(f"sandbox {self.runs.id}: running", said)
        self.assertIn(f"sandbox {self.paused.id}: paused", said)
        self.w.start()
        self.same()
        self.assertIn("shared by several", self.w.cli("du").ok().text)

    def test_forgotten_it_is_kept_until_it_is_removed(self):
        self.w.stop()
        for f in self.files():
            os.remove(f)
        self.rebuild("--forget")
        self.w.start()
        unknown = self.w.cli("du", "--unknown", "-o", "json").json()["unknown"]
        kinds = {(u["kind"], u["id"]) for u in unknown}
        self.assertLessEqual({("shim", self.runs.id), ("sandbox", self.runs.id)}, kinds)
        self.assertGreaterEqual(sum(k == "snapshot" for k, _ in kinds), 2)
        self.assertNotEqual(self.w.cli("gc", "--unknown").code, 0)  # not without --yes
        fresh = self.w.create()
        self.w.cli("gc", "--unknown", "--yes").ok()
        self.assertEqual(self.w.cli("du", "--unknown", "-o", "json").json()["unknown"], [])
        fresh.alive()
        fresh.delete()


if __name__ == "__main__":
    unittest.main()
