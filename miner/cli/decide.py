"""`miner decide`: applies other rules to stored evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rich_click as click

from miner.cli.options import config_options, given
from miner.mining.config import Rules, Selection, with_values


@click.command("decide")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", "source", help="The run whose evidence to decide over [default: the last].")
@click.option("--name", help="Name of the new run [default: r1, r2, …].")
@config_options(Rules, Selection)
def command(store: Path, source: str | None, name: str | None, recipe: Path | None, **flags: Any) -> None:
    """Decide again over the evidence of a run in STORE, without running a model.

    Settings that are not given stay as in that run, but naming a rule (--skip-top to
    --relative-percentile) replaces all rules of the run. `off` turns one rule off and keeps the others. The
    rules in force are printed.

    \b
    miner decide my.duckdb --relative-margin 0.1
    miner decide my.duckdb --run r1 --name strict --percentile 2
    miner decide my.duckdb --strategy random --negatives 8 --seed 7
    """
    from miner.cli.summary import summarise
    from miner.engine.bars import Lines, progress
    from miner.mining.pipeline import config_of, decide_again
    from miner.store.database import Store
    from miner.store.runs import find_run, staleness

    with Store.open(store, note=Lines().note) as opened:
        run = find_run(opened, source)
        config = with_values(config_of(run), given(recipe, flags))
        with progress() as reports:
            opened.note = reports.note
            if stale := staleness(opened, run):
                reports.note(stale)
            again = decide_again(opened, run, config, name=name, progress=reports)
        summarise(opened, again)
