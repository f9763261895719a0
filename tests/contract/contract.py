#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Firecracker's API as a real one answers, and as fcqemu does: one script of calls (calls.py).

    contract.py PROGRAM [ARGUMENT...]            compares with what the real Firecracker answered
    contract.py --record PROGRAM [ARGUMENT...]   prints what PROGRAM answers

The record, firecracker-1.16.1.json, is what that version answered on Linux with KVM; those of other versions hold what
they answered otherwise. make test compares fcqemu with the record on every machine, the KVM lab a real Firecracker
(tests/e2e/test_firecracker.py). STASIS_TEST_VMLINUX and STASIS_TEST_INITRD name the guest. Exit status 77: cannot run
here, and why."""
import ctypes
import fcntl
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.dont_write_bytecode = True
sys.path.insert(0, HERE)
import calls  # noqa: E402

BASE = "1.16.1"
LIMIT = 300  # seconds of one wait, a dead man's switch
CLONE_NEWNET = 0x40000000
TUNSETIFF, TUNSETPERSIST, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454ca, 0x400454cb, 2, 0x1000, 0x4000
POSITION = re.compile(r" at line \d+ column \d+")


def skip(why):
    print("SKIPPED: " + why)
    sys.exit(77)


def in_own_network():
    """In the program about to start: a network namespace of its own, with two taps."""
    if ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
        os._exit(77)
    for name in (b"tap0", b"tap1"):
        fd = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
        os.close(fd)


class Vmm:
    def __init__(self, command, folder):
        for name in ("api.sock", "log", "metrics", "metrics2"):
            if os.path.exists(os.path.join(folder, name)):
                os.unlink(os.path.join(folder, name))
        self.path = os.path.join(folder, "api.sock")
        with open(os.path.join(folder, "output"), "wb") as out:
            self.process = subprocess.Popen([*command, "--api-sock", "api.sock", "--id", "contract"], cwd=folder,
                                            stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=in_own_network)
        self.socket = None

    def connect(self):
        end = time.monotonic() + LIMIT
        while self.process.poll() is None and time.monotonic() < end:
            try:
                self.socket = socket.socket(socket.AF_UNIX)
                self.socket.settimeout(LIMIT)
                self.socket.connect(self.path)
                self.file = self.socket.makefile("rb")
                return
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.02)
        sys.exit(f"the program ended with {self.process.poll()} before its socket was there")

    def call(self, c):
        """status, headers, body as text. What answers with an error of HTTP closes the connection."""
        if self.socket is None:
            self.connect()
        body = c["body"]
        text = body if isinstance(body, calls.Raw) else json.dumps(body, ensure_ascii=False)
        data = b"" if body is None else text.encode()
        head = f"{c['method']} {c['path']} HTTP/1.1\r\nHost: localhost\r\n"
        if data:
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        self.socket.sendall(head.encode() + b"\r\n" + data)
        status, headers = self.file.readline(), {}
        while line := self.file.readline().rstrip(b"\r\n"):
            key, _, value = line.decode().partition(": ")
            headers[key] = value
        text = self.file.read(int(headers.get("Content-Length", 0))).decode()
        if text.startswith('{ "error"'):
            self.socket = None
        return status.decode().rstrip("\r\n"), headers, text

    def ended(self):
        """The exit status; -1: it still runs."""
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            return -1

    def close(self):
        self.process.kill()
        self.process.wait()


def answer(vmm, c):
    """What is compared of an answer."""
    status, headers, text = vmm.call(c)
    got = {"call": f"{c['method']} {c['path']}", "status": status}
    if c["body"] is not None:
        got["call"] += " " + json.dumps(c["body"])
    if "Deprecation" in headers:
        got["deprecation"] = headers["Deprecation"]
    if text:
        try:
            got["body"] = json.loads(text)
        except ValueError:
            got["text"] = text
    for name in ("Server", "Connection", "Content-Type"):
        expected = {"Server": "Firecracker API", "Connection": "keep-alive",
                    "Content-Type": "application/json" if text else None}[name]
        if headers.get(name) != expected:
            got[name] = headers.get(name)
    if c["ends"]:
        got["exit"] = vmm.ended()
    return got


def play(command, folder):
    """All scenes: name -> answers."""
    shown = {}
    for scene in calls.SCENES:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            for name in os.listdir(folder):
                source = os.path.join(folder, name)
                if os.path.isfile(source) and name != scene.without:
                    os.link(source, os.path.join(place, name))
            vmm = Vmm(command, place)
            try:
                shown[scene.name] = []
                for c in scene.calls:
                    shown[scene.name].append(answer(vmm, c))
            except OSError as e:
                with open(os.path.join(place, "output"), errors="replace") as f:
                    sys.exit(f"{scene.name}: {c}: {e}: {f.read()[-2000:]}")
            finally:
                vmm.close()
            if scene.keep:
                for name in ("state", "mem"):
                    os.rename(os.path.join(place, name), os.path.join(folder, name))
    return shown


def guest(folder):
    """The files that each scene finds."""
    for name in ("vmlinux", "initrd"):
        path = os.environ.get("STASIS_TEST_" + name.upper())
        if not path:
            skip("STASIS_TEST_" + name.upper() + " names no file")
        shutil.copy(path, os.path.join(folder, name))
    for name, size in (("disk", 1 << 20), ("other", 2 << 20)):
        with open(os.path.join(folder, name), "wb") as f:
            f.truncate(size)
    with open(os.path.join(folder, "text"), "w") as f:
        f.write("nothing of use\n")


def plain(value, version):
    """Without what says which program it was, and where in a body a reader was."""
    text = json.dumps(value).replace(version, "VERSION")
    return json.loads(POSITION.sub("", text))


def record_path(version):
    return os.path.join(HERE, f"firecracker-{version}.json")


def record_of(version):
    """What that version answered; None: it was not asked."""
    if not os.path.exists(record_path(version)):
        return None
    with open(record_path(BASE)) as f:
        record = json.loads(f.read().replace(BASE, version))
    if version == BASE:
        return record
    with open(record_path(version)) as f:
        other = json.load(f)
    for name, answers in other["scenes"].items():
        for n, a in answers.items():
            record["scenes"][name][int(n)] = a
    return record


def written(shown):
    """As a record: an answer a line; of another version those that are not as the first one's."""
    scenes, base = [], None
    if shown["version"] != BASE:
        base = record_of(BASE)
    for name, answers in shown["scenes"].items():
        lines = []
        for n, a in enumerate(answers):
            if base is None:
                lines.append("  " + json.dumps(a))
            elif plain(a, shown["version"]) != plain(base["scenes"][name][n], BASE):
                lines.append(f'  "{n}": {json.dumps(a)}')
        text = ",\n".join(lines)
        if base is None:
            scenes.append(f" {json.dumps(name)}: [\n{text}\n ]")
        elif lines:
            scenes.append(f" {json.dumps(name)}: {{\n{text}\n }}")
    version = json.dumps(shown["version"])
    return f'{{"version": {version}, "scenes": {{\n' + ",\n".join(scenes) + "\n}}"


def compare(shown, record):
    """Prints each difference; their number."""
    wrong = 0
    for scene in calls.SCENES:
        for c, real, got in zip(scene.calls, record["scenes"][scene.name], shown["scenes"][scene.name]):
            if real["call"] != got["call"]:
                sys.exit(f"{scene.name}: {got['call']}: the record is of other calls: --record it anew")
            same = plain(real, record["version"]) == plain(got, shown["version"])
            if same != bool(c["why"] and shown["version"].endswith("fcqemu")):
                continue
            wrong += 1
            print(f"{scene.name}: {real['call']}")
            if same:
                print(f"  is to differ: {c['why']}")
            print(f"  Firecracker: {json.dumps({k: v for k, v in real.items() if k != 'call'})}")
            print(f"  this one:    {json.dumps({k: v for k, v in got.items() if k != 'call'})}", flush=True)
    return wrong


def main():
    arguments = sys.argv[1:]
    record_only = arguments[:1] == ["--record"]
    command = arguments[1:] if record_only else arguments
    if not command:
        sys.exit(__doc__)
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        skip("needs root and /dev/net/tun")
    command = [os.path.abspath(a) if os.path.isfile(a) else a for a in command]
    with tempfile.TemporaryDirectory(prefix="stasis-contract.") as folder:
        guest(folder)
        scenes = play(command, folder)
    version = next(a["body"]["firecracker_version"] for a in scenes["nothing configured"]
                   if a["call"] == "GET /version")
    shown = {"version": version, "scenes": scenes}
    if record_only:
        print(written(shown))
        return 0
    record = record_of(BASE if version.endswith("fcqemu") else version)
    if record is None:
        skip(f"no record of {version}: --record it")
    total = sum(len(s.calls) for s in calls.SCENES)
    wrong = compare(shown, record)
    print(f"{total} calls, {wrong} answers of {version} are not as {record['version']}'s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
