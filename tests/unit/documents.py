#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Documents tell the truth about the tree and wrap at 100 columns.

    tests/unit/documents.py                 prints what is wrong, exits 1 when there is something
    tests/unit/documents.py --wrap FILE...  wraps the paragraphs with lines that are too long

A path that a document names exists. What counts as a path:

1. the target of a Markdown link that has no scheme: seen from the document, or from the top;
2. anywhere in the text, what begins with a directory of the top (src/, docs/, ...), and with web/;
3. in `code`, what begins with a room (control/engine.c), seen from src/;
4. in `code`, the name of a file of the source's kinds without a directory (.c .h .py .md .proto
   .sql .service .sysusers): some file of the tree has it.

{a,b} and * are as in a shell; <name> makes it a pattern that is not looked up. What begins with /
or ~ or $ or a <place> is of an installed system; build/ is made. "(planned)" right behind a path
says that it is not there yet, and then it must not be.

Wrapped is what is neither code, nor a row of a table, nor a macro of a man page, nor one word (a
link) that is longer by itself."""
import glob
import os
import re
import sys
import textwrap

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WIDTH = 100
TOP = ("src", "tests", "docs", "scripts", "bench", "images", "packaging", "proto", "sql", "tools",
       "examples", "web", "LICENSES", r"\.github", r"\.ci")
NAME = r"[A-Za-z0-9._{},*<>@+-]*"
IN_TEXT = re.compile(rf"(?<![\w./<>$~}}{{-])(?:{'|'.join(TOP)})/(?:{NAME}/)*{NAME}")
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")
SOURCE = re.compile(r"[\w{},*-]+\.(?:[ch]|py|md|proto|sql|service|sysusers)")
PLANNED = re.compile(r"`?\s*\(planned\)")


def documents(root):
    """Every document, from the top of the tree."""
    patterns = ("*.md", "NOTICE", "docs/**/*.md", "docs/man/*", "bench/*.md", "examples/*.md",
                "packaging/*.md", ".github/**/*.md")
    found = {f for p in patterns for f in glob.glob(p, root_dir=root, recursive=True)}
    return sorted(found)


def names(root):
    """The names of all files of the tree, without what is built."""
    found = set()
    for folder, folders, files in os.walk(root):
        folders[:] = [d for d in folders if d != ".git" and not (folder == root
                                                                 and d.startswith("build"))]
        found.update(files)
    return found


def expanded(path):
    """The alternatives of {a,b}."""
    m = re.search(r"\{([^{}]*)\}", path)
    if not m:
        return [path]
    return [e for part in m.group(1).split(",")
            for e in expanded(path[:m.start()] + part + path[m.end():])]


def there(root, path, below=("",)):
    """Whether each alternative exists below one of the folders."""
    return all(any(glob.glob(os.path.join(glob.escape(root), b, p)) for b in below)
               for p in expanded(path))


def claims(text):
    """Of each path that the text names: where it begins and ends, itself, and its kind."""
    for m in LINK.finditer(text):
        if not re.match(r"[a-z]+:", m.group(1)):
            yield m.start(1), m.end(1), m.group(1), "link"
    for m in IN_TEXT.finditer(text):
        path = m.group().rstrip(".,-")
        yield m.start(), m.start() + len(path), path, "path"
    for m in CODE.finditer(text.replace("```", "   ")):
        word = m.group(1)
        if IN_TEXT.match(word) or "<" in word:
            continue
        if re.fullmatch(r"[a-z0-9]+/[\w{},*./-]+\.[a-z]+", word):
            yield m.start(1), m.end(1), word, "room"
        elif SOURCE.fullmatch(word):
            yield m.start(1), m.end(1), word, "name"


def wrong_paths(root, document, text, known):
    rooms = set(os.listdir(os.path.join(root, "src")))
    folder = os.path.dirname(document)
    for start, end, path, kind in claims(text):
        if "<" in path or "@" in path:
            continue
        if kind == "link":
            ok = there(root, path, ("", folder))
        elif kind == "path":
            ok = there(root, path)
        elif kind == "room":
            if path.split("/")[0] not in rooms and not SOURCE.fullmatch(os.path.basename(path)):
                continue
            ok = there(root, path, ("src", "", folder))
        else:
            ok = all(any(re.fullmatch(re.escape(p).replace(r"\*", ".*"), n) for n in known)
                     for p in expanded(path))
        planned = PLANNED.match(text, end) is not None
        line = text.count("\n", 0, start) + 1
        if not ok and not planned:
            yield f"{document}:{line}: {path}: is not there"
        elif ok and planned:
            yield f"{document}:{line}: {path}: is said to be planned, and is there"


def long_lines(document, text):
    man = document.startswith("docs/man/")
    fence = False
    for number, line in enumerate(text.split("\n"), 1):
        if line.lstrip().startswith("```"):
            fence = not fence
        bare = line.strip()
        if fence or len(line) <= WIDTH or bare.startswith("|") or " " not in bare.lstrip("-*# "):
            continue
        if man and line.startswith("."):
            continue
        yield f"{document}:{number}: {len(line)} columns: wrap it (tests/unit/documents.py --wrap)"


ITEM = re.compile(r"(\s*(?:[-*]|\d+\.)\s+)(.*)", re.S)


def short_span(m):
    """Code that is short stays on one line."""
    return m.group() if len(m.group()) > 60 else m.group().replace(" ", "\0")


def wrapped(block):
    """One paragraph or list item, wrapped."""
    m = ITEM.match(block)
    first, rest = (m.group(1), m.group(2)) if m else (re.match(r"\s*", block).group(), block)
    indent = " " * len(first)
    text = " ".join(rest.split())
    text = re.sub(r"`[^`]*`", short_span, text)
    text = re.sub(r" (?=(?:[-*+]|\d+\.) )", "\0", text)  # would begin a list item
    lines = textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent,
                          break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


def wrap(text):
    out, block, fence = [], [], False

    def flush():
        if block:
            joined = "\n".join(block)
            long = any(len(line) > WIDTH for line in block)
            out.append(wrapped(joined) if long else joined)
            block.clear()

    for line in text.split("\n"):
        if line.lstrip().startswith("```"):
            flush()
            fence = not fence
            out.append(line)
        elif fence or not line.strip() or line.lstrip().startswith(("|", "#", ">", "<!")):
            flush()
            out.append(line)
        else:
            if ITEM.match(line):
                flush()
            block.append(line)
    flush()
    return "\n".join(out)


def main():
    if sys.argv[1:2] == ["--wrap"]:
        for path in sys.argv[2:]:
            with open(path) as f:
                text = f.read()
            with open(path, "w") as f:
                f.write(wrap(text))
        return 0
    root = sys.argv[1] if len(sys.argv) > 1 else ROOT
    known, found = names(root), []
    for document in documents(root):
        with open(os.path.join(root, document)) as f:
            text = f.read()
        found += wrong_paths(root, document, text, known)
        found += long_lines(document, text)
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
