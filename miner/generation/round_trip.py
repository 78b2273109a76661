"""Which generated queries bring their own document back: at what rank, by which retriever."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import Int64s, pair_keys, positions
from miner.collection.collection import Collection, Hits
from miner.engine.progress import Progress
from miner.generation.config import GenerationConfig
from miner.mining.scorers import open_scorers
from miner.retrieval.search import chunk_ranges
from miner.store import corpus
from miner.store.database import Database
from miner.text import fingerprint

Ranks = npt.NDArray[np.int64]


def ranks_of_sources(
    store: Database,
    queries: pa.Table,
    pairs: pa.Table,
    config: GenerationConfig,
    workers: int | None,
    progress: Progress,
) -> dict[str, Ranks]:
    """Returns, by retriever, the rank at which each query returns its document; 0 if not within `rank`.

    `queries` has query_id, text, text_key and label, ordered by id; `pairs` has query_id and doc_id. A copy
    of the document counts as the document. Raises what `open_scorers` does.
    """
    assert config.rank is not None
    texts = fingerprint([queries["query_id"].to_pylist(), queries["text"].to_pylist()])
    hashes = {"documents": corpus.content_hashes(store, config.split)["documents"], "queries": texts}
    collection = Collection.over(store, queries, hashes, config.split)
    query = positions(pairs["query_id"], collection.query_ids).astype(np.int64)
    doc = positions(pairs["doc_id"], collection.doc_ids).astype(np.int64)
    scorers = open_scorers(store, collection, config.search, workers, progress)
    found: dict[str, Ranks] = {}
    for retriever in scorers.retrievers:
        ranks = np.zeros(len(query), dtype=np.int64)
        with progress.task(
            f"round trip {retriever.name}", len(collection.query_ids), 0, "queries"
        ) as advance:
            for chunk in chunk_ranges(collection):
                own = np.flatnonzero((query >= chunk.start) & (query < chunk.stop))
                hits = retriever.search(chunk, config.rank)
                ranks[own] = _ranks(collection, hits, query[own], doc[own])
                advance(len(chunk))
        found[retriever.name] = ranks
    scorers.note_texts(config.search, progress)
    return found


def _ranks(collection: Collection, hits: Hits, query: Int64s, doc: Int64s) -> Ranks:
    """Returns the best rank among the hits of each query that are its document, or a copy; 0 without one."""
    best = np.zeros(len(query), dtype=np.int64)
    for numbers in (collection.texts, collection.passages, collection.clusters):
        known = numbers[hits.doc] >= 0
        keys = pair_keys(hits.query[known], numbers[hits.doc][known])
        order = np.lexsort((hits.rank[known], keys))
        keys, rank = keys[order], hits.rank[known][order]
        wanted = pair_keys(query, np.maximum(numbers[doc], 0))
        at = np.searchsorted(keys, wanted)
        there = (at < len(keys)) & (numbers[doc] >= 0)
        there[there] = keys[at[there]] == wanted[there]
        own = rank[at[there]].astype(np.int64)
        best[there] = np.where(best[there] > 0, np.minimum(best[there], own), own)
    return best
