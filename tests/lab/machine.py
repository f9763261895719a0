# SPDX-License-Identifier: Apache-2.0
"""The lab's machine, a disk and kernels, in the image cache: made where it is not there, under a name
that is the sum of what it is made of."""
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SOURCES = ("build", "init", "initrd-init")
# Two trees of different packages or scripts do not throw each other's machine away.
KEPT = 2


class NotMade(Exception):
    """The machine is not in the cache and could not be made."""


def say(text):
    print("lab: " + text, file=sys.stderr, flush=True)


def sections(*names):
    inside, found = False, []
    with open(os.path.join(ROOT, "packaging/debian-packages.txt")) as f:
        for line in f:
            if line.startswith("["):
                inside = line.strip("[]\n") in names
            elif inside and line[:1].isalnum():
                found.append(line.strip())
    return found


def path(cache):
    """Where the machine is, or will be."""
    total = hashlib.sha256(" ".join(sections("run", "test", "lab-guest")).encode())
    for name in SOURCES:
        with open(os.path.join(HERE, name), "rb") as f:
            total.update(f.read())
    return os.path.join(cache, "lab", total.hexdigest()[:16])


def remove_old(folder):
    """What was not finished; of the others all but the last used, and those that a lab has (take())."""
    others = [os.path.join(folder, n) for n in os.listdir(folder) if n != "lock"]
    whole = sorted((o for o in others if not o.endswith(".new")), key=lambda o: os.stat(o).st_mtime)
    for old in set(others) - set(whole[len(whole) - (KEPT - 1):]):
        fd = os.open(old, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old)
        except BlockingIOError:
            pass
        finally:
            os.close(fd)


def make(there):
    say(f"making its machine in {there}: a minute or more")
    began = time.monotonic()
    program = subprocess.Popen([os.path.join(HERE, "build"), there + ".new"])
    try:
        if code := program.wait():
            raise NotMade(f"tests/lab/build: exit code {code}")
        os.rename(there + ".new", there)
    finally:
        program.terminate()
        program.wait()
        shutil.rmtree(there + ".new", ignore_errors=True)
    say(f"made in {time.monotonic() - began:.0f} s")


def take(cache):
    """(directory, descriptor): while the descriptor is open the machine is not removed."""
    there = path(cache)
    folder = os.path.dirname(there)
    try:
        os.makedirs(folder, exist_ok=True)
        lock = open(os.path.join(folder, "lock"), "w")
    except OSError as error:
        raise NotMade(str(error)) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(there):
            remove_old(folder)
            make(there)
        os.utime(there)
        fd = os.open(there, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_SH)
    return there, fd
