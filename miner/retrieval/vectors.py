"""Retrieval by vectors that the user has."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import positions
from miner.collection.collection import Collection, Floats, Hits, Ints
from miner.collection.given import BFLOAT16, IdVectors, VectorSet
from miner.engine.progress import SILENT, Progress
from miner.errors import InputError, counted, listed, near
from miner.models.encoder import Vectors
from miner.models.similarity import COSINE, has_vector, without_gaps
from miner.models.vector_cache import RowNumbers, gather, release
from miner.retrieval.nearest import BLOCK, require_search_library
from miner.retrieval.vector_search import TextVectors, index_inputs, require_index
from miner.retrieval.vector_shards import vector_search

_CODE = 1
_NEAR = 20_000
"""Ids of the store among which a message looks for one that resembles an unknown id."""
_EXAMPLES = 3


class GivenVectors:
    """Searches a collection by given vectors of its documents and queries; `VectorSearch` says how.

    A text without a vector, or with one that is not finite, is never a hit, has no hits, and its pairs have
    the score NaN. For cosine, the vectors are brought to length 1, and one of length 0 is as good as missing.
    """

    kind = "vectors"
    proposes = True

    def __init__(
        self,
        collection: Collection,
        given: VectorSet,
        *,
        name: str,
        index: str = "Flat",
        progress: Progress = SILENT,
    ) -> None:
        require_search_library()
        require_index(index, given.similarity, given.origin)
        self.name = name
        self.similarity = given.similarity
        """The similarity by which its vectors are compared."""
        self._inputs = {
            "vectors": given.digest,
            "similarity": given.similarity,
            **index_inputs(index),
            "code": _CODE,
        }
        if given.note:
            progress.note(given.note)
        normalise = given.similarity == COSINE
        documents = _text_vectors(given.documents, collection.doc_ids, "documents", normalise, progress)
        queries = _text_vectors(given.queries, collection.query_ids, "queries", normalise, progress)
        self.in_workers = index == "Flat"
        """Whether the workers of a cluster search, if there is one."""
        self._search = vector_search(
            documents,
            queries,
            given.similarity,
            index,
            progress,
            memory=collection.memory.block,
            ids=collection.doc_ids,
        )

    def inputs(self) -> dict[str, Any]:
        """Returns everything that its hits depend on, except the texts and the depth."""
        return dict(self._inputs)

    def gaps(self) -> dict[str, int]:
        """Returns the numbers of documents and queries of the collection without a vector."""
        return self._search.gaps()

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the `depth` nearest documents of each query, by float64 similarity; ties by doc_id."""
        return self._search.search(queries, depth)

    def recall(self, depth: int) -> float:
        """Returns the share of the exact `depth` nearest that the index returns, for a sample of queries."""
        return self._search.recall(depth)

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the float64 similarity of each (query, document) pair of positions."""
        return self._search.score_pairs(query, doc)


class _Rows:
    """A given matrix whose rows are read when they are needed: as float32, for cosine with length 1."""

    def __init__(self, matrix: npt.NDArray[Any], normalise: bool) -> None:
        self._matrix, self._normalise = matrix, normalise
        self._mmap = getattr(matrix, "_mmap", None)

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows, and the length of a vector."""
        return self._matrix.shape

    def __getitem__(self, rows: slice | RowNumbers, /) -> Vectors:
        part = np.asarray(self._matrix[rows])
        if part.dtype == BFLOAT16:  # the upper half of a float32
            part = (part.astype(np.uint32) << 16).view(np.float32)
        return without_gaps(part, self._normalise)


def _text_vectors(
    given: IdVectors, ids: pa.Array, what: str, normalise: bool, progress: Progress
) -> TextVectors:
    """Returns the row of each id of the collection; -1 for one without a vector that can be compared.

    Reports the vectors of unknown ids. Raises InputError if no id is known.
    """
    rows = positions(pa.chunked_array([ids]), given.ids).astype(np.int64)
    known = int((rows >= 0).sum())
    if len(ids) and not known:
        unknown, examples = given.ids.to_pylist(), ids.slice(0, _NEAR).to_pylist()
        whose = f"{what} of {'the store' if what == 'documents' else 'this run'}"
        raise InputError(
            f"{given.origin}: none of its ids ({listed(unknown, most=_EXAMPLES)}) is among the {whose} "
            f"({listed(examples, most=_EXAMPLES)}){near(unknown[0], examples)}",
            "ids are compared character by character: write those of the store into the file",
        )
    if len(given.ids) > known:
        unused = counted(len(given.ids) - known, "vector is", "vectors are")
        progress.note(f"{given.origin}: {unused} not of {what} of this run")
    matrix = _Rows(given.vectors, normalise)
    with_vector = np.flatnonzero(rows >= 0)
    for start in range(0, known, BLOCK):
        part = with_vector[start : start + BLOCK]
        order = part[np.argsort(rows[part])]  # rows in the order of the file are read fastest
        rows[order[~has_vector(gather(matrix, rows[order]))]] = -1
        release(matrix)
    return TextVectors(matrix, rows)
