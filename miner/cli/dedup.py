"""`miner dedup`: find copies and store them as clusters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.options import OUTPUT, Command, Settings
from miner.errors import counted, snippet
from miner.ranges import ABOVE_0
from miner.recipe import Setting, by_name

if TYPE_CHECKING:
    from miner.curation.dedup import CopiesReport, DedupReport

_SHOWN = 100
"""Characters of an example."""


SETTINGS = Settings(
    {
        "": by_name(
            Setting("threshold", "Least Jaccard similarity of the words of near copies.", 0.9, range=ABOVE_0),
            Setting("punctuation", "Count punctuation like words: for code and commands.", False, bool),
            Setting(
                "encoder",
                "Find copies by their vectors too: hub id, folder, bundled, or URL#MODEL.",
                may_be_none=True,
            ),
            Setting("cosine", "Least cosine of the vectors of two copies.", 0.97, range=ABOVE_0),
        )
    },
    {"Copies": ("encoder",)},
)


@click.command("dedup", cls=Command, settings=SETTINGS)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, panel=OUTPUT, help="Print JSON instead of the table.")
def command(store: Path, as_json: bool, **given: Any) -> None:
    """Find exact and near copies among the documents and among the queries of STORE.

    Case, word order and punctuation do not count. The clusters replace those in the table duplicates. miner
    mine then treats a cluster of documents as one: copies of a positive are excluded, and only the
    best-ranked of several copies can be a negative. Documents that are judged not relevant, or have another
    label, can be negatives even if they are copies.

    \b
    miner dedup my.duckdb
    miner dedup my.duckdb --encoder bundled --set threshold=0.8
    miner dedup commands.duckdb --set punctuation=true
    """
    from miner.curation.dedup import DedupConfig, dedup
    from miner.engine.progress_bars import progress
    from miner.store.corpus import next_command
    from miner.store.database import Database

    config = DedupConfig(**SETTINGS.values(given)[""])
    with progress() as reports, Database.open(store, note=reports.note) as opened:
        report = dedup(opened, config, reports)
        following = next_command(opened)
    if as_json:
        click.echo(json.dumps(asdict(report), ensure_ascii=False, indent=1))
        return
    for line in _lines(report):
        click.echo(line)
    click.echo(f"next: {following}", err=True)


def _lines(report: DedupReport) -> Sequence[str]:
    lines = [*_copies("documents", report.documents), *_copies("queries", report.queries)]
    for one, other, clusters in report.crossings:
        lines.append(
            f"{counted(clusters, 'cluster')} of queries in both splits {one} and {other}: a model trained on "
            "one has seen queries of the other"
        )
    return lines


def _copies(name: str, copies: CopiesReport) -> list[str]:
    lines = [
        f"{name:<10} {copies.texts:>10,} texts, "
        f"{copies.members:,} of them in {counted(copies.clusters, 'cluster')} of copies"
    ]
    meanings = {"exact": "the same text", "near": "nearly the same words", "vectors": "near vectors"}
    lines += [f"{number:>21,} {meanings[how]}" for how, number in copies.how.items()]
    for one, other in copies.examples:
        lines.append(f"           such as: {snippet(one, _SHOWN)}")
        lines.append(f"                    {snippet(other, _SHOWN)}")
    return lines
