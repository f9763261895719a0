#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Each step of the workflows is one command that exists in this tree, so that it runs anywhere: a
script, or make with targets of the Makefile.

    tests/unit/workflow.py [ROOT]    prints what is wrong, exits 1 when there is something
"""
import glob
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# The YAML of a workflow is this much of it: keys, lists, plain values, lists in [], texts after |.
LINE = re.compile(r"(?P<indent> *)(?P<item>- )?(?P<key>[\w-]+):(?: (?P<value>\S.*))?")


def steps(text):
    """Number, key and value of each line that has a key; an error (None, None) for other lines."""
    block = None
    for number, line in enumerate(text.split("\n"), 1):
        indent = len(line) - len(line.lstrip())
        if block is not None and (not line.strip() or indent > block):
            continue
        block = None
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        m = LINE.fullmatch(line)
        if not m or "\t" in line or indent % 2:
            yield number, None, None
            continue
        if m["value"] == "|":
            block = indent + (2 if m["item"] else 0)
        yield number, m["key"], m["value"]


def targets(root):
    with open(os.path.join(root, "Makefile")) as f:
        text = f.read().replace("\\\n", " ")
    return set(re.search(r"^\.PHONY:(.*)$", text, re.M).group(1).split())


def check_command(root, command):
    """What is wrong with it, or None."""
    if not re.fullmatch(r"[\w./= -]+", command):
        return f"{command!r}: holds logic; put it into a script"
    program, *words = command.split()
    if program == "make":
        unknown = [w for w in words if "=" not in w and w not in targets(root)]
        return f"make has no target {unknown[0]!r}" if unknown else None
    if "/" not in program:
        return f"{program}: not a script of this tree"
    if not os.access(os.path.join(root, program), os.X_OK) or os.path.isabs(program):
        return f"{program}: is not there, or not executable"
    return None


def wrong(root):
    found = sorted(glob.glob(os.path.join(root, ".github/workflows/*.yml")))
    if not found:
        yield ".github/workflows: no workflow"
    for path in found:
        name = os.path.relpath(path, root)
        with open(path) as f:
            text = f.read()
        runs = 0
        for number, key, value in steps(text):
            if key is None:
                yield f"{name}:{number}: more YAML than this test reads"
            elif key == "run":
                runs += 1
                problem = check_command(root, value or "")
                if problem:
                    yield f"{name}:{number}: {problem}"
            elif key == "uses" and not re.fullmatch(r"actions/[\w-]+@v\d+", value or ""):
                yield f"{name}:{number}: {value}: only actions of GitHub's own, by major version"
        if runs == 0:
            yield f"{name}: runs nothing"


def main():
    found = list(wrong(sys.argv[1] if len(sys.argv) > 1 else ROOT))
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
