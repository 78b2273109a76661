"""The audit: known positives are hidden, and counted is how many come back as negatives.

Nothing is searched or scored: the stored evidence is decided again as if nobody had judged them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.engine.progress import SILENT, Progress
from miner.errors import UsageError
from miner.evaluation.significance import Rate, clustered_rate
from miner.mining.audit_config import AuditConfig
from miner.mining.config import MiningConfig
from miner.mining.decide import Decider, Documents, Positives, deciding_score
from miner.mining.hiding import Hideable
from miner.mining.pipeline import config_of
from miner.mining.rules import KEPT, REASONS
from miner.retrieval.search import positions
from miner.schema import CANDIDATES_PER_QUERY, SUSPECTED
from miner.store import auditing as stored
from miner.store import evidence
from miner.store.database import Store
from miner.store.runs import Run

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.int16]

NOT_FOUND = np.iinfo(np.int16).max
"""The code of a hidden positive that no retriever returned."""
BANDS = (5, 10, 20, 50, 100)
"""Fused ranks up to which the leak is told apart."""
CANNOT_KNOW = (
    "Hidden positives are positives that somebody found. Those that nobody found may be harder to tell "
    "from negatives, or easier: the leak rate says nothing of them."
)


@dataclass(frozen=True)
class Yield:
    """What the rules leave, over all queries of the run."""

    per_query: float
    """Negatives, mean."""
    full: float
    """The share of queries that got as many as asked."""
    without: float
    """The share that got none."""
    rank: float | None
    """Mean fused rank of the negatives; None where there are none."""
    margin: float | None
    """Mean of the query's mean positive score minus the negative's, in the deciding score."""

    @classmethod
    def mean(cls, several: list[Yield]) -> Yield:
        """Returns the means over repeats; of rank and margin over those that have negatives."""
        columns = [[getattr(one, field.name) for one in several] for field in fields(cls)]
        known = [[value for value in column if value is not None] for column in columns]
        return cls(*[float(np.mean(values)) if values else None for values in known])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Audit:
    """What an audit found."""

    run: str
    settings: AuditConfig
    asked: int
    """Negatives per query."""
    positives: int
    """All of the run."""
    hideable: int
    barred: dict[str, int]
    """How many may not be hidden, by `stored.BARS`."""
    untold: list[str]
    """Models of the run of whose training the store knows nothing."""
    hidden: float
    """Positives hidden in a repeat, mean."""
    leak: Rate
    """Hidden positives that came back as negatives."""
    wrong: Rate
    """Negatives that are hidden positives, of those of the queries that had some hidden."""
    found_by: dict[str, Rate]
    """The leak among hidden positives that each retriever returned."""
    bands: dict[str, Rate]
    """The leak by fused rank."""
    outcomes: dict[str, int]
    """What became of the hidden positives, over all repeats; the leaked are `negative`."""
    as_mined: Yield
    """With nothing hidden."""
    as_audited: Yield
    """With positives hidden, mean over the repeats."""
    weak_positives: int
    """Judged positives below each of their query's negatives in every score: view `weak_positives`."""

    def as_json(self) -> dict[str, Any]:
        """Returns the audit as JSON-able values."""
        return {**asdict(self), "cannot_know": CANNOT_KNOW}


def audit(store: Store, run: Run, settings: AuditConfig, progress: Progress = SILENT) -> Audit:
    """Hides positives of a run, decides again, counts what leaks; stores the result and returns it.

    Only positives that no model of the run was trained on are hidden. No model runs. Raises UsageError
    when none may be hidden.
    """
    material = Material.of(store, run)
    require_hideable(store, run, material.hideable)
    trials = []
    with progress.task("auditing", settings.repeats, unit="repeats") as advance:
        for hidden in material.hideable.draws(settings):
            trials.append(material.trial(hidden))
            advance(1)
    found = _audit(store, run, material, settings, trials)
    stored.keep_audit(store, run, asdict(settings), found.as_json())
    return found


def require_hideable(store: Store, run: Run, hideable: Hideable) -> None:
    """Raises UsageError, with what to do, when no positive of the run may be hidden."""
    if hideable.allowed.any():
        return
    bars = hideable.bars()
    told = ", ".join(f"{number:,} {stored.BARS[bar]}" for bar, number in bars.items())
    hint = "an audit needs queries with two positives or more"
    if "trained" in bars:
        hint = (
            f"train on fewer: miner train-reranker {store.path} OUT --hold-out 0.3, or in --folds 2, "
            f"and mine with that"
        )
    raise UsageError(f"no positive of run '{run.name}' can be hidden: {told}", hint)


@dataclass(frozen=True)
class Trial:
    """One decision with some positives hidden."""

    hidden: Flags
    """Per positive."""
    outcome: Codes
    """Per positive, as in `decisions`, or NOT_FOUND; only of hidden ones does it say anything."""
    cost: Yield
    negatives: Ints
    """Negatives of each query."""

    @cached_property
    def leaked(self) -> Flags:
        """Whether each positive was hidden and came back as a negative."""
        return self.hidden & (self.outcome < KEPT)


@dataclass(frozen=True)
class Material:
    """A run's stored evidence, read once."""

    config: MiningConfig
    hideable: Hideable
    candidates: pa.Table
    """As `evidence.scored_candidates`."""
    documents: Documents
    fused_rank: Ints

    @classmethod
    def of(cls, store: Store, run: Run) -> Material:
        """Reads the evidence of a run; errors as `Hideable.of` and `config_of`."""
        config = config_of(run)
        candidates = evidence.scored_candidates(
            store, run.evidence, deciding_score(config), run.reranker, 0, np.iinfo(np.int64).max
        )
        fused = candidates["candidate"].to_numpy() % CANDIDATES_PER_QUERY
        hideable = Hideable.of(store, run, config, candidates)
        return cls(config, hideable, candidates, Documents(evidence.document_ids(store)), fused)

    @cached_property
    def query(self) -> Ints:
        """Each candidate's query number."""
        numbers: Ints = self.candidates["candidate"].to_numpy()
        return numbers // CANDIDATES_PER_QUERY

    @cached_property
    def score(self) -> Floats:
        """Each candidate's deciding score; NaN where the reranker was not asked."""
        return np.asarray(self.candidates["score"].to_numpy(), dtype=np.float64)

    @cached_property
    def best_rank(self) -> Ints:
        """The best rank that any retriever gave each candidate."""
        ranks: Ints = self.candidates["best_rank"].to_numpy().astype(np.int64)
        return ranks

    @cached_property
    def judged_negative(self) -> Flags:
        """Whether each candidate is known to be a negative."""
        return np.asarray(self.candidates["judged_negative"].to_numpy())

    @cached_property
    def order(self) -> Ints:
        """The rows by query, the best score first, then document: as `top` selects them."""
        place = positions(self.candidates["doc_id"], self.documents.ids)
        return np.lexsort((place, -self.score, self.query))

    def hidden_rows(self, hidden: Flags) -> Flags:
        """Returns whether each candidate is one of the hidden positives."""
        rows = np.zeros(len(self.query), dtype=np.bool_)
        row = self.hideable.row[hidden]
        rows[row[row >= 0]] = True
        return rows

    def trial(self, hidden: Flags) -> Trial:
        """Decides with these positives hidden."""
        visible, row = self.hideable.visible(hidden), self.hideable.row
        codes = self.codes(hidden)
        outcome = np.full(len(row), NOT_FOUND, dtype=np.int16)
        outcome[row >= 0] = codes[row[row >= 0]]
        chosen = np.flatnonzero(codes < KEPT)
        negatives = np.bincount(self.query[chosen], minlength=visible.queries)
        return Trial(hidden, outcome, self.cost(chosen, negatives, visible), negatives)

    def codes(self, hidden: Flags) -> Codes:
        """Returns every candidate's code, as in `decisions`, with these positives hidden."""
        decider = Decider(self.hideable.visible(hidden), self.documents, self.config)
        return np.concatenate([np.zeros(0, np.int16), *_codes(decider.decide(self.with_hidden(hidden)))])

    def with_hidden(self, hidden: Flags) -> pa.Table:
        """Returns the candidates as if nobody had judged the hidden positives."""
        found = hidden & (self.hideable.row >= 0)
        row = self.hideable.row[found]
        reasons = self.hideable.exclusions(hidden).filter(pa.array((self.hideable.row >= 0)[hidden]))
        exclusion = self.candidates["exclusion"].combine_chunks()
        known = exclusion.dictionary.to_pylist()
        none = len(known)
        codes = exclusion.indices.fill_null(none).to_numpy(zero_copy_only=False).copy()
        codes[row] = [none if reason is None else known.index(reason) for reason in reasons.to_pylist()]
        indices = pa.array(codes, exclusion.indices.type, mask=codes == none)
        column = pa.DictionaryArray.from_arrays(indices, exclusion.dictionary)
        table = _replaced(self.candidates, "exclusion", column)
        if self.config.rerank_depth is None:
            return table
        # Positives were scored at any rank; a candidate would not have been.
        score = self.score.copy()
        score[row[self.fused_rank[row] > self.config.rerank_depth]] = np.nan
        return _replaced(table, "score", pa.array(score))

    def cost(self, chosen: Ints, negatives: Ints, visible: Positives) -> Yield:
        """Returns what was left: `chosen` rows of candidates, as `negatives` of each query."""
        counts = negatives[np.bincount(visible.owner, minlength=visible.queries) > 0]
        margin = visible.mean[self.query[chosen]] - self.score[chosen]
        return Yield(
            float(counts.mean()),
            float((counts >= self.config.selection.negatives).mean()),
            float((counts == 0).mean()),
            float(self.fused_rank[chosen].mean()) if len(chosen) else None,
            float(margin.mean()) if len(chosen) else None,
        )


def _codes(decisions: Iterator[Any]) -> Iterator[Codes]:
    for decision in decisions:
        yield decision.decisions["codes"].combine_chunks().values.to_numpy()


def _replaced(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, column)


def _audit(store: Store, run: Run, material: Material, settings: AuditConfig, trials: list[Trial]) -> Audit:
    hideable = material.hideable
    none = np.zeros(len(hideable.allowed), dtype=np.bool_)
    outcomes: dict[str, int] = {}
    for trial in trials:
        for code, number in zip(*np.unique(trial.outcome[trial.hidden], return_counts=True), strict=True):
            name = _named(int(code))
            outcomes[name] = outcomes.get(name, 0) + int(number)
    return Audit(
        run=run.name,
        settings=settings,
        asked=run.negatives,
        positives=len(none),
        hideable=int(hideable.allowed.sum()),
        barred=hideable.bars(),
        untold=stored.untold_models(store, run),
        hidden=float(np.mean([trial.hidden.sum() for trial in trials])),
        leak=_leak(material, trials, ~none),
        wrong=_wrong(material, trials),
        found_by={name: _leak(material, trials, found) for name, found in _found_by(store, run, material)},
        bands={name: _leak(material, trials, inside) for name, inside in _bands(material)},
        outcomes=dict(sorted(outcomes.items(), key=lambda one: (-one[1], one[0]))),
        as_mined=material.trial(none).cost,
        as_audited=Yield.mean([trial.cost for trial in trials]),
        weak_positives=stored.weak_positives(store, run).num_rows,
    )


def _named(code: int) -> str:
    if code == NOT_FOUND:
        return "not_found"
    if code < KEPT:
        return "negative"
    return "kept" if code == KEPT else str(REASONS[code % SUSPECTED])


def _leak(material: Material, trials: list[Trial], among: Flags) -> Rate:
    """The share of hidden positives, among some, that leaked; queries are the clusters."""
    owner, queries = material.hideable.positives.owner, material.hideable.positives.queries
    hits = sum(np.bincount(owner[trial.leaked & among], minlength=queries) for trial in trials)
    totals = sum(np.bincount(owner[trial.hidden & among], minlength=queries) for trial in trials)
    distinct = np.logical_or.reduce([trial.hidden & among for trial in trials])
    return clustered_rate(hits, totals, int(distinct.sum()))


def _wrong(material: Material, trials: list[Trial]) -> Rate:
    """The share of the negatives that are hidden positives, over the queries with hidden ones."""
    owner, queries = material.hideable.positives.owner, material.hideable.positives.queries
    hits, totals = np.zeros(queries, dtype=np.int64), np.zeros(queries, dtype=np.int64)
    for trial in trials:
        asked = np.bincount(owner[trial.hidden], minlength=queries) > 0
        hits += np.bincount(owner[trial.leaked], minlength=queries)
        totals += np.where(asked, trial.negatives, 0)
    return clustered_rate(hits, totals, max(1, int(totals.sum()) // len(trials)))


def _found_by(store: Store, run: Run, material: Material) -> Iterator[tuple[str, Flags]]:
    facts = stored.candidate_facts(store, run)
    row = material.hideable.row
    for name in ("bm25", "dense"):
        returned = facts[f"{name}_rank"].is_valid().to_numpy()
        if returned.any():
            yield name, (row >= 0) & returned[row]


def _bands(material: Material) -> Iterator[tuple[str, Flags]]:
    row = material.hideable.row
    rank = np.where(row >= 0, material.fused_rank[row] if len(material.fused_rank) else 0, 0)
    low = 1
    for high in BANDS:
        yield f"{low}-{high}", (rank >= low) & (rank <= high)
        low = high + 1
    yield f"from {low}", rank >= low
