#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Keeps a program's memory between two turns of a conversation, and has nothing running in
between."""
from client import Client

stasis = Client()
sandbox = stasis.create(on_timeout="pause")  # forgotten? then it is paused, not lost
try:
    # A process that counts, with its state in memory alone.
    stasis.run(sandbox, "/bin/sh", "-c", """
        mkfifo /tmp/ask /tmp/answer
        nohup sh -c 'n=0; while read line </tmp/ask; do n=$((n + 1)); echo $n >/tmp/answer; done' \
            >/dev/null 2>&1 &""")

    def turn():
        return stasis.run(sandbox, "/bin/sh", "-c", "echo >/tmp/ask; cat /tmp/answer").strip()

    print("turn", turn())
    print("turn", turn())

    paused = stasis.call("POST", f"sandboxes/{sandbox}/pause", {})
    print("paused:", paused["state"])  # its memory is on the disk; minutes or weeks may pass

    resumed = stasis.call("POST", f"sandboxes/{sandbox}/resume", {"timeout_sec": 600})
    print("resumed:", resumed["state"])
    print("turn", turn())  # the same process, where it was
finally:
    stasis.remove(sandbox)
