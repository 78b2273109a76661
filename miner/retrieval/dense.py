"""Dense retrieval: an encoder whose cached vectors are searched."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from miner.collection.collection import Collection, Floats, Hits, Ints
from miner.engine.progress import SILENT, Progress
from miner.models.cached_encoder import CachedEncoder
from miner.models.loading import open_encoder
from miner.models.vector_cache import RowNumbers, column_blocks, release
from miner.retrieval.config import DenseConfig
from miner.retrieval.nearest import BLOCK, require_search_library
from miner.retrieval.vector_search import TextVectors, VectorSearch, empty_index, index_inputs, require_index
from miner.retrieval.vector_shards import ShardedVectors, vector_search
from miner.store.database import Database

_CODE = 2


class Dense:
    """Searches a collection by the encoder's own similarity; `VectorSearch` says how.

    A text without a vector is never a hit and has no hits, and its pairs have the score NaN.
    """

    kind = "dense"
    proposes = True

    @property
    def in_workers(self) -> bool:
        """Whether the workers of a cluster search, if there is one."""
        return self._config.index == "Flat"

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
        self.encoder = open_encoder(
            config.encoder,
            revision=config.revision,
            dtype=config.dtype,
            dimension=config.dimension,
            progress=progress,
        )
        given = {"query": config.query_prompt, "document": config.document_prompt}
        own = self.encoder.prompts
        self.prompts = {role: own[role] if prompt is None else prompt for role, prompt in given.items()}
        """The prompts in use for the roles `query` and `document`."""
        self._vectors = CachedEncoder(
            store.vectors, self.encoder, self.prompts, workers=workers, progress=progress
        )
        require_search_library()
        require_index(config.index, self.encoder.similarity, config.encoder)

    def inputs(self) -> dict[str, Any]:
        """Returns everything that its hits depend on, except the texts and the depth."""
        return {
            "encoder": self.encoder.fingerprint,
            "similarity": self.encoder.similarity,
            "prompts": self.prompts,
            **index_inputs(self._config.index),
            "code": _CODE,
        }

    @property
    def truncated(self) -> int:
        """Number of distinct texts of the collection that are longer than the encoder reads."""
        if "_search" not in self.__dict__:  # the ledger has the hits, so no vectors were requested
            self._vectors.count_truncated(self._doc_texts, "document")
            self._vectors.count_truncated(self._query_texts, "query")
        return self._vectors.truncated

    def _doc_texts(self) -> Iterator[list[str]]:
        return (block.to_pylist() for block in self._collection.text_blocks(self._collection.block))

    def _query_texts(self) -> Iterator[list[str]]:
        return column_blocks(self._collection.queries["text"])

    @cached_property
    def _search(self) -> VectorSearch | ShardedVectors:
        """The search over the vectors of all texts, which are encoded if they are not in the cache."""
        similarity = self.encoder.similarity
        if self._config.index != "Flat":  # report a wrong name before hours of encoding
            width = self._vectors.matrix("document").shape[1] or self.encoder.dimension
            empty_index(self._config.index, width, similarity)
        queries = self._vectors.rows(self._query_texts, "query")
        documents = self._vectors.rows(self._doc_texts, "document")
        return vector_search(
            self._text_vectors(documents, "document"),
            self._text_vectors(queries, "query"),
            similarity,
            self._config.index,
            self._progress,
            memory=self._collection.memory.block,
            ids=self._collection.doc_ids,
        )

    def _text_vectors(self, rows: RowNumbers, role: str) -> TextVectors:
        """Returns cached vectors by row; a text without a vector, whose cached row is NaN, has no row."""
        matrix, found = self._vectors.matrix(role), rows.copy()
        # A number of each vector is on every page of the file: all of it at once would be in memory.
        for start in range(0, len(rows), BLOCK):
            part = found[start : start + BLOCK]
            part[~np.isfinite(np.asarray(matrix[part, 0]))] = -1
            release(matrix)
        return TextVectors(matrix, found)

    def gaps(self) -> dict[str, int]:
        """Returns the numbers of documents and queries without a vector; empty before a search."""
        return self._search.gaps() if "_search" in self.__dict__ else {}

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the `depth` nearest documents of each query, by float64 similarity; ties by doc_id."""
        return self._search.search(queries, depth)

    def recall(self, depth: int) -> float:
        """Returns the share of the exact `depth` nearest that the index returns, for a sample of queries."""
        return self._search.recall(depth)

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the float64 similarity of each (query, document) pair of positions."""
        return self._search.score_pairs(query, doc)
