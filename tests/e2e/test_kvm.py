# SPDX-License-Identifier: Apache-2.0
"""What is different where the guests run on KVM: their processor, their clocks, and how the kernel
tells which pages they wrote. Skipped where they are emulated (make test-kvm expects KVM)."""
import os
import time
import unittest

import lib


def tracking(w, host):
    """How a pause finds what the guest wrote, by what this kernel has."""
    if not host["vmm"].startswith("fcqemu"):
        return "dirty log of KVM"
    report = w.cli("doctor", "-o", "json", api=False).json()
    status = {c["name"]: c["status"] for c in report["checks"]}
    exact = status["pagemap"] == status["userfaultfd"] == "ok"
    return "exact (PAGEMAP_SCAN)" if exact else "by bytes (all pages touched since the load are compared)"


def note(text):
    """For tests/run, which says it at its end."""
    print("  on " + text, flush=True)
    logs = os.path.join(lib.ROOT, "build/test-logs")
    os.makedirs(logs, exist_ok=True)
    with open(os.path.join(logs, "kvm-seen"), "w") as f:
        f.write(text)


class Kvm(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        cls.host = cls.w.check_host()
        if cls.host["isolation"] != "kvm":
            raise unittest.SkipTest("guests are emulated here: make test-kvm runs this in the lab")
        note(f"Linux {os.uname().release}, isolation {cls.host['isolation']}, "
             f"{cls.host['vmm']}, dirty tracking: {tracking(cls.w, cls.host)}")
        cls.before = cls.w.leftovers()
        cls.s = cls.w.create()

    @classmethod
    def tearDownClass(cls):
        cls.s.delete()
        cls.w.settle(cls.before)

    def test_processor(self):
        """KVM's clock; no virtualisation of their own, and no counters where our adapter decides."""
        clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
        self.assertEqual(self.s.sh(f"cat {clock}"), "kvm-clock\n")
        flags = set(self.s.sh("grep -m 1 ^flags /proc/cpuinfo").split())
        self.assertIn("hypervisor", flags)
        self.assertEqual(flags & {"svm", "vmx"}, set())
        if self.host["vmm"].startswith("fcqemu"):
            self.assertNotIn("cpu", self.s.sh("ls /sys/bus/event_source/devices").split())

    def clock_is_right(self):
        """The guest's clock, between two readings of the host's; a second for what it may be off."""
        earliest = time.time() - 1
        there = float(self.s.sh("date +%s.%N"))
        self.assertLess(earliest, there)
        self.assertLess(there, time.time() + 1)

    def test_clock_goes_on(self):
        self.clock_is_right()
        self.s.pause()
        time.sleep(2)  # what the guest's clock would be behind
        self.s.resume(timeout_sec=3600)
        self.clock_is_right()

    def test_memory(self):
        """Two pauses, the second of them of pages that the first has. In the lab each page that is
        read is a fault of its own, and takes milliseconds."""
        self.s.sh("head -c 4M /dev/urandom > /dev/shm/a")
        total = self.s.sh("md5sum < /dev/shm/a")
        for _ in range(2):
            self.s.pause()
            self.s.resume(timeout_sec=3600)
            self.assertEqual(self.s.sh("md5sum < /dev/shm/a", timeout_sec=300), total)

    def test_no_interrupt_tells_of_pages(self):
        """A load gives the guest none of asynchronous page faults: one that is lost, or comes twice,
        is a guest that stands still."""
        self.s.pause()
        self.s.resume(timeout_sec=3600)
        counts = self.s.sh("grep HYP: /proc/interrupts || true").split()
        self.assertEqual(sum(int(n) for n in counts if n.isdigit()), 0)

    def test_network(self):
        """A way out, before and after a load."""
        with lib.Outside() as url:
            fetch = f"python3 -c 'import urllib.request as u; print(u.urlopen(\"{url}\", timeout=60).read().decode())'"
            self.assertEqual(self.s.sh(fetch), "outside\n")
            self.s.pause()
            self.s.resume(timeout_sec=3600)
            self.assertEqual(self.s.sh(fetch), "outside\n")

    def test_entropy(self):
        """A source of random numbers that the VMM has, before and after a load; no two reads alike."""
        seen = set()
        for _ in range(2):
            self.assertIn("virtio", self.s.sh("cat /sys/devices/virtual/misc/hw_random/rng_current"))
            seen |= {self.s.sh("head -c 16 /dev/hwrng | od -An -tx1", user="root") for _ in range(2)}
            self.s.pause()
            self.s.resume(timeout_sec=3600)
        self.assertEqual(len(seen), 4, seen)

    def test_two_processors(self):
        s = self.w.create(vcpus=2, memory_mb=384)
        try:
            both = "for c in 0 1; do taskset -c $c echo $c; done"
            self.assertEqual(s.sh(both), "0\n1\n")
            s.pause()
            s.resume(timeout_sec=3600)
            self.assertEqual(s.sh(both), "0\n1\n")
        finally:
            s.delete()


# A file whose pages are counted that lie above the hole of the devices, which ends at 4 GiB. Linux
# takes from there first.
ABOVE = r"""
import ctypes, mmap, os, struct
f = open("/dev/shm/a", "r+b")
m = mmap.mmap(f.fileno(), 0)
pages = len(m) // 4096
for i in range(pages):
    m[i * 4096]
pagemap = open("/proc/self/pagemap", "rb")
pagemap.seek(ctypes.addressof(ctypes.c_char.from_buffer(m)) // 4096 * 8)
entries = struct.unpack("%dQ" % pages, pagemap.read(pages * 8))
print(sum((e & ((1 << 55) - 1)) >= 1 << 20 for e in entries))
"""


class Large(unittest.TestCase):
    """More memory than lies below the hole of the devices, at 3 GiB: what is above is in every
    snapshot too."""

    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        cls.host = cls.w.check_host()
        if cls.host["isolation"] != "kvm" or cls.host["memory_mb"] < 7000:
            raise unittest.SkipTest("needs KVM and 8 GiB: make test-kvm LAB_RAM=8G")

    def test_memory_above_the_hole(self):
        s = self.w.create(memory_mb=3584)
        self.addCleanup(s.delete)
        s.sh("cat > /dev/shm/above.py; head -c 16M /dev/urandom > /dev/shm/a", stdin=ABOVE)
        self.assertGreater(int(s.sh("python3 /dev/shm/above.py", user="root")), 3000)
        for change in ("true", "printf x | dd of=/dev/shm/a conv=notrunc seek=5000000 bs=1 status=none"):
            s.sh(change)
            total = s.sh("md5sum < /dev/shm/a")
            s.pause()
            s.resume(timeout_sec=3600)
            self.assertEqual(s.sh("md5sum < /dev/shm/a", timeout_sec=300), total)
