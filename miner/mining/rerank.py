"""Reranking: the cross-encoder's score of every candidate and positive, each pair once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from miner.engine.progress import SILENT, Progress
from miner.engine.work import run_stage
from miner.retrieval.arrays import pair_keys, split_pairs
from miner.retrieval.collection import Collection, Ints
from miner.retrieval.search import positions
from miner.store import evidence as stored
from miner.store.database import Store
from miner.store.ledger import Stage

if TYPE_CHECKING:
    from miner.models.reranker import Reranker

CHUNK = 4096
"""Pairs between two commits."""


@dataclass(frozen=True)
class Pairs:
    """Pairs to be scored, shortest first, by position."""

    query: Ints
    doc: Ints


def rerank(
    store: Store,
    reranker: Reranker,
    collection: Collection,
    evidence: str,
    depth: int | None,
    *,
    workers: int | None = None,
    progress: Progress = SILENT,
) -> None:
    """Scores the evidence's candidates, down to a fused rank, and its positives.

    Adds to `rerank_scores`; a pair that the reranker has scored before is not scored again.
    """
    work = _Work(store, reranker, collection, evidence, depth)
    stage = Stage(
        "rerank",
        {"evidence": evidence, "reranker": reranker.fingerprint, "depth": depth, "chunk": CHUNK},
        -(-len(work.pairs.query) // CHUNK),
    )

    def compute(chunk: int) -> dict[str, pa.Table]:
        """Returns the scores of a chunk's new pairs."""
        cut = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
        query, doc = work.pairs.query[cut], work.pairs.doc[cut]
        new = ~np.isin(pair_keys(query, doc), work.known)
        return {"rerank_scores": _score(reranker, collection, query[new], doc[new], workers)}

    run_stage(store, stage, compute, progress, reranker=reranker.fingerprint)


@dataclass(frozen=True)
class _Work:
    store: Store
    reranker: Reranker
    collection: Collection
    evidence: str
    depth: int | None

    @cached_property
    def pairs(self) -> Pairs:
        """Every pair once, by length of its texts, then position: batches of like lengths."""
        candidates = stored.candidates_to_rerank(self.store, self.evidence, self.depth)
        positives = stored.positive_pairs(self.store, self.evidence)
        query, doc = self._positions(pa.concat_tables([candidates, positives]))
        unique = np.unique(pair_keys(query, doc))
        query, doc = split_pairs(unique)
        length = _lengths(self.collection.queries)[query] + _lengths(self.collection.documents)[doc]
        order = np.argsort(length, kind="stable")
        return Pairs(query[order], doc[order])

    @cached_property
    def known(self) -> npt.NDArray[np.int64]:
        """The pairs that the reranker scored before this stage began to compute."""
        return pair_keys(*self._positions(stored.reranked(self.store, self.reranker.fingerprint)))

    def _positions(self, table: pa.Table) -> tuple[Ints, Ints]:
        query = positions(table["query_id"], self.collection.query_ids)
        doc = positions(table["doc_id"], self.collection.doc_ids)
        inside = (query >= 0) & (doc >= 0)
        return query[inside], doc[inside]


def _lengths(table: pa.Table) -> npt.NDArray[np.int64]:
    lengths: npt.NDArray[np.int64] = pc.utf8_length(table["text"]).to_numpy().astype(np.int64)
    return lengths


def _score(
    reranker: Reranker, collection: Collection, query: Ints, doc: Ints, workers: int | None
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
