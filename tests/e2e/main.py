#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""End-to-end tests: main.py [--lanes N] [--results FILE] [--repeat N] [WORD...]

A WORD chooses the modules whose names hold it; one with a dot chooses the tests whose printed names
begin with it (pause.Pause.test_x). Modules are taken one by one by N processes, each with a server
of its own (2 at most: the guests of one already fill a core). --repeat runs what was chosen of a
module so many times, on the same server."""
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
from traceback import walk_tb

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
sys.dont_write_bytecode = True
import lib  # noqa: E402

# The long ones first, so that all lanes end together; in between, those that leave the shared server
# alone, next to each other.
ORDER = ["kvm", "lifefaults", "generations", "faults", "firecracker", "install", "cli", "quickstart",
         "exec", "pty", "run", "cp", "edge", "walls", "freeze", "badinput", "names", "keys", "list",
         "docs", "examples", "docker", "life", "pause", "snapshots", "runtimes", "older", "operations", "restart", "lost", "stuck",
         "burst",
         "roles"]
NAME = 16  # bytes of a module's name in the pipe that the lanes read: one read takes one


class Result(unittest.TestResult):
    def __init__(self, rows, suffix=""):
        super().__init__()
        self.rows, self.suffix = rows, suffix

    def startTest(self, test):
        super().startTest(test)
        self.began = time.monotonic()

    def note(self, test, result, detail="", line="", asked=True):
        name = printed(test)
        seconds = time.monotonic() - getattr(self, "began", time.monotonic())
        print(f"  {result:8}{seconds:7.1f} s  {name}{self.suffix}", flush=True)
        world = getattr(test, "w", None)
        world = world if isinstance(world, lib.World) else lib._world
        if result == "failed" and world and os.path.exists(world.log):
            detail += "\n--- end of the server's log\n" + world.log_tail()
        self.rows.append({"name": name, "result": result, "detail": detail, "line": line,
                          "seconds": seconds, "suffix": self.suffix, "asked": asked})

    def addSuccess(self, test):
        self.note(test, "passed")

    def addSkip(self, test, reason):
        self.note(test, "skipped", reason)

    def addError(self, test, err):
        self.failed(test, test, err)

    addFailure = addError

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.failed(subtest, test, err)

    def failed(self, shown, test, err):
        first = f"{err[0].__name__}: {err[1]}".strip().splitlines()[0]
        self.note(shown, "failed", self._exc_info_to_string(err, test), first, asked(test, err[2]))


class Told(KeyboardInterrupt):
    """To stop, by SIGTERM. unittest takes any other exception for the failure of one test."""


def stop(sig, frame):
    # As an exception: the shared world's clean-up runs.
    raise Told


def asked(test, traceback):
    """Whether a test failed at its own question: not in its set-up, not for want of a server."""
    frames = [frame for frame, _ in walk_tb(traceback)]
    names = {frame.f_code.co_name for frame in frames}
    if any(f.f_code.co_name == "launch" and not f.f_locals["self"].was_ready for f in frames):
        return False
    return (not names & {"setUp", "setUpClass", "setUpModule", "world", "shared", "build_image"}
            and bool(names & {getattr(test, "_testMethodName", None), "tearDown", "doCleanups"})
            and not isinstance(test, unittest.loader._FailedTest))


def printed(test):
    return test.id().removeprefix("test_")


def tests_of(suite):
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            yield from tests_of(part)
        else:
            yield part


def chosen(name, words):
    """The tests of a module that the words choose, in a suite of their own."""
    suite = unittest.defaultTestLoader.loadTestsFromName("test_" + name)
    if not words or any("." not in w and w in name for w in words):
        return suite
    dotted = [w for w in words if "." in w]
    return unittest.TestSuite(
        t for t in tests_of(suite) if any(printed(t).startswith(w) for w in dotted)
        # The test that a module becomes that cannot be imported.
        or any(w.startswith(name + ".") and printed(t).endswith("test_" + name) for w in dotted))


def choose(words):
    """The names of the modules with tests that the words choose."""
    for word in words:
        if not any(chosen(name, [word]).countTestCases() for name in ORDER):
            sys.exit(f"tests/e2e/main.py: {word}: no such test; modules: {' '.join(sorted(ORDER))}")
    return [name for name in ORDER if chosen(name, words).countTestCases()]


def run_modules(names, rows, words=(), repeat=1):
    """Adds to rows what became of the tests of these modules."""
    try:
        for name in names:
            for run in range(1, repeat + 1):
                # A result remembers the last class, and would not set up the same again.
                chosen(name, words).run(Result(rows, f" (run {run})" if repeat > 1 else ""))
    finally:
        lib.close()


def taken(fd):
    while name := os.read(fd, NAME).decode().strip():
        yield name


def run_lanes(lanes, names, rows, options):
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
                command = [sys.executable, "-B", __file__, "--take", str(todo), "--results", results,
                           *options]
                running.append((results, subprocess.Popen(
                    command, pass_fds=[todo], env={**os.environ, "STASIS_LANE": str(lane)})))
            for _, program in running:
                program.wait()
        except Told:
            for _, program in running:
                program.terminate()
        except KeyboardInterrupt:
            pass  # of the terminal, which told them too; they clean up
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
    p.add_argument("--repeat", type=int, default=1)
    p.add_argument("--take", type=int, help=argparse.SUPPRESS)
    p.add_argument("words", nargs="*")
    a = p.parse_args()
    signal.signal(signal.SIGTERM, stop)
    found = {n[5:-3] for n in os.listdir(HERE) if n.startswith("test_") and n.endswith(".py")}
    if found != set(ORDER):
        sys.exit(f"tests/e2e/main.py: ORDER is not what is there: {sorted(found ^ set(ORDER))}")
    names = choose(a.words)
    rows = []
    try:
        if a.take is not None:
            run_modules(taken(a.take), rows, a.words, a.repeat)
        elif a.lanes > 1 and len(names) > 1:
            run_lanes(a.lanes, names, rows, ["--repeat", str(a.repeat), *a.words])
        else:
            run_modules(names, rows, a.words, a.repeat)
    except KeyboardInterrupt as told:
        return 143 if isinstance(told, Told) else 130
    finally:
        if a.results:
            with open(a.results, "w") as f:
                json.dump(rows, f)
    for row in rows:
        if row["result"] == "failed" and not a.results:
            print(f"--- {row['name']}{row.get('suffix', '')}\n{row['detail']}")
    return 1 if any(r["result"] == "failed" for r in rows) or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
