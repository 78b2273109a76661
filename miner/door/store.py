"""The objects that a person holds: a store, and the runs in it with what is done to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from miner.auditing.audit import Audit, JudgedOutcomes
from miner.auditing.calibrate import Calibration
from miner.auditing.config import AuditConfig, CalibrationConfig
from miner.auditing.labels import FalseNegativeRate, LabelSample, SampleConfig
from miner.auditing.relabel import RelabelConfig, RelabelReport
from miner.curation.contamination import ContaminationReport
from miner.curation.dedup import DedupConfig, DedupReport
from miner.door import operations, quality
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
from miner.door.triplets import Triplets
from miner.engine.progress import SILENT
from miner.engine.progress_bars import progress_for
from miner.errors import MinerError, counted
from miner.evaluation.result import Evaluation
from miner.export import ExportConfig, ExportReport, training_rows
from miner.export import export_run as write_export
from miner.generation.generate import GenerationReport
from miner.html_report import WrittenPage
from miner.judging.config import JudgeConfig
from miner.judging.judge import JudgeReport
from miner.mining import diff as differing
from miner.mining import explain as explaining
from miner.mining import pipeline
from miner.mining.config import MiningConfig
from miner.mining.diff import Differences
from miner.mining.explain import Explanation
from miner.reporting.readable import escaped, html_table
from miner.reporting.tables import percent, percent_interval
from miner.sources import IngestReport, SourceConfig
from miner.stats import with_interval
from miner.store import corpus, database, verdicts
from miner.store import runs as stored
from miner.store import triplets as mined
from miner.store.audits import last_audit
from miner.store.labels import false_negative_rate_of

if TYPE_CHECKING:
    from datasets import Dataset

    from miner.training.encoder_config import EncoderConfig
    from miner.training.model_card import EncoderReport
    from miner.workflows.tune import TuneReport


class Store(database.Database):
    """A store: documents, queries, judgments, and all that was mined from them, in one DuckDB file.

    `Store.open` opens one, `Store.create` makes one. An open store keeps other processes from writing to it
    until it is closed, by `close` or at the end of a `with` block; with `read_only=True` it does not.
    """

    @classmethod
    def create(cls, path: PathLike) -> Self:
        """Makes a store at `path` and opens it; opens the one that is there, if there is one.

        Raises StoreError for a file that is not a store, and when another process uses it.
        """
        return cls.open(path, create=True)

    def ingest(
        self, sources: Any, config: SourceConfig | None = None, *, progress: Reports = None, **settings: Any
    ) -> IngestReport:
        """Adds one source or several, see `miner.ingest`; returns what was added."""
        return operations.ingest(self, sources, config, progress=progress, **settings)

    def mine(
        self,
        config: MiningConfig | None = None,
        *,
        for_: str | None = None,
        name: str | None = None,
        workers: int | None = None,
        progress: Reports = None,
        **settings: Any,
    ) -> Run:
        """Mines triplets with hard negatives, see `miner.mine`; returns the run."""
        return mine(self, config, for_=for_, name=name, workers=workers, progress=progress, **settings)

    def run(self, name: str | None = None) -> Run:
        """Returns the finished run of that name; without a name, the one that finished last."""
        return find_run(self, name)

    def runs(self) -> list[Run]:
        """Returns all runs, the oldest first."""
        return runs(self)

    def dedup(
        self, config: DedupConfig | None = None, *, progress: Reports = None, **settings: Any
    ) -> DedupReport:
        """Finds copies among the documents and among the queries, see `miner.dedup`."""
        return operations.dedup(self, config, progress=progress, **settings)

    def contamination(
        self, evaluation: StoreLike, *, remove: bool = False, progress: Reports = None, **settings: Any
    ) -> ContaminationReport:
        """Finds evaluation texts of another store that also occur in this one, see `miner.contamination`."""
        return operations.contamination(self, evaluation, remove=remove, progress=progress, **settings)

    def generate(self, model: str, *, progress: Reports = None, **settings: Any) -> GenerationReport:
        """Has a language model write queries from the documents, see `miner.generate`."""
        return operations.generate(self, model, progress=progress, **settings)

    def train(
        self, out: PathLike, config: EncoderConfig | None = None, *, progress: Reports = None, **settings: Any
    ) -> EncoderReport:
        """Trains an encoder on a run or on judgments into the folder `out`, see `miner.train`."""
        return operations.train(self, out, config, progress=progress, **settings)

    def tune(self, work: PathLike | None = None, *, progress: Reports = None, **settings: Any) -> TuneReport:
        """Finds the negatives that train best, see `miner.tune`."""
        return operations.tune(self, work, progress=progress, **settings)

    def evaluate(self, model: PathLike, *, progress: Reports = None, **settings: Any) -> list[Evaluation]:
        """Measures a model on a split, see `miner.evaluate`."""
        return operations.evaluate(self, model, progress=progress, **settings)

    def report(
        self,
        out: PathLike,
        run: RunLike = None,
        against: RunLike = None,
        *,
        training: Sequence[PathLike] = (),
    ) -> WrittenPage:
        """Writes an HTML page on a run to the file `out`, see `miner.report`."""
        return quality.report(self, out, run, against, training=training)

    def sql(self, query: str) -> pa.Table:
        """Returns the result of one SELECT over the store, see `miner.sql`."""
        return operations.sql(self, query)

    def __repr__(self) -> str:
        state = " (closed)" if self.closed else " (to read)" if self.read_only else ""
        return f"Store({str(self.path)!r}){state}"

    def _repr_html_(self) -> str:
        try:
            with opened(self, SILENT, read_only=True) as store:
                counts = corpus.counts(store)
        except MinerError as error:
            return escaped(f"{self!r}: {error}")
        return f"<b>{escaped(repr(self))}</b>" + html_table(
            ["table", "rows"], [(name, f"{number:,}") for name, number in counts.items()]
        )


@dataclass(frozen=True, repr=False)
class Run(stored.StoredRun):
    """One run of a store: its settings, and methods that use its evidence and decisions.

    It outlives its store: when that is closed, each method opens it again for the call.
    """

    store: StoreLike = field(compare=False)
    """The store that holds it, or its path."""

    def decide(
        self,
        config: MiningConfig | None = None,
        *,
        for_: str | None = None,
        name: str | None = None,
        progress: Reports = None,
        **settings: Any,
    ) -> Run:
        """Decides again with other rules or another selection, see `miner.decide`; returns the new run."""
        return decide(self.store, self, config, for_=for_, name=name, progress=progress, **settings)

    def audit(self, config: AuditConfig | None = None, *, progress: Reports = None, **settings: Any) -> Audit:
        """Measures the hidden-positive rate of this run, see `miner.audit`."""
        return quality.audit(self.store, self, config, progress=progress, **settings)

    def sample_to_label(
        self, config: SampleConfig | None = None, *, out: PathLike | None = None, **settings: Any
    ) -> LabelSample:
        """Draws a random sample of the negatives to label, see `miner.sample_to_label`."""
        return quality.sample_to_label(self.store, self, config, out=out, **settings)

    def false_negative_rate(self, labels: Any = None) -> FalseNegativeRate:
        """Returns the share of the negatives that are relevant, see `miner.false_negative_rate`."""
        return quality.false_negative_rate(self.store, labels, self)

    def compare_with_judgments(self, judgments: Any) -> JudgedOutcomes:
        """Returns the relevant share of judged negatives, see `miner.compare_with_judgments`."""
        return quality.compare_with_judgments(self.store, judgments, self)

    def calibrate(
        self,
        target: float | None = 0.02,
        config: CalibrationConfig | None = None,
        *,
        progress: Reports = None,
        **settings: Any,
    ) -> Calibration:
        """Finds the rules that meet a target rate, by labels or hidden positives, see `miner.calibrate`."""
        return quality.calibrate(self.store, self, target, config, progress=progress, **settings)

    def judge(
        self,
        models: str | Sequence[str],
        config: JudgeConfig | None = None,
        *,
        progress: Reports = None,
        **settings: Any,
    ) -> JudgeReport:
        """Has a language model grade pairs of this run, see `miner.judge`."""
        return quality.judge(self.store, models, self, config, progress=progress, **settings)

    def relabel(
        self,
        config: RelabelConfig | None = None,
        *,
        dry_run: bool = False,
        progress: Reports = None,
        **settings: Any,
    ) -> RelabelReport:
        """Makes judgments of likely suspected positives, see `miner.relabel`."""
        return quality.relabel(self.store, self, config, dry_run=dry_run, progress=progress, **settings)

    def explain(self, query_id: str) -> Explanation:
        """Returns what became of every candidate of a query, and why."""
        return explain(self.store, query_id, self)

    def diff(self, other: RunLike) -> Differences:
        """Returns what changed from this run to another one."""
        return diff(self.store, self, other)

    def triplets(self, *, texts: bool = False) -> Triplets:
        """Returns the triplets, with `texts` also the texts of query, positive and negative."""
        return triplets(self.store, self, texts=texts)

    def to_dataset(
        self, format: str = "triplet", *, scores: bool = False, negatives_per_row: int | None = None
    ) -> Dataset:
        """Returns the triplets as a datasets.Dataset that sentence-transformers trains on as it is.

        Its columns are those of an export format: anchor, positive, negative for `triplet`. `scores` adds the
        deciding scores; `negatives_per_row` is their number in an `n-tuple`. Raises as `miner.export_run`.
        """
        from datasets import Dataset

        config = ExportConfig(self.name, format, None, scores, negatives_per_row)
        with opened(self.store, SILENT, read_only=True) as store, store.snapshot():
            return Dataset(training_rows(store, config))

    def export(
        self,
        out: PathLike,
        config: ExportConfig | None = None,
        *,
        progress: Reports = None,
        **settings: Any,
    ) -> ExportReport:
        """Writes the triplets to a folder as training data, see `miner.export_run`."""
        return export_run(self.store, out, config, progress=progress, **{"run": self.name, **settings})

    def train(
        self, out: PathLike, config: EncoderConfig | None = None, *, progress: Reports = None, **settings: Any
    ) -> EncoderReport:
        """Trains an encoder on this run, see `miner.train`, and writes it to the folder `out`."""
        return operations.train(self.store, out, config, progress=progress, **{"run": self.name, **settings})

    def tune(self, work: PathLike | None = None, *, progress: Reports = None, **settings: Any) -> TuneReport:
        """Finds the negatives of this run that train best, see `miner.tune`."""
        return operations.tune(self.store, work, progress=progress, **{"run": self.name, **settings})

    def __repr__(self) -> str:
        try:
            with opened(self.store, SILENT, read_only=True) as store, store.snapshot():
                return f"Run '{self.name}' of split {self.split}: {_summary(store, self)}"
        except MinerError as error:
            return f"Run '{self.name}' of split {self.split} ({error.message})"

    def _repr_html_(self) -> str:
        try:
            with opened(self.store, SILENT, read_only=True) as store, store.snapshot():
                scorers = " + ".join(one.name for one in self.scorers)
                counts = verdicts.verdict_counts(store, self)
                line = _summary(store, self)
        except MinerError:
            return escaped(repr(self))
        total = sum(number for *_, number in counts)
        rows = [(verdict, why or "", f"{n:,}", percent(n / total)) for verdict, why, n in counts]
        table = html_table(["verdict", "reason", "candidates", "share"], rows, left=(0, 1))
        head = escaped(f"run {self.name}, split {self.split}, by {scorers}")
        return f"<b>{head}</b><br>{escaped(line)}{table}"


def _summary(store: database.Database, run: stored.StoredRun) -> str:
    """Returns the number of triplets, the coverage, and the rates of the last audit, if there was one."""
    if run.status != "done":
        return "not finished"
    if not mined.triplet_count(store, run):
        return "no negatives"
    found = last_audit(store, run)
    rate = "not audited"
    if found is not None:
        measured = found["hidden_positive_rate"]
        interval = percent_interval(measured["low"], measured["high"], 2)
        rate = f"hidden-positive rate {percent(measured['rate'], 2)} {interval}"
    if (labelled := false_negative_rate_of(store, run)) is not None:
        interval = with_interval(labelled["rate"], labelled["low"], labelled["high"])
        by_labels = f"false-negative rate {interval}"
        rate = by_labels if found is None else f"{by_labels}, {rate}"
    triplets = counted(mined.triplet_count(store, run), "triplet")
    return f"{triplets}, coverage {percent(verdicts.coverage(store, run))}, {rate}"


def _public(store: StoreLike, run: stored.StoredRun) -> Run:
    """Returns a run of the store as the object with methods."""
    return Run(**{**vars(run), "store": store})


def runs(store: StoreLike) -> list[Run]:
    """Returns all runs of a store, the oldest first."""
    with opened(store, SILENT, read_only=True) as found:
        return [_public(store, run) for run in stored.runs(found)]


def find_run(store: StoreLike, name: str | None = None) -> Run:
    """Returns the finished run of that name; without a name, the one that finished last.

    Raises StoreError if there is none, UsageError for a name that no finished run has.
    """
    with opened(store, SILENT, read_only=True) as found:
        return _public(store, stored.find_run(found, name))


def remove_runs(store: StoreLike, *removed: stored.StoredRun | str) -> None:
    """Removes runs with their decisions, triplets, audits and samples to label; labels that were read stay.

    Evidence that no other run uses is removed too. Raises UsageError for a name that no run has; then nothing
    is removed.
    """
    names = [run.name if isinstance(run, stored.StoredRun) else run for run in removed]
    with opened(store, SILENT) as found:
        stored.remove_runs(found, names)


def mine(
    store: StoreLike,
    config: MiningConfig | None = None,
    *,
    for_: str | None = None,
    name: str | None = None,
    workers: int | None = None,
    progress: Reports = None,
    **settings: Any,
) -> Run:
    """Mines triplets with hard negatives: retrieves, reranks, decides, selects; returns the run.

    Settings are those of MiningConfig, Rules and Selection. A rule that is named replaces the default rule.
    `for_` is what you train, which sets the selection: mnr, distillation or reranker. Other settings go over
    it. The same call after a kill continues where it stopped. Raises UsageError and ModelError.
    """
    chosen = configured(MiningConfig, config, settings, for_)
    with progress_for(progress) as reports, opened(store, reports) as found:
        return _public(store, pipeline.mine(found, chosen, name=name, workers=workers, progress=reports))


def decide(
    store: StoreLike,
    run: RunLike = None,
    config: MiningConfig | None = None,
    *,
    for_: str | None = None,
    name: str | None = None,
    progress: Reports = None,
    **settings: Any,
) -> Run:
    """Applies other rules and another selection to a run's stored evidence; returns the new run.

    No model runs. What no setting names stays as in that run, except that naming a rule replaces all of its
    rules. Settings are those of Rules and Selection, or `rules=Rules(…)`. The preset `for_` goes over the
    selection of the run, and settings over the preset. Raises UsageError for settings that need another
    search.
    """
    with progress_for(progress) as reports, opened(store, reports) as found:
        before = run_in(found, run)
        chosen = configured(MiningConfig, config or pipeline.config_of(before), settings, for_)
        note_stale(found, before, reports)
        again = pipeline.decide_again(found, before, chosen, name=name, progress=reports)
        return _public(store, again)


def explain(store: StoreLike, query_id: str, run: RunLike = None) -> Explanation:
    """Returns what became of every candidate of a query in a run, and why.

    Raises StoreError for an unknown query, UsageError for a run without it.
    """
    require_order(store, query_id, "explain(store, query_id)")
    with opened(store, SILENT, read_only=True) as found, found.snapshot():
        explanation = explaining.explain(found, query_id, run_in(found, run).name)
        return replace(explanation, run=_public(store, explanation.run))


def diff(store: StoreLike, before: RunLike, after: RunLike) -> Differences:
    """Returns what changed from one run to another, and why."""
    with opened(store, SILENT, read_only=True) as found, found.snapshot():
        return differing.differences(found, run_in(found, before).name, run_in(found, after).name)


def triplets(store: StoreLike, run: RunLike = None, *, texts: bool = False) -> Triplets:
    """Returns a run's triplets in order of query_id, positive_id and rank.

    The columns are query_id, positive_id, negative_id, positive_score, negative_score and rank; with `texts`
    also query, positive and negative.
    """
    with opened(store, SILENT, read_only=True) as found, found.snapshot():
        own = run_in(found, run)
        return Triplets(mined.triplets(found, own, texts=texts), _public(store, own))


def export_run(
    store: StoreLike,
    out: PathLike,
    config: ExportConfig | None = None,
    *,
    progress: Reports = None,
    **settings: Any,
) -> ExportReport:
    """Writes a run's triplets to the new folder `out` as training data, with a manifest and a card.

    Settings are those of ExportConfig. Raises UsageError for settings that do not fit together or a folder
    that is in use, StoreError if the run has no triplets.
    """
    require_order(store, out, "export_run(store, out)")
    chosen = configured(ExportConfig, config, settings)
    with progress_for(progress) as reports, opened(store, reports, read_only=True) as found, found.snapshot():
        return write_export(found, Path(out), chosen, reports)
