# SPDX-License-Identifier: Apache-2.0
"""What an older Stasis left on the disk: paused sandboxes, with a chain of pauses and with a copy,
and a named snapshot, all go on under today's server; so does what ran while the server was replaced.
Opt-in, since the older one must be built: scripts/prove-old does it, in build/old-24c09c7;
STASIS_OLD_BUILD names another build directory. Its image is built too, once for the cache. It takes
a KVM that opens but interprets guests for a real one; where this host has that:

    unshare -m sh -c 'mount --bind /dev/null /dev/kvm && tests/run e2e older'"""
import os
import unittest
import unittest.mock

import lib
from test_pty import Terminal

OLD = os.environ.get("STASIS_OLD_BUILD") or os.path.join(lib.ROOT, "build/old-24c09c7/build")


@unittest.skipUnless(os.path.exists(os.path.join(OLD, "stasis")),
                     f"{OLD} has no stasis: NO older data directory was tried (see tests/e2e/test_older.py)")
class Older(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with unittest.mock.patch.object(lib, "STASIS", os.path.join(OLD, "stasis")):
            cls.w = lib.World("older")
            cls.addClassCleanup(cls.close)
            cls.w.build_image()
            cls.w.start()
            cls.leave_behind()
            cls.w.stop()
        # The server alone is new: the image is the old one.
        cls.w.start()

    @classmethod
    def close(cls):
        cls.w.close()

    @classmethod
    def leave_behind(cls):
        """In the old server: what the tests take up."""
        cls.paused = cls.w.create()
        cls.mark(cls.paused)
        cls.paused.pause()
        cls.paused.resume()
        cls.noise = cls.paused.sh("head -c 3M /dev/urandom > /dev/shm/noise; sha256sum /dev/shm/noise")
        cls.child, = cls.paused.fork(1)
        cls.paused.snapshot("kept")
        cls.runs = cls.w.create()
        cls.mark(cls.runs)
        for s in (cls.paused, cls.child):
            s.pause()

    @staticmethod
    def mark(s):
        s.sh("echo disk > ~/disk; echo memory > /dev/shm/memory; "
             "setsid sh -c 'while :; do sleep 0.1; done' >/dev/null 2>&1 </dev/null & echo $! > /dev/shm/pid")

    def used(self, s, noise):
        """Memory, disk, programs; commands, files both ways, a terminal."""
        self.assertEqual(s.sh("cat ~/disk /dev/shm/memory; kill -0 $(cat /dev/shm/pid)"), "disk\nmemory\n")
        if noise:
            self.assertEqual(s.sh("sha256sum /dev/shm/noise"), noise)
        here = os.path.join(self.w.dir, "file")
        with open(here, "wb") as f:
            f.write(os.urandom(1 << 20))
        self.w.cli("cp", here, f"{s.id}:file").ok()
        self.w.cli("cp", f"{s.id}:file", here + ".back").ok()
        with open(here, "rb") as sent, open(here + ".back", "rb") as back:
            self.assertEqual(sent.read(), back.read())
        t = Terminal(self.w, "exec", s.id, "-it", "--", "bash", "--norc")
        t.send("PS1=; stty -echo; stty size; echo re''ady\n")
        self.assertIn("30 100", t.expect("ready"))
        t.send("exit 5\n")
        self.assertEqual(t.wait(), 5)

    def goes_on(self, s, noise=None):
        self.used(s, noise)
        s.pause()
        s.resume()
        self.used(s, noise)

    def test_paused(self):
        self.paused.resume()
        self.goes_on(self.paused, self.noise)
        self.w.cli("get", self.paused.id).ok()

    def test_paused_copy(self):
        self.child.resume()
        self.goes_on(self.child, self.noise)

    def test_running(self):
        self.goes_on(self.runs)

    def test_snapshot(self):
        told = self.w.cli("snapshot", "check", "kept").ok().text
        for part in ("resumes here: yes", "agent: -", "known weakness"):
            self.assertIn(part, told)
        s = self.w.create(template="kept")
        self.addCleanup(s.delete)
        self.goes_on(s, self.noise)

    def test_zz_image(self):
        """The old image, and today's in its place."""
        for build in (None, self.w.build_image):
            if build:
                build()
            s = self.w.create()
            self.assertEqual(s.sh("echo hi"), "hi\n")
            s.pause()
            s.resume()
            self.assertEqual(s.sh("echo hi"), "hi\n")
            s.delete()
