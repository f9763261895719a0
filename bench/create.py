#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Cold-boot create against the bare boot of the same image in plain QEMU, in turns.

    bench/create.py [ROUNDS]        default 7

API: POST /v1/sandboxes through the edge until the answer (the agent answered and is initialised).
Floor: start of plain QEMU with the same kernel, initramfs, disk, memory and tap until the agent's
first answer. Goal: median ratio at most 1.15. Also printed: the phases of each create.
"""
import sys

import common


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    world = common.lib.World("bench")
    world.build_image()
    world.start()
    namespace = common.Namespace()
    try:
        bare = common.BareGuest(namespace, world.data, common.template(world), world.dir)
        floor, api, phases = [], [], {}
        for i in range(rounds + 1):
            ms = bare.boot()
            bare.end()
            t = common.time.monotonic()
            sandbox = world.create(cold=True)
            took = (common.time.monotonic() - t) * 1e3
            sandbox.delete()
            if i == 0:
                continue  # page cache and translation warm up
            floor.append(ms)
            api.append(took)
            for p in sandbox.row["phases"]:
                phases.setdefault(p["name"], []).append(p["us"] / 1e3)
        common.line("bare boot to first answer", floor)
        common.line("create through the API", api)
        for name, values in phases.items():
            common.line(f"  phase {name}", values)
        ratio = common.median(api) / common.median(floor)
        print(f"ratio {ratio:.3f} (goal: at most 1.15)")
    finally:
        namespace.close()
        world.close()


main()
