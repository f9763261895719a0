#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Prepares a sandbox once, snapshots it under a name, and creates from that ever after: the
processes of the snapshot run in each."""
from client import Client

stasis = Client()
name = "example-python"
source = stasis.create()
made = []
try:
    # A server that is up already in whatever is made from the snapshot.
    stasis.run(source, "/bin/sh", "-c", """
        mkdir /tmp/site && cd /tmp/site && echo prepared >index.html
        nohup python3 -m http.server 8000 >/dev/null 2>&1 &
        until curl -fs http://127.0.0.1:8000/ >/dev/null; do sleep 0.1; done""")

    # overwrite: until the new one is complete, the old one has the name.
    snapshot = stasis.call("POST", "snapshots",
                           {"sandbox_id": source, "name": name, "overwrite": True})
    print("snapshot", snapshot["name"])

    for n in range(2):
        made.append(stasis.create(template=name, metadata={"user": str(n)}))
        page = stasis.run(made[-1], "/usr/bin/curl", "-fsS", "http://127.0.0.1:8000/").strip()
        print(f"sandbox {n}: {page}")
finally:
    for sandbox in [source, *made]:
        stasis.remove(sandbox)
    stasis.call("DELETE", f"snapshots/{name}")  # what was made from it would live on
