# SPDX-License-Identifier: Apache-2.0
"""examples/: each prints what it should and leaves nothing. And the figures as JSON."""
import json
import os
import subprocess
import sys
import unittest

import lib

EXAMPLES = os.path.join(lib.ROOT, "examples")


class Examples(unittest.TestCase):
    def run_example(self, name):
        """What it prints, with a sandbox list and snapshots as before."""
        w = lib.world()
        before = w.cli("ls", "-q").ok().text, w.cli("snapshot", "ls", "-q").ok().text
        path = os.path.join(EXAMPLES, name)
        command = [sys.executable, "-B", path] if name.endswith(".py") else [path]
        done = subprocess.run(command, env=w.env({"STASIS_API_KEY": w.key()}), cwd=w.dir,
                              capture_output=True, text=True, timeout=300, check=False)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        after = w.cli("ls", "-q").ok().text, w.cli("snapshot", "ls", "-q").ok().text
        self.assertEqual(after, before)
        return done.stdout

    def test_run_code(self):
        self.assertEqual(self.run_example("run-code.sh"),
                         "six times seven is 42\nexit code 0\nthe endless one: timeout\n")
        self.assertEqual(self.run_example("run_code.py"),
                         "six times seven is 42\nrunning as guest\nexit code 0\n"
                         "the endless one: timeout\n")

    def test_keep_state(self):
        self.assertEqual(self.run_example("keep-state.sh"),
                         "1\npaused: paused\nresumed: running\n2\n")
        self.assertEqual(self.run_example("keep_state.py"),
                         "turn 1\nturn 2\npaused: paused\nresumed: running\nturn 3\n")

    def test_fork_ten(self):
        numbers = [str(n) for n in range(1, 1001)]
        self.assertEqual(self.run_example("fork-ten.sh").splitlines(),
                         [f"copy {n}: {sum(str(n) in x for x in numbers)}" for n in range(10)])
        self.assertEqual(self.run_example("fork_ten.py").splitlines(),
                         [f"copy {n}: {sum(x for x in range(1, 1001) if x % 10 == n)}"
                          for n in range(10)])

    def test_snapshot_template(self):
        self.assertEqual(self.run_example("snapshot-template.sh"),
                         "snapshot example\nsandbox: prepared\n")
        self.assertEqual(self.run_example("snapshot_template.py"),
                         "snapshot example-python\nsandbox 0: prepared\nsandbox 1: prepared\n")

    def test_the_table_has_each(self):
        with open(os.path.join(EXAMPLES, "README.md")) as f:
            text = f.read()
        there = {n for n in os.listdir(EXAMPLES) if n.endswith((".sh", ".py"))} - {"client.py"}
        with open(__file__) as f:
            tested = f.read()
        self.assertGreater(len(there), 7)
        for name in there:
            self.assertIn(f"`{name}`", text)
            self.assertIn(f'run_example("{name}")', tested)


class Figures(unittest.TestCase):
    def test_as_json(self):
        done = subprocess.run([os.path.join(lib.ROOT, "bench/run"), "-o", "json", "slot"],
                              capture_output=True, text=True, timeout=300, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual(report["machine"]["kernel"], os.uname().release)
        self.assertIn("isolation", [c["name"] for c in report["machine"]["doctor"]["checks"]])
        (slot,) = report["benchmarks"]
        self.assertEqual((slot["name"], slot["ok"]), ("slot", True))
        self.assertTrue(slot["figures"])
        self.assertTrue(all(f["numbers"] for f in slot["figures"]))
