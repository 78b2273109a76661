"""What became of one query's candidates."""

from __future__ import annotations

import pyarrow as pa

from miner.store.corpus import GOLD
from miner.store.database import Store
from miner.store.runs import Run


def verdicts(store: Store, run: Run, query_id: str) -> pa.Table:
    """Returns a query's candidates in one run, the selected first, with texts, ranks, scores, reasons."""
    return store.table(
        """SELECT v.slot, v.verdict::VARCHAR AS verdict, v.reason::VARCHAR AS reason, v.doc_id,
            v.bm25_rank, v.bm25_score, v.dense_rank, v.dense_score, v.rerank_score, d.text
        FROM verdicts v JOIN documents d USING (doc_id)
        WHERE v.run = ? AND v.query_id = ?
        ORDER BY v.slot NULLS LAST, v.verdict = 'dropped', v.fused_rank""",
        [run.name, query_id],
    )


def positives(store: Store, run: Run, query_id: str) -> pa.Table:
    """Returns a query's judged positives with their scores in one run's evidence."""
    return store.table(
        """SELECT p.doc_id, p.bm25_score, p.dense_score, s.score AS rerank_score, d.text
        FROM positives p JOIN documents d USING (doc_id)
        LEFT JOIN rerank_scores s ON s.reranker = ? AND s.query_id = p.query_id AND s.doc_id = p.doc_id
        WHERE p.evidence = ? AND p.query_id = ? ORDER BY p.doc_id""",
        [run.reranker, run.evidence, query_id],
    )


def splits_with_positives(store: Store, query_id: str) -> list[str]:
    """Returns the splits in which a query has a judged positive, in order."""
    rows = store.rows(
        f"SELECT DISTINCT split FROM {GOLD} WHERE query_id = ? AND relevance > 0 ORDER BY split", [query_id]
    )
    return [split for (split,) in rows]


def example_query(store: Store, run: Run) -> str | None:
    """Returns a query that shows the most: all its negatives found, and candidates dropped by a rule.

    The rules' drops of unjudged documents count, the hardest first; None if no query has both.
    """
    found = store.rows(
        """SELECT query_id FROM verdicts WHERE run = ?
        GROUP BY query_id
        HAVING count(slot) >= ? AND count(*) FILTER (reason IN (
            'max_score', 'absolute_margin', 'relative_margin', 'percentile', 'relative_percentile')) >= 2
        ORDER BY max(rerank_score) FILTER (verdict = 'dropped' AND reason <> 'judged_positive') DESC,
            query_id LIMIT 1""",
        [run.name, min(3, run.negatives)],
    )
    return found[0][0] if found else None


def easy_negative(store: Store, run: Run, query_id: str) -> str:
    """Returns the text of a document that no retriever found for the query: what random negatives are."""
    ((text,),) = store.rows(
        """SELECT text FROM documents d
        WHERE NOT EXISTS (FROM candidates c
            WHERE c.evidence = ? AND c.query_id = ? AND c.doc_id = d.doc_id)
        AND NOT EXISTS (FROM judgments j WHERE j.query_id = ? AND j.doc_id = d.doc_id)
        ORDER BY md5(doc_id || ?) LIMIT 1""",
        [run.evidence, query_id, query_id, query_id],
    )
    return str(text)
