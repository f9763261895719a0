# SPDX-License-Identifier: Apache-2.0
"""make install, and README's quick start with what it installed; make uninstall."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import lib

PREFIX = "/usr/local"
SETTINGS = "etc/stasis/stasis.conf"


def make(target, dest):
    return subprocess.run(["make", "-C", lib.ROOT, target, f"B={lib.BUILD}", f"PREFIX={PREFIX}",
                           f"DESTDIR={dest}"], check=True, capture_output=True, timeout=300).stdout.decode()


def parts():
    """What packaging/installed has below libexec/stasis, relative to it."""
    with open(os.path.join(lib.ROOT, "packaging/installed")) as f:
        words = [line.split() for line in f if line.strip() and not line.startswith("#")]
    below = "libexec/stasis"
    return [os.path.relpath(os.path.join(to, os.path.basename(name)), below)
            for _, name, to in words if to.startswith(below)]


class Install(unittest.TestCase):
    def setUp(self):
        self.dest = tempfile.mkdtemp(prefix="stasis-install.")
        self.addCleanup(shutil.rmtree, self.dest)
        os.chmod(self.dest, 0o711)  # the edge runs as another user
        make("install", self.dest)
        self.bin = self.dest + PREFIX + "/bin"

    def left(self):
        return sorted(os.path.relpath(os.path.join(top, name), self.dest)
                      for top, dirs, files in os.walk(self.dest) for name in dirs + files)

    def test_quick_start_without_the_build_tree(self):
        # In a mount namespace, where the build directory is empty: nothing can be taken from it.
        r = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "--", "sh", "-euc",
             'mount -t tmpfs none "$1"; shift; exec "$@"', "sh", lib.BUILD, sys.executable, "-B", "-c",
             "import test_install; test_install.quick_start()"],
            cwd=os.path.dirname(os.path.abspath(__file__)), timeout=600, check=False,
            env={**os.environ, "STASIS_BUILD": self.bin, "STASIS_BUILD_TREE": lib.BUILD},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.assertEqual(r.returncode, 0, r.stdout.decode()[-3000:])
        make("uninstall", self.dest)
        self.assertEqual(self.left(), [])

    def test_doctor_misses_each_part(self):
        libexec = self.dest + PREFIX + "/libexec/stasis"

        def programs():
            r = subprocess.run([os.path.join(self.bin, "stasis"), "doctor", "-o", "json"], timeout=120,
                               capture_output=True, check=False)
            return next(c for c in json.loads(r.stdout)["checks"] if c["name"] == "programs")
        self.assertEqual(programs()["status"], "ok")
        for name in parts():
            with self.subTest(name):
                path = os.path.join(libexec, name)
                os.rename(path, path + ".away")
                found = programs()
                self.assertEqual((found["status"], found["text"]), ("missing", "not found: " + name))
                os.rename(path + ".away", path)

    def test_settings_that_were_changed_stay(self):
        with open(os.path.join(self.dest, SETTINGS), "a") as f:
            f.write("warm_slots = 1\n")
        make("install", self.dest)
        self.assertIn("kept ", make("uninstall", self.dest))
        self.assertEqual(self.left(), ["etc", "etc/stasis", SETTINGS])
        with open(os.path.join(self.dest, SETTINGS)) as f:
            self.assertIn("warm_slots = 1\n", f.read())


def quick_start():
    """Of README, where STASIS_BUILD has the installed programs."""
    import test_docs
    tree = os.environ["STASIS_BUILD_TREE"]
    assert os.listdir(tree) == [], tree
    w = lib.world()  # setup volume, image build, serve
    checks = {c["name"]: c for c in w.cli("doctor", "-o", "json").json()["checks"]}
    for name in ("programs", "vmm", "data volume", "image"):
        assert checks[name]["status"] == "ok", checks[name]
    steps = [text for where, marked, text in test_docs.blocks() if marked and where.startswith("README.md")]
    assert any("stasis pause" in text and "stasis resume" in text for text in steps), steps
    for text in steps:
        test_docs.run_block(w, text)
    lib.close()
