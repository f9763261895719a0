#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""silent.py STASIS: a server that was stopped, an agent that was stopped: no command waits for ever.
What is slow and lives is waited for."""
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import played  # noqa: E402
from played import ID  # noqa: E402

STASIS = sys.argv[1]
SANDBOX = {"id": ID, "name": "web", "state": "running", "cause": None, "envd_token": "t", "started_at": None,
           "url": "http://{port}-x.localhost:7"}
# Dead man's switch; without the promise it is for ever.
LIMIT = 60
COMMANDS = [("get", ID), ("ls",), ("pause", ID), ("resume", ID), ("rm", ID), ("events",), ("events", "-f"),
            ("cp", "/etc/hostname", ID + ":/tmp/x"), ("cp", ID + ":/etc/hostname", "/tmp/silent-never"),
            ("exec", ID, "--", "true"), ("exec", "-o", "json", ID, "--", "true"), ("create",), ("run", "--", "true"),
            ("fork", ID), ("logs", ID), ("logs", "-f", ID), ("wait", ID), ("why", ID), ("operations",), ("health",),
            ("snapshot", "ls"), ("snapshot", "create", ID, "n"), ("key", "ls"), ("timeout", ID, "1h"), ("image", "ls"),
            ("port", ID, "80"), ("du",)]


def run(url, *args, env=None, limit=LIMIT):
    with tempfile.TemporaryDirectory() as empty:
        return subprocess.run([STASIS, *args], capture_output=True, timeout=limit, stdin=subprocess.DEVNULL, check=False,
                              env={"PATH": os.environ["PATH"], "STASIS_URL": url, "STASIS_API_KEY": "e2b_x",
                                   "STASIS_DATA": empty, **(env or {})})


class Stopped:
    """Its kernel takes connections, and nobody reads them. dribble: a byte of an answer now and then."""

    def __init__(self, dribble=b""):
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.dribble, self.over = dribble, False
        if dribble:
            threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        held = []
        self.socket.settimeout(0.2)
        while not self.over:
            try:
                held.append((self.socket.accept()[0], iter(self.dribble)))
            except TimeoutError:
                pass
            except OSError:  # closed
                break
            for connection, rest in held:
                byte = next(rest, None)
                try:
                    connection.send(bytes([byte]) if byte is not None else b"")
                except OSError:
                    pass
        for connection, _ in held:
            connection.close()

    def close(self):
        self.over = True
        self.socket.close()


class Case(unittest.TestCase):
    def stopped(self, **how):
        s = Stopped(**how)
        self.addCleanup(s.close)
        return s.url

    def serve(self, routes):
        s = played.Server(STASIS, routes)
        self.addCleanup(s.close)
        return s

    def all_end(self, url, **env):
        ends = {}

        def one(args):
            ends[args] = run(url, *args, env=env)

        threads = [threading.Thread(target=one, args=(c,)) for c in COMMANDS]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for args in COMMANDS:
            with self.subTest(args):
                self.assertIn(args, ends, "it has not ended")
                self.assertEqual(ends[args].returncode, 8, ends[args].stderr)
                self.assertIn(b"no sign of life", ends[args].stderr)
                self.assertIn(b"--client-timeout", ends[args].stderr)


class Server(Case):
    def test_every_command_ends(self):
        self.all_end(self.stopped(), STASIS_CLIENT_TIMEOUT="2s")

    def test_bytes_alone_are_no_answer(self):
        end = run(self.stopped(dribble=b"HTTP/1.1 200 OK"), "get", ID, "--client-timeout", "2s")
        self.assertEqual(end.returncode, 8, end.stderr)

    def test_the_option_wins_over_the_environment(self):
        end = run(self.stopped(), "ls", "--client-timeout", "1s", env={"STASIS_CLIENT_TIMEOUT": "1h"})
        self.assertIn(b"for 1 s", end.stderr)

    def test_a_wrong_time_is_told(self):
        end = run(self.stopped(), "ls", env={"STASIS_CLIENT_TIMEOUT": "soon"})
        self.assertEqual(end.returncode, 2)
        self.assertIn(b"STASIS_CLIENT_TIMEOUT", end.stderr)

    def test_what_is_slow_and_lives_is_waited_for(self):
        asked = []

        def pause(request):
            time.sleep(4)
            return 200, {**SANDBOX, "state": "paused"}

        def health(request):
            asked.append(request)
            return 200, {"status": "ok"}

        s = self.serve({f"POST /v1/sandboxes/{ID}/pause": pause, "GET /v1/health": health})
        end = run(s.url, "pause", ID, "--client-timeout", "2s")
        self.assertEqual(end.returncode, 0, end.stderr)
        self.assertTrue(asked, "it was not asked whether it lives")

    def test_a_stopped_one_is_told_from_one_that_closes(self):
        end = run("http://127.0.0.1:9", "ls", "--client-timeout", "1s")
        self.assertEqual(end.returncode, 7, end.stderr)


class Agent(Case):
    def routes(self, start, health):
        return {f"GET /v1/sandboxes/{ID}": lambda r: (200, SANDBOX), "GET /v1/events": lambda r: (200, {"events": []}),
                "GET /v1/health": lambda r: (200, {"status": "ok"}),
                "POST /process.Process/Start": start, "GET /health": health}

    def hang(self, request):
        self.over.wait(LIMIT)

    def setUp(self):
        self.over = threading.Event()
        self.addCleanup(self.over.set)

    def test_exec_ends_after_its_own_time(self):
        s = self.serve(self.routes(self.hang, lambda r: (204, b"")))
        began = time.monotonic()
        end = run(s.url, "exec", "--timeout", "1s", ID, "--", "sleep", "9")
        self.assertEqual(end.returncode, 8, end.stderr)
        self.assertIn(b"stasis why", end.stderr)
        self.assertLess(time.monotonic() - began, 30)

    def test_exec_without_a_time_ends_when_the_agent_is_silent(self):
        s = self.serve(self.routes(self.hang, self.hang))
        end = run(s.url, "exec", "--client-timeout", "2s", ID, "--", "true")
        self.assertEqual(end.returncode, 8, end.stderr)
        self.assertIn(b"agent of sandbox", end.stderr)

    def test_the_edge_speaks_for_itself(self):
        s = self.serve(self.routes(self.hang, lambda r: (504, b"")))
        end = run(s.url, "exec", "--client-timeout", "2s", ID, "--", "true")
        self.assertEqual(end.returncode, 8, end.stderr)

    def test_a_command_that_says_nothing_is_waited_for(self):
        agent = played.Agent(out=b"well\n")

        def start(request):
            time.sleep(4)
            return agent.start(request)

        s = self.serve({**agent.routes(), **self.routes(start, lambda r: (204, b""))})
        end = run(s.url, "exec", "--client-timeout", "2s", ID, "--", "true")
        self.assertEqual((end.returncode, end.stdout), (0, b"well\n"), end.stderr)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:])
