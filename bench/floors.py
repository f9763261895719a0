# SPDX-License-Identifier: Apache-2.0
"""A server to be measured, and bare VMMs beside it on the same snapshots (bench/floor.c)."""
import array
import json
import mmap
import os
import shutil
import sqlite3
import struct
import subprocess

import common
from common import lib

FLOOR = os.path.join(lib.BUILD, "bench-floor")
TRUE = {"args": ["/bin/true"]}
BLOCK = 4096


def slot_uid(slot):
    """HOST_UID_BASE of src/net."""
    return 310000 + slot


def processes_of(uid):
    """The processes of a sandbox, the shim that started them included."""
    found, parents = set(), set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/status") as f:
                status = dict(x.rstrip("\n").split(":\t", 1) for x in f if ":\t" in x)
        except OSError:
            continue
        if int(status["Uid"].split()[0]) == uid:
            found.add(int(pid))
            parents.add(int(status["PPid"]))
    return found | {p for p in parents if program_of(p) == "stasis-shim"}


def program_of(pid):
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip()
    except OSError:
        return ""


def memory_of(pids):
    """MiB: (private and written, PSS)."""
    total = {"Private_Dirty": 0, "Pss": 0}
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            for text in f:
                name = text.split(":")[0]
                if name in total:
                    total[name] += int(text.split()[1])
    return total["Private_Dirty"] / 1024, total["Pss"] / 1024


def cpu_ns(pid):
    """What a process of one thread has run."""
    with open(f"/proc/{pid}/schedstat") as f:
        return int(f.read().split()[0])


def pages_of(pid, size):
    """How many pages of guest memory are there: of its mapping of that size, zero pages included."""
    with open(f"/proc/{pid}/maps") as f:
        areas = [[int(x, 16) for x in text.split()[0].split("-")] for text in f]
    total = 0
    with open(f"/proc/{pid}/pagemap", "rb") as f:
        for begin, end in areas:
            if end - begin < size // 4:
                continue
            f.seek(begin // BLOCK * 8)
            total += sum(x >> 63 for x in array.array("Q", f.read((end - begin) // BLOCK * 8)))
    return total


class Header:
    """memory.hdr (docs/snapshot-format.md)."""

    def __init__(self, path):
        with open(path, "rb") as f:
            data = f.read()
        self.size, = struct.unpack_from("<Q", data, 24)
        n_layers, n_maps = struct.unpack_from("<II", data, 72)
        ids = [data[88 + 16 * i:104 + 16 * i].hex() for i in range(n_layers)]
        self.layers = [f"{x[:8]}-{x[8:12]}-{x[12:16]}-{x[16:20]}-{x[20:]}" for x in ids]
        self.maps = list(struct.iter_unpack("<QII", data[88 + 16 * n_layers:][:16 * n_maps]))


class Memory:
    """What a header describes; its layers may go meanwhile."""

    def __init__(self, header, layers):
        self.header = Header(header)
        self.files = [open(os.path.join(layers, x), "rb") for x in self.header.layers]
        self.layers = [mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) for f in self.files]

    def close(self):
        for x in self.layers + self.files:
            x.close()

    def flat(self, path):
        """One sparse file of all its layers."""
        with open(path, "wb") as out:
            out.truncate(self.header.size)
            for offset, blocks, layer in self.header.maps:
                if layer < len(self.layers):
                    out.seek(offset)
                    out.write(self.layers[layer][offset:offset + blocks * BLOCK])

    def changed(self, parent):
        """(blocks that are not in a layer of the parent's, those of them that differ)."""
        old = [None] * (self.header.size // BLOCK)
        for offset, blocks, layer in parent.header.maps:
            for i in range(offset // BLOCK, offset // BLOCK + blocks):
                old[i] = layer
        new = differ = 0
        for offset, blocks, layer in self.header.maps:
            if layer < len(self.layers) and self.header.layers[layer] in parent.header.layers:
                continue
            for i in range(offset // BLOCK, offset // BLOCK + blocks):
                was = old[i]
                if layer >= len(self.layers) and was >= len(parent.layers):
                    continue
                here = slice(i * BLOCK, (i + 1) * BLOCK)
                a = self.layers[layer][here] if layer < len(self.layers) else bytes(BLOCK)
                b = parent.layers[was][here] if was < len(parent.layers) else bytes(BLOCK)
                new += 1
                differ += a != b
        return new, differ


class Floor:
    """A bare VMM that runs; phases in milliseconds."""

    def __init__(self, job, namespace):
        with namespace:
            self.program = subprocess.Popen([FLOOR, job], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, text=True)
        words = self.program.stdout.readline().split()
        if not words:
            raise RuntimeError("the floor failed")
        ns, self.vmm, self.pager, *steps = map(int, words)
        self.ms = ns / 1e6
        self.phases = dict(zip(("load", "connect", "init", "true"), (x / 1e6 for x in steps)))

    def work(self):
        self.program.stdin.write("\n")
        self.program.stdin.flush()
        if self.program.stdout.readline() != "done\n":
            raise RuntimeError("the floor's work failed")

    def close(self):
        self.program.stdin.close()
        self.program.wait()
        self.program.stdout.close()


class Box:
    """A server, and what the floor needs of it."""

    def __init__(self):
        self.w = lib.World("bench", "12G")
        self.w.build_image()
        self.w.start()
        host = self.w.check_host()
        self.firecracker = host["vmm"].startswith("Firecracker")
        print(f"{host['vmm']}, isolation {host['isolation']}, Linux {os.uname().release}, "
              f"{len(os.sched_getaffinity(0))} processors", flush=True)
        self.nets = []

    def close(self):
        for net in self.nets:
            net.close()
        self.w.close()

    def frozen(self):
        """(id, token) of the base image's."""
        return self.rows("SELECT id, token FROM snapshots WHERE kind = 'frozen'")[0]

    def paused(self, s):
        """(id, token) of what its last pause made."""
        return self.rows("SELECT id, token FROM snapshots WHERE kind = 'pause' AND sandbox = ? "
                         "ORDER BY created_ns DESC", s.id)[0]

    def rows(self, sql, *args):
        db = sqlite3.connect(os.path.join(self.w.data, "host.db"))
        try:
            return db.execute(sql, args).fetchall()
        finally:
            db.close()

    def exec_true(self, s):
        a = self.w.api("POST", f"/v1/sandboxes/{s.id}/exec", TRUE)
        assert a.status == 200 and a.json()["exit_code"] == 0, a.body

    def memory(self, *header):
        """Of snapshots/ID/memory.hdr, or sandboxes/ID/base.hdr."""
        data = self.w.data
        return Memory(os.path.join(data, *header), os.path.join(data, "layers"))

    def memory_of_snapshot(self, snapshot):
        return self.memory("snapshots", snapshot, "memory.hdr")

    def slot_of(self, s):
        return self.rows("SELECT slot FROM sandboxes WHERE id = ?", s.id)[0][0]

    def vmm_of(self, s):
        """What a bare VMM is to be told that loads the snapshot of this sandbox, which runs."""
        if self.firecracker:
            return {"firecracker": shutil.which("firecracker")}
        for pid in processes_of(slot_uid(self.slot_of(s))):
            if not program_of(pid).startswith("qemu-system"):
                continue
            with open(f"/proc/{pid}/cmdline") as f:
                qemu = f.read().rstrip("\0").split("\0")
            return {"qemu": qemu, "hook": os.path.join(lib.BUILD, "ramhook.so"),
                    "size": int(qemu[qemu.index("-m") + 1].rstrip("M")) << 20}
        raise RuntimeError("no QEMU of " + s.id)

    def pager(self, snapshot, program="stasis-pager", prefetch=True):
        """Our own, as a jail has it; its socket is for job() to say."""
        where = os.path.join(self.w.data, "snapshots", snapshot)
        args = [os.path.join(lib.BUILD, program), "--header", os.path.join(where, "memory.hdr"),
                "--layers", os.path.join(self.w.data, "layers"), "--socket"]
        if prefetch and os.path.exists(os.path.join(where, "working_set")):
            args[1:1] = ["--working-set", os.path.join(where, "working_set")]
        return args

    def job(self, vmm, snapshot, token, pager=None, number=0, after=(), work=""):
        """A file for bench/floor.c. pager: arguments, to which the socket and `after` are added;
        None: the one layer of the snapshot is mapped."""
        here = os.path.join(self.w.data, "floor", str(number))
        where = os.path.join(self.w.data, "snapshots", snapshot)
        shutil.rmtree(here, ignore_errors=True)
        os.makedirs(here)
        rootfs, socket = os.path.join(here, "rootfs.img"), os.path.join(here, "uffd.sock")
        layer = Header(os.path.join(where, "memory.hdr")).layers[0]
        memory = "" if pager else os.path.join(self.w.data, "layers", layer)
        values = {**vmm, "memory": memory, "pager": "\x1f".join([*(pager or []), socket, *after]),
                  "socket": socket, "disk": os.path.join(where, "disk.img"), "rootfs": rootfs,
                  "token": token, "newtoken": "floor-" + "0" * 40,
                  "work": json.dumps({"process": {"cmd": "/bin/sh", "args": ["-c", work]}})}
        if self.firecracker:
            values["root"] = here
            os.link(os.path.join(where, "vmstate"), os.path.join(here, "vmstate"))
            if memory:
                os.link(memory, os.path.join(here, "mem"))
        else:
            values["state"] = os.path.join(where, "vmstate")
            with open(values["state"], "rb") as f:
                values["offset"] = 40 + struct.unpack_from("<I", f.read(16), 12)[0]
            values["qemu"] = "\x1f".join(a.replace("/rootfs.img", rootfs) for a in vmm["qemu"])
        path = os.path.join(here, "job")
        with open(path, "w") as f:
            f.writelines(f"{k}={v}\n" for k, v in values.items())
        return path

    def floor(self, job, number=0):
        """A bare VMM, whose close() is the caller's."""
        while len(self.nets) <= number:
            net = common.Namespace(f"stasis-bench{len(self.nets)}")
            self.nets.append(net)
            # The gateway that a guest knows has the same address in every slot.
            subprocess.run(["ip", "-n", net.name, "link", "set", "tap0", "address",
                            "06:00:a9:fe:00:16"], check=True)
        return Floor(job, self.nets[number])
