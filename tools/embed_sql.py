#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""embed_sql.py OUT NAME FILE...: a C header with the migrations NNN_name.sql as NAME[] (see base/db.h)."""
import os
import sys

out, name, *files = sys.argv[1:]
lines = ["// Made by tools/embed_sql.py. Do not edit.", '#include "base/db.h"',
         f"static const struct db_migration {name}[] = {{"]
for number, path in enumerate(sorted(files), 1):
    base = os.path.basename(path)
    if int(base.split("_")[0]) != number:
        sys.exit(f"{path}: migrations must be numbered 001, 002, ... without gaps")
    text = open(path, encoding="utf-8").read()
    quoted = "\n\t".join('"' + line.replace("\\", "\\\\").replace('"', '\\"') + '\\n"'
                         for line in text.splitlines())
    lines.append(f'\t{{{number}, "{base}",\n\t{quoted}}},')
lines.append("};\n")
with open(out, "w", encoding="utf-8") as f:
    f.write("\n".join(lines))
