"""Dense retrieval: the nearest documents by cached vectors, with scores in float64."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.arrays import joined_ranges, number_within
from miner.collection.collection import Collection, Floats, Hits, Ints
from miner.engine.progress import SILENT, Progress
from miner.errors import MissingExtraError, UsageError
from miner.models.cached_encoder import CachedEncoder
from miner.models.encoder import Encoder, Vectors
from miner.models.similarity import COSINE, DOT, MANHATTAN, has_vector, pairwise
from miner.models.vector_cache import RowNumbers, gather, release
from miner.retrieval.config import DenseConfig
from miner.retrieval.index import check_index
from miner.retrieval.nearest import (
    BLOCK,
    Neighbours,
    faiss_metric,
    nearest,
    require_search_library,
    search_threads,
)
from miner.store.database import Database

SLACK = 16
"""Neighbours fetched beyond the depth. fp32 sums differ with batch shape and threads, so float64 scores
decide which documents are within the depth."""
DOUBT = 1e-6
"""Cosines that differ by less than this may be in either order in fp32; for other similarities it is relative
to the lengths of the vectors. If the last fetched neighbour is so near to the cut, as among many texts with
the same beginning, more neighbours are fetched."""
MOST = 4096
"""The most neighbours that are fetched in that case."""

_CODE = 2
_PAIRS = 1 << 14
"""Pairs scored at a time."""
_RECALL_SAMPLE = 256

Expanded = tuple[RowNumbers, RowNumbers, Floats]
"""The query, the document and the float64 score of each neighbour."""


class Dense:
    """Searches a collection by the encoder's own similarity.

    A text without a vector is never a hit and has no hits, and its pairs have the score NaN.
    """

    kind = "dense"
    proposes = True

    def __init__(
        self,
        store: Database,
        collection: Collection,
        config: DenseConfig,
        *,
        name: str = "dense",
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.name = name
        self._collection = collection
        self._config = config
        self._progress = progress
        self.encoder = Encoder(
            config.encoder, revision=config.revision, dtype=config.dtype, dimension=config.dimension
        )
        given = {"query": config.query_prompt, "document": config.document_prompt}
        own = self.encoder.prompts
        self.prompts = {role: own[role] if prompt is None else prompt for role, prompt in given.items()}
        """The prompts in use for the roles `query` and `document`."""
        self._vectors = CachedEncoder(
            store.vectors, self.encoder, self.prompts, workers=workers, progress=progress
        )
        require_search_library()
        if self.encoder.similarity == MANHATTAN and config.index != "Flat":
            raise UsageError(
                f"{config.encoder} compares vectors by Manhattan distance, for which FAISS has no dependable "
                f"approximate index: {config.index} cannot be used",
                "leave the setting index at Flat, which is exact",
            )

    def inputs(self) -> dict[str, Any]:
        """Returns everything that its hits depend on, except the texts and the depth."""
        return {
            "encoder": self.encoder.fingerprint,
            "similarity": self.encoder.similarity,
            "prompts": self.prompts,
            "index": self._config.index,
            "code": _CODE,
        }

    @property
    def truncated(self) -> int:
        """Number of distinct texts of the collection that are longer than the encoder reads."""
        if "_doc_rows" not in self.__dict__:  # the ledger has the hits, so no vectors were requested
            self._vectors.count_truncated(self._doc_texts, "document")
            self._vectors.count_truncated(self._query_texts, "query")
        return self._vectors.truncated

    @property
    def _doc_texts(self) -> list[str]:
        texts: list[str] = self._collection.documents["text"].to_pylist()
        return texts

    @property
    def _query_texts(self) -> list[str]:
        texts: list[str] = self._collection.queries["text"].to_pylist()
        return texts

    @cached_property
    def _doc_rows(self) -> RowNumbers:
        if self._config.index != "Flat":  # report a wrong name before hours of encoding
            width = self._documents.shape[1] or self.encoder.dimension
            _empty_index(self._config.index, width, self.encoder.similarity)
        return self._vectors.rows(self._doc_texts, "document")

    @cached_property
    def _query_rows(self) -> RowNumbers:
        return self._vectors.rows(self._query_texts, "query")

    @property
    def _documents(self) -> Vectors:
        return self._vectors.matrix("document")

    @cached_property
    def _index(self) -> _Index:
        return _Index(self._doc_rows, self._documents)

    def gaps(self) -> dict[str, int]:
        """Returns the numbers of documents and queries without a vector; empty before a search."""
        if "_index" not in self.__dict__:
            return {}
        queries = np.asarray(self._vectors.matrix("query")[self._query_rows, 0])
        return {"documents": self._index.gaps, "queries": int((~np.isfinite(queries)).sum())}

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the `depth` nearest documents of each query, by float64 similarity; ties by doc_id."""
        query_rows, _ = self._query_rows, self._doc_rows
        vectors = np.asarray(self._vectors.matrix("query")[query_rows[queries.start : queries.stop]])
        usable = np.flatnonzero(has_vector(vectors))
        if not len(usable) or not len(self._index.unique):
            nothing = np.zeros(0, dtype=np.int64)
            return _ranked(nothing, nothing, np.zeros(0), depth)
        owner, docs, scores = self._nearest(vectors[usable], depth, depth + SLACK)
        return _ranked(usable[owner] + queries.start, docs, scores, depth)

    def _nearest(self, vectors: Vectors, depth: int, wanted: int) -> Expanded:
        """Returns documents of each vector, in no order; the `depth` nearest are among them."""
        wanted = min(wanted, len(self._index.unique))
        _, positions = self._neighbours(vectors, wanted)
        owner, column = np.nonzero(positions >= 0)
        near = positions[owner, column]
        scores = self._similarities(vectors, owner, self._index.unique[near])
        expanded = self._index.expand(owner, near, scores)
        if self._config.index != "Flat" or wanted in (len(self._index.unique), max(MOST, depth + SLACK)):
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
        if self.encoder.similarity == COSINE:
            return cut - last < DOUBT
        if self.encoder.similarity == MANHATTAN:
            return cut - last < DOUBT * np.abs(last)
        lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        if self.encoder.similarity == DOT:
            return np.asarray(cut - last < DOUBT * lengths * self._longest)
        return np.asarray(last**2 - cut**2 < DOUBT * (lengths + self._longest) ** 2)

    @cached_property
    def _longest(self) -> float:
        """The length of the longest document vector."""
        longest, rows = 0.0, self._index.unique
        for start in range(0, len(rows), BLOCK):
            part = gather(self._documents, rows[start : start + BLOCK]).astype(np.float64)
            longest = max(longest, float(np.linalg.norm(part, axis=1).max()))
            release(self._documents)
        return longest

    def _similarities(self, vectors: Vectors, owner: RowNumbers, rows: RowNumbers) -> Floats:
        """Returns the float64 similarity of vectors[owner[i]] and the document vector rows[i] for every i."""
        matrix, scores = self._documents, np.empty(len(rows), dtype=np.float64)
        for start in range(0, len(rows), _PAIRS):
            cut = slice(start, start + _PAIRS)
            scores[cut] = pairwise(self.encoder.similarity, vectors[owner[cut]], matrix[rows[cut]])
            release(matrix)
        return scores

    @cached_property
    def _approximate(self) -> Any:
        """The approximate FAISS index, trained and filled."""
        return _build(self._config.index, self._documents, self._index.unique, self.encoder.similarity)

    def _neighbours(self, vectors: Vectors, k: int) -> Neighbours:
        if self._config.index != "Flat":
            index = self._approximate
            with search_threads(self._progress):
                scores, positions = index.search(vectors, k)
            return scores, positions
        with search_threads(self._progress):
            return nearest(vectors, self._documents, self._index.unique, k, self.encoder.similarity)

    def recall(self, depth: int) -> float:
        """Returns the share of the exact `depth` nearest that the index returns, for a sample of queries."""
        sample = np.unique(np.linspace(0, len(self._query_rows) - 1, _RECALL_SAMPLE, dtype=np.int64))
        query_rows, _ = self._query_rows, self._doc_rows
        vectors = np.asarray(self._vectors.matrix("query")[query_rows[sample]])
        vectors = vectors[has_vector(vectors)]
        k = min(depth, len(self._index.unique))
        if not k or not len(vectors):
            return 1.0
        _, near = self._neighbours(vectors, k)
        _, truth = nearest(vectors, self._documents, self._index.unique, k, self.encoder.similarity)
        shared = [len(np.intersect1d(a, b)) for a, b in zip(near, truth, strict=True)]
        return float(np.sum(shared) / truth.size)

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the float64 similarity of each (query, document) pair of positions."""
        query_rows, doc_rows = self._query_rows, self._doc_rows
        unique, owner = np.unique(query, return_inverse=True)
        vectors = np.asarray(self._vectors.matrix("query")[query_rows[unique]])
        return self._similarities(vectors, owner, doc_rows[doc])


class _Index:
    """The distinct vectors of the documents, each searched once, and the documents that share them."""

    def __init__(self, rows: RowNumbers, matrix: Vectors) -> None:
        unique, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
        self._docs = np.argsort(inverse, kind="stable")
        starts = np.cumsum(counts) - counts
        usable = np.isfinite(np.asarray(matrix[unique, 0])) if len(unique) else np.zeros(0, dtype=np.bool_)
        release(matrix)
        self.unique, self._counts, self._starts = unique[usable], counts[usable], starts[usable]
        self.gaps = int(counts[~usable].sum())
        """Number of documents without a vector."""

    def expand(self, owner: RowNumbers, positions: RowNumbers, scores: Floats) -> Expanded:
        """Replaces positions among the distinct vectors by all documents that have that vector."""
        counts = self._counts[positions]
        docs = self._docs[joined_ranges(self._starts[positions], counts)]
        return np.repeat(owner, counts), docs, np.repeat(scores, counts)


def _ranked(query: npt.NDArray[np.int64], doc: npt.NDArray[np.int64], score: Floats, depth: int) -> Hits:
    order = np.lexsort((doc, -score, query))
    query, doc, score = query[order], doc[order], score[order]
    rank = number_within(query)
    top = rank <= depth
    return Hits(
        query[top].astype(np.int32), doc[top].astype(np.int32), rank[top].astype(np.int32), score[top]
    )


def _empty_index(factory: str, dimension: int, similarity: str) -> Any:
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


def _build(factory: str, matrix: Vectors, rows: RowNumbers, similarity: str) -> Any:
    import faiss

    index = _empty_index(factory, matrix.shape[1], similarity)
    if getattr(faiss, "get_num_gpus", lambda: 0)():
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
