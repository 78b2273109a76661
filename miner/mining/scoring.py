"""Reranking: the cross-encoder's score of every candidate and positive, each pair once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import Int64s, pair_keys, positions, split_pairs
from miner.collection.collection import Collection, Ints
from miner.engine.progress import SILENT, Progress
from miner.engine.work import run_stage
from miner.models.served import require_same_model
from miner.store import evidence as stored
from miner.store.database import Database
from miner.store.ledger import Stage

if TYPE_CHECKING:
    from miner.models.loading import AnyReranker

_CODE = 2
"""Raised if other pairs are scored than before."""
CHUNK = 4096
"""Number of pairs between two commits."""


def rerank(
    store: Database,
    reranker: AnyReranker,
    collection: Collection,
    evidence: str,
    depth: int | None,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> None:
    """Scores the positives of the evidence, and its candidates down to a fused rank, as `score_pairs`."""
    candidates = stored.candidates_to_rerank(store, evidence, depth)
    keys = _keys(pa.concat_tables([candidates, stored.positive_pairs(store, evidence)]), collection)
    inputs = {"evidence": evidence, "depth": depth, "code": _CODE}
    score_pairs(store, reranker, collection, inputs, keys, workers=workers, progress=progress)


def score_pairs(
    store: Database,
    reranker: AnyReranker,
    collection: Collection,
    inputs: Mapping[str, Any],
    keys: Int64s,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> None:
    """Scores pairs (`pair_keys` of positions); `inputs` identifies these pairs in the ledger.

    Adds to `rerank_scores`; pairs that the reranker has already scored are not scored again.
    """
    require_same_model(store.vectors, reranker, progress)
    query, doc = _shortest_first(keys, collection)
    stage = Stage(
        "rerank",
        {"reranker": reranker.fingerprint, "chunk": CHUNK, **inputs},
        -(-len(query) // CHUNK),
    )
    known = _keys(stored.reranked(store, reranker.fingerprint), collection)

    def compute(chunk: int) -> dict[str, pa.Table]:
        """Returns the scores of a chunk's new pairs."""
        cut = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        new = ~np.isin(pair_keys(query[cut], doc[cut]), known)
        return {"rerank_scores": _score(reranker, collection, query[cut][new], doc[cut][new], workers)}

    run_stage(store, stage, compute, progress, reranker=reranker.fingerprint)


def _shortest_first(keys: Int64s, collection: Collection) -> tuple[Ints, Ints]:
    """Every pair once, by the length of its texts, then position; batches then have similar lengths."""
    query, doc = split_pairs(np.unique(keys))
    length = _lengths(collection.queries)[query] + _lengths(collection.documents)[doc]
    order = np.argsort(length, kind="stable")
    return query[order], doc[order]


def _keys(table: pa.Table, collection: Collection) -> Int64s:
    """The keys of the pairs whose ids the collection has."""
    query = positions(table["query_id"], collection.query_ids)
    doc = positions(table["doc_id"], collection.doc_ids)
    inside = (query >= 0) & (doc >= 0)
    return pair_keys(query[inside], doc[inside])


def _lengths(table: pa.Table) -> npt.NDArray[np.int64]:
    lengths: npt.NDArray[np.int64] = pc.utf8_length(table["text"]).to_numpy().astype(np.int64)
    return lengths


def _score(
    reranker: AnyReranker, collection: Collection, query: Ints, doc: Ints, workers: int | None
) -> pa.Table:
    queries = collection.queries["text"].take(pa.array(query)).to_pylist()
    documents = collection.documents["text"].take(pa.array(doc)).to_pylist()
    return pa.table(
        {
            "query_id": collection.query_column(query),
            "doc_id": collection.doc_column(doc),
            "score": reranker.score(queries, documents, workers=workers),
        }
    )
