#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""calls.py STASIS: what the commands ask of the server, and what they make of its answers."""
import datetime
import os
import subprocess
import sys
import threading
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import played  # noqa: E402
from played import ID, error  # noqa: E402

STASIS = sys.argv[1]
SANDBOX = {"id": ID, "name": "web", "state": "running", "cause": None,
           "url": "http://{port}-%s.example.net:7070" % ID}
EVENT = {"seq": 5, "at": "2026-11-28T10:00:00Z", "sandbox": ID, "kind": "running", "cause": None}


class Case(unittest.TestCase):
    def serve(self, routes):
        s = played.Server(STASIS, routes)
        self.addCleanup(s.close)
        return s


class Usage(Case):
    def test_space_and_what_is_unknown(self):
        unknown = {"unknown": [{"kind": "snapshot", "id": "abc\x1b", "bytes": 4096}]}
        s = self.serve({
            "GET /v1/host/usage": lambda r: (200, {"items": [], "shared_with": [
                {"kind": "image", "id": r.query["of"], "name": "base", "state": None, "bytes": 7 << 20}]}
                if "of" in r.query else {
                "total_bytes": 1 << 30, "free_bytes": 1 << 20, "sandboxes": {"count": 2, "bytes": 4096},
                "snapshots": {"count": 3, "bytes": 0}, "layers": {"count": 1, "own_bytes": 1 << 21, "shared_bytes": 0},
                "images": {"count": 1, "bytes": 0}, "unknown": {"count": 1, "bytes": 4096},
                "shared": {"bytes": 3 << 20}, "left_out": 2, "items": [
                    {"kind": "snapshot", "id": "s" * 8, "name": "warm\x1b", "state": None, "bytes": 5 << 20,
                     "unique_bytes": 1 << 20, "shared_bytes": 4 << 20, "frees_bytes": 1 << 20, "memory_bytes": 0, "layers": 1},
                    {"kind": "layer", "id": "l" * 8, "name": None, "state": None, "bytes": 4 << 20,
                     "unique_bytes": 0, "shared_bytes": 4 << 20, "frees_bytes": 0, "memory_bytes": 4 << 20, "layers": 2},
                    {"kind": "sandbox", "id": ID, "name": "web", "state": "paused", "bytes": 3 << 20,
                     "unique_bytes": 3 << 20, "shared_bytes": 0, "frees_bytes": 3 << 20, "memory_bytes": 0, "layers": 1}]}),
            "GET /v1/host/unknown": (200, unknown),
            "DELETE /v1/host/unknown": (200, {"removed": 1})})
        lines = s.run("du").stdout.splitlines()
        self.assertEqual(lines[1].split()[:4], ["sandbox", ID, "web", "paused"])  # it frees most
        self.assertEqual(lines[2].split()[-2:], ["MiB", "1"])
        self.assertIn("warm?", lines[2])
        self.assertFalse(any(x.startswith("layer") for x in lines))
        self.assertIn("3.0 MiB", next(x for x in lines if x.startswith("shared by several")))
        self.assertTrue(s.run("du", "--sort", "size").stdout.splitlines()[1].startswith("snapshot"))
        self.assertTrue(s.run("du", "--sort", "name", "--layers").stdout.splitlines()[1].startswith("layer"))
        self.assertIn("7.0 MiB", s.out("du", "a b&"))
        self.assertIn("a b&", s.out("du", "a b&"))
        self.assertIn("frees, size or name", s.run("du", "--sort", "age", code=2).stderr)
        self.assertIn("2 more", s.run("du").stderr)
        self.assertIn("1.0 MiB", next(x for x in lines if x.startswith("free")))
        listed = s.out("du", "--unknown")
        self.assertIn("snapshot", listed)
        self.assertNotIn("\x1b", listed)
        for words in ([], ["--unknown"], ["--yes"]):
            self.assertIn("gc --unknown --yes", s.run("gc", *words, code=2).stderr)
        self.assertNotIn("DELETE", {a.method for a in s.asked})
        self.assertIn("removed 1", s.run("gc", "--unknown", "--yes").stderr)


class Retention(Case):
    def test_rules_and_a_dry_run(self):
        rule = {"name": "old", "what": "paused", "max_age_sec": 2592000, "keep_newest": None, "max_bytes": None,
                "key": None, "template": None, "per": "all", "grace_sec": 86400, "created_at": None}
        item = {"kind": "sandbox", "id": ID, "name": "web\x1b", "rule": "old", "action": "wait", "reason": "age",
                "age_sec": 3000000, "left_sec": 3600, "unique_bytes": 1, "frees_bytes": 1 << 30, "error": None}
        both = [{"kind": "sandbox", "id": ID}, {"kind": "snapshot", "id": "a b"}]
        s = self.serve({
            "PUT /v1/retention/rules/old": (200, rule), "DELETE /v1/retention/rules/old": (204, b""),
            "GET /v1/retention": (200, {"rules": [rule], "kept": []}),
            "PUT /v1/retention/kept/a%20b": (200, {"kept": both}),
            "DELETE /v1/retention/kept/web": (200, {"released": []}),
            "POST /v1/retention/run": (200, {"dry_run": True, "items": [item]})})
        s.out("retention", "add", "old", "--of", "paused", "--older-than", "30d", "--grace", "2h", "--per", "key",
              "--max-size", "1G")
        self.assertEqual(s.asked[-1].json(), {"what": "paused", "max_age_sec": 2592000, "grace_sec": 7200,
                                              "per": "key", "max_bytes": 1 << 30})
        self.assertIn("--of", s.run("retention", "add", "old", code=2).stderr)
        for none in ("none", "0s"):  # no limit, or all at once: neither is meant
            s.run("retention", "add", "old", "--of", "paused", "--older-than", none, code=2)
        self.assertEqual(s.out("retention", "ls", "-q"), "old\n")
        self.assertIn("30d", s.out("retention", "ls"))
        self.assertEqual(s.out("retention", "keep", "a b"), f"kept sandbox {ID}\nkept snapshot a b\n")
        s.out("retention", "release", "web")
        listed = s.out("retention", "run", "--dry-run")
        self.assertEqual(s.asked[-1].json(), {"dry_run": True})
        self.assertIn("1.0 GiB", listed)
        self.assertNotIn("\x1b", listed)
        self.assertEqual(s.out("retention", "run", "-q"), ID + "\n")
        self.assertEqual(s.asked[-1].json(), {"dry_run": False})
        s.out("retention", "rm", "old")


class Each(Case):
    def test_all_operands_are_tried(self):
        gone = played.error(404, "not_found", "not there")
        for words, path in ((["rm"], "/v1/sandboxes/"), (["snapshot", "rm"], "/v1/snapshots/"),
                            (["key", "rm"], "/v1/keys/"), (["retention", "rm"], "/v1/retention/rules/")):
            s = self.serve({"DELETE " + path + "iaaa": gone, "DELETE " + path + "ibbb": (200, {}),
                            "DELETE " + path + "iccc": gone})
            self.assertEqual(s.run(*words, "iaaa", "ibbb", "iccc", code=4).stderr, "stasis: not there\n" * 2)
            self.assertEqual([asked.path for asked in s.asked], [path + i for i in ("iaaa", "ibbb", "iccc")])


class Create(Case):
    def test_name_and_quiet(self):
        s = self.serve({"POST /v1/sandboxes": (201, SANDBOX)})
        self.assertEqual(s.out("create", "-q", "--name", "web"), ID + "\n")
        self.assertEqual(s.asked[0].json(), {"name": "web"})
        self.assertEqual(s.terminal("create", "-q"), ID + "\n")
        s.run("create", "-q", "-v", code=2)
        s.run("create", "-q", "-o", "json", code=2)

    def test_options_of_other_tools(self):
        s = self.serve({})
        for command in (["run"], ["create"]):
            for option, words in ((["-d"], "runs in the background by itself"),
                                  (["--detach"], "'stasis create'"),
                                  (["-p", "8080:80"], "'stasis port ID PORT'"),
                                  (["--publish=80"], "every port of a sandbox is reachable")):
                self.assertIn(words, s.run(*command, *option, "--", "sh", code=2).stderr)
        self.assertIn("'stasis snapshot rm'", s.run("rmi", "warm", code=2).stderr)
        self.assertNotIn("background", s.run("ls", "-d", code=2).stderr)
        self.assertEqual(s.asked, [])

    def test_closed_streams(self):
        """What is closed at the start does not become the connection, and losing output is an error."""
        s = self.serve({"GET /v1/sandboxes": (200, {"sandboxes": [SANDBOX], "next_cursor": None})})
        env = {**os.environ, "STASIS_URL": s.url, "STASIS_API_KEY": "k"}
        for closed, code in ((">&-", 1), ("<&-", 0), ("2>&-", 0), ("<&- >&- 2>&-", 1)):
            done = subprocess.run(["sh", "-c", f"exec {STASIS} ls -q {closed}"], env=env, timeout=30,
                                  capture_output=True, check=False)
            self.assertEqual(done.returncode, code, (closed, done))

    def test_filter_by_name(self):
        s = self.serve({"GET /v1/sandboxes": (200, {"sandboxes": [], "next_cursor": None})})
        s.out("ls", "--name", "a b")
        self.assertEqual(s.asked[0].query["name"], "a b")


class Names(Case):
    def test_wherever_an_id_is(self):
        s = self.serve({f"{m} /v1/sandboxes/web{p}": (200, SANDBOX)
                        for m, p in (("GET", ""), ("DELETE", ""), ("POST", "/pause"),
                                     ("POST", "/resume"), ("POST", "/timeout"), ("PATCH", ""),
                                     ("GET", "/wait"))} |
                       {"GET /v1/sandboxes/web/logs": (200, ("text/plain", b"x\n")),
                        "POST /v1/sandboxes/web/fork": (200, {"children": [SANDBOX]})})
        for args in (["get", "web"], ["pause", "web"], ["resume", "web"], ["timeout", "web", "5m"],
                     ["logs", "web"], ["rm", "web"], ["wait", "web"], ["port", "web", "1"],
                     ["fork", "web", "-o", "json"], ["set", "web", "--name", "new"]):
            s.run(*args)

    def test_what_would_be_another_call_is_refused(self):
        s = self.serve({})
        for name in ("", ".", "..", "../keys", "a/b"):
            for command in ("get", "rm", "pause"):
                s.run(command, name, code=2)
        self.assertEqual(s.asked, [])
        s.run("get", "a b?c", code=4)
        self.assertEqual(s.asked[0].handler.path, "/v1/sandboxes/a%20b%3Fc")

    def test_cp_tells_of_local_names(self):
        s = self.serve({})
        done = s.run("cp", "some:thing", "x", code=4)
        self.assertIn("a local name with a colon is written ./some:", done.stderr)


class Set(Case):
    def test_patch(self):
        s = self.serve({f"PATCH /v1/sandboxes/{ID}": (200, SANDBOX)})
        for args, body in (
                (["--name", "web"], {"name": "web"}),
                (["--name", ""], {"name": None}),
                (["--metadata", "a=b", "--metadata", "c-", "--metadata", "d=-"],
                 {"metadata": {"a": "b", "c": None, "d": "-"}}),
                (["--on-timeout", "pause"], {"on_timeout": "pause"})):
            self.assertEqual(s.out("set", ID, *args), "")
            self.assertEqual(s.asked.pop().json(), body)
        for args in ([], ["--metadata", "a"], ["--metadata", "-"], ["--metadata", "=b"]):
            s.run("set", ID, *args, code=2)
        self.assertEqual(s.asked, [])
        s.run("create", "--metadata", "a-", code=2)  # there is nothing to remove yet


class Port(Case):
    def test_url(self):
        s = self.serve({f"GET /v1/sandboxes/{ID}": (200, SANDBOX),
                        "GET /v1/sandboxes/old": (200, {**SANDBOX, "url": None})})
        url = f"http://3000-{ID}.example.net:7070"
        self.assertEqual(s.out("port", ID, "3000"), url + "\n")
        self.assertEqual(played.json.loads(s.out("port", ID, "3000", "-o", "json")), {"url": url})
        for port in ("0", "65536", "http", "-1", ""):
            s.run("port", ID, "--", port, code=2)
        s.run("port", "old", "80", code=7)


class Wait(Case):
    def test_states(self):
        s = self.serve({f"GET /v1/sandboxes/{ID}/wait": (
            200, {**SANDBOX, "state": "stopped", "cause": "timeout"}),
            "GET /v1/sandboxes/web/wait": (200, {**SANDBOX, "state": "paused"})})
        self.assertEqual(s.out("wait", ID), f"{ID} stopped: timeout\n")
        self.assertEqual(s.asked.pop().query, {"state": "stopped", "timeout_sec": "3600"})
        self.assertEqual(s.out("wait", "web", ID, "--state", "paused,stopped", "--timeout", "90s"),
                         f"web paused\n{ID} stopped: timeout\n")
        self.assertEqual([r.query["state"] for r in s.asked], ["paused,stopped"] * 2)
        for r in s.asked:
            self.assertIn(int(r.query["timeout_sec"]), range(1, 91))
        answer = played.json.loads(s.out("wait", "web", "-o", "json"))
        self.assertEqual([x["state"] for x in answer["sandboxes"]], ["paused"])

    def test_time_out_is_exit_code_8(self):
        s = self.serve({f"GET /v1/sandboxes/{ID}/wait": error(504, "timeout", "still running")})
        done = s.run("wait", ID, "--timeout", "1s", code=8)
        self.assertEqual(done.stderr, "stasis: still running\n")
        self.assertEqual(s.asked[0].query["timeout_sec"], "1")

    def test_without_a_time_out_it_goes_on(self):
        answers = [error(504, "timeout", "still running")] * 2 + [(200, SANDBOX)]
        s = self.serve({f"GET /v1/sandboxes/{ID}/wait": lambda _: answers.pop(0)})
        s.out("wait", ID, "--state", "running")
        self.assertEqual(answers, [])

    def test_ended_otherwise(self):
        s = self.serve({f"GET /v1/sandboxes/{ID}/wait": error(
            409, "conflict", "it has ended: killed", cause="killed")})
        self.assertIn("killed", s.run("wait", ID, "--state", "paused", code=5).stderr)


class Logs(Case):
    TEXT = b"one\ntwo\nthree\n"

    def test_tail_is_the_servers(self):
        s = self.serve({f"GET /v1/sandboxes/{ID}/logs": (200, ("text/plain", b"three\n"))})
        self.assertEqual(s.out("logs", ID, "--tail", "1"), "three\n")
        self.assertEqual(s.asked[0].query, {"tail": "1"})
        s.run("logs", ID, "--tail", "0", code=2)

    def test_tail_and_then_what_comes(self):
        for tail, head in ((["--tail", "1"], "three\n"), (["--tail", "2"], "two\nthree\n"),
                           (["-n", "9"], "one\ntwo\nthree\n"), ([], "one\ntwo\nthree\n")):
            texts = [self.TEXT, self.TEXT + b"four", self.TEXT + b"four\nfive\n"]
            states = ["running", "running", "stopped"]
            s = self.serve({
                f"GET /v1/sandboxes/{ID}": lambda _, s=states: (200, {**SANDBOX, "state": s.pop(0)}),
                f"GET /v1/sandboxes/{ID}/logs": lambda _, t=texts: (200, ("text/plain", t.pop(0)))})
            self.assertEqual(s.out("logs", "-f", ID, *tail), head + "four\nfive\n")

    def follow(self, states, texts, code=0):
        """What is not there is None."""
        def next_of(answers, fit):
            def answer(_):
                x = answers.pop(0)
                return error(404, "not_found", "not there") if x is None else (200, fit(x))
            return answer

        s = self.serve({
            f"GET /v1/sandboxes/{ID}": next_of(states, lambda x: {**SANDBOX, "state": x}),
            f"GET /v1/sandboxes/{ID}/logs": next_of(texts, lambda x: ("text/plain", x))})
        done = s.run("logs", "-f", ID, code=code)
        self.assertEqual((states, texts), ([], []))
        self.assertEqual(done.stderr, "" if code == 0 else "stasis: not there\n")
        return done.stdout

    def test_following_ends_with_the_sandbox(self):
        for states, texts in (
                (["running", None], [b"up\n"]),  # removed
                (["running", "running", None], [b"up\n", None]),  # between the two calls
                (["running", "stopped"], [b"up\n", None]),  # ended, and its console gone
                (["pending", "running", "stopped"], [None, b"up\n", b"up\n"])):
            self.assertEqual(self.follow(states, texts), "up\n")
        self.assertEqual(self.follow(["running", None], [None]), "")

    def test_following_what_is_not_there(self):
        self.assertEqual(self.follow([None], [], code=4), "")
        self.assertEqual(self.follow(["stopped"], [None], code=4), "")


class Events(Case):
    def since(self, *args):
        s = self.serve({"GET /v1/events": (200, {"events": [], "next_cursor": 0})})
        s.out("events", *args)
        return s.asked[0].query

    def test_since(self):
        self.assertEqual(self.since()["cursor"], "0")
        self.assertEqual(self.since("--since", "17")["cursor"], "17")
        query = self.since("--since", "2026-11-28T10:00:00Z")
        self.assertEqual((query["since"], "cursor" in query), ("2026-11-28T10:00:00Z", False))
        def two_hours_ago():
            now = datetime.datetime.now(datetime.timezone.utc)
            return (now - datetime.timedelta(hours=2)).strftime("%Y-%m-%dT%H:%M:%S.%f")

        before = two_hours_ago()
        at = self.since("--since", "2h")["since"].removesuffix("Z")
        self.assertLessEqual(before[:23], at)  # milliseconds
        self.assertLessEqual(at, two_hours_ago())
        s = self.serve({})
        for bad in ("soon", "none", "2026-11-28", "-5", ""):
            s.run("events", "--since", bad, code=2)
        self.assertEqual(s.asked, [])

    def test_pages_go_on_by_number(self):
        pages = [{"events": [EVENT], "next_cursor": 5}, {"events": [], "next_cursor": 5}]
        s = self.serve({"GET /v1/events": lambda _: (200, pages.pop(0))})
        self.assertEqual(s.out("events", "--since", "1h", "--sandbox", "web", "-q"), "5\n")
        first, second = (r.query for r in s.asked)
        self.assertIn("since", first)
        self.assertEqual((second["cursor"], "since" in second), ("5", False))
        self.assertEqual((first["sandbox"], second["sandbox"]), ("web", "web"))

    def test_following(self):
        lines = "".join(played.json.dumps({**EVENT, "seq": n}) + "\n\n" for n in (5, 6)).encode()
        s = self.serve({"GET /v1/events": (200, ("application/x-ndjson", lines))})
        for args, out in (
                ([], "".join(f"{n:<6}  {EVENT['at']}  {ID:<21}  {'running':<14}  -\n"
                             for n in (5, 6))),
                (["-q"], "5\n6\n"),
                (["--format", "{kind} {seq}"], "running 5\nrunning 6\n"),
                (["-o", "json"], lines.decode().replace("\n\n", "\n"))):
            done = s.run("events", "-f", "--since", "2h", "--sandbox", "web", *args, code=7)
            self.assertEqual(done.stdout, out)
            self.assertEqual(done.stderr, "stasis: the server ended the stream\n")
        query = s.asked[0].query
        self.assertEqual((query["follow"], query["sandbox"]), ("1", "web"))
        self.assertIn("since", query)
        done = s.run("events", "-f", "--format", "{nosuch}", code=2)
        self.assertIn("no field 'nosuch'", done.stderr)

    def test_lines_come_as_they_are_told(self):
        go_on = threading.Event()

        def follow(request):
            h = request.handler
            h.send_response(200)
            h.send_header("Content-Type", "application/x-ndjson")
            h.send_header("Connection", "close")
            h.end_headers()
            h.close_connection = True
            h.wfile.write(played.json.dumps(EVENT).encode() + b"\n")
            h.wfile.flush()
            go_on.wait(60)
            return False

        s = self.serve({"GET /v1/events": follow})
        p = s.popen("events", "-f", "-q", stdout=played.subprocess.PIPE,
                    stderr=played.subprocess.DEVNULL)
        self.assertEqual(p.stdout.readline(), b"5\n")
        go_on.set()
        p.stdout.close()
        p.wait(60)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
