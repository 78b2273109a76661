"""The audit: hides known positives, decides again, and reports the share that is selected as negatives.

Nothing is searched or scored: the stored evidence is decided again as if nobody had judged the hidden ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.auditing.config import AuditConfig
from miner.auditing.hiding import Hideable
from miner.auditing.replay import NOT_FOUND, LeftSums, NegativesLeft, Replay, Replays, Trial
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
from miner.store.scorers import IMPORTED, Scorer
from miner.store.verdicts import verdicts_of

Flags = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int32]
Codes = npt.NDArray[np.int16]

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
    replays = Replays.of(store, run)
    if among is not None:
        replays = replace(replays, hideable=replays.hideable.among(among))
    require_hideable(store, run, replays.hideable)
    decided = _Decided.of(replays, settings, progress)
    result = _audit(store, run, replays, settings, decided)
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


@dataclass(frozen=True)
class _Trial:
    """What became of the positives of a run in one repeat: arrays of one length."""

    hidden: Flags
    outcome: Codes
    """As in `replay.Trial`."""
    rank: Positions
    """The fused rank of the candidate that each is, or of the copy that replaces it; 0 without either."""
    returned: Mapping[Scorer, Flags]
    """Whether each retriever returned that candidate."""

    @classmethod
    def of(cls, hidden: Flags, retrievers: Sequence[Scorer]) -> _Trial:
        """Returns a trial of which nothing is known yet."""
        outcome, rank = np.full(len(hidden), NOT_FOUND, dtype=np.int16), np.zeros(len(hidden), dtype=np.int32)
        return cls(hidden, outcome, rank, {one: np.zeros(len(hidden), dtype=np.bool_) for one in retrievers})

    def add(self, replay: Replay, trial: Trial, returned: Mapping[Scorer, Flags]) -> None:
        """Enters what became of the positives of some queries; `returned` is of their candidates."""
        found = trial.row >= 0
        self.outcome[replay.rows] = trial.outcome
        self.rank[replay.rows] = np.where(found, np.append(replay.fused_rank, 0)[trial.row], 0)
        for retriever, flags in returned.items():
            self.returned[retriever][replay.rows] = found & np.append(flags, False)[trial.row]

    @property
    def selected(self) -> Flags:
        """Whether each positive was hidden and selected as a negative."""
        return self.hidden & (self.outcome < KEPT)


@dataclass(frozen=True)
class _Decided:
    """What an audit decided, over all queries."""

    trials: list[_Trial]
    left: list[LeftSums]
    """The negatives in each trial."""
    mined: LeftSums
    """The negatives of the run itself."""
    retrievers: list[Scorer]
    """Those that returned a candidate."""
    weak_positives: int

    @classmethod
    def of(cls, replays: Replays, settings: AuditConfig, progress: Progress) -> _Decided:
        """Decides by ranges of queries: as mined, and with each draw of positives hidden."""
        store, run, hideable = replays.store, replays.run, replays.hideable
        hidden = [hideable.nothing, *map(hideable.hide, hideable.draws(settings))]
        trials = [_Trial.of(one.flags, run.retrievers) for one in hidden]
        left, weak, retrievers = [LeftSums()] * len(hidden), 0, set()
        served = [np.zeros(len(replays.documents.ids), dtype=np.int64) for _ in hidden]
        ranges = replays.ranges()
        with progress.task("auditing", len(ranges) * settings.repeats, unit="repeats") as advance:
            for numbers in ranges:
                replay = replays.part(numbers)
                returned = {
                    one: np.isfinite(candidate_ranks(store, run, one, numbers)) for one in run.retrievers
                }
                retrievers |= {one for one, flags in returned.items() if flags.any()}
                weak += stored.weak_positive_count(store, run, numbers)
                for number, one in enumerate(hidden):
                    trial = replay.decide(replay.hide(one), served[number])
                    trials[number].add(replay, trial, returned)
                    left[number] += trial.left
                    advance(min(1, number))  # the first is no repeat
        found = [one for one in run.retrievers if one in retrievers]
        return cls(trials[1:], left[1:], left[0], found, weak)


def _audit(
    store: Database, run: StoredRun, replays: Replays, settings: AuditConfig, decided: _Decided
) -> Audit:
    hideable, trials = replays.hideable, decided.trials
    everything = [trial.hidden for trial in trials]
    singles = int((hideable.single & hideable.allowed).sum())
    return Audit(
        run=run.name,
        rules=in_force(replays.config),
        settings=settings,
        negatives=run.negatives,
        positives=len(hideable.allowed),
        hideable=int(hideable.allowed.sum()),
        cannot_hide=hideable.cannot_hide(),
        queries=len(np.unique(hideable.positives.owner)),
        single_positive_queries=singles,
        fallback=FALLBACK if singles and uses_reference(replays.config) else None,
        unknown_training=models_of_unknown_training(store, run),
        calibrated_on=stored.calibrated_on(store, run),
        hidden=float(np.mean([trial.hidden.sum() for trial in trials])),
        hidden_positive_rate=_selected(hideable, trials, everything),
        by_retriever={
            one.name: _selected(hideable, trials, [trial.returned[one] for trial in trials])
            for one in decided.retrievers
        },
        by_rank={name: _selected(hideable, trials, one) for name, one in _by_rank(trials)},
        outcomes=_outcomes(hideable, trials),
        as_mined=NegativesLeft.of(decided.mined),
        as_audited=NegativesLeft.mean([NegativesLeft.of(left) for left in decided.left]),
        weak_positives=decided.weak_positives,
    )


def _outcomes(hideable: Hideable, trials: list[_Trial]) -> dict[str, Rate]:
    codes = np.unique(np.concatenate([np.unique(trial.outcome[trial.hidden]) for trial in trials])).tolist()
    everything, rates = [trial.hidden for trial in trials], {}
    for name in dict.fromkeys(map(_outcome, codes)):
        alike = [code for code in codes if _outcome(code) == name]
        flags = [trial.hidden & np.isin(trial.outcome, alike) for trial in trials]
        rates[name] = _rate(hideable, flags, everything)
    return dict(sorted(rates.items(), key=lambda one: (-one[1].hits, one[0])))


def _outcome(code: int) -> str:
    if code == NOT_FOUND:
        return "not_found"
    if code < KEPT:
        return "negative"
    return "kept" if code == KEPT else str(REASONS[code % SUSPECTED])


def _selected(hideable: Hideable, trials: list[_Trial], among: list[Flags]) -> Rate:
    """The share of hidden positives that were selected, of those `among` in each trial."""
    hidden = [trial.hidden & some for trial, some in zip(trials, among, strict=True)]
    return _rate(
        hideable, [trial.selected & some for trial, some in zip(trials, hidden, strict=True)], hidden
    )


def _rate(hideable: Hideable, hits: list[Flags], of: list[Flags]) -> Rate:
    """The share of the positives in `of` that are in `hits`, over all trials; the clusters are queries."""
    owner, queries = hideable.positives.owner, hideable.positives.queries
    counts, totals = np.zeros(queries, dtype=np.int64), np.zeros(queries, dtype=np.int64)
    for hit, one in zip(hits, of, strict=True):
        counts += np.bincount(owner[hit], minlength=queries)
        totals += np.bincount(owner[one], minlength=queries)
    return clustered_rate(counts, totals, int(np.logical_or.reduce(of).sum()))


def _by_rank(trials: list[_Trial]) -> Iterator[tuple[str, list[Flags]]]:
    low = 1
    for high in BANDS:
        yield f"{low}-{high}", [(trial.rank >= low) & (trial.rank <= high) for trial in trials]
        low = high + 1
    yield f"from {low}", [trial.rank >= low for trial in trials]


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
