"""Reranking: the cross-encoder's score of every candidate and positive, each pair once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import Int64s, number_within, pair_keys, positions, split_pairs
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
    rerankers: Sequence[AnyReranker],
    collection: Collection,
    evidence: str,
    depths: tuple[int | None, int | None],
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> None:
    """Scores the positives of the evidence, and its candidates, with each reranker in turn.

    The first one scores the candidates down to a fused rank, the first of `depths`. Each other one scores the
    best of these by the one before it: as many per query as the second of `depths` says, or all.
    """
    depth, next_depth = depths
    positives = _keys(stored.positive_pairs(store, evidence), collection)
    keys = _keys(stored.candidates_to_rerank(store, evidence, depth), collection)
    inputs: dict[str, Any] = {"evidence": evidence, "depth": depth, "code": _CODE}
    for number, reranker in enumerate(rerankers):
        both = np.concatenate([keys, positives])
        score_pairs(store, reranker, collection, inputs, both, workers=workers, progress=progress)
        if next_depth is not None and number + 1 < len(rerankers):
            keys = _best(store, reranker.fingerprint, collection, keys, next_depth)
            inputs = {**inputs, "after": [*inputs.get("after", []), reranker.fingerprint], "next": next_depth}


def _best(store: Database, reranker: str, collection: Collection, keys: Int64s, depth: int) -> Int64s:
    """Returns the pairs that a reranker scores best: `depth` per query; ties by doc_id."""
    known = stored.known_scores(store, reranker)
    scored = _keys(known, collection)
    order = np.argsort(scored)
    rows = order[np.searchsorted(scored[order], keys)]
    score = np.asarray(known["score"].to_numpy(), dtype=np.float64)[rows]
    query, doc = split_pairs(keys)
    ranked = np.lexsort((doc, -np.where(np.isfinite(score), score, -np.inf), query))
    return keys[ranked[number_within(query[ranked]) <= depth]]


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
