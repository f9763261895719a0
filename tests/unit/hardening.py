#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Every installed program is built as what runs as root should be:

    hardening.py [--dynamic] [--unfortified] [--static NAME]... PROGRAM...

Of each file: position-independent, all relocations done and made read-only at the start, no stack or
segment that can be written and run, no library path of its own. Of our own code in it, which is told
from that of static libraries by its debugging information: flags of the compiler, calls of the stack
protector and of the checked functions of the C library. The sanitizers' builds have no static
programs, and neither they nor those that are not optimised have checked functions."""
import argparse
import bisect
import os
import re
import subprocess
import sys

FLAGS = ("-fstack-protector-strong", "-fstack-clash-protection", "-fcf-protection")
FUNCTION = re.compile(r"^([0-9a-f]+) <([^>]+)>:$")
CALL = re.compile(r"^\s*([0-9a-f]+):\t(?:bnd )?(?:call|jmp)\s+[0-9a-f]+ <([^@>+]+)")
FIRST = re.compile(r"^\s*[0-9a-f]+:\t(\S+)")


def tool(*command):
    done = subprocess.run(command, check=True, capture_output=True, text=True,
                          env={**os.environ, "LC_ALL": "C"})
    return done.stdout


def judge_file(path, is_static):
    """What is wrong with headers and segments."""
    text = tool("readelf", "-hldW", path)
    segments = re.findall(r"^  (\w+) +0x\w+ 0x\w+ 0x\w+ 0x\w+ 0x\w+ ([RWE ]{3})", text, re.M)
    kinds = {kind: flags for kind, flags in segments}
    shared = path.endswith(".so")
    if not re.search(r"^  Type: +DYN ", text, re.M):
        yield "is loaded at a fixed address"
    elif not shared and not re.search(r"\(FLAGS_1\).*\bPIE\b", text):
        yield "is not marked as a position-independent program"
    if is_static and ("INTERP" in kinds or "(NEEDED)" in text):
        yield "is not static"
    if "GNU_RELRO" not in kinds:
        yield "has no segment that becomes read-only after relocation (RELRO)"
    if not re.search(r"\(FLAGS_1\).*\bNOW\b", text):
        yield "binds functions at their first call (no BIND_NOW): its table of them stays writable"
    if "E" in kinds.get("GNU_STACK", "RWE"):
        yield "has a stack that can be run"
    if any(kind == "LOAD" and "W" in flags and "E" in flags for kind, flags in segments):
        yield "has a segment that can be written and run"
    if "(TEXTREL)" in text:
        yield "writes into its code at the start (TEXTREL)"
    if re.search(r"\((RPATH|RUNPATH)\)", text):
        yield "looks for libraries on a path of its own"


def judge_symbols(path):
    """What a shared object of ours needs that an older C library does not have: it is loaded into
    programs of releases that are long gone. Debian 12's is the oldest. What headers make of scanf and
    strtoul depends on the release that builds it."""
    for name, version in re.findall(r" UND (\w+)@GLIBC_([0-9.]+)", tool("readelf", "-W", "--dyn-syms", path)):
        if tuple(int(n) for n in version.split(".")) > (2, 36) or name.startswith("__isoc"):
            yield f"needs {name} of glibc {version}, which an older release may not have"


class OwnCode:
    """Addresses of the code that was compiled here."""

    def __init__(self, path):
        found = re.findall(r"^    ([0-9a-f]{16}) ([0-9a-f]{16})$",
                           tool("readelf", "--debug-dump=aranges", path), re.M)
        ranges = sorted((int(a, 16), int(a, 16) + int(n, 16)) for a, n in found if int(n, 16))
        self.starts, self.ends = [r[0] for r in ranges], [r[1] for r in ranges]

    def holds(self, address):
        i = bisect.bisect_right(self.starts, address) - 1
        return i >= 0 and address < self.ends[i]


def judge_code(path, fortified):
    """What is wrong with our own code."""
    own = OwnCode(path)
    if not own.starts:
        yield "has no debugging information (.debug_aranges): build it with -g"
        return
    units = re.findall(r"DW_AT_producer +: (?:\(.*?\): )?(.*)", tool("readelf", "--debug-dump=info", path))
    # Not assembly, which has no such flags, nor what the sanitizers bring, which is C++.
    units = [u for u in units if "GNU AS" not in u and "C++" not in u]
    for flag in FLAGS:
        bare = sum(flag not in u for u in units)
        if bare:
            yield f"{bare} of {len(units)} files were compiled without {flag}"
    functions = entered = protected = checked = 0
    new = False
    for line in tool("objdump", "-d", "--no-show-raw-insn", path).splitlines():
        if m := FUNCTION.match(line):
            new = own.holds(int(m[1], 16)) and "." not in m[2]
            functions += new
            continue
        if new and (m := FIRST.match(line)):
            entered += m[1] == "endbr64"
            new = False
        if (m := CALL.match(line)) and own.holds(int(m[1], 16)):
            if m[2].startswith("__stack_chk_fail"):
                protected += 1
            elif re.fullmatch(r"__\w+_chk", m[2]):
                checked += 1
    # Static functions whose address nobody takes have no landing pad.
    if entered == 0:
        yield f"none of its {functions} functions has a landing pad for indirect calls (endbr64)"
    if protected == 0:
        yield f"none of its {functions} functions looks at its stack's canary"
    if checked == 0 and fortified:
        yield "calls no checked function of the C library (_FORTIFY_SOURCE)"
    print(f"{os.path.basename(path)}: {functions} functions, {entered} landing pads, "
          f"{protected} canaries, {checked} checked calls")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--dynamic", action="store_true")
    p.add_argument("--unfortified", action="store_true")
    p.add_argument("--static", action="append", default=[])
    p.add_argument("programs", nargs="+")
    a = p.parse_args()
    names = [os.path.basename(path) for path in a.programs]
    wrong = [f"{name}: is not among the programs" for name in a.static if name not in names]
    for path, name in zip(a.programs, names):
        is_static = name in a.static and not a.dynamic
        for what in (*judge_file(path, is_static), *judge_code(path, not a.unfortified)):
            wrong.append(f"{name}: {what}")
        if name.endswith(".so"):
            wrong += [f"{name}: {what}" for what in judge_symbols(path)]
    print("\n".join(wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
