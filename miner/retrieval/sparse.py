"""Sparse retrieval (SPLADE and its kind): exact products of sparse vectors in float64."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from miner.collection.collection import Floats, Hits, Ints
from miner.models.row_cache import RowNumbers
from miner.models.similarity import COSINE, DOT, EUCLIDEAN
from miner.models.sparse_encoder import SparseEncoder
from miner.retrieval.config import DenseConfig
from miner.retrieval.ragged import RaggedRetriever, cut
from miner.retrieval.ranked import joined, no_hits, products, ranked, top

_PAIRS = 1 << 21
"""Weights of pairs that are compared at a time."""


class Sparse(RaggedRetriever):
    """Searches a collection by the sparse encoder's own similarity.

    By dot product and cosine a hit has a score above 0, the score of every document that shares no dimension
    with the query. A product of two fp32 weights is exact in float64, and products are added in the order of
    the dimensions, so that a score has the same bits in `search` and in `score_pairs`.
    """

    kind = "sparse"
    _CODE = 1
    _BLOCK = 1 << 24

    encoder: SparseEncoder

    @staticmethod
    def _opened(config: DenseConfig) -> SparseEncoder:
        return SparseEncoder(config.encoder, revision=config.revision, dtype=config.dtype)

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the best `depth` documents of each query, ranked; ties by doc_id."""
        hits = no_hits()
        by_product = self.encoder.similarity in (DOT, COSINE)
        left = self._matrix("query", np.arange(queries.start, queries.stop))
        for number in range(len(self._blocks)):
            found = (
                self._products(left, number, depth) if by_product else self._distances(queries, number, depth)
            )
            hits = joined(hits, Hits(found.query + queries.start, found.doc, found.rank, found.score), depth)
        return hits

    def _products(self, left: Any, number: int, depth: int) -> Hits:
        """Returns the hits of a block of documents; queries by their rows in `left`."""
        documents, right, lengths = self._block(number)
        own = _lengths(left)
        best = []
        for row, (docs, scores) in enumerate(products(left, right)):
            docs, scores = docs[scores > 0], scores[scores > 0]
            if self.encoder.similarity == COSINE:
                scores = scores / (own[row] * lengths[docs])
            best.append(top(docs, scores, depth))
        return _hits(best, documents.start)

    def _distances(self, queries: range, number: int, depth: int) -> Hits:
        """Returns the hits of a block of documents by a distance, for which every pair is scored."""
        documents = self._blocks[number]
        docs = np.arange(documents.start, documents.stop, dtype=np.int32)
        docs = docs[self._has("document")[docs]]
        best = []
        for query in queries:
            scores = self.score_pairs(np.full(len(docs), query, dtype=np.int32), docs)
            known = np.isfinite(scores)
            best.append(top(docs[known], scores[known], depth))
        return _hits(best, 0)

    @cached_property
    def _kept(self) -> dict[int, tuple[range, Any, Floats]]:
        return {}

    @cached_property
    def _dimensions(self) -> int:
        """The number of dimensions up to the last one that a text of the collection has."""
        most = 0
        for role in ("document", "query"):
            for texts in cut(self._rows[role][1], self._BLOCK):
                items = self._items(role, np.arange(texts.start, texts.stop))
                most = max(most, 1 + int(items["dimension"].max(initial=0)))
        return most

    def _matrix(self, role: str, positions: Ints | RowNumbers) -> Any:
        """Returns the vectors of texts: a CSR matrix of float64, shape (texts, dimensions)."""
        from scipy.sparse import csr_array

        items = self._items(role, positions)[:, 0]
        ends = np.concatenate([[0], np.cumsum(self._sizes(role, positions))])
        parts = items["weight"].astype(np.float64), items["dimension"].astype(np.int32), ends
        return csr_array(parts, shape=(len(positions), self._dimensions))

    def _block(self, number: int) -> tuple[range, Any, Floats]:
        """Returns a block of documents, their matrix (dimensions, documents), and their lengths.

        The last block is kept, so that a collection of one block is read once.
        """
        if number not in self._kept:
            documents = self._blocks[number]
            matrix = self._matrix("document", np.arange(documents.start, documents.stop))
            self._kept = {number: (documents, matrix.T.tocsr(), _lengths(matrix))}
        return self._kept[number]

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the score of each (query, document) pair of positions; NaN for a text without a vector."""
        scores = np.empty(len(query))
        for part in cut(self._sizes("query", query) + self._sizes("document", doc), _PAIRS):
            rows = slice(part.start, part.stop)
            left, right = self._matrix("query", query[rows]), self._matrix("document", doc[rows])
            scores[rows] = _pairwise(self.encoder.similarity, left, right)
        scores[~(self._has("query")[query] & self._has("document")[doc])] = np.nan
        return scores


def _pairwise(similarity: str, left: Any, right: Any) -> Floats:
    """Returns the similarity of the rows i of two CSR matrices, for every i; a length of 0 gives NaN."""
    if similarity in (DOT, COSINE):
        dot = _sums(left.multiply(right))
        with np.errstate(invalid="ignore"):
            return dot / (_lengths(left) * _lengths(right)) if similarity == COSINE else dot
    difference = left - right
    if similarity == EUCLIDEAN:
        return np.asarray(-np.sqrt(_sums(difference.multiply(difference))))
    return -_sums(abs(difference))


def _sums(matrix: Any) -> Floats:
    """Returns the sum of each row, one term after the other, as a product of matrices adds them.

    sum(axis=1) would add pairwise.
    """
    rows = matrix.tocsr()
    rows.sort_indices()
    return np.asarray(rows @ np.ones(rows.shape[1]), dtype=np.float64)


def _lengths(matrix: Any) -> Floats:
    return np.asarray(np.sqrt(_sums(matrix.multiply(matrix))))


def _hits(best: list[tuple[Ints, Floats]], first: int) -> Hits:
    """Returns the hits of queries numbered from 0; documents are counted from `first`."""
    sizes = [len(docs) for docs, _ in best]
    query = np.repeat(np.arange(len(best), dtype=np.int32), sizes)
    docs = np.concatenate([docs for docs, _ in best]).astype(np.int32) + np.int32(first)
    return ranked(query, docs, np.concatenate([scores for _, scores in best]), max(sizes, default=0))
