#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""documents.py finds what it is for: on a small tree with mistakes of each kind."""
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import documents  # noqa: E402


class Tree(unittest.TestCase):
    def setUp(self):
        self.root = tempfile.TemporaryDirectory(prefix="stasis-documents.")
        self.addCleanup(self.root.cleanup)
        for path in ("src/base/str.c", "src/base/str.h", "docs/man/x.1", "docs/other.md"):
            os.makedirs(os.path.join(self.root.name, os.path.dirname(path)), exist_ok=True)
            open(os.path.join(self.root.name, path), "w").close()

    def wrong(self, text, document="docs/page.md"):
        root = self.root.name
        found = documents.wrong_paths(root, document, text, documents.names(root))
        return [line.split(": ", 1)[1] for line in found]

    def test_what_is_there(self):
        self.assertEqual(self.wrong(
            "src/base and `src/base/str.{c,h}`, src/base/*.c, `base/str.c`, `str.c`; "
            "[a](other.md), [b](docs/other.md#part), [c](https://example.org/x.md); `docs/other.md`."), [])

    def test_what_is_not(self):
        for text, path in (("see src/base/none.c.", "src/base/none.c"),
                           ("`src/base/str.{c,x}`", "src/base/str.{c,x}"),
                           ("`base/none.h`", "base/none.h"), ("`none.py`", "none.py"),
                           ("[a](none.md)", "none.md"), ("web/", "web/"),
                           ("```\nscripts/none x\n```", "scripts/none"),
                           ("`{\"a\":\n1}` and `none.md`", "none.md")):
            with self.subTest(text):
                self.assertEqual(self.wrong(text), [path + ": is not there"])

    def test_what_is_elsewhere(self):
        self.assertEqual(self.wrong(
            "/etc/stasis/x.conf, `/usr/src/x.c`, `<data>/docs/x`, build/src/x, `$HOME/docs/x.md`, "
            "`layers/<uuid>`, `control.db`, `snapshot/create`"), [])

    def test_planned(self):
        self.assertEqual(self.wrong("web/ (planned), `src/new.c` (planned)"), [])
        self.assertEqual(self.wrong("`src/base/str.c` (planned)"),
                         ["src/base/str.c: is said to be planned, and is there"])

    def test_width(self):
        long = "word " * 25
        for document, text, n in (("a.md", long, 1), ("a.md", "```\n" + long + "\n```", 0),
                                  ("a.md", "| " + long, 0), ("a.md", "* " + "x" * 120, 0),
                                  ("docs/man/x.1", ".It " + long, 0), ("docs/man/x.1", long, 1)):
            with self.subTest(document=document, text=text[:20]):
                self.assertEqual(len(list(documents.long_lines(document, text))), n)

    def test_wrap(self):
        text = ("# head\n\n" + "word " * 30 + "`a code span` - not an item\n\n"
                "2. " + "item " * 30 + "\n\n```\n" + "code " * 30 + "\n```\nshort\nlines\n")
        once = documents.wrap(text)
        self.assertEqual(documents.wrap(once), once)
        self.assertEqual(list(documents.long_lines("a.md", once)), [])
        self.assertEqual(once.split(), text.split())
        self.assertNotIn("\n- not", once)
        self.assertIn("`a code span`", once)
        self.assertIn("\n   item", once)
        self.assertTrue(once.endswith("short\nlines\n"))


if __name__ == "__main__":
    unittest.main()
