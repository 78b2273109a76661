"""What the sparse and the multi-vector retriever share: the cached rows of a collection's texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np

from miner.arrays import joined_ranges
from miner.collection.collection import Collection, Floats, Hits, Ints
from miner.engine.progress import SILENT, Progress
from miner.models.cached_encoder import CachedRows
from miner.models.library_encoder import LibraryEncoder
from miner.models.row_cache import Flags, Items, RowNumbers, release
from miner.models.vector_cache import column_blocks
from miner.retrieval.config import DenseConfig
from miner.store.database import Database


class RaggedRetriever(ABC):
    """A retriever whose encoder gives rows of any length.

    A text without a vector is never a hit and has no hits, and its pairs have the score NaN.
    """

    kind: str
    """`sparse` or `multi-vector`."""
    in_workers = False
    _CODE: ClassVar[int]
    _BLOCK: ClassVar[int]
    """Items of the documents that are in memory at a time."""
    _MOST: ClassVar[int | None] = None
    """The most documents of a collection that is searched whole; None: there is no limit."""

    def __init__(
        self,
        store: Database,
        collection: Collection,
        config: DenseConfig,
        *,
        name: str,
        workers: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.name = name
        self.proposes = self._MOST is None or len(collection.documents) <= self._MOST
        """Whether it proposes candidates; otherwise it scores those of other retrievers."""
        self._collection = collection
        self.encoder = self._opened(config)
        given = {"query": config.query_prompt, "document": config.document_prompt}
        own = self.encoder.prompts
        self.prompts = {role: own[role] if prompt is None else prompt for role, prompt in given.items()}
        """The prompts in use for the roles `query` and `document`."""
        self._cached = CachedRows(
            store.vectors, self.encoder, self.prompts, workers=workers, progress=progress
        )

    @staticmethod
    @abstractmethod
    def _opened(config: DenseConfig) -> LibraryEncoder:
        """Returns the encoder."""

    @abstractmethod
    def search(self, queries: range, depth: int) -> Hits:
        """Returns the best `depth` documents of each query, ranked; ties by doc_id."""

    @abstractmethod
    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the score of each (query, document) pair of positions; NaN for a text without a vector."""

    def inputs(self) -> dict[str, Any]:
        """Returns everything that its hits depend on, except the texts and the depth."""
        return {
            "encoder": self.encoder.fingerprint,
            "similarity": self.encoder.similarity,
            "prompts": self.prompts,
            "code": self._CODE,
        }

    @property
    def truncated(self) -> int:
        """Number of distinct texts of the collection that are longer than the encoder reads."""
        if "_rows" not in self.__dict__:  # the ledger has the hits, so no rows were requested
            for role in ("document", "query"):
                self._cached.count_truncated(partial(self._texts, role), role)
        return self._cached.truncated

    def gaps(self) -> dict[str, int]:
        """Returns the numbers of documents and queries without a vector; empty before a search."""
        if "_rows" not in self.__dict__:
            return {}
        return {"documents": int((~self._has("document")).sum()), "queries": int((~self._has("query")).sum())}

    def _texts(self, role: str) -> Iterator[list[str]]:
        if role == "query":
            return column_blocks(self._collection.queries["text"])
        return (block.to_pylist() for block in self._collection.text_blocks(self._collection.block))

    @cached_property
    def _rows(self) -> dict[str, tuple[RowNumbers, RowNumbers]]:
        """The first item and the number of items of each text of a role."""
        rows = {role: self._cached.rows(partial(self._texts, role), role) for role in ("document", "query")}
        return {role: self._cached.cache(role).spans(numbers) for role, numbers in rows.items()}

    def _has(self, role: str) -> Flags:
        """Returns which texts of a role have a vector."""
        return np.asarray(self._rows[role][1] > 0)

    def _sizes(self, role: str, positions: Ints | RowNumbers) -> RowNumbers:
        """Returns the number of items of each text."""
        return self._rows[role][1][positions]

    def _items(self, role: str, positions: Ints | RowNumbers) -> Items:
        """Returns the items of texts, one text after the other: shape (items, dimension)."""
        firsts, sizes = self._rows[role]
        matrix = self._cached.cache(role).items
        items = np.asarray(matrix[joined_ranges(firsts[positions], sizes[positions])])
        release(matrix)
        return items

    @cached_property
    def _blocks(self) -> list[range]:
        """Ranges of documents, each of at most `_BLOCK` items or of one document."""
        return list(cut(self._rows["document"][1], self._BLOCK))


def cut(sizes: RowNumbers, most: int) -> Iterator[range]:
    """Yields ranges of positions in order, each with `sizes` that add up to at most `most`, or of one."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield range(start, stop)
        start = stop
