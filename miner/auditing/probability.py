"""The probability that a candidate is a positive, fitted on hidden positives from all evidence at once.

The model is a logistic regression with an isotonic regression on top. Its features are the scores and ranks
of a candidate, and their differences from those of the query's positives. It separates hidden positives from
documents that nobody judged. The probability is therefore that of being a hidden positive, in a pool in which
as many positives are unjudged as were hidden. Positives that nobody found count as not relevant, so the true
probability is higher.

The queries are split into two halves; the candidates of one half get the probability fitted on the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from miner.auditing.replay import Replay, ReplayEvidence
from miner.mining.rules import reference_scores
from miner.schema import FREE
from miner.store.database import Database
from miner.store.evidence import candidate_ranks, candidate_scores, positive_scores
from miner.store.runs import StoredRun

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

_HALVES = 1 << 21
"""The second number of the halves' seed; it differs from the number of every repeat."""


@dataclass(frozen=True)
class Facts:
    """All scores and ranks of a run's candidates and positives."""

    replay: Replay
    scores: dict[str, tuple[Floats, Floats]]
    """By scorer: its score of every candidate and of every positive, NaN without a finite one. A scorer
    without any is left out."""
    ranks: dict[str, Floats]
    """By retriever: its rank of every candidate, NaN for one that it did not return."""

    @classmethod
    def of(cls, store: Database, run: StoredRun, replay: Replay) -> Facts:
        """Returns those of a run."""
        scores = {
            one.name: (candidate_scores(store, run, one), positive_scores(store, run, one))
            for one in run.scorers
        }
        known = {name: both for name, both in scores.items() if np.isfinite(both[0]).any()}
        return cls(replay, known, {one.name: candidate_ranks(store, run, one) for one in run.retrievers})

    def features(self, evidence: ReplayEvidence) -> Floats:
        """Returns one row per candidate, NaN where a score is missing: shape (candidates, features).

        The features are each score, its differences from the median and the lowest score of the query's
        visible positives, and the reciprocal of each rank.
        """
        columns = []
        hidden, positives = evidence.hidden, self.replay.hideable.positives
        owner, queries = positives.owner[~hidden], positives.queries
        for score, known in self.scores.values():
            columns.append(score)
            for kind in ("median", "lowest"):
                reference = reference_scores(owner, known[~hidden], queries, kind)
                columns.append(score - reference[self.replay.query])
        for rank in self.ranks.values():
            columns.append(np.where(np.isnan(rank), 0.0, 1 / np.maximum(1.0, np.nan_to_num(rank, nan=1.0))))
        return np.column_stack(columns)


class Probability:
    """The probability of every candidate, fitted on replays with hidden positives."""

    def __init__(self, facts: Facts, replays: list[ReplayEvidence], seed: int) -> None:
        self._facts = facts
        queries = facts.replay.hideable.positives.queries
        drawn = np.random.default_rng([seed, _HALVES]).permutation(queries)
        self._first = (drawn < queries // 2)[facts.replay.query]
        pools = [self._pool(one) for one in replays]
        self._models = [
            _fit([(x[half[rows]], y[half[rows]]) for rows, x, y in pools])
            for half in (~self._first, self._first)
        ]

    def _pool(self, evidence: ReplayEvidence) -> tuple[npt.NDArray[np.int64], Floats, Flags]:
        """The rows that could be negatives, their features, and which are hidden positives."""
        features, known = self._features(evidence)
        rows = np.flatnonzero(known & (evidence.candidates["exclusion"].to_numpy() == FREE))
        return rows, features[rows], evidence.hidden_in[rows] > 0

    def _features(self, evidence: ReplayEvidence) -> tuple[Floats, Flags]:
        """Each candidate's features, and whether none is missing."""
        features = self._facts.features(evidence)
        scored = ~np.isnan(evidence.candidates["score"].to_numpy())
        return features, scored & ~np.isnan(features).any(axis=1)

    def of(self, evidence: ReplayEvidence) -> Floats:
        """Returns each candidate's probability; NaN if a score is missing."""
        features, known = self._features(evidence)
        probability = np.full(len(features), np.nan)
        for half, model in zip((self._first, ~self._first), self._models, strict=True):
            rows = known & half
            probability[rows] = model.probability(features[rows])
        return probability


@dataclass(frozen=True)
class _Model:
    """A logistic regression over standardised features, and the probability of each of its values."""

    mean: Floats
    spread: Floats
    weights: Floats
    values: Floats
    probabilities: Floats
    """At each of `values`, which ascend; interpolated between them."""

    def probability(self, features: Floats) -> Floats:
        """Returns the probability of each row."""
        value = np.asarray((features - self.mean) / self.spread @ self.weights)
        return np.interp(value, self.values, self.probabilities)


def _fit(pools: list[tuple[Floats, Flags]]) -> _Model:
    """Returns the model fitted on all pools; without hidden positives every probability is 0."""
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
