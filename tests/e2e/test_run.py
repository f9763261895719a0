# SPDX-License-Identifier: Apache-2.0
"""stasis run, with real guests. tests/integration/cli/run.py has the ways out, one by one."""
import re
import signal
import subprocess
import unittest
import urllib.request

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


class ByName(unittest.TestCase):
    """The life of a sandbox that is called by its name alone."""

    def test_life(self):
        w = lib.world()

        def cli(*args, **kw):
            return w.cli(*args, **kw).ok().text

        made = cli("create", "-q", "--name", "web-cli", "--timeout", "10m").strip()
        self.addCleanup(w.cli, "rm", "-f", made)
        self.assertEqual(w.cli("create", "--name", "web-cli").code, 5)
        self.assertEqual(cli("ls", "--name", "web-cli", "--format", "{id} {name} {state}"),
                         f"{made} web-cli running\n")
        self.assertRegex(cli("get", "web-cli"), rf"(?m)^id +{made}\n(?s:.*)^memory_mb +\d+$")
        self.assertEqual(cli("exec", "web-cli", "--", "echo", "hi"), "hi\n")
        cli("cp", "-", "web-cli:index.html", stdin=b"from the guest")
        self.assertEqual(cli("cp", "web-cli:index.html", "-"), "from the guest")
        cli("exec", "web-cli", "--", "sh", "-c",
            "setsid python3 -m http.server 8123 >/dev/null 2>&1 </dev/null & "
            "until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8123))' "
            "2>/dev/null; do :; done")
        url = cli("port", "web-cli", "8123").strip()
        self.assertIn(made, url)
        # Names below localhost are resolved by browsers and curl, not by every resolver.
        host = url.removeprefix("http://")
        request = urllib.request.Request(f"http://127.0.0.1:{w.port}/index.html",
                                         headers={"Host": host})
        with urllib.request.urlopen(request, timeout=60) as answer:
            self.assertEqual(answer.read(), b"from the guest")

        cli("set", "web-cli", "--name", "api-cli", "--metadata", "job=42", "--on-timeout", "pause")
        row = w.cli("get", "api-cli", "-o", "json").ok().json()
        self.assertEqual((row["id"], row["metadata"], row["on_timeout"]),
                         (made, {"job": "42"}, "pause"))
        cli("set", "api-cli", "--metadata", "job-")
        self.assertEqual(cli("get", "api-cli", "-o", "json").count("job"), 0)

        self.assertEqual(w.cli("wait", "api-cli", "--timeout", "1s").code, 8)
        self.assertEqual(w.cli("wait", "api-cli", "--state", "running").ok().text,
                         "api-cli running\n")
        lines = cli("logs", "api-cli").splitlines()
        self.assertEqual(cli("logs", "api-cli", "--tail", "2").splitlines(), lines[-2:])
        cli("pause", "api-cli")
        self.assertEqual(cli("wait", "api-cli", "--state", "paused,stopped"), "api-cli paused\n")
        waiting = w.popen("wait", "api-cli", stdout=subprocess.PIPE)
        cli("rm", "api-cli")
        out, _ = waiting.communicate(timeout=60)
        self.assertIn((waiting.returncode, out), ((0, b"api-cli stopped: killed\n"), (4, b"")))
        events = cli("events", "--since", "1h", "--sandbox", made, "--format", "{kind}").split()
        self.assertEqual((events[0], events[-1]), ("running", "stopped"))
