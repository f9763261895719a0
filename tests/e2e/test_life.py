# SPDX-License-Identifier: Apache-2.0
"""Ends of a sandbox that nobody asked for: noticed at once, with the cause, and nothing stays."""
import json
import os
import signal
import subprocess
import unittest

import lib

# Noticing is a matter of milliseconds; what this allows for is a guest that panics on a busy machine.
NOTICED = 10


class Ends(unittest.TestCase):
    def setUp(self):
        self.w = lib.world()
        self.before = self.w.leftovers()
        self.s = self.w.create()

    def ended(self, cause, limit=NOTICED):
        row = lib.wait_until(f"ended by {cause}", lambda: (r := self.s.get())["state"] not in
                             ("running", "stopping") and r, limit)
        self.assertEqual(row["cause"], cause, row)
        self.assertIsNotNone(row["stopped_at"])
        self.assertEqual(self.s.edge("GET", "/health").status, 502)
        kinds = {e["kind"]: e for e in self.w.cli("events", "--sandbox", self.s.id, "-o", "json")
                 .ok().json()["events"]}
        self.assertTrue(any(e["cause"] == cause for e in kinds.values()), kinds)
        self.assertIn(self.s.id, self.w.cli("ls", "--all", "-q").text)
        self.assertNotIn(self.s.id, self.w.cli("ls", "-q").text)
        self.w.settle(self.before)

    def as_root(self, cmd):
        # The guest ends before the answer: any will do.
        self.w.api("POST", f"/v1/sandboxes/{self.s.id}/exec",
                   {"cmd": cmd, "user": "root", "timeout_sec": 10})

    def test_panic(self):
        self.as_root("echo c > /proc/sysrq-trigger")
        self.ended("guest_panic")
        self.assertIn("panic", self.w.cli("logs", self.s.id).ok().text)

    def test_power_off(self):
        self.as_root("python3 -c 'import ctypes; ctypes.CDLL(None).reboot(0x4321fedc)'")
        self.ended("guest_poweroff")

    def test_time_out(self):
        self.w.cli("timeout", self.s.id, "1s").ok()
        self.ended("timeout")

    def test_crash_of_the_vmm(self):
        stream = self.w.popen("exec", self.s.id, "--", "bash", "-c", "echo up; exec sleep 600",
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.assertEqual(stream.stdout.readline(), b"up\n")
        with open(os.path.join(self.w.run, self.s.id, "state.json")) as f:
            os.kill(json.load(f)["vmm_pid"], signal.SIGKILL)
        self.ended("vmm_crash")
        # Who was talking to the guest is told, and does not wait for a time-out.
        self.assertEqual(stream.wait(NOTICED), 5)
        stream.stdout.close()
