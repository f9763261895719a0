#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""layers.py finds what it is for: on small trees, built, with a mistake of each kind."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import layers  # noqa: E402

GOOD = {
    "low/low.h": "int low(void);",
    "low/low.c": '#include "low/low.h"\nint low(void) { return 0; }',
    "house/door.h": "int house_open(void);\nstruct asked { void (*done)(void *ctx); };",
    "house/floor/a.h": "int a(int (*passed)(void));",
    "house/floor/a.c": '#include "house/floor/a.h"\n#include "low/low.h"\nint a(int (*passed)(void)) { return low(); }',
    "house/attic/b.h": "struct ops { int (*one)(void); };\nint b(void);",
    "house/attic/b.c": '#include "house/attic/b.h"\n#include "house/door.h"\n#include "house/floor/a.h"\n'
                       "int b(void) { return a(0); }\nint house_open(void) { return b(); }",
    "house/roof.c": '#include "house/attic/b.h"\nint roof(void);\nint roof(void) { return b(); }',
    "high/high.c": '#include "house/door.h"\nint high(void);\nint high(void) { return house_open(); }',
}
BELOW = {"low": "", "house": "low", "high": "low house/door.h"}
WINGS = {"house": "floor attic"}
UPWARD = {"src/house/door.h": 1}


class Layers(unittest.TestCase):
    def found(self, changed=None, upward=UPWARD, build=True):
        with tempfile.TemporaryDirectory(prefix="stasis-layers.") as root:
            src, files, commands = os.path.join(root, "src"), {**GOOD, **(changed or {})}, []
            for path, text in files.items():
                if text is None:
                    continue
                os.makedirs(os.path.dirname(os.path.join(src, path)), exist_ok=True)
                with open(os.path.join(src, path), "w") as f:
                    f.write(text + "\n")
            for path in (p for p, text in files.items() if text is not None and p.endswith(".c") and build):
                out = "src/x.p/" + path.replace("/", "_") + ".o"
                os.makedirs(os.path.join(root, "build/src/x.p"), exist_ok=True)
                subprocess.run(["cc", "-I", src, "-c", os.path.join(src, path), "-o",
                                os.path.join(root, "build", out)], check=True)
                commands.append({"directory": os.path.join(root, "build"), "file": "../src/" + path, "output": out})
            if build:
                with open(os.path.join(root, "build/compile_commands.json"), "w") as f:
                    json.dump(commands, f)
            tree = layers.Tree(src, layers.Rules(BELOW, WINGS, upward))
            return list(tree.violations(build and os.path.join(root, "build")))

    def test_a_good_tree(self):
        self.assertEqual(self.found(), [])
        self.assertEqual(self.found(build=False), [])

    def test_rooms_without_a_place(self):
        self.assertEqual(self.found({"other/x.c": "int x;"}),
                         ["src/other: a room without a place in BELOW of tests/unit/layers.py"])
        self.assertEqual(self.found({"house/cellar/x.c": "int x;"}),
                         ["src/house/cellar: a wing without a place in WINGS of tests/unit/layers.py"])

    def test_includes_of_a_higher_room_or_wing(self):
        for path, text, used in (("low/x.c", '#include "house/door.h"', "house/door.h"),
                                 ("high/x.c", '#include "house/attic/b.h"', "house/attic/b.h"),
                                 ("house/floor/x.c", '#include "house/attic/b.h"', "house/attic/b.h"),
                                 ("house/floor/x.c", '  #  include "b.h"', "b.h")):
            with self.subTest(text):
                found = self.found({path: text, "house/attic/x": ""}, build=False)
                self.assertEqual(found, [f'src/{path}: must not include "{used}"'])

    def test_calls_of_a_higher_room_or_wing(self):
        for path, name, callee in (("low/x.c", "house_open", "house/attic/b.c"), ("low/x.c", "a", "house/floor/a.c"),
                                   ("house/floor/x.c", "b", "house/attic/b.c"),
                                   ("house/attic/x.c", "roof", "house/roof.c"),
                                   ("high/x.c", "b", "house/attic/b.c")):
            with self.subTest(path + " " + name):
                found = self.found({path: f"int {name}();\nint x(void);\nint x(void) {{ return {name}(); }}"})
                self.assertEqual(found, [f"src/{path}: must not use {name} of src/{callee}"])

    def test_variables_count_as_calls(self):
        found = self.found({"house/attic/x.c": "int v = 1;", "house/floor/x.c": "extern int v;\nint *p = &v;"})
        self.assertEqual(found, ["src/house/floor/x.c: must not use v of src/house/attic/x.c"])

    def test_the_nearest_of_namesakes_is_meant(self):
        self.assertEqual(self.found({"high/n.c": "int n(void) { return 1; }", "low/n.c": "int n(void) { return 2; }",
                                     "low/x.c": "int n(void);\nint x(void) { return n(); }"}), [])

    def test_a_circle_of_calls(self):
        circle = {"low/x.c": "int y(void);\nint x(void) { return y(); }", "low/y.c": "int x(void);\n"
                  "int y(void) { return x(); }", "low/z.c": "int x(void);\nint z(void) { return x(); }"}
        self.assertEqual(self.found(circle), ["src/low: a circle of 2 files: low/x low/y"])

    def test_a_circle_of_includes_and_calls(self):
        self.assertEqual(self.found({
            "low/x.h": "#define X 1", "low/x.c": "int y(void);\nint x(void) { return y(); }",
            "low/y.c": '#include "low/w.h"\nint y(void) { return X; }', "low/w.h": '#include "low/x.h"'}),
            ["src/low: a circle of 3 files: low/w low/x low/y"])

    def test_pointers_upwards_are_counted(self):
        door = "src/house/door.h"
        two = "typedef int (*fn)(void);\nint (*table[3])(int (*x)(void)); // int (*no)(void)\n/* (*no)( */ int f(int (*p)(int));"
        self.assertEqual(self.found({"house/floor/a.h": GOOD["house/floor/a.h"] + two}),
                         ["src/house/floor/a.h: 2 pointers to functions, UPWARD of tests/unit/layers.py has 0"])
        self.assertEqual(self.found(upward={}), [f"{door}: 1 pointers to functions, UPWARD of tests/unit/layers.py has 0"])
        self.assertEqual(self.found(upward={door: 2}), [
            f'{door}: 1 pointers to functions: lower "{door}": 2 in UPWARD of tests/unit/layers.py'])
        self.assertEqual(self.found({"house/floor/a.h": GOOD["house/floor/a.h"] + two, "house/floor/z.h": "int (*z)(void);"},
                                    upward={**UPWARD, "src/house/floor/a.h": 2, "src/house/floor/z.h": 1}),
                         ["src/house/floor: two files in UPWARD of tests/unit/layers.py, where a wing has one"])

    def test_a_room_without_wings_yet(self):
        flat = {path: None for path in GOOD if path.startswith("house/")}
        flat |= {"house/x.c": '#include "house/door.h"\nint house_open(void) { return 0; }',
                 "house/door.h": GOOD["house/door.h"], "house/y.h": "extern int (*y)(void);"}
        self.assertEqual(self.found(flat), ["src/house/y.h: 1 pointers to functions, UPWARD of tests/unit/layers.py has 0"])

    def test_what_was_not_built_is_told(self):
        with tempfile.TemporaryDirectory(prefix="stasis-layers.") as root:
            os.makedirs(os.path.join(root, "src/low"))
            for name in ("x.c", "y.c"):
                open(os.path.join(root, "src/low", name), "w").close()
            with open(os.path.join(root, "compile_commands.json"), "w") as f:
                json.dump([{"directory": root, "file": "src/low/x.c", "output": "src/x.o"}], f)
            tree = layers.Tree(os.path.join(root, "src"), layers.Rules(BELOW, WINGS, {}))
            self.assertEqual(list(tree.violations(root)), [
                "src/low/y.c: is not built, its calls are not looked at",
                f"{root}/src/x.o: is not there, build it first"])


if __name__ == "__main__":
    unittest.main()
