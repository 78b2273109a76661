"""Runs a retriever over all queries, in chunks that the ledger records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import pyarrow as pa

from miner.arrays import positions
from miner.collection.collection import Collection, Floats, Hits, Ints
from miner.engine.progress import SILENT, Progress
from miner.engine.work import run_stage
from miner.store import evidence as stored
from miner.store.database import Database
from miner.store.ledger import Stage

CHUNK = 2048
"""Queries per chunk. FAISS uses BLAS only with some hundred queries or more per call."""


class Retriever(Protocol):
    """A retriever: BM25, or a dense encoder."""

    @property
    def name(self) -> str:
        """`bm25` or `dense`: the prefix of its columns in the evidence."""
        ...

    def inputs(self) -> Mapping[str, Any]:
        """Returns everything that its hits depend on, except the texts and the depth."""
        ...

    def search(self, queries: range, depth: int) -> Hits:
        """Returns the best `depth` documents of each query, ranked; ties by doc_id."""
        ...

    def score_pairs(self, query: Ints, doc: Ints) -> Floats:
        """Returns the retriever's score of each pair of positions."""
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

    Chunks that are in the ledger are not searched again.
    """
    stage = search_stage(retriever, collection, depth)
    chunks = chunk_ranges(collection)

    def compute(chunk: int) -> dict[str, pa.Table]:
        """Returns the hits of a chunk of queries."""
        return {"hits": _table(retriever.search(chunks[chunk], depth), collection)}

    run_stage(store, stage, compute, progress, search=stage.key)
    return stage.key


def _table(hits: Hits, collection: Collection) -> pa.Table:
    return pa.table(
        {
            "query_id": collection.query_column(hits.query),
            "doc_id": collection.doc_column(hits.doc),
            "rank": hits.rank,
            "score": hits.score,
        }
    )


def read_hits(store: Database, search: str, collection: Collection, queries: range) -> Hits:
    """Returns the stored hits of a range of queries, ordered by query, then rank."""
    ids = collection.query_ids
    table = stored.hits_of(store, search, ids[queries.start].as_py(), ids[queries.stop - 1].as_py())
    return Hits(
        positions(table["query_id"], ids),
        positions(table["doc_id"], collection.doc_ids),
        table["rank"].to_numpy(),
        table["score"].to_numpy(),
    )
