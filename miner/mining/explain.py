"""Explaining a run: the verdict and the reason of every candidate of one query."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from miner.errors import UsageError, listed, shown
from miner.reporting.readable import Readable
from miner.store import corpus
from miner.store.corpus import splits_with_positives
from miner.store.database import Store
from miner.store.runs import Run, find_run
from miner.store.verdicts import candidates_of_query, positives_of_query


@dataclass(frozen=True, repr=False)
class Explanation(Readable):
    """One query in one run."""

    run: Run
    query_id: str
    query: str
    positives: pa.Table
    """doc_id, bm25_score, dense_score, rerank_score, text."""
    candidates: pa.Table
    """slot, verdict, reason, doc_id, ranks and scores, text; selected candidates first."""


def explain(store: Store, query_id: str, run: str | None = None) -> Explanation:
    """Returns everything that a run (default: the last) stores about a query.

    Raises StoreError for an unknown query, UsageError for an unknown run or one without the query.
    """
    text = corpus.require_query(store, query_id)
    in_run = find_run(store, run)
    positives = positives_of_query(store, in_run, query_id)
    if not positives.num_rows:
        splits = listed(splits_with_positives(store, query_id))
        where = f"its positives are in split {splits}" if splits else "it has no judged positive"
        raise UsageError(
            f"query '{shown(query_id)}' is not in run '{in_run.name}' of split {in_run.split}: {where}",
            "a run has the queries with positives in its split, or a sample of them with --queries",
        )
    return Explanation(in_run, query_id, text, positives, candidates_of_query(store, in_run, query_id))
