# SPDX-License-Identifier: Apache-2.0
"""Pause and resume: what ran goes on, what was taken is given back."""
import json
import os
import re
import time
import unittest

import lib

KEEP = "/dev/shm/keep"  # memory; /home/user/keep is the disk


class Pause(unittest.TestCase):
    """One guest for all; each test leaves it running."""

    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        cls.before = cls.w.leftovers()
        cls.s = cls.w.create(metadata={"test": "pause"}, on_timeout="pause")
        cls.boot = cls.s.sh("cat /proc/sys/kernel/random/boot_id")
        cls.s.sh(f"head -c 8M /dev/urandom > {KEEP}; cp {KEEP} ~/keep; "
                 "setsid sleep 99999 >/dev/null 2>&1 </dev/null &")
        cls.sum = cls.s.sh(f"md5sum < {KEEP}")
        cls.pid = cls.s.sh("pgrep -f 'sleep 9999[9]'")

    @classmethod
    def tearDownClass(cls):
        cls.s.delete()
        cls.w.settle(cls.before)

    def tearDown(self):
        if self.w.server is None:
            self.w.start()
        if self.s.get()["state"] == "paused":
            self.post("/resume", {"timeout_sec": 3600})

    def post(self, tail, body=None):
        return self.w.api("POST", f"/v1/sandboxes/{self.s.id}{tail}", body)

    def pause(self):
        a = self.post("/pause")
        self.assertEqual(a.status, 200, a.body)
        self.assertEqual(a.json()["state"], "paused")
        return a.json()

    def resume(self, **body):
        body.setdefault("timeout_sec", 3600)
        a = self.post("/resume", body)
        self.assertEqual(a.status, 200, a.body)
        self.assertEqual(a.json()["state"], "running")
        return a.json()

    def unharmed(self):
        self.assertEqual(self.s.sh("cat /proc/sys/kernel/random/boot_id"), self.boot)
        self.assertEqual(self.s.sh("pgrep -f 'sleep 9999[9]'"), self.pid)
        self.assertEqual(self.s.sh(f"md5sum < {KEEP}"), self.sum)
        self.assertEqual(self.s.sh("md5sum < ~/keep"), self.sum)

    def test_low_volume_keeps_its_reserve_for_pauses(self):
        """A file takes the room but half of the reserve."""
        began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        host = self.w.api("GET", "/v1/host").json()
        self.assertEqual(host["disk_state"], "ok")
        self.assertGreaterEqual(host["pause_bytes"], self.s.get()["memory_mb"] << 20)
        filler = os.path.join(self.w.data, "filler")
        with open(filler, "wb") as f:
            self.addCleanup(os.remove, filler)
            os.posix_fallocate(f.fileno(), 0, host["disk_free_bytes"] - host["disk_reserve_bytes"] // 2)
        a = self.w.api("POST", "/v1/sandboxes", {"template": "base"})
        self.assertEqual((a.status, a.error()), (507, "no_space"), a.body)
        self.assertIn("stasis du", a.json()["error"]["message"])
        for call in ("/fork", "/pause"):
            a = self.post(call, {"count": 1} if call == "/fork" else None)
            self.assertEqual(a.status, 507 if call == "/fork" else 200, a.body)
        a = self.w.api("POST", "/v1/snapshots", {"sandbox_id": self.s.id, "name": "no-room"})
        self.assertEqual(a.status, 507, a.body)
        self.assertEqual(self.w.api("GET", "/v1/host").json()["disk_state"], "low")
        lib.wait_until("the event", lambda: ("volume_low", "low") in [
            (e["kind"], e["cause"])
            for e in self.w.api("GET", f"/v1/events?limit=100&since={began}").json()["events"]])
        self.resume()
        self.unharmed()

    def test_what_has_not_changed_is_not_kept(self):
        """Written with what it held already: where the kernel tells what was written (if this one
        does), and where bytes are compared, as before Linux 6.7."""
        for scan in (True, False):
            with self.subTest(scan=scan):
                if not scan:
                    self.w.more_env["STASIS_NO_PAGEMAP_SCAN"] = "1"
                    self.addCleanup(self.w.start)
                    self.addCleanup(self.w.stop)
                    self.addCleanup(self.w.more_env.clear)
                    self.w.stop()
                    self.w.start()
                self.s.sh("head -c 24M /dev/urandom > /dev/shm/same; head -c 1M /dev/urandom > /dev/shm/other")
                total = self.s.sh("md5sum < /dev/shm/same")
                self.pause()
                self.resume()
                self.s.sh("dd if=/dev/shm/same of=/dev/shm/same bs=1M conv=notrunc status=none; "
                          "head -c 1M /dev/urandom > /dev/shm/other")
                other = self.s.sh("md5sum < /dev/shm/other")
                done = self.pause()
                written, kept = done["memory_written_bytes"], done["memory_kept_bytes"]
                print(f"  {written >> 10} KiB written, {kept >> 10} KiB kept", flush=True)
                self.assertLessEqual(kept, 8 << 20)
                self.assertLessEqual(kept, written)
                if not scan and self.w.check_host()["vmm"].startswith("fcqemu"):
                    self.assertLessEqual(written, 8 << 20)
                events = self.w.api("GET", f"/v1/events?limit=100&sandbox={self.s.id}").json()["events"]
                told = max((e for e in events if e["kind"] == "paused"), key=lambda e: e["at"])["data"]
                self.assertEqual((told["memory_written_bytes"], told["memory_kept_bytes"]), (written, kept))
                self.resume()
                self.assertEqual(self.s.sh("md5sum < /dev/shm/same"), total)
                # A copy of one that ran on: its diff lies over the last one's.
                child = self.s.fork(1, timeout_sec=600)[0]
                self.s.sh("head -c 1M /dev/zero > /dev/shm/other; rm /dev/shm/same")
                self.pause()
                self.resume()
                for s in (child, self.s):
                    want = other if s is child else self.s.sh("head -c 1M /dev/zero | md5sum")
                    self.assertEqual(s.sh("md5sum < /dev/shm/other"), want)
                self.assertEqual(child.sh("md5sum < /dev/shm/same"), total)
                child.delete()
                self.unharmed()

    def test_what_du_says_that_it_frees_is_freed(self):
        """Its fork shares the disk's blocks and the memory's layers; alone again, it frees them."""
        child = self.post("/fork", {"count": 1, "timeout_sec": 600}).json()["children"][0]["id"]
        try:
            one = self.w.cli("du", self.s.id, "-o", "json").json()
            self.assertIn(child, [x["id"] for x in one["shared_with"]])
            self.assertIn("base", [x["id"] for x in one["shared_with"]])
            with_child = one["items"][0]
        finally:
            self.assertEqual(self.w.api("DELETE", f"/v1/sandboxes/{child}").status, 204)
        lib.wait_until("its files go", lambda: self.du()["pending"]["bytes"] < 1 << 20)
        alone = next(x for x in self.du()["items"] if x["id"] == self.s.id)
        self.assertGreater(alone["frees_bytes"], with_child["frees_bytes"])
        self.assertGreater(with_child["shared_bytes"], alone["shared_bytes"])

    def test_retention_takes_what_is_paused_and_was_not_used(self):
        """Of any age, without a grace: it is warned by one pass and taken by the next."""
        child = self.post("/fork", {"count": 1, "timeout_sec": 600}).json()["children"][0]["id"]
        self.addCleanup(self.w.api, "DELETE", f"/v1/sandboxes/{child}")
        self.addCleanup(self.w.cli, "retention", "rm", "now")
        for i in (self.s.id, child):
            self.assertEqual(self.w.api("POST", f"/v1/sandboxes/{i}/pause").status, 200)
        a = self.w.api("PUT", "/v1/retention/rules/now",
                       {"what": "paused", "max_age_sec": 0, "grace_sec": 0})
        self.assertEqual(a.status, 200, a.body)
        self.w.cli("retention", "keep", self.s.id).ok()
        due = self.w.cli("retention", "run", "--dry-run", "-o", "json").json()["items"]
        self.assertEqual([(x["id"], x["action"]) for x in due], [(child, "warn")])
        self.assertGreater(due[0]["frees_bytes"], 0)
        self.w.cli("retention", "run").ok()  # warns
        self.w.cli("retention", "run").ok()
        row = self.w.api("GET", f"/v1/sandboxes/{child}").json()
        self.assertEqual((row["state"], row["cause"]), ("stopped", "retention"))
        kinds = [e["kind"] for e in self.w.api("GET", f"/v1/events?limit=100&sandbox={child}").json()["events"]]
        self.assertLess(kinds.index("retention_due"), kinds.index("stopped"))
        self.assertIn("retention_removed", kinds)
        self.w.cli("retention", "release", self.s.id).ok()
        self.w.cli("retention", "rm", "now").ok()
        self.resume()
        self.unharmed()

    def du(self):
        j = self.w.cli("du", "-o", "json").json()
        parts = ("sandboxes", "snapshots", "images", "shared", "programs", "databases", "pending",
                 "unknown", "other")
        self.assertEqual(sum(j[p]["bytes"] for p in parts), j["used_bytes"])
        self.assertLess(j["other"]["bytes"], j["total_bytes"] // 20)  # the log of XFS, its trees
        return j

    def disk_used(self):
        return self.s.get()["disk_used_bytes"] >> 20

    def test_space_freed_in_the_guest_comes_back(self):
        vmm = re.search(r"Firecracker v?(\d+)\.(\d+)", self.w.check_host()["vmm"])
        if vmm and (int(vmm[1]), int(vmm[2])) < (1, 17):
            self.skipTest("Firecracker passes no discard on before 1.17")
        before = self.disk_used()
        self.s.sh("dd if=/dev/zero of=big bs=1M count=120 conv=fsync 2>&1", timeout_sec=200)
        self.assertGreater(self.disk_used(), before + 115)
        self.pause()
        self.assertGreater(self.disk_used(), before + 115)  # all of it is in use
        self.resume()
        self.s.sh("rm ~/big")
        # At most 200 ms a time: a busy machine may need a few.
        for _ in range(10):
            self.pause()
            self.resume()
            if self.disk_used() < before + 50:
                break
        self.assertLess(self.disk_used(), before + 50)
        self.unharmed()
        copy, = self.s.fork(1)
        self.addCleanup(copy.delete)
        self.assertEqual(copy.sh("md5sum <~/keep"), self.sum)
        self.assertLess(copy.get()["disk_used_bytes"] >> 20, before + 50)
        # In the place of the holes there can be something again.
        self.s.sh("head -c 20M /dev/urandom >big; md5sum big >sum; sync", timeout_sec=300)
        self.pause()
        self.resume()
        self.s.sh("echo 3 | sudo tee /proc/sys/vm/drop_caches; md5sum -c sum; rm big sum", timeout_sec=300)

    def test_goes_on_where_it_was(self):
        row = self.pause()
        self.assertTrue(row["phases"])
        self.assertEqual((row["ends_at"], row["backend"]), (None, None))
        self.assertEqual(self.s.get()["state"], "paused")
        self.assertIn(self.s.id, self.w.cli("ls", "-q", "--state", "paused").text)
        a = self.w.api("POST", f"/v1/sandboxes/{self.s.id}/exec", {"cmd": "true"})
        self.assertEqual((a.status, a.error()), (409, "conflict"))
        self.assertIn("resume it first", a.json()["error"]["message"])
        a = self.s.edge("GET", "/health")
        self.assertEqual((a.status, a.json()), (502, {
            "sandboxId": self.s.id, "message": "The sandbox was not found", "code": 502}))
        self.assertEqual(self.post("/pause").status, 409)
        again = self.resume()
        self.assertGreater(again["generation"], row["generation"])
        self.assertEqual(again["envd_token"], self.s.token)
        self.assertIn(again["backend"], ("file", "uffd"))
        self.unharmed()
        self.assertLess(abs(float(self.s.sh("date +%s.%N")) - time.time()), 2)
        self.assertEqual(self.s.edge("GET", "/health").status, 204)
        self.assertEqual(self.post("/resume").status, 409)

    def test_nothing_of_it_stays_but_its_disk(self):
        self.pause()
        lib.wait_until("the machine is free", lambda: not {
            x for x in self.w.leftovers() - self.before if not x.startswith("file ")})

    def test_again_and_again(self):
        for i in range(3):
            self.s.sh(f"echo {i} >> /dev/shm/times; echo {i} >> ~/times")
            self.pause()
            self.resume()
        self.assertEqual(self.s.sh("cat /dev/shm/times").split(), ["0", "1", "2"])
        self.assertEqual(self.s.sh("cat ~/times").split(), ["0", "1", "2"])
        self.unharmed()

    def metrics(self):
        text = self.w.api("GET", "/v1/metrics").body.decode()
        return {k: float(v) for k, v in (x.rsplit(" ", 1) for x in text.splitlines() if x[0] != "#")}

    def test_its_pager_is_in_the_metrics(self):
        self.pause()  # the one of the other tests: only one counts from here
        before = self.metrics()
        s = self.w.create()
        s.pause()
        for _ in range(2):
            self.assertEqual(s.resume()["backend"], "uffd")
            s.pause()
        s.delete()
        after = self.metrics()
        grown = {k: after[k] - before[k] for k in after if k.startswith("stasis_pager_")}
        # The first resume left a record however short it was, the second one went by it.
        self.assertGreater(grown["stasis_pager_prefetched_pages_total"], 100)
        name = "stasis_pager_fault_seconds"
        self.assertGreater(grown["stasis_pager_faults_total"], 0)
        self.assertGreater(grown["stasis_pager_copied_bytes_total"], 0)
        self.assertGreater(grown[name + "_sum"], 0)
        self.assertGreater(grown[name + "_count"], 0)
        self.assertEqual(grown[name + "_count"], grown[name + '_bucket{le="+Inf"}'])
        buckets = [grown[k] for k in after if k.startswith(name + "_bucket")]
        self.assertEqual(buckets, sorted(buckets))

    def test_command_line(self):
        r = self.w.cli("pause", "-v", self.s.id).ok()
        self.assertEqual(r.text, "")
        self.assertRegex(r.errors, r"(?m)^total +\d+\.\d\d m?s$")
        self.assertEqual(self.w.cli("pause", self.s.id).code, 5)
        r = self.w.cli("exec", self.s.id, "--", "true")
        self.assertEqual(r.code, 5)
        self.assertIn("resume it first", r.errors)
        self.assertEqual(self.w.cli("timeout", self.s.id, "5m").code, 5)
        r = self.w.cli("resume", "--timeout", "1h", "-o", "json", self.s.id).ok()
        self.assertEqual(r.json()["state"], "running")
        self.assertEqual(self.w.cli("resume", self.s.id).code, 5)
        self.unharmed()

    def test_paused_when_its_time_is_over(self):
        self.w.cli("timeout", self.s.id, "1s").ok()
        lib.wait_until("paused", lambda: self.s.get()["state"] == "paused")
        events = self.w.cli("events", "--sandbox", self.s.id, "-o", "json").ok().json()["events"]
        self.assertIn("paused", [e["kind"] for e in events], json.dumps(events)[-2000:])
        self.resume()
        self.unharmed()

    def test_stays_paused_without_a_server(self):
        self.pause()
        self.w.stop()
        self.w.start()
        self.assertEqual(self.s.get()["state"], "paused")
        self.w.kill()
        self.w.start()
        self.assertEqual(self.s.get()["state"], "paused")
        self.resume()
        self.unharmed()

    def test_what_cannot_be(self):
        self.assertEqual(self.post("/resume", {"from": "nosuch"}).status, 404)
        self.assertEqual(self.post("/pause", {"x": 1}).status, 400)
        self.assertEqual(self.w.api("POST", "/v1/sandboxes/i" + "0" * 20 + "/pause").status, 404)
        self.unharmed()


class DeletePaused(unittest.TestCase):
    def test_leaves_nothing(self):
        w = lib.world()
        before = w.leftovers()
        s = w.create()
        self.assertEqual(w.api("POST", f"/v1/sandboxes/{s.id}/pause").status, 200)
        self.assertEqual(s.delete().status, 204)
        self.assertEqual(s.get()["cause"], "killed")
        self.assertEqual(w.api("POST", f"/v1/sandboxes/{s.id}/resume").status, 404)
        w.settle(before)
