# SPDX-License-Identifier: Apache-2.0
import hashlib
import os
import re
import shlex
import signal
import subprocess
import threading
import time
import unittest

import lib


class Stream(unittest.TestCase):
    """stasis exec, through the edge."""

    def setUp(self):
        self.s = lib.shared()
        self.w = self.s.world

    def exec(self, *args, options=(), **kw):
        return self.w.cli("exec", self.s.id, *options, "--", *args, **kw)

    def test_exit_code_is_the_programs(self):
        for code in (0, 1, 7, 255):
            self.assertEqual(self.exec("bash", "-c", f"exit {code}").code, code)

    def test_signal_is_128_and_its_number(self):
        self.assertEqual(self.exec("bash", "-c", "kill -KILL $$").code, 137)
        self.assertEqual(self.exec("bash", "-c", "kill -SEGV $$").code, 139)

    def test_streams_stay_apart(self):
        r = self.exec("bash", "-c", "echo out; echo err >&2; exit 3")
        self.assertEqual((r.out, r.err, r.code), (b"out\n", b"err\n", 3))

    def test_arguments_arrive_as_they_are(self):
        args = ["", " a  b ", "$HOME", "*", "'\"", "\u00e9", "-x"]
        r = self.exec("python3", "-c", "import sys; print(sys.argv[1:])", *args).ok()
        self.assertEqual(r.text, repr(args) + "\n")

    def test_user_and_home(self):
        r = self.exec("bash", "-c", "id -un; pwd; echo $HOME").ok()
        self.assertEqual(r.text, "user\n/home/user\n/home/user\n")
        r = self.exec("id", "-u", options=["-u", "root"]).ok()
        self.assertEqual(r.text, "0\n")
        self.assertNotEqual(self.exec("true", options=["-u", "nobody-there"]).code, 0)

    def test_environment_and_directory(self):
        r = self.exec("bash", "-c", "echo $A $FROM_CREATE $PWD",
                      options=["-e", "A=x=y", "-w", "/tmp"]).ok()
        self.assertEqual(r.text, "x=y yes /tmp\n")

    def test_binary_input_and_output(self):
        data = os.urandom(300000)
        r = self.exec("cat", options=["-i"], stdin=data).ok()
        self.assertEqual(hashlib.sha256(r.out).digest(), hashlib.sha256(data).digest())

    def test_end_of_input_is_seen(self):
        r = self.exec("wc", "-c", options=["-i"], stdin=b"12345").ok()
        self.assertEqual(r.text.strip(), "5")

    def test_without_i_input_is_empty(self):
        r = self.exec("cat", stdin=b"not sent").ok()
        self.assertEqual(r.out, b"")

    def test_large_output(self):
        r = self.exec("bash", "-c", "head -c 20000000 /dev/zero | tr '\\0' x").ok()
        self.assertEqual(len(r.out), 20000000)
        self.assertEqual(r.out.strip(b"x"), b"")

    def test_time_out_kills(self):
        r = self.exec("sleep", "777", options=["--timeout", "1s"])
        self.assertEqual(r.code, 8, r.errors)
        self.assertEqual(self.s.run("pgrep -f 'sleep 77[7]'")["exit_code"], 1)

    def test_ends_with_the_program(self):
        """Not with its output, which a child in the background holds; that goes on."""
        for script, options in (("sleep 781 & echo up", []), ("sleep 781 & echo up", ["-i"]),
                                ("setsid sleep 781 >/dev/null & echo up", [])):
            began = time.monotonic()
            r = self.exec("sh", "-c", script, options=options, stdin=b"").ok()
            self.assertEqual(r.out, b"up\n")
            self.assertLess(time.monotonic() - began, 300)
            self.assertEqual(self.s.run("pkill -f '[s]leep 781'")["exit_code"], 0)

        # Nor with its input's.
        p = self.w.popen("exec", self.s.id, "-i", "--", "sh", "-c", "sleep 781 & echo up",
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.assertEqual((p.stdout.read(), p.wait(300)), (b"up\n", 0))
        p.stdin.close()
        p.stdout.close()
        self.s.run("pkill -f '[s]leep 781'")

    def test_nothing_is_lost_at_the_end(self):
        r = self.exec("sh", "-c", "sleep 782 & head -c 10000000 /dev/zero; echo end >&2").ok()
        self.s.run("pkill -f '[s]leep 782'")
        self.assertEqual((len(r.out), r.err), (10000000, b"end\n"))

    def test_missing_program_and_what_cannot_run(self):
        """As of a shell."""
        for form in ((), ("-o", "json")):
            for program, code in (("no-such-program", 127), ("/no/such", 127),
                                  ("/etc/passwd/x", 127), ("/etc/passwd", 126), ("/etc", 126)):
                r = self.exec(program, options=form)
                self.assertEqual((r.code, r.text), (code, ""), r.errors)
                self.assertIn(program, r.errors)

    def test_missing_directory(self):
        r = self.exec("true", options=["-w", "/no/such/dir"])
        self.assertEqual(r.code, 2)
        self.assertIn("/no/such/dir", r.errors)

    def test_output_comes_while_it_runs(self):
        p = self.w.popen("exec", self.s.id, "-i", "--", "bash", "-c",
                         "echo first; read x; echo got $x",
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.assertEqual(p.stdout.readline(), b"first\n")
        out, _ = p.communicate(b"second\n", timeout=30)
        self.assertEqual((out, p.returncode), (b"got second\n", 0))

    def test_interrupt_ends_the_program_over_there(self):
        p = self.w.popen("exec", self.s.id, "--", "bash", "-c", "echo up; exec sleep 778",
                         stdout=subprocess.PIPE)
        p.stdout.readline()
        p.send_signal(signal.SIGINT)
        self.assertEqual(p.wait(20), 130)
        p.stdout.close()
        self.assertEqual(self.s.run("pgrep -f 'sleep 77[8]'")["exit_code"], 1)

    def test_closed_output_ends_the_program_over_there(self):
        p = self.w.popen("exec", self.s.id, "--", "bash", "-c", "exec yes 779",
                         stdout=subprocess.PIPE)
        p.stdout.readline()
        p.stdout.close()
        self.assertEqual(p.wait(20), 141)
        lib.wait_until("yes is gone",
                       lambda: self.s.run("pgrep -f 'yes 77[9]'")["exit_code"] == 1, 10)

    def test_json_is_the_apis_answer(self):
        r = self.exec("bash", "-c", "echo hi; exit 4", options=["-o", "json"])
        self.assertEqual(r.code, 4)
        self.assertEqual((r.json()["stdout"], r.json()["exit_code"]), ("hi\n", 4))

    def test_unknown_sandbox(self):
        self.assertEqual(self.w.cli("exec", "i" + "0" * 20, "--", "true").code, 4)


class Buffered(unittest.TestCase):
    """POST /v1/sandboxes/{id}/exec."""

    def setUp(self):
        self.s = lib.shared()

    def post(self, **body):
        return self.s.world.api("POST", f"/v1/sandboxes/{self.s.id}/exec", body)

    def test_shell_and_program(self):
        self.assertEqual(self.s.sh("echo $((1 + 1))"), "2\n")
        a = self.post(args=["/bin/echo", "$HOME"]).json()
        self.assertEqual((a["stdout"], a["exit_code"], a["signal"]), ("$HOME\n", 0, None))

    def test_binary_is_base64_and_text_is_not(self):
        a = self.s.run("printf '\\xff\\x00\\xfe'; printf t >&2")
        self.assertEqual((a["stdout"], a["stdout_encoding"]), (lib.b64(b"\xff\0\xfe"), "base64"))
        self.assertEqual((a["stderr"], a["stderr_encoding"]), ("t", "utf8"))
        a = self.s.run("printf t", encoding="base64")
        self.assertEqual((a["stdout"], a["stdout_encoding"]), (lib.b64(b"t"), "base64"))

    def test_text_is_utf8(self):
        """Characters are whole in commands, and so is what they write; a locale of one's own wins."""
        a = self.s.run("printf é | wc -m; echo café | sed 's/.$/X/'; python3 -c 'print(\"é\", "
                       "__import__(\"sys\").stdout.encoding)'; echo ${LC_ALL-none}")
        self.assertEqual((a["stdout"], a["stdout_encoding"]), ("1\ncafX\né utf-8\nnone\n", "utf8"))
        self.assertEqual(self.s.sh("echo $LANG", env={"LANG": "C"}), "C\n")
        a = self.post(args=["locale", "charmap"]).json()
        self.assertEqual((a["stdout"], a["stderr"]), ("UTF-8\n", ""))
        a = self.post(cmd="mkdir -p /tmp/ü/日本; cd /tmp/ü; ls; echo $B", env={"B": "ß"},
                      cwd="/tmp").json()
        self.assertEqual(a["stdout"], "日本\nß\n" if a["exit_code"] == 0 else None, a)
        self.assertEqual(self.s.sh("pwd", cwd="/tmp/ü/日本"), "/tmp/ü/日本\n")
        # Cut in the middle of a character by the limit: a whole one less, and text all the same.
        a = self.s.run("printf x; yes é | tr -d '\\n' | head -c 9000000")
        self.assertEqual((a["stdout_encoding"], a["truncated"]), ("utf8", True))
        self.assertEqual(len(a["stdout"].encode()), (8 << 20) - 1)

    def test_the_loopback_is_what_its_names_promise(self):
        """::1 too, and nothing of IPv6 leads out or waits."""
        a = self.s.run("""python3 - <<'END'
import socket, time
for host in ("127.0.0.1", "::1", "localhost", "ip6-localhost", socket.gethostname()):
    family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.create_server(address[:2], family=family) as s:
        socket.create_connection((host, s.getsockname()[1]), 10).close()
with socket.create_server(("::", 0), family=socket.AF_INET6) as s:
    socket.create_connection(("::1", s.getsockname()[1]), 10).close()
print(sorted({a[4][0] for a in socket.getaddrinfo("localhost", 0)}))
try:
    socket.create_connection(("2001:db8::1", 80), 60)
except OSError as e:
    print(e.strerror)
END""")
        self.assertEqual(a["stdout"], "['127.0.0.1', '::1']\nNetwork is unreachable\n", a)
        self.assertEqual(self.s.sh("hostname -f; sudo -n true 2>&1"), self.s.id + "\n")

    def test_input(self):
        data = bytes(range(256))
        a = self.s.run("cat", stdin=lib.b64(data))
        self.assertEqual(a["stdout"], lib.b64(data))

    def test_signal(self):
        a = self.s.run("kill -KILL $$")
        self.assertEqual((a["exit_code"], a["signal"]), (-1, "killed"))

    def test_too_much_output_is_cut(self):
        a = self.s.run("head -c 9000000 /dev/zero | tr '\\0' y")
        self.assertTrue(a["truncated"])
        self.assertEqual(len(a["stdout"]), 8 << 20)
        self.assertFalse(self.s.run("true")["truncated"])

    def test_time_out(self):
        began = time.monotonic()
        a = self.post(cmd="sleep 780", timeout_sec=1)
        self.assertEqual((a.status, a.error()), (504, "timeout"))
        self.assertLess(time.monotonic() - began, 15)
        self.assertEqual(self.s.run("pgrep -f 'sleep 78[0]'")["exit_code"], 1)

    def test_time_out_tells_what_was_written_and_kills_the_group(self):
        for limit in (2, 20, 120):  # a busy machine may not come to the output
            a = self.post(args=["sh", "-c", "sleep 783 & setsid sh -c '>/tmp/apart; exec sleep 784' & "
                                "echo one; until [ -e /tmp/apart ]; do sleep 0.1; done; "
                                "echo two >&2; sleep 783"], timeout_sec=limit)
            details = a.json()["error"]["details"]
            if details["stderr"]:
                break
        self.assertIn("was killed", a.json()["error"]["message"])
        self.assertEqual((details["stdout"], details["stderr"], details["exit_code"],
                          details["process"]), ("one\n", "two\n", None, "killed"))
        lib.wait_until("its group is gone",
                       lambda: self.s.run("pgrep -f 'sleep 78[3]'")["exit_code"] == 1, 10)
        self.assertEqual(self.s.run("rm /tmp/apart; pkill -f 'sleep 78[4]'")["exit_code"], 0)

    def test_a_server_in_the_background(self):
        """The answer comes with the shell's end; the server goes on, and can write on."""
        a = self.post(cmd="(while sleep 0.1; do echo line >&2; echo >>/tmp/lines; done) & echo up",
                      timeout_sec=30)
        self.assertEqual(a.status, 200, a.body)
        a = a.json()
        self.assertEqual((a["exit_code"], a["stdout"], a["output_open"]), (0, "up\n", True))
        # Each is a line on the standard error that nobody reads any more.
        lines = int(self.s.sh("wc -l </tmp/lines"))
        lib.wait_until("it writes on",
                       lambda: int(self.s.sh("wc -l </tmp/lines")) > lines + 2)
        self.s.run("pkill -f 'echo [l]ine'")
        for cmd in ("yes >&2 & echo up", "exec 3>&1; (sleep 785 >&3 &) ; echo up",
                    "(setsid -f sleep 785); echo up"):
            a = self.s.run(cmd, timeout_sec=30)
            self.assertEqual((a["exit_code"], a["stdout"]), (0, "up\n"), cmd)
        self.s.run("pkill yes; pkill -f 'sleep 78[5]'")

    def test_missing_program(self):
        for program, reason in (("no-such-program", "no_program"), ("/etc", "cannot_run")):
            a = self.post(args=[program])
            self.assertEqual((a.status, a.error()), (400, "invalid"))
            self.assertEqual(a.json()["error"]["reason"], reason)
        self.assertNotIn("reason", self.post(args=["true"], cwd="/no/such").json()["error"])

    def test_cwd_env_user(self):
        self.assertEqual(self.s.sh("pwd; echo $X; id -un", cwd="/tmp", env={"X": "y"},
                                   user="root"), "/tmp\ny\nroot\n")


class Meanwhile(unittest.TestCase):
    """What happens to the sandbox under a command is told in the sandbox's words."""

    def begin(self, s):
        """A command by each way; what each will have said."""
        def buffered():
            told["rest"] = s.world.api("POST", f"/v1/sandboxes/{s.id}/exec",
                                       {"cmd": "echo so far; exec sleep 787"})

        told = {}
        thread = threading.Thread(target=buffered)
        thread.start()
        cli = s.world.popen("exec", s.id, "--", "sh", "-c", "echo up; exec sleep 788",
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        cli.stdout.readline()
        lib.wait_until("it runs", lambda: s.run("pgrep -x sleep")["stdout"].count("\n") == 2)

        def end():
            thread.join()
            _, error = cli.communicate(timeout=60)
            a = told["rest"]
            for text in (a.body.decode(), error.decode()):
                for word in ("Recv", "Send", "transfer", "outstanding", "curl", "abort"):
                    self.assertNotIn(word, text)
            self.assertEqual((a.status, a.error(), a.json()["error"]["details"]["stdout"]),
                             (409, "conflict", "so far\n"), a.body)
            return a.json()["error"], error.decode(), cli.returncode

        return end

    def test_pause_rollback_and_destroy(self):
        s = lib.world().create()
        self.addCleanup(s.delete)
        end = self.begin(s)
        s.pause()
        error, said, code = end()
        pid = error["details"]["pid"]
        self.assertEqual(error["message"], f"the sandbox was paused: the command (pid {pid}) goes on "
                         "in it when it is resumed")
        self.assertEqual(error["details"]["process"], "running")
        self.assertRegex(said, r"^stasis: the sandbox was paused: the command \(pid \d+\) goes on in "
                         r"it when it is resumed\n$")
        self.assertEqual(code, 5)
        s.resume()
        self.assertEqual(s.sh(f"cat /proc/{pid}/comm"), "sleep\n")
        s.sh("grep -q '^0*1 .* lo$' /proc/net/if_inet6")  # still there after a resume
        s.sh("pkill -x sleep")
        s.snapshot("meanwhile")
        self.addCleanup(lambda: s.world.api("DELETE", "/v1/snapshots/meanwhile"))
        end = self.begin(s)
        s.resume(**{"from": "meanwhile"})
        error, said, code = end()
        self.assertIn("went back to a snapshot", error["message"])
        self.assertEqual(error["details"]["process"], "gone")
        self.assertIn("went back to a snapshot", said)
        self.assertEqual(code, 5)
        end = self.begin(s)
        s.delete()
        error, said, code = end()
        self.assertIn("was destroyed (killed)", error["message"])
        self.assertEqual((error["cause"], error["details"]["process"]), ("killed", "gone"))
        self.assertIn("was destroyed (killed)", said)
        self.assertEqual(code, 5)

    def test_time_out_of_the_sandbox(self):
        for kind, text, code in (("pause", "the sandbox was paused: ", 5),
                                 ("kill", "the sandbox ended (timeout): ", 8)):
            s = lib.world().create(on_timeout=kind)
            self.addCleanup(s.delete)
            end = self.begin(s)
            s.ok(s.world.api("POST", f"/v1/sandboxes/{s.id}/timeout", {"timeout_sec": 1}))
            error, said, got = end()
            self.assertIn(text, error["message"])
            self.assertIn(text, said)
            self.assertEqual(got, code)

    def test_crash(self):
        s = lib.world().create()
        self.addCleanup(s.delete)
        end = self.begin(s)
        os.kill(lib.vmm_of(s.world, s)[-1], signal.SIGKILL)
        error, said, code = end()
        self.assertRegex(error["message"], r"the sandbox ended \((vmm_crash|shim_lost|pager_lost)\)")
        self.assertIn("the sandbox ended (", said)
        self.assertEqual(code, 5)


class Memory(unittest.TestCase):
    """Programs that the guest's kernel kills for lack of memory."""

    EAT = lib.EAT
    MB = 256

    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        cls.s = cls.w.create(memory_mb=cls.MB)

    @classmethod
    def tearDownClass(cls):
        cls.s.delete()

    def post(self, s=None, **body):
        a = self.w.api("POST", f"/v1/sandboxes/{(s or self.s).id}/exec", body)
        self.assertEqual(a.status, 200, a.body)
        return a.json()

    def why(self, s=None):
        return self.w.cli("why", (s or self.s).id, "-o", "json").ok().json()

    def told(self, s=None):
        """Kills that the events tell of."""
        events = self.w.api("GET", f"/v1/events?sandbox={(s or self.s).id}&limit=100").json()
        return [e for e in events["events"] if e["kind"] == "oom"]

    def check(self, kill, cgroup=None):
        self.assertEqual((kill["process"], kill["cgroup"], kill["count"]), ("python3", cgroup, 1))
        if not cgroup:
            self.assertGreater(kill["rss_bytes"], self.MB << 19)
            self.assertLess(kill["rss_bytes"], kill["memory_bytes"])
        self.assertLess(kill["memory_bytes"], self.MB << 20)
        self.assertRegex(kill["at"], r"^20..-..-..T..:..:..")

    def test_everybody_is_told(self):
        before = self.why()["oom"]["kills"]
        a = self.post(args=self.EAT)
        self.assertEqual((a["exit_code"], a["signal"]), (-1, "killed"))
        self.check(a["oom_killed"])
        self.assertEqual(a["oom_killed"]["pid"], a["pid"])
        why = self.why()
        self.assertEqual(why["oom"]["kills"], before + 1)
        self.assertIn("--memory", why["advice"])
        lib.wait_until("an event of it", lambda: any(
            k["pid"] == a["pid"] for e in self.told() for k in e["data"]["kills"]), 120)
        self.assertEqual(self.told()[-1]["cause"], "guest_memory")
        self.assertEqual(self.told()[-1]["data"]["memory_mb"], self.MB)
        metrics = self.w.api("GET", "/v1/metrics").body.decode()
        count = re.search(r"(?m)^stasis_host_guest_oom_kills_total (\d+)$", metrics)
        self.assertGreaterEqual(int(count[1]), 1)
        text = self.w.cli("why", self.s.id).ok().text
        self.assertRegex(text, r"python3 \(\d+\) had \d+(\.\d+)? MiB of 256 MiB")

    def test_the_command_line_says_so(self):
        r = self.w.cli("exec", self.s.id, "--", *self.EAT)
        self.assertEqual(r.code, 137)
        self.assertRegex(r.errors, r"(?m)^stasis: killed by the guest's kernel: out of memory "
                         r"\(python3 had \d+(\.\d+)? MiB of the sandbox's 256 MiB\); "
                         r"give it more with: stasis create --memory 1024$")

    def test_what_a_program_started(self):
        # In a session of its own, and with an end that does not tell.
        a = self.post(cmd=f"setsid {shlex.join(self.EAT)}; exit 0")
        self.assertEqual(a["exit_code"], 0)
        self.check(a["oom_killed"])
        a = self.post(cmd=f"{shlex.join(self.EAT)} & wait $!")
        self.assertEqual(a["exit_code"], 137)
        self.check(a["oom_killed"])

    def test_a_cgroup_that_is_full(self):
        box = "/sys/fs/cgroup/box"
        self.s.sh(f"echo +memory > /sys/fs/cgroup/cgroup.subtree_control; mkdir -p {box}; "
                  f"echo 30M > {box}/memory.max", user="root")
        a = self.post(cmd=f"echo $$ > {box}/cgroup.procs; exec {shlex.join(self.EAT)}", user="root")
        self.assertEqual(a["signal"], "killed")
        self.check(a["oom_killed"], "/box")
        self.assertIn("cgroup", self.why()["advice"])

    def test_others_that_are_killed(self):
        before = self.why()["oom"]["kills"]
        self.assertIsNone(self.s.run("kill -KILL $$")["oom_killed"])
        self.assertIsNone(self.s.run("exit 137")["oom_killed"])
        # The log of the guest's kernel is root's to write, but not in the kernel's name.
        for level in ("", "<3>", "<0>", "<11>"):
            self.s.sh(f"echo '{level}Out of memory: Killed process '$$' (forged) total-vm:9kB, "
                      "anon-rss:9kB, file-rss:0kB, shmem-rss:0kB, UID:0' > /dev/kmsg", user="root")
        a = self.s.run("echo '<3>Out of memory: Killed process '$$' (forged) total-vm:9kB, anon-rss:"
                       "9kB' > /dev/kmsg; kill -KILL $$", user="root")
        self.assertIsNone(a["oom_killed"])
        self.assertEqual(self.why()["oom"]["kills"], before)
        # What is not the agent's to others goes through no edge.
        self.assertEqual(self.s.edge("POST", "/oom", body={}).status, 404)

    def test_over_a_pause_and_in_copies(self):
        self.check(self.post(args=self.EAT)["oom_killed"])
        before = self.why()["oom"]["kills"]
        self.s.pause()
        # What is to be told is told before, since the copies of a snapshot would tell it as theirs.
        self.assertEqual(sum(e["data"]["count"] for e in self.told()), before)
        self.assertEqual(self.why()["oom"]["kills"], before)
        self.s.resume(timeout_sec=3600)
        child = self.s.fork(1)[0]
        try:
            self.assertEqual(self.why(child)["oom"]["kills"], 0)
            self.check(self.post(child, args=self.EAT)["oom_killed"])
            self.assertEqual(self.why(child)["oom"]["kills"], 1)
            self.assertEqual(self.why()["oom"]["kills"], before)
        finally:
            child.delete()
        self.check(self.post(args=self.EAT)["oom_killed"])
        self.assertEqual(self.why()["oom"]["kills"], before + 1)
