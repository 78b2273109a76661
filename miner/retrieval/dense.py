"""Dense retrieval: nearest neighbours over cached vectors, rescored in float64."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from miner.arrays import joined_ranges, number_within
from miner.collection.collection import Collection, Floats, Hits, Ints
from miner.engine.load import free_threads
from miner.engine.progress import SILENT, Progress
from miner.errors import MissingExtraError, UsageError
from miner.models.device import resolve_device
from miner.models.encoder import Encoder, Vectors
from miner.models.similarity import COSINE, DOT, EUCLIDEAN, MANHATTAN, has_vector, pairwise
from miner.models.vectors import RowNumbers, VectorCache, embed, gather, release, vector_keys
from miner.processors import cores
from miner.retrieval.config import DenseConfig
from miner.retrieval.index import check_index
from miner.store.database import Store

SLACK = 16
"""Neighbours fetched beyond the depth: fp32 sums differ with batch shape and threads, so what is
near the cut is decided by the float64 scores."""
DOUBT = 1e-6
"""Cosines nearer than this may come in either order in fp32; for the other similarities this is relative to
the lengths of the vectors. Where the last neighbour fetched is no further from the cut, as among many texts
with one beginning, more are fetched."""
MOST = 4096
"""Neighbours fetched at most in case of doubt."""

_CODE = 2
_BLOCK = 32_768
"""Documents searched at once: bounds the memory that vectors take, whatever the collection."""
_PAIRS = 1 << 14
"""Pairs scored at once."""
_RECALL_SAMPLE = 256
_GPU_MOST = 2048
"""The most neighbours that FAISS selects on a GPU; more are searched on the processor."""

Neighbours = tuple[Vectors, RowNumbers]
"""fp32 scores, more is nearer, and positions in the searched matrix, each (queries, k); -1 where there is
none. FAISS gives minus the square of a Euclidean distance."""
Expanded = tuple[RowNumbers, RowNumbers, Floats]
"""Whose neighbour, which document, and its float64 score."""


class Dense:
    """Searches a collection by the encoder's own similarity.

    A text that the encoder has no vector for is neither a hit nor a query, and its pairs score NaN.
    """

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
        if self.encoder.similarity == MANHATTAN and config.index != "Flat":
            raise UsageError(
                f"{config.encoder} compares vectors by Manhattan distance, for which FAISS has no dependable "
                f"approximate index: {config.index} cannot be used",
                "leave the setting index at Flat, which is exact",
            )

    @cached_property
    def prompts(self) -> dict[str, str]:
        """The prompts in use for the roles `query` and `document`."""
        own = self.encoder.prompts
        asked = {"query": self._config.query_prompt, "document": self._config.document_prompt}
        return {role: own[role] if prompt is None else prompt for role, prompt in asked.items()}

    def inputs(self) -> dict[str, Any]:
        """Returns everything that its hits depend on, besides the texts and the depth."""
        return {
            "encoder": self.encoder.fingerprint,
            "similarity": self.encoder.similarity,
            "prompts": self.prompts,
            "index": self._config.index,
            "code": _CODE,
        }

    @cached_property
    def _caches(self) -> dict[str, VectorCache]:
        """The vectors of each role: one cache, unless the encoder has a route for each."""
        models = {role: self.encoder.for_role(role).fingerprint for role in ("query", "document")}
        caches = {m: VectorCache(self._vectors, m, self._progress) for m in dict.fromkeys(models.values())}
        return {role: caches[model] for role, model in models.items()}

    @property
    def truncated(self) -> int:
        """How many distinct texts of the collection are longer than the encoder reads."""
        if "_doc_rows" not in self.__dict__:  # the hits are from the ledger: no vector was needed
            for role, texts in (("document", self._doc_texts), ("query", self._query_texts)):
                self._caches[role].count_truncated(vector_keys(texts, self.prompts[role]))
        return sum(cache.truncated for cache in {id(c): c for c in self._caches.values()}.values())

    @property
    def _doc_texts(self) -> list[str]:
        texts: list[str] = self._collection.documents["text"].to_pylist()
        return texts

    @property
    def _query_texts(self) -> list[str]:
        texts: list[str] = self._collection.queries["text"].to_pylist()
        return texts

    def _rows(self, role: str, texts: list[str]) -> RowNumbers:
        return embed(
            self._caches[role],
            self.encoder.for_role(role),
            texts,
            self.prompts[role],
            workers=self._workers,
            progress=self._progress,
        )

    @cached_property
    def _doc_rows(self) -> RowNumbers:
        if self._config.index != "Flat":  # a wrong name is told before hours of encoding, not after
            width = self._caches["document"].vectors.shape[1] or self.encoder.dimension
            _empty_index(self._config.index, width, self.encoder.similarity)
        return self._rows("document", self._doc_texts)

    @cached_property
    def _query_rows(self) -> RowNumbers:
        return self._rows("query", self._query_texts)

    @property
    def _documents(self) -> Vectors:
        return self._caches["document"].vectors

    @cached_property
    def _index(self) -> _Index:
        return _Index(self._doc_rows, self._documents)

    def gaps(self) -> dict[str, int]:
        """Returns how many documents and queries the encoder has no vector for; empty before a search."""
        if "_index" not in self.__dict__:
            return {}
        queries = np.asarray(self._caches["query"].vectors[self._query_rows, 0])
        return {"documents": self._index.gaps, "queries": int((~np.isfinite(queries)).sum())}

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the `depth` nearest documents of each of the queries.

        By the float64 similarity; ties go to the smaller doc_id.
        """
        query_rows, _ = self._query_rows, self._doc_rows
        vectors = np.asarray(self._caches["query"].vectors[query_rows[queries.start : queries.stop]])
        asked = np.flatnonzero(has_vector(vectors))
        if not len(asked) or not len(self._index.unique):
            nothing = np.zeros(0, dtype=np.int64)
            return _ranked(nothing, nothing, np.zeros(0), depth)
        owner, docs, scores = self._nearest(vectors[asked], depth, depth + SLACK)
        return _ranked(asked[owner] + queries.start, docs, scores, depth)

    def _nearest(self, vectors: Vectors, depth: int, wanted: int) -> Expanded:
        """Returns documents, among them the `depth` nearest of each vector, in no order."""
        wanted = min(wanted, len(self._index.unique))
        _, places = self._neighbours(vectors, wanted)
        owner, column = np.nonzero(places >= 0)
        near = places[owner, column]
        scores = self._similarities(vectors, owner, self._index.unique[near])
        expanded = self._index.expand(owner, near, scores)
        if self._config.index != "Flat" or wanted in (len(self._index.unique), max(MOST, depth + SLACK)):
            return expanded
        ranked = -np.sort(-scores.reshape(places.shape), axis=1)
        again = np.flatnonzero(self._in_doubt(vectors, ranked[:, depth - 1], ranked[:, -1]))
        if not len(again):
            return expanded
        sure = ~np.isin(expanded[0], again)
        more = self._nearest(vectors[again], depth, min(4 * wanted, max(MOST, depth + SLACK)))
        parts = zip(expanded, (again[more[0]], *more[1:]), strict=True)
        owner, docs, scores = (np.concatenate([old[sure], new]) for old, new in parts)
        return owner, docs, scores

    def _in_doubt(self, vectors: Vectors, cut: Floats, last: Floats) -> npt.NDArray[np.bool_]:
        """Whether fp32 may have left out a document that is nearer than the score at the cut."""
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
        for start in range(0, len(rows), _BLOCK):
            part = gather(self._documents, rows[start : start + _BLOCK]).astype(np.float64)
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
        """The FAISS index of a factory string, trained and filled."""
        return _build(self._config.index, self._documents, self._index.unique, self.encoder.similarity)

    def _neighbours(self, vectors: Vectors, k: int) -> Neighbours:
        if self._config.index != "Flat":
            index = self._approximate
            with _search_threads(self._progress):
                scores, places = index.search(vectors, k)
            return scores, places
        with _search_threads(self._progress):
            return exact(vectors, self._documents, self._index.unique, k, self.encoder.similarity)

    def recall(self, depth: int) -> float:
        """Returns the share of the exact top `depth` that the index finds, on a sample of queries."""
        sample = np.unique(np.linspace(0, len(self._query_rows) - 1, _RECALL_SAMPLE, dtype=np.int64))
        query_rows, _ = self._query_rows, self._doc_rows
        vectors = np.asarray(self._caches["query"].vectors[query_rows[sample]])
        vectors = vectors[has_vector(vectors)]
        k = min(depth, len(self._index.unique))
        if not k or not len(vectors):
            return 1.0
        _, near = self._neighbours(vectors, k)
        _, truth = exact(vectors, self._documents, self._index.unique, k, self.encoder.similarity)
        shared = [len(np.intersect1d(a, b)) for a, b in zip(near, truth, strict=True)]
        return float(np.sum(shared) / truth.size)

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the float64 similarity of each (query, document) pair of positions."""
        query_rows, doc_rows = self._query_rows, self._doc_rows
        unique, owner = np.unique(query, return_inverse=True)
        vectors = np.asarray(self._caches["query"].vectors[query_rows[unique]])
        return self._similarities(vectors, owner, doc_rows[doc])


class _Index:
    """Which documents share a vector: each distinct row that holds one is searched once."""

    def __init__(self, rows: RowNumbers, matrix: Vectors) -> None:
        unique, inverse, counts = np.unique(rows, return_inverse=True, return_counts=True)
        self._docs = np.argsort(inverse, kind="stable")
        starts = np.cumsum(counts) - counts
        usable = np.isfinite(np.asarray(matrix[unique, 0])) if len(unique) else np.zeros(0, dtype=np.bool_)
        release(matrix)
        self.unique, self._counts, self._starts = unique[usable], counts[usable], starts[usable]
        self.gaps = int(counts[~usable].sum())
        """How many documents have no vector."""

    def expand(self, owner: RowNumbers, places: RowNumbers, scores: Floats) -> Expanded:
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


def require_search_library() -> None:
    """Raises MissingExtraError unless FAISS is installed or a CUDA device can search instead."""
    if importlib.util.find_spec("faiss") is None and resolve_device() != "cuda":
        raise MissingExtraError("FAISS", "cpu")


def exact(
    vectors: Vectors, matrix: Vectors, rows: RowNumbers, k: int, similarity: str = COSINE
) -> Neighbours:
    """Returns the k rows of `matrix[rows]` that are nearest to each vector in fp32.

    The rows are searched block by block, so that only one block is in memory.
    """
    search = _faiss_block if importlib.util.find_spec("faiss") else _torch_block
    best = np.full((len(vectors), 0), -np.inf, dtype=np.float32), np.zeros((len(vectors), 0), dtype=np.int64)
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        scores, places = search(vectors, gather(matrix, part), min(k, len(part)), similarity)
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


def _metric(similarity: str) -> int:
    import faiss

    distances = {EUCLIDEAN: faiss.METRIC_L2, MANHATTAN: faiss.METRIC_L1}
    return int(distances.get(similarity, faiss.METRIC_INNER_PRODUCT))


@contextmanager
def _search_threads(progress: Progress) -> Iterator[None]:
    """Has FAISS search with as many threads as can run; an index is built with its own number of them."""
    if importlib.util.find_spec("faiss") is None:
        yield
        return
    import faiss

    before = faiss.omp_get_max_threads()
    planned = before if os.environ.get("OMP_NUM_THREADS") else min(before, cores())
    faiss.omp_set_num_threads(free_threads(planned, progress))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _faiss_block(vectors: Vectors, block: Vectors, k: int, similarity: str) -> Neighbours:
    import faiss

    metric = _metric(similarity)
    if getattr(faiss, "get_num_gpus", lambda: 0)() and k <= _GPU_MOST:
        scores, places = faiss.knn_gpu(faiss.StandardGpuResources(), vectors, block, k, metric=metric)
    else:
        scores, places = faiss.knn(vectors, block, k, metric=metric)
    return scores if similarity in (COSINE, DOT) else -scores, places.astype(np.int64)


def _torch_block(vectors: Vectors, block: Vectors, k: int, similarity: str) -> Neighbours:
    import torch

    device = torch.device(resolve_device())
    left, right = torch.from_numpy(vectors).to(device), torch.from_numpy(np.array(block)).to(device)
    if similarity in (COSINE, DOT):
        product = left @ right.T
    else:
        product = -torch.cdist(left, right, p=1.0 if similarity == MANHATTAN else 2.0)
    scores, places = torch.topk(product, k, dim=1)
    return scores.cpu().numpy(), places.cpu().numpy()


def _empty_index(factory: str, dimension: int, similarity: str) -> Any:
    check_index(factory, dimension)
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError(f"FAISS, which an index such as {factory} needs,", "cpu") from error
    try:
        return faiss.index_factory(dimension, factory, _metric(similarity))
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
        for start in range(0, len(rows), _BLOCK):
            index.add(gather(matrix, rows[start : start + _BLOCK]))
    except RuntimeError as error:
        raise UsageError(
            f"FAISS cannot build the index '{factory}' over {len(rows)} vectors: "
            f"{str(error).rpartition('failed: ')[2]}",
            "use Flat, or a smaller index",
        ) from error
    return index
