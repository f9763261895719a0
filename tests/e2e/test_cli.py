# SPDX-License-Identifier: Apache-2.0
"""The command line itself; needs no server."""
import os
import subprocess
import tempfile
import unittest

import lib


def stasis(*args, **env):
    e = {"PATH": os.environ["PATH"], "STASIS_DATA": "/nonexistent", **env}
    done = subprocess.run([lib.STASIS, *args], capture_output=True, env=e, timeout=60,
                          stdin=subprocess.DEVNULL, check=False)
    return lib.Cli(done)


def commands():
    for line in stasis("help").text.splitlines():
        if line.startswith("  "):
            yield line[2:20].strip().split()


class Help(unittest.TestCase):
    def test_every_command_is_helped_both_ways(self):
        names = list(commands())
        self.assertGreater(len(names), 15)
        for name in names:
            a, b = stasis("help", *name), stasis(*name, "--help")
            self.assertEqual(a.code, 0, a.errors)
            self.assertEqual(a.out, b.out)
            self.assertTrue(a.text.startswith("Usage: stasis " + " ".join(name)))
            self.assertEqual(a.errors + b.errors, "")

    def test_version(self):
        self.assertRegex(stasis("--version").text, r"^stasis \d+\.\d+\.\d+\n$")

    def test_nothing_said_shows_the_commands_and_fails(self):
        r = stasis()
        self.assertEqual((r.code, r.text), (2, ""))
        self.assertIn("Usage", r.errors)


class Mistakes(unittest.TestCase):
    def test_misspelt_command_gets_a_suggestion(self):
        r = stasis("craete")
        self.assertEqual(r.code, 2)
        self.assertIn("did you mean 'stasis create'?", r.errors)

    def test_words_of_other_tools_are_understood(self):
        known = [" ".join(c) for c in commands()]
        for word, meant in (("ps", ["ls"]), ("stop", ["pause", "rm"]), ("kill", ["rm"]),
                            ("inspect", ["get"]), ("top", ["exec", "get"]),
                            ("images", ["image ls"]), ("templates", ["image ls"]),
                            ("start", ["resume", "run"]), ("attach", ["exec -it"]),
                            ("commit", ["snapshot create"]), ("list", ["ls"])):
            r = stasis(word, "x")
            self.assertEqual((r.code, r.text), (2, ""))
            hints = " or ".join(f"'stasis {m}'" for m in meant)
            self.assertEqual(r.errors, f"stasis: unknown command '{word}': did you mean {hints}?\n")
            for m in meant:
                self.assertIn(m.removesuffix(" -it"), known)

    def test_half_a_command_lists_the_other_halves(self):
        r = stasis("key")
        self.assertEqual(r.code, 2)
        for word in ("create", "ls", "rm"):
            self.assertIn(f"key {word}", r.errors)

    def test_misspelt_option_gets_a_suggestion(self):
        r = stasis("create", "--tiemout", "5m")
        self.assertEqual(r.code, 2)
        self.assertIn("did you mean --timeout?", r.errors)

    def test_option_of_the_program_without_dashes_is_explained(self):
        r = stasis("exec", "i0abc", "ls", "-l")
        self.assertEqual(r.code, 2)
        self.assertIn("put --", r.errors)

    def test_both_places_of_cp_local(self):
        self.assertEqual(stasis("cp", "a", "b").code, 2)
        self.assertEqual(stasis("cp", "a:b", "c:d").code, 2)


class NoServer(unittest.TestCase):
    def test_says_how_to_start_one(self):
        r = stasis("ls", STASIS_URL=f"http://127.0.0.1:{lib.free_port()}", STASIS_API_KEY="k")
        self.assertEqual(r.code, 7)
        self.assertIn("no server answers on", r.errors)

    def test_bad_url(self):
        r = stasis("ls", STASIS_URL="127.0.0.1:7070")
        self.assertEqual(r.code, 2)
        self.assertIn("http://", r.errors)


class Serve(unittest.TestCase):
    def test_bad_settings_name_file_and_line(self):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
            f.write("# comment\nlisten = 127.0.0.1:1\nlissten = x\n")
            f.flush()
            r = stasis("serve", "--config", f.name)
        self.assertEqual(r.code, 2)
        self.assertIn("line 3", r.errors)
        self.assertIn("lissten", r.errors)

    def test_missing_config_that_was_named(self):
        self.assertEqual(stasis("serve", "--config", "/nonexistent").code, 4)

    def test_volume_that_is_not_there(self):
        with tempfile.TemporaryDirectory() as d:
            r = stasis("serve", "--data-dir", d + "/data", "--run-dir", d + "/run",
                       "--listen", f"127.0.0.1:{lib.free_port()}")
            self.assertEqual(r.code, 7, r.errors)
            self.assertIn("stasis setup", r.errors)
            self.assertFalse(os.path.exists(d + "/data/control.db"))


class Doctor(unittest.TestCase):
    def test_each_finding_has_its_remedy(self):
        with tempfile.TemporaryDirectory() as d:
            r = stasis("doctor", "--data-dir", d, "-o", "json")
        self.assertEqual(r.code, 1)  # no volume there
        checks = {c["name"]: c for c in r.json()["checks"]}
        self.assertEqual(checks["data volume"]["status"], "missing")
        self.assertIn("setup volume", checks["data volume"]["remedy"])
        for name in ("vmm", "isolation", "userfaultfd", "tun", "nft", "nginx", "memory"):
            self.assertIn(name, checks)
        for c in checks.values():
            self.assertIn(c["status"], ("ok", "degraded", "missing"))
            self.assertEqual(c["status"] == "ok", c["remedy"] is None)


class Setup(unittest.TestCase):
    def test_volume_life(self):
        with tempfile.TemporaryDirectory() as d:
            data = {"STASIS_DATA": d + "/data"}
            self.assertEqual(stasis("setup", "check", **data).code, 7)
            self.assertEqual(stasis("setup", "volume", "--size", "100M", **data).code, 2)
            try:
                stasis("setup", "volume", "--size", "1G", **data).ok()
                found = stasis("setup", "check", "-o", "json", **data).ok().json()
                self.assertTrue(found["reflink"] and found["holes"] and found["loop"])
                self.assertEqual(stasis("setup", "volume", "--size", "1G", **data).code, 5)
                # Without --yes and without a terminal nothing is deleted.
                self.assertNotEqual(stasis("setup", "remove", **data).code, 0)
                stasis("setup", "check", **data).ok()
            finally:
                stasis("setup", "remove", "--yes", "--run-dir", d + "/run", **data).ok()
            self.assertEqual(os.listdir(d), ["data"] if os.path.exists(d + "/data") else [])
            self.assertNotIn(d, open("/proc/mounts").read())
