"""What a bench trains on: the pairs of a run, and negatives for them from its evidence."""

from __future__ import annotations

import pyarrow as pa

from miner.store.database import Store
from miner.store.runs import Run

RETRIEVERS = ("bm25", "dense")


def best_ranked(store: Store, run: Run, retriever: str, depth: int) -> pa.Table:
    """Returns each query's best candidates of one retriever, whatever the rules said of them.

    Columns query_id and negative_ids, a list of at most `depth`, the best rank first; ordered. What
    is no negative whatever the scores say (known positives, their copies, the query) is not among
    them.
    """
    if retriever not in RETRIEVERS:
        raise ValueError(retriever)
    rank = f"{retriever}_rank"
    return store.table(
        f"""SELECT query_id, list(doc_id ORDER BY {rank}, doc_id) AS negative_ids FROM (
            SELECT query_id, doc_id, {rank} FROM candidates
            WHERE evidence = $evidence AND exclusion IS NULL AND {rank} IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY query_id ORDER BY {rank}, doc_id) <= $depth)
        GROUP BY query_id ORDER BY query_id""",
        {"evidence": run.evidence, "depth": depth},
    )
