"""`miner bench`: compares trainings on easy and on hard negatives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import rich_click as click

from miner.cli.options import OUTPUT, RUN, Command, Settings, described
from miner.cli.train import ABOUT
from miner.errors import printable
from miner.ranges import COUNT, ROW_NEGATIVES, SEEDS
from miner.recipe import Setting, by_name
from miner.training.encoder_config import EncoderConfig
from miner.workflows.bench_config import FITTING, BenchConfig, parse_sizes

_LEFT_OUT = ("evaluations", "patience", "epoch_positives", "teacher_temperature")
TRAINING = {name: about for name, about in ABOUT.items() if name not in _LEFT_OUT}
TRAINING["loss"] = (
    click.Choice(list(FITTING)),
    "Training objective. mnr, cached-mnr (large batches), gist and cached-gist (with a guide) rank the "
    "positive above the batch, triplet above one negative.",
)
"""The options of trainings on negatives that are compared after their last step."""


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


_ARMS = "in-batch, easy, bm25, hard, hard-filtered, run:NAME [default: all but runs]."
_SIZES = "Triplets of all arms, or of one [default: a quarter, a half and all, at most 10,000]."
_OFF_THE_SHELF = "Encoder to measure as it is [default: for base scratch, the run's]."
_OWN = (
    Setting("arms", _ARMS, convert=_names, metavar="ARM,…"),
    Setting("sizes", _SIZES, convert=parse_sizes, metavar="N,… | ARM=N,…"),
    Setting("seeds", "Trainings per arm.", 3, range=SEEDS),
    Setting("negatives_per_row", "Negatives in each row of the training data.", 1, range=ROW_NEGATIVES),
    Setting("split", "Split to measure on; choose settings on dev.", "test"),
    Setting("queries", "Measure on this many queries, drawn with the seed [default: all].", range=COUNT),
    Setting("documents", "Rank only this many documents [default: all].", range=COUNT),
    Setting("off_the_shelf", _OFF_THE_SHELF, metavar="ENCODER"),
)
_NAMES = [setting.name for setting in _OWN]
SETTINGS = Settings(
    {"": by_name(*_OWN) | described(EncoderConfig, TRAINING)},
    {"Comparison": ("arms", "sizes", "split"), "Training": ("base",)},
)


@click.command("bench", cls=Command, settings=SETTINGS)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", panel=RUN, help="Run whose positives all arms train on [default: the last].")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    panel=OUTPUT,
    help="Folder of the results [default: STORE.bench].",
)
@click.option("--json", "as_json", is_flag=True, panel=OUTPUT, help="Print JSON instead of the table.")
def command(store: Path, run: str | None, out: Path | None, as_json: bool, **given: Any) -> None:
    """Train on easy and on hard negatives of STORE, several times each, and report which trains better.

    The arms have the same positives in the same order, the same steps and seeds; only the negatives differ.
    Each pair of arms gets its difference, a bootstrap interval, the p value of a paired randomisation test,
    and a verdict. The table, a chart of the learning curves (PNG, SVG) and results.json are written to OUT.
    The same command again repeats no finished training.

    \b
    miner bench my.duckdb
    miner bench my.duckdb --base scratch --split dev --sizes 1000,5000
    miner bench my.duckdb --arms easy,hard-filtered,run:strict --set seeds=5
    miner bench my.duckdb --sizes easy=100000,hard-filtered=10000
    """
    from miner.engine.progress_bars import progress
    from miner.workflows import bench_report
    from miner.workflows.bench import bench, default_out

    values = SETTINGS.values(given)[""]
    own = {name: values.pop(name) for name in _NAMES if name in values}
    config = BenchConfig(run=run, training=EncoderConfig(evaluations=0, **values), **own)
    folder = out or default_out(store)
    with progress() as reports:
        report = bench(store, folder, config, reports)
    if bench_report.replaces(report, folder):
        click.echo(
            f"{folder} had a report of other settings; its own command writes it again without training",
            err=True,
        )
    bench_report.write(report, folder)
    if as_json:
        click.echo(json.dumps(bench_report.as_json(report, False), indent=1))
    else:
        click.echo(printable(bench_report.table(report), keep="\n"))
    click.echo(f"\nchart and results: {folder}", err=True)
