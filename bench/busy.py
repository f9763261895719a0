#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a busy host makes of somebody else's rm and time-outs.

    bench/busy.py [ROUNDS]          default 3

A round has two phases: eight processes that burn CPU, and eight clients that create, pause, resume
and remove sandboxes of their own in a loop. Before each, while nothing else goes on, 24 sandboxes
are made that none of them touches; in it twelve are removed, one after the other, and twelve end by
time-outs spread over the same seconds. rm: DELETE through the edge until the answer. Lateness: from
ends_at to stopped_at. Goal: p99 of both beside the clients at most 3 x that beside the burners.
"""
import datetime
import math
import multiprocessing
import sys
import threading
import time

import common

N = 12          # of each kind in a phase
FIRST = 3       # seconds from the phase's begin to the first time-out


def percentile(values, p):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(p * len(ordered)) - 1)]


def burn():
    while True:
        pass


class Burners:
    def __enter__(self):
        self.all = [multiprocessing.Process(target=burn, daemon=True) for _ in range(8)]
        for p in self.all:
            p.start()

    def __exit__(self, *_):
        for p in self.all:
            p.kill()
            p.join()


class Clients:
    """What they did is counted, so that a phase in which they stood still is seen."""

    def __init__(self, world):
        self.world, self.stop, self.cycles, self.failed = world, False, 0, []

    def work(self):
        while not self.stop:
            try:
                s = self.world.create()
                s.pause()
                s.resume()
                s.delete()
                self.cycles += 1
            except Exception as error:  # told at the end
                self.failed.append(str(error))

    def __enter__(self):
        self.all = [threading.Thread(target=self.work) for _ in range(8)]
        for t in self.all:
            t.start()

    def __exit__(self, *_):
        self.stop = True
        for t in self.all:
            t.join()


def at(text):
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1e3


def remove(world, sandbox, times):
    t = time.monotonic()
    answer = sandbox.delete()
    if answer.status != 204:
        raise RuntimeError(f"rm: {answer.status} {answer.body[:200]!r}")
    times.append((time.monotonic() - t) * 1e3)


def phase(world, load, rm, late):
    subjects = [world.create() for _ in range(2 * N)]
    removed, timed = subjects[:N], subjects[N:]
    with load:
        time.sleep(1)
        ends = {}
        for i, s in enumerate(timed):
            answer = world.api("POST", f"/v1/sandboxes/{s.id}/timeout", {"timeout_sec": FIRST + i})
            ends[s.id] = at(s.ok(answer)["ends_at"])
        begin = time.monotonic()
        for i, s in enumerate(removed):
            time.sleep(max(0, begin + i * 1.1 - time.monotonic()))
            remove(world, s, rm)
        for s in timed:
            common.lib.wait_until("timed out", lambda s=s: s.get()["state"] == "stopped", 120)
            row = s.get()
            if row["cause"] != "timeout":
                raise RuntimeError(f"ended by {row['cause']}")
            late.append(at(row["stopped_at"]) - ends[s.id])


def tell(what, values):
    print(f"{what:34} p50 {percentile(values, 0.5):9.2f} ms   p99 {percentile(values, 0.99):9.2f}   "
          f"n={len(values)}", flush=True)


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    world = common.lib.World("bench")
    world.build_image()
    world.start()
    rm, late = {"burners": [], "clients": []}, {"burners": [], "clients": []}
    try:
        for _ in range(rounds):
            phase(world, Burners(), rm["burners"], late["burners"])
            clients = Clients(world)
            phase(world, clients, rm["clients"], late["clients"])
            print(f"clients: {clients.cycles} times create, pause, resume, rm; "
                  f"{len(clients.failed)} failed {clients.failed[:1]}", flush=True)
        for name, of in (("rm", rm), ("time-out, lateness", late)):
            for load in ("burners", "clients"):
                tell(f"{name}, beside {load}", of[load])
            ratio = percentile(of["clients"], 0.99) / percentile(of["burners"], 0.99)
            print(f"{name}, p99: ratio {ratio:.2f} (goal: at most 3)")
        if len(sys.argv) > 2:
            print(rm, late)
    finally:
        world.close()


main()
