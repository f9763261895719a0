#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""cp.py STASIS: what cp makes of a guest that lies, goes away, or is older."""
import io
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import played  # noqa: E402
from played import ID  # noqa: E402

STASIS = sys.argv[1]
SANDBOX = {"id": ID, "name": "web", "state": "running", "envd_token": "t", "cause": None}


def archive(*members):
    """Of (name, content) or (name, type, link)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        for name, *what in members:
            info = tarfile.TarInfo(name)
            info.mode = 0o6755
            if len(what) == 1:
                info.size = len(what[0])
                t.addfile(info, io.BytesIO(what[0]))
            else:
                info.type, info.linkname = what
                t.addfile(info)
    return out.getvalue()


def cut(body, length=None):
    """Sends body and ends the connection; without a length, in the middle of a chunked stream."""
    def send(request):
        h = request.handler
        h.send_response(200)
        h.send_header("Content-Type", "application/x-tar")
        if length:
            h.send_header("Content-Length", str(length))
        else:
            h.send_header("Transfer-Encoding", "chunked")
        h.end_headers()
        h.wfile.write(body if length else b"%x\r\n%s\r\n" % (len(body), body))
        h.wfile.flush()
        h.close_connection = True
        return False
    return send


class Case(unittest.TestCase):
    one_dir = False  # all servers of a test copy to the same

    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.dir)

    def serve(self, **routes):
        """tar and raw: answers of the two calls."""
        if not self.one_dir:
            self.setUp()
        table = {f"GET /v1/sandboxes/{ID}": (200, SANDBOX)}
        for name, answer in routes.items():
            method, path = name.split("_")
            table[f"{method.upper()} /files{'/tar' if path == 'tar' else ''}"] = answer
        s = played.Server(STASIS, table)
        self.addCleanup(s.close)
        return s

    def here(self, *names):
        return os.path.join(self.dir, *names)

    def save(self, name, text="old"):
        with open(self.here(name), "w") as f:
            f.write(text)

    def read(self, name):
        with open(self.here(name)) as f:
            return f.read()


class Hostile(Case):
    def test_it_gets_the_name_that_was_asked_for(self):
        s = self.serve(get_tar=(200, archive((".bashrc", b"x"))))
        s.run("cp", f"{ID}:/tmp/x", self.dir)
        s.run("cp", f"{ID}:/tmp/x", self.here("y"))
        self.assertEqual(sorted(os.listdir(self.dir)), ["x", "y"])
        self.assertEqual(stat.S_IMODE(os.stat(self.here("x")).st_mode), 0o755)

    def test_more_than_was_asked_for(self):
        for more in ([("x", b"1"), (".bashrc", b"bad")], [("x", b"1"), ("x", b"2")],
                     [("x", tarfile.DIRTYPE, ""), ("y/z", b"bad")], [("x", tarfile.SYMTYPE, "/etc"), ("x/y", b"bad")],
                     [("x", tarfile.SYMTYPE, "."), (".bashrc", b"bad")]):
            s = self.serve(get_tar=(200, archive(*more)))
            s.run("cp", f"{ID}:/tmp/x", self.dir, code=2)
            self.assertLessEqual(set(os.listdir(self.dir)), {"x"})
            if os.path.isdir(self.here("x")) and not os.path.islink(self.here("x")):
                self.assertEqual(os.listdir(self.here("x")), [])

    def test_paths_that_lead_elsewhere(self):
        outside = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, outside)
        with open(f"{outside}/secret", "w") as f:
            f.write("safe")
        top = ("x", tarfile.DIRTYPE, "")
        for bad in ([("../out", b"bad")], [top, ("x/../../out", b"bad")], [(outside + "/new", b"bad")],
                    [top, ("x/l", tarfile.SYMTYPE, outside), ("x/l/new", b"bad")],
                    [top, ("x/l", tarfile.SYMTYPE, outside), ("x/l", tarfile.DIRTYPE, ""), ("x/l/new", b"bad")],
                    [top, ("x/l", tarfile.SYMTYPE, outside), ("x/h", tarfile.LNKTYPE, "x/l/secret")],
                    [top, ("x/h", tarfile.LNKTYPE, outside + "/secret"), ("x/h", b"bad")],
                    [top, ("x/h", tarfile.LNKTYPE, "../" * 20 + outside + "/secret"), ("x/h", b"bad")],
                    [top, ("x/" + "n" * 300, b"bad")]):
            s = self.serve(get_tar=(200, archive(*bad)))
            done = s.run("cp", f"{ID}:/tmp/x", self.dir, code=None)
            self.assertIn(done.returncode, (2, 4, 5), done.stderr)
            self.assertEqual(os.listdir(outside), ["secret"])
            with open(f"{outside}/secret") as f:
                self.assertEqual(f.read(), "safe")
            self.assertEqual(os.stat(f"{outside}/secret").st_nlink, 1)

    def test_a_link_of_its_own_is_replaced_not_followed(self):
        s = self.serve(get_tar=(200, archive(("x", tarfile.DIRTYPE, ""), ("x/l", tarfile.SYMTYPE, "/etc/none"),
                                             ("x/l", b"mine"))))
        s.run("cp", f"{ID}:/tmp/x", self.dir)
        self.assertEqual(self.read("x/l"), "mine")

    def bait(self):
        """A directory and a file of this machine's that links lead to."""
        outside = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, outside)
        os.makedirs(f"{outside}/dir")
        for name in ("secret", "dir/secret"):
            with open(f"{outside}/{name}", "w") as f:
                f.write("safe")
        return outside

    def bait_is_safe(self, outside, *args):
        found = sorted(os.path.join(d, f)[len(outside) + 1:] for d, _, files in os.walk(outside) for f in files)
        self.assertEqual(found, ["dir/secret", "secret"], args)
        for name in found:
            with open(f"{outside}/{name}") as f:
                self.assertEqual(f.read(), "safe", args)

    def test_a_link_from_an_earlier_copy_is_replaced_by_a_file(self):
        self.one_dir, outside = True, self.bait()
        link = self.serve(get_tar=(200, archive(("x", tarfile.SYMTYPE, outside + "/secret"))))
        file = self.serve(get_tar=(200, archive(("x", b"from the guest"))))
        for to in (self.dir, self.here("x"), self.dir + "/", self.here(".", "x")):
            link.run("cp", f"{ID}:/tmp/x", to)
            self.assertTrue(os.path.islink(self.here("x")))
            file.run("cp", f"{ID}:/tmp/x", to)
            self.bait_is_safe(outside, to)
            self.assertFalse(os.path.islink(self.here("x")))
            self.assertEqual(self.read("x"), "from the guest")
        # Neither to a pipe that a link leads to.
        os.mkfifo(self.here("pipe"))
        os.unlink(self.here("x"))
        for target in ("pipe", "/dev/null", "/dev/stdout"):
            os.symlink(target, self.here("x"))
            file.run("cp", f"{ID}:/tmp/x", self.here("x"))
            self.assertFalse(os.path.islink(self.here("x")))
            self.assertEqual(self.read("x"), "from the guest")
            os.unlink(self.here("x"))

    def test_a_link_from_an_earlier_copy_is_no_directory_to_copy_to(self):
        self.one_dir, outside = True, self.bait()
        link = self.serve(get_tar=(200, archive(("results", tarfile.SYMTYPE, outside + "/dir"))))
        link.run("cp", f"{ID}:results", self.here("results"))
        content = (("results", tarfile.DIRTYPE, ""), ("results/secret", b"bad"), ("results/new", b"bad"))
        for source, members in (("results/.", content), ("results", content), ("results/", content),
                                ("secret", (("secret", b"bad"),)), (".", content)):
            s = self.serve(get_tar=(200, archive(*members)))
            for end in ("", "/", "/.", "//./"):
                to = self.here("results") + end
                done = s.run("cp", f"{ID}:{source}", to, code=5)
                self.assertIn("symbolic link", done.stderr)
                self.bait_is_safe(outside, source, to)
        # One that leads nowhere, or to a file.
        for target in (outside + "/none", outside + "/secret"):
            os.symlink(target, self.here("y"))
            s = self.serve(get_tar=(200, archive(*content)))
            s.run("cp", f"{ID}:results/.", self.here("y"), code=None)
            self.bait_is_safe(outside, target)
            os.unlink(self.here("y"))

    def test_what_is_no_file_does_not_replace_a_pipe(self):
        for what in (("x", tarfile.SYMTYPE, "/etc/passwd"), ("x", tarfile.LNKTYPE, "x"), ("x", tarfile.DIRTYPE, "")):
            s = self.serve(get_tar=(200, archive(what)))
            os.mkfifo(self.here("pipe"))
            s.run("cp", f"{ID}:/tmp/x", self.here("pipe"), code=2)
            self.assertTrue(stat.S_ISFIFO(os.lstat(self.here("pipe")).st_mode))

    def test_the_guest_is_not_asked_for_a_name(self):
        entry = {"entry": {"name": ".ssh", "type": "FILE_TYPE_DIRECTORY", "path": "/home/.ssh"}}
        members = ((".ssh", tarfile.DIRTYPE, ""), (".ssh/authorized_keys", b"bad"))
        for source in ("", "~", "~/", "~//", "//", "/./"):
            s = self.serve(get_tar=(200, archive(*members)))
            s.routes["POST /filesystem.Filesystem/Stat"] = (200, entry)
            done = s.run("cp", f"{ID}:{source}", self.dir, code=2)
            self.assertIn("name one", done.stderr)
            self.assertEqual(os.listdir(self.dir), [], source)
        s.run("cp", f"{ID}:", self.here("home"))
        s.run("cp", f"{ID}:~/.", self.here("content"))
        for name in ("home", "content"):
            self.assertEqual(self.read(f"{name}/authorized_keys"), "bad")

    def test_devices_and_odd_names(self):
        s = self.serve(get_tar=(200, archive(("x", tarfile.DIRTYPE, ""), ("x/\x1b[2Jdev", tarfile.CHRTYPE, ""),
                                             ("x/\x1b]0;title\x07", b"1"))))
        done = s.run("cp", f"{ID}:/tmp/x", self.dir)
        self.assertNotIn("\x1b", done.stderr)
        self.assertIn("?[2Jdev", done.stderr)
        self.assertEqual(os.listdir(self.here("x")), ["\x1b]0;title\x07"])
        s = self.serve(get_tar=(200, archive(("x", tarfile.DIRTYPE, ""), ("x/../\x1b[2J", b"1"))))
        self.assertNotIn("\x1b", s.run("cp", f"{ID}:/tmp/x", self.dir, code=2).stderr)

    def test_no_archive(self):
        for body in (b"", b"\0" * 512, b"not one" * 1000):
            s = self.serve(get_tar=(200, body))
            self.save("x")
            s.run("cp", f"{ID}:/tmp/x", self.here("x"), code=7 if not body else 2)
            self.assertEqual((os.listdir(self.dir), self.read("x")), (["x"], "old"))

    def test_directories_that_were_there_keep_owner_and_mode(self):
        for source, at, members in (("d/.", ".", ("d", "d/sub", "d/new")), ("d", "d", ("d", "d/sub", "d/new")),
                                    ("d", ".", ("d", "d/sub", "d/new"))):
            s = self.serve(get_tar=(200, archive(*((name, tarfile.DIRTYPE, "") for name in members), ("d/f", b"1"))))
            kept = [self.here(at), self.here(at, "sub")]
            if source == "d" and at == ".":
                kept = [self.here("d"), self.here("d", "sub")]
            for path in kept:
                os.makedirs(path, exist_ok=True)
            for path in kept:
                os.chmod(path, 0o700)
                if os.geteuid() == 0:
                    os.chown(path, 1234, 1234)
            before = [os.stat(path) for path in kept]
            s.run("cp", "-a", f"{ID}:{source}", self.here(at) if source != "d" else self.dir)
            for path, was in zip(kept, before):
                now = os.stat(path)
                self.assertEqual((now.st_mode, now.st_uid, now.st_gid), (was.st_mode, was.st_uid, was.st_gid), path)
            self.assertEqual(stat.S_IMODE(os.stat(kept[0] + "/new").st_mode), 0o755)
        s.run("cp", "-a", f"{ID}:d/.", self.here("made"))
        self.assertEqual(stat.S_IMODE(os.stat(self.here("made/sub")).st_mode), 0o755)

    def interrupted(self, s, to, enough):
        p = s.popen("cp", f"{ID}:/tmp/x", to, stderr=subprocess.PIPE)
        written = 0
        while written < enough:
            self.assertIsNone(p.poll())
            with open(f"/proc/{p.pid}/io") as f:
                written = int(dict(line.split(": ") for line in f.read().splitlines())["wchar"])
        for _ in range(600):
            p.send_signal(signal.SIGINT)
            try:
                p.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                pass
        else:
            p.kill()
            p.wait()
        self.assertIn(b"interrupted", p.communicate()[1])
        self.assertEqual(p.returncode, 130)

    def test_a_hole_without_end_to_a_device_is_interrupted(self):
        for layout in (b"1\n%d\n0\n" % (15 << 40), b"2\n0\n0\n%d\n1\n" % ((15 << 40) - 1)):
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
                info = tarfile.TarInfo("x")
                body = layout.ljust(512, b"\0") + (b"" if layout.startswith(b"1") else b"z")
                info.size = len(body)
                info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x",
                                    "GNU.sparse.realsize": str(15 << 40)}
                t.addfile(info, io.BytesIO(body))
            s = self.serve(get_tar=(200, out.getvalue()))
            self.interrupted(s, "/dev/null", 1 << 28)
            os.mkfifo(self.here("pipe"))
            # Open at both ends, and nobody reads.
            fd = os.open(self.here("pipe"), os.O_RDWR)
            try:
                self.interrupted(s, self.here("pipe"), 65536)
            finally:
                os.close(fd)

    def test_without_an_end(self):
        piece = archive(("x", tarfile.DIRTYPE, ""))[:512]
        stop = threading.Event()

        def endless(request):
            h = request.handler
            h.send_response(200)
            h.end_headers()
            h.wfile.write(piece)
            for i in range(10**9):
                if stop.is_set():
                    break
                h.wfile.write(archive((f"x/{i}", b""))[:512])
            return False
        s = self.serve(get_tar=endless)
        try:
            p = s.popen("cp", f"{ID}:/tmp/x", self.dir, stderr=subprocess.PIPE)
            while not os.path.isdir(self.here("x")) or len(os.listdir(self.here("x"))) < 10:
                self.assertIsNone(p.poll())
            p.send_signal(signal.SIGINT)
            self.assertIn(b"interrupted", p.communicate(timeout=60)[1])
            self.assertEqual(p.returncode, 130)
        finally:
            stop.set()


class Cut(Case):
    def test_a_stream_that_ends_early(self):
        s = self.serve(get_raw=cut(b"1500\n", 4096))
        done = s.run("cp", f"{ID}:/sys/mtu", "-", code=7)
        self.assertEqual(done.stdout, "1500\n")
        self.assertIn("ended early", done.stderr)

    def test_an_archive_that_ends_early(self):
        whole = archive(("x", b"a" * 5000))
        for body in (whole[:100], whole[:3000], whole[:5500]):
            s = self.serve(get_tar=cut(body))
            for before in ([], ["x"]):
                done = s.run("cp", f"{ID}:/tmp/x", self.here("x"), code=7)
                self.assertIn("x ended early", done.stderr)
                self.assertEqual(os.listdir(self.dir), before)
                self.save("x")
            self.assertEqual(self.read("x"), "old")
            os.unlink(self.here("x"))

    def test_it_says_what_was_copied(self):
        s = self.serve(get_tar=cut(archive(("t", tarfile.DIRTYPE, ""), ("t/a", b"1"), ("t/b", b"2"), ("t/c", b"3"))[:3000]))
        done = s.run("cp", f"{ID}:t", self.here("t"), code=7)
        self.assertIn("files before it were copied", done.stderr)
        self.assertNotIn("c", os.listdir(self.here("t")))


class Older(Case):
    def older(self, **routes):
        missing = (404, {"code": 404, "message": "no such call: GET /files/tar"})
        return self.serve(get_tar=missing, post_tar=missing, **routes)

    def test_trees(self):
        s = self.older(get_raw=(400, {"code": 400, "message": "/home/user/t: is a directory"}))
        os.mkdir(self.here("dir"))
        os.symlink("dir", self.here("link"))
        for args in ((f"{ID}:t", self.here("t")), (f"{ID}:t/.", self.here("t")), (f"{ID}:t", self.here("t/")), (f"{ID}:", self.here("t")),
                     (self.here("dir"), f"{ID}:"), (self.here("link"), f"{ID}:"), (self.here("dir/."), f"{ID}:x")):
            done = s.run("cp", *args, code=2)
            self.assertIn("older than this command", done.stderr)
            self.assertIn("tar", done.stderr)
            self.assertIn("stasis image build base", done.stderr)
        self.assertEqual(sorted(os.listdir(self.dir)), ["dir", "link"])
        self.assertEqual({r.body for r in s.calls("POST")}, {b""})

    def test_a_file_out(self):
        s = self.older(get_raw=(200, ("application/octet-stream", b"content")))
        os.mkdir(self.here("dir"))
        self.save("old")
        os.chmod(self.here("old"), 0o600)
        for remote, to, name, asked in (("f", "", "f", "f"), ("/tmp/g", "x", "x", "/tmp/g"),
                                        ("~/h", "dir", "dir/h", "h"), ("f", "old", "old", "f")):
            done = s.run("cp", f"{ID}:{remote}", self.here(to))
            self.assertIn("older", done.stderr)
            self.assertEqual(self.read(name), "content")
            self.assertEqual(s.calls("GET")[-1].query["path"], asked)
        self.assertEqual(stat.S_IMODE(os.stat(self.here("old")).st_mode), 0o600)
        # Links and what fails are as of any other agent.
        self.save("secret")
        os.symlink("secret", self.here("l"))
        s.run("cp", f"{ID}:f", self.here("l"))
        self.assertEqual((self.read("secret"), self.read("l")), ("old", "content"))
        s = self.older(get_raw=(404, {"code": 404, "message": "/tmp/x: no such file or directory"}))
        self.assertIn("no such file", s.run("cp", f"{ID}:/tmp/x", self.here("new"), code=4).stderr)
        s = self.older(get_raw=cut(b"part", 4096))
        self.save("x")
        s.run("cp", f"{ID}:/tmp/x", self.here("x"), code=7)
        self.assertEqual((os.listdir(self.dir), self.read("x")), (["x"], "old"))

    def test_a_file_in(self):
        got = []

        def take(request):
            self.assertEqual(request.headers["Transfer-Encoding"], "chunked")
            body, f = b"", request.handler.rfile
            while n := int(f.readline(), 16):
                body += f.read(n)
                f.readline()
            f.readline()
            got.append((request.query["path"], body))
            return 200, {}
        agent = played.Agent()
        kinds = {"/tmp": "FILE_TYPE_DIRECTORY", "/tmp/old": "FILE_TYPE_FILE"}

        def look(request):
            path = request.json()["path"]
            if path not in kinds:
                return 404, {"code": "not_found", "message": f"{path}: no such file"}
            return 200, {"entry": {"type": kinds[path], "path": path}}
        s = self.older(post_raw=take)
        s.routes["POST /filesystem.Filesystem/Stat"] = look
        s.routes.update(agent.routes())
        self.save("f", "content")
        os.chmod(self.here("f"), 0o750)
        for remote, want in (("", "f"), ("~", "f"), ("~/", "f"), ("~/x", "x"), ("x/", "x/f"), ("/tmp", "/tmp/f"),
                             ("/tmp/old", "/tmp/old"), ("/tmp/new", "/tmp/new"), ("./", "./f")):
            s.run("cp", self.here("f"), f"{ID}:{remote}")
            self.assertEqual(got[-1], (want, b"content"), remote)
            self.assertEqual(agent.started["process"]["args"], ["750", "--", want])

    def test_what_is_not_there(self):
        s = self.serve(get_tar=(404, {"code": 404, "message": "/tmp/x: No such file or directory"}))
        for to in (self.here("new"), self.here("new/"), self.dir):
            done = s.run("cp", f"{ID}:/tmp/x/.", to, code=4)
            self.assertIn("No such file", done.stderr)
        self.assertEqual(os.listdir(self.dir), [])


unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
