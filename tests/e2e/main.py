#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests: main.py [--results FILE] [WORD...]; only modules whose names hold a word."""
import importlib
import json
import os
import signal
import sys
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import lib  # noqa: E402

# Those that leave the shared server alone come first; those that end it come last.
ORDER = ["firecracker", "cli", "quickstart", "exec", "pty", "cp", "edge", "freeze", "badinput", "keys", "list", "docs",
         "life", "pause", "snapshots", "generations", "restart", "faults", "lifefaults", "operations", "roles"]


class Result(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.rows = []

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()

    def note(self, test, result, detail=""):
        name = test.id().removeprefix("test_")
        seconds = time.monotonic() - getattr(self, "began", time.monotonic())
        print(f"  {result:8}{seconds:7.1f} s  {name}", flush=True)
        if result == "failed" and lib._world and os.path.exists(lib._world.log):
            detail += "\n--- end of the server's log\n" + lib._world.log_tail()
        self.rows.append({"name": name, "result": result, "detail": detail})

    def addSuccess(self, test):
        self.note(test, "passed")

    def addSkip(self, test, reason):
        self.note(test, "skipped", reason)

    def addError(self, test, err):
        self.note(test, "failed", self._exc_info_to_string(err, test))

    addFailure = addError

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.note(subtest, "failed", self._exc_info_to_string(err, test))


def stop(sig, frame):
    # As an exception: the shared world's clean-up runs.
    raise SystemExit(128 + sig)


def main():
    words, results = sys.argv[1:], None
    if words[:1] == ["--results"]:
        results, words = words[1], words[2:]
    signal.signal(signal.SIGTERM, stop)
    found = {n[5:-3] for n in os.listdir(HERE) if n.startswith("test_") and n.endswith(".py")}
    unlisted = found - set(ORDER)
    if unlisted:
        sys.exit(f"tests/e2e/main.py: not in ORDER: {sorted(unlisted)}")
    result = Result()
    try:
        for name in ORDER:
            if words and not any(w in name for w in words):
                continue
            module = importlib.import_module("test_" + name)
            unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    finally:
        lib.close()
        if results:
            with open(results, "w") as f:
                json.dump(result.rows, f)
    for row in result.rows:
        if row["result"] == "failed" and not results:
            print(f"--- {row['name']}\n{row['detail']}")
    return 1 if any(r["result"] == "failed" for r in result.rows) or not result.rows else 0


if __name__ == "__main__":
    sys.exit(main())
