"""Exact search over vectors, block by block: the k nearest, all scores, and all pairs above a threshold.

Retrieval needs the k nearest documents of many queries; evaluation needs the scores of all documents; dedup
needs the pairs of texts that are nearer than a threshold. Each compares every pair of vectors and keeps only
one block of scores in memory.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from miner.arrays import Matrix
from miner.engine.load import free_threads
from miner.engine.progress import SILENT, Progress
from miner.errors import MissingExtraError
from miner.models.device import resolve_device
from miner.models.encoder import Vectors
from miner.models.similarity import COSINE, DOT, EUCLIDEAN, MANHATTAN, matrix, pairwise, without_gaps
from miner.models.vector_cache import RowNumbers, gather, release
from miner.processors import cores

BLOCK = 32_768
"""Documents compared at a time, which bounds the memory for vectors, whatever the size of the collection."""
_CELLS = 1 << 24
"""Scores of `all_scores` in memory at a time."""
_DOUBT = 1e-5
"""fp32 cosines at most this much below the threshold of `pairs_above` are computed exactly."""
_PAIRS = 1 << 14
"""Pairs whose cosines are computed exactly at a time."""
_SIDE = 8192
"""Texts that `pairs_above` compares at a time, with as many others."""
_DECIMALS = 10
"""Decimals to which `all_scores` rounds cosines. fp32 vectors have about seven digits: scores that differ
only beyond ten are ties, on every machine. Other similarities are first divided by a power of ten above the
query's largest score."""

Floats = npt.NDArray[np.float64]
Neighbours = tuple[Vectors, RowNumbers]
"""fp32 scores (higher means nearer) and positions in the searched matrix, each of shape (queries, k); -1
without a neighbour. FAISS gives the negated square of a Euclidean distance."""


def require_search_library() -> None:
    """Raises MissingExtraError unless FAISS is installed or a CUDA device can search instead."""
    if importlib.util.find_spec("faiss") is None and resolve_device() != "cuda":
        raise MissingExtraError("FAISS", "cpu")


def nearest(
    vectors: Vectors,
    documents: Matrix,
    rows: RowNumbers,
    k: int,
    similarity: str = COSINE,
    memory: int | None = None,
) -> Neighbours:
    """Returns the k of `documents[rows]` that are nearest to each vector, by fp32 scores, in no order.

    It searches on the CPU, block by block; `memory` is the bytes that a block may take.
    """
    search = _faiss_block if importlib.util.find_spec("faiss") else _torch_block
    best = np.full((len(vectors), 0), -np.inf, dtype=np.float32), np.zeros((len(vectors), 0), dtype=np.int64)
    size = block_rows(documents.shape[1], memory)
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        scores, positions = search(vectors, gather(documents, part), min(k, len(part)), similarity)
        both = np.concatenate([best[0], scores], axis=1), np.concatenate([best[1], positions + start], axis=1)
        best = nearest_of(*both, k)
        release(documents)
    return best


def block_rows(dimension: int, memory: int | None) -> int:
    """Returns how many document vectors a block has: `BLOCK`, or fewer if `memory` bytes are less.

    A block is in memory twice, as vectors and as scores; at least 256 vectors are compared at a time.
    """
    return BLOCK if memory is None else max(256, min(BLOCK, memory // (8 * max(1, dimension))))


def nearest_of(scores: Vectors, positions: RowNumbers, k: int) -> Neighbours:
    """Returns the k of each row's neighbours that have the highest scores, in no order."""
    if scores.shape[1] <= k:
        return scores, positions
    top = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    return np.take_along_axis(scores, top, axis=1), np.take_along_axis(positions, top, axis=1)


def _faiss_block(vectors: Vectors, block: Vectors, k: int, similarity: str) -> Neighbours:
    import faiss

    scores, positions = faiss.knn(vectors, block, k, metric=faiss_metric(similarity))
    return scores if similarity in (COSINE, DOT) else -scores, positions.astype(np.int64)


def _torch_block(vectors: Vectors, block: Vectors, k: int, similarity: str) -> Neighbours:
    from miner.retrieval.gpu_search import TorchBlock

    return TorchBlock(block, similarity, "cpu").search(vectors, k)


def faiss_metric(similarity: str) -> int:
    """Returns FAISS's number for a similarity."""
    import faiss

    distances = {EUCLIDEAN: faiss.METRIC_L2, MANHATTAN: faiss.METRIC_L1}
    return int(distances.get(similarity, faiss.METRIC_INNER_PRODUCT))


@contextmanager
def search_threads(progress: Progress) -> Iterator[None]:
    """Makes FAISS search with as many threads as are free; an index is built with FAISS's own number."""
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


def all_scores(
    queries: Matrix, documents: Matrix, similarity: str = COSINE, memory: int | None = None
) -> Iterator[Floats]:
    """Yields for each query its float64 similarity with every document, rounded as fp32 vectors allow.

    A text without a vector has NaN. `memory` is the bytes that a block of documents may take.
    """
    number, dimension = documents.shape
    rows, size = max(1, _CELLS // max(1, number)), block_rows(dimension, memory)
    for start in range(0, queries.shape[0], rows):
        block = queries[start : start + rows].astype(np.float64)
        scores = np.empty((len(block), number))
        for first in range(0, number, size):
            part = documents[first : first + size].astype(np.float64)
            scores[:, first : first + size] = matrix(similarity, block, part)
        yield from _rounded(scores, similarity)


def _rounded(scores: Floats, similarity: str) -> Floats:
    if similarity == COSINE:
        return np.round(scores, _DECIMALS, out=scores)
    finite = np.where(np.isfinite(scores), np.abs(scores), 0.0)
    largest = finite.max(axis=1, initial=0.0, keepdims=True)
    unit = 10.0 ** np.ceil(np.log10(largest, out=np.zeros_like(largest), where=largest > 0))
    return np.asarray(np.round(scores / unit, _DECIMALS) * unit)


def pairs_above(
    vectors: Matrix, cosine: float, progress: Progress = SILENT, memory: int | None = None
) -> tuple[RowNumbers, RowNumbers, Floats]:
    """Returns the pairs of positions whose cosine is at least `cosine`: left < right, ordered, cosines.

    The vectors are brought to length 1; one that is not finite, or of length 0, is in no pair. Cosines are
    summed in float64 and rounded to six decimals, so that they do not depend on blocks and threads. The time
    grows with the square of the number of vectors. `memory` is the bytes that a block may take.
    """
    number, dimension = vectors.shape
    size = _side(dimension, memory)
    parts = [(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))]
    with progress.task("comparing vectors", number, unit="texts") as advance:
        for start in range(0, number, size):
            block = without_gaps(vectors[start : start + size], normalise=True)
            for other in range(start, number, size):
                part = without_gaps(vectors[other : other + size], normalise=True)
                scores = block @ part.T
                left, right = np.nonzero(scores >= cosine - _DOUBT)
                ahead = left + start < right + other
                left, right = left[ahead], right[ahead]
                value = np.zeros(len(left))
                for first in range(0, len(left), _PAIRS):
                    cut = slice(first, first + _PAIRS)
                    value[cut] = pairwise(COSINE, block[left[cut]], part[right[cut]])
                value = np.round(value, 6)
                near = value >= cosine
                parts.append((left[near] + start, right[near] + other, value[near]))
            advance(len(block))
    left, right, value = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((right, left))
    return left[order], right[order], np.minimum(value[order], 1.0)


def _side(dimension: int, memory: int | None) -> int:
    """Returns how many texts are compared with how many others at a time."""
    if memory is None:
        return _SIDE
    # The scores, and two blocks of vectors, once more in float64 while they are brought to length 1.
    return max(256, min(_SIDE, math.isqrt(memory // 8), memory // (24 * max(1, dimension))))
