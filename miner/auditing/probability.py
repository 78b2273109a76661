"""How likely a candidate is a positive, from all evidence at once, calibrated on hidden positives.

A logistic regression, made a probability by isotonic regression, on what retrievers and reranker say of a
candidate and on how that compares with the query's positives. It learns to tell positives that were hidden
from what nobody judged. So it gives the chance that a candidate is one of them, in a pool where as many
positives are unjudged as were hidden; those that nobody found count as wrong, and the true chance is higher.

Queries are cut in two halves; the candidates of one are judged by what was learnt on the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.auditing.replay import Material, Unjudged
from miner.mining.rules import reference_scores
from miner.store.database import Store
from miner.store.evidence import candidate_facts, positive_facts
from miner.store.runs import Run

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

SCORES = ("bm25_score", "dense_score", "rerank_score")
RANKS = ("bm25_rank", "dense_rank")
_HALVES = 1 << 21
"""What is drawn with it is no repeat."""


@dataclass(frozen=True)
class Facts:
    """All scores and ranks of a run's candidates and positives."""

    material: Material
    candidates: pa.Table
    positives: pa.Table

    @classmethod
    def of(cls, store: Store, run: Run, material: Material) -> Facts:
        """Reads them."""
        return cls(material, candidate_facts(store, run), positive_facts(store, run))

    @cached_property
    def known_scores(self) -> tuple[str, ...]:
        """The scores that the evidence has."""
        return tuple(name for name in SCORES if self.candidates[name].null_count < len(self.candidates))

    def features(self, evidence: Unjudged) -> Floats:
        """Returns one row per candidate, NaN where a score is missing: shape (candidates, features).

        Each score, the same less the median and less the lowest of the query's visible positives, and the
        reciprocal of each rank.
        """
        columns = []
        hidden, owner = evidence.hidden, evidence.visible.owner
        queries = self.material.hideable.positives.queries
        for name in self.known_scores:
            score = self.candidates[name].to_numpy().astype(np.float64)
            known = self.positives[name].to_numpy().astype(np.float64)[~hidden]
            columns.append(score)
            for kind in ("median", "lowest"):
                columns.append(score - reference_scores(owner, known, queries, kind)[self.material.query])
        for name in RANKS:
            rank = self.candidates[name].to_numpy().astype(np.float64)
            columns.append(np.where(np.isnan(rank), 0.0, 1 / np.maximum(1.0, np.nan_to_num(rank, nan=1.0))))
        return np.column_stack(columns)


class Probability:
    """The chance of every candidate, learnt from trials with hidden positives."""

    def __init__(self, facts: Facts, trials: list[Unjudged], seed: int) -> None:
        self._facts = facts
        queries = facts.material.hideable.positives.queries
        drawn = np.random.default_rng([seed, _HALVES]).permutation(queries)
        self._first = (drawn < queries // 2)[facts.material.query]
        pools = [self._pool(trial) for trial in trials]
        self._models = [
            _fit([(x[half[rows]], y[half[rows]]) for rows, x, y in pools])
            for half in (~self._first, self._first)
        ]

    def _pool(self, evidence: Unjudged) -> tuple[npt.NDArray[np.int64], Floats, Flags]:
        """The rows that could be negatives, their features, and which are hidden positives."""
        features, known = self._features(evidence)
        rows = np.flatnonzero(known & evidence.candidates["exclusion"].is_null().to_numpy())
        return rows, features[rows], evidence.hidden_in[rows] > 0

    def _features(self, evidence: Unjudged) -> tuple[Floats, Flags]:
        """Each candidate's features, and whether none is missing."""
        features = self._facts.features(evidence)
        scored = ~np.isnan(evidence.candidates["score"].to_numpy())
        return features, scored & ~np.isnan(features).any(axis=1)

    def of(self, evidence: Unjudged) -> Floats:
        """Returns each candidate's chance; NaN where a score is missing."""
        features, known = self._features(evidence)
        chance = np.full(len(features), np.nan)
        for half, model in zip((self._first, ~self._first), self._models, strict=True):
            mine = known & half
            chance[mine] = model.chance(features[mine])
        return chance


@dataclass(frozen=True)
class _Model:
    """A fitted logistic regression over standardised features, and the chances that its values stand for."""

    mean: Floats
    spread: Floats
    weights: Floats
    values: Floats
    chances: Floats
    """At each of `values`, ascending; between them it is interpolated."""

    def value(self, features: Floats) -> Floats:
        """Returns the regression's value of each row, without its constant."""
        return np.asarray((features - self.mean) / self.spread @ self.weights)

    def chance(self, features: Floats) -> Floats:
        """Returns the probability of each row."""
        return np.interp(self.value(features), self.values, self.chances)


def _fit(pools: list[tuple[Floats, Flags]]) -> _Model:
    """Fits on all pools; one without hidden positives gives everything the chance 0."""
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    x, y = (np.concatenate(column) for column in zip(*pools, strict=True))
    mean, spread = np.zeros(x.shape[1]), np.ones(x.shape[1])
    if y.all() or not y.any():
        return _Model(mean, spread, mean, np.zeros(1), np.zeros(1))
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread[spread == 0] = 1.0
    weights = LogisticRegression(max_iter=1000).fit((x - mean) / spread, y).coef_[0]
    steps = IsotonicRegression().fit((x - mean) / spread @ weights, y)
    return _Model(mean, spread, weights, steps.X_thresholds_, steps.y_thresholds_)
