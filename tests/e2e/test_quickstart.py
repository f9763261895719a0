# SPDX-License-Identifier: Apache-2.0
"""The main job, by the command line and by REST."""
import glob
import os
import subprocess
import unittest

import lib


class Quickstart(unittest.TestCase):
    def test_by_the_command_line(self):
        w = lib.world()
        before = w.leftovers()
        sandbox = w.cli("create", "--timeout", "10m", "--metadata", "job=42", "-v").ok()
        id = sandbox.text.strip()
        self.assertRegex(id, r"^i[a-z0-9]{20}$")
        self.assertIn("total", sandbox.errors)
        r = w.cli("exec", id, "--", "python3", "-c", "print(6 * 7)").ok()
        self.assertEqual((r.text, r.errors), ("42\n", ""))
        with open(os.path.join(w.dir, "in"), "w") as f:
            f.write("hello\n")
        w.cli("cp", "in", f"{id}:greeting").ok()
        self.assertEqual(w.cli("exec", id, "--", "cat", "greeting").ok().text, "hello\n")
        w.cli("cp", f"{id}:greeting", "out").ok()
        with open(os.path.join(w.dir, "out")) as f:
            self.assertEqual(f.read(), "hello\n")
        self.assertIn(id, w.cli("ls").ok().text)
        self.assertIn("job=42", w.cli("ls").text)
        self.assertEqual(w.cli("get", id, "-o", "json").ok().json()["state"], "running")
        w.cli("timeout", id, "20m").ok()
        w.cli("rm", id).ok()
        self.assertEqual(w.cli("ls", "-q", "--metadata", "job=42").ok().text, "")
        self.assertEqual(w.cli("rm", id).code, 4)
        w.cli("rm", "-f", id).ok()
        gone = w.cli("get", id, "-o", "json").ok().json()
        self.assertEqual((gone["state"], gone["cause"]), ("stopped", "killed"))
        w.settle(before)

    def test_by_rest(self):
        w = lib.world()
        before = w.leftovers()
        a = w.api("POST", "/v1/sandboxes", {"vcpus": 2, "memory_mb": 384, "timeout_sec": 300,
                                           "env": {"A": "1"}, "metadata": {"k": "v"}})
        self.assertEqual(a.status, 201, a.body)
        s = lib.Sandbox(w, a.json())
        for field in ("id", "template", "state", "vcpus", "memory_mb", "disk_mb", "created_at",
                      "started_at", "ends_at", "stopped_at", "on_timeout", "metadata", "cause",
                      "detail", "disk_used_bytes", "envd_token", "phases"):
            self.assertIn(field, s.row)
        self.assertEqual(s.row["state"], "running")
        self.assertEqual(s.sh("nproc; echo $A"), "2\n1\n")
        kib = int(s.sh("awk '/MemTotal/ {print $2}' /proc/meminfo"))
        self.assertTrue(250 << 10 < kib < 384 << 10, kib)
        self.assertEqual(s.delete().status, 204)
        self.assertEqual(s.delete().status, 404)
        w.settle(before)


class Demo(unittest.TestCase):
    def test_in_one_process_and_in_two(self):
        for roles in ("one", "two"):
            with self.subTest(roles):
                r = subprocess.run([os.path.join(lib.ROOT, "scripts", "demo")], capture_output=True,
                                   env={**os.environ, "STASIS_ROLES": roles,
                                        "STASIS_BUILD": lib.BUILD}, timeout=600, check=False)
                self.assertEqual(r.returncode, 0, (r.stdout + r.stderr).decode()[-3000:])
                self.assertIn(b"fork four children ", r.stdout)
                self.assertEqual(glob.glob("/tmp/stasis-demo.*"), [])
                with open("/proc/self/mountinfo") as f:
                    self.assertNotIn("stasis-demo", f.read())
