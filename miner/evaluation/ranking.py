"""Exact rankings by similarity, and the measures of a ranking."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import positions
from miner.evaluation.result import Floats, Vectors
from miner.models.similarity import COSINE, matrix

Ints = npt.NDArray[np.int64]

_MEASURES = {"nDCG@10": "nDCG@10", "MRR@10": "RR@10", "MAP": "AP", "R@10": "R@10", "R@100": "R@100"}
"""Our names, which are those of papers, and what ir-measures calls them per query."""
_CELLS = 1 << 24
"""Scores held at once."""
_DOC_BLOCK = 32_768
_DECIMALS = 10
"""fp32 vectors carry some seven digits: what differs only beyond these is a tie, on every machine.

Of cosines the decimals count; of other similarities, decimals of a power of ten above the query's largest."""
_MOST_GAIN = 1000


@dataclass(frozen=True)
class QueryPairs:
    """(query, document) pairs by position, ordered by query."""

    query: Ints
    doc: Ints

    @classmethod
    def locate(cls, table: pa.Table, query_ids: pa.Array, documents: pa.Array) -> tuple[QueryPairs, Ints]:
        """Returns the pairs of a table that are known on both sides, and the rows they are from.

        `documents` are what the second column of the table holds: ids or text keys.
        """
        query, doc = (
            positions(table["query_id"], query_ids),
            positions(table[table.column_names[1]], documents),
        )
        rows = np.flatnonzero((query >= 0) & (doc >= 0))
        rows = rows[np.argsort(query[rows], kind="stable")]
        return cls(query[rows].astype(np.int64), doc[rows].astype(np.int64)), rows

    def of(self, query: int) -> Ints:
        """Returns the documents of a query."""
        first, last = np.searchsorted(self.query, [query, query + 1])
        return self.doc[first:last]


@dataclass(frozen=True)
class Judgments:
    """Queries with their relevant documents, graded, and the documents that no ranking of theirs shows."""

    query_ids: tuple[str, ...]
    doc_ids: tuple[str, ...]
    relevant: QueryPairs
    relevance: Floats
    """Of each relevant pair; above 0."""
    unranked: QueryPairs

    @cached_property
    def _gains(self) -> Ints:
        """Whole-numbered relevances, as trec_eval wants them; nDCG does not depend on their scale."""
        if np.all(self.relevance == np.rint(self.relevance)) and self.relevance.max() <= _MOST_GAIN:
            return np.asarray(self.relevance, dtype=np.int64)
        scaled = np.rint(self.relevance * (_MOST_GAIN / self.relevance.max()))
        return np.asarray(np.maximum(scaled, 1), dtype=np.int64)

    @cached_property
    def _qrels(self) -> dict[str, dict[str, int]]:
        qrels: dict[str, dict[str, int]] = {name: {} for name in self.query_ids}
        for query, doc, gain in zip(self.relevant.query, self.relevant.doc, self._gains, strict=True):
            qrels[self.query_ids[query]][self.doc_ids[doc]] = int(gain)
        return qrels

    def values(self, rankings: Sequence[Ints], measures: Sequence[str]) -> dict[str, Floats]:
        """Returns the measures of one ranking per query, each with one value per query, in order.

        A ranking is documents by position, best first. A query without a hit has 0.
        """
        import ir_measures

        run = {
            name: {self.doc_ids[doc]: float(-rank) for rank, doc in enumerate(ranking.tolist())}
            for name, ranking in zip(self.query_ids, rankings, strict=True)
            if len(ranking)
        }
        ours = {ir_measures.parse_measure(_MEASURES[name]): name for name in measures}
        place = {name: number for number, name in enumerate(self.query_ids)}
        values = {name: np.zeros(len(self.query_ids)) for name in measures}
        if run:
            for metric in ir_measures.iter_calc(list(ours), self._qrels, run):
                values[ours[metric.measure]][place[metric.query_id]] = metric.value
        return values


def ranked(scores: Floats, depth: int) -> Ints:
    """Returns the positions of the `depth` highest scores, best first; ties by position.

    What scores minus infinity or NaN is never among them.
    """
    places = np.flatnonzero(scores > -np.inf)
    if len(places) > depth:
        kept = scores[places]
        places = places[kept >= np.partition(kept, len(kept) - depth)[len(kept) - depth]]
    return places[np.lexsort((places, -scores[places]))[:depth]]


def scored(
    queries: Vectors, documents: Vectors, unranked: QueryPairs, similarity: str = COSINE
) -> Iterator[tuple[int, Floats]]:
    """Yields for each query its position and its similarity with every document, in float64.

    The pairs of `unranked` have minus infinity, those of a text without a vector NaN.
    """
    rows = max(1, _CELLS // max(1, len(documents)))
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows].astype(np.float64)
        scores = np.empty((len(block), len(documents)))
        for first in range(0, len(documents), _DOC_BLOCK):
            part = documents[first : first + _DOC_BLOCK].astype(np.float64)
            scores[:, first : first + _DOC_BLOCK] = matrix(similarity, block, part)
        scores = _rounded(scores, similarity)
        for number in range(len(block)):
            scores[number, unranked.of(start + number)] = -np.inf
            yield start + number, scores[number]


def _rounded(scores: Floats, similarity: str) -> Floats:
    """The scores of some queries, a row each, to as many digits as fp32 vectors bear."""
    if similarity == COSINE:
        return np.round(scores, _DECIMALS, out=scores)
    finite = np.where(np.isfinite(scores), np.abs(scores), 0.0)
    largest = finite.max(axis=1, initial=0.0, keepdims=True)
    unit = 10.0 ** np.ceil(np.log10(largest, out=np.zeros_like(largest), where=largest > 0))
    return np.asarray(np.round(scores / unit, _DECIMALS) * unit)


def discount(depth: int) -> Floats:
    """Returns 1 / log2(rank + 1) for the ranks from 1 to `depth` (Järvelin & Kekäläinen 2002)."""
    return np.asarray(1 / np.log2(np.arange(2, depth + 2)), dtype=np.float64)


def named(values: Mapping[str, Sequence[float]]) -> dict[str, Floats]:
    """Returns columns of numbers as arrays."""
    return {name: np.asarray(column, dtype=np.float64) for name, column in values.items()}
