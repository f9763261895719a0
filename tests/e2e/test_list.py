# SPDX-License-Identifier: Apache-2.0
import concurrent.futures
import ipaddress
import json
import re
import subprocess
import unittest

import lib


class List(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.w = lib.world()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            cls.made = list(pool.map(lambda n: cls.w.create(
                metadata={"set": "list", "n": str(n), "odd": "a&b=c d\u00e9"}), range(2)))

    @classmethod
    def tearDownClass(cls):
        for s in cls.made:
            s.delete()

    def ids(self, query):
        a = self.w.api("GET", "/v1/sandboxes" + query)
        self.assertEqual(a.status, 200, a.body)
        return [s["id"] for s in a.json()["sandboxes"]]

    def test_pages(self):
        seen, cursor = [], ""
        while True:
            page = self.w.api("GET", "/v1/sandboxes?limit=1" + cursor).json()
            seen += page["sandboxes"]
            if page["next_cursor"] is None:
                break
            cursor = "&cursor=" + page["next_cursor"]
        self.assertEqual([s["id"] for s in seen], self.ids(""))
        times = [s["created_at"] for s in seen]
        self.assertEqual(times, sorted(times, reverse=True))

    def test_metadata(self):
        ids = sorted(s.id for s in self.made)
        self.assertEqual(sorted(self.ids("?metadata=set%3Dlist")), ids)
        self.assertEqual(self.ids("?metadata=set%3Dlist%26n%3D1"),
                         [s.id for s in self.made if s.row["metadata"]["n"] == "1"])
        self.assertEqual(self.ids("?metadata=set%3Dother"), [])
        out = self.w.cli("ls", "-q", "--metadata", "odd=a&b=c d\u00e9", "--metadata", "n=0").ok()
        self.assertEqual(out.text.split(),
                         [s.id for s in self.made if s.row["metadata"]["n"] == "0"])

    def test_states(self):
        self.assertEqual(self.ids("?state=paused"), [])
        self.assertTrue(set(s.id for s in self.made) <= set(self.ids("?state=running,paused")))
        self.assertEqual(self.w.cli("ls", "-q", "--state", "stopped", "--template", "none").text,
                         "")

    def test_table_and_limit(self):
        lines = self.w.cli("ls", "--metadata", "set=list").ok().text.splitlines()
        self.assertEqual(len(lines), 3)
        self.assertTrue(lines[0].startswith("ID "))
        self.assertEqual(len(self.w.cli("ls", "-q", "-n", "1").ok().text.split()), 1)

    def test_get_prints_the_numbers(self):
        s = self.made[0]
        row = self.w.api("GET", f"/v1/sandboxes/{s.id}").json()
        shown = dict(line.split(None, 1)
                     for line in self.w.cli("get", s.id).ok().text.splitlines())
        for name in ("vcpus", "memory_mb", "disk_mb"):
            self.assertGreater(row[name], 0)
            self.assertEqual(shown[name], str(row[name]), name)
        self.assertEqual((shown["id"], shown["state"]), (s.id, "running"))

    def test_table_has_values(self):
        lines = self.w.cli("ls", "--metadata", "set=list").ok().text.splitlines()
        titles = re.split(" {2,}", lines[0])
        for line in lines[1:]:
            cells = dict(zip(titles, re.split(" {2,}", line)))
            s = next(s for s in self.made if s.id == cells["ID"])
            self.assertEqual((cells["TEMPLATE"], cells["STATE"], cells["VCPUS"]),
                             (s.row["template"], "running", str(s.row["vcpus"])))
            self.assertEqual(cells["MEMORY"], f"{s.row['memory_mb']} MiB")
            self.assertRegex(cells["DISK"], r"^[\d.]+ [KMG]iB$")
            self.assertRegex(cells["CREATED"], " ago$")
            self.assertNotIn("(null)", line)

    def test_guests_are_apart(self):
        a, b = self.made
        self.assertNotEqual(a.sh("hostname"), b.sh("hostname"))
        a.sh("echo mine > /tmp/mine")
        self.assertEqual(b.run("test -e /tmp/mine")["exit_code"], 1)
        # Neither the host's side of the slots nor the agents behind them are to be reached.
        out = subprocess.run(["ip", "-j", "-4", "addr"], check=True, capture_output=True).stdout
        ours = ipaddress.ip_network(self.w.slots)
        hosts = [ipaddress.ip_address(i["local"]) for link in json.loads(out)
                 for i in link["addr_info"] if ipaddress.ip_address(i["local"]) in ours]
        self.assertGreaterEqual(len(hosts), 2)
        for address in hosts + [h + 1 for h in hosts]:
            code = ("import socket; s = socket.socket(); s.settimeout(2); "
                    f"print(s.connect_ex(('{address}', 49983)))")
            self.assertNotEqual(a.sh(f'python3 -c "{code}"').strip(), "0", address)
