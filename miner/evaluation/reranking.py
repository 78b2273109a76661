"""The task reranking: does a reranker rank the relevant candidates of BM25 first?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.arrays import pair_keys
from miner.collection.collection import Collection
from miner.engine.progress import SILENT, Progress
from miner.engine.work import in_order
from miner.errors import StoreError, counted
from miner.evaluation.ranking import Ints, QueryPairs
from miner.evaluation.result import Evaluation, Floats, from_values
from miner.evaluation.retrieval import RetrievalTask, task_of, without_copies
from miner.models.constant import same_score
from miner.models.loading import AnyReranker
from miner.models.remote import in_workers, scores_of
from miner.models.reranker import Scores
from miner.models.served import require_same_model
from miner.retrieval.bm25 import Bm25
from miner.retrieval.config import Bm25Config
from miner.retrieval.search import chunk_ranges
from miner.store.database import Database
from miner.store.rerank_scores import keep_scores

_WAIT, _LAST_WAIT = 0.5, 5.0
"""Seconds to wait for another process that writes to the store: after a chunk, and at the end."""
MEASURES = ("nDCG@10", "MRR@10", "MAP")
_CHUNK = 4096
"""Pairs that are scored between two commits: the work that a kill can lose."""


@dataclass(frozen=True)
class RerankingTask:
    """Queries, BM25's candidates and the judgments; the store may be closed."""

    retrieval: RetrievalTask
    collection: Collection
    depth: int

    @cached_property
    def candidates(self) -> QueryPairs:
        """Each query's best `depth` documents by BM25, ordered by query, then rank."""
        bm25 = Bm25(self.collection, Bm25Config())
        most = int(np.bincount(self.retrieval.judgments.unranked.query, minlength=1).max())
        found = [
            _candidates(bm25, self.retrieval, chunk, self.depth, self.depth + most)
            for chunk in chunk_ranges(self.collection)
        ]
        query, doc = (np.concatenate(side).astype(np.int64) for side in zip(*found, strict=True))
        return QueryPairs(query, doc)

    def measure(self, scores: Floats) -> Evaluation:
        """Returns nDCG@10, MRR@10 and MAP of the candidates, ordered by `scores` (one per candidate).

        Ties go to the smaller text_key. A candidate without a finite score is not ranked. A relevant document
        that is not ranked, or not among the candidates, counts as missed.
        """
        judgments = self.retrieval.judgments
        order = np.lexsort((self.candidates.doc, -scores, self.candidates.query))
        order = order[np.isfinite(scores[order])]
        cuts = np.searchsorted(self.candidates.query[order], np.arange(1, len(judgments.query_ids)))
        values = judgments.values(np.split(self.candidates.doc[order], cuts), MEASURES)
        gaps = {"candidates": len(scores) - len(order)}
        result = from_values("reranking", judgments.query_ids, values, len(judgments.doc_ids), unscored=gaps)
        finite = scores[order]
        extremes = (float(finite.min()), float(finite.max())) if len(finite) else (None, None)
        constant = same_score(len(finite), *extremes)
        return replace(result, left_out=self.retrieval.left_out, constant=constant)

    @property
    def lengths(self) -> Ints:
        """How many characters each candidate's query and document have together."""
        queries = np.array([len(text) for text in self.retrieval.queries])
        return np.asarray(queries[self.candidates.query] + self.collection.text_lengths(self.candidates.doc))


def reranking_task(
    store: Database, split: str, depth: int = 100, queries: int | None = None, seed: int = 13
) -> RerankingTask:
    """Reads what `retrieval_task` reads; the candidates are each query's best `depth` documents by BM25.

    Documents that retrieval leaves out of a query's ranking are not candidates. Raises UsageError if no query
    of the split has a relevant document.
    """
    with store.snapshot():
        collection = Collection.load(store, split, queries, seed)
        texts, copies = without_copies(collection)
        return RerankingTask(task_of(store, texts, copies), texts, depth)


def _candidates(bm25: Bm25, task: RetrievalTask, chunk: range, depth: int, wanted: int) -> tuple[Ints, Ints]:
    """Returns the best `depth` documents of a chunk's queries, without those that are left out."""
    hits = bm25.search(chunk, wanted)
    query, doc = hits.query.astype(np.int64), hits.doc.astype(np.int64)
    hidden = pair_keys(task.judgments.unranked.query, task.judgments.unranked.doc)
    shown = ~np.isin(pair_keys(query, doc), hidden)
    query, doc = query[shown], doc[shown]
    first = np.arange(len(query)) - np.searchsorted(query, query) < depth
    return query[first], doc[first]


def rerank(
    store: Database, reranker: AnyReranker, task: RerankingTask, known: pa.Table, progress: Progress = SILENT
) -> Evaluation:
    """Scores the candidates and returns the measures.

    Pairs whose score is in `known` (`known_scores`) are not scored again. New scores are added to
    the store after each chunk. If another process writes to it, they are added later or not at all.
    """
    require_same_model(store.vectors, reranker, progress)
    judgments, pairs = task.retrieval.judgments, task.candidates
    query_ids, doc_ids = pa.array(judgments.query_ids), judgments.doc_ids
    scores = np.full(len(pairs.query), np.nan)
    truncated = reranker.truncated
    kept = _Kept(store, reranker.fingerprint, progress)
    located, rows = QueryPairs.locate(known, query_ids, doc_ids)
    missing = ~_filled(scores, pairs, located, known["score"].to_numpy()[rows])

    def score(chunk: Ints) -> tuple[Ints, Scores]:
        """Returns a chunk of the pairs, and their scores."""
        queries = [task.retrieval.queries[i] for i in pairs.query[chunk]]
        documents = task.collection.texts_of(pairs.doc[chunk]).to_pylist()
        return chunk, scores_of(reranker, queries, documents, progress=progress)

    for chunk, found in in_order(
        score, _chunks(missing, task.lengths), progress, None if in_workers(reranker) else 1
    ):
        scores[chunk] = found
        ids = {"query_id": query_ids.take(pa.array(pairs.query[chunk]))}
        ids["doc_id"] = doc_ids.take(pa.array(pairs.doc[chunk]))
        kept.add(pa.table({**ids, "score": scores[chunk]}))
    kept.finish()
    if reranker.truncated > truncated:
        longer = counted(reranker.truncated - truncated, "pair is", "pairs are")
        progress.note(f"{reranker.name}: {longer} longer than the model reads")
    return task.measure(scores)


class _Kept:
    """Adds scores to the store whenever no other process writes to it."""

    def __init__(self, store: Database, reranker: str, progress: Progress) -> None:
        self._store, self._reranker, self._progress = store, reranker, progress
        self._waiting: list[pa.Table] = []

    def add(self, scores: pa.Table) -> None:
        """Adds scores, and those that could not be added before."""
        self._waiting.append(scores)
        with suppress(StoreError):
            self._keep(wait=_WAIT)

    def finish(self) -> None:
        """Adds the remaining scores, or notes that they are lost."""
        try:
            self._keep(wait=_LAST_WAIT)
        except StoreError as error:
            left = sum(table.num_rows for table in self._waiting)
            self._progress.note(f"{error.message}; {counted(left, 'score was', 'scores were')} not kept")

    def _keep(self, wait: float) -> None:
        if not self._waiting:
            return
        if self._store.read_only:
            self._store.release()
            with Database.open(self._store.path, wait=wait, note=self._store.note) as writer:
                keep_scores(writer, self._reranker, pa.concat_tables(self._waiting))
        else:
            keep_scores(self._store, self._reranker, pa.concat_tables(self._waiting))
        self._waiting = []


def _filled(scores: Floats, pairs: QueryPairs, known: QueryPairs, values: Floats) -> npt.NDArray[np.bool_]:
    """Copies the known scores, NaN included, into `scores`; returns which pairs are known."""
    wanted, have = pair_keys(pairs.query, pairs.doc), pair_keys(known.query, known.doc)
    if not len(have):
        return np.zeros(len(wanted), dtype=np.bool_)
    order = np.argsort(have)
    position = np.minimum(np.searchsorted(have[order], wanted), len(have) - 1)
    same: npt.NDArray[np.bool_] = have[order][position] == wanted
    scores[same] = values[order][position[same]]
    return same


def _chunks(missing: npt.NDArray[np.bool_], lengths: Ints) -> Iterator[Ints]:
    """Yields chunks of the missing pairs, shortest first, so that batches hold pairs of similar length."""
    rows = np.flatnonzero(missing)
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]
