"""The predicted chance that a candidate is relevant: what strata of a sample and cheap estimates go by.

A logistic regression separates known positives from the other candidates of a run by every score and rank. It
uses no margin from the positives of the query, so it works for queries with one positive.
Nobody judged the other candidates, so its level is too low; its order is what counts, and labels correct it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import number_within
from miner.store.labels import RANK, SCORE

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_MOST_OTHERS = 200_000
"""Candidates that are not known positives to fit on; more change nothing."""


def predicted_chance(candidates: pa.Table, seed: int = 13) -> Floats:
    """Returns the chance of each row of `store.labels.predictable`; all equal if no positive was found."""
    features, positive = _features(candidates), candidates["positive"].to_numpy()
    rows = np.flatnonzero(~positive)
    if len(rows) > _MOST_OTHERS:
        rows = np.random.default_rng(seed).choice(rows, _MOST_OTHERS, replace=False)
    known = np.flatnonzero(positive)
    if not len(known) or not len(rows):
        return np.full(len(positive), 0.5)
    from sklearn.linear_model import LogisticRegression

    fitted = np.concatenate([known, np.sort(rows)])
    model = LogisticRegression(max_iter=1000).fit(features[fitted], positive[fitted])
    return np.asarray(model.predict_proba(features)[:, 1], dtype=np.float64)


def _features(candidates: pa.Table) -> Floats:
    """Returns standardised features, 0 where a value is missing: shape (candidates, features).

    Per score: the score, its distance from the query's mean in standard deviations, its distance from the
    query's best, and the logarithm of its rank in the query. Per retriever the logarithm of the rank. Per
    document the number of queries that it is a candidate of, and of other queries that it is a positive of.
    """
    query = candidates["query_no"].to_numpy()
    columns = []
    for name in (name for name in candidates.column_names if name.startswith(SCORE)):
        score = _numbers(candidates, name)
        if np.isfinite(score).any():
            columns += [score, *_within_query(score, query)]
    ranks = [name for name in candidates.column_names if name.startswith(RANK)]
    for name in (*ranks, "fused_rank"):
        if candidates[name].null_count < len(candidates):
            columns.append(-np.log(np.maximum(_numbers(candidates, name), 1.0)))
    doc = pc.dictionary_encode(candidates["doc_id"]).combine_chunks().indices.to_numpy()
    positive = candidates["positive"].to_numpy()
    columns.append(np.log(np.bincount(doc)[doc]))
    columns.append(np.log1p(np.bincount(doc, positive)[doc] - positive))
    features = np.column_stack(columns)
    features -= np.nanmean(features, axis=0)
    spread = np.nanstd(features, axis=0)
    return np.nan_to_num(features / np.where(spread > 0, spread, 1.0))


def _numbers(candidates: pa.Table, name: str) -> Floats:
    """Returns a column with NaN for nulls."""
    return np.asarray(pc.cast(candidates[name], pa.float64()).to_numpy(zero_copy_only=False))


def _within_query(score: Floats, query: Ints) -> list[Floats]:
    """Returns each score against those of its query: z score, distance from the best, −log of the rank."""
    known = np.isfinite(score)
    values = np.where(known, score, 0.0)
    number = np.maximum(1, np.bincount(query, known))
    mean = np.bincount(query, values) / number
    square = np.bincount(query, np.where(known, (score - mean[query]) ** 2, 0.0)) / number
    spread = np.sqrt(np.where(square > 0, square, 1.0))
    best = np.full(len(mean), -np.inf)
    np.maximum.at(best, query[known], score[known])
    order = np.lexsort((-np.where(known, score, -np.inf), query))
    rank = np.empty(len(score))
    rank[order] = number_within(query[order])
    return [
        (score - mean[query]) / spread[query],
        np.where(known, score - best[query], np.nan),
        np.where(known, -np.log(rank), np.nan),
    ]
