# SPDX-License-Identifier: Apache-2.0
"""Many at once: every start comes up, each when it is its turn, and what waits has nothing but its
place in the line."""
import datetime
import os
import threading
import unittest

import lib

AT_ONCE = 24
HELD_MS = 4000  # a start is held in its place for so long


def at_once(calls):
    """What they answer."""
    answers = [None] * len(calls)

    def call(i):
        answers[i] = calls[i]()
    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(calls))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return answers


class Later:
    """A call on a thread of its own."""

    def __init__(self, call):
        self.answer = None
        self.thread = threading.Thread(target=self.run, args=(call,))
        self.thread.start()

    def run(self, call):
        try:
            self.answer = call()
        except OSError as e:
            self.answer = e

    def get(self):
        self.thread.join()
        return self.answer


class Burst(unittest.TestCase):
    def setUp(self):
        self.w = lib.world()
        self.w.clear()

    def all(self, status, calls):
        answers = at_once(calls)
        self.assertEqual([(a.status, a.body[:300]) for a in answers if a.status != status], [])
        return [a.json() for a in answers if a.body]

    def each(self, method, ids, what="", body=None):
        return [lambda i=i: self.w.api(method, f"/v1/sandboxes/{i}{what}", body, limit=600) for i in ids]

    def test_all_come_up(self):
        rows = self.all(201, [lambda: self.w.api("POST", "/v1/sandboxes", {}, limit=600)] * AT_ONCE)
        ids = [r["id"] for r in rows]
        self.all(200, self.each("POST", ids, "/pause", {}))
        self.all(200, self.each("POST", ids, "/resume", {"timeout_sec": 3600}))
        self.all(200, self.each("POST", ids, "/exec", {"cmd": "true"}))
        source = lib.Sandbox(self.w, self.w.api("GET", f"/v1/sandboxes/{ids[0]}").json())
        ids += [c.id for c in source.fork(8)]
        self.all(204, self.each("DELETE", ids))


class Turns(unittest.TestCase):
    """On one processor, so that two starts fill the gate."""

    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        cls.w.clear()
        cls.w.stop()
        cls.start()
        cls.boxes = [cls.w.create() for _ in range(4)]
        for s in cls.boxes:
            s.pause()

    @classmethod
    def start(cls):
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(allowed)})
        try:
            cls.w.start(fault=f"resume.after_slot:sleep={HELD_MS}")
        finally:
            os.sched_setaffinity(0, allowed)

    @classmethod
    def tearDownClass(cls):
        if cls.w.server is None:
            cls.w.start()
        cls.w.clear()
        cls.w.stop()
        cls.w.start()

    def setUp(self):
        if self.w.server is None:
            self.start()
        for i, s in enumerate(self.boxes):
            a = self.w.api("GET", f"/v1/sandboxes/{s.id}")
            if a.status != 200 or a.json()["state"] == "stopped":
                s = type(self).boxes[i] = self.w.create()
                s.pause()
            elif a.json()["state"] == "running":
                s.pause()

    def starts(self, state):
        text = self.w.api("GET", "/v1/metrics").body.decode()
        name = f'stasis_host_starts{{state="{state}"}} '
        return sum(int(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))

    def resume(self, s, **body):
        return Later(lambda: self.w.api("POST", f"/v1/sandboxes/{s.id}/resume", body))

    def fill(self):
        calls = [self.resume(s, timeout_sec=3600) for s in self.boxes[:2]]
        lib.wait_until("the gate is full", lambda: self.starts("under_way") == 2)
        return calls

    def wait_in_line(self, s, n, **body):
        call = self.resume(s, **body)
        lib.wait_until("it waits", lambda: self.starts("waiting") == n)
        return call

    def test_one_that_waits_has_nothing_yet(self):
        inside = self.fill()
        s = self.boxes[2]
        waiting = self.wait_in_line(s, 1, timeout_sec=3600)
        row = s.get()
        self.assertEqual((row["state"], [p["name"] for p in row["phases"]]), ("paused", ["queue"]))
        self.assertFalse(os.path.exists(os.path.join(self.w.run, s.id)))
        self.assertLessEqual(set(os.listdir(os.path.join(self.w.data, "sandboxes", s.id))), lib.KEPT)
        for call in inside:
            a = call.get()
            self.assertEqual(a.status, 200, a.body)
            self.assertNotIn("queue", [p["name"] for p in a.json()["phases"]])
        a = waiting.get()
        self.assertEqual(a.status, 200, a.body)
        queue = a.json()["phases"][0]
        self.assertEqual(queue["name"], "queue")
        self.assertGreater(queue["us"], 0)

    def test_removal_does_not_wait(self):
        inside = self.fill()
        third, fourth = self.boxes[2:]
        ends = self.wait_in_line(third, 1)
        stays = self.wait_in_line(fourth, 2)
        removal = Later(third.delete)
        a = ends.get()
        self.assertEqual([c.answer for c in (*inside, stays)], [None] * 3)  # the end of its wait was the removal
        self.assertEqual((a.status, a.error()), (409, "conflict"))
        self.assertIn("waited for its turn", a.json()["error"]["message"])
        for call in (*inside, stays):
            self.assertEqual(call.get().status, 200)
        self.assertEqual(removal.get().status, 204)

    def test_time_runs_from_when_it_runs(self):
        a = self.resume(self.boxes[0], timeout_sec=HELD_MS // 2000).get()
        self.assertEqual(a.status, 200, a.body)
        begins, ends = (datetime.datetime.fromisoformat(a.json()[k]) for k in ("started_at", "ends_at"))
        self.assertGreater((ends - begins).total_seconds(), 0)

    def test_a_guest_that_takes_its_time_keeps_no_place(self):
        """Its hooks are its own code, and run before it is said to be up."""
        slow = self.boxes[:2]
        for s in slow:
            s.resume()
            s.sh("sudo mkdir -p /etc/stasis/resume.d && printf '#!/bin/sh\\nsleep 60\\n' | "
                 "sudo tee /etc/stasis/resume.d/slow >/dev/null && sudo chmod 755 /etc/stasis/resume.d/slow")
            s.pause()
        inside = self.fill()
        other = self.wait_in_line(self.boxes[2], 1)
        lib.wait_until("the next one's turn", lambda: self.starts("waiting") == 0, 60)
        self.assertEqual([c.answer for c in inside], [None, None])
        for call in (*inside, other):
            a = call.get()
            self.assertEqual(a.status, 200, a.body)
        for s in slow:
            s.delete()

    def test_server_that_stops_sends_them_away(self):
        inside = self.fill()
        s = self.boxes[2]
        waiting = self.wait_in_line(s, 1)
        self.w.stop()
        a = waiting.get()
        self.assertEqual((a.status, a.error()), (503, "unavailable"), a.body)
        self.assertIn("ask again", a.json()["error"]["message"])
        # What had begun was finished, even if the edge did not wait for the answer.
        for call in inside:
            call.get()
        self.start()
        self.assertEqual([b.get()["state"] for b in self.boxes[:3]], ["running", "running", "paused"])
        s.resume()
        s.alive()
