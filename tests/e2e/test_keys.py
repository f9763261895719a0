# SPDX-License-Identifier: Apache-2.0
"""Keys, events, logs, health, metrics: what stands beside the sandboxes."""
import base64
import json
import os
import re
import stat
import subprocess
import unittest

import lib


class Keys(unittest.TestCase):
    def setUp(self):
        self.w = lib.world()

    def test_the_first_key_is_for_root_only(self):
        path = os.path.join(self.w.control_data, "admin.key")
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        self.assertRegex(self.w.key(), r"^e2b_[0-9a-f]{40}$")
        for name in ("control.db", "control.db-wal"):
            with open(os.path.join(self.w.control_data, name), "rb") as f:
                self.assertNotIn(self.w.key()[8:].encode(), f.read())

    def test_everything_but_health_needs_one(self):
        for key in ("", "e2b_" + "0" * 40, "x"):
            for path in ("/v1/sandboxes", "/v1/keys", "/v1/events", "/v1/metrics", "/v1/host",
                         "/v1/templates", "/v1/openapi.json"):
                a = self.w.api("GET", path, key=key)
                self.assertEqual((a.status, a.error()), (401, "unauthenticated"), path)
            self.assertEqual(self.w.api("GET", "/v1/health", key=key).status, 200)

    def test_bearer_is_as_good(self):
        a = self.w.api("GET", "/v1/keys", key="",
                       headers={"Authorization": "Bearer " + self.w.key()})
        self.assertEqual(a.status, 200)

    def test_life_of_a_key(self):
        made = self.w.cli("key", "create", "ci", "-o", "json").ok().json()
        self.assertRegex(made["key"], r"^e2b_[0-9a-f]{40}$")
        env = {"STASIS_API_KEY": made["key"]}
        self.w.cli("ls", env=env).ok()
        listing = self.w.cli("key", "ls").ok().text
        self.assertIn("ci", listing)
        self.assertNotIn(made["key"], listing)
        row = [k for k in self.w.api("GET", "/v1/keys").json()["keys"] if k["id"] == made["id"]][0]
        self.assertNotIn("key", row)
        self.w.cli("key", "rm", made["id"]).ok()
        r = self.w.cli("ls", env=env)
        self.assertEqual(r.code, 3, r.errors)
        self.assertEqual(self.w.cli("key", "rm", made["id"]).code, 4)

    def test_the_last_key_stays(self):
        keys = self.w.api("GET", "/v1/keys").json()["keys"]
        self.assertEqual(len(keys), 1)
        self.assertEqual(self.w.cli("key", "rm", keys[0]["id"]).code, 5)

    def test_a_key_that_is_lost_is_made_by_root(self):
        made = self.w.cli("key", "create", "rescue", "--offline", "--data-dir",
                          self.w.control_data.removesuffix("-control"), "-o", "json",
                          env={"STASIS_API_KEY": "x"}).ok().json()
        self.w.cli("key", "rm", made["id"], env={"STASIS_API_KEY": made["key"]}).ok()

    def test_a_key_from_a_file(self):
        self.w.cli("ls", "--api-key-file", "-", stdin=self.w.key().encode() + b"\n",
                   env={"STASIS_API_KEY": "x"}).ok()
        r = self.w.cli("ls", "--api-key", self.w.key()).ok()
        self.assertIn("warning", r.errors)

    def test_a_key_has_an_end_and_limits(self):
        made = self.w.cli("key", "create", "ci", "--scope", "sandboxes", "--expires", "1h",
                          "--quota-sandboxes", "1", "-o", "json").ok().json()
        shown = self.w.cli("key", "update", made["id"], "--quota-memory", "2G").ok().text
        self.assertIn("quota.memory_mb 2048\n", shown)
        self.assertIn("owner ci\n", shown)
        self.assertEqual(self.w.cli("key", "show", made["id"]).ok().text, shown)
        self.w.cli("key", "rm", made["id"]).ok()
        calls = self.w.cli("audit").ok().text
        self.assertIn("PATCH /v1/keys/{id}", calls)
        self.assertIn("127.0.0.1", calls)

    def test_without_a_key_the_command_says_which(self):
        r = self.w.cli("ls", env={"STASIS_DATA": "/nonexistent"})
        self.assertEqual(r.code, 3)
        self.assertIn("STASIS_API_KEY", r.errors)


class Around(unittest.TestCase):
    def setUp(self):
        self.s = lib.shared()
        self.w = self.s.world

    def test_a_token_is_made_anew(self):
        def status(token):
            return self.s.edge("GET", "/envs", token=False,
                               headers={"X-Access-Token": token}).status
        old = self.s.get()["envd_token"]
        new = self.w.cli("token", "rotate", self.s.id).ok().text.strip()
        self.assertEqual((status(old), status(new)), (401, 200))
        self.assertEqual(self.s.sh("echo there").strip(), "there")
        # Not by the edge alone: the agent itself has the new one.
        ask = "curl -s -o /dev/null -w '%%{http_code}' -H 'X-Access-Token: %s' " \
              "http://127.0.0.1:49983/envs"
        self.assertEqual((self.s.sh(ask % old).strip(), self.s.sh(ask % new).strip()),
                         ("401", "200"))

    def test_no_key_reaches_a_guest(self):
        key = self.w.key()
        self.s.sh("nohup python3 -c 'import http.server as h\n"
                  "class S(h.BaseHTTPRequestHandler):\n"
                  " def do_GET(s):\n"
                  "  s.send_response(200); s.end_headers(); s.wfile.write(str(s.headers).encode())\n"
                  "h.HTTPServer((\"\", 8099), S).serve_forever()' > /dev/null 2>&1 &")
        basic = base64.b64encode(f"user:{key}".encode()).decode()
        for name, value in (("Authorization", "bearer " + key), ("Authorization", "Basic " + basic),
                            ("authorization", "BASIC  " + basic), ("x-api-key", key),
                            ("E2B-API-Key", key), ("Authorization", "Token " + key),
                            ("Authorization", "Basic " + "A" * 2100 + basic)):
            a = lib.wait_until("the program answers", lambda: (
                lambda r: r if r.status == 200 else None)(
                    self.s.edge("GET", "/", port=8099, token=False,
                                headers={name: value, "X-Mine": "mine"})))
            self.assertIn(b"mine", a.body)
            self.assertNotIn(key[8:].encode(), a.body, name)
            self.assertNotIn(basic[-20:].encode(), a.body, name)
        a = self.s.edge("GET", "/", port=8099, token=False,
                        headers={"Authorization": "Bearer of-the-program"})
        self.assertIn(b"of-the-program", a.body)

    def test_events_of_a_sandbox(self):
        events = self.w.cli("events", "--sandbox", self.s.id, "-o", "json").ok().json()["events"]
        kinds = [e["kind"] for e in events]
        self.assertIn("running", kinds)
        self.assertTrue(all(e["sandbox"] == self.s.id for e in events))
        numbers = [e["seq"] for e in self.w.cli("events", "-o", "json").json()["events"]]
        self.assertEqual(numbers, list(range(1, len(numbers) + 1)))
        self.assertIn(self.s.id, self.w.cli("events").ok().text)

    def test_events_are_followed(self):
        last = self.w.cli("events", "-o", "json").json()["events"][-1]["seq"]
        p = self.w.popen("events", "-f", "--since", str(last), "-o", "json",
                         stdout=subprocess.PIPE)
        self.w.cli("timeout", self.s.id, "2h").ok()
        event = json.loads(p.stdout.readline())
        self.assertEqual((event["sandbox"], event["seq"]), (self.s.id, last + 1))
        p.terminate()
        p.wait(10)
        p.stdout.close()

    def test_logs(self):
        self.s.sh("echo spoken-on-the-console > /dev/console", user="root")
        lib.wait_until("line in the log", lambda: "spoken-on-the-console" in
                       self.w.cli("logs", self.s.id).ok().text)

    def test_logs_are_followed(self):
        p = self.w.popen("logs", "-f", self.s.id, stdout=subprocess.PIPE)
        self.s.sh("echo followed-line > /dev/console", user="root")
        for line in p.stdout:
            if b"followed-line" in line:
                break
        p.terminate()
        p.wait(10)
        p.stdout.close()

    def test_health_and_the_like(self):
        self.assertIn("ok", self.w.cli("health").ok().text)
        host = self.w.api("GET", "/v1/host").json()
        self.assertIn(host["isolation"], ("kvm", "emulated"))
        self.assertIn("base", self.w.cli("image", "ls").ok().text)
        metrics = self.w.api("GET", "/v1/metrics").body.decode()
        for line in metrics.splitlines():
            self.assertRegex(line, r"^(# (HELP|TYPE) \w+ .*|[a-z_]+(\{.*\})? [-+0-9.e]+)$")
        api = self.w.api("GET", "/v1/openapi.json").json()
        self.assertIn("/v1/sandboxes/{id}/exec", api["paths"])


class Metrics(unittest.TestCase):
    """What a real guest does is seen in /v1/metrics, and in the dashboard's and the alerts' words."""

    def setUp(self):
        self.w = lib.world()

    def text(self):
        return self.w.api("GET", "/v1/metrics").body.decode()

    def of(self, text, s):
        found = re.findall(r'(?m)^stasis_sandbox_(\w+)\{id="%s",template="base"\} (\S+)$' % s.id, text)
        return {k: float(v) for k, v in found}

    def test_a_guest_in_the_metrics(self):
        s = self.w.create()
        before = self.of(self.text(), s)
        s.sh("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
        s.sh("head -c 3000000 /dev/urandom > ~/data; sync; head -c 2000000 ~/data | base64")
        after = self.of(self.text(), s)
        self.assertGreater(after["cpu_seconds_total"], before["cpu_seconds_total"])
        self.assertGreater(after["memory_bytes"], 30 << 20)
        self.assertLess(after["memory_bytes"], 8 << 30)
        self.assertGreaterEqual(after["disk_bytes"] - before["disk_bytes"], 3000000)
        self.assertGreaterEqual(after["network_sent_bytes_total"] - before["network_sent_bytes_total"], 2000000)
        self.assertGreater(after["network_received_bytes_total"], before["network_received_bytes_total"])
        one = self.w.api("GET", f"/v1/sandboxes/{s.id}/metrics").json()
        self.assertEqual(one["state"], "running")
        self.assertGreaterEqual(one["cpu_seconds"], after["cpu_seconds_total"])
        self.assertGreaterEqual(one["network_sent_bytes"], after["network_sent_bytes_total"])
        self.assertEqual(one["disk_bytes"], after["disk_bytes"])
        s.pause()
        paused = self.of(self.text(), s)
        self.assertEqual((paused["cpu_seconds_total"], paused["memory_bytes"]), (0, 0))
        self.assertGreater(paused["disk_bytes"], 3000000)
        s.resume()
        s.sh("sha256sum ~/data")
        resumed = self.of(self.text(), s)
        self.assertLess(resumed["network_sent_bytes_total"], 2000000, "counted from the resume on")
        s.pause()
        whole = self.text()
        self.assertGreater(self.of(whole, s)["page_faults_total"], 0)
        s.delete()
        text = self.text()
        self.assertEqual(self.of(text, s), {})
        for kind in ("create", "pause", "resume", "destroy"):
            self.assertRegex(text, r'stasis_operation_seconds_count\{operation="%s",outcome="done"\} [1-9]' % kind)
        for kind, phase in (("create", "agent"), ("pause", "commit"), ("resume", "commit")):
            self.assertRegex(text, r'stasis_operation_phase_seconds_count\{operation="%s",phase="\w+"\} [1-9]' % kind)
        check = os.path.join(lib.ROOT, "tests/integration/control/metrics.py")
        p = subprocess.run(["python3", check, lib.ROOT], input=whole, text=True, capture_output=True, timeout=120)
        if p.returncode == 77:
            self.skipTest(p.stderr.strip())
        self.assertEqual(p.returncode, 0, p.stderr)

    def test_a_request_is_found_by_its_id(self):
        s = self.w.create()
        a = self.w.api("POST", f"/v1/sandboxes/{s.id}/pause", headers={"X-Request-Id": "found-by-this"})
        self.assertEqual((a.status, a.headers.get("X-Request-Id")), (200, "found-by-this"))
        events = self.w.api("GET", f"/v1/events?sandbox={s.id}").json()["events"]
        self.assertEqual([e["request_id"] for e in events if e["kind"] == "paused"], ["found-by-this"])
        ops = self.w.api("GET", f"/v1/operations?sandbox={s.id}&limit=1").json()["operations"]
        self.assertEqual(ops[0]["request_id"], "found-by-this")
        self.assertIn("pause done sandbox=%s request_id=found-by-this" % s.id, open(self.w.log).read())
        s.delete()
        self.assertRegex(self.w.cli("pause", s.id).errors, r"(?m)^stasis: request id [0-9a-f]{32}$")
