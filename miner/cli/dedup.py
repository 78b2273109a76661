"""`miner dedup`: copies, found and kept as clusters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.numbers import Within
from miner.errors import snippet
from miner.ranges import ABOVE_0

if TYPE_CHECKING:
    from miner.curation.dedup import CopiesReport, DedupReport

_SHARE = Within(ABOVE_0)
_SHOWN = 100
"""Characters of an example."""


@click.command("dedup")
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--threshold", type=_SHARE, default=0.9, show_default=True,
    help="Least share of the words of either text that both must have.",
)  # fmt: skip
@click.option(
    "--punctuation/--no-punctuation", default=False, show_default=True,
    help="Punctuation counts as words do: for code and commands.",
)  # fmt: skip
@click.option("--encoder", help="Link texts with near vectors too: hub id, folder, or bundled.")
@click.option("--cosine", type=_SHARE, default=0.97, show_default=True, help="Least cosine of two vectors.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
def command(store: Path, as_json: bool, **settings: Any) -> None:
    """Find copies among the documents and among the queries of STORE, exact and near.

    Case, the order of the words and, without --punctuation, punctuation do not count. Clusters go into the
    table duplicates, in place of those there were. miner mine then takes a cluster of documents for one:
    a copy of a positive is no negative, and of several copies only the best-ranked is one. What is judged not
    relevant, or has another label, stays a negative however alike.

    \b
    miner dedup my.duckdb
    miner dedup my.duckdb --threshold 0.8 --encoder bundled
    miner dedup commands.duckdb --punctuation
    """
    from miner.curation.dedup import DedupConfig, dedup
    from miner.engine.bars import progress
    from miner.store.database import Store

    config = DedupConfig(**settings)
    with progress() as reports, Store.open(store, note=reports.note) as opened:
        report = dedup(opened, config, reports)
    if as_json:
        click.echo(json.dumps(asdict(report), ensure_ascii=False, indent=1))
        return
    for line in _lines(report):
        click.echo(line)
    click.echo(f"next: miner mine {quote(str(store))}", err=True)


def _lines(report: DedupReport) -> Sequence[str]:
    lines = [*_copies("documents", report.documents), *_copies("queries", report.queries)]
    for one, other, clusters in report.crossings:
        lines.append(
            f"{clusters:,} {'cluster' if clusters == 1 else 'clusters'} of queries stand in splits {one} and "
            f"{other}: a model trained on one has seen the other"
        )
    return lines


def _copies(name: str, copies: CopiesReport) -> list[str]:
    lines = [
        f"{name:<10} {copies.texts:>10,} texts, "
        f"{copies.members:,} of them in {copies.clusters:,} clusters of copies"
    ]
    meanings = {"exact": "the same text", "near": "nearly the same words", "vectors": "near vectors"}
    lines += [f"{number:>21,} {meanings[how]}" for how, number in copies.how.items()]
    for one, other in copies.examples:
        lines.append(f"           such as: {snippet(one, _SHOWN)}")
        lines.append(f"                    {snippet(other, _SHOWN)}")
    return lines
