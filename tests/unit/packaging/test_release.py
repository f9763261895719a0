#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""scripts/release and scripts/dist, in a repository of their own: test_release.py SOURCE."""
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest

SOURCE = sys.argv[1]
CHANGES = "# Changes\n\n## [Unreleased]\n\n- Something new.\n\n## [0.1.0] - 2026-01-01\n\n- First.\n"


@unittest.skipUnless(shutil.which("git"), "needs git")
class Release(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp(prefix="stasis-release.")
        self.addCleanup(shutil.rmtree, self.dir)
        os.mkdir(os.path.join(self.dir, "scripts"))
        for name in ("meson.build", "scripts/release", "scripts/dist"):
            shutil.copy(os.path.join(SOURCE, name), os.path.join(self.dir, name))
        self.write("meson.build", self.read("meson.build").replace(self.version(), "0.1.0", 1))
        self.write("CHANGELOG.md", CHANGES)
        self.write(".gitignore", "/dist/\n")
        self.git("init", "-q")
        self.commit("first")

    def write(self, name, text):
        with open(os.path.join(self.dir, name), "w") as f:
            f.write(text)

    def read(self, name):
        with open(os.path.join(self.dir, name)) as f:
            return f.read()

    def version(self):
        return next(line for line in self.read("meson.build").splitlines()
                    if line.startswith("  version:")).split("'")[1]

    def command(self, *words):
        env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
        env.update({f"GIT_{who}_{what}": "tester@localhost" if what == "EMAIL" else "Tester"
                    for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")})
        return subprocess.run(words, cwd=self.dir, env=env, capture_output=True, text=True, check=False)

    def git(self, *words):
        r = self.command("git", *words)
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout

    def commit(self, title):
        self.git("add", "-A")
        self.git("commit", "-q", "-m", title)

    def refused(self, version, why):
        before = self.git("rev-parse", "HEAD"), self.git("tag"), self.read("meson.build")
        r = self.command("scripts/release", version)
        self.assertEqual(r.returncode, 1, r.stdout)
        self.assertIn(why, r.stderr)
        self.assertEqual((self.git("rev-parse", "HEAD"), self.git("tag"), self.read("meson.build")), before)

    def test_commits_and_tags(self):
        r = self.command("scripts/release", "0.2.0")
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertIn("git push origin HEAD", r.stdout)
        self.assertEqual(self.version(), "0.2.0")
        self.assertEqual(self.git("log", "-1", "--format=%s", "v0.2.0"), "Release 0.2.0\n")
        self.assertEqual(self.git("status", "--porcelain"), "")
        self.assertRegex(self.read("CHANGELOG.md"), r"(?s)^# Changes\n\n## \[Unreleased\]\n\n"
                         r"## \[0\.2\.0\] - \d{4}-\d\d-\d\d\n\n- Something new\.\n\n## \[0\.1\.0\]")
        # The next one needs an entry of its own.
        self.refused("0.3.0", "write what changed")

    def test_entry_that_has_the_version(self):
        self.write("CHANGELOG.md", CHANGES.replace("Unreleased", "1.0.0"))
        self.commit("entry")
        self.assertEqual(self.command("scripts/release", "1.0.0").returncode, 0)
        self.assertRegex(self.read("CHANGELOG.md"), r"(?m)^## \[1\.0\.0\] - \d{4}-\d\d-\d\d$")

    def test_refuses(self):
        for version in ("", "1", "1.2", "v1.2.3", "1.2.3-rc1", "01.2.3"):
            with self.subTest(version):
                self.refused(version, "is not a version")
        for version in ("0.1.0", "0.0.9"):
            with self.subTest(version):
                self.refused(version, "is not newer than 0.1.0")
        self.git("tag", "v0.2.0")
        self.refused("0.2.0", "there is a tag")
        self.write("new", "")
        self.refused("0.3.0", "not clean")
        os.unlink(os.path.join(self.dir, "new"))
        self.write("CHANGELOG.md", "# Changes\n\n## [Unreleased]\n\n## [0.1.0]\n\n- First.\n")
        self.commit("nothing")
        self.refused("0.3.0", "write what changed")
        os.unlink(os.path.join(self.dir, "CHANGELOG.md"))
        self.commit("gone")
        self.refused("0.3.0", "no CHANGELOG.md")

    def test_tarball_is_the_same_each_time(self):
        def dist():
            r = self.command("scripts/dist")
            self.assertEqual(r.returncode, 0, r.stderr)
            with open(os.path.join(self.dir, "dist/stasis-0.1.0.tar.gz"), "rb") as f:
                return hashlib.sha256(f.read()).digest()
        first = dist()
        os.utime(os.path.join(self.dir, "meson.build"), (1, 1))
        self.write("new", "")
        self.assertEqual(dist(), first)
        with tarfile.open(os.path.join(self.dir, "dist/stasis-0.1.0.tar.gz")) as t:
            self.assertIn("stasis-0.1.0/scripts/dist", t.getnames())
            self.assertNotIn("stasis-0.1.0/new", t.getnames())


if __name__ == "__main__":
    if not shutil.which("git"):
        print("needs git")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
