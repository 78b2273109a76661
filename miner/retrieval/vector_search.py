"""Search by vectors, wherever they come from: the nearest documents, with scores in float64."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from miner.arrays import Matrix, joined_ranges
from miner.collection.collection import Floats, Hits, Ints
from miner.engine.progress import SILENT, Progress
from miner.errors import MissingExtraError, UsageError
from miner.models.device import resolve_device
from miner.models.encoder import Vectors
from miner.models.similarity import COSINE, DOT, MANHATTAN, pairwise
from miner.models.vector_cache import RowNumbers, gather, release
from miner.retrieval.index import check_index
from miner.retrieval.nearest import BLOCK, Neighbours, faiss_metric, nearest, search_threads
from miner.retrieval.ranked import ranked

if TYPE_CHECKING:
    from miner.retrieval.gpu_search import DeviceSearch

SLACK = 16
"""Neighbours fetched beyond the depth. fp32 sums differ with batch shape and threads, so float64 scores
decide which documents are within the depth."""
DOUBT = 1e-6
"""Cosines that differ by less than this may be in either order in fp32; for other similarities it is relative
to the lengths of the vectors. If the last fetched neighbour is so near to the cut, as among many texts with
the same beginning, more neighbours are fetched."""
MOST = 4096
"""The most neighbours that are fetched in that case."""

LEAST_RECALL = 0.95
"""The recall that an approximate index is set to, by the number of lists or links that it visits."""
_MOST_LINKS = 1024
_COMPRESSED = 4
"""Neighbours fetched per wanted one from an index of compressed vectors, which are then scored exactly."""

_PAIRS = 128
"""Pairs scored at a time. Linux (seen with 6.18) maps up to 2 MiB around a row that is read, as its cache of
a large file has pages of that size: a few thousand rows would bring all vectors into memory."""
_RECALL_SAMPLE = 256

Expanded = tuple[RowNumbers, RowNumbers, Floats]
"""The query, the document and the float64 score of each neighbour."""


@dataclass(frozen=True)
class TextVectors:
    """The vectors of texts: a matrix, and the row of each text in it; -1 for a text without a vector."""

    matrix: Matrix
    rows: RowNumbers

    @property
    def gaps(self) -> int:
        """Number of texts without a vector."""
        return int((self.rows < 0).sum())


def require_index(index: str, similarity: str, name: str) -> None:
    """Raises UsageError if the vectors of `name` cannot be searched with this index for their similarity."""
    if similarity == MANHATTAN and index != "Flat":
        raise UsageError(
            f"{name} compares vectors by Manhattan distance, for which FAISS has no dependable "
            f"approximate index: {index} cannot be used",
            "leave the setting index at Flat, which is exact",
        )


def index_inputs(index: str) -> dict[str, Any]:
    """Returns what the hits of an index depend on."""
    return {"index": index} | ({} if index == "Flat" else {"recall": LEAST_RECALL})


class VectorSearch:
    """Searches documents by the similarity of their vectors to those of queries.

    A text without a vector is never a hit and has no hits, and its pairs have the score NaN. For cosine, all
    vectors have length 1. An approximate index proposes documents, which are scored exactly; it visits as
    many of its lists or links as a recall of `LEAST_RECALL` needs for a sample of the queries. `memory` is
    the bytes that a block of document vectors may take.
    """

    def __init__(
        self,
        documents: TextVectors,
        queries: TextVectors,
        similarity: str,
        index: str = "Flat",
        progress: Progress = SILENT,
        *,
        memory: int | None = None,
    ) -> None:
        self.documents, self.queries, self._memory = documents, queries, memory
        self._similarity, self._factory, self._progress = similarity, index, progress
        self._index = _Distinct(documents.rows)
        self._exact_tops: dict[int, RowNumbers] = {}
        self._tuned: int | None = None
        """The depth for which the approximate index is set."""

    def gaps(self) -> dict[str, int]:
        """Returns the numbers of documents and queries without a vector."""
        return {"documents": self.documents.gaps, "queries": self.queries.gaps}

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the `depth` nearest documents of each query, by float64 similarity; ties by doc_id."""
        rows = self.queries.rows[queries.start : queries.stop]
        usable = np.flatnonzero(rows >= 0)
        if not len(usable) or not len(self._index.unique):
            nothing = np.zeros(0, dtype=np.int64)
            return ranked(nothing, nothing, np.zeros(0), depth)
        vectors = np.asarray(self.queries.matrix[rows[usable]])
        self._tune(depth)
        owner, docs, scores = self._nearest(vectors, depth, self._fetched(depth))
        if queries.stop >= len(self.queries.rows):
            self.__dict__.pop("_on_gpus", None)  # after the last queries a reranker needs the memory
        return ranked(usable[owner] + queries.start, docs, scores, depth)

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the float64 similarity of each (query, document) pair of positions."""
        query_rows, doc_rows = self.queries.rows[query], self.documents.rows[doc]
        scores = np.full(len(query), np.nan)
        known = np.flatnonzero((query_rows >= 0) & (doc_rows >= 0))
        if len(known):
            unique, owner = np.unique(query_rows[known], return_inverse=True)
            vectors = np.asarray(self.queries.matrix[unique])
            scores[known] = self._similarities(vectors, owner, doc_rows[known])
        return scores

    def recall(self, depth: int) -> float:
        """Returns the share of the exact `depth` nearest that the index returns, for a sample of queries."""
        if self._factory == "Flat" or not len(self._sample) or not len(self._index.unique):
            return 1.0
        self._tune(depth)
        return self._recall(depth)

    def _recall(self, depth: int) -> float:
        # Fetched documents are scored exactly, so that those of the exact top come first.
        _, near = self._neighbours(self._sample, min(self._fetched(depth), len(self._index.unique)))
        truth = self._truth(depth)
        shared = [len(np.intersect1d(a, b)) for a, b in zip(near, truth, strict=True)]
        return float(np.sum(shared) / truth.size)

    @cached_property
    def _sample(self) -> Vectors:
        """The vectors of a sample of the queries."""
        rows = self.queries.rows
        sample = rows[np.unique(np.linspace(0, len(rows) - 1, _RECALL_SAMPLE, dtype=np.int64))]
        return np.asarray(self.queries.matrix[sample[sample >= 0]])

    def _truth(self, depth: int) -> RowNumbers:
        """Returns the positions of the exact `depth` nearest of each query of the sample."""
        if depth not in self._exact_tops:
            _, positions = self._exact(self._sample, min(depth, len(self._index.unique)))
            self._exact_tops[depth] = positions
        return self._exact_tops[depth]

    def _fetched(self, depth: int) -> int:
        """Returns how many neighbours are fetched and scored exactly for the `depth` nearest."""
        codes = self._factory.rpartition(",")[2]
        exact = codes == "Flat" or codes.startswith("HNSW")
        return (depth + SLACK) * (1 if exact and "PCA" not in self._factory else _COMPRESSED)

    def _tune(self, depth: int) -> None:
        """Makes the index visit as many lists (IVF) or links (HNSW) as `LEAST_RECALL` needs."""
        if self._factory == "Flat" or self._tuned == depth or not len(self._sample):
            return
        self._tuned = depth
        lists = re.search(r"IVF(\d+)", self._factory)
        if lists is None and "HNSW" not in self._factory:
            return
        name, value, most = ("nprobe", 1, int(lists[1])) if lists else ("efSearch", 16, _MOST_LINKS)
        while True:
            _set(self._approximate, name, min(value, most))
            if value >= most or self._recall(depth) >= LEAST_RECALL:
                return
            value *= 2

    def _nearest(self, vectors: Vectors, depth: int, wanted: int) -> Expanded:
        """Returns documents of each vector, in no order; the `depth` nearest are among them."""
        wanted = min(wanted, len(self._index.unique))
        _, positions = self._neighbours(vectors, wanted)
        owner, column = np.nonzero(positions >= 0)
        near = positions[owner, column]
        scores = self._similarities(vectors, owner, self._index.unique[near])
        expanded = self._index.expand(owner, near, scores)
        if self._factory != "Flat" or wanted in (len(self._index.unique), max(MOST, depth + SLACK)):
            return expanded
        ranked = -np.sort(-scores.reshape(positions.shape), axis=1)
        again = np.flatnonzero(self._in_doubt(vectors, ranked[:, depth - 1], ranked[:, -1]))
        if not len(again):
            return expanded
        sure = ~np.isin(expanded[0], again)
        more = self._nearest(vectors[again], depth, min(4 * wanted, max(MOST, depth + SLACK)))
        parts = zip(expanded, (again[more[0]], *more[1:]), strict=True)
        owner, docs, scores = (np.concatenate([old[sure], new]) for old, new in parts)
        return owner, docs, scores

    def _in_doubt(self, vectors: Vectors, cut: Floats, last: Floats) -> npt.NDArray[np.bool_]:
        """Returns where fp32 may have missed a document that is nearer than the last one within the depth."""
        if self._similarity == COSINE:
            return cut - last < DOUBT
        if self._similarity == MANHATTAN:
            return cut - last < DOUBT * np.abs(last)
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        if self._similarity == DOT:
            return np.asarray(cut - last < DOUBT * lengths * self._longest)
        return np.asarray(last**2 - cut**2 < DOUBT * (lengths + self._longest) ** 2)

    @cached_property
    def _longest(self) -> float:
        """The length of the longest document vector."""
        longest, matrix, rows = 0.0, self.documents.matrix, self._index.unique
        for start in range(0, len(rows), BLOCK):
            part = gather(matrix, rows[start : start + BLOCK]).astype(np.float64)
            longest = max(longest, float(np.linalg.norm(part, axis=1).max()))
            release(matrix)
        return longest

    def _similarities(self, vectors: Vectors, owner: RowNumbers, rows: RowNumbers) -> Floats:
        """Returns the float64 similarity of vectors[owner[i]] and the document vector rows[i] for every i."""
        matrix, scores = self.documents.matrix, np.empty(len(rows), dtype=np.float64)
        for start in range(0, len(rows), _PAIRS):
            cut = slice(start, start + _PAIRS)
            scores[cut] = pairwise(self._similarity, vectors[owner[cut]], matrix[rows[cut]])
            release(matrix)
        return scores

    @cached_property
    def _approximate(self) -> Any:
        """The approximate FAISS index, trained and filled."""
        return _build(self._factory, self.documents.matrix, self._index.unique, self._similarity)

    def _neighbours(self, vectors: Vectors, k: int) -> Neighbours:
        if self._factory != "Flat":
            index = self._approximate
            with search_threads(self._progress):
                scores, positions = index.search(vectors, k)
            return scores, positions
        return self._exact(vectors, k)

    def _exact(self, vectors: Vectors, k: int) -> Neighbours:
        """Returns the k nearest of all document vectors, by fp32 scores."""
        if self._on_gpus is not None:
            return self._on_gpus.nearest(vectors, k)
        with search_threads(self._progress):
            return nearest(
                vectors, self.documents.matrix, self._index.unique, k, self._similarity, self._memory
            )

    @cached_property
    def _on_gpus(self) -> DeviceSearch | None:
        """The search on the GPUs; None if there are none."""
        if resolve_device() != "cuda":
            return None
        from miner.retrieval.gpu_search import DeviceSearch, gpus

        return DeviceSearch(self.documents.matrix, self._index.unique, self._similarity, gpus())


class _Distinct:
    """The distinct vectors of the documents, each searched once, and the documents that share them."""

    def __init__(self, rows: RowNumbers) -> None:
        unique, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
        self._docs = np.argsort(inverse, kind="stable")
        starts = np.cumsum(counts) - counts
        usable = unique >= 0
        self.unique, self._counts, self._starts = unique[usable], counts[usable], starts[usable]

    def expand(self, owner: RowNumbers, positions: RowNumbers, scores: Floats) -> Expanded:
        """Replaces positions among the distinct vectors by all documents that have that vector."""
        counts = self._counts[positions]
        docs = self._docs[joined_ranges(self._starts[positions], counts)]
        return np.repeat(owner, counts), docs, np.repeat(scores, counts)


def empty_index(factory: str, dimension: int, similarity: str) -> Any:
    """Returns an empty FAISS index; raises UsageError for a wrong one, MissingExtraError without FAISS."""
    check_index(factory, dimension)
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError(f"FAISS, which an index such as {factory} needs,", "cpu") from error
    try:
        return faiss.index_factory(dimension, factory, faiss_metric(similarity))
    except RuntimeError as error:
        raise UsageError(
            f"FAISS does not know the index '{factory}' for vectors of {dimension} numbers",
            "use Flat or a factory string such as IVF1024,SQfp16",
        ) from error


def _set(index: Any, name: str, value: int) -> None:
    """Sets a parameter of a FAISS index, whatever wraps it."""
    import faiss

    on_gpu = getattr(faiss, "get_num_gpus", lambda: 0)()
    space = faiss.GpuParameterSpace() if on_gpu else faiss.ParameterSpace()
    space.set_index_parameter(index, name, value)


def _build(factory: str, matrix: Matrix, rows: RowNumbers, similarity: str) -> Any:
    import faiss

    index = empty_index(factory, matrix.shape[1], similarity)
    if getattr(faiss, "get_num_gpus", lambda: 0)() and not factory.startswith("HNSW"):  # no HNSW on GPUs
        index = faiss.index_cpu_to_all_gpus(index)
    sample = np.random.default_rng(0).permutation(rows)[: max(65_536, 64 * getattr(index, "nlist", 0))]
    try:
        if not index.is_trained:
            index.train(np.ascontiguousarray(matrix[np.sort(sample)]))
        for start in range(0, len(rows), BLOCK):
            index.add(gather(matrix, rows[start : start + BLOCK]))
    except RuntimeError as error:
        raise UsageError(
            f"FAISS cannot build the index '{factory}' over {len(rows)} vectors: "
            f"{str(error).rpartition('failed: ')[2]}",
            "use Flat, or a smaller index",
        ) from error
    return index
