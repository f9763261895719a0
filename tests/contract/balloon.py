#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A guest of a real Firecracker gives memory back and takes it again, while stasis-pager serves it:

    balloon.py PROGRAM PAGER MEMORY_IMAGE

By a balloon and by free page reporting (from 1.14). Stasis asks for neither, and its image has no driver: the module
(virtio_balloon.ko of the guest's kernel) is named by STASIS_TEST_BALLOON; STASIS_TEST_VMLINUX, STASIS_TEST_INITRD and
STASIS_TEST_ROOTFS name the guest. Exit status 77: cannot run here, and why."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import contract

MIB = 8  # in the lab each page takes milliseconds, twice
ARGS = "console=ttyS0 quiet reboot=k panic=-1 pci=off no-kvmapf"


def give(vmm, method, path, body=None):
    status, _, text = vmm.call({"method": method, "path": path, "body": body})
    if status.split()[1] not in ("200", "204"):
        sys.exit(f"{method} {path} {body}: {status} {text}")
    return json.loads(text) if text else None


def until(what, check):
    end = time.monotonic() + contract.LIMIT
    while not check():
        if time.monotonic() > end:
            sys.exit(f"after {contract.LIMIT} s still not: {what}")
        time.sleep(0.1)


def guest(folder):
    """The image's initramfs, and after it an archive with the module and a longer list of modules."""
    for variable in ("VMLINUX", "ROOTFS"):
        subprocess.run(["cp", "--sparse=always", os.environ["STASIS_TEST_" + variable],
                        os.path.join(folder, variable.lower())], check=True)
    initrd = os.environ["STASIS_TEST_INITRD"]
    with tempfile.TemporaryDirectory(dir=folder) as tree:
        with open(initrd, "rb") as f:
            order = subprocess.run(["cpio", "-i", "--quiet", "--to-stdout", "modules/order"], stdin=f, check=True,
                                   stdout=subprocess.PIPE).stdout
        os.mkdir(os.path.join(tree, "modules"))
        shutil.copy(os.environ["STASIS_TEST_BALLOON"], os.path.join(tree, "modules/virtio_balloon.ko"))
        with open(os.path.join(tree, "modules/order"), "wb") as f:
            f.write(order + b"virtio_balloon.ko\n")
        more = subprocess.run(["cpio", "-o", "-H", "newc", "--quiet", "-R", "0:0"], cwd=tree, check=True,
                              input=b"modules\nmodules/virtio_balloon.ko\nmodules/order\n",
                              stdout=subprocess.PIPE).stdout
    with open(initrd, "rb") as f, open(os.path.join(folder, "initrd"), "wb") as out:
        out.write(f.read() + more)


def boot(program, folder):
    vmm = contract.Vmm([program], folder)
    give(vmm, "PUT", "/machine-config", {"vcpu_count": 1, "mem_size_mib": 256, "track_dirty_pages": True})
    give(vmm, "PUT", "/boot-source", {"kernel_image_path": "vmlinux", "initrd_path": "initrd", "boot_args": ARGS})
    give(vmm, "PUT", "/drives/rootfs", {"drive_id": "rootfs", "path_on_host": "rootfs", "is_root_device": True,
                                        "is_read_only": False})
    give(vmm, "PUT", "/balloon", {"amount_mib": 0, "deflate_on_oom": False, "stats_polling_interval_s": 1,
                                  "free_page_reporting": True})
    give(vmm, "PUT", "/actions", {"action_type": "InstanceStart"})
    until("the guest's driver answers", lambda: "free_memory" in give(vmm, "GET", "/balloon/statistics"))
    give(vmm, "PATCH", "/vm", {"state": "Paused"})
    give(vmm, "PUT", "/snapshot/create", {"snapshot_path": "state", "mem_file_path": "mem"})
    vmm.close()


def resize(vmm, mib):
    give(vmm, "PATCH", "/balloon", {"amount_mib": mib})
    until(f"a balloon of {mib} MiB", lambda: give(vmm, "GET", "/balloon/statistics")["actual_mib"] == mib)


def serve(program, pager, folder):
    """What the pager counted, over a balloon that grows, goes, and grows again, and a differential snapshot."""
    arguments = {"socket": "pager.sock", "header": "memory.hdr", "layers": "layers", "stats": "stats"}
    server = subprocess.Popen([pager, *(x for k, v in arguments.items() for x in ("--" + k, os.path.join(folder, v)))])
    try:
        until("the pager listens", lambda: os.path.exists(os.path.join(folder, "pager.sock")))
        vmm = contract.Vmm([program], folder)
        give(vmm, "PUT", "/snapshot/load", {
            "snapshot_path": "state", "track_dirty_pages": True, "resume_vm": True,
            "mem_backend": {"backend_type": "Uffd", "backend_path": "pager.sock"}})
        for mib in (MIB, 0, MIB // 2, 0):
            resize(vmm, mib)
        give(vmm, "PATCH", "/vm", {"state": "Paused"})
        give(vmm, "PUT", "/snapshot/create", {"snapshot_path": "state2", "mem_file_path": "mem2", "snapshot_type": "Diff"})
        vmm.close()
        if code := server.wait(contract.LIMIT):
            sys.exit(f"the pager ended with {code}")
    finally:
        server.kill()
        server.wait()
    with open(os.path.join(folder, "stats")) as f:
        return json.load(f)


def main():
    program, pager, image = map(os.path.abspath, sys.argv[1:])
    for name in ("BALLOON", "VMLINUX", "INITRD", "ROOTFS"):
        if not os.environ.get("STASIS_TEST_" + name):
            contract.skip(f"STASIS_TEST_{name} names no file")
    with tempfile.TemporaryDirectory(prefix="stasis-balloon.") as folder:
        guest(folder)
        boot(program, folder)
        subprocess.run([image, folder, "mem"], check=True)
        stats = serve(program, pager, folder)
    told = {name: stats[name] for name in ("faults", "copied_pages", "zero_pages", "removes", "removed_pages", "eagain")}
    print(json.dumps(told))
    if stats["removed_pages"] < MIB * 256 or not stats["zero_pages"]:
        sys.exit("the pager was not told of what the guest gave back")


if __name__ == "__main__":
    main()
