#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cli.py MODEL_SERVER STASIS: the command line against the real control plane on a model host: what
it prints and its exit codes, without a guest.

Exit status 77 when nginx is missing.
"""
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

MODEL_SERVER, STASIS = sys.argv[1:3]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, *more):
        self.dir = tempfile.mkdtemp(prefix="stasis-cli.")
        os.chmod(self.dir, 0o711)  # the edge runs as another user
        self.start(*more)

    def start(self, *more):
        listen = f"127.0.0.1:{free_port()}"
        self.env = {"PATH": os.environ["PATH"], "STASIS_URL": f"http://{listen}",
                    "STASIS_DATA": self.dir + "/data"}
        self.process = subprocess.Popen([MODEL_SERVER, self.dir, listen, "127.0.0.1", *more],
                                        stdout=subprocess.PIPE)
        if self.process.stdout.readline() != b"ready\n":
            self.close()
            raise RuntimeError("the model server did not start")

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        self.process.stdout.close()

    def close(self):
        self.stop()
        shutil.rmtree(self.dir)

    def run(self, *args, code=0):
        done = subprocess.run([STASIS, *args], env=self.env, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=60, check=False)
        if done.returncode != code:
            raise AssertionError(f"{args}: exit code {done.returncode}, not {code}: {done.stderr}")
        return done

    def out(self, *args):
        done = self.run(*args)
        if done.stderr:
            raise AssertionError(f"{args}: said {done.stderr!r}")
        return done.stdout

    def json(self, *args):
        return json.loads(self.out(*args, "-o", "json"))

    def running(self):
        return self.out("ls", "-q").split()


class Commands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = Server()

    @classmethod
    def tearDownClass(cls):
        cls.s.close()

    def setUp(self):
        self.id = self.s.out("create", "--timeout", "1h", "--on-timeout", "pause",
                             "--metadata", "k=v").strip()

    def tearDown(self):
        for i in self.s.running():
            self.s.run("rm", i)
        for name in self.s.out("snapshot", "ls", "-q").split():
            self.s.run("snapshot", "rm", name)

    def phases(self, done, last):
        lines = done.stderr.splitlines()
        self.assertRegex(lines[0], r"^PHASE +TIME$")
        self.assertRegex(lines[-2], rf"^{last} +3\.40 ms$")
        self.assertRegex(lines[-1], r"^total +3\.41 ms$")

    def test_pause_and_resume(self):
        self.assertEqual(self.s.json("get", self.id)["on_timeout"], "pause")
        done = self.s.run("pause", "-v", self.id)
        self.assertEqual(done.stdout, "")
        self.phases(done, "memory")
        self.assertRegex(self.s.out("ls"), rf"(?m)^{self.id} +- +base +paused ")
        self.assertIn("is paused already", self.s.run("pause", self.id, code=5).stderr)
        self.assertIn("it is paused: resume it first",
                      self.s.run("exec", self.id, "--", "true", code=5).stderr)
        self.assertIn("is paused", self.s.run("timeout", self.id, "5m", code=5).stderr)
        self.phases(self.s.run("resume", "-v", self.id, "--timeout", "5m"), "load")
        self.assertEqual(self.s.out("ls", "-q", "--state", "running"), self.id + "\n")
        self.assertIn("is running", self.s.run("resume", self.id, code=5).stderr)
        self.assertEqual(self.s.json("pause", self.id)["state"], "paused")
        row = self.s.json("resume", self.id, "--disk-only", "--timeout", "none")
        self.assertEqual((row["state"], row["backend"], row["ends_at"]), ("running", "boot", None))
        self.assertEqual(self.s.out("pause", self.id), "")
        self.assertEqual(self.s.out("rm", self.id), "")

    def test_snapshots(self):
        done = self.s.run("snapshot", "create", "-v", self.id, "warm")
        self.assertEqual(done.stdout, "warm\n")
        self.phases(done, "snapshot")
        self.assertIn("overwrite", self.s.run("snapshot", "create", self.id, "warm", code=5).stderr)
        self.assertIn("is an image",
                      self.s.run("snapshot", "create", self.id, "base", code=5).stderr)
        self.s.run("snapshot", "create", self.id, "Up", code=2)
        self.s.run("snapshot", "create", "i" + "0" * 20, "x", code=4)
        self.s.run("snapshot", "create", self.id, code=2)
        row = self.s.json("snapshot", "create", self.id, "warm", "--overwrite")
        self.assertEqual((row["name"], row["kind"], row["sandbox_id"], row["parent"]),
                         ("warm", "snapshot", self.id, "base"))
        for of_the_call in ("phases", "memory_written_bytes", "memory_kept_bytes"):
            del row[of_the_call]
        one = self.s.json("snapshot", "get", "warm")
        for of_the_guest in ("agent_version", "agent_weaknesses"):
            del one[of_the_guest]
        self.assertEqual(one, row)
        self.assertEqual(self.s.json("snapshot", "ls")["snapshots"], [row])
        self.assertRegex(self.s.out("snapshot", "ls"),
                         rf"(?m)^NAME .*\nwarm +{self.id} +base +1 +512 MiB +2.0 GiB +3.9 MiB ")
        self.assertRegex(self.s.out("snapshot", "get", "warm"), r"(?m)^memory_mb +512$")
        self.assertRegex(self.s.out("image", "ls"),
                         r"(?m)^base +base +yes .*\nwarm +snapshot +yes ")
        child = self.s.json("create", "--template", "warm")
        self.assertEqual((child["template"], child["backend"]), ("warm", "uffd"))
        for args in (["--vcpus", "2"], ["--memory", "1G"], ["--disk", "1G"], ["--cold"]):
            self.s.run("create", "--template", "warm", *args, code=2)
        self.assertEqual(self.s.json("create", "--cold")["backend"], "boot")
        self.s.run("create", "--on-timeout", "explode", code=2)
        # Back to it, which only its own sandbox can go.
        self.assertEqual(self.s.out("resume", self.id, "--from", "warm"), "")
        self.assertIn(self.id, self.s.run("resume", child["id"], "--from", "warm", code=2).stderr)
        self.s.run("resume", self.id, "--from", "nosuch", code=4)
        self.assertEqual(self.s.out("snapshot", "rm", "warm"), "")
        self.s.run("snapshot", "get", "warm", code=4)
        self.assertIn("no snapshot 'warm'", self.s.run("snapshot", "rm", "warm", code=4).stderr)
        self.s.run("snapshot", "rm", "-f", "warm")
        self.s.run("snapshot", "rm", "base", code=5)
        self.assertIn(child["id"], self.s.running())

    def test_fork(self):
        one = self.s.out("fork", self.id).split()
        self.assertEqual(len(one), 1)
        done = self.s.run("fork", self.id, "-n", "3", "-v", "--timeout", "none", "--metadata",
                          "of=3")
        three = done.stdout.split()
        self.assertEqual(len(three), 3)
        self.assertEqual(done.stderr.count("total"), 3)
        self.assertEqual(sorted(self.s.running()), sorted([self.id, *one, *three]))
        row = self.s.json("get", three[0])
        self.assertEqual((row["metadata"], row["ends_at"], row["on_timeout"]),
                         ({"of": "3"}, None, "pause"))
        self.assertEqual(self.s.json("get", one[0])["metadata"], {"k": "v"})
        answer = self.s.json("fork", self.id, "-n", "2", "--on-timeout", "kill", "-e", "A=b")
        self.assertEqual([c["on_timeout"] for c in answer["children"]], ["kill", "kill"])
        self.s.run("fork", self.id, "-n", "0", code=2)
        self.s.run("fork", self.id, "-n", "101", code=2)
        self.s.run("fork", "i" + "0" * 20, code=4)
        self.s.run("fork", code=2)

    def test_events(self):
        self.s.run("pause", self.id)
        self.s.run("resume", self.id)
        self.s.run("snapshot", "create", self.id, "s")
        kinds = [e["kind"] for e in self.s.json("events", "--sandbox", self.id)["events"]]
        self.assertEqual(kinds, ["running", "paused", "resumed", "snapshot_created"])


class FailingChildren(unittest.TestCase):
    def test_fork(self):
        with contextlib.closing(Server("5")) as s:
            source = s.out("create").strip()
            done = s.run("fork", source, "-n", "3", code=6)
            self.assertEqual(len(done.stdout.split()), 1)
            self.assertEqual(done.stderr.count("no room"), 2)
            done = s.run("fork", source, "-n", "3", "-o", "json", code=6)
            children = json.loads(done.stdout)["children"]
            self.assertEqual([c.get("error", {}).get("code") for c in children],
                             ["limit", None, "limit"])
            self.assertEqual(s.run("fork", source, code=6).stdout, "")
            self.assertEqual(len(s.running()), 3)
            # The measurement cannot go on, and leaves nothing.
            self.assertIn("a child did not come up", s.run("bench", code=7).stderr)
            self.assertEqual(len(s.running()), 3)


class Bench(unittest.TestCase):
    FIGURES = ["create", "create to exec", "exec", "pause", "resume", "resume to exec",
               "fork, first child", "fork", "snapshot", "spawn"]

    def test_figures(self):
        with contextlib.closing(Server()) as s:
            bystander = s.out("create").strip()
            table = s.out("bench", "-n", "3")
            for name in self.FIGURES:
                self.assertRegex(table, rf"(?m)^{name} +3( +\d+\.\d\d m?s){{4}}$")
            report = s.json("bench", "-n", "2", "--children", "2", "--dirty", "64")
            self.assertEqual(report["machine"]["vmm"], "model")
            self.assertEqual([f["name"] for f in report["figures"]], self.FIGURES)
            for f in report["figures"]:
                self.assertEqual(len(f["samples"]), 2)
                self.assertEqual((f["min"], f["max"]),
                                 (min(f["samples"]), max(f["samples"])))
                self.assertLessEqual(f["min"], f["median"])
                self.assertLessEqual(f["median"], f["p90"])
                has_phases = f["name"] in ("create", "pause", "resume", "fork", "snapshot",
                                              "spawn")
                self.assertEqual(len(f["phases"]), 2 if has_phases else 0)
            self.assertEqual(s.running(), [bystander])
            self.assertEqual(s.out("snapshot", "ls", "-q"), "")

    def test_interrupt(self):
        with contextlib.closing(Server()) as s:
            bench = subprocess.Popen([STASIS, "bench", "-n", "50", "--children", "8"], env=s.env,
                                     stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            # Once there is something to remove.
            follow = subprocess.Popen([STASIS, "events", "-f"], env=s.env, stdout=subprocess.PIPE)
            try:
                self.assertIn(b"running", follow.stdout.readline())
                bench.send_signal(signal.SIGINT)
                out, err = bench.communicate(timeout=60)
            finally:
                follow.kill()
                follow.communicate()
            self.assertEqual((bench.returncode, out, err), (130, b"", b"stasis: interrupted\n"))
            self.assertEqual(s.running(), [])
            self.assertEqual(s.out("snapshot", "ls", "-q"), "")


class Events(unittest.TestCase):
    def test_a_restored_copy_counts_anew(self):
        """Who goes on from an event of the database that was there is told that it is gone."""
        with contextlib.closing(Server()) as s:
            s.out("create", "-q")
            before = s.json("events")["events"][-1]["cursor"]
            self.assertEqual(s.json("events", "--since", before)["events"], [])
            s.run("events", "--since", "999", code=4)
            copy = s.dir + "/copy.db"
            s.run("db", "backup", "control", copy)
            s.stop()
            s.start()
            s.json("events", "--since", before)
            s.stop()
            s.run("db", "restore", "control", copy)
            s.start()
            for follow in ([], ["-f"]):
                done = s.run("events", "--since", before, *follow, code=4)
                self.assertIn("events are counted anew", done.stderr)
            again = s.json("events")["events"][-1]
            self.assertEqual((again["seq"], again["cursor"] != before), (1, True))


if __name__ == "__main__":
    if not shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
        print("nginx is not installed")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1], verbosity=2)
