"""`miner mine`: retrieves, reranks, decides and selects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from miner.cli.numbers import Within
from miner.cli.options import config_options, given
from miner.mining.config import MiningConfig, Rules, Selection, with_values
from miner.ranges import THREADS


@click.command("mine")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", "name", help="Name of the run, for the other commands [default: r1, r2, …].")
@click.option("--workers", type=Within(THREADS), help="Worker threads [default: one per processor].")
@config_options(MiningConfig, Rules, Selection)
def command(store: Path, name: str | None, workers: int | None, recipe: Path | None, **flags: Any) -> None:
    """Mine triplets with hard negatives into STORE.

    BM25 and, with --encoder, dense search find candidates; --reranker scores them again. Positives and their
    copies are excluded. Rules drop candidates that score too close to the positives, because they may be
    false negatives. The hardest of the others become negatives. Every candidate keeps its ranks, scores and
    reason. The same command after a kill continues where it stopped.

    Naming a rule (--skip-top to --relative-percentile) replaces the default rule, a relative margin of
    0.05. `off` turns a rule off. The rules in force are printed.

    \b
    miner mine my.duckdb
    miner mine my.duckdb --encoder bundled
    miner mine my.duckdb --encoder bundled --reranker my-reranker --percentile 5
    miner mine my.duckdb --encoder intfloat/e5-base-v2 --query-prompt "query: " --document-prompt "passage: "
    """
    from miner.cli.summary import summarise
    from miner.engine.bars import Lines, progress
    from miner.mining.pipeline import mine
    from miner.store.database import Store

    config = with_values(MiningConfig(), given(recipe, flags))
    with Store.open(store, note=Lines().note) as opened:
        with progress() as reports:
            opened.note = reports.note
            run = mine(opened, config, name=name, workers=workers, progress=reports)
        summarise(opened, run)
