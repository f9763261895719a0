#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs code that nobody has read, with a limit of time, and shows how it ended."""
import base64

from client import Client, Error

CODE = """
import os
print("six times seven is", 6 * 7)
print("running as", os.environ["USER"])
"""

stasis = Client()
sandbox = stasis.create()
try:
    # Standard input is base64: any bytes may be in it.
    done = stasis.call("POST", f"sandboxes/{sandbox}/exec", {
        "args": ["/usr/bin/python3", "-"], "env": {"USER": "guest"}, "timeout_sec": 30,
        "stdin": base64.b64encode(CODE.encode()).decode()})
    print(done["stdout"], end="")
    print("exit code", done["exit_code"])

    # Code that does not end is ended.
    try:
        stasis.run(sandbox, "/bin/sleep", "1000", timeout_sec=1)
    except Error as error:
        print("the endless one:", error.code)
finally:
    stasis.remove(sandbox)
