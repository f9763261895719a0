# SPDX-License-Identifier: Apache-2.0
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import unittest

import lib


class Copy(unittest.TestCase):
    def setUp(self):
        self.s = lib.shared()
        self.w = self.s.world
        self.dir = tempfile.mkdtemp(dir=self.w.dir)
        self.there = self.s.sh("mktemp -d").strip()
        self.addCleanup(shutil.rmtree, self.dir)
        self.addCleanup(self.s.sh, f"rm -rf {self.there}")

    def cp(self, src, dst, **kw):
        return self.w.cli("cp", src, dst, cwd=self.dir, **kw)

    def remote(self, path=""):
        return f"{self.s.id}:{self.there}/{path}"

    def write(self, path, data=b"x", mode=0o644):
        full = os.path.join(self.dir, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as f:
            f.write(data)
        os.chmod(full, mode)

    def read(self, path):
        with open(os.path.join(self.dir, path), "rb") as f:
            return f.read()

    def mode(self, path):
        return stat.S_IMODE(os.stat(os.path.join(self.dir, path)).st_mode)


class Files(Copy):
    def test_binary_both_ways(self):
        data = os.urandom(3 << 20)
        self.write("a", data, 0o750)
        self.cp("a", self.remote("b")).ok()
        self.assertEqual(self.s.sh(f"sha256sum < {self.there}/b").split()[0],
                         hashlib.sha256(data).hexdigest())
        self.assertEqual(self.s.sh(f"stat -c %a:%U {self.there}/b"), "750:user\n")
        self.cp(self.remote("b"), "c").ok()
        self.assertEqual(self.read("c"), data)
        self.assertEqual(self.mode("c"), 0o750)
        self.assertEqual(sorted(os.listdir(self.dir)), ["a", "c"])

    def test_empty_file(self):
        self.write("empty", b"")
        self.cp("empty", self.remote()).ok()
        self.cp(self.remote("empty"), "back").ok()
        self.assertEqual(self.read("back"), b"")

    def test_standard_streams(self):
        data = os.urandom(200000)
        self.cp("-", self.remote("s"), stdin=data).ok()
        self.assertEqual(self.cp(self.remote("s"), "-").ok().out, data)

    def test_relative_path_starts_at_home(self):
        self.write("f", b"home")
        self.cp("f", f"{self.s.id}:").ok()
        self.assertEqual(self.s.sh("cat /home/user/f; rm /home/user/f"), "home")

    def test_into_existing_directories_the_name_is_kept(self):
        self.write("name", b"1")
        self.cp("name", self.remote()).ok()
        os.mkdir(os.path.join(self.dir, "d"))
        self.cp(self.remote("name"), "d").ok()
        self.assertEqual(self.read("d/name"), b"1")

    def test_odd_names(self):
        name = "a b&c=d?e#f%41\u00e9'\""
        self.write(name, b"odd")
        self.cp("./" + name, self.remote()).ok()
        self.assertEqual(self.s.sh(f"ls {self.there}"), name + "\n")
        self.cp(self.remote(name), "back").ok()
        self.assertEqual(self.read("back"), b"odd")

    def test_pseudo_files_are_read_to_their_end(self):
        self.assertIn(b"processor", self.cp(f"{self.s.id}:/proc/cpuinfo", "-").ok().out)

    def test_as_root(self):
        self.write("f", b"r")
        self.w.cli("cp", "-u", "root", "f", f"{self.s.id}:/root/f", cwd=self.dir).ok()
        self.assertEqual(self.s.sh("stat -c %U /root/f; rm /root/f", user="root"), "root\n")

    def test_json(self):
        self.write("f", b"12345")
        r = self.w.cli("cp", "-o", "json", "f", self.remote(), cwd=self.dir).ok()
        self.assertEqual(r.json(), {"files": 1, "bytes": 5})


class Directories(Copy):
    def tree(self):
        self.write("t/file", b"1")
        self.write("t/run.sh", b"#!/bin/sh\necho ran\n", 0o755)
        self.write("t/deep/er/secret", b"2", 0o600)
        os.mkdir(os.path.join(self.dir, "t/empty"))
        os.symlink("file", os.path.join(self.dir, "t/link"))
        os.symlink("/nowhere", os.path.join(self.dir, "t/dangling"))
        os.symlink("deep", os.path.join(self.dir, "t/dirlink"))

    def test_there_and_back(self):
        self.tree()
        r = self.cp("t", self.remote("t")).ok()
        for skipped in ("dangling", "dirlink"):
            self.assertIn(skipped, r.errors)
        listing = self.s.sh(f"cd {self.there}/t && find . -printf '%p %y %m\\n' | sort")
        self.assertEqual(listing, ". d 755\n./deep d 755\n./deep/er d 755\n"
                         "./deep/er/secret f 600\n./empty d 755\n./file f 644\n"
                         "./link f 644\n./run.sh f 755\n")
        self.assertEqual(self.s.sh(f"{self.there}/t/run.sh"), "ran\n")
        self.cp(self.remote("t"), "back").ok()
        self.assertEqual(self.read("back/deep/er/secret"), b"2")
        self.assertEqual(self.mode("back/deep/er/secret"), 0o600)
        self.assertEqual(self.mode("back/run.sh"), 0o755)
        self.assertEqual(sorted(os.listdir(os.path.join(self.dir, "back"))),
                         ["deep", "empty", "file", "link", "run.sh"])

    def test_into_an_existing_one(self):
        self.write("t/file", b"1")
        self.cp("t", self.remote()).ok()
        self.assertEqual(self.s.sh(f"cat {self.there}/t/file"), "1")
        os.mkdir(os.path.join(self.dir, "here"))
        self.cp(self.remote("t"), "here").ok()
        self.assertEqual(self.read("here/t/file"), b"1")

    def test_links_of_the_guest_lead_nowhere(self):
        outside = os.path.join(self.dir, "outside")
        os.mkdir(outside)
        self.s.sh(f"mkdir -p {self.there}/x && cd {self.there}/x && ln -s {outside} out && "
                  "ln -s /etc/hostname name && mkfifo pipe")
        r = self.cp(self.remote("x"), "x").ok()
        self.assertIn("out", r.errors)
        self.assertEqual(os.listdir(os.path.join(self.dir, "x")), ["name"])
        self.assertFalse(os.path.islink(os.path.join(self.dir, "x/name")))
        self.assertEqual(os.listdir(outside), [])


class Failures(Copy):
    def test_what_is_not_there(self):
        self.assertEqual(self.cp("none", self.remote()).code, 4)
        self.assertEqual(self.cp(self.remote("none"), "x").code, 4)
        self.assertEqual(os.listdir(self.dir), [])
        self.write("f")
        self.assertEqual(self.cp("f", "i" + "0" * 20 + ":f").code, 4)

    def test_directory_in_the_way(self):
        self.assertEqual(self.cp("-", f"{self.s.id}:/tmp", stdin=b"x").code, 2)
        self.assertEqual(self.cp(f"{self.s.id}:/tmp", "-").code, 2)

    def test_full_disk_is_said_and_leaves_no_part(self):
        self.s.sh("fallocate -l $(( ($(df --output=avail / | tail -1) - 8192) * 1024 )) /filler",
                  user="root")
        try:
            self.write("big", bytes(40 << 20))
            r = self.cp("big", self.remote("big"))
            self.assertEqual(r.code, 6, r.errors)
            self.assertEqual(self.s.sh(f"ls {self.there}"), "")
            self.s.alive()
        finally:
            self.s.sh("rm -f /filler", user="root")

    def test_interrupted_download_leaves_no_part(self):
        self.s.sh(f"truncate -s 20G {self.there}/huge")
        p = self.w.popen("cp", self.remote("huge"), os.path.join(self.dir, "huge"),
                         stderr=subprocess.DEVNULL)
        lib.wait_until("it has begun", lambda: os.listdir(self.dir))
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(20), 130)
        self.assertEqual(os.listdir(self.dir), [])

    def test_interrupted_upload_leaves_no_part(self):
        with open(os.path.join(self.dir, "huge"), "wb") as f:
            f.truncate(1500 << 20)
        p = self.w.popen("cp", os.path.join(self.dir, "huge"), self.remote("huge"),
                         stderr=subprocess.DEVNULL)
        lib.wait_until("it has begun", lambda: self.s.sh(f"ls {self.there}") == "huge\n")
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(30), 130)
        self.assertEqual(self.s.sh(f"ls {self.there}"), "")
