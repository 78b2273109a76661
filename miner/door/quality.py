"""Measures a run and improves it by what was measured: audit, labels, calibrate, relabel."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from miner.auditing import audit as auditing
from miner.auditing import calibrate as calibrating
from miner.auditing import labels as labelling
from miner.auditing import relabel as relabelling
from miner.auditing.audit import Audit, JudgedOutcomes
from miner.auditing.calibrate import Calibration
from miner.auditing.config import AuditConfig, CalibrationConfig
from miner.auditing.labels import FalseNegativeRate, LabelSample, SampleConfig
from miner.auditing.relabel import RelabelConfig, RelabelReport
from miner.door.arguments import Reports, RunLike, StoreLike, configured, note_stale, opened, run_in
from miner.door.operations import PathLike
from miner.engine.progress import SILENT
from miner.engine.progress_bars import progress_for
from miner.errors import UsageError
from miner.sources.memory import judgments_of
from miner.sources.qrels import read_judgments
from miner.store.relabel import remove_relabelled


def audit(
    store: StoreLike,
    run: RunLike = None,
    config: AuditConfig | None = None,
    *,
    progress: Reports = None,
    **settings: Any,
) -> Audit:
    """Measures the hidden-positive rate of a run, and stores the result.

    Hides known positives, decides again, and reports the share of them that are selected as negatives. No
    model runs. Settings are those of AuditConfig. Raises UsageError if no positive may be hidden.
    """
    chosen = configured(AuditConfig, config, settings)
    with progress_for(progress) as reports, opened(store, reports) as found:
        audited = run_in(found, run)
        note_stale(found, audited, reports)
        return auditing.audit(found, audited, chosen, reports)


def sample_to_label(
    store: StoreLike,
    run: RunLike = None,
    config: SampleConfig | None = None,
    *,
    out: PathLike | None = None,
    **settings: Any,
) -> LabelSample:
    """Draws a seeded random sample of a run's negatives to label; `pairs` has their ids and texts.

    Likely false negatives are drawn more, which `false_negative_rate` allows for. `out` receives the sample
    as .csv or .tsv. Settings are those of SampleConfig: labels and seed. Raises UsageError for a run without
    negatives to label, or if `out` exists.
    """
    chosen = configured(SampleConfig, config, settings)
    file = None if out is None else Path(out)
    with opened(store, SILENT) as found:
        return labelling.draw_sample(found, run_in(found, run), chosen, file)


def false_negative_rate(store: StoreLike, labels: Any = None, run: RunLike = None) -> FalseNegativeRate:
    """Returns the share of a run's negatives that are relevant, with a 95 % interval, and stores it.

    `labels` is the sample with the column `relevance` filled in, as a file or a table; they are stored.
    Without it the stored labels count. Raises UsageError without a sample or labels, InputError for rows that
    are not of the sample.
    """
    is_file = isinstance(labels, str | os.PathLike)
    with opened(store, SILENT) as found:
        own = run_in(found, run)
        if labels is not None:
            return labelling.keep_labels(found, own, Path(labels) if is_file else labels)
        if (known := labelling.false_negative_rate(found, own)) is not None:
            return known
        raise UsageError(
            f"run '{own.name}' has no labels", "draw a sample with sample_to_label, and give it filled in"
        )


def compare_with_judgments(store: StoreLike, judgments: Any, run: RunLike = None) -> JudgedOutcomes:
    """Returns the relevant share of a run's judged negatives, and of what each rule dropped.

    `judgments` is a file or a table of query_id, doc_id and relevance that the run was not mined on. Raises
    UsageError if none of them judges a candidate of the run, InputError for what cannot be read.
    """
    is_file = isinstance(judgments, str | os.PathLike)
    table = read_judgments(Path(judgments)) if is_file else judgments_of(judgments)
    with opened(store, SILENT, read_only=True) as found, found.snapshot():
        return auditing.compare_with_judgments(found, run_in(found, run), table)


def calibrate(
    store: StoreLike,
    run: RunLike = None,
    target: float | None = 0.02,
    config: CalibrationConfig | None = None,
    *,
    progress: Reports = None,
    **settings: Any,
) -> Calibration:
    """Finds the rules whose rate is at most `target` and that leave the most, hardest negatives.

    The rate is the false-negative rate that the labels of the run predict, or, if it has none, the
    hidden-positive rate, of which half of the queries chooses and the other half confirms. With `target=None`
    the rules with the lowest rate at the run's own coverage. `run.decide(rules=found.chosen.rules)` applies
    them. If the run has several scorers, `separation` says how well each separates hidden positives, and the
    rules may name another one that decides. Settings are those of CalibrationConfig. Raises UsageError if no
    setting meets the target.
    """
    chosen = configured(CalibrationConfig, config, settings)
    with progress_for(progress) as reports, opened(store, reports) as found:
        own = run_in(found, run)
        note_stale(found, own, reports)
        return calibrating.calibrate(found, own, target, chosen, reports)


def relabel(
    store: StoreLike,
    run: RunLike = None,
    config: RelabelConfig | None = None,
    *,
    dry_run: bool = False,
    workers: int | None = None,
    progress: Reports = None,
    **settings: Any,
) -> RelabelReport:
    """Makes judgments of a run's suspected positives that are likely enough, and decides again.

    `dry_run` only reports; `undo_relabel` undoes it. Settings are those of RelabelConfig, and of the
    AuditConfig in it. Raises UsageError if no positive may be hidden to learn from.
    """
    chosen = configured(RelabelConfig, config, settings)
    with progress_for(progress) as reports, opened(store, reports, read_only=dry_run) as found:
        own = run_in(found, run)
        return relabelling.relabel(found, own, chosen, reports, dry_run=dry_run, workers=workers)


def undo_relabel(store: StoreLike) -> int:
    """Removes all judgments that `relabel` made and the runs made with them; returns how many judgments."""
    with opened(store, SILENT) as found:
        judgments, _, _ = remove_relabelled(found)
        return judgments
