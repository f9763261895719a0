# SPDX-License-Identifier: Apache-2.0
"""Freeze and thaw, again and again: what a guest has in memory, tmpfs and files after many
generations is what it had before. The guest's program and this test do the same to the same bytes."""
import hashlib
import os
import random
import unittest

import lib

SIZE = 2 << 20
PAGE = 4096

# Holds SIZE bytes and obeys lines on its FIFO: "seed n" changes n pages, "zero n" zeroes n pages,
# "sum" writes the SHA-256 and a counter of how often it was asked to another FIFO.
GUEST = r'''
import hashlib, os, random, sys
size, page = %d, %d
mem = bytearray(size)
kept = open("/home/user/kept", "a+")
os.mkfifo("/dev/shm/out")
os.mkfifo("/dev/shm/in")
asked = 0
while True:
    for line in open("/dev/shm/in"):
        word, *rest = line.split()
        if word == "sum":
            asked += 1
            with open("/dev/shm/out", "w") as f:
                f.write("%%s %%d\n" %% (hashlib.sha256(mem).hexdigest(), asked))
            continue
        seed, n = map(int, rest)
        r = random.Random(seed)
        for _ in range(n):
            at = r.randrange(size // page) * page
            mem[at:at + page] = bytes(page) if word == "zero" else r.randbytes(64) * (page // 64)
        kept.write("%%s %%d\n" %% (word, seed))
        kept.flush()
''' % (SIZE, PAGE)


class Model:
    """The same on this side."""

    def __init__(self):
        self.mem, self.kept, self.asked = bytearray(SIZE), "", 0

    def change(self, word, seed, n):
        r = random.Random(seed)
        for _ in range(n):
            at = r.randrange(SIZE // PAGE) * PAGE
            self.mem[at:at + PAGE] = bytes(PAGE) if word == "zero" else r.randbytes(64) * (PAGE // 64)
        self.kept += f"{word} {seed}\n"

    def copy(self):
        m = Model()
        m.mem, m.kept, m.asked = bytearray(self.mem), self.kept, self.asked
        return m


def begin(s):
    s.sh("cat > /home/user/guest.py <<'END'\n" + GUEST + "\nEND")
    s.sh("nohup python3 /home/user/guest.py >/home/user/guest.log 2>&1 & "
         "until [ -p /dev/shm/in ]; do sleep 0.1; done")
    return Model()


def change(s, m, word, seed, n):
    m.change(word, seed, n)
    s.sh(f"echo {word} {seed} {n} > /dev/shm/in")


def compare(test, s, m):
    m.asked += 1
    out = s.sh("echo sum > /dev/shm/in; cat /dev/shm/out /home/user/kept").split("\n", 1)
    test.assertEqual(out[0], f"{hashlib.sha256(m.mem).hexdigest()} {m.asked}")
    test.assertEqual(out[1], m.kept)


class Generations(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()

    def test_thirty_generations(self):
        """In the lab, where a page takes milliseconds, fewer of them: STASIS_GENERATIONS."""
        s = self.w.create()
        self.addCleanup(s.delete)
        m = begin(s)
        backends = set()
        for i in range(int(os.environ.get("STASIS_GENERATIONS", "30"))):
            change(s, m, "zero" if i % 3 == 2 else "seed", i, 1 + i * 7 % 40)
            self.assertEqual(s.pause()["state"], "paused")
            backends.add(s.resume()["backend"])
            if i % 5 == 4:
                compare(self, s, m)
        compare(self, s, m)
        self.assertIn("uffd", backends)
        self.assertEqual(s.sh("cat /proc/sys/kernel/hostname").strip(), s.id)

    def test_forks_go_their_own_ways(self):
        s = self.w.create()
        self.addCleanup(s.delete)
        m = begin(s)
        change(s, m, "seed", 1000, 50)
        compare(self, s, m)
        a, b = s.fork(2)
        ma, mb = m.copy(), m.copy()
        change(a, ma, "zero", 1, 30)
        change(b, mb, "seed", 2, 30)
        change(s, m, "seed", 3, 30)
        for box, model in ((s, m), (a, ma), (b, mb)):
            compare(self, box, model)
        # The source's diff became its lineage: nothing is lost of what came before the fork.
        s.pause()
        a.pause()
        s.resume()
        compare(self, s, m)
        s.delete()
        b.pause()
        a.resume()
        compare(self, a, ma)
        b.resume()
        compare(self, b, mb)
        a.delete()
        b.delete()

    def test_a_snapshot_outlives_everybody(self):
        name = "outlives"
        s = self.w.create()
        m = begin(s)
        change(s, m, "seed", 7, 60)
        before = m.copy()
        row = s.snapshot(name)
        self.assertEqual((row["name"], row["kind"]), (name, "snapshot"))
        change(s, m, "zero", 8, 60)
        compare(self, s, m)
        self.assertEqual(s.delete().status, 204)
        children = [self.w.create(template=name) for _ in range(2)]
        for c in children:
            compare(self, c, before.copy())
        self.assertEqual(self.w.api("DELETE", f"/v1/snapshots/{name}").status, 204)
        children[0].pause()
        for c in children[1:]:
            mine = before.copy()
            mine.asked = 1
            compare(self, c, mine)
        children[0].resume()
        mine = before.copy()
        mine.asked = 1
        compare(self, children[0], mine)
        for c in children:
            c.delete()

    def test_rollback(self):
        s = self.w.create()
        self.addCleanup(s.delete)
        m = begin(s)
        change(s, m, "seed", 70, 20)
        s.snapshot("back-then")
        self.addCleanup(self.w.api, "DELETE", "/v1/snapshots/back-then")
        then = m.copy()
        change(s, m, "seed", 71, 20)
        compare(self, s, m)
        self.assertEqual(s.resume(**{"from": "back-then"})["state"], "running")
        compare(self, s, then)
        s.pause()
        self.assertEqual(s.resume(**{"from": "back-then"})["state"], "running")
        then.asked -= 1
        compare(self, s, then)


class CloneContract(unittest.TestCase):
    """Copies share no identity."""

    # Records what user code sees first after a thaw under a new name.
    WATCH = r'''
import os, time
while True:
    real = time.time()
    host = os.uname().nodename
    r = os.getrandom(16).hex()
    if host != globals().get("seen"):
        seen = host
        with open("/dev/shm/first." + host + ".new", "w") as f:
            f.write("%s %.6f" % (r, real))
        os.rename("/dev/shm/first." + host + ".new", "/dev/shm/first." + host)
    time.sleep(0.3)
'''

    def test_twenty_children(self):
        w = lib.world()
        s = w.create()
        self.addCleanup(s.delete)
        s.sh("cat > /home/user/watch.py <<'END'\n" + self.WATCH + "\nEND")
        s.sh("nohup nice python3 /home/user/watch.py >/home/user/watch.log 2>&1 & "
             f"until [ -f /dev/shm/first.{s.id} ]; do sleep 0.1; done")
        # A few at a time: what is tested is their identity, not what the machine can carry.
        seen = {"first": set(), "token": set()}
        with lib.Outside() as url:
            self.fork_all(s, seen, url)
        self.assertEqual([len(v) for v in seen.values()], [20, 20])

    def fork_all(self, s, seen, url):
        for _ in range(5):
            children = s.fork(4)
            try:
                self.check(children, seen, url)
            finally:
                for c in children:
                    c.delete()

    def check(self, children, seen, url):
        # By the shell alone: a program that a copy runs for the first time is translated anew.
        host, path = url.removeprefix("http://").split("/", 1)
        fetch = (f"exec 3<>/dev/tcp/{host}/80; printf 'GET /{path} HTTP/1.0\\r\\n\\r\\n' >&3; "
                 "IFS= read -t 20 -rd '' answer <&3; echo \"$answer\"")
        for c in children:
            out = c.sh(f"until [ -f /dev/shm/first.{c.id} ]; do sleep 0.1; done; "
                       f'echo "$(</dev/shm/first.{c.id})"; echo "$(</proc/sys/kernel/hostname)"')
            seen["first"].add(out.split()[0])
            seen["token"].add(c.token)
            self.assertIn(c.id, out)
        for c in children:
            # A clock reading of the guest lies between two of ours, up to the 50 ms promised.
            before = lib.time.time()
            there = float(c.sh("echo $EPOCHREALTIME"))
            after = lib.time.time()
            self.assertGreater(there, before - 0.05)
            self.assertLess(there, after + 0.05)
            # The network works: the commands came that way, and this goes the other way.
            self.assertTrue(c.sh(fetch).endswith("outside\n"))


class CleanUp(unittest.TestCase):
    def stored(self, w):
        return {os.path.join(d, n) for d in ("layers", "snapshots", "sandboxes")
                for n in os.listdir(os.path.join(w.data, d))
                if d != "sandboxes" or not set(os.listdir(os.path.join(w.data, d, n))) <= lib.KEPT}

    def test_a_hundred_operations_leave_nothing(self):
        """Twenty times create, pause, resume, fork, destroy; then the machine and the store are as before.
        STASIS_CYCLES=100 takes three minutes."""
        w = lib.world()
        before, stored = w.leftovers(), self.stored(w)
        for _ in range(int(os.environ.get("STASIS_CYCLES", "20"))):
            s = w.create()
            s.pause()
            s.resume()
            child, = s.fork(1)
            for box in (s, child):
                self.assertEqual(box.delete().status, 204)
        w.settle(before)
        lib.wait_until("layers collected", lambda: self.stored(w) <= stored, 60)
