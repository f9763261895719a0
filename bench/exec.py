#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Buffered exec of /bin/true through edge and API, against the same process straight from envd.

    bench/exec.py [ROUNDS]          default 500

Both on kept connections, in turns; the difference of the medians is what edge and API add.
Goal: at most 1.5 ms.
"""
import contextlib
import ipaddress
import json
import os
import sqlite3
import struct
import sys
import time

import common


def slot_address(world, sandbox):
    """Where the host reaches the guest: the odd address of its slot's pair (src/net/slot.h)."""
    with contextlib.closing(sqlite3.connect(os.path.join(world.data, "host.db"))) as db:
        index, = db.execute("SELECT slot FROM sandboxes WHERE id = ?", (sandbox,)).fetchone()
    return str(ipaddress.ip_network(world.slots)[2 * index + 1])


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    world = common.lib.World("bench")
    world.build_image()
    world.start()
    try:
        sandbox = world.create()
        address = slot_address(world, sandbox.id)
        api = common.Client("127.0.0.1", world.port,
                            {"X-API-Key": world.key(), "Content-Type": "application/json"})
        envd = common.Client(address, 49983, {"X-Access-Token": sandbox.token,
                                              "Connect-Protocol-Version": "1",
                                              "Content-Type": "application/connect+json"})
        message = json.dumps({"process": {"cmd": "/bin/true", "args": []}, "stdin": False}).encode()
        start = struct.pack(">BI", 0, len(message)) + message
        command = json.dumps({"args": ["/bin/true"]})
        direct, through = [], []
        for i in range(rounds + 10):
            t = time.monotonic()
            status, body = envd.call("POST", "/process.Process/Start", start)
            a = (time.monotonic() - t) * 1e3
            assert status == 200 and b'"exitCode":0' in body.replace(b" ", b""), body
            t = time.monotonic()
            status, body = api.call("POST", f"/v1/sandboxes/{sandbox.id}/exec", command)
            b = (time.monotonic() - t) * 1e3
            assert status == 200 and json.loads(body)["exit_code"] == 0, body
            if i >= 10:
                direct.append(a)
                through.append(b)
        common.line("straight to envd", direct)
        common.line("through edge and API", through)
        print(f"added, p50: {common.median(through) - common.median(direct):.2f} ms "
              "(goal: at most 1.5 ms)")
    finally:
        world.close()


main()
