"""`miner audit`: how many negatives are wrong."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rich_click as click

from miner.auditing.config import AuditConfig
from miner.cli.options import HIDING, field_options


@click.command("audit")
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", "name", help="The run to audit [default: the last].")
@field_options(AuditConfig(), HIDING)
@click.option(
    "--judged", type=click.Path(path_type=Path), metavar="FILE",
    help="Judgments by people of the run's candidates: query, document, relevance, or TREC's four columns.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON instead of the tables.")
def command(store: Path, name: str | None, judged: Path | None, as_json: bool, **settings: Any) -> None:
    """Measure how many negatives of a run in STORE are unjudged positives.

    Known positives are hidden, the stored evidence is decided again as if nobody had judged them, and
    counted is how many come back as negatives: the leak rate, with what the rules cost beside it. No
    model runs. Positives that a model of the run was trained on are never hidden; train with
    --hold-out or --folds to keep some back.

    \b
    miner audit my.duckdb
    miner audit my.duckdb --run strict --repeats 20
    miner audit my.duckdb --judged labels.tsv --json
    """
    from miner.auditing.audit import audit
    from miner.auditing.outside import against_judgments
    from miner.auditing.report import judged_table, table
    from miner.engine.bars import progress
    from miner.errors import UsageError, printable
    from miner.sources.qrels import read_judgments
    from miner.store.database import Store
    from miner.store.runs import find_run, staleness

    config = AuditConfig(**settings)
    judgments = None if judged is None else read_judgments(judged)
    with progress() as reports, Store.open(store, note=reports.note) as opened:
        run = find_run(opened, name)
        if stale := staleness(opened, run):
            reports.note(stale)
        human = None if judgments is None else against_judgments(opened, run, judgments)
        found = None
        try:
            found = audit(opened, run, config, reports)
        except UsageError as error:
            if human is None:
                raise
            reports.note(f"{error.message}; only the judgments of {judged} are told")
    if as_json:
        told = ({} if found is None else found.as_json()) | (
            {} if human is None else {"judged": asdict(human)}
        )
        click.echo(json.dumps(told, ensure_ascii=False, indent=1))
    elif found is not None:
        click.echo(printable(table(found, str(store), human), keep="\n"))
    elif human is not None:
        click.echo(judged_table(human))
