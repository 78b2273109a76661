"""`miner silver`: judgments by a cross-encoder for pairs that nobody judged."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.numbers import Within
from miner.cli.options import field_options
from miner.curation.silver_config import SilverConfig
from miner.ranges import THREADS
from miner.store.silver import QUERIES

if TYPE_CHECKING:
    from miner.curation.silver import SilverReport

_OPTIONS: dict[str, tuple[click.ParamType[Any] | None, str]] = {
    "split": (click.STRING, "Split of the gold judgments to learn from, and of the silver ones."),
    "reranker": (
        click.STRING,
        "Cross-encoder that judges: hub id or folder [default: one is trained, in STORE.reranker].",
    ),
    "encoder": (click.STRING, "Finds pairs together with BM25: hub id, folder, bundled; none: BM25 alone."),
    "queries": (
        click.Choice(QUERIES),
        "Queries with gold positives in the split, without judgments, or both.",
    ),
    "depth": (None, "Documents that each retriever returns per query."),
    "per_query": (None, "Unjudged pairs scored per query."),
    "positive": (None, "Least score of a silver positive."),
    "negative": (None, "Greatest score of a silver negative."),
    "soft": (click.BOOL, "Make every pair a judgment, its score the relevance: for --loss cosine."),
    "dtype": (click.Choice(["auto", "fp32", "bf16"]), "Numbers to compute in; auto: bf16 where it is fast."),
}
"""Every field of SilverConfig, with what it may be and what it means."""


@click.command("silver")
@click.argument("store", type=click.Path(path_type=Path))
@field_options(SilverConfig(), _OPTIONS)
@click.option("--workers", type=Within(THREADS), help="Worker threads [default: one per processor].")
@click.option("--undo", is_flag=True, help="Remove all silver judgments from STORE.")
def command(store: Path, workers: int | None, undo: bool, **settings: Any) -> None:
    """Have a cross-encoder judge pairs in STORE that nobody judged (Augmented SBERT).

    BM25 and an encoder propose pairs; the cross-encoder, trained on the gold judgments, scores them;
    what it is sure of goes into STORE as judgments of source `silver`, in the place of earlier ones,
    with --soft every score. Other thresholds cost no scoring. Mining and evaluation never read silver
    judgments. Started again after a kill, the same command goes on where it stopped.

    \b
    miner silver my.duckdb
    miner silver my.duckdb --reranker my-reranker --positive 0.8 --queries unjudged
    miner silver my.duckdb --soft
    miner silver my.duckdb --undo
    """
    from miner.engine.bars import Lines
    from miner.store.database import Store

    with Store.open(store, note=Lines().note) as opened:
        click.echo(_undone(opened) if undo else _made(opened, SilverConfig(**settings), workers))


def _undone(store: Any) -> str:
    from miner.store.silver import remove_silver

    return f"removed    {remove_silver(store):,} silver judgments"


def _made(store: Any, config: SilverConfig, workers: int | None) -> str:
    from miner.curation.silver import silver
    from miner.engine.bars import progress

    with progress() as reports:
        store.note = reports.note
        return summary(silver(store, config, workers=workers, progress=reports), config)


def summary(report: SilverReport, config: SilverConfig) -> str:
    """Returns what a pass did, for people."""
    lines = (_soft if config.soft else _sure)(report, config)
    if report.replaced:
        lines.append(f"replaced   {report.replaced:,} silver judgments of an earlier pass")
    if report.uncalibrated:
        lines.append(f"expected   not known: scores may be no probabilities ({report.uncalibrated})")
    elif report.positives:
        what = f"pairs from {config.positive:g} on" if config.soft else "positives"
        lines.append(f"expected   {report.expected:.1%} of the {what} are right, says the reranker itself")
    if report.held_out:
        held = report.held_out
        lines.append(
            f"held out   of {held.positives:,} gold positives whose queries it never trained on, "
            f"{held.above:.1%} would be positives, {held.below:.1%} negatives"
        )
        right = "nothing is called positive there"
        if not isnan(held.precision):
            right = f"of what it calls positive there, at least {held.precision:.1%} is right"
        lines.append(f"           {right}")
    return "\n".join(lines)


def _sure(report: SilverReport, config: SilverConfig) -> list[str]:
    between = report.pairs - report.positives - report.negatives
    return [
        f"silver     {report.positives:,} positives and {report.negatives:,} negatives in split "
        f"'{config.split}', of {report.pairs:,} unjudged pairs of {report.queries:,} queries",
        f"left out   {between:,} pairs that score between {config.negative:g} and {config.positive:g}",
    ]


def _soft(report: SilverReport, config: SilverConfig) -> list[str]:
    return [
        f"silver     {report.pairs:,} soft judgments in split '{config.split}', the scores of all unjudged "
        f"pairs of {report.queries:,} queries",
        f"           {report.positives:,} are {config.positive:g} or more and would be positives, "
        f"{report.negatives:,} are {config.negative:g} or less and would be negatives",
    ]
