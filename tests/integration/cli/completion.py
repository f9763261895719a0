#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""completion.py STASIS: what is offered for a command line, and the scripts in real shells, which run
the line that they completed: the played server sees what it became."""
import os
import pty
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import played  # noqa: E402
from played import ID  # noqa: E402

STASIS = os.path.abspath(sys.argv[1])
SANDBOX = {"id": ID, "name": "web", "template": "base", "state": "running", "cause": None,
           "url": "http://{port}-x", "metadata": {}}
ROUTES = {
    "GET /v1/sandboxes": (200, {"sandboxes": [
        SANDBOX, {**SANDBOX, "id": "i" + "z" * 20, "name": None}], "next_cursor": None}),
    "GET /v1/sandboxes/web": (200, SANDBOX),
    "GET /v1/snapshots": (200, {"snapshots": [{"name": "warm", "parent": "base"}]}),
    "GET /v1/snapshots/warm": (200, {"name": "warm"}),
    "GET /v1/templates": (200, {"templates": [{"name": "base", "kind": "base"},
                                              {"name": "warm", "kind": "snapshot"}]}),
    "GET /v1/keys": (200, {"keys": [{"id": "k17", "name": "c\n:i", "prefix": "e2b_1"}]}),
    "DELETE /v1/keys/k17": (204, b""),
}


class Case(unittest.TestCase):
    def setUp(self):
        self.s = played.Server(STASIS, ROUTES)
        self.addCleanup(self.s.close)

    def offered(self, *words):
        """Candidates and directives."""
        done = self.s.run("completion", "words", "--", *words)
        self.assertEqual(done.stderr, "")
        return [line.split("\t")[0] for line in done.stdout.splitlines()]


class Words(Case):
    def commands(self):
        return [line[2:20].strip() for line in self.s.out("help").splitlines()
                if line.startswith("  ")]

    def test_every_command(self):
        first = {c.split()[0] for c in self.commands()} | {"help"}
        offered = self.offered("")
        self.assertEqual(sorted(offered), sorted(first))
        self.assertEqual(self.offered("help", "")[:3], offered[1:4])
        for c in self.commands():
            words = c.split()
            self.assertIn(words[-1], self.offered(*words[:-1], words[-1][:-1]))
        self.assertEqual(self.offered("snapshot", ""), ["create", "ls", "get", "check", "rewarm", "share", "unshare", "rm"])
        self.assertEqual(self.offered("nosuch", "x", ""), [])

    def test_every_option_of_every_command(self):
        for c in self.commands():
            text = self.s.out("help", *c.split())
            options = re.findall(r"(?m)^  (?:-\w, |    )(--[\w-]+)", text)
            self.assertGreater(len(options), 0)
            self.assertEqual(self.offered(*c.split(), "--"), options, c)

    def test_what_a_candidate_is(self):
        text = self.s.out("completion", "words", "--", "ex")
        self.assertEqual(text, "exec\trun a command in a sandbox\n")
        self.assertEqual(self.s.out("completion", "words", "--", "key", "rm", ""),
                         "k17\tc?:i, e2b_1\n")
        self.assertEqual(self.s.out("completion", "words", "--", "get", "w"),
                         "web\tbase, running\n")

    def test_values(self):
        for words, values in (
                (["create", "--on-timeout", ""], ["kill", "pause"]),
                (["create", "--on-timeout=p"], ["--on-timeout=pause"]),
                (["ls", "--state", "st"], ["stopping", "stopped"]),
                (["ls", "--state", "un"], ["unreachable"]),
                (["ls", "--state=running,pa"],
                 ["--state=running,pausing", "--state=running,paused"]),
                (["ls", "-o", "j"], ["json"]), (["ls", "-qo", "j"], ["json"]),
                (["serve", "--role", "h"], ["host"]),
                (["db", "backup", ""], ["control", "host"]),
                (["db", "backup", "host", ""], [":files"]),
                (["serve", "--config", ""], [":files"]), (["completion", ""], ["bash", "zsh", "fish"]),
                (["create", "--template", ""], ["base", "warm"]), (["image", "build", ""], ["base"]),
                (["snapshot", "get", ""], ["warm"]), (["key", "rm", ""], ["k17"]),
                (["create", "--vcpus", ""], []), (["create", ""], [])):
            self.assertEqual(self.offered(*words), values, words)

    def test_ids_and_names(self):
        both = ["web", ID, "i" + "z" * 20]
        for words in (["get", ""], ["rm", "web", ""], ["exec", "-it", ""], ["events", "--sandbox", ""],
                      ["set", "--metadata", "a=b", ""], ["timeout", ""], ["port", "-o", "json", ""],
                      ["snapshot", "create", ""]):
            self.assertEqual(self.offered(*words), both, words)
        self.assertEqual(self.offered("cp", "w"), ["web:", ":nospace", ":files"])
        self.assertEqual(self.offered("cp", "file", "w"), ["web:", ":nospace", ":files"])
        self.assertEqual(self.offered("cp", "web:/tm"), [])

    def test_the_guests_command_is_not_ours(self):
        self.assertEqual(self.offered("exec", "web", ""), ["--"])
        self.assertEqual(self.offered("run", "--rm", ""), ["--"])
        for words in (["exec", "web", "--", "w"], ["exec", "web", "--", "ls", "--"],
                      ["run", "--", "x", "-"]):
            self.assertEqual(self.offered(*words), [], words)

    def test_server_of_the_line(self):
        self.s.env["STASIS_URL"] = f"http://127.0.0.1:{played.free_port()}"
        self.assertEqual(self.offered("get", ""), [])
        for words in (["get", "--url", self.s.url, "w"], ["get", f"--url={self.s.url}", "w"]):
            self.assertEqual(self.offered(*words), ["web"])

    def test_server_that_does_not_answer(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            self.s.env["STASIS_URL"] = f"http://127.0.0.1:{silent.getsockname()[1]}"
            self.assertEqual(self.offered("get", ""), [])
        self.s.env["STASIS_URL"] = "not a url"
        self.assertEqual(self.offered("get", ""), [])
        self.assertEqual(self.offered("create", "--on-timeout", "k"), ["kill"])

    def test_usage(self):
        for args in ([], ["tcsh"], ["bash", "x"]):
            self.s.run("completion", *args, code=2)


class Shell(Case):
    """Types lines into a shell on a terminal."""
    LINES = (  # typed, and what the server is asked then
        ("stasis get w\t\n", "GET /v1/sandboxes/web", {}),
        ("stasis snap\tg\tw\t\n", "GET /v1/snapshots/warm", {}),
        ("stasis key rm \t\n", "DELETE /v1/keys/k17", {}),
        ("stasis ls --sta\trun\t\n", "GET /v1/sandboxes", {"state": "running"}),
        ("stasis ls --state=pause\t\n", "GET /v1/sandboxes", {"state": "paused"}),
        ("stasis ls --state=running,resu\t\n", "GET /v1/sandboxes", {"state": "running,resuming"}),
        ("stasis cp we\tx y\n", None, {}),  # "web:x y"
    )

    def type_lines(self, command, first, lines=LINES, env=None):
        with tempfile.TemporaryDirectory() as home:
            os.symlink(STASIS, os.path.join(home, "stasis"))
            master, slave = pty.openpty()
            shell = subprocess.Popen(
                command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, cwd=home,
                env={**self.s.env, "HOME": home, "TERM": "dumb", **(env or {}),
                     "PATH": home + ":" + self.s.env["PATH"]})
            os.close(slave)
            seen = []
            reader = threading.Thread(target=self.read_all, args=(master, seen))
            reader.start()
            try:
                os.write(master, first.encode())
                for typed, asked, query in lines:
                    with self.subTest(typed=typed):
                        self.s.asked.clear()
                        os.write(master, typed.encode())
                        if asked is None:
                            self.s.wait_for(lambda r: r.path == "/v1/sandboxes/web", seen)
                            continue
                        self.s.wait_for(lambda r: f"{r.method} {r.path}" == asked and
                                        query.items() <= r.query.items(), seen)
            finally:
                shell.kill()
                shell.wait()
                reader.join()
                os.close(master)

    @staticmethod
    def read_all(fd, seen):
        try:
            while data := os.read(fd, 4096):
                seen.append(data)
        except OSError:  # EIO: the shell is gone
            pass

    @unittest.skipUnless(shutil.which("bash"), "bash is not installed")
    def test_bash(self):
        self.type_lines(["bash", "--norc", "--noprofile", "-i"],
                        "bind 'set bell-style none'; source <(stasis completion bash)\n")

    @unittest.skipUnless(shutil.which("bash"), "bash is not installed")
    def test_bash_completes_files(self):
        """Beside sandboxes, and where only files fit."""
        script = r'''
            compopt() { echo "compopt $*"; }
            source <("$1" completion bash)
            cd "$(mktemp -d)" && touch weather
            try() { COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=($1) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
                    _stasis; printf "%s\n" "${COMPREPLY[@]}" --; }
            try "$1 cp we"; try "$1 serve --config we"
            rm weather; rmdir "$PWD"'''
        done = subprocess.run(["bash", "--norc", "-c", script, "bash", STASIS], env=self.s.env,
                              capture_output=True, text=True, timeout=60, check=True)
        self.assertEqual(done.stdout.split("\n"), [
            "compopt -o nospace", "web:", "weather", "--", "compopt -o default", "--", ""])
        self.assertEqual(done.stderr, "")

    @unittest.skipUnless(shutil.which("zsh"), "zsh is not installed")
    def test_zsh(self):
        self.type_lines(["zsh", "-f", "-i"],
                        "autoload -Uz compinit; compinit -u -D; source <(stasis completion zsh)\n")

    @unittest.skipUnless(shutil.which("zsh"), "zsh is not installed")
    def test_zsh_from_fpath(self):
        with tempfile.TemporaryDirectory() as d:
            with open(os.path.join(d, "_stasis"), "w") as f:
                f.write(self.s.out("completion", "zsh"))
            self.type_lines(["zsh", "-f", "-i"], f"fpath=({d} $fpath); autoload -Uz compinit; "
                            "compinit -u -D\n", self.LINES[:1])

    @unittest.skipUnless(shutil.which("fish"), "fish is not installed")
    def test_fish(self):
        with tempfile.TemporaryDirectory() as home:
            os.symlink(STASIS, os.path.join(home, "stasis"))
            env = {**self.s.env, "HOME": home, "PATH": home + ":" + self.s.env["PATH"]}
            for line, found in (("get w", ["web\tbase, running"]),
                                ("ex", ["exec\trun a command in a sandbox"]),
                                ("ls --state=pau", ["--state=pausing\tstate", "--state=paused\tstate"]),
                                ("", None)):
                done = subprocess.run(
                    ["fish", "--no-config", "-c", "stasis completion fish | source; "
                     f"complete -C 'stasis {line}'"], env=env, capture_output=True, text=True,
                    timeout=60, check=True)
                self.assertEqual(done.stderr, "")
                lines = done.stdout.splitlines()
                if found is None:
                    self.assertIn("ls\tlist sandboxes", lines)
                else:
                    self.assertEqual(sorted(lines), sorted(found))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
