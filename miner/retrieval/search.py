"""Runs a retriever over all queries, in chunks that the ledger records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from miner.arrays import as_lists
from miner.collection.collection import Collection, Floats, Hits, Ints
from miner.engine.progress import SILENT, Progress
from miner.engine.work import run_stage
from miner.store.database import Database
from miner.store.hits import hits_of
from miner.store.ledger import Stage

CHUNK = 2048
"""Queries per chunk. FAISS uses BLAS only with some hundred queries or more per call."""

_AT_ONCE = 3
"""Chunks that a cluster searches at a time: each is work for all its workers."""

_NOTHING = np.zeros(0, dtype=np.int32)
NO_HITS = Hits(_NOTHING, _NOTHING, _NOTHING, np.zeros(0))


class Retriever(Protocol):
    """A retriever: a scorer that also proposes candidates."""

    @property
    def name(self) -> str:
        """The scorer's name, unique in a run: `bm25`, or the short name of a model, a file or a folder."""
        ...

    @property
    def kind(self) -> str:
        """`bm25`, `dense`, `sparse`, `multi-vector`, `vectors` or `imported`."""
        ...

    @property
    def proposes(self) -> bool:
        """Whether it has hits. Without any it scores the other retrievers' candidates and ranks them."""
        ...

    @property
    def in_workers(self) -> bool:
        """Whether the workers of a cluster search, if there is one."""
        ...

    def inputs(self) -> Mapping[str, Any]:
        """Returns everything that its hits depend on, except the texts and the depth."""
        ...

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the best `depth` documents of each query, ranked; ties by doc_id."""
        ...

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the retriever's score of each pair of positions; NaN for a pair without a score."""
        ...


def chunk_ranges(collection: Collection) -> list[range]:
    """Returns the fixed ranges of queries that are the chunks of every stage."""
    total = collection.queries.num_rows
    return [range(start, min(start + CHUNK, total)) for start in range(0, total, CHUNK)]


def search_stage(retriever: Retriever, collection: Collection, depth: int) -> Stage:
    """Returns the ledger's description of one retriever's search."""
    inputs = {
        "documents": collection.hashes["documents"],
        "queries": collection.hashes["queries"],
        "depth": depth,
        "chunk": CHUNK,
        **retriever.inputs(),
    }
    return Stage(f"search {retriever.name}", inputs, len(chunk_ranges(collection)))


def search(
    store: Database, retriever: Retriever, collection: Collection, depth: int, progress: Progress = SILENT
) -> str:
    """Stores the `depth` best documents of each query as hits; returns the search's key.

    Chunks that are in the ledger are not searched again. A retriever without hits of its own is not searched.
    """
    stage = search_stage(retriever, collection, depth)
    chunks = chunk_ranges(collection)

    def compute(chunk: int) -> dict[str, pa.Table]:
        """Returns the hits of a chunk of queries."""
        return {"hits": _table(retriever.search(chunks[chunk], depth), chunks[chunk])}

    if retriever.proposes:
        run_stage(
            store,
            stage,
            compute,
            progress,
            prepare=lambda: retriever.search(range(0), depth),
            at_once=_AT_ONCE if retriever.in_workers else 1,
            search=stage.key,
        )
    return stage.key


def _table(hits: Hits, queries: range) -> pa.Table:
    counts = np.bincount(hits.query - queries.start, minlength=len(queries))
    return pa.table(
        {
            "query_no": np.arange(queries.start, queries.stop, dtype=np.int32),
            "doc_nos": as_lists(hits.doc.astype(np.int32), counts),
            "scores": as_lists(hits.score, counts),
        }
    )


def read_hits(store: Database, search: str, queries: range) -> Hits:
    """Returns the stored hits of a range of queries, ordered by query, then rank."""
    query, doc, rank, score = hits_of(store, search, queries.start, queries.stop)
    return Hits(query.astype(np.int32), doc.astype(np.int32), rank.astype(np.int32), score)
