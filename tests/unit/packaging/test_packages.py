#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""packaging/installed has all that the programs look for, and packaging/debian-packages.txt all that
they are linked with and run: test_packages.py SOURCE BUILD."""
import os
import re
import shutil
import subprocess
import sys
import unittest

SOURCE, BUILD = sys.argv[1:3]
# What any Debian that builds has: not named by a package's Build-Depends.
ESSENTIAL = {"gcc", "libc6-dev", "linux-libc-dev", "ninja-build"}


def read(path):
    with open(os.path.join(SOURCE, path)) as f:
        return f.read()


def lines(path):
    return [line for line in read(path).splitlines() if line.strip() and not line.startswith("#")]


def section(name):
    found, inside = set(), False
    for line in lines("packaging/debian-packages.txt"):
        if line.startswith("["):
            inside = line == f"[{name}]"
        elif inside:
            found.add(line)
    return found


INSTALLED = [line.split() for line in lines("packaging/installed")]


def output(*command):
    return subprocess.run(command, check=False, capture_output=True).stdout.decode()


def packages_of(paths):
    """The Debian packages of files, by their Debian 12 names. dpkg may know a file by its name before
    /lib became a link."""
    names = {path: (path, os.path.realpath(path), path.removeprefix("/usr"), "/usr" + path) for path in paths}
    said = output("dpkg", "-S", *{name for all_names in names.values() for name in all_names})
    owners = {name: package.removesuffix("t64")
              for package, name in re.findall(r"(?m)^([a-z0-9.+-]+)(?::\w+)?: (/\S+)$", said)}
    return {path: next((owners[name] for name in names[path] if name in owners), None) for path in names}


def programs_that_are_run():
    """Of other packages, as (name, who runs it). In the rooms of the host: a path of a program, or a
    name at the head of a list of arguments or of doctor's. In the scripts: each word at the head of
    a command."""
    for top, _, names in os.walk(os.path.join(SOURCE, "src")):
        room = os.path.relpath(top, os.path.join(SOURCE, "src")).split(os.sep)[0]
        for name in names:
            if not name.endswith((".c", ".h")) or room in ("envd", "guestinit", "agentclient"):
                continue
            text = read(os.path.join(top, name))
            for pattern in (r'"(?:/usr)?/s?bin/([\w.-]+)"', r'\{\s*"([a-z][\w.-]+)",\s*"-',
                            r'find_program\("([\w.-]+)"'):
                yield from ((found, f"src/{room}/{name}") for found in re.findall(pattern, text))
    for name in os.listdir(os.path.join(SOURCE, "images")):
        text = re.sub(r"(?m)(^|\s)#.*|\\\n", "", read(os.path.join("images", name)))
        for found in re.findall(r"(?m)(?:^|[|;&]|\{ |(?<!\()\((?!\()|"
                                r"\b(?:if|then|else|do|while|until|need|isolated|xargs)\s)\s*"
                                r"(?=([a-z][\w.-]*)(?![\w.(-]|\s*[-+]?=))", text):
            yield found, "images/" + name


def always_there():
    """The packages of any Debian."""
    lines = output("dpkg-query", "-W", "-f", "${Essential} ${Priority} ${Package}\n").splitlines()
    return {line.split()[-1] for line in lines if line.startswith("yes") or " required " in " " + line}


class Packages(unittest.TestCase):
    def test_list_has_what_the_programs_look_for(self):
        below = {os.path.join(to, os.path.basename(name)).removeprefix("libexec/stasis/")
                 for _, name, to in INSTALLED if to.startswith("libexec/stasis")}
        wanted = set()
        for top, _, names in os.walk(os.path.join(SOURCE, "src")):
            for name in names:
                if name.endswith(".c"):
                    text = read(os.path.join(top, name))
                    wanted.update(re.findall(r'paths_find\("([^"]+)"\)', text))
                    wanted.update(re.findall(r'find_file\([^;]*?"([^"]+)"', text))
        self.assertIn("stasis-pager", wanted)
        self.assertIn("images", wanted)
        for name in wanted:
            self.assertTrue(name in below or any(b.startswith(name + "/") for b in below), name)

    def test_list_has_all_scripts_manuals_and_units(self):
        listed = {name for _, name, _ in INSTALLED}
        for folder, pattern in (("images", r"."), ("docs/man", r"\.[1-9]$"),
                                ("packaging", r"\.(service|conf)$"), ("packaging/sysusers.d", r".")):
            for name in os.listdir(os.path.join(SOURCE, folder)):
                path = os.path.join(folder, name)
                if re.search(pattern, name) and os.path.isfile(os.path.join(SOURCE, path)):
                    self.assertIn(path, listed)

    def test_units_leave_the_run_directory_to_the_server(self):
        """It is of another group than the unit's: systemd would give all below it to root, at each start
        that finds a sandbox, or fail."""
        for unit in ("stasis", "stasis-host"):
            self.assertNotRegex(read(f"packaging/{unit}.service"), "(?m)^RuntimeDirectory")

    def test_run_time_packages_are_those_the_programs_are_linked_with(self):
        if not shutil.which("dpkg"):
            self.skipTest("needs dpkg")
        files = {}
        for how, name, _ in INSTALLED:
            path = os.path.join(BUILD, name)
            if how != "program":
                continue
            self.assertTrue(os.access(path, os.X_OK), path)
            where = dict(re.findall(r"^\s*(\S+) => (\S+) \(", output("ldd", path), re.M))
            for library in re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", path)):
                files.setdefault(where[library], f"{library} of {name}")
        needed = {package: files[path] for path, package in packages_of(files).items()}
        self.assertNotIn(None, needed, "of no package")
        listed = {p for p in section("run") if p.startswith("lib")}
        self.assertEqual({p: why for p, why in needed.items() if p not in listed}, {},
                         "missing in [run] of packaging/debian-packages.txt")
        self.assertEqual(listed - set(needed), set(), "in [run], but no program needs it")

    def test_programs_that_are_run_are_of_run_time_packages(self):
        if not shutil.which("dpkg"):
            self.skipTest("needs dpkg")
        named = {(name, who) for name, who in programs_that_are_run()
                 if name not in ("awk", "kill")}  # one of several; the shell's own
        self.assertLess({"cpio", "mmdebstrap", "mkfs.xfs", "nft", "nginx", "qemu-system-x86_64"},
                        {name for name, _ in named})
        paths = {name: shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") for name, _ in named}
        packages = packages_of(filter(None, paths.values()))
        run = sorted(section("run"))
        depends = output("dpkg-query", "-W", "-f", "${Depends}, ${Pre-Depends}, ", *run)
        # nginx-light is nginx with fewer modules; mmdebstrap brings apt.
        allowed = set(run) | always_there() | set(re.findall(r"(?:^|[,|] *)([a-z0-9.+-]+)", depends))
        for name, who in sorted(named):
            package = packages.get(paths[name])
            with self.subTest(f"{who} runs {name}"):
                self.assertTrue(not paths[name] or package in allowed, f"{package} is not in [run]")

    def test_build_depends_are_the_build_section(self):
        control = re.search(r"^Build-Depends:(.*?)^\S", read("packaging/debian/control") + "\n\n",
                            re.M | re.S)[1]
        words = [word.strip() for word in control.split(",") if word.strip()]
        named = {re.match(r"[a-z0-9.+-]+", word)[0] for word in words}
        self.assertEqual(named - section("test") - {"debhelper-compat"}, section("build") - ESSENTIAL)
        # The second is for tests of the edge, which a package's build does not run.
        self.assertEqual(section("test") - named, {"python3-minimal", "python3-grpcio"})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
