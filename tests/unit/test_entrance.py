#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The scripts beside the code: the workflow's test, the choice of tests, the figures' JSON, the
hook."""
import importlib.machinery
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tests/e2e")]
sys.dont_write_bytecode = True
import main as e2e  # noqa: E402
import workflow  # noqa: E402


def script(path):
    loader = importlib.machinery.SourceFileLoader(os.path.basename(path).replace("-", "_"),
                                                  os.path.join(ROOT, path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


class Workflow(unittest.TestCase):
    def wrong(self, text):
        with tempfile.TemporaryDirectory(prefix="stasis-workflow.") as root:
            os.makedirs(os.path.join(root, ".github/workflows"))
            os.mkdir(os.path.join(root, "scripts"))
            with open(os.path.join(root, "Makefile"), "w") as f:
                f.write(".PHONY: check \\\n\ttest\n")
            with open(os.path.join(root, "scripts/a"), "w") as f:
                os.fchmod(f.fileno(), 0o755)
            with open(os.path.join(root, ".github/workflows/ci.yml"), "w") as f:
                f.write(text)
            return list(workflow.wrong(root))

    def test_ours(self):
        self.assertEqual(list(workflow.wrong(ROOT)), [])

    def test_good(self):
        self.assertEqual(self.wrong("on:\n  push:\nx: [a, b]\nsteps:\n  - run: scripts/a b\n"
                                    "  - run: make test X=y\n  - uses: actions/checkout@v4\n"
                                    "    with:\n      path: |\n        any text; $here\n"), [])

    def test_bad(self):
        for step in ("run: scripts/none", "run: make none", "run: |\n      a", "run: ls",
                     "run: scripts/a && scripts/a", "run: scripts/a $X", "run:",
                     "run: scripts/a\n- x: &anchor\n\t- y", "uses: somebody/action@main"):
            with self.subTest(step):
                self.assertNotEqual(self.wrong(f"steps:\n  - run: make test\n  - {step}\n"), [])
        self.assertNotEqual(self.wrong("steps:\n"), [])


class Choice(unittest.TestCase):
    def names(self, *words):
        return [e2e.printed(t) for m in e2e.choose(words)
                for t in e2e.tests_of(e2e.chosen(m, words))]

    def test_one_by_its_name(self):
        name = "pause.Pause.test_command_line"
        self.assertEqual(self.names(name), [name])

    def test_by_the_beginning(self):
        names = self.names("pause.Pause.")
        self.assertGreater(len(names), 3)
        self.assertTrue(all(n.startswith("pause.Pause.") for n in names))

    def test_word_takes_modules(self):
        self.assertEqual({n.split(".")[0] for n in self.names("fault")}, {"faults", "lifefaults"})
        self.assertEqual(self.names("pause", "pause.Pause."), self.names("pause"))

    def test_nothing_is_an_error(self):
        for word in ("none", "none.None.test", "pause.Pause.test_none", "ause.Pause"):
            with self.subTest(word), self.assertRaises(SystemExit) as ended:
                e2e.choose(["pause", word])
            self.assertIn(word, str(ended.exception.code))


class Asked(unittest.TestCase):
    """What a failure on an old build proves."""

    def failure(self, case):
        rows = []
        e2e.unittest.defaultTestLoader.loadTestsFromTestCase(case).run(Quiet(rows))
        self.assertEqual(len(rows), 1)
        return rows[0]

    def test_its_own_question(self):
        class Case(unittest.TestCase):
            def test_it(self):
                self.assertEqual(1, 2, "told\nmore")
        row = self.failure(Case)
        self.assertTrue(row["asked"])
        self.assertEqual(row["line"], "AssertionError: 1 != 2 : told")
        self.assertEqual(script("scripts/prove-old").judge(row), "failed there as it should")

    def test_set_up(self):
        class Method(unittest.TestCase):
            def setUp(self):
                raise ValueError

            def test_it(self):
                pass

        class Class(unittest.TestCase):
            @classmethod
            def setUpClass(cls):
                raise ValueError

            def test_it(self):
                pass

        for case in (Method, Class):
            row = self.failure(case)
            self.assertFalse(row["asked"])
            self.assertIn("proves nothing", script("scripts/prove-old").judge(row))

    def test_a_server_that_never_was(self):
        class World:
            def __init__(self, ready):
                self.was_ready = ready

            def launch(self):
                raise AssertionError

        def case(ready):
            class Case(unittest.TestCase):
                def test_it(self):
                    World(ready).launch()
            return Case

        self.assertFalse(self.failure(case(False))["asked"])
        self.assertTrue(self.failure(case(True))["asked"])

    def test_passed_and_skipped(self):
        judge = script("scripts/prove-old").judge
        for result in ("passed", "skipped"):
            self.assertEqual(judge({"result": result}), result + " there: proves nothing")


class Quiet(e2e.Result):
    def note(self, *args, **kw):
        out, sys.stdout = sys.stdout, open(os.devnull, "w")
        try:
            super().note(*args, **kw)
        finally:
            sys.stdout.close()
            sys.stdout = out


class Soak(unittest.TestCase):
    def test_a_unit_test(self):
        build = os.environ.get("STASIS_BUILD", os.path.join(ROOT, "build"))
        done = subprocess.run([os.path.join(ROOT, "scripts/soak-tests"), "2", "base: str"],
                              capture_output=True, text=True, check=False,
                              env={**os.environ, "STASIS_BUILD": build})
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(done.stdout.splitlines()[-1], "2 passed, 0 failed, 0 skipped")


class Figures(unittest.TestCase):
    def test_lines(self):
        figures = list(script("bench/run").figures(
            "no number\ncreate  direct  3.6 us, added 1,081.2 us; p99 -2 (goal: at most 1.15)\n"))
        self.assertEqual([f["name"] for f in figures], ["create  direct"])
        self.assertEqual([(n["value"], n["unit"]) for n in figures[0]["numbers"]],
                         [(3.6, "us"), (1081.2, "us"), (-2, None), (1.15, None)])


@unittest.skipUnless(shutil.which("git") and shutil.which("clang-format"), "git, clang-format")
class Hook(unittest.TestCase):
    def test_refuses(self):
        with tempfile.TemporaryDirectory(prefix="stasis-hook.") as root:
            def git(*args, ok=True):
                done = subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *args],
                                      cwd=root, capture_output=True, text=True, check=False)
                self.assertEqual(done.returncode == 0, ok, done.stdout + done.stderr)
                return done.stderr + done.stdout

            for path in ("tests/unit/layers.py", "tests/unit/documents.py", ".clang-format",
                         "scripts/hooks/pre-commit"):
                os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
                shutil.copy(os.path.join(ROOT, path), os.path.join(root, path))
            os.makedirs(os.path.join(root, "src/base"))
            source = os.path.join(root, "src/base/a.c")
            for line, text, found in ((0, "int a;\n", None), (1, "int  a ;\n", "make format"),
                                      (2, '#include "control/x.h"\n', "must not include"),
                                      (3, "int b;\n", None)):
                if line == 0:
                    git("init", "-q")
                    git("config", "core.hooksPath", "scripts/hooks")
                with open(source, "w") as f:
                    f.write(text)
                git("add", "-A")
                said = git("commit", "-q", "-m", "x", ok=found is None)
                self.assertIn(found or "", said)
            with open(os.path.join(root, "README.md"), "w") as f:
                f.write("see src/base/none.c\n")
            git("add", "-A")
            self.assertIn("is not there", git("commit", "-q", "-m", "x", ok=False))


if __name__ == "__main__":
    unittest.main()
