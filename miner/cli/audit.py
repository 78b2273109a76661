"""`miner audit`: measures false negatives, by labels of a sample and by hidden positives."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import rich_click as click

from miner.auditing.config import AuditConfig
from miner.cli.numbers import Within
from miner.cli.options import HIDING, OUTPUT, RUN, Command, Settings, described
from miner.ranges import LABELS

SETTINGS = Settings({"": described(AuditConfig, HIDING)}, {})


@click.command("audit", cls=Command, settings=SETTINGS)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--run", "name", panel=RUN, help="The run to audit [default: the last].")
@click.option(
    "--label", "label", type=Within(LABELS), panel="Labels",
    help="Draw a random sample of N negatives to label, and write it to --out. Nothing else is done.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", panel="Labels",
    help="The sample to label: a new .csv or .tsv file.",
)  # fmt: skip
@click.option(
    "--labels", type=click.Path(path_type=Path), metavar="FILE", panel="Labels",
    help="The sample with the column relevance filled in: 0 not relevant, 1 relevant, nothing for no label.",
)  # fmt: skip
@click.option(
    "--judged", type=click.Path(path_type=Path), metavar="FILE", panel=RUN,
    help="Also compare the run with these judgments: query, document, relevance, or TREC qrels.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, panel=OUTPUT, help="Print JSON instead of the tables.")
def command(
    store: Path, name: str | None, label: int | None, out: Path | None, labels: Path | None,
    judged: Path | None, as_json: bool, **given: Any,
) -> None:  # fmt: skip
    """Measure the false negatives in a run of STORE: by labels, and by hidden positives.

    A false negative is a relevant document that was selected as a negative. Their share, the false-negative
    rate, is estimated from labels of a random sample: --label draws it, and --labels reads it back.

    Without labels the audit hides known positives, decides the stored evidence again as if nobody had judged
    them, and reports the share that is selected as negatives: the hidden-positive rate. It compares rules,
    and it is not the false-negative rate. No model runs. Positives that a model of the run was trained on
    are never hidden: train with --set withheld=0.3 or --folds. The results are stored; miner runs
    and miner export show them.

    \b
    miner audit my.duckdb
    miner audit my.duckdb --label 200 --out sample.csv
    miner audit my.duckdb --labels sample.csv
    miner audit my.duckdb --run strict --set repeats=20 --json
    """
    from miner.engine.progress_bars import progress
    from miner.store.database import Database
    from miner.store.runs import find_run, staleness

    _require_fitting(label, out, labels, judged)
    config = AuditConfig(**SETTINGS.values(given)[""])
    with progress() as reports, Database.open(store, note=reports.note) as opened:
        run = find_run(opened, name)
        if labels is not None and name is None:
            run = _sampled(opened, run, reports)
        if stale := staleness(opened, run):
            reports.note(stale)
        if label is not None and out is not None:
            _draw(opened, run, label, config.seed, out, as_json)
        else:
            _report(opened, run, labels, judged, config, as_json, reports)


def _sampled(store: Any, run: Any, reports: Any) -> Any:
    """Returns the run that a sample is of: the last one, or another if that is the only one with a sample."""
    from miner.store.labels import runs_with_samples
    from miner.store.runs import find_run

    names = runs_with_samples(store)
    if run.name in names or len(names) != 1:
        return run
    reports.note(f"run {names[0]}, the only one with a sample")
    return find_run(store, names[0])


def _require_fitting(label: int | None, out: Path | None, labels: Path | None, judged: Path | None) -> None:
    from miner.errors import UsageError

    if label is not None and (labels is not None or judged is not None):
        raise UsageError("--label only draws a sample", "give --labels or --judged in a call of their own")
    if label is not None and out is None:
        raise UsageError("--label needs a file to write the sample to", f"--label {label} --out sample.csv")
    if label is None and out is not None:
        raise UsageError("--out is for the sample that --label draws", f"--label 200 --out {out}")


def _draw(store: Any, run: Any, label: int, seed: int, out: Path, as_json: bool) -> None:
    from miner.auditing.labels import SampleConfig, draw_sample

    sample = draw_sample(store, run, SampleConfig(label, seed), out)
    if as_json:
        click.echo(json.dumps(sample.as_json(), ensure_ascii=False, indent=1))
        return
    click.echo(sample.as_text())
    click.echo(
        f"\nfill in the column relevance of {out} from the top (0 not relevant, 1 relevant), then:"
        f"\nminer audit {store.path} --run {run.name} --labels {out}"
    )


def _report(
    store: Any, run: Any, labels: Path | None, judged: Path | None, config: AuditConfig, as_json: bool,
    reports: Any,
) -> None:  # fmt: skip
    """Prints the false-negative rate if there are labels, then the audit with hidden positives."""
    from miner.auditing.audit import audit, compare_with_judgments
    from miner.auditing.labels import false_negative_rate, keep_labels
    from miner.auditing.report import audit_table, judged_table
    from miner.errors import UsageError, printable
    from miner.sources.qrels import read_judgments

    judgments = None if judged is None else read_judgments(judged)
    by_labels = (
        false_negative_rate(store, run) if labels is None else keep_labels(store, run, labels, reports.note)
    )
    outcomes = None if judgments is None else compare_with_judgments(store, run, judgments)
    result = None
    try:
        result = audit(store, run, config, reports)
    except UsageError as error:
        if by_labels is None and outcomes is None:
            raise
        reports.note(f"the hidden-positive rate is not measured: {error.message}")
    if as_json:
        values = {} if by_labels is None else {"false_negative_rate": by_labels.as_json()}
        values |= {} if result is None else result.as_json()
        values |= {} if outcomes is None else {"judged": asdict(outcomes)}
        click.echo(json.dumps(values, ensure_ascii=False, indent=1))
        return
    texts = [] if by_labels is None else [by_labels.as_text()]
    if result is not None:
        texts.append(audit_table(result, str(store.path), outcomes))
    elif outcomes is not None:
        texts.append(judged_table(outcomes))
    click.echo(printable("\n\n".join(texts), keep="\n"))
