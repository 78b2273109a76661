"""`miner runs diff`: what changed between two runs, and why."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from miner.cli.options import OUTPUT, Command
from miner.errors import shown, snippet

if TYPE_CHECKING:
    from miner.mining.diff import Differences

_SHOWN = 90
"""Characters of an example."""


@click.command("runs diff", cls=Command)
@click.argument("store", type=click.Path(path_type=Path))
@click.argument("before")
@click.argument("after")
@click.option("--json", "as_json", is_flag=True, panel=OUTPUT, help="Print JSON instead of the table.")
def command(store: Path, before: str, after: str, as_json: bool) -> None:
    """Show what changed from run BEFORE to run AFTER in STORE, and why.

    Lists the differences in settings, data and models; how many triplets, positives and negatives are new or
    gone; and what became of the negatives that are gone, with an example each.

    \b
    miner runs diff my.duckdb r1 r2
    miner runs diff my.duckdb r1 strict --json
    """
    from miner.mining.diff import differences
    from miner.store.database import Database

    with Database.open(store, read_only=True) as opened, opened.snapshot():
        changed = differences(opened, before, after)
    if as_json:
        click.echo(json.dumps(asdict(changed), ensure_ascii=False, indent=1))
        return
    for line in _lines(changed):
        click.echo(line)


def _lines(changed: Differences) -> list[str]:
    lines = [
        f"{changed.before} → {changed.after}",
        *(f"  {cause}" for cause in changed.causes or ["nothing differs"]),
    ]
    lines.append(f"triplets   {_counts(changed.triplets)}")
    lines.append(f"positives  {_counts(changed.positives)}")
    gone = sum(one.number for one in changed.moved if one.before == "negative")
    new = sum(one.number for one in changed.moved if one.after == "negative")
    lines.append(f"negatives  {_counts({'both': changed.same_negatives, 'gone': gone, 'new': new})}")
    for one in changed.moved:
        lines.append(f"{one.number:>10,} {_named(one.before)} → {_named(one.after)}, such as")
        lines.append(f"           {shown(one.query_id)}: {snippet(one.query, _SHOWN)}")
        lines.append(f"           {shown(one.doc_id)}: {snippet(one.document, _SHOWN)}")
    return lines


def _counts(counts: dict[str, int]) -> str:
    return f"{counts['both']:,} in both, {counts['gone']:,} gone, {counts['new']:,} new"


def _named(outcome: str) -> str:
    if outcome in ("negative", "no candidate"):
        return outcome
    return "kept, not needed" if outcome == "kept" else f"dropped ({outcome})"
