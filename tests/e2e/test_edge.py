# SPDX-License-Identifier: Apache-2.0
"""Ports of a guest and its agent, through nginx."""
import base64
import hashlib
import http.client
import os
import socket
import time
import unittest

import lib

# A WebSocket echo of one frame, as small as the protocol allows.
ECHO = r"""
import base64, hashlib, socket
four = socket.create_server(("127.0.0.1", 3997))
try:
    six = socket.create_server(("::1", 3998), family=socket.AF_INET6)
except OSError:
    pass
s = socket.create_server(("0.0.0.0", 8090))
while True:
    c, _ = s.accept()
    head = b""
    while b"\r\n\r\n" not in head and (data := c.recv(4096)):
        head += data
    if not head:
        continue
    key = [l.split(b": ")[1] for l in head.split(b"\r\n") if l.lower().startswith(b"sec-websocket-key")][0]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
              b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    while data := c.recv(4096):
        c.sendall(data)
    c.close()
"""

# Answers "tick 0" at once and "tick 1" when asked to go on by a file.
TICKS = r"""
import http.server, os, time
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        def chunk(b):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(b), b))
            self.wfile.flush()
        chunk(b"tick 0\n")
        while not os.path.exists("/tmp/go"):
            time.sleep(0.05)
        chunk(b"tick 1\n")
        self.wfile.write(b"0\r\n\r\n")
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8091), H).serve_forever()
"""

# Tells its clients what they sent.
HEADS = r"""
import http.server
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        body = (self.requestline + "\r\n" + str(self.headers)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Policy", "p" * 50000)
        self.send_header("X-Policy-2", "q" * 50000)
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 8092), H).serve_forever()
"""


def listening(s, port):
    return s.run(f"python3 -c \"import socket; socket.create_connection(('127.0.0.1', {port}))\""
                 )["exit_code"] == 0


class Ports(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.s = lib.shared()
        cls.w = cls.s.world
        cls.s.sh("mkdir -p /tmp/www && echo page > /tmp/www/index.html")
        for name, program in (("echo", ECHO), ("ticks", TICKS), ("heads", HEADS)):
            cls.s.sh(f"cat > /tmp/{name}.py", stdin=lib.b64(program.encode()))
        for command in ("python3 -m http.server -d /tmp/www 8088", "python3 /tmp/echo.py",
                        "python3 /tmp/ticks.py", "python3 /tmp/heads.py"):
            cls.s.sh(f"setsid {command} >/dev/null 2>&1 </dev/null &")
        for port in (8088, 8090, 8091, 8092):
            lib.wait_until(f"port {port}", lambda port=port: listening(cls.s, port), 60)

    @classmethod
    def tearDownClass(cls):
        cls.s.run("pkill -f 'http.server|echo.py|ticks.py|heads.py'; rm -rf /tmp/www /tmp/go")

    def test_by_header(self):
        a = self.s.edge("GET", "/", port=8088, token=False)
        self.assertEqual((a.status, a.body), (200, b"page\n"))

    def test_by_host(self):
        a = self.w.api("GET", "/", key="", headers={"Host": f"8088-{self.s.id}.localhost"})
        self.assertEqual((a.status, a.body), (200, b"page\n"))

    def test_by_host_with_a_port(self):
        a = self.w.api("GET", "/", key="",
                       headers={"Host": f"8088-{self.s.id}.localhost:{self.w.port}"})
        self.assertEqual((a.status, a.body), (200, b"page\n"))

    def heads(self, path="/", **headers):
        headers = {k.replace("__", "-"): v for k, v in headers.items()}
        c = http.client.HTTPConnection("127.0.0.1", self.w.port, timeout=60)
        c.request("GET", path, headers={"Host": f"8092-{self.s.id}.localhost", **headers})
        a = c.getresponse()
        self.assertEqual(a.status, 200)
        self.assertEqual(len(a.getheader("X-Policy")), 50000)
        seen = a.read().decode()
        c.close()
        return seen

    def test_headers_of_any_name_and_length(self):
        seen = self.heads("/a//b/%2F..?x=1", session_id="abc", X_b="1", **{"x.y": "2"},
                          Cookie="c" * 60000)
        for line in ("GET /a//b/%2F..?x=1 HTTP/1.1", "session_id: abc", "X_b: 1", "x.y: 2",
                     "Cookie: " + "c" * 60000):
            self.assertIn(line + "\n", seen.replace("\r", ""))

    def test_where_a_request_comes_from(self):
        """A proxy on this machine is believed."""
        seen = self.heads(X__Forwarded__Proto="https", X__Forwarded__Host="app.example",
                          X__Forwarded__For="203.0.113.5")
        for line in ("X-Forwarded-Proto: https", "X-Forwarded-Host: app.example",
                     "X-Forwarded-For: 203.0.113.5, 127.0.0.1", "X-Real-IP: 203.0.113.5"):
            self.assertIn(line, seen)
        seen = self.heads()
        for line in ("X-Forwarded-Proto: http", "X-Forwarded-For: 127.0.0.1",
                     f"X-Forwarded-Host: 8092-{self.s.id}.localhost"):
            self.assertIn(line, seen)

    def test_websocket(self):
        c = socket.create_connection(("127.0.0.1", self.w.port), timeout=20)
        key = base64.b64encode(os.urandom(16))
        c.sendall(b"GET /ws HTTP/1.1\r\nHost: 8090-%s.localhost\r\nUpgrade: websocket\r\n"
                  b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s"
                  b"\r\n\r\n" % (self.s.id.encode(), key))
        head = b""
        while b"\r\n\r\n" not in head:
            head += c.recv(4096)
        accept = base64.b64encode(
            hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        self.assertTrue(head.startswith(b"HTTP/1.1 101"), head)
        self.assertIn(accept, head)
        for n in (1, 2):
            frame = b"\x82\x85\0\0\0\0hello"
            c.sendall(frame * n)
            got = b""
            while len(got) < len(frame) * n:
                got += c.recv(4096)
            self.assertEqual(got, frame * n)
        c.close()

    def test_private_ports(self):
        """A private guest is for who has its token or a link's cookie, over a pause as well."""
        w = self.w
        s = w.create(public=False)
        try:
            self.private_ports(w, s)
        finally:
            s.delete()

    def private_ports(self, w, s):
        s.sh("cat > /tmp/heads.py", stdin=lib.b64(HEADS.encode()))
        s.sh("setsid python3 /tmp/heads.py >/dev/null 2>&1 </dev/null &")
        lib.wait_until("port 8092", lambda: listening(s, 8092), 60)

        def get(path="/", **headers):
            headers = {k.replace("_", "-"): v for k, v in headers.items()}
            return w.api("GET", path, key="", headers={"Host": f"8092-{s.id}.localhost", **headers})

        token = s.get()["port_token"]
        self.assertEqual(get().status, 401)
        self.assertEqual(get(X_Access_Token=s.token).status, 401)
        link = w.cli("port", s.id, "8092", "--link", "--path", "/hello?x=1").ok().text.strip()
        path = link[link.index("/hello"):]
        visited = get(path)
        self.assertEqual((visited.status, visited.headers["Location"]), (303, "/hello?x=1"))
        cookie = visited.headers["Set-Cookie"].split(";")[0]
        self.assertEqual(get(path).status, 401)
        s.pause()
        self.assertEqual(get(Cookie=cookie).status, 502)
        s.resume()
        for opens in ({"X_Stasis_Port_Token": token}, {"e2b_traffic_access_token": token},
                      {"Cookie": f"own=1; {cookie}"}):
            a = get("/hello?x=1", **opens)
            self.assertEqual(a.status, 200)
            self.assertIn(b"GET /hello?x=1 HTTP/1.1", a.body)
            self.assertNotIn(token.encode(), a.body)
            self.assertNotIn(b"stasis-port", a.body)
        self.assertIn(b"Cookie: own=1", a.body)
        self.assertEqual(get().status, 401)
        w.api("POST", f"/v1/sandboxes/{s.id}/port-token", {})
        self.assertEqual(get(X_Stasis_Port_Token=token).status, 401)
        self.assertEqual(get(Cookie=cookie).status, 401)

    def test_port_of_the_loopback(self):
        """The 502 tells a server that cannot be reached from one that is not there."""
        for port in (3997, 3998):
            a = self.s.edge("GET", "/", port=port, token=False)
            self.assertEqual((a.status, a.json()["port"]), (502, port))
            self.assertIn("not open: a server listens on it on the guest's loopback only",
                          a.json()["message"])

    def test_pieces_come_as_they_are_sent(self):
        c = http.client.HTTPConnection("127.0.0.1", self.w.port, timeout=20)
        c.request("GET", "/", headers={"Host": f"8091-{self.s.id}.localhost"})
        r = c.getresponse()
        self.assertEqual(r.readline(), b"tick 0\n")
        self.s.sh("touch /tmp/go")
        self.assertEqual(r.readline(), b"tick 1\n")
        self.assertEqual(r.read(), b"")
        c.close()


class Agent(unittest.TestCase):
    def setUp(self):
        self.s = lib.shared()
        self.w = self.s.world

    def test_large_upload_and_download(self):
        block = os.urandom(1 << 20)
        data = block * 64
        a = self.s.edge("POST", "/files?path=/tmp/large", body=data,
                        headers={"Content-Type": "application/octet-stream"})
        self.assertEqual(a.status, 200, a.body[:200])
        a = self.s.edge("GET", "/files?path=/tmp/large")
        self.assertEqual(hashlib.sha256(a.body).digest(), hashlib.sha256(data).digest())
        self.s.sh("rm /tmp/large")

    def test_token(self):
        self.assertEqual(self.s.edge("GET", "/health", token=False).status, 204)
        for token in (None, "0" * 64, self.s.token[:-1]):
            headers = {"X-Access-Token": token} if token else {}
            a = self.s.edge("GET", "/files?path=/etc/hostname", token=False, headers=headers)
            self.assertEqual(a.status, 401)
            self.assertNotIn(b"sandbox", a.body.lower().replace(b"sandboxid", b""))

    def test_internal_paths(self):
        for path in ("/init", "/freeze", "/thaw", "/unfreeze", "/init/", "//init", "/x/../init", "/%69nit"):
            self.assertEqual(self.s.edge("POST", path, body="{}").status, 404, path)

    def test_unknown_sandbox(self):
        unknown = "i" + "0" * 20
        a = self.w.api("GET", "/health", key="", headers={"E2b-Sandbox-Id": unknown})
        self.assertEqual(a.status, 502)
        self.assertEqual(a.json(), {"sandboxId": unknown, "message": "The sandbox was not found",
                                    "code": 502})

    def test_closed_port(self):
        began = time.monotonic()
        a = self.s.edge("GET", "/", port=3999)
        self.assertEqual(a.status, 502)
        self.assertEqual(a.json(), {"sandboxId": self.s.id, "port": 3999, "code": 502,
                                    "message": "The sandbox is running but port is not open"})
        self.assertLess(time.monotonic() - began, 20)

    def test_every_refusal_is_json(self):
        for method, headers, status in (("TRACE", {"E2b-Sandbox-Id": self.s.id}, 405),
                                        ("TRACE", {}, 405),
                                        ("GET", {"Cookie": "c" * 140000}, 431),
                                        ("GET", {"Cookie": "c" * 60000}, 431)):
            a = self.w.api(method, "/v1/health", key="", headers=headers)
            self.assertEqual(a.status, status)
            self.assertTrue(a.json())

    def test_malformed(self):
        for headers in ({"E2b-Sandbox-Id": "../../etc"}, {"E2b-Sandbox-Id": "A" * 300},
                        {"E2b-Sandbox-Id": self.s.id, "E2b-Sandbox-Port": "0"},
                        {"E2b-Sandbox-Id": self.s.id, "E2b-Sandbox-Port": "70000"},
                        {"E2b-Sandbox-Id": self.s.id, "E2b-Sandbox-Port": "80;x"},
                        {"Host": f"99999-{self.s.id}.localhost"}):
            self.assertEqual(self.w.api("GET", "/", key="", headers=headers).status, 400, headers)
