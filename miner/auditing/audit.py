"""The audit: hides known positives, decides again, and reports the share that is selected as negatives.

Nothing is searched or scored: the stored evidence is decided again as if nobody had judged the hidden ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.auditing.config import AuditConfig
from miner.auditing.hiding import Hideable
from miner.auditing.replay import NOT_FOUND, NegativesLeft, Replay, Trial
from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.mining.rules import KEPT, REASONS, in_force, uses_reference
from miner.mining.unscored import other_deciders
from miner.reporting.readable import Readable
from miner.schema import SUSPECTED
from miner.stats import Rate, clustered_rate
from miner.store import audits as stored
from miner.store.database import Database
from miner.store.evidence import candidate_ranks
from miner.store.models import models_of_unknown_training, trained_models
from miner.store.runs import StoredRun
from miner.store.scorers import IMPORTED
from miner.store.verdicts import verdicts_of

Flags = npt.NDArray[np.bool_]

BANDS = (5, 10, 20, 50, 100)
"""The last fused rank of each band of ranks that is reported."""
CAVEAT = (
    "The hidden-positive rate is not the false-negative rate. Hidden positives are positives that somebody "
    "found; relevant documents that nobody judged can rank and score otherwise, and be selected more often. "
    "Only labels of negatives measure those."
)
FALLBACK = "the median score of the visible positives"
"""What margins start from in a query whose only positive is hidden."""


@dataclass(frozen=True, repr=False)
class Audit(Readable):
    """The result of an audit."""

    run: str
    rules: str
    """The rules in force, with the reference positive if one is used."""
    settings: AuditConfig
    negatives: int
    """Negatives requested per query."""
    positives: int
    """All positives of the run."""
    hideable: int
    """How many of them may be hidden."""
    cannot_hide: dict[str, int]
    """How many may not be hidden, by reason (`stored.CANNOT_HIDE`)."""
    queries: int
    """All queries of the run."""
    single_positive_queries: int
    """How many of them have a single positive, which may be hidden: nothing is known of them then."""
    fallback: str | None
    """What replaces the reference positive in these; None if the rules need none, or there are none."""
    unknown_training: list[str]
    """Models of the run whose training data the store does not know."""
    calibrated_on: dict[str, Any] | None
    """The calibration that chose the rules on these positives (`stored.calibrated_on`), if there is one."""
    hidden: float
    """Mean number of positives hidden per repeat."""
    hidden_positive_rate: Rate
    """The share of hidden positives that are selected as negatives."""
    by_retriever: dict[str, Rate]
    """The hidden-positive rate among those that each retriever returned."""
    by_rank: dict[str, Rate]
    """The hidden-positive rate by fused rank."""
    outcomes: dict[str, Rate]
    """The share of the hidden positives with each outcome: `negative`, `kept`, `not_found`, or the reason
    that dropped them. The most frequent first."""
    as_mined: NegativesLeft
    """The negatives of the run itself."""
    as_audited: NegativesLeft
    """The negatives with positives hidden, mean over the repeats."""
    weak_positives: int
    """Judged positives that score below all negatives of their query by every scorer that scored both, and by
    at least one (view `weak_positives`)."""

    def as_text(self) -> str:
        """Returns the tables of the audit, as `miner audit` shows them."""
        from miner.auditing.report import audit_table  # which needs this module

        return audit_table(self, "STORE")

    def __repr__(self) -> str:
        return f"Audit of run '{self.run}': hidden-positive rate {self.hidden_positive_rate}"

    def as_json(self) -> dict[str, Any]:
        """Returns the audit as JSON-able values."""
        return {**asdict(self), "caveat": CAVEAT}


def audit(
    store: Database,
    run: StoredRun,
    settings: AuditConfig,
    progress: Progress = SILENT,
    *,
    among: pa.Table | None = None,
) -> Audit:
    """Returns the hidden-positive rate of a run, and what its rules cost; stores the result.

    Only positives that no model of the run was trained on are hidden. With `among` (query_id, doc_id) only
    those pairs are hidden, and the result is not stored. No model runs. Raises UsageError if no positive may
    be hidden, or if the run has no negatives, with and without hidden positives.
    """
    replay = Replay.of(store, run)
    if among is not None:
        replay = replace(replay, hideable=replay.hideable.among(among))
    require_hideable(store, run, replay.hideable)
    trials = []
    with progress.task("auditing", settings.repeats, unit="repeats") as advance:
        for hidden in replay.hideable.draws(settings):
            trials.append(replay.decide(replay.hide(hidden)))
            advance(1)
    result = _audit(store, run, replay, settings, trials)
    if not result.as_mined.per_query and not result.as_audited.per_query:
        raise UsageError(
            f"run '{run.name}' has no negatives, so its hidden-positive rate is not measured",
            f"decide again with other rules, or mine deeper: {result.rules} left none",
        )
    if among is None:
        stored.keep_audit(store, run, asdict(settings), result.as_json())
    return result


def require_hideable(store: Database, run: StoredRun, hideable: Hideable) -> None:
    """Raises UsageError, with what to do, if no positive of the run may be hidden."""
    if hideable.allowed.any():
        return
    numbers = hideable.cannot_hide()
    causes = ", ".join(f"{number:,} {stored.CANNOT_HIDE[reason]}" for reason, number in numbers.items())
    hints = [_hint(store, run, reason) for reason in sorted(numbers, key=lambda reason: -numbers[reason])]
    raise UsageError(f"no positive of run '{run.name}' can be hidden: {causes}", "; or ".join(hints))


_HINTS = {
    "only": "judge more documents of these queries",
    "alone": "judge more pairs of query and document",
    "relabelled": "take them back with miner relabel --undo",
    "same_text": "give queries with the same text one id",
    "label": "a document with the query's label stays a positive whatever is hidden: label a sample of the "
    "negatives instead, with miner audit --label 200 --out sample.csv",
    "other_split": "judge a pair in one split only",
    "not_withheld": "train with more of them withheld",
    "not_scored": "mine with a model that gives finite scores",
}


def _hint(store: Database, run: StoredRun, reason: str) -> str:
    """What to do about positives that may not be hidden for this reason."""
    if reason == "not_scored" and run.deciding.kind == IMPORTED:
        return other_deciders(store, run)
    if reason != "trained":
        return _HINTS[reason]
    hints = []
    known = trained_models(store, run)
    if any(one.is_encoder and one.model in known for one in run.scorers):
        hints.append(f"train the encoder on fewer, with miner train {store.path} OUT --set withheld=0.3")
    if any(one.model in known for one in run.rerankers):
        hints.append(
            f"train the reranker on fewer, with miner train-reranker {store.path} OUT --set withheld=0.3 "
            "or --folds 2"
        )
    return f"{' and '.join(hints)}, and mine with {'that' if len(hints) == 1 else 'those'}"


def _audit(
    store: Database, run: StoredRun, replay: Replay, settings: AuditConfig, trials: list[Trial]
) -> Audit:
    hideable = replay.hideable
    none = np.zeros(len(hideable.allowed), dtype=np.bool_)
    everything = [trial.hidden for trial in trials]
    singles = int((hideable.single & hideable.allowed).sum())
    return Audit(
        run=run.name,
        rules=in_force(replay.config),
        settings=settings,
        negatives=run.negatives,
        positives=len(none),
        hideable=int(hideable.allowed.sum()),
        cannot_hide=hideable.cannot_hide(),
        queries=len(np.unique(hideable.positives.owner)),
        single_positive_queries=singles,
        fallback=FALLBACK if singles and uses_reference(replay.config) else None,
        unknown_training=models_of_unknown_training(store, run),
        calibrated_on=stored.calibrated_on(store, run),
        hidden=float(np.mean([trial.hidden.sum() for trial in trials])),
        hidden_positive_rate=_selected(replay, trials, everything),
        by_retriever={
            name: _selected(replay, trials, one) for name, one in _by_retriever(store, run, trials)
        },
        by_rank={name: _selected(replay, trials, one) for name, one in _by_rank(replay, trials)},
        outcomes=_outcomes(replay, trials),
        as_mined=replay.decide(replay.hide(none)).left,
        as_audited=NegativesLeft.mean([trial.left for trial in trials]),
        weak_positives=stored.weak_positives(store, run).num_rows,
    )


def _outcomes(replay: Replay, trials: list[Trial]) -> dict[str, Rate]:
    codes = np.unique(np.concatenate([trial.outcome[trial.hidden] for trial in trials])).tolist()
    flags: dict[str, list[Flags]] = {}
    for name in dict.fromkeys(map(_outcome, codes)):
        alike = [code for code in codes if _outcome(code) == name]
        flags[name] = [trial.hidden & np.isin(trial.outcome, alike) for trial in trials]
    everything = [trial.hidden for trial in trials]
    rates = {name: _rate(replay, some, everything) for name, some in flags.items()}
    return dict(sorted(rates.items(), key=lambda one: (-one[1].hits, one[0])))


def _outcome(code: int) -> str:
    if code == NOT_FOUND:
        return "not_found"
    if code < KEPT:
        return "negative"
    return "kept" if code == KEPT else str(REASONS[code % SUSPECTED])


def _selected(replay: Replay, trials: list[Trial], among: list[Flags]) -> Rate:
    """The share of hidden positives that were selected, of those `among` in each trial."""
    hidden = [trial.hidden & some for trial, some in zip(trials, among, strict=True)]
    return _rate(replay, [trial.selected & some for trial, some in zip(trials, hidden, strict=True)], hidden)


def _rate(replay: Replay, hits: list[Flags], of: list[Flags]) -> Rate:
    """The share of the positives in `of` that are in `hits`, over all trials; the clusters are queries."""
    owner, queries = replay.hideable.positives.owner, replay.hideable.positives.queries
    counts, totals = np.zeros(queries, dtype=np.int64), np.zeros(queries, dtype=np.int64)
    for hit, one in zip(hits, of, strict=True):
        counts += np.bincount(owner[hit], minlength=queries)
        totals += np.bincount(owner[one], minlength=queries)
    return clustered_rate(counts, totals, int(np.logical_or.reduce(of).sum()))


def _by_retriever(store: Database, run: StoredRun, trials: list[Trial]) -> Iterator[tuple[str, list[Flags]]]:
    for retriever in run.retrievers:
        returned = np.isfinite(candidate_ranks(store, run, retriever))
        if returned.any():
            yield retriever.name, [(trial.row >= 0) & returned[trial.row] for trial in trials]


def _by_rank(replay: Replay, trials: list[Trial]) -> Iterator[tuple[str, list[Flags]]]:
    rank = [np.where(t.row >= 0, np.append(replay.fused_rank, 0)[t.row], 0) for t in trials]
    low = 1
    for high in BANDS:
        yield f"{low}-{high}", [(one >= low) & (one <= high) for one in rank]
        low = high + 1
    yield f"from {low}", [one >= low for one in rank]


@dataclass(frozen=True, repr=False)
class JudgedOutcomes(Readable):
    """A run compared with judgments that it was not mined on."""

    judgments: int
    """How many judgments were given."""
    matched: int
    """How many of them judge a candidate of the run."""
    relevant: dict[str, Rate]
    """The relevant share of the judged candidates with each outcome: `negative`, `kept`, or a reason. That of
    `negative` is the false-negative rate only if the judged negatives are a random sample of all."""

    def as_text(self) -> str:
        """Returns the table, as `miner audit --judged` shows it."""
        from miner.auditing.report import judged_table  # which needs this module

        return judged_table(self)


def compare_with_judgments(store: Database, run: StoredRun, judgments: pa.Table) -> JudgedOutcomes:
    """Returns the relevant share of a run's judged negatives, and of what each rule dropped.

    `judgments` has query_id, doc_id and relevance; above 0 is relevant. Raises UsageError if none of them
    judges a candidate of the run.
    """
    joined = verdicts_of(store, run).join(judgments, ["query_id", "doc_id"], join_type="inner")
    if not joined.num_rows:
        raise UsageError(
            f"none of the {judgments.num_rows:,} judgments is about a candidate of run '{run.name}'",
            "query and document ids must be those of the store",
        )
    rates = {}
    outcomes = pc.unique(joined["outcome"]).to_pylist()
    for outcome in sorted(outcomes, key=lambda name: (name != "negative", name)):
        part = joined.filter(pc.equal(joined["outcome"], outcome))
        _, query = np.unique(part["query_id"].to_numpy(), return_inverse=True)
        relevant = pc.greater(part["relevance"], 0).to_numpy()
        rates[outcome] = clustered_rate(np.bincount(query, relevant), np.bincount(query), part.num_rows)
    return JudgedOutcomes(judgments.num_rows, joined.num_rows, rates)
