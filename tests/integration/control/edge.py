#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""edge.py MODEL_SERVER: the edge with the real nginx, small upstreams standing in for guests.

Exit status 77 when nginx is missing.
"""
import hashlib
import http.client
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

AGENT = 49983
GUEST = f"127.{random.randint(64, 127)}.{random.randint(1, 254)}.{random.randint(2, 254)}"


def free_port(host="127.0.0.1"):
    with socket.socket() as s:
        s.bind((host, 0))
        return s.getsockname()[1]


# --- a guest's program: speaks raw HTTP so that it can misbehave


class Upstream(threading.Thread):
    def __init__(self, port):
        super().__init__(daemon=True)
        self.listener = socket.create_server((GUEST, port))
        self.port = self.listener.getsockname()[1]
        self.gate = threading.Event()
        self.last_head = ""
        self.start()

    def run(self):
        while True:
            try:
                conn, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        with conn:
            f = conn.makefile("rb")
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = f.readline()
                if not line:
                    return
                head += line
            self.last_head = head.decode("latin-1")
            method, target = self.last_head.split(" ")[:2]
            low = self.last_head.lower()
            path = target.split("?")[0]

            def send(data):
                conn.sendall(data if isinstance(data, bytes) else data.encode())

            def reply(body, status="200 OK", more=""):
                body = body.encode() if isinstance(body, str) else body
                send(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body)

            def body():
                if "transfer-encoding: chunked" in low:
                    while True:
                        n = int(f.readline(), 16)
                        data = f.read(n)
                        f.readline()
                        if n == 0:
                            return
                        yield data
                else:
                    left = 0
                    for line in low.split("\r\n"):
                        if line.startswith("content-length:"):
                            left = int(line.split(":")[1])
                    while left:
                        data = f.read1(min(left, 65536))
                        if not data:
                            return
                        left -= len(data)
                        yield data

            if path == "/upload":
                digest, n = hashlib.sha256(), 0
                for piece in body():
                    digest.update(piece)
                    n += len(piece)
                reply(json.dumps({"n": n, "sha256": digest.hexdigest()}))
            elif path == "/echo-stream":
                # Sends each piece back before the next one is there.
                send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for piece in body():
                    send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                send("0\r\n\r\n")
            elif path == "/drip":
                send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
                self.gate.wait(20)
                send("6\r\nsecond\r\n0\r\n\r\n")
            elif path == "/own-id":
                reply("", more="X-Request-Id: guest's own\r\n")
            elif path == "/own502":
                reply("the application's own", "502 Bad Gateway", "X-Own: yes\r\n")
            elif path == "/steal":
                reply("guest", more="X-Accel-Redirect: /v1/health\r\nX-Accel-Limit-Rate: 1\r\n"
                                    "X-Accel-Buffering: yes\r\nServer: guest/1\r\n")
            elif path == "/headers":
                n = int(target.split("?")[1])
                reply("ok", more="".join(f"X-Long-{i}: {'h' * 10000}\r\n" for i in range(n)))
            elif path == "/as-it-is":
                # What proxies like to change.
                reply("as it is", "302 Moved", f"Location: http://{GUEST}:{self.port}/next\r\n"
                      "Refresh: 3; url=/x\r\nSet-Cookie: a=1; Path=/; Domain=guest\r\n"
                      "Set-Cookie: b=2\r\nDate: Thu, 01 Jan 1970 00:00:01 GMT\r\n"
                      "Server: own/2\r\nX-Pad: x\r\nETag: W/\"1\"\r\nX.Dot: d\r\nx_under: u\r\n"
                      "Content-Type: text/html;charset=\"latin1\"; x=y\r\n"
                      "X-Accel-Buffering: no\r\nX-Accel-Redirect: /v1/health\r\n")
            elif path == "/status":
                send(f"HTTP/1.1 {target.split('?')[1]} Own\r\nX-Own: yes\r\nLocation: next\r\n\r\n")
            elif path == "/length":
                send("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")
            elif path == "/early":
                reply("no more, please", "413 Too Much", "Connection: close\r\n")
                conn.shutdown(socket.SHUT_WR)
                while conn.recv(65536):
                    pass
            elif path == "/hang-up":
                return
            elif "upgrade: websocket" in low:
                send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                     "Connection: Upgrade\r\n\r\n")
                while True:
                    data = conn.recv(4096)
                    if not data:
                        return
                    send(data[::-1])
            else:
                reply(json.dumps({"method": method, "target": target}))


# --- client


class Edge:
    def __init__(self, program):
        self.program = program
        self.dir = tempfile.mkdtemp(prefix="edge.", dir="/tmp")
        os.chmod(self.dir, 0o711)
        self.port = free_port()
        self.server = None
        self.start()

    def start(self, trusted=None, limits=None):
        # The tests come from one address, without a key, and fast.
        more = ["0", trusted or "127.0.0.0/8", limits or "4096,0,4096,0"]
        self.server = subprocess.Popen(
            [self.program, self.dir, f"127.0.0.1:{self.port}", GUEST, *more],
            stdout=subprocess.PIPE, text=True)
        assert self.server.stdout.readline() == "ready\n", "the server did not start"
        with open(self.dir + "/data/admin.key") as f:
            self.key = f.read().strip()

    def stop(self):
        if self.server:
            self.server.send_signal(signal.SIGTERM)
            assert self.server.wait(20) == 0
            self.server = None

    def call(self, method, path, body=None, headers=None, expect=None):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        c.request(method, path, body, headers or {})
        r = c.getresponse()
        data = r.read()
        c.close()
        if expect is not None:
            assert r.status == expect, (method, path, r.status, data)
        return r, data

    def api(self, method, path, body=None, expect=200):
        _, data = self.call(method, path, json.dumps(body) if body is not None else None,
                            {"X-API-Key": self.key}, expect)
        return json.loads(data) if data else None

    def raw(self, text):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        s.sendall(text if isinstance(text, bytes) else text.encode())
        return s


def to(box, port=None, **more):
    h = {"E2b-Sandbox-Id": box["id"]}
    if port is not None:
        h["E2b-Sandbox-Port"] = str(port)
    h.update({k.replace("_", "-"): v for k, v in more.items()})
    return h


def read_until(s, mark):
    data = b""
    while mark not in data:
        piece = s.recv(65536)
        if not piece:
            break
        data += piece
    return data


# --- tests: each takes the edge, a running sandbox, and the upstreams of an application and the agent


def test_api_and_health(edge, box, app, agent):
    assert edge.api("GET", "/v1/sandboxes/" + box["id"])["state"] == "running"
    r, data = edge.call("GET", "/v1/health", expect=200)
    assert json.loads(data)["status"] == "ok"
    _, data = edge.call("GET", "/v1/sandboxes", expect=401)
    assert json.loads(data)["error"]["code"] == "unauthenticated"
    _, data = edge.call("GET", "/nothing", expect=404)
    assert json.loads(data)["error"]["code"] == "not_found"


def test_routing(edge, box, app, agent):
    for headers in (to(box, app.port), {"Host": f"{app.port}-{box['id']}.localhost"},
                    {"Host": f"{app.port}-{box['id'].upper()}.LOCALHOST:{edge.port}"},
                    # Old clients append their own id.
                    to({"id": box["id"] + "-6532622b"}, app.port)):
        _, data = edge.call("GET", "/a%2Fb/..%2f?x=%20y&z", headers=headers, expect=200)
        assert json.loads(data)["target"] == "/a%2Fb/..%2f?x=%20y&z", data
    _, data = edge.call("GET", "/files", headers=to(box, X_Access_Token=box["envd_token"]), expect=200)
    assert "X-Stasis" not in agent.last_head
    # A sandbox may have paths like the API's.
    _, data = edge.call("GET", "/v1/health", headers=to(box, app.port), expect=200)
    assert json.loads(data)["target"] == "/v1/health"


def test_internal_headers(edge, box, app, agent):
    forged = {"X-Stasis-Edge": "x", "X-Stasis-Id": "forged", "X-Stasis-Port": "1",
              "X-Stasis-Target": "127.0.0.1:1", "X-Stasis-Refusal": "401", "X-Stasis-Refusal-Body": "no"}
    _, data = edge.call("GET", "/", headers=dict(to(box, app.port), **forged), expect=200)
    for name in ("Edge", "Id", "Port"):
        assert f"X-Stasis-{name}" not in app.last_head, app.last_head
    for path in ("/_edge/auth", "/%5Fedge/auth", "//_edge/auth", "/_edge/closed",
                 "/_stasis/auth", "/_stasis/sandbox"):
        edge.call("GET", path, headers=forged, expect=404)
    _, data = edge.call("GET", "/", headers=dict(to({"id": "inone"}), **forged), expect=502)
    assert json.loads(data)["sandboxId"] == "inone"


def test_refusals(edge, box, app, agent):
    def refused(status, want, headers, path="/", method="GET", body=None):
        r, data = edge.call(method, path, body, headers, status)
        assert r.getheader("Content-Type") == "application/json"
        got = json.loads(data)
        assert all(got.get(k) == v for k, v in want.items()) and got["code"] == status, got
        return got

    gone = {"sandboxId": "inone", "message": "The sandbox was not found", "code": 502}
    assert refused(502, {}, to({"id": "inone"})) == gone
    assert refused(502, {}, {"Host": "3000-inone.localhost"}) == gone
    assert refused(502, {}, to({"id": "inone"}), method="POST", body=b"x" * 3000000) == gone
    closed = free_port(GUEST)
    assert refused(502, {}, to(box, closed), method="POST", body=b"y" * 100000) == {
        "sandboxId": box["id"], "message": "The sandbox is running but port is not open",
        "port": closed, "code": 502}
    assert "on the guest's loopback only" in refused(502, {"port": 1}, to(box, 1))["message"]
    for bad in ("i.b", "../x", "a b", "i" * 80, "%69", "*"):
        refused(400, {}, to({"id": bad}))
    for bad in ("0", "70000", "65536", "-1", "80x", "x", "8 0", "99999999999999999999"):
        refused(400, {}, to(box, bad))
    for bad in (f"0-{box['id']}", f"70000-{box['id']}", "80-a.b", "80-", "80-a_b"):
        refused(400, {}, {"Host": bad + ".localhost"})
    for wrong in ({}, {"X_Access_Token": "wrong"}, {"X_Access_Token": ""}):
        for method, path in (("GET", "/files"), ("POST", "/process.Process/Start"), ("GET", "/healthy"),
                             ("GET", "/x/../health"), ("GET", "/health/"), ("GET", "/health%3f"), ("POST", "/health"),
                             ("HEAD", "/files")):
            if method != "HEAD":
                refused(401, {"sandboxId": box["id"]}, to(box, **wrong), path, method)
            else:
                edge.call(method, path, headers=to(box, **wrong), expect=401)
    for free in ("/health", "/health?x=1"):
        edge.call("GET", free, headers=to(box), expect=200)
    edge.call("OPTIONS", "/files", headers=to(box), expect=200)
    refused(401, {}, to(box, X_Access_Token="wrong"), "/health")
    refused(401, {}, dict(to(box), **{"X-Stasis-Method": "OPTIONS", "X-Stasis-Uri": "/health"}), "/files")
    for path in ("/init", "/freeze", "/thaw"):
        refused(404, {}, to(box), path, "OPTIONS")
    edge.call("GET", "/files", headers=to(box, X_Access_Token=box["envd_token"]), expect=200)
    # The token is the agent's: an application's own header of that name is its affair.
    edge.call("GET", "/x", headers=to(box, app.port, X_Access_Token="own"), expect=200)
    for path in ("/init", "/init?x=1", "/%69nit", "//init", "/./init", "/x/../init", "/freeze",
                 "/unfreeze", "/collapse", "/fsfreeze", "/fsthaw", "/upgrade", "/init/"):
        refused(404, {}, to(box, X_Access_Token=box["envd_token"]), path, "POST", b"{}")
    for path in ("/initial", "/a/init", "/INIT"):
        edge.call("POST", path, b"", to(box, X_Access_Token=box["envd_token"]), 200)
    edge.call("POST", "/init", b"", to(box, app.port), 200)


def test_header_injection(edge, box, app, agent):
    s = edge.raw(f"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nE2b-Sandbox-Id: {box['id']}\r\n"
                 f" X-Stasis-Edge: 1\r\nE2b-Sandbox-Port: {app.port}\r\n\r\n")
    assert read_until(s, b"no such mark").startswith((b"HTTP/1.1 400", b"HTTP/1.1 502")), "folded header"
    for value in ("i\x00b", "i\rX-Stasis-Edge: 1"):
        s = edge.raw(f"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nE2b-Sandbox-Id: {value}\r\n\r\n")
        assert read_until(s, b"no such mark").startswith(b"HTTP/1.1 400"), value


def test_streams_both_ways(edge, box, app, agent):
    s = edge.raw(f"POST /echo-stream HTTP/1.1\r\nHost: {app.port}-{box['id']}.localhost\r\n"
                 "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
    for i in range(5):
        word = f"piece{i}"
        s.sendall(f"{len(word):x}\r\n{word}\r\n".encode())
        assert word.encode() in read_until(s, word.encode()), "nothing came back before the end"
    s.sendall(b"0\r\n\r\n")
    assert read_until(s, b"0\r\n\r\n").endswith(b"0\r\n\r\n")
    s.close()
    app.gate.clear()
    s = edge.raw(f"GET /drip HTTP/1.1\r\nHost: {app.port}-{box['id']}.localhost\r\n\r\n")
    assert b"first" in read_until(s, b"first")
    app.gate.set()
    assert b"second" in read_until(s, b"0\r\n\r\n")


def test_websocket(edge, box, app, agent):
    s = edge.raw(f"GET /ws HTTP/1.1\r\nHost: {app.port}-{box['id']}.localhost\r\n"
                 "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert b" 101 " in read_until(s, b"\r\n\r\n")
    for i in range(3):
        s.sendall(b"abc%d" % i)
        assert read_until(s, b"a") == b"%dcba" % i
    s.close()


def test_large_upload(edge, box, app, agent):
    piece, n = os.urandom(1 << 20), 64
    digest = hashlib.sha256()

    def pieces():
        for _ in range(n):
            digest.update(piece)
            yield piece
    for chunked in (False, True):
        digest = hashlib.sha256()
        headers = dict(to(box, app.port), Expect="100-continue")
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(n << 20)
        c = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=60)
        c.request("POST", "/upload", pieces(), headers, encode_chunked=chunked)
        got = json.loads(c.getresponse().read())
        assert got == {"n": n << 20, "sha256": digest.hexdigest()}, got
        c.close()


def test_api_body_limits(edge, box, app, agent):
    for size in ((1 << 20) + 1, 3 << 20):
        _, data = edge.call("POST", "/v1/sandboxes", b"x" * size, {"X-API-Key": edge.key}, 413)
        assert json.loads(data)["error"]["code"] == "too_large", data


def test_headers_of_any_name(edge, box, app, agent):
    headers = {"session_id": "abc", "X_b": "1", "_": "2", "x.dotted.name": "3", "X$odd!~": "4",
               "trailing_": "5", "Content_Type": "own", "CamelCase": "6", "X_Stasis_Edge": "own",
               "Accept-Encoding": "br;q=0.1, gzip", "Cookie": "a=1; b=2"}
    edge.call("GET", "/", headers=dict(to(box, app.port), **headers), expect=200)
    for name, value in headers.items():
        assert f"\r\n{name}: {value}\r\n" in app.last_head, (name, app.last_head)
    # The same ones to the API change nothing.
    edge.call("GET", "/v1/sandboxes", headers=dict(headers, **{"X-API-Key": edge.key}), expect=200)
    edge.call("GET", "/v1/sandboxes", headers={"X_API_Key": edge.key}, expect=401)


def test_long_headers_and_addresses(edge, box, app, agent):
    for size in (20000, 60000, 100000):
        for headers, path in (({"Cookie": "c" * size}, "/"), ({}, "/p" + "q" * size),
                              ({}, "/?" + "q" * size), ({"X-API-Key": "k" * size}, "/"),
                              ({"Authorization": "Negotiate " + "k" * size}, "/"),
                              ({"X-Access-Token": "t" * size}, "/")):
            edge.call("GET", path, headers=dict(to(box, app.port), **headers), expect=200)
            assert len(app.last_head) > size, "cut"
            assert path in app.last_head and all(v in app.last_head for v in headers.values())
    many = {f"X-Many-{i}": "m" * 1000 for i in range(400)}
    edge.call("GET", "/", headers=dict(to(box, app.port), **many), expect=200)
    assert app.last_head.count("X-Many-") == 400
    # The agent's paths are short, and a long one is no way around what is closed.
    for path in ("/files?" + "x" * 20000, "/init?" + "x" * 20000, "/" * 5000 + "init",
                 "/./" * 2000 + "init"):
        edge.call("POST", path, headers=to(box, X_Access_Token="wrong"),
                  expect=401 if path.startswith("/files") else 404)
    edge.call("GET", "/files?" + "x" * 20000, headers=to(box, X_Access_Token=box["envd_token"]), expect=200)
    edge.call("GET", "/", headers={"E2b-Sandbox-Id": "i" * 50000}, expect=400)


def test_a_weak_agent_is_for_its_owner_alone(edge, box, app, agent):
    """Whatever port is asked for; and a program behind one does not get to see the token."""
    weak, told, none = (edge.api("POST", "/v1/sandboxes", {"env": {"MODEL_AGENT": version}}, 201) for version in
                        ("unknown-1", "unknown-2", "0.1.0-3+0123456789abcdef"))
    assert edge.api("GET", "/v1/sandboxes/" + weak["id"])["agent_version"] == "before 0.1.0-3"
    assert any("token" in text for text in edge.api("GET", "/v1/sandboxes/" + weak["id"])["agent_weaknesses"])
    assert edge.api("GET", "/v1/sandboxes/" + none["id"])["agent_weaknesses"] == []
    for port in (app.port, 49983, free_port(GUEST)):
        for wrong in ({}, {"X_Access_Token": "wrong"}, {"X_Access_Token": ""}, {"X_Access_Token": none["envd_token"]},
                      {"X_Access_Token": "t" * 400}):
            for method, path in (("GET", "/health"), ("OPTIONS", "/files"), ("POST", "/x")):
                _, data = edge.call(method, path, None, to(weak, port, **wrong), 401)
                assert "known weakness" in json.loads(data)["message"], data
        edge.call("GET", "/", headers={"Host": f"{port}-{weak['id']}.localhost"}, expect=401)
    good = {"X_Access_Token": weak["envd_token"]}
    edge.call("GET", "/files", headers=to(weak, 49983, **good), expect=200)
    assert weak["envd_token"] in agent.last_head
    for path in ("/init", "/upgrade"):
        edge.call("POST", path, b"{}", to(weak, 49983, **good), 404)
    edge.call("GET", "/x", headers=to(weak, app.port, **good), expect=200)
    assert "oken" not in app.last_head, app.last_head
    # The others' ports are open, and a header of that name is the application's.
    for other in (told, none):
        edge.call("GET", "/x", headers=to(other, app.port, X_Access_Token="own"), expect=200)
        assert "own" in app.last_head
        edge.call("GET", "/health", headers=to(other, 49983), expect=200)
    for made in (weak, told, none):
        edge.api("DELETE", "/v1/sandboxes/" + made["id"], None, 204)


def test_own_key_does_not_reach_a_guest(edge, box, app, agent):
    for headers in ({"X-API-Key": edge.key}, {"Authorization": "Bearer " + edge.key}):
        edge.call("GET", "/", headers=dict(to(box, app.port), **headers), expect=200)
        assert edge.key not in app.last_head
    edge.call("GET", "/", headers=to(box, app.port, X_API_Key="own", Authorization="Basic eDp5"), expect=200)
    assert "\r\nX-API-Key: own\r\n" in app.last_head and "Basic eDp5" in app.last_head


def test_addresses_as_sent(edge, box, app, agent):
    for target in ("//", "//a//b", "/a%2Fb%2f", "/%E2%82%AC?%zz=%", "/a/../b/./c", "/a/%2e%2e/x", "/a;b=c,d|e^f`g",
                   "/?a=1?b=2&&", "/caf\xe9", "/%41%7E", "/a%20b+c", "/x?" + "%2F" * 10, "/_stasis/auth",
                   "/_edge/auth", "/v1/health", "/[1]{2}\"<>\\"):
        s = edge.raw(f"GET {target} HTTP/1.1\r\nHost: {app.port}-{box['id']}.localhost\r\n"
                     "Connection: close\r\n\r\n".encode("latin-1"))
        assert read_until(s, b"no such mark").startswith(b"HTTP/1.1 200"), target
        assert app.last_head.split(" ")[1] == target, (target, app.last_head)
    for target, want in ((f"http://{app.port}-{box['id']}.localhost/abs?x", "/abs?x"),):
        s = edge.raw(f"GET {target} HTTP/1.1\r\nHost: {app.port}-{box['id']}.localhost\r\n"
                     "Connection: close\r\n\r\n")
        assert read_until(s, b"no such mark").startswith(b"HTTP/1.1 200"), target
        assert app.last_head.split(" ")[1] == want


def test_methods(edge, box, app, agent):
    for method in ("PROPFIND", "REPORT", "M-SEARCH", "OPTIONS", "DELETE", "PATCH", "MY_OWN", "QUERY"):
        _, data = edge.call(method, "/m", headers=to(box, app.port), expect=200)
        assert json.loads(data)["method"] == method
    r, data = edge.call("HEAD", "/length", headers=to(box, app.port), expect=200)
    assert r.getheader("Content-Length") == "12345" and data == b""


def test_answers_as_sent(edge, box, app, agent):
    r, data = edge.call("GET", "/as-it-is", headers=to(box, app.port), expect=302)
    got = r.getheaders()
    for header in (("Location", f"http://{GUEST}:{app.port}/next"), ("Refresh", "3; url=/x"),
                   ("Set-Cookie", "a=1; Path=/; Domain=guest"), ("Set-Cookie", "b=2"),
                   ("Date", "Thu, 01 Jan 1970 00:00:01 GMT"), ("Server", "own/2"), ("X-Pad", "x"),
                   ("ETag", 'W/"1"'), ("X.Dot", "d"), ("x_under", "u"), ("X-Accel-Buffering", "no"),
                   ("Content-Type", 'text/html;charset="latin1"; x=y')):
        assert header in got, (header, got)
    assert data == b"as it is" and r.reason == "Moved" and not r.getheader("X-Accel-Redirect")
    for status in (204, 304, 205, 299, 400, 404, 413, 418, 431, 500, 501, 502, 503, 504, 599):
        r, data = edge.call("GET", f"/status?{status}", headers=to(box, app.port), expect=status)
        assert (data, r.getheader("X-Own"), r.getheader("Location")) == (b"", "yes", "next"), status
    for n in (1, 7, 20):
        r, data = edge.call("GET", f"/headers?{n}", headers=to(box, app.port), expect=200)
        assert data == b"ok" and len(r.getheaders()) >= n


def request_ids(head):
    return [line.split(b": ", 1)[1].decode() for line in head.split(b"\r\n")
            if line.lower().startswith(b"x-request-id:")]


def test_request_ids(edge, box, app, agent):
    """One in each answer: the client's where it is fit to be written down, else one that is made. A
    guest sees what was sent, and what it says itself stays."""
    closed, api = free_port(GUEST), "x"
    fit = ("a", "Root=1-67891233-abcdef012345678912345678", "x" * 128, "../..", "a:b+c@d")
    unfit = ("", "x" * 129, "a b", 'a"b', "a,b", "{}", "\xc3\xa4", "a;b", "%0d%0a")
    def ask(host, path, sent=None, more=""):
        header = "" if sent is None else f"X-Request-Id: {sent}\r\n"
        s = edge.raw(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}{more}Connection: close\r\n\r\n"
                     .encode("latin-1"))
        return request_ids(read_until(s, b"no such mark").partition(b"\r\n\r\n")[0])
    places = ((api, "/v1/health"), (api, "/v1/sandboxes"), (api, "/none"), (api, "/v1/health?%00"),
              (f"{closed}-{box['id']}.localhost", "/"), (f"{app.port}-inone.localhost", "/"),
              (f"70000-{box['id']}.localhost", "/"), (f"49983-{box['id']}.localhost", "/files"),
              (f"{app.port}-{box['id']}.localhost", "/length"))
    for host, path in places:
        for sent in fit:
            assert ask(host, path, sent) == [sent], (host, path, sent)
        for sent in unfit + (None,):
            got = ask(host, path, sent)
            assert len(got) == 1 and len(got[0]) == 32 and got[0] != sent, (host, path, sent, got)
        assert len(ask(host, path, "a", "X-Request-Id: b\r\n")) == 1, "of two one, or a new one"
    host = f"{app.port}-{box['id']}.localhost"
    for sent in fit + ('a"b', "a b"):
        ask(host, "/length", sent)
        assert f"X-Request-Id: {sent}\r\n" in app.last_head, app.last_head
    made = ask(host, "/length")
    assert f"X-Request-Id: {made[0]}\r\n" in app.last_head, "the guest is told the same"
    assert ask(host, "/own-id", "mine") == ["guest's own"]
    r, _ = edge.call("POST", f"/v1/sandboxes/{box['id']}/timeout", '{"timeout_sec": 600}',
                     {"X-API-Key": edge.key, "X-Request-Id": "caused-it"}, expect=200)
    assert r.getheader("X-Request-Id") == "caused-it"
    _, data = edge.call("GET", f"/v1/operations?sandbox={box['id']}&limit=1",
                        headers={"X-API-Key": edge.key}, expect=200)
    assert json.loads(data)["operations"][0]["request_id"] == "caused-it", data


def test_answer_before_the_end_of_an_upload(edge, box, app, agent):
    s = edge.raw(f"POST /early HTTP/1.1\r\nHost: {app.port}-{box['id']}.localhost\r\n"
                 "Content-Length: 50000000\r\n\r\n" + "x" * 100000)
    assert read_until(s, b"please").startswith(b"HTTP/1.1 413 Too Much"), "the guest's own answer"


def test_refusal_of_an_upload_without_end(edge, box, app, agent):
    """As of a client that sends what it is still making."""
    closed = free_port(GUEST)
    for piece in ("", "5\r\nhello\r\n", "1000\r\n" + "x" * 4096 + "\r\n"):
        s = edge.raw(f"POST /up HTTP/1.1\r\nHost: {closed}-{box['id']}.localhost\r\n"
                     f"Transfer-Encoding: chunked\r\n\r\n{piece}")
        head = read_until(s, b"port is not open")
        assert head.startswith(b"HTTP/1.1 502 "), head
        s.close()
    paused = edge.api("POST", "/v1/sandboxes", {}, expect=201)
    edge.api("POST", f"/v1/sandboxes/{paused['id']}/pause")
    body = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
    for host, more, status, said in (
            (f"{app.port}-inone.localhost", body, 502, b"was not found"),
            (f"{app.port}-inone.localhost", "Content-Length: 9000\r\n\r\nhello", 502, b"was not found"),
            (f"{app.port}-{paused['id']}.localhost", body, 502, b"was not found"),
            (f"49983-{box['id']}.localhost", body, 401, b"access token is missing"),
            (f"49983-{box['id']}.localhost", "X-Access-Token: no\r\n" + body, 401, b"access token is"),
            (f"49983-{box['id']}.localhost", "Expect: 100-continue\r\n" + body, 401, b"access token is"),
            (f"70000-{box['id']}.localhost", body, 400, b"must be a number"),
            (f"{app.port}-a.b.localhost", body, 400, b"id is malformed")):
        s = edge.raw(f"POST /up HTTP/1.1\r\nHost: {host}\r\n{more}")
        answer = read_until(s, said)
        assert f"HTTP/1.1 {status} ".encode() in answer, (host, answer)
        assert b"\r\nConnection: close\r\n" in answer, (host, answer)
        s.close()
    edge.api("DELETE", "/v1/sandboxes/" + paused["id"], expect=204)
    # Nothing of the bodies is taken for a request, on no connection to the server.
    for _ in range(40):
        edge.call("GET", "/v1/health", expect=200)


def test_open_but_not_answering(edge, box, app, agent):
    _, data = edge.call("GET", "/hang-up", headers=to(box, app.port), expect=502)
    assert "The port is open, but" in json.loads(data)["message"], data
    assert json.loads(data)["port"] == app.port
    _, data = edge.call("GET", "/headers?30", headers=to(box, app.port), expect=502)
    assert "256 KiB of headers" in json.loads(data)["message"], data


def test_refusals_of_nginx_itself(edge, box, app, agent):
    host = f"{app.port}-{box['id']}.localhost"

    def refused(request, status, code=None):
        s = edge.raw(request)
        head, _, body = read_until(s, b"\r\n\r\n").partition(b"\r\n\r\n")
        while piece := len(body) < int(head.lower().split(b"content-length: ")[1].split()[0]) and s.recv(65536):
            body += piece
        assert head.startswith(b"HTTP/1.1 %d" % status), (request[:80], head)
        assert b"application/json" in head, (request[:80], head, body)
        assert len(ids := request_ids(head)) == 1 and len(ids[0]) == 32, (request[:80], head)
        got = json.loads(body)
        if code:
            assert got["error"]["code"] == code and got["error"]["message"], got
        else:
            assert got["code"] == status and got["message"], got
    end, key = "Connection: close\r\n\r\n", f"X-API-Key: {edge.key}\r\n"
    # To nobody known yet.
    for line in ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "get / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\r\n\r\n",
                 "GET / HTTP/1.1\r\n\r\n", "GET /../.. HTTP/1.1\r\nHost: x\r\n\r\n", "GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n",
                 "CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
                 "GET / HTTP/1.1\r\nHost: x\r\nBad Name: x\r\n\r\n"):
        refused(line, 400, "invalid")
    refused("GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505, "unimplemented")
    refused(f"GET /{'x' * 140000} HTTP/1.1\r\nHost: x\r\n{end}", 414, "too_large")
    # To the API.
    refused(f"TRACE / HTTP/1.1\r\nHost: x\r\n{end}", 405, "invalid")
    refused(f"POST /v1/keys HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: br\r\n{end}", 501, "unimplemented")
    refused(f"POST /v1/keys HTTP/1.1\r\nHost: x\r\n{key}Transfer-Encoding: chunked\r\n{end}zz\r\n", 400, "invalid")
    refused(f"POST /v1/keys HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n{end}", 400, "invalid")
    refused(f"POST /v1/keys HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 9000000\r\n{end}", 413, "too_large")
    for size in (32000, 50000, 100000, 140000):
        refused(f"GET /v1/health HTTP/1.1\r\nHost: x\r\nCookie: {'c' * size}\r\n{end}", 431, "too_large")
    refused(f"GET /v1/health?{'x' * 60000} HTTP/1.1\r\nHost: x\r\n{end}", 431, "too_large")
    # To a guest's port.
    refused(f"TRACE / HTTP/1.1\r\nHost: {host}\r\n{end}", 405)
    refused(f"GET / HTTP/1.1\r\nHost: {host}\r\nCookie: {'c' * 140000}\r\n{end}", 431)
    refused(f"POST /upload HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n{end}zz\r\n", 400)


# --- strangers


def answer(s):
    """Head and JSON of an answer, then whatever the edge does with the connection."""
    head, _, body = read_until(s, b"\r\n\r\n").partition(b"\r\n\r\n")
    assert head, "no answer"
    length = int(head.lower().split(b"content-length: ")[1].split()[0])
    while len(body) < length:
        piece = s.recv(65536)
        assert piece, (head, body)
        body += piece
    return head.decode().lower(), json.loads(body[:length])


def ended(s):
    """The edge closes it, without another word of the client."""
    try:
        return s.recv(1) == b""
    except ConnectionResetError:
        return True


def test_no_body_is_waited_for_before_the_key(edge, box, app, agent):
    wrong, refused = "X-API-Key: e2b_" + "0" * 40 + "\r\n", []
    for credentials in ("", "X-API-Key: mine\r\n", "Authorization: Basic eDp5\r\n", "Authorization: Bearer x\r\n",
                        f"X-API-Key: {edge.key}0\r\n", f"X-API-Key: {edge.key.upper()}\r\n", wrong,
                        f"Authorization: Bearer e2b_{'1' * 40}\r\n"):
        looks_good = "e2b_" in credentials and edge.key not in credentials
        for path in ("/v1/sandboxes", "/v1/health", "/none"):
            # Of one that looks good a short body is taken first: it costs the edge one buffer.
            for length in ("Content-Length: 1000000\r\n", "Transfer-Encoding: chunked\r\n") + (
                    () if looks_good else ("Content-Length: 1000\r\n",)):
                for method in ("POST", "GET"):
                    s = edge.raw(f"{method} {path} HTTP/1.1\r\nHost: x\r\nOrigin: http://a\r\n{credentials}{length}\r\n")
                    head, got = answer(s)
                    assert head.startswith("http/1.1 401 "), (credentials, length, head)
                    assert got["error"]["code"] == "unauthenticated", got
                    assert "access-control-allow-origin: *" in head
                    refused.append(s)
    for s in refused:
        assert ended(s)
        s.close()
    # A good one is served, however its body comes.
    body = json.dumps({"metadata": {"k": "v" * 20000}})
    for more in ({}, {"Transfer-Encoding": "chunked"}):
        r, data = edge.call("POST", "/v1/sandboxes", iter([body.encode()]) if more else body,
                            dict({"Authorization": "bearer " + edge.key}, **more))
        assert r.status in (201, 400), data
        if r.status == 201:
            edge.api("DELETE", "/v1/sandboxes/" + json.loads(data)["id"], None, 204)


def slow_clients(edge, n, path="/v1/sandboxes", headers="", host="x", start="{"):
    held = []
    for _ in range(n):
        s = edge.raw(f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: 1000\r\n\r\n{start}")
        held.append(s)
    return held


def threads(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def test_slow_bodies_take_nothing_of_the_server(edge, box, app, agent):
    """More than it has places, with what looks like a key: they wait at the edge."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 8192), hard), hard))
    before = threads(edge.server.pid)
    for headers in (f"X-API-Key: {edge.key}\r\n", "X-API-Key: e2b_" + "0" * 40 + "\r\n", ""):
        held = slow_clients(edge, 1100, headers=headers)
        assert edge.api("GET", "/v1/sandboxes/" + box["id"])["state"] == "running"
        edge.call("GET", "/x", headers=to(box, app.port), expect=200)
        # None of them has a thread there; those of the calls just made may be at their end.
        assert threads(edge.server.pid) < before + 100, headers
        for s in held:
            s.close()


def test_calls_of_the_api_leave_the_edge_its_places(edge, box, app, agent):
    """All places of the API taken, past the edge: guests are still found."""
    taken = []
    try:
        for _ in range(1100):
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(20)
            s.setblocking(False)
            try:
                s.connect(edge.dir + "/run/control.sock")
                s.sendall(b"POST /v1/sandboxes HTTP/1.1\r\nHost: x\r\nX-API-Key: " + edge.key.encode() +
                          b"\r\nContent-Length: 9\r\n\r\n{")
            except BlockingIOError:
                s.close()
                continue
            taken.append(s)
        for _ in range(3):
            edge.call("GET", "/x", headers=to(box, app.port), expect=200)
            edge.call("GET", "/x", headers=to({"id": "inone"}, app.port), expect=502)
    finally:
        for s in taken:
            s.close()
    wait_until("the API's places", lambda: answers(edge))


def busy(edge, n, host, headers=""):
    """Requests under way to a guest's port, which answers them later."""
    held = []
    for _ in range(n):
        s = edge.raw(f"GET /drip HTTP/1.1\r\nHost: {host}\r\nOrigin: http://a\r\n{headers}\r\n")
        held.append(s)
    return held


def split(held, gate):
    """How many were let in; the answers of the refused."""
    refused = []
    for s in held:
        head = read_until(s, b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 200 "):
            continue
        assert head.startswith(b"HTTP/1.1 429 "), head
        refused.append(head.decode().lower())
    gate.set()
    for s in held:
        s.close()
    return len(held) - len(refused), refused


def private_box(edge):
    """A private sandbox, as GET shows it."""
    made = edge.api("POST", "/v1/sandboxes", {"public": False}, 201)
    return edge.api("GET", "/v1/sandboxes/" + made["id"])


def link_of(edge, box, port, **more):
    """A new link, from its path on."""
    url = edge.api("POST", f"/v1/sandboxes/{box['id']}/links", dict({"port": port}, **more), 201)["url"]
    start = f"http://{port}-{box['id']}.localhost:{edge.port}"
    assert url.startswith(start + "/"), url
    return url[len(start):]


def host_of(edge, box, port, **more):
    h = {"Host": f"{port}-{box['id']}.localhost:{edge.port}"}
    h.update({k.replace("_", "-"): v for k, v in more.items()})
    return h


def visit(edge, box, port, path, **more):
    """The cookie that a visit of a link gives, as a browser sends it back, and the answer."""
    r, _ = edge.call("GET", path, headers=host_of(edge, box, port, **more), expect=303)
    return r.getheader("Set-Cookie").split(";")[0], r


def test_private_ports_want_a_token(edge, box, app, agent):
    private, other = private_box(edge), private_box(edge)
    token = private["port_token"]
    assert private["public"] is False and box["public"] is True
    assert token not in (private["envd_token"], other["port_token"])
    listed = edge.api("GET", "/v1/sandboxes")["sandboxes"]
    assert listed and not any("port_token" in one for one in listed)

    def refused(method="GET", path="/", **headers):
        app.last_head = ""
        _, data = edge.call(method, path, headers=host_of(edge, private, app.port, **headers), expect=401)
        if method != "HEAD":
            got = json.loads(data)
            assert got["sandboxId"] == private["id"] and got["code"] == 401 and "private" in got["message"], got
        assert app.last_head == "", app.last_head

    for name in ("X_Stasis_Port_Token", "E2b_Traffic_Access_Token"):
        for wrong in ("", "x", token[:-1], token + "0", token.upper(), "*", "f" * 64, "a" * 5000,
                      private["envd_token"], other["port_token"]):
            refused(**{name: wrong})
    refused()
    refused("HEAD")
    refused("POST", "/x")
    refused(X_Access_Token=private["envd_token"])
    refused(X_API_Key=edge.key)
    refused(Authorization="Bearer " + token)
    refused(X_Stasis_Port_Cookies=token, X_Stasis_Preflight="1", X_Stasis_Known="1")
    refused(path="/?port_token=" + token)
    refused(Upgrade="websocket", Connection="Upgrade")
    at = host_of(edge, private, app.port)
    for name in ("X-Stasis-Port-Token", "e2b-traffic-access-token", "x_stasis_port_token",
                 "E2B_Traffic_Access_Token"):
        _, data = edge.call("GET", "/a%2Fb?x=1", headers=dict(at, **{name: token}), expect=200)
        assert json.loads(data)["target"] == "/a%2Fb?x=1"
        assert "token" not in app.last_head.lower(), app.last_head
        edge.call("GET", "/", headers=dict(to(private, app.port), **{name: token}), expect=200)
        edge.call("HEAD", "/", headers=dict(at, **{name: token}), expect=200)
    edge.call("GET", "/", headers=dict(at, **{"X-Stasis-Port-Token": "x", "E2b-Traffic-Access-Token": token}),
              expect=200)
    # Of a public one too nothing of it is told.
    edge.call("GET", "/", headers=to(box, app.port, X_Stasis_Port_Token="x", E2b_Traffic_Access_Token="y"), expect=200)
    assert "token" not in app.last_head.lower(), app.last_head
    # The agent's port has its own rule.
    edge.call("GET", "/health", headers=to(private), expect=200)
    edge.call("OPTIONS", "/files", headers=to(private), expect=200)
    edge.call("GET", "/files", headers=to(private, X_Stasis_Port_Token=token), expect=401)
    edge.call("GET", "/files", headers=to(private, X_Access_Token=private["envd_token"]), expect=200)
    # What a browser asks before a call of another page, and nothing that is more than that.
    ask = {"Origin": "http://page.example", "Access_Control_Request_Method": "POST"}
    edge.call("OPTIONS", "/x", headers=host_of(edge, private, app.port, **ask), expect=200)
    assert app.last_head.startswith("OPTIONS /x ")
    refused("OPTIONS")
    refused("GET", **ask)
    refused("OPTIONS", Origin="http://page.example")
    refused("OPTIONS", **ask, Upgrade="websocket", Connection="Upgrade")
    refused("OPTIONS", **ask, Content_Length="3")
    r, _ = edge.call("GET", "/", headers=dict(at, Origin="http://page.example"), expect=401)
    assert r.getheader("Access-Control-Allow-Origin") == "*"
    # Anew: the old one opens nothing.
    new = edge.api("POST", f"/v1/sandboxes/{private['id']}/port-token")["port_token"]
    assert new != token and edge.api("GET", "/v1/sandboxes/" + private["id"])["port_token"] == new
    refused(X_Stasis_Port_Token=token)
    edge.call("GET", "/", headers=dict(at, **{"X-Stasis-Port-Token": new}), expect=200)
    edge.call("POST", f"/v1/sandboxes/{private['id']}/port-token", "{}", expect=401)
    edge.api("POST", "/v1/sandboxes/inone/port-token", expect=404)
    for one in (private, other):
        edge.api("DELETE", "/v1/sandboxes/" + one["id"], expect=204)


def test_links_to_private_ports(edge, box, app, agent):
    private, other, second = private_box(edge), private_box(edge), Upstream(0)
    url = "/v1/sandboxes/" + private["id"]
    link = link_of(edge, private, app.port, path="/a/b?x=1")
    code = link.split("stasis_link=")[1]
    # Only a GET of its own sandbox and port uses it up.
    for method, at in (("HEAD", host_of(edge, private, app.port)), ("POST", host_of(edge, private, app.port)),
                       ("GET", host_of(edge, private, second.port)), ("GET", host_of(edge, other, app.port))):
        edge.call(method, link, headers=at, expect=401)
    for wrong in ("0" * 64, code.upper(), code[:-1], code + "0"):
        edge.call("GET", link.replace(code, wrong), headers=host_of(edge, private, app.port), expect=401)
    cookie, r = visit(edge, private, app.port, link)
    assert r.getheader("Location") == "/a/b?x=1" and r.getheader("Cache-Control") == "no-store"
    assert r.getheader("Referrer-Policy") == "no-referrer"
    flags = r.getheader("Set-Cookie").split("; ")[1:]
    assert sorted(flags) == ["HttpOnly", "Max-Age=43200", "Path=/", "SameSite=Lax"], flags
    edge.call("GET", link, headers=host_of(edge, private, app.port), expect=401)

    def opened(cookies, want=None, path="/", **more):
        _, data = edge.call("GET", path, headers=host_of(edge, private, app.port, Cookie=cookies, **more), expect=200)
        assert cookie.split("=")[1] not in app.last_head, app.last_head
        sent = [line[8:] for line in app.last_head.split("\r\n") if line.lower().startswith("cookie:")]
        assert sent == ([want] if want else []), sent
        return json.loads(data)["target"]

    # The guest has its own cookies, and they alone.
    own, forged = "a=1; b=\"x y\"", "stasis-port=9999999999." + "0" * 64
    opened(cookie)
    opened(f"{cookie}; {own}", own)
    opened(f"{own}; {cookie}", own)
    opened(f"a=1; {cookie}; b=2", "a=1; b=2")
    opened(f"xstasis-port=1; {cookie}; stasis-ports=2", "xstasis-port=1; stasis-ports=2")
    opened(f"{forged}; {cookie}; a=1", "a=1")
    opened(f"a=1; {cookie}; {forged}", "a=1")
    opened(f"{cookie}; {forged}; {forged}; a=1")
    opened(f"long={'y' * 30000}; {cookie}", f"long={'y' * 30000}")
    for evil in ("; " * 20000, " " * 60000 + ";", ";" * 60000, "stasis-port=" * 5000, "stasis-port;" * 5000):
        edge.call("GET", "/", headers=host_of(edge, private, app.port, Cookie=evil + "; " + cookie))
        assert cookie.split("=")[1] not in app.last_head, evil[:20]
    edge.call("GET", "/", headers=host_of(edge, box, app.port, Cookie=f"{own}; {cookie}"), expect=200)
    assert f"Cookie: {own}\r\n" in app.last_head and "stasis-port" not in app.last_head
    # An old link does no harm, and no code is told to a guest.
    assert opened(cookie, path=link) == "/a/b?x=1"
    assert opened(cookie, path="/?stasis_link=" + code) == "/"
    assert opened(cookie, path=f"/?stasis_link={code}&y=2") == "/?y=2"
    assert opened(cookie, path=f"/?x=1&stasis_link={code}&y=2") == "/?x=1&y=2"
    assert opened(cookie, path=f"/?stasis_link={code}&stasis_link={code}&y") == "/"
    assert opened(cookie, path="/?stasis_link=mine&xstasis_link=" + code) == "/?stasis_link=mine&xstasis_link=" + code

    def shut(cookies, port=app.port, at=private, **more):
        edge.call("GET", "/", headers=host_of(edge, at, port, Cookie=cookies, **more), expect=401)

    expires, mac = cookie.split("=")[1].split(".")
    shut(cookie, second.port)
    shut(cookie, at=other)
    for bad in (f"stasis-port={int(expires) + 1}.{mac}", f"stasis-port={int(expires) - 1}.{mac}",
                f"stasis-port={expires}.{mac}0", f"stasis-port=0{expires}.{mac}", f"stasis-port={mac}",
                "stasis-port=", forged, f"STASIS-PORT={expires}.{mac}", f"a=1,{cookie}",
                f"stasis-port={private['port_token']}"):
        shut(bad)
    # A page of another sandbox, which for a browser is of the same site.
    for origin in (f"http://{app.port}-{other['id']}.localhost:{edge.port}", "http://localhost", "null",
                   "https://evil.example", "x" * 400, f"http://{app.port}-{private['id']}.localhost.evil.example",
                   f"http://x@{app.port}-{other['id']}.localhost"):
        shut(cookie, Origin=origin)
    opened(cookie, Origin=f"http://{app.port}-{private['id']}.localhost:{edge.port}")
    opened(cookie, Origin=f"http://{second.port}-{private['id']}.localhost:{edge.port}")
    # A WebSocket, by cookie and by header.
    for name, value in (("Cookie", cookie), ("X-Stasis-Port-Token", private["port_token"])):
        s = edge.raw(f"GET /ws HTTP/1.1\r\nHost: {app.port}-{private['id']}.localhost\r\n{name}: {value}\r\n"
                     "Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        assert b" 101 " in read_until(s, b"\r\n\r\n")
        s.sendall(b"abc")
        assert s.recv(10) == b"cba"
        s.close()
    # Behind a proxy that says https (127.0.0.1 is trusted).
    secure, r = visit(edge, private, app.port, link_of(edge, private, app.port), X_Forwarded_Proto="https")
    assert secure.startswith("__Host-stasis-port=") and "; Secure" in r.getheader("Set-Cookie")
    opened(f"a=1; {secure}", "a=1")
    # Of a public sandbox a link works as well; a guest is not told the code of another.
    _, r = visit(edge, box, app.port, link_of(edge, box, app.port, path="/p"))
    assert r.getheader("Location") == "/p"
    late = link_of(edge, private, app.port, ttl_sec=1)
    edge.call("GET", late, headers=host_of(edge, box, app.port), expect=200)
    assert "stasis_link" not in app.last_head, app.last_head
    time.sleep(1.1)
    edge.call("GET", late, headers=host_of(edge, private, app.port), expect=401)
    for bad in ({}, {"port": 0}, {"port": 65536}, {"port": AGENT}, {"port": 80, "ttl_sec": 0},
                {"port": 80, "ttl_sec": 86401}, {"port": 80, "path": "//evil.example/"},
                {"port": 80, "path": "/\\evil.example"}, {"port": 80, "path": "http://x/"}, {"port": 80, "path": ""},
                {"port": 80, "path": "/a\r\nX: y"}, {"port": 80, "path": "/a b"}, {"port": 80, "path": "/#x"},
                {"port": 80, "path": "/\u00e4"}, {"port": 80, "path": "/" + "x" * 1000}, {"port": 80, "x": 1}):
        edge.api("POST", url + "/links", bad, 400)
    # So many wait for a visitor, and no more.
    for _ in range(64):
        link = link_of(edge, private, app.port)
    edge.api("POST", url + "/links", {"port": app.port}, 429)
    visit(edge, private, app.port, link)
    link = link_of(edge, private, app.port)
    # The token anew: no link and no cookie of before opens anything.
    edge.api("POST", url + "/port-token")
    shut(cookie)
    edge.call("GET", link, headers=host_of(edge, private, app.port), expect=401)
    second.listener.close()
    for one in (private, other):
        edge.api("DELETE", "/v1/sandboxes/" + one["id"], expect=204)


def test_limits(edge, box, app, agent):
    edge.stop()
    # Of an address at once and a second, of a sandbox at once and a second.
    for limits, credentials, want in (
            ("5,0,0,0", "", 5), ("5,0,0,0", "X-Access-Token: {token}\r\n", 12),
            ("5,0,0,0", "X-API-Key: {key}\r\n", 12), ("5,0,0,0", "X-API-Key: e2b_" + "0" * 40 + "\r\n", 5),
            ("5,0,0,0", "X-Access-Token: " + "0" * 64 + "\r\n", 5), ("0,0,7,0", "", 7),
            ("0,0,7,0", "X-API-Key: {key}\r\n", 7), ("0,0,0,0", "", 12), ("5,0,7,0", "X-API-Key: {key}\r\n", 7)):
        edge.start(limits=limits)
        box = edge.api("POST", "/v1/sandboxes", {}, 201)
        app.gate.clear()
        got, refused = split(busy(edge, 12, f"{app.port}-{box['id']}.localhost",
                                  credentials.format(token=box["envd_token"], key=edge.key)), app.gate)
        assert got == want, (limits, credentials, got)
        for head in refused:
            assert "retry-after: " in head and "application/json" in head and "access-control-allow-origin: *" in head, head
        # What was refused is not in the way of those that come after.
        wait_until("its end", lambda: edge.call("GET", "/x", headers=to(box, app.port))[0].status == 200)
        # Ids that are none have no limit of a sandbox.
        for _ in range(12):
            r, _ = edge.call("GET", "/x", headers=to({"id": "inone"}, app.port))
            assert r.status == 502
        edge.stop()
    for limits, headers, path, allowed in (
            ("0,3,0,0", {}, "/v1/health", 13), ("0,3,0,0", {"X-API-Key": "e2b_" + "0" * 40}, "/v1/sandboxes", 40),
            ("0,3,0,0", {"E2b-Sandbox-Id": "inone"}, "/", 13), ("0,3,0,0", {"X-API-Key": "none"}, "/v1/sandboxes", 13)):
        edge.start(limits=limits)
        codes = []
        for _ in range(40):
            r, data = edge.call("GET", path, headers=headers)
            codes.append(r.status)
            if r.status == 429:
                got = json.loads(data)
                assert r.getheader("Retry-After") == "1" and "too many requests" in (got.get("error") or got)["message"]
        # Time passes meanwhile: more of them are good where the machine is slow.
        assert (429 not in codes) if allowed == 40 else (codes[allowed - 1] != 429 and 429 in codes), (limits, headers, codes)
        edge.stop()
    edge.start()


def test_a_hundred_creates_at_once(edge, box, app, agent):
    answers_to, lock = [], threading.Lock()

    def create():
        r, data = edge.call("POST", "/v1/sandboxes", "{}", {"X-API-Key": edge.key})
        with lock:
            answers_to.append((r.status, data))
    pool = [threading.Thread(target=create) for _ in range(100)]
    for t in pool:
        t.start()
    for t in pool:
        t.join()
    assert [status for status, _ in answers_to] == [201] * 100, answers_to[-1]
    for _, data in answers_to:
        edge.api("DELETE", "/v1/sandboxes/" + json.loads(data)["id"], None, 204)


def test_upgrade_is_passed_as_sent(edge, box, app, agent):
    s = edge.raw(f"GET /x HTTP/1.1\r\nHost: {app.port}-{box['id']}.localhost\r\n"
                 "Connection: keep-alive, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAM\r\n\r\n")
    read_until(s, b"\r\n\r\n")
    for line in ("Connection: keep-alive, Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAM"):
        assert f"\r\n{line}\r\n" in app.last_head, app.last_head
    # Not asked for by Connection: it is this hop's, and goes no further.
    edge.call("GET", "/", headers=to(box, app.port, Upgrade="websocket"), expect=200)
    assert "Upgrade" not in app.last_head and "Connection: close" in app.last_head


FORWARDED = {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "app.example",
             "X-Forwarded-Port": "8443", "X-Forwarded-Ssl": "on", "X-Forwarded-Scheme": "https",
             "X-Forwarded-Protocol": "ssl", "X-Forwarded-Prefix": "/app", "X-Real-IP": "203.0.113.7",
             "Forwarded": "for=203.0.113.7;proto=https"}


def told(edge, box, app, source, headers):
    """What the guest hears of a request of that peer: the headers about where it came from."""
    c = http.client.HTTPConnection("127.0.0.1", edge.port, timeout=20, source_address=(source, 0))
    c.request("GET", "/", headers=dict({"Host": f"{app.port}-{box['id']}.localhost:{edge.port}"}, **headers))
    assert c.getresponse().status == 200
    c.close()
    lines = [line.split(": ", 1) for line in app.last_head.split("\r\n")[1:] if line]
    found = [(k.lower(), v) for k, v in lines if "forwarded" in k.lower() or k.lower().startswith("x-real")
             or k.lower().startswith("x_real")]
    assert len(found) == len(dict(found)), ("said twice", found)
    return dict(found)


def test_where_a_request_comes_from(edge, box, app, agent):
    def seen(address):
        return {"x-forwarded-for": address, "x-real-ip": address, "x-forwarded-proto": "http",
                "x-forwarded-host": f"{app.port}-{box['id']}.localhost:{edge.port}",
                "x-forwarded-port": str(edge.port)}
    edge.stop()
    edge.start("127.0.0.2, 127.3.0.0/16")
    try:
        box = edge.api("POST", "/v1/sandboxes", {}, 201)
        for stranger in ("127.0.0.1", "127.0.0.3", "127.4.0.1"):
            got = told(edge, box, app, stranger, {})
            assert got == seen(stranger), got
            got = told(edge, box, app, stranger, FORWARDED)
            assert got == seen(stranger), got
            # Servers that make variables of headers take the one for the other.
            for name, value in FORWARDED.items():
                for spelling in {name.replace("-", "_"), name.replace("-", "_", 1),
                                 "_".join(name.rsplit("-", 1))} - {name}:
                    got = told(edge, box, app, stranger, {spelling.upper(): value})
                    assert got == seen(stranger), (spelling, got)
        for proxy in ("127.0.0.2", "127.3.200.1"):
            assert told(edge, box, app, proxy, {}) == seen(proxy)
            got = told(edge, box, app, proxy, FORWARDED)
            want = {k.lower(): v for k, v in FORWARDED.items()}
            want["x-forwarded-for"] += ", " + proxy
            want["forwarded"] += ", for=" + proxy
            assert got == want, got
            # The usual proxy says these three.
            got = told(edge, box, app, proxy, {"X-Forwarded-For": "198.51.100.1, 127.3.9.9", "X-Forwarded-Proto": "https",
                                               "X-Forwarded-Host": "a.example"})
            assert got == {"x-forwarded-for": "198.51.100.1, 127.3.9.9, " + proxy, "x-forwarded-proto": "https",
                           "x-forwarded-host": "a.example", "x-real-ip": "198.51.100.1"}, got
        for setting, trusts in (("none", False), (None, True), ("0.0.0.0/0", True), ("10.0.0.0/8 192.0.2.7", False)):
            edge.stop()
            edge.start(setting)
            box = edge.api("POST", "/v1/sandboxes", {}, 201)
            got = told(edge, box, app, "127.0.0.1", {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.9"})
            assert (got["x-forwarded-proto"], got["x-forwarded-for"]) == (
                ("https", "203.0.113.9, 127.0.0.1") if trusts else ("http", "127.0.0.1")), (setting, got)
    finally:
        edge.stop()
        edge.start()


def test_trusted_proxies_that_are_none(edge, box, app, agent):
    other = tempfile.mkdtemp(prefix="edge.", dir="/tmp")
    try:
        for bad in ("localhost", "127.0.0.1/33", "10.0.0.1/8", "::1/129", "fe80::1%lo", "1.2.3", "127.0.0.1; include x", "1.2.3.4/", "none,127.0.0.1"):
            r = subprocess.run([edge.program, other, f"127.0.0.1:{free_port()}", GUEST, "0", bad], text=True,
                               capture_output=True, timeout=30, check=False)
            assert r.returncode == 1 and "is not an address or network" in r.stderr, (bad, r)
    finally:
        shutil.rmtree(other)


def test_guest_headers_are_not_obeyed(edge, box, app, agent):
    r, data = edge.call("GET", "/own502", headers=to(box, app.port), expect=502)
    assert data == b"the application's own" and r.getheader("X-Own") == "yes"
    r, data = edge.call("GET", "/steal", headers=to(box, app.port), expect=200)
    assert data == b"guest" and r.getheader("Server") == "guest/1"


def test_young_sandbox_is_waited_for(edge, box, app, agent):
    young = edge.api("POST", "/v1/sandboxes", {}, 201)
    port = free_port(GUEST)
    late = []
    timer = threading.Timer(0.25, lambda: late.append(Upstream(port)))
    timer.start()
    edge.call("GET", "/", headers=to(young, port), expect=200)
    timer.join()
    late[0].listener.close()


def test_deleted_sandbox(edge, box, app, agent):
    other = edge.api("POST", "/v1/sandboxes", {}, 201)
    edge.call("GET", "/", headers=to(other, app.port), expect=200)
    edge.api("DELETE", "/v1/sandboxes/" + other["id"], expect=204)
    edge.call("GET", "/", headers=to(other, app.port), expect=502)


def nginx_pid(edge):
    with open(edge.dir + "/run/nginx/edge.json") as f:
        return json.load(f)["pid"]


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def wait_until(what, check, seconds=15):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def answers(edge):
    try:
        return edge.call("GET", "/v1/health")[0].status == 200
    except OSError:
        return False


def test_nginx_is_started_again(edge, box, app, agent):
    for sig in (signal.SIGTERM, signal.SIGKILL):
        old = nginx_pid(edge)
        os.kill(old, sig)
        wait_until("a new nginx", lambda: nginx_pid(edge) != old and answers(edge))


def test_killed_server(edge, box, app, agent):
    old = nginx_pid(edge)
    edge.server.kill()
    edge.server.wait()
    edge.start()
    wait_until("the old nginx's end", lambda: not alive(old) and nginx_pid(edge) != old)
    assert answers(edge)


def test_port_in_use(edge, box, app, agent):
    other = tempfile.mkdtemp(prefix="edge.", dir="/tmp")
    try:
        r = subprocess.run([edge.program, other, f"127.0.0.1:{edge.port}", GUEST], text=True,
                           capture_output=True, timeout=30, check=False)
        assert r.returncode == 1 and "cannot listen on 127.0.0.1" in r.stderr, r
        r = subprocess.run([edge.program, edge.dir, f"127.0.0.1:{free_port()}", GUEST], text=True,
                           capture_output=True, timeout=30, check=False)
        assert r.returncode == 1 and f"(pid {edge.server.pid})" in r.stderr, r
        assert answers(edge)
    finally:
        shutil.rmtree(other)


def test_stop_leaves_nothing(edge, box, app, agent):
    pid = nginx_pid(edge)
    # An open stream does not hold the stop for long.
    app.gate.clear()
    s = edge.raw(f"GET /drip HTTP/1.1\r\nHost: {app.port}-{box['id']}.localhost\r\n\r\n")
    read_until(s, b"first")
    begin = time.monotonic()
    edge.stop()
    assert time.monotonic() - begin < 8
    app.gate.set()
    assert not alive(pid)
    assert not os.path.exists(edge.dir + "/run/control.sock")
    assert not os.path.exists(edge.dir + "/run/edge.sock")
    assert not os.path.exists(edge.dir + "/run/nginx/edge.json")


def main():
    if not (shutil.which("nginx") or os.access("/usr/sbin/nginx", os.X_OK)):
        print("skipped: nginx is not installed")
        return 77
    edge = Edge(sys.argv[1])
    try:
        box = edge.api("POST", "/v1/sandboxes", {}, 201)
        app, agent = Upstream(0), Upstream(AGENT)
        for name, test in list(globals().items()):
            if name.startswith("test_") and (len(sys.argv) < 3 or name in sys.argv[2:]):
                if not edge.server:
                    edge.start()
                begin = time.monotonic()
                test(edge, box, app, agent)
                print(f"ok {name} {time.monotonic() - begin:.2f} s", flush=True)
                # The model's host lost it with its process.
                if name in ("test_killed_server", "test_where_a_request_comes_from", "test_limits"):
                    box = edge.api("POST", "/v1/sandboxes", {}, 201)
        edge.stop()
    finally:
        if edge.server:
            edge.server.kill()
            edge.server.wait()
        shutil.rmtree(edge.dir)
    return 0


if __name__ == "__main__":
    sys.exit(main())
