"""Reranking: does the cross-encoder put the relevant ones of BM25's candidates first?"""

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
from miner.errors import StoreError, counted
from miner.evaluation.ranking import Ints, QueryPairs
from miner.evaluation.result import Evaluation, Floats, from_values
from miner.evaluation.retrieval import RetrievalTask, distinct, task_of
from miner.models.constant import same_score
from miner.models.reranker import Reranker
from miner.retrieval.bm25 import Bm25
from miner.retrieval.config import Bm25Config
from miner.retrieval.search import chunk_ranges
from miner.store import evidence as evaluating
from miner.store.database import Store

_BRIEFLY, _AT_LAST = 0.5, 5.0
"""Seconds to wait for a process that writes to the store: after a chunk, and at the end."""
MEASURES = ("nDCG@10", "MRR@10", "MAP")
_CHUNK = 4096
"""Pairs between two commits: what a kill can cost."""


@dataclass(frozen=True)
class RerankingTask:
    """The candidates of each query, by position in `retrieval`, and what is relevant; in memory."""

    retrieval: RetrievalTask
    collection: Collection
    depth: int

    @cached_property
    def candidates(self) -> QueryPairs:
        """Each query's `depth` best documents by BM25, ordered by query, then rank."""
        bm25 = Bm25(self.collection, Bm25Config())
        most = int(np.bincount(self.retrieval.judgments.unranked.query, minlength=1).max())
        found = [
            _candidates(bm25, self.retrieval, chunk, self.depth, self.depth + most)
            for chunk in chunk_ranges(self.collection)
        ]
        query, doc = (np.concatenate(side).astype(np.int64) for side in zip(*found, strict=True))
        return QueryPairs(query, doc)

    def measure(self, scores: Floats) -> Evaluation:
        """Returns nDCG@10, MRR@10 and MAP of the candidates ordered by `scores`, one for each.

        Ties go to the smaller text_key. A relevant document that is no candidate counts as missed, and so
        does a candidate without a finite score, which is not ranked.
        """
        judgments = self.retrieval.judgments
        order = np.lexsort((self.candidates.doc, -scores, self.candidates.query))
        order = order[np.isfinite(scores[order])]
        cuts = np.searchsorted(self.candidates.query[order], np.arange(1, len(judgments.query_ids)))
        values = judgments.values(np.split(self.candidates.doc[order], cuts), MEASURES)
        gaps = {"candidates": len(scores) - len(order)}
        found = from_values("reranking", judgments.query_ids, values, len(judgments.doc_ids), unscored=gaps)
        finite = scores[order]
        extremes = (float(finite.min()), float(finite.max())) if len(finite) else (None, None)
        constant = same_score(len(finite), *extremes)
        return replace(found, left_out=self.retrieval.left_out, constant=constant)

    @property
    def lengths(self) -> Ints:
        """The characters of each candidate's query and document together."""
        queries = np.array([len(text) for text in self.retrieval.queries])
        documents = np.array([len(text) for text in self.retrieval.documents])
        return np.asarray(queries[self.candidates.query] + documents[self.candidates.doc])


def reranking_task(
    store: Store, split: str, depth: int = 100, queries: int | None = None, seed: int = 13
) -> RerankingTask:
    """Reads what `retrieval_task` reads; candidates are each query's `depth` best documents by BM25.

    What is not ranked in retrieval is no candidate. Raises UsageError when no query of the split
    has a relevant document.
    """
    with store.snapshot():
        collection = Collection.load(store, split, queries, seed)
        task = task_of(store, collection)
    return RerankingTask(task, distinct(collection), depth)


def _candidates(bm25: Bm25, task: RetrievalTask, chunk: range, depth: int, wanted: int) -> tuple[Ints, Ints]:
    """The best `depth` documents of a chunk's queries, without what is not ranked."""
    hits = bm25.search(chunk, wanted)
    query, doc = hits.query.astype(np.int64), hits.doc.astype(np.int64)
    hidden = pair_keys(task.judgments.unranked.query, task.judgments.unranked.doc)
    shown = ~np.isin(pair_keys(query, doc), hidden)
    query, doc = query[shown], doc[shown]
    first = np.arange(len(query)) - np.searchsorted(query, query) < depth
    return query[first], doc[first]


def rerank(
    store: Store, reranker: Reranker, task: RerankingTask, known: pa.Table, progress: Progress = SILENT
) -> Evaluation:
    """Scores the candidates and measures; pairs of `known` (`evaluating.known_scores`) are not scored again.

    New scores are kept in the store, a chunk at a time; where another process writes to it, later or not.
    """
    judgments, pairs = task.retrieval.judgments, task.candidates
    query_ids, doc_ids = pa.array(judgments.query_ids), pa.array(judgments.doc_ids)
    scores = np.full(len(pairs.query), np.nan)
    cut = reranker.truncated
    kept = _Kept(store, reranker.fingerprint, progress)
    located, rows = QueryPairs.locate(known, query_ids, doc_ids)
    missing = ~_filled(scores, pairs, located, known["score"].to_numpy()[rows])
    for chunk in _chunks(missing, task.lengths):
        queries = [task.retrieval.queries[i] for i in pairs.query[chunk]]
        documents = [task.retrieval.documents[i] for i in pairs.doc[chunk]]
        scores[chunk] = reranker.score(queries, documents, progress=progress)
        ids = {"query_id": query_ids.take(pa.array(pairs.query[chunk]))}
        ids["doc_id"] = doc_ids.take(pa.array(pairs.doc[chunk]))
        kept.add(pa.table({**ids, "score": scores[chunk]}))
    kept.finish()
    if reranker.truncated > cut:
        longer = counted(reranker.truncated - cut, "pair was", "pairs were")
        progress.note(f"{reranker.name}: {longer} longer than it reads")
    return task.measure(scores)


class _Kept:
    """The scores that go into the store whenever nobody else writes to it."""

    def __init__(self, store: Store, reranker: str, progress: Progress) -> None:
        self._store, self._reranker, self._progress = store, reranker, progress
        self._waiting: list[pa.Table] = []

    def add(self, scores: pa.Table) -> None:
        """Keeps scores, and those that could not be kept before."""
        self._waiting.append(scores)
        with suppress(StoreError):
            self._keep(wait=_BRIEFLY)

    def finish(self) -> None:
        """Keeps what is left, or notes that it is not kept."""
        try:
            self._keep(wait=_AT_LAST)
        except StoreError as error:
            left = sum(table.num_rows for table in self._waiting)
            self._progress.note(f"{error.message}; so {counted(left, 'score is', 'scores are')} not kept")

    def _keep(self, wait: float) -> None:
        if not self._waiting:
            return
        if self._store.read_only:
            self._store.release()
            with Store.open(self._store.path, wait=wait, note=self._store.note) as writer:
                evaluating.keep_scores(writer, self._reranker, pa.concat_tables(self._waiting))
        else:
            evaluating.keep_scores(self._store, self._reranker, pa.concat_tables(self._waiting))
        self._waiting = []


def _filled(scores: Floats, pairs: QueryPairs, known: QueryPairs, values: Floats) -> npt.NDArray[np.bool_]:
    """Writes the scores of the pairs that are known, NaN among them, and returns which these are."""
    wanted, have = pair_keys(pairs.query, pairs.doc), pair_keys(known.query, known.doc)
    if not len(have):
        return np.zeros(len(wanted), dtype=np.bool_)
    order = np.argsort(have)
    place = np.minimum(np.searchsorted(have[order], wanted), len(have) - 1)
    same: npt.NDArray[np.bool_] = have[order][place] == wanted
    scores[same] = values[order][place[same]]
    return same


def _chunks(missing: npt.NDArray[np.bool_], lengths: Ints) -> Iterator[Ints]:
    """Chunks of the missing pairs, shortest first: batches of like lengths."""
    rows = np.flatnonzero(missing)
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]
