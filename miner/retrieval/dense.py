"""Dense retrieval: nearest neighbours over cached vectors, rescored in float64."""

from __future__ import annotations

import importlib.util
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.engine.progress import SILENT, Progress
from miner.errors import MissingExtraError, UsageError
from miner.models.device import resolve_device
from miner.models.encoder import Encoder, Vectors
from miner.models.vectors import Rows, VectorCache, embed, gather, release, vector_keys
from miner.retrieval.arrays import joined_ranges, number_within
from miner.retrieval.collection import Collection, Floats, Hits, Ints
from miner.retrieval.config import DenseConfig
from miner.store.database import Store

SLACK = 16
"""Neighbours fetched beyond the depth: fp32 sums differ with batch shape and threads, so what is
near the cut is decided by the float64 scores."""
DOUBT = 1e-6
"""Scores nearer than this may come in either order in fp32. Where the last neighbour fetched is no
further from the cut, as among many texts with one beginning, more are fetched."""
MOST = 4096
"""Neighbours fetched at most in case of doubt."""

_CODE = 1
_BLOCK = 32_768
"""Documents searched at once: bounds the memory that vectors take, whatever the collection."""
_PAIRS = 1 << 14
"""Pairs scored at once."""
_RECALL_SAMPLE = 256
_GPU_MOST = 2048
"""The most neighbours that FAISS selects on a GPU; more are searched on the processor."""

Neighbours = tuple[Vectors, Rows]
"""fp32 scores and positions in the searched matrix, each (queries, k); -1 where there is none."""
Expanded = tuple[Rows, Rows, Floats]
"""Whose neighbour, which document, and its float64 score."""


class Dense:
    """Searches a collection by the inner product of unit vectors."""

    name = "dense"

    def __init__(
        self,
        store: Store,
        collection: Collection,
        config: DenseConfig,
        *,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self._collection = collection
        self._config = config
        self._workers = workers
        self._progress = progress
        self.encoder = Encoder(config.encoder, revision=config.revision, dtype=config.dtype)
        self._vectors = store.vectors
        require_search_library()

    @cached_property
    def prompts(self) -> dict[str, str]:
        """The prompts in use for the sides `query` and `document`."""
        own = self.encoder.prompts
        asked = {"query": self._config.query_prompt, "document": self._config.document_prompt}
        return {side: own[side] if prompt is None else prompt for side, prompt in asked.items()}

    def inputs(self) -> dict[str, Any]:
        """Returns everything that its hits depend on, besides the texts and the depth."""
        return {
            "encoder": self.encoder.fingerprint,
            "prompts": self.prompts,
            "index": self._config.index,
            "code": _CODE,
        }

    @cached_property
    def _cache(self) -> VectorCache:
        return VectorCache(self._vectors, self.encoder.fingerprint, self._progress)

    @property
    def truncated(self) -> int:
        """How many distinct texts of the collection are longer than the encoder reads."""
        if "_doc_rows" not in self.__dict__:  # the hits are from the ledger: no vector was needed
            self._cache.count_truncated(vector_keys(self._doc_texts, self.prompts["document"]))
            self._cache.count_truncated(vector_keys(self._query_texts, self.prompts["query"]))
        return self._cache.truncated

    @property
    def _doc_texts(self) -> list[str]:
        texts: list[str] = self._collection.documents["text"].to_pylist()
        return texts

    @property
    def _query_texts(self) -> list[str]:
        texts: list[str] = self._collection.queries["text"].to_pylist()
        return texts

    def _rows(self, side: str, texts: list[str]) -> Rows:
        return embed(
            self._cache,
            self.encoder,
            texts,
            self.prompts[side],
            workers=self._workers,
            progress=self._progress,
        )

    @cached_property
    def _doc_rows(self) -> Rows:
        if self._config.index != "Flat":  # a wrong name is told before hours of encoding, not after
            _empty_index(self._config.index, self._cache.vectors.shape[1] or self.encoder.dimension)
        return self._rows("document", self._doc_texts)

    @cached_property
    def _query_rows(self) -> Rows:
        return self._rows("query", self._query_texts)

    @cached_property
    def _index(self) -> _Index:
        return _Index(self._doc_rows)

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the `depth` nearest documents of each of the queries.

        By float64 inner product; ties go to the smaller doc_id.
        """
        query_rows, _ = self._query_rows, self._doc_rows
        vectors = np.asarray(self._cache.vectors[query_rows[queries.start : queries.stop]])
        owner, docs, scores = self._nearest(vectors, depth, depth + SLACK)
        return _ranked(owner + queries.start, docs, scores, depth)

    def _nearest(self, vectors: Vectors, depth: int, wanted: int) -> Expanded:
        """Returns documents, among them the `depth` nearest of each vector, in no order."""
        wanted = min(wanted, len(self._index.unique))
        _, places = self._neighbours(vectors, wanted)
        owner, column = np.nonzero(places >= 0)
        found = places[owner, column]
        scores = _inner_products(vectors, owner, self._cache.vectors, self._index.unique[found])
        expanded = self._index.expand(owner, found, scores)
        if self._config.index != "Flat" or wanted in (len(self._index.unique), max(MOST, depth + SLACK)):
            return expanded
        ranked = -np.sort(-scores.reshape(places.shape), axis=1)
        again = np.flatnonzero(ranked[:, depth - 1] - ranked[:, -1] < DOUBT)
        if not len(again):
            return expanded
        sure = ~np.isin(expanded[0], again)
        more = self._nearest(vectors[again], depth, min(4 * wanted, max(MOST, depth + SLACK)))
        parts = zip(expanded, (again[more[0]], *more[1:]), strict=True)
        owner, docs, scores = (np.concatenate([old[sure], new]) for old, new in parts)
        return owner, docs, scores

    @cached_property
    def _approximate(self) -> Any:
        """The FAISS index of a factory string, trained and filled."""
        return _build(self._config.index, self._cache.vectors, self._index.unique)

    def _neighbours(self, vectors: Vectors, k: int) -> Neighbours:
        if self._config.index != "Flat":
            scores, places = self._approximate.search(vectors, k)
            return scores, places
        return exact(vectors, self._cache.vectors, self._index.unique, k)

    def recall(self, depth: int) -> float:
        """Returns the share of the exact top `depth` that the index finds, on a sample of queries."""
        sample = np.unique(np.linspace(0, len(self._query_rows) - 1, _RECALL_SAMPLE, dtype=np.int64))
        query_rows, _ = self._query_rows, self._doc_rows
        vectors = np.asarray(self._cache.vectors[query_rows[sample]])
        k = min(depth, len(self._index.unique))
        _, found = self._neighbours(vectors, k)
        _, truth = exact(vectors, self._cache.vectors, self._index.unique, k)
        shared = [len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)]
        return float(np.sum(shared) / truth.size)

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the float64 inner product of each (query, document) pair of positions."""
        query_rows, doc_rows = self._query_rows, self._doc_rows
        unique, owner = np.unique(query, return_inverse=True)
        vectors = np.asarray(self._cache.vectors[query_rows[unique]])
        return _inner_products(vectors, owner, self._cache.vectors, doc_rows[doc])


class _Index:
    """Which documents share a vector: each distinct row is searched once."""

    def __init__(self, rows: Rows) -> None:
        self.unique, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
        self._docs = np.argsort(inverse, kind="stable")
        self._counts = counts
        self._starts = np.concatenate([[0], np.cumsum(counts)[:-1]])

    def expand(self, owner: Rows, places: Rows, scores: Floats) -> Expanded:
        """Turns places among distinct vectors into documents: all that have that vector."""
        counts = self._counts[places]
        docs = self._docs[joined_ranges(self._starts[places], counts)]
        return np.repeat(owner, counts), docs, np.repeat(scores, counts)


def _ranked(query: npt.NDArray[np.int64], doc: npt.NDArray[np.int64], score: Floats, depth: int) -> Hits:
    order = np.lexsort((doc, -score, query))
    query, doc, score = query[order], doc[order], score[order]
    rank = number_within(query)
    top = rank <= depth
    return Hits(
        query[top].astype(np.int32), doc[top].astype(np.int32), rank[top].astype(np.int32), score[top]
    )


def _inner_products(vectors: Vectors, owner: Rows, matrix: Vectors, rows: Rows) -> Floats:
    """Returns vectors[owner[i]] · matrix[rows[i]] for every i, summed in float64.

    einsum without BLAS: the sum's order is fixed, whatever the threads.
    """
    scores = np.empty(len(rows), dtype=np.float64)
    for start in range(0, len(rows), _PAIRS):
        cut = slice(start, start + _PAIRS)
        scores[cut] = np.einsum("nd,nd->n", vectors[owner[cut]], matrix[rows[cut]], dtype=np.float64)
        release(matrix)
    return scores


def require_search_library() -> None:
    """Raises MissingExtraError unless FAISS is installed or a CUDA device can search instead."""
    if importlib.util.find_spec("faiss") is None and resolve_device() != "cuda":
        raise MissingExtraError("FAISS", "cpu")


def exact(vectors: Vectors, matrix: Vectors, rows: Rows, k: int) -> Neighbours:
    """Returns the k largest fp32 inner products of each vector with `matrix[rows]`.

    The rows are searched block by block, so that only one block is in memory.
    """
    search = _faiss_block if importlib.util.find_spec("faiss") else _torch_block
    best = np.full((len(vectors), 0), -np.inf, dtype=np.float32), np.zeros((len(vectors), 0), dtype=np.int64)
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        scores, places = search(vectors, gather(matrix, part), min(k, len(part)))
        best = _merge(best, (scores, places + start), k)
        release(matrix)
    return best


def _merge(left: Neighbours, right: Neighbours, k: int) -> Neighbours:
    scores = np.concatenate([left[0], right[0]], axis=1)
    places = np.concatenate([left[1], right[1]], axis=1)
    if scores.shape[1] <= k:
        return scores, places
    top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return np.take_along_axis(scores, top, axis=1), np.take_along_axis(places, top, axis=1)


def _faiss_block(vectors: Vectors, block: Vectors, k: int) -> Neighbours:
    import faiss

    if getattr(faiss, "get_num_gpus", lambda: 0)() and k <= _GPU_MOST:
        scores, places = faiss.knn_gpu(
            faiss.StandardGpuResources(), vectors, block, k, metric=faiss.METRIC_INNER_PRODUCT
        )
    else:
        scores, places = faiss.knn(vectors, block, k, metric=faiss.METRIC_INNER_PRODUCT)
    return scores, places.astype(np.int64)


def _torch_block(vectors: Vectors, block: Vectors, k: int) -> Neighbours:
    import torch

    device = torch.device(resolve_device())
    product = torch.from_numpy(vectors).to(device) @ torch.from_numpy(np.array(block)).to(device).T
    scores, places = torch.topk(product, k, dim=1)
    return scores.cpu().numpy(), places.cpu().numpy()


def _empty_index(factory: str, dimension: int) -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError(f"FAISS, which an index such as {factory} needs,", "cpu") from error
    try:
        return faiss.index_factory(dimension, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UsageError(
            f"FAISS does not know the index '{factory}' for vectors of {dimension} numbers",
            "use Flat or a factory string such as IVF1024,SQfp16",
        ) from error


def _build(factory: str, matrix: Vectors, rows: Rows) -> Any:
    import faiss

    index = _empty_index(factory, matrix.shape[1])
    if getattr(faiss, "get_num_gpus", lambda: 0)():
        index = faiss.index_cpu_to_all_gpus(index)
    sample = np.random.default_rng(0).permutation(rows)[: max(65_536, 64 * getattr(index, "nlist", 0))]
    try:
        if not index.is_trained:
            index.train(np.ascontiguousarray(matrix[np.sort(sample)]))
        for start in range(0, len(rows), _BLOCK):
            index.add(gather(matrix, rows[start : start + _BLOCK]))
    except RuntimeError as error:
        raise UsageError(
            f"FAISS cannot build the index '{factory}' over {len(rows)} vectors: "
            f"{str(error).rpartition('failed: ')[2]}",
            "use Flat, or a smaller index",
        ) from error
    return index
