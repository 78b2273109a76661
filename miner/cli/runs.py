"""`miner runs`: list, compare and remove the runs of a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from miner.cli.options import OUTPUT, RUN, Command

if TYPE_CHECKING:
    from miner.store.database import Database
    from miner.store.runs import StoredRun


@click.command("runs", cls=Command)
@click.argument("store", type=click.Path(path_type=Path))
@click.option(
    "--remove", multiple=True, metavar="RUN", panel=RUN,
    help="Remove a run with its decisions, triplets, audits and samples to label. Labels that were read "
    "stay. Repeatable.",
)  # fmt: skip
@click.option(
    "--json", "as_json", is_flag=True, panel=OUTPUT,
    help="Print JSON instead of the table. It has every setting of each run.",
)  # fmt: skip
def command(store: Path, remove: tuple[str, ...], as_json: bool) -> None:
    """List the runs in STORE, oldest first, with the rates of each run's last audit.

    Those are the false-negative rate by labels, if any run has labels, and the hidden-positive rate.

    --remove also removes the evidence that no other run uses. Vectors and scores are kept, so the same
    `miner mine` makes the run again without running a model. The same
    `miner audit --label N` then draws the same sample to label.

    \b
    miner runs my.duckdb
    miner runs my.duckdb --json
    miner runs my.duckdb --remove naive --remove strict
    miner runs diff my.duckdb naive strict
    """
    from miner.engine.progress_bars import Lines
    from miner.errors import listed
    from miner.reporting.tables import text_table
    from miner.store import labels, runs
    from miner.store.corpus import ingest_first
    from miner.store.database import Database

    with Database.open(store, read_only=not remove, note=Lines().note) as opened, opened.snapshot():
        if remove:
            sampled = [name for name in labels.runs_with_samples(opened) if name in remove]
            runs.remove_runs(opened, remove)
            click.echo(f"removed from {store}: {listed(dict.fromkeys(remove))}", err=True)
            if sampled:
                click.echo(_SAMPLES_TOO.format(listed(sampled)), err=True)
        found = [(run, _facts(opened, run)) for run in runs.runs(opened)]
        hint = ingest_first(opened, f"make one: miner mine {store}")
    if as_json:
        rows = [{**facts, "config": dict(run.config)} for run, facts in found]
        click.echo(json.dumps(rows, ensure_ascii=False, indent=1))
    elif found:
        rows = [_row(facts) for _, facts in found]
        has_labels = any(facts["false_negative_rate"] for _, facts in found)
        shown = [name for name in rows[0] if has_labels or name != _BY_LABELS]
        click.echo("\n".join(text_table([shown, *([row[name] for name in shown] for row in rows)])))
    else:
        click.echo(f"{store} has no runs; {hint}", err=True)


_BY_LABELS = "false-negative rate"
_SAMPLES_TOO = (
    "also removed: the samples to label of {}; labels that were read stay. To read a sample file later, mine "
    "the run again and draw its sample again with the same --label N and seed"
)


def _facts(store: Database, run: StoredRun) -> dict[str, Any]:
    from miner.store.audits import last_audit
    from miner.store.labels import false_negative_rate_of
    from miner.store.triplets import triplet_count
    from miner.store.verdicts import negative_counts

    audit, labelled = last_audit(store, run), false_negative_rate_of(store, run)
    counts = negative_counts(store, run)
    covered = sum(number for negatives, number in counts.items() if negatives >= run.negatives)
    return {
        "run": run.name,
        "split": run.split,
        "status": run.status,
        "started": run.started.isoformat(sep=" ", timespec="seconds"),
        "triplets": triplet_count(store, run) if run.status == "done" else None,
        "negatives": run.negatives,
        "coverage": covered / sum(counts.values()) if counts else None,
        "false_negative_rate": {name: labelled[name] for name in ("rate", "low", "high", "labels")}
        if labelled
        else None,
        "hidden_positive_rate": audit["hidden_positive_rate"]["rate"] if audit else None,
        "scorers": [one.name for one in run.scorers],
    }


def _row(facts: dict[str, Any]) -> dict[str, str]:
    """Returns the cells of a run by the heads of their columns."""
    from miner.errors import listed
    from miner.reporting.tables import percent
    from miner.stats import with_interval

    labelled, rate = facts["false_negative_rate"], facts["hidden_positive_rate"]
    audited = "not audited" if rate is None else percent(rate, 2)
    return {
        "run": facts["run"],
        "split": facts["split"],
        "started (UTC)": facts["started"],
        "triplets": "unfinished" if facts["triplets"] is None else f"{facts['triplets']:,}",
        "per query": str(facts["negatives"]),
        "coverage": percent(facts["coverage"]),
        _BY_LABELS: with_interval(labelled["rate"], labelled["low"], labelled["high"])
        if labelled
        else "no labels",
        "hidden-positive rate": "no negatives" if facts["triplets"] == 0 else audited,
        "by": listed(facts["scorers"], " + "),
    }
