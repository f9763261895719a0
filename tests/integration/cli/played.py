# SPDX-License-Identifier: Apache-2.0
"""A server that is played: it gives the answers of a table and keeps what it was asked, so that the
command line is tried against known values, without a control plane or guests."""
import base64
import fcntl
import json
import os
import pty
import select
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ID = "i" + "0a1b2" * 4


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Request:
    def __init__(self, handler):
        url = urllib.parse.urlsplit(handler.path)
        self.method, self.path, self.handler = handler.command, url.path, handler
        self.query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        self.headers = dict(handler.headers.items())
        self.body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.method} {self.path} {self.query} {self.body!r}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def serve(self):
        request = Request(self)
        answer = self.server.play.answer(request)
        if answer is False:  # it has written itself
            return
        if answer is None:  # the connection is lost
            self.close_connection = True
            return
        status, body = answer
        kind = "application/json"
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        elif isinstance(body, tuple):
            kind, body = body
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = serve


def envelope(message, flags=0):
    """A message of the agent's streams (Connect)."""
    text = json.dumps(message).encode()
    return bytes([flags]) + len(text).to_bytes(4, "big") + text


class Agent:
    """The guest's agent behind the edge, for a program that is played: what it wrote, and how it
    ends. With hold it runs until it gets a signal, with breaks its connection is lost before its end."""

    def __init__(self, out=b"", err=b"", exit_code=0, error=None, hold=False, breaks=False):
        self.out, self.err, self.exit_code, self.error, self.hold = out, err, exit_code, error, hold
        self.breaks = breaks
        self.started, self.signals, self.input = None, [], b""
        self.running, self.ended, self.closed = (threading.Event() for _ in range(3))

    def routes(self):
        return {f"POST /process.Process/{name}": getattr(self, name.lower())
                for name in ("Start", "SendSignal", "SendInput", "CloseStdin")}

    def start(self, request):
        self.started = json.loads(request.body[5:])
        h = request.handler
        h.send_response(200)
        h.send_header("Content-Type", "application/connect+json")
        h.send_header("Connection", "close")
        if self.breaks:
            h.send_header("Content-Length", "1000000")
        h.end_headers()
        h.close_connection = True

        def event(**what):
            h.wfile.write(envelope({"event": what}))

        if self.error:
            h.wfile.write(envelope({"error": self.error}, 2))
            return False
        event(start={"pid": 77})
        for name, data in (("stdout", self.out), ("stderr", self.err)):
            if data:
                event(data={name: base64.b64encode(data).decode()})
        h.wfile.flush()
        self.running.set()
        if self.breaks:
            return False
        if self.started.get("stdin"):
            self.closed.wait(60)
            event(data={"stdout": base64.b64encode(self.input).decode()})
        if self.hold:
            self.ended.wait(60)
            event(end={"exitCode": -1, "exited": False, "status": "signal: terminated"})
        else:
            event(end={"exitCode": self.exit_code, "exited": True,
                       "status": f"exit status {self.exit_code}"})
        h.wfile.write(envelope({}, 2))
        return False

    def sendsignal(self, request):
        self.signals.append(request.json()["signal"])
        self.ended.set()
        return 200, {}

    def sendinput(self, request):
        self.input += base64.b64decode(request.json()["input"]["stdin"])
        return 200, {}

    def closestdin(self, _):
        self.closed.set()
        return 200, {}


class HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # clients hang up, some on purpose
            super().handle_error(request, client_address)


def error(status, code, message, **more):
    return status, {"error": {"code": code, "message": message, **more}}


class Server:
    """routes: {"GET /v1/...": answer}, an answer being (status, body) or a function of the request
    that returns one, None for a connection that is lost, or False when it wrote one itself. What is not there is 404."""

    def __init__(self, program, routes):
        self.program, self.routes, self.asked = program, routes, []
        self.changed = threading.Condition()
        self.http = HttpServer(("127.0.0.1", 0), Handler)
        self.http.play = self
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()
        self.home = tempfile.TemporaryDirectory()
        self.env = {"PATH": os.environ["PATH"], "STASIS_URL": self.url, "STASIS_API_KEY": "k",
                    "STASIS_DATA": self.home.name, "LC_ALL": "C.UTF-8"}

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()
        self.home.cleanup()

    def answer(self, request):
        with self.changed:
            self.asked.append(request)
            self.changed.notify_all()
        answer = self.routes.get(f"{request.method} {request.path}",
                                 error(404, "not_found", f"nothing at {request.path}"))
        return answer(request) if callable(answer) else answer

    def wait_for(self, fits, what):
        """The first request that fits, once it has come."""
        with self.changed:
            if not self.changed.wait_for(lambda: any(map(fits, self.asked)), 60):
                raise AssertionError(f"{what}: not among {self.asked}")
            return next(filter(fits, self.asked))

    def calls(self, method):
        return [r for r in self.asked if r.method == method]

    def popen(self, *args, **kw):
        kw.setdefault("stdin", subprocess.DEVNULL)
        return subprocess.Popen([self.program, *args], env={**self.env, **kw.pop("env", {})}, **kw)

    def run(self, *args, code=0, stdin=None, env=None):
        done = subprocess.run([self.program, *args], env={**self.env, **(env or {})}, check=False,
                              capture_output=True, timeout=60, text=True, input=stdin or "")
        if code is not None and done.returncode != code:
            raise AssertionError(f"{args}: exit code {done.returncode}, not {code}: {done.stderr}")
        return done

    def out(self, *args):
        done = self.run(*args)
        if done.stderr:
            raise AssertionError(f"{args}: said {done.stderr!r}")
        return done.stdout

    def terminal(self, *args, **env):
        """What it prints on a terminal."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, b"\x32\0\xc8\0\0\0\0\0")
        process = self.popen(*args, stdout=slave, stderr=slave, stdin=slave,
                             env={"TERM": "xterm", **env})
        os.close(slave)
        seen = b""
        while select.select([master], [], [], 60)[0]:
            try:
                part = os.read(master, 65536)
            except OSError:  # EIO: nobody has the other end any more
                break
            if not part:
                break
            seen += part
        os.close(master)
        if process.wait(60) != 0:
            raise AssertionError(f"{args}: exit code {process.returncode}: {seen!r}")
        return seen.decode().replace("\r\n", "\n")
