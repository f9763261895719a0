#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Includes point downwards only: each room may use the rooms listed for it and itself."""
import glob
import os
import re
import sys

SRC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src")
BELOW = {
    "base": "",
    "http": "base",
    "vmm": "base http",
    "snapshot": "base http",
    "disk": "base http",
    "net": "base http",
    "pager": "base snapshot",
    "shim": "base",
    "fcqemu": "base http",
    "agentclient": "base http",
    "envd": "base http agentclient",
    "guestinit": "base envd",
    "sandbox": "base http agentclient vmm snapshot disk net pager shim",
    "hostagent": "base http agentclient vmm snapshot disk net pager shim sandbox",
    "control": "base http agentclient vmm snapshot disk net pager shim sandbox hostagent",
    "cli": "base http agentclient vmm snapshot disk net pager shim sandbox hostagent control",
}
GENERATED = re.compile(r"sql_\w+\.h")  # made in the build directory, of sql/
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def violations(src):
    for room in sorted(os.listdir(src)):
        folder = os.path.join(src, room)
        if not os.path.isdir(folder):
            continue
        if room not in BELOW:
            yield f"src/{room}: a room without a place in the order (tests/unit/layers.py)"
            continue
        for path in sorted(glob.glob("**/*.[ch]", root_dir=folder, recursive=True)):
            name = path
            with open(os.path.join(folder, name)) as f:
                for path in INCLUDE.findall(f.read()):
                    if GENERATED.fullmatch(path):
                        continue
                    target = path.split("/")[0]
                    if "/" not in path or (target != room and target not in BELOW[room].split()):
                        yield f'src/{room}/{name}: must not include "{path}"'


def main():
    found = list(violations(sys.argv[1] if len(sys.argv) > 1 else SRC))
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
