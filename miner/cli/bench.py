"""`miner bench`: does training on hard negatives pay, and which ones?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import rich_click as click

from miner.cli.numbers import Within
from miner.cli.options import field_options
from miner.cli.train import OPTIONS
from miner.errors import printable
from miner.ranges import COUNT, ROW_NEGATIVES, SEEDS
from miner.training.encoder_config import EncoderConfig
from miner.workflows.bench_config import FITTING, BenchConfig, parse_sizes

_LEFT_OUT = ("evaluations", "patience")
_TRAINING = {name: about for name, about in OPTIONS.items() if name not in _LEFT_OUT}
_TRAINING["loss"] = (click.Choice(list(FITTING)), "What the models are to learn; see docs/training.md.")


@click.command("bench")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", help="Run whose positives all arms train on [default: the last].")
@click.option(
    "--arms", metavar="ARM,…",
    help="Of in-batch, easy, bm25, hard, hard-filtered, and run:NAME [default: all but runs].",
)  # fmt: skip
@click.option(
    "--sizes", metavar="N,… | ARM=N,…",
    help="Triplets, for learning curves or per arm [default: a quarter, a half and all, 10,000 at most].",
)  # fmt: skip
@click.option("--seeds", type=Within(SEEDS), default=3, show_default=True, help="Trainings of each arm.")
@click.option(
    "--negatives", type=Within(ROW_NEGATIVES), default=1, show_default=True, help="Negatives per row."
)
@click.option(
    "--split", default="test", show_default=True, help="Split to measure on; choose settings on dev."
)
@click.option("--queries", type=Within(COUNT), help="Measure only on so many queries [default: all].")
@click.option("--documents", type=Within(COUNT), help="Rank only so many documents [default: all].")
@field_options(EncoderConfig(), _TRAINING)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results [default: STORE.bench].")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
def command(
    store: Path, run: str | None, arms: str | None, sizes: str | None, seeds: int, negatives: int, split: str,
    queries: int | None, documents: int | None, out: Path | None, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Train on easy and on hard negatives of STORE, several times each, and say which is ahead.

    The arms have the same positives in the same order, the same steps and seeds; only the negatives
    differ. Each pair of arms gets its difference, a bootstrap interval, the p value of a paired
    randomisation test, and a verdict. OUT gets the table, a chart of the learning curves (PNG, SVG)
    and results.json. Started again, the same command repeats no finished training.

    \b
    miner bench my.duckdb
    miner bench my.duckdb --base scratch --split dev --sizes 1000,5000
    miner bench my.duckdb --arms easy,hard-filtered,run:strict --seeds 5
    miner bench my.duckdb --sizes easy=100000,hard-filtered=10000
    """
    from miner.engine.bars import progress
    from miner.workflows import bench_report
    from miner.workflows.bench import bench, default_out

    config = BenchConfig(
        run=run,
        arms=tuple(name.strip() for name in arms.split(",")) if arms else (),
        sizes=parse_sizes(sizes),
        seeds=seeds,
        negatives=negatives,
        split=split,
        queries=queries,
        documents=documents,
        training=EncoderConfig(**settings, evaluations=0),
    )
    folder = out or default_out(store)
    with progress() as reports:
        report = bench(store, folder, config, reports)
    if bench_report.replaces(report, folder):
        click.echo(
            f"{folder} held a report of other settings: its command makes it again and trains nothing",
            err=True,
        )
    bench_report.write(report, folder)
    if as_json:
        click.echo(json.dumps(bench_report.as_json(report, False), indent=1))
    else:
        click.echo(printable(bench_report.table(report), keep="\n"))
    click.echo(f"\nchart and results: {folder}", err=True)
