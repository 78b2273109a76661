"""The order in which people review the candidates of a run: what an answer would change most comes first.

The pairs of a sample that `miner audit --label` drew come first, because a rate waits for them. Suspected
positives follow, then selected negatives, each by how far their scores stand out among the candidates of the
query. Random selected negatives are mixed in: the chosen ones say nothing about the others.

How far a score stands out is its distance from the mean of the query's candidates in standard deviations;
several scorers count by their mean. No model is fitted, so that the page opens at once. The fitted chance
of `auditing.prediction` is no better on average, and the distance from the query's positives is much worse:
docs/review.md has the figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
import numpy.typing as npt

from miner.arrays import as_numpy
from miner.errors import UsageError
from miner.ranges import SEED, Range, check_fields, known_keywords, number, within
from miner.schema import CANDIDATES_PER_QUERY
from miner.store import labels
from miner.store import reviews as stored
from miner.store.database import Database
from miner.store.reviews import CHOSEN, RANDOM, SAMPLE
from miner.store.runs import StoredRun

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SHARE: Range = number(0, 1)
"""The range of the share of random negatives."""


@known_keywords
@dataclass(frozen=True)
class QueueConfig:
    """What people review. Raises UsageError at construction for a value out of range."""

    random: float = within(0.2, SHARE)
    """Share of random negatives among the pairs, and the share of the selected negatives that is drawn."""
    seed: int = within(13, SEED)

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Queue:
    """The pairs to review, in order: ids only, the texts stay in the store."""

    run: StoredRun
    candidates: Ints
    """The number of each candidate."""
    query_ids: Sequence[str]
    doc_ids: Sequence[str]
    suspected: npt.NDArray[np.bool_]
    """Whether each is suspected; the others are selected negatives."""
    strata: Sequence[str]
    """Why each is in the queue: CHOSEN, RANDOM or SAMPLE."""

    def __len__(self) -> int:
        return len(self.candidates)

    def pair(self, at: int) -> tuple[str, str]:
        """Returns the query_id and the doc_id at a position."""
        return self.query_ids[at], self.doc_ids[at]

    @cached_property
    def positions(self) -> dict[tuple[str, str], int]:
        """The position of each pair (query_id, doc_id)."""
        return {pair: at for at, pair in enumerate(zip(self.query_ids, self.doc_ids, strict=True))}

    @classmethod
    def of(cls, store: Database, run: StoredRun, config: QueueConfig) -> Queue:
        """Returns the queue of a run; the same seed gives the same one.

        Raises UsageError for a run without suspected positives and selected negatives.
        """
        table = stored.reviewable(store, run)
        if not table.num_rows:
            raise UsageError(
                f"run '{run.name}' has nothing to review: no selected negative, no suspected positive",
                "name another run with --run",
            )
        candidate = as_numpy(table["candidate"])
        query_ids, doc_ids = table["query_id"].to_pylist(), table["doc_id"].to_pylist()
        suspected = as_numpy(table["is_suspected"])
        sampled = _sampled(store, run, query_ids, doc_ids)
        is_sampled = np.zeros(len(candidate), dtype=bool)
        is_sampled[sampled] = True
        # The negatives of a run do not change: neither a larger share nor a sample draws others.
        drawn = np.random.default_rng(config.seed).permutation(np.flatnonzero(~suspected))
        drawn = drawn[: ceil(config.random * len(drawn))]
        drawn = drawn[~is_sampled[drawn]]
        is_random = np.zeros(len(candidate), dtype=bool)
        is_random[drawn] = True
        others = np.flatnonzero(~is_random & ~is_sampled)
        height = np.nan_to_num(standing_out(store, run, candidate[others]), nan=-np.inf)
        others = others[np.lexsort((candidate[others], -height, ~suspected[others]))]
        order = np.concatenate([sampled, _mixed(others, drawn, config.random)])
        strata = np.where(is_sampled, SAMPLE, np.where(is_random, RANDOM, CHOSEN))
        return cls(
            run=run,
            candidates=candidate[order],
            query_ids=[query_ids[row] for row in order],
            doc_ids=[doc_ids[row] for row in order],
            suspected=suspected[order],
            strata=strata[order].tolist(),
        )


def _sampled(store: Database, run: StoredRun, query_ids: list[str], doc_ids: list[str]) -> Ints:
    """Returns the rows of the pairs of the run's sample, in the random order in which they were drawn."""
    samples = labels.samples_of(store, run)
    if not samples:
        return np.zeros(0, dtype=np.int64)
    rows = {pair: row for row, pair in enumerate(zip(query_ids, doc_ids, strict=True))}
    table = labels.sampled_pairs(store, samples[0])
    drawn = zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True)
    return np.array([rows[pair] for pair in drawn if pair in rows], dtype=np.int64)


def _mixed(chosen: Ints, drawn: Ints, share: float) -> Ints:
    """Returns both in one order, `share` of it `drawn` until one of them ends."""
    with np.errstate(divide="ignore", over="ignore"):
        at = np.concatenate(
            [
                (np.arange(len(chosen)) + 0.5) / np.float64(1 - share),
                (np.arange(len(drawn)) + 0.5) / np.float64(share),
            ]
        )
    return np.concatenate([chosen, drawn])[np.argsort(at, kind="stable")]


def standing_out(store: Database, run: StoredRun, wanted: Ints) -> Floats:
    """Returns how far the scores of some candidates stand out in their query; NaN without any score."""
    total, scorers = np.zeros(len(wanted)), np.zeros(len(wanted))
    for scorer in run.scorers:
        candidate, score = stored.scores_of(store, run, scorer)
        if not len(candidate):
            continue
        known = np.isfinite(score)
        query = (candidate // CANDIDATES_PER_QUERY)[known]
        size = np.maximum(1, np.bincount(query))
        mean = np.bincount(query, score[known]) / size
        square = np.bincount(query, (score[known] - mean[query]) ** 2) / size
        spread = np.sqrt(np.where(square > 0, square, 1.0))
        rows = np.minimum(np.searchsorted(candidate, wanted), len(candidate) - 1)
        scored = known[rows] & (candidate[rows] == wanted)
        own = wanted[scored] // CANDIDATES_PER_QUERY
        total[scored] += (score[rows[scored]] - mean[own]) / spread[own]
        scorers += scored
    with np.errstate(invalid="ignore"):
        return np.asarray(total / np.where(scorers > 0, scorers, np.nan))
