"""Reranking: rerankers' scores of candidates and positives, each pair once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.arrays import Int64s, as_lists, count_within, number_within, pair_keys, positions, split_pairs
from miner.collection.collection import Collection, Floats, Ints
from miner.engine.progress import SILENT, Progress
from miner.engine.work import run_stage
from miner.mining.adaptive import Rounds
from miner.mining.config import MiningConfig
from miner.models.remote import in_workers, scores_of
from miner.models.served import require_same_model
from miner.retrieval.search import chunk_ranges
from miner.schema import CANDIDATES_PER_QUERY
from miner.store import evidence as stored
from miner.store.database import Database
from miner.store.ledger import Stage, is_finished
from miner.store.rerank_scores import known_scores, reranked
from miner.store.runs import StoredRun
from miner.store.scorers import Scorer

if TYPE_CHECKING:
    from miner.models.loading import AnyReranker

Flags = npt.NDArray[np.bool_]

_CODE = 3
"""Raised if other pairs are scored than before."""
CHUNK = 4096
"""Number of pairs between two commits."""


def reranking_stage(
    collection: Collection, evidence: str, scorers: Sequence[Scorer], config: MiningConfig,
    rounds: Mapping[str, Any] | None,
) -> Stage | None:  # fmt: skip
    """Returns the description in the ledger of what the rerankers of a run score; None without a reranker.

    `rounds` is what ends the rounds of an adaptive run.
    """
    models = [one.model for one in scorers if one.is_reranker]
    if not models:
        return None
    inputs = {
        "evidence": evidence,
        "rerankers": models,
        "first": scorers[-len(models)].number,
        "depths": [config.rerank_depth, config.cascade_depth],
        "rounds": rounds,
        "code": _CODE,
    }
    return Stage("reranking", inputs, len(chunk_ranges(collection)))


@dataclass
class Reranking:
    """The rerankers of a run, and what they score."""

    store: Database
    rerankers: Sequence[AnyReranker]
    collection: Collection
    run: StoredRun
    config: MiningConfig
    stage: Stage
    workers: int | None = None
    progress: Progress = SILENT

    def score(self) -> None:
        """Scores the positives of the run, and its candidates, with each reranker in turn; stores the scores.

        The first one scores the candidates down to the fused rank `rerank_depth`. Each other one scores the
        best of these by the one before it: `cascade_depth` per query, or all. The last one scores in rounds
        if the run is adaptive. Adds to `rerank_scores`, which all runs share, and to `scored`.
        """
        if is_finished(self.store, self.stage):
            return
        found = stored.Given(self._candidate, {}, {})
        seen = self._pairs.fused_rank <= (self.config.rerank_depth or CANDIDATES_PER_QUERY)
        for reranker, scorer in zip(self.rerankers, self.run.rerankers, strict=True):
            if self.run.is_adaptive and scorer == self.run.scorers[-1]:
                seen = self._in_rounds(reranker, scorer, seen, found)
            else:
                self._rate(reranker, scorer, np.flatnonzero(self._pairs.is_scored & seen))
                self._look_up(reranker, scorer, seen, found)
            if self.config.cascade_depth is not None:
                seen = seen & (_ranks(self._pairs, found.scores[scorer.number]) <= self.config.cascade_depth)
        self._keep(found)

    def _in_rounds(self, reranker: AnyReranker, scorer: Scorer, seen: Flags, found: stored.Given) -> Flags:
        """Scores until each query has its negatives; returns which candidates the run then sees."""
        rounds = Rounds(self.store, self.run, self.config, self._pairs, seen)
        while rounds.next():
            self._rate(reranker, scorer, rounds.rows, rounds.number)
            self._look_up(reranker, scorer, rounds.within, found)
            rounds.decide(found)
        self.progress.note(rounds.summary)
        return rounds.within

    @cached_property
    def _pairs(self) -> stored.CandidatePairs:
        return stored.candidate_pairs(self.store, self.run.evidence)

    @cached_property
    def _candidate(self) -> Int64s:
        return np.asarray(self._pairs.query * CANDIDATES_PER_QUERY + self._pairs.fused_rank)

    @cached_property
    def _keys(self) -> Int64s:
        return pair_keys(self._pairs.query, self._pairs.doc)

    @cached_property
    def _positives(self) -> Int64s:
        """The keys of the positives, sorted."""
        table = stored.numbered_positives(self.store, self.run.evidence)
        return pair_keys(table["query_no"].to_numpy(), positions(table["doc_id"], self.collection.doc_ids))

    def _rate(self, reranker: AnyReranker, scorer: Scorer, rows: Int64s, round_number: int = 1) -> None:
        """Has a reranker score candidates, by row, and in the first round the positives."""
        keys = self._keys[rows]
        if round_number == 1:
            keys = np.concatenate([keys, self._positives])
        inputs = {
            "reranking": self.stage.key,
            "evidence": self.run.evidence,
            "scorer": scorer.number,
            "round": round_number,
        }
        score_pairs(
            self.store, reranker, self.collection, inputs, keys, workers=self.workers, progress=self.progress
        )

    def _look_up(self, reranker: AnyReranker, scorer: Scorer, seen: Flags, found: stored.Given) -> None:
        """Finds a reranker's scores of the candidates that are seen, and of the positives."""
        known = known_scores(self.store, reranker.fingerprint)
        keys = _keys(known, self.collection)
        order = np.argsort(keys)
        keys, values = keys[order], np.asarray(known["score"].to_numpy(), dtype=np.float64)[order]
        values = np.where(np.isfinite(values), values, np.inf)

        def scores_of(wanted: Int64s) -> Floats:
            """Returns the score of each pair; NaN without one, infinity if it is not finite."""
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            return np.where(keys[at] == wanted, values[at], np.nan)

        scores = np.full(len(seen), np.nan)
        scores[seen] = scores_of(self._keys[seen])
        found.scores[scorer.number] = scores
        found.positives[scorer.number] = scores_of(self._positives)

    def _keep(self, found: stored.Given) -> None:
        """Stores the scores, and each candidate's rank by them, in chunks of queries."""
        chunks, pairs = chunk_ranges(self.collection), self._pairs
        owner = split_pairs(self._positives)[0]
        ranks = {number: _shown_ranks(pairs, score) for number, score in found.scores.items()}

        def compute(chunk: int) -> dict[str, pa.Table]:
            """Returns the scores of a chunk of queries, by each reranker."""
            queries = chunks[chunk]
            ends = [queries.start, queries.stop]
            mine = slice(*np.searchsorted(pairs.query, ends))
            own = slice(*np.searchsorted(owner, ends))
            counts = np.bincount(pairs.query[mine] - queries.start, minlength=len(queries))
            positives = np.bincount(owner[own] - queries.start, minlength=len(queries))

            def rows(number: int) -> pa.Table:
                """Returns those by the reranker of that number."""
                rank = ranks[number][mine]
                return pa.table(
                    {
                        "query_no": np.arange(queries.start, queries.stop, dtype=np.int32),
                        "scorer": np.full(len(queries), number, dtype=np.int16),
                        "ranks": as_lists(pa.array(rank, mask=rank == 0), counts),
                        "scores": as_lists(stored.as_stored(found.scores[number][mine]), counts),
                        "positives": as_lists(stored.as_stored(found.positives[number][own]), positives),
                    }
                )

            return {"scored": pa.concat_tables(map(rows, ranks))}

        run_stage(self.store, self.stage, compute, at_once=1, evidence=self.stage.key)


def _by_score(pairs: stored.CandidatePairs, score: Floats) -> Int64s:
    """Returns the candidates by query, then falling score, then doc_id; those without a finite one last."""
    return np.lexsort((pairs.doc, -np.where(np.isfinite(score), score, -np.inf), pairs.query))


def _ranks(pairs: stored.CandidatePairs, score: Floats) -> Int64s:
    """Returns each candidate's rank by score among those of its query that a reranker scores."""
    order = _by_score(pairs, score)
    counts = pairs.is_scored[order]
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = count_within(counts, pairs.query[order]) + ~counts
    return ranks


def _shown_ranks(pairs: stored.CandidatePairs, score: Floats) -> Ints:
    """Returns each candidate's rank by score among all of its query; 0 without a finite score."""
    order = _by_score(pairs, score)
    ranks = np.empty(len(order), dtype=np.int32)
    ranks[order] = number_within(pairs.query[order])
    return np.where(np.isfinite(score), ranks, 0).astype(np.int32)


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
    known = _keys(reranked(store, reranker.fingerprint), collection)

    def compute(chunk: int) -> dict[str, pa.Table]:
        """Returns the scores of a chunk's new pairs."""
        cut = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        new = ~np.isin(pair_keys(query[cut], doc[cut]), known)
        return {"rerank_scores": _score(reranker, collection, query[cut][new], doc[cut][new], workers)}

    at_once = None if in_workers(reranker) else 1
    run_stage(store, stage, compute, progress, at_once=at_once, reranker=reranker.fingerprint)


def _shortest_first(keys: Int64s, collection: Collection) -> tuple[Ints, Ints]:
    """Every pair once, by the length of its texts, then position; batches then have similar lengths."""
    query, doc = split_pairs(np.unique(keys))
    length = pc.utf8_length(collection.queries["text"]).to_numpy()[query] + collection.text_lengths(doc)
    order = np.argsort(length, kind="stable")
    return query[order], doc[order]


def _keys(table: pa.Table, collection: Collection) -> Int64s:
    """The keys of the pairs whose ids the collection has."""
    query = positions(table["query_id"], collection.query_ids)
    doc = positions(table["doc_id"], collection.doc_ids)
    inside = (query >= 0) & (doc >= 0)
    return pair_keys(query[inside], doc[inside])


def _score(
    reranker: AnyReranker, collection: Collection, query: Ints, doc: Ints, workers: int | None
) -> pa.Table:
    queries = collection.queries["text"].take(pa.array(query)).to_pylist()
    documents = collection.texts_of(doc).to_pylist()
    return pa.table(
        {
            "query_id": collection.query_column(query),
            "doc_id": collection.doc_column(doc),
            "score": scores_of(reranker, queries, documents, workers=workers),
        }
    )
