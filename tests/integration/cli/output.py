#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""output.py STASIS: what people read, against the values that a played server gave. Every value is
another one, so that none stands in another's place."""
import datetime
import os
import re
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import played  # noqa: E402
from played import ID  # noqa: E402

STASIS = sys.argv[1]


def ago(**span):
    """An RFC 3339 time so long before now; with days, what is shown stays the same for an hour."""
    then = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(**span)
    return then.strftime("%Y-%m-%dT%H:%M:%SZ")


PHASES = [{"name": "slot", "us": 1500}, {"name": "load", "us": 2000000}]
SANDBOX = {
    "id": ID, "name": "web", "url": "http://{port}-x.localhost:7", "template": "warm", "state": "paused", "vcpus": 3, "memory_mb": 1536,
    "disk_mb": 4096, "created_at": ago(days=1, hours=3, minutes=1),
    "started_at": ago(hours=2), "ends_at": None, "stopped_at": None, "on_timeout": "pause",
    "metadata": {"job": "42", "odd": "a\x1b[31m\nb", "c1": "\x7f\x80\x9b31m\x9f\xa0é"}, "cause": None, "detail": None,
    "disk_used_bytes": 7340032, "backend": "uffd", "generation": 9, "envd_token": "5ec4e7",
    "phases": PHASES}
ENDED = {**SANDBOX, "id": "i" + "z" * 20, "name": None, "template": "base", "state": "stopped",
         "cause": "timeout", "detail": "its time was over", "vcpus": 1, "memory_mb": 512,
         "disk_used_bytes": 0, "metadata": {}, "stopped_at": ago(minutes=5, seconds=10),
         "created_at": ago(days=2, hours=4, minutes=1)}
SNAPSHOT = {"name": "warm", "kind": "snapshot", "snapshot_id": "aa-bb", "sandbox_id": ID,
            "parent": "base", "vcpus": 2, "memory_mb": 768, "disk_mb": 3072,
            "memory_bytes": 73400320, "disk_bytes": 1572864, "created_at": ago(days=3, hours=5, minutes=1)}
KEY = {"id": "k1", "name": "ci", "prefix": "e2b_12", "created_at": ago(days=4, hours=6, minutes=1),
       "last_used_at": None}
TEMPLATE = {"name": "base", "kind": "base", "frozen": True, "vcpus": 4, "memory_mb": 512,
            "min_memory_mb": 256, "disk_mb": 2048, "size_bytes": 209715200,
            "created_at": ago(days=5, hours=7, minutes=1), "snapshot_id": None, "sandbox_id": None,
            "parent": None}
EVENTS = [{"seq": 11, "at": "2026-11-28T10:00:00Z", "sandbox": ID, "kind": "running",
           "cause": None, "data": {}},
          {"seq": 12, "at": "2026-11-28T10:00:07Z", "sandbox": ID, "kind": "stopped",
           "cause": "guest_panic", "data": {"n": 5}}]
OPERATIONS = [{"id": "op-2", "kind": "pause", "state": "failed", "sandbox_id": ID,
               "snapshot_id": None, "children": [],
               "error": {"code": "no_space", "message": "the disk is full"}, "phases": [],
               "created_at": "2026-11-28T10:00:09Z", "ended_at": "2026-11-28T10:00:10Z"},
              {"id": "op-1", "kind": "create", "state": "done", "sandbox_id": ID,
               "snapshot_id": None, "children": [], "error": None, "phases": [],
               "created_at": "2026-11-28T10:00:01Z", "ended_at": "2026-11-28T10:00:02Z"}]
KILL = {"process": "a\x1b[2J", "pid": 7, "uid": 0, "rss_bytes": 430 << 20, "memory_bytes": 1,
        "cgroup": None, "count": 1, "at": "2026-11-28T10:00:06Z"}
WHY = {"id": ID, "name": "web", "state": "stopped",
       "summary": "It ended at 2026-11-28T10:00:07Z. The guest's kernel panicked\x1b[31m.",
       "cause": "guest_oom", "by": "guest", "detail": "of \x9b2J a guest", "advice": "Give it more.",
       "ended_at": "2026-11-28T10:00:07Z",
       "failure": {"kind": "pause", "operation": None, "at": "2026-11-28T10:00:05Z",
                   "error": {"code": None, "message": "no\x07 answer"}, "phases": PHASES,
                   "advice": "Try again."},
       "oom": {"kills": 2, "last": [{"at": "2026-11-28T10:00:06Z", "cause": "guest_memory",
                                     "count": 2, "memory_mb": 512, "kills": [KILL]}]},
       "operations": OPERATIONS, "console": ["one", "two \x1b]0;x\x07", "\x7fthree"]}
ROUTES = {
    f"GET /v1/sandboxes/{ID}/why": (200, WHY),
    f"GET /v1/sandboxes/{ID}": (200, SANDBOX),
    "GET /v1/sandboxes": (200, {"sandboxes": [SANDBOX, ENDED], "next_cursor": None}),
    "POST /v1/sandboxes": (201, SANDBOX),
    f"POST /v1/sandboxes/{ID}/pause": (200, SANDBOX),
    f"POST /v1/sandboxes/{ID}/resume": (200, SANDBOX),
    f"POST /v1/sandboxes/{ID}/timeout": (200, {**SANDBOX, "ends_at": "2026-11-28T11:00:00Z"}),
    f"GET /v1/sandboxes/{ID}/logs": (200, ("text/plain", b"one\ntwo\nthree\n")),
    "GET /v1/snapshots": (200, {"snapshots": [SNAPSHOT]}),
    "GET /v1/snapshots/warm": (200, SNAPSHOT),
    "POST /v1/snapshots": (201, {**SNAPSHOT, "phases": PHASES}),
    "GET /v1/keys": (200, {"keys": [KEY]}),
    "POST /v1/keys": (201, {**KEY, "key": "e2b_secret"}),
    "GET /v1/templates": (200, {"templates": [TEMPLATE]}),
    "GET /v1/events": lambda r: (200, {
        "events": [e for e in EVENTS if e["seq"] > int(r.query.get("cursor", 0))],
        "next_cursor": 12}),
    "GET /v1/operations": (200, {"operations": OPERATIONS, "next_cursor": None}),
    "POST /v1/reconcile": (200, {"dry_run": True, "actions": [
        {"action": "mark_paused", "id": ID, "operation": None, "cause": None,
         "reason": "the host says so"}]}),
    "GET /v1/health": (200, {"status": "ok", "version": "9.8.7"}),
}


def cells(line):
    """The cells of a table's line: columns are two blanks apart at least."""
    return re.split(r" {2,}", line)


def shown(value):
    """As output_value in src/cli/base/output.c has it."""
    if isinstance(value, str):
        return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", value)
    text = played.json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    text = re.sub(r"[\x7f-\x9f]", "?", text)
    return re.sub(r"\\u[0-9a-f]{4}", lambda m: "\\u" + m.group()[2:].upper(), text)


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = played.Server(STASIS, ROUTES)

    @classmethod
    def tearDownClass(cls):
        cls.s.close()

    def table(self, *args):
        return [cells(line) for line in self.s.out(*args).splitlines()]


class Objects(Case):
    def fields(self, *args):
        rows = [line.split(None, 1) for line in self.s.out(*args).splitlines()]
        self.assertTrue(all(len(r) == 2 for r in rows), rows)
        return dict(rows)

    def test_get(self):
        secret = ("envd_token", "phases")
        self.assertEqual(self.fields("get", ID),
                         {k: shown(v) for k, v in SANDBOX.items()
                          if v is not None and k not in secret})

    def test_snapshot_get(self):
        self.assertEqual(self.fields("snapshot", "get", "warm"),
                         {k: shown(v) for k, v in SNAPSHOT.items()})


class Tables(Case):
    def test_ls(self):
        self.assertEqual(self.table("ls"), [
            ["ID", "NAME", "TEMPLATE", "STATE", "VCPUS", "MEMORY", "DISK", "CREATED", "ENDS", "METADATA"],
            [ID, "web", "warm", "paused", "3", "1.5 GiB", "7.0 MiB", "1d 3h ago", "-",
             "job=42 odd=a?[31m?b c1=???31m?\xa0é"],
            [ENDED["id"], "-", "base", "stopped: timeout", "1", "512 MiB", "-", "2d 4h ago", "-", "-"]])

    def test_errors_too(self):
        """Messages have words of guests and of other clients in them."""
        text = "a\x1b[31m\x9b\x7f\u00a0b"
        s = played.Server(STASIS, {f"{method} /v1/sandboxes/{ID}": played.error(404, "not_found", text)
                                   for method in ("GET", "DELETE")})
        self.addCleanup(s.close)
        for args in (["get", ID], ["rm", ID], ["rm", "-f", ID, "x/y", "x/z"]):
            err = s.run(*args, code=None).stderr
            self.assertNotRegex(err, "[\x00-\x09\x0b-\x1f\x7f-\x9f]")
        self.assertEqual(s.run("rm", ID, ID, code=4).stderr, "stasis: a?[31m??\u00a0b\n" * 2)

    def test_ends(self):
        for span, shown_as in ((9 * 60, "in 9m"), (3 * 3600, "in 3h 0m"), (20 * 86400, "in 20d 0h")):
            s = played.Server(STASIS, {"GET /v1/sandboxes": (200, {"next_cursor": None, "sandboxes": [
                {**SANDBOX, "state": state, "ends_at": ago(seconds=-span)}
                for state in ("running", "stopped", "error")]})})
            self.addCleanup(s.close)
            ends = [cells(line)[8] for line in s.out("ls", "--no-headers").splitlines()]
            self.assertEqual(ends, [shown_as, "-", shown_as])  # an error may come back

    def test_snapshot_ls(self):
        self.assertEqual(self.table("snapshot", "ls"), [
            ["NAME", "SANDBOX", "PARENT", "VCPUS", "MEMORY", "DISK", "MEMORY DATA", "DISK DATA",
             "CREATED"],
            ["warm", ID, "base", "2", "768 MiB", "3.0 GiB", "70 MiB", "1.5 MiB", "3d 5h ago"]])

    def test_key_ls(self):
        self.assertEqual(self.table("key", "ls"), [
            ["ID", "NAME", "SCOPE", "OWNER", "PREFIX", "CREATED", "LAST USED", "EXPIRES"],
            ["k1", "ci", "-", "-", "e2b_12", "4d 6h ago", "-", "-"]])

    def test_image_ls(self):
        self.assertEqual(self.table("image", "ls"), [
            ["NAME", "KIND", "FROZEN", "VCPUS", "MEMORY", "DISK", "SIZE", "CREATED"],
            ["base", "base", "yes", "4", "512 MiB", "2.0 GiB", "200 MiB", "5d 7h ago"]])

    def test_events(self):
        self.assertEqual(self.table("events"), [
            ["SEQ", "AT", "SANDBOX", "EVENT", "CAUSE"],
            ["11", "2026-11-28T10:00:00Z", ID, "running", "-"],
            ["12", "2026-11-28T10:00:07Z", ID, "stopped", "guest_panic"]])

    def test_operations(self):
        self.assertEqual(self.table("operations"), [
            ["ID", "KIND", "STATE", "SANDBOX", "CREATED", "ERROR"],
            ["op-2", "pause", "failed", ID, "2026-11-28T10:00:09Z", "the disk is full"],
            ["op-1", "create", "done", ID, "2026-11-28T10:00:01Z", "-"]])

    def test_reconcile(self):
        self.assertEqual(self.table("reconcile", "--dry-run"), [
            ["ACTION", "ID", "REASON"], ["mark_paused", ID, "the host says so"]])

    def test_doctor(self):
        """Of this machine: the table says what -o json says."""
        checks = played.json.loads(self.s.run("doctor", "-o", "json", code=None).stdout)["checks"]
        lines = self.s.run("doctor", code=None).stdout.splitlines()
        self.assertEqual(cells(lines[0]), ["CHECK", "STATUS", "FOUND"])
        self.assertEqual([cells(line)[:2] for line in lines[1:]],
                         [[c["name"], c["status"]] for c in checks])
        for line, check in zip(lines[1:], checks):
            if check["name"] != "memory":  # changes from one run to the next, as figures measured do
                self.assertIn(*(re.sub(r"\d+", "N", text) for text in (check["text"], line)))
            self.assertIn(check["remedy"] or "", line)

    def test_doctor_names_snapshots_with_weak_agents(self):
        """Of before agents told who they are; a directory without any says nothing."""
        data = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../fixtures/24c09c7/data")
        for where, want in ((data, ["degraded"]), (os.path.dirname(data), []), ("/nonexistent", [])):
            out = self.s.run("doctor", "--data-dir", where, "-o", "json", code=None).stdout
            found = [c for c in played.json.loads(out)["checks"] if c["name"] == "agents"]
            self.assertEqual([c["status"] for c in found], want)
            for c in found:
                self.assertIn("1 of 1 snapshots have an agent with a known weakness", c["text"])
                self.assertIn("99999999-9999-4999-8999-999999999999", c["text"])


class Words(Case):
    def test_ids_names_and_keys(self):
        self.assertEqual(self.s.out("create"), ID + "\n")
        self.assertEqual(self.s.out("snapshot", "create", ID, "warm"), "warm\n")
        self.assertEqual(self.s.out("key", "create", "ci"), "e2b_secret\n")
        self.assertEqual(self.s.out("pause", ID) + self.s.out("resume", ID), "")
        self.assertEqual(self.s.out("timeout", ID, "1h"), "2026-11-28T11:00:00Z\n")
        self.assertEqual(self.s.out("logs", ID), "one\ntwo\nthree\n")
        self.assertEqual(self.s.out("health"), "ok (version 9.8.7)\n")

    def test_why(self):
        text = self.s.out("why", ID)
        self.assertNotRegex(text, r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
        for part in (f"sandbox      {ID} (web)  stopped\n", "why          It ended at",
                     "cause        guest_oom, by the guest\n", "detail       of ?2J a guest\n",
                     "what to do   Give it more.\n", "(2026-11-28T10:00:05Z): no? answer\n",
                     "             steps: slot 1.50 ms, load 2.00 s\n             Try again.\n", "has killed 2 processes for lack of it\n",
                     "2026-11-28T10:00:06Z  a?[2J (7) had 430 MiB of 512 MiB\n",
                     "pause failed\n", "console      one\n", "             two ?]0;x?\n"):
            self.assertIn(part, text)
        self.assertEqual(played.json.loads(self.s.out("why", ID, "-o", "json")), WHY)

    def test_phases(self):
        for args in (["create"], ["pause", ID], ["resume", ID], ["snapshot", "create", ID, "warm"]):
            lines = self.s.run(*args, "-v").stderr.splitlines()
            self.assertEqual([cells(line) for line in lines],
                             [["PHASE", "TIME"], ["slot", "1.50 ms"], ["load", "2.00 s"],
                              ["total", "2.00 s"]])


LISTS = [(("ls",), "sandboxes", "id", [SANDBOX, ENDED]),
         (("snapshot", "ls"), "snapshots", "name", [SNAPSHOT]),
         (("image", "ls"), "templates", "name", [TEMPLATE]),
         (("key", "ls"), "keys", "id", [KEY]),
         (("events",), "events", "seq", EVENTS),
         (("operations",), "operations", "id", OPERATIONS)]


class Lists(Case):
    def test_quiet(self):
        for args, _, name, rows in LISTS:
            self.assertEqual(self.s.out(*args, "-q"), "".join(f"{r[name]}\n" for r in rows))

    def test_no_headers(self):
        for args, *_ in LISTS:
            with_head = self.table(*args)
            self.assertEqual(self.table(*args, "--no-headers"), with_head[1:])

    def test_json(self):
        for args, array, _, rows in LISTS:
            answer = played.json.loads(self.s.out(*args, "-o", "json"))
            self.assertEqual(answer[array], rows)

    def test_format_has_every_field(self):
        for args, _, _, rows in LISTS:
            for field in rows[0]:
                self.assertEqual(self.s.out(*args, "--format", "<{%s}>" % field),
                                 "".join("<%s>\n" % ("-" if r[field] is None else shown(r[field]))
                                         for r in rows))

    def test_format(self):
        for template, line in (
                ("{id} {state}", f"{ID} paused"),
                (r"{id}\t{state}\n--", f"{ID}\tpaused\n--"),
                (r"\{{vcpus}\} \\n", "{3} \\n"),
                ("{metadata.job}|{metadata.none}|{metadata.odd}", "42|-|a?[31m?b"),
                ("{ends_at.x}", "-")):
            out = self.s.out("ls", "--format", template)
            self.assertTrue(out.startswith(line + "\n"), (template, out))
        self.assertEqual(self.s.out("operations", "--format", "{id}: {error.message}"),
                         "op-2: the disk is full\nop-1: -\n")

    def test_unknown_field_names_those_that_there_are(self):
        for args, _, _, rows in LISTS:
            done = self.s.run(*args, "--format", "{nosuch}", code=2)
            self.assertEqual(done.stdout, "")
            self.assertIn("no field 'nosuch'; the fields are: " + ", ".join(rows[0]), done.stderr)
        self.s.run("ls", "--format", "{id.x}", code=2)

    def test_bad_templates_are_refused_before_anything_is_asked(self):
        for template in ("{id", "{}", "{id}\\q", "{id}\\"):
            before = len(self.s.asked)
            done = self.s.run("ls", "--format", template, code=2)
            self.assertIn("--format", done.stderr)
            self.assertEqual(len(self.s.asked), before)

    def test_what_is_no_template(self):
        for word in ("json", "wide", "", "table"):
            done = self.s.run("ls", "--format", word, code=2)
            self.assertEqual(done.stderr, "stasis: --format takes a template like '{id} {state}'; "
                                          "for JSON use -o json\n")

    def test_ways_of_printing_exclude_each_other(self):
        for args in (["-q", "--format", "{id}"], ["-o", "json", "-q"],
                     ["-o", "json", "--format", "{id}"]):
            self.assertIn("exclude each other", self.s.run("ls", *args, code=2).stderr)


class Colors(Case):
    PAUSED, ENDED = "\x1b[36mpaused\x1b[0m", "\x1b[2mstopped: timeout\x1b[0m"

    def test_states_on_a_terminal(self):
        plain, colored = self.s.out("ls"), self.s.terminal("ls")
        self.assertIn(self.PAUSED, colored)
        self.assertIn(self.ENDED, colored)
        self.assertEqual(re.sub(r"\x1b\[\d+m", "", colored), plain)
        self.assertIn("state            " + self.PAUSED, self.s.terminal("get", ID))
        self.assertIn("\x1b[31mfailed\x1b[0m", self.s.terminal("operations"))
        self.assertIn("\x1b[32mrunning\x1b[0m", self.s.terminal("events"))

    def test_none_where_they_are_not_wanted(self):
        self.assertNotIn("\x1b", self.s.out("ls"))
        for env in ({"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": ""}):
            for args in (["ls"], ["get", ID], ["operations"]):
                self.assertNotIn("\x1b", self.s.terminal(*args, **env))
        self.assertIn(self.PAUSED, self.s.terminal("ls", NO_COLOR=""))
        # Nothing that programs read.
        for args in (["ls", "-q"], ["ls", "--format", "{state}"], ["ls", "-o", "json"]):
            self.assertNotIn("\x1b", self.s.terminal(*args))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
