"""The evidence: every candidate with its ranks, scores and exclusion; every positive with its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from miner.arrays import number_within, pair_keys, positions, split_pairs
from miner.collection.collection import Collection, Floats, Hits, Ints
from miner.collection.exclusion import Exclusions
from miner.engine.progress import SILENT, Progress
from miner.engine.work import run_stage
from miner.retrieval.fusion import K, reciprocal_rank_fusion
from miner.retrieval.search import CHUNK, Retriever, chunk_ranges, read_hits
from miner.schema import CANDIDATES_PER_QUERY
from miner.store import corpus
from miner.store.database import Database
from miner.store.ledger import Stage

_CODE = 5


@dataclass(frozen=True)
class Searches:
    """The searches: each retriever and the key of its hits."""

    retrievers: Sequence[Retriever]
    keys: Sequence[str]


def evidence_stage(collection: Collection, searches: Sequence[str], exclusions: Exclusions) -> Stage:
    """Returns the description of one set of evidence in the ledger."""
    inputs: dict[str, Any] = {
        "searches": list(searches),
        **collection.hashes,
        "split": collection.split,
        "fusion": K,
        "overlaps": exclusions.overlaps,
        "protected": sorted(exclusions.protected),
        "chunk": CHUNK,
        "code": _CODE,
    }
    return Stage("gather evidence", inputs, len(chunk_ranges(collection)))


def gather(
    store: Database, stage: Stage, searches: Searches, exclusions: Exclusions, progress: Progress = SILENT
) -> None:
    """Merges the hits, scores every pair with every retriever, finds exclusions, and stores the rows.

    Adds to `candidates` and `positives` under the stage's key.
    """
    collection = exclusions.collection
    chunks = chunk_ranges(collection)
    judged = corpus.positives(store, collection.split)
    owners = positions(judged["query_id"], collection.query_ids)
    mined = owners >= 0
    owners, answers = owners[mined], positions(judged["doc_id"], collection.doc_ids)[mined]

    def compute(chunk: int) -> dict[str, pa.Table]:
        """Returns the candidates and positives of a chunk of queries."""
        queries = chunks[chunk]
        hits = [read_hits(store, search, collection, queries) for search in searches.keys]
        mine = slice(*np.searchsorted(owners, [queries.start, queries.stop]))
        return {
            "candidates": _candidates(hits, searches.retrievers, exclusions),
            "positives": _positives(owners[mine], answers[mine], searches.retrievers, collection),
        }

    run_stage(store, stage, compute, progress, evidence=stage.key)


def _candidates(hits: Sequence[Hits], retrievers: Sequence[Retriever], exclusions: Exclusions) -> pa.Table:
    query, doc, ranks, scores = merge(hits)
    fused = reciprocal_rank_fusion(ranks)
    order = np.lexsort((doc, -fused, query))
    query, doc = query[order], doc[order]
    fused_rank = number_within(query).astype(np.int32)
    collection = exclusions.collection
    columns: dict[str, Any] = {
        "candidate": query.astype(np.int64) * CANDIDATES_PER_QUERY + fused_rank,
        "query_id": collection.query_column(query),
        "doc_id": collection.doc_column(doc),
        "fused_rank": fused_rank,
        "exclusion": exclusions.of_candidates(query, doc),
        "judged_negative": exclusions.judged_negative(query, doc),
    }
    for retriever, rank, score in zip(retrievers, ranks, scores, strict=True):
        columns[f"{retriever.name}_rank"] = pa.array(rank[order], mask=rank[order] == 0)
        columns[f"{retriever.name}_score"] = _completed(retriever, query, doc, score[order])
    return pa.table(columns)


def _completed(retriever: Retriever, query: Ints, doc: Ints, score: Floats) -> Floats:
    """Adds the scores of the pairs that only another retriever returned."""
    missing = np.flatnonzero(np.isnan(score))
    score[missing] = retriever.score_pairs(query[missing], doc[missing])
    return score


def _positives(query: Ints, doc: Ints, retrievers: Sequence[Retriever], collection: Collection) -> pa.Table:
    return pa.table(
        {
            "query_no": query,
            "query_id": collection.query_column(query),
            "doc_id": collection.doc_column(doc),
            **{f"{retriever.name}_score": retriever.score_pairs(query, doc) for retriever in retrievers},
        }
    )


def merge(hits: Sequence[Hits]) -> tuple[Ints, Ints, list[Ints], list[Floats]]:
    """Returns the distinct pairs of several retrievers' hits, and the ranks and scores from each.

    Pairs are ordered by query, then document. A pair that a retriever did not return has rank 0, score NaN.
    """
    keys = [pair_keys(one.query, one.doc) for one in hits]
    union = np.sort(np.concatenate(keys))
    union = union[np.diff(union, prepend=-1) > 0]
    ranks, scores = [], []
    for key, one in zip(keys, hits, strict=True):
        rows = np.searchsorted(union, key)
        rank, score = np.zeros(len(union), dtype=np.int32), np.full(len(union), np.nan)
        rank[rows], score[rows] = one.rank, one.score
        ranks.append(rank)
        scores.append(score)
    query, doc = split_pairs(union)
    return query, doc, ranks, scores
