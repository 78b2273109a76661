"""The evidence: every candidate with its ranks, scores and exclusion; every positive with its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from miner.arrays import Int64s, as_lists, number_within, pair_keys, positions, split_pairs
from miner.collection.collection import Collection, Floats, Hits, Ints
from miner.collection.exclusion import Exclusions
from miner.engine.progress import SILENT, Progress
from miner.engine.work import run_stage
from miner.retrieval.fusion import K, reciprocal_rank_fusion
from miner.retrieval.search import CHUNK, NO_HITS, Retriever, chunk_ranges, read_hits
from miner.store import corpus
from miner.store import evidence as stored
from miner.store.database import Database
from miner.store.hits import hold_hits
from miner.store.ledger import Stage
from miner.store.scorers import IMPORTED

_CODE = 6


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
        "same_document": exclusions.same_document,
        "protected": sorted(exclusions.protected),
        "chunk": CHUNK,
        "code": _CODE,
    }
    return Stage("gather evidence", inputs, len(chunk_ranges(collection)) + 1)


def gather(
    store: Database, stage: Stage, searches: Searches, exclusions: Exclusions, progress: Progress = SILENT
) -> None:
    """Merges the hits, scores every pair with every retriever, finds exclusions, and stores the rows.

    Adds to `pools`, `scored` and `positives` under the stage's key, then to `pool_documents`.
    """
    collection = exclusions.collection
    chunks = chunk_ranges(collection)
    judged = corpus.positives(store, collection.split)
    owners = positions(judged["query_id"], collection.query_ids)
    mined = owners >= 0
    owners, answers = owners[mined], positions(judged["doc_id"], collection.doc_ids)[mined]
    order = np.lexsort((answers, owners))
    owners, answers = owners[order], answers[order]

    def compute(chunk: int) -> dict[str, pa.Table]:
        """Returns the candidates and positives of a chunk of queries; in the last, the candidates' ids."""
        if chunk == len(chunks):
            numbers = stored.pooled_numbers(store, stage.key)
            ids = collection.doc_ids.take(pa.array(numbers))
            return {"pool_documents": pa.table({"doc_no": numbers.astype(np.int32), "doc_id": ids})}
        queries = chunks[chunk]
        found = zip(searches.retrievers, searches.keys, strict=True)
        hits = [read_hits(store, key, queries) if one.proposes else NO_HITS for one, key in found]
        mine = slice(*np.searchsorted(owners, [queries.start, queries.stop]))
        return _Gathered(searches.retrievers, exclusions, queries, hits, owners[mine], answers[mine]).tables()

    run_stage(store, stage, compute, progress, at_once=1, evidence=stage.key)
    numbered = enumerate(zip(searches.retrievers, searches.keys, strict=True))
    hold_hits(store, stage.key, {key: number for number, (one, key) in numbered if one.proposes})


@dataclass(frozen=True)
class _Gathered:
    """The hits and the positives of some queries."""

    retrievers: Sequence[Retriever]
    exclusions: Exclusions
    queries: range
    hits: Sequence[Hits]
    owners: Ints
    """The query of each positive, sorted."""
    answers: Ints
    """The document of each positive, sorted within a query."""

    def tables(self) -> dict[str, pa.Table]:
        """Returns the rows of `pools`, `positives` and `scored`."""
        query, doc, ranks, scores = merge(self.hits)
        order = np.lexsort((doc, -reciprocal_rank_fusion(ranks), query))
        query, doc = query[order], doc[order]
        counts = np.bincount(query - self.queries.start, minlength=len(self.queries)).astype(np.int64)
        scored, by_rank = [], []
        for number, (retriever, rank, score) in enumerate(zip(self.retrievers, ranks, scores, strict=True)):
            known = _completed(retriever, query, doc, score[order])
            ranked = rank[order] if retriever.proposes else _ranks_by_score(query, doc, known)
            by_rank.append(ranked)
            scored.append(self._scored(number, ranked, known, counts))
        collection = self.exclusions.collection
        return {
            "pools": self._pools(query, doc, counts, np.vstack(by_rank)),
            "positives": pa.table(
                {
                    "query_no": self.owners,
                    "query_id": collection.query_column(self.owners),
                    "doc_id": collection.doc_column(self.answers),
                }
            ),
            "scored": pa.concat_tables(scored),
        }

    def _pools(self, query: Ints, doc: Ints, counts: Int64s, ranks: Ints) -> pa.Table:
        ranked = np.where(ranks > 0, ranks, np.iinfo(np.int32).max)
        best = ranked.argmin(axis=0)
        numbers = np.arange(self.queries.start, self.queries.stop, dtype=np.int32)
        return pa.table(
            {
                "query_no": numbers,
                "query_id": self.exclusions.collection.query_column(numbers),
                "doc_nos": as_lists(doc.astype(np.int32), counts),
                "exclusions": as_lists(self.exclusions.of_candidates(query, doc), counts),
                "judged_negative": as_lists(self.exclusions.judged_negative(query, doc), counts),
                "best_ranks": as_lists(ranked[best, np.arange(len(doc))].astype(np.int32), counts),
                "best_scorers": as_lists(best.astype(np.int8), counts),
            }
        )

    def _scored(self, number: int, rank: Ints, score: Floats, counts: Int64s) -> pa.Table:
        retriever = self.retrievers[number]
        positives = np.bincount(self.owners - self.queries.start, minlength=len(self.queries))
        own = retriever.score_pairs(self.owners, self.answers)
        return pa.table(
            {
                "query_no": np.arange(self.queries.start, self.queries.stop, dtype=np.int32),
                "scorer": np.full(len(self.queries), number, dtype=np.int16),
                "ranks": as_lists(pa.array(rank.astype(np.int32), mask=rank == 0), counts),
                "scores": as_lists(_unknown_as_null(retriever, score), counts),
                "positives": as_lists(_unknown_as_null(retriever, own), positives),
            }
        )


def _completed(retriever: Retriever, query: Ints, doc: Ints, score: Floats) -> Floats:
    """Adds the scores of the pairs that only another retriever returned."""
    missing = np.flatnonzero(np.isnan(score))
    score[missing] = retriever.score_pairs(query[missing], doc[missing])
    return score


def _ranks_by_score(query: Ints, doc: Ints, score: Floats) -> Ints:
    """Returns each candidate's rank by its score among those of its query; 0 without a finite score."""
    known = np.isfinite(score)
    order = np.lexsort((doc, -np.where(known, score, -np.inf), query))
    ranks = np.empty(len(score), dtype=np.int32)
    ranks[order] = number_within(query[order])
    return np.where(known, ranks, 0)


def _unknown_as_null(retriever: Retriever, score: Floats) -> pa.Array:
    """Returns the scores; NaN of an imported run means that the run does not have the pair."""
    return pa.array(score, mask=np.isnan(score) if retriever.kind == IMPORTED else None)


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
