#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""GET /v1/sandboxes/{id} of a running sandbox on the real server's socket, per CPU second of the server.

    bench/api.py [SECONDS]          default 5

Eight kept connections, each in a process of its own. CPU time is user and system time of the server
process (not nginx, not the guest's processes) from /proc/PID/stat. Goal: at least 15,000 per second.
Also printed: the server's resident memory at rest, before any sandbox. Goal: at most 20 MiB.
"""
import multiprocessing
import os
import socket
import sys
import time

import common


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS")


def load(path, request, until, done):
    count = 0
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
        while time.monotonic() < until:
            for _ in range(50):
                s.sendall(request)
                answer = s.recv(65536)
                if not answer.startswith(b"HTTP/1.1 200"):
                    raise RuntimeError(answer)
            count += 50
    done.put(count)


def main():
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    world = common.lib.World("bench")
    world.build_image()
    world.start()
    try:
        pid = world.server.pid
        time.sleep(10)
        rest = resident_mib(pid)
        sandbox = world.create()
        request = (f"GET /v1/sandboxes/{sandbox.id} HTTP/1.1\r\nHost: x\r\n"
                   f"X-API-Key: {world.key()}\r\n\r\n").encode()
        done = multiprocessing.Queue()
        until = time.monotonic() + seconds
        before = cpu_seconds(pid)
        loads = [multiprocessing.Process(target=load, args=(
            os.path.join(world.control_run, "control.sock"), request, until, done)) for _ in range(8)]
        for p in loads:
            p.start()
        requests = sum(done.get() for _ in loads)
        used = cpu_seconds(pid) - before
        for p in loads:
            p.join()
        print(f"{requests} requests, {used:.2f} s of the server's CPU: {requests / used:.0f} per CPU "
              "second (goal: at least 15000)")
        print(f"server at rest: {rest:.1f} MiB resident (goal: at most 20 MiB)")
    finally:
        world.close()


main()
