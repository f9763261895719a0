#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A client generated from proto/hostagent.proto with buf and protoc-gen-es, on the npm packages of
the Connect project, calls our server: connect_client.py FAKE_HOST. Skipped (77) where npm or the
registry is missing."""
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PROTO = os.path.join(HERE, "../../../proto")
GENERATE = '{"version":"v2","plugins":[{"local":"protoc-gen-es","out":"gen","opt":["target=js"]}]}'


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def install(folder):
    """The packages, as the lock file has them, from whatever registry npm is set to."""
    if not shutil.which("npm") or not shutil.which("node"):
        skip("no node and npm")
    for name in ("package.json", "package-lock.json", "client.mjs"):
        shutil.copy(os.path.join(HERE, name), folder)
    done = subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder,
                          capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        skip("npm ci: " + done.stderr.strip()[-500:])


def main():
    with tempfile.TemporaryDirectory(prefix="stasis-connect.") as folder:
        install(folder)
        env = dict(os.environ, PATH=os.path.join(folder, "node_modules/.bin") + ":" +
                   os.environ["PATH"])
        subprocess.run(["buf", "generate", "--template", GENERATE, PROTO], cwd=folder, env=env,
                       check=True, timeout=120)
        socket = os.path.join(folder, "host.sock")
        with subprocess.Popen([sys.argv[1], socket], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as host:
            assert host.stdout.readline() == b"ready\n"
            with subprocess.Popen(["node", "client.mjs", socket], cwd=folder,
                                  stdout=subprocess.PIPE) as client:
                for line in client.stdout:
                    if line == b"event\n":
                        host.stdin.write(b"\n")
                        host.stdin.flush()
                    else:
                        print(line.decode(), end="", flush=True)
            host.stdin.close()
            host.stdout.read()
        return client.returncode or host.returncode


if __name__ == "__main__":
    sys.exit(main())
