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
CLIENT = os.path.join(lib.BUILD, "tests/integration/vmm/client_calls")


class FirecrackerWorld(lib.World):
    def serve_args(self):
        return [*super().serve_args(), "--vmm", "firecracker", "--firecracker", PROGRAM]


@unittest.skipUnless(PROGRAM, "STASIS_FIRECRACKER names no firecracker binary: NOTHING was tested with "
                              "the real one")
class Firecracker(unittest.TestCase):
    def guest(self):
        """The image's kernel and initramfs, as the integration tests are told of them."""
        data = lib.world().data
        with open(os.path.join(data, "templates/base/template.json")) as f:
            kernel = os.path.join(data, "kernels", json.load(f)["kernel"])
        return {"STASIS_TEST_" + name.upper(): os.path.join(kernel, name) for name in ("vmlinux", "initrd")}

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
