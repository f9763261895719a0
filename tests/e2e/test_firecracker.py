# SPDX-License-Identifier: Apache-2.0
"""The main path on a real Firecracker: opt-in, since no test machine has one. STASIS_FIRECRACKER names
the binary; the machine needs a KVM that works."""
import os
import unittest

import lib

PROGRAM = os.environ.get("STASIS_FIRECRACKER")


class FirecrackerWorld(lib.World):
    def serve_args(self):
        return [*super().serve_args(), "--vmm", "firecracker", "--firecracker", PROGRAM]


@unittest.skipUnless(PROGRAM, "STASIS_FIRECRACKER names no firecracker binary: NOTHING was tested with "
                              "the real one")
class Firecracker(unittest.TestCase):
    def test_main_path(self):
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
