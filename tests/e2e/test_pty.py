# SPDX-License-Identifier: Apache-2.0
"""stasis exec -it on a real terminal."""
import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
import unittest

import lib


class Terminal:
    """stasis as the leader of a pseudo-terminal, both ends of which we hold."""

    def __init__(self, w, *args, rows=30, cols=100):
        self.fd, self.slave = pty.openpty()
        self.mode = termios.tcgetattr(self.slave)
        self.resize(rows, cols)
        self.seen = b""

        def lead():
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)

        self.process = w.popen(*args, env={"TERM": "xterm"}, stdin=self.slave, stdout=self.slave,
                               stderr=self.slave, start_new_session=True, preexec_fn=lead)

    def resize(self, rows, cols):
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def send(self, text):
        os.write(self.fd, text.encode())

    def expect(self, text, limit=30):
        end = time.monotonic() + limit
        while text.encode() not in self.seen:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.fd], [], [], left)[0]:
                raise AssertionError(f"no {text!r} in {self.seen!r}")
            self.seen += os.read(self.fd, 65536)
        at = self.seen.index(text.encode()) + len(text)
        before, self.seen = self.seen[:at], self.seen[at:]
        return before.decode(errors="replace")

    def wait(self, limit=30):
        """Exit code; reads what still comes, so that nobody blocks on us. The terminal must be as
        it was."""
        end = time.monotonic() + limit
        while self.process.poll() is None and time.monotonic() < end:
            if select.select([self.fd], [], [], 0.05)[0]:
                self.seen += os.read(self.fd, 65536)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"did not end; last: {self.seen[-300:]!r}")
        mode = termios.tcgetattr(self.slave)
        os.close(self.fd)
        os.close(self.slave)
        if mode != self.mode:
            raise AssertionError("the terminal was not restored")
        return self.process.returncode


class Pty(unittest.TestCase):
    def setUp(self):
        self.s = lib.shared()
        self.w = self.s.world

    def shell(self):
        # What is typed is echoed by the terminal, so what is awaited must not stand in it.
        t = Terminal(self.w, "exec", self.s.id, "-it", "--", "bash", "--norc")
        t.send("PS1=; stty -echo; echo re''ady\n")
        t.expect("ready")
        return t

    def test_size_and_resize(self):
        t = self.shell()
        t.send("stty size\n")
        t.expect("30 100")
        t.resize(40, 132)
        t.send("until [ \"$(stty size)\" = '40 132' ]; do sleep 0.1; done; echo ch''anged\n")
        t.expect("changed")
        t.send("exit 5\n")
        self.assertEqual(t.wait(), 5)

    def test_it_is_a_terminal_of_the_right_kind(self):
        t = self.shell()
        t.send("test -t 0 && test -t 1 && echo kind=$TERM\n")
        t.expect("kind=xterm")
        t.send("cd $(mktemp -d); touch café; ls; locale charmap\n")
        self.assertIn("café", t.expect("UTF-8"))
        t.send("exit\n")
        self.assertEqual(t.wait(), 0)

    def test_control_c_is_for_the_program(self):
        # Not for bash at its prompt: a signal that meets readline between two reads runs no trap
        # there until the next line is typed, on any terminal.
        t = self.shell()
        t.send("exec sh -c 'trap \"echo cau\"\"ght; exit 6\" INT; echo se\"\"t; while :; do sleep 0.1; done'\n")
        t.expect("set")
        t.send("\x03")
        t.expect("caught")
        self.assertEqual(t.wait(), 6)

    def test_raw_while_it_runs_and_restored_whatever_ends_it(self):
        for end, code in (("exit 0\n", 0), ("kill -9 $$\n", 137), (None, 143)):
            t = self.shell()
            self.assertFalse(termios.tcgetattr(t.slave)[3] & termios.ICANON)
            if end:
                t.send(end)
            else:
                t.process.send_signal(signal.SIGTERM)
            self.assertEqual(t.wait(), code)

    def test_ends_with_the_shell(self):
        """As by sshd: a child in the background that holds the terminal goes on without it."""
        t = self.shell()
        t.send("(trap '' HUP; exec sleep 786) & disown; echo left; exit 5\n")
        t.expect("left")
        self.assertEqual(t.wait(), 5)
        self.assertEqual(self.s.run("pkill -f 'sleep 78[6]'")["exit_code"], 0)

    def test_it_needs_a_terminal(self):
        r = self.w.cli("exec", self.s.id, "-it", "--", "true")
        self.assertEqual(r.code, 2)
        self.assertIn("terminal", r.errors)
