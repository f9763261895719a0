#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""webhooks.py MODEL_SERVER: receivers that take, refuse, lie and hang, and a server that is stopped in
between. Exit status 77 when nginx is missing.
"""
import hashlib
import hmac
import http.server
import json
import shutil
import sys
import threading
import time

import edge

LIMIT = 60  # seconds, for what comes at once where nothing is wrong


class Receiver:
    """answer(n) says what the n-th call gets: a status, or a function of the handler."""

    def __init__(self, answer=lambda n: 200, port=0):
        self.calls, self.answer, self.changed = [], answer, threading.Condition()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with outer.changed:
                    outer.calls.append((dict(self.headers), body, self.path))
                    outer.changed.notify_all()
                    n = len(outer.calls)
                what = outer.answer(n)
                if callable(what):
                    return what(self)
                self.send_response(what)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook?x=1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def wait(self, n):
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.calls) >= n, LIMIT), f"{len(self.calls)} calls, not {n}"
            return list(self.calls)

    def events(self, n):
        return [json.loads(body) for _, body, _ in self.wait(n)]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def hook(s, url, expect=201, **more):
    return s.api("POST", "/v1/webhooks", {"url": url, **more}, expect=expect)


def deliveries(s, w, until):
    end = time.monotonic() + LIMIT
    while True:
        got = s.api("GET", f"/v1/webhooks/{w['id']}/deliveries")["deliveries"]
        if until(got):
            return got
        assert time.monotonic() < end, got
        time.sleep(0.05)


def box(s):
    return s.api("POST", "/v1/sandboxes", {}, expect=201)["id"]


def gone(s, w):
    s.api("DELETE", f"/v1/webhooks/{w['id']}", expect=204)
    s.api("GET", f"/v1/webhooks/{w['id']}", expect=404)


def test_signed_and_in_order(s):
    r = Receiver()
    w = hook(s, r.url, secret="a-secret-of-mine-1234")
    assert w["secret"] == "a-secret-of-mine-1234" and w["enabled"] and w["kinds"] == []
    assert "secret" not in s.api("GET", f"/v1/webhooks/{w['id']}")
    assert "secret" not in s.api("GET", "/v1/webhooks")["webhooks"][0]
    ids = [box(s) for _ in range(5)]
    feed = [e for e in s.api("GET", "/v1/events?limit=100")["events"] if e["sandbox"] in ids]
    told = r.events(len(feed))
    assert [e["seq"] for e in told] == sorted(e["seq"] for e in told)
    assert told == feed, (told, feed)
    for headers, body, path in r.calls:
        t, v1 = (p.split("=", 1)[1] for p in headers["Stasis-Signature"].split(","))
        want = hmac.new(b"a-secret-of-mine-1234", t.encode() + b"." + body, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(v1, want) and abs(time.time() - int(t)) < 300
        assert headers["Stasis-Webhook"] == w["id"] and path == "/hook?x=1"
        assert headers["Stasis-Delivery"] == json.loads(body)["cursor"] and headers["Stasis-Attempt"] == "1"
        assert headers["Content-Type"] == "application/json"
    got = deliveries(s, w, lambda d: len(d) == len(feed))
    assert all((d["outcome"], d["status"], d["error"]) == ("delivered", 200, None) for d in got), got
    gone(s, w)
    box(s)
    time.sleep(0.3)
    assert len(r.calls) == len(feed), "a webhook that was removed is not told"
    r.close()


def test_tried_again_in_order(s):
    r = Receiver(lambda n: 500 if n <= 2 else 204)
    w = hook(s, r.url, kinds=["running", "paused"])
    a, b = box(s), box(s)
    told = r.events(4)
    assert [e["sandbox"] for e in told] == [a, a, a, b], told
    assert [c[0]["Stasis-Attempt"] for c in r.calls] == ["1", "2", "3", "1"]
    assert len({c[0]["Stasis-Delivery"] for c in r.calls[:3]}) == 1, "the same delivery, by its name"
    got = deliveries(s, w, lambda d: len(d) == 4)[::-1]
    assert [d["outcome"] for d in got] == ["failed", "failed", "delivered", "delivered"], got
    assert (got[0]["status"], got[0]["error"]) == (500, "answered 500")
    s.api("DELETE", f"/v1/sandboxes/{a}", expect=204)
    s.api("POST", f"/v1/sandboxes/{b}/pause")
    assert r.events(5)[4]["kind"] == "paused", "kinds that were not asked for are passed over"
    gone(s, w)
    r.close()


def test_over_restarts(s):
    r = Receiver()
    w = hook(s, r.url, kinds=["running"])
    box(s)
    r.wait(1)
    r.close()
    missed = box(s)
    deliveries(s, w, lambda d: d and d[0]["outcome"] == "failed")
    s.stop()
    r2 = Receiver(port=r.port)
    s.start()
    assert r2.events(1)[0]["sandbox"] == missed
    assert int(r2.calls[0][0]["Stasis-Attempt"]) >= 2, "its tries are counted on"
    after = box(s)
    assert r2.events(2)[1]["sandbox"] == after
    gone(s, w)
    r2.close()


def hang(handler):
    time.sleep(120)


def endless(handler):
    handler.send_response(503)
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"x" * 65536)
    except OSError:
        pass


def redirect(handler):
    handler.send_response(302)
    handler.send_header("Location", f"http://127.0.0.1:{elsewhere.port}/stolen")
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def test_bad_ones_hurt_nobody(s):
    global elsewhere
    elsewhere = Receiver()
    good, slow = Receiver(), Receiver(lambda n: hang)
    flood, away = Receiver(lambda n: endless), Receiver(lambda n: redirect)
    hooks = [hook(s, r.url) for r in (slow, flood, away, good)]
    dead = hook(s, "http://127.0.0.1:1/")
    ids = [box(s) for _ in range(10)]
    assert [e["sandbox"] for e in good.events(10)] == ids, "it does not wait for the others"
    got = deliveries(s, hooks[1], lambda d: d)
    assert got[0]["outcome"] == "failed", got
    got = deliveries(s, hooks[2], lambda d: d)
    assert (got[0]["status"], got[0]["outcome"]) == (302, "failed") and not elsewhere.calls
    assert deliveries(s, dead, lambda d: d)[0]["error"], "why is said"
    began = time.monotonic()
    s.stop()
    assert time.monotonic() - began < 9, "the server does not wait for a receiver"
    s.start()
    for w in hooks + [dead]:
        gone(s, w)
    for r in (good, slow, flood, away, elsewhere):
        r.close()


def test_where_none_may_go(s):
    for host in ("169.254.169.254", "169.254.0.21", "10.213.4.7", "[::ffff:169.254.169.254]", "[::ffff:10.213.0.1]",
                 "[fe80::1]", "[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]", "224.0.0.1", "0xa9fea9fe",
                 "2852039166", "[::169.254.169.254]"):
        w = hook(s, f"http://{host}/latest/meta-data")
        d = s.api("POST", f"/v1/webhooks/{w['id']}/test")
        assert d["outcome"] == "failed" and d["status"] == 0, (host, d)
        assert "no webhook may go to that address" in d["error"], (host, d)
        gone(s, w)


def test_bodies_that_are_none(s):
    ok = "http://127.0.0.1:9/"
    for body in ({}, {"url": 1}, {"url": ""}, {"url": "ftp://x/"}, {"url": "file:///etc/passwd"}, {"url": "http://"},
                 {"url": "http://:80/"}, {"url": "http://a:b@127.0.0.1/"}, {"url": "http://x/\r\nX: y"},
                 {"url": "http://x/ y"}, {"url": "http://x/\u00e4"}, {"url": "http://x/" + "y" * 2000},
                 {"url": ok, "secret": "short"}, {"url": ok, "secret": "with blanks in it " * 2},
                 {"url": ok, "secret": "x" * 129}, {"url": ok, "kinds": ["A b"]}, {"url": ok, "kinds": [1]},
                 {"url": ok, "kinds": ["a"] * 65}, {"url": ok, "kinds": "running"}, {"url": ok, "enabled": 1},
                 {"url": ok, "nosuch": 1}):
        e = s.api("POST", "/v1/webhooks", body, expect=400)
        assert e["error"]["code"] == "invalid", (body, e)
    assert s.api("GET", "/v1/webhooks")["webhooks"] == []
    made = [hook(s, ok, enabled=False) for _ in range(32)]
    hook(s, ok, expect=429)
    for w in made:
        gone(s, w)
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/deliveries"), ("POST", "/test")):
        s.api(method, f"/v1/webhooks/none{path}", {} if method == "PATCH" else None, expect=404)


def test_for_administrators_alone(s):
    """A webhook is told of everybody's sandboxes, and makes the server call addresses."""
    r = Receiver()
    w = hook(s, r.url, enabled=False)
    for scope in ("sandboxes", "read"):
        key = s.api("POST", "/v1/keys", {"name": scope, "scope": scope}, expect=201)["key"]
        for method, path, body in (("POST", "", '{"url": "http://127.0.0.1:9/"}'), ("GET", "", None),
                                   ("GET", f"/{w['id']}", None), ("PATCH", f"/{w['id']}", '{"enabled": true}'),
                                   ("GET", f"/{w['id']}/deliveries", None), ("POST", f"/{w['id']}/test", None),
                                   ("DELETE", f"/{w['id']}", None)):
            s.call(method, "/v1/webhooks" + path, body, {"X-API-Key": key}, 403)
    assert not r.calls
    gone(s, w)
    r.close()


def test_switched_off_and_on(s):
    r = Receiver()
    w = hook(s, r.url, enabled=False, kinds=["running"])
    a = box(s)
    assert s.api("POST", f"/v1/webhooks/{w['id']}/test")["outcome"] == "delivered"
    assert r.events(1)[0]["kind"] == "webhook_test"
    assert s.api("PATCH", f"/v1/webhooks/{w['id']}", {"enabled": True})["enabled"] is True
    assert r.events(2)[1]["sandbox"] == a, "what happened meanwhile is told then"
    for _ in range(120):
        s.api("POST", f"/v1/webhooks/{w['id']}/test")
    assert len(s.api("GET", f"/v1/webhooks/{w['id']}/deliveries")["deliveries"]) == 100, "the log is bounded"
    gone(s, w)
    r.close()


def main():
    if not shutil.which("nginx", path="/usr/sbin:/usr/bin"):
        return 77
    s = edge.Edge(sys.argv[1])
    try:
        for name, test in list(globals().items()):
            if name.startswith("test_"):
                began = time.monotonic()
                test(s)
                print(f"ok {name} {time.monotonic() - began:.2f} s", flush=True)
    finally:
        s.stop()
        shutil.rmtree(s.dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
