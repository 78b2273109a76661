"""`miner mine`: retrieves, reranks, decides and selects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from miner.cli.numbers import Within
from miner.cli.options import RUN, Command, Settings
from miner.mining.config import OF_TRAINING, TABLES, MiningConfig, flat, with_values
from miner.published import require_scorer
from miner.ranges import THREADS

CANDIDATES = ("encoder", "vectors", "candidates", "reranker", "bm25", "depth")
RULES = ("relative_margin", "percentile")
SELECTION = ("for", "negatives", "strategy")
RENAMED = {"--anchor": "--set reference_positive=VALUE"}
SETTINGS = Settings(
    TABLES, {"Candidates": CANDIDATES, "Rules": RULES, "Selection": SELECTION}, others=OF_TRAINING
)


@click.command("mine", cls=Command, settings=SETTINGS, renamed={"--run": "--name", **RENAMED})
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--name", panel=RUN, help="Name of the new run [default: r1, r2, …].")
@click.option(
    "--workers", type=Within(THREADS), panel=RUN, help="Worker threads [default: one per processor]."
)
def command(store: Path, name: str | None, workers: int | None, **given: Any) -> None:
    """Mine triplets with hard negatives into STORE.

    BM25, encoders, your vectors and the candidates of other tools find documents; rerankers score them again.
    Positives and their copies are excluded. Rules drop candidates that score too close to the positives,
    because they may be false negatives. The hardest of the others become negatives. Every candidate keeps its
    ranks, scores and reason. The same command after a kill continues where it stopped. --memory SIZE limits
    the memory.

    A rule that you name replaces the default rule, a relative margin of 0.05. `none` turns a rule off. The
    rules in force are printed. There are more rules and settings than options: --set help lists them.

    \b
    miner mine my.duckdb
    miner mine my.duckdb --encoder bundled
    miner mine my.duckdb --encoder bundled --reranker my-reranker --for distillation
    miner mine my.duckdb --encoder bundled --encoder my-splade --candidates run.trec --vectors my-vectors
    miner mine my.duckdb --encoder intfloat/e5-base-v2 --set "query_prompt=query: " \\
        --set "document_prompt=passage: "
    """
    from miner.cli.summary import summarise
    from miner.engine.progress_bars import Lines, progress
    from miner.mining.pipeline import mine
    from miner.store.database import Database

    config = with_values(MiningConfig(), flat(SETTINGS.values(given)))
    require_scorer(given["recipe"], config)
    with Database.open(store, note=Lines().note) as opened:
        with progress() as reports:
            opened.note = reports.note
            run = mine(opened, config, name=name, workers=workers, progress=reports)
        summarise(opened, run)
