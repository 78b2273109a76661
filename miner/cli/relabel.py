"""`miner relabel`: suspected positives become judgments, and can be taken back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import rich_click as click
from click import Context, get_current_context
from click.core import ParameterSource

from miner.auditing.config import AuditConfig
from miner.cli.numbers import Within
from miner.cli.options import HIDING, field_options
from miner.errors import UsageError, listed, printable
from miner.ranges import ABOVE_0

if TYPE_CHECKING:
    from miner.auditing.relabel import RelabelReport
    from miner.stats import Rate


_CANNOT_SAY = (
    "The precision is that of telling hidden positives from what nobody judged, with so many hidden. What is "
    "relabelled comes from what nobody judged, and how much of it is right nobody knows: look at some."
)


@click.command("relabel")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", "name", help="The run whose suspected positives to judge [default: the last].")
@click.option(
    "--probability", type=Within(ABOVE_0), default=0.5, show_default=True,
    help="Least chance that a suspected positive is one.",
)  # fmt: skip
@field_options(AuditConfig(), HIDING)
@click.option("--dry-run", "dry", is_flag=True, help="Say what would be relabelled; change nothing.")
@click.option("--undo", is_flag=True, help="Take back all relabelled judgments and the runs made on them.")
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the table.")
def command(
    store: Path, name: str | None, probability: float, dry: bool, undo: bool, as_json: bool, **settings: Any
) -> None:
    """Make judgments of the suspected positives of a run in STORE that are likely enough, and decide again.

    Suspected are candidates that were dropped for scoring high, and score above the median of the query's
    positives. How likely one is a positive is learnt from known positives that are hidden, as in miner
    audit, from all scores and ranks at once; said is how many hidden ones this wins back, and how precisely.
    The judgments have the source relabelled; --undo takes them back, and the store is what it was.

    \b
    miner relabel my.duckdb --dry-run
    miner relabel my.duckdb --probability 0.7
    miner relabel my.duckdb --undo
    """
    from miner.auditing.relabel import RelabelConfig, relabel
    from miner.engine.bars import progress
    from miner.store.database import Store
    from miner.store.runs import find_run

    if undo and dry:
        raise UsageError("--undo changes the store, and --dry-run nothing", "leave one out")
    if undo:
        _require_alone(get_current_context(), ("name", "probability", *settings))
        _undo(store)
        return
    config = RelabelConfig(probability, AuditConfig(**settings))
    with progress() as reports, Store.open(store, read_only=dry, note=reports.note) as opened:
        report = relabel(opened, find_run(opened, name), config, reports, dry=dry)
    if as_json:
        click.echo(json.dumps(asdict(report), ensure_ascii=False, indent=1))
    else:
        click.echo(_told(report, dry))
    if report.again:
        click.echo(
            f"next: miner audit {quote(str(store))}; take it back: miner relabel {quote(str(store))} --undo",
            err=True,
        )


def _require_alone(context: Context, options: Sequence[str]) -> None:
    """Raises UsageError for an option that --undo does not read."""
    for option in options:
        if context.get_parameter_source(option) is ParameterSource.COMMANDLINE:
            flag = "run" if option == "name" else option
            raise UsageError(f"--{flag} has no effect with --undo, which takes back all", "leave it out")


def _undo(store: Path) -> None:
    from miner.engine.bars import Lines
    from miner.store.database import Store
    from miner.store.relabel import remove_relabelled

    with Store.open(store, note=Lines().note) as opened:
        judgments, gone, resting = remove_relabelled(opened)
    runs = f" and run {listed(gone)}" if gone else ""
    click.echo(f"taken back: {judgments:,} relabelled judgments{runs}")
    if resting:
        click.echo(f"still there, though made on them: run {listed(resting)}; mine again", err=True)


def _told(report: RelabelReport, dry: bool) -> str:
    from miner.auditing.report import limits

    lines = [
        f"run {printable(report.run)}, chance {report.probability:g} or more",
        f"won back    {_rate(report.won_back)} hidden positives",
        f"precision   {_rate(report.precision)} of what it would judge were hidden positives; "
        "what nobody judged counts as wrong",
        f"suspected   {report.suspected:,} candidates, {report.relabelled:,} of them likely enough",
    ]
    if report.again:
        lines.append(f"relabelled  {report.relabelled:,} judgments; decided again as run {report.again}")
    else:
        lines.append("relabelled  none" + (": --dry-run" if dry and report.relabelled else ""))
    return "\n\n".join(["\n".join(lines), *limits(report.barred, report.untold), _CANNOT_SAY])


def _rate(rate: Rate) -> str:
    if rate.rate is None:
        return "none of 0"
    from miner.reporting.tables import percent, percent_interval

    return f"{percent(rate.rate)} {percent_interval(rate.low, rate.high)}, {rate.hits:,} of {rate.of:,}"
