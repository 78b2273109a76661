#!/usr/bin/env python3
"""Writes docs/results.md and the figures of other pages from benchmarks/claims.toml, and all rows as tables.

usage: results_page.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from scipy.stats import binomtest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"
ROWS = ROOT / "benchmarks" / "results"
CLAIMS = ROOT / "benchmarks" / "claims.toml"
MOST_CLAIMS = 25
WIDTH = 120
"""Columns of a passage."""
HEAD = """# Results

What the benchmarks showed when they last ran at their full size: missed targets first, then losses, then
the rest. `scripts/results_page.py` writes this page: the sentences come from `benchmarks/claims.toml`, every
figure from the newest row of `benchmarks/results/`. The first column leads to all figures of a benchmark,
with date, commit and machine. A range is the least and greatest of the repeats; a 95 % interval is over
queries; p is that of a paired randomisation test, corrected (Holm) if several arms are compared. The verdict
compares the figure with its target; without one it says whether the difference is shown. Commands run in the
checkout, with `python benchmarks/` before them. [Benchmarks](../benchmarks/README.md) says how they measure.
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
    """Returns the content of every page that this script writes, or writes figures into."""
    tables = {}
    for file in sorted(ROWS.glob("*.jsonl")):
        if groups := _latest(rows(file.stem)):
            head = f"# {file.stem}\n\nWritten by `scripts/results_page.py` from `{file.name}`.\n"
            script = file.stem.removesuffix("-dev")
            sections = [_section(f"{script}.py {given}".strip(), group) for given, group in groups.items()]
            tables[file.with_suffix(".md")] = "\n".join([head, *sections])
    return {PAGE: results(), **passages(), **tables}


@cache
def rows(benchmark: str) -> list[Row]:
    """Returns all rows of a benchmark, oldest first."""
    return [json.loads(line) for line in (ROWS / f"{benchmark}.jsonl").read_text("utf-8").splitlines()]


def _claims() -> dict[str, list[Claim]]:
    return tomllib.loads(CLAIMS.read_text("utf-8"))


def results() -> str:
    """Returns docs/results.md."""
    claims = _claims()["claim"]
    if len(claims) > MOST_CLAIMS:
        raise SystemExit(f"{CLAIMS.name} has {len(claims)} claims; the page is for {MOST_CLAIMS}")
    lines: dict[str, list[str]] = {section: [] for section in SECTIONS}
    for claim in claims:
        row = newest(claim)
        section = "missed" if _limit(claim, row)[1] is False else str(claim.get("kind", "met"))
        lines[section].append(_line(claim, row))
    parts = [HEAD]
    for section, title in SECTIONS.items():
        if lines[section]:
            parts.append(f"{title}\n\n| | claim | figure | range or interval | verdict | repeat |")
            parts[-1] += "\n| --- | --- | ---: | --- | --- | --- |\n" + "\n".join(lines[section]) + "\n"
    return "\n".join(parts)


def passages() -> dict[Path, str]:
    """Returns the pages with passages, each passage with today's figures.

    A passage replaces the paragraph or the table row of its page that begins as it does, up to its first
    figure. Raises SystemExit if that is not exactly one.
    """
    found: dict[Path, str] = {}
    for passage in _claims().get("passage", []):
        page = ROOT / passage["page"]
        content = found.get(page) or page.read_text("utf-8")
        start = passage["says"].partition("{")[0]
        blocks = [block for block in _blocks(content) if " ".join(block.split()).startswith(start)]
        if len(blocks) != 1:
            raise SystemExit(f"{passage['page']} has {len(blocks)} passages that begin with: {start}")
        says = passage["says"].format(**_also(passage))
        if not says.startswith("|"):
            says = textwrap.fill(says, WIDTH, break_long_words=False, break_on_hyphens=False)
        found[page] = content.replace(blocks[0], says)
    return found


def _blocks(content: str) -> list[str]:
    """Returns the paragraphs and the table rows of a page."""
    paragraphs = [paragraph.strip("\n") for paragraph in re.split(r"\n\s*\n", content)]
    return [
        block
        for paragraph in paragraphs
        for block in (paragraph.splitlines() if paragraph.startswith("|") else [paragraph])
    ]


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


class Figure(NamedTuple):
    """A figure as pages show it: in a claim `{name}`, `{name.interval}` or `{name.p}`."""

    value: str
    interval: str
    p: str

    def __str__(self) -> str:
        return self.value

    @classmethod
    def of(cls, claim: Claim, row: Row) -> Figure:
        """Returns the figure of a claim. The interval is a range over repeats if there are repeats."""
        kind, p = claim.get("as", ""), row["figures"].get("holm", row["figures"].get("p"))
        p = p["median"] if isinstance(p, dict) else p
        ends = _ends(claim, row)
        shown = "" if ends is None else " to ".join(_shown(end, kind) for end in ends)
        if ends is not None and ends[0] == ends[1]:
            shown = "one run"
        value = _shown(_value(row, claim["figure"]), kind)
        return cls(value, shown, "" if p is None else f"{p:.2g}")


def _also(claim: Claim) -> dict[str, Figure]:
    """Returns the further figures of a claim by their names; each has the claim's benchmark and arguments."""
    shared = {key: claim[key] for key in ("benchmark", "args") if key in claim}
    parts = {name: shared | part for name, part in claim.get("also", {}).items()}
    return {name: Figure.of(part, newest(part)) for name, part in parts.items()}


def _line(claim: Claim, row: Row) -> str:
    benchmark, figure = claim["benchmark"], Figure.of(claim, row)
    verdict = _verdict(claim, row)
    if not figure.interval or not verdict:
        raise SystemExit(f"{CLAIMS.name}: a claim without an interval or a verdict: {claim['says']}")
    cells = [
        f"[{benchmark}](../benchmarks/results/{benchmark}.md)",
        claim["says"].format(**_also(claim)),
        figure.value,
        f"{figure.interval}, p {figure.p}" if figure.p else figure.interval,
        verdict,
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
        case "rate":
            return f"{value:.3f}"
        case "s" if value >= 100:
            return f"{value:.0f} s"
        case _:
            return f"{value:,.3g} {kind}".strip() if value < 1000 else f"{value:,.0f} {kind}".strip()


def _ends(claim: Claim, row: Row) -> tuple[float, float] | None:
    """The range over repeats, or the 95 % interval of the row, or that of a share of so many queries."""
    figures, name = row["figures"], claim["figure"]
    value = figures[name]
    if isinstance(value, dict):
        return value["min"], value["max"]
    if "low" in figures:
        return figures["low"], figures["high"]
    low_high = figures.get(f"{name}_interval", figures.get("interval"))
    if low_high is None and "queries" in claim:
        size = claim["queries"]
        found = binomtest(round(value * size), size).proportion_ci(method="exact")
        return found.low, found.high
    return None if low_high is None else tuple(low_high)


def _limit(claim: Claim, row: Row) -> tuple[str, bool | None]:
    """Returns what the figure should reach, from the row's target or its settings, and whether it does."""
    if target := row["target"]:
        limit = re.sub(r"^([<>]=)", lambda sign: {">=": "≥", "<=": "≤"}[sign[0]], target["target"])
        if limit == "≤ 0.05" and "p" in row["figures"]:
            limit = "p ≤ 0.05"
        elif claim["as"] == "%":
            limit = f"{limit[:2]}{100 * float(limit[2:]):g} %"
        return limit, bool(target["met"])
    if "at_most" in claim:
        most = float(row["settings"][claim["at_most"]])
        return f"≤ {_shown(most, claim['as'])}", _value(row, claim["figure"]) <= most
    return "", None


def _verdict(claim: Claim, row: Row) -> str:
    value, expected = _value(row, claim["figure"]), claim.get("expected")
    if expected and (value > 0) is not (expected == "> 0"):
        return "contradicts the claim"
    if said := row["figures"].get("verdict"):
        return str(said)
    limit, is_met = _limit(claim, row)
    if is_met is not None:
        return f"met: {limit}" if is_met else f"**missed**: {limit}"
    ends = _ends(claim, row) or (value, value)
    if "below" in claim:
        below = claim | claim["below"]
        other = _ends(below, newest(below))
        return "shown: the intervals are apart" if other and ends[1] < other[0] else "no difference shown"
    if expected:
        return "shown: p ≤ 0.05" if float(Figure.of(claim, row).p or 1) <= 0.05 else "no difference shown"
    return ""


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
