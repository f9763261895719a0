#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prepares one sandbox, forks ten copies of it as it runs, and lets each go its own way."""
from client import Client

stasis = Client()
source = stasis.create()
copies = []
try:
    # What would take long: packages, a repository, a data set in memory.
    stasis.run(source, "/bin/sh", "-c", "seq 1 1000 > /dev/shm/data")

    answer = stasis.call("POST", f"sandboxes/{source}/fork", {"count": 10, "timeout_sec": 300})
    for child in answer["children"]:
        if "error" in child:
            print("one did not come up:", child["error"]["message"])
        else:
            copies.append(child["id"])

    for n, copy in enumerate(copies):
        total = stasis.run(copy, "/usr/bin/awk", "-v", f"n={n}",
                           "NR % 10 == n { s += $1 } END { print s }", "/dev/shm/data").strip()
        print(f"copy {n}: {total}")
finally:
    for sandbox in [source, *copies]:
        stasis.remove(sandbox)
