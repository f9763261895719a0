#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A tree of 1,000 small files into a guest and out of it, and one file of 64 MiB, by `stasis cp`.

    bench/cp.py [ROUNDS]          default 7

Beside it, in turns, what everybody would do without it: tar on both sides and `stasis exec` between.
Goal: at most 1.5 s each way for the tree.
"""
import os
import shutil
import subprocess
import sys
import tempfile
import time

import common


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    world = common.lib.World("bench")
    world.build_image()
    world.start()
    here = tempfile.mkdtemp(dir=world.dir)
    times = {}

    def take(name, i, *cmd):
        t = time.monotonic()
        subprocess.run(cmd, check=True, cwd=here, env=world.env(), stdin=subprocess.DEVNULL)
        if i > 0:
            times.setdefault(name, []).append((time.monotonic() - t) * 1e3)

    try:
        sandbox = world.create()
        cli, guest = common.lib.STASIS, sandbox.id
        for d in range(20):
            os.makedirs(f"{here}/tree/{d}")
            for f in range(50):
                with open(f"{here}/tree/{d}/{f}", "wb") as out:
                    out.write(os.urandom(2000))
        with open(f"{here}/file", "wb") as out:
            out.write(os.urandom(64 << 20))
        for i in range(rounds + 1):
            sandbox.sh("rm -rf /tmp/t && mkdir /tmp/t")
            shutil.rmtree(f"{here}/out", ignore_errors=True)
            os.mkdir(f"{here}/out")
            take("tree in, tar and exec", i, "sh", "-c", f"tar -c tree | {cli} exec -i {guest} -- tar -x -C /tmp/t")
            take("tree out, tar and exec", i, "sh", "-c",
                 f"{cli} exec {guest} -- tar -c -C /tmp/t tree | tar -x -C out")
            shutil.rmtree(f"{here}/out")
            sandbox.sh("rm -rf /tmp/t/tree")
            take("tree in, cp", i, cli, "cp", "tree", f"{guest}:/tmp/t")
            take("tree out, cp", i, cli, "cp", f"{guest}:/tmp/t/tree", "out")
            take("64 MiB in, cp", i, cli, "cp", "file", f"{guest}:/tmp/t/file")
            take("64 MiB in, stream", i, "sh", "-c", f"{cli} cp - {guest}:/tmp/t/file <file")
            take("64 MiB out, cp", i, cli, "cp", f"{guest}:/tmp/t/file", "got")
            take("64 MiB out, stream", i, "sh", "-c", f"{cli} cp {guest}:/tmp/t/file - >got")
        for name, values in times.items():
            common.line(name, values)
        for way in ("in", "out"):
            floor, mine = (common.median(times[f"tree {way}, {how}"]) for how in ("tar and exec", "cp"))
            print(f"tree {way}: {mine / floor:.2f} of tar and exec (goal: at most 1500 ms: {mine:.0f})")
    finally:
        world.close()
        shutil.rmtree(here, ignore_errors=True)


main()
