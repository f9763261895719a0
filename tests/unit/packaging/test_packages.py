#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""packaging/installed has all that the programs look for, and packaging/debian-packages.txt all that
they are linked with: test_packages.py SOURCE BUILD."""
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


def package_of(path):
    """The Debian package of a file, by its Debian 12 name. dpkg may know it by the name before /lib
    became a link."""
    for name in (path, os.path.realpath(path), path.removeprefix("/usr"), "/usr" + path):
        found = re.match(r"([a-z0-9.+-]+)(:\w+)?: ", output("dpkg", "-S", name))
        if found:
            return found[1].removesuffix("t64")
    return None


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

    def test_run_time_packages_are_those_the_programs_are_linked_with(self):
        if not shutil.which("dpkg"):
            self.skipTest("needs dpkg")
        needed = {}
        for how, name, _ in INSTALLED:
            path = os.path.join(BUILD, name)
            if how != "program":
                continue
            self.assertTrue(os.access(path, os.X_OK), path)
            where = dict(re.findall(r"^\s*(\S+) => (\S+) \(", output("ldd", path), re.M))
            for library in re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", path)):
                package = package_of(where[library])
                self.assertIsNotNone(package, f"{name} needs {library}: of no package")
                needed.setdefault(package, f"{library} of {name}")
        listed = {p for p in section("run") if p.startswith("lib")}
        self.assertEqual({p: why for p, why in needed.items() if p not in listed}, {},
                         "missing in [run] of packaging/debian-packages.txt")
        self.assertEqual(listed - set(needed), set(), "in [run], but no program needs it")

    def test_build_depends_are_the_build_section(self):
        control = re.search(r"^Build-Depends:(.*?)^\S", read("packaging/debian/control") + "\n\n",
                            re.M | re.S)[1]
        words = [word.strip() for word in control.split(",") if word.strip()]
        named = {re.match(r"[a-z0-9.+-]+", word)[0] for word in words}
        self.assertEqual(named - section("test") - {"debhelper-compat"}, section("build") - ESSENTIAL)
        self.assertEqual(section("test") - named, {"python3-minimal"})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
