#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tests/lab/lab, with shell scripts in place of QEMU and ssh: what it makes of a lab that breaks,
and that nothing of it stays."""
import contextlib
import importlib.machinery
import importlib.util
import io
import os
import select
import signal
import subprocess
import sys
import tempfile
import types
import unittest
import unittest.mock

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "tests/e2e"))
import lib  # noqa: E402
# The last argument but "file:" is where the console goes.
BOOTS = 'for a; do :; done; echo "lab: ready 1.0" >"${a#file:}"; exec sleep 600'


def load():
    loader = importlib.machinery.SourceFileLoader("lab", os.path.join(ROOT, "tests/lab/lab"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("lab", loader))
    loader.exec_module(module)
    return module


class Lab(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="stasis-lab-test.")
        self.addCleanup(folder.cleanup)
        self.dir = folder.name
        self.old = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(self.old)))
        os.environ.update(PATH=f"{self.dir}/bin:{os.environ['PATH']}", TMPDIR=f"{self.dir}/tmp")
        for name in ("bin", "tmp", "machine"):
            os.mkdir(os.path.join(self.dir, name))
        open(os.path.join(self.dir, "machine/vmlinuz-6.12"), "w").close()
        self.play(BOOTS)
        self.program("ssh-keygen", "")
        self.lab = load()
        self.lab.KERNEL = "6.12"
        self.lab.FIRECRACKER = ""
        self.lab.machine = lambda: os.path.join(self.dir, "machine")
        self.lab.pack = lambda path, work: None
        self.lab.Lab.take_logs = lambda lab: None
        self.lab.host_has_kvm = lambda: (False, "played")

    def program(self, name, text):
        path = os.path.join(self.dir, "bin", name)
        with open(path, "w") as f:
            f.write("#!/bin/sh\n" + text + "\n")
        os.chmod(path, 0o755)

    def play(self, qemu, ssh='case "$*" in *tests/run*) exit 3 ;; esac'):
        self.program("qemu-system-x86_64", f"echo $$ >>{self.dir}/pids\n" + qemu)
        self.program("ssh", ssh)

    def hangs(self):
        """A connection that lives as long as its machine: an interrupt may come before it is
        known, and then that alone ends it."""
        return f'while kill -0 "$(tail -n 1 {self.dir}/pids)" 2>/dev/null; do sleep 0.1; done'

    def ask(self):
        """Exit code and output of "lab test"."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            code = self.lab.test([])
        return code, out.getvalue()

    def tearDown(self):
        self.assertEqual(os.listdir(os.path.join(self.dir, "tmp")), [])
        for pid in self.pids():
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)

    def pids(self):
        """Of the machines that were started."""
        if not os.path.exists(self.dir + "/pids"):
            return []
        with open(self.dir + "/pids") as f:
            return list(map(int, f))

    def booted(self):
        return len(self.pids())

    def test_gives_what_the_tests_gave(self):
        code, out = self.ask()
        self.assertEqual((code, self.booted()), (3, 1))
        self.assertNotIn("BROKEN", out)

    def test_broken_once(self):
        self.play(f'if mkdir {self.dir}/once 2>/dev/null; then exit 7; fi; ' + BOOTS)
        code, out = self.ask()
        self.assertEqual((code, self.booted()), (3, 2))
        self.assertEqual(out.count("LAB BROKEN: QEMU ended with 7"), 1, out)

    def test_broken_twice_is_a_failure(self):
        self.play('for a; do :; done; echo "[ 1.0] Kernel panic - not syncing" >"${a#file:}"; '
                  'exec sleep 600')
        code, out = self.ask()
        self.assertEqual((code, self.booted()), (1, 2))
        self.assertEqual(out.count("LAB BROKEN: Kernel panic"), 2, out)
        self.assertEqual(out.splitlines()[-1], "0 passed, 1 failed, 0 skipped")

    def test_panic_while_tests_run(self):
        """The connection hangs then; it is not waited for."""
        self.play('for a; do :; done; echo "lab: ready" >"${a#file:}"; '
                  f'until [ -e {self.dir}/begun ]; do sleep 0.05; done; '
                  'echo "Kernel panic" >>"${a#file:}"; exec sleep 600',
                  f'case "$*" in *tests/run*) touch {self.dir}/begun; {self.hangs()} ;; esac')
        code, out = self.ask()
        self.assertEqual((code, out.count("LAB BROKEN: Kernel panic")), (1, 2), out)

    def test_lost_connection(self):
        self.play(BOOTS, 'case "$*" in *tests/run*) exit 255 ;; esac')
        code, out = self.ask()
        self.assertEqual((code, out.count("LAB BROKEN: the connection")), (1, 2), out)

    def test_a_kernel_that_is_not_there(self):
        self.lab.KERNEL = "5.10"
        with self.assertRaises(SystemExit) as told:
            self.ask()
        self.assertEqual(str(told.exception), "lab: KERNEL=5.10: there is 6.12")

    def test_own_kvm_is_used(self):
        self.lab.host_has_kvm = lambda: (True, "")
        self.program("run", f'exec >{self.dir}/said; '
                            'echo "$STASIS_EXPECT_ISOLATION $STASIS_EXPECT_VMM $*"; '
                            'command -v firecracker; exit 5')
        self.lab.RUN = os.path.join(self.dir, "bin/run")
        self.assertEqual(self.ask()[0], 5)
        with open(self.dir + "/said") as f:
            self.assertEqual(f.readline(), "kvm fcqemu kvm\n")
        self.lab.FIRECRACKER = "/bin/true"
        self.assertEqual(self.ask()[0], 5)
        with open(self.dir + "/said") as f:
            self.assertEqual(f.readline(), "kvm Firecracker kvm\n")
            self.assertRegex(f.readline(), "/firecracker\n$")

    def test_interrupted(self):
        """By a signal to this process alone, while the tests run."""
        self.play(BOOTS, f'case "$*" in *tests/run*) kill -INT {os.getpid()}; {self.hangs()}; esac')
        self.assertRaises(KeyboardInterrupt, self.ask)

    def test_killed(self):
        """Its machine does not outlive it."""
        self.program("parent", "exec " + sys.executable + " -c '" + (
            "import os, subprocess, sys; sys.argv = [\"lab\"];"
            f"sys.path.insert(0, \"{os.path.dirname(os.path.abspath(__file__))}\");"
            "import test_lab; lab = test_lab.load();"
            "p = subprocess.Popen([\"sleep\", \"600\"], preexec_fn=lab.with_us);"
            "print(p.pid, flush=True); os.kill(os.getpid(), 9)'"))
        done = subprocess.run([os.path.join(self.dir, "bin/parent")], stdout=subprocess.PIPE,
                              check=False, timeout=60)
        self.assertEqual(done.returncode, -signal.SIGKILL)
        pid = int(done.stdout)
        try:
            ended = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        self.assertTrue(select.select([ended], [], [], 60)[0])
        os.close(ended)


class Expected(unittest.TestCase):
    """What a server says that its guests run on, against what is expected."""

    def check(self, isolation, vmm, **expected):
        host = {"isolation": isolation, "vmm": vmm}
        world = types.SimpleNamespace(
            api=lambda *_: types.SimpleNamespace(json=lambda: host))
        with unittest.mock.patch.dict(os.environ, {"STASIS_EXPECT_" + k: v
                                                   for k, v in expected.items()}):
            return lib.World.check_host(world)["isolation"]

    def test_quietly_something_else(self):
        for isolation, vmm in (("emulated", "fcqemu 0.1.0 (QEMU 7.2.22, tcg)"),
                               ("kvm", "Firecracker v1.16.1"), ("", "fcqemu")):
            with self.subTest(isolation=isolation, vmm=vmm), self.assertRaises(AssertionError):
                self.check(isolation, vmm, ISOLATION="kvm", VMM="fcqemu")

    def test_as_expected(self):
        self.assertEqual(self.check("kvm", "fcqemu 0.1.0", ISOLATION="kvm", VMM="fcqemu"), "kvm")
        self.assertEqual(self.check("kvm", "Firecracker v1", ISOLATION="kvm"), "kvm")
        self.assertEqual(self.check("emulated", "fcqemu"), "emulated")


if __name__ == "__main__":
    unittest.main()
