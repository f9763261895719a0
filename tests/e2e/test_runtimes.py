# SPDX-License-Identifier: Apache-2.0
"""Snapshots outlive upgrades of the VMM: each of two goes on where the other is this host's own.

QEMU: Debian 12's and the one of its backports, whose packages are unpacked into a directory, never
installed; where the registry does not have them, a copy of this machine's QEMU stands in, which is
told. Firecracker: STASIS_FIRECRACKER and STASIS_FIRECRACKER_OTHER (make test-kvm FIRECRACKER=...
FIRECRACKER_OTHER=...)."""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import lib

HOST_QEMU = "/usr/bin/qemu-system-x86_64"
PACKAGES = ("qemu-system-x86", "qemu-system-data", "seabios")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def fetch(folder):
    """The backports' QEMU below folder, with its ROMs; None: not to be had."""
    apt = os.path.join(folder, "apt")
    for sub in ("lists/partial", "archives/partial"):
        os.makedirs(os.path.join(apt, sub))
    with open(os.path.join(apt, "sources.list"), "w") as f:
        f.write(f"deb [signed-by={KEYRING}] http://deb.debian.org/debian bookworm-backports main\n")
    options = ["-o", f"Dir::Etc::sourcelist={apt}/sources.list", "-o", "Dir::Etc::sourceparts=-", "-o",
               f"Dir::State::lists={apt}/lists", "-o", f"Dir::Cache={apt}"]
    for command in (["update", "-qq"], ["download", "-qq", *(f"{p}/bookworm-backports" for p in PACKAGES)]):
        done = subprocess.run(["apt-get", *options, *command], cwd=apt, capture_output=True, timeout=300)
        if done.returncode != 0:
            return None
    root = os.path.join(folder, "root")
    for name in os.listdir(apt):
        if name.endswith(".deb"):
            subprocess.run(["dpkg-deb", "-x", os.path.join(apt, name), root], check=True)
    program = os.path.join(root, "usr/bin/qemu-system-x86_64")
    runs = subprocess.run([program, "--version"], capture_output=True)
    return program if runs.returncode == 0 else None


def copy(folder):
    """This machine's QEMU as another program: a byte more, which it never reads."""
    program = os.path.join(folder, "root/usr/bin/qemu-system-x86_64")
    os.makedirs(os.path.dirname(program))
    shutil.copytree("/usr/share/qemu", os.path.join(folder, "root/usr/share/qemu"))
    shutil.copy(HOST_QEMU, program)
    with open(program, "ab") as f:
        f.write(b"\0")
    return program


class Upgrade:
    """own, other: the flags of a server that has the one VMM, or the other."""

    @classmethod
    def begin(cls, own, other):
        cls.own, cls.other = own, other
        cls.w = lib.World("runtimes")
        cls.addClassCleanup(cls.w.close)
        cls.w.build_image()
        cls.w.start(extra=own)

    def restart(self, vmm):
        self.w.stop()
        self.w.start(extra=vmm)

    def runtimes(self):
        return self.w.cli("runtime", "ls", "-o", "json").ok().json()["runtimes"]

    def mark(self, s, text):
        """On the disk, in memory, and a process that holds what only it knows."""
        s.sh(f"echo {text} > ~/disk; mkdir -p /dev/shm; echo {text} > /dev/shm/memory; "
             f"(while :; do sleep 0.1; done) & echo $! > /dev/shm/pid")
        return s.sh("head -c 4000000 /dev/urandom > /dev/shm/noise; sha256sum /dev/shm/noise")

    def check(self, s, text, noise):
        self.assertEqual(s.sh("cat ~/disk /dev/shm/memory"), f"{text}\n{text}\n")
        self.assertEqual(s.sh("sha256sum /dev/shm/noise"), noise)
        s.sh("kill -0 $(cat /dev/shm/pid)")

    def test_each_goes_on_where_the_other_is_current(self):
        w = self.w
        old = w.create()
        self.addCleanup(old.delete)
        runs = w.create()
        self.addCleanup(runs.delete)
        noise = self.mark(old, "first")
        runs_noise = self.mark(runs, "runs")
        w.cli("snapshot", "create", old.id, "kept").ok()
        self.addCleanup(w.cli, "snapshot", "rm", "-f", "kept")
        old.pause()
        first, = self.runtimes()

        # What is damaged is read again from the tree itself.
        os.truncate(os.path.join(w.data, "runtime", first["id"], "runtime.json"), 20)
        self.restart(self.other)
        kept = {r["id"]: r for r in self.runtimes()}
        self.assertFalse(kept[first["id"]]["current"])
        self.assertEqual(kept[first["id"]]["version"], first["version"])
        self.assertGreaterEqual(kept[first["id"]]["snapshots"], 2)
        self.assertTrue(w.api("GET", "/v1/host").json()["kept_runtimes"])
        self.assertIn("kept", w.cli("snapshot", "check", "kept").ok().text)
        new = w.create()
        self.addCleanup(new.delete)
        new_noise = self.mark(new, "second")
        old.resume()
        self.check(old, "first", noise)
        # What has run all the time, and generations of what was loaded.
        runs.pause()
        runs.resume()
        self.check(runs, "runs", runs_noise)
        for i in range(3):
            noise = old.sh("head -c 1000000 /dev/urandom > /dev/shm/noise; sha256sum /dev/shm/noise")
            old.pause()
            old.resume()
            self.check(old, "first", noise)
        child = w.create(template="kept")
        self.assertEqual(child.sh("cat /dev/shm/memory"), "first\n")
        child.delete()
        new.pause()

        # And the other way round.
        self.restart(self.own)
        new.resume()
        self.check(new, "second", new_noise)

        # Refused by its id, and by its version: before anything is started.
        self.restart(self.other)
        w.cli("runtime", "deny", first["id"]).ok()
        self.addCleanup(w.cli, "runtime", "allow", first["id"])
        old.pause()
        r = w.cli("resume", old.id)
        self.assertEqual(r.code, 7, r.errors)
        for word in ("denied", "--disk-only", "rewarm"):
            self.assertIn(word, r.errors)
        self.assertEqual(w.cli("create", "--template", "kept").code, 7)
        # Its disk boots on the current one, and has the name from then on.
        w.cli("snapshot", "rewarm", "kept", limit=lib.BOOT_LIMIT).ok()
        self.assertNotIn(first["id"], w.cli("snapshot", "check", "kept").ok().text)
        child = w.create(template="kept")
        self.assertEqual(child.sh("cat ~/disk"), "first\n")
        child.delete()
        w.cli("runtime", "allow", first["id"]).ok()
        old.resume()
        self.check(old, "first", noise)


class Runtimes(Upgrade, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.mkdtemp(prefix="stasis-qemu.")
        cls.addClassCleanup(shutil.rmtree, folder, True)
        with open("/etc/os-release") as f:
            is_bookworm = "bookworm" in f.read()
        other = fetch(folder) if is_bookworm else None
        if not other:
            print("  NOTE: no QEMU of bookworm-backports: another release was NOT tested, a copy of "
                  "this machine's stands in", file=sys.stderr, flush=True)
            other = copy(folder)
        cls.begin(("--vmm", "fcqemu", "--qemu", HOST_QEMU), ("--vmm", "fcqemu", "--qemu", other))


class Firecrackers(Upgrade, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        programs = [os.environ.get("STASIS_FIRECRACKER" + name) for name in ("", "_OTHER")]
        if not all(programs):
            raise unittest.SkipTest("STASIS_FIRECRACKER and STASIS_FIRECRACKER_OTHER do not name two "
                                    "firecracker binaries: NO upgrade of Firecracker was tested")
        cls.begin(*(("--vmm", "firecracker", "--firecracker", program) for program in programs))
