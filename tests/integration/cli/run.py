#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""run.py STASIS: stasis run and exec against a played server and agent: what is passed, and that --rm
removes the sandbox on every way out."""
import json
import os
import signal
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import played  # noqa: E402
from played import ID, Agent, error  # noqa: E402

STASIS = sys.argv[1]
STARTED = "2026-01-31T12:00:00.123Z"
SANDBOX = {"id": ID, "name": None, "state": "running", "envd_token": "t", "cause": None,
           "started_at": STARTED, "phases": [{"name": "slot", "us": 1500}]}


class Case(unittest.TestCase):
    def serve(self, agent=None, **more):
        """more: create=, remove=, get= instead of the ordinary answers."""
        routes = {"POST /v1/sandboxes": more.pop("create", (201, SANDBOX)),
                  f"GET /v1/sandboxes/{ID}": more.pop("get", (200, SANDBOX)),
                  "GET /v1/sandboxes/web": (200, SANDBOX),
                  f"DELETE /v1/sandboxes/{ID}": more.pop("remove", (204, b"")),
                  f"POST /v1/sandboxes/{ID}/exec": more.pop("buffered", (200, {}))}
        self.assertEqual(more, {})
        s = played.Server(STASIS, {**routes, **(agent.routes() if agent else {})})
        self.addCleanup(s.close)
        return s

    def removed(self, s):
        return [r.path for r in s.calls("DELETE")] == [f"/v1/sandboxes/{ID}"]

    def start(self, s, *args):
        p = s.popen(*args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(p.kill)
        return p

    def finish(self, p):
        out, err = p.communicate(timeout=60)
        return p.returncode, out, err


class Passes(Case):
    def test_output_and_exit_code(self):
        for code in (0, 3):
            s = self.serve(Agent(b"out\n", b"err\n", code))
            done = s.run("run", "--rm", "--", "prog", "a", "--rm", code=code)
            self.assertEqual((done.stdout, done.stderr), ("out\n", "err\n"))
            self.assertTrue(self.removed(s))

    def test_what_the_program_gets(self):
        agent = Agent()
        s = self.serve(agent)
        s.run("run", "--rm", "-u", "root", "-w", "/tmp", "--", "prog", "-x", "a b")
        p = agent.started["process"]
        self.assertEqual((p["cmd"], p["args"], p["cwd"]), ("prog", ["-x", "a b"], "/tmp"))
        self.assertFalse(agent.started["stdin"])

    def test_what_the_sandbox_is_made_of(self):
        s = self.serve(Agent())
        s.run("run", "--rm", "--template", "warm", "--name", "web", "--vcpus", "2", "--memory", "1G",
              "--disk", "4G", "--timeout", "1h", "--on-timeout", "pause", "-e", "A=b",
              "--metadata", "k=v", "--cold", "--", "true")
        self.assertEqual(s.calls("POST")[0].json(), {
            "template": "warm", "name": "web", "vcpus": 2, "memory_mb": 1024, "disk_mb": 4096,
            "timeout_sec": 3600, "on_timeout": "pause", "env": {"A": "b"}, "metadata": {"k": "v"},
            "cold": True})

    def test_input(self):
        s = self.serve(Agent())
        self.assertEqual(s.run("run", "-i", "--rm", "--", "cat", stdin="some text").stdout,
                         "some text")

    def test_without_rm_it_stays_and_is_named(self):
        s = self.serve(Agent(b"out\n", exit_code=4))
        done = s.run("run", "--", "prog", code=4)
        self.assertEqual(done.stdout, "out\n")
        self.assertEqual(done.stderr,
                         f"stasis: sandbox {ID} stays: it ends with: stasis rm {ID}\n")
        s.routes["POST /v1/sandboxes"] = (201, {**SANDBOX, "ends_at": "2199-01-01T00:00:00Z"})
        self.assertRegex(s.run("run", "--", "prog", code=4).stderr,
                         rf"stays: it ends in \d+d \d+h, or with: stasis rm {ID}\n")
        self.assertEqual(s.calls("DELETE"), [])

    def test_json(self):
        answer = {"exit_code": 5, "signal": None, "stdout": "hi"}
        s = self.serve(buffered=(200, answer))
        done = s.run("run", "--rm", "-o", "json", "--", "prog", code=5)
        self.assertEqual(played.json.loads(done.stdout), answer)
        self.assertTrue(self.removed(s))

    def test_usage(self):
        s = self.serve()
        for args in (["run"], ["run", "--rm"], ["run", "-it", "--", "sh"],
                     ["run", "-i", "-o", "json", "--", "sh"], ["run", "--nosuch", "--", "sh"]):
            s.run(*args, code=2)
        self.assertEqual(s.asked, [])

    def test_exec_takes_a_name_and_uses_the_id(self):
        s = self.serve(Agent(b"out\n"))
        self.assertEqual(s.run("exec", "web", "--", "prog").stdout, "out\n")
        start = [r for r in s.asked if r.path == "/process.Process/Start"]
        self.assertEqual([r.headers["E2b-Sandbox-Id"] for r in start], [ID])


class WaysOut(Case):
    def test_program_that_cannot_start(self):
        for reason, code in (("no_program", 127), ("cannot_run", 126), (None, 2)):
            agent = Agent(error={"code": "invalid_argument", "message": "prog: no", "reason": reason})
            s = self.serve(agent)
            self.assertIn("prog: no", s.run("run", "--rm", "--", "prog", code=code).stderr)
            self.assertTrue(self.removed(s))

    def happened(self, *events):
        """The events of the sandbox since its start, one a line."""
        lines = [json.dumps({"kind": kind, "cause": cause}) + "\n" for kind, cause in events]
        return 200, ("application/x-ndjson", "".join(lines).encode())

    def test_agent_that_is_lost(self):
        s = self.serve()
        s.routes["GET /v1/events"] = self.happened(("running", None))
        s.routes["POST /process.Process/Start"] = lambda _: None
        s.run("run", "--rm", "--", "prog", code=7)
        self.assertTrue(self.removed(s))

    def test_sandbox_that_ended_meanwhile(self):
        """Its end is told, not the connection's. It is waited for: at first there is none."""
        for kind, cause, text, code in (
                ("stopped", "timeout", "ended (timeout): the command (pid 77) is gone with it", 8),
                ("stopped", "killed", "was destroyed (killed): the command (pid 77) is gone with it", 5),
                ("stopped", "vmm_crash", "ended (vmm_crash): the command (pid 77) is gone with it", 5),
                ("rolled_back", None, "went back to a snapshot: the command (pid 77) is gone with it", 5),
                ("paused", None, "was paused: the command (pid 77) goes on in it when it is resumed", 5)):
            s = self.serve(Agent(b"so far\n", breaks=True))
            s.routes["GET /v1/events"] = self.happened(("running", None), ("timeout_set", None), (kind, cause))
            s.routes[f"DELETE /v1/sandboxes/{ID}"] = error(404, "not_found", "it has ended")
            for args in (["run", "--rm", "--"], ["exec", ID, "--"], ["exec", "-i", ID, "--"]):
                done = s.run(*args, "prog", code=code)
                self.assertEqual((done.stdout, done.stderr), ("so far\n", f"stasis: the sandbox {text}\n"))
            for r in s.asked:
                if r.path == "/v1/events":
                    self.assertEqual(r.query, {"follow": "1", "since": STARTED, "sandbox": ID})

    def test_connection_that_broke_alone(self):
        """The sandbox goes on, or the server knows no more: what failed is said, in words of ours."""
        for answer in (self.happened(("running", None)), error(503, "unavailable", "no"), None):
            s = self.serve(Agent(breaks=True), buffered=error(502, "bad_gateway", "it broke"))
            s.routes["GET /v1/events"] = answer
            done = s.run("exec", "-o", "json", ID, "--", "prog", code=7)
            self.assertEqual(done.stderr, "stasis: it broke\n")
            done = s.run("exec", ID, "--", "prog", code=7)
            self.assertEqual(done.stderr, "stasis: the connection to the sandbox was lost: whether "
                             "the command (pid 77) goes on is not known\n")

    def test_json_of_a_command_that_was_given_up(self):
        """What it had written is in the answer, beside the error."""
        s = self.serve(Agent(), buffered=(504, {"error": {"code": "timeout", "message": "killed", "details": {
            "pid": 77, "process": "killed", "exit_code": None, "stdout": "part\n"}}}))
        done = s.run("exec", "-o", "json", ID, "--", "prog", code=8)
        self.assertEqual(played.json.loads(done.stdout)["error"]["details"]["stdout"], "part\n")
        self.assertEqual(done.stderr, "stasis: killed\n")

    def test_connections_that_fail(self):
        """In words of ours, whatever libcurl says of them."""
        def half(request):
            h = request.handler
            h.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
            h.close_connection = True
            return False

        def other(request):
            request.handler.wfile.write(b"220 mail.example ESMTP\r\n")
            request.handler.close_connection = True
            return False

        for answer, text in ((half, "the connection ended before the answer was complete"),
                             (lambda _: None, "the connection ended before an answer"),
                             (other, "the answer is not HTTP, or libcurl was built without https://")):
            s = self.serve()
            s.routes["GET /v1/health"] = answer
            done = s.run("health", code=None)
            self.assertEqual(done.stderr, f"stasis: GET /v1/health: {text}\n")

    def test_sandbox_that_has_ended(self):
        for state, cause in (("stopped", "timeout"), ("error", "host_lost")):
            s = self.serve(get=(200, {**SANDBOX, "state": state, "cause": cause}))
            for args in (["exec", ID, "--", "true"], ["cp", "/etc/hosts", ID + ":"]):
                done = s.run(*args, code=4)
                self.assertEqual(done.stderr, f"stasis: sandbox {ID} has ended: {cause}\n")
        s = self.serve(get=(200, {**SANDBOX, "state": "paused"}))
        self.assertIn("resume it first", s.run("exec", ID, "--", "true", code=5).stderr)

    def test_refused_create(self):
        s = self.serve(create=error(429, "limit", "no room"))
        self.assertEqual(s.run("run", "--rm", "--", "prog", code=6).stderr, "stasis: no room\n")
        self.assertEqual([r.method for r in s.asked], ["POST"])

    def test_no_server(self):
        s = self.serve()
        done = s.run("run", "--rm", "--url", f"http://127.0.0.1:{played.free_port()}", "--", "prog",
                     code=7)
        self.assertIn("no server answers on", done.stderr)

    def test_interrupt_while_it_is_created(self):
        """It is removed as soon as it is there; nothing is run in it."""
        for sig in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asked, go_on = threading.Event(), threading.Event()

            def create(_, asked=asked, go_on=go_on):
                asked.set()
                go_on.wait(60)
                return 201, SANDBOX

            agent = Agent()
            s = self.serve(agent, create=create)
            p = self.start(s, "run", "--rm", "--", "prog")
            self.assertTrue(asked.wait(60))
            p.send_signal(sig)
            go_on.set()
            self.assertEqual(self.finish(p), (128 + sig, "", ""))
            self.assertTrue(self.removed(s))
            self.assertIsNone(agent.started)

    def test_impatience_while_it_is_created(self):
        """After a second signal the answer is not waited for, but asked for once more."""
        asked, keys = threading.Event(), []
        go_on = threading.Event()

        def create(request):
            keys.append(request.headers["Idempotency-Key"])
            if len(keys) == 1:
                asked.set()
                go_on.wait(60)
                return None
            return 201, SANDBOX

        s = self.serve(create=create)
        p = self.start(s, "run", "--rm", "--", "prog")
        self.assertTrue(asked.wait(60))
        p.send_signal(signal.SIGINT)
        p.send_signal(signal.SIGTERM)
        code, out, _ = self.finish(p)
        go_on.set()
        self.assertIn((code, out), ((130, ""), (143, "")))
        self.assertEqual(len(keys), 2)
        self.assertEqual(keys[0], keys[1])
        self.assertTrue(self.removed(s))

    def test_answer_of_the_create_that_is_lost(self):
        """The connection breaks, then the server is in its restart, then it knows the key."""
        answers, keys = [None, (502, ("text/html", b"<html>")), (201, SANDBOX)], []

        def create(request):
            keys.append(request.headers["Idempotency-Key"])
            return answers.pop(0)

        s = self.serve(create=create)
        s.run("run", "--rm", "--", "prog", code=7)
        self.assertEqual(len(set(keys)), 1)
        self.assertEqual(answers, [])
        self.assertTrue(self.removed(s))
        # Without --rm nothing is asked for again: it says where to look.
        s = self.serve(create=lambda _: None)
        self.assertIn("stasis ls", s.run("run", "--", "prog", code=7).stderr)
        self.assertEqual(len(s.asked), 1)

    def test_signal_while_it_runs(self):
        agent = Agent(b"up\n", hold=True)
        s = self.serve(agent)
        p = self.start(s, "run", "--rm", "--", "prog")
        self.assertEqual(p.stdout.readline(), "up\n")
        p.send_signal(signal.SIGTERM)
        self.assertEqual(self.finish(p), (143, "", ""))
        self.assertEqual(agent.signals[0], "SIGNAL_SIGTERM")
        self.assertTrue(self.removed(s))

    def test_guest_that_does_not_answer_any_more(self):
        agent = Agent(b"up\n", hold=True)
        s = self.serve(agent)
        s.routes["POST /process.Process/SendSignal"] = (200, {})  # without effect
        p = self.start(s, "run", "--rm", "--", "prog")
        self.assertEqual(p.stdout.readline(), "up\n")
        for sig in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            p.send_signal(sig)
        code, _, said = self.finish(p)
        self.assertIn(code, (129, 130, 143))
        self.assertIn("it (pid 77) may still run", said)
        self.assertTrue(self.removed(s))
        agent.ended.set()

    def test_closed_output(self):
        agent = Agent(b"x" * 100000, hold=True)
        s = self.serve(agent)
        read, write = os.pipe()
        os.close(read)
        p = s.popen("run", "--rm", "--", "prog", stdout=write, stderr=subprocess.DEVNULL)
        os.close(write)
        self.assertEqual(p.wait(60), 141)
        self.assertEqual(agent.signals, ["SIGNAL_SIGKILL"])
        self.assertTrue(self.removed(s))

    def test_removal_is_tried_again(self):
        answers = [None, error(409, "conflict", "it is being paused"), (204, b"")]
        s = self.serve(Agent(exit_code=2), remove=lambda _: answers.pop(0))
        self.assertEqual(s.run("run", "--rm", "--", "prog", code=2).stderr, "")
        self.assertEqual(answers, [])

    def test_removal_that_is_refused_is_told(self):
        s = self.serve(Agent(exit_code=2), remove=error(403, "forbidden", "not yours"))
        self.assertIn(f"stasis rm {ID}", s.run("run", "--rm", "--", "prog", code=2).stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
