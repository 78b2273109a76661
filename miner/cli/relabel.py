"""`miner relabel`: turns pairs that scores, people or a judge call relevant into judgments, and undoes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

import rich_click as click

from miner.auditing.config import AuditConfig
from miner.cli.options import HIDING, OUTPUT, RUN, Command, OneOf, Settings, described, flag
from miner.errors import UsageError, listed
from miner.ranges import ABOVE_0, SHARE
from miner.recipe import Setting

SCORES, PEOPLE, JUDGE = "scores", "people", "judge"
"""What can choose the pairs."""
_PROBABILITY = Setting(
    "probability",
    "Relabel suspected positives with at least this probability of being positives.",
    0.5,
    range=ABOVE_0,
)
_BY_JUDGE = {
    "judge": Setting("judge", "--by judge: its name among the scorers of the run [default: the last].", None),
    "min_kappa": Setting(
        "min_kappa", "--by judge: refuse a judge with a lower measured kappa.", 0.4, range=SHARE
    ),
}
SETTINGS = Settings(
    {"": {"probability": _PROBABILITY} | described(AuditConfig, HIDING) | _BY_JUDGE}, {RUN: ("probability",)}
)
_READ = {SCORES: ("probability", *HIDING), PEOPLE: (), JUDGE: tuple(_BY_JUDGE)}
"""The settings that each `--by` reads."""


@click.command("relabel", cls=Command, settings=SETTINGS)
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--run", "name", panel=RUN, help="The run whose suspected positives to judge [default: the last]."
)
@click.option(
    "--by", type=OneOf([SCORES, PEOPLE, JUDGE]), default=SCORES, show_default=True, panel=RUN,
    help="What calls a pair relevant: the scores of the run, people in miner review, or miner judge.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, panel=OUTPUT, help="Report only; change nothing.")
@click.option("--undo", is_flag=True, panel=OUTPUT, help="Remove relabelled judgments and runs made on them.")
@click.option("--json", "as_json", is_flag=True, panel=OUTPUT, help="Print JSON instead of the table.")
def command(
    store: Path,
    name: str | None,
    by: str,
    dry_run: bool,
    undo: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Turn likely suspected positives of a run in STORE into judgments, and decide again.

    --by people makes judgments of the pairs that most reviewers call relevant, with the source `reviewed`;
    --by judge of those that the language model of miner judge calls relevant, with the source `judge`, unless
    its measured kappa is below min_kappa. The rest is about --by scores.

    A candidate is suspected if a rule dropped it for a high score and it scores above the median of the
    query's positives. The probability that it is a positive is fitted on known positives that are hidden, as
    in miner audit, from all scores and ranks at once. Recall and precision on the hidden positives are
    reported. The judgments have the source `relabelled`; --undo removes those of all sources and
    restores the store.

    \b
    miner relabel my.duckdb --dry-run
    miner relabel my.duckdb --probability 0.7
    miner relabel my.duckdb --by people
    miner relabel my.duckdb --by judge --dry-run
    miner relabel my.duckdb --undo
    """
    from miner.engine.progress_bars import progress
    from miner.store.database import Database
    from miner.store.runs import find_run

    if undo and dry_run:
        raise UsageError("--undo and --dry-run exclude each other", "leave one out")
    if undo:
        _require_unset({"run": name, **given}, "with --undo, which removes all")
        _undo(store)
        return
    values = SETTINGS.values(given)[""]
    for setting in values.keys() - set(_READ[by]):
        shown = flag(setting) if setting == _PROBABILITY.name else setting
        raise UsageError(f"{shown} has no effect with --by {by}", "leave it out")
    relabelled = _BY[by](values)
    with progress() as reports, Database.open(store, read_only=dry_run, note=reports.note) as opened:
        report, text = relabelled(opened, find_run(opened, name), reports, dry_run)
    click.echo(json.dumps(asdict(report), ensure_ascii=False, indent=1) if as_json else text)
    if report.again:
        click.echo(
            f"next: miner audit {quote(str(store))}; undo it: miner relabel {quote(str(store))} --undo",
            err=True,
        )


def _by_scores(values: Mapping[str, Any]) -> Any:
    """Returns what relabels by scores; raises UsageError for a wrong setting."""
    from miner.auditing.relabel import RelabelConfig, relabel
    from miner.auditing.report import relabel_table

    hiding = AuditConfig(**{name: values[name] for name in HIDING if name in values})
    config = RelabelConfig(values.get("probability", RelabelConfig.probability), hiding)

    def _relabelled(store: Any, run: Any, reports: Any, dry_run: bool) -> tuple[Any, str]:
        report = relabel(store, run, config, reports, dry_run=dry_run)
        return report, relabel_table(report, dry_run)

    return _relabelled


def _by_people(_: Mapping[str, Any]) -> Any:
    """Returns what relabels by people's answers."""
    from miner.auditing.relabel import relabel_by_people

    def _relabelled(store: Any, run: Any, reports: Any, dry_run: bool) -> tuple[Any, str]:
        report = relabel_by_people(store, run, reports, dry_run=dry_run)
        return report, report.as_text()

    return _relabelled


def _by_judge(values: Mapping[str, Any]) -> Any:
    """Returns what relabels by a judge's grades; raises UsageError for a wrong setting."""
    from miner.auditing.relabel import RelabelByJudgeConfig, relabel_by_judge

    config = RelabelByJudgeConfig(**values)

    def _relabelled(store: Any, run: Any, reports: Any, dry_run: bool) -> tuple[Any, str]:
        report = relabel_by_judge(store, run, config, reports, dry_run=dry_run)
        return report, report.as_text()

    return _relabelled


_BY = {SCORES: _by_scores, PEOPLE: _by_people, JUDGE: _by_judge}
"""For each `--by`: from the settings to what relabels a run and returns the report, and its text."""


def _require_unset(given: Mapping[str, Any], when: str) -> None:
    """Raises UsageError for an option that is not read."""
    for name, value in given.items():
        if value not in (None, ()):
            option = {"recipe": "--config", "assignments": "--set"}.get(name, f"--{name}")
            raise UsageError(f"{option} has no effect {when}", "leave it out")


def _undo(store: Path) -> None:
    from miner.engine.progress_bars import Lines
    from miner.store.database import Database
    from miner.store.relabel import remove_relabelled

    with Database.open(store, note=Lines().note) as opened:
        judgments, removed, dependent = remove_relabelled(opened)
    runs = f" and run {listed(removed)}" if removed else ""
    click.echo(f"removed: {judgments:,} relabelled judgments{runs}")
    if dependent:
        click.echo(f"kept, although made on them: run {listed(dependent)}; mine again", err=True)
