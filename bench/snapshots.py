#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Figures of freezing and thawing on a real guest, each beside its floor in the same run. On KVM:
make lab CMD="bench/snapshots.py ..."; with FIRECRACKER=PATH the guests, and the floors, are in it.

    bench/snapshots.py restore [N [HANDLER]]  create and resume to the end of /bin/true, against
                                        bench/floor.c
    bench/snapshots.py pause [N]        pause with 64 MiB dirty of 1 GiB; second pause after 1 MiB
    bench/snapshots.py written [N]      what a pause after 16 MiB writes, against the pages that differ
    bench/snapshots.py fork [N]         stop of the source of a fork, 16 MiB dirty of 1 GiB
    bench/snapshots.py generations [N]  resume after 30 generations against after 1
    bench/snapshots.py prefetch [N]     faults until a resume answers, with a recorded working set and without
    bench/snapshots.py children [N]     memory of N children at once, against N bare VMMs on the same file
    bench/snapshots.py faults [N [HANDLER]]  CPU of the pager for each page that a guest waits for

HANDLER: another program that serves page faults for Firecracker, with its arguments SOCKET MEMORY:
the example on_demand_handler of Firecracker's source. Without it the floor of a resume is served by
our own pager. In the lab it is found where it is in build/, which the lab has.
"""
import json
import os
import re
import signal
import sys
import threading
import time

from common import lib, line, median
from floors import BLOCK, Box, cpu_ns, memory_of, pages_of, processes_of, program_of, slot_uid


def phases(row):
    return {p["name"]: p["us"] / 1000 for p in row["phases"]}


def ms(since):
    return (time.monotonic() - since) * 1000


def verdict(name, ours, floors):
    """Of the pairs, each of them taken one right after the other: a slow minute hurts both."""
    ratio = median([a / b for a, b in zip(ours, floors)])
    more = median([a - b for a, b in zip(ours, floors)])
    print(f"{name}: {ratio:.2f} x the floor, {more:+.1f} ms (medians of the pairs; reach: at most 1.3 and +25)")


class Parts:
    """The phases of many runs; `api` is what the call took beside those that the host tells of."""

    def __init__(self):
        self.runs = []

    def add(self, row, called, ran):
        told = phases(row)
        self.runs.append({**told, "api": called - sum(told.values()), "exec": ran})

    def __str__(self):
        return "  ".join(f"{k} {median([r[k] for r in self.runs]):.1f}" for k in self.runs[0])


def bare(box, job):
    """Milliseconds, phases."""
    floor = box.floor(job)
    floor.close()
    return floor.ms, floor.phases


def timed(box, call, s=None):
    """(what the call gave, its milliseconds, those to the end of /bin/true in s or what it gave)"""
    begin = time.monotonic()
    given = call()
    called = ms(begin)
    box.exec_true(s or given)
    return given, called, ms(begin)


def create_true(box, n):
    s = box.w.create()
    vmm = box.vmm_of(s)
    s.delete()
    ours, floors, parts, floor_parts = [], [], Parts(), Parts()
    for i in range(n + 1):
        s, called, took = timed(box, box.w.create)
        s.delete()
        least, steps = bare(box, box.job(vmm, *box.frozen()))
        if i:
            ours.append(took)
            floors.append(least)
            parts.add(s.row, called, took - called)
            floor_parts.runs.append(steps)
    line("create, to the end of /bin/true", ours)
    line("floor, file, warm cache", floors)
    verdict("create", ours, floors)
    print("   medians of the phases:", parts)
    print("   of the floor's:", floor_parts)


def flat(box, snapshot):
    """Its memory as one file, beside the layers."""
    path = os.path.join(box.w.data, "flat")
    memory = box.memory_of_snapshot(snapshot)
    memory.flat(path)
    memory.close()
    return path


def resume_true(box, n, handler):
    s = box.w.create()
    s.pause()
    ours, floors, parts, floor_parts, vmm = [], [], Parts(), Parts(), None
    for i in range(n + 1):
        row, called, took = timed(box, s.resume, s)
        vmm = vmm or box.vmm_of(s)
        s.pause()
        snapshot, token = box.paused(s)
        if handler:
            job = box.job(vmm, snapshot, token, [handler], after=[flat(box, snapshot)])
        else:
            job = box.job(vmm, snapshot, token, box.pager(snapshot))
        least, steps = bare(box, job)
        if i:
            ours.append(took)
            floors.append(least)
            parts.add(row, called, took - called)
            floor_parts.runs.append(steps)
    line("resume, to the end of /bin/true", ours)
    line("floor, uffd, warm cache", floors)
    verdict("resume", ours, floors)
    print("   medians of the phases:", row["backend"], parts)
    print("   of the floor's:", floor_parts)
    s.delete()


def restore(box, n, handler):
    create_true(box, n)
    resume_true(box, n, handler)


TOUCH = ("import mmap,sys\nm=mmap.mmap(-1,{n}<<20)\nb=b'%d'*2048\n"
         "[m.__setitem__(slice(i,i+4096),(str(i*{seed})*4096)[:4096].encode()) for i in "
         "range(0,{n}<<20,4096)]\nprint('done',flush=True)\nimport time\ntime.sleep(10000)\n")


def dirty(s, mib, seed):
    """A process of the guest fills so much memory and stays."""
    s.sh(f"cat > /tmp/touch.py <<'END'\n{TOUCH.format(n=mib, seed=seed)}END\n"
         f"rm -f /tmp/out; nohup python3 /tmp/touch.py > /tmp/out 2>&1 & "
         "until grep -q done /tmp/out 2>/dev/null; do sleep 0.1; done; sync")


DATA = os.urandom(64 << 20)  # kept: what a freed buffer gives back would make the next writer faster


def write_floor(box, i):
    """The time to write 64 MiB with fsync, beside the layers. The file stays: a later one would be
    written into the memory that this one had, which is cheaper than memory that nobody used lately."""
    path = os.path.join(box.w.data, f"floor.write.{i}")
    begin = time.monotonic()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.write(fd, DATA)
    os.fsync(fd)
    os.close(fd)
    return ms(begin)


RESIDENT = """import mmap, os, time
m = mmap.mmap(-1, 1 << 20)
while True:
    if os.path.exists('/dev/shm/go'):
        m[:] = os.urandom(1 << 20)
        os.unlink('/dev/shm/go')
    time.sleep(0.05)
"""
TOUCH_ONE = ": > /dev/shm/go; while [ -e /dev/shm/go ]; do sleep 0.05; done; sync"


def layers(box):
    return {n for n in os.listdir(os.path.join(box.w.data, "layers")) if "." not in n}


def layer_bytes(box, names):
    """Blocks of layers and of their sums; one that was collected meanwhile is nothing."""
    total = 0
    for path in (os.path.join(box.w.data, "layers", n + end) for n in names for end in ("", ".sum")):
        try:
            total += os.stat(path).st_blocks * 512
        except FileNotFoundError:
            pass
    return total


def new_bytes(box, before):
    """Of the layer that the last pause wrote, and of those that the upkeep merged meanwhile: of a chain
    that grows too long it makes one layer of all its data."""
    added = layers(box) - before
    with open(box.w.log, errors="replace") as f:
        merged = set(re.findall(r"layers merged .* layer=(\S+)", f.read()))
    return layer_bytes(box, added - merged), layer_bytes(box, added & merged)


def pause(box, n, _):
    # The floor is taken twice: before the pause, in the same state of the machine's memory, and after
    # it, when the memory that QEMU had is free for it.
    ours, floors, after, again, grown, merged = [], [], [], [], [], []
    s = box.w.create(memory_mb=1024)
    s.sh(f"cat > /tmp/one.py <<'END'\n{RESIDENT}END\nnohup python3 /tmp/one.py >/dev/null 2>&1 & "
         + TOUCH_ONE)
    s.pause()
    s.resume()
    for i in range(n + 1):
        dirty(s, 64, i + 1)
        bare = write_floor(box, 2 * i)
        begin = time.monotonic()
        row = s.pause()
        took = ms(begin)
        late = write_floor(box, 2 * i + 1)
        s.resume()
        s.sh(TOUCH_ONE)
        s.pause()
        s.resume()
        before = layers(box)
        s.sh(TOUCH_ONE)
        begin = time.monotonic()
        second = s.pause()
        took2 = ms(begin)
        size, others = new_bytes(box, before)
        s.resume()
        s.sh("pkill -f '[t]ouch.py'; true")
        if i:
            ours.append(took)
            floors.append(bare)
            after.append(late)
            again.append(took2)
            grown.append(size / (1 << 20))
            merged.append(others / (1 << 20))
    line("pause, 64 MiB dirty of 1 GiB", ours)
    line("64 MiB written with fsync", floors)
    line("   right after the pause", after)
    print(f"pause: {median(ours) - median(floors):+.1f} ms beyond the write (reach: at most +60), "
          f"{median(ours) - median(after):+.1f} beyond the later one")
    print("   phases of the last:", phases(row))
    line("second pause, after 1 MiB", again)
    line("   new bytes on disk", grown, "MiB")
    line("   merged in the background", merged, "MiB")
    print("   phases of the last:", phases(second))


def fork(box, n, _):
    stops = []
    s = box.w.create(memory_mb=1024)
    for i in range(n + 1):
        dirty(s, 16, i + 1)
        for c in s.fork(1):
            c.delete()
        s.sh("pkill -f '[t]ouch.py'; true")
        data = json.loads(box.rows("SELECT data FROM events WHERE kind = 'forked' ORDER BY seq DESC")[0][0]) \
            if box.rows("SELECT data FROM events WHERE kind = 'forked'") else None
        if data is None:
            events = box.w.api("GET", "/v1/events?limit=100").json()["events"]
            data = [e for e in events if e["kind"] == "forked"][-1]["data"]
        if i:
            stops.append(data["stopped_us"] / 1000)
    line("fork: stop of the source", stops)
    print("   (reach: at most 50 ms)  phases of the last:", data["phases"])


def generations(box, n, _):
    w = box.w
    a, b = w.create(), w.create()
    a.pause()
    a.resume()
    for _ in range(30):
        b.sh("dd if=/dev/urandom of=/dev/shm/x bs=64k count=16 2>/dev/null")
        b.pause()
        b.resume()
    one, thirty, parts = [], [], (Parts(), Parts())
    for i in range(n + 1):
        for s, out, part in ((a, one, parts[0]), (b, thirty, parts[1])):
            s.pause()
            begin = time.monotonic()
            row = s.resume()
            called = ms(begin)
            box.exec_true(s)
            took = ms(begin)
            if i:
                out.append(took)
                part.add(row, called, took - called)
    line("resume after 1 generation", one)
    print("   medians of the phases:", parts[0])
    line("resume after 30 generations", thirty)
    print("   medians of the phases:", parts[1])
    ratio = median([t / o for o, t in zip(one, thirty)])
    print(f"generations: {ratio:.2f} (median of the pairs; reach: at most 1.10)")


def figures_of_pager(box, s):
    """It writes them when it is told to."""
    path = os.path.join(box.w.data, "sandboxes", s.id, "snap", "pager.json")
    pid, = [p for p in processes_of(slot_uid(box.slot_of(s))) if program_of(p) == "stasis-pager"]
    os.kill(pid, signal.SIGUSR1)
    lib.wait_until("the pager's figures", lambda: os.path.exists(path))
    with open(path) as f:
        return json.load(f)


def prefetch(box, n, _):
    """A sandbox boots from memory that is not the image's own, so that a pager serves it. Its first
    resume has no record, the second one that of the first."""
    without, ahead, pages = [], [], []
    for i in range(n):
        s = box.w.create()
        s.pause()
        for out in (without, ahead):
            s.resume()
            figures = figures_of_pager(box, s)
            out.append(figures["faults"])
            s.pause()
        pages.append(figures["prefetch_pages"])
        s.delete()
    line("faults until the resume answers", without, "")
    line("   with the recorded set", ahead, "")
    line("   pages loaded ahead", pages, "")
    print(f"prefetch: {100 * (1 - median(ahead) / median(without)):.0f} % fewer (reach: at least 80 %)")


def children(box, n, _):
    """n of them at once, then n bare VMMs at once."""
    boxes = [box.w.create() for _ in range(n)]
    for s in boxes:
        box.exec_true(s)
    mine, parts = [], {}
    for s in boxes:
        pids = processes_of(slot_uid(box.slot_of(s)))
        mine.append(memory_of(pids))
        for pid in pids:
            parts.setdefault(program_of(pid), []).append(memory_of([pid])[0])
    backend, vmm = boxes[0].row["backend"], box.vmm_of(boxes[0])
    for s in boxes:
        s.delete()
    floors = []
    try:
        for i in range(n):
            floors.append(box.floor(box.job(vmm, *box.frozen(), number=i), i))
        least = [memory_of([f.vmm]) for f in floors]
    finally:
        for f in floors:
            f.close()
    for i, what in enumerate(("private", "PSS")):
        line(f"a child, {what}", [m[i] for m in mine], "MiB")
        line(f"   a bare one, {what}", [m[i] for m in least], "MiB")
        ratio = sum(m[i] for m in mine) / sum(m[i] for m in least)
        print(f"children ({n}, {backend}, {what}): {ratio:.2f} x the floor (reach: at most 1.2)")
    for name, values in parts.items():
        line(f"   private: {name}", values, "MiB")


def faults(box, n, handler):
    """CPU of a pager for each page that a guest waits for: MIB of a tmpfs are read after a resume by
    a bare VMM whose pager is ours, ours without checksums, or another one."""
    mib = 16
    s = box.w.create()
    s.sh(f"head -c {mib}M /dev/urandom > /dev/shm/a")
    s.pause()
    s.resume()
    vmm = box.vmm_of(s)
    s.pause()
    snapshot, token = box.paused(s)
    record = ["--record", os.path.join(box.w.data, "floor.record")]
    pagers = {"ours": (box.pager(snapshot, prefetch=False), record),
              "ours, no checksums": (box.pager(snapshot, "src/pager/bench-pager-nosums", False), record)}
    if handler:
        pagers["the example's"] = ([handler], [flat(box, snapshot)])
    spent = {name: [] for name in pagers}
    size = box.memory_of_snapshot(snapshot).header.size
    for i in range(n + 1):
        for name, (pager, after) in pagers.items():
            floor = box.floor(box.job(vmm, snapshot, token, pager, after=after,
                                      work="cat /dev/shm/a > /dev/null"))
            cpu, pages = cpu_ns(floor.pager), pages_of(floor.vmm, size)
            floor.work()
            cpu, pages = cpu_ns(floor.pager) - cpu, pages_of(floor.vmm, size) - pages
            floor.close()
            if pages < mib << 20 // BLOCK:
                raise RuntimeError(f"{pages} pages are no {mib} MiB")
            if i:
                spent[name].append(cpu / pages / 1000)
    for name, values in spent.items():
        line(f"CPU a fault, {name}", values, "µs")
        if handler and values is not spent["the example's"]:
            ratio = median([a / b for a, b in zip(values, spent["the example's"])])
            print(f"faults, {name}: {ratio:.2f} x the example's (median of the pairs; reach: "
                  f"at most {1.15 if name == 'ours' else 1.0})")
    s.delete()


class Written:
    """What the processes of a sandbox write while this is open, as far as it was seen: they end."""

    def __init__(self, box, s):
        self.pids = processes_of(slot_uid(box.slot_of(s)))
        self.ended = threading.Event()
        self.before, self.last = self.look(), {}
        self.thread = threading.Thread(target=self.watch)

    def look(self):
        seen = {}
        for pid in self.pids:
            try:
                with open(f"/proc/{pid}/io") as f:
                    seen[pid] = [int(x.split()[1]) for x in f if x.startswith("wchar:")][0]
            except OSError:
                pass
        return seen

    def watch(self):
        while not self.ended.wait(0.01):
            self.last.update(self.look())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.thread.join()
        self.mib = sum(self.last.get(p, b) - b for p, b in self.before.items()) / (1 << 20)


def written(box, n, _):
    """Of a pause after MIB were written, against the pages that differ from the snapshot before."""
    by_vmm, kept, differ, ratios = [], [], [], []
    s = box.w.create()
    s.pause()
    for i in range(n + 1):
        s.resume()
        s.sh("head -c 16M /dev/urandom > /dev/shm/a; sync")
        parent = box.memory("sandboxes", s.id, "base.hdr")
        before = layers(box)
        with Written(box, s) as w:
            s.pause()
        size, _ = new_bytes(box, before)
        child = box.memory_of_snapshot(box.paused(s)[0])
        blocks = child.changed(parent)[1]
        parent.close()
        child.close()
        if i:
            by_vmm.append(w.mib)
            kept.append(size / (1 << 20))
            differ.append(blocks * BLOCK / (1 << 20))
    line("pages that differ from the parent", differ, "MiB")
    line("   written by the VMM", by_vmm, "MiB")
    line("   kept: layer and sums", kept, "MiB")
    for what, values in (("the VMM wrote", by_vmm), ("is kept", kept)):
        print(f"written: {what} {median([a / b for a, b in zip(values, differ)]):.2f} x the pages "
              "that differ (median of the pairs)")
    s.delete()


BENCHES = {"restore": restore, "pause": pause, "fork": fork, "generations": generations,
           "prefetch": prefetch, "children": children, "faults": faults, "written": written}


def main():
    args = sys.argv[1:]
    if not args or args[0] not in BENCHES:
        sys.exit(__doc__)
    box = Box()
    try:
        BENCHES[args[0]](box, int(args[1]) if len(args) > 1 else 10,
                         args[2] if len(args) > 2 else None)
    finally:
        box.close()


if __name__ == "__main__":
    main()
