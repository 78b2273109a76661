"""`miner silver`: a cross-encoder judges pairs without a judgment."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.options import OUTPUT, Command, Settings, described
from miner.curation.silver_config import SilverConfig
from miner.errors import counted
from miner.ranges import THREADS
from miner.recipe import Setting, by_name
from miner.reporting.tables import percent
from miner.store.silver import QUERIES

if TYPE_CHECKING:
    from miner.curation.silver import SilverReport

ABOUT: dict[str, tuple[click.ParamType[Any] | None, str]] = {
    "split": (click.STRING, "Split of the gold judgments to train on, and of the silver judgments."),
    "reranker": (
        click.STRING,
        "Cross-encoder that judges: hub id, folder, or URL#MODEL. [default: trains one in STORE.reranker]",
    ),
    "encoder": (
        click.STRING,
        "Encoder that finds pairs besides BM25: hub id, folder, bundled, URL#MODEL; none: BM25 alone.",
    ),
    "query_set": (
        click.Choice(QUERIES),
        "Queries with a gold positive in the split, queries without a judgment, or both.",
    ),
    "depth": (None, "Documents that each retriever returns per query."),
    "per_query": (None, "Unjudged pairs to score per query."),
    "positive": (None, "Least score of a silver positive."),
    "negative": (None, "Greatest score of a silver negative."),
    "soft": (click.BOOL, "Make every pair a judgment whose relevance is its score: for --loss cosine."),
    "dtype": (
        click.Choice(["auto", "fp32", "bf16"]),
        "Model precision. auto: bf16 if the hardware supports it, else fp32.",
    ),
}
"""The type and the help of every setting in SilverConfig."""


SETTINGS = Settings(
    {
        "": described(SilverConfig, ABOUT)
        | by_name(Setting("workers", "Worker threads [default: one per processor].", range=THREADS))
    },
    {"Judgments": ("reranker", "soft")},
)


@click.command(
    "silver", cls=Command, settings=SETTINGS, renamed={"--queries": "--set query_set=all|judged|unjudged"}
)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--undo", is_flag=True, panel=OUTPUT, help="Remove all silver judgments from STORE.")
def command(store: Path, undo: bool, **given: Any) -> None:
    """Let a cross-encoder judge pairs in STORE that have no judgment (Augmented SBERT).

    BM25 and an encoder propose pairs, and the cross-encoder, trained on the gold judgments, scores them.
    Pairs at or beyond a threshold become judgments of source `silver`, which replace earlier ones; with
    --soft, all pairs do. Mining and evaluation never read silver judgments. Other thresholds need no new
    scores. After a kill, the same command continues where it stopped.

    \b
    miner silver my.duckdb
    miner silver my.duckdb --reranker my-reranker --set positive=0.8 --set query_set=unjudged
    miner silver my.duckdb --soft
    miner silver my.duckdb --undo
    """
    from miner.engine.progress_bars import Lines
    from miner.store.database import Database

    values = SETTINGS.values(given)[""]
    workers = values.pop("workers", None)
    config = SilverConfig(**values)
    with Database.open(store, note=Lines().note) as opened:
        click.echo(_undone(opened) if undo else _made(opened, config, workers))


def _undone(store: Any) -> str:
    from miner.store.silver import remove_silver

    return f"removed    {counted(remove_silver(store), 'silver judgment')}"


def _made(store: Any, config: SilverConfig, workers: int | None) -> str:
    from miner.curation.silver import silver
    from miner.engine.progress_bars import progress

    with progress() as reports:
        store.note = reports.note
        return summary(silver(store, config, workers=workers, progress=reports), config)


def summary(report: SilverReport, config: SilverConfig) -> str:
    """Returns the report of a pass as text."""
    lines = (_soft if config.soft else _confident)(report, config)
    if report.replaced:
        lines.append(f"replaced   {counted(report.replaced, 'silver judgment')} of an earlier pass")
    if report.not_probabilities:
        lines.append(f"expected   unknown: the scores may not be probabilities ({report.not_probabilities})")
    elif report.positives:
        what = f"pairs from {config.positive:g} on" if config.soft else "positives"
        lines.append(
            f"expected   {percent(report.expected)} of the {what} are relevant, by the reranker's own scores"
        )
    if report.held_out:
        measured = report.held_out
        lines.append(
            f"held out   {measured.positives:,} gold positives of queries that it was not trained on: "
            f"{percent(measured.above)} would be positives, {percent(measured.below)} negatives"
        )
        relevant = "no silver positive for these queries"
        if not isnan(measured.precision):
            relevant = (
                f"at least {percent(measured.precision)} of the positives of these queries are relevant"
            )
        lines.append(f"           {relevant}")
    return "\n".join(lines)


def _confident(report: SilverReport, config: SilverConfig) -> list[str]:
    between = report.pairs - report.positives - report.negatives
    return [
        f"silver     {counted(report.positives, 'positive')} and {counted(report.negatives, 'negative')} in "
        f"split '{config.split}', from {counted(report.pairs, 'unjudged pair')} of "
        f"{counted(report.queries, 'query', 'queries')}",
        f"left out   {counted(between, 'pair')} with a score between {config.negative:g} and "
        f"{config.positive:g}",
    ]


def _soft(report: SilverReport, config: SilverConfig) -> list[str]:
    return [
        f"silver     {counted(report.pairs, 'soft judgment')} in split '{config.split}': the scores of all "
        f"unjudged pairs of {counted(report.queries, 'query', 'queries')}",
        f"           {report.positives:,} score {config.positive:g} or more and would be positives, "
        f"{report.negatives:,} score {config.negative:g} or less and would be negatives",
    ]
