#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""tls.py MODEL_SERVER: TLS, HTTP/2, IPv6 and gRPC at the edge, with the real nginx and curl.

Exit status 77 when nginx, curl with HTTP/2 or openssl is missing.
"""
import json
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import edge as base  # noqa: E402

GUEST = base.GUEST


# --- a guest's server of HTTP/2 without TLS: answers each stream with a message and trailers


def literal(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


class Grpc(threading.Thread):
    """Echoes the first message; what it was sent is in .heads (as HPACK) and .bodies."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server((GUEST, 0))
        self.port = self.listener.getsockname()[1]
        self.bodies = []
        self.start()

    def run(self):
        while True:
            conn, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(conn,), daemon=True).start()

    def serve(self, conn):
        f = conn.makefile("rb")
        if f.read(24) != b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n":
            conn.close()
            return
        bodies = {}

        def send(kind, flags, stream, data=b""):
            conn.sendall(struct.pack(">I", len(data))[1:] + bytes([kind, flags])
                         + struct.pack(">I", stream) + data)

        send(4, 0, 0)
        while True:
            head = f.read(9)
            if len(head) < 9:
                return
            n, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            stream = int.from_bytes(head[5:], "big") & 0x7fffffff
            data = f.read(n)
            if kind == 4 and not flags & 1:
                send(4, 1, 0)
            elif kind == 6 and not flags & 1:
                send(6, 1, 0, data)
            elif kind == 0:
                bodies[stream] = bodies.get(stream, b"") + data
            if kind in (0, 1) and flags & 1:
                body = bodies.pop(stream, b"")
                self.bodies.append(body)
                send(1, 4, stream, b"\x88" + literal(b"content-type", b"application/grpc"))
                send(0, 0, stream, body)
                send(1, 5, stream, literal(b"grpc-status", b"0") + literal(b"x-last", b"seen"))


# --- certificates


def openssl(*args):
    subprocess.run(["openssl", *args], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make_pair(where, name):
    cert, key = f"{where}/{name}.crt", f"{where}/{name}.key"
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", key, "-out", cert, "-days", "30", "-subj", f"/CN={name}",
            "-addext", "subjectAltName=DNS:localhost,DNS:*.localhost,IP:127.0.0.1,IP:::1")
    return cert, key


def make_dated(where, name, start, end):
    """A pair that is valid from and until (ASN.1's times)."""
    cert, key = f"{where}/{name}.crt", f"{where}/{name}.key"
    with open(where + "/ca.conf", "w") as f:
        f.write(f"[ca]\ndefault_ca=d\n[d]\ndatabase={where}/index\nnew_certs_dir={where}\nrand_serial=yes\n"
                "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n")
    open(where + "/index", "w").close()
    openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out",
            where + "/csr", "-subj", f"/CN={name}")
    openssl("ca", "-batch", "-selfsign", "-config", where + "/ca.conf", "-keyfile", key, "-in", where + "/csr", "-out",
            cert, "-startdate", start, "-enddate", end)
    return open(cert).read(), open(key).read()


class Edge(base.Edge):
    def __init__(self, program):
        self.work = tempfile.mkdtemp(prefix="tls.", dir="/tmp")
        self.cert, self.key_file = f"{self.work}/server.crt", f"{self.work}/server.key"
        self.use(make_pair(self.work, "first"))
        self.plain, self.h2c = base.free_port(), base.free_port()
        self.v6 = socket.has_ipv6 and os.path.exists("/proc/net/if_inet6") \
            and "lo" in open("/proc/net/if_inet6").read()
        super().__init__(program)

    def use(self, pair):
        shutil.copy(pair[0], self.cert)
        shutil.copy(pair[1], self.key_file)

    def start(self, trusted=None):
        host = "[::]" if self.v6 else "0.0.0.0"
        self.server = subprocess.Popen(
            [self.program, self.dir, f"{host}:{self.port}", GUEST, "0", "", "",
             f"127.0.0.1:{self.plain}", f"127.0.0.1:{self.h2c}", self.cert, self.key_file],
            stdout=subprocess.PIPE, text=True)
        assert self.server.stdout.readline() == "ready\n", "the server did not start"
        with open(self.dir + "/data/admin.key") as f:
            self.key = f.read().strip()

    def reload(self):
        self.server.send_signal(signal.SIGHUP)
        return self.server.stdout.readline().strip()

    def curl(self, *args, port=None, host="127.0.0.1", scheme="https", path="/v1/health"):
        out = subprocess.run(
            ["curl", "-s", "-i", "--max-time", "30", "--cacert", self.cert, *args,
             f"{scheme}://{host}:{port or self.port}{path}"], stdout=subprocess.PIPE)
        head, _, rest = out.stdout.partition(b"\r\n\r\n")
        return out.returncode, head.decode(), rest

    def api(self, method, path, body=None, expect=200):
        args = ["-X", method, "-H", f"X-API-Key: {self.key}"]
        if body is not None:
            args += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
        rc, head, data = self.curl(*args, path=path)
        assert rc == 0 and f" {expect} " in head.split("\r\n")[0] + " ", (rc, head, data)
        return json.loads(data) if data else None


def to(box, port):
    return ["-H", f"E2b-Sandbox-Id: {box['id']}", "-H", f"E2b-Sandbox-Port: {port}"]


# --- cases


def test_http2_by_alpn(edge):
    rc, head, data = edge.curl()
    assert rc == 0 and head.startswith("HTTP/2 200"), head
    assert json.loads(data)["status"]
    rc, head, _ = edge.curl("--http1.1")
    assert rc == 0 and head.startswith("HTTP/1.1 200"), head
    rc, head, _ = edge.curl("--tls-max", "1.1")
    assert rc != 0


def test_plain_on_the_tls_port(edge):
    rc, head, data = edge.curl(scheme="http")
    assert rc == 0 and " 400 " in head.split("\r\n")[0], head
    assert "https" in json.loads(data)["error"]["message"], data


def test_plain_listener_beside(edge):
    rc, head, _ = edge.curl(scheme="http", port=edge.plain)
    assert rc == 0 and head.startswith("HTTP/1.1 200"), head


def test_ipv6(edge):
    if not edge.v6:
        print("  (no IPv6 here)")
        return
    rc, head, _ = edge.curl(host="[::1]")
    assert rc == 0 and head.startswith("HTTP/2 200"), head


def test_bodies_wait_for_the_key(edge):
    """In HTTP/2 a body needs no length: none is read of who shows no key."""
    big = edge.work + "/big"
    with open(big, "wb") as f:
        f.write(b"x" * (1 << 20))
    for method in ("POST", "GET", "DELETE"):
        with open(big, "rb") as f:
            out = subprocess.run(
                ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", "--cacert",
                 edge.cert, "-X", method, "-T", "-", "-H", "Expect:", "-H",
                 "Transfer-Encoding: chunked", f"https://127.0.0.1:{edge.port}/v1/sandboxes"],
                stdin=f, stdout=subprocess.PIPE, text=True)
        assert out.stdout[:3] in ("401", "413"), (method, out)


def test_guest_over_tls(edge):
    box, web = edge.box, edge.web
    rc, head, data = edge.curl(*to(box, web.port), path="/where?x=1")
    assert rc == 0 and head.startswith("HTTP/2 200"), head
    low = web.last_head.lower()
    assert "x-forwarded-proto: https\r\n" in low and f"x-forwarded-port: {edge.port}\r\n" in low, low
    assert "x-forwarded-for: 127.0.0.1\r\n" in low, low
    assert box.get("url", "").startswith("https://"), box
    # By its name. Clients believe no wildcard of a name without a dot, as *.localhost is.
    name = f"{web.port}-{box['id']}.localhost"
    rc, head, _ = edge.curl("-k", "--resolve", f"{name}:{edge.port}:127.0.0.1", host=name, path="/")
    assert rc == 0 and head.startswith("HTTP/2 200"), head


def test_refusals(edge):
    box, closed = edge.box, base.free_port(GUEST)
    for what, status in ((to({"id": "i" + "0" * 20}, 80), "502"), (to(box, "99999"), "400"),
                         (to(box, closed), "502")):
        rc, head, data = edge.curl(*what, path="/")
        assert f"HTTP/2 {status}" in head and "application/json" in head, (head, data)
        assert json.loads(data)["code"] == int(status)
        rc, head, data = edge.curl(*what, "-H", "Accept: text/html,*/*", path="/")
        assert f"HTTP/2 {status}" in head and "text/html" in head, (head, data)
        assert data.startswith(b"<!doctype html>"), data
        rc, head, data = edge.curl(*what, "-H", "Accept: text/html", "-d", "x", path="/")
        assert "application/json" in head, head
        rc, head, data = edge.curl(*what, "-H", "Content-Type: application/grpc", "-H", "TE: trailers",
                                   "-d", "x", path="/a.B/C")
        want = "3" if status == "400" else "14"
        assert "HTTP/2 200" in head and "application/grpc" in head, (head, data)
        assert f"grpc-status: {want}\r\n" in head + "\r\n", head
        said = {"502": ("was not found", "port is not open"), "400": ("must be a number",)}[status]
        assert any(s in head for s in said), head


def test_grpc(edge):
    box, guest = edge.box, edge.grpc
    message = b"\0\0\0\0\5hello"
    with open(edge.work + "/message", "wb") as f:
        f.write(message)
    call = [*to(box, guest.port), "-H", "Content-Type: application/grpc", "-H", "TE: trailers",
            "--data-binary", f"@{edge.work}/message"]
    for how in ({}, {"scheme": "http", "port": edge.h2c}):
        more = ["--http2-prior-knowledge"] if how else []
        rc, head, data = edge.curl(*call, *more, path="/a.B/C", **how)
        assert rc == 0 and head.startswith("HTTP/2 200"), (how, rc, head, data)
        assert data.startswith(message), data
        assert guest.bodies[-1] == message
        # curl writes trailers behind the body.
        assert b"grpc-status: 0" in data and b"x-last: seen" in data, data


def test_real_grpc(edge):
    try:
        import grpc
        from concurrent import futures
    except ImportError:
        print("  (no python3-grpcio here)")
        return

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            seen.append(details.method)
            def many(stream, context):
                context.set_trailing_metadata((("x-sum", "7"),))
                for m in stream:
                    yield m[::-1]

            def fail(message, context):
                context.abort(grpc.StatusCode.NOT_FOUND, "none such")

            if details.method.endswith("Fail"):
                return grpc.unary_unary_rpc_method_handler(fail)
            return grpc.stream_stream_rpc_method_handler(many)

    seen = []
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port(f"{GUEST}:0")
    server.start()
    with open(edge.cert, "rb") as f:
        creds = grpc.ssl_channel_credentials(f.read())
    where = (("e2b-sandbox-id", edge.box["id"]), ("e2b-sandbox-port", str(port)))
    for channel in (grpc.secure_channel(f"localhost:{edge.port}", creds),
                    grpc.insecure_channel(f"127.0.0.1:{edge.h2c}")):
        with channel:
            call = channel.stream_stream("/a.B/Many")(
                iter([b"abc", b"x" * 100000, b""]), metadata=where, timeout=30)
            got = [len(m) for m in call]
            assert got == [3, 100000, 0], got
            assert ("x-sum", "7") in [tuple(x) for x in call.trailing_metadata()]
            try:
                got = channel.unary_unary("/a.B/Fail")(b"", metadata=where, timeout=30)
                assert False, got
            except grpc.RpcError as e:
                assert e.code() == grpc.StatusCode.NOT_FOUND and e.details() == "none such", e
            try:
                channel.unary_unary("/a.B/C")(b"", metadata=(where[0], ("e2b-sandbox-port", "1")), timeout=30)
                assert False
            except grpc.RpcError as e:
                assert e.code() == grpc.StatusCode.UNAVAILABLE, e
    server.stop(0)
    assert seen == ["/a.B/Many", "/a.B/Fail"] * 2, seen


def served(edge):
    return ssl.get_server_certificate(("127.0.0.1", edge.port))


def wait_served(edge, cert):
    until = time.monotonic() + 60
    want = ssl.PEM_cert_to_DER_cert(open(cert).read())
    while True:
        try:
            if ssl.PEM_cert_to_DER_cert(served(edge)) == want:
                return
        except OSError:  # an nginx that has just started is ended by SIGHUP, and started again
            pass
        assert time.monotonic() < until, "the new certificate is not served"
        time.sleep(0.05)


def test_reload(edge):
    box, web = edge.box, edge.web
    # An answer that is under way goes on over two reloads.
    ctx = ssl.create_default_context(cafile=edge.cert)
    web.gate.clear()
    raw = ctx.wrap_socket(socket.create_connection(("127.0.0.1", edge.port), timeout=60),
                          server_hostname="localhost")
    raw.sendall((f"GET /drip HTTP/1.1\r\nHost: localhost\r\nE2b-Sandbox-Id: {box['id']}\r\n"
                 f"E2b-Sandbox-Port: {web.port}\r\n\r\n").encode())
    got = b""
    while b"first" not in got:
        got += raw.recv(4096)
    before = served(edge)

    # Broken ones: no certificate, not its key, expired, missing. The old one stays.
    second = make_pair(edge.work, "second")
    good = [open(edge.cert).read(), open(edge.key_file).read()]
    over = make_dated(edge.work, "over", "20000101000000Z", "20010101000000Z")
    early = make_dated(edge.work, "early", "20900101000000Z", "20910101000000Z")
    for cert, key, word in (("nonsense", good[1], "no certificate"), (open(second[0]).read(), good[1], "not the key"),
                            (good[0], "nonsense", "no private key"), ("", good[1], "empty"),
                            (*over, "has expired"), (*early, "not valid yet"),
                            (None, good[1], "No such file")):
        if cert is None:
            os.unlink(edge.cert)
        else:
            with open(edge.cert, "w") as f:
                f.write(cert)
        with open(edge.key_file, "w") as f:
            f.write(key)
        said = edge.reload()
        assert said.startswith("refused: ") and word in said, (word, said)
        assert served(edge) == before
    left = sorted(os.listdir(edge.dir + "/run/nginx"))
    assert [x for x in left if x.startswith("tls.")] == ["tls.1.crt", "tls.1.key"], left

    for n, pair in enumerate((second, make_pair(edge.work, "third"))):
        edge.use(pair)
        assert edge.reload() == "reloaded"
        wait_served(edge, pair[0])
    # nginx that dies starts with what it took, whatever the files are now.
    with open(edge.cert, "w") as f:
        f.write("broken")
    time.sleep(2.5)  # longer than what nginx once gave a connection after a reload
    web.gate.set()
    while b"second" not in got:
        piece = raw.recv(4096)
        assert piece, ("the connection was dropped", got)
        got += piece
    raw.close()
    with open(edge.dir + "/run/nginx/nginx.pid") as f:
        os.kill(int(f.read()), signal.SIGKILL)
    until = time.monotonic() + 60
    while True:
        try:
            assert ssl.PEM_cert_to_DER_cert(served(edge)) == ssl.PEM_cert_to_DER_cert(open(pair[0]).read())
            break
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)


def test_dev_cert(edge):
    stasis, made = sys.argv[2], edge.work + "/made"

    def make(*words, code=0):
        r = subprocess.run([stasis, "tls", "dev-cert", made, *words], capture_output=True, text=True)
        assert (r.returncode == 0) == (code == 0), r
        return r

    said = make("--domain", "boxes.test").stdout
    for word in ("tls_cert = ", "tls_key = ", "domain = boxes.test", "STASIS_CA_FILE=", "*.boxes.test"):
        assert word in said, said
    assert os.stat(made + "/key.pem").st_mode & 0o777 == 0o600
    assert sorted(os.listdir(made)) == ["ca.pem", "cert.pem", "key.pem"]
    was = open(made + "/key.pem").read()
    assert "--force" in make(code=1).stderr and open(made + "/key.pem").read() == was
    make("--force", "--domain", "boxes.test")
    assert open(made + "/key.pem").read() != was
    for bad in ("", "A.b", "a b", "x,permitted"):
        make("--force", "--domain", bad, code=1)
    openssl("verify", "-CAfile", made + "/ca.pem", "-verify_hostname", "80-i.boxes.test", made + "/cert.pem")
    # The edge takes it, and the command line trusts it.
    edge.use((made + "/cert.pem", made + "/key.pem"))
    assert edge.reload() == "reloaded"
    wait_served(edge, made + "/cert.pem")
    env = {"PATH": os.environ["PATH"], "STASIS_URL": f"https://localhost:{edge.port}", "STASIS_API_KEY": edge.key}

    def run(*words, **more):
        return subprocess.run([stasis, *words], env={**env, **more}, capture_output=True, text=True)

    assert run("ls").returncode != 0
    trusted = {"STASIS_CA_FILE": made + "/ca.pem"}
    assert edge.box["id"] in run("ls", **trusted).stdout
    # A call without a word for long asks whether the server lives: by the same authority.
    r = run("wait", edge.box["id"], "--timeout", "4s", "--client-timeout", "3s", **trusted)
    assert r.returncode == 8 and "sign of life" not in r.stderr, r


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    curl = shutil.which("curl") and subprocess.run(["curl", "--version"], stdout=subprocess.PIPE, text=True).stdout
    if not curl or "HTTP2" not in curl or not shutil.which("openssl") or not (
            shutil.which("nginx") or os.path.exists("/usr/sbin/nginx")):
        print("skipped: nginx, openssl or curl with HTTP/2 is missing")
        sys.exit(77)
    edge = Edge(sys.argv[1])
    failed = 0
    try:
        edge.box = edge.api("POST", "/v1/sandboxes", {}, 201)
        edge.web, edge.grpc = base.Upstream(0), Grpc()
        for name, fn in list(globals().items()):
            if name.startswith("test_"):
                try:
                    fn(edge)
                    print("ok", name, flush=True)
                except Exception as e:  # the others are still told
                    failed += 1
                    print("FAILED", name, repr(e), "line", e.__traceback__.tb_next.tb_lineno, flush=True)
        edge.stop()
    finally:
        if edge.server:
            edge.server.kill()
        shutil.rmtree(edge.dir, ignore_errors=True)
        shutil.rmtree(edge.work, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
