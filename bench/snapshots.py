#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Figures of freezing and thawing on a real guest, each beside its floor in the same run.

    bench/snapshots.py restore [N]      create and resume to the end of /bin/true, against bench/floor.c
    bench/snapshots.py pause [N]        pause with 64 MiB dirty of 1 GiB; second pause after 1 MiB
    bench/snapshots.py fork [N]         stop of the source of a fork, 16 MiB dirty of 1 GiB
    bench/snapshots.py generations [N]  resume after 30 generations against after 1
    bench/snapshots.py prefetch [N]     faults until a resume answers, with a recorded working set and without
    bench/snapshots.py children [N]     memory of children at once, against bare QEMUs on the same file
"""
import json
import os
import re
import signal
import sqlite3
import struct
import subprocess
import sys
import time

import common
from common import lib, line, median

TRUE = {"args": ["/bin/true"]}
FLOOR = os.path.join(lib.BUILD, "bench-floor")


def phases(row):
    return {p["name"]: p["us"] / 1000 for p in row["phases"]}


def ms(since):
    return (time.monotonic() - since) * 1000


class Box:
    """A server, and what the floor needs of it."""

    def __init__(self):
        self.w = lib.World("bench", "12G")
        self.w.build_image()
        self.w.start()
        self.net = None

    def close(self):
        if self.net:
            self.net.close()
        self.w.close()

    def rows(self, sql, *args):
        db = sqlite3.connect(os.path.join(self.w.data, "host.db"))
        try:
            return db.execute(sql, args).fetchall()
        finally:
            db.close()

    def exec_true(self, s):
        a = self.w.api("POST", f"/v1/sandboxes/{s.id}/exec", TRUE)
        assert a.status == 200 and a.json()["exit_code"] == 0, a.body

    def qemu_of(self, s):
        """Arguments of a loaded sandbox's QEMU."""
        with open(os.path.join(self.w.run, s.id, "state.json")) as f:
            vmm = str(json.load(f)["vmm_pid"])
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.path.basename(os.readlink(f"/proc/{pid}/exe")) != "qemu-system-x86_64":
                    continue
                with open(f"/proc/{pid}/status") as f:
                    parent = [x.split()[1] for x in f if x.startswith("PPid:")][0]
                if parent != vmm:
                    continue
                with open(f"/proc/{pid}/cmdline") as f:
                    return f.read().rstrip("\0").split("\0")
            except OSError:
                continue
        raise RuntimeError("no QEMU of " + s.id)

    def job(self, qemu, snapshot, token, uffd):
        w = self.w
        here = os.path.join(w.data, "floor")
        os.makedirs(here, exist_ok=True)
        where = os.path.join(w.data, "snapshots", snapshot)
        with open(os.path.join(where, "vmstate"), "rb") as f:
            length = struct.unpack_from("<I", f.read(16), 12)[0]
        with open(os.path.join(where, "memory.hdr"), "rb") as f:
            header = f.read()
        layers = [n for n in os.listdir(os.path.join(w.data, "layers")) if "." not in n and
                  bytes.fromhex(n.replace("-", "")) in header]
        rootfs = os.path.join(here, "rootfs.img")
        memory = int(qemu[qemu.index("-m") + 1].rstrip("M")) << 20
        socket = os.path.join(w.dir, "floor.sock")
        pager = [os.path.join(lib.BUILD, "stasis-pager"), "--socket", socket, "--header",
                 os.path.join(where, "memory.hdr"), "--layers", os.path.join(w.data, "layers")]
        if os.path.exists(os.path.join(where, "working_set")):
            pager += ["--working-set", os.path.join(where, "working_set")]
        values = {
            "qemu": "\x1f".join(a.replace("/rootfs.img", rootfs) for a in qemu),
            "hook": os.path.join(lib.BUILD, "ramhook.so"),
            "state": os.path.join(where, "vmstate"), "offset": 40 + length,
            "memory": "" if uffd else os.path.join(w.data, "layers", layers[0]),
            "pager": "\x1f".join(pager), "socket": socket, "size": memory,
            "disk": os.path.join(where, "disk.img"), "rootfs": rootfs,
            "token": token, "newtoken": "floor-" + "0" * 40,
        }
        path = os.path.join(here, "job")
        with open(path, "w") as f:
            f.writelines(f"{k}={v}\n" for k, v in values.items())
        return path

    def floor(self, job):
        if not self.net:
            self.net = common.Namespace()
            # The gateway that a guest knows has the same address in every slot.
            subprocess.run(["ip", "-n", self.net.name, "link", "set", "tap0", "address",
                            "06:00:a9:fe:00:16"], check=True)
        with self.net:
            out = subprocess.run([FLOOR, job], stdout=subprocess.PIPE, check=True).stdout
        ns, kib, *steps = map(int, out.split())
        self.floor_mib = kib / 1024  # private memory of its QEMU, at the end
        self.floor_phases = dict(zip(("load", "connect", "init", "true"), (x / 1e6 for x in steps)))
        return ns / 1e6


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


def restore(box, n):
    w = box.w
    s = w.create()
    qemu = box.qemu_of(s)
    frozen, token = box.rows("SELECT id, token FROM snapshots WHERE kind = 'frozen'")[0]
    s.delete()
    job = box.job(qemu, frozen, token, False)
    ours, floors, parts, floor_parts = [], [], Parts(), Parts()
    for i in range(n + 1):
        begin = time.monotonic()
        s = w.create()
        called = ms(begin)
        box.exec_true(s)
        took = ms(begin)
        s.delete()
        bare = box.floor(job)
        if i:
            ours.append(took)
            floors.append(bare)
            parts.add(s.row, called, took - called)
            floor_parts.runs.append(box.floor_phases)
    line("create, to the end of /bin/true", ours)
    line("floor, file, warm cache", floors)
    verdict("create", ours, floors)
    print("   medians of the phases:", parts)
    print("   of the floor's:", floor_parts)
    s = w.create()
    s.pause()
    qemu = None
    ours, floors, parts = [], [], Parts()
    for i in range(n + 1):
        begin = time.monotonic()
        row = s.resume()
        called = ms(begin)
        box.exec_true(s)
        took = ms(begin)
        qemu = qemu or box.qemu_of(s)
        s.pause()
        snapshot, token = box.rows(
            "SELECT id, token FROM snapshots WHERE kind = 'pause' AND sandbox = ? "
            "ORDER BY created_ns DESC", s.id)[0]
        bare = box.floor(box.job(qemu, snapshot, token, True))
        if i:
            ours.append(took)
            floors.append(bare)
            parts.add(row, called, took - called)
    line("resume, to the end of /bin/true", ours)
    line("floor, uffd, warm cache", floors)
    verdict("resume", ours, floors)
    print("   medians of the phases:", row["backend"], parts)
    s.delete()


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


def pause(box, n):
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


def fork(box, n):
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


def generations(box, n):
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


def private_dirty(pid):
    """MiB of this process that no other one shares and that no file holds."""
    with open(f"/proc/{pid}/smaps_rollup") as f:
        return sum(int(x.split()[1]) for x in f if x.startswith("Private_Dirty:")) / 1024


def parent(pid):
    with open(f"/proc/{pid}/status") as f:
        return [x.split()[1] for x in f if x.startswith("PPid:")][0]


def qemus():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "qemu-system-x86_64":
                found.append(pid)
        except OSError:
            continue
    return found


def figures_of_pager(box, s):
    """It writes them when it is told to. Its uid is the slot's (HOST_UID_BASE)."""
    path = os.path.join(box.w.data, "sandboxes", s.id, "snap", "pager.json")
    uid = 310000 + box.rows("SELECT slot FROM sandboxes WHERE id = ?", s.id)[0][0]
    pid, = [p for p in filter(str.isdigit, os.listdir("/proc")) if os.stat(f"/proc/{p}").st_uid == uid
            and open(f"/proc/{p}/comm").read() == "stasis-pager\n"]
    os.kill(int(pid), signal.SIGUSR1)
    lib.wait_until("the pager's figures", lambda: os.path.exists(path))
    with open(path) as f:
        return json.load(f)


def prefetch(box, n):
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


def children(box, n):
    w = box.w
    before = set(qemus())
    boxes = [w.create() for _ in range(10)]
    for s in boxes:
        box.exec_true(s)
    mine, vmms = [], []
    for pid in set(qemus()) - before:
        adapter = parent(pid)
        mine.append(private_dirty(pid))
        vmms.append(private_dirty(adapter) + private_dirty(parent(adapter)))
    backend = boxes[0].row["backend"]
    qemu = box.qemu_of(boxes[0])
    frozen, token = box.rows("SELECT id, token FROM snapshots WHERE kind = 'frozen'")[0]
    for s in boxes:
        s.delete()
    job = box.job(qemu, frozen, token, False)
    bare = []
    for _ in range(10):
        box.floor(job)
        bare.append(box.floor_mib)
    line("a child's QEMU, private", mine, "MiB")
    line("   its fcqemu and shim", vmms, "MiB")
    line("bare QEMU of the same file, private", bare, "MiB")
    print(f"children ({backend}): {(median(mine) + median(vmms)) / median(bare):.2f} x the floor "
          "(reach: at most 1.2)")


def main():
    names = {"restore": restore, "pause": pause, "fork": fork, "generations": generations,
             "prefetch": prefetch, "children": children}
    args = sys.argv[1:]
    if not args or args[0] not in names:
        sys.exit(__doc__)
    box = Box()
    try:
        names[args[0]](box, int(args[1]) if len(args) > 1 else 10)
    finally:
        box.close()


if __name__ == "__main__":
    main()
