# SPDX-License-Identifier: Apache-2.0
"""What a sandbox is called, what may be changed of it, and waiting for what it comes to."""
import threading
import unittest
import uuid

import lib


class Names(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        if cls.w.server is None:
            cls.w.start()

    def setUp(self):
        self.made = []
        self.name = "n-" + uuid.uuid4().hex[:8]

    def tearDown(self):
        if self.w.server is None:
            self.w.start()
        for s in self.made:
            self.w.api("DELETE", f"/v1/sandboxes/{s.id}")

    def create(self, **body):
        self.made.append(self.w.create(**body))
        return self.made[-1]

    def ok(self, method, path, body=None, status=200, **kw):
        a = self.w.api(method, path, body, **kw)
        self.assertEqual(a.status, status, (method, path, a.body[:500]))
        return a.json() if a.body else None

    def refused(self, status, method, path, body=None, word="", **kw):
        error = self.ok(method, path, body, status, **kw)["error"]
        self.assertIn(word, error["message"])
        return error

    def test_a_name_for_an_id(self):
        box = self.create(name=self.name)
        path = f"/v1/sandboxes/{self.name}"
        self.assertEqual(box.row["name"], self.name)
        self.assertEqual(self.ok("GET", path)["id"], box.id)
        self.refused(409, "POST", "/v1/sandboxes", {"name": self.name},
                     f"the name '{self.name}' is taken by sandbox {box.id}")
        self.assertEqual(self.ok("POST", path + "/exec", {"cmd": "hostname"})["stdout"],
                         box.sh("hostname"))
        box.sh("printf 'one\\ntwo\\nthree\\n' > /dev/console", user="root")
        lib.wait_until("the console has it", lambda: b"three" in self.w.api(
            "GET", path + "/logs").body)
        self.assertEqual(self.w.api("GET", path + "/logs?tail=2").body.split(),
                         [b"two", b"three"])
        snap = self.ok("POST", "/v1/snapshots", {"sandbox_id": self.name, "name": self.name}, 201)
        self.assertEqual(snap["sandbox_id"], box.id)
        self.ok("DELETE", f"/v1/snapshots/{self.name}", status=204)
        kinds = [o["kind"] for o in
                 self.ok("GET", f"/v1/operations?sandbox={self.name}")["operations"]]
        self.assertEqual(kinds, ["snapshot", "create"])
        events = self.ok("GET", f"/v1/events?sandbox={self.name}")["events"]
        self.assertEqual({e["sandbox"] for e in events}, {box.id})
        at = events[-1]["at"]
        since = self.ok("GET", f"/v1/events?sandbox={self.name}&since={at}")["events"]
        self.assertIn(events[-1], since)
        self.assertTrue(all(e["at"] >= at for e in since))
        # The edge knows ids alone.
        a = self.w.api("GET", "/health", headers={"E2b-Sandbox-Id": self.name})
        self.assertNotEqual(a.status, 204, a.body)
        # Another key has names of its own.
        other = self.ok("POST", "/v1/keys", {"name": "names"}, 201)
        try:
            self.refused(404, "GET", path, key=other["key"])
            self.assertEqual(self.ok("GET", f"/v1/sandboxes/{box.id}", key=other["key"])["id"],
                             box.id)
        finally:
            self.ok("DELETE", f"/v1/keys/{other['id']}", status=204)
        # Over a restart, and after the end.
        self.w.stop()
        self.w.start()
        self.assertEqual(self.ok("GET", path)["id"], box.id)
        self.ok("DELETE", path, status=204)
        self.assertEqual(self.ok("GET", path)["cause"], "killed")
        error = self.refused(404, "POST", path + "/pause", word=box.id)
        self.assertEqual(error["cause"], "killed")
        self.assertEqual(error["stopped_at"], self.ok("GET", path)["stopped_at"])

    def test_the_url_is_where_a_port_answers(self):
        box = self.create()
        self.ok("POST", f"/v1/sandboxes/{box.id}/exec",
                {"cmd": "echo here > /tmp/page; cd /tmp; "
                        "setsid python3 -m http.server 3000 >/dev/null 2>&1 </dev/null & "})
        url = box.row["url"]
        self.assertEqual(url, f"http://{{port}}-{box.id}.localhost:{self.w.port}")
        host = url.replace("{port}", "3000").removeprefix("http://")
        lib.wait_until("the port answers", lambda: self.w.api(
            "GET", "/page", headers={"Host": host}).body == b"here\n")

    def test_what_becomes_of_it_at_its_time_out(self):
        box = self.create(metadata={"a": "1", "b": "2"})
        path = f"/v1/sandboxes/{box.id}"
        got = self.ok("PATCH", path, {"on_timeout": "pause", "name": self.name,
                                      "metadata": {"a": None, "c": "3"}})
        self.assertEqual((got["on_timeout"], got["name"], got["metadata"]),
                         ("pause", self.name, {"b": "2", "c": "3"}))
        # Both sides keep it: neither is asked again after this.
        self.w.kill()
        self.w.start()
        self.assertEqual(self.ok("GET", path)["on_timeout"], "pause")
        self.ok("POST", path + "/timeout", {"timeout_sec": 1})
        got = self.ok("GET", path + "/wait?state=paused,stopped&timeout_sec=120")
        self.assertEqual(got["state"], "paused", got)
        # A paused one can be changed: it counts when it runs again.
        self.ok("PATCH", path, {"on_timeout": "kill"})
        waits = []
        thread = threading.Thread(target=lambda: waits.append(
            self.w.api("GET", path + "/wait?state=stopped&timeout_sec=120")))
        thread.start()
        self.ok("POST", path + "/resume", {"timeout_sec": 1})
        thread.join()
        self.assertEqual(waits[0].status, 200, waits[0].body)
        self.assertEqual((waits[0].json()["state"], waits[0].json()["cause"]),
                         ("stopped", "timeout"))
        error = self.refused(409, "GET", path + "/wait?state=running", word="has ended (timeout)")
        self.assertEqual(error["cause"], "timeout")
        error = self.refused(404, "PATCH", path, {"name": None})
        self.assertEqual(error["cause"], "timeout")

    def test_a_change_on_a_server_that_dies(self):
        box = self.create()
        path = f"/v1/sandboxes/{box.id}"
        for i, point in enumerate(("control.before_begin", "control.after_begin",
                                   "control.before_finish")):
            with self.subTest(point):
                headers = {"Idempotency-Key": str(uuid.uuid4())}
                body = {"name": f"{self.name}.{i}", "on_timeout": ("pause", "kill")[i % 2]}
                self.w.stop()
                self.w.start(fault=f"{point}:kill@1")
                try:
                    a = self.w.api("PATCH", path, body, headers=headers)
                    self.assertIn(a.status, (502, 503, 504), a.body)
                except OSError:
                    pass
                self.w.reap()
                self.w.start()
                a = self.ok("PATCH", path, body, headers=headers)
                self.assertEqual({k: a[k] for k in body}, body)
                self.assertEqual(self.ok("PATCH", path, body, headers=headers), a)
                self.assertEqual(self.ok("GET", f"/v1/sandboxes/{self.name}.{i}")["id"], box.id)

    def test_waiting_in_vain(self):
        box = self.create()
        path = f"/v1/sandboxes/{box.id}/wait"
        self.refused(504, "GET", path + "?state=paused&timeout_sec=1", word="is running")
        self.refused(400, "GET", path, word="state")
        self.refused(400, "GET", path + "?state=", word="state")
        self.refused(404, "GET", "/v1/sandboxes/nosuch/wait?state=paused")
        answers = []

        def wait():
            try:
                answers.append(self.w.api("GET", path + "?state=stopped&timeout_sec=600").status)
            except OSError:
                answers.append(None)

        # The server does not wait for who waits.
        threads = [threading.Thread(target=wait) for _ in range(20)]
        for t in threads:
            t.start()
        self.ok("GET", f"/v1/sandboxes/{box.id}")
        self.w.stop(limit=30)
        for t in threads:
            t.join()
        self.assertTrue(set(answers) <= {503, 502, None}, answers)

    def test_queries(self):
        for path, word in (
                ("/v1/sandboxes?metdata=a%3Db", "unknown name 'metdata' (did you mean 'metadata'?)"),
                ("/v1/sandboxes?limit=1&limit=2", "'limit' is given twice"),
                ("/v1/sandboxes?state=", "state"),
                ("/v1/sandboxes?state=running,", "state"),
                ("/v1/operations?sandbx=x", "did you mean 'sandbox'?"),
                ("/v1/events?folow=1", "did you mean 'follow'?"),
                ("/v1/events?since=now", "since"),
                ("/v1/events?since=2026-11-24T03:00:00Z&cursor=0", "since"),
                ("/v1/host?x=1", "unknown name 'x'"),
                ("/v1/health?x=1", "unknown name 'x'")):
            with self.subTest(path):
                self.refused(400, "GET", path, word=word)
        # What goes to a guest is the guest's.
        box = self.create()
        a = box.edge("GET", "/health?x=1&x=2")
        self.assertEqual(a.status, 204, a.body)
