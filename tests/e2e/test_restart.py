# SPDX-License-Identifier: Apache-2.0
"""The server comes and goes; sandboxes stay."""
import json
import os
import signal
import subprocess
import time
import unittest

import lib


class Restart(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        cls.before = cls.w.leftovers()

    def setUp(self):
        self.s = self.w.create(metadata={"test": "restart"})
        self.boot = self.s.sh("cat /proc/sys/kernel/random/boot_id")
        self.s.sh("setsid sleep 9999 >/dev/null 2>&1 </dev/null &")

    def tearDown(self):
        if self.w.server is None:
            self.w.start()
        self.s.delete()
        self.w.settle(self.before)

    def same_guest(self):
        row = self.s.get()
        self.assertEqual((row["state"], row["metadata"]), ("running", {"test": "restart"}))
        self.assertEqual(self.s.sh("cat /proc/sys/kernel/random/boot_id"), self.boot)
        self.s.sh("pgrep -f 'sleep 999[9]'")
        self.assertEqual(self.s.edge("GET", "/health").status, 204)

    def test_stop_and_start_adopts(self):
        self.w.stop()
        self.w.start()
        self.same_guest()

    def test_kill_and_start_adopts(self):
        self.w.kill()
        self.w.start()
        self.same_guest()

    def test_kill_on_exit(self):
        self.w.stop()
        self.w.start(extra=["--kill-on-exit"])
        self.same_guest()
        self.w.stop()
        self.w.start()
        self.assertEqual(self.s.get()["cause"], "server_stopped")

    def test_time_passes_without_a_server(self):
        ends = time.time() + 3
        self.w.cli("timeout", self.s.id, "3s").ok()
        self.w.stop()
        lib.wait_until("the time is over", lambda: time.time() > ends + 0.5)
        self.w.start()
        lib.wait_until("stopped", lambda: self.s.get()["state"] == "stopped")
        self.assertEqual(self.s.get()["cause"], "timeout")

    def test_an_end_without_a_server_is_found_later(self):
        self.w.stop()
        with open(os.path.join(self.w.run, self.s.id, "state.json")) as f:
            state = json.load(f)
        os.kill(state["vmm_pid"], signal.SIGKILL)
        lib.wait_until("the shim has ended", lambda: not os.path.exists(f"/proc/{state['pid']}"))
        self.w.start()
        lib.wait_until("noticed", lambda: self.s.get()["state"] != "running")
        self.assertEqual(self.s.get()["cause"], "vmm_crash")

    def test_a_stream_goes_on_being_served(self):
        # A second server on the same directory is refused, the first is not disturbed.
        r = self.w.cli("serve", "--data-dir", self.w.data, "--run-dir", self.w.run + "2",
                       "--listen", f"127.0.0.1:{lib.free_port()}", api=False)
        self.assertEqual(r.code, 5, r.errors)
        self.assertIn(str((self.w.host or self.w.server).pid), r.errors)
        self.same_guest()

    def test_volume_that_goes_away(self):
        """Something mounted over the directory: the marker is gone, nothing may be judged lost."""
        subprocess.run(["mount", "-t", "tmpfs", "none", self.w.data], check=True)
        try:
            health = lib.wait_until("degraded", lambda: (h := self.w.api(
                "GET", "/v1/health", key="").json())["status"] == "degraded" and h)
            self.assertIn("reason", health)
            r = self.w.cli("health")
            self.assertEqual(r.code, 7)
            self.assertEqual(os.listdir(self.w.data), [])
        finally:
            subprocess.run(["umount", self.w.data], check=True)
        lib.wait_until("well again", lambda: self.w.api("GET", "/v1/health").json()["status"] == "ok")
        self.same_guest()
