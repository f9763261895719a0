# SPDX-License-Identifier: Apache-2.0
"""The server comes and goes; sandboxes stay."""
import http.client
import json
import os
import signal
import struct
import subprocess
import tempfile
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

    def test_another_servers_run_directory_is_refused(self):
        """What runs there would be ended, since no row of the other data directory knows it."""
        with tempfile.TemporaryDirectory(prefix="stasis-other.") as other:
            env = self.w.env({"STASIS_DATA": os.path.join(other, "data")})
            run = [lib.STASIS, "setup", "volume", "--size", "1G"]
            subprocess.run(run, env=env, check=True, capture_output=True, timeout=120)
            try:
                r = subprocess.run([lib.STASIS, "serve", "--run-dir", self.w.run, "--slot-range", "10.98.0.0/20",
                                    "--listen", f"127.0.0.1:{lib.free_port()}"], env=env, capture_output=True,
                                   text=True, timeout=60, check=False)
            finally:
                subprocess.run([lib.STASIS, "setup", "remove", "--yes", "--run-dir", os.path.join(other, "run")],
                               env=env, check=True, capture_output=True, timeout=60)
        self.assertEqual(r.returncode, 5, r.stderr)
        self.assertIn(f"another server (pid {(self.w.host or self.w.server).pid}) has the run directory", r.stderr)
        self.same_guest()

    def test_an_image_build_without_a_server_spares_what_runs(self):
        self.w.kill()
        self.w.build_image()
        self.w.start()
        self.same_guest()

    def test_a_start_that_fails_says_why_and_spares_what_runs(self):
        self.w.stop()
        subprocess.run("ip tuntap add stasis-other mode tap".split(), check=True)
        self.addCleanup(subprocess.run, "ip link del stasis-other".split(), check=True)
        for command in ("ip addr add 10.98.7.1/24 dev stasis-other", "ip link set stasis-other up"):
            subprocess.run(command.split(), check=True)
        args = [lib.STASIS, *self.w.serve_args()]
        args[args.index("--slot-range") + 1] = "10.98.0.0/16"
        r = subprocess.run(args, env=self.w.env(), capture_output=True, text=True, timeout=60, check=False)
        self.assertNotEqual(r.returncode, 0)
        self.assertIn("slot range 10.98.0.0/16 overlaps", r.stderr)
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

    def agent_call(self, method, message):
        """A stream of the agent through the edge: its events."""
        data = json.dumps(message).encode()
        c = http.client.HTTPConnection("127.0.0.1", self.w.port, timeout=60)
        c.request("POST", "/process.Process/" + method, struct.pack(">BI", 0, len(data)) + data,
                  {"E2b-Sandbox-Id": self.s.id, "X-Access-Token": self.s.token, "Connect-Protocol-Version": "1",
                   "Content-Type": "application/connect+json"})
        r = c.getresponse()
        while True:
            flags, n = struct.unpack(">BI", r.read(5))
            m = json.loads(r.read(n))
            if flags == 2:
                c.close()
                return
            yield m["event"]

    def say(self, pid, text):
        message = {"process": {"pid": pid}, "input": {"stdin": lib.b64(text)}}
        a = self.s.edge("POST", "/process.Process/SendInput", body=message)
        self.assertEqual(a.status, 200, a.body)

    def resumed(self):
        path = f"/v1/events?sandbox={self.s.id}&limit=100"
        return [e for e in self.w.api("GET", path).json()["events"] if e["kind"] == "resumed"][-1]["data"]

    def test_an_older_agent_is_replaced_at_a_resume(self):
        """The server has another agent than the one in the guest's memory: that gets it while its
        programs stand still, and they go on with it."""
        newer = os.path.join(lib.BUILD, "tests", "integration", "envd", "envd-newer")
        script = "while read x; do echo got-$x; [ $x = end ] && exit 7; done"
        events = self.agent_call("Start", {"process": {"cmd": "/bin/bash", "args": ["-c", script]}, "stdin": True,
                                           "tag": "kept"})
        pid = next(events)["start"]["pid"]
        was, agent = self.s.get()["agent_version"], self.s.sh("pgrep -x envd")
        self.assertEqual(self.s.get()["agent_weaknesses"], [])
        self.s.pause()
        self.assertEqual(self.s.get()["agent_version"], was)
        self.w.stop()
        self.w.agent = newer
        self.addCleanup(self.start_as_before)
        self.w.start()
        self.s.resume()
        self.assertEqual(self.resumed()["agent_before"], was)
        now = self.s.get()["agent_version"]
        self.assertTrue(now.startswith("9999.0.0-"), now)
        # Init's is told beside it, and is what it was.
        self.assertEqual(now.split()[1], was.split()[1])
        self.same_guest()
        self.assertEqual(self.s.sh("pgrep -x envd"), agent)
        events = self.agent_call("Connect", {"process": {"tag": "kept"}})
        self.assertEqual(next(events)["start"]["pid"], pid)
        self.say(pid, b"one\n")
        self.assertEqual(next(events)["data"], {"stdout": lib.b64(b"got-one\n")})
        self.s.pause()
        self.s.resume()
        self.assertNotIn("agent_before", self.resumed())  # nothing was sent
        events = self.agent_call("Connect", {"process": {"tag": "kept"}})
        self.assertEqual(next(events)["start"]["pid"], pid)
        self.say(pid, b"end\n")
        self.assertEqual(next(events)["data"], {"stdout": lib.b64(b"got-end\n")})
        self.assertEqual(next(events)["end"]["exitCode"], 7)
        # Were it to end, init would start the new one.
        self.w.api("POST", f"/v1/sandboxes/{self.s.id}/exec", {"cmd": "sudo kill -9 $(pgrep -x envd)"})
        lib.wait_until("it is there again", lambda: self.s.edge("GET", "/health").status == 204)
        self.assertTrue(self.s.edge("GET", "/health").headers["X-Stasis-Agent"].startswith("9999.0.0-"))

    def start_as_before(self):
        self.w.stop()
        self.w.agent = None
        self.w.start()

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


class Stuck(unittest.TestCase):
    """Killed in the middle of pauses, with VMMs that answer nothing to the next server."""
    ALL, STUCK = 6, 2

    def setUp(self):
        self.w = lib.world()
        if self.w.server is None:
            self.w.start()
        self.w.clear()
        self.before = self.w.leftovers()
        self.stopped = []
        self.addCleanup(self.clean)

    def clean(self):
        self.signal(signal.SIGCONT)
        if self.w.server is None:
            self.w.start()
        self.w.clear()
        self.w.settle(self.before)

    def signal(self, sig):
        for pid in self.stopped:
            try:
                os.kill(pid, sig)
            except ProcessLookupError:
                pass

    def cut_a_pause(self, s):
        """At a stopped VM, whose VMM does not answer from then on."""
        if self.w.server is not None:
            self.w.stop()
        self.w.start(fault="capture.after_stop:kill")
        try:
            self.w.api("POST", f"/v1/sandboxes/{s.id}/pause", {})
        except OSError:
            pass
        self.w.reap()
        self.stopped += lib.vmm_of(self.w, s)
        self.signal(signal.SIGSTOP)

    def same_memory(self, s):
        self.assertEqual(s.sh("md5sum < /dev/shm/keep"), self.sums[s.id])

    def test_the_others_are_served_at_once(self):
        w = self.w
        boxes = [w.create() for _ in range(self.ALL)]
        self.sums = {s.id: s.sh("head -c 4M /dev/urandom > /dev/shm/keep; md5sum < /dev/shm/keep")
                     for s in boxes}
        stuck, others = boxes[:self.STUCK], boxes[self.STUCK:]
        for s in stuck:
            self.cut_a_pause(s)
        w.start()
        for s in others:
            self.same_memory(s)
        others[0].pause()
        self.assertEqual(others[1].delete().status, 204)
        others[0].resume()
        self.same_memory(others[0])
        for s in stuck:
            self.assertEqual(s.get()["state"], "pausing")
        self.signal(signal.SIGCONT)
        for s in stuck:
            lib.wait_until("runs again", lambda s=s: s.get()["state"] == "running", 60)
            self.same_memory(s)
        stuck[0].pause()
        stuck[0].resume()
        self.same_memory(stuck[0])


class KilledBuild(unittest.TestCase):
    def test_its_guest_does_not_outlive_the_next_one(self):
        w = lib.World("killed-build")
        self.addCleanup(w.close)
        subprocess.run([lib.STASIS, "image", "build", "base", "--no-freeze"], env=w.env(), check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Its reader goes at once: that must not end it.
        build = subprocess.Popen([lib.STASIS, "image", "build", "base"], env=w.env(),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        build.stderr.close()
        lib.wait_until("it boots", lambda: "qemu-system-x86_64" in [name for _, name in w.processes()])
        build.kill()
        build.wait()
        self.assertTrue(w.processes())
        w.build_image()
        self.assertEqual(w.processes(), [])
        w.start()
        self.assertEqual(w.create().row["backend"], "file")
