#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""metrics.py SOURCE_DIR [URL KEY]: dashboard and alerts name metrics that there are, and promtool finds
nothing wrong with them.

Without a URL it reads the text of /v1/metrics at standard input (tests/e2e/test_metrics.py gives it that
of a server with guests). Exit status 77 where promtool is missing, after all that needs none.
"""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

WORD = re.compile(r"\b(?:stasis|process)_[a-z0-9_]+\b")


def names(text):
    """Of the series, each of a histogram's too, with their types by the lines '# TYPE'."""
    types = dict(re.findall(r"(?m)^# TYPE (\S+) (\S+)$", text))
    series = {re.match(r"[a-zA-Z_:][a-zA-Z0-9_:]*", line).group(0)
              for line in text.splitlines() if line and not line.startswith("#")}
    return series, types


def used(source):
    """The names in queries of the dashboard and of the alerts."""
    board = json.loads((source / "packaging/grafana.json").read_text())
    queries = [t["expr"] for panel in board["panels"] for t in panel.get("targets", ())]
    queries += [v["query"]["query"] if isinstance(v["query"], dict) else v["query"]
                for v in board["templating"]["list"] if v["type"] == "query"]
    assert queries and all(queries), "a panel without a query"
    found = {}
    for q in queries:
        for word in WORD.findall(q):
            found.setdefault(word, "packaging/grafana.json")
    alerts = (source / "packaging/alerts.yml").read_text()
    exprs = re.findall(r"(?m)^ +expr: (.+(?:\n {12,}.+)*)$", alerts)
    assert len(exprs) == alerts.count("- alert:"), "an alert without an expression"
    for e in exprs:
        for word in WORD.findall(e):
            found.setdefault(word, "packaging/alerts.yml")
    return found


def well_formed(text):
    """What OpenMetrics asks of the text beyond promtool: series of one metric stand together, have help and
    type before them, no label pair twice."""
    seen, current, done = set(), None, set()
    for line in text.splitlines():
        if m := re.match(r"# HELP (\S+) \S", line):
            current = m.group(1)
            assert current not in done, f"{current} is told of twice"
            done.add(current)
        elif line.startswith("# TYPE"):
            assert line.split()[2] == current, line
        else:
            m = re.fullmatch(r"([a-z_][a-z0-9_]*)(\{.*\})? (-?[0-9.e+-]+|NaN|[+-]Inf)", line)
            assert m, f"not a sample: {line}"
            assert re.fullmatch(re.escape(current) + "(_bucket|_sum|_count)?", m.group(1)), line
            assert (m.group(1), m.group(2)) not in seen, f"twice: {line}"
            seen.add((m.group(1), m.group(2)))


def main():
    source, text = Path(sys.argv[1]), sys.stdin.read()
    series, types = names(text)
    well_formed(text)
    missing = {w: where for w, where in used(source).items() if w not in series}
    assert not missing, f"no such metric: {missing}"
    board = json.loads((source / "packaging/grafana.json").read_text())
    ids = [p["id"] for p in board["panels"]]
    assert len(ids) == len(set(ids)) and board["uid"] and board["schemaVersion"] >= 36
    promtool = shutil.which("promtool")
    if not promtool:
        print("NOT CHECKED by promtool: it is not installed (Debian package prometheus)", file=sys.stderr)
        return 77
    p = subprocess.run([promtool, "check", "metrics"], input=text, text=True, capture_output=True)
    assert p.returncode == 0 and not p.stdout + p.stderr, p.stdout + p.stderr
    p = subprocess.run([promtool, "check", "rules", source / "packaging/alerts.yml"], text=True, capture_output=True)
    assert p.returncode == 0 and "SUCCESS" in p.stdout, p.stdout + p.stderr
    return 0


if __name__ == "__main__":
    sys.exit(main())
