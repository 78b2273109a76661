"""Vectors in the workers of a cluster: each has those of some documents, and searches them exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa

from miner.collection.collection import Floats, Hits, Ints
from miner.engine.cluster import Cluster, Resident, current
from miner.engine.progress import SILENT, Progress
from miner.memory import MemoryLimit
from miner.models.encoder import Vectors
from miner.models.vector_cache import RowNumbers, gather, release
from miner.retrieval.nearest import block_rows
from miner.retrieval.shards import ShardFiles, Shards, shard_key, shard_ranges
from miner.retrieval.vector_search import TextVectors, VectorSearch

_VECTORS, _ROWS = "vectors.f32", "rows.npy"


def vector_search(
    documents: TextVectors, queries: TextVectors, similarity: str, index: str, progress: Progress,
    *, memory: int, ids: pa.Array,
) -> VectorSearch | ShardedVectors:  # fmt: skip
    """Returns the search of documents by vectors: in the workers of the cluster, if there is one.

    `memory` is as for `VectorSearch`; `ids` are those of the documents. An approximate index is
    one index over all documents, which this process searches.
    """
    cluster = current(progress)
    if cluster is None or index != "Flat":
        return VectorSearch(documents, queries, similarity, index, progress, memory=memory)
    return ShardedVectors(cluster, documents, queries, similarity, memory=memory, ids=ids, progress=progress)


class ShardedVectors:
    """Searches documents by the similarity of their vectors, as `VectorSearch` does, in a cluster."""

    def __init__(
        self,
        cluster: Cluster,
        documents: TextVectors,
        queries: TextVectors,
        similarity: str,
        *,
        memory: int,
        ids: pa.Array,
        progress: Progress = SILENT,
    ) -> None:
        self.documents, self.queries = documents, queries
        self._cluster, self._similarity, self._memory = cluster, similarity, memory
        self._ids, self._progress = ids, progress

    def gaps(self) -> dict[str, int]:
        """Returns the numbers of documents and queries without a vector."""
        return {"documents": self.documents.gaps, "queries": self.queries.gaps}

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the `depth` nearest documents of each query, by float64 similarity; ties by doc_id."""
        return self._shards.search(queries, depth)

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the float64 similarity of each (query, document) pair of positions."""
        return self._shards.score_pairs(query, doc)

    def recall(self, depth: int) -> float:
        """Returns 1: the search is exact."""
        return 1.0

    @cached_property
    def _shards(self) -> Shards:
        """The vectors of the documents, with those of the queries."""
        ranges = shard_ranges(len(self.documents.rows), self._cluster)
        shards = Shards([self._resident(one) for one in ranges], ranges, self._cluster.stop)
        with self._progress.task("sending vectors", len(ranges), 0, "shards") as advance:
            shards.each("size")
            advance(len(ranges))
        used, rows = _used(self.queries.rows)
        vectors = np.asarray(self.queries.matrix[used])
        shards.keep("take_queries", self._cluster.put(vectors), self._cluster.put(rows))
        return shards

    def _resident(self, documents: range) -> Resident:
        key = shard_key(self._content(documents), documents, self._ids)
        width = self.documents.matrix.shape[1]
        opener = VectorShardOpener(
            key, documents, width, self._similarity, self._cluster.work, self._cluster.number()
        )
        return Resident(self._cluster, opener, partial(self._made, documents))

    def _content(self, documents: range) -> str:
        """Returns what tells the vectors of some documents from all others, if a work folder keeps them."""
        digest = hashlib.blake2b(self._similarity.encode(), digest_size=16)
        if self._cluster.work is not None:
            for _, (block,) in self._made(documents):
                digest.update(np.ascontiguousarray(block).data)
        return digest.hexdigest()

    def _made(self, documents: range) -> Iterator[tuple[str, tuple[Any, ...]]]:
        """Yields the calls that give a worker the vectors of some documents, each distinct one once."""
        matrix = self.documents.matrix
        used, rows = _used(self.documents.rows[documents.start : documents.stop])
        size = block_rows(matrix.shape[1], self._memory)
        for start in range(0, len(used), size):
            yield "add", (gather(matrix, used[start : start + size]),)
            release(matrix)
        yield "finish", (rows,)


def _used(rows: RowNumbers) -> tuple[RowNumbers, RowNumbers]:
    """Returns the distinct rows that are not -1, and for each row its position among them, or -1."""
    used = np.unique(rows[rows >= 0])
    return used, np.where(rows >= 0, np.searchsorted(used, rows), -1)


@dataclass(frozen=True)
class VectorShardOpener:
    """How a worker gets the vectors of consecutive documents."""

    key: str
    """What the vectors depend on."""
    documents: range
    width: int
    similarity: str
    work: str | None
    number: int
    """Tells openers of the same documents apart, whose queries may differ."""

    def open(self) -> VectorShard:
        """Returns the shard without its vectors."""
        return VectorShard(self)


class VectorShard:
    """The vectors of some documents, in a file that is mapped."""

    def __init__(self, opener: VectorShardOpener) -> None:
        self._opener = opener
        self._kept = ShardFiles(opener.work, opener.key)

    def restored(self) -> bool:
        """Returns whether the shard is complete, because its vectors are kept in the work folder."""
        found = self._kept.restored()
        if found:
            self._open()
        return found

    def add(self, vectors: Vectors) -> None:
        """Takes the next vectors."""
        with (self._kept.folder / _VECTORS).open("ab") as file:
            np.ascontiguousarray(vectors, dtype="<f4").tofile(file)

    def finish(self, rows: RowNumbers) -> None:
        """Takes the number of each document's vector; -1 for a document without one."""
        np.save(self._kept.folder / _ROWS, rows)
        self._kept.save()
        self._open()

    def _open(self) -> None:
        file, width = self._kept.folder / _VECTORS, self._opener.width
        matrix: Vectors = np.empty((0, width), dtype=np.float32)
        if file.exists():
            matrix = np.memmap(file, dtype="<f4", mode="r").reshape(-1, width)
        self._documents = TextVectors(matrix, np.load(self._kept.folder / _ROWS))
        self._kept.remove()

    def size(self) -> int:
        """Returns the number of documents."""
        return len(self._opener.documents)

    def take_queries(self, vectors: Vectors, rows: RowNumbers) -> None:
        """Takes the vectors of all queries, and the number of each query's; -1 for a query without one."""
        self._queries = TextVectors(np.array(vectors), np.array(rows))

    @cached_property
    def _search(self) -> VectorSearch:
        memory = MemoryLimit.of().block
        return VectorSearch(self._documents, self._queries, self._opener.similarity, memory=memory)

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the nearest documents of each query, by position in the collection."""
        found = self._search.search(queries, depth)
        return replace(found, doc=found.doc + np.int32(self._opener.documents.start))

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the float64 similarity of each (query, document) pair of positions in the collection."""
        return self._search.score_pairs(query, doc - np.int32(self._opener.documents.start))
