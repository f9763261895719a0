# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks in Python share: a server of their own, a bare QEMU as the floor, medians."""
import ctypes
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
import lib  # noqa: E402

GUEST = ("169.254.0.21", 49983)
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def median(values):
    return statistics.median(values)


def line(name, values, unit="ms"):
    print(f"{name:34} median {median(values):9.2f} {unit}   min {min(values):9.2f}   "
          f"max {max(values):9.2f}   n={len(values)}", flush=True)


class Namespace:
    """A network namespace with the tap device that a slot has, made with ip: it is not measured."""

    def __init__(self, name="stasis-bench"):
        self.name = name
        for cmd in (f"ip netns add {name}",
                    f"ip -n {name} tuntap add tap0 mode tap vnet_hdr",
                    f"ip -n {name} addr add 169.254.0.22/30 dev tap0",
                    f"ip -n {name} link set lo up",
                    f"ip -n {name} link set tap0 up",
                    f"ip -n {name} neigh add 169.254.0.21 lladdr 06:00:a9:fe:00:15 dev tap0 "
                    "nud permanent"):
            subprocess.run(cmd.split(), check=True)

    def close(self):
        subprocess.run(["ip", "netns", "del", self.name], check=False)

    def __enter__(self):
        self.own = os.open("/proc/self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        if libc.setns(there, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(there)

    def __exit__(self, *_):
        libc.setns(self.own, CLONE_NEWNET)
        os.close(self.own)


def tsc_khz():
    for text in open("/proc/cpuinfo"):
        if text.startswith("cpu MHz"):
            return int(float(text.split(":")[1]) * 1000)
    raise RuntimeError("no clock rate in /proc/cpuinfo")


class BareGuest:
    """The same image in plain QEMU: no preload, no jail, no adapter, nothing of ours around it."""

    def __init__(self, namespace, data, template, work, vcpus=1, memory_mb=512):
        self.namespace = namespace
        self.disk = os.path.join(work, "bare.img")
        kernel = os.path.join(data, "kernels", template["kernel"])
        with open(f"{kernel}/config.json") as f:
            boot_args = json.load(f)["boot_args"]
        # The machine as fcqemu makes it, without what is ours.
        self.args = [
            "/usr/bin/qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none",
            "-no-reboot", "-M", "microvm,pit=on,pic=on,rtc=on,acpi=on,mem-merge=off",
            "-global", "virtio-mmio.force-legacy=false", "-serial", "file:/dev/null",
            "-accel", "tcg,thread=" + ("multi" if vcpus > 1 else "single") + ",tb-size=256",
            "-cpu", "max,svm=off,vmx=off,pmu=off", "-smp", str(vcpus), "-m", f"{memory_mb}M",
            "-kernel", f"{kernel}/vmlinux", "-initrd", f"{kernel}/initrd", "-append",
            f"console=ttyS0 {boot_args} root=/dev/vda rw tsc_early_khz={tsc_khz()} "
            "tsc=reliable reboot=t",
            "-blockdev", f"driver=file,node-name=f,filename={self.disk},locking=off,discard=unmap,cache.no-flush=on",
            "-blockdev", "driver=raw,node-name=d,file=f,discard=unmap",
            "-device", "virtio-blk-device,drive=d,bus=virtio-mmio-bus.23",
            "-netdev", "tap,id=n,ifname=tap0,script=no,downscript=no",
            "-device", "virtio-net-device,netdev=n,bus=virtio-mmio-bus.9,mac=06:00:a9:fe:00:15",
            "-object", "rng-builtin,id=r", "-device", "virtio-rng-device,rng=r,bus=virtio-mmio-bus.1"]
        self.source = os.path.join(data, "templates", template["name"], template["rootfs"])

    def boot(self):
        """Milliseconds from the start of QEMU (its disk is ready) to the agent's first answer."""
        subprocess.run(["cp", "--reflink=auto", "--sparse=always", self.source, self.disk], check=True)
        with self.namespace:
            start = time.monotonic()
            self.process = subprocess.Popen(self.args, stdin=subprocess.DEVNULL)
            while not answers():
                if self.process.poll() is not None:
                    raise RuntimeError("the bare guest ended")
                time.sleep(0.005)
            return (time.monotonic() - start) * 1e3

    def end(self):
        self.process.kill()
        self.process.wait()
        os.unlink(self.disk)


def answers():
    try:
        with socket.create_connection(GUEST, timeout=0.05) as s:
            s.settimeout(2)
            s.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return s.recv(64).startswith(b"HTTP/1.1 204")
    except OSError:
        return False


def template(world, name="base"):
    with open(os.path.join(world.data, "templates", name, "template.json")) as f:
        return json.load(f)


class Client:
    """One kept connection, as an SDK has it."""

    def __init__(self, host, port, headers):
        self.http = http.client.HTTPConnection(host, port, timeout=120)
        self.headers = headers

    def call(self, method, path, body=None):
        self.http.request(method, path, body=body, headers=self.headers)
        r = self.http.getresponse()
        return r.status, r.read()
