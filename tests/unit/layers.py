#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Includes and calls point downwards only, between rooms (the folders of src) and between the wings
of a room (its folders).

    tests/unit/layers.py [--build DIRECTORY] [SRC]

* A room may include and call only itself and the rooms that stand for it in BELOW; where only a
  header of another room stands there, the functions that it declares.
* A wing may include and call only itself and the wings before it in WINGS. What stands at the top of
  the room is its roof, which may use all wings. A header there without a .c beside it is a door: it
  tells others what the room does, and any wing may include it, to keep its word.
* No files of one room use each other in a circle. A file is here a .c with its .h, and uses another
  by an include or by a call.
* A lower wing can still call a higher one by a pointer that was put there. A pointer outlives the
  call in which it was given only as a member of a struct or as a variable: their declarations in
  headers are counted ("(*name)(" outside of any parentheses; parameters are within), in all rooms
  with wings but for the highest wing, above which there is only the program. Each wing has one
  header for them, which stands in UPWARD with its number.

Numbers in UPWARD may only fall: one that is smaller in the tree than here must be lowered here.
Calls are references of object files to each other's symbols (nm), so that they and circles are
looked at with --build alone."""
import argparse
import collections
import glob
import json
import os
import re
import subprocess
import sys

BELOW = {
    "base": "",
    "archive": "base",
    "http": "base",
    "agentclient": "base http",
    "vmm": "base http",
    "snapshot": "base",
    "disk": "base",
    "net": "base http",
    "pager": "base snapshot",
    "shim": "base",
    "fcqemu": "base http vmm snapshot",
    "envd": "base archive http agentclient",
    "guestinit": "base envd agentclient/version.h",
    "sandbox": "base http agentclient vmm snapshot disk net pager shim",
    "hostagent": "base http agentclient vmm snapshot disk net pager shim sandbox",
    "control": "base http agentclient hostagent sandbox/types.h",
    "cli": "base archive http agentclient vmm snapshot disk net pager shim sandbox hostagent control",
}
# Lowest first. A room may have fewer of them yet.
WINGS = {
    "envd": "process wake api",
    "sandbox": "table machine capture life watch",
    "control": "state engine api edge",
    "cli": "base command",
}
# Pointers to functions in headers of rooms with wings.
UPWARD = {
    "src/cli/base/command.h": 1,
    "src/control/engine/engine.h": 10,
    "src/sandbox/life/operation.h": 5,
    "src/sandbox/table/store.h": 1,
    "src/sandbox/types.h": 2,
}
# Defines functions of the C library anew, for a program that is not ours: nobody here uses it.
APART = {"fcqemu/ramhook.c"}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)
HERE = "tests/unit/layers.py"


class Rules:
    def __init__(self, below, wings, upward):
        self.below = {room: words.split() for room, words in below.items()}
        self.wings = {room: words.split() for room, words in wings.items()}
        self.upward = upward


RULES = Rules(BELOW, WINGS, UPWARD)


def stem(path):
    return path.rsplit(".", 1)[0]


class Tree:
    """Paths are relative to src: "envd/wake/init.c"."""

    def __init__(self, src, rules=RULES):
        self.src, self.rules = src, rules
        self.files = sorted(glob.glob("*/**/*.[ch]", root_dir=src, recursive=True))
        self.known = set(self.files)
        self.rooms = {path.split("/")[0] for path in self.files}
        self.texts = {}
        for path in self.files:
            with open(os.path.join(src, path)) as f:
                self.texts[path] = f.read()
        self.includes = {path: INCLUDE.findall(text) for path, text in self.texts.items()}
        self.calls = {}  # (caller, callee): name of one symbol

    # --- places

    def is_door(self, path):
        return path.count("/") == 1 and path.endswith(".h") and stem(path) + ".c" not in self.known

    def rank(self, path):
        """Of the wing; the roof is the highest. None: the folder has no place."""
        room, *folders = path.split("/")[:-1]
        wings = self.rules.wings.get(room, [])
        if not folders:
            return len(wings)
        return wings.index(folders[0]) if folders[0] in wings else None

    def may_use(self, user, used, name=None):
        """Includes it, or calls that function of it."""
        room, other = user.split("/")[0], used.split("/")[0]
        if room != other:
            below = self.rules.below[room]
            return (other in below or used in below or
                    any(h.startswith(other + "/") and re.search(rf"\b{name}\b", self.texts.get(h, "")) for h in below))
        if not name and self.is_door(used):
            return True
        mine, its = self.rank(user), self.rank(used)
        return mine is None or its is None or its <= mine

    def misplaced(self):
        for room in sorted(self.rooms - set(self.rules.below)):
            yield f"src/{room}: a room without a place in BELOW of {HERE}"
        for folder in sorted({os.path.dirname(p) for p in self.files if self.rank(p) is None}):
            yield f"src/{folder}: a wing without a place in WINGS of {HERE}"

    # --- includes

    def bad_includes(self):
        for path in self.files:
            if path.split("/")[0] not in self.rules.below:
                continue
            for used in self.includes[path]:
                if "/" not in used or not self.may_use(path, used):
                    yield f'src/{path}: must not include "{used}"'

    # --- calls

    def read_objects(self, build):
        """Fills calls; yields what keeps it from that."""
        with open(os.path.join(build, "compile_commands.json")) as f:
            commands = json.load(f)
        sources = {}
        for c in commands:
            # What is made while building has no place in src, and calls nothing.
            path = os.path.relpath(os.path.join(c["directory"], c["file"]), self.src)
            if path in self.known and c["output"].startswith("src/"):
                sources[os.path.join(build, c["output"])] = path
        for path in sorted({p for p in self.files if p.endswith(".c")} - set(sources.values())):
            yield f"src/{path}: is not built, its calls are not looked at"
        for missing in sorted(o for o in sources if not os.path.exists(o)):
            yield f"{missing}: is not there, build it first"
            return
        out = subprocess.run(["nm", "-A", "-P", *sources], check=True, stdout=subprocess.PIPE, text=True).stdout
        defined, wanted = collections.defaultdict(set), collections.defaultdict(set)
        for line in out.splitlines():
            place, rest = line.split(": ", 1)
            name, kind = rest.split()[:2]
            path = sources[place.split("[")[0]]
            if kind in "Uw":
                wanted[path].add(name)
            elif kind.isupper() and path not in APART:
                defined[name].add(path)
        for path, names in wanted.items():
            for name in sorted(names):
                # Of namesakes in several programs, the nearest.
                own = {p for p in defined[name] if p.split("/")[0] == path.split("/")[0]}
                for other in own or defined[name]:
                    self.calls.setdefault((path, other), name)

    def bad_calls(self):
        for (path, other), name in sorted(self.calls.items()):
            if path.split("/")[0] in self.rules.below and not self.may_use(path, other, name):
                yield f"src/{path}: must not use {name} of src/{other}"

    # --- circles

    def edges(self):
        uses = collections.defaultdict(set)
        pairs = [(p, q) for p in self.files for q in self.includes[p] if q in self.known]
        for a, b in [*pairs, *self.calls]:
            if a.split("/")[0] == b.split("/")[0] and stem(a) != stem(b):
                uses[stem(a)].add(stem(b))
        return uses

    def all_circles(self):
        """Groups of stems, each of which leads to all others of its group."""
        uses = self.edges()

        def reach(start):
            seen, todo = set(), [start]
            while todo:
                for b in uses[todo.pop()] - seen:
                    seen.add(b)
                    todo.append(b)
            return seen
        reached = {a: reach(a) for a in list(uses)}
        groups = {frozenset(b for b in reached[a] if a in reached.get(b, ()))
                  for a in reached if a in reached[a]}
        return sorted(sorted(g) for g in groups)

    def bad_circles(self):
        for group in self.all_circles():
            yield f"src/{group[0].split('/')[0]}: a circle of {len(group)} files: {' '.join(group)}"

    # --- pointers upwards

    def pointers(self):
        """Number by header."""
        for path in self.files:
            room = path.split("/")[0]
            wings = self.rules.wings.get(room)
            flat = wings and not any(p.startswith(f"{room}/{w}/") for w in wings for p in self.files)
            counted = wings and (flat or self.is_door(path) or self.rank(path) not in (len(wings) - 1, len(wings)))
            if path.endswith(".h") and counted:
                yield path, count_pointers(self.texts[path])

    def bad_pointers(self):
        found = {f"src/{path}": n for path, n in self.pointers() if n}
        known = {path for path in self.rules.upward if path.split("/")[1] in self.rooms}
        for path in sorted(set(found) | known):
            n, known = found.get(path, 0), self.rules.upward.get(path, 0)
            if n > known:
                yield f"{path}: {n} pointers to functions, UPWARD of {HERE} has {known}"
            elif n < known:
                yield f'{path}: {n} pointers to functions: lower "{path}": {known} in UPWARD of {HERE}'
        wings = collections.Counter(os.path.dirname(path) for path in self.rules.upward)
        for wing in sorted(w for w, n in wings.items() if n > 1):
            yield f"{wing}: two files in UPWARD of {HERE}, where a wing has one"

    def violations(self, build=None):
        yield from self.misplaced()
        yield from self.bad_includes()
        yield from self.bad_pointers()
        if build:
            yield from self.read_objects(build)
            yield from self.bad_calls()
            yield from self.bad_circles()


def count_pointers(text):
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    depth = count = 0
    for at, c in enumerate(text):
        if c == "(":
            count += depth == 0 and bool(re.match(r"\(\s*\*\s*(const\s+)?\w+(\[\w*\])?\s*\)\s*\(", text[at:at + 100]))
            depth += 1
        elif c == ")":
            depth -= 1
    return count


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--build", help="build directory: looks at calls too")
    p.add_argument("src", nargs="?", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src"))
    a = p.parse_args()
    found = list(Tree(os.path.abspath(a.src)).violations(a.build and os.path.abspath(a.build)))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
