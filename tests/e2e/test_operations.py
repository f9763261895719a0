# SPDX-License-Identifier: Apache-2.0
"""The control plane killed at each step of an operation: nothing acknowledged is lost, nothing runs
twice, and the same Idempotency-Key gets the answer afterwards."""
import unittest
import uuid

import lib

POINTS = ("control.before_begin", "control.after_begin", "control.before_finish")


class Operations(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        if cls.w.server is None:
            cls.w.start()
        cls.w.clear()

    def tearDown(self):
        if self.w.server is None:
            self.w.start()
        self.w.clear()

    def sandboxes(self):
        return self.w.api("GET", "/v1/sandboxes").json()["sandboxes"]

    def cut(self, point, method, path, body=None):
        """The call, on a server that dies at the point, then again on one that does not."""
        headers = {"Idempotency-Key": str(uuid.uuid4())}
        self.w.stop()
        self.w.start(fault=f"{point}:kill@1")
        try:
            a = self.w.api(method, path, body, headers=headers)
            self.assertIn(a.status, (502, 503, 504), a.body)
        except OSError:
            pass
        self.w.reap()
        self.w.start()
        a = self.w.api(method, path, body, headers=headers)
        again = self.w.api(method, path, body, headers=headers)
        self.assertEqual((again.status, again.body), (a.status, a.body))
        return a

    def test_create(self):
        for point in POINTS:
            with self.subTest(point):
                a = self.cut(point, "POST", "/v1/sandboxes", {})
                self.assertEqual(a.status, 201, a.body)
                self.assertEqual([s["id"] for s in self.sandboxes()], [a.json()["id"]])
                self.w.api("DELETE", f"/v1/sandboxes/{a.json()['id']}")

    def test_pause_resume_and_destroy(self):
        box = self.w.create()
        path = f"/v1/sandboxes/{box.id}"
        for point in POINTS:
            with self.subTest(point):
                a = self.cut(point, "POST", f"{path}/pause")
                self.assertEqual((a.status, a.json()["state"]), (200, "paused"), a.body)
                a = self.cut(point, "POST", f"{path}/resume")
                self.assertEqual((a.status, a.json()["state"]), (200, "running"), a.body)
        self.assertEqual(self.cut("control.before_finish", "DELETE", path).status, 204)
        self.assertEqual(self.w.api("GET", path).json()["cause"], "killed")

    def test_snapshot_and_fork(self):
        box = self.w.create()
        for i, point in enumerate(POINTS):
            with self.subTest(point):
                a = self.cut(point, "POST", "/v1/snapshots",
                             {"sandbox_id": box.id, "name": f"cut{i}"})
                self.assertEqual(a.status, 201, a.body)
                a = self.cut(point, "DELETE", f"/v1/snapshots/cut{i}")
                self.assertEqual(a.status, 204, a.body)
        self.assertEqual(self.w.api("GET", "/v1/snapshots").json()["snapshots"], [])
        a = self.cut("control.before_finish", "POST", f"/v1/sandboxes/{box.id}/fork", {"count": 2})
        self.assertEqual(a.status, 200, a.body)
        ids = {c["id"] for c in a.json()["children"]} | {box.id}
        self.assertEqual({s["id"] for s in self.sandboxes()}, ids)

    def test_journal_and_reconcile(self):
        box = self.w.create()
        r = self.w.cli("operations", "--sandbox", box.id)
        self.assertEqual(r.code, 0, r.errors)
        self.assertIn("create", r.text)
        r = self.w.cli("reconcile", "--dry-run")
        self.assertEqual(r.code, 0, r.errors)
        self.assertIn(box.id, r.text)
        self.assertIn("running on both sides", r.text)

    def test_databases(self):
        box = self.w.create()
        r = self.w.cli("db", "check", api=False)
        self.assertEqual((r.code, r.text.count(": ok, version")), (0, 2), r.text + r.errors)
        copy = f"{self.w.dir}/copy.db"
        self.assertEqual(self.w.cli("db", "backup", "control", copy, api=False).code, 0)
        r = self.w.cli("db", "backup", "control", copy, api=False)
        self.assertIn("exists", r.errors)
        r = self.w.cli("db", "restore", "control", copy, api=False)
        self.assertEqual(r.code, 5, r.errors)
        self.assertIn("used by a server", r.errors)
        late = self.w.create()
        self.w.stop()
        r = self.w.cli("db", "restore", "control", copy, api=False)
        self.assertEqual(r.code, 0, r.errors)
        self.w.start()
        self.assertEqual([s["id"] for s in self.sandboxes()], [box.id])
        # What the older copy does not know is kept, and named.
        r = self.w.cli("reconcile", "--dry-run")
        self.assertRegex(r.text, f"report_unknown +{late.id}")
        # The newer one knows it.
        self.w.stop()
        where = self.w.control_data if self.w.two else self.w.data
        r = self.w.cli("db", "restore", "control", f"{where}/control.db.before-restore", api=False)
        self.assertEqual(r.code, 0, r.errors)
        self.w.start()
        self.assertEqual({s["id"] for s in self.sandboxes()}, {box.id, late.id})


if __name__ == "__main__":
    unittest.main()
