"""`miner calibrate`: chooses the rules that meet a target false-negative or hidden-positive rate."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import Any

import rich_click as click

from miner.auditing.config import SCORERS, CalibrationConfig
from miner.cli.numbers import Within
from miner.cli.options import OUTPUT, RUN, Command, Described, Settings, described
from miner.errors import UsageError, listed, printable
from miner.ranges import BELOW_1

_TARGET = 0.02


_HIDING: Described = {
    "repeats": (None, "How often to draw, with each share of hidden positives."),
    "seed": (None, "Seed of the draws."),
    "scorers": (
        click.Choice(SCORERS),
        "Try the rules on the scores of the run's own scorer and the best of the others, of all scorers, or "
        "of its own alone.",
    ),
    "use_labels": (click.BOOL, "Let the labels of the run decide, if it has some (miner audit --labels)."),
    "allow_rank_window": (
        click.BOOL,
        "Try rank windows without labels. They drop known positives, which rank high, and keep others.",
    ),
}
SETTINGS = Settings({"": described(CalibrationConfig, _HIDING)}, {})
_RENAMED = {"--target-leak": "--target", "--keep-yield": "--keep-coverage"}


@click.command("calibrate", cls=Command, settings=SETTINGS, renamed=_RENAMED)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", "name", panel=RUN, help="The run whose evidence to calibrate on [default: the last].")
@click.option(
    "--target", type=Within(BELOW_1), panel="Target",
    help="Highest false-negative rate by labels, or without labels highest hidden-positive rate "
    f"[default: {_TARGET:g}, 2 %].",
)  # fmt: skip
@click.option(
    "--keep-coverage", is_flag=True, panel="Target",
    help="Instead of a target: the lowest rate at the coverage of the run's own rules.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), panel=OUTPUT,
    help="Write the chosen rules to this TOML recipe, and charts of the sweep beside it as .png and .svg.",
)  # fmt: skip
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    panel=OUTPUT,
    help="Print JSON instead of the tables, with every setting of the sweep.",
)
def command(
    store: Path, name: str | None, target: float | None, keep_coverage: bool, out: Path | None,
    as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Find the rules of a run in STORE with few false negatives: by labels, else by hidden positives.

    Tries every rule over a range of its parameter, on stored evidence, and chooses the setting with the most
    and hardest negatives that meets the target. No model runs.

    If the run has several scorers, it reports which one separates hidden positives best, and tries the rules
    on the scores of that one and of the run's own (--set scorers=all: of all). The chosen rules name the
    scorer with decide_by if it is not the run's own.

    If the run has labels (miner audit --labels), the target is a false-negative rate: the labels predict the
    rate of each setting, and the choice is confirmed if its whole interval meets the target.

    Without labels the target is a hidden-positive rate, which compares rules and is not the share of relevant
    documents among the negatives. Known positives are hidden as in miner audit: 30 %, 60 %, and all but one
    of each query's, several times each, and the highest of these rates counts. Half of the queries chooses;
    the choice is confirmed if its whole interval on the other half meets the target. It is stored in STORE:
    later audits of these rules report that their rate is optimistic.

    \b
    miner calibrate my.duckdb --run r1 --target 0.01 --out strict.toml
    miner decide my.duckdb --run r1 --config strict.toml --name strict
    miner calibrate my.duckdb --run r1 --keep-coverage
    miner calibrate my.duckdb --run r1 --set repeats=20 --json
    """
    from miner.auditing.calibrate import calibrate
    from miner.auditing.report import calibration_table, require_writable, write_recipe
    from miner.engine.progress_bars import progress
    from miner.store.database import Database
    from miner.store.labels import runs_with_labels
    from miner.store.runs import find_run, staleness

    config = CalibrationConfig(**SETTINGS.values(given)[""])
    if keep_coverage and target is not None:
        raise UsageError("--target and --keep-coverage exclude each other", "leave one out")
    if target is None and not keep_coverage:
        target = _TARGET
    if out is not None:
        require_writable(out)
    with progress() as reports, Database.open(store, note=reports.note) as opened:
        run = find_run(opened, name)
        if stale := staleness(opened, run):
            reports.note(stale)
        calibration = calibrate(opened, run, target, config, reports)
        others = [] if calibration.labels or not config.use_labels else runs_with_labels(opened)
        if others:
            reports.note(
                f"run {run.name} has no labels of its own, so hidden positives decide; "
                f"run {listed(others, ' and ')} has: name it with --run"
            )
    if out is not None:
        write_recipe(calibration, out)
    if as_json:
        click.echo(json.dumps(calibration.as_json(), ensure_ascii=False, indent=1))
    else:
        click.echo(printable(calibration_table(calibration), keep="\n"))
    if out is not None:
        decide = f"miner decide {quote(str(store))} --run {quote(run.name)} --config {quote(str(out))}"
        click.echo(f"next: {decide}", err=True)
