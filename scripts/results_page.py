#!/usr/bin/env python3
"""Writes docs/results.md, the claims of benchmarks/claims.toml, and all rows to benchmarks/results/NAME.md.

usage: results_page.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
ROWS = ROOT / "benchmarks" / "results"
CLAIMS = ROOT / "benchmarks" / "claims.toml"
MOST_CLAIMS = 25
HEAD = """# Results

What the benchmarks showed when they last ran at their full size: missed targets first, then losses, then
the rest. `scripts/results_page.py` writes this page: the sentences come from `benchmarks/claims.toml`, every
figure from the newest row of `benchmarks/results/`. The first column leads to all figures of a benchmark,
with date, commit and machine. A range is the least and greatest of the repeats; a 95 % interval is over
queries; p is that of a paired randomisation test, corrected (Holm) if several arms are compared. Commands run
in the checkout, with `python benchmarks/` before them. [Benchmarks](../benchmarks/README.md) says how they
measure.
"""
SECTIONS = {
    "missed": "## Missed targets",
    "loss": "## Losses",
    "met": "## Met, and without a target",
}
_ASIDE = ("--work", "--results", "--repeats")
"""Options that do not make another measurement."""

Row = dict[str, Any]
Claim = dict[str, Any]


def pages() -> dict[Path, str]:
    """Returns the content of every page that this script writes."""
    tables = {}
    for file in sorted(ROWS.glob("*.jsonl")):
        if groups := _latest(rows(file.stem)):
            head = f"# {file.stem}\n\nWritten by `scripts/results_page.py` from `{file.name}`.\n"
            script = file.stem.removesuffix("-dev")
            sections = [_section(f"{script}.py {given}".strip(), group) for given, group in groups.items()]
            tables[file.with_suffix(".md")] = "\n".join([head, *sections])
    return {PAGE: results(), **tables}


@cache
def rows(benchmark: str) -> list[Row]:
    """Returns all rows of a benchmark, oldest first."""
    return [json.loads(line) for line in (ROWS / f"{benchmark}.jsonl").read_text("utf-8").splitlines()]


def results() -> str:
    """Returns docs/results.md."""
    claims = tomllib.loads(CLAIMS.read_text("utf-8"))["claim"]
    if len(claims) > MOST_CLAIMS:
        raise SystemExit(f"{CLAIMS.name} has {len(claims)} claims; the page is for {MOST_CLAIMS}")
    lines: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for claim in claims:
        row = newest(claim)
        lines[_section_of(claim, row)].append(_line(claim, row))
    parts = [HEAD]
    for section, title in SECTIONS.items():
        if lines[section]:
            parts.append(f"{title}\n\n| | claim | figure | range or interval | verdict | repeat |")
            parts[-1] += "\n| --- | --- | ---: | --- | --- | --- |\n" + "\n".join(lines[section]) + "\n"
    return "\n".join(parts)


def newest(claim: Claim) -> Row:
    """Returns the newest row of a claim's measurement, of full size if there is one."""
    found = [
        row
        for row in rows(claim["benchmark"])
        if row["measurement"] == claim["measurement"]
        and claim.get("args") in (None, _arguments(row))
        and claim["figure"] in row["figures"]
    ]
    if not found:
        raise SystemExit(f"{CLAIMS.name}: {claim['benchmark']} has no row of: {claim['measurement']}")
    return ([row for row in found if row["full_size"]] or found)[-1]


def _section_of(claim: Claim, row: Row) -> str:
    if row["target"] and not row["target"]["met"]:
        return "missed"
    return str(claim.get("kind", "met"))


def _line(claim: Claim, row: Row) -> str:
    also = {
        name: _shown(_value(newest(part), part["figure"]), part.get("as", ""))
        for name, part in (
            (name, {key: claim[key] for key in ("benchmark", "args") if key in claim} | part)
            for name, part in claim.get("also", {}).items()
        )
    }
    benchmark = claim["benchmark"]
    cells = [
        f"[{benchmark}](../benchmarks/results/{benchmark}.md)",
        claim["says"].format(**also),
        _shown(_value(row, claim["figure"]), claim["as"]),
        _spread(claim, row),
        _verdict(claim, row),
        f"`{benchmark}.py {_arguments(row)}`".replace(" `", "`"),
    ]
    return f"| {' | '.join(cells)} |"


def _value(row: Row, figure: str) -> float:
    value = row["figures"][figure]
    return float(value["median"] if isinstance(value, dict) else value)


def _shown(value: float, kind: str) -> str:
    match kind:
        case "%":
            return f"{100 * value:.3g} %"
        case "+":
            return f"{value:+.4f}".replace("-", "−")
        case "s" if value >= 100:
            return f"{value:.0f} s"
        case _:
            return f"{value:,.3g} {kind}".strip() if value < 1000 else f"{value:,.0f} {kind}".strip()


def _spread(claim: Claim, row: Row) -> str:
    """The 95 % interval with p of a difference, or the range over repeats."""
    figures, kind = row["figures"], claim["as"]
    value = figures[claim["figure"]]
    if isinstance(value, dict):
        low, high = value["min"], value["max"]
    elif "low" in figures:
        low, high = figures["low"], figures["high"]
    elif "interval" in figures:
        low, high = figures["interval"]
    else:
        return ""
    shown = "one run" if low == high else f"{_shown(low, kind)} to {_shown(high, kind)}"
    p = figures.get("holm", figures.get("p"))
    p = p["median"] if isinstance(p, dict) else p
    return shown if p is None else f"{shown}, p {p:.2g}"


def _verdict(claim: Claim, row: Row) -> str:
    value, expected = _value(row, claim["figure"]), claim.get("expected")
    if expected and (value > 0) is not (expected == "> 0"):
        return "contradicts the claim"
    target = row["target"]
    if said := row["figures"].get("verdict"):
        return str(said)
    if not target:
        return ""
    limit = re.sub(r"^([<>]=)", lambda sign: {">=": "≥", "<=": "≤"}[sign[0]], target["target"])
    if limit == "≤ 0.05" and "p" in row["figures"]:
        limit = "p ≤ 0.05"
    elif claim["as"] == "%":
        limit = f"{limit[:2]}{100 * float(limit[2:]):g} %"
    return f"met: {limit}" if target["met"] else f"**missed**: {limit}"


def _latest(found: list[Row]) -> dict[str, list[Row]]:
    """Returns the rows of the last run of each command: those of full size, if there are any."""
    groups: dict[str, dict[str, Row]] = {}
    for row in [row for row in found if row["full_size"]] or found:
        groups.setdefault(_arguments(row), {})[row["measurement"]] = row
    return {
        command: [row for row in named.values() if _run(row) == _run(list(named.values())[-1])]
        for command, named in groups.items()
    }


def _run(row: Row) -> str:
    """Returns what all rows of one process share and those of another hardly do."""
    return f"{row['date'][:10]} {row['machine']['load_before']}"


def _arguments(row: Row) -> str:
    """Returns a command's arguments, without where it worked and how often."""
    kept, skip = [], False
    for word in row["command"].split()[2:]:
        if not skip and word not in _ASIDE:
            kept.append(word)
        skip = word in _ASIDE
    return " ".join(kept)


def _section(command: str, found: list[Row]) -> str:
    last = found[-1]
    machine = last["machine"]
    changed = "-dirty" if last["commit"].endswith("-dirty") else ""
    lines = [
        f"`python benchmarks/{command}`: {last['date'][:10]}, commit {last['commit'][:12]}{changed}, "
        f"{machine['processor']}, {machine['cores']} cores, load before {machine['load_before']:g}"
        + (".\n" if last["full_size"] else "; a trial.\n"),
        "| measurement | figures | target | |",
        "| --- | --- | --- | --- |",
    ]
    for row in found:
        target = row["target"]
        reached = [] if target is None else [f"{target['target']}", "met" if target["met"] else "missed"]
        cells = [row["measurement"], _figures(row["figures"]), *(reached or ["", ""])]
        lines.append(f"| {' | '.join(cells)} |")
    notes = dict.fromkeys(row["note"] for row in found if row["note"])
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
    """Writes the pages, or with --check says which of them is not current."""
    wanted = pages()
    stale = set(ROWS.glob("*.md")) - set(wanted)
    if "--check" not in sys.argv[1:]:
        for page in stale:
            page.unlink()
        for page, content in wanted.items():
            page.write_text(content, "utf-8")
        return 0
    for page, content in wanted.items():
        if not page.exists() or page.read_text("utf-8") != content:
            stale.add(page)
    for page in sorted(stale):
        sys.stderr.write(f"{page.relative_to(ROOT)} is not current: run scripts/results_page.py\n")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
