"""Sparse products by row, and the best documents of a query: by score, then by position."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.arrays import number_within
from miner.collection.collection import Floats, Hits, Ints

_POSTINGS = 20_000_000
"""Postings multiplied at a time, which bounds the memory of the sparse product."""

Positions = npt.NDArray[np.int64] | Ints


def products(left: Any, right: Any) -> Iterator[tuple[Ints, Floats]]:
    """Yields for each row of `left @ right`, both in CSR form, the columns with a value and these values.

    A value is the sum of its products in the order of the row's terms. Several products bound the memory.
    """
    counts = np.diff(right.indptr)[left.indices]
    load = np.concatenate([[0], np.cumsum(counts)])[left.indptr]
    start = 0
    while start < left.shape[0]:
        stop = max(start + 1, int(np.searchsorted(load, load[start] + _POSTINGS, side="right")) - 1)
        product = left[start:stop] @ right
        for row in range(product.shape[0]):
            cut = slice(product.indptr[row], product.indptr[row + 1])
            yield product.indices[cut], product.data[cut]
        start = stop


def top(docs: Ints, scores: Floats, depth: int) -> tuple[Ints, Floats]:
    """Returns the best `depth` of one query's documents and their scores, by score, then position."""
    if len(docs) > depth:
        least = np.partition(scores, len(scores) - depth)[len(scores) - depth]
        near_top = np.flatnonzero(scores >= least)
        docs, scores = docs[near_top], scores[near_top]
    order = np.lexsort((docs, -scores))[:depth]
    return docs[order], scores[order]


def ranked(query: Positions, doc: Positions, score: Floats, depth: int) -> Hits:
    """Returns the best `depth` documents of each query as hits, by score, then position."""
    order = np.lexsort((doc, -score, query))
    query, doc, score = query[order], doc[order], score[order]
    rank = number_within(query)
    best = rank <= depth
    return Hits(
        query[best].astype(np.int32), doc[best].astype(np.int32), rank[best].astype(np.int32), score[best]
    )


def joined(hits: Hits, other: Hits, depth: int) -> Hits:
    """Returns the best `depth` of the hits of two sets of documents."""
    query = np.concatenate([hits.query, other.query])
    doc = np.concatenate([hits.doc, other.doc])
    return ranked(query, doc, np.concatenate([hits.score, other.score]), depth)


def stacked(parts: Sequence[Hits]) -> Hits:
    """Returns the hits of several ranges of queries, in their order."""
    found = [no_hits(), *parts]
    return Hits(
        np.concatenate([one.query for one in found]),
        np.concatenate([one.doc for one in found]),
        np.concatenate([one.rank for one in found]),
        np.concatenate([one.score for one in found]),
    )


def no_hits() -> Hits:
    """Returns an empty set of hits."""
    none = np.zeros(0, dtype=np.int32)
    return Hits(none, none, none, np.zeros(0))
