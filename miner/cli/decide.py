"""`miner decide`: applies other rules to stored evidence."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import rich_click as click

from miner.cli.mine import RENAMED, RULES, SELECTION
from miner.cli.options import RUN, Command, Settings
from miner.mining.config import OF_TRAINING, TABLES, flat, with_values
from miner.published import require_scorer

SETTINGS = Settings(
    TABLES,
    {"Rules": ("decide_by", *RULES), "Selection": SELECTION},
    {"": "belongs to the search, and decide keeps the candidates of a run: search again with miner mine"},
    others=OF_TRAINING,
    kept="as in the run",
)


@click.command("decide", cls=Command, settings=SETTINGS, renamed=RENAMED)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", "source", panel=RUN, help="The run whose evidence to decide over [default: the last].")
@click.option("--name", panel=RUN, help="Name of the new run [default: r1, r2, …].")
def command(store: Path, source: str | None, name: str | None, **given: Any) -> None:
    """Decide again over the evidence of a run in STORE, without running a model.

    Settings that you do not name stay as they were in that run. A rule that you name replaces all rules of
    the run; `none` turns one rule off and keeps the others. The rules in force are printed.

    \b
    miner decide my.duckdb --relative-margin 0.1
    miner decide my.duckdb --run r1 --name strict --percentile 2
    miner decide my.duckdb --strategy random --negatives 8 --set seed=7
    miner decide my.duckdb --for reranker --decide-by bm25
    """
    from miner.engine.progress_bars import Lines, progress
    from miner.store.database import Database
    from miner.store.runs import find_run, staleness

    values = flat(SETTINGS.values(given))
    with (
        Database.open(store, note=Lines().note, brief=True) as opened,
        ThreadPoolExecutor(1) as beside,
    ):
        run = find_run(opened, source)
        reading = beside.submit(staleness, opened, run)  # DuckDB reads while Python imports

        from miner.cli.summary import summarise
        from miner.mining.pipeline import config_of, decide_again

        config = with_values(config_of(run), values)
        require_scorer(given["recipe"], config)
        with progress() as reports:
            opened.note = reports.note
            if source is None:
                reports.note(f"from the evidence of run {run.name}, the last; --run names another")
            if stale := reading.result():
                reports.note(stale)
            again = decide_again(opened, run, config, name=name, progress=reports)
        summarise(opened, again)
