# SPDX-License-Identifier: Apache-2.0
"""Every command that a document shows: blocks marked ```sh tested are run, of all others each
command and option must exist."""
import glob
import os
import re
import shlex
import subprocess
import tempfile
import unittest

import lib

BLOCK = re.compile(r"^```sh( tested)?\n(.*?)^```", re.M | re.S)


def documents():
    found = [os.path.join(lib.ROOT, name) for name in
             ("README.md", "CONTRIBUTING.md", "SECURITY.md", "bench/README.md",
              "examples/README.md")]
    return [f for f in found + sorted(glob.glob(os.path.join(lib.ROOT, "docs/*.md")))
            if os.path.exists(f)]


def blocks():
    for path in documents():
        with open(path) as f:
            text = f.read()
        for m in BLOCK.finditer(text):
            line = text.count("\n", 0, m.start()) + 1
            yield f"{os.path.relpath(path, lib.ROOT)}:{line}", bool(m.group(1)), m.group(2)


def commands(text):
    """Simple commands of a block, one list of words each; $(...) counts as commands of its own."""
    text = re.sub(r"\\\n", " ", text)
    for inner in re.findall(r"\$\(([^()]*)\)", text):
        yield from commands(inner)
    text = re.sub(r"(^|\s)#.*$", "", text, flags=re.M)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|;&<>()\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|;&()\n"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def run_block(w, text):
    """With the programs in lib.BUILD, in a directory of its own."""
    with tempfile.TemporaryDirectory(dir=w.dir) as d:
        env = w.env({"PATH": lib.BUILD + ":" + os.environ["PATH"], "STASIS_API_KEY": w.key(),
                     "STASIS_RUN": w.run, "STASIS_SOURCE": lib.ROOT})
        done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=d, env=env,
                              capture_output=True, timeout=300, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr).decode()


def command_line(*words):
    return subprocess.run([lib.STASIS, *words], capture_output=True, check=True).stdout.decode()


class Manual(unittest.TestCase):
    """stasis.1 has every command, with every option that is not one of all."""

    COMMON = {"help", "output", "url", "api-key", "api-key-file", "client-timeout", "verbose", "quiet", "format", "no-headers"}

    def setUp(self):
        with open(os.path.join(lib.ROOT, "docs/man/stasis.1")) as f:
            self.text = f.read()
        self.names = [line[2:20].strip() for line in command_line("help").splitlines()
                      if line.startswith("  ")]

    def entry(self, name):
        """The heading that has this command, with what it says below it."""
        for entry in re.split(r"(?m)^\.It ", self.text)[1:]:
            if re.search(rf"(^|, )Cm {re.escape(name)}( |,|$)", entry.splitlines()[0]):
                return re.split(r"(?m)^\.El", entry)[0]
        return self.fail(f"stasis {name} is not in the man page")

    def test_commands(self):
        self.assertGreater(len(self.names), 25)
        for name in self.names:
            self.entry(name)

    def test_options_of_sandbox_and_server_commands(self):
        machine = command_line("help").index("This machine:")
        for name in self.names:
            if f"  {name} " in command_line("help")[machine:]:
                continue  # of these the man page has the main ones
            entry = self.entry(name)
            if name == "run":  # says: options of create
                entry += self.entry("create")
            options = re.findall(r"(?m)^  (?:-(\w), |    )--([\w-]+)", command_line("help", *name.split()))
            for letter, word in options:
                with self.subTest(command=name, option=word):
                    if word not in self.COMMON:
                        self.assertRegex(entry, rf"Fl (-{word}\b|\w*{letter or '-'}\w*)")

    def test_examples_are_commands(self):
        for line in re.findall(r"(?m)^(?:id=\$\()?stasis (.*?)\)?$",
                               self.text[self.text.index(".Sh EXAMPLES"):]):
            name = line.split(" -")[0].split(" $")[0].split()
            command_line("help", *(name[:2] if " ".join(name[:2]) in self.names else name[:1]))


class Documents(unittest.TestCase):
    def help_of(self, words):
        for n in (2, 1):
            r = subprocess.run([lib.STASIS, "help", *words[:n]], capture_output=True, check=False)
            if r.returncode == 0:
                return r.stdout.decode()
        self.fail(f"no such command: stasis {' '.join(words)}")

    def check_stasis(self, words):
        if "--" in words:
            words = words[:words.index("--")]
        if words[0] in ("help", "--help", "--version"):
            return
        known = self.help_of(words)
        for option in (w.split("=")[0] for w in words if re.match(r"--?[a-z]", w)):
            letters = option[1:] if not option.startswith("--") else None
            for name in [f"-{c}, " for c in letters] if letters else [option + " ", option + "\n"]:
                if name in known or (not letters and option in known.split()):
                    break
            else:
                self.fail(f"{option}: not an option of stasis {' '.join(words)}")

    def test_commands_exist(self):
        with open(os.path.join(lib.ROOT, "Makefile")) as f:
            text = f.read().replace("\\\n", " ")
        targets = re.search(r"^\.PHONY:(.*)$", text, re.M).group(1).split()
        seen = 0
        for where, _, text in blocks():
            for words in commands(text):
                while words and re.match(r"[A-Za-z_]+=", words[0]):
                    words = words[1:]
                with self.subTest(where=where, words=" ".join(words)):
                    if words[:1] in (["sudo"], ["time"]):
                        words = words[1:]
                    if words[:1] == ["stasis"]:
                        self.check_stasis(words[1:])
                        seen += 1
                    elif words[:1] == ["make"]:
                        for target in words[1:]:
                            self.assertTrue("=" in target or target in targets, target)
                        seen += 1
                    elif words[:1] and words[0].startswith(("build/", "bench/", "scripts/",
                                                            "tests/")):
                        path = os.path.join(lib.BUILD if words[0].startswith("build/") else lib.ROOT,
                                            words[0].removeprefix("build/"))
                        self.assertTrue(os.access(path, os.X_OK), words[0])
                        seen += 1
        self.assertGreater(seen, 10)

    def test_marked_blocks_run(self):
        w = lib.world()
        run = 0
        for where, marked, text in blocks():
            if not marked:
                continue
            with self.subTest(where=where):
                run_block(w, text)
                run += 1
        self.assertGreater(run, 2)
