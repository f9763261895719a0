#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests: main.py [--lanes N] [--results FILE] [WORD...]; only modules whose names hold a
word. Modules are taken one by one by N processes, each with a server of its own (2 at most: the
guests of one already fill a core)."""
import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import lib  # noqa: E402

# The long ones first, so that all lanes end together; in between, those that leave the shared server
# alone, next to each other.
ORDER = ["lifefaults", "generations", "faults", "firecracker", "cli", "quickstart", "exec", "pty", "cp", "edge", "freeze",
         "badinput", "keys", "list", "docs", "life", "pause", "snapshots", "operations", "restart", "roles"]
NAME = 16  # bytes of a module's name in the pipe that the lanes read: one read takes one


class Result(unittest.TestResult):
    def __init__(self, rows):
        super().__init__()
        self.rows = rows

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


def run_modules(names, rows):
    """Adds to rows what became of the tests of these modules."""
    result = Result(rows)
    try:
        for name in names:
            module = importlib.import_module("test_" + name)
            unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
    finally:
        lib.close()


def taken(fd):
    while name := os.read(fd, NAME).decode().strip():
        yield name


def run_lanes(lanes, names, rows):
    """The same by so many processes. A lane that dies is a failure of its own."""
    todo, fill = os.pipe()
    for name in names:
        os.write(fill, name.ljust(NAME).encode())
    os.close(fill)
    running = []
    with tempfile.TemporaryDirectory(prefix="stasis-lanes.") as folder:
        try:
            for lane in range(lanes):
                results = os.path.join(folder, str(lane))
                command = [sys.executable, "-B", __file__, "--take", str(todo), "--results", results]
                running.append((results, subprocess.Popen(
                    command, pass_fds=[todo], env={**os.environ, "STASIS_LANE": str(lane)})))
            for _, program in running:
                program.wait()
        except KeyboardInterrupt:
            pass  # of the terminal, which told them too; they clean up
        except SystemExit:
            for _, program in running:
                program.terminate()
        for results, program in running:
            program.wait()
            if os.path.exists(results):
                with open(results) as f:
                    rows += json.load(f)
            if program.returncode not in (0, 1):
                rows.append({"name": f"lane {results[-1]}", "result": "failed",
                             "detail": f"the process ended with {program.returncode}"})


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--lanes", type=int, default=min(2, os.cpu_count()))
    p.add_argument("--results")
    p.add_argument("--take", type=int, help=argparse.SUPPRESS)
    p.add_argument("words", nargs="*")
    a = p.parse_args()
    signal.signal(signal.SIGTERM, stop)
    found = {n[5:-3] for n in os.listdir(HERE) if n.startswith("test_") and n.endswith(".py")}
    if found != set(ORDER):
        sys.exit(f"tests/e2e/main.py: ORDER is not what is there: {sorted(found ^ set(ORDER))}")
    names = [n for n in ORDER if not a.words or any(w in n for w in a.words)]
    rows = []
    try:
        if a.take is not None:
            run_modules(taken(a.take), rows)
        elif a.lanes > 1 and len(names) > 1:
            run_lanes(a.lanes, names, rows)
        else:
            run_modules(names, rows)
    finally:
        if a.results:
            with open(a.results, "w") as f:
                json.dump(rows, f)
    for row in rows:
        if row["result"] == "failed" and not a.results:
            print(f"--- {row['name']}\n{row['detail']}")
    return 1 if any(r["result"] == "failed" for r in rows) or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
