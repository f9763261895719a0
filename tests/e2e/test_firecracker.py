# SPDX-License-Identifier: Apache-2.0
"""A real Firecracker, beside what the other words do with it: opt-in, since no test machine has one.
STASIS_FIRECRACKER names the binary; the machine needs a KVM that works."""
import json
import os
import subprocess
import unittest

import lib

PROGRAM = os.environ.get("STASIS_FIRECRACKER")
CONTRACT = os.path.join(lib.ROOT, "tests/contract/contract.py")
BALLOON = os.path.join(lib.ROOT, "tests/contract/balloon.py")
# Of the guest's kernel package, whose drivers the image has not all.
BALLOON_DRIVER = os.environ.get("STASIS_TEST_BALLOON") or os.path.join(lib.BUILD, "virtio_balloon.ko")
CLIENT = os.path.join(lib.BUILD, "tests/integration/vmm/client_calls")
MEMORY_IMAGE = os.path.join(lib.BUILD, "tests/integration/vmm/memory_image")


class FirecrackerWorld(lib.World):
    def serve_args(self):
        return [*super().serve_args(), "--vmm", "firecracker", "--firecracker", PROGRAM]


@unittest.skipUnless(PROGRAM, "STASIS_FIRECRACKER names no firecracker binary: NOTHING was tested with "
                              "the real one")
class Firecracker(unittest.TestCase):
    def guest(self):
        """The image's files, as the integration tests are told of them."""
        data = lib.world().data
        with open(os.path.join(data, "templates/base/template.json")) as f:
            template = json.load(f)
        kernel = os.path.join(data, "kernels", template["kernel"])
        files = {name: os.path.join(kernel, name) for name in ("vmlinux", "initrd")}
        files["rootfs"] = os.path.join(data, "templates/base", template["rootfs"])
        return {"STASIS_TEST_" + name.upper(): path for name, path in files.items()}

    def run_program(self, *command):
        done = subprocess.run(command, env={**os.environ, **self.guest()}, capture_output=True, text=True,
                              check=False)
        if done.returncode == 77:
            self.skipTest(done.stdout.strip())
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_answers_are_those_that_were_recorded(self):
        self.run_program(CONTRACT, PROGRAM)

    def test_our_client_of_its_api(self):
        self.run_program(CLIENT, PROGRAM)

    def test_memory_given_back_is_told_to_the_pager(self):
        if not os.path.exists(BALLOON_DRIVER):
            self.skipTest(f"{BALLOON_DRIVER} is not there: the image has no driver of a balloon")
        os.environ["STASIS_TEST_BALLOON"] = BALLOON_DRIVER
        self.run_program(BALLOON, PROGRAM, os.path.join(lib.BUILD, "stasis-pager"), MEMORY_IMAGE)

    def test_named_in_the_settings(self):
        """Where another is in use already: the words of before have had this one."""
        if lib.world().check_host()["vmm"].startswith("Firecracker"):
            self.skipTest("the server of all tests has it")
        world = FirecrackerWorld("firecracker")
        try:
            world.build_image()
            world.start()
            self.assertTrue(world.api("GET", "/v1/host").json()["vmm"].startswith("Firecracker"))
            before = world.leftovers()
            sandbox = world.create()
            self.assertEqual(sandbox.sh("echo hi"), "hi\n")
            self.assertEqual(sandbox.sh("python3 -c 'print(6 * 7)'"), "42\n")
            self.assertEqual(sandbox.delete().status, 204)
            world.settle(before)
        finally:
            world.close()
