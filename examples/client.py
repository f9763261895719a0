# SPDX-License-Identifier: Apache-2.0
"""The REST API of Stasis by Python's standard library: Client().call("POST", "sandboxes", {})."""
import json
import os
import urllib.error
import urllib.request


class Error(Exception):
    """An answer that is an error: code ("not_found", "limit", ...) and message."""

    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code = code


class Client:
    def __init__(self, url=None, key=None):
        self.url = url or os.environ.get("STASIS_URL", "http://127.0.0.1:7070")
        self.key = key or os.environ["STASIS_API_KEY"]

    def call(self, method, path, body=None):
        """The answer's JSON; None where it has none."""
        request = urllib.request.Request(
            f"{self.url}/v1/{path}", method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-API-Key": self.key, "Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                text = answer.read()
        except urllib.error.HTTPError as answer:
            error = json.loads(answer.read())["error"]
            raise Error(error["code"], error["message"]) from None
        return json.loads(text) if text else None

    def create(self, **options):
        return self.call("POST", "sandboxes", {"timeout_sec": 600, **options})["id"]

    def run(self, sandbox, program, *arguments, **options):
        """What a program prints; an exception when it fails."""
        done = self.call("POST", f"sandboxes/{sandbox}/exec",
                         {"args": [program, *arguments], **options})
        if done["exit_code"] != 0:
            raise RuntimeError(f"{program} ended with {done['exit_code']}: {done['stderr']}")
        return done["stdout"]

    def remove(self, sandbox):
        self.call("DELETE", f"sandboxes/{sandbox}")
