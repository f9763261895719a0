# SPDX-License-Identifier: Apache-2.0
"""Guests, VMMs and processes that are stuck: a DELETE is answered all the same, nothing of them is
given to anybody else while they are there, and in the end nothing is left."""
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import unittest

import lib

# A DELETE is promised within 5 s; without the promise it waits for 30 s and more.
ANSWER = 15

# The process does not finish its exit while this one lives, as one that is stuck in the kernel.
HOLD = r'''
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
SEIZE, TRACE_EXIT, WALL = 0x4206, 0x40, 0x40000000
pid = int(sys.argv[1])
if libc.ptrace(SEIZE, pid, None, TRACE_EXIT) != 0:
    sys.exit(os.strerror(ctypes.get_errno()))
print("seized", flush=True)
os.waitpid(pid, WALL)
print("exiting", flush=True)
signal.pause()
'''


class Held:
    """The VM of a sandbox cannot die until release()."""

    def __init__(self, w, sandbox):
        self.tracer = subprocess.Popen([sys.executable, "-c", HOLD, str(lib.vmm_of(w, sandbox)[-1])],
                                       stdout=subprocess.PIPE, text=True)
        assert self.tracer.stdout.readline() == "seized\n"

    def wait_dying(self):
        assert self.tracer.stdout.readline() == "exiting\n"

    def release(self):
        self.tracer.kill()
        self.tracer.wait()
        self.tracer.stdout.close()


class Call(threading.Thread):
    """A call under way; its answer, None: the connection ended without one."""

    def __init__(self, w, method, path, body=None):
        super().__init__()
        self.args, self.w, self.answer = (method, path, body), w, None
        self.start()

    def run(self):
        try:
            self.answer = self.w.api(*self.args)
        except OSError:
            pass


class Stuck(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        if cls.w.server is None:
            cls.w.start()
        cls.w.clear()

    def setUp(self):
        lib.wait_until("nothing is taken", lambda: self.taken() == 0)
        self.before = self.w.leftovers()

    def tearDown(self):
        if self.w.server is None:
            self.w.start()
        self.w.clear()
        self.w.settle(self.before)
        lib.wait_until("no slot is taken", lambda: self.taken() == 0)

    def taken(self):
        text = self.w.api("GET", "/v1/metrics").body.decode()
        return int(re.search(r"^stasis_host_slots_taken (\d+)$", text, re.M)[1])

    def hold(self, sandbox):
        held = Held(self.w, sandbox)
        self.addCleanup(held.release)
        return held

    def ask(self, sandbox, what, body=None):
        return Call(self.w, "POST", f"/v1/sandboxes/{sandbox.id}/{what}", body or {})

    def signal(self, sandbox, sig):
        for pid in lib.vmm_of(self.w, sandbox):
            os.kill(pid, sig)

    def state(self, sandbox):
        return sandbox.get()["state"]

    def is_deleted(self, sandbox):
        a = self.w.api("DELETE", f"/v1/sandboxes/{sandbox.id}", limit=ANSWER)
        self.assertEqual(a.status, 204, a.body)
        # Of one that did not get as far as running not even that is known.
        self.assertIn(self.w.api("GET", f"/v1/sandboxes/{sandbox.id}").json().get("state"), (None, "stopped"))
        self.assertEqual(self.w.api("GET", "/v1/sandboxes").json()["sandboxes"], [])
        self.assertEqual(self.w.api("DELETE", f"/v1/sandboxes/{sandbox.id}").status, 404)
        a = self.w.api("POST", f"/v1/sandboxes/{sandbox.id}/exec", {"cmd": "true"})
        self.assertIn(a.status, (404, 409), a.body)
        self.assertIn(sandbox.edge("GET", "/health").status, (401, 404, 502))


class Destroy(Stuck):
    def pause_hangs(self, s):
        call = self.ask(s, "pause")
        lib.wait_until("pausing", lambda: self.state(s) == "pausing")
        self.is_deleted(s)
        call.join(60)
        self.assertEqual((call.answer.status, call.answer.error()), (409, "conflict"))

    def test_while_a_pause_waits_for_the_agent(self):
        s = self.w.create()
        s.sh("setsid sh -c 'sleep 0.5; pkill -STOP envd' >/dev/null 2>&1 "
             "</dev/null &", user="root")
        lib.wait_until("the agent has stopped", lambda: not self.answers(s))
        self.pause_hangs(s)

    def answers(self, s):
        try:
            return s.edge("GET", "/health", limit=2).status == 204
        except OSError:
            return False

    def test_while_a_pause_waits_for_the_vmm(self):
        s = self.w.create()
        self.signal(s, signal.SIGSTOP)
        self.pause_hangs(s)

    def test_whose_processes_do_not_die(self):
        s = self.w.create()
        slot = self.slot(s)
        held = self.hold(s)
        self.is_deleted(s)
        held.wait_dying()
        self.assertEqual(self.taken(), 1)
        others = [self.w.create() for _ in range(3)]
        self.assertNotIn(slot, [self.slot(o) for o in others])
        for o in others:
            o.alive()
            self.assertEqual(o.delete().status, 204)
        lib.wait_until("one slot is taken", lambda: self.taken() == 1)
        held.release()

    def slot(self, s):
        with open(os.path.join(self.w.run, s.id, "state.json")) as f:
            return json.load(f)["uid"]


class DestroyInACreate(Stuck):
    """A step of the create that takes long."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.stop()
        cls.w.start(fault="create.after_shim:sleep=20000@1")

    @classmethod
    def tearDownClass(cls):
        if cls.w.server:
            cls.w.stop()

    def test_it(self):
        call = Call(self.w, "POST", "/v1/sandboxes", {})
        row = lib.wait_until("its shim runs", lambda: next(
            (s for s in self.w.api("GET", "/v1/sandboxes").json()["sandboxes"]
             if os.path.exists(os.path.join(self.w.run, s["id"], "state.json"))), None))
        s = lib.Sandbox(self.w, {"id": row["id"], "envd_token": "x"})
        self.is_deleted(s)
        call.join(60)
        self.assertEqual((call.answer.status, call.answer.error()), (409, "conflict"))


class Pause(Stuck):
    """Of one whose processes do not die: it is paused, not lost."""

    def paused_all_the_same(self, restart):
        s = self.w.create()
        s.sh("echo kept > /dev/shm/kept")
        held = self.hold(s)
        a = self.w.api("POST", f"/v1/sandboxes/{s.id}/pause", {})
        self.assertEqual((a.status, a.json()["state"]), (200, "paused"), a.body)
        held.wait_dying()
        self.assertEqual(self.taken(), 1)
        if restart:
            restart()
            self.w.start()
            self.assertEqual(self.taken(), 1)
        self.assertEqual(self.state(s), "paused")
        held.release()
        lib.wait_until("free", lambda: self.taken() == 0)
        self.assertEqual(self.state(s), "paused")
        s.resume()
        self.assertEqual(s.sh("cat /dev/shm/kept"), "kept\n")

    def test_it(self):
        self.paused_all_the_same(None)

    def test_over_a_stop_of_the_server(self):
        self.paused_all_the_same(self.w.stop)

    def test_over_a_kill_of_the_server(self):
        self.paused_all_the_same(self.w.kill)


class TimeOuts(Stuck):
    def eight(self, s):
        calls = [self.ask(s, "timeout", {"timeout_sec": 1000 + i}) for i in range(8)]
        for c in calls:
            c.join()
        self.assertEqual([c.answer.status for c in calls], [200] * 8)

    def test_eight_are_set_at_once(self):
        self.eight(self.w.create())

    def test_they_are_set_during_a_pause(self):
        s = self.w.create()
        self.signal(s, signal.SIGSTOP)
        pause = self.ask(s, "pause")
        lib.wait_until("pausing", lambda: self.state(s) == "pausing")
        self.eight(s)
        self.signal(s, signal.SIGCONT)
        pause.join()
        self.assertEqual(pause.answer.status, 200, pause.answer.body)
        s.resume()
        s.alive()

    def ends_during(self, s, path, body):
        self.signal(s, signal.SIGSTOP)
        call = Call(self.w, "POST", path, body)
        kind = path.rstrip("s").rsplit("/", 1)[1]
        lib.wait_until("it is under way", lambda: any(
            (o["kind"], o["state"]) == (kind, "open")
            for o in self.w.api("GET", f"/v1/operations?sandbox={s.id}").json()["operations"]))
        self.assertEqual(self.ask_now(s, "timeout", {"timeout_sec": 1}).status, 200)
        lib.wait_until("stopped", lambda: self.state(s) == "stopped")
        self.assertEqual(s.get()["cause"], "timeout")
        call.join(60)
        self.assertIn(call.answer.status, (404, 409), call.answer.body)
        self.assertEqual(self.w.api("GET", "/v1/snapshots").json()["snapshots"], [])

    def ask_now(self, *call):
        c = self.ask(*call)
        c.join()
        return c.answer

    def test_one_is_over_during_a_fork(self):
        s = self.w.create()
        self.ends_during(s, f"/v1/sandboxes/{s.id}/fork", {"count": 1})

    def test_one_is_over_during_a_snapshot(self):
        s = self.w.create()
        self.ends_during(s, "/v1/snapshots", {"sandbox_id": s.id, "name": "late"})


# In the guest: numbers that go on, and the way in for one whose agent does not answer.
IN_GUEST = r"""
import http.server, os, time
began = time.monotonic()
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/cont":
            os.system("pkill -CONT -x envd")
        body = b"%d %.3f" % (os.getpid(), time.monotonic() - began)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8095), H).serve_forever()
"""


class Silent(Stuck):
    """The agent is stopped from within, and continued from within."""
    WAIT = "3s"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.w.stop()
        cls.w.start(extra=("--agent-wait", cls.WAIT))

    @classmethod
    def tearDownClass(cls):
        cls.w.stop()
        cls.w.start()

    def events(self, s, since):
        a = self.w.api("GET", f"/v1/events?sandbox={s.id}&since={since}&limit=100").json()
        return {e["kind"]: e for e in a["events"]}

    def port(self, s, path="/"):
        a = s.edge("GET", path, 8095, token=False)
        self.assertEqual(a.status, 200, a.body)
        pid, seconds = a.body.split()
        return int(pid), float(seconds)

    def test_a_guest_has_no_say_in_whether_it_is_paused(self):
        s = self.w.create(timeout_sec=600, on_timeout="pause")
        since = s.get()["created_at"]
        s.sh(f"cat >/tmp/in.py <<'END'\n{IN_GUEST}\nEND\nsetsid python3 /tmp/in.py >/dev/null 2>&1 </dev/null &",
             user="root")
        pid, _ = lib.wait_until("its port answers", lambda: s.edge("GET", "/", 8095).status == 200 and self.port(s))
        s.sh("setsid sh -c 'sleep 0.5; kill -STOP $(pgrep -x envd)' >/dev/null 2>&1 </dev/null &", user="root")
        lib.wait_until("the agent has stopped", lambda: not Destroy.answers(self, s))
        # Its time is over.
        s.ok(self.w.api("POST", f"/v1/sandboxes/{s.id}/timeout", {"timeout_sec": 1}))
        lib.wait_until("paused", lambda: self.state(s) == "paused", 60)
        self.assertIs(s.get()["quiesced"], False)
        self.assertIs(self.events(s, since)["paused"]["data"]["quiesced"], False)
        self.assertIn("quiesced: false", self.w.cli("why", s.id).text)
        # It is nobody else's.
        for path, body in ((f"/v1/sandboxes/{s.id}/fork", {"count": 1}),
                           ("/v1/snapshots", {"sandbox_id": s.id, "name": "never"})):
            a = self.w.api("POST", path, body)
            self.assertEqual((a.status, a.error()), (409, "not_quiesced"), a.body)
            self.assertIn("--disk-only", a.json()["error"]["message"])
        forked = self.w.cli("fork", s.id)
        self.assertEqual(forked.code, 9, forked.errors)
        # It runs again, and so does all that needs no agent.
        now = s.resume(timeout_sec=600)
        self.assertEqual((now["state"], now["agent"], now["quiesced"]), ("running", "silent", None))
        self.assertEqual(s.get()["agent"], "silent")
        self.assertIn("silent", self.w.cli("why", s.id).text)
        same, before = self.port(s)
        self.assertEqual(same, pid)
        ended = self.w.cli("exec", "--timeout", "2s", s.id, "--", "true", limit=60)
        self.assertEqual(ended.code, 8, ended.errors)
        self.assertIn("stasis why", ended.errors)
        a = self.w.api("POST", f"/v1/sandboxes/{s.id}/fork", {"count": 1})
        self.assertIn(a.status, (502, 504), a.body)
        self.assertIn("runs on", a.json()["error"]["message"])
        self.assertEqual(self.state(s), "running")
        paused = self.w.cli("pause", s.id)
        self.assertEqual(paused.code, 0, paused.errors)
        s.resume(timeout_sec=600)
        same, after = self.port(s)
        self.assertEqual(same, pid)
        self.assertGreater(after, before)
        # It is continued from within.
        self.port(s, "/cont")
        lib.wait_until("/init has arrived", lambda: "agent_answers" in self.events(s, since), 60)
        lib.wait_until("it says so", lambda: s.get()["agent"] == "answers")
        clock = float(s.sh("date +%s"))
        self.assertLess(abs(clock - time.time()), 30)
        self.assertEqual(self.port(s)[0], pid)
        self.assertIs(s.pause()["quiesced"], True)
        s.resume()
        s.alive()
