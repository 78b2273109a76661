"""The scores of rerankers, which all runs of a store share: the table rerank_scores."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from miner.store.database import Database


def reranked(store: Database, reranker: str) -> pa.Table:
    """Returns the pairs that a reranker has scored: query_id, doc_id."""
    return store.table("SELECT query_id, doc_id FROM rerank_scores WHERE reranker = ?", [reranker])


def known_scores(store: Database, reranker: str) -> pa.Table:
    """Returns all scores of a reranker: query_id, doc_id, score."""
    return store.table(
        """SELECT query_id, doc_id, any_value(score) AS score FROM rerank_scores
        WHERE reranker = ? GROUP BY ALL""",
        [reranker],
    )


def known_scores_of(store: Database, reranker: str, pairs: pa.Table) -> npt.NDArray[np.float64]:
    """Returns a reranker's score of each pair (query_id, doc_id), in order; NaN without one.

    Reads no other scores into memory.
    """
    numbered = pairs.append_column("row", pa.array(np.arange(pairs.num_rows)))
    found = store.table(
        """SELECT row, any_value(score) AS score FROM wanted JOIN rerank_scores USING (query_id, doc_id)
        WHERE reranker = ? GROUP BY row""",
        [reranker],
        wanted=numbered,
    )
    scores = np.full(pairs.num_rows, np.nan)
    scores[found["row"].to_numpy()] = found["score"].to_numpy()
    return scores


def keep_scores(store: Database, reranker: str, scores: pa.Table) -> None:
    """Adds a reranker's scores (query_id, doc_id, score), which all runs share."""
    with store.transaction():
        store.insert("rerank_scores", scores, reranker=reranker)
