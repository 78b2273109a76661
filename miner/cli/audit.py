"""`miner audit`: reports how many hidden positives are selected as negatives."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rich_click as click

from miner.auditing.config import AuditConfig
from miner.cli.options import HIDING, OUTPUT, RUN, Command, Settings, described

SETTINGS = Settings({"": described(AuditConfig, HIDING)}, {})


@click.command("audit", cls=Command, settings=SETTINGS)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", "name", panel=RUN, help="The run to audit [default: the last].")
@click.option(
    "--judged", type=click.Path(path_type=Path), metavar="FILE", panel=RUN,
    help="Also report the false-negative rate by these judgments: query, document, relevance, or TREC qrels.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, panel=OUTPUT, help="JSON instead of the tables.")
def command(store: Path, name: str | None, judged: Path | None, as_json: bool, **given: Any) -> None:
    """Measure how many hidden positives a run of STORE selects as negatives: the hidden-positive rate.

    The audit hides known positives, decides the stored evidence again as if nobody had judged them, and
    reports the share that is selected as negatives, with what the rules cost beside it. The rate compares
    rules; it is not the share of relevant documents among the negatives, which only labels measure. No model
    runs. Positives that a model of the run was trained on are never hidden: train with --withheld or --folds
    to withhold some. The result is stored; miner runs and miner export show it.

    \b
    miner audit my.duckdb
    miner audit my.duckdb --run strict --set repeats=20
    miner audit my.duckdb --judged labels.tsv --json
    """
    from miner.auditing.audit import audit, compare_with_judgments
    from miner.auditing.report import audit_table, judged_table
    from miner.engine.progress_bars import progress
    from miner.errors import UsageError, printable
    from miner.sources.qrels import read_judgments
    from miner.store.database import Database
    from miner.store.runs import find_run, staleness

    config = AuditConfig(**SETTINGS.values(given)[""])
    judgments = None if judged is None else read_judgments(judged)
    with progress() as reports, Database.open(store, note=reports.note) as opened:
        run = find_run(opened, name)
        if stale := staleness(opened, run):
            reports.note(stale)
        outcomes = None if judgments is None else compare_with_judgments(opened, run, judgments)
        result = None
        try:
            result = audit(opened, run, config, reports)
        except UsageError as error:
            if outcomes is None:
                raise
            reports.note(f"{error.message}; only the comparison with {judged} is shown")
    if as_json:
        values = {} if result is None else result.as_json()
        values |= {} if outcomes is None else {"judged": asdict(outcomes)}
        click.echo(json.dumps(values, ensure_ascii=False, indent=1))
    elif result is not None:
        click.echo(printable(audit_table(result, str(store), outcomes), keep="\n"))
    elif outcomes is not None:
        click.echo(judged_table(outcomes))
