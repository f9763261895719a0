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
        self.addCleanup(self.s.sh, f"rm -rf {self.there}", user="root")

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
        self.cp("/dev/stdin", self.remote("s"), stdin=b"by name").ok()
        self.write("f", b"a file")
        with open(os.path.join(self.dir, "f"), "rb") as f:
            self.assertEqual(self.w.popen("cp", "/dev/stdin", self.remote("f"), stdin=f).wait(60), 0)
        self.assertEqual(self.s.sh(f"cd {self.there} && cat s f; stat -c %F f"), "by namea fileregular file\n")

    def test_relative_path_starts_at_home(self):
        self.write("x.sh", b"#!/bin/sh\necho ran\n", 0o755)
        for place in ("", "~", "~/x.sh", "./"):
            self.cp("x.sh", f"{self.s.id}:{place}").ok()
            self.assertEqual(self.s.sh("stat -c %a:%U /home/user/x.sh; ~/x.sh; rm ~/x.sh"), "755:user\nran\n", place)
        self.s.sh("mkdir -m 700 sub && echo 1 >sub/f")
        try:
            for place in ("~/sub", "sub/"):
                self.cp(f"{self.s.id}:{place}", "d").ok()
                self.assertEqual(self.read("d/f"), b"1\n")
                self.assertEqual(self.mode("d"), 0o700)
                shutil.rmtree(os.path.join(self.dir, "d"))
        finally:
            self.s.sh("rm -r sub")
        self.assertEqual(self.cp("x.sh", f"{self.s.id}:~root/x").code, 2)
        self.assertEqual(self.cp(f"{self.s.id}:~root/x", "y").code, 2)

    def test_every_call_has_the_same_home(self):
        run = self.w.cli("exec", "-w", "~/", self.s.id, "--", "pwd").ok()
        self.assertEqual(run.text, "/home/user\n")
        self.s.sh("mkdir -p '/home/user/a b'")
        self.assertEqual(self.w.cli("exec", "-w", "~/a b", self.s.id, "--", "pwd").ok().text, "/home/user/a b\n")
        self.assertEqual(self.w.cli("exec", "-w", "~root", self.s.id, "--", "pwd").code, 2)
        self.s.sh("rmdir '/home/user/a b'")

    def test_into_existing_directories_the_name_is_kept(self):
        self.write("name", b"1")
        self.cp("name", self.remote()).ok()
        os.mkdir(os.path.join(self.dir, "d"))
        self.cp(self.remote("name"), "d").ok()
        self.assertEqual(self.read("d/name"), b"1")

    def test_odd_names(self):
        for name in ("a b&c=d?e#f%41\u00e9'\"", "-rf", "two\nlines:~"):
            self.write(name, b"odd", 0o751)
            self.cp("./" + name, self.remote()).ok()
            self.assertEqual(self.s.sh(f"cd {self.there} && ls -N"), name + "\n")
            self.cp(self.remote(name), "back").ok()
            self.assertEqual(self.read("back"), b"odd")
            self.assertEqual(self.mode("back"), 0o751)
            self.s.sh(f"rm -f {self.there}/*")

    def test_pseudo_files_are_read_to_their_end(self):
        self.assertIn(b"processor", self.cp(f"{self.s.id}:/proc/cpuinfo", "-").ok().out)
        # 4096 bytes by stat.
        self.assertEqual(self.cp(f"{self.s.id}:/sys/class/net/lo/mtu", "-").ok().out, b"65536\n")
        self.cp(f"{self.s.id}:/sys/class/net/lo/mtu", "mtu").ok()
        self.assertEqual(self.read("mtu"), b"65536\n")
        self.cp("/proc/self/status", self.remote("status")).ok()
        self.cp("/sys/kernel/mm/transparent_hugepage/enabled", self.remote("huge")).ok()
        self.assertIn("Name:", self.s.sh(f"head -1 {self.there}/status"))
        self.assertIn("never", self.s.sh(f"cat {self.there}/huge"))

    def test_pipes_and_devices_of_this_machine(self):
        os.mkfifo(os.path.join(self.dir, "pipe"))
        p = self.w.popen("cp", os.path.join(self.dir, "pipe"), self.remote("piped"), stderr=subprocess.DEVNULL)
        with open(os.path.join(self.dir, "pipe"), "wb") as f:
            f.write(b"through")
        self.assertEqual(p.wait(60), 0)
        self.assertEqual(self.s.sh(f"cat {self.there}/piped"), "through")
        self.cp(self.remote("piped"), "/dev/null").ok()
        self.assertTrue(stat.S_ISCHR(os.stat("/dev/null").st_mode))
        self.assertEqual(self.cp(self.remote("piped"), "/dev/stdout").ok().out, b"through")

    def test_sparse_stays_sparse(self):
        with open(os.path.join(self.dir, "holes"), "wb") as f:
            f.truncate(64 << 20)
            f.seek(20 << 20)
            f.write(b"in the middle")
        self.cp("holes", self.remote()).ok()
        size, blocks = map(int, self.s.sh(f"stat -c '%s %b' {self.there}/holes").split())
        self.assertEqual(size, 64 << 20)
        self.assertLess(blocks, 2048)
        self.cp(self.remote("holes"), "back").ok()
        st = os.stat(os.path.join(self.dir, "back"))
        self.assertEqual(st.st_size, 64 << 20)
        self.assertLess(st.st_blocks, 2048)
        self.assertEqual(self.read("back"), self.read("holes"))

    def test_archive_keeps_owner_and_times(self):
        self.write("t/f", b"1")
        os.chown(os.path.join(self.dir, "t/f"), 1234, 5678)
        os.chmod(os.path.join(self.dir, "t/f"), 0o4751)
        for path in ("t/f", "t"):
            os.utime(os.path.join(self.dir, path), ns=(0, 1234567890123456789))
        self.w.cli("cp", "-a", "t", self.remote(), cwd=self.dir).ok()
        self.assertEqual(self.s.sh(f"cd {self.there}; stat -c '%a %u %g %.9Y' t/f; stat -c %.9Y t", user="root"),
                         "4751 1234 5678 1234567890.123456789\n1234567890.123456789\n")
        self.w.cli("cp", "-a", self.remote("t"), "back", cwd=self.dir).ok()
        st = os.stat(os.path.join(self.dir, "back/f"))
        self.assertEqual((st.st_uid, st.st_gid, st.st_mtime_ns), (1234, 5678, 1234567890123456789))
        self.assertEqual(self.mode("back/f"), 0o751)  # no program of a guest gets rights here
        self.assertEqual(os.stat(os.path.join(self.dir, "back")).st_mtime_ns, 1234567890123456789)

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
        os.mkfifo(os.path.join(self.dir, "t/pipe"))
        os.link(os.path.join(self.dir, "t/file"), os.path.join(self.dir, "t/same"))
        r = self.cp("t", self.remote("t")).ok()
        self.assertIn("t/pipe: skipped: a pipe", r.errors)
        listing = self.s.sh(f"cd {self.there}/t && find . -printf '%p %y %m %n %l\\n' | sort")
        self.assertEqual(listing, ". d 755 4 \n./dangling l 777 1 /nowhere\n./deep d 755 3 \n./deep/er d 755 2 \n"
                         "./deep/er/secret f 600 1 \n./dirlink l 777 1 deep\n./empty d 755 2 \n./file f 644 2 \n"
                         "./link l 777 1 file\n./run.sh f 755 1 \n./same f 644 2 \n")
        self.assertEqual(self.s.sh(f"{self.there}/t/run.sh"), "ran\n")
        self.s.sh(f"mkfifo {self.there}/t/other")
        r = self.cp(self.remote("t"), "back").ok()
        self.assertIn("other: skipped: a pipe", r.errors)
        self.assertEqual(self.read("back/deep/er/secret"), b"2")
        self.assertEqual(self.mode("back/deep/er/secret"), 0o600)
        self.assertEqual(self.mode("back/run.sh"), 0o755)
        self.assertEqual(sorted(os.listdir(os.path.join(self.dir, "back"))),
                         ["dangling", "deep", "dirlink", "empty", "file", "link", "run.sh", "same"])
        for name, target in (("dangling", "/nowhere"), ("dirlink", "deep"), ("link", "file")):
            self.assertEqual(os.readlink(os.path.join(self.dir, "back", name)), target)
        self.assertTrue(os.path.samefile(os.path.join(self.dir, "back/file"), os.path.join(self.dir, "back/same")))

    def test_links_are_followed_where_asked(self):
        self.tree()
        os.symlink("..", os.path.join(self.dir, "t/deep/up"))
        r = self.w.cli("cp", "-L", "t", self.remote("t"), cwd=self.dir).ok()
        self.assertIn("t/dangling: skipped: a link that leads to no file", r.errors)
        self.assertIn("t/deep/up: skipped: a link back", r.errors)
        self.assertEqual(self.s.sh(f"cd {self.there}/t && find . -type l; cat link dirlink/er/secret"), "12")
        self.s.sh(f"cd {self.there} && rm -rf t && mkdir t && echo 1 >f && ln -s ../f t/l")
        self.w.cli("cp", "-L", self.remote("t"), "back", cwd=self.dir).ok()
        self.assertEqual(self.read("back/l"), b"1\n")
        self.assertFalse(os.path.islink(os.path.join(self.dir, "back/l")))

    def test_names_of_directories_as_docker_has_them(self):
        self.write("t/f", b"1")
        for src, dst, want in (("t", "new", "new/f"), ("t/", "new", "new/t/f"), ("t/.", "new", "new/f"),
                               ("t/.", "other", "other/f"), ("t", "made/", "made/t/f")):
            self.cp(src, self.remote(dst)).ok()
            self.assertEqual(self.s.sh(f"cd {self.there} && cat {want} && rm {want}"), "1", (src, dst))
        self.s.sh(f"cd {self.there} && rm -rf * && mkdir t && echo -n 1 >t/f")
        for src, dst, want in (("t", "new", "new/f"), ("t/", "new", "new/t/f"), ("t/.", "new", "new/f"),
                               ("t/.", "other", "other/f")):
            self.cp(self.remote(src), dst).ok()
            self.assertEqual(self.read(want), b"1", (src, dst))
            os.unlink(os.path.join(self.dir, want))
        self.write("file", b"x")
        self.assertEqual(self.cp("t", self.remote("t/f")).code, 5)
        self.assertEqual(self.cp(self.remote("t"), "file").code, 5)
        self.assertEqual(self.cp(self.remote("t/f"), "none/").code, 2)
        self.assertEqual(self.read("file"), b"x")
        self.assertEqual(self.s.sh(f"cat {self.there}/t/f"), "1")

    def test_what_was_there_is_merged(self):
        self.s.sh(f"mkdir -m 750 {self.there}/t && echo old >{self.there}/t/kept && echo old >{self.there}/t/f")
        self.write("t/f", b"new")
        self.cp("t/.", self.remote("t")).ok()
        self.assertEqual(self.s.sh(f"cd {self.there}/t && stat -c %a . && cat kept f"), "750\nold\nnew")

    def test_into_an_existing_one(self):
        self.write("t/file", b"1")
        self.cp("t", self.remote()).ok()
        self.assertEqual(self.s.sh(f"cat {self.there}/t/file"), "1")
        os.mkdir(os.path.join(self.dir, "here"))
        self.cp(self.remote("t"), "here").ok()
        self.assertEqual(self.read("here/t/file"), b"1")

    def test_links_of_the_guest_are_not_followed_here(self):
        outside = os.path.join(self.dir, "outside")
        os.mkdir(outside)
        self.s.sh(f"mkdir -p {self.there}/x/out && cd {self.there}/x && echo 1 >out/f && ln -s /etc/hostname name")
        os.mkdir(os.path.join(self.dir, "x"))
        os.symlink(outside, os.path.join(self.dir, "x/out"))
        self.assertEqual(self.cp(self.remote("x/."), "x").code, 5)
        self.assertEqual(os.listdir(outside), [])
        os.unlink(os.path.join(self.dir, "x/out"))
        self.cp(self.remote("x/."), "x").ok()
        self.assertEqual(os.readlink(os.path.join(self.dir, "x/name")), "/etc/hostname")

    def test_a_link_that_a_copy_brought_is_not_written_through(self):
        self.write("secret", b"safe")
        os.mkdir(os.path.join(self.dir, "outside"))
        self.s.sh(f"cd {self.there} && ln -s {self.dir}/secret report && ln -s {self.dir}/outside results")
        self.cp(self.remote("report"), ".").ok()
        self.cp(self.remote("results"), "results").ok()
        self.s.sh(f"cd {self.there} && rm report results && echo bad >report && mkdir results && echo bad >results/f")
        for to in (".", "report"):
            self.cp(self.remote("report"), to).ok()
            self.assertEqual((self.read("secret"), self.read("report")), (b"safe", b"bad\n"))
        for source in ("results/.", "results"):
            r = self.cp(self.remote(source), "results")
            self.assertIn("symbolic link", r.errors)
            self.assertEqual((r.code, os.listdir(os.path.join(self.dir, "outside"))), (5, []))

    def test_the_guest_names_nothing_here(self):
        for home in ("", "~", "~/"):
            r = self.cp(f"{self.s.id}:{home}", ".")
            self.assertIn("name one", r.errors)
            self.assertEqual((r.code, os.listdir(self.dir)), (2, []))


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
            self.write("big", os.urandom(1 << 20) * 40)
            self.s.sh(f"echo old >{self.there}/old")
            for name in ("big", "old"):
                r = self.cp("big", self.remote(name))
                self.assertEqual(r.code, 6, r.errors)
                self.assertIn("no space left", r.errors)
                self.assertEqual(self.s.sh(f"ls -A {self.there}; cat {self.there}/old"), "old\nold\n")
            self.s.alive()
        finally:
            self.s.sh("rm -f /filler", user="root")

    def test_a_file_that_ends_early(self):
        self.s.sh(f"dd if=/dev/zero of={self.there}/f bs=1M count=64 status=none")
        p = self.w.popen("cp", self.remote("f"), "-", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        p.stdout.read(1 << 20)
        self.s.sh(f"truncate -s 1M {self.there}/f")
        self.assertLess(len(p.stdout.read()), 63 << 20)
        self.assertIn(b"ended early", p.stderr.read())
        self.assertEqual(p.wait(60), 7)

    def interrupted(self, src, dst, begun, **kw):
        p = self.w.popen("cp", src, dst, stderr=subprocess.DEVNULL, **kw)
        lib.wait_until("it has begun", lambda: begun(p))
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(60), 130)

    def has_written(self, folder):
        """A download of ours is under way: a file without a name is open below folder."""
        def look(p):
            for fd in os.listdir(f"/proc/{p.pid}/fd"):
                try:
                    path = f"/proc/{p.pid}/fd/{fd}"
                    if os.readlink(path).startswith(folder + "/") and os.stat(path).st_size > 1 << 20:
                        return True
                except FileNotFoundError:
                    pass
            return False
        return look

    def test_interrupted_download_leaves_what_was_there(self):
        self.s.sh(f"dd if=/dev/zero of={self.there}/huge bs=1M count=200 status=none")
        for before in ([], ["huge"]):
            self.interrupted(self.remote("huge"), os.path.join(self.dir, "huge"), self.has_written(self.dir))
            self.assertEqual(os.listdir(self.dir), before)
            if before:
                self.assertEqual(self.read("huge"), b"old")
            self.write("huge", b"old")

    def test_interrupted_upload_leaves_what_was_there(self):
        data, used = os.urandom(1 << 20), f"df --output=used -m {self.there} | tail -1"
        with open(os.path.join(self.dir, "huge"), "wb") as f:
            for _ in range(200):
                f.write(data)
        self.s.sh(f"seq 1000 >{self.there}/keep")
        for name in ("keep", "new"):
            before = int(self.s.sh(used))
            self.interrupted(os.path.join(self.dir, "huge"), self.remote(name),
                             lambda p: int(self.s.sh(used)) > before + 4)
            self.assertEqual(self.s.sh(f"cd {self.there} && ls -A && wc -c <keep"), "keep\n3893\n")
        # What comes from a pipe is not known to be whole before its end.
        source = subprocess.Popen(["sh", "-c", "head -c 3000000 /dev/zero; exec sleep 100"], stdout=subprocess.PIPE)
        try:
            before = int(self.s.sh(used))
            self.interrupted("-", self.remote("keep"), lambda p: int(self.s.sh(used)) > before + 1,
                             stdin=source.stdout)
        finally:
            source.kill()
            source.wait()
            source.stdout.close()
        self.assertEqual(self.s.sh(f"cd {self.there} && ls -A && wc -c <keep"), "keep\n3893\n")
