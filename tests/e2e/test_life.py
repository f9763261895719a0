# SPDX-License-Identifier: Apache-2.0
"""Ends of a sandbox that nobody asked for: noticed at once, with the cause, and nothing stays."""
import json
import os
import shlex
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
        return self.w.cli("why", self.s.id, "-o", "json").ok().json()

    def as_root(self, cmd, limit=60):
        # The guest ends before the answer: any will do.
        self.w.api("POST", f"/v1/sandboxes/{self.s.id}/exec",
                   {"cmd": cmd, "user": "root", "timeout_sec": limit}, limit=limit + 60)

    def test_panic(self):
        self.as_root("echo c > /proc/sysrq-trigger")
        why = self.ended("guest_panic")
        self.assertIn("panic", self.w.cli("logs", self.s.id).ok().text)
        self.assertEqual(why["by"], "guest")
        self.assertIn("Kernel panic - not syncing: sysrq triggered crash", why["detail"])
        self.assertTrue(why["console"])
        # What is said of it outlives what is kept of it.
        self.s.delete()
        forgotten = self.w.cli("why", self.s.id, "-o", "json").ok().json()
        for field in ("cause", "by", "detail", "advice", "console"):
            self.assertEqual(forgotten[field], why[field])

    def test_panic_for_lack_of_memory(self):
        # In the lab (tests/lab) each page of it takes the guest half a millisecond or more.
        self.as_root("echo 2 > /proc/sys/vm/panic_on_oom; exec " + shlex.join(lib.EAT), lib.BOOT_LIMIT)
        why = self.ended("guest_oom", lib.BOOT_LIMIT)
        self.assertIn("Out of memory", why["detail"])
        self.assertIn("--memory", why["advice"])

    def test_host_without_memory(self):
        """The host's kernel kills the VMM, whose cgroup is full."""
        with open("/proc/self/cgroup") as f:
            groups = dict(line.strip().split(":")[1:] for line in f)
        one = "/sys/fs/cgroup/memory" + groups.get("memory", "")
        box = os.path.join(one if "memory" in groups else "/sys/fs/cgroup" + groups.get("", ""),
                           f"stasis-test-{os.getpid()}")
        limit = os.path.join(box, "memory.limit_in_bytes" if "memory" in groups else "memory.max")
        try:
            os.mkdir(box)
        except OSError as error:
            self.skipTest(f"no cgroup can be made: {error}")
        try:
            if not os.path.exists(limit):
                self.skipTest(f"{box} has no {os.path.basename(limit)}")
            with open(limit, "w") as f:
                f.write("16M")
            for pid in lib.vmm_of(self.w, self.s):
                with open(os.path.join(box, "cgroup.procs"), "w") as f:
                    f.write(str(pid))
            self.as_root("head -c 300M /dev/zero > /dev/shm/x")
            why = self.ended("host_oom", lib.BOOT_LIMIT)
            self.assertRegex(why["detail"], r"^the host's kernel killed \S.* \(\d+ MiB\): "
                             r"out of memory of the cgroup /")
            self.assertEqual(why["by"], "host")
        finally:
            lib.wait_until("the cgroup is empty", lambda: not open(
                os.path.join(box, "cgroup.procs")).read())
            os.rmdir(box)

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
        why = self.ended("vmm_crash")
        self.assertEqual((why["by"], why["detail"]), ("host", "signal: killed"))
        self.assertEqual([op["kind"] for op in why["operations"]], ["create"])
        self.assertTrue(why["operations"][0]["phases"])
        text = self.w.cli("why", self.s.id).ok().text
        for part in ("vmm_crash, by the host", "signal: killed", "what to do", "create done"):
            self.assertIn(part, text)
        # Who was talking to the guest is told, and does not wait for a time-out.
        self.assertEqual(stream.wait(NOTICED), 5)
        stream.stdout.close()
