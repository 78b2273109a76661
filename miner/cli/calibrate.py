"""`miner calibrate`: the rules for a target leak."""

from __future__ import annotations

import json
from pathlib import Path
from shlex import quote
from typing import Any

import rich_click as click

from miner.auditing.config import AuditConfig
from miner.cli.numbers import Within
from miner.cli.options import HIDING, field_options
from miner.engine.files import is_stream, require_file
from miner.errors import UsageError, printable
from miner.ranges import BELOW_1

_TARGET = 0.02


@click.command("calibrate")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", "name", help="The run whose evidence to calibrate on [default: the last].")
@click.option(
    "--target-leak", type=Within(BELOW_1),
    help="The share of hidden positives that may come back as negatives [default: 0.02, which is 2 %].",
)  # fmt: skip
@click.option(
    "--keep-yield", is_flag=True,
    help="Instead of a target: leak least, with all negatives for as many queries as by the run's own rules.",
)  # fmt: skip
@field_options(AuditConfig(), HIDING)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False),
    help="Write the chosen rules to this TOML recipe, and the frontier beside it as .png and .svg.",
)  # fmt: skip
@click.option(
    "--json", "as_json", is_flag=True, help="JSON instead of the tables: every setting of the sweep."
)
def command(
    store: Path, name: str | None, target_leak: float | None, keep_yield: bool, out: Path | None,
    as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Find the rules of a run in STORE that leak no more than asked and leave the most, hardest negatives.

    Every rule is tried over its parameter, on stored evidence, with known positives hidden as in miner
    audit. Half of the queries chooses the setting, the other half confirms it. No model runs.

    \b
    miner calibrate my.duckdb --run r1 --target-leak 0.01 --out strict.toml
    miner decide my.duckdb --run r1 --config strict.toml --name strict
    miner calibrate my.duckdb --run r1 --keep-yield
    miner calibrate my.duckdb --run r1 --repeats 20 --json
    """
    from miner.auditing.calibrate import calibrate
    from miner.auditing.calibrate_report import table, write
    from miner.engine.bars import progress
    from miner.store.database import Store
    from miner.store.runs import find_run, staleness

    config = AuditConfig(**settings)
    if keep_yield and target_leak is not None:
        raise UsageError("--target-leak and --keep-yield ask for two things", "leave one out")
    target = None if keep_yield else _TARGET if target_leak is None else target_leak
    if out is not None:
        _require_writable(out)
    with progress() as reports, Store.open(store, note=reports.note) as opened:
        run = find_run(opened, name)
        if stale := staleness(opened, run):
            reports.note(stale)
        found = calibrate(opened, run, target, config, reports)
    if out is not None:
        write(found, out)
    if as_json:
        click.echo(json.dumps(found.as_json(), ensure_ascii=False, indent=1))
    else:
        click.echo(printable(table(found), keep="\n"))
    if out is not None:
        click.echo(
            f"next: miner decide {quote(str(store))} --run {quote(found.run)} --config {quote(str(out))}",
            err=True,
        )


def _require_writable(out: Path) -> None:
    from miner.auditing.calibrate_report import charts_of, is_recipe

    if is_stream(out):
        raise UsageError(
            f"{out} takes one file, and calibrate writes three", "name a file, such as strict.toml"
        )
    require_file(out)
    if out.suffix in (".png", ".svg"):
        raise UsageError(f"{out} is to be a recipe", "name it .toml: the charts go beside it")
    if out.exists() and not is_recipe(out):
        raise UsageError(
            f"{out} is no recipe that miner calibrate wrote, and would be lost", "name another file"
        )
    for chart in charts_of(out):
        if chart.exists() and not out.exists():
            raise UsageError(f"{chart} is no chart of {out}, and would be lost", "name another file")
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {out.parent}", "make it, or name another file")
