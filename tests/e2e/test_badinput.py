# SPDX-License-Identifier: Apache-2.0
"""Wrong requests get a clear error of the closed list; server and sandbox go on unharmed."""
import json
import unittest

import lib


class BadInput(unittest.TestCase):
    def setUp(self):
        self.s = lib.shared()
        self.w = self.s.world

    def tearDown(self):
        self.assertEqual(self.w.api("GET", "/v1/health").json()["status"], "ok")
        self.s.alive()

    def refused(self, status, code, method, path, body=None, word=None, **kw):
        a = self.w.api(method, path, body, **kw)
        self.assertEqual((a.status, a.error()), (status, code), (path, a.body[:300]))
        message = a.json()["error"]["message"]
        if word:
            self.assertIn(word, message)
        return message

    def test_create(self):
        running = len(self.w.api("GET", "/v1/sandboxes").json()["sandboxes"])
        for body, word in (
                ({"vcpus": 0}, "vcpus"), ({"vcpus": 1000}, "vcpus"), ({"vcpus": "1"}, "vcpus"),
                ({"vcpus": 1.5}, "vcpus"), ({"vcpus": -1}, "vcpus"),
                ({"memory_mb": 1}, "memory"), ({"memory_mb": 99999999}, "memory"),
                ({"disk_mb": 1}, "disk"),
                ({"timeout_sec": -1}, "timeout_sec"), ({"timeout_sec": 99999999}, "timeout_sec"),
                ({"on_timeout": "explode"}, "on_timeout"), ({"cold": 1}, "cold"),
                ({"env": {"A": 1}}, "env"), ({"env": ["A"]}, "env"), ({"env": {"A=B": "x"}}, "env"),
                ({"metadata": {"k": "v" * 20000}}, "metadata"), ({"metadata": "x"}, "metadata"),
                ({"template": "a/b"}, "template"), ({"template": "x" * 300}, "template"),
                ({"template": ""}, "template"), ({"template": 7}, "template"),
                ({"vcpu": 1}, "vcpu")):
            with self.subTest(body=str(body)[:60]):
                self.refused(400, "invalid", "POST", "/v1/sandboxes", body, word)
        self.refused(404, "not_found", "POST", "/v1/sandboxes", {"template": "nosuch"}, "nosuch")
        self.assertEqual(len(self.w.api("GET", "/v1/sandboxes").json()["sandboxes"]), running)

    def test_bodies_that_are_no_object(self):
        for body in ("[]", "1", '"x"', "null", "{", "{} {}", "", "\xff", '{"vcpus":1,"vcpus":2}',
                     "[" * 100000):
            with self.subTest(body=body[:20]):
                if body == "":
                    continue  # an empty body is an empty object here
                self.refused(400, "invalid", "POST", "/v1/sandboxes", body.encode("latin-1"))

    def test_body_over_the_limit(self):
        body = json.dumps({"metadata": {"k": "v" * (2 << 20)}})
        a = self.w.api("POST", "/v1/sandboxes", body)
        self.assertEqual((a.status, a.error()), (413, "too_large"))

    def test_exec(self):
        path = f"/v1/sandboxes/{self.s.id}/exec"
        for body, word in (
                ({}, "cmd"), ({"cmd": "x", "args": ["x"]}, "args"), ({"args": []}, "args"),
                ({"args": "ls"}, "args"), ({"args": [1]}, "args"), ({"cmd": 1}, "cmd"),
                ({"cmd": "x", "timeout_sec": 0}, "timeout_sec"),
                ({"cmd": "x", "timeout_sec": 4000}, "timeout_sec"),
                ({"cmd": "x", "stdin": "%%%"}, "stdin"),
                ({"cmd": "x", "encoding": "rot13"}, "encoding"),
                ({"args": ["/no/such/program"]}, "program"),
                ({"cmd": "x", "cwd": "/no/such/dir"}, "/no/such/dir"),
                ({"cmd": "x", "cwd": "/etc/passwd"}, "/etc/passwd"),
                ({"cmd": "x", "env": {"": "1"}}, "env"),
                ({"cmd": "x", "shell": "zsh"}, "shell")):
            with self.subTest(body=str(body)[:60]):
                self.refused(400, "invalid", "POST", path, body, word)

    def test_ids(self):
        for method, tail in (("GET", ""), ("DELETE", ""), ("GET", "/logs"), ("POST", "/exec"),
                             ("POST", "/timeout"), ("POST", "/pause"), ("POST", "/resume"),
                             ("POST", "/fork")):
            body = {"POST/exec": {"cmd": "x"}, "POST/timeout": {"timeout_sec": 1}}.get(
                method + tail)
            self.refused(404, "not_found", method, "/v1/sandboxes/i" + "0" * 20 + tail, body)
            for bad in ("..%2f..%2fetc", "A", "x" * 300, "%00", "a%20b"):
                a = self.w.api(method, f"/v1/sandboxes/{bad}{tail}", body)
                self.assertIn(a.status, (400, 404), (bad, a.body[:200]))

    def test_paths_and_methods(self):
        self.refused(404, "not_found", "GET", "/v1/nothing")
        a = self.w.api("PUT", "/v1/sandboxes", {})
        self.assertEqual(a.status, 405, a.body)

    def test_queries(self):
        for query in ("limit=0", "limit=101", "limit=x", "state=weird", "metadata=novalue",
                      "cursor=%ff"):
            with self.subTest(query=query):
                self.refused(400, "invalid", "GET", "/v1/sandboxes?" + query)
        self.refused(400, "invalid", "GET", "/v1/events?cursor=x")

    def test_timeouts(self):
        path = f"/v1/sandboxes/{self.s.id}/timeout"
        for body in ({}, {"timeout_sec": "x"}, {"timeout_sec": -5}, {"timeout_sec": 1e9}):
            self.refused(400, "invalid", "POST", path, body, "timeout_sec")

    def test_resume_and_fork(self):
        path = f"/v1/sandboxes/{self.s.id}"
        self.refused(409, "conflict", "POST", path + "/resume", {}, "running")
        for tail, body, word in (
                ("/pause", {"memory": True}, "memory"),
                ("/resume", {"from": "../x"}, "from"), ("/resume", {"from": 1}, "from"),
                ("/resume", {"timeout_sec": -1}, "timeout_sec"),
                ("/resume", {"disk_only": 1}, "disk_only"),
                ("/fork", {"count": 0}, "count"), ("/fork", {"count": 101}, "count"),
                ("/fork", {"count": 1.5}, "count"), ("/fork", {"on_timeout": "x"}, "on_timeout"),
                ("/fork", {"env": {"=": "x"}}, "env"), ("/fork", {"timeout_sec": "1"}, "timeout_sec"),
                ("/fork", {"metadata": {"k": "v" * 20000}}, "metadata")):
            with self.subTest(tail=tail, body=str(body)[:60]):
                self.refused(400, "invalid", "POST", path + tail, body, word)
        self.refused(404, "not_found", "POST", path + "/resume", {"from": "nosuch"}, "nosuch")

    def test_snapshots(self):
        for body, word in (
                ({"name": "x"}, "sandbox_id"), ({"sandbox_id": self.s.id}, "name"),
                ({"sandbox_id": self.s.id, "name": "a/b"}, "name"),
                ({"sandbox_id": self.s.id, "name": "x" * 64}, "name"),
                ({"sandbox_id": self.s.id, "name": ""}, "name"),
                ({"sandbox_id": self.s.id, "name": "x", "overwrite": "yes"}, "overwrite"),
                ({"sandbox_id": self.s.id, "name": "x", "tag": "y"}, "tag")):
            with self.subTest(body=str(body)[:80]):
                self.refused(400, "invalid", "POST", "/v1/snapshots", body, word)
        self.refused(404, "not_found", "POST", "/v1/snapshots",
                     {"sandbox_id": "i" + "0" * 20, "name": "x"})
        self.refused(409, "conflict", "POST", "/v1/snapshots",
                     {"sandbox_id": self.s.id, "name": "base", "overwrite": True}, "image")
        self.refused(409, "conflict", "DELETE", "/v1/snapshots/base", word="image")
        for method in ("GET", "DELETE"):
            self.refused(404, "not_found", method, "/v1/snapshots/nosuch")
            self.refused(404, "not_found", method, "/v1/snapshots/..%2fbase")

    def test_files(self):
        def files(method, path, **kw):
            return self.s.edge(method, "/files?path=" + path, **kw)
        octet = {"Content-Type": "application/octet-stream"}
        self.assertEqual(files("GET", "/tmp").status, 400)
        self.assertEqual(files("GET", "/no/such/file").status, 404)
        self.assertEqual(files("POST", "/tmp", body=b"x", headers=octet).status, 400)
        self.assertEqual(files("POST", "/etc/passwd/x", body=b"x", headers=octet).status, 400)
        # A path that climbs stays in the guest: above its root is its root.
        for path in ("../" * 20 + "etc/hostname", "%2e%2e/" * 20 + "etc/hostname"):
            a = files("GET", path)
            self.assertEqual((a.status, a.body.decode()), (200, self.s.sh("cat /etc/hostname")))

    def test_command_line_passes_the_codes_on(self):
        self.assertEqual(self.w.cli("create", "--template", "nosuch").code, 4)
        self.assertEqual(self.w.cli("create", "--template", "a/b").code, 2)
        self.assertEqual(self.w.cli("create", "--vcpus", "1000").code, 2)
        self.assertEqual(self.w.cli("get", "i" + "0" * 20).code, 4)
        self.assertEqual(self.w.cli("get", "../etc").code, 2)
