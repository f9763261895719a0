#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""embed.py OUT.c TABLE FILE...: a C file with the files' contents as `const struct embed TABLE[]`
(name without directory, bytes with a NUL behind, length), closed by an entry without a name."""
import os
import sys

out, table, files = sys.argv[1], sys.argv[2], sys.argv[3:]
with open(out, "w") as f:
    f.write('#include "base/embed.h"\n')
    for i, path in enumerate(files):
        data = open(path, "rb").read() + b"\0"
        f.write(f"static const char data{i}[] = {{\n")
        for at in range(0, len(data), 24):
            f.write("".join(f"{b if b < 128 else b - 256}," for b in data[at : at + 24]) + "\n")
        f.write("};\n")
    f.write(f"const struct embed {table}[] = {{\n")
    for i, path in enumerate(files):
        f.write(f'\t{{"{os.path.basename(path)}", data{i}, sizeof data{i} - 1}},\n')
    f.write("\t{0, 0, 0}};\n")
