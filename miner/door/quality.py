"""Measures a run and improves it by what was measured: audit, reviews, judge, calibrate, relabel, report."""

from __future__ import annotations

import os
from collections.abc import Sequence
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
from miner.auditing.relabel import (
    PeopleReport,
    RelabelByJudgeConfig,
    RelabelByJudgeReport,
    RelabelConfig,
    RelabelReport,
)
from miner.door.arguments import (
    Reports,
    RunLike,
    StoreLike,
    configured,
    note_stale,
    opened,
    require_order,
    run_in,
)
from miner.door.operations import PathLike
from miner.engine.progress import SILENT
from miner.engine.progress_bars import progress_for
from miner.errors import UsageError
from miner.html_report import WrittenPage, write_report
from miner.judging import judge as judging
from miner.judging.config import JudgeConfig
from miner.judging.judge import JudgePlan, JudgeReport
from miner.review import exchange
from miner.review.exchange import ReviewImport
from miner.review.queue import QueueConfig
from miner.review.summary import ReviewSummary, summarise
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


def judge(
    store: StoreLike,
    models: str | Sequence[str],
    run: RunLike = None,
    config: JudgeConfig | None = None,
    *,
    progress: Reports = None,
    **settings: Any,
) -> JudgeReport:
    """Has a language model grade pairs of a run, and measures how often it errs.

    `models` is a name `URL#MODEL`, or several for a cascade: each later one looks at what the one before it
    called relevant. No pair with an answer is sent again. Settings are those of JudgeConfig. Raises
    UsageError if there is nothing to judge, and ModelError if a server does not answer; the answers until
    then are kept.
    """
    chosen = configured(JudgeConfig, config, settings)
    with progress_for(progress) as reports, opened(store, reports) as found:
        return judging.judge(found, run_in(found, run), _names(models), chosen, reports)


def plan_judging(
    store: StoreLike,
    models: str | Sequence[str],
    run: RunLike = None,
    config: JudgeConfig | None = None,
    **settings: Any,
) -> JudgePlan:
    """Returns the requests, tokens and cost that `judge` would take, and the first request; sends nothing."""
    chosen = configured(JudgeConfig, config, settings)
    with opened(store, SILENT, read_only=True) as found:
        return judging.plan(found, run_in(found, run), _names(models), chosen)


def _names(models: str | Sequence[str]) -> list[str]:
    return [models] if isinstance(models, str) else list(models)


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


def relabel_by_people(
    store: StoreLike,
    run: RunLike = None,
    *,
    dry_run: bool = False,
    workers: int | None = None,
    progress: Reports = None,
) -> PeopleReport:
    """Makes judgments of the pairs that most reviewers call relevant, and decides again.

    `dry_run` only reports; `undo_relabel` undoes it. Raises UsageError if nobody has answered.
    """
    with progress_for(progress) as reports, opened(store, reports, read_only=dry_run) as found:
        own = run_in(found, run)
        return relabelling.relabel_by_people(found, own, reports, dry_run=dry_run, workers=workers)


def review_summary(
    store: StoreLike, run: RunLike = None, config: QueueConfig | None = None, **settings: Any
) -> ReviewSummary:
    """Returns what people answered in `miner review`: shares with intervals, agreement, conflicts.

    Settings are those of QueueConfig: random and seed. Raises UsageError for a run with nothing to review.
    """
    chosen = configured(QueueConfig, config, settings)
    with opened(store, SILENT, read_only=True) as found, found.snapshot():
        return summarise(found, run_in(found, run), chosen)


def export_reviews(store: StoreLike, out: PathLike, run: RunLike = None, **settings: Any) -> Path:
    """Writes the pairs to review with people's answers to a new file; returns its path.

    The file ends in .csv, .argilla.json or .label-studio.json. Settings are those of QueueConfig. Raises
    UsageError for another name or an existing file.
    """
    chosen = configured(QueueConfig, None, settings)
    with opened(store, SILENT, read_only=True) as found, found.snapshot():
        exchange.export_reviews(found, run_in(found, run), chosen, Path(out))
    return Path(out)


def import_reviews(
    store: StoreLike, answers: Any, reviewer: str | None = None, run: RunLike = None, **settings: Any
) -> ReviewImport:
    """Adds people's answers from a .csv or .tsv file, or a table: query_id, doc_id, answer, reviewer.

    `reviewer` is whose the rows without a name are. Raises InputError for a wrong row.
    """
    is_file = isinstance(answers, str | os.PathLike)
    chosen = configured(QueueConfig, None, settings)
    with opened(store, SILENT) as found:
        source = Path(answers) if is_file else answers
        return exchange.import_reviews(found, run_in(found, run), source, reviewer, chosen)


def relabel_by_judge(
    store: StoreLike,
    run: RunLike = None,
    config: RelabelByJudgeConfig | None = None,
    *,
    dry_run: bool = False,
    workers: int | None = None,
    progress: Reports = None,
    **settings: Any,
) -> RelabelByJudgeReport:
    """Makes judgments of a run's candidates that the judge of `judge` calls relevant, and decides again.

    `dry_run` only reports; `undo_relabel` undoes it. Settings are those of RelabelByJudgeConfig. Raises
    UsageError if no judge graded pairs of the run, or its measured kappa is too low.
    """
    chosen = configured(RelabelByJudgeConfig, config, settings)
    with progress_for(progress) as reports, opened(store, reports, read_only=dry_run) as found:
        own = run_in(found, run)
        return relabelling.relabel_by_judge(found, own, chosen, reports, dry_run=dry_run, workers=workers)


def undo_relabel(store: StoreLike) -> int:
    """Removes all judgments that `relabel` or `relabel_by_people` made, and the runs made with them.

    Returns how many judgments.
    """
    with opened(store, SILENT) as found:
        judgments, _, _ = remove_relabelled(found)
        return judgments


def report(
    store: StoreLike,
    out: PathLike,
    run: RunLike = None,
    against: RunLike = None,
    *,
    training: Sequence[PathLike] = (),
) -> WrittenPage:
    """Writes an HTML page on a run to the file `out`, in place of a file that is there.

    `against` is another run to set beside it. `training` are folders of trained models and of benches, whose
    curves and verdicts the page shows too. Raises UsageError for a run against itself or a folder without
    such a record.
    """
    require_order(store, out, "report(store, out)")
    with opened(store, SILENT, read_only=True) as found, found.snapshot():
        own = run_in(found, run)
        beside = None if against is None else run_in(found, against)
        return write_report(found, Path(out), own, beside, training=[Path(one) for one in training])
