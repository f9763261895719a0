# SPDX-License-Identifier: Apache-2.0
"""stasis run, with real guests. tests/integration/cli/run.py has the ways out, one by one."""
import re
import signal
import subprocess
import unittest

import lib
from test_pty import Terminal


class Run(unittest.TestCase):
    def setUp(self):
        self.w = lib.world()
        self.before = self.there()

    def there(self):
        return set(self.w.cli("ls", "-q").ok().text.split())

    def test_output_exit_code_and_removal(self):
        r = self.w.cli("run", "--rm", "-e", "A=b", "--", "sh", "-c", "echo $A; echo err >&2; exit 5")
        self.assertEqual((r.code, r.out, r.err), (5, b"b\n", b"err\n"))
        self.assertEqual(self.there(), self.before)

    def test_input(self):
        r = self.w.cli("run", "-i", "--rm", "--", "wc", "-c", stdin=b"12345").ok()
        self.assertEqual(r.text.strip(), "5")
        self.assertEqual(self.there(), self.before)

    def test_missing_program(self):
        self.assertEqual(self.w.cli("run", "--rm", "--", "no-such-program").code, 127)
        self.assertEqual(self.there(), self.before)

    def test_without_rm_it_stays(self):
        r = self.w.cli("run", "--timeout", "10m", "--", "true").ok()
        (made,) = self.there() - self.before
        self.assertEqual(re.findall(r"sandbox (\w+) stays", r.errors), [made])
        self.w.cli("exec", made, "--", "true").ok()
        self.w.cli("rm", made).ok()

    def test_interrupt(self):
        p = self.w.popen("run", "--rm", "--", "sh", "-c", "echo up; exec sleep 775",
                         stdout=subprocess.PIPE)
        self.assertEqual(p.stdout.readline(), b"up\n")
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(60), 130)
        p.stdout.close()
        self.assertEqual(self.there(), self.before)

    def test_terminal(self):
        t = Terminal(self.w, "run", "-it", "--rm", "--", "bash")
        t.expect("$ ")
        t.send("tty; exit 6\n")
        t.expect("/dev/pts/")
        self.assertEqual(t.wait(), 6)
        self.assertEqual(self.there(), self.before)
