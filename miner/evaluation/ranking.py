"""Exact rankings by similarity, and their measures by ir-measures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import Matrix, positions
from miner.evaluation.result import Floats
from miner.retrieval.nearest import all_scores

Ints = npt.NDArray[np.int64]

_MEASURES = {"nDCG@10": "nDCG@10", "MRR@10": "RR@10", "MAP": "AP", "R@10": "R@10", "R@100": "R@100"}
"""The names that papers use, and those of ir-measures for the same measure per query."""
_MOST_GAIN = 1000


@dataclass(frozen=True)
class QueryPairs:
    """(query, document) pairs by position, ordered by query."""

    query: Ints
    doc: Ints

    @classmethod
    def locate(cls, table: pa.Table, query_ids: pa.Array, documents: pa.Array) -> tuple[QueryPairs, Ints]:
        """Returns the pairs of a table whose query and document are both known, and their rows.

        `documents` are ids or text keys, as in the second column of the table.
        """
        query, doc = (
            positions(table["query_id"], query_ids),
            positions(table[table.column_names[1]], documents),
        )
        rows = np.flatnonzero((query >= 0) & (doc >= 0))
        rows = rows[np.argsort(query[rows], kind="stable")]
        return cls(query[rows].astype(np.int64), doc[rows].astype(np.int64)), rows

    def of(self, query: int) -> Ints:
        """Returns the positions of a query's documents."""
        first, last = np.searchsorted(self.query, [query, query + 1])
        return self.doc[first:last]


@dataclass(frozen=True)
class Judgments:
    """Queries, their relevant documents with grades, and documents to leave out of their rankings."""

    query_ids: tuple[str, ...]
    doc_ids: pa.Array
    relevant: QueryPairs
    relevance: Floats
    """The relevance of each relevant pair; above 0."""
    unranked: QueryPairs

    @cached_property
    def _gains(self) -> Ints:
        """Relevances as the whole numbers that trec_eval needs; nDCG does not depend on their scale."""
        if np.all(self.relevance == np.rint(self.relevance)) and self.relevance.max() <= _MOST_GAIN:
            return np.asarray(self.relevance, dtype=np.int64)
        scaled = np.rint(self.relevance * (_MOST_GAIN / self.relevance.max()))
        return np.asarray(np.maximum(scaled, 1), dtype=np.int64)

    @cached_property
    def _qrels(self) -> dict[str, dict[str, int]]:
        qrels: dict[str, dict[str, int]] = {name: {} for name in self.query_ids}
        for query, doc, gain in zip(self.relevant.query, self.relevant.doc, self._gains, strict=True):
            qrels[self.query_ids[query]][str(doc)] = int(gain)  # the position, instead of the longer id
        return qrels

    def values(self, rankings: Sequence[Ints], measures: Sequence[str]) -> dict[str, Floats]:
        """Returns one array per measure, with a value per query in order.

        `rankings` has one ranking per query: positions of documents, best first. A query whose ranking has no
        relevant document has the value 0.
        """
        import ir_measures

        run = {
            name: {str(doc): float(-rank) for rank, doc in enumerate(ranking.tolist())}
            for name, ranking in zip(self.query_ids, rankings, strict=True)
            if len(ranking)
        }
        ours = {ir_measures.parse_measure(_MEASURES[name]): name for name in measures}
        position = {name: number for number, name in enumerate(self.query_ids)}
        values = {name: np.zeros(len(self.query_ids)) for name in measures}
        if run:
            for metric in ir_measures.iter_calc(list(ours), self._qrels, run):
                values[ours[metric.measure]][position[metric.query_id]] = metric.value
        return values


def ranked(scores: Floats, depth: int) -> Ints:
    """Returns the positions of the `depth` highest scores, best first; ties go to the smaller position.

    Scores of minus infinity and NaN are left out.
    """
    best = np.flatnonzero(scores > -np.inf)
    if len(best) > depth:
        kept = scores[best]
        best = best[kept >= np.partition(kept, len(kept) - depth)[len(kept) - depth]]
    return best[np.lexsort((best, -scores[best]))[:depth]]


def scored(
    queries: Matrix, documents: Matrix, unranked: QueryPairs, similarity: str, memory: int
) -> Iterator[tuple[int, Floats]]:
    """Yields for each query its position and its scores of all documents (`all_scores`).

    The pairs of `unranked` have minus infinity, a text without a vector has NaN. `memory` is the bytes that
    a block may take.
    """
    for query, scores in enumerate(all_scores(queries, documents, similarity, memory)):
        scores[unranked.of(query)] = -np.inf
        yield query, scores


def discount(depth: int) -> Floats:
    """Returns 1 / log2(rank + 1) for the ranks from 1 to `depth` (Järvelin & Kekäläinen 2002)."""
    return np.asarray(1 / np.log2(np.arange(2, depth + 2)), dtype=np.float64)


def named(values: Mapping[str, Sequence[float]]) -> dict[str, Floats]:
    """Returns each sequence of numbers as an array."""
    return {name: np.asarray(column, dtype=np.float64) for name, column in values.items()}
