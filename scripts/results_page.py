#!/usr/bin/env python3
"""Writes docs/results.md: the latest rows of every benchmark, as they came. `--check` only compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
ROWS = ROOT / "benchmarks" / "results"
HEAD = """# Results

Written by `scripts/results_page.py` from `benchmarks/results/`: what each benchmark said when it last ran at
its full size, targets that were missed included. A figure of several runs is its median, with the least and
the greatest. What is measured, and how, is in the [benchmarks](../benchmarks/README.md).
"""

Row = dict[str, Any]
_ASIDE = ("--work", "--results", "--repeats")


def page() -> str:
    """Returns the content of docs/results.md."""
    parts = [HEAD]
    for file in sorted(ROWS.glob("*.jsonl")):
        rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        groups = _latest([row for row in rows if row["full_size"]])
        if groups:
            parts.append(f"## {file.stem}\n")
            parts += [_section(command, group) for command, group in groups.items()]
    return "\n".join(parts)


def _latest(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of the last run of each command."""
    groups: dict[str, dict[str, Row]] = {}
    for row in rows:
        groups.setdefault(_command(row), {})[row["measurement"]] = row
    return {
        command: [row for row in named.values() if _run(row) == _run(list(named.values())[-1])]
        for command, named in groups.items()
    }


def _run(row: Row) -> str:
    """What all rows of one process share and those of another hardly do."""
    return f"{row['date'][:10]} {row['machine']['load_before']}"


def _command(row: Row) -> str:
    """The command, without where it worked and how often: another run of it takes the place of this one."""
    kept, skip = [], False
    for word in row["command"].split():
        if not skip and word not in _ASIDE:
            kept.append(word)
        skip = word in _ASIDE
    return " ".join(kept)


def _section(command: str, rows: list[Row]) -> str:
    last = rows[-1]
    machine = last["machine"]
    changed = "-dirty" if last["commit"].endswith("-dirty") else ""
    lines = [
        f"`{command}`: {last['date'][:10]}, commit {last['commit'][:12]}{changed}, "
        f"{machine['processor']}, {machine['cores']} cores, load before {machine['load_before']:g}.\n",
        "| measurement | figures | target | |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        target = row["target"]
        reached = [] if target is None else [f"{target['target']}", "met" if target["met"] else "missed"]
        cells = [row["measurement"], _figures(row["figures"]), *(reached or ["", ""])]
        lines.append(f"| {' | '.join(cells)} |")
    notes = dict.fromkeys(row["note"] for row in rows if row["note"])
    return "\n".join([*lines, "", *(f"{note}.\n" for note in notes)])


def _figures(figures: dict[str, Any]) -> str:
    parts = []
    for name, value in figures.items():
        label = name.replace("_", " ")
        if isinstance(value, dict) and "median" in value:
            parts.append(f"{label} {value['median']:.4g} ({value['min']:.4g} to {value['max']:.4g})")
        elif isinstance(value, bool | str) and name != "measure":
            parts.append(f"{label}: {value}")
        elif isinstance(value, int | float):
            parts.append(f"{label} {value:.4g}")
        elif name == "interval":
            parts.append(f"interval {value[0]:+.4f} to {value[1]:+.4f}")
        elif isinstance(value, list) and all(isinstance(number, int | float) for number in value):
            parts.append(f"{label} {' '.join(f'{number:+.4f}' for number in value)}")
    return "; ".join(parts)


def main() -> int:
    """Writes the page, or with --check says whether it is what it would be."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), "utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text("utf-8") == page():
        return 0
    sys.stderr.write("docs/results.md is not what benchmarks/results says: run scripts/results_page.py\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
