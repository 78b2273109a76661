"""`miner tune`: finds the negatives that train best."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import rich_click as click

from miner.cli.bench import TRAINING
from miner.cli.options import OUTPUT, RUN, Command, Settings, described
from miner.errors import printable
from miner.ranges import COUNT, SEEDS, whole
from miner.recipe import Setting, by_name
from miner.training.encoder_config import EncoderConfig
from miner.workflows.bench_config import MOST
from miner.workflows.tune_config import TuneConfig, parse_budget

_OWN = (
    Setting(
        "budget",
        "Most time of the trainings, such as 30m or 2h; less is fewer arms and rows [default: no limit].",
        convert=parse_budget,
        metavar="TIME",
    ),
    Setting("rows", "Most triplets of a training of the final.", MOST, range=COUNT),
    Setting("seeds", "Trainings of each arm of the final.", 3, range=SEEDS),
    Setting("arms", "Most settings to compare, besides the baselines.", 16, range=whole(1, 256)),
    Setting("finalists", "Settings that reach the final, besides the baselines.", 2, range=whole(1, 64)),
    Setting("dev_split", "Split that chooses; never test.", "dev"),
    Setting("queries", "Measure on this many queries, drawn with the seed.", 500, range=COUNT),
    Setting("documents", "Retrieval: rank only this many documents.", 5000, range=COUNT),
)
_WORK = Setting("work", "Folder of finished trainings [default: STORE.tune].", metavar="FOLDER")
_NAMES = [setting.name for setting in _OWN]
SETTINGS = Settings(
    {"": by_name(*_OWN, _WORK) | described(EncoderConfig, TRAINING)},
    {"Comparison": ("budget",), "Training": ("base",)},
)


@click.command("tune", cls=Command, settings=SETTINGS)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", panel=RUN, help="Run whose evidence the settings decide over [default: the last].")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), panel=OUTPUT,
    help="Write the choice to this TOML recipe.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, panel=OUTPUT, help="Print JSON instead of the table.")
def command(store: Path, run: str | None, out: Path | None, as_json: bool, **given: Any) -> None:
    """Find the negatives of STORE that train best: rules, strategy, depth and number, by short trainings.

    Rules from calibrate's frontier are crossed with strategies, depths and negatives per row. All train
    shortly; the better half, by the dev split, trains for twice as long, and so on. The last ones train with
    several seeds against the default rules, easy and in-batch negatives, and the highest mean is the choice.
    No test query is read. The same command again repeats no finished training.

    \b
    miner tune my.duckdb --out tuned.toml --budget 30m
    miner tune my.duckdb --run r1 --base scratch --set rows=5000
    miner decide my.duckdb --run r1 --config tuned.toml --name tuned
    miner train my.duckdb my-model --run tuned --config tuned.toml
    """
    from miner.engine.progress_bars import progress
    from miner.workflows import tune_report
    from miner.workflows.tune import default_work, tune

    values = SETTINGS.values(given)[""]
    work = Path(values.pop("work")) if "work" in values else default_work(store)
    own = {name: values.pop(name) for name in _NAMES if name in values}
    config = TuneConfig(run=run, training=EncoderConfig(evaluations=0, **values), **own)
    if out is not None:
        tune_report.require_writable(out)
    with progress() as reports:
        report = tune(store, work, config, reports)
    if out is not None:
        tune_report.write_recipe(report, out)
    if as_json:
        click.echo(json.dumps(tune_report.as_json(report), ensure_ascii=False, indent=1))
    else:
        click.echo(printable(tune_report.table(report), keep="\n"))
    for line in tune_report.next_commands(report, str(store), str(out) if out else None):
        click.echo(line, err=True)
