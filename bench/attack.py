#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What the others notice of an attack: p99 of their calls with it over without it, in turns.

    bench/attack.py [BUILD]

On a model host with the real control plane and nginx: 1,100 slow clients and 600 held bodies without a
key, and 64 commands in a sandbox whose played agent lies (tests/integration/control/evil_agent.py).
The others' calls: of the API, and to a guest's port. Attackers and played agent are a process of
their own, which the scheduler puts last: it is the server's part that is measured.
"""
import os
import shutil
import signal
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "tests", "integration", "control"))
import edge as edges  # noqa: E402
import evil_agent  # noqa: E402

CALLS, TURNS = 1000, 5


def p99(edge, good, app):
    took = []
    for i in range(CALLS):
        began = time.perf_counter()
        if i % 2:
            edge.api("GET", "/v1/sandboxes/" + good["id"])
        else:
            edge.call("GET", "/x", headers=edges.to(good, app.port, X_API_Key=edge.key), expect=200)
        took.append((time.perf_counter() - began) * 1e3)
    took.sort()
    return took[int(len(took) * .99)], took[len(took) // 2]


def strangers(edge, good):
    held = edges.slow_clients(edge, 1100)
    for _ in range(600):
        s = edge.raw(f"POST /nothing HTTP/1.1\r\nHost: 49983-{good['id']}.localhost\r\nContent-Length: 1048576\r\n\r\n")
        try:
            s.sendall(b"x" * 1048575)
        except OSError:
            pass  # it has been refused
        held.append(s)
    return held


def liars(edge, bad):
    played, parts = evil_agent.Played(), list(evil_agent.EVIL)
    played.good = "-"

    def ask(i):
        while True:
            evil_agent.run(edge, bad, parts[i % len(parts)], 5)
            i += 64
    for i in range(64):
        threading.Thread(target=ask, args=(i,), daemon=True).start()


def attacking(attack):
    """In a process of its own, until the function that is returned is called."""
    ready, begun = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.nice(19)
        kept = attack()  # noqa: F841
        os.write(begun, b"x")
        signal.pause()
    os.read(ready, 1)
    time.sleep(1)

    def end():
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(begun)
        time.sleep(1)
    return end


def main():
    build = sys.argv[1] if len(sys.argv) > 1 else os.path.join(HERE, "..", "build")
    edges.resource.setrlimit(edges.resource.RLIMIT_NOFILE, (8192, edges.resource.getrlimit(7)[1]))
    evil_agent.TRAP = b"127.0.0.1:9"
    app = edges.Upstream(0)
    edge = edges.Edge(os.path.join(build, "tests/integration/control/model_server_agent"))
    try:
        bad, good = (edge.api("POST", "/v1/sandboxes", {}, 201) for _ in range(2))
        p99(edge, good, app)
        for name, attack in (("slow clients and held bodies", lambda: strangers(edge, good)),
                             ("a lying agent", lambda: liars(edge, bad))):
            ratios = []
            for _ in range(TURNS):
                quiet, half = p99(edge, good, app)
                end = attacking(attack)
                busy, busy_half = p99(edge, good, app)
                end()
                ratios.append(busy / quiet)
                print(f"{name}: p99 {quiet:.2f} -> {busy:.2f} ms, p50 {half:.2f} -> {busy_half:.2f} ms", flush=True)
            print(f"{name}: p99 x {sorted(ratios)[TURNS // 2]:.2f} (median of {TURNS})", flush=True)
        edge.stop()
    finally:
        if edge.server:
            edge.server.kill()
            edge.server.wait()
        shutil.rmtree(edge.dir)


if __name__ == "__main__":
    main()
