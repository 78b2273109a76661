"""Late interaction (ColBERT): MaxSim over cached token vectors, in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from miner.collection.collection import Floats, Hits, Ints
from miner.models.multi_vector_encoder import MultiVectorEncoder
from miner.models.row_cache import RowNumbers
from miner.models.similarity import MEAN_MAXSIM
from miner.retrieval.config import DenseConfig
from miner.retrieval.ragged import RaggedRetriever, cut
from miner.retrieval.ranked import no_hits, ranked, stacked

WHOLE = 10_000
"""The most documents that are all compared with every query. In a larger collection, late interaction scores
the candidates of the other retrievers."""
_QUERY_TOKENS = 2048
"""Tokens of queries that are multiplied with a block of documents at a time."""
_PAIR_TOKENS = 1 << 14
"""Tokens of documents that are compared with one query at a time."""
_FP32 = 2.0**-24
"""Half the distance between 1 and the next number in fp32."""

Tokens = npt.NDArray[np.floating]


class MultiVector(RaggedRetriever):
    """Searches a collection by MaxSim: the sum, over a query's tokens, of the largest dot product.

    `search` compares all documents in fp32 and scores again in float64 every document that could be within
    the depth. A score has the same bits in `search` and in `score_pairs`, whatever the blocks and threads.
    """

    kind = "multi-vector"
    _CODE = 1
    _BLOCK = 1 << 13
    _MOST = WHOLE

    encoder: MultiVectorEncoder

    @staticmethod
    def _opened(config: DenseConfig) -> MultiVectorEncoder:
        return MultiVectorEncoder(
            config.encoder, revision=config.revision, dtype=config.dtype, token_dtype=config.token_dtype
        )

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the best `depth` documents of each query, ranked; ties by doc_id."""
        positions = np.arange(queries.start, queries.stop)
        positions = positions[self._has("query")[positions]]
        parts = cut(self._sizes("query", positions), _QUERY_TOKENS)
        return stacked([self._best(positions[part.start : part.stop], depth) for part in parts])

    def _best(self, queries: RowNumbers, depth: int) -> Hits:
        """Returns the hits of some queries."""
        docs = np.flatnonzero(self._has("document"))
        if not len(docs):
            return no_hits()
        estimates, longest = self._estimates(queries)
        estimates = estimates[:, docs]
        last = max(0, len(docs) - depth)
        cut_at = np.partition(estimates, last, axis=1)[:, last]
        vectors = self._items("query", queries).astype(np.float64)
        sizes = self._sizes("query", queries)
        lengths = np.add.reduceat(np.linalg.norm(vectors, axis=1), np.cumsum(sizes) - sizes)
        # A sum of n products in fp32 is off by at most n · 2^-24 times the lengths of the vectors. Twice that
        # separates a document within the depth from the cut; four times leaves room for the sums here.
        off = (vectors.shape[1] + sizes) * _FP32 * lengths * longest * self._scale(sizes)
        row, column = np.nonzero(estimates >= (cut_at - 4 * off)[:, None])
        query, doc = queries[row].astype(np.int32), docs[column].astype(np.int32)
        return ranked(query, doc, self.score_pairs(query, doc), depth)

    def _estimates(self, queries: RowNumbers) -> tuple[Tokens, float]:
        """Returns each query's fp32 score with every document, and the length of the longest token vector."""
        left = self._items("query", queries).astype(np.float32)
        sizes = self._sizes("query", queries)
        starts = np.cumsum(sizes) - sizes
        scores = np.full((len(queries), self._collection.documents.num_rows), -np.inf, dtype=np.float32)
        longest = 0.0
        for block in self._blocks:
            docs = np.arange(block.start, block.stop)
            docs = docs[self._has("document")[docs]]
            if len(docs):
                right = self._items("document", docs).astype(np.float32)
                longest = max(longest, float(np.linalg.norm(right, axis=1).max()))
                best = _best_per_token(right, self._sizes("document", docs), left)
                scores[:, docs] = np.add.reduceat(best, starts, axis=0)
        return scores * self._scale(sizes)[:, None], longest

    def _scale(self, sizes: RowNumbers) -> Floats:
        """Returns what a sum over each query's tokens is multiplied with."""
        return 1.0 / sizes if self.encoder.similarity == MEAN_MAXSIM else np.ones(len(sizes))

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the score of each (query, document) pair of positions; NaN for a text without a vector."""
        scores = np.full(len(query), np.nan)
        usable = np.flatnonzero(self._has("query")[query] & self._has("document")[doc])
        order = usable[np.argsort(query[usable], kind="stable")]
        unique, counts = np.unique(query[order], return_counts=True)
        ends = np.cumsum(counts)
        for one, start, end in zip(unique, ends - counts, ends, strict=True):
            left = self._items("query", np.array([one])).astype(np.float64)
            pairs = order[start:end]
            for part in cut(self._sizes("document", doc[pairs]), _PAIR_TOKENS):
                rows = pairs[part.start : part.stop]
                scores[rows] = self._maxsim(left, doc[rows])
        return scores

    def _maxsim(self, left: Floats, docs: Ints) -> Floats:
        """Returns the float64 score of a query's token vectors with each document."""
        right = self._items("document", docs).astype(np.float64)
        total = np.zeros(len(docs))
        # One token after the other: numpy's own sum would depend on the shape.
        for best in _best_per_token(right, self._sizes("document", docs), left):
            total += best
        return total / len(left) if self.encoder.similarity == MEAN_MAXSIM else total


def _best_per_token(right: Tokens, sizes: RowNumbers, left: Tokens) -> Tokens:
    """Returns the largest dot product of each token in `left` with each text in `right`.

    `sizes` are the numbers of tokens of the texts. Shape (tokens of left, texts).
    """
    best: Tokens = np.maximum.reduceat(left @ right.T, np.cumsum(sizes) - sizes, axis=1)
    return best
